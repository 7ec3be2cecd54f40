//! Tables `record_change` and `restored_item`: what names had before runs set them.

use std::net::Ipv4Addr;

use sqlx::{FromRow, PgConnection};
use understudy_ids::{ItemName, RunId};
use understudy_netplan::DnsName;
use understudy_network_api::RecordAddress;

use super::{StoreError, corrupt};
use crate::dns::Addresses;

/// One name that a run sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordChange {
    pub name: DnsName,
    pub zone: DnsName,
    pub before: Addresses,
    pub wanted: Ipv4Addr,
    /// The server was seen to have what is wanted.
    pub is_set: bool,
}

#[derive(FromRow)]
struct Row {
    name: String,
    zone: String,
    before: Vec<String>,
    before_seconds: i32,
    wanted: String,
    state: String,
}

impl TryFrom<Row> for RecordChange {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let parsed = || -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
            let before = row.before.iter().map(|address| address.parse()).collect::<Result<_, _>>()?;
            Ok(Self {
                name: row.name.parse()?,
                zone: row.zone.parse()?,
                before: Addresses { addresses: before, ttl_seconds: u32::try_from(row.before_seconds)? },
                wanted: row.wanted.parse()?,
                is_set: row.state == "set",
            })
        };
        parsed().map_err(|e| corrupt("record_change", e))
    }
}

pub async fn find(
    tx: &mut PgConnection,
    run: RunId,
    name: &DnsName,
) -> Result<Option<RecordChange>, StoreError> {
    let row = sqlx::query_as::<_, Row>("SELECT * FROM record_change WHERE run = $1 AND name = $2")
        .bind(run)
        .bind(name.as_str())
        .fetch_optional(tx)
        .await?;
    row.map(TryInto::try_into).transpose()
}

/// Puts on record what the name has before it is set, also instead of what was on record for it.
pub async fn put(
    tx: &mut PgConnection,
    run: RunId,
    item: &ItemName,
    wanted: &RecordAddress,
    before: &Addresses,
) -> Result<RecordChange, StoreError> {
    let addresses: Vec<String> = before.addresses.iter().map(ToString::to_string).collect();
    sqlx::query_as::<_, Row>(
        "INSERT INTO record_change (run, name, zone, item, before, before_seconds, wanted, state)
         VALUES ($1, $2, $3, $4, $5, $6, $7, 'recorded')
         ON CONFLICT (run, name) DO UPDATE
         SET before = excluded.before, before_seconds = excluded.before_seconds, wanted = excluded.wanted
         RETURNING *",
    )
    .bind(run)
    .bind(wanted.name.as_str())
    .bind(wanted.zone.as_str())
    .bind(item.as_str())
    .bind(addresses)
    // A TTL has 31 bits (RFC 2181).
    .bind(i32::try_from(before.ttl_seconds).unwrap_or(i32::MAX))
    .bind(wanted.address.to_string())
    .fetch_one(tx)
    .await?
    .try_into()
}

pub async fn mark_set(tx: &mut PgConnection, run: RunId, name: &DnsName) -> Result<(), StoreError> {
    sqlx::query("UPDATE record_change SET state = 'set' WHERE run = $1 AND name = $2")
        .bind(run)
        .bind(name.as_str())
        .execute(tx)
        .await?;
    Ok(())
}

/// The run sets nothing of the item from now on; what it has set, or may have set, in order of the names.
pub async fn close(
    tx: &mut PgConnection,
    run: RunId,
    item: &ItemName,
) -> Result<Vec<RecordChange>, StoreError> {
    sqlx::query("INSERT INTO restored_item (run, item) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(run)
        .bind(item.as_str())
        .execute(&mut *tx)
        .await?;
    sqlx::query_as::<_, Row>("SELECT * FROM record_change WHERE run = $1 AND item = $2 ORDER BY name")
        .bind(run)
        .bind(item.as_str())
        .fetch_all(tx)
        .await?
        .into_iter()
        .map(TryInto::try_into)
        .collect()
}

pub async fn is_closed(tx: &mut PgConnection, run: RunId, item: &ItemName) -> Result<bool, StoreError> {
    let found: Option<i32> = sqlx::query_scalar("SELECT 1 FROM restored_item WHERE run = $1 AND item = $2")
        .bind(run)
        .bind(item.as_str())
        .fetch_optional(tx)
        .await?;
    Ok(found.is_some())
}

/// Nothing of the run is to be restored any more.
pub async fn release(tx: &mut PgConnection, run: RunId) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM record_change WHERE run = $1").bind(run).execute(&mut *tx).await?;
    sqlx::query("DELETE FROM restored_item WHERE run = $1").bind(run).execute(tx).await?;
    Ok(())
}
