//! Scripts of the host's library, run for recovery plans (R-RP-2).
//!
//! ```text
//!   library: open without following links ─▶ owner, mode ─▶ read ─▶ SHA-256 = the pin ─▶ bytes
//!                                                                                          │ pipe
//!   agent ── a thread of its own ── new PID namespace ─▶ keeper (this program, process 1) ─┴▶ sealed memory ─▶ script
//!     ▲  output, bounded ◀─────────────────────────────────────────────────────────────────────────────────────┘
//!     └─ time-out, stop: SIGTERM to the script's group, 5 s, SIGKILL to the keeper
//! ```
//!
//! Promises: what runs is what was hashed, whatever happens to the file meanwhile. It runs as a user without rights, and nothing of it is left
//! when it has ended, was ended, or the agent is gone, because the kernel ends a PID namespace with its first process. What it writes is kept
//! within bounds, and nobody interprets it. It does not promise that a script runs once: the number of the attempt is in its context.

mod keeper;
mod library;
mod output;
mod process;
mod work_dir;

use std::{path::PathBuf, sync::Arc, time::Duration};

use nix::unistd::{Gid, Uid, User};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use understudy_ids::{RunId, ScriptName};

pub use keeper::run as keep;
pub use output::Output;
use process::Order;
pub use process::{Cause, Ended};

/// The keeper lives within it before the script does.
const LEAST_ADDRESS_SPACE: u64 = 256 << 20;
/// Below it an interpreter does not come up.
const LEAST_OPEN_FILES: u64 = 16;

/// Where scripts are, who they run as, and how much they may use.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptsConfig {
    /// The library. It and its files belong to root, and nobody else can write to them.
    pub dir: PathBuf,
    /// A name, or a number that need not have a name.
    #[serde(default = "defaults::user")]
    pub user: String,
    /// Below it each script has an empty directory for as long as it runs.
    #[serde(default = "defaults::work_dir")]
    pub work_dir: PathBuf,
    /// Scripts at once; more wait.
    #[serde(default = "defaults::concurrent")]
    pub concurrent: usize,
    /// Of each process.
    #[serde(default = "defaults::address_space_bytes")]
    pub address_space_bytes: u64,
    /// Of the user on this host, all together.
    #[serde(default = "defaults::processes")]
    pub processes: u64,
    /// Of each process.
    #[serde(default = "defaults::open_files")]
    pub open_files: u64,
    /// The program that keeps scripts; the one that runs when not given.
    #[serde(default)]
    pub keeper: Option<PathBuf>,
}

mod defaults {
    use std::path::PathBuf;

    pub fn user() -> String {
        "nobody".to_owned()
    }
    pub fn work_dir() -> PathBuf {
        "/run/understudy-scripts".into()
    }
    pub const fn concurrent() -> usize {
        4
    }
    pub const fn address_space_bytes() -> u64 {
        1 << 30
    }
    pub const fn processes() -> u64 {
        256
    }
    pub const fn open_files() -> u64 {
        256
    }
}

impl ScriptsConfig {
    pub fn problems(&self) -> Vec<String> {
        let Self { dir, user, work_dir, concurrent, address_space_bytes, processes, open_files, keeper: _ } =
            self;
        let rules = [
            (dir.is_absolute(), "dir: must be an absolute path".to_owned()),
            (work_dir.is_absolute(), "work_dir: must be an absolute path".to_owned()),
            (user != "root" && user != "0", "user: scripts do not run as root".to_owned()),
            (*concurrent > 0, "concurrent: must not be 0".to_owned()),
            (
                *address_space_bytes >= LEAST_ADDRESS_SPACE,
                format!("address_space_bytes: must be {LEAST_ADDRESS_SPACE} or more"),
            ),
            (*processes > 0, "processes: must not be 0".to_owned()),
            (*open_files >= LEAST_OPEN_FILES, format!("open_files: must be {LEAST_OPEN_FILES} or more")),
        ];
        rules.into_iter().filter(|(kept, _)| !kept).map(|(_, broken)| format!("scripts.{broken}")).collect()
    }
}

/// Why a script did not run.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    #[error("this agent has no library of scripts")]
    NotConfigured,
    #[error("there is no script {0} in this host's library")]
    NotFound(ScriptName),
    #[error("{path} is not used: {why}", path = path.display())]
    Refused { path: PathBuf, why: String },
    #[error("the script {script} has the SHA-256 {found} and not the one that the plan pins, {pinned}")]
    Changed { script: ScriptName, found: String, pinned: String },
    #[error("scripts cannot run as {user}: {why}")]
    User { user: String, why: String },
    #[error("the script could not be started: {0}")]
    NotStarted(String),
    #[error("it was told to stop before a place was free for the script")]
    Stopped,
}

/// One script, as it is asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    pub run: RunId,
    pub script: ScriptName,
    /// 64 lower-case hexadecimal digits.
    pub sha256: String,
    pub time_out: Duration,
    /// For its standard input.
    pub context: String,
}

/// The library and the places for what runs from it, if there is one.
#[derive(Clone)]
pub struct Scripts(Option<Arc<Inner>>);

struct Inner {
    config: ScriptsConfig,
    places: Semaphore,
}

impl Scripts {
    /// What an agent that was killed left of its scripts' directories is removed.
    pub fn new(config: Option<ScriptsConfig>) -> Self {
        Self(config.map(|config| {
            work_dir::sweep(&config.work_dir);
            Arc::new(Inner { places: Semaphore::new(config.concurrent), config })
        }))
    }

    /// Runs it, once, to its end: its own, that of its time, or that of `stop`.
    ///
    /// # Errors
    /// When it did not run at all.
    pub async fn run(&self, asked: Asked, stop: &CancellationToken) -> Result<Ended, ScriptError> {
        let inner = self.0.as_ref().ok_or(ScriptError::NotConfigured)?;
        let _place = tokio::select! {
            place = inner.places.acquire() => place.map_err(|_| ScriptError::Stopped)?,
            () = stop.cancelled() => return Err(ScriptError::Stopped),
        };
        let Asked { run, script, sha256, time_out, context } = asked;
        let config = inner.config.clone();
        let read = move || {
            let (uid, gid) = account(&config.user)?;
            let bytes = library::read(&config.dir, &script, &sha256)?;
            Ok(Order { config, uid, gid, run, script: bytes, time_out, context })
        };
        let order = tokio::task::spawn_blocking(read)
            .await
            .map_err(|error| ScriptError::NotStarted(error.to_string()))??;
        process::run(order, stop).await
    }
}

/// Looked up each time: an account may be made, or lose its rights, while the agent runs.
fn account(user: &str) -> Result<(Uid, Gid), ScriptError> {
    let bad = |why: String| ScriptError::User { user: user.to_owned(), why };
    let number = user.parse::<u32>().ok();
    let found = match number {
        Some(number) => User::from_uid(Uid::from_raw(number)),
        None => User::from_name(user),
    };
    let (uid, gid) = match (found.map_err(|error| bad(error.to_string()))?, number) {
        (Some(found), _) => (found.uid, found.gid),
        (None, Some(number)) => (Uid::from_raw(number), Gid::from_raw(number)),
        (None, None) => return Err(bad("there is no such user".to_owned())),
    };
    if uid.is_root() || gid.as_raw() == 0 {
        return Err(bad("it is root, or in root's group".to_owned()));
    }
    Ok((uid, gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_not_a_user_for_scripts() {
        for root in ["root", "0", "00"] {
            assert!(matches!(account(root), Err(ScriptError::User { .. })), "{root}");
        }
        assert!(matches!(account("no-such-user"), Err(ScriptError::User { .. })));
        assert_eq!(account("64123").unwrap(), (Uid::from_raw(64_123), Gid::from_raw(64_123)));
        assert!(account("nobody").is_ok());
    }

    #[test]
    fn settings_out_of_bounds_are_told_all_at_once() {
        let config = ScriptsConfig {
            dir: "scripts".into(),
            user: "root".to_owned(),
            work_dir: "work".into(),
            concurrent: 0,
            address_space_bytes: 1 << 20,
            processes: 0,
            open_files: 3,
            keeper: None,
        };
        assert_eq!(config.problems().len(), 7, "{:?}", config.problems());
    }
}
