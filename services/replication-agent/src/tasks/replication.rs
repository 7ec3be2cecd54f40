//! The sending side: assigned, ended, last delta, digests of the disks.

use understudy_hypervisor::{CheckpointName, Machine, MachineTag, TagRole};
use understudy_ids::{DiskName, MachineName};
use understudy_jobs_api::TaskContext;
use understudy_replica_store::StoreError;
use understudy_replication::change::Change;
use understudy_replication_api::{AgentTaskResult, StartReplication};

use super::{Result, Scope, TaskError, Tasks, no_machine, not_ours, stopped, unreadable};
use crate::{
    ledger::{Assignment, Role, Stream, Terms},
    source::{CycleError, measure},
};

impl Tasks {
    /// The machine is replicated as asked until told otherwise.
    pub(super) async fn start_replication(&self, scope: &Scope, asked: StartReplication) -> Result {
        let StartReplication {
            machine: name,
            disks,
            peer_host,
            peer_endpoint,
            interval,
            settings,
            policy,
            paused,
            rpo_objective,
            revision,
            group,
        } = asked;
        let machine = self.machine(&name).await?.ok_or_else(|| no_machine(&name))?;
        let has =
            |disk: &DiskName| machine.hardware.disks.iter().any(|d| d.name == *disk && d.file.is_some());
        if let Some(missing) = disks.iter().find(|d| !has(d)) {
            let message = format!("machine {name} has no disk {missing} that is a file");
            return Err(TaskError::failed("NO_DISK", message, "Exclude the disk, or move it to a file."));
        }
        self.same_machine(scope, &machine)?;
        let tag =
            MachineTag { item: scope.item.clone(), generation: scope.generation, role: TagRole::Active };
        match &machine.tag {
            Some(present) if present.item != scope.item || present.role != TagRole::Active => {
                return Err(not_ours(&machine, &scope.item));
            }
            Some(present) if *present == tag => {}
            _ => self.hypervisor.set_tag(&name, Some(&tag)).await?,
        }
        let uuid = Some(machine.uuid);
        let assignment = Assignment {
            stream: Stream { machine: name, uuid, disks, peer_host, peer_endpoint },
            terms: Terms { interval, settings, policy, paused, rpo_objective, revision, group },
        };
        let written = assignment.clone();
        self.ledger
            .update(&scope.item, move |r| {
                r.disks.clone_from(&written.stream.disks);
                r.assignment = Some(written);
            })
            .await?;
        self.ledger.confirm(&scope.item, scope.generation).await?;
        self.begin(scope, assignment).await?;
        Ok(AgentTaskResult::Done)
    }

    /// Asked again for an item that is replicated from here already, as corrections do, another machine that has taken the name
    /// is not accepted in passing (R-REP-8).
    fn same_machine(&self, scope: &Scope, machine: &Machine) -> Result<()> {
        let assigned = self.ledger.get(&scope.item).and_then(|record| record.assignment).map(|a| a.stream);
        let assigned = assigned.filter(|assigned| assigned.machine == machine.name).and_then(|s| s.uuid);
        let Some(protected) = assigned.filter(|uuid| *uuid != machine.uuid) else { return Ok(()) };
        let replaced =
            Change::MachineReplaced { machine: machine.name.clone(), protected, found: machine.uuid };
        Err(TaskError::failed(replaced.code(), replaced.to_string(), replaced.remedy()))
    }

    async fn begin(&self, scope: &Scope, assignment: Assignment) -> Result<()> {
        self.sources.start(&scope.item, scope.generation, assignment).await.map_err(|error| {
            let remedy = "Correct the peer's endpoint or this agent's certificates.";
            TaskError::failed("BAD_PEER", error.to_string(), remedy)
        })
    }

    /// Nothing is sent any more; with `forget`, nothing on the machine reminds of it either.
    pub(super) async fn stop_replication(&self, scope: &Scope, forget: bool) -> Result {
        self.sources.stop(&scope.item).await;
        let Some(record) = self.ledger.get(&scope.item) else { return Ok(AgentTaskResult::Done) };
        if forget {
            self.forget_machine(scope).await?;
        }
        if forget && record.role == Role::Source {
            let item = scope.item.clone();
            match self.replica.call(move |store| store.remove_item(&item)).await {
                // The machine was promoted here and runs from the store's files.
                Ok(()) | Err(StoreError::Pinned { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            self.activation.release(&scope.item).map_err(unreadable)?;
            self.ledger.remove(&scope.item).await?;
            self.sources.forget(&scope.item);
            self.sources.forget_keys(&scope.item).await;
        } else {
            self.ledger.update(&scope.item, |r| r.assignment = None).await?;
        }
        Ok(AgentTaskResult::Done)
    }

    async fn forget_machine(&self, scope: &Scope) -> Result<()> {
        let inventory = self.hypervisor.inventory().await.map_err(TaskError::of_question)?;
        let active = |t: &MachineTag| t.item == scope.item && t.role == TagRole::Active;
        for machine in inventory.machines.iter().filter(|m| m.tag.as_ref().is_some_and(active)) {
            let known = self.hypervisor.checkpoints(&machine.name).await.map_err(TaskError::of_question)?;
            let ours = known.into_iter().filter(|c| c.0.starts_with("understudy-")).collect();
            self.hypervisor.delete_checkpoints(&machine.name, &ours).await?;
            self.hypervisor.set_tag(&machine.name, None).await?;
        }
        Ok(())
    }

    /// A point that holds everything the machine wrote is at the target (R-PF-2).
    pub(super) async fn sync_final(
        &self,
        scope: &Scope,
        name: &MachineName,
        context: &TaskContext,
    ) -> Result {
        let assignment =
            self.record(scope)?.assignment.filter(|a| a.stream.machine == *name).ok_or_else(|| {
                let message = format!("{} is not replicated from machine {name} on this host", scope.item);
                TaskError::failed("NOT_REPLICATED", message, "Start replication first.")
            })?;
        self.begin(scope, assignment).await?;
        let source = self.sources.get(&scope.item).ok_or_else(stopped)?;
        let mut status = source.watch();
        let delta = source.final_delta(context.stopped());
        let mut delta = std::pin::pin!(delta);
        let shipped = loop {
            tokio::select! {
                shipped = &mut delta => break shipped?,
                Ok(()) = status.changed() => {
                    let (sent, total) = { let s = status.borrow_and_update(); (s.sent_bytes, s.total_bytes) };
                    context.progress(percent(sent, total), format!("last delta: {sent} of {total} bytes"));
                }
            }
        };
        let (seq, instant, sent_bytes) = (shipped.seq, shipped.instant, shipped.sent_bytes);
        Ok(AgentTaskResult::FinalPoint { seq, instant, sent_bytes })
    }

    /// Digest roots of the machine's disks, read from the disks themselves.
    pub(super) async fn digest_disks(
        &self,
        scope: &Scope,
        name: MachineName,
        context: &TaskContext,
    ) -> Result {
        let machine = self.machine(&name).await?.ok_or_else(|| no_machine(&name))?;
        let replicated = self.ledger.get(&scope.item).map(|r| r.disks).unwrap_or_default();
        let wanted = |d: &understudy_hypervisor::DiskHardware| {
            d.file.is_some() && (replicated.is_empty() || replicated.contains(&d.name))
        };
        let disks: Vec<DiskName> =
            machine.hardware.disks.iter().filter(|d| wanted(d)).map(|d| d.name.clone()).collect();
        let assignment = self.ledger.get(&scope.item).and_then(|r| r.assignment);
        let encrypt_for = assignment.map(|a| a.terms.settings.encrypt_for).unwrap_or_default();
        let sealing = self.sources.sealing(&scope.item, &encrypt_for, disks.clone()).await;
        let sealing = sealing.map_err(CycleError::from)?;
        // One snapshot per machine at a time.
        let _quiet = self.sources.quiesce(&scope.item).await;
        let checkpoint = CheckpointName(format!("understudy-{}-{}-digest", scope.item, scope.generation));
        let told =
            |read, total| context.progress(percent(read, total), format!("digested {read} of {total} bytes"));
        let roots =
            measure::roots(self.hypervisor.as_ref(), &name, disks, sealing.as_deref(), checkpoint, told);
        tokio::select! {
            roots = roots => Ok(AgentTaskResult::DiskDigests(roots?)),
            () = context.stopped().cancelled() => Err(stopped()),
        }
    }
}

/// `part` of `whole`, in percent; nothing of nothing is all of it.
pub(super) fn percent(part: u64, whole: u64) -> u32 {
    part.saturating_mul(100)
        .checked_div(whole)
        .map_or(100, |percent| u32::try_from(percent).unwrap_or(100).min(100))
}
