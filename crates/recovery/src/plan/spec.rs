//! What an operator asks for. Options that the operation would ignore are refused, so that nobody relies on them.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};
use understudy_ids::{HostName, ItemName, PointChoice, RunId, SeedName, SiteName};

use crate::{
    instant::Instant, item::Verb, recovery_plan::RecoveryPlan, run::Deadline, test_network::TestNetwork,
};

/// The kinds of run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    Protect,
    Unprotect,
    TestFailover,
    PlannedFailover,
    UnplannedFailover,
    ReverseReplicate,
    /// Replication in reverse and a planned failover behind it, in one run (R-FB).
    Failback,
}

impl Operation {
    pub const ALL: [Self; 7] = [
        Self::Protect,
        Self::Unprotect,
        Self::TestFailover,
        Self::PlannedFailover,
        Self::UnplannedFailover,
        Self::ReverseReplicate,
        Self::Failback,
    ];

    /// As people read it; also the job's type.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Protect => "protect",
            Self::Unprotect => "unprotect",
            Self::TestFailover => "test-failover",
            Self::PlannedFailover => "planned-failover",
            Self::UnplannedFailover => "unplanned-failover",
            Self::ReverseReplicate => "reverse-replicate",
            Self::Failback => "failback",
        }
    }

    /// Whether machines come up by it, so that a recovery plan has an order for them. A failback follows none.
    pub const fn is_failover(self) -> bool {
        matches!(self, Self::TestFailover | Self::PlannedFailover | Self::UnplannedFailover)
    }

    /// What it asks of its items, as [`RunSpec::verb`] says more closely. `None` for protecting, which makes the item.
    pub const fn verb(self) -> Option<Verb> {
        match self {
            Self::Protect => None,
            Self::Unprotect => Some(Verb::Unprotect),
            Self::TestFailover => Some(Verb::TestFailover),
            Self::PlannedFailover => Some(Verb::PlannedFailover),
            Self::UnplannedFailover => Some(Verb::UnplannedFailover),
            Self::ReverseReplicate => Some(Verb::ReverseReplicate),
            Self::Failback => Some(Verb::Failback),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What to do with which items.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSpec {
    pub operation: Operation,
    pub items: Vec<ItemName>,
    /// An item that is not named gets its latest point. Test and unplanned failover.
    pub points: BTreeMap<ItemName, PointChoice>,
    /// Unplanned: the operator states that the primary side is down and stays so.
    pub primary_down_assertion: Option<String>,
    /// Test: where machines are connected.
    #[serde(default)]
    pub test_network: TestNetwork,
    /// Planned and failback: no reverse replication on commit.
    pub no_reverse_replication: bool,
    /// Planned, unplanned and failback: machines of a subnet whose addresses are retained may stay behind (R-NET-4).
    #[serde(default)]
    pub allow_partial_subnet: bool,
    /// Unprotect: the replica is deleted as well.
    pub delete_replica: bool,
    /// Protect: the first copy comes on a medium.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<Seed>,
    /// Planned, unplanned and failback: what happens when the run has waited for its commit for so long.
    #[serde(default)]
    pub deadline: Option<Deadline>,
    /// Test and unplanned: items that are not named in `points` get their newest point that is not newer (R-UF-3).
    #[serde(default)]
    pub instant: Option<Instant>,
    /// Unplanned: shutting down and shipping the last changes is tried for so long (R-UF-2).
    #[serde(default)]
    pub synchronise_within: Option<Duration>,
    /// The recovery plan that the items are those of, as it is now: it says in which order they come up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_plan: Option<Box<RecoveryPlan>>,
    /// Of a plan whose items are active at both of its sites: from where the run goes (R-FO-3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_site: Option<SiteName>,
    /// Reverse replicate and failback: the host that becomes the standby side, instead of the one that the items were failed over from (R-FB-3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby_host: Option<HostName>,
    /// Unplanned: the machines of this test go on as production, with everything that they have written (R-TF-7).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promote_test: Option<RunId>,
    /// Failback: when the data is copied.
    #[serde(default, skip_serializing_if = "Synchronise::is_default")]
    pub synchronise: Synchronise,
}

/// When the data of a failback is copied (R-FB-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Synchronise {
    /// While the machine runs, and kept current until somebody completes the failover. Old disks are compared, so that only what differs is
    /// shipped.
    #[default]
    Before,
    /// When it has shut down, all of it. Old disks are neither read nor compared.
    During,
}

impl Synchronise {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A first copy on a medium (R-REP-11).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed {
    /// Of its directory below the `seed_dir` of either host.
    pub name: SeedName,
    /// It is written by the run, at the source's host, which then waits until somebody has carried it over. Otherwise it is at the
    /// target's host already, of whatever age.
    pub export: bool,
}

impl RunSpec {
    /// The operation with no option set.
    pub fn new(operation: Operation, items: Vec<ItemName>) -> Self {
        Self {
            operation,
            items,
            points: BTreeMap::new(),
            primary_down_assertion: None,
            test_network: TestNetwork::default(),
            no_reverse_replication: false,
            allow_partial_subnet: false,
            delete_replica: false,
            seed: None,
            deadline: None,
            instant: None,
            synchronise_within: None,
            recovery_plan: None,
            from_site: None,
            standby_host: None,
            promote_test: None,
            synchronise: Synchronise::default(),
        }
    }

    /// What is asked of the items. `None` for protecting, which makes the item.
    pub fn verb(&self) -> Option<Verb> {
        if self.copies_while_off() { Some(Verb::FailbackDuring) } else { self.operation.verb() }
    }

    /// Whether the machines are off while their data is copied.
    pub(crate) fn copies_while_off(&self) -> bool {
        self.operation == Operation::Failback && self.synchronise == Synchronise::During
    }
}
