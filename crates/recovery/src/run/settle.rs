//! Carries a changed run as far as it can go without anybody else: begins what may begin, does what the orchestrator does itself,
//! and ends what is at its end.
//!
//! ```text
//!   forward:  a step begins when all that it comes after has ended and its item is still in the run
//!   halted:   nothing begins; what is on its way comes home
//!   ending:   first everything that is on its way comes home; then undo and clean-up steps of what was begun, each after
//!             those that it builds on have succeeded; then the run ends
//! ```

use std::collections::BTreeSet;

use understudy_ids::{Problem, RunId, StepName};
use understudy_replication::watched::Watched;

use super::{
    Course, Effect, EndReason, Ended, ItemChange, Run, RunState, StepError, StepState, advance::Change,
};
use crate::{
    action::{Action, AgentWork, DiskRoot, Internal, KnownPoints, OperatorWait, StepResult, resolve},
    item::{ItemState, Verb},
    plan::{ErrorPolicy, Operation, Stage, Step},
};

/// Reason of a script that ran to its end and says that it failed.
pub(super) const SCRIPT_FAILED: &str = "SCRIPT_FAILED";
/// How much of what a script wrote is said with its failure, in bytes. All of it is kept with the step.
const SHOWN_OF_OUTPUT: usize = 2048;

/// Whether the step belongs to the way forward, and not to what takes it back.
pub(super) fn is_forward(step: &Step) -> bool {
    matches!(step.stage, Stage::Main | Stage::AfterCommit)
}

/// Whether the step is no work but waiting for somebody or something.
pub(super) fn is_wait(step: &Step) -> bool {
    use Internal::{AwaitFirstPoint, AwaitLease, Delay, EndTests};
    matches!(
        step.action,
        Action::Operator(_)
            | Action::Internal(AwaitFirstPoint { .. } | AwaitLease { .. } | Delay { .. } | EndTests { .. })
    )
}

/// Whether something that cannot be taken back was begun.
pub(super) fn passed_point_of_no_return(run: &Run) -> bool {
    run.plan.steps.iter().any(|step| step.point_of_no_return && run.begun(&step.id))
}

impl Run {
    pub(super) fn step_state(&self, id: &StepName) -> StepState {
        self.steps.get(id).map_or(StepState::Pending, |status| status.state)
    }

    /// Whether the step was ever sent, so that its effect may be there.
    pub(super) fn begun(&self, id: &StepName) -> bool {
        self.steps.get(id).is_some_and(|status| status.tries > 0)
    }

    /// Whether work of the way forward (not waiting) has not come home yet.
    pub(super) fn has_work_on_its_way(&self) -> bool {
        let on_its_way = |step: &&Step| !is_wait(step) && self.step_state(&step.id) == StepState::Running;
        self.plan.steps.iter().any(|step| on_its_way(&step))
    }

    fn is_skipped(&self, step: &Step) -> bool {
        step.item.as_ref().and_then(|item| self.items.get(item)).is_some_and(|progress| progress.skipped)
    }

    /// Whether the step's item is where the run was to bring it: what another item's error does to the run is not its business.
    fn has_arrived(&self, step: &Step) -> bool {
        let progress = step.item.as_ref().and_then(|item| self.items.get(item));
        progress.is_some_and(|progress| matches!(progress.state, ItemState::Protected | ItemState::Removed))
    }

    /// Whether an undo or clean-up step has anything to do at this end of the run.
    pub(super) fn is_to_be_cleaned(&self, step: &Step, reason: EndReason) -> bool {
        let begun = step.undoes.iter().any(|id| self.begun(id));
        match step.stage {
            Stage::Main | Stage::AfterCommit => false,
            Stage::Cleanup => begun,
            Stage::Undo if self.has_arrived(step) => false,
            // Before the point of no return everything is taken back by a cancel. Behind it, only what an item did not finish is.
            Stage::Undo if step.point_of_no_return => begun && self.is_skipped(step),
            Stage::Undo => begun && reason == EndReason::Cancelled,
        }
    }

    /// Whether clean-up has come to a standstill because of an error: somebody has to look.
    pub(super) fn is_clean_up_incomplete(&self) -> bool {
        let ending = matches!(self.course, Course::Ending(_)) && self.is_open();
        let failed = |step: &&Step| !is_forward(step) && self.step_state(&step.id) == StepState::Failed;
        ending && !self.has_work_on_its_way() && self.plan.steps.iter().any(|step| failed(&step))
    }

    /// Whether it comes to its end by itself, or by what is asked of it: it has not ended, and its clean-up is not at a standstill.
    pub fn is_on_its_way(&self) -> bool {
        self.is_open() && !self.is_clean_up_incomplete()
    }

    fn points(&self) -> KnownPoints {
        let mut points = KnownPoints::default();
        for (item, estimate) in &self.plan.estimates {
            points.announced.extend(estimate.point.map(|seq| (item.clone(), seq)));
            points.highest.extend(estimate.highest_point.map(|seq| (item.clone(), seq)));
        }
        for step in &self.plan.steps {
            if let (Some(item), Some(StepResult::FinalPoint { seq, .. })) =
                (&step.item, &self.steps[&step.id].result)
            {
                points.shipped.insert(step.id.clone(), *seq);
                let highest = points.highest.entry(item.clone()).or_insert(*seq);
                *highest = (*highest).max(*seq);
            }
        }
        points
    }
}

/// Carries the run on until nothing more happens by itself. Every round begins or ends at least one step, so it ends.
pub(super) fn settle(change: &mut Change) {
    while change.run.is_open() {
        let moved = match change.run.course {
            Course::Forward => forward(change),
            Course::Halted => false,
            Course::Ending(reason) => ending(change, reason),
        };
        if !moved {
            return;
        }
    }
}

fn forward(change: &mut Change) -> bool {
    let run = &change.run;
    let may_begin = |step: &&Step| {
        is_forward(step)
            && run.step_state(&step.id) == StepState::Pending
            && !run.is_skipped(step)
            && is_due(run, step)
    };
    let due: Vec<Step> = run.plan.steps.iter().filter(may_begin).cloned().collect();
    for step in &due {
        // An error in one of them may have ended the way forward, or its item's part of it.
        let pending = change.run.step_state(&step.id) == StepState::Pending;
        if change.run.course == Course::Forward && pending {
            begin(change, step);
        }
    }
    if !due.is_empty() {
        return true;
    }
    let unfinished = |step: &&Step| {
        is_forward(step) && matches!(change.run.step_state(&step.id), StepState::Pending | StepState::Running)
    };
    if change.run.plan.steps.iter().any(|step| unfinished(&step)) {
        return false;
    }
    change.begin_ending(EndReason::Finished);
    true
}

/// Whether everything that the step comes after has ended in a way that lets it begin.
fn is_due(run: &Run, step: &Step) -> bool {
    step.after.iter().all(|id| match run.step_state(id) {
        StepState::Succeeded | StepState::Skipped => true,
        StepState::Failed => run.plan.step(id).is_some_and(|s| s.on_error != ErrorPolicy::StopRun),
        StepState::Pending | StepState::Running => false,
    })
}

fn ending(change: &mut Change, reason: EndReason) -> bool {
    let run = &change.run;
    let on_its_way = |step: &&Step| is_forward(step) && run.step_state(&step.id) == StepState::Running;
    if run.plan.steps.iter().any(|step| on_its_way(&step)) {
        return false;
    }
    let pending = |step: &&Step| !is_forward(step) && run.step_state(&step.id) == StepState::Pending;
    let (needed, needless): (Vec<Step>, Vec<Step>) =
        run.plan.steps.iter().filter(pending).cloned().partition(|step| run.is_to_be_cleaned(step, reason));
    if !needless.is_empty() {
        let ids: Vec<StepName> = needless.into_iter().map(|step| step.id).collect();
        change.skip_unfinished(&ids);
        return true;
    }
    // What builds on a clean-up step that failed has to wait for its retry: a network is not removed from under a machine.
    let clean = |id: &StepName| matches!(run.step_state(id), StepState::Succeeded | StepState::Skipped);
    let due: Vec<Step> = needed.iter().filter(|step| step.after.iter().all(clean)).cloned().collect();
    let all_clean = run.plan.steps.iter().all(|step| is_forward(step) || clean(&step.id));
    if all_clean {
        change.finish(reason);
    }
    for step in &due {
        begin(change, step);
    }
    all_clean || !due.is_empty()
}

fn begin(change: &mut Change, step: &Step) {
    let now = change.now;
    let status = change.status(&step.id);
    status.state = StepState::Running;
    status.tries += 1;
    (status.started, status.ended, status.error) = (Some(now), None, None);
    match &step.action {
        Action::Agent { .. } | Action::Network(_) => send(change, step),
        Action::Internal(internal) => do_internal(change, step, internal),
        Action::Operator(wait) => begin_waiting(change, step, wait),
    }
}

fn send(change: &mut Change, step: &Step) {
    let run = &change.run;
    let Some(key) = run.task_key(&step.id) else { return };
    match resolve(&step.action, run.id, &run.points()) {
        Ok(action) => change.effects.push(Effect::Enqueue {
            key,
            step: step.id.clone(),
            title: step.title.clone(),
            executor: step.executor.clone(),
            action,
            max_attempts: step.max_attempts,
        }),
        Err(error) => {
            let remedy = "Cancel the run and start it again.";
            let problem = Problem::new("STEP_NOT_SENDABLE", step.id.as_str(), error.to_string(), remedy);
            change.failed(step, StepError { problem, unknown: false });
        }
    }
}

fn begin_waiting(change: &mut Change, step: &Step, wait: &OperatorWait) {
    if let OperatorWait::Gate { watched, .. } = wait
        && watched.iter().all(|id| change.run.step_state(id) == StepState::Succeeded)
    {
        change.succeeded(step, StepResult::Done);
        return;
    }
    // Where every item failed there is nothing to commit. After a change, what ran before lies aside, and somebody must decide.
    let failed = change.run.items.values().all(|progress| progress.skipped);
    if *wait == OperatorWait::Commit && failed && change.run.changes.is_empty() {
        let now = change.now;
        let status = change.status(&step.id);
        (status.state, status.ended) = (StepState::Skipped, Some(now));
        return;
    }
    change.run.waited = Some(Watched::since(change.now));
}

fn do_internal(change: &mut Change, step: &Step, internal: &Internal) {
    match internal {
        Internal::RaiseGeneration { item, generation, active, standby } => {
            let (generation, active, standby) = (*generation, active.clone(), standby.clone());
            let switch = ItemChange::SwitchSides { generation, active, standby };
            change.effects.push(Effect::Item { item: item.clone(), change: switch });
            change.succeeded(step, StepResult::Done);
        }
        Internal::SetStandby { item, generation, standby } => {
            let other = ItemChange::SetStandby { generation: *generation, standby: standby.clone() };
            change.effects.push(Effect::Item { item: item.clone(), change: other });
            change.succeeded(step, StepResult::Done);
        }
        Internal::CompareDigests { source, target, .. } => match compare(&change.run, source, target) {
            Ok(()) => change.succeeded(step, StepResult::Done),
            Err(problem) => change.failed(step, StepError { problem, unknown: false }),
        },
        Internal::AwaitFirstPoint { item, standby, generation } => {
            change.effects.push(Effect::AwaitFirstPoint {
                item: item.clone(),
                standby: standby.clone(),
                generation: *generation,
            });
        }
        Internal::EndTests { runs } => end_tests(change, step, runs),
        Internal::Record { .. } => change.succeeded(step, StepResult::Done),
        // Each ends with an event.
        Internal::AwaitLease { .. } | Internal::Delay { .. } => {}
    }
}

/// A test whose machines were to be promoted is kept with what it has when not all of them were.
fn end_tests(change: &mut Change, step: &Step, runs: &BTreeSet<RunId>) {
    if step.after.iter().all(|id| change.run.step_state(id) == StepState::Succeeded) {
        change.effects.push(Effect::EndTests { runs: runs.clone() });
        return;
    }
    let named: Vec<String> = runs.iter().map(|run| format!("jobs/{run}")).collect();
    let message = format!("{} goes on, because not all of its machines could be promoted", named.join(", "));
    let remedy = "Retry this run, which ends the test when all are; or complete the test, which gives up what its machines have written.";
    let problem = Problem::new("TEST_KEPT", step.id.as_str(), message, remedy);
    change.failed(step, StepError { problem, unknown: false });
}

/// The disk roots that a step reported.
pub(super) fn roots<'a>(run: &'a Run, step: &StepName) -> &'a [DiskRoot] {
    match run.steps.get(step).and_then(|status| status.result.as_ref()) {
        Some(StepResult::DiskDigests(disks)) => disks,
        _ => &[],
    }
}

/// Both sides name the same disks, at least one, with the same roots (R-PF-2).
fn compare(run: &Run, source: &StepName, target: &StepName) -> Result<(), Problem> {
    let sorted = |step| {
        let mut disks: Vec<(&str, &str)> =
            roots(run, step).iter().map(|d| (d.disk.as_str(), d.root.as_str())).collect();
        disks.sort_unstable();
        disks
    };
    let (at_source, at_target) = (sorted(source), sorted(target));
    if !at_source.is_empty() && at_source == at_target {
        return Ok(());
    }
    let mut differing: Vec<&str> = at_source
        .iter()
        .filter(|disk| !at_target.contains(disk))
        .chain(at_target.iter().filter(|disk| !at_source.contains(disk)))
        .map(|(disk, _)| *disk)
        .collect();
    differing.sort_unstable();
    differing.dedup();
    let message = format!("source and target do not hold the same bytes: {}", differing.join(", "));
    let remedy = "Retry, which ships and compares again; if that fails, cancel and resynchronise the item.";
    Err(Problem::new("DIGESTS_DIFFER", source.as_str(), message, remedy))
}

/// Why a result that was reported as success is none.
pub(super) fn fault_in(step: &Step, result: &StepResult) -> Option<Problem> {
    let subject = step.id.as_str();
    match result {
        StepResult::Probe { reachable: false, after, seen } => Some(Problem::new(
            "NOT_REACHABLE",
            subject,
            format!("it did not answer as wanted within {:.0} s{}", after.as_secs_f64(), saw(seen)),
            "Look at the machine's console and at its network.",
        )),
        StepResult::Isolation { answered, .. } if !answered.is_empty() => {
            let answered: Vec<String> = answered.iter().map(ToString::to_string).collect();
            let message = format!("from inside the test network these answered: {}", answered.join(", "));
            let remedy = "Find what connects the test network with production before testing again.";
            Some(Problem::new("NOT_ISOLATED", subject, message, remedy))
        }
        StepResult::Script { exit_code, output, .. } if *exit_code != 0 => {
            Some(script_failed(step, *exit_code, output))
        }
        _ if is_expected(&step.action, result) => None,
        _ => {
            let message = "the worker reported success with a result that does not belong to this step";
            let remedy = "Bring the worker to the version of the control plane, then retry.";
            Some(Problem::new("UNEXPECTED_RESULT", subject, message, remedy))
        }
    }
}

fn saw(seen: &str) -> String {
    if seen.is_empty() { String::new() } else { format!(": {seen}") }
}

fn script_failed(step: &Step, exit_code: i32, output: &str) -> Problem {
    let said = last_lines(output, SHOWN_OF_OUTPUT);
    let said =
        if said.is_empty() { "it wrote nothing".to_owned() } else { format!("it ended with:\n{said}") };
    let message = format!("the script ended with exit code {exit_code}; {said}");
    let remedy = "Look at what the script wrote, put right what it met, then retry: the script runs again from its beginning.";
    Problem::new(SCRIPT_FAILED, step.id.as_str(), message, remedy)
}

/// The end of a text: whole lines, at most so many bytes of them, or the end of the last line when that alone is longer.
pub(super) fn last_lines(text: &str, most: usize) -> &str {
    let text = text.trim_end();
    let from = text.ceil_char_boundary(text.len().saturating_sub(most));
    let cut = &text[from..];
    match cut.find('\n') {
        Some(line) if from > 0 && !text[..from].ends_with('\n') => &cut[line + 1..],
        _ => cut,
    }
}

fn is_expected(action: &Action, result: &StepResult) -> bool {
    let Action::Agent { work, .. } = action else { return true };
    match work {
        AgentWork::ShutDownMachine { .. } => matches!(result, StepResult::MachineStopped { .. }),
        AgentWork::SyncFinal { .. } => matches!(result, StepResult::FinalPoint { .. }),
        AgentWork::DigestDisks { .. } | AgentWork::VerifyPoint { .. } => {
            matches!(result, StepResult::DiskDigests(_))
        }
        AgentWork::CreateTestMachine { .. }
        | AgentWork::PromotePoint { .. }
        | AgentWork::PromoteTest { .. } => {
            matches!(result, StepResult::MachineCreated { .. })
        }
        AgentWork::StartMachine { .. } | AgentWork::StartInBoot { .. } => {
            matches!(result, StepResult::MachineStarted { .. })
        }
        AgentWork::ProbeMachine { .. } => matches!(result, StepResult::Probe { .. }),
        AgentWork::TakeScreenshot { .. } => {
            matches!(result, StepResult::Screenshot { .. } | StepResult::NoScreenshot { .. })
        }
        AgentWork::ProbeIsolation { .. } | AgentWork::ProbeExistingNetwork(_) => {
            matches!(result, StepResult::Isolation { .. })
        }
        AgentWork::AdoptDisks { .. } => matches!(result, StepResult::Adopted { .. }),
        AgentWork::RunScript(_) => matches!(result, StepResult::Script { .. }),
        _ => true,
    }
}

impl Change {
    /// The run ends: its items are let go, in the state that belongs to how it ended.
    pub fn finish(&mut self, reason: EndReason) {
        let items: Vec<_> = self.run.items.keys().cloned().collect();
        for item in items {
            if reason == EndReason::Cancelled {
                self.item_verb(&item, verb_of_cancel(&self.run, &item));
            }
            let change = if self.run.plan.operation == Operation::TestFailover {
                ItemChange::ReleaseTest(self.run.id)
            } else {
                ItemChange::ReleaseRun(self.run.id)
            };
            self.effects.push(Effect::Item { item, change });
        }
        let state = final_state(&self.run, reason);
        self.run.ended = Some(Ended { state, at: self.now });
    }
}

/// What a cancelled run leaves its item in: what it was in before.
fn verb_of_cancel(run: &Run, item: &understudy_ids::ItemName) -> Verb {
    match (run.plan.operation, run.plan.item(item).map(|planned| planned.state)) {
        (Operation::Protect, _) => Verb::ProtectCancelled,
        (Operation::ReverseReplicate, _) => Verb::ReverseReplicationFailed,
        // An item whose copy is whole stays protected.
        (Operation::Failback, _) if run.copies() => Verb::ReverseReplicationFailed,
        (Operation::Failback, _) if run.spec.copies_while_off() => Verb::ReturnedNotProtected,
        (Operation::Failback, _) => Verb::ReturnedProtected,
        (_, Some(ItemState::NotProtected)) => Verb::ReturnedNotProtected,
        (_, Some(ItemState::Failed)) => Verb::RunFailed,
        _ => Verb::ReturnedProtected,
    }
}

fn final_state(run: &Run, reason: EndReason) -> RunState {
    match reason {
        EndReason::Cancelled => RunState::Cancelled,
        EndReason::Failed => RunState::Failed,
        EndReason::GivenUp => RunState::CompletedWithErrors,
        EndReason::Finished if run.is_rolling_back() => RunState::RolledBack,
        EndReason::Finished if run.steps.values().any(|status| status.state == StepState::Failed) => {
            RunState::CompletedWithErrors
        }
        EndReason::Finished => RunState::Succeeded,
    }
}
