//! The subset of qcow2 that the store uses, written and read without QEMU.
//!
//! ```text
//!   ┌────────┬───────────────────────────────┬───────────┬──────────┬─────────────────┬────────────────┐
//!   │ header │ data clusters, as they arrive │ L2 tables │ L1 table │ refcount blocks │ refcount table │
//!   └────────┴───────────────────────────────┴───────────┴──────────┴─────────────────┴────────────────┘
//!     last to be written                       at the end, when all clusters are known
//! ```
//!
//! That is the layout of a plain file; an encrypted one has every cluster at a place of its own ([`placed`]).
//!
//! Version 3, 64 KiB clusters, 16-bit refcounts that are all 0 or 1, zero clusters, a backing file with its format, LUKS; no
//! compression, internal snapshots, external data files or extended L2 entries. A cluster is a block of
//! replication. Files that QEMU itself wrote on such an overlay can be read and merged too.
//!
//! The format is described in QEMU's `docs/interop/qcow2.txt`; all numbers in it are big-endian.

mod header;
mod merge;
mod placed;
mod reader;
mod table;
mod used;
mod writer;

pub use header::{Backing, virtual_size};
pub(crate) use merge::{Damaged, Mend, Mender, check_merge, check_tables, merge_into};
pub use reader::{Chain, Extent, Source};
pub(crate) use writer::create_overlay_with;
pub use writer::{Cluster, Writer, create_overlay, create_sealed_overlay};

/// Bytes of a cluster, and of a block of replication.
pub const CLUSTER: u64 = understudy_replication::BLOCK_SIZE;
const CLUSTER_BITS: u32 = 16;
/// Entries in an L2 table and in a refcount table's cluster.
const TABLE_ENTRIES: u64 = CLUSTER / 8;
/// Refcounts in one refcount block.
const REFCOUNTS_PER_BLOCK: u64 = CLUSTER / 2;
/// Refcount is exactly one: the cluster may be written in place.
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
/// The cluster reads as zeros whatever else the entry says.
const ZERO: u64 = 1;
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;

/// Length of the L1 table, in entries, of a disk of `size` bytes.
const fn l1_entries(size: u64) -> u64 {
    let entries = size.div_ceil(CLUSTER * TABLE_ENTRIES);
    if entries == 0 { 1 } else { entries }
}
