//! What the store promises when nothing fails but its callers.

use std::{collections::BTreeMap, process::Command, time::Duration};

use crate::support::*;
use understudy_ids::{UnixMicros, Uuid};
use understudy_replica_store::{
    Adopt, AdoptDisk, Begin, DiskFormat, DiskSpec, Pin, PointKind, Role, Store, StoreError,
};
use understudy_replication::{
    cycle::{CheckpointName, TargetHas},
    digest::BlockDigest,
    retention::{RetentionPolicy, Tier, expired},
};

struct Lab {
    _dir: tempfile::TempDir,
    store: Store,
    now: Disks,
    model: BTreeMap<u64, Disks>,
    random: Random,
}

impl Lab {
    fn new(points: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let now = [(disk("vda"), vec![0; 30 << 16]), (disk("vdb"), vec![0; (7 << 16) + 512])].into();
        let mut lab = Self { _dir: dir, store, now, model: BTreeMap::new(), random: Random(3) };
        for number in 1..=points {
            lab.point(number, (number > 1).then(|| number - 1));
        }
        lab
    }

    fn point(&mut self, number: u64, parent: Option<u64>) {
        let before = self.now.clone();
        mutate(&mut self.now, &mut self.random, 5);
        receive(&self.store, number, parent, &before, &self.now).unwrap();
        self.model.insert(number, self.now.clone());
    }

    /// As after the end of the process that had it open.
    fn reopened(self) -> Self {
        let Self { _dir, store, now, model, random } = self;
        let root = store.root().to_owned();
        drop(store);
        Self { _dir, store: Store::open(&root).unwrap(), now, model, random }
    }

    fn listed(&self) -> Vec<u64> {
        self.store.points(&item()).unwrap().iter().map(|p| p.manifest.seq.get()).collect()
    }

    fn qemu_write(&self, path: &std::path::Path, command: &str) {
        let done = Command::new("qemu-io").args(["-f", "qcow2", "-c", command]).arg(path).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    }
}

#[test]
fn r_rep_5_a_point_is_seen_only_when_its_roots_are_the_sources() {
    let lab = Lab::new(1);
    let mut now = lab.now.clone();
    mutate(&mut now, &mut Random(8), 5);
    let mut writer = lab.store.begin(begin(2, Some(1), &now)).unwrap();
    send(&mut writer, &lab.now, &now, 0, u64::MAX).unwrap();
    assert_eq!(lab.listed(), [1]);
    let mut wrong = roots(&now);
    wrong.insert(disk("vdb"), BlockDigest::of(b"no"));
    let error = writer.finish(&wrong, UnixMicros::new(1)).unwrap_err();
    assert!(matches!(error, StoreError::RootMismatch { .. }), "{error}");
    assert_eq!(lab.listed(), [1]);
    assert_eq!(lab.store.partial(&item()).unwrap(), None);
}

#[test]
fn r_rep_5_a_block_is_checked_on_arrival_and_must_lie_on_the_disk() {
    let lab = Lab::new(1);
    let mut writer = lab.store.begin(begin(2, Some(1), &lab.now)).unwrap();
    let vda = disk("vda");
    let block = [1; 65536];
    let refused = writer.write_blocks(&vda, 0, &block, &[BlockDigest::of(&[2])]).unwrap_err();
    assert!(matches!(refused, StoreError::DigestMismatch { block: 0, .. }));
    let digest = BlockDigest::of(&block);
    for (at, content) in [(30, &block[..]), (u64::MAX, &block), (0, &block[1..])] {
        let refused = writer.write_blocks(&vda, at, content, &[digest]).unwrap_err();
        assert!(matches!(refused, StoreError::OutOfRange { .. }), "{refused}");
    }
    assert!(matches!(writer.write_zero(&vda, 5, 31), Err(StoreError::OutOfRange { .. })));
    assert!(matches!(writer.write_zero(&disk("sda"), 0, 1), Err(StoreError::NoDisk { .. })));
    let disks = |sizes: &[u64]| sizes.iter().map(|s| DiskSpec { name: disk("vda"), size: *s }).collect();
    for sizes in [&[512u64, 512][..], &[0], &[513], &[1 << 63]] {
        let begin = Begin { item: "other".parse().unwrap(), disks: disks(sizes), ..begin(1, None, &NONE) };
        assert!(matches!(lab.store.begin(begin), Err(StoreError::InvalidDisk { .. })), "{sizes:?}");
    }
    // None of it spoilt the transfer.
    writer.finish(&roots(&lab.now), UnixMicros::new(1)).unwrap();
}

#[test]
fn r_fo_7_a_lower_generation_is_refused_everywhere_and_after_a_restart() {
    let lab = Lab::new(2);
    let writer = lab.store.begin(begin(3, Some(2), &lab.now)).unwrap();
    lab.store.record_generation(&item(), generation(5), Role::Standby).unwrap();
    let late = writer.finish(&roots(&lab.now), UnixMicros::new(1)).unwrap_err();
    assert!(matches!(late, StoreError::StaleGeneration { .. }), "{late}");
    let lab = lab.reopened();
    let stale = |e: StoreError| match e {
        StoreError::StaleGeneration { seen, offered, .. } => (seen.get(), offered.get()) == (5, 1),
        _ => false,
    };
    assert!(stale(lab.store.begin(begin(3, Some(2), &lab.now)).unwrap_err()));
    assert!(stale(lab.store.promote(&item(), seq(2), generation(1)).unwrap_err()));
    assert!(stale(lab.store.commit(&item(), generation(1)).unwrap_err()));
    assert!(stale(lab.store.record_generation(&item(), generation(1), Role::Active).unwrap_err()));
    assert_eq!(lab.listed(), [1, 2]);
    let ok = Begin { generation: generation(6), ..begin(3, Some(2), &lab.now) };
    drop(lab.store.begin(ok).unwrap());
    assert_eq!(lab.store.generation(&item()).unwrap().unwrap().highest, generation(6));
}

#[test]
fn r_rep_6_an_interrupted_transfer_goes_on_at_its_watermark_after_a_restart_and_at_a_later_instant() {
    let mut lab = Lab::new(0);
    mutate(&mut lab.now, &mut lab.random, 40);
    let first = lab.now.clone();
    let mut writer = lab.store.begin(begin(1, None, &first)).unwrap();
    assert!(matches!(lab.store.begin(begin(1, None, &first)), Err(StoreError::Busy(_))));
    send(&mut writer, &NONE, &first, 0, 20).unwrap();
    let marks = writer.sync().unwrap();
    send(&mut writer, &NONE, &first, 20, 25).unwrap();
    drop(writer);

    let Lab { _dir, store, mut now, mut random, .. } = lab.reopened();
    let partial = store.partial(&item()).unwrap().unwrap();
    assert_eq!(partial.since, CheckpointName::new("cp1"));
    assert!(partial.disks.iter().all(|(name, d)| d.watermark == marks[name]));
    let mark = partial.disks[&disk("vda")].watermark / 65536;
    assert!(mark > 10, "{mark}");

    // A later instant: what changed below the watermark is sent over what is there, then everything beyond.
    mutate(&mut now, &mut random, 6);
    let later = Begin { checkpoint: CheckpointName::new("cp2"), ..begin(1, None, &now) };
    let mut writer = store.resume(later).unwrap();
    for (name, content) in &now {
        let mark = partial.disks[name].watermark.div_ceil(65536);
        let one: Disks = [(name.clone(), content.clone())].into();
        send(&mut writer, &first, &one, 0, mark).unwrap();
        send(&mut writer, &NONE, &one, mark, u64::MAX).unwrap();
    }
    let manifest = writer.finish(&roots(&now), UnixMicros::new(1)).unwrap();
    assert_eq!(manifest.checkpoint, Some(CheckpointName::new("cp2")));
    assert_points(&store, &[(1, now.clone())].into(), true);
    assert!(matches!(store.resume(begin(2, Some(1), &now)), Err(StoreError::NoPartial(_))));
}

#[test]
fn r_rep_4_retention_merges_and_tests_hold_their_points() {
    let mut lab = Lab::new(6);
    let run = Uuid::from_u128(1);
    let branch = lab.store.branch(&item(), seq(3), run).unwrap();
    assert!(matches!(lab.store.merge_away(&item(), seq(2)), Err(StoreError::Pinned { .. })));
    assert!(matches!(lab.store.merge_away(&item(), seq(6)), Err(StoreError::Pinned { .. })));
    assert_eq!(lab.store.merge_oldest(&item()).unwrap(), None);

    let policy = RetentionPolicy { keep_count: Some(1), ..RetentionPolicy::default() };
    let leaving =
        |lab: &Lab| expired(&lab.store.retention_facts(&item()).unwrap(), &policy, UnixMicros::new(0));
    assert_eq!(leaving(&lab), [seq(4), seq(5)]);
    for point in leaving(&lab) {
        lab.store.merge_away(&item(), point).unwrap();
    }
    assert_eq!(lab.listed(), [1, 2, 3, 6]);
    assert_points(&lab.store, &lab.model, true);
    lab.qemu_write(&branch[0].path, "write -P 7 0 128k");

    // Replication goes on beside the test.
    lab.point(7, Some(6));
    assert_eq!(lab.store.branch(&item(), seq(3), run).unwrap(), branch);
    assert!(matches!(lab.store.branch(&item(), seq(6), run), Err(StoreError::OtherBranch { .. })));
    assert_eq!(lab.store.point(&item(), seq(3)).unwrap().pins, [Pin::Branch(run)]);
    assert!(matches!(lab.store.remove_item(&item()), Err(StoreError::Pinned { .. })));
    for _ in 0..2 {
        lab.store.drop_branch(&item(), run).unwrap();
    }
    assert!(!branch[0].path.exists());
    for point in leaving(&lab) {
        lab.store.merge_away(&item(), point).unwrap();
    }
    assert_eq!(lab.listed(), [7]);
    assert_points(&lab.store, &lab.model, true);
    let lab = lab.reopened();
    assert_points(&lab.store, &lab.model, true);
}

/// R-REP-4: what tiers thin out is merged, and what they keep is whole.
#[test]
fn r_rep_4_tiers_thin_out_a_real_chain() {
    let lab = Lab::new(12);
    // Points of the lab are a microsecond apart.
    let tier = Tier { every: Duration::from_micros(4), age: Duration::from_micros(100) };
    let policy = RetentionPolicy { keep_count: Some(2), keep_age: None, tiers: vec![tier] };
    let facts = lab.store.retention_facts(&item()).unwrap();
    for point in expired(&facts, &policy, UnixMicros::new(100)) {
        lab.store.merge_away(&item(), point).unwrap();
    }
    assert_eq!(lab.listed(), [1, 4, 8, 11, 12]);
    assert_points(&lab.store, &lab.model, true);
}

#[test]
fn r_rep_4_and_8_a_disk_that_grew_or_came_is_merged_as_well() {
    let mut lab = Lab::new(2);
    let before = lab.now.clone();
    lab.now.get_mut(&disk("vdb")).unwrap().resize(40 << 16, 3);
    lab.now.insert(disk("vdc"), vec![4; 3 << 16]);
    receive(&lab.store, 3, Some(2), &before, &lab.now).unwrap();
    lab.model.insert(3, lab.now.clone());
    lab.point(4, Some(3));
    assert_points(&lab.store, &lab.model, true);
    for left in [vec![2, 3, 4], vec![3, 4], vec![4]] {
        lab.store.merge_oldest(&item()).unwrap().unwrap();
        assert_eq!(lab.listed(), left);
        assert_points(&lab.store, &lab.model, true);
    }
}

#[test]
fn r_fo_4_promote_commit_and_reverse_replication_from_what_the_machine_left() {
    let mut lab = Lab::new(4);
    let files = lab.store.promote(&item(), seq(3), generation(2)).unwrap();
    assert_eq!(lab.store.promote(&item(), seq(3), generation(2)).unwrap(), files);
    let other = lab.store.promote(&item(), seq(4), generation(2)).unwrap_err();
    assert!(matches!(other, StoreError::OtherPromotion { .. }), "{other}");
    lab.qemu_write(&files[0].path, "write -P 9 65536 100000");
    lab.store.commit(&item(), generation(2)).unwrap();
    assert_eq!(lab.listed(), [1, 2, 3]);
    assert!(lab.store.recovery_points(&item()).unwrap().is_empty());

    // The other side takes over again at generation 3, and this side's disks become the base of what it will receive.
    let disks = files.iter().map(|f| AdoptDisk {
        name: f.disk.clone(),
        path: f.path.clone(),
        format: DiskFormat::Qcow2,
    });
    let adopt = Adopt {
        item: item(),
        generation: generation(3),
        seq: seq(9),
        disks: disks.collect(),
        machine: serde_json::Value::Null,
        now: UnixMicros::new(5),
    };
    let base = lab.store.adopt(&adopt).unwrap();
    assert_eq!(lab.store.adopt(&adopt).unwrap(), base);
    assert_eq!((base.kind, base.parent), (PointKind::Base, Some(seq(3))));
    assert!(matches!(lab.store.target_facts(&item()).unwrap().has, TargetHas::Base { .. }));
    let mut left = lab.model[&3].clone();
    left.get_mut(&disk("vda")).unwrap()[65536..165536].fill(9);
    lab.model.insert(9, left.clone());
    lab.now = left;
    assert_points(&lab.store, &lab.model, true);

    let before = lab.now.clone();
    mutate(&mut lab.now, &mut lab.random, 5);
    let mut writer =
        lab.store.begin(Begin { generation: generation(3), ..begin(10, Some(9), &lab.now) }).unwrap();
    send(&mut writer, &before, &lab.now, 0, u64::MAX).unwrap();
    writer.finish(&roots(&lab.now), UnixMicros::new(6)).unwrap();
    lab.model.insert(10, lab.now.clone());
    while lab.store.merge_oldest(&item()).unwrap().is_some() {
        assert_points(&lab.store, &lab.model, true);
    }
    assert_eq!(lab.listed(), [10]);
}

/// R-FO-4, R-REP-4: what lies aside holds its point like a machine that runs, is replaced by what is laid aside later, and goes with the commit,
/// as promotions of earlier generations do that were never made final.
#[test]
fn r_fo_4_what_lies_aside_is_held_until_it_is_dropped_or_committed() {
    let lab = Lab::new(3);
    let (item, of) = (item(), generation(3));
    lab.store.promote(&item, seq(1), generation(2)).unwrap();
    lab.store.promote(&item, seq(2), of).unwrap();
    lab.store.set_aside(&item, seq(2), of).unwrap();
    assert!(matches!(lab.store.set_aside(&item, seq(3), of), Err(StoreError::NotPromoted { .. })));
    lab.store.promote(&item, seq(3), of).unwrap();
    let pinned = lab.store.points(&item).unwrap().into_iter().filter(|p| !p.pins.is_empty());
    assert_eq!(pinned.map(|p| p.manifest.seq.get()).collect::<Vec<_>>(), [1, 2, 3]);
    lab.store.set_aside(&item, seq(3), of).unwrap();
    assert!(!lab.store.take_back(&item, seq(2), of).unwrap(), "it was given up for the later one");
    lab.store.promote(&item, seq(1), of).unwrap();
    lab.store.commit(&item, of).unwrap();
    assert_eq!(lab.listed(), [1]);
    let left =
        |what: &str| std::fs::read_dir(lab._dir.path().join("store/items/web1").join(what)).unwrap().count();
    assert_eq!((left("aside"), left("active")), (0, 1));
    lab.store.drop_aside(&item, of).unwrap();
}

#[test]
fn r_rep_7_a_foreign_disk_is_adopted_without_copying_or_touching_it() {
    let lab = Lab::new(0);
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("guest.raw");
    let mut now: Disks = [(disk("vda"), vec![0; 20 << 16])].into();
    mutate(&mut now, &mut Random(21), 30);
    std::fs::write(&raw, &now[&disk("vda")]).unwrap();
    let stamp = std::fs::metadata(&raw).unwrap().modified().unwrap();
    let disks = vec![AdoptDisk { name: disk("vda"), path: raw.clone(), format: DiskFormat::Raw }];
    let (machine, now_at) = (serde_json::Value::Null, UnixMicros::new(1));
    let adopt = Adopt { item: item(), generation: generation(2), seq: seq(5), disks, machine, now: now_at };
    let base = lab.store.adopt(&adopt).unwrap();
    assert!(base.disks[0].stored_bytes < 10 << 16);
    let mut model: BTreeMap<u64, Disks> = [(5, now.clone())].into();
    assert_points(&lab.store, &model, true);

    let before = now.clone();
    mutate(&mut now, &mut Random(22), 6);
    let mut writer = lab.store.begin(Begin { generation: generation(2), ..begin(6, Some(5), &now) }).unwrap();
    send(&mut writer, &before, &now, 0, u64::MAX).unwrap();
    writer.finish(&roots(&now), UnixMicros::new(2)).unwrap();
    model.insert(6, now);
    assert_points(&lab.store, &model, true);
    assert_eq!(lab.store.merge_oldest(&item()).unwrap(), Some(seq(5)));
    assert_points(&lab.store, &model, true);
    assert_eq!(std::fs::metadata(&raw).unwrap().modified().unwrap(), stamp);
    assert!(std::fs::read(&raw).unwrap() == before[&disk("vda")]);
}

#[test]
fn r_rep_5_a_scrub_finds_a_flipped_bit_and_the_point_is_not_offered() {
    let lab = Lab::new(2);
    assert_eq!(lab.store.scrub(&item(), seq(2)).unwrap().total(), 0);
    let vda = disk("vda");
    let path = lab.store.disk_path(&item(), seq(2), &vda).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[65536 + 100] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let damage = lab.store.scrub(&item(), seq(2)).unwrap();
    assert_eq!((damage.total(), damage.disks.keys().collect::<Vec<_>>()), (1, vec![&vda]));
    assert_eq!(lab.store.latest(&item()).unwrap().unwrap().manifest.seq, seq(1));
    assert!(matches!(lab.store.promote(&item(), seq(2), generation(2)), Err(StoreError::Damaged { .. })));
    let facts = lab.store.target_facts(&item()).unwrap();
    assert!(matches!(facts.has, TargetHas::Point { .. }));
    assert_eq!(facts.damaged[&vda], damage.disks[&vda]);
    // Whole again, offered again.
    bytes[65536 + 100] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(lab.store.scrub(&item(), seq(2)).unwrap().total(), 0);
    assert_eq!(lab.store.latest(&item()).unwrap().unwrap().manifest.seq, seq(2));
}

#[test]
fn r_rep_5_garbage_in_the_store_is_passed_over_and_what_may_be_data_stays() {
    let lab = Lab::new(3);
    let points = lab.store.root().join("items/web1/points");
    for garbage in
        ["items/Not A Name", "items/web1/points/007", "items/web1/points/9", "items/web1/branches/x"]
    {
        std::fs::create_dir_all(lab.store.root().join(garbage)).unwrap();
    }
    std::fs::write(points.join("9/disk-vda.qcow2"), b"half").unwrap();
    std::fs::create_dir_all(lab.store.root().join("items/web1/incoming/point")).unwrap();
    let lab = lab.reopened();
    let store = &lab.store;
    assert_eq!(store.items().unwrap(), [item()]);
    assert_points(store, &lab.model, false);
    assert!(!points.join("9").exists() && points.join("007").exists());
    assert!(!lab.store.root().join("items/web1/incoming").exists());

    // A manifest that cannot be read hides its point; nothing that might stand on it, or it on, is removed.
    std::fs::write(points.join("2/manifest.json"), b"{").unwrap();
    let lab = lab.reopened();
    let store = &lab.store;
    assert_eq!(store.points(&item()).unwrap().len(), 2);
    assert!(matches!(store.merge_away(&item(), seq(1)), Err(StoreError::Record { .. })));
    assert!(points.join("1/disk-vda.qcow2").exists() && points.join("2/disk-vda.qcow2").exists());
}

#[test]
fn a_store_can_be_moved_and_a_huge_disk_costs_what_is_written() {
    let lab = Lab::new(3);
    let moved = lab.store.root().with_file_name("elsewhere");
    std::fs::rename(lab.store.root(), &moved).unwrap();
    let Lab { _dir, store, model, .. } = lab;
    drop(store);
    let store = Store::open(&moved).unwrap();
    assert_points(&store, &model, true);

    let huge = Begin { item: "huge".parse().unwrap(), ..begin(1, None, &NONE) };
    let (name, blocks) = (disk("vda"), (4u64 << 40) / 65536);
    let huge = Begin { disks: vec![DiskSpec { name: name.clone(), size: 4 << 40 }], ..huge };
    let mut tree = understudy_replication::digest::DigestTree::new(4 << 40);
    let content = [7; 65536];
    let started = std::time::Instant::now();
    let mut writer = store.begin(huge.clone()).unwrap();
    for block in [0, blocks / 2, blocks - 1] {
        tree.set(block, BlockDigest::of(&content));
        writer.write_blocks(&name, block, &content, &[BlockDigest::of(&content)]).unwrap();
    }
    writer.write_zero(&name, 1, blocks / 2).unwrap();
    writer.finish(&[(name.clone(), tree.root())].into(), UnixMicros::new(1)).unwrap();
    let run = Uuid::from_u128(5);
    let branch = store.branch(&huge.item, seq(1), run).unwrap();
    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
    check(&branch[0].path);
    let usage = store.usage(&huge.item).unwrap();
    assert!(usage.points[&seq(1)] < 2 << 20 && usage.overlays < 1 << 20, "{usage:?}");
    assert!(store.space().unwrap().available > 0);
    store.drop_branch(&huge.item, run).unwrap();
    store.remove_item(&huge.item).unwrap();
    assert_eq!(store.items().unwrap(), [item()]);
}
