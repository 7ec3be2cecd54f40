//! Scrubs: asked for and scheduled, what they find, and that nobody waits for them (R-REP-5).

use std::{os::unix::fs::FileExt, time::Duration};

use understudy_replication_agent::{scrub::ScrubConfig, tasks::TaskError};
use understudy_replication_api::{Action, AgentTaskResult, ItemFacts};

use crate::harness::{Host, World, wait};

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
