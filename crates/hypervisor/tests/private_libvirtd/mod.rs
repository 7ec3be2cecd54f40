//! A libvirtd of the test's own: its own network namespace, its own directories, nothing shared with the host's.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use nix::sched::{CloneFlags, setns};
use understudy_hypervisor::{
    Hypervisor,
    libvirt::{Config, LibvirtHypervisor},
};
use understudy_ids::{DiskName, MachineName};

use crate::conformance::Bench;

const QEMU_CONF: &str = r#"
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
remember_owner = 0
dynamic_ownership = 0
stdio_handler = "file"
"#;

/// Mounts private directories over libvirt's own, then becomes libvirtd. `$1` is the test's directory.
const LAUNCH: &str = r#"
set -e
for pair in etc:/etc/libvirt run:/run/libvirt lib:/var/lib/libvirt cache:/var/cache/libvirt; do
    mkdir -p "${pair#*:}"
    mount --bind "$1/${pair%%:*}" "${pair#*:}"
done
exec libvirtd -f /etc/libvirt/libvirtd.conf -p "$1/libvirtd.pid"
"#;

pub struct PrivateLibvirtd {
    root: tempfile::TempDir,
    pub namespace: String,
    daemon: Option<Child>,
    pub driver: LibvirtHypervisor,
}

/// Runs a test inside a fresh private host, or fails saying what is missing. `UNDERSTUDY_NO_LIBVIRT_TESTS=1` skips it.
pub fn with_libvirtd<F>(name: &'static str, test: impl FnOnce(PrivateLibvirtd) -> F + Send + 'static)
where
    F: Future<Output = ()>,
{
    if std::env::var_os("UNDERSTUDY_NO_LIBVIRT_TESTS").is_some_and(|value| value == "1") {
        eprintln!("skipped, because UNDERSTUDY_NO_LIBVIRT_TESTS=1");
        return;
    }
    assert!(
        nix::unistd::geteuid().is_root(),
        "libvirt tests need root; UNDERSTUDY_NO_LIBVIRT_TESTS=1 skips them"
    );
    let needed = [
        "libvirtd",
        "virsh",
        "qemu-img",
        "qemu-storage-daemon",
        "qemu-system-x86_64",
        "dnsmasq",
        "ip",
        "ethtool",
    ];
    for program in needed {
        let found = Command::new("which").arg(program).stdout(Stdio::null()).status().unwrap().success();
        assert!(found, "libvirt tests need {program}; UNDERSTUDY_NO_LIBVIRT_TESTS=1 skips them");
    }
    // A thread, because it enters the namespace for good; the runtime's threads are made by it and are inside as well.
    let thread = std::thread::spawn(move || {
        let host = PrivateLibvirtd::start(name);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(test(host));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

impl PrivateLibvirtd {
    fn start(name: &str) -> Self {
        let root = tempfile::Builder::new().prefix("hvt-").tempdir_in("/tmp").unwrap();
        for dir in ["etc", "run", "lib", "cache", "disks"] {
            fs::create_dir(root.path().join(dir)).unwrap();
        }
        fs::write(root.path().join("etc/qemu.conf"), QEMU_CONF).unwrap();
        let socket_dir = root.path().join("run").display().to_string();
        let configuration = format!("auth_unix_rw = \"none\"\nunix_sock_dir = \"{socket_dir}\"\n");
        fs::write(root.path().join("etc/libvirtd.conf"), configuration).unwrap();
        let namespace = format!("hvt-{name}-{}", std::process::id());
        run("ip", &["netns", "add", &namespace]);
        run("ip", &["-n", &namespace, "link", "set", "lo", "up"]);
        let file = File::open(Path::new("/run/netns").join(&namespace)).unwrap();
        setns(file, CloneFlags::CLONE_NEWNET).unwrap();

        let uri = format!("qemu:///system?socket={socket_dir}/libvirt-sock");
        let mut config = Config::new(uri, root.path().join("state"), root.path().join("console"));
        config.thaw_guard = Some(env!("CARGO_BIN_EXE_understudy-hypervisor-guard").into());
        let mut host = Self { root, namespace, daemon: None, driver: LibvirtHypervisor::new(config) };
        host.start_daemon();
        host
    }

    pub fn start_daemon(&mut self) {
        let log = File::create(self.path("libvirtd.log")).unwrap();
        let daemon = Command::new("unshare")
            .args(["-m", "--propagation", "slave", "sh", "-c", LAUNCH, "sh"])
            .arg(self.root.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.daemon = Some(daemon.unwrap());
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.virsh(&["version"]).0 {
            assert!(
                Instant::now() < deadline,
                "libvirtd: {}",
                fs::read_to_string(self.path("libvirtd.log")).unwrap()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn kill_daemon(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Whether it succeeded, and what it printed.
    pub fn virsh(&self, arguments: &[&str]) -> (bool, String) {
        let uri = format!("qemu:///system?socket={}", self.path("run/libvirt-sock").display());
        let output = Command::new("virsh").args(["-q", "-c", &uri]).args(arguments).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// A second agent process, as far as the driver can tell.
    pub fn another_driver(&self) -> LibvirtHypervisor {
        let uri = format!("qemu:///system?socket={}", self.path("run/libvirt-sock").display());
        LibvirtHypervisor::new(Config::new(uri, self.path("state"), self.path("console")))
    }
}

impl Drop for PrivateLibvirtd {
    fn drop(&mut self) {
        for machine in self.virsh(&["list", "--name"]).1.lines().filter(|line| !line.trim().is_empty()) {
            self.virsh(&["destroy", machine.trim()]);
        }
        self.kill_daemon();
        let _ = Command::new("ip").args(["netns", "delete", &self.namespace]).status();
        self.remove_service_namespaces();
        self.end_disk_servers();
    }
}

impl PrivateLibvirtd {
    /// Those of a test that failed half way.
    fn end_disk_servers(&self) {
        for snapshot in fs::read_dir(self.path("state/snapshots")).into_iter().flatten().flatten() {
            if let Ok(pid) = fs::read_to_string(snapshot.path().join("server.pid")) {
                let _ = Command::new("kill").arg(pid.trim()).status();
            }
        }
    }

    /// Those of a test that failed half way: their names end with what stands for our state directory.
    fn remove_service_namespaces(&self) {
        let hint = self.driver.jump_hint(&"x".parse().unwrap());
        let suffix = &hint[hint.len() - 9..];
        for name in run("ip", &["netns", "list"]).split_whitespace().filter(|name| name.ends_with(suffix)) {
            for pid in run("ip", &["netns", "pids", name]).split_whitespace() {
                let _ = Command::new("kill").arg(pid).status();
            }
            let _ = Command::new("ip").args(["netns", "delete", name]).status();
        }
    }
}

#[async_trait]
impl Bench for PrivateLibvirtd {
    fn hypervisor(&self) -> &dyn Hypervisor {
        &self.driver
    }

    async fn disk_file(&self, name: &str, size: u64) -> PathBuf {
        let file = self.path("disks").join(format!("{name}.qcow2"));
        run("qemu-img", &["create", "-q", "-f", "qcow2", file.to_str().unwrap(), &size.to_string()]);
        file
    }

    fn is_held(&self, machine: &MachineName) -> bool {
        self.virsh(&["domstate", machine.as_str()]).1.trim() == "paused"
    }

    /// There is no system in these machines, and no agent.
    async fn silence_guest_agent(&self, _machine: &MachineName) {}

    /// QEMU itself writes, by the same path that a guest's write takes from the device on.
    async fn guest_write(&self, machine: &MachineName, disk: &DiskName, offset: u64, byte: u8) {
        let index = disk.as_str().bytes().next_back().unwrap() - b'a';
        let device = format!("/machine/peripheral/virtio-disk{index}/virtio-backend");
        for action in [format!("write -P {byte} {offset} 64k"), "flush".to_owned()] {
            let command = format!("qemu-io -d {device} \"{action}\"");
            let (ok, text) = self.virsh(&["qemu-monitor-command", machine.as_str(), "--hmp", &command]);
            assert!(ok && !text.to_lowercase().contains("error"), "{text}");
        }
    }
}

pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    text
}
