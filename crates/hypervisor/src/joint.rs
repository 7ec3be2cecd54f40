//! A snapshot whose instant is that of other machines' snapshots, too (R-REP-12).
//!
//! ```text
//!   all prepared ─▶ all held ─▶ all cut ─▶ all released ─▶ each opened, and read at its own pace
//!                      │           └ one fails: ─┐
//!                      └ one fails: ─────────────┴─▶ all released at once, and abandoned
//! ```
//! While a guest is held it executes nothing, so no message leaves it between the first cut and the last: whatever one machine
//! has learnt from another is in the other's snapshot as well. That holds only if every guest was held from before the first cut until
//! after the last, which is what the answers to [`PreparedSnapshot::release`] tell.

use std::time::Duration;

use async_trait::async_trait;

use crate::{Error, Snapshot};

/// A snapshot that waits for others. Dropped, it lets its guest go on at once and leaves the rest to the next snapshot of the machine.
#[async_trait]
pub trait PreparedSnapshot: Send + Sync {
    /// From now on the guest executes nothing, and all that it was told is durable is on its disks. It goes on after `limit` at
    /// the latest, whatever becomes of this process. A machine that does not run is held already.
    async fn hold(&mut self, limit: Duration) -> Result<(), Error>;

    /// The snapshot's instant is now. Only after [`Self::hold`].
    async fn cut(&mut self) -> Result<(), Error>;

    /// The guest goes on; how long it was held. An error when it had gone on before, or when that is not known: then the instant is
    /// not to be taken for that of the others. Where this fails, the guest goes on by what [`Self::hold`] has promised.
    async fn release(&mut self) -> Result<Duration, Error>;

    /// What was cut, to be read. Only after [`Self::release`] has succeeded.
    async fn open(self: Box<Self>) -> Result<Box<dyn Snapshot>, Error>;

    /// Ends whatever was begun.
    async fn abandon(self: Box<Self>) -> Result<(), Error>;
}

/// The snapshot of a machine that cannot run: any instant is its instant.
pub struct Still(pub Box<dyn Snapshot>);

#[async_trait]
impl PreparedSnapshot for Still {
    async fn hold(&mut self, _: Duration) -> Result<(), Error> {
        Ok(())
    }

    async fn cut(&mut self) -> Result<(), Error> {
        Ok(())
    }

    async fn release(&mut self) -> Result<Duration, Error> {
        Ok(Duration::ZERO)
    }

    async fn open(self: Box<Self>) -> Result<Box<dyn Snapshot>, Error> {
        Ok(self.0)
    }

    async fn abandon(self: Box<Self>) -> Result<(), Error> {
        self.0.close().await
    }
}
