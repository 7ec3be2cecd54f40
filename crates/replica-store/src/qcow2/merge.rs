//! Putting an overlay's clusters into the file it is stacked on, so that the overlay is not needed any more.
//!
//! ```text
//!   1  data clusters and new tables of the base, none of which anything refers to yet, or which the overlay hides
//!   2  refcounts                                                                        ── sync ──
//!   3  L2 and L1 entries, header                                                        ── sync ──
//! ```
//!
//! **Promise.** Seen through the overlay the disk is the same at every moment, also after a crash between any two writes, and
//! merging again completes the work: every cluster that changes is one that the overlay hides, and places and refcounts are
//! counted anew from the tables each time.
//!
//! [`mend`] puts single damaged clusters right by the same way. What it writes over is damaged, so a crash in the middle leaves them
//! damaged or mended, and every other cluster as it was.

use std::{collections::BTreeMap, os::unix::fs::FileExt, path::Path};

use understudy_replication::extents::RangeSet;

use super::{
    CLUSTER, COPIED, OFFSET_MASK, REFCOUNTS_PER_BLOCK, TABLE_ENTRIES, l1_entries, placed,
    reader::{Found, Image},
    table,
    used::{Kept, UsedClusters, is_doubtful},
};
use crate::{
    error::{IoContext, Result, StoreError},
    fsio::{Io, IoFile},
};

/// Bytes of a base and of its overlay that are known not to be what they were, and whose table entries may say anything.
#[derive(Debug, Default)]
pub(crate) struct Damaged {
    pub base: RangeSet,
    pub overlay: RangeSet,
}

/// Makes `base` read as `overlay` does now. Durable when this returns `true`; `false` when `makes_way`, which is asked with each cluster, said
/// that there is no time for it.
///
/// # Errors
/// Besides I/O errors, when `overlay` is shorter than `base`, or either is not of the supported subset.
pub(crate) fn merge_into(
    io: &Io,
    base: &Path,
    overlay: &Path,
    damaged: &Damaged,
    makes_way: &dyn Fn() -> bool,
) -> Result<bool> {
    let (mut merge, overlay) = open_both(io, base, overlay, damaged)?;
    let mut content = vec![0; CLUSTER as usize];
    for (index, offset) in overlay.l2_tables() {
        for (within, entry) in (0..).zip(overlay.read_l2(offset)?.iter()) {
            if makes_way() {
                return Ok(false);
            }
            let cluster = index * TABLE_ENTRIES + within;
            match overlay.classify(*entry) {
                Ok(Found::Nothing) => {}
                Ok(Found::Zero) => merge.put_zero(cluster)?,
                Ok(Found::At(place)) if !overlay.header.luks || place == placed::data(cluster) * CLUSTER => {
                    read_cluster(&overlay, place, &mut content)?;
                    merge.put_data(cluster, &content)?;
                }
                // It stays damaged, and goes on hiding what is below.
                _ if damaged.overlay.contains(cluster * CLUSTER) => merge.put_zero(cluster)?,
                Ok(Found::At(_)) => return Err(displaced(&overlay, cluster)),
                Err(error) => return Err(error),
            }
        }
    }
    merge.finish(overlay.header.size).map(|_| true)
}

/// Whether [`merge_into`] can do its work, found out before anything is changed.
pub(crate) fn check_merge(io: &Io, base: &Path, overlay: &Path, damaged: &Damaged) -> Result<()> {
    let (_, overlay) = open_both(io, base, overlay, damaged)?;
    check_tables(&overlay.path, &damaged.overlay)
}

/// Whether the tables of a file, but for the entries of `damaged` bytes, can be believed: whether an overlay may stand on it.
pub(crate) fn check_tables(path: &Path, damaged: &RangeSet) -> Result<()> {
    let image = Image::open(path)?;
    let end = image.file.metadata().during("stat", path)?.len().div_ceil(CLUSTER);
    UsedClusters::count(&image, &mut [], end, damaged).map(|_| ())
}

fn open_both(io: &Io, base: &Path, overlay: &Path, damaged: &Damaged) -> Result<(Merge, Image)> {
    let overlay = Image::open(overlay)?;
    let merge = Merge::open(io, base, &damaged.base)?;
    if overlay.header.size < merge.image.header.size {
        let why = "it is shorter than the file it is stacked on".to_owned();
        return Err(StoreError::Format { path: overlay.path, why });
    }
    alike(&merge.image, &overlay)?;
    Ok((merge, overlay))
}

/// How a damaged cluster is put right.
pub(crate) enum Mend<'a> {
    /// With a whole cluster that was found elsewhere.
    Data(&'a [u8]),
    Zero,
    /// The file should not have it at all.
    Absent,
}

/// A file of which single clusters are put right.
pub(crate) struct Mender(Merge);

impl Mender {
    /// Opens a file of which nothing but `damaged` is put in doubt.
    ///
    /// # Errors
    /// When its tables cannot be believed, or it is encrypted with its clusters anywhere, where none can be put from elsewhere.
    pub fn open(io: &Io, path: &Path, damaged: &RangeSet) -> Result<Self> {
        let merge = Merge::open(io, path, damaged)?;
        if merge.image.header.luks && !merge.image.is_placed() {
            let why = "what is encrypted there is tied to its place".to_owned();
            return Err(StoreError::Format { path: path.to_owned(), why });
        }
        Ok(Self(merge))
    }

    /// Puts a cluster of the damaged bytes right.
    pub fn mend(&mut self, cluster: u64, how: Mend<'_>) -> Result<()> {
        match how {
            Mend::Data(content) => self.0.put_data(cluster, content),
            Mend::Zero => self.0.put_zero(cluster),
            Mend::Absent => self.0.remove(cluster),
        }
    }

    /// Makes what was put right durable. Before that, nothing is.
    pub fn finish(self) -> Result<()> {
        let size = self.0.image.header.size;
        self.0.finish(size).map(|_| ())
    }
}

/// Ciphertext can be moved only between files of one key, each cluster in its place (see [`placed`]).
fn alike(base: &Image, overlay: &Image) -> Result<()> {
    if !base.header.luks && !overlay.header.luks {
        return Ok(());
    }
    let one_key =
        base.luks()?.is_some_and(|header| matches!(overlay.luks(), Ok(Some(other)) if other == header));
    if one_key && base.is_placed() && overlay.is_placed() {
        return Ok(());
    }
    let why = "it is encrypted otherwise than the file it is stacked on".to_owned();
    Err(StoreError::Format { path: overlay.path.clone(), why })
}

fn displaced(image: &Image, cluster: u64) -> StoreError {
    let why = format!("cluster {cluster} is not where it has to be in an encrypted file");
    StoreError::Format { path: image.path.clone(), why }
}

/// The last cluster of a file that QEMU wrote may be cut off; what is missing is zero.
fn read_cluster(image: &Image, place: u64, content: &mut [u8]) -> Result<()> {
    let mut done = 0;
    while done < content.len() {
        match image.file.read_at(&mut content[done..], place + done as u64).during("read", &image.path)? {
            0 => break,
            n => done += n,
        }
    }
    content[done..].fill(0);
    Ok(())
}

/// A base that is being changed.
struct Merge {
    image: Image,
    file: IoFile,
    used: UsedClusters,
    /// L2 tables that change: where they are in the file, and their entries to be.
    tables: BTreeMap<u64, Changed>,
    refcount_table: Vec<u64>,
    damaged: RangeSet,
    kept: Kept,
}

struct Changed {
    place: u64,
    entries: Box<[u64]>,
    changed: bool,
}

impl Merge {
    fn open(io: &Io, path: &Path, damaged: &RangeSet) -> Result<Self> {
        let image = Image::open(path)?;
        let file = io.open(path)?;
        let header = &image.header;
        let refcounts_end = header.refcount_offset + u64::from(header.refcount_clusters) * CLUSTER;
        if refcounts_end > file.len()?.next_multiple_of(CLUSTER) {
            let why = "its refcount table is cut off".to_owned();
            return Err(StoreError::Format { path: image.path, why });
        }
        let mut refcount_table = vec![0; (u64::from(header.refcount_clusters) * TABLE_ENTRIES) as usize];
        let mut bytes = vec![0; refcount_table.len() * 8];
        file.read_at(&mut bytes, header.refcount_offset)?;
        let end = file.len()?.div_ceil(CLUSTER);
        for (entry, bytes) in refcount_table.iter_mut().zip(bytes.chunks_exact(8)) {
            let place = bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)) & OFFSET_MASK;
            // A crash may have kept an entry and lost its block; that block is then made again.
            *entry = if place / CLUSTER < end { place } else { 0 };
        }
        let (used, kept) = UsedClusters::count(&image, &mut refcount_table, end, damaged)?;
        let damaged = damaged.clone();
        Ok(Self { image, file, used, tables: BTreeMap::new(), refcount_table, damaged, kept })
    }

    /// Makes a doubtful entry say what can be believed of it.
    fn doubt(&mut self, cluster: u64) -> Result<()> {
        let entry = self.entry(cluster)?;
        if !is_doubtful(&self.image, cluster, entry, &self.damaged) {
            return Ok(());
        }
        let kept = self.kept.get(&cluster).copied();
        match kept.filter(|place| !self.image.is_placed() || *place == placed::data(cluster) * CLUSTER) {
            Some(place) => self.set(cluster, table::data_entry(place)),
            None => self.remove(cluster),
        }
    }

    fn remove(&mut self, cluster: u64) -> Result<()> {
        if let Some(place) = self.kept.remove(&cluster) {
            self.used.release(place / CLUSTER);
        }
        self.set(cluster, 0)
    }

    fn put_zero(&mut self, cluster: u64) -> Result<()> {
        self.doubt(cluster)?;
        let has_backing = self.image.backing().is_some();
        let entry = self.entry(cluster)?;
        if entry != 0 || has_backing {
            self.set(cluster, table::zeroed(entry))?;
        }
        Ok(())
    }

    fn put_data(&mut self, cluster: u64, content: &[u8]) -> Result<()> {
        self.doubt(cluster)?;
        let place = match table::offset(self.entry(cluster)?) {
            Some(place) if self.image.header.luks && place != placed::data(cluster) * CLUSTER => {
                return Err(displaced(&self.image, cluster));
            }
            Some(place) => place,
            None => self.take(placed::data(cluster)),
        };
        self.file.write_at(content, place)?;
        self.set(cluster, table::data_entry(place))
    }

    /// Takes a free cluster for what stands at `place` in a placed file; returns its offset in bytes.
    fn take(&mut self, place: u64) -> u64 {
        if !self.image.is_placed() {
            return self.used.take(1) * CLUSTER;
        }
        self.used.mark(place, 1);
        place * CLUSTER
    }

    fn entry(&mut self, cluster: u64) -> Result<u64> {
        Ok(self.table(cluster / TABLE_ENTRIES)?.entries[(cluster % TABLE_ENTRIES) as usize])
    }

    fn set(&mut self, cluster: u64, value: u64) -> Result<()> {
        let table = self.table(cluster / TABLE_ENTRIES)?;
        let entry = &mut table.entries[(cluster % TABLE_ENTRIES) as usize];
        table.changed |= *entry != value;
        *entry = value;
        Ok(())
    }

    fn table(&mut self, index: u64) -> Result<&mut Changed> {
        if !self.tables.contains_key(&index) {
            let known = self.image.l2_tables().find(|(i, _)| *i == index);
            let table = match known {
                Some((_, place)) => Changed { place, entries: self.image.read_l2(place)?, changed: false },
                None => Changed {
                    place: self.take(placed::l2(index)),
                    entries: vec![0; TABLE_ENTRIES as usize].into(),
                    changed: true,
                },
            };
            self.tables.insert(index, table);
        }
        // Just inserted where it was missing.
        Ok(self.tables.entry(index).or_insert_with(|| unreachable!("the table was inserted above")))
    }

    fn finish(mut self, size: u64) -> Result<u64> {
        let entries = l1_entries(size).max(u64::from(self.image.header.l1_entries));
        let mut header = self.image.header.clone();
        header.size = size;
        if entries > u64::from(header.l1_entries) {
            let clusters = (entries * 8).div_ceil(CLUSTER);
            if self.image.is_placed() {
                self.used.mark(placed::L1, clusters);
            } else {
                header.l1_offset = self.used.take(clusters) * CLUSTER;
            }
            header.l1_entries = entries as u32;
        }
        if self.image.is_placed() {
            self.grow(&mut header)?;
        }
        self.write_refcounts()?;
        self.file.sync()?;

        let mut buffer = Vec::with_capacity(CLUSTER as usize);
        for table in self.tables.values().filter(|t| t.changed) {
            table::encode(table.entries.iter().copied(), &mut buffer);
            self.file.write_at(&buffer, table.place)?;
        }
        // The L1 table must not name an L2 table that is not there yet.
        self.file.sync()?;
        self.write_l1(&header)?;
        self.file.sync()?;
        let mut first = vec![0; 512];
        self.file.read_at(&mut first, 0)?;
        header.patch(&mut first);
        self.file.write_at(&first, 0)?;
        self.file.sync()?;
        self.file.len()
    }

    /// Of a placed file, length and refcount table follow from the disk's size.
    fn grow(&mut self, header: &mut super::header::Header) -> Result<()> {
        let clusters = placed::refcount_table_clusters(header.size);
        header.refcount_clusters = header.refcount_clusters.max(clusters as u32);
        self.used.mark(placed::REFCOUNT_TABLE, u64::from(header.refcount_clusters));
        self.refcount_table.resize((u64::from(header.refcount_clusters) * TABLE_ENTRIES) as usize, 0);
        let length = placed::length(header.size);
        if length > self.file.len()? { self.file.truncate(length) } else { Ok(()) }
    }

    fn write_l1(&self, header: &super::header::Header) -> Result<()> {
        let mut l1 = vec![0; header.l1_entries as usize];
        for (index, place) in self.image.l2_tables().chain(self.tables.iter().map(|(i, t)| (*i, t.place))) {
            l1[index as usize] = place | COPIED;
        }
        let mut bytes = Vec::with_capacity(l1.len() * 8);
        table::encode(l1.into_iter(), &mut bytes);
        self.file.write_at(&bytes, header.l1_offset)
    }

    /// Writes every refcount block that does not say what the tables say.
    fn write_refcounts(&mut self) -> Result<()> {
        self.add_refcount_blocks()?;
        let mut wanted = vec![0; CLUSTER as usize];
        let mut present = vec![0; CLUSTER as usize];
        for (index, place) in (0..).zip(self.refcount_table.iter()).filter(|(_, place)| **place != 0) {
            self.used.refcounts(index, &mut wanted);
            // A block that was just added may lie past the end of the file.
            let known = *place + CLUSTER <= self.file.len()?;
            if known {
                self.file.read_at(&mut present, *place)?;
            }
            if !known || present != wanted {
                self.file.write_at(&wanted, *place)?;
            }
        }
        let mut bytes = Vec::with_capacity(self.refcount_table.len() * 8);
        table::encode(self.refcount_table.iter().copied(), &mut bytes);
        self.file.write_at(&bytes, self.image.header.refcount_offset)
    }

    fn add_refcount_blocks(&mut self) -> Result<()> {
        if self.image.is_placed() {
            // The table was made long enough for the whole file.
            for block in self.used.mark_placed_blocks() {
                self.refcount_table[block as usize] = placed::refcount_block(block) * CLUSTER;
            }
            return Ok(());
        }
        let mut index = 0;
        while index * REFCOUNTS_PER_BLOCK < self.used.len() {
            let Some(place) = self.refcount_table.get(index as usize) else {
                let why = "its refcount table is full".to_owned();
                return Err(StoreError::Format { path: self.image.path.clone(), why });
            };
            if *place == 0 {
                self.refcount_table[index as usize] = self.used.take(1) * CLUSTER;
            }
            index += 1;
        }
        Ok(())
    }
}
