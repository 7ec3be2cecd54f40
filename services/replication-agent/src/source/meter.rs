//! Measures how fast an item's stream is, and says what its next blocks travel as.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use understudy_replication::{
    Compression, Encoding,
    encoding::{Chooser, Passed},
};

/// Lasts from cycle to cycle: a delta is often shorter than what a rate is measured over.
#[derive(Debug)]
pub struct Meter {
    compression: Compression,
    chooser: Mutex<Chooser>,
}

impl Meter {
    pub fn new(compression: Compression) -> Self {
        Self { compression, chooser: Mutex::default() }
    }

    /// What blocks travel as at this moment.
    pub fn encoding(&self) -> Encoding {
        match self.compression {
            Compression::Auto => self.lock().current(),
            Compression::Off => Encoding::Plain,
        }
    }

    /// A cycle begins with so many bytes of the disks to read.
    pub fn begin(&self, bytes: u64) {
        self.lock().begin(bytes);
    }

    /// Something has gone to the connection since the last time.
    pub fn passed(&self, passed: Passed) {
        self.lock().passed(passed);
    }

    /// The receipt has come, so long after the last piece had gone to the connection.
    pub fn end(&self, receipt: Duration) {
        self.lock().end(receipt);
    }

    fn lock(&self) -> MutexGuard<'_, Chooser> {
        // Whole after every statement, so a panic elsewhere does not spoil it.
        self.chooser.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
