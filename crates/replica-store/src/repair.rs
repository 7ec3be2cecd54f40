//! Putting damaged blocks right, with the same blocks from elsewhere in the store (R-REP-5).
//!
//! ```text
//!   a damaged newest point ─▶ the next point brings its damaged blocks along (`cycle::plan`), or is not accepted
//!                                            │
//!   damaged block of a layer ─▶ its digest ──┴─▶ a layer with a block of that digest ─▶ read, compared ─▶ written, synced ─▶ read again
//!                                 │                                                                                        │
//!                                 └ none has it: the guest has changed it since, the damage stays          note renewed ◀──┘
//! ```
//!
//! **Promise.** Nothing is written over but what was just read and found damaged, in layers that nobody runs on; what it is written from is
//! read from another file and compared first. A crash leaves a block damaged and noted, or mended. A point loses its note
//! only when every block of it was read again and found whole.

use std::collections::BTreeMap;

use understudy_ids::{DiskName, ItemName, PointSeq};
use understudy_replication::{
    digest::BlockDigest,
    extents::{BLOCK_SIZE, RangeSet, block_range},
};

use crate::{
    catalog::ancestry,
    check::{Findings, LayerName, own_blocks},
    digests,
    error::{Result, StoreError},
    layout::{DAMAGED, digest_file},
    model::{DiskManifest, Manifest},
    qcow2::{Chain, Mend, Mender, Source},
    store::{Store, StoreReader, write_json},
};

/// Blocks mended under one hold of the item's lock, so that nobody waits for long.
const TOGETHER: usize = 1024;

/// What became of an item's damage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Blocks that were put right.
    pub blocks: u64,
    /// Points that were damaged and are whole again, oldest first.
    pub whole: Vec<PointSeq>,
    /// Points that still show damage.
    pub damaged: Vec<PointSeq>,
}

/// A block that is to be put right.
struct Wanted {
    /// As the layer's digests have it; `None` when the layer should not have the block.
    digest: Option<BlockDigest>,
    /// Points whose own blocks have that digest.
    donors: Vec<PointSeq>,
}

impl StoreReader {
    /// Points that a scrub has found damaged, oldest first.
    pub fn damaged_points(&self, item: &ItemName) -> Result<Vec<PointSeq>> {
        let damaged = self.points(item)?.into_iter().filter(|p| p.damaged_blocks > 0);
        Ok(damaged.map(|p| p.manifest.seq).collect())
    }

    /// Where the damage that is noted lies, read again.
    fn damage_by_layer(&self, item: &ItemName) -> Result<Findings> {
        let mut noted = Findings::new();
        for point in self.points(item)?.into_iter().filter(|p| p.damaged_blocks > 0) {
            let damage = self.damage_of(&point.manifest);
            for layer in self.layers(item, Some(point.manifest.seq))? {
                let Some(ranges) = damage.disks.get(&layer.name.disk) else { continue };
                let known = noted.entry(layer.name).or_default();
                *known = known.union(ranges);
            }
        }
        self.confirm(item, &noted)
    }

    /// Refuses a point through which damage of its parent would show. `dir` is where its digests are.
    pub(crate) fn check_covers(&self, point: &Manifest, dir: &std::path::Path) -> Result<()> {
        let parent = point.parent.map(|seq| self.manifest(&point.item, seq)).transpose()?.flatten();
        let Some(parent) = parent else { return Ok(()) };
        let damage = self.damage_of(&parent);
        for disk in point.disks.iter().filter(|disk| disk.stacked) {
            let Some(damaged) = damage.disks.get(&disk.name) else { continue };
            let shown = damaged.difference(&own_blocks(&dir.join(digest_file(&disk.name)), damaged));
            if !shown.is_empty() {
                let blocks = shown.blocks().count() as u64;
                return Err(StoreError::Damaged { item: point.item.clone(), seq: parent.seq, blocks });
            }
        }
        Ok(())
    }
}

impl Store {
    /// Puts right what is damaged and what the store has elsewhere, as a rule in a point that came since. Layers that a test or a
    /// promoted machine stands on are left alone. Repeatable.
    ///
    /// # Errors
    /// When the store cannot be read or written. A layer that cannot be put right is no error.
    pub fn repair(&self, item: &ItemName) -> Result<Repaired> {
        let before = self.damaged_points(item)?;
        if before.is_empty() {
            return Ok(Repaired::default());
        }
        let found = {
            let locks = self.locks(item);
            let (_layers, _lock) = (locks.layers(), locks.state());
            self.damage_by_layer(item)?
        };
        let mut blocks = 0;
        for (name, ranges) in &found {
            let all: Vec<u64> = ranges.blocks().collect();
            for some in all.chunks(TOGETHER) {
                let locks = self.locks(item);
                let (_layers, _lock) = (locks.layers(), locks.state());
                blocks += self.mend_layer(item, name, ranges, some)?;
            }
        }
        let damaged = self.renew_notes(item)?;
        let whole = before.into_iter().filter(|seq| !damaged.contains(seq)).collect();
        tracing::info!(%item, blocks, ?whole, ?damaged, "damaged recovery points repaired");
        Ok(Repaired { blocks, whole, damaged })
    }

    /// Makes the notes that there are say what is damaged now. Returns the points that are.
    fn renew_notes(&self, item: &ItemName) -> Result<Vec<PointSeq>> {
        let locks = self.locks(item);
        let (_layers, _lock) = (locks.layers(), locks.state());
        let mut shown = self.shown(item, &self.damage_by_layer(item)?)?;
        let damaged = shown.keys().copied().collect();
        for seq in self.damaged_points(item)?.into_iter().rev() {
            let path = self.dir(item).point(seq).join(DAMAGED);
            match shown.remove(&seq) {
                Some(damage) => write_json(self.io(), &path, &damage)?,
                None => self.io().remove(&path)?,
            }
        }
        Ok(damaged)
    }

    /// Mends `some` of a layer's `damaged` blocks. Returns how many could be. The caller holds the item's lock.
    fn mend_layer(&self, item: &ItemName, name: &LayerName, damaged: &RangeSet, some: &[u64]) -> Result<u64> {
        if !self.may_be_mended(item, name)? {
            return Ok(0);
        }
        let Some(manifest) = self.manifest(item, name.seq)?.filter(|m| m.parent == name.parent) else {
            return Ok(0);
        };
        let Some(disk) = manifest.disk(&name.disk) else { return Ok(0) };
        let path = self.dir(item).point(name.seq).join(&disk.file);
        let opened = self.wanted(item, name, some).and_then(|wanted| {
            let mender = Mender::open(self.io(), &path, damaged)?;
            Ok((wanted, mender))
        });
        let (wanted, mender) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                tracing::warn!(%item, seq = %name.seq, disk = %name.disk, %error, "damage that cannot be repaired");
                return Ok(0);
            }
        };
        self.mend(item, disk, mender, wanted)
    }

    fn mend(
        &self,
        item: &ItemName,
        disk: &DiskManifest,
        mut mender: Mender,
        wanted: BTreeMap<u64, Wanted>,
    ) -> Result<u64> {
        let mut donors = Donors { reader: self, item, disk: &disk.name, open: BTreeMap::new() };
        let mut content = vec![0; BLOCK_SIZE as usize];
        let mut mended = 0;
        for (block, Wanted { digest, donors: seqs }) in wanted {
            match digest {
                None if disk.stacked => mender.mend(block, Mend::Absent)?,
                None => mender.mend(block, Mend::Zero)?,
                Some(digest) if digest.is_zero_block() => mender.mend(block, Mend::Zero)?,
                Some(digest) if seqs.iter().any(|seq| donors.read(*seq, block, digest, &mut content)) => {
                    mender.mend(block, Mend::Data(&content))?;
                }
                Some(_) => continue,
            }
            mended += 1;
        }
        if mended > 0 {
            mender.finish()?;
        }
        Ok(mended)
    }

    /// Whether nobody stands on a layer, and no merge was interrupted that may have it in two places.
    fn may_be_mended(&self, item: &ItemName, name: &LayerName) -> Result<bool> {
        let links = self.links(item)?;
        let pins = self.pins(item)?;
        let pinned = pins.iter().any(|(seq, _)| ancestry(&links, *seq).contains(&name.seq));
        Ok(!pinned && links.iter().all(|link| link.listed))
    }

    /// What the blocks of a layer have to be, and who else has them.
    fn wanted(&self, item: &ItemName, name: &LayerName, some: &[u64]) -> Result<BTreeMap<u64, Wanted>> {
        let records = |seq: PointSeq| {
            digests::Reader::open(&self.dir(item).point(seq).join(digest_file(&name.disk)))?
                .filter(|r| r.as_ref().map_or(true, |(block, _)| some.binary_search(block).is_ok()))
                .collect::<Result<Vec<digests::Record>>>()
        };
        let mut wanted: BTreeMap<u64, Wanted> =
            some.iter().map(|block| (*block, Wanted { digest: None, donors: Vec::new() })).collect();
        for (block, digest) in records(name.seq)? {
            wanted.entry(block).and_modify(|wanted| wanted.digest = Some(digest));
        }
        // Newest first: it was verified last.
        for link in self.links(item)?.into_iter().rev().filter(|l| l.seq != name.seq) {
            // One that has no such disk, or whose digests are damaged, gives nothing.
            for (block, digest) in records(link.seq).unwrap_or_default() {
                if let Some(wanted) = wanted.get_mut(&block).filter(|w| w.digest == Some(digest)) {
                    wanted.donors.push(link.seq);
                }
            }
        }
        Ok(wanted)
    }
}

/// Files that blocks are taken from.
struct Donors<'a> {
    reader: &'a StoreReader,
    item: &'a ItemName,
    disk: &'a DiskName,
    open: BTreeMap<PointSeq, Option<Chain>>,
}

impl Donors<'_> {
    /// Reads a point's own block, the rest of a last one padded with zeros. Whether it has the digest.
    fn read(&mut self, seq: PointSeq, block: u64, digest: BlockDigest, content: &mut [u8]) -> bool {
        let (reader, item, disk) = (self.reader, self.item, self.disk);
        let chain = self.open.entry(seq).or_insert_with(|| reader.open_disk(item, seq, disk).ok());
        let Some(chain) = chain else { return false };
        let range = block_range(block, chain.size());
        let (part, rest) = content.split_at_mut(range.len() as usize);
        rest.fill(0);
        let own = matches!(chain.source_in(1, block), Ok(Source::Data { .. }));
        own && chain.read(range.start, part).is_ok() && BlockDigest::of(part) == digest
    }
}
