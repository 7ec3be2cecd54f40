//! What may leave this host for a peer, now (R-REP-11).
//!
//! ```text
//!   assignments ─▶ Paces ─▶ one bucket per policy and peer ◀─ Pace ◀─ every transfer, before it hands over a piece
//! ```
//! Only the source holds back: what it does not send need not be received. A limit that changes counts from the next piece on, also in
//! the middle of a copy that takes days.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError, Weak},
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::watch;
use understudy_ids::{HostName, PolicyName, UnixMicros};
use understudy_replication::bandwidth::{Bandwidth, Bucket};

use super::terms::Held;
use crate::ledger::Terms;

type Key = (HostName, Option<PolicyName>);

/// The buckets of this agent. Clones share them.
#[derive(Clone, Default)]
pub struct Paces {
    buckets: Arc<Mutex<HashMap<Key, Weak<Mutex<Bucket>>>>>,
}

/// One transfer's share of a bucket.
#[derive(Clone)]
pub struct Pace {
    bucket: Arc<Mutex<Bucket>>,
    bandwidth: Bandwidth,
}

impl Paces {
    /// Nothing where there is never a limit.
    pub fn of(&self, peer: &HostName, terms: &Terms) -> Option<Pace> {
        let bandwidth = terms.settings.bandwidth.clone();
        if bandwidth.is_unlimited() {
            return None;
        }
        let key = (peer.clone(), terms.policy.clone());
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody uses any more.
        buckets.retain(|_, bucket| bucket.strong_count() > 0);
        let shared = buckets.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| {
            let bucket = Arc::new(Mutex::new(Bucket::new(since_start())));
            buckets.insert(key, Arc::downgrade(&bucket));
            bucket
        });
        Some(Pace { bucket: shared, bandwidth })
    }
}

/// Holds one transfer back by whatever pace its terms have at the moment.
pub struct Pacer(pub watch::Receiver<Arc<Held>>);

impl Pacer {
    /// Returns when `bytes` may be sent. Between questions the schedule, or others that share the bucket, may have moved on.
    pub async fn admit(&self, bytes: u64) {
        let mut terms = self.0.clone();
        loop {
            let wait = terms.borrow_and_update().pace.as_ref().and_then(|pace| pace.ask(bytes));
            let Some(wait) = wait else { return };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                Ok(()) = terms.changed() => {}
            }
        }
    }
}

impl Pace {
    fn ask(&self, bytes: u64) -> Option<Duration> {
        let rate = self.bandwidth.at(SystemTime::now().into());
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner).admit(bytes, rate, since_start())
    }
}

/// Time by a clock that does not jump; its zero is the first question.
fn since_start() -> UnixMicros {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    UnixMicros::new(i64::try_from(START.elapsed().as_micros()).unwrap_or(i64::MAX))
}
