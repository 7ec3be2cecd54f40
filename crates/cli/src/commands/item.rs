use std::process::ExitCode;

use understudy_recovery_api::{
    request::{ProtectMachine, Unprotect},
    view::{ProtectedItem, ReplicationHealth},
};

use super::{all, request_id};
use crate::{
    args::Item,
    connection::ConnectionArgs,
    output::{self, Format},
};

pub async fn run(connection: &ConnectionArgs, format: Format, verb: Item) -> anyhow::Result<ExitCode> {
    let client = connection.recovery()?;
    match verb {
        Item::Protect { item, machine, to, policy, exclude_disk, check, watch } => {
            let request = ProtectMachine {
                item,
                machine,
                target: to,
                policy,
                excluded: exclude_disk.into_iter().collect(),
                request_id: request_id(),
                validate_only: check,
            };
            match client.protect_machine(request).await?.run {
                Some(run) => return super::run::show(connection, &client, format, run, watch).await,
                None => output::say("nothing stands against it"),
            }
        }
        Item::Unprotect { item, delete_replica, watch } => {
            let request = Unprotect { item, delete_replica, request_id: request_id() };
            let run = client.unprotect_item(request).await?;
            return super::run::show(connection, &client, format, run, watch).await;
        }
        Item::List => {
            let items = all(usize::MAX, |page| client.list_items(page)).await?;
            output::print(format, &items, || table(&items))?;
        }
        Item::Show { item } => {
            let item = client.get_item(&item).await?;
            output::print(format, &item, || details(&item))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn table(items: &[ProtectedItem]) -> comfy_table::Table {
    let headings = ["ITEM", "STATE", "ACTIVE AT", "STAND-BY AT", "GEN", "POINT", "RPO", "HEALTH"];
    output::rows(headings, items, |i| {
        [
            i.name.to_string(),
            i.state.to_string(),
            i.active_host.to_string(),
            i.standby_host.to_string(),
            i.generation.to_string(),
            output::maybe(&i.latest_point),
            output::maybe_span(i.health.rpo),
            health(&i.health),
        ]
    })
}

fn health(health: &ReplicationHealth) -> String {
    if health.reason.is_empty() {
        health.level.to_string()
    } else {
        format!("{}: {}", health.level, health.reason)
    }
}

fn details(item: &ProtectedItem) -> comfy_table::Table {
    let health_of = &item.health;
    let disks: Vec<String> = item.disks.iter().map(ToString::to_string).collect();
    let progress = if health_of.total_bytes > 0 {
        format!("{} of {}", output::bytes(health_of.sent_bytes), output::bytes(health_of.total_bytes))
    } else {
        String::new()
    };
    let cycle = health_of
        .last_cycle
        .map(|took| {
            format!(
                "{} in {}, {}",
                output::bytes(health_of.last_cycle_bytes),
                output::span(took),
                health_of.last_cycle_kind
            )
        })
        .unwrap_or_default();
    let error =
        health_of.last_error.as_ref().map(|p| format!("{} → {}", p.message, p.remedy)).unwrap_or_default();
    output::facts(&[
        ("item", item.name.to_string()),
        ("machine", item.machine.to_string()),
        ("state", item.state.to_string()),
        ("active at", item.active_host.to_string()),
        ("stand-by at", item.standby_host.to_string()),
        ("generation", item.generation.to_string()),
        ("policy", item.policy.to_string()),
        ("disks", disks.join(", ")),
        ("latest point", output::maybe(&item.latest_point)),
        ("recovery point age", output::maybe_span(health_of.rpo)),
        ("objective", output::maybe_span(health_of.rpo_objective)),
        ("health", health(health_of)),
        ("replication", health_of.activity.clone()),
        ("progress", progress),
        ("last cycle", cycle),
        ("last error", error),
        ("held by run", output::maybe(&item.run)),
        ("test run", output::maybe(&item.test_run)),
        ("allowed now", item.allowed_actions.join(", ")),
    ])
}
