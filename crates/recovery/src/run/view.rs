//! How a run looks from outside.

use std::{collections::BTreeSet, net::Ipv4Addr};

use understudy_ids::{ItemName, PlanPartName, Problem, StepName};

use super::{
    Course, EndReason, JobState, JobView, Refusal, Run, RunState, RunVerb, StepState, deadline, report,
    settle,
};
use crate::{
    action::{Action, AgentWork, Internal, OperatorWait, RecordDone, StepResult},
    plan::{Executor, Operation, Phase, Step},
};

/// The most of a line of a script's output that is an outcome, in bytes.
const MAX_LINE: usize = 200;
/// The most of a script's output that is shown, in bytes: a report holds that of every script of a run, and is bounded itself.
const MAX_OUTPUT: usize = 4096;

/// Where the run stands.
pub fn state(run: &Run) -> RunState {
    if let Some(ended) = run.ended {
        return ended.state;
    }
    match run.course {
        Course::Ending(_) if run.is_clean_up_incomplete() => RunState::Failed,
        Course::Ending(_) => RunState::CleaningUp,
        Course::Halted if run.has_work_on_its_way() => RunState::Running,
        Course::Halted => RunState::Failed,
        Course::Forward if operator_wait(run).is_some() => RunState::Waiting,
        Course::Forward => RunState::Running,
    }
}

/// What the run waits for a person to say.
pub(super) fn operator_wait(run: &Run) -> Option<&OperatorWait> {
    run.plan.steps.iter().find_map(|step| match &step.action {
        Action::Operator(wait) if run.step_state(&step.id) == StepState::Running => Some(wait),
        _ => None,
    })
}

/// What an operator may ask of the run now.
pub fn allowed_actions(run: &Run) -> Vec<RunVerb> {
    RunVerb::ALL.into_iter().filter(|verb| is_allowed(run, *verb)).collect()
}

/// What the run takes now, if `verb` is of it.
pub(super) fn admitted(run: &Run, verb: RunVerb) -> Result<Vec<RunVerb>, Refusal> {
    let allowed = allowed_actions(run);
    if allowed.contains(&verb) {
        Ok(allowed)
    } else {
        Err(Refusal { verb, reason: why_not(run, verb), allowed })
    }
}

fn is_allowed(run: &Run, verb: RunVerb) -> bool {
    if !run.is_open() {
        return false;
    }
    let forward = run.course == Course::Forward;
    match verb {
        RunVerb::CompleteTest => forward && operator_wait(run) == Some(&OperatorWait::CompleteTest),
        RunVerb::CompleteFailover => forward && operator_wait(run) == Some(&OperatorWait::CompleteFailover),
        RunVerb::Confirm => forward && operator_wait(run).is_some_and(OperatorWait::is_confirmed),
        RunVerb::Reject => forward && operator_wait(run).is_some_and(OperatorWait::may_be_rejected),
        RunVerb::Commit | RunVerb::RollBack | RunVerb::SetDeadline => {
            forward && operator_wait(run) == Some(&OperatorWait::Commit)
        }
        RunVerb::ChangePoint => {
            let unplanned = run.plan.operation == Operation::UnplannedFailover;
            unplanned && forward && operator_wait(run) == Some(&OperatorWait::Commit)
        }
        RunVerb::Retry => state(run) == RunState::Failed || has_items_to_try_again(run),
        RunVerb::Cancel => match run.course {
            Course::Ending(_) => run.is_clean_up_incomplete(),
            _ if run.is_rolling_back() => state(run) == RunState::Failed,
            _ => !settle::passed_point_of_no_return(run) || only_reverse_replication_left(run),
        },
    }
}

/// An unplanned failover waits for its commit, and some of its items failed.
fn has_items_to_try_again(run: &Run) -> bool {
    run.plan.operation == Operation::UnplannedFailover
        && operator_wait(run) == Some(&OperatorWait::Commit)
        && run.items.values().any(|progress| progress.skipped)
}

/// The failover is final; what remains can be given up and done later.
fn only_reverse_replication_left(run: &Run) -> bool {
    let unfinished = |step: &&Step| {
        settle::is_forward(step)
            && matches!(run.step_state(&step.id), StepState::Pending | StepState::Running)
    };
    let mut left = run.plan.steps.iter().filter(unfinished).peekable();
    run.course == Course::Forward && left.peek().is_some() && left.all(|step| step.phase == Phase::Reverse)
}

/// Why the run does not take a verb, for people.
pub(crate) fn why_not(run: &Run, verb: RunVerb) -> String {
    if !run.is_open() {
        return "it has ended".to_owned();
    }
    match verb {
        RunVerb::ChangePoint if run.plan.operation != Operation::UnplannedFailover => {
            format!("a {} has one point only, which nothing was lost with", run.plan.operation)
        }
        RunVerb::CompleteTest
        | RunVerb::CompleteFailover
        | RunVerb::Commit
        | RunVerb::Confirm
        | RunVerb::Reject
        | RunVerb::ChangePoint
        | RunVerb::RollBack
        | RunVerb::SetDeadline => {
            format!("it does not wait for that; it is {}", state(run))
        }
        RunVerb::Retry => format!("nothing has failed that could be tried again; it is {}", state(run)),
        RunVerb::Cancel if matches!(run.course, Course::Ending(_)) => "it is ending already".to_owned(),
        RunVerb::Cancel if run.is_rolling_back() => "it is rolling back, and has not stopped".to_owned(),
        RunVerb::Cancel => "it has passed its point of no return".to_owned(),
    }
}

/// What is being done now, for people.
pub fn phase(run: &Run) -> String {
    if let Some(ended) = run.ended {
        return ended.state.to_string();
    }
    match run.course {
        Course::Ending(_) if run.is_clean_up_incomplete() => "clean-up incomplete".to_owned(),
        Course::Ending(_) => Phase::CleanUp.to_string(),
        Course::Halted => "stopped at an error".to_owned(),
        Course::Forward => {
            let running = run.plan.steps.iter().filter(|s| run.step_state(&s.id) == StepState::Running);
            running.map(|step| step.phase).min().map_or_else(String::new, |phase| phase.to_string())
        }
    }
}

/// Whom or what the run waits for, with what to do; empty when it does not wait.
pub fn waiting_for(run: &Run) -> String {
    if state(run) == RunState::Failed && run.is_open() {
        let what =
            if run.is_clean_up_incomplete() { "Clean-up is incomplete" } else { "Stopped at an error" };
        let verbs: Vec<&str> = allowed_actions(run).into_iter().map(RunVerb::as_str).collect();
        return format!("{what}: {}.", verbs.join(" or "));
    }
    if run.course != Course::Forward {
        return String::new();
    }
    match operator_wait(run) {
        Some(OperatorWait::CompleteTest) => {
            return "Try the test machines, then complete the test.".to_owned();
        }
        Some(OperatorWait::CompleteFailover) => {
            return "The copies are whole and kept current: complete the failover, or cancel.".to_owned();
        }
        Some(OperatorWait::Commit) if run.items.values().all(|progress| progress.skipped) => {
            return "No machine runs at the target: retry, choose another recovery point, or roll back."
                .to_owned();
        }
        Some(OperatorWait::Commit) if has_items_to_try_again(run) => {
            let what = "Check the machines, then commit; or retry the items that failed.";
            return what.to_owned() + &deadline::in_words(run);
        }
        Some(OperatorWait::Commit) => {
            return "Check the machines, then commit.".to_owned() + &deadline::in_words(run);
        }
        Some(OperatorWait::DeliverSeed) => return deliver_seed(run),
        Some(OperatorWait::Manual { name, instructions }) => {
            return format!("{name}: {instructions} Then confirm, or reject.");
        }
        Some(OperatorWait::Gate { group, watched }) => return at_gate(run, group, watched),
        None => {}
    }
    let lasts = |step: &&Step| {
        use Internal::{AwaitLease, Delay};
        let waits = matches!(step.action, Action::Internal(AwaitLease { .. } | Delay { .. }));
        waits && run.step_state(&step.id) == StepState::Running
    };
    if let Some(step) = run.plan.steps.iter().find(lasts) {
        return format!("{}.", step.title);
    }
    let awaited = run.plan.steps.iter().find_map(|step| match &step.action {
        Action::Internal(Internal::AwaitFirstPoint { item, standby, .. })
            if run.step_state(&step.id) == StepState::Running =>
        {
            Some(format!("The first recovery point of {item} at {standby}."))
        }
        _ => None,
    });
    if run.has_work_on_its_way() { String::new() } else { awaited.unwrap_or_default() }
}

/// Items whose machines did not come up or do not answer.
fn at_gate(run: &Run, group: &PlanPartName, watched: &BTreeSet<StepName>) -> String {
    let missing =
        |step: &&Step| watched.contains(&step.id) && run.step_state(&step.id) != StepState::Succeeded;
    let items = run.plan.steps.iter().filter(missing).filter_map(|step| step.item.as_ref());
    let items: BTreeSet<&str> = items.map(ItemName::as_str).collect();
    let items: Vec<&str> = items.into_iter().collect();
    format!(
        "Of group {group}, {} did not come up or does not answer. Look at it, then confirm that the run goes on, or reject.",
        items.join(", ")
    )
}

fn deliver_seed(run: &Run) -> String {
    let exported = run.plan.steps.iter().find_map(|step| match (&step.action, &step.executor) {
        (Action::Agent { work: AgentWork::ExportSeed { seed, .. }, .. }, Executor::Host(host)) => {
            Some((seed, host))
        }
        _ => None,
    });
    let Some((seed, host)) = exported else { return String::new() };
    format!(
        "Carry the directory {seed} from the seed_dir of {host} to that of the target's host, then confirm."
    )
}

/// Share of the steps that have ended. Clean-up steps count once they are known to be needed. 0 to 100; 100 only at the end.
pub fn progress_percent(run: &Run) -> u32 {
    if run.ended.is_some() {
        return 100;
    }
    let counts = |step: &&Step| match run.course {
        Course::Ending(reason) => settle::is_forward(step) || run.is_to_be_cleaned(step, reason),
        _ => settle::is_forward(step),
    };
    let counted: Vec<&Step> = run.plan.steps.iter().filter(counts).collect();
    let ended = counted
        .iter()
        .filter(|step| !matches!(run.step_state(&step.id), StepState::Pending | StepState::Running))
        .count();
    let percent = ended * 100 / counted.len().max(1);
    u32::try_from(percent).unwrap_or(99).min(99)
}

/// Every error of the run's steps, in the plan's order, and why a deadline was not kept. A step that was repeated successfully has none.
pub fn problems(run: &Run) -> Vec<Problem> {
    let errors = run.plan.steps.iter().filter_map(|step| run.steps.get(&step.id)?.error.as_ref());
    let not_kept = run.deadline.iter().flat_map(|set| &set.failed);
    errors.map(|error| &error.problem).chain(not_kept).cloned().collect()
}

/// What came of a step, for people; empty while there is nothing to tell.
pub fn step_outcome(run: &Run, step: &StepName) -> String {
    let Some(status) = run.steps.get(step) else { return String::new() };
    if let Some(error) = &status.error {
        let doubt = if error.unknown { " (what became of it is not known)" } else { "" };
        return format!("{}{doubt}", error.problem.message);
    }
    match &status.result {
        None | Some(StepResult::Done) => String::new(),
        Some(StepResult::MachineStopped { by_guest: true, .. }) => "guest shut down by itself".to_owned(),
        Some(StepResult::MachineStopped { by_guest: false, .. }) => "powered off, or off already".to_owned(),
        Some(StepResult::FinalPoint { seq, sent_bytes, .. }) => {
            format!("recovery point {seq}, {sent_bytes} bytes sent")
        }
        Some(StepResult::DiskDigests(disks)) => format!("{} disks read", disks.len()),
        Some(StepResult::MachineCreated { machine, seq, .. }) => {
            format!("{machine} made from recovery point {seq}")
        }
        Some(StepResult::MachineStarted { .. }) => "started".to_owned(),
        Some(StepResult::Probe { after, seen, .. }) => {
            let answered = format!("answered after {:.1} s", after.as_secs_f64());
            if seen.is_empty() { answered } else { format!("{answered}: {seen}") }
        }
        Some(StepResult::Screenshot { bytes }) => format!("{bytes} bytes, kept with the run"),
        Some(StepResult::NoScreenshot { why }) => format!("none: {why}"),
        Some(StepResult::Isolation { tried, .. }) => {
            format!("none of {} addresses outside answered", tried.len())
        }
        Some(StepResult::Adopted { seq, bytes_read }) => {
            format!("kept as base {seq}, {bytes_read} bytes read")
        }
        Some(StepResult::Seeded { bytes }) => format!("{bytes} bytes"),
        Some(StepResult::Released { addresses, test_networks }) => {
            format!("{addresses} addresses and {test_networks} test networks released")
        }
        Some(StepResult::Records(done)) => done.iter().map(record_done).collect::<Vec<_>>().join("; "),
        Some(StepResult::HookCalled { status }) => format!("answered {status}"),
        Some(StepResult::Confirmed { by }) => format!("confirmed by {by}"),
        Some(StepResult::FirstPoint { seq }) => format!("recovery point {seq} is there"),
        Some(StepResult::Script { exit_code, output, .. }) => match settle::last_lines(output, MAX_LINE) {
            "" => format!("exit code {exit_code}"),
            lines => format!("exit code {exit_code}: {}", lines.lines().next_back().unwrap_or_default()),
        },
    }
}

fn record_done(done: &RecordDone) -> String {
    let text = |addresses: &[Ipv4Addr]| {
        let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        if all.is_empty() { "no address".to_owned() } else { all.join(", ") }
    };
    let RecordDone { name, before, after } = done;
    match before == after {
        true => format!("{name} has {}", text(after)),
        false => format!("{name} has {}, before {}", text(after), text(before)),
    }
}

/// The end of what a script wrote, whether it succeeded or not, with a word about what is left out; empty for every other step.
pub fn step_output(run: &Run, step: &StepName) -> String {
    let Some(status) = run.steps.get(step) else { return String::new() };
    // What an earlier try wrote says nothing about one that is under way or was cut off.
    let is_its_own = match &status.error {
        Some(error) => error.problem.reason == settle::SCRIPT_FAILED,
        None => status.state == StepState::Succeeded,
    };
    match &status.result {
        Some(StepResult::Script { output, truncated, .. }) if is_its_own => {
            let shown = settle::last_lines(output, MAX_OUTPUT);
            if *truncated || shown.len() < output.trim_end().len() {
                format!("…\n{shown}")
            } else {
                shown.to_owned()
            }
        }
        _ => String::new(),
    }
}

/// The run's job. A run that waits for retry or cancel has not ended, so its job waits, too: an ended job never goes on.
pub fn job_view(run: &Run) -> JobView {
    let cancelling = run.course == Course::Ending(EndReason::Cancelled) || run.is_rolling_back();
    let state = match (run.ended.is_some(), state(run)) {
        (_, RunState::Succeeded) => JobState::Succeeded,
        (_, RunState::CompletedWithErrors) => JobState::CompletedWithErrors,
        (_, RunState::Cancelled | RunState::RolledBack) => JobState::Cancelled,
        (true, RunState::Failed) => JobState::Failed,
        (false, RunState::Failed) | (_, RunState::Waiting) => JobState::Waiting,
        (_, RunState::CleaningUp) if cancelling => JobState::Cancelling,
        (_, RunState::Running) if run.is_rolling_back() => JobState::Cancelling,
        (_, RunState::CleaningUp | RunState::Running) => JobState::Running,
    };
    JobView {
        sequence: run.sequence,
        state,
        phase: phase(run),
        waiting_for: waiting_for(run),
        allowed_actions: allowed_actions(run),
        problems: problems(run),
        progress_percent: progress_percent(run),
        report: run.ended.map(|_| report(run)),
    }
}
