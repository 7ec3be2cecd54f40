//! Facts of two small sites: web1 and db1 (two disks) at alpha, replicated to bravo.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use understudy_ids::{Consistency, Generation, HostName, ItemName, PointSeq, RunId, UnixMicros};
use understudy_netplan::{ExistingNetwork, PlannedHook, PlannedRecord, ProbePort, ZonePurpose};
use understudy_recovery::{
    Operation, PlanInput, RunPlan, RunSpec,
    direction::SiteKind,
    item::ItemState,
    plan::{
        Connections, DiskView, HealthLevel, HostView, ItemView, MachineView, NicView, PlannedNic,
        PlannedTestNetwork, PointView, PolicyView, Power, Synchronise, plan,
    },
    test_network::TestNetwork,
};
use understudy_replication::{Compression, ReplicationSettings, RetentionPolicy};

pub const RUN: RunId = RunId::from_u128(0x0a1b_2c3d_4e5f_4000_8000_0000_0000_0001);
pub const NOW: UnixMicros = UnixMicros::new(1_000_000_000);

pub fn alpha() -> HostName {
    "alpha/alpha-h1".parse().unwrap()
}

pub fn bravo() -> HostName {
    "bravo/bravo-h1".parse().unwrap()
}

/// A host that has nothing of any item.
pub fn elsewhere() -> HostName {
    "alpha/alpha-h2".parse().unwrap()
}

pub fn item(name: &str) -> ItemName {
    name.parse().unwrap()
}

pub fn spec(operation: Operation) -> RunSpec {
    let mut spec = RunSpec::new(operation, vec![item("web1"), item("db1")]);
    if operation == Operation::UnplannedFailover {
        spec.primary_down_assertion = Some("the building is dark".to_owned());
    }
    spec
}

/// Every operation, those that can go two ways in each of them.
pub fn ways() -> Vec<RunSpec> {
    let during = RunSpec { synchronise: Synchronise::During, ..spec(Operation::Failback) };
    Operation::ALL.into_iter().map(spec).chain([during]).collect()
}

/// The facts under which the operation is possible.
pub fn input(operation: Operation) -> PlanInput {
    facts_of(operation, vec![view("web1", &["vda"], 11), view("db1", &["vda", "vdb"], 12)])
}

/// The same of other machines than those two.
pub fn input_of(operation: Operation, names: &[&str]) -> PlanInput {
    facts_of(operation, names.iter().zip(11..).map(|(name, octet)| view(name, &["vda"], octet)).collect())
}

fn facts_of(operation: Operation, mut items: Vec<ItemView>) -> PlanInput {
    for item in &mut items {
        match operation {
            Operation::Protect => {
                item.state = ItemState::InitialReplication;
                item.points.clear();
                item.highest_point = None;
            }
            Operation::ReverseReplicate | Operation::Failback => {
                item.state = ItemState::NotProtected;
                item.generation = Generation::new(2);
                (item.active_host, item.standby_host) = (bravo(), alpha());
                if operation == Operation::Failback {
                    item.points.iter_mut().for_each(|point| point.host = alpha());
                }
            }
            _ => {}
        }
    }
    let dead = operation == Operation::UnplannedFailover;
    if dead {
        items.iter_mut().for_each(|item| item.machine.power = Power::Unknown);
    }
    let test = operation == Operation::TestFailover;
    PlanInput {
        now: NOW,
        connections: connections(&items, test),
        items,
        hosts: BTreeMap::from([
            (alpha(), host(!dead, 1)),
            (elsewhere(), host(true, 3)),
            (bravo(), host(true, 2)),
        ]),
        open_runs: Vec::new(),
    }
}

fn view(name: &str, disks: &[&str], last_octet: u8) -> ItemView {
    let disk = |name: &&str| DiskView { name: name.parse().unwrap(), size_bytes: 1 << 30, replicable: true };
    let mac = format!("52:54:00:00:00:{last_octet:02x}").parse().unwrap();
    let nic = NicView {
        mac,
        network: Some("prod".parse().unwrap()),
        addresses: vec![[192, 168, 50, last_octet].into()],
    };
    let point = |seq| PointView {
        damaged_blocks: 0,
        host: bravo(),
        seq: PointSeq::new(seq),
        instant: NOW.minus(Duration::from_secs(30 - seq)),
        is_base: false,
        consistency: if seq < 20 { Consistency::Application } else { Consistency::Crash },
        encrypted: false,
        unlocked_until: None,
        joint: None,
    };
    ItemView {
        name: item(name),
        machine: MachineView {
            name: name.parse().unwrap(),
            uuid: format!("uuid-{name}"),
            power: Power::Running,
            disks: disks.iter().map(disk).collect(),
            nics: vec![nic],
        },
        active_host: alpha(),
        standby_host: bravo(),
        sides: BTreeMap::new(),
        disks: disks.iter().map(|disk| disk.parse().unwrap()).collect(),
        policy: PolicyView {
            name: "gold".parse().unwrap(),
            interval: Duration::from_secs(5),
            rpo_objective: Duration::from_secs(15),
            settings: ReplicationSettings { compression: Compression::Off, ..ReplicationSettings::default() },
            retention: RetentionPolicy {
                keep_count: Some(24),
                keep_age: Some(Duration::from_secs(86_400)),
                tiers: Vec::new(),
            },
            shutdown_grace: Duration::from_secs(60),
            power_off_after_grace: true,
        },
        state: ItemState::Protected,
        paused: false,
        probes: Vec::new(),
        addresses: Vec::new(),
        generation: Generation::FIRST,
        points: vec![point(19), point(20)],
        highest_point: Some(PointSeq::new(21)),
        health: HealthLevel::Ok,
        group: None,
        common_point: None,
        lease_over_in: None,
    }
}

fn host(connected: bool, number: u8) -> HostView {
    HostView {
        site_kind: SiteKind::Hypervisor,
        connected,
        sink_endpoint: format!("https://10.0.0.{number}:7443"),
        store_free_bytes: 100 << 30,
        machines: BTreeMap::new(),
        test_machines: Default::default(),
        networks: Some(["prod", "lab"].map(|name| name.parse().unwrap()).into()),
    }
}

fn connections(items: &[ItemView], test: bool) -> Connections {
    let network = "sites/bravo/networks/prod".to_owned();
    let nic = |item: &ItemView| PlannedNic {
        item: item.name.clone(),
        index: 0,
        mac: item.machine.nics[0].mac,
        network: Some(network.clone()),
        hypervisor_network: (!test).then(|| "prod".parse().unwrap()),
        test_network: test.then_some(0),
        address: Some(item.machine.nics[0].addresses[0]),
        reason: "reserved by the network's DHCP".to_owned(),
    };
    let made = PlannedTestNetwork {
        stands_for: network.clone(),
        gateway: [192, 168, 50, 1].into(),
        prefix_len: 24,
        isolation_targets: vec![[192, 168, 50, 1].into()],
    };
    Connections {
        nics: items.iter().map(nic).collect(),
        test_networks: if test { vec![made] } else { Vec::new() },
        existing: None,
        split_subnets: Vec::new(),
        records: items.iter().map(|item| record(item, test)).collect(),
        hooks: if test {
            Vec::new()
        } else {
            vec![PlannedHook { item: item("web1"), hook: "lb".parse().unwrap() }]
        },
        problems: Vec::new(),
    }
}

/// `web1.shop.example.` for production, `web1.test.example.` for tests.
fn record(item: &ItemView, test: bool) -> PlannedRecord {
    let zone = if test { "test.example" } else { "shop.example" };
    let IpAddr::V4(address) = item.machine.nics[0].addresses[0] else { unreachable!() };
    PlannedRecord {
        name: format!("{}.{zone}", item.name).parse().unwrap(),
        item: item.name.clone(),
        zone: zone.parse().unwrap(),
        purpose: ZonePurpose::of_run(test),
        address: Some(address),
        reason: format!("NIC 0 of {} keeps its address", item.name),
    }
}

pub const LAB: &str = "sites/bravo/networks/lab";

/// A test on bravo's network lab, as network-mapper would answer.
pub fn on_lab() -> (RunSpec, PlanInput) {
    let (mut spec, mut facts) = (spec(Operation::TestFailover), input(Operation::TestFailover));
    spec.test_network = TestNetwork::Existing { network: LAB.parse().unwrap(), connect_to_production: None };
    facts.connections.test_networks.clear();
    for nic in &mut facts.connections.nics {
        (nic.network, nic.test_network) = (Some(LAB.to_owned()), None);
        nic.hypervisor_network = Some("lab".parse().unwrap());
    }
    facts.connections.existing = Some(ExistingNetwork {
        network: LAB.parse().unwrap(),
        hypervisor_network: "lab".parse().unwrap(),
        production: false,
        probe_ports: vec![ProbePort {
            host: bravo(),
            mac: "02:75:c0:a8:32:fe".parse().unwrap(),
            address: [192, 168, 50, 254].into(),
        }],
        prefix_len: 24,
        gateway: None,
        isolation_targets: vec![[192, 168, 50, 5].into()],
    });
    (spec, facts)
}

/// The same on the network that a failover would use, because somebody says why.
pub fn on_production() -> (RunSpec, PlanInput) {
    let (mut spec, mut facts) = on_lab();
    let existing = facts.connections.existing.as_mut().unwrap();
    existing.network = "sites/bravo/networks/prod".parse().unwrap();
    (existing.production, existing.probe_ports) = (true, Vec::new());
    for nic in &mut facts.connections.nics {
        nic.network = Some(existing.network.to_string());
        nic.hypervisor_network = Some("prod".parse().unwrap());
    }
    spec.test_network = TestNetwork::Existing {
        network: existing.network.clone(),
        connect_to_production: Some("the shop is closed".to_owned()),
    };
    (spec, facts)
}

pub fn planned(operation: Operation) -> RunPlan {
    planned_as(&spec(operation))
}

pub fn planned_as(spec: &RunSpec) -> RunPlan {
    plan(spec, &input(spec.operation)).unwrap_or_else(|problems| panic!("{problems:#?}"))
}
