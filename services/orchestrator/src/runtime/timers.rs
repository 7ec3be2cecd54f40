//! What happens because time has passed: steps that are overdue, waits that have lasted for too long, alerts,
//! corrections.
//!
//! Times are those on record, so that a restart neither forgets nor repeats anything; any number of instances may look. For how long a run
//! has waited for a person is counted by what was watched (`recovery/src/run/deadline.rs`), and stored now and then.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use understudy_ids::{RunId, UnixMicros};
use understudy_recovery::{
    Event, Run,
    run::{DeadlineAction, Due, RunVerb, awaited_tests, delays_over, overdue, time_left},
};
use understudy_recovery_api::{Decision, Resource};

use super::{Runtime, activation, alerts, apply, changes, events, now, reconcile};
use crate::store::{Failure, audit, runs};

/// Who completes a test whose time is over.
const TEST_LIMIT: &str = "orchestrator (test limit)";
/// Who does what was asked for when a failover has waited for too long.
pub(super) const DEADLINE: &str = "orchestrator (deadline)";
/// How much of a wait may be lost with this process; near its end, less.
const KEEP: Duration = Duration::from_secs(30);

/// When this process looked at each run that waits last, by a clock that cannot jump.
type Looked = BTreeMap<RunId, Instant>;

pub async fn run(runtime: Runtime, shutdown: CancellationToken) {
    let mut tick = tokio::time::interval(runtime.0.settings.tick);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut shown = alerts::Shown::default();
    let mut looked = Looked::new();
    let mut silent = activation::Looked::new();
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = shutdown.cancelled() => return,
        }
        if let Err(failure) = round(&runtime, &mut looked, now()).await {
            tracing::warn!(%failure, "what is due could not be looked at; trying again");
        }
        if let Err(failure) = activation::count(&runtime, &mut silent).await {
            tracing::warn!(%failure, "activation leases could not be counted; trying again");
        }
        if let Err(failure) = alerts::round(&runtime, &mut shown, now()).await {
            tracing::warn!(%failure, "the health of the items could not be looked at; trying again");
        }
        if let Err(failure) = reconcile::round(&runtime).await {
            tracing::warn!(%failure, "nothing could be corrected; trying again");
        }
    }
}

async fn round(runtime: &Runtime, looked: &mut Looked, now: UnixMicros) -> Result<(), Failure> {
    let open = runs::open(&mut *runtime.reader().await?).await?;
    metrics::gauge!("understudy_orchestrator_open_runs").set(open.len() as f64);
    looked.retain(|id, _| open.iter().any(|run| run.id == *id));
    let on_their_way: BTreeSet<RunId> =
        open.iter().filter(|run| run.is_on_its_way()).map(|run| run.id).collect();
    for run in &open {
        if !overdue(run, now).is_empty() {
            give_up_on_overdue(runtime, run, now).await?;
        }
        for step in delays_over(run, now) {
            runtime.tell(run.id, Event::DelayOver { step, at: now }).await?;
        }
        for (step, _) in awaited_tests(run).into_iter().filter(|(_, tests)| tests.is_disjoint(&on_their_way))
        {
            runtime.tell(run.id, Event::TestsEnded { step, at: now }).await?;
        }
        wait(runtime, looked, run, now).await?;
    }
    Ok(())
}

/// Counts how long the run has waited, and does what is due.
async fn wait(runtime: &Runtime, looked: &mut Looked, run: &Run, now: UnixMicros) -> Result<(), Failure> {
    let limit = runtime.0.settings.test_limit;
    let Some((due, left)) = time_left(run, limit) else {
        looked.remove(&run.id);
        return Ok(());
    };
    let elapsed = looked.entry(run.id).or_insert_with(Instant::now).elapsed();
    if elapsed < left.min(KEEP) {
        return Ok(());
    }
    if !left.is_zero() {
        runtime.tell(run.id, Event::TimePassed { elapsed, at: now }).await?;
        looked.insert(run.id, Instant::now());
        return Ok(());
    }
    match due {
        Due::EndTest => end_by_force(runtime, run, now).await,
        Due::Deadline(action) => keep_deadline(runtime, run, action, now).await,
    }
}

/// R-FO-4: on behalf of whoever has set the deadline.
async fn keep_deadline(
    runtime: &Runtime,
    run: &Run,
    action: DeadlineAction,
    now: UnixMicros,
) -> Result<(), Failure> {
    tracing::warn!(run = %run.id, action = action.as_str(), "the run has waited for its commit until its deadline");
    let id = run.id;
    let why = match &run.deadline {
        Some(set) => format!("{} has set so: after {} s", set.by, set.deadline.after.as_secs()),
        None => String::new(),
    };
    let done = runtime
        .write(move |tx| {
            let why = why.clone();
            Box::pin(async move {
                // Somebody may have decided, or set another deadline, in the same moment.
                let record = runs::lock(&mut *tx, id).await?;
                let left = record.as_ref().and_then(|record| time_left(&record.run, Duration::MAX));
                if left != Some((Due::Deadline(action), Duration::ZERO)) {
                    return Ok(());
                }
                let (what, result) = match action {
                    DeadlineAction::Commit => {
                        let by = DEADLINE.to_owned();
                        let event = Event::Operator { verb: RunVerb::Commit, by, at: now };
                        apply::deliver(&mut *tx, id, &event).await?;
                        ("FailoverService/CommitRun", Ok(()))
                    }
                    DeadlineAction::RollBack => {
                        ("FailoverService/ChangeRun", changes::roll_back_by_itself(&mut *tx, id).await?)
                    }
                };
                let refused = result.is_err();
                if let Err(problems) = result {
                    let event = Event::DeadlineFailed { problems, at: now };
                    apply::deliver(&mut *tx, id, &event).await?;
                }
                let entry = audit::Entry {
                    who: DEADLINE.to_owned(),
                    what,
                    target: id.to_resource(),
                    decision: if refused { Decision::Refused } else { Decision::Allowed },
                    result: if refused { "NOT_POSSIBLE_NOW" } else { "OK" }.to_owned(),
                    why,
                };
                audit::insert(tx, &entry).await
            })
        })
        .await;
    match done {
        Err(Failure::Refused(_)) => Ok(()),
        other => other,
    }
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

/// R-TF-6: a test that waits for its completion is completed, one that waits for something else is cancelled.
async fn end_by_force(runtime: &Runtime, run: &Run, now: UnixMicros) -> Result<(), Failure> {
    tracing::warn!(run = %run.id, "the test has run for longer than allowed and is ended by force");
    let id = run.id;
    let limit = runtime.0.settings.test_limit.as_secs();
    let done = runtime
        .write(move |tx| {
            let why = format!("it had run for more than {limit} s");
            Box::pin(async move { apply::end_test(tx, id, TEST_LIMIT, &why, now).await })
        })
        .await;
    match done {
        // Somebody completed it in the same moment.
        Err(Failure::Refused(_)) => Ok(()),
        other => other,
    }
}
