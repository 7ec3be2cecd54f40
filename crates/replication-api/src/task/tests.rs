//! Every action goes out and comes back; everything outside the contract stays out.

use std::time::Duration;

use understudy_ids::{Generation, PointSeq, Uuid};
use understudy_replication::{AppConsistency, Bandwidth, Compression, Tier};

use super::*;
use crate::v1::{self, agent_task::Action as Wire};

fn task(action: Action) -> AgentTask {
    AgentTask {
        item: "web1".parse().unwrap(),
        generation: Generation::new(3),
        run: Uuid::from_u128(9),
        action,
    }
}

fn script() -> RunScript {
    RunScript {
        script: "move-dns.sh".parse().unwrap(),
        sha256: "0a".repeat(32),
        time_out: Duration::from_secs(60),
        context: r#"{"run":"9"}"#.to_owned(),
    }
}

fn all() -> Vec<Action> {
    let machine: MachineName = "web1".parse().unwrap();
    let network: NetworkName = "prod".parse().unwrap();
    let seq = PointSeq::new(7);
    vec![
        Action::PrepareReplica {
            disks: vec![DiskSize { name: "vda".parse().unwrap(), size: 1 << 40 }],
            retention: RetentionPolicy {
                keep_count: Some(5),
                keep_age: None,
                tiers: vec![Tier { every: Duration::from_secs(3600), age: Duration::from_secs(86_400) }],
            },
        },
        Action::StartReplication(StartReplication {
            machine: machine.clone(),
            disks: vec!["vda".parse().unwrap()],
            peer_host: "bravo/bravo-h1".parse().unwrap(),
            peer_endpoint: "https://10.0.0.2:7452".to_owned(),
            interval: Duration::from_millis(5000),
            settings: ReplicationSettings {
                compression: Compression::Off,
                app_consistency: Some(AppConsistency {
                    every: Duration::from_secs(600),
                    freeze_limit: Duration::from_secs(5),
                }),
                bandwidth: Bandwidth { otherwise: "5MiB".parse().unwrap(), ..Bandwidth::default() },
                encrypt_for: vec![include_str!("../../../types-api/tests/recipient.pem").to_owned()],
            },
            policy: Some("gold".parse().unwrap()),
            paused: true,
            rpo_objective: Some(Duration::from_secs(15)),
            revision: "5f".to_owned(),
            group: Some(Membership {
                group: "shop".parse().unwrap(),
                members: ["db1", "web1"].map(|name| name.parse().unwrap()).into(),
            }),
        }),
        Action::StopReplication { forget: true },
        Action::RemoveReplica,
        Action::Fence { power_off: true },
        Action::ShutDownMachine {
            machine: machine.clone(),
            grace: Duration::from_secs(60),
            then_power_off: true,
        },
        Action::SyncFinal { machine: machine.clone() },
        Action::DigestDisks { machine: machine.clone() },
        Action::VerifyPoint { seq },
        Action::CreateTestMachine {
            seq: None,
            name: machine.clone(),
            nics: vec![Some(network.clone()), None],
        },
        Action::CreateTestMachine { seq: Some(seq), name: machine.clone(), nics: Vec::new() },
        Action::PromotePoint { seq, nics: vec![None] },
        Action::PromoteTest {
            run: RunId::from_u128(7),
            test_machine: machine.clone(),
            grace: Duration::from_secs(60),
            seq,
            nics: vec![Some(network.clone())],
        },
        Action::SetAside { machine: machine.clone(), seq },
        Action::DropAside,
        Action::DiscardPromotion { machine: machine.clone(), generation: Generation::new(2) },
        Action::StartMachine { machine: machine.clone() },
        Action::StartInBoot { machine: machine.clone(), boot_id: "boot-1".to_owned() },
        Action::ProbeMachine {
            machine: machine.clone(),
            at: Some((network.clone(), "192.168.50.9".parse().unwrap())),
            probe: "http:80/health,within=30s".parse().unwrap(),
        },
        Action::ProbeMachine { machine: machine.clone(), at: None, probe: "guest-agent".parse().unwrap() },
        Action::TakeScreenshot { machine: machine.clone() },
        Action::RemoveTestMachine { machine: machine.clone() },
        Action::EnsureTestNetwork {
            name: network.clone(),
            gateway: "192.168.50.1".parse().unwrap(),
            prefix_len: 24,
            reservations: vec![DhcpReservation {
                mac: "52:54:00:00:00:01".parse().unwrap(),
                address: "192.168.50.9".parse().unwrap(),
                host_name: "web1".to_owned(),
            }],
        },
        Action::ProbeIsolation { network: network.clone(), targets: vec!["10.0.0.1".parse().unwrap()] },
        Action::RemoveTestNetwork { name: network.clone() },
        Action::ProbeExistingNetwork(ExistingNetworkProbe {
            network: network.clone(),
            mac: "02:75:c0:a8:3c:0c".parse().unwrap(),
            address: "192.168.60.12".parse().unwrap(),
            prefix_len: 24,
            gateway: Some("192.168.60.1".parse().unwrap()),
            targets: vec!["192.168.50.5".parse().unwrap()],
            planned: vec!["192.168.60.11".parse().unwrap()],
        }),
        Action::RemoveProbePort { network },
        Action::AdoptDisks { machine, seq },
        Action::CommitItem,
        Action::ScrubItem { seq: None },
        Action::ScrubItem { seq: Some(PointSeq::new(4)) },
        Action::ExportSeed {
            machine: "web1".parse().unwrap(),
            disks: vec!["vda".parse().unwrap()],
            seed: "disk-3".parse().unwrap(),
        },
        Action::ImportSeed {
            disks: vec![DiskSize { name: "vda".parse().unwrap(), size: 1 << 40 }],
            seed: "disk-3".parse().unwrap(),
        },
        Action::RemoveSeed { seed: "disk-3".parse().unwrap() },
        Action::RunScript(script()),
    ]
}

#[test]
fn every_action_comes_back_as_it_went_out() {
    for action in all() {
        let task = task(action);
        assert_eq!(AgentTask::from_any(&task.to_any()), Ok(task));
    }
}

/// Bad input is refused with the field that is wrong, before any effect.
#[test]
fn tasks_outside_the_contract_are_refused_by_field() {
    let wire =
        |action| v1::AgentTask { action: Some(action), ..v1::AgentTask::from(task(Action::CommitItem)) };
    let start = |change: fn(&mut v1::StartReplication)| {
        let Wire::StartReplication(mut start) = Wire::from(all()[1].clone()) else { unreachable!() };
        change(&mut start);
        wire(Wire::StartReplication(start))
    };
    let run_script = |change: fn(&mut v1::RunScript)| {
        let Wire::RunScript(mut run) = Wire::from(Action::RunScript(script())) else { unreachable!() };
        change(&mut run);
        wire(Wire::RunScript(run))
    };
    let prepare = |change: fn(&mut v1::Retention)| {
        let Wire::PrepareReplica(mut prepare) = Wire::from(all()[0].clone()) else { unreachable!() };
        change(prepare.retention.as_mut().unwrap());
        wire(Wire::PrepareReplica(prepare))
    };
    let cases = [
        (v1::AgentTask { item: "../web1".into(), ..wire(Wire::CommitItem(v1::CommitItem {})) }, "item"),
        (v1::AgentTask { generation: 0, ..wire(Wire::CommitItem(v1::CommitItem {})) }, "generation"),
        (v1::AgentTask { run: "x".into(), ..wire(Wire::CommitItem(v1::CommitItem {})) }, "run"),
        (v1::AgentTask { action: None, ..v1::AgentTask::from(task(Action::CommitItem)) }, "action"),
        (wire(Wire::VerifyPoint(v1::VerifyPoint { seq: 0 })), "verify_point.seq"),
        (wire(Wire::PrepareReplica(v1::PrepareReplica::default())), "prepare_replica.disks"),
        (prepare(|r| r.keep_tiers[0].age = None), "prepare_replica.retention.keep_tiers"),
        (prepare(|r| r.keep_count = 5000), "prepare_replica.retention.policy"),
        (wire(Wire::RemoveSeed(v1::RemoveSeed { seed: "../etc".into() })), "remove_seed.seed"),
        (wire(Wire::ImportSeed(v1::ImportSeed::default())), "import_seed.disks"),
        (wire(Wire::ExportSeed(v1::ExportSeed::default())), "export_seed.disks"),
        (run_script(|s| s.script = "../move-dns.sh".into()), "run_script.script"),
        (run_script(|s| s.script = ".hidden".into()), "run_script.script"),
        (run_script(|s| s.sha256 = "0A".repeat(32)), "run_script.sha256"),
        (run_script(|s| s.sha256.truncate(63)), "run_script.sha256"),
        (run_script(|s| s.time_out = None), "run_script.time_out"),
        (
            run_script(|s| s.time_out = Some(prost_types::Duration { seconds: 86_401, nanos: 0 })),
            "run_script.time_out",
        ),
        (run_script(|s| s.context = "[1]".into()), "run_script.context"),
        (run_script(|s| s.context = "{".into()), "run_script.context"),
        (
            run_script(|s| s.context = format!(r#"{{"a":"{}"}}"#, "x".repeat(crate::MAX_SCRIPT_CONTEXT))),
            "run_script.context",
        ),
        (wire(Wire::SyncFinal(v1::SyncFinal { machine: "a b".into() })), "sync_final.machine"),
        (start(|s| s.interval = None), "start_replication.interval"),
        (
            start(|s| s.interval = Some(prost_types::Duration { seconds: 0, nanos: 1 })),
            "start_replication.interval",
        ),
        (start(|s| s.settings.as_mut().unwrap().compression = 9), "start_replication.settings"),
        (start(|s| s.policy = "../gold".into()), "start_replication.policy"),
        (start(|s| s.peer_endpoint = "http://x:1".into()), "start_replication.peer_endpoint"),
        (start(|s| s.peer_host = "bravo-h1".into()), "start_replication.peer_host"),
        (start(|s| s.disks = vec!["vda".into(), "/dev/sda".into()]), "start_replication.disks[1]"),
        (start(|s| s.disks = vec!["vda".into(); 65]), "start_replication.disks"),
        (
            wire(Wire::EnsureTestNetwork(v1::EnsureTestNetwork {
                name: "n".into(),
                gateway: "10.0.0.1".into(),
                ..Default::default()
            })),
            "ensure_test_network.gateway",
        ),
        (
            wire(Wire::ProbeExistingNetwork(v1::ProbeExistingNetwork {
                address: "192.168.60.12/31".into(),
                ..Default::default()
            })),
            "probe_existing_network.address",
        ),
        (
            wire(Wire::ProbeExistingNetwork(v1::ProbeExistingNetwork {
                network: "lab".into(),
                mac: "02:75:c0:a8:3c:0c".into(),
                address: "192.168.60.12/24".into(),
                targets: vec!["192.168.50.5".into(); 257],
                ..Default::default()
            })),
            "probe_existing_network.targets",
        ),
        (
            wire(Wire::RemoveProbePort(v1::RemoveProbePort { network: "a b".into() })),
            "remove_probe_port.network",
        ),
    ];
    for (wire, field) in cases {
        let found = AgentTask::try_from(wire.clone()).unwrap_err();
        assert_eq!(found.field, field, "{wire:?}: {found}");
    }
}

#[test]
fn another_message_is_not_taken_for_a_task() {
    let any = understudy_types_api::pack(&v1::AgentTaskResult::from(crate::AgentTaskResult::Done));
    assert_eq!(AgentTask::from_any(&any).unwrap_err().field, "payload");
}
