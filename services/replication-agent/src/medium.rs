//! First copies on media (R-REP-11): which files they are, and how they come and go.
//!
//! ```text
//!   <seed_dir>/<seed>/<item>/vda.qcow2, vdb.raw …   what is imported: from ExportSeed, `understudy store export`, qemu-img, a backup
//!                            seed.json              whose it is, where ExportSeed wrote it
//!   <seed_dir>/<seed>/.<item>.part/                 while it is written; renamed when it is whole and durable
//! ```
//!
//! What is on a medium was made elsewhere. It names no other file: no link is followed below `<seed>`, which may be one, or a mount.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use understudy_ids::{DiskName, ItemName, MachineName, RunId, SeedName, UnixMicros};
use understudy_replica_store::{DiskFormat, ImportDisk, StoreError, qcow2};
use understudy_replication_api::DiskSize;

/// Says whose copy it is.
const RECORD: &str = "seed.json";

/// The directory that the configuration names, if it does.
#[derive(Debug, Clone, Default)]
pub struct Media(Option<PathBuf>);

/// One item's copy on one medium.
#[derive(Debug, Clone)]
pub struct Medium {
    /// The medium itself.
    root: PathBuf,
    item: ItemName,
}

/// What is written beside the disks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub item: ItemName,
    pub machine: MachineName,
    /// The run that has written it.
    pub run: RunId,
    /// Which instant of the machine it shows.
    pub instant: UnixMicros,
    pub disks: Vec<RecordedDisk>,
    /// Bytes of the disks that were read and written.
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedDisk {
    pub name: DiskName,
    pub size_bytes: u64,
}

/// Why a medium cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MediumError {
    #[error("this agent has no seed_dir")]
    NoSeedDir,
    #[error("{path} exists already and is not of this run", path = .0.display())]
    Exists(PathBuf),
    #[error("there is no first copy in {path}: {why}", path = path.display())]
    Missing { path: PathBuf, why: &'static str },
    #[error("what is in {path} does not fit: {why}", path = path.display())]
    Unfit { path: PathBuf, why: String },
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
}

type Result<T> = std::result::Result<T, MediumError>;

fn during(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MediumError {
    move |source| MediumError::Io { action, path: path.to_owned(), source }
}

impl Media {
    pub fn new(seed_dir: Option<PathBuf>) -> Self {
        Self(seed_dir)
    }

    /// # Errors
    /// [`MediumError::NoSeedDir`].
    pub fn of(&self, seed: &SeedName, item: &ItemName) -> Result<Medium> {
        let dir = self.0.as_ref().ok_or(MediumError::NoSeedDir)?;
        Ok(Medium { root: dir.join(seed.as_str()), item: item.clone() })
    }
}

impl Medium {
    fn place(&self) -> PathBuf {
        self.root.join(self.item.as_str())
    }

    fn part(&self) -> PathBuf {
        // Items are names, which never begin with a dot.
        self.root.join(format!(".{}.part", self.item))
    }

    /// What this run has written here before; nothing when nothing is here.
    ///
    /// # Errors
    /// [`MediumError::Exists`] when something else is.
    pub fn written_by(&self, run: RunId) -> Result<Option<Record>> {
        let place = self.place();
        if place.symlink_metadata().is_err() {
            return Ok(None);
        }
        let record =
            fs::read(place.join(RECORD)).ok().and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
        match record {
            Some(record) if record.run == run && record.item == self.item => Ok(Some(record)),
            _ => Err(MediumError::Exists(place)),
        }
    }

    /// Begins to write, in place of what an attempt before has left. The disks' files are to be made in the directory that is returned.
    ///
    /// # Errors
    /// [`MediumError::Exists`]; I/O errors.
    pub fn begin(&self) -> Result<PathBuf> {
        let (place, part) = (self.place(), self.part());
        if place.symlink_metadata().is_ok() {
            return Err(MediumError::Exists(place));
        }
        fs::create_dir_all(&self.root).map_err(during("make", &self.root))?;
        remove(&part)?;
        fs::create_dir(&part).map_err(during("make", &part))?;
        Ok(part)
    }

    /// The file of a disk in the directory that [`Medium::begin`] has returned.
    pub fn file(part: &Path, disk: &DiskName) -> PathBuf {
        part.join(format!("{disk}.qcow2"))
    }

    /// Gives what was written its name. The disks' files are durable already.
    ///
    /// # Errors
    /// I/O errors; nothing is there then, or, at the very last, it is there and nobody knows for how long.
    pub fn publish(&self, record: &Record) -> Result<()> {
        let (place, part) = (self.place(), self.part());
        let path = part.join(RECORD);
        let text = serde_json::to_vec_pretty(record).map_err(io::Error::other);
        let written =
            text.and_then(|text| fs::write(&path, text)).and_then(|()| File::open(&path)?.sync_all());
        written.map_err(during("write", &path))?;
        sync_dir(&part)?;
        fs::rename(&part, &place).map_err(during("rename", &part))?;
        sync_dir(&self.root)
    }

    /// What this run has written, whole or not, is gone. Anything else stays as it is.
    ///
    /// # Errors
    /// I/O errors.
    pub fn remove_of(&self, run: RunId) -> Result<()> {
        remove(&self.part())?;
        match self.written_by(run) {
            Ok(Some(_)) => remove(&self.place()),
            Ok(None) | Err(MediumError::Exists(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The files of those of `disks` that the medium has.
    ///
    /// # Errors
    /// [`MediumError::Missing`] when it has none; [`MediumError::Unfit`] with all that is wrong with those it has; I/O errors.
    pub fn find(&self, disks: &[DiskSize]) -> Result<Vec<ImportDisk>> {
        let path = self.place();
        let missing = |why| MediumError::Missing { path: path.clone(), why };
        let there = path.symlink_metadata().map_err(|_| missing("it does not exist"))?;
        if !there.is_dir() {
            return Err(missing("it is no directory"));
        }
        let (mut found, mut wrong) = (Vec::new(), Vec::new());
        for disk in disks {
            match self.find_disk(disk) {
                Ok(file) => found.extend(file),
                Err(why) => wrong.push(format!("{}: {why}", disk.name)),
            }
        }
        if !wrong.is_empty() {
            return Err(MediumError::Unfit { path, why: wrong.join("; ") });
        }
        if found.is_empty() {
            return Err(missing("no file is called like a disk of the machine, <disk>.qcow2 or <disk>.raw"));
        }
        Ok(found)
    }

    fn find_disk(&self, disk: &DiskSize) -> std::result::Result<Option<ImportDisk>, String> {
        let of = |format, extension| (format, self.place().join(format!("{}.{extension}", disk.name)));
        let both = [of(DiskFormat::Qcow2, "qcow2"), of(DiskFormat::Raw, "raw")];
        let mut there = both.into_iter().filter(|(_, path)| path.symlink_metadata().is_ok());
        let Some((format, path)) = there.next() else { return Ok(None) };
        if there.next().is_some() {
            return Err("there are two files of it, .qcow2 and .raw".to_owned());
        }
        let meta = path.symlink_metadata().map_err(|error| error.to_string())?;
        if !meta.is_file() {
            return Err("it is no regular file".to_owned());
        }
        let size = match format {
            DiskFormat::Raw => meta.len(),
            DiskFormat::Qcow2 => qcow2::virtual_size(&path).map_err(|error| error.to_string())?,
        };
        if size > disk.size {
            return Err(format!("it has {size} bytes, and the machine's disk has {}", disk.size));
        }
        Ok(Some(ImportDisk { name: disk.name.clone(), path, format }))
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(during("remove", path)(error)),
        _ => Ok(()),
    }
}

fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(during("sync", path))
}
