//! Changing a run that waits: shown first, then done as shown.

use std::{path::Path, process::ExitCode};

use understudy_ids::RunId;
use understudy_recovery_api::{
    RunState,
    request::{ChangeRun, RunChange},
    view::{ChangedItem, RunChangePreview},
};
use understudy_rpc::ApiError;

use super::{
    request_id, shown,
    unlock::{self, Lender},
    wish,
};
use crate::{
    args::How,
    connection::ConnectionArgs,
    output::{self, Format},
};

pub async fn run(
    connection: &ConnectionArgs,
    format: Format,
    run: RunId,
    change: RunChange,
    how: &How,
    decryption_key: Option<&Path>,
) -> anyhow::Result<ExitCode> {
    let client = connection.recovery()?;
    if let Some(file) = decryption_key {
        let (key, ttl) = (unlock::read_key(file)?, unlock::DEFAULT_TTL);
        let lender = Lender { connection, recovery: &client, key, ttl };
        let items = client.get_run(run).await?.spec.items;
        lender.unlock(&items.iter().map(|item| (item, None)).collect::<Vec<_>>()).await?;
    }
    let ask = async || client.preview_run_change(run, change.clone()).await;
    let preview = unlock::heard(decryption_key.is_some(), ask, |preview| &preview.problems).await?;
    if format == Format::Table {
        tell(&preview);
    } else if how.preview {
        output::say(&serde_json::to_string_pretty(&preview)?);
    }
    if !preview.problems.is_empty() {
        return Err(ApiError::refused("PREVIEW_REFUSED", "this cannot be done", preview.problems).into());
    }
    if how.preview {
        return Ok(ExitCode::SUCCESS);
    }
    if !how.yes && !wish::confirmed()? {
        output::say("nothing was done");
        return Ok(ExitCode::SUCCESS);
    }
    let back = matches!(change, RunChange::RollBack { .. });
    let request = ChangeRun { run, change, plan_digest: preview.digest, request_id: request_id() };
    let changed = client.change_run(request).await?;
    let code = shown::show(connection, &client, format, changed, how.watch).await?;
    // Whoever wanted it back has got what he wanted.
    let came_back = back && how.watch && client.get_run(run).await?.state == RunState::RolledBack;
    Ok(if came_back { ExitCode::SUCCESS } else { code })
}

fn tell(preview: &RunChangePreview) {
    let items = &preview.items;
    if items.is_empty() {
        return;
    }
    let rows = if items.iter().any(|item| item.point.is_some() || item.gives_up.is_some()) {
        let headings = ["ITEM", "POINT", "CONSISTENCY", "INSTANT", "AT MOST LOST", "GIVEN UP"];
        output::rows(headings, items, |i: &ChangedItem| {
            let given_up =
                i.gives_up.map(|span| format!("what was written in the last {}", output::span(span)));
            [
                i.item.to_string(),
                output::maybe(&i.point),
                output::maybe(&i.point_consistency),
                output::maybe_time(i.point_instant),
                output::maybe_span(i.expected_loss),
                given_up.unwrap_or_default(),
            ]
        })
    } else {
        output::rows(["ITEM", "CONNECTION"], items, |i: &ChangedItem| {
            [i.item.to_string(), shown::connections(&i.connections)]
        })
    };
    output::say(&rows.to_string());
    shown::show_steps(&preview.steps);
}
