//! Recovery points and bases: verified, promoted, adopted, committed.

use std::collections::BTreeMap;

use understudy_hypervisor::{Machine, MachineDefinition, MachineTag, PowerState, TagRole};
use understudy_ids::{DiskName, Generation, MachineName, NetworkName, PointSeq};
use understudy_jobs_api::TaskContext;
use understudy_replica_store::{
    Adopt, AdoptDisk, DiskFile, DiskFormat, Manifest, PointKind, Store, StoreError, qcow2::Source,
};
use understudy_replication::{BLOCK_SIZE, BlockDigest, DigestTree, extents::block_range};
use understudy_replication_api::{AgentTaskResult, DiskRoot};

use super::{
    Result, Scope, TaskError, Tasks, no_machine, not_ours, now,
    replication::percent,
    sealed::{chains, overlay_headers},
    stopped,
};
use crate::descriptor::MachineDescriptor;

/// Progress of a long read is told once per so many blocks.
const TELL_EVERY: u64 = 1024;

impl Tasks {
    /// Digest roots of a point, read from its files and not from what was noted about them.
    pub(super) async fn verify_point(&self, scope: &Scope, seq: PointSeq, context: &TaskContext) -> Result {
        let (item, context) = (scope.item.clone(), context.clone());
        let roots = self.replica.call(move |store| {
            let disks = store.point(&item, seq)?.manifest.disks;
            let total: u64 = disks.iter().map(|d| d.size).sum();
            let mut before = 0;
            let mut roots = Vec::with_capacity(disks.len());
            for disk in disks {
                let told = |read| {
                    context.progress(percent(before + read, total), format!("verifying disk {}", disk.name))
                };
                let root = read_root(store, &item, seq, &disk.name, told)?;
                before += disk.size;
                roots.push(DiskRoot { disk: disk.name, root });
            }
            Ok(roots)
        });
        Ok(AgentTaskResult::DiskDigests(roots.await?))
    }

    /// The item's points, or one, are read again and compared with their digests; damage is noted, told in the facts, and the end
    /// of a task that finds some (R-REP-5).
    pub(super) async fn scrub_item(
        &self,
        scope: &Scope,
        seq: Option<PointSeq>,
        context: &TaskContext,
    ) -> Result {
        let told = |step: understudy_replica_store::Scrubbed| {
            let text = format!("{} blocks compared", step.checked_blocks);
            context.progress(percent(step.checked_bytes, step.total_bytes), text);
        };
        let done =
            self.scrubber.scrub(&scope.item, seq, context.stopped(), told).await?.ok_or_else(stopped)?;
        if done.damaged_points.is_empty() {
            return Ok(AgentTaskResult::Done);
        }
        let points: Vec<String> = done.damaged_points.iter().map(ToString::to_string).collect();
        let message =
            format!("recovery points {} of {} are damaged on this host", points.join(", "), scope.item);
        let remedy = "Leave replication on: its next cycle ships what is damaged and mends what the guest has not changed \
                      since. Look at the host's disks.";
        Err(TaskError::failed("POINT_DAMAGED", message, remedy))
    }

    /// The machine is defined at this generation from the point, and off (R-FO-4, R-FO-6).
    pub(super) async fn promote_point(
        &self,
        scope: &Scope,
        seq: PointSeq,
        nics: Vec<Option<NetworkName>>,
    ) -> Result {
        let manifest = self.manifest(scope, Some(seq)).await?;
        let descriptor = descriptor(&manifest)?;
        check_nics(&descriptor, &nics)?;
        let tag =
            MachineTag { item: scope.item.clone(), generation: scope.generation, role: TagRole::Active };
        let present = self.machine(&descriptor.name).await?;
        if let Some(machine) = &present {
            if machine.tag.as_ref().is_none_or(|t| t.item != scope.item) {
                return Err(not_ours(machine, &scope.item));
            }
            if machine.power != PowerState::ShutOff {
                return self.promoted_and_running(scope, machine, &tag, &manifest).await;
            }
        }
        let key = self.key_of(scope, &manifest)?;
        let headers = overlay_headers(&manifest, key.as_ref())?;
        self.drop_other_promotion(scope, seq, present.as_ref()).await?;
        let (item, generation) = (scope.item.clone(), scope.generation);
        let promoted = move |store: &Store| store.promote_sealed(&item, seq, generation, &headers);
        let files = self.replica.call(promoted).await?;
        let encrypted = chains(&files, key.as_ref())?;
        self.hypervisor
            .define(&MachineDefinition {
                name: descriptor.name.clone(),
                uuid: descriptor.uuid,
                hardware: descriptor.hardware,
                disk_files: by_disk(files),
                encrypted,
                nic_networks: nics,
                tag,
            })
            .await?;
        if let Some(key) = key {
            self.hypervisor.unlock(&descriptor.name, &key).await?;
        }
        let replicated: Vec<DiskName> = manifest.disks.iter().map(|d| d.name.clone()).collect();
        self.ledger.update(&scope.item, move |r| r.disks = replicated).await?;
        self.ledger.confirm(&scope.item, scope.generation).await?;
        Ok(AgentTaskResult::MachineCreated { machine: descriptor.name, seq, instant: manifest.instant })
    }

    /// The step is done again after the machine was started. Anything else that runs is in the way.
    async fn promoted_and_running(
        &self,
        scope: &Scope,
        machine: &Machine,
        tag: &MachineTag,
        manifest: &Manifest,
    ) -> Result {
        let (item, generation) = (scope.item.clone(), scope.generation);
        let active = self.replica.call(move |store| store.active(&item, generation)).await?;
        if machine.tag.as_ref() == Some(tag) && active.is_some_and(|(from, _)| from == manifest.seq) {
            let (seq, instant) = (manifest.seq, manifest.instant);
            return Ok(AgentTaskResult::MachineCreated { machine: machine.name.clone(), seq, instant });
        }
        let message = format!("machine {} runs on this host and is not this promotion", machine.name);
        Err(TaskError::failed("MACHINE_RUNS", message, "Shut it down first."))
    }

    /// Another point was chosen before the failover was committed. What ran before lies aside by then; a promotion that is still
    /// in the way never ran to anybody's knowledge, or was given up. What lies aside of the chosen point is taken back as it is.
    async fn drop_other_promotion(
        &self,
        scope: &Scope,
        seq: PointSeq,
        present: Option<&Machine>,
    ) -> Result<()> {
        let (item, generation) = (scope.item.clone(), scope.generation);
        let active = self.replica.call(move |store| store.active(&item, generation)).await?;
        if active.as_ref().is_some_and(|(from, _)| *from == seq) {
            return Ok(());
        }
        if let Some(machine) = present.filter(|_| active.is_some()) {
            self.hypervisor.undefine(&machine.name).await?;
        }
        let item = scope.item.clone();
        self.replica
            .call(move |store| {
                if !store.take_back(&item, seq, generation)? && active.is_some() {
                    store.drop_active(&item, generation)?;
                }
                Ok(())
            })
            .await?;
        Ok(())
    }

    /// What the machine made from `seq` wrote lies aside, and the machine is not defined.
    pub(super) async fn set_aside(&self, scope: &Scope, name: &MachineName, seq: PointSeq) -> Result {
        let (item, generation) = (scope.item.clone(), scope.generation);
        let active = self.replica.call(move |store| store.active(&item, generation)).await?;
        // Otherwise it has been done, and a machine that is there by now was made from another point.
        if active.is_some_and(|(from, _)| from == seq) {
            self.undefine(scope, name, generation).await?;
        }
        let item = scope.item.clone();
        self.replica.call(move |store| store.set_aside(&item, seq, generation)).await?;
        Ok(AgentTaskResult::Done)
    }

    pub(super) async fn drop_aside(&self, scope: &Scope) -> Result {
        let (item, generation) = (scope.item.clone(), scope.generation);
        self.replica.call(move |store| store.drop_aside(&item, generation)).await?;
        Ok(AgentTaskResult::Done)
    }

    /// The machine of that generation is not defined here, and what it wrote is gone (R-FO-4).
    pub(super) async fn discard_promotion(
        &self,
        scope: &Scope,
        name: &MachineName,
        generation: Generation,
    ) -> Result {
        self.undefine(scope, name, generation).await?;
        let item = scope.item.clone();
        self.replica
            .call(move |store| {
                store.drop_active(&item, generation)?;
                store.drop_aside(&item, generation)
            })
            .await?;
        Ok(AgentTaskResult::Done)
    }

    /// A machine that runs, or that is not the item's of that generation, is left as it is.
    async fn undefine(&self, scope: &Scope, name: &MachineName, generation: Generation) -> Result<()> {
        let Some(machine) = self.machine(name).await? else { return Ok(()) };
        let expected = MachineTag { item: scope.item.clone(), generation, role: TagRole::Active };
        if machine.tag.as_ref() != Some(&expected) {
            return Err(not_ours(&machine, &scope.item));
        }
        if machine.power != PowerState::ShutOff {
            let message = format!("it is not known that machine {name} is off on this host");
            return Err(TaskError::failed("MACHINE_RUNS", message, "Shut it down first."));
        }
        Ok(self.hypervisor.undefine(name).await?)
    }

    /// The disks of the machine that was active here are the base that reverse replication compares with (R-REP-7); the
    /// machine is not defined any more.
    pub(super) async fn adopt_disks(&self, scope: &Scope, name: &MachineName, seq: PointSeq) -> Result {
        let Some(machine) = self.machine(name).await? else {
            return self.adopted_before(scope, name, seq).await;
        };
        if machine.tag.as_ref().is_some_and(|t| t.item != scope.item || t.role != TagRole::Active) {
            return Err(not_ours(&machine, &scope.item));
        }
        match machine.power {
            PowerState::ShutOff => {}
            PowerState::Unknown => {
                let message = format!("the hypervisor does not say whether {name} runs");
                return Err(TaskError::retry("POWER_UNKNOWN", message, "Look at the hypervisor."));
            }
            PowerState::Running | PowerState::Paused => {
                let message = format!("machine {name} runs; its disks cannot be adopted");
                return Err(TaskError::failed(
                    "MACHINE_RUNS",
                    message,
                    "Fence this side with powering off first.",
                ));
            }
        }
        let replicated = self.record(scope)?.disks;
        let adopt = adoption(scope, &machine, &replicated, seq)?;
        let manifest = self.replica.call(move |store| store.adopt(&adopt)).await?;
        self.hypervisor.undefine(name).await?;
        Ok(adopted(&manifest))
    }

    async fn adopted_before(&self, scope: &Scope, name: &MachineName, seq: PointSeq) -> Result {
        let item = scope.item.clone();
        match self.replica.call(move |store| store.point(&item, seq)).await {
            Ok(point) if point.manifest.kind == PointKind::Base => Ok(adopted(&point.manifest)),
            Ok(_) | Err(StoreError::NoPoint { .. }) => Err(no_machine(name)),
            Err(error) => Err(error.into()),
        }
    }

    /// Recovery points other than the one that the machine runs from are gone (R-FO-4).
    pub(super) async fn commit_item(&self, scope: &Scope) -> Result {
        let (item, generation) = (scope.item.clone(), scope.generation);
        self.replica.call(move |store| store.commit(&item, generation)).await?;
        Ok(AgentTaskResult::Done)
    }

    /// A point that may be failed over to or tested; `None` is the latest.
    pub(super) async fn manifest(&self, scope: &Scope, seq: Option<PointSeq>) -> Result<Manifest> {
        let item = scope.item.clone();
        let found = self.replica.call(move |store| match seq {
            Some(seq) => store.point(&item, seq).map(Some),
            None => store.latest(&item),
        });
        let found = found.await?.ok_or_else(|| {
            let message = format!("{} has no recovery point on this host", scope.item);
            TaskError::failed("NO_POINT", message, "Wait for the initial replication to end.")
        })?;
        Ok(found.manifest)
    }
}

/// Reads all of a point's disk through its files.
fn read_root(
    store: &Store,
    item: &understudy_ids::ItemName,
    seq: PointSeq,
    disk: &DiskName,
    told: impl Fn(u64),
) -> std::result::Result<BlockDigest, StoreError> {
    let mut chain = store.open_disk(item, seq, disk)?;
    let mut tree = DigestTree::new(chain.size());
    let mut content = vec![0; BLOCK_SIZE as usize];
    for block in 0..tree.blocks() {
        if let Source::Data { .. } = chain.source(block)? {
            let range = block_range(block, tree.size());
            let part = &mut content[..range.len() as usize];
            chain.read(range.start, part)?;
            tree.set(block, BlockDigest::of(part));
        }
        if block % TELL_EVERY == 0 {
            told(block * BLOCK_SIZE);
        }
    }
    Ok(tree.root())
}

/// The machine that travelled with a point.
pub(super) fn descriptor(manifest: &Manifest) -> Result<MachineDescriptor> {
    serde_json::from_value(manifest.machine.clone()).map_err(|error| {
        let message = format!("the machine of point {} cannot be read: {error}", manifest.seq);
        TaskError::failed(
            "BAD_MACHINE",
            message,
            "Choose another point, or replicate anew with this version.",
        )
    })
}

pub(super) fn check_nics(descriptor: &MachineDescriptor, nics: &[Option<NetworkName>]) -> Result<()> {
    let has = descriptor.hardware.nics.len();
    if nics.len() == has {
        return Ok(());
    }
    let message = format!("machine {} has {has} NICs, {} networks were given", descriptor.name, nics.len());
    Err(TaskError::failed(
        "WRONG_NICS",
        message,
        "Make the run anew: the machine has changed since it was planned.",
    ))
}

pub(super) fn by_disk(files: Vec<DiskFile>) -> BTreeMap<DiskName, std::path::PathBuf> {
    files.into_iter().map(|file| (file.disk, file.path)).collect()
}

fn adopted(manifest: &Manifest) -> AgentTaskResult {
    let bytes_read = manifest.disks.iter().map(|d| d.changed_bytes).sum();
    AgentTaskResult::Adopted { seq: manifest.seq, bytes_read }
}

fn adoption(scope: &Scope, machine: &Machine, replicated: &[DiskName], seq: PointSeq) -> Result<Adopt> {
    let mut disks = Vec::new();
    for disk in &machine.hardware.disks {
        if !replicated.is_empty() && !replicated.contains(&disk.name) {
            continue;
        }
        let Some(path) = disk.file.clone() else { continue };
        let format = match disk.format.as_str() {
            "qcow2" => DiskFormat::Qcow2,
            "raw" => DiskFormat::Raw,
            other => {
                let message = format!("disk {} of {} is {other:?}", disk.name, machine.name);
                return Err(TaskError::failed(
                    "WRONG_FORMAT",
                    message,
                    "Copy in full instead of adopting the disks.",
                ));
            }
        };
        disks.push(AdoptDisk { name: disk.name.clone(), path, format });
    }
    let names: Vec<DiskName> = disks.iter().map(|d| d.name.clone()).collect();
    let described = serde_json::to_value(MachineDescriptor::of(machine, &names));
    let described = described.map_err(|e| {
        TaskError::failed("BAD_MACHINE", format!("the machine cannot be written down: {e}"), "Report this.")
    })?;
    let (item, generation) = (scope.item.clone(), scope.generation);
    Ok(Adopt { item, generation, seq, disks, machine: described, now: now() })
}
