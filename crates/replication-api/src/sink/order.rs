//! The order and bounds of the parts of one transfer.

use understudy_replication::{BLOCK_SIZE, Encoding, extents::block_count};

use super::{DIGEST_BYTES, MAX_PAYLOAD, Part, SinkDisk, Watermark};
use crate::field::Invalid;

/// Follows a transfer part by part and refuses the first one that breaks the contract.
#[derive(Debug)]
pub struct PartOrder {
    sizes: Vec<u64>,
    /// The first byte that the next part may begin at.
    next: Watermark,
    finished: bool,
}

impl PartOrder {
    pub fn new(disks: &[SinkDisk]) -> Self {
        Self { sizes: disks.iter().map(|d| d.size).collect(), next: Watermark::default(), finished: false }
    }

    /// # Errors
    /// When the part follows the finish, goes back, leaves its disk or is not made of whole blocks with a digest each.
    pub fn accept(&mut self, part: &Part) -> Result<(), Invalid> {
        if self.finished {
            return Err(Invalid::new("part", "follows the finish"));
        }
        match part {
            Part::Data { disk, offset, payload, digests, encoding } => {
                let length = length(payload.len(), digests.len(), *encoding)?;
                self.advance("data", *disk, *offset, length)
            }
            Part::Zero { disk, offset, length } => {
                // The zeros at the end of a disk end with it, inside a block or not; they count as whole blocks.
                let whole = block_count(*length).checked_mul(BLOCK_SIZE);
                let whole = whole.ok_or_else(|| Invalid::new("zero.length", "is beyond any disk"))?;
                let at_end =
                    self.sizes.get(*disk).is_some_and(|size| offset.checked_add(*length) == Some(*size));
                if *length == 0 || (whole != *length && !at_end) {
                    return Err(Invalid::new(
                        "zero.length",
                        format!("is {length}: use whole blocks up to the disk's end"),
                    ));
                }
                self.advance("zero", *disk, *offset, whole)
            }
            Part::Finish { .. } => {
                self.finished = true;
                Ok(())
            }
        }
    }

    /// `length` is a whole number of blocks.
    fn advance(&mut self, what: &str, disk: usize, offset: u64, length: u64) -> Result<(), Invalid> {
        let size = *self.sizes.get(disk).ok_or_else(|| {
            Invalid::new(format!("{what}.disk"), format!("{disk} is not a disk of this transfer"))
        })?;
        if !offset.is_multiple_of(BLOCK_SIZE) {
            return Err(Invalid::new(
                format!("{what}.offset"),
                format!("{offset} is not a multiple of {BLOCK_SIZE}"),
            ));
        }
        let end = offset / BLOCK_SIZE + length / BLOCK_SIZE;
        if end > block_count(size) {
            return Err(Invalid::new(
                format!("{what}.offset"),
                format!("{offset} + {length} lies past the end of disk {disk} with {size} bytes"),
            ));
        }
        let at = Watermark { disk, offset };
        if at < self.next {
            return Err(Invalid::new(
                format!("{what}.offset"),
                format!("({disk}, {offset}) comes after ({}, {})", self.next.disk, self.next.offset),
            ));
        }
        self.next = Watermark { disk, offset: end * BLOCK_SIZE };
        Ok(())
    }
}

/// Bytes of the disk in a part of `payload` bytes with so many bytes of digests.
fn length(payload: usize, digests: usize, encoding: Encoding) -> Result<u64, Invalid> {
    let blocks = (digests / DIGEST_BYTES) as u64;
    let length = blocks * BLOCK_SIZE;
    if !digests.is_multiple_of(DIGEST_BYTES) || blocks == 0 || length > MAX_PAYLOAD as u64 {
        let why = format!("is {digests} bytes: use 32 for each block, at most 1 MiB of blocks");
        return Err(Invalid::new("data.digests", why));
    }
    let fits = match encoding {
        Encoding::Plain => payload as u64 == length,
        // What grows by being encoded is sent as it is.
        Encoding::Zstd | Encoding::Lz4 => payload > 0 && (payload as u64) < length,
    };
    if fits {
        return Ok(length);
    }
    Err(Invalid::new("data.payload", format!("is {payload} bytes for {blocks} blocks")))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const B: u64 = BLOCK_SIZE;

    fn order() -> PartOrder {
        let disk = |name: &str, size| SinkDisk { name: name.parse().unwrap(), size, luks: None };
        PartOrder::new(&[disk("vda", 10 * B), disk("vdb", 2 * B + 512)])
    }

    fn data(disk: usize, offset: u64, blocks: u64) -> Part {
        Part::Data {
            disk,
            offset,
            payload: Bytes::from(vec![1; (blocks * B) as usize]).into(),
            digests: vec![0; (blocks * 32) as usize].into(),
            encoding: Encoding::Plain,
        }
    }

    fn zero(disk: usize, offset: u64, length: u64) -> Part {
        Part::Zero { disk, offset, length }
    }

    #[test]
    fn parts_in_order_are_accepted_up_to_the_last_partial_block() {
        let mut order = order();
        for part in [data(0, 0, 2), zero(0, 4 * B, 3 * B), data(0, 9 * B, 1), zero(1, 0, B), data(1, B, 2)] {
            order.accept(&part).unwrap();
        }
        order.accept(&Part::Finish { sent_bytes: 0 }).unwrap();
        assert!(order.accept(&Part::Finish { sent_bytes: 0 }).is_err(), "two finishes");
        let mut order = self::order();
        order.accept(&zero(1, 0, 2 * B + 512)).unwrap();
    }

    /// Every row would write outside a disk, twice, or without proof if it were accepted (invariant 14).
    #[test]
    fn parts_that_break_the_contract_are_refused() {
        let short = |digests: usize| Part::Data {
            disk: 0,
            offset: 0,
            payload: Bytes::from(vec![1; B as usize]).into(),
            digests: vec![0; digests].into(),
            encoding: Encoding::Plain,
        };
        let encoded = |payload: u64, blocks: u64| Part::Data {
            disk: 0,
            offset: 0,
            payload: Bytes::from(vec![1; payload as usize]).into(),
            digests: vec![0; blocks as usize * 32].into(),
            encoding: Encoding::Zstd,
        };
        order().accept(&encoded(1, 4)).unwrap();
        let cases = [
            (data(2, 0, 1), "data.disk"),
            (data(0, 1, 1), "data.offset"),
            (data(0, 9 * B, 2), "data.offset"),
            (data(0, u64::MAX / B * B, 1), "data.offset"),
            (data(0, 0, 17), "data.digests"),
            (data(0, 0, 0), "data.digests"),
            (encoded(1, 17), "data.digests"),
            (encoded(0, 1), "data.payload"),
            (encoded(B, 1), "data.payload"),
            (encoded(1, 11), "data.offset"),
            (short(31), "data.digests"),
            (short(64), "data.payload"),
            (zero(0, 0, 0), "zero.length"),
            (zero(0, 0, 512), "zero.length"),
            (zero(0, 0, u64::MAX), "zero.length"),
            (zero(0, 512, B), "zero.offset"),
            (zero(0, 0, 11 * B), "zero.offset"),
            (zero(1, B, 3 * B), "zero.offset"),
        ];
        for (part, field) in cases {
            let found = order().accept(&part).err().map(|e| e.field);
            assert_eq!(found.as_deref(), Some(field), "{part:?}");
        }
    }

    #[test]
    fn going_back_is_refused() {
        for (first, second) in [
            (data(0, B, 1), data(0, 0, 1)),
            (data(0, B, 2), zero(0, 2 * B, B)),
            (data(1, 0, 1), data(0, 5 * B, 1)),
        ] {
            let mut order = order();
            order.accept(&first).unwrap();
            assert!(order.accept(&second).is_err());
        }
    }
}
