//! Reading replicas again before a failover needs them, in steps, over days if need be (R-REP-5).
//!
//! ```text
//!   scrub ─▶ step, step … ─▶ a layer's end ─▶ … ─▶ no layer left ─▶ finish: notes made true, record of the pass
//!              │                 └ noted in scrub.json: after a restart the pass goes on behind it
//!              └ damage: confirmed under the item's lock, noted at once with every point that shows it
//! ```
//!
//! A point with a note is not offered; one all of whose layers were read and found whole loses its note.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use understudy_ids::{ItemName, PointSeq, UnixMicros};
use understudy_replication::extents::{BLOCK_SIZE, RangeSet};

use crate::{
    check::{Findings, Layer, LayerCheck, LayerName},
    error::{Result, StoreError},
    layout::DAMAGED,
    model::Damage,
    store::{Store, StoreReader, read_json, write_json},
};

/// A step's part of a layer, in bytes, when the whole is done without a pause.
const STRIDE: u64 = 64 << 20;

/// When a pass that is not recorded was.
const NEVER: UnixMicros = UnixMicros::new(0);

/// What is known of an item's scrubs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubRecord {
    /// The last pass over all points that came to its end.
    pub last: Option<Finished>,
    /// The pass that goes on, or will.
    #[serde(default)]
    pass: Option<Pass>,
}

impl ScrubRecord {
    /// When the pass that is under way began.
    pub fn under_way_since(&self) -> Option<UnixMicros> {
        self.pass.as_ref().map(|p| p.began)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    pub began: UnixMicros,
    pub ended: UnixMicros,
    pub checked_blocks: u64,
    /// Points that show damage.
    pub damaged_points: Vec<PointSeq>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Pass {
    began: UnixMicros,
    checked_blocks: u64,
    checked_bytes: u64,
    /// Layers read to their end.
    done: BTreeSet<LayerName>,
    /// The layer being read, and the block to go on at.
    at: Option<(LayerName, u64)>,
    findings: Vec<(LayerName, RangeSet)>,
}

impl Pass {
    fn begun(began: UnixMicros) -> Self {
        let (done, findings) = (BTreeSet::new(), Vec::new());
        Self { began, checked_blocks: 0, checked_bytes: 0, done, at: None, findings }
    }
}

/// A pass over an item's points, or over one.
#[derive(Debug)]
pub struct Scrub {
    store: Store,
    item: ItemName,
    only: Option<PointSeq>,
    pass: Pass,
    findings: Findings,
    current: Option<(Layer, LayerCheck)>,
}

/// How far a pass has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scrubbed {
    /// Bytes that this step has read.
    pub bytes: u64,
    pub checked_blocks: u64,
    pub checked_bytes: u64,
    /// Bytes that the layers to be read hold, those that were read included.
    pub total_bytes: u64,
    /// This step has found damage.
    pub found: bool,
    pub done: bool,
}

impl StoreReader {
    /// What is known of an item's scrubs. A record that cannot be read is as none: the next pass writes it anew.
    pub fn scrubs(&self, item: &ItemName) -> ScrubRecord {
        let record = read_json(&self.dir(item).scrub(), "a record of scrubs");
        record.ok().flatten().unwrap_or_default()
    }
}

impl Store {
    /// A pass over all points of an item: the one that was interrupted, or a new one.
    pub fn scrub_on(&self, item: &ItemName, now: UnixMicros) -> Scrub {
        let pass = self.scrubs(item).pass;
        self.pass(item, None, pass.unwrap_or(Pass::begun(now)))
    }

    /// A new pass over all points of an item, or over what one point stands on. The latter is not gone on with after a restart.
    pub fn scrub_anew(&self, item: &ItemName, only: Option<PointSeq>, now: UnixMicros) -> Scrub {
        self.pass(item, only, Pass::begun(now))
    }

    fn pass(&self, item: &ItemName, only: Option<PointSeq>, mut pass: Pass) -> Scrub {
        let findings = std::mem::take(&mut pass.findings).into_iter().collect();
        Scrub { store: self.clone(), item: item.clone(), only, pass, findings, current: None }
    }

    /// Reads all that one point stands on, without a pause.
    ///
    /// # Errors
    /// [`StoreError::NoPoint`], also when the point was merged away meanwhile. A block or table that cannot be read is damage,
    /// not an error.
    pub fn scrub(&self, item: &ItemName, seq: PointSeq) -> Result<Damage> {
        self.point(item, seq)?;
        let mut scrub = self.scrub_anew(item, Some(seq), NEVER);
        while !scrub.step(STRIDE)?.done {}
        scrub.finish(NEVER)?;
        self.point(item, seq)?;
        self.damage(item, seq)
    }

    /// Confirms what was found, and notes it with every point that shows it. Returns what was confirmed.
    fn note_damage(&self, item: &ItemName, findings: &Findings) -> Result<Findings> {
        let locks = self.locks(item);
        let (_layers, _lock) = (locks.layers(), locks.state());
        let confirmed = self.confirm(item, findings)?;
        // Newest first: once a point has its note, all that stand on it have theirs.
        for (seq, found) in self.shown(item, &confirmed)?.into_iter().rev() {
            let mut note = self.damage(item, seq).unwrap_or_default();
            found.disks.iter().for_each(|(disk, ranges)| note.add(disk, ranges));
            let path = self.dir(item).point(seq).join(DAMAGED);
            write_json(self.io(), &path, &note)?;
            tracing::warn!(%item, %seq, blocks = note.total(), "recovery point is damaged");
        }
        Ok(confirmed)
    }

    /// Makes the notes of all points whose layers were checked say what was found. Returns the damaged points.
    fn settle_damage(
        &self,
        item: &ItemName,
        checked: &BTreeSet<LayerName>,
        findings: &Findings,
    ) -> Result<Vec<PointSeq>> {
        let locks = self.locks(item);
        let (_layers, _lock) = (locks.layers(), locks.state());
        let mut shown = self.shown(item, &self.confirm(item, findings)?)?;
        let damaged: Vec<PointSeq> = shown.keys().copied().collect();
        for seq in self.covered(item, checked)?.into_iter().rev() {
            let path = self.dir(item).point(seq).join(DAMAGED);
            match shown.remove(&seq) {
                Some(damage) => write_json(self.io(), &path, &damage)?,
                None => self.io().remove(&path)?,
            }
        }
        Ok(damaged)
    }
}

impl Scrub {
    pub fn item(&self) -> &ItemName {
        &self.item
    }

    /// Reads about `most_bytes` more. Takes the item's lock only to note damage.
    pub fn step(&mut self, most_bytes: u64) -> Result<Scrubbed> {
        let layers = self.store.layers(&self.item, self.only)?;
        let (bytes, found) = match self.layer(&layers)? {
            Some((layer, check)) => self.read(layer, check, most_bytes)?,
            None => (0, false),
        };
        let rest: u64 = layers.iter().map(|l| self.rest(l)).sum();
        Ok(Scrubbed {
            bytes,
            found,
            checked_blocks: self.pass.checked_blocks,
            checked_bytes: self.pass.checked_bytes,
            total_bytes: self.pass.checked_bytes + rest,
            done: layers.iter().all(|l| self.pass.done.contains(&l.name)),
        })
    }

    /// Bytes of a layer that are still to be read; of one that is half read as many as its position lets expect.
    fn rest(&self, layer: &Layer) -> u64 {
        match &self.pass.at {
            _ if self.pass.done.contains(&layer.name) => 0,
            Some((name, block)) if *name == layer.name => {
                let left = layer.size.saturating_sub(block * BLOCK_SIZE);
                (u128::from(layer.stored_bytes) * u128::from(left) / u128::from(layer.size.max(1))) as u64
            }
            _ => layer.stored_bytes,
        }
    }

    /// The layer to go on with, at its place.
    fn layer(&mut self, layers: &[Layer]) -> Result<Option<(Layer, LayerCheck)>> {
        if let Some(current) = self.current.take().filter(|(layer, _)| layers.contains(layer)) {
            return Ok(Some(current));
        }
        for layer in layers.iter().filter(|l| !self.pass.done.contains(&l.name)) {
            let mut check = match self.store.check_layer(&self.item, &layer.name) {
                // Merged away just now; what it held is in the layer above, which comes later.
                Err(StoreError::NoPoint { .. }) => continue,
                other => other?,
            };
            if let Some((_, block)) = self.pass.at.as_ref().filter(|(name, _)| *name == layer.name) {
                check.seek(*block);
            }
            return Ok(Some((layer.clone(), check)));
        }
        Ok(None)
    }

    fn read(&mut self, layer: Layer, mut check: LayerCheck, most_bytes: u64) -> Result<(u64, bool)> {
        let step = check.step(most_bytes, u64::MAX);
        self.pass.checked_blocks += step.blocks;
        self.pass.checked_bytes += step.bytes;
        let mut damaged = false;
        if !step.damaged.is_empty() {
            let found = Findings::from([(layer.name.clone(), step.damaged)]);
            for (name, ranges) in self.store.note_damage(&self.item, &found)? {
                damaged = true;
                let known = self.findings.entry(name).or_default();
                *known = known.union(&ranges);
            }
        }
        if step.done {
            self.pass.done.insert(layer.name);
            self.pass.at = None;
        } else {
            self.pass.at = Some((layer.name.clone(), check.position()));
            self.current = Some((layer, check));
        }
        Ok((step.bytes, damaged))
    }

    /// Notes durably how far the pass has come.
    pub fn save(&self) -> Result<()> {
        if self.only.is_some() {
            return Ok(());
        }
        let mut pass = self.pass.clone();
        pass.findings = self.findings.clone().into_iter().collect();
        let record = ScrubRecord { last: self.store.scrubs(&self.item).last, pass: Some(pass) };
        self.write(&record)
    }

    /// Ends the pass; returns what it has found.
    pub fn finish(self, now: UnixMicros) -> Result<Finished> {
        let damaged_points = self.store.settle_damage(&self.item, &self.pass.done, &self.findings)?;
        let (began, checked_blocks) = (self.pass.began, self.pass.checked_blocks);
        let finished = Finished { began, ended: now, checked_blocks, damaged_points };
        if self.only.is_none() {
            self.write(&ScrubRecord { last: Some(finished.clone()), pass: None })?;
        }
        Ok(finished)
    }

    fn write(&self, record: &ScrubRecord) -> Result<()> {
        let locks = self.store.locks(&self.item);
        let _lock = locks.state();
        // The item may have been removed meanwhile, and must not come back as an empty directory.
        let dir = self.store.dir(&self.item);
        if dir.path().is_dir() { write_json(self.store.io(), &dir.scrub(), record) } else { Ok(()) }
    }
}
