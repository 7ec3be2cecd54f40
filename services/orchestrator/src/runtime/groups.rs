//! Consistency groups: making them, changing them, and how far they have come (R-REP-12). Agents are told by corrections, as soon as their
//! facts say otherwise.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgConnection;
use understudy_ids::{GroupName, ItemName, Problem};
use understudy_recovery::group::{self, Candidate};
use understudy_recovery_api::{
    Resource,
    request::{ChangeGroup, CreateGroup, DeleteGroup},
    view::{ConsistencyGroup, Policy},
};
use understudy_replication::{Joint, joint};
use understudy_rpc::ApiError;

use super::{
    Runtime,
    call::Call,
    gather::points_at,
    runs::refused,
    sites::{not_found, taken},
};
use crate::store::{
    Failure,
    groups::{self, GroupRecord},
    hosts,
    items::{self, ItemRecord},
    policies,
};

impl Runtime {
    pub async fn create_group(
        &self,
        call: &Call,
        request: CreateGroup,
    ) -> Result<ConsistencyGroup, ApiError> {
        let name = request.group.clone();
        self.once(call, move |tx| {
            let request = request.clone();
            Box::pin(async move {
                let subject = request.group.to_resource();
                if !groups::insert(&mut *tx, &request.group).await? {
                    return Err(taken("GROUP_EXISTS", &subject));
                }
                change(tx, &request.group, &request.items, &BTreeSet::new()).await?;
                Ok(subject)
            })
        })
        .await?;
        self.get_group(&name).await
    }

    /// Takes items in and out. What is so already stays as it is.
    pub async fn change_group(
        &self,
        call: &Call,
        request: ChangeGroup,
    ) -> Result<ConsistencyGroup, ApiError> {
        let name = request.group.clone();
        self.once(call, move |tx| {
            let request = request.clone();
            Box::pin(async move {
                let subject = request.group.to_resource();
                if !groups::lock(&mut *tx, &request.group).await? {
                    return Err(not_found("GROUP_NOT_FOUND", &subject).into());
                }
                change(tx, &request.group, &request.add, &request.remove).await?;
                Ok(subject)
            })
        })
        .await?;
        self.get_group(&name).await
    }

    /// Its items go on with points of their own; the points that there are stay.
    pub async fn delete_group(&self, call: &Call, request: DeleteGroup) -> Result<(), ApiError> {
        self.once(call, move |tx| {
            let request = request.clone();
            Box::pin(async move {
                let subject = request.group.to_resource();
                let of_group = groups::items(&mut *tx, &request.group).await?;
                items::lock(&mut *tx, &of_group).await?;
                if !groups::delete(tx, &request.group).await? {
                    return Err(not_found("GROUP_NOT_FOUND", &subject).into());
                }
                Ok(subject)
            })
        })
        .await?;
        Ok(())
    }

    pub async fn get_group(&self, name: &GroupName) -> Result<ConsistencyGroup, ApiError> {
        let mut conn = self.reader().await?;
        let record = groups::get(&mut conn, name).await?;
        let record = record.ok_or_else(|| not_found("GROUP_NOT_FOUND", &name.to_resource()))?;
        Ok(shown(&mut conn, &record).await?)
    }

    pub async fn list_groups(&self, after: &str, limit: i64) -> Result<Vec<ConsistencyGroup>, ApiError> {
        let mut conn = self.reader().await?;
        let mut found = Vec::new();
        for record in groups::list(&mut conn, after, limit).await? {
            found.push(shown(&mut conn, &record).await?);
        }
        Ok(found)
    }
}

/// The group has these items besides what it has, without those; or everything that stands against it, at once.
async fn change(
    tx: &mut PgConnection,
    group: &GroupName,
    add: &BTreeSet<ItemName>,
    remove: &BTreeSet<ItemName>,
) -> Result<(), Failure> {
    let present = groups::items(&mut *tx, group).await?;
    let mut names: BTreeSet<ItemName> = present.iter().cloned().collect();
    names.extend(add.iter().cloned());
    let names: Vec<ItemName> = names.into_iter().collect();
    items::lock(&mut *tx, &names).await?;
    let records = items::get(&mut *tx, &names).await?;
    let mut problems = Vec::new();
    for missing in add.iter().filter(|item| !records.iter().any(|record| record.name == **item)) {
        let message = "there is no such item";
        problems.push(Problem::new(
            "ITEM_NOT_FOUND",
            missing.to_resource(),
            message,
            "Protect the machine first.",
        ));
    }
    for both in add.intersection(remove) {
        let message = "it is to be taken in and out at once";
        problems.push(Problem::new("ITEM_ADDED_AND_REMOVED", both.to_resource(), message, "Decide on one."));
    }
    for stranger in remove.iter().filter(|item| !present.contains(item) && !add.contains(item)) {
        let message = format!("it does not belong to {}", group.to_resource());
        let remedy = "List what the group has, and correct the name.";
        problems.push(Problem::new("ITEM_NOT_IN_GROUP", stranger.to_resource(), message, remedy));
    }
    let mut candidates = Vec::new();
    for record in records.iter().filter(|record| !remove.contains(&record.name)) {
        // The foreign key keeps the policy.
        if let Some(policy) = policies::get(&mut *tx, &record.policy).await? {
            candidates.push(candidate(record, &policy));
        }
    }
    // What only has to leave is not held back by what has become of the others.
    if !add.is_empty() {
        problems.extend(group::problems(group, &candidates));
    }
    if !problems.is_empty() {
        return Err(refused("changing the group", problems).into());
    }
    for item in add {
        groups::assign(&mut *tx, item, Some(group)).await?;
    }
    for item in remove {
        groups::assign(&mut *tx, item, None).await?;
    }
    Ok(())
}

fn candidate(record: &ItemRecord, policy: &Policy) -> Candidate {
    Candidate {
        item: record.name.clone(),
        active_host: record.active_host.clone(),
        standby_host: record.standby_host.clone(),
        interval: policy.settings.interval,
        group: record.group.clone(),
    }
}

/// What stands against an item of a group following this policy.
pub async fn against_policy(
    conn: &mut PgConnection,
    record: &ItemRecord,
    policy: &Policy,
) -> Result<Vec<Problem>, Failure> {
    let Some(group) = &record.group else { return Ok(Vec::new()) };
    let names = groups::items(&mut *conn, group).await?;
    let mut candidates = Vec::new();
    for other in items::get(&mut *conn, &names).await?.iter().filter(|other| other.name != record.name) {
        if let Some(policy) = policies::get(&mut *conn, &other.policy).await? {
            candidates.push(candidate(other, &policy));
        }
    }
    candidates.push(candidate(record, policy));
    Ok(group::against_policies(&candidates))
}

async fn shown(conn: &mut PgConnection, record: &GroupRecord) -> Result<ConsistencyGroup, Failure> {
    let names = groups::items(&mut *conn, &record.name).await?;
    let (mut points, mut missed): (BTreeMap<ItemName, Vec<Joint>>, _) = (BTreeMap::new(), None);
    for item in items::get(&mut *conn, &names).await? {
        let standby = hosts::get(&mut *conn, &item.standby_host).await?.and_then(|host| host.heard);
        let offered = points_at(standby.as_ref().map(|heard| &heard.inventory), &item).iter();
        let joints = offered.filter(|point| point.is_offered()).filter_map(|point| point.joint.clone());
        points.insert(item.name.clone(), joints.collect());
        let active = hosts::get(&mut *conn, &item.active_host).await?.and_then(|host| host.heard);
        let told = active.as_ref().and_then(|heard| heard.inventory.item(&item.name)?.replication.as_ref());
        missed = missed.or(told.and_then(|replication| replication.not_joint.clone()));
    }
    let of_items = points.iter().map(|(item, joints)| (item.clone(), joints.iter().collect())).collect();
    let complete = joint::complete(&of_items, &record.name);
    let last = complete.last().and_then(|instant| {
        points.values().flatten().find(|joint| joint.instant == *instant && joint.group == record.name)
    });
    Ok(ConsistencyGroup {
        name: record.name.clone(),
        items: names,
        create_time: record.created,
        last: last.cloned(),
        complete: u32::try_from(complete.len()).unwrap_or(u32::MAX),
        missed,
    })
}
