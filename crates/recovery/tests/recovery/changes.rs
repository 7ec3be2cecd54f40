//! Another recovery point and the way back, while a run waits for its commit (R-FO-4): what they do, when they are refused, and every
//! step of them done twice, failed, its outcome unknown in both ways, never answered.

use std::time::Duration;

use understudy_ids::{Generation, PointChoice, PointSeq};
use understudy_recovery::{
    Event, ItemState, Operation, Run, advance,
    plan::{Change, ErrorPolicy, Executor, Phase, Power, SideView, Step, amend},
    run::{self, RunState, RunVerb},
};

use crate::{
    runs::theatre,
    theatre::{Act, Theatre},
    world::{alpha, bravo, item},
};

const ACTS: [Act; 6] =
    [Act::Succeed, Act::Twice, Act::Fail, Act::UnknownUndone, Act::UnknownDone, Act::Silence];
const BACK: Change = Change::RollBack { give_up_writes: true };

fn waiting(operation: Operation) -> Theatre {
    let mut theatre = theatre(operation);
    theatre.until_quiet();
    assert_eq!(run::state(&theatre.run), RunState::Waiting);
    theatre
}

fn to_point(name: &str, seq: u64) -> Change {
    Change::Points([(item(name), PointChoice::Seq(PointSeq::new(seq)))].into())
}

fn reasons(theatre: &Theatre, change: &Change) -> Vec<String> {
    let problems = amend(&theatre.run, change, &theatre.facts()).err().unwrap_or_default();
    assert!(problems.iter().all(|p| !p.remedy.is_empty()), "{problems:?}");
    problems.into_iter().map(|p| p.reason).collect()
}

/// R-FO-4, R-UF-3, invariant 8: the other point is used, and the loss that is told is that of the other point.
#[test]
fn another_point_takes_the_place_of_the_one_that_was_used() {
    let mut theatre = waiting(Operation::UnplannedFailover);
    let amendment = amend(&theatre.run, &to_point("web1", 19), &theatre.facts()).unwrap();
    let names: Vec<&str> = amendment.steps.iter().map(|s| s.id.as_str()).collect();
    assert_eq!(
        names,
        ["stop", "set-aside", "promote", "start", "probe-1", "screenshot", "drop-aside"]
            .map(|s| format!("web1.change-1-{s}"))
    );
    assert!(amendment.items[0].gives_up.unwrap() > Duration::ZERO);
    let before = run::report(&theatre.run);
    theatre.change(&to_point("web1", 19)).unwrap();
    assert_eq!(run::state(&theatre.run), RunState::Running);
    assert_eq!(run::allowed_actions(&theatre.run), [], "refused while steps run");
    theatre.until_quiet();
    assert_eq!(run::state(&theatre.run), RunState::Waiting);

    let report = run::report(&theatre.run);
    assert_eq!(report.items[0].point, Some(PointSeq::new(19)));
    assert_eq!(report.items[0].loss_span, before.items[0].loss_span.map(|l| l + Duration::from_secs(1)));
    assert_eq!(report.items[1], before.items[1], "db1 is left alone");
    assert_eq!(report.rto, before.rto, "the time of the failover does not contain that of the decision");
    assert_eq!(
        (report.changes[0].items[0].from, report.changes[0].by.as_str()),
        (Some(PointSeq::new(20)), "ann")
    );
    let record = &theatre.records[&item("web1")];
    assert_eq!(
        (record.state, record.generation.get()),
        (ItemState::CommitPending, 2),
        "the sides do not change"
    );
    assert_eq!(theatre.hosts[&bravo()].promoted[&item("web1")], PointSeq::new(19));
    assert!(theatre.hosts[&bravo()].aside.is_empty(), "another machine runs, so nothing lies aside");

    // Again, and back to the first one.
    theatre.change(&to_point("web1", 20)).unwrap();
    theatre.until_quiet();
    assert_eq!(run::outcomes(&theatre.run)[0].point, Some(PointSeq::new(20)));
    theatre.ask(RunVerb::Commit);
    theatre.until_quiet();
    assert_eq!(run::state(&theatre.run), RunState::Succeeded);
    theatre.assert_clean();
}

/// R-FO-4: nothing that is the only good copy goes before another one runs, and what ran can be had back.
#[test]
fn a_point_that_cannot_be_made_to_run_leaves_what_ran_before_aside() {
    let mut theatre = waiting(Operation::UnplannedFailover);
    theatre.change(&to_point("web1", 19)).unwrap();
    theatre.play(|step, _| if step.as_str() == "web1.change-1-start" { Act::Fail } else { Act::Succeed });
    assert_eq!(run::state(&theatre.run), RunState::Waiting);
    assert_eq!(theatre.records[&item("web1")].state, ItemState::Failed);
    assert_eq!(theatre.hosts[&bravo()].aside[&item("web1")], PointSeq::new(20));
    let allowed = run::allowed_actions(&theatre.run);
    assert_eq!(&allowed[..4], [RunVerb::Commit, RunVerb::ChangePoint, RunVerb::RollBack, RunVerb::Retry]);
    theatre.change(&to_point("web1", 20)).unwrap();
    theatre.until_quiet();
    assert_eq!(theatre.records[&item("web1")].state, ItemState::CommitPending);
    let host = &theatre.hosts[&bravo()];
    assert_eq!((host.promoted[&item("web1")], host.aside.len()), (PointSeq::new(20), 0));
    assert!(!theatre.done.iter().any(|step| step.as_str() == "web1.change-2-set-aside"));
}

/// A run whose only machine does not run any more is not ended behind the operator's back.
#[test]
fn a_change_that_fails_in_every_item_is_not_the_end_of_the_run() {
    let mut theatre = waiting(Operation::UnplannedFailover);
    theatre.ask(RunVerb::ChangePoint);
    theatre.play(|step, _| if step.as_str().ends_with("promote") { Act::Fail } else { Act::Succeed });
    assert_eq!(run::state(&theatre.run), RunState::Waiting);
    assert!(run::waiting_for(&theatre.run).starts_with("No machine runs"));
    theatre.ask(RunVerb::Retry);
    theatre.until_quiet();
    assert!(theatre.records.values().all(|r| r.state == ItemState::CommitPending));
}

/// R-FO-4: in an item that failed, the other point takes the place of what was not done.
#[test]
fn an_item_that_failed_can_be_given_another_point() {
    let mut theatre = theatre(Operation::UnplannedFailover);
    theatre.play(|step, _| if step.as_str() == "web1.promote" { Act::Fail } else { Act::Succeed });
    theatre.change(&to_point("web1", 19)).unwrap();
    theatre.until_quiet();
    assert_eq!(theatre.records[&item("web1")].state, ItemState::CommitPending);
    assert!(!run::allowed_actions(&theatre.run).contains(&RunVerb::Retry));
    theatre.ask(RunVerb::Commit);
    theatre.until_quiet();
    assert_eq!(run::state(&theatre.run), RunState::Succeeded, "what was superseded is no error");
}

#[test]
fn points_are_refused_with_every_reason() {
    let mut theatre = waiting(Operation::UnplannedFailover);
    let points = [("web1", 20), ("db1", 99), ("other", 1)];
    let points = points.map(|(name, seq)| (item(name), PointChoice::Seq(PointSeq::new(seq))));
    assert_eq!(
        reasons(&theatre, &Change::Points(points.into())),
        ["POINT_NOT_FOUND", "ITEM_NOT_IN_RUN", "POINT_IN_USE"]
    );
    assert_eq!(reasons(&theatre, &Change::Points(Default::default())), ["NO_POINTS"]);
    theatre.host(&bravo()).dead = true;
    assert_eq!(reasons(&theatre, &to_point("web1", 19)), ["HOST_NOT_CONNECTED"]);
    let theatre = waiting(Operation::PlannedFailover);
    let problems = amend(&theatre.run, &to_point("web1", 19), &theatre.facts()).unwrap_err();
    assert_eq!(problems[0].reason, "VERB_NOT_ALLOWED");
    assert!(problems[0].message.contains("a planned-failover has one point only"), "{problems:?}");
}

/// A damaged or locked point is no more chosen afterwards than at the start (R-REP-5, R-REP-10).
#[test]
fn points_are_checked_as_at_the_start() {
    let theatre = waiting(Operation::UnplannedFailover);
    let mut facts = theatre.facts();
    facts.items[0].points[0].damaged_blocks = 1;
    assert_eq!(amend(&theatre.run, &to_point("web1", 19), &facts).unwrap_err()[0].reason, "POINT_DAMAGED");
    let mut facts = theatre.facts();
    facts.items[0].points[0].encrypted = true;
    assert_eq!(amend(&theatre.run, &to_point("web1", 19), &facts).unwrap_err()[0].reason, "KEY_MISSING");
}

/// R-FO-4, R-FO-7, invariants 1 and 4: the machine runs at its old side at a higher generation, replicated as before, and nothing is left.
#[test]
fn a_failover_is_rolled_back_to_the_side_that_it_left() {
    for operation in [Operation::PlannedFailover, Operation::UnplannedFailover] {
        let mut theatre = waiting(operation);
        theatre.ask(RunVerb::RollBack);
        assert_eq!(run::allowed_actions(&theatre.run), [], "{operation}: refused while steps run");
        theatre.until_quiet();
        assert_eq!(run::state(&theatre.run), RunState::RolledBack, "{operation}");
        for (name, record) in &theatre.records {
            assert_eq!((record.state, record.generation.get()), (ItemState::Protected, 3), "{operation}");
            assert_eq!(record.active, alpha());
            assert!(theatre.hosts[&alpha()].replicating.contains(name));
            assert!(theatre.hosts[&alpha()].running.contains(&name.as_str().parse().unwrap()));
        }
        let target = &theatre.hosts[&bravo()];
        assert!(target.promoted.is_empty() && target.aside.is_empty() && target.running.is_empty());
        theatre.assert_clean();
        let made: Vec<&str> = theatre.done.iter().map(|step| step.as_str()).collect();
        assert!(!made.iter().any(|step| step.ends_with("make-final") || step.ends_with("adopt-disks")));
        let place = |step: &str| made.iter().position(|done| *done == step).unwrap();
        for first in ["web1.change-1-stop", "db1.change-1-stop"] {
            for then in ["web1.change-1-fence", "db1.change-1-fence", "db1.change-1-start"] {
                assert!(place(first) < place(then), "{operation}: {then} before {first}");
            }
        }
        let report = run::report(&theatre.run);
        assert_eq!((report.rpo, report.items[0].loss_span), (None, None));
        assert_eq!(report.items[0].generation.get(), 3);
        assert!(report.changes[0].items.iter().all(|item| item.gives_up.unwrap() > Duration::ZERO));
    }
}

/// R-FO-4, invariant 16: what is not known of the old side counts against it.
#[test]
fn rolling_back_needs_an_old_side_that_is_known_to_be_whole() {
    let mut theatre = waiting(Operation::UnplannedFailover);
    assert_eq!(reasons(&theatre, &BACK), ["OLD_SIDE_NOT_HEARD", "OLD_SIDE_NOT_HEARD"], "alpha is dead");
    theatre.old_side_returns();
    assert_eq!(reasons(&theatre, &BACK), [""; 0]);
    assert_eq!(
        reasons(&theatre, &Change::RollBack { give_up_writes: false }),
        ["WRITES_NOT_GIVEN_UP", "WRITES_NOT_GIVEN_UP"]
    );
    let spoilt = |spoil: fn(&mut SideView)| {
        let mut facts = theatre.facts();
        spoil(facts.items[0].sides.get_mut(&alpha()).unwrap());
        let problems = amend(&theatre.run, &BACK, &facts).unwrap_err();
        problems.into_iter().map(|p| p.reason).collect::<Vec<_>>()
    };
    assert_eq!(spoilt(|side| side.fenced = false), ["OLD_SIDE_NOT_FENCED"]);
    assert_eq!(spoilt(|side| side.generation = Generation::FIRST), ["OLD_SIDE_NOT_FENCED"]);
    assert_eq!(spoilt(|side| side.machine = None), ["OLD_MACHINE_GONE"]);
    for power in [Power::Running, Power::Paused, Power::Unknown] {
        let mut facts = theatre.facts();
        facts.items[0].sides.get_mut(&alpha()).unwrap().machine.as_mut().unwrap().power = power;
        assert_eq!(amend(&theatre.run, &BACK, &facts).unwrap_err()[0].reason, "OLD_MACHINE_NOT_OFF");
    }
    assert_eq!(spoilt(|side| side.machine.as_mut().unwrap().disks.clear()), ["OLD_DISKS_MISSING"]);
}

/// An amendment that was planned for the run as it was is refused by the run as it is.
#[test]
fn a_change_that_was_planned_before_another_one_is_refused() {
    let mut theatre = waiting(Operation::UnplannedFailover);
    let amendment = Box::new(amend(&theatre.run, &to_point("web1", 19), &theatre.facts()).unwrap());
    theatre.change(&to_point("web1", 19)).unwrap();
    let late = |theatre: &Theatre| {
        let event = Event::Changed { amendment: amendment.clone(), by: "eve".to_owned(), at: theatre.now };
        advance(&theatre.run, &event).unwrap_err()
    };
    assert!(!late(&theatre).reason.is_empty());
    theatre.until_quiet();
    assert_eq!(late(&theatre).reason, "it was changed after this was planned");
}

fn sent_steps(operation: Operation, verb: RunVerb) -> Vec<Step> {
    let mut theatre = waiting(operation);
    theatre.ask(verb);
    let sent =
        |step: &&Step| matches!(step.executor, Executor::Host(_)) && step.id.as_str().contains(".change-");
    theatre.run.plan.steps.iter().filter(sent).cloned().collect()
}

/// Every step of every change, as `faults.rs` does with every step of every operation.
#[test]
fn every_step_of_a_change_may_be_repeated_fail_or_be_unknown() {
    let changes = [
        (Operation::UnplannedFailover, RunVerb::ChangePoint),
        (Operation::UnplannedFailover, RunVerb::RollBack),
        (Operation::PlannedFailover, RunVerb::RollBack),
    ];
    let mut cases = 0;
    for (operation, verb) in changes {
        for step in sent_steps(operation, verb) {
            for act in ACTS {
                for at_error in [RunVerb::Retry, RunVerb::Cancel] {
                    let context = format!("{verb} of {operation}: {act:?} at {}, then {at_error}", step.id);
                    let mut theatre = waiting(operation);
                    theatre.ask(verb);
                    let mut reached = false;
                    theatre.play(|id, key| {
                        let hit = *id == step.id && key == id.as_str();
                        reached |= hit;
                        if hit { act } else { Act::Succeed }
                    });
                    assert!(reached, "{context}: the step was not reached");
                    let allowed = run::allowed_actions(&theatre.run);
                    if theatre.run.is_open() && allowed.contains(&at_error) {
                        theatre.ask(at_error);
                        theatre.until_quiet();
                    }
                    assert_settled(&theatre, verb, &step, act, at_error, &context);
                    cases += 1;
                }
            }
        }
    }
    assert!(cases > 250, "{cases} cases");
}

fn assert_settled(theatre: &Theatre, verb: RunVerb, step: &Step, act: Act, at_error: RunVerb, context: &str) {
    let faultless = matches!(act, Act::Succeed | Act::Twice);
    let went_on = faultless || at_error == RunVerb::Retry || step.on_error == ErrorPolicy::GoOn;
    let state = run::state(&theatre.run);
    if verb == RunVerb::ChangePoint {
        // A run cannot be cancelled by then: the item waits for another decision, and what ran lies aside or runs.
        assert_eq!(state, RunState::Waiting, "{context}");
        let web1 = &theatre.records[step.item.as_ref().unwrap()];
        let expected = if went_on { ItemState::CommitPending } else { ItemState::Failed };
        assert_eq!(web1.state, expected, "{context}");
        let host = &theatre.hosts[&bravo()];
        let kept = host.promoted.contains_key(step.item.as_ref().unwrap())
            || host.aside.contains_key(step.item.as_ref().unwrap());
        assert!(kept, "{context}: no copy is left");
        return;
    }
    if went_on {
        assert_eq!(state, RunState::RolledBack, "{context}");
        theatre.assert_clean();
        let target = &theatre.hosts[&bravo()];
        assert!(target.promoted.is_empty() && target.running.is_empty(), "{context}");
    } else if step.id.as_str().ends_with("-stop") {
        assert_eq!(state, RunState::Waiting, "{context}: it was withdrawn");
        for (name, record) in &theatre.records {
            assert_eq!((record.state, &record.active), (ItemState::CommitPending, &bravo()), "{context}");
            assert!(theatre.hosts[&bravo()].running.contains(&name.as_str().parse().unwrap()), "{context}");
        }
        assert!(run::allowed_actions(&theatre.run).contains(&RunVerb::RollBack), "{context}");
    } else {
        assert_eq!(state, RunState::CompletedWithErrors, "{context}: it was given up");
        assert!(
            theatre
                .records
                .values()
                .all(|r| r.state == ItemState::Protected && r.active == alpha() && !r.held)
        );
    }
}

/// R-FO-4: withdrawn, and then committed; or rolled back after all.
#[test]
fn a_roll_back_that_was_withdrawn_leaves_a_failover_like_any_other() {
    for (then, state) in [(RunVerb::Commit, RunState::Succeeded), (RunVerb::RollBack, RunState::RolledBack)] {
        let mut theatre = waiting(Operation::PlannedFailover);
        theatre.ask(RunVerb::RollBack);
        theatre.play(|step, _| if step.as_str() == "db1.change-1-stop" { Act::Fail } else { Act::Succeed });
        assert_eq!(run::allowed_actions(&theatre.run), [RunVerb::Cancel, RunVerb::Retry]);
        theatre.ask(RunVerb::Cancel);
        theatre.until_quiet();
        theatre.ask(then);
        theatre.until_quiet();
        assert_eq!(run::state(&theatre.run), state);
        assert!(theatre.run.changes[0].withdrawn);
        theatre.assert_clean();
    }
}

/// What failed in the failover goes back with the rest; withdrawn, it is failed as before.
#[test]
fn an_item_that_failed_is_rolled_back_with_the_others() {
    let mut theatre = theatre(Operation::UnplannedFailover);
    theatre.play(|step, _| if step.as_str() == "web1.start" { Act::Fail } else { Act::Succeed });
    assert_eq!(theatre.records[&item("web1")].state, ItemState::Failed);
    theatre.ask(RunVerb::RollBack);
    theatre.play(|step, _| if step.as_str() == "db1.change-1-stop" { Act::Fail } else { Act::Succeed });
    theatre.ask(RunVerb::Cancel);
    theatre.until_quiet();
    assert_eq!(run::state(&theatre.run), RunState::Waiting);
    assert_eq!(theatre.records[&item("web1")].state, ItemState::Failed);
    assert!(run::allowed_actions(&theatre.run).contains(&RunVerb::Retry));
    theatre.ask(RunVerb::RollBack);
    theatre.until_quiet();
    assert_eq!(run::state(&theatre.run), RunState::RolledBack);
    assert!(theatre.records.values().all(|r| r.state == ItemState::Protected && r.active == alpha()));
}

/// The way back is a phase of its own, and the record shows both ways.
#[test]
fn the_record_keeps_what_was_done_before() {
    let mut theatre = waiting(Operation::PlannedFailover);
    theatre.ask(RunVerb::RollBack);
    theatre.until_quiet();
    let report = run::report(&theatre.run);
    let steps = |phase| report.steps.iter().filter(|step| step.phase == phase).count();
    assert!(steps(Phase::Start) == 2 && steps(Phase::RollBack) == 17, "{:#?}", report.steps);
    let text = serde_json::to_string(&theatre.run).unwrap();
    assert_eq!(serde_json::from_str::<Run>(&text).unwrap(), theatre.run);
}
