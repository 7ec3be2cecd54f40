//! Every step of every operation: done, done twice, failed, its outcome unknown in both ways, never answered; then retried or cancelled.
//!
//! The theatre checks after each event that no item runs twice, that only listed transitions happen, that generations only grow
//! and that no task is sent twice under one key (invariants 1, 3, 4, 10). Here it is checked that the step was reached, that the
//! run ends, and what it leaves.

use understudy_recovery::{
    ItemState, Operation, RunSpec,
    plan::{Executor, Stage, Step, Synchronise},
    run::{self, RunState, RunVerb},
};

use crate::{
    runs::{theatre, theatre_of},
    theatre::{Act, Theatre, approval},
    world::{bravo, on_lab, ways},
};

const ACTS: [Act; 6] =
    [Act::Succeed, Act::Twice, Act::Fail, Act::UnknownUndone, Act::UnknownDone, Act::Silence];

/// Of the run as it is when nothing goes wrong, with the steps that it gets on its way.
fn sent_steps(way: &RunSpec, stages: &[Stage]) -> Vec<Step> {
    let mut theatre = theatre_of(way.clone());
    theatre.play_to_the_end(RunVerb::Retry, |_, _| Act::Succeed);
    let sent = |step: &Step| matches!(step.executor, Executor::Host(_) | Executor::NetworkMapper);
    let steps = theatre.run.plan.steps.into_iter();
    steps.filter(|step| sent(step) && stages.contains(&step.stage)).collect()
}

/// What every end has in common.
pub fn assert_in_order(theatre: &Theatre, operation: Operation, context: &str) {
    theatre.assert_clean();
    for (name, record) in &theatre.records {
        let machine = name.as_str().parse().unwrap();
        let runs = theatre.hosts[&record.active].running.contains(&machine);
        let failed = operation == Operation::UnplannedFailover && record.state == ItemState::Failed;
        let dead = theatre.hosts[&record.active].dead;
        assert!(runs || failed || dead, "{context}: {name} is {} and runs nowhere", record.state);
        let replicated = theatre.hosts.values().any(|host| host.replicating.contains(name));
        let resting = match record.state {
            ItemState::Protected => replicated || dead,
            ItemState::NotProtected | ItemState::Removed => !replicated,
            ItemState::Failed => failed,
            _ => false,
        };
        assert!(resting, "{context}: {name} is left {}, replicated: {replicated}", record.state);
    }
}

#[test]
fn every_step_may_be_repeated_fail_or_be_unknown_and_the_run_still_ends_in_order() {
    let mut cases = 0;
    for way in ways() {
        let operation = way.operation;
        for step in sent_steps(&way, &[Stage::Main, Stage::AfterCommit]) {
            for act in ACTS {
                for at_error in [RunVerb::Retry, RunVerb::Cancel] {
                    let context = format!("{}: {act:?} at {}, then {at_error}", named(&way), step.id);
                    let mut theatre = theatre_of(way.clone());
                    let reached = theatre.play_to_the_end_with(&step.id, act, at_error);
                    assert!(reached, "{context}: the step was not reached");
                    assert_in_order(&theatre, operation, &context);
                    assert_end(&theatre, &step, act, at_error, &context);
                    cases += 1;
                }
            }
        }
    }
    assert!(cases > 1000, "{cases} cases");
}

/// R-PF-3, R-TF-5, R-UF-4: how it ends follows from the step's error policy and from what the operator did.
fn assert_end(theatre: &Theatre, step: &Step, act: Act, at_error: RunVerb, context: &str) {
    use understudy_recovery::plan::ErrorPolicy::*;
    let operation = theatre.run.plan.operation;
    let faultless = matches!(act, Act::Succeed | Act::Twice);
    let cancelled = at_error == RunVerb::Cancel && !step.point_of_no_return;
    let expected = match step.on_error {
        _ if faultless => RunState::Succeeded,
        GoOn | SkipItem => RunState::CompletedWithErrors,
        StopRun if operation == Operation::TestFailover => RunState::Failed,
        StopRun if cancelled => RunState::Cancelled,
        StopRun => RunState::Succeeded,
    };
    assert_eq!(run::state(&theatre.run), expected, "{context}");
    let errors = run::report(&theatre.run).problems.len();
    let hidden = expected == RunState::Succeeded || errors > 0;
    assert!(hidden, "{context}: the report does not tell of the error");
}

fn named(way: &RunSpec) -> String {
    format!("{} {:?}", way.operation, way.synchronise)
}

/// A step that lets clean-up begin with as much to clean up as possible, the step in question among it.
fn last_before_cancel(way: &RunSpec, step: &Step) -> &'static str {
    let takes_back_copy = step.id.as_str().contains(".copy-");
    match way.operation {
        Operation::Failback if takes_back_copy && way.synchronise == Synchronise::Before => {
            "db1.copy-start-reverse"
        }
        Operation::Failback => "db1.stop-replication",
        Operation::Protect => "db1.start-replication",
        Operation::Unprotect | Operation::PlannedFailover => "db1.stop-replication",
        Operation::TestFailover => "db1.set-records",
        Operation::UnplannedFailover => "reserve-addresses",
        Operation::ReverseReplicate => "db1.start-reverse",
    }
}

/// Invariant 6: what cannot be cleaned up is listed, can be retried, and can be given up by a person.
#[test]
fn every_clean_up_step_may_fail_and_is_retried_or_given_up_on_record() {
    let mut cases = 0;
    for way in ways() {
        let operation = way.operation;
        let clean_up = sent_steps(&way, &[Stage::Undo, Stage::Cleanup]);
        for step in clean_up.into_iter().filter(|step| !step.point_of_no_return) {
            let before = last_before_cancel(&way, &step);
            for act in ACTS {
                for at_error in [RunVerb::Retry, RunVerb::Cancel] {
                    let context = format!("{}: {act:?} at {}, then {at_error}", named(&way), step.id);
                    let mut theatre = theatre_of(way.clone());
                    let mut hit_before = operation == Operation::UnplannedFailover;
                    while !hit_before {
                        if theatre.queue.is_empty() && !theatre.first_points_arrive() {
                            theatre.ask(approval(&run::allowed_actions(&theatre.run)).unwrap());
                        }
                        let Some(next) = theatre.queue.front() else { continue };
                        hit_before = next.step.as_str() == before;
                        theatre.perform(if hit_before { Act::UnknownDone } else { Act::Succeed });
                    }
                    theatre.ask(RunVerb::Cancel);
                    let reached = theatre.play_to_the_end_with(&step.id, act, at_error);
                    assert!(reached, "{context}: the step was not reached");
                    cases += 1;
                    let faultless = matches!(act, Act::Succeed | Act::Twice);
                    if faultless || at_error == RunVerb::Retry {
                        assert_in_order(&theatre, operation, &context);
                    } else {
                        let error = theatre.run.steps[&step.id].error.is_some();
                        assert!(error, "{context}: given up, and not on record");
                        assert!(theatre.records.values().all(|r| !r.held && !r.tested), "{context}");
                    }
                }
            }
        }
    }
    assert!(cases > 150, "{cases} cases");
}

/// R-TF-5: a test that fails or is cancelled at any step is cleaned up without being asked.
#[test]
fn a_test_may_be_cancelled_at_any_moment() {
    for moment in 0..14 {
        let mut theatre = theatre(Operation::TestFailover);
        theatre.perform_up_to(moment);
        theatre.ask(RunVerb::Cancel);
        theatre.until_quiet();
        assert_eq!(run::state(&theatre.run), RunState::Cancelled, "after {moment} steps");
        theatre.assert_clean();
    }
}

/// R-TF-5, R-TF-9: the same on a network that was there before, also where a step of it fails, is done twice or gives no answer: nothing of
/// the test stays on it.
#[test]
fn a_test_on_an_existing_network_leaves_nothing_on_it_whatever_happens() {
    let fresh = || {
        let (spec, facts) = on_lab();
        Theatre::new(understudy_recovery::plan::plan(&spec, &facts).unwrap(), spec)
    };
    for moment in 0..12 {
        let mut theatre = fresh();
        theatre.perform_up_to(moment);
        theatre.ask(RunVerb::Cancel);
        theatre.until_quiet();
        assert_eq!(run::state(&theatre.run), RunState::Cancelled, "after {moment} steps");
        theatre.assert_clean();
    }
    for step in ["reserve-addresses", "prove-isolation-0", "web1.start", "remove-port-0", "release-addresses"]
    {
        for act in ACTS {
            let mut theatre = fresh();
            let reached = theatre.play_to_the_end_with(&step.parse().unwrap(), act, RunVerb::Retry);
            assert!(reached, "{step} was not reached");
            theatre.assert_clean();
        }
    }
}

/// R-PF-3: cancelling is possible before the point of no return and leaves the source running; from then on it is refused.
#[test]
fn a_planned_failover_may_be_cancelled_until_its_point_of_no_return() {
    let mut refused = 0;
    for moment in 0..24 {
        let mut theatre = theatre(Operation::PlannedFailover);
        theatre.perform_up_to(moment);
        let switched = theatre.records.values().any(|record| record.active == bravo());
        let may = run::allowed_actions(&theatre.run).contains(&RunVerb::Cancel);
        assert_eq!(may, !switched, "after {moment} steps");
        if switched {
            refused += 1;
            continue;
        }
        theatre.ask(RunVerb::Cancel);
        theatre.until_quiet();
        assert_eq!(run::state(&theatre.run), RunState::Cancelled, "after {moment} steps");
        assert_in_order(&theatre, Operation::PlannedFailover, "cancelled");
        assert!(theatre.records.values().all(|record| record.state == ItemState::Protected));
        for (undo, of) in [("web1.restart", "web1.shut-down"), ("db1.restart", "db1.shut-down")] {
            let begun = theatre.run.steps[&of.parse().unwrap()].tries > 0;
            let undone = theatre.done.iter().any(|done| done.as_str() == undo);
            assert_eq!(
                undone, begun,
                "after {moment} steps: {undo} takes back what was begun, and nothing else"
            );
        }
    }
    assert!((1..23).contains(&refused), "both sides of the point of no return were seen");
}

/// R-PF-3, invariant 7: between two tries the source may have been started and have written. A retry ships and compares again.
#[test]
fn a_retry_before_the_switch_builds_on_nothing_that_was_compared_before() {
    let mut theatre = theatre(Operation::PlannedFailover);
    theatre.play(|step, _| if step.as_str() == "db1.verify" { Act::Fail } else { Act::Succeed });
    theatre.done.clear();
    theatre.ask(RunVerb::Retry);
    theatre.until_quiet();
    for step in ["web1.shut-down", "web1.sync-final", "web1.digest", "web1.verify", "db1.verify"] {
        assert!(theatre.done.iter().any(|done| done.as_str() == step), "{step} was not repeated");
    }
    assert!(!theatre.done.iter().any(|done| done.as_str() == "reserve-addresses"), "that holds");
}

/// Invariant 16: a success that is told after the step was given up on is no success of its retry.
#[test]
fn an_answer_to_an_earlier_try_is_no_answer_to_this_one() {
    let mut theatre = theatre(Operation::Protect);
    let late = theatre.queue.front().unwrap().key.clone();
    theatre.perform(Act::Silence);
    theatre.until_quiet();
    theatre.ask(RunVerb::Retry);
    let result = understudy_recovery::action::StepResult::Done;
    let event = understudy_recovery::Event::StepSucceeded { key: late, result, at: theatre.now };
    let (after, effects) = understudy_recovery::advance(&theatre.run, &event).unwrap();
    assert_eq!((after, effects.len()), (theatre.run.clone(), 0));
}
