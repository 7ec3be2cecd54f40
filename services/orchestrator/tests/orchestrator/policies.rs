//! What a policy says arrives where it is acted upon.

use std::time::Duration;

use understudy_recovery_api::{
    Decision, HealthLevel, Operation, Resource,
    request::{CreatePolicy, PolicySettings, SetItemPolicy, Steer, UpdatePolicy},
};
use understudy_replication::ReplicationSettings;
use understudy_rpc::Kind;

use crate::support::*;

/// R-REP-3, R-REP-4, R-REP-11: settings are kept as they were given, and the agent is assigned them; also when it is assigned anew after it has forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_travel_from_the_policy_to_the_agent() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    stage.introduce(client).await;
    let asked = gold().settings;
    assert_eq!(client.get_policy(&gold().policy).await.unwrap().settings, asked);
    assert_eq!(client.list_policies(Default::default()).await.unwrap().entries[0].settings, asked);

    protected(client, "web1").await;
    let assigned = stage.estate.assigned(&item("web1"));
    assert_eq!((assigned.interval, &assigned.settings), (asked.interval, &asked.replication));

    assert_eq!(assigned.policy, Some(gold().policy));
    let web1 = item("web1");
    let retained = stage.estate.retained(&web1);
    assert_eq!((retained.keep_count, retained.keep_age), (Some(asked.keep_count), Some(asked.keep_age)));
    assert_eq!(retained.tiers, asked.keep_tiers);
    stage.estate.change(ALPHA, |facts| facts.items.retain(|i| i.item != web1));
    eventually("replication is assigned anew", async || {
        stage.estate.facts(ALPHA).items.iter().any(|i| i.item == web1 && i.replication.is_some())
    })
    .await;
    assert_eq!(stage.estate.assigned(&web1), assigned);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_and_unusable_policies_are_refused() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    let error = client.get_policy(&gold().policy).await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_ref()), (Kind::NotFound, "POLICY_NOT_FOUND"));

    let mut bad = gold();
    bad.settings.keep_count = 0;
    let app = bad.settings.replication.app_consistency.as_mut().unwrap();
    (app.every, app.freeze_limit) = (Duration::from_secs(2), Duration::from_secs(90));
    let error = client.create_policy(bad).await.unwrap_err();
    let fields: Vec<_> = error.problems.iter().map(|p| p.subject.as_str()).collect();
    let within = "policy.replication.app_consistency";
    assert_eq!(fields, ["policy.keep_count", &format!("{within}.every"), &format!("{within}.freeze_limit")]);
}

/// R-REP-10: nothing is encrypted for somebody who could not open it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_have_ended_or_are_none_are_refused() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let create = async |certificates: &[&str]| {
        let mut policy = CreatePolicy { policy: "sealed".parse().unwrap(), ..gold() };
        policy.settings.replication.encrypt_for = certificates.iter().map(|pem| (*pem).to_owned()).collect();
        instance.client.create_policy(policy).await
    };
    let (good, ended) = (include_str!("recipient.pem"), include_str!("expired_recipient.pem"));
    let error = create(&[good, ended]).await.unwrap_err();
    assert_eq!(error.reason.as_ref(), "RECIPIENT_EXPIRED");
    assert_eq!(error.problems[0].subject, "policy.replication.encrypt_for[1]");
    assert!(error.problems[0].message.contains("CN=expired recipient"), "{error:?}");
    let error = create(&["none", good, "none either"]).await.unwrap_err();
    let fields: Vec<_> = error.problems.iter().map(|p| p.subject.as_str()).collect();
    assert_eq!(fields, ["policy.replication.encrypt_for[0]", "policy.replication.encrypt_for[2]"]);
    assert_eq!(create(&[good]).await.unwrap().settings.replication.encrypt_for, [good]);
}

/// An orchestrator of the version before, beside this one during an upgrade, stores policies without these settings.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_of_the_version_before_has_the_defaults() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let insert = "INSERT INTO policies (name, interval_ms, rpo_objective_ms, keep_count, keep_age_ms, shutdown_grace_ms,
                                        power_off_after_grace)
                  VALUES ('old', 5000, 15000, 8, 60000, 0, false)";
    sqlx::query(insert).execute(stage.database.pool().reader()).await.unwrap();
    let old = instance.client.get_policy(&"old".parse().unwrap()).await.unwrap();
    assert_eq!(old.settings.replication, ReplicationSettings::default());
    assert_eq!(old.settings.keep_tiers, []);
    assert_eq!(old.name.to_resource(), "policies/old");
    let again = CreatePolicy { policy: "old".parse().unwrap(), ..gold() };
    let error = instance.client.create_policy(again).await.unwrap_err();
    assert_eq!(error.reason.as_ref(), "POLICY_EXISTS");
}

fn steer(name: &str, reason: &str) -> Steer {
    Steer { item: item(name), reason: reason.to_owned(), request_id: fresh() }
}

/// R-REP-8: a policy that is changed, or another one, reaches both agents of its items; what is not changed is not told again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_policies_reach_source_and_target() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    stage.introduce(client).await;
    protected(client, "web1").await;
    let (web1, before) = (item("web1"), stage.estate.assigned(&item("web1")));

    let mut settings = gold().settings;
    (settings.interval, settings.rpo_objective) = (Duration::from_secs(60), Duration::from_secs(30));
    (settings.keep_count, settings.keep_age) = (0, Duration::ZERO);
    let update = |settings| UpdatePolicy { policy: gold().policy, settings, etag: None, request_id: fresh() };
    let error = client.update_policy(update(settings.clone())).await.unwrap_err();
    let fields: Vec<_> = error.problems.iter().map(|p| p.subject.as_str()).collect();
    assert_eq!(fields[..3], ["policy.rpo_objective", "policy.keep_count", "policy.keep_age"], "{error:?}");

    (settings.rpo_objective, settings.keep_count) = (Duration::from_secs(300), 3);
    settings.keep_age = Duration::from_secs(7200);
    settings.keep_tiers.clear();
    settings.replication = ReplicationSettings::default();
    let asked = update(settings.clone());
    assert_eq!(client.update_policy(asked.clone()).await.unwrap().settings, settings);
    // The same request again.
    assert_eq!(client.update_policy(asked).await.unwrap().settings, settings);
    eventually("both agents follow the changed policy", async || {
        let (assigned, kept) = (stage.estate.assigned(&web1), stage.estate.retained(&web1));
        assigned.interval == settings.interval && kept.keep_count == Some(3) && kept.tiers.is_empty()
    })
    .await;
    let assigned = stage.estate.assigned(&web1);
    assert_eq!(assigned.rpo_objective, Some(settings.rpo_objective));
    assert_eq!((&assigned.settings, &assigned.disks), (&settings.replication, &before.disks));
    assert_ne!(assigned.revision, before.revision);

    let silver = CreatePolicy { policy: "silver".parse().unwrap(), ..gold() };
    client.create_policy(silver.clone()).await.unwrap();
    let set = |name: &str, policy: &str| SetItemPolicy {
        item: item(name),
        policy: policy.parse().unwrap(),
        request_id: fresh(),
    };
    let refused = client.set_item_policy(set("web1", "tin")).await.unwrap_err();
    assert_eq!(reasons(&refused), ["POLICY_NOT_FOUND"]);
    let refused = client.set_item_policy(set("nobody", "silver")).await.unwrap_err();
    assert_eq!(refused.reason.as_ref(), "ITEM_NOT_FOUND");
    assert_eq!(client.set_item_policy(set("web1", "silver")).await.unwrap().policy, silver.policy);
    eventually("both agents follow the other policy", async || {
        let (assigned, kept) = (stage.estate.assigned(&web1), stage.estate.retained(&web1));
        assigned.policy.as_ref() == Some(&silver.policy)
            && kept.keep_count == Some(silver.settings.keep_count)
            && stage.count("SELECT count(*) FROM corrections").await == 0
    })
    .await;
    let unknown = UpdatePolicy { policy: "tin".parse().unwrap(), settings, etag: None, request_id: fresh() };
    assert_eq!(client.update_policy(unknown).await.unwrap_err().reason.as_ref(), "POLICY_NOT_FOUND");
}

/// R-REP-8: of two people who change a policy at once, neither undoes what the other one has changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_to_settings_that_are_others_by_now_is_refused() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    client.create_policy(gold()).await.unwrap();
    let seen = client.get_policy(&gold().policy).await.unwrap().settings;
    let update = |keep_count, interval| UpdatePolicy {
        policy: gold().policy,
        settings: PolicySettings { keep_count, interval, ..seen.clone() },
        etag: Some(seen.etag()),
        request_id: fresh(),
    };
    let (one, other) = (update(5, seen.interval), update(seen.keep_count, Duration::from_secs(3)));
    let (one, other) = tokio::join!(client.update_policy(one), client.update_policy(other));
    let refused = match (&one, &other) {
        (Ok(_), Err(refused)) | (Err(refused), Ok(_)) => refused,
        both => panic!("{both:?}"),
    };
    assert_eq!(refused.reason.as_ref(), "POLICY_CHANGED");
    let kept = one.or(other).unwrap().settings;
    assert_eq!(client.get_policy(&gold().policy).await.unwrap().settings, kept);
    assert_ne!(kept.etag(), seen.etag());
}

/// R-REP-8: paused and resumed, with who, when and why; what may be done meanwhile, and what not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replication_is_paused_and_resumed() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    stage.introduce(client).await;
    let allowed = |item: &understudy_recovery_api::view::ProtectedItem| item.allowed_actions.join(" ");
    let fresh_item = protected(client, "web1").await;
    assert_eq!(
        allowed(&fresh_item),
        "test-failover planned-failover unplanned-failover failback unprotect pause"
    );

    let pause = steer("web1", "the link is full");
    let paused = client.pause_replication(pause.clone()).await.unwrap();
    assert_eq!(allowed(&paused), "test-failover unplanned-failover unprotect resume");
    let told = paused.pause.clone().unwrap();
    assert_eq!(told.reason, "the link is full");
    // Again, with the same request and with another one: it stays what it is.
    client.pause_replication(pause).await.unwrap();
    let again = client.pause_replication(steer("web1", "somebody else's reason")).await.unwrap();
    assert_eq!(again.pause, Some(told.clone()));
    eventually("its agent pauses", async || {
        stage.estate.assigned(&item("web1")).paused
            && client.get_item(&item("web1")).await.unwrap().health.activity == "paused"
    })
    .await;
    let health = client.get_item(&item("web1")).await.unwrap().health;
    assert_eq!(health.level, HealthLevel::Warning);
    assert!(health.reason.contains("paused") && health.remedy.contains("item resume"), "{health:?}");
    let audit = client.list_audit_records(Default::default()).await.unwrap().entries;
    let record = audit.iter().rfind(|r| r.what == "ProtectionService/PauseReplication").unwrap();
    let facts = (record.why.as_str(), record.target.as_str(), record.decision, &record.who);
    assert_eq!(facts, ("the link is full", "protectedItems/web1", Decision::Allowed, &told.by));

    let preview = async |operation| {
        let mut spec = spec(operation, &["web1"]);
        if operation == Operation::UnplannedFailover {
            spec.primary_down_assertion = Some("nobody answers".to_owned());
        }
        let problems = client.preview_run(spec).await.unwrap().problems;
        problems.into_iter().map(|p| (p.reason, p.remedy)).collect::<Vec<_>>()
    };
    let refused = preview(Operation::PlannedFailover).await;
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].0, "REPLICATION_PAUSED");
    assert!(refused[0].1.contains("understudy item resume web1"), "{refused:?}");
    assert_eq!(preview(Operation::TestFailover).await, []);
    assert_eq!(preview(Operation::UnplannedFailover).await, []);

    // Another instance knows of it, and so does an agent that has forgotten everything.
    let second = stage.orchestrator().await;
    assert_eq!(second.client.get_item(&item("web1")).await.unwrap().pause, Some(told));
    stage.estate.change(ALPHA, |facts| facts.items.clear());
    eventually("its agent is told again to pause", async || {
        client.get_item(&item("web1")).await.unwrap().health.activity == "paused"
    })
    .await;

    let resumed = client.resume_replication(steer("web1", "")).await.unwrap();
    assert_eq!(resumed.pause, None);
    client.resume_replication(steer("web1", "")).await.unwrap();
    eventually("its agent goes on", async || {
        client.get_item(&item("web1")).await.unwrap().health.activity == "steady"
    })
    .await;
    assert_eq!(preview(Operation::PlannedFailover).await, []);

    // A failover ends the pause: it was about the other direction.
    client.pause_replication(steer("web1", "")).await.unwrap();
    let mut failover = spec(Operation::UnplannedFailover, &["web1"]);
    failover.primary_down_assertion = Some("nobody answers".to_owned());
    let run = start(client, failover).await.unwrap();
    let refused = client.resume_replication(steer("web1", "")).await.unwrap_err();
    assert_eq!(reasons(&refused), ["ITEM_HELD"]);
    until(client, run.name, understudy_recovery_api::RunState::Waiting).await;
    client.commit_run(verb(run.name)).await.unwrap();
    until(client, run.name, understudy_recovery_api::RunState::Succeeded).await;
    assert_eq!(client.get_item(&item("web1")).await.unwrap().pause, None);
    let refused = client.pause_replication(steer("web1", "")).await.unwrap_err();
    assert_eq!(reasons(&refused), ["WRONG_STATE"]);
}
