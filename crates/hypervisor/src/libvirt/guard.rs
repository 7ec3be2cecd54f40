//! The process that thaws a guest when the one that froze it cannot, or lets a held one go on: the other died, it hangs, or it takes too
//! long (R-REP-3, R-REP-12).
//!
//! ```text
//!   machine found ─▶ "ready" ─▶ wait for the parent, up to the limit ─┬─ dismissed: ends
//!                                                                     ├─ the parent is gone: frees, waits for the limit, frees again
//!                                                                     └─ limit passed: frees
//! ```
//! It has a session of its own, so that what ends its parent does not end it, and shares nothing with it but a pipe. It goes on
//! trying for as long as the machine runs, within bounds: a guest's agent that was busy answers in the end. A held guest's limit is
//! counted from when the parent says that it is about to hold it.

use std::{
    io::{self, BufRead, Write},
    path::Path,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{SigSet, Signal},
    unistd::setsid,
};
use understudy_ids::MachineName;

use super::ffi::{CallError, Connection, Domain};

/// What the guard says when it could thaw from then on.
pub const READY: &str = "ready";
/// What it is told when there is nothing left to do.
pub const DISMISSED: &str = "dismissed\n";

/// What it is told when a guest is about to be held, with the limit in milliseconds behind it.
pub const HOLDING: &str = "holding ";

/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(1);
/// After this long a guest that does not answer is left to the next process of its agent, which finds the note.
const GIVE_UP: Duration = Duration::from_secs(15 * 60);

/// Guards one machine from now on until its parent dismisses it or the guest is thawed. The parent is at the other end of
/// standard input, and waits for [`READY`] on standard output. Removes the note of it when the guest is thawed by this process's doing.
///
/// # Errors
/// When the machine cannot be found, or could not be thawed.
pub fn stand(uri: &str, machine: &MachineName, note: &Path, limit: Duration) -> Result<(), String> {
    let begun = Instant::now();
    stand_ready(uri, machine)?;
    unless_dismissed(&Parent::listen(), limit, begun, note, || {
        for_certain(uri, machine, "thawed", |domain| thaw(domain).map(|thawed| thawed > 0))
    })
}

/// Before anything is done to the guest: what is not reachable now would not be then.
fn stand_ready(uri: &str, machine: &MachineName) -> Result<(), String> {
    stay_alive()?;
    find(&Connection::open(uri).map_err(|e| e.to_string())?, machine)?;
    println!("{READY}");
    io::stdout().flush().map_err(|e| e.to_string())
}

/// Frees the guest when the parent is gone, or has taken longer than the limit, counted from `begun` on; for a parent that is gone,
/// once more at the limit.
fn unless_dismissed(
    parent: &Parent,
    limit: Duration,
    begun: Instant,
    note: &Path,
    free: impl Fn() -> Result<(), String>,
) -> Result<(), String> {
    let let_go = || {
        free()?;
        match std::fs::remove_file(note) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(format!("{}: {error}", note.display()))
            }
            _ => Ok(()),
        }
    };
    match parent.dismisses(limit.saturating_sub(begun.elapsed())) {
        Answer::Dismisses => Ok(()),
        Answer::TakesTooLong => let_go(),
        Answer::IsGone => {
            let_go()?;
            // What the parent had asked for may take effect only after that; nothing does after the limit.
            thread::sleep(limit.saturating_sub(begun.elapsed()));
            // Our note is gone by then. One that is there is that of the next snapshot, whose own guard stands by the guest.
            if note.exists() { Ok(()) } else { let_go() }
        }
    }
}

/// As [`stand`], for a guest that is held.
///
/// # Errors
/// When the machine cannot be found, or could not be let go.
pub fn stand_by_held(uri: &str, machine: &MachineName, note: &Path) -> Result<(), String> {
    stand_ready(uri, machine)?;
    let parent = Parent::listen();
    // Nobody is held before that, so there is nothing to do for one that goes.
    let Some(limit) = parent.holds() else { return Ok(()) };
    unless_dismissed(&parent, limit, Instant::now(), note, || for_certain(uri, machine, "let go", resume))
}

/// Puts a guard process out of reach of its parent's terminal and of the signals that a whole group gets.
///
/// # Errors
/// When signals cannot be held back.
pub fn stay_alive() -> Result<(), String> {
    // Whoever leads a group already keeps it.
    let _ = setsid();
    let asked_to_end: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect();
    asked_to_end.thread_block().map_err(|e| format!("signals cannot be held back: {e}"))
}

/// The other end of standard input.
struct Parent {
    heard: mpsc::Receiver<String>,
}

enum Answer {
    Dismisses,
    IsGone,
    TakesTooLong,
}

impl Parent {
    fn listen() -> Self {
        let (tell, heard) = mpsc::channel();
        thread::spawn(move || {
            for line in io::stdin().lock().lines() {
                // Nobody listens any more when the limit has passed.
                let Ok(true) = line.map(|line| tell.send(line).is_ok()) else { return };
            }
        });
        Self { heard }
    }

    /// Waits until it is about to hold the guest, and says for how long at most.
    fn holds(&self) -> Option<Duration> {
        let said = self.heard.recv().ok()?;
        said.strip_prefix(HOLDING)?.parse().ok().map(Duration::from_millis)
    }

    fn dismisses(&self, limit: Duration) -> Answer {
        match self.heard.recv_timeout(limit) {
            Ok(said) if said == DISMISSED.trim_end() => Answer::Dismisses,
            Ok(_) | Err(RecvTimeoutError::Disconnected) => Answer::IsGone,
            Err(RecvTimeoutError::Timeout) => Answer::TakesTooLong,
        }
    }
}

/// Goes on trying until the guest is free, or no longer there. `free` says whether there was something to do.
fn for_certain(
    uri: &str,
    machine: &MachineName,
    done: &str,
    free: impl Fn(&Domain) -> Result<bool, CallError>,
) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        let tried = Connection::open(uri).map_err(|e| e.to_string()).and_then(|connection| {
            match connection.domain(machine.as_str()).map_err(|e| e.to_string())? {
                Some(domain) => free(&domain).map_err(|e| e.to_string()),
                // A machine that is not there is neither frozen nor held.
                None => Ok(false),
            }
        });
        let error = match tried {
            Ok(was_bound) => {
                if was_bound {
                    eprintln!("understudy: guard of machine {machine}: {done}");
                }
                return Ok(());
            }
            Err(error) => error,
        };
        if begun.elapsed() > GIVE_UP {
            return Err(format!("machine {machine} could not be {done}: {error}"));
        }
        thread::sleep(PAUSE);
    }
}

fn find(connection: &Connection, machine: &MachineName) -> Result<Domain, String> {
    let found = connection.domain(machine.as_str()).map_err(|e| e.to_string())?;
    found.ok_or_else(|| format!("machine {machine} does not exist on this host"))
}

/// How many file systems were thawed. A machine that does not run has none that are frozen, nor has one without an agent.
pub fn thaw(domain: &Domain) -> Result<u32, CallError> {
    match domain.thaw() {
        Err(error) if error.is_without_agent() || !domain.is_active()? => Ok(0),
        thawed => thawed,
    }
}

/// Whether it was suspended until now. One that somebody has let go already is not touched.
pub fn resume(domain: &Domain) -> Result<bool, CallError> {
    if !domain.is_active()? || !domain.is_suspended()? {
        return Ok(false);
    }
    match domain.resume() {
        // Somebody was faster.
        Err(_) if !domain.is_suspended()? => Ok(false),
        resumed => resumed.map(|()| true),
    }
}
