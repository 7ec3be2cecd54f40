//! Damage at rest is found, the next point brings along what of it the source still has, and older points are mended from that
//! (R-REP-5, R-REP-10 for encrypted ones).

use std::{
    collections::BTreeMap,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::{scrub::flip, sealed::Sealing, support::*};
use understudy_ids::{UnixMicros, Uuid};
use understudy_replica_store::{Begin, Repaired, Result, Store, StoreError, qcow2::Chain};
use understudy_replication::{
    cycle::TargetHas,
    digest::BlockDigest,
    extents::{BLOCK_SIZE, RangeSet, block_count, block_range},
};

const BLOCK: usize = BLOCK_SIZE as usize;
const VDA: u64 = 24;

/// A machine with two disks, the second one's size no multiple of a block, and its points as they were sent.
pub struct Machine {
    pub now: Disks,
    pub model: BTreeMap<u64, Disks>,
    sealing: Option<&'static Sealing>,
}

impl Machine {
    fn new(sealing: Option<&'static Sealing>) -> Self {
        let mut now: Disks = [(disk("vda"), Vec::new()), (disk("vdb"), vec![0; (5 << 16) + 1536])].into();
        for block in 0..VDA {
            now.get_mut(&disk("vda")).unwrap().extend(vec![block as u8 + 1; BLOCK]);
        }
        now.get_mut(&disk("vdb")).unwrap()[4 << 16..].fill(9);
        Self { now, model: BTreeMap::new(), sealing }
    }

    /// As it was at the last of these points.
    pub fn at(model: BTreeMap<u64, Disks>, sealing: Option<&'static Sealing>) -> Self {
        let (_, last) = model.last_key_value().unwrap();
        let now = sealing.map_or_else(|| last.clone(), |sealing| sealing.decrypted(last));
        Self { now, model, sealing }
    }

    /// The guest writes to a block of `vda`.
    pub fn write(&mut self, block: u64, byte: u8) {
        self.now.get_mut(&disk("vda")).unwrap()[block as usize * BLOCK..][..BLOCK].fill(byte);
    }

    /// As it is stored.
    pub fn stored(&self) -> Disks {
        self.sealing.map_or_else(|| self.now.clone(), |sealing| sealing.encrypted(&self.now))
    }

    fn begin(&self, number: u64, parent: Option<u64>, disks: &Disks) -> Begin {
        match self.sealing {
            Some(sealing) => sealing.begin(number, parent, disks),
            None => begin(number, parent, disks),
        }
    }

    /// A cycle as a source makes it: what has changed since the target's point and what is damaged there. Returns the point's number and
    /// how many blocks were sent.
    pub fn cycle(&mut self, store: &Store) -> Result<(u64, usize)> {
        let facts = store.target_facts(&item())?;
        let now = self.stored();
        let number = facts.highest_seq.map_or(1, |seq| seq.get() + 1);
        let parent = match facts.has {
            TargetHas::Point { seq, .. } => Some(seq.get()),
            _ => None,
        };
        let before = parent.map(|seq| &self.model[&seq]);
        let mut writer = store.begin(self.begin(number, parent, &now))?;
        let mut sent = 0;
        for (name, content) in &now {
            let nothing = RangeSet::new();
            let damaged = facts.damaged.get(name).unwrap_or(&nothing);
            for (block, part) in (0..).zip(content.chunks(BLOCK)) {
                let at = block as usize * BLOCK;
                let same = before.is_some_and(|b| b[name].get(at..at + part.len()) == Some(part));
                if same && !damaged.contains(block * BLOCK_SIZE) {
                    continue;
                }
                sent += 1;
                if part.iter().all(|byte| *byte == 0) {
                    writer.write_zero(name, block, block + 1)?;
                } else {
                    writer.write_blocks(name, block, part, &[BlockDigest::of(part)])?;
                }
            }
        }
        writer.finish(&roots(&now), UnixMicros::new(number as i64 + 1))?;
        self.model.insert(number, now);
        Ok((number, sent))
    }

    /// Every point that is not noted as damaged is what was sent. Returns the numbers of those that are noted.
    pub fn assert_offered_points(&self, store: &Store) -> Vec<u64> {
        let mut noted = Vec::new();
        for point in store.points(&item()).unwrap() {
            let number = point.manifest.seq.get();
            if point.damaged_blocks > 0 {
                noted.push(number);
                continue;
            }
            for (name, content) in &self.model[&number] {
                let mut chain = store.open_disk(&item(), seq(number), name).unwrap();
                let mut found = vec![0; content.len()];
                chain.read(0, &mut found).unwrap();
                assert!(found == *content, "point {number} {name} is offered and is not what was sent");
            }
        }
        noted
    }

    /// The same, as QEMU sees them.
    pub fn assert_qemu(&self, store: &Store) {
        for point in store.recovery_points(&item()).unwrap().iter().filter(|_| self.sealing.is_none()) {
            for (name, content) in &self.model[&point.manifest.seq.get()] {
                let path = store.disk_path(&item(), point.manifest.seq, name).unwrap();
                check(&path);
                compare(&path, content);
            }
        }
    }
}

/// Three points: the first has every block of `vda`, the second block 1, the third block 2.
pub fn three(root: &Path, sealing: Option<&'static Sealing>) -> (Store, Machine) {
    let store = Store::open(root).unwrap();
    let mut machine = Machine::new(sealing);
    for number in 1..=3 {
        if number > 1 {
            machine.write(number - 1, 0x70 + number as u8);
        }
        machine.cycle(&store).unwrap();
    }
    (store, machine)
}

pub fn scrub(store: &Store) {
    let mut scrub = store.scrub_anew(&item(), None, UnixMicros::new(1));
    while !scrub.step(1 << 30).unwrap().done {}
    scrub.finish(UnixMicros::new(2)).unwrap();
}

fn file(root: &Path, number: u64) -> PathBuf {
    root.join(format!("items/web1/points/{number}/disk-vda.qcow2"))
}

/// Where a block of `vda` lies in its point's file, in bytes; what is in the entry that says so, and where that is.
struct Place {
    data: u64,
    entry: u64,
}

fn place(path: &Path, block: u64) -> Place {
    let file = std::fs::File::open(path).unwrap();
    let word = |at: u64| {
        let mut bytes = [0; 8];
        // A table that is broken already may lead anywhere.
        let _ = file.read_exact_at(&mut bytes, at);
        u64::from_be_bytes(bytes) & 0x00ff_ffff_ffff_fe00
    };
    let entry = word(word(40)) + block * 8;
    Place { data: word(entry), entry }
}

pub fn flip_block(root: &Path, number: u64, block: u64) {
    let path = file(root, number);
    flip(&path, place(&path, block).data + 77);
}

/// The table leads a block to another one's place.
pub fn misplace(root: &Path, number: u64, block: u64, onto: u64) {
    let path = file(root, number);
    put_entry(&path, place(&path, block).entry, place(&path, onto).data | 1 << 63);
}

fn put_entry(path: &Path, at: u64, value: u64) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&value.to_be_bytes(), at).unwrap();
}

fn sealing() -> &'static Sealing {
    static SEALING: std::sync::OnceLock<Sealing> = std::sync::OnceLock::new();
    SEALING.get_or_init(|| Sealing::of(&["vda", "vdb"].map(|name| (disk(name), Vec::new())).into()))
}

fn seqs(numbers: &[u64]) -> Vec<understudy_ids::PointSeq> {
    numbers.iter().copied().map(seq).collect()
}

/// R-REP-5: the next point ships what is damaged and what has changed, is whole, and mends the points below it but where the guest has
/// written since.
#[test]
fn r_rep_5_the_next_point_brings_what_is_damaged_and_the_older_ones_are_mended_from_it() {
    for sealing in [None, Some(sealing())] {
        let dir = tempfile::tempdir().unwrap();
        let (store, mut machine) = three(dir.path(), sealing);
        // Everybody's; hidden by the second point; the third one's own; and one that the guest writes to before the next point.
        for (number, block) in [(1, 5), (1, 1), (3, 2), (1, 9)] {
            flip_block(dir.path(), number, block);
        }
        scrub(&store);
        assert_eq!(machine.assert_offered_points(&store), [1, 2, 3]);
        let facts = store.target_facts(&item()).unwrap();
        assert_eq!(facts.damaged[&disk("vda")].blocks().collect::<Vec<_>>(), [2, 5, 9]);

        machine.write(9, 0x33);
        machine.write(20, 0x34);
        // Blocks 2, 5, 9 and 20.
        assert_eq!(machine.cycle(&store).unwrap(), (4, 4));
        assert_eq!(machine.assert_offered_points(&store), [1, 2, 3]);
        let repaired = store.repair(&item()).unwrap();
        // What was below blocks 1 and 9 is nowhere any more.
        assert_eq!(repaired, Repaired { blocks: 2, whole: vec![], damaged: seqs(&[1, 2, 3]) });
        assert_eq!(store.damage(&item(), seq(3)).unwrap().total(), 1);
        assert_eq!(store.damage(&item(), seq(1)).unwrap().total(), 2);

        // The guest writes what was there before.
        machine.write(9, 10);
        machine.cycle(&store).unwrap();
        let repaired = store.repair(&item()).unwrap();
        assert_eq!(repaired, Repaired { blocks: 1, whole: seqs(&[2, 3]), damaged: seqs(&[1]) });
        assert_eq!(machine.assert_offered_points(&store), [1]);
        machine.assert_qemu(&store);
        assert_eq!(store.repair(&item()).unwrap().blocks, 0);
        scrub(&store);
        assert_eq!(machine.assert_offered_points(&store), [1]);
    }
}

/// R-REP-5: a table that leads a block to another one's place, nowhere or past the end is put right without touching that other one.
#[test]
fn r_rep_5_a_broken_entry_of_a_table_is_mended_and_nothing_good_is_written_over() {
    for value in [0, 0x00ff_ffff_ffff_0000, 1 << 40, (1 << 62) | (3 << 16), 3 << 16 | 1, 512] {
        for sealing in [None, Some(sealing())] {
            let dir = tempfile::tempdir().unwrap();
            let (store, mut machine) = three(dir.path(), sealing);
            let path = file(dir.path(), 1);
            put_entry(&path, place(&path, 5).entry, value);
            // And onto a block that is whole.
            misplace(dir.path(), 1, 7, 8);
            scrub(&store);
            assert_eq!(machine.assert_offered_points(&store), [1, 2, 3], "{value:#x}");
            assert_eq!(machine.cycle(&store).unwrap(), (4, 2), "{value:#x}");
            let repaired = store.repair(&item()).unwrap();
            assert_eq!(repaired, Repaired { blocks: 2, whole: seqs(&[1, 2, 3]), damaged: vec![] });
            assert_eq!(machine.assert_offered_points(&store), [0u64; 0]);
            machine.assert_qemu(&store);
            scrub(&store);
            assert_eq!(machine.assert_offered_points(&store), [0u64; 0]);
        }
    }
    // A block where none should be.
    let dir = tempfile::tempdir().unwrap();
    let (store, mut machine) = three(dir.path(), None);
    let path = file(dir.path(), 2);
    put_entry(&path, place(&path, 11).entry, place(&path, 1).data | 1 << 63);
    scrub(&store);
    assert_eq!(machine.assert_offered_points(&store), [2, 3]);
    machine.cycle(&store).unwrap();
    assert_eq!(store.repair(&item()).unwrap().whole, seqs(&[2, 3]));
    machine.assert_offered_points(&store);
    machine.assert_qemu(&store);
}

#[test]
fn r_rep_5_a_point_through_which_damage_would_show_is_refused_also_when_the_damage_is_found_while_it_comes() {
    let dir = tempfile::tempdir().unwrap();
    let (store, machine) = three(dir.path(), None);
    let now = machine.stored();
    let send_one = |damaged_first: bool| {
        if damaged_first {
            flip_block(dir.path(), 1, 5);
            scrub(&store);
        }
        let mut writer = store.begin(begin(4, Some(3), &now)).unwrap();
        if !damaged_first {
            flip_block(dir.path(), 1, 5);
            scrub(&store);
        }
        writer.write_zero(&disk("vda"), 4, 4).unwrap();
        let refused = writer.finish(&roots(&now), UnixMicros::new(9)).unwrap_err();
        assert!(matches!(refused, StoreError::Damaged { blocks: 1, .. }), "{refused:?}");
        assert_eq!(store.latest(&item()).unwrap(), None);
        // As it was.
        flip_block(dir.path(), 1, 5);
        scrub(&store);
        assert_eq!(machine.assert_offered_points(&store), [0u64; 0]);
    };
    send_one(true);
    send_one(false);
}

/// R-REP-5, R-TF-1: what a test runs on is not changed under it; afterwards it is mended.
#[test]
fn r_rep_5_layers_that_a_test_stands_on_are_mended_when_it_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut machine) = three(dir.path(), None);
    let run = Uuid::from_u128(5);
    store.branch(&item(), seq(2), run).unwrap();
    flip_block(dir.path(), 1, 5);
    flip_block(dir.path(), 3, 2);
    scrub(&store);
    machine.cycle(&store).unwrap();
    let before = std::fs::read(file(dir.path(), 1)).unwrap();
    assert_eq!(store.repair(&item()).unwrap().blocks, 1, "only the layer that nobody stands on");
    assert!(before == std::fs::read(file(dir.path(), 1)).unwrap());
    assert_eq!(machine.assert_offered_points(&store), [1, 2, 3]);
    store.drop_branch(&item(), run).unwrap();
    assert_eq!(store.repair(&item()).unwrap().whole, seqs(&[1, 2, 3]));
    assert_eq!(machine.assert_offered_points(&store), [0u64; 0]);
    machine.assert_qemu(&store);
}

/// R-REP-4, R-REP-5: with a table broken that everything hangs on, the next point is a copy of everything with a number of its own, and
/// retention gets rid of the rest without ever reading it.
#[test]
fn r_rep_5_points_that_nothing_can_be_built_upon_are_followed_by_a_full_copy_and_leave() {
    for (name, at) in [("disk-vda.qcow2", 0), ("disk-vda.qcow2", 46), ("disk-vda.digests", 30)] {
        for broken in 1..=3 {
            let dir = tempfile::tempdir().unwrap();
            let (store, mut machine) = three(dir.path(), None);
            flip(&file(dir.path(), broken).with_file_name(name), at);
            scrub(&store);
            assert!(machine.assert_offered_points(&store).contains(&3), "{name} {at} of {broken}");
            assert_eq!(machine.cycle(&store).unwrap(), (4, VDA as usize + 6));
            store.repair(&item()).unwrap();
            machine.assert_offered_points(&store);
            machine.write(3, 0x44);
            assert_eq!(machine.cycle(&store).unwrap(), (5, 1));
            for _ in 0..8 {
                let _ = store.merge_oldest(&item()).unwrap();
                machine.assert_offered_points(&store);
            }
            let left: Vec<u64> =
                store.points(&item()).unwrap().iter().map(|p| p.manifest.seq.get()).collect();
            assert_eq!(left, [5], "{name} {at} of {broken}");
            machine.assert_qemu(&store);
        }
    }
}

/// Bits flip anywhere, points come and are merged away: whatever is offered is what was sent, and in the end everything is whole.
#[test]
fn r_rep_4_and_5_whatever_bits_flip_what_is_offered_is_what_was_sent() {
    let mut mended = 0;
    for (round, sealing) in [(1u64, None), (2, Some(sealing())), (3, None), (4, None), (5, Some(sealing()))] {
        let mut random = Random(0x9e37 + round * 77);
        let dir = tempfile::tempdir().unwrap();
        let (store, mut machine) = three(dir.path(), sealing);
        for _ in 0..30 {
            for _ in 0..random.next(3) {
                let listed = store.points(&item()).unwrap();
                let point = &listed[random.next(listed.len() as u64) as usize].manifest;
                let manifest = &point.disks[random.next(2) as usize];
                let path = dir.path().join(format!("items/web1/points/{}/{}", point.seq, manifest.file));
                let at = interesting(&path, manifest.size, &mut random);
                flip(&path, at);
            }
            scrub(&store);
            machine.assert_offered_points(&store);
            let mut now = machine.now.clone();
            mutate(&mut now, &mut random, 2);
            machine.now = now;
            machine.cycle(&store).unwrap();
            machine.assert_offered_points(&store);
            mended += store.repair(&item()).unwrap().blocks;
            machine.assert_offered_points(&store);
            while store.points(&item()).unwrap().len() > 5 && store.merge_oldest(&item()).unwrap().is_some() {
                machine.assert_offered_points(&store);
            }
            assert!(store.points(&item()).unwrap().len() < 14, "retention does not get on");
            assert!(store.latest(&item()).unwrap().is_some(), "the newest point is not offered");
        }
        while store.merge_oldest(&item()).unwrap().is_some() {}
        scrub(&store);
        assert_eq!(machine.assert_offered_points(&store), [0u64; 0], "round {round}");
        // Not its check: reserved bits that have flipped and that nobody reads stay.
        let newest = store.latest(&item()).unwrap().unwrap().manifest.seq;
        for (name, content) in machine.model[&newest.get()].iter().filter(|_| machine.sealing.is_none()) {
            compare(&store.disk_path(&item(), newest, name).unwrap(), content);
        }
    }
    assert!(mended > 20, "{mended}");
}

/// A byte of a block that is there, as a rule, or of a table or the header.
fn interesting(path: &Path, size: u64, random: &mut Random) -> u64 {
    let block = random.next(block_count(size));
    let found = Chain::open(path).map(|_| place(path, block));
    let at = match (found, random.next(8)) {
        (Err(_), _) | (_, 0) => random.next(104),
        (Ok(place), 1) => place.entry + random.next(8),
        (Ok(place), _) if place.data != 0 => place.data + random.next(block_range(block, size).len()),
        (Ok(place), _) => place.entry,
    };
    at % std::fs::metadata(path).unwrap().len()
}
