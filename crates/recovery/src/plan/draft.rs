//! Puts the steps of an operation together: what all operations share.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use understudy_ids::{Generation, HostName, ItemName, PointChoice, Problem, RunId, StepName};
use understudy_netplan::{ProbePort, TrafficChange};
use understudy_probe::{Probe, ProbeKind};

use super::{
    ErrorPolicy, Estimate, Executor, ItemView, Operation, Part, Phase, PlanInput, PlannedConnection,
    PlannedItem, PlannedNic, PointView, RunPlan, RunSpec, Stage, Step, errors::error_policy, failback, lint,
    order, planned, protect, reverse, test_failover, unplanned,
};
use crate::{
    action::{
        Action, AgentWork, DiskSize, Internal, MachineRef, NetworkRef, NetworkWork, OperatorWait,
        RecordAddress, ReservedNic, ReservedTestNetwork, RunScript,
    },
    conflict::{OpenRun, gives_way},
    item::{ItemState, Verb},
    test_network::TestNetwork,
};

/// Work that reads or writes whole disks.
const LONG: Duration = Duration::from_secs(6 * 3600);
/// Whole machines to and from media that may be slow.
const SEEDING: Duration = Duration::from_secs(7 * 24 * 3600);
/// For tests to be cleaned up by themselves: machines are powered off and removed.
const TESTS_END: Duration = Duration::from_secs(90);
/// For names to be switched: servers that are restarted come back, and a commit does not wait for one that does not.
const ROUTING: Duration = Duration::from_secs(120);
/// Everything else on a host.
const SHORT: Duration = Duration::from_secs(600);
/// A worker that dies loses its lease and another attempt begins; a step that loses this many is given up on.
const MAX_ATTEMPTS: u32 = 10;

pub(super) fn draft(spec: &RunSpec, input: &PlanInput) -> Result<RunPlan, Vec<Problem>> {
    let items: Vec<Subject<'_>> =
        spec.items.iter().filter_map(|name| Subject::of(spec, input, name)).collect();
    let steps = match spec.operation {
        Operation::Protect => protect::protect(spec, &items),
        Operation::Unprotect => protect::unprotect(spec, &items),
        Operation::TestFailover => test_failover::steps(spec, input, &items),
        Operation::PlannedFailover => planned::steps(spec, input, &items, &[]),
        Operation::UnplannedFailover => unplanned::steps(spec, input, &items),
        Operation::ReverseReplicate => reverse::steps(spec, input, &items),
        Operation::Failback => failback::steps(spec, input, &items),
    };
    let steps = order::ordered(spec, input, &items, steps);
    let plan = RunPlan {
        operation: spec.operation,
        items: items.iter().map(|item| item.planned(spec, input)).collect(),
        steps: lint::mark_point_of_no_return(steps),
        notices: Vec::new(),
        estimates: items.iter().map(|item| (item.name().clone(), item.estimate(spec, input))).collect(),
    };
    lint::in_order(&plan)?;
    Ok(plan)
}

/// One item of the plan with the hosts that it goes from and to.
#[derive(Clone)]
pub(super) struct Subject<'a> {
    pub view: &'a ItemView,
    pub source: &'a HostName,
    pub target: &'a HostName,
    /// `https://…` of the sinks of both.
    pub source_endpoint: String,
    pub target_endpoint: String,
    /// What the names of its steps begin with, where the same is done twice in a run.
    prefix: &'static str,
}

/// From where to where an operation takes an item.
///
/// An unplanned failover that failed has switched the sides already: it is tried again at the side that is active now.
pub fn ends<'a>(spec: &'a RunSpec, item: &'a ItemView) -> (&'a HostName, &'a HostName) {
    match (spec.operation, &spec.standby_host) {
        (Operation::UnplannedFailover, _) if item.state == ItemState::Failed => {
            (&item.standby_host, &item.active_host)
        }
        (Operation::ReverseReplicate | Operation::Failback, Some(other)) => (&item.active_host, other),
        _ => (&item.active_host, &item.standby_host),
    }
}

/// Points at the host that can be failed over to, oldest first: without bases, and without what a scrub has found damaged, so that
/// the latest is the latest whole one.
pub(super) fn usable_points<'a>(item: &'a ItemView, host: &HostName) -> Vec<&'a PointView> {
    let mut points: Vec<_> =
        item.points.iter().filter(|p| p.host == *host && !p.is_base && p.damaged_blocks == 0).collect();
    points.sort_by_key(|p| p.seq);
    points
}

/// The point that a test or unplanned failover uses as of now (R-TF-1, R-UF-3).
pub(super) fn chosen_point<'a>(spec: &RunSpec, item: &'a ItemView, host: &HostName) -> Option<&'a PointView> {
    let mut points = usable_points(item, host).into_iter().rev();
    match spec.points.get(&item.name) {
        // One that has gone since the others were looked at was not usable any more.
        None => match item.common_point {
            Some(common) => points.find(|point| point.seq == common),
            None => points.next(),
        },
        Some(PointChoice::Seq(seq)) => points.find(|point| point.seq == *seq),
        Some(PointChoice::LatestAppConsistent) => {
            points.find(|point| point.consistency.is_application_consistent())
        }
    }
}

impl<'a> Subject<'a> {
    pub fn of(spec: &'a RunSpec, input: &'a PlanInput, name: &ItemName) -> Option<Self> {
        let view = input.items.iter().find(|item| item.name == *name)?;
        let (source, target) = ends(spec, view);
        Some(Self::between(view, source, target, input))
    }

    pub fn between(
        view: &'a ItemView,
        source: &'a HostName,
        target: &'a HostName,
        input: &PlanInput,
    ) -> Self {
        let endpoint = |host| input.hosts.get(host).map(|h| h.sink_endpoint.clone()).unwrap_or_default();
        let (source_endpoint, target_endpoint) = (endpoint(source), endpoint(target));
        Self { view, source, target, source_endpoint, target_endpoint, prefix: "" }
    }

    /// The same, whose steps have names of their own.
    pub fn prefixed(&self, prefix: &'static str) -> Self {
        Self { prefix, ..self.clone() }
    }

    pub fn name(&self) -> &ItemName {
        &self.view.name
    }

    pub fn id(&self, what: &str) -> StepName {
        step_name(&format!("{}.{}{what}", self.view.name, self.prefix))
    }

    /// A step that an agent does to this item.
    pub fn agent(
        &self,
        what: &str,
        host: &HostName,
        generation: Generation,
        phase: Phase,
        work: AgentWork,
    ) -> Step {
        let title = title(&work, self.view.machine.name.as_str());
        let time_out = time_out(&work);
        let action = Action::Agent { item: self.name().clone(), generation, work };
        let step = Step::new(self.id(what), title, Executor::Host(host.clone()), action, phase);
        Step { item: Some(self.name().clone()), time_out: Some(time_out), ..step }
    }

    /// A step that the orchestrator does for this item.
    pub fn internal(&self, what: &str, title: String, phase: Phase, internal: Internal) -> Step {
        let step = Step::new(self.id(what), title, Executor::Orchestrator, Action::Internal(internal), phase);
        Step { item: Some(self.name().clone()), ..step }
    }

    pub fn prepare_replica(&self) -> AgentWork {
        AgentWork::PrepareReplica { disks: self.sizes(), retention: self.view.policy.retention.clone() }
    }

    /// Of the disks that are replicated.
    pub fn sizes(&self) -> Vec<DiskSize> {
        let replicated = self.view.machine.disks.iter().filter(|disk| self.view.disks.contains(&disk.name));
        replicated.map(|d| DiskSize { name: d.name.clone(), size_bytes: d.size_bytes }).collect()
    }

    /// A run that starts replication is a beginning: it is never paused from before.
    pub fn start_replication(&self, peer: &HostName, peer_endpoint: &str) -> AgentWork {
        let ItemView { machine, disks, policy, .. } = self.view;
        let assignment = policy.assignment(&machine.name, disks, peer, peer_endpoint, false);
        AgentWork::StartReplication(Box::new(assignment))
    }

    pub fn await_first_point(&self, standby: &HostName, generation: Generation, phase: Phase) -> Step {
        let title = format!("Wait for the first recovery point of {} at {standby}", self.name());
        let wait =
            Internal::AwaitFirstPoint { item: self.name().clone(), standby: standby.clone(), generation };
        let step = self.internal("first-point", title, phase, wait);
        Step { records: vec![Verb::FirstPoint], ..step }
    }

    /// The generation is raised, and the target is the item's side from then on.
    pub fn raise_generation(&self) -> Step {
        let generation = self.view.generation.next();
        let title =
            format!("Make {} the active side of {} at generation {generation}", self.target, self.name());
        let raise = Internal::RaiseGeneration {
            item: self.name().clone(),
            generation,
            active: self.target.clone(),
            standby: self.source.clone(),
        };
        self.internal("raise-generation", title, Phase::Switch, raise)
    }

    pub fn nics<'b>(&self, input: &'b PlanInput) -> Vec<&'b PlannedNic> {
        let mut nics: Vec<_> = input.connections.nics.iter().filter(|nic| nic.item == *self.name()).collect();
        nics.sort_by_key(|nic| nic.index);
        nics
    }

    /// Where the machine's NICs go, in their order; those that nothing is planned for stay unconnected.
    pub fn networks(&self, input: &PlanInput) -> Vec<NetworkRef> {
        let nics = self.nics(input);
        let network_of = |index: usize| {
            let nic = nics.iter().find(|nic| usize::try_from(nic.index) == Ok(index));
            nic.map_or(NetworkRef::Unconnected, |nic| network_of(nic))
        };
        (0..self.view.machine.nics.len()).map(network_of).collect()
    }

    /// What the machine is asked when it has been started, one question after another, whatever came of those before, and a picture of its
    /// console behind them (R-TF-8).
    pub fn proof(
        &self,
        spec: &RunSpec,
        input: &PlanInput,
        generation: Generation,
        machine: &MachineRef,
        start: &Step,
    ) -> Vec<Step> {
        let place = self.place(spec, input);
        let on_error = error_policy(spec.operation, Part::Proof);
        let mut steps: Vec<Step> = Vec::new();
        for (name, probe) in asked(self.view) {
            let (network, address) = match (&probe.kind, &place) {
                (ProbeKind::GuestAgent, _) => (NetworkRef::Unconnected, None),
                (_, Some((network, address))) => (network.clone(), Some(*address)),
                // See `not_asked`.
                (_, None) => continue,
            };
            let probe = Box::new(probe);
            let work = AgentWork::ProbeMachine { machine: machine.clone(), network, address, probe };
            let after = steps.last().unwrap_or(start).id.clone();
            let step = self.agent(&name, self.target, generation, Phase::Probe, work).after([after]);
            steps.push(step.on_error(on_error));
        }
        let look = AgentWork::TakeScreenshot { machine: machine.clone() };
        let after = steps.last().unwrap_or(start).id.clone();
        let look = self.agent("screenshot", self.target, generation, Phase::Probe, look).after([after]);
        steps.push(look.on_error(on_error));
        steps
    }

    /// The item's names have the addresses that its machine has there (R-NET-11, R-NET-12). `None`: it has no name, or no address is known.
    fn set_records(&self, spec: &RunSpec, input: &PlanInput, behind: &StepName) -> Option<Step> {
        let of_item = input.connections.records.iter().filter(|record| record.item == *self.name());
        let records: Vec<RecordAddress> = of_item
            .filter_map(|record| {
                let (name, zone) = (record.name.clone(), record.zone.clone());
                Some(RecordAddress { name, zone, purpose: record.purpose, address: record.address? })
            })
            .collect();
        if records.is_empty() {
            return None;
        }
        let said: Vec<String> =
            records.iter().map(|record| format!("{} has {}", record.name, record.address)).collect();
        let title = format!("See to it that {}", said.join(", "));
        let test = spec.operation == Operation::TestFailover;
        let work = NetworkWork::SetRecords { item: self.name().clone(), test, records };
        let step = self.routing("set-records", title, Phase::Route, work);
        Some(step.on_error(error_policy(spec.operation, Part::Routing)).after([behind.clone()]))
    }

    /// Clients are led to where the machine is: its names have its addresses (R-NET-11), and its hooks know (R-NET-12). None of these waits for
    /// another.
    pub fn route(&self, spec: &RunSpec, input: &PlanInput, behind: &StepName) -> Vec<Step> {
        let addresses = self.nics(input).into_iter().filter_map(|nic| nic.address).collect::<Vec<_>>();
        let of_item = input.connections.hooks.iter().filter(|planned| planned.item == *self.name());
        let calls = of_item.map(|planned| {
            let change = TrafficChange {
                hook: planned.hook.clone(),
                item: self.name().clone(),
                step: self.id(&format!("call-{}", planned.hook)),
                roll_back: false,
                from: self.source.clone(),
                to: self.target.clone(),
                generation: self.view.generation.next(),
                addresses: ipv4(&addresses),
            };
            let step = self.call_hook(change, Phase::Route).after([behind.clone()]);
            step.on_error(error_policy(spec.operation, Part::Routing))
        });
        self.set_records(spec, input, behind).into_iter().chain(calls).collect()
    }

    pub fn call_hook(&self, change: TrafficChange, phase: Phase) -> Step {
        let title = format!("Tell {} that {} is at {}", change.hook, self.name(), change.to);
        let (id, action) = (change.step.clone(), NetworkWork::CallHook(Box::new(change)));
        let step = Step::new(id, title, Executor::NetworkMapper, Action::Network(action), phase);
        Step { item: Some(self.name().clone()), time_out: Some(ROUTING), ..step }
    }

    /// Takes back what [`Self::set_records`] does.
    pub fn restore_records(&self, what: &str, phase: Phase) -> Step {
        let work = NetworkWork::RestoreRecords { item: self.name().clone() };
        self.routing(what, format!("Restore the names of {}", self.name()), phase, work)
    }

    fn routing(&self, what: &str, title: String, phase: Phase, work: NetworkWork) -> Step {
        let step = Step::new(self.id(what), title, Executor::NetworkMapper, Action::Network(work), phase);
        Step { item: Some(self.name().clone()), time_out: Some(ROUTING), ..step }
    }

    /// Where the machine can be asked: the first of its addresses that is known, if its NIC is connected.
    fn place(&self, spec: &RunSpec, input: &PlanInput) -> Option<(NetworkRef, IpAddr)> {
        let nics = self.nics(input);
        let known = nics.iter().find_map(|nic| Some((network_of(nic), nic.address?)));
        known.filter(|(network, _)| uses_connections(spec) && *network != NetworkRef::Unconnected)
    }

    fn not_asked(&self, spec: &RunSpec, input: &PlanInput) -> Option<String> {
        let needs_address = |probe: &&Probe| probe.kind != ProbeKind::GuestAgent;
        let names: Vec<&str> =
            self.view.probes.iter().filter(needs_address).map(|probe| probe.name.as_str()).collect();
        (!names.is_empty() && self.place(spec, input).is_none()).then(|| {
            let names = names.join(", ");
            format!("{} is not asked by {names}: no address of it is known where it will be", self.name())
        })
    }

    fn planned(&self, spec: &RunSpec, input: &PlanInput) -> PlannedItem {
        let switches = uses_connections(spec) && spec.operation != Operation::TestFailover;
        let generation = if switches { self.view.generation.next() } else { self.view.generation };
        PlannedItem {
            item: self.name().clone(),
            state: self.view.state,
            generation,
            source_host: self.source.clone(),
            target_host: self.target.clone(),
            machine: self.view.machine.name.clone(),
            connections: if uses_connections(spec) { self.connections(input) } else { Vec::new() },
        }
    }

    pub fn connections(&self, input: &PlanInput) -> Vec<PlannedConnection> {
        let shown = |nic: &&PlannedNic| PlannedConnection {
            mac: nic.mac.to_string(),
            network: match (&nic.network, nic.test_network) {
                (Some(network), Some(_)) => format!("test network standing for {network}"),
                (Some(network), None) => network.clone(),
                (None, _) => String::new(),
            },
            address: nic.address.map(|a| a.to_string()).unwrap_or_default(),
            reason: nic.reason.clone(),
        };
        self.nics(input).iter().map(shown).collect()
    }

    fn estimate(&self, spec: &RunSpec, input: &PlanInput) -> Estimate {
        let highest = self.view.points.iter().map(|p| p.seq).chain(self.view.highest_point).max();
        let estimate = Estimate { highest_point: highest, ..Estimate::default() };
        if !matches!(spec.operation, Operation::TestFailover | Operation::UnplannedFailover) {
            return estimate;
        }
        let point = chosen_point(spec, self.view, self.target);
        let loses = spec.operation == Operation::UnplannedFailover;
        Estimate {
            point: point.map(|p| p.seq),
            point_instant: point.map(|p| p.instant),
            point_consistency: point.map(|p| p.consistency),
            expected_loss: point.filter(|_| loses).map(|p| input.now.since(p.instant)),
            lease_over_in: self
                .view
                .lease_over_in
                .filter(|_| loses && unplanned::rests_on_lease(spec, input, self.view)),
            ..estimate
        }
    }
}

pub(super) fn ipv4(addresses: &[IpAddr]) -> Vec<Ipv4Addr> {
    let of = |address: &IpAddr| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    };
    addresses.iter().filter_map(of).collect()
}

/// Whether the operation connects machines to networks.
pub(super) fn uses_connections(spec: &RunSpec) -> bool {
    match spec.operation {
        Operation::TestFailover => spec.test_network != TestNetwork::None,
        Operation::PlannedFailover | Operation::UnplannedFailover | Operation::Failback => true,
        Operation::Protect | Operation::Unprotect | Operation::ReverseReplicate => false,
    }
}

/// The probes of an item, with what their steps are called.
fn asked(item: &ItemView) -> Vec<(String, Probe)> {
    match item.probes.as_slice() {
        [] => vec![("probe".to_owned(), Probe::ping())],
        some => some.iter().zip(1..).map(|(probe, n)| (format!("probe-{n}"), probe.clone())).collect(),
    }
}

/// Probes that somebody has asked for and that will not be made.
pub(super) fn not_asked(spec: &RunSpec, input: &PlanInput) -> Vec<String> {
    let failover = spec.operation.is_failover() || spec.operation == Operation::Failback;
    let items = spec.items.iter().filter(|_| failover).filter_map(|name| Subject::of(spec, input, name));
    items.filter_map(|item| item.not_asked(spec, input)).collect()
}

fn network_of(nic: &PlannedNic) -> NetworkRef {
    match (nic.test_network, &nic.hypervisor_network) {
        (Some(index), _) => NetworkRef::Test(index),
        (None, Some(name)) => NetworkRef::Named(name.clone()),
        (None, None) => NetworkRef::Unconnected,
    }
}

/// Tests of these items are over before anything is done (R-TF-7): what they occupy may be needed. `None`: there are none.
pub(super) fn end_tests(spec: &RunSpec, input: &PlanInput) -> Option<Step> {
    let tests = tests_in_the_way(spec, input).map(|test| test.id);
    let runs: BTreeSet<RunId> = tests.filter(|run| spec.promote_test != Some(*run)).collect();
    (!runs.is_empty()).then(|| end_of("end-tests", spec.operation, runs))
}

/// A test whose machines were promoted has nothing left to show.
pub(super) fn end_promoted_test(run: RunId, promoted: Vec<StepName>) -> Step {
    end_of("end-promoted-test", Operation::UnplannedFailover, [run].into()).after(promoted)
}

fn end_of(id: &str, operation: Operation, runs: BTreeSet<RunId>) -> Step {
    let named: Vec<String> = runs.iter().map(|run| format!("jobs/{run}")).collect();
    let title = format!("End the tests {}", named.join(", "));
    let action = Action::Internal(Internal::EndTests { runs });
    let step = Step::new(step_name(id), title, Executor::Orchestrator, action, Phase::Prepare);
    Step { time_out: Some(TESTS_END), ..step.on_error(error_policy(operation, Part::Tests)) }
}

/// What is said of them, for those who had other plans with a test.
pub(super) fn ended_tests(spec: &RunSpec, input: &PlanInput) -> Vec<String> {
    let of = |test: &OpenRun| test.items.iter().map(ItemName::as_str).collect::<Vec<_>>().join(", ");
    let tests = tests_in_the_way(spec, input);
    tests
        .map(|test| match spec.promote_test {
            Some(promoted) if promoted == test.id => {
                format!("the machines of the test jobs/{promoted} go on as production, with what they have written since, and the test ends")
            }
            _ => format!("the test jobs/{} of {} is ended first", test.id, of(test)),
        })
        .collect()
}

fn tests_in_the_way<'a>(spec: &'a RunSpec, input: &'a PlanInput) -> impl Iterator<Item = &'a OpenRun> {
    let concerned = |run: &&OpenRun| run.items.iter().any(|item| spec.items.contains(item));
    input.open_runs.iter().filter(concerned).filter(|run| gives_way(run, spec.operation))
}

/// The run's addresses and test networks are put on record before anything is made (invariant 6). `test`: the
/// addresses are on those test networks. `None`: there is nothing to reserve.
pub(super) fn reserve(
    input: &PlanInput,
    test: bool,
    test_networks: Vec<ReservedTestNetwork>,
) -> Option<Step> {
    let reserved = input.connections.nics.iter().filter_map(|nic| {
        Some(ReservedNic {
            item: nic.item.clone(),
            mac: nic.mac,
            network: nic.network.clone()?,
            address: nic.address?,
        })
    });
    let nics: Vec<_> = reserved.chain(reserved_ports(input)).collect();
    if nics.is_empty() && test_networks.is_empty() {
        return None;
    }
    let action = Action::Network(NetworkWork::ReserveAddresses { test, nics, test_networks });
    let title = "Reserve the addresses of the run".to_owned();
    let step =
        Step::new(step_name("reserve-addresses"), title, Executor::NetworkMapper, action, Phase::Prepare);
    Some(Step { time_out: Some(SHORT), ..step })
}

/// Of ports on an existing network. They are the run's; the item is only one that it is about.
fn reserved_ports(input: &PlanInput) -> Vec<ReservedNic> {
    let (Some(existing), Some(nic)) = (&input.connections.existing, input.connections.nics.first()) else {
        return Vec::new();
    };
    let of_port = |port: &ProbePort| ReservedNic {
        item: nic.item.clone(),
        mac: port.mac,
        network: existing.network.to_string(),
        address: port.address.into(),
    };
    existing.probe_ports.iter().map(of_port).collect()
}

/// Gives back what [`reserve`] took, whatever became of the run.
pub(super) fn release(reserve: &StepName, after: Vec<StepName>) -> Step {
    let action = Action::Network(NetworkWork::ReleaseRun);
    let title = "Release the addresses of the run".to_owned();
    let step =
        Step::new(step_name("release-addresses"), title, Executor::NetworkMapper, action, Phase::CleanUp);
    Step { time_out: Some(SHORT), ..step.after(after).cleans_up(Stage::Cleanup, [reserve.clone()]) }
}

/// A step that ends when a person says so.
pub(super) fn wait_for(id: StepName, title: impl Into<String>, wait: OperatorWait) -> Step {
    Step::new(id, title.into(), Executor::Operator, Action::Operator(wait), Phase::Wait)
}

/// The end of a failover's way forward.
pub(super) fn commit(after: Vec<StepName>) -> Step {
    wait_for(step_name("commit"), "Wait until the failover is committed", OperatorWait::Commit).after(after)
}

/// A step's name from parts that are names.
pub(super) fn step_name(text: &str) -> StepName {
    // An item's name has at most 63 characters, what is put behind it is a short word, and a step's name may have 120.
    text.parse().unwrap_or_else(|error| unreachable!("{error}"))
}

impl Step {
    pub(super) fn new(id: StepName, title: String, executor: Executor, action: Action, phase: Phase) -> Self {
        Self {
            id,
            item: None,
            title,
            action,
            executor,
            after: Vec::new(),
            on_error: ErrorPolicy::StopRun,
            phase,
            stage: Stage::Main,
            point_of_no_return: false,
            undoes: Vec::new(),
            records: Vec::new(),
            max_attempts: MAX_ATTEMPTS,
            time_out: None,
        }
    }

    /// A step in which a host runs a script of its library (R-RP-2). It belongs to the run and to no item, so an error in it skips none;
    /// `item` and `generation` are only what it is sent with. Nothing takes back what a script did: a plan that needs that has a script
    /// for it among its clean-up steps.
    pub fn script(
        id: StepName,
        host: &HostName,
        (item, generation): (&ItemName, Generation),
        asked: RunScript,
        phase: Phase,
    ) -> Self {
        let work = AgentWork::RunScript(Box::new(asked));
        let (title, time_out) = (title(&work, item.as_str()), time_out(&work));
        let action = Action::Agent { item: item.clone(), generation, work };
        let step = Self::new(id, title, Executor::Host(host.clone()), action, phase);
        Self { time_out: Some(time_out), ..step }
    }

    pub(super) fn after(self, after: impl IntoIterator<Item = StepName>) -> Self {
        Self { after: after.into_iter().collect(), ..self }
    }

    pub(super) fn on_error(self, on_error: ErrorPolicy) -> Self {
        Self { on_error, ..self }
    }

    pub(super) fn stage(self, stage: Stage) -> Self {
        Self { stage, ..self }
    }

    pub(super) fn records(self, records: impl IntoIterator<Item = Verb>) -> Self {
        Self { records: records.into_iter().collect(), ..self }
    }

    /// The step takes back what `undoes` made. An error in it is shown and stops none of the others but those that build on it.
    pub(super) fn cleans_up(self, stage: Stage, undoes: impl IntoIterator<Item = StepName>) -> Self {
        let undoes = undoes.into_iter().collect();
        Self { stage, undoes, phase: Phase::CleanUp, on_error: ErrorPolicy::GoOn, ..self }
    }
}

fn time_out(work: &AgentWork) -> Duration {
    match work {
        AgentWork::ShutDownMachine { grace, .. } | AgentWork::PromoteTest { grace, .. } => *grace + SHORT,
        AgentWork::ProbeMachine { probe, .. } => probe.time_out + SHORT,
        AgentWork::RunScript(run) => run.time_out + SHORT,
        AgentWork::SyncFinal { .. }
        | AgentWork::DigestDisks { .. }
        | AgentWork::VerifyPoint { .. }
        | AgentWork::AdoptDisks { .. }
        | AgentWork::CommitItem
        | AgentWork::ScrubItem { .. } => LONG,
        AgentWork::ExportSeed { .. } | AgentWork::ImportSeed { .. } => SEEDING,
        _ => SHORT,
    }
}

fn question(machine: &str, address: Option<IpAddr>, kind: &ProbeKind) -> String {
    let at =
        |port: u16| address.map(|address| SocketAddr::new(address, port).to_string()).unwrap_or_default();
    match kind {
        ProbeKind::GuestAgent => format!("Ask the agent in {machine} to answer"),
        ProbeKind::Ping => {
            let address = address.map(|address| address.to_string()).unwrap_or_default();
            format!("Ask {machine} to answer at {address}")
        }
        ProbeKind::Tcp { port } => format!("Ask {machine} to accept a connection at {}", at(*port)),
        ProbeKind::Http(http) => format!("Ask {machine} for http://{}{}", at(http.port), http.path),
    }
}

fn title(work: &AgentWork, machine: &str) -> String {
    match work {
        AgentWork::PrepareReplica { .. } => format!("Prepare the replica of {machine}"),
        AgentWork::ExportSeed { seed, .. } => format!("Write a first copy of {machine} to the medium {seed}"),
        AgentWork::ImportSeed { seed, .. } => {
            format!("Read the first copy of {machine} from the medium {seed}")
        }
        AgentWork::RemoveSeed { seed } => {
            format!("Remove the first copy of {machine} from the medium {seed}")
        }
        AgentWork::StartReplication(asked) => format!("Replicate {machine} to {}", asked.peer_host),
        AgentWork::StopReplication { .. } => format!("Stop replicating {machine}"),
        AgentWork::RemoveReplica => format!("Remove the replica of {machine}"),
        AgentWork::Fence { .. } => format!("Fence the old side of {machine}"),
        AgentWork::ShutDownMachine { .. } => format!("Shut down {machine}"),
        AgentWork::SyncFinal { .. } => format!("Ship the last changes of {machine}"),
        AgentWork::DigestDisks { .. } => format!("Digest the disks of {machine}"),
        AgentWork::VerifyPoint { .. } => format!("Verify the recovery point of {machine}"),
        AgentWork::CreateTestMachine { .. } => format!("Make a test machine of {machine}"),
        AgentWork::PromotePoint { .. } => format!("Define {machine} from its recovery point"),
        AgentWork::PromoteTest { test_machine, .. } => format!("Make {machine} of {test_machine}"),
        AgentWork::StartMachine { .. } | AgentWork::StartInBoot { .. } => format!("Start {machine}"),
        AgentWork::ProbeMachine { address, probe, .. } => question(machine, *address, &probe.kind),
        AgentWork::TakeScreenshot { .. } => format!("Take a picture of the console of {machine}"),
        AgentWork::RemoveTestMachine { .. } => format!("Remove the test machine of {machine}"),
        AgentWork::EnsureTestNetwork { .. } => "Make a test network".to_owned(),
        AgentWork::ProbeIsolation { .. } => "Prove that the test network is isolated".to_owned(),
        AgentWork::RemoveTestNetwork { .. } => "Remove a test network".to_owned(),
        AgentWork::ProbeExistingNetwork(asked) => format!("Prove that network {} is isolated", asked.network),
        AgentWork::RemoveProbePort { network } => format!("Leave network {network}"),
        AgentWork::AdoptDisks { .. } => format!("Keep the old disks of {machine} as a base"),
        AgentWork::SetAside { point, .. } => format!("Set aside what {machine} wrote since point {point}"),
        AgentWork::DropAside => format!("Remove what {machine} wrote before"),
        AgentWork::DiscardPromotion { .. } => format!("Remove {machine} where it was failed over to"),
        AgentWork::CommitItem => format!("Make the failover of {machine} final"),
        AgentWork::ScrubItem { .. } => format!("Read the replica of {machine} again"),
        AgentWork::RunScript(run) => format!("Run the script {}", run.script),
    }
}
