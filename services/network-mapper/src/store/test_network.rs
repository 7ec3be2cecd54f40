//! Table `test_network`: networks that runs make for tests, on record before they exist.

use sqlx::PgConnection;
use understudy_ids::RunId;
use understudy_network_api::ReservedTestNetwork;

use super::StoreError;

/// Puts it on record. The name contains the run, so nobody else's can be in the way.
pub async fn insert(
    tx: &mut PgConnection,
    run: RunId,
    network: &ReservedTestNetwork,
) -> Result<(), StoreError> {
    let hosts: Vec<String> = network.hosts.iter().map(ToString::to_string).collect();
    sqlx::query(
        "INSERT INTO test_network (name, run, site, network, hosts) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (name) DO NOTHING",
    )
    .bind(network.name.as_str())
    .bind(run)
    .bind(network.stands_for.site.as_str())
    .bind(network.stands_for.network.as_str())
    .bind(hosts)
    .execute(tx)
    .await?;
    Ok(())
}

/// How many were released.
pub async fn release(tx: &mut PgConnection, run: RunId) -> Result<u64, StoreError> {
    Ok(sqlx::query("DELETE FROM test_network WHERE run = $1").bind(run).execute(tx).await?.rows_affected())
}
