//! How a run begins and how it goes on after each event: one function per event, all of them ending in [`settle`].

use std::collections::{BTreeMap, BTreeSet};

use understudy_ids::{Generation, ItemName, Problem, RunId, StepName, UnixMicros};

use super::{
    Approval, Course, Effect, EndReason, Event, ItemChange, ItemProgress, Refusal, Run, RunVerb, SetDeadline,
    StepError, StepState, StepStatus, deadline, settle, task_key, view,
};
use crate::{
    action::{Action, Internal, OperatorWait, StepResult},
    item::{self, ItemState, Verb},
    plan::{Amendment, ErrorPolicy, Operation, Phase, RunPlan, RunSpec, Stage, Step},
};

/// A run being changed, with the effects so far. Everything that changes a run goes through here.
pub(super) struct Change {
    pub run: Run,
    pub effects: Vec<Effect>,
    pub now: UnixMicros,
}

/// A run of `plan`, and what has to be done first.
pub fn start(id: RunId, plan: RunPlan, spec: RunSpec, who: &str, now: UnixMicros) -> (Run, Vec<Effect>) {
    let steps = plan.steps.iter().map(|step| (step.id.clone(), StepStatus::pending())).collect();
    let progress = |state| ItemProgress { state, skipped: false, stopped: None };
    let items = plan.items.iter().map(|item| (item.item.clone(), progress(item.state))).collect();
    let deadline =
        spec.deadline.map(|deadline| SetDeadline { deadline, by: who.to_owned(), failed: Vec::new() });
    let run = Run {
        id,
        spec,
        plan,
        steps,
        items,
        course: Course::Forward,
        created_by: who.to_owned(),
        started: now,
        ended: None,
        approved: None,
        sequence: 0,
        changes: Vec::new(),
        superseded: BTreeMap::new(),
        waited: None,
        deadline,
    };
    let mut change = Change { run, effects: Vec::new(), now };
    change.hold_items();
    change.settled()
}

/// The run after the event, and what has to be done because of it. An event that tells nothing new: the run as it is, and no effects.
///
/// # Errors
/// Only for an operator's verb or change that the run does not take now.
pub fn advance(run: &Run, event: &Event) -> Result<(Run, Vec<Effect>), Refusal> {
    match event {
        Event::Operator { verb, by, at } => operator(run, *verb, by, *at),
        Event::Changed { amendment, by, at } => changed(run, amendment, by, *at),
        Event::DeadlineSet { deadline: wanted, by, at } => {
            deadline::set(run, *wanted, by, *at).map(|change| (change.run, change.effects))
        }
        Event::Answered { step, confirmed, by, at } => answered(run, step, *confirmed, by, *at),
        _ => Ok(happened(run, std::slice::from_ref(event))),
    }
}

/// As [`advance`] after several events, one after the other. What may begin is looked for once, behind all that has happened: a run is many
/// steps, and going through them costs more than taking an event in.
///
/// # Errors
/// As [`advance`]. Nothing of the events is in the run then.
pub fn advance_all(run: &Run, events: &[Event]) -> Result<(Run, Vec<Effect>), Refusal> {
    let (mut next, mut effects) = (None, Vec::new());
    // A decision is about the run as it is then.
    for some in events.chunk_by(|one, other| !one.is_decision() && !other.is_decision()) {
        let before = next.as_ref().unwrap_or(run);
        let (after, more) = match some {
            [one] => advance(before, one)?,
            some => happened(before, some),
        };
        next = Some(after);
        effects.extend(more);
    }
    Ok((next.unwrap_or_else(|| run.clone()), effects))
}

/// What happens by itself, told to a run. It refuses none of it.
fn happened(run: &Run, events: &[Event]) -> (Run, Vec<Effect>) {
    let mut change = Change { run: run.clone(), effects: Vec::new(), now: run.started };
    let mut told = false;
    for event in events {
        change.now = event.at();
        told |= change.take_in(event).is_some();
    }
    if told { change.settled() } else { (change.run, change.effects) }
}

/// Steps whose outcome has been missing for longer than their time-out; each is to be told with [`Event::StepTimedOut`].
///
/// To be asked only when every event of the run's job has been told: what is already known must not be given up on.
pub fn overdue(run: &Run, now: UnixMicros) -> Vec<StepName> {
    let late = |step: &&Step| {
        let status = &run.steps[&step.id];
        let due = status.started.zip(step.time_out).map(|(started, time_out)| started.plus(time_out));
        status.state == StepState::Running && due.is_some_and(|due| due <= now)
    };
    run.plan.steps.iter().filter(late).map(|step| step.id.clone()).collect()
}

/// Steps that only wait, and have waited for as long as they were to; each is to be told with [`Event::DelayOver`].
pub fn delays_over(run: &Run, now: UnixMicros) -> Vec<StepName> {
    let is_over = |step: &&Step| {
        let Action::Internal(Internal::Delay { span }) = step.action else { return false };
        let status = &run.steps[&step.id];
        status.state == StepState::Running && status.started.is_some_and(|began| began.plus(span) <= now)
    };
    run.plan.steps.iter().filter(is_over).map(|step| step.id.clone()).collect()
}

/// Items whose activation lease the run waits for; each is to be told with [`Event::LeaseOver`] when that has certainly ended.
pub fn awaited_leases(run: &Run) -> Vec<(ItemName, Generation)> {
    let awaited = run.plan.steps.iter().filter(|step| run.step_state(&step.id) == StepState::Running);
    awaited.filter_map(lease_of).map(|(item, generation)| (item.clone(), generation)).collect()
}

/// Steps that wait for tests to end, with those tests; each is to be told with [`Event::TestsEnded`] when none of them
/// [is on its way](Run::is_on_its_way) any more: one whose clean-up waits for somebody is not waited for.
pub fn awaited_tests(run: &Run) -> Vec<(StepName, &BTreeSet<RunId>)> {
    let waiting = run.plan.steps.iter().filter(|step| run.step_state(&step.id) == StepState::Running);
    waiting.filter_map(|step| Some((step.id.clone(), tests_of(step)?))).collect()
}

fn tests_of(step: &Step) -> Option<&BTreeSet<RunId>> {
    match &step.action {
        Action::Internal(Internal::EndTests { runs }) => Some(runs),
        _ => None,
    }
}

/// Whether the run relies on the end of the item's lease at this generation, so that it must not be granted any more.
pub fn ends_lease(run: &Run, item: &ItemName, generation: Generation) -> bool {
    let relied_on = |step: &Step| lease_of(step) == Some((item, generation));
    run.is_open() && run.plan.steps.iter().any(relied_on)
}

fn lease_of(step: &Step) -> Option<(&ItemName, Generation)> {
    match &step.action {
        Action::Internal(Internal::AwaitLease { item, generation }) => Some((item, *generation)),
        _ => None,
    }
}

/// An answer is to one question: whoever answers late does not answer the next one unseen.
fn answered(
    run: &Run,
    id: &StepName,
    confirmed: bool,
    by: &str,
    at: UnixMicros,
) -> Result<(Run, Vec<Effect>), Refusal> {
    let verb = if confirmed { RunVerb::Confirm } else { RunVerb::Reject };
    let allowed = view::admitted(run, verb)?;
    let waits = |step: &&Step| step.id == *id && run.step_state(id) == StepState::Running;
    let asked = |step: &Step| match &step.action {
        Action::Operator(wait) if wait.is_confirmed() => Some(wait.clone()),
        _ => None,
    };
    let Some((step, wait)) =
        run.plan.steps.iter().find(waits).and_then(|step| Some((step.clone(), asked(step)?)))
    else {
        let reason = format!("it does not wait at step {id}");
        return Err(Refusal { verb, reason, allowed });
    };
    let mut change = Change { run: run.clone(), effects: Vec::new(), now: at };
    change.run.waited = None;
    if confirmed {
        change.succeeded(&step, StepResult::Confirmed { by: by.to_owned() });
    } else {
        let problem = rejected(&step, &wait, by);
        change.failed(&step, StepError { problem, unknown: false });
    }
    Ok(change.settled())
}

fn rejected(step: &Step, wait: &OperatorWait, by: &str) -> Problem {
    let (reason, message) = match wait {
        OperatorWait::Gate { group, .. } => {
            ("GATE_NOT_PASSED", format!("{by} does not let the run go on behind group {group}"))
        }
        _ => ("MANUAL_ACTION_REJECTED", format!("{}: rejected by {by}", step.title)),
    };
    let remedy = "Do what is missing, then retry, which asks again; or cancel where that is still possible.";
    Problem::new(reason, step.id.as_str(), message, remedy)
}

fn operator(run: &Run, verb: RunVerb, by: &str, at: UnixMicros) -> Result<(Run, Vec<Effect>), Refusal> {
    let allowed = view::admitted(run, verb)?;
    let mut change = Change { run: run.clone(), effects: Vec::new(), now: at };
    match verb {
        RunVerb::ChangePoint | RunVerb::RollBack | RunVerb::CompleteFailover | RunVerb::SetDeadline => {
            let reason = "it has to say what is to be changed".to_owned();
            return Err(Refusal { verb, reason, allowed });
        }
        RunVerb::Confirm | RunVerb::Reject => {
            let reason = "it has to say which step".to_owned();
            return Err(Refusal { verb, reason, allowed });
        }
        RunVerb::CompleteTest => change.approve(&OperatorWait::CompleteTest, by),
        RunVerb::Commit => change.approve(&OperatorWait::Commit, by),
        RunVerb::Cancel => change.cancel(),
        RunVerb::Retry => change.retry(),
    }
    Ok(change.settled())
}

/// A change was planned for the run as it was; one that has been changed or moved on since does not take it.
fn changed(
    run: &Run,
    amendment: &Amendment,
    by: &str,
    at: UnixMicros,
) -> Result<(Run, Vec<Effect>), Refusal> {
    let verb = amendment.kind.verb();
    if amendment.number != run.next_change() {
        let reason = "it was changed after this was planned".to_owned();
        return Err(Refusal { verb, reason, allowed: view::allowed_actions(run) });
    }
    view::admitted(run, verb)?;
    let mut change = Change { run: run.clone(), effects: Vec::new(), now: at };
    change.amend(amendment, by);
    Ok(change.settled())
}

impl Change {
    /// Whether the run may go on because of it.
    fn take_in(&mut self, event: &Event) -> Option<()> {
        match event {
            // Neither moves the run on.
            Event::TimePassed { elapsed, .. } => {
                self.time_passed(*elapsed);
                None
            }
            Event::DeadlineFailed { problems, .. } => {
                self.deadline_failed(problems);
                None
            }
            Event::StepSucceeded { key, result, .. } => {
                self.step_of(key).map(|step| self.succeeded(&step, result.clone()))
            }
            Event::StepFailed { key, problem, unknown, .. } => {
                let error = StepError { problem: problem.clone(), unknown: *unknown };
                self.step_of(key).map(|step| self.failed(&step, error))
            }
            Event::StepTimedOut { step, .. } => self.timed_out(step),
            Event::FirstPoint { .. } => self.first_point(event),
            Event::DelayOver { step, .. } => self.delay_over(step),
            Event::LeaseOver { item, generation, .. } => self.lease_over(item, *generation),
            Event::TestsEnded { step, .. } => self.tests_ended(step),
            Event::Operator { .. }
            | Event::Changed { .. }
            | Event::DeadlineSet { .. }
            | Event::Answered { .. } => None,
        }
    }

    fn settled(mut self) -> (Run, Vec<Effect>) {
        settle::settle(&mut self);
        self.report_job();
        (self.run, self.effects)
    }

    /// Numbers the run's new state and tells its job.
    pub fn report_job(&mut self) {
        self.run.sequence += 1;
        self.effects.push(Effect::Job(Box::new(view::job_view(&self.run))));
    }

    fn hold_items(&mut self) {
        let test = self.run.plan.operation == Operation::TestFailover;
        let names: Vec<_> = self.run.items.keys().cloned().collect();
        for item in names {
            let hold =
                if test { ItemChange::HoldTest(self.run.id) } else { ItemChange::HoldRun(self.run.id) };
            self.effects.push(Effect::Item { item: item.clone(), change: hold });
            if let Some(verb) = self.run.spec.verb().filter(|_| !test) {
                self.item_verb(&item, verb);
            }
        }
    }

    /// Moves an item as the table says. A verb that its state does not take is none of this item's: it stays as it is.
    pub fn item_verb(&mut self, item: &ItemName, verb: Verb) {
        let Some(progress) = self.run.items.get_mut(item) else { return };
        let from = progress.state;
        let Ok(to) = item::next(from, verb) else { return };
        progress.state = to;
        let change = ItemChange::Verb { verb, from, to };
        self.effects.push(Effect::Item { item: item.clone(), change });
    }

    pub fn plan_step(&self, id: &StepName) -> Option<Step> {
        self.run.plan.step(id).cloned()
    }

    /// The step whose present try has this key, if it still runs.
    fn step_of(&self, key: &str) -> Option<Step> {
        let runs = |step: &&Step| {
            let status = &self.run.steps[&step.id];
            status.state == StepState::Running && task_key(&step.id, status.tries) == key
        };
        self.run.plan.steps.iter().find(runs).cloned()
    }

    pub fn status(&mut self, id: &StepName) -> &mut StepStatus {
        self.run.steps.entry(id.clone()).or_insert_with(StepStatus::pending)
    }

    /// A worker says that the step is done. What it says is looked at before it is believed.
    pub fn succeeded(&mut self, step: &Step, result: StepResult) {
        if let StepResult::MachineStopped { time, .. } = &result
            && step.phase == Phase::ShutDown
            && let Some(progress) = step.item.as_ref().and_then(|item| self.run.items.get_mut(item))
        {
            // The step may be repeated after the machine is off; the machine was away from its first stop on.
            progress.stopped = Some(progress.stopped.map_or(*time, |earlier| earlier.min(*time)));
        }
        let problem = settle::fault_in(step, &result);
        self.status(&step.id).result = Some(result);
        match problem {
            Some(problem) => self.failed(step, StepError { problem, unknown: false }),
            None => {
                let now = self.now;
                let status = self.status(&step.id);
                (status.state, status.ended, status.error) = (StepState::Succeeded, Some(now), None);
                self.record(step);
            }
        }
    }

    fn record(&mut self, step: &Step) {
        if let Some(item) = &step.item {
            for verb in &step.records {
                self.item_verb(item, *verb);
            }
        }
    }

    pub fn failed(&mut self, step: &Step, error: StepError) {
        let now = self.now;
        let status = self.status(&step.id);
        (status.state, status.ended, status.error) = (StepState::Failed, Some(now), Some(error));
        if matches!(step.stage, Stage::Undo | Stage::Cleanup) || matches!(self.run.course, Course::Ending(_))
        {
            return;
        }
        match step.on_error {
            ErrorPolicy::GoOn => self.record(step),
            ErrorPolicy::SkipItem => self.skip_item(step),
            ErrorPolicy::StopRun => self.stop(step),
        }
    }

    /// The rest of the item's steps will not be done.
    fn skip_item(&mut self, step: &Step) {
        let Some(item) = &step.item else { return };
        if let Some(progress) = self.run.items.get_mut(item) {
            progress.skipped = true;
        }
        self.item_failed(item);
        let of_item = |s: &&Step| s.item.as_ref() == Some(item) && settle::is_forward(s);
        let rest: Vec<StepName> = self.run.plan.steps.iter().filter(of_item).map(|s| s.id.clone()).collect();
        self.skip_unfinished(&rest);
    }

    /// Steps that have not begun never will; waits end.
    pub fn skip_unfinished(&mut self, steps: &[StepName]) {
        let now = self.now;
        for id in steps {
            let waits = self.plan_step(id).is_some_and(|step| settle::is_wait(&step));
            let status = self.status(id);
            if status.state == StepState::Pending || (waits && status.state == StepState::Running) {
                (status.state, status.ended) = (StepState::Skipped, Some(now));
            }
        }
    }

    fn item_failed(&mut self, item: &ItemName) {
        match self.run.items.get(item).map(|progress| progress.state) {
            Some(ItemState::ReverseReplication) => self.item_verb(item, Verb::ReverseReplicationFailed),
            _ => self.item_verb(item, Verb::RunFailed),
        }
    }

    /// The first error ends a test, and stops any other run where it is.
    fn stop(&mut self, step: &Step) {
        if self.run.plan.operation == Operation::TestFailover {
            self.begin_ending(EndReason::Failed);
            return;
        }
        self.run.course = Course::Halted;
        let items: Vec<_> = match &step.item {
            Some(item) => vec![item.clone()],
            None => self.run.items.keys().cloned().collect(),
        };
        for item in items {
            self.item_failed(&item);
        }
    }

    /// No main step begins any more; those that are on their way are called back, and clean-up begins when they have answered.
    pub fn begin_ending(&mut self, reason: EndReason) {
        self.run.course = Course::Ending(reason);
        let forward = self.run.plan.steps.iter().filter(|step| settle::is_forward(step));
        let forward: Vec<StepName> = forward.map(|step| step.id.clone()).collect();
        self.skip_unfinished(&forward);
        let on_their_way = forward.iter().filter(|id| self.run.steps[*id].state == StepState::Running);
        let keys: Vec<String> = on_their_way.filter_map(|id| self.run.task_key(id)).collect();
        if !keys.is_empty() {
            self.effects.push(Effect::CancelTasks { keys });
        }
    }

    fn timed_out(&mut self, id: &StepName) -> Option<()> {
        if !overdue(&self.run, self.now).contains(id) {
            return None;
        }
        let step = self.plan_step(id)?;
        let subject = format!("jobs/{}", self.run.id);
        let problem = if tests_of(&step).is_some() {
            let message = format!("{}: they have not come to their end in time", step.title);
            let remedy = "Nothing of this run depends on it. Look at those tests: what they could not remove is listed there.";
            Problem::new("TESTS_NOT_ENDED", subject, message, remedy)
        } else {
            let key = self.run.task_key(id)?;
            self.effects.push(Effect::CancelTasks { keys: vec![key] });
            let message = format!("{}: {} has not said in time what became of it", step.title, step.executor);
            let remedy =
                "Look at that host or service, then retry: the step is repeated where it was not done.";
            Problem::new("STEP_TIMED_OUT", subject, message, remedy)
        };
        self.failed(&step, StepError { problem, unknown: true });
        Some(())
    }

    fn first_point(&mut self, event: &Event) -> Option<()> {
        let Event::FirstPoint { item, seq, generation, .. } = event else { return None };
        let awaited = |step: &&Step| match &step.action {
            Action::Internal(Internal::AwaitFirstPoint { item: of, generation: at, .. }) => {
                of == item && at == generation && self.run.steps[&step.id].state == StepState::Running
            }
            _ => false,
        };
        let step = self.run.plan.steps.iter().find(awaited).cloned()?;
        self.succeeded(&step, StepResult::FirstPoint { seq: *seq });
        Some(())
    }

    fn delay_over(&mut self, id: &StepName) -> Option<()> {
        if !delays_over(&self.run, self.now).contains(id) {
            return None;
        }
        let step = self.plan_step(id)?;
        self.succeeded(&step, StepResult::Done);
        Some(())
    }

    fn lease_over(&mut self, item: &ItemName, generation: Generation) -> Option<()> {
        let awaited = |step: &&Step| {
            lease_of(step) == Some((item, generation)) && self.run.step_state(&step.id) == StepState::Running
        };
        let step = self.run.plan.steps.iter().find(awaited).cloned()?;
        self.succeeded(&step, StepResult::Done);
        Some(())
    }

    fn tests_ended(&mut self, id: &StepName) -> Option<()> {
        let waits = awaited_tests(&self.run).iter().any(|(step, _)| step == id);
        let step = self.plan_step(id).filter(|_| waits)?;
        self.succeeded(&step, StepResult::Done);
        Some(())
    }

    fn approve(&mut self, wait: &OperatorWait, by: &str) {
        let waits = |step: &&Step| matches!(&step.action, Action::Operator(at) if at == wait);
        let Some(step) = self.run.plan.steps.iter().find(waits).cloned() else { return };
        self.run.waited = None;
        self.run.approved = Some(Approval { by: by.to_owned(), at: self.now });
        self.succeeded(&step, StepResult::Done);
    }

    fn cancel(&mut self) {
        if let Course::Ending(reason) = self.run.course {
            // What could not be cleaned up is listed in the report, and left to reconciliation.
            self.finish(reason);
            return;
        }
        if self.run.is_rolling_back() {
            self.give_up_roll_back();
            return;
        }
        if !settle::passed_point_of_no_return(&self.run) {
            self.begin_ending(EndReason::Cancelled);
            self.report_job();
            return;
        }
        let unprotected: Vec<_> = self.run.items.keys().cloned().collect();
        for item in unprotected {
            if self.run.items[&item].state == ItemState::ReverseReplication {
                self.item_verb(&item, Verb::ReverseReplicationFailed);
            }
            let protected = self.run.items[&item].state == ItemState::Protected;
            if let Some(progress) = self.run.items.get_mut(&item).filter(|_| !protected) {
                progress.skipped = true;
            }
        }
        self.begin_ending(EndReason::GivenUp);
    }

    /// Sends again what failed. Every step says what must be true afterwards, so repeating one that was done does no harm.
    fn retry(&mut self) {
        if matches!(self.run.course, Course::Ending(_)) {
            self.reset(|step, status| !settle::is_forward(step) && status.state == StepState::Failed);
            return;
        }
        if self.run.course == Course::Halted {
            let switched = settle::passed_point_of_no_return(&self.run);
            let asked = self.asked_by_gates();
            self.run.course = Course::Forward;
            self.reset(|step, status| {
                let stops = step.on_error == ErrorPolicy::StopRun || asked.contains(&step.id);
                status.state == StepState::Failed && stops || !switched && must_be_repeated(step)
            });
        }
        if self.run.plan.operation == Operation::UnplannedFailover && !self.run.is_rolling_back() {
            self.resume_skipped_items();
        }
        let resumed = match self.run.plan.operation {
            _ if self.run.is_rolling_back() => Verb::RollBackResumed,
            Operation::Protect => Verb::ProtectResumed,
            Operation::Unprotect => Verb::UnprotectResumed,
            Operation::PlannedFailover => Verb::PlannedFailoverResumed,
            Operation::UnplannedFailover => Verb::UnplannedFailoverResumed,
            Operation::ReverseReplicate => Verb::ReverseReplicate,
            // Behind the wait it is a planned failover, and before it each item whose copy failed is not protected.
            Operation::Failback if self.run.copies() => Verb::Failback,
            Operation::Failback => Verb::PlannedFailoverResumed,
            Operation::TestFailover => return,
        };
        let items: Vec<_> = self.run.items.keys().cloned().collect();
        for item in items {
            self.item_verb(&item, resumed);
        }
    }

    /// What gates that were not passed have looked at: who retries has put it right, so the machines are asked before a person is.
    fn asked_by_gates(&self) -> BTreeSet<StepName> {
        let failed = self.run.plan.steps.iter().filter(|s| self.run.step_state(&s.id) == StepState::Failed);
        let asked = failed.filter_map(|step| match &step.action {
            Action::Operator(OperatorWait::Gate { watched, .. }) => Some(watched),
            _ => None,
        });
        asked.flatten().cloned().collect()
    }

    fn resume_skipped_items(&mut self) {
        let skipped: Vec<_> =
            self.run.items.iter().filter(|(_, p)| p.skipped).map(|(item, _)| item.clone()).collect();
        self.reset(|step, status| {
            let of_skipped = step.item.as_ref().is_some_and(|item| skipped.contains(item));
            let unfinished = matches!(status.state, StepState::Failed | StepState::Skipped);
            let waits = matches!(step.action, Action::Operator(_)) && status.state == StepState::Running;
            // What was tried with the other side is over once the sides have switched.
            let is_over = step.item.is_some() && !step.point_of_no_return;
            // A test that was kept for what it has of them.
            let keeps_test =
                tests_of(step).is_some() && !step.after.is_empty() && status.state == StepState::Failed;
            let again = of_skipped && unfinished || !skipped.is_empty() && (waits || keeps_test);
            settle::is_forward(step) && !is_over && again
        });
        for progress in self.run.items.values_mut() {
            progress.skipped = false;
        }
    }

    pub fn reset(&mut self, which: impl Fn(&Step, &StepStatus) -> bool) {
        for step in &self.run.plan.steps {
            if let Some(status) = self.run.steps.get_mut(&step.id)
                && !self.run.superseded.contains_key(&step.id)
                && which(step, status)
            {
                *status = StepStatus { tries: status.tries, ..StepStatus::pending() };
            }
        }
    }
}

/// Before the sides have switched, the source machine may have been started and have written between two tries. So a retry does
/// not build on what was shipped and compared before, but ships and compares again.
fn must_be_repeated(step: &Step) -> bool {
    step.stage == Stage::Main && matches!(step.phase, Phase::ShutDown | Phase::Synchronise | Phase::Verify)
}

impl StepStatus {
    pub(super) fn pending() -> Self {
        Self { state: StepState::Pending, tries: 0, started: None, ended: None, result: None, error: None }
    }
}
