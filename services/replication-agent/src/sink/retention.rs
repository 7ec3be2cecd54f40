//! Merging away points that are too many or too old, off the path that receives (R-REP-4).

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;
use understudy_ids::ItemName;
use understudy_replica_store::{Store, StoreError};
use understudy_replication::retention::expired;

use super::now;
use crate::{ledger::ItemRecord, replica::Replica};

/// At most one merge per item at a time; a point that comes meanwhile brings the next.
#[derive(Clone)]
pub struct Retention {
    replica: Replica,
    busy: Arc<Mutex<HashSet<ItemName>>>,
    changes: Arc<watch::Sender<u64>>,
}

impl Retention {
    pub fn new(replica: Replica, changes: Arc<watch::Sender<u64>>) -> Self {
        Self { replica, busy: Arc::default(), changes }
    }

    /// Begins to tidy up the item's points and returns at once.
    pub fn tidy(&self, record: ItemRecord) {
        let item = record.item.clone();
        if !self.busy.lock().unwrap_or_else(PoisonError::into_inner).insert(item.clone()) {
            return;
        }
        let this = self.clone();
        tokio::spawn(async move {
            let merged = this.replica.call(move |store| tidy(store, &record)).await;
            match merged {
                Ok(0) => {}
                Ok(_) => this.changes.send_modify(|n| *n += 1),
                Err(error) => tracing::warn!(%item, %error, "old recovery points could not be merged"),
            }
            this.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&item);
        });
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
            Err(StoreError::Pinned { .. } | StoreError::NoPoint { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(merged)
}
