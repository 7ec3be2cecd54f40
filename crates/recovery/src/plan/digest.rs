//! The identity of a plan: what it will do, and nothing that merely was so when it was made.

use serde::Serialize;

use super::{ChangeKind, Operation, PlannedItem, RunPlan, Step};

/// The part of a plan that start must find unchanged. Field order is the order of the JSON, so it must not be changed lightly:
/// previews that were made before would be refused.
#[derive(Serialize)]
struct Structure<'a> {
    operation: Operation,
    items: &'a [PlannedItem],
    steps: &'a [Step],
}

/// BLAKE3 over the JSON of the plan without its estimates and notices, as 64 hexadecimal digits. The types hold ordered collections only, so that equal
/// plans give equal text.
pub(super) fn digest(plan: &RunPlan) -> String {
    let RunPlan { operation, items, steps, estimates: _, notices: _ } = plan;
    let structure = Structure { operation: *operation, items, steps };
    of(&structure)
}

/// The same of what is added to a run.
pub(super) fn of_amendment(number: u32, kind: ChangeKind, steps: &[Step]) -> String {
    of(&(number, kind, steps))
}

fn of(structure: &impl Serialize) -> String {
    let json = serde_json::to_vec(structure)
        .unwrap_or_else(|error| unreachable!("plans hold no maps with other keys than text: {error}"));
    blake3::hash(&json).to_hex().to_string()
}
