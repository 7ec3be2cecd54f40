//! A first copy on a medium: written at the source's host, read at the target's (R-REP-11).

use std::{io, ops::ControlFlow, path::Path};

use futures::TryStreamExt;
use tokio::sync::mpsc;
use understudy_hypervisor::CheckpointName;
use understudy_ids::{DiskName, MachineName, PointSeq, SeedName};
use understudy_jobs_api::TaskContext;
use understudy_replica_store::{Import, Manifest, PointKind, StoreError, qcow2::Writer};
use understudy_replication::BLOCK_SIZE;
use understudy_replication_api::{AgentTaskResult, DiskSize};

use super::{Result, Scope, TaskError, Tasks, no_machine, now, replication::percent, stopped};
use crate::{
    medium::{Medium, MediumError, Record, RecordedDisk},
    source::{ReadDisk, Reading},
};

/// Pieces of 1 MiB between reading and writing.
const QUEUE: usize = 8;
/// Nothing of the item is here before it.
const FIRST: PointSeq = PointSeq::new(1);

impl Tasks {
    /// The machine's disks, as they are at one instant, are on the medium. Nothing about replication is begun with it.
    pub(super) async fn export_seed(
        &self,
        scope: &Scope,
        name: MachineName,
        disks: Vec<DiskName>,
        seed: &SeedName,
        context: &TaskContext,
    ) -> Result {
        let medium = self.media.of(seed, &scope.item)?;
        let run = scope.run;
        if let Some(record) = on_thread(&medium, move |medium| medium.written_by(run)).await? {
            return Ok(AgentTaskResult::Seeded { bytes: record.bytes });
        }
        self.machine(&name).await?.ok_or_else(|| no_machine(&name))?;
        let part = on_thread(&medium, Medium::begin).await?;
        let checkpoint = CheckpointName(format!("understudy-{}-{}-seed", scope.item, scope.generation));
        // One snapshot per machine at a time.
        let _quiet = self.sources.quiesce(&scope.item).await;
        let reading = Reading::open(self.hypervisor.as_ref(), &name, disks, checkpoint).await?;
        let written = tokio::select! {
            written = write_all(&reading, &part, context) => written,
            () = context.stopped().cancelled() => Err(stopped()),
        };
        let instant = reading.instant();
        reading.close(self.hypervisor.as_ref()).await?;
        let (disks, bytes) = written?;
        let record = Record { item: scope.item.clone(), machine: name, run, instant, disks, bytes };
        on_thread(&medium, move |medium| medium.publish(&record)).await?;
        Ok(AgentTaskResult::Seeded { bytes })
    }

    /// What the medium has of the disks is the item's base here, unless the item has points here already.
    pub(super) async fn import_seed(
        &self,
        scope: &Scope,
        disks: Vec<DiskSize>,
        seed: &SeedName,
        context: &TaskContext,
    ) -> Result {
        let item = scope.item.clone();
        let newest = self.replica.call(move |store| Ok(store.points(&item)?.pop())).await?;
        match newest.map(|point| point.manifest) {
            None => {}
            Some(base) if base.kind == PointKind::Base => {
                return Ok(seeded(&base));
            }
            // What is here is nearer to the machine than what was carried over.
            Some(_) => return Ok(AgentTaskResult::Seeded { bytes: 0 }),
        }
        let medium = self.media.of(seed, &scope.item)?;
        let total: u64 = disks.iter().map(|disk| disk.size).sum();
        let disks = on_thread(&medium, move |medium| medium.find(&disks)).await?;
        let (item, generation) = (scope.item.clone(), scope.generation);
        let import = Import { item, generation, seq: FIRST, disks, now: now() };
        let told = context.clone();
        let base = self.replica.call(move |store| {
            store.import(&import, &mut |read| {
                told.progress(percent(read, total), format!("{read} of {total} bytes looked through"));
                if told.stopped().is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
        });
        let base = base.await?.ok_or_else(stopped)?;
        Ok(seeded(&base))
    }

    /// What [`Tasks::export_seed`] has written for this run is gone.
    pub(super) async fn remove_seed(&self, scope: &Scope, seed: &SeedName) -> Result {
        let medium = match self.media.of(seed, &scope.item) {
            // So nothing was written.
            Err(MediumError::NoSeedDir) => return Ok(AgentTaskResult::Done),
            medium => medium?,
        };
        let run = scope.run;
        on_thread(&medium, move |medium| medium.remove_of(run)).await?;
        Ok(AgentTaskResult::Done)
    }
}

fn seeded(base: &Manifest) -> AgentTaskResult {
    AgentTaskResult::Seeded { bytes: base.disks.iter().map(|disk| disk.changed_bytes).sum() }
}

async fn on_thread<T: Send + 'static>(
    medium: &Medium,
    work: impl FnOnce(&Medium) -> std::result::Result<T, MediumError> + Send + 'static,
) -> Result<T> {
    let medium = medium.clone();
    let done = tokio::task::spawn_blocking(move || work(&medium)).await;
    Ok(done.map_err(|error| cut_off(&error))??)
}

fn cut_off(error: &tokio::task::JoinError) -> TaskError {
    TaskError::retry("CUT_OFF", format!("the work on the medium was cut off: {error}"), "It is tried again.")
}

async fn write_all(
    reading: &Reading,
    part: &Path,
    context: &TaskContext,
) -> Result<(Vec<RecordedDisk>, u64)> {
    let total = reading.total();
    let (mut disks, mut before) = (Vec::new(), 0);
    for disk in reading.disks() {
        let told = |read| {
            let read = before + read;
            context.progress(percent(read, total), format!("{read} of {total} bytes written"));
        };
        write(&disk, part, told).await?;
        before += disk.total();
        disks.push(RecordedDisk { name: disk.name().clone(), size_bytes: disk.size() });
    }
    Ok((disks, total))
}

/// Reads on one side, a thread that writes on the other, a bounded queue between them.
async fn write(disk: &ReadDisk<'_>, part: &Path, told: impl Fn(u64)) -> Result<()> {
    let (queue, mut queued) = mpsc::channel::<(u64, bytes::Bytes)>(QUEUE);
    let (file, size) = (Medium::file(part, disk.name()), disk.size());
    let writing = tokio::task::spawn_blocking(move || {
        let mut writer = Writer::create(&file, size, None)?;
        while let Some((first, content)) = queued.blocking_recv() {
            put(&mut writer, first, &content)?;
        }
        writer.finish().map(drop)
    });
    let mut content = disk.content(|_, content| content);
    let mut read = 0;
    while let Some((range, content)) = content.try_next().await? {
        if queue.send((range.start / BLOCK_SIZE, content)).await.is_err() {
            break;
        }
        read += range.len();
        told(read);
    }
    drop(queue);
    Ok(writing.await.map_err(|error| cut_off(&error))??)
}

/// Writes what is not zeros.
fn put(writer: &mut Writer, first: u64, content: &[u8]) -> std::result::Result<(), StoreError> {
    let blocks: Vec<&[u8]> = content.chunks(BLOCK_SIZE as usize).collect();
    let is_zero = |block: &[u8]| block.iter().all(|byte| *byte == 0);
    let mut from = 0;
    for run in blocks.chunk_by(|one, other| is_zero(one) == is_zero(other)) {
        let length: usize = run.iter().map(|block| block.len()).sum();
        if !is_zero(run[0]) {
            writer.write(first + from as u64 / BLOCK_SIZE, &content[from..from + length])?;
        }
        from += length;
    }
    Ok(())
}

impl From<MediumError> for TaskError {
    fn from(error: MediumError) -> Self {
        let text = error.to_string();
        match error {
            MediumError::NoSeedDir => Self::failed(
                "NO_SEED_DIR",
                text,
                "Name the directory below which media are mounted as seed_dir in the agent's configuration, then retry.",
            ),
            MediumError::Exists(_) => Self::failed(
                "SEED_EXISTS",
                text,
                "Nothing is overwritten: remove it, or name another medium.",
            ),
            MediumError::Missing { .. } => {
                Self::failed("NO_SEED", text, "Mount the medium or copy the directory there, then retry.")
            }
            MediumError::Unfit { .. } => {
                Self::failed("SEED_UNFIT", text, "Correct what is said, then retry.")
            }
            MediumError::Io { source, .. }
                if matches!(
                    source.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::ReadOnlyFilesystem
                ) =>
            {
                Self::failed(
                    "MEDIUM_FULL",
                    text,
                    "Use a medium with room for the machine's data, then retry.",
                )
            }
            MediumError::Io { .. } => {
                Self::retry("MEDIUM_FAILED", text, "It is tried again; look at the medium.")
            }
            MediumError::Store(error @ (StoreError::Format { .. } | StoreError::InvalidDisk { .. })) => {
                Self::failed("SEED_UNFIT", error.to_string(), "Correct what is said, then retry.")
            }
            MediumError::Store(error) => error.into(),
        }
    }
}
