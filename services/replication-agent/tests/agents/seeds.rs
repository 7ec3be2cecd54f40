//! R-REP-11: a first copy on a medium, carried from the source's host to the target's.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use understudy_ids::Uuid;
use understudy_replication::RetentionPolicy;
use understudy_replication_agent::tasks::TaskError;
use understudy_replication_api::{Action, AgentTaskResult};

use crate::harness::{Host, Model, World, disk, machine, read, wait};

const SHORT: Duration = Duration::from_millis(150);

fn export() -> Action {
    let disks = vec![disk("vda"), disk("vdb")];
    Action::ExportSeed { machine: machine(), disks, seed: "disk-3".parse().unwrap() }
}

fn import(world: &World) -> Action {
    Action::ImportSeed { disks: world.sizes(), seed: "disk-3".parse().unwrap() }
}

fn remove() -> Action {
    Action::RemoveSeed { seed: "disk-3".parse().unwrap() }
}

fn place(host: &Host) -> PathBuf {
    host.dir.join("media/disk-3/web1")
}

/// The medium is unplugged at one host and plugged in at the other.
fn carry(from: &Host, to: &Host) {
    fs::create_dir_all(to.dir.join("media")).unwrap();
    let medium = from.dir.join("media/disk-3");
    assert!(Command::new("mv").arg(medium).arg(to.dir.join("media")).status().unwrap().success());
}

fn reason(result: Result<AgentTaskResult, TaskError>) -> String {
    match result {
        Err(TaskError::Failed(problem)) => problem.reason,
        other => panic!("{other:?}"),
    }
}

fn is_on(model: &Model, host: &Host) -> bool {
    model.disks.iter().all(|(name, content)| read(&place(host).join(format!("{name}.qcow2"))) == *content)
}

#[test]
fn what_was_carried_over_is_not_sent() {
    let mut world = World::new(32);
    let bytes = world.alpha.twice(1, world.run, export());
    assert!(matches!(bytes, AgentTaskResult::Seeded { bytes } if bytes >= 32 << 20), "{bytes:?}");
    assert!(is_on(&world.model, &world.alpha), "the medium is not the machine");
    // Nothing about replication was begun, and nothing is tracked or held for it.
    assert!(world.alpha.record().is_none());
    let checkpoints = world
        .alpha
        .block_on(understudy_hypervisor::Hypervisor::checkpoints(&world.alpha.hypervisor, &machine()));
    assert_eq!(checkpoints.unwrap(), []);

    carry(&world.alpha, &world.bravo);
    world.model.write(&world.alpha, 12);
    let prepare = Action::PrepareReplica { disks: world.sizes(), retention: RetentionPolicy::default() };
    world.bravo.twice(1, world.run, prepare);
    world.bravo.twice(1, world.run, import(&world));
    // The medium may go home.
    fs::remove_dir_all(world.bravo.dir.join("media")).unwrap();
    world.bravo.twice(1, world.run, import(&world));
    let told = || world.bravo.item_facts().map(|facts| facts.points).filter(|points| !points.is_empty());
    let listed = wait("the base in the facts", told);
    assert!(listed.iter().all(|point| point.is_base), "a base is offered: {listed:?}");

    let before = world.bravo.link.passed();
    world.alpha.twice(1, world.run, world.replicate(&world.bravo, SHORT));
    let seq = wait("a point", || Some(world.bravo.latest()).filter(|n| *n > 1));
    let passed = world.bravo.link.passed() - before;
    assert!(passed < 4 << 20, "{passed} bytes passed for 12 writes of at most 150 KiB");
    let seq = seq.max(world.next_point());
    assert!(world.model.is_at(&world.bravo, seq), "point {seq} is not the machine");
    // Once there are points, a medium has nothing to say any more.
    let late = world.bravo.perform(1, world.run, import(&world));
    assert_eq!(late, Ok(AgentTaskResult::Seeded { bytes: 0 }));
}

#[test]
fn nothing_is_overwritten_and_only_ones_own_is_removed() {
    let mut world = World::new(8);
    let other = Uuid::from_u128(99);
    // An attempt before was killed.
    let part = world.alpha.dir.join("media/disk-3/.web1.part");
    fs::create_dir_all(&part).unwrap();
    fs::write(part.join("vda.qcow2"), "half").unwrap();
    world.alpha.twice(1, world.run, export());
    assert!(is_on(&world.model, &world.alpha) && !part.exists());
    // Another run neither takes it for its own nor touches it.
    world.model.write(&world.alpha, 3);
    assert_eq!(reason(world.alpha.perform(1, other, export())), "SEED_EXISTS");
    world.alpha.perform(1, other, remove()).unwrap();
    assert!(place(&world.alpha).exists());
    world.alpha.twice(1, world.run, remove());
    assert!(!place(&world.alpha).exists());
    // What somebody has put there by hand stays.
    fs::create_dir_all(place(&world.alpha)).unwrap();
    fs::write(place(&world.alpha).join("vda.raw"), "mine").unwrap();
    assert_eq!(reason(world.alpha.perform(1, world.run, export())), "SEED_EXISTS");
    world.alpha.twice(1, world.run, remove());
    assert!(place(&world.alpha).join("vda.raw").exists());
    assert_eq!(world.alpha.power(&machine()), Some(understudy_hypervisor::PowerState::Running));
}

#[test]
fn an_import_takes_what_there_is_and_says_all_that_is_wrong() {
    let world = World::new(8);
    let prepare = Action::PrepareReplica { disks: world.sizes(), retention: RetentionPolicy::default() };
    world.bravo.perform(1, world.run, prepare).unwrap();
    let refused = || match world.bravo.perform(1, world.run, import(&world)) {
        Err(TaskError::Failed(problem)) => (problem.reason, problem.message),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused().0, "NO_SEED");
    let at = |name: &str| place(&world.bravo).join(name);
    fs::create_dir_all(place(&world.bravo)).unwrap();
    fs::write(at("vdx.raw"), "of no disk").unwrap();
    assert_eq!(refused().0, "NO_SEED");
    // A link could lead to any file of the host; and a file of another disk.
    std::os::unix::fs::symlink("/etc/hostname", at("vda.raw")).unwrap();
    fs::write(at("vdb.raw"), vec![1; 2 << 20]).unwrap();
    let (reason, message) = refused();
    assert_eq!(reason, "SEED_UNFIT");
    assert!(message.contains("vda: it is no regular file"), "{message}");
    assert!(message.contains("vdb: it has 2097152 bytes, and the machine's disk has 1049088"), "{message}");
    fs::remove_file(at("vda.raw")).unwrap();
    fs::remove_file(at("vdb.raw")).unwrap();
    // One disk of two, raw, from long ago, when the disk was smaller: the rest is sent.
    fs::write(at("vda.raw"), &world.model.disks["vda"][..4 << 20]).unwrap();
    let read = world.bravo.twice(1, world.run, import(&world));
    assert_eq!(read, AgentTaskResult::Seeded { bytes: 4 << 20 });
    world.alpha.twice(1, world.run, world.replicate(&world.bravo, SHORT));
    let seq = wait("a point", || Some(world.bravo.latest()).filter(|n| *n > 1));
    assert!(world.model.is_at(&world.bravo, seq), "point {seq} is not the machine");
}

/// An agent that is killed between two attempts of the import goes on with it, whatever the medium is by then.
#[test]
fn an_agent_killed_while_it_reads_a_medium_goes_on() {
    let mut world = World::new(96);
    world.alpha.perform(1, world.run, export()).unwrap();
    carry(&world.alpha, &world.bravo);
    let prepare = Action::PrepareReplica { disks: world.sizes(), retention: RetentionPolicy::default() };
    world.bravo.perform(1, world.run, prepare).unwrap();
    let stopped = world.bravo.perform_and_stop_at(1, world.run, import(&world), 10);
    assert!(matches!(stopped, Err(TaskError::Retry(_))), "{stopped:?}");
    assert!(world.bravo.points().is_empty());
    world.bravo.kill_agent();
    world.bravo.start_agent();
    world.bravo.twice(1, world.run, import(&world));
    world.alpha.twice(1, world.run, world.replicate(&world.bravo, SHORT));
    let seq = wait("a point", || Some(world.bravo.latest()).filter(|n| *n > 1));
    assert!(world.model.is_at(&world.bravo, seq), "point {seq} is not the machine");
    world.bravo.stop_agent();
}
