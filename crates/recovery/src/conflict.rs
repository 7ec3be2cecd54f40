//! Which run is in the way of another on an item (invariant 11). The run in the way is always named.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use understudy_ids::{ItemName, PointSeq, Problem, RunId};

use crate::plan::Operation;

/// A run that has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenRun {
    pub id: RunId,
    pub operation: Operation,
    pub items: Vec<ItemName>,
    /// It takes its items back to the side that they were failed over from.
    pub rolls_back: bool,
    /// Of a test that waits for its completion: the items whose machines it has, and the points that they were made from.
    pub rehearsed: BTreeMap<ItemName, PointSeq>,
}

/// `run` must end first.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} of {item} has to wait: run {run} ({operation}) holds it")]
pub struct Conflict {
    pub wanted: Operation,
    pub item: ItemName,
    pub run: RunId,
    pub operation: Operation,
}

impl Conflict {
    /// As an operator is told.
    pub fn problem(&self) -> Problem {
        let remedy = match self.operation {
            Operation::TestFailover => format!("Complete the test jobs/{} first.", self.run),
            _ => format!("Wait for jobs/{} to end, or retry or cancel it.", self.run),
        };
        Problem::new("RUN_IN_THE_WAY", format!("protectedItems/{}", self.item), self.to_string(), remedy)
    }
}

/// A rehearsal is no reason to leave production off.
pub(crate) fn gives_way(run: &OpenRun, to: Operation) -> bool {
    run.operation == Operation::TestFailover
        && matches!(to, Operation::PlannedFailover | Operation::UnplannedFailover)
}

/// Every open run that must end before `wanted` may begin on one of `items`: each that holds one, whatever it does.
///
/// A test runs beside replication, which is no run, and a real failover ends it first (R-TF-7).
pub fn conflicts(wanted: Operation, items: &[ItemName], open: &[OpenRun]) -> Vec<Conflict> {
    let mut found = Vec::new();
    for item in items {
        let blocking = open.iter().filter(|run| run.items.contains(item) && !gives_way(run, wanted));
        found.extend(blocking.map(|run| Conflict {
            wanted,
            item: item.clone(),
            run: run.id,
            operation: run.operation,
        }));
    }
    found
}
