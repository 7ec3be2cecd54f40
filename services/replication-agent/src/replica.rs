//! The replica store as the agent calls it: every call on a thread that may block, whole even when its caller goes away.

use std::io;

use understudy_replica_store::{Store, StoreError};

/// A store and the threads to use it from.
#[derive(Debug, Clone)]
pub struct Replica {
    store: Store,
}

impl Replica {
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// The store itself, for work that runs on such a thread already.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Runs `work` with the store.
    pub async fn call<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    {
        let store = self.store.clone();
        let path = self.store.root().to_owned();
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        done.unwrap_or_else(|e| Err(StoreError::Io { action: "work in", path, source: io::Error::other(e) }))
    }
}
