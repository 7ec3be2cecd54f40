//! Wake-ups: `NOTIFY` hurries, the clock decides.
//!
//! ```text
//!   task: connect ─▶ LISTEN ─▶ notification ─▶ wake ─┐        connection lost: wake, pause, connect again
//!              ▲                                     │
//!              └─────────────────────────────────────┘        Wakeups::wait = wake or `every`, whichever is first
//! ```
//!
//! Notifications that come while nobody waits are merged into one: they say *look*, not *what*.

use std::{sync::Arc, time::Duration};

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::{sync::Notify, task::JoinHandle, time::timeout};

const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// See [`Pool::listen`](crate::Pool::listen). Stops listening when dropped.
pub struct Wakeups {
    wake: Arc<Notify>,
    every: Duration,
    task: JoinHandle<()>,
}

impl Wakeups {
    pub(crate) fn start(options: PgConnectOptions, channel: &'static str, every: Duration) -> Self {
        let wake = Arc::new(Notify::new());
        let task = tokio::spawn(forward(options, channel, wake.clone()));
        Self { wake, every, task }
    }

    /// Returns when there may be something to do: at a notification, after the interval, or when the connection was lost, since a
    /// notification may have been lost with it. Safe to drop and call again.
    pub async fn wait(&mut self) {
        // A time-out is as good a reason to look as a notification.
        let _ = timeout(self.every, self.wake.notified()).await;
    }
}

impl Drop for Wakeups {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(options: PgConnectOptions, channel: &'static str, wake: Arc<Notify>) {
    loop {
        if let Err(error) = listen(options.clone(), channel, &wake).await {
            tracing::debug!(%error, channel, "not listening; polling goes on");
        }
        wake.notify_one();
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

/// Listens on a connection of its own until that breaks.
async fn listen(options: PgConnectOptions, channel: &'static str, wake: &Notify) -> Result<(), sqlx::Error> {
    let pool = PgPoolOptions::new().max_connections(1).connect_with(options).await?;
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.eager_reconnect(false);
    listener.listen(channel).await?;
    // What happened before LISTEN took hold was not notified.
    wake.notify_one();
    while listener.try_recv().await?.is_some() {
        wake.notify_one();
    }
    Ok(())
}
