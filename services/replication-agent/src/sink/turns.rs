//! One transfer per item at a time, and the latest one counts.
//!
//! A sender whose link broke comes back before this side has noticed that the old stream is dead. Its new transfer ends the
//! old one, which keeps what it has, and then takes its turn.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;
use understudy_ids::ItemName;

#[derive(Clone, Default)]
pub struct Turns {
    items: Arc<Mutex<HashMap<ItemName, Item>>>,
}

#[derive(Default)]
struct Item {
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Of the transfer that came last.
    ended: CancellationToken,
}

/// The right to receive an item, until it is dropped.
pub struct Turn {
    /// Cancelled when a later transfer wants to begin.
    pub ended: CancellationToken,
    _held: OwnedMutexGuard<()>,
}

impl Turns {
    /// Ends the transfer that has the turn and takes it over.
    pub async fn take(&self, item: &ItemName) -> Turn {
        let (turn, ended) = {
            // The map is whole at every moment, so a panic elsewhere does not spoil it.
            let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = items.entry(item.clone()).or_default();
            entry.ended.cancel();
            entry.ended = CancellationToken::new();
            (entry.turn.clone(), entry.ended.clone())
        };
        Turn { ended, _held: turn.lock_owned().await }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_later_transfer_ends_the_earlier_one_and_waits_for_its_end() {
        let (turns, item): (Turns, ItemName) = (Turns::default(), "web1".parse().unwrap());
        let first = turns.take(&item).await;
        let second = tokio::spawn({
            let (turns, item) = (turns.clone(), item.clone());
            async move { turns.take(&item).await }
        });
        first.ended.cancelled().await;
        assert!(!second.is_finished(), "two have the turn");
        drop(first);
        assert!(!second.await.unwrap().ended.is_cancelled());
        turns.take(&"db1".parse().unwrap()).await;
    }
}
