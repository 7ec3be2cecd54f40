//! Keeps what the hosts tell current, and tells runs what they wait for.
//!
//! ```text
//!   hosts (table) ─▶ one reader per host: WatchFacts ─▶ transaction: facts · machines of items · awaited first points
//!                         ▲                  │ silence, error
//!                         └── back off ◀─────┘ marked as not connected
//! ```

use std::{collections::BTreeMap, sync::Arc};

use futures::StreamExt;
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;
use understudy_ids::{HostName, RunId, UnixMicros};
use understudy_recovery::Event;
use understudy_replication_api::{Facts, FactsClient};
use understudy_rpc::{
    ApiError,
    retry::{BackOff, jitter},
};

use super::{
    Runtime, activation, apply,
    gather::SILENCE,
    inventory::{Inventory, Machine},
    now, per_host,
};
use crate::store::{
    Failure,
    awaited::{self, Awaited},
    hosts::{self, HostRecord},
    items,
};

pub async fn run(runtime: Runtime, shutdown: CancellationToken) {
    per_host::run(&runtime, &shutdown, |host| read_for_ever(runtime.clone(), host, shutdown.clone())).await;
}

async fn read_for_ever(runtime: Runtime, host: HostRecord, shutdown: CancellationToken) {
    let mut failures = 0;
    while !shutdown.is_cancelled() {
        tokio::select! {
            error = read(&runtime, &host, &mut failures) => {
                tracing::debug!(host = %host.name, %error, "the host's facts ended");
            }
            () = shutdown.cancelled() => return,
        }
        disconnected(&runtime, &host.name).await;
        let pause = BackOff::DEFAULT.delay(failures, jitter());
        failures = failures.saturating_add(1);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Reads until something goes wrong, and says what.
async fn read(runtime: &Runtime, host: &HostRecord, failures: &mut u32) -> ApiError {
    let client = match FactsClient::new(&host.facts_endpoint, runtime.0.settings.tls.clone(), &host.name) {
        Ok(client) => client,
        Err(error) => return ApiError::internal(error),
    };
    let opened = tokio::time::timeout(SILENCE, client.watch()).await;
    let mut stream = match opened {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return error,
        Err(_) => return silent(),
    };
    loop {
        match tokio::time::timeout(SILENCE, stream.next()).await {
            Ok(Some(Ok(facts))) => {
                *failures = 0;
                if let Err(error) = runtime.take_facts(&host.name, facts).await {
                    return error;
                }
            }
            Ok(Some(Err(error))) => return error,
            Ok(None) => {
                return ApiError::unavailable(
                    "FACTS_ENDED",
                    "the agent ended its facts",
                    "it is asked again",
                );
            }
            Err(_) => return silent(),
        }
    }
}

fn silent() -> ApiError {
    ApiError::unavailable(
        "AGENT_SILENT",
        format!("the agent told nothing for {SILENCE:?}"),
        "it is asked again",
    )
}

async fn disconnected(runtime: &Runtime, host: &HostName) {
    let name = host.clone();
    let stored = runtime
        .write(move |tx| {
            let name = name.clone();
            Box::pin(async move { hosts::disconnected(tx, &name).await })
        })
        .await;
    if let Err(failure) = stored {
        // It counts as not connected after a while in any case.
        tracing::warn!(%failure, %host, "the host could not be marked as not connected");
    }
}

impl Runtime {
    /// Keeps what a host tells and passes on what a run waits for.
    pub async fn take_facts(&self, host: &HostName, facts: Facts) -> Result<(), ApiError> {
        if facts.host != *host {
            let message = format!("the agent of {host} tells of {}", facts.host);
            return Err(ApiError::failed_precondition(
                "WRONG_HOST",
                message,
                "Correct the agent's configuration.",
            ));
        }
        let what = Arc::new((host.clone(), Inventory::from(facts)));
        self.write(move |tx| {
            let what = what.clone();
            Box::pin(async move {
                let (host, inventory) = &*what;
                let now = now();
                if hosts::told(&mut *tx, host, inventory, now).await? {
                    machines(&mut *tx, host, inventory, now).await?;
                    first_points(tx, host, inventory, now).await?;
                }
                Ok(())
            })
        })
        .await?;
        Ok(())
    }
}

/// The machines of items that are active here, as they are now: what is planned with when this host falls silent.
async fn machines(
    tx: &mut PgConnection,
    host: &HostName,
    inventory: &Inventory,
    now: UnixMicros,
) -> Result<(), Failure> {
    let told: Vec<_> = inventory.items.iter().map(|facts| facts.item.clone()).collect();
    for record in items::get(tx, &told).await? {
        let is_news = |machine: &&Machine| {
            record.active_host == *host && machine.uuid == record.machine.uuid && **machine != record.machine
        };
        if let Some(machine) = inventory.machine(&record.machine.name).filter(is_news) {
            items::saw_machine(tx, &record.name, machine).await?;
        }
        let is_bound = inventory.item(&record.name).is_some_and(|facts| facts.lease.is_some());
        if is_bound && record.lease.is_none() && record.active_host == *host {
            activation::adopt(tx, &record, now).await?;
        }
    }
    Ok(())
}

async fn first_points(
    tx: &mut PgConnection,
    standby: &HostName,
    inventory: &Inventory,
    now: UnixMicros,
) -> Result<(), Failure> {
    let mut told: BTreeMap<RunId, Vec<Event>> = BTreeMap::new();
    for Awaited { run, item, generation } in awaited::of_standby(tx, standby).await? {
        let points = inventory.item(&item).map_or(&[][..], |facts| facts.points.as_slice());
        let first = points.iter().find(|p| p.is_offered() && p.generation == generation);
        let Some(point) = first else { continue };
        awaited::delete(&mut *tx, run, &item).await?;
        let event = Event::FirstPoint { item, seq: point.seq, generation, at: now };
        told.entry(run).or_default().push(event);
    }
    for (run, events) in told {
        apply::deliver_all(&mut *tx, run, &events).await?;
    }
    Ok(())
}
