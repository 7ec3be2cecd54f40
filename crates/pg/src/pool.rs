//! Connections, transactions and migrations.

use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use sqlx::{
    Connection, Executor, PgConnection, PgPool,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tracing::Instrument;

use crate::{Config, Error, Wakeups};

/// How often a transaction is tried when others keep colliding with it.
const ATTEMPTS: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(4);
/// Between attempts to reach a Postgres that is not there yet.
const CONNECT_PAUSE: Duration = Duration::from_millis(500);

/// The error type of a transaction's work. A service implements it for its store's error, so that [`Pool::write`] can find out
/// whether a collision is behind it.
pub trait WriteError: From<Error> + Send + 'static {
    /// The database error behind this one, if that is what it is.
    fn database(&self) -> Option<&Error>;
}

impl WriteError for Error {
    fn database(&self) -> Option<&Error> {
        Some(self)
    }
}

/// A pool of connections to the database of one service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pool {
    inner: PgPool,
    config: Config,
}

impl Pool {
    /// Connects, and waits while Postgres is not there yet. It waits for ever, telling the log: drop it to stop waiting.
    ///
    /// # Errors
    /// Only what waiting does not heal: a bad URL, a wrong password, a missing database.
    pub async fn connect(config: &Config) -> Result<Self, Error> {
        let pool = Self::lazy(config)?;
        loop {
            // The pool itself waits for up to its acquire time-out before it says why.
            match PgConnection::connect_with(&config.options(config.statement_timeout_ms)?)
                .await
                .map_err(Error::from)
            {
                Ok(connection) => {
                    // Closing politely is best effort; the pool makes its own connections.
                    let _ = connection.close().await;
                    return Ok(pool);
                }
                Err(Error::Unavailable(error)) => {
                    tracing::warn!(%error, "waiting for Postgres");
                    tokio::time::sleep(CONNECT_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// A pool that makes its first connection when it is first used. Must run inside a tokio runtime.
    pub fn lazy(config: &Config) -> Result<Self, Error> {
        let inner = PgPoolOptions::new()
            .max_connections(config.max_connections)
            .acquire_timeout(config.acquire_timeout())
            // The ROLLBACK below finds a dead connection as well as a ping does.
            .test_before_acquire(false)
            .before_acquire(|connection, _| {
                Box::pin(async move {
                    // A future that was dropped between sending BEGIN and noting it leaves a connection inside a transaction that
                    // nobody knows of; the next borrower would work inside it.
                    connection.execute("ROLLBACK").await?;
                    Ok(true)
                })
            })
            .connect_lazy_with(config.options(config.statement_timeout_ms)?);
        Ok(Self { inner, config: config.clone() })
    }

    /// For single statements that only read. Whatever writes goes through [`Pool::write`].
    pub fn reader(&self) -> &PgPool {
        &self.inner
    }

    /// Runs `work` in a transaction and commits it. An error of `work` rolls it back.
    ///
    /// The transaction runs in a task of its own: when the caller goes away (tonic drops a handler's future when its client does),
    /// the transaction still ends properly, committed or rolled back. `work` may run several times, because collisions with other
    /// transactions are repeated; so it must have no effects but on the database.
    ///
    /// ```ignore
    /// pool.write(move |tx| Box::pin(async move {
    ///     sqlx::query("UPDATE items SET state = $1 WHERE name = $2").bind(state).bind(&name).execute(&mut *tx).await?;
    ///     Ok(())
    /// })).await
    /// ```
    pub async fn write<T, E, F>(&self, work: F) -> Result<T, E>
    where
        F: for<'t> Fn(&'t mut PgConnection) -> BoxFuture<'t, Result<T, E>> + Send + Sync + 'static,
        T: Send + 'static,
        E: WriteError,
    {
        let pool = self.inner.clone();
        let task = tokio::spawn(repeat(pool, work).in_current_span());
        match task.await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down under us.
                Err(cancelled) => Err(Error::CommitUnknown(cancelled.to_string()).into()),
            },
        }
    }

    /// Brings the schema up to date. Any number of instances may do so at once: an advisory lock lets one work and the others find
    /// it done. Statements of migrations have no time limit.
    pub async fn migrate(&self, migrator: &Migrator) -> Result<(), Error> {
        let mut connection = PgConnection::connect_with(&self.config.options(0)?).await?;
        // `Migrator::run` does the same, but its future cannot be sent to another thread, so that no task could migrate.
        migrator.run_direct(None, &mut connection, false).await.map_err(|error| match error {
            sqlx::migrate::MigrateError::Execute(cause) => cause.into(),
            other => Error::Migrate(other),
        })?;
        connection.close().await?;
        Ok(())
    }

    /// Wakes on `NOTIFY channel`, and every `every` without it: `LISTEN` connections die silently, so the clock decides and the
    /// notification merely hurries.
    pub fn listen(&self, channel: &'static str, every: Duration) -> Result<Wakeups, Error> {
        let options: PgConnectOptions = self.config.options(0)?;
        Ok(Wakeups::start(options, channel, every))
    }

    /// Waits for borrowed connections and closes all. Calls made afterwards fail as unavailable.
    pub async fn close(&self) {
        self.inner.close().await;
    }
}

async fn repeat<T, E, F>(pool: PgPool, work: F) -> Result<T, E>
where
    F: for<'t> Fn(&'t mut PgConnection) -> BoxFuture<'t, Result<T, E>> + Send + Sync + 'static,
    E: WriteError,
{
    let mut attempt = 1;
    loop {
        let result = once(&pool, &work).await;
        let collided = matches!(result.as_ref().err().and_then(E::database), Some(Error::Conflict(_)));
        if !collided || attempt == ATTEMPTS {
            return result;
        }
        tracing::debug!(attempt, "transaction collided with another; repeating it");
        tokio::time::sleep(pause(attempt)).await;
        attempt += 1;
    }
}

async fn once<T, E, F>(pool: &PgPool, work: &F) -> Result<T, E>
where
    F: for<'t> Fn(&'t mut PgConnection) -> BoxFuture<'t, Result<T, E>>,
    E: WriteError,
{
    let mut transaction = pool.begin().await.map_err(Error::from)?;
    match work(&mut transaction).await {
        Ok(value) => {
            transaction.commit().await.map_err(Error::from_commit)?;
            Ok(value)
        }
        Err(error) => {
            // A connection that cannot roll back is thrown away by the pool; the error to report is the first one.
            let _ = transaction.rollback().await;
            Err(error)
        }
    }
}

/// Doubling, with the clock's low digits as jitter: two that collided must not meet again.
fn pause(attempt: u32) -> Duration {
    let full = FIRST_PAUSE * (1 << attempt.min(6));
    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |t| t.subsec_nanos());
    full.mul_f64(0.5 + f64::from(nanos % 1000) / 2000.0)
}
