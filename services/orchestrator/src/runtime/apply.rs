//! Carries out the effects that belong into the transaction of their decision: rows about items, and messages for the outbox.

use std::collections::BTreeMap;

use sqlx::PgConnection;
use understudy_ids::{ItemName, RunId, UnixMicros, Uuid};
use understudy_recovery::{
    Effect, Event, ItemState, Run,
    run::{ItemChange, Refusal, RunVerb, advance_all, ends_test},
};
use understudy_recovery_api::{Decision, Resource};
use understudy_rpc::ApiError;

use super::{message::Message, now};
use crate::store::{Failure, audit, awaited, items, outbox, runs};

/// Stores a new run with everything that its first effects ask for. The items' rows are locked by the caller.
pub async fn begin(
    tx: &mut PgConnection,
    run: &Run,
    effects: &[Effect],
    traceparent: Option<&str>,
) -> Result<(), Failure> {
    runs::insert(tx, run, traceparent).await?;
    let job = Message::CreateJob {
        kind: run.plan.operation.as_str().to_owned(),
        targets: run.plan.items.iter().map(|item| item.item.to_resource()).collect(),
        created_by: run.created_by.clone(),
        labels: BTreeMap::new(),
    };
    outbox::insert(tx, run.id, &[job]).await?;
    carry_out(tx, run, effects, traceparent).await
}

/// Tells a run what happened and stores what comes of it. Nothing when there is no such run.
///
/// # Errors
/// `VERB_NOT_ALLOWED` for an operator's verb that the run does not take now.
pub async fn deliver(tx: &mut PgConnection, id: RunId, event: &Event) -> Result<Option<Run>, Failure> {
    deliver_all(tx, id, std::slice::from_ref(event)).await
}

/// As [`deliver`] for several events, one after the other: a run is read and written whole, which costs more than taking an event in.
pub async fn deliver_all(tx: &mut PgConnection, id: RunId, events: &[Event]) -> Result<Option<Run>, Failure> {
    let Some(record) = runs::lock(tx, id).await? else { return Ok(None) };
    let (next, effects) = advance_all(&record.run, events).map_err(refused)?;
    if next == record.run && effects.is_empty() {
        return Ok(Some(next));
    }
    if !runs::update(tx, &next, &record).await? {
        // The row is locked, so this is another program's doing.
        return Err(
            ApiError::aborted("RUN_CHANGED", "the run was changed meanwhile", "Repeat the call.").into()
        );
    }
    carry_out(tx, &next, &effects, record.traceparent.as_deref()).await?;
    if !next.is_open() {
        awaited::delete_all(tx, id).await?;
    }
    Ok(Some(next))
}

fn refused(refusal: Refusal) -> ApiError {
    let allowed: Vec<&str> = refusal.allowed.iter().map(|verb| verb.as_str()).collect();
    let remedy = match allowed.as_slice() {
        [] => "Nothing can be asked of this run now; watch it.".to_owned(),
        some => format!("What the run takes now: {}.", some.join(", ")),
    };
    ApiError::failed_precondition("VERB_NOT_ALLOWED", refusal.to_string(), remedy)
}

async fn carry_out(
    tx: &mut PgConnection,
    run: &Run,
    effects: &[Effect],
    traceparent: Option<&str>,
) -> Result<(), Failure> {
    let mut messages = Vec::new();
    for effect in effects {
        match effect {
            Effect::Item { item, change } => change_item(tx, item, change).await?,
            Effect::AwaitFirstPoint { item, standby, generation } => {
                awaited::insert(tx, run.id, item, standby, *generation).await?;
            }
            Effect::Enqueue { key, step: _, title, executor, action, max_attempts } => {
                messages.push(Message::Enqueue {
                    key: key.clone(),
                    title: title.clone(),
                    executor: executor.clone(),
                    action: action.clone(),
                    max_attempts: *max_attempts,
                    traceparent: traceparent.map(str::to_owned),
                });
            }
            Effect::EndTests { runs } => {
                let (by, why) = (&run.created_by, format!("{} needs what it occupies", run.id.to_resource()));
                for test in runs {
                    // A test is ended like any run, by the transaction that asks for it.
                    Box::pin(end_test(tx, *test, by, &why, now())).await?;
                }
            }
            Effect::CancelTasks { keys } => messages.push(Message::CancelTasks { keys: keys.clone() }),
            Effect::Job(view) => messages.push(Message::Update(view.clone())),
        }
    }
    outbox::insert(tx, run.id, &messages).await
}

/// Ends a test in the name of somebody who did not ask for just that. One that is being cleaned up, or has ended, is left to it.
pub async fn end_test(
    tx: &mut PgConnection,
    id: RunId,
    by: &str,
    why: &str,
    at: UnixMicros,
) -> Result<(), Failure> {
    let Some(verb) = runs::lock(tx, id).await?.and_then(|record| ends_test(&record.run)) else {
        return Ok(());
    };
    deliver(tx, id, &Event::Operator { verb, by: by.to_owned(), at }).await?;
    let note = Message::Note {
        id: Uuid::new_v5(&id, b"ended by force"),
        author: by.to_owned(),
        text: format!("Ended by force ({verb}): {why}."),
    };
    outbox::insert(tx, id, &[note]).await?;
    let entry = audit::Entry {
        who: by.to_owned(),
        what: if verb == RunVerb::Cancel {
            "FailoverService/CancelRun"
        } else {
            "FailoverService/CompleteTest"
        },
        target: id.to_resource(),
        decision: Decision::Allowed,
        result: "OK".to_owned(),
        why: why.to_owned(),
    };
    audit::insert(tx, &entry).await
}

async fn change_item(tx: &mut PgConnection, item: &ItemName, change: &ItemChange) -> Result<(), Failure> {
    match change {
        ItemChange::Verb { verb, from, to } => {
            let moved = if *to == ItemState::Removed {
                items::delete(tx, item, *from).await?
            } else {
                items::set_state(tx, item, *from, *to).await?
            };
            if moved { Ok(()) } else { Err(not_in_state(item, *from, verb.as_str())) }
        }
        ItemChange::SwitchSides { generation, active, standby } => {
            if items::switch_sides(tx, item, *generation, active, standby).await? {
                return Ok(());
            }
            let message = format!("{item} is at generation {generation} or above already");
            Err(ApiError::aborted("GENERATION_NOT_HIGHER", message, "Preview the run again.").into())
        }
        ItemChange::SetStandby { generation, standby } => {
            if items::set_standby(tx, item, *generation, standby).await? {
                return Ok(());
            }
            let message = format!("{item} is not at generation {generation} any more");
            Err(ApiError::aborted("ITEM_CHANGED", message, "Preview the run again.").into())
        }
        ItemChange::HoldRun(run) => hold(tx, item, *run, false).await,
        ItemChange::HoldTest(run) => hold(tx, item, *run, true).await,
        ItemChange::ReleaseRun(run) | ItemChange::ReleaseTest(run) => items::release(tx, item, *run).await,
    }
}

fn not_in_state(item: &ItemName, from: ItemState, verb: &str) -> Failure {
    let message = format!("{item} is not {from} any more, so it does not take {verb}");
    ApiError::aborted("ITEM_CHANGED", message, "Look at the item and preview the run again.").into()
}

async fn hold(tx: &mut PgConnection, item: &ItemName, run: RunId, test: bool) -> Result<(), Failure> {
    match items::hold(tx, item, run, test).await? {
        None => Ok(()),
        Some(other) => Err(held(item, other).into()),
    }
}

/// The refusal that names the run in the way (invariant 11).
pub fn held(item: &ItemName, by: RunId) -> ApiError {
    let message = format!("{} is held by {}", item.to_resource(), by.to_resource());
    ApiError::failed_precondition("ITEM_HELD", message, "Wait for that run to end, or end it.")
        .with_metadata("run", by.to_resource())
}
