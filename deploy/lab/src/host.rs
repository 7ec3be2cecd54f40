//! A hypervisor host: a namespace with its own libvirtd, its production network with a witness on it, and directories.
//!
//! ```text
//!   create ─▶ mgmt cable ─▶ libvirtd (private /etc, /run, /var) ─▶ network prod (autostart) ─▶ witness
//!   crash  ─▶ cable down, every process killed, bridges and /run gone      — as after a power failure
//!   boot   ─▶ cable up, libvirtd, prod by autostart, witness               — no machine starts by itself
//! ```
//!
//! The promise: production and management do not see each other (no forwarding), and what `crash` leaves is what a disk
//! would have kept.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::unistd::Pid;

use crate::{
    command,
    guest_image::ImageCache,
    machine::Machine,
    namespace::{Namespace, cable},
    probe::{GuestPage, guest_page, wait_until},
    process::{ManagedProcess, ProcessSpec, kill_all_in},
    topology::{HostName, LabId, PROD_BRIDGE, PROD_GATEWAY, PROD_NETWORK, RESERVATIONS, WITNESS},
};

const START_LIMIT: Duration = Duration::from_secs(30);
/// Puts the host's directories where libvirtd expects the machine's. `ip netns exec` has given the script a mount
/// namespace of its own, so nobody else sees it. Each QEMU becomes an orphan, and libvirt takes one for alive until its
/// foster parent has reaped it; where process 1 is slow at that, each stop of a machine would take seconds, so tini does it.
/// libvirtd dies with tini and gets the signals that are sent to it.
const LIBVIRTD_SCRIPT: &str = r#"set -e
for pair in etc:/etc/libvirt run:/run/libvirt lib:/var/lib/libvirt cache:/var/cache/libvirt log:/var/log/libvirt; do
    mkdir -p "${pair#*:}"
    mount --bind "$1/${pair%%:*}" "${pair#*:}"
done
exec tini -s -- setpriv --pdeathsig KILL libvirtd --pid-file "$1/run/libvirtd.pid""#;
const QEMU_CONF: &str = r#"user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
remember_owner = 0
dynamic_ownership = 0
stdio_handler = "file"
"#;

/// A host of one lab.
#[derive(Debug, Clone)]
pub struct Host {
    lab: LabId,
    name: HostName,
    directory: PathBuf,
}

impl Host {
    pub(crate) fn new(lab: &LabId, name: HostName, lab_directory: &Path) -> Self {
        Self { lab: lab.clone(), name, directory: lab_directory.join(name.name()) }
    }

    /// Which host it is.
    pub fn name(&self) -> HostName {
        self.name
    }

    /// Its network namespace.
    pub fn namespace(&self) -> Namespace {
        Namespace::of(&self.lab, self.name.name())
    }

    /// The namespace of the witness on its production network.
    pub fn witness(&self) -> Namespace {
        Namespace::of(&self.lab, self.name.witness())
    }

    /// A namespace of the same lab that belongs to this host.
    pub(crate) fn sibling(&self, short: &str) -> Namespace {
        Namespace::of(&self.lab, &format!("{}-{short}", self.name))
    }

    /// Disk images of its machines.
    pub fn images(&self) -> PathBuf {
        self.directory.join("images")
    }

    /// For the replica store of its agent.
    pub fn store(&self) -> PathBuf {
        self.directory.join("store")
    }

    /// For the state of its agent.
    pub fn agent_state(&self) -> PathBuf {
        self.directory.join("agent")
    }

    /// For media with first copies.
    pub fn media(&self) -> PathBuf {
        self.directory.join("media")
    }

    /// The library of scripts that its agent runs. Below the host's directory, so root's.
    pub fn scripts(&self) -> PathBuf {
        self.directory.join("scripts")
    }

    /// For keys and certificates.
    pub fn pki(&self) -> PathBuf {
        self.directory.join("pki")
    }

    /// Pidfiles and sockets.
    pub fn run_dir(&self) -> PathBuf {
        self.directory.join("run")
    }

    /// Logs, also the machines' serial consoles.
    pub fn logs(&self) -> PathBuf {
        self.directory.join("logs")
    }

    /// Where libvirtd looks for hooks, empty at first. It notices a hook only when it starts; see
    /// [`Host::restart_libvirtd`].
    pub fn hooks(&self) -> PathBuf {
        self.libvirt("etc/hooks")
    }

    /// How to reach its libvirtd, from any namespace.
    pub fn libvirt_uri(&self) -> String {
        format!("qemu:///system?socket={}", self.libvirt("run/libvirt-sock").display())
    }

    fn libvirt(&self, part: &str) -> PathBuf {
        self.directory.join("libvirt").join(part)
    }

    /// Runs `virsh` with these arguments against this host.
    ///
    /// # Errors
    /// When virsh fails; the error says what it printed.
    pub fn virsh<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        command::output(command::new("virsh").args(["-q", "-c", &self.libvirt_uri()]).args(args))
    }

    /// Makes namespace, directories, libvirtd and production network.
    pub(crate) fn create(&self, wan: &Namespace) -> Result<()> {
        for directory in [
            self.images(),
            self.store(),
            self.agent_state(),
            self.scripts(),
            self.pki(),
            self.run_dir(),
            self.logs(),
        ] {
            fs::create_dir_all(directory)?;
        }
        // Whatever this program's mask lets others do: an agent runs nothing from a directory that they can write to.
        fs::set_permissions(self.scripts(), Permissions::from_mode(0o755))?;
        for part in ["etc/hooks", "lib", "cache", "log"] {
            fs::create_dir_all(self.libvirt(part))?;
        }
        fs::write(self.libvirt("etc/qemu.conf"), QEMU_CONF)?;
        fs::write(self.libvirt("etc/libvirtd.conf"), libvirtd_conf(self.name))?;
        let namespace = self.namespace();
        namespace.create()?;
        cable((&namespace, "mgmt"), (wan, self.name.name()))?;
        wan.ip(&["link", "set", self.name.name(), "master", self.name.site().wan_bridge()])?;
        namespace.ip(&["address", "add", &format!("{}/24", self.name.address()), "dev", "mgmt"])?;
        self.start_libvirtd()?;
        self.define_network()?;
        self.create_witness()?;
        self.connect()
    }

    fn start_libvirtd(&self) -> Result<()> {
        fs::create_dir_all(self.libvirt("run"))?;
        let directory = self.directory.join("libvirt").display().to_string();
        let process = ManagedProcess::start(ProcessSpec::new(
            &self.lab,
            &self.namespace(),
            &self.directory,
            "libvirtd",
            "/bin/sh",
            ["-c", LIBVIRTD_SCRIPT, "libvirtd", &directory],
        ))?;
        process.wait_for("libvirtd to answer", START_LIMIT, || self.virsh(["version"]).map(Some)).map(drop)
    }

    /// Ends libvirtd and starts it again, as for a newly installed hook. Machines run on.
    ///
    /// # Errors
    /// When it does not end or does not come back.
    pub fn restart_libvirtd(&self) -> Result<()> {
        self.libvirtd()?.stop(START_LIMIT)?;
        self.start_libvirtd()
    }

    /// The process of libvirtd.
    ///
    /// # Errors
    /// When the host was never created.
    pub fn libvirtd(&self) -> Result<ManagedProcess> {
        ManagedProcess::attach(&self.run_dir(), "libvirtd")
    }

    fn define_network(&self) -> Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        fs::write(file.path(), network_xml())?;
        self.virsh([std::ffi::OsStr::new("net-define"), file.path().as_os_str()])?;
        self.virsh(["net-autostart", PROD_NETWORK])?;
        self.virsh(["net-start", PROD_NETWORK]).map(drop)
    }

    fn create_witness(&self) -> Result<()> {
        let (host, witness) = (self.namespace(), self.witness());
        witness.create()?;
        cable((&host, "witness"), (&witness, "prod"))?;
        witness.ip(&["address", "add", &format!("{WITNESS}/24"), "dev", "prod"])?;
        let site = self.directory.join("witness");
        fs::create_dir_all(&site)?;
        fs::write(site.join("index.html"), format!("witness of {}\n", self.name.site().name()))?;
        ManagedProcess::start(ProcessSpec::new(
            &self.lab,
            &witness,
            &self.directory,
            "witness",
            crate::guest_image::BUSYBOX,
            ["httpd", "-f", "-p", "80", "-h", &site.display().to_string()],
        ))
        .map(drop)
    }

    /// Plugs the cables in: management with its route, and the witness into the production bridge once libvirt has made it.
    fn connect(&self) -> Result<()> {
        let namespace = self.namespace();
        // Linux answers for each of its addresses on every interface; a machine that set a route by hand would reach the
        // management address through the bridge, without any forwarding.
        let address = self.name.address().to_string();
        for rule in [&["-i", "lo", "-j", "ACCEPT"][..], &["-d", &address, "!", "-i", "mgmt", "-j", "DROP"]] {
            command::output(namespace.command("iptables").args(["-w", "-A", "INPUT"]).args(rule))?;
        }
        namespace.ip(&["link", "set", "mgmt", "up"])?;
        namespace.ip(&["route", "replace", "default", "via", &self.name.site().router().to_string()])?;
        wait_until("the production network to start", START_LIMIT, || {
            namespace.ip(&["link", "set", "witness", "master", PROD_BRIDGE]).map(Some)
        })
        .map(drop)
    }

    /// The paths of a machine's disks on this host, in its order.
    pub fn disks(&self, machine: &Machine) -> Vec<PathBuf> {
        (0..machine.disks)
            .map(|index| self.images().join(format!("{}-{index}.qcow2", machine.name)))
            .collect()
    }

    /// Builds the machine's disks and defines its domain, without starting it.
    ///
    /// # Errors
    /// When a disk cannot be built or libvirt refuses.
    pub fn define(&self, machine: &Machine, cache: &ImageCache) -> Result<()> {
        let disks = self.disks(machine);
        cache.build(machine, &disks)?;
        let file = tempfile::NamedTempFile::new()?;
        let console = self.logs().join(format!("{}-console.log", machine.name));
        fs::write(file.path(), machine.domain(&disks, &console))?;
        self.virsh([std::ffi::OsStr::new("define"), file.path().as_os_str()]).map(drop)
    }

    /// Starts a defined machine.
    ///
    /// # Errors
    /// When libvirt refuses.
    pub fn start(&self, machine: &str) -> Result<()> {
        self.virsh(["start", machine]).map(drop)
    }

    /// Presses the machine's power button and waits until it is off; returns how long that took.
    ///
    /// # Errors
    /// When it is not off within `limit`.
    pub fn shut_down(&self, machine: &str, limit: Duration) -> Result<Duration> {
        self.virsh(["shutdown", machine, "--mode", "acpi"])?;
        let off = wait_until(&format!("{machine} to shut down"), limit, || {
            Ok((self.machine_state(machine)? == "shut off").then_some(()))
        })?;
        Ok(off.1)
    }

    /// The state of a domain in virsh's words, such as `running` or `shut off`.
    ///
    /// # Errors
    /// When there is no such domain or libvirtd does not answer.
    pub fn machine_state(&self, machine: &str) -> Result<String> {
        Ok(self.virsh(["domstate", machine])?.trim().to_owned())
    }

    /// Kills a machine's QEMU without warning and waits until libvirt has noticed.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_9_machine(&self, machine: &str) -> Result<()> {
        let file = self.libvirt("run/qemu").join(format!("{machine}.pid"));
        let pid =
            fs::read_to_string(&file).with_context(|| format!("{machine} does not run on {}", self.name))?;
        nix::sys::signal::kill(Pid::from_raw(pid.trim().parse()?), nix::sys::signal::Signal::SIGKILL)?;
        wait_until(&format!("libvirt to notice that {machine} died"), START_LIMIT, || {
            Ok((self.machine_state(machine)? == "shut off").then_some(()))
        })
        .map(drop)
    }

    /// Waits until the machine answers on the production network and has written a record in this boot; returns its page
    /// and how long that took.
    ///
    /// # Errors
    /// When `limit` passes.
    pub fn wait_answers(&self, machine: &Machine, limit: Duration) -> Result<(GuestPage, Duration)> {
        let address =
            machine.address().with_context(|| format!("{} has no reserved address", machine.name))?;
        let namespace = self.namespace();
        wait_until(&format!("{} to answer on {}", machine.name, self.name), limit, || {
            guest_page(&namespace, address, Duration::from_secs(1))
                .map(|page| (page.last > 0).then_some(page))
        })
    }

    /// Waits until the agent in the machine's guest answers.
    ///
    /// # Errors
    /// When it does not within half a minute.
    pub fn wait_guest_agent(&self, machine: &str) -> Result<()> {
        let ping = ["qemu-agent-command", machine, r#"{"execute":"guest-ping"}"#];
        wait_until(&format!("the agent in {machine} to answer"), START_LIMIT, || self.virsh(ping).map(Some))
            .map(drop)
    }

    /// The power fails: links go down, every process dies, and what was only in memory is gone.
    ///
    /// # Errors
    /// When something survives.
    pub fn crash(&self) -> Result<()> {
        let namespace = self.namespace();
        namespace.ip(&["link", "set", "mgmt", "down"])?;
        kill_all_in(namespace.name())?;
        let bridges = namespace.ip(&["-br", "link", "show", "type", "bridge"])?;
        for bridge in bridges.lines().filter_map(|line| line.split_whitespace().next()) {
            namespace.ip(&["link", "delete", bridge])?;
        }
        for table in ["filter", "nat", "mangle"] {
            command::output(namespace.command("iptables").args(["-w", "-t", table, "-F"]))?;
            command::output(namespace.command("iptables").args(["-w", "-t", table, "-X"]))?;
        }
        fs::remove_dir_all(self.libvirt("run")).map_err(Into::into)
    }

    /// The power comes back: links, libvirtd and the production network, but no machine.
    ///
    /// # Errors
    /// When libvirtd or the network does not come up.
    pub fn boot(&self) -> Result<()> {
        self.start_libvirtd()?;
        self.connect()
    }
}

fn libvirtd_conf(host: HostName) -> String {
    format!(
        "auth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\nlog_level = 3\nlog_outputs = \"3:stderr\"\nhost_uuid = \"{}\"\n",
        host.uuid()
    )
}

/// Isolated: libvirt forwards nothing to or from it, and its DHCP names no router.
fn network_xml() -> String {
    let hosts: String = RESERVATIONS
        .iter()
        .map(|known| {
            format!("      <host mac=\"{}\" name=\"{}\" ip=\"{}\"/>\n", known.mac, known.name, known.address)
        })
        .collect();
    format!(
        r#"<network>
  <name>{PROD_NETWORK}</name>
  <bridge name="{PROD_BRIDGE}" stp="off" delay="0"/>
  <ip address="{PROD_GATEWAY}" netmask="255.255.255.0">
    <dhcp>
      <range start="192.168.50.100" end="192.168.50.199"/>
{hosts}    </dhcp>
  </ip>
</network>
"#
    )
}
