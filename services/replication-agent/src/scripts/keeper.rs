//! The keeper: a process of this program between the agent and a script, the first of a PID namespace.
//!
//! ```text
//!   agent ─ starts ─▶ keeper: dies with the agent ─ "ready" ─▶ agent
//!   agent ─ stdin: length, header, script, context ──▶ keeper: script into sealed memory, limits, directory
//!                                                       └─▶ script: another user, stdin = the rest, stdout = stderr = the keeper's stdout
//!   agent ◀─ stderr: how it ended ── keeper ends, and with it whatever the script has left running
//! ```
//!
//! It is a program of its own and no fork of the agent, so that nothing that the agent has in memory or open is in it. The script's bytes
//! come through a pipe and not by name, and the agent sends them only when the keeper is sure to die with it.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    path::PathBuf,
    process::{Command, Stdio},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::{
        memfd::{MFdFlags, memfd_create},
        prctl,
        resource::{Resource, rlim_t, setrlimit},
        signal::Signal,
        stat::{Mode, umask},
        wait::{WaitStatus, wait},
    },
    unistd::{Pid, close, setsid},
};
use serde::{Deserialize, Serialize};

/// What the keeper says when it cannot outlive the agent any more.
pub(super) const READY: &str = "ready";
/// Longer headers come from nobody.
const MAX_HEADER: u32 = 64 << 10;
/// Between the signal that a script may hear at the end of its CPU time and the one that it may not, in seconds.
const CPU_GRACE: u64 = 5;
/// Where programs are found, and nothing that depends on who started the agent.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What comes before the script.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Header {
    pub uid: u32,
    pub gid: u32,
    pub run: String,
    pub dir: PathBuf,
    pub script_bytes: u64,
    pub address_space_bytes: u64,
    pub processes: u64,
    pub open_files: u64,
    pub cpu_seconds: u64,
}

/// How it ended, as the keeper tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Told {
    Exited(i32),
    Killed(String),
    NotStarted(String),
}

/// Keeps one script. Called as a command of this program, before anything else of it has begun.
///
/// # Errors
/// When the agent cannot be told how it ended.
pub fn run() -> Result<(), String> {
    close_inherited();
    let told = attempt().unwrap_or_else(|error| Told::NotStarted(error.to_string()));
    let line = serde_json::to_string(&told).map_err(|error| error.to_string())?;
    writeln!(io::stderr(), "{line}").map_err(|error| error.to_string())
}

fn attempt() -> io::Result<Told> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    setsid()?;
    writeln!(io::stderr(), "{READY}")?;
    // Not through the standard library's handle, whose buffer would take what is the script's.
    let mut line = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut length = [0; 4];
    line.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > MAX_HEADER {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the header is too long"));
    }
    let mut header = vec![0; length as usize];
    line.read_exact(&mut header)?;
    let header: Header = serde_json::from_slice(&header)?;
    let script = sealed((&line).take(header.script_bytes), header.script_bytes)?;
    drop(line);
    std::env::set_current_dir(&header.dir)?;
    umask(Mode::from_bits_truncate(0o077));
    // Also for the keeper, which gives nothing up with them: it has the right to change users until it ends.
    prctl::set_no_new_privs()?;
    limit(&header)?;
    let child = start(&header, &script)?;
    until_ended(child)
}

/// Only standard input, output and error are the keeper's. Whatever else a library left open for its own children is not the script's.
fn close_inherited() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<RawFd> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > 2) {
        // The one that listed them is gone already.
        let _ = close(descriptor);
    }
}

/// Memory that nobody can change any more, this process included. It stays open when the script begins: its interpreter opens it by number.
fn sealed(mut bytes: impl Read, expected: u64) -> io::Result<OwnedFd> {
    let executable = MFdFlags::from_bits_retain(nix::libc::MFD_EXEC);
    // Kernels before 6.3 do not know the flag and need none.
    let memory =
        memfd_create("script", MFdFlags::MFD_ALLOW_SEALING | executable).or_else(|error| match error {
            Errno::EINVAL => memfd_create("script", MFdFlags::MFD_ALLOW_SEALING),
            error => Err(error),
        })?;
    let mut file = File::from(memory);
    if io::copy(&mut bytes, &mut file)? != expected {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let seals =
        SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}

/// They are the script's by inheritance.
fn limit(header: &Header) -> io::Result<()> {
    let set = |what: Resource, soft: rlim_t, hard: rlim_t| setrlimit(what, soft, hard);
    set(Resource::RLIMIT_CORE, 0, 0)?;
    set(Resource::RLIMIT_CPU, header.cpu_seconds, header.cpu_seconds + CPU_GRACE)?;
    set(Resource::RLIMIT_NPROC, header.processes, header.processes)?;
    set(Resource::RLIMIT_NOFILE, header.open_files, header.open_files)?;
    set(Resource::RLIMIT_AS, header.address_space_bytes, header.address_space_bytes)?;
    Ok(())
}

fn start(header: &Header, script: &OwnedFd) -> io::Result<Pid> {
    let output = io::stdout().as_fd().try_clone_to_owned()?;
    let child = Command::new(format!("/proc/self/fd/{}", script.as_raw_fd()))
        .env_clear()
        .envs([("PATH", PATH), ("LANG", "C.UTF-8"), ("UNDERSTUDY_RUN", header.run.as_str())])
        // Without other groups: the standard library drops root's when it changes the user.
        .gid(header.gid)
        .uid(header.uid)
        .stdin(Stdio::inherit())
        .stdout(Stdio::inherit())
        .stderr(Stdio::from(output))
        .spawn()?;
    let number = i32::try_from(child.id()).map_err(io::Error::other)?;
    Ok(Pid::from_raw(number))
}

/// As the first process of its namespace the keeper inherits whatever the script's processes leave behind, and buries it.
fn until_ended(script: Pid) -> io::Result<Told> {
    loop {
        match wait() {
            Ok(WaitStatus::Exited(process, code)) if process == script => return Ok(Told::Exited(code)),
            Ok(WaitStatus::Signaled(process, signal, _)) if process == script => {
                return Ok(Told::Killed(signal.as_str().to_owned()));
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
