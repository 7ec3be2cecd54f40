use std::process::ExitCode;

use anyhow::bail;
use understudy_ids::{RunId, StepName};
use understudy_recovery_api::{
    RecoveryClient, RunState, StepState,
    request::{AnswerRun, CompleteTest, RunChange, RunVerb, SetRunDeadline},
    view::{ItemOutcome, Run as View, RunDeadlineState, RunStep},
};

use super::{all, change, failover, request_id};
use crate::{
    args::Run,
    connection::ConnectionArgs,
    output::{self, Format},
    watch,
};

/// Who does steps that wait for a person, as plans call them.
const OPERATOR: &str = "operator";
/// A run that was followed did not succeed.
const NOT_SUCCEEDED: u8 = 3;

pub async fn run(connection: &ConnectionArgs, format: Format, verb: Run) -> anyhow::Result<ExitCode> {
    let client = connection.recovery()?;
    let named = |run: RunId| RunVerb { run, request_id: request_id() };
    let (changed, follow) = match verb {
        Run::List { item } => {
            list(format, &all(usize::MAX, |page| client.list_runs(item.as_ref(), page)).await?)?;
            return Ok(ExitCode::SUCCESS);
        }
        Run::Show { run } => (client.get_run(run).await?, false),
        Run::Watch { run } => {
            let run = client.get_run(run).await?;
            return show(connection, &client, format, run, true).await;
        }
        Run::CompleteTest { run, notes, watch } => {
            (client.complete_test(CompleteTest { run, notes, request_id: request_id() }).await?, watch)
        }
        Run::Commit { run, watch } => (client.commit_run(named(run)).await?, watch),
        Run::Confirm { run, step, watch } => {
            let answer = answer(&client, run, step).await?;
            (client.confirm_run(answer).await?, watch)
        }
        Run::Reject { run, step, watch } => {
            let answer = answer(&client, run, step).await?;
            (client.reject_run(answer).await?, watch)
        }
        Run::Cancel { run, watch } => (client.cancel_run(named(run)).await?, watch),
        Run::Retry { run, watch } => (client.retry_run(named(run)).await?, watch),
        Run::Deadline { run, deadline, none: _ } => {
            let deadline = failover::deadline(&deadline);
            let request = SetRunDeadline { run, deadline, request_id: request_id() };
            (client.set_run_deadline(request).await?, false)
        }
        Run::ChangePoint { run, points, how } => {
            let items: Vec<_> = client.get_run(run).await?.spec.items.into_iter().collect();
            let change = RunChange::Points(failover::points(&items, points));
            return change::run(connection, format, run, change, &how).await;
        }
        Run::RollBack { run, give_up_writes, how } => {
            return change::run(connection, format, run, RunChange::RollBack { give_up_writes }, &how).await;
        }
    };
    show(connection, &client, format, changed, follow).await
}

/// To the question that the run asks: the one that was named, or else the one that it asks now.
async fn answer(client: &RecoveryClient, run: RunId, step: Option<StepName>) -> anyhow::Result<AnswerRun> {
    let asks = |step: &&RunStep| step.plan.executor == OPERATOR && step.state == StepState::Running;
    let step = match step {
        Some(step) => step,
        None => match client.get_run(run).await?.steps.iter().find(asks) {
            Some(step) => step.plan.step.clone(),
            None => bail!("run {run} does not wait for anybody now; look at it: understudy run show {run}"),
        },
    };
    Ok(AnswerRun { run, step, request_id: request_id() })
}

/// Shows a run that was just started or changed; with `follow`, when it has ended or waits for someone.
pub(super) async fn show(
    connection: &ConnectionArgs,
    client: &RecoveryClient,
    format: Format,
    run: View,
    follow: bool,
) -> anyhow::Result<ExitCode> {
    if !follow {
        print(format, &run)?;
        return Ok(ExitCode::SUCCESS);
    }
    let run = watch::follow(client, &connection.jobs()?, &run, format).await?;
    print_result(format, &run)?;
    Ok(match run.state {
        RunState::Failed | RunState::CompletedWithErrors | RunState::Cancelled | RunState::RolledBack => {
            ExitCode::from(NOT_SUCCEEDED)
        }
        _ => ExitCode::SUCCESS,
    })
}

/// Several runs, a line each.
pub(super) fn list(format: Format, runs: &[View]) -> anyhow::Result<()> {
    output::print(format, &runs, || table(runs))
}

fn table(runs: &[View]) -> comfy_table::Table {
    output::rows(["RUN", "OPERATION", "STATE", "ITEMS", "STARTED", "ENDED", "BY"], runs, |r: &View| {
        let items: Vec<String> = r.spec.items.iter().map(ToString::to_string).collect();
        [
            r.name.to_string(),
            r.operation.to_string(),
            r.state.to_string(),
            items.join(", "),
            output::time(r.create_time),
            output::maybe_time(r.end_time),
            r.created_by.clone(),
        ]
    })
}

/// One run: what it is, its steps, what it did to each item.
fn print(format: Format, run: &View) -> anyhow::Result<()> {
    output::print(format, run, || facts(run))?;
    if format == Format::Table {
        output::say(&format!("\n{}", output::rows(["STEP", "STATE", "TOOK", "OUTCOME"], &run.steps, step)));
        print_outputs(run);
        print_outcomes(run);
    }
    Ok(())
}

/// The same without the steps, for someone who has watched them.
fn print_result(format: Format, run: &View) -> anyhow::Result<()> {
    output::print(format, run, || facts(run))?;
    if format == Format::Table {
        print_outcomes(run);
    }
    Ok(())
}

fn facts(run: &View) -> comfy_table::Table {
    output::facts(&[
        ("run", run.name.to_string()),
        ("operation", run.operation.to_string()),
        ("recovery plan", output::maybe(&run.spec.recovery_plan)),
        ("state", format!("{}, {} %", run.state, run.progress_percent)),
        ("phase", run.phase.clone()),
        ("waits for", run.waiting_for.clone()),
        ("allowed now", run.allowed_actions.join(", ")),
        ("deadline", run.deadline.as_ref().map_or_else(String::new, deadline)),
    ])
}

fn deadline(state: &RunDeadlineState) -> String {
    let RunDeadlineState { deadline, set_by, waited, due_time, problems } = state;
    let after = format!("{} after {}, set by {set_by}", deadline.action, output::span(deadline.after));
    match (due_time, waited) {
        _ if !problems.is_empty() => format!("{after}; it could not be kept"),
        (Some(due), Some(waited)) => {
            format!("{after}; has waited {}, due {}", output::span(*waited), output::time(*due))
        }
        _ => after,
    }
}

/// What scripts wrote. It was made printable where it was read.
fn print_outputs(run: &View) {
    for step in run.steps.iter().filter(|step| !step.output.is_empty()) {
        let lines: Vec<String> = step.output.lines().map(|line| format!("    {line}")).collect();
        output::say(&format!("{} wrote:\n{}\n", step.plan.title, lines.join("\n")));
    }
}

fn print_outcomes(run: &View) {
    let outcomes: Vec<&ItemOutcome> = run.outcomes.iter().collect();
    if !outcomes.is_empty() {
        let headings = ["ITEM", "GEN", "POINT", "INSTANT", "DOWNTIME", "AT MOST LOST", "DISKS", "MACHINE"];
        output::say(&format!("\n{}", output::rows(headings, &outcomes, |o| outcome(o))));
    }
    for made in &run.changes {
        output::say(&format!("changed {} by {}: {}", output::time(made.time), made.by, made.text));
    }
    for problem in &run.problems {
        output::say(&format!(
            "! {}: {} [{}]\n    → {}",
            problem.subject, problem.message, problem.reason, problem.remedy
        ));
    }
}

fn step(step: &RunStep) -> [String; 4] {
    let took = match (step.start_time, step.end_time) {
        (Some(start), Some(end)) if step.state != StepState::Skipped => output::span(end.since(start)),
        _ => String::new(),
    };
    let what =
        step.error.as_ref().map_or_else(|| step.outcome.clone(), |p| format!("{} → {}", p.message, p.remedy));
    [step.plan.title.clone(), step.state.to_string(), took, what]
}

fn outcome(outcome: &ItemOutcome) -> [String; 8] {
    let disks: Vec<String> = outcome
        .disks
        .iter()
        .map(|d| format!("{} {}", d.disk, if d.equal { "equal at both sides" } else { "DIFFERENT" }))
        .collect();
    [
        outcome.item.to_string(),
        outcome.generation.to_string(),
        output::maybe(&outcome.point),
        output::maybe_time(outcome.point_instant),
        output::maybe_span(outcome.downtime),
        output::maybe_span(outcome.loss_span),
        disks.join(", "),
        format!("{} {}", outcome.machine, outcome.address),
    ]
}
