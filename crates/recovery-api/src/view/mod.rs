//! What the orchestrator tells, as plain values: for its own handlers on the way out, for tables and JSON on the client's side.
//!
//! Every view destructures itself on the way out, so that a field that is added cannot be forgotten, and is checked on the way in, so
//! that a client never shows what it did not understand.

mod audit;
mod group;
mod protection;
mod recovery_plan;
mod run;
mod site;

pub use audit::AuditRecord;
pub use group::ConsistencyGroup;
pub use protection::{
    ActivationLease, Alert, Pause, Policy, ProtectedItem, Protection, RecoveryPoint, ReplicationHealth,
    RpoPercentiles, Scrub,
};
pub use recovery_plan::RecoveryPlan;
pub use run::{
    ChangedItem, DiskComparison, ItemOutcome, MadeRunChange, PlannedConnection, PlannedItem, PlannedStep,
    Run, RunChangePreview, RunDeadlineState, RunPreview, RunStep, Screenshot,
};
pub use site::{Host, Machine, MachineDisk, MachineNic, Site};

use understudy_ids::Problem;
use understudy_types_api::{MAX_PROBLEMS, problem_from_wire, problem_to_wire};

use crate::{check::Checks, check::Invalid};

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Listed<T> {
    pub entries: Vec<T>,
    /// Ask with it for what follows; empty at the end.
    pub next_page_token: String,
}

impl<T> Listed<T> {
    pub(crate) fn from_wire<W>(
        entries: Vec<W>,
        next_page_token: String,
        convert: impl Fn(W) -> Result<T, Invalid>,
    ) -> Result<Self, Invalid> {
        let entries = entries.into_iter().map(convert).collect::<Result<_, _>>()?;
        Ok(Self { entries, next_page_token })
    }
}

fn problems_to_wire(problems: Vec<Problem>) -> Vec<understudy_types_api::v1::Problem> {
    problems.into_iter().take(MAX_PROBLEMS).map(problem_to_wire).collect()
}

fn problems(
    checks: &mut Checks,
    field: &str,
    wire: Vec<understudy_types_api::v1::Problem>,
) -> Option<Vec<Problem>> {
    checks.at_most(field, &wire, MAX_PROBLEMS);
    wire.into_iter().take(MAX_PROBLEMS).map(|p| problem(checks, field, p)).collect()
}

fn problem(checks: &mut Checks, field: &str, wire: understudy_types_api::v1::Problem) -> Option<Problem> {
    checks.keep(field, problem_from_wire(wire).map_err(|f| format!("its {f} is missing or too long")))
}

fn optional_problem(
    checks: &mut Checks,
    field: &str,
    wire: Option<understudy_types_api::v1::Problem>,
) -> Option<Problem> {
    wire.and_then(|w| problem(checks, field, w))
}
