//! The map from the clusters of a disk to those of its file, in memory while it is being built.
//!
//! Memory follows the regions that are touched: one table of 64 KiB per 512 MiB of disk with anything in it.

use std::collections::BTreeMap;

use super::{COPIED, OFFSET_MASK, TABLE_ENTRIES, ZERO};

type Entries = Box<[u64]>;

/// Sparse L2 tables, entries in native byte order.
#[derive(Debug, Default)]
pub(super) struct Table {
    tables: BTreeMap<u64, Entries>,
}

impl Table {
    pub fn get(&self, cluster: u64) -> u64 {
        self.tables.get(&(cluster / TABLE_ENTRIES)).map_or(0, |t| t[(cluster % TABLE_ENTRIES) as usize])
    }

    pub fn set(&mut self, cluster: u64, entry: u64) {
        let table = self
            .tables
            .entry(cluster / TABLE_ENTRIES)
            .or_insert_with(|| vec![0; TABLE_ENTRIES as usize].into_boxed_slice());
        table[(cluster % TABLE_ENTRIES) as usize] = entry;
    }

    /// L1 index and L2 entries, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &[u64])> + '_ {
        self.tables.iter().map(|(index, entries)| (*index, &**entries))
    }

    pub fn len(&self) -> u64 {
        self.tables.len() as u64
    }

    /// Every cluster with an entry, ascending.
    pub fn clusters(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.iter().flat_map(|(index, entries)| {
            (index * TABLE_ENTRIES..).zip(entries.iter().copied()).filter(|(_, entry)| *entry != 0)
        })
    }
}

/// An entry for a data cluster at `offset` in the file.
pub(super) const fn data_entry(offset: u64) -> u64 {
    offset | COPIED
}

/// An entry that reads as zeros and keeps the cluster, if any, that `entry` had.
pub(super) const fn zeroed(entry: u64) -> u64 {
    entry | ZERO
}

/// Where the entry's cluster is in the file, if it has one.
pub(super) const fn offset(entry: u64) -> Option<u64> {
    match entry & OFFSET_MASK {
        0 => None,
        offset => Some(offset),
    }
}

pub(super) const fn is_zero(entry: u64) -> bool {
    entry & ZERO != 0
}

/// Big-endian bytes of a table of `entries.len()` entries.
pub(super) fn encode(entries: impl Iterator<Item = u64>, out: &mut Vec<u8>) {
    out.clear();
    for entry in entries {
        out.extend_from_slice(&entry.to_be_bytes());
    }
}
