//! The rounds of a consistency group: one instant for all of its items that are replicated from this host (R-REP-12).
//!
//! ```text
//!   every interval ─▶ all items free? ─▶ prepared ─▶ held ─▶ cut ─▶ released ─▶ each item's next cycle ships what is held open
//!                        │                  │          │       │        │
//!                        └──────────────────┴──────────┴───────┴────────┴─ no: guests go on, each item makes a point of its own,
//!                                                                             and its facts say who stood in the way
//! ```
//! A round makes instants and ships nothing: an item that waits for its turn keeps the guest of another waiting for nothing. The items'
//! locks are taken first, so a round is never in the middle of a cycle. Items that have no point yet, are paused, or were handed over to a
//! failover are left out: a first copy may take days, and the others are consistent among themselves meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures::future::join_all;
use tokio::{sync::OwnedMutexGuard, task::JoinHandle, time::timeout};
use understudy_hypervisor::{self as hypervisor, PreparedSnapshot, Snapshot, SnapshotRequest};
use understudy_ids::{GroupName, ItemName, Problem, UnixMicros};
use understudy_replication::{CheckpointName, Joint};
use understudy_replication_api::GroupFacts;

use super::{Source, Sources, State, error::CycleError, now, snapshot::Frozen};

/// How long a round waits for an item that is busy: an interval, within these bounds.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// For all snapshots to be made ready. Nobody waits for it but the round.
const PREPARE_LIMIT: Duration = Duration::from_secs(20);
/// Guests are held no longer, whatever happens.
const HOLD_LIMIT: Duration = Duration::from_secs(5);

/// Why there was no instant for all.
#[derive(Debug, thiserror::Error)]
enum Missed {
    #[error("{0} is not replicated from this host")]
    Absent(ItemName),
    #[error("{0} was still busy with its last cycle after {1:?}")]
    Busy(ItemName, Duration),
    #[error("{0} has not sent its last instant yet")]
    Behind(ItemName),
    #[error("{0} has made no point since the agent started")]
    Starting(ItemName),
    #[error("{0}: {1}")]
    Machine(ItemName, CycleError),
    #[error("{0} was not ready within {1:?}")]
    Slow(ItemName, Duration),
}

impl Missed {
    fn problem(&self, group: &GroupName) -> Problem {
        let (reason, remedy) = match self {
            Self::Absent(_) => (
                "GROUP_MEMBER_ABSENT",
                "Bring all items of the group to one host and direction, or take this one out of the group.",
            ),
            Self::Busy(..) | Self::Behind(_) => (
                "GROUP_MEMBER_BUSY",
                "Nothing, where it passes. Otherwise give the items a longer interval or more bandwidth.",
            ),
            Self::Starting(_) => {
                ("GROUP_MEMBER_STARTING", "Nothing: its first cycle comes before the group's.")
            }
            Self::Machine(..) | Self::Slow(..) => (
                "GROUP_MEMBER_FAILED",
                "Look at that item's health and at its machine, or take it out of the group.",
            ),
        };
        let message = format!("no instant for all items: {self}; each item's points are of its own instant");
        Problem::new(reason, format!("consistencyGroups/{group}"), message, remedy)
    }
}

/// For how long an item waits for its group's next round, counted from the beginning of its last cycle.
pub(super) fn longest_wait(interval: Duration) -> Duration {
    interval.saturating_mul(2) + PATIENCE.1
}

/// The leader did not call.
pub(super) fn no_round(group: &GroupName) -> Problem {
    Problem::new(
        "GROUP_ROUND_MISSING",
        format!("consistencyGroups/{group}"),
        "no instant for all items: nobody has called for one; this item's points are of its own instants",
        "Look at the agent's log for what the group's rounds wait for.",
    )
}

/// An item as it takes part in a round.
struct Part {
    source: Arc<Source>,
    state: OwnedMutexGuard<State>,
    checkpoint: CheckpointName,
    base: CheckpointName,
    prepared: Box<dyn PreparedSnapshot>,
}

impl Sources {
    /// Somebody calls the rounds of the group, as long as an item of it is replicated from here.
    pub(super) fn lead(&self, group: &GroupName) {
        let mut leaders = self.leaders();
        if leaders.get(group).is_none_or(|leader| leader.is_finished()) {
            leaders.insert(group.clone(), tokio::spawn(lead(self.clone(), group.clone())));
        }
    }

    /// The group's items here. Where there are none, nobody leads it any more.
    fn members_or_leave(&self, group: &GroupName) -> Option<BTreeMap<ItemName, Arc<Source>>> {
        // Whoever adds an item asks for a leader afterwards, under the same lock.
        let mut leaders = self.leaders();
        let running = self.lock();
        let members = running.iter().filter(|(_, running)| !running.task.is_finished());
        let of_group = members.filter(|(_, running)| running.source.group().as_ref() == Some(group));
        let of_group: BTreeMap<_, _> =
            of_group.map(|(item, running)| (item.clone(), running.source.clone())).collect();
        if of_group.is_empty() {
            leaders.remove(group);
            return None;
        }
        Some(of_group)
    }

    async fn round(&self, group: &GroupName, members: BTreeMap<ItemName, Arc<Source>>) {
        let result = attempt(group, &members).await;
        let outcome = match &result {
            Ok(None) => return,
            Ok(Some((joint, _))) => {
                metrics::histogram!("understudy_replication_group_pause_seconds", "group" => group.to_string())
                    .record(joint.pause);
                tracing::info!(%group, items = joint.members.len(), pause = ?joint.pause, "one instant for all");
                "joint"
            }
            Err(missed) => {
                tracing::warn!(%group, %missed, "no instant for all; each item makes a point of its own");
                "missed"
            }
        };
        metrics::counter!(
            "understudy_replication_group_rounds_total", "group" => group.to_string(), "outcome" => outcome
        )
        .increment(1);
        match result {
            Ok(None) => {}
            Ok(Some((joint, taken))) => {
                for source in taken {
                    source.told_of(|facts| {
                        facts.last_instant = Some(joint.instant);
                        facts.last_pause = Some(joint.pause);
                        facts.members = joint.members.clone();
                        facts.missed = None;
                    });
                    source.round.notify_one();
                }
            }
            Err(missed) => {
                for source in members.values() {
                    source.told_of(|facts| facts.missed = Some(missed.problem(group)));
                    source.round.notify_one();
                }
            }
        }
        self.changed();
    }

    fn leaders(&self) -> MutexGuard<'_, HashMap<GroupName, JoinHandle<()>>> {
        // Whole after every statement.
        self.inner.leaders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Calls the rounds until the group has no item here.
async fn lead(sources: Sources, group: GroupName) {
    let mut changes = sources.changes();
    // Not at once: its items begin one after another, each with a cycle of its own.
    let mut last = Instant::now();
    tracing::info!(%group, "the group's rounds begin");
    while let Some(members) = sources.members_or_leave(&group) {
        let interval = members.values().map(|source| source.held().terms.interval).max().unwrap_or_default();
        let due = last + interval;
        if Instant::now() < due {
            // Its items, their terms and so its interval may become others meanwhile.
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => {}
                Ok(()) = changes.changed() => {}
            }
            continue;
        }
        last = Instant::now();
        sources.round(&group, members).await;
    }
    tracing::info!(%group, "the group's rounds have ended");
}

/// One instant for all items that are there to take part, who they are, and what the instant is. Nothing where nobody is.
async fn attempt(
    group: &GroupName,
    members: &BTreeMap<ItemName, Arc<Source>>,
) -> Result<Option<(Joint, Vec<Arc<Source>>)>, Missed> {
    let belongs = members.values().filter_map(|source| source.held().terms.group.clone());
    let wanted: BTreeSet<ItemName> = belongs.flat_map(|membership| membership.members).collect();
    if let Some(absent) = wanted.iter().find(|item| !members.contains_key(*item)) {
        return Err(Missed::Absent(absent.clone()));
    }
    let present: Vec<&Arc<Source>> = members.values().filter(|source| source.takes_part()).collect();
    if present.is_empty() {
        return Ok(None);
    }
    let free = free(&present).await?;
    if free.is_empty() {
        return Ok(None);
    }
    let parts = prepare(free).await?;
    let (parts, instant, pause) = cut(parts).await?;
    let taken: Vec<Arc<Source>> = parts.iter().map(|part| part.source.clone()).collect();
    let joint = Joint {
        group: group.clone(),
        instant,
        members: taken.iter().map(|source| source.item.clone()).collect(),
        pause,
    };
    open(parts, &joint).await?;
    Ok(Some((joint, taken)))
}

/// Waits until none of the items is in a cycle, and keeps them from beginning one. Without those that have come to an end, or to a pause,
/// or that a failover has.
async fn free(present: &[&Arc<Source>]) -> Result<Vec<(Arc<Source>, OwnedMutexGuard<State>)>, Missed> {
    let taken = present.iter().map(|source| async {
        let patience = source.held().terms.interval.clamp(PATIENCE.0, PATIENCE.1);
        let state = timeout(patience, source.state.clone().lock_owned()).await;
        let mut state = state.map_err(|_| Missed::Busy(source.item.clone(), patience))?;
        // As it may have become while it was waited for.
        if state.ended || state.handed_over || !source.takes_part() {
            return Ok(None);
        }
        state.drop_expired().await;
        if state.held.is_some() {
            return Err(Missed::Behind(source.item.clone()));
        }
        Ok(Some(((*source).clone(), state)))
    });
    let taken: Result<Vec<_>, Missed> = join_all(taken).await.into_iter().collect();
    Ok(taken?.into_iter().flatten().collect())
}

/// Makes everything ready that can be before a guest is held.
async fn prepare(free: Vec<(Arc<Source>, OwnedMutexGuard<State>)>) -> Result<Vec<Part>, Missed> {
    let at = now();
    let prepared = free.into_iter().map(|(source, state)| async move {
        let item = source.item.clone();
        let base = state.base.clone().ok_or_else(|| Missed::Starting(item.clone()))?;
        let machine = source.machine().await.map_err(|error| Missed::Machine(item.clone(), error))?;
        let checkpoint =
            CheckpointName::new(format!("understudy-{item}-{}-at-{}", source.generation, at.get()));
        let request = SnapshotRequest {
            machine: machine.name.clone(),
            disks: source.sizes(&machine).into_keys().collect(),
            checkpoint: hypervisor::CheckpointName(checkpoint.as_str().to_owned()),
            base: Some(hypervisor::CheckpointName(base.as_str().to_owned())),
            quiesce: None,
        };
        match timeout(PREPARE_LIMIT, source.hypervisor.prepare_snapshot(&request)).await {
            Ok(Ok(prepared)) => Ok(Part { source, state, checkpoint, base, prepared }),
            Ok(Err(error)) => Err(Missed::Machine(item, error.into())),
            Err(_) => Err(Missed::Slow(item, PREPARE_LIMIT)),
        }
    });
    all_or_none(join_all(prepared).await).await
}

/// Holds all guests, cuts all snapshots, lets all guests go on. The time is one at which all of them were held.
async fn cut(mut parts: Vec<Part>) -> Result<(Vec<Part>, UnixMicros, Duration), Missed> {
    let began = Instant::now();
    let held = within(HOLD_LIMIT, &mut parts, Step::Hold).await;
    let instant = now();
    let left = HOLD_LIMIT.saturating_sub(began.elapsed());
    let cut = match held {
        Ok(()) => within(left, &mut parts, Step::Cut).await,
        missed => missed,
    };
    // All of them, whatever has become of the others. It has no limit but its own: who does not answer is let go by his guard.
    let released = parts.iter_mut().map(|part| async {
        let released = part.prepared.release().await;
        released.map_err(|error| Missed::Machine(part.source.item.clone(), error.into()))
    });
    let released: Result<Vec<Duration>, Missed> = join_all(released).await.into_iter().collect();
    let pause = began.elapsed();
    match cut.and(released.map(drop)) {
        Ok(()) => Ok((parts, instant, pause)),
        Err(missed) => {
            abandon(parts).await;
            Err(missed)
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Hold,
    Cut,
}

/// Does one thing for all parts at once, within a time for all of them.
async fn within(limit: Duration, parts: &mut [Part], step: Step) -> Result<(), Missed> {
    let steps = parts.iter_mut().map(|part| async move {
        let item = &part.source.item;
        let done = async {
            match step {
                Step::Hold => part.prepared.hold(HOLD_LIMIT).await,
                Step::Cut => part.prepared.cut().await,
            }
        };
        match timeout(limit, done).await {
            Ok(done) => done.map_err(|error| Missed::Machine(item.clone(), error.into())),
            Err(_) => Err(Missed::Slow(item.clone(), limit)),
        }
    });
    join_all(steps).await.into_iter().collect()
}

/// Gives every item what its next cycle reads.
async fn open(parts: Vec<Part>, joint: &Joint) -> Result<(), Missed> {
    let opened = parts.into_iter().map(|part| async move {
        let Part { source, state, checkpoint, base, prepared } = part;
        match prepared.open().await {
            Ok(snapshot) => Ok((state, checkpoint, base, snapshot)),
            Err(error) => Err(Missed::Machine(source.item.clone(), error.into())),
        }
    });
    let (opened, missed) = divide(join_all(opened).await);
    for (mut state, checkpoint, base, snapshot) in opened {
        if missed.is_some() {
            close(snapshot).await;
            continue;
        }
        // Where the machine's changes are not tracked, its point stays known by the base.
        let checkpoint = if snapshot.checkpoint_made() { checkpoint } else { base.clone() };
        let (base, joint) = (Some(base), Some(joint.clone()));
        state.held = Some(Frozen { snapshot, checkpoint, base, joint, opened: Instant::now() });
    }
    missed.map_or(Ok(()), Err)
}

async fn close(snapshot: Box<dyn Snapshot>) {
    if let Err(error) = snapshot.close().await {
        tracing::warn!(%error, "a snapshot could not be closed");
    }
}

async fn all_or_none(parts: Vec<Result<Part, Missed>>) -> Result<Vec<Part>, Missed> {
    match divide(parts) {
        (parts, None) => Ok(parts),
        (parts, Some(missed)) => {
            abandon(parts).await;
            Err(missed)
        }
    }
}

/// What succeeded, and the first that did not.
fn divide<T>(results: Vec<Result<T, Missed>>) -> (Vec<T>, Option<Missed>) {
    let (mut done, mut missed) = (Vec::new(), None);
    for result in results {
        match result {
            Ok(one) => done.push(one),
            Err(why) => missed = missed.or(Some(why)),
        }
    }
    (done, missed)
}

async fn abandon(parts: Vec<Part>) {
    let ended = parts.into_iter().map(|part| async move {
        let item = part.source.item.clone();
        if let Err(error) = part.prepared.abandon().await {
            // The next snapshot of the machine ends it first.
            tracing::warn!(%item, %error, "what was begun for an instant of all could not be ended");
        }
    });
    join_all(ended).await;
}

impl Source {
    pub(super) fn group(&self) -> Option<GroupName> {
        self.held().terms.group.as_ref().map(|membership| membership.group.clone())
    }

    /// Whether there is something of the item to be consistent with.
    fn takes_part(&self) -> bool {
        let has_point = self.status.borrow().last_instant.is_some() || self.history.latest().is_some();
        has_point && !self.held().terms.paused
    }

    pub(super) fn told_of(&self, change: impl FnOnce(&mut GroupFacts)) {
        self.status.send_modify(|status| {
            if let Some(facts) = &mut status.group {
                change(facts);
            }
        });
    }
}
