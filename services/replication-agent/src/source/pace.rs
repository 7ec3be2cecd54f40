//! What may leave this host for a peer, now (R-REP-11).
//!
//! ```text
//!   assignments ─▶ Paces ─▶ one bucket per policy and peer ◀─ Pace ◀─ every transfer, before it hands over a piece
//! ```
//! Only the source holds back: what it does not send need not be received. A transfer without a limit has no pace at all and pays nothing.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError, Weak},
    time::{Duration, Instant, SystemTime},
};

use understudy_ids::{HostName, PolicyName, UnixMicros};
use understudy_replication::bandwidth::{Bandwidth, Bucket};

use crate::ledger::Assignment;

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
    pub fn of(&self, assignment: &Assignment) -> Option<Pace> {
        let bandwidth = assignment.settings.bandwidth.clone();
        if bandwidth.is_unlimited() {
            return None;
        }
        let key = (assignment.peer_host.clone(), assignment.policy.clone());
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

impl Pace {
    /// Returns when `bytes` may be sent. Between questions the schedule, or others that share the bucket, may have moved on.
    pub async fn admit(&self, bytes: u64) {
        while let Some(wait) = self.ask(bytes) {
            tokio::time::sleep(wait).await;
        }
    }

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
