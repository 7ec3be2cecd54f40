//! From the content of a piece to what goes over the wire: digested, compared, encoded, zeros told instead of sent.

use bytes::{Bytes, BytesMut};
use understudy_ids::ByteRange;
use understudy_replication::{BLOCK_SIZE, BlockDigest, DigestTree, Encoding, extents::block_count};
use understudy_replication_api::sink::{DIGEST_BYTES, Part, Payload};

use crate::codec;

/// What became of a piece.
#[derive(Debug, Default)]
pub struct Outcome {
    pub parts: Vec<Part>,
    /// Payload in `parts`, bytes.
    pub sent: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The target has the same.
    Same,
    Zero,
    Data,
}

/// Parts for content that was read at `offset` of disk number `disk`. With `target`, blocks that it has are left out. What does not
/// shrink by being encoded goes as it is.
pub fn of_content(
    disk: usize,
    offset: u64,
    content: Bytes,
    target: Option<&DigestTree>,
    encoding: Encoding,
) -> Outcome {
    let content = padded(content);
    let blocks = content.len() as u64 / BLOCK_SIZE;
    let first = offset / BLOCK_SIZE;
    let digests: Vec<BlockDigest> = content.chunks_exact(BLOCK_SIZE as usize).map(BlockDigest::of).collect();
    let fate = |n: u64| {
        let digest = digests[n as usize];
        if target.is_some_and(|t| t.get(first + n) == digest) {
            Fate::Same
        } else if digest.is_zero_block() {
            Fate::Zero
        } else {
            Fate::Data
        }
    };
    let mut outcome = Outcome::default();
    let mut start = 0;
    while start < blocks {
        let kind = fate(start);
        let end = (start + 1..blocks).find(|n| fate(*n) != kind).unwrap_or(blocks);
        let (from, length) = (start * BLOCK_SIZE, (end - start) * BLOCK_SIZE);
        match kind {
            Fate::Same => {}
            Fate::Zero => outcome.parts.push(Part::Zero { disk, offset: offset + from, length }),
            Fate::Data => {
                let plain = content.slice(from as usize..(from + length) as usize);
                let encoded = codec::encode(&plain, encoding);
                let encoding = if encoded.is_some() { encoding } else { Encoding::Plain };
                let payload: Payload = encoded.unwrap_or(plain).into();
                let digests = joined(&digests[start as usize..end as usize]);
                outcome.sent += payload.len() as u64;
                outcome.parts.push(Part::Data { disk, offset: offset + from, payload, digests, encoding });
            }
        }
        start = end;
    }
    outcome
}

/// Parts for a range of whole blocks that reads as zeros. With `target`, only where it has something else.
pub fn of_zeros(disk: usize, range: ByteRange, target: Option<&DigestTree>) -> Outcome {
    let Some(target) = target else {
        let part = Part::Zero { disk, offset: range.start, length: range.len() };
        return Outcome { parts: vec![part], sent: 0 };
    };
    let end = block_count(range.end);
    let mut outcome = Outcome::default();
    let mut next = target.next_nonzero_node(range.start / BLOCK_SIZE);
    while let Some(start) = next.filter(|b| *b < end) {
        if target.get(start).is_zero_block() {
            next = target.next_nonzero_node(start + 1);
            continue;
        }
        let stop = (start + 1..end).find(|b| target.get(*b).is_zero_block()).unwrap_or(end);
        let offset = start * BLOCK_SIZE;
        let length = (stop * BLOCK_SIZE).min(range.end) - offset;
        outcome.parts.push(Part::Zero { disk, offset, length });
        next = target.next_nonzero_node(stop);
    }
    outcome
}

/// Whole blocks; copied only at the end of a disk whose size is no multiple of a block's.
fn padded(content: Bytes) -> Bytes {
    let whole = (content.len() as u64).next_multiple_of(BLOCK_SIZE) as usize;
    if content.len() == whole {
        return content;
    }
    let mut copy = BytesMut::with_capacity(whole);
    copy.extend_from_slice(&content);
    copy.resize(whole, 0);
    copy.freeze()
}

fn joined(digests: &[BlockDigest]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(digests.len() * DIGEST_BYTES);
    for digest in digests {
        bytes.extend_from_slice(digest.bytes());
    }
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    const B: usize = BLOCK_SIZE as usize;

    /// Four blocks: 1s, zeros, 2s, and a short one of 3s.
    fn content() -> Bytes {
        let mut content = vec![1; B];
        content.resize(2 * B, 0);
        content.resize(3 * B, 2);
        content.resize(3 * B + 512, 3);
        content.into()
    }

    #[test]
    fn zeros_are_told_and_the_last_block_is_padded() {
        let outcome = of_content(1, 4 * BLOCK_SIZE, content(), None, Encoding::Plain);
        assert_eq!(outcome.sent, 3 * BLOCK_SIZE);
        let shape: Vec<(u64, u64, bool)> = outcome
            .parts
            .iter()
            .map(|part| match part {
                Part::Data { offset, payload, digests, .. } => {
                    assert_eq!(payload.len() / B * DIGEST_BYTES, digests.len());
                    (*offset / BLOCK_SIZE, payload.len() as u64 / BLOCK_SIZE, true)
                }
                Part::Zero { offset, length, .. } => (*offset / BLOCK_SIZE, length / BLOCK_SIZE, false),
                Part::Finish { .. } => panic!("no piece finishes"),
            })
            .collect();
        assert_eq!(shape, [(4, 1, true), (5, 1, false), (6, 2, true)]);
    }

    /// R-REP-7: only what differs is shipped, in data and in zeros.
    #[test]
    fn what_the_target_has_is_left_out() {
        let mut target = DigestTree::new(10 * BLOCK_SIZE);
        target.set(0, BlockDigest::of(&[1; B]));
        target.set(2, BlockDigest::of(&[9; B]));
        target.set(3, BlockDigest::of(&[3; 512]));
        let outcome = of_content(0, 0, content(), Some(&target), Encoding::Plain);
        assert_eq!(outcome.sent, BLOCK_SIZE);
        assert!(matches!(&outcome.parts[..], [Part::Data { offset, .. }] if *offset == 2 * BLOCK_SIZE));
        let zeros = of_zeros(0, ByteRange::new(BLOCK_SIZE, 10 * BLOCK_SIZE), Some(&target));
        assert_eq!(zeros.parts, [Part::Zero { disk: 0, offset: 2 * BLOCK_SIZE, length: 2 * BLOCK_SIZE }]);
        assert!(of_zeros(0, ByteRange::new(4 * BLOCK_SIZE, 10 * BLOCK_SIZE), Some(&target)).parts.is_empty());
    }
}
