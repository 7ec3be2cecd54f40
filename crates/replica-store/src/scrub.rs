//! Reading replicas again and comparing them with their digests, before a failover needs them (R-REP-5).

use understudy_ids::{DiskName, ItemName, PointSeq};
use understudy_replication::{
    digest::{BlockDigest, DigestTree},
    extents::{BLOCK_SIZE, block_range},
};

use crate::{
    error::{Result, StoreError},
    layout::{DAMAGED, MERGING},
    model::Damage,
    qcow2::{Chain, Source},
    store::{Store, lock, write_json},
};

/// Damaged blocks that are named; the rest is only counted.
const NAMED: usize = 16;

impl Store {
    /// Reads every block that a point shows and compares it with its digest. Damage is noted durably and the point is not
    /// offered any more; a point found whole again loses its note. Reads without holding the item's lock.
    ///
    /// # Errors
    /// [`StoreError::NoPoint`], also when the point was merged away meanwhile. A block or table that cannot be read is damage,
    /// not an error.
    pub fn scrub(&self, item: &ItemName, seq: PointSeq) -> Result<Damage> {
        let point = self.point(item, seq)?;
        let mut damage = Damage::default();
        for disk in &point.manifest.disks {
            let path = self.dir(item).point(seq).join(&disk.file);
            let found = match self.digests(item, seq, &disk.name) {
                Ok(tree) if tree.root() == disk.root => compare(&path, &tree),
                // Without true digests nothing vouches for any block.
                Ok(_) | Err(_) => whole(disk.size),
            };
            note(&mut damage, &disk.name, found);
        }
        self.record_damage(item, seq, &damage)?;
        Ok(damage)
    }

    fn record_damage(&self, item: &ItemName, seq: PointSeq, damage: &Damage) -> Result<()> {
        let state = self.state(item);
        let _lock = lock(&state);
        let dir = self.dir(item).point(seq);
        if dir.join(MERGING).exists() || self.manifest(item, seq)?.is_none() {
            return Err(StoreError::NoPoint { item: item.clone(), seq });
        }
        let path = dir.join(DAMAGED);
        if damage.total() == 0 { self.io().remove(&path) } else { write_json(self.io(), &path, damage) }
    }
}

/// Number of damaged blocks and the first of them.
struct Found {
    count: u64,
    first: Vec<u64>,
}

impl Found {
    fn add(&mut self, block: u64) {
        self.count += 1;
        if self.first.len() < NAMED {
            self.first.push(block);
        }
    }
}

fn note(damage: &mut Damage, disk: &DiskName, found: Found) {
    if found.count > 0 {
        damage.blocks.insert(disk.clone(), found.count);
        damage.first.insert(disk.clone(), found.first);
    }
}

fn whole(size: u64) -> Found {
    Found { count: size.div_ceil(BLOCK_SIZE).max(1), first: vec![0] }
}

fn compare(path: &std::path::Path, tree: &DigestTree) -> Found {
    let Ok(mut chain) = Chain::open(path) else { return whole(tree.size()) };
    let mut found = Found { count: 0, first: Vec::new() };
    let mut content = vec![0; BLOCK_SIZE as usize];
    let mut next = 0;
    // Blocks that neither a file nor the tree knows are zero on both sides.
    while let Some(block) = [chain.next_mapped(next), tree.next_nonzero_node(next)]
        .into_iter()
        .flatten()
        .min()
        .filter(|b| *b < tree.blocks())
    {
        next = block + 1;
        let expected = tree.get(block);
        match chain.source(block) {
            Ok(Source::Absent | Source::Zero { .. }) if expected.is_zero_block() => continue,
            Ok(Source::Data { .. }) => {}
            Ok(_) | Err(_) => {
                found.add(block);
                continue;
            }
        }
        let range = block_range(block, tree.size());
        let part = &mut content[..range.len() as usize];
        if chain.read(range.start, part).is_err() || BlockDigest::of(part) != expected {
            found.add(block);
        }
    }
    found
}
