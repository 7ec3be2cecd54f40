//! Scripts as steps of a run (R-RP-2).

use std::time::Duration;

use understudy_ids::Generation;
use understudy_recovery::{
    Event, Operation,
    action::{RunScript, StepResult},
    plan::{Phase, RunPlan, Step, lint},
    run::{self, RunState, RunVerb},
};

use crate::{
    theatre::Theatre,
    world::{bravo, item, planned, spec},
};

/// A planned failover whose first step is a script at bravo.
fn with_script() -> Theatre {
    let asked = RunScript {
        script: "move-dns.sh".parse().unwrap(),
        sha256: "0a".repeat(32),
        time_out: Duration::from_secs(60),
        context: "{}".to_owned(),
    };
    let id = "script.move-dns".parse().unwrap();
    let step = Step::script(id, &bravo(), (&item("web1"), Generation::new(1)), asked, Phase::Prepare);
    assert_eq!(step.time_out, Some(Duration::from_secs(660)), "its own time-out, and what sending takes");
    let plan = planned(Operation::PlannedFailover);
    let plan = RunPlan { steps: [vec![step], plan.steps].concat(), ..plan };
    assert_eq!(lint(&plan), []);
    Theatre::new(plan, spec(Operation::PlannedFailover))
}

/// The script, which is the first step, ends so.
fn ends(theatre: &mut Theatre, exit_code: i32, output: &str, truncated: bool) {
    let task = theatre.queue.pop_front().unwrap();
    assert_eq!(task.step.as_str(), "script.move-dns");
    let result = StepResult::Script { exit_code, output: output.to_owned(), truncated };
    theatre.tell(&Event::StepSucceeded { key: task.key, result, at: theatre.now });
}

fn script_of(theatre: &Theatre) -> run::StepReport {
    let steps = run::report(&theatre.run).steps;
    steps.into_iter().find(|step| step.step.as_str() == "script.move-dns").unwrap()
}

#[test]
fn what_a_script_wrote_is_kept_with_its_step() {
    let mut theatre = with_script();
    ends(&mut theatre, 0, "looking\nmoved 3 records\n", false);
    let told = script_of(&theatre);
    assert_eq!((told.title.as_str(), told.item), ("Run the script move-dns.sh", None));
    assert_eq!(told.outcome, "exit code 0: moved 3 records");
    assert_eq!(told.output, "looking\nmoved 3 records");
    theatre.until_quiet();
    assert_eq!(run::state(&theatre.run), RunState::Waiting);
    let others = run::report(&theatre.run).steps.into_iter().filter(|step| !step.output.is_empty());
    assert_eq!(others.count(), 1);
}

#[test]
fn a_script_that_says_nothing_is_told_by_its_exit_code() {
    let mut theatre = with_script();
    ends(&mut theatre, 0, "\n \n", false);
    assert_eq!(script_of(&theatre).outcome, "exit code 0");
    assert_eq!(script_of(&theatre).output, "");
}

/// The worker did what it was told; that the script failed is the run's to see.
#[test]
fn an_exit_code_stops_the_run_and_shows_the_end_of_the_output() {
    let mut theatre = with_script();
    let output = format!("{}the zone is locked\n", "one more line\n".repeat(4_000));
    ends(&mut theatre, 3, &output, true);
    // What was on its way beside it comes home; nothing new begins.
    theatre.until_quiet();
    assert_eq!(run::state(&theatre.run), RunState::Failed);
    let problem = run::problems(&theatre.run).remove(0);
    assert_eq!((problem.reason.as_str(), problem.subject.as_str()), ("SCRIPT_FAILED", "script.move-dns"));
    assert!(
        problem.message.starts_with("the script ended with exit code 3; it ended with:\none more line\n")
    );
    assert!(problem.message.ends_with("\nthe zone is locked") && problem.message.len() < 2500);
    assert!(problem.remedy.contains("retry"));
    let told = script_of(&theatre);
    assert!(told.output.starts_with("…\none more line\n") && told.output.ends_with("\nthe zone is locked"));
    assert!(told.output.len() < 4200, "a report holds every script's");

    // A try that is under way has written nothing yet.
    theatre.ask(RunVerb::Retry);
    assert_eq!(script_of(&theatre).output, "");
    ends(&mut theatre, 0, "moved", false);
    theatre.until_quiet();
    assert_eq!(run::state(&theatre.run), RunState::Waiting);
    assert_eq!(run::problems(&theatre.run), []);
}

#[test]
fn success_without_an_exit_code_is_none() {
    let mut theatre = with_script();
    let key = theatre.queue.pop_front().unwrap().key;
    theatre.tell(&Event::StepSucceeded { key, result: StepResult::Done, at: theatre.now });
    assert_eq!(run::problems(&theatre.run)[0].reason, "UNEXPECTED_RESULT");
}
