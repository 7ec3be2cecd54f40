//! The guard processes as their parent sees them, and the notes on disk of what it is about to do to a guest (ADR 0017).

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
    time::timeout,
};
use understudy_ids::MachineName;

use super::{
    super::{
        LibvirtHypervisor,
        guard::{DISMISSED, READY},
    },
    files,
};
use crate::Error;

/// For the guard to start and to find the machine.
const GUARD_LIMIT: Duration = Duration::from_secs(10);

/// A process of its own that lets the guest go on when this one cannot. Dropping this without [`Standby::dismiss`] makes it do so at
/// once.
pub(super) struct Standby {
    /// The guard watches its other end.
    line: ChildStdin,
}

impl Standby {
    /// Returns when the guard has found the machine.
    pub async fn set(
        hypervisor: &LibvirtHypervisor,
        machine: &MachineName,
        command: &str,
        note: &Path,
        arguments: &[&str],
    ) -> Result<Self, String> {
        let program = match &hypervisor.config.thaw_guard {
            Some(program) => program.clone(),
            None => std::env::current_exe().map_err(|e| format!("this program's path is not known: {e}"))?,
        };
        let mut guard = Command::new(&program);
        guard.args([command, "--uri", &hypervisor.config.uri, "--machine", machine.as_str()]);
        guard.arg("--note").arg(note).args(arguments);
        let (_, line) = start(guard, GUARD_LIMIT).await?;
        Ok(Self { line })
    }

    pub async fn say(&mut self, word: &str) -> Result<(), String> {
        let said = async {
            self.line.write_all(word.as_bytes()).await?;
            self.line.flush().await
        };
        said.await.map_err(|error| error.to_string())
    }

    pub async fn dismiss(mut self) {
        // One that is gone already has nothing more to do.
        let _ = self.say(DISMISSED).await;
    }
}

/// Starts a guard process and returns when it says that it stands ready, with the line whose end it takes for ours.
///
/// # Errors
/// When it does not say so within `limit`, with what it said instead.
pub async fn start(mut guard: Command, limit: Duration) -> Result<(Child, ChildStdin), String> {
    let spawned = guard.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let program = || guard.as_std().get_program().display().to_string();
    let mut child = spawned.map_err(|e| format!("{} cannot be started: {e}", program()))?;
    let (Some(line), Some(said)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("it has no standard input and output".to_owned());
    };
    let mut said = BufReader::new(said).lines();
    match timeout(limit, said.next_line()).await {
        Ok(Ok(Some(said))) if said == READY => Ok((child, line)),
        Ok(Ok(Some(said))) => Err(said),
        Ok(Ok(None)) => Err("it ended before it was ready".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("it was not ready within {limit:?}")),
    }
}

/// Notes something that is about to be done. The note outlives this process, which is all that it has to: a guest does not outlive the
/// host.
pub(super) async fn note(note: &Path) -> Result<(), String> {
    let parent = note.parent().unwrap_or(Path::new("/")).to_owned();
    let noted = async {
        tokio::fs::create_dir_all(parent).await?;
        tokio::fs::write(note, b"").await
    };
    noted.await.map_err(|error| format!("{} cannot be written: {error}", note.display()))
}

pub(super) async fn forget(note: &Path) -> Result<(), Error> {
    match tokio::fs::remove_file(note).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(files(format!("removing {}", note.display()), &error))
        }
        _ => Ok(()),
    }
}

/// The machines that have a note in the directory.
pub(super) async fn noted(dir: &Path) -> Result<Vec<MachineName>, Error> {
    let mut entries = match tokio::fs::read_dir(dir).await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.map_err(|error| files(format!("reading {}", dir.display()), &error))?,
    };
    let mut machines = Vec::new();
    while let Ok(Some(entry)) = entries.next_entry().await {
        let name: PathBuf = entry.file_name().into();
        machines.extend(name.to_str().and_then(|name| name.parse::<MachineName>().ok()));
    }
    Ok(machines)
}
