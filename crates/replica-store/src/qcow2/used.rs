//! Which clusters of a file are in use, and the refcounts that say so.

use std::collections::BTreeMap;

use understudy_replication::extents::RangeSet;

use super::{CLUSTER, REFCOUNTS_PER_BLOCK, TABLE_ENTRIES, placed, reader::Image, table};
use crate::error::{Result, StoreError};

/// Places of clusters with doubtful entries that nothing else is at, by cluster, in bytes of the file.
pub(super) type Kept = BTreeMap<u64, u64>;

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

    /// Counts from the tables, trusting no refcount. Entries of `damaged` bytes of the disk may say anything: where they say something that
    /// can be so, it is counted and returned. Entries of the refcount table that cannot be so are cleared.
    ///
    /// # Errors
    /// When anything else lies past the file's end, between clusters, or where something lies already: writing to such a file could
    /// write over what is good.
    pub fn count(
        image: &Image,
        refcount_table: &mut [u64],
        end: u64,
        damaged: &RangeSet,
    ) -> Result<(Self, Kept)> {
        let mut used = Self { bits: Vec::with_capacity((end / 64 + 1) as usize), cursor: 0 };
        let header = &image.header;
        used.mark(0, 1);
        if header.luks {
            used.mark(placed::LUKS, placed::LUKS_CLUSTERS);
        }
        used.mark_within(image, header.l1_offset, (u64::from(header.l1_entries) * 8).div_ceil(CLUSTER), end)?;
        used.mark_within(image, header.refcount_offset, u64::from(header.refcount_clusters), end)?;
        // All tables before any data, so that no cluster's entry is believed before a table's.
        for (_, place) in image.l2_tables() {
            used.mark_within(image, place, 1, end)?;
        }
        let mut doubtful = Vec::new();
        for (index, place) in image.l2_tables() {
            for (within, entry) in (0..).zip(image.read_l2(place)?.iter()) {
                let cluster = index * TABLE_ENTRIES + within;
                if is_doubtful(image, cluster, *entry, damaged) {
                    doubtful.extend(table::offset(*entry).map(|data| (cluster, data)));
                    continue;
                }
                // Also refuses compressed clusters, whose places mean something else.
                image.classify(*entry)?;
                if let Some(data) = table::offset(*entry) {
                    used.mark_within(image, data, 1, end)?;
                }
            }
        }
        let mut kept = Kept::new();
        for (cluster, data) in doubtful {
            if used.mark_within(image, data, 1, end).is_ok() {
                kept.insert(cluster, data);
            }
        }
        for place in refcount_table.iter_mut().filter(|p| **p != 0) {
            if used.mark_within(image, *place, 1, end).is_err() {
                *place = 0;
            }
        }
        Ok((used, kept))
    }

    /// Marks clusters from a byte offset on, none of which may lie past the file's end or be in use.
    fn mark_within(&mut self, image: &Image, offset: u64, count: u64, end: u64) -> Result<()> {
        let first = offset / CLUSTER;
        let why = if !offset.is_multiple_of(CLUSTER) || first.saturating_add(count) > end {
            "its tables point past its end or between clusters"
        } else if (first..first + count).any(|cluster| self.contains(cluster)) {
            "its tables point to one place twice"
        } else {
            self.mark(first, count);
            return Ok(());
        };
        Err(StoreError::Format { path: image.path.clone(), why: why.to_owned() })
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

    /// Makes a cluster free again.
    pub fn release(&mut self, cluster: u64) {
        if let Some(word) = self.bits.get_mut((cluster / 64) as usize) {
            *word &= !(1 << (cluster % 64));
        }
        self.cursor = self.cursor.min(cluster);
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

/// Whether nobody has read what an entry says about a cluster's place: it is damaged, reads as zeros anyway, or lies past the disk's end.
pub(super) fn is_doubtful(image: &Image, cluster: u64, entry: u64, damaged: &RangeSet) -> bool {
    let past_end = cluster >= image.header.size.div_ceil(CLUSTER);
    past_end
        || damaged.contains(cluster * CLUSTER)
        || (table::is_zero(entry) && image.classify(entry).is_ok())
}

const _: () = assert!(TABLE_ENTRIES * 8 == CLUSTER);
