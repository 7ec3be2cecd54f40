//! Our use of Postgres against a real one: transactions, restarts, migrations, wake-ups.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::{
    SqlStr,
    migrate::{Migration, MigrationType},
};
use tokio::sync::Notify;
use understudy_pg::{Config, Error, Migrator, Pool, TestDatabase};
use understudy_rpc::{ApiError, Kind};

fn migration(version: i64, sql: &'static str) -> Migration {
    Migration::new(version, Cow::Borrowed("test"), MigrationType::Simple, SqlStr::from_static(sql), false)
}

fn migrator() -> Migrator {
    Migrator::with_migrations(vec![migration(
        1,
        "CREATE TABLE counters (name text PRIMARY KEY, value bigint NOT NULL CONSTRAINT positive CHECK (value >= 0));
         INSERT INTO counters VALUES ('a', 0), ('b', 0);",
    )])
}

async fn database() -> TestDatabase {
    TestDatabase::new(&migrator()).await
}

async fn value(pool: &Pool, name: &'static str) -> i64 {
    sqlx::query_scalar("SELECT value FROM counters WHERE name = $1")
        .bind(name)
        .fetch_one(pool.reader())
        .await
        .unwrap()
}

async fn increment(pool: &Pool, name: &'static str) -> Result<(), Error> {
    pool.write(move |tx| {
        Box::pin(async move {
            sqlx::query("UPDATE counters SET value = value + 1 WHERE name = $1")
                .bind(name)
                .execute(tx)
                .await?;
            Ok(())
        })
    })
    .await
}

#[tokio::test]
async fn a_write_commits_and_an_error_rolls_back() {
    let database = database().await;
    increment(database.pool(), "a").await.unwrap();
    assert_eq!(value(database.pool(), "a").await, 1);
    let failed: Result<(), Error> = database
        .pool()
        .write(|tx| {
            Box::pin(async move {
                sqlx::query("UPDATE counters SET value = 99").execute(&mut *tx).await?;
                sqlx::query("INSERT INTO counters VALUES ('a', 1)").execute(&mut *tx).await?;
                Ok(())
            })
        })
        .await;
    let error = failed.unwrap_err();
    assert!(error.unique_violation("counters_pkey") && !error.unique_violation("other"), "{error}");
    assert_eq!(value(database.pool(), "a").await, 1);
}

#[tokio::test]
async fn constraints_are_told_apart_by_name() {
    let database = database().await;
    let error: Error = sqlx::query("UPDATE counters SET value = -1")
        .execute(database.pool().reader())
        .await
        .unwrap_err()
        .into();
    assert!(error.check_violation("positive"), "{error:?}");
    assert!(!error.unique_violation("positive"));
    assert_eq!(ApiError::from(error).kind, Kind::Internal);
}

/// The trap of sqlx 0.9.0: a `begin` that is dropped at the wrong moment lends the next borrower a connection inside a foreign
/// transaction, and what the next one writes is lost with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_goes_away_does_not_leave_its_transaction_to_the_next() {
    let database = database().await;
    let mut config = database.config().clone();
    config.max_connections = 1;
    let pool = Pool::connect(&config).await.unwrap();
    for round in 0..200u32 {
        // Straight to the pool underneath, as code that does not use `write` would do it; dropped a little later in every round.
        // The timers of the runtime are too coarse for that.
        let begin = tokio::spawn({
            let pool = pool.clone();
            async move { drop(pool.reader().begin().await) }
        });
        let moment = Instant::now() + Duration::from_micros(u64::from(round) * 3);
        while Instant::now() < moment {
            std::hint::spin_loop();
        }
        begin.abort();
        // Cancelled or not: both must be harmless.
        let _ = begin.await;
        // A statement of its own, committed by itself unless it runs inside a transaction that nobody is going to commit.
        sqlx::query("UPDATE counters SET value = value + 1 WHERE name = 'a'")
            .execute(pool.reader())
            .await
            .unwrap();
        let seen = value(database.pool(), "a").await;
        assert_eq!(seen, i64::from(round) + 1, "round {round}: the write went into a foreign transaction");
    }
}

#[tokio::test]
async fn a_write_whose_caller_goes_away_still_ends() {
    let database = database().await;
    let pool = database.pool().clone();
    let (inside, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let work = {
        let (pool, inside, go_on) = (pool.clone(), inside.clone(), go_on.clone());
        async move {
            pool.write(move |tx| {
                let (inside, go_on) = (inside.clone(), go_on.clone());
                Box::pin(async move {
                    sqlx::query("UPDATE counters SET value = 7 WHERE name = 'a'").execute(&mut *tx).await?;
                    inside.notify_one();
                    go_on.notified().await;
                    Ok::<(), Error>(())
                })
            })
            .await
        }
    };
    let caller = tokio::spawn(work);
    inside.notified().await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    assert_eq!(value(&pool, "a").await, 0);
    go_on.notify_one();
    let deadline = Instant::now() + Duration::from_secs(5);
    while value(&pool, "a").await != 7 {
        assert!(Instant::now() < deadline, "the transaction did not end");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn collisions_are_repeated() {
    let database = database().await;
    let runs = Arc::new(AtomicU32::new(0));
    let writers = (0..2).map(|n| {
        let (pool, runs) = (database.pool().clone(), runs.clone());
        // Opposite orders: a deadlock by construction.
        let order = if n == 0 { ["a", "b"] } else { ["b", "a"] };
        tokio::spawn(async move {
            for _ in 0..20 {
                let runs = runs.clone();
                pool.write(move |tx| {
                    runs.fetch_add(1, Ordering::Relaxed);
                    Box::pin(async move {
                        sqlx::query("SET LOCAL deadlock_timeout = '5ms'").execute(&mut *tx).await?;
                        for name in order {
                            sqlx::query("UPDATE counters SET value = value + 1 WHERE name = $1")
                                .bind(name)
                                .execute(&mut *tx)
                                .await?;
                            tokio::time::sleep(Duration::from_millis(2)).await;
                        }
                        Ok::<(), Error>(())
                    })
                })
                .await
                .unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    assert_eq!((value(database.pool(), "a").await, value(database.pool(), "b").await), (40, 40));
    assert!(runs.load(Ordering::Relaxed) > 40, "nothing collided: the test proves nothing");
}

#[tokio::test]
async fn a_connection_that_was_cut_is_replaced() {
    let database = database().await;
    let pool = database.pool();
    increment(pool, "a").await.unwrap();
    let killed = kill_backends(&database).await;
    assert!(killed > 0, "nothing was cut");
    increment(pool, "a").await.unwrap();
    assert_eq!(value(pool, "a").await, 2);
}

async fn kill_backends(database: &TestDatabase) -> i64 {
    let mut config = database.config().clone();
    config.max_connections = 1;
    let other = Pool::connect(&config).await.unwrap();
    sqlx::query_scalar(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'",
    )
    .fetch_one(other.reader())
    .await
    .unwrap()
}

#[tokio::test]
async fn a_write_that_loses_its_connection_is_unavailable_and_stores_nothing() {
    let database = database().await;
    let (inside, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let writer = tokio::spawn({
        let (pool, inside, go_on) = (database.pool().clone(), inside.clone(), go_on.clone());
        async move {
            pool.write(move |tx| {
                let (inside, go_on) = (inside.clone(), go_on.clone());
                Box::pin(async move {
                    sqlx::query("UPDATE counters SET value = 7 WHERE name = 'a'").execute(&mut *tx).await?;
                    inside.notify_one();
                    go_on.notified().await;
                    Ok::<(), Error>(())
                })
            })
            .await
        }
    });
    inside.notified().await;
    assert!(kill_backends(&database).await > 0);
    go_on.notify_one();
    let error = writer.await.unwrap().unwrap_err();
    // It broke at COMMIT, so the writer cannot know.
    assert!(matches!(error, Error::CommitUnknown(_)), "{error:?}");
    assert!(ApiError::from(error).outcome_unknown());
    assert_eq!(value(database.pool(), "a").await, 0);
}

#[tokio::test]
async fn many_instances_migrate_at_once() {
    let database = TestDatabase::empty().await;
    let migrator = Arc::new(migrator());
    let instances: Vec<_> = (0..8)
        .map(|_| {
            let (config, migrator) = (database.config().clone(), migrator.clone());
            tokio::spawn(async move { Pool::connect(&config).await.unwrap().migrate(&migrator).await })
        })
        .collect();
    for instance in instances {
        instance.await.unwrap().unwrap();
    }
    assert_eq!(value(database.pool(), "a").await, 0);
    let changed = Migrator::with_migrations(vec![migration(1, "CREATE TABLE other ()")]);
    let error = database.pool().migrate(&changed).await.unwrap_err();
    assert!(matches!(error, Error::Migrate(_)), "{error:?}");
}

#[tokio::test]
async fn a_notification_hurries_and_the_clock_decides() {
    let database = database().await;
    let pool = database.pool();
    let mut wakeups = pool.listen("test_channel", Duration::from_secs(60)).unwrap();
    // The first wake-up says that listening has begun.
    wakeups.wait().await;
    let begin = Instant::now();
    sqlx::query("NOTIFY test_channel").execute(pool.reader()).await.unwrap();
    wakeups.wait().await;
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());

    // Cut, it wakes once for what may have been lost, listens again and hears again.
    assert!(kill_backends(&database).await > 0);
    wakeups.wait().await;
    wakeups.wait().await;
    let begin = Instant::now();
    sqlx::query("NOTIFY test_channel").execute(pool.reader()).await.unwrap();
    wakeups.wait().await;
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());

    let begin = Instant::now();
    let mut clock = pool.listen("silent_channel", Duration::from_millis(50)).unwrap();
    // One of them says that listening has begun, whenever that is; the others are the clock's.
    for _ in 0..3 {
        clock.wait().await;
    }
    assert!((100..15_000).contains(&begin.elapsed().as_millis()), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_statement_has_a_time_limit() {
    let database = database().await;
    let mut config = database.config().clone();
    config.statement_timeout_ms = 50;
    let pool = Pool::connect(&config).await.unwrap();
    let error: Error = sqlx::query("SELECT pg_sleep(10)").execute(pool.reader()).await.unwrap_err().into();
    assert!(matches!(error, Error::Timeout(_)), "{error:?}");
}

#[tokio::test]
async fn connecting_waits_for_a_postgres_that_is_away_but_not_for_a_mistake() {
    // Nothing listens there: a port that was just free.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = Config::new(format!("postgres://postgres@127.0.0.1:{port}/x"));
    let waited = tokio::time::timeout(Duration::from_millis(800), Pool::connect(&config)).await;
    assert!(waited.is_err(), "it did not wait: {:?}", waited.map(|r| r.map(|_| ())));

    let database = TestDatabase::empty().await;
    let mut config = database.config().clone();
    config.url = config.url.replace("/test_", "/missing_");
    let error = Pool::connect(&config).await.unwrap_err();
    assert!(matches!(error, Error::Refused(_)), "{error:?}");
    assert!(matches!(Pool::connect(&Config::new("nonsense")).await, Err(Error::Url(_))));
}

#[tokio::test]
async fn every_test_has_a_database_of_its_own_and_it_is_gone_afterwards() {
    let (one, two) = (database().await, database().await);
    increment(one.pool(), "a").await.unwrap();
    assert_eq!((value(one.pool(), "a").await, value(two.pool(), "a").await), (1, 0));
    let config = one.config().clone();
    drop(one);
    let error = Pool::connect(&config).await.unwrap_err();
    assert!(matches!(error, Error::Refused(_)), "{error:?}");
}
