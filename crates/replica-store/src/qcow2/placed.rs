//! The layout of a sealed file: every block and every table at a place that follows from its number alone.
//!
//! ```text
//!   cluster 0        1 … 32         64 … 71         128 … 143   1024 …              132 096 …        262 144 …
//!   ┌────────┬──────────────────┬────────────────┬──────────┬───────────────────┬─────────────────┬─────────────────
//!   │ header │ LUKS header      │ refcount table │ L1 table │ L2 table of each  │ refcount blocks │ data: cluster n
//!   │        │ and its key slots│                │          │ 512 MiB           │                 │ at 262 144 + n
//!   └────────┴──────────────────┴────────────────┴──────────┴───────────────────┴─────────────────┴─────────────────
//! ```
//!
//! QEMU's LUKS layer ties the cipher of a sector to its place in the file. With one place for a cluster in all files of a disk, the source
//! can encrypt a block without knowing the file, and merging moves ciphertext as it is (R-REP-10). The files are sparse: what is
//! not used costs nothing. There is room for disks of 64 TiB, so that a disk that grows moves nothing.

use understudy_sealing::{DATA_START, LUKS_AREA};

use super::{CLUSTER, REFCOUNTS_PER_BLOCK, TABLE_ENTRIES};

/// Clusters of the largest disk: 64 TiB.
const MOST: u64 = (64 << 40) / CLUSTER;
/// In clusters, as all that follow.
pub const LUKS: u64 = 1;
pub const LUKS_CLUSTERS: u64 = LUKS_AREA / CLUSTER;
pub const REFCOUNT_TABLE: u64 = 64;
pub const L1: u64 = 128;
const L2: u64 = 1024;
const REFCOUNT_BLOCKS: u64 = L2 + MOST / TABLE_ENTRIES;
const DATA: u64 = DATA_START / CLUSTER;

const _: () = assert!(CLUSTER == understudy_sealing::BLOCK);
const _: () = assert!(LUKS + LUKS_CLUSTERS <= REFCOUNT_TABLE);
const _: () = assert!(REFCOUNT_TABLE + refcount_table_clusters(MOST * CLUSTER) <= L1);
const _: () = assert!(L1 + MOST / TABLE_ENTRIES / TABLE_ENTRIES < L2);
const _: () = assert!(REFCOUNT_BLOCKS + (DATA + MOST).div_ceil(REFCOUNTS_PER_BLOCK) <= DATA);

pub const fn data(cluster: u64) -> u64 {
    DATA + cluster
}

pub const fn l2(index: u64) -> u64 {
    L2 + index
}

pub const fn refcount_block(index: u64) -> u64 {
    REFCOUNT_BLOCKS + index
}

/// Clusters of the refcount table of a file for a disk of `size` bytes.
pub const fn refcount_table_clusters(size: u64) -> u64 {
    (DATA + size.div_ceil(CLUSTER)).div_ceil(REFCOUNTS_PER_BLOCK).div_ceil(TABLE_ENTRIES)
}

/// Length of such a file in bytes, nearly all of which may be holes.
pub const fn length(size: u64) -> u64 {
    data(size.div_ceil(CLUSTER)) * CLUSTER
}
