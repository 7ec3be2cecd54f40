//! Snapshots of simulated machines: the written clusters as they are now, over a second view of the chain.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Instant, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use understudy_ids::{ByteRange, UnixMicros};
use understudy_replica_store::qcow2::{CLUSTER, Chain, Source};

use super::{
    disk::{Clusters, read_cluster},
    failed,
    machine::{Checkpoint, SimulatedMachine},
};
use crate::{
    DiskReader, Error, Extent, GuestState, NotQuiesced, QuiesceFailure, Snapshot, SnapshotDisk,
    SnapshotRequest,
};

/// Clusters looked at for one answer.
const MOST_CLUSTERS: u64 = 16 << 10;
const LONGEST_READ: u32 = 32 << 20;

pub struct SimulatedSnapshot {
    instant: UnixMicros,
    guest: GuestState,
    disks: Vec<SnapshotDisk>,
}

impl SimulatedMachine {
    /// Called with the host locked, so all disks are of one instant.
    pub(super) fn snapshot(&mut self, request: &SnapshotRequest) -> Result<SimulatedSnapshot, Error> {
        let (began, instant) = (Instant::now(), UnixMicros::from(SystemTime::now()));
        self.record.checkpoints.retain(|checkpoint| checkpoint.name != request.checkpoint);
        let base =
            self.record.checkpoints.iter().find(|checkpoint| Some(&checkpoint.name) == request.base.as_ref());
        let mut disks = Vec::new();
        for name in &request.disks {
            let missing = || Error::NotFound { what: format!("disk {name} of machine {}", request.machine) };
            let disk = self.disks.get(name).ok_or_else(missing)?;
            // A disk that the base has no set for was not written since.
            let changed = base.map(|base| base.changed.get(name).cloned().unwrap_or_default());
            disks.push(SnapshotDisk {
                name: name.clone(),
                size: disk.size(),
                changes_known: changed.is_some(),
                reader: Arc::new(Reader {
                    size: disk.size(),
                    written: disk.written.clone(),
                    chain: Mutex::new(disk.chain()?),
                    changed,
                }),
            });
        }
        let checkpoint = Checkpoint { name: request.checkpoint.clone(), changed: Default::default() };
        self.record.checkpoints.push(checkpoint);
        self.save()?;
        let guest = self.guest_state(request, began);
        Ok(SimulatedSnapshot { instant, guest, disks })
    }
}

impl SimulatedMachine {
    /// The host is locked for as long as a snapshot is made, so its guests' writes wait as those of a frozen one do.
    fn guest_state(&self, request: &SnapshotRequest, began: Instant) -> GuestState {
        if !self.is_running() {
            return if self.record.shut_itself_down { GuestState::Clean } else { GuestState::CRASH };
        }
        if request.quiesce.is_none() {
            return GuestState::CRASH;
        }
        let failure = match (self.record.hardware.guest_agent, self.agent_is_silent) {
            (true, false) => return GuestState::Application { frozen: began.elapsed() },
            (true, true) => QuiesceFailure::NoAnswer,
            (false, _) => QuiesceFailure::NoAgent,
        };
        GuestState::Crash { not_quiesced: Some(NotQuiesced::new(failure, "as simulated")) }
    }
}

#[async_trait]
impl Snapshot for SimulatedSnapshot {
    fn instant(&self) -> UnixMicros {
        self.instant
    }

    fn disks(&self) -> &[SnapshotDisk] {
        &self.disks
    }

    fn checkpoint_made(&self) -> bool {
        true
    }

    fn guest(&self) -> &GuestState {
        &self.guest
    }

    async fn close(self: Box<Self>) -> Result<(), Error> {
        Ok(())
    }
}

struct Reader {
    size: u64,
    written: Clusters,
    chain: Mutex<Chain>,
    /// `None`: not known.
    changed: Option<BTreeSet<u64>>,
}

impl Reader {
    fn is_zero(&self, chain: &mut Chain, cluster: u64) -> Result<bool, Error> {
        if self.written.contains_key(&cluster) {
            return Ok(false);
        }
        let source = chain.source(cluster).map_err(|error| failed("reading a simulated disk", error))?;
        Ok(!matches!(source, Source::Data { .. }))
    }
}

#[async_trait]
impl DiskReader for Reader {
    async fn extents(&self, range: ByteRange) -> Result<Vec<Extent>, Error> {
        let mut chain = self.chain.lock().unwrap_or_else(PoisonError::into_inner);
        let first = range.start / CLUSTER;
        let last = range.end.min(self.size).div_ceil(CLUSTER).min(first + MOST_CLUSTERS);
        let mut extents: Vec<Extent> = Vec::new();
        for cluster in first..last {
            let start = (cluster * CLUSTER).max(range.start);
            let end = ((cluster + 1) * CLUSTER).min(range.end).min(self.size);
            let changed = self.changed.as_ref().is_none_or(|changed| changed.contains(&cluster));
            let zero = self.is_zero(&mut chain, cluster)?;
            match extents.last_mut() {
                Some(before) if (before.changed, before.zero) == (changed, zero) => before.range.end = end,
                _ => extents.push(Extent { range: ByteRange::new(start, end), changed, zero }),
            }
        }
        Ok(extents)
    }

    async fn read(&self, offset: u64, length: u32) -> Result<Bytes, Error> {
        let end =
            offset.checked_add(u64::from(length)).filter(|end| *end <= self.size && length <= LONGEST_READ);
        let end =
            end.ok_or_else(|| failed("reading a simulated disk", format!("{length} bytes at {offset}")))?;
        let mut chain = self.chain.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = Vec::with_capacity(length as usize);
        for cluster in offset / CLUSTER..end.div_ceil(CLUSTER) {
            let from = (offset.max(cluster * CLUSTER) - cluster * CLUSTER) as usize;
            let to = (end.min((cluster + 1) * CLUSTER) - cluster * CLUSTER) as usize;
            match self.written.get(&cluster) {
                Some(content) => bytes.extend_from_slice(&content[from..to]),
                None => bytes.extend_from_slice(&read_cluster(&mut chain, cluster)?[from..to]),
            }
        }
        Ok(bytes.into())
    }
}
