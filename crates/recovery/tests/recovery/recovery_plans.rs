//! R-RP: runs in the order of a recovery plan.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use understudy_ids::{ItemName, StepName};
use understudy_recovery::{
    Event, ItemState, Operation, PlanInput, RunPlan, RunSpec,
    action::{Action, AgentWork},
    advance,
    plan::{ErrorPolicy, Executor, Stage, plan},
    recovery_plan::{
        ActionKind, Gate, GroupItem, PlanAction, PlanGroup, RecoveryPlan, ScriptAction, Standing, chosen,
    },
    run::{self, RunState, RunVerb, StepState},
};

use crate::{
    theatre::{Act, Theatre},
    world::{alpha, bravo, input, input_of, item, spec},
};

const FAILOVERS: [Operation; 3] =
    [Operation::TestFailover, Operation::PlannedFailover, Operation::UnplannedFailover];

fn group(name: &str, items: &[&str]) -> PlanGroup {
    PlanGroup {
        name: name.parse().unwrap(),
        items: items.iter().map(|name| GroupItem { item: item(name), after: BTreeSet::new() }).collect(),
        at_once: None,
        before: Vec::new(),
        after: Vec::new(),
        gate: Gate::Open,
        delay: None,
    }
}

fn manual(name: &str) -> PlanAction {
    PlanAction {
        name: name.parse().unwrap(),
        operations: BTreeSet::new(),
        towards: None,
        may_fail: false,
        what: ActionKind::Manual { instructions: format!("Do {name}.") },
    }
}

fn of(groups: Vec<PlanGroup>) -> RecoveryPlan {
    RecoveryPlan {
        name: "shop".parse().unwrap(),
        source_site: "alpha".parse().unwrap(),
        target_site: "bravo".parse().unwrap(),
        groups,
    }
}

/// Data first, with everything that a plan can have.
fn shop() -> RecoveryPlan {
    let data = PlanGroup {
        before: vec![manual("tell-people")],
        after: vec![manual("look-at-data")],
        gate: Gate::Ask,
        delay: Some(Duration::from_secs(30)),
        ..group("data", &["db1"])
    };
    of(vec![data, PlanGroup { after: vec![manual("open-shop")], ..group("web", &["web1"]) }])
}

fn with(plan: &RecoveryPlan, operation: Operation) -> RunSpec {
    let items = plan.items().cloned().collect();
    RunSpec { items, recovery_plan: Some(Box::new(plan.clone())), ..spec(operation) }
}

fn planned(recovery: &RecoveryPlan, operation: Operation) -> (RunPlan, RunSpec) {
    let names: Vec<&str> = recovery.items().map(ItemName::as_str).collect();
    let facts = if names.len() == 2 { input(operation) } else { input_of(operation, &names) };
    let spec = with(recovery, operation);
    (plan(&spec, &facts).unwrap_or_else(|problems| panic!("{operation}: {problems:#?}")), spec)
}

fn theatre(operation: Operation) -> Theatre {
    let (plan, spec) = planned(&shop(), operation);
    Theatre::new(plan, spec)
}

/// Whether `later` comes after `earlier`, directly or by way of others.
fn is_behind(plan: &RunPlan, later: &str, earlier: &str) -> bool {
    let after = |id: &StepName| plan.step(id).unwrap_or_else(|| panic!("{id} is planned")).after.to_vec();
    let mut left = after(&later.parse().unwrap());
    let mut seen = BTreeSet::new();
    while let Some(id) = left.pop() {
        if id.as_str() == earlier {
            return true;
        }
        if seen.insert(id.clone()) {
            left.extend(after(&id));
        }
    }
    false
}

/// R-RP-1, R-RP-2: what is behind what, whatever the kind of failover.
#[test]
fn groups_come_up_one_after_another_with_what_is_done_in_between() {
    for operation in FAILOVERS {
        let (plan, _) = planned(&shop(), operation);
        let chain = [
            "group-1.before-1",
            "db1.start",
            "db1.probe",
            "group-1.gate",
            "group-1.after-1",
            "group-1.delay",
            "web1.start",
            "web1.probe",
            "group-2.after-1",
        ];
        for pair in chain.windows(2) {
            assert!(is_behind(&plan, pair[1], pair[0]), "{operation}: {} is not behind {}", pair[1], pair[0]);
        }
        let end = if operation == Operation::TestFailover { "complete-test" } else { "commit" };
        assert!(is_behind(&plan, end, "group-2.after-1"), "{operation}");
        let first: &[&str] = match operation {
            Operation::TestFailover => &["prove-isolation-0-0"],
            Operation::PlannedFailover => &["db1.stop-replication", "web1.stop-replication"],
            _ => &["reserve-addresses"],
        };
        for before in first {
            assert!(is_behind(&plan, "group-1.before-1", before), "{operation}: not behind {before}");
        }
        // What takes time and starts nothing is done for all at once.
        let made = if operation == Operation::TestFailover { "web1.create-machine" } else { "web1.promote" };
        assert!(!is_behind(&plan, made, "db1.start"), "{operation}: {made} waits for the first group");
    }
}

/// What comes before the first group comes before everything that cannot be taken back.
#[test]
fn sides_switch_behind_what_is_done_before_the_first_group() {
    for operation in [Operation::PlannedFailover, Operation::UnplannedFailover] {
        let (plan, _) = planned(&shop(), operation);
        for item in ["db1", "web1"] {
            assert!(is_behind(&plan, &format!("{item}.raise-generation"), "group-1.before-1"));
        }
        let step = |id: &str| plan.step(&id.parse().unwrap()).unwrap();
        assert!(!step("group-1.before-1").point_of_no_return);
        assert!(step("group-1.after-1").point_of_no_return);
    }
}

#[test]
fn machines_shut_down_in_the_reverse_order_where_nothing_may_be_lost() {
    let plan = of(vec![group("data", &["db1", "db2"]), group("logic", &[]), group("web", &["web1"])]);
    let (steps, _) = planned(&plan, Operation::PlannedFailover);
    for data in ["db1.shut-down", "db2.shut-down"] {
        assert!(is_behind(&steps, data, "web1.shut-down"));
    }
    assert!(!is_behind(&steps, "db2.shut-down", "db1.shut-down"));
    // As many items as there are, all of them within one time.
    let mut facts = input(Operation::UnplannedFailover);
    facts.hosts.get_mut(&alpha()).unwrap().connected = true;
    facts.items.iter_mut().for_each(|item| item.machine.power = understudy_recovery::plan::Power::Running);
    let two = of(vec![group("data", &["db1"]), group("web", &["web1"])]);
    let limit = Some(Duration::from_secs(60));
    let spec = RunSpec { synchronise_within: limit, ..with(&two, Operation::UnplannedFailover) };
    let steps = plan_of(&spec, &facts);
    assert!(!is_behind(&steps, "db1.shut-down", "web1.shut-down"));
    assert!(is_behind(&steps, "web1.start", "db1.probe"));
}

fn plan_of(spec: &RunSpec, facts: &PlanInput) -> RunPlan {
    plan(spec, facts).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

#[test]
fn as_many_start_at_once_as_are_allowed_and_none_before_what_it_depends_on() {
    let mut data = PlanGroup { at_once: Some(2), ..group("data", &["a", "b", "c", "d"]) };
    data.items[0].after = [item("d")].into();
    let mut web = group("web", &["w"]);
    web.items[0].after = [item("b")].into();
    let (plan, _) = planned(&of(vec![data, web]), Operation::UnplannedFailover);
    // a comes last, because it waits for d: b and c begin, each end lets one more begin.
    let free =
        |item: &str| !["a", "b", "c", "d"].iter().any(|o| is_behind(&plan, item, &format!("{o}.start")));
    assert!(free("b.start") && free("c.start"));
    assert!(is_behind(&plan, "d.start", "b.probe") && !is_behind(&plan, "d.start", "c.probe"));
    assert!(is_behind(&plan, "a.start", "d.probe") && is_behind(&plan, "a.start", "c.probe"));
    for before in ["a.probe", "b.probe", "c.probe", "d.probe"] {
        assert!(is_behind(&plan, "w.start", before));
    }
}

/// R-RP-2: only where they apply, and with the error policy of the failover.
#[test]
fn actions_are_of_a_failover_and_a_direction() {
    let mut shop = shop();
    shop.groups[0].before[0].operations = [Operation::TestFailover].into();
    shop.groups[1].after[0].towards = Some("alpha".parse().unwrap());
    shop.groups[0].after[0].may_fail = true;
    for operation in FAILOVERS {
        let (plan, _) = planned(&shop, operation);
        let step = |id: &str| plan.step(&id.parse().unwrap());
        assert_eq!(step("group-1.before-1").is_some(), operation == Operation::TestFailover);
        assert!(step("group-2.after-1").is_none(), "that is done on the way to alpha");
        assert_eq!(step("group-1.after-1").unwrap().on_error, ErrorPolicy::GoOn);
        let gate = step("group-1.gate").unwrap().on_error;
        let unplanned = operation == Operation::UnplannedFailover;
        assert_eq!(gate, if unplanned { ErrorPolicy::GoOn } else { ErrorPolicy::StopRun }, "R-UF-4");
    }
}

fn script(host: &str) -> PlanAction {
    let script = ScriptAction {
        host: host.parse().unwrap(),
        name: "move-dns.sh".parse().unwrap(),
        sha256: "0f".repeat(32),
        time_out: Duration::from_secs(90),
    };
    PlanAction { operations: FAILOVERS.into(), what: ActionKind::Script(script), ..manual("move-dns") }
}

fn with_script(host: &str) -> RecoveryPlan {
    of(vec![PlanGroup { after: vec![script(host)], ..group("data", &["db1"]) }, group("web", &["web1"])])
}

/// R-RP-2: a script is told which run it is for, and an error in it is one like that of a machine.
#[test]
fn a_script_is_a_step_between_the_groups() {
    let id: StepName = "group-1.after-1".parse().unwrap();
    for operation in FAILOVERS {
        let (plan, spec) = planned(&with_script("bravo/bravo-h1"), operation);
        let step = plan.step(&id).unwrap();
        assert_eq!(step.executor, Executor::Host(bravo()));
        assert!(is_behind(&plan, "web1.start", "group-1.after-1"));
        let Action::Agent { work: AgentWork::RunScript(asked), .. } = &step.action else {
            panic!("{step:?}")
        };
        let context: serde_json::Value = serde_json::from_str(&asked.context).unwrap();
        assert_eq!(context["operation"], operation.as_str());
        let told = ["plan", "from", "to", "group", "action"].map(|key| context[key].as_str().unwrap());
        assert_eq!(told, ["shop", "alpha", "bravo", "data", "move-dns"]);
        let machine = &context["machines"][1];
        assert_eq!((&machine["item"], &machine["group"]), (&"web1".into(), &"web".into()));
        assert_eq!(machine["addresses"][0], "192.168.50.11");

        let mut theatre = Theatre::new(plan, spec);
        let mut reached = false;
        theatre.play(|step, _| {
            reached |= *step == id;
            if *step == id { Act::Fail } else { Act::Succeed }
        });
        assert!(reached);
        let started = theatre.done.iter().any(|step| step.as_str() == "web1.start");
        assert_eq!(started, operation == Operation::UnplannedFailover, "{operation}: R-PF-3, R-UF-4");
    }
}

/// Whoever is to run a script must be there, but for an unplanned failover, which says what it leaves out and waits for nobody.
#[test]
fn a_host_that_is_away_runs_no_script() {
    let reasons = |operation, recovery: &RecoveryPlan, facts: &PlanInput| -> Vec<String> {
        let problems = plan(&with(recovery, operation), facts).err().unwrap_or_default();
        problems.into_iter().map(|problem| problem.reason).collect()
    };
    for operation in [Operation::TestFailover, Operation::PlannedFailover] {
        let facts = input(operation);
        assert_eq!(reasons(operation, &with_script("bravo/bravo-h9"), &facts), ["HOST_NOT_FOUND"]);
        let mut may_fail = with_script("bravo/bravo-h9");
        may_fail.groups[0].after[0].may_fail = true;
        assert_eq!(reasons(operation, &may_fail, &facts), [""; 0]);
    }
    let mut away = input(Operation::TestFailover);
    away.hosts.get_mut(&alpha()).unwrap().connected = false;
    assert_eq!(
        reasons(Operation::TestFailover, &with_script("alpha/alpha-h1"), &away),
        ["HOST_NOT_CONNECTED"]
    );
    let unplanned = with(&with_script("alpha/alpha-h1"), Operation::UnplannedFailover);
    let plan = plan_of(&unplanned, &input(Operation::UnplannedFailover));
    assert!(plan.step(&"group-1.after-1".parse().unwrap()).is_none());
    assert!(is_behind(&plan, "web1.start", "db1.probe"));
    let told = "move-dns is not done: alpha/alpha-h1, which is to run its script, cannot be heard";
    assert_eq!(plan.notices, [told]);
}

/// R-FO-3: of a group whose items all stay at the other site, nothing is done; a group without items is there for what it does.
#[test]
fn what_surrounds_items_that_stay_is_left_out() {
    let mut shop = shop();
    shop.groups.insert(1, PlanGroup { before: vec![manual("look")], ..group("look", &[]) });
    let all = with(&shop, Operation::PlannedFailover);
    let spec = RunSpec { items: vec![item("web1")], from_site: Some("alpha".parse().unwrap()), ..all };
    let plan = plan_of(&spec, &input(Operation::PlannedFailover));
    let of_plan = plan.steps.iter().map(|step| step.id.as_str()).filter(|id| id.starts_with("group-"));
    assert_eq!(of_plan.collect::<Vec<_>>(), ["group-2.before-1", "group-3.after-1"]);
    assert!(is_behind(&plan, "web1.raise-generation", "group-2.before-1"));
}

/// A whole run, with the people in it.
#[test]
fn it_asks_at_each_manual_action_and_keeps_who_confirmed() {
    for operation in FAILOVERS {
        let mut theatre = theatre(operation);
        let mut asked = Vec::new();
        theatre.until_quiet();
        while let Some(step) = theatre.asks_at() {
            assert_eq!(run::state(&theatre.run), RunState::Waiting);
            let expected = [RunVerb::Confirm, RunVerb::Reject];
            assert!(expected.iter().all(|verb| run::allowed_actions(&theatre.run).contains(verb)));
            asked.push((step, run::waiting_for(&theatre.run)));
            theatre.ask(RunVerb::Confirm);
            theatre.until_quiet();
        }
        let told: Vec<&str> = asked.iter().map(|(_, told)| told.as_str()).collect();
        let expected = [
            "tell-people: Do tell-people. Then confirm, or reject.",
            "look-at-data: Do look-at-data. Then confirm, or reject.",
            "open-shop: Do open-shop. Then confirm, or reject.",
        ];
        assert_eq!(told, expected, "{operation}");
        let done = |step: &str| theatre.done.iter().position(|done| done.as_str() == step).unwrap();
        assert!(done("db1.probe") < done("web1.start"), "{operation}");
        theatre.play_to_the_end(RunVerb::Retry, |_, _| Act::Succeed);
        assert_eq!(run::state(&theatre.run), RunState::Succeeded, "{operation}");
        let report = run::report(&theatre.run);
        let outcome =
            |id: &str| report.steps.iter().find(|step| step.step.as_str() == id).unwrap().outcome.clone();
        assert_eq!(outcome("group-1.before-1"), "confirmed by ann");
        theatre.assert_clean();
    }
}

/// A delay is no wait for a person, and ends with its time, not before.
#[test]
fn a_delay_lasts_as_long_as_it_is_to() {
    let mut shop = shop();
    shop.groups[0].gate = Gate::Open;
    for group in &mut shop.groups {
        (group.before, group.after) = (Vec::new(), Vec::new());
    }
    let (plan, spec) = planned(&shop, Operation::UnplannedFailover);
    let mut theatre = Theatre::new(plan, spec);
    while !theatre.queue.is_empty() {
        theatre.perform(Act::Succeed);
    }
    let delay: StepName = "group-1.delay".parse().unwrap();
    assert_eq!(theatre.run.steps[&delay].state, StepState::Running);
    assert_eq!(run::state(&theatre.run), RunState::Running);
    assert_eq!(run::waiting_for(&theatre.run), "Wait for 30 s behind group data.");
    let began = theatre.run.steps[&delay].started.unwrap();
    let early = began.plus(Duration::from_millis(29_999));
    assert!(run::delays_over(&theatre.run, early).is_empty());
    theatre.tell(&Event::DelayOver { step: delay.clone(), at: early });
    assert_eq!(theatre.run.steps[&delay].state, StepState::Running, "told too early");
    assert_eq!(run::delays_over(&theatre.run, began.plus(Duration::from_secs(30))), [delay]);
    theatre.play_to_the_end(RunVerb::Retry, |_, _| Act::Succeed);
    assert_eq!(run::state(&theatre.run), RunState::Succeeded);
}

/// An answer is to the question that was read, and only while it is asked.
#[test]
fn an_answer_to_another_step_is_refused() {
    let mut theatre = theatre(Operation::PlannedFailover);
    theatre.until_quiet();
    for (step, confirmed) in [("group-1.after-1", true), ("commit", true), ("db1.start", false), ("x", true)]
    {
        let (step, by) = (step.parse().unwrap(), "bob".to_owned());
        let event = Event::Answered { step, confirmed, by, at: theatre.now };
        assert!(advance(&theatre.run, &event).is_err(), "{event:?}");
    }
    theatre.ask(RunVerb::Confirm);
    let late = Event::Answered {
        step: "group-1.before-1".parse().unwrap(),
        confirmed: true,
        by: "bob".to_owned(),
        at: theatre.now,
    };
    assert!(advance(&theatre.run, &late).is_err(), "somebody was faster");
}

/// R-PF-3, R-TF-5, R-UF-4 for actions: *no* is an error like any other.
#[test]
fn what_is_rejected_stops_what_may_be_stopped() {
    let mut test = theatre(Operation::TestFailover);
    test.until_quiet();
    test.ask(RunVerb::Reject);
    test.until_quiet();
    assert_eq!(run::state(&test.run), RunState::Failed);
    test.assert_clean();

    let mut planned = theatre(Operation::PlannedFailover);
    planned.until_quiet();
    planned.ask(RunVerb::Reject);
    assert_eq!(run::state(&planned.run), RunState::Failed);
    let problem = &run::problems(&planned.run)[0];
    assert_eq!(problem.reason, "MANUAL_ACTION_REJECTED");
    planned.ask(RunVerb::Retry);
    planned.until_quiet();
    assert!(planned.asks_at().is_some(), "a retry asks again");
    planned.ask(RunVerb::Reject);
    planned.ask(RunVerb::Cancel);
    planned.until_quiet();
    assert_eq!(run::state(&planned.run), RunState::Cancelled);
    assert!(planned.records.values().all(|record| record.state == ItemState::Protected));
    assert_eq!(planned.hosts[&alpha()].running.len(), 2, "the machines run where they ran");

    let mut unplanned = theatre(Operation::UnplannedFailover);
    unplanned.until_quiet();
    unplanned.ask(RunVerb::Reject);
    unplanned.play_to_the_end(RunVerb::Retry, |_, _| Act::Succeed);
    assert_eq!(run::state(&unplanned.run), RunState::CompletedWithErrors);
    assert_eq!(unplanned.hosts[&bravo()].running.len(), 2, "they came up all the same");
}

/// R-RP-3: a gate asks when a machine of its group is not up, and only then.
#[test]
fn a_gate_asks_where_a_machine_is_missing() {
    for (broken, state) in
        [("db1.probe", RunState::CompletedWithErrors), ("db1.promote", RunState::CompletedWithErrors)]
    {
        let mut theatre = theatre(Operation::UnplannedFailover);
        let script = |id: &StepName, _: &str| if id.as_str() == broken { Act::Fail } else { Act::Succeed };
        theatre.play(script);
        theatre.ask(RunVerb::Confirm);
        theatre.play(script);
        assert_eq!(theatre.asks_at().unwrap().as_str(), "group-1.gate", "{broken}");
        let told = run::waiting_for(&theatre.run);
        assert!(told.starts_with("Of group data, db1 did not come up or does not answer."), "{told}");
        assert!(!theatre.done.iter().any(|step| step.as_str() == "web1.start"), "{broken}: it did not wait");
        theatre.ask(RunVerb::Confirm);
        theatre.play_to_the_end(RunVerb::Cancel, script);
        assert_eq!(run::state(&theatre.run), state, "{broken}");
        assert!(theatre.done.iter().any(|step| step.as_str() == "web1.start"));
    }
}

/// R-RP-3: who retries at a gate has put the machine right; the machine is asked, and a person only where it still does not answer.
#[test]
fn a_retry_at_a_gate_asks_the_machine_again() {
    for (broken_again, opens) in [(true, false), (false, true)] {
        let mut theatre = theatre(Operation::PlannedFailover);
        let mut asked = 0;
        let mut script = |id: &StepName, _: &str| {
            if id.as_str() != "db1.probe" {
                return Act::Succeed;
            }
            asked += 1;
            if asked == 1 || broken_again { Act::Fail } else { Act::Succeed }
        };
        theatre.play(&mut script);
        theatre.ask(RunVerb::Confirm);
        theatre.play(&mut script);
        assert_eq!(theatre.asks_at().unwrap().as_str(), "group-1.gate");
        theatre.ask(RunVerb::Reject);
        assert_eq!(run::state(&theatre.run), RunState::Failed);
        theatre.ask(RunVerb::Retry);
        theatre.play(&mut script);
        assert_eq!(asked, 2, "asked once by each try");
        let at_gate = theatre.asks_at().is_some_and(|step| step.as_str() == "group-1.gate");
        assert_eq!(at_gate, !opens);
    }
}

/// R-RP-1, R-FO-4: machines that go back, or are made from other points, come up as the plan says, and go down the other way round.
#[test]
fn changes_keep_the_order_of_the_plan() {
    for (operation, verb) in [
        (Operation::PlannedFailover, RunVerb::RollBack),
        (Operation::UnplannedFailover, RunVerb::RollBack),
        (Operation::UnplannedFailover, RunVerb::ChangePoint),
    ] {
        let mut theatre = theatre(operation);
        while !run::allowed_actions(&theatre.run).contains(&RunVerb::Commit) {
            theatre.until_quiet();
            if theatre.asks_at().is_some() {
                theatre.ask(RunVerb::Confirm);
            }
        }
        theatre.ask(verb);
        let plan = theatre.run.plan.clone();
        let step = |item: &str, what: &str| format!("{item}.change-1-{what}");
        let is_up = if verb == RunVerb::ChangePoint { "probe-1" } else { "start" };
        assert!(is_behind(&plan, &step("web1", "start"), &step("db1", is_up)), "{operation} {verb}");
        assert!(is_behind(&plan, &step("db1", "stop"), &step("web1", "stop")), "{operation} {verb}");
        theatre.until_quiet();
        let end = if verb == RunVerb::RollBack { RunState::RolledBack } else { RunState::Waiting };
        assert_eq!(run::state(&theatre.run), end, "{operation} {verb}");
        let place = |id: String| theatre.done.iter().position(|done| done.as_str() == id).unwrap();
        assert!(place(step("web1", "stop")) < place(step("db1", "stop")), "{operation} {verb}");
        assert!(place(step("db1", is_up)) < place(step("web1", "start")), "{operation} {verb}");
    }
}

/// R-TF-6: a test that nobody answers is ended as well.
#[test]
fn a_test_that_asks_for_too_long_is_due_to_be_cancelled() {
    let mut theatre = theatre(Operation::TestFailover);
    theatre.until_quiet();
    let limit = Duration::from_secs(14 * 86_400);
    assert_eq!(run::time_left(&theatre.run, limit), Some((run::Due::EndTest, limit)));
    theatre.ask(RunVerb::Cancel);
    theatre.until_quiet();
    assert_eq!(run::state(&theatre.run), RunState::Cancelled);
    theatre.assert_clean();
}

/// Every step of a run in a plan's order: done twice, failed, its outcome unknown, never answered; then retried or cancelled.
#[test]
fn every_step_may_be_repeated_fail_or_be_unknown() {
    let mut cases = 0;
    for operation in FAILOVERS {
        let (run_plan, _) = planned(&shop(), operation);
        let sent = |executor: &Executor| matches!(executor, Executor::Host(_) | Executor::NetworkMapper);
        let steps = run_plan.steps.iter();
        for step in steps.filter(|s| sent(&s.executor) && matches!(s.stage, Stage::Main | Stage::AfterCommit))
        {
            for act in [Act::Twice, Act::Fail, Act::UnknownUndone, Act::UnknownDone, Act::Silence] {
                for at_error in [RunVerb::Retry, RunVerb::Cancel] {
                    let context = format!("{operation}: {act:?} at {}, then {at_error}", step.id);
                    let mut theatre = theatre(operation);
                    let reached = theatre.play_to_the_end_with(&step.id, act, at_error);
                    assert!(reached, "{context}: the step was not reached");
                    theatre.assert_clean();
                    let state = run::state(&theatre.run);
                    let shown = state == RunState::Succeeded || !run::problems(&theatre.run).is_empty();
                    assert!(shown || state == RunState::Cancelled, "{context}: {state} without a reason");
                    cases += 1;
                }
            }
        }
    }
    assert!(cases > 300, "{cases} cases");
}

#[test]
fn a_plan_that_cannot_be_followed_is_refused_with_everything_that_is_wrong() {
    let told = |plan: &RecoveryPlan| {
        let fields =
            plan.problems().into_iter().map(|problem| format!("{} {}", problem.subject, problem.message));
        fields.collect::<Vec<_>>()
    };
    assert_eq!(told(&shop()), [""; 0]);
    let mut bad = shop();
    bad.target_site = bad.source_site.clone();
    bad.groups[0].at_once = Some(0);
    bad.groups[0].delay = Some(Duration::from_secs(90_000));
    bad.groups[0].items[0].after = [item("web1")].into();
    bad.groups[0].after[0].name = bad.groups[0].before[0].name.clone();
    bad.groups[1].name = bad.groups[0].name.clone();
    let again = bad.groups[0].items[0].clone();
    bad.groups[1].items.push(again);
    bad.groups[1].items[0].after = [item("db1")].into();
    bad.groups[1].items[1].after = [item("web1")].into();
    bad.groups[1].after[0].operations = [Operation::Protect].into();
    bad.groups[1].after[0].towards = Some("charlie".parse().unwrap());
    bad.groups[1].after[0].what = ActionKind::Manual { instructions: "  ".to_owned() };
    let found = told(&bad);
    for part in [
        "target_site is the source site",
        "groups[0].at_once is 0",
        "groups[0].delay_seconds is longer",
        "groups[0].items[0].after names web1",
        "groups[0] have the action name tell-people more than once",
        "groups have the group name data more than once",
        "groups have the item db1 more than once",
        "groups[1].items wait for each other: db1, web1",
        "groups[1].after[0].operations names protect",
        "groups[1].after[0].towards is charlie",
        "groups[1].after[0].do.manual.instructions has 0 bytes",
    ] {
        assert!(found.iter().any(|line| line.starts_with(part)), "{part} in {found:#?}");
    }
    assert_eq!(found.len(), 11, "{found:#?}");
    let mut scripts = with_script("bravo/bravo-h1");
    assert_eq!(told(&scripts), [""; 0]);
    let action = &mut scripts.groups[0].after[0];
    action.operations.clear();
    let ActionKind::Script(script) = &mut action.what else { unreachable!("it is one") };
    (script.sha256, script.time_out) = ("0F".repeat(32), Duration::ZERO);
    let found = told(&scripts);
    for part in ["operations is empty", "do.script.sha256 is not", "do.script.time_out_seconds is 0 s"] {
        let part = format!("groups[0].after[0].{part}");
        assert!(found.iter().any(|line| line.starts_with(&part)), "{part} in {found:#?}");
    }
    assert_eq!(told(&of(Vec::new())).len(), 2);
}

/// R-FO-3: the direction is implied, or has to be said.
#[test]
fn items_at_both_sites_need_a_direction() {
    let standing = |web: &str, db: &str| -> BTreeMap<ItemName, Standing> {
        let at = |site: &str| Standing {
            state: ItemState::Protected,
            active_site: site.parse().unwrap(),
            standby_site: (if site == "alpha" { "bravo" } else { "alpha" }).parse().unwrap(),
        };
        [(item("web1"), at(web)), (item("db1"), at(db))].into()
    };
    let (alpha, bravo) = ("alpha".parse().unwrap(), "bravo".parse().unwrap());
    let ask = |from, standing: &BTreeMap<_, _>| chosen(&shop(), Operation::PlannedFailover, from, standing);
    let all = vec![item("db1"), item("web1")];
    for site in ["alpha", "bravo"] {
        assert_eq!(
            ask(None, &standing(site, site)),
            Ok((all.clone(), Vec::new())),
            "R-RP-1: in the plan's order"
        );
    }
    let reasons = |result: Result<_, Vec<understudy_ids::Problem>>| -> Vec<String> {
        result.unwrap_err().into_iter().map(|problem| problem.reason).collect()
    };
    let mixed = standing("alpha", "bravo");
    assert_eq!(reasons(ask(None, &mixed)), ["DIRECTION_NEEDED"]);
    let (items, notices) = ask(Some(&alpha), &mixed).unwrap();
    assert_eq!(
        (items, notices),
        (vec![item("web1")], vec!["db1 is active at bravo, and stays there".to_owned()])
    );
    assert_eq!(ask(Some(&bravo), &mixed).unwrap().0, [item("db1")]);
    assert_eq!(reasons(ask(Some(&bravo), &standing("alpha", "alpha"))), ["NOTHING_AT_SITE"]);
    let mut gone = mixed.clone();
    gone.remove(&item("web1"));
    gone.get_mut(&item("db1")).unwrap().standby_site = "charlie".parse().unwrap();
    assert_eq!(reasons(ask(None, &gone)), ["ITEM_OF_OTHER_SITES", "ITEM_NOT_FOUND"]);
    // One that failed on its way to bravo is active there, and is tried again in the same direction as the others.
    let mut failed = standing("alpha", "bravo");
    failed.get_mut(&item("db1")).unwrap().state = ItemState::Failed;
    assert_eq!(chosen(&shop(), Operation::UnplannedFailover, None, &failed).unwrap().0, all);
}

/// The size that is tested: 100 items in 7 groups.
#[test]
fn a_hundred_items_in_seven_groups_are_planned() {
    let names: Vec<String> = (0..100).map(|n| format!("m{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let groups = names.chunks(15).zip(1..).map(|(items, n)| PlanGroup {
        at_once: Some(5),
        before: vec![manual("look")],
        ..group(&format!("g{n}"), items)
    });
    let recovery = of(groups.collect());
    assert_eq!(recovery.groups.len(), 7);
    assert_eq!(recovery.problems(), []);
    for operation in FAILOVERS {
        let (plan, spec) = planned(&recovery, operation);
        assert_eq!(plan.items.len(), 100);
        assert!(is_behind(&plan, "m99.start", "group-7.before-1"));
        if operation != Operation::UnplannedFailover {
            continue;
        }
        let mut theatre = Theatre::new(plan, spec);
        for _ in 0..9 {
            while !theatre.queue.is_empty() {
                theatre.perform(Act::Succeed);
            }
            let allowed = run::allowed_actions(&theatre.run);
            let verb = [RunVerb::Confirm, RunVerb::Commit].into_iter().find(|verb| allowed.contains(verb));
            if let Some(verb) = verb {
                theatre.ask(verb);
            }
        }
        assert_eq!(run::state(&theatre.run), RunState::Succeeded, "{operation}");
    }
}
