//! The sending side: one loop per item that goes on for ever at its interval, with or without a control plane.
//!
//! ```text
//!   ledger (assignment) ──▶ Sources ──▶ Source: every interval ─▶ cycle ─▶ point at the peer
//!                              ▲                     │ failed: again after a growing pause, at most a few intervals
//!   tasks: final delta, stop ──┘                     │ superseded: fenced, machine off, loop ends (R-FO-7)
//! ```
//! Cycles of one item never overlap; a cycle that takes longer than the interval is followed by the next one at once. Before each one the
//! loop waits for its turn among all items of the host ([`turns`]). An item of a consistency group does not go by its own interval but by
//! its group's rounds ([`rounds`]). Other terms of the same stream are taken over while it
//! runs, from its next cycle on; only a pause breaks a cycle off.

mod cycle;
mod error;
mod history;
pub mod measure;
mod meter;
mod pace;
mod parts;
mod progress;
mod reading;
mod rest;
mod rounds;
mod seal;
mod ship;
mod snapshot;
mod terms;
mod turns;
mod untouched;
mod work;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    sync::{Notify, OwnedMutexGuard, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use understudy_hypervisor::{self as hypervisor, Hypervisor};
use understudy_ids::{DiskName, Generation, GroupName, ItemName, Problem, UnixMicros};
use understudy_replication::{CheckpointName, admission::Class};
use understudy_replication_api::{GroupFacts, ReplicationFacts, ReplicationState, SinkClient};
use understudy_rpc::{ConnectError, TlsFiles};

use crate::ledger::{Assignment, Ledger, Role, Stream, Terms, Verb};
pub use cycle::{Purpose, Shipped};
pub use error::CycleError;
use history::History;
use pace::Paces;
pub use reading::{ReadDisk, Reading};
pub use seal::{KeyError, Keys, Sealing};
use snapshot::Frozen;
use terms::Held;
pub use turns::CycleLimits;
use turns::{Turn, Turns};
use untouched::Untouched;

/// After a failure the loop waits at most so many intervals.
const BACK_OFF_INTERVALS: u32 = 8;
/// And at least this long.
const BACK_OFF_LEAST: Duration = Duration::from_millis(500);
/// No pause is longer, whatever the interval.
const BACK_OFF_MOST: Duration = Duration::from_secs(30);

/// Between two cycles, what the guest has written meanwhile is counted so often.
const COUNT_EVERY: Duration = Duration::from_secs(5);

/// The replication of one item from this host.
pub struct Source {
    item: ItemName,
    generation: Generation,
    stream: Stream,
    terms: watch::Sender<Arc<Held>>,
    hypervisor: Arc<dyn Hypervisor>,
    client: SinkClient,
    keys: Keys,
    status: watch::Sender<ReplicationFacts>,
    history: History,
    state: Arc<tokio::sync::Mutex<State>>,
    /// A round of its group has taken place: there is an instant to ship, or it makes one of its own.
    round: Notify,
    /// When the loop began, by which it waits for a turn before there is a point.
    began: UnixMicros,
}

/// What lasts from cycle to cycle. Its lock is what keeps cycles apart.
#[derive(Default)]
pub struct State {
    held: Option<Frozen>,
    expired: bool,
    /// The loop has ended: nobody closes what is opened now.
    ended: bool,
    /// Everything that the machine wrote is at the target, for a failover that goes on from there. Ends when the machine runs again.
    handed_over: bool,
    /// The disks as the last cycle left them, where it read the machine while it was off: nothing to ship until they are touched.
    covered_off: Option<Untouched>,
    /// When the guest was asked to come to rest.
    asked: Option<rest::Asked>,
    /// The checkpoint at the instant of the target's latest point: what is tracked since then is still to be shipped.
    base: Option<CheckpointName>,
}

impl State {
    /// Closes the instant that is held, if any.
    pub async fn release(&mut self) {
        self.expired = false;
        if let Some(held) = self.held.take() {
            held.close().await;
        }
    }

    async fn drop_expired(&mut self) {
        if self.expired {
            self.release().await;
        }
    }
}

struct Running {
    source: Arc<Source>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// All loops of this agent.
#[derive(Clone)]
pub struct Sources {
    inner: Arc<Inner>,
}

struct Inner {
    hypervisor: Arc<dyn Hypervisor>,
    ledger: Ledger,
    tls: TlsFiles,
    keys: Keys,
    running: Mutex<HashMap<ItemName, Running>>,
    paces: Paces,
    turns: Turns,
    /// Who calls the rounds of each consistency group that has an item here.
    leaders: Mutex<HashMap<GroupName, JoinHandle<()>>>,
    changes: watch::Sender<u64>,
}

impl Sources {
    pub fn new(
        hypervisor: Arc<dyn Hypervisor>,
        ledger: Ledger,
        keys: Keys,
        tls: TlsFiles,
        limits: CycleLimits,
    ) -> Self {
        let (running, changes) = (Mutex::default(), watch::Sender::new(0));
        let (paces, turns) = (Paces::default(), Turns::new(limits));
        let leaders = Mutex::default();
        let inner = Inner { hypervisor, ledger, tls, keys, running, paces, turns, leaders, changes };
        Self { inner: Arc::new(inner) }
    }

    /// Counts changes of any status, for whoever tells others.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// The item is replicated as assigned. A loop of the same stream takes the terms over; one of another is ended first.
    ///
    /// # Errors
    /// When the peer's endpoint or our certificates cannot be used.
    pub async fn start(
        &self,
        item: &ItemName,
        generation: Generation,
        assignment: Assignment,
    ) -> Result<(), ConnectError> {
        let Assignment { stream, terms } = assignment;
        let same = |r: &&Running| {
            r.source.stream == stream && r.source.generation == generation && !r.task.is_finished()
        };
        let running = self.lock().get(item).filter(same).map(|r| r.source.clone());
        if let Some(source) = running {
            if source.take_over(terms, &self.inner.paces) {
                self.changed();
            }
            if let Some(group) = source.group() {
                self.lead(&group);
            }
            return Ok(());
        }
        self.stop(item).await;
        let client = SinkClient::new(&stream.peer_endpoint, self.inner.tls.clone(), &stream.peer_host)?;
        let disks = stream.disks.clone();
        let held = Held::new(terms, &stream.peer_host, &self.inner.paces, None);
        let source = Arc::new(Source {
            item: item.clone(),
            generation,
            status: watch::Sender::new(idle(disks, &held.terms)),
            stream,
            terms: watch::Sender::new(Arc::new(held)),
            hypervisor: self.inner.hypervisor.clone(),
            client,
            keys: self.inner.keys.clone(),
            history: History::open(self.inner.ledger.state_dir(), item, generation, now()),
            state: Arc::default(),
            round: Notify::new(),
            began: now(),
        });
        let group = source.group();
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(source.clone(), self.inner.ledger.clone(), self.clone(), stop.clone()));
        let earlier = self.lock().insert(item.clone(), Running { source, stop, task });
        // Somebody else started one in between; the last one counts.
        if let Some(earlier) = earlier {
            earlier.stop.cancel();
        }
        if let Some(group) = group {
            self.lead(&group);
        }
        self.changed();
        Ok(())
    }

    /// The item is not replicated from here any more; a running cycle is broken off.
    pub async fn stop(&self, item: &ItemName) {
        let running = self.lock().remove(item);
        if let Some(Running { stop, task, .. }) = running {
            stop.cancel();
            // A loop that panicked has ended as well.
            let _ = task.await;
            self.changed();
        }
    }

    /// The item's secret is not needed here any more: this side does not send. Its recipients can read what has been sent.
    pub async fn forget_keys(&self, item: &ItemName) {
        if let Err(error) = self.inner.keys.forget(item).await {
            tracing::warn!(%item, %error, "the keys of an item that is not sent any more are left behind");
        }
    }

    /// The encryption of an item as its assignment asks for it.
    pub async fn sealing(
        &self,
        item: &ItemName,
        encrypt_for: &[String],
        disks: Vec<DiskName>,
    ) -> Result<Option<Arc<Sealing>>, KeyError> {
        self.inner.keys.sealing(item, encrypt_for, disks).await
    }

    /// Ends all loops, bounded by what a broken-off cycle takes.
    pub async fn shut_down(&self) {
        let all: Vec<Running> = self.lock().drain().map(|(_, r)| r).collect();
        all.iter().for_each(|r| r.stop.cancel());
        for running in all {
            let _ = running.task.await;
        }
    }

    /// What replication of the item does; `None` when it is not replicated from here.
    pub fn status(&self, item: &ItemName) -> Option<ReplicationFacts> {
        self.lock().get(item).map(|r| r.source.status.borrow().clone())
    }

    /// The item is not protected from here any more.
    pub fn forget(&self, item: &ItemName) {
        history::forget(self.inner.ledger.state_dir(), item);
    }

    /// Counts how old the latest points are by now. Not with every look at the status: it changes all the time.
    pub fn count_ages(&self) {
        let sources: Vec<Arc<Source>> = self.lock().values().map(|r| r.source.clone()).collect();
        sources.iter().for_each(|source| source.count_ages());
    }

    pub fn get(&self, item: &ItemName) -> Option<Arc<Source>> {
        self.lock().get(item).map(|r| r.source.clone())
    }

    /// Keeps cycles of the item away, with no snapshot open, until the guard is dropped.
    pub async fn quiesce(&self, item: &ItemName) -> Option<OwnedMutexGuard<State>> {
        let source = self.get(item)?;
        let mut state = source.state.clone().lock_owned().await;
        state.release().await;
        Some(state)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ItemName, Running>> {
        // The map is whole at every moment, so a panic elsewhere does not spoil it.
        self.inner.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.inner.changes.send_modify(|n| *n += 1);
    }
}

fn idle(disks: Vec<DiskName>, terms: &Terms) -> ReplicationFacts {
    ReplicationFacts {
        disks,
        state: ReplicationState::Initial,
        last_seq: None,
        last_instant: None,
        sent_bytes: 0,
        total_bytes: 0,
        last_cycle_bytes: 0,
        last_cycle: Duration::ZERO,
        last_cycle_kind: String::new(),
        cycles: 0,
        last_error: None,
        failures: 0,
        failing_since: None,
        backlog_bytes: None,
        throughput_bytes_per_second: 0,
        covered: false,
        not_at_rest: None,
        last_hour: None,
        last_day: None,
        revision: Some(terms.revision.clone()),
        group: terms.group.as_ref().map(|membership| GroupFacts::new(membership.group.clone())),
    }
}

fn now() -> UnixMicros {
    SystemTime::now().into()
}

/// The loop.
async fn run(source: Arc<Source>, ledger: Ledger, sources: Sources, stop: CancellationToken) {
    let mut terms = source.terms.subscribe();
    let mut failures = 0u32;
    let mut class = Class::Delta;
    // Whoever has failed had his turn: he is not the first again at once because his point is the oldest.
    let mut failed: Option<UnixMicros> = None;
    while !stop.is_cancelled() {
        if terms.borrow_and_update().terms.paused {
            source.pause(&mut terms, &sources, &stop).await;
            (failures, failed) = (0, None);
            continue;
        }
        let Some(turn) = source.turn(&sources, class, failed, &mut terms, &stop).await else { continue };
        let (began, tried) = (Instant::now(), now());
        let result = source.cycle_unless_paused(class, &mut terms, &stop).await;
        drop(turn);
        sources.changed();
        match result {
            Ok(shipped) => {
                (failures, failed, class) = (0, None, Class::Delta);
                // A group's instants are crash-consistent, so a point at rest that is due is one of its own, right behind.
                if shipped.is_some_and(|s| s.is_joint)
                    && source.quiesce(&*source.state.lock().await).is_some()
                {
                    continue;
                }
            }
            Err(CycleError::Stopped) => continue,
            Err(CycleError::NeedsFullCopy) => {
                class = Class::FullCopy;
                continue;
            }
            Err(CycleError::Superseded(generation)) => {
                fence(&source, &ledger, generation).await;
                break;
            }
            Err(_) => (failures, failed) = (failures.saturating_add(1), Some(tried)),
        }
        source.rest_until_due(began, failures, &mut terms, &stop).await;
    }
    let mut state = source.state.lock().await;
    state.release().await;
    state.ended = true;
    drop(state);
    source.status.send_modify(|s| s.state = ReplicationState::Stopped);
    sources.changed();
}

/// Grows from half a second to a few intervals, counted from the beginning of the cycle that failed.
fn back_off(interval: Duration, failures: u32) -> Duration {
    let most = interval.saturating_mul(BACK_OFF_INTERVALS).clamp(BACK_OFF_LEAST, BACK_OFF_MOST);
    BACK_OFF_LEAST.saturating_mul(1 << failures.min(16)).min(most)
}

/// The target has seen a higher generation, which is committed before anybody is told to promote: the other side is active by now, or about
/// to be. So this side writes it down and takes its copy out of production, whether or not the control plane can be reached
/// (invariant 1). Where the machine cannot be stopped now, the orchestrator's correction stops it later.
async fn fence(source: &Source, ledger: &Ledger, generation: Generation) {
    tracing::warn!(item = %source.item, ours = %source.generation, %generation, "superseded; this side is fenced");
    if let Err(error) = ledger.admit(&source.item, generation, Verb::Fence).await {
        // Whoever has written down a higher generation still has fenced this loop as well, and the machine may be the active one
        // again under it. So it is not touched; where the disk is at fault, the orchestrator's correction stops the old copy.
        tracing::error!(item = %source.item, %error, "the higher generation could not be written down");
        return;
    }
    if let Err(error) = source.keys.forget(&source.item).await {
        tracing::warn!(item = %source.item, %error, "the keys of a fenced side are left behind");
    }
    if let Err(error) = source.hypervisor.power_off(&source.stream.machine).await {
        tracing::error!(item = %source.item, machine = %source.stream.machine, %error, "the old copy could not be stopped");
    }
}

impl Source {
    /// Ships everything that the machine wrote before it was shut off. Waits for a cycle that runs.
    pub async fn final_delta(&self, stop: &CancellationToken) -> Result<Shipped, CycleError> {
        // It waits for no turn: the machine is off, and people wait (R-PF-2).
        let mut state = tokio::select! {
            state = self.state.lock() => state,
            () = stop.cancelled() => return Err(CycleError::Stopped),
        };
        let shipped = self.recorded(&mut state, Purpose::Final, stop).await?;
        // A point of a later instant would come between it and what is made of it.
        state.handed_over = true;
        shipped.ok_or_else(|| CycleError::NotOff(self.stream.machine.clone()))
    }

    /// Follows the status, for progress.
    pub fn watch(&self) -> watch::Receiver<ReplicationFacts> {
        self.status.subscribe()
    }

    /// A cycle whose end is written into status, metrics and log.
    async fn recorded(
        &self,
        state: &mut State,
        purpose: Purpose,
        stop: &CancellationToken,
    ) -> Result<Option<Shipped>, CycleError> {
        let began = Instant::now();
        let result = self.cycle(state, purpose, stop).await;
        if matches!(result, Err(CycleError::Changed(_))) {
            // Nobody knows for how long; an instant that is held costs the guest space.
            state.release().await;
        }
        let took = began.elapsed();
        let item = self.item.to_string();
        match &result {
            Ok(None) => {
                self.history.covered(now());
                self.status.send_modify(|s| succeed(s, None, took));
            }
            Ok(Some(shipped)) => {
                metrics::histogram!("understudy_replication_cycle_seconds", "item" => item).record(took);
                tracing::info!(
                    item = %self.item, seq = %shipped.seq, bytes = shipped.sent_bytes, ?took, kind = %shipped.kind, "point shipped"
                );
                self.history.point(shipped.instant, now());
                self.status.send_modify(|s| succeed(s, Some(shipped), took));
            }
            Err(CycleError::Stopped | CycleError::NeedsFullCopy) => {}
            Err(error) => {
                metrics::counter!("understudy_replication_cycle_failures_total", "item" => item).increment(1);
                tracing::warn!(item = %self.item, %error, "cycle failed; its changes are shipped with the next one");
                let problem = error.problem(&format!("protectedItems/{}", self.item));
                self.status.send_modify(|s| fail(s, problem));
            }
        }
        self.status.send_modify(|s| {
            s.covered = state.covered_off.is_some();
            s.backlog_bytes = if s.covered { Some(0) } else { s.backlog_bytes };
        });
        self.count_ages();
        result
    }

    fn count_ages(&self) {
        let [last_hour, last_day] = self.history.percentiles(now());
        self.status.send_modify(|s| (s.last_hour, s.last_day) = (last_hour, last_day));
    }

    /// A cycle that a pause breaks off as a stop does.
    async fn cycle_unless_paused(
        &self,
        class: Class,
        terms: &mut watch::Receiver<Arc<Held>>,
        stop: &CancellationToken,
    ) -> Result<Option<Shipped>, CycleError> {
        let halt = stop.child_token();
        let cycle = async {
            // Somebody has taken the item since; the turn goes back, and this loop waits without one.
            let Ok(mut state) = self.state.try_lock() else { return Err(CycleError::Stopped) };
            self.recorded(&mut state, Purpose::Interval(class), &halt).await
        };
        let paused = async {
            if terms.wait_for(|held| held.terms.paused).await.is_ok() {
                halt.cancel();
            }
            std::future::pending().await
        };
        tokio::select! {
            biased;
            result = cycle => result,
            never = paused => never,
        }
    }

    /// Nothing is sent until the terms are others. What the guest writes goes on being tracked since the latest point, and counted.
    async fn pause(
        &self,
        terms: &mut watch::Receiver<Arc<Held>>,
        sources: &Sources,
        stop: &CancellationToken,
    ) {
        {
            let mut state = self.state.lock().await;
            // An instant that is held costs the guest space, and nobody knows for how long.
            state.release().await;
            // The machine may run unseen.
            state.covered_off = None;
        }
        self.status.send_modify(|s| {
            s.state = ReplicationState::Paused;
            (s.sent_bytes, s.total_bytes, s.throughput_bytes_per_second) = (0, 0, 0);
            (s.last_error, s.failures, s.failing_since) = (None, 0, None);
            s.covered = false;
        });
        sources.changed();
        tracing::info!(item = %self.item, "replication is paused");
        while self.rest(None, terms, stop).await {
            if !terms.borrow_and_update().terms.paused {
                break;
            }
        }
        tracing::info!(item = %self.item, "the pause has ended");
    }

    /// Waits for a turn among all items; `None` when the terms have changed meanwhile, or the loop is to end.
    async fn turn(
        &self,
        sources: &Sources,
        class: Class,
        failed: Option<UnixMicros>,
        terms: &mut watch::Receiver<Arc<Held>>,
        stop: &CancellationToken,
    ) -> Option<Turn> {
        // Whoever has the item for another purpose may have it for long. A turn that waits for him would be missed by others.
        tokio::select! {
            state = self.state.lock() => drop(state),
            () = stop.cancelled() => return None,
        }
        let (latest, before) = {
            let status = self.status.borrow();
            (status.last_instant.or_else(|| self.history.latest()), status.state)
        };
        let since = latest.unwrap_or(self.began);
        let since = failed.map_or(since, |failed| failed.max(since));
        let objective = self.terms.borrow().terms.objective();
        let mut waiting = sources.inner.turns.ask(class, since, objective);
        // Its state is told only where there is something to wait for.
        if let Some(turn) = waiting.at_once() {
            return Some(turn);
        }
        self.status.send_modify(|s| s.state = ReplicationState::Queued);
        sources.changed();
        let turn = tokio::select! {
            turn = waiting.turn() => Some(turn),
            Ok(()) = terms.changed() => None,
            () = stop.cancelled() => None,
        };
        self.status.send_modify(|s| s.state = before);
        turn
    }

    /// Waits for the next cycle, by the terms as they become meanwhile.
    async fn rest_until_due(
        &self,
        began: Instant,
        failures: u32,
        terms: &mut watch::Receiver<Arc<Held>>,
        stop: &CancellationToken,
    ) {
        loop {
            let (interval, paused, group) = {
                let held = terms.borrow_and_update();
                (held.terms.interval, held.terms.paused, self.group())
            };
            let pause = match &group {
                _ if failures > 0 => back_off(interval, failures),
                // The group's round comes before that.
                Some(_) => rounds::longest_wait(interval),
                None => interval,
            };
            // App-consistent points have an interval of their own.
            let rests_in = self.rests_in(&*self.state.lock().await).filter(|_| failures == 0);
            let until = match rests_in {
                Some(due) => (began + pause).min(Instant::now() + due),
                None => began + pause,
            };
            if paused || !self.rest(Some(until), terms, stop).await {
                if let Some(group) = group.filter(|_| Instant::now() >= began + pause && failures == 0) {
                    self.told_of(|facts| facts.missed = Some(rounds::no_round(&group)));
                }
                return;
            }
        }
    }

    /// Waits until then, until a round of its group has taken place, or until the terms change, which is `true`. What the guest writes
    /// meanwhile is counted, unless the end comes before it is worth the question.
    async fn rest(
        &self,
        until: Option<Instant>,
        terms: &mut watch::Receiver<Arc<Held>>,
        stop: &CancellationToken,
    ) -> bool {
        let is_long = until.is_none() || self.terms.borrow().terms.interval >= COUNT_EVERY;
        let asks = is_long || self.status.borrow().failures > 0;
        while until.is_none_or(|until| Instant::now() < until) && !stop.is_cancelled() {
            if asks {
                self.count_backlog().await;
            }
            let look = Instant::now() + COUNT_EVERY;
            let next = until.map_or(look, |until| look.min(until));
            tokio::select! {
                () = tokio::time::sleep_until(next.into()) => {}
                Ok(()) = terms.changed() => return true,
                () = self.round.notified(), if until.is_some() => return false,
                () = stop.cancelled() => {}
            }
        }
        false
    }

    async fn count_backlog(&self) {
        let (base, covered) = {
            let state = self.state.lock().await;
            (state.base.clone(), state.covered_off.is_some())
        };
        let counted = match base {
            _ if covered => Some(0),
            Some(base) => {
                let since = hypervisor::CheckpointName(base.as_str().to_owned());
                let counted = self.hypervisor.changed_bytes(&self.stream.machine, &since).await;
                // Tracking that does not answer is no failure yet; the next cycle finds out what is wrong with it.
                counted
                    .inspect_err(|error| tracing::debug!(item = %self.item, %error, "not counted"))
                    .ok()
                    .flatten()
            }
            None => self.status.borrow().backlog_bytes,
        };
        self.status.send_modify(|s| s.backlog_bytes = counted);
    }
}

/// A cycle that shipped a point, or had nothing to ship.
fn succeed(status: &mut ReplicationFacts, shipped: Option<&Shipped>, took: Duration) {
    status.state = ReplicationState::Steady;
    status.sent_bytes = status.total_bytes;
    status.throughput_bytes_per_second = 0;
    // What was written since the instant is counted later, where it is worth it.
    status.backlog_bytes = shipped.is_none().then_some(0);
    (status.last_error, status.failures, status.failing_since) = (None, 0, None);
    if let Some(shipped) = shipped {
        status.last_seq = Some(shipped.seq);
        status.last_instant = Some(shipped.instant);
        status.last_cycle_bytes = shipped.sent_bytes;
        status.last_cycle = took;
        status.last_cycle_kind.clone_from(&shipped.kind);
        status.cycles += 1;
    }
}

fn fail(status: &mut ReplicationFacts, problem: Problem) {
    status.state = ReplicationState::Error;
    status.throughput_bytes_per_second = 0;
    status.last_error = Some(problem);
    status.failures = status.failures.saturating_add(1);
    status.failing_since.get_or_insert_with(now);
}

/// Takes up the assignments that were written down. Each loop asks its peer first, so a side that was superseded while this
/// host was away learns it with its first cycle.
pub async fn resume(sources: &Sources, ledger: &Ledger) {
    for record in ledger.all() {
        let (Role::Source, Some(assignment)) = (record.role, record.assignment) else { continue };
        if let Err(error) = sources.start(&record.item, record.generation, assignment).await {
            tracing::error!(item = %record.item, %error, "replication cannot be taken up");
        }
    }
}
