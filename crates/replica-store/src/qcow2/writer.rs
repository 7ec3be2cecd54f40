//! Writing a new file as clusters arrive, and making empty overlays.

use std::path::Path;

use understudy_sealing::LuksHeader;

use super::{
    CLUSTER, REFCOUNTS_PER_BLOCK, TABLE_ENTRIES,
    header::{Backing, Header},
    l1_entries, placed,
    table::{self, Table},
    used::UsedClusters,
};
use crate::{
    error::Result,
    fsio::{Io, IoFile},
};

/// What a writer knows of one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cluster {
    /// Not in this file: reads from the backing file, or as zeros without one.
    Absent,
    /// In the file at this offset.
    Data(u64),
    /// Reads as zeros, over whatever the backing file has. Keeps the place it had in the file, if any.
    Zero(Option<u64>),
}

/// A new qcow2 file. Clusters may come in any order and again; the tables are written by [`Writer::finish`], before which the
/// file is not readable as qcow2.
#[derive(Debug)]
pub struct Writer {
    file: IoFile,
    size: u64,
    backing: Option<Backing>,
    table: Table,
    /// Number of the next free cluster of the file.
    next: u64,
    /// Of an encrypted file, whose content comes encrypted.
    luks: Option<Box<LuksHeader>>,
    layout: Layout,
}

/// Where clusters go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// One behind the other, as they come.
    Appended,
    /// Each at the place that its number gives it: see [`placed`].
    Placed,
}

impl Writer {
    /// Begins a file for a disk of `size` bytes.
    pub fn create(path: &Path, size: u64, backing: Option<Backing>) -> Result<Self> {
        Self::create_with(&Io::default(), path, size, backing, None)
    }

    /// As [`Self::create`], of a disk whose clusters come encrypted, each for its place in the file.
    pub fn create_sealed(path: &Path, size: u64, backing: Option<Backing>, luks: LuksHeader) -> Result<Self> {
        Self::create_with(&Io::default(), path, size, backing, Some(luks))
    }

    pub(crate) fn create_with(
        io: &Io,
        path: &Path,
        size: u64,
        backing: Option<Backing>,
        luks: Option<LuksHeader>,
    ) -> Result<Self> {
        Ok(Self::on(io.create(path)?, size, backing, luks))
    }

    /// Goes on with a file that was interrupted. Its clusters have to be told with [`Self::restore`].
    pub(crate) fn reopen(
        io: &Io,
        path: &Path,
        size: u64,
        backing: Option<Backing>,
        luks: Option<LuksHeader>,
    ) -> Result<Self> {
        Ok(Self::on(io.open(path)?, size, backing, luks))
    }

    fn on(file: IoFile, size: u64, backing: Option<Backing>, luks: Option<LuksHeader>) -> Self {
        let layout = if luks.is_some() { Layout::Placed } else { Layout::Appended };
        Self { file, size, backing, table: Table::default(), next: 1, luks: luks.map(Box::new), layout }
    }

    /// Says what is known about a cluster of a reopened file.
    pub(crate) fn restore(&mut self, cluster: u64, state: Cluster) {
        let (entry, place) = match state {
            Cluster::Absent => (0, None),
            Cluster::Data(offset) => (table::data_entry(offset), Some(offset)),
            Cluster::Zero(Some(offset)) => (table::zeroed(table::data_entry(offset)), Some(offset)),
            Cluster::Zero(None) => (table::zeroed(0), None),
        };
        self.table.set(cluster, entry);
        if let Some(offset) = place {
            self.next = self.next.max(offset / CLUSTER + 1);
        }
    }

    pub const fn size(&self) -> u64 {
        self.size
    }

    pub(crate) const fn has_backing(&self) -> bool {
        self.backing.is_some()
    }

    pub fn cluster(&self, cluster: u64) -> Cluster {
        let entry = self.table.get(cluster);
        match (table::is_zero(entry), table::offset(entry)) {
            (true, place) => Cluster::Zero(place),
            (false, Some(offset)) => Cluster::Data(offset),
            (false, None) => Cluster::Absent,
        }
    }

    /// Every cluster that is in the file, ascending.
    pub fn clusters(&self) -> impl Iterator<Item = u64> + '_ {
        self.table.clusters().map(|(cluster, _)| cluster)
    }

    /// Writes clusters from number `first` on. `content` may end within a cluster at the disk's end; the rest is zero. What lies
    /// together in the file is written at once.
    pub fn write(&mut self, first: u64, content: &[u8]) -> Result<()> {
        let (mut cluster, mut rest) = (first, content);
        while !rest.is_empty() {
            let place = self.place(cluster);
            let most = (rest.len() as u64).div_ceil(CLUSTER);
            let together = (1..most).find(|n| self.place(cluster + n) != place + n * CLUSTER).unwrap_or(most);
            let (run, after) = rest.split_at(rest.len().min((together * CLUSTER) as usize));
            self.file.write_at(run, place)?;
            self.pad(place + run.len() as u64)?;
            (cluster, rest) = (cluster + together, after);
        }
        Ok(())
    }

    /// Where a cluster is in the file from now on: where it was, or the next free place.
    fn place(&mut self, cluster: u64) -> u64 {
        let place = match self.cluster(cluster) {
            Cluster::Data(offset) => return offset,
            Cluster::Zero(Some(offset)) => offset,
            Cluster::Absent | Cluster::Zero(None) if self.layout == Layout::Placed => {
                placed::data(cluster) * CLUSTER
            }
            Cluster::Absent | Cluster::Zero(None) => {
                self.next += 1;
                (self.next - 1) * CLUSTER
            }
        };
        self.table.set(cluster, table::data_entry(place));
        place
    }

    /// Zeros up to the end of a cluster that ends elsewhere.
    fn pad(&self, end: u64) -> Result<()> {
        let short = end.next_multiple_of(CLUSTER) - end;
        if short == 0 { Ok(()) } else { self.file.write_at(&vec![0; short as usize], end) }
    }

    /// Makes one cluster read as zeros.
    pub fn write_zero(&mut self, cluster: u64) {
        let entry = self.table.get(cluster);
        if entry != 0 || self.backing.is_some() {
            self.table.set(cluster, table::zeroed(entry));
        }
    }

    /// The file, for whoever makes durable what has been written so far.
    pub(crate) const fn file(&self) -> &IoFile {
        &self.file
    }

    /// Writes the tables, makes all of it durable, and returns the bytes that the file takes.
    pub fn finish(self) -> Result<u64> {
        self.write_all_tables()?;
        self.file.sync()?;
        self.stored()
    }

    /// Writes the tables. What is left is to make the file durable.
    pub(crate) fn write_all_tables(&self) -> Result<()> {
        for (at, bytes) in self.luks.iter().flat_map(|luks| luks.pieces()) {
            self.file.write_at(bytes, placed::LUKS * CLUSTER + at)?;
        }
        let header = match self.layout {
            Layout::Appended => self.write_tables()?,
            Layout::Placed => self.write_placed_tables()?,
        };
        self.file.write_at(&header.encode(self.file.path())?, 0)
    }

    /// Bytes that the file takes.
    pub(crate) fn stored(&self) -> Result<u64> {
        match self.layout {
            Layout::Appended => self.file.len(),
            Layout::Placed => self.file.allocated(),
        }
    }

    /// Data first in the file or tables first, they are written in the same order.
    fn write_placed_tables(&self) -> Result<Header> {
        let mut used = UsedClusters::new();
        used.mark(0, 1);
        used.mark(placed::LUKS, placed::LUKS_CLUSTERS);
        let mut buffer = Vec::with_capacity(CLUSTER as usize);
        let mut l1 = vec![0; l1_entries(self.size) as usize];
        for (index, entries) in self.table.iter() {
            let place = placed::l2(index);
            used.mark(place, 1);
            l1[index as usize] = table::data_entry(place * CLUSTER);
            table::encode(entries.iter().copied(), &mut buffer);
            self.file.write_at(&buffer, place * CLUSTER)?;
        }
        for offset in self.table.clusters().filter_map(|(_, entry)| table::offset(entry)) {
            used.mark(offset / CLUSTER, 1);
        }
        let entries = l1.len() as u32;
        table::encode(l1.into_iter(), &mut buffer);
        buffer.resize(buffer.len().next_multiple_of(CLUSTER as usize), 0);
        used.mark(placed::L1, buffer.len() as u64 / CLUSTER);
        self.file.write_at(&buffer, placed::L1 * CLUSTER)?;
        let table_clusters = placed::refcount_table_clusters(self.size);
        used.mark(placed::REFCOUNT_TABLE, table_clusters);
        self.write_placed_refcounts(&mut used, table_clusters)?;
        self.file.truncate(placed::length(self.size))?;
        Ok(Header {
            size: self.size,
            backing: self.backing.clone(),
            l1_offset: placed::L1 * CLUSTER,
            l1_entries: entries,
            refcount_offset: placed::REFCOUNT_TABLE * CLUSTER,
            refcount_clusters: table_clusters as u32,
            luks: true,
        })
    }

    fn write_placed_refcounts(&self, used: &mut UsedClusters, table_clusters: u64) -> Result<()> {
        let mut table = vec![0; (table_clusters * TABLE_ENTRIES) as usize];
        let mut buffer = vec![0; CLUSTER as usize];
        for block in used.mark_placed_blocks() {
            let place = placed::refcount_block(block) * CLUSTER;
            table[block as usize] = place;
            used.refcounts(block, &mut buffer);
            self.file.write_at(&buffer, place)?;
        }
        table::encode(table.into_iter(), &mut buffer);
        self.file.write_at(&buffer, placed::REFCOUNT_TABLE * CLUSTER)
    }

    fn write_tables(&self) -> Result<Header> {
        let mut buffer = Vec::with_capacity(CLUSTER as usize);
        let l2_start = self.next;
        for (place, (_, entries)) in (l2_start..).zip(self.table.iter()) {
            table::encode(entries.iter().copied(), &mut buffer);
            self.file.write_at(&buffer, place * CLUSTER)?;
        }
        let l1_len = l1_entries(self.size);
        let l1_start = l2_start + self.table.len();
        self.write_l1(l1_start, l2_start, l1_len)?;
        let refcount_start = l1_start + (l1_len * 8).div_ceil(CLUSTER);
        let layout = RefcountLayout::after(refcount_start, self.size);
        layout.write(&self.file)?;
        self.file.truncate(layout.end() * CLUSTER)?;
        Ok(Header {
            size: self.size,
            backing: self.backing.clone(),
            l1_offset: l1_start * CLUSTER,
            l1_entries: l1_len as u32,
            refcount_offset: layout.table_start() * CLUSTER,
            refcount_clusters: layout.table_clusters as u32,
            luks: self.luks.is_some(),
        })
    }

    fn write_l1(&self, at: u64, l2_start: u64, len: u64) -> Result<()> {
        let mut l1 = vec![0; (len * 8).next_multiple_of(CLUSTER) as usize];
        for (place, (index, _)) in (l2_start..).zip(self.table.iter()) {
            let entry = table::data_entry(place * CLUSTER);
            l1[index as usize * 8..][..8].copy_from_slice(&entry.to_be_bytes());
        }
        self.file.write_at(&l1, at * CLUSTER)
    }
}

/// Refcount blocks and table at the end of a file whose every cluster is used once, themselves included.
struct RefcountLayout {
    start: u64,
    blocks: u64,
    table_clusters: u64,
}

impl RefcountLayout {
    /// The table is made long enough for the file to grow to the whole disk by later merging, so that it never has to move.
    fn after(start: u64, disk_size: u64) -> Self {
        let whole_disk =
            start + disk_size.div_ceil(CLUSTER) + disk_size.div_ceil(CLUSTER * TABLE_ENTRIES) * 2;
        let table_clusters = (whole_disk.div_ceil(REFCOUNTS_PER_BLOCK) + 2).div_ceil(TABLE_ENTRIES);
        let mut blocks = 1;
        while blocks * REFCOUNTS_PER_BLOCK < start + blocks + table_clusters {
            blocks += 1;
        }
        Self { start, blocks, table_clusters }
    }

    const fn table_start(&self) -> u64 {
        self.start + self.blocks
    }

    const fn end(&self) -> u64 {
        self.table_start() + self.table_clusters
    }

    fn write(&self, file: &IoFile) -> Result<()> {
        let mut buffer = vec![0; CLUSTER as usize];
        for block in 0..self.blocks {
            let first = block * REFCOUNTS_PER_BLOCK;
            for (index, count) in buffer.chunks_exact_mut(2).enumerate() {
                let used = first + (index as u64) < self.end();
                count.copy_from_slice(&u16::from(used).to_be_bytes());
            }
            file.write_at(&buffer, (self.start + block) * CLUSTER)?;
        }
        for cluster in 0..self.table_clusters {
            let first = cluster * TABLE_ENTRIES;
            let entry = |i: u64| if i < self.blocks { (self.start + i) * CLUSTER } else { 0 };
            table::encode((first..first + TABLE_ENTRIES).map(entry), &mut buffer);
            file.write_at(&buffer, (self.table_start() + cluster) * CLUSTER)?;
        }
        Ok(())
    }
}

/// An empty overlay of `size` bytes over `backing`: a few clusters, whatever the size. Durable when this returns.
pub fn create_overlay(path: &Path, backing: Backing, size: u64) -> Result<()> {
    create_overlay_with(&Io::default(), path, backing, size, None)
}

/// As [`create_overlay`]; what QEMU writes to it is encrypted with the header's key, wherever QEMU puts it.
pub fn create_sealed_overlay(path: &Path, backing: Backing, size: u64, luks: LuksHeader) -> Result<()> {
    create_overlay_with(&Io::default(), path, backing, size, Some(luks))
}

pub(crate) fn create_overlay_with(
    io: &Io,
    path: &Path,
    backing: Backing,
    size: u64,
    luks: Option<LuksHeader>,
) -> Result<()> {
    let mut overlay = Writer::create_with(io, path, size, Some(backing), luks)?;
    overlay.layout = Layout::Appended;
    if overlay.luks.is_some() {
        overlay.next = placed::LUKS + placed::LUKS_CLUSTERS;
    }
    overlay.finish().map(|_| ())
}
