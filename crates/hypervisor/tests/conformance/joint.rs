//! Snapshots of several machines at one instant (R-REP-12).

use std::{collections::BTreeSet, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};
use understudy_hypervisor::{Error, PowerState, PreparedSnapshot, Snapshot, SnapshotRequest};

use super::{BLOCK, Bench, MIB, changed, checkpoint, definition, disk, filling, name};

const LIMIT: Duration = Duration::from_secs(10);
const MACHINES: [&str; 2] = ["db1", "web1"];

fn request(machine: &str, number: u64, base: Option<u64>) -> SnapshotRequest {
    SnapshotRequest {
        machine: name(machine),
        disks: vec![disk("vda"), disk("vdb")],
        checkpoint: checkpoint(number),
        base: base.map(checkpoint),
        quiesce: None,
    }
}

async fn prepare(
    bench: &dyn Bench,
    machine: &str,
    number: u64,
    base: Option<u64>,
) -> Box<dyn PreparedSnapshot> {
    bench.hypervisor().prepare_snapshot(&request(machine, number, base)).await.unwrap()
}

async fn define(bench: &dyn Bench, machine: &str, mac: &str) {
    let mut definition = definition(bench, machine).await;
    definition.hardware.nics[0].mac = mac.parse().unwrap();
    bench.hypervisor().define(&definition).await.unwrap();
}

/// Both machines, which run.
async fn running(bench: &dyn Bench) {
    for (machine, mac) in MACHINES.into_iter().zip(["52:54:00:00:07:01", "52:54:00:00:07:02"]) {
        define(bench, machine, mac).await;
        bench.hypervisor().start(&name(machine)).await.unwrap();
    }
}

async fn gone(bench: &dyn Bench) {
    for machine in MACHINES {
        bench.hypervisor().power_off(&name(machine)).await.unwrap();
        bench.hypervisor().undefine(&name(machine)).await.unwrap();
    }
}

async fn goes_on(bench: &dyn Bench, machine: &str, within: Duration) {
    let until = Instant::now() + within;
    while bench.is_held(&name(machine)) {
        assert!(Instant::now() < until, "{machine} is held still");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Held, cut and let go together; what is read is what the disks held then, and change tracking goes on from there.
pub async fn machines_are_cut_at_one_instant(bench: &dyn Bench) {
    let host = bench.hypervisor();
    running(bench).await;
    for machine in MACHINES {
        bench.guest_write(&name(machine), &disk("vda"), MIB, 1).await;
        super::open(host, machine, 1, None).await.close().await.unwrap();
        bench.guest_write(&name(machine), &disk("vdb"), 2 * MIB, 2).await;
    }
    let mut prepared = Vec::new();
    for machine in MACHINES {
        prepared.push(prepare(bench, machine, 2, Some(1)).await);
        assert!(!bench.is_held(&name(machine)), "preparing holds nobody");
    }
    assert!(matches!(prepared[0].cut().await, Err(Error::WrongState { .. })), "cut without being held");
    for (prepared, machine) in prepared.iter_mut().zip(MACHINES) {
        prepared.hold(LIMIT).await.unwrap();
        assert!(bench.is_held(&name(machine)));
        let seen = host.machine(&name(machine)).await.unwrap().unwrap();
        assert_eq!(seen.power, PowerState::Running, "the moment of a snapshot is no state of a machine's");
    }
    for prepared in &mut prepared {
        prepared.cut().await.unwrap();
    }
    assert!(MACHINES.iter().all(|machine| bench.is_held(&name(machine))), "held until all are cut");
    let mut opened: Vec<Box<dyn Snapshot>> = Vec::new();
    for (mut prepared, machine) in prepared.into_iter().zip(MACHINES) {
        let held = prepared.release().await.unwrap();
        assert!(held > Duration::ZERO && held < LIMIT, "{held:?}");
        assert!(prepared.release().await.is_ok(), "once more");
        assert!(!bench.is_held(&name(machine)));
        bench.guest_write(&name(machine), &disk("vda"), 3 * MIB, 3).await;
        opened.push(prepared.open().await.unwrap());
        println!("{machine} was held for {held:?}");
    }
    for snapshot in opened {
        assert!(snapshot.checkpoint_made());
        assert_eq!(changed(&snapshot.disks()[0]).await, BTreeSet::new());
        assert_eq!(changed(&snapshot.disks()[1]).await, BTreeSet::from([2 * MIB]));
        assert_eq!(filling(&snapshot.disks()[0], 3 * MIB).await, 0, "written after the instant");
        snapshot.close().await.unwrap();
    }
    for machine in MACHINES {
        let next = super::open(host, machine, 3, Some(2)).await;
        assert_eq!(changed(&next.disks()[0]).await, BTreeSet::from([3 * MIB]));
        next.close().await.unwrap();
    }
    gone(bench).await;
}

/// A guest goes on at its limit, and at once when the one who holds it is gone; what was cut then is not taken for good.
pub async fn a_held_guest_goes_on_by_itself(bench: &dyn Bench) {
    const SHORT: Duration = Duration::from_millis(500);
    let host = bench.hypervisor();
    running(bench).await;
    let mut prepared = prepare(bench, "db1", 1, None).await;
    prepared.hold(SHORT).await.unwrap();
    goes_on(bench, "db1", SHORT + Duration::from_secs(5)).await;
    prepared.cut().await.unwrap();
    assert!(matches!(prepared.release().await, Err(Error::WrongState { .. })), "it had gone on");
    let _ = prepared.abandon().await;

    const WHILE: Duration = Duration::from_secs(6);
    let mut prepared = prepare(bench, "db1", 2, None).await;
    let limit = Instant::now() + WHILE;
    prepared.hold(WHILE).await.unwrap();
    assert!(bench.is_held(&name("db1")));
    drop(prepared);
    goes_on(bench, "db1", WHILE / 2).await;

    // Whoever let it go looks again at the limit, and leaves alone what the next snapshot holds. Given up, that lets the guest go on, and
    // the one after it finds nothing in its way.
    let mut prepared = prepare(bench, "db1", 3, None).await;
    prepared.hold(WHILE + LIMIT).await.unwrap();
    prepared.cut().await.unwrap();
    sleep_until(limit + Duration::from_secs(1)).await;
    assert!(bench.is_held(&name("db1")), "let go by the guard of another snapshot");
    prepared.abandon().await.unwrap();
    assert!(!bench.is_held(&name("db1")));
    prepare(bench, "db1", 4, None).await.abandon().await.unwrap();
    host.resume_left_held().await.unwrap();
    super::open(host, "db1", 5, None).await.close().await.unwrap();
    gone(bench).await;
}

/// A machine that is off takes part: any instant is its instant, unless it is started meanwhile.
pub async fn a_machine_that_is_off_takes_part(bench: &dyn Bench) {
    let (host, db1) = (bench.hypervisor(), name("db1"));
    define(bench, "db1", "52:54:00:00:07:01").await;
    host.start(&db1).await.unwrap();
    bench.guest_write(&db1, &disk("vda"), MIB, 1).await;
    super::open(host, "db1", 1, None).await.close().await.unwrap();
    bench.guest_write(&db1, &disk("vda"), MIB + BLOCK, 2).await;
    host.power_off(&db1).await.unwrap();

    let mut prepared = prepare(bench, "db1", 2, Some(1)).await;
    prepared.hold(LIMIT).await.unwrap();
    prepared.cut().await.unwrap();
    prepared.release().await.unwrap();
    let snapshot = prepared.open().await.unwrap();
    assert_eq!(changed(&snapshot.disks()[0]).await, BTreeSet::from([MIB + BLOCK]));
    snapshot.close().await.unwrap();

    let mut prepared = prepare(bench, "db1", 3, Some(2)).await;
    prepared.hold(LIMIT).await.unwrap();
    prepared.cut().await.unwrap();
    host.start(&db1).await.unwrap();
    assert!(matches!(prepared.release().await, Err(Error::WrongState { .. })), "it was started meanwhile");
    let _ = prepared.abandon().await;
    host.power_off(&db1).await.unwrap();
    host.undefine(&db1).await.unwrap();
}
