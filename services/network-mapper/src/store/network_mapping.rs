//! Table `network_mapping`.

use sqlx::{FromRow, PgConnection, PgExecutor};
use time::OffsetDateTime;
use understudy_ids::Uuid;
use understudy_netplan::{AddressRule, Mapping, NetworkRef};
use understudy_network_api::NetworkMapping;

use super::{StoreError, corrupt, micros};

/// Held while mappings are checked against each other and added: a rule about two directions is more than an index can say.
const LOCK: i64 = 0x6e65_7400_6d61_7001;

#[derive(FromRow)]
struct Row {
    id: Uuid,
    site_a: String,
    network_a: String,
    site_b: String,
    network_b: String,
    addresses: String,
    created_at: OffsetDateTime,
}

impl TryFrom<Row> for NetworkMapping {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let end = |site: &str, network: &str| -> Result<NetworkRef, StoreError> {
            Ok(NetworkRef {
                site: site.parse().map_err(|e| corrupt("network_mapping", e))?,
                network: network.parse().map_err(|e| corrupt("network_mapping", e))?,
            })
        };
        let addresses = match row.addresses.as_str() {
            "keep-if-possible" => AddressRule::KeepIfPossible,
            "retain" => AddressRule::Retain,
            "change" => AddressRule::Change,
            other => return Err(corrupt("network_mapping", format!("addresses {other:?}"))),
        };
        let (a, b) = (end(&row.site_a, &row.network_a)?, end(&row.site_b, &row.network_b)?);
        let mapping = Mapping { a, b, addresses };
        Ok(Self { id: row.id, mapping, created: micros(row.created_at) })
    }
}

/// Until the transaction ends, nobody else adds a mapping.
pub async fn lock(tx: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK).execute(tx).await?;
    Ok(())
}

pub async fn insert(
    tx: &mut PgConnection,
    id: Uuid,
    mapping: &Mapping,
) -> Result<NetworkMapping, StoreError> {
    sqlx::query_as::<_, Row>(
        "INSERT INTO network_mapping (id, site_a, network_a, site_b, network_b, addresses)
         VALUES ($1, $2, $3, $4, $5, $6) RETURNING *",
    )
    .bind(id)
    .bind(mapping.a.site.as_str())
    .bind(mapping.a.network.as_str())
    .bind(mapping.b.site.as_str())
    .bind(mapping.b.network.as_str())
    .bind(match mapping.addresses {
        AddressRule::KeepIfPossible => "keep-if-possible",
        AddressRule::Retain => "retain",
        AddressRule::Change => "change",
    })
    .fetch_one(tx)
    .await?
    .try_into()
}

/// In order of id, after `after`, at most `limit`.
pub async fn list(
    db: impl PgExecutor<'_>,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<NetworkMapping>, StoreError> {
    sqlx::query_as::<_, Row>(
        "SELECT * FROM network_mapping WHERE ($1::uuid IS NULL OR id > $1) ORDER BY id LIMIT $2",
    )
    .bind(after)
    .bind(limit)
    .fetch_all(db)
    .await?
    .into_iter()
    .map(TryInto::try_into)
    .collect()
}

/// All mappings with an end at one of these sites.
pub async fn of_sites(db: impl PgExecutor<'_>, sites: &[String]) -> Result<Vec<NetworkMapping>, StoreError> {
    sqlx::query_as::<_, Row>(
        "SELECT * FROM network_mapping WHERE site_a = ANY($1) OR site_b = ANY($1) ORDER BY id",
    )
    .bind(sites)
    .fetch_all(db)
    .await?
    .into_iter()
    .map(TryInto::try_into)
    .collect()
}

/// Tells whether there was one.
pub async fn delete(tx: &mut PgConnection, id: Uuid) -> Result<bool, StoreError> {
    let done = sqlx::query("DELETE FROM network_mapping WHERE id = $1").bind(id).execute(tx).await?;
    Ok(done.rows_affected() == 1)
}
