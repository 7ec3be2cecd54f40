//! Where the blocks of a sealed disk lie in its file.

/// Bytes of a block of replication and of a cluster of its file.
pub const BLOCK: u64 = 64 * 1024;

/// The first byte of block 0: 16 GiB into a sparse file. What lies before it has room for the tables of the largest disk, so that
/// neither growth nor merging ever moves a block.
pub const DATA_START: u64 = 16 << 30;

/// The first byte of block `block` in every file of the disk. The cipher of a block depends on it.
pub const fn place(block: u64) -> u64 {
    DATA_START + block * BLOCK
}
