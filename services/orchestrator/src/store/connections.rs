//! Table `known_connections`: network-mapper's last answers, for the day when it is away (R-UF-1).

use serde::{Serialize, de::DeserializeOwned};
use sqlx::{PgConnection, types::Json};
use time::OffsetDateTime;
use understudy_ids::{ItemName, SiteName, UnixMicros};

use super::{Failure, micros, stamp};

/// Replaces what was known about the item towards that site.
pub async fn remember<T: Serialize + Sync>(
    tx: &mut PgConnection,
    item: &ItemName,
    target: &SiteName,
    nics: &T,
    now: UnixMicros,
) -> Result<(), Failure> {
    sqlx::query(
        "INSERT INTO known_connections (item, target_site, nics, learnt)
         SELECT name, $2, $3, $4 FROM items WHERE name = $1
         ON CONFLICT (item, target_site) DO UPDATE SET nics = excluded.nics, learnt = excluded.learnt",
    )
    .bind(item.as_str())
    .bind(target.as_str())
    .bind(Json(nics))
    .bind(stamp(now))
    .execute(tx)
    .await?;
    Ok(())
}

/// What was known last, and when it was learnt.
pub async fn recall<T: DeserializeOwned + Send + Unpin + 'static>(
    conn: &mut PgConnection,
    item: &ItemName,
    target: &SiteName,
) -> Result<Option<(T, UnixMicros)>, Failure> {
    let row: Option<(Json<T>, OffsetDateTime)> =
        sqlx::query_as("SELECT nics, learnt FROM known_connections WHERE item = $1 AND target_site = $2")
            .bind(item.as_str())
            .bind(target.as_str())
            .fetch_optional(conn)
            .await?;
    Ok(row.map(|(Json(nics), learnt)| (nics, micros(learnt))))
}
