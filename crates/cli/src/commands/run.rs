use std::process::ExitCode;

use anyhow::{Context, bail};
use understudy_ids::{RunId, StepName};
use understudy_recovery_api::{
    RecoveryClient, StepState,
    request::{AnswerRun, CompleteTest, RunChange, RunVerb, SetRunDeadline},
    view::RunStep,
};

use super::{all, change, request_id, shown, wish};
use crate::{
    args::Run,
    connection::ConnectionArgs,
    output::{self, Format},
};

/// Who does steps that wait for a person, as plans call them.
const OPERATOR: &str = "operator";

pub async fn run(connection: &ConnectionArgs, format: Format, verb: Run) -> anyhow::Result<ExitCode> {
    let client = connection.recovery()?;
    let named = |run: RunId| RunVerb { run, request_id: request_id() };
    let (changed, follow) = match verb {
        Run::List { item } => {
            shown::list(format, &all(usize::MAX, |page| client.list_runs(item.as_ref(), page)).await?)?;
            return Ok(ExitCode::SUCCESS);
        }
        Run::Show { run } => (client.get_run(run).await?, false),
        Run::Screenshot { run, item, out } => {
            let screenshot = client.get_screenshot(run, &item).await?;
            let wrote = || format!("writing {}", out.display());
            std::fs::write(&out, screenshot.png).with_context(wrote)?;
            output::written(format, &out)?;
            return Ok(ExitCode::SUCCESS);
        }
        Run::Report { run, html } => {
            super::report::write(connection, &client, run, &html).await?;
            output::written(format, &html)?;
            return Ok(ExitCode::SUCCESS);
        }
        Run::Watch { run } => {
            let run = client.get_run(run).await?;
            return shown::show(connection, &client, format, run, true).await;
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
            let deadline = wish::deadline(&deadline);
            let request = SetRunDeadline { run, deadline, request_id: request_id() };
            (client.set_run_deadline(request).await?, false)
        }
        Run::ChangePoint { run, points, how } => {
            let items: Vec<_> = client.get_run(run).await?.spec.items.into_iter().collect();
            let change = RunChange::Points(wish::points(&items, points));
            return change::run(connection, format, run, change, &how, None).await;
        }
        Run::CompleteFailover { run, decryption_key, how } => {
            let key = decryption_key.as_deref();
            return change::run(connection, format, run, RunChange::CompleteFailover, &how, key).await;
        }
        Run::RollBack { run, give_up_writes, how } => {
            let change = RunChange::RollBack { give_up_writes };
            return change::run(connection, format, run, change, &how, None).await;
        }
    };
    shown::show(connection, &client, format, changed, follow).await
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
