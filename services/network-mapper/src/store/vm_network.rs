//! Table `vm_network`.

use sqlx::{FromRow, PgConnection, PgExecutor};
use time::OffsetDateTime;
use understudy_ids::{NetworkName, SiteName};
use understudy_netplan::{AddressPool, Addressing, Isolation, NetworkRef, VmNetwork};
use understudy_network_api::StoredNetwork;

use super::{StoreError, corrupt, micros};

#[derive(FromRow)]
struct Row {
    site: String,
    name: String,
    isolation: String,
    addressing: String,
    subnet: String,
    gateway: Option<String>,
    pool_first: Option<String>,
    pool_last: Option<String>,
    hypervisor_network: String,
    isolation_targets: Vec<String>,
    logical_network: Option<String>,
    vlan_id: Option<i32>,
    created_at: OffsetDateTime,
}

impl TryFrom<Row> for StoredNetwork {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let parsed = || -> Result<VmNetwork, Box<dyn std::error::Error + Send + Sync>> {
            let pool = match (&row.pool_first, &row.pool_last) {
                (Some(first), Some(last)) => Some(AddressPool { first: first.parse()?, last: last.parse()? }),
                _ => None,
            };
            Ok(VmNetwork {
                name: NetworkRef { site: row.site.parse()?, network: row.name.parse()? },
                isolation: match row.isolation.as_str() {
                    "none" => Isolation::None,
                    "vlan" => Isolation::Vlan,
                    "virtualized" => Isolation::Virtualized,
                    other => return Err(format!("isolation {other:?}").into()),
                },
                addressing: match row.addressing.as_str() {
                    "dhcp" => Addressing::Dhcp,
                    "static" => Addressing::Static,
                    other => return Err(format!("addressing {other:?}").into()),
                },
                subnet: row.subnet.parse()?,
                gateway: row.gateway.as_deref().map(str::parse).transpose()?,
                pool,
                hypervisor_network: row.hypervisor_network.parse()?,
                isolation_targets: row
                    .isolation_targets
                    .iter()
                    .map(|t| t.parse())
                    .collect::<Result<_, _>>()?,
                logical_network: row.logical_network.as_deref().map(str::parse).transpose()?,
                vlan_id: row.vlan_id.map(u16::try_from).transpose()?,
            })
        };
        let network = parsed().map_err(|e| corrupt("vm_network", e))?;
        Ok(StoredNetwork { network, created: micros(row.created_at) })
    }
}

/// Adds the network unless one of that name is there; tells whether it was added.
pub async fn insert(tx: &mut PgConnection, network: &VmNetwork) -> Result<bool, StoreError> {
    let targets: Vec<String> = network.isolation_targets.iter().map(ToString::to_string).collect();
    let done = sqlx::query(
        "INSERT INTO vm_network (site, name, isolation, addressing, subnet, gateway, pool_first, pool_last,
                                 hypervisor_network, isolation_targets, logical_network, vlan_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
         ON CONFLICT (site, name) DO NOTHING",
    )
    .bind(network.name.site.as_str())
    .bind(network.name.network.as_str())
    .bind(match network.isolation {
        Isolation::None => "none",
        Isolation::Vlan => "vlan",
        Isolation::Virtualized => "virtualized",
    })
    .bind(match network.addressing {
        Addressing::Dhcp => "dhcp",
        Addressing::Static => "static",
    })
    .bind(network.subnet.to_string())
    .bind(network.gateway.map(|g| g.to_string()))
    .bind(network.pool.map(|p| p.first.to_string()))
    .bind(network.pool.map(|p| p.last.to_string()))
    .bind(network.hypervisor_network.as_str())
    .bind(targets)
    .bind(network.logical_network.as_ref().map(NetworkName::as_str))
    .bind(network.vlan_id.map(i32::from))
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

pub async fn find(db: impl PgExecutor<'_>, name: &NetworkRef) -> Result<Option<StoredNetwork>, StoreError> {
    sqlx::query_as::<_, Row>("SELECT * FROM vm_network WHERE site = $1 AND name = $2")
        .bind(name.site.as_str())
        .bind(name.network.as_str())
        .fetch_optional(db)
        .await?
        .map(TryInto::try_into)
        .transpose()
}

/// By site and name, after the network `after`, at most `limit`.
pub async fn list(
    db: impl PgExecutor<'_>,
    site: Option<&SiteName>,
    after: Option<&NetworkRef>,
    limit: i64,
) -> Result<Vec<StoredNetwork>, StoreError> {
    sqlx::query_as::<_, Row>(
        "SELECT * FROM vm_network
         WHERE ($1::text IS NULL OR site = $1) AND ($2::text IS NULL OR (site, name) > ($2, $3))
         ORDER BY site, name LIMIT $4",
    )
    .bind(site.map(SiteName::as_str))
    .bind(after.map(|a| a.site.as_str()))
    .bind(after.map(|a| a.network.as_str()))
    .bind(limit)
    .fetch_all(db)
    .await?
    .into_iter()
    .map(TryInto::try_into)
    .collect()
}

/// All networks of these sites.
pub async fn of_sites(db: impl PgExecutor<'_>, sites: &[String]) -> Result<Vec<VmNetwork>, StoreError> {
    sqlx::query_as::<_, Row>("SELECT * FROM vm_network WHERE site = ANY($1) ORDER BY site, name")
        .bind(sites)
        .fetch_all(db)
        .await?
        .into_iter()
        .map(|row| StoredNetwork::try_from(row).map(|stored| stored.network))
        .collect()
}

/// Tells whether there was one.
pub async fn delete(tx: &mut PgConnection, name: &NetworkRef) -> Result<bool, StoreError> {
    let done = sqlx::query("DELETE FROM vm_network WHERE site = $1 AND name = $2")
        .bind(name.site.as_str())
        .bind(name.network.as_str())
        .execute(tx)
        .await?;
    Ok(done.rows_affected() == 1)
}
