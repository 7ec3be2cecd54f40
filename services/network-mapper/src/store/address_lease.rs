//! Table `address_lease`: which run holds which address (R-NET-10).

use sqlx::{FromRow, PgConnection, PgExecutor};
use time::OffsetDateTime;
use understudy_ids::RunId;
use understudy_netplan::{HeldAddress, NetworkRef};
use understudy_network_api::{AddressLease, ReservedNic};

use super::{StoreError, corrupt, micros};

#[derive(FromRow)]
struct Row {
    id: i64,
    site: String,
    network: String,
    address: String,
    mac: String,
    item: String,
    run: RunId,
    test: bool,
    created_at: OffsetDateTime,
}

impl TryFrom<Row> for AddressLease {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let parsed = || -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
            Ok(Self {
                network: NetworkRef { site: row.site.parse()?, network: row.network.parse()? },
                address: row.address.parse()?,
                mac: row.mac.parse()?,
                item: row.item.parse()?,
                run: row.run,
                created: micros(row.created_at),
                test: row.test,
            })
        };
        parsed().map_err(|e| corrupt("address_lease", e))
    }
}

/// Who holds the address now.
pub enum Taken {
    /// This very NIC in this very run: nothing was to be done.
    Ours,
    /// The run and item that hold it.
    By { run: RunId, item: String },
}

/// Takes the address for the run, or says who has it. One statement decides, so two runs cannot both believe they have it.
pub async fn take(
    tx: &mut PgConnection,
    run: RunId,
    test: bool,
    nic: &ReservedNic,
) -> Result<Option<Taken>, StoreError> {
    let done = sqlx::query(
        "INSERT INTO address_lease (site, network, address, mac, item, run, test)
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
    )
    .bind(nic.network.site.as_str())
    .bind(nic.network.network.as_str())
    .bind(nic.address.to_string())
    .bind(nic.mac.to_string())
    .bind(nic.item.as_str())
    .bind(run)
    .bind(test)
    .execute(&mut *tx)
    .await?;
    if done.rows_affected() == 1 {
        return Ok(None);
    }
    let holder: Option<(RunId, String, String)> = sqlx::query_as(
        "SELECT run, item, mac FROM address_lease
         WHERE site = $1 AND network = $2 AND address = $3 AND test = $4 AND (run = $5 OR NOT test)",
    )
    .bind(nic.network.site.as_str())
    .bind(nic.network.network.as_str())
    .bind(nic.address.to_string())
    .bind(test)
    .bind(run)
    .fetch_optional(tx)
    .await?;
    Ok(holder.map(|(by, item, mac)| {
        let ours = by == run && item == nic.item.as_str() && mac == nic.mac.to_string();
        if ours { Taken::Ours } else { Taken::By { run: by, item } }
    }))
}

/// Addresses that runs hold on production networks of these sites.
pub async fn held(db: impl PgExecutor<'_>, sites: &[String]) -> Result<Vec<HeldAddress>, StoreError> {
    sqlx::query_as::<_, Row>("SELECT * FROM address_lease WHERE NOT test AND site = ANY($1)")
        .bind(sites)
        .fetch_all(db)
        .await?
        .into_iter()
        .map(|row| {
            let lease = AddressLease::try_from(row)?;
            Ok(HeldAddress { network: lease.network, address: lease.address })
        })
        .collect()
}

/// Oldest first, each with the key to go on after.
pub async fn list(
    db: impl PgExecutor<'_>,
    run: Option<RunId>,
    after: Option<i64>,
    limit: i64,
) -> Result<Vec<(i64, AddressLease)>, StoreError> {
    sqlx::query_as::<_, Row>(
        "SELECT * FROM address_lease
         WHERE ($1::uuid IS NULL OR run = $1) AND ($2::bigint IS NULL OR id > $2) ORDER BY id LIMIT $3",
    )
    .bind(run)
    .bind(after)
    .bind(limit)
    .fetch_all(db)
    .await?
    .into_iter()
    .map(|row| Ok((row.id, row.try_into()?)))
    .collect()
}

/// How many were released.
pub async fn release(tx: &mut PgConnection, run: RunId) -> Result<u64, StoreError> {
    Ok(sqlx::query("DELETE FROM address_lease WHERE run = $1").bind(run).execute(tx).await?.rows_affected())
}
