//! The tasks of a failover and back, each done twice.

use std::time::Duration;

use understudy_hypervisor::{Hypervisor, PowerState};
use understudy_ids::{Generation, MachineName};
use understudy_replication_agent::ledger::Role;
use understudy_replication_api::{Action, AgentTaskResult};

use crate::harness::{BLOCK, Host, World, disk, machine, read, wait};

const SHORT: Duration = Duration::from_millis(150);

fn roots(
    host: &Host,
    generation: u64,
    run: understudy_ids::Uuid,
    action: Action,
) -> Vec<understudy_replication_api::DiskRoot> {
    match host.twice(generation, run, action) {
        AgentTaskResult::DiskDigests(mut roots) => {
            roots.sort_by(|a, b| a.disk.cmp(&b.disk));
            roots
        }
        other => panic!("{other:?}"),
    }
}

/// R-PF-2, R-FO-4, R-FO-6, R-UF-5, R-FB-1: over and back, with no byte lost and only differences shipped.
#[test]
fn planned_failover_and_reverse_replication_ship_what_differs_and_lose_nothing() {
    let mut world = World::new(24);
    world.protect(SHORT);
    wait("a point", || Some(()).filter(|()| world.bravo.latest() > 0));
    world.model.write(&world.alpha, 30);
    let run = world.run;
    let (alpha, bravo) = (&world.alpha, &world.bravo);

    let stop =
        Action::ShutDownMachine { machine: machine(), grace: Duration::from_secs(5), then_power_off: true };
    alpha.twice(1, run, stop);
    let AgentTaskResult::FinalPoint { .. } = alpha.twice(1, run, Action::SyncFinal { machine: machine() })
    else {
        panic!("no final point")
    };
    let last = bravo.latest();
    assert!(world.model.is_at(bravo, last), "the final point is not the machine");
    let source = roots(alpha, 1, run, Action::DigestDisks { machine: machine() });
    let target = roots(bravo, 1, run, Action::VerifyPoint { seq: World::seq(last) });
    assert_eq!(source, target);

    bravo.twice(2, run, Action::PromotePoint { seq: World::seq(last), nics: vec![None] });
    alpha.twice(2, run, Action::Fence { power_off: true });
    bravo.twice(2, run, Action::StartMachine { machine: machine() });
    assert_eq!(bravo.power(&machine()), Some(PowerState::Running));
    let promoted = bravo.block_on(bravo.hypervisor.machine(&machine())).unwrap().unwrap();
    let original = alpha.block_on(alpha.hypervisor.machine(&machine())).unwrap().unwrap();
    assert_eq!(promoted.uuid, original.uuid);
    assert_eq!(promoted.hardware.nics[0].mac, original.hardware.nics[0].mac);
    let serials = |m: &understudy_hypervisor::Machine| {
        m.hardware.disks.iter().map(|d| d.serial.clone()).collect::<Vec<_>>()
    };
    assert_eq!(serials(&promoted), serials(&original));
    bravo.twice(2, run, Action::CommitItem);

    // Reverse: the old disks are the base, what bravo wrote since is all that crosses.
    let base = last + 10;
    alpha.twice(2, run, Action::AdoptDisks { machine: machine(), seq: World::seq(base) });
    assert_eq!(alpha.record().unwrap().role, Role::Target);
    assert_eq!(alpha.power(&machine()), None, "the old machine is still defined");
    let before = alpha.link.passed();
    let changed = vec![0xee; 3 * BLOCK as usize];
    bravo.hypervisor.guest_write(&machine(), &disk("vda"), 5 * BLOCK, &changed).unwrap();
    let offset = 5 * BLOCK as usize;
    let mut expected = world.model.disks["vda"].clone();
    expected[offset..offset + changed.len()].copy_from_slice(&changed);
    bravo.twice(2, run, world.replicate(alpha, SHORT));
    wait("a point in reverse", || Some(()).filter(|()| alpha.latest() > base));
    let first = base + 1;
    assert!(alpha.content(first, "vda") == expected, "the reverse point is not the machine");
    let shipped = alpha.link.passed() - before;
    assert!(shipped < 1 << 20, "{shipped} bytes crossed for three changed blocks");
}

/// R-TF-1, R-TF-5: a test branches off a point, replication goes on, and nothing is left; also of a test that is cleaned up
/// after the item has moved on.
#[test]
fn a_test_machine_comes_and_goes_and_leaves_the_point_as_it_was() {
    let world = World::new(2);
    world.protect(SHORT);
    let seq = wait("a point", || Some(world.bravo.latest()).filter(|n| *n > 0));
    let before = world.bravo.content(seq, "vda");
    let name: MachineName = "web1-test-1".parse().unwrap();
    let create = Action::CreateTestMachine { seq: None, name: name.clone(), nics: vec![None] };
    let AgentTaskResult::MachineCreated { seq, .. } = world.bravo.twice(1, world.run, create) else {
        panic!("no machine")
    };
    world.bravo.twice(1, world.run, Action::StartMachine { machine: name.clone() });
    world.bravo.hypervisor.guest_write(&name, &disk("vda"), 0, &vec![9; BLOCK as usize]).unwrap();
    world.next_point();
    assert!(wait("a pin", || world.bravo.item_facts()?.points.into_iter().find(|p| p.pinned)).seq == seq);
    world.bravo.perform(2, world.run, Action::Fence { power_off: false }).unwrap();
    world.bravo.twice(1, world.run, Action::RemoveTestMachine { machine: name.clone() });
    assert_eq!(world.bravo.power(&name), None);
    assert_eq!(world.bravo.content(seq.get(), "vda"), before);
    let left = std::fs::read_dir(world.bravo.dir.join("store/items/web1/branches")).unwrap().count();
    assert_eq!(left, 0, "a branch is left");
}

/// R-TF-7: the machine of a test goes on as production, with what it has written and with the identity of the real one; the clean-up of the test, which
/// comes behind that, finds nothing.
#[test]
fn the_machine_of_a_test_can_be_promoted() {
    let world = World::new(2);
    world.protect(SHORT);
    wait("a point", || Some(()).filter(|()| world.bravo.latest() > 0));
    let (bravo, test) = (&world.bravo, understudy_ids::Uuid::from_u128(77));
    let name: MachineName = "web1-test-1".parse().unwrap();
    let create = Action::CreateTestMachine { seq: None, name: name.clone(), nics: vec![None] };
    let AgentTaskResult::MachineCreated { seq, .. } = bravo.twice(1, test, create) else {
        panic!("no machine")
    };
    let promote = |run, seq| Action::PromoteTest {
        run,
        test_machine: name.clone(),
        grace: Duration::from_secs(5),
        seq,
        nics: vec![None],
    };
    bravo.twice(1, test, Action::StartMachine { machine: name.clone() });
    bravo.hypervisor.guest_write(&name, &disk("vda"), 0, &vec![9; BLOCK as usize]).unwrap();
    world.alpha.twice(2, world.run, Action::Fence { power_off: true });

    assert!(
        bravo.perform(2, world.run, promote(understudy_ids::Uuid::from_u128(78), seq)).is_err(),
        "another's"
    );
    assert_eq!(bravo.power(&name), Some(PowerState::Running), "a refused promotion has ended the test");
    let done = bravo.twice(2, world.run, promote(test, seq));
    assert!(
        matches!(done, AgentTaskResult::MachineCreated { machine: of, seq: from, .. } if of == machine() && from == seq)
    );
    assert_eq!((bravo.power(&name), bravo.power(&machine())), (None, Some(PowerState::ShutOff)));
    let original = world.alpha.block_on(world.alpha.hypervisor.machine(&machine())).unwrap().unwrap();
    let promoted = bravo.block_on(bravo.hypervisor.machine(&machine())).unwrap().unwrap();
    assert_eq!(promoted.uuid, original.uuid);
    bravo.twice(2, world.run, Action::StartMachine { machine: machine() });
    let written = read(&bravo.dir.join("store/items/web1/active/2/disk-vda.qcow2"));
    let first = BLOCK as usize;
    assert!(written[..first].iter().all(|byte| *byte == 9), "what the test wrote is lost");
    assert!(written[first..] == bravo.content(seq.get(), "vda")[first..], "the rest is not the point's");

    bravo.twice(1, test, Action::RemoveTestMachine { machine: name.clone() });
    assert_eq!(
        bravo.power(&machine()),
        Some(PowerState::Running),
        "the test's clean-up has taken the promoted machine"
    );
    bravo.twice(2, world.run, promote(test, seq));
    assert_eq!(bravo.power(&machine()), Some(PowerState::Running));
    bravo.twice(2, world.run, Action::CommitItem);
    let left = std::fs::read_dir(bravo.dir.join("store/items/web1/branches")).unwrap().count();
    assert_eq!(left, 0, "a branch is left");
}

/// R-FO-4: until commit another point can be chosen. What the machine wrote lies aside until another one runs, and the points are as they were.
#[test]
fn another_point_can_be_promoted_before_commit() {
    let mut world = World::new(2);
    world.protect(SHORT);
    let early = wait("a point", || Some(world.bravo.latest()).filter(|n| *n > 0));
    let then = world.bravo.content(early, "vda");
    world.model.write(&world.alpha, 20);
    let late = world.next_point();
    let promote = |seq| Action::PromotePoint { seq: World::seq(seq), nics: vec![None] };
    let aside = Action::SetAside { machine: machine(), seq: World::seq(late) };
    let bravo = &world.bravo;
    let active = || read(&bravo.dir.join("store/items/web1/active/2/disk-vda.qcow2"));
    let lying_aside = || std::fs::read_dir(bravo.dir.join("store/items/web1/aside")).unwrap().count();
    world.alpha.twice(2, world.run, Action::Fence { power_off: true });
    bravo.twice(2, world.run, promote(late));
    bravo.twice(2, world.run, Action::StartMachine { machine: machine() });
    bravo.hypervisor.guest_write(&machine(), &disk("vda"), 0, &vec![7; BLOCK as usize]).unwrap();
    assert!(bravo.perform(2, world.run, promote(early)).is_err(), "promoted under a running machine");
    assert!(bravo.perform(2, world.run, aside.clone()).is_err(), "taken away from a running machine");
    bravo.block_on(bravo.hypervisor.power_off(&machine())).unwrap();
    let ran = active();
    bravo.twice(2, world.run, aside.clone());
    bravo.twice(2, world.run, promote(early));
    assert!(active() == then);
    bravo.perform(2, world.run, aside.clone()).unwrap();
    assert!(bravo.power(&machine()).is_some(), "the machine that was made meanwhile is left alone");

    // It does not come up, say, and what ran before is wanted back: with what it had written.
    bravo.twice(2, world.run, promote(late));
    assert!(active() == ran && lying_aside() == 0);
    bravo.twice(2, world.run, aside);
    bravo.twice(2, world.run, promote(early));
    bravo.twice(2, world.run, Action::StartMachine { machine: machine() });
    bravo.twice(2, world.run, Action::DropAside);
    assert!(active() == then && lying_aside() == 0);
}

/// R-FO-4, R-FO-7: the old side goes on at a higher generation from its own disks, ships what differs, and nothing of the failover is left.
#[test]
fn a_failover_that_is_rolled_back_goes_on_from_the_old_sides_disks() {
    let mut world = World::new(24);
    world.protect(SHORT);
    wait("a point", || Some(()).filter(|()| world.bravo.latest() > 0));
    let stop =
        Action::ShutDownMachine { machine: machine(), grace: Duration::from_secs(5), then_power_off: true };
    world.alpha.twice(1, world.run, stop.clone());
    world.alpha.twice(1, world.run, Action::SyncFinal { machine: machine() });
    let last = world.bravo.latest();
    let run = world.run;
    world.alpha.twice(2, run, Action::Fence { power_off: true });
    world.bravo.twice(2, run, Action::PromotePoint { seq: World::seq(last), nics: vec![None] });
    world.bravo.twice(2, run, Action::StartMachine { machine: machine() });
    let given_up = vec![7; BLOCK as usize];
    world.bravo.hypervisor.guest_write(&machine(), &disk("vda"), 0, &given_up).unwrap();

    let discard = Action::DiscardPromotion { machine: machine(), generation: Generation::new(2) };
    assert!(world.bravo.perform(2, run, discard.clone()).is_err(), "removed while it runs");
    world.bravo.twice(2, run, stop);
    world.bravo.twice(3, run, Action::Fence { power_off: true });
    world.alpha.twice(3, run, Action::StartMachine { machine: machine() });
    world.bravo.twice(3, run, discard);
    assert_eq!(world.bravo.power(&machine()), None);
    assert_eq!(std::fs::read_dir(world.bravo.dir.join("store/items/web1/active")).unwrap().count(), 0);
    let before = world.alpha.link.passed() + world.bravo.link.passed();
    world.bravo.twice(3, run, Action::PrepareReplica { disks: world.sizes(), retention: Default::default() });
    world.model.write(&world.alpha, 3);
    world.alpha.twice(3, run, world.replicate(&world.bravo, SHORT));
    let next = wait("a point at generation 3", || Some(world.bravo.latest()).filter(|n| *n > last));
    wait("what was written since", || {
        Some(()).filter(|()| world.model.is_at(&world.bravo, world.bravo.latest()))
    });
    assert!(next > last);
    let shipped = world.alpha.link.passed() + world.bravo.link.passed() - before;
    assert!(shipped < 2 << 20, "{shipped} bytes crossed for three changed blocks");
    assert_eq!(world.bravo.record().unwrap().role, Role::Target);
}

/// R-FB-2, R-FB-4, invariant 9: copied in full when the machine is off, beside the old disks, which nothing touches or reads before the new copy is whole. Given up
/// half way, and done from its beginning.
#[test]
fn a_failback_that_copies_while_the_machine_is_off_leaves_the_old_disks_as_they_were() {
    let mut world = World::new(24);
    world.protect(SHORT);
    world.model.write(&world.alpha, 30);
    let last = wait("what was written", || {
        Some(world.bravo.latest()).filter(|seq| *seq > 0 && world.model.is_at(&world.bravo, *seq))
    });
    let run = world.run;
    let stop =
        Action::ShutDownMachine { machine: machine(), grace: Duration::from_secs(5), then_power_off: true };
    // Alpha is lost, and returns with disks on which something was written since.
    let lost = vec![0xdd; BLOCK as usize];
    world.alpha.hypervisor.guest_write(&machine(), &disk("vda"), 0, &lost).unwrap();
    world.bravo.twice(2, run, Action::PromotePoint { seq: World::seq(last), nics: vec![None] });
    world.bravo.twice(2, run, Action::StartMachine { machine: machine() });
    world.bravo.twice(2, run, Action::CommitItem);
    world.alpha.twice(2, run, Action::Fence { power_off: true });
    world.model.write(&world.bravo, 10);
    let old = || -> Vec<Vec<u8>> {
        let machine = world.alpha.block_on(world.alpha.hypervisor.machine(&machine())).unwrap().unwrap();
        machine.hardware.disks.iter().map(|disk| read(disk.file.as_ref().unwrap())).collect()
    };
    let (alpha, bravo) = (&world.alpha, &world.bravo);
    let before = old();
    assert!(before.iter().any(|disk| disk[..BLOCK as usize] == lost[..]));

    let copy = |passed: u64| {
        bravo.twice(2, run, stop.clone());
        let replica = Action::PrepareReplica { disks: world.sizes(), retention: Default::default() };
        alpha.twice(2, run, replica);
        bravo.twice(2, run, world.replicate(alpha, SHORT));
        wait("a point at alpha", || Some(()).filter(|()| alpha.latest() > passed));
        let AgentTaskResult::FinalPoint { seq, .. } =
            bravo.twice(2, run, Action::SyncFinal { machine: machine() })
        else {
            panic!("no final point")
        };
        seq
    };
    let first = copy(0);
    assert!(world.model.is_at(alpha, first.get()), "the copy is not the machine");
    assert!(old() == before, "the old disks were touched");
    bravo.twice(2, run, Action::StopReplication { forget: false });
    bravo.twice(2, run, Action::StartMachine { machine: machine() });
    assert_eq!(
        (bravo.power(&machine()), alpha.power(&machine())),
        (Some(PowerState::Running), Some(PowerState::ShutOff))
    );

    let seq = copy(first.get());
    let source = roots(bravo, 2, run, Action::DigestDisks { machine: machine() });
    assert_eq!(source, roots(alpha, 2, run, Action::VerifyPoint { seq }));
    assert!(old() == before, "the old disks were touched");
    bravo.twice(2, run, Action::StopReplication { forget: false });
    bravo.twice(3, run, Action::Fence { power_off: true });
    alpha.twice(3, run, Action::PromotePoint { seq, nics: vec![None] });
    assert!(old() != before, "the machine at alpha has its old disks");
    alpha.twice(3, run, Action::StartMachine { machine: machine() });
    alpha.twice(3, run, Action::CommitItem);
    assert_eq!(
        (alpha.power(&machine()), bravo.power(&machine())),
        (Some(PowerState::Running), Some(PowerState::ShutOff))
    );
}
