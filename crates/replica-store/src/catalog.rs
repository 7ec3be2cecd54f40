//! Which points there are, and what is known about each.

use std::{collections::BTreeMap, path::PathBuf};

use understudy_ids::{DiskName, Generation, ItemName, PointSeq, Uuid};
use understudy_replication::{
    cycle::{TargetFacts, TargetHas},
    digest::DigestTree,
    extents::RangeSet,
    retention::PointFacts,
};

use crate::{
    digests,
    error::{Result, StoreError},
    layout::{DAMAGED, MANIFEST, MERGING, OVERLAY, digest_file},
    model::{Damage, DiskManifest, Manifest, OverlayRecord, Pin, PointInfo, PointKind, Seal, TargetSeals},
    qcow2::{Chain, check_tables},
    store::{ItemState, Number, Store, StoreReader, names, read_json},
};

/// A point directory and what it stands on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    pub seq: PointSeq,
    pub parent: Option<PointSeq>,
    pub listed: bool,
}

/// A point and all below it.
pub(crate) fn ancestry(links: &[Link], seq: PointSeq) -> Vec<PointSeq> {
    let mut found = Vec::new();
    let mut next = Some(seq);
    while let Some(seq) = next.filter(|s| !found.contains(s)) {
        found.push(seq);
        next = links.iter().find(|l| l.seq == seq).and_then(|l| l.parent);
    }
    found
}

impl StoreReader {
    /// All points of an item with a valid manifest, oldest first: bases and damaged ones too (see [`PointInfo::is_offered`]).
    pub fn points(&self, item: &ItemName) -> Result<Vec<PointInfo>> {
        let mut points: Vec<PointInfo> = self.newest_first(item)?.collect();
        points.reverse();
        Ok(points)
    }

    /// What [`Self::points`] lists, from the newest on, each read when it is asked for: most callers want the first one only.
    pub(crate) fn newest_first(&self, item: &ItemName) -> Result<impl Iterator<Item = PointInfo>> {
        let pins = self.pins(item)?;
        let mut seqs: Vec<PointSeq> =
            names::<Number>(&self.dir(item).points())?.into_iter().map(|n| PointSeq::new(n.0)).collect();
        seqs.sort_unstable_by(|one, other| other.cmp(one));
        Ok(seqs.into_iter().filter_map(move |seq| match self.manifest(item, seq) {
            Ok(manifest) => manifest.map(|manifest| self.info(item, manifest, &pins)),
            Err(error) => {
                tracing::warn!(%item, %seq, %error, "point is not listed because its manifest is not valid");
                None
            }
        }))
    }

    fn info(&self, item: &ItemName, manifest: Manifest, pins: &[(PointSeq, Pin)]) -> PointInfo {
        let held = pins.iter().filter(|(seq, _)| *seq == manifest.seq).map(|(_, pin)| *pin).collect();
        let damaged_blocks = self.damaged_blocks(item, manifest.seq);
        PointInfo { manifest, pins: held, damaged_blocks }
    }

    /// Points that may be tested and promoted, oldest first.
    pub fn recovery_points(&self, item: &ItemName) -> Result<Vec<PointInfo>> {
        Ok(self.points(item)?.into_iter().filter(PointInfo::is_offered).collect())
    }

    /// The latest point that may be tested and promoted.
    pub fn latest(&self, item: &ItemName) -> Result<Option<PointInfo>> {
        Ok(self.newest_first(item)?.find(PointInfo::is_offered))
    }

    /// One point, recovery point or base.
    pub fn point(&self, item: &ItemName, seq: PointSeq) -> Result<PointInfo> {
        let manifest = self.manifest(item, seq)?;
        let manifest = manifest.ok_or_else(|| StoreError::NoPoint { item: item.clone(), seq })?;
        Ok(self.info(item, manifest, &self.pins(item)?))
    }

    /// What retention decides on.
    pub fn retention_facts(&self, item: &ItemName) -> Result<Vec<PointFacts>> {
        let facts = |p: PointInfo| PointFacts {
            seq: p.manifest.seq,
            parent: p.manifest.parent,
            instant: p.manifest.instant,
            recovery: p.manifest.kind == PointKind::Recovery,
            pinned: !p.pins.is_empty(),
            app_consistent: p.manifest.consistency.is_application_consistent(),
            joint: p.manifest.joint.is_some(),
        };
        Ok(self.points(item)?.into_iter().map(facts).collect())
    }

    /// The qcow2 file of one disk of a point. Read-only: it is shared by every point after it.
    pub fn disk_path(&self, item: &ItemName, seq: PointSeq, disk: &DiskName) -> Result<PathBuf> {
        let point = self.point(item, seq)?;
        let found = point.manifest.disk(disk).map(|d| self.dir(item).point(seq).join(&d.file));
        found.ok_or_else(|| StoreError::NoDisk { item: item.clone(), disk: disk.clone() })
    }

    /// Opens one disk of a point for reading.
    pub fn open_disk(&self, item: &ItemName, seq: PointSeq, disk: &DiskName) -> Result<Chain> {
        Chain::open(&self.disk_path(item, seq, disk)?)
    }

    /// Digests of a disk as the point has it. The latest point's are kept in memory.
    pub fn digests(&self, item: &ItemName, seq: PointSeq, disk: &DiskName) -> Result<DigestTree> {
        let locks = self.locks(item);
        self.tree(item, &mut locks.state(), seq, disk)
    }

    /// [`Self::digests`] for a caller that holds the item's lock.
    pub(crate) fn tree(
        &self,
        item: &ItemName,
        state: &mut ItemState,
        seq: PointSeq,
        disk: &DiskName,
    ) -> Result<DigestTree> {
        if let Some((cached, trees)) = &state.trees
            && *cached == seq
            && let Some(tree) = trees.get(disk)
        {
            return Ok(tree.clone());
        }
        let tree = self.tree_from_files(item, seq, disk)?;
        match &mut state.trees {
            Some((cached, trees)) if *cached == seq => {
                trees.insert(disk.clone(), tree.clone());
            }
            Some((cached, _)) if *cached > seq => {}
            other => *other = Some((seq, [(disk.clone(), tree.clone())].into())),
        }
        Ok(tree)
    }

    fn tree_from_files(&self, item: &ItemName, seq: PointSeq, disk: &DiskName) -> Result<DigestTree> {
        let mut layers = Vec::new();
        let mut next = Some(seq);
        while let Some(at) = next {
            let (manifest, _) = self
                .any_manifest(item, at)?
                .ok_or_else(|| StoreError::NoPoint { item: item.clone(), seq: at })?;
            let Some(found) = manifest.disk(disk) else { break };
            layers.push((at, found.size));
            next = manifest.parent.filter(|_| found.stacked);
        }
        if layers.is_empty() {
            return Err(StoreError::NoDisk { item: item.clone(), disk: disk.clone() });
        }
        let mut tree = DigestTree::new(0);
        for (seq, size) in layers.into_iter().rev() {
            digests::apply(&self.dir(item).point(seq).join(digest_file(disk)), size, &mut tree)?;
        }
        Ok(tree)
    }

    /// The manifest of a point; `None` when there is no such point.
    pub(crate) fn manifest(&self, item: &ItemName, seq: PointSeq) -> Result<Option<Manifest>> {
        let path = self.dir(item).point(seq).join(MANIFEST);
        let manifest: Option<Manifest> = read_json(&path, "a manifest")?;
        if let Some(found) = manifest.as_ref().filter(|m| m.seq != seq || m.item != *item) {
            let why = format!("it is of point {} of {}", found.seq, found.item);
            return Err(StoreError::Record { path, what: "this point's manifest", why });
        }
        Ok(manifest)
    }

    /// The manifest of a point, or of one that is being merged into its successor; the flag says whether it is listed.
    pub(crate) fn any_manifest(&self, item: &ItemName, seq: PointSeq) -> Result<Option<(Manifest, bool)>> {
        if let Some(manifest) = self.manifest(item, seq)? {
            return Ok(Some((manifest, true)));
        }
        let merging: Option<Manifest> = read_json(&self.dir(item).point(seq).join(MERGING), "a manifest")?;
        Ok(merging.map(|manifest| (manifest, false)))
    }

    /// How all point directories of an item are stacked, listed or not, oldest first. Whoever removes files asks this rather
    /// than the list of points: a point that is not listed may still carry others.
    ///
    /// # Errors
    /// When a manifest cannot be read, because then nobody knows what stands on what.
    pub(crate) fn links(&self, item: &ItemName) -> Result<Vec<Link>> {
        let mut links = Vec::new();
        for number in names::<Number>(&self.dir(item).points())? {
            let seq = PointSeq::new(number.0);
            if let Some((manifest, listed)) = self.any_manifest(item, seq)? {
                links.push(Link { seq, parent: manifest.parent, listed });
            }
        }
        links.sort_unstable_by_key(|l| l.seq);
        Ok(links)
    }

    /// Number of blocks that a scrub has noted as damaged. A note that cannot be read is a note of damage.
    pub(crate) fn damaged_blocks(&self, item: &ItemName, seq: PointSeq) -> u64 {
        self.damage(item, seq).map_or(1, |damage| damage.total())
    }

    /// What a scrub has noted of a point.
    pub fn damage(&self, item: &ItemName, seq: PointSeq) -> Result<Damage> {
        let note = read_json::<Damage>(&self.dir(item).point(seq).join(DAMAGED), "a note of damage")?;
        Ok(note.unwrap_or_default())
    }

    /// As [`Self::damage`]; all of it when the note cannot be read.
    pub(crate) fn damage_of(&self, manifest: &Manifest) -> Damage {
        self.damage(&manifest.item, manifest.seq).unwrap_or_else(|_| {
            let all = |disk: &DiskManifest| (disk.name.clone(), RangeSet::span(0, disk.size));
            Damage { disks: manifest.disks.iter().map(all).collect() }
        })
    }

    /// Whether another point may stand on this one: when it is damaged, only if its digests and tables can be believed, so that blocks
    /// of the other one hide what is damaged.
    pub(crate) fn carries(&self, point: &PointInfo) -> bool {
        if point.damaged_blocks == 0 {
            return true;
        }
        let Manifest { item, seq, disks, .. } = &point.manifest;
        let believed = disks.iter().try_for_each(|disk| {
            self.tree_from_files(item, *seq, &disk.name)?;
            self.check_tables_below(&point.manifest, disk)
        });
        if let Err(error) = &believed {
            tracing::warn!(%item, %seq, %error, "no point can stand on this one, the next one will be a full copy");
        }
        believed.is_ok()
    }

    /// Of one disk, down to the file that stands on none.
    fn check_tables_below(&self, top: &Manifest, disk: &DiskManifest) -> Result<()> {
        let mut next = Some((top.clone(), disk.clone()));
        while let Some((manifest, disk)) = next.take() {
            let damage = self.damage_of(&manifest);
            let damaged = damage.disks.get(&disk.name).cloned().unwrap_or_default();
            let path = self.dir(&manifest.item).point(manifest.seq).join(&disk.file);
            self.check_link(&manifest, &disk, &Chain::open(&path)?)?;
            check_tables(&path, &damaged)?;
            let below = manifest.parent.filter(|_| disk.stacked);
            let below = below.map(|seq| self.any_manifest(&manifest.item, seq)).transpose()?.flatten();
            next = below.and_then(|(m, _)| Some((m.disk(&disk.name)?.clone(), m))).map(|(d, m)| (m, d));
        }
        Ok(())
    }

    /// Everything that stands on a point of the item.
    pub(crate) fn pins(&self, item: &ItemName) -> Result<Vec<(PointSeq, Pin)>> {
        let dir = self.dir(item);
        let mut pins = Vec::new();
        for run in names::<Uuid>(&dir.branches())? {
            if let Some(record) = read_json::<OverlayRecord>(&dir.branch(run).join(OVERLAY), "a branch")? {
                pins.push((record.point, Pin::Branch(run)));
            }
        }
        for parent in [dir.actives(), dir.asides()] {
            for number in names::<Number>(&parent)? {
                let generation = Generation::new(number.0);
                let overlay = parent.join(generation.to_string()).join(OVERLAY);
                if let Some(record) = read_json::<OverlayRecord>(&overlay, "a promotion")? {
                    pins.push((record.point, Pin::Active(generation)));
                }
            }
        }
        Ok(pins)
    }

    /// Whether a disk file is stacked on the parent's: it is when the parent has the disk, is not the larger one, and is encrypted
    /// with the same key, or neither is at all.
    pub(crate) fn stacks_on(
        parent: Option<&Manifest>,
        disk: &DiskName,
        size: u64,
        seal: Option<&Seal>,
    ) -> bool {
        parent.is_some_and(|parent| {
            parent.disk(disk).is_some_and(|below| below.size <= size)
                && Seal::header(parent.seal.as_ref(), disk) == Seal::header(seal, disk)
        })
    }
}

impl Store {
    /// The facts that the source's next cycle is planned from. A newest point that cannot carry another one counts as nothing, so that
    /// the next cycle ships everything.
    pub fn target_facts(&self, item: &ItemName) -> Result<TargetFacts> {
        let newest = self.newest_first(item)?.next();
        let highest_seq = newest.as_ref().map(|p| p.manifest.seq);
        let mut damaged = BTreeMap::new();
        let mut has = TargetHas::Nothing;
        if let Some(PointInfo { manifest, .. }) = newest.filter(|p| self.carries(p)) {
            damaged = self.damage_of(&manifest).disks;
            damaged.retain(|_, ranges| !ranges.is_empty());
            let Manifest { seq, checkpoint, kind, disks, .. } = manifest;
            let disks = disks.into_iter().map(|d| (d.name, d.size)).collect();
            has = match checkpoint.filter(|_| kind == PointKind::Recovery) {
                Some(checkpoint) => TargetHas::Point { seq, checkpoint, disks },
                None => TargetHas::Base { seq, disks },
            };
        }
        Ok(TargetFacts { has, partial: self.partial(item)?, highest_seq, damaged })
    }

    /// How what [`Self::target_facts`] tells of is encrypted.
    pub fn target_seals(&self, item: &ItemName) -> Result<TargetSeals> {
        let latest = self.newest_first(item)?.next().and_then(|point| point.manifest.seal);
        Ok(TargetSeals { latest, partial: self.partial_seal(item)? })
    }
}
