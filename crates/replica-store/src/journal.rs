//! The log of a running transfer: what is durable of it.
//!
//! ```text
//!   group = length of the entries, u64 · entries … · BLAKE3 of the entries
//!   entry = disk u32 · kind u32 · block u64 · place u64 · digest 32 bytes
//! ```
//!
//! A group is appended and synced only after the data it speaks of has been synced. Reading stops at the first group that is
//! not whole, and the next one is written in its place.

use std::path::Path;

use understudy_replication::digest::BlockDigest;

use crate::{
    error::Result,
    fsio::{Io, IoFile},
};

const ENTRY: usize = 56;
const SUM: u64 = 32;

/// What a transfer has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Index of the disk in the transfer's list.
    pub disk: u32,
    pub what: Received,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Received {
    Data {
        block: u64,
        place: u64,
        digest: BlockDigest,
    },
    /// Reads as zeros; `place` is where it once was, or 0.
    Zero {
        block: u64,
        place: u64,
    },
    /// Everything that had to come below this block has come.
    Watermark {
        block: u64,
    },
}

impl Entry {
    fn encode(&self, out: &mut Vec<u8>) {
        let (kind, block, place, digest) = match self.what {
            Received::Data { block, place, digest } => (0u32, block, place, *digest.bytes()),
            Received::Zero { block, place } => (1, block, place, [0; 32]),
            Received::Watermark { block } => (2, block, 0, [0; 32]),
        };
        out.extend_from_slice(&self.disk.to_le_bytes());
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&block.to_le_bytes());
        out.extend_from_slice(&place.to_le_bytes());
        out.extend_from_slice(&digest);
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| bytes.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let long = |at: usize| Some(u64::from(word(at)?) | u64::from(word(at + 4)?) << 32);
        let (block, place) = (long(8)?, long(16)?);
        let what = match word(4)? {
            0 => {
                let mut digest = [0; 32];
                digest.copy_from_slice(bytes.get(24..56)?);
                Received::Data { block, place, digest: BlockDigest::new(digest) }
            }
            1 => Received::Zero { block, place },
            2 => Received::Watermark { block },
            _ => return None,
        };
        Some(Self { disk: word(0)?, what })
    }
}

#[derive(Debug)]
pub(crate) struct Journal {
    file: IoFile,
    end: u64,
    buffer: Vec<u8>,
}

impl Journal {
    /// A new log without a group. Durable, but for its name, with the first one.
    pub fn create(io: &Io, path: &Path) -> Result<Self> {
        Ok(Self { file: io.create(path)?, end: 0, buffer: Vec::new() })
    }

    /// Opens a log, hands every durable entry to `each`, and stands ready to append after the last whole group.
    pub fn replay(io: &Io, path: &Path, mut each: impl FnMut(Entry)) -> Result<Self> {
        let file = io.open(path)?;
        let length = file.len()?;
        let mut end = 0;
        let mut buffer = Vec::new();
        while let Some(next) = read_group(&file, end, length, &mut buffer)? {
            buffer.chunks_exact(ENTRY).filter_map(Entry::decode).for_each(&mut each);
            end = next;
        }
        Ok(Self { file, end, buffer })
    }

    /// Appends one group durably. The data must have been synced before.
    pub fn append(&mut self, entries: &[Entry]) -> Result<()> {
        self.buffer.clear();
        self.buffer.extend_from_slice(&((entries.len() * ENTRY) as u64).to_le_bytes());
        entries.iter().for_each(|e| e.encode(&mut self.buffer));
        let sum = blake3::hash(&self.buffer[8..]);
        self.buffer.extend_from_slice(sum.as_bytes());
        self.file.write_at(&self.buffer, self.end)?;
        self.file.sync()?;
        self.end += self.buffer.len() as u64;
        Ok(())
    }
}

/// Reads the entries of the group at `at` into `buffer`; returns where the next one begins.
fn read_group(file: &IoFile, at: u64, length: u64, buffer: &mut Vec<u8>) -> Result<Option<u64>> {
    if at + 8 + SUM > length {
        return Ok(None);
    }
    let mut head = [0; 8];
    file.read_at(&mut head, at)?;
    let bytes = u64::from_le_bytes(head);
    if bytes > length - at - 8 - SUM || bytes == 0 || bytes % ENTRY as u64 != 0 {
        return Ok(None);
    }
    buffer.resize(bytes as usize, 0);
    file.read_at(buffer, at + 8)?;
    let mut sum = [0; SUM as usize];
    file.read_at(&mut sum, at + 8 + bytes)?;
    Ok((sum == *blake3::hash(buffer).as_bytes()).then_some(at + 8 + bytes + SUM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r_rep_6_a_torn_group_is_not_believed_and_is_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let (io, path) = (Io::default(), dir.path().join("log"));
        let entry = |block| Entry {
            disk: 1,
            what: Received::Data { block, place: 9, digest: BlockDigest::of(&[1]) },
        };
        let mut journal = Journal::create(&io, &path).unwrap();
        journal.append(&[entry(1), entry(2)]).unwrap();
        let first = std::fs::metadata(&path).unwrap().len() as usize;
        journal.append(&[entry(3), Entry { disk: 0, what: Received::Zero { block: 4, place: 0 } }]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let replay = || {
            let mut seen = Vec::new();
            let journal = Journal::replay(&io, &path, |e| seen.push(e)).unwrap();
            (journal, seen)
        };
        assert_eq!(replay().1.len(), 4);
        for at in first..whole.len() {
            let mut torn = whole.clone();
            torn[at] ^= 1;
            std::fs::write(&path, torn).unwrap();
            assert_eq!(replay().1, [entry(1), entry(2)], "flipped at {at}");
            std::fs::write(&path, &whole[..at]).unwrap();
            assert_eq!(replay().1, [entry(1), entry(2)], "cut at {at}");
        }
        replay().0.append(&[entry(7)]).unwrap();
        assert_eq!(replay().1, [entry(1), entry(2), entry(7)]);
    }
}
