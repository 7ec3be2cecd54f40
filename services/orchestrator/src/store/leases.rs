//! Table `activation_leases`: what was granted to the active hosts of items. Whoever writes a row has locked the item's.

use sqlx::{PgConnection, types::Json};
use understudy_ids::{HostName, ItemName};
use understudy_replication::activation::Granted;

use super::{Failure, items::Lease, read};

/// Items whose lease may be in force, or that are to have one, at a host: in the order of their names.
pub async fn at_host(conn: &mut PgConnection, host: &HostName) -> Result<Vec<ItemName>, Failure> {
    let names: Vec<String> = sqlx::query_scalar(
        "SELECT i.name FROM items i JOIN policies p ON p.name = i.policy LEFT JOIN activation_leases l ON l.item = i.name
         WHERE i.active_host = $1 AND (p.activation_lease_ms IS NOT NULL OR l.item IS NOT NULL) ORDER BY i.name",
    )
    .bind(host.to_string())
    .fetch_all(conn)
    .await?;
    names.into_iter().map(|name| read("items", name.parse())).collect()
}

/// Every item that was granted a lease, in the order of their names.
pub async fn list(conn: &mut PgConnection) -> Result<Vec<(ItemName, Granted)>, Failure> {
    let rows: Vec<(String, Json<Granted>)> =
        sqlx::query_as("SELECT item, granted FROM activation_leases ORDER BY item").fetch_all(conn).await?;
    rows.into_iter()
        .map(|(item, Json(granted))| Ok((read("activation_leases", item.parse())?, granted)))
        .collect()
}

pub async fn put(tx: &mut PgConnection, item: &ItemName, lease: &Lease) -> Result<(), Failure> {
    sqlx::query(
        "INSERT INTO activation_leases (item, host, granted) VALUES ($1, $2, $3)
         ON CONFLICT (item) DO UPDATE SET host = excluded.host, granted = excluded.granted",
    )
    .bind(item.as_str())
    .bind(lease.host.to_string())
    .bind(Json(&lease.granted))
    .execute(tx)
    .await?;
    Ok(())
}

/// Nobody is bound any more.
pub async fn delete(tx: &mut PgConnection, item: &ItemName) -> Result<(), Failure> {
    sqlx::query("DELETE FROM activation_leases WHERE item = $1").bind(item.as_str()).execute(tx).await?;
    Ok(())
}
