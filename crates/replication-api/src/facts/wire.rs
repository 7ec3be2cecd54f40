//! Facts on the wire. An agent is trusted to speak for its host and for nothing else, so every bound is checked.

use std::net::IpAddr;

use understudy_ids::{Generation, PointSeq, Problem};
use understudy_replication::{history::Percentiles, joint::MAX_MEMBERS};
use understudy_types_api::{
    consistency_from_wire, consistency_to_wire, duration_to_wire, joint_to_wire, problem_from_wire,
    problem_to_wire, time_to_wire,
};

use super::{
    Disk, Facts, GroupFacts, ItemFacts, ItemRole, LeaseFacts, Machine, Nic, PointDisk, PowerState,
    RecoveryPoint, ReplicationFacts, ReplicationState, ScrubFacts,
};
use crate::{
    MAX_DISKS, MAX_NICS, MAX_REVISION,
    field::{
        Invalid, digest, host, host_to_wire, joint, list, names, parse, parse_optional, span, span_optional,
        text, time, time_optional,
    },
    task::{retention_of, retention_to_wire},
    v1,
};

const MAX_MACHINES: usize = 4096;
const MAX_NETWORKS: usize = 4096;
const MAX_POINTS: usize = 4096;
const MAX_ADDRESSES: usize = 64;
const MAX_TEXT: usize = 1024;

impl TryFrom<v1::Facts> for Facts {
    type Error = Invalid;
    fn try_from(wire: v1::Facts) -> Result<Self, Invalid> {
        let v1::Facts {
            host: name,
            time: at,
            hypervisor,
            cpus,
            memory_bytes,
            store_free_bytes,
            machines,
            networks,
            items,
            test_networks,
            boot_id,
        } = wire;
        Ok(Self {
            host: host("host", &name)?,
            time: time("time", at)?,
            hypervisor: text("hypervisor", hypervisor, MAX_TEXT)?,
            cpus,
            memory_bytes,
            store_free_bytes,
            machines: list("machines", machines, MAX_MACHINES, Machine::try_from)?,
            networks: names("networks", &networks, MAX_NETWORKS)?,
            items: list("items", items, MAX_MACHINES, ItemFacts::try_from)?,
            test_networks: names("test_networks", &test_networks, MAX_NETWORKS)?,
            boot_id: text("boot_id", boot_id, MAX_TEXT)?,
        })
    }
}

impl TryFrom<v1::Machine> for Machine {
    type Error = Invalid;
    fn try_from(wire: v1::Machine) -> Result<Self, Invalid> {
        let power = match wire.power() {
            v1::PowerState::Running => PowerState::Running,
            v1::PowerState::Paused => PowerState::Paused,
            v1::PowerState::ShutOff => PowerState::ShutOff,
            // A state of a newer version is not known to us either.
            v1::PowerState::Unspecified | v1::PowerState::Unknown => PowerState::Unknown,
        };
        let v1::Machine {
            name,
            uuid,
            power: _,
            vcpus,
            memory_bytes,
            disks,
            nics,
            item,
            generation,
            test_run,
        } = wire;
        let item = parse_optional("item", &item)?.map(|item| (item, Generation::new(generation)));
        Ok(Self {
            name: parse("name", &name)?,
            uuid: parse("uuid", &uuid)?,
            power,
            vcpus,
            memory_bytes,
            disks: list("disks", disks, MAX_DISKS, Disk::try_from)?,
            nics: list("nics", nics, MAX_NICS, Nic::try_from)?,
            item,
            test_run: parse_optional("test_run", &test_run)?,
        })
    }
}

impl TryFrom<v1::Disk> for Disk {
    type Error = Invalid;
    fn try_from(wire: v1::Disk) -> Result<Self, Invalid> {
        let v1::Disk { name, size_bytes, format, serial, replicable } = wire;
        Ok(Self {
            name: parse("name", &name)?,
            size: size_bytes,
            format: text("format", format, MAX_TEXT)?,
            serial: Some(text("serial", serial, MAX_TEXT)?).filter(|s| !s.is_empty()),
            replicable,
        })
    }
}

impl TryFrom<v1::Nic> for Nic {
    type Error = Invalid;
    fn try_from(wire: v1::Nic) -> Result<Self, Invalid> {
        let v1::Nic { mac, network, addresses } = wire;
        Ok(Self {
            mac: parse("mac", &mac)?,
            network: parse_optional("network", &network)?,
            addresses: names("addresses", &addresses, MAX_ADDRESSES)?,
        })
    }
}

impl TryFrom<v1::ItemFacts> for ItemFacts {
    type Error = Invalid;
    fn try_from(wire: v1::ItemFacts) -> Result<Self, Invalid> {
        let role = match wire.role() {
            v1::ItemRole::Source => ItemRole::Source,
            v1::ItemRole::Target => ItemRole::Target,
            v1::ItemRole::Fenced => ItemRole::Fenced,
            v1::ItemRole::Unspecified => {
                return Err(Invalid::new("role", "is not a role that this version knows"));
            }
        };
        let v1::ItemFacts { item, generation, role: _, replication, points, scrub, retention, lease } = wire;
        Ok(Self {
            item: parse("item", &item)?,
            generation: Generation::new(generation),
            role,
            replication: replication
                .map(|r| ReplicationFacts::try_from(r).map_err(|e| e.within("replication")))
                .transpose()?,
            points: list("points", points, MAX_POINTS, RecoveryPoint::try_from)?,
            // An agent that does not tell has not scrubbed.
            scrub: scrub.map(ScrubFacts::try_from).transpose()?.unwrap_or_default(),
            retention: retention.map(|r| retention_of(r).map_err(|e| e.within("retention"))).transpose()?,
            lease: lease.map(LeaseFacts::try_from).transpose()?,
        })
    }
}

impl TryFrom<v1::LeaseFacts> for LeaseFacts {
    type Error = Invalid;
    fn try_from(v1::LeaseFacts { length, ended, stopped }: v1::LeaseFacts) -> Result<Self, Invalid> {
        let stopped = time_optional("lease.stopped", stopped)?;
        Ok(Self { length: span("lease.length", length)?, ended, stopped })
    }
}

impl From<LeaseFacts> for v1::LeaseFacts {
    fn from(LeaseFacts { length, ended, stopped }: LeaseFacts) -> Self {
        Self { length: Some(duration_to_wire(length)), ended, stopped: stopped.map(time_to_wire) }
    }
}

impl TryFrom<v1::ScrubFacts> for ScrubFacts {
    type Error = Invalid;
    fn try_from(wire: v1::ScrubFacts) -> Result<Self, Invalid> {
        let v1::ScrubFacts { last_end, checked_blocks, under_way_since } = wire;
        Ok(Self {
            last_end: time_optional("scrub.last_end", last_end)?,
            checked_blocks,
            under_way_since: time_optional("scrub.under_way_since", under_way_since)?,
        })
    }
}

impl TryFrom<v1::RecoveryPoint> for RecoveryPoint {
    type Error = Invalid;
    fn try_from(wire: v1::RecoveryPoint) -> Result<Self, Invalid> {
        let v1::RecoveryPoint {
            seq,
            instant,
            received,
            generation,
            disks,
            is_base,
            pinned,
            consistency,
            frozen,
            damaged_blocks,
            encrypted,
            unlocked_until,
            joint: shared,
        } = wire;
        Ok(Self {
            seq: PointSeq::new(seq),
            instant: time("instant", instant)?,
            received: time("received", received)?,
            generation: Generation::new(generation),
            disks: list(
                "disks",
                disks,
                MAX_DISKS,
                |v1::PointDisk { name, size_bytes, changed_bytes, root }| {
                    Ok(PointDisk {
                        name: parse("name", &name)?,
                        size: size_bytes,
                        changed_bytes,
                        root: digest("root", &root)?,
                    })
                },
            )?,
            is_base,
            pinned,
            consistency: consistency_from_wire(consistency),
            frozen: span_optional("frozen", frozen)?,
            damaged_blocks,
            encrypted,
            unlocked_until: time_optional("unlocked_until", unlocked_until)?,
            joint: joint(shared)?,
        })
    }
}

impl TryFrom<v1::ReplicationFacts> for ReplicationFacts {
    type Error = Invalid;
    fn try_from(wire: v1::ReplicationFacts) -> Result<Self, Invalid> {
        let state = match wire.state() {
            v1::ReplicationState::Initial => ReplicationState::Initial,
            v1::ReplicationState::Steady => ReplicationState::Steady,
            v1::ReplicationState::Resync => ReplicationState::Resync,
            v1::ReplicationState::Error => ReplicationState::Error,
            v1::ReplicationState::Stopped => ReplicationState::Stopped,
            v1::ReplicationState::Paused => ReplicationState::Paused,
            v1::ReplicationState::Queued => ReplicationState::Queued,
            v1::ReplicationState::Unspecified => {
                return Err(Invalid::new("state", "is not a state that this version knows"));
            }
        };
        let v1::ReplicationFacts {
            state: _,
            last_seq,
            last_instant,
            sent_bytes,
            total_bytes,
            last_cycle_bytes,
            last_cycle,
            last_cycle_kind,
            cycles,
            last_error,
            failures,
            failing_since,
            backlog_bytes,
            throughput_bytes_per_second,
            covered,
            not_at_rest,
            last_hour,
            last_day,
            disks,
            revision,
            group,
        } = wire;
        Ok(Self {
            state,
            last_seq: (last_seq != 0).then(|| PointSeq::new(last_seq)),
            last_instant: time_optional("last_instant", last_instant)?,
            sent_bytes,
            total_bytes,
            last_cycle_bytes,
            last_cycle: span_optional("last_cycle", last_cycle)?.unwrap_or_default(),
            last_cycle_kind: text("last_cycle_kind", last_cycle_kind, MAX_TEXT)?,
            cycles,
            last_error: problem("last_error", last_error)?,
            failures,
            failing_since: time_optional("failing_since", failing_since)?,
            backlog_bytes,
            throughput_bytes_per_second,
            covered,
            not_at_rest: problem("not_at_rest", not_at_rest)?,
            last_hour: last_hour.map(|p| percentiles(p).map_err(|e| e.within("last_hour"))).transpose()?,
            last_day: last_day.map(|p| percentiles(p).map_err(|e| e.within("last_day"))).transpose()?,
            disks: names("disks", &disks, MAX_DISKS)?,
            revision: revision.map(|r| text("revision", r, MAX_REVISION)).transpose()?,
            group: group.map(|g| GroupFacts::try_from(g).map_err(|e| e.within("group"))).transpose()?,
        })
    }
}

impl TryFrom<v1::GroupFacts> for GroupFacts {
    type Error = Invalid;
    fn try_from(wire: v1::GroupFacts) -> Result<Self, Invalid> {
        let v1::GroupFacts { group, last_instant, members, last_pause, missed } = wire;
        Ok(Self {
            group: parse("group", &group)?,
            last_instant: time_optional("last_instant", last_instant)?,
            members: names("members", &members, MAX_MEMBERS)?.into_iter().collect(),
            last_pause: span_optional("last_pause", last_pause)?,
            missed: problem("missed", missed)?,
        })
    }
}

impl From<GroupFacts> for v1::GroupFacts {
    fn from(facts: GroupFacts) -> Self {
        let GroupFacts { group, last_instant, members, last_pause, missed } = facts;
        Self {
            group: group.into(),
            last_instant: last_instant.map(time_to_wire),
            members: members.into_iter().map(String::from).collect(),
            last_pause: last_pause.map(duration_to_wire),
            missed: missed.map(problem_to_wire),
        }
    }
}

fn problem(name: &str, wire: Option<understudy_types_api::v1::Problem>) -> Result<Option<Problem>, Invalid> {
    let bad = |field: &str| Invalid::new(format!("{name}.{field}"), "is missing or too long");
    wire.map(|problem| problem_from_wire(problem).map_err(bad)).transpose()
}

fn percentiles(wire: v1::RpoPercentiles) -> Result<Percentiles, Invalid> {
    let v1::RpoPercentiles { p50, p95, p99, worst, covered } = wire;
    Ok(Percentiles {
        p50: span("p50", p50)?,
        p95: span("p95", p95)?,
        p99: span("p99", p99)?,
        worst: span("worst", worst)?,
        covered: span("covered", covered)?,
    })
}

fn percentiles_to_wire(percentiles: Percentiles) -> v1::RpoPercentiles {
    let Percentiles { p50, p95, p99, worst, covered } = percentiles;
    let [p50, p95, p99, worst, covered] =
        [p50, p95, p99, worst, covered].map(|span| Some(duration_to_wire(span)));
    v1::RpoPercentiles { p50, p95, p99, worst, covered }
}

impl From<Facts> for v1::Facts {
    fn from(facts: Facts) -> Self {
        let Facts {
            host,
            time,
            hypervisor,
            cpus,
            memory_bytes,
            store_free_bytes,
            machines,
            networks,
            items,
            test_networks,
            boot_id,
        } = facts;
        Self {
            host: host_to_wire(&host),
            time: Some(time_to_wire(time)),
            hypervisor,
            cpus,
            memory_bytes,
            store_free_bytes,
            machines: machines.into_iter().map(Into::into).collect(),
            networks: networks.into_iter().map(String::from).collect(),
            items: items.into_iter().map(Into::into).collect(),
            test_networks: test_networks.into_iter().map(String::from).collect(),
            boot_id,
        }
    }
}

impl From<Machine> for v1::Machine {
    fn from(machine: Machine) -> Self {
        let Machine { name, uuid, power, vcpus, memory_bytes, disks, nics, item, test_run } = machine;
        let power = match power {
            PowerState::Running => v1::PowerState::Running,
            PowerState::Paused => v1::PowerState::Paused,
            PowerState::ShutOff => v1::PowerState::ShutOff,
            PowerState::Unknown => v1::PowerState::Unknown,
        };
        let (item, generation) = item.map(|(item, g)| (item.into(), g.get())).unwrap_or_default();
        Self {
            name: name.into(),
            uuid: uuid.to_string(),
            power: power.into(),
            vcpus,
            memory_bytes,
            disks: disks
                .into_iter()
                .map(|Disk { name, size, format, serial, replicable }| v1::Disk {
                    name: name.into(),
                    size_bytes: size,
                    format,
                    serial: serial.unwrap_or_default(),
                    replicable,
                })
                .collect(),
            nics: nics
                .into_iter()
                .map(|Nic { mac, network, addresses }| v1::Nic {
                    mac: mac.to_string(),
                    network: network.map(String::from).unwrap_or_default(),
                    addresses: addresses.iter().take(MAX_ADDRESSES).map(IpAddr::to_string).collect(),
                })
                .collect(),
            item,
            generation,
            test_run: test_run.map(|run| run.to_string()).unwrap_or_default(),
        }
    }
}

impl From<ItemFacts> for v1::ItemFacts {
    fn from(facts: ItemFacts) -> Self {
        let ItemFacts { item, generation, role, replication, points, scrub, retention, lease } = facts;
        let role = match role {
            ItemRole::Source => v1::ItemRole::Source,
            ItemRole::Target => v1::ItemRole::Target,
            ItemRole::Fenced => v1::ItemRole::Fenced,
        };
        Self {
            item: item.into(),
            generation: generation.get(),
            role: role.into(),
            replication: replication.map(Into::into),
            points: points.into_iter().map(Into::into).collect(),
            scrub: Some(scrub.into()),
            retention: retention.as_ref().map(retention_to_wire),
            lease: lease.map(Into::into),
        }
    }
}

impl From<ScrubFacts> for v1::ScrubFacts {
    fn from(facts: ScrubFacts) -> Self {
        let ScrubFacts { last_end, checked_blocks, under_way_since } = facts;
        Self {
            last_end: last_end.map(time_to_wire),
            checked_blocks,
            under_way_since: under_way_since.map(time_to_wire),
        }
    }
}

impl From<RecoveryPoint> for v1::RecoveryPoint {
    fn from(point: RecoveryPoint) -> Self {
        let RecoveryPoint {
            seq,
            instant,
            received,
            generation,
            disks,
            is_base,
            pinned,
            consistency,
            frozen,
            damaged_blocks,
            encrypted,
            unlocked_until,
            joint,
        } = point;
        Self {
            seq: seq.get(),
            instant: Some(time_to_wire(instant)),
            received: Some(time_to_wire(received)),
            generation: generation.get(),
            disks: disks
                .into_iter()
                .map(|PointDisk { name, size, changed_bytes, root }| v1::PointDisk {
                    name: name.into(),
                    size_bytes: size,
                    changed_bytes,
                    root: root.bytes().to_vec().into(),
                })
                .collect(),
            is_base,
            pinned,
            consistency: consistency_to_wire(consistency),
            frozen: frozen.map(duration_to_wire),
            damaged_blocks,
            encrypted,
            unlocked_until: unlocked_until.map(time_to_wire),
            joint: joint.map(joint_to_wire),
        }
    }
}

impl From<ReplicationFacts> for v1::ReplicationFacts {
    fn from(facts: ReplicationFacts) -> Self {
        let ReplicationFacts {
            state,
            last_seq,
            last_instant,
            sent_bytes,
            total_bytes,
            last_cycle_bytes,
            last_cycle,
            last_cycle_kind,
            cycles,
            last_error,
            failures,
            failing_since,
            backlog_bytes,
            throughput_bytes_per_second,
            covered,
            not_at_rest,
            last_hour,
            last_day,
            disks,
            revision,
            group,
        } = facts;
        let state = match state {
            ReplicationState::Initial => v1::ReplicationState::Initial,
            ReplicationState::Steady => v1::ReplicationState::Steady,
            ReplicationState::Resync => v1::ReplicationState::Resync,
            ReplicationState::Error => v1::ReplicationState::Error,
            ReplicationState::Stopped => v1::ReplicationState::Stopped,
            ReplicationState::Paused => v1::ReplicationState::Paused,
            ReplicationState::Queued => v1::ReplicationState::Queued,
        };
        Self {
            state: state.into(),
            last_seq: last_seq.map_or(0, PointSeq::get),
            last_instant: last_instant.map(time_to_wire),
            sent_bytes,
            total_bytes,
            last_cycle_bytes,
            last_cycle: Some(duration_to_wire(last_cycle)),
            last_cycle_kind,
            cycles,
            last_error: last_error.map(problem_to_wire),
            failures,
            failing_since: failing_since.map(time_to_wire),
            backlog_bytes,
            throughput_bytes_per_second,
            covered,
            not_at_rest: not_at_rest.map(problem_to_wire),
            last_hour: last_hour.map(percentiles_to_wire),
            last_day: last_day.map(percentiles_to_wire),
            disks: disks.iter().map(ToString::to_string).collect(),
            revision,
            group: group.map(Into::into),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use understudy_ids::{Consistency, Problem, UnixMicros, Uuid};
    use understudy_replication::{BlockDigest, RetentionPolicy};

    use super::*;

    fn facts() -> Facts {
        let time = UnixMicros::new(1_700_000_000_000_001);
        Facts {
            host: "alpha/alpha-h1".parse().unwrap(),
            time,
            hypervisor: "simulated".to_owned(),
            cpus: 2,
            memory_bytes: 1 << 33,
            store_free_bytes: 5,
            machines: vec![Machine {
                name: "web1".parse().unwrap(),
                uuid: Uuid::from_u128(1),
                power: PowerState::Unknown,
                vcpus: 1,
                memory_bytes: 1,
                disks: vec![Disk {
                    name: "vda".parse().unwrap(),
                    size: 1 << 30,
                    format: "qcow2".to_owned(),
                    serial: None,
                    replicable: true,
                }],
                nics: vec![Nic {
                    mac: "52:54:00:00:00:01".parse().unwrap(),
                    network: Some("prod".parse().unwrap()),
                    addresses: vec!["10.0.0.9".parse().unwrap()],
                }],
                item: Some(("web1".parse().unwrap(), Generation::new(2))),
                test_run: Some(Uuid::from_u128(2)),
            }],
            networks: vec!["prod".parse().unwrap()],
            items: vec![ItemFacts {
                item: "web1".parse().unwrap(),
                generation: Generation::new(2),
                role: ItemRole::Fenced,
                replication: Some(ReplicationFacts {
                    state: ReplicationState::Error,
                    last_seq: None,
                    last_instant: Some(time),
                    sent_bytes: 1,
                    total_bytes: 2,
                    last_cycle_bytes: 3,
                    last_cycle: Duration::from_millis(20),
                    last_cycle_kind: "full: x".to_owned(),
                    cycles: 4,
                    last_error: Some(Problem::new("R", "s", "m", "r")),
                    failures: 5,
                    failing_since: Some(time),
                    backlog_bytes: Some(0),
                    throughput_bytes_per_second: 6,
                    covered: true,
                    not_at_rest: Some(Problem::new("N", "s", "m", "r")),
                    last_hour: Some(Percentiles {
                        p50: Duration::from_secs(1),
                        p95: Duration::from_secs(2),
                        p99: Duration::from_secs(3),
                        worst: Duration::from_secs(4),
                        covered: Duration::from_secs(5),
                    }),
                    last_day: None,
                    disks: vec!["vda".parse().unwrap()],
                    revision: Some(String::new()),
                    group: Some(GroupFacts {
                        last_instant: Some(time),
                        members: ["web1".parse().unwrap()].into(),
                        last_pause: Some(Duration::from_millis(210)),
                        missed: Some(Problem::new("A", "b", "c", "d")),
                        ..GroupFacts::new("shop".parse().unwrap())
                    }),
                }),
                points: vec![RecoveryPoint {
                    seq: PointSeq::new(1),
                    instant: time,
                    received: time,
                    generation: Generation::new(1),
                    disks: vec![PointDisk {
                        name: "vda".parse().unwrap(),
                        size: 1 << 30,
                        changed_bytes: 65_536,
                        root: BlockDigest::of(b"x"),
                    }],
                    is_base: true,
                    pinned: true,
                    consistency: Consistency::Application,
                    frozen: Some(Duration::from_millis(40)),
                    damaged_blocks: 3,
                    encrypted: true,
                    unlocked_until: Some(time),
                    joint: Some(understudy_replication::Joint {
                        group: "shop".parse().unwrap(),
                        instant: time,
                        members: ["web1".parse().unwrap()].into(),
                        pause: Duration::from_millis(210),
                    }),
                }],
                scrub: ScrubFacts { last_end: Some(time), checked_blocks: 9, under_way_since: Some(time) },
                retention: Some(RetentionPolicy { keep_count: Some(3), ..RetentionPolicy::default() }),
                lease: Some(LeaseFacts { length: Duration::from_secs(30), ended: true, stopped: Some(time) }),
            }],
            test_networks: Vec::new(),
            boot_id: "b".to_owned(),
        }
    }

    #[test]
    fn facts_come_back_as_they_went_out() {
        assert_eq!(Facts::try_from(v1::Facts::from(facts())), Ok(facts()));
    }

    #[test]
    fn facts_that_break_a_bound_are_refused_by_field() {
        let broken = |change: fn(&mut v1::Facts)| {
            let mut wire = v1::Facts::from(facts());
            change(&mut wire);
            Facts::try_from(wire).unwrap_err().field
        };
        assert_eq!(broken(|f| f.host = "alpha".into()), "host");
        assert_eq!(broken(|f| f.machines[0].name = "../x".into()), "machines[0].name");
        assert_eq!(broken(|f| f.machines[0].nics[0].mac = "x".into()), "machines[0].nics[0].mac");
        assert_eq!(broken(|f| f.items[0].role = 0), "items[0].role");
        assert_eq!(
            broken(|f| f.items[0].points[0].disks[0].root = vec![0; 31].into()),
            "items[0].points[0].disks[0].root"
        );
        let without_worst = |f: &mut v1::Facts| {
            let replication = f.items[0].replication.as_mut();
            replication.and_then(|r| r.last_hour.as_mut()).unwrap().worst = None;
        };
        assert_eq!(broken(without_worst), "items[0].replication.last_hour.worst");
        assert_eq!(broken(|f| f.boot_id = "x".repeat(2000)), "boot_id");
    }
}
