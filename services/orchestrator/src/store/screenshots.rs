//! Table `screenshots`: what the consoles of a run's machines showed (R-TF-8).

use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;
use understudy_ids::{ItemName, RunId, UnixMicros};

use super::{Failure, micros};

pub struct Screenshot {
    pub png: Vec<u8>,
    /// When it arrived.
    pub taken: UnixMicros,
}

#[derive(FromRow)]
struct Row {
    png: Vec<u8>,
    taken: OffsetDateTime,
}

/// The last one is kept: it shows the machine that is there.
pub async fn keep(tx: &mut PgConnection, run: RunId, item: &ItemName, png: &[u8]) -> Result<(), Failure> {
    sqlx::query(
        "INSERT INTO screenshots (run, item, png) VALUES ($1, $2, $3)
         ON CONFLICT (run, item) DO UPDATE SET png = excluded.png, taken = now()
         WHERE screenshots.png <> excluded.png",
    )
    .bind(run)
    .bind(item.as_str())
    .bind(png)
    .execute(tx)
    .await?;
    Ok(())
}

pub async fn get(
    conn: &mut PgConnection,
    run: RunId,
    item: &ItemName,
) -> Result<Option<Screenshot>, Failure> {
    let row: Option<Row> = sqlx::query_as("SELECT png, taken FROM screenshots WHERE run = $1 AND item = $2")
        .bind(run)
        .bind(item.as_str())
        .fetch_optional(conn)
        .await?;
    Ok(row.map(|Row { png, taken }| Screenshot { png, taken: micros(taken) }))
}
