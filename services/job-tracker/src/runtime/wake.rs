//! One `LISTEN` connection for everybody in this process who waits for the same thing.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use understudy_pg::Pool;

/// Wakes all who wait, at a notification and now and then without one.
pub struct Wake(watch::Receiver<u64>);

impl Wake {
    pub fn start(
        pool: &Pool,
        channel: &'static str,
        every: Duration,
        background: &TaskTracker,
        shutdown: CancellationToken,
    ) -> Result<Self, understudy_pg::Error> {
        let mut wakeups = pool.listen(channel, every)?;
        let (wake, woken) = watch::channel(0u64);
        background.spawn(async move {
            loop {
                tokio::select! {
                    () = wakeups.wait() => wake.send_modify(|n| *n = n.wrapping_add(1)),
                    () = shutdown.cancelled() => return,
                }
            }
        });
        Ok(Self(woken))
    }

    /// For one who waits: what happens after this call is not missed.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        let mut receiver = self.0.clone();
        receiver.mark_unchanged();
        receiver
    }
}
