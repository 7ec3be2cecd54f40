//! The simulated driver: the conformance suite, and what survives its process.

#[path = "conformance/at_rest.rs"]
mod at_rest;
mod conformance;

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use async_trait::async_trait;
use conformance::{Bench, MIB, changed, definition, disk, filling, name, network, open};
use understudy_hypervisor::{
    Error, ExistingNetworkProbe, GuestState, Hypervisor, PowerState, Reservation,
    simulated::{
        Config, FirstMachine, SimulatedHypervisor, disk_files,
        journal::{Record, SECTOR},
    },
};
use understudy_ids::{DiskName, MachineName, NetworkName, Uuid};
use understudy_replica_store::qcow2::{Chain, Writer};

struct SimulatedHost {
    dir: tempfile::TempDir,
    driver: SimulatedHypervisor,
}

impl SimulatedHost {
    fn new(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::new(dir.path().join("state"));
        change(&mut config);
        let driver = SimulatedHypervisor::open(config).unwrap();
        Self { dir, driver }
    }

    /// As a new process finds it.
    fn reopen(&mut self) {
        self.driver = SimulatedHypervisor::open(Config::new(self.dir.path().join("state"))).unwrap();
    }
}

#[async_trait]
impl Bench for SimulatedHost {
    fn hypervisor(&self) -> &dyn Hypervisor {
        &self.driver
    }

    async fn disk_file(&self, name: &str, size: u64) -> PathBuf {
        let file = self.dir.path().join(format!("{name}.qcow2"));
        Writer::create(&file, size, None).unwrap().finish().unwrap();
        file
    }

    fn is_held(&self, machine: &MachineName) -> bool {
        let held = self.driver.is_held(machine);
        if held {
            let write = self.driver.guest_write(machine, &disk("vda"), 15 * MIB, &[1]);
            assert!(matches!(write, Err(Error::WrongState { .. })), "{write:?}");
        }
        held
    }

    async fn silence_guest_agent(&self, machine: &MachineName) {
        self.driver.set_guest_agent(machine, false).unwrap();
    }

    async fn guest_write(&self, machine: &MachineName, disk: &DiskName, offset: u64, byte: u8) {
        self.driver.guest_write(machine, disk, offset, &[byte; 64 << 10]).unwrap();
    }
}

#[tokio::test]
async fn machine_lifecycle() {
    conformance::machine_lifecycle(&SimulatedHost::new(|_| {})).await;
}

/// R-REP-3
#[tokio::test]
async fn snapshots_of_a_running_machine() {
    conformance::snapshots_of_a_running_machine(&SimulatedHost::new(|_| {})).await;
}

/// R-REP-3
#[tokio::test]
async fn snapshots_of_a_machine_that_is_shut_off() {
    conformance::snapshots_of_a_machine_that_is_shut_off(&SimulatedHost::new(|_| {})).await;
}

/// R-REP-3
#[tokio::test]
async fn a_guest_that_cannot_be_brought_to_rest() {
    conformance::a_guest_that_cannot_be_brought_to_rest(&SimulatedHost::new(|_| {})).await;
}

/// R-REP-3
#[tokio::test]
async fn a_guest_is_brought_to_rest() {
    let host = SimulatedHost::new(|_| {});
    host.driver.define(&definition(&host, "db1").await).await.unwrap();
    host.driver.start(&name("db1")).await.unwrap();
    at_rest::a_guest_is_brought_to_rest(&host.driver, "db1").await;
}

/// R-FO-7
#[tokio::test]
async fn a_machine_is_cut_off() {
    conformance::cut_off::a_machine_is_cut_off(&SimulatedHost::new(|_| {})).await;
}

/// R-REP-12
#[tokio::test]
async fn machines_are_cut_at_one_instant() {
    conformance::joint::machines_are_cut_at_one_instant(&SimulatedHost::new(|_| {})).await;
}

/// R-REP-12
#[tokio::test]
async fn a_held_guest_goes_on_by_itself() {
    conformance::joint::a_held_guest_goes_on_by_itself(&SimulatedHost::new(|_| {})).await;
}

/// R-REP-12
#[tokio::test]
async fn a_machine_that_is_off_takes_part() {
    conformance::joint::a_machine_that_is_off_takes_part(&SimulatedHost::new(|_| {})).await;
}

/// R-NET-9
#[tokio::test]
async fn test_network_lifecycle() {
    conformance::test_network_lifecycle(&SimulatedHost::new(|_| {})).await;
}

#[tokio::test]
async fn a_process_that_dies_loses_no_acknowledged_write_but_its_change_tracking() {
    let mut host = SimulatedHost::new(|_| {});
    let db1 = name("db1");
    host.driver.define(&definition(&host, "db1").await).await.unwrap();
    host.driver.ensure_test_network(&network("test-lan", 5)).await.unwrap();
    host.driver.start(&db1).await.unwrap();
    open(&host.driver, "db1", 1, None).await.close().await.unwrap();
    host.guest_write(&db1, &disk("vda"), MIB, 1).await;
    host.reopen();
    assert_eq!(host.driver.machine(&db1).await.unwrap().unwrap().power, PowerState::ShutOff);
    assert_eq!(host.driver.test_networks().await.unwrap().len(), 1);
    assert!(host.driver.checkpoints(&db1).await.unwrap().is_empty());
    let after = open(&host.driver, "db1", 2, Some(1)).await;
    assert!(!after.disks()[0].changes_known);
    assert_eq!(filling(&after.disks()[0], MIB).await, 1);

    host.driver.start(&db1).await.unwrap();
    host.guest_write(&db1, &disk("vda"), 2 * MIB, 2).await;
    host.driver.power_off(&db1).await.unwrap();
    host.reopen();
    let orderly = open(&host.driver, "db1", 3, Some(2)).await;
    assert_eq!(changed(&orderly.disks()[0]).await, BTreeSet::from([2 * MIB]));
    let mut byte = [0];
    Chain::open(&host.dir.path().join("db1-vda.qcow2")).unwrap().read(2 * MIB, &mut byte).unwrap();
    assert_eq!(byte, [2], "the qcow2 file does not hold what was written");
}

/// R-REP-3: the journal alternates between the disks, so a cut between them would show.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_of_one_snapshot_are_of_one_instant() {
    let host = SimulatedHost::new(|config| config.write_interval_ms = 1);
    let db1 = name("db1");
    host.driver.define(&definition(&host, "db1").await).await.unwrap();
    host.driver.start(&db1).await.unwrap();
    for number in 1..6 {
        tokio::time::sleep(Duration::from_millis(30)).await;
        let snapshot = open(&host.driver, "db1", number, None).await;
        let mut records = 0;
        let mut ended = false;
        for number in 0..2000u64 {
            let disk = &snapshot.disks()[(number % 2) as usize];
            let sector = disk.reader.read(Record::offset(number, 2, disk.size), SECTOR as u32).await.unwrap();
            match Record::decode(&sector) {
                Some(record) => {
                    assert!(!ended, "record {} is there and one before it is not", record.number);
                    assert_eq!(record.number, number);
                    assert!(record.written_at <= snapshot.instant());
                    records += 1;
                }
                None => ended = true,
            }
        }
        assert!(records > 5 && ended, "{records} records");
        snapshot.close().await.unwrap();
    }
    host.driver.power_off(&db1).await.unwrap();
}

#[tokio::test]
async fn a_guest_that_takes_longer_than_the_grace_still_runs() {
    let host = SimulatedHost::new(|config| config.shut_down_ms = 200);
    let db1 = name("db1");
    host.driver.define(&definition(&host, "db1").await).await.unwrap();
    host.driver.start(&db1).await.unwrap();
    assert!(!host.driver.shut_down(&db1, Duration::from_millis(20)).await.unwrap());
    assert_eq!(host.driver.machine(&db1).await.unwrap().unwrap().power, PowerState::Running);
    assert!(host.driver.shut_down(&db1, Duration::from_secs(5)).await.unwrap());
    assert!(matches!(host.driver.guest_write(&db1, &disk("vda"), 0, &[1]), Err(Error::WrongState { .. })));
    let off = open(&host.driver, "db1", 1, None).await;
    assert_eq!(off.guest(), &GuestState::Clean);
}

/// What a clients' own test and the simulated demonstration start from.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_machines_run_have_addresses_and_go_on_where_they_were() {
    let machines = vec![FirstMachine {
        name: name("db1"),
        mac: "52:54:00:00:50:12".parse().unwrap(),
        network: "prod".parse().unwrap(),
        disks: 2,
        disk_mib: 2,
    }];
    let host = SimulatedHost::new(|config| {
        config.write_interval_ms = 1;
        config.networks = vec!["prod".parse().unwrap()];
        config.reservations = vec![Reservation {
            mac: "52:54:00:00:50:12".parse().unwrap(),
            address: "192.168.50.12".parse().unwrap(),
            host_name: "db1".to_owned(),
        }];
        config.machines = machines.clone();
    });
    let db1 = name("db1");
    let found = host.driver.machine(&db1).await.unwrap().unwrap();
    assert_eq!((found.power, found.tag), (PowerState::Running, None));
    assert_eq!(found.hardware.nics[0].addresses, ["192.168.50.12".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(found.hardware.disks.len(), 2);

    tokio::time::sleep(Duration::from_millis(50)).await;
    host.driver.power_off(&db1).await.unwrap();
    let before = records(&host, &db1);
    assert!(before.len() > 5, "{} records", before.len());
    host.driver.start(&db1).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    host.driver.power_off(&db1).await.unwrap();
    let after = records(&host, &db1);
    assert!(after.len() > before.len(), "{before:?} {after:?}");
    assert!(after.iter().copied().eq(0..after.len() as u64), "a record is missing: {after:?}");

    // Only a host that was never opened gets them.
    host.driver.undefine(&db1).await.unwrap();
    let again = Config { machines, ..Config::new(host.dir.path().join("state")) };
    assert!(SimulatedHypervisor::open(again).unwrap().machine(&db1).await.unwrap().is_none());
}

/// R-TF-2, R-TF-9: a network that is there is looked into, and an address that a machine on it has is not used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_is_there_is_looked_into() {
    let lab: NetworkName = "lab".parse().unwrap();
    let mac = "52:54:00:00:50:12".parse().unwrap();
    let host = SimulatedHost::new(|config| {
        config.networks = vec![lab.clone()];
        config.reservations =
            vec![Reservation { mac, address: [192, 168, 50, 12].into(), host_name: "db1".to_owned() }];
        config.machines =
            vec![FirstMachine { name: name("db1"), mac, network: lab.clone(), disks: 1, disk_mib: 2 }];
    });
    let probe = ExistingNetworkProbe {
        network: lab.clone(),
        run: Uuid::from_u128(5),
        mac: "02:75:c0:a8:32:fe".parse().unwrap(),
        address: [192, 168, 50, 254].into(),
        prefix_len: 24,
        gateway: None,
        targets: ["192.168.50.5", "192.168.50.12"].map(|target| target.parse().unwrap()).to_vec(),
        planned: vec![[192, 168, 50, 11].into()],
    };
    let evidence = host.driver.probe_existing_network(&probe).await.unwrap();
    assert_eq!((evidence.tried, evidence.answered), (probe.targets.clone(), vec![probe.targets[1]]));
    let taken = ExistingNetworkProbe { planned: vec![probe.targets[1]], ..probe.clone() };
    let taken = host.driver.probe_existing_network(&taken).await;
    assert!(matches!(taken, Err(Error::Conflict { .. })), "{taken:?}");
    let nowhere = ExistingNetworkProbe { network: "nowhere".parse().unwrap(), ..probe.clone() };
    let nowhere = host.driver.probe_existing_network(&nowhere).await;
    assert!(matches!(nowhere, Err(Error::NotFound { .. })), "{nowhere:?}");
    host.driver.remove_probe_port(&lab, probe.run).await.unwrap();
    assert_eq!(host.driver.inventory().await.unwrap().networks, [lab]);
}

/// The numbers of the records in a machine's files, in order.
fn records(host: &SimulatedHost, machine: &MachineName) -> BTreeSet<u64> {
    let files = disk_files(&host.dir.path().join("state"), machine).unwrap();
    let read = |file: &PathBuf| {
        let mut chain = Chain::open(file).unwrap();
        let mut content = vec![0; chain.size() as usize];
        chain.read(0, &mut content).unwrap();
        content
    };
    let contents: Vec<Vec<u8>> = files.iter().map(read).collect();
    let sectors = contents.iter().flat_map(|content| content.chunks_exact(SECTOR as usize));
    sectors.filter_map(Record::decode).map(|record| record.number).collect()
}
