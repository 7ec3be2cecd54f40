//! What an item's points need after one has come, off the path that receives: damage that it can mend is mended (R-REP-5), then points
//! that are too many or too old are merged away (R-REP-4).

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;
use understudy_ids::ItemName;
use understudy_replica_store::{Store, StoreError};
use understudy_replication::retention::expired;

use super::now;
use crate::{ledger::ItemRecord, replica::Replica, scrub};

/// At most once per item at a time; a point that comes meanwhile brings the next.
#[derive(Clone)]
pub struct Upkeep {
    replica: Replica,
    busy: Arc<Mutex<HashSet<ItemName>>>,
    changes: Arc<watch::Sender<u64>>,
}

impl Upkeep {
    pub fn new(replica: Replica, changes: Arc<watch::Sender<u64>>) -> Self {
        Self { replica, busy: Arc::default(), changes }
    }

    /// Begins to look after the item's points and returns at once.
    pub fn begin(&self, record: ItemRecord) {
        let item = record.item.clone();
        if !self.busy.lock().unwrap_or_else(PoisonError::into_inner).insert(item.clone()) {
            return;
        }
        let this = self.clone();
        tokio::spawn(async move {
            if let Err(error) = this.repair(&item).await {
                tracing::warn!(%item, %error, "damaged recovery points could not be repaired");
            }
            match this.replica.call(move |store| tidy(store, &record)).await {
                Ok(0) => {}
                Ok(_) => this.tell(),
                Err(error) => tracing::warn!(%item, %error, "old recovery points could not be merged"),
            }
            this.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&item);
        });
    }

    async fn repair(&self, item: &ItemName) -> Result<(), StoreError> {
        let wanted = item.clone();
        let repaired = self.replica.call(move |store| store.repair(&wanted)).await?;
        if !repaired.whole.is_empty() || !repaired.damaged.is_empty() {
            scrub::measure_damage(item, repaired.damaged.len());
            self.tell();
        }
        Ok(())
    }

    fn tell(&self) {
        self.changes.send_modify(|n| *n += 1);
    }
}

/// Returns how many points have left.
fn tidy(store: &Store, record: &ItemRecord) -> Result<usize, StoreError> {
    let facts = store.retention_facts(&record.item)?;
    let mut merged = 0;
    for seq in expired(&facts, &record.retention, now()) {
        match store.merge_away(&record.item, seq) {
            Ok(()) => merged += 1,
            // Somebody has begun to use it since.
            Err(StoreError::Pinned { .. } | StoreError::NoPoint { .. } | StoreError::MadeWay(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(merged)
}
