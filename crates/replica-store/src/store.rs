//! The store itself: opening it, one writer at a time, one lock per item, generations, space.
//!
//! ```text
//!   StoreReader   looks, and has no door to change anything; any number of them, beside a writer too
//!       ▲ deref
//!   Store         the one writer: holds the lock file, recovers on opening, changes everything through `fsio`
//! ```

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    ops::Deref,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde::{Serialize, de::DeserializeOwned};
use understudy_ids::{DiskName, Generation, ItemName, PointSeq};
use understudy_replication::digest::DigestTree;

use crate::{
    error::{IoContext, Result, StoreError},
    fsio::{Io, Watch},
    layout::ItemDir,
    lock::WriterLock,
    model::{GenerationRecord, ItemUsage, Role, Space},
};

/// A directory of recovery points, open for writing. Clones share locks and caches; while one of them lives, nobody else can
/// open the directory for writing.
#[derive(Debug, Clone)]
pub struct Store {
    reader: StoreReader,
    io: Io,
    _lock: Arc<WriterLock>,
}

/// A directory of recovery points, open for looking at it. Works beside a running agent: a point that the agent merges away
/// meanwhile is answered with [`StoreError::NoPoint`].
#[derive(Debug, Clone)]
pub struct StoreReader {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    items: Mutex<HashMap<ItemName, Arc<ItemLocks>>>,
}

impl Deref for Store {
    type Target = StoreReader;
    fn deref(&self) -> &StoreReader {
        &self.reader
    }
}

/// Who may do what with an item at once. `layers` is taken before `state`.
#[derive(Debug, Default)]
pub(crate) struct ItemLocks {
    /// For a moment: whatever changes which points there are.
    state: Mutex<ItemState>,
    /// For as long as it takes: whatever changes or lends out files of points that are there. A merge holds it while it reads and writes
    /// whole layers, and points are received meanwhile.
    layers: Mutex<()>,
    /// How many wait for `layers` that a merge makes way for.
    urgent: AtomicUsize,
}

impl ItemLocks {
    /// A panic while holding it leaves nothing half changed in memory that the files would not correct.
    pub fn state(&self) -> MutexGuard<'_, ItemState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After whoever has it.
    pub fn layers(&self) -> MutexGuard<'_, ()> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As soon as a merge that has it has made way.
    pub fn layers_at_once(&self) -> MutexGuard<'_, ()> {
        self.urgent.fetch_add(1, Ordering::Relaxed);
        let layers = self.layers();
        self.urgent.fetch_sub(1, Ordering::Relaxed);
        layers
    }

    /// Whether a merge is to make way.
    pub fn is_urgent(&self) -> bool {
        self.urgent.load(Ordering::Relaxed) > 0
    }
}

/// What is remembered of an item between calls; everything in it can be found out again from the files.
#[derive(Debug, Default)]
pub(crate) struct ItemState {
    /// A `PointWriter` is alive.
    pub receiving: bool,
    /// Digest trees of one point, as a rule the latest.
    pub trees: Option<(PointSeq, BTreeMap<DiskName, DigestTree>)>,
}

impl StoreReader {
    /// Opens a store for looking at it. Nothing is changed, not even what a crash left half done.
    ///
    /// # Errors
    /// [`StoreError::NotAStore`] when there is none.
    pub fn open(root: &Path) -> Result<Self> {
        let root = root.canonicalize().during("open the store", root)?;
        if root.join("items").is_dir() { Ok(Self::over(root)) } else { Err(StoreError::NotAStore(root)) }
    }

    fn over(root: PathBuf) -> Self {
        Self { shared: Arc::new(Shared { root, items: Mutex::default() }) }
    }

    pub fn root(&self) -> &Path {
        &self.shared.root
    }

    pub(crate) fn dir(&self, item: &ItemName) -> ItemDir {
        ItemDir::new(self.root(), item)
    }

    pub(crate) fn locks(&self, item: &ItemName) -> Arc<ItemLocks> {
        let mut items = self.shared.items.lock().unwrap_or_else(PoisonError::into_inner);
        items.entry(item.clone()).or_default().clone()
    }

    /// Every item that has a directory here, in order. Directories with other names are not ours and are passed over.
    pub fn items(&self) -> Result<Vec<ItemName>> {
        let mut items: Vec<ItemName> = names(&self.root().join("items"))?;
        items.sort_unstable();
        Ok(items)
    }

    /// The highest generation seen of an item; `None` when the item is not known here (R-FO-7).
    pub fn generation(&self, item: &ItemName) -> Result<Option<GenerationRecord>> {
        read_json(&self.dir(item).generation(), "a generation record")
    }

    /// Space of the file system that the store is on.
    pub fn space(&self) -> Result<Space> {
        let root = self.root();
        let stat = nix::sys::statvfs::statvfs(root).map_err(std::io::Error::from).during("measure", root)?;
        let unit = stat.fragment_size();
        Ok(Space { total: stat.blocks() * unit, available: stat.blocks_available() * unit })
    }

    /// Bytes that an item takes on the file system.
    pub fn usage(&self, item: &ItemName) -> Result<ItemUsage> {
        let dir = self.dir(item);
        let points = names::<Number>(&dir.points())?;
        let points = points.into_iter().map(|n| PointSeq::new(n.0));
        Ok(ItemUsage {
            points: points.map(|seq| Ok((seq, allocated(&dir.point(seq))?))).collect::<Result<_>>()?,
            incoming: allocated(&dir.incoming())?,
            overlays: allocated(&dir.branches())? + allocated(&dir.actives())? + allocated(&dir.asides())?,
        })
    }
}

impl Store {
    /// Opens or makes a store and completes or removes whatever a crash left half done. What cannot be repaired is logged and
    /// left alone; it is not listed.
    ///
    /// # Errors
    /// [`StoreError::InUse`] while another writer has it open; I/O errors.
    pub fn open(root: &Path) -> Result<Self> {
        Self::open_with(root, Io::default())
    }

    /// As [`Self::open`], with every change to the file system announced to `watch`, which may refuse it: the seam at which
    /// fault tests fail or kill the store.
    pub fn open_watched(root: &Path, watch: Watch) -> Result<Self> {
        Self::open_with(root, Io::watched(watch))
    }

    fn open_with(root: &Path, io: Io) -> Result<Self> {
        io.create_dir_all(root)?;
        // Before anything is looked at: recovery takes what it finds for what a dead writer left.
        let lock = WriterLock::take(root)?;
        io.create_dir_all(&root.join("items"))?;
        let root = root.canonicalize().during("resolve", root)?;
        let store = Self { reader: StoreReader::over(root), io, _lock: Arc::new(lock) };
        for item in store.items()? {
            store.recover(&item)?;
        }
        Ok(store)
    }

    pub(crate) fn io(&self) -> &Io {
        &self.io
    }

    /// Records durably that this side has seen `generation` in `role`.
    ///
    /// # Errors
    /// [`StoreError::StaleGeneration`] when a higher one has been seen.
    pub fn record_generation(&self, item: &ItemName, generation: Generation, role: Role) -> Result<()> {
        let locks = self.locks(item);
        let _lock = locks.state();
        self.admit(item, generation, Some(role))
    }

    /// Refuses a lower generation than seen, persists a higher one before anything is done under it. The caller holds the
    /// item's lock. Without `role` the role stays.
    pub(crate) fn admit(&self, item: &ItemName, generation: Generation, role: Option<Role>) -> Result<()> {
        let seen = self.generation(item)?;
        if let Some(seen) = seen.filter(|s| s.highest > generation) {
            return Err(StoreError::StaleGeneration {
                item: item.clone(),
                seen: seen.highest,
                offered: generation,
            });
        }
        let role = role.or(seen.map(|s| s.role)).unwrap_or(Role::Standby);
        let record = GenerationRecord { highest: generation, role };
        if seen == Some(record) {
            return Ok(());
        }
        let dir = self.dir(item);
        self.io().create_dir_all(dir.path())?;
        write_json(self.io(), &dir.generation(), &record)
    }

    /// Forgets an item with all its points, partials, branches and its generation.
    ///
    /// # Errors
    /// [`StoreError::Pinned`] while a branch or a promoted machine exists, [`StoreError::Busy`] while a transfer runs.
    pub fn remove_item(&self, item: &ItemName) -> Result<()> {
        let locks = self.locks(item);
        let (_layers, mut state) = (locks.layers_at_once(), locks.state());
        if state.receiving {
            return Err(StoreError::Busy(item.clone()));
        }
        if let Some((seq, pin)) = self.pins(item)?.first() {
            return Err(StoreError::Pinned { item: item.clone(), seq: *seq, by: pin.to_string() });
        }
        state.trees = None;
        let dir = self.dir(item);
        // Items are looked up by valid names, which never begin with a dot.
        let trash = self.root().join("items").join(format!(".trash-{item}"));
        self.io().remove(&trash)?;
        if dir.path().exists() {
            self.io().rename(dir.path(), &trash)?;
        }
        self.io().remove(&trash)
    }
}

/// A directory name that is a number in its shortest form.
pub(crate) struct Number(pub u64);

impl std::str::FromStr for Number {
    type Err = ();
    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        text.parse().ok().filter(|n: &u64| n.to_string() == text).map(Self).ok_or(())
    }
}

/// Entries of a directory whose names are a `T`; none when there is no directory.
pub(crate) fn names<T: std::str::FromStr>(dir: &Path) -> Result<Vec<T>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.during("list", dir)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.during("list", dir)?.file_name();
        found.extend(name.to_str().and_then(|n| n.parse().ok()));
    }
    Ok(found)
}

/// Reads a small record; `None` when there is none.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path, what: &'static str) -> Result<Option<T>> {
    let bytes = match fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.during("read", path)?,
    };
    let parsed = serde_json::from_slice(&bytes);
    parsed.map(Some).map_err(|e| StoreError::Record { path: path.to_owned(), what, why: e.to_string() })
}

/// Replaces a small record durably.
pub(crate) fn write_json<T: Serialize>(io: &Io, path: &Path, record: &T) -> Result<()> {
    io.replace(path, &to_json(path, record)?)
}

/// A small record as it is written to `path`.
pub(crate) fn to_json<T: Serialize>(path: &Path, record: &T) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(record).map_err(|e| StoreError::Record {
        path: path.to_owned(),
        what: "JSON",
        why: e.to_string(),
    })
}

/// Allocated bytes of everything below a directory. Files that vanish meanwhile count nothing.
fn allocated(dir: &Path) -> Result<u64> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(0) };
    let mut sum = 0;
    for entry in entries.flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        sum += if meta.is_dir() { allocated(&entry.path())? } else { meta.blocks() * 512 };
    }
    Ok(sum)
}
