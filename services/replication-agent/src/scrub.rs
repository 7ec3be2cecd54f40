//! Reading replicas again, before a failover needs them (R-REP-5).
//!
//! ```text
//!   every minute: which item is due? ─▶ a pass ─┐
//!   task ScrubItem ─▶ a pass of its own ────────┼─▶ step ─ pause by the rate ─▶ step …   one step at a time in the whole store
//!                                               └─▶ notes of damage, facts, metrics
//! ```
//!
//! Promise: all passes together read no more than the rate, a quarter of it while a point is being received. A scheduled pass goes on after a
//! restart where it was; a task's begins anew.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use serde::Deserialize;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use understudy_ids::{ItemName, PointSeq, UnixMicros};
use understudy_replica_store::{Finished, Scrub, Scrubbed, StoreError};
use understudy_replication::scrub::{ScrubFacts, due};

use crate::{replica::Replica, sink::Sink};

/// How often it is looked whether an item is due.
const LOOK: Duration = Duration::from_secs(60);
/// How much of a pass a crash may cost.
const SAVE: Duration = Duration::from_secs(15);
/// Steps in a second, so that a change of circumstances shows soon.
const STEPS: u64 = 4;
/// What is left of the rate while points arrive.
const BESIDE_TRANSFERS: u64 = 4;

/// How often, and how fast.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScrubConfig {
    /// Between the beginnings of two passes over an item; 0: only when asked.
    pub period_s: u64,
    pub rate_bytes_per_s: u64,
}

impl Default for ScrubConfig {
    fn default() -> Self {
        Self { period_s: 7 * 86_400, rate_bytes_per_s: 50 << 20 }
    }
}

#[derive(Clone)]
pub struct Scrubber {
    inner: Arc<Inner>,
}

struct Inner {
    replica: Replica,
    sink: Sink,
    config: ScrubConfig,
    changes: watch::Sender<u64>,
    /// Whoever reads.
    turn: tokio::sync::Mutex<()>,
    /// Of each item, who may read it, and how to end a scheduled pass that does.
    items: Mutex<HashMap<ItemName, Slot>>,
}

#[derive(Clone, Default)]
struct Slot {
    held: Arc<tokio::sync::Mutex<()>>,
    scheduled: CancellationToken,
}

impl Scrubber {
    pub fn new(replica: Replica, sink: Sink, config: ScrubConfig) -> Self {
        let changes = watch::Sender::new(0);
        Self {
            inner: Arc::new(Inner {
                replica,
                sink,
                config,
                changes,
                turn: Default::default(),
                items: Mutex::default(),
            }),
        }
    }

    /// Counts what has come to light.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// Reads what is due, until the shutdown.
    pub async fn run(&self, shutdown: CancellationToken) {
        let period = Duration::from_secs(self.inner.config.period_s);
        while !period.is_zero() && !shutdown.is_cancelled() {
            match self.next(period).await {
                Ok(Some(item)) => {
                    if let Err(error) = self.scheduled(&item, &shutdown).await {
                        tracing::warn!(%item, %error, "the replica could not be scrubbed; it is tried again");
                        self.pause(LOOK, &shutdown).await;
                    }
                }
                Ok(None) => self.pause(LOOK.min(period), &shutdown).await,
                Err(error) => {
                    tracing::warn!(%error, "the replica store cannot be read");
                    self.pause(LOOK, &shutdown).await;
                }
            }
        }
    }

    /// The item that has been due for the longest time.
    async fn next(&self, period: Duration) -> Result<Option<ItemName>, StoreError> {
        let now = now();
        self.inner
            .replica
            .call(move |store| {
                let mut found = Vec::new();
                for item in store.items()? {
                    let record = store.scrubs(&item);
                    let facts = ScrubFacts {
                        first_received: store.points(&item)?.first().map(|p| p.manifest.received),
                        last_began: record.last.as_ref().map(|last| last.began),
                        under_way: record.under_way_since().is_some(),
                    };
                    found.extend(due(&item, facts, period).filter(|due| *due <= now).map(|due| (due, item)));
                }
                Ok(found.into_iter().min().map(|(_, item)| item))
            })
            .await
    }

    async fn scheduled(&self, item: &ItemName, shutdown: &CancellationToken) -> Result<(), StoreError> {
        let slot = self.slot(item, |slot| slot.scheduled = shutdown.child_token());
        // A task reads the item right now, all of it as a rule; afterwards this one is looked at again.
        let Ok(_held) = slot.held.clone().try_lock_owned() else {
            self.pause(LOOK, shutdown).await;
            return Ok(());
        };
        let scrub = {
            let item = item.clone();
            self.inner.replica.call(move |store| Ok(store.scrub_on(&item, now()))).await?
        };
        self.drive(scrub, &slot.scheduled, |_| {}).await.map(|_| ())
    }

    /// Reads an item at once, all of its points or what one stands on. `None` when it was told to end before it had.
    pub async fn scrub(
        &self,
        item: &ItemName,
        only: Option<PointSeq>,
        ended: &CancellationToken,
        told: impl Fn(Scrubbed),
    ) -> Result<Option<Finished>, StoreError> {
        let slot = self.slot(item, |slot| slot.scheduled.cancel());
        let _held = tokio::select! {
            held = slot.held.clone().lock_owned() => held,
            () = ended.cancelled() => return Ok(None),
        };
        let item = item.clone();
        let begin = self.inner.replica.call(move |store| {
            if let Some(seq) = only {
                store.point(&item, seq)?;
            }
            Ok(store.scrub_anew(&item, only, now()))
        });
        self.drive(begin.await?, ended, told).await
    }

    fn slot(&self, item: &ItemName, change: impl FnOnce(&mut Slot)) -> Slot {
        // The map is whole at every moment, so a panic elsewhere does not spoil it.
        let mut items = self.inner.items.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = items.entry(item.clone()).or_default();
        change(slot);
        slot.clone()
    }

    /// Step by step to the end, or to where it is told to end; then its place is kept.
    async fn drive(
        &self,
        mut scrub: Scrub,
        ended: &CancellationToken,
        told: impl Fn(Scrubbed),
    ) -> Result<Option<Finished>, StoreError> {
        let inner = &self.inner;
        let item = scrub.item().clone();
        // Once at the beginning, so that it is known that a pass is under way.
        let mut saved: Option<Instant> = None;
        loop {
            let turn = inner.turn.lock().await;
            let (rate, began) = (self.rate(), Instant::now());
            let step;
            (scrub, step) = inner
                .replica
                .call(move |_| {
                    let step = scrub.step(rate / STEPS)?;
                    Ok((scrub, step))
                })
                .await?;
            metrics::counter!("understudy_scrub_read_bytes_total").increment(step.bytes);
            told(step);
            if step.found {
                self.tell();
            }
            if step.done {
                drop(turn);
                return self.finish(scrub, &item).await.map(Some);
            }
            if ended.is_cancelled() || saved.is_none_or(|at| at.elapsed() >= SAVE) {
                let begins = saved.is_none();
                scrub = inner.replica.call(move |_| scrub.save().map(|()| scrub)).await?;
                saved = Some(Instant::now());
                if begins {
                    self.tell();
                }
            }
            if ended.is_cancelled() {
                return Ok(None);
            }
            let lasts = Duration::from_secs_f64(step.bytes as f64 / rate as f64);
            self.pause(lasts.saturating_sub(began.elapsed()), ended).await;
        }
    }

    fn rate(&self) -> u64 {
        let rate = self.inner.config.rate_bytes_per_s;
        if self.inner.sink.is_receiving() { rate / BESIDE_TRANSFERS } else { rate }
    }

    async fn finish(&self, scrub: Scrub, item: &ItemName) -> Result<Finished, StoreError> {
        let done = self.inner.replica.call(move |_| scrub.finish(now())).await?;
        let (blocks, damaged) = (done.checked_blocks, done.damaged_points.len());
        tracing::info!(%item, blocks, damaged, "replica scrubbed");
        measure_damage(item, damaged);
        metrics::gauge!("understudy_scrub_last_end_seconds", "item" => item.to_string())
            .set(done.ended.get() as f64 / 1e6);
        self.tell();
        Ok(done)
    }

    fn tell(&self) {
        self.inner.changes.send_modify(|n| *n += 1);
    }

    async fn pause(&self, time: Duration, ended: &CancellationToken) {
        tokio::select! {
            () = sleep(time) => {}
            () = ended.cancelled() => {}
        }
    }
}

/// Points of an item that are known to be damaged, for dashboards.
pub fn measure_damage(item: &ItemName, points: usize) {
    metrics::gauge!("understudy_scrub_damaged_points", "item" => item.to_string()).set(points as f64);
}

fn now() -> UnixMicros {
    SystemTime::now().into()
}
