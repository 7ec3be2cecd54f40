//! What a policy says arrives where it is acted upon.

use std::time::Duration;

use understudy_recovery_api::{Resource, request::CreatePolicy};
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
