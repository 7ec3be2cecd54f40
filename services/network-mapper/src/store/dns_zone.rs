//! Table `dns_zone`.

use sqlx::{FromRow, PgConnection, PgExecutor};
use time::OffsetDateTime;
use understudy_netplan::{DnsName, DnsZone, ZonePurpose};
use understudy_network_api::StoredZone;

use super::{StoreError, corrupt, micros};

/// Held while zones and names are checked against each other and added: which zone a name lies in is more than an index can say.
const LOCK: i64 = 0x6e65_7400_646e_7301;

#[derive(FromRow)]
struct Row {
    name: String,
    server: String,
    ttl_seconds: i32,
    purpose: String,
    created_at: OffsetDateTime,
}

impl TryFrom<Row> for StoredZone {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let purpose = match row.purpose.as_str() {
            "production" => ZonePurpose::Production,
            "test" => ZonePurpose::Test,
            other => return Err(corrupt("dns_zone", format!("purpose {other:?}"))),
        };
        let zone = DnsZone {
            name: row.name.parse().map_err(|e| corrupt("dns_zone", e))?,
            server: row.server.parse().map_err(|e| corrupt("dns_zone", e))?,
            ttl_seconds: u32::try_from(row.ttl_seconds).map_err(|e| corrupt("dns_zone", e))?,
            purpose,
        };
        Ok(Self { zone, created: micros(row.created_at) })
    }
}

/// Until the transaction ends, nobody else adds a zone or a name.
pub async fn lock(tx: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK).execute(tx).await?;
    Ok(())
}

pub async fn insert(tx: &mut PgConnection, zone: &DnsZone) -> Result<StoredZone, StoreError> {
    sqlx::query_as::<_, Row>(
        "INSERT INTO dns_zone (name, server, ttl_seconds, purpose) VALUES ($1, $2, $3, $4) RETURNING *",
    )
    .bind(zone.name.as_str())
    .bind(zone.server.as_str())
    // At most a day, see `DnsZone::problems`; the table refuses what is more.
    .bind(i32::try_from(zone.ttl_seconds).unwrap_or(i32::MAX))
    .bind(zone.purpose.as_str())
    .fetch_one(tx)
    .await?
    .try_into()
}

pub async fn find(db: impl PgExecutor<'_>, name: &DnsName) -> Result<Option<DnsZone>, StoreError> {
    let row = sqlx::query_as::<_, Row>("SELECT * FROM dns_zone WHERE name = $1")
        .bind(name.as_str())
        .fetch_optional(db)
        .await?;
    row.map(|row| Ok(StoredZone::try_from(row)?.zone)).transpose()
}

pub async fn all(db: impl PgExecutor<'_>) -> Result<Vec<DnsZone>, StoreError> {
    let rows = sqlx::query_as::<_, Row>("SELECT * FROM dns_zone ORDER BY name").fetch_all(db).await?;
    rows.into_iter().map(|row| Ok(StoredZone::try_from(row)?.zone)).collect()
}

/// In order of name, after `after`, at most `limit`.
pub async fn list(
    db: impl PgExecutor<'_>,
    after: Option<&DnsName>,
    limit: i64,
) -> Result<Vec<StoredZone>, StoreError> {
    sqlx::query_as::<_, Row>(
        "SELECT * FROM dns_zone WHERE ($1::text IS NULL OR name > $1) ORDER BY name LIMIT $2",
    )
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
    let done = sqlx::query("DELETE FROM dns_zone WHERE name = $1").bind(name.as_str()).execute(tx).await?;
    Ok(done.rows_affected() == 1)
}
