use understudy_recovery_api::{
    RecoveryClient,
    request::{CreatePolicy, PolicySettings},
    view::Policy as View,
};

use super::{all, request_id};
use crate::{
    args::Policy,
    output::{self, Format},
};

pub async fn run(client: &RecoveryClient, format: Format, verb: Policy) -> anyhow::Result<()> {
    let policies = match verb {
        Policy::Create { policy, interval, rpo, keep, keep_age, shutdown_grace, power_off } => {
            let settings = PolicySettings {
                interval,
                rpo_objective: rpo.unwrap_or(interval * 3),
                keep_count: keep,
                keep_age,
                shutdown_grace,
                power_off_after_grace: power_off,
            };
            vec![client.create_policy(CreatePolicy { policy, settings, request_id: request_id() }).await?]
        }
        Policy::List => all(usize::MAX, |page| client.list_policies(page)).await?,
    };
    output::print(format, &policies, || {
        let headings = ["POLICY", "INTERVAL", "RPO", "KEEP", "SHUTDOWN GRACE", "THEN"];
        output::rows(headings, &policies, |p: &View| {
            [
                p.name.to_string(),
                output::span(p.interval),
                output::span(p.rpo_objective),
                format!("{} or {}", p.keep_count, output::span(p.keep_age)),
                output::span(p.shutdown_grace),
                if p.power_off_after_grace { "power off" } else { "stop the run" }.to_owned(),
            ]
        })
    })
}
