//! Making durable what a transfer has brought, while it brings more.
//!
//! ```text
//!   PointWriter ── files, entries, log ──▶ thread: data ─▶ log ──▶ the log comes back
//!                                            └─ the first time: also what makes a partial of it, whose log comes last
//! ```
//! One at a time: what waits to be logged is at most what has come since the last one began.

use std::{
    io,
    path::PathBuf,
    thread::{self, JoinHandle},
};

use crate::{
    error::{IoContext, Result},
    fsio::{Io, IoFile, sync_all},
    journal::{Entry, Journal},
    layout::ItemDir,
    model::Begin,
    store::to_json,
};

/// Who has the log of a transfer.
#[derive(Debug)]
pub(crate) enum Log {
    /// There is none: nothing of the transfer has been made durable, so there is no partial.
    Absent,
    Idle(Journal),
    Syncing(Syncing),
}

/// A sync that runs.
#[derive(Debug)]
pub(crate) struct Syncing {
    thread: JoinHandle<Result<Journal>>,
    place: PathBuf,
}

impl Log {
    /// Whether a sync has ended that nobody has taken the result of.
    pub fn has_news(&self) -> bool {
        matches!(self, Self::Syncing(syncing) if syncing.thread.is_finished())
    }

    /// Waits for the sync that runs, if one does.
    ///
    /// # Errors
    /// Its error. There is no log then.
    pub fn settle(&mut self) -> Result<()> {
        *self = match std::mem::replace(self, Self::Absent) {
            Self::Syncing(Syncing { thread, place }) => {
                let panicked = |_| Err(io::Error::other("the thread has panicked")).during("sync", &place);
                Self::Idle(thread.join().unwrap_or_else(panicked)?)
            }
            idle => idle,
        };
        Ok(())
    }

    /// Begins to make `files` durable and then to log `entries`, which speak of nothing that was written later.
    pub fn start(&mut self, job: Job) -> Result<()> {
        self.settle()?;
        let journal = match std::mem::replace(self, Self::Absent) {
            Self::Idle(journal) => Some(journal),
            Self::Absent | Self::Syncing(_) => None,
        };
        let place = job.dir.incoming();
        let thread = thread::Builder::new().name("store-sync".to_owned()).spawn(move || job.run(journal));
        let thread = thread.during("start a thread for", &place)?;
        *self = Self::Syncing(Syncing { thread, place });
        Ok(())
    }
}

/// What one sync does.
pub(crate) struct Job {
    pub io: Io,
    pub dir: ItemDir,
    pub begin: Begin,
    pub files: Vec<IoFile>,
    pub entries: Vec<Entry>,
}

impl Job {
    fn run(self, journal: Option<Journal>) -> Result<Journal> {
        sync_all(&self.files)?;
        match journal {
            Some(mut journal) => {
                journal.append(&self.entries)?;
                Ok(journal)
            }
            None => self.first(),
        }
    }

    /// The log is what makes a partial, so it comes last; without it the rest is removed when the store is opened.
    fn first(self) -> Result<Journal> {
        let Self { io, dir, begin, entries, .. } = self;
        io.sync_dir(&dir.incoming_point())?;
        let path = dir.incoming_begin();
        io.write_new(&path, &to_json(&path, &begin)?)?.sync()?;
        let mut journal = Journal::create(&io, &dir.incoming_log())?;
        journal.append(&entries)?;
        io.sync_dir(&dir.incoming())?;
        io.sync_dir(dir.path())?;
        Ok(journal)
    }
}
