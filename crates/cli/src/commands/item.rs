use std::{process::ExitCode, time::Duration};

use understudy_ids::{ItemName, PointSeq};
use understudy_recovery_api::{
    RecoveryClient,
    request::{
        ChangeDisks, ProtectMachine, ScrubItem, Seed, SetItemAddress, SetItemPolicy, SetItemProbes, Steer,
        Unprotect,
    },
    view::{ActivationLease, Alert, Pause, ProtectedItem, ReplicationHealth, RpoPercentiles, Scrub},
};
use understudy_rpc::retry;

use super::{
    all, request_id,
    unlock::{self, Lender},
};
use crate::{
    args::Item,
    connection::ConnectionArgs,
    output::{self, Format},
};

/// How often a watch asks. Agents tell their facts at most once a second.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub async fn run(connection: &ConnectionArgs, format: Format, verb: Item) -> anyhow::Result<ExitCode> {
    let client = connection.recovery()?;
    match verb {
        Item::Protect { item, machine, to, policy, exclude_disk, seed, export_seed, check, watch } => {
            let request = ProtectMachine {
                item,
                machine,
                target: to,
                policy,
                excluded: exclude_disk.into_iter().collect(),
                seed: seed.map(|name| Seed { name, export: export_seed }),
                request_id: request_id(),
                validate_only: check,
            };
            match client.protect_machine(request).await?.run {
                Some(run) => return super::shown::show(connection, &client, format, run, watch).await,
                None => output::say("nothing stands against it"),
            }
        }
        Item::Unprotect { item, delete_replica, watch } => {
            let request = Unprotect { item, delete_replica, request_id: request_id() };
            let run = client.unprotect_item(request).await?;
            return super::shown::show(connection, &client, format, run, watch).await;
        }
        Item::Scrub { item, point } => {
            let request = ScrubItem { item, point: point.map(PointSeq::new), request_id: request_id() };
            let job = client.scrub_item(request).await?;
            output::print(format, &serde_json::json!({ "job": job }), || {
                output::facts(&[
                    ("job", job.to_string()),
                    ("follow it with", format!("understudy job watch {job}")),
                ])
            })?;
        }
        Item::Unlock { item, decryption_key, point, ttl_s } => {
            let key = unlock::read_key(&decryption_key)?;
            let ttl = Duration::from_secs(ttl_s);
            let lender = Lender { connection, recovery: &client, key, ttl };
            lender.unlock(&[(&item, point.map(PointSeq::new))]).await?;
        }
        Item::Lock { item } => unlock::lock(connection, &client, &item).await?,
        Item::List => {
            let items = all(usize::MAX, |page| client.list_items(page)).await?;
            output::print(format, &items, || table(&items))?;
        }
        Item::Show { item } => {
            let item = client.get_item(&item).await?;
            output::print(format, &item, || details(&item))?;
        }
        Item::Disks { item, add, exclude } => {
            let request = ChangeDisks {
                item,
                add: add.into_iter().collect(),
                exclude: exclude.into_iter().collect(),
                request_id: request_id(),
            };
            let item = client.change_disks(request).await?;
            output::print(format, &item, || details(&item))?;
        }
        Item::SetPolicy { item, policy } => {
            let request = SetItemPolicy { item, policy, request_id: request_id() };
            let item = client.set_item_policy(request).await?;
            output::print(format, &item, || details(&item))?;
        }
        Item::Probes { item, probe: probes, none: _ } => {
            let request = SetItemProbes { item, probes, request_id: request_id() };
            let item = client.set_item_probes(request).await?;
            output::print(format, &item, || details(&item))?;
        }
        Item::Address { item, nic, failover, test } => {
            let request = SetItemAddress { item, nic, failover, test, request_id: request_id() };
            let item = client.set_item_address(request).await?;
            output::print(format, &item, || details(&item))?;
        }
        Item::Pause { item, reason } => {
            let request = Steer { item, reason, request_id: request_id() };
            let item = client.pause_replication(request).await?;
            output::print(format, &item, || details(&item))?;
        }
        Item::Resume { item, reason } => {
            let request = Steer { item, reason, request_id: request_id() };
            let item = client.resume_replication(request).await?;
            output::print(format, &item, || details(&item))?;
        }
        Item::Health { item, watch: false } => {
            let item = client.get_item(&item).await?;
            output::print(format, &item.health, || health_details(&item))?;
        }
        Item::Health { item, watch: true } => watch_health(&client, format, &item).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Every change as one line, until interrupted. An orchestrator that is away is waited for.
async fn watch_health(client: &RecoveryClient, format: Format, item: &ItemName) -> anyhow::Result<()> {
    let mut before = None;
    let mut tick = tokio::time::interval(LOOK_EVERY);
    loop {
        tick.tick().await;
        let health = match client.get_item(item).await {
            Ok(item) => item.health,
            Err(error) if retry::retryable(&error) => {
                eprintln!("waiting for the orchestrator: {}", error.message);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        // The age grows all the time; it is told with everything else.
        let same = ReplicationHealth { rpo: None, ..health.clone() };
        if before.as_ref() != Some(&same) {
            match format {
                Format::Json => output::say(&serde_json::to_string(&health)?),
                Format::Table => output::say(&health_line(&health)),
            }
            before = Some(same);
        }
    }
}

fn health_line(health: &ReplicationHealth) -> String {
    let facts = [
        ("age", output::maybe_span(health.rpo)),
        ("backlog", health.backlog_bytes.map(output::bytes).unwrap_or_default()),
        ("progress", progress(health)),
        ("at", throughput(health.throughput_bytes_per_second)),
        ("failures", Some(health.failures).filter(|n| *n > 0).map(|n| n.to_string()).unwrap_or_default()),
        ("", health.reason.clone()),
    ];
    let told = facts.iter().filter(|(_, value)| !value.is_empty());
    let told: Vec<String> = told.map(|(name, value)| format!("{name} {value}").trim().to_owned()).collect();
    format!("{:<8} {:<8} {}", health.level.to_string(), health.activity, told.join(", "))
}

fn throughput(bytes_per_second: u64) -> String {
    if bytes_per_second == 0 { String::new() } else { format!("{}/s", output::bytes(bytes_per_second)) }
}

fn progress(health: &ReplicationHealth) -> String {
    if health.total_bytes == 0 {
        return String::new();
    }
    format!("{} of {}", output::bytes(health.sent_bytes), output::bytes(health.total_bytes))
}

fn last_cycle(health: &ReplicationHealth) -> String {
    let Some(took) = health.last_cycle.filter(|took| !took.is_zero()) else { return String::new() };
    let rate = (health.last_cycle_bytes as f64 / took.as_secs_f64()) as u64;
    let bytes = output::bytes(health.last_cycle_bytes);
    let (took, rate) = (output::span(took), output::bytes(rate));
    format!("{bytes} in {took} ({rate}/s), {}", health.last_cycle_kind)
}

fn last_error(health: &ReplicationHealth) -> String {
    let Some(problem) = &health.last_error else { return String::new() };
    let since =
        health.failing_since.map(|at| format!(", {} in a row since {}", health.failures, output::time(at)));
    format!("{} ({}){} → {}", problem.message, problem.reason, since.unwrap_or_default(), problem.remedy)
}

fn ages(ages: Option<&RpoPercentiles>) -> String {
    let Some(RpoPercentiles { p50, p95, p99, worst, covered }) = ages else { return String::new() };
    let [p50, p95, p99, worst, covered] = [p50, p95, p99, worst, covered].map(|span| output::span(*span));
    format!("p50 {p50}, p95 {p95}, p99 {p99}, worst {worst}; {covered} known")
}

fn alerts(health: &ReplicationHealth) -> String {
    let told = |alert: &Alert| {
        let gone =
            alert.gone_since.map(|at| format!(", gone since {}", output::time(at))).unwrap_or_default();
        let since = output::time(alert.since);
        format!("{} {} since {since}{gone}: {} → {}", alert.level, alert.code, alert.message, alert.remedy)
    };
    health.alerts.iter().map(told).collect::<Vec<_>>().join("\n")
}

fn health_facts(health: &ReplicationHealth) -> Vec<(&'static str, String)> {
    vec![
        ("recovery point age", output::maybe_span(health.rpo)),
        ("objective", output::maybe_span(health.rpo_objective)),
        ("last at rest", output::maybe_time(health.last_application_point)),
        ("health", self::health(health)),
        ("remedy", health.remedy.clone()),
        ("replication", health.activity.clone()),
        ("progress", progress(health)),
        ("throughput", throughput(health.throughput_bytes_per_second)),
        ("backlog", health.backlog_bytes.map(output::bytes).unwrap_or_default()),
        ("last cycle", last_cycle(health)),
        ("last error", last_error(health)),
        ("ages, last hour", ages(health.last_hour.as_ref())),
        ("ages, last day", ages(health.last_day.as_ref())),
        ("alerts", alerts(health)),
    ]
}

fn health_details(item: &ProtectedItem) -> comfy_table::Table {
    let mut facts = vec![("item", item.name.to_string()), ("state", item.state.to_string())];
    facts.push(("latest point", output::maybe(&item.latest_point)));
    facts.extend(health_facts(&item.health));
    output::facts(&facts)
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

fn addresses(item: &ProtectedItem) -> String {
    let lines = item.addresses.iter().map(|chosen| {
        let failover = chosen.failover.map(|address| format!(", failover {address}")).unwrap_or_default();
        let test = chosen.test.map(|address| format!(", test {address}")).unwrap_or_default();
        format!("NIC {} at {}{failover}{test}", chosen.nic, chosen.site)
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn details(item: &ProtectedItem) -> comfy_table::Table {
    let disks: Vec<String> = item.disks.iter().map(ToString::to_string).collect();
    let excluded: Vec<String> = item.excluded_disks.iter().map(ToString::to_string).collect();
    let probes: Vec<String> = item.probes.iter().map(ToString::to_string).collect();
    let probes = if probes.is_empty() { "ping".to_owned() } else { probes.join("\n") };
    let mut facts = vec![
        ("item", item.name.to_string()),
        ("machine", item.machine.to_string()),
        ("state", item.state.to_string()),
        ("active at", item.active_host.to_string()),
        ("stand-by at", item.standby_host.to_string()),
        ("generation", item.generation.to_string()),
        ("policy", item.policy.to_string()),
        ("consistency group", output::maybe(&item.group)),
        ("disks", disks.join(", ")),
        ("left out", excluded.join(", ")),
        ("probes", probes),
        ("addresses", addresses(item)),
        ("latest point", output::maybe(&item.latest_point)),
    ];
    facts.extend(health_facts(&item.health));
    facts.extend([
        ("paused", item.pause.as_ref().map(pause).unwrap_or_default()),
        ("activation lease", item.activation_lease.as_ref().map(lease).unwrap_or_default()),
        ("held by run", output::maybe(&item.run)),
        ("test run", output::maybe(&item.test_run)),
        ("last scrub", scrub(&item.scrub)),
        ("allowed now", item.allowed_actions.join(", ")),
    ]);
    output::facts(&facts)
}

fn lease(lease: &ActivationLease) -> String {
    let ActivationLease { length, held, over_in, stopped } = lease;
    let length = output::span(*length);
    match stopped {
        Some(at) => format!("{length}; had ended, the machine was stopped at {}", output::time(*at)),
        None if *held => {
            format!("{length}; not renewed from now on, it has certainly ended in {}", output::span(*over_in))
        }
        None => format!("{length}; its host does not hold it yet"),
    }
}

fn pause(Pause { since, by, reason }: &Pause) -> String {
    let since = format!("since {} by {by}", output::time(*since));
    if reason.is_empty() { since } else { format!("{since}: {reason}") }
}

fn scrub(scrub: &Scrub) -> String {
    let last = scrub.last_end.map(|at| format!("{}, {} blocks", output::time(at), scrub.checked_blocks));
    let now = scrub.under_way_since.map(|at| format!("under way since {}", output::time(at)));
    [last, now].into_iter().flatten().collect::<Vec<_>>().join("; ")
}
