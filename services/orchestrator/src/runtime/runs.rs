//! Previewing, starting and steering runs.
//!
//! ```text
//!   preview: gather ─▶ ask network-mapper ─▶ plan ─▶ shown with its digest
//!   start:   gather ─▶ ask network-mapper ─▶ transaction: lock items ─▶ gather ─▶ plan ─▶ same digest? ─▶ run + outbox
//!   verb:    transaction: lock run ─▶ advance ─▶ run + outbox
//! ```

use std::sync::Arc;

use sqlx::PgConnection;
use understudy_ids::{ItemName, Problem, RunId, UnixMicros, Uuid};
use understudy_recovery::{Event, RunPlan, RunSpec, conflict, plan, plan::PlanInput, run::RunVerb, start};
use understudy_recovery_api::{
    Resource,
    request::{self, CompleteTest},
    view::{Run, RunPreview, Screenshot},
};
use understudy_rpc::{ApiError, trace};

use super::{
    Runtime, apply,
    call::Call,
    connections::{self, Answer},
    gather,
    message::Message,
    now, recovery_plans,
    sites::not_found,
    view,
};
use crate::store::{Failure, items, outbox, runs, screenshots};

impl Runtime {
    pub async fn preview_run(&self, spec: request::RunSpec) -> Result<RunPreview, ApiError> {
        let recovery_plans::Asked { spec, notices, problems } =
            recovery_plans::asked(&mut *self.reader().await?, spec).await?;
        if !problems.is_empty() {
            return Ok(view::preview(&spec, Err(problems)));
        }
        let mut input = gather::input(&mut *self.reader().await?, &spec, now()).await?;
        let neighbours = connections::neighbours(&mut *self.reader().await?, &spec, &input.items).await?;
        let answer = connections::ask(&self.0.network, &spec, &input.items, neighbours).await;
        input.connections =
            connections::settle(&mut *self.reader().await?, &spec, &input.items, &answer).await?;
        self.remember_answer(spec.clone(), input.clone(), answer).await?;
        let mut planned = plan::plan(&spec, &input);
        if let Ok(plan) = &mut planned {
            plan.notices.extend(notices);
        }
        Ok(view::preview(&spec, planned))
    }

    /// An answer of network-mapper is kept as soon as it was given: it may be away when the run is started.
    async fn remember_answer(&self, spec: RunSpec, input: PlanInput, answer: Answer) -> Result<(), Failure> {
        let known = Arc::new((spec, input, answer));
        self.write(move |tx| {
            let known = known.clone();
            Box::pin(async move {
                let (spec, input, answer) = &*known;
                connections::remember(tx, spec, input, answer).await
            })
        })
        .await
    }

    pub async fn start_run(&self, call: &Call, request: request::StartRun) -> Result<Run, ApiError> {
        if let Some(run) = self.seen(call).await? {
            return self.get_run(run_of(&run)?).await;
        }
        let asked = recovery_plans::asked(&mut *self.reader().await?, request.spec).await?;
        if !asked.problems.is_empty() {
            return Err(refused(asked.spec.operation.as_str(), asked.problems));
        }
        self.start_planned(call, asked.spec, Some(request.plan_digest)).await
    }

    /// Plans and starts, for a call that was not seen before. With a digest, only if the plan is still that one.
    pub(super) async fn start_planned(
        &self,
        call: &Call,
        spec: RunSpec,
        digest: Option<String>,
    ) -> Result<Run, ApiError> {
        let input = gather::input(&mut *self.reader().await?, &spec, now()).await?;
        let neighbours = connections::neighbours(&mut *self.reader().await?, &spec, &input.items).await?;
        let answer = connections::ask(&self.0.network, &spec, &input.items, neighbours).await;
        let asked = Arc::new((spec, answer, digest));
        let (who, traceparent) = (call.caller.who.clone(), trace::current());
        let run = self
            .once(call, move |tx| {
                let (asked, who, traceparent) = (asked.clone(), who.clone(), traceparent.clone());
                Box::pin(async move {
                    let (spec, answer, digest) = &*asked;
                    let (plan, input) = plan_alone(&mut *tx, spec, answer).await?;
                    same_plan(&plan, digest.as_deref())?;
                    let (run, effects) = start(Uuid::now_v7(), plan, spec.clone(), &who, input.now);
                    apply::begin(&mut *tx, &run, &effects, traceparent.as_deref()).await?;
                    if let Some(text) = spec.test_network.production_notice() {
                        let id = Uuid::new_v5(&run.id, b"connected to production");
                        let note = Message::Note { id, author: who.clone(), text };
                        outbox::insert(&mut *tx, run.id, &[note]).await?;
                    }
                    connections::remember(tx, spec, &input, answer).await?;
                    Ok(run.id.to_resource())
                })
            })
            .await?;
        self.get_run(run_of(&run)?).await
    }

    pub async fn get_run(&self, id: RunId) -> Result<Run, ApiError> {
        let record = runs::get(&mut *self.reader().await?, id).await?;
        let record = record.ok_or_else(|| not_found("RUN_NOT_FOUND", &id.to_resource()))?;
        Ok(view::run(&record.run))
    }

    /// What the console of the item's machine showed when the run looked at it.
    pub async fn get_screenshot(&self, run: RunId, item: &ItemName) -> Result<Screenshot, ApiError> {
        let mut conn = self.reader().await?;
        if let Some(screenshots::Screenshot { png, taken }) = screenshots::get(&mut conn, run, item).await? {
            return Ok(Screenshot { png, time: taken });
        }
        let record = runs::get(&mut conn, run).await?;
        record.ok_or_else(|| not_found("RUN_NOT_FOUND", &run.to_resource()))?;
        Err(not_found("NO_SCREENSHOT", &format!("{}/{}", run.to_resource(), item.to_resource())))
    }

    /// Runs of `item`, or of all when it is empty, newest first.
    pub async fn list_runs(
        &self,
        item: &str,
        before: Option<runs::Before>,
        limit: i64,
    ) -> Result<Vec<(runs::Before, Run)>, ApiError> {
        let records = runs::list(&mut *self.reader().await?, item, before, limit).await?;
        let listed = records.iter().map(|record| {
            let place = runs::Before { created: record.created, id: record.run.id };
            (place, view::run_in_list(&record.run))
        });
        Ok(listed.collect())
    }

    /// Ends a test that waits for it, with the operator's notes kept at its job (R-TF-5).
    pub async fn complete_test(&self, call: &Call, request: CompleteTest) -> Result<Run, ApiError> {
        let CompleteTest { run, notes, request_id } = request;
        let note = (!notes.is_empty()).then(|| Message::Note {
            id: Uuid::new_v5(&run, format!("notes {request_id}").as_bytes()),
            author: call.caller.who.clone(),
            text: notes,
        });
        self.steer(call, run, note, operator(call, RunVerb::CompleteTest)).await
    }

    /// Asks a run to do what `verb` says.
    pub async fn verb(&self, call: &Call, run: RunId, verb: RunVerb) -> Result<Run, ApiError> {
        self.steer(call, run, None, operator(call, verb)).await
    }

    /// Tells the run what `event` says at that moment, once, and keeps the note with its job.
    async fn steer(
        &self,
        call: &Call,
        run: RunId,
        note: Option<Message>,
        event: impl Fn(UnixMicros) -> Event + Send + Sync + 'static,
    ) -> Result<Run, ApiError> {
        let note: Arc<[Message]> = note.into_iter().collect();
        self.once(call, move |tx| {
            let (event, note) = (event(now()), note.clone());
            Box::pin(async move {
                if apply::deliver(&mut *tx, run, &event).await?.is_none() {
                    return Err(not_found("RUN_NOT_FOUND", &run.to_resource()).into());
                }
                outbox::insert(tx, run, &note).await?;
                Ok(run.to_resource())
            })
        })
        .await?;
        self.get_run(run).await
    }

    /// Says of what the run waits for at a step that it was done, or that it was not (R-RP-2).
    pub async fn answer_run(
        &self,
        call: &Call,
        answer: request::AnswerRun,
        confirmed: bool,
    ) -> Result<Run, ApiError> {
        let request::AnswerRun { run, step, request_id: _ } = answer;
        let by = call.caller.who.clone();
        let event = move |at| Event::Answered { step: step.clone(), confirmed, by: by.clone(), at };
        self.steer(call, run, None, event).await
    }

    /// Another deadline for a run that waits for its commit, or none (R-FO-4).
    pub async fn set_run_deadline(
        &self,
        call: &Call,
        request: request::SetRunDeadline,
    ) -> Result<Run, ApiError> {
        let request::SetRunDeadline { run, deadline, request_id: _ } = request;
        let (by, deadline) = (call.caller.who.clone(), deadline.map(view::domain_deadline));
        self.steer(call, run, None, move |at| Event::DeadlineSet { deadline, by: by.clone(), at }).await
    }

    /// Tells a run what happened, in a transaction of its own.
    pub(super) async fn tell(&self, run: RunId, event: Event) -> Result<(), Failure> {
        let event = Arc::new(event);
        self.write(move |tx| {
            let event = event.clone();
            Box::pin(async move { apply::deliver(tx, run, &event).await.map(|_| ()) })
        })
        .await
    }
}

/// What the caller asks for by a verb alone.
fn operator(call: &Call, verb: RunVerb) -> impl Fn(UnixMicros) -> Event + Send + Sync + 'static {
    let by = call.caller.who.clone();
    move |at| Event::Operator { verb, by: by.clone(), at }
}

/// Plans with the items locked, so that nobody else decides about them before this transaction has ended.
async fn plan_alone(
    tx: &mut PgConnection,
    spec: &RunSpec,
    answer: &Answer,
) -> Result<(RunPlan, PlanInput), Failure> {
    items::lock(tx, &spec.items).await?;
    let mut input = gather::input(tx, spec, now()).await?;
    input.connections = connections::settle(tx, spec, &input.items, answer).await?;
    match plan::plan(spec, &input) {
        Ok(plan) => Ok((plan, input)),
        Err(problems) => {
            let error = refused(spec.operation.as_str(), problems);
            let blocking = conflict::conflicts(spec.operation, &spec.items, &input.open_runs);
            Err(match blocking.first() {
                Some(conflict) => error.with_metadata("run", conflict.run.to_resource()).into(),
                None => error.into(),
            })
        }
    }
}

fn same_plan(plan: &RunPlan, digest: Option<&str>) -> Result<(), ApiError> {
    if digest.is_none_or(|digest| digest == plan.digest()) {
        return Ok(());
    }
    Err(changed_since())
}

/// Nothing was done, because it would be something else than what was shown.
pub(super) fn changed_since() -> ApiError {
    ApiError::aborted(
        "PLAN_CHANGED",
        "the plan would be another one by now than the one that was previewed; nothing was done",
        "Preview again, look at what has changed, and start with the new digest.",
    )
}

/// Nothing was done, for all of these reasons.
pub(super) fn refused(operation: &str, problems: Vec<Problem>) -> ApiError {
    ApiError::refused("NOT_POSSIBLE_NOW", format!("{operation} is not possible now"), problems)
}

/// The run that a stored request made.
pub(super) fn run_of(subject: &str) -> Result<RunId, ApiError> {
    RunId::from_resource(subject).map_err(ApiError::internal)
}
