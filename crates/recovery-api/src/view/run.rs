//! Previews and runs.

use std::{collections::BTreeSet, time::Duration};

use serde::{Serialize, Serializer};
use understudy_ids::{
    Consistency, Generation, HostName, ItemName, PointSeq, Problem, RecoveryPlanName, RunId, SiteName,
    StepName, UnixMicros,
};
use understudy_recovery::test_network::TestNetwork;
use understudy_types_api::{
    consistency_from_wire, consistency_to_wire, duration_to_wire, problem_to_wire, time_to_wire,
};

use super::{optional_problem, problems, problems_to_wire};
use crate::{
    Operation, Resource, RunState, StepState,
    check::{Checks, Invalid},
    encode,
    request::{RunDeadline, RunSpec},
    v1,
};

/// A step as planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedStep {
    pub step: StepName,
    /// Nothing for a step of the whole run.
    pub item: Option<ItemName>,
    pub title: String,
    /// "hosts/<site>/<host>", "network-mapper", "orchestrator", "operator".
    pub executor: String,
    pub after: Vec<StepName>,
    /// "stop-run", "skip-item", "go-on".
    pub on_error: String,
    pub phase: String,
    /// From this step on the run cannot be cancelled.
    pub point_of_no_return: bool,
}

impl PlannedStep {
    pub fn into_wire(self) -> v1::PlannedStep {
        let Self { step, item, title, executor, after, on_error, phase, point_of_no_return } = self;
        v1::PlannedStep {
            step: step.to_string(),
            item: item.map(|i| i.to_resource()).unwrap_or_default(),
            title,
            executor,
            after: after.iter().map(ToString::to_string).collect(),
            on_error,
            phase,
            point_of_no_return,
        }
    }

    fn from_wire(checks: &mut Checks, wire: v1::PlannedStep) -> Option<Self> {
        let v1::PlannedStep { step, item, title, executor, after, on_error, phase, point_of_no_return } =
            wire;
        Some(Self {
            step: checks.parse("steps.step", &step)?,
            item: checks.optional_resource("steps.item", &item)?,
            title,
            executor,
            after: after.iter().map(|s| checks.parse("steps.after", s)).collect::<Option<_>>()?,
            on_error,
            phase,
            point_of_no_return,
        })
    }
}

/// Where one NIC will be connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedConnection {
    pub mac: String,
    /// Empty: not connected.
    pub network: String,
    pub address: String,
    pub reason: String,
}

impl PlannedConnection {
    fn into_wire(self) -> v1::PlannedConnection {
        let Self { mac, network, address, reason } = self;
        v1::PlannedConnection { mac, network, address, reason }
    }

    fn from_wire(wire: v1::PlannedConnection) -> Self {
        let v1::PlannedConnection { mac, network, address, reason } = wire;
        Self { mac, network, address, reason }
    }
}

/// What a run would do with one item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedItem {
    pub item: ItemName,
    pub generation: Generation,
    pub source_host: HostName,
    pub target_host: HostName,
    /// The machine's name at the target.
    pub machine: String,
    /// The point to be used as of now.
    pub point: Option<PointSeq>,
    #[serde(serialize_with = "encode::maybe_when")]
    pub point_instant: Option<UnixMicros>,
    /// How the guest stood at it.
    pub point_consistency: Option<Consistency>,
    /// Nothing when nothing can be lost.
    #[serde(serialize_with = "encode::maybe_seconds")]
    pub expected_loss: Option<Duration>,
    pub connections: Vec<PlannedConnection>,
    /// For how long the run waits until the item's activation lease has certainly ended.
    #[serde(serialize_with = "encode::maybe_seconds")]
    pub lease_over_in: Option<Duration>,
}

impl PlannedItem {
    fn into_wire(self) -> v1::PlannedItem {
        let Self {
            item,
            generation,
            source_host,
            target_host,
            machine,
            point,
            point_instant,
            point_consistency,
            expected_loss,
            connections,
            lease_over_in,
        } = self;
        v1::PlannedItem {
            item: item.to_resource(),
            generation: generation.get(),
            source_host: source_host.to_resource(),
            target_host: target_host.to_resource(),
            machine,
            point: point.map_or(0, PointSeq::get),
            point_instant: point_instant.map(time_to_wire),
            point_consistency: point_consistency.map_or(0, consistency_to_wire),
            expected_loss: expected_loss.map(duration_to_wire),
            connections: connections.into_iter().map(PlannedConnection::into_wire).collect(),
            lease_over_in: lease_over_in.map(duration_to_wire),
        }
    }

    fn from_wire(checks: &mut Checks, wire: v1::PlannedItem) -> Option<Self> {
        let v1::PlannedItem {
            item,
            generation,
            source_host,
            target_host,
            machine,
            point,
            point_instant,
            point_consistency,
            expected_loss,
            connections,
            lease_over_in,
        } = wire;
        Some(Self {
            item: checks.resource("items.item", &item)?,
            generation: Generation::new(generation),
            source_host: checks.resource("items.source_host", &source_host)?,
            target_host: checks.resource("items.target_host", &target_host)?,
            machine,
            point: Some(point).filter(|p| *p > 0).map(PointSeq::new),
            point_instant: checks.optional_time("items.point_instant", point_instant),
            point_consistency: (point_consistency != 0).then(|| consistency_from_wire(point_consistency)),
            expected_loss: checks.optional_span("items.expected_loss", expected_loss),
            connections: connections.into_iter().map(PlannedConnection::from_wire).collect(),
            lease_over_in: checks.optional_span("items.lease_over_in", lease_over_in),
        })
    }
}

/// Exactly what StartRun would do, and every reason why it would be refused (R-FO-2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunPreview {
    #[serde(skip)]
    pub spec: RunSpec,
    /// Pass to StartRun; empty when there is no plan.
    pub digest: String,
    pub items: Vec<PlannedItem>,
    pub steps: Vec<PlannedStep>,
    pub problems: Vec<Problem>,
    /// Sentences for whoever asks.
    pub notices: Vec<String>,
}

impl RunPreview {
    pub fn into_wire(self) -> v1::RunPreview {
        let Self { spec, digest, items, steps, problems, notices } = self;
        v1::RunPreview {
            spec: Some(spec.into_wire()),
            digest,
            items: items.into_iter().map(PlannedItem::into_wire).collect(),
            steps: steps.into_iter().map(PlannedStep::into_wire).collect(),
            problems: problems_to_wire(problems),
            notices,
        }
    }

    /// # Errors
    /// When a field is missing or malformed.
    pub fn from_wire(wire: v1::RunPreview) -> Result<Self, Invalid> {
        let v1::RunPreview { spec, digest, items, steps, problems: wire_problems, notices } = wire;
        let spec = RunSpec::of_any_run(spec)?;
        let mut checks = Checks::default();
        let items = items.into_iter().map(|i| PlannedItem::from_wire(&mut checks, i)).collect::<Option<_>>();
        let steps = steps.into_iter().map(|s| PlannedStep::from_wire(&mut checks, s)).collect::<Option<_>>();
        let problems = problems(&mut checks, "problems", wire_problems);
        let whole =
            (|| Some(Self { spec, digest, items: items?, steps: steps?, problems: problems?, notices }))();
        checks.finish(whole)
    }
}

/// A step as it went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunStep {
    #[serde(flatten)]
    pub plan: PlannedStep,
    pub state: StepState,
    #[serde(serialize_with = "encode::maybe_when")]
    pub start_time: Option<UnixMicros>,
    #[serde(serialize_with = "encode::maybe_when")]
    pub end_time: Option<UnixMicros>,
    pub error: Option<Problem>,
    /// What came of it, for people.
    pub outcome: String,
    /// The end of what a script wrote; empty for every other step.
    pub output: String,
}

impl RunStep {
    fn into_wire(self) -> v1::RunStep {
        let Self { plan, state, start_time, end_time, error, outcome, output } = self;
        v1::RunStep {
            plan: Some(plan.into_wire()),
            state: state.to_wire().into(),
            start_time: start_time.map(time_to_wire),
            end_time: end_time.map(time_to_wire),
            error: error.map(problem_to_wire),
            outcome,
            output,
        }
    }

    fn from_wire(checks: &mut Checks, wire: v1::RunStep) -> Option<Self> {
        let v1::RunStep { plan, state, start_time, end_time, error, outcome, output } = wire;
        let plan = checks.word("steps.plan", plan)?;
        Some(Self {
            plan: PlannedStep::from_wire(checks, plan)?,
            state: checks.word("steps.state", StepState::from_wire(state))?,
            start_time: checks.optional_time("steps.start_time", start_time),
            end_time: checks.optional_time("steps.end_time", end_time),
            error: optional_problem(checks, "steps.error", error),
            outcome,
            output,
        })
    }
}

/// Digest roots of both sides (R-PF-2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiskComparison {
    pub disk: String,
    /// Hexadecimal.
    pub source_root: String,
    pub target_root: String,
    pub equal: bool,
}

/// What the run did to one item (R-PF-2, R-UF, R-JOB-4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ItemOutcome {
    pub item: ItemName,
    pub generation: Generation,
    pub point: Option<PointSeq>,
    #[serde(serialize_with = "encode::maybe_when")]
    pub point_instant: Option<UnixMicros>,
    /// From the source's shut-down to the machine's start at the target. Planned.
    #[serde(serialize_with = "encode::maybe_seconds")]
    pub downtime: Option<Duration>,
    /// At most this much is lost. Unplanned.
    #[serde(serialize_with = "encode::maybe_seconds")]
    pub loss_span: Option<Duration>,
    pub disks: Vec<DiskComparison>,
    pub machine: String,
    pub address: String,
    pub error: Option<Problem>,
}

impl ItemOutcome {
    fn into_wire(self) -> v1::ItemOutcome {
        let Self {
            item,
            generation,
            point,
            point_instant,
            downtime,
            loss_span,
            disks,
            machine,
            address,
            error,
        } = self;
        let disks = disks.into_iter().map(|disk| {
            let DiskComparison { disk, source_root, target_root, equal } = disk;
            v1::DiskComparison { disk, source_root, target_root, equal }
        });
        v1::ItemOutcome {
            item: item.to_resource(),
            generation: generation.get(),
            point: point.map_or(0, PointSeq::get),
            point_instant: point_instant.map(time_to_wire),
            downtime: downtime.map(duration_to_wire),
            loss_span: loss_span.map(duration_to_wire),
            disks: disks.collect(),
            machine,
            address,
            error: error.map(problem_to_wire),
        }
    }

    fn from_wire(checks: &mut Checks, wire: v1::ItemOutcome) -> Option<Self> {
        let v1::ItemOutcome {
            item,
            generation,
            point,
            point_instant,
            downtime,
            loss_span,
            disks,
            machine,
            address,
            error,
        } = wire;
        let disks = disks.into_iter().map(|disk| {
            let v1::DiskComparison { disk, source_root, target_root, equal } = disk;
            DiskComparison { disk, source_root, target_root, equal }
        });
        Some(Self {
            item: checks.resource("outcomes.item", &item)?,
            generation: Generation::new(generation),
            point: Some(point).filter(|p| *p > 0).map(PointSeq::new),
            point_instant: checks.optional_time("outcomes.point_instant", point_instant),
            downtime: checks.optional_span("outcomes.downtime", downtime),
            loss_span: checks.optional_span("outcomes.loss_span", loss_span),
            disks: disks.collect(),
            machine,
            address,
            error: optional_problem(checks, "outcomes.error", error),
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Run {
    /// Also the job's.
    pub name: RunId,
    #[serde(serialize_with = "asked")]
    pub spec: RunSpec,
    pub operation: Operation,
    pub state: RunState,
    pub phase: String,
    pub waiting_for: String,
    pub allowed_actions: Vec<String>,
    pub steps: Vec<RunStep>,
    pub outcomes: Vec<ItemOutcome>,
    pub problems: Vec<Problem>,
    pub created_by: String,
    #[serde(serialize_with = "encode::when")]
    pub create_time: UnixMicros,
    #[serde(serialize_with = "encode::maybe_when")]
    pub end_time: Option<UnixMicros>,
    pub progress_percent: u32,
    /// What was changed about it while it waited for its commit, oldest first.
    pub changes: Vec<MadeRunChange>,
    pub deadline: Option<RunDeadlineState>,
}

/// What of a request is not shown elsewhere with its run.
fn asked<S: Serializer>(spec: &RunSpec, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Asked<'a> {
        items: &'a BTreeSet<ItemName>,
        recovery_plan: Option<&'a RecoveryPlanName>,
        from_site: Option<&'a SiteName>,
        /// Where something was chosen.
        test_network: Option<&'a TestNetwork>,
    }
    let RunSpec { items, recovery_plan, from_site, test_network, .. } = spec;
    let (recovery_plan, from_site) = (recovery_plan.as_ref(), from_site.as_ref());
    let test_network = Some(test_network).filter(|chosen| **chosen != TestNetwork::default());
    Asked { items, recovery_plan, from_site, test_network }.serialize(serializer)
}

/// The deadline of a run as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunDeadlineState {
    #[serde(flatten)]
    pub deadline: RunDeadline,
    pub set_by: String,
    /// How long it has waited, as far as that was watched.
    #[serde(serialize_with = "encode::maybe_seconds")]
    pub waited: Option<Duration>,
    /// If the wait goes on being watched.
    #[serde(serialize_with = "encode::maybe_when")]
    pub due_time: Option<UnixMicros>,
    /// It was due, and could not be done.
    pub problems: Vec<Problem>,
}

impl RunDeadlineState {
    fn into_wire(self) -> v1::RunDeadlineState {
        let Self { deadline, set_by, waited, due_time, problems } = self;
        v1::RunDeadlineState {
            deadline: Some(deadline.into_wire()),
            set_by,
            waited: waited.map(duration_to_wire),
            due_time: due_time.map(time_to_wire),
            problems: problems_to_wire(problems),
        }
    }

    fn from_wire(checks: &mut Checks, wire: v1::RunDeadlineState) -> Option<Self> {
        let v1::RunDeadlineState { deadline, set_by, waited, due_time, problems: wire_problems } = wire;
        let deadline = checks.word("deadline", deadline)?;
        Some(Self {
            deadline: RunDeadline::from_wire(checks, deadline)?,
            set_by,
            waited: checks.optional_span("deadline.waited", waited),
            due_time: checks.optional_time("deadline.due_time", due_time),
            problems: problems(checks, "deadline.problems", wire_problems)?,
        })
    }
}

/// A change of a run, as its record tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MadeRunChange {
    #[serde(serialize_with = "encode::when")]
    pub time: UnixMicros,
    pub by: String,
    pub text: String,
}

impl MadeRunChange {
    fn into_wire(self) -> v1::MadeRunChange {
        let Self { time, by, text } = self;
        v1::MadeRunChange { time: Some(time_to_wire(time)), by, text }
    }

    fn from_wire(checks: &mut Checks, wire: v1::MadeRunChange) -> Option<Self> {
        let v1::MadeRunChange { time, by, text } = wire;
        Some(Self { time: checks.time("changes.time", time)?, by, text })
    }
}

/// What a change would do with one item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChangedItem {
    pub item: ItemName,
    pub point: Option<PointSeq>,
    #[serde(serialize_with = "encode::maybe_when")]
    pub point_instant: Option<UnixMicros>,
    pub point_consistency: Option<Consistency>,
    #[serde(serialize_with = "encode::maybe_seconds")]
    pub expected_loss: Option<Duration>,
    /// For how long the machine has run at the target.
    #[serde(serialize_with = "encode::maybe_seconds")]
    pub gives_up: Option<Duration>,
    /// Where its machine will be connected, where that is planned anew.
    pub connections: Vec<PlannedConnection>,
}

impl ChangedItem {
    fn into_wire(self) -> v1::ChangedItem {
        let Self { item, point, point_instant, point_consistency, expected_loss, gives_up, connections } =
            self;
        v1::ChangedItem {
            item: item.to_resource(),
            point: point.map_or(0, PointSeq::get),
            point_instant: point_instant.map(time_to_wire),
            point_consistency: point_consistency.map_or(0, consistency_to_wire),
            expected_loss: expected_loss.map(duration_to_wire),
            gives_up: gives_up.map(duration_to_wire),
            connections: connections.into_iter().map(PlannedConnection::into_wire).collect(),
        }
    }

    fn from_wire(checks: &mut Checks, wire: v1::ChangedItem) -> Option<Self> {
        let v1::ChangedItem {
            item,
            point,
            point_instant,
            point_consistency,
            expected_loss,
            gives_up,
            connections,
        } = wire;
        Some(Self {
            item: checks.resource("items.item", &item)?,
            point: Some(point).filter(|p| *p > 0).map(PointSeq::new),
            point_instant: checks.optional_time("items.point_instant", point_instant),
            point_consistency: (point_consistency != 0).then(|| consistency_from_wire(point_consistency)),
            expected_loss: checks.optional_span("items.expected_loss", expected_loss),
            gives_up: checks.optional_span("items.gives_up", gives_up),
            connections: connections.into_iter().map(PlannedConnection::from_wire).collect(),
        })
    }
}

/// Exactly what ChangeRun would do, and every reason why it would be refused (R-FO-2, R-FO-4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunChangePreview {
    /// Pass to ChangeRun; empty when it would be refused.
    pub digest: String,
    pub items: Vec<ChangedItem>,
    pub steps: Vec<PlannedStep>,
    pub problems: Vec<Problem>,
}

impl RunChangePreview {
    pub fn into_wire(self) -> v1::RunChangePreview {
        let Self { digest, items, steps, problems } = self;
        v1::RunChangePreview {
            digest,
            items: items.into_iter().map(ChangedItem::into_wire).collect(),
            steps: steps.into_iter().map(PlannedStep::into_wire).collect(),
            problems: problems_to_wire(problems),
        }
    }

    /// # Errors
    /// When a field is missing or malformed.
    pub fn from_wire(wire: v1::RunChangePreview) -> Result<Self, Invalid> {
        let v1::RunChangePreview { digest, items, steps, problems: wire_problems } = wire;
        let mut checks = Checks::default();
        let items = items.into_iter().map(|i| ChangedItem::from_wire(&mut checks, i)).collect::<Option<_>>();
        let steps = steps.into_iter().map(|s| PlannedStep::from_wire(&mut checks, s)).collect::<Option<_>>();
        let problems = problems(&mut checks, "problems", wire_problems);
        let whole = (|| Some(Self { digest, items: items?, steps: steps?, problems: problems? }))();
        checks.finish(whole)
    }
}

impl Run {
    pub fn into_wire(self) -> v1::Run {
        let Self {
            name,
            spec,
            operation,
            state,
            phase,
            waiting_for,
            allowed_actions,
            steps,
            outcomes,
            problems,
            created_by,
            create_time,
            end_time,
            progress_percent,
            changes,
            deadline,
        } = self;
        v1::Run {
            name: name.to_resource(),
            spec: Some(spec.into_wire()),
            operation: operation.to_wire().into(),
            state: state.to_wire().into(),
            phase,
            waiting_for,
            allowed_actions,
            steps: steps.into_iter().map(RunStep::into_wire).collect(),
            outcomes: outcomes.into_iter().map(ItemOutcome::into_wire).collect(),
            problems: problems_to_wire(problems),
            created_by,
            create_time: Some(time_to_wire(create_time)),
            end_time: end_time.map(time_to_wire),
            progress_percent,
            changes: changes.into_iter().map(MadeRunChange::into_wire).collect(),
            deadline: deadline.map(RunDeadlineState::into_wire),
        }
    }

    /// # Errors
    /// When a field is missing or malformed.
    pub fn from_wire(wire: v1::Run) -> Result<Self, Invalid> {
        let v1::Run {
            name,
            spec,
            operation,
            state,
            phase,
            waiting_for,
            allowed_actions,
            steps,
            outcomes,
            problems: wire_problems,
            created_by,
            create_time,
            end_time,
            progress_percent,
            changes,
            deadline,
        } = wire;
        let spec = RunSpec::of_any_run(spec)?;
        let mut checks = Checks::default();
        let name = checks.resource("name", &name);
        let operation = checks.word("operation", Operation::from_wire(operation));
        let state = checks.word("state", RunState::from_wire(state));
        let steps = steps.into_iter().map(|s| RunStep::from_wire(&mut checks, s)).collect::<Option<_>>();
        let outcomes =
            outcomes.into_iter().map(|o| ItemOutcome::from_wire(&mut checks, o)).collect::<Option<_>>();
        let problems = problems(&mut checks, "problems", wire_problems);
        let create_time = checks.time("create_time", create_time);
        let end_time = checks.optional_time("end_time", end_time);
        let changes =
            changes.into_iter().map(|c| MadeRunChange::from_wire(&mut checks, c)).collect::<Option<_>>();
        let deadline = match deadline {
            Some(deadline) => RunDeadlineState::from_wire(&mut checks, deadline).map(Some),
            None => Some(None),
        };
        let whole = (|| {
            Some(Self {
                name: name?,
                spec,
                operation: operation?,
                state: state?,
                phase,
                waiting_for,
                allowed_actions,
                steps: steps?,
                outcomes: outcomes?,
                problems: problems?,
                created_by,
                create_time: create_time?,
                end_time,
                progress_percent,
                changes: changes?,
                deadline: deadline?,
            })
        })();
        checks.finish(whole)
    }
}

/// What the console of an item's machine showed after a run had started and asked it (R-TF-8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Screenshot {
    /// A PNG.
    pub png: Vec<u8>,
    pub time: UnixMicros,
}

impl Screenshot {
    const MOST: usize = 512 << 10;

    pub fn into_wire(self) -> v1::Screenshot {
        let Self { png, time } = self;
        v1::Screenshot { png, time: Some(time_to_wire(time)) }
    }

    /// # Errors
    /// When there is no picture, or a larger one than is ever kept.
    pub fn from_wire(wire: v1::Screenshot) -> Result<Self, Invalid> {
        let v1::Screenshot { png, time } = wire;
        let mut checks = Checks::default();
        if png.is_empty() || png.len() > Self::MOST {
            checks.refuse("png", format!("is {} bytes, there must be 1 to {}", png.len(), Self::MOST));
        }
        let time = checks.time("time", time);
        let whole = (|| Some(Self { png, time: time? }))();
        checks.finish(whole)
    }
}
