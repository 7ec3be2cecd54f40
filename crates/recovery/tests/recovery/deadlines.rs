//! Runs that wait for a person for too long (R-TF-6, R-FO-4).

use std::time::Duration;

use understudy_ids::Problem;
use understudy_recovery::{
    Event, Operation, RunSpec, advance,
    plan::plan,
    run::{self, Deadline, DeadlineAction, Due, RunState, RunVerb, time_left},
};

use crate::{
    runs::theatre,
    theatre::Theatre,
    world::{input, spec},
};

const HOUR: Duration = Duration::from_secs(3600);
const LIMIT: Duration = Duration::from_secs(14 * 86_400);

fn with_deadline(operation: Operation, action: DeadlineAction) -> Theatre {
    let spec = RunSpec { deadline: Some(Deadline { action, after: 4 * HOUR }), ..spec(operation) };
    let mut theatre = Theatre::new(plan(&spec, &input(operation)).unwrap(), spec);
    assert_eq!(time_left(&theatre.run, LIMIT), None, "it does not wait yet");
    theatre.until_quiet();
    theatre
}

/// An hour passes, and is watched.
fn hour(theatre: &mut Theatre) {
    theatre.tick(3600);
    theatre.tell(&Event::TimePassed { elapsed: HOUR, at: theatre.now });
}

/// R-FO-4: shown while it waits, due when it has waited for so long, and not before.
#[test]
fn a_failover_is_due_when_it_has_waited_for_so_long() {
    for action in [DeadlineAction::Commit, DeadlineAction::RollBack] {
        let mut theatre = with_deadline(Operation::PlannedFailover, action);
        assert!(run::waiting_for(&theatre.run).contains("by itself when it has waited for 4 h"));
        let sequence = theatre.run.sequence;
        for left in [3, 2, 1, 0] {
            hour(&mut theatre);
            assert_eq!(time_left(&theatre.run, LIMIT), Some((Due::Deadline(action), left * HOUR)));
        }
        assert_eq!(theatre.run.sequence, sequence, "time that passes is no news to the job");
        theatre.ask(RunVerb::Commit);
        assert_eq!(time_left(&theatre.run, LIMIT), None);
    }
}

/// R-FO-4: changed and cancelled while it waits. What was waited counts.
#[test]
fn a_deadline_can_be_changed_and_cancelled() {
    let mut theatre = with_deadline(Operation::UnplannedFailover, DeadlineAction::Commit);
    hour(&mut theatre);
    let later = Deadline { action: DeadlineAction::RollBack, after: 6 * HOUR };
    theatre.tell(&Event::DeadlineSet { deadline: Some(later), by: "bob".to_owned(), at: theatre.now });
    let due = Due::Deadline(DeadlineAction::RollBack);
    assert_eq!(time_left(&theatre.run, LIMIT), Some((due, 5 * HOUR)));
    theatre.tell(&Event::DeadlineSet { deadline: None, by: "bob".to_owned(), at: theatre.now });
    assert_eq!(time_left(&theatre.run, LIMIT), None);
    assert_eq!(run::waiting_for(&theatre.run), "Check the machines, then commit.");
    theatre.ask(RunVerb::Commit);
    theatre.until_quiet();
    assert_eq!(run::state(&theatre.run), RunState::Succeeded);
    let event = Event::DeadlineSet { deadline: None, by: "bob".to_owned(), at: theatre.now };
    assert_eq!(advance(&theatre.run, &event).unwrap_err().reason, "it has ended");
}

/// R-FO-4: the wait begins anew with another machine.
#[test]
fn another_point_is_waited_with_anew() {
    let mut theatre = with_deadline(Operation::UnplannedFailover, DeadlineAction::Commit);
    hour(&mut theatre);
    theatre.ask(RunVerb::ChangePoint);
    assert_eq!(time_left(&theatre.run, LIMIT), None);
    hour(&mut theatre);
    theatre.until_quiet();
    assert_eq!(time_left(&theatre.run, LIMIT).unwrap().1, 4 * HOUR);
}

/// R-FO-4: a roll-back that is not possible when it is due leaves the run waiting, says so, and is not tried over and over.
#[test]
fn a_deadline_that_cannot_be_kept_is_told_and_given_up() {
    let mut theatre = with_deadline(Operation::UnplannedFailover, DeadlineAction::RollBack);
    for _ in 0..4 {
        hour(&mut theatre);
    }
    let why = Problem::new("OLD_SIDE_NOT_HEARD", "protectedItems/web1", "alpha is silent", "Repair it.");
    theatre.tell(&Event::DeadlineFailed { problems: vec![why.clone()], at: theatre.now });
    assert_eq!(run::state(&theatre.run), RunState::Waiting);
    assert!(run::waiting_for(&theatre.run).ends_with("which could not be done: alpha is silent"));
    assert_eq!((run::problems(&theatre.run), time_left(&theatre.run, LIMIT)), (vec![why], None));
    assert!(run::allowed_actions(&theatre.run).contains(&RunVerb::SetDeadline));
}

/// R-TF-6: a test is counted in the same way, and takes no deadline of its own.
#[test]
fn a_forgotten_test_is_due_after_its_limit() {
    let mut theatre = theatre(Operation::TestFailover);
    theatre.until_quiet();
    assert_eq!(time_left(&theatre.run, LIMIT), Some((Due::EndTest, LIMIT)));
    hour(&mut theatre);
    assert_eq!(time_left(&theatre.run, LIMIT).unwrap().1, LIMIT - HOUR);
    let refused = RunSpec {
        deadline: Some(Deadline { action: DeadlineAction::Commit, after: HOUR }),
        ..spec(Operation::TestFailover)
    };
    let problems = plan(&refused, &input(Operation::TestFailover)).unwrap_err();
    assert_eq!(problems[0].subject, "spec.deadline");
    assert_eq!(problems[0].reason, "OPTION_NOT_APPLICABLE");
}
