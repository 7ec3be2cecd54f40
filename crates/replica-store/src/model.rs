//! What the store writes down and tells about its content.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use understudy_ids::{Consistency, DiskName, Generation, ItemName, PointSeq, UnixMicros, Uuid};
use understudy_replication::{
    Joint,
    cycle::CheckpointName,
    digest::BlockDigest,
    extents::{BLOCK_SIZE, RangeSet},
};
use understudy_sealing::{LuksHeader, WrappedKey};

/// Whether a point is offered to operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PointKind {
    Recovery,
    /// Files that something stands on: an adopted disk, or what lies below a committed machine.
    Base,
}

impl PointKind {
    /// Of what was written down before there were others.
    const fn recovery() -> Self {
        Self::Recovery
    }
}

/// What this host is to an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The machine runs here, or is to run here.
    Active,
    /// Its replica is kept here.
    Standby,
}

/// The highest generation this store has seen of an item (R-FO-7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationRecord {
    pub highest: Generation,
    pub role: Role,
}

/// The manifest is the point: where it is missing there is no point, whatever files lie around.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub item: ItemName,
    pub seq: PointSeq,
    /// The point whose files this one's are stacked on.
    pub parent: Option<PointSeq>,
    pub generation: Generation,
    /// The source's instant that the point shows.
    pub instant: UnixMicros,
    /// When it was complete here.
    pub received: UnixMicros,
    pub consistency: Consistency,
    /// For how long the guest's file systems were frozen for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<Duration>,
    /// When the instant is that of a consistency group (R-REP-12).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joint: Option<Joint>,
    pub kind: PointKind,
    /// The source's checkpoint at the instant; `None` when the relation to any source is unknown.
    pub checkpoint: Option<CheckpointName>,
    /// Hardware, UUID, name of the machine: opaque here.
    pub machine: serde_json::Value,
    pub disks: Vec<DiskManifest>,
    /// How the disks are encrypted; `None` when they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<Seal>,
}

/// The encryption of a point's disks, as far as a target knows it (R-REP-10).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// What the holders of private keys get the item's secret from.
    pub key: WrappedKey,
    /// Opened with the secret's passphrase, each gives the key of its disk.
    pub disks: BTreeMap<DiskName, LuksHeader>,
}

impl Seal {
    /// The header of a disk of what may be sealed.
    pub(crate) fn header<'a>(seal: Option<&'a Self>, disk: &DiskName) -> Option<&'a LuksHeader> {
        seal.and_then(|seal| seal.disks.get(disk))
    }
}

impl Manifest {
    pub fn disk(&self, name: &DiskName) -> Option<&DiskManifest> {
        self.disks.iter().find(|d| d.name == *name)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskManifest {
    pub name: DiskName,
    /// Size of the virtual disk in bytes.
    pub size: u64,
    /// Root of the digest tree of the whole disk.
    pub root: BlockDigest,
    /// Bytes of the disk that differ from, or were sent over, the parent's.
    pub changed_bytes: u64,
    /// Bytes that the file takes: its length, or of an encrypted one what is allocated of it.
    pub stored_bytes: u64,
    /// Name of the file within the point's directory.
    pub file: String,
    /// Whether the file is stacked on the parent point's file of the same disk.
    pub stacked: bool,
}

/// A point in the catalogue.
#[derive(Debug, Clone, PartialEq)]
pub struct PointInfo {
    pub manifest: Manifest,
    /// What holds the point itself. Points below it are held as well.
    pub pins: Vec<Pin>,
    /// Blocks a scrub found damaged; zero for a good point.
    pub damaged_blocks: u64,
}

impl PointInfo {
    /// Whether the point may be tested, promoted and built upon.
    pub fn is_offered(&self) -> bool {
        self.manifest.kind == PointKind::Recovery && self.damaged_blocks == 0
    }
}

/// Why a point stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pin {
    Branch(Uuid),
    Active(Generation),
}

impl std::fmt::Display for Pin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Branch(run) => write!(f, "the test of run {run}"),
            Self::Active(generation) => write!(f, "the machine promoted at generation {generation}"),
        }
    }
}

/// A disk of a transfer that begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpec {
    pub name: DiskName,
    /// Bytes; a multiple of 512.
    pub size: u64,
}

/// What a source says when it begins or resumes a point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Begin {
    pub item: ItemName,
    pub generation: Generation,
    pub seq: PointSeq,
    /// The point that the changes are relative to; `None` for a full copy.
    pub parent: Option<PointSeq>,
    pub disks: Vec<DiskSpec>,
    /// What it will be. A base has no source that could go on with it.
    #[serde(default = "PointKind::recovery")]
    pub kind: PointKind,
    /// The source's checkpoint at the instant being sent.
    pub checkpoint: CheckpointName,
    pub instant: UnixMicros,
    pub consistency: Consistency,
    /// For how long the guest's file systems were frozen for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<Duration>,
    /// When the instant is that of a consistency group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joint: Option<Joint>,
    pub machine: serde_json::Value,
    /// How the blocks come encrypted, all disks or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<Seal>,
}

/// The encryption of the newest thing here, and of the interrupted transfer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TargetSeals {
    pub latest: Option<Seal>,
    pub partial: Option<Seal>,
}

/// A disk file for a machine to run on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskFile {
    pub disk: DiskName,
    pub path: PathBuf,
    /// Bytes of the virtual disk.
    pub size: u64,
}

/// Format of a disk that is adopted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskFormat {
    Qcow2,
    Raw,
}

/// Disks on this host that become the base of reverse replication (R-REP-7).
#[derive(Debug, Clone, PartialEq)]
pub struct Adopt {
    pub item: ItemName,
    pub generation: Generation,
    pub seq: PointSeq,
    pub disks: Vec<AdoptDisk>,
    pub machine: serde_json::Value,
    /// When this is done, by the caller's clock.
    pub now: UnixMicros,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdoptDisk {
    pub name: DiskName,
    /// Absolute path of the disk as the machine used it.
    pub path: PathBuf,
    pub format: DiskFormat,
}

/// Disks that came on a medium and become the base of the first copy (R-REP-11).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    pub item: ItemName,
    pub generation: Generation,
    pub seq: PointSeq,
    pub disks: Vec<ImportDisk>,
    /// When this is done, by the caller's clock.
    pub now: UnixMicros,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportDisk {
    pub name: DiskName,
    /// A file that stands alone: not stacked on another, not encrypted.
    pub path: PathBuf,
    pub format: DiskFormat,
}

/// Branches and promotions write this beside their overlays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OverlayRecord {
    pub point: PointSeq,
    pub disks: Vec<DiskSpec>,
}

/// What of a point cannot be believed; beside its manifest once a scrub has found it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// Bytes per disk, in whole blocks.
    pub disks: BTreeMap<DiskName, RangeSet>,
}

impl Damage {
    /// Number of damaged blocks.
    pub fn total(&self) -> u64 {
        self.disks.values().map(RangeSet::bytes).sum::<u64>() / BLOCK_SIZE
    }

    pub fn add(&mut self, disk: &DiskName, ranges: &RangeSet) {
        let known = self.disks.entry(disk.clone()).or_default();
        *known = known.union(ranges);
    }
}

/// How much an item takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemUsage {
    /// Allocated bytes per point.
    pub points: BTreeMap<PointSeq, u64>,
    /// Allocated bytes of an interrupted or running transfer.
    pub incoming: u64,
    /// Allocated bytes of branches and promoted machines.
    pub overlays: u64,
}

/// Space of the file system that the store is on, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    pub total: u64,
    pub available: u64,
}
