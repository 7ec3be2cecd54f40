//! The programs that people copy and back up disks with, each as its own documentation would have it.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::{fs::FileExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use understudy_replication::{BLOCK_SIZE, RangeSet};

use crate::{
    delay, floor,
    image::Images,
    measure::Sample,
    place::{self, run},
};

/// A server that is ended when it is dropped.
pub struct Server(Child);

impl Server {
    /// Starts it and waits until somebody listens at `address`.
    fn listening(command: &mut Command, address: SocketAddr) -> anyhow::Result<Self> {
        let server = Self::start(command)?;
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            ensure!(begun.elapsed() < Duration::from_secs(10), "{command:?} does not listen at {address}");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }

    fn start(command: &mut Command) -> anyhow::Result<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Ok(Self(child.with_context(|| format!("{command:?} could not be started"))?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// A port of this namespace that nobody uses.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path that is text")
}

/// The file that peers write to: there already, with its size, so that it is written over in place.
pub fn target(dir: &Path, size: u64) -> anyhow::Result<PathBuf> {
    let path = dir.join("copy.img");
    let file = File::options().create(true).truncate(false).write(true).open(&path)?;
    file.set_len(size)?;
    Ok(path)
}

/// The floor, from start to end of both processes.
pub fn floor(
    pki: &Path,
    source: &Path,
    target: &Path,
    ranges: &RangeSet,
    durable: bool,
    compare: bool,
) -> anyhow::Result<Sample> {
    let size = fs::metadata(source)?.len();
    let list = target.with_extension("ranges");
    floor::write_ranges(&list, ranges.iter())?;
    let address = free_address()?.to_string();
    let (list, size) = (text(&list)?.to_owned(), size.to_string());
    Sample::of(|| {
        let mut words = vec!["floor-receive", &address, text(pki)?, text(target)?, &size];
        words.extend(durable.then_some("--durable"));
        if compare {
            words.extend(["--compare", &list]);
        }
        let mut receiver = place::part(&words).stdout(Stdio::piped()).spawn()?;
        let mut ready = String::new();
        BufReader::new(receiver.stdout.take().context("stdout")?).read_line(&mut ready)?;
        let mut words = vec!["floor-send", &address, text(pki)?, text(source)?, &list];
        words.extend(compare.then_some("--compare"));
        run(&mut place::part(&words))?;
        ensure!(receiver.wait()?.success(), "the receiver failed");
        Ok(())
    })
}

/// `nbdcopy` to `qemu-nbd`, plain.
pub fn nbdcopy_to_qemu_nbd(source: &Path, target: &Path) -> anyhow::Result<Sample> {
    let address = free_address()?;
    let port = address.port().to_string();
    let mut command = Command::new("qemu-nbd");
    command.args(["-f", "raw", "-b", "127.0.0.1", "-p", &port, "-e", "8", "-t", "--"]).arg(target);
    copied_to(&mut command, address, source, &format!("nbd://127.0.0.1:{port}/"))
}

/// `nbdcopy` to `nbdkit`, plain.
pub fn nbdcopy_to_nbdkit(source: &Path, target: &Path) -> anyhow::Result<Sample> {
    let address = free_address()?;
    let port = address.port().to_string();
    let mut command = Command::new("nbdkit");
    command.args(["-f", "-i", "127.0.0.1", "-p", &port, "file"]).arg(target);
    copied_to(&mut command, address, source, &format!("nbd://127.0.0.1:{port}/"))
}

/// `nbdcopy` to `nbdkit` over TLS with certificates on both ends.
pub fn nbdcopy_over_tls(pki: &Path, source: &Path, target: &Path) -> anyhow::Result<Sample> {
    let dir = pki.join("nbd");
    fs::create_dir_all(&dir)?;
    for (from, to) in [
        ("ca.pem", "ca-cert.pem"),
        ("bench.pem", "server-cert.pem"),
        ("bench.key", "server-key.pem"),
        ("bench.pem", "client-cert.pem"),
        ("bench.key", "client-key.pem"),
    ] {
        fs::copy(pki.join(from), dir.join(to))?;
    }
    let address = free_address()?;
    let port = address.port().to_string();
    let mut command = Command::new("nbdkit");
    command.args(["-f", "-i", "127.0.0.1", "-p", &port, "--tls=require", "--tls-verify-peer"]);
    command.arg(format!("--tls-certificates={}", dir.display())).arg("file").arg(target);
    let uri = format!("nbds://127.0.0.1:{port}/?tls-certificates={}", dir.display());
    copied_to(&mut command, address, source, &uri)
}

fn copied_to(server: &mut Command, address: SocketAddr, source: &Path, uri: &str) -> anyhow::Result<Sample> {
    let mut server = Some(Server::listening(server, address)?);
    let mut wall = Duration::ZERO;
    let sample = Sample::of(|| {
        let begun = Instant::now();
        run(Command::new("nbdcopy").arg("--").arg(source).arg(uri))?;
        wall = begun.elapsed();
        // Its CPU time counts once it has ended.
        server.take();
        Ok(())
    })?;
    Ok(Sample { wall, ..sample })
}

/// A daemon that takes files below a directory.
pub struct Rsync {
    _server: Server,
    address: SocketAddr,
}

impl Rsync {
    pub fn start(dir: &Path) -> anyhow::Result<Self> {
        let address = free_address()?;
        let config = dir.join("rsyncd.conf");
        let lines = format!(
            "use chroot = no\nuid = root\ngid = root\n[copy]\npath = {}\nread only = no\n",
            dir.display()
        );
        fs::write(&config, lines)?;
        let mut command = Command::new("rsync");
        command.args(["--daemon", "--no-detach", "--address=127.0.0.1"]);
        command.arg(format!("--port={}", address.port())).arg(format!("--config={}", config.display()));
        Ok(Self { _server: Server::listening(&mut command, address)?, address })
    }

    /// Onto `copy.img`, in place; `delta` compares first. The daemon's own CPU time is not known.
    pub fn copy(&self, source: &Path, delta: bool) -> anyhow::Result<Sample> {
        let to = format!("rsync://127.0.0.1:{}/copy/copy.img", self.address.port());
        let how = if delta { "--no-whole-file" } else { "--whole-file" };
        Sample::of(|| {
            run(Command::new("rsync").args(["--inplace", "--ignore-times", how, "--"]).arg(source).arg(&to))
        })
    }
}

/// `zstd -1 | nc | zstd -d`: what people put together by hand for a slow line, over one of this rate in bytes per second.
pub fn zstd_through_nc(source: &Path, target: &Path, rate: f64) -> anyhow::Result<Sample> {
    let address = free_address()?;
    let port = address.port().to_string();
    let near = delay::line(address, Duration::ZERO, Some(rate))?.port().to_string();
    Sample::of(|| {
        let mut take =
            Command::new("nc").args(["-l", "-N", "127.0.0.1", &port]).stdout(Stdio::piped()).spawn()?;
        let arriving = take.stdout.take().context("stdout")?;
        let mut unpack = Command::new("zstd");
        unpack.args(["-q", "-d", "-f", "--sparse", "-o"]).arg(target).stdin(arriving);
        let mut unpack = unpack.spawn()?;
        let mut pack =
            Command::new("zstd").args(["-q", "-1", "-c", "--"]).arg(source).stdout(Stdio::piped()).spawn()?;
        let packed = pack.stdout.take().context("stdout")?;
        // It may not listen yet.
        let mut give = loop {
            if listens(address.port())? {
                let mut give = Command::new("nc");
                break give.args(["-N", "127.0.0.1", &near]).stdin(packed).spawn()?;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        for child in [&mut pack, &mut give, &mut take, &mut unpack] {
            ensure!(child.wait()?.success(), "a part of the pipe failed");
        }
        Ok(())
    })
}

/// Whether a port is listened on, without connecting to it.
fn listens(port: u16) -> anyhow::Result<bool> {
    let wanted = format!(":{port:04X}");
    let table = fs::read_to_string("/proc/self/net/tcp")?;
    Ok(table.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(1).is_some_and(|local| local.ends_with(&wanted)) && fields.get(3) == Some(&"0A")
    }))
}

/// Bytes of the image as one `zstd -1` stream.
pub fn zstd_bytes(source: &Path, dir: &Path) -> anyhow::Result<u64> {
    let packed = dir.join("packed.zst");
    run(Command::new("zstd").args(["-q", "-1", "-f", "-o"]).arg(&packed).arg("--").arg(source))?;
    let bytes = fs::metadata(&packed)?.len();
    place::remove(&packed)?;
    Ok(bytes)
}

/// All of a disk in one qcow2 file without others below it.
pub fn flatten(disk: &Path, flat: &Path) -> anyhow::Result<()> {
    place::run(Command::new("qemu-img").args(["convert", "-O", "qcow2", "--"]).arg(disk).arg(flat))
}

/// All of a qcow2 file, read through QEMU and thrown away.
pub fn read_by_qemu(disk: &Path) -> anyhow::Result<Sample> {
    let mut copy = Command::new("nbdcopy");
    copy.args(["--", "[", "qemu-nbd", "-r", "-f", "qcow2"]).arg(disk).args(["]", "null:"]);
    Sample::of(|| place::run(&mut copy))
}

/// QEMU's own incremental backup: a bitmap that knows the changed blocks, to `qemu-nbd` on a unix socket.
pub struct QemuIncremental {
    _source: Server,
    _target: Server,
    qmp: BufReader<UnixStream>,
    jobs: u32,
}

impl QemuIncremental {
    pub fn start(dir: &Path, images: &Images, target: &Path) -> anyhow::Result<Self> {
        let socket = |name: &str| dir.join(name);
        let (qmp, source_nbd, target_nbd) = (socket("qmp"), socket("source"), socket("target"));
        for path in [&qmp, &source_nbd, &target_nbd] {
            place::remove(path)?;
        }
        let mut take = Command::new("qemu-nbd");
        take.args(["-f", "raw", "-e", "4", "-t", "-k"]).arg(&target_nbd).arg("--").arg(target);
        let take = Server::start(&mut take)?;
        let mut give = Command::new("qemu-storage-daemon");
        // Without its locks, because our agent reads the image as well. What is written is what is there already.
        let file = json!({ "driver": "file", "filename": images.variant, "locking": "off" });
        let node = json!({ "driver": "raw", "node-name": "disk", "file": file });
        give.arg("--blockdev").arg(node.to_string());
        give.arg("--chardev").arg(format!("socket,id=qmp,path={},server=on,wait=off", qmp.display()));
        give.args(["--monitor", "chardev=qmp"]);
        give.arg("--nbd-server").arg(format!("addr.type=unix,addr.path={}", source_nbd.display()));
        give.args(["--export", "type=nbd,id=disk,node-name=disk,name=disk,writable=on"]);
        let give = Server::start(&mut give)?;
        let stream = connect(&qmp)?;
        let mut this = Self { _source: give, _target: take, qmp: BufReader::new(stream), jobs: 0 };
        this.read()?;
        this.ask(json!({ "execute": "qmp_capabilities" }))?;
        let bitmap = json!({ "node": "disk", "name": "changed", "granularity": BLOCK_SIZE });
        this.ask(json!({ "execute": "block-dirty-bitmap-add", "arguments": bitmap }))?;
        rewrite(dir, &source_nbd, images)?;
        wait_for(&target_nbd)?;
        let addr = json!({ "type": "unix", "path": target_nbd });
        let node = json!({ "driver": "nbd", "node-name": "copy", "server": addr });
        this.ask(json!({ "execute": "blockdev-add", "arguments": node }))?;
        Ok(this)
    }

    /// Ships what the bitmap knows. Its CPU time is not known: the processes go on.
    pub fn cycle(&mut self) -> anyhow::Result<Sample> {
        self.jobs += 1;
        let id = format!("job{}", self.jobs);
        let begun = Instant::now();
        let job = json!({ "job-id": id, "device": "disk", "target": "copy", "sync": "bitmap",
                          "bitmap": "changed", "bitmap-mode": "never" });
        self.ask(json!({ "execute": "blockdev-backup", "arguments": job }))?;
        loop {
            let event = self.read()?;
            if event["event"] == "BLOCK_JOB_COMPLETED" {
                ensure!(event["data"]["error"].is_null(), "{event}");
                return Ok(Sample { wall: begun.elapsed(), ..Sample::default() });
            }
        }
    }

    fn ask(&mut self, asked: Value) -> anyhow::Result<()> {
        writeln!(self.qmp.get_mut(), "{asked}")?;
        loop {
            let answer = self.read()?;
            if answer.get("error").is_some() {
                bail!("{asked}: {answer}");
            }
            if answer.get("return").is_some() {
                return Ok(());
            }
        }
    }

    fn read(&mut self) -> anyhow::Result<Value> {
        let mut line = String::new();
        ensure!(self.qmp.read_line(&mut line)? > 0, "QEMU has ended");
        Ok(serde_json::from_str(&line)?)
    }
}

fn wait_for(socket: &Path) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !socket.exists() {
        ensure!(begun.elapsed() < Duration::from_secs(10), "{} does not appear", socket.display());
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn connect(socket: &Path) -> anyhow::Result<UnixStream> {
    wait_for(socket)?;
    let begun = Instant::now();
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return Ok(stream),
            Err(error) if begun.elapsed() > Duration::from_secs(10) => return Err(error.into()),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Writes the changed blocks through QEMU, with the content that they have, so that its bitmap knows them.
fn rewrite(dir: &Path, socket: &Path, images: &Images) -> anyhow::Result<()> {
    let file = File::open(&images.variant)?;
    let mut content = vec![0; usize::try_from(BLOCK_SIZE)?];
    let blocks = dir.join("blocks");
    place::remove(&blocks)?;
    fs::create_dir_all(&blocks)?;
    let mut commands = String::new();
    for block in images.changed.blocks() {
        file.read_exact_at(&mut content, block * BLOCK_SIZE)?;
        let path = blocks.join(block.to_string());
        fs::write(&path, &content)?;
        commands.push_str(&format!("write -q -s {} {} {BLOCK_SIZE}\n", path.display(), block * BLOCK_SIZE));
    }
    wait_for(socket)?;
    let mut writer = Command::new("qemu-io")
        .args(["-f", "raw", &format!("nbd+unix:///disk?socket={}", socket.display())])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    writer.stdin.take().context("stdin")?.write_all(commands.as_bytes())?;
    ensure!(writer.wait()?.success(), "qemu-io failed");
    place::remove(&blocks)
}

/// A backup program with a repository: the first backup is not measured, the second is.
pub enum Backup {
    Borg(PathBuf),
    Restic(PathBuf),
}

impl Backup {
    pub fn borg(dir: &Path) -> anyhow::Result<Self> {
        let repository = dir.join("borg");
        place::remove(&repository)?;
        run(&mut Self::command("borg", &["init", "-e", "none"], &repository))?;
        Ok(Self::Borg(repository))
    }

    pub fn restic(dir: &Path) -> anyhow::Result<Self> {
        let repository = dir.join("restic");
        place::remove(&repository)?;
        run(Command::new("restic")
            .args(["-q", "init", "-r"])
            .arg(&repository)
            .env("RESTIC_PASSWORD", "bench"))?;
        Ok(Self::Restic(repository))
    }

    fn command(program: &str, words: &[&str], repository: &Path) -> Command {
        let mut command = Command::new(program);
        command.args(words).arg(repository).env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes");
        command.env("BORG_BASE_DIR", repository.with_extension("home"));
        command
    }

    /// Backs up `disk`, a file that has had the same name each time.
    pub fn take(&self, disk: &Path, name: &str) -> anyhow::Result<Sample> {
        Sample::of(|| match self {
            Self::Borg(repository) => {
                let archive = PathBuf::from(format!("{}::{name}", repository.display()));
                let mut command = Command::new("borg");
                command.args(["create", "--compression", "none"]).arg(archive).arg(disk);
                command.env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes");
                run(command.env("BORG_BASE_DIR", repository.with_extension("home")))
            }
            Self::Restic(repository) => {
                let mut command = Command::new("restic");
                command.args(["-q", "backup", "-r"]).arg(repository).arg(disk);
                run(command.env("RESTIC_PASSWORD", "bench"))
            }
        })
    }
}
