use std::path::{Path, PathBuf};

use anyhow::Context;
use understudy_recovery_api::{
    RecoveryClient,
    request::{CreatePolicy, PolicySettings, UpdatePolicy},
    view::Policy as View,
};
use understudy_replication::{AppConsistency, Bandwidth, ReplicationSettings, Tier};
use understudy_sealing::Recipient;

use super::{all, request_id};
use crate::{
    args::{Policy, PolicyChanges, ReplicationArgs},
    output::{self, Format},
};

pub async fn run(client: &RecoveryClient, format: Format, verb: Policy) -> anyhow::Result<()> {
    let policy = match verb {
        Policy::Create {
            policy,
            interval,
            rpo,
            keep,
            keep_age,
            keep_tier,
            shutdown_grace,
            power_off,
            activation_lease,
            replication,
        } => {
            let settings = PolicySettings {
                interval,
                rpo_objective: rpo.unwrap_or(interval * 3),
                keep_count: keep,
                keep_age,
                keep_tiers: keep_tier,
                shutdown_grace,
                power_off_after_grace: power_off,
                activation_lease,
                replication: settings(*replication)?,
            };
            client.create_policy(CreatePolicy { policy, settings, request_id: request_id() }).await?
        }
        Policy::Update { policy, changes } => {
            let before = client.get_policy(&policy).await?.settings;
            let etag = Some(before.etag());
            let settings = changed(before, *changes)?;
            client.update_policy(UpdatePolicy { policy, settings, etag, request_id: request_id() }).await?
        }
        Policy::Show { policy } => client.get_policy(&policy).await?,
        Policy::List => {
            let policies = all(usize::MAX, |page| client.list_policies(page)).await?;
            return output::print(format, &policies, || table(&policies));
        }
    };
    output::print(format, &policy, || details(&policy))
}

fn settings(args: ReplicationArgs) -> anyhow::Result<ReplicationSettings> {
    let ReplicationArgs {
        compression,
        app_consistent_every,
        freeze_limit,
        bandwidth,
        bandwidth_window,
        bandwidth_utc_offset,
        encrypt_for,
    } = args;
    let app_consistency = app_consistent_every.map(|every| AppConsistency { every, freeze_limit });
    let bandwidth = Bandwidth {
        otherwise: bandwidth,
        windows: bandwidth_window,
        utc_offset_minutes: bandwidth_utc_offset,
    };
    let encrypt_for = certificates(&encrypt_for)?;
    Ok(ReplicationSettings { compression, app_consistency, bandwidth, encrypt_for })
}

/// The settings with what is named otherwise.
fn changed(before: PolicySettings, changes: PolicyChanges) -> anyhow::Result<PolicySettings> {
    let PolicyChanges {
        interval,
        rpo,
        keep,
        keep_age,
        keep_tier,
        no_keep_tier,
        shutdown_grace,
        power_off,
        activation_lease,
        no_activation_lease,
        compression,
        app_consistent_every,
        no_app_consistency,
        freeze_limit,
        bandwidth,
        bandwidth_window,
        no_bandwidth_window,
        bandwidth_utc_offset,
        encrypt_for,
        no_encryption,
    } = changes;
    let old = before.replication;
    let every = app_consistent_every.or(old.app_consistency.map(|app| app.every));
    let app_consistency = every.filter(|_| !no_app_consistency).map(|every| AppConsistency {
        every,
        freeze_limit: freeze_limit
            .or(old.app_consistency.map(|app| app.freeze_limit))
            .unwrap_or(AppConsistency::FREEZE_LIMIT),
    });
    if freeze_limit.is_some() && app_consistency.is_none() {
        anyhow::bail!("the policy has no app-consistent points; say how often: --app-consistent-every 1h");
    }
    let bandwidth = Bandwidth {
        otherwise: bandwidth.unwrap_or(old.bandwidth.otherwise),
        windows: replaced(old.bandwidth.windows, bandwidth_window, no_bandwidth_window),
        utc_offset_minutes: bandwidth_utc_offset.unwrap_or(old.bandwidth.utc_offset_minutes),
    };
    Ok(PolicySettings {
        interval: interval.unwrap_or(before.interval),
        rpo_objective: rpo.unwrap_or(before.rpo_objective),
        keep_count: keep.unwrap_or(before.keep_count),
        keep_age: keep_age.unwrap_or(before.keep_age),
        keep_tiers: replaced(before.keep_tiers, keep_tier, no_keep_tier),
        shutdown_grace: shutdown_grace.unwrap_or(before.shutdown_grace),
        power_off_after_grace: power_off.unwrap_or(before.power_off_after_grace),
        activation_lease: activation_lease.or(before.activation_lease).filter(|_| !no_activation_lease),
        replication: ReplicationSettings {
            compression: compression.unwrap_or(old.compression),
            app_consistency,
            bandwidth,
            encrypt_for: replaced(old.encrypt_for, certificates(&encrypt_for)?, no_encryption),
        },
    })
}

/// The new list where there is one, none where none is wanted, and otherwise what there was.
fn replaced<T>(before: Vec<T>, given: Vec<T>, none: bool) -> Vec<T> {
    if given.is_empty() && !none { before } else { given }
}

fn certificates(files: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    files.iter().map(|file| certificate(file)).collect()
}

fn certificate(file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file);
    let text = text.with_context(|| format!("the certificate {} cannot be read", file.display()))?;
    Recipient::from_pem(&text).with_context(|| format!("{} cannot be encrypted for", file.display()))?;
    Ok(text)
}

/// Who can read the replicas.
fn readers(settings: &ReplicationSettings) -> String {
    let told = |pem: &String| match Recipient::from_pem(pem) {
        Ok(r) => format!("{} (sha256 {}, ends {})", r.subject, r.fingerprint, output::time(r.not_after)),
        Err(error) => format!("a certificate that cannot be used: {error}"),
    };
    let all: Vec<String> = settings.encrypt_for.iter().map(told).collect();
    if all.is_empty() { "nobody, they are not encrypted".to_owned() } else { all.join("\n") }
}

fn table(policies: &[View]) -> comfy_table::Table {
    let headings = ["POLICY", "INTERVAL", "RPO", "KEEP", "APP-CONSISTENT", "SHUTDOWN GRACE", "THEN"];
    output::rows(headings, policies, |p: &View| {
        let s = &p.settings;
        [
            p.name.to_string(),
            output::span(s.interval),
            output::span(s.rpo_objective),
            keeps(s),
            s.replication.app_consistency.map_or_else(|| "never".to_owned(), |a| output::span(a.every)),
            output::span(s.shutdown_grace),
            after_grace(s).to_owned(),
        ]
    })
}

fn details(policy: &View) -> comfy_table::Table {
    let s = &policy.settings;
    output::facts(&[
        ("policy", policy.name.to_string()),
        ("interval", output::span(s.interval)),
        ("objective", output::span(s.rpo_objective)),
        ("keeps points", keeps(s)),
        ("app-consistent", app_consistency(s.replication.app_consistency)),
        ("compression", s.replication.compression.as_str().to_owned()),
        ("bandwidth", bandwidth(&s.replication.bandwidth)),
        ("encrypted for", readers(&s.replication)),
        ("shutdown grace", output::span(s.shutdown_grace)),
        ("after grace", after_grace(s).to_owned()),
        ("activation lease", s.activation_lease.map_or_else(|| "none".to_owned(), output::span)),
        ("created", output::time(policy.create_time)),
    ])
}

fn keeps(settings: &PolicySettings) -> String {
    let mut text = format!("{} or {}", settings.keep_count, output::span(settings.keep_age));
    for Tier { every, age } in &settings.keep_tiers {
        text += &format!(", one per {} for {}", output::span(*every), output::span(*age));
    }
    text
}

fn after_grace(settings: &PolicySettings) -> &'static str {
    if settings.power_off_after_grace { "power off" } else { "stop the run" }
}

fn bandwidth(limit: &Bandwidth) -> String {
    let Bandwidth { otherwise, windows, utc_offset_minutes } = limit;
    if windows.is_empty() {
        return otherwise.to_string();
    }
    let windows: Vec<String> = windows.iter().map(ToString::to_string).collect();
    format!("{}; otherwise {otherwise}; UTC {utc_offset_minutes:+} min", windows.join("; "))
}

fn app_consistency(asked: Option<AppConsistency>) -> String {
    let Some(AppConsistency { every, freeze_limit }) = asked else { return "never".to_owned() };
    format!("every {}, frozen for at most {}", output::span(every), output::span(freeze_limit))
}
