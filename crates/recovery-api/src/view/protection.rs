//! Policies, protected items, their health and their recovery points.

use std::time::Duration;

use serde::Serialize;
use understudy_ids::{
    Consistency, DiskName, Generation, GroupName, HostName, ItemName, PointSeq, PolicyName, Problem, RunId,
    UnixMicros,
};
use understudy_netplan::ChosenAddress;
use understudy_probe::Probe;
use understudy_replication::Joint;
use understudy_types_api::{
    MAX_PROBLEMS, consistency_from_wire, consistency_to_wire, duration_to_wire, joint_to_wire, probe_to_wire,
    problem_to_wire, time_to_wire,
};

use super::{
    Run,
    group::{joint, maybe_joint},
    optional_problem,
};
use crate::{
    HealthLevel, ItemState, MachineRef, PointRef, Resource,
    check::{Checks, Invalid},
    encode,
    request::{self, PolicySettings},
    v1,
};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Policy {
    pub name: PolicyName,
    #[serde(flatten)]
    pub settings: PolicySettings,
    #[serde(serialize_with = "encode::when")]
    pub create_time: UnixMicros,
}

impl Policy {
    pub fn into_wire(self) -> v1::Policy {
        let Self { name, settings, create_time } = self;
        v1::Policy {
            name: name.to_resource(),
            create_time: Some(time_to_wire(create_time)),
            etag: settings.etag(),
            ..request::policy_to_wire(&settings)
        }
    }

    /// # Errors
    /// When a field is missing, malformed or out of range.
    pub fn from_wire(wire: v1::Policy) -> Result<Self, Invalid> {
        let mut checks = Checks::default();
        let name = checks.resource("name", &wire.name);
        let create_time = checks.time("create_time", wire.create_time);
        let settings = request::settings(&mut checks, wire);
        let whole = (|| Some(Self { name: name?, settings: settings?, create_time: create_time? }))();
        checks.finish(whole)
    }
}

/// Replication health (R-REP-9).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReplicationHealth {
    pub level: HealthLevel,
    pub reason: String,
    #[serde(serialize_with = "encode::maybe_when")]
    pub last_point: Option<UnixMicros>,
    /// Instant of the latest point whose guest had been brought to rest.
    #[serde(serialize_with = "encode::maybe_when")]
    pub last_application_point: Option<UnixMicros>,
    #[serde(serialize_with = "encode::maybe_seconds")]
    pub rpo: Option<Duration>,
    #[serde(serialize_with = "encode::maybe_seconds")]
    pub rpo_objective: Option<Duration>,
    /// "initial", "steady", "resync", "error", "stopped", "paused", "queued"; empty when nothing is known.
    pub activity: String,
    pub sent_bytes: u64,
    pub total_bytes: u64,
    pub last_cycle_bytes: u64,
    #[serde(serialize_with = "encode::maybe_seconds")]
    pub last_cycle: Option<Duration>,
    pub last_cycle_kind: String,
    pub last_error: Option<Problem>,
    /// What to do about `reason`.
    pub remedy: String,
    pub failures: u32,
    #[serde(serialize_with = "encode::maybe_when")]
    pub failing_since: Option<UnixMicros>,
    /// Still to be shipped, as far as it is known.
    pub backlog_bytes: Option<u64>,
    pub throughput_bytes_per_second: u64,
    pub last_hour: Option<RpoPercentiles>,
    pub last_day: Option<RpoPercentiles>,
    pub alerts: Vec<Alert>,
}

/// Age of the latest point over a window, by time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RpoPercentiles {
    #[serde(serialize_with = "encode::seconds")]
    pub p50: Duration,
    #[serde(serialize_with = "encode::seconds")]
    pub p95: Duration,
    #[serde(serialize_with = "encode::seconds")]
    pub p99: Duration,
    #[serde(serialize_with = "encode::seconds")]
    pub worst: Duration,
    /// How much of the window is known.
    #[serde(serialize_with = "encode::seconds")]
    pub covered: Duration,
}

impl RpoPercentiles {
    fn into_wire(self) -> v1::RpoPercentiles {
        let Self { p50, p95, p99, worst, covered } = self;
        let [p50, p95, p99, worst, covered] =
            [p50, p95, p99, worst, covered].map(|span| Some(duration_to_wire(span)));
        v1::RpoPercentiles { p50, p95, p99, worst, covered }
    }

    fn from_wire(checks: &mut Checks, field: &str, wire: v1::RpoPercentiles) -> Option<Self> {
        let v1::RpoPercentiles { p50, p95, p99, worst, covered } = wire;
        let mut span = |name: &str, span| {
            let span = checks.optional_span(&format!("{field}.{name}"), span);
            checks.word(format!("{field}.{name}"), span)
        };
        Some(Self {
            p50: span("p50", p50)?,
            p95: span("p95", p95)?,
            p99: span("p99", p99)?,
            worst: span("worst", worst)?,
            covered: span("covered", covered)?,
        })
    }
}

/// A reason that has lasted, until it has been gone for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Alert {
    pub code: String,
    pub level: HealthLevel,
    pub message: String,
    pub remedy: String,
    #[serde(serialize_with = "encode::when")]
    pub since: UnixMicros,
    #[serde(serialize_with = "encode::maybe_when")]
    pub gone_since: Option<UnixMicros>,
}

impl Alert {
    fn into_wire(self) -> v1::Alert {
        let Self { code, level, message, remedy, since, gone_since } = self;
        v1::Alert {
            code,
            level: level.to_wire().into(),
            message,
            remedy,
            since: Some(time_to_wire(since)),
            gone_since: gone_since.map(time_to_wire),
        }
    }

    fn from_wire(checks: &mut Checks, wire: v1::Alert) -> Option<Self> {
        let v1::Alert { code, level, message, remedy, since, gone_since } = wire;
        Some(Self {
            code,
            level: checks.word("health.alerts.level", HealthLevel::from_wire(level))?,
            message,
            remedy,
            since: checks.time("health.alerts.since", since)?,
            gone_since: checks.optional_time("health.alerts.gone_since", gone_since),
        })
    }
}

impl ReplicationHealth {
    pub fn into_wire(self) -> v1::ReplicationHealth {
        let Self {
            level,
            reason,
            last_point,
            last_application_point,
            rpo,
            rpo_objective,
            activity,
            sent_bytes,
            total_bytes,
            last_cycle_bytes,
            last_cycle,
            last_cycle_kind,
            last_error,
            remedy,
            failures,
            failing_since,
            backlog_bytes,
            throughput_bytes_per_second,
            last_hour,
            last_day,
            alerts,
        } = self;
        v1::ReplicationHealth {
            level: level.to_wire().into(),
            reason,
            last_point: last_point.map(time_to_wire),
            last_application_point: last_application_point.map(time_to_wire),
            rpo: rpo.map(duration_to_wire),
            rpo_objective: rpo_objective.map(duration_to_wire),
            activity,
            sent_bytes,
            total_bytes,
            last_cycle_bytes,
            last_cycle: last_cycle.map(duration_to_wire),
            last_cycle_kind,
            last_error: last_error.map(problem_to_wire),
            remedy,
            failures,
            failing_since: failing_since.map(time_to_wire),
            backlog_bytes,
            throughput_bytes_per_second,
            last_hour: last_hour.map(RpoPercentiles::into_wire),
            last_day: last_day.map(RpoPercentiles::into_wire),
            alerts: alerts.into_iter().map(Alert::into_wire).collect(),
        }
    }

    fn from_wire(checks: &mut Checks, wire: v1::ReplicationHealth) -> Option<Self> {
        let v1::ReplicationHealth {
            level,
            reason,
            last_point,
            last_application_point,
            rpo,
            rpo_objective,
            activity,
            sent_bytes,
            total_bytes,
            last_cycle_bytes,
            last_cycle,
            last_cycle_kind,
            last_error,
            remedy,
            failures,
            failing_since,
            backlog_bytes,
            throughput_bytes_per_second,
            last_hour,
            last_day,
            alerts,
        } = wire;
        checks.at_most("health.alerts", &alerts, MAX_PROBLEMS);
        Some(Self {
            level: checks.word("health.level", HealthLevel::from_wire(level))?,
            reason,
            last_point: checks.optional_time("health.last_point", last_point),
            last_application_point: checks
                .optional_time("health.last_application_point", last_application_point),
            rpo: checks.optional_span("health.rpo", rpo),
            rpo_objective: checks.optional_span("health.rpo_objective", rpo_objective),
            activity,
            sent_bytes,
            total_bytes,
            last_cycle_bytes,
            last_cycle: checks.optional_span("health.last_cycle", last_cycle),
            last_cycle_kind,
            last_error: optional_problem(checks, "health.last_error", last_error),
            remedy,
            failures,
            failing_since: checks.optional_time("health.failing_since", failing_since),
            backlog_bytes,
            throughput_bytes_per_second,
            last_hour: last_hour.and_then(|p| RpoPercentiles::from_wire(checks, "health.last_hour", p)),
            last_day: last_day.and_then(|p| RpoPercentiles::from_wire(checks, "health.last_day", p)),
            alerts: alerts.into_iter().map(|a| Alert::from_wire(checks, a)).collect::<Option<_>>()?,
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProtectedItem {
    pub name: ItemName,
    pub machine: MachineRef,
    pub active_host: HostName,
    pub standby_host: HostName,
    pub policy: PolicyName,
    pub disks: Vec<DiskName>,
    /// Left out on purpose.
    pub excluded_disks: Vec<DiskName>,
    pub state: ItemState,
    pub generation: Generation,
    /// The run that holds the item.
    pub run: Option<RunId>,
    /// A test that runs beside it.
    pub test_run: Option<RunId>,
    pub allowed_actions: Vec<String>,
    pub health: ReplicationHealth,
    pub latest_point: Option<PointSeq>,
    #[serde(serialize_with = "encode::when")]
    pub create_time: UnixMicros,
    pub scrub: Scrub,
    /// While replication is paused.
    pub pause: Option<Pause>,
    /// The consistency group that it belongs to.
    pub group: Option<GroupName>,
    /// Where the policy has one.
    pub activation_lease: Option<ActivationLease>,
    /// What its machine is asked when a run has started it; none: whether its first address answers.
    pub probes: Vec<Probe>,
    /// Chosen for its NICs, at either site.
    pub addresses: Vec<ChosenAddress>,
}

/// For how long the active host may run the machine without being heard (R-FO-7).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ActivationLease {
    #[serde(serialize_with = "encode::seconds")]
    pub length: Duration,
    /// The host has told that it holds the lease: not before that may a failover rest on it.
    pub held: bool,
    /// How long it takes until it has certainly ended, if it is not renewed any more.
    #[serde(serialize_with = "encode::seconds")]
    pub over_in: Duration,
    /// When the host stopped the machine because the lease had ended; until the machine runs again.
    #[serde(serialize_with = "encode::maybe_when")]
    pub stopped: Option<UnixMicros>,
}

impl ActivationLease {
    fn into_wire(self) -> v1::ActivationLease {
        let Self { length, held, over_in, stopped } = self;
        v1::ActivationLease {
            length: Some(duration_to_wire(length)),
            held,
            over_in: Some(duration_to_wire(over_in)),
            stopped: stopped.map(time_to_wire),
        }
    }

    fn from_wire(checks: &mut Checks, wire: v1::ActivationLease) -> Option<Self> {
        let v1::ActivationLease { length, held, over_in, stopped } = wire;
        Some(Self {
            length: checks.span("activation_lease.length", length, Duration::ZERO..=Duration::MAX)?,
            held,
            over_in: checks.span("activation_lease.over_in", over_in, Duration::ZERO..=Duration::MAX)?,
            stopped: checks.optional_time("activation_lease.stopped", stopped),
        })
    }
}

/// Who paused replication of an item, when and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pause {
    #[serde(serialize_with = "encode::when")]
    pub since: UnixMicros,
    pub by: String,
    pub reason: String,
}

impl Pause {
    fn into_wire(self) -> v1::Pause {
        let Self { since, by, reason } = self;
        v1::Pause { since: Some(time_to_wire(since)), by, reason }
    }

    fn from_wire(checks: &mut Checks, wire: v1::Pause) -> Option<Self> {
        let v1::Pause { since, by, reason } = wire;
        Some(Self { since: checks.time("pause.since", since)?, by, reason })
    }
}

/// How the replica was read again and compared with its digests (R-REP-5).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Scrub {
    /// Of the last pass over all points.
    #[serde(serialize_with = "encode::maybe_when")]
    pub last_end: Option<UnixMicros>,
    pub checked_blocks: u64,
    #[serde(serialize_with = "encode::maybe_when")]
    pub under_way_since: Option<UnixMicros>,
}

impl Scrub {
    fn into_wire(self) -> v1::Scrub {
        let Self { last_end, checked_blocks, under_way_since } = self;
        v1::Scrub {
            last_end: last_end.map(time_to_wire),
            checked_blocks,
            under_way_since: under_way_since.map(time_to_wire),
        }
    }

    fn from_wire(checks: &mut Checks, wire: v1::Scrub) -> Self {
        let v1::Scrub { last_end, checked_blocks, under_way_since } = wire;
        Self {
            last_end: checks.optional_time("scrub.last_end", last_end),
            checked_blocks,
            under_way_since: checks.optional_time("scrub.under_way_since", under_way_since),
        }
    }
}

impl ProtectedItem {
    pub fn into_wire(self) -> v1::ProtectedItem {
        let Self {
            name,
            machine,
            active_host,
            standby_host,
            policy,
            disks,
            excluded_disks,
            state,
            generation,
            run,
            test_run,
            allowed_actions,
            health,
            latest_point,
            create_time,
            scrub,
            pause,
            group,
            activation_lease,
            probes,
            addresses,
        } = self;
        v1::ProtectedItem {
            name: name.to_resource(),
            machine: machine.to_resource(),
            active_host: active_host.to_resource(),
            standby_host: standby_host.to_resource(),
            policy: policy.to_resource(),
            disks: disks.iter().map(ToString::to_string).collect(),
            excluded_disks: excluded_disks.iter().map(ToString::to_string).collect(),
            state: state.to_wire().into(),
            generation: generation.get(),
            run: run.map(|r| r.to_resource()).unwrap_or_default(),
            test_run: test_run.map(|r| r.to_resource()).unwrap_or_default(),
            allowed_actions,
            health: Some(health.into_wire()),
            latest_point: latest_point.map_or(0, PointSeq::get),
            create_time: Some(time_to_wire(create_time)),
            scrub: Some(scrub.into_wire()),
            pause: pause.map(Pause::into_wire),
            group: group.map(|group| group.to_resource()).unwrap_or_default(),
            activation_lease: activation_lease.map(ActivationLease::into_wire),
            probes: probes.iter().map(probe_to_wire).collect(),
            addresses: addresses.into_iter().map(request::chosen_to_wire).collect(),
        }
    }

    /// # Errors
    /// When a field is missing or malformed.
    pub fn from_wire(wire: v1::ProtectedItem) -> Result<Self, Invalid> {
        let v1::ProtectedItem {
            name,
            machine,
            active_host,
            standby_host,
            policy,
            disks,
            excluded_disks,
            state,
            generation,
            run,
            test_run,
            allowed_actions,
            health,
            latest_point,
            create_time,
            scrub,
            pause,
            group,
            activation_lease,
            probes,
            addresses,
        } = wire;
        let mut checks = Checks::default();
        let name = checks.resource("name", &name);
        let machine = checks.resource("machine", &machine);
        let active_host = checks.resource("active_host", &active_host);
        let standby_host = checks.resource("standby_host", &standby_host);
        let policy = checks.resource("policy", &policy);
        let disks = disks.iter().map(|d| checks.parse("disks", d)).collect::<Option<_>>();
        let excluded_disks =
            excluded_disks.iter().map(|d| checks.parse("excluded_disks", d)).collect::<Option<_>>();
        let state = checks.word("state", ItemState::from_wire(state));
        let run = checks.optional_resource("run", &run);
        let test_run = checks.optional_resource("test_run", &test_run);
        let health = checks.word("health", health).and_then(|h| ReplicationHealth::from_wire(&mut checks, h));
        let create_time = checks.time("create_time", create_time);
        let scrub = scrub.map(|s| Scrub::from_wire(&mut checks, s)).unwrap_or_default();
        let pause = pause.and_then(|p| Pause::from_wire(&mut checks, p));
        let group = checks.optional_resource("group", &group);
        let activation_lease = activation_lease.and_then(|l| ActivationLease::from_wire(&mut checks, l));
        let probes = request::probes(&mut checks, probes);
        let addresses = request::chosen_addresses(&mut checks, addresses);
        let whole = (|| {
            Some(Self {
                name: name?,
                machine: machine?,
                active_host: active_host?,
                standby_host: standby_host?,
                policy: policy?,
                disks: disks?,
                excluded_disks: excluded_disks?,
                state: state?,
                generation: Generation::new(generation),
                run: run?,
                test_run: test_run?,
                allowed_actions,
                health: health?,
                latest_point: Some(latest_point).filter(|p| *p > 0).map(PointSeq::new),
                create_time: create_time?,
                scrub,
                pause,
                group: group?,
                activation_lease,
                probes,
                addresses,
            })
        })();
        checks.finish(whole)
    }
}

/// What came of a request to protect a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Protection {
    pub item: ProtectedItem,
    /// Nothing when it was only checked.
    pub run: Option<Run>,
}

impl Protection {
    pub fn into_wire(self) -> v1::ProtectMachineResponse {
        let Self { item, run } = self;
        v1::ProtectMachineResponse { item: Some(item.into_wire()), run: run.map(Run::into_wire) }
    }

    /// # Errors
    /// When item or run cannot be understood.
    pub fn from_wire(wire: v1::ProtectMachineResponse) -> Result<Self, Invalid> {
        let v1::ProtectMachineResponse { item, run } = wire;
        let mut checks = Checks::default();
        let item = checks.word("item", item);
        let item = ProtectedItem::from_wire(checks.finish(item)?)?;
        Ok(Self { item, run: run.map(Run::from_wire).transpose()? })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecoveryPoint {
    pub item: ItemName,
    pub seq: PointSeq,
    #[serde(serialize_with = "encode::when")]
    pub instant: UnixMicros,
    #[serde(serialize_with = "encode::when")]
    pub received: UnixMicros,
    pub changed_bytes: u64,
    pub in_use: bool,
    /// Whether applications start from it without recovering anything.
    pub consistency: Consistency,
    /// For how long the guest's file systems were frozen for it.
    #[serde(serialize_with = "encode::maybe_seconds")]
    pub frozen: Option<Duration>,
    /// Found by a scrub; such a point is refused for tests and failovers (R-REP-5).
    pub damaged_blocks: u64,
    /// When its instant is that of a consistency group.
    #[serde(serialize_with = "maybe_joint")]
    pub joint: Option<Joint>,
}

impl RecoveryPoint {
    pub fn into_wire(self) -> v1::RecoveryPoint {
        let Self {
            item,
            seq,
            instant,
            received,
            changed_bytes,
            in_use,
            consistency,
            frozen,
            damaged_blocks,
            joint,
        } = self;
        v1::RecoveryPoint {
            name: PointRef { item, seq }.to_resource(),
            instant: Some(time_to_wire(instant)),
            received: Some(time_to_wire(received)),
            changed_bytes,
            in_use,
            consistency: consistency_to_wire(consistency),
            frozen: frozen.map(duration_to_wire),
            damaged_blocks,
            joint: joint.map(joint_to_wire),
        }
    }

    /// # Errors
    /// When a field is missing or malformed.
    pub fn from_wire(wire: v1::RecoveryPoint) -> Result<Self, Invalid> {
        let v1::RecoveryPoint {
            name,
            instant,
            received,
            changed_bytes,
            in_use,
            consistency,
            frozen,
            damaged_blocks,
            joint: shared,
        } = wire;
        let mut checks = Checks::default();
        let name: Option<PointRef> = checks.resource("name", &name);
        let instant = checks.time("instant", instant);
        let received = checks.time("received", received);
        let frozen = checks.optional_span("frozen", frozen);
        let joint = joint(&mut checks, "joint", shared);
        let whole = (|| {
            let PointRef { item, seq } = name?;
            Some(Self {
                item,
                seq,
                instant: instant?,
                received: received?,
                changed_bytes,
                in_use,
                consistency: consistency_from_wire(consistency),
                frozen,
                damaged_blocks,
                joint,
            })
        })();
        checks.finish(whole)
    }
}
