//! Health and alerts of items (R-REP-8, R-REP-9).

use std::time::Duration;

use understudy_estate::now;
use understudy_ids::{Consistency, Problem};
use understudy_recovery_api::{HealthLevel, request::ChangeDisks, view::ReplicationHealth};
use understudy_replication_api::{Disk, Facts, RecoveryPoint, ReplicationFacts};

use crate::support::*;

fn replication(facts: &mut Facts) -> &mut ReplicationFacts {
    facts.items[0].replication.as_mut().expect("the item is replicated")
}

fn codes(health: &ReplicationHealth) -> Vec<&str> {
    health.alerts.iter().map(|alert| alert.code.as_str()).collect()
}

/// What only a person can heal is told at once, with its remedy, and is over when it is healed; what a source tells of itself reaches the client.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r_rep_9_alerts_are_raised_with_remedies_and_cleared() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    stage.introduce(client).await;
    protected(client, "web1").await;
    let health = async || client.get_item(&item("web1")).await.unwrap().health;

    // A disk appears that nobody has decided about (R-REP-8).
    let vdz = Disk {
        name: "vdz".parse().unwrap(),
        size: 1 << 30,
        format: "qcow2".into(),
        serial: None,
        replicable: true,
    };
    let web1 = |facts: &mut Facts| facts.machines.iter().position(|m| m.name.as_str() == "web1").unwrap();
    stage.estate.change(ALPHA, |facts| {
        let index = web1(facts);
        facts.machines[index].disks.push(vdz.clone());
    });
    eventually("the new disk is told of", async || codes(&health().await) == ["DISK_NOT_PROTECTED"]).await;
    let told = health().await;
    assert_eq!(told.level, HealthLevel::Warning);
    assert!(
        told.alerts[0].message.contains("vdz") && told.alerts[0].remedy.contains("item disks"),
        "{told:?}"
    );
    let change = |add: &[&str], exclude: &[&str]| ChangeDisks {
        item: item("web1"),
        add: add.iter().map(|disk| disk.parse().unwrap()).collect(),
        exclude: exclude.iter().map(|disk| disk.parse().unwrap()).collect(),
        request_id: fresh(),
    };
    let refused = client.change_disks(change(&["vdq"], &["vdr"])).await.unwrap_err();
    assert_eq!(reasons(&refused), ["DISK_NOT_FOUND", "DISK_NOT_FOUND"]);
    let adding = change(&["vdz"], &[]);
    let added = client.change_disks(adding.clone()).await.unwrap();
    assert!(added.disks.contains(&vdz.name));
    assert_eq!(
        client.change_disks(adding.clone()).await.unwrap().disks,
        added.disks,
        "the same request again"
    );
    let reused = ChangeDisks { exclude: ["vda".parse().unwrap()].into(), ..adding };
    assert_eq!(client.change_disks(reused).await.unwrap_err().reason, "REQUEST_ID_REUSED");
    // The agent is told, because its facts say otherwise.
    eventually("the source replicates it", async || {
        let facts = stage.estate.facts(ALPHA);
        facts.items[0].replication.as_ref().is_some_and(|r| r.disks.contains(&vdz.name))
    })
    .await;
    let excluded = client.change_disks(change(&[], &["vdz"])).await.unwrap();
    assert_eq!(
        (excluded.disks.contains(&vdz.name), excluded.excluded_disks),
        (false, vec![vdz.name.clone()])
    );
    eventually("the source leaves it out", async || {
        let facts = stage.estate.facts(ALPHA);
        facts.items[0].replication.as_ref().is_some_and(|r| !r.disks.contains(&vdz.name))
    })
    .await;
    eventually("the alert is over", async || health().await.alerts.is_empty()).await;

    // The latest point that an application can rely on, in the middle of others.
    assert_eq!(health().await.last_application_point, None);
    stage.estate.change(BRAVO, |facts| {
        let point = facts.items[0].points.last_mut().expect("a point");
        point.consistency = Consistency::Application;
        let later = RecoveryPoint {
            seq: point.seq.next(),
            instant: point.instant.plus(Duration::from_secs(1)),
            consistency: Consistency::Crash,
            ..point.clone()
        };
        facts.items[0].points.push(later);
    });
    eventually("the application's point is told", async || {
        let told = health().await;
        told.last_application_point.is_some_and(|at| Some(at) < told.last_point)
    })
    .await;

    // The machine is gone; the source says so with the second try as well.
    let since = now();
    stage.estate.change(ALPHA, |facts| {
        let source = replication(facts);
        let remedy = "Define the machine again, or disable its protection.";
        source.last_error = Some(Problem::new("NO_MACHINE", "protectedItems/web1", "it is gone", remedy));
        (source.failures, source.failing_since) = (1, Some(since));
        (source.backlog_bytes, source.throughput_bytes_per_second) = (Some(123), 456);
    });
    eventually("it is critical", async || codes(&health().await) == ["NO_MACHINE"]).await;
    let told = health().await;
    assert_eq!((told.level, told.failures, told.failing_since), (HealthLevel::Critical, 1, Some(since)));
    assert_eq!((told.backlog_bytes, told.throughput_bytes_per_second), (Some(123), 456));
    assert_eq!(told.remedy, "Define the machine again, or disable its protection.");
    // Restarted, the orchestrator knows when it began.
    let began = told.alerts[0].since;
    instance.crash();
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    let health = async || client.get_item(&item("web1")).await.unwrap().health;
    assert_eq!(health().await.alerts[0].since, began);
    // An age within the objective is none while the machine is off.
    stage.estate.change(ALPHA, |facts| {
        let source = replication(facts);
        (source.last_error, source.failures, source.failing_since) = (None, 0, None);
        source.covered = true;
    });
    eventually("it is healthy", async || health().await.alerts.is_empty()).await;
    assert_eq!(health().await.rpo, Some(Duration::ZERO));
}
