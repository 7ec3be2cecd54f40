//! The agent's side of a keeper: starts it, feeds it, listens to it, and ends it.

use std::{
    io,
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use nix::{
    sched::{CloneFlags, unshare},
    sys::{
        signal::{Signal, kill, killpg},
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::{Gid, Pid, Uid},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process,
    sync::oneshot,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use understudy_ids::RunId;

use super::{
    Output, ScriptError, ScriptsConfig,
    keeper::{Header, READY, Told},
    output,
    work_dir::WorkDir,
};

/// For the keeper to come up.
const READY_LIMIT: Duration = Duration::from_secs(10);
/// Between the signal that a script may hear and the one that it may not.
const GRACE: Duration = Duration::from_secs(5);

/// Everything that a keeper needs.
pub(super) struct Order {
    pub config: ScriptsConfig,
    pub uid: Uid,
    pub gid: Gid,
    pub run: RunId,
    /// Its bytes, as they were hashed.
    pub script: Vec<u8>,
    pub time_out: Duration,
    pub context: String,
}

/// What became of a script that began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub cause: Cause,
    pub output: Output,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    Exited(i32),
    /// By a signal that the agent did not send.
    Killed(String),
    /// It was ended because its time was over.
    TimedOut,
    /// It was ended because the agent was told so.
    Stopped,
}

/// A keeper that has begun.
struct Started {
    handle: Handle,
    stdin: ChildStdin,
    stdout: ChildStdout,
    stderr: ChildStderr,
}

/// The way to end a keeper. Dropping it ends the keeper at once, and the script with it.
struct Handle(Living);

/// The number of a process for as long as it is that process's: its parent takes it away before it lets the number go.
type Living = Arc<Mutex<Option<Pid>>>;

/// It is one value, so it is whole at every moment.
fn living(pid: &Living) -> MutexGuard<'_, Option<Pid>> {
    pid.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Handle {
    /// Asks the script's group to end. The keeper leads the group and, as the first process of its namespace, does not hear it.
    fn ask(&self) {
        if let Some(pid) = *living(&self.0) {
            // One that has ended does not need to be asked.
            let _ = killpg(pid, Signal::SIGTERM);
        }
    }

    fn kill(&self) {
        if let Some(pid) = *living(&self.0) {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs one script to its end.
pub(super) async fn run(order: Order, stop: &CancellationToken) -> Result<Ended, ScriptError> {
    let Order { config, uid, gid, run, script, time_out, context } = order;
    let not_started = |error: io::Error| ScriptError::NotStarted(error.to_string());
    let (begun, beginning) = oneshot::channel();
    let (gone, going) = oneshot::channel();
    let (program, base) = (config.keeper.clone(), config.work_dir.clone());
    thread::Builder::new()
        .name("script".to_owned())
        .spawn(move || {
            keep(program, base, uid, gid, begun);
            // Nobody waits any more when the agent's runtime is gone.
            let _ = gone.send(());
        })
        .map_err(not_started)?;
    let lost = |_| ScriptError::NotStarted("the thread that should start it ended".to_owned());
    let (dir, Started { handle, stdin, stdout, stderr }) = beginning.await.map_err(lost)??;
    let header = Header {
        uid: uid.as_raw(),
        gid: gid.as_raw(),
        run: run.to_string(),
        dir,
        script_bytes: script.len() as u64,
        address_space_bytes: config.address_space_bytes,
        processes: config.processes,
        open_files: config.open_files,
        // A script that works all the time is ended by its time-out, with several threads a little earlier.
        cpu_seconds: time_out.as_secs().max(1) + 1,
    };
    let stdin = process::ChildStdin::from_std(stdin).map_err(not_started)?;
    let stdout = process::ChildStdout::from_std(stdout).map_err(not_started)?;
    let stderr = process::ChildStderr::from_std(stderr).map_err(not_started)?;
    let mut told = BufReader::new(stderr).lines();
    match timeout(READY_LIMIT, told.next_line()).await {
        Ok(Ok(Some(line))) if line == READY => {}
        Ok(Ok(Some(line))) => return Err(ScriptError::NotStarted(line)),
        Ok(Ok(None)) => return Err(ScriptError::NotStarted("its keeper ended".to_owned())),
        Ok(Err(error)) => return Err(not_started(error)),
        Err(_) => {
            return Err(ScriptError::NotStarted(format!("its keeper was not ready within {READY_LIMIT:?}")));
        }
    }
    // All at once: a script may write before it has read, read nothing, or write without an end.
    let whole = async {
        let (_, output, told) =
            tokio::join!(feed(stdin, &header, &script, &context), output::read(stdout), told.next_line());
        (output, told.ok().flatten())
    };
    tokio::pin!(whole);
    let ended = tokio::select! {
        ended = &mut whole => Ok(ended),
        () = sleep(time_out) => Err(Cause::TimedOut),
        () = stop.cancelled() => Err(Cause::Stopped),
    };
    let ended = match ended {
        Ok((output, told)) => Ended { cause: cause(told)?, output },
        Err(cause) => {
            handle.ask();
            let (output, _) = match timeout(GRACE, &mut whole).await {
                Ok(ended) => ended,
                Err(_) => {
                    handle.kill();
                    whole.await
                }
            };
            Ended { cause, output }
        }
    };
    // Its directory is gone, too.
    let _ = going.await;
    Ok(ended)
}

/// A script that does not read breaks the pipe, which is its own affair.
async fn feed(mut to: process::ChildStdin, header: &Header, script: &[u8], context: &str) -> io::Result<()> {
    let header = serde_json::to_vec(header)?;
    let length = u32::try_from(header.len()).map_err(io::Error::other)?;
    to.write_all(&length.to_be_bytes()).await?;
    to.write_all(&header).await?;
    to.write_all(script).await?;
    to.write_all(context.as_bytes()).await?;
    to.shutdown().await
}

fn cause(told: Option<String>) -> Result<Cause, ScriptError> {
    match told.as_deref().map(serde_json::from_str) {
        Some(Ok(Told::Exited(code))) => Ok(Cause::Exited(code)),
        Some(Ok(Told::Killed(signal))) => Ok(Cause::Killed(signal)),
        Some(Ok(Told::NotStarted(why))) => Err(ScriptError::NotStarted(why)),
        // The script cannot have outlived it.
        Some(Err(_)) | None => Ok(Cause::Killed("SIGKILL, with its keeper".to_owned())),
    }
}

/// The life of one keeper, on a thread of its own. It needs one twice: a parent's death is that of the *thread* that started a process, and
/// what [`unshare`] changes is for this thread's children only.
fn keep(
    program: Option<PathBuf>,
    base: PathBuf,
    uid: Uid,
    gid: Gid,
    begun: oneshot::Sender<Result<(PathBuf, Started), ScriptError>>,
) {
    let dir = match WorkDir::make(&base, uid, gid) {
        Ok(dir) => dir,
        Err(error) => {
            let _ = begun.send(Err(error));
            return;
        }
    };
    match start(program) {
        Ok((child, pid, started)) => {
            // Where nobody takes it, it is dropped, which ends it.
            let _ = begun.send(Ok((dir.path().to_owned(), started)));
            bury(child, &pid);
        }
        Err(error) => {
            let _ = begun.send(Err(ScriptError::NotStarted(error.to_string())));
        }
    }
}

fn start(program: Option<PathBuf>) -> io::Result<(Child, Living, Started)> {
    unshare(CloneFlags::CLONE_NEWPID)?;
    // By its link and not by its path: an upgrade may have put another version there.
    let program = program.unwrap_or_else(|| "/proc/self/exe".into());
    let mut child = Command::new(program)
        .arg("keep-script")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    let living: Living = Arc::new(Mutex::new(Some(Pid::from_raw(pid))));
    let handle = Handle(Arc::clone(&living));
    let (Some(stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(io::Error::other("the keeper has no standard streams"));
    };
    Ok((child, living, Started { handle, stdin, stdout, stderr }))
}

/// Waits until the keeper has ended. Its number is let go only when nobody can send it a signal any more.
fn bury(mut child: Child, pid: &Living) {
    // Copied, so that the way to end it stays open while it is waited for.
    let number = *living(pid);
    if let Some(number) = number {
        // Whatever it says, the wait below waits.
        let _ = waitid(Id::Pid(number), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
    }
    let mut number = living(pid);
    match child.wait() {
        Ok(status) if status.signal().is_none() => {}
        other => tracing::debug!(?other, "a script's keeper was killed"),
    }
    *number = None;
}
