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
    path::Path,
};

use understudy_replication::{
    digest::{BlockDigest, DigestTree},
    extents::block_count,
};

use crate::{
    error::{IoContext, Result, StoreError},
    fsio::Io,
};

const MAGIC: &[u8; 8] = b"USDIGST1";
const RECORD: usize = 40;
/// Records written at once.
const BATCH: usize = 4096;

/// Writes the file whole and durably. `records` must ascend and be `count` in number.
pub(crate) fn write(
    io: &Io,
    path: &Path,
    size: u64,
    count: u64,
    records: impl Iterator<Item = (u64, BlockDigest)>,
) -> Result<()> {
    let file = io.create(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = Vec::with_capacity(BATCH * RECORD + MAGIC.len() + 16);
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
    for (block, digest) in records {
        buffer.extend_from_slice(&block.to_le_bytes());
        buffer.extend_from_slice(digest.bytes());
        if buffer.len() >= BATCH * RECORD {
            flush(&mut buffer)?;
        }
    }
    flush(&mut buffer)?;
    let end = at;
    file.write_at(hasher.finalize().as_bytes(), end)?;
    file.sync()
}

/// Reads the file record by record; each call of `each` gets a block and its digest. Returns the size of the disk.
///
/// # Errors
/// When the file is not whole: its own digest is checked *after* the last record.
pub(crate) fn read(path: &Path, mut each: impl FnMut(u64, BlockDigest)) -> Result<u64> {
    let bad = |why: &str| StoreError::Record { path: path.to_owned(), what: "digests", why: why.to_owned() };
    let file = File::open(path).during("open", path)?;
    let mut reader = BufReader::with_capacity(1 << 18, file);
    let mut hasher = blake3::Hasher::new();
    let mut head = [0; 24];
    reader.read_exact(&mut head).during("read", path)?;
    if head[..8] != *MAGIC {
        return Err(bad("it does not begin as such a file does"));
    }
    hasher.update(&head);
    let size = u64_at(&head, 8);
    let mut previous = None;
    for _ in 0..u64_at(&head, 16) {
        let mut record = [0; RECORD];
        reader.read_exact(&mut record).during("read", path)?;
        hasher.update(&record);
        let block = u64_at(&record, 0);
        if previous.is_some_and(|p| p >= block) || block >= block_count(size) {
            return Err(bad("its records are out of order or range"));
        }
        previous = Some(block);
        let mut digest = [0; 32];
        digest.copy_from_slice(&record[8..]);
        each(block, BlockDigest::new(digest));
    }
    let mut sum = [0; 32];
    reader.read_exact(&mut sum).during("read", path)?;
    if sum != *hasher.finalize().as_bytes() {
        return Err(bad("its own digest does not match"));
    }
    Ok(size)
}

/// Applies a point's records to its parent's tree.
pub(crate) fn apply(path: &Path, size: u64, tree: &mut DigestTree) -> Result<()> {
    tree.resize(size);
    let blocks = tree.blocks();
    let found = read(path, |block, digest| {
        if block < blocks {
            tree.set(block, digest);
        }
    })?;
    if found != size {
        let why = format!("it is of a disk of {found} bytes instead of {size}");
        return Err(StoreError::Record { path: path.to_owned(), what: "digests", why });
    }
    Ok(())
}

/// Rewrites `newer` to hold the records of both, its own where both have one. Doing it twice changes nothing.
pub(crate) fn absorb(io: &Io, older: &Path, newer: &Path) -> Result<()> {
    let (_, below) = load(older)?;
    let (size, above) = load(newer)?;
    let count = Union::new(&below, &above).count() as u64;
    let fresh = newer.with_extension("digests-new");
    write(io, &fresh, size, count, Union::new(&below, &above))?;
    io.rename(&fresh, newer)
}

type Records = Vec<(u64, BlockDigest)>;

fn load(path: &Path) -> Result<(u64, Records)> {
    let mut records = Vec::new();
    let size = read(path, |block, digest| records.push((block, digest)))?;
    Ok((size, records))
}

/// Two ascending lists as one; where both name a block, the second one's digest.
struct Union<'a> {
    below: Peekable<std::slice::Iter<'a, (u64, BlockDigest)>>,
    above: Peekable<std::slice::Iter<'a, (u64, BlockDigest)>>,
}

impl<'a> Union<'a> {
    fn new(below: &'a Records, above: &'a Records) -> Self {
        Self { below: below.iter().peekable(), above: above.iter().peekable() }
    }
}

impl Iterator for Union<'_> {
    type Item = (u64, BlockDigest);
    fn next(&mut self) -> Option<Self::Item> {
        match (self.below.peek(), self.above.peek()) {
            (Some((b, _)), Some((a, _))) if b < a => self.below.next().copied(),
            (Some((b, _)), Some((a, _))) => {
                if b == a {
                    self.below.next();
                }
                self.above.next().copied()
            }
            (Some(_), None) => self.below.next().copied(),
            (None, _) => self.above.next().copied(),
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

    #[test]
    fn r_rep_5_a_flipped_bit_or_a_cut_in_a_digest_file_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        write(&Io::default(), &path, 1 << 20, 2, [(1, digest(1)), (7, digest(2))].into_iter()).unwrap();
        assert_eq!(load(&path).unwrap().1, [(1, digest(1)), (7, digest(2))]);
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
        write(&io, &old, 1 << 20, 3, [(0, digest(1)), (5, digest(2)), (9, digest(3))].into_iter()).unwrap();
        write(&io, &new, 1 << 20, 2, [(5, digest(4)), (6, digest(5))].into_iter()).unwrap();
        let expected = [(0, digest(1)), (5, digest(4)), (6, digest(5)), (9, digest(3))];
        for _ in 0..2 {
            absorb(&io, &old, &new).unwrap();
            assert_eq!(load(&new).unwrap().1, expected);
        }
    }
}
