//! Lending points out: overlays for a test (a branch) or for the promoted machine.
//!
//! An overlay is made beside its place and renamed into it, so that it exists whole or not at all; while it exists, its point
//! and all below it are pinned. Making one takes as long for a terabyte as for nothing (R-TF-1, R-FO-4).

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use understudy_ids::{DiskName, Generation, ItemName, PointSeq, Uuid};
use understudy_sealing::LuksHeader;

use crate::{
    catalog::ancestry,
    error::{Result, StoreError},
    layout::{MANIFEST, OVERLAY, backing_path, disk_file},
    model::{DiskFile, DiskFormat, DiskSpec, Manifest, OverlayRecord, Pin, PointInfo, PointKind, Role},
    qcow2::{Backing, create_overlay_with},
    store::{Number, Store, names, read_json, write_json},
};

impl Store {
    /// Disks for a test of `point` in `run`. Asked again, it returns the same files with what the test has written to them.
    ///
    /// # Errors
    /// [`StoreError::NoPoint`], [`StoreError::Damaged`], or [`StoreError::OtherBranch`] when the run has a branch of another
    /// point; [`StoreError::Sealed`] when the point is encrypted.
    pub fn branch(&self, item: &ItemName, point: PointSeq, run: Uuid) -> Result<Vec<DiskFile>> {
        self.branch_sealed(item, point, run, &BTreeMap::new())
    }

    /// As [`Self::branch`], of a point that may be encrypted: what is written to the branch will be too, with the key that `headers` has for
    /// each disk, so that a test leaves nothing readable behind (R-REP-10).
    pub fn branch_sealed(
        &self,
        item: &ItemName,
        point: PointSeq,
        run: Uuid,
        headers: &BTreeMap<DiskName, LuksHeader>,
    ) -> Result<Vec<DiskFile>> {
        let locks = self.locks(item);
        // A test waits for a merge: what is half merged would have to stay so until it ends.
        let (_layers, _lock) = (locks.layers(), locks.state());
        let dir = self.dir(item).branch(run);
        if let Some(record) = overlay_record(&dir)? {
            if record.point != point {
                let (item, existing) = (item.clone(), record.point);
                return Err(StoreError::OtherBranch { item, run, existing, asked: point });
            }
            return Ok(files(&dir, &record));
        }
        self.lend(item, point, &dir, headers)
    }

    /// Removes a test's disks. That there are none is fine.
    pub fn drop_branch(&self, item: &ItemName, run: Uuid) -> Result<()> {
        let locks = self.locks(item);
        let _lock = locks.state();
        self.remove_at_once(&self.dir(item).branch(run))
    }

    /// Runs that have a branch here.
    pub fn branches(&self, item: &ItemName) -> Result<Vec<(Uuid, PointSeq)>> {
        let pins = self.pins(item)?.into_iter();
        Ok(pins
            .filter_map(|(seq, pin)| if let Pin::Branch(run) = pin { Some((run, seq)) } else { None })
            .collect())
    }

    /// Disks for the machine itself at `generation`, which is recorded first. Asked again, it returns the same files.
    ///
    /// # Errors
    /// As for [`Self::branch`]; [`StoreError::StaleGeneration`]; [`StoreError::OtherPromotion`] when this generation was
    /// promoted from another point, whose disks must be dropped first.
    pub fn promote(&self, item: &ItemName, point: PointSeq, generation: Generation) -> Result<Vec<DiskFile>> {
        self.promote_sealed(item, point, generation, &BTreeMap::new())
    }

    /// As [`Self::promote`], of a point that may be encrypted; see [`Self::branch_sealed`].
    pub fn promote_sealed(
        &self,
        item: &ItemName,
        point: PointSeq,
        generation: Generation,
        headers: &BTreeMap<DiskName, LuksHeader>,
    ) -> Result<Vec<DiskFile>> {
        let locks = self.locks(item);
        // A failover waits for nothing.
        let (_layers, _lock) = (locks.layers_at_once(), locks.state());
        let dir = self.dir(item).active(generation);
        if let Some(record) = overlay_record(&dir)? {
            self.admit(item, generation, Some(Role::Active))?;
            if record.point != point {
                let (item, existing) = (item.clone(), record.point);
                return Err(StoreError::OtherPromotion { item, generation, existing, asked: point });
            }
            return Ok(files(&dir, &record));
        }
        can_write(&self.lendable(item, point)?.manifest, headers)?;
        self.admit(item, generation, Some(Role::Active))?;
        self.lend(item, point, &dir, headers)
    }

    /// The disks of a test of `point`, with everything that it has written, become those of the machine itself at `generation`, which is recorded
    /// first (R-TF-7). Repeatable; [`Self::promote`] returns them then.
    ///
    /// # Errors
    /// [`StoreError::NoBranch`] when the run has none; [`StoreError::OtherBranch`] and [`StoreError::OtherPromotion`] where either is of another point;
    /// [`StoreError::StaleGeneration`].
    pub fn promote_branch(
        &self,
        item: &ItemName,
        point: PointSeq,
        run: Uuid,
        generation: Generation,
    ) -> Result<()> {
        let locks = self.locks(item);
        // A failover waits for nothing.
        let (_layers, _lock) = (locks.layers_at_once(), locks.state());
        let (branch, active) = (self.dir(item).branch(run), self.dir(item).active(generation));
        match overlay_record(&active)? {
            Some(record) if record.point == point => return Ok(()),
            Some(OverlayRecord { point: existing, .. }) => {
                let item = item.clone();
                return Err(StoreError::OtherPromotion { item, generation, existing, asked: point });
            }
            None => {}
        }
        let record =
            overlay_record(&branch)?.ok_or_else(|| StoreError::NoBranch { item: item.clone(), run })?;
        if record.point != point {
            let (item, existing) = (item.clone(), record.point);
            return Err(StoreError::OtherBranch { item, run, existing, asked: point });
        }
        self.admit(item, generation, Some(Role::Active))?;
        self.io().create_dir_all(&self.dir(item).actives())?;
        self.io().rename(&branch, &active)
    }

    /// Disks of the machine promoted at `generation`, and the point they stand on; `None` when there are none.
    pub fn active(
        &self,
        item: &ItemName,
        generation: Generation,
    ) -> Result<Option<(PointSeq, Vec<DiskFile>)>> {
        let dir = self.dir(item).active(generation);
        Ok(overlay_record(&dir)?.map(|record| (record.point, files(&dir, &record))))
    }

    /// What the machine promoted from `point` at `generation` wrote is laid aside, so that another point can be promoted and this one be
    /// had back. What lay aside before is removed. Repeatable, also after another point was promoted.
    ///
    /// # Errors
    /// [`StoreError::NotPromoted`] when it is neither there nor aside.
    pub fn set_aside(&self, item: &ItemName, point: PointSeq, generation: Generation) -> Result<()> {
        let locks = self.locks(item);
        let _lock = locks.state();
        let (active, aside) = (self.dir(item).active(generation), self.dir(item).aside(generation));
        let is_of_point =
            |dir: &Path| Ok::<_, StoreError>(overlay_record(dir)?.is_some_and(|r| r.point == point));
        if is_of_point(&active)? {
            self.remove_at_once(&aside)?;
            self.io().create_dir_all(&self.dir(item).asides())?;
            return self.io().rename(&active, &aside);
        }
        if is_of_point(&aside)? {
            return Ok(());
        }
        Err(StoreError::NotPromoted { item: item.clone(), generation })
    }

    /// Takes back what lies aside of `point`, in place of what was promoted since. False when nothing of it lies aside.
    pub fn take_back(&self, item: &ItemName, point: PointSeq, generation: Generation) -> Result<bool> {
        let locks = self.locks(item);
        let _lock = locks.state();
        let (active, aside) = (self.dir(item).active(generation), self.dir(item).aside(generation));
        if overlay_record(&aside)?.is_none_or(|record| record.point != point) {
            return Ok(false);
        }
        self.remove_at_once(&active)?;
        self.io().create_dir_all(&self.dir(item).actives())?;
        self.io().rename(&aside, &active)?;
        Ok(true)
    }

    /// Removes what lies aside. That there is nothing is fine.
    pub fn drop_aside(&self, item: &ItemName, generation: Generation) -> Result<()> {
        let locks = self.locks(item);
        let _lock = locks.state();
        self.remove_at_once(&self.dir(item).aside(generation))
    }

    /// Removes a promoted machine's disks **with everything it wrote**: for a roll-back, or to promote another point. That
    /// there are none is fine.
    pub fn drop_active(&self, item: &ItemName, generation: Generation) -> Result<()> {
        let locks = self.locks(item);
        let _lock = locks.state();
        self.remove_at_once(&self.dir(item).active(generation))
    }

    /// Ends an item's time as a stand-by here: points that the machine promoted at `generation` does not stand on are removed,
    /// those it stands on become bases (R-FO-4). Repeatable.
    ///
    /// # Errors
    /// [`StoreError::StaleGeneration`]; [`StoreError::NotPromoted`];
    /// [`StoreError::Pinned`] when a point to be removed is in use by a test; [`StoreError::Busy`].
    pub fn commit(&self, item: &ItemName, generation: Generation) -> Result<()> {
        let locks = self.locks(item);
        let (_layers, mut state) = (locks.layers_at_once(), locks.state());
        self.admit(item, generation, None)?;
        if state.receiving {
            return Err(StoreError::Busy(item.clone()));
        }
        let record = overlay_record(&self.dir(item).active(generation))?;
        let record = record.ok_or_else(|| StoreError::NotPromoted { item: item.clone(), generation })?;
        self.remove_given_up(item, generation)?;
        let kept = ancestry(&self.links(item)?, record.point);
        let points = self.points(item)?;
        let (stay, leave): (Vec<_>, Vec<_>) =
            points.into_iter().partition(|p| kept.contains(&p.manifest.seq));
        if let Some(held) = leave.iter().find(|p| !p.pins.is_empty()) {
            let (item, seq) = (item.clone(), held.manifest.seq);
            return Err(StoreError::Pinned { item, seq, by: held.pins[0].to_string() });
        }
        state.trees = None;
        self.remove_incoming(item)?;
        // Newest first: what remains at any moment is a whole chain.
        for point in leave.iter().rev() {
            self.remove_point(item, point.manifest.seq)?;
        }
        for point in stay.into_iter().filter(|p| p.manifest.kind == PointKind::Recovery) {
            let manifest = Manifest { kind: PointKind::Base, ..point.manifest };
            let path = self.dir(item).point(manifest.seq).join(MANIFEST);
            write_json(self.io(), &path, &manifest)?;
        }
        Ok(())
    }

    /// What lies aside, and promotions of earlier generations that were never made final: this one is, so nobody wants them any more.
    fn remove_given_up(&self, item: &ItemName, generation: Generation) -> Result<()> {
        let dir = self.dir(item);
        for number in names::<Number>(&dir.asides())? {
            self.remove_at_once(&dir.aside(Generation::new(number.0)))?;
        }
        for number in names::<Number>(&dir.actives())?.into_iter().filter(|n| n.0 < generation.get()) {
            self.remove_at_once(&dir.active(Generation::new(number.0)))?;
        }
        Ok(())
    }

    /// Makes overlays of a point in `place`. The caller holds the item's lock.
    fn lend(
        &self,
        item: &ItemName,
        point: PointSeq,
        place: &Path,
        headers: &BTreeMap<DiskName, LuksHeader>,
    ) -> Result<Vec<DiskFile>> {
        let manifest = self.lendable(item, point)?.manifest;
        can_write(&manifest, headers)?;
        let fresh = hidden(place, ".new-");
        self.io().remove(&fresh)?;
        self.io().create_dir_all(&fresh)?;
        let mut disks = Vec::with_capacity(manifest.disks.len());
        for disk in manifest.disks {
            let backing = Backing { path: backing_path(point, &disk.name), format: DiskFormat::Qcow2 };
            let luks = headers.get(&disk.name).filter(|_| manifest.seal.is_some()).cloned();
            create_overlay_with(self.io(), &fresh.join(disk_file(&disk.name)), backing, disk.size, luks)?;
            disks.push(DiskSpec { name: disk.name, size: disk.size });
        }
        let record = OverlayRecord { point, disks };
        write_json(self.io(), &fresh.join(OVERLAY), &record)?;
        self.io().rename(&fresh, place)?;
        Ok(files(place, &record))
    }

    /// Any whole point may be lent, a base too: a machine may be promoted again from what it stood on.
    fn lendable(&self, item: &ItemName, seq: PointSeq) -> Result<PointInfo> {
        let point = self.point(item, seq)?;
        match point.damaged_blocks {
            0 => Ok(point),
            blocks => Err(StoreError::Damaged { item: item.clone(), seq, blocks }),
        }
    }

    /// Renames first, so that what is half removed is never taken for whole.
    pub(crate) fn remove_at_once(&self, dir: &Path) -> Result<()> {
        let trash = hidden(dir, ".trash-");
        self.io().remove(&trash)?;
        if dir.exists() {
            self.io().rename(dir, &trash)?;
        }
        self.io().remove(&trash)
    }

    pub(crate) fn remove_point(&self, item: &ItemName, seq: PointSeq) -> Result<()> {
        self.remove_at_once(&self.dir(item).point(seq))
    }
}

/// An overlay of an encrypted point must have a key of its own, or it would be written in the clear.
fn can_write(manifest: &Manifest, headers: &BTreeMap<DiskName, LuksHeader>) -> Result<()> {
    let missing = || manifest.disks.iter().any(|disk| !headers.contains_key(&disk.name));
    if manifest.seal.is_some() && missing() {
        return Err(StoreError::Sealed { item: manifest.item.clone(), seq: manifest.seq });
    }
    Ok(())
}

fn hidden(path: &Path, prefix: &str) -> PathBuf {
    let name = path.file_name().map(|n| n.to_string_lossy()).unwrap_or_default();
    path.with_file_name(format!("{prefix}{name}"))
}

pub(crate) fn overlay_record(dir: &Path) -> Result<Option<OverlayRecord>> {
    read_json(&dir.join(OVERLAY), "a branch or promotion")
}

fn files(dir: &Path, record: &OverlayRecord) -> Vec<DiskFile> {
    let file = |disk: &DiskSpec| DiskFile {
        disk: disk.name.clone(),
        path: dir.join(disk_file(&disk.name)),
        size: disk.size,
    };
    record.disks.iter().map(file).collect()
}

/// Removes half-made and half-removed overlays.
pub(crate) fn clean(store: &Store, item: &ItemName) -> Result<()> {
    let dir = store.dir(item);
    for parent in [dir.branches(), dir.actives(), dir.asides(), dir.points()] {
        for name in names::<String>(&parent)? {
            if name.starts_with(".new-") || name.starts_with(".trash-") {
                store.io().remove(&parent.join(name))?;
            }
        }
    }
    Ok(())
}
