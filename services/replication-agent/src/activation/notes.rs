//! The leases of this host on disk: one small file per item, and a mark beside it once the machine was stopped.
//!
//! They are for other processes, for the agent's next one, and for the host's next boot: that a machine is bound by a lease must not be forgotten,
//! or it could be started without one while somebody waits for the lease's end. A note of another boot is one of a lease that has ended. Notes are
//! written by the agent alone, marks by whoever stopped the machine.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use understudy_ids::{Generation, ItemName, MachineName, UnixMicros, Uuid};
use understudy_replication::activation::Held;

/// By which lease a machine runs here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    pub item: ItemName,
    pub machine: MachineName,
    pub machine_uuid: Uuid,
    pub boot_id: String,
    pub held: Held,
}

/// All of them.
#[derive(Debug, Clone)]
pub struct Notes {
    dir: PathBuf,
}

impl Note {
    /// Whether the machine must not run: not in time by this boot's clock, or not renewed since the boot.
    pub fn has_ended(&self, boot_id: &str, now: Duration) -> bool {
        self.boot_id != boot_id || self.held.has_ended(now)
    }
}

impl Notes {
    pub fn below(state_dir: &Path) -> Self {
        Self { dir: state_dir.join("leases") }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn get(&self, item: &ItemName) -> io::Result<Option<Note>> {
        match fs::read(self.note(item)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            bytes => Ok(Some(serde_json::from_slice(&bytes?)?)),
        }
    }

    /// Without those that cannot be read, which keep nobody from the others: what they are about does not start here until it is renewed.
    pub fn all(&self) -> io::Result<Vec<Note>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut notes = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "json") {
                match fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?)) {
                    Ok(note) => notes.push(note),
                    // Released meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => {
                        tracing::error!(path = %path.display(), %error, "a note of an activation lease cannot be read")
                    }
                }
            }
        }
        Ok(notes)
    }

    /// Readers see the note `before` or this one. Synced where it says more than a later time: another boot has no use for that.
    pub fn write(&self, note: &Note, before: Option<&Note>) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        let temporary = self.dir.join(format!(".{}.new", note.item));
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(note)?)?;
        let binds = |note: &Note| (note.held.generation, note.machine_uuid);
        let is_first = before.map(binds) != Some(binds(note));
        if is_first {
            file.sync_all()?;
        }
        fs::rename(temporary, self.note(&note.item))?;
        if is_first { File::open(&self.dir)?.sync_all() } else { Ok(()) }
    }

    /// The item is bound by no lease.
    pub fn remove(&self, item: &ItemName) -> io::Result<()> {
        gone(&self.note(item))?;
        self.unmark(item)
    }

    /// The machine was stopped because its lease had ended. The first time counts.
    pub fn mark(&self, item: &ItemName, at: UnixMicros) -> io::Result<()> {
        if self.stopped(item)?.is_some() {
            return Ok(());
        }
        let temporary = self.dir.join(format!(".{item}.{}", std::process::id()));
        fs::write(&temporary, at.get().to_string())?;
        fs::rename(temporary, self.stop(item))
    }

    /// It runs again.
    pub fn unmark(&self, item: &ItemName) -> io::Result<()> {
        gone(&self.stop(item))
    }

    /// When the machine was stopped.
    pub fn stopped(&self, item: &ItemName) -> io::Result<Option<UnixMicros>> {
        match fs::read_to_string(self.stop(item)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            text => Ok(text?.trim().parse().ok().map(UnixMicros::new)),
        }
    }

    /// Whether the item's machine must not run here at that generation, for want of a lease.
    pub fn forbids(&self, item: &ItemName, generation: Generation, boot_id: &str) -> io::Result<bool> {
        match self.get(item)?.filter(|note| note.held.generation == generation) {
            Some(note) => Ok(note.has_ended(boot_id, since_boot()?)),
            None => Ok(false),
        }
    }

    fn note(&self, item: &ItemName) -> PathBuf {
        self.dir.join(format!("{item}.json"))
    }

    fn stop(&self, item: &ItemName) -> PathBuf {
        self.dir.join(format!("{item}.stopped"))
    }
}

fn gone(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// For how long the host has been up, asleep or not. Nobody can set this clock.
pub fn since_boot() -> io::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_BOOTTIME)?.into())
}
