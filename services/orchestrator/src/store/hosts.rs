//! Tables `hosts` and `host_facts`.

use sqlx::{FromRow, PgConnection, types::Json};
use time::OffsetDateTime;
use understudy_ids::{HostName, UnixMicros};

use super::{Failure, micros, read, stamp};
use crate::runtime::inventory::Inventory;

/// A host and what it last told.
#[derive(Debug, Clone)]
pub struct HostRecord {
    pub name: HostName,
    pub facts_endpoint: String,
    pub sink_endpoint: String,
    pub created: UnixMicros,
    /// Nothing until it was heard once.
    pub heard: Option<Heard>,
}

/// What a host told, and when we heard it.
#[derive(Debug, Clone)]
pub struct Heard {
    pub inventory: Inventory,
    /// Our clock.
    pub at: UnixMicros,
    /// Its stream is open, as far as the instance that reads it knows.
    pub connected: bool,
    pub settled_boot_id: Option<String>,
}

#[derive(FromRow)]
struct Row {
    name: String,
    facts_endpoint: String,
    sink_endpoint: String,
    created: OffsetDateTime,
    inventory: Option<Json<Inventory>>,
    heard: Option<OffsetDateTime>,
    connected: Option<bool>,
    settled_boot_id: Option<String>,
}

impl TryFrom<Row> for HostRecord {
    type Error = Failure;
    fn try_from(row: Row) -> Result<Self, Failure> {
        let heard = match (row.inventory, row.heard, row.connected) {
            (Some(Json(inventory)), Some(at), Some(connected)) => {
                Some(Heard { inventory, at: micros(at), connected, settled_boot_id: row.settled_boot_id })
            }
            _ => None,
        };
        Ok(Self {
            name: read("hosts", row.name.parse())?,
            facts_endpoint: row.facts_endpoint,
            sink_endpoint: row.sink_endpoint,
            created: micros(row.created),
            heard,
        })
    }
}

/// Wakes the instances' facts readers when there is a new host.
pub const CHANNEL: &str = "orchestrator_hosts";

/// Whether it was made; false when there is a host of that name. A site that does not exist violates `hosts_site_fkey`.
pub async fn insert(
    tx: &mut PgConnection,
    name: &HostName,
    facts_endpoint: &str,
    sink_endpoint: &str,
) -> Result<bool, Failure> {
    let done = sqlx::query(
        "INSERT INTO hosts (name, site, facts_endpoint, sink_endpoint) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
    )
    .bind(name.to_string())
    .bind(name.site().as_str())
    .bind(facts_endpoint)
    .bind(sink_endpoint)
    .execute(&mut *tx)
    .await?;
    sqlx::query("SELECT pg_notify($1, '')").bind(CHANNEL).execute(tx).await?;
    Ok(done.rows_affected() == 1)
}

pub async fn get(conn: &mut PgConnection, name: &HostName) -> Result<Option<HostRecord>, Failure> {
    let row: Option<Row> = sqlx::query_as(
        "SELECT h.name, h.facts_endpoint, h.sink_endpoint, h.created, f.inventory, f.heard, f.connected, f.settled_boot_id
         FROM hosts h LEFT JOIN host_facts f ON f.host = h.name WHERE h.name = $1",
    )
    .bind(name.to_string())
    .fetch_optional(conn)
    .await?;
    row.map(HostRecord::try_from).transpose()
}

/// Hosts of `site`, or of all when it is empty, in the order of their names, after `after`.
pub async fn list(
    conn: &mut PgConnection,
    site: &str,
    after: &str,
    limit: i64,
) -> Result<Vec<HostRecord>, Failure> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT h.name, h.facts_endpoint, h.sink_endpoint, h.created, f.inventory, f.heard, f.connected, f.settled_boot_id
         FROM hosts h LEFT JOIN host_facts f ON f.host = h.name
         WHERE ($1 = '' OR h.site = $1) AND h.name > $2 ORDER BY h.name LIMIT $3",
    )
    .bind(site)
    .bind(after)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(HostRecord::try_from).collect()
}

/// Keeps what a host told, unless something newer is there already.
pub async fn told(
    tx: &mut PgConnection,
    name: &HostName,
    inventory: &Inventory,
    now: UnixMicros,
) -> Result<bool, Failure> {
    let done = sqlx::query(
        "INSERT INTO host_facts (host, inventory, told, heard, connected) VALUES ($1, $2, $3, $4, true)
         ON CONFLICT (host) DO UPDATE
         SET inventory = excluded.inventory, told = excluded.told, heard = excluded.heard, connected = true
         -- The agent's clock may be set back; after a minute of silence its word counts again.
         WHERE host_facts.told <= excluded.told OR host_facts.heard < excluded.heard - interval '60 seconds'
               OR host_facts.inventory ->> 'boot_id' <> excluded.inventory ->> 'boot_id'",
    )
    .bind(name.to_string())
    .bind(Json(inventory))
    .bind(stamp(inventory.time))
    .bind(stamp(now))
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The stream of a host that was read here has ended.
pub async fn disconnected(tx: &mut PgConnection, name: &HostName) -> Result<(), Failure> {
    sqlx::query("UPDATE host_facts SET connected = false WHERE host = $1")
        .bind(name.to_string())
        .execute(tx)
        .await?;
    Ok(())
}

/// Nothing is left to correct on the host since it was started under this boot id.
pub async fn settled(tx: &mut PgConnection, name: &HostName, boot_id: &str) -> Result<(), Failure> {
    sqlx::query(
        "UPDATE host_facts SET settled_boot_id = $2 WHERE host = $1 AND settled_boot_id IS DISTINCT FROM $2",
    )
    .bind(name.to_string())
    .bind(boot_id)
    .execute(tx)
    .await?;
    Ok(())
}
