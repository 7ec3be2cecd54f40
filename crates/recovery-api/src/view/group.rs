//! Consistency groups as they are shown (R-REP-12).

use std::time::Duration;

use serde::{Serialize, Serializer};
use understudy_ids::{GroupName, ItemName, Problem, UnixMicros};
use understudy_replication::Joint;
use understudy_types_api::{joint_from_wire, joint_to_wire, problem_to_wire, time_to_wire};

use super::optional_problem;
use crate::{
    Resource,
    check::{Checks, Invalid},
    encode, v1,
};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConsistencyGroup {
    pub name: GroupName,
    pub items: Vec<ItemName>,
    #[serde(serialize_with = "encode::when")]
    pub create_time: UnixMicros,
    /// The newest instant at which all that took part have a point.
    #[serde(serialize_with = "maybe_joint")]
    pub last: Option<Joint>,
    /// How many such instants there are.
    pub complete: u32,
    /// Why the last round came to nothing.
    pub missed: Option<Problem>,
}

impl ConsistencyGroup {
    pub fn into_wire(self) -> v1::ConsistencyGroup {
        let Self { name, items, create_time, last, complete, missed } = self;
        v1::ConsistencyGroup {
            name: name.to_resource(),
            items: items.iter().map(Resource::to_resource).collect(),
            create_time: Some(time_to_wire(create_time)),
            last: last.map(joint_to_wire),
            complete_instants: complete,
            missed: missed.map(problem_to_wire),
        }
    }

    /// # Errors
    /// When a field is missing or malformed.
    pub fn from_wire(wire: v1::ConsistencyGroup) -> Result<Self, Invalid> {
        let v1::ConsistencyGroup { name, items, create_time, last, complete_instants, missed } = wire;
        let mut checks = Checks::default();
        let name = checks.resource("name", &name);
        let items = items.iter().map(|item| checks.resource("items", item)).collect::<Option<_>>();
        let create_time = checks.time("create_time", create_time);
        let last = joint(&mut checks, "last", last);
        let missed = optional_problem(&mut checks, "missed", missed);
        let whole = (|| {
            Some(Self {
                name: name?,
                items: items?,
                create_time: create_time?,
                last,
                complete: complete_instants,
                missed,
            })
        })();
        checks.finish(whole)
    }
}

/// What a point shares with points of other items, if it does.
pub(super) fn joint(
    checks: &mut Checks,
    field: &str,
    wire: Option<understudy_types_api::v1::Joint>,
) -> Option<Joint> {
    match joint_from_wire(wire?) {
        Ok(joint) => Some(joint),
        Err(part) => {
            checks.refuse(format!("{field}.{part}"), "is missing or malformed");
            None
        }
    }
}

/// As other times and spans are shown.
pub(super) fn maybe_joint<S: Serializer>(joint: &Option<Joint>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Shown<'a> {
        group: &'a GroupName,
        #[serde(serialize_with = "encode::when")]
        instant: UnixMicros,
        members: Vec<&'a ItemName>,
        #[serde(serialize_with = "encode::seconds")]
        pause: Duration,
    }
    let shown = joint.as_ref().map(|Joint { group, instant, members, pause }| Shown {
        group,
        instant: *instant,
        members: members.iter().collect(),
        pause: *pause,
    });
    shown.serialize(serializer)
}
