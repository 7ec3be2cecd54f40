//! How far a run is: all of it but its plan, as column `run` holds it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};
use understudy_ids::{ItemName, RunId, StepName, UnixMicros};
use understudy_recovery::{
    Operation, Run, RunSpec,
    plan::RunPlan,
    run::{Approval, Course, Ended, ItemProgress, MadeChange, SetDeadline, StepStatus},
};
use understudy_replication::watched::Watched;

/// As it was read.
#[derive(Deserialize)]
pub struct Progress(#[serde(with = "Columns")] Run);

impl Progress {
    pub fn into_run(self, id: RunId, plan: RunPlan) -> Run {
        Run { id, plan, ..self.0 }
    }
}

/// To be written.
#[derive(Serialize)]
pub struct ProgressRef<'a>(#[serde(serialize_with = "write")] pub &'a Run);

fn write<S: Serializer>(run: &&Run, serializer: S) -> Result<S::Ok, S::Error> {
    Columns::serialize(run, serializer)
}

/// Which parts of a run are in the column.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Run")]
struct Columns {
    #[serde(skip)]
    id: RunId,
    spec: RunSpec,
    #[serde(skip, default = "no_plan")]
    plan: RunPlan,
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

/// Until the one of the other column takes its place.
fn no_plan() -> RunPlan {
    RunPlan {
        operation: Operation::Protect,
        items: Vec::new(),
        steps: Vec::new(),
        estimates: BTreeMap::new(),
        notices: Vec::new(),
    }
}
