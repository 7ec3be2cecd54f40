//! Runs and their steps, as people and programs see them.

use std::process::ExitCode;

use understudy_recovery_api::{
    RecoveryClient, RunState, StepState,
    view::{ItemOutcome, PlannedConnection, PlannedStep, Run as View, RunDeadlineState, RunStep},
};

use crate::{
    connection::ConnectionArgs,
    output::{self, Format},
    watch,
};

/// A run that was followed did not succeed.
const NOT_SUCCEEDED: u8 = 3;

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
        ("production", run.spec.test_network.production_notice().unwrap_or_default()),
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

/// Where the NICs of a machine will be connected, one under the other.
pub(super) fn connections(connections: &[PlannedConnection]) -> String {
    let lines: Vec<String> =
        connections.iter().map(|c| format!("{} {} ({})", c.network, c.address, c.reason)).collect();
    lines.join("\n")
}

pub(super) fn show_steps(steps: &[PlannedStep]) {
    let steps = output::rows(["PHASE", "STEP", "WHERE", "ON ERROR"], steps, |s: &PlannedStep| {
        let title =
            if s.point_of_no_return { format!("{} (point of no return)", s.title) } else { s.title.clone() };
        [s.phase.clone(), title, s.executor.clone(), s.on_error.clone()]
    });
    output::say(&steps.to_string());
}
