//! Scrubs: asked for and scheduled, what they find, and that nobody waits for them (R-REP-5).

use std::{os::unix::fs::FileExt, time::Duration};

use understudy_replication_agent::{scrub::ScrubConfig, tasks::TaskError};
use understudy_replication_api::{Action, AgentTaskResult, ItemFacts};

use crate::harness::{BLOCK, Host, World, disk, machine, wait};

const SHORT: Duration = Duration::from_millis(150);

/// Flips one bit of a block of the base's first disk: the first copy has it, and later points show it unless they change it.
fn flip(host: &Host, seq: u64, at: u64) {
    let path = host.dir.join(format!("store/items/web1/points/{seq}/disk-vda.qcow2"));
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

fn damaged(facts: &ItemFacts) -> Vec<u64> {
    facts.points.iter().filter(|p| p.damaged_blocks > 0).map(|p| p.seq.get()).collect()
}

/// Alpha has shipped two points and ships no more.
fn two_points() -> World {
    let mut world = World::new(4);
    world.protect(SHORT);
    wait("the first point", || Some(()).filter(|()| world.bravo.latest() >= 1));
    world.model.write(&world.alpha, 5);
    world.next_point();
    world.alpha.perform(1, world.run, Action::StopReplication { forget: false }).unwrap();
    world
}

#[test]
fn r_rep_5_a_scrub_that_is_asked_for_finds_damage_and_says_so_in_task_and_facts() {
    let world = two_points();
    let scrub = |seq| world.bravo.perform(1, world.run, Action::ScrubItem { seq });
    assert_eq!(scrub(None).unwrap(), AgentTaskResult::Done);
    let facts =
        wait("the scrub in the facts", || world.bravo.item_facts().filter(|f| f.scrub.last_end.is_some()));
    // 4 MiB of random content, and what was written since.
    assert!(facts.scrub.checked_blocks > 60, "{:?}", facts.scrub);
    assert_eq!(damaged(&facts), [0u64; 0]);

    // Far into the file, where only the first point has blocks.
    let first = world.bravo.points()[0];
    flip(&world.bravo, first, (40 << 16) + 5);
    let found = scrub(None).unwrap_err();
    assert!(matches!(&found, TaskError::Failed(p) if p.reason == "POINT_DAMAGED"), "{found:?}");
    let facts =
        wait("the damage in the facts", || world.bravo.item_facts().filter(|f| !damaged(f).is_empty()));
    assert_eq!(damaged(&facts)[0], first);
    let promoted =
        world.bravo.perform(2, world.run, Action::PromotePoint { seq: World::seq(first), nics: vec![None] });
    assert!(promoted.is_err(), "a damaged point was promoted");
    let unknown = scrub(Some(World::seq(999))).unwrap_err();
    assert!(!matches!(unknown, TaskError::Unknown(_)), "{unknown:?}");
}

/// The guest writes one block of `vda`.
fn write_block(world: &mut World, block: u64, byte: u8) {
    let content = vec![byte; BLOCK as usize];
    world.alpha.hypervisor.guest_write(&machine(), &disk("vda"), block * BLOCK, &content).unwrap();
    let at = (block * BLOCK) as usize;
    world.model.disks.get_mut("vda").unwrap()[at..at + content.len()].copy_from_slice(&content);
}

/// Points whose content has not changed since.
fn two_equal_points() -> World {
    let world = World::new(4);
    world.protect(SHORT);
    wait("two points", || Some(()).filter(|()| world.bravo.latest() >= 2));
    world.alpha.perform(1, world.run, Action::StopReplication { forget: false }).unwrap();
    world
}

fn scrub(world: &World) -> Result<AgentTaskResult, TaskError> {
    world.bravo.perform(1, world.run, Action::ScrubItem { seq: None })
}

/// Blocks that a point has of its own.
fn own_blocks(host: &Host, seq: u64) -> u64 {
    let point =
        wait("the point in the facts", || host.item_facts()?.points.into_iter().find(|p| p.seq.get() == seq));
    point.disks.iter().map(|d| d.changed_bytes).sum::<u64>() / BLOCK
}

/// R-REP-5, from source to target: what is damaged is shipped with what has changed, nothing else is, and all points are whole again.
#[test]
fn r_rep_5_the_next_cycle_brings_what_is_damaged_and_the_points_before_are_mended() {
    let mut world = two_equal_points();
    let (first, last) = (world.bravo.points()[0], world.bravo.latest());
    for block in [3, 17, 40] {
        flip(&world.bravo, first, ((block + 1) << 16) + 5);
    }
    scrub(&world).unwrap_err();
    let all: Vec<u64> = world.bravo.points();
    wait("the damage in the facts", || world.bravo.item_facts().filter(|f| damaged(f) == all));
    write_block(&mut world, 20, 7);
    let passed = world.bravo.link.passed();
    world.alpha.perform(1, world.run, world.replicate(&world.bravo, SHORT)).unwrap();
    wait("the repair in the facts", || {
        world.bravo.item_facts().filter(|f| damaged(f).is_empty() && f.points.len() > all.len())
    });
    assert_eq!(own_blocks(&world.bravo, last + 1), 4, "three damaged blocks and a changed one");
    let passed = world.bravo.link.passed() - passed;
    assert!((4 * BLOCK..10 * BLOCK).contains(&passed), "{passed} bytes were sent");
    assert!(world.model.is_at(&world.bravo, last + 1));
    assert_eq!(scrub(&world).unwrap(), AgentTaskResult::Done);
}

/// R-REP-5: a machine that is off has nothing to ship, and what is damaged is shipped all the same.
#[test]
fn r_rep_5_what_is_damaged_of_a_machine_that_is_off_is_repaired_too() {
    let world = World::new(4);
    world.protect(SHORT);
    wait("the first point", || Some(()).filter(|()| world.bravo.latest() >= 1));
    let grace = Duration::from_secs(5);
    let off = Action::ShutDownMachine { machine: machine(), grace, then_power_off: true };
    world.alpha.perform(1, world.run, off).unwrap();
    wait("everything to be covered", || {
        world.alpha.item_facts().filter(|f| f.replication.as_ref().is_some_and(|r| r.covered))
    });
    let last = world.bravo.latest();
    flip(&world.bravo, world.bravo.points()[0], (30 << 16) + 5);
    // It may be repaired before the scrub has ended, which then finds nothing.
    let _ = scrub(&world);
    wait("the repair", || Some(()).filter(|()| world.bravo.latest() > last));
    assert!(world.model.is_at(&world.bravo, last + 1));
    assert_eq!(own_blocks(&world.bravo, last + 1), 1);
    wait("the repair in the facts", || world.bravo.item_facts().filter(|f| damaged(f).is_empty()));
    assert_eq!(scrub(&world).unwrap(), AgentTaskResult::Done);
}

/// R-REP-5: a point whose tables are broken carries no other one; the next is a copy of everything, with a number of its own.
#[test]
fn r_rep_5_a_point_that_nothing_can_stand_on_is_followed_by_a_full_copy() {
    let mut world = two_equal_points();
    let last = world.bravo.latest();
    flip(&world.bravo, world.bravo.points()[0], 0);
    scrub(&world).unwrap_err();
    write_block(&mut world, 20, 7);
    world.alpha.perform(1, world.run, world.replicate(&world.bravo, SHORT)).unwrap();
    wait("the next point", || {
        world.bravo.item_facts().filter(|f| f.points.iter().any(|p| p.seq.get() == last + 1))
    });
    assert!(world.model.is_at(&world.bravo, last + 1));
    assert_eq!(own_blocks(&world.bravo, last + 1), 64);
    let facts = world.bravo.item_facts().unwrap();
    assert!(!damaged(&facts).contains(&(last + 1)) && damaged(&facts).contains(&last));
}

#[test]
fn r_rep_5_a_scheduled_scrub_comes_by_itself_and_goes_on_after_a_restart() {
    let mut world = two_points();
    let file = world.bravo.dir.join("store/items/web1/scrub.json");
    let record = || -> serde_json::Value { serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap() };
    assert!(!file.exists(), "a week has not passed");
    world.bravo.kill_agent();
    // A pass takes some four seconds, and is interrupted.
    world.bravo.scrub = ScrubConfig { period_s: 1, rate_bytes_per_s: 1 << 20 };
    world.bravo.start_agent();
    wait("a pass under way", || world.bravo.item_facts().filter(|f| f.scrub.under_way_since.is_some()));
    world.bravo.stop_agent();
    let half = record();
    let read = half["pass"]["checked_blocks"].as_u64().unwrap();
    assert!((1..60).contains(&read), "{half}");

    flip(&world.bravo, world.bravo.points()[0], (62 << 16) + 5);
    world.bravo.scrub = ScrubConfig { period_s: 3600, rate_bytes_per_s: 50 << 20 };
    world.bravo.start_agent();
    let facts = wait("the end of the pass", || {
        world.bravo.item_facts().filter(|f| f.scrub.last_end.is_some() && f.scrub.under_way_since.is_none())
    });
    assert!(!damaged(&facts).is_empty(), "the damage was not found");
    assert!(facts.scrub.checked_blocks > read);
    assert_eq!(record()["last"]["began"], half["pass"]["began"], "the pass was begun again");
}
