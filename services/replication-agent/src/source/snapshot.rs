//! The frozen instant that a cycle reads, and the plan that fits what its change tracking can tell.
//!
//! ```text
//!   plan ─▶ instant still open, or of a group's round and new? ── yes ─▶ go on with it
//!             │ no
//!             ▼
//!   open with the plan's bitmap ─▶ changes known where the plan needs them? ── yes ─▶ read
//!             ▲                                            │ no: that tracking is inconsistent
//!             └────────────── plan again ◀─────────────────┘
//! ```

use std::{collections::BTreeMap, time::Instant};

use understudy_hypervisor::{self as hypervisor, Hypervisor, Quiesce, Snapshot, SnapshotRequest};
use understudy_ids::{DiskName, Generation, ItemName, MachineName, UnixMicros};
use understudy_replication::{
    Joint,
    cycle::{self, CheckpointName, CyclePlan, SourceFacts, TargetFacts, Tracking},
};

use super::error::CycleError;

/// An open snapshot and what it was opened for.
pub struct Frozen {
    pub snapshot: Box<dyn Snapshot>,
    /// What the target will know the instant by.
    pub checkpoint: CheckpointName,
    /// The checkpoint since which its changes are told.
    pub base: Option<CheckpointName>,
    /// When the instant is that of a consistency group.
    pub joint: Option<Joint>,
    pub opened: Instant,
}

impl Frozen {
    /// The source's instant, as the point will show it: the same for all items of a group.
    pub fn instant(&self) -> UnixMicros {
        self.joint.as_ref().map_or_else(|| self.snapshot.instant(), |joint| joint.instant)
    }

    pub async fn close(self) {
        if let Err(error) = self.snapshot.close().await {
            // The next one that is opened closes it first.
            tracing::warn!(%error, "a snapshot could not be closed");
        }
    }
}

/// Plans that may be thrown away because the tracking turned out worse than it seemed: one per disk and one for luck.
const ATTEMPTS: usize = 4;

/// Who asks, and for which machine.
pub struct Opener<'a> {
    pub hypervisor: &'a dyn Hypervisor,
    pub item: &'a ItemName,
    pub generation: Generation,
    pub machine: &'a MachineName,
    /// What a snapshot that is opened asks of the guest.
    pub quiesce: Option<Quiesce>,
}

impl Opener<'_> {
    /// The checkpoints of ours that the machine knows, all of them taken for usable until a snapshot says otherwise.
    pub async fn checkpoints(
        &self,
        disks: &BTreeMap<DiskName, u64>,
    ) -> Result<BTreeMap<CheckpointName, BTreeMap<DiskName, Tracking>>, CycleError> {
        let known = self.hypervisor.checkpoints(self.machine).await?;
        let usable: BTreeMap<DiskName, Tracking> =
            disks.keys().map(|d| (d.clone(), Tracking::Usable)).collect();
        let ours = known.into_iter().filter(|name| name.0.starts_with("understudy-"));
        Ok(ours.map(|name| (CheckpointName::new(name.0), usable.clone())).collect())
    }

    /// Deletes checkpoints that nothing needs any more. Failing to is no reason not to replicate. Tells whether they are gone.
    pub async fn forget(&self, obsolete: &[CheckpointName]) -> bool {
        if obsolete.is_empty() {
            return true;
        }
        let names = obsolete.iter().map(|n| hypervisor::CheckpointName(n.as_str().to_owned())).collect();
        if let Err(error) = self.hypervisor.delete_checkpoints(self.machine, &names).await {
            tracing::warn!(item = %self.item, %error, "obsolete checkpoints could not be deleted");
            return false;
        }
        true
    }

    /// Opens what the plan needs, planning again when it cannot be had. `held` is the instant that is open still.
    pub async fn open(
        &self,
        target: &TargetFacts,
        source: &mut SourceFacts,
        mut held: Option<Frozen>,
    ) -> Result<(CyclePlan, Frozen), CycleError> {
        for _ in 0..ATTEMPTS {
            source.open = held.as_ref().map(|h| h.checkpoint.clone());
            let plan = cycle::plan(target, source);
            if let Some(frozen) = held.take() {
                let fits = bitmaps(&plan).all(|b| Some(b) == frozen.base.as_ref());
                if matches!(plan.instant, cycle::Instant::Open(_)) && fits {
                    return Ok((plan, frozen));
                }
                // One of a group's round was opened by somebody else, with what the target had then.
                if frozen.joint.is_some() && fits && !mark_unknown(source, &plan, &frozen) {
                    return Ok((plan, frozen));
                }
                frozen.close().await;
                continue;
            }
            let base = bitmaps(&plan).next().cloned();
            match self.open_new(source, &plan, base.clone()).await {
                Ok(frozen) => {
                    if mark_unknown(source, &plan, &frozen) {
                        // What is open may serve the new plan too: it asks for fewer bitmaps.
                        let again = cycle::plan(target, source);
                        if bitmaps(&again).all(|b| Some(b) == frozen.base.as_ref()) {
                            return Ok((again, frozen));
                        }
                        frozen.close().await;
                        continue;
                    }
                    return Ok((plan, frozen));
                }
                Err(hypervisor::Error::Tracking { why, .. }) if base.is_some() => {
                    tracing::warn!(item = %self.item, %why, "change tracking is not usable");
                    if let Some(disks) = base.and_then(|b| source.checkpoints.get_mut(&b)) {
                        disks.values_mut().for_each(|t| *t = Tracking::Inconsistent);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(CycleError::Protocol("no plan fits the machine's change tracking".to_owned()))
    }

    async fn open_new(
        &self,
        source: &SourceFacts,
        plan: &CyclePlan,
        base: Option<CheckpointName>,
    ) -> Result<Frozen, hypervisor::Error> {
        let checkpoint = self.fresh_name(source, plan);
        let request = SnapshotRequest {
            machine: self.machine.clone(),
            disks: source.disks.keys().cloned().collect(),
            checkpoint: hypervisor::CheckpointName(checkpoint.as_str().to_owned()),
            base: base.as_ref().map(|b| hypervisor::CheckpointName(b.as_str().to_owned())),
            quiesce: self.quiesce,
        };
        let snapshot = self.hypervisor.open_snapshot(&request).await?;
        // Without a checkpoint of its own the point stays known by the base: what is shipped next is the union since then.
        let checkpoint = match &base {
            Some(base) if !snapshot.checkpoint_made() => base.clone(),
            _ => checkpoint,
        };
        Ok(Frozen { snapshot, checkpoint, base, joint: None, opened: Instant::now() })
    }

    /// `understudy-<item>-<generation>-<seq>`, with a number behind it while an interrupted transfer of that point
    /// is known by the name itself.
    fn fresh_name(&self, source: &SourceFacts, plan: &CyclePlan) -> CheckpointName {
        let name = format!("understudy-{}-{}-{}", self.item, self.generation, plan.seq);
        let taken = |name: &CheckpointName| source.checkpoints.contains_key(name);
        let later = (2u32..).map(|n| CheckpointName::new(format!("{name}-{n}")));
        std::iter::once(CheckpointName::new(&*name))
            .chain(later)
            .find(|n| !taken(n))
            .unwrap_or(CheckpointName::new(name))
    }
}

fn bitmaps(plan: &CyclePlan) -> impl Iterator<Item = &CheckpointName> {
    plan.disks.iter().filter_map(|d| d.bitmap())
}

/// Notes the disks whose changes the plan needs and the snapshot does not know. Whether there are any.
fn mark_unknown(source: &mut SourceFacts, plan: &CyclePlan, frozen: &Frozen) -> bool {
    let mut any = false;
    for disk in &plan.disks {
        let known = frozen.snapshot.disks().iter().any(|d| d.name == disk.disk && d.changes_known);
        let Some(bitmap) = disk.bitmap().filter(|_| !known) else { continue };
        if let Some(tracking) = source.checkpoints.get_mut(bitmap).and_then(|d| d.get_mut(&disk.disk)) {
            *tracking = Tracking::Inconsistent;
            any = true;
        }
    }
    any
}
