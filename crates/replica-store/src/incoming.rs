//! Receiving a point.
//!
//! ```text
//!            ┌─────────── write_blocks / write_zero ◀───┐
//!   begin ──▶│ receiving ── sync, behind: data, then log┘──▶ finish: roots equal ─▶ tables, digests, manifest ─▶ rename
//!   resume ─▶└─────┬─────── error of the disk ──▶ untrusted: the partial is removed            = the point
//!                  └─ dropped ──▶ partial with its watermark, for resume; never synced: nothing
//! ```
//!
//! What is damaged of the point below must be covered by the new one, or it is not accepted (R-REP-5).
//!
//! A block's digest is checked on arrival, the disk's root at the end. The watermark is the end of the highest block received
//! of a disk, because a source sends a disk's blocks in ascending order; what arrives below it writes over what is there.

use std::collections::BTreeMap;

use understudy_ids::{DiskName, ItemName, UnixMicros};
use understudy_replication::{
    digest::{BlockDigest, DigestTree},
    extents::{BLOCK_SIZE, RangeSet, block_count},
};

use crate::{
    behind::{Job, Log},
    digests,
    error::{Result, StoreError},
    fsio::sync_all,
    journal::{Entry, Received},
    layout::{MANIFEST, digest_file, disk_file},
    model::{Begin, DiskManifest, Manifest, PointKind},
    qcow2::{Cluster, Writer},
    store::{Store, to_json},
};

/// Blocks received between two syncs at most: bounds both the memory for what is not yet logged (twice this while a sync runs) and the
/// work lost in a crash.
const MAX_PENDING: usize = 16384;

/// A transfer in progress. One at a time per item. Dropping it keeps what has been synced for [`Store::resume`].
#[derive(Debug)]
pub struct PointWriter {
    store: Store,
    begin: Begin,
    disks: Vec<DiskWriter>,
    log: Log,
    pending: Vec<Entry>,
    /// Cleared by the first failed write or sync: the kernel may have dropped pages that it once accepted.
    trusted: bool,
}

#[derive(Debug)]
pub(crate) struct DiskWriter {
    name: DiskName,
    writer: Writer,
    tree: DigestTree,
    /// In blocks.
    watermark: u64,
    /// Bytes of the parent that are not what its digests say.
    damaged: RangeSet,
}

impl DiskWriter {
    pub fn new(name: DiskName, writer: Writer, tree: DigestTree, damaged: RangeSet) -> Self {
        Self { name, writer, tree, watermark: 0, damaged }
    }

    /// Whether reading the block would give what the tree says.
    fn has(&self, block: u64) -> bool {
        self.writer.cluster(block) != Cluster::Absent || !self.damaged.contains(block * BLOCK_SIZE)
    }

    /// The first block at or after `from` that may not read as zeros.
    fn next_nonzero(&self, from: u64) -> Option<u64> {
        let nonzero = self.tree.next_nonzero_node(from);
        if self.damaged.is_empty() {
            return nonzero;
        }
        let damaged = RangeSet::span(from * BLOCK_SIZE, u64::MAX).intersection(&self.damaged).blocks().next();
        nonzero.into_iter().chain(damaged).min()
    }

    /// Takes over what the log of an interrupted transfer says.
    pub fn restore(&mut self, what: Received) {
        let blocks = block_count(self.writer.size());
        match what {
            Received::Data { block, place, digest } if block < blocks => {
                self.writer.restore(block, Cluster::Data(place));
                self.tree.set(block, digest);
            }
            Received::Zero { block, place } if block < blocks => {
                self.writer.restore(block, Cluster::Zero((place != 0).then_some(place)));
                self.tree.set(block, BlockDigest::zero_block());
            }
            Received::Watermark { block } => self.watermark = self.watermark.max(block),
            _ => {}
        }
    }
}

impl PointWriter {
    pub(crate) fn new(store: Store, begin: Begin, disks: Vec<DiskWriter>, log: Log) -> Self {
        Self { store, begin, disks, log, pending: Vec::new(), trusted: true }
    }

    pub fn item(&self) -> &ItemName {
        &self.begin.item
    }

    /// What this transfer was begun or resumed with.
    pub fn begun(&self) -> &Begin {
        &self.begin
    }

    /// Digests of a disk as received so far, over those of the parent: what a digest comparison compares with.
    pub fn digests(&self, disk: &DiskName) -> Result<&DigestTree> {
        self.disk(disk).map(|index| &self.disks[index].tree)
    }

    /// Writes the blocks from number `first` on (in units of 64 KiB). `content` is made of whole blocks, or ends with the disk;
    /// `expected` has the source's digest of each.
    ///
    /// # Errors
    /// [`StoreError::DigestMismatch`] when a block is not what the source digested, [`StoreError::OutOfRange`]; nothing was
    /// written then, and the transfer may go on. After an I/O error it may not.
    pub fn write_blocks(
        &mut self,
        disk: &DiskName,
        first: u64,
        content: &[u8],
        expected: &[BlockDigest],
    ) -> Result<()> {
        let end = first.saturating_add(expected.len() as u64);
        let index = self.writable(disk, first, end)?;
        let range = (first * BLOCK_SIZE, (end * BLOCK_SIZE).min(self.disks[index].writer.size()));
        if range.0 + content.len() as u64 != range.1 {
            return Err(self.out_of_range(index, first, end));
        }
        self.check_digests(disk, first, content, expected)?;
        self.store_blocks(index, first, content, expected)
    }

    /// Writes blocks that this host has read itself, so that their digests are what they are.
    pub(crate) fn write_read(&mut self, disk: &DiskName, first: u64, content: &[u8]) -> Result<()> {
        let digests: Vec<_> = content.chunks(BLOCK_SIZE as usize).map(BlockDigest::of).collect();
        let index = self.writable(disk, first, first + digests.len() as u64)?;
        self.store_blocks(index, first, content, &digests)
    }

    /// Stores blocks with these digests, of which zeros cost nothing.
    fn store_blocks(
        &mut self,
        index: usize,
        first: u64,
        content: &[u8],
        digests: &[BlockDigest],
    ) -> Result<()> {
        let mut next = first;
        for run in digests.chunk_by(|one, other| one.is_zero_block() == other.is_zero_block()) {
            let after = next + run.len() as u64;
            if run[0].is_zero_block() {
                self.zero(index, next, after)?;
            } else {
                let from = ((next - first) * BLOCK_SIZE) as usize;
                let to = content.len().min(((after - first) * BLOCK_SIZE) as usize);
                self.data(index, next, &content[from..to], run)?;
            }
            next = after;
        }
        let disk = &mut self.disks[index];
        disk.watermark = disk.watermark.max(next);
        Ok(())
    }

    fn check_digests(
        &self,
        disk: &DiskName,
        first: u64,
        content: &[u8],
        expected: &[BlockDigest],
    ) -> Result<()> {
        for ((block, content), expected) in (first..).zip(content.chunks(BLOCK_SIZE as usize)).zip(expected) {
            let found = BlockDigest::of(content);
            if found != *expected {
                let (item, disk, expected) = (self.begin.item.clone(), disk.clone(), *expected);
                return Err(StoreError::DigestMismatch { item, disk, block, expected, found });
            }
        }
        Ok(())
    }

    /// Stores blocks whose digests are known to be right, but for those that the parent has just so.
    fn data(&mut self, index: usize, first: u64, content: &[u8], digests: &[BlockDigest]) -> Result<()> {
        let disk = &self.disks[index];
        let there = |n: usize| {
            let block = first + n as u64;
            disk.writer.cluster(block) == Cluster::Absent
                && disk.has(block)
                && disk.tree.get(block) == digests[n]
        };
        let numbers: Vec<usize> = (0..digests.len()).filter(|n| !there(*n)).collect();
        for run in numbers.chunk_by(|one, other| one + 1 == *other) {
            let (from, to) = (run[0], run[0] + run.len());
            let bytes = from * BLOCK_SIZE as usize..content.len().min(to * BLOCK_SIZE as usize);
            let disk = &mut self.disks[index];
            if let Err(error) = disk.writer.write(first + from as u64, &content[bytes]) {
                return Err(self.distrust(error));
            }
            for (block, digest) in (first + from as u64..).zip(&digests[from..to]) {
                let disk = &mut self.disks[index];
                disk.tree.set(block, *digest);
                if let Cluster::Data(place) = disk.writer.cluster(block) {
                    self.note(index, Received::Data { block, place, digest: *digest })?;
                }
            }
        }
        Ok(())
    }

    /// Makes blocks `first..end` read as zeros. Costs nothing where they do already, however many they are.
    pub fn write_zero(&mut self, disk: &DiskName, first: u64, end: u64) -> Result<()> {
        let index = self.writable(disk, first, end)?;
        self.zero(index, first, end)
    }

    fn zero(&mut self, index: usize, first: u64, end: u64) -> Result<()> {
        let mut next = self.disks[index].next_nonzero(first);
        while let Some(block) = next.filter(|b| *b < end) {
            let disk = &mut self.disks[index];
            next = disk.next_nonzero(block + 1);
            if disk.tree.get(block).is_zero_block() && disk.has(block) {
                continue;
            }
            disk.writer.write_zero(block);
            disk.tree.set(block, BlockDigest::zero_block());
            let place = match disk.writer.cluster(block) {
                Cluster::Zero(Some(place)) => place,
                _ => 0,
            };
            self.note(index, Received::Zero { block, place })?;
        }
        let disk = &mut self.disks[index];
        disk.watermark = disk.watermark.max(end);
        Ok(())
    }

    /// Says that everything before block `end` that had to be sent has been sent. Not needed, but moves the watermark over
    /// long stretches in which nothing changed.
    pub fn advance(&mut self, disk: &DiskName, end: u64) -> Result<()> {
        let index = self.writable(disk, 0, end)?;
        let disk = &mut self.disks[index];
        disk.watermark = disk.watermark.max(end);
        Ok(())
    }

    /// Makes everything received so far durable and returns the watermark of each disk in bytes.
    pub fn sync(&mut self) -> Result<BTreeMap<DiskName, u64>> {
        self.sync_behind()?;
        self.settle()?;
        Ok(self.watermarks())
    }

    /// Begins to make everything received so far durable, on a thread of its own, after waiting for an earlier sync to end.
    pub fn sync_behind(&mut self) -> Result<()> {
        if !self.trusted {
            return Err(StoreError::Untrusted(self.begin.item.clone()));
        }
        for (index, disk) in (0..).zip(&self.disks) {
            self.pending.push(Entry { disk: index, what: Received::Watermark { block: disk.watermark } });
        }
        let job = Job {
            io: self.store.io().clone(),
            dir: self.store.dir(&self.begin.item),
            begin: self.begin.clone(),
            files: self.disks.iter().map(|disk| disk.writer.file().clone()).collect(),
            entries: std::mem::take(&mut self.pending),
        };
        self.log.start(job).map_err(|error| self.distrust(error))
    }

    /// Whether a sync that was begun has ended since the last question.
    ///
    /// # Errors
    /// When it has failed: the transfer is not trusted any more.
    pub fn has_synced(&mut self) -> Result<bool> {
        let ended = self.log.has_news();
        if ended {
            self.settle()?;
        }
        Ok(ended)
    }

    fn settle(&mut self) -> Result<()> {
        self.log.settle().map_err(|error| self.distrust(error))
    }

    /// The watermarks in bytes, durable or not.
    pub fn watermarks(&self) -> BTreeMap<DiskName, u64> {
        let bytes = |d: &DiskWriter| (d.watermark * BLOCK_SIZE).min(d.writer.size());
        self.disks.iter().map(|d| (d.name.clone(), bytes(d))).collect()
    }

    fn note(&mut self, index: usize, what: Received) -> Result<()> {
        self.pending.push(Entry { disk: index as u32, what });
        if self.pending.len() >= MAX_PENDING { self.sync_behind() } else { Ok(()) }
    }

    /// Completes the point. `roots` are those of the source's trees at the instant, one for each disk; `received` is now.
    ///
    /// # Errors
    /// [`StoreError::RootMismatch`] when a disk is not what the source says, [`StoreError::Damaged`] when damage of the parent would
    /// show through, or [`StoreError::StaleGeneration`] when a higher generation has been seen meanwhile; the transfer is
    /// thrown away. I/O errors: the partial is thrown away unless the point was complete already, in which case it is listed.
    pub fn finish(
        mut self,
        roots: &BTreeMap<DiskName, BlockDigest>,
        received: UnixMicros,
    ) -> Result<Manifest> {
        if !self.trusted {
            return Err(StoreError::Untrusted(self.begin.item.clone()));
        }
        self.settle()?;
        let done = self.complete(roots, received);
        if done.is_err() {
            self.trusted = false;
        }
        done
    }

    fn complete(
        &mut self,
        roots: &BTreeMap<DiskName, BlockDigest>,
        received: UnixMicros,
    ) -> Result<Manifest> {
        let found = self.verify(roots)?;
        let dir = self.store.dir(&self.begin.item);
        let mut trees = BTreeMap::new();
        let mut manifests = Vec::with_capacity(self.disks.len());
        let mut files = Vec::with_capacity(self.disks.len() * 2 + 1);
        // Tables go behind the data, so after a crash in here the log still tells the truth about the files.
        for (disk, root) in std::mem::take(&mut self.disks).into_iter().zip(found) {
            let io = self.store.io();
            let path = dir.incoming_point().join(digest_file(&disk.name));
            let count = disk.writer.clusters().count() as u64;
            let records = disk.writer.clusters().map(|block| Ok((block, disk.tree.get(block))));
            let (size, stacked) = (disk.writer.size(), disk.writer.has_backing());
            files.push(digests::write(io, &path, size, count, records)?);
            disk.writer.write_all_tables()?;
            files.push(disk.writer.file().clone());
            manifests.push(DiskManifest {
                file: disk_file(&disk.name),
                name: disk.name.clone(),
                size,
                root,
                changed_bytes: count * BLOCK_SIZE,
                stored_bytes: disk.writer.stored()?,
                stacked,
            });
            trees.insert(disk.name, disk.tree);
        }
        let manifest = self.manifest(manifests, received);
        let path = dir.incoming_point().join(MANIFEST);
        files.push(self.store.io().write_new(&path, &to_json(&path, &manifest)?)?);
        sync_all(&files)?;
        self.store.io().sync_dir(&dir.incoming_point())?;
        self.publish(&manifest, trees)?;
        Ok(manifest)
    }

    fn verify(&self, roots: &BTreeMap<DiskName, BlockDigest>) -> Result<Vec<BlockDigest>> {
        let item = &self.begin.item;
        let check = |disk: &DiskWriter| {
            let (name, found) = (&disk.name, disk.tree.root());
            match roots.get(name) {
                None => Err(StoreError::NoDisk { item: item.clone(), disk: name.clone() }),
                Some(expected) if *expected != found => {
                    let (item, disk, expected) = (item.clone(), name.clone(), *expected);
                    Err(StoreError::RootMismatch { item, disk, expected, found })
                }
                Some(_) => Ok(found),
            }
        };
        self.disks.iter().map(check).collect()
    }

    fn manifest(&self, disks: Vec<DiskManifest>, received: UnixMicros) -> Manifest {
        let Begin {
            item,
            generation,
            seq,
            parent,
            checkpoint,
            instant,
            consistency,
            frozen,
            joint,
            machine,
            seal,
            kind,
            ..
        } = self.begin.clone();
        let checkpoint = (kind == PointKind::Recovery).then_some(checkpoint);
        Manifest {
            item,
            seq,
            parent,
            generation,
            instant,
            received,
            consistency,
            frozen,
            joint,
            kind,
            checkpoint,
            machine,
            disks,
            seal,
        }
    }

    /// The moment at which the point comes to be.
    fn publish(&self, manifest: &Manifest, trees: BTreeMap<DiskName, DigestTree>) -> Result<()> {
        let store = &self.store;
        let locks = store.locks(&manifest.item);
        let mut state = locks.state();
        store.admit(&manifest.item, manifest.generation, None)?;
        let dir = store.dir(&manifest.item);
        store.check_covers(manifest, &dir.incoming_point())?;
        store.io().create_dir_all(&dir.points())?;
        store.io().rename(&dir.incoming_point(), &dir.point(manifest.seq))?;
        state.trees = Some((manifest.seq, trees));
        // Without the point in it, it is no partial any more; what a crash brings back is removed by the next `begin` or `open`.
        if let Err(error) = store.io().discard(&dir.incoming()) {
            tracing::warn!(item = %manifest.item, %error, "cannot remove what is left of a completed transfer");
        }
        Ok(())
    }

    /// Throws the transfer away.
    pub fn abandon(mut self) -> Result<()> {
        self.settle()?;
        self.store.remove_incoming(&self.begin.item)
    }

    fn disk(&self, name: &DiskName) -> Result<usize> {
        let found = self.disks.iter().position(|d| d.name == *name);
        found.ok_or_else(|| StoreError::NoDisk { item: self.begin.item.clone(), disk: name.clone() })
    }

    fn writable(&self, disk: &DiskName, first: u64, end: u64) -> Result<usize> {
        if !self.trusted {
            return Err(StoreError::Untrusted(self.begin.item.clone()));
        }
        let index = self.disk(disk)?;
        if first > end || end > block_count(self.disks[index].writer.size()) {
            return Err(self.out_of_range(index, first, end));
        }
        Ok(index)
    }

    fn out_of_range(&self, index: usize, first: u64, end: u64) -> StoreError {
        let disk = &self.disks[index];
        let (item, size) = (self.begin.item.clone(), disk.writer.size());
        StoreError::OutOfRange { item, disk: disk.name.clone(), first, end, size }
    }

    /// After a failed write or sync the kernel may report success for data it has dropped, so nothing here is believed again.
    fn distrust(&mut self, error: StoreError) -> StoreError {
        self.trusted = false;
        error
    }
}

impl Drop for PointWriter {
    fn drop(&mut self) {
        // Its error has made the transfer untrusted.
        let _ = self.settle();
        let locks = self.store.locks(&self.begin.item);
        let mut state = locks.state();
        state.receiving = false;
        let removed = match self.log {
            _ if !self.trusted => self.store.remove_incoming(&self.begin.item),
            Log::Absent => self.store.io().discard(&self.store.dir(&self.begin.item).incoming()).map(|_| ()),
            Log::Idle(_) | Log::Syncing(_) => Ok(()),
        };
        if let Err(error) = removed {
            let item = &self.begin.item;
            tracing::warn!(%item, %error, "cannot remove a transfer that cannot be gone on with; the next open will");
        }
    }
}
