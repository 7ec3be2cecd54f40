//! Table `known_connections`: network-mapper's last answers, for the day when it is away (R-UF-1).

use sqlx::{FromRow, PgConnection, types::Json};
use time::OffsetDateTime;
use understudy_ids::{ItemName, SiteName, UnixMicros};
use understudy_netplan::{PlannedHook, PlannedRecord};

use super::{Failure, micros, stamp};
use crate::runtime::connections::KnownNic;

/// What was said about one item towards one site.
pub struct Known {
    pub nics: Vec<KnownNic>,
    pub records: Vec<PlannedRecord>,
    pub hooks: Vec<PlannedHook>,
    pub learnt: UnixMicros,
}

#[derive(FromRow)]
struct Row {
    nics: Json<Vec<KnownNic>>,
    records: Json<Vec<PlannedRecord>>,
    hooks: Json<Vec<PlannedHook>>,
    learnt: OffsetDateTime,
}

/// Replaces what was known about the item towards that site.
pub async fn remember(
    tx: &mut PgConnection,
    item: &ItemName,
    target: &SiteName,
    known: &Known,
) -> Result<(), Failure> {
    let Known { nics, records, hooks, learnt } = known;
    sqlx::query(
        "INSERT INTO known_connections (item, target_site, nics, records, hooks, learnt)
         SELECT name, $2, $3, $4, $5, $6 FROM items WHERE name = $1
         ON CONFLICT (item, target_site) DO UPDATE
         SET nics = excluded.nics, records = excluded.records, hooks = excluded.hooks, learnt = excluded.learnt",
    )
    .bind(item.as_str())
    .bind(target.as_str())
    .bind(Json(nics))
    .bind(Json(records))
    .bind(Json(hooks))
    .bind(stamp(*learnt))
    .execute(tx)
    .await?;
    Ok(())
}

/// What was known last.
pub async fn recall(
    conn: &mut PgConnection,
    item: &ItemName,
    target: &SiteName,
) -> Result<Option<Known>, Failure> {
    let row: Option<Row> = sqlx::query_as(
        "SELECT nics, records, hooks, learnt FROM known_connections WHERE item = $1 AND target_site = $2",
    )
    .bind(item.as_str())
    .bind(target.as_str())
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|Row { nics: Json(nics), records: Json(records), hooks: Json(hooks), learnt }| Known {
        nics,
        records,
        hooks,
        learnt: micros(learnt),
    }))
}
