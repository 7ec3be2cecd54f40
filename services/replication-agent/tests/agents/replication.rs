//! Points arrive whole and right, whatever breaks in between.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use understudy_hypervisor::{Hypervisor, PowerState};
use understudy_ids::{Consistency, UnixMicros};
use understudy_replication::{
    Bandwidth, BlockDigest, Encoding, ReplicationSettings, RetentionPolicy, Tier, bandwidth::Rate,
};
use understudy_replication_agent::{ledger::Role, tasks::TaskError};
use understudy_replication_api::{
    Action, ItemRole, ReplicationState, STALE_GENERATION,
    sink::{Answer, Begin, Negotiate, Part, SinkDisk},
};
use understudy_rpc::ApiError;

use crate::harness::{BLOCK, World, generation, item, machine, wait};

const SHORT: Duration = Duration::from_millis(150);

/// R-REP-2, R-REP-3: everything once, then only what has changed; each point is the machine at one instant.
#[test]
fn the_first_point_is_a_full_copy_and_the_next_ones_ship_changes_only() {
    let mut world = World::new(16);
    world.protect(SHORT);
    wait("the first point", || Some(()).filter(|()| world.bravo.latest() >= 1));
    assert!(world.model.is_at(&world.bravo, 1), "the first point is not the machine");
    for _ in 0..3 {
        let passed = world.bravo.link.passed();
        world.model.write(&world.alpha, 20);
        let seq = world.next_point();
        assert!(world.model.is_at(&world.bravo, seq), "point {seq} is not the machine");
        let wire = world.bravo.link.passed() - passed;
        assert!(wire < 8 << 20, "{wire} bytes were sent for 20 small writes");
    }
    let known = world.alpha.block_on(world.alpha.hypervisor.checkpoints(&machine())).unwrap();
    assert!(known.len() <= 2, "old checkpoints stay: {known:?}");
    let status = wait("facts", || world.alpha.item_facts()?.replication.filter(|r| r.cycles > 3));
    assert_eq!(status.state, ReplicationState::Steady);
    assert!(status.last_cycle_kind.starts_with("incremental"), "{}", status.last_cycle_kind);
    assert!(
        wait("points in facts", || world.bravo.item_facts().filter(|f| f.points.len() > 3)).points[0]
            .seq
            .get()
            == 1
    );
}

/// R-REP-4: the target thins points out as it was told, while more come.
#[test]
fn beyond_the_latest_points_one_is_kept_for_each_period() {
    let mut world = World::new(1);
    let tier = Tier { every: Duration::from_secs(1), age: Duration::from_secs(600) };
    let policy = RetentionPolicy { keep_count: Some(2), keep_age: None, tiers: vec![tier] };
    world.protect_keeping(policy, SHORT);
    wait("one point for each of several seconds, beside the latest two", || {
        let points = world.bravo.item_facts()?.points;
        let older: Vec<i64> =
            points.iter().rev().skip(2).map(|p| p.instant.get().div_euclid(1_000_000)).collect();
        let made = points.last()?.seq.get();
        Some(()).filter(|()| older.len() >= 4 && made >= 15 && older.is_sorted_by(|a, b| a > b))
    });
    world.model.write(&world.alpha, 10);
    let seq = world.next_point();
    assert!(world.model.is_at(&world.bravo, seq), "point {seq} is not the machine");
}

/// R-REP-11: no more passes than the policy allows, and what passes is whole; another assignment counts at once.
#[test]
fn a_bandwidth_limit_holds_back_the_first_copy() {
    const RATE: u64 = 1 << 20;
    let world = World::new(8);
    let slow = ReplicationSettings {
        bandwidth: Bandwidth { otherwise: Rate(Some(RATE)), ..Bandwidth::default() },
        ..ReplicationSettings::default()
    };
    let prepare = Action::PrepareReplica { disks: world.sizes(), retention: RetentionPolicy::default() };
    world.bravo.perform(1, world.run, prepare).unwrap();
    let began = Instant::now();
    world.alpha.perform(1, world.run, world.alpha_to_bravo(slow)).unwrap();
    wait("two megabytes and a half", || {
        let passed = world.bravo.link.passed();
        // What was saved, one piece, and what TLS, frames, digests and the talk before the transfer take.
        let most =
            RATE as f64 * began.elapsed().as_secs_f64() * 1.1 + (RATE + RATE / 10 + (512 << 10)) as f64;
        assert!((passed as f64) < most, "{passed} bytes after {:?}", began.elapsed());
        Some(()).filter(|()| passed > (5 << 20) / 2)
    });
    assert_eq!(world.bravo.points(), [0u64; 0], "all of it has passed already");
    world.alpha.perform(1, world.run, world.alpha_to_bravo(ReplicationSettings::default())).unwrap();
    let seq = wait("a point", || Some(world.bravo.latest()).filter(|n| *n > 0));
    assert!(world.model.is_at(&world.bravo, seq), "point {seq} is not the machine");
}

/// R-REP-6: an interrupted first copy goes on where it was, and loses no change made meanwhile.
#[test]
fn a_cut_in_the_middle_of_the_first_copy_is_resumed_and_not_begun_again() {
    let mut world = World::new(48);
    world.bravo.link.cut_after(30 << 20);
    world.protect(SHORT);
    wait("the cut", || Some(()).filter(|()| world.bravo.link.is_cut()));
    world.model.write(&world.alpha, 10);
    let failed = wait("the failure", || {
        world.alpha.item_facts()?.replication.filter(|r| r.state == ReplicationState::Error)
    });
    // R-REP-9: what the connection swallowed and nobody has is no progress.
    assert!(
        failed.sent_bytes <= 30 << 20,
        "{} bytes are said to be there, 30 MiB got through",
        failed.sent_bytes
    );
    assert_eq!(failed.total_bytes, 48 << 20);
    assert_eq!(world.bravo.points(), [0u64; 0], "half a point is listed");
    world.bravo.link.mend();
    let seq = wait("a point", || Some(world.bravo.latest()).filter(|n| *n > 0));
    let whole = world.bravo.link.passed();
    assert!(whole < (48 + 20) << 20, "{whole} bytes passed: the copy was begun again");
    let seq = seq.max(world.next_point());
    assert!(world.model.is_at(&world.bravo, seq), "point {seq} is not the machine");
}

/// R-REP-5, R-REP-6, invariant 13: either agent killed in the middle of a cycle; everything comes right by itself.
#[test]
fn either_agent_may_be_killed_in_the_middle_of_a_cycle() {
    let mut world = World::new(32);
    world.bravo.link.cut_after(12 << 20);
    world.protect(SHORT);
    wait("the middle", || Some(()).filter(|()| world.bravo.link.is_cut()));
    world.bravo.kill_agent();
    world.model.write(&world.alpha, 10);
    world.bravo.start_agent();
    world.bravo.link.mend();
    wait("a point", || Some(()).filter(|()| world.bravo.latest() > 0));
    let seq = world.next_point();
    assert!(world.model.is_at(&world.bravo, seq), "point {seq} after the target's death");
    for round in 0..3 {
        world.model.write(&world.alpha, 40);
        world.bravo.link.cut_after(200 << 10);
        wait("the middle", || Some(()).filter(|()| world.bravo.link.is_cut()));
        world.alpha.kill_agent();
        world.model.write(&world.alpha, 10);
        world.bravo.link.mend();
        world.alpha.start_agent();
        let seq = world.next_point();
        assert!(world.model.is_at(&world.bravo, seq), "point {seq} after the source's death {round}");
    }
}

/// Number and consistency of the newest point.
fn newest(world: &World) -> Option<(u64, Consistency)> {
    world.bravo.item_facts()?.points.last().map(|point| (point.seq.get(), point.consistency))
}

fn becomes(world: &World, expected: Consistency) -> (u64, Consistency) {
    wait("a point that says so", || newest(world).filter(|(_, told)| *told == expected))
}

/// R-REP-3, R-UF-3: a point says how the guest stood. One that has shut itself down leaves nothing to recover; one that was switched
/// off does.
#[test]
fn points_say_how_the_guest_stood() {
    let mut world = World::new(2);
    world.protect(SHORT);
    becomes(&world, Consistency::Crash);
    let running = world.next_point();
    let off = world.alpha.hypervisor.clone();
    assert!(world.alpha.block_on(off.shut_down(&machine(), Duration::from_secs(1))).unwrap());
    let (clean, _) = becomes(&world, Consistency::Clean);
    assert!(clean > running && world.model.is_at(&world.bravo, clean));
    world.alpha.block_on(world.alpha.hypervisor.start(&machine())).unwrap();
    world.model.write(&world.alpha, 3);
    becomes(&world, Consistency::Crash);
    world.alpha.block_on(world.alpha.hypervisor.power_off(&machine())).unwrap();
    let last =
        wait("a point of the machine that is off", || newest(&world).filter(|(seq, _)| *seq > clean + 1));
    assert_eq!(last.1, Consistency::Crash);
}

/// R-FO-7: a side that was superseded learns it from its peer, writes it down and sends nothing more.
#[test]
fn a_superseded_source_is_refused_and_fences_itself() {
    let world = World::new(2);
    world.protect(SHORT);
    wait("a point", || Some(()).filter(|()| world.bravo.latest() > 0));
    let latest = world.bravo.latest();
    world
        .bravo
        .perform(2, world.run, Action::PromotePoint { seq: World::seq(latest), nics: vec![None] })
        .unwrap();
    let record = wait("alpha to be told", || world.alpha.record().filter(|r| r.role == Role::Fenced));
    assert_eq!((record.generation, record.assignment), (generation(2), None));
    wait("the old copy to be off", || {
        Some(()).filter(|()| world.alpha.power(&machine()) == Some(PowerState::ShutOff))
    });
    let points = world.bravo.points();
    std::thread::sleep(4 * SHORT);
    assert_eq!(world.bravo.points(), points, "a point of a fenced side arrived");
    let stale = world.alpha.perform(1, world.run, Action::StartMachine { machine: machine() });
    assert!(matches!(&stale, Err(TaskError::Failed(p)) if p.reason == STALE_GENERATION), "{stale:?}");
    let fenced = world.alpha.perform(2, world.run, Action::StartMachine { machine: machine() });
    assert!(matches!(&fenced, Err(TaskError::Failed(p)) if p.reason == "FENCED"), "{fenced:?}");
    let told = wait("facts", || world.alpha.item_facts().filter(|f| f.generation == generation(2)));
    assert_eq!((told.role, told.item), (ItemRole::Fenced, item()));
}

/// R-OPS-1, R-FO-7: a certificate of an agent is not enough; only the side that sends the item at its generation may.
#[test]
fn another_agent_can_neither_send_nor_fence_by_claiming_a_generation() {
    let world = World::new(1);
    world.protect(SHORT);
    wait("a point", || Some(()).filter(|()| world.bravo.latest() > 0));
    let stranger = world.stranger();
    let client = stranger.sink_client(&world.bravo);
    let disks = world
        .sizes()
        .into_iter()
        .map(|d| SinkDisk { name: d.name, size: d.size, luks: None })
        .collect::<Vec<_>>();
    let ask = |g| {
        let asked = Negotiate { item: item(), generation: generation(g), disks: disks.clone() };
        stranger.block_on(client.negotiate(asked)).unwrap_err()
    };
    assert_eq!(ask(1).reason, "OTHER_SENDER");
    assert_eq!(ask(9).reason, "UNKNOWN_GENERATION");
    let unknown = Negotiate { item: "db1".parse().unwrap(), generation: generation(1), disks: disks.clone() };
    assert_eq!(stranger.block_on(client.negotiate(unknown)).unwrap_err().reason, "NOT_PREPARED");
    assert_eq!(world.bravo.record().unwrap().generation, generation(1));
    world.next_point();
}

/// Invariant 13, R-OPS: asked to end in the middle of a copy, the agent ends within its grace and goes on after its return.
#[test]
fn an_agent_that_is_stopped_in_the_middle_ends_in_time_and_goes_on_later() {
    let mut world = World::new(32);
    world.bravo.link.cut_after(16 << 20);
    world.protect(SHORT);
    wait("the middle", || Some(()).filter(|()| world.bravo.link.is_cut()));
    let took = world.alpha.stop_agent();
    assert!(took < Duration::from_secs(10), "{took:?}");
    let took = world.bravo.stop_agent();
    assert!(took < Duration::from_secs(10), "{took:?}");
    world.model.write(&world.alpha, 10);
    world.bravo.link.mend();
    world.bravo.start_agent();
    world.alpha.start_agent();
    wait("a point", || Some(()).filter(|()| world.bravo.latest() > 0));
    let seq = world.next_point();
    assert!(world.model.is_at(&world.bravo, seq), "point {seq} is not the machine");
}

/// R-REP-11: what arrives encoded is stored as what it was, and what cannot be decoded is refused with nothing stored.
#[test]
fn encoded_parts_become_the_blocks_that_they_were_made_of() {
    let world = World::new(1);
    let prepare = Action::PrepareReplica { disks: world.sizes(), retention: RetentionPolicy::default() };
    world.bravo.twice(1, world.run, prepare);
    let client = world.alpha.sink_client(&world.bravo);
    let blocks: Vec<u8> = (0..4 * BLOCK).map(|n| (n / 100) as u8).collect();
    let digests: Vec<u8> = blocks.chunks(BLOCK as usize).flat_map(|b| *BlockDigest::of(b).bytes()).collect();
    let part = |index: u64, payload: Vec<u8>, encoding| Part::Data {
        disk: 0,
        offset: index * 4 * BLOCK,
        payload: Bytes::from(payload).into(),
        digests: digests.clone().into(),
        encoding,
    };
    let zstd = zstd::bulk::compress(&blocks, 1).unwrap();
    let lz4 = lz4_flex::block::compress(&blocks);
    let push = |seq: u64, parts: Vec<Part>| {
        let disks = world.sizes().into_iter();
        let begin = Begin {
            item: item(),
            generation: generation(1),
            seq: World::seq(seq),
            parent: None,
            checkpoint: format!("understudy-web1-1-{seq}"),
            instant: UnixMicros::new(1),
            disks: disks.map(|d| SinkDisk { name: d.name, size: d.size, luks: None }).collect(),
            resume: false,
            machine_json: "{}".to_owned(),
            consistency: Consistency::Crash,
            frozen: None,
            joint: None,
            wrapped_key: None,
        };
        world.alpha.block_on(async {
            let mut answers = client.push(begin, futures::stream::iter(parts)).await?;
            while let Some(answer) = answers.next().await {
                if let Answer::Receipt(receipt) = answer? {
                    return Ok(receipt.seq);
                }
            }
            panic!("no receipt");
        })
    };
    let broken = vec![part(0, zstd[..zstd.len() / 2].to_vec(), Encoding::Zstd)];
    let refused: ApiError = push(1, broken).unwrap_err();
    assert_eq!(refused.reason, "BROKEN_PAYLOAD", "{refused:?}");
    assert_eq!(world.bravo.points(), Vec::<u64>::new());

    let sent_bytes = (zstd.len() + lz4.len() + blocks.len()) as u64;
    let parts = vec![
        part(0, zstd, Encoding::Zstd),
        part(1, lz4, Encoding::Lz4),
        part(2, blocks.clone(), Encoding::Plain),
        Part::Finish { sent_bytes },
    ];
    assert_eq!(push(2, parts).unwrap(), World::seq(2));
    let content = world.bravo.content(2, "vda");
    for (index, found) in content.chunks(blocks.len()).take(3).enumerate() {
        assert!(found == blocks, "part {index} is not what was encoded");
    }
    assert!(content[3 * blocks.len()..].iter().all(|byte| *byte == 0));
}
