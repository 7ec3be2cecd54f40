//! Loads, decides and commits; then carries out.
//!
//! ```text
//!   rpc ─▶ sites · protect · runs ──┐                      ┌─▶ outbox ─▶ job-tracker
//!   agents ─▶ facts, activation ────┤  decide (pure), one  │
//!   job-tracker ─▶ events ──────────┼─▶ transaction: state ┤
//!   the clock ─▶ timers ────────────┤  + audit + outbox    └─▶ (facts, events) ─▶ …
//!   facts ─▶ reconcile ─────────────┘
//! ```
//!
//! Any number of instances may run: what must happen once is decided under row locks and compare-and-set, and the background workers
//! claim their work in the database. Nothing is kept in memory that the database does not have.

pub mod activation;
pub mod alerts;
pub mod apply;
pub mod call;
pub mod changes;
pub mod connections;
pub mod events;
pub mod facts;
pub mod gather;
mod groups;
pub mod health;
pub mod inventory;
pub mod message;
pub mod outbox;
mod per_host;
pub mod protect;
pub mod reconcile;
mod recovery_plans;
pub mod runs;
pub mod scrub;
pub mod sites;
pub mod task;
pub mod timers;
pub mod view;

use std::{sync::Arc, time::Duration, time::SystemTime};

use futures::future::BoxFuture;
use sqlx::{PgConnection, Postgres, pool::PoolConnection};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use understudy_ids::UnixMicros;
use understudy_jobs_api::JobsClient;
use understudy_network_api::NetworkClient;
use understudy_pg::Pool;
use understudy_rpc::TlsFiles;

use crate::store::Failure;

/// What can be set about the runtime.
#[derive(Debug, Clone)]
pub struct Settings {
    /// A test that waits for longer is completed by force (R-TF-6).
    pub test_limit: Duration,
    /// Between two rounds of looking for overdue steps, expired tests and corrections.
    pub tick: Duration,
    /// Certificates with which agents are called.
    pub tls: TlsFiles,
    /// Under which job-tracker knows us.
    pub identity: String,
}

/// The orchestrator behind its API. Cheap to clone.
#[derive(Clone)]
pub struct Runtime(Arc<Inner>);

struct Inner {
    pool: Pool,
    jobs: JobsClient,
    network: NetworkClient,
    settings: Settings,
}

impl Runtime {
    pub fn new(pool: Pool, jobs: JobsClient, network: NetworkClient, settings: Settings) -> Self {
        Self(Arc::new(Inner { pool, jobs, network, settings }))
    }

    /// Runs the background workers until `shutdown`.
    pub async fn work(&self, shutdown: CancellationToken) {
        let mut workers = JoinSet::new();
        workers.spawn(outbox::run(self.clone(), shutdown.clone()));
        workers.spawn(events::run(self.clone(), shutdown.clone()));
        workers.spawn(facts::run(self.clone(), shutdown.clone()));
        workers.spawn(activation::run(self.clone(), shutdown.clone()));
        workers.spawn(timers::run(self.clone(), shutdown));
        workers.join_all().await;
    }

    pub fn pool(&self) -> &Pool {
        &self.0.pool
    }

    /// A connection for reading.
    async fn reader(&self) -> Result<PoolConnection<Postgres>, Failure> {
        Ok(self.0.pool.reader().acquire().await?)
    }

    /// Runs `work` in a transaction that ends whatever becomes of the caller; see [`Pool::write`].
    async fn write<T, F>(&self, work: F) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: for<'t> Fn(&'t mut PgConnection) -> BoxFuture<'t, Result<T, Failure>> + Send + Sync + 'static,
    {
        self.0.pool.write(work).await
    }
}

/// The time as it is handed to deciding code.
pub fn now() -> UnixMicros {
    SystemTime::now().into()
}
