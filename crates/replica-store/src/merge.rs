//! Merging a point into its successor, so that it can leave (R-REP-4).
//!
//! ```text
//!   1  manifest.json of P renamed to merging.json                P is not listed any more; `open` goes on from here
//!   2  clusters of the successor S put into P's file             hidden by S's file, which still stands above it
//!   3  digests of P and S united in S's directory                the same when done twice
//!   4  P's file renamed over S's                                 S now stands where P stood
//!   5  manifest of S: parent is P's parent
//!   6  P's directory removed
//! ```
//!
//! Steps 2 and 3 take as long as P is large, and points are received meanwhile: nobody who builds on S or later sees a difference. The rest
//! takes a moment. A failover is not kept waiting: steps 2 and 3 make way for it, and are done again when nobody stands on the item's
//! points any more. A disk whose file has left P's directory is done. **Promise.** After a crash between any two changes every other
//! point reads as before, and `open` completes the merge.

use std::{os::unix::fs::MetadataExt, path::PathBuf};

use understudy_ids::{DiskName, ItemName, PointSeq};

use crate::{
    catalog::{Link, ancestry},
    digests,
    error::{Result, StoreError},
    layout::{MANIFEST, MERGING, digest_file},
    model::{DiskManifest, Manifest, PointKind, Seal},
    qcow2::{Damaged, check_merge, merge_into},
    store::{Store, read_json, write_json},
};

impl Store {
    /// Merges the oldest point away, if it may go; returns its number. `None` when there is nothing that may.
    pub fn merge_oldest(&self, item: &ItemName) -> Result<Option<PointSeq>> {
        let points = self.points(item)?;
        let Some((_newest, older)) = points.split_last() else { return Ok(None) };
        let links = self.links(item)?;
        for point in older {
            let seq = point.manifest.seq;
            match self.merge_away(item, seq) {
                Ok(()) => return Ok(Some(seq)),
                // Then the later one can go, and this one after it.
                Err(StoreError::Pinned { .. }) if self.waits(item, &links, seq)?.is_some() => {}
                Err(StoreError::Pinned { .. }) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Merges a point into its successor, or, when nothing stands on it and it is not the newest, removes it.
    ///
    /// # Errors
    /// [`StoreError::Pinned`] when the point is the newest, is below a branch or a promoted machine, or several points stand
    /// on it; [`StoreError::NoPoint`]; [`StoreError::MadeWay`] when a failover needed the item's points meanwhile: the point is not
    /// listed any more, and leaves with a later merge.
    pub fn merge_away(&self, item: &ItemName, seq: PointSeq) -> Result<()> {
        let locks = self.locks(item);
        let _layers = locks.layers();
        complete_all(self, item)?;
        {
            let mut state = locks.state();
            let links = self.links(item)?;
            self.may_leave(item, &links, seq)?;
            // Only the newest point's trees are worth keeping, and they do not change.
            if state.trees.as_ref().is_some_and(|(cached, _)| *cached == seq) {
                state.trees = None;
            }
            if !links.iter().any(|l| l.parent == Some(seq)) {
                return self.remove_point(item, seq);
            }
            let dir = self.dir(item).point(seq);
            self.io().rename(&dir.join(MANIFEST), &dir.join(MERGING))?;
        }
        self.complete_merge(item, seq)
    }

    /// Whether a failover waits for the item's points right now, which a merge makes way for.
    pub fn is_waited_for(&self, item: &ItemName) -> bool {
        self.locks(item).is_urgent()
    }

    fn may_leave(&self, item: &ItemName, links: &[Link], seq: PointSeq) -> Result<()> {
        if !links.iter().any(|l| l.seq == seq && l.listed) {
            return Err(StoreError::NoPoint { item: item.clone(), seq });
        }
        let held = |by: &str| Err(StoreError::Pinned { item: item.clone(), seq, by: by.to_owned() });
        // Two merges at once could want the same files.
        if links.iter().any(|l| !l.listed) {
            return held("an unfinished merge, which waits for tests and promoted machines to end");
        }
        let points = self.points(item)?;
        let newest = points.iter().rev().find(|p| p.manifest.kind == PointKind::Recovery);
        if newest.is_some_and(|p| p.manifest.seq == seq) || links.last().is_some_and(|l| l.seq == seq) {
            return held("replication: it is the newest");
        }
        if links.iter().filter(|l| l.parent == Some(seq)).count() > 1 {
            return held("more than one later point");
        }
        if let Some(why) = self.waits(item, links, seq)? {
            return held(why);
        }
        match self.pins(item)?.iter().find(|(point, _)| ancestry(links, *point).contains(&seq)) {
            Some((_, pin)) => held(&pin.to_string()),
            None => Ok(()),
        }
    }

    /// Why a point cannot be merged into one that stands on its files. It goes when a point that stands on nothing takes that one's place.
    fn waits(&self, item: &ItemName, links: &[Link], seq: PointSeq) -> Result<Option<&'static str>> {
        let Some(leaving) = self.manifest(item, seq)? else { return Ok(None) };
        for link in links.iter().filter(|l| l.parent == Some(seq)) {
            let Some((above, _)) = self.any_manifest(item, link.seq)? else { continue };
            for disk in above.disks.iter().filter(|disk| disk.stacked) {
                let header = |m: &Manifest| Seal::header(m.seal.as_ref(), &disk.name).cloned();
                // A machine's own disk that was adopted.
                if header(&leaving) != header(&above) {
                    return Ok(Some("the later point, which is encrypted with another key"));
                }
                if let Err(error) = self.check_merge(&leaving, &above, disk) {
                    tracing::warn!(%item, %seq, %error, "a damaged point cannot be merged away");
                    return Ok(Some("the later point: one of them is so damaged that they cannot be merged"));
                }
            }
        }
        Ok(None)
    }

    /// A merge must not stop half-way. Digests of points that are whole are not read.
    fn check_merge(&self, leaving: &Manifest, above: &Manifest, disk: &DiskManifest) -> Result<()> {
        let item = &leaving.item;
        let Some(below) = leaving.disk(&disk.name) else { return Ok(()) };
        let (old_dir, new_dir) = (self.dir(item).point(leaving.seq), self.dir(item).point(above.seq));
        for (point, dir) in [(leaving, &old_dir), (above, &new_dir)] {
            if self.damaged_blocks(item, point.seq) > 0 {
                digests::Reader::open(&dir.join(digest_file(&disk.name)))?.try_for_each(|r| r.map(|_| ()))?;
            }
        }
        let damaged = self.damaged(leaving, above, &disk.name);
        check_merge(self.io(), &old_dir.join(&below.file), &new_dir.join(&disk.file), &damaged)
    }

    fn damaged(&self, leaving: &Manifest, above: &Manifest, disk: &DiskName) -> Damaged {
        let of = |m: &Manifest| self.damage_of(m).disks.get(disk).cloned().unwrap_or_default();
        Damaged { base: of(leaving), overlay: of(above) }
    }

    /// Steps 2 to 6, from wherever they were left. The caller holds the item's layers or is alone.
    pub(crate) fn complete_merge(&self, item: &ItemName, seq: PointSeq) -> Result<()> {
        let locks = self.locks(item);
        let leaving_dir = self.dir(item).point(seq);
        let leaving: Option<Manifest> = read_json(&leaving_dir.join(MERGING), "a manifest")?;
        let Some(leaving) = leaving else {
            let _lock = locks.state();
            return self.remove_point(item, seq);
        };
        let successor = self.links(item)?.into_iter().find(|l| l.parent == Some(seq));
        let successor = successor.map(|l| self.manifest(item, l.seq)).transpose()?.flatten();
        if let Some(successor) = &successor {
            for disk in &successor.disks {
                self.merge_disk(&leaving, successor, disk, &|| locks.is_urgent())?;
            }
        }
        let _lock = locks.state();
        if let Some(mut successor) = successor {
            for index in 0..successor.disks.len() {
                self.take_place(&leaving, &mut successor, index)?;
            }
            successor.parent = leaving.parent;
            let path = self.dir(item).point(successor.seq).join(MANIFEST);
            write_json(self.io(), &path, &successor)?;
        }
        self.remove_point(item, seq)
    }

    /// Steps 2 and 3 of one disk.
    fn merge_disk(
        &self,
        leaving: &Manifest,
        into: &Manifest,
        disk: &DiskManifest,
        makes_way: &dyn Fn() -> bool,
    ) -> Result<()> {
        let Some((base, overlay)) = self.files(leaving, into, disk).filter(|(base, _)| base.exists()) else {
            return Ok(());
        };
        let damaged = self.damaged(leaving, into, &disk.name);
        if !merge_into(self.io(), &base, &overlay, &damaged, makes_way)? {
            return Err(StoreError::MadeWay(leaving.item.clone()));
        }
        let digests = |seq| self.dir(&leaving.item).point(seq).join(digest_file(&disk.name));
        digests::absorb(self.io(), &digests(leaving.seq), &digests(into.seq))
    }

    /// Step 4 of one disk, and what the successor's manifest is to say of it.
    fn take_place(&self, leaving: &Manifest, into: &mut Manifest, index: usize) -> Result<()> {
        let sealed = into.seal.is_some();
        let Some((base, overlay)) = self.files(leaving, into, &into.disks[index]) else { return Ok(()) };
        if base.exists() {
            self.io().rename(&base, &overlay)?;
        }
        let disk = &mut into.disks[index];
        disk.stacked = leaving.disk(&disk.name).is_some_and(|below| below.stacked);
        let taken = |m: std::fs::Metadata| if sealed { m.blocks() * 512 } else { m.len() };
        disk.stored_bytes = overlay.metadata().map_or(disk.stored_bytes, taken);
        Ok(())
    }

    /// The file that leaves its place and the one whose place it takes; nothing where the disk does not stand on the point that leaves.
    fn files(&self, leaving: &Manifest, into: &Manifest, disk: &DiskManifest) -> Option<(PathBuf, PathBuf)> {
        let below = leaving.disk(&disk.name).filter(|_| disk.stacked)?;
        let dir = self.dir(&leaving.item);
        Some((dir.point(leaving.seq).join(&below.file), dir.point(into.seq).join(&disk.file)))
    }
}

/// Completes merges that a crash interrupted. While something stands on a point of the item they wait: what is half merged
/// reads as before, and a running machine may have the files open.
pub(crate) fn complete_all(store: &Store, item: &ItemName) -> Result<()> {
    if !store.pins(item)?.is_empty() {
        return Ok(());
    }
    for link in store.links(item)?.into_iter().filter(|l| !l.listed) {
        store.complete_merge(item, link.seq)?;
    }
    Ok(())
}
