//! Two hosts, a link between them that can be cut, and a machine whose content the test knows.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{runtime::Runtime, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use understudy_hypervisor::{
    Bus, DiskHardware, Firmware, Hardware, Hypervisor, MachineDefinition, MachineTag, NicHardware, TagRole,
    simulated::{self, SimulatedHypervisor},
};
use understudy_ids::{DiskName, Generation, HostName, ItemName, MachineName, PointSeq, Uuid};
use understudy_jobs_api::TaskContext;
use understudy_pki::{Authority, Identity, Validity};
use understudy_replica_store::qcow2::{Chain, Writer};
use understudy_replication::{ReplicationSettings, RetentionPolicy};
use understudy_replication_agent::{
    agent::Agent,
    config::{Config, HypervisorConfig},
    facts::FactsHub,
    ledger::{ItemRecord, read_record},
    scripts::ScriptsConfig,
    scrub::ScrubConfig,
    source::{CycleLimits, Sources},
    tasks::{TaskError, Tasks},
};
use understudy_replication_api::{
    Action, ActivationHandler, AgentTask, AgentTaskResult, DiskSize, Facts, FactsSource, ItemFacts,
    KeyClient, SinkClient, StartReplication,
    activation::{Lease, Pulse, Renewal, Renewed},
};
use understudy_rpc::{ApiError, TlsFiles};

pub const BLOCK: u64 = 65_536;
/// Long enough for a slow machine, short enough to notice a hang.
const PATIENCE: Duration = Duration::from_secs(30);

/// No guest of these hosts has it open.
pub const CLOSED_PORT: u16 = 9;

pub fn item() -> ItemName {
    "web1".parse().unwrap()
}

pub fn machine() -> MachineName {
    "web1".parse().unwrap()
}

pub fn disk(name: &str) -> DiskName {
    name.parse().unwrap()
}

pub const fn generation(n: u64) -> Generation {
    Generation::new(n)
}

/// Polls until `condition` gives something.
pub fn wait<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A TCP relay whose target may move and which can cut the connection after so many bytes.
pub struct Link {
    pub address: SocketAddr,
    target: Arc<Mutex<Option<SocketAddr>>>,
    /// Bytes that may still pass towards the target.
    budget: Arc<AtomicI64>,
    passed: Arc<AtomicU64>,
}

impl Link {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = Self {
            address: listener.local_addr().unwrap(),
            target: Arc::default(),
            budget: Arc::new(AtomicI64::new(i64::MAX)),
            passed: Arc::default(),
        };
        let (target, budget, passed) = (link.target.clone(), link.budget.clone(), link.passed.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Some(address) = *target.lock().unwrap() else { continue };
                let Ok(server) = TcpStream::connect(address) else { continue };
                let (up, down) =
                    ((client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client));
                let (budget, passed) = (budget.clone(), passed.clone());
                std::thread::spawn(move || {
                    relay(up.0, up.1, |n| {
                        passed.fetch_add(n as u64, Ordering::Relaxed);
                        budget.fetch_sub(n as i64, Ordering::Relaxed) > n as i64
                    })
                });
                std::thread::spawn(move || relay(down.0, down.1, |_| true));
            }
        });
        link
    }

    /// After so many more bytes every connection breaks, and new ones with the next byte.
    pub fn cut_after(&self, bytes: i64) {
        self.budget.store(bytes, Ordering::Relaxed);
    }

    pub fn mend(&self) {
        self.budget.store(i64::MAX, Ordering::Relaxed);
    }

    pub fn is_cut(&self) -> bool {
        self.budget.load(Ordering::Relaxed) <= 0
    }

    /// Bytes that have passed towards the target.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }
}

fn relay(mut from: TcpStream, mut to: TcpStream, may_pass: impl Fn(usize) -> bool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n) = from.read(&mut buffer) {
        if n == 0 || !may_pass(n) || to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// A host with its agent, which may be down.
pub struct Host {
    pub name: HostName,
    pub dir: PathBuf,
    pub hypervisor: SimulatedHypervisor,
    /// Where peers find this host's sink, whatever port the agent has.
    pub link: Link,
    /// How many cycles the next agent here runs at once.
    pub cycles: CycleLimits,
    /// How the next agent here scrubs.
    pub scrub: ScrubConfig,
    /// The library of the next agent here.
    pub scripts: Option<ScriptsConfig>,
    tls: TlsFiles,
    outside: Runtime,
    agent: Option<Running>,
}

struct Running {
    runtime: Runtime,
    tasks: Tasks,
    facts: FactsHub,
    control: String,
    shutdown: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Host {
    fn new(root: &Path, authority: &Authority, name: &str) -> Self {
        let name: HostName = name.parse().unwrap();
        let dir = root.join(name.host());
        let identity = Identity::Agent(name.clone());
        let validity = Validity::starting(std::time::SystemTime::now().into(), Validity::DEFAULT);
        authority.issue_to(&identity, validity, &dir.join("pki"), "agent").unwrap();
        let file = |f: &str| dir.join("pki").join(f);
        let tls = TlsFiles { ca: file("ca.pem"), certificate: file("agent.pem"), key: file("agent.key") };
        std::fs::write(dir.join("boot"), "boot-1\n").unwrap();
        let mut machines = simulated::Config::new(dir.join("machines"));
        machines.closed_ports = vec![CLOSED_PORT];
        let hypervisor = SimulatedHypervisor::open(machines).unwrap();
        let outside =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Self {
            name,
            dir,
            hypervisor,
            link: Link::new(),
            cycles: CycleLimits::default(),
            scrub: ScrubConfig::default(),
            scripts: None,
            tls,
            outside,
            agent: None,
        }
    }

    pub fn config(&self) -> Config {
        Config {
            site: self.name.site().clone(),
            host: self.name.host().to_owned(),
            store_dir: self.dir.join("store"),
            state_dir: self.dir.join("state"),
            seed_dir: Some(self.dir.join("media")),
            tls: self.tls.clone(),
            control_listen: "127.0.0.1:0".parse().unwrap(),
            bulk_listen: "127.0.0.1:0".parse().unwrap(),
            job_tracker: "https://127.0.0.1:1".to_owned(),
            hypervisor: HypervisorConfig::Simulated(simulated::Config::new(self.dir.join("machines"))),
            slots: 2,
            boot_id_file: self.dir.join("boot"),
            shutdown_grace_s: 2,
            cycles: self.cycles,
            scrub: self.scrub,
            scripts: self.scripts.clone(),
            telemetry: Default::default(),
        }
    }

    pub fn start_agent(&mut self) {
        assert!(self.agent.is_none(), "the agent runs already");
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let shutdown = CancellationToken::new();
        let opened =
            runtime.block_on(Agent::open(self.config(), Arc::new(self.hypervisor.clone()), shutdown.clone()));
        let agent = opened.unwrap();
        let port = agent.bulk_endpoint().rsplit(':').next().unwrap().parse().unwrap();
        *self.link.target.lock().unwrap() = Some(SocketAddr::from(([127, 0, 0, 1], port)));
        let (tasks, facts, control) = (agent.tasks(), agent.facts(), agent.control_endpoint());
        let running = runtime.spawn(agent.run());
        self.agent = Some(Running { runtime, tasks, facts, control, shutdown, running });
    }

    /// The agent's process is gone from one moment to the next; what its guests do goes on.
    pub fn kill_agent(&mut self) {
        *self.link.target.lock().unwrap() = None;
        if let Some(Running { runtime, .. }) = self.agent.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }

    /// Asks the agent to end as an operator would, and waits for it. Returns how long it took.
    pub fn stop_agent(&mut self) -> Duration {
        let began = Instant::now();
        if let Some(agent) = self.agent.take() {
            agent.shutdown.cancel();
            agent.runtime.block_on(agent.running).unwrap().unwrap();
            agent.runtime.shutdown_timeout(Duration::from_secs(5));
        }
        began.elapsed()
    }

    /// A client of another host's sink that shows this host's certificate.
    pub fn sink_client(&self, of: &Host) -> SinkClient {
        let endpoint = format!("https://{}", of.link.address);
        self.block_on(async { SinkClient::new(&endpoint, self.tls.clone(), &of.name) }).unwrap()
    }

    /// A client that lends this host keys, with the certificate of `identity`.
    pub fn key_client(&self, authority: &Authority, identity: &Identity) -> KeyClient {
        let dir = self.dir.join("pki-of-callers").join(identity.to_string().replace(['/', ':'], "-"));
        let validity = Validity::starting(std::time::SystemTime::now().into(), Validity::DEFAULT);
        authority.issue_to(identity, validity, &dir, "caller").unwrap();
        let file = |f: &str| dir.join(f);
        let tls = TlsFiles { ca: file("ca.pem"), certificate: file("caller.pem"), key: file("caller.key") };
        let control = &self.agent.as_ref().expect("the agent runs").control;
        self.block_on(async { KeyClient::new(control, tls, &self.name) }).unwrap()
    }

    pub fn perform(&self, generation: u64, run: Uuid, action: Action) -> Result<AgentTaskResult, TaskError> {
        self.perform_for(item(), generation, run, action)
    }

    pub fn perform_for(
        &self,
        item: ItemName,
        generation: u64,
        run: Uuid,
        action: Action,
    ) -> Result<AgentTaskResult, TaskError> {
        let Running { runtime, tasks, .. } = self.agent.as_ref().expect("the agent runs");
        let task = AgentTask { item, generation: Generation::new(generation), run, action };
        // As it travels.
        let task = AgentTask::from_any(&task.to_any()).unwrap();
        let (context, ..) = TaskContext::detached();
        runtime.block_on(tasks.perform(task, &context))
    }

    /// Performs a task that is told to stop as soon as it says that it is so far, in percent.
    pub fn perform_and_stop_at(
        &self,
        generation: u64,
        run: Uuid,
        action: Action,
        percent: u32,
    ) -> Result<AgentTaskResult, TaskError> {
        let Running { runtime, tasks, .. } = self.agent.as_ref().expect("the agent runs");
        let task = AgentTask { item: item(), generation: Generation::new(generation), run, action };
        let (context, stop, mut progress) = TaskContext::detached();
        runtime.spawn(async move {
            if progress.wait_for(|told| told.percent >= percent).await.is_ok() {
                stop.cancel();
            }
        });
        runtime.block_on(tasks.perform(task, &context))
    }

    /// Begins a task and does not wait for it.
    pub fn begin(&self, run: Uuid, action: Action) {
        let Running { runtime, tasks, .. } = self.agent.as_ref().expect("the agent runs");
        let task = AgentTask { item: item(), generation: Generation::new(1), run, action };
        let tasks = tasks.clone();
        runtime.spawn(async move {
            let (context, _stop, _progress) = TaskContext::detached();
            tasks.perform(task, &context).await
        });
    }

    /// Performs a task that is told to stop as soon as something has happened.
    pub fn perform_and_stop_when(
        &self,
        action: Action,
        run: Uuid,
        happened: impl Fn() -> bool + Send + 'static,
    ) -> Result<AgentTaskResult, TaskError> {
        let Running { runtime, tasks, .. } = self.agent.as_ref().expect("the agent runs");
        let task = AgentTask { item: item(), generation: Generation::new(1), run, action };
        let (context, stop, ..) = TaskContext::detached();
        let watching = std::thread::spawn(move || {
            wait("it to be under way", || happened().then_some(()));
            stop.cancel();
        });
        let performed = runtime.block_on(tasks.perform(task, &context));
        watching.join().unwrap();
        performed
    }

    /// Performs a task twice: it must come to the same end (invariant 3).
    pub fn twice(&self, generation: u64, run: Uuid, action: Action) -> AgentTaskResult {
        let name = action.name();
        let first = self.perform(generation, run, action.clone()).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        let second = self.perform(generation, run, action).unwrap_or_else(|e| panic!("{name} again: {e:?}"));
        assert_eq!(std::mem::discriminant(&first), std::mem::discriminant(&second), "{name}");
        first
    }

    /// Answers a pulse of the host: `length` for the machine, counted from now.
    pub fn renew(&self, generation: u64, length: Duration) -> Result<Renewed, ApiError> {
        let answers = self.pulse();
        self.renew_by(answers, generation, length)
    }

    pub fn renew_by(&self, answers: Pulse, generation: u64, length: Duration) -> Result<Renewed, ApiError> {
        let machine_uuid = self.block_on(self.hypervisor.machine(&machine())).unwrap().map(|m| m.uuid);
        let lease = Lease {
            item: item(),
            generation: Generation::new(generation),
            length,
            machine: machine(),
            machine_uuid: machine_uuid.unwrap_or_default(),
        };
        let Running { runtime, tasks, .. } = self.agent.as_ref().expect("the agent runs");
        runtime.block_on(tasks.activation.renew(Renewal {
            answers,
            leases: vec![lease],
            released: Vec::new(),
        }))
    }

    pub fn pulse(&self) -> Pulse {
        let Running { runtime, tasks, .. } = self.agent.as_ref().expect("the agent runs");
        runtime.block_on(tasks.activation.pulse()).unwrap()
    }

    /// The item is to be bound by a lease no longer.
    pub fn release(&self) -> Renewed {
        let Running { runtime, tasks, .. } = self.agent.as_ref().expect("the agent runs");
        let renewal = Renewal { answers: self.pulse(), leases: Vec::new(), released: vec![item()] };
        runtime.block_on(tasks.activation.renew(renewal)).unwrap()
    }

    pub fn sources(&self) -> Sources {
        self.agent.as_ref().expect("the agent runs").tasks.sources.clone()
    }

    pub fn facts(&self) -> Facts {
        let Running { runtime, facts, .. } = self.agent.as_ref().expect("the agent runs");
        runtime.block_on(facts.facts()).unwrap()
    }

    pub fn item_facts(&self) -> Option<ItemFacts> {
        self.facts().items.into_iter().find(|i| i.item == item())
    }

    pub fn record(&self) -> Option<ItemRecord> {
        read_record(&self.dir.join("state"), &item()).unwrap()
    }

    /// The numbers of the points in the store, read from the files.
    pub fn points(&self) -> Vec<u64> {
        let Ok(entries) = std::fs::read_dir(self.dir.join("store/items/web1/points")) else {
            return Vec::new();
        };
        let mut found: Vec<u64> = entries
            .flatten()
            .filter(|e| e.path().join("manifest.json").exists())
            .filter_map(|e| e.file_name().to_str().and_then(|n| n.parse().ok()))
            .collect();
        found.sort_unstable();
        found
    }

    pub fn latest(&self) -> u64 {
        self.points().last().copied().unwrap_or(0)
    }

    /// The content of a point's disk, read through its files.
    pub fn content(&self, seq: u64, name: &str) -> Vec<u8> {
        read(&self.dir.join(format!("store/items/web1/points/{seq}/disk-{name}.qcow2")))
    }

    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.outside.block_on(future)
    }

    pub fn power(&self, name: &MachineName) -> Option<understudy_hypervisor::PowerState> {
        self.block_on(self.hypervisor.machine(name)).unwrap().map(|m| m.power)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill_agent();
    }
}

pub fn read(path: &Path) -> Vec<u8> {
    let mut chain = Chain::open(path).unwrap();
    let mut content = vec![0; chain.size() as usize];
    for (n, part) in content.chunks_mut(BLOCK as usize).enumerate() {
        chain.read(n as u64 * BLOCK, part).unwrap();
    }
    content
}

/// What the machine's disks hold, as the test knows it.
pub struct Model {
    pub disks: BTreeMap<&'static str, Vec<u8>>,
    random: u64,
}

impl Model {
    fn next(&mut self, below: u64) -> u64 {
        // xorshift64: the test needs variety, not quality.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    /// Writes `count` times somewhere, as the guest and in the model.
    pub fn write(&mut self, host: &Host, count: usize) {
        for _ in 0..count {
            let names: Vec<&'static str> = self.disks.keys().copied().collect();
            let name = names[self.next(names.len() as u64) as usize];
            let size = self.disks[name].len() as u64;
            let length = 512 * (1 + self.next(300));
            let offset = self.next((size - length) / 512) * 512;
            let byte = self.next(4) as u8;
            let bytes = vec![byte; length as usize];
            host.hypervisor.guest_write(&machine(), &disk(name), offset, &bytes).unwrap();
            self.disks.get_mut(name).unwrap()[offset as usize..][..length as usize].copy_from_slice(&bytes);
        }
    }

    /// Whether a point at `host` is the model.
    pub fn is_at(&self, host: &Host, seq: u64) -> bool {
        self.disks.iter().all(|(name, content)| host.content(seq, name) == *content)
    }
}

/// Two sites.
pub struct World {
    pub alpha: Host,
    pub bravo: Host,
    pub model: Model,
    pub run: Uuid,
    root: tempfile::TempDir,
}

impl World {
    /// A machine with `mib` MiB of random data on `vda` and a small second disk runs at alpha. Both agents run.
    pub fn new(mib: u64) -> Self {
        let root = tempfile::tempdir().unwrap();
        let validity = Validity::starting(std::time::SystemTime::now().into(), Validity::AUTHORITY);
        let authority = Authority::create(&root.path().join("ca"), validity).unwrap();
        let mut alpha = Host::new(root.path(), &authority, "alpha/alpha-h1");
        let mut bravo = Host::new(root.path(), &authority, "bravo/bravo-h1");
        let mut model = Model { disks: BTreeMap::new(), random: 0x9e37_79b9_7f4a_7c15 };
        // The second disk ends inside a block.
        let sizes = [("vda", (mib << 20) + (4 << 20), mib << 20), ("vdb", (1 << 20) + 512, 0)];
        for (name, size, filled) in sizes {
            let content = make_disk(&alpha.dir.join(format!("{name}.qcow2")), size, filled, &mut model);
            model.disks.insert(name, content);
        }
        define(&alpha, UUID);
        alpha.block_on(alpha.hypervisor.start(&machine())).unwrap();
        alpha.start_agent();
        bravo.start_agent();
        Self { alpha, bravo, model, run: Uuid::from_u128(7), root }
    }

    /// Bravo is prepared and alpha replicates to it.
    pub fn protect(&self, interval: Duration) {
        self.protect_keeping(RetentionPolicy::default(), interval);
    }

    /// The same, with points kept as it says.
    pub fn protect_keeping(&self, retention: RetentionPolicy, interval: Duration) {
        self.bravo.twice(1, self.run, Action::PrepareReplica { disks: self.sizes(), retention });
        self.alpha.twice(1, self.run, self.replicate(&self.bravo, interval));
    }

    pub fn authority(&self) -> Authority {
        Authority::load(&self.root.path().join("ca")).unwrap()
    }

    /// A third host, with a certificate of the same authority.
    pub fn stranger(&self) -> Host {
        let authority = Authority::load(&self.root.path().join("ca")).unwrap();
        Host::new(self.root.path(), &authority, "charlie/charlie-h1")
    }

    pub fn sizes(&self) -> Vec<DiskSize> {
        self.model.disks.iter().map(|(n, c)| DiskSize { name: disk(n), size: c.len() as u64 }).collect()
    }

    pub fn alpha_to_bravo(&self, settings: ReplicationSettings) -> Action {
        self.replicate_with(settings, &self.bravo, Duration::from_millis(150), &["vda", "vdb"])
    }

    pub fn replicate(&self, to: &Host, interval: Duration) -> Action {
        self.replicate_disks(to, interval, &["vda", "vdb"])
    }

    pub fn replicate_disks(&self, to: &Host, interval: Duration, disks: &[&str]) -> Action {
        self.replicate_with(ReplicationSettings::default(), to, interval, disks)
    }

    pub fn replicate_with(
        &self,
        settings: ReplicationSettings,
        to: &Host,
        interval: Duration,
        disks: &[&str],
    ) -> Action {
        Action::StartReplication(StartReplication {
            machine: machine(),
            disks: disks.iter().map(|name| disk(name)).collect(),
            peer_host: to.name.clone(),
            peer_endpoint: format!("https://{}", to.link.address),
            interval,
            settings,
            policy: Some("gold".parse().unwrap()),
            paused: false,
            rpo_objective: None,
            revision: String::new(),
            group: None,
        })
    }

    /// Waits for a point at bravo that was begun after now. Returns its number.
    pub fn next_point(&self) -> u64 {
        let before = self.bravo.latest();
        // The one that is under way may be of an earlier instant.
        wait("two more points", || Some(self.bravo.latest()).filter(|n| *n >= before + 2))
    }

    pub fn seq(n: u64) -> PointSeq {
        PointSeq::new(n)
    }
}

fn make_disk(path: &Path, size: u64, filled: u64, model: &mut Model) -> Vec<u8> {
    let mut writer = Writer::create(path, size, None).unwrap();
    let mut content = vec![0u8; size as usize];
    for cluster in 0..filled / BLOCK {
        let block = &mut content[(cluster * BLOCK) as usize..][..BLOCK as usize];
        for word in block.chunks_exact_mut(8) {
            word.copy_from_slice(&(1 + model.next(u64::MAX - 1)).to_le_bytes());
        }
        writer.write(cluster, block).unwrap();
    }
    writer.finish().unwrap();
    content
}

/// A disk with the file of its name at the host.
pub fn disk_hardware(host: &Host, name: &str) -> DiskHardware {
    DiskHardware {
        name: disk(name),
        bus: Bus::Virtio,
        serial: Some(format!("serial-{name}")),
        size_bytes: 0,
        file: Some(host.dir.join(format!("{name}.qcow2"))),
        format: "qcow2".to_owned(),
        encrypted: false,
    }
}

/// The machine's UUID, until a test says otherwise.
pub const UUID: Uuid = Uuid::from_u128(0x1234);

/// The machine is defined at the host, without a tag.
pub fn define(host: &Host, uuid: Uuid) {
    let disks = ["vda", "vdb"].map(|name| disk_hardware(host, name));
    define_as(host, &item(), &machine(), uuid, disks.into());
}

/// A machine of another name with these disks is defined at the host, without a tag.
pub fn define_as(host: &Host, item: &ItemName, machine: &MachineName, uuid: Uuid, disks: Vec<DiskHardware>) {
    let files = disks.iter().filter_map(|disk| Some((disk.name.clone(), disk.file.clone()?))).collect();
    let definition = MachineDefinition {
        name: machine.clone(),
        uuid,
        hardware: Hardware {
            vcpus: 1,
            memory_bytes: 64 << 20,
            machine_type: "pc".to_owned(),
            firmware: Firmware::Bios,
            disks,
            guest_agent: true,
            video: None,
            nics: vec![NicHardware {
                mac: "52:54:00:00:00:01".parse().unwrap(),
                model: "virtio".to_owned(),
                network: None,
                addresses: Vec::new(),
            }],
        },
        disk_files: files,
        encrypted: Default::default(),
        nic_networks: vec![None],
        tag: MachineTag { item: item.clone(), generation: generation(1), role: TagRole::Active },
    };
    host.block_on(host.hypervisor.define(&definition)).unwrap();
    host.block_on(host.hypervisor.set_tag(machine, None)).unwrap();
}
