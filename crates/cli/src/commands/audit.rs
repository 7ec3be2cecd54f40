use understudy_recovery_api::{RecoveryClient, view::AuditRecord};

use super::all;
use crate::{
    args::Audit,
    output::{self, Format},
};

pub async fn run(client: &RecoveryClient, format: Format, verb: Audit) -> anyhow::Result<()> {
    let Audit::List { limit } = verb;
    let records = all(limit as usize, |page| client.list_audit_records(page)).await?;
    output::print(format, &records, || {
        output::rows(
            ["TIME", "WHO", "WHAT", "TARGET", "DECISION", "RESULT", "WHY"],
            &records,
            |r: &AuditRecord| {
                [
                    output::time(r.time),
                    r.who.clone(),
                    r.what.clone(),
                    r.target.clone(),
                    r.decision.as_str().to_owned(),
                    r.result.clone(),
                    r.why.clone(),
                ]
            },
        )
    })
}
