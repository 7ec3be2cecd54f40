//! Doing what tasks ask for: one place decides whether a task may act, one file per group acts.
//!
//! ```text
//!   leased task ─▶ read ─▶ item's lock ─▶ generation, role (ledger, fsync) ─▶ action ─▶ result, or failed · unknown · retry
//!                                            │ lower: STALE_GENERATION
//!                                            └ side changed: the item's replication loop is ended first
//! ```
//! Promise: an action says what must be true; done again, or after a kill at any point, it comes to the same end
//! (invariant 3). Nothing acts below a generation that was seen (invariant 4).

mod machine;
mod outcome;
mod place;
mod point;
mod rehearsal;
mod replication;
mod script;
mod sealed;
mod seed;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use async_trait::async_trait;
use tokio::sync::OwnedMutexGuard;
use understudy_hypervisor::{Hypervisor, Machine, TagRole};
use understudy_ids::{Generation, ItemName, MachineName, RunId, UnixMicros};
use understudy_jobs_api::{Handler, LeasedTask, Outcome, TaskContext};
use understudy_replica_store as store;
use understudy_replication_api::{Action, AgentTask, AgentTaskResult};

use crate::{
    activation::Activation,
    facts::FactsHub,
    keyring::Keyring,
    ledger::{ItemRecord, Ledger, LedgerError, Role, Verb},
    medium::Media,
    replica::Replica,
    scripts::Scripts,
    scrub::Scrubber,
    sink::Sink,
    source::Sources,
};
pub use outcome::TaskError;
use outcome::outcome;

/// What the actions act on.
#[derive(Clone)]
pub struct Tasks {
    pub hypervisor: Arc<dyn Hypervisor>,
    pub replica: Replica,
    pub ledger: Ledger,
    pub sources: Sources,
    pub facts: FactsHub,
    pub sink: Sink,
    pub scrubber: Scrubber,
    pub keyring: Keyring,
    pub media: Media,
    pub scripts: Scripts,
    pub locks: Locks,
    pub activation: Activation,
}

/// One for each item, so that its tasks come one after the other.
pub type Locks = Arc<Mutex<HashMap<ItemName, Arc<tokio::sync::Mutex<()>>>>>;

/// On whose behalf an action acts.
#[derive(Debug, Clone)]
struct Scope {
    item: ItemName,
    generation: Generation,
    run: RunId,
}

type Result<T = AgentTaskResult> = std::result::Result<T, TaskError>;

#[async_trait]
impl Handler for Tasks {
    async fn handle(&self, leased: LeasedTask, context: TaskContext) -> Outcome {
        let task = match AgentTask::from_any(&leased.payload) {
            Ok(task) => task,
            Err(error) => {
                let remedy = "Run the same version of orchestrator and agent.";
                let error =
                    TaskError::failed("BAD_TASK", format!("the task is not understood: {error}"), remedy);
                return outcome(Err(error), &leased.key);
            }
        };
        let subject = match &task.action {
            Action::RunScript(asked) => format!("scripts/{}", asked.script),
            _ => format!("protectedItems/{}", task.item),
        };
        let action = task.action.name();
        tracing::info!(item = %task.item, generation = %task.generation, action, "task begins");
        let result = self.perform(task, &context).await;
        match &result {
            Ok(_) => tracing::info!(action, "task done"),
            Err(error) => tracing::warn!(action, ?error, "task not done"),
        }
        self.facts.nudge();
        outcome(result, &subject)
    }
}

impl Tasks {
    /// Does one task.
    pub async fn perform(&self, task: AgentTask, context: &TaskContext) -> Result {
        let AgentTask { item, generation, run, action } = task;
        let scope = Scope { item, generation, run };
        // Probes and scrubs change nothing and last long, so they keep nobody waiting.
        if let Action::ProbeMachine { machine, at, probe } = action {
            return self.probe_machine(machine, at, probe, context).await;
        }
        if let Action::TakeScreenshot { machine } = action {
            return Ok(self.take_screenshot(&machine).await);
        }
        if let Action::ScrubItem { seq } = action {
            return self.scrub_item(&scope, seq, context).await;
        }
        // A script acts for its run, not for the item in whose name it comes: the item's place is neither asked nor changed.
        if let Action::RunScript(asked) = action {
            return self.run_script(&scope, asked, context).await;
        }
        if let Action::StartInBoot { boot_id, .. } = &action
            && boot_id != self.ledger.boot_id()
        {
            let message =
                "the host was started anew since this was asked for; the other side may have taken over";
            return Err(TaskError::failed(
                "OTHER_BOOT",
                message,
                "It is asked for again if it is still wanted.",
            ));
        }
        let _lock = tokio::select! {
            lock = self.lock(&scope.item) => lock,
            () = context.stopped().cancelled() => return Err(stopped()),
        };
        if let Some(verb) = self.verb(&action).await? {
            self.admit(&scope, verb).await?;
        }
        self.act(&scope, action, context).await
    }

    async fn act(&self, scope: &Scope, action: Action, context: &TaskContext) -> Result {
        match action {
            Action::PrepareReplica { disks, retention } => {
                self.prepare_replica(scope, disks, retention).await
            }
            Action::RemoveReplica => self.remove_replica(scope).await,
            Action::ExportSeed { machine, disks, seed } => {
                self.export_seed(scope, machine, disks, &seed, context).await
            }
            Action::ImportSeed { disks, seed } => self.import_seed(scope, disks, &seed, context).await,
            Action::RemoveSeed { seed } => self.remove_seed(scope, &seed).await,
            Action::StartReplication(asked) => self.start_replication(scope, asked).await,
            Action::StopReplication { forget } => self.stop_replication(scope, forget).await,
            Action::SyncFinal { machine } => self.sync_final(scope, &machine, context).await,
            Action::DigestDisks { machine } => self.digest_disks(scope, machine, context).await,
            Action::Fence { power_off } => self.fence(scope, power_off).await,
            Action::ShutDownMachine { machine, grace, then_power_off } => {
                self.shut_down_machine(scope, &machine, grace, then_power_off).await
            }
            Action::StartMachine { machine } | Action::StartInBoot { machine, .. } => {
                self.start_machine(scope, &machine).await
            }
            Action::ProbeMachine { machine, at, probe } => {
                self.probe_machine(machine, at, probe, context).await
            }
            Action::TakeScreenshot { machine } => Ok(self.take_screenshot(&machine).await),
            Action::VerifyPoint { seq } => self.verify_point(scope, seq, context).await,
            Action::PromotePoint { seq, nics } => self.promote_point(scope, seq, nics).await,
            Action::PromoteTest { run, test_machine, grace, seq, nics } => {
                self.take_over_test(scope, run, &test_machine, grace, seq).await?;
                self.promote_point(scope, seq, nics).await
            }
            Action::AdoptDisks { machine, seq } => self.adopt_disks(scope, &machine, seq).await,
            Action::SetAside { machine, seq } => self.set_aside(scope, &machine, seq).await,
            Action::DropAside => self.drop_aside(scope).await,
            Action::DiscardPromotion { machine, generation } => {
                self.discard_promotion(scope, &machine, generation).await
            }
            Action::CommitItem => self.commit_item(scope).await,
            Action::ScrubItem { seq } => self.scrub_item(scope, seq, context).await,
            Action::CreateTestMachine { seq, name, nics } => {
                self.create_test_machine(scope, seq, name, nics).await
            }
            Action::RemoveTestMachine { machine } => self.remove_test_machine(scope, &machine).await,
            Action::EnsureTestNetwork { name, gateway, prefix_len, reservations } => {
                self.ensure_test_network(scope, name, gateway, prefix_len, reservations).await
            }
            Action::ProbeIsolation { network, targets } => self.probe_isolation(&network, &targets).await,
            Action::RemoveTestNetwork { name } => self.remove_test_network(&name).await,
            Action::ProbeExistingNetwork(asked) => self.probe_existing_network(scope, asked).await,
            Action::RemoveProbePort { network } => self.remove_probe_port(scope, &network).await,
            Action::RunScript(asked) => self.run_script(scope, asked, context).await,
        }
    }

    /// What an action makes of this side. `None`: it may be done at any generation, because it only reads, or takes away what a run made
    /// and touches nothing else; a failover in between must not leave it behind.
    async fn verb(&self, action: &Action) -> Result<Option<Verb>> {
        Ok(Some(match action {
            Action::RemoveTestMachine { .. }
            | Action::RemoveTestNetwork { .. }
            | Action::RemoveProbePort { .. }
            | Action::ExportSeed { .. }
            | Action::RemoveSeed { .. } => return Ok(None),
            Action::PrepareReplica { .. } | Action::ImportSeed { .. } | Action::AdoptDisks { .. } => {
                Verb::Receive
            }
            Action::StartReplication(_) | Action::PromotePoint { .. } | Action::PromoteTest { .. } => {
                Verb::Activate
            }
            Action::Fence { .. } => Verb::Fence,
            Action::StartMachine { machine } | Action::StartInBoot { machine, .. } => {
                let is_test = |m: Machine| m.tag.is_some_and(|t| t.role != TagRole::Active);
                if self.machine(machine).await?.is_some_and(is_test) { Verb::Keep } else { Verb::Activate }
            }
            _ => Verb::Keep,
        }))
    }

    /// Writes down what the task makes of this side, here and in the store, and ends a loop that belongs to what was before.
    async fn admit(&self, scope: &Scope, verb: Verb) -> Result<()> {
        let before = self.ledger.get(&scope.item);
        let admitted = self.ledger.admit(&scope.item, scope.generation, verb).await?;
        let Some(now) = admitted else { return Ok(()) };
        let place = |r: &ItemRecord| (r.generation, r.role);
        if before.as_ref().map(place) != Some(place(&now)) {
            tracing::info!(item = %now.item, generation = %now.generation, role = ?now.role, "place");
            self.sources.stop(&scope.item).await;
        }
        if now.role != Role::Source {
            self.sources.forget_keys(&scope.item).await;
        }
        let role = if now.role == Role::Source { store::Role::Active } else { store::Role::Standby };
        let (item, generation) = (now.item, now.generation);
        self.replica.call(move |store| store.record_generation(&item, generation, role)).await?;
        Ok(())
    }

    async fn lock(&self, item: &ItemName) -> OwnedMutexGuard<()> {
        let lock = {
            // The map is whole at every moment, so a panic elsewhere does not spoil it.
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            locks.entry(item.clone()).or_default().clone()
        };
        lock.lock_owned().await
    }

    async fn machine(&self, name: &MachineName) -> Result<Option<Machine>> {
        self.hypervisor.machine(name).await.map_err(TaskError::of_question)
    }

    /// The record of an item that the task's own admission made or found.
    fn record(&self, scope: &Scope) -> Result<ItemRecord> {
        self.ledger.get(&scope.item).ok_or_else(|| LedgerError::Unknown(scope.item.clone()).into())
    }
}

fn now() -> UnixMicros {
    SystemTime::now().into()
}

fn no_machine(name: &MachineName) -> TaskError {
    let remedy = "Look at what the host has; the machine may have been removed by hand.";
    TaskError::failed("NO_MACHINE", format!("machine {name} does not exist on this host"), remedy)
}

fn not_ours(machine: &Machine, item: &ItemName) -> TaskError {
    let message = format!("machine {} does not belong to {item}", machine.name);
    TaskError::failed("NOT_OURS", message, "Rename the machine that is in the way, or remove it.")
}

fn unreadable(error: std::io::Error) -> TaskError {
    let message = format!("the activation leases of this host cannot be read or written: {error}");
    TaskError::failed("LEASES_UNREADABLE", message, "Repair the agent's state directory.")
}

fn stopped() -> TaskError {
    TaskError::retry(
        "STOPPED",
        "the task was told to stop before it was done",
        "It is tried again unless it was cancelled.",
    )
}
