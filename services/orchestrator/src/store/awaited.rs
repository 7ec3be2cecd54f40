//! Table `awaited_points`: runs that go on at a standby host's first point of a generation.

use sqlx::PgConnection;
use understudy_ids::{Generation, HostName, ItemName, RunId};

use super::{Failure, read, signed, unsigned};

/// A point that a run waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Awaited {
    pub run: RunId,
    pub item: ItemName,
    pub generation: Generation,
}

/// The same again changes nothing; another generation replaces the one before.
pub async fn insert(
    tx: &mut PgConnection,
    run: RunId,
    item: &ItemName,
    standby: &HostName,
    generation: Generation,
) -> Result<(), Failure> {
    sqlx::query(
        "INSERT INTO awaited_points (run, item, standby, generation) VALUES ($1, $2, $3, $4)
         ON CONFLICT (run, item) DO UPDATE SET standby = excluded.standby, generation = excluded.generation",
    )
    .bind(run)
    .bind(item.as_str())
    .bind(standby.to_string())
    .bind(signed(generation.get()))
    .execute(tx)
    .await?;
    Ok(())
}

pub async fn of_standby(conn: &mut PgConnection, standby: &HostName) -> Result<Vec<Awaited>, Failure> {
    let rows: Vec<(RunId, String, i64)> = sqlx::query_as(
        "SELECT run, item, generation FROM awaited_points WHERE standby = $1 ORDER BY run, item",
    )
    .bind(standby.to_string())
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|(run, item, generation)| {
            let item = read("awaited_points", item.parse())?;
            Ok(Awaited { run, item, generation: Generation::new(unsigned(generation)) })
        })
        .collect()
}

pub async fn delete(tx: &mut PgConnection, run: RunId, item: &ItemName) -> Result<(), Failure> {
    sqlx::query("DELETE FROM awaited_points WHERE run = $1 AND item = $2")
        .bind(run)
        .bind(item.as_str())
        .execute(tx)
        .await?;
    Ok(())
}

/// What a run that has ended waited for.
pub async fn delete_all(tx: &mut PgConnection, run: RunId) -> Result<(), Failure> {
    sqlx::query("DELETE FROM awaited_points WHERE run = $1").bind(run).execute(tx).await?;
    Ok(())
}
