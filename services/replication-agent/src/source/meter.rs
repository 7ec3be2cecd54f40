//! Measures how fast an item's stream is, and says what its next blocks travel as.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use understudy_replication::{
    Compression, Encoding,
    encoding::{Chooser, WINDOW},
};

/// Lasts from cycle to cycle: a delta is often shorter than what a rate is measured over.
#[derive(Debug)]
pub struct Meter {
    compression: Compression,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    chooser: Chooser,
    bytes: u64,
    elapsed: Duration,
}

impl Meter {
    pub fn new(compression: Compression) -> Self {
        Self { compression, state: Mutex::default() }
    }

    /// What blocks travel as at this moment.
    pub fn encoding(&self) -> Encoding {
        match self.compression {
            Compression::Auto => self.lock().chooser.current(),
            Compression::Off => Encoding::Plain,
        }
    }

    /// So many bytes of the disk have gone to the connection since the last ones.
    pub fn passed(&self, bytes: u64, elapsed: Duration) {
        let mut state = self.lock();
        state.bytes += bytes;
        state.elapsed += elapsed;
        if state.bytes >= WINDOW {
            let (bytes, elapsed) = (state.bytes, state.elapsed);
            state.chooser.window(bytes, elapsed);
            (state.bytes, state.elapsed) = (0, Duration::ZERO);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whole after every statement, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
