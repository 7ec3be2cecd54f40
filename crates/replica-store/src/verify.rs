//! Checking points with nothing but the files: all processors at once, the store untouched (R-REP-5).

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    num::NonZero,
    sync::{Mutex, PoisonError},
};

use understudy_ids::{ItemName, PointSeq};
use understudy_replication::extents::{RangeSet, block_count};

use crate::{
    check::{Findings, LayerName},
    error::{Result, StoreError},
    model::Damage,
    store::StoreReader,
};

/// Blocks that one thread takes at once: what one L2 table covers, 512 MiB.
const PIECE: u64 = 8192;
/// Progress is told once per so many bytes.
const STRIDE: u64 = 8 << 20;
/// A writer that renames files while they are opened is not met so often in a row.
const TRIES: usize = 10;

/// What a verification has found.
#[derive(Debug, Default)]
pub struct Verified {
    /// The points that were asked for and are listed, with what of each is damaged.
    pub points: BTreeMap<PointSeq, Damage>,
    pub checked_blocks: u64,
}

impl StoreReader {
    /// Bytes that [`Self::verify`] reads.
    pub fn verify_bytes(&self, item: &ItemName, only: Option<PointSeq>) -> Result<u64> {
        Ok(self.layers(item, only)?.iter().map(|l| l.stored_bytes).sum())
    }

    /// Reads every stored block of an item's points, or of what one point stands on, and compares it with its digest. `read`
    /// is told of every few bytes read.
    ///
    /// # Errors
    /// [`StoreError::NoPoint`] when the point is not there, or is merged away meanwhile. Damage is no error.
    pub fn verify(
        &self,
        item: &ItemName,
        only: Option<PointSeq>,
        read: &(dyn Fn(u64) + Sync),
    ) -> Result<Verified> {
        if let Some(seq) = only {
            self.point(item, seq)?;
        }
        let mut findings = Findings::new();
        let mut checked = BTreeSet::new();
        let mut verified = Verified::default();
        // Merging puts what was in one layer into another; those that have changed are read again.
        loop {
            let layers = self.layers(item, only)?;
            let pieces: VecDeque<Piece> = layers
                .iter()
                .filter(|l| !checked.contains(&l.name))
                .flat_map(|l| pieces(&l.name, block_count(l.size)))
                .collect();
            if pieces.is_empty() {
                break;
            }
            checked.extend(pieces.iter().map(|p| p.layer.clone()));
            let pass = Pass { reader: self, item, pieces: Mutex::new(pieces), read };
            let (found, blocks) = pass.run()?;
            findings.extend(found);
            verified.checked_blocks += blocks;
        }
        for _ in 0..TRIES {
            if findings.is_empty() {
                break;
            }
            findings = self.confirm(item, &findings)?;
        }
        let mut shown = self.shown(item, &findings)?;
        let points = self.points(item)?.into_iter().map(|p| p.manifest.seq);
        verified.points = points
            .filter(|seq| only.is_none_or(|only| only == *seq))
            .map(|seq| (seq, shown.remove(&seq).unwrap_or_default()))
            .collect();
        match only.filter(|seq| !verified.points.contains_key(seq)) {
            Some(seq) => Err(StoreError::NoPoint { item: item.clone(), seq }),
            None => Ok(verified),
        }
    }
}

struct Piece {
    layer: LayerName,
    first: u64,
    end: u64,
}

fn pieces(layer: &LayerName, blocks: u64) -> impl Iterator<Item = Piece> {
    let piece = |first| Piece { layer: layer.clone(), first, end: (first + PIECE).min(blocks) };
    (0..blocks).step_by(PIECE as usize).map(piece).collect::<Vec<_>>().into_iter()
}

struct Pass<'a> {
    reader: &'a StoreReader,
    item: &'a ItemName,
    pieces: Mutex<VecDeque<Piece>>,
    read: &'a (dyn Fn(u64) + Sync),
}

impl Pass<'_> {
    fn run(&self) -> Result<(Findings, u64)> {
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        std::thread::scope(|scope| {
            let working: Vec<_> = (0..threads).map(|_| scope.spawn(|| self.work())).collect();
            let mut all = Findings::new();
            let mut blocks = 0;
            for thread in working {
                // A panic in a thread is a panic here.
                let (found, read) = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                blocks += read;
                for (layer, ranges) in found {
                    add(&mut all, layer, &ranges);
                }
            }
            Ok((all, blocks))
        })
    }

    fn work(&self) -> Result<(Findings, u64)> {
        let mut found = Findings::new();
        let mut blocks = 0;
        while let Some(piece) = self.next() {
            let mut check = match self.reader.check_layer(self.item, &piece.layer) {
                Err(StoreError::NoPoint { .. }) => continue,
                other => other?,
            };
            check.seek(piece.first);
            loop {
                let step = check.step(STRIDE, piece.end);
                (self.read)(step.bytes);
                blocks += step.blocks;
                if !step.damaged.is_empty() {
                    add(&mut found, piece.layer.clone(), &step.damaged);
                }
                if step.done {
                    break;
                }
            }
        }
        Ok((found, blocks))
    }

    fn next(&self) -> Option<Piece> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

fn add(findings: &mut Findings, layer: LayerName, ranges: &RangeSet) {
    let known = findings.entry(layer).or_default();
    *known = known.union(ranges);
}
