//! The end of a simulation. What it consists of is found without any list: processes by the mark in their environment, files by
//! their directory. Only Postgres is asked to end first, because it has memory of the kernel to give back.

use std::{
    fs, io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    postgres::Postgres,
    probe::wait_until,
    process::{OWNER_VARIABLE, is_alive},
    topology::LabId,
};

const DEATH: Duration = Duration::from_secs(15);
/// Holds the id of the simulation whose directory it is in.
const ID_FILE: &str = "simulation";

/// Ends the simulation whose directory this is, and removes it.
///
/// # Errors
/// When it is no simulation's directory, a process does not die, or a file cannot be removed.
pub fn remove(directory: &Path) -> Result<()> {
    let id = fs::read_to_string(directory.join(ID_FILE))
        .with_context(|| format!("{} is not the directory of a simulation", directory.display()))?;
    let id: LabId = id.parse()?;
    // One that does not end is killed with the others; then what it has of the kernel's memory is left.
    drop(Postgres::new(&id, None, &directory.join("control")).abandon());
    wait_until(&format!("the end of all processes of simulation {id}"), DEATH, || {
        let left = processes(&id)?;
        for pid in &left {
            // It may have ended meanwhile.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        // Asked again until a round finds none: one may have started another while being looked for.
        Ok(left.is_empty().then_some(()))
    })?;
    fs::remove_dir_all(directory).with_context(|| format!("cannot remove {}", directory.display()))
}

/// Processes that carry the mark and have not ended, without this one.
fn processes(id: &LabId) -> Result<Vec<i32>> {
    let mark = format!("{OWNER_VARIABLE}={id}");
    let own = i32::try_from(std::process::id())?;
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let Some(pid) = number(&path).filter(|pid| *pid != own) else { continue };
        if has(&path.join("environ"), mark.as_bytes()) && is_alive(pid) {
            found.push(pid);
        }
    }
    Ok(found)
}

fn number(path: &Path) -> Option<i32> {
    std::str::from_utf8(path.file_name()?.as_bytes()).ok()?.parse().ok()
}

/// A process of somebody else cannot be looked into, and is not ours.
fn has(environ: &Path, mark: &[u8]) -> bool {
    fs::read(environ).is_ok_and(|text| text.split(|byte| *byte == 0).any(|variable| variable == mark))
}

/// A new directory below the system's temporary one, for simulation `id`.
///
/// # Errors
/// When it cannot be made, or its path is too long for a socket in it.
pub(super) fn new_directory(id: &LabId) -> Result<PathBuf> {
    /// The kernel takes socket paths of at most 107 bytes; Postgres's hangs so far below.
    const SOCKET: usize = "/control/pg/socket/.s.PGSQL.5432".len();
    let directory = tempfile::Builder::new().prefix("understudy-simulated-").tempdir()?;
    ensure!(
        directory.path().as_os_str().len() + SOCKET <= 107,
        "{} is too long a path for a socket in it; set TMPDIR to a shorter one",
        directory.path().display()
    );
    fs::write(directory.path().join(ID_FILE), id.to_string())?;
    // Postgres runs as somebody else when this is root, and has to get to its directory.
    allow_passing(directory.path())?;
    Ok(directory.keep())
}

fn allow_passing(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o711))
}
