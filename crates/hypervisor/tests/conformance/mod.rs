//! What every driver has to do, whatever stands behind it. Each check takes a [`Bench`]: a host with nothing on it.

pub mod cut_off;
pub mod joint;

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use async_trait::async_trait;
use understudy_hypervisor::{
    Bus, CheckpointName, Console, DiskHardware, Error, Extent, Firmware, GuestState, Hardware, Hypervisor,
    MAX_SCREENSHOT, MachineDefinition, MachineTag, NicHardware, PowerState, Question, QuiesceFailure,
    Reservation, Snapshot, SnapshotDisk, SnapshotRequest, TagRole, TestNetworkDefinition,
};
use understudy_ids::{ByteRange, DiskName, Generation, MachineName, NetworkName, Uuid};
use understudy_probe::ProbeKind;

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
const SIZE: u64 = 16 * MIB;
const BLOCK: u64 = 64 * KIB;

#[async_trait]
pub trait Bench: Send + Sync {
    fn hypervisor(&self) -> &dyn Hypervisor;
    /// A new qcow2 file without content.
    async fn disk_file(&self, name: &str, size: u64) -> PathBuf;
    /// Writes a block of 64 KiB of `byte` as a running machine's guest would.
    async fn guest_write(&self, machine: &MachineName, disk: &DiskName, offset: u64, byte: u8);
    /// Whether the machine's guest executes nothing, by what the host itself says.
    fn is_held(&self, machine: &MachineName) -> bool;
    /// The agent in the running machine's guest answers nothing, or never did.
    async fn silence_guest_agent(&self, machine: &MachineName);
}

pub fn name(text: &str) -> MachineName {
    text.parse().unwrap()
}

pub fn disk(text: &str) -> DiskName {
    text.parse().unwrap()
}

pub fn tag(item: &str, generation: u64) -> MachineTag {
    MachineTag { item: item.parse().unwrap(), generation: Generation::new(generation), role: TagRole::Active }
}

fn checkpoint(number: u64) -> CheckpointName {
    CheckpointName(format!("understudy-db1-1-{number}"))
}

/// A machine with two disks and one NIC that is connected nowhere.
pub async fn definition(bench: &dyn Bench, machine: &str) -> MachineDefinition {
    let mut disks = Vec::new();
    for target in ["vda", "vdb"] {
        disks.push(DiskHardware {
            name: disk(target),
            bus: Bus::Virtio,
            serial: Some(format!("{machine}-{target}")),
            size_bytes: SIZE,
            file: Some(bench.disk_file(&format!("{machine}-{target}"), SIZE).await),
            format: "qcow2".to_owned(),
            encrypted: false,
        });
    }
    let nic = NicHardware {
        mac: "52:54:00:00:07:01".parse().unwrap(),
        model: "virtio".to_owned(),
        network: None,
        addresses: Vec::new(),
    };
    let hardware = Hardware {
        vcpus: 1,
        memory_bytes: 32 * MIB,
        machine_type: "pc-i440fx-7.2".to_owned(),
        firmware: Firmware::Bios,
        disks,
        nics: vec![nic],
        guest_agent: true,
        video: Some("vga".to_owned()),
    };
    MachineDefinition {
        name: name(machine),
        uuid: Uuid::new_v5(&Uuid::NAMESPACE_OID, machine.as_bytes()),
        disk_files: hardware
            .disks
            .iter()
            .map(|disk| (disk.name.clone(), disk.file.clone().unwrap()))
            .collect(),
        encrypted: Default::default(),
        nic_networks: vec![None],
        hardware,
        tag: tag(machine, 1),
    }
}

/// R-FO-6 and the idempotency of every call on machines.
pub async fn machine_lifecycle(bench: &dyn Bench) {
    let host = bench.hypervisor();
    let web1 = name("web1");
    let definition = definition(bench, "web1").await;
    assert_eq!(host.machine(&web1).await.unwrap(), None);
    assert!(matches!(host.start(&web1).await, Err(Error::NotFound { .. })));
    host.undefine(&web1).await.unwrap();

    host.define(&definition).await.unwrap();
    host.define(&definition).await.unwrap();
    let machine = host.machine(&web1).await.unwrap().unwrap();
    assert_eq!(machine.hardware, definition.hardware);
    assert_eq!((machine.power, machine.autostart), (PowerState::ShutOff, false));
    assert_eq!((machine.uuid, machine.tag), (definition.uuid, Some(definition.tag.clone())));

    let mut stranger = definition.clone();
    stranger.tag = tag("other", 1);
    assert!(matches!(host.define(&stranger).await, Err(Error::Conflict { .. })));
    let mut same_uuid = definition.clone();
    same_uuid.name = name("web2");
    assert!(matches!(host.define(&same_uuid).await, Err(Error::Conflict { .. })));
    let mut newer = definition.clone();
    newer.tag = tag("web1", 4);
    newer.hardware.memory_bytes = 48 * MIB;
    host.define(&newer).await.unwrap();
    let machine = host.machine(&web1).await.unwrap().unwrap();
    assert_eq!((machine.hardware.memory_bytes, machine.tag), (48 * MIB, Some(newer.tag.clone())));
    assert!(matches!(host.define(&definition).await, Err(Error::Conflict { .. })), "an older generation won");

    // R-TF-8: what there is to see, and that there is nothing.
    assert_eq!(host.screenshot(&web1).await.unwrap(), Console::Dark("the machine does not run".to_owned()));
    host.start(&web1).await.unwrap();
    host.start(&web1).await.unwrap();
    assert_eq!(host.machine(&web1).await.unwrap().unwrap().power, PowerState::Running);
    let Console::Shown(png) = host.screenshot(&web1).await.unwrap() else { panic!("it has a display") };
    assert!(png.starts_with(b"\x89PNG\r\n\x1a\n") && png.len() <= MAX_SCREENSHOT);
    let agent = Question { machine: web1.clone(), at: None, kind: ProbeKind::GuestAgent };
    host.ask(&agent, Duration::from_secs(1)).await.unwrap();
    assert!(matches!(host.undefine(&web1).await, Err(Error::WrongState { .. })));
    assert!(matches!(host.define(&newer).await, Err(Error::WrongState { .. })));
    host.set_tag(&web1, Some(&tag("web1", 5))).await.unwrap();
    assert_eq!(host.machine(&web1).await.unwrap().unwrap().tag, Some(tag("web1", 5)));

    host.power_off(&web1).await.unwrap();
    host.power_off(&web1).await.unwrap();
    newer.tag = tag("web1", 6);
    newer.hardware.video = None;
    host.define(&newer).await.unwrap();
    host.start(&web1).await.unwrap();
    assert_eq!(host.screenshot(&web1).await.unwrap(), Console::Dark("the machine has no display".to_owned()));
    host.power_off(&web1).await.unwrap();
    let machine = host.machine(&web1).await.unwrap().unwrap();
    assert_eq!((machine.power, machine.tag), (PowerState::ShutOff, Some(tag("web1", 6))));
    assert!(host.shut_down(&web1, Duration::from_secs(1)).await.unwrap());
    host.set_tag(&web1, None).await.unwrap();
    host.set_tag(&web1, None).await.unwrap();
    assert_eq!(host.machine(&web1).await.unwrap().unwrap().tag, None);
    assert!(
        matches!(host.define(&definition).await, Err(Error::Conflict { .. })),
        "an untagged machine was replaced"
    );

    let inventory = host.inventory().await.unwrap();
    assert_eq!(inventory.machines.iter().map(|machine| machine.name.as_str()).collect::<Vec<_>>(), ["web1"]);
    assert!(inventory.cpus > 0 && inventory.memory_bytes > 0);
    host.undefine(&web1).await.unwrap();
    host.undefine(&web1).await.unwrap();
    assert!(host.inventory().await.unwrap().machines.is_empty());
    assert!(definition.disk_files.values().all(|file| file.exists()), "undefine removed a disk file");
}

/// Opens a snapshot of both disks.
pub async fn open(host: &dyn Hypervisor, machine: &str, number: u64, base: Option<u64>) -> Box<dyn Snapshot> {
    open_disks(host, machine, &["vda", "vdb"], number, base).await
}

pub async fn open_disks(
    host: &dyn Hypervisor,
    machine: &str,
    disks: &[&str],
    number: u64,
    base: Option<u64>,
) -> Box<dyn Snapshot> {
    let request = SnapshotRequest {
        machine: name(machine),
        disks: disks.iter().map(|name| disk(name)).collect(),
        checkpoint: checkpoint(number),
        base: base.map(checkpoint),
        quiesce: None,
    };
    let before = std::time::SystemTime::now();
    let snapshot = host.open_snapshot(&request).await.unwrap();
    assert!(snapshot.instant() >= before.into() && snapshot.instant() <= std::time::SystemTime::now().into());
    assert_eq!(snapshot.disks().iter().map(|disk| disk.name.as_str()).collect::<Vec<_>>(), disks);
    snapshot
}

fn failure(guest: &GuestState) -> Option<QuiesceFailure> {
    match guest {
        GuestState::Crash { not_quiesced } => not_quiesced.as_ref().map(|why| why.failure),
        GuestState::Application { .. } | GuestState::Clean => None,
    }
}

/// R-REP-3: a guest that cannot be brought to rest gives a point all the same, which says why it is no better.
pub async fn a_guest_that_cannot_be_brought_to_rest(bench: &dyn Bench) {
    const LIMIT: Duration = Duration::from_secs(5);
    let (host, db1) = (bench.hypervisor(), name("db1"));
    let mut definition = definition(bench, "db1").await;
    host.define(&definition).await.unwrap();
    assert_eq!(crate::at_rest::guest_at_rest(host, "db1", 1, LIMIT).await, GuestState::CRASH, "it was off");
    host.start(&db1).await.unwrap();
    bench.silence_guest_agent(&db1).await;
    let silent = crate::at_rest::guest_at_rest(host, "db1", 2, LIMIT).await;
    assert_eq!(failure(&silent), Some(QuiesceFailure::NoAnswer), "{silent:?}");
    host.power_off(&db1).await.unwrap();

    definition.hardware.guest_agent = false;
    host.define(&definition).await.unwrap();
    host.start(&db1).await.unwrap();
    let without = crate::at_rest::guest_at_rest(host, "db1", 3, LIMIT).await;
    assert_eq!(failure(&without), Some(QuiesceFailure::NoAgent), "{without:?}");
    host.thaw_left_frozen().await.unwrap();
    host.power_off(&db1).await.unwrap();
    host.undefine(&db1).await.unwrap();
}

/// All extents of a disk, checked to be without gaps.
async fn extents(disk: &SnapshotDisk) -> Vec<Extent> {
    let mut extents = Vec::new();
    let mut at = 0;
    while at < disk.size {
        let more = disk.reader.extents(ByteRange::new(at, disk.size)).await.unwrap();
        assert!(!more.is_empty());
        for extent in more {
            assert_eq!(extent.range.start, at, "a gap or an overlap");
            assert!(!extent.range.is_empty());
            at = extent.range.end;
            extents.push(extent);
        }
    }
    assert_eq!(at, disk.size);
    extents
}

/// First bytes of the blocks of 64 KiB that count as changed.
pub async fn changed(disk: &SnapshotDisk) -> BTreeSet<u64> {
    assert!(disk.changes_known, "changes of {} are not known", disk.name);
    let changed = extents(disk).await.into_iter().filter(|extent| extent.changed);
    changed
        .flat_map(|extent| (extent.range.start / BLOCK)..extent.range.end.div_ceil(BLOCK))
        .map(|n| n * BLOCK)
        .collect()
}

/// The byte that fills the block at `offset`.
pub async fn filling(disk: &SnapshotDisk, offset: u64) -> u8 {
    let bytes = disk.reader.read(offset, BLOCK as u32).await.unwrap();
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "block at {offset} is torn");
    let covering = extents(disk)
        .await
        .into_iter()
        .find(|extent| extent.range.start <= offset && offset < extent.range.end);
    assert!(!covering.unwrap().zero || bytes[0] == 0, "block at {offset} is said to be zero");
    bytes[0]
}

fn blocks(offsets: &[u64]) -> BTreeSet<u64> {
    offsets.iter().map(|offset| offset * MIB).collect()
}

/// R-REP-3: one instant for all disks, changed blocks only, and nothing missed when a cycle is abandoned.
pub async fn snapshots_of_a_running_machine(bench: &dyn Bench) {
    let host = bench.hypervisor();
    let (db1, vda, vdb) = (name("db1"), disk("vda"), disk("vdb"));
    host.define(&definition(bench, "db1").await).await.unwrap();
    host.start(&db1).await.unwrap();
    bench.guest_write(&db1, &vda, MIB, 1).await;
    bench.guest_write(&db1, &vdb, MIB, 1).await;

    let first = open(host, "db1", 1, None).await;
    assert!(first.checkpoint_made());
    assert_eq!(first.guest(), &GuestState::CRASH);
    assert!(first.disks().iter().all(|disk| !disk.changes_known && disk.size == SIZE));
    assert!(extents(&first.disks()[0]).await.iter().all(|extent| extent.changed));
    bench.guest_write(&db1, &vda, 2 * MIB, 2).await;
    bench.guest_write(&db1, &vda, MIB, 2).await;
    assert_eq!(filling(&first.disks()[0], MIB).await, 1, "a later write shows in the snapshot");
    assert_eq!(filling(&first.disks()[0], 2 * MIB).await, 0, "a later write shows in the snapshot");
    assert_eq!(filling(&first.disks()[1], MIB).await, 1);
    let since_first = async || host.changed_bytes(&db1, &checkpoint(1)).await.unwrap();
    assert_eq!(since_first().await, Some(2 * BLOCK), "counted while the snapshot is open");
    first.close().await.unwrap();
    bench.guest_write(&db1, &vda, 2 * MIB, 2).await;
    assert_eq!(since_first().await, Some(2 * BLOCK), "the same block counts once");
    assert_eq!(host.changed_bytes(&db1, &checkpoint(99)).await.unwrap(), None);

    let abandoned = open(host, "db1", 2, Some(1)).await;
    assert_eq!(changed(&abandoned.disks()[0]).await, blocks(&[1, 2]));
    assert_eq!(changed(&abandoned.disks()[1]).await, blocks(&[]));
    assert_eq!(filling(&abandoned.disks()[0], 2 * MIB).await, 2);
    bench.guest_write(&db1, &vdb, 3 * MIB, 3).await;
    drop(abandoned);

    bench.guest_write(&db1, &vda, 4 * MIB, 4).await;
    let union = open(host, "db1", 3, Some(1)).await;
    assert_eq!(changed(&union.disks()[0]).await, blocks(&[1, 2, 4]));
    assert_eq!(changed(&union.disks()[1]).await, blocks(&[3]));
    assert_eq!(filling(&union.disks()[1], 3 * MIB).await, 3);
    union.close().await.unwrap();
    assert_eq!(host.checkpoints(&db1).await.unwrap(), [1, 2, 3].map(checkpoint));

    host.delete_checkpoints(&db1, &[1, 2].map(checkpoint).into()).await.unwrap();
    host.delete_checkpoints(&db1, &[1, 2].map(checkpoint).into()).await.unwrap();
    assert_eq!(host.checkpoints(&db1).await.unwrap(), [checkpoint(3)]);
    bench.guest_write(&db1, &vda, 5 * MIB, 5).await;
    let fourth = open(host, "db1", 4, Some(3)).await;
    assert_eq!(changed(&fourth.disks()[0]).await, blocks(&[5]));
    fourth.close().await.unwrap();

    bench.guest_write(&db1, &vda, 6 * MIB, 6).await;
    open(host, "db1", 5, Some(3)).await.close().await.unwrap();
    host.delete_checkpoints(&db1, &[checkpoint(4)].into()).await.unwrap();
    bench.guest_write(&db1, &vda, 7 * MIB, 7).await;
    let sixth = open(host, "db1", 6, Some(3)).await;
    assert_eq!(changed(&sixth.disks()[0]).await, blocks(&[5, 6, 7]), "deleting a checkpoint lost a change");
    sixth.close().await.unwrap();

    let unknown_base = open(host, "db1", 7, Some(99)).await;
    assert!(unknown_base.disks().iter().all(|disk| !disk.changes_known));
    unknown_base.close().await.unwrap();
    let repeated = open(host, "db1", 7, Some(6)).await;
    assert_eq!(changed(&repeated.disks()[0]).await, blocks(&[]));
    repeated.close().await.unwrap();
    host.power_off(&db1).await.unwrap();
    host.undefine(&db1).await.unwrap();
}

/// R-REP-3 for a machine that is off, and that change tracking goes on over power-off and start.
pub async fn snapshots_of_a_machine_that_is_shut_off(bench: &dyn Bench) {
    let host = bench.hypervisor();
    let (db1, vda) = (name("db1"), disk("vda"));
    host.define(&definition(bench, "db1").await).await.unwrap();
    host.start(&db1).await.unwrap();
    bench.guest_write(&db1, &vda, MIB, 1).await;
    open(host, "db1", 1, None).await.close().await.unwrap();
    bench.guest_write(&db1, &vda, 2 * MIB, 2).await;
    open(host, "db1", 2, Some(1)).await.close().await.unwrap();
    bench.guest_write(&db1, &vda, 3 * MIB, 3).await;
    host.power_off(&db1).await.unwrap();

    let off = open(host, "db1", 3, Some(1)).await;
    assert!(off.checkpoint_made());
    assert_eq!(off.guest(), &GuestState::CRASH, "a machine that was switched off is taken for clean");
    assert_eq!(changed(&off.disks()[0]).await, blocks(&[2, 3]));
    assert_eq!(changed(&off.disks()[1]).await, blocks(&[]));
    assert_eq!(filling(&off.disks()[0], 3 * MIB).await, 3);
    drop(off);
    let again = open(host, "db1", 4, Some(2)).await;
    assert_eq!(changed(&again.disks()[0]).await, blocks(&[3]));
    again.close().await.unwrap();

    host.delete_checkpoints(&db1, &[2, 3].map(checkpoint).into()).await.unwrap();
    host.delete_checkpoints(&db1, &[2, 3].map(checkpoint).into()).await.unwrap();
    assert_eq!(host.checkpoints(&db1).await.unwrap(), [1, 4].map(checkpoint));
    let after = open(host, "db1", 5, Some(1)).await;
    assert_eq!(changed(&after.disks()[0]).await, blocks(&[2, 3]), "deleting a checkpoint lost a change");
    // Left open on purpose: a start ends what is left behind.
    drop(after);

    host.start(&db1).await.unwrap();
    bench.guest_write(&db1, &vda, 4 * MIB, 4).await;
    let running = open(host, "db1", 6, Some(5)).await;
    assert_eq!(
        changed(&running.disks()[0]).await,
        blocks(&[4]),
        "tracking did not go on from the checkpoint made while off"
    );
    running.close().await.unwrap();
    host.power_off(&db1).await.unwrap();
    host.undefine(&db1).await.unwrap();
}

pub fn network(name: &str, run: u128) -> TestNetworkDefinition {
    TestNetworkDefinition {
        name: name.parse().unwrap(),
        run: Uuid::from_u128(run),
        gateway: "10.77.3.1".parse().unwrap(),
        prefix_len: 24,
        reservations: vec![Reservation {
            mac: "52:54:00:00:07:01".parse().unwrap(),
            address: "10.77.3.40".parse().unwrap(),
            host_name: "web1".to_owned(),
        }],
    }
}

/// R-NET-9, R-TF-9: made, found again, proven isolated, refused while in use, gone without a trace.
pub async fn test_network_lifecycle(bench: &dyn Bench) {
    let host = bench.hypervisor();
    let lan: NetworkName = "test-shop-lan".parse().unwrap();
    let wanted = network(lan.as_str(), 9);
    host.remove_test_network(&lan).await.unwrap();
    host.ensure_test_network(&wanted).await.unwrap();
    host.ensure_test_network(&wanted).await.unwrap();
    assert_eq!(host.test_networks().await.unwrap(), std::slice::from_ref(&lan));
    assert!(
        host.inventory().await.unwrap().networks.is_empty(),
        "a test network is listed as a place for machines"
    );
    assert!(matches!(host.ensure_test_network(&network(lan.as_str(), 8)).await, Err(Error::Conflict { .. })));

    let mut machine = definition(bench, "web1-test").await;
    machine.nic_networks = vec![Some(lan.clone())];
    machine.tag.role = TagRole::Test { run: wanted.run };
    host.define(&machine).await.unwrap();
    host.start(&machine.name).await.unwrap();
    assert_eq!(
        host.machine(&machine.name).await.unwrap().unwrap().hardware.nics[0].network,
        Some(lan.clone())
    );
    let targets =
        ["10.77.3.1".parse().unwrap(), "10.77.3.200".parse().unwrap(), "192.0.2.7".parse().unwrap()];
    let evidence = host.probe_isolation(&lan, &targets).await.unwrap();
    assert_eq!(evidence.answered, [] as [std::net::IpAddr; 0]);
    assert_eq!(evidence.tried, targets);
    assert!(evidence.ports.iter().any(|port| port.contains("web1-test")), "{:?}", evidence.ports);
    assert!(matches!(host.remove_test_network(&lan).await, Err(Error::WrongState { .. })));
    host.power_off(&machine.name).await.unwrap();
    host.undefine(&machine.name).await.unwrap();

    host.remove_test_network(&lan).await.unwrap();
    host.remove_test_network(&lan).await.unwrap();
    assert!(host.test_networks().await.unwrap().is_empty());
    assert!(host.probe_isolation(&lan, &targets).await.is_err(), "a probe that cannot run is no proof");
}
