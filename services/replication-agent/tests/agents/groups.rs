//! Consistency groups (R-REP-12): machines that talk to each other, cut at one instant.
//!
//! ```text
//!   north writes n ─▶ tells south ─▶ south writes n ─▶ tells north ─▶ north writes n + 1 …
//! ```
//! So at any one instant south's last number is north's, or the one before it. Points of two instants show anything else.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use understudy_hypervisor::{
    DiskHardware, Error, Hypervisor,
    simulated::{self, SimulatedHypervisor},
};
use understudy_ids::{ItemName, MachineName, UnixMicros, Uuid};
use understudy_replica_store::qcow2::Writer;
use understudy_replication::{Joint, Membership, ReplicationSettings, RetentionPolicy, joint};
use understudy_replication_api::{
    Action, AgentTaskResult, DiskSize, GroupFacts, RecoveryPoint, ReplicationFacts, StartReplication,
};

use crate::harness::{Host, World, define_as, disk, disk_hardware, read, wait};

const SIZE: u64 = 1 << 20;
const INTERVAL: Duration = Duration::from_millis(300);
const NORTH: &str = "north";
const SOUTH: &str = "south";

fn name(text: &str) -> ItemName {
    text.parse().unwrap()
}

fn machine(text: &str) -> MachineName {
    text.parse().unwrap()
}

/// A machine of the item's name runs at alpha, and bravo is ready for its points.
fn make(world: &World, item: &str, uuid: u128) {
    let file = world.alpha.dir.join(format!("{item}.qcow2"));
    Writer::create(&file, SIZE, None).unwrap().finish().unwrap();
    let vda = DiskHardware { file: Some(file), ..disk_hardware(&world.alpha, "vda") };
    define_as(&world.alpha, &name(item), &machine(item), Uuid::from_u128(uuid), vec![vda]);
    world.alpha.block_on(world.alpha.hypervisor.start(&machine(item))).unwrap();
    prepare(world, item, RetentionPolicy::default());
}

fn prepare(world: &World, item: &str, retention: RetentionPolicy) {
    let disks = vec![DiskSize { name: disk("vda"), size: SIZE }];
    world.bravo.perform_for(name(item), 1, world.run, Action::PrepareReplica { disks, retention }).unwrap();
}

/// The item is replicated, as one of a group of these where there are any; asked for twice, which changes nothing.
fn replicate(world: &World, item: &str, members: &[&str]) {
    let asked = world.replicate_with(ReplicationSettings::default(), &world.bravo, INTERVAL, &["vda"]);
    let Action::StartReplication(asked) = asked else { unreachable!() };
    let group = (!members.is_empty()).then(|| Membership {
        group: "compass".parse().unwrap(),
        members: members.iter().map(|member| name(member)).collect(),
    });
    let asked = StartReplication { machine: machine(item), group, ..asked };
    for _ in 0..2 {
        let asked = Action::StartReplication(asked.clone());
        world.alpha.perform_for(name(item), 1, world.run, asked).unwrap();
    }
}

/// North and south talk until this is dropped.
struct Talk {
    stop: Arc<AtomicBool>,
    talker: Option<JoinHandle<u64>>,
}

impl Talk {
    fn between(host: &Host) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (hypervisor, ended) = (host.hypervisor.clone(), stop.clone());
        let talker = std::thread::spawn(move || {
            let mut last = 0;
            while !ended.load(Ordering::Relaxed) {
                let next = last + 1;
                if !write(&hypervisor, NORTH, next, &ended) || !write(&hypervisor, SOUTH, next, &ended) {
                    break;
                }
                last = next;
            }
            last
        });
        Self { stop, talker: Some(talker) }
    }

    fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.talker.take().unwrap().join().unwrap()
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The guest writes the number as soon as it is let to.
fn write(hypervisor: &SimulatedHypervisor, item: &str, number: u64, ended: &AtomicBool) -> bool {
    loop {
        match hypervisor.guest_write(&machine(item), &disk("vda"), 0, &number.to_le_bytes()) {
            Ok(()) => return true,
            Err(Error::WrongState { .. }) if !ended.load(Ordering::Relaxed) => std::thread::yield_now(),
            Err(error) => {
                assert!(ended.load(Ordering::Relaxed), "{error}");
                return false;
            }
        }
    }
}

fn last_number(world: &World, item: &str, point: &RecoveryPoint) -> u64 {
    let path = format!("store/items/{item}/points/{}/disk-vda.qcow2", point.seq);
    u64::from_le_bytes(read(&world.bravo.dir.join(path))[..8].try_into().unwrap())
}

fn points(world: &World, item: &str) -> Vec<RecoveryPoint> {
    let found = world.bravo.facts().items.into_iter().find(|facts| facts.item == name(item));
    found.map(|facts| facts.points).unwrap_or_default()
}

/// The complete instants of the group, as bravo's points tell.
fn complete(world: &World) -> Vec<UnixMicros> {
    let facts = world.bravo.facts();
    let joints = |points: &'_ [RecoveryPoint]| points.iter().filter_map(|p| p.joint.clone()).collect();
    let owned: BTreeMap<ItemName, Vec<Joint>> =
        facts.items.iter().map(|i| (i.item.clone(), joints(&i.points))).collect();
    let of_items = owned.iter().map(|(item, joints)| (item.clone(), joints.iter().collect())).collect();
    joint::complete(&of_items, &"compass".parse().unwrap())
}

fn complete_after(world: &World, count: usize) -> Vec<UnixMicros> {
    let before = complete(world).len();
    wait("complete instants", || Some(complete(world)).filter(|found| found.len() >= before + count))
}

fn find(world: &World, item: &str, instant: UnixMicros) -> Option<RecoveryPoint> {
    points(world, item).into_iter().find(|p| p.joint.is_some() && p.instant == instant)
}

fn at(world: &World, item: &str, instant: UnixMicros) -> RecoveryPoint {
    find(world, item, instant).unwrap_or_else(|| panic!("{item} has no point of {instant:?}"))
}

fn took_part(point: &RecoveryPoint) -> usize {
    point.joint.as_ref().map_or(0, |joint| joint.members.len())
}

fn status(world: &World, item: &str) -> ReplicationFacts {
    world.alpha.sources().status(&name(item)).unwrap()
}

fn group(world: &World, item: &str) -> GroupFacts {
    status(world, item).group.unwrap()
}

fn assert_linked(world: &World, instants: &[UnixMicros]) -> u64 {
    let mut last = 0;
    for instant in instants {
        let [north, south] = [NORTH, SOUTH].map(|item| last_number(world, item, &at(world, item, *instant)));
        assert!(south == north || south + 1 == north, "at {instant:?}: north {north}, south {south}");
        assert!(north >= last, "an older state under a later instant");
        last = north;
    }
    last
}

fn pair() -> World {
    let world = World::new(1);
    make(&world, NORTH, 501);
    make(&world, SOUTH, 502);
    world
}

/// R-REP-12: every point of a group holds what the other one's tells of; the pause is measured and told; both sides keep the same instants.
#[test]
fn points_of_a_group_are_of_one_instant() {
    // Those between them in the order of names keep the host busy between the cuts of the two that talk.
    const ALL: [&str; 6] = [NORTH, "o1", "o2", "o3", "o4", SOUTH];
    let world = pair();
    (0..).zip(&ALL[1..5]).for_each(|(n, item)| make(&world, item, 510 + n));
    let talk = Talk::between(&world.alpha);
    ALL.iter().for_each(|item| replicate(&world, item, &ALL));
    // Those that have no first point yet are left out of the first rounds.
    let instants = wait("instants of all", || {
        let of_all =
            |instant: &UnixMicros| find(&world, SOUTH, *instant).is_some_and(|p| took_part(&p) == ALL.len());
        Some(complete(&world).into_iter().filter(of_all).collect::<Vec<_>>())
            .filter(|found| found.len() >= 12)
    });
    let last = assert_linked(&world, &instants);
    assert!(last > 100, "{last} messages are too few to show something");
    for instant in &instants {
        let [north, south] = [NORTH, SOUTH].map(|item| at(&world, item, *instant).joint.unwrap());
        assert_eq!(north, south, "what is told of one instant");
        assert_eq!(north.members, ALL.map(name).into());
        assert!(north.pause > Duration::ZERO && north.pause < Duration::from_secs(5), "{:?}", north.pause);
    }
    // Rounds go on, and on a busy machine one comes to nothing now and then.
    let told = wait("a round that was told as complete", || {
        Some(group(&world, NORTH)).filter(|told| told.missed.is_none())
    });
    assert_eq!(told.members.len(), ALL.len());
    assert!(told.last_pause.is_some() && told.last_instant >= instants.last().copied());

    // A policy that keeps few: the same ones stay at both, and they stay complete.
    assert!(talk.end() > last);
    for item in ALL {
        prepare(&world, item, RetentionPolicy { keep_count: Some(4), ..RetentionPolicy::default() });
    }
    wait("few points", || {
        let few = |item: &&str| points(&world, item).len() <= 5;
        Some(()).filter(|()| ALL.iter().all(few) && complete(&world).len() >= 3)
    });
}

/// R-REP-12: independent points of the same machines do not fit together, which is what the test above would see.
#[test]
fn points_of_their_own_do_not_fit_together() {
    let world = pair();
    let talk = Talk::between(&world.alpha);
    replicate(&world, NORTH, &[]);
    replicate(&world, SOUTH, &[]);
    wait("many points", || {
        let [north, south] = [NORTH, SOUTH].map(|item| points(&world, item));
        Some(()).filter(|()| north.len() >= 8 && south.len() >= 8)
    });
    let [north, south] = [NORTH, SOUTH].map(|item| points(&world, item));
    assert!(north.iter().chain(&south).all(|point| point.joint.is_none()));
    let fit = north.iter().zip(&south).filter(|(north, south)| {
        let (north, south) = (last_number(&world, NORTH, north), last_number(&world, SOUTH, south));
        south == north || south + 1 == north
    });
    assert!(fit.count() < 4, "points fit together that nobody has made so");
    talk.end();
}

/// R-REP-12: an item that is added takes part as soon as it has a first point, one that is taken out makes points of its own, and nobody's
/// replication begins anew.
#[test]
fn items_are_added_and_taken_out_while_the_group_goes_on() {
    let world = pair();
    make(&world, "east", 503);
    let talk = Talk::between(&world.alpha);
    replicate(&world, NORTH, &[NORTH, SOUTH]);
    replicate(&world, SOUTH, &[NORTH, SOUTH]);
    replicate(&world, "east", &[]);
    complete_after(&world, 2);
    let before = status(&world, NORTH).cycles;
    let all = [NORTH, SOUTH, "east"];
    all.iter().for_each(|item| replicate(&world, item, &all));
    let joined = wait("an instant of all three", || {
        let newest = points(&world, "east").into_iter().rev().find_map(|p| p.joint);
        newest.filter(|joint| joint.members.len() == 3 && complete(&world).contains(&joint.instant))
    });
    assert_linked(&world, &[joined.instant]);
    assert!(status(&world, NORTH).cycles > before, "its loop has begun anew");

    replicate(&world, NORTH, &[]);
    replicate(&world, SOUTH, &[SOUTH, "east"]);
    replicate(&world, "east", &[SOUTH, "east"]);
    wait("an instant of the two that are left", || {
        let newest = points(&world, "east").pop()?.joint?;
        Some(()).filter(|()| newest.members == BTreeSet::from([name(SOUTH), name("east")]))
    });
    let own = points(&world, NORTH).len();
    wait("points of its own", || {
        let points = points(&world, NORTH);
        Some(()).filter(|()| points.len() > own + 1 && points.last().is_some_and(|p| p.joint.is_none()))
    });
    assert_eq!(status(&world, NORTH).group, None);
    talk.end();
}

/// R-REP-12: one item that cannot take part costs the others the common instant and nothing else, and they say who it is.
#[test]
fn one_dead_item_does_not_stop_the_others() {
    let world = pair();
    let talk = Talk::between(&world.alpha);
    replicate(&world, NORTH, &[NORTH, SOUTH]);
    replicate(&world, SOUTH, &[NORTH, SOUTH]);
    complete_after(&world, 2);
    talk.end();
    world.alpha.block_on(world.alpha.hypervisor.power_off(&machine(SOUTH))).unwrap();
    // Off it takes part as it is.
    complete_after(&world, 2);
    world.alpha.block_on(world.alpha.hypervisor.undefine(&machine(SOUTH))).unwrap();
    let before = points(&world, NORTH).len();
    let told = wait("points of its own", || {
        let points = points(&world, NORTH);
        let alone = points.len() > before + 2 && points.last().is_some_and(|p| p.joint.is_none());
        group(&world, NORTH).missed.filter(|_| alone)
    });
    assert_eq!(told.reason, "GROUP_MEMBER_FAILED");
    assert!(told.message.contains(SOUTH) && !told.remedy.is_empty(), "{told:?}");
    assert_eq!(status(&world, NORTH).last_error, None, "replication of the others is no worse");
}

/// R-PF-2: a machine whose last delta is at the target is a failover's: no round makes a point that would come between. Where it runs
/// again, it takes part again.
#[test]
fn no_round_makes_a_point_after_the_last_delta() {
    let world = pair();
    replicate(&world, NORTH, &[NORTH, SOUTH]);
    replicate(&world, SOUTH, &[NORTH, SOUTH]);
    complete_after(&world, 2);
    world.alpha.block_on(world.alpha.hypervisor.power_off(&machine(SOUTH))).unwrap();
    let last = Action::SyncFinal { machine: machine(SOUTH) };
    let done = world.alpha.perform_for(name(SOUTH), 1, world.run, last).unwrap();
    let AgentTaskResult::FinalPoint { seq, .. } = done else { panic!("{done:?}") };
    let before = points(&world, NORTH).len();
    let newest = wait("instants of the other one alone", || {
        let points = points(&world, NORTH);
        let alone = points.last().is_some_and(|point| took_part(point) == 1);
        points.last().filter(|_| alone && points.len() > before + 3).cloned()
    });
    assert_eq!(newest.joint.unwrap().members, [name(NORTH)].into());
    assert_eq!(points(&world, SOUTH).last().unwrap().seq, seq, "a point came after the last delta");
    world.alpha.block_on(world.alpha.hypervisor.start(&machine(SOUTH))).unwrap();
    wait("instants of both", || {
        Some(()).filter(|()| points(&world, SOUTH).last().is_some_and(|point| took_part(point) == 2))
    });
}

/// R-REP-12: whoever dies in the middle leaves no guest held, and the group goes on with the agent's return.
#[test]
fn an_agent_that_dies_while_guests_are_held_leaves_none_so() {
    let mut world = World::new(1);
    world.alpha.stop_agent();
    // So that the guests are held for long enough to be caught at it.
    let config =
        simulated::Config { call_delay_ms: 40, ..simulated::Config::new(world.alpha.dir.join("machines")) };
    world.alpha.hypervisor = SimulatedHypervisor::open(config).unwrap();
    world.alpha.start_agent();
    make(&world, NORTH, 501);
    make(&world, SOUTH, 502);
    replicate(&world, NORTH, &[NORTH, SOUTH]);
    replicate(&world, SOUTH, &[NORTH, SOUTH]);
    complete_after(&world, 1);
    for _ in 0..3 {
        let held = |item: &str| world.alpha.hypervisor.is_held(&machine(item));
        wait("a guest that is held", || Some(()).filter(|()| held(NORTH) || held(SOUTH)));
        world.alpha.kill_agent();
        let held = |item: &str| world.alpha.hypervisor.is_held(&machine(item));
        wait("both to go on", || Some(()).filter(|()| !held(NORTH) && !held(SOUTH)));
        world.alpha.start_agent();
        complete_after(&world, 2);
    }
}
