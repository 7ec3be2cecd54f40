//! Bad input gets a clear typed error with all problems, before any effect.

use understudy_ids::{Problem, Uuid};
use understudy_recovery_api::{
    MachineRef, Operation, RequestId,
    request::{CreateHost, CreateSite, Page, ProtectMachine, Seed, StartRun},
};
use understudy_replication_api::PowerState;
use understudy_rpc::{ApiError, Kind};

use crate::support::*;

/// Rows that any effect would have made.
async fn effects(stage: &Stage) -> i64 {
    stage
        .count(
            "SELECT (SELECT count(*) FROM items) + (SELECT count(*) FROM runs) + (SELECT count(*) FROM outbox)
                  + (SELECT count(*) FROM holds) + (SELECT count(*) FROM requests)",
        )
        .await
}

fn at(host: &str, machine: &str) -> MachineRef {
    MachineRef { host: host.parse().unwrap(), machine: machine.parse().unwrap() }
}

/// R-REP-1: every reason at once, and nothing done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn protecting_what_cannot_be_protected_lists_everything_that_is_wrong() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    stage.introduce(client).await;
    stage.estate.add_machine(ALPHA, "paused1", &["vda"], 20);
    stage.estate.add_machine(ALPHA, "big1", &["vda", "vdb"], 21);
    stage.estate.add_machine(ALPHA, "twin1", &["vda"], 22);
    stage.estate.add_machine(BRAVO, "twin1", &["vda"], 23);
    stage.estate.change(ALPHA, |facts| {
        for machine in &mut facts.machines {
            match machine.name.as_str() {
                "paused1" => machine.power = PowerState::Paused,
                "big1" => {
                    machine.disks[0].size = 1 << 50;
                    machine.disks[1].replicable = false;
                }
                _ => {}
            }
        }
    });
    eventually("all machines are known", async || {
        let machines =
            client.list_machines(&understudy_recovery_api::request::MachineParent::All, Page::default());
        machines.await.unwrap().entries.len() == 6
    })
    .await;
    protected(client, "db1").await;
    eventually("the outbox is empty", async || stage.count("SELECT count(*) FROM outbox").await == 0).await;
    let before = effects(&stage).await;

    let all_disks = |names: &[&str]| names.iter().map(|n| n.parse().unwrap()).collect();
    let cases: Vec<(ProtectMachine, &[&str])> = vec![
        (ProtectMachine { machine: at(ALPHA, "nothing"), ..protect("x") }, &["MACHINE_NOT_FOUND"]),
        (
            ProtectMachine {
                machine: at("alpha/h9", "nothing"),
                target: "bravo/h9".parse().unwrap(),
                policy: "lead".parse().unwrap(),
                item: item("db1"),
                ..protect("x")
            },
            &["HOST_NOT_FOUND", "POLICY_NOT_FOUND", "ITEM_EXISTS", "HOST_NOT_FOUND"],
        ),
        (ProtectMachine { target: ALPHA.parse().unwrap(), ..protect("web1") }, &["UUID_IN_USE", "SAME_HOST"]),
        (ProtectMachine { machine: at(ALPHA, "db1"), ..protect("db2") }, &["MACHINE_PROTECTED"]),
        (ProtectMachine { policy: "lead".parse().unwrap(), ..protect("web1") }, &["POLICY_NOT_FOUND"]),
        (ProtectMachine { excluded: all_disks(&["vdx"]), ..protect("web1") }, &["DISK_NOT_FOUND"]),
        (ProtectMachine { excluded: all_disks(&["vda"]), ..protect("web1") }, &["NO_DISKS"]),
        // What is on a medium is in clear, and the policy encrypts.
        (
            ProtectMachine {
                seed: Some(Seed { name: "disk-3".parse().unwrap(), export: true }),
                ..protect("web1")
            },
            &["SEED_NOT_ENCRYPTED"],
        ),
        (protect("paused1"), &["MACHINE_STATE_UNSUITABLE"]),
        (protect("big1"), &["DISK_NOT_REPLICABLE", "NOT_ENOUGH_SPACE"]),
        (protect("twin1"), &["UUID_IN_USE", "NAME_IN_USE"]),
    ];
    for (request, expected) in cases {
        for validate_only in [true, false] {
            let request = ProtectMachine { validate_only, request_id: fresh(), ..request.clone() };
            let error = client.protect_machine(request.clone()).await.expect_err(&format!("{request:?}"));
            assert_eq!(error.kind, Kind::FailedPrecondition, "{error}");
            let found = reasons(&error);
            for reason in expected {
                assert!(found.iter().any(|r| r == reason), "{reason} is missing in {found:?}");
            }
            assert!(error.problems.iter().all(|p| !p.remedy.is_empty() && !p.message.is_empty()));
        }
    }
    let unmapped = Problem::new("NETWORK_NOT_MAPPED", "protectedItems/web1", "no counterpart", "Map it.");
    stage.mapper.problems.lock().unwrap().push(unmapped);
    assert_eq!(reasons(&client.protect_machine(protect("web1")).await.unwrap_err()), ["NETWORK_NOT_MAPPED"]);
    assert_eq!(effects(&stage).await, before, "nothing was done");
}

/// A good request that is only to be checked changes nothing either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checking_only_has_no_effect() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    stage.introduce(&instance.client).await;
    let before = effects(&stage).await;
    let request = ProtectMachine { validate_only: true, ..protect("web1") };
    let checked = instance.client.protect_machine(request).await.unwrap();
    assert_eq!((checked.run, checked.item.name), (None, item("web1")));
    assert_eq!(effects(&stage).await, before);
}

/// Wrong states, unknown names, malformed values, wrong callers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_wrong_request_gets_its_own_error() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    stage.introduce(client).await;
    protected(client, "web1").await;
    let digest = |text: &str| text.to_owned();
    let before = stage.count("SELECT count(*) FROM runs").await;
    let refused = |error: ApiError, kind: Kind, reason: &str| {
        assert_eq!((error.kind, error.reason.as_ref()), (kind, reason), "{error}");
    };
    let start = |spec| StartRun { spec, plan_digest: digest("0"), request_id: fresh() };

    let reverse = start(spec(Operation::ReverseReplicate, &["web1"]));
    let error = client.start_run(reverse).await.unwrap_err();
    assert_eq!(reasons(&error), ["WRONG_ITEM_STATE"]);
    let unplanned = start(spec(Operation::UnplannedFailover, &["web1"]));
    assert_eq!(reasons(&client.start_run(unplanned).await.unwrap_err()), ["PRIMARY_DOWN_ASSERTION_REQUIRED"]);
    let unknown = start(spec(Operation::PlannedFailover, &["a", "b"]));
    assert_eq!(reasons(&client.start_run(unknown).await.unwrap_err()), ["ITEM_NOT_FOUND", "ITEM_NOT_FOUND"]);
    let changed = start(spec(Operation::PlannedFailover, &["web1"]));
    refused(client.start_run(changed).await.unwrap_err(), Kind::Aborted, "PLAN_CHANGED");

    let nobody = Uuid::new_v4();
    refused(client.get_run(nobody).await.unwrap_err(), Kind::NotFound, "RUN_NOT_FOUND");
    refused(client.retry_run(verb(nobody)).await.unwrap_err(), Kind::NotFound, "RUN_NOT_FOUND");
    refused(client.get_item(&item("x")).await.unwrap_err(), Kind::NotFound, "ITEM_NOT_FOUND");
    refused(client.get_host(&"a/b".parse().unwrap()).await.unwrap_err(), Kind::NotFound, "HOST_NOT_FOUND");
    let orphan = CreateHost {
        host: "nowhere/h1".parse().unwrap(),
        facts_endpoint: "https://10.0.0.1:1".into(),
        sink_endpoint: "https://10.0.0.1:2".into(),
        request_id: fresh(),
    };
    refused(client.create_host(orphan).await.unwrap_err(), Kind::NotFound, "SITE_NOT_FOUND");
    let twice = CreateSite {
        site: "alpha".parse().unwrap(),
        kind: understudy_recovery_api::SiteKind::Hypervisor,
        description: String::new(),
        request_id: fresh(),
    };
    refused(client.create_site(twice.clone()).await.unwrap_err(), Kind::AlreadyExists, "SITE_EXISTS");
    let long = CreateSite { description: "x".repeat(2000), site: "c".parse().unwrap(), ..twice };
    refused(client.create_site(long).await.unwrap_err(), Kind::InvalidArgument, "INVALID_REQUEST");
    let page = Page { size: 1001, token: "no token".into() };
    refused(client.list_sites(page).await.unwrap_err(), Kind::InvalidArgument, "INVALID_REQUEST");
    let done = client.list_runs(Some(&item("web1")), Page::default()).await.unwrap().entries[0].name;
    refused(client.commit_run(verb(done)).await.unwrap_err(), Kind::FailedPrecondition, "VERB_NOT_ALLOWED");
    for stranger in ["agent/alpha/h1", "service/job-tracker", "service/orchestrator"] {
        let error = stage.client_as(&instance, stranger).list_sites(Page::default()).await.unwrap_err();
        assert_eq!(error.kind, Kind::PermissionDenied, "{stranger}: {error}");
    }
    assert_eq!(stage.count("SELECT count(*) FROM runs").await, before);
    assert!("not an id!".parse::<RequestId>().is_err());
}
