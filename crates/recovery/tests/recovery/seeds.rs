//! R-REP-11: a first copy that comes on a medium.

use understudy_ids::StepName;
use understudy_recovery::{
    ItemState, Operation, RunPlan, RunSpec,
    action::{Action, AgentWork},
    plan::{Executor, Seed, Stage, plan},
    run::{self, RunState, RunVerb},
};

use crate::{
    theatre::{Act, Theatre},
    world::{alpha, bravo, input, spec},
};

fn seeded(export: bool) -> (RunPlan, RunSpec) {
    let seed = Seed { name: "disk-3".parse().unwrap(), export };
    let spec = RunSpec { seed: Some(seed), ..spec(Operation::Protect) };
    (plan(&spec, &input(Operation::Protect)).unwrap(), spec)
}

fn theatre(export: bool) -> Theatre {
    let (plan, spec) = seeded(export);
    Theatre::new(plan, spec)
}

fn names(theatre: &Theatre, of: &str) -> Vec<String> {
    let of_item = theatre.done.iter().map(ToString::to_string).filter(|step| step.starts_with(of));
    of_item.map(|step| step[of.len()..].to_owned()).collect()
}

#[test]
fn it_is_written_carried_over_read_and_only_then_gone_on_with() {
    let mut theatre = theatre(true);
    theatre.until_quiet();
    assert_eq!(run::state(&theatre.run), RunState::Waiting);
    assert_eq!(run::allowed_actions(&theatre.run), [RunVerb::Confirm, RunVerb::Cancel]);
    assert_eq!(
        run::waiting_for(&theatre.run),
        "Carry the directory disk-3 from the seed_dir of alpha/alpha-h1 to that of the target's host, then confirm."
    );
    assert_eq!(names(&theatre, "web1."), ["export-seed"]);
    theatre.ask(RunVerb::Confirm);
    theatre.until_quiet();
    assert_eq!(run::state(&theatre.run), RunState::Succeeded);
    let expected = ["export-seed", "prepare-replica", "import-seed", "start-replication"];
    assert_eq!(names(&theatre, "web1."), expected);
    assert_eq!(names(&theatre, "db1."), expected);
    assert!(theatre.records.values().all(|record| record.state == ItemState::Protected));
    // It is the operator's: the next machine's copy may be on the same medium.
    assert_eq!(theatre.hosts[&alpha()].seeds.len(), 1);
}

#[test]
fn one_that_is_there_already_is_only_read() {
    let mut theatre = theatre(false);
    theatre.until_quiet();
    assert_eq!(run::state(&theatre.run), RunState::Succeeded);
    assert_eq!(names(&theatre, "db1."), ["prepare-replica", "import-seed", "start-replication"]);
}

#[test]
fn cancelled_on_its_way_nothing_is_left_of_it() {
    let mut theatre = theatre(true);
    theatre.until_quiet();
    theatre.ask(RunVerb::Cancel);
    theatre.until_quiet();
    assert_eq!(run::state(&theatre.run), RunState::Cancelled);
    assert!(theatre.hosts[&alpha()].seeds.is_empty());
    assert!(theatre.records.values().all(|record| record.state == ItemState::Removed));
}

/// Every step of it: done twice, failed, its outcome unknown in both ways; then retried or cancelled.
#[test]
fn every_step_may_be_repeated_fail_or_be_unknown() {
    let steps: Vec<StepName> = {
        let sent = |executor: &Executor| matches!(executor, Executor::Host(_));
        let (plan, _) = seeded(true);
        plan.steps
            .iter()
            .filter(|s| sent(&s.executor) && s.stage == Stage::Main)
            .map(|s| s.id.clone())
            .collect()
    };
    assert_eq!(steps.len(), 8);
    for step in steps {
        for act in [Act::Twice, Act::Fail, Act::UnknownUndone, Act::UnknownDone] {
            for at_error in [RunVerb::Retry, RunVerb::Cancel] {
                let context = format!("{act:?} at {step}, then {at_error}");
                let mut theatre = theatre(true);
                let reached = theatre.play_to_the_end_with(&step, act, at_error);
                assert!(reached, "{context}");
                let succeeds = act == Act::Twice || at_error == RunVerb::Retry;
                let expected = if succeeds { RunState::Succeeded } else { RunState::Cancelled };
                assert_eq!(run::state(&theatre.run), expected, "{context}");
                // An item that was protected before the other one failed stays so.
                let protected = theatre.records.values().filter(|r| r.state == ItemState::Protected).count();
                assert_eq!(theatre.hosts[&bravo()].replicas.len(), protected, "{context}");
                assert!(!succeeds || protected == 2, "{context}");
                assert!(succeeds || theatre.hosts[&alpha()].seeds.is_empty(), "{context}");
            }
        }
    }
}

#[test]
fn a_medium_is_refused_where_it_means_nothing_or_is_in_clear() {
    let (_, wanted) = seeded(false);
    let mut input = input(Operation::Protect);
    for item in &mut input.items {
        item.policy.settings.encrypt_for = vec!["a certificate".to_owned()];
    }
    let problems = plan(&wanted, &input).unwrap_err();
    let reasons: Vec<&str> = problems.iter().map(|problem| problem.reason.as_str()).collect();
    assert_eq!(reasons, ["SEED_NOT_ENCRYPTED"; 2]);
    let test = RunSpec { seed: wanted.seed, ..spec(Operation::TestFailover) };
    let problems = plan(&test, &self::input(Operation::TestFailover)).unwrap_err();
    assert_eq!(problems[0].reason, "OPTION_NOT_APPLICABLE");
    assert_eq!(problems[0].subject, "spec.seed");
}

/// The plan says what is to be read, whatever changes on the machine until it is.
#[test]
fn the_medium_is_to_hold_what_is_replicated() {
    let (plan, _) = seeded(true);
    let disks = |step: &str| match &plan.step(&step.parse().unwrap()).unwrap().action {
        Action::Agent { work: AgentWork::ExportSeed { disks, .. }, .. } => disks.len(),
        Action::Agent { work: AgentWork::ImportSeed { disks, .. }, .. } => disks.len(),
        other => panic!("{other:?}"),
    };
    for step in ["db1.export-seed", "db1.import-seed"] {
        assert_eq!(disks(step), 2);
    }
}
