//! From a step's action to the payload of a task, and from a task's end to what the run is told.
//!
//! ```text
//!   Action ── payload ──▶ Any ── job-tracker ──▶ worker ── job-tracker ──▶ Task ── event ──▶ Event
//! ```

use std::net::IpAddr;

use understudy_ids::{DiskName, Generation, ItemName, Problem, RunId, UnixMicros};
use understudy_jobs_api::{Any, Queue, Task, TaskState};
use understudy_netplan::NetworkRef as VmNetworkRef;
use understudy_network_api::{
    NetworkAction, NetworkTask, NetworkTaskResult, RecordAddress, ReservedNic, ReservedTestNetwork,
};
use understudy_recovery::{
    Event,
    action::{
        Action, AgentWork, DiskRoot, DiskSize, ExistingNetworkProbe, MachineRef, NetworkRef, NetworkWork,
        PointRef, RecordDone, RunScript, StartReplication, StepResult,
    },
    plan::Executor,
};
use understudy_replication_api as agent;

/// Why an action cannot be sent: the plan left something open, or names what the receiver does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the step cannot be sent: {0}")]
pub struct Unsendable(String);

fn open(what: &str) -> Unsendable {
    Unsendable(format!("{what} is still a reference; the plan is not in order"))
}

/// Where the task waits for its worker. Nothing for steps that nobody is sent.
pub fn queue(executor: &Executor) -> Option<Queue> {
    match executor {
        Executor::Host(host) => Some(Queue::Host(host.clone())),
        Executor::NetworkMapper => Some(Queue::NetworkMapper),
        Executor::Orchestrator | Executor::Operator => None,
    }
}

/// The payload of the task that does `action` for `run`.
///
/// # Errors
/// When the action is not one for a worker, or still refers to something that only the run knows.
pub fn payload(run: RunId, action: &Action) -> Result<Any, Unsendable> {
    match action {
        Action::Agent { item, generation, work } => agent_payload(run, item, *generation, work),
        Action::Network(work) => network_payload(run, work),
        Action::Internal(_) | Action::Operator(_) => Err(Unsendable("no worker does it".to_owned())),
    }
}

fn agent_payload(
    run: RunId,
    item: &ItemName,
    generation: Generation,
    work: &AgentWork,
) -> Result<Any, Unsendable> {
    let task = agent::AgentTask { item: item.clone(), generation, run, action: agent_action(work)? };
    Ok(task.to_any())
}

fn agent_action(work: &AgentWork) -> Result<agent::Action, Unsendable> {
    use agent::Action as Wire;
    Ok(match work.clone() {
        AgentWork::PrepareReplica { disks, retention } => {
            Wire::PrepareReplica { disks: sizes(disks), retention }
        }
        AgentWork::ExportSeed { machine, disks, seed } => Wire::ExportSeed { machine, disks, seed },
        AgentWork::ImportSeed { disks, seed } => Wire::ImportSeed { disks: sizes(disks), seed },
        AgentWork::RemoveSeed { seed } => Wire::RemoveSeed { seed },
        AgentWork::StartReplication(asked) => {
            let revision = asked.revision();
            let StartReplication {
                machine,
                disks,
                peer_host,
                peer_endpoint,
                interval,
                settings,
                policy,
                paused,
                rpo_objective,
                group,
            } = *asked;
            Wire::StartReplication(agent::StartReplication {
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
            })
        }
        AgentWork::StopReplication { forget } => Wire::StopReplication { forget },
        AgentWork::RemoveReplica => Wire::RemoveReplica,
        AgentWork::Fence { power_off } => Wire::Fence { power_off },
        AgentWork::ShutDownMachine { machine, grace, then_power_off } => {
            Wire::ShutDownMachine { machine, grace, then_power_off }
        }
        AgentWork::SyncFinal { machine } => Wire::SyncFinal { machine },
        AgentWork::DigestDisks { machine } => Wire::DigestDisks { machine },
        AgentWork::VerifyPoint { point } => Wire::VerifyPoint { seq: seq(&point)? },
        AgentWork::CreateTestMachine { point, name, nics } => {
            let seq = if point == PointRef::Latest { None } else { Some(seq(&point)?) };
            Wire::CreateTestMachine { seq, name: machine(&name)?, nics: networks(&nics)? }
        }
        AgentWork::PromotePoint { point, nics } => {
            Wire::PromotePoint { seq: seq(&point)?, nics: networks(&nics)? }
        }
        AgentWork::PromoteTest { run, test_machine, grace, point, nics } => {
            Wire::PromoteTest { run, test_machine, grace, seq: seq(&point)?, nics: networks(&nics)? }
        }
        AgentWork::StartMachine { machine: name } => Wire::StartMachine { machine: machine(&name)? },
        AgentWork::StartInBoot { machine: name, boot_id } => {
            Wire::StartInBoot { machine: machine(&name)?, boot_id }
        }
        AgentWork::ProbeMachine { machine: name, network: on, address, probe } => {
            Wire::ProbeMachine { machine: machine(&name)?, at: network(&on)?.zip(address), probe: *probe }
        }
        AgentWork::TakeScreenshot { machine: name } => Wire::TakeScreenshot { machine: machine(&name)? },
        AgentWork::RemoveTestMachine { machine: name } => {
            Wire::RemoveTestMachine { machine: machine(&name)? }
        }
        AgentWork::EnsureTestNetwork { name, gateway, prefix_len, reservations } => Wire::EnsureTestNetwork {
            name: network(&name)?.ok_or_else(|| Unsendable("a test network needs a name".to_owned()))?,
            gateway,
            prefix_len,
            reservations: reservations
                .into_iter()
                .map(|r| agent::DhcpReservation { mac: r.mac, address: r.address, host_name: r.host_name })
                .collect(),
        },
        AgentWork::ProbeIsolation { network: on, targets } => Wire::ProbeIsolation {
            network: network(&on)?.ok_or_else(|| Unsendable("a probe needs a network".to_owned()))?,
            targets,
        },
        AgentWork::RemoveTestNetwork { name } => Wire::RemoveTestNetwork {
            name: network(&name)?.ok_or_else(|| Unsendable("a test network needs a name".to_owned()))?,
        },
        AgentWork::ProbeExistingNetwork(probe) => {
            let ExistingNetworkProbe { network, mac, address, prefix_len, gateway, targets, planned } =
                *probe;
            Wire::ProbeExistingNetwork(agent::ExistingNetworkProbe {
                network,
                mac,
                address,
                prefix_len,
                gateway,
                targets,
                planned,
            })
        }
        AgentWork::RemoveProbePort { network } => Wire::RemoveProbePort { network },
        AgentWork::AdoptDisks { machine, point } => Wire::AdoptDisks { machine, seq: seq(&point)? },
        AgentWork::SetAside { machine, point } => Wire::SetAside { machine, seq: point },
        AgentWork::DropAside => Wire::DropAside,
        AgentWork::DiscardPromotion { machine, generation } => Wire::DiscardPromotion { machine, generation },
        AgentWork::CommitItem => Wire::CommitItem,
        AgentWork::ScrubItem { point } => Wire::ScrubItem { seq: point },
        AgentWork::RunScript(asked) => {
            let RunScript { script, sha256, time_out, context } = *asked;
            Wire::RunScript(agent::RunScript { script, sha256, time_out, context })
        }
    })
}

fn sizes(disks: Vec<DiskSize>) -> Vec<agent::DiskSize> {
    disks.into_iter().map(|disk| agent::DiskSize { name: disk.name, size: disk.size_bytes }).collect()
}

fn seq(point: &PointRef) -> Result<understudy_ids::PointSeq, Unsendable> {
    match point {
        PointRef::Seq(seq) => Ok(*seq),
        PointRef::Latest
        | PointRef::Announced
        | PointRef::FinalOf(_)
        | PointRef::FinalElseAnnounced(_)
        | PointRef::NewBase => Err(open("the recovery point")),
    }
}

fn machine(machine: &MachineRef) -> Result<understudy_ids::MachineName, Unsendable> {
    match machine {
        MachineRef::Named(name) => Ok(name.clone()),
        MachineRef::Test(_) => Err(open("the test machine's name")),
    }
}

fn network(network: &NetworkRef) -> Result<Option<understudy_ids::NetworkName>, Unsendable> {
    match network {
        NetworkRef::Unconnected => Ok(None),
        NetworkRef::Named(name) => Ok(Some(name.clone())),
        NetworkRef::Test(_) => Err(open("the test network's name")),
    }
}

fn networks(nics: &[NetworkRef]) -> Result<Vec<Option<understudy_ids::NetworkName>>, Unsendable> {
    nics.iter().map(network).collect()
}

fn network_payload(run: RunId, work: &NetworkWork) -> Result<Any, Unsendable> {
    let action = match work {
        NetworkWork::ReleaseRun => NetworkAction::ReleaseRun,
        NetworkWork::ReserveAddresses { test, nics, test_networks } => NetworkAction::ReserveAddresses {
            test: *test,
            nics: nics.iter().map(reserved_nic).collect::<Result<_, _>>()?,
            test_networks: test_networks.iter().map(reserved_test_network).collect::<Result<_, _>>()?,
        },
        NetworkWork::SetRecords { item, test, records } => NetworkAction::SetRecords {
            item: item.clone(),
            test: *test,
            records: records.iter().map(record_address).collect(),
        },
        NetworkWork::RestoreRecords { item } => NetworkAction::RestoreRecords { item: item.clone() },
        NetworkWork::CallHook(change) => NetworkAction::CallHook(change.clone()),
    };
    Ok(NetworkTask { run, action }.to_payload())
}

fn record_address(record: &understudy_recovery::action::RecordAddress) -> RecordAddress {
    let understudy_recovery::action::RecordAddress { name, zone, purpose, address } = record.clone();
    RecordAddress { name, zone, purpose, address }
}

fn vm_network(name: &str) -> Result<VmNetworkRef, Unsendable> {
    name.parse().map_err(|e| Unsendable(format!("{name:?} is no VM network: {e}")))
}

fn reserved_nic(nic: &understudy_recovery::action::ReservedNic) -> Result<ReservedNic, Unsendable> {
    let understudy_recovery::action::ReservedNic { item, mac, network, address } = nic;
    let IpAddr::V4(address) = address else {
        return Err(Unsendable(format!("{address} is an IPv6 address, which is not leased yet")));
    };
    Ok(ReservedNic { item: item.clone(), mac: *mac, network: vm_network(network)?, address: *address })
}

fn reserved_test_network(
    made: &understudy_recovery::action::ReservedTestNetwork,
) -> Result<ReservedTestNetwork, Unsendable> {
    let understudy_recovery::action::ReservedTestNetwork { name, stands_for, hosts } = made;
    let name = network(name)?.ok_or_else(|| Unsendable("a test network needs a name".to_owned()))?;
    Ok(ReservedTestNetwork { name, stands_for: vm_network(stands_for)?, hosts: hosts.clone() })
}

/// What a run is told about a task that has ended. Nothing while it has not.
pub fn event(task: &Task, at: UnixMicros) -> Option<Event> {
    let key = task.key.clone();
    let at = task.ended.unwrap_or(at);
    let failed = |unknown: bool| {
        let fallback = || {
            Problem::new(
                "NO_REASON",
                &task.key,
                "the worker gave no reason",
                "Look into the worker's log at this time.",
            )
        };
        let problem = task.error.clone().unwrap_or_else(fallback);
        Event::StepFailed { key: task.key.clone(), problem, unknown, at }
    };
    match task.state {
        TaskState::Queued | TaskState::Leased => None,
        TaskState::Succeeded => Some(match result(task.result.as_ref()) {
            Ok(result) => Event::StepSucceeded { key, result, at },
            // It was done, and what came of it cannot be read: that is not knowing, never success.
            Err(cause) => Event::StepFailed {
                key,
                problem: Problem::new(
                    "RESULT_NOT_UNDERSTOOD",
                    task.queue.to_string(),
                    format!("the worker's result cannot be read: {cause}"),
                    "Run the same version of all services, then retry.",
                ),
                unknown: true,
                at,
            },
        }),
        TaskState::Failed => Some(failed(false)),
        TaskState::Unknown => Some(failed(true)),
        TaskState::Cancelled => Some(Event::StepFailed {
            key,
            problem: task.error.clone().unwrap_or_else(|| {
                Problem::new(
                    "CANCELLED",
                    &task.key,
                    "the task was cancelled",
                    "Retry the run if it is still needed.",
                )
            }),
            unknown: false,
            at,
        }),
    }
}

/// The picture that a task has taken, if it has; a run keeps it beside itself.
pub fn screenshot(task: &Task) -> Option<Vec<u8>> {
    match agent::AgentTaskResult::from_any(task.result.as_ref()?) {
        Ok(agent::AgentTaskResult::Screenshot(png)) => Some(png),
        _ => None,
    }
}

fn result(any: Option<&Any>) -> Result<StepResult, String> {
    let any = any.ok_or("it is missing")?;
    if let Ok(result) = NetworkTaskResult::from_payload(any) {
        return Ok(match result {
            NetworkTaskResult::Reserved => StepResult::Done,
            NetworkTaskResult::Released { addresses, test_networks } => {
                StepResult::Released { addresses, test_networks }
            }
            NetworkTaskResult::Records(done) => {
                StepResult::Records(done.into_iter().map(record_done).collect())
            }
            NetworkTaskResult::HookCalled { status } => StepResult::HookCalled { status },
        });
    }
    agent::AgentTaskResult::from_any(any).map(agent_result).map_err(|e| e.to_string())
}

fn agent_result(result: agent::AgentTaskResult) -> StepResult {
    use agent::AgentTaskResult as Wire;
    match result {
        Wire::Done => StepResult::Done,
        Wire::MachineStopped { by_guest, time } => StepResult::MachineStopped { by_guest, time },
        Wire::FinalPoint { seq, instant, sent_bytes } => StepResult::FinalPoint { seq, instant, sent_bytes },
        Wire::DiskDigests(disks) => StepResult::DiskDigests(disks.into_iter().map(disk_root).collect()),
        Wire::MachineCreated { machine, seq, instant } => {
            StepResult::MachineCreated { machine, seq, instant }
        }
        Wire::MachineStarted { time } => StepResult::MachineStarted { time },
        Wire::ProbeResult { reachable, after, seen } => StepResult::Probe { reachable, after, seen },
        Wire::Screenshot(png) => StepResult::Screenshot { bytes: png.len() as u64 },
        Wire::NoScreenshot(why) => StepResult::NoScreenshot { why },
        Wire::IsolationResult(agent::IsolationResult { ports, tried, answered, method }) => {
            StepResult::Isolation { ports, tried, answered, method }
        }
        Wire::Adopted { seq, bytes_read } => StepResult::Adopted { seq, bytes_read },
        Wire::Seeded { bytes } => StepResult::Seeded { bytes },
        Wire::Script { exit_code, output, truncated } => StepResult::Script { exit_code, output, truncated },
    }
}

fn record_done(done: understudy_network_api::RecordDone) -> RecordDone {
    let understudy_network_api::RecordDone { name, before, after } = done;
    RecordDone { name, before, after }
}

fn disk_root(agent::DiskRoot { disk, root }: agent::DiskRoot) -> DiskRoot {
    let root = root.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let disk: DiskName = disk;
    DiskRoot { disk, root }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use understudy_ids::Uuid;
    use understudy_recovery::action::RunScript;

    use super::*;

    /// R-NET-12: network-mapper is asked for what the plan says, and the run is told what was before.
    #[test]
    fn names_go_out_as_planned_and_what_they_said_comes_back() {
        let (item, run): (ItemName, _) = ("web1".parse().unwrap(), Uuid::from_u128(9));
        let record = understudy_recovery::action::RecordAddress {
            name: "web1.shop.example".parse().unwrap(),
            zone: "shop.example".parse().unwrap(),
            purpose: understudy_netplan::ZonePurpose::Production,
            address: [10, 0, 0, 9].into(),
        };
        let set = NetworkWork::SetRecords { item: item.clone(), test: false, records: vec![record.clone()] };
        let sent = |work| NetworkTask::from_payload(&payload(run, &Action::Network(work)).unwrap()).unwrap();
        let records = vec![record_address(&record)];
        let expected = NetworkAction::SetRecords { item: item.clone(), test: false, records };
        assert_eq!(sent(set), NetworkTask { run, action: expected });
        let restore = NetworkWork::RestoreRecords { item: item.clone() };
        assert_eq!(sent(restore).action, NetworkAction::RestoreRecords { item });

        let (before, after) = (vec![[10, 0, 0, 8].into()], vec![record.address]);
        let told = understudy_network_api::RecordDone { name: record.name.clone(), before, after };
        let expected = StepResult::Records(vec![record_done(told.clone())]);
        assert_eq!(result(Some(&NetworkTaskResult::Records(vec![told]).to_payload())), Ok(expected));
    }

    /// R-RP-2: the agent is asked for what the plan pinned, and the run is told what the script said.
    #[test]
    fn a_script_goes_out_as_planned_and_its_end_comes_back() {
        let asked = RunScript {
            script: "move-dns.sh".parse().unwrap(),
            sha256: "0a".repeat(32),
            time_out: Duration::from_secs(60),
            context: r#"{"items":["web1"]}"#.to_owned(),
        };
        let (item, run): (ItemName, _) = ("web1".parse().unwrap(), Uuid::from_u128(9));
        let work = AgentWork::RunScript(Box::new(asked.clone()));
        let action = Action::Agent { item: item.clone(), generation: Generation::new(2), work };
        let sent = agent::AgentTask::from_any(&payload(run, &action).unwrap()).unwrap();
        let RunScript { script, sha256, time_out, context } = asked;
        let expected = agent::Action::RunScript(agent::RunScript { script, sha256, time_out, context });
        assert_eq!((sent.item, sent.run, sent.action), (item, run, expected));

        let output = "the zone is locked".to_owned();
        let told = agent::AgentTaskResult::Script { exit_code: 3, output: output.clone(), truncated: true };
        let expected = StepResult::Script { exit_code: 3, output, truncated: true };
        assert_eq!(result(Some(&told.to_any())), Ok(expected));
    }
}
