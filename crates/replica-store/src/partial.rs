//! Beginning a transfer, going on with one, and throwing one away.
//!
//! A partial is `incoming/` with three things in it: what the source said when it began, the files, and the log of what is
//! durable of them. The log is the last to come and the first to go, so that whatever has one can be resumed. It comes with the
//! first sync: a transfer that ends before never was a partial, and costs nothing for it.

use std::path::Path;

use understudy_ids::{DiskName, ItemName};
use understudy_replication::{
    cycle::{Partial, PartialDisk},
    digest::DigestTree,
    extents::BLOCK_SIZE,
};
use understudy_sealing::LuksHeader;

use crate::{
    behind::Log,
    error::{Result, StoreError},
    fsio::Io,
    incoming::{DiskWriter, PointWriter},
    journal::{Journal, Received},
    layout::{backing_path, disk_file},
    model::{Begin, DiskFormat, DiskSpec, Manifest, PointKind, Role, Seal},
    qcow2::{Backing, Writer},
    store::{ItemState, Store, StoreReader, read_json},
};

/// The largest disk that is accepted, in bytes: 64 TiB. Bounds what a digest over a hostile size can cost.
const MAX_DISK: u64 = 64 << 40;

impl Store {
    /// Begins to receive a point, in place of any interrupted transfer.
    ///
    /// # Errors
    /// [`StoreError::StaleGeneration`], [`StoreError::Busy`] while another writer of the item is alive,
    /// [`StoreError::PointExists`] when the number is not higher than every existing point's, [`StoreError::NoPoint`] or
    /// [`StoreError::Damaged`] when the parent cannot be built upon.
    pub fn begin(&self, begin: Begin) -> Result<PointWriter> {
        let locks = self.locks(&begin.item);
        let mut state = locks.state();
        self.check_begin(&state, &begin)?;
        self.admit(&begin.item, begin.generation, Some(Role::Standby))?;
        let dir = self.dir(&begin.item);
        self.remove_incoming(&begin.item)?;
        self.io().create_dir(&dir.incoming())?;
        self.io().create_dir(&dir.incoming_point())?;
        let disks = self.disk_writers(&begin, &mut state, Writer::create_with)?;
        state.receiving = true;
        Ok(PointWriter::new(self.clone(), begin, disks, Log::Absent))
    }

    /// Goes on with an interrupted transfer, possibly at a later instant, whose checkpoint, machine and consistency are those
    /// that `begin` says now (see rule 2 of [`understudy_replication::cycle`]).
    ///
    /// # Errors
    /// [`StoreError::NoPartial`], [`StoreError::PartialMismatch`] when number, parent, generation or disks are others, and as
    /// for [`Self::begin`].
    pub fn resume(&self, begin: Begin) -> Result<PointWriter> {
        let locks = self.locks(&begin.item);
        let mut state = locks.state();
        self.check_begin(&state, &begin)?;
        let dir = self.dir(&begin.item);
        let first = self.begun(&begin.item)?.ok_or_else(|| StoreError::NoPartial(begin.item.clone()))?;
        if let Some(why) = mismatch(&first, &begin) {
            return Err(StoreError::PartialMismatch { item: begin.item, why: why.to_owned() });
        }
        self.admit(&begin.item, begin.generation, Some(Role::Standby))?;
        let mut disks = self.disk_writers(&begin, &mut state, Writer::reopen)?;
        let journal = Journal::replay(self.io(), &dir.incoming_log(), |entry| {
            if let Some(disk) = disks.get_mut(entry.disk as usize) {
                disk.restore(entry.what);
            }
        })?;
        state.receiving = true;
        Ok(PointWriter::new(self.clone(), begin, disks, Log::Idle(journal)))
    }

    /// The interrupted transfer of an item, as the source's next cycle is planned from it. One of a generation that has
    /// passed does not count, nor does one that came from no source.
    pub fn partial(&self, item: &ItemName) -> Result<Option<Partial>> {
        let dir = self.dir(item);
        let begun = self.begun(item)?.filter(|begin| begin.kind == PointKind::Recovery);
        let Some(begin) = begun.filter(|_| dir.incoming_point().is_dir()) else {
            return Ok(None);
        };
        if self.generation(item)?.is_none_or(|g| g.highest != begin.generation) {
            return Ok(None);
        }
        let mut marks = vec![0; begin.disks.len()];
        Journal::replay(self.io(), &dir.incoming_log(), |entry| {
            if let (Some(mark), Received::Watermark { block }) =
                (marks.get_mut(entry.disk as usize), entry.what)
            {
                *mark = block.max(*mark);
            }
        })?;
        let disk = |(spec, mark): (&DiskSpec, &u64)| {
            let watermark = (mark * BLOCK_SIZE).min(spec.size);
            (spec.name.clone(), PartialDisk { size: spec.size, watermark })
        };
        Ok(Some(Partial {
            seq: begin.seq,
            parent: begin.parent,
            disks: begin.disks.iter().zip(&marks).map(disk).collect(),
            since: begin.checkpoint,
        }))
    }

    pub(crate) fn partial_seal(&self, item: &ItemName) -> Result<Option<Seal>> {
        Ok(self.begun(item)?.and_then(|begin| begin.seal))
    }

    /// What a transfer was begun with of which something is durable. It is whole before there is a log.
    pub(crate) fn begun(&self, item: &ItemName) -> Result<Option<Begin>> {
        let dir = self.dir(item);
        if !dir.incoming_log().exists() {
            return Ok(None);
        }
        read_json(&dir.incoming_begin(), "a transfer's beginning")
    }

    /// Throws an interrupted transfer away.
    pub fn discard_partial(&self, item: &ItemName) -> Result<()> {
        let locks = self.locks(item);
        let state = locks.state();
        if state.receiving {
            return Err(StoreError::Busy(item.clone()));
        }
        self.remove_incoming(item)
    }

    /// The log goes first, because it is what makes the rest a partial.
    pub(crate) fn remove_incoming(&self, item: &ItemName) -> Result<()> {
        self.io().remove(&self.dir(item).incoming_log())?;
        self.io().remove(&self.dir(item).incoming())
    }

    fn check_begin(&self, state: &ItemState, begin: &Begin) -> Result<()> {
        let item = &begin.item;
        check_disks(begin)?;
        if let Some(seen) = self.generation(item)?.filter(|s| s.highest > begin.generation) {
            let (seen, offered) = (seen.highest, begin.generation);
            return Err(StoreError::StaleGeneration { item: item.clone(), seen, offered });
        }
        if state.receiving {
            return Err(StoreError::Busy(item.clone()));
        }
        if self.newest_first(item)?.next().is_some_and(|newest| newest.manifest.seq >= begin.seq) {
            return Err(StoreError::PointExists { item: item.clone(), seq: begin.seq });
        }
        if let Some(parent) = begin.parent {
            let parent = self.point(item, parent)?;
            if !self.carries(&parent) {
                let (seq, blocks) = (parent.manifest.seq, parent.damaged_blocks);
                return Err(StoreError::Damaged { item: item.clone(), seq, blocks });
            }
        }
        Ok(())
    }
    /// One writer per disk, on the parent's file and digests. `open` begins the file, or goes on with the one that is there.
    fn disk_writers(
        &self,
        begin: &Begin,
        state: &mut ItemState,
        open: impl Fn(&Io, &Path, u64, Option<Backing>, Option<LuksHeader>) -> Result<Writer>,
    ) -> Result<Vec<DiskWriter>> {
        let dir = self.dir(&begin.item).incoming_point();
        let parent = begin.parent.map(|seq| self.manifest(&begin.item, seq)).transpose()?.flatten();
        let mut disks = Vec::with_capacity(begin.disks.len());
        for disk in &begin.disks {
            let backing = backing(begin, parent.as_ref(), &disk.name, disk.size);
            let tree = self.parent_tree(begin, state, backing.is_some(), &disk.name, disk.size)?;
            let luks = Seal::header(begin.seal.as_ref(), &disk.name).cloned();
            let damaged = parent.as_ref().filter(|_| backing.is_some()).map(|parent| self.damage_of(parent));
            let damaged = damaged.and_then(|d| d.disks.get(&disk.name).cloned()).unwrap_or_default();
            let writer = open(self.io(), &dir.join(disk_file(&disk.name)), disk.size, backing, luks)?;
            disks.push(DiskWriter::new(disk.name.clone(), writer, tree, damaged));
        }
        Ok(disks)
    }

    fn parent_tree(
        &self,
        begin: &Begin,
        state: &mut ItemState,
        stacked: bool,
        disk: &DiskName,
        size: u64,
    ) -> Result<DigestTree> {
        match begin.parent.filter(|_| stacked) {
            Some(parent) => {
                let mut tree = self.tree(&begin.item, state, parent, disk)?;
                tree.resize(size);
                Ok(tree)
            }
            None => Ok(DigestTree::new(size)),
        }
    }
}

fn backing(begin: &Begin, parent: Option<&Manifest>, disk: &DiskName, size: u64) -> Option<Backing> {
    let seal = begin.seal.as_ref();
    let seq = begin.parent.filter(|_| StoreReader::stacks_on(parent, disk, size, seal))?;
    Some(Backing { path: backing_path(seq, disk), format: DiskFormat::Qcow2 })
}

fn mismatch(first: &Begin, now: &Begin) -> Option<&'static str> {
    if first.seq != now.seq {
        return Some("it is of another point");
    }
    if first.parent != now.parent {
        return Some("it is stacked on another point");
    }
    if first.kind != now.kind {
        return Some("it is of another kind");
    }
    if first.generation != now.generation {
        return Some("it is of another generation");
    }
    if first.disks != now.disks {
        return Some("it is of other disks");
    }
    let keys = |begin: &'_ Begin| begin.seal.as_ref().map(|seal| seal.disks.clone());
    (keys(first) != keys(now)).then_some("it is encrypted with another key")
}

/// Refuses what no disk can be.
fn check_disks(begin: &Begin) -> Result<()> {
    for (index, disk) in begin.disks.iter().enumerate() {
        let why = if disk.size == 0 || !disk.size.is_multiple_of(512) || disk.size > MAX_DISK {
            format!("{} bytes is no size for it; use a multiple of 512 up to 64 TiB", disk.size)
        } else if begin.disks[..index].iter().any(|other| other.name == disk.name) {
            "it is named twice".to_owned()
        } else if begin.seal.as_ref().is_some_and(|seal| !seal.disks.contains_key(&disk.name)) {
            "its item is encrypted and it is not".to_owned()
        } else {
            continue;
        };
        return Err(StoreError::InvalidDisk { item: begin.item.clone(), disk: disk.name.clone(), why });
    }
    Ok(())
}

/// Removes what no transfer can be resumed from. The caller holds the item's lock or is alone.
pub(crate) fn clean(store: &Store, item: &ItemName) -> Result<()> {
    let dir = store.dir(item);
    let begin = read_json::<Begin>(&dir.incoming_begin(), "a transfer's beginning");
    let whole = matches!(begin, Ok(Some(_))) && dir.incoming_log().exists() && dir.incoming_point().is_dir();
    if dir.incoming().exists() && !whole {
        store.remove_incoming(item)?;
    }
    Ok(())
}
