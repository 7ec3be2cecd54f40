//! The only door through which the store changes the file system.
//!
//! Each change is announced to an optional [`Watch`] first, which may refuse it. Fault tests use that to fail or "kill" the
//! store at its n-th write, fsync, rename or removal; in production there is none.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use crate::error::{IoContext, Result};

/// A change that is about to be made.
#[derive(Debug, Clone, Copy)]
pub enum Change<'a> {
    CreateFile(&'a Path),
    CreateDir(&'a Path),
    Write { path: &'a Path, offset: u64, len: usize },
    SyncFile(&'a Path),
    SyncDir(&'a Path),
    Rename { from: &'a Path, to: &'a Path },
    Remove(&'a Path),
}

/// Told of each change before it is made; an error is returned in its place.
pub type Watch = Arc<dyn Fn(Change<'_>) -> io::Result<()> + Send + Sync>;

#[derive(Clone, Default)]
pub(crate) struct Io {
    watch: Option<Watch>,
}

impl fmt::Debug for Io {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Io")
    }
}

impl Io {
    pub fn watched(watch: Watch) -> Self {
        Self { watch: Some(watch) }
    }

    fn ask(&self, change: Change<'_>) -> io::Result<()> {
        self.watch.as_ref().map_or(Ok(()), |watch| watch(change))
    }

    /// A new, empty file, readable and writable. Whatever stood there is gone.
    pub fn create(&self, path: &Path) -> Result<IoFile> {
        self.ask(Change::CreateFile(path)).during("create", path)?;
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path);
        Ok(IoFile::new(file.during("create", path)?, path, self))
    }

    /// An existing file, readable and writable.
    pub fn open(&self, path: &Path) -> Result<IoFile> {
        let file = OpenOptions::new().read(true).write(true).open(path).during("open", path)?;
        Ok(IoFile::new(file, path, self))
    }

    /// Creates the directory and those above it, durably.
    pub fn create_dir_all(&self, path: &Path) -> Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.create_dir_all(parent)?;
        }
        self.create_dir(path)?;
        self.sync_parent(path)
    }

    /// Creates one directory; durable once its parent is synced.
    pub fn create_dir(&self, path: &Path) -> Result<()> {
        self.ask(Change::CreateDir(path)).during("create directory", path)?;
        match fs::create_dir(path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other.during("create directory", path),
        }
    }

    pub fn sync_dir(&self, path: &Path) -> Result<()> {
        self.ask(Change::SyncDir(path)).during("sync directory", path)?;
        File::open(path).and_then(|dir| dir.sync_all()).during("sync directory", path)
    }

    fn sync_parent(&self, path: &Path) -> Result<()> {
        path.parent().map_or(Ok(()), |parent| self.sync_dir(parent))
    }

    /// Renames and makes both directories durable.
    pub fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.ask(Change::Rename { from, to }).during("rename", from)?;
        fs::rename(from, to).during("rename", from)?;
        self.sync_parent(to)?;
        if from.parent() == to.parent() { Ok(()) } else { self.sync_parent(from) }
    }

    /// Writes a small file so that readers see the old or the new content, and after a crash too.
    pub fn replace(&self, path: &Path, content: &[u8]) -> Result<()> {
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(".new");
        let fresh = PathBuf::from(fresh);
        let file = self.create(&fresh)?;
        file.write_at(content, 0)?;
        file.sync()?;
        self.rename(&fresh, path)
    }

    /// Writes a small file that nobody believes before something that comes later. Durable once it is synced, and its directory.
    pub fn write_new(&self, path: &Path, content: &[u8]) -> Result<IoFile> {
        let file = self.create(path)?;
        file.write_at(content, 0)?;
        Ok(file)
    }

    /// Removes a file or a whole directory; that it is already gone is fine.
    pub fn remove(&self, path: &Path) -> Result<()> {
        if self.discard(path)? { self.sync_parent(path) } else { Ok(()) }
    }

    /// Removes what means nothing any more, so that a crash may bring it back. Returns whether it was there.
    pub fn discard(&self, path: &Path) -> Result<bool> {
        let kind = match fs::symlink_metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other.during("remove", path)?,
        };
        self.ask(Change::Remove(path)).during("remove", path)?;
        if kind.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
            .during("remove", path)?;
        Ok(true)
    }
}

/// A file whose changes are announced. Clones are the same file.
#[must_use = "what was written to it may not be durable yet"]
#[derive(Debug, Clone)]
pub(crate) struct IoFile {
    file: Arc<File>,
    path: Arc<Path>,
    io: Io,
}

/// Makes several files durable at once: the file system commits together what waits together.
pub(crate) fn sync_all(files: &[IoFile]) -> Result<()> {
    let Some((first, others)) = files.split_first() else { return Ok(()) };
    thread::scope(|scope| {
        let others: Vec<_> = others.iter().map(|file| scope.spawn(|| file.sync())).collect();
        let first = first.sync();
        let others = others.into_iter().map(|thread| thread.join().unwrap_or_else(|e| resume_unwind(e)));
        others.fold(first, Result::and)
    })
}

impl IoFile {
    fn new(file: File, path: &Path, io: &Io) -> Self {
        Self { file: Arc::new(file), path: path.into(), io: io.clone() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let change = Change::Write { path: &self.path, offset, len: bytes.len() };
        self.io.ask(change).during("write", &self.path)?;
        self.file.write_all_at(bytes, offset).during("write", &self.path)
    }

    pub fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_exact_at(bytes, offset).during("read", &self.path)
    }

    pub fn len(&self) -> Result<u64> {
        Ok(self.file.metadata().during("stat", &self.path)?.len())
    }

    /// Bytes that the file takes on its file system; of a sparse file, less than its length.
    pub fn allocated(&self) -> Result<u64> {
        Ok(self.file.metadata().during("stat", &self.path)?.blocks() * 512)
    }

    pub fn truncate(&self, len: u64) -> Result<()> {
        let change = Change::Write { path: &self.path, offset: len, len: 0 };
        self.io.ask(change).during("truncate", &self.path)?;
        self.file.set_len(len).during("truncate", &self.path)
    }

    pub fn sync(&self) -> Result<()> {
        self.io.ask(Change::SyncFile(&self.path)).during("sync", &self.path)?;
        self.file.sync_all().during("sync", &self.path)
    }
}
