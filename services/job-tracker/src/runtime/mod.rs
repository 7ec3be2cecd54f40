//! What job-tracker does, apart from how it is asked and how it is stored.
//!
//! ```text
//!   jobs.rs    create · enqueue · update · cancel · note        one transaction each: change, audit, events
//!   group.rs   what many ask for at once becomes one transaction: updates, completions
//!   waiting.rs waits for the end of a job
//!   leases.rs  lease · renew · complete                         fenced by attempt
//!   watch.rs   read events after a position, again and again
//!   tending.rs expired leases · old history · queue depths      every instance, in the background
//!   wake.rs    NOTIFY from Postgres ─▶ everybody here who waits
//! ```

mod error;
mod group;
mod jobs;
mod leases;
mod tending;
mod token;
mod waiting;
mod wake;
mod watch;

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use understudy_jobs::LeaseTerm;
use understudy_pg::{Pool, WriteError};

use crate::{
    config::{History, Leases},
    store,
};

pub use error::Error;
pub use leases::{Credits, Session};
pub use watch::{Seen, Watch};

use group::Group;
use wake::Wake;

pub(crate) type Result<T> = std::result::Result<T, Error>;

impl WriteError for Error {
    fn database(&self) -> Option<&understudy_pg::Error> {
        match self {
            Self::Database(error) => Some(error),
            _ => None,
        }
    }
}

/// Everything that calls share. Cheap to clone.
#[derive(Clone)]
pub struct Runtime(Arc<Shared>);

struct Shared {
    pool: Pool,
    updates: Group<jobs::Update>,
    completions: Group<leases::Completing>,
    term: LeaseTerm,
    poll: Duration,
    tasks: Wake,
    events: Wake,
    /// Places for those who wait for the end of a job; other calls have room beside them.
    waiters: Semaphore,
    shutdown: CancellationToken,
    background: TaskTracker,
}

impl Runtime {
    /// Starts what runs in the background; it ends with `shutdown`.
    ///
    /// # Errors
    /// When the database's URL or the lease cannot be used.
    pub fn start(
        pool: Pool,
        leases: Leases,
        history: History,
        shutdown: CancellationToken,
    ) -> anyhow::Result<Self> {
        let term = LeaseTerm::new(Duration::from_millis(leases.lease_ms))?;
        let poll = Duration::from_millis(leases.poll_ms);
        let background = TaskTracker::new();
        let tasks = Wake::start(&pool, store::task::CHANNEL, poll, &background, shutdown.clone())?;
        let events = Wake::start(&pool, store::event::CHANNEL, poll, &background, shutdown.clone())?;
        let waiters = Semaphore::new(waiting::MAX_WAITERS);
        let (updates, completions) = (Group::start(&pool), Group::start(&pool));
        let shared =
            Shared { pool, updates, completions, term, poll, tasks, events, waiters, shutdown, background };
        let runtime = Self(Arc::new(shared));
        runtime.0.background.spawn(tending::expire_leases(runtime.clone()));
        runtime.0.background.spawn(tending::purge_history(runtime.clone(), history));
        runtime.0.background.spawn(tending::measure(runtime.clone()));
        runtime.0.background.close();
        Ok(runtime)
    }

    /// Waits until the background has ended after a shutdown.
    pub async fn stopped(&self) {
        self.0.background.wait().await;
    }

    /// Cancelled when the process is to end; streams end then, so that their clients go to another instance.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.0.shutdown
    }

    fn pool(&self) -> &Pool {
        &self.0.pool
    }
}
