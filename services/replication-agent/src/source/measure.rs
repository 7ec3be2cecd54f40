//! Digest roots of a machine's disks, read from the disks themselves (R-PF-2).

use futures::TryStreamExt;
use understudy_hypervisor::{CheckpointName, Hypervisor};
use understudy_ids::{DiskName, MachineName};
use understudy_replication::{BLOCK_SIZE, BlockDigest, DigestTree};
use understudy_replication_api::DiskRoot;

use super::{
    error::CycleError,
    reading::{ReadDisk, Reading},
    seal::{self, Sealing},
};

/// Reads all of `disks` and returns their roots, with `sealing` those of their ciphertext, which is what a target has. `progress` is
/// told bytes read and bytes to read. The machine should be off, or the roots are those of one instant of it.
pub async fn roots(
    hypervisor: &dyn Hypervisor,
    machine: &MachineName,
    disks: Vec<DiskName>,
    sealing: Option<&Sealing>,
    checkpoint: CheckpointName,
    progress: impl Fn(u64, u64) + Send + Sync,
) -> Result<Vec<DiskRoot>, CycleError> {
    let reading = Reading::open(hypervisor, machine, disks, checkpoint).await?;
    let read = read_all(&reading, sealing, &progress).await;
    reading.close(hypervisor).await?;
    read
}

async fn read_all(
    reading: &Reading,
    sealing: Option<&Sealing>,
    progress: &(impl Fn(u64, u64) + Send + Sync),
) -> Result<Vec<DiskRoot>, CycleError> {
    let total = reading.total();
    let mut before = 0;
    let mut roots = Vec::new();
    for disk in reading.disks() {
        let tree = digest(&disk, sealing, |read| progress(before + read, total)).await?;
        before += disk.total();
        roots.push(DiskRoot { disk: disk.name().clone(), root: tree.root() });
    }
    Ok(roots)
}

async fn digest(
    disk: &ReadDisk<'_>,
    sealing: Option<&Sealing>,
    progress: impl Fn(u64) + Send,
) -> Result<DigestTree, CycleError> {
    let mut tree = DigestTree::new(disk.size());
    let mut read = 0;
    let cipher = sealing.and_then(|sealing| sealing.cipher(disk.name()));
    let mut digested = disk.content(move |range, content| {
        let content = match &cipher {
            Some(cipher) => seal::encrypted(cipher, range.start, content),
            None => content,
        };
        content.chunks(BLOCK_SIZE as usize).map(BlockDigest::of).collect::<Vec<_>>()
    });
    while let Some((range, digests)) = digested.try_next().await? {
        for (block, digest) in (range.start / BLOCK_SIZE..).zip(digests) {
            tree.set(block, digest);
        }
        read += range.len();
        progress(read);
    }
    Ok(tree)
}
