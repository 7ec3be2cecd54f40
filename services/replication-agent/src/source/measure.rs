//! Digest roots of a machine's disks, read from the disks themselves (R-PF-2).

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt, stream};
use understudy_hypervisor::{CheckpointName, Hypervisor, Snapshot, SnapshotDisk, SnapshotRequest};
use understudy_ids::{DiskName, MachineName};
use understudy_replication::{BLOCK_SIZE, BlockDigest, DigestTree, RangeSet, cycle::Work};
use understudy_replication_api::DiskRoot;

use super::{
    error::CycleError,
    seal::{self, Sealing},
    work::{pieces, survey, to_read},
};

const IN_FLIGHT: usize = 8;

/// Reads all of `disks` and returns their roots, with `sealing` those of their ciphertext, which is what a target has. `progress` is told bytes read and bytes to read. The machine should be off,
/// or the roots are those of one instant of it.
pub async fn roots(
    hypervisor: &dyn Hypervisor,
    machine: &MachineName,
    disks: Vec<DiskName>,
    sealing: Option<&Sealing>,
    checkpoint: CheckpointName,
    progress: impl Fn(u64, u64) + Send + Sync,
) -> Result<Vec<DiskRoot>, CycleError> {
    let request = SnapshotRequest {
        machine: machine.clone(),
        disks,
        checkpoint: checkpoint.clone(),
        base: None,
        quiesce: None,
    };
    let snapshot = hypervisor.open_snapshot(&request).await?;
    let read = read_all(snapshot.as_ref(), sealing, &progress).await;
    snapshot.close().await?;
    // The checkpoint was only the price of the snapshot; the next cycle deletes it too, if this fails.
    if let Err(error) = hypervisor.delete_checkpoints(machine, &BTreeSet::from([checkpoint])).await {
        tracing::warn!(%machine, %error, "a checkpoint was left behind");
    }
    read
}

async fn read_all(
    snapshot: &dyn Snapshot,
    sealing: Option<&Sealing>,
    progress: &(impl Fn(u64, u64) + Send + Sync),
) -> Result<Vec<DiskRoot>, CycleError> {
    let mut surveyed = Vec::new();
    let mut total = 0;
    for disk in snapshot.disks() {
        let known = survey(disk).await?;
        let work = Work { ship: RangeSet::span(0, disk.size), compare: RangeSet::new() };
        total += to_read(&work, &known.zero).bytes();
        surveyed.push((disk, work, known.zero));
    }
    let mut before = 0;
    let mut roots = Vec::new();
    for (disk, work, zero) in surveyed {
        let tree = digest(disk, sealing, &work, &zero, |read| progress(before + read, total)).await?;
        before += to_read(&work, &zero).bytes();
        roots.push(DiskRoot { disk: disk.name.clone(), root: tree.root() });
    }
    Ok(roots)
}

async fn digest(
    disk: &SnapshotDisk,
    sealing: Option<&Sealing>,
    work: &Work,
    zero: &RangeSet,
    progress: impl Fn(u64) + Send,
) -> Result<DigestTree, CycleError> {
    let mut tree = DigestTree::new(disk.size);
    let mut read = 0;
    let reader = disk.reader.clone();
    let cipher = sealing.and_then(|sealing| sealing.cipher(&disk.name));
    let jobs = pieces(work, zero).filter(|p| !p.zero).map(move |piece| {
        let (reader, cipher) = (reader.clone(), cipher.clone());
        async move {
            // A piece has at most 1 MiB.
            let length = u32::try_from(piece.range.len()).unwrap_or(u32::MAX);
            let content = reader.read(piece.range.start, length).await?;
            let work = move || {
                let content = match cipher {
                    Some(cipher) => seal::encrypted(&cipher, piece.range.start, content),
                    None => content,
                };
                content.chunks(BLOCK_SIZE as usize).map(BlockDigest::of).collect::<Vec<_>>()
            };
            let digests = tokio::task::spawn_blocking(work).await;
            let digests = digests.map_err(|e| CycleError::Protocol(format!("digesting was cut off: {e}")))?;
            Ok::<_, CycleError>((piece.range, digests))
        }
    });
    let mut done = stream::iter(jobs).buffered(IN_FLIGHT);
    while let Some((range, digests)) = done.try_next().await? {
        for (block, digest) in (range.start / BLOCK_SIZE..).zip(digests) {
            tree.set(block, digest);
        }
        read += range.len();
        progress(read);
    }
    Ok(tree)
}
