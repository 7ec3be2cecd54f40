//! A stage: job-tracker, orchestrators, played agents and network-mapper, all over mutual TLS on the loopback.

use std::{collections::BTreeSet, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use understudy_estate::{Estate, Mapper, Players};
use understudy_ids::{HostName, ItemName, RunId, Uuid};
use understudy_jobs_api::JobsClient;
use understudy_orchestrator::{
    Config, Service,
    config::{Peer, Runs},
};
use understudy_pg::TestDatabase;
use understudy_pki::{Authority, Identity, Validity};
use understudy_recovery_api::{
    FILE_DESCRIPTOR_SET, ItemState, MachineRef, Operation, RecoveryClient, RequestId, RunState, SiteKind,
    request::{
        CompleteTest, CreateHost, CreatePolicy, CreateSite, PolicySettings, ProtectMachine, RunSpec, RunVerb,
        StartRun,
    },
    view::{ProtectedItem, Run},
};
use understudy_replication::{AppConsistency, Bandwidth, Compression, ReplicationSettings, Tier};
use understudy_rpc::{
    ApiError, Channel, ClientConfig, ExpectedPeer, Server, ServerConfig, ServiceKind, TlsFiles, connect,
};

/// Long enough for a machine that does much else, such as a lab's guests.
const PATIENCE: Duration = Duration::from_secs(120);

pub const ALPHA: &str = "alpha/h1";
pub const BRAVO: &str = "bravo/h1";
const ANY_PORT: &str = "127.0.0.1:0";

pub struct Stage {
    pub estate: Arc<Estate>,
    pub mapper: Arc<Mapper>,
    pub database: TestDatabase,
    pub runs: Runs,
    pki: Pki,
    tracker: Peer,
    network: Peer,
    /// Where each agent tells its facts.
    agents: Vec<(HostName, SocketAddr)>,
    /// Ends everything but the orchestrators.
    props: CancellationToken,
    _jobs: TestDatabase,
}

/// One instance of the orchestrator, with threads of its own.
pub struct Instance {
    pub client: RecoveryClient,
    address: SocketAddr,
    threads: Option<Runtime>,
}

impl Instance {
    /// Ends it without a word to anyone, as a crash does: whatever it was awaiting is never continued.
    pub fn crash(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.end();
    }
}

impl Stage {
    /// Two hosts, with `web1` and `db1` running at alpha; nothing is known to the orchestrator yet.
    pub async fn set() -> Self {
        let estate = Estate::new(&[ALPHA, BRAVO]);
        estate.add_machine(ALPHA, "web1", &["vda"], 11);
        estate.add_machine(ALPHA, "db1", &["vda", "vdb"], 12);
        let (pki, props, mapper) = (Pki::new(), CancellationToken::new(), Arc::<Mapper>::default());
        let jobs = TestDatabase::new(&understudy_job_tracker::MIGRATIONS).await;
        let tracker = serve_tracker(&pki, &jobs, &props).await;
        let tracker = format!("https://{tracker}");
        let files = |identity: &str| pki.files(identity);
        let players = Players { estate: &estate, files: &files, tracker: &tracker, slots: 8, until: &props };
        let network = players.mapper(&mapper).await;
        let mut agents = Vec::new();
        for host in [ALPHA, BRAVO] {
            let host: HostName = host.parse().unwrap();
            let address = players.agent(&host).await;
            agents.push((host, address));
        }
        Self {
            estate,
            mapper,
            database: TestDatabase::empty().await,
            runs: Runs { tick_ms: 50, ..Runs::default() },
            pki,
            tracker: Peer::new(tracker),
            network: Peer::new(format!("https://{network}")),
            agents,
            props,
            _jobs: jobs,
        }
    }

    /// Starts an orchestrator with the stage's database.
    pub async fn orchestrator(&self) -> Instance {
        let tls = self.pki.files("service/orchestrator");
        let config = Config {
            server: ServerConfig::new(ANY_PORT.parse().unwrap(), tls),
            database: self.database.config().clone(),
            job_tracker: self.tracker.clone(),
            network_mapper: self.network.clone(),
            runs: self.runs.clone(),
            telemetry: understudy_telemetry::Config::default(),
        };
        let threads =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (address, bound) = tokio::sync::oneshot::channel();
        threads.spawn(async move {
            let service = Service::start(config).await.unwrap();
            address.send(service.local_addr()).unwrap();
            service.serve(CancellationToken::new(), String::new).await.unwrap();
        });
        let address = bound.await.unwrap();
        let client = RecoveryClient::new(self.channel(address, "user/ops"));
        Instance { client, address, threads: Some(threads) }
    }

    pub fn channel(&self, address: SocketAddr, identity: &str) -> Channel {
        let expect = ExpectedPeer::Service(ServiceKind::Orchestrator);
        let endpoint = format!("https://{address}");
        connect(ClientConfig::new(endpoint, self.pki.files(identity), expect, FILE_DESCRIPTOR_SET)).unwrap()
    }

    pub fn client_as(&self, instance: &Instance, identity: &str) -> RecoveryClient {
        RecoveryClient::new(self.channel(instance.address, identity))
    }

    pub fn jobs(&self) -> JobsClient {
        JobsClient::new(self.jobs_channel())
    }

    pub fn jobs_channel(&self) -> Channel {
        let expect = ExpectedPeer::Service(ServiceKind::JobTracker);
        let files = self.pki.files("user/ops");
        let descriptors = understudy_jobs_api::FILE_DESCRIPTOR_SET;
        let config = ClientConfig::new(&self.tracker.endpoint, files, expect, descriptors);
        connect(config).unwrap()
    }

    /// Makes sites, hosts and a policy known and waits until both hosts are heard.
    pub async fn introduce(&self, client: &RecoveryClient) {
        for site in ["alpha", "bravo"] {
            let site = site.parse().unwrap();
            let kind = SiteKind::Hypervisor;
            let request = CreateSite { site, kind, description: String::new(), request_id: fresh() };
            client.create_site(request).await.unwrap();
        }
        for (host, address) in &self.agents {
            let request = CreateHost {
                host: host.clone(),
                facts_endpoint: format!("https://{address}"),
                sink_endpoint: format!("https://{address}"),
                request_id: fresh(),
            };
            client.create_host(request).await.unwrap();
        }
        client.create_policy(gold()).await.unwrap();
        for (host, _) in &self.agents {
            eventually(&format!("{host} is heard"), async || client.get_host(host).await.unwrap().connected)
                .await;
        }
    }

    pub async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(self.database.pool().reader()).await.unwrap()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.props.cancel();
    }
}

async fn serve_tracker(pki: &Pki, database: &TestDatabase, props: &CancellationToken) -> SocketAddr {
    use understudy_job_tracker::{config, rpc, runtime};
    let config = ServerConfig::new(ANY_PORT.parse().unwrap(), pki.files("service/job-tracker"));
    let server = Server::bind(config).await.unwrap();
    let address = server.local_addr();
    let leases = config::Leases { poll_ms: 50, ..config::Leases::default() };
    let pool = database.pool().clone();
    let runtime = runtime::Runtime::start(pool, leases, config::History::default(), props.clone()).unwrap();
    let server = rpc::add_services(server, runtime).descriptors(understudy_jobs_api::FILE_DESCRIPTOR_SET);
    let stop = props.clone();
    tokio::spawn(async move { server.serve(stop).await.unwrap() });
    address
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

pub fn fresh() -> RequestId {
    RequestId::new(Uuid::new_v4())
}

pub fn item(name: &str) -> ItemName {
    name.parse().unwrap()
}

pub fn gold() -> CreatePolicy {
    CreatePolicy {
        policy: "gold".parse().unwrap(),
        settings: PolicySettings {
            interval: Duration::from_secs(5),
            rpo_objective: Duration::from_secs(60),
            keep_count: 8,
            keep_age: Duration::from_secs(3600),
            keep_tiers: vec![Tier { every: Duration::from_secs(3600), age: Duration::from_secs(86_400) }],
            shutdown_grace: Duration::from_secs(30),
            activation_lease: None,
            power_off_after_grace: true,
            replication: ReplicationSettings {
                compression: Compression::Off,
                app_consistency: Some(AppConsistency {
                    every: Duration::from_secs(3600),
                    freeze_limit: Duration::from_millis(2500),
                }),
                bandwidth: Bandwidth {
                    windows: vec!["mon-fri 08:00-18:00 50MiB".parse().unwrap()],
                    ..Bandwidth::default()
                },
                encrypt_for: vec![include_str!("recipient.pem").to_owned()],
            },
        },
        request_id: fresh(),
    }
}

pub fn protect(name: &str) -> ProtectMachine {
    ProtectMachine {
        item: item(name),
        machine: MachineRef { host: ALPHA.parse().unwrap(), machine: name.parse().unwrap() },
        target: BRAVO.parse().unwrap(),
        policy: "gold".parse().unwrap(),
        excluded: BTreeSet::new(),
        seed: None,
        request_id: fresh(),
        validate_only: false,
    }
}

pub fn spec(operation: Operation, items: &[&str]) -> RunSpec {
    RunSpec::new(operation, items.iter().map(|name| item(name)).collect())
}

/// Protects the machine of that name and waits until it is.
pub async fn protected(client: &RecoveryClient, name: &str) -> ProtectedItem {
    client.protect_machine(protect(name)).await.unwrap();
    in_state(client, name, ItemState::Protected).await
}

pub async fn in_state(client: &RecoveryClient, name: &str, state: ItemState) -> ProtectedItem {
    let name = item(name);
    eventually(&format!("{name} is {state}"), async || {
        client.get_item(&name).await.is_ok_and(|item| item.state == state && item.run.is_none())
    })
    .await;
    client.get_item(&name).await.unwrap()
}

/// Previews and starts.
pub async fn start(client: &RecoveryClient, spec: RunSpec) -> Result<Run, ApiError> {
    let preview = client.preview_run(spec.clone()).await?;
    assert_eq!(preview.problems, [], "the preview finds nothing against it");
    client.start_run(StartRun { spec, plan_digest: preview.digest, request_id: fresh() }).await
}

pub async fn until(client: &RecoveryClient, run: RunId, state: RunState) -> Run {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        // An orchestrator that is just starting answers a moment later.
        if let Ok(seen) = client.get_run(run).await {
            if seen.state == state {
                return seen;
            }
            assert!(tokio::time::Instant::now() < deadline, "{run} is not {state}: {seen:#?}");
        }
        assert!(tokio::time::Instant::now() < deadline, "{run} is not {state}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn verb(run: RunId) -> RunVerb {
    RunVerb { run, request_id: fresh() }
}

pub fn complete(run: RunId, notes: &str) -> CompleteTest {
    CompleteTest { run, notes: notes.to_owned(), request_id: fresh() }
}

pub fn reasons(error: &ApiError) -> Vec<String> {
    error.problems.iter().map(|problem| problem.reason.to_string()).collect()
}

/// Awaits a condition that no notification tells of.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "{what} did not come about");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
