//! Reads a frozen disk over NBD.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use understudy_ids::{ByteRange, DiskName, MachineName};
use understudy_nbd::{Client, ContextStatus, Options, STATE_DIRTY, STATE_ZERO};

use crate::{DiskReader, Error, Extent, SnapshotDisk};

/// Longest range of one block status request: QEMU takes the question with one 32-bit length.
const MAX_STATUS: u64 = 1 << 30;
/// Index of the context that tells zeros; those of change tracking follow.
const ALLOCATION: usize = 0;

pub struct NbdReader {
    what: String,
    client: Client,
    /// How many contexts tell changes; zero when changes are not known. A block counts as changed when one of them says so.
    change_contexts: usize,
}

/// Connects to the export named after the disk. `bitmaps` are those whose union is what changed; `None`: not known.
pub async fn open(
    machine: &MachineName,
    disk: &DiskName,
    socket: &Path,
    bitmaps: Option<&[String]>,
) -> Result<SnapshotDisk, Error> {
    let what = format!("reading disk {disk} of machine {machine}");
    let mut options = Options::new(disk.as_str()).context("base:allocation");
    for bitmap in bitmaps.unwrap_or_default() {
        options = options.context(format!("qemu:dirty-bitmap:{bitmap}"));
    }
    let client = Client::connect_unix(socket, &options).await;
    let client = client.map_err(|error| Error::Failed { what: what.clone(), why: error.to_string() })?;
    let change_contexts = bitmaps.map_or(0, <[String]>::len);
    let all_there = (0..=change_contexts).all(|index| client.has_context(index));
    let changes_known = change_contexts > 0 && all_there;
    let size = client.size();
    let change_contexts = if changes_known { change_contexts } else { 0 };
    let reader = Arc::new(NbdReader { what, client, change_contexts });
    Ok(SnapshotDisk { name: disk.clone(), size, changes_known, reader })
}

impl NbdReader {
    fn failed(&self, why: impl std::fmt::Display) -> Error {
        Error::Failed { what: self.what.clone(), why: why.to_string() }
    }
}

#[async_trait]
impl DiskReader for NbdReader {
    async fn extents(&self, range: ByteRange) -> Result<Vec<Extent>, Error> {
        let length = u32::try_from(range.len().min(MAX_STATUS)).unwrap_or(u32::MAX);
        let status =
            self.client.block_status(range.start, length).await.map_err(|error| self.failed(error))?;
        merge(range.start, &status, self.change_contexts).map_err(|why| self.failed(why))
    }

    async fn read(&self, offset: u64, length: u32) -> Result<Bytes, Error> {
        self.client.read(offset, length).await.map_err(|error| self.failed(error))
    }
}

/// Lays the contexts' runs over each other, as far as all of them reach.
fn merge(start: u64, status: &[ContextStatus], change_contexts: usize) -> Result<Vec<Extent>, String> {
    let runs = |context: usize| {
        let answer = status.iter().find(|answer| answer.context == context);
        answer
            .map(|answer| Runs::new(&answer.extents))
            .ok_or_else(|| "a context was not answered for".to_owned())
    };
    let mut allocation = runs(ALLOCATION)?;
    let mut changes = (1..=change_contexts).map(runs).collect::<Result<Vec<_>, _>>()?;
    let mut extents: Vec<Extent> = Vec::new();
    let mut at = start;
    loop {
        let shortest = changes.iter().map(Runs::left).min().unwrap_or(u32::MAX).min(allocation.left());
        if shortest == 0 {
            break;
        }
        let zero = allocation.flags() & STATE_ZERO != 0;
        let changed = changes.is_empty() || changes.iter().any(|run| run.flags() & STATE_DIRTY != 0);
        let end = at + u64::from(shortest);
        match extents.last_mut() {
            Some(last) if (last.changed, last.zero) == (changed, zero) => last.range.end = end,
            _ => extents.push(Extent { range: ByteRange::new(at, end), changed, zero }),
        }
        at = end;
        allocation.advance(shortest);
        changes.iter_mut().for_each(|run| run.advance(shortest));
    }
    if extents.is_empty() { Err("a context was answered with nothing".to_owned()) } else { Ok(extents) }
}

/// A cursor over one context's runs.
struct Runs<'a> {
    rest: std::slice::Iter<'a, understudy_nbd::StatusExtent>,
    /// What is left of the present run; of length zero at the end.
    present: understudy_nbd::StatusExtent,
}

impl<'a> Runs<'a> {
    fn new(extents: &'a [understudy_nbd::StatusExtent]) -> Self {
        let mut runs =
            Self { rest: extents.iter(), present: understudy_nbd::StatusExtent { length: 0, flags: 0 } };
        runs.advance(0);
        runs
    }

    fn left(&self) -> u32 {
        self.present.length
    }

    fn flags(&self) -> u32 {
        self.present.flags
    }

    /// By no more than what is left of the present run.
    fn advance(&mut self, bytes: u32) {
        self.present.length -= bytes;
        if self.present.length == 0
            && let Some(next) = self.rest.next()
        {
            self.present = *next;
        }
    }
}

#[cfg(test)]
mod tests {
    use understudy_nbd::StatusExtent;

    use super::*;

    fn status(context: usize, runs: &[(u32, u32)]) -> ContextStatus {
        let extents = runs.iter().map(|&(length, flags)| StatusExtent { length, flags }).collect();
        ContextStatus { context, extents }
    }

    fn extent(start: u64, end: u64, changed: bool, zero: bool) -> Extent {
        Extent { range: ByteRange::new(start, end), changed, zero }
    }

    /// R-REP-3: a block counts as changed when any bitmap since the base says so.
    #[test]
    fn contexts_are_laid_over_each_other_as_far_as_all_reach() {
        let answers = [
            status(0, &[(10, 0), (20, 3)]),
            status(2, &[(5, 0), (5, 1), (30, 0)]),
            status(1, &[(7, 1), (18, 0)]),
        ];
        let merged = merge(100, &answers, 2).unwrap();
        assert_eq!(merged, [extent(100, 110, true, false), extent(110, 125, false, true)]);
    }

    #[test]
    fn without_change_tracking_everything_counts_as_changed() {
        let merged = merge(0, &[status(0, &[(10, 0), (20, 2)])], 0).unwrap();
        assert_eq!(merged, [extent(0, 10, true, false), extent(10, 30, true, true)]);
    }

    #[test]
    fn a_missing_or_empty_answer_is_an_error() {
        assert!(merge(0, &[status(0, &[(10, 0)])], 1).is_err());
        assert!(merge(0, &[status(0, &[(10, 0)]), status(1, &[])], 1).is_err());
    }
}
