//! Requests about failover runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::Serialize;
use understudy_ids::{
    HostName, ItemName, PointChoice, PointSeq, RecoveryPlanName, RunId, SiteName, StepName, UnixMicros,
};
use understudy_recovery::test_network::TestNetwork;
use understudy_types_api::{duration_to_wire, time_to_wire};

use crate::{
    DeadlineAction, Operation, Resource, Synchronise,
    check::{Checks, Invalid},
    encode,
    names::RequestId,
    v1::{self, run_spec::Instant as WireInstant},
};

const MIN_SYNCHRONISE: Duration = Duration::from_secs(2);
const MAX_SYNCHRONISE: Duration = Duration::from_secs(24 * 60 * 60);
const MIN_DEADLINE: Duration = Duration::from_secs(1);
const MAX_DEADLINE: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// The most items of one run.
pub const MAX_ITEMS: usize = 1000;
/// The longest assertion, in bytes.
const MAX_ASSERTION: usize = 4096;
/// The longest notes, in bytes: what job-tracker keeps.
const MAX_NOTES: usize = 16 * 1024;
/// The longest plan digest, in bytes.
pub(super) const MAX_DIGEST: usize = 128;

/// What to do with which items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunSpec {
    pub operation: Operation,
    pub items: BTreeSet<ItemName>,
    /// Items that are not named get their latest point.
    pub points: BTreeMap<ItemName, PointChoice>,
    /// Unplanned: the operator states that the primary side is down and stays so.
    pub primary_down_assertion: Option<String>,
    /// Test: where its machines are connected.
    pub test_network: TestNetwork,
    /// Planned: do not reverse replicate on commit.
    pub no_reverse_replication: bool,
    /// Planned and unplanned: machines of a subnet whose addresses are retained may stay behind.
    pub allow_partial_subnet: bool,
    /// Planned and unplanned: what happens when it has waited for its commit for so long.
    pub deadline: Option<RunDeadline>,
    /// Test and unplanned: items without a point of their own get their newest one that is not newer.
    pub instant: Option<RunInstant>,
    /// Unplanned: shutting down and shipping the last changes is tried for so long.
    pub synchronise_within: Option<Duration>,
    /// The items are those of this plan, and come up in its order; naming them as well keeps others from being taken.
    pub recovery_plan: Option<RecoveryPlanName>,
    /// From where the run goes, of a plan whose items are active at both of its sites.
    pub from_site: Option<SiteName>,
    /// Reverse replicate: to this host instead of the one that the items were failed over from.
    pub standby_host: Option<HostName>,
    /// Unplanned: the machines of this test go on as production.
    pub promote_test: Option<RunId>,
    /// Failback: when the data is copied.
    pub synchronise: Synchronise,
}

/// One instant for a whole run (R-UF-3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunInstant {
    AtOrBefore(UnixMicros),
    /// The latest to which all items reach.
    LatestOfAll,
}

impl RunInstant {
    fn from_wire(checks: &mut Checks, wire: WireInstant) -> Option<Self> {
        match wire {
            WireInstant::AtOrBefore(time) => {
                checks.time("spec.at_or_before", Some(time)).map(Self::AtOrBefore)
            }
            WireInstant::LatestOfAll(true) => Some(Self::LatestOfAll),
            WireInstant::LatestOfAll(false) => {
                checks.refuse("spec.latest_of_all", "is false: leave it out");
                None
            }
        }
    }

    fn into_wire(self) -> WireInstant {
        match self {
            Self::AtOrBefore(time) => WireInstant::AtOrBefore(time_to_wire(time)),
            Self::LatestOfAll => WireInstant::LatestOfAll(true),
        }
    }
}

/// What happens to a failover that has waited for its commit for so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RunDeadline {
    pub action: DeadlineAction,
    #[serde(serialize_with = "encode::seconds")]
    pub after: Duration,
}

impl RunDeadline {
    pub(crate) fn from_wire(checks: &mut Checks, wire: v1::RunDeadline) -> Option<Self> {
        let v1::RunDeadline { action, after } = wire;
        let action = checks.word("deadline.action", DeadlineAction::from_wire(action));
        let after = checks.span("deadline.after", after, MIN_DEADLINE..=MAX_DEADLINE);
        Some(Self { action: action?, after: after? })
    }

    pub(crate) fn into_wire(self) -> v1::RunDeadline {
        let Self { action, after } = self;
        v1::RunDeadline { action: action.to_wire().into(), after: Some(duration_to_wire(after)) }
    }
}

/// Another deadline for a run, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetRunDeadline {
    pub run: RunId,
    pub deadline: Option<RunDeadline>,
    pub request_id: RequestId,
}

impl SetRunDeadline {
    /// # Errors
    /// With every field that is missing or malformed.
    pub fn from_wire(wire: v1::SetRunDeadlineRequest) -> Result<Self, Invalid> {
        let v1::SetRunDeadlineRequest { name, deadline, request_id } = wire;
        let mut checks = Checks::default();
        let run = checks.resource("name", &name);
        let deadline = match deadline {
            Some(deadline) => RunDeadline::from_wire(&mut checks, deadline).map(Some),
            None => Some(None),
        };
        let request_id = checks.request_id(&request_id);
        let whole = (|| Some(Self { run: run?, deadline: deadline?, request_id: request_id? }))();
        checks.finish(whole)
    }

    pub fn into_wire(self) -> v1::SetRunDeadlineRequest {
        let Self { run, deadline, request_id } = self;
        v1::SetRunDeadlineRequest {
            name: run.to_resource(),
            deadline: deadline.map(RunDeadline::into_wire),
            request_id: request_id.to_string(),
        }
    }
}

impl RunSpec {
    /// The operation with no option set.
    pub fn new(operation: Operation, items: BTreeSet<ItemName>) -> Self {
        Self {
            operation,
            items,
            points: BTreeMap::new(),
            primary_down_assertion: None,
            test_network: TestNetwork::default(),
            no_reverse_replication: false,
            allow_partial_subnet: false,
            deadline: None,
            instant: None,
            synchronise_within: None,
            recovery_plan: None,
            from_site: None,
            standby_host: None,
            promote_test: None,
            synchronise: Synchronise::Before,
        }
    }

    /// # Errors
    /// With every field that is missing, malformed, or not meant for the operation: ignored options are refused.
    pub fn from_wire(wire: Option<v1::RunSpec>) -> Result<Self, Invalid> {
        let mut checks = Checks::default();
        let spec = spec(&mut checks, wire, &STARTED_BY_SPEC);
        checks.finish(spec)
    }

    /// As it is shown with a run, which may also be one that turned protection on or off.
    pub(crate) fn of_any_run(wire: Option<v1::RunSpec>) -> Result<Self, Invalid> {
        let mut checks = Checks::default();
        let spec = spec(&mut checks, wire, Operation::ALL);
        checks.finish(spec)
    }

    pub fn into_wire(self) -> v1::RunSpec {
        let Self {
            operation,
            items,
            points,
            primary_down_assertion,
            test_network,
            no_reverse_replication,
            allow_partial_subnet,
            deadline,
            instant,
            synchronise_within,
            recovery_plan,
            from_site,
            standby_host,
            promote_test,
            synchronise,
        } = self;
        let (numbers, app_consistent) = points_to_wire(points);
        v1::RunSpec {
            operation: operation.to_wire().into(),
            items: items.iter().map(Resource::to_resource).collect(),
            points: numbers,
            primary_down_assertion: primary_down_assertion.unwrap_or_default(),
            test_network: test_network_to_wire(test_network),
            no_reverse_replication,
            allow_partial_subnet,
            app_consistent,
            deadline: deadline.map(RunDeadline::into_wire),
            instant: instant.map(RunInstant::into_wire),
            synchronise_within: synchronise_within.map(duration_to_wire),
            recovery_plan: recovery_plan.as_ref().map(Resource::to_resource).unwrap_or_default(),
            from_site: from_site.as_ref().map(Resource::to_resource).unwrap_or_default(),
            promote_test: promote_test.as_ref().map(Resource::to_resource).unwrap_or_default(),
            standby_host: standby_host.as_ref().map(Resource::to_resource).unwrap_or_default(),
            // What is understood without being said is not said.
            synchronise: match synchronise {
                Synchronise::Before => v1::Synchronise::Unspecified.into(),
                Synchronise::During => v1::Synchronise::During.into(),
            },
        }
    }
}

/// Operations that StartRun and PreviewRun take; the others have calls of their own.
const STARTED_BY_SPEC: [Operation; 5] = [
    Operation::TestFailover,
    Operation::PlannedFailover,
    Operation::UnplannedFailover,
    Operation::ReverseReplicate,
    Operation::Failback,
];

fn spec(checks: &mut Checks, wire: Option<v1::RunSpec>, allowed: &[Operation]) -> Option<RunSpec> {
    let Some(wire) = wire else {
        checks.refuse("spec", "is not set");
        return None;
    };
    let v1::RunSpec {
        operation,
        items,
        points,
        primary_down_assertion,
        test_network,
        no_reverse_replication,
        allow_partial_subnet,
        app_consistent,
        deadline,
        instant,
        synchronise_within,
        recovery_plan,
        from_site,
        standby_host,
        promote_test,
        synchronise,
    } = wire;
    let operation = checks.word("spec.operation", Operation::from_wire(operation));
    if let Some(operation) = operation.filter(|o| !allowed.contains(o)) {
        checks.refuse("spec.operation", format!("{operation} has a call of its own and is not started so"));
    }
    let recovery_plan = checks.optional_resource("spec.recovery_plan", &recovery_plan);
    let from_site = checks.optional_resource("spec.from_site", &from_site);
    let standby_host = checks.optional_resource("spec.standby_host", &standby_host);
    let promote_test = checks.optional_resource("spec.promote_test", &promote_test);
    let by_plan = matches!(recovery_plan, Some(Some(_)));
    if !by_plan && matches!(from_site, Some(Some(_))) {
        checks.refuse("spec.from_site", "has no meaning without a recovery plan; leave it out");
    }
    let items = item_set(checks, items, by_plan);
    // Which items a plan has is not known here.
    let of_run = (!by_plan || !items.is_empty()).then_some(&items);
    let points = point_map(checks, points, app_consistent, of_run);
    let assertion = checks.text("spec.primary_down_assertion", primary_down_assertion, MAX_ASSERTION);
    let assertion = assertion.map(|a| Some(a.trim().to_owned()).filter(|a| !a.is_empty()));
    let test_network = match test_network {
        Some(wire) => test_network_from_wire(checks, wire),
        None => Some(TestNetwork::default()),
    };
    let deadline = match deadline {
        Some(deadline) => RunDeadline::from_wire(checks, deadline).map(Some),
        None => Some(None),
    };
    let copied = match synchronise {
        0 => Some(Synchronise::Before),
        number => checks.word("spec.synchronise", Synchronise::from_wire(number)),
    };
    let synchronise = match synchronise_within {
        None => Some(None),
        some => checks.span("spec.synchronise_within", some, MIN_SYNCHRONISE..=MAX_SYNCHRONISE).map(Some),
    };
    let instant = match instant {
        Some(instant) => RunInstant::from_wire(checks, instant).map(Some),
        None => Some(None),
    };
    if let Some(operation) = operation {
        use Operation::{Failback, PlannedFailover, ReverseReplicate, TestFailover, UnplannedFailover};
        let waits = [PlannedFailover, UnplannedFailover, Failback].contains(&operation);
        let given = [
            ("spec.points", !points.is_empty(), [TestFailover, UnplannedFailover].contains(&operation)),
            (
                "spec.primary_down_assertion",
                matches!(assertion, Some(Some(_))),
                operation == UnplannedFailover,
            ),
            (
                "spec.test_network",
                !matches!(test_network, Some(TestNetwork::Automatic)),
                operation == TestFailover,
            ),
            ("spec.allow_partial_subnet", allow_partial_subnet, waits),
            (
                "spec.no_reverse_replication",
                no_reverse_replication,
                [PlannedFailover, Failback].contains(&operation),
            ),
            ("spec.deadline", matches!(deadline, Some(Some(_))), waits),
            (
                "spec.standby_host",
                matches!(standby_host, Some(Some(_))),
                [ReverseReplicate, Failback].contains(&operation),
            ),
            ("spec.synchronise", copied == Some(Synchronise::During), operation == Failback),
            ("spec.promote_test", matches!(promote_test, Some(Some(_))), operation == UnplannedFailover),
            ("spec.synchronise_within", matches!(synchronise, Some(Some(_))), operation == UnplannedFailover),
            (
                "spec.instant",
                matches!(instant, Some(Some(_))),
                [TestFailover, UnplannedFailover].contains(&operation),
            ),
        ];
        for (field, _, _) in given.into_iter().filter(|(_, set, meant)| *set && !meant) {
            checks.refuse(field, format!("has no meaning for {operation}; leave it out"));
        }
    }
    Some(RunSpec {
        operation: operation?,
        items,
        points,
        primary_down_assertion: assertion?,
        test_network: test_network?,
        no_reverse_replication,
        allow_partial_subnet,
        deadline: deadline?,
        instant: instant?,
        synchronise_within: synchronise?,
        recovery_plan: recovery_plan?,
        from_site: from_site?,
        standby_host: standby_host?,
        promote_test: promote_test?,
        synchronise: copied?,
    })
}

fn test_network_from_wire(checks: &mut Checks, wire: v1::TestNetwork) -> Option<TestNetwork> {
    let v1::TestNetwork { choice, network, connect_to_production } = wire;
    let choice = v1::TestNetworkChoice::try_from(choice).unwrap_or(v1::TestNetworkChoice::Unspecified);
    if choice != v1::TestNetworkChoice::Existing {
        for (field, given) in [("network", &network), ("connect_to_production", &connect_to_production)] {
            if !given.is_empty() {
                checks.refuse(
                    format_args!("spec.test_network.{field}"),
                    "has no meaning without an existing network; leave it out",
                );
            }
        }
    }
    match choice {
        v1::TestNetworkChoice::Unspecified => {
            checks.refuse("spec.test_network.choice", "is not set: none, automatic or existing");
            None
        }
        v1::TestNetworkChoice::None => Some(TestNetwork::None),
        v1::TestNetworkChoice::Automatic => Some(TestNetwork::Automatic),
        v1::TestNetworkChoice::Existing => {
            let network = checks.parse("spec.test_network.network", &network);
            let why =
                checks.text("spec.test_network.connect_to_production", connect_to_production, MAX_ASSERTION);
            let why = why.map(|why| Some(why.trim().to_owned()).filter(|why| !why.is_empty()));
            Some(TestNetwork::Existing { network: network?, connect_to_production: why? })
        }
    }
}

/// What is understood without being said is not said.
fn test_network_to_wire(chosen: TestNetwork) -> Option<v1::TestNetwork> {
    let (choice, network, why) = match chosen {
        TestNetwork::Automatic => return None,
        TestNetwork::None => (v1::TestNetworkChoice::None, String::new(), None),
        TestNetwork::Existing { network, connect_to_production } => {
            (v1::TestNetworkChoice::Existing, network.to_string(), connect_to_production)
        }
    };
    Some(v1::TestNetwork { choice: choice.into(), network, connect_to_production: why.unwrap_or_default() })
}

fn item_set(checks: &mut Checks, items: Vec<String>, may_be_empty: bool) -> BTreeSet<ItemName> {
    if items.is_empty() && !may_be_empty {
        checks.refuse("spec.items", "is empty: name at least one protected item");
    }
    checks.at_most("spec.items", &items, MAX_ITEMS);
    let mut set = BTreeSet::new();
    for (index, text) in items.iter().take(MAX_ITEMS).enumerate() {
        if let Some(item) = checks.resource::<ItemName>(format_args!("spec.items[{index}]"), text)
            && !set.insert(item)
        {
            checks.refuse(format_args!("spec.items[{index}]"), "is named twice");
        }
    }
    set
}

/// Numbers by item, and items that get their latest app-consistent point.
pub(super) fn points_to_wire<M>(points: BTreeMap<ItemName, PointChoice>) -> (M, Vec<String>)
where
    M: FromIterator<(String, u64)>,
{
    let (mut numbers, mut app_consistent) = (Vec::new(), Vec::new());
    for (item, choice) in points {
        match choice {
            PointChoice::Seq(seq) => numbers.push((item.to_resource(), seq.get())),
            PointChoice::LatestAppConsistent => app_consistent.push(item.to_resource()),
        }
    }
    (numbers.into_iter().collect(), app_consistent)
}

fn point_map(
    checks: &mut Checks,
    points: impl IntoIterator<Item = (String, u64)>,
    app_consistent: Vec<String>,
    items: Option<&BTreeSet<ItemName>>,
) -> BTreeMap<ItemName, PointChoice> {
    let mut map = BTreeMap::new();
    for (count, (text, seq)) in points.into_iter().enumerate() {
        if count == MAX_ITEMS {
            checks.refuse("spec.points", format!("has more than {MAX_ITEMS} entries"));
            break;
        }
        let Some(item) = item_of_run(checks, "spec.points", &text, items) else { continue };
        if seq == 0 {
            checks.refuse(
                "spec.points",
                format!("{item}: 0 is no recovery point; leave it out for the latest"),
            );
        }
        map.insert(item, PointChoice::Seq(PointSeq::new(seq)));
    }
    checks.at_most("spec.app_consistent", &app_consistent, MAX_ITEMS);
    for text in app_consistent.iter().take(MAX_ITEMS) {
        let Some(item) = item_of_run(checks, "spec.app_consistent", text, items) else { continue };
        if map.insert(item, PointChoice::LatestAppConsistent).is_some() {
            checks.refuse("spec.app_consistent", format!("{text} has a point already"));
        }
    }
    map
}

fn item_of_run(
    checks: &mut Checks,
    field: &str,
    text: &str,
    items: Option<&BTreeSet<ItemName>>,
) -> Option<ItemName> {
    let item = checks.resource::<ItemName>(field, text)?;
    if items.is_some_and(|items| !items.contains(&item)) {
        checks.refuse(field, format!("{item} is not among the items of the run"));
    }
    Some(item)
}

/// Executes the plan of a preview.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartRun {
    pub spec: RunSpec,
    pub plan_digest: String,
    pub request_id: RequestId,
}

impl StartRun {
    /// # Errors
    /// With every field that is missing or malformed.
    pub fn from_wire(wire: v1::StartRunRequest) -> Result<Self, Invalid> {
        let v1::StartRunRequest { spec: wire_spec, plan_digest, request_id } = wire;
        let mut checks = Checks::default();
        let spec = spec(&mut checks, wire_spec, &STARTED_BY_SPEC);
        if plan_digest.is_empty() {
            checks.refuse("plan_digest", "is not set: preview the run first and pass the digest of its plan");
        }
        let plan_digest = checks.text("plan_digest", plan_digest, MAX_DIGEST);
        let request_id = checks.request_id(&request_id);
        let whole = (|| Some(Self { spec: spec?, plan_digest: plan_digest?, request_id: request_id? }))();
        checks.finish(whole)
    }

    pub fn into_wire(self) -> v1::StartRunRequest {
        let Self { spec, plan_digest, request_id } = self;
        v1::StartRunRequest { spec: Some(spec.into_wire()), plan_digest, request_id: request_id.to_string() }
    }
}

/// Ends a test that waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompleteTest {
    pub run: RunId,
    /// Kept with the job; may be empty.
    pub notes: String,
    pub request_id: RequestId,
}

impl CompleteTest {
    /// # Errors
    /// With every field that is missing, malformed or too long.
    pub fn from_wire(wire: v1::CompleteTestRequest) -> Result<Self, Invalid> {
        let v1::CompleteTestRequest { name, notes, request_id } = wire;
        let mut checks = Checks::default();
        let run = checks.resource("name", &name);
        let notes = checks.text("notes", notes, MAX_NOTES);
        let request_id = checks.request_id(&request_id);
        let whole = (|| Some(Self { run: run?, notes: notes?, request_id: request_id? }))();
        checks.finish(whole)
    }

    pub fn into_wire(self) -> v1::CompleteTestRequest {
        let Self { run, notes, request_id } = self;
        v1::CompleteTestRequest { name: run.to_resource(), notes, request_id: request_id.to_string() }
    }
}

/// Confirms or rejects what a run waits for at a step: which of the two is the method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerRun {
    pub run: RunId,
    pub step: StepName,
    pub request_id: RequestId,
}

impl AnswerRun {
    /// # Errors
    /// With every field that is missing or malformed.
    pub fn from_wire(name: &str, step: &str, request_id: &str) -> Result<Self, Invalid> {
        let mut checks = Checks::default();
        let run = checks.resource("name", name);
        let step = checks.parse("step", step);
        let request_id = checks.request_id(request_id);
        let whole = (|| Some(Self { run: run?, step: step?, request_id: request_id? }))();
        checks.finish(whole)
    }
}

/// Commit, cancel or retry of a run: the verb is the method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunVerb {
    pub run: RunId,
    pub request_id: RequestId,
}

impl RunVerb {
    /// # Errors
    /// With every field that is missing or malformed.
    pub fn from_wire(name: &str, request_id: &str) -> Result<Self, Invalid> {
        let mut checks = Checks::default();
        let run = checks.resource("name", name);
        let request_id = checks.request_id(request_id);
        let whole = (|| Some(Self { run: run?, request_id: request_id? }))();
        checks.finish(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(operation: Operation) -> RunSpec {
        RunSpec::new(operation, ["web1".parse().unwrap(), "db1".parse().unwrap()].into())
    }

    #[test]
    fn runs_go_out_and_come_in_alike() {
        let test = RunSpec {
            points: [
                ("web1".parse().unwrap(), PointChoice::Seq(PointSeq::new(3))),
                ("db1".parse().unwrap(), PointChoice::LatestAppConsistent),
            ]
            .into(),
            test_network: TestNetwork::None,
            instant: Some(RunInstant::AtOrBefore(UnixMicros::new(1_000_000))),
            ..spec(Operation::TestFailover)
        };
        let on = |connect_to_production: Option<&str>| RunSpec {
            test_network: TestNetwork::Existing {
                network: "sites/bravo/networks/lab".parse().unwrap(),
                connect_to_production: connect_to_production.map(str::to_owned),
            },
            ..spec(Operation::TestFailover)
        };
        let (on_lab, on_production) = (on(None), on(Some("the shop is closed")));
        let unplanned = RunSpec {
            instant: Some(RunInstant::LatestOfAll),
            allow_partial_subnet: true,
            synchronise_within: Some(Duration::from_secs(60)),
            deadline: Some(RunDeadline {
                action: DeadlineAction::RollBack,
                after: Duration::from_secs(14_400),
            }),
            primary_down_assertion: Some("alpha burnt down".into()),
            promote_test: Some(RunId::from_u128(7)),
            ..spec(Operation::UnplannedFailover)
        };
        let by_plan = RunSpec {
            items: BTreeSet::new(),
            recovery_plan: Some("shop".parse().unwrap()),
            from_site: Some("alpha".parse().unwrap()),
            ..spec(Operation::PlannedFailover)
        };
        let elsewhere = RunSpec {
            standby_host: Some("alpha/alpha-h2".parse().unwrap()),
            ..spec(Operation::ReverseReplicate)
        };
        let back = RunSpec {
            standby_host: Some("alpha/alpha-h2".parse().unwrap()),
            synchronise: Synchronise::During,
            no_reverse_replication: true,
            ..spec(Operation::Failback)
        };
        for spec in [
            test,
            back,
            spec(Operation::Failback),
            by_plan,
            unplanned,
            on_lab,
            on_production,
            elsewhere,
            spec(Operation::PlannedFailover),
            spec(Operation::ReverseReplicate),
        ] {
            assert_eq!(RunSpec::from_wire(Some(spec.clone().into_wire())), Ok(spec));
        }
    }

    #[test]
    fn options_that_would_be_ignored_are_refused() {
        let mut wire = spec(Operation::PlannedFailover).into_wire();
        wire.points.insert("protectedItems/web1".into(), 4);
        wire.primary_down_assertion = "down".into();
        wire.test_network = test_network_to_wire(TestNetwork::None);
        wire.instant = Some(WireInstant::LatestOfAll(true));
        let mut test = spec(Operation::TestFailover).into_wire();
        test.deadline = Some(v1::RunDeadline::default());
        test.synchronise = v1::Synchronise::During.into();
        assert_eq!(RunSpec::from_wire(Some(test)).unwrap_err().0.len(), 3);
        let mut back = spec(Operation::Failback).into_wire();
        back.synchronise = 9;
        assert_eq!(RunSpec::from_wire(Some(back)).unwrap_err().0.len(), 1);
        let error = RunSpec::from_wire(Some(wire)).unwrap_err();
        let fields: Vec<_> = error.0.iter().map(|p| p.subject.as_str()).collect();
        assert_eq!(
            fields,
            ["spec.points", "spec.primary_down_assertion", "spec.test_network", "spec.instant"]
        );
    }

    /// R-TF-2
    #[test]
    fn a_network_and_a_reason_belong_to_an_existing_network() {
        let fields = |choice: v1::TestNetworkChoice, network: &str, why: String| -> Vec<String> {
            let mut wire = spec(Operation::TestFailover).into_wire();
            wire.test_network = Some(v1::TestNetwork {
                choice: choice.into(),
                network: network.to_owned(),
                connect_to_production: why,
            });
            let refused = RunSpec::from_wire(Some(wire)).unwrap_err();
            refused.0.into_iter().map(|problem| problem.subject).collect()
        };
        use v1::TestNetworkChoice::{Automatic, Existing, Unspecified};
        let all = ["network", "connect_to_production", "choice"].map(|f| format!("spec.test_network.{f}"));
        assert_eq!(fields(Unspecified, "sites/bravo/networks/lab", "x".into()), all);
        assert_eq!(fields(Automatic, "sites/bravo/networks/lab", "x".into()), all[..2]);
        assert_eq!(fields(Existing, "lab", "x".repeat(MAX_ASSERTION + 1)), all[..2]);
    }

    #[test]
    fn runs_need_items_and_points_need_to_be_of_them() {
        let mut wire = spec(Operation::TestFailover).into_wire();
        wire.points.insert("protectedItems/other".into(), 0);
        wire.items.push("protectedItems/web1".into());
        let error = RunSpec::from_wire(Some(wire)).unwrap_err();
        assert_eq!(error.0.len(), 3, "{error}");
        let mut wire = spec(Operation::TestFailover).into_wire();
        wire.points.insert("protectedItems/web1".into(), 3);
        wire.app_consistent = ["web1", "db1", "db1", "other"].map(|i| format!("protectedItems/{i}")).into();
        let error = RunSpec::from_wire(Some(wire)).unwrap_err();
        assert_eq!(error.0.len(), 3, "{error}");
        let none = v1::RunSpec { operation: v1::Operation::TestFailover.into(), ..v1::RunSpec::default() };
        assert!(RunSpec::from_wire(Some(none)).is_err());
        assert!(RunSpec::from_wire(None).is_err());
    }

    #[test]
    fn protection_is_not_started_as_a_run() {
        for operation in [Operation::Protect, Operation::Unprotect] {
            assert!(RunSpec::from_wire(Some(spec(operation).into_wire())).is_err());
            assert!(RunSpec::of_any_run(Some(spec(operation).into_wire())).is_ok());
        }
    }

    #[test]
    fn verbs_and_starts_list_all_problems() {
        assert_eq!(RunVerb::from_wire("jobs/1", "").unwrap_err().0.len(), 2);
        assert_eq!(AnswerRun::from_wire("jobs/1", "", "").unwrap_err().0.len(), 3);
        assert_eq!(StartRun::from_wire(v1::StartRunRequest::default()).unwrap_err().0.len(), 3);
        let long = v1::CompleteTestRequest {
            name: "runs/x".into(),
            notes: "x".repeat(MAX_NOTES + 1),
            request_id: "r".into(),
        };
        assert_eq!(CompleteTest::from_wire(long).unwrap_err().0.len(), 2);
    }
}
