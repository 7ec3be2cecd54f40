//! Activation leases: a host that is not heard stops its machine by itself (R-FO-7).

use std::time::{Duration, Instant};

use understudy_hypervisor::{Hypervisor as _, PowerState};
use understudy_replication_agent::tasks::TaskError;
use understudy_replication_api::Action;

use crate::harness::{World, machine, wait};

const SECOND: Duration = Duration::from_secs(1);

fn leased() -> World {
    let world = World::new(1);
    world.protect(Duration::from_millis(150));
    assert_eq!(world.alpha.power(&machine()), Some(PowerState::Running));
    world
}

fn is_off(world: &World) -> Option<()> {
    (world.alpha.power(&machine()) == Some(PowerState::ShutOff)).then_some(())
}

/// R-FO-7: stopped when the lease has ended and not before; it does not start here until the lease is renewed, and does then.
#[test]
fn a_machine_runs_for_as_long_as_its_lease_is_renewed() {
    let world = leased();
    let until = Instant::now() + 4 * SECOND;
    while Instant::now() < until {
        let renewed = world.alpha.renew(1, 2 * SECOND).unwrap();
        assert_eq!((renewed.held.len(), renewed.refused.len()), (1, 0));
        assert_eq!(world.alpha.power(&machine()), Some(PowerState::Running));
        std::thread::sleep(Duration::from_millis(100));
    }
    let renewed = Instant::now();
    wait("the machine to be stopped", || is_off(&world));
    assert!(renewed.elapsed() > SECOND, "stopped after {:?}", renewed.elapsed());
    let told =
        wait("the host to tell", || world.alpha.item_facts()?.lease.filter(|lease| lease.stopped.is_some()));
    assert!(told.ended && told.length == 2 * SECOND);

    let start = || world.alpha.perform(1, world.run, Action::StartMachine { machine: machine() });
    match start() {
        Err(TaskError::Retry(problem)) => assert_eq!(problem.reason, "LEASE_ENDED"),
        other => panic!("{other:?}"),
    }
    world.alpha.renew(1, 60 * SECOND).unwrap();
    start().unwrap();
    wait("it to be forgotten", || world.alpha.item_facts()?.lease.filter(|lease| lease.stopped.is_none()));
    assert_eq!(world.alpha.power(&machine()), Some(PowerState::Running));
}

/// R-FO-7: whatever starts it – a hook that is missing, a person – it is stopped again.
#[test]
fn a_machine_that_somebody_starts_without_a_lease_is_stopped_again() {
    let world = leased();
    world.alpha.renew(1, SECOND).unwrap();
    wait("the machine to be stopped", || is_off(&world));
    for _ in 0..2 {
        world.alpha.block_on(world.alpha.hypervisor.start(&machine())).unwrap();
        wait("the machine to be stopped again", || is_off(&world));
    }
}

/// R-FO-7: the lease is on disk, so an agent that comes back late finds what it had to end.
#[test]
fn a_lease_that_ends_while_the_agent_is_dead_is_ended_by_the_next_one() {
    let mut world = leased();
    world.alpha.renew(1, SECOND).unwrap();
    world.alpha.kill_agent();
    std::thread::sleep(2 * SECOND);
    assert_eq!(world.alpha.power(&machine()), Some(PowerState::Running), "nobody is left to stop it");
    world.alpha.start_agent();
    wait("the machine to be stopped", || is_off(&world));
}

/// R-FO-7: what is answered is what counts, and who may have a lease at all.
#[test]
fn what_is_not_the_answer_to_this_host_now_is_refused() {
    let world = leased();
    let why = |renewed: understudy_replication_api::activation::Renewed| {
        assert!(renewed.held.is_empty(), "{renewed:?}");
        renewed.refused.into_iter().map(|refused| refused.why).collect::<String>()
    };
    let mut pulse = world.alpha.pulse();
    std::thread::sleep(SECOND);
    assert!(why(world.alpha.renew_by(pulse.clone(), 1, SECOND).unwrap()).contains("ended before it came"));
    pulse.since_boot += 3600 * SECOND;
    assert!(why(world.alpha.renew_by(pulse.clone(), 1, SECOND).unwrap()).contains("not sent yet"));
    pulse.boot_id = "boot-0".to_owned();
    assert_eq!(world.alpha.renew_by(pulse, 1, SECOND).unwrap_err().reason, "OTHER_BOOT");
    for generation in [0, 2] {
        assert!(why(world.alpha.renew(generation, 60 * SECOND).unwrap()).contains("not the active side"));
    }
    assert!(why(world.bravo.renew(1, 60 * SECOND).unwrap()).contains("not the active side"));
    std::thread::sleep(2 * SECOND);
    assert_eq!(world.alpha.power(&machine()), Some(PowerState::Running), "bound by what it did not take");
}

/// R-FO-7: a note that was spoilt starts nothing, keeps nobody from the other leases, and is put right by the next renewal.
#[test]
fn a_note_that_cannot_be_read_is_no_lease_in_force() {
    let world = leased();
    world.alpha.renew(1, 60 * SECOND).unwrap();
    world.alpha.block_on(world.alpha.hypervisor.power_off(&machine())).unwrap();
    let note = world.alpha.dir.join("state/leases/web1.json");
    std::fs::write(&note, "").unwrap();
    let start = || world.alpha.perform(1, world.run, Action::StartMachine { machine: machine() });
    assert!(start().is_err());
    assert_eq!(world.alpha.renew(1, 60 * SECOND).unwrap().held.len(), 1);
    start().unwrap();
}

/// A policy without a lease, and an item that is not protected any more: the machine runs on.
#[test]
fn a_machine_that_is_released_runs_on() {
    let world = leased();
    world.alpha.renew(1, 2 * SECOND).unwrap();
    assert!(world.alpha.release().held.is_empty());
    wait("the host to tell", || world.alpha.item_facts().filter(|facts| facts.lease.is_none()));

    world.alpha.renew(1, 2 * SECOND).unwrap();
    world.alpha.twice(1, world.run, Action::StopReplication { forget: true });
    std::thread::sleep(4 * SECOND);
    assert_eq!(world.alpha.power(&machine()), Some(PowerState::Running));
}

/// R-FO-7: a side that has been told its place keeps stopping its copy until it is off, and then forgets the lease.
#[test]
fn a_side_that_is_fenced_in_passing_is_still_bound() {
    let world = leased();
    let seq = wait("a point", || Some(world.bravo.latest()).filter(|n| *n > 0));
    world.alpha.renew(1, 2 * SECOND).unwrap();
    // Alpha's source hears of it from its target, and ends replication; its machine runs on.
    world.bravo.twice(2, world.run, Action::PromotePoint { seq: World::seq(seq), nics: vec![None] });
    wait("alpha to hear of it", || world.alpha.record().filter(|record| record.generation.get() == 2));
    wait("the machine to be stopped", || is_off(&world));
    let note = world.alpha.dir.join("state/leases/web1.json");
    wait("the lease to be forgotten", || (!note.exists()).then_some(()));
}
