//! How a guest stood at the instant that a recovery point shows.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a machine that is started from the point has to put right first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// As after a power cut, all disks at one instant (R-REP-3).
    Crash,
    /// The guest's agent had frozen its file systems, and whatever its scripts look after had come to rest.
    Application,
    /// The guest had shut itself down.
    Clean,
}

impl Consistency {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Application => "application",
            Self::Clean => "clean",
        }
    }

    /// Whether applications start from it without recovering anything: a machine that has shut itself down is as good as a
    /// frozen one.
    pub const fn is_application_consistent(self) -> bool {
        matches!(self, Self::Application | Self::Clean)
    }
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Through `pad`, so that tables can align it.
        f.pad(self.as_str())
    }
}
