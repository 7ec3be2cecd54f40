//! Changing runs that wait: another recovery point or the way back before their commit (R-FO-4), or the failover that a failback has
//! prepared (R-FB-2).
//!
//! ```text
//!   preview: gather ─▶ (ask network-mapper ─▶) amend ─▶ shown with its digest
//!   change:  (gather ─▶ ask network-mapper ─▶) transaction: lock run and items ─▶ gather ─▶ amend ─▶ same digest? ─▶ advance ─▶ run + outbox
//! ```

use std::sync::Arc;

use sqlx::PgConnection;
use understudy_ids::{ItemName, Problem, RunId};
use understudy_recovery::{
    Event, Run, RunSpec,
    plan::{Amendment, Change, PlanInput, amend},
};
use understudy_recovery_api::{
    Resource,
    request::{ChangeRun, RunChange},
    view::{self as api, RunChangePreview},
};
use understudy_rpc::ApiError;

use super::{
    Runtime, apply,
    call::Call,
    connections::{self, Answer},
    gather, now,
    runs::{changed_since, refused},
    sites::not_found,
    timers::DEADLINE,
    view,
};
use crate::store::{Failure, items, runs};

impl Runtime {
    pub async fn preview_run_change(
        &self,
        run: RunId,
        change: RunChange,
    ) -> Result<RunChangePreview, ApiError> {
        let mut reader = self.reader().await?;
        let record = runs::get(&mut reader, run).await?;
        let record = record.ok_or_else(|| not_found("RUN_NOT_FOUND", &run.to_resource()))?;
        drop(reader);
        let change = asked(change);
        let answer = self.connections(&record.run, &change).await?;
        let input = facts(&mut *self.reader().await?, &record.run, &answer).await?;
        Ok(view::change_preview(amend(&record.run, &change, &input)))
    }

    pub async fn change_run(&self, call: &Call, request: ChangeRun) -> Result<api::Run, ApiError> {
        let ChangeRun { run, change, plan_digest, request_id: _ } = request;
        let change = asked(change);
        let record = runs::get(&mut *self.reader().await?, run).await?;
        let record = record.ok_or_else(|| not_found("RUN_NOT_FOUND", &run.to_resource()))?;
        let answer = self.connections(&record.run, &change).await?;
        let (by, asked) = (call.caller.who.clone(), Arc::new((change, answer, plan_digest)));
        self.once(call, move |tx| {
            let (by, asked) = (by.clone(), asked.clone());
            Box::pin(async move {
                let (change, answer, digest) = &*asked;
                let planned = plan_alone(&mut *tx, run, change, answer).await?;
                let verb = change.kind().verb().as_str();
                let amendment = planned.map_err(|problems| refused(verb, problems))?;
                if amendment.digest() != *digest {
                    return Err(changed_since().into());
                }
                give(tx, run, amendment, by).await?;
                Ok(run.to_resource())
            })
        })
        .await?;
        self.get_run(run).await
    }

    /// Where the machines of a failback would be connected now. The other changes leave them where the run has connected them.
    async fn connections(&self, run: &Run, change: &Change) -> Result<Answer, Failure> {
        if *change != Change::CompleteFailover {
            return Ok(Answer::NotNeeded);
        }
        let spec = asked_of(run);
        let items = gather::input(&mut *self.reader().await?, &spec, now()).await?.items;
        let neighbours = connections::neighbours(&mut *self.reader().await?, &spec, &items).await?;
        Ok(connections::ask(&self.0.network, &spec, &items, neighbours).await)
    }
}

/// What a deadline asks for, on behalf of whoever has set it and has given up what was written by then.
///
/// # Errors
/// Outside: of the database. Inside: every reason why it is not possible now.
pub(super) async fn roll_back_by_itself(
    tx: &mut PgConnection,
    run: RunId,
) -> Result<Result<(), Vec<Problem>>, Failure> {
    let back = Change::RollBack { give_up_writes: true };
    match plan_alone(&mut *tx, run, &back, &Answer::NotNeeded).await? {
        Ok(amendment) => give(tx, run, amendment, DEADLINE.to_owned()).await.map(Ok),
        Err(problems) => Ok(Err(problems)),
    }
}

/// Gives the run its further steps.
async fn give(tx: &mut PgConnection, run: RunId, amendment: Amendment, by: String) -> Result<(), Failure> {
    let event = Event::Changed { amendment: Box::new(amendment), by, at: now() };
    apply::deliver(tx, run, &event).await.map(drop)
}

/// Plans the change with the run and its items locked, so that nobody else decides about them before this transaction has ended.
async fn plan_alone(
    tx: &mut PgConnection,
    id: RunId,
    change: &Change,
    answer: &Answer,
) -> Result<Result<Amendment, Vec<Problem>>, Failure> {
    let record = runs::lock(&mut *tx, id).await?;
    let record = record.ok_or_else(|| not_found("RUN_NOT_FOUND", &id.to_resource()))?;
    items::lock(&mut *tx, &items_of(&record.run)).await?;
    let input = facts(tx, &record.run, answer).await?;
    Ok(amend(&record.run, change, &input))
}

fn items_of(run: &Run) -> Vec<ItemName> {
    run.plan.items.iter().map(|planned| planned.item.clone()).collect()
}

async fn facts(conn: &mut PgConnection, run: &Run, answer: &Answer) -> Result<PlanInput, Failure> {
    let spec = asked_of(run);
    let mut input = gather::input(conn, &spec, now()).await?;
    input.connections = connections::settle(conn, &spec, &input.items, answer).await?;
    Ok(input)
}

/// Of a run that has got as far as to wait: between which sides it goes is on record by then.
fn asked_of(run: &Run) -> RunSpec {
    RunSpec::new(run.plan.operation, items_of(run))
}

fn asked(change: RunChange) -> Change {
    match change {
        RunChange::Points(points) => Change::Points(points),
        RunChange::RollBack { give_up_writes } => Change::RollBack { give_up_writes },
        RunChange::CompleteFailover => Change::CompleteFailover,
    }
}
