//! Comparing what lies on disk with its digests, layer by layer (R-REP-5).
//!
//! ```text
//!   points   1 ◀── 2 ◀── 3          each file holds the blocks that its point changed: a layer
//!   layers   1     2     3          each is read once, whatever the number of points that stand on it
//!   damage   in 1 is shown by 2 and 3, but where they have blocks of their own
//! ```
//!
//! **Promise.** A block that any point shows and that differs from its digest is found, a table or a digest file that is broken
//! too. Nothing is changed. Merges may go on meanwhile: a layer that left is answered with [`StoreError::NoPoint`], and what is
//! found is believed only when [`StoreReader::confirm`] finds it again.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter::Peekable,
    path::Path,
};

use understudy_ids::{ByteRange, DiskName, ItemName, PointSeq};
use understudy_replication::{
    digest::BlockDigest,
    extents::{BLOCK_SIZE, RangeSet, block_count, block_range},
};

use crate::{
    digests,
    error::{Result, StoreError},
    layout::{backing_path, digest_file},
    model::{Damage, DiskManifest, Manifest},
    qcow2::{Chain, Source},
    store::StoreReader,
};

/// Names a layer: one disk's file of one point, where it stands. Merging changes what a file holds, and what it stands on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct LayerName {
    pub seq: PointSeq,
    pub parent: Option<PointSeq>,
    pub disk: DiskName,
}

/// A layer and how much there is of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    pub name: LayerName,
    /// Bytes of the virtual disk.
    pub size: u64,
    /// Bytes that reading its blocks takes.
    pub stored_bytes: u64,
}

/// Damaged bytes, in whole blocks, by the layer in which they lie.
pub type Findings = BTreeMap<LayerName, RangeSet>;

impl StoreReader {
    /// The layers that these points stand on, oldest first; those of all points without `only`.
    pub fn layers(&self, item: &ItemName, only: Option<PointSeq>) -> Result<Vec<Layer>> {
        let links = self.links(item)?;
        let wanted = only.map(|seq| crate::catalog::ancestry(&links, seq));
        let mut layers = Vec::new();
        for link in links.iter().filter(|l| wanted.as_ref().is_none_or(|w| w.contains(&l.seq))) {
            // Gone since the links were read.
            let Some((manifest, _)) = self.any_manifest(item, link.seq)? else { continue };
            let Manifest { seq, parent, disks, .. } = manifest;
            layers.extend(disks.into_iter().map(|disk| Layer {
                size: disk.size,
                stored_bytes: disk.changed_bytes,
                name: LayerName { seq, parent, disk: disk.name },
            }));
        }
        Ok(layers)
    }

    /// Begins to check a layer at its first block.
    ///
    /// # Errors
    /// [`StoreError::NoPoint`] when there is no such layer any more. A layer that cannot be opened is damage, not an error.
    pub fn check_layer(&self, item: &ItemName, name: &LayerName) -> Result<LayerCheck> {
        let gone = || StoreError::NoPoint { item: item.clone(), seq: name.seq };
        let (manifest, listed) = self.any_manifest(item, name.seq)?.ok_or_else(gone)?;
        let disk = manifest.disk(&name.disk).filter(|_| manifest.parent == name.parent).ok_or_else(gone)?;
        let dir = self.dir(item).point(name.seq);
        // A merge has put this file in the place of the one above it, and is about to remove the point.
        if !listed && !dir.join(&disk.file).exists() {
            return Err(gone());
        }
        let content =
            Content::open(&dir.join(&disk.file), &dir.join(digest_file(&disk.name)), disk.size, disk.stacked);
        let content = content.and_then(|content| {
            self.check_link(&manifest, disk, &content.chain)?;
            Ok(content)
        });
        let content = match content {
            Ok(content) => Some(content),
            Err(error) => {
                tracing::debug!(%item, seq = %name.seq, disk = %name.disk, %error, "layer cannot be read");
                None
            }
        };
        Ok(LayerCheck { size: disk.size, next: 0, content })
    }

    /// Whether a file stands on the file that its point says: another one would open as well, and show something else. To be asked after
    /// the file was opened, because a merge unlists a point before it moves its file.
    pub(crate) fn check_link(&self, point: &Manifest, disk: &DiskManifest, chain: &Chain) -> Result<()> {
        let Some(parent) = point.parent.filter(|_| disk.stacked) else { return Ok(()) };
        let right = chain.backing() == Some(backing_path(parent, &disk.name).as_path());
        if right || self.manifest(&point.item, parent)?.is_none() {
            return Ok(());
        }
        let path = self.dir(&point.item).point(point.seq).join(&disk.file);
        Err(StoreError::Format { path, why: format!("it does not stand on point {parent}") })
    }

    /// What of the findings is found again. False ones come from files that were merged while they were read.
    pub fn confirm(&self, item: &ItemName, findings: &Findings) -> Result<Findings> {
        let mut confirmed = Findings::new();
        for (name, ranges) in findings {
            let mut check = match self.check_layer(item, name) {
                Err(StoreError::NoPoint { .. }) => continue,
                other => other?,
            };
            let found = check.again(ranges);
            if !found.is_empty() {
                confirmed.insert(name.clone(), found);
            }
        }
        Ok(confirmed)
    }

    /// The damage that each listed point shows: its own, and that of the layers below it where nothing above hides it.
    pub fn shown(&self, item: &ItemName, findings: &Findings) -> Result<BTreeMap<PointSeq, Damage>> {
        let mut manifests = Vec::new();
        for link in self.links(item)? {
            manifests.extend(self.any_manifest(item, link.seq)?);
        }
        let mut shown: BTreeMap<PointSeq, Damage> = BTreeMap::new();
        for (name, ranges) in findings {
            let mut reached = vec![(name.seq, ranges.clone())];
            while let Some((seq, visible)) = reached.pop() {
                for (above, _) in manifests.iter().filter(|(m, _)| m.parent == Some(seq)) {
                    let Some(disk) = above.disk(&name.disk).filter(|d| d.stacked) else { continue };
                    let file = self.dir(item).point(above.seq).join(digest_file(&disk.name));
                    let rest = visible.difference(&own_blocks(&file, &visible));
                    if !rest.is_empty() {
                        reached.push((above.seq, rest));
                    }
                }
                if manifests.iter().any(|(m, listed)| *listed && m.seq == seq) {
                    shown.entry(seq).or_default().add(&name.disk, &visible);
                }
            }
        }
        Ok(shown)
    }

    /// The points all of whose layers are among those that were checked.
    pub fn covered(&self, item: &ItemName, checked: &BTreeSet<LayerName>) -> Result<Vec<PointSeq>> {
        let links = self.links(item)?;
        let mut covered = Vec::new();
        for link in links.iter().filter(|l| l.listed) {
            let layers = self.layers(item, Some(link.seq))?;
            if layers.iter().all(|layer| checked.contains(&layer.name)) {
                covered.push(link.seq);
            }
        }
        Ok(covered)
    }
}

/// Which of `among` a layer has blocks of its own for. None that is known, when its digests cannot be read.
pub(crate) fn own_blocks(digests: &Path, among: &RangeSet) -> RangeSet {
    let Ok(reader) = digests::Reader::open(digests) else { return RangeSet::new() };
    let records: Result<Vec<ByteRange>> = reader
        .filter(|r| r.as_ref().map_or(true, |(block, _)| among.contains(block * BLOCK_SIZE)))
        .map(|r| r.map(|(block, _)| whole_block(block)))
        .collect();
    records.map(|r| r.into_iter().collect()).unwrap_or_default()
}

pub(crate) fn whole_block(block: u64) -> ByteRange {
    ByteRange::new(block * BLOCK_SIZE, (block + 1) * BLOCK_SIZE)
}

/// A layer that is being checked, in steps of the caller's choice.
#[derive(Debug)]
pub struct LayerCheck {
    size: u64,
    next: u64,
    /// `None` when it cannot be opened: then nothing vouches for any of its blocks.
    content: Option<Content>,
}

/// What one step has done.
#[derive(Debug, Default)]
pub struct Step {
    /// Blocks read and compared.
    pub blocks: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Damaged bytes, in whole blocks.
    pub damaged: RangeSet,
    /// The layer has been checked to its end.
    pub done: bool,
}

impl LayerCheck {
    /// The block at which the next step begins.
    pub const fn position(&self) -> u64 {
        self.next
    }

    /// Goes on at `block`, as after an interruption.
    pub fn seek(&mut self, block: u64) {
        self.next = block;
        if let Some(content) = &mut self.content {
            content.skip(block);
        }
    }

    /// Checks on, until about `most_bytes` have been read or `end` (a block number) is reached.
    pub fn step(&mut self, most_bytes: u64, end: u64) -> Step {
        let end = end.min(block_count(self.size));
        let mut step = Step::default();
        let Some(content) = &mut self.content else {
            let first = (self.next * BLOCK_SIZE).min(end * BLOCK_SIZE);
            step.damaged = RangeSet::span(first, (end * BLOCK_SIZE).max(first + BLOCK_SIZE));
            step.done = true;
            return step;
        };
        let mut damaged = Vec::new();
        while step.bytes < most_bytes {
            let Some(block) = content.next(self.next).filter(|block| *block < end) else {
                step.done = true;
                break;
            };
            self.next = block + 1;
            match content.check(block) {
                Verdict::Nothing => continue,
                Verdict::Whole => {}
                Verdict::Damaged => damaged.push(whole_block(block)),
            }
            step.blocks += 1;
            step.bytes += BLOCK_SIZE;
        }
        step.damaged = damaged.into_iter().collect();
        step
    }

    /// Checks these bytes only.
    fn again(&mut self, ranges: &RangeSet) -> RangeSet {
        let mut found = RangeSet::new();
        for range in ranges.iter() {
            self.seek(range.start / BLOCK_SIZE);
            found = found.union(&self.step(u64::MAX, range.end.div_ceil(BLOCK_SIZE)).damaged);
        }
        found
    }
}

enum Verdict {
    /// The layer has nothing there.
    Nothing,
    Whole,
    Damaged,
}

/// The two files of a layer, side by side.
struct Content {
    chain: Chain,
    /// Files of the chain that belong to the layer: the top one, or all when it does not stand on another point.
    own: usize,
    size: u64,
    records: Peekable<digests::Reader>,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content").field("chain", &self.chain).finish_non_exhaustive()
    }
}

impl Content {
    fn open(file: &Path, digests: &Path, size: u64, stacked: bool) -> Result<Self> {
        // Its own digest is at the end, and before that was compared no record can be believed.
        digests::Reader::open(digests)?.try_for_each(|record| record.map(|_| ()))?;
        let records = digests::Reader::open(digests)?;
        let chain = Chain::open(file)?;
        if chain.size() != size || records.size != size {
            let why = format!("it is of {} bytes, its digests of {}, not {size}", chain.size(), records.size);
            return Err(StoreError::Format { path: file.to_owned(), why });
        }
        let own = if stacked { 1 } else { usize::MAX };
        Ok(Self { chain, own, size, records: records.peekable(), buffer: vec![0; BLOCK_SIZE as usize] })
    }

    fn skip(&mut self, block: u64) {
        while self.records.next_if(|r| r.as_ref().is_ok_and(|(at, _)| *at < block)).is_some() {}
    }

    /// The first block at or after `from` that a file or the digests may know.
    fn next(&mut self, from: u64) -> Option<u64> {
        self.skip(from);
        // An error is found again when the block is checked.
        let record = self.records.peek().map(|r| r.as_ref().map_or(from, |(block, _)| *block));
        let mapped = self.chain.next_mapped_in(self.own, from);
        [record, mapped].into_iter().flatten().min()
    }

    fn check(&mut self, block: u64) -> Verdict {
        let expected = match self.records.peek() {
            Some(Ok((at, digest))) if *at == block => Some(*digest),
            Some(Err(_)) => return Verdict::Damaged,
            _ => None,
        };
        let stacked = self.own == 1;
        match (self.chain.source_in(self.own, block), expected) {
            (Err(_), _) => Verdict::Damaged,
            (Ok(Source::Absent), None) => Verdict::Nothing,
            (Ok(Source::Zero { .. }), None) if !stacked => Verdict::Nothing,
            // It hides what is below, and nobody has said that it should.
            (Ok(_), None) if stacked => Verdict::Damaged,
            // Without a parent, what has no record is zero.
            (Ok(_), None) => self.compare(block, BlockDigest::zero_block()),
            // Through all files: while its parent is being merged into it, a block may still be in the parent's.
            (Ok(_), Some(digest)) => self.compare(block, digest),
        }
    }

    fn compare(&mut self, block: u64, expected: BlockDigest) -> Verdict {
        let range = block_range(block, self.size);
        let part = &mut self.buffer[..range.len() as usize];
        match self.chain.read(range.start, part) {
            Ok(()) if BlockDigest::of(part) == expected => Verdict::Whole,
            _ => Verdict::Damaged,
        }
    }
}
