//! Plans of open runs that this process has read, so that only what changes of a run is read each time.
//!
//! For the whole process, as what it holds is the same whoever reads it: an id of a plan is given once.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
};

use understudy_ids::{RunId, Uuid};
use understudy_recovery::{Run, plan::RunPlan};

use crate::store::Failure;

/// Most plans that are kept; one of a run with 200 items takes some MiB.
const MOST: usize = 32;

type Plans = BTreeMap<RunId, (Uuid, Arc<RunPlan>)>;

static PLANS: LazyLock<Mutex<Plans>> = LazyLock::new(Mutex::default);

/// What was kept at one moment.
#[derive(Default)]
pub struct Known(Plans);

impl Known {
    /// Ids of all plans that are kept.
    pub fn all(&self) -> Vec<Uuid> {
        self.0.values().map(|(plan_id, _)| *plan_id).collect()
    }

    /// The id of the run's plan, if it is kept.
    pub fn of(&self, run: RunId) -> Vec<Uuid> {
        self.0.get(&run).map(|(plan_id, _)| *plan_id).into_iter().collect()
    }

    /// # Errors
    /// When it was not among those that the database was told of.
    pub fn plan(&self, run: RunId, plan_id: Uuid) -> Result<RunPlan, Failure> {
        match self.0.get(&run) {
            Some((kept, plan)) if *kept == plan_id => Ok(RunPlan::clone(plan)),
            _ => Err(Failure::Row { table: "runs", cause: format!("run {run} has no plan {plan_id}") }),
        }
    }
}

fn plans() -> MutexGuard<'static, Plans> {
    // Each change of the map is whole.
    PLANS.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn known() -> Known {
    Known(plans().clone())
}

/// Keeps the plan of a run that was read with it. A plan of a transaction that is rolled back later does no harm: no other plan gets its id.
pub fn keep(run: &Run, plan_id: Uuid) {
    let mut plans = plans();
    if plans.get(&run.id).is_some_and(|(kept, _)| *kept == plan_id) {
        return;
    }
    plans.insert(run.id, (plan_id, Arc::new(run.plan.clone())));
    if plans.len() > MOST {
        // The oldest run that is not this one: ids begin with the time.
        let oldest = plans.keys().find(|id| **id != run.id).copied();
        oldest.and_then(|oldest| plans.remove(&oldest));
    }
}

/// The run has ended; nobody goes on with it.
pub fn forget(id: RunId) {
    plans().remove(&id);
}
