//! Recovery plans, which are files for people: written, compared and kept under version control like others.

use std::{
    fs,
    io::{self, Read},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context, bail};
use serde::Serialize;
use similar::TextDiff;
use understudy_ids::RecoveryPlanName;
use understudy_recovery::recovery_plan::{ActionKind, PlanAction, PlanGroup, RecoveryPlan};
use understudy_recovery_api::{
    RecoveryClient,
    request::{CreatePlan, DeletePlan, UpdatePlan},
    view::RecoveryPlan as View,
};
use understudy_rpc::{ApiError, Kind};

use super::{all, request_id};
use crate::{
    args::Plan,
    output::{self, Format},
};

/// The file says something else than what is kept, as of the program `diff`.
const DIFFERENT: u8 = 1;
/// A plan of the largest size has less.
const MAX_FILE: u64 = 4 << 20;

pub async fn run(client: &RecoveryClient, format: Format, verb: Plan) -> anyhow::Result<ExitCode> {
    match verb {
        Plan::List => {
            let plans = all(usize::MAX, |page| client.list_plans(page)).await?;
            output::print(format, &plans, || table(&plans))?;
        }
        Plan::Show { plan } => show(format, &client.get_plan(&plan).await?)?,
        Plan::Export { plan } => output::say(written(&client.get_plan(&plan).await?.plan)?.trim_end()),
        Plan::Import { file } => {
            let plan = read(&file)?;
            let kept = match kept(client, &plan.name).await? {
                None => client.create_plan(CreatePlan { plan, request_id: request_id() }).await?,
                Some(View { etag, .. }) => {
                    client.update_plan(UpdatePlan { plan, etag, request_id: request_id() }).await?
                }
            };
            show(format, &kept)?;
        }
        Plan::Diff { file } => {
            let plan = read(&file)?;
            let before = match kept(client, &plan.name).await? {
                Some(kept) => written(&kept.plan)?,
                None => String::new(),
            };
            let after = written(&plan)?;
            if before != after {
                let diff = TextDiff::from_lines(&before, &after);
                let shown = diff.unified_diff().header("kept", &file.display().to_string()).to_string();
                output::say(shown.trim_end());
                return Ok(ExitCode::from(DIFFERENT));
            }
        }
        Plan::Delete { plan } => {
            client.delete_plan(DeletePlan { plan: plan.clone(), request_id: request_id() }).await?;
            output::deleted(format, plan.as_str())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn kept(client: &RecoveryClient, name: &RecoveryPlanName) -> Result<Option<View>, ApiError> {
    match client.get_plan(name).await {
        Ok(plan) => Ok(Some(plan)),
        Err(error) if error.kind == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn read(file: &Path) -> anyhow::Result<RecoveryPlan> {
    let mut text = String::new();
    let limit = MAX_FILE + 1;
    let read = if file == Path::new("-") {
        io::stdin().take(limit).read_to_string(&mut text)
    } else {
        fs::File::open(file).and_then(|open| open.take(limit).read_to_string(&mut text))
    };
    let bytes = read.with_context(|| format!("cannot read {}", file.display()))?;
    if u64::try_from(bytes).is_ok_and(|bytes| bytes > MAX_FILE) {
        bail!("{} has more than {MAX_FILE} bytes, which no recovery plan needs", file.display());
    }
    parse(&text).with_context(|| format!("{} is no recovery plan", file.display()))
}

fn parse(text: &str) -> anyhow::Result<RecoveryPlan> {
    Ok(serde_saphyr::from_str(text)?)
}

/// Always in the same form, so that two versions can be compared.
fn written(plan: &RecoveryPlan) -> anyhow::Result<String> {
    Ok(serde_saphyr::to_string(plan)?)
}

fn table(plans: &[View]) -> comfy_table::Table {
    output::rows(["PLAN", "FROM", "TO", "GROUPS", "ITEMS", "UPDATED", "PROBLEMS"], plans, |view| {
        [
            view.plan.name.to_string(),
            view.plan.source_site.to_string(),
            view.plan.target_site.to_string(),
            view.plan.groups.len().to_string(),
            view.plan.items().count().to_string(),
            output::time(view.update_time),
            view.problems.len().to_string(),
        ]
    })
}

fn show(format: Format, view: &View) -> anyhow::Result<()> {
    let plan = &view.plan;
    output::print(format, view, || {
        output::facts(&[
            ("plan", plan.name.to_string()),
            ("between", format!("{} and {}", plan.source_site, plan.target_site)),
            ("created", output::time(view.create_time)),
            ("updated", output::time(view.update_time)),
        ])
    })?;
    if format == Format::Table {
        let headings = ["GROUP", "BEFORE", "ITEMS", "AT ONCE", "GATE", "AFTER", "DELAY"];
        output::say(&format!("\n{}", output::rows(headings, &plan.groups, group)));
        for problem in &view.problems {
            output::say(&format!("! {}: {} [{}]", problem.subject, problem.message, problem.reason));
            output::say(&format!("    → {}", problem.remedy));
        }
    }
    Ok(())
}

fn group(group: &PlanGroup) -> [String; 7] {
    let items = group.items.iter().map(|entry| {
        let after: Vec<String> = entry.after.iter().map(ToString::to_string).collect();
        if after.is_empty() {
            entry.item.to_string()
        } else {
            format!("{} (after {})", entry.item, after.join(", "))
        }
    });
    [
        group.name.to_string(),
        actions(&group.before),
        items.collect::<Vec<_>>().join(", "),
        output::maybe(&group.at_once),
        word(&group.gate),
        actions(&group.after),
        output::maybe_span(group.delay),
    ]
}

fn actions(actions: &[PlanAction]) -> String {
    let named = actions.iter().map(|action| match &action.what {
        ActionKind::Manual { .. } => format!("{} (manual)", action.name),
        ActionKind::Script(script) => format!("{} ({} at {})", action.name, script.name, script.host),
    });
    named.collect::<Vec<_>>().join(", ")
}

/// As it stands in files.
fn word<T: Serialize>(value: &T) -> String {
    serde_json::to_value(value).ok().and_then(|value| Some(value.as_str()?.to_owned())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use understudy_recovery::recovery_plan::Gate;

    use super::*;

    const SHOP: &str = "name: shop
source_site: alpha
target_site: bravo
groups:
- name: data
  items:
  - item: db1
  - item: db2
    after: [db1]
  at_once: 2
  before:
  - name: tell-people
    operations: [planned-failover, test-failover]
    towards: bravo
    may_fail: true
    do:
      manual:
        instructions: Call them.
  after:
  - name: move-dns
    operations: [unplanned-failover]
    do:
      script:
        host: bravo/bravo-h1
        name: move-dns.sh
        sha256: 0101010101010101010101010101010101010101010101010101010101010101
        time_out_seconds: 90
  gate: ask
  delay_seconds: 1.5
- name: web
  items:
  - item: web1
";

    /// R-RP-3: what is written is what is read, and the written form is always the same.
    #[test]
    fn plans_are_files() {
        let plan = parse(SHOP).unwrap();
        assert_eq!(plan.problems(), []);
        assert_eq!(plan.groups[0].gate, Gate::Ask);
        assert_eq!(plan.groups[0].delay, Some(std::time::Duration::from_millis(1500)));
        assert_eq!(plan.groups[0].items[1].after.len(), 1);
        let text = written(&plan).unwrap();
        assert_eq!(parse(&text).unwrap(), plan, "{text}");
        assert_eq!(written(&parse(&text).unwrap()).unwrap(), text);
    }

    /// A word that is not understood would be a wish that is not followed.
    #[test]
    fn a_word_that_is_not_known_is_refused_with_its_place() {
        for (right, wrong) in [("at_once", "at_least"), ("manual", "magic"), ("gate: ask", "gate: shut")] {
            let error = parse(&SHOP.replace(right, wrong)).unwrap_err().to_string();
            assert!(error.contains("line") || error.contains("-->"), "{error}");
        }
        assert!(parse("name: shop").is_err());
    }
}
