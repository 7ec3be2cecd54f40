//! From what is known about a disk to the pieces that are read or told, in ascending order.

use understudy_hypervisor::{Error, SnapshotDisk};
use understudy_ids::ByteRange;
use understudy_replication::{BLOCK_SIZE, RangeSet, cycle::Work};

/// Read at once, in bytes.
pub const PIECE: u64 = 1 << 20;

/// What the driver knows about a whole disk.
#[derive(Debug, Default)]
pub struct Survey {
    pub changed: RangeSet,
    /// Whole blocks that read as zeros for certain, up to the end of the disk.
    pub zero: RangeSet,
}

/// Asks the driver about all of a disk.
pub async fn survey(disk: &SnapshotDisk) -> Result<Survey, Error> {
    let (mut changed, mut zero) = (Vec::new(), Vec::new());
    let mut next = 0;
    while next < disk.size {
        let extents = disk.reader.extents(ByteRange::new(next, disk.size)).await?;
        let end = extents.last().map_or(next, |e| e.range.end);
        if end <= next {
            let what = format!("reading what is known of disk {}", disk.name);
            return Err(Error::Failed { what, why: format!("the driver told nothing about byte {next}") });
        }
        for extent in extents {
            changed.extend(extent.changed.then_some(extent.range));
            zero.extend(extent.zero.then_some(extent.range));
        }
        next = end;
    }
    let zero: RangeSet = zero.into_iter().collect();
    Ok(Survey { changed: changed.into_iter().collect(), zero: whole_blocks(&zero, disk.size) })
}

/// The blocks that lie wholly in a set; the disk's last one may be short.
fn whole_blocks(set: &RangeSet, size: u64) -> RangeSet {
    let shrink = |r: ByteRange| {
        let start = r.start.next_multiple_of(BLOCK_SIZE);
        let end = if r.end >= size { size } else { r.end / BLOCK_SIZE * BLOCK_SIZE };
        (start < end).then(|| ByteRange::new(start, end))
    };
    set.iter().filter_map(shrink).collect()
}

/// One piece of a disk's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    pub range: ByteRange,
    /// Ship only what has another digest than the target's.
    pub compare: bool,
    /// Need not be read.
    pub zero: bool,
}

/// The pieces of `work`, ascending and block-aligned; those to be read have at most [`PIECE`] bytes.
pub fn pieces(work: &Work, zero: &RangeSet) -> impl Iterator<Item = Piece> + Send + use<> {
    let mut runs = Vec::new();
    for (set, compare) in [(&work.ship, false), (&work.compare, true)] {
        runs.extend(set.intersection(zero).iter().map(|range| Piece { range, compare, zero: true }));
        runs.extend(set.difference(zero).iter().map(|range| Piece { range, compare, zero: false }));
    }
    runs.sort_unstable_by_key(|piece| piece.range);
    runs.into_iter().flat_map(|run| {
        let step = if run.zero { u64::MAX } else { PIECE };
        let mut start = run.range.start;
        std::iter::from_fn(move || {
            let end = (start / step).saturating_add(1).saturating_mul(step).min(run.range.end);
            let piece = (start < end).then(|| Piece { range: ByteRange::new(start, end), ..run });
            start = end;
            piece
        })
    })
}

/// What of `work` has to be read.
pub fn to_read(work: &Work, zero: &RangeSet) -> RangeSet {
    work.ship.union(&work.compare).difference(zero)
}

#[cfg(test)]
mod tests {
    use super::*;

    const B: u64 = BLOCK_SIZE;

    #[test]
    fn pieces_cover_the_work_once_in_order_and_zeros_are_not_read() {
        let size = 100 * B + 512;
        let work = Work { ship: RangeSet::span(0, 40 * B), compare: RangeSet::span(40 * B, size) };
        let zero = whole_blocks(
            &[ByteRange::new(10, 3 * B), ByteRange::new(90 * B + 1, size)].into_iter().collect(),
            size,
        );
        assert_eq!(zero, [ByteRange::new(B, 3 * B), ByteRange::new(91 * B, size)].into_iter().collect());
        let all: Vec<Piece> = pieces(&work, &zero).collect();
        let covered: RangeSet = all.iter().map(|p| p.range).collect();
        assert_eq!(covered, RangeSet::span(0, size));
        assert!(all.windows(2).all(|w| w[0].range.end <= w[1].range.start), "{all:?}");
        for piece in &all {
            assert_eq!(piece.zero, zero.contains(piece.range.start), "{piece:?}");
            assert_eq!(piece.compare, piece.range.start >= 40 * B, "{piece:?}");
            assert!(piece.zero || piece.range.len() <= PIECE, "{piece:?}");
            assert_eq!(piece.range.start % B, 0);
        }
        let read: u64 = all.iter().filter(|p| !p.zero).map(|p| p.range.len()).sum();
        assert_eq!(read, to_read(&work, &zero).bytes());
    }
}
