//! Table `activation_leases`: what was granted to the active hosts of items. Whoever writes a row has locked the item's.

use std::time::Duration;

use sqlx::{FromRow, PgConnection, types::Json};
use understudy_ids::{Generation, HostName, ItemName};
use understudy_replication::activation::Granted;

use super::{Failure, read, unsigned};

/// The activation lease of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// To whom it was granted.
    pub host: HostName,
    pub granted: Granted,
}

impl Lease {
    /// From what a row has, which is both or neither.
    pub(super) fn of_row(
        host: Option<String>,
        granted: Option<Json<Granted>>,
    ) -> Result<Option<Self>, Failure> {
        let of = |(host, Json(granted)): (String, Json<Granted>)| {
            Ok(Self { host: read("activation_leases", host.parse())?, granted })
        };
        host.zip(granted).map(of).transpose()
    }

    /// What the host is bound by as the active side at this generation, from whose end something follows.
    pub fn binding(&self, host: &HostName, generation: Generation) -> Option<&Granted> {
        let binds = self.host == *host && self.granted.held && self.granted.generation == generation;
        binds.then_some(&self.granted)
    }
}

/// An item of a host whose lease may be in force there, or that is to have one.
#[derive(Debug, Clone)]
pub struct AtHost {
    pub item: ItemName,
    pub generation: Generation,
    /// What its policy says.
    pub wanted: Option<Duration>,
    pub lease: Option<Lease>,
}

#[derive(FromRow)]
struct Row {
    name: String,
    generation: i64,
    activation_lease_ms: Option<i64>,
    host: Option<String>,
    granted: Option<Json<Granted>>,
}

impl TryFrom<Row> for AtHost {
    type Error = Failure;
    fn try_from(Row { name, generation, activation_lease_ms, host, granted }: Row) -> Result<Self, Failure> {
        Ok(Self {
            item: read("items", name.parse())?,
            generation: Generation::new(unsigned(generation)),
            wanted: activation_lease_ms.map(|ms| Duration::from_millis(unsigned(ms))),
            lease: Lease::of_row(host, granted)?,
        })
    }
}

/// The items that are active at a host and have, or are to have, a lease: in the order of their names.
pub async fn at_host(conn: &mut PgConnection, host: &HostName) -> Result<Vec<AtHost>, Failure> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT i.name, i.generation, p.activation_lease_ms, l.host, l.granted
         FROM items i JOIN policies p ON p.name = i.policy LEFT JOIN activation_leases l ON l.item = i.name
         WHERE i.active_host = $1 AND (p.activation_lease_ms IS NOT NULL OR l.item IS NOT NULL) ORDER BY i.name",
    )
    .bind(host.to_string())
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(AtHost::try_from).collect()
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
