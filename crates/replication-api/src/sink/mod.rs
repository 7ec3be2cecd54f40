//! The receiving end of replication, as domain types.
//!
//! ```text
//!   source                                      target
//!   Negotiate(item, generation, disks)  ──────▶ latest point, cut transfer
//!   Begin · Part · Part · … · Finish    ──────▶ verified, written
//!                                       ◀────── Watermark … Receipt
//!   ReadDigests(point, disk)            ──────▶
//!                                       ◀────── runs of block digests
//! ```
//!
//! A part that reaches the handler lies inside its disk, on block boundaries, after the part before it, and carries one
//! digest per block ([`PartOrder`]). Whether the digests are those of the payload is the handler's to verify: it reads
//! every byte anyway.

pub(crate) mod body;
pub(crate) mod frames;
mod order;
mod payload;
pub(crate) mod wire;

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use understudy_ids::{Consistency, DiskName, Generation, ItemName, PointSeq, UnixMicros};
use understudy_replication::{BlockDigest, Encoding, Joint, RangeSet};
use understudy_sealing::{LuksHeader, WrappedKey};

pub use frames::RawBodies;
pub use order::PartOrder;
pub use payload::Payload;

/// The most bytes of a disk in one part, and the largest payload.
pub const MAX_PAYLOAD: usize = 1 << 20;
/// Length of one block digest, in bytes.
pub const DIGEST_BYTES: usize = 32;

/// One disk of a transfer, size in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkDisk {
    pub name: DiskName,
    pub size: u64,
    /// Of an encrypted disk. Two disks are encrypted alike when it is the same.
    pub luks: Option<LuksHeader>,
}

/// What the source asks before it decides what to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiate {
    pub item: ItemName,
    pub generation: Generation,
    pub disks: Vec<SinkDisk>,
}

/// What the target has of an item.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Negotiated {
    pub latest: Option<Latest>,
    /// A transfer that was cut, if it can be continued.
    pub partial: Option<Partial>,
    /// The highest number of a point there, also when there is nothing to build upon.
    pub highest_seq: Option<PointSeq>,
}

/// The most damaged ranges that are told of a disk.
pub const MAX_DAMAGED_RANGES: usize = 1024;

/// The newest point or base of the item at the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latest {
    pub seq: PointSeq,
    /// The source's checkpoint whose content it has; `None` for a base.
    pub checkpoint: Option<String>,
    pub is_base: bool,
    pub disks: Vec<SinkDisk>,
    /// Bytes that are not what they were, at most [`MAX_DAMAGED_RANGES`] of each disk.
    pub damaged: BTreeMap<DiskName, RangeSet>,
}

/// A transfer that was cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partial {
    pub seq: PointSeq,
    /// The point that it differs from; `None` for a full copy.
    pub parent: Option<PointSeq>,
    /// The instant at which the transfer began.
    pub checkpoint: String,
    pub disks: Vec<PartialDisk>,
}

/// How far one disk of a cut transfer got, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartialDisk {
    pub name: DiskName,
    pub size: u64,
    /// Everything before this offset is durable.
    pub durable: u64,
    pub luks: Option<LuksHeader>,
}

/// Everything before this position, in (disk, offset) order, is durable at the target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Watermark {
    /// Index into the disks of the transfer.
    pub disk: usize,
    /// Bytes.
    pub offset: u64,
}

/// The head of one recovery point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begin {
    pub item: ItemName,
    pub generation: Generation,
    pub seq: PointSeq,
    /// The point that this one differs from; `None` for a full copy.
    pub parent: Option<PointSeq>,
    pub checkpoint: String,
    pub instant: UnixMicros,
    pub disks: Vec<SinkDisk>,
    /// Continue the partial transfer of this seq after its watermark.
    pub resume: bool,
    /// The machine's identity and hardware, opaque to the transfer.
    pub machine_json: String,
    /// How the guest stood at the instant.
    pub consistency: Consistency,
    /// For how long its file systems were frozen for it.
    pub frozen: Option<Duration>,
    /// When the instant is that of a consistency group.
    pub joint: Option<Joint>,
    /// When the disks come encrypted, all of them do.
    pub wrapped_key: Option<WrappedKey>,
}

/// One piece of a recovery point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Data {
        disk: usize,
        /// Multiple of the block size.
        offset: u64,
        /// Whole blocks, the last one of a disk zero-padded, in their encoding.
        payload: Payload,
        /// 32 bytes for each block: what the source read.
        digests: Bytes,
        encoding: Encoding,
    },
    Zero {
        disk: usize,
        offset: u64,
        length: u64,
    },
    /// Nothing follows.
    Finish {
        sent_bytes: u64,
    },
}

/// The point exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    pub seq: PointSeq,
    /// One per disk, in the order of [`Begin::disks`].
    pub roots: Vec<BlockDigest>,
}

/// What the target answers while it receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Durable(Watermark),
    Receipt(Receipt),
}

/// Which digests are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadDigests {
    pub item: ItemName,
    pub generation: Generation,
    pub seq: PointSeq,
    pub disk: DiskName,
}

/// Digests of consecutive blocks. Blocks between two runs are zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DigestRun {
    pub first_block: u64,
    pub digests: Vec<BlockDigest>,
}
