//! Activation leases: granted to the hosts whose items have one, and counted to their end where nothing is granted any more (R-FO-7).
//!
//! ```text
//!   every few seconds, per host: GetPulse ─▶ transaction: items locked ─▶ due, and not to end for a run? ─▶ granted, on record
//!                                       RenewLeases, answering that pulse ◀─────────────────────────────┘
//!                                             └─▶ the host holds it: on record as well, a failover may rest on it from then on
//!   every tick: silence is added to what is on record ─▶ over, and a run waits for it ─▶ told, under the item's lock
//! ```
//! Promise: what is sent was on record before, so that whoever waits knows of it. A lease that a run waits for is not granted again, by any
//! instance: that is decided under the item's lock, as is the end of the wait.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;
use understudy_ids::{Generation, HostName, ItemName, RunId, UnixMicros};
use understudy_recovery::{
    Event,
    run::{awaited_leases, ends_lease},
};
use understudy_replication::activation::{Granted, LENGTHS};
use understudy_replication_api::{
    ActivationClient,
    activation::{self as wire, HeldLease, Renewal},
};
use understudy_rpc::ApiError;

use super::{Runtime, apply, now, per_host};
use crate::store::{
    Failure,
    hosts::HostRecord,
    items::{self, ItemRecord},
    leases::{self, AtHost, Lease},
    runs,
};

/// How often a host's leases are looked at: a few times in the shortest of them.
const PERIOD: Duration = Duration::from_secs(3);
/// For the host's answer. Later ones would be of little use.
const PATIENCE: Duration = Duration::from_secs(5);
/// A lease is granted again when this part of it has passed.
const RENEWED_IN: u32 = 5;
/// How much silence may be lost with this process.
const KEEP: Duration = Duration::from_secs(5);

pub async fn run(runtime: Runtime, shutdown: CancellationToken) {
    per_host::run(&runtime, &shutdown, |host| renew_for_ever(runtime.clone(), host, shutdown.clone())).await;
}

async fn renew_for_ever(runtime: Runtime, host: HostRecord, shutdown: CancellationToken) {
    let HostRecord { name, facts_endpoint, .. } = host;
    let client = match ActivationClient::new(&facts_endpoint, runtime.0.settings.tls.clone(), &name) {
        Ok(client) => client,
        Err(error) => {
            tracing::error!(host = %name, %error, "its activation leases cannot be renewed");
            return;
        }
    };
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut fails = false;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = shutdown.cancelled() => return,
        }
        let renewed = renew(&runtime, &name, &client).await;
        // A site that is dark for a night fills no log.
        match &renewed {
            Err(error) if !fails => tracing::warn!(host = %name, %error, "activation leases are not renewed"),
            Ok(()) if fails => tracing::info!(host = %name, "activation leases are renewed again"),
            _ => {}
        }
        fails = renewed.is_err();
    }
}

/// One exchange with a host. Nothing is said to one for which nothing is due.
async fn renew(runtime: &Runtime, host: &HostName, client: &ActivationClient) -> Result<(), ApiError> {
    let known = leases::at_host(&mut *runtime.reader().await?, host).await?;
    let due = known.into_iter().filter(|at| is_due(at, host, now()));
    let due: Vec<ItemName> = due.map(|at| at.item).collect();
    if due.is_empty() {
        return Ok(());
    }
    // What is granted is counted from this answer, so it has to be there before anything is put on record.
    let answers = answer(client.pulse()).await?;
    let asked = Arc::new((host.clone(), due));
    let asked = runtime.write(move |tx| {
        let asked = asked.clone();
        Box::pin(async move { grant(tx, &asked.0, &asked.1, now()).await })
    });
    let Grants { leases, released } = asked.await?;
    if leases.is_empty() && released.is_empty() {
        return Ok(());
    }
    let renewal = Renewal { answers, leases, released };
    let renewed = answer(client.renew(renewal)).await?;
    for refused in &renewed.refused {
        tracing::info!(%host, item = %refused.item, why = refused.why, "activation lease not taken");
    }
    let known = leases::at_host(&mut *runtime.reader().await?, host).await?;
    let changed = known.into_iter().filter(|at| news(at, host, &renewed.held).is_some());
    let changed: Vec<ItemName> = changed.map(|at| at.item).collect();
    if changed.is_empty() {
        return Ok(());
    }
    let told = Arc::new((host.clone(), changed, renewed.held));
    let noted = runtime.write(move |tx| {
        let told = told.clone();
        Box::pin(async move { note(tx, &told.0, &told.1, &told.2).await })
    });
    Ok(noted.await?)
}

async fn answer<T>(asked: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
    let silent = || ApiError::unavailable("AGENT_SILENT", "the agent does not answer", "It is asked again.");
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(silent()))
}

/// What a host is to be told.
struct Grants {
    leases: Vec<wire::Lease>,
    released: Vec<ItemName>,
}

async fn grant(
    tx: &mut PgConnection,
    host: &HostName,
    due: &[ItemName],
    now: UnixMicros,
) -> Result<Grants, Failure> {
    items::lock(tx, due).await?;
    let runs = runs::open(tx).await?;
    let records = items::get(tx, due).await?;
    let mut grants = Grants { leases: Vec::new(), released: Vec::new() };
    // A failover may have come first; what is active elsewhere by now is not in the list.
    for at in leases::at_host(tx, host).await? {
        let Some(record) = records.iter().find(|record| record.name == at.item) else { continue };
        // A run waits for the end.
        if runs.iter().any(|run| ends_lease(run, &at.item, at.generation)) {
            continue;
        }
        match (at.wanted, at.lease) {
            (Some(length), _) => grants.leases.push(granted(tx, record, length, now).await?),
            (None, Some(mut lease)) if lease.host == *host => {
                // Nothing follows from its silence any more, from before it is told.
                lease.granted.held = false;
                leases::put(tx, &at.item, &lease).await?;
                grants.released.push(at.item);
            }
            // The other side's, of before a failover.
            (None, _) => leases::delete(tx, &at.item).await?,
        }
    }
    Ok(grants)
}

fn is_due(at: &AtHost, host: &HostName, now: UnixMicros) -> bool {
    let Some(length) = at.wanted else { return true };
    let binding = at.lease.as_ref().and_then(|lease| lease.binding(host, at.generation));
    let renewed = binding.filter(|granted| granted.length() == length).and_then(Granted::renewed);
    // Of a clock that was set back nothing follows.
    renewed.is_none_or(|renewed| renewed > now || now.since(renewed) + PERIOD >= length / RENEWED_IN)
}

/// On record first: whoever waits for its end must know of it before the host does.
async fn granted(
    tx: &mut PgConnection,
    record: &ItemRecord,
    length: Duration,
    now: UnixMicros,
) -> Result<wire::Lease, Failure> {
    let (name, generation) = (record.name.clone(), record.generation);
    let before =
        record.lease.clone().filter(|lease| lease.host == record.active_host).map(|lease| lease.granted);
    let granted = Granted::again(before, generation, length, now);
    let lease = Lease { host: record.active_host.clone(), granted };
    leases::put(tx, &name, &lease).await?;
    Ok(wire::Lease {
        item: name,
        generation,
        length,
        machine: record.machine.name.clone(),
        machine_uuid: record.machine.uuid,
    })
}

/// A host is bound by a lease that is not on record, such as by a renewal that its release has overtaken: it goes on record, so that it is
/// renewed or released like any other.
pub async fn adopt(tx: &mut PgConnection, record: &ItemRecord, now: UnixMicros) -> Result<(), Failure> {
    let granted = Granted::again(None, record.generation, *LENGTHS.end(), now);
    let lease = Lease { host: record.active_host.clone(), granted };
    leases::put(tx, &record.name, &lease).await
}

/// What follows for the record of a lease from what its host is bound by.
enum News {
    Held,
    Gone,
}

fn news(at: &AtHost, host: &HostName, held: &[HeldLease]) -> Option<News> {
    let lease = at.lease.as_ref().filter(|lease| lease.host == *host)?;
    let holds = held.iter().any(|h| h.item == at.item && h.generation == lease.granted.generation);
    match at.wanted {
        Some(_) if holds && !lease.granted.held => Some(News::Held),
        None if !holds => Some(News::Gone),
        _ => None,
    }
}

/// What the host has told of what it holds by now.
async fn note(
    tx: &mut PgConnection,
    host: &HostName,
    changed: &[ItemName],
    held: &[HeldLease],
) -> Result<(), Failure> {
    items::lock(tx, changed).await?;
    for at in leases::at_host(tx, host).await?.into_iter().filter(|at| changed.contains(&at.item)) {
        match (news(&at, host, held), at.lease) {
            (Some(News::Held), Some(mut lease)) => {
                lease.granted.held = true;
                leases::put(tx, &at.item, &lease).await?;
            }
            (Some(News::Gone), _) => leases::delete(tx, &at.item).await?,
            _ => {}
        }
    }
    Ok(())
}

/// When this process has looked at each item's lease last, by a clock that cannot jump, and when that had been granted then.
pub type Looked = BTreeMap<ItemName, (Instant, Option<UnixMicros>)>;

/// Adds the silence that has passed, and tells runs of leases that have ended. What was granted since the last look is not silent.
pub async fn count(runtime: &Runtime, looked: &mut Looked) -> Result<(), Failure> {
    let known = leases::list(&mut *runtime.reader().await?).await?;
    looked.retain(|item, _| known.iter().any(|(name, _)| name == item));
    if known.is_empty() {
        return Ok(());
    }
    let mut awaited: BTreeMap<ItemName, Vec<(RunId, Generation)>> = BTreeMap::new();
    for run in runs::open(&mut *runtime.reader().await?).await? {
        for (item, generation) in awaited_leases(&run) {
            awaited.entry(item).or_default().push((run.id, generation));
        }
    }
    for (item, granted) in known {
        let (since, renewed) =
            looked.entry(item.clone()).or_insert_with(|| (Instant::now(), granted.renewed()));
        if *renewed != granted.renewed() {
            (*since, *renewed) = (Instant::now(), granted.renewed());
        }
        let elapsed = since.elapsed();
        let waiting = awaited.remove(&item).unwrap_or_default();
        let is_over = granted.over_in().is_zero();
        if waiting.is_empty() && (is_over || elapsed < KEEP) {
            continue;
        }
        *since = Instant::now();
        let what = Arc::new((item, waiting));
        let counted = runtime.write(move |tx| {
            let what = what.clone();
            Box::pin(async move {
                let (item, waiting) = &*what;
                passed(tx, item, waiting, elapsed).await
            })
        });
        counted.await?;
    }
    Ok(())
}

async fn passed(
    tx: &mut PgConnection,
    item: &ItemName,
    waiting: &[(RunId, Generation)],
    elapsed: Duration,
) -> Result<(), Failure> {
    items::lock(&mut *tx, std::slice::from_ref(item)).await?;
    let record = items::get(&mut *tx, std::slice::from_ref(item)).await?.pop();
    let Some(lease) = record.and_then(|record| record.lease) else { return Ok(()) };
    let now = now();
    if !lease.granted.over_in().is_zero() {
        let granted = lease.granted.clone().and(elapsed, now);
        leases::put(&mut *tx, item, &Lease { granted, ..lease.clone() }).await?;
    }
    // What was added just now counts from the next look on: it is on record then.
    if lease.granted.over_in().is_zero() {
        for (run, generation) in
            waiting.iter().filter(|(_, generation)| *generation == lease.granted.generation)
        {
            tracing::warn!(%run, %item, "the activation lease has ended: the machine has stopped by itself");
            let event = Event::LeaseOver { item: item.clone(), generation: *generation, at: now };
            apply::deliver(&mut *tx, *run, &event).await?;
        }
    }
    Ok(())
}
