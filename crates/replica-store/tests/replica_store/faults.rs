//! The store is killed at every single change it makes to the file system, opened again, and must be as if the change that was
//! refused, and everything after it, had never been asked for, or had been completed (R-REP-4, R-REP-5, R-REP-6).
//!
//! A kill is simulated at the door through which all changes pass: from the n-th on, every change is refused. In a second round
//! the "power" goes too: of what was written to a file and not synced since, some sectors go back to what they were, and what
//! had made the file longer becomes garbage. In a third round only the n-th change fails and the process lives on.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{
    import::{content, import, medium},
    repair::{Machine, flip_block, misplace, scrub, three},
    sealed::{Sealing, assert_opens},
    support::*,
};
use understudy_ids::{UnixMicros, Uuid};
use understudy_replica_store::{Adopt, AdoptDisk, Change, DiskFormat, Store, StoreError, Watch};

/// A write that a power cut undoes: what was there before, and how much of it was past the file's end.
struct Lost {
    offset: u64,
    old: Vec<u8>,
    beyond: usize,
}

/// Counts changes and, from the n-th on, refuses them.
#[derive(Default)]
struct Killer {
    left: Option<u64>,
    /// Only the n-th is refused: a disk that fails once.
    once: bool,
    seen: u64,
    unsynced: BTreeMap<PathBuf, Vec<Lost>>,
    dead: bool,
}

impl Killer {
    fn watch(killer: &Arc<Mutex<Self>>) -> Watch {
        let killer = killer.clone();
        Arc::new(move |change| killer.lock().unwrap().on(change))
    }

    fn on(&mut self, change: Change<'_>) -> io::Result<()> {
        self.seen += 1;
        if self.dead && !self.once {
            return Err(io::Error::other("killed"));
        }
        if self.left == Some(0) {
            self.left = None;
            self.dead = true;
            return Err(io::Error::other("killed"));
        }
        self.left = self.left.map(|n| n - 1);
        match change {
            Change::Write { path, offset, len } => {
                let mut old = vec![0; len];
                let file = std::fs::File::open(path).unwrap();
                let mut known = 0;
                while known < len {
                    match file.read_at(&mut old[known..], offset + known as u64).unwrap() {
                        0 => break,
                        n => known += n,
                    }
                }
                old.truncate(known);
                let beyond = len - known;
                self.unsynced.entry(path.to_owned()).or_default().push(Lost { offset, old, beyond });
            }
            Change::SyncFile(path) | Change::CreateFile(path) => {
                self.unsynced.remove(path);
            }
            Change::Remove(gone) => self.unsynced.retain(|path, _| !path.starts_with(gone)),
            Change::Rename { from, to } => {
                let moved = |path: &PathBuf| path.strip_prefix(from).map(|rest| to.join(rest)).ok();
                let old = std::mem::take(&mut self.unsynced);
                for (path, ranges) in old {
                    // Joining an empty rest would add a slash.
                    let path = if path == from { to.to_owned() } else { moved(&path).unwrap_or(path) };
                    self.unsynced.insert(path, ranges);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Of the sectors that were written over and not synced, `reverted` in 100 are lost; all of a file's growth is.
    fn lose(&self, reverted: u64) {
        for (path, ranges) in &self.unsynced {
            let Ok(file) = OpenOptions::new().write(true).open(path) else { continue };
            let mut random = Random(self.seen * 2 + 1);
            for Lost { offset, old, beyond } in ranges.iter().rev() {
                file.write_all_at(&vec![0xa5; *beyond], *offset + old.len() as u64).unwrap();
                for (at, sector) in (0..).step_by(512).zip(old.chunks(512)) {
                    if random.next(100) < reverted {
                        file.write_all_at(sector, offset + at).unwrap();
                    }
                }
            }
        }
    }
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

/// Three points of two disks, the second one's size no multiple of a block.
fn prepare(root: &Path) -> BTreeMap<u64, Disks> {
    let store = Store::open(root).unwrap();
    let mut random = Random(7);
    let mut now: Disks = [(disk("vda"), vec![0; 24 << 16]), (disk("vdb"), vec![0; (9 << 16) + 1536])].into();
    let mut model = BTreeMap::new();
    for number in 1..=3 {
        let before = now.clone();
        mutate(&mut now, &mut random, 6);
        receive(&store, number, (number > 1).then(|| number - 1), &before, &now).unwrap();
        model.insert(number, now.clone());
    }
    assert_points(&store, &model, true);
    model
}

/// Runs `act` against copies of a prepared store, dying at the n-th change for all n; calls `judge` on each store opened again.
fn kill_everywhere(
    prepare: impl Fn(&Path) -> BTreeMap<u64, Disks>,
    act: impl Fn(&Store, &BTreeMap<u64, Disks>) -> bool,
    judge: impl Fn(&Store, &BTreeMap<u64, Disks>, bool),
) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let (origin, work) = (dir.path().join("origin"), dir.path().join("work"));
    let model = prepare(&origin);
    let mut cases = 0;
    for (once, loss) in [(false, None), (false, Some(0)), (false, Some(50)), (true, None)] {
        for at in 0.. {
            copy(&origin, &work);
            let killer = Arc::new(Mutex::new(Killer::default()));
            let store = Store::open_watched(&work, Killer::watch(&killer)).unwrap();
            {
                let mut killer = killer.lock().unwrap();
                (killer.left, killer.once, killer.seen) = (Some(at), once, 0);
            }
            let done = act(&store, &model);
            drop(store);
            let reached = {
                let killer = killer.lock().unwrap();
                if let Some(reverted) = loss.filter(|_| killer.dead) {
                    killer.lose(reverted);
                }
                killer.dead
            };
            if !reached {
                assert!(done, "without a fault the action must succeed");
                assert!(at > 10, "the fault was never reached");
                break;
            }
            let store = Store::open(&work).unwrap();
            judge(&store, &model, done);
            cases += 1;
        }
    }
    cases
}

/// Every eighth time: QEMU's view of a store takes a while, and differs from our own reader's only by a fault of the format.
fn now_and_then() -> bool {
    static TIMES: AtomicUsize = AtomicUsize::new(0);
    TIMES.fetch_add(1, Ordering::Relaxed).is_multiple_of(8)
}

fn fourth(model: &BTreeMap<u64, Disks>) -> Disks {
    let mut now = model[&3].clone();
    mutate(&mut now, &mut Random(99), 7);
    now
}

#[test]
fn r_rep_5_and_6_killed_at_any_change_while_receiving_no_half_point_is_seen_and_the_partial_is_true() {
    let act = |store: &Store, model: &BTreeMap<u64, Disks>| -> bool {
        let now = fourth(model);
        let run = || -> understudy_replica_store::Result<()> {
            let mut writer = store.begin(begin(4, Some(3), &now))?;
            send(&mut writer, &model[&3], &now, 0, 5)?;
            writer.sync()?;
            send(&mut writer, &model[&3], &now, 5, 12)?;
            writer.sync()?;
            send(&mut writer, &model[&3], &now, 12, u64::MAX)?;
            writer.finish(&roots(&now), UnixMicros::new(9))?;
            Ok(())
        };
        run().is_ok()
    };
    let judge = |store: &Store, model: &BTreeMap<u64, Disks>, done: bool| {
        let now = fourth(model);
        let mut model = model.clone();
        model.insert(4, now.clone());
        assert_points(store, &model, false);
        let newest = store.points(&item()).unwrap().pop().unwrap().manifest.seq.get();
        assert!(newest >= 3 && (!done || newest == 4));
        if newest == 4 {
            return;
        }
        // Whatever is there of it, the transfer can be completed: from the watermark, or again.
        let mut writer = match store.partial(&item()).unwrap() {
            Some(partial) => {
                let mut writer = store.resume(begin(4, Some(3), &now)).unwrap();
                for (name, content) in &now {
                    let mark = partial.disks[name].watermark.div_ceil(65536);
                    let one = [(name.clone(), content.clone())].into();
                    send(&mut writer, &model[&3], &one, mark, u64::MAX).unwrap();
                }
                writer
            }
            None => {
                let mut writer = store.begin(begin(4, Some(3), &now)).unwrap();
                send(&mut writer, &model[&3], &now, 0, u64::MAX).unwrap();
                writer
            }
        };
        writer.sync().unwrap();
        writer.finish(&roots(&now), UnixMicros::new(9)).unwrap();
        assert_eq!(store.points(&item()).unwrap().len(), 4);
        assert_points(store, &model, now_and_then());
    };
    let cases = kill_everywhere(prepare, act, judge);
    eprintln!("receiving: {cases} faults");
    assert!(cases > 100, "{cases}");
}

/// R-REP-11: an import that is killed is taken up again, and no half base is seen.
#[test]
fn r_rep_11_killed_at_any_change_while_importing_a_medium() {
    let dir = tempfile::tempdir().unwrap();
    let disks = content();
    let wanted = medium(dir.path(), &disks);
    let nothing = |root: &Path| {
        Store::open(root).unwrap();
        BTreeMap::from([(1, disks.clone())])
    };
    // Broken off once in the middle, so that there is something to take up.
    let act = |store: &Store, _: &BTreeMap<u64, Disks>| {
        let first = import(store, &wanted, 4);
        first.is_ok() && import(store, &wanted, u32::MAX).is_ok()
    };
    let judge = |store: &Store, model: &BTreeMap<u64, Disks>, done: bool| {
        assert_points(store, model, false);
        assert!(store.partial(&item()).unwrap().is_none());
        assert!(!done || !store.points(&item()).unwrap().is_empty());
        import(store, &wanted, u32::MAX).unwrap().unwrap();
        assert_eq!(store.points(&item()).unwrap().len(), 1);
        assert_points(store, model, now_and_then());
    };
    let cases = kill_everywhere(nothing, act, judge);
    eprintln!("importing: {cases} faults");
    assert!(cases > 80, "{cases}");
}

#[test]
fn r_rep_4_killed_at_any_change_while_merging_the_other_points_stay_byte_identical() {
    let act = |store: &Store, _: &BTreeMap<u64, Disks>| store.merge_oldest(&item()).is_ok();
    let judge = |store: &Store, model: &BTreeMap<u64, Disks>, _: bool| {
        let listed: Vec<_> = store.points(&item()).unwrap().iter().map(|p| p.manifest.seq.get()).collect();
        assert!(listed == [1, 2, 3] || listed == [2, 3], "{listed:?}");
        assert_points(store, model, now_and_then());
        // And retention can go on from here.
        while store.merge_oldest(&item()).unwrap().is_some() {}
        let listed: Vec<_> = store.points(&item()).unwrap().iter().map(|p| p.manifest.seq.get()).collect();
        assert_eq!(listed, [3]);
        assert_points(store, model, now_and_then());
        assert_eq!(store.scrub(&item(), seq(3)).unwrap().total(), 0);
    };
    let cases = kill_everywhere(prepare, act, judge);
    eprintln!("merging: {cases} faults");
    assert!(cases > 80, "{cases}");
}

/// One encryption for all copies of a store.
fn sealing() -> &'static Sealing {
    static SEALING: OnceLock<Sealing> = OnceLock::new();
    SEALING.get_or_init(|| {
        let names = ["vda", "vdb"].map(|name| (disk(name), Vec::new()));
        Sealing::of(&names.into())
    })
}

/// Three encrypted points; with the last one a disk has grown.
fn prepare_sealed(root: &Path) -> BTreeMap<u64, Disks> {
    let store = Store::open(root).unwrap();
    let mut random = Random(23);
    let mut now: Disks = [(disk("vda"), vec![0; 12 << 16]), (disk("vdb"), vec![0; (5 << 16) + 1536])].into();
    let (mut model, mut before) = (BTreeMap::new(), NONE.clone());
    for number in 1..=3 {
        mutate(&mut now, &mut random, 5);
        if number == 3 {
            now.get_mut(&disk("vda")).unwrap().resize(17 << 16, 6);
            before.get_mut(&disk("vda")).unwrap().resize(17 << 16, 0);
        }
        let stored = sealing().encrypted(&now);
        sealing().receive(&store, number, (number > 1).then(|| number - 1), &before, &stored).unwrap();
        model.insert(number, stored.clone());
        before = stored;
    }
    model
}

/// The last point as its source would read it, through QEMU, now and then.
fn assert_last_opens(store: &Store, model: &BTreeMap<u64, Disks>) {
    if !now_and_then() {
        return;
    }
    let (number, stored) = model.last_key_value().unwrap();
    for (name, content) in sealing().decrypted(stored) {
        let path = store.disk_path(&item(), seq(*number), &name).unwrap();
        assert_opens(&path, &sealing().secret, &content);
    }
}

/// R-REP-10 with R-REP-4: what is merged is ciphertext, at fixed places, into files that grow.
#[test]
fn r_rep_10_killed_at_any_change_while_merging_encrypted_points() {
    let act = |store: &Store, _: &BTreeMap<u64, Disks>| {
        store.merge_oldest(&item()).and_then(|_| store.merge_oldest(&item())).is_ok()
    };
    let judge = |store: &Store, model: &BTreeMap<u64, Disks>, _: bool| {
        assert_points(store, model, false);
        while store.merge_oldest(&item()).unwrap().is_some() {}
        assert_eq!(store.points(&item()).unwrap().len(), 1);
        assert_points(store, model, false);
        assert_last_opens(store, model);
        assert_eq!(store.scrub(&item(), seq(3)).unwrap().total(), 0);
    };
    let cases = kill_everywhere(prepare_sealed, act, judge);
    eprintln!("merging encrypted points: {cases} faults");
    assert!(cases > 80, "{cases}");
}

/// R-REP-10 with R-REP-6: a cut transfer of ciphertext is true up to its watermark.
#[test]
fn r_rep_10_killed_at_any_change_while_receiving_an_encrypted_point() {
    let next = |model: &BTreeMap<u64, Disks>| {
        let mut now = sealing().decrypted(&model[&3]);
        mutate(&mut now, &mut Random(31), 6);
        sealing().encrypted(&now)
    };
    let act = |store: &Store, model: &BTreeMap<u64, Disks>| {
        let now = next(model);
        let run = || {
            let mut writer = sealing().writer(store, 4, Some(3), &now)?;
            send(&mut writer, &model[&3], &now, 0, 6)?;
            writer.sync()?;
            send(&mut writer, &model[&3], &now, 6, u64::MAX)?;
            writer.finish(&roots(&now), UnixMicros::new(9)).map(|_| ())
        };
        run().is_ok()
    };
    let judge = |store: &Store, model: &BTreeMap<u64, Disks>, done: bool| {
        let now = next(model);
        let mut model = model.clone();
        model.insert(4, now.clone());
        assert_points(store, &model, false);
        let newest = store.points(&item()).unwrap().pop().unwrap().manifest.seq.get();
        assert!(newest >= 3 && (!done || newest == 4));
        if newest == 3 {
            let partial = store.partial(&item()).unwrap();
            let begin = sealing().begin(4, Some(3), &now);
            let resumed = partial.as_ref().map(|_| store.resume(begin.clone()).unwrap());
            let mut writer = resumed.unwrap_or_else(|| store.begin(begin).unwrap());
            for (name, content) in &now {
                let mark = partial.as_ref().map_or(0, |p| p.disks[name].watermark.div_ceil(65536));
                let one = [(name.clone(), content.clone())].into();
                send(&mut writer, &model[&3], &one, mark, u64::MAX).unwrap();
            }
            writer.finish(&roots(&now), UnixMicros::new(9)).unwrap();
        }
        assert_points(store, &model, false);
        assert_last_opens(store, &model);
    };
    let cases = kill_everywhere(prepare_sealed, act, judge);
    eprintln!("receiving encrypted: {cases} faults");
    assert!(cases > 80, "{cases}");
}

/// R-REP-5: damaged blocks arrive again and older points are mended from them. Whatever dies when, what is offered is what was sent, and
/// the damage is noted until it is gone.
fn killed_while_damage_is_repaired(sealing: Option<&'static Sealing>) {
    static CASES: AtomicUsize = AtomicUsize::new(0);
    let prepare = |root: &Path| {
        let (store, machine) = three(root, sealing);
        for (number, block) in [(1, 5), (1, 6), (2, 1)] {
            flip_block(root, number, block);
        }
        misplace(root, 1, 11, 12);
        scrub(&store);
        assert_eq!(machine.assert_offered_points(&store), [1, 2, 3]);
        machine.model
    };
    // What the fourth point is, complete or not.
    let fourth = |model: &BTreeMap<u64, Disks>| {
        let mut machine = Machine::at(model.clone(), sealing);
        machine.write(20, 0x55);
        machine
    };
    let act = |store: &Store, model: &BTreeMap<u64, Disks>| {
        fourth(model).cycle(store).and_then(|_| store.repair(&item())).is_ok()
    };
    let judge = |store: &Store, model: &BTreeMap<u64, Disks>, done: bool| {
        let mut machine = fourth(model);
        machine.model.insert(4, machine.stored());
        let noted = machine.assert_offered_points(store);
        let newest = store.points(&item()).unwrap().pop().unwrap().manifest.seq.get();
        assert!(newest >= 3 && (!done || (newest == 4 && noted.is_empty())), "{newest} {noted:?}");
        // What is not noted is not damaged either.
        scrub(store);
        assert!(machine.assert_offered_points(store).iter().all(|seq| noted.contains(seq)), "{noted:?}");

        machine.model.retain(|number, _| *number <= newest);
        machine.write(21, 0x56);
        let (number, sent) = machine.cycle(store).unwrap();
        assert!(number > 3 && sent <= 6, "{sent} blocks were sent");
        store.repair(&item()).unwrap();
        scrub(store);
        assert_eq!(machine.assert_offered_points(store), [0u64; 0]);
        // What takes a while is looked at now and then.
        if CASES.fetch_add(1, Ordering::Relaxed).is_multiple_of(16) {
            machine.assert_qemu(store);
            while store.merge_oldest(&item()).unwrap().is_some() {}
            assert_eq!(machine.assert_offered_points(store), [0u64; 0]);
            machine.assert_qemu(store);
        }
    };
    let cases = kill_everywhere(prepare, act, judge);
    eprintln!("repairing: {cases} faults");
    assert!(cases > 100, "{cases}");
}

#[test]
fn r_rep_5_killed_at_any_change_while_damage_is_repaired() {
    killed_while_damage_is_repaired(None);
}

#[test]
fn r_rep_10_killed_at_any_change_while_damage_of_encrypted_points_is_repaired() {
    killed_while_damage_is_repaired(Some(sealing()));
}

/// A foreign disk as the base of two points: merging has to make tables in a file that has none.
fn prepare_adopted(root: &Path) -> BTreeMap<u64, Disks> {
    let store = Store::open(root).unwrap();
    let mut random = Random(17);
    let name = disk("vda");
    let mut now: Disks = [(name.clone(), vec![0; 12 << 16])].into();
    mutate(&mut now, &mut random, 9);
    let path = root.with_file_name("guest.raw");
    std::fs::write(&path, &now[&name]).unwrap();
    let disks = vec![AdoptDisk { name, path, format: DiskFormat::Raw }];
    let (machine, at) = (serde_json::Value::Null, UnixMicros::new(1));
    let adopt = Adopt { item: item(), generation: generation(1), seq: seq(1), disks, machine, now: at };
    store.adopt(&adopt).unwrap();
    let mut model: BTreeMap<u64, Disks> = [(1, now.clone())].into();
    for number in 2..=3 {
        let before = now.clone();
        mutate(&mut now, &mut random, 5);
        receive(&store, number, Some(number - 1), &before, &now).unwrap();
        model.insert(number, now.clone());
    }
    model
}

#[test]
fn r_rep_4_and_7_killed_at_any_change_while_merging_into_an_adopted_base() {
    let act = |store: &Store, _: &BTreeMap<u64, Disks>| store.merge_oldest(&item()).is_ok();
    let judge = |store: &Store, model: &BTreeMap<u64, Disks>, _: bool| {
        assert_points(store, model, now_and_then());
        while store.merge_oldest(&item()).unwrap().is_some() {}
        assert_eq!(store.points(&item()).unwrap().len(), 1);
        assert_points(store, model, now_and_then());
    };
    let cases = kill_everywhere(prepare_adopted, act, judge);
    eprintln!("merging into a base: {cases} faults");
    assert!(cases > 60, "{cases}");
}

/// A guest's write in the second block of vda, whose content was that of point 3. Noted under a number that no point has.
fn write_nines(model: &mut BTreeMap<u64, Disks>, file: &Path) {
    let io = Command::new("qemu-io").args(["-f", "qcow2", "-c", "write -P 9 65536 65536"]).arg(file).output();
    assert!(io.unwrap().status.success());
    let mut written = model[&3].clone();
    written.get_mut(&disk("vda")).unwrap()[65536..131_072].fill(9);
    model.insert(33, written);
}

#[test]
fn r_fo_4_killed_at_any_change_while_promoting_and_committing_the_machine_keeps_its_disks() {
    let act = |store: &Store, _: &BTreeMap<u64, Disks>| {
        let run = || {
            store.promote(&item(), seq(2), generation(2))?;
            store.commit(&item(), generation(2))
        };
        run().is_ok()
    };
    let judge = |store: &Store, model: &BTreeMap<u64, Disks>, _: bool| {
        assert_points(store, model, false);
        let files = store.promote(&item(), seq(2), generation(2)).unwrap();
        store.commit(&item(), generation(2)).unwrap();
        for file in files {
            check(&file.path);
            compare(&file.path, &model[&2][&file.disk]);
        }
        assert!(store.recovery_points(&item()).unwrap().is_empty());
        let kept: Vec<_> = store.points(&item()).unwrap().iter().map(|p| p.manifest.seq.get()).collect();
        assert_eq!(kept, [1, 2]);
    };
    let cases = kill_everywhere(prepare, act, judge);
    eprintln!("promoting: {cases} faults");
    assert!(cases > 60, "{cases}");
}

/// R-TF-7: whatever is killed when, what the test wrote is the test's or the promoted machine's, and the point is as it was.
#[test]
fn r_tf_7_killed_at_any_change_while_a_test_is_promoted_what_it_wrote_is_there() {
    const TEST: Uuid = Uuid::from_u128(77);
    let tested = |root: &Path| {
        let mut model = prepare(root);
        let store = Store::open(root).unwrap();
        let files = store.branch(&item(), seq(3), TEST).unwrap();
        write_nines(&mut model, &files[0].path);
        model
    };
    let act = |store: &Store, _: &BTreeMap<u64, Disks>| {
        let run = || {
            // Beside another test, which comes and goes.
            store.branch(&item(), seq(2), Uuid::from_u128(78))?;
            store.promote_branch(&item(), seq(3), TEST, generation(2))?;
            store.drop_branch(&item(), Uuid::from_u128(78))?;
            store.promote(&item(), seq(3), generation(2))
        };
        run().is_ok()
    };
    let judge = |store: &Store, model: &BTreeMap<u64, Disks>, _: bool| {
        assert_points(store, model, false);
        store.promote_branch(&item(), seq(3), TEST, generation(2)).unwrap();
        for file in store.promote(&item(), seq(3), generation(2)).unwrap() {
            check(&file.path);
            compare(&file.path, &model[&33][&file.disk]);
        }
        for test in [TEST, Uuid::from_u128(78)] {
            store.drop_branch(&item(), test).unwrap();
        }
        store.commit(&item(), generation(2)).unwrap();
    };
    let cases = kill_everywhere(tested, act, judge);
    eprintln!("promoting a test: {cases} faults");
    assert!(cases > 5, "{cases}");
}

/// R-FO-4: whatever is killed when, what the machine wrote that ran last is there until it is removed on purpose.
#[test]
fn r_fo_4_killed_at_any_change_while_another_point_is_promoted_what_ran_before_can_be_had_back() {
    let promoted = |root: &Path| {
        let mut model = prepare(root);
        let store = Store::open(root).unwrap();
        let files = store.promote(&item(), seq(3), generation(2)).unwrap();
        write_nines(&mut model, &files[0].path);
        model
    };
    let act = |store: &Store, _: &BTreeMap<u64, Disks>| {
        let run = || {
            store.set_aside(&item(), seq(3), generation(2))?;
            store.promote(&item(), seq(1), generation(2))?;
            store.take_back(&item(), seq(3), generation(2))?;
            store.set_aside(&item(), seq(3), generation(2))?;
            store.promote(&item(), seq(2), generation(2))
        };
        run().is_ok()
    };
    let judge = |store: &Store, model: &BTreeMap<u64, Disks>, _: bool| {
        assert_points(store, model, false);
        store.set_aside(&item(), seq(3), generation(2)).unwrap();
        assert!(store.take_back(&item(), seq(3), generation(2)).unwrap());
        let (of, files) = store.active(&item(), generation(2)).unwrap().unwrap();
        assert_eq!(of, seq(3));
        for file in files {
            check(&file.path);
            compare(&file.path, &model[&33][&file.disk]);
        }
        store.commit(&item(), generation(2)).unwrap();
    };
    let cases = kill_everywhere(promoted, act, judge);
    eprintln!("another point: {cases} faults");
    assert!(cases > 60, "{cases}");
}

#[test]
fn r_rep_5_a_transfer_whose_sync_failed_once_is_never_trusted_again() {
    let dir = tempfile::tempdir().unwrap();
    let model = prepare(dir.path());
    let now = fourth(&model);
    let armed = Arc::new(Mutex::new(false));
    let watch: Watch = {
        let armed = armed.clone();
        Arc::new(move |change| match change {
            Change::SyncFile(path) if path.ends_with("incoming/point/disk-vdb.qcow2") => {
                if std::mem::take(&mut *armed.lock().unwrap()) {
                    Err(io::Error::other("EIO"))
                } else {
                    Ok(())
                }
            }
            _ => Ok(()),
        })
    };
    let store = Store::open_watched(dir.path(), watch).unwrap();
    let mut writer = store.begin(begin(4, Some(3), &now)).unwrap();
    send(&mut writer, &model[&3], &now, 0, 12).unwrap();
    writer.sync().unwrap();
    assert!(store.partial(&item()).unwrap().is_some());
    send(&mut writer, &model[&3], &now, 12, u64::MAX).unwrap();
    *armed.lock().unwrap() = true;
    assert!(matches!(writer.sync(), Err(StoreError::Io { .. })));
    // The kernel would now say that all is well.
    assert!(matches!(writer.sync(), Err(StoreError::Untrusted(_))));
    assert!(matches!(writer.finish(&roots(&now), UnixMicros::new(9)), Err(StoreError::Untrusted(_))));
    assert_eq!(store.partial(&item()).unwrap(), None);
    assert_points(&store, &model, false);
}
