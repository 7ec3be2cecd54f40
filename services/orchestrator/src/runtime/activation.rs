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
    collections::{BTreeMap, BTreeSet},
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
use understudy_replication::activation::Granted;
use understudy_replication_api::{
    ActivationClient,
    activation::{HeldLease, Lease, Renewal},
};
use understudy_rpc::ApiError;

use super::{Runtime, apply, now, per_host};
use crate::store::{
    Failure,
    hosts::HostRecord,
    items::{self, ItemRecord},
    leases, policies, runs,
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
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = shutdown.cancelled() => return,
        }
        if let Err(error) = renew(&runtime, &name, &client).await {
            tracing::warn!(host = %name, %error, "activation leases were not renewed");
        }
    }
}

/// One exchange with a host. Nothing is said to one that is bound by no lease and is not to be.
async fn renew(runtime: &Runtime, host: &HostName, client: &ActivationClient) -> Result<(), ApiError> {
    if leases::at_host(&mut *runtime.reader().await?, host).await?.is_empty() {
        return Ok(());
    }
    // What is granted is counted from this answer, so it has to be there before anything is put on record.
    let answers = answer(client.pulse()).await?;
    let of = host.clone();
    let asked = runtime.write(move |tx| {
        let of = of.clone();
        Box::pin(async move { grant(tx, &of, now()).await })
    });
    let Grants { leases, released } = asked.await?;
    if leases.is_empty() && released.is_empty() {
        return Ok(());
    }
    let renewal = Renewal { answers, leases, released: released.clone() };
    let renewed = answer(client.renew(renewal)).await?;
    for refused in &renewed.refused {
        tracing::info!(%host, item = %refused.item, why = refused.why, "activation lease not taken");
    }
    let told = Arc::new((host.clone(), renewed.held, released));
    let noted = runtime.write(move |tx| {
        let told = told.clone();
        Box::pin(async move {
            let (host, held, released) = &*told;
            note(tx, host, held, released).await
        })
    });
    Ok(noted.await?)
}

async fn answer<T>(asked: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
    let silent = || ApiError::unavailable("AGENT_SILENT", "the agent does not answer", "It is asked again.");
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(silent()))
}

/// What a host is to be told.
struct Grants {
    leases: Vec<Lease>,
    released: Vec<ItemName>,
}

async fn grant(tx: &mut PgConnection, host: &HostName, now: UnixMicros) -> Result<Grants, Failure> {
    let names = leases::at_host(tx, host).await?;
    items::lock(tx, &names).await?;
    let runs = runs::open(tx).await?;
    let mut grants = Grants { leases: Vec::new(), released: Vec::new() };
    for record in items::get(tx, &names).await? {
        // A failover may have come first, or a run waits for the end.
        let ends = runs.iter().any(|run| ends_lease(run, &record.name, record.generation));
        if record.active_host != *host || ends {
            continue;
        }
        let Some(policy) = policies::get(tx, &record.policy).await? else { continue };
        match policy.settings.activation_lease {
            Some(length) if is_due(&record, length, now) => {
                grants.leases.push(granted(tx, &record, length, now).await?);
            }
            Some(_) => {}
            None => {
                release(tx, &record).await?;
                grants.released.push(record.name);
            }
        }
    }
    Ok(grants)
}

fn is_due(record: &ItemRecord, length: Duration, now: UnixMicros) -> bool {
    let Some(granted) = record.binding_lease().filter(|granted| granted.length() == length) else {
        return true;
    };
    // Of a clock that was set back nothing follows.
    granted.renewed().is_none_or(|at| at > now || now.since(at) + PERIOD >= length / RENEWED_IN)
}

/// On record first: whoever waits for its end must know of it before the host does.
async fn granted(
    tx: &mut PgConnection,
    record: &ItemRecord,
    length: Duration,
    now: UnixMicros,
) -> Result<Lease, Failure> {
    let (name, generation) = (record.name.clone(), record.generation);
    let before =
        record.lease.clone().filter(|lease| lease.host == record.active_host).map(|lease| lease.granted);
    let granted = Granted::again(before, generation, length, now);
    let lease = items::Lease { host: record.active_host.clone(), granted };
    leases::put(tx, &name, &lease).await?;
    Ok(Lease {
        item: name,
        generation,
        length,
        machine: record.machine.name.clone(),
        machine_uuid: record.machine.uuid,
    })
}

/// Nothing follows from its silence any more, from before it is told.
async fn release(tx: &mut PgConnection, record: &ItemRecord) -> Result<(), Failure> {
    let Some(mut lease) = record.lease.clone() else { return Ok(()) };
    lease.granted.held = false;
    leases::put(tx, &record.name, &lease).await
}

/// What the host has told of what it holds by now.
async fn note(
    tx: &mut PgConnection,
    host: &HostName,
    held: &[HeldLease],
    released: &[ItemName],
) -> Result<(), Failure> {
    let holds = |item: &ItemName, generation: Generation| {
        held.iter().any(|lease| lease.item == *item && lease.generation == generation)
    };
    let names: Vec<ItemName> =
        held.iter().map(|lease| lease.item.clone()).chain(released.iter().cloned()).collect();
    items::lock(tx, &names).await?;
    for record in items::get(tx, &names).await? {
        let Some(lease) = record.lease.as_ref().filter(|lease| lease.host == *host) else { continue };
        let policy = policies::get(tx, &record.policy).await?;
        let wanted = policy.is_some_and(|policy| policy.settings.activation_lease.is_some());
        let holds = holds(&record.name, lease.granted.generation);
        if !wanted && !holds && released.contains(&record.name) {
            leases::delete(tx, &record.name).await?;
        } else if wanted && holds && !lease.granted.held {
            let mut lease = lease.clone();
            lease.granted.held = true;
            leases::put(tx, &record.name, &lease).await?;
        }
    }
    Ok(())
}

/// When this process has looked at each item's lease last, by a clock that cannot jump.
pub type Looked = BTreeMap<ItemName, Instant>;

/// Adds the silence that has passed, and tells runs of leases that have ended.
pub async fn count(runtime: &Runtime, looked: &mut Looked) -> Result<(), Failure> {
    let known = leases::list(&mut *runtime.reader().await?).await?;
    looked.retain(|item, _| known.iter().any(|(name, _)| name == item));
    let mut awaited: BTreeMap<ItemName, Vec<(RunId, Generation)>> = BTreeMap::new();
    for run in runs::open(&mut *runtime.reader().await?).await? {
        for (item, generation) in awaited_leases(&run) {
            awaited.entry(item).or_default().push((run.id, generation));
        }
    }
    let names: BTreeSet<ItemName> = known.into_iter().map(|(item, _)| item).collect();
    for item in names {
        let elapsed = looked.entry(item.clone()).or_insert_with(Instant::now).elapsed();
        let waiting = awaited.remove(&item).unwrap_or_default();
        if elapsed < KEEP && waiting.is_empty() {
            continue;
        }
        looked.insert(item.clone(), Instant::now());
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
        leases::put(&mut *tx, item, &items::Lease { granted, ..lease.clone() }).await?;
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
