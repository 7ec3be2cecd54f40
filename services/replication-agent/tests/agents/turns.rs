//! Many items of one host share its turns.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use understudy_hypervisor::{DiskHardware, Hypervisor};
use understudy_ids::{ItemName, UnixMicros, Uuid};
use understudy_replica_store::qcow2::Writer;
use understudy_replication::{Bandwidth, ReplicationSettings, RetentionPolicy, bandwidth::Rate};
use understudy_replication_agent::source::CycleLimits;
use understudy_replication_api::{
    Action, AgentTaskResult, DiskSize, ReplicationFacts, ReplicationState, StartReplication,
};

use crate::harness::{BLOCK, World, define_as, disk, disk_hardware, wait};

const ITEMS: u128 = 20;
const SIZE: u64 = 4 << 20;

fn name(n: u128) -> ItemName {
    format!("many{n:02}").parse().unwrap()
}

fn protect(world: &World, n: u128) {
    let file = world.alpha.dir.join(format!("many{n:02}.qcow2"));
    let mut writer = Writer::create(&file, SIZE, None).unwrap();
    for cluster in 0..SIZE / BLOCK {
        let word = u64::try_from(n).unwrap() << 32 | cluster | 1;
        let block: Vec<u8> = (0..BLOCK / 8).flat_map(|i| (word ^ (i * 0x9e37_79b9)).to_le_bytes()).collect();
        writer.write(cluster, &block).unwrap();
    }
    writer.finish().unwrap();
    let vda = DiskHardware { file: Some(file), ..disk_hardware(&world.alpha, "vda") };
    let machine = name(n).as_str().parse().unwrap();
    define_as(&world.alpha, &name(n), &machine, Uuid::from_u128(100 + n), vec![vda]);
    world.alpha.block_on(world.alpha.hypervisor.start(&machine)).unwrap();
    let disks = vec![DiskSize { name: disk("vda"), size: SIZE }];
    let prepare = Action::PrepareReplica { disks, retention: RetentionPolicy::default() };
    world.bravo.perform_for(name(n), 1, world.run, prepare).unwrap();
}

fn replicate(world: &World, n: u128) {
    let bandwidth = Bandwidth { otherwise: Rate(Some(8 << 20)), ..Bandwidth::default() };
    let settings = ReplicationSettings { bandwidth, ..ReplicationSettings::default() };
    let interval = Duration::from_millis(500);
    let asked = world.replicate_with(settings, &world.bravo, interval, &["vda"]);
    let Action::StartReplication(asked) = asked else { unreachable!() };
    let asked = StartReplication { machine: name(n).as_str().parse().unwrap(), ..asked };
    world.alpha.perform_for(name(n), 1, world.run, Action::StartReplication(asked)).unwrap();
}

fn statuses(world: &World) -> BTreeMap<ItemName, ReplicationFacts> {
    let sources = world.alpha.sources();
    (0..ITEMS).filter_map(|n| Some((name(n), sources.status(&name(n))?))).collect()
}

fn copying(statuses: &BTreeMap<ItemName, ReplicationFacts>) -> BTreeSet<ItemName> {
    let copies = |r: &ReplicationFacts| {
        r.state == ReplicationState::Initial && r.total_bytes > 0 && r.last_seq.is_none()
    };
    statuses.iter().filter(|(_, r)| copies(r)).map(|(item, _)| item.clone()).collect()
}

/// R-REP-8: 20 first copies through 2 slots: never more than 2 at once, the oldest first; those that have their copy go on with
/// their deltas meanwhile, and a last delta waits for nobody.
#[test]
fn twenty_items_share_two_slots_and_the_oldest_goes_first() {
    let mut world = World::new(1);
    world.alpha.stop_agent();
    world.alpha.cycles = CycleLimits { deltas: 2, full_copies: 2 };
    world.alpha.start_agent();
    (0..ITEMS).for_each(|n| protect(&world, n));
    (0..ITEMS).for_each(|n| replicate(&world, n));
    let (mut most, mut most_queued) = (0, 0);
    let mut last_delta = None;
    wait("all first copies", || {
        // Who copies in both looks did so at the moment between them.
        let (before, after) = (statuses(&world), statuses(&world));
        let both = copying(&before).intersection(&copying(&after)).count();
        assert!(both <= 2, "{both} first copies at once");
        most = most.max(both);
        let queued = after.values().filter(|r| r.state == ReplicationState::Queued).count();
        most_queued = most_queued.max(queued);
        if last_delta.is_none() && after[&name(0)].last_seq.is_some() {
            let machine = name(0).as_str().parse().unwrap();
            world.alpha.block_on(world.alpha.hypervisor.power_off(&machine)).unwrap();
            let done = world.alpha.perform_for(name(0), 1, world.run, Action::SyncFinal { machine }).unwrap();
            let AgentTaskResult::FinalPoint { seq, .. } = done else { panic!("{done:?}") };
            let waiting = statuses(&world).values().filter(|r| r.last_seq.is_none()).count();
            last_delta = Some((seq.get(), waiting));
        }
        Some(()).filter(|()| after.values().all(|r| r.last_seq.is_some()))
    });
    assert_eq!(most, 2, "the slots were not used");
    assert!(most_queued >= 10, "only {most_queued} were told to be queued");
    let (seq, waiting) = last_delta.unwrap();
    assert!(seq > 1 && waiting > 10, "the last delta waited for the copies: {waiting} were left");
    let second = statuses(&world)[&name(1)].cycles;
    assert!(second >= 3, "the copies of the others held {} back: {second} cycles", name(1));

    let items = wait("the points in the facts", || {
        let facts = world.bravo.facts().items;
        Some(facts).filter(|items| items.iter().filter(|i| !i.points.is_empty()).count() == ITEMS as usize)
    });
    let received: Vec<UnixMicros> =
        (0..ITEMS).map(|n| items.iter().find(|i| i.item == name(n)).unwrap().points[0].received).collect();
    for (n, at) in received.iter().enumerate().skip(4) {
        let overtaken = received[..n].iter().filter(|earlier| *earlier > at).count();
        assert!(overtaken <= 1, "{n} overtook {overtaken}: {received:?}");
    }
    // Nobody starves: all but the one that is off go on.
    let before = statuses(&world);
    wait("three more cycles of all", || {
        let now = statuses(&world);
        let on = (1..ITEMS).all(|n| now[&name(n)].cycles >= before[&name(n)].cycles + 3);
        Some(()).filter(|()| on)
    });
}
