//! Sets of byte ranges of one disk, and their cutting into block-aligned work.
//!
//! Dirty bitmaps, allocation maps and watermarks all become a [`RangeSet`]; a cycle's work is computed with unions,
//! intersections and differences of them. Sets are kept sorted, disjoint and coalesced, so that equal sets compare equal.

use serde::{Deserialize, Serialize};
use understudy_ids::ByteRange;

/// Unit of replication, digests and qcow2 clusters, in bytes.
pub const BLOCK_SIZE: u64 = 65536;

/// Number of blocks of a disk of `size` bytes; a last partial block counts.
pub const fn block_count(size: u64) -> u64 {
    size.div_ceil(BLOCK_SIZE)
}

/// The bytes of block `block` on a disk of `size` bytes; shorter than a block only at the disk's end.
pub fn block_range(block: u64, size: u64) -> ByteRange {
    let start = (block * BLOCK_SIZE).min(size);
    ByteRange::new(start, (start + BLOCK_SIZE).min(size))
}

/// A set of bytes, stored as sorted, disjoint, non-adjacent ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct RangeSet {
    ranges: Vec<ByteRange>,
}

impl RangeSet {
    pub const fn new() -> Self {
        Self { ranges: Vec::new() }
    }

    /// All bytes in `[start, end)`; empty when `start >= end`.
    pub fn span(start: u64, end: u64) -> Self {
        if start < end { Self { ranges: vec![ByteRange::new(start, end)] } } else { Self::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Number of bytes in the set.
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(ByteRange::len).sum()
    }

    pub fn iter(&self) -> impl Iterator<Item = ByteRange> + '_ {
        self.ranges.iter().copied()
    }

    pub fn contains(&self, at: u64) -> bool {
        let after = self.ranges.partition_point(|r| r.start <= at);
        after > 0 && at < self.ranges[after - 1].end
    }

    pub fn union(&self, other: &Self) -> Self {
        self.iter().chain(other.iter()).collect()
    }

    pub fn intersection(&self, other: &Self) -> Self {
        let (mut left, mut right) = (self.ranges.as_slice(), other.ranges.as_slice());
        let mut ranges = Vec::new();
        while let (Some(a), Some(b)) = (left.first(), right.first()) {
            ranges.extend(a.intersect(b));
            if a.end <= b.end {
                left = &left[1..];
            } else {
                right = &right[1..];
            }
        }
        Self { ranges }
    }

    /// The bytes of `self` that are not in `other`.
    pub fn difference(&self, other: &Self) -> Self {
        let mut ranges = Vec::new();
        let mut holes = other.ranges.as_slice();
        for range in &self.ranges {
            let mut start = range.start;
            while let Some(hole) = holes.first().filter(|h| h.start < range.end) {
                if start < hole.start {
                    ranges.push(ByteRange::new(start, hole.start));
                }
                start = start.max(hole.end);
                if hole.end > range.end {
                    break;
                }
                holes = &holes[1..];
            }
            if start < range.end {
                ranges.push(ByteRange::new(start, range.end));
            }
        }
        Self { ranges }
    }

    /// Widened to whole blocks and cut at the end of a disk of `size` bytes: what has to be read so that every touched
    /// block can be digested whole.
    pub fn to_blocks(&self, size: u64) -> Self {
        let widen = |r: ByteRange| {
            let start = r.start / BLOCK_SIZE * BLOCK_SIZE;
            let end = r.end.div_ceil(BLOCK_SIZE).saturating_mul(BLOCK_SIZE);
            (start, end.min(size))
        };
        self.iter().map(widen).filter(|(s, e)| s < e).map(|(s, e)| ByteRange::new(s, e)).collect()
    }

    /// A set of at most `most` ranges that contains this one: neighbours are joined, with what lies between them.
    ///
    /// # Panics
    /// When `most` is zero.
    pub fn coarsened(&self, most: usize) -> Self {
        let together = self.ranges.len().div_ceil(most).max(1);
        self.ranges.chunks(together).map(|run| ByteRange::new(run[0].start, run[run.len() - 1].end)).collect()
    }

    /// Cut into pieces of at most `max` bytes, in ascending order. Pieces end on multiples of `max`, so that pieces of a
    /// block-aligned set are block-aligned when `max` is a multiple of [`BLOCK_SIZE`].
    ///
    /// # Panics
    /// When `max` is zero.
    pub fn pieces(&self, max: u64) -> impl Iterator<Item = ByteRange> + '_ {
        assert!(max > 0, "work cannot be cut into pieces of no bytes");
        self.ranges.iter().flat_map(move |range| {
            let mut start = range.start;
            std::iter::from_fn(move || {
                let end = (start / max).saturating_add(1).saturating_mul(max).min(range.end);
                let piece = (start < range.end).then(|| ByteRange::new(start, end));
                start = end;
                piece
            })
        })
    }

    /// Numbers of the blocks that the set touches, ascending, each once.
    pub fn blocks(&self) -> impl Iterator<Item = u64> + '_ {
        let mut next = 0;
        self.ranges.iter().flat_map(move |r| {
            let first = (r.start / BLOCK_SIZE).max(next);
            next = r.end.div_ceil(BLOCK_SIZE);
            first..next
        })
    }
}

impl From<RangeSet> for Vec<(u64, u64)> {
    fn from(set: RangeSet) -> Self {
        set.ranges.into_iter().map(|r| (r.start, r.end)).collect()
    }
}

/// From pairs of start and end, as they may have been written by hand: a pair without a byte between them says nothing.
impl From<Vec<(u64, u64)>> for RangeSet {
    fn from(pairs: Vec<(u64, u64)>) -> Self {
        pairs.into_iter().filter(|(s, e)| s < e).map(|(s, e)| ByteRange::new(s, e)).collect()
    }
}

impl FromIterator<ByteRange> for RangeSet {
    fn from_iter<I: IntoIterator<Item = ByteRange>>(ranges: I) -> Self {
        let mut sorted: Vec<_> = ranges.into_iter().filter(|r| !r.is_empty()).collect();
        sorted.sort_unstable();
        let mut merged: Vec<ByteRange> = Vec::with_capacity(sorted.len());
        for range in sorted {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        Self { ranges: merged }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set() -> impl Strategy<Value = RangeSet> {
        prop::collection::vec((0u64..400, 0u64..60), 0..12)
            .prop_map(|v| v.into_iter().map(|(s, l)| ByteRange::new(s, s + l)).collect())
    }

    fn members(set: &RangeSet) -> Vec<u64> {
        set.iter().flat_map(|r| r.start..r.end).collect()
    }

    proptest! {
        #[test]
        fn set_algebra_agrees_with_byte_by_byte_membership(a in set(), b in set()) {
            for at in 0..500 {
                let (x, y) = (members(&a).contains(&at), members(&b).contains(&at));
                prop_assert_eq!(a.contains(at), x);
                prop_assert_eq!(a.union(&b).contains(at), x || y);
                prop_assert_eq!(a.intersection(&b).contains(at), x && y);
                prop_assert_eq!(a.difference(&b).contains(at), x && !y);
            }
            for s in [a.union(&b), a.intersection(&b), a.difference(&b)] {
                prop_assert!(s.ranges.windows(2).all(|w| w[0].end < w[1].start));
            }
        }

        #[test]
        fn a_coarser_set_contains_the_finer_one_and_is_small(a in set(), most in 1usize..8) {
            let coarse = a.coarsened(most);
            prop_assert!(coarse.ranges.len() <= most);
            prop_assert!(a.difference(&coarse).is_empty());
            prop_assert!(a.ranges.len() > most || coarse == a);
        }

        #[test]
        fn pieces_cover_the_set_once_and_are_small(a in set(), max in 1u64..50) {
            let pieces: Vec<_> = a.pieces(max).collect();
            prop_assert!(pieces.iter().all(|p| !p.is_empty() && p.len() <= max));
            prop_assert_eq!(pieces.iter().map(ByteRange::len).sum::<u64>(), a.bytes());
            prop_assert_eq!(pieces.into_iter().collect::<RangeSet>(), a);
        }
    }

    #[test]
    fn work_is_widened_to_blocks_and_cut_at_the_end_of_the_disk() {
        let size = 3 * BLOCK_SIZE + 512;
        let set: RangeSet =
            [ByteRange::new(10, 20), ByteRange::new(3 * BLOCK_SIZE, size)].into_iter().collect();
        let work = set.to_blocks(size);
        assert_eq!(
            work.iter().collect::<Vec<_>>(),
            [ByteRange::new(0, BLOCK_SIZE), ByteRange::new(3 * BLOCK_SIZE, size)]
        );
        assert_eq!(work.blocks().collect::<Vec<_>>(), [0, 3]);
        assert_eq!(block_range(3, size).len(), 512);
    }

    #[test]
    fn two_ranges_in_one_block_name_it_once() {
        let set: RangeSet = [ByteRange::new(1, 2), ByteRange::new(5, 70000)].into_iter().collect();
        assert_eq!(set.blocks().collect::<Vec<_>>(), [0, 1]);
    }
}
