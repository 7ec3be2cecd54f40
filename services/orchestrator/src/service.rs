//! Puts the service together: database, clients of the other services, API, background workers.

use std::{net::SocketAddr, time::Duration};

use tokio_util::sync::CancellationToken;
use understudy_jobs_api::JobsClient;
use understudy_network_api::NetworkClient;
use understudy_pg::Pool;
use understudy_recovery_api::{FILE_DESCRIPTOR_SET, SERVICES};
use understudy_rpc::{
    Channel, ClientConfig, ConnectError, ExpectedPeer, Health, Identity, Server, ServiceKind, connect,
};

use crate::{
    config::{Config, Peer},
    rpc,
    runtime::{Runtime, Settings},
    store::MIGRATIONS,
};

/// How often it is looked whether the database is there.
const HEALTH_EVERY: Duration = Duration::from_secs(2);

/// The service with its port and its schema, not serving yet.
pub struct Service {
    server: Server,
    runtime: Runtime,
}

impl Service {
    /// Takes the port, waits for Postgres, and brings the schema up to date.
    ///
    /// # Errors
    /// What waiting does not heal: a port that is taken, certificates that cannot be read, a wrong database.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let server = Server::bind(config.server.clone()).await?;
        let pool = Pool::connect(&config.database).await?;
        pool.migrate(&MIGRATIONS).await?;
        let runtime = runtime(&config, pool)?;
        Ok(Self { server, runtime })
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Serves and works until `shutdown`.
    ///
    /// # Errors
    /// When the server cannot be put together: a mistake of this program.
    pub async fn serve(
        self,
        shutdown: CancellationToken,
        metrics: impl Fn() -> String + Send + Sync + 'static,
    ) -> anyhow::Result<()> {
        let Self { server, runtime } = self;
        let health = tokio::spawn(watch_database(runtime.pool().clone(), server.health(), shutdown.clone()));
        let work = tokio::spawn({
            let (runtime, shutdown) = (runtime.clone(), shutdown.clone());
            async move { runtime.work(shutdown).await }
        });
        let server = rpc::add_services(server, &runtime).descriptors(FILE_DESCRIPTOR_SET).metrics(metrics);
        let served = server.serve(shutdown.clone()).await;
        // The server may also have ended with an error; the workers must not outlive it.
        shutdown.cancel();
        work.await?;
        health.await?;
        runtime.pool().close().await;
        Ok(served?)
    }
}

fn runtime(config: &Config, pool: Pool) -> Result<Runtime, ConnectError> {
    let dial = |peer: &Peer, kind, descriptors| -> Result<Channel, ConnectError> {
        let expect = ExpectedPeer::Service(kind);
        let mut client = ClientConfig::new(&peer.endpoint, config.server.tls.clone(), expect, descriptors);
        client.deadline = Duration::from_secs(peer.deadline_s);
        connect(client)
    };
    let jobs = dial(&config.job_tracker, ServiceKind::JobTracker, understudy_jobs_api::FILE_DESCRIPTOR_SET)?;
    let network = dial(
        &config.network_mapper,
        ServiceKind::NetworkMapper,
        understudy_network_api::FILE_DESCRIPTOR_SET,
    )?;
    let settings = Settings {
        test_limit: config.runs.test_limit(),
        tick: config.runs.tick(),
        tls: config.server.tls.clone(),
        identity: Identity::Service(ServiceKind::Orchestrator).to_string(),
    };
    Ok(Runtime::new(pool, JobsClient::new(jobs), NetworkClient::new(network), settings))
}

/// Without its database the service can neither read nor decide, and says so to load balancers.
async fn watch_database(pool: Pool, health: Health, shutdown: CancellationToken) {
    let mut known = None;
    loop {
        let there = sqlx::query("SELECT 1").execute(pool.reader()).await.is_ok();
        if known != Some(there) {
            for service in SERVICES.into_iter().chain([""]) {
                health.set(service, there).await;
            }
            known = Some(there);
        }
        tokio::select! {
            () = tokio::time::sleep(HEALTH_EVERY) => {}
            () = shutdown.cancelled() => return,
        }
    }
}
