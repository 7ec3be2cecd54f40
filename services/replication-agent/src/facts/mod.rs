//! What this agent tells about its host: gathered once, told to everyone who watches.
//!
//! ```text
//!   hypervisor (every second) ─┐
//!   ledger, sources, sink ─────┼─▶ gather ─▶ changed, or five seconds old? ─▶ watchers
//!   store (when points changed)┘
//! ```
//! A hypervisor that does not answer makes machines *unknown*, never *off* and never *gone* (invariant 16).

mod convert;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, timeout},
};
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use understudy_hypervisor::{HostInventory, Hypervisor};
use understudy_ids::{HostName, ItemName, NetworkName, UnixMicros};
use understudy_replication_api::{Facts, FactsSource, ItemFacts, ItemRole, PowerState, ScrubFacts};
use understudy_rpc::ApiError;

use crate::{
    activation::Activation,
    keyring::Keyring,
    ledger::{ItemRecord, Ledger, Role},
    replica::Replica,
    scrub::Scrubber,
    sink::Sink,
    source::Sources,
};

/// The hypervisor is asked this often.
const REFRESH: Duration = Duration::from_secs(1);
/// Facts are told this often also when nothing has changed.
const REPEAT: Duration = Duration::from_secs(5);
/// The hypervisor's time to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Gathers and tells.
#[derive(Clone)]
pub struct FactsHub {
    inner: Arc<Inner>,
}

struct Inner {
    host: HostName,
    hypervisor: Arc<dyn Hypervisor>,
    replica: Replica,
    ledger: Ledger,
    sources: Sources,
    sink: Sink,
    scrubber: Scrubber,
    keyring: Keyring,
    activation: Activation,
    shutdown: CancellationToken,
    told: watch::Sender<Option<Arc<Facts>>>,
    /// Raised by tasks that changed something that nobody else announces.
    nudge: watch::Sender<u64>,
}

/// Where the facts of a host come from.
pub struct Origins {
    pub host: HostName,
    pub hypervisor: Arc<dyn Hypervisor>,
    pub replica: Replica,
    pub ledger: Ledger,
    pub sources: Sources,
    pub sink: Sink,
    pub scrubber: Scrubber,
    pub keyring: Keyring,
    pub activation: Activation,
}

impl FactsHub {
    pub fn new(origins: Origins, shutdown: CancellationToken) -> Self {
        let Origins { host, hypervisor, replica, ledger, sources, sink, scrubber, keyring, activation } =
            origins;
        let (told, nudge) = (watch::Sender::new(None), watch::Sender::new(0));
        Self {
            inner: Arc::new(Inner {
                host,
                hypervisor,
                replica,
                ledger,
                sources,
                sink,
                scrubber,
                keyring,
                activation,
                shutdown,
                told,
                nudge,
            }),
        }
    }

    /// Something has changed that tasks do: machines, networks, points.
    pub fn nudge(&self) {
        self.inner.nudge.send_modify(|n| *n += 1);
    }

    /// Gathers until the agent shuts down.
    pub async fn run(&self) {
        let inner = &self.inner;
        let mut gathering = Gathering::default();
        let mut changes = [
            inner.nudge.subscribe(),
            inner.ledger.changes(),
            inner.sources.changes(),
            inner.sink.changes(),
            inner.scrubber.changes(),
            inner.keyring.changes(),
            inner.activation.changes(),
        ];
        let mut tick = tokio::time::interval(REFRESH);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = Instant::now();
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = inner.shutdown.cancelled() => return,
            }
            // Points are read again when anything may have changed them, and with every repetition.
            let due = last.elapsed() >= REPEAT;
            let mut stale = due;
            for change in &mut changes {
                stale |= change.has_changed().unwrap_or(false);
                change.mark_unchanged();
            }
            let facts = inner.gather(&mut gathering, stale).await;
            inner.measure(&facts);
            if due || !inner.told.borrow().as_ref().is_some_and(|told| same(told, &facts)) {
                last = Instant::now();
                inner.told.send_replace(Some(Arc::new(facts)));
            }
        }
    }
}

/// Equal but for the time.
fn same(a: &Facts, b: &Facts) -> bool {
    let b = Facts { time: a.time, ..b.clone() };
    *a == b
}

/// What is kept from one round to the next.
#[derive(Default)]
struct Gathering {
    inventory: Option<HostInventory>,
    answered: bool,
    test_networks: Vec<NetworkName>,
    replicas: BTreeMap<ItemName, ReplicaFacts>,
    free: u64,
}

/// What the store knows of one item.
#[derive(Clone, Default)]
struct ReplicaFacts {
    points: Vec<convert::Point>,
    scrub: ScrubFacts,
}

impl Inner {
    async fn gather(&self, kept: &mut Gathering, stale: bool) -> Facts {
        self.ask_hypervisor(kept).await;
        if stale || kept.free == 0 {
            self.ask_store(kept).await;
            self.sources.count_ages();
        }
        let mut machines: Vec<_> =
            kept.inventory.iter().flat_map(|i| i.machines.iter().map(convert::machine)).collect();
        if !kept.answered {
            machines.iter_mut().for_each(|m| m.power = PowerState::Unknown);
        }
        let inventory = kept.inventory.as_ref();
        Facts {
            host: self.host.clone(),
            time: now(),
            hypervisor: inventory.map(|i| i.hypervisor.clone()).unwrap_or_default(),
            cpus: inventory.map_or(0, |i| i.cpus),
            memory_bytes: inventory.map_or(0, |i| i.memory_bytes),
            store_free_bytes: kept.free,
            machines,
            networks: inventory.map(|i| i.networks.clone()).unwrap_or_default(),
            items: self.ledger.all().into_iter().map(|record| self.item(record, &kept.replicas)).collect(),
            test_networks: kept.test_networks.clone(),
            boot_id: self.ledger.boot_id().to_owned(),
        }
    }

    async fn ask_hypervisor(&self, kept: &mut Gathering) {
        let asked = timeout(PATIENCE, async {
            let inventory = self.hypervisor.inventory().await?;
            Ok::<_, understudy_hypervisor::Error>((inventory, self.hypervisor.test_networks().await?))
        });
        let problem = match asked.await {
            Ok(Ok((inventory, networks))) => {
                kept.inventory = Some(inventory);
                kept.test_networks = networks;
                kept.answered = true;
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {PATIENCE:?}"),
        };
        if kept.answered || kept.inventory.is_none() {
            tracing::warn!(problem, "the hypervisor does not tell what the host has");
        }
        kept.answered = false;
    }

    async fn ask_store(&self, kept: &mut Gathering) {
        let items: Vec<ItemName> = self.ledger.all().into_iter().map(|r| r.item).collect();
        let read = self.replica.call(move |store| {
            let mut replicas = BTreeMap::new();
            for item in items {
                let points = store.points(&item)?.into_iter().map(convert::point).collect();
                let scrub = convert::scrub(&store.scrubs(&item));
                replicas.insert(item, ReplicaFacts { points, scrub });
            }
            Ok((replicas, store.space()?.available))
        });
        match read.await {
            Ok((replicas, free)) => (kept.replicas, kept.free) = (replicas, free),
            Err(error) => tracing::warn!(%error, "the replica store cannot be read"),
        }
    }

    fn item(&self, record: ItemRecord, replicas: &BTreeMap<ItemName, ReplicaFacts>) -> ItemFacts {
        let replica = replicas.get(&record.item).cloned().unwrap_or_default();
        let role = match record.role {
            Role::Source => ItemRole::Source,
            Role::Target => ItemRole::Target,
            Role::Fenced => ItemRole::Fenced,
        };
        ItemFacts {
            generation: record.generation,
            role,
            replication: self.sources.status(&record.item),
            points: replica.points.iter().map(|p| p.told(&record.item, &self.keyring)).collect(),
            scrub: replica.scrub,
            retention: (record.role == Role::Target).then_some(record.retention),
            lease: self.activation.facts(&record.item),
            item: record.item,
        }
    }

    /// R-REP-9, for dashboards.
    fn measure(&self, facts: &Facts) {
        for item in &facts.items {
            let Some(replication) = &item.replication else { continue };
            let name = item.item.to_string();
            let gauge = |metric: &'static str, value: f64| {
                metrics::gauge!(metric, "item" => name.clone()).set(value);
            };
            if let Some(last) = replication.last_instant {
                let age = if replication.covered { Duration::ZERO } else { facts.time.since(last) };
                gauge("understudy_replication_rpo_seconds", age.as_secs_f64());
            }
            if let Some(backlog) = replication.backlog_bytes {
                gauge("understudy_replication_backlog_bytes", backlog as f64);
            }
            let throughput = replication.throughput_bytes_per_second as f64;
            gauge("understudy_replication_throughput_bytes_per_second", throughput);
            gauge("understudy_replication_failures_in_a_row", f64::from(replication.failures));
            for (window, ages) in [("hour", replication.last_hour), ("day", replication.last_day)] {
                let Some(ages) = ages else { continue };
                let quantiles =
                    [("0.5", ages.p50), ("0.95", ages.p95), ("0.99", ages.p99), ("1", ages.worst)];
                for (quantile, age) in quantiles {
                    let labels =
                        [("item", name.clone()), ("window", window.into()), ("quantile", quantile.into())];
                    metrics::gauge!("understudy_replication_rpo_quantile_seconds", &labels)
                        .set(age.as_secs_f64());
                }
            }
        }
    }
}

fn now() -> UnixMicros {
    SystemTime::now().into()
}

#[async_trait]
impl FactsSource for FactsHub {
    async fn facts(&self) -> Result<Facts, ApiError> {
        let mut told = self.inner.told.subscribe();
        let first = told.wait_for(Option::is_some).await;
        let facts = first.ok().and_then(|facts| facts.as_deref().cloned());
        facts.ok_or_else(|| {
            ApiError::unavailable("SHUTTING_DOWN", "the agent shuts down", "ask again when it is back")
        })
    }

    fn watch(&self) -> BoxStream<'static, Facts> {
        let told = WatchStream::new(self.inner.told.subscribe());
        let ended = self.inner.shutdown.clone().cancelled_owned();
        told.filter_map(async |facts| facts.map(|f| Facts::clone(&f))).take_until(ended).boxed()
    }
}
