//! Every wait of every operation: the orchestrator dies while the run waits, what it waits for is told twice, or the run is cancelled there.
//!
//! What a wait is ended by is found in the stored run alone, as whoever takes over after a kill finds it (invariants 3 and 13).

use std::collections::BTreeSet;

use understudy_ids::{PointSeq, RunId, StepName};
use understudy_recovery::{
    Event, Operation, PlanInput, RunSpec,
    action::{Action, Internal},
    advance,
    conflict::OpenRun,
    plan::{Seed, plan},
    run::{self, RunState, RunVerb, StepState},
};

use crate::{
    faults::assert_in_order,
    theatre::{Act, Theatre, approval},
    world::{input, spec, ways},
};

/// Of each way in which an operation waits.
fn cases() -> Vec<(RunSpec, PlanInput)> {
    let mut all: Vec<_> = ways().into_iter().map(|way| (way.clone(), input(way.operation))).collect();
    let with = |operation, change: &dyn Fn(&mut RunSpec, &mut PlanInput)| {
        let (mut spec, mut facts) = (spec(operation), input(operation));
        change(&mut spec, &mut facts);
        (spec, facts)
    };
    all.push(with(Operation::UnplannedFailover, &|spec, facts| {
        spec.primary_down_assertion = None;
        facts.items.iter_mut().for_each(|item| item.lease_over_in = Some(std::time::Duration::from_secs(45)));
    }));
    all.push(with(Operation::PlannedFailover, &|spec, facts| {
        facts.open_runs = vec![OpenRun {
            id: RunId::from_u128(7),
            operation: Operation::TestFailover,
            items: spec.items.clone(),
            rolls_back: false,
            rehearsed: Default::default(),
        }];
    }));
    all.push(with(Operation::Protect, &|spec, _| {
        spec.seed = Some(Seed { name: "usb1".parse().unwrap(), export: true });
    }));
    all
}

/// Everything that is on its way comes home; what only waits goes on waiting.
fn rest(theatre: &mut Theatre) {
    while theatre.cancellation_answered() || !theatre.queue.is_empty() {
        if !theatre.queue.is_empty() {
            theatre.perform(Act::Succeed);
        }
    }
}

/// What ends a wait.
#[derive(Debug, Clone)]
enum End {
    Verb(RunVerb),
    Event(&'static str, Event),
}

impl End {
    fn name(&self) -> &'static str {
        match self {
            Self::Verb(verb) => verb.as_str(),
            Self::Event(name, _) => name,
        }
    }
}

/// All that the run waits for now.
fn waits(theatre: &Theatre) -> Vec<End> {
    let (run, at) = (&theatre.run, theatre.now);
    let mut ends = Vec::new();
    ends.extend(
        run::awaited_leases(run)
            .into_iter()
            .map(|(item, generation)| End::Event("lease-over", Event::LeaseOver { item, generation, at })),
    );
    let tests = run::awaited_tests(run).into_iter();
    ends.extend(tests.map(|(step, _)| End::Event("tests-ended", Event::TestsEnded { step, at })));
    let running = |step: &StepName| run.steps[step].state == StepState::Running;
    ends.extend(run.plan.steps.iter().filter(|step| running(&step.id)).filter_map(
        |step| match &step.action {
            Action::Internal(Internal::AwaitFirstPoint { item, generation, .. }) => {
                let (item, generation, seq) = (item.clone(), *generation, PointSeq::new(40));
                Some(End::Event("first-point", Event::FirstPoint { item, seq, generation, at }))
            }
            _ => None,
        },
    ));
    ends.extend(approval(&run::allowed_actions(run)).map(End::Verb));
    ends
}

/// The orchestrator dies, and another one reads what was stored.
fn kill(theatre: &mut Theatre) {
    let text = serde_json::to_string(&theatre.run).unwrap();
    let stored = serde_json::from_str(&text).unwrap();
    assert_eq!(theatre.run, stored);
    theatre.run = stored;
}

/// The wait ends, and the same told again changes nothing.
fn end(theatre: &mut Theatre, end: &End) {
    match end {
        End::Event(name, event) => {
            theatre.tell(event);
            let (again, effects) = advance(&theatre.run, event).unwrap();
            assert_eq!((again, effects.len()), (theatre.run.clone(), 0), "{name} told twice");
        }
        // To an answered question there is no second answer, and a change belongs to the run that it was planned for.
        End::Verb(verb) => {
            theatre.ask(*verb);
            let event = Event::Operator { verb: *verb, by: "eve".to_owned(), at: theatre.now };
            assert!(advance(&theatre.run, &event).is_err(), "{verb} is taken twice");
        }
    }
}

fn goes_on_to_its_end(theatre: &mut Theatre) {
    for _ in 0..40 {
        rest(theatre);
        if !theatre.run.is_open() {
            return;
        }
        let ends = waits(theatre);
        end(
            theatre,
            ends.first().unwrap_or_else(|| panic!("it waits for nothing: {:#?}", theatre.run.steps)),
        );
    }
    panic!("the run does not end");
}

/// Invariants 3, 7, 13 and 16, R-FB-4: no wait is lost, given up on or ended twice, and each may be cancelled where the run says so.
#[test]
fn every_wait_outlives_a_kill_and_may_be_cancelled() {
    let mut seen = BTreeSet::new();
    let mut cancelled = 0;
    for (spec, facts) in cases() {
        for at in 0.. {
            let mut theatre = Theatre::new(plan(&spec, &facts).unwrap(), spec.clone());
            for _ in 0..at {
                rest(&mut theatre);
                if let Some(first) = waits(&theatre).first() {
                    end(&mut theatre, first);
                }
            }
            rest(&mut theatre);
            if !theatre.run.is_open() {
                break;
            }
            let ends = waits(&theatre);
            assert!(!ends.is_empty(), "{spec:?} waits for nothing");
            seen.extend(ends.iter().map(End::name));
            kill(&mut theatre);
            assert_eq!(
                waits(&theatre).iter().map(End::name).collect::<Vec<_>>(),
                ends.iter().map(End::name).collect::<Vec<_>>()
            );
            // However long it takes: only for tests it is not waited for ever.
            let years = theatre.now.plus(std::time::Duration::from_secs(5 * 365 * 24 * 3600));
            let given_up = run::overdue(&theatre.run, years);
            assert!(given_up.iter().all(|step| step.as_str() == "end-tests"), "{given_up:?} is given up on");
            let context = format!("{} {:?}, wait {at}", spec.operation, spec.synchronise);
            if run::allowed_actions(&theatre.run).contains(&RunVerb::Cancel) {
                let mut theatre = Theatre::new(plan(&spec, &facts).unwrap(), spec.clone());
                for _ in 0..at {
                    rest(&mut theatre);
                    let first = waits(&theatre)[0].clone();
                    end(&mut theatre, &first);
                }
                rest(&mut theatre);
                kill(&mut theatre);
                theatre.ask(RunVerb::Cancel);
                kill(&mut theatre);
                rest(&mut theatre);
                assert!(!theatre.run.is_open(), "{context}: {:#?}", theatre.run.steps);
                assert_in_order(&theatre, spec.operation, &context);
                cancelled += 1;
            }
            goes_on_to_its_end(&mut theatre);
            assert_eq!(run::state(&theatre.run), RunState::Succeeded, "{context}");
            assert_in_order(&theatre, spec.operation, &context);
        }
    }
    let expected = [
        "commit",
        "complete-failover",
        "complete-test",
        "confirm",
        "first-point",
        "lease-over",
        "tests-ended",
    ];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), expected);
    assert!(cancelled > 12, "{cancelled} cancelled");
}
