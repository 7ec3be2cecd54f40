//! One simulated disk: a qcow2 chain, what has been written since the start, and who wants to know of changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use understudy_replica_store::{
    DiskFormat,
    qcow2::{Backing, CLUSTER, Chain, Source, Writer},
};

use super::{
    failed,
    journal::{Record, SECTOR},
};
use crate::Error;

/// What has been written since the machine started, by number of the cluster. Cloning shares the contents, so a snapshot
/// of a disk is a clone of this.
pub type Clusters = BTreeMap<u64, Arc<[u8]>>;

pub struct SimulatedDisk {
    file: PathBuf,
    chain: Chain,
    pub written: Clusters,
    overlay: Overlay,
}

/// The written clusters on disk: contents at their own places in one sparse file, their numbers in another. A number is
/// appended after its content, so what is listed is there.
struct Overlay {
    data_path: PathBuf,
    list_path: PathBuf,
    data: File,
    list: File,
}

impl Overlay {
    fn open(base: &Path) -> std::io::Result<Self> {
        let (data_path, list_path) = (base.with_extension("data"), base.with_extension("list"));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true);
        let data = options.open(&data_path)?;
        let list = OpenOptions::new().read(true).append(true).create(true).open(&list_path)?;
        Ok(Self { data_path, list_path, data, list })
    }

    fn load(&mut self) -> std::io::Result<Clusters> {
        let mut list = Vec::new();
        self.list.read_to_end(&mut list)?;
        let mut written = Clusters::new();
        // An entry that was cut short by a crash was never acknowledged.
        for entry in list.chunks_exact(8) {
            let cluster = u64::from_be_bytes(entry.try_into().unwrap_or_default());
            let mut content = vec![0; CLUSTER as usize];
            self.data.read_exact_at(&mut content, cluster * CLUSTER)?;
            written.insert(cluster, content.into());
        }
        Ok(written)
    }

    fn put(&mut self, cluster: u64, content: &[u8], is_new: bool) -> std::io::Result<()> {
        self.data.write_all_at(content, cluster * CLUSTER)?;
        if is_new {
            self.list.write_all(&cluster.to_be_bytes())?;
        }
        Ok(())
    }

    fn clear(&mut self) -> std::io::Result<()> {
        self.list.set_len(0)?;
        self.data.set_len(0)
    }
}

impl SimulatedDisk {
    /// `overlay` is where to keep what is written; what a process that died has left there is part of the disk.
    pub fn open(file: &Path, overlay: &Path) -> Result<Self, Error> {
        let what = || format!("opening disk {}", file.display());
        let chain = Chain::open(file).map_err(|error| failed(what(), error))?;
        let mut overlay = Overlay::open(overlay).map_err(|error| failed(what(), error))?;
        let written = overlay.load().map_err(|error| failed(what(), error))?;
        Ok(Self { file: file.to_owned(), chain, written, overlay })
    }

    pub fn size(&self) -> u64 {
        self.chain.size()
    }

    /// A second view of the chain, for a snapshot.
    pub fn chain(&self) -> Result<Chain, Error> {
        Chain::open(&self.file)
            .map_err(|error| failed(format!("opening disk {}", self.file.display()), error))
    }

    /// Writes and returns the numbers of the clusters that were touched.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<BTreeSet<u64>, Error> {
        let what = format!("writing to disk {}", self.file.display());
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= self.size());
        let end = end.ok_or_else(|| failed(what.clone(), "the range lies outside the disk"))?;
        let touched: BTreeSet<u64> = (offset / CLUSTER..end.div_ceil(CLUSTER)).collect();
        for cluster in &touched {
            let start = cluster * CLUSTER;
            let mut content = self.cluster(*cluster)?;
            let from = offset.max(start);
            let to = end.min(start + CLUSTER);
            let part = &bytes[(from - offset) as usize..(to - offset) as usize];
            content[(from - start) as usize..(to - start) as usize].copy_from_slice(part);
            let is_new = !self.written.contains_key(cluster);
            self.overlay.put(*cluster, &content, is_new).map_err(|error| failed(what.clone(), error))?;
            self.written.insert(*cluster, content.into());
        }
        Ok(touched)
    }

    /// Number of the last whole journal record on it.
    pub fn last_record(&mut self) -> Result<Option<u64>, Error> {
        let mut last = None;
        for cluster in self.size() / 2 / CLUSTER..self.size().div_ceil(CLUSTER) {
            let source = self.chain.source(cluster);
            let source = source.map_err(|error| failed("reading a simulated journal", error))?;
            if self.written.contains_key(&cluster) || matches!(source, Source::Data { .. }) {
                let content = self.cluster(cluster)?;
                let records = content.chunks_exact(SECTOR as usize).filter_map(Record::decode);
                last = last.max(records.map(|record| record.number).max());
            }
        }
        Ok(last)
    }

    fn cluster(&mut self, cluster: u64) -> Result<Vec<u8>, Error> {
        match self.written.get(&cluster) {
            Some(content) => Ok(content.to_vec()),
            None => read_cluster(&mut self.chain, cluster),
        }
    }

    /// Puts what was written into the qcow2 file: a new file beside it takes its place whole.
    pub fn settle(&mut self) -> Result<(), Error> {
        if self.written.is_empty() { Ok(()) } else { self.rewrite(self.size()) }
    }

    /// Makes the disk larger or smaller, under a running machine too.
    pub fn resize(&mut self, size: u64) -> Result<(), Error> {
        self.rewrite(size)
    }

    fn rewrite(&mut self, size: u64) -> Result<(), Error> {
        let what = format!("writing back disk {}", self.file.display());
        let fresh = self.file.with_extension("settling");
        let mut writer =
            Writer::create(&fresh, size, self.backing()?).map_err(|error| failed(what.clone(), error))?;
        for cluster in 0..self.size().min(size).div_ceil(CLUSTER) {
            let source = self.chain.source(cluster).map_err(|error| failed(what.clone(), error))?;
            if self.written.contains_key(&cluster) || matches!(source, Source::Data { depth: 0 }) {
                let content = self.cluster(cluster)?;
                writer.write(cluster, &content).map_err(|error| failed(what.clone(), error))?;
            } else if matches!(source, Source::Zero { depth: 0 }) {
                writer.write_zero(cluster);
            }
        }
        writer.finish().map_err(|error| failed(what.clone(), error))?;
        fs::rename(&fresh, &self.file).map_err(|error| failed(what.clone(), error))?;
        self.chain = self.chain()?;
        self.written.clear();
        self.overlay.clear().map_err(|error| failed(what, error))
    }

    fn backing(&self) -> Result<Option<Backing>, Error> {
        let Some(opened) = self.chain.files().nth(1) else { return Ok(None) };
        // As the file names it, so that both can be moved together.
        let Some(path) = self.chain.backing().map(Path::to_owned) else { return Ok(None) };
        let mut magic = [0; 4];
        let read = File::open(opened).and_then(|file| file.read_at(&mut magic, 0));
        read.map_err(|error| failed(format!("reading {}", path.display()), error))?;
        let format = if magic == *b"QFI\xfb" { DiskFormat::Qcow2 } else { DiskFormat::Raw };
        Ok(Some(Backing { path, format }))
    }

    /// Removes the overlay's files. The qcow2 file stays.
    pub fn forget(&self) {
        for path in [&self.overlay.data_path, &self.overlay.list_path] {
            // A file that stays behind is found empty when the machine is defined again.
            drop(fs::remove_file(path));
        }
    }
}

pub fn read_cluster(chain: &mut Chain, cluster: u64) -> Result<Vec<u8>, Error> {
    let mut content = vec![0; CLUSTER as usize];
    let start = cluster * CLUSTER;
    let visible = (chain.size() - start).min(CLUSTER) as usize;
    let read = chain.read(start, &mut content[..visible]);
    read.map_err(|error| failed("reading a simulated disk", error))?;
    Ok(content)
}
