//! What machines are asked after they have been started, and what comes of the answers (R-TF-8, R-RP-3).

use std::{collections::BTreeSet, time::Duration};

use understudy_ids::{PointChoice, PointSeq, Problem};
use understudy_recovery::{
    Event, Operation, PlanInput, RunPlan, RunSpec,
    action::{Action, AgentWork, OperatorWait, StepResult},
    plan::{Change, ErrorPolicy, plan},
    recovery_plan::{Gate, GroupItem, PlanGroup, RecoveryPlan},
    run::{self, RunState},
    test_network::TestNetwork,
};

use crate::{
    theatre::{Act, Theatre},
    world::{input, item, spec},
};

const FAILOVERS: [Operation; 3] =
    [Operation::TestFailover, Operation::PlannedFailover, Operation::UnplannedFailover];

/// web1 with these probes; db1 has none of its own.
fn facts(operation: Operation, probes: &[&str]) -> PlanInput {
    let mut facts = input(operation);
    facts.items[0].probes = probes.iter().map(|probe| probe.parse().unwrap()).collect();
    facts
}

fn planned(spec: &RunSpec, facts: &PlanInput) -> RunPlan {
    plan(spec, facts).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

/// Each step that asks: its name, its title and what it comes after.
fn asked(plan: &RunPlan) -> Vec<(String, String, Vec<String>)> {
    let steps = plan.steps.iter().filter(|step| {
        let asks = matches!(&step.action, Action::Agent { work: AgentWork::ProbeMachine { .. }, .. });
        assert!(!asks || step.on_error == ErrorPolicy::GoOn, "{} ends more than itself", step.id);
        asks
    });
    let row = |step: &understudy_recovery::plan::Step| {
        let after = step.after.iter().map(ToString::to_string).collect();
        (step.id.to_string(), step.title.clone(), after)
    };
    steps.map(row).collect()
}

fn row(id: &str, title: &str, after: &str) -> (String, String, Vec<String>) {
    (id.to_owned(), title.to_owned(), vec![after.to_owned()])
}

/// The table: what is asked for, and which steps that means, for every kind of failover.
#[test]
fn each_probe_is_a_step_behind_the_one_before() {
    let all = ["guest-agent", "tcp:5432,within=30s", "http:80/health"];
    for operation in FAILOVERS {
        let facts = facts(operation, &all);
        let plan = planned(&spec(operation), &facts);
        assert_eq!(
            asked(&plan),
            [
                row("web1.probe-1", "Ask the agent in web1 to answer", "web1.start"),
                row("web1.probe-2", "Ask web1 to accept a connection at 192.168.50.11:5432", "web1.probe-1"),
                row("web1.probe-3", "Ask web1 for http://192.168.50.11:80/health", "web1.probe-2"),
                row("db1.probe", "Ask db1 to answer at 192.168.50.12", "db1.start"),
            ],
            "{operation}"
        );
        assert_eq!(plan.notices, Vec::<String>::new());
        for (look, after) in [("web1.screenshot", "web1.probe-3"), ("db1.screenshot", "db1.probe")] {
            let step = plan.step(&look.parse().unwrap()).unwrap();
            let behind: Vec<&str> = step.after.iter().map(|id| id.as_str()).collect();
            assert_eq!(
                (behind.as_slice(), step.on_error),
                ([after].as_slice(), ErrorPolicy::GoOn),
                "{operation}"
            );
            let wait = if operation == Operation::TestFailover { "complete-test" } else { "commit" };
            assert!(plan.step(&wait.parse().unwrap()).unwrap().after.contains(&step.id), "{operation}");
        }
        let step = plan.step(&"web1.probe-2".parse().unwrap()).unwrap();
        assert_eq!(step.time_out, Some(Duration::from_secs(630)), "its worker has time to say so");
    }
}

/// R-RP-3: a gate passes when all of its machines have answered everything, and the group behind it waits for the last answer.
#[test]
fn a_gate_passes_when_all_probes_have() {
    let data = PlanGroup { gate: Gate::Ask, ..group("data", "web1") };
    let shop = RecoveryPlan {
        name: "shop".parse().unwrap(),
        source_site: "alpha".parse().unwrap(),
        target_site: "bravo".parse().unwrap(),
        groups: vec![data, group("rest", "db1")],
    };
    for operation in FAILOVERS {
        let spec = RunSpec { recovery_plan: Some(Box::new(shop.clone())), ..spec(operation) };
        let plan = planned(&spec, &facts(operation, &["ping", "tcp:5432"]));
        let gate = plan.step(&"group-1.gate".parse().unwrap()).unwrap();
        let Action::Operator(OperatorWait::Gate { watched, .. }) = &gate.action else { panic!("{gate:?}") };
        let watched: Vec<&str> = watched.iter().map(|step| step.as_str()).collect();
        assert_eq!(watched, ["web1.probe-1", "web1.probe-2", "web1.start"], "{operation}");
        for broken in [None, Some("web1.probe-1"), Some("web1.probe-2")] {
            let mut theatre = Theatre::new(plan.clone(), spec.clone());
            theatre.play(|step, _| if Some(step.as_str()) == broken { Act::Fail } else { Act::Succeed });
            let asks = theatre.asks_at().map(|step| step.to_string());
            let started = theatre.done.iter().any(|step| step.as_str() == "db1.start");
            assert_eq!(started, broken.is_none(), "{operation}: {broken:?}");
            assert_eq!(asks.as_deref() == Some("group-1.gate"), broken.is_some(), "{operation}: {asks:?}");
        }
    }
}

fn group(name: &str, of: &str) -> PlanGroup {
    PlanGroup {
        name: name.parse().unwrap(),
        items: vec![GroupItem { item: item(of), after: BTreeSet::new() }],
        at_once: None,
        before: Vec::new(),
        after: Vec::new(),
        gate: Gate::Open,
        delay: None,
    }
}

/// R-FO-4: another point is asked what the first one was asked.
#[test]
fn another_point_is_asked_the_same() {
    let mut theatre = theatre(Operation::UnplannedFailover, &["ping", "tcp:5432"]);
    theatre.until_quiet();
    for change in ["change-1", "change-2"] {
        let point = if change == "change-1" { 19 } else { 20 };
        let points = [(item("web1"), PointChoice::Seq(PointSeq::new(point)))].into();
        theatre.change(&Change::Points(points)).unwrap();
        theatre.until_quiet();
        let of_change: Vec<_> = asked(&theatre.run.plan)
            .into_iter()
            .filter(|(id, ..)| id.starts_with(&format!("web1.{change}")))
            .collect();
        let (start, first) = (format!("web1.{change}-start"), format!("web1.{change}-probe-1"));
        let titles =
            ["Ask web1 to answer at 192.168.50.11", "Ask web1 to accept a connection at 192.168.50.11:5432"];
        let second = format!("web1.{change}-probe-2");
        assert_eq!(of_change, [row(&first, titles[0], &start), row(&second, titles[1], &first)]);
        assert!(theatre.done.iter().any(|step| step.as_str() == second), "{:?}", theatre.done);
    }
}

/// What cannot be asked is said in the preview, and not silently taken for proof.
#[test]
fn without_an_address_only_the_agent_is_asked() {
    let mut alone = facts(Operation::TestFailover, &["ping,name=up", "guest-agent", "tcp:22"]);
    let test = RunSpec { test_network: TestNetwork::None, ..spec(Operation::TestFailover) };
    let plan = planned(&test, &alone);
    assert_eq!(asked(&plan), [row("web1.probe-2", "Ask the agent in web1 to answer", "web1.start")]);
    let notice = "web1 is not asked by up, tcp-22: no address of it is known where it will be";
    assert_eq!(plan.notices, [notice]);

    alone = facts(Operation::UnplannedFailover, &["tcp:22"]);
    alone.connections.nics.iter_mut().for_each(|nic| nic.address = None);
    let plan = planned(&spec(Operation::UnplannedFailover), &alone);
    assert_eq!(asked(&plan), []);
    assert_eq!(plan.notices, ["web1 is not asked by tcp-22: no address of it is known where it will be"]);
}

fn theatre(operation: Operation, probes: &[&str]) -> Theatre {
    let (spec, facts) = (spec(operation), facts(operation, probes));
    Theatre::new(planned(&spec, &facts), spec)
}

/// R-JOB-4: the report has every question with its answer, and the machine was back when all were answered.
#[test]
fn the_report_says_what_was_asked_and_what_was_seen() {
    let mut theatre = theatre(Operation::UnplannedFailover, &["ping", "tcp:5432,name=db", "http:80/health"]);
    while let Some(task) = theatre.queue.pop_front() {
        if task.step.as_str() == "web1.probe-2" {
            let (after, seen) = (Duration::from_secs(90), "connection refused".to_owned());
            let result = StepResult::Probe { reachable: false, after, seen };
            theatre.tell(&Event::StepSucceeded { key: task.key, result, at: theatre.now });
        } else {
            theatre.perform_task(task, Act::Succeed);
        }
    }
    assert_eq!(run::state(&theatre.run), RunState::Waiting, "an answer that is missing is no reason to stop");
    let report = run::report(&theatre.run);
    let of_web1: Vec<_> = report.probes.iter().filter(|probe| probe.item == item("web1")).collect();
    let rows: Vec<_> = of_web1.iter().map(|p| (p.name.as_str(), p.asked.as_str(), p.passed)).collect();
    assert_eq!(
        rows,
        [
            ("ping", "ping", Some(true)),
            ("db", "tcp:5432,name=db", Some(false)),
            ("http-80", "http:80/health", Some(true)),
        ]
    );
    assert_eq!(of_web1[1].seen, "connection refused");
    assert_eq!(of_web1[1].after, Some(Duration::from_secs(90)));
    let problem: &Problem = &report.problems[0];
    assert_eq!((problem.reason.as_str(), problem.subject.as_str()), ("NOT_REACHABLE", "web1.probe-2"));
    assert!(problem.message.ends_with("within 90 s: connection refused"), "{}", problem.message);
    let started = theatre.run.steps[&"web1.start".parse().unwrap()].ended.unwrap();
    let all = theatre.run.steps[&"web1.probe-3".parse().unwrap()].ended.unwrap();
    assert!(report.rto.unwrap() < all.since(theatre.run.started), "it did not answer everything");
    assert!(report.rto.unwrap() >= started.since(theatre.run.started));
}

#[test]
fn a_machine_is_back_when_it_has_answered_everything() {
    let mut theatre = theatre(Operation::UnplannedFailover, &["ping", "tcp:5432"]);
    theatre.until_quiet();
    let ended = |step: &str| theatre.run.steps[&step.parse().unwrap()].ended.unwrap();
    let last = ended("web1.probe-2").max(ended("db1.probe"));
    assert_eq!(run::report(&theatre.run).rto, Some(last.since(theatre.run.started)));
}

/// A run that was begun by a version that knew no probes goes on: it pings.
#[test]
fn a_step_of_before_is_a_ping() {
    let old = r#"{"probe-machine":{"machine":{"named":"web1"},"network":{"named":"prod"},"address":"10.0.0.9",
                  "port":null,"limit":{"secs":90,"nanos":0}}}"#;
    let AgentWork::ProbeMachine { address, probe, .. } = serde_json::from_str(old).unwrap() else { panic!() };
    assert_eq!((address, probe.to_string()), (Some("10.0.0.9".parse().unwrap()), "ping".to_owned()));
    let old = r#"{"probe":{"reachable":true,"after":{"secs":5,"nanos":0}}}"#;
    let StepResult::Probe { seen, .. } = serde_json::from_str(old).unwrap() else { panic!() };
    assert_eq!(seen, "");
}
