//! Recovery plans: keeping them, and what a request that names one asks for (R-RP).
//!
//! ```text
//!   RunSpec with a plan's name ─▶ the plan, and where its items stand ─▶ RunSpec with the plan in it and the items that go
//! ```

use std::collections::BTreeMap;

use sqlx::PgConnection;
use understudy_ids::{ItemName, Problem, RecoveryPlanName};
use understudy_recovery::{
    RunSpec,
    recovery_plan::{RecoveryPlan, Standing, chosen},
};
use understudy_recovery_api::{
    Resource,
    request::{self, CreatePlan, DeletePlan, UpdatePlan, plan_etag},
    view,
};
use understudy_rpc::ApiError;

use super::{
    Runtime,
    call::Call,
    runs::refused,
    sites::{not_found, taken},
    view::domain_spec,
};
use crate::store::{
    Failure, items,
    recovery_plans::{self, PlanRecord},
    sites,
};

impl Runtime {
    pub async fn create_plan(
        &self,
        call: &Call,
        request: CreatePlan,
    ) -> Result<view::RecoveryPlan, ApiError> {
        let name = request.plan.name.clone();
        self.once(call, move |tx| {
            let plan = request.plan.clone();
            Box::pin(async move {
                may_be_written(&mut *tx, &plan).await?;
                let subject = plan.name.to_resource();
                if !recovery_plans::insert(tx, &plan).await? {
                    return Err(taken("PLAN_EXISTS", &subject));
                }
                Ok(subject)
            })
        })
        .await?;
        self.get_plan(&name).await
    }

    /// Replaces the plan; of two who change it at once, the second is refused.
    pub async fn update_plan(
        &self,
        call: &Call,
        request: UpdatePlan,
    ) -> Result<view::RecoveryPlan, ApiError> {
        let name = request.plan.name.clone();
        self.once(call, move |tx| {
            let UpdatePlan { plan, etag, .. } = request.clone();
            Box::pin(async move {
                let subject = plan.name.to_resource();
                let before = recovery_plans::lock(&mut *tx, &plan.name).await?;
                let before = before.ok_or_else(|| not_found("PLAN_NOT_FOUND", &subject))?;
                if etag != plan_etag(&before.plan) {
                    return Err(ApiError::aborted(
                        "RECOVERY_PLAN_CHANGED",
                        format!("{subject} is not what it was; nothing was done"),
                        "Get it again, look at what has changed, and send the change with its etag.",
                    )
                    .into());
                }
                may_be_written(&mut *tx, &plan).await?;
                recovery_plans::update(tx, &plan).await?;
                Ok(subject)
            })
        })
        .await?;
        self.get_plan(&name).await
    }

    pub async fn delete_plan(&self, call: &Call, request: DeletePlan) -> Result<(), ApiError> {
        self.once(call, move |tx| {
            let plan = request.plan.clone();
            Box::pin(async move {
                let subject = plan.to_resource();
                match recovery_plans::delete(tx, &plan).await? {
                    true => Ok(subject),
                    false => Err(not_found("PLAN_NOT_FOUND", &subject).into()),
                }
            })
        })
        .await?;
        Ok(())
    }

    pub async fn get_plan(&self, name: &RecoveryPlanName) -> Result<view::RecoveryPlan, ApiError> {
        let mut conn = self.reader().await?;
        let record = recovery_plans::get(&mut conn, name).await?;
        let record = record.ok_or_else(|| not_found("PLAN_NOT_FOUND", &name.to_resource()))?;
        Ok(shown(&mut conn, record).await?)
    }

    /// Plans after the one called `after`, at most `limit`.
    pub async fn list_plans(&self, after: &str, limit: i64) -> Result<Vec<view::RecoveryPlan>, ApiError> {
        let mut conn = self.reader().await?;
        let mut found = Vec::new();
        for record in recovery_plans::list(&mut conn, after, limit).await? {
            found.push(shown(&mut conn, record).await?);
        }
        Ok(found)
    }
}

/// A request as the planner takes it.
pub struct Asked {
    pub spec: RunSpec,
    /// About items of the plan that the run leaves alone.
    pub notices: Vec<String>,
    /// Why it cannot be said which items are meant.
    pub problems: Vec<Problem>,
}

/// The request with the plan that it names, if it names one, and with the items that the run takes.
pub async fn asked(conn: &mut PgConnection, wanted: request::RunSpec) -> Result<Asked, Failure> {
    let named = wanted.items.clone();
    let (plan, from_site) = (wanted.recovery_plan.clone(), wanted.from_site.clone());
    let mut spec = domain_spec(wanted);
    let Some(name) = plan else {
        return Ok(Asked { spec, notices: Vec::new(), problems: Vec::new() });
    };
    let record = recovery_plans::get(&mut *conn, &name).await?;
    let plan = record.ok_or_else(|| not_found("PLAN_NOT_FOUND", &name.to_resource()))?.plan;
    let standing = standing(conn, &plan).await?;
    let found = chosen(&plan, spec.operation, from_site.as_ref(), &standing);
    (spec.recovery_plan, spec.from_site) = (Some(Box::new(plan)), from_site);
    let (items, notices) = match found {
        Ok(found) => found,
        Err(problems) => return Ok(Asked { spec, notices: Vec::new(), problems }),
    };
    let mut problems = Vec::new();
    if !named.is_empty() && named != items.iter().cloned().collect() {
        let would: Vec<&str> = items.iter().map(ItemName::as_str).collect();
        let message = format!("a run of {} would take {}", name.to_resource(), would.join(", "));
        let remedy = "Leave the items out, or preview again.";
        problems.push(Problem::new("ITEMS_DIFFER_FROM_PLAN", "spec.items", message, remedy));
    }
    spec.items = items;
    Ok(Asked { spec, notices, problems })
}

/// The sites exist and the items are between them; what else a plan needs was looked at when the request came in.
async fn may_be_written(tx: &mut PgConnection, plan: &RecoveryPlan) -> Result<(), Failure> {
    let mut problems = Vec::new();
    for site in [&plan.source_site, &plan.target_site] {
        if sites::get(&mut *tx, site).await?.is_none() {
            let remedy = "Create the site first, or correct its name.";
            problems.push(Problem::new(
                "SITE_NOT_FOUND",
                site.to_resource(),
                "there is no such site",
                remedy,
            ));
        }
    }
    problems.extend(plan.standing_problems(&standing(tx, plan).await?));
    if problems.is_empty() { Ok(()) } else { Err(refused("keeping the plan", problems).into()) }
}

async fn standing(
    conn: &mut PgConnection,
    plan: &RecoveryPlan,
) -> Result<BTreeMap<ItemName, Standing>, Failure> {
    let names: Vec<ItemName> = plan.items().cloned().collect();
    let records = items::get(conn, &names).await?;
    let standing = records.into_iter().map(|record| {
        let standing = Standing {
            state: record.state,
            active_site: record.active_host.site().clone(),
            standby_site: record.standby_host.site().clone(),
        };
        (record.name, standing)
    });
    Ok(standing.collect())
}

async fn shown(conn: &mut PgConnection, record: PlanRecord) -> Result<view::RecoveryPlan, Failure> {
    let standing = standing(conn, &record.plan).await?;
    Ok(view::RecoveryPlan {
        problems: record.plan.standing_problems(&standing),
        etag: plan_etag(&record.plan),
        create_time: record.created,
        update_time: record.updated,
        plan: record.plan,
    })
}
