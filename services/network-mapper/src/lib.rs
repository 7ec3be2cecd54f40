//! Owns networks, pools, mappings, address leases and machines' names in DNS, and decides where every NIC of a run goes.
//!
//! ```text
//!   operator ─▶ api ──▶ store ◀── tasks ◀── leased from job-tracker
//!                │          ▲      reserve and release what a run holds
//!                │          └ records ─▶ dns ─▶ primary servers of zones
//!                └─▶ netplan: where would the NICs of this run go, and what would their names say?
//! ```
//!
//! Planning has no effect; reserving takes exactly what was planned, or fails and says who has it. Any number of instances may run:
//! what two could do at once is decided by constraints of the database.

mod api;
mod config;
mod dns;
mod hooks;
mod records;
mod store;
mod tasks;

use std::sync::Arc;

use understudy_jobs_api::{Queue, Worker};
use understudy_pg::Pool;
use understudy_rpc::{ClientConfig, ExpectedPeer, Server, ServiceKind, connect};
use understudy_service::Context;

pub use api::{Api, RULES};
pub use config::Config;
pub use dns::{DnsConfig, Servers};
pub use hooks::{HookConfig, Hooks};
pub use store::MIGRATOR;
pub use tasks::Tasks;

/// Runs the service until it is told to end.
///
/// # Errors
/// When it cannot start: port, certificates, migrations.
pub async fn run(config: Config, context: Context) -> anyhow::Result<()> {
    let pool = tokio::select! {
        pool = Pool::connect(&config.database) => pool?,
        () = context.shutdown.cancelled() => return Ok(()),
    };
    pool.migrate(&MIGRATOR).await?;
    let channel = connect(ClientConfig::new(
        &config.job_tracker.endpoint,
        config.tls().clone(),
        ExpectedPeer::Service(ServiceKind::JobTracker),
        understudy_jobs_api::FILE_DESCRIPTOR_SET,
    ))?;
    let servers = Servers::new(config.dns.clone());
    servers.warn_of_keys();
    let hooks = Hooks::new(config.traffic_hooks.clone());
    let worker = tokio::spawn({
        let tasks = Arc::new(Tasks::new(pool.clone(), servers.clone(), hooks.clone()));
        let shutdown = context.shutdown.clone();
        let slots = config.slots;
        async move { Worker::new(channel).run(Queue::NetworkMapper, slots, tasks, shutdown).await }
    });
    Server::bind(config.server)
        .await?
        .descriptors(understudy_network_api::FILE_DESCRIPTOR_SET)
        .add_service(understudy_network_api::service(Arc::new(Api::new(pool.clone(), servers, hooks))), RULES)
        .metrics(context.metrics_page())
        .serve(context.shutdown)
        .await?;
    worker.await?;
    pool.close().await;
    Ok(())
}
