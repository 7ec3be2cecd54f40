//! The lab's long-running processes: started in a namespace, known by a pidfile, killed without warning, started again.
//!
//! ```text
//!   ProcessSpec ──start──▶ running ──kill_9 / stop / its own end──▶ gone ──start──▶ …
//! ```
//!
//! A process outlives the program that started it (`understudy-lab up` ends, the lab stays), so what is known of it lies
//! in two files, `<run>/<name>.json` (how to start it) and `<run>/<name>.pid`. A pid counts only with the start time that
//! was noted with it: a number that the kernel has given to somebody else is never signalled.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use crate::{command, namespace::Namespace, probe::wait_until, topology::LabId};

/// Environment variable that marks every process of a lab with the lab's id; `down.sh` goes by it.
pub const OWNER_VARIABLE: &str = "UNDERSTUDY_LAB_OWNED";

/// How long the kernel may take to end a process that was killed.
const DEATH: Duration = Duration::from_secs(10);

/// How to start a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// Name of its pidfile and log.
    pub name: String,
    /// Full name of the network namespace it runs in; without one, in the one of whoever starts it.
    pub namespace: Option<String>,
    /// It sees the machine's mounts as they are, so that network namespaces that it makes are there for others too. Otherwise it
    /// gets mounts of its own, with `/sys` showing its network namespace.
    pub shares_mounts: bool,
    /// The program and its arguments.
    pub program: PathBuf,
    pub args: Vec<String>,
    /// Variables besides the inherited ones.
    pub env: BTreeMap<String, String>,
    /// Where its pidfile goes.
    pub run_dir: PathBuf,
    /// What it prints is appended here.
    pub log: PathBuf,
}

impl ProcessSpec {
    /// A process of lab `id` in `namespace` if one is given, marked as the lab's, with pidfile and log in `run` and `logs` of `directory`.
    pub fn new<'a>(
        id: &LabId,
        namespace: impl Into<Option<&'a Namespace>>,
        directory: &Path,
        name: &str,
        program: impl Into<PathBuf>,
        args: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            namespace: namespace.into().map(|n| n.name().to_owned()),
            shares_mounts: false,
            program: program.into(),
            args: args.into_iter().map(Into::into).collect(),
            env: mark(id),
            run_dir: directory.join("run"),
            log: directory.join(format!("logs/{name}.log")),
        }
    }
}

/// The environment that marks a process as lab `id`'s.
pub(crate) fn mark(id: &LabId) -> BTreeMap<String, String> {
    BTreeMap::from([(OWNER_VARIABLE.to_owned(), id.to_string())])
}

/// A process of the lab, running or not.
#[derive(Debug, Clone)]
pub struct ManagedProcess {
    spec: ProcessSpec,
}

impl ManagedProcess {
    /// Starts what `spec` says, and notes how.
    ///
    /// # Errors
    /// When it runs already, or cannot be started.
    pub fn start(spec: ProcessSpec) -> Result<Self> {
        let process = Self { spec };
        fs::create_dir_all(&process.spec.run_dir)?;
        fs::write(process.spec_file(), serde_json::to_vec_pretty(&process.spec)?)?;
        process.start_again()?;
        Ok(process)
    }

    /// The process that was started as `name` with this `run_dir` by this or another program.
    ///
    /// # Errors
    /// When there never was one.
    pub fn attach(run_dir: &Path, name: &str) -> Result<Self> {
        let file = run_dir.join(format!("{name}.json"));
        let text = fs::read(&file)
            .with_context(|| format!("{name} was never started here: no {}", file.display()))?;
        let spec = serde_json::from_slice(&text).with_context(|| format!("{} is damaged", file.display()))?;
        Ok(Self { spec })
    }

    /// Starts it once more as it was started before.
    ///
    /// # Errors
    /// When it still runs, or cannot be started.
    pub fn start_again(&self) -> Result<()> {
        let spec = &self.spec;
        if let Some(pid) = self.pid() {
            bail!("{} runs already, as process {pid}", spec.name);
        }
        if let Some(directory) = spec.log.parent() {
            fs::create_dir_all(directory)?;
        }
        let log = OpenOptions::new().create(true).append(true).open(&spec.log)?;
        let entry = match &spec.namespace {
            None => vec![],
            Some(name) if spec.shares_mounts => {
                vec!["nsenter".to_owned(), format!("--net=/run/netns/{name}")]
            }
            Some(name) => ["ip", "netns", "exec", name].map(str::to_owned).to_vec(),
        };
        // A session of its own keeps it alive when the terminal goes away; neither setsid nor what enters the namespace
        // forks here, so the pid is the program's own.
        let child = command::new("setsid")
            .args(entry)
            .arg(&spec.program)
            .args(&spec.args)
            .envs(&spec.env)
            .stdout(log.try_clone()?)
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", spec.name))?;
        let pid = i32::try_from(child.id()).context("a pid fits into 31 bits")?;
        let started = start_time(pid)
            .with_context(|| format!("{} ended at once; see {}", spec.name, spec.log.display()))?;
        fs::write(self.pid_file(), format!("{pid} {started}\n")).map_err(Into::into)
    }

    /// Its pid, if it runs.
    pub fn pid(&self) -> Option<i32> {
        let noted = fs::read_to_string(self.pid_file()).ok()?;
        let (pid, started) = noted.trim().split_once(' ')?;
        let (pid, started): (i32, u64) = (pid.parse().ok()?, started.parse().ok()?);
        reap(pid);
        (start_time(pid)? == started).then_some(pid)
    }

    /// How it is started.
    pub fn spec(&self) -> &ProcessSpec {
        &self.spec
    }

    /// Ends it without warning and waits until it is gone. One that is gone already is left so.
    ///
    /// # Errors
    /// When it does not die.
    pub fn kill_9(&self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.wait_gone(DEATH)
    }

    /// Asks it to end, with SIGTERM, and waits until it has; after `limit` it is killed and that is an error.
    ///
    /// # Errors
    /// When it did not end by itself in time.
    pub fn stop(&self, limit: Duration) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        self.wait_gone(limit).or_else(|error| {
            self.kill_9()?;
            Err(error.context(format!("{} had to be killed", self.spec.name)))
        })
    }

    /// Sends it a signal, such as SIGSTOP, if it runs.
    ///
    /// # Errors
    /// When the caller may not.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match self.pid().map(|pid| kill(Pid::from_raw(pid), signal)) {
            None | Some(Ok(()) | Err(nix::errno::Errno::ESRCH)) => Ok(()),
            Some(Err(error)) => Err(error).with_context(|| format!("cannot signal {}", self.spec.name)),
        }
    }

    /// Waits for `condition` for as long as the process runs.
    ///
    /// # Errors
    /// When `limit` passes, or at once when the process ends; then with the end of its log.
    pub fn wait_for<T>(
        &self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let awaited = wait_until(what, limit, || match self.pid() {
            Some(_) => condition().map(|yes| yes.map(Some)),
            None => Ok(Some(None)),
        });
        match awaited {
            Ok((Some(value), _)) => Ok(value),
            Ok((None, _)) => bail!("{} ended while waiting for: {what}\n{}", self.spec.name, self.log_end()),
            Err(error) => Err(error.context(self.log_end())),
        }
    }

    fn wait_gone(&self, limit: Duration) -> Result<()> {
        wait_until(&format!("the end of {}", self.spec.name), limit, || {
            Ok(self.pid().is_none().then_some(()))
        })?;
        match fs::remove_file(self.pid_file()) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn log_end(&self) -> String {
        let log = fs::read_to_string(&self.spec.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(20).collect();
        let end: Vec<_> = lines.into_iter().rev().collect();
        format!("end of {}:\n{}", self.spec.log.display(), end.join("\n"))
    }

    fn spec_file(&self) -> PathBuf {
        self.spec.run_dir.join(format!("{}.json", self.spec.name))
    }

    fn pid_file(&self) -> PathBuf {
        self.spec.run_dir.join(format!("{}.pid", self.spec.name))
    }
}

/// Takes the result of a child that has ended; of somebody else's child its parent does that.
fn reap(pid: i32) {
    let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
}

/// Whether a process of this number runs; one that only waits to be reaped does not.
pub(crate) fn is_alive(pid: i32) -> bool {
    start_time(pid).is_some()
}

/// When the process was started, in the kernel's ticks; `None` if it is gone or only waits to be reaped.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name comes in parentheses and may contain anything.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let dead = matches!(*fields.first()?, "Z" | "X");
    if dead { None } else { fields.get(19)?.parse().ok() }
}

/// Kills every process whose network is the given namespace and waits until they are gone.
///
/// # Errors
/// When the namespace does not exist or a process does not die.
pub fn kill_all_in(namespace: &str) -> Result<()> {
    wait_until(&format!("the end of all processes in {namespace}"), DEATH, || {
        let listed = command::output(command::new("ip").args(["netns", "pids", namespace]))?;
        let mut left = false;
        for pid in listed.lines().filter_map(|line| line.trim().parse().ok()) {
            // The caller may be in there itself, as a thread or by `ip netns exec`.
            if pid != i32::try_from(std::process::id())? {
                reap(pid);
                left |= is_alive(pid);
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        Ok((!left).then_some(()))
    })
    .map(drop)
}
