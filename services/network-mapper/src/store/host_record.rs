//! Table `host_record`: which NIC's address a name has.

use sqlx::{FromRow, PgConnection, PgExecutor};
use time::OffsetDateTime;
use understudy_ids::ItemName;
use understudy_netplan::{DnsName, HostRecord};
use understudy_network_api::StoredRecord;

use super::{StoreError, corrupt, micros};

#[derive(FromRow)]
struct Row {
    name: String,
    item: String,
    nic: i32,
    created_at: OffsetDateTime,
}

impl TryFrom<Row> for StoredRecord {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let record = HostRecord {
            name: row.name.parse().map_err(|e| corrupt("host_record", e))?,
            item: row.item.parse().map_err(|e| corrupt("host_record", e))?,
            nic: u32::try_from(row.nic).map_err(|e| corrupt("host_record", e))?,
        };
        Ok(Self { record, created: micros(row.created_at) })
    }
}

pub async fn insert(
    tx: &mut PgConnection,
    record: &HostRecord,
    zone: &DnsName,
) -> Result<StoredRecord, StoreError> {
    sqlx::query_as::<_, Row>(
        "INSERT INTO host_record (name, zone, item, nic) VALUES ($1, $2, $3, $4)
         RETURNING name, item, nic, created_at",
    )
    .bind(record.name.as_str())
    .bind(zone.as_str())
    .bind(record.item.as_str())
    // At most 63, see the conversion; the table refuses what is more.
    .bind(i32::try_from(record.nic).unwrap_or(i32::MAX))
    .fetch_one(tx)
    .await?
    .try_into()
}

pub async fn all(db: impl PgExecutor<'_>) -> Result<Vec<HostRecord>, StoreError> {
    let rows = sqlx::query_as::<_, Row>("SELECT name, item, nic, created_at FROM host_record ORDER BY name")
        .fetch_all(db)
        .await?;
    rows.into_iter().map(|row| Ok(StoredRecord::try_from(row)?.record)).collect()
}

pub async fn of_items(db: impl PgExecutor<'_>, items: &[String]) -> Result<Vec<HostRecord>, StoreError> {
    let rows = sqlx::query_as::<_, Row>(
        "SELECT name, item, nic, created_at FROM host_record WHERE item = ANY($1) ORDER BY name",
    )
    .bind(items)
    .fetch_all(db)
    .await?;
    rows.into_iter().map(|row| Ok(StoredRecord::try_from(row)?.record)).collect()
}

/// In order of name, after `after`, at most `limit`.
pub async fn list(
    db: impl PgExecutor<'_>,
    item: Option<&ItemName>,
    after: Option<&DnsName>,
    limit: i64,
) -> Result<Vec<StoredRecord>, StoreError> {
    sqlx::query_as::<_, Row>(
        "SELECT name, item, nic, created_at FROM host_record
         WHERE ($1::text IS NULL OR item = $1) AND ($2::text IS NULL OR name > $2) ORDER BY name LIMIT $3",
    )
    .bind(item.map(ItemName::as_str))
    .bind(after.map(DnsName::as_str))
    .bind(limit)
    .fetch_all(db)
    .await?
    .into_iter()
    .map(TryInto::try_into)
    .collect()
}

/// Tells whether there was one.
pub async fn delete(tx: &mut PgConnection, name: &DnsName) -> Result<bool, StoreError> {
    let done = sqlx::query("DELETE FROM host_record WHERE name = $1").bind(name.as_str()).execute(tx).await?;
    Ok(done.rows_affected() == 1)
}
