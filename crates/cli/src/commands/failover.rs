use std::{cmp::Reverse, collections::BTreeSet, path::Path, process::ExitCode};

use anyhow::bail;
use understudy_ids::{ItemName, PointChoice, Problem, RecoveryPlanName, SiteName};
use understudy_recovery::{recovery_plan::RecoveryPlan, test_network::TestNetwork};
use understudy_recovery_api::{
    Operation, RecoveryClient, Synchronise,
    request::{RunInstant, RunSpec, StartRun},
    view::{PlannedItem, RunPreview},
};
use understudy_rpc::ApiError;

use super::{
    all, request_id, shown,
    unlock::{self, Lender},
    wish::{confirmed, deadline, points},
};
use crate::{
    args::{Failover, FailoverKind, How},
    connection::ConnectionArgs,
    output::{self, Format},
};

pub async fn run(connection: &ConnectionArgs, format: Format, wish: Failover) -> anyhow::Result<ExitCode> {
    if wish.connect_to_production.is_some() && !matches!(wish.network, Some(TestNetwork::Existing { .. })) {
        bail!("--connect-to-production belongs to --network sites/<site>/networks/<network>");
    }
    let client = connection.recovery()?;
    let How { preview: only_preview, yes, watch: follow } = wish.how;
    let (parts, notices) = parts(&client, &wish).await?;
    let mut previews = Vec::new();
    for part in &parts {
        let spec = spec(&wish, part);
        if let Some(file) = &wish.decryption_key {
            unlock(connection, &client, file, &spec, &part.items).await?;
        }
        let ask = async || client.preview_run(spec.clone()).await;
        previews.push(unlock::heard(wish.decryption_key.is_some(), ask, |preview| &preview.problems).await?);
    }
    if format == Format::Table {
        previews.iter().for_each(show);
        notices.iter().for_each(|notice| output::say(&format!("note: {notice}")));
    } else if only_preview {
        print_one_or_all(&wish, &previews)?;
    }
    let (refused, ready): (Vec<RunPreview>, Vec<RunPreview>) =
        previews.into_iter().partition(|preview| !preview.problems.is_empty());
    let refused: Vec<Problem> = refused.into_iter().flat_map(|preview| preview.problems).collect();
    // Where a site is lost, what cannot come up keeps nothing down that can.
    let goes_on = matches!(wish.kind, FailoverKind::Unplanned) && !ready.is_empty();
    if !refused.is_empty() && (only_preview || !goes_on) {
        return Err(ApiError::refused("PREVIEW_REFUSED", "this cannot be started", refused).into());
    }
    if only_preview {
        return Ok(ExitCode::SUCCESS);
    }
    if !yes && !confirmed()? {
        output::say("nothing was done");
        return Ok(ExitCode::SUCCESS);
    }
    let mut runs = Vec::new();
    for preview in ready {
        let request = StartRun { spec: preview.spec, plan_digest: preview.digest, request_id: request_id() };
        runs.push(client.start_run(request).await?);
    }
    if wish.site.is_none()
        && let Some(run) = runs.pop()
    {
        return shown::show(connection, &client, format, run, follow).await;
    }
    shown::list(format, &runs)?;
    if !refused.is_empty() {
        return Err(ApiError::refused("NOT_ALL_STARTED", "the others were started", refused).into());
    }
    Ok(ExitCode::SUCCESS)
}

/// What becomes one run.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    plan: Option<RecoveryPlanName>,
    from: Option<SiteName>,
    /// That it can take.
    items: Vec<ItemName>,
}

/// The runs that are asked for, and what there is to say about how they were found.
async fn parts(client: &RecoveryClient, wish: &Failover) -> anyhow::Result<(Vec<Part>, Vec<String>)> {
    let (plan, from) = (wish.plan.clone(), wish.from.clone());
    if let Some(site) = &wish.site {
        let items = all(usize::MAX, |page| client.list_items(page)).await?;
        let here = items.into_iter().filter(|item| item.active_host.site() == site);
        let mut plans: Vec<RecoveryPlan> = Vec::new();
        // A failback follows none.
        if !matches!(wish.kind, FailoverKind::Failback) {
            let kept = all(usize::MAX, |page| client.list_plans(page)).await?;
            plans.extend(kept.into_iter().map(|kept| kept.plan));
        }
        let found = of_site(site, here.map(|item| item.name).collect(), plans);
        if found.0.is_empty() {
            bail!("no protected item is active at {site}");
        }
        return Ok(found);
    }
    let items = match &plan {
        Some(plan) => client.get_plan(plan).await?.plan.items().cloned().collect(),
        None => wish.items.clone(),
    };
    Ok((vec![Part { plan, from, items }], Vec::new()))
}

/// A part for each plan that has items there, the plans with most of them first, and one for what is left. An item can be in one run
/// only: a plan that has an item of a larger one is left out.
fn of_site(site: &SiteName, here: BTreeSet<ItemName>, plans: Vec<RecoveryPlan>) -> (Vec<Part>, Vec<String>) {
    let items = |plan: &RecoveryPlan| -> Vec<ItemName> {
        plan.items().filter(|item| here.contains(item)).cloned().collect()
    };
    let mut plans: Vec<(RecoveryPlanName, Vec<ItemName>)> = plans
        .iter()
        .map(|plan| (plan.name.clone(), items(plan)))
        .filter(|(_, items)| !items.is_empty())
        .collect();
    plans.sort_by_key(|(name, items)| (Reverse(items.len()), name.clone()));
    let (mut left, mut parts, mut notices) = (here, Vec::new(), Vec::new());
    for (name, items) in plans {
        if let Some(taken) = items.iter().find(|item| !left.contains(item)) {
            notices.push(format!("plan {name} is not followed: {taken} comes up in a larger one"));
            continue;
        }
        left.retain(|item| !items.contains(item));
        parts.push(Part { plan: Some(name), from: Some(site.clone()), items });
    }
    if !left.is_empty() {
        parts.push(Part { plan: None, from: None, items: left.into_iter().collect() });
    }
    (parts, notices)
}

/// For a site there is always a list, however many runs it takes.
fn print_one_or_all(wish: &Failover, previews: &[RunPreview]) -> anyhow::Result<()> {
    let text = match (&wish.site, previews) {
        (None, [one]) => serde_json::to_string_pretty(one)?,
        _ => serde_json::to_string_pretty(previews)?,
    };
    output::say(&text);
    Ok(())
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

fn spec(wish: &Failover, part: &Part) -> RunSpec {
    RunSpec {
        operation: match wish.kind {
            FailoverKind::Test => Operation::TestFailover,
            FailoverKind::Planned => Operation::PlannedFailover,
            FailoverKind::Unplanned => Operation::UnplannedFailover,
            FailoverKind::Reverse => Operation::ReverseReplicate,
            FailoverKind::Failback => Operation::Failback,
        },
        points: points(&part.items, wish.point.clone()),
        // Those of a plan are the orchestrator's to say.
        items: if part.plan.is_some() { BTreeSet::new() } else { part.items.iter().cloned().collect() },
        primary_down_assertion: wish.assert_primary_down.clone(),
        test_network: test_network(wish),
        no_reverse_replication: wish.no_reverse_replication,
        allow_partial_subnet: wish.allow_partial_subnet,
        deadline: deadline(&wish.deadline),
        synchronise_within: wish.synchronise_within,
        instant: match wish.instant {
            Some(time) => Some(RunInstant::AtOrBefore(time)),
            None => wish.consistent.then_some(RunInstant::LatestOfAll),
        },
        recovery_plan: part.plan.clone(),
        from_site: part.from.clone(),
        standby_host: wish.to.clone(),
        promote_test: wish.promote_test,
        synchronise: wish.synchronise.unwrap_or(Synchronise::Before),
    }
}

fn test_network(wish: &Failover) -> TestNetwork {
    match wish.network.clone().unwrap_or_default() {
        TestNetwork::Existing { network, .. } => {
            TestNetwork::Existing { network, connect_to_production: wish.connect_to_production.clone() }
        }
        other => other,
    }
}

fn show(preview: &RunPreview) {
    let headings = ["ITEM", "FROM", "TO", "POINT", "CONSISTENCY", "INSTANT", "AT MOST LOST", "CONNECTION"];
    let items = output::rows(headings, &preview.items, |i: &PlannedItem| {
        [
            i.item.to_string(),
            i.source_host.to_string(),
            i.target_host.to_string(),
            output::maybe(&i.point),
            output::maybe(&i.point_consistency),
            output::maybe_time(i.point_instant),
            output::maybe_span(i.expected_loss),
            shown::connections(&i.connections),
        ]
    });
    output::say(&items.to_string());
    shown::show_steps(&preview.steps);
    for (item, wait) in preview.items.iter().filter_map(|i| Some((&i.item, i.lease_over_in?))) {
        let wait = output::span(wait);
        output::say(&format!(
            "note: {item}: waits up to {wait} until its activation lease has certainly ended"
        ));
    }
    for notice in &preview.notices {
        output::say(&format!("note: {notice}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(name: &str, items: &[&str]) -> RecoveryPlan {
        let items = items.iter().map(|item| serde_json::json!({ "item": item })).collect::<Vec<_>>();
        let groups = serde_json::json!([{ "name": "all", "items": items }]);
        let plan = serde_json::json!({ "name": name, "source_site": "alpha", "target_site": "bravo", "groups": groups });
        serde_json::from_value(plan).unwrap()
    }

    /// R-RP-3: everything of a site comes over once, in the order of the plans that there are.
    #[test]
    fn a_site_is_its_plans_and_what_is_left() {
        let names =
            |items: &[&str]| items.iter().map(|item| item.parse().unwrap()).collect::<Vec<ItemName>>();
        let here = names(&["a", "b", "c", "d", "e"]).into_iter().collect();
        let plans = vec![
            plan("one", &["d", "x"]),
            plan("part", &["a"]),
            plan("shop", &["c", "a", "b"]),
            plan("far", &["x"]),
        ];
        let site: SiteName = "alpha".parse().unwrap();
        let (parts, notices) = of_site(&site, here, plans);
        let from = Some(site);
        assert_eq!(
            parts,
            [
                Part {
                    plan: Some("shop".parse().unwrap()),
                    from: from.clone(),
                    items: names(&["c", "a", "b"])
                },
                Part { plan: Some("one".parse().unwrap()), from, items: names(&["d"]) },
                Part { plan: None, from: None, items: names(&["e"]) },
            ]
        );
        assert_eq!(notices, ["plan part is not followed: a comes up in a larger one"]);
    }
}
