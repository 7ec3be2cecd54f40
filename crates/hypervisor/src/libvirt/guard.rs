//! The process that thaws a guest when the one that froze it cannot: it died, it hangs, or it takes too long (R-REP-3).
//!
//! ```text
//!   machine found ─▶ "ready" ─▶ wait for the parent, up to the limit ─┬─ dismissed: ends
//!                                                                     ├─ the parent is gone: thaws, waits for the limit, thaws again
//!                                                                     └─ limit passed: thaws
//! ```
//! It has a session of its own, so that what ends its parent does not end it, and shares nothing with it but a pipe. It goes on
//! trying for as long as the machine runs, within bounds: a guest's agent that was busy answers in the end.

use std::{
    io::{self, BufRead, Write},
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

/// Between two attempts to thaw.
const PAUSE: Duration = Duration::from_secs(1);
/// After this long a guest that does not answer is left to the next process of its agent, which finds the note.
const GIVE_UP: Duration = Duration::from_secs(15 * 60);

/// Guards one machine from now on until its parent dismisses it or the guest is thawed. The parent is at the other end of
/// standard input, and waits for [`READY`] on standard output.
///
/// # Errors
/// When the machine cannot be found, or could not be thawed.
pub fn stand(uri: &str, machine: &MachineName, limit: Duration) -> Result<(), String> {
    let begun = Instant::now();
    stay_alive()?;
    // Before anything is frozen: what is not reachable now would not be then.
    find(&Connection::open(uri).map_err(|e| e.to_string())?, machine)?;
    println!("{READY}");
    io::stdout().flush().map_err(|e| e.to_string())?;
    match parent(limit.saturating_sub(begun.elapsed())) {
        Parent::Dismisses => Ok(()),
        Parent::TakesTooLong => thaw_for_certain(uri, machine),
        Parent::IsGone => {
            thaw_for_certain(uri, machine)?;
            // A freeze that the parent had asked for may take effect only after that; none does after the limit.
            thread::sleep(limit.saturating_sub(begun.elapsed()));
            thaw_for_certain(uri, machine)
        }
    }
}

/// Out of reach of the parent's terminal and of the signals that a whole group gets.
fn stay_alive() -> Result<(), String> {
    // Whoever leads a group already keeps it.
    let _ = setsid();
    let asked_to_end: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect();
    asked_to_end.thread_block().map_err(|e| format!("signals cannot be held back: {e}"))
}

enum Parent {
    Dismisses,
    IsGone,
    TakesTooLong,
}

fn parent(limit: Duration) -> Parent {
    let (told, heard) = mpsc::channel();
    thread::spawn(move || {
        let mut line = String::new();
        let read = io::stdin().lock().read_line(&mut line);
        // Nobody listens any more when the limit has passed.
        let _ = told.send(read.is_ok() && line == DISMISSED);
    });
    match heard.recv_timeout(limit) {
        Ok(true) => Parent::Dismisses,
        Ok(false) | Err(RecvTimeoutError::Disconnected) => Parent::IsGone,
        Err(RecvTimeoutError::Timeout) => Parent::TakesTooLong,
    }
}

fn thaw_for_certain(uri: &str, machine: &MachineName) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        let error = match Connection::open(uri).map_err(|e| e.to_string()).and_then(|c| thaw_at(&c, machine))
        {
            Ok(thawed) => {
                eprintln!("understudy: guard of machine {machine}: {thawed} file systems thawed");
                return Ok(());
            }
            Err(error) => error,
        };
        if begun.elapsed() > GIVE_UP {
            return Err(format!("machine {machine} could not be thawed: {error}"));
        }
        thread::sleep(PAUSE);
    }
}

fn thaw_at(connection: &Connection, machine: &MachineName) -> Result<u32, String> {
    match connection.domain(machine.as_str()).map_err(|e| e.to_string())? {
        Some(domain) => thaw(&domain).map_err(|e| e.to_string()),
        // A machine that is not there is not frozen.
        None => Ok(0),
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
