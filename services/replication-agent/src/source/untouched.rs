//! Whether anything has touched the disks of a machine that is off, told from its files.
//!
//! Power alone does not say it: a machine that was started and shut off again between two looks is off both times, and what it wrote would stay here
//! until its next start.

use std::{os::unix::fs::MetadataExt, path::PathBuf};

use understudy_hypervisor::Machine;

/// The disks' files as they were at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Untouched(Vec<Stamp>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    path: PathBuf,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
}

impl Untouched {
    /// `None` where it cannot be told: then the disks count as touched. A block device keeps no time of its last write.
    pub async fn of(machine: &Machine) -> Option<Self> {
        let mut stamps = Vec::new();
        for path in machine.hardware.disks.iter().filter_map(|disk| disk.file.clone()) {
            let found = tokio::fs::metadata(&path).await.ok().filter(std::fs::Metadata::is_file)?;
            let modified = (found.mtime(), found.mtime_nsec());
            stamps.push(Stamp { path, inode: found.ino(), size: found.size(), modified });
        }
        Some(Self(stamps))
    }
}
