//! Recovery plans: which machines come up before which others, and what is done in between (R-RP).
//!
//! ```text
//!   group 1: before ─▶ machines, as many at once as is allowed ─▶ gate ─▶ after ─▶ delay ─▶ group 2: before ─▶ …
//! ```
//!
//! A plan says in which order things are done, never what a failover consists of: `plan/order.rs` puts its order into the steps of a run.
//! A run keeps the plan as it was when it was started.

mod check;
mod side;

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};
pub use side::{Standing, chosen};
use understudy_ids::{HostName, ItemName, PlanPartName, RecoveryPlanName, ScriptName, SiteName};

use crate::{plan::Operation, seconds};

/// Groups of items between two sites, in the order in which they come up. In the other direction they come up in the same order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoveryPlan {
    pub name: RecoveryPlanName,
    /// Where its items run when nothing has happened.
    pub source_site: SiteName,
    pub target_site: SiteName,
    pub groups: Vec<PlanGroup>,
}

/// Items that come up together. They shut down together as well, after those of all later groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanGroup {
    pub name: PlanPartName,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<GroupItem>,
    /// How many of its machines are started at a time; the next one when one has answered. Left out: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_once: Option<u32>,
    /// Done one after another before its first machine is started.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<PlanAction>,
    /// Done one after another when its machines have answered, or have failed to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<PlanAction>,
    #[serde(default, skip_serializing_if = "Gate::is_open")]
    pub gate: Gate,
    /// How long the next group waits.
    #[serde(default, rename = "delay_seconds", with = "seconds", skip_serializing_if = "Option::is_none")]
    pub delay: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupItem {
    pub item: ItemName,
    /// Items of this or of earlier groups that must have answered before this one is started.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub after: BTreeSet<ItemName>,
}

/// What is done where a machine of a group does not come up or does not answer, before the next group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gate {
    /// What the error policy of the failover says, and nothing else.
    #[default]
    Open,
    /// The run waits until somebody says that it goes on.
    Ask,
}

impl Gate {
    fn is_open(&self) -> bool {
        *self == Self::Open
    }
}

/// Something that is done between machines (R-RP-2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanAction {
    pub name: PlanPartName,
    /// In which failovers it is done. Left out: in all; a script must say.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub operations: BTreeSet<Operation>,
    /// Only towards this site. Left out: in both directions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub towards: Option<SiteName>,
    /// An error in it is shown, and stops nothing; in an unplanned failover that is always so (R-UF-4).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_fail: bool,
    #[serde(rename = "do")]
    pub what: ActionKind,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ActionKind {
    /// A person does it, and says so.
    Manual { instructions: String },
    /// An agent runs a script of its host's library.
    Script(ScriptAction),
}

/// A script, pinned by what it says: a file of that name with other contents does not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptAction {
    pub host: HostName,
    pub name: ScriptName,
    /// Of the file, as 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// After this it is ended. Left out: 60 s.
    #[serde(default = "default_time_out", rename = "time_out_seconds", with = "whole_seconds")]
    pub time_out: Duration,
}

/// Where a plan does not say.
pub const SCRIPT_TIME_OUT: Duration = Duration::from_secs(60);

const fn default_time_out() -> Duration {
    SCRIPT_TIME_OUT
}

mod whole_seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(span.as_secs())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_secs)
    }
}

impl RecoveryPlan {
    /// All items, in the order in which they come up.
    pub fn items(&self) -> impl Iterator<Item = &ItemName> {
        self.groups.iter().flat_map(|group| &group.items).map(|entry| &entry.item)
    }

    /// What agents run in such a failover.
    pub fn scripts<'a>(
        &'a self,
        operation: Operation,
        towards: &'a SiteName,
    ) -> impl Iterator<Item = (&'a PlanAction, &'a ScriptAction)> {
        let actions = self.groups.iter().flat_map(|group| group.before.iter().chain(&group.after));
        actions.filter(move |action| action.applies(operation, towards)).filter_map(|action| {
            match &action.what {
                ActionKind::Script(script) => Some((action, script)),
                ActionKind::Manual { .. } => None,
            }
        })
    }
}

impl PlanAction {
    /// Whether it is done in this failover, towards that site.
    pub fn applies(&self, operation: Operation, towards: &SiteName) -> bool {
        let of_operation = self.operations.is_empty() || self.operations.contains(&operation);
        of_operation && self.towards.as_ref().is_none_or(|site| site == towards)
    }
}
