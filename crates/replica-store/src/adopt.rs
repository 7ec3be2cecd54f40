//! Making disks that are already on this host the base of replication in the other direction (R-REP-7).
//!
//! ```text
//!   a foreign disk            points/<seq>/disk-x.qcow2 (empty) ──backing──▶ the disk, untouched, by absolute path
//!   the store's own active/   active/<generation>/  ──renamed to──▶  points/<seq>/, still stacked on the point it came from
//! ```
//!
//! Nothing is copied; the disk is read once for its digests, or, for an overlay of our own, only what was written to it. The
//! base is no recovery point: nobody knows of which instant it is. The machine must not run any more.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use understudy_ids::{Consistency, Generation, ItemName, PointSeq};
use understudy_replication::{
    digest::{BlockDigest, DigestTree},
    extents::{BLOCK_SIZE, block_range},
};

use crate::{
    digests,
    error::{IoContext, Result, StoreError},
    layout::{MANIFEST, digest_file, disk_file},
    model::{Adopt, AdoptDisk, DiskManifest, Manifest, PointKind, Role, Seal},
    overlays::overlay_record,
    qcow2::{Backing, Chain, Source, create_overlay_with},
    store::{Number, Store, names, write_json},
};

impl Store {
    /// Makes `adopt.disks` a base. Asked again with the same number, it returns the base that is there.
    ///
    /// # Errors
    /// [`StoreError::StaleGeneration`]; [`StoreError::Busy`]; [`StoreError::PointExists`] when the number is not higher than
    /// every existing point's; [`StoreError::Format`] when a disk is not qcow2 or raw or only some of the disks are the
    /// store's own; I/O errors.
    pub fn adopt(&self, adopt: &Adopt) -> Result<Manifest> {
        let item = &adopt.item;
        let locks = self.locks(item);
        let (_layers, mut state) = (locks.layers_at_once(), locks.state());
        self.admit(item, adopt.generation, Some(Role::Standby))?;
        if state.receiving {
            return Err(StoreError::Busy(item.clone()));
        }
        if let Some(newest) = self.newest_first(item)?.next().filter(|p| p.manifest.seq >= adopt.seq) {
            let same = newest.manifest.seq == adopt.seq && newest.manifest.kind == PointKind::Base;
            return if same {
                Ok(newest.manifest)
            } else {
                Err(StoreError::PointExists { item: item.clone(), seq: adopt.seq })
            };
        }
        state.trees = None;
        self.remove_incoming(item)?;
        let dir = self.dir(item);
        let (place, parent) = match self.own_active(adopt)? {
            Some(generation) => {
                let place = dir.active(generation);
                let parent = overlay_record(&place)?.map(|r| r.point);
                (place, parent)
            }
            None => (self.overlay_foreign(adopt)?, None),
        };
        let mut disks = Vec::with_capacity(adopt.disks.len());
        for disk in &adopt.disks {
            let tree = match parent {
                Some(seq) => Some(self.tree(item, &mut state, seq, &disk.name)?),
                None => None,
            };
            disks.push(self.digest_disk(&place, disk, tree)?);
        }
        state.trees = None;
        let seal = self.adopted_seal(&place, adopt, parent)?;
        let manifest = Manifest { seal, ..manifest(adopt, parent, disks) };
        write_json(self.io(), &place.join(MANIFEST), &manifest)?;
        self.io().create_dir_all(&dir.points())?;
        self.io().rename(&place, &dir.point(adopt.seq))?;
        Ok(manifest)
    }

    /// The generation whose promoted disks these are, if they are the store's own.
    fn own_active(&self, adopt: &Adopt) -> Result<Option<Generation>> {
        let dir = self.dir(&adopt.item);
        for number in names::<Number>(&dir.actives())? {
            let active = dir.active(Generation::new(number.0));
            let own = |disk: &&AdoptDisk| same_file(&disk.path, &active.join(disk_file(&disk.name)));
            let count = adopt.disks.iter().filter(own).count();
            if count > 0 && count == adopt.disks.len() {
                return Ok(Some(Generation::new(number.0)));
            }
            if count > 0 {
                let why = "some disks of the machine are the store's own and others are not".to_owned();
                return Err(StoreError::Format { path: active, why });
            }
        }
        Ok(None)
    }

    /// A directory with an empty overlay over each foreign disk.
    fn overlay_foreign(&self, adopt: &Adopt) -> Result<PathBuf> {
        let place = self.dir(&adopt.item).adopting().join(adopt.seq.to_string());
        self.io().remove(&place)?;
        self.io().create_dir_all(&place)?;
        for disk in &adopt.disks {
            let path = disk.path.canonicalize().during("resolve", &disk.path)?;
            let size = Chain::open_as(&path, disk.format)?.size();
            let backing = Backing { path, format: disk.format };
            create_overlay_with(self.io(), &place.join(disk_file(&disk.name)), backing, size, None)?;
        }
        Ok(place)
    }

    /// Of our own disks that stood on an encrypted point: their secret is the point's, their keys are their own.
    fn adopted_seal(&self, place: &Path, adopt: &Adopt, parent: Option<PointSeq>) -> Result<Option<Seal>> {
        let Some(parent) = parent.map(|seq| self.manifest(&adopt.item, seq)).transpose()?.flatten() else {
            return Ok(None);
        };
        let Some(Seal { key, .. }) = parent.seal else { return Ok(None) };
        let mut disks = BTreeMap::new();
        for disk in &adopt.disks {
            let top = Chain::open(&place.join(disk_file(&disk.name)))?.luks()?.into_iter().next().flatten();
            disks.extend(top.map(|header| (disk.name.clone(), header)));
        }
        Ok(Some(Seal { key, disks }))
    }

    fn digest_disk(
        &self,
        place: &Path,
        disk: &AdoptDisk,
        parent: Option<DigestTree>,
    ) -> Result<DiskManifest> {
        let path = place.join(disk_file(&disk.name));
        let mut chain = Chain::open(&path)?;
        let stacked = parent.is_some();
        let mut tree = parent.unwrap_or_else(|| DigestTree::new(chain.size()));
        tree.resize(chain.size());
        let records = digest_chain(&mut chain, stacked, &mut tree)?;
        let count = records.len() as u64;
        let file = place.join(digest_file(&disk.name));
        digests::write(self.io(), &file, tree.size(), count, records.into_iter().map(Ok))?.sync()?;
        Ok(DiskManifest {
            name: disk.name.clone(),
            size: tree.size(),
            root: tree.root(),
            changed_bytes: count * BLOCK_SIZE,
            stored_bytes: path.metadata().during("stat", &path)?.len(),
            file: disk_file(&disk.name),
            stacked,
        })
    }
}

/// Digests what the chain has: all of it, or with a known parent only what its topmost file has.
fn digest_chain(chain: &mut Chain, only_top: bool, tree: &mut DigestTree) -> Result<Vec<(u64, BlockDigest)>> {
    let mut records = Vec::new();
    let mut content = vec![0; BLOCK_SIZE as usize];
    let size = chain.size();
    let mut next = 0;
    while let Some(block) = chain.next_mapped(next) {
        next = block + 1;
        let digest = match chain.source(block)? {
            Source::Absent => continue,
            Source::Zero { depth } | Source::Data { depth } if only_top && depth > 0 => continue,
            Source::Zero { .. } => BlockDigest::zero_block(),
            Source::Data { .. } => {
                let range = block_range(block, size);
                let part = &mut content[..range.len() as usize];
                chain.read(range.start, part)?;
                BlockDigest::of(part)
            }
        };
        // With a known parent an explicit zero has to be recorded; without one zeros are what a record's absence says.
        if only_top || !digest.is_zero_block() {
            tree.set(block, digest);
            records.push((block, digest));
        }
    }
    Ok(records)
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

fn manifest(adopt: &Adopt, parent: Option<PointSeq>, disks: Vec<DiskManifest>) -> Manifest {
    Manifest {
        item: adopt.item.clone(),
        seq: adopt.seq,
        parent,
        generation: adopt.generation,
        instant: adopt.now,
        received: adopt.now,
        consistency: Consistency::Crash,
        frozen: None,
        joint: None,
        kind: PointKind::Base,
        checkpoint: None,
        machine: adopt.machine.clone(),
        disks,
        seal: None,
    }
}

/// Removes a half-made base. It holds no data: foreign disks are only referred to, and our own are renamed in one step.
pub(crate) fn clean(store: &Store, item: &ItemName) -> Result<()> {
    store.io().remove(&store.dir(item).adopting())
}
