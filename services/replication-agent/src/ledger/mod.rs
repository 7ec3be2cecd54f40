//! What this agent is to each item, and at which generation: one small file per item, written before it is acted upon.
//!
//! ```text
//!   task, peer, refusal of a peer ──▶ admit ──▶ role table ──▶ <state>/items/<item>.json (fsync) ──▶ act
//!                                                                     ▲
//!                                             guard, at the start of any machine, also without the agent
//! ```
//!
//! Promise: nothing is done at a lower generation than one that was written down, also after a crash at any moment
//! (R-FO-7, invariant 4).

mod record;
mod role;

use std::{
    collections::BTreeMap,
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;
use understudy_ids::{Generation, ItemName};

pub use record::{Assignment, Confirmation, ItemRecord, Sender, Stream, Terms};
pub use role::{Refused, Role, Verb};
use role::{Seen, first, next};

/// Why the ledger did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("{item} is at generation {seen} here, {offered} is older: the other side has taken over since")]
    Stale { item: ItemName, seen: Generation, offered: Generation },
    #[error(
        "{item} is active on this host at generation {generation} and cannot be received at the same one"
    )]
    ActiveHere { item: ItemName, generation: Generation },
    #[error(
        "{item} is fenced on this host at generation {generation}; it becomes active here only at a higher one"
    )]
    Fenced { item: ItemName, generation: Generation },
    #[error("this agent knows nothing of {0}")]
    Unknown(ItemName),
    #[error("cannot {action} {path}: {cause}", path = path.display())]
    Io { action: &'static str, path: PathBuf, cause: io::Error },
    #[error("{path} is not readable as an item's record: {why}; without it nothing of the item is started", path = path.display())]
    Record { path: PathBuf, why: String },
}

/// The records of all items. Clones share them.
#[derive(Debug, Clone)]
pub struct Ledger {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    boot_id: String,
    items: Mutex<BTreeMap<ItemName, ItemRecord>>,
    changes: watch::Sender<u64>,
}

impl Ledger {
    /// Reads all records. `boot_id` names the host's present boot.
    ///
    /// # Errors
    /// When one cannot be read: an agent that does not know its place must not take one.
    pub fn open(state_dir: &Path, boot_id: String) -> Result<Self, LedgerError> {
        let dir = items_dir(state_dir);
        fs::create_dir_all(&dir).map_err(io_error("create", &dir))?;
        let mut items = BTreeMap::new();
        for entry in fs::read_dir(&dir).map_err(io_error("list", &dir))? {
            let path = entry.map_err(io_error("list", &dir))?.path();
            if path.extension().is_some_and(|e| e == "json") {
                let record = read_file(&path)?;
                items.insert(record.item.clone(), record);
            }
        }
        let inner = Inner { dir, boot_id, items: Mutex::new(items), changes: watch::Sender::new(0) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Where the agent keeps what must outlive it.
    pub fn state_dir(&self) -> &Path {
        self.inner.dir.parent().unwrap_or(&self.inner.dir)
    }

    pub fn boot_id(&self) -> &str {
        &self.inner.boot_id
    }

    pub fn get(&self, item: &ItemName) -> Option<ItemRecord> {
        self.inner.lock().get(item).cloned()
    }

    pub fn all(&self) -> Vec<ItemRecord> {
        self.inner.lock().values().cloned().collect()
    }

    /// Counts changes, for whoever tells others about them.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// Lets a task or peer of `generation` act on `item`, after writing down what that makes of this side. `Ok(None)`: the
    /// item is not known here and the verb does not make it known.
    ///
    /// # Errors
    /// [`LedgerError::Stale`], or what the role table refuses.
    pub async fn admit(
        &self,
        item: &ItemName,
        generation: Generation,
        verb: Verb,
    ) -> Result<Option<ItemRecord>, LedgerError> {
        let item = item.clone();
        self.write(move |inner| {
            let mut items = inner.lock();
            let now = items.get(&item);
            let Some(then) = admitted(now, &item, generation, verb)? else { return Ok(None) };
            if now != Some(&then) {
                inner.save(&then)?;
                items.insert(item, then.clone());
            }
            Ok(Some(then))
        })
        .await
    }

    /// Changes a record. The generation and the role are [`Self::admit`]'s to change.
    pub async fn update(
        &self,
        item: &ItemName,
        change: impl FnOnce(&mut ItemRecord) + Send + 'static,
    ) -> Result<ItemRecord, LedgerError> {
        let item = item.clone();
        self.write(move |inner| {
            let mut items = inner.lock();
            let now = items.get(&item).ok_or_else(|| LedgerError::Unknown(item.clone()))?;
            let mut then = now.clone();
            change(&mut then);
            (then.generation, then.role) = (now.generation, now.role);
            if *now != then {
                inner.save(&then)?;
                items.insert(item, then.clone());
            }
            Ok(then)
        })
        .await
    }

    /// Writes down that the item is active here at `generation`, so that its machine may run until the host boots again.
    pub async fn confirm(&self, item: &ItemName, generation: Generation) -> Result<(), LedgerError> {
        let boot_id = self.inner.boot_id.clone();
        self.update(item, move |r| r.confirmed = Some(Confirmation { generation, boot_id })).await?;
        Ok(())
    }

    /// Forgets an item.
    pub async fn remove(&self, item: &ItemName) -> Result<(), LedgerError> {
        let item = item.clone();
        self.write(move |inner| {
            let mut items = inner.lock();
            let path = inner.path(&item);
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_error("remove", &path)(e)),
                _ => {}
            }
            sync_dir(&inner.dir)?;
            items.remove(&item);
            Ok(())
        })
        .await
    }

    /// File work happens on a thread that may block, and whole even when the caller goes away.
    async fn write<T, F>(&self, work: F) -> Result<T, LedgerError>
    where
        T: Send + 'static,
        F: FnOnce(&Inner) -> Result<T, LedgerError> + Send + 'static,
    {
        let inner = self.inner.clone();
        let done = tokio::task::spawn_blocking(move || {
            let result = work(&inner);
            inner.changes.send_modify(|n| *n += 1);
            result
        });
        done.await.unwrap_or_else(|e| {
            let cause = io::Error::other(e);
            Err(LedgerError::Io { action: "write in", path: self.inner.dir.clone(), cause })
        })
    }
}

/// What the record of an item becomes when a task of `generation` with `verb` is admitted. `Ok(None)`: it stays unknown.
///
/// # Errors
/// As [`Ledger::admit`].
pub fn admitted(
    now: Option<&ItemRecord>,
    item: &ItemName,
    generation: Generation,
    verb: Verb,
) -> Result<Option<ItemRecord>, LedgerError> {
    let Some(now) = now else {
        return Ok(first(verb).map(|role| ItemRecord::new(item.clone(), generation, role)));
    };
    if generation < now.generation {
        return Err(LedgerError::Stale { item: item.clone(), seen: now.generation, offered: generation });
    }
    let seen = if generation == now.generation { Seen::Same } else { Seen::Higher };
    let role = next(now.role, seen, verb).map_err(|refused| match refused {
        Refused::ActiveHere => LedgerError::ActiveHere { item: item.clone(), generation },
        Refused::Fenced => LedgerError::Fenced { item: item.clone(), generation },
    })?;
    let mut then = ItemRecord { generation, role, ..now.clone() };
    // An assignment belongs to the active side at the generation it was given at.
    if role != Role::Source || seen == Seen::Higher {
        then.assignment = None;
        then.confirmed = None;
    }
    Ok(Some(then))
}

impl Inner {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<ItemName, ItemRecord>> {
        // A panic while the lock was held left the map as it was: it changes only after the file has.
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, item: &ItemName) -> PathBuf {
        self.dir.join(format!("{item}.json"))
    }

    /// Replaces the file by a synced one, so that a crash leaves the old record or the new one.
    fn save(&self, record: &ItemRecord) -> Result<(), LedgerError> {
        let path = self.path(&record.item);
        let text = serde_json::to_vec_pretty(record)
            .map_err(|e| LedgerError::Record { path: path.clone(), why: e.to_string() })?;
        // Names never begin with a dot, so this is no item's file.
        let temporary = self.dir.join(format!(".{}.new", record.item));
        let write = || {
            let mut file = fs::File::create(&temporary)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)
        };
        write().map_err(io_error("write", &path))?;
        sync_dir(&self.dir)
    }
}

fn sync_dir(dir: &Path) -> Result<(), LedgerError> {
    fs::File::open(dir).and_then(|d| d.sync_all()).map_err(io_error("sync", dir))
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LedgerError {
    let path = path.to_owned();
    move |cause| LedgerError::Io { action, path, cause }
}

fn items_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("items")
}

fn read_file(path: &Path) -> Result<ItemRecord, LedgerError> {
    let bytes = fs::read(path).map_err(io_error("read", path))?;
    serde_json::from_slice(&bytes)
        .map_err(|e| LedgerError::Record { path: path.to_owned(), why: e.to_string() })
}

/// The record of one item as it is on disk, for a process beside the agent. `Ok(None)`: there is none.
pub fn read_record(state_dir: &Path, item: &ItemName) -> Result<Option<ItemRecord>, LedgerError> {
    let path = items_dir(state_dir).join(format!("{item}.json"));
    match read_file(&path) {
        Err(LedgerError::Io { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item() -> ItemName {
        "web1".parse().unwrap()
    }

    const fn generation(n: u64) -> Generation {
        Generation::new(n)
    }

    /// R-FO-7, invariant 4: what was seen once is remembered by the next process.
    #[tokio::test]
    async fn a_lower_generation_is_refused_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path(), "boot-1".into()).unwrap();
        ledger.admit(&item(), generation(1), Verb::Activate).await.unwrap();
        ledger.admit(&item(), generation(3), Verb::Fence).await.unwrap();
        let ledger = Ledger::open(dir.path(), "boot-2".into()).unwrap();
        let refused = ledger.admit(&item(), generation(2), Verb::Activate).await;
        assert!(
            matches!(refused, Err(LedgerError::Stale { seen, .. }) if seen == generation(3)),
            "{refused:?}"
        );
        let refused = ledger.admit(&item(), generation(3), Verb::Activate).await;
        assert!(matches!(refused, Err(LedgerError::Fenced { .. })), "{refused:?}");
        assert_eq!(ledger.get(&item()).unwrap().role, Role::Fenced);
    }

    #[tokio::test]
    async fn assignment_and_confirmation_end_with_their_generation() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path(), "boot-1".into()).unwrap();
        ledger.admit(&item(), generation(1), Verb::Activate).await.unwrap();
        ledger.confirm(&item(), generation(1)).await.unwrap();
        let record = ledger.get(&item()).unwrap();
        record.may_run(generation(1), "boot-1").unwrap();
        let record = ledger.admit(&item(), generation(2), Verb::Activate).await.unwrap().unwrap();
        assert_eq!(record.confirmed, None);
        assert!(record.may_run(generation(2), "boot-1").is_err());
    }

    #[tokio::test]
    async fn a_task_that_says_nothing_of_the_place_leaves_no_record() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path(), "boot-1".into()).unwrap();
        assert_eq!(ledger.admit(&item(), generation(1), Verb::Keep).await.unwrap(), None);
        assert_eq!(read_record(dir.path(), &item()).unwrap(), None);
    }
}
