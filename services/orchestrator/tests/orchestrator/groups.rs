//! Consistency groups (R-REP-12): what may be one, how agents come to know of it, and what is told of its instants.

use std::{collections::BTreeSet, time::Duration};

use understudy_estate::now;
use understudy_ids::{GroupName, ItemName, Problem};
use understudy_recovery_api::{
    HealthLevel,
    request::{ChangeGroup, CreateGroup, CreatePolicy, DeleteGroup, SetItemPolicy},
};
use understudy_replication::{Joint, Membership};
use understudy_replication_api::GroupFacts;
use understudy_rpc::Kind;

use crate::support::*;

fn shop() -> GroupName {
    "shop".parse().unwrap()
}

fn names(items: &[&str]) -> BTreeSet<ItemName> {
    items.iter().map(|name| item(name)).collect()
}

fn create(group: &str, items: &[&str]) -> CreateGroup {
    CreateGroup { group: group.parse().unwrap(), items: names(items), request_id: fresh() }
}

fn change(add: &[&str], remove: &[&str]) -> ChangeGroup {
    ChangeGroup { group: shop(), add: names(add), remove: names(remove), request_id: fresh() }
}

fn members(stage: &Stage, name: &str) -> Option<Membership> {
    stage.estate.assigned(&item(name)).group
}

/// Items are added and taken out, each time all agents concerned are told; repeating a request changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_groups_items_are_told_to_their_agents() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    stage.introduce(client).await;
    stage.estate.add_machine(ALPHA, "web9", &["vda"], 9);
    eventually("the machine is known", async || client.protect_machine(protect("web9")).await.is_ok()).await;
    protected(client, "web1").await;
    in_state(client, "web9", understudy_recovery_api::ItemState::Protected).await;

    let asked = create("shop", &["web1"]);
    let made = client.create_group(asked.clone()).await.unwrap();
    assert_eq!((made.items, made.last, made.complete), (vec![item("web1")], None, 0));
    assert_eq!(client.create_group(asked).await.unwrap().name, shop());
    let of = |items: &[&str]| Some(Membership { group: shop(), members: names(items) });
    eventually("its agent knows", async || members(&stage, "web1") == of(&["web1"])).await;

    let asked = change(&["web9"], &[]);
    assert_eq!(client.change_group(asked.clone()).await.unwrap().items, [item("web1"), item("web9")]);
    client.change_group(asked).await.unwrap();
    let both = of(&["web1", "web9"]);
    eventually("both know", async || members(&stage, "web1") == both && members(&stage, "web9") == both)
        .await;
    assert_eq!(client.get_item(&item("web9")).await.unwrap().group, Some(shop()));

    client.change_group(change(&[], &["web1"])).await.unwrap();
    eventually("the one that is left is told", async || {
        members(&stage, "web1").is_none() && members(&stage, "web9") == of(&["web9"])
    })
    .await;

    // Protection that ends takes the item out; a group that is deleted leaves its items alone.
    let asked = DeleteGroup { group: shop(), request_id: fresh() };
    client.delete_group(asked.clone()).await.unwrap();
    client.delete_group(asked).await.unwrap();
    eventually("nobody is in it", async || members(&stage, "web9").is_none()).await;
    assert!(client.list_groups(Default::default()).await.unwrap().entries.is_empty());
    let error = client.get_group(&shop()).await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_ref()), (Kind::NotFound, "GROUP_NOT_FOUND"));
    let records = stage.count("SELECT count(*) FROM audit WHERE what LIKE '%ConsistencyGroup%'").await;
    assert_eq!(records, 4, "one record for each change that was made");
}

/// Everything that stands against a group is told at once, and nothing of it is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_a_group_is_refused_with_all_reasons() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    stage.introduce(client).await;
    stage.estate.add_machine(ALPHA, "web9", &["vda"], 9);
    eventually("the machine is known", async || client.protect_machine(protect("web9")).await.is_ok()).await;
    protected(client, "web1").await;
    in_state(client, "web9", understudy_recovery_api::ItemState::Protected).await;
    let mut slow = CreatePolicy { policy: "slow".parse().unwrap(), ..gold() };
    slow.settings.interval *= 2;
    slow.settings.rpo_objective *= 4;
    client.create_policy(slow.clone()).await.unwrap();
    let set_policy = |policy: &CreatePolicy| SetItemPolicy {
        item: item("web9"),
        policy: policy.policy.clone(),
        request_id: fresh(),
    };
    client.set_item_policy(set_policy(&slow)).await.unwrap();
    client.create_group(create("hall", &["web1"])).await.unwrap();

    let error = client.create_group(create("shop", &["web1", "web9", "nobody"])).await.unwrap_err();
    let mut told = reasons(&error);
    told.sort();
    assert_eq!(told, ["INTERVALS_DIFFER", "ITEM_IN_OTHER_GROUP", "ITEM_NOT_FOUND"], "{error:?}");
    assert!(client.get_group(&shop()).await.is_err(), "half of it was done");
    let again = client.create_group(create("hall", &[])).await.unwrap_err();
    assert_eq!(again.reason.as_ref(), "GROUP_EXISTS");
    let error = client.change_group(change(&["web9"], &[])).await.unwrap_err();
    assert_eq!(error.reason.as_ref(), "GROUP_NOT_FOUND");

    client.create_group(create("shop", &["web9"])).await.unwrap();
    let error = client.change_group(change(&[], &["web1"])).await.unwrap_err();
    assert_eq!(reasons(&error), ["ITEM_NOT_IN_GROUP"]);
    // A policy of another interval is refused for one of several.
    client.delete_group(DeleteGroup { group: "hall".parse().unwrap(), request_id: fresh() }).await.unwrap();
    client.set_item_policy(set_policy(&gold())).await.unwrap();
    client.change_group(change(&["web1"], &[])).await.unwrap();
    let error = client.set_item_policy(set_policy(&slow)).await.unwrap_err();
    assert_eq!(reasons(&error), ["INTERVALS_DIFFER"]);
}

/// What the agents tell of a group's instants is shown: the newest complete one, the pause, and why a round came to nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instants_pauses_and_missed_rounds_are_told() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    stage.introduce(client).await;
    protected(client, "web1").await;
    client.create_group(create("shop", &["web1"])).await.unwrap();
    eventually("its agent knows", async || members(&stage, "web1").is_some()).await;
    let joint =
        Joint { group: shop(), instant: now(), members: names(&["web1"]), pause: Duration::from_millis(210) };
    let told = joint.clone();
    stage.estate.change(BRAVO, move |facts| {
        let item = facts.items.iter_mut().find(|found| found.item == item("web1")).unwrap();
        let last = item.points.last_mut().unwrap();
        (last.instant, last.joint) = (told.instant, Some(told));
    });
    stage.estate.change(ALPHA, |facts| {
        let item = facts.items.iter_mut().find(|found| found.item == item("web1")).unwrap();
        let mut group = GroupFacts::new(shop());
        group.missed = Some(Problem::new("GROUP_MEMBER_BUSY", "s", "no instant for all items: x", "wait"));
        item.replication.as_mut().unwrap().group = Some(group);
    });
    eventually("it is told", async || {
        let group = client.get_group(&shop()).await.unwrap();
        group.last == Some(joint.clone()) && group.complete == 1 && group.missed.is_some()
    })
    .await;
    let points = client.list_points(&item("web1"), Default::default()).await.unwrap().entries;
    assert_eq!(points[0].joint, Some(joint));
    let health = client.get_item(&item("web1")).await.unwrap().health;
    assert_eq!((health.level, health.remedy.as_str()), (HealthLevel::Warning, "wait"));
    assert!(health.reason.contains("no instant for all"), "{}", health.reason);
}
