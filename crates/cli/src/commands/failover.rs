use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write},
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::bail;
use understudy_ids::{ItemName, PointChoice};
use understudy_recovery_api::{
    DeadlineAction, Operation, RecoveryClient,
    request::{RunDeadline, RunInstant, RunSpec, StartRun},
    view::{PlannedItem, PlannedStep, RunPreview},
};
use understudy_rpc::ApiError;

use super::{
    request_id,
    unlock::{self, Lender},
};
use crate::{
    args::{DeadlineWish, Failover, FailoverKind, How, PointWish},
    connection::ConnectionArgs,
    output::{self, Format},
};

/// Agents tell their facts at most once a second.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const FACTS_ARRIVE: Duration = Duration::from_secs(15);

pub async fn run(connection: &ConnectionArgs, format: Format, wish: Failover) -> anyhow::Result<ExitCode> {
    let client = connection.recovery()?;
    let How { preview: only_preview, yes, watch: follow } = wish.how;
    let key = wish.decryption_key.clone();
    let items = match &wish.plan {
        Some(plan) => client.get_plan(plan).await?.plan.items().cloned().collect(),
        None => wish.items.clone(),
    };
    let spec = spec(wish, &items);
    if let Some(file) = &key {
        unlock(connection, &client, file, &spec, &items).await?;
    }
    let preview = preview(&client, spec, key.is_some()).await?;
    if format == Format::Table {
        show(&preview);
    } else if only_preview {
        output::say(&serde_json::to_string_pretty(&preview)?);
    }
    if !preview.problems.is_empty() {
        return Err(ApiError::refused("PREVIEW_REFUSED", "this cannot be started", preview.problems).into());
    }
    if only_preview {
        return Ok(ExitCode::SUCCESS);
    }
    if !yes && !confirmed()? {
        output::say("nothing was done");
        return Ok(ExitCode::SUCCESS);
    }
    let request = StartRun { spec: preview.spec, plan_digest: preview.digest, request_id: request_id() };
    let started = client.start_run(request).await?;
    super::run::show(connection, &client, format, started, follow).await
}

/// Unlocks those items of the run that are encrypted where it goes to.
async fn unlock(
    connection: &ConnectionArgs,
    client: &RecoveryClient,
    file: &Path,
    spec: &RunSpec,
    items: &[ItemName],
) -> anyhow::Result<()> {
    let (key, ttl) = (unlock::read_key(file)?, unlock::DEFAULT_TTL);
    let lender = Lender { connection, recovery: client, key, ttl };
    // Without a number, the newest point's key is lent; it opens all that were made since the recipients changed last.
    let seq = |item| match spec.points.get(item) {
        Some(PointChoice::Seq(seq)) => Some(*seq),
        Some(PointChoice::LatestAppConsistent) | None => None,
    };
    let items: Vec<_> = items.iter().map(|item| (item, seq(item))).collect();
    lender.unlock(&items).await
}

/// The preview. The orchestrator hears of a key that was just lent with the host's next facts, which is waited for.
async fn preview(client: &RecoveryClient, spec: RunSpec, unlocked: bool) -> Result<RunPreview, ApiError> {
    let deadline = Instant::now() + FACTS_ARRIVE;
    let mut tick = tokio::time::interval(LOOK_EVERY);
    loop {
        tick.tick().await;
        let preview = client.preview_run(spec.clone()).await?;
        let locked = preview.problems.iter().any(|p| p.reason == "KEY_MISSING" || p.reason == "KEY_EXPIRED");
        if !unlocked || !locked || Instant::now() >= deadline {
            return Ok(preview);
        }
    }
}

/// `all` are the items that the run can take.
fn spec(wish: Failover, all: &[ItemName]) -> RunSpec {
    RunSpec {
        operation: match wish.kind {
            FailoverKind::Test => Operation::TestFailover,
            FailoverKind::Planned => Operation::PlannedFailover,
            FailoverKind::Unplanned => Operation::UnplannedFailover,
            FailoverKind::Reverse => Operation::ReverseReplicate,
        },
        points: points(all, wish.point),
        items: wish.items.into_iter().collect(),
        primary_down_assertion: wish.assert_primary_down,
        without_network: wish.without_network,
        no_reverse_replication: wish.no_reverse_replication,
        deadline: deadline(&wish.deadline),
        synchronise_within: wish.synchronise_within,
        instant: match wish.instant {
            Some(time) => Some(RunInstant::AtOrBefore(time)),
            None => wish.consistent.then_some(RunInstant::LatestOfAll),
        },
        recovery_plan: wish.plan,
        from_site: wish.from,
    }
}

/// At most one of the two is given.
pub(super) fn deadline(wish: &DeadlineWish) -> Option<RunDeadline> {
    let commit = wish.commit_after.map(|after| RunDeadline { action: DeadlineAction::Commit, after });
    commit.or(wish.roll_back_after.map(|after| RunDeadline { action: DeadlineAction::RollBack, after }))
}

/// A wish for one item goes before one for all.
pub(super) fn points(items: &[ItemName], wishes: Vec<PointWish>) -> BTreeMap<ItemName, PointChoice> {
    let (of_one, of_all): (Vec<_>, Vec<_>) = wishes.into_iter().partition(|wish| wish.item.is_some());
    let of_all = of_all.iter().flat_map(|wish| items.iter().map(|item| (item.clone(), wish.choice)));
    let of_one = of_one.into_iter().filter_map(|wish| Some((wish.item?, wish.choice)));
    of_all.chain(of_one).collect()
}

fn show(preview: &RunPreview) {
    let headings = ["ITEM", "FROM", "TO", "POINT", "CONSISTENCY", "INSTANT", "AT MOST LOST", "CONNECTION"];
    let items = output::rows(headings, &preview.items, |i: &PlannedItem| {
        let connections: Vec<String> =
            i.connections.iter().map(|c| format!("{} {} ({})", c.network, c.address, c.reason)).collect();
        [
            i.item.to_string(),
            i.source_host.to_string(),
            i.target_host.to_string(),
            output::maybe(&i.point),
            output::maybe(&i.point_consistency),
            output::maybe_time(i.point_instant),
            output::maybe_span(i.expected_loss),
            connections.join("\n"),
        ]
    });
    output::say(&items.to_string());
    show_steps(&preview.steps);
    for notice in &preview.notices {
        output::say(&format!("note: {notice}"));
    }
}

pub(super) fn show_steps(steps: &[PlannedStep]) {
    let steps = output::rows(["PHASE", "STEP", "WHERE", "ON ERROR"], steps, |s: &PlannedStep| {
        let title =
            if s.point_of_no_return { format!("{} (point of no return)", s.title) } else { s.title.clone() };
        [s.phase.clone(), title, s.executor.clone(), s.on_error.clone()]
    });
    output::say(&steps.to_string());
}

pub(super) fn confirmed() -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("nobody can be asked here: give --yes to start, or --preview to only look");
    }
    print!("Start? [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
