//! What one replication cycle ships, computed from what both ends say they have.
//!
//! ```text
//!   target has          partial          tracking of the disk        the disk ships
//!   ──────────────────  ───────────────  ──────────────────────────  ───────────────────────────────────────────
//!   nothing             –                –                           everything
//!   nothing             since C, mark W  instant C still open        everything beyond W
//!   nothing             since C, mark W  C usable                    changed since C  ∪  everything beyond W
//!   nothing             since C, mark W  C lost                      everything, over what is there
//!   point P at C₀       –                C₀ usable                   changed since C₀
//!   point P at C₀       –                C₀ missing or inconsistent  what differs from P by digest (this disk only)
//!   point P at C₀       since C, mark W  instant C still open        as without a partial, beyond W only
//!   point P at C₀       since C, mark W  instant C is gone           as without a partial; the partial is discarded
//!   point P at C₀       –                C₀ usable, the disk grew    changed since C₀  ∪  everything beyond the old end
//!   base of unknown     as for a point   –                           what differs from it by digest
//!   … of it D damaged   as without       as without                  the same  ∪  D
//! ```
//!
//! **Promise.** Whatever is interrupted when, the point that is finally complete equals the source at the instant of the
//! snapshot it was finished from. It rests on two rules:
//!
//! 1. *The source deletes a checkpoint only when nothing on the target refers to it* ([`obsolete`]): neither the latest
//!    point, for which the target's receipt is the word, nor a partial. So a failed cycle loses nothing; the next one
//!    ships the union of both.
//! 2. *A partial since C with watermark W* means: each block below W holds what the source held at some time at or after C.
//!    What changed since C is shipped again, so it does not matter which of those times it was. Hence the partial of a first
//!    copy may be continued at later and later instants while C and W stay truthful.
//!
//! A libvirt backup exports one bitmap per disk, so no plan asks for more than one.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use understudy_ids::{DiskName, PointSeq};

use crate::extents::{BLOCK_SIZE, RangeSet};

/// Name of an instant in the source's change tracking (a libvirt checkpoint, a QEMU bitmap).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CheckpointName(String);

impl CheckpointName {
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CheckpointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The newest complete thing on the target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "has", rename_all = "snake_case")]
pub enum TargetHas {
    Nothing,
    /// Disks of unknown relation to the source, such as those of a former primary.
    Base {
        seq: PointSeq,
        disks: BTreeMap<DiskName, u64>,
    },
    /// A verified point and the source's checkpoint at its instant.
    Point {
        seq: PointSeq,
        checkpoint: CheckpointName,
        disks: BTreeMap<DiskName, u64>,
    },
}

impl TargetHas {
    pub fn seq(&self) -> Option<PointSeq> {
        match self {
            Self::Nothing => None,
            Self::Base { seq, .. } | Self::Point { seq, .. } => Some(*seq),
        }
    }

    /// The source's checkpoint at the instant of what is there.
    pub fn checkpoint(&self) -> Option<&CheckpointName> {
        match self {
            Self::Nothing | Self::Base { .. } => None,
            Self::Point { checkpoint, .. } => Some(checkpoint),
        }
    }

    /// Sizes of the disks that are there, in bytes.
    pub fn disks(&self) -> &BTreeMap<DiskName, u64> {
        static NONE: BTreeMap<DiskName, u64> = BTreeMap::new();
        match self {
            Self::Nothing => &NONE,
            Self::Base { disks, .. } | Self::Point { disks, .. } => disks,
        }
    }
}

/// A transfer that was interrupted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partial {
    pub seq: PointSeq,
    pub parent: Option<PointSeq>,
    /// The instant at which the transfer began. See rule 2.
    pub since: CheckpointName,
    pub disks: BTreeMap<DiskName, PartialDisk>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartialDisk {
    /// Size of the disk in bytes.
    pub size: u64,
    /// Bytes from the disk's start on that are durably on the target; a multiple of the block size or the disk's size.
    pub watermark: u64,
}

/// What the target says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetFacts {
    pub has: TargetHas,
    pub partial: Option<Partial>,
    /// The highest number that a point has there, also of one that nothing can be built upon.
    pub highest_seq: Option<PointSeq>,
    /// Bytes of `has` that are not what they were any more (R-REP-5). Nothing tells what the source has there but sending it.
    pub damaged: BTreeMap<DiskName, RangeSet>,
}

impl TargetFacts {
    /// Of a target where nothing was interrupted and nothing is damaged.
    pub fn of(has: TargetHas) -> Self {
        let highest_seq = has.seq();
        Self { has, partial: None, highest_seq, damaged: BTreeMap::new() }
    }
}

/// State of the change tracking of one disk since one checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracking {
    Usable,
    /// The hypervisor died without saving it.
    Inconsistent,
}

/// What the source knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFacts {
    /// Disks to replicate with their sizes in bytes.
    pub disks: BTreeMap<DiskName, u64>,
    /// Checkpoints that still exist, and the tracking since then of each disk they cover.
    pub checkpoints: BTreeMap<CheckpointName, BTreeMap<DiskName, Tracking>>,
    /// The frozen instant that is still exported, if any, by the checkpoint made at it.
    pub open: Option<CheckpointName>,
    /// The highest sequence number known to have been used for this item on either side.
    pub highest_seq: Option<PointSeq>,
}

impl SourceFacts {
    fn tracks(&self, disk: &DiskName, since: &CheckpointName) -> Result<(), String> {
        match self.checkpoints.get(since).and_then(|disks| disks.get(disk)) {
            Some(Tracking::Usable) => Ok(()),
            Some(Tracking::Inconsistent) => {
                Err(format!("{disk}: change tracking since {since} is inconsistent"))
            }
            None => Err(format!("{disk}: there is no change tracking since {since}")),
        }
    }
}

/// What a cycle is as a whole; for people and statistics. The disks' plans say what is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum CycleKind {
    Full,
    /// An interrupted first copy goes on.
    ResumeFull,
    Incremental {
        base: PointSeq,
    },
    /// At least one disk is compared by digest.
    DigestCompare {
        against: PointSeq,
    },
}

/// Which frozen instant a cycle reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instant {
    /// The one that is still open.
    Open(CheckpointName),
    /// A new one, made for this cycle.
    New,
}

/// What becomes of the partial on the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartialUse {
    None,
    Continue,
    Discard,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CyclePlan {
    pub kind: CycleKind,
    /// Number of the point that this cycle completes.
    pub seq: PointSeq,
    pub parent: Option<PointSeq>,
    pub instant: Instant,
    pub partial: PartialUse,
    pub disks: Vec<DiskPlan>,
    /// Why this and not less, for people.
    pub reason: String,
}

/// Which bytes of a disk a cycle is about, before a watermark narrows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    Everything,
    ChangedSince(CheckpointName),
    /// The disk has grown: what has changed, and everything from the block of its old end on. A bitmap says nothing about bytes that
    /// it did not cover.
    Grown {
        since: CheckpointName,
        /// Bytes.
        from: u64,
    },
    /// Read all, ship what has another digest than the target's parent point.
    Differing,
}

/// Where an interrupted disk goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume {
    /// The scope applies to bytes from here on.
    pub watermark: u64,
    /// Below the watermark, ship what has changed since then; `None` when the instant is the same.
    pub changed_since: Option<CheckpointName>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskPlan {
    pub disk: DiskName,
    /// Bytes.
    pub size: u64,
    pub scope: Scope,
    pub resume: Option<Resume>,
    /// Shipped in any case, wherever the watermark is: an interrupted transfer may be from before the damage was found.
    pub damaged: RangeSet,
}

/// Block-aligned bytes of one disk. A range that reads as zeros is shipped as zeros, not skipped: it may cover something.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Work {
    pub ship: RangeSet,
    /// To be read, digested, and shipped where the digest is another than the target's.
    pub compare: RangeSet,
}

impl DiskPlan {
    /// The one checkpoint whose bitmap the backup has to export for this disk.
    pub fn bitmap(&self) -> Option<&CheckpointName> {
        match (&self.scope, &self.resume) {
            (Scope::ChangedSince(name) | Scope::Grown { since: name, .. }, _) => Some(name),
            (_, Some(resume)) => resume.changed_since.as_ref(),
            _ => None,
        }
    }

    /// The extents, given the dirty extents since [`Self::bitmap`] (ignored when there is none). Ship in ascending order:
    /// the target's watermark is the highest byte it has received.
    pub fn work(&self, changed: &RangeSet) -> Work {
        let all = RangeSet::span(0, self.size);
        let changed = changed.intersection(&all).to_blocks(self.size);
        let mark = self.resume.as_ref().map_or(0, |r| r.watermark / BLOCK_SIZE * BLOCK_SIZE);
        let beyond = RangeSet::span(mark, self.size);
        let below = match &self.resume {
            Some(Resume { changed_since: Some(_), .. }) => changed.intersection(&RangeSet::span(0, mark)),
            _ => RangeSet::new(),
        };
        let (ship, compare) = match &self.scope {
            Scope::Everything => (below.union(&beyond), RangeSet::new()),
            Scope::ChangedSince(_) => (changed.intersection(&beyond), RangeSet::new()),
            Scope::Grown { from, .. } => {
                let added = RangeSet::span(from / BLOCK_SIZE * BLOCK_SIZE, self.size);
                (changed.union(&added).intersection(&beyond), RangeSet::new())
            }
            Scope::Differing => (below, beyond),
        };
        let damaged = self.damaged.intersection(&all).to_blocks(self.size);
        Work { ship: ship.union(&damaged), compare: compare.difference(&damaged) }
    }
}

/// Plans the next cycle. Never fails: with nothing to build on, everything is shipped.
pub fn plan(target: &TargetFacts, source: &SourceFacts) -> CyclePlan {
    let mut reasons = Vec::new();
    let scopes: BTreeMap<&DiskName, Scope> = source
        .disks
        .iter()
        .map(|(disk, size)| (disk, scope(target, source, disk, *size, &mut reasons)))
        .collect();
    let usable = target.partial.as_ref().filter(|p| continues(p, target, source, &scopes, &mut reasons));
    let same_instant = usable.filter(|p| source.open.as_ref() == Some(&p.since));
    let disks: Vec<DiskPlan> = scopes
        .into_iter()
        .map(|(disk, scope)| DiskPlan {
            disk: disk.clone(),
            size: source.disks[disk],
            scope,
            resume: usable.and_then(|p| resume(p, source, disk, same_instant.is_some(), &mut reasons)),
            damaged: damaged(target, disk, &mut reasons),
        })
        .collect();
    let partial = match (&target.partial, usable) {
        (None, _) => PartialUse::None,
        (Some(_), Some(_)) => PartialUse::Continue,
        (Some(_), None) => PartialUse::Discard,
    };
    let kind = kind(target, &disks, usable.is_some());
    CyclePlan {
        kind,
        seq: usable.map_or_else(|| next_seq(target, source), |p| p.seq),
        parent: target.has.seq(),
        instant: same_instant.map_or(Instant::New, |p| Instant::Open(p.since.clone())),
        partial,
        disks,
        reason: if reasons.is_empty() { default_reason(kind) } else { reasons.join("; ") },
    }
}

/// Sequence numbers are never used again, not even one of a partial that is thrown away.
fn next_seq(target: &TargetFacts, source: &SourceFacts) -> PointSeq {
    let partial = target.partial.as_ref().map(|p| p.seq);
    let known = [target.has.seq(), partial, target.highest_seq, source.highest_seq];
    known.into_iter().flatten().max().map_or(PointSeq::new(1), PointSeq::next)
}

fn damaged(target: &TargetFacts, disk: &DiskName, reasons: &mut Vec<String>) -> RangeSet {
    let damaged = target.damaged.get(disk).cloned().unwrap_or_default();
    if !damaged.is_empty() {
        reasons.push(format!("{disk}: {} blocks at the target are damaged", damaged.blocks().count()));
    }
    damaged
}

fn scope(
    target: &TargetFacts,
    source: &SourceFacts,
    disk: &DiskName,
    size: u64,
    reasons: &mut Vec<String>,
) -> Scope {
    let Some(there) = target.has.disks().get(disk).copied() else {
        if target.has != TargetHas::Nothing {
            reasons.push(format!("{disk}: the disk is new"));
        }
        return Scope::Everything;
    };
    if there != size {
        reasons.push(format!("{disk}: the disk's size has changed from {there} to {size} bytes"));
    }
    if there > size {
        // It is not stacked on its former self, so there is nothing to compare with.
        return Scope::Everything;
    }
    match &target.has {
        TargetHas::Point { checkpoint, .. } => match source.tracks(disk, checkpoint) {
            Ok(()) if there < size => Scope::Grown { since: checkpoint.clone(), from: there },
            Ok(()) => Scope::ChangedSince(checkpoint.clone()),
            Err(why) => {
                reasons.push(why);
                Scope::Differing
            }
        },
        TargetHas::Base { .. } | TargetHas::Nothing => Scope::Differing,
    }
}

/// Whether the partial can be built on at all. Only a partial that will be overwritten wherever it may be stale can.
fn continues(
    partial: &Partial,
    target: &TargetFacts,
    source: &SourceFacts,
    scopes: &BTreeMap<&DiskName, Scope>,
    reasons: &mut Vec<String>,
) -> bool {
    let disks: BTreeMap<DiskName, u64> = partial.disks.iter().map(|(n, d)| (n.clone(), d.size)).collect();
    if disks != source.disks || partial.parent != target.has.seq() {
        reasons.push("the interrupted transfer was of other disks or onto another point".to_owned());
        return false;
    }
    if source.open.as_ref() == Some(&partial.since) {
        return true;
    }
    // With the instant gone, the part below the watermark is only as good as the tracking since then. Without it, a disk
    // that ships everything overwrites all of it; any other disk would leave stale blocks behind.
    let sound = scopes.iter().all(|(disk, scope)| match scope {
        Scope::Everything => true,
        Scope::ChangedSince(_) | Scope::Grown { .. } => false,
        Scope::Differing => source.tracks(disk, &partial.since).is_ok(),
    });
    if !sound {
        reasons
            .push(format!("the instant {} is gone, so its interrupted transfer is discarded", partial.since));
    }
    sound
}

fn resume(
    partial: &Partial,
    source: &SourceFacts,
    disk: &DiskName,
    same_instant: bool,
    reasons: &mut Vec<String>,
) -> Option<Resume> {
    let watermark = partial.disks.get(disk)?.watermark;
    if same_instant {
        return Some(Resume { watermark, changed_since: None });
    }
    match source.tracks(disk, &partial.since) {
        Ok(()) => Some(Resume { watermark, changed_since: Some(partial.since.clone()) }),
        Err(why) => {
            reasons.push(why);
            None
        }
    }
}

fn kind(target: &TargetFacts, disks: &[DiskPlan], resumed: bool) -> CycleKind {
    let compared = disks.iter().any(|d| d.scope == Scope::Differing);
    match target.has.seq() {
        None if resumed => CycleKind::ResumeFull,
        None => CycleKind::Full,
        Some(against) if compared => CycleKind::DigestCompare { against },
        Some(base) => CycleKind::Incremental { base },
    }
}

fn default_reason(kind: CycleKind) -> String {
    match kind {
        CycleKind::Full => "the target has nothing of this item".to_owned(),
        CycleKind::ResumeFull => "the first copy was interrupted and goes on at its watermark".to_owned(),
        CycleKind::Incremental { base } => format!("point {base} is complete on the target and tracked here"),
        CycleKind::DigestCompare { against } => {
            format!("the target's base {against} is of unknown relation to this disk")
        }
    }
}

/// The checkpoints that the source may delete, now that the target says `target`: those that nothing there refers to and
/// that are not the open instant. Deleting one early would cost a digest comparison; keeping one costs the hypervisor a
/// bitmap.
pub fn obsolete<'a>(
    target: &TargetFacts,
    known: impl IntoIterator<Item = &'a CheckpointName>,
    open: Option<&CheckpointName>,
) -> Vec<CheckpointName> {
    let point = target.has.checkpoint();
    let partial = target.partial.as_ref().map(|p| &p.since);
    let needed = |name: &CheckpointName| [point, partial, open].contains(&Some(name));
    known.into_iter().filter(|name| !needed(name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use understudy_ids::ByteRange;

    const SIZE: u64 = 8 * BLOCK_SIZE;

    fn name(text: &str) -> DiskName {
        text.parse().unwrap_or_else(|e| panic!("{e}"))
    }

    fn cp(text: &str) -> CheckpointName {
        CheckpointName::new(text)
    }

    fn sizes() -> BTreeMap<DiskName, u64> {
        [(name("vda"), SIZE), (name("vdb"), SIZE)].into()
    }

    fn point() -> TargetHas {
        TargetHas::Point { seq: PointSeq::new(7), checkpoint: cp("c7"), disks: sizes() }
    }

    fn partial(parent: Option<u64>) -> Partial {
        let disk = PartialDisk { size: SIZE, watermark: 3 * BLOCK_SIZE };
        let disks = sizes().into_keys().map(|n| (n, disk)).collect();
        Partial { seq: PointSeq::new(8), parent: parent.map(PointSeq::new), since: cp("c8"), disks }
    }

    fn source(checkpoints: &[(&str, Tracking, Tracking)], open: Option<&str>) -> SourceFacts {
        let disks = |a, b| [(name("vda"), a), (name("vdb"), b)].into();
        let checkpoints = checkpoints.iter().map(|(c, a, b)| (cp(c), disks(*a, *b))).collect();
        SourceFacts { disks: sizes(), checkpoints, open: open.map(cp), highest_seq: None }
    }

    fn blocks(set: &RangeSet) -> Vec<u64> {
        set.blocks().collect()
    }

    fn dirty(blocks: &[u64]) -> RangeSet {
        blocks.iter().map(|b| ByteRange::new(b * BLOCK_SIZE + 1, b * BLOCK_SIZE + 2)).collect()
    }

    #[test]
    fn r_rep_2_a_known_point_costs_its_changes_and_nothing_costs_everything() {
        use Tracking::Usable;
        let nothing = TargetFacts::of(TargetHas::Nothing);
        let full = plan(&nothing, &source(&[], None));
        assert_eq!((full.kind, full.seq), (CycleKind::Full, PointSeq::new(1)));
        assert_eq!(blocks(&full.disks[0].work(&RangeSet::new()).ship), (0..8).collect::<Vec<_>>());

        let next = plan(&TargetFacts::of(point()), &source(&[("c7", Usable, Usable)], None));
        assert_eq!(next.kind, CycleKind::Incremental { base: PointSeq::new(7) });
        assert_eq!((next.seq, next.parent), (PointSeq::new(8), Some(PointSeq::new(7))));
        assert_eq!(next.disks[0].bitmap(), Some(&cp("c7")));
        let work = next.disks[0].work(&dirty(&[2, 5]));
        assert_eq!((blocks(&work.ship), work.compare.is_empty()), (vec![2, 5], true));
    }

    #[test]
    fn r_rep_7_an_inconsistent_bitmap_costs_a_comparison_of_that_disk_only() {
        use Tracking::{Inconsistent, Usable};
        let facts = TargetFacts::of(point());
        let planned = plan(&facts, &source(&[("c7", Usable, Inconsistent)], None));
        assert_eq!(planned.kind, CycleKind::DigestCompare { against: PointSeq::new(7) });
        assert_eq!(planned.disks[0].scope, Scope::ChangedSince(cp("c7")));
        assert_eq!(planned.disks[1].scope, Scope::Differing);
        assert_eq!(planned.reason, "vdb: change tracking since c7 is inconsistent");
    }

    #[test]
    fn r_rep_6_a_first_copy_goes_on_at_its_watermark() {
        use Tracking::Usable;
        let facts = TargetFacts { partial: Some(partial(None)), ..TargetFacts::of(TargetHas::Nothing) };
        let same = plan(&facts, &source(&[("c8", Usable, Usable)], Some("c8")));
        assert_eq!((same.kind, same.partial), (CycleKind::ResumeFull, PartialUse::Continue));
        assert_eq!(same.instant, Instant::Open(cp("c8")));
        assert_eq!(blocks(&same.disks[0].work(&dirty(&[1])).ship), [3, 4, 5, 6, 7]);

        let later = plan(&facts, &source(&[("c8", Usable, Usable)], None));
        assert_eq!((later.kind, later.seq), (CycleKind::ResumeFull, PointSeq::new(8)));
        assert_eq!(later.instant, Instant::New);
        assert_eq!(later.disks[0].bitmap(), Some(&cp("c8")));
        assert_eq!(blocks(&later.disks[0].work(&dirty(&[1, 5])).ship), [1, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn r_rep_6_a_partial_whose_instant_is_gone_is_not_built_upon_blindly() {
        use Tracking::{Inconsistent, Usable};
        let facts = TargetFacts { partial: Some(partial(Some(7))), ..TargetFacts::of(point()) };
        let checkpoints = [("c7", Usable, Usable), ("c8", Usable, Usable)];
        let planned = plan(&facts, &source(&checkpoints, None));
        assert_eq!((planned.partial, planned.seq), (PartialUse::Discard, PointSeq::new(9)));
        assert_eq!(blocks(&planned.disks[0].work(&dirty(&[1, 5])).ship), [1, 5]);
        let planned = plan(&facts, &source(&checkpoints, Some("c8")));
        assert_eq!((planned.partial, planned.seq), (PartialUse::Continue, PointSeq::new(8)));
        assert_eq!(blocks(&planned.disks[0].work(&dirty(&[1, 5])).ship), [5]);

        let facts = TargetFacts { partial: Some(partial(None)), ..TargetFacts::of(TargetHas::Nothing) };
        let planned = plan(&facts, &source(&[("c8", Usable, Inconsistent)], None));
        assert_eq!(planned.partial, PartialUse::Continue);
        assert_eq!(blocks(&planned.disks[1].work(&RangeSet::new()).ship), (0..8).collect::<Vec<_>>());
    }

    #[test]
    fn r_rep_8_disks_that_are_new_or_have_another_size_are_planned_for() {
        use Tracking::Usable;
        let disks = [(name("vda"), SIZE - BLOCK_SIZE), (name("vdc"), SIZE)].into();
        let has = TargetHas::Point { seq: PointSeq::new(7), checkpoint: cp("c7"), disks };
        let planned = plan(&TargetFacts::of(has), &source(&[("c7", Usable, Usable)], None));
        // What has changed, and from the block on that the old end lies in.
        assert_eq!(planned.disks[0].scope, Scope::Grown { since: cp("c7"), from: SIZE - BLOCK_SIZE });
        assert_eq!(blocks(&planned.disks[0].work(&dirty(&[2])).ship), [2, 7]);
        assert_eq!(planned.disks[1].scope, Scope::Everything);
        assert!(planned.reason.contains("vdb: the disk is new"), "{}", planned.reason);
        assert_eq!(planned.kind, CycleKind::Incremental { base: PointSeq::new(7) });

        // Without tracking it is compared, as any other disk.
        let disks = [(name("vda"), SIZE - 1), (name("vdb"), SIZE)].into();
        let has = TargetHas::Point { seq: PointSeq::new(7), checkpoint: cp("c7"), disks };
        let lost = plan(&TargetFacts::of(has), &source(&[], None));
        assert_eq!(lost.disks[0].scope, Scope::Differing);
    }

    #[test]
    fn r_rep_5_what_is_damaged_at_the_target_is_shipped_whatever_else_is() {
        use Tracking::Usable;
        let damaged: BTreeMap<DiskName, RangeSet> = [(name("vda"), dirty(&[0, 6]))].into();
        let facts = TargetFacts { damaged: damaged.clone(), ..TargetFacts::of(point()) };
        let planned = plan(&facts, &source(&[("c7", Usable, Usable)], None));
        assert_eq!(planned.kind, CycleKind::Incremental { base: PointSeq::new(7) });
        assert_eq!(blocks(&planned.disks[0].work(&dirty(&[2])).ship), [0, 2, 6]);
        assert_eq!(blocks(&planned.disks[1].work(&dirty(&[2])).ship), [2]);
        assert_eq!(planned.reason, "vda: 2 blocks at the target are damaged");

        // Not compared: the digests that the target has are not those of what lies there.
        let lost = plan(&facts, &source(&[], None)).disks[0].work(&RangeSet::new());
        assert_eq!((blocks(&lost.ship), blocks(&lost.compare)), (vec![0, 6], vec![1, 2, 3, 4, 5, 7]));

        // Below the watermark too.
        let facts = TargetFacts { partial: Some(partial(Some(7))), ..facts };
        let planned = plan(&facts, &source(&[("c7", Usable, Usable)], Some("c8")));
        assert_eq!(planned.partial, PartialUse::Continue);
        assert_eq!(blocks(&planned.disks[0].work(&dirty(&[1, 5])).ship), [0, 5, 6]);
    }

    #[test]
    fn r_rep_5_a_full_copy_beside_points_that_nothing_can_be_built_upon_has_a_number_of_its_own() {
        let facts =
            TargetFacts { highest_seq: Some(PointSeq::new(7)), ..TargetFacts::of(TargetHas::Nothing) };
        let planned = plan(&facts, &source(&[], None));
        assert_eq!((planned.kind, planned.seq, planned.parent), (CycleKind::Full, PointSeq::new(8), None));
    }

    #[test]
    fn r_rep_6_a_checkpoint_is_obsolete_only_when_nothing_on_the_target_refers_to_it() {
        let known = [cp("c6"), cp("c7"), cp("c8"), cp("c9"), cp("c10")];
        let facts = TargetFacts { partial: Some(partial(Some(7))), ..TargetFacts::of(point()) };
        assert_eq!(obsolete(&facts, &known, Some(&cp("c10"))), [cp("c6"), cp("c9")]);
    }
}
