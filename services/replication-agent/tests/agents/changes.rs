//! What changes under protection (R-REP-8): each row of `docs/changes-under-protection.md` that an agent sees.

use std::time::Duration;

use understudy_hypervisor::Hypervisor;
use understudy_ids::Uuid;
use understudy_replica_store::qcow2::Writer;
use understudy_replication::RetentionPolicy;
use understudy_replication_agent::tasks::TaskError;
use understudy_replication_api::{Action, ReplicationFacts};

use crate::harness::{BLOCK, UUID, World, define, disk, disk_hardware, machine, wait};

const SHORT: Duration = Duration::from_millis(150);

fn told(world: &World, what: &str, is: impl Fn(&ReplicationFacts) -> bool) -> ReplicationFacts {
    wait(what, || world.alpha.item_facts()?.replication.filter(&is))
}

/// Waits for a state that only a person ends, and sees that no point arrives in it.
fn stands(world: &World, code: &str) -> ReplicationFacts {
    let state = told(world, code, |r| r.last_error.as_ref().is_some_and(|error| error.reason == code));
    assert!(!state.last_error.as_ref().unwrap().remedy.is_empty(), "{state:?}");
    let points = world.bravo.points();
    told(world, "further tries", |r| r.failures > state.failures + 1);
    assert_eq!(world.bravo.points(), points, "a point arrived in state {code}");
    state
}

fn goes_on(world: &World) {
    told(world, "replication to go on", |r| r.failures == 0);
}

fn write(world: &mut World, name: &'static str, offset: u64, bytes: &[u8]) {
    world.alpha.hypervisor.guest_write(&machine(), &disk(name), offset, bytes).unwrap();
    let model = world.model.disks.get_mut(name).unwrap();
    model[offset as usize..][..bytes.len()].copy_from_slice(bytes);
}

/// The next point has the new size; only changes and what was written beyond the old end are shipped, also where the old end lies within a
/// block, and retention merges layers of different sizes.
#[test]
fn a_grown_disk_is_shipped_by_its_changes() {
    let mut world = World::new(16);
    let retention = RetentionPolicy { keep_count: Some(2), ..RetentionPolicy::default() };
    world.bravo.twice(1, world.run, Action::PrepareReplica { disks: world.sizes(), retention });
    world.alpha.twice(1, world.run, world.replicate(&world.bravo, SHORT));
    wait("a point", || Some(()).filter(|()| world.bravo.latest() > 0));
    for round in 1..=2u64 {
        let passed = world.bravo.link.passed();
        for name in ["vda", "vdb"] {
            let old = world.model.disks[name].len() as u64;
            let new = old + (4 << 20) + 512;
            world.alpha.hypervisor.resize_disk(&machine(), &disk(name), new).unwrap();
            world.model.disks.get_mut(name).unwrap().resize(new as usize, 0);
            write(&mut world, name, old - 512, &[round as u8; 1024]);
            write(&mut world, name, new - 512, &[round as u8; 512]);
        }
        world.model.write(&world.alpha, 5);
        let seq = world.next_point();
        assert!(world.model.is_at(&world.bravo, seq), "point {seq} is not the grown machine");
        let wire = world.bravo.link.passed() - passed;
        assert!(wire < 4 << 20, "{wire} bytes were sent for a few small writes on grown disks");
    }
    // Until the points from before the growth are merged away.
    let first = wait("merges", || world.bravo.points().first().copied().filter(|first| *first > 6));
    for _ in 0..2 {
        world.model.write(&world.alpha, 5);
        let seq = world.next_point();
        assert!(world.model.is_at(&world.bravo, seq), "point {seq} after merges up to {first}");
    }
}

#[test]
fn a_shrunk_disk_stops_the_item_until_it_is_as_large_again() {
    let mut world = World::new(2);
    world.protect(SHORT);
    wait("a point", || Some(()).filter(|()| world.bravo.latest() > 0));
    let size = world.model.disks["vda"].len() as u64;
    world.alpha.hypervisor.resize_disk(&machine(), &disk("vda"), size - BLOCK).unwrap();
    stands(&world, "DISK_SHRUNK");
    world.alpha.hypervisor.resize_disk(&machine(), &disk("vda"), size).unwrap();
    write(&mut world, "vda", size - BLOCK, &[3; BLOCK as usize]);
    goes_on(&world);
    let seq = world.next_point();
    assert!(world.model.is_at(&world.bravo, seq), "point {seq} is not the machine");
}

/// Added: points go on without it until it is included, and then it alone is copied. Taken away: a state, until points are to go on without it.
#[test]
fn disks_come_and_go_as_an_operator_decides() {
    let mut world = World::new(16);
    world.protect(SHORT);
    wait("a point", || Some(()).filter(|()| world.bravo.latest() > 0));
    let size = 2 << 20;
    let mut file = Writer::create(&world.alpha.dir.join("vdc.qcow2"), size, None).unwrap();
    file.write(3, &[7; BLOCK as usize]).unwrap();
    file.finish().unwrap();
    let vdc = disk_hardware(&world.alpha, "vdc");
    world.alpha.hypervisor.attach_disk(&machine(), vdc).unwrap();
    world.model.write(&world.alpha, 5);
    let seq = world.next_point();
    assert!(world.model.is_at(&world.bravo, seq), "point {seq} without the new disk");

    let passed = world.bravo.link.passed();
    world.alpha.twice(1, world.run, world.replicate_disks(&world.bravo, SHORT, &["vda", "vdb", "vdc"]));
    let mut content = vec![0; size as usize];
    content[3 * BLOCK as usize..][..BLOCK as usize].fill(7);
    world.model.disks.insert("vdc", content);
    world.model.write(&world.alpha, 5);
    let seq = world.next_point();
    assert!(world.model.is_at(&world.bravo, seq), "point {seq} with the new disk");
    let wire = world.bravo.link.passed() - passed;
    assert!(wire < 4 << 20, "{wire} bytes were sent to include a disk with one block");
    // The source hears of the point a moment after it is there.
    let facts = told(&world, "a cycle with the disks", |r| r.disks.len() == 3 && r.cycles > 0);
    assert!(facts.last_cycle_kind.starts_with("incremental"), "{}", facts.last_cycle_kind);

    world.alpha.hypervisor.detach_disk(&machine(), &disk("vdb")).unwrap();
    let state = stands(&world, "NO_DISK");
    assert!(state.last_error.unwrap().message.contains("vdb"));
    world.alpha.twice(1, world.run, world.replicate_disks(&world.bravo, SHORT, &["vda", "vdc"]));
    goes_on(&world);
    world.model.disks.remove("vdb");
    world.model.write(&world.alpha, 5);
    let seq = world.next_point();
    assert!(world.model.is_at(&world.bravo, seq), "point {seq} without the disk that was taken away");
}

/// A machine that is gone keeps its points; another one under its name is neither read nor shipped, whoever asks, until it is protected as
/// a new one, and then only what differs crosses.
#[test]
fn a_machine_that_is_gone_or_another_one_is_not_taken_for_the_same() {
    let mut world = World::new(16);
    world.protect(SHORT);
    wait("a point", || Some(()).filter(|()| world.bravo.latest() > 0));
    let points = world.bravo.points();
    let remove = |world: &World| {
        world.alpha.block_on(world.alpha.hypervisor.power_off(&machine())).unwrap();
        world.alpha.block_on(world.alpha.hypervisor.undefine(&machine())).unwrap();
    };
    remove(&world);
    stands(&world, "NO_MACHINE");
    assert!(points.iter().all(|seq| world.bravo.points().contains(seq)), "a point is gone with the machine");

    let other = Uuid::from_u128(0x5678);
    define(&world.alpha, other);
    world.alpha.block_on(world.alpha.hypervisor.start(&machine())).unwrap();
    let passed = world.bravo.link.passed();
    let state = stands(&world, "MACHINE_REPLACED");
    assert!(state.last_error.unwrap().message.contains(&other.to_string()));
    let asked = world.alpha.perform(1, world.run, world.replicate(&world.bravo, SHORT));
    assert!(matches!(&asked, Err(TaskError::Failed(p)) if p.reason == "MACHINE_REPLACED"), "{asked:?}");
    assert_eq!(world.bravo.link.passed(), passed, "something of the other machine was sent");

    // The original comes back: compared, because its checkpoints are gone.
    remove(&world);
    define(&world.alpha, UUID);
    world.alpha.block_on(world.alpha.hypervisor.start(&machine())).unwrap();
    goes_on(&world);
    world.model.write(&world.alpha, 3);
    let seq = world.next_point();
    assert!(world.model.is_at(&world.bravo, seq), "point {seq} of the machine that came back");

    // Or the new one is meant: protected as such, over the replica that was kept.
    world.alpha.twice(1, world.run, Action::StopReplication { forget: true });
    remove(&world);
    define(&world.alpha, other);
    world.alpha.block_on(world.alpha.hypervisor.start(&machine())).unwrap();
    let passed = world.bravo.link.passed();
    let prepare = Action::PrepareReplica { disks: world.sizes(), retention: RetentionPolicy::default() };
    world.bravo.twice(2, world.run, prepare);
    world.alpha.twice(2, world.run, world.replicate(&world.bravo, SHORT));
    world.model.write(&world.alpha, 3);
    let seq = world.next_point();
    assert!(world.model.is_at(&world.bravo, seq), "point {seq} of the new machine");
    let wire = world.bravo.link.passed() - passed;
    assert!(wire < 4 << 20, "{wire} bytes crossed, and nothing differed but three writes");
}

/// Off, its point does not age and nothing is left; a short run between two looks is noticed by the disks' files.
#[test]
fn a_guest_that_ran_between_two_looks_is_not_missed() {
    let mut world = World::new(2);
    world.protect(Duration::from_secs(1));
    wait("a point", || Some(()).filter(|()| world.bravo.latest() > 0));
    world.alpha.block_on(world.alpha.hypervisor.power_off(&machine())).unwrap();
    let off = told(&world, "the last point of the machine that is off", |r| r.covered);
    assert_eq!((off.backlog_bytes, off.failures), (Some(0), 0));
    let points = world.bravo.points();
    let told_again = told(&world, "ages that stand still", |r| r.covered && r.backlog_bytes == Some(0));
    assert_eq!(told_again.cycles, off.cycles);
    assert_eq!(world.bravo.points(), points);

    world.alpha.block_on(world.alpha.hypervisor.start(&machine())).unwrap();
    write(&mut world, "vda", 0, &[9; 4096]);
    world.alpha.block_on(world.alpha.hypervisor.power_off(&machine())).unwrap();
    wait("what it wrote", || Some(()).filter(|()| world.model.is_at(&world.bravo, world.bravo.latest())));
    told(&world, "nothing left", |r| r.covered);
}
