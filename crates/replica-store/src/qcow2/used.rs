//! Which clusters of a file are in use, and the refcounts that say so.

use super::{CLUSTER, REFCOUNTS_PER_BLOCK, TABLE_ENTRIES, placed, reader::Image, table};
use crate::error::{Result, StoreError};

/// One bit per cluster of the file.
pub(super) struct UsedClusters {
    bits: Vec<u64>,
    /// No cluster below this one is free.
    cursor: u64,
}

impl UsedClusters {
    pub fn new() -> Self {
        Self { bits: Vec::new(), cursor: 0 }
    }

    /// Counts from the tables, trusting no refcount.
    pub fn count(image: &Image, refcount_table: &[u64], end: u64) -> Result<Self> {
        let mut used = Self { bits: Vec::with_capacity((end / 64 + 1) as usize), cursor: 0 };
        let header = &image.header;
        used.mark(0, 1);
        if header.luks {
            used.mark(placed::LUKS, placed::LUKS_CLUSTERS);
        }
        used.mark_within(image, header.l1_offset, (u64::from(header.l1_entries) * 8).div_ceil(CLUSTER), end)?;
        used.mark_within(image, header.refcount_offset, u64::from(header.refcount_clusters), end)?;
        for place in refcount_table.iter().filter(|p| **p != 0) {
            used.mark_within(image, *place, 1, end)?;
        }
        for (_, place) in image.l2_tables() {
            used.mark_within(image, place, 1, end)?;
            for entry in image.read_l2(place)?.iter() {
                // Also refuses compressed clusters, whose places mean something else.
                image.classify(*entry)?;
                if let Some(data) = table::offset(*entry) {
                    used.mark_within(image, data, 1, end)?;
                }
            }
        }
        Ok(used)
    }

    /// Marks clusters from a byte offset on, none of which may lie past the file's end.
    fn mark_within(&mut self, image: &Image, offset: u64, count: u64, end: u64) -> Result<()> {
        if !offset.is_multiple_of(CLUSTER) || offset / CLUSTER + count > end {
            let why = "its tables point past its end or between clusters".to_owned();
            return Err(StoreError::Format { path: image.path.clone(), why });
        }
        self.mark(offset / CLUSTER, count);
        Ok(())
    }

    pub fn len(&self) -> u64 {
        self.bits.len() as u64 * 64
    }

    pub fn contains(&self, cluster: u64) -> bool {
        self.bits.get((cluster / 64) as usize).is_some_and(|word| word >> (cluster % 64) & 1 == 1)
    }

    pub fn mark(&mut self, first: u64, count: u64) {
        for cluster in first..first + count {
            let word = (cluster / 64) as usize;
            if word >= self.bits.len() {
                self.bits.resize(word + 1, 0);
            }
            self.bits[word] |= 1 << (cluster % 64);
        }
    }

    /// Takes the first `count` free clusters in a row and returns the first one's number.
    pub fn take(&mut self, count: u64) -> u64 {
        let mut first = self.cursor;
        while let Some(used) = (first..first + count).find(|c| self.contains(*c)) {
            first = used + 1;
        }
        if count == 1 {
            self.cursor = first + 1;
        }
        self.mark(first, count);
        first
    }

    /// Content of the refcount block with this number.
    pub fn refcounts(&self, block: u64, out: &mut [u8]) {
        let first = block * REFCOUNTS_PER_BLOCK;
        for (within, count) in (0..).zip(out.chunks_exact_mut(2)) {
            count.copy_from_slice(&u16::from(self.contains(first + within)).to_be_bytes());
        }
    }

    /// Marks, of a placed file, the refcount blocks that are needed, those of refcount blocks among them, and returns the numbers
    /// of all that are.
    pub fn mark_placed_blocks(&mut self) -> Vec<u64> {
        let words = REFCOUNTS_PER_BLOCK as usize / 64;
        loop {
            let needed: Vec<u64> = (0..)
                .zip(self.bits.chunks(words))
                .filter(|(_, words)| words.iter().any(|word| *word != 0))
                .map(|(block, _)| block)
                .collect();
            let missing = needed.iter().filter(|b| !self.contains(placed::refcount_block(**b)));
            let missing: Vec<u64> = missing.copied().collect();
            if missing.is_empty() {
                return needed;
            }
            for block in missing {
                self.mark(placed::refcount_block(block), 1);
            }
        }
    }
}

const _: () = assert!(TABLE_ENTRIES * 8 == CLUSTER);
