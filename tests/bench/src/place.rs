//! Where the benchmark runs: a network namespace with nothing but a loopback interface, memory that the machine has at hand.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, bail};
use nix::{
    sched::{CloneFlags, unshare},
    sys::sysinfo::sysinfo,
};

/// Leaves the machine's network for an empty one. Called before any thread is started.
pub fn own_network() -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)
        .context("the benchmark counts bytes in a network namespace of its own; run it as root")?;
    run(Command::new("ip").args(["link", "set", "lo", "up"]))
}

/// Bytes that the loopback interface of this namespace has sent.
pub fn wire_bytes() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/self/net/dev")?;
    let lo = text.lines().find_map(|line| line.trim().strip_prefix("lo:"));
    let sent = lo.and_then(|fields| fields.split_whitespace().nth(8));
    sent.context("no loopback interface")?.parse().context("its counter")
}

/// Fills free memory with the cached zeros of a file of nothing but a hole, so that who writes next takes over pages that are in use and
/// can be given up at once. A machine whose host takes free memory away pays seconds per GB for the first touch of what it gets
/// again; no copy is to be measured by that.
pub struct Filler {
    file: File,
    length: u64,
    at: u64,
}

impl Filler {
    /// Left free, above what the kernel keeps free itself.
    const FREE: u64 = 512 << 20;
    /// Read at once.
    const STEP: usize = 4 << 20;

    pub fn new(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join("filler");
        let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&path)?;
        let length = sysinfo()?.ram_total();
        file.set_len(length)?;
        Ok(Self { file, length, at: 0 })
    }

    pub fn fill(&mut self) -> anyhow::Result<()> {
        let mut read = vec![0; Self::STEP];
        // Once round at most, so that a machine that finds free memory as fast as it is filled does not go on for ever.
        let mut left = self.length;
        while left > 0 && sysinfo()?.ram_unused() > Self::FREE {
            let count = self.file.read_at(&mut read, self.at)?;
            self.at = if count == 0 { 0 } else { self.at + count as u64 };
            left = left.saturating_sub(Self::STEP as u64);
        }
        Ok(())
    }
}

/// One-minute load of the machine, to be told beside the figures.
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("?").to_owned()
}

/// Runs a program to its end, quietly.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("{command:?} could not be started"))?;
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Says which of the programs are missing, all at once.
pub fn need(programs: &[(&str, &str)]) -> anyhow::Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |program: &str| std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    let missing: Vec<&str> =
        programs.iter().filter(|(program, _)| !there(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!("the benchmark needs more programs: apt-get install {}", missing.join(" "))
}

/// Removes a file or directory, if it is there.
pub fn remove(path: &Path) -> anyhow::Result<()> {
    let gone = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match gone {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} cannot be removed", path.display()))
        }
        _ => Ok(()),
    }
}

/// This program itself, for parts that run as processes of their own.
pub fn part(words: &[&str]) -> Command {
    // Where the running program cannot be named, the command fails with a clear message.
    let mut command = Command::new(std::env::current_exe().unwrap_or_else(|_| "understudy-bench".into()));
    command.arg("part").args(words);
    command
}
