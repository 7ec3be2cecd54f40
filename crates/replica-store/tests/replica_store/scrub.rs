//! What a scrub finds, whom it tells, and that it neither loses its place nor takes a merge for damage (R-REP-5).

use std::{
    collections::BTreeMap,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use crate::support::*;
use understudy_ids::UnixMicros;
use understudy_replica_store::{Findings, Store, StoreReader, qcow2::Chain};
use understudy_replication::extents::BLOCK_SIZE;

const BLOCKS: u64 = 24;

/// Three points of one disk: the first has every block, the second block 1, the third block 2.
fn three(root: &Path) -> (Store, BTreeMap<u64, Disks>) {
    let store = Store::open(root).unwrap();
    let vda = disk("vda");
    let mut now: Disks = [(vda.clone(), Vec::new())].into();
    for block in 0..BLOCKS {
        now.get_mut(&vda).unwrap().extend(vec![block as u8 + 1; BLOCK_SIZE as usize]);
    }
    let mut model = BTreeMap::new();
    for number in 1..=3u64 {
        let before = now.clone();
        if number > 1 {
            let at = ((number - 1) * BLOCK_SIZE) as usize;
            now.get_mut(&vda).unwrap()[at..at + 9].fill(0x70 + number as u8);
        }
        receive(&store, number, (number > 1).then(|| number - 1), &before, &now).unwrap();
        model.insert(number, now.clone());
    }
    (store, model)
}

fn file(root: &Path, number: u64, name: &str) -> PathBuf {
    root.join(format!("items/web1/points/{number}/{name}"))
}

/// Flips one bit.
pub fn flip(path: &Path, at: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

/// Clusters are in the order in which they arrived, behind the header.
fn flip_block(root: &Path, number: u64, place: u64) {
    flip(&file(root, number, "disk-vda.qcow2"), (place + 1) * BLOCK_SIZE + 77);
}

fn damaged(store: &StoreReader) -> Vec<(u64, u64)> {
    store.points(&item()).unwrap().iter().map(|p| (p.manifest.seq.get(), p.damaged_blocks)).collect()
}

fn scrub_all(store: &Store) -> understudy_replica_store::Finished {
    let mut scrub = store.scrub_anew(&item(), None, UnixMicros::new(1));
    while !scrub.step(3 * BLOCK_SIZE).unwrap().done {}
    scrub.finish(UnixMicros::new(2)).unwrap()
}

#[test]
fn r_rep_5_damage_is_noted_with_every_point_that_shows_it_and_with_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = three(dir.path());
    let finished = scrub_all(&store);
    // Each stored block was read once, whatever stands on it.
    assert_eq!((finished.checked_blocks, finished.damaged_points.len()), (BLOCKS + 2, 0));
    for (number, place, shows) in [
        // Block 5 is everybody's, block 1 of the first point is hidden by the second, block 2 is the third's own.
        (1, 5, vec![(1, 1), (2, 1), (3, 1)]),
        (1, 1, vec![(1, 1), (2, 0), (3, 0)]),
        (2, 0, vec![(1, 0), (2, 1), (3, 1)]),
        (3, 0, vec![(1, 0), (2, 0), (3, 1)]),
    ] {
        flip_block(dir.path(), number, place);
        let finished = scrub_all(&store);
        assert_eq!(damaged(&store), shows, "block at {place} of point {number}");
        assert_eq!(finished.damaged_points.len(), shows.iter().filter(|(_, n)| *n > 0).count());
        // Whole again, offered again.
        flip_block(dir.path(), number, place);
        scrub_all(&store);
        assert_eq!(damaged(&store), [(1, 0), (2, 0), (3, 0)]);
    }
}

#[test]
fn r_rep_5_a_broken_table_or_digest_file_is_damage_wherever_it_breaks() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = three(dir.path());
    for name in ["disk-vda.qcow2", "disk-vda.digests"] {
        let path = file(dir.path(), 1, name);
        let whole = std::fs::read(&path).unwrap();
        // Header, L2 and L1 tables with something in them; every fifth byte of the digests.
        let places: Vec<u64> = if name.ends_with("qcow2") {
            let l2 = (BLOCKS + 1) * BLOCK_SIZE;
            vec![0, 5, 24 + 5, 40 + 5, l2 + 5, l2 + 8 * 7 + 5, l2 + BLOCK_SIZE + 5]
        } else {
            (0..whole.len() as u64).step_by(5).collect()
        };
        for at in places {
            flip(&path, at);
            scrub_all(&store);
            let found = damaged(&store);
            assert!(found[0].1 > 0 && found[2].1 > 0, "{name}, byte {at}: {found:?}");
            std::fs::write(&path, &whole).unwrap();
        }
        std::fs::remove_file(&path).unwrap();
        scrub_all(&store);
        assert!(damaged(&store).iter().all(|(_, blocks)| *blocks > 0));
        std::fs::write(&path, &whole).unwrap();
        scrub_all(&store);
        assert_eq!(damaged(&store), [(1, 0), (2, 0), (3, 0)], "{name}");
    }
}

#[test]
fn r_rep_5_an_interrupted_scrub_goes_on_where_it_was_and_remembers_what_it_has_found() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = three(dir.path());
    flip_block(dir.path(), 1, 2);
    let mut scrub = store.scrub_on(&item(), UnixMicros::new(5));
    let step = scrub.step(10 * BLOCK_SIZE).unwrap();
    assert_eq!((step.checked_blocks, step.done), (10, false));
    assert_eq!(step.total_bytes, (BLOCKS + 2) * BLOCK_SIZE);
    // Told at once, not at the end of the pass.
    assert_eq!(damaged(&store), [(1, 1), (2, 1), (3, 0)]);
    scrub.save().unwrap();
    drop((scrub, store));

    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.scrubs(&item()).under_way_since(), Some(UnixMicros::new(5)));
    let mut scrub = store.scrub_on(&item(), UnixMicros::new(9));
    let mut read = 0;
    loop {
        let step = scrub.step(4 * BLOCK_SIZE).unwrap();
        read += step.bytes;
        if step.done {
            break;
        }
    }
    assert_eq!(read, (BLOCKS + 2 - 10) * BLOCK_SIZE);
    let finished = scrub.finish(UnixMicros::new(11)).unwrap();
    assert_eq!((finished.began, finished.checked_blocks), (UnixMicros::new(5), BLOCKS + 2));
    assert_eq!(finished.damaged_points, [seq(1), seq(2)]);
    assert_eq!(damaged(&store), [(1, 1), (2, 1), (3, 0)]);
    let record = store.scrubs(&item());
    assert_eq!((record.under_way_since(), record.last), (None, Some(finished)));
}

#[test]
fn r_rep_4_and_5_a_damaged_block_stays_noted_when_its_point_is_merged_into_one_that_shows_it() {
    let dir = tempfile::tempdir().unwrap();
    let (store, model) = three(dir.path());
    // One that the second point shows, one that it hides.
    flip_block(dir.path(), 1, 1);
    flip_block(dir.path(), 1, 4);
    scrub_all(&store);
    assert_eq!(damaged(&store), [(1, 2), (2, 1), (3, 1)]);
    store.merge_away(&item(), seq(1)).unwrap();
    assert_eq!(damaged(&store), [(2, 1), (3, 1)]);
    scrub_all(&store);
    assert_eq!(damaged(&store), [(2, 1), (3, 1)]);
    let mut content = read(&store, 2, &disk("vda"));
    content[4 * BLOCK_SIZE as usize + 77] ^= 0x10;
    assert!(content == model[&2][&disk("vda")], "the merge has brought a hidden damage to light");
}

/// Points come and are merged away while somebody reads; nothing is taken for damage, in this process or beside it.
#[test]
fn r_rep_5_merges_that_go_on_meanwhile_are_not_taken_for_damage() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut random = Random(11);
    let mut now: Disks = [(disk("vda"), vec![0; 40 << 16]), (disk("vdb"), vec![0; 9 << 16])].into();
    mutate(&mut now, &mut random, 60);
    receive(&store, 1, None, &NONE, &now).unwrap();
    let over = AtomicBool::new(false);
    let (mut passes, mut beside) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 2..60 {
                let before = now.clone();
                mutate(&mut now, &mut random, 6);
                receive(&store, number, Some(number - 1), &before, &now).unwrap();
                while store.points(&item()).unwrap().len() > 4 {
                    store.merge_oldest(&item()).unwrap();
                }
            }
            over.store(true, Ordering::Release);
        });
        let reader = scope.spawn(|| {
            let reader = StoreReader::open(dir.path()).unwrap();
            let mut rounds = 0;
            while !over.load(Ordering::Acquire) {
                let mut findings = Findings::new();
                for layer in reader.layers(&item(), None).unwrap() {
                    let Ok(mut check) = reader.check_layer(&item(), &layer.name) else { continue };
                    let found = check.step(u64::MAX, u64::MAX).damaged;
                    if !found.is_empty() {
                        findings.insert(layer.name, found);
                    }
                }
                // A merge may just be between two files again.
                let mut tries = 0;
                while !findings.is_empty() && tries < 20 {
                    findings = reader.confirm(&item(), &findings).unwrap();
                    tries += 1;
                }
                assert!(reader.shown(&item(), &findings).unwrap().is_empty(), "{findings:?}");
                rounds += 1;
            }
            rounds
        });
        while !over.load(Ordering::Acquire) {
            assert_eq!(scrub_all(&store).damaged_points, []);
            passes += 1;
        }
        beside = reader.join().unwrap();
    });
    assert!(passes > 3 && beside > 3, "{passes} passes, {beside} beside");
    assert!(damaged(&store).iter().all(|(_, blocks)| *blocks == 0));
    let newest = store.latest(&item()).unwrap().unwrap().manifest.seq.get();
    assert!(read(&store, newest, &disk("vda")) == now[&disk("vda")]);
    Chain::open(&store.disk_path(&item(), seq(newest), &disk("vdb")).unwrap()).unwrap();
}
