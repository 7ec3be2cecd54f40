//! One replication cycle, from asking the target what it has to its receipt.
//!
//! ```text
//!   negotiate ─▶ delete obsolete checkpoints ─▶ plan, open snapshot ─▶ survey ─▶ (target's digests) ─▶ ship ─▶ receipt
//!                                                      │                                             │
//!                                                      │   link broken: the snapshot stays open ◀────┤
//!                                                      │   anything else: closed, checkpoints kept ◀─┘
//! ```
//! Promise: a checkpoint is deleted only when the target has said that nothing there refers to it, so a cycle that fails
//! anywhere loses no change (R-REP-6).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use understudy_hypervisor::{self as hypervisor, DiskHardware, Machine, PowerState, SnapshotDisk};
use understudy_ids::{DiskName, PointSeq, UnixMicros};
use understudy_replication::{
    DigestTree,
    admission::Class,
    change::{Change, Effect, Present, Protected, changes},
    cycle::{
        self, CheckpointName, CycleKind, CyclePlan, Partial, PartialDisk, PartialUse, SourceFacts,
        TargetFacts, TargetHas,
    },
};
use understudy_replication_api::{
    ReplicationFacts, ReplicationState,
    sink::{Begin, Negotiate, Negotiated, ReadDigests, SinkDisk},
};
use understudy_sealing::LuksHeader;

use super::{
    Source, State,
    error::CycleError,
    meter::Meter,
    pace::Pacer,
    progress::{Progress, Step},
    seal::Sealing,
    ship::{DiskWork, ship},
    snapshot::{Frozen, Opener},
    untouched::Untouched,
    work::{survey, to_read},
};
use crate::descriptor::MachineDescriptor;

/// An instant is held over a broken link for so many intervals, or this long if that is more: while it is open the
/// hypervisor keeps what the guest overwrites.
const HOLD_INTERVALS: u32 = 10;
const HOLD: Duration = Duration::from_secs(60);

/// What the cycle is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Its interval has passed, and its turn has come: one for a delta, or one in which everything may be read.
    Interval(Class),
    /// The machine is off, and this is everything it wrote (R-PF-2).
    Final,
}

/// A point that the target has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shipped {
    pub seq: PointSeq,
    pub instant: UnixMicros,
    /// Payload on the wire.
    pub sent_bytes: u64,
    pub kind: String,
    /// Whether the instant is that of its group.
    pub is_joint: bool,
}

impl Source {
    /// Runs one cycle. `Ok(None)`: there is nothing to do, the machine is off and all it wrote is at the target.
    pub(super) async fn cycle(
        &self,
        state: &mut State,
        purpose: Purpose,
        stop: &CancellationToken,
    ) -> Result<Option<Shipped>, CycleError> {
        let machine = self.machine().await?;
        if machine.power == PowerState::Unknown {
            let what = format!("whether machine {} runs", machine.name);
            return Err(hypervisor::Error::Unknown { what, why: "it does not say".to_owned() }.into());
        }
        let off = machine.power == PowerState::ShutOff;
        state.handed_over &= off;
        match purpose {
            Purpose::Final if !off => return Err(CycleError::NotOff(machine.name)),
            // The instant that is held is from before the machine was off.
            Purpose::Final => state.release().await,
            Purpose::Interval(_) => {
                let untouched = Untouched::of(&machine).await.filter(|_| off);
                let covered = untouched.is_some() && untouched == state.covered_off;
                // An instant of its group is shipped also when nothing has changed: the others' points are of no use together without it.
                if covered && state.held.is_none() && !self.is_damaged_at_target(&machine).await {
                    return Ok(None);
                }
            }
        }
        state.covered_off = None;
        let shipped = tokio::select! {
            shipped = self.cycle_of(state, &machine, purpose) => shipped?,
            () = stop.cancelled() => {
                state.release().await;
                return Err(CycleError::Stopped);
            }
        };
        if off {
            // Started meanwhile, it may have written after the instant.
            let now = self.machine().await?;
            let still_off = now.power == PowerState::ShutOff;
            if !still_off && purpose == Purpose::Final {
                return Err(CycleError::NotOff(machine.name));
            }
            state.covered_off = Untouched::of(&now).await.filter(|_| still_off);
        }
        Ok(Some(shipped))
    }

    pub(super) async fn machine(&self) -> Result<Machine, CycleError> {
        let found = self.hypervisor.machine(&self.stream.machine).await?;
        let present = found.as_ref().map(present);
        self.check(present.as_ref(), &BTreeMap::new())?;
        found.ok_or_else(|| {
            CycleError::Protocol("a machine that is not there passed for unchanged".to_owned())
        })
    }

    /// Whether the target has lost something of the latest point (R-REP-5). A target that does not answer has not said so.
    async fn is_damaged_at_target(&self, machine: &Machine) -> bool {
        let disks = self.sizes(machine).iter().map(|(name, size)| sink_disk(name, *size, None)).collect();
        let asked = Negotiate { item: self.item.clone(), generation: self.generation, disks };
        let answer = self.client.negotiate(asked).await;
        answer.is_ok_and(|told| told.latest.is_none_or(|latest| !latest.damaged.is_empty()))
    }

    /// Stops what only a person can decide (R-REP-8); what is handled is told.
    fn check(
        &self,
        present: Option<&Present>,
        replicated: &BTreeMap<DiskName, u64>,
    ) -> Result<(), CycleError> {
        let protected = Protected {
            machine: self.stream.machine.clone(),
            uuid: self.stream.uuid,
            disks: self.stream.disks.clone(),
        };
        let (stopping, handled): (Vec<Change>, Vec<Change>) = changes(&protected, present, replicated)
            .into_iter()
            .partition(|change| change.effect() == Effect::Stop);
        for change in handled {
            tracing::info!(item = %self.item, code = change.code(), %change, "the machine has changed");
        }
        if stopping.is_empty() { Ok(()) } else { Err(CycleError::Changed(stopping)) }
    }

    async fn cycle_of(
        &self,
        state: &mut State,
        machine: &Machine,
        purpose: Purpose,
    ) -> Result<Shipped, CycleError> {
        let held = self.held();
        let sizes = self.sizes(machine);
        let disks = self.stream.disks.clone();
        let sealing = self.keys.sealing(&self.item, &held.terms.settings.encrypt_for, disks).await?;
        let sealing = sealing.as_deref();
        let target = self.negotiate(&sizes, sealing).await.inspect_err(|_| self.expire(state))?;
        self.check(Some(&present(machine)), target.has.disks())?;
        state.drop_expired().await;
        state.base = target.has.checkpoint().cloned();
        let quiesce = self.quiesce(state);
        let opener = Opener {
            hypervisor: self.hypervisor.as_ref(),
            item: &self.item,
            generation: self.generation,
            machine: &self.stream.machine,
            quiesce,
        };
        let mut source = SourceFacts {
            checkpoints: opener.checkpoints(&sizes).await?,
            disks: sizes,
            open: None,
            highest_seq: None,
        };
        if state.held.is_none() {
            let obsolete = cycle::obsolete(&target, source.checkpoints.keys(), None);
            if opener.forget(&obsolete).await {
                source.checkpoints.retain(|name, _| !obsolete.contains(name));
            }
        }
        // As far as it can be foreseen, before the guest is frozen for nothing.
        source.open = state.held.as_ref().map(|held| held.checkpoint.clone());
        fits(&cycle::plan(&target, &source), purpose)?;
        let is_fresh = state.held.is_none();
        let (plan, frozen) = opener.open(&target, &mut source, state.held.take()).await?;
        if is_fresh && quiesce.is_some() {
            self.asked_to_rest(state, frozen.snapshot.guest());
        }
        self.begin_status(&plan);
        // Held while it is read, so that a stop in the middle closes it.
        state.held = Some(frozen);
        if let Err(error) = fits(&plan, purpose) {
            state.release().await;
            return Err(error);
        }
        let Some(frozen) = state.held.as_ref() else { return Err(CycleError::Stopped) };
        // While the last delta is sent the machine is off and people wait; it is not held back.
        let pacer = (purpose != Purpose::Final).then(|| Pacer(self.terms.subscribe()));
        let sent = self.send(&plan, frozen, machine, sealing, (pacer.as_ref(), &held.meter)).await;
        match sent {
            Ok(sent_bytes) => {
                let (instant, is_joint) = (frozen.instant(), frozen.joint.is_some());
                let (checkpoint, guest) = (frozen.checkpoint.clone(), frozen.snapshot.guest().clone());
                state.release().await;
                self.rested(state, &guest);
                state.base = Some(checkpoint.clone());
                self.after(&opener, &source, &plan, checkpoint).await;
                let kind = describe(&plan);
                Ok(Shipped { seq: plan.seq, instant, sent_bytes, kind, is_joint })
            }
            Err(error) => {
                if error.is_of_the_link() {
                    self.expire(state);
                    state.drop_expired().await;
                } else {
                    state.release().await;
                }
                Err(error)
            }
        }
    }

    /// What only older points knew is not needed any more, now that the target has this one.
    async fn after(
        &self,
        opener: &Opener<'_>,
        source: &SourceFacts,
        plan: &CyclePlan,
        checkpoint: CheckpointName,
    ) {
        let has = TargetHas::Point { seq: plan.seq, checkpoint, disks: source.disks.clone() };
        let target = TargetFacts::of(has);
        opener.forget(&cycle::obsolete(&target, source.checkpoints.keys(), None)).await;
    }

    /// Of the disks that are to be replicated; all of them are there, or the machine would have been refused.
    pub(super) fn sizes(&self, machine: &Machine) -> BTreeMap<DiskName, u64> {
        let disks = machine.hardware.disks.iter().filter(|d| self.stream.disks.contains(&d.name));
        disks.map(|d| (d.name.clone(), d.size_bytes)).collect()
    }

    async fn negotiate(
        &self,
        sizes: &BTreeMap<DiskName, u64>,
        sealing: Option<&Sealing>,
    ) -> Result<TargetFacts, CycleError> {
        let disks = sizes.iter().map(|(name, size)| sink_disk(name, *size, sealing)).collect();
        let asked = Negotiate { item: self.item.clone(), generation: self.generation, disks };
        let answer = self.client.negotiate(asked).await.map_err(CycleError::from_peer)?;
        Ok(target_facts(answer, sealing))
    }

    async fn send(
        &self,
        plan: &CyclePlan,
        frozen: &Frozen,
        machine: &Machine,
        sealing: Option<&Sealing>,
        (pacer, meter): (Option<&Pacer>, &Arc<Meter>),
    ) -> Result<u64, CycleError> {
        let mut disks = Vec::with_capacity(plan.disks.len());
        let mut reads = Vec::with_capacity(plan.disks.len());
        for wanted in &plan.disks {
            let disk = frozen.snapshot.disks().iter().find(|d| d.name == wanted.disk);
            let disk = disk.ok_or_else(|| CycleError::Outdated(wanted.disk.clone()))?;
            check_size(disk, wanted.size)?;
            let known = survey(disk).await?;
            let work = wanted.work(&known.changed);
            let target = match plan.parent {
                Some(parent) if !work.compare.is_empty() => {
                    Some(Arc::new(self.digests(parent, wanted).await?))
                }
                _ => None,
            };
            reads.push(to_read(&work, &known.zero));
            let cipher = sealing.and_then(|sealing| sealing.cipher(&wanted.disk));
            disks.push(DiskWork { reader: disk.reader.clone(), work, zero: known.zero, target, cipher });
        }
        let begin = self.begin(plan, frozen, machine, sealing)?;
        let progress = Mutex::new(Progress::new(&reads, Instant::now()));
        let told = |step: Step| {
            let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
            progress.take(step, Instant::now());
            self.status.send_modify(|s| show(s, &progress));
        };
        self.status.send_modify(|s| show(s, &progress.lock().unwrap_or_else(PoisonError::into_inner)));
        let (receipt, sent) = ship(&self.client, begin, disks, pacer, meter, told).await?;
        if receipt.seq != plan.seq {
            return Err(CycleError::Protocol(format!(
                "the receipt is for point {}, not {}",
                receipt.seq, plan.seq
            )));
        }
        metrics::counter!("understudy_replication_sent_bytes_total", "item" => self.item.to_string())
            .increment(sent);
        Ok(sent)
    }

    fn begin(
        &self,
        plan: &CyclePlan,
        frozen: &Frozen,
        machine: &Machine,
        sealing: Option<&Sealing>,
    ) -> Result<Begin, CycleError> {
        let descriptor = MachineDescriptor::of(machine, &self.stream.disks);
        let machine_json = serde_json::to_string(&descriptor)
            .map_err(|e| CycleError::Protocol(format!("the machine: {e}")))?;
        Ok(Begin {
            item: self.item.clone(),
            generation: self.generation,
            seq: plan.seq,
            parent: plan.parent,
            checkpoint: frozen.checkpoint.as_str().to_owned(),
            instant: frozen.instant(),
            disks: plan.disks.iter().map(|d| sink_disk(&d.disk, d.size, sealing)).collect(),
            resume: plan.partial == PartialUse::Continue,
            machine_json,
            consistency: frozen.snapshot.guest().consistency(),
            frozen: frozen.snapshot.guest().frozen(),
            joint: frozen.joint.clone(),
            wrapped_key: sealing.map(|sealing| sealing.wrapped.clone()),
        })
    }

    /// The digests that the target keeps of a disk (R-REP-7): nothing is read there.
    async fn digests(&self, seq: PointSeq, disk: &cycle::DiskPlan) -> Result<DigestTree, CycleError> {
        let asked = ReadDigests {
            item: self.item.clone(),
            generation: self.generation,
            seq,
            disk: disk.disk.clone(),
        };
        let mut tree = DigestTree::new(disk.size);
        let mut runs = self.client.read_digests(asked).await.map_err(CycleError::from_peer)?;
        while let Some(run) = runs.next().await {
            let run = run.map_err(CycleError::from_peer)?;
            for (block, digest) in (run.first_block..).zip(run.digests) {
                if block < tree.blocks() {
                    tree.set(block, digest);
                }
            }
        }
        Ok(tree)
    }

    /// Notes when an instant has been held for long enough.
    fn expire(&self, state: &mut State) {
        let longest = HOLD.max(self.held().terms.interval.saturating_mul(HOLD_INTERVALS));
        state.expired = state.held.as_ref().is_some_and(|held| held.opened.elapsed() > longest);
    }

    fn begin_status(&self, plan: &CyclePlan) {
        let state = match plan.kind {
            CycleKind::Full | CycleKind::ResumeFull => ReplicationState::Initial,
            CycleKind::Incremental { .. } => ReplicationState::Steady,
            CycleKind::DigestCompare { .. } => ReplicationState::Resync,
        };
        tracing::debug!(item = %self.item, seq = %plan.seq, kind = ?plan.kind, reason = %plan.reason, "cycle");
        self.status.send_modify(|s| (s.state, s.sent_bytes, s.total_bytes) = (state, 0, 0));
    }
}

/// A cycle that reads everything waits for a turn of its own kind.
fn fits(plan: &CyclePlan, purpose: Purpose) -> Result<(), CycleError> {
    let reads_all = !matches!(plan.kind, CycleKind::Incremental { .. });
    if reads_all && purpose == Purpose::Interval(Class::Delta) {
        return Err(CycleError::NeedsFullCopy);
    }
    Ok(())
}

/// What is left of the cycle is what is known to be missing at the target.
fn show(status: &mut ReplicationFacts, progress: &Progress) {
    status.sent_bytes = progress.done();
    status.total_bytes = progress.total();
    status.backlog_bytes = Some(status.total_bytes.saturating_sub(status.sent_bytes));
    status.throughput_bytes_per_second = progress.bytes_per_second(Instant::now());
}

fn check_size(disk: &SnapshotDisk, planned: u64) -> Result<(), CycleError> {
    if disk.size == planned {
        return Ok(());
    }
    Err(CycleError::Outdated(disk.name.clone()))
}

/// What of a machine may change under protection.
fn present(machine: &Machine) -> Present {
    let size = |disk: &DiskHardware| disk.file.is_some().then_some(disk.size_bytes);
    Present {
        uuid: machine.uuid,
        disks: machine.hardware.disks.iter().map(|d| (d.name.clone(), size(d))).collect(),
    }
}

fn sink_disk(name: &DiskName, size: u64, sealing: Option<&Sealing>) -> SinkDisk {
    let luks = sealing.and_then(|sealing| sealing.header(name)).cloned();
    SinkDisk { name: name.clone(), size, luks }
}

/// What the target said, as the algebra takes it. A disk that is encrypted otherwise than it is now to be sent is none to build upon:
/// neither its blocks nor its digests can be compared with ours (R-REP-10).
fn target_facts(answer: Negotiated, sealing: Option<&Sealing>) -> TargetFacts {
    let Negotiated { latest, partial, highest_seq } = answer;
    let alike = |name: &DiskName, luks: &Option<LuksHeader>| {
        luks.as_ref() == sealing.and_then(|sealing| sealing.header(name))
    };
    let damaged = latest.as_ref().map(|latest| latest.damaged.clone()).unwrap_or_default();
    let has = latest.map_or(TargetHas::Nothing, |latest| {
        let disks = latest.disks.into_iter().filter(|d| alike(&d.name, &d.luks));
        let disks = disks.map(|d| (d.name, d.size)).collect();
        match latest.checkpoint.filter(|_| !latest.is_base) {
            Some(checkpoint) => {
                TargetHas::Point { seq: latest.seq, checkpoint: CheckpointName::new(checkpoint), disks }
            }
            None => TargetHas::Base { seq: latest.seq, disks },
        }
    });
    let partial = partial.filter(|p| p.disks.iter().all(|d| alike(&d.name, &d.luks)));
    let partial = partial.map(|p| Partial {
        seq: p.seq,
        parent: p.parent,
        since: CheckpointName::new(p.checkpoint),
        disks: p
            .disks
            .into_iter()
            .map(|d| (d.name, PartialDisk { size: d.size, watermark: d.durable }))
            .collect(),
    });
    TargetFacts { has, partial, highest_seq, damaged }
}

/// The kind of a cycle with its reason, for people.
fn describe(plan: &CyclePlan) -> String {
    let kind = match plan.kind {
        CycleKind::Full => "full",
        CycleKind::ResumeFull => "resumed full",
        CycleKind::Incremental { .. } => "incremental",
        CycleKind::DigestCompare { .. } => "digest-compare",
    };
    let mut text = format!("{kind}: {}", plan.reason);
    text.truncate(text.floor_char_boundary(500));
    text
}
