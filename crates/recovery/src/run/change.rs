//! How a run takes an amendment in, and how a roll-back is given up (R-FO-4, R-FB-2).
//!
//! ```text
//!   another point: the item's unfinished steps give way to the new ones; the wait for the commit begins anew behind them
//!   roll back:     everything that has not been done gives way, the commit above all
//!   completed:     the wait for it is over; what would take the copies back is not wanted any more
//!   given up, sides not switched: the new steps give way in turn, what was stopped is started, the wait begins anew
//!   given up, sides switched:     the items are protected from their old side, as the record says by then; the run ends
//! ```

use std::collections::BTreeSet;

use understudy_ids::{ItemName, StepName};

use super::{
    ChangedItem, Course, EndReason, MadeChange, StepState, StepStatus, advance::Change, last_probes,
    outcomes, settle,
};
use crate::{
    action::{Action, AgentWork, Internal, OperatorWait, StepResult},
    item::{ItemState, Verb},
    plan::{Amendment, ChangeKind, Operation, Phase, Stage, Step, amended},
};

/// What a change was, for people.
pub fn change_in_words(made: &MadeChange) -> String {
    let item = |changed: &ChangedItem| match (made.kind, changed.from, changed.to) {
        (ChangeKind::Points, Some(from), Some(to)) => {
            format!("{} from recovery point {from} to {to}", changed.item)
        }
        (ChangeKind::Points, None, Some(to)) => format!("{} to recovery point {to}", changed.item),
        _ => changed.item.to_string(),
    };
    let items: Vec<String> = made.items.iter().map(item).collect();
    let items = items.join(", ");
    match (made.kind, made.withdrawn) {
        (ChangeKind::Points, _) => items,
        (ChangeKind::CompleteFailover, _) => format!("completed: {items}"),
        (ChangeKind::RollBack, false) => format!("rolled back: {items}"),
        (ChangeKind::RollBack, true) => format!("roll-back of {items} withdrawn"),
    }
}

impl Change {
    /// The run has the amendment's steps as well.
    pub(super) fn amend(&mut self, amendment: &Amendment, by: &str) {
        let made = self.made(amendment, by);
        self.run.waited = None;
        let items: BTreeSet<ItemName> = amendment.items.iter().map(|item| item.item.clone()).collect();
        self.supersede(amendment.number, |step| match amendment.kind {
            ChangeKind::Points => {
                step.stage == Stage::Main && step.item.as_ref().is_some_and(|item| items.contains(item))
            }
            ChangeKind::RollBack => true,
            ChangeKind::CompleteFailover => false,
        });
        if amendment.kind == ChangeKind::CompleteFailover {
            self.complete_failover(amendment.number);
        }
        self.run.plan = amended(&self.run.plan, amendment.steps.clone());
        for step in &amendment.steps {
            self.run.steps.insert(step.id.clone(), StepStatus::pending());
        }
        self.run.changes.push(made);
        for item in &amendment.items {
            if let Some(estimate) = &item.estimate {
                self.run.plan.estimates.insert(item.item.clone(), estimate.clone());
            }
            let planned = self.run.plan.items.iter_mut().find(|planned| planned.item == item.item);
            if let (Some(planned), Some(connections)) = (planned, &item.connections) {
                planned.connections = connections.clone();
            }
            if let Some(progress) = self.run.items.get_mut(&item.item) {
                progress.skipped = false;
            }
            self.begin_change(&item.item, amendment.kind);
        }
        if amendment.kind == ChangeKind::Points {
            self.wait_anew();
        }
    }

    /// From here on a cancel takes back what the new steps did, and leaves the copies.
    fn complete_failover(&mut self, by: u32) {
        let now = self.now;
        for step in self.run.plan.steps.iter().filter(|step| step.stage == Stage::Undo) {
            let Some(status) = self.run.steps.get_mut(&step.id) else { continue };
            (status.state, status.ended) = (StepState::Skipped, Some(now));
            self.run.superseded.insert(step.id.clone(), by);
        }
        let waits = |step: &&Step| step.action == Action::Operator(OperatorWait::CompleteFailover);
        if let Some(wait) = self.run.plan.steps.iter().find(waits).cloned() {
            self.succeeded(&wait, StepResult::Done);
        }
    }

    fn made(&self, amendment: &Amendment, by: &str) -> MadeChange {
        let used = outcomes(&self.run);
        let changed = amendment.items.iter().map(|item| ChangedItem {
            item: item.item.clone(),
            from: used.iter().find(|outcome| outcome.item == item.item).and_then(|outcome| outcome.point),
            to: item.estimate.as_ref().and_then(|estimate| estimate.point),
            gives_up: item.gives_up,
            had_failed: self.run.items.get(&item.item).is_some_and(|progress| progress.skipped),
        });
        MadeChange {
            number: amendment.number,
            kind: amendment.kind,
            by: by.to_owned(),
            at: self.now,
            items: changed.collect(),
            withdrawn: false,
        }
    }

    /// An item in which the run had failed takes the verb of a retry, because it is no different: only the steps are.
    fn begin_change(&mut self, item: &ItemName, kind: ChangeKind) {
        let failed = self.run.items.get(item).is_some_and(|progress| progress.state == ItemState::Failed);
        let verb = match (kind, failed) {
            (ChangeKind::Points, false) => Verb::ChangePoint,
            (ChangeKind::Points, true) => Verb::UnplannedFailoverResumed,
            (ChangeKind::RollBack, false) => Verb::RollBack,
            (ChangeKind::RollBack, true) => Verb::RollBackResumed,
            (ChangeKind::CompleteFailover, _) => Verb::PlannedFailover,
        };
        self.item_verb(item, verb);
    }

    /// Steps of the way forward that have not succeeded give way: nothing begins or repeats them any more.
    fn supersede(&mut self, by: u32, meant: impl Fn(&Step) -> bool) {
        let now = self.now;
        for step in self.run.plan.steps.iter().filter(|step| settle::is_forward(step) && meant(step)) {
            let Some(status) = self.run.steps.get_mut(&step.id) else { continue };
            if status.state != StepState::Succeeded && !self.run.superseded.contains_key(&step.id) {
                (status.state, status.error) = (StepState::Skipped, None);
                status.ended = status.ended.or(Some(now));
                self.run.superseded.insert(step.id.clone(), by);
            }
        }
    }

    /// The wait for the commit comes behind the new steps.
    fn wait_anew(&mut self) {
        self.reset(|step, status| {
            step.action == Action::Operator(OperatorWait::Commit) && status.state == StepState::Running
        });
    }

    /// Stopped at an error on the way back, and not to be tried again.
    pub(super) fn give_up_roll_back(&mut self) {
        if self.has_switched_back() {
            self.stay_switched_back();
        } else {
            self.withdraw_roll_back();
        }
    }

    fn has_switched_back(&self) -> bool {
        let raises = |step: &&Step| {
            matches!(step.action, Action::Internal(Internal::RaiseGeneration { .. }))
                && step.phase == Phase::RollBack
        };
        self.run.plan.steps.iter().filter(raises).any(|step| self.run.begun(&step.id))
    }

    /// The old side is the active one on record, and the target has its points. What is missing is told by the item's health; a machine
    /// that is off is failed over like any other.
    fn stay_switched_back(&mut self) {
        let items: Vec<_> = self.run.items.keys().cloned().collect();
        for item in items {
            self.item_verb(&item, Verb::RunFailed);
            self.item_verb(&item, Verb::ReturnedProtected);
        }
        self.begin_ending(EndReason::GivenUp);
    }

    /// As it was before: what was stopped is started, and then the commit is waited for.
    fn withdraw_roll_back(&mut self) {
        let Some(change) = self.run.changes.last_mut() else { return };
        change.withdrawn = true;
        let (number, items) = (change.number, change.items.clone());
        let failed: BTreeSet<&ItemName> = items.iter().filter(|i| i.had_failed).map(|i| &i.item).collect();
        let of_change = |step: &Step| step.phase == Phase::RollBack;
        let stops: Vec<(ItemName, bool)> = self
            .run
            .plan
            .steps
            .iter()
            .filter(|step| of_change(step) && !self.run.superseded.contains_key(&step.id))
            .filter_map(|step| Some((step.item.clone()?, self.run.begun(&step.id))))
            .collect();
        let back: Vec<StepName> =
            self.run.superseded.iter().filter(|(_, by)| **by == number).map(|(id, _)| id.clone()).collect();
        self.supersede(number, of_change);
        for id in &back {
            self.run.superseded.remove(id);
        }
        self.reset(|step, _| {
            back.contains(&step.id) && step.item.as_ref().is_none_or(|i| !failed.contains(i))
        });
        self.run.course = Course::Forward;
        for ChangedItem { item, had_failed, .. } in &items {
            let stopped = stops.iter().any(|(of, begun)| of == item && *begun);
            match (had_failed, stopped) {
                (true, _) => {
                    self.item_verb(item, Verb::RunFailed);
                    if let Some(progress) = self.run.items.get_mut(item) {
                        progress.skipped = true;
                    }
                }
                (false, true) => self.start_again(item),
                (false, false) => self.item_verb(item, Verb::RollBackCancelled),
            }
        }
    }

    /// The machine that was last made at the target is started, and asked again. Steps say what must be true, so that this is a repetition.
    fn start_again(&mut self, item: &ItemName) {
        self.item_verb(item, Verb::RunFailed);
        let planned = self.run.plan.operation != Operation::UnplannedFailover;
        self.item_verb(
            item,
            if planned { Verb::PlannedFailoverResumed } else { Verb::UnplannedFailoverResumed },
        );
        let start = self.run.plan.steps.iter().rfind(|step| {
            step.item.as_ref() == Some(item)
                && step.phase == Phase::Start
                && matches!(&step.action, Action::Agent { work: AgentWork::StartMachine { .. }, .. })
                && self.run.step_state(&step.id) == StepState::Succeeded
        });
        let probes = last_probes(&self.run, item).into_iter();
        let answered = probes.filter(|step| self.run.step_state(&step.id) == StepState::Succeeded);
        let again: Vec<StepName> = start.into_iter().chain(answered).map(|step| step.id.clone()).collect();
        self.reset(|step, _| again.contains(&step.id));
    }
}
