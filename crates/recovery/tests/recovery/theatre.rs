//! A model of hosts, network-mapper, item records and job-tracker that carries a run's effects out and watches the invariants.
//!
//! ```text
//!   effects ──▶ queue ──next──▶ done to the model (or not, as the script says) ──▶ event ──▶ advance ──▶ effects
//! ```

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::Ipv4Addr,
    time::Duration,
};

use understudy_ids::{
    Generation, HostName, ItemName, MachineName, NetworkName, PointChoice, PointSeq, Problem, RunId,
    SeedName, StepName, TrafficHookName, UnixMicros,
};
use understudy_netplan::{DnsName, ZonePurpose};
use understudy_recovery::{
    Effect, Event, ItemState, Operation, Run,
    action::{Action, AgentWork, DiskRoot, MachineRef, NetworkRef, NetworkWork, PointRef, StepResult},
    advance, item,
    plan::{Change, Executor, MachineView, PlanInput, Power, RunPlan, RunSpec, SideView, Step, amend},
    run::{self, ItemChange, JobState, RunState, RunVerb, StepState},
    start,
};

use crate::world::{self, NOW, RUN, alpha, bravo, elsewhere};

/// What the name of web1 says before the run.
pub const OLD_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);

/// What happens to a step when its turn comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Succeed,
    /// Done, told twice.
    Twice,
    Fail,
    /// Not done, and nobody knows.
    UnknownUndone,
    /// Done, and nobody knows.
    UnknownDone,
    /// Nobody answers at all.
    Silence,
}

#[derive(Debug, Default)]
pub struct HostModel {
    pub dead: bool,
    pub seen: BTreeMap<ItemName, Generation>,
    pub running: BTreeSet<MachineName>,
    pub replicating: BTreeSet<ItemName>,
    pub replicas: BTreeSet<ItemName>,
    pub test_machines: BTreeSet<MachineName>,
    pub test_networks: BTreeSet<NetworkName>,
    /// Of existing networks.
    pub probe_ports: BTreeSet<NetworkName>,
    pub seeds: BTreeSet<SeedName>,
    /// The point that the item's machine here was made from.
    pub promoted: BTreeMap<ItemName, PointSeq>,
    /// The one before it, with what was written to it.
    pub aside: BTreeMap<ItemName, PointSeq>,
    pub fenced: BTreeSet<ItemName>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub state: ItemState,
    pub generation: Generation,
    pub active: HostName,
    pub standby: HostName,
    pub held: bool,
    pub tested: bool,
}

#[derive(Debug, Clone)]
pub struct Task {
    pub key: String,
    pub step: StepName,
    executor: Executor,
    action: Action,
}

pub struct Theatre {
    pub run: Run,
    pub hosts: BTreeMap<HostName, HostModel>,
    pub records: BTreeMap<ItemName, Record>,
    pub leases: bool,
    /// Where hooks believe that items are, by hook and item.
    pub hooks: BTreeMap<(TrafficHookName, ItemName), HostName>,
    /// What names in DNS say.
    pub names: BTreeMap<DnsName, Ipv4Addr>,
    /// What those that the run has set said before.
    names_before: BTreeMap<DnsName, (ItemName, Option<Ipv4Addr>)>,
    pub queue: VecDeque<Task>,
    pub now: UnixMicros,
    /// Tests that were asked to end.
    pub ended_tests: BTreeSet<RunId>,
    /// Every step that was carried out, in order.
    pub done: Vec<StepName>,
    /// Keys of tasks that were called back and have not answered.
    cancelled: VecDeque<String>,
    keys: BTreeSet<String>,
    sequence: u64,
    job: Option<JobState>,
}

impl Theatre {
    pub fn new(plan: RunPlan, spec: RunSpec) -> Self {
        let operation = spec.operation;
        let (run, effects) = start(RUN, plan.clone(), spec, "ann", NOW);
        let mut theatre = Self {
            run,
            hosts: [alpha(), bravo(), elsewhere()].map(|host| (host, HostModel::default())).into(),
            records: BTreeMap::new(),
            leases: false,
            hooks: BTreeMap::new(),
            names: names_before_runs(),
            names_before: BTreeMap::new(),
            queue: VecDeque::new(),
            now: NOW,
            ended_tests: BTreeSet::new(),
            done: Vec::new(),
            cancelled: VecDeque::new(),
            keys: BTreeSet::new(),
            sequence: 0,
            job: None,
        };
        theatre.furnish(operation, &plan);
        theatre.carry_out(effects);
        theatre
    }

    fn furnish(&mut self, operation: Operation, plan: &RunPlan) {
        for planned in &plan.items {
            let reverse = matches!(operation, Operation::ReverseReplicate | Operation::Failback);
            let (active, standby) = if reverse { (bravo(), alpha()) } else { (alpha(), bravo()) };
            let generation = Generation::new(if reverse { 2 } else { 1 });
            let record = Record {
                state: planned.state,
                generation,
                active: active.clone(),
                standby: standby.clone(),
                held: false,
                tested: false,
            };
            self.records.insert(planned.item.clone(), record);
            self.host(&active).running.insert(planned.machine.clone());
            if planned.state == ItemState::Protected {
                self.host(&active).replicating.insert(planned.item.clone());
                self.host(&standby).replicas.insert(planned.item.clone());
            }
        }
        if operation == Operation::UnplannedFailover {
            *self.host(&alpha()) = HostModel { dead: true, ..HostModel::default() };
        }
    }

    pub fn host(&mut self, name: &HostName) -> &mut HostModel {
        self.hosts.get_mut(name).unwrap()
    }

    /// Tells the run; a refusal is the test's mistake.
    pub fn tell(&mut self, event: &Event) {
        let (run, effects) = advance(&self.run, event).unwrap_or_else(|refusal| panic!("{refusal}"));
        self.run = run;
        self.carry_out(effects);
    }

    pub fn ask(&mut self, verb: RunVerb) {
        self.tick(1);
        match verb {
            // Another point than the one that is used, so that it is never refused for that.
            RunVerb::ChangePoint => {
                let used = run::outcomes(&self.run);
                let other = |item: &ItemName| {
                    let used = used.iter().find(|outcome| outcome.item == *item).and_then(|o| o.point);
                    PointChoice::Seq(PointSeq::new(if used == Some(PointSeq::new(19)) { 20 } else { 19 }))
                };
                let points = self.records.keys().map(|item| (item.clone(), other(item))).collect();
                self.change(&Change::Points(points)).unwrap();
                return;
            }
            RunVerb::SetDeadline => {
                self.tell(&Event::DeadlineSet { deadline: None, by: "ann".to_owned(), at: self.now });
                return;
            }
            RunVerb::RollBack => {
                self.old_side_returns();
                self.change(&Change::RollBack { give_up_writes: true }).unwrap();
                return;
            }
            RunVerb::CompleteFailover => {
                self.change(&Change::CompleteFailover).unwrap();
                return;
            }
            RunVerb::Confirm | RunVerb::Reject => {
                let step = self.asks_at().expect("the run waits for an answer");
                let (confirmed, by) = (verb == RunVerb::Confirm, "ann".to_owned());
                self.tell(&Event::Answered { step, confirmed, by, at: self.now });
                return;
            }
            _ => {}
        }
        self.tell(&Event::Operator { verb, by: "ann".to_owned(), at: self.now });
    }

    /// The step at which the run waits for an answer.
    pub fn asks_at(&self) -> Option<StepName> {
        let asks = |step: &&Step| {
            let waits = matches!(&step.action, Action::Operator(wait) if wait.is_confirmed());
            waits && self.run.steps[&step.id].state == StepState::Running
        };
        self.run.plan.steps.iter().find(asks).map(|step| step.id.clone())
    }

    /// The old side is heard again, and has been fenced.
    pub fn old_side_returns(&mut self) {
        for (item, record) in self.records.clone() {
            let host = self.host(&record.standby);
            host.dead = false;
            host.seen.insert(item.clone(), record.generation);
            host.fenced.insert(item);
        }
    }

    /// The facts as the model has them.
    pub fn facts(&self) -> PlanInput {
        let mut facts = world::input(self.run.plan.operation);
        facts.now = self.now;
        for view in &mut facts.items {
            let record = &self.records[&view.name];
            (view.state, view.generation) = (record.state, record.generation);
            view.active_host = record.active.clone();
            view.standby_host = record.standby.clone();
            let standby = &self.hosts[&view.standby_host];
            let machine = MachineView {
                power: if standby.running.contains(&view.machine.name) {
                    Power::Running
                } else {
                    Power::ShutOff
                },
                ..view.machine.clone()
            };
            let side = SideView {
                generation: standby.seen.get(&view.name).copied().unwrap_or(Generation::FIRST),
                fenced: standby.fenced.contains(&view.name),
                machine: Some(machine),
            };
            let heard = (!standby.dead).then(|| (view.standby_host.clone(), side));
            view.sides = heard.into_iter().collect();
        }
        for (name, host) in &mut facts.hosts {
            host.connected = !self.hosts[name].dead;
            for item in self.hosts[name].promoted.keys() {
                host.machines.insert(item.as_str().parse().unwrap(), Some(item.clone()));
            }
        }
        facts
    }

    /// Plans a change and tells the run.
    pub fn change(&mut self, change: &Change) -> Result<(), Vec<Problem>> {
        let amendment = Box::new(amend(&self.run, change, &self.facts())?);
        self.tell(&Event::Changed { amendment, by: "ann".to_owned(), at: self.now });
        Ok(())
    }

    pub fn tick(&mut self, seconds: u64) {
        self.now = self.now.plus(Duration::from_secs(seconds));
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Enqueue { key, step, executor, action, .. } => {
                    assert!(self.keys.insert(key.clone()), "{key} was enqueued twice");
                    assert!(self.run.plan.step(&step).is_some());
                    self.queue.push_back(Task { key, step, executor, action });
                }
                Effect::CancelTasks { keys } => {
                    let queued = self.queue.iter().filter(|task| keys.contains(&task.key));
                    self.cancelled.extend(queued.map(|task| task.key.clone()));
                    self.queue.retain(|task| !keys.contains(&task.key));
                }
                Effect::Item { item, change } => self.change_item(&item, change),
                Effect::EndTests { runs } => self.ended_tests.extend(runs),
                Effect::AwaitFirstPoint { .. } => {}
                Effect::Job(view) => {
                    // A job that has ended never goes on (job-tracker's table).
                    let ended = [
                        JobState::Succeeded,
                        JobState::CompletedWithErrors,
                        JobState::Failed,
                        JobState::Cancelled,
                    ];
                    assert!(
                        self.job.is_none_or(|job| !ended.contains(&job)),
                        "the job goes on after its end"
                    );
                    let from_running = self.job == Some(JobState::Running);
                    assert!(
                        view.state != JobState::Cancelled || !from_running,
                        "cancelled without cancelling"
                    );
                    assert_eq!(ended.contains(&view.state), view.report.is_some());
                    assert!(view.sequence > self.sequence);
                    (self.sequence, self.job) = (view.sequence, Some(view.state));
                }
            }
        }
        self.check();
    }

    fn change_item(&mut self, name: &ItemName, change: ItemChange) {
        let record = self.records.get_mut(name).unwrap();
        match change {
            ItemChange::Verb { verb, from, to } => {
                assert_eq!(record.state, from, "{name}: {verb} was told of another state");
                assert_eq!(item::next(from, verb), Ok(to), "invariant 10");
                record.state = to;
            }
            ItemChange::SwitchSides { generation, active, standby } => {
                assert!(generation > record.generation, "invariant 4: generations only grow");
                assert_eq!((&standby, &active), (&record.active, &record.standby));
                (record.generation, record.active, record.standby) = (generation, active, standby);
            }
            ItemChange::SetStandby { generation, standby } => {
                assert!(generation == record.generation && standby != record.active);
                record.standby = standby;
            }
            ItemChange::HoldRun(run) => {
                assert!(run == RUN && !record.held);
                record.held = true;
            }
            ItemChange::ReleaseRun(run) => {
                assert!(run == RUN && record.held);
                record.held = false;
            }
            ItemChange::HoldTest(run) => {
                assert!(run == RUN && !record.tested);
                record.tested = true;
            }
            ItemChange::ReleaseTest(run) => {
                assert!(run == RUN && record.tested);
                record.tested = false;
            }
        }
    }

    /// What must hold after every single event.
    fn check(&self) {
        for name in self.records.keys() {
            let machine: MachineName = name.as_str().parse().unwrap();
            let copies = self.hosts.values().filter(|host| host.running.contains(&machine)).count();
            assert!(copies <= 1, "invariant 1: {name} runs twice");
            let senders = self.hosts.values().filter(|host| host.replicating.contains(name)).count();
            assert!(senders <= 1, "{name} is replicated both ways");
        }
        let actions = run::allowed_actions(&self.run);
        if run::state(&self.run) == RunState::Failed && self.run.is_open() {
            assert!(!actions.is_empty(), "invariant 10: a failed run that nobody can move");
            assert!(!run::waiting_for(&self.run).is_empty());
        }
        if !self.run.is_open() {
            assert!(actions.is_empty());
        }
    }

    /// Takes the next task from the queue and does to it what `act` says.
    pub fn perform(&mut self, act: Act) -> StepName {
        let task = self.queue.pop_front().expect("a task is due");
        self.perform_task(task, act)
    }

    /// All that is due is done, and the run is told of it at once.
    pub fn perform_together(&mut self) {
        self.tick(1);
        let (tasks, mut events) = (std::mem::take(&mut self.queue), Vec::new());
        for task in tasks {
            let result = self.work(&task).unwrap();
            self.done.push(task.step);
            events.push(Event::StepSucceeded { key: task.key, result, at: self.now });
        }
        let (run, effects) = run::advance_all(&self.run, &events).unwrap();
        self.run = run;
        self.carry_out(effects);
    }

    /// The next `count` tasks succeed, or as many as there are.
    pub fn perform_up_to(&mut self, count: usize) {
        for _ in 0..count {
            if self.queue.front().is_some() {
                self.perform(Act::Succeed);
            }
        }
    }

    pub fn perform_task(&mut self, task: Task, act: Act) -> StepName {
        self.tick(1);
        let done = matches!(act, Act::Succeed | Act::Twice | Act::UnknownDone);
        let outcome = if done { self.work(&task) } else { Ok(StepResult::Done) };
        let (key, at) = (task.key.clone(), self.now);
        match (act, outcome) {
            (Act::Silence, _) => {
                self.tick(7 * 3600);
                let given_up = self.run.task_key(&task.step) == Some(key);
                let overdue = run::overdue(&self.run, self.now).contains(&task.step);
                assert!(overdue || !given_up || !self.run.is_open(), "{} waits for ever", task.step);
                // Of the others this time has not been awaited.
                self.tell(&Event::StepTimedOut { step: task.step.clone(), at: self.now });
            }
            (Act::Succeed | Act::Twice, Ok(result)) => {
                self.done.push(task.step.clone());
                let event = Event::StepSucceeded { key, result, at };
                self.tell(&event);
                if act == Act::Twice {
                    let before = self.run.clone();
                    let (run, effects) = advance(&self.run, &event).unwrap();
                    assert_eq!((run, effects.as_slice()), (before, [].as_slice()), "told twice, done twice");
                    let again = self.work(&task);
                    assert!(again.is_ok(), "{} is not idempotent: {again:?}", task.step);
                }
            }
            (Act::Succeed | Act::Twice | Act::UnknownDone, Err(problem)) => {
                self.tell(&Event::StepFailed { key, problem, unknown: false, at });
            }
            (Act::Fail | Act::UnknownUndone | Act::UnknownDone, _) => {
                let problem = Problem::new("BROKEN", task.step.as_str(), "it broke", "Try again.");
                self.tell(&Event::StepFailed { key, problem, unknown: act != Act::Fail, at });
            }
        }
        task.step
    }

    /// What network-mapper does.
    fn network(&mut self, work: &NetworkWork) -> StepResult {
        match work {
            NetworkWork::ReserveAddresses { .. } => self.leases = true,
            NetworkWork::ReleaseRun => (self.leases, self.names_before) = (false, BTreeMap::new()),
            NetworkWork::SetRecords { item, test, records } => {
                let of_test = self.run.plan.operation == Operation::TestFailover;
                for record in records {
                    let purpose = ZonePurpose::of_run(of_test);
                    assert_eq!((*test, record.purpose), (of_test, purpose), "a test touches production");
                    let before = self.names.insert(record.name.clone(), record.address);
                    self.names_before.entry(record.name.clone()).or_insert((item.clone(), before));
                }
            }
            NetworkWork::CallHook(change) => {
                assert_ne!(
                    self.run.plan.operation,
                    Operation::TestFailover,
                    "a test leads clients elsewhere"
                );
                self.hooks.insert((change.hook.clone(), change.item.clone()), change.to.clone());
            }
            NetworkWork::RestoreRecords { item } => {
                for (name, (_, before)) in self.names_before.iter().filter(|(_, (of, _))| of == item) {
                    match before {
                        Some(address) => self.names.insert(name.clone(), *address),
                        None => self.names.remove(name),
                    };
                }
            }
        }
        StepResult::Done
    }

    /// The address that the item's name in production says.
    pub fn name_says(&self, item: &str) -> Option<Ipv4Addr> {
        self.names.get(&format!("{item}.shop.example").parse().unwrap()).copied()
    }

    /// What the workers do, and what they refuse.
    pub fn work(&mut self, task: &Task) -> Result<StepResult, Problem> {
        match (&task.executor, &task.action) {
            (Executor::NetworkMapper, Action::Network(work)) => Ok(self.network(work)),
            (Executor::Host(host), Action::Agent { item, generation, work }) => {
                let now = self.now;
                let host = self.host(host);
                assert!(!host.dead, "{} was sent to a dead host", task.step);
                // A script acts for the run: the item's generation says nothing about it.
                if let AgentWork::RunScript(_) = work {
                    return agent(host, item, work, now);
                }
                let seen = host.seen.entry(item.clone()).or_insert(*generation);
                if *seen > *generation {
                    return Err(Problem::new("STALE_GENERATION", task.step.as_str(), "stale", "Nothing."));
                }
                if *seen < *generation {
                    host.fenced.remove(item);
                }
                *seen = *generation;
                agent(host, item, work, now)
            }
            other => panic!("{} has no worker: {other:?}", task.step),
        }
    }

    /// Lets everything succeed until the run waits for somebody or has ended.
    pub fn until_quiet(&mut self) {
        self.play(|_, _| Act::Succeed);
    }

    /// Performs what is due, each as `script` says of its step and key, until nothing is due.
    pub fn play(&mut self, mut script: impl FnMut(&StepName, &str) -> Act) {
        for _ in 0..500 {
            if self.cancellation_answered() {
                continue;
            }
            if let Some(task) = self.queue.front() {
                let act = script(&task.step, &task.key);
                self.perform(act);
            } else if !self.first_points_arrive() && !self.delays_pass() {
                return;
            }
        }
        panic!("the run goes round in circles: {:#?}", self.run.steps);
    }

    /// A worker that was told to end its task says that it has.
    pub fn cancellation_answered(&mut self) -> bool {
        let Some(key) = self.cancelled.pop_front() else { return false };
        let problem = Problem::new("TASK_CANCELLED", "task", "the task was cancelled", "Nothing to do.");
        self.tell(&Event::StepFailed { key, problem, unknown: false, at: self.now });
        true
    }

    /// Where replication is on and a first point is awaited, it arrives.
    pub fn first_points_arrive(&mut self) -> bool {
        let before = self.run.sequence;
        for (name, record) in self.records.clone() {
            if self.hosts[&record.active].replicating.contains(&name) {
                let event = Event::FirstPoint {
                    item: name,
                    seq: PointSeq::new(40),
                    generation: record.generation,
                    at: self.now,
                };
                self.tell(&event);
            }
        }
        self.run.sequence > before
    }

    /// Where a step only waits, it has waited.
    fn delays_pass(&mut self) -> bool {
        let later = self.now.plus(Duration::from_secs(24 * 3600));
        let over = run::delays_over(&self.run, later);
        if !over.is_empty() {
            self.now = later;
        }
        for step in &over {
            self.tell(&Event::DelayOver { step: step.clone(), at: self.now });
        }
        !over.is_empty()
    }

    /// Plays on to the run's end as an operator would who, at an error, prefers `at_error` where that is allowed.
    pub fn play_to_the_end(&mut self, at_error: RunVerb, mut script: impl FnMut(&StepName, &str) -> Act) {
        for _ in 0..40 {
            self.play(&mut script);
            if !self.run.is_open() {
                return;
            }
            let allowed = run::allowed_actions(&self.run);
            let verb = approval(&allowed).or_else(|| Some(at_error).filter(|verb| allowed.contains(verb)));
            let verb = verb.or_else(|| Some(RunVerb::Retry).filter(|verb| allowed.contains(verb)));
            self.ask(verb.unwrap_or_else(|| panic!("nobody can move the run: {:#?}", self.run.steps)));
        }
        panic!("the run does not end: {:#?}", self.run.steps);
    }

    /// The same with `act` at the first try of `step`, and everything else succeeding. Whether the step was reached.
    pub fn play_to_the_end_with(&mut self, step: &StepName, act: Act, at_error: RunVerb) -> bool {
        let mut reached = false;
        self.play_to_the_end(at_error, |id, key| {
            // A retry's key is another.
            let hit = id == step && key == id.as_str();
            reached |= hit;
            if hit { act } else { Act::Succeed }
        });
        reached
    }

    /// Invariant 6: nothing of a test is left, and the run holds nothing.
    pub fn assert_clean(&self) {
        for host in self.hosts.values() {
            assert_eq!((host.test_machines.len(), host.test_networks.len()), (0, 0), "left behind");
            assert_eq!(host.probe_ports.len(), 0, "left behind");
        }
        assert!(!self.leases, "addresses are still held");
        if self.run.plan.operation == Operation::TestFailover {
            assert_eq!(self.names, names_before_runs(), "R-NET-12: names of a test are left");
        }
        assert!(self.records.values().all(|record| !record.held && !record.tested));
    }
}

/// Nobody's test has a name, and web1 has one in production.
fn names_before_runs() -> BTreeMap<DnsName, Ipv4Addr> {
    [("web1.shop.example".parse().unwrap(), OLD_ADDRESS)].into()
}

/// What an operator says to a run that waits for him with nothing gone wrong.
pub fn approval(allowed: &[RunVerb]) -> Option<RunVerb> {
    use RunVerb::{Commit, CompleteFailover, CompleteTest, Confirm};
    [CompleteTest, CompleteFailover, Commit, Confirm].into_iter().find(|verb| allowed.contains(verb))
}

fn agent(
    host: &mut HostModel,
    item: &ItemName,
    work: &AgentWork,
    now: UnixMicros,
) -> Result<StepResult, Problem> {
    let production: MachineName = item.as_str().parse().unwrap();
    Ok(match work {
        AgentWork::PrepareReplica { .. } => {
            host.replicas.insert(item.clone());
            StepResult::Done
        }
        AgentWork::ExportSeed { seed, .. } => {
            host.seeds.insert(seed.clone());
            StepResult::Seeded { bytes: 1 << 30 }
        }
        AgentWork::RemoveSeed { seed } => {
            host.seeds.remove(seed);
            StepResult::Done
        }
        AgentWork::ImportSeed { .. } => {
            assert!(host.replicas.contains(item) && !host.replicating.contains(item));
            StepResult::Seeded { bytes: 1 << 30 }
        }
        AgentWork::StartReplication(_) => {
            host.replicating.insert(item.clone());
            StepResult::Done
        }
        AgentWork::StopReplication { .. } => {
            host.replicating.remove(item);
            StepResult::Done
        }
        AgentWork::RemoveReplica => {
            host.replicas.remove(item);
            StepResult::Done
        }
        AgentWork::Fence { .. } => {
            host.fenced.insert(item.clone());
            host.running.remove(&production);
            host.replicating.remove(item);
            StepResult::Done
        }
        AgentWork::ShutDownMachine { machine, .. } => {
            let by_guest = host.running.remove(machine);
            StepResult::MachineStopped { by_guest, time: now }
        }
        AgentWork::SyncFinal { machine } => {
            assert!(!host.running.contains(machine), "{machine} still writes");
            StepResult::FinalPoint { seq: PointSeq::new(22), instant: now, sent_bytes: 65_536 }
        }
        AgentWork::DigestDisks { machine } => {
            assert!(!host.running.contains(machine), "{machine} still writes");
            digests()
        }
        AgentWork::VerifyPoint { point } => {
            assert_eq!(*point, PointRef::Seq(PointSeq::new(22)));
            digests()
        }
        AgentWork::CreateTestMachine { name: MachineRef::Named(name), nics, .. } => {
            for nic in nics {
                let known = matches!(nic, NetworkRef::Named(network) if host.test_networks.contains(network)
                    || host.probe_ports.contains(network) || network.as_str() == "prod");
                assert!(known || *nic == NetworkRef::Unconnected, "connected to {nic:?}");
            }
            host.test_machines.insert(name.clone());
            StepResult::MachineCreated { machine: name.clone(), seq: PointSeq::new(20), instant: now }
        }
        AgentWork::SetAside { point, .. } => {
            assert!(
                !host.running.contains(&production),
                "what is written is taken away from below a machine"
            );
            if host.promoted.get(item) == Some(point) {
                host.promoted.remove(item);
                host.aside.insert(item.clone(), *point);
            }
            assert_eq!(host.aside.get(item), Some(point), "what {item} wrote is gone");
            StepResult::Done
        }
        AgentWork::DropAside => {
            assert!(host.running.contains(&production), "the only copy of {item} that ran is removed");
            host.aside.remove(item);
            StepResult::Done
        }
        AgentWork::DiscardPromotion { .. } => {
            assert!(!host.running.contains(&production), "the disks of {item} are removed from under it");
            host.promoted.remove(item);
            host.aside.remove(item);
            StepResult::Done
        }
        AgentWork::PromotePoint { point: PointRef::Seq(seq), .. }
        | AgentWork::PromoteTest { point: PointRef::Seq(seq), .. } => {
            let instant = NOW.minus(Duration::from_secs(30 - seq.get()));
            let other = host.promoted.get(item).is_some_and(|promoted| promoted != seq);
            assert!(!other || !host.running.contains(&production), "another promotion runs");
            if host.aside.get(item) == Some(seq) {
                host.aside.remove(item);
            }
            host.promoted.insert(item.clone(), *seq);
            StepResult::MachineCreated { machine: production, seq: *seq, instant }
        }
        AgentWork::StartMachine { machine: MachineRef::Named(machine) } => {
            if !host.test_machines.contains(machine) {
                assert_eq!(*machine, production);
                assert!(!host.fenced.contains(item), "a fenced side starts {machine}");
                host.running.insert(machine.clone());
            }
            StepResult::MachineStarted { time: now }
        }
        AgentWork::ProbeMachine { .. } => {
            StepResult::Probe { reachable: true, after: Duration::from_secs(3), seen: String::new() }
        }
        AgentWork::TakeScreenshot { machine: MachineRef::Named(_) } => StepResult::Screenshot { bytes: 4096 },
        AgentWork::RemoveTestMachine { machine: MachineRef::Named(machine) } => {
            host.test_machines.remove(machine);
            StepResult::Done
        }
        AgentWork::EnsureTestNetwork { name: NetworkRef::Named(name), .. } => {
            host.test_networks.insert(name.clone());
            StepResult::Done
        }
        AgentWork::ProbeIsolation { network: NetworkRef::Named(_), targets } => StepResult::Isolation {
            ports: vec!["tap0".to_owned()],
            tried: targets.clone(),
            answered: Vec::new(),
            method: "arp and ping".to_owned(),
        },
        AgentWork::RemoveTestNetwork { name: NetworkRef::Named(name) } => {
            assert!(host.test_machines.is_empty(), "a network is removed from under a machine");
            host.test_networks.remove(name);
            StepResult::Done
        }
        AgentWork::ProbeExistingNetwork(probe) => {
            assert!(host.test_machines.is_empty(), "a machine runs before the network was looked at");
            host.probe_ports.insert(probe.network.clone());
            StepResult::Isolation {
                ports: vec!["port".to_owned()],
                tried: probe.targets.clone(),
                answered: Vec::new(),
                method: "arp and ping".to_owned(),
            }
        }
        AgentWork::RemoveProbePort { network } => {
            assert!(host.test_machines.is_empty(), "nobody can ask the machines any more");
            host.probe_ports.remove(network);
            StepResult::Done
        }
        AgentWork::AdoptDisks { point: PointRef::Seq(seq), .. } => {
            assert!(*seq > PointSeq::new(21), "the base's number is in use");
            assert!(!host.running.contains(&production));
            StepResult::Adopted { seq: *seq, bytes_read: 1 << 30 }
        }
        AgentWork::CommitItem => {
            host.aside.remove(item);
            StepResult::Done
        }
        AgentWork::ScrubItem { .. } => StepResult::Done,
        AgentWork::RunScript(_) => {
            StepResult::Script { exit_code: 0, output: "done\n".to_owned(), truncated: false }
        }
        other => panic!("sent with a reference that was not filled in: {other:?}"),
    })
}

fn digests() -> StepResult {
    StepResult::DiskDigests(vec![DiskRoot { disk: "vda".parse().unwrap(), root: "ab".repeat(32) }])
}
