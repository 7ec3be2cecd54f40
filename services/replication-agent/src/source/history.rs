//! The ages of an item's latest point, kept beside its record: `<state>/history/<item>.json`.
//!
//! ```text
//!   receipt, or nothing to ship ──▶ RpoHistory (pure) ──▶ a small file by rename ──▶ read again at the next start
//! ```
//! Only the source sees every receipt: points are merged away at the target, and the control plane may be gone for hours. So the truth about
//! the past is here. The file is small and worth little compared with a point, so it is not synced: killed, the agent loses nothing,
//! and a host that lost power perhaps the last minute. A file that cannot be read begins anew.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use understudy_ids::{Generation, ItemName, UnixMicros};
use understudy_replication::history::{Percentiles, RpoHistory, Window};

/// One item's history, and where it is kept.
pub struct History {
    path: PathBuf,
    kept: Mutex<Kept>,
}

/// Of which generation it is: after a failover another history begins.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    generation: Generation,
    history: RpoHistory,
}

/// Nothing is known of the item any more, because it is not protected from here any more.
pub fn forget(state_dir: &Path, item: &ItemName) {
    match fs::remove_file(path(state_dir, item)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%item, %error, "the history of the item's points could not be removed");
        }
        _ => {}
    }
}

fn path(state_dir: &Path, item: &ItemName) -> PathBuf {
    state_dir.join("history").join(format!("{item}.json"))
}

impl History {
    /// What was known of the item at this generation, or nothing.
    pub fn open(state_dir: &Path, item: &ItemName, generation: Generation, now: UnixMicros) -> Self {
        let path = path(state_dir, item);
        let kept = match read(&path) {
            Ok(kept) => kept.filter(|kept| kept.generation == generation),
            Err(error) => {
                tracing::warn!(%item, path = %path.display(), %error, "the history of the item's points is not readable and begins anew");
                None
            }
        };
        let kept = kept.unwrap_or_else(|| Kept { generation, history: RpoHistory::new(now) });
        Self { path, kept: Mutex::new(kept) }
    }

    /// A point of `instant` is durable now.
    pub fn point(&self, instant: UnixMicros, now: UnixMicros) {
        self.lock().history.point(instant, now);
        self.save();
    }

    /// There is nothing that the target does not have.
    pub fn covered(&self, now: UnixMicros) {
        self.lock().history.covered(now);
        self.save();
    }

    /// Instant of the latest point that is durable.
    pub fn latest(&self) -> Option<UnixMicros> {
        self.lock().history.latest()
    }

    /// Of the last hour and the last day, up to now.
    pub fn percentiles(&self, now: UnixMicros) -> [Option<Percentiles>; 2] {
        let mut kept = self.lock();
        kept.history.count(now);
        Window::ALL.map(|window| kept.history.percentiles(window, now))
    }

    fn save(&self) {
        let written = serde_json::to_vec(&*self.lock()).map_err(io::Error::other).and_then(|text| {
            let fresh = self.path.with_extension("new");
            fs::create_dir_all(self.path.parent().unwrap_or(Path::new(".")))?;
            fs::write(&fresh, text)?;
            fs::rename(&fresh, &self.path)
        });
        if let Err(error) = written {
            tracing::warn!(path = %self.path.display(), %error, "the history of the item's points could not be written");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        // Counting changes one number at a time; a panic in between costs a moment of history.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path) -> io::Result<Option<Kept>> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
