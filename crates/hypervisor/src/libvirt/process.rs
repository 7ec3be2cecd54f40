//! Processes that outlive us, known by their pid file.

use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const LIMIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);

/// The process of a pid file, when it still runs and is the program that it should be: numbers of processes are used
/// again, so one alone proves nothing.
pub async fn running(pid_file: &Path, program: &str) -> io::Result<Option<Pid>> {
    let text = match tokio::fs::read_to_string(pid_file).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text?,
    };
    let Ok(number) = text.trim().parse::<i32>() else { return Ok(None) };
    let is_it = number > 0 && is_program(number, program).await;
    Ok(is_it.then_some(Pid::from_raw(number)))
}

async fn is_program(number: i32, program: &str) -> bool {
    let arguments = tokio::fs::read(format!("/proc/{number}/cmdline")).await.unwrap_or_default();
    let first = arguments.split(|byte| *byte == 0).next().unwrap_or_default();
    let first = String::from_utf8_lossy(first);
    Path::new(first.as_ref()).file_name().is_some_and(|name| name == program)
}

/// Ends the process of a pid file and waits until it is gone; kills it when it does not go by itself.
pub async fn end(pid_file: &Path, program: &str) -> io::Result<()> {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let Some(pid) = running(pid_file, program).await? else { return Ok(()) };
        match kill(pid, signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(error.into()),
        }
        let deadline = Instant::now() + LIMIT;
        while Instant::now() < deadline {
            if running(pid_file, program).await?.is_none() {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, format!("{program} does not end")))
}
