//! The order of a change's machines: that in which the run's plan has brought them up (R-RP-1).
//!
//! ```text
//!   run:     db1 starts ─▶ db1 answers ─▶ … ─▶ web1 starts
//!   change:  web1 stops ─▶ db1 stops           db1 starts ─▶ db1 answers ─▶ web1 starts
//! ```
//!
//! Groups, windows and dependencies of a recovery plan are in what its steps came after, so nothing else has to be asked. What people and
//! scripts do between groups is not done again.

use std::collections::{BTreeMap, BTreeSet};

use understudy_ids::{ItemName, StepName};

use crate::{
    action::{Action, AgentWork},
    plan::{RunPlan, Stage, Step, order::listed},
};

pub(super) fn in_order_of(plan: &RunPlan, mut steps: Vec<Step>) -> Vec<Step> {
    let behind = behind(plan);
    let stops = last_of(&steps, |work| matches!(work, AgentWork::ShutDownMachine { .. }));
    let is_up =
        |work: &AgentWork| matches!(work, AgentWork::StartMachine { .. } | AgentWork::ProbeMachine { .. });
    let up = last_of(&steps, is_up);
    for step in &mut steps {
        let Action::Agent { item, work, .. } = &step.action else { continue };
        let further: Vec<&StepName> = match work {
            AgentWork::StartMachine { .. } => {
                behind.get(item).into_iter().flatten().filter_map(|earlier| up.get(earlier)).collect()
            }
            AgentWork::ShutDownMachine { .. } => {
                let later = behind.iter().filter(|(_, earlier)| earlier.contains(item));
                later.filter_map(|(later, _)| stops.get(later)).collect()
            }
            _ => continue,
        };
        step.after.extend(further.into_iter().cloned());
    }
    listed(steps)
}

/// The last step of each item that is such work.
fn last_of(steps: &[Step], is: impl Fn(&AgentWork) -> bool) -> BTreeMap<ItemName, StepName> {
    let found = steps.iter().filter_map(|step| match &step.action {
        Action::Agent { item, work, .. } if is(work) => Some((item.clone(), step.id.clone())),
        _ => None,
    });
    found.collect()
}

/// For each item those whose machines had to be started before its own.
fn behind(plan: &RunPlan) -> BTreeMap<ItemName, BTreeSet<ItemName>> {
    let steps: BTreeMap<&StepName, &Step> = plan.steps.iter().map(|step| (&step.id, step)).collect();
    let mut starts: BTreeMap<&StepName, &ItemName> = BTreeMap::new();
    for step in plan.steps.iter().filter(|step| step.stage == Stage::Main) {
        if let Action::Agent { item, work: AgentWork::StartMachine { .. }, .. } = &step.action
            // Those of changes come behind them.
            && !starts.values().any(|started| *started == item)
        {
            starts.insert(&step.id, item);
        }
    }
    let mut behind = BTreeMap::new();
    for (start, item) in &starts {
        let (mut earlier, mut seen) = (BTreeSet::new(), BTreeSet::new());
        let mut left: Vec<&StepName> = steps[*start].after.iter().collect();
        while let Some(id) = left.pop() {
            if !seen.insert(id) {
                continue;
            }
            earlier.extend(starts.get(id).map(|item| (*item).clone()));
            left.extend(steps.get(id).into_iter().flat_map(|step| &step.after));
        }
        behind.insert((*item).clone(), earlier);
    }
    behind
}
