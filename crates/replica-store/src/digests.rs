//! The file of digests beside a disk file: one record per block that the point changed.
//!
//! ```text
//!   "USDIGST1" · size of the disk, u64 · number of records, u64 · (block u64 · digest 32 bytes) … · BLAKE3 of all of it
//! ```
//!
//! Little-endian, records ascending by block. A block that became zero has a record too; a block without one is as in the
//! parent, or zero without a parent.

use std::{
    fs::File,
    io::{BufReader, Read},
    iter::Peekable,
    path::{Path, PathBuf},
};

use understudy_replication::{
    digest::{BlockDigest, DigestTree},
    extents::block_count,
};

use crate::{
    error::{IoContext, Result, StoreError},
    fsio::{Io, IoFile},
};

const MAGIC: &[u8; 8] = b"USDIGST1";
const HEAD: usize = 24;
const RECORD: usize = 40;
/// Records written at once.
const BATCH: usize = 4096;

/// A block and its digest.
pub(crate) type Record = (u64, BlockDigest);

/// Writes the file whole; the caller makes it durable. `records` must ascend and be `count` in number.
pub(crate) fn write(
    io: &Io,
    path: &Path,
    size: u64,
    count: u64,
    records: impl Iterator<Item = Result<Record>>,
) -> Result<IoFile> {
    let file = io.create(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = Vec::with_capacity(BATCH * RECORD + HEAD);
    let mut at = 0;
    let mut flush = |buffer: &mut Vec<u8>| -> Result<()> {
        hasher.update(buffer);
        file.write_at(buffer, at)?;
        at += buffer.len() as u64;
        buffer.clear();
        Ok(())
    };
    buffer.extend_from_slice(MAGIC);
    buffer.extend_from_slice(&size.to_le_bytes());
    buffer.extend_from_slice(&count.to_le_bytes());
    for record in records {
        let (block, digest) = record?;
        buffer.extend_from_slice(&block.to_le_bytes());
        buffer.extend_from_slice(digest.bytes());
        if buffer.len() >= BATCH * RECORD {
            flush(&mut buffer)?;
        }
    }
    flush(&mut buffer)?;
    let end = at;
    file.write_at(hasher.finalize().as_bytes(), end)?;
    Ok(file)
}

/// Reads a file record by record, in constant memory.
pub(crate) struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    hasher: blake3::Hasher,
    /// Size of the disk in bytes.
    pub size: u64,
    left: u64,
    previous: Option<u64>,
    checked: bool,
}

impl Reader {
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).during("open", path)?;
        let mut file = BufReader::with_capacity(1 << 18, file);
        let mut head = [0; HEAD];
        file.read_exact(&mut head).during("read", path)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&head);
        let (size, left) = (u64_at(&head, 8), u64_at(&head, 16));
        let reader = Self { path: path.to_owned(), file, hasher, size, left, previous: None, checked: false };
        if head[..8] == *MAGIC {
            Ok(reader)
        } else {
            Err(reader.bad("it does not begin as such a file does"))
        }
    }

    fn bad(&self, why: &str) -> StoreError {
        StoreError::Record { path: self.path.clone(), what: "digests", why: why.to_owned() }
    }

    fn record(&mut self) -> Result<Record> {
        let mut record = [0; RECORD];
        self.file.read_exact(&mut record).during("read", &self.path)?;
        self.hasher.update(&record);
        let block = u64_at(&record, 0);
        if self.previous.is_some_and(|p| p >= block) || block >= block_count(self.size) {
            return Err(self.bad("its records are out of order or range"));
        }
        self.previous = Some(block);
        let mut digest = [0; 32];
        digest.copy_from_slice(&record[8..]);
        Ok((block, BlockDigest::new(digest)))
    }

    fn check(&mut self) -> Result<()> {
        let mut sum = [0; 32];
        self.file.read_exact(&mut sum).during("read", &self.path)?;
        let whole = sum == *self.hasher.finalize().as_bytes();
        if whole { Ok(()) } else { Err(self.bad("its own digest does not match")) }
    }
}

/// Ends with an error when the file is not whole: its own digest is checked *after* the last record.
impl Iterator for Reader {
    type Item = Result<Record>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.checked {
            return None;
        }
        let item = if self.left > 0 { Some(self.record()) } else { self.check().err().map(Err) };
        // Nothing after an error can be believed.
        self.checked = self.left == 0 || matches!(item, Some(Err(_)));
        self.left = self.left.saturating_sub(1);
        item
    }
}

/// Applies a point's records to its parent's tree.
pub(crate) fn apply(path: &Path, size: u64, tree: &mut DigestTree) -> Result<()> {
    let reader = Reader::open(path)?;
    if reader.size != size {
        return Err(reader.bad(&format!("it is of a disk of {} bytes instead of {size}", reader.size)));
    }
    tree.resize(size);
    for record in reader {
        let (block, digest) = record?;
        tree.set(block, digest);
    }
    Ok(())
}

/// Rewrites `newer` to hold the records of both, its own where both have one. Doing it twice changes nothing.
pub(crate) fn absorb(io: &Io, older: &Path, newer: &Path) -> Result<()> {
    // Two passes rather than all records in memory: the older file may describe a whole disk.
    let mut count = 0;
    for record in Union::open(older, newer)? {
        record?;
        count += 1;
    }
    let size = Reader::open(newer)?.size;
    let fresh = newer.with_extension("digests-new");
    write(io, &fresh, size, count, Union::open(older, newer)?)?.sync()?;
    io.rename(&fresh, newer)
}

/// Two ascending lists as one; where both name a block, the second one's digest.
struct Union {
    below: Peekable<Reader>,
    above: Peekable<Reader>,
}

impl Union {
    fn open(below: &Path, above: &Path) -> Result<Self> {
        Ok(Self { below: Reader::open(below)?.peekable(), above: Reader::open(above)?.peekable() })
    }
}

impl Iterator for Union {
    type Item = Result<Record>;
    fn next(&mut self) -> Option<Self::Item> {
        match (self.below.peek(), self.above.peek()) {
            (Some(_), None) | (Some(Err(_)), _) => self.below.next(),
            (Some(Ok((b, _))), Some(Ok((a, _)))) if b < a => self.below.next(),
            (Some(Ok((b, _))), Some(Ok((a, _)))) => {
                if b == a {
                    self.below.next();
                }
                self.above.next()
            }
            (_, Some(Err(_))) | (None, _) => self.above.next(),
        }
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u8) -> BlockDigest {
        BlockDigest::of(&[n])
    }

    fn load(path: &Path) -> Result<Vec<Record>> {
        Reader::open(path)?.collect()
    }

    #[test]
    fn r_rep_5_a_flipped_bit_or_a_cut_in_a_digest_file_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        let _ =
            write(&Io::default(), &path, 1 << 20, 2, [(1, digest(1)), (7, digest(2))].into_iter().map(Ok))
                .unwrap();
        assert_eq!(load(&path).unwrap(), [(1, digest(1)), (7, digest(2))]);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut broken = whole.clone();
            broken[at] ^= 4;
            std::fs::write(&path, &broken).unwrap();
            assert!(load(&path).is_err(), "byte {at}");
            std::fs::write(&path, &whole[..at]).unwrap();
            assert!(load(&path).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn absorbing_twice_is_absorbing_once_and_the_newer_wins() {
        let dir = tempfile::tempdir().unwrap();
        let io = Io::default();
        let (old, new) = (dir.path().join("a.digests"), dir.path().join("b.digests"));
        let _ = write(
            &io,
            &old,
            1 << 20,
            3,
            [(0, digest(1)), (5, digest(2)), (9, digest(3))].into_iter().map(Ok),
        )
        .unwrap();
        let _ = write(&io, &new, 1 << 20, 2, [(5, digest(4)), (6, digest(5))].into_iter().map(Ok)).unwrap();
        let expected = [(0, digest(1)), (5, digest(4)), (6, digest(5)), (9, digest(3))];
        for _ in 0..2 {
            absorb(&io, &old, &new).unwrap();
            assert_eq!(load(&new).unwrap(), expected);
        }
    }
}
