//! Reading a disk through its chain of files.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use understudy_sealing::LuksHeader;

use super::{
    CLUSTER, COMPRESSED, OFFSET_MASK, TABLE_ENTRIES,
    header::{Backing, Header},
    placed, table,
};
use crate::{
    error::{IoContext, Result, StoreError},
    model::DiskFormat,
};

/// Chains longer than this are a loop.
const MAX_DEPTH: usize = 4096;
/// L2 tables of one file kept in memory; 64 KiB each.
const CACHED_TABLES: usize = 16;

/// Where a stretch of a disk comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// No file of the chain has it; reads as zeros.
    Absent,
    /// The file at this depth says that it reads as zeros.
    Zero { depth: usize },
    /// Data in the file at this depth; 0 is the top.
    Data { depth: usize },
}

/// A stretch of a disk with one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Bytes from the disk's start.
    pub start: u64,
    pub end: u64,
    pub source: Source,
}

/// A disk, read-only, through all the files below it.
#[derive(Debug)]
pub struct Chain {
    layers: Vec<Layer>,
}

#[derive(Debug)]
enum Layer {
    Qcow2(Image),
    Raw { file: File, path: PathBuf, size: u64 },
}

/// What one file says about one cluster.
pub(super) enum Found {
    Nothing,
    Zero,
    At(u64),
}

impl Chain {
    /// Opens a qcow2 file and everything it is stacked on.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_as(path, DiskFormat::Qcow2)
    }

    /// Opens a disk of the given format and everything it is stacked on.
    pub fn open_as(path: &Path, format: DiskFormat) -> Result<Self> {
        let mut layers = Vec::new();
        let mut next = Some((path.to_owned(), format));
        while let Some((path, format)) = next.take() {
            if layers.len() == MAX_DEPTH {
                return Err(StoreError::Format {
                    path,
                    why: "its chain of backing files does not end".to_owned(),
                });
            }
            match format {
                DiskFormat::Raw => layers.push(Layer::raw(path)?),
                DiskFormat::Qcow2 => {
                    let image = Image::open(&path)?;
                    next = image.backing().map(|b| (resolve(&path, &b.path), b.format));
                    layers.push(Layer::Qcow2(image));
                }
            }
        }
        Ok(Self { layers })
    }

    /// Opens a disk that came from elsewhere and has to stand alone: what is on a medium does not choose which other files of this
    /// host are read.
    ///
    /// # Errors
    /// [`StoreError::Format`] also when it is stacked on another file, or encrypted; I/O errors.
    pub(crate) fn open_alone(path: &Path, format: DiskFormat) -> Result<Self> {
        let refused = |why: &str| Err(StoreError::Format { path: path.to_owned(), why: why.to_owned() });
        let layer = match format {
            DiskFormat::Raw => Layer::raw(path.to_owned())?,
            DiskFormat::Qcow2 => Layer::Qcow2(Image::open(path)?),
        };
        if let Layer::Qcow2(image) = &layer {
            if image.backing().is_some() {
                return refused("it is stacked on another file; flatten it with qemu-img convert");
            }
            if image.luks()?.is_some() {
                return refused("it is encrypted; decrypt it with qemu-img convert");
            }
        }
        Ok(Self { layers: vec![layer] })
    }

    /// Size of the disk in bytes.
    pub fn size(&self) -> u64 {
        self.layers.first().map_or(0, Layer::size)
    }

    /// LUKS headers of the files from the top down; `None` for a file that is not encrypted. What [`Self::read`] gives of an
    /// encrypted file is its ciphertext.
    pub fn luks(&self) -> Result<Vec<Option<LuksHeader>>> {
        let header = |layer: &Layer| match layer {
            Layer::Qcow2(image) => image.luks(),
            Layer::Raw { .. } => Ok(None),
        };
        self.layers.iter().map(header).collect()
    }

    /// What the topmost file says that it stands on.
    pub fn backing(&self) -> Option<&Path> {
        match self.layers.first() {
            Some(Layer::Qcow2(image)) => image.backing().map(|backing| backing.path.as_path()),
            _ => None,
        }
    }

    /// Files from the top down.
    pub fn files(&self) -> impl Iterator<Item = &Path> + '_ {
        self.layers.iter().map(Layer::path)
    }

    /// Reads `buffer.len()` bytes from `offset` on.
    ///
    /// # Errors
    /// An I/O error, also when the range lies past the end of the disk.
    pub fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        if offset.checked_add(buffer.len() as u64).is_none_or(|end| end > self.size()) {
            let path = self.files().next().unwrap_or(Path::new("")).to_owned();
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof)).during("read past the end of", &path);
        }
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let len = ((CLUSTER - at % CLUSTER) as usize).min(buffer.len() - done);
            self.read_within_cluster(at, &mut buffer[done..done + len])?;
            done += len;
        }
        Ok(())
    }

    fn read_within_cluster(&mut self, at: u64, part: &mut [u8]) -> Result<()> {
        // A file that is shorter than the one above it hides what is below it past its own end.
        let mut limit = u64::MAX;
        for layer in &mut self.layers {
            limit = limit.min(layer.size());
            if at >= limit {
                break;
            }
            match layer.find(at / CLUSTER)? {
                Found::Nothing => continue,
                Found::Zero => break,
                Found::At(place) => {
                    let visible = part.len().min((limit - at) as usize);
                    part[visible..].fill(0);
                    return layer.read_at(place, at % CLUSTER, &mut part[..visible]);
                }
            }
        }
        part.fill(0);
        Ok(())
    }

    /// Where the cluster at number `cluster` comes from.
    pub fn source(&mut self, cluster: u64) -> Result<Source> {
        self.source_in(usize::MAX, cluster)
    }

    /// As [`Self::source`], as if the chain ended after its `files` topmost ones.
    pub(crate) fn source_in(&mut self, files: usize, cluster: u64) -> Result<Source> {
        for (depth, layer) in self.layers.iter_mut().enumerate().take(files) {
            if cluster * CLUSTER >= layer.size() {
                break;
            }
            match layer.find(cluster)? {
                Found::Nothing => continue,
                Found::Zero => return Ok(Source::Zero { depth }),
                Found::At(_) => return Ok(Source::Data { depth }),
            }
        }
        Ok(Source::Absent)
    }

    /// The first cluster at or after `cluster` that any file of the chain may have something of: steps over regions of 512 MiB
    /// of which no file has anything. `None` past the end of the disk.
    pub fn next_mapped(&self, cluster: u64) -> Option<u64> {
        self.next_mapped_in(usize::MAX, cluster)
    }

    /// As [`Self::next_mapped`], of the `files` topmost ones.
    pub(crate) fn next_mapped_in(&self, files: usize, cluster: u64) -> Option<u64> {
        let next = self.layers.iter().take(files).filter_map(|layer| layer.next_mapped(cluster)).min();
        next.filter(|next| next * CLUSTER < self.size())
    }

    /// The file and the place in it from which all of the cluster is read; `None` for zeros, and where files end within it.
    pub(crate) fn place(&mut self, cluster: u64) -> Result<Option<(&File, u64)>> {
        let end = (cluster + 1) * CLUSTER;
        for layer in &mut self.layers {
            if end > layer.size() {
                break;
            }
            match layer.find(cluster)? {
                Found::Nothing => continue,
                Found::Zero => break,
                Found::At(place) => return Ok(Some((layer.file(), place))),
            }
        }
        Ok(None)
    }

    /// The stretches of `[start, end)` and their sources, coalesced.
    pub fn extents(&mut self, start: u64, end: u64) -> Result<Vec<Extent>> {
        let end = end.min(self.size());
        let mut extents: Vec<Extent> = Vec::new();
        let mut at = start;
        while at < end {
            let next = ((at / CLUSTER + 1) * CLUSTER).min(end);
            let source = self.source(at / CLUSTER)?;
            match extents.last_mut() {
                Some(last) if last.source == source => last.end = next,
                _ => extents.push(Extent { start: at, end: next, source }),
            }
            at = next;
        }
        Ok(extents)
    }
}

/// Relative backing names are relative to the directory of the file that has them.
fn resolve(file: &Path, backing: &Path) -> PathBuf {
    file.parent().unwrap_or(Path::new(".")).join(backing)
}

impl Layer {
    fn raw(path: PathBuf) -> Result<Self> {
        use std::io::{Seek, SeekFrom};
        let mut file = File::open(&path).during("open", &path)?;
        // Seeking works for block devices too, whose metadata says zero.
        let size = file.seek(SeekFrom::End(0)).during("measure", &path)?;
        Ok(Self::Raw { file, path, size })
    }

    const fn size(&self) -> u64 {
        match self {
            Self::Qcow2(image) => image.header.size,
            Self::Raw { size, .. } => *size,
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Qcow2(image) => &image.path,
            Self::Raw { path, .. } => path,
        }
    }

    const fn file(&self) -> &File {
        match self {
            Self::Qcow2(image) => &image.file,
            Self::Raw { file, .. } => file,
        }
    }

    fn find(&mut self, cluster: u64) -> Result<Found> {
        match self {
            Self::Qcow2(image) => image.find(cluster),
            Self::Raw { .. } => Ok(Found::At(cluster * CLUSTER)),
        }
    }

    fn next_mapped(&self, cluster: u64) -> Option<u64> {
        match self {
            Self::Qcow2(image) => {
                let from = cluster / TABLE_ENTRIES;
                let table = (from..image.l1.len() as u64).find(|index| image.l2_offset(*index).is_some())?;
                Some(cluster.max(table * TABLE_ENTRIES))
            }
            Self::Raw { size, .. } => (cluster * CLUSTER < *size).then_some(cluster),
        }
    }

    /// Reads within a cluster that starts at `place` in the file; what the layer does not reach is zero.
    fn read_at(&self, place: u64, within: u64, part: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < part.len() {
            match self.file().read_at(&mut part[done..], place + within + done as u64) {
                // A last cluster need not be written to its end.
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e).during("read", self.path()),
            }
        }
        part[done..].fill(0);
        Ok(())
    }
}

/// One qcow2 file, without what it is stacked on.
#[derive(Debug)]
pub(super) struct Image {
    pub file: File,
    pub path: PathBuf,
    pub header: Header,
    l1: Vec<u64>,
    cache: HashMap<u64, Box<[u64]>>,
}

impl Image {
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).during("open", path)?;
        let mut first = vec![0; CLUSTER as usize];
        let length = file.metadata().during("stat", path)?.len();
        first.truncate(length.min(CLUSTER) as usize);
        file.read_exact_at(&mut first, 0).during("read", path)?;
        let header = Header::decode(path, &first)?;
        // Bounded by the file's length, so that a hostile header cannot ask for memory the file does not justify.
        if header.l1_offset + u64::from(header.l1_entries) * 8 > length {
            return Err(StoreError::Format {
                path: path.to_owned(),
                why: "its L1 table is cut off".to_owned(),
            });
        }
        let l1 = read_table(&file, path, header.l1_offset, u64::from(header.l1_entries))?;
        Ok(Self { file, path: path.to_owned(), header, l1: l1.into_vec(), cache: HashMap::new() })
    }

    /// Whether everything in the file has the place that its number gives it.
    pub fn is_placed(&self) -> bool {
        self.header.luks && self.header.l1_offset == placed::L1 * CLUSTER
    }

    /// The LUKS header of an encrypted file, when it is one of ours.
    pub fn luks(&self) -> Result<Option<LuksHeader>> {
        if !self.header.luks {
            return Ok(None);
        }
        let start = placed::LUKS * CLUSTER;
        let read = LuksHeader::read(|at, bytes| self.file.read_exact_at(bytes, start + at));
        read.during("read the LUKS header of", &self.path)
    }

    pub fn backing(&self) -> Option<&Backing> {
        self.header.backing.as_ref()
    }

    /// File offset of the L2 table that covers `cluster`.
    fn l2_offset(&self, index: u64) -> Option<u64> {
        self.l1.get(index as usize).map(|e| e & OFFSET_MASK).filter(|o| *o != 0)
    }

    /// Indices and offsets of the L2 tables that exist.
    pub fn l2_tables(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        (0..self.l1.len() as u64).filter_map(|index| self.l2_offset(index).map(|offset| (index, offset)))
    }

    pub fn read_l2(&self, offset: u64) -> Result<Box<[u64]>> {
        read_table(&self.file, &self.path, offset, TABLE_ENTRIES)
    }

    fn find(&mut self, cluster: u64) -> Result<Found> {
        let index = cluster / TABLE_ENTRIES;
        let Some(offset) = self.l2_offset(index) else { return Ok(Found::Nothing) };
        if !self.cache.contains_key(&index) {
            if self.cache.len() >= CACHED_TABLES {
                self.cache.clear();
            }
            self.cache.insert(index, self.read_l2(offset)?);
        }
        self.classify(self.cache[&index][(cluster % TABLE_ENTRIES) as usize])
    }

    pub fn classify(&self, entry: u64) -> Result<Found> {
        if entry & COMPRESSED != 0 {
            let why =
                "it has compressed clusters; write it anew with qemu-img convert, without -c".to_owned();
            return Err(StoreError::Format { path: self.path.clone(), why });
        }
        Ok(match (table::is_zero(entry), table::offset(entry)) {
            (true, _) => Found::Zero,
            (false, Some(offset)) => Found::At(offset),
            (false, None) => Found::Nothing,
        })
    }
}

fn read_table(file: &File, path: &Path, offset: u64, entries: u64) -> Result<Box<[u64]>> {
    let mut bytes = vec![0; entries as usize * 8];
    file.read_exact_at(&mut bytes, offset).during("read a table of", path)?;
    Ok(bytes
        .chunks_exact(8)
        .map(|b| u64::from_be_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
        .collect())
}
