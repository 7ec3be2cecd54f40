//! Tables `items`, `generations` and `holds`.

use sqlx::{FromRow, PgConnection, types::Json};
use time::OffsetDateTime;
use understudy_ids::{
    DiskName, Generation, GroupName, HostName, ItemName, PolicyName, RunId, SiteName, UnixMicros, Uuid,
};
use understudy_netplan::ChosenAddress;
use understudy_probe::Probe;
use understudy_recovery::{ItemState, item::HeldBy};
use understudy_replication::{activation::Granted, rpo::Pause};

use super::{Failure, leases::Lease, micros, read, signed, unsigned};
use crate::runtime::inventory::Machine;

/// A protected item.
#[derive(Debug, Clone)]
pub struct ItemRecord {
    pub name: ItemName,
    pub active_host: HostName,
    pub standby_host: HostName,
    /// As the active host last told of it.
    pub machine: Machine,
    pub disks: Vec<DiskName>,
    /// Disks of the machine that are left out on purpose.
    pub excluded: Vec<DiskName>,
    pub policy: PolicyName,
    pub state: ItemState,
    pub generation: Generation,
    pub created: UnixMicros,
    /// The run that has it in hand.
    pub run: Option<RunId>,
    /// The test that has; a run may have it beside that, and ends it.
    pub test: Option<RunId>,
    /// Replication is paused.
    pub paused: Option<Pause>,
    /// The consistency group that it belongs to.
    pub group: Option<GroupName>,
    /// What its machine is asked when it has been started (R-TF-8).
    pub probes: Vec<Probe>,
    /// Chosen for its NICs (R-NET-5).
    pub addresses: Vec<ChosenAddress>,
    pub lease: Option<Lease>,
}

impl ItemRecord {
    /// What the active side is bound by at this moment, from whose end something follows.
    pub fn binding_lease(&self) -> Option<&Granted> {
        self.lease.as_ref()?.binding(&self.active_host, self.generation)
    }

    pub fn held_by(&self) -> Option<HeldBy> {
        self.run.map(|_| HeldBy::Run).or(self.test.map(|_| HeldBy::Test))
    }
}

#[derive(FromRow)]
struct Row {
    name: String,
    active_host: String,
    standby_host: String,
    machine: Json<Machine>,
    disks: Vec<String>,
    excluded: Vec<String>,
    policy: String,
    state: String,
    generation: i64,
    created: OffsetDateTime,
    run: Option<RunId>,
    test: Option<RunId>,
    paused_at: Option<OffsetDateTime>,
    paused_by: Option<String>,
    paused_why: Option<String>,
    consistency_group: Option<String>,
    lease_host: Option<String>,
    granted: Option<Json<Granted>>,
    probes: Json<Vec<Probe>>,
    addresses: Json<Vec<ChosenAddress>>,
}

impl TryFrom<Row> for ItemRecord {
    type Error = Failure;
    fn try_from(row: Row) -> Result<Self, Failure> {
        let disks = row.disks.iter().map(|d| d.parse());
        Ok(Self {
            lease: Lease::of_row(row.lease_host, row.granted)?,
            name: read("items", row.name.parse())?,
            active_host: read("items", row.active_host.parse())?,
            standby_host: read("items", row.standby_host.parse())?,
            machine: row.machine.0,
            disks: read("items", disks.collect())?,
            excluded: read("items", row.excluded.iter().map(|d| d.parse()).collect())?,
            policy: read("items", row.policy.parse())?,
            state: read("items", ItemState::parse(&row.state).ok_or("unknown state"))?,
            generation: Generation::new(unsigned(row.generation)),
            created: micros(row.created),
            // The table has all three or none.
            paused: row.paused_at.map(|at| Pause {
                since: micros(at),
                by: row.paused_by.unwrap_or_default(),
                why: row.paused_why.unwrap_or_default(),
            }),
            group: read("items", row.consistency_group.map(|group| group.parse()).transpose())?,
            probes: row.probes.0,
            addresses: row.addresses.0,
            run: row.run,
            test: row.test,
        })
    }
}

/// What a [`Row`] is read by.
macro_rules! select_items {
    ($which:literal) => {
        concat!(
            "SELECT i.name, i.active_host, i.standby_host, i.machine, i.disks, i.excluded, i.policy, i.state,
                    i.generation, i.created, i.paused_at, i.paused_by, i.paused_why, i.consistency_group,
                    i.probes, i.addresses, r.run, t.run AS test, l.host AS lease_host, l.granted
             FROM items i
             LEFT JOIN holds r ON r.item = i.name AND NOT r.test
             LEFT JOIN holds t ON t.item = i.name AND t.test
             LEFT JOIN activation_leases l ON l.item = i.name ",
            $which
        )
    };
}

/// Makes an item, and remembers its generation. Its generation lies above every one that its name ever had.
pub async fn insert(tx: &mut PgConnection, item: &ItemRecord) -> Result<(), Failure> {
    let disks: Vec<&str> = item.disks.iter().map(DiskName::as_str).collect();
    let excluded: Vec<&str> = item.excluded.iter().map(DiskName::as_str).collect();
    sqlx::query(
        "INSERT INTO items (name, active_host, standby_host, machine, machine_uuid, disks, excluded, policy, state,
                            generation)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(item.name.as_str())
    .bind(item.active_host.to_string())
    .bind(item.standby_host.to_string())
    .bind(Json(&item.machine))
    .bind(item.machine.uuid)
    .bind(disks)
    .bind(excluded)
    .bind(item.policy.as_str())
    .bind(item.state.as_str())
    .bind(signed(item.generation.get()))
    .execute(&mut *tx)
    .await?;
    remember_generation(tx, &item.name, item.generation).await
}

/// The generation that an item of this name begins with: above every earlier one.
pub async fn first_generation(conn: &mut PgConnection, name: &ItemName) -> Result<Generation, Failure> {
    let last: Option<i64> = sqlx::query_scalar("SELECT generation FROM generations WHERE item = $1")
        .bind(name.as_str())
        .fetch_optional(conn)
        .await?;
    Ok(last.map_or(Generation::FIRST, |last| Generation::new(unsigned(last)).next()))
}

async fn remember_generation(
    tx: &mut PgConnection,
    name: &ItemName,
    generation: Generation,
) -> Result<(), Failure> {
    sqlx::query(
        "INSERT INTO generations (item, generation) VALUES ($1, $2)
         ON CONFLICT (item) DO UPDATE SET generation = excluded.generation",
    )
    .bind(name.as_str())
    .bind(signed(generation.get()))
    .execute(tx)
    .await?;
    Ok(())
}

/// Keeps other transactions from deciding about these items until this one has ended. In the order of their names, so that two
/// transactions never wait for each other.
pub async fn lock(tx: &mut PgConnection, names: &[ItemName]) -> Result<(), Failure> {
    let names: Vec<&str> = names.iter().map(ItemName::as_str).collect();
    sqlx::query("SELECT name FROM items WHERE name = ANY($1) ORDER BY name FOR UPDATE")
        .bind(names)
        .execute(tx)
        .await?;
    Ok(())
}

/// Those of `names` that exist, in the order of their names.
pub async fn get(conn: &mut PgConnection, names: &[ItemName]) -> Result<Vec<ItemRecord>, Failure> {
    let names: Vec<&str> = names.iter().map(ItemName::as_str).collect();
    let rows: Vec<Row> = sqlx::query_as(select_items!("WHERE i.name = ANY($1) ORDER BY i.name"))
        .bind(names)
        .fetch_all(conn)
        .await?;
    rows.into_iter().map(ItemRecord::try_from).collect()
}

/// Items in the order of their names, after `after`.
pub async fn list(conn: &mut PgConnection, after: &str, limit: i64) -> Result<Vec<ItemRecord>, Failure> {
    let rows: Vec<Row> = sqlx::query_as(select_items!("WHERE i.name > $1 ORDER BY i.name LIMIT $2"))
        .bind(after)
        .bind(limit)
        .fetch_all(conn)
        .await?;
    rows.into_iter().map(ItemRecord::try_from).collect()
}

/// Items that run at one of these sites.
pub async fn active_at(conn: &mut PgConnection, sites: &[&SiteName]) -> Result<Vec<ItemRecord>, Failure> {
    let sites: Vec<&str> = sites.iter().map(|site| site.as_str()).collect();
    let rows: Vec<Row> =
        sqlx::query_as(select_items!("WHERE split_part(i.active_host, '/', 1) = ANY($1) ORDER BY i.name"))
            .bind(sites)
            .fetch_all(conn)
            .await?;
    rows.into_iter().map(ItemRecord::try_from).collect()
}

/// Which item protects the machine with this UUID.
pub async fn of_machine(conn: &mut PgConnection, uuid: Uuid) -> Result<Option<ItemName>, Failure> {
    let name: Option<String> = sqlx::query_scalar("SELECT name FROM items WHERE machine_uuid = $1")
        .bind(uuid)
        .fetch_optional(conn)
        .await?;
    name.map(|name| read("items", name.parse())).transpose()
}

/// Moves an item from one state to the next. False when it is not in `from` any more.
pub async fn set_state(
    tx: &mut PgConnection,
    name: &ItemName,
    from: ItemState,
    to: ItemState,
) -> Result<bool, Failure> {
    let done = sqlx::query("UPDATE items SET state = $3 WHERE name = $1 AND state = $2")
        .bind(name.as_str())
        .bind(from.as_str())
        .bind(to.as_str())
        .execute(tx)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Deletes an item. False when it is not in `from` any more.
pub async fn delete(tx: &mut PgConnection, name: &ItemName, from: ItemState) -> Result<bool, Failure> {
    let done = sqlx::query("DELETE FROM items WHERE name = $1 AND state = $2")
        .bind(name.as_str())
        .bind(from.as_str())
        .execute(tx)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Raises the generation and changes sides, in one (R-FO-7). A pause was about the other direction and ends. False when the generation is that high already.
pub async fn switch_sides(
    tx: &mut PgConnection,
    name: &ItemName,
    generation: Generation,
    active: &HostName,
    standby: &HostName,
) -> Result<bool, Failure> {
    let done = sqlx::query(
        "UPDATE items SET generation = $2, active_host = $3, standby_host = $4,
                          paused_at = NULL, paused_by = NULL, paused_why = NULL
         WHERE name = $1 AND generation < $2",
    )
    .bind(name.as_str())
    .bind(signed(generation.get()))
    .bind(active.to_string())
    .bind(standby.to_string())
    .execute(&mut *tx)
    .await?;
    remember_generation(tx, name, generation).await?;
    Ok(done.rows_affected() == 1)
}

/// Another host becomes the side that does not run it. False when the generation is another one by now.
pub async fn set_standby(
    tx: &mut PgConnection,
    name: &ItemName,
    generation: Generation,
    standby: &HostName,
) -> Result<bool, Failure> {
    let done = sqlx::query("UPDATE items SET standby_host = $3 WHERE name = $1 AND generation = $2")
        .bind(name.as_str())
        .bind(signed(generation.get()))
        .bind(standby.to_string())
        .execute(tx)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Keeps the machine as its active host tells of it.
pub async fn saw_machine(tx: &mut PgConnection, name: &ItemName, machine: &Machine) -> Result<(), Failure> {
    sqlx::query("UPDATE items SET machine = $2 WHERE name = $1 AND machine IS DISTINCT FROM $2")
        .bind(name.as_str())
        .bind(Json(machine))
        .execute(tx)
        .await?;
    Ok(())
}

/// Which disks are protected, and which are left out on purpose.
pub async fn set_disks(
    tx: &mut PgConnection,
    name: &ItemName,
    protected: &[DiskName],
    excluded: &[DiskName],
) -> Result<(), Failure> {
    let texts = |disks: &[DiskName]| disks.iter().map(ToString::to_string).collect::<Vec<_>>();
    sqlx::query("UPDATE items SET disks = $2, excluded = $3 WHERE name = $1")
        .bind(name.as_str())
        .bind(texts(protected))
        .bind(texts(excluded))
        .execute(tx)
        .await?;
    Ok(())
}

/// Which policy it follows.
pub async fn set_policy(tx: &mut PgConnection, name: &ItemName, policy: &PolicyName) -> Result<(), Failure> {
    sqlx::query("UPDATE items SET policy = $2 WHERE name = $1")
        .bind(name.as_str())
        .bind(policy.as_str())
        .execute(tx)
        .await?;
    Ok(())
}

/// What its machine is asked when it has been started.
pub async fn set_probes(tx: &mut PgConnection, name: &ItemName, probes: &[Probe]) -> Result<(), Failure> {
    sqlx::query("UPDATE items SET probes = $2 WHERE name = $1")
        .bind(name.as_str())
        .bind(Json(probes))
        .execute(tx)
        .await?;
    Ok(())
}

/// Which addresses its NICs get.
pub async fn set_addresses(
    tx: &mut PgConnection,
    name: &ItemName,
    addresses: &[ChosenAddress],
) -> Result<(), Failure> {
    sqlx::query("UPDATE items SET addresses = $2 WHERE name = $1")
        .bind(name.as_str())
        .bind(Json(addresses))
        .execute(tx)
        .await?;
    Ok(())
}

/// A pause that there is already stays what it is.
pub async fn pause(tx: &mut PgConnection, name: &ItemName, by: &str, why: &str) -> Result<(), Failure> {
    sqlx::query(
        "UPDATE items SET paused_at = now(), paused_by = $2, paused_why = $3 WHERE name = $1 AND paused_at IS NULL",
    )
    .bind(name.as_str())
    .bind(by)
    .bind(why)
    .execute(tx)
    .await?;
    Ok(())
}

pub async fn resume(tx: &mut PgConnection, name: &ItemName) -> Result<(), Failure> {
    sqlx::query("UPDATE items SET paused_at = NULL, paused_by = NULL, paused_why = NULL WHERE name = $1")
        .bind(name.as_str())
        .execute(tx)
        .await?;
    Ok(())
}

/// Puts the item into the run's hands. Nothing when it is done, and otherwise the run that has it.
pub async fn hold(
    tx: &mut PgConnection,
    name: &ItemName,
    run: RunId,
    test: bool,
) -> Result<Option<RunId>, Failure> {
    let holder: RunId = sqlx::query_scalar(
        "INSERT INTO holds (item, run, test) VALUES ($1, $2, $3)
         ON CONFLICT (item, test) DO UPDATE SET run = holds.run RETURNING run",
    )
    .bind(name.as_str())
    .bind(run)
    .bind(test)
    .fetch_one(tx)
    .await?;
    Ok(Some(holder).filter(|holder| *holder != run))
}

/// Takes the item out of the run's hands.
pub async fn release(tx: &mut PgConnection, name: &ItemName, run: RunId) -> Result<(), Failure> {
    sqlx::query("DELETE FROM holds WHERE item = $1 AND run = $2")
        .bind(name.as_str())
        .bind(run)
        .execute(tx)
        .await?;
    Ok(())
}
