//! A job-tracker in this process with a database and certificates of its own.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use understudy_ids::{TaskId, Uuid};
use understudy_job_tracker::{MIGRATIONS, config, rpc, runtime::Runtime};
use understudy_jobs_api::{
    Any, FILE_DESCRIPTOR_SET, JobState, JobUpdate, JobsClient, NewJob, NewTask, Worker, pack,
    v1::{self, job_service_client::JobServiceClient, worker_service_client::WorkerServiceClient},
};
use understudy_pg::TestDatabase;
use understudy_pki::{Authority, Identity, Validity};
use understudy_rpc::{
    Channel, ClientConfig, ExpectedPeer, Server, ServerConfig, ServiceKind, TlsFiles, connect,
};

pub const ORCHESTRATOR: &str = "service/orchestrator";
pub const MAPPER: &str = "service/network-mapper";
pub const AGENT: &str = "agent/alpha/h1";
pub const OTHER_AGENT: &str = "agent/bravo/h1";
pub const USER: &str = "user/ops";
pub const QUEUE: &str = "hosts/alpha/h1";

pub struct Tracker {
    pub database: Arc<TestDatabase>,
    pki: Arc<Pki>,
    leases: config::Leases,
    address: SocketAddr,
    instance: Option<Instance>,
}

struct Instance {
    shutdown: CancellationToken,
    runtime: Runtime,
    server: JoinHandle<()>,
}

impl Tracker {
    /// With a lease that no test waits for.
    pub async fn start() -> Self {
        Self::with_lease(Duration::from_secs(60)).await
    }

    pub async fn with_lease(lease: Duration) -> Self {
        Self::with(lease, Duration::from_millis(100)).await
    }

    /// With waits that only notifications shorten.
    pub async fn with_poll(poll: Duration) -> Self {
        Self::with(Duration::from_secs(60), poll).await
    }

    async fn with(lease: Duration, poll: Duration) -> Self {
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap();
        let mut tracker = Self {
            database: Arc::new(TestDatabase::new(&MIGRATIONS).await),
            pki: Arc::new(Pki::new()),
            leases: config::Leases { lease_ms: millis(lease), poll_ms: millis(poll) },
            address: "127.0.0.1:0".parse().unwrap(),
            instance: None,
        };
        tracker.serve().await;
        tracker
    }

    /// For an instance that runs as a process of its own, with a database that has no schema yet.
    pub async fn outside(address: SocketAddr) -> Self {
        Self {
            database: Arc::new(TestDatabase::empty().await),
            pki: Arc::new(Pki::new()),
            leases: config::Leases::default(),
            address,
            instance: None,
        }
    }

    pub fn tls_files(&self, identity: &str) -> TlsFiles {
        self.pki.files(identity)
    }

    /// Another instance with the same database, at an address of its own.
    pub async fn beside(&self) -> Self {
        let mut second = Self {
            database: Arc::clone(&self.database),
            pki: Arc::clone(&self.pki),
            leases: self.leases.clone(),
            address: "127.0.0.1:0".parse().unwrap(),
            instance: None,
        };
        second.serve().await;
        second
    }

    /// Starts an instance where the last one was.
    pub async fn serve(&mut self) {
        let config = ServerConfig::new(self.address, self.pki.files("service/job-tracker"));
        let server = Server::bind(config).await.unwrap();
        self.address = server.local_addr();
        let shutdown = CancellationToken::new();
        let pool = self.database.pool().clone();
        let runtime =
            Runtime::start(pool, self.leases.clone(), config::History::default(), shutdown.clone()).unwrap();
        let server = rpc::add_services(server, runtime.clone()).descriptors(FILE_DESCRIPTOR_SET);
        let stop = shutdown.clone();
        let server = tokio::spawn(async move { server.serve(stop).await.unwrap() });
        self.instance = Some(Instance { shutdown, runtime, server });
    }

    /// Ends the instance in an orderly way.
    pub async fn stop(&mut self) {
        let Instance { shutdown, runtime, server } = self.instance.take().unwrap();
        shutdown.cancel();
        server.await.unwrap();
        runtime.stopped().await;
    }

    /// Ends the instance as `kill -9` does: nothing is said to anyone, connections just break.
    pub async fn kill(&mut self) {
        let Instance { shutdown, runtime, server } = self.instance.take().unwrap();
        server.abort();
        let _ = server.await;
        // What a real kill ends as well.
        shutdown.cancel();
        runtime.stopped().await;
    }

    pub fn channel(&self, identity: &str) -> Channel {
        let files = self.pki.files(identity);
        let expect = ExpectedPeer::Service(ServiceKind::JobTracker);
        let endpoint = format!("https://{}", self.address);
        connect(ClientConfig::new(endpoint, files, expect, FILE_DESCRIPTOR_SET)).unwrap()
    }

    pub fn jobs(&self, identity: &str) -> JobsClient {
        JobsClient::new(self.channel(identity))
    }

    pub fn worker(&self, identity: &str) -> Worker {
        Worker::new(self.channel(identity))
    }

    pub fn raw_jobs(&self, identity: &str) -> JobServiceClient<Channel> {
        JobServiceClient::new(self.channel(identity)).max_encoding_message_size(64 << 20)
    }

    pub fn raw_worker(&self, identity: &str) -> WorkerServiceClient<Channel> {
        WorkerServiceClient::new(self.channel(identity))
    }

    /// Breaks every connection to the database.
    pub async fn cut_database(&self) {
        sqlx::query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .execute(self.database.pool().reader())
        .await
        .unwrap();
    }

    pub async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(self.database.pool().reader()).await.unwrap()
    }
}

struct Pki {
    directory: TempDir,
    authority: Authority,
}

impl Pki {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let authority = Authority::create(&directory.path().join("ca"), validity()).unwrap();
        Self { directory, authority }
    }

    fn files(&self, identity: &str) -> TlsFiles {
        let name = identity.replace('/', "-");
        let directory: &Path = self.directory.path();
        let file = |ending: &str| directory.join(format!("{name}.{ending}"));
        if !file("pem").exists() {
            let identity = Identity::from_path(identity).unwrap();
            self.authority.issue_to(&identity, validity(), directory, &name).unwrap();
        }
        TlsFiles { ca: directory.join("ca.pem"), certificate: file("pem"), key: file("key") }
    }
}

fn validity() -> Validity {
    Validity::starting(time::OffsetDateTime::now_utc(), Duration::from_secs(3600))
}

pub fn text(text: &str) -> Any {
    pack(&v1::GetJobRequest { name: text.to_owned() })
}

pub fn task(key: &str) -> NewTask {
    NewTask {
        id: TaskId::new_v4(),
        key: key.to_owned(),
        title: format!("do {key}"),
        queue: QUEUE.parse().unwrap(),
        payload: text(key),
        max_attempts: 3,
        not_before: None,
        traceparent: None,
    }
}

pub fn job(tasks: Vec<NewTask>) -> NewJob {
    NewJob {
        id: Uuid::new_v4(),
        kind: "test-failover".into(),
        targets: vec!["protectedItems/web1".into()],
        created_by: "user/ops".into(),
        labels: [("plan".to_owned(), "shop".to_owned())].into(),
        tasks,
    }
}

pub fn update(job: Uuid, state: JobState) -> JobUpdate {
    JobUpdate {
        job,
        owner_sequence: None,
        state,
        phase: "phase".into(),
        waiting_for: if state == JobState::Waiting { "a person".into() } else { String::new() },
        allowed_actions: vec!["cancel".into()],
        problems: Vec::new(),
        progress_percent: 10,
        report_json: None,
    }
}

/// Awaits a condition that no notification tells of.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "{what} did not come about");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
