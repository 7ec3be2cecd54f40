//! Recovery plans as they are shown (R-RP).

use serde::Serialize;
use understudy_ids::{Problem, UnixMicros};
use understudy_types_api::time_to_wire;

use super::{problems, problems_to_wire};
use crate::{
    check::{Checks, Invalid},
    encode,
    request::{plan, plan_to_wire},
    v1,
};

/// A plan that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecoveryPlan {
    #[serde(flatten)]
    pub plan: understudy_recovery::recovery_plan::RecoveryPlan,
    #[serde(serialize_with = "encode::when")]
    pub create_time: UnixMicros,
    #[serde(serialize_with = "encode::when")]
    pub update_time: UnixMicros,
    /// Names what the plan says.
    pub etag: String,
    /// What stands against a run of it now.
    pub problems: Vec<Problem>,
}

impl RecoveryPlan {
    pub fn into_wire(self) -> v1::RecoveryPlan {
        let Self { plan, create_time, update_time, etag, problems } = self;
        v1::RecoveryPlan {
            create_time: Some(time_to_wire(create_time)),
            update_time: Some(time_to_wire(update_time)),
            etag,
            problems: problems_to_wire(problems),
            ..plan_to_wire(&plan)
        }
    }

    /// # Errors
    /// When a field is missing or malformed.
    pub fn from_wire(wire: v1::RecoveryPlan) -> Result<Self, Invalid> {
        let mut checks = Checks::default();
        let create_time = checks.time("create_time", wire.create_time);
        let update_time = checks.time("update_time", wire.update_time);
        let problems = problems(&mut checks, "problems", wire.problems.clone());
        let etag = wire.etag.clone();
        let plan = plan(&mut checks, wire);
        let whole = (|| {
            Some(Self {
                plan: plan?,
                create_time: create_time?,
                update_time: update_time?,
                etag,
                problems: problems?,
            })
        })();
        checks.finish(whole)
    }
}
