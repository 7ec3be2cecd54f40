//! One agent: its parts, put together, from start to end.
//!
//! ```text
//!   ledger, store, hypervisor ─▶ sources (assignments taken up) ─▶ servers: control (facts), bulk (sink) ─▶ worker
//!   shutdown: no more tasks and calls ─▶ cycles broken off, snapshots closed ─▶ end, all within the grace
//! ```

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;
use understudy_hypervisor::{
    Hypervisor, files::FilesHypervisor, libvirt::LibvirtHypervisor, simulated::SimulatedHypervisor,
};
use understudy_jobs_api::{Queue, Worker};
use understudy_replica_store::Store;
use understudy_replication_api::{
    FILE_DESCRIPTOR_SET, activation_service, facts_service, key_service, method, sink_service,
};
use understudy_rpc::{
    AccessRule, ClientConfig, ExpectedPeer, PeerKind, Profile, Server, ServerConfig, ServiceKind, connect,
};

use crate::{
    activation::Activation,
    config::{Config, HypervisorConfig},
    facts::{FactsHub, Origins},
    keyring::Keyring,
    ledger::Ledger,
    medium::Media,
    replica::Replica,
    scripts::Scripts,
    scrub::Scrubber,
    sink::Sink,
    source::{self, Keys, Sources},
    tasks::{Locks, Tasks},
};

/// Who may call the control port. Operators look at facts when they look into a host.
pub const CONTROL_RULES: &[AccessRule] = &[
    AccessRule::new(method::GET_FACTS, &[PeerKind::Orchestrator, PeerKind::User]),
    AccessRule::new(method::WATCH_FACTS, &[PeerKind::Orchestrator, PeerKind::User]),
];

/// Who may let machines run on: the control plane alone.
pub const ACTIVATION_RULES: &[AccessRule] = &[
    AccessRule::new(method::GET_PULSE, &[PeerKind::Orchestrator]),
    AccessRule::new(method::RENEW_LEASES, &[PeerKind::Orchestrator]),
];

/// Who may lend keys: people. The control plane has no part in it.
pub const KEY_RULES: &[AccessRule] = &[
    AccessRule::new(method::GET_SEAL, &[PeerKind::User]),
    AccessRule::new(method::UNLOCK, &[PeerKind::User]),
    AccessRule::new(method::LOCK, &[PeerKind::User]),
];

/// Who may call the bulk port. Which agent may send which item is the sink's to judge.
pub const BULK_RULES: &[AccessRule] = &[
    AccessRule::new(method::NEGOTIATE, &[PeerKind::Agent]),
    AccessRule::new(method::PUSH_POINT, &[PeerKind::Agent]),
    AccessRule::new(method::READ_DIGESTS, &[PeerKind::Agent]),
];

/// An agent that has its ports and is not serving yet.
pub struct Agent {
    config: Config,
    tasks: Tasks,
    facts: FactsHub,
    hypervisor: Arc<dyn Hypervisor>,
    sources: Sources,
    ledger: Ledger,
    scrubber: Scrubber,
    activation: Activation,
    control: Server,
    bulk: Server,
    shutdown: CancellationToken,
}

impl Agent {
    /// Opens what the configuration names. Nothing is replicated, served or leased yet.
    pub async fn open(
        config: Config,
        hypervisor: Arc<dyn Hypervisor>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<Self> {
        let host = config.host_name()?;
        let boot_id = config
            .boot_id()
            .with_context(|| format!("the boot id in {} cannot be read", config.boot_id_file.display()))?;
        let ledger = Ledger::open(&config.state_dir, boot_id)?;
        let store_dir = config.store_dir.clone();
        let store = tokio::task::spawn_blocking(move || Store::open(&store_dir)).await??;
        let replica = Replica::new(store);
        let keys = Keys::new(&config.state_dir);
        let sink = Sink::new(ledger.clone(), replica.clone());
        let scrubber = Scrubber::new(replica.clone(), sink.clone(), config.scrub);
        let sources =
            Sources::new(hypervisor.clone(), ledger.clone(), keys, config.tls.clone(), config.cycles);
        let keyring = Keyring::new(replica.clone(), hypervisor.clone());
        let activation = Activation::new(ledger.clone(), hypervisor.clone());
        let origins = Origins {
            host,
            hypervisor: hypervisor.clone(),
            replica: replica.clone(),
            ledger: ledger.clone(),
            sources: sources.clone(),
            sink: sink.clone(),
            scrubber: scrubber.clone(),
            keyring: keyring.clone(),
            activation: activation.clone(),
        };
        let facts = FactsHub::new(origins, shutdown.clone());
        let control = Server::bind(ServerConfig::new(config.control_listen, config.tls.clone()))
            .await?
            .add_service(facts_service(Arc::new(facts.clone())), CONTROL_RULES)
            .add_service(activation_service(Arc::new(activation.clone())), ACTIVATION_RULES)
            .add_service(key_service(Arc::new(keyring.clone())), KEY_RULES)
            .descriptors(FILE_DESCRIPTOR_SET);
        let bulk = ServerConfig {
            profile: Profile::Bulk,
            ..ServerConfig::new(config.bulk_listen, config.tls.clone())
        };
        let bulk = Server::bind(bulk)
            .await?
            .add_service(sink_service(Arc::new(sink.clone())), BULK_RULES)
            .descriptors(FILE_DESCRIPTOR_SET);
        let tasks = Tasks {
            hypervisor: hypervisor.clone(),
            replica,
            ledger: ledger.clone(),
            sources: sources.clone(),
            facts: facts.clone(),
            sink: sink.clone(),
            scrubber: scrubber.clone(),
            keyring,
            media: Media::new(config.seed_dir.clone()),
            scripts: Scripts::new(config.scripts.clone()),
            locks: Locks::default(),
            activation: activation.clone(),
        };
        Ok(Self {
            config,
            tasks,
            facts,
            hypervisor,
            sources,
            ledger,
            scrubber,
            activation,
            control,
            bulk,
            shutdown,
        })
    }

    /// Serves `/metrics` of the process on the control port.
    #[must_use]
    pub fn metrics(mut self, render: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.control = self.control.metrics(render);
        self
    }

    /// The actions, for whoever performs tasks without a job-tracker.
    pub fn tasks(&self) -> Tasks {
        self.tasks.clone()
    }

    pub fn facts(&self) -> FactsHub {
        self.facts.clone()
    }

    /// `https://address:port` of the bulk port.
    pub fn bulk_endpoint(&self) -> String {
        format!("https://{}", self.bulk.local_addr())
    }

    /// `https://address:port` of the control port.
    pub fn control_endpoint(&self) -> String {
        format!("https://{}", self.control.local_addr())
    }

    /// Runs until the shutdown that was given to [`Self::open`].
    pub async fn run(self) -> anyhow::Result<()> {
        let Self {
            config,
            tasks,
            facts,
            hypervisor,
            sources,
            ledger,
            scrubber,
            activation,
            control,
            bulk,
            shutdown,
        } = self;
        let tracker = ClientConfig::new(
            &config.job_tracker,
            config.tls.clone(),
            ExpectedPeer::Service(ServiceKind::JobTracker),
            understudy_jobs_api::FILE_DESCRIPTOR_SET,
        );
        let worker = Worker::new(connect(tracker)?);
        let queue = Queue::Host(config.host_name()?);
        let freeing = tokio::spawn(free_left_guests(hypervisor));
        source::resume(&sources, &ledger).await;
        let gathering = tokio::spawn({
            let facts = facts.clone();
            async move { facts.run().await }
        });
        let working = worker.run(queue, config.slots, Arc::new(tasks), shutdown.clone());
        let ending = async {
            shutdown.cancelled().await;
            let grace = Duration::from_secs(config.shutdown_grace_s);
            if tokio::time::timeout(grace, sources.shut_down()).await.is_err() {
                tracing::warn!(
                    ?grace,
                    "cycles did not end in time; what they left open is closed at the next start"
                );
            }
        };
        let (control, bulk, (), (), (), ()) = tokio::join!(
            last(control.serve(shutdown.clone()), &shutdown),
            last(bulk.serve(shutdown.clone()), &shutdown),
            working,
            scrubber.run(shutdown.clone()),
            activation.run(&config.hypervisor, shutdown.clone()),
            ending
        );
        gathering.await?;
        freeing.abort();
        control?;
        bulk?;
        Ok(())
    }
}

/// R-REP-3, R-REP-12: at once and beside everything else, as the guests wait for it. One that cannot be let go now is tried again before
/// it is frozen or held the next time, and its guard goes on in the meantime.
async fn free_left_guests(hypervisor: Arc<dyn Hypervisor>) {
    let (resumed, thawed) = tokio::join!(hypervisor.resume_left_held(), hypervisor.thaw_left_frozen());
    if let Err(error) = resumed {
        tracing::error!(%error, "a guest may still be held");
    }
    if let Err(error) = thawed {
        tracing::error!(%error, "a guest may still be frozen");
    }
}

/// A server ends when it is told to, or because it cannot go on; then the rest ends with it.
async fn last<T>(server: impl Future<Output = T>, shutdown: &CancellationToken) -> T {
    let ended = server.await;
    shutdown.cancel();
    ended
}

/// The driver that the configuration names.
pub fn hypervisor(config: &HypervisorConfig) -> anyhow::Result<Arc<dyn Hypervisor>> {
    match config {
        HypervisorConfig::Libvirt(libvirt) => Ok(Arc::new(LibvirtHypervisor::new(libvirt.clone()))),
        HypervisorConfig::Simulated(simulated) => Ok(Arc::new(SimulatedHypervisor::open(simulated.clone())?)),
        HypervisorConfig::Files(files) => Ok(Arc::new(FilesHypervisor::new(files.clone()))),
    }
}

#[cfg(test)]
mod tests {
    use understudy_rpc::access::methods_without_rule;

    use super::*;

    /// R-OPS-1: no method is reachable without a rule.
    #[test]
    fn every_method_has_a_rule() {
        let rules: Vec<AccessRule> = [CONTROL_RULES, ACTIVATION_RULES, KEY_RULES, BULK_RULES].concat();
        let services = ["FactsService", "ActivationService", "KeyService", "SinkService"]
            .map(|s| format!("understudy.replication.v1.{s}"));
        let services: Vec<&str> = services.iter().map(String::as_str).collect();
        let gaps = methods_without_rule(FILE_DESCRIPTOR_SET, &services, &rules).unwrap();
        assert_eq!(gaps, Vec::<String>::new());
    }
}
