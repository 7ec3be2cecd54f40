//! Where things are.
//!
//! ```text
//!   <store>/lock                         held by the one writer, with its process id in it
//!   <store>/items/<item>/
//!     generation.json                    the highest generation seen, and the role
//!     scrub.json                         how far the scrub has come, and what the last one found
//!     points/<seq>/                      manifest.json · disk-<disk>.qcow2 · disk-<disk>.digests · damaged.json
//!     points/<seq>/merging.json          in place of the manifest while the point is being merged into its successor
//!     incoming/                          begin.json · log · point/ (renamed to points/<seq> when whole)
//!     branches/<run>/                    overlay.json · disk-<disk>.qcow2
//!     active/<generation>/               overlay.json · disk-<disk>.qcow2
//!     aside/<generation>/                overlay.json · disk-<disk>.qcow2, of a promotion that another one takes the place of
//!     adopting/<seq>/                    a base that is being made
//! ```
//!
//! Every disk file lies two levels below its item, so that one relative form of backing path fits all of them and a store can
//! be moved as a whole. Names that begin with a dot are half made or half removed.

use std::path::{Path, PathBuf};

use understudy_ids::{DiskName, Generation, ItemName, PointSeq, Uuid};

pub(crate) const LOCK: &str = "lock";
pub(crate) const MANIFEST: &str = "manifest.json";
pub(crate) const MERGING: &str = "merging.json";
pub(crate) const DAMAGED: &str = "damaged.json";
pub(crate) const OVERLAY: &str = "overlay.json";

/// The directory of one item.
#[derive(Debug, Clone)]
pub(crate) struct ItemDir(PathBuf);

impl ItemDir {
    pub fn new(store: &Path, item: &ItemName) -> Self {
        Self(store.join("items").join(item.as_str()))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn generation(&self) -> PathBuf {
        self.0.join("generation.json")
    }

    pub fn scrub(&self) -> PathBuf {
        self.0.join("scrub.json")
    }

    pub fn points(&self) -> PathBuf {
        self.0.join("points")
    }

    pub fn point(&self, seq: PointSeq) -> PathBuf {
        self.points().join(seq.to_string())
    }

    pub fn incoming(&self) -> PathBuf {
        self.0.join("incoming")
    }

    pub fn incoming_begin(&self) -> PathBuf {
        self.incoming().join("begin.json")
    }

    pub fn incoming_log(&self) -> PathBuf {
        self.incoming().join("log")
    }

    pub fn incoming_point(&self) -> PathBuf {
        self.incoming().join("point")
    }

    pub fn branches(&self) -> PathBuf {
        self.0.join("branches")
    }

    pub fn branch(&self, run: Uuid) -> PathBuf {
        self.branches().join(run.to_string())
    }

    pub fn actives(&self) -> PathBuf {
        self.0.join("active")
    }

    pub fn active(&self, generation: Generation) -> PathBuf {
        self.actives().join(generation.to_string())
    }

    pub fn asides(&self) -> PathBuf {
        self.0.join("aside")
    }

    pub fn aside(&self, generation: Generation) -> PathBuf {
        self.asides().join(generation.to_string())
    }

    pub fn adopting(&self) -> PathBuf {
        self.0.join("adopting")
    }
}

pub(crate) fn disk_file(disk: &DiskName) -> String {
    format!("disk-{disk}.qcow2")
}

pub(crate) fn digest_file(disk: &DiskName) -> String {
    format!("disk-{disk}.digests")
}

/// The backing path of any disk file of an item that is stacked on point `seq`.
pub(crate) fn backing_path(seq: PointSeq, disk: &DiskName) -> PathBuf {
    PathBuf::from(format!("../../points/{seq}/{}", disk_file(disk)))
}
