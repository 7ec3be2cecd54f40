//! How far a run is: all of it but its plan, as column `run` holds it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use understudy_ids::{ItemName, RunId, StepName, UnixMicros};
use understudy_recovery::{
    Run, RunSpec,
    plan::RunPlan,
    run::{Approval, Course, Ended, ItemProgress, MadeChange, SetDeadline, StepStatus},
};
use understudy_replication::watched::Watched;

#[derive(Deserialize)]
pub struct Progress {
    spec: RunSpec,
    steps: BTreeMap<StepName, StepStatus>,
    items: BTreeMap<ItemName, ItemProgress>,
    course: Course,
    created_by: String,
    started: UnixMicros,
    ended: Option<Ended>,
    approved: Option<Approval>,
    sequence: u64,
    #[serde(default)]
    changes: Vec<MadeChange>,
    #[serde(default)]
    superseded: BTreeMap<StepName, u32>,
    #[serde(default)]
    waited: Option<Watched>,
    #[serde(default)]
    deadline: Option<SetDeadline>,
}

impl Progress {
    pub fn into_run(self, id: RunId, plan: RunPlan) -> Run {
        let Self {
            spec,
            steps,
            items,
            course,
            created_by,
            started,
            ended,
            approved,
            sequence,
            changes,
            superseded,
            waited,
            deadline,
        } = self;
        Run {
            id,
            plan,
            spec,
            steps,
            items,
            course,
            created_by,
            started,
            ended,
            approved,
            sequence,
            changes,
            superseded,
            waited,
            deadline,
        }
    }
}

/// The same to be written.
#[derive(Serialize)]
pub struct ProgressRef<'a> {
    spec: &'a RunSpec,
    steps: &'a BTreeMap<StepName, StepStatus>,
    items: &'a BTreeMap<ItemName, ItemProgress>,
    course: &'a Course,
    created_by: &'a String,
    started: &'a UnixMicros,
    ended: &'a Option<Ended>,
    approved: &'a Option<Approval>,
    sequence: &'a u64,
    changes: &'a Vec<MadeChange>,
    superseded: &'a BTreeMap<StepName, u32>,
    waited: &'a Option<Watched>,
    deadline: &'a Option<SetDeadline>,
}

impl<'a> From<&'a Run> for ProgressRef<'a> {
    fn from(run: &'a Run) -> Self {
        let Run {
            // Columns of their own.
            id: _,
            plan: _,
            spec,
            steps,
            items,
            course,
            created_by,
            started,
            ended,
            approved,
            sequence,
            changes,
            superseded,
            waited,
            deadline,
        } = run;
        Self {
            spec,
            steps,
            items,
            course,
            created_by,
            started,
            ended,
            approved,
            sequence,
            changes,
            superseded,
            waited,
            deadline,
        }
    }
}
