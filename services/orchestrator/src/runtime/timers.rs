//! What happens because time has passed: steps that are overdue, tests that have run for too long, alerts,
//! corrections.
//!
//! Times are those on record, so that a restart neither forgets nor repeats anything; any number of instances may look.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use understudy_ids::{UnixMicros, Uuid};
use understudy_recovery::{
    Event, Operation, Run,
    run::{self, RunVerb, overdue},
};
use understudy_recovery_api::{Decision, Resource};

use super::{Runtime, alerts, apply, events, message::Message, now, reconcile};
use crate::store::{Failure, audit, outbox, runs};

/// Who completes a test whose time is over.
const TEST_LIMIT: &str = "orchestrator (test limit)";

pub async fn run(runtime: Runtime, shutdown: CancellationToken) {
    let mut tick = tokio::time::interval(runtime.0.settings.tick);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut shown = alerts::Shown::default();
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = shutdown.cancelled() => return,
        }
        if let Err(failure) = round(&runtime, now()).await {
            tracing::warn!(%failure, "what is due could not be looked at; trying again");
        }
        if let Err(failure) = alerts::round(&runtime, &mut shown, now()).await {
            tracing::warn!(%failure, "the health of the items could not be looked at; trying again");
        }
        if let Err(failure) = reconcile::round(&runtime).await {
            tracing::warn!(%failure, "nothing could be corrected; trying again");
        }
    }
}

async fn round(runtime: &Runtime, now: UnixMicros) -> Result<(), Failure> {
    let open = runs::open(&mut *runtime.reader().await?).await?;
    metrics::gauge!("understudy_orchestrator_open_runs").set(open.len() as f64);
    for run in open {
        if !overdue(&run, now).is_empty() {
            give_up_on_overdue(runtime, &run, now).await?;
        }
        if test_is_over(&run, now, runtime) {
            complete_by_force(runtime, &run, now).await?;
        }
    }
    Ok(())
}

/// An outcome that job-tracker has and we do not know yet is no missing outcome: the run is compared with its job first, and while that cannot
/// be done, nothing is given up on.
async fn give_up_on_overdue(runtime: &Runtime, run: &Run, now: UnixMicros) -> Result<(), Failure> {
    if let Err(error) = events::compare(runtime, run.id).await {
        tracing::warn!(%error, run = %run.id, "a step is overdue, and job-tracker cannot be asked about it");
        return Ok(());
    }
    let Some(record) = runs::get(&mut *runtime.reader().await?, run.id).await? else { return Ok(()) };
    for step in overdue(&record.run, now) {
        tracing::warn!(run = %run.id, %step, "the step's outcome is overdue");
        runtime.tell(run.id, Event::StepTimedOut { step, at: now }).await?;
    }
    Ok(())
}

/// R-TF-6: counted from the recorded start.
fn test_is_over(run: &Run, now: UnixMicros, runtime: &Runtime) -> bool {
    run.plan.operation == Operation::TestFailover
        && now.since(run.started) >= runtime.0.settings.test_limit
        && run::allowed_actions(run).contains(&RunVerb::CompleteTest)
}

async fn complete_by_force(runtime: &Runtime, run: &Run, now: UnixMicros) -> Result<(), Failure> {
    tracing::warn!(run = %run.id, "the test has run for longer than allowed and is completed by force");
    let id = run.id;
    let limit = runtime.0.settings.test_limit.as_secs();
    let event = Arc::new(Event::Operator { verb: RunVerb::CompleteTest, by: TEST_LIMIT.to_owned(), at: now });
    let done = runtime
        .write(move |tx| {
            let event = event.clone();
            Box::pin(async move {
                apply::deliver(&mut *tx, id, &event).await?;
                let note = Message::Note {
                    id: Uuid::new_v5(&id, b"completed by force"),
                    author: TEST_LIMIT.to_owned(),
                    text: format!("Completed by force: the test had run for more than {limit} s."),
                };
                outbox::insert(&mut *tx, id, &note).await?;
                let entry = audit::Entry {
                    who: TEST_LIMIT.to_owned(),
                    what: "FailoverService/CompleteTest",
                    target: id.to_resource(),
                    decision: Decision::Allowed,
                    result: "OK".to_owned(),
                    why: format!("it had run for more than {limit} s"),
                };
                audit::insert(tx, &entry).await
            })
        })
        .await;
    match done {
        // Somebody completed it in the same moment.
        Err(Failure::Refused(_)) => Ok(()),
        other => other,
    }
}
