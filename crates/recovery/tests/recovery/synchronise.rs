//! Unplanned failover that tries to shut down and to ship the last changes first (R-UF-2): it never stops for that, loses nothing when it
//! works, and what it announced when it does not.

use std::time::Duration;

use understudy_ids::PointSeq;
use understudy_recovery::{
    ItemState, Operation, PlanInput, RunSpec,
    plan::{Power, plan},
    run::{self, RunState, RunVerb},
};

use crate::{
    theatre::{Act, Theatre},
    world::{alpha, bravo, input, spec},
};

const OPERATION: Operation = Operation::UnplannedFailover;

fn wish() -> RunSpec {
    RunSpec { synchronise_within: Some(Duration::from_secs(60)), ..spec(OPERATION) }
}

/// The other side is half alive: it is heard, and its machines run.
fn half_alive() -> PlanInput {
    let mut facts = input(OPERATION);
    facts.hosts.get_mut(&alpha()).unwrap().connected = true;
    facts.items.iter_mut().for_each(|item| item.machine.power = Power::Running);
    facts
}

fn theatre() -> Theatre {
    let mut theatre = Theatre::new(plan(&wish(), &half_alive()).unwrap(), wish());
    let items: Vec<_> = theatre.records.keys().cloned().collect();
    let host = theatre.host(&alpha());
    host.dead = false;
    for item in items {
        host.running.insert(item.as_str().parse().unwrap());
        host.replicating.insert(item);
    }
    theatre
}

/// R-UF-2
#[test]
fn what_could_be_shut_down_and_shipped_loses_nothing() {
    let mut theatre = theatre();
    theatre.until_quiet();
    assert_eq!(run::state(&theatre.run), RunState::Waiting);
    for outcome in run::outcomes(&theatre.run) {
        assert_eq!((outcome.point, outcome.error), (Some(PointSeq::new(22)), None));
        assert_eq!(outcome.loss_span, Some(Duration::ZERO));
    }
    assert!(theatre.hosts[&alpha()].running.is_empty());
}

/// R-UF-2: a side that cannot be heard is not tried, so that nothing waits for it.
#[test]
fn a_dead_side_is_not_waited_for() {
    let with = plan(&wish(), &input(OPERATION)).unwrap();
    assert_eq!(with, plan(&spec(OPERATION), &input(OPERATION)).unwrap());
    let tried = plan(&wish(), &half_alive()).unwrap();
    let limits = tried.steps.iter().filter(|step| step.id.as_str().ends_with("shut-down"));
    assert!(
        limits.clone().count() == 2 && limits.clone().all(|s| s.time_out == Some(Duration::from_secs(30)))
    );
}

/// R-UF-2: whatever becomes of what is tried, the run goes on with the announced point and shows why.
#[test]
fn errors_of_what_is_tried_never_stop_the_run() {
    for step in ["web1.shut-down", "web1.sync-final"] {
        for act in [Act::Fail, Act::UnknownUndone, Act::Silence] {
            let context = format!("{act:?} at {step}");
            let mut theatre = theatre();
            // A machine that could not be shut down is powered off behind the switch; the model does not let two run.
            theatre.play(|id, _| {
                if id.as_str() == step {
                    act
                } else if id.as_str() == "web1.sync-final" {
                    Act::Fail
                } else {
                    Act::Succeed
                }
            });
            assert_eq!(run::state(&theatre.run), RunState::Waiting, "{context}");
            let outcomes = run::outcomes(&theatre.run);
            let web1 = outcomes.iter().find(|outcome| outcome.item.as_str() == "web1").unwrap();
            assert_eq!(web1.point, Some(PointSeq::new(20)), "{context}");
            // It may have written until it was fenced, so what it wrote while the run tried is lost as well.
            let raised = theatre.run.steps[&"web1.raise-generation".parse().unwrap()].ended.unwrap();
            assert_eq!(web1.loss_span, Some(raised.since(web1.point_instant.unwrap())), "{context}");
            assert!(web1.loss_span > Some(Duration::from_secs(10)), "{context}");
            assert!(web1.error.is_some(), "{context}: nobody is told");
            assert!(!run::allowed_actions(&theatre.run).contains(&RunVerb::Retry), "{context}");
            theatre.ask(RunVerb::Commit);
            theatre.until_quiet();
            assert_eq!(run::state(&theatre.run), RunState::CompletedWithErrors, "{context}");
            assert!(
                theatre.records.values().all(|r| r.state == ItemState::NotProtected && r.active == bravo())
            );
        }
    }
}

/// Cancelled while it is tried, the source runs and is replicated as before.
#[test]
fn until_the_sides_switch_it_can_be_cancelled() {
    let mut theatre = theatre();
    while theatre.queue.front().is_some_and(|task| !task.step.as_str().ends_with("sync-final")) {
        theatre.perform(Act::Succeed);
    }
    theatre.ask(RunVerb::Cancel);
    theatre.until_quiet();
    assert_eq!(run::state(&theatre.run), RunState::Cancelled);
    assert!(theatre.records.values().all(|r| r.state == ItemState::Protected && r.active == alpha()));
    assert_eq!((theatre.hosts[&alpha()].running.len(), theatre.hosts[&alpha()].replicating.len()), (2, 2));
}
