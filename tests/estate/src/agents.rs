//! Agents that play along: they lease real tasks and keep a small model of their hosts, which they tell as facts.
//!
//! What the model does not do is decide anything: a task that is not allowed by the model's state panics, and the task's outcome
//! is then unknown.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use futures::{StreamExt, stream::BoxStream};
use tokio::sync::watch;
use understudy_ids::{
    Consistency, Generation, HostName, ItemName, MachineName, PointSeq, Problem, UnixMicros, Uuid,
};
use understudy_jobs_api::{Handler, LeasedTask, Outcome, TaskContext};
use understudy_network_api::{NetworkAction, NetworkTask, NetworkTaskResult};
use understudy_probe::ProbeKind;
use understudy_replication::{BlockDigest, RetentionPolicy};
use understudy_replication_api::{
    Action, ActivationHandler, AgentTask, AgentTaskResult, Disk, DiskRoot, Facts, FactsSource,
    IsolationResult, ItemFacts, ItemRole, LeaseFacts, Machine, Nic, PointDisk, PowerState, RecoveryPoint,
    ReplicationFacts, ReplicationState, StartReplication,
    activation::{HeldLease, Lease, Pulse, Renewal, Renewed},
};
use understudy_rpc::ApiError;

/// What the consoles of all machines show.
pub const PICTURE: &[u8] = b"\x89PNG\r\n\x1a\n and the rest";

pub fn now() -> UnixMicros {
    SystemTime::now().into()
}

/// All hosts, and what was done on them.
pub struct Estate {
    model: Mutex<Model>,
    changed: watch::Sender<u64>,
    /// Facts are told at most this often.
    tell_every: Duration,
}

#[derive(Default)]
struct Model {
    hosts: BTreeMap<HostName, Facts>,
    /// Who replicates to whom.
    peers: BTreeMap<ItemName, HostName>,
    /// What was assigned last.
    assigned: BTreeMap<ItemName, StartReplication>,
    /// What replicas were prepared with last.
    retained: BTreeMap<ItemName, RetentionPolicy>,
    /// Every task that was carried out: host, what, run and key.
    done: Vec<Done>,
    /// Actions that are kept waiting.
    held: BTreeSet<&'static str>,
    /// Actions that wait now.
    waiting: BTreeSet<&'static str>,
    /// How long actions take; those that are not named take no time.
    spans: BTreeMap<&'static str, Duration>,
    /// Actions that fail, and how often still.
    failing: BTreeMap<&'static str, u32>,
    /// Activation leases that hosts are bound by, and how often each was renewed.
    leases: BTreeMap<(HostName, ItemName), (HeldLease, u32)>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Done {
    pub what: String,
    pub host: String,
    pub run: Uuid,
    pub key: String,
}

impl Estate {
    pub fn new(hosts: &[&str]) -> Arc<Self> {
        Self::telling_every(Duration::ZERO, hosts)
    }

    /// Whose hosts tell what has changed once in so long, as agents do.
    pub fn telling_every(tell_every: Duration, hosts: &[&str]) -> Arc<Self> {
        let estate = Self { model: Mutex::default(), changed: watch::Sender::new(0), tell_every };
        for host in hosts {
            let name: HostName = host.parse().unwrap();
            estate.model.lock().unwrap().hosts.insert(name.clone(), empty(name));
        }
        Arc::new(estate)
    }

    /// Changes the facts of a host and tells everyone.
    pub fn change(&self, host: &str, change: impl FnOnce(&mut Facts)) {
        change(self.model.lock().unwrap().hosts.get_mut(&host.parse().unwrap()).unwrap());
        self.tell();
    }

    fn tell(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    pub fn facts(&self, host: &str) -> Facts {
        self.told(&host.parse().unwrap())
    }

    fn told(&self, host: &HostName) -> Facts {
        Facts { time: now(), ..self.model.lock().unwrap().hosts[host].clone() }
    }

    /// The host takes a renewal that was on its way when it was released.
    pub fn bind_late(&self, host: &str, item: &ItemName) {
        let length = Duration::from_secs(15);
        let mut model = self.model.lock().unwrap();
        let host: HostName = host.parse().unwrap();
        let facts = model.host(&host).items.iter_mut().find(|facts| facts.item == *item).unwrap();
        facts.lease = Some(LeaseFacts { length, ended: false, stopped: None });
        let held = HeldLease { item: item.clone(), generation: facts.generation, length };
        model.leases.insert((host, item.clone()), (held, 1));
        drop(model);
        self.tell();
    }

    /// What a host is bound by for an item, and how often that was renewed.
    pub fn lease(&self, host: &str, item: &ItemName) -> Option<(HeldLease, u32)> {
        let key = (host.parse().unwrap(), item.clone());
        self.model.lock().unwrap().leases.get(&key).cloned()
    }

    pub fn add_machine(&self, host: &str, machine: &str, disks: &[&str], nic: u16) {
        let [high, low] = nic.to_be_bytes();
        let machine = Machine {
            name: machine.parse().unwrap(),
            uuid: Uuid::new_v5(&Uuid::nil(), machine.as_bytes()),
            power: PowerState::Running,
            vcpus: 1,
            memory_bytes: 1 << 28,
            disks: disks
                .iter()
                .map(|disk| Disk {
                    name: disk.parse().unwrap(),
                    size: 1 << 30,
                    format: "qcow2".into(),
                    serial: None,
                    replicable: true,
                })
                .collect(),
            nics: vec![Nic {
                mac: format!("52:54:00:00:{high:02x}:{low:02x}").parse().unwrap(),
                network: Some("prod".parse().unwrap()),
                addresses: vec![format!("192.168.{}.{low}", 50 + high).parse().unwrap()],
            }],
            item: None,
            test_run: None,
        };
        self.change(host, |facts| facts.machines.push(machine));
    }

    /// Actions of this name wait until [`Estate::release`].
    pub fn hold(&self, what: &'static str) {
        self.model.lock().unwrap().held.insert(what);
    }

    pub fn release(&self, what: &'static str) {
        self.model.lock().unwrap().held.remove(what);
        self.tell();
    }

    /// The next `times` actions of this name fail.
    pub fn fail(&self, what: &'static str, times: u32) {
        self.model.lock().unwrap().failing.insert(what, times);
    }

    /// Actions of this name take so long from now on.
    pub fn last(&self, what: &'static str, span: Duration) {
        self.model.lock().unwrap().spans.insert(what, span);
    }

    async fn take_time(&self, what: &'static str) {
        let span = self.model.lock().unwrap().spans.get(what).copied().unwrap_or_default();
        if !span.is_zero() {
            tokio::time::sleep(span).await;
        }
    }

    /// The replication that was assigned last.
    pub fn assigned(&self, item: &ItemName) -> StartReplication {
        self.model.lock().unwrap().assigned[item].clone()
    }

    /// How the item's points are kept, as was said last.
    pub fn retained(&self, item: &ItemName) -> RetentionPolicy {
        self.model.lock().unwrap().retained[item].clone()
    }

    /// How many tasks were carried out.
    pub fn count(&self) -> usize {
        self.model.lock().unwrap().done.len()
    }

    /// Everything that was carried out for `run`.
    pub fn done(&self, run: Uuid) -> Vec<Done> {
        let model = self.model.lock().unwrap();
        model.done.iter().filter(|done| done.run == run).cloned().collect()
    }

    pub fn machine(&self, host: &str, name: &str) -> Option<Machine> {
        self.facts(host).machines.into_iter().find(|m| m.name.as_str() == name)
    }

    /// Whether an action of this name is at a closed gate.
    pub fn is_waiting(&self, what: &'static str) -> bool {
        self.model.lock().unwrap().waiting.contains(what)
    }

    async fn pass_gate(&self, what: &'static str) {
        let mut changed = self.changed.subscribe();
        self.model.lock().unwrap().waiting.insert(what);
        changed.wait_for(|_| !self.model.lock().unwrap().held.contains(what)).await.unwrap();
        self.model.lock().unwrap().waiting.remove(what);
    }

    fn must_fail(&self, what: &str) -> bool {
        let mut model = self.model.lock().unwrap();
        match model.failing.get_mut(what) {
            Some(left) if *left > 0 => {
                *left -= 1;
                true
            }
            _ => false,
        }
    }
}

fn empty(host: HostName) -> Facts {
    Facts {
        host,
        time: now(),
        hypervisor: "simulated".into(),
        cpus: 4,
        memory_bytes: 1 << 33,
        store_free_bytes: 1 << 40,
        machines: Vec::new(),
        networks: ["prod", "lab"].map(|name| name.parse().unwrap()).to_vec(),
        items: Vec::new(),
        test_networks: Vec::new(),
        boot_id: "boot-1".into(),
    }
}

/// Tells the facts of one host.
pub struct Teller {
    pub estate: Arc<Estate>,
    pub host: HostName,
}

#[async_trait]
impl ActivationHandler for Teller {
    async fn pulse(&self) -> Result<Pulse, ApiError> {
        let boot_id = self.estate.told(&self.host).boot_id;
        Ok(Pulse { boot_id, since_boot: Duration::from_secs(60) })
    }

    async fn renew(&self, renewal: Renewal) -> Result<Renewed, ApiError> {
        let mut model = self.estate.model.lock().unwrap();
        for item in renewal.released {
            let facts = model.host(&self.host).items.iter_mut().find(|facts| facts.item == item);
            facts.into_iter().for_each(|facts| facts.lease = None);
            model.leases.remove(&(self.host.clone(), item));
        }
        for Lease { item, generation, length, .. } in renewal.leases {
            let held = HeldLease { item: item.clone(), generation, length };
            let known = model.leases.entry((self.host.clone(), item)).or_insert((held.clone(), 0));
            *known = (held, known.1 + 1);
        }
        let here = model.leases.iter().filter(|((host, _), _)| *host == self.host);
        Ok(Renewed { held: here.map(|(_, (held, _))| held.clone()).collect(), refused: Vec::new() })
    }
}

#[async_trait]
impl FactsSource for Teller {
    async fn facts(&self) -> Result<Facts, ApiError> {
        Ok(self.estate.told(&self.host))
    }

    fn watch(&self) -> BoxStream<'static, Facts> {
        let (estate, host) = (self.estate.clone(), self.host.clone());
        let mut changed = estate.changed.subscribe();
        changed.mark_changed();
        futures::stream::unfold((estate, host, changed), |(estate, host, mut changed)| async move {
            tokio::time::sleep(estate.tell_every).await;
            let _ = tokio::time::timeout(Duration::from_millis(500), changed.changed()).await;
            Some((estate.told(&host), (estate, host, changed)))
        })
        .boxed()
    }
}

/// Does the tasks of one host.
pub struct Hand {
    pub estate: Arc<Estate>,
    pub host: HostName,
}

#[async_trait]
impl Handler for Hand {
    async fn handle(&self, leased: LeasedTask, context: TaskContext) -> Outcome {
        let task = AgentTask::from_any(&leased.payload).unwrap();
        let what = task.action.name();
        let played = async {
            self.estate.pass_gate(what).await;
            self.estate.take_time(what).await;
        };
        tokio::select! {
            () = played => {}
            () = context.stopped().cancelled() => {
                return Outcome::Failed(Problem::new("CANCELLED", &leased.key, "told to stop", ""));
            }
        }
        if self.estate.must_fail(what) {
            return Outcome::Failed(Problem::new("BROKEN", &leased.key, "it was told to fail", "Repair it."));
        }
        let result = {
            let mut model = self.estate.model.lock().unwrap();
            let done = Done {
                what: what.to_owned(),
                host: self.host.to_string(),
                run: task.run,
                key: leased.key.clone(),
            };
            model.done.push(done);
            model.act(&self.host, task)
        };
        self.estate.tell();
        match result {
            Ok(result) => Outcome::Succeeded(result.to_any()),
            Err(problem) => Outcome::Failed(problem),
        }
    }
}

/// Does network-mapper's tasks: everything succeeds.
pub struct MapperHand {
    pub estate: Arc<Estate>,
}

#[async_trait]
impl Handler for MapperHand {
    async fn handle(&self, leased: LeasedTask, _: TaskContext) -> Outcome {
        let task = NetworkTask::from_payload(&leased.payload).unwrap();
        let (what, result) = match task.action {
            NetworkAction::ReserveAddresses { .. } => ("reserve-addresses", NetworkTaskResult::Reserved),
            NetworkAction::ReleaseRun => {
                ("release-run", NetworkTaskResult::Released { addresses: 1, test_networks: 0 })
            }
            NetworkAction::SetRecords { .. } => ("set-records", NetworkTaskResult::Records(vec![])),
            NetworkAction::CallHook(_) => ("call-hook", NetworkTaskResult::HookCalled { status: 200 }),
            NetworkAction::RestoreRecords { .. } => ("restore-records", NetworkTaskResult::Records(vec![])),
        };
        if self.estate.must_fail(what) {
            return Outcome::Failed(Problem::new("BROKEN", &leased.key, "it was told to fail", "Repair it."));
        }
        let done =
            Done { what: what.to_owned(), host: "network-mapper".into(), run: task.run, key: leased.key };
        self.estate.model.lock().unwrap().done.push(done);
        Outcome::Succeeded(result.to_payload())
    }
}

impl Model {
    fn host(&mut self, host: &HostName) -> &mut Facts {
        self.hosts.get_mut(host).unwrap()
    }

    fn item(
        &mut self,
        host: &HostName,
        item: &ItemName,
        generation: Generation,
        role: ItemRole,
    ) -> &mut ItemFacts {
        let facts = self.host(host);
        let index = facts.items.iter().position(|i| i.item == *item).unwrap_or_else(|| {
            let item = item.clone();
            facts.items.push(ItemFacts {
                item,
                generation,
                role,
                replication: None,
                points: Vec::new(),
                scrub: Default::default(),
                retention: None,
                lease: None,
            });
            facts.items.len() - 1
        });
        let known = &mut facts.items[index];
        assert!(known.generation <= generation, "{host} was asked about {item} at an old generation");
        known.generation = generation;
        known.role = role;
        known
    }

    fn machine(&mut self, host: &HostName, name: &MachineName) -> &mut Machine {
        let missing = format!("{host} has no machine {name}");
        self.host(host).machines.iter_mut().find(|m| m.name == *name).expect(&missing)
    }

    /// A new point of the item at `target`.
    fn add_point(&mut self, target: &HostName, item: &ItemName, generation: Generation) -> RecoveryPoint {
        let points =
            self.hosts.values().flat_map(|h| &h.items).filter(|i| i.item == *item).flat_map(|i| &i.points);
        let seq = points.map(|p| p.seq).max().map_or(PointSeq::new(1), PointSeq::next);
        let disk = PointDisk {
            name: "vda".parse().unwrap(),
            size: 1 << 30,
            changed_bytes: 1 << 16,
            root: BlockDigest::new([seq.get() as u8; 32]),
        };
        let point = RecoveryPoint {
            seq,
            instant: now(),
            received: now(),
            generation,
            disks: vec![disk],
            is_base: false,
            pinned: false,
            consistency: Consistency::Crash,
            frozen: None,
            joint: None,
            damaged_blocks: 0,
            encrypted: false,
            unlocked_until: None,
        };
        let held = self.item(target, item, generation, ItemRole::Target);
        held.points.push(point.clone());
        point
    }

    fn roots(&self, machine: &Machine) -> AgentTaskResult {
        let root = |disk: &Disk| DiskRoot { disk: disk.name.clone(), root: BlockDigest::new([7; 32]) };
        AgentTaskResult::DiskDigests(machine.disks.iter().map(root).collect())
    }

    fn act(&mut self, host: &HostName, task: AgentTask) -> Result<AgentTaskResult, Problem> {
        let AgentTask { item, generation, run, action } = task;
        match action.clone() {
            Action::PrepareReplica { retention, .. } => {
                self.retained.insert(item.clone(), retention.clone());
                self.item(host, &item, generation, ItemRole::Target).retention = Some(retention);
            }
            Action::StartReplication(start) => {
                self.peers.insert(item.clone(), start.peer_host.clone());
                self.assigned.insert(item.clone(), start.clone());
                self.machine(host, &start.machine).item = Some((item.clone(), generation));
                let paused = start.paused;
                let before = self
                    .item(host, &item, generation, ItemRole::Source)
                    .replication
                    .clone()
                    .filter(|_| paused);
                let replicated = before.unwrap_or_else(|| {
                    let point = self.add_point(&start.peer_host, &item, generation);
                    steady(point.seq, start.disks.clone())
                });
                let state = if paused { ReplicationState::Paused } else { replicated.state };
                self.item(host, &item, generation, ItemRole::Source).replication =
                    Some(ReplicationFacts { state, revision: Some(start.revision), ..replicated });
            }
            Action::StopReplication { .. } => {
                let source = self.item(host, &item, generation, ItemRole::Source);
                source.replication = source
                    .replication
                    .take()
                    .map(|r| ReplicationFacts { state: ReplicationState::Stopped, ..r });
            }
            Action::RemoveReplica => self.host(host).items.retain(|i| i.item != item),
            Action::Fence { .. } => {
                let known = self.item(host, &item, generation, ItemRole::Fenced);
                known.replication = None;
                for machine in self.host(host).machines.iter_mut() {
                    if machine.item.as_ref().is_some_and(|(owner, _)| *owner == item) {
                        machine.power = PowerState::ShutOff;
                    }
                }
            }
            Action::ShutDownMachine { machine, .. } => {
                self.machine(host, &machine).power = PowerState::ShutOff;
                return Ok(AgentTaskResult::MachineStopped { by_guest: true, time: now() });
            }
            Action::SyncFinal { machine } => {
                if self.machine(host, &machine).power != PowerState::ShutOff {
                    return Err(Problem::new("NOT_OFF", item.as_str(), "the machine runs", "Shut it down."));
                }
                let peer = self.peers[&item].clone();
                let point = self.add_point(&peer, &item, generation);
                return Ok(AgentTaskResult::FinalPoint {
                    seq: point.seq,
                    instant: point.instant,
                    sent_bytes: 65536,
                });
            }
            Action::DigestDisks { machine } => {
                let machine = self.machine(host, &machine).clone();
                return Ok(self.roots(&machine));
            }
            Action::VerifyPoint { .. } => {
                let machine = self.template(&item);
                return Ok(self.roots(&machine));
            }
            Action::CreateTestMachine { name, seq, .. } => {
                let points = &self.item(host, &item, generation, ItemRole::Target).points;
                let seq = seq.or(points.last().map(|point| point.seq)).unwrap_or(PointSeq::new(1));
                let machine = Machine {
                    name: name.clone(),
                    uuid: Uuid::new_v4(),
                    power: PowerState::ShutOff,
                    item: None,
                    test_run: Some(run),
                    ..self.template(&item)
                };
                let facts = self.host(host);
                facts.machines.retain(|m| m.name != name);
                facts.machines.push(machine);
                let instant = now();
                return Ok(AgentTaskResult::MachineCreated { machine: name, seq, instant });
            }
            Action::PromotePoint { seq, .. } | Action::PromoteTest { seq, .. } => {
                if let Action::PromoteTest { test_machine, .. } = &action {
                    let facts = self.host(host);
                    assert!(
                        facts.machines.iter().any(|m| m.name == *test_machine),
                        "the test's machine has gone"
                    );
                    facts.machines.retain(|m| m.name != *test_machine);
                }
                let template = self.template(&item);
                let held = self.item(host, &item, generation, ItemRole::Source);
                let instant = held.points.iter().find(|p| p.seq == seq).map_or_else(now, |p| p.instant);
                let machine = Machine {
                    power: PowerState::ShutOff,
                    item: Some((item.clone(), generation)),
                    test_run: None,
                    ..template
                };
                let name = machine.name.clone();
                let facts = self.host(host);
                facts.machines.retain(|m| m.name != name);
                facts.machines.push(machine);
                return Ok(AgentTaskResult::MachineCreated { machine: name, seq, instant });
            }
            Action::StartMachine { machine } | Action::StartInBoot { machine, .. } => {
                let started = self.machine(host, &machine);
                started.power = PowerState::Running;
                if started.test_run.is_none() {
                    started.item = Some((item.clone(), generation));
                    self.item(host, &item, generation, ItemRole::Source);
                }
                return Ok(AgentTaskResult::MachineStarted { time: now() });
            }
            Action::ProbeMachine { probe, .. } => {
                return Ok(AgentTaskResult::ProbeResult {
                    // Nobody answers at the port of the discard service.
                    reachable: probe.kind != ProbeKind::Tcp { port: 9 },
                    after: Duration::from_millis(10),
                    seen: format!("played {probe}"),
                });
            }
            Action::TakeScreenshot { .. } => {
                return Ok(AgentTaskResult::Screenshot(PICTURE.to_vec()));
            }
            Action::SetAside { machine, .. } | Action::DiscardPromotion { machine, .. } => {
                let known = self.host(host).machines.iter().find(|m| m.name == machine);
                assert!(known.is_none_or(|m| m.power == PowerState::ShutOff), "taken apart while it runs");
                self.host(host).machines.retain(|m| m.name != machine);
            }
            Action::DropAside => {}
            Action::RemoveTestMachine { machine } => self.host(host).machines.retain(|m| m.name != machine),
            Action::EnsureTestNetwork { name, .. } => {
                let facts = self.host(host);
                if !facts.test_networks.contains(&name) {
                    facts.test_networks.push(name);
                }
            }
            Action::ProbeIsolation { targets, .. } => {
                return Ok(AgentTaskResult::IsolationResult(IsolationResult {
                    ports: vec!["veth-test".into()],
                    tried: targets,
                    answered: Vec::new(),
                    method: "played".into(),
                }));
            }
            Action::ProbeExistingNetwork(probe) => {
                return Ok(AgentTaskResult::IsolationResult(IsolationResult {
                    ports: vec![format!("port with {}", probe.address)],
                    tried: probe.targets,
                    answered: Vec::new(),
                    method: "played".into(),
                }));
            }
            Action::RemoveProbePort { .. } => {}
            Action::RemoveTestNetwork { name } => self.host(host).test_networks.retain(|n| *n != name),
            Action::AdoptDisks { machine, seq } => {
                self.host(host).machines.retain(|m| m.name != machine);
                self.item(host, &item, generation, ItemRole::Fenced).points.clear();
                return Ok(AgentTaskResult::Adopted { seq, bytes_read: 1 << 30 });
            }
            Action::CommitItem | Action::ScrubItem { .. } | Action::RemoveSeed { .. } => {}
            Action::ExportSeed { .. } | Action::ImportSeed { .. } => {
                return Ok(AgentTaskResult::Seeded { bytes: 1 << 30 });
            }
            Action::RunScript(_) => {
                let output = "played\n".to_owned();
                return Ok(AgentTaskResult::Script { exit_code: 0, output, truncated: false });
            }
        }
        Ok(AgentTaskResult::Done)
    }

    /// The item's machine, wherever it is.
    fn template(&self, item: &ItemName) -> Machine {
        let all = self.hosts.values().flat_map(|host| &host.machines);
        let mut own = all.filter(|m| m.test_run.is_none() && m.item.as_ref().is_some_and(|(i, _)| i == item));
        own.next().expect("the item has a machine").clone()
    }
}

fn steady(seq: PointSeq, disks: Vec<understudy_ids::DiskName>) -> ReplicationFacts {
    ReplicationFacts {
        state: ReplicationState::Steady,
        last_seq: Some(seq),
        last_instant: Some(now()),
        sent_bytes: 0,
        total_bytes: 0,
        last_cycle_bytes: 65536,
        last_cycle: Duration::from_millis(20),
        last_cycle_kind: "full".into(),
        cycles: 1,
        last_error: None,
        failures: 0,
        failing_since: None,
        backlog_bytes: Some(0),
        throughput_bytes_per_second: 0,
        covered: false,
        not_at_rest: None,
        last_hour: None,
        last_day: None,
        disks,
        revision: None,
        group: None,
    }
}
