//! Reading whole disks of a machine as they are at one instant, for something else than a cycle.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use understudy_hypervisor::{CheckpointName, Hypervisor, Snapshot, SnapshotDisk, SnapshotRequest};
use understudy_ids::{ByteRange, DiskName, MachineName, UnixMicros};
use understudy_replication::{RangeSet, cycle::Work};

use super::{
    error::CycleError,
    work::{pieces, survey, to_read},
};

const IN_FLIGHT: usize = 8;

/// A machine's disks, frozen while this is open. What is not closed is closed with the next snapshot of the machine.
pub struct Reading {
    machine: MachineName,
    checkpoint: CheckpointName,
    snapshot: Box<dyn Snapshot>,
    zero: Vec<RangeSet>,
}

impl Reading {
    /// # Errors
    /// When the hypervisor cannot freeze the disks, or does not tell what is on them; nothing is open then.
    pub async fn open(
        hypervisor: &dyn Hypervisor,
        machine: &MachineName,
        disks: Vec<DiskName>,
        checkpoint: CheckpointName,
    ) -> Result<Self, CycleError> {
        let request = SnapshotRequest {
            machine: machine.clone(),
            disks,
            checkpoint: checkpoint.clone(),
            base: None,
            quiesce: None,
        };
        let snapshot = hypervisor.open_snapshot(&request).await?;
        let machine = machine.clone();
        let mut reading = Self { machine, checkpoint, snapshot, zero: Vec::new() };
        match reading.survey().await {
            Ok(zero) => reading.zero = zero,
            Err(error) => {
                reading.close(hypervisor).await?;
                return Err(error);
            }
        }
        Ok(reading)
    }

    async fn survey(&self) -> Result<Vec<RangeSet>, CycleError> {
        let mut zero = Vec::new();
        for disk in self.snapshot.disks() {
            zero.push(survey(disk).await?.zero);
        }
        Ok(zero)
    }

    pub fn instant(&self) -> UnixMicros {
        self.snapshot.instant()
    }

    /// The disks, in the order of the request.
    pub fn disks(&self) -> impl Iterator<Item = ReadDisk<'_>> {
        self.snapshot.disks().iter().zip(&self.zero).map(|(disk, zero)| ReadDisk { disk, zero })
    }

    /// Bytes that have to be read of all disks.
    pub fn total(&self) -> u64 {
        self.disks().map(|disk| disk.total()).sum()
    }

    pub async fn close(self, hypervisor: &dyn Hypervisor) -> Result<(), CycleError> {
        let Self { machine, checkpoint, snapshot, .. } = self;
        snapshot.close().await?;
        // The checkpoint was only the price of the snapshot; the next cycle deletes it too, if this fails.
        if let Err(error) = hypervisor.delete_checkpoints(&machine, &BTreeSet::from([checkpoint])).await {
            tracing::warn!(%machine, %error, "a checkpoint was left behind");
        }
        Ok(())
    }
}

/// One of the disks.
pub struct ReadDisk<'a> {
    disk: &'a SnapshotDisk,
    zero: &'a RangeSet,
}

impl ReadDisk<'_> {
    pub fn name(&self) -> &DiskName {
        &self.disk.name
    }

    /// Bytes of the disk.
    pub fn size(&self) -> u64 {
        self.disk.size
    }

    fn work(&self) -> Work {
        Work { ship: RangeSet::span(0, self.disk.size), compare: RangeSet::new() }
    }

    /// Bytes that have to be read, because they are not zeros for certain.
    pub fn total(&self) -> u64 {
        to_read(&self.work(), self.zero).bytes()
    }

    /// What has to be read, in ascending order and in pieces of whole blocks, each after `then` has worked on it on a thread that may
    /// block.
    pub fn content<T, F>(
        &self,
        then: F,
    ) -> impl Stream<Item = Result<(ByteRange, T), CycleError>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: Fn(ByteRange, Bytes) -> T + Clone + Send + 'static,
    {
        let reader = self.disk.reader.clone();
        let wanted = pieces(&self.work(), self.zero).filter(|piece| !piece.zero);
        let wanted: Vec<ByteRange> = wanted.map(|piece| piece.range).collect();
        let jobs = stream::iter(wanted).map(move |range| {
            let (reader, then) = (reader.clone(), then.clone());
            async move {
                // A piece has at most 1 MiB.
                let length = u32::try_from(range.len()).unwrap_or(u32::MAX);
                let content = reader.read(range.start, length).await?;
                let done = tokio::task::spawn_blocking(move || then(range, content)).await;
                let done = done.map_err(|e| CycleError::Protocol(format!("reading was cut off: {e}")))?;
                Ok::<_, CycleError>((range, done))
            }
        });
        jobs.buffered(IN_FLIGHT)
    }
}
