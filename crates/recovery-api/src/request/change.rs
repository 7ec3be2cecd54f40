//! Changes of runs that wait for their commit (R-FO-4).

use std::collections::BTreeMap;

use understudy_ids::{ItemName, PointChoice, PointSeq, RunId};

use super::run::{MAX_DIGEST, MAX_ITEMS, points_to_wire};
use crate::{
    Resource,
    check::{Checks, Invalid},
    names::RequestId,
    v1::{self, run_change::Change as Wire},
};

/// What may be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunChange {
    /// Other recovery points for these items.
    Points(BTreeMap<ItemName, PointChoice>),
    /// Back to the side that was left; what was written since is given up.
    RollBack { give_up_writes: bool },
    /// What a failback has prepared is done.
    CompleteFailover,
}

impl RunChange {
    fn from_wire(checks: &mut Checks, wire: Option<v1::RunChange>) -> Option<Self> {
        match wire.and_then(|wire| wire.change) {
            Some(Wire::RollBack(v1::RollBack { give_up_writes })) => Some(Self::RollBack { give_up_writes }),
            Some(Wire::CompleteFailover(v1::CompleteFailover {})) => Some(Self::CompleteFailover),
            Some(Wire::Points(points)) => Some(Self::Points(points_from_wire(checks, points))),
            None => {
                checks.refuse("change", "is not set, or is one that this version does not know");
                None
            }
        }
    }

    fn into_wire(self) -> v1::RunChange {
        let change = match self {
            Self::RollBack { give_up_writes } => Wire::RollBack(v1::RollBack { give_up_writes }),
            Self::CompleteFailover => Wire::CompleteFailover(v1::CompleteFailover {}),
            Self::Points(points) => {
                let (points, app_consistent) = points_to_wire(points);
                Wire::Points(v1::PointsChange { points, app_consistent })
            }
        };
        v1::RunChange { change: Some(change) }
    }
}

fn points_from_wire(checks: &mut Checks, wire: v1::PointsChange) -> BTreeMap<ItemName, PointChoice> {
    let v1::PointsChange { points, app_consistent } = wire;
    let mut chosen = BTreeMap::new();
    if points.len() + app_consistent.len() > MAX_ITEMS {
        checks.refuse("change.points", format!("names more than {MAX_ITEMS} items"));
        return chosen;
    }
    for (text, seq) in points {
        let Some(item) = checks.resource::<ItemName>("change.points.points", &text) else { continue };
        if seq == 0 {
            checks.refuse("change.points.points", format!("{item}: 0 is no recovery point"));
        }
        chosen.insert(item, PointChoice::Seq(PointSeq::new(seq)));
    }
    for text in app_consistent {
        let field = "change.points.app_consistent";
        let Some(item) = checks.resource::<ItemName>(field, &text) else { continue };
        if chosen.insert(item, PointChoice::LatestAppConsistent).is_some() {
            checks.refuse(field, format!("{text} has a point already"));
        }
    }
    chosen
}

/// As it comes in a preview's request, with the run's name.
///
/// # Errors
/// With every field that is missing or malformed.
pub fn preview_from_wire(wire: v1::PreviewRunChangeRequest) -> Result<(RunId, RunChange), Invalid> {
    let v1::PreviewRunChangeRequest { name, change } = wire;
    let mut checks = Checks::default();
    let run = checks.resource("name", &name);
    let change = RunChange::from_wire(&mut checks, change);
    checks.finish(run.zip(change))
}

pub fn preview_to_wire(run: RunId, change: RunChange) -> v1::PreviewRunChangeRequest {
    v1::PreviewRunChangeRequest { name: run.to_resource(), change: Some(change.into_wire()) }
}

/// Does what a preview has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeRun {
    pub run: RunId,
    pub change: RunChange,
    pub plan_digest: String,
    pub request_id: RequestId,
}

impl ChangeRun {
    /// # Errors
    /// With every field that is missing or malformed.
    pub fn from_wire(wire: v1::ChangeRunRequest) -> Result<Self, Invalid> {
        let v1::ChangeRunRequest { name, change, plan_digest, request_id } = wire;
        let mut checks = Checks::default();
        let run = checks.resource("name", &name);
        let change = RunChange::from_wire(&mut checks, change);
        if plan_digest.is_empty() {
            checks.refuse(
                "plan_digest",
                "is not set: preview the change first and pass the digest of its plan",
            );
        }
        let plan_digest = checks.text("plan_digest", plan_digest, MAX_DIGEST);
        let request_id = checks.request_id(&request_id);
        let whole = (|| {
            Some(Self { run: run?, change: change?, plan_digest: plan_digest?, request_id: request_id? })
        })();
        checks.finish(whole)
    }

    pub fn into_wire(self) -> v1::ChangeRunRequest {
        let Self { run, change, plan_digest, request_id } = self;
        v1::ChangeRunRequest {
            name: run.to_resource(),
            change: Some(change.into_wire()),
            plan_digest,
            request_id: request_id.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use understudy_ids::Uuid;

    use super::*;

    #[test]
    fn changes_go_out_and_come_in_alike() {
        let points = [
            ("web1".parse().unwrap(), PointChoice::Seq(PointSeq::new(3))),
            ("db1".parse().unwrap(), PointChoice::LatestAppConsistent),
        ];
        for change in [RunChange::Points(points.into()), RunChange::RollBack { give_up_writes: true }] {
            let run = Uuid::from_u128(7);
            let asked = ChangeRun {
                run,
                change: change.clone(),
                plan_digest: "d".to_owned(),
                request_id: "r".parse().unwrap(),
            };
            assert_eq!(ChangeRun::from_wire(asked.clone().into_wire()), Ok(asked));
            assert_eq!(preview_from_wire(preview_to_wire(run, change.clone())), Ok((run, change)));
        }
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        assert_eq!(ChangeRun::from_wire(v1::ChangeRunRequest::default()).unwrap_err().0.len(), 4);
        let points = v1::PointsChange {
            points: [("protectedItems/web1".to_owned(), 0), ("web2".to_owned(), 1)].into(),
            app_consistent: vec!["protectedItems/web1".to_owned()],
        };
        let wire = v1::PreviewRunChangeRequest {
            name: "runs/x".to_owned(),
            change: Some(v1::RunChange { change: Some(Wire::Points(points)) }),
        };
        assert_eq!(preview_from_wire(wire).unwrap_err().0.len(), 4);
    }
}
