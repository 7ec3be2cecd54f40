//! One digest per block, one root per disk.
//!
//! ```text
//!   root  = BLAKE3("understudy disk 1", disk size, node digests …)
//!   node  = BLAKE3(1024 leaf digests)                              64 MiB of disk
//!   leaf  = BLAKE3(64 KiB)                                         a last partial block is padded with zeros
//! ```
//!
//! Leaves past the end of the disk count as zero blocks. Nodes that hold nothing but zero blocks take no memory, and
//! clones share the nodes they have in common, so that a tree per point costs what the point changed. Two disks have the
//! same root exactly when they have the same size and content (R-REP-5, R-REP-7).

use std::{
    collections::BTreeMap,
    fmt,
    str::FromStr,
    sync::{Arc, LazyLock, OnceLock},
};

use serde::{Deserialize, Serialize};

use crate::extents::{BLOCK_SIZE, block_count};

/// Leaves under one node.
pub const LEAVES_PER_NODE: u64 = 1024;

static ZEROS: [u8; BLOCK_SIZE as usize] = [0; BLOCK_SIZE as usize];
static ZERO_LEAF: LazyLock<BlockDigest> = LazyLock::new(|| BlockDigest(blake3::hash(&ZEROS).into()));
static ZERO_NODE: LazyLock<BlockDigest> = LazyLock::new(|| Node::zero().digest());

/// A BLAKE3 digest of a block, a node or a whole disk; written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BlockDigest([u8; 32]);

impl BlockDigest {
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Digest of a block's content. Content shorter than a block is padded with zeros.
    ///
    /// # Panics
    /// When `content` is longer than a block.
    pub fn of(content: &[u8]) -> Self {
        assert!(content.len() <= ZEROS.len(), "a block has at most {BLOCK_SIZE} bytes");
        if content.len() == ZEROS.len() {
            return Self(blake3::hash(content).into());
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(content).update(&ZEROS[content.len()..]);
        Self(hasher.finalize().into())
    }

    /// The well-known digest of 64 KiB of zeros.
    pub fn zero_block() -> Self {
        *ZERO_LEAF
    }

    pub fn is_zero_block(&self) -> bool {
        *self == *ZERO_LEAF
    }
}

/// Text that is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a digest: use 64 hexadecimal digits")]
pub struct InvalidDigest(String);

impl FromStr for BlockDigest {
    type Err = InvalidDigest;
    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let hash =
            blake3::Hash::from_hex(text).map_err(|_| InvalidDigest(text.chars().take(80).collect()))?;
        Ok(Self(hash.into()))
    }
}

impl TryFrom<String> for BlockDigest {
    type Error = InvalidDigest;
    fn try_from(text: String) -> Result<Self, InvalidDigest> {
        text.parse()
    }
}

impl From<BlockDigest> for String {
    fn from(digest: BlockDigest) -> String {
        digest.to_string()
    }
}

impl fmt::Display for BlockDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from(self.0).to_hex())
    }
}

impl fmt::Debug for BlockDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", &blake3::Hash::from(self.0).to_hex()[..12])
    }
}

/// 1024 leaves and their digest, computed when first asked for.
#[derive(Clone)]
struct Node {
    leaves: Box<[BlockDigest]>,
    digest: OnceLock<BlockDigest>,
}

impl Node {
    fn zero() -> Self {
        Self { leaves: vec![*ZERO_LEAF; LEAVES_PER_NODE as usize].into(), digest: OnceLock::new() }
    }

    fn digest(&self) -> BlockDigest {
        *self.digest.get_or_init(|| {
            let mut hasher = blake3::Hasher::new();
            for leaf in &self.leaves {
                hasher.update(&leaf.0);
            }
            BlockDigest(hasher.finalize().into())
        })
    }

    fn is_zero(&self) -> bool {
        self.digest() == *ZERO_NODE
    }
}

/// Takes in the digests of so many nodes of zeros, many at once: a large disk is mostly that.
fn zero_nodes(hasher: &mut blake3::Hasher, count: u64) {
    static MANY: LazyLock<Vec<u8>> = LazyLock::new(|| ZERO_NODE.0.repeat(LEAVES_PER_NODE as usize));
    let mut left = count;
    while left > 0 {
        let now = left.min(LEAVES_PER_NODE);
        hasher.update(&MANY[..now as usize * ZERO_NODE.0.len()]);
        left -= now;
    }
}

/// Digests of one disk. A new tree describes a disk full of zeros.
#[derive(Clone)]
pub struct DigestTree {
    size: u64,
    nodes: BTreeMap<u64, Arc<Node>>,
}

impl DigestTree {
    /// A disk of `size` bytes, all zero.
    pub const fn new(size: u64) -> Self {
        Self { size, nodes: BTreeMap::new() }
    }

    /// Size of the disk in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Number of blocks of the disk.
    pub const fn blocks(&self) -> u64 {
        block_count(self.size)
    }

    /// Digest of block `block`; blocks past the end are zero blocks.
    pub fn get(&self, block: u64) -> BlockDigest {
        match self.nodes.get(&(block / LEAVES_PER_NODE)) {
            Some(node) => node.leaves[(block % LEAVES_PER_NODE) as usize],
            None => *ZERO_LEAF,
        }
    }

    /// # Panics
    /// When `block` lies past the end of the disk.
    pub fn set(&mut self, block: u64, digest: BlockDigest) {
        assert!(block < self.blocks(), "block {block} lies past the end of a disk of {} bytes", self.size);
        if self.get(block) == digest {
            return;
        }
        let entry = self.nodes.entry(block / LEAVES_PER_NODE).or_insert_with(|| Arc::new(Node::zero()));
        let node = Arc::make_mut(entry);
        node.leaves[(block % LEAVES_PER_NODE) as usize] = digest;
        node.digest = OnceLock::new();
    }

    /// The same disk with another size: what lies past a new end is forgotten, what is added is zero. When the disk
    /// shrinks into the middle of a block, that block's digest is stale until it is set again.
    pub fn resize(&mut self, size: u64) {
        let blocks = block_count(size);
        self.nodes.retain(|index, _| index * LEAVES_PER_NODE < blocks);
        if let Some((index, node)) = self.nodes.last_key_value()
            && blocks < (index + 1) * LEAVES_PER_NODE
        {
            let mut cut = Node::clone(node);
            cut.leaves[(blocks % LEAVES_PER_NODE) as usize..].fill(*ZERO_LEAF);
            cut.digest = OnceLock::new();
            let index = *index;
            self.nodes.insert(index, Arc::new(cut));
        }
        self.size = size;
    }

    /// Digest of the whole disk.
    pub fn root(&self) -> BlockDigest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"understudy disk 1").update(&self.size.to_le_bytes());
        let mut next = 0;
        for (index, node) in self.nodes.range(..self.node_count()) {
            zero_nodes(&mut hasher, index - next);
            hasher.update(&node.digest().0);
            next = index + 1;
        }
        zero_nodes(&mut hasher, self.node_count() - next);
        BlockDigest(hasher.finalize().into())
    }

    fn node_digest(&self, index: u64) -> BlockDigest {
        self.nodes.get(&index).map_or(*ZERO_NODE, |n| n.digest())
    }

    /// Number of nodes of the disk, zero or not.
    pub const fn node_count(&self) -> u64 {
        self.blocks().div_ceil(LEAVES_PER_NODE)
    }

    /// Digest of node `index`: equal nodes need not be compared leaf by leaf.
    pub fn node(&self, index: u64) -> BlockDigest {
        self.node_digest(index)
    }

    /// The nodes that are not all zero, by number, ascending, with their leaves (always [`LEAVES_PER_NODE`] of them).
    /// This is what a digest comparison sends over the wire.
    pub fn nodes(&self) -> impl Iterator<Item = (u64, &[BlockDigest])> + '_ {
        self.nodes.iter().filter(|(_, n)| !n.is_zero()).map(|(index, node)| (*index, &*node.leaves))
    }

    /// The blocks that are not zero, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u64, BlockDigest)> + '_ {
        self.nodes.iter().flat_map(|(index, node)| {
            (index * LEAVES_PER_NODE..).zip(node.leaves.iter().copied()).filter(|(_, d)| !d.is_zero_block())
        })
    }

    /// The first block at or after `block` that lies in a node with anything but zeros; `None` when there is none.
    /// Lets a caller step over terabytes of nothing.
    pub fn next_nonzero_node(&self, block: u64) -> Option<u64> {
        let (index, _) = self.nodes.range(block / LEAVES_PER_NODE..).next()?;
        Some((index * LEAVES_PER_NODE).max(block))
    }

    /// Numbers of the blocks that differ, ascending. Disks of different size differ at least in what one of them lacks
    /// and the other has non-zero.
    pub fn diff(&self, other: &Self) -> Vec<u64> {
        let mut indices: Vec<u64> = self.nodes.keys().chain(other.nodes.keys()).copied().collect();
        indices.sort_unstable();
        indices.dedup();
        let mut blocks = Vec::new();
        for index in indices {
            let same_node = match (self.nodes.get(&index), other.nodes.get(&index)) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                _ => false,
            };
            if same_node || self.node_digest(index) == other.node_digest(index) {
                continue;
            }
            let first = index * LEAVES_PER_NODE;
            blocks.extend((first..first + LEAVES_PER_NODE).filter(|b| self.get(*b) != other.get(*b)));
        }
        blocks
    }
}

impl fmt::Debug for DigestTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DigestTree({} bytes, {} nodes, root {:?})", self.size, self.nodes.len(), self.root())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u8) -> BlockDigest {
        BlockDigest::of(&[n; 10])
    }

    #[test]
    fn a_partial_block_is_digested_as_if_padded_with_zeros() {
        let mut padded = vec![7; 512];
        padded.resize(BLOCK_SIZE as usize, 0);
        assert_eq!(BlockDigest::of(&[7; 512]), BlockDigest::of(&padded));
        assert_eq!(BlockDigest::of(&[]), BlockDigest::zero_block());
    }

    /// Roots are written down with every point, so the formula must stay what it is however it is computed.
    #[test]
    fn the_root_is_what_the_formula_says() {
        for (mib, set) in [(1u64, vec![]), (64, vec![0]), (64 * 2500, vec![5, 1024 * 1030, 1024 * 2499 + 3])]
        {
            let mut tree = DigestTree::new((mib << 20) + 512);
            set.iter().for_each(|block| tree.set(*block, BlockDigest::of(&[1])));
            let mut hasher = blake3::Hasher::new();
            hasher.update(b"understudy disk 1").update(&tree.size().to_le_bytes());
            for index in 0..tree.node_count() {
                let mut node = blake3::Hasher::new();
                (index * LEAVES_PER_NODE..).take(1024).for_each(|block| {
                    node.update(tree.get(block).bytes());
                });
                hasher.update(node.finalize().as_bytes());
            }
            assert_eq!(tree.root().bytes(), hasher.finalize().as_bytes(), "{mib} MiB");
        }
    }

    #[test]
    fn the_root_depends_on_size_content_and_place_and_not_on_history() {
        let size = 300 << 20;
        let mut a = DigestTree::new(size);
        let empty = a.root();
        assert_ne!(empty, DigestTree::new(size + 512).root());
        a.set(5, digest(1));
        a.set(4000, digest(2));
        let mut b = DigestTree::new(size);
        b.set(4000, digest(9));
        b.set(4000, digest(2));
        b.set(5, digest(1));
        assert_eq!(a.root(), b.root());
        b.set(5, BlockDigest::zero_block());
        b.set(6, digest(1));
        assert_ne!(a.root(), b.root());
        assert_eq!(a.diff(&b), [5, 6]);
        for block in [5, 4000] {
            a.set(block, BlockDigest::zero_block());
        }
        assert_eq!(a.root(), empty);
        assert_eq!(a.nodes().count(), 0);
    }

    #[test]
    fn a_huge_empty_disk_costs_nothing_and_a_changed_clone_leaves_the_original_alone() {
        let tree = DigestTree::new(4 << 40);
        let mut clone = tree.clone();
        clone.set((4 << 40) / BLOCK_SIZE - 1, digest(1));
        assert_eq!(clone.nodes.len(), 1);
        assert_ne!(tree.root(), clone.root());
        assert_eq!(clone.diff(&tree), [(4 << 40) / BLOCK_SIZE - 1]);
        assert_eq!(clone.next_nonzero_node(10), Some((4 << 40) / BLOCK_SIZE - LEAVES_PER_NODE));
    }

    #[test]
    fn resizing_forgets_what_was_cut_off() {
        let mut tree = DigestTree::new(200 << 20);
        tree.set(1, digest(1));
        tree.set(3000, digest(2));
        tree.resize(100 << 20);
        tree.resize(200 << 20);
        let mut expected = DigestTree::new(200 << 20);
        expected.set(1, digest(1));
        assert_eq!(tree.root(), expected.root());
        tree.set(1040, digest(3));
        tree.resize(BLOCK_SIZE * 1030);
        tree.resize(200 << 20);
        assert_eq!(tree.root(), expected.root());
    }

    #[test]
    fn digests_survive_being_written_down() {
        let d = digest(3);
        assert_eq!(d.to_string().parse::<BlockDigest>().unwrap(), d);
        assert!("xyz".parse::<BlockDigest>().is_err());
    }
}
