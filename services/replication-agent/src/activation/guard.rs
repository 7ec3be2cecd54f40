//! The process that keeps the leases when the agent cannot: it was killed, it hangs, or it is being replaced.
//!
//! ```text
//!   agent starts ─▶ guard: "ready" ─▶ keeps ──┬─ the agent is gone: goes on until nothing is left to stop, or another guard stands
//!                     ▲                       └─ it dies: the agent starts another, and takes no lease before that is ready
//!                     └── names itself in `leases/.guard`
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::AsyncReadExt as _,
    process::{Child, ChildStdin, Command},
    sync::watch,
};
use tokio_util::sync::CancellationToken;
use understudy_hypervisor::libvirt::{self, LibvirtHypervisor};

use super::{
    keeper::{Keeper, Keeping},
    notes::Notes,
};

/// Name of the command.
pub const COMMAND: &str = "lease-guard";
/// For the guard to start.
const START: Duration = Duration::from_secs(20);
/// Between two attempts to start one.
const PAUSE: Duration = Duration::from_secs(1);

/// What a guard has to know.
#[derive(Debug, Clone, clap::Args)]
pub struct Charge {
    /// libvirt's address.
    #[arg(long)]
    pub uri: String,
    /// The agent's own directory.
    #[arg(long)]
    pub state_dir: PathBuf,
    /// Of the host's present boot.
    #[arg(long)]
    pub boot_id: String,
}

/// What the guard process does. Returns when it is not needed any more.
///
/// # Errors
/// When it cannot stand by.
pub fn stand(charge: Charge) -> Result<(), String> {
    libvirt::stay_alive()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(|e| e.to_string())?.block_on(keep(charge))
}

async fn keep(Charge { uri, state_dir, boot_id }: Charge) -> Result<(), String> {
    let notes = Notes::below(&state_dir);
    let named =
        name_itself(&notes).map_err(|e| format!("{} cannot be written: {e}", notes.dir().display()))?;
    // It only stops machines, for which the driver keeps nothing.
    let driver = LibvirtHypervisor::new(libvirt::Config::new(uri, state_dir.clone(), state_dir.clone()));
    let keeping = Keeping { notes, state_dir, boot_id, hypervisor: Arc::new(driver), keeper: Keeper::Guard };
    println!("{}", libvirt::READY);
    let is_orphan = Arc::new(AtomicBool::new(false));
    let orphaned = is_orphan.clone();
    tokio::spawn(async move {
        // Nothing is ever said: the line's end is the parent's.
        let _ = tokio::io::stdin().read_to_end(&mut Vec::new()).await;
        orphaned.store(true, Ordering::Relaxed);
    });
    keeping.keep(|open| !is_orphan.load(Ordering::Relaxed) || (open && is_the_last(&named))).await;
    Ok(())
}

fn name_itself(notes: &Notes) -> io::Result<PathBuf> {
    fs::create_dir_all(notes.dir())?;
    let file = notes.dir().join(".guard");
    let temporary = notes.dir().join(format!(".guard.{}", std::process::id()));
    fs::write(&temporary, std::process::id().to_string())?;
    fs::rename(temporary, &file)?;
    Ok(file)
}

/// Whether no guard stands by that came later.
fn is_the_last(named: &Path) -> bool {
    let Ok(text) = fs::read_to_string(named) else { return true };
    let Ok(number) = text.trim().parse::<u32>() else { return true };
    if number == std::process::id() {
        return true;
    }
    let line = fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
    !line.split(|byte| *byte == 0).any(|word| word == COMMAND.as_bytes())
}

/// Has a guard stand by until the agent shuts down; `ready` says whether one does. It stays behind then.
pub async fn have_one(charge: Charge, ready: &watch::Sender<bool>, shutdown: CancellationToken) {
    loop {
        match start(&charge).await {
            // The line is kept: waiting for a process closes what it holds of it, and the guard takes that for our end.
            Ok((mut guard, _line)) => {
                ready.send_replace(true);
                tokio::select! {
                    ended = guard.wait() => tracing::error!(?ended, "the guard of the activation leases has ended"),
                    () = shutdown.cancelled() => return,
                }
                ready.send_replace(false);
            }
            Err(error) => {
                tracing::error!(error, "nothing stands by to end activation leases when this agent cannot")
            }
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn start(charge: &Charge) -> Result<(Child, ChildStdin), String> {
    let program = std::env::current_exe().map_err(|e| format!("this program's path is not known: {e}"))?;
    let mut guard = Command::new(&program);
    guard
        .args([COMMAND, "--uri", &charge.uri, "--boot-id", &charge.boot_id, "--state-dir"])
        .arg(&charge.state_dir);
    libvirt::start_guard(guard, START).await
}
