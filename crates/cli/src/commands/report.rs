//! The record of a run for whoever has to believe it (R-JOB-4): gathered from the services, written by [`crate::report`].

use std::path::Path;

use anyhow::{Context, bail};
use understudy_ids::RunId;
use understudy_recovery::run::Report;
use understudy_recovery_api::{RecoveryClient, Resource};

use super::all;
use crate::{
    connection::ConnectionArgs,
    report::{Evidence, page},
};

/// How many of the newest audit records are looked at for those of the run.
const AUDIT_RECORDS: usize = 10_000;
const NO_SCREENSHOT: &str = "NO_SCREENSHOT";

pub async fn write(
    connection: &ConnectionArgs,
    client: &RecoveryClient,
    run: RunId,
    html: &Path,
) -> anyhow::Result<()> {
    let shown = client.get_run(run).await?;
    let jobs = connection.jobs()?;
    let Some(report) = jobs.get_job(run).await?.report_json else {
        bail!(
            "run {run} has not ended, and its report is written then; look at it: understudy run show {run}"
        );
    };
    let report: Report = serde_json::from_str(&report).context("the report is of another version")?;
    let mut screenshots = Vec::new();
    for item in &report.items {
        match client.get_screenshot(run, &item.item).await {
            Ok(screenshot) => screenshots.push((item.item.clone(), screenshot)),
            Err(error) if error.reason == NO_SCREENSHOT => {}
            Err(error) => return Err(error.into()),
        }
    }
    let target = run.to_resource();
    let mut audit = all(AUDIT_RECORDS, |page| client.list_audit_records(page)).await?;
    audit.retain(|record| record.target == target);
    audit.reverse();
    let notes = jobs.list_notes(run).await?;
    let page = page(&Evidence { run: shown, report, screenshots, notes, audit });
    std::fs::write(html, page).with_context(|| format!("writing {}", html.display()))
}
