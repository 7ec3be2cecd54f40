//! Tasks on the wire.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use understudy_ids::{DiskName, Generation, NetworkName, PointSeq};
use understudy_probe::{Probe, ProbeKind};
use understudy_replication::{
    Membership, ReplicationSettings, RetentionPolicy, joint::MAX_MEMBERS, settings::BadSetting,
};
use understudy_types_api::{
    duration_to_wire, probe_from_wire, probe_to_wire, settings_from_wire, settings_to_wire, tiers_from_wire,
    tiers_to_wire,
};

use super::{
    Action, AgentTask, DhcpReservation, DiskSize, ExistingNetworkProbe, RunScript, StartReplication,
};
use crate::{
    MAX_BOOT_ID, MAX_DISKS, MAX_NICS, MAX_REVISION, MAX_SCRIPT_CONTEXT,
    field::{
        Invalid, host, host_to_wire, list, names, parse, parse_optional, required, span, span_optional, text,
        uuid,
    },
    v1::{self, agent_task::Action as WireAction},
};

const MAX_RESERVATIONS: usize = 4096;
const MAX_PROBE_TARGETS: usize = 256;
const MAX_TEXT: usize = 256;
const NO_DISKS: &str = "is empty: a machine without disks cannot be replicated";
/// The shortest interval that is not a denial of service to the hypervisor, and the longest that a policy may ask for.
const INTERVALS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(86_400);

/// A script that needs less would not be noticed, and one that needs more is not part of a recovery.
const SCRIPT_TIME_OUTS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(86_400);
const SHA256_DIGITS: usize = 64;

impl TryFrom<v1::AgentTask> for AgentTask {
    type Error = Invalid;
    fn try_from(wire: v1::AgentTask) -> Result<Self, Invalid> {
        let v1::AgentTask { item, generation, run, action } = wire;
        if generation == 0 {
            return Err(Invalid::new("generation", "is 0; generations begin at 1"));
        }
        Ok(Self {
            item: parse("item", &item)?,
            generation: Generation::new(generation),
            run: uuid("run", &run)?,
            action: required("action", action)?.try_into()?,
        })
    }
}

impl TryFrom<WireAction> for Action {
    type Error = Invalid;
    fn try_from(wire: WireAction) -> Result<Self, Invalid> {
        match wire {
            WireAction::PrepareReplica(a) => prepare_replica(a).map_err(|e| e.within("prepare_replica")),
            WireAction::StartReplication(a) => {
                start_replication(a).map_err(|e| e.within("start_replication"))
            }
            WireAction::StopReplication(v1::StopReplication { forget }) => {
                Ok(Self::StopReplication { forget })
            }
            WireAction::RemoveReplica(v1::RemoveReplica {}) => Ok(Self::RemoveReplica),
            WireAction::Fence(v1::Fence { power_off }) => Ok(Self::Fence { power_off }),
            WireAction::ShutDownMachine(v1::ShutDownMachine { machine, grace, then_power_off }) => {
                Ok(Self::ShutDownMachine {
                    machine: parse("shut_down_machine.machine", &machine)?,
                    grace: span("shut_down_machine.grace", grace)?,
                    then_power_off,
                })
            }
            WireAction::SyncFinal(v1::SyncFinal { machine }) => {
                Ok(Self::SyncFinal { machine: parse("sync_final.machine", &machine)? })
            }
            WireAction::DigestDisks(v1::DigestDisks { machine }) => {
                Ok(Self::DigestDisks { machine: parse("digest_disks.machine", &machine)? })
            }
            WireAction::VerifyPoint(v1::VerifyPoint { seq }) => {
                Ok(Self::VerifyPoint { seq: point("verify_point.seq", seq)? })
            }
            WireAction::CreateTestMachine(v1::CreateTestMachine { seq, name, nics }) => {
                Ok(Self::CreateTestMachine {
                    seq: (seq != 0).then(|| PointSeq::new(seq)),
                    name: parse("create_test_machine.name", &name)?,
                    nics: connections(nics).map_err(|e| e.within("create_test_machine"))?,
                })
            }
            WireAction::PromotePoint(v1::PromotePoint { seq, nics }) => Ok(Self::PromotePoint {
                seq: point("promote_point.seq", seq)?,
                nics: connections(nics).map_err(|e| e.within("promote_point"))?,
            }),
            WireAction::PromoteTest(v1::PromoteTest { run, test_machine, grace, seq, nics }) => {
                Ok(Self::PromoteTest {
                    run: parse("promote_test.run", &run)?,
                    test_machine: parse("promote_test.test_machine", &test_machine)?,
                    grace: span("promote_test.grace", grace)?,
                    seq: point("promote_test.seq", seq)?,
                    nics: connections(nics).map_err(|e| e.within("promote_test"))?,
                })
            }
            WireAction::StartInBoot(v1::StartInBoot { machine, boot_id }) => Ok(Self::StartInBoot {
                machine: parse("start_in_boot.machine", &machine)?,
                boot_id: text("start_in_boot.boot_id", boot_id, MAX_BOOT_ID)?,
            }),
            WireAction::StartMachine(v1::StartMachine { machine }) => {
                Ok(Self::StartMachine { machine: parse("start_machine.machine", &machine)? })
            }
            WireAction::ProbeMachine(a) => probe_machine(a).map_err(|e| e.within("probe_machine")),
            WireAction::TakeScreenshot(v1::TakeScreenshot { machine }) => {
                Ok(Self::TakeScreenshot { machine: parse("take_screenshot.machine", &machine)? })
            }
            WireAction::RemoveTestMachine(v1::RemoveTestMachine { machine }) => {
                Ok(Self::RemoveTestMachine { machine: parse("remove_test_machine.machine", &machine)? })
            }
            WireAction::EnsureTestNetwork(a) => test_network(a).map_err(|e| e.within("ensure_test_network")),
            WireAction::ProbeIsolation(v1::ProbeIsolation { network, targets }) => Ok(Self::ProbeIsolation {
                network: parse("probe_isolation.network", &network)?,
                targets: names("probe_isolation.targets", &targets, MAX_PROBE_TARGETS)?,
            }),
            WireAction::ProbeExistingNetwork(a) => {
                existing_network(a).map_err(|e| e.within("probe_existing_network"))
            }
            WireAction::RemoveProbePort(v1::RemoveProbePort { network }) => {
                Ok(Self::RemoveProbePort { network: parse("remove_probe_port.network", &network)? })
            }
            WireAction::RemoveTestNetwork(v1::RemoveTestNetwork { name }) => {
                Ok(Self::RemoveTestNetwork { name: parse("remove_test_network.name", &name)? })
            }
            WireAction::AdoptDisks(v1::AdoptDisks { machine, seq }) => Ok(Self::AdoptDisks {
                machine: parse("adopt_disks.machine", &machine)?,
                seq: point("adopt_disks.seq", seq)?,
            }),
            WireAction::SetAside(v1::SetAside { machine, seq }) => Ok(Self::SetAside {
                machine: parse("set_aside.machine", &machine)?,
                seq: point("set_aside.seq", seq)?,
            }),
            WireAction::DropAside(v1::DropAside {}) => Ok(Self::DropAside),
            WireAction::DiscardPromotion(v1::DiscardPromotion { machine, generation }) => {
                if generation == 0 {
                    return Err(Invalid::new("discard_promotion.generation", "is 0; generations begin at 1"));
                }
                Ok(Self::DiscardPromotion {
                    machine: parse("discard_promotion.machine", &machine)?,
                    generation: Generation::new(generation),
                })
            }
            WireAction::CommitItem(v1::CommitItem {}) => Ok(Self::CommitItem),
            WireAction::ScrubItem(v1::ScrubItem { seq }) => {
                Ok(Self::ScrubItem { seq: (seq != 0).then(|| PointSeq::new(seq)) })
            }
            WireAction::ExportSeed(a) => export_seed(a).map_err(|e| e.within("export_seed")),
            WireAction::ImportSeed(v1::ImportSeed { disks, seed }) => Ok(Self::ImportSeed {
                disks: sizes(disks).map_err(|e| e.within("import_seed"))?,
                seed: parse("import_seed.seed", &seed)?,
            }),
            WireAction::RemoveSeed(v1::RemoveSeed { seed }) => {
                Ok(Self::RemoveSeed { seed: parse("remove_seed.seed", &seed)? })
            }
            WireAction::RunScript(a) => run_script(a).map_err(|e| e.within("run_script")),
        }
    }
}

fn point(field: &str, seq: u64) -> Result<PointSeq, Invalid> {
    if seq == 0 {
        return Err(Invalid::new(field, "is 0; points are numbered from 1"));
    }
    Ok(PointSeq::new(seq))
}

fn prepare_replica(wire: v1::PrepareReplica) -> Result<Action, Invalid> {
    let v1::PrepareReplica { disks, retention } = wire;
    let disks = sizes(disks)?;
    let retention = retention_of(retention.unwrap_or_default()).map_err(|e| e.within("retention"))?;
    Ok(Action::PrepareReplica { disks, retention })
}

fn export_seed(wire: v1::ExportSeed) -> Result<Action, Invalid> {
    let v1::ExportSeed { machine, disks, seed } = wire;
    let disks: Vec<DiskName> = names("disks", &disks, MAX_DISKS)?;
    if disks.is_empty() {
        return Err(Invalid::new("disks", NO_DISKS));
    }
    Ok(Action::ExportSeed { machine: parse("machine", &machine)?, disks, seed: parse("seed", &seed)? })
}

fn sizes(disks: Vec<v1::DiskSize>) -> Result<Vec<DiskSize>, Invalid> {
    let disks = list("disks", disks, MAX_DISKS, |v1::DiskSize { name, size_bytes }| {
        if size_bytes == 0 {
            return Err(Invalid::new("size_bytes", "is 0"));
        }
        Ok(DiskSize { name: parse("name", &name)?, size: size_bytes })
    })?;
    if disks.is_empty() { Err(Invalid::new("disks", NO_DISKS)) } else { Ok(disks) }
}

fn sizes_to_wire(disks: Vec<DiskSize>) -> Vec<v1::DiskSize> {
    let wire = |DiskSize { name, size }| v1::DiskSize { name: name.into(), size_bytes: size };
    disks.into_iter().map(wire).collect()
}

/// A policy of what is kept, within its bounds.
pub(crate) fn retention_of(wire: v1::Retention) -> Result<RetentionPolicy, Invalid> {
    let v1::Retention { keep_count, keep_age, keep_tiers } = wire;
    let keep_age = span_optional("keep_age", keep_age)?.filter(|age| !age.is_zero());
    let tiers = tiers_from_wire(&keep_tiers).map_err(|bad| of_settings("keep_tiers", &bad))?;
    let keep_count = (keep_count != 0).then_some(keep_count);
    let retention = RetentionPolicy { keep_count, keep_age, tiers };
    let bad = retention.problems();
    if bad.is_empty() { Ok(retention) } else { Err(of_settings("policy", &bad)) }
}

pub(crate) fn retention_to_wire(retention: &RetentionPolicy) -> v1::Retention {
    let RetentionPolicy { keep_count, keep_age, tiers } = retention;
    v1::Retention {
        keep_count: keep_count.unwrap_or(0),
        keep_age: keep_age.map(duration_to_wire),
        keep_tiers: tiers_to_wire(tiers),
    }
}

/// All of them in one sentence.
fn of_settings(field: &str, bad: &[BadSetting]) -> Invalid {
    let all: Vec<_> = bad.iter().map(ToString::to_string).collect();
    Invalid::new(field, all.join("; "))
}

fn start_replication(wire: v1::StartReplication) -> Result<Action, Invalid> {
    let v1::StartReplication {
        machine,
        disks,
        peer_host,
        peer_endpoint,
        interval,
        settings,
        policy,
        paused,
        rpo_objective,
        revision,
        group,
    } = wire;
    let interval = span("interval", interval)?;
    if !INTERVALS.contains(&interval) {
        return Err(Invalid::new("interval", format!("{interval:?} is outside 100 ms to 24 h")));
    }
    if !peer_endpoint.starts_with("https://") || peer_endpoint.len() > MAX_TEXT {
        return Err(Invalid::new("peer_endpoint", "is not https://address:port"));
    }
    let disks: Vec<_> = names("disks", &disks, MAX_DISKS)?;
    if disks.is_empty() {
        return Err(Invalid::new("disks", "is empty"));
    }
    Ok(Action::StartReplication(StartReplication {
        machine: parse("machine", &machine)?,
        disks,
        peer_host: host("peer_host", &peer_host)?,
        peer_endpoint,
        interval,
        settings: settings_of(settings, interval)?,
        policy: parse_optional("policy", &policy)?,
        paused,
        rpo_objective: span_optional("rpo_objective", rpo_objective)?.filter(|span| !span.is_zero()),
        revision: text("revision", revision, MAX_REVISION)?,
        group: group.map(membership).transpose()?,
    }))
}

fn membership(wire: v1::GroupMembership) -> Result<Membership, Invalid> {
    let v1::GroupMembership { group, members } = wire;
    let members: Vec<_> = names("group.members", &members, MAX_MEMBERS)?;
    Ok(Membership { group: parse("group.group", &group)?, members: members.into_iter().collect() })
}

fn settings_of(
    wire: Option<understudy_types_api::v1::ReplicationSettings>,
    interval: Duration,
) -> Result<ReplicationSettings, Invalid> {
    settings_from_wire(wire, interval).map_err(|bad| of_settings("settings", &bad))
}

fn first_of(parent: &str, bad: Vec<(&'static str, String)>) -> Invalid {
    let (field, why) = bad.into_iter().next().unwrap_or_default();
    Invalid::new(format!("{parent}.{field}"), why)
}

fn probe_machine(wire: v1::ProbeMachine) -> Result<Action, Invalid> {
    let v1::ProbeMachine { machine, network, address, limit: _, probe } = wire;
    let probe = probe.map_or_else(|| Ok(Probe::ping()), probe_from_wire);
    let probe = probe.map_err(|bad| first_of("probe", bad))?;
    if let Some((field, why)) = understudy_probe::problems(std::slice::from_ref(&probe)).first() {
        return Err(Invalid::new(field, why));
    }
    let at = parse_optional("network", &network)?.zip(parse_optional::<IpAddr>("address", &address)?);
    if at.is_none() && probe.kind != ProbeKind::GuestAgent {
        return Err(Invalid::new("address", "is missing, with the network that it is in"));
    }
    Ok(Action::ProbeMachine { machine: parse("machine", &machine)?, at, probe })
}

/// `192.168.50.1/24`
fn with_prefix(field: &'static str, text: &str) -> Result<(Ipv4Addr, u8), Invalid> {
    let (address, prefix) = text
        .split_once('/')
        .ok_or_else(|| Invalid::new(field, "has no prefix length: use 192.168.50.1/24"))?;
    let prefix_len: u8 = parse(field, prefix)?;
    if !(8..=30).contains(&prefix_len) {
        return Err(Invalid::new(field, "has a prefix length outside 8 to 30"));
    }
    Ok((parse(field, address)?, prefix_len))
}

fn existing_network(wire: v1::ProbeExistingNetwork) -> Result<Action, Invalid> {
    let v1::ProbeExistingNetwork { network, mac, address, gateway, targets, planned } = wire;
    let (address, prefix_len) = with_prefix("address", &address)?;
    Ok(Action::ProbeExistingNetwork(ExistingNetworkProbe {
        network: parse("network", &network)?,
        mac: parse("mac", &mac)?,
        address,
        prefix_len,
        gateway: if gateway.is_empty() { None } else { Some(parse("gateway", &gateway)?) },
        targets: names("targets", &targets, MAX_PROBE_TARGETS)?,
        planned: names("planned", &planned, MAX_RESERVATIONS)?,
    }))
}

fn test_network(wire: v1::EnsureTestNetwork) -> Result<Action, Invalid> {
    let v1::EnsureTestNetwork { name, gateway, reservations } = wire;
    let (gateway, prefix_len) = with_prefix("gateway", &gateway)?;
    let reservations = list(
        "reservations",
        reservations,
        MAX_RESERVATIONS,
        |v1::DhcpReservation { mac, address, host_name }| {
            Ok(DhcpReservation {
                mac: parse("mac", &mac)?,
                address: parse("address", &address)?,
                host_name: text("host_name", host_name, MAX_TEXT)?,
            })
        },
    )?;
    Ok(Action::EnsureTestNetwork { name: parse("name", &name)?, gateway, prefix_len, reservations })
}

fn run_script(wire: v1::RunScript) -> Result<Action, Invalid> {
    let v1::RunScript { script, sha256, time_out, context } = wire;
    let is_digit = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    if sha256.len() != SHA256_DIGITS || !sha256.bytes().all(is_digit) {
        return Err(Invalid::new("sha256", "is not 64 lower-case hexadecimal digits"));
    }
    let time_out = span("time_out", time_out)?;
    if !SCRIPT_TIME_OUTS.contains(&time_out) {
        return Err(Invalid::new("time_out", format!("{time_out:?} is outside 1 s to 24 h")));
    }
    let context = text("context", context, MAX_SCRIPT_CONTEXT)?;
    match serde_json::from_str::<serde_json::Value>(&context) {
        Ok(serde_json::Value::Object(_)) => {}
        Ok(_) => return Err(Invalid::new("context", "is JSON, but not an object")),
        Err(error) => return Err(Invalid::new("context", format!("is not JSON: {error}"))),
    }
    Ok(Action::RunScript(RunScript { script: parse("script", &script)?, sha256, time_out, context }))
}

fn connections(nics: Vec<v1::NicConnection>) -> Result<Vec<Option<NetworkName>>, Invalid> {
    list("nics", nics, MAX_NICS, |v1::NicConnection { network }| parse_optional("network", &network))
}

impl From<AgentTask> for v1::AgentTask {
    fn from(task: AgentTask) -> Self {
        let AgentTask { item, generation, run, action } = task;
        Self {
            item: item.into(),
            generation: generation.get(),
            run: run.to_string(),
            action: Some(action.into()),
        }
    }
}

impl From<Action> for WireAction {
    fn from(action: Action) -> Self {
        match action {
            Action::PrepareReplica { disks, retention } => Self::PrepareReplica(v1::PrepareReplica {
                disks: sizes_to_wire(disks),
                retention: Some(retention_to_wire(&retention)),
            }),
            Action::StartReplication(StartReplication {
                machine,
                disks,
                peer_host,
                peer_endpoint,
                interval,
                settings,
                policy,
                paused,
                rpo_objective,
                revision,
                group,
            }) => Self::StartReplication(v1::StartReplication {
                machine: machine.into(),
                disks: disks.into_iter().map(String::from).collect(),
                peer_host: host_to_wire(&peer_host),
                peer_endpoint,
                interval: Some(duration_to_wire(interval)),
                settings: Some(settings_to_wire(&settings)),
                policy: policy.map(String::from).unwrap_or_default(),
                paused,
                rpo_objective: rpo_objective.map(duration_to_wire),
                revision,
                group: group.map(|Membership { group, members }| v1::GroupMembership {
                    group: group.into(),
                    members: members.into_iter().map(String::from).collect(),
                }),
            }),
            Action::StopReplication { forget } => Self::StopReplication(v1::StopReplication { forget }),
            Action::RemoveReplica => Self::RemoveReplica(v1::RemoveReplica {}),
            Action::Fence { power_off } => Self::Fence(v1::Fence { power_off }),
            Action::ShutDownMachine { machine, grace, then_power_off } => {
                Self::ShutDownMachine(v1::ShutDownMachine {
                    machine: machine.into(),
                    grace: Some(duration_to_wire(grace)),
                    then_power_off,
                })
            }
            Action::SyncFinal { machine } => Self::SyncFinal(v1::SyncFinal { machine: machine.into() }),
            Action::DigestDisks { machine } => Self::DigestDisks(v1::DigestDisks { machine: machine.into() }),
            Action::VerifyPoint { seq } => Self::VerifyPoint(v1::VerifyPoint { seq: seq.get() }),
            Action::CreateTestMachine { seq, name, nics } => Self::CreateTestMachine(v1::CreateTestMachine {
                seq: seq.map_or(0, PointSeq::get),
                name: name.into(),
                nics: connections_to_wire(nics),
            }),
            Action::PromotePoint { seq, nics } => {
                Self::PromotePoint(v1::PromotePoint { seq: seq.get(), nics: connections_to_wire(nics) })
            }
            Action::PromoteTest { run, test_machine, grace, seq, nics } => {
                Self::PromoteTest(v1::PromoteTest {
                    run: run.to_string(),
                    test_machine: test_machine.into(),
                    grace: Some(duration_to_wire(grace)),
                    seq: seq.get(),
                    nics: connections_to_wire(nics),
                })
            }
            Action::StartInBoot { machine, boot_id } => {
                Self::StartInBoot(v1::StartInBoot { machine: machine.into(), boot_id })
            }
            Action::StartMachine { machine } => {
                Self::StartMachine(v1::StartMachine { machine: machine.into() })
            }
            Action::ProbeMachine { machine, at, probe } => {
                let (network, address) =
                    at.map(|(network, address)| (network.into(), address.to_string())).unwrap_or_default();
                let ping = probe.kind == ProbeKind::Ping;
                Self::ProbeMachine(v1::ProbeMachine {
                    machine: machine.into(),
                    network,
                    address,
                    limit: ping.then(|| duration_to_wire(probe.time_out)),
                    probe: Some(probe_to_wire(&probe)),
                })
            }
            Action::TakeScreenshot { machine } => {
                Self::TakeScreenshot(v1::TakeScreenshot { machine: machine.into() })
            }
            Action::RemoveTestMachine { machine } => {
                Self::RemoveTestMachine(v1::RemoveTestMachine { machine: machine.into() })
            }
            Action::EnsureTestNetwork { name, gateway, prefix_len, reservations } => {
                Self::EnsureTestNetwork(v1::EnsureTestNetwork {
                    name: name.into(),
                    gateway: format!("{gateway}/{prefix_len}"),
                    reservations: reservations
                        .into_iter()
                        .map(|DhcpReservation { mac, address, host_name }| v1::DhcpReservation {
                            mac: mac.to_string(),
                            address: address.to_string(),
                            host_name,
                        })
                        .collect(),
                })
            }
            Action::ProbeIsolation { network, targets } => Self::ProbeIsolation(v1::ProbeIsolation {
                network: network.into(),
                targets: targets.iter().map(IpAddr::to_string).collect(),
            }),
            Action::ProbeExistingNetwork(ExistingNetworkProbe {
                network,
                mac,
                address,
                prefix_len,
                gateway,
                targets,
                planned,
            }) => Self::ProbeExistingNetwork(v1::ProbeExistingNetwork {
                network: network.into(),
                mac: mac.to_string(),
                address: format!("{address}/{prefix_len}"),
                gateway: gateway.map(|g| g.to_string()).unwrap_or_default(),
                targets: targets.iter().map(IpAddr::to_string).collect(),
                planned: planned.iter().map(IpAddr::to_string).collect(),
            }),
            Action::RemoveProbePort { network } => {
                Self::RemoveProbePort(v1::RemoveProbePort { network: network.into() })
            }
            Action::RemoveTestNetwork { name } => {
                Self::RemoveTestNetwork(v1::RemoveTestNetwork { name: name.into() })
            }
            Action::AdoptDisks { machine, seq } => {
                Self::AdoptDisks(v1::AdoptDisks { machine: machine.into(), seq: seq.get() })
            }
            Action::SetAside { machine, seq } => {
                Self::SetAside(v1::SetAside { machine: machine.into(), seq: seq.get() })
            }
            Action::DropAside => Self::DropAside(v1::DropAside {}),
            Action::DiscardPromotion { machine, generation } => {
                Self::DiscardPromotion(v1::DiscardPromotion {
                    machine: machine.into(),
                    generation: generation.get(),
                })
            }
            Action::CommitItem => Self::CommitItem(v1::CommitItem {}),
            Action::ScrubItem { seq } => Self::ScrubItem(v1::ScrubItem { seq: seq.map_or(0, PointSeq::get) }),
            Action::ExportSeed { machine, disks, seed } => Self::ExportSeed(v1::ExportSeed {
                machine: machine.into(),
                disks: disks.into_iter().map(String::from).collect(),
                seed: seed.into(),
            }),
            Action::ImportSeed { disks, seed } => {
                Self::ImportSeed(v1::ImportSeed { disks: sizes_to_wire(disks), seed: seed.into() })
            }
            Action::RemoveSeed { seed } => Self::RemoveSeed(v1::RemoveSeed { seed: seed.into() }),
            Action::RunScript(RunScript { script, sha256, time_out, context }) => {
                Self::RunScript(v1::RunScript {
                    script: script.into(),
                    sha256,
                    time_out: Some(duration_to_wire(time_out)),
                    context,
                })
            }
        }
    }
}

fn connections_to_wire(nics: Vec<Option<NetworkName>>) -> Vec<v1::NicConnection> {
    nics.into_iter()
        .map(|network| v1::NicConnection { network: network.map(String::from).unwrap_or_default() })
        .collect()
}
