//! Making disks that came on a medium the base of the first copy, so that only what has changed since goes over the line (R-REP-11).
//!
//! ```text
//!   <medium>/vda.qcow2, vdb.raw ─▶ read once, digested ─▶ incoming/, synced from time to time ─▶ points/<seq>/, a base
//! ```
//!
//! The files may be of any age: a base says nothing about its instant, and the first cycle compares digests. What was durable of an
//! import that was interrupted is not read again, so the files must not change while it takes place.

use std::{collections::BTreeMap, ops::ControlFlow};

use understudy_ids::{Consistency, DiskName};
use understudy_replication::{
    cycle::CheckpointName,
    extents::{BLOCK_SIZE, block_range},
};

use crate::{
    error::{Result, StoreError},
    incoming::PointWriter,
    model::{Begin, DiskSpec, Import, Manifest, PointKind},
    qcow2::{Chain, Source},
    store::Store,
};

/// Read, digested and written at once: 1 MiB.
const RUN: u64 = 16;
/// Bytes read between two syncs.
const SYNC_EVERY: u64 = 64 << 20;

impl Store {
    /// Makes `import.disks` a base. Asked again with the same number, it returns the base that is there; asked again after an
    /// interruption, it goes on. `told` hears how many bytes of the disks have been dealt with, and may break it off: `None` then.
    ///
    /// # Errors
    /// [`StoreError::StaleGeneration`]; [`StoreError::Busy`]; [`StoreError::PointExists`] when the number is not higher than every
    /// existing point's; [`StoreError::Format`] when a file is not a disk that stands alone; [`StoreError::InvalidDisk`]; I/O errors.
    pub fn import(
        &self,
        import: &Import,
        told: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Option<Manifest>> {
        let there = self.newest_first(&import.item)?.next().map(|point| point.manifest);
        if let Some(base) = there.filter(|m| m.seq == import.seq && m.kind == PointKind::Base) {
            return Ok(Some(base));
        }
        let mut disks = Vec::with_capacity(import.disks.len());
        for disk in &import.disks {
            disks.push((&disk.name, Chain::open_alone(&disk.path, disk.format)?));
        }
        let mut writer = self.begin_import(begin(import, &disks))?;
        let mut before = 0;
        for (name, chain) in &mut disks {
            let mut heard = |at| told(before + at);
            if copy(&mut writer, name, chain, &mut heard)?.is_break() {
                writer.sync()?;
                return Ok(None);
            }
            before += chain.size();
        }
        let mut roots = BTreeMap::new();
        for (name, _) in &disks {
            roots.insert((*name).clone(), writer.digests(name)?.root());
        }
        writer.finish(&roots, import.now).map(Some)
    }

    /// Goes on with this import, or begins it in place of whatever was interrupted here.
    fn begin_import(&self, begin: Begin) -> Result<PointWriter> {
        if self.begun(&begin.item)?.is_some_and(|begun| begun.kind == PointKind::Base) {
            match self.resume(begin.clone()) {
                Err(StoreError::PartialMismatch { .. }) => {}
                resumed => return resumed,
            }
        }
        self.begin(begin)
    }
}

fn begin(import: &Import, disks: &[(&DiskName, Chain)]) -> Begin {
    Begin {
        item: import.item.clone(),
        generation: import.generation,
        seq: import.seq,
        parent: None,
        disks: disks
            .iter()
            .map(|(name, disk)| DiskSpec { name: (*name).clone(), size: disk.size() })
            .collect(),
        kind: PointKind::Base,
        checkpoint: CheckpointName::new("import"),
        instant: import.now,
        consistency: Consistency::Crash,
        frozen: None,
        joint: None,
        machine: serde_json::Value::Null,
        seal: None,
    }
}

/// Copies a disk from its watermark on.
fn copy(
    writer: &mut PointWriter,
    name: &DiskName,
    disk: &mut Chain,
    told: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<ControlFlow<()>> {
    let size = disk.size();
    let mut buffer = vec![0; (RUN * BLOCK_SIZE) as usize];
    let mut next = writer.watermarks().get(name).map_or(0, |mark| mark.div_ceil(BLOCK_SIZE));
    let mut unsynced = 0;
    while let Some(first) = next_data(disk, next)? {
        let mut end = first + 1;
        while end < first + RUN && end * BLOCK_SIZE < size && is_data(disk, end)? {
            end += 1;
        }
        let range = (first * BLOCK_SIZE, block_range(end - 1, size).end);
        let content = &mut buffer[..(range.1 - range.0) as usize];
        disk.read(range.0, content)?;
        writer.write_read(name, first, content)?;
        unsynced += content.len() as u64;
        if unsynced >= SYNC_EVERY {
            writer.sync_behind()?;
            unsynced = 0;
        }
        if told(range.1).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        next = end;
    }
    writer.advance(name, size.div_ceil(BLOCK_SIZE))?;
    Ok(told(size))
}

/// The first block at or after `from` that a file has data of.
fn next_data(disk: &mut Chain, from: u64) -> Result<Option<u64>> {
    let mut next = from;
    while let Some(block) = disk.next_mapped(next) {
        if is_data(disk, block)? {
            return Ok(Some(block));
        }
        next = block + 1;
    }
    Ok(None)
}

fn is_data(disk: &mut Chain, block: u64) -> Result<bool> {
    Ok(matches!(disk.source(block)?, Source::Data { .. }))
}
