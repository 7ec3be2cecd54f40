//! What names of machines say, set and restored for runs (R-NET-11, R-NET-12).
//!
//! ```text
//!   set      may this run write to the zone? ─▶ what has the name? ─▶ on record ─▶ replace exactly that ─▶ ask again ─▶ marked as set
//!                                                    └ what is wanted: found done        └ it has something else: from the start
//!   restore  nothing is set any more ─▶ has the name what was set? ─▶ replace that by what was before ─▶ ask again
//!                                          └ what was before: found done   └ something else: left alone, and told
//! ```
//!
//! What a name had is on record before the server is told anything, so that it can be restored whenever the process dies in between. The server
//! changes a name only from what we saw to what we want, so two that write at once cannot undo each other unseen.

use std::collections::BTreeSet;

use understudy_ids::{ItemName, RunId};
use understudy_netplan::{DnsName, DnsZone, ZonePurpose};
use understudy_network_api::{RecordAddress, RecordDone};
use understudy_pg::Pool;
use understudy_rpc::{ApiError, Kind};

use crate::{
    dns::{Addresses, Primary, Replaced, Servers},
    store::{
        StoreError, dns_zone,
        record_change::{self, RecordChange},
        released_run,
    },
};

/// How often a name may turn out to have been changed by somebody else in the same moment.
const ROUNDS: usize = 4;

pub struct Records {
    pool: Pool,
    servers: Servers,
}

impl Records {
    pub fn new(pool: Pool, servers: Servers) -> Self {
        Self { pool, servers }
    }

    /// Each name has exactly its address. One that cannot be set keeps none of the others from it.
    ///
    /// # Errors
    /// With everything that went wrong; *unavailable* where it may help to try again.
    pub async fn set(
        &self,
        run: RunId,
        item: &ItemName,
        test: bool,
        records: &[RecordAddress],
    ) -> Result<Vec<RecordDone>, StoreError> {
        let (mut done, mut errors) = (Vec::new(), Vec::new());
        for record in records {
            match self.set_one(run, item, test, record).await {
                Ok(one) => done.push(one),
                Err(StoreError::Refused(error)) => errors.push(error),
                Err(database) => return Err(database),
            }
        }
        together(done, errors)
    }

    /// Each name of the item that the run has set has again what it had before.
    ///
    /// # Errors
    /// As [`Self::set`]; also where somebody else has changed a name since.
    pub async fn restore(&self, run: RunId, item: &ItemName) -> Result<Vec<RecordDone>, StoreError> {
        let changes = self
            .pool
            .write({
                let item = item.clone();
                move |tx| {
                    let item = item.clone();
                    Box::pin(async move {
                        released_run::lock(tx, run).await?;
                        record_change::close(tx, run, &item).await
                    })
                }
            })
            .await?;
        let (mut done, mut errors) = (Vec::new(), Vec::new());
        for change in changes {
            match self.restore_one(&change).await {
                Ok(one) => done.push(one),
                Err(StoreError::Refused(error)) => errors.push(error),
                Err(database) => return Err(database),
            }
        }
        together(done, errors)
    }

    async fn set_one(
        &self,
        run: RunId,
        item: &ItemName,
        test: bool,
        wanted: &RecordAddress,
    ) -> Result<RecordDone, StoreError> {
        let zone = self.zone(&wanted.zone).await?;
        permitted(&zone, test, wanted)?;
        let primary = self.servers.primary(&zone).map_err(ApiError::from)?;
        let after = Addresses::one(wanted.address, zone.ttl_seconds);
        for _ in 0..ROUNDS {
            let found = primary.ask(&wanted.name).await.map_err(ApiError::from)?;
            let change = self.record(run, item, wanted, &found).await?;
            let is_there = found.addresses == after.addresses
                || (replaced(&primary, &wanted.name, &found, &after).await? == Replaced::Done);
            if is_there {
                self.mark_set(run, &wanted.name).await?;
                let (before, after) = (change.before.list(), after.list());
                return Ok(RecordDone { name: wanted.name.clone(), before, after });
            }
        }
        Err(contended(&wanted.name).into())
    }

    async fn restore_one(&self, change: &RecordChange) -> Result<RecordDone, StoreError> {
        let zone = self.zone(&change.zone).await?;
        let primary = self.servers.primary(&zone).map_err(ApiError::from)?;
        for _ in 0..ROUNDS {
            let found = primary.ask(&change.name).await.map_err(ApiError::from)?;
            let nothing_to_do = found.addresses == change.before.addresses
                // Never set, and somebody else's by now.
                || (!change.is_set && found.addresses != [change.wanted].into());
            if !nothing_to_do && found.addresses != [change.wanted].into() {
                return Err(changed_by_others(change, &found).into());
            }
            if nothing_to_do
                || replaced(&primary, &change.name, &found, &change.before).await? == Replaced::Done
            {
                let after = if nothing_to_do { found.list() } else { change.before.list() };
                return Ok(RecordDone { name: change.name.clone(), before: found.list(), after });
            }
        }
        Err(contended(&change.name).into())
    }

    async fn zone(&self, name: &DnsName) -> Result<DnsZone, StoreError> {
        dns_zone::find(self.pool.reader(), name).await?.ok_or_else(|| {
            let message = format!("zone {name} does not exist any more");
            ApiError::failed_precondition("ZONE_NOT_FOUND", message, "set the record by hand").into()
        })
    }

    /// What the name has goes on record, unless it is our own doing already.
    async fn record(
        &self,
        run: RunId,
        item: &ItemName,
        wanted: &RecordAddress,
        found: &Addresses,
    ) -> Result<RecordChange, StoreError> {
        let (item, wanted, found) = (item.clone(), wanted.clone(), found.clone());
        self.pool
            .write(move |tx| {
                let (item, wanted, found) = (item.clone(), wanted.clone(), found.clone());
                Box::pin(async move {
                    released_run::lock(tx, run).await?;
                    if released_run::contains(tx, run).await?
                        || record_change::is_closed(tx, run, &item).await?
                    {
                        return Err(too_late(run, &item).into());
                    }
                    match record_change::find(tx, run, &wanted.name).await? {
                        Some(known) if known.is_set || found.addresses == [known.wanted].into() => Ok(known),
                        _ => record_change::put(tx, run, &item, &wanted, &found).await,
                    }
                })
            })
            .await
    }

    async fn mark_set(&self, run: RunId, name: &DnsName) -> Result<(), StoreError> {
        let name = name.clone();
        self.pool
            .write(move |tx| {
                let name = name.clone();
                Box::pin(async move { record_change::mark_set(tx, run, &name).await })
            })
            .await
    }
}

/// Replaces, and looks whether the server means it: what it does not like it may ignore (RFC 2136, 3.4.2.2).
async fn replaced(
    primary: &Primary,
    name: &DnsName,
    before: &Addresses,
    after: &Addresses,
) -> Result<Replaced, StoreError> {
    if primary.replace(name, before, after).await.map_err(ApiError::from)? == Replaced::HadOther {
        return Ok(Replaced::HadOther);
    }
    let found = primary.ask(name).await.map_err(ApiError::from)?;
    if found.addresses == after.addresses {
        return Ok(Replaced::Done);
    }
    let message = format!(
        "the server took the change of {name} to {} and has {} all the same",
        text(&after.addresses),
        text(&found.addresses)
    );
    let remedy = "look whether something else writes to the zone, and into the server's log";
    Err(ApiError::failed_precondition("RECORD_NOT_TAKEN", message, remedy).into())
}

/// R-NET-12: decided by the zone as it is on record, whatever the plan believed.
fn permitted(zone: &DnsZone, test: bool, wanted: &RecordAddress) -> Result<(), ApiError> {
    let may = ZonePurpose::of_run(test);
    if zone.purpose != may || wanted.purpose != may || !wanted.name.is_in(&zone.name) {
        let what = if test { "a test" } else { "a failover" };
        let message = format!(
            "{what} may write to zones of {may} only; {} lies in {}, a zone of {}",
            wanted.name, zone.name, zone.purpose
        );
        let remedy = "preview the run again: the zone is another one by now";
        return Err(ApiError::failed_precondition("ZONE_OF_OTHER_PURPOSE", message, remedy));
    }
    Ok(())
}

fn together(done: Vec<RecordDone>, mut errors: Vec<ApiError>) -> Result<Vec<RecordDone>, StoreError> {
    match errors.len() {
        0 => return Ok(done),
        1 => return Err(errors.remove(0).into()),
        _ => {}
    }
    // Doing it all again finds done what was done.
    let first = errors.iter().position(|error| error.kind == Kind::Unavailable).unwrap_or_default();
    let messages: Vec<&str> = errors.iter().map(|error| error.message.as_str()).collect();
    let message = messages.join("; ");
    let remedies: BTreeSet<&str> = errors.iter().map(|error| error.remedy.as_str()).collect();
    let remedy = remedies.into_iter().collect::<Vec<_>>().join("; ");
    let mut error = errors.swap_remove(first);
    (error.message, error.remedy) = (message, remedy);
    Err(error.into())
}

fn contended(name: &DnsName) -> ApiError {
    let message = format!("{name} is changed by somebody else again and again");
    ApiError::unavailable("RECORD_CONTENDED", message, "find out what else writes to the zone")
}

fn changed_by_others(change: &RecordChange, found: &Addresses) -> ApiError {
    let RecordChange { name, before, wanted, .. } = change;
    let (found, before) = (text(&found.addresses), text(&before.addresses));
    ApiError::failed_precondition(
        "RECORD_CHANGED_BY_OTHERS",
        format!("{name} was set to {wanted}, has {found} by now, and is left as it is"),
        format!("if that is not meant, give it {before} by hand, which it had before the run"),
    )
}

fn too_late(run: RunId, item: &ItemName) -> ApiError {
    ApiError::failed_precondition(
        "RECORDS_RESTORED",
        format!("run {run} has ended or restored the names of {item} already"),
        "nothing needs to be done: a late attempt of an old task",
    )
}

fn text(addresses: &BTreeSet<std::net::Ipv4Addr>) -> String {
    let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    if all.is_empty() { "no address".to_owned() } else { all.join(", ") }
}
