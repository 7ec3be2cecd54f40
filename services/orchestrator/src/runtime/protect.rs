//! Turning protection on and off, and reading what is protected.

use std::sync::Arc;

use sqlx::PgConnection;
use understudy_ids::{DiskName, HostName, ItemName, PointSeq, PolicyName, Problem, RunId, UnixMicros, Uuid};
use understudy_netplan::ChosenAddress;
use understudy_recovery::{
    ItemState, Operation, RunPlan, RunSpec, Verb,
    disks::DiskChoice,
    item, plan,
    plan::PlanInput,
    plan::{Power, Seed},
    start,
};
use understudy_recovery_api::{
    Resource,
    request::{self, PolicySettings, ProtectMachine, SetItemAddress, SetItemPolicy, SetItemProbes, Steer},
    view::{Policy, ProtectedItem, Protection, RecoveryPoint, Run},
};
use understudy_replication::alert::Alerts;
use understudy_rpc::{ApiError, trace};

use super::{
    Runtime, apply,
    call::Call,
    connections::{self, Answer},
    gather::{self, is_connected},
    groups,
    health::Observed,
    inventory::Machine,
    now,
    runs::{refused, run_of},
    sites::not_found,
    view,
};
use crate::store::{
    Failure, alerts, hosts,
    items::{self, ItemRecord},
    policies,
};

impl Runtime {
    /// Turns replication of a machine on, after finding everything that stands against it (R-REP-1).
    pub async fn protect_machine(
        &self,
        call: &Call,
        request: ProtectMachine,
    ) -> Result<Protection, ApiError> {
        if let Some(run) = self.seen(call).await? {
            return self.protection(&request.item, Some(run_of(&run)?)).await;
        }
        let now = now();
        let checked = check(&mut *self.reader().await?, &request, now).await?;
        let mut spec = RunSpec::new(Operation::Protect, vec![request.item.clone()]);
        spec.seed = request.seed.clone().map(|request::Seed { name, export }| Seed { name, export });
        let answer = connections::ask(&self.0.network, &spec, &checked.input.items, Vec::new()).await;
        let planned = checked.plan(&mut *self.reader().await?, &spec, &answer).await?;
        if request.validate_only {
            planned?;
            return self.only_checked(&request, now).await;
        }
        planned?;
        let (request, spec, answer) = (Arc::new(request), Arc::new(spec), Arc::new(answer));
        let (item, who, traceparent) = (request.item.clone(), call.caller.who.clone(), trace::current());
        let run = self
            .once(call, move |tx| {
                let (request, spec, answer) = (request.clone(), spec.clone(), answer.clone());
                let (who, traceparent) = (who.clone(), traceparent.clone());
                Box::pin(async move {
                    let checked = check(&mut *tx, &request, now).await?;
                    let plan = checked.plan(&mut *tx, &spec, &answer).await??;
                    let draft = checked.draft.ok_or_else(|| refused("protect", checked.problems))?;
                    items::insert(&mut *tx, &draft).await.map_err(|failure| lost_race(failure, &request))?;
                    let (run, effects) = start(Uuid::now_v7(), plan, (*spec).clone(), &who, now);
                    apply::begin(&mut *tx, &run, &effects, traceparent.as_deref()).await?;
                    connections::remember(tx, &spec, &checked.input, &answer).await?;
                    Ok(run.id.to_resource())
                })
            })
            .await?;
        self.protection(&item, Some(run_of(&run)?)).await
    }

    async fn protection(&self, item: &ItemName, run: Option<RunId>) -> Result<Protection, ApiError> {
        let run = match run {
            Some(run) => Some(self.get_run(run).await?),
            None => None,
        };
        Ok(Protection { item: self.get_item(item).await?, run })
    }

    /// The item as it would be made.
    async fn only_checked(&self, request: &ProtectMachine, now: UnixMicros) -> Result<Protection, ApiError> {
        let mut conn = self.reader().await?;
        let checked = check(&mut conn, request, now).await?;
        let draft = checked.draft.ok_or_else(|| refused("protect", checked.problems))?;
        let active = hosts::get(&mut conn, &draft.active_host).await?;
        let standby = hosts::get(&mut conn, &draft.standby_host).await?;
        let observed = Observed {
            record: &draft,
            policy: &checked.policy,
            active: active.as_ref(),
            standby: standby.as_ref(),
        };
        let item = view::item(&observed, &Alerts::default(), now);
        Ok(Protection { item, run: None })
    }

    pub async fn unprotect_item(&self, call: &Call, request: request::Unprotect) -> Result<Run, ApiError> {
        if let Some(run) = self.seen(call).await? {
            return self.get_run(run_of(&run)?).await;
        }
        let mut spec = RunSpec::new(Operation::Unprotect, vec![request.item]);
        spec.delete_replica = request.delete_replica;
        self.start_planned(call, spec, None).await
    }

    /// Includes or leaves out disks (R-REP-8). The agent is told by a correction, as soon as its facts say otherwise.
    pub async fn change_disks(
        &self,
        call: &Call,
        request: request::ChangeDisks,
    ) -> Result<ProtectedItem, ApiError> {
        let item = request.item.clone();
        let now = now();
        self.once(call, move |tx| {
            let request = request.clone();
            Box::pin(async move {
                let record = steered(&mut *tx, &request.item).await?;
                let active = hosts::get(&mut *tx, &record.active_host).await?;
                let heard_now = active.as_ref().is_some_and(|host| is_connected(host, now));
                let inventory = active.and_then(|host| host.heard).map(|heard| heard.inventory);
                let machine = gather::machine_of(&record, inventory.as_ref(), heard_now);
                let choice = DiskChoice {
                    item: &record.name,
                    state: record.state,
                    held: record.held_by().is_some(),
                    protected: &record.disks,
                    excluded: &record.excluded,
                    present: &machine.disks,
                };
                let (protected, excluded) = choice
                    .change(&request.add, &request.exclude)
                    .map_err(|problems| refused("changing the disks", problems))?;
                items::set_disks(tx, &record.name, &protected, &excluded).await?;
                Ok(record.name.to_resource())
            })
        })
        .await?;
        self.get_item(&item).await
    }

    /// The item follows another policy (R-REP-8). Both its agents are told by corrections.
    pub async fn set_item_policy(
        &self,
        call: &Call,
        request: SetItemPolicy,
    ) -> Result<ProtectedItem, ApiError> {
        let item = request.item.clone();
        self.once(call, move |tx| {
            let request = request.clone();
            Box::pin(async move {
                let record = steered(&mut *tx, &request.item).await?;
                let mut problems = item::against_steering(&record.name, record.state, record.held_by(), None);
                match policies::get(&mut *tx, &request.policy).await? {
                    None => problems.push(no_policy(&request.policy)),
                    Some(policy) => {
                        problems.extend(groups::against_policy(&mut *tx, &record, &policy).await?)
                    }
                }
                if !problems.is_empty() {
                    return Err(refused("changing the policy", problems).into());
                }
                items::set_policy(tx, &record.name, &request.policy).await?;
                Ok(record.name.to_resource())
            })
        })
        .await?;
        self.get_item(&item).await
    }

    /// What runs that are planned from now on ask the item's machine (R-TF-8).
    pub async fn set_item_probes(
        &self,
        call: &Call,
        request: SetItemProbes,
    ) -> Result<ProtectedItem, ApiError> {
        let item = request.item.clone();
        self.once(call, move |tx| {
            let request = request.clone();
            Box::pin(async move {
                let record = steered(&mut *tx, &request.item).await?;
                items::set_probes(tx, &record.name, &request.probes).await?;
                Ok(record.name.to_resource())
            })
        })
        .await?;
        self.get_item(&item).await
    }

    /// Which address a NIC gets, in runs that are planned from now on, at the site that the item is replicated to (R-NET-5).
    pub async fn set_item_address(
        &self,
        call: &Call,
        request: SetItemAddress,
    ) -> Result<ProtectedItem, ApiError> {
        let item = request.item.clone();
        self.once(call, move |tx| {
            let SetItemAddress { item, nic, failover, test, request_id: _ } = request.clone();
            Box::pin(async move {
                let record = steered(&mut *tx, &item).await?;
                let site = record.standby_host.site().clone();
                let new = ChosenAddress { nic, site, failover, test };
                let mut problems = new.problems();
                if usize::try_from(nic).is_ok_and(|nic| nic >= record.machine.nics.len()) {
                    let message =
                        format!("the machine has {} NICs, counted from 0", record.machine.nics.len());
                    problems.push(Problem::new("NIC_NOT_FOUND", "nic", message, "List the machine's NICs."));
                }
                if !problems.is_empty() {
                    return Err(refused("choosing the address", problems).into());
                }
                let mut all = record.addresses;
                all.retain(|chosen| (chosen.nic, &chosen.site) != (new.nic, &new.site));
                all.extend(Some(new).filter(|new| new.failover.or(new.test).is_some()));
                all.sort_by(|a, b| (&a.site, a.nic).cmp(&(&b.site, b.nic)));
                items::set_addresses(tx, &record.name, &all).await?;
                Ok(record.name.to_resource())
            })
        })
        .await?;
        self.get_item(&item).await
    }

    /// Pauses or resumes replication (R-REP-8). What is so already stays as it is. The agent is told by a correction.
    pub async fn steer_replication(
        &self,
        call: &Call,
        verb: Verb,
        request: Steer,
    ) -> Result<ProtectedItem, ApiError> {
        let (item, who) = (request.item.clone(), call.caller.who.clone());
        self.once(call, move |tx| {
            let (request, who) = (request.clone(), who.clone());
            Box::pin(async move {
                let record = steered(&mut *tx, &request.item).await?;
                let problems =
                    item::against_steering(&record.name, record.state, record.held_by(), Some(verb));
                if !problems.is_empty() {
                    return Err(refused(verb.as_str(), problems).into());
                }
                match verb {
                    Verb::Pause => items::pause(tx, &record.name, &who, &request.reason).await?,
                    _ => items::resume(tx, &record.name).await?,
                }
                Ok(record.name.to_resource())
            })
        })
        .await?;
        self.get_item(&item).await
    }

    pub async fn get_item(&self, name: &ItemName) -> Result<ProtectedItem, ApiError> {
        let mut conn = self.reader().await?;
        let record = items::get(&mut conn, std::slice::from_ref(name)).await?.pop();
        let record = record.ok_or_else(|| not_found("ITEM_NOT_FOUND", &name.to_resource()))?;
        Ok(shown(&mut conn, &record, now()).await?)
    }

    pub async fn list_items(&self, after: &str, limit: i64) -> Result<Vec<ProtectedItem>, ApiError> {
        let mut conn = self.reader().await?;
        let now = now();
        let mut shown_items = Vec::new();
        for record in items::list(&mut conn, after, limit).await? {
            shown_items.push(shown(&mut conn, &record, now).await?);
        }
        Ok(shown_items)
    }

    /// Points that can be failed over to, newest first, below `before`.
    pub async fn list_points(
        &self,
        name: &ItemName,
        before: Option<PointSeq>,
        limit: usize,
    ) -> Result<Vec<RecoveryPoint>, ApiError> {
        let mut conn = self.reader().await?;
        let record = items::get(&mut conn, std::slice::from_ref(name)).await?.pop();
        let record = record.ok_or_else(|| not_found("ITEM_NOT_FOUND", &name.to_resource()))?;
        let mut points = Vec::new();
        for host in sides_with_points(&record) {
            let host = hosts::get(&mut conn, host).await?;
            let heard = host.as_ref().and_then(|host| host.heard.as_ref()).map(|heard| &heard.inventory);
            points = gather::points_at(heard, &record).to_vec();
            if points.iter().any(|point| !point.is_base) {
                break;
            }
        }
        let points = view::points_before(&points, before);
        Ok(points.into_iter().take(limit).map(|point| view::point(&record, point)).collect())
    }
}

/// Where the points are that can be failed over to, or of which another one can be chosen: until a failover is final they are at the
/// side that has become the active one (R-FO-4).
fn sides_with_points(record: &ItemRecord) -> Vec<&HostName> {
    match record.state {
        ItemState::CommitPending | ItemState::UnplannedFailover | ItemState::Failed => {
            vec![&record.active_host, &record.standby_host]
        }
        _ => vec![&record.standby_host],
    }
}

/// The item, locked.
async fn steered(tx: &mut PgConnection, name: &ItemName) -> Result<ItemRecord, Failure> {
    items::lock(&mut *tx, std::slice::from_ref(name)).await?;
    let record = items::get(&mut *tx, std::slice::from_ref(name)).await?.pop();
    record.ok_or_else(|| not_found("ITEM_NOT_FOUND", &name.to_resource()).into())
}

fn no_policy(policy: &PolicyName) -> Problem {
    let remedy = "Create it, or name another.";
    Problem::new("POLICY_NOT_FOUND", policy.to_resource(), "there is no such policy", remedy)
}

async fn shown(
    conn: &mut PgConnection,
    record: &ItemRecord,
    now: UnixMicros,
) -> Result<ProtectedItem, Failure> {
    let active = hosts::get(conn, &record.active_host).await?;
    let standby = hosts::get(conn, &record.standby_host).await?;
    let policy = policies::get(conn, &record.policy).await?.unwrap_or_else(|| stand_in(&record.policy));
    let observed = Observed { record, policy: &policy, active: active.as_ref(), standby: standby.as_ref() };
    let alerts = alerts::get(conn, &record.name).await?;
    Ok(view::item(&observed, &alerts, now))
}

/// What was found out about a request to protect.
struct Checked {
    /// The item as it would be made; nothing when its machine or policy is not known.
    draft: Option<ItemRecord>,
    policy: Policy,
    input: PlanInput,
    /// Problems that the planner cannot see, because they concern what does not exist.
    problems: Vec<Problem>,
}

impl Checked {
    /// The plan, or all problems: those found here, the planner's and network-mapper's.
    async fn plan(
        &self,
        conn: &mut PgConnection,
        spec: &RunSpec,
        answer: &Answer,
    ) -> Result<Result<RunPlan, ApiError>, Failure> {
        let mut input = self.input.clone();
        input.connections = connections::settle(conn, spec, &input.items, answer).await?;
        let mut problems = self.problems.clone();
        // Protecting connects nothing, so the planner does not look at these; a mapping that is missing is said now all the same.
        problems.extend(input.connections.problems.iter().cloned());
        let planned = if input.items.is_empty() { Err(Vec::new()) } else { plan::plan(spec, &input) };
        match planned {
            Ok(plan) if problems.is_empty() => Ok(Ok(plan)),
            Ok(_) => Ok(Err(refused("protect", problems))),
            Err(more) => {
                problems.extend(more);
                Ok(Err(refused("protect", problems)))
            }
        }
    }
}

async fn check(
    conn: &mut PgConnection,
    request: &ProtectMachine,
    now: UnixMicros,
) -> Result<Checked, Failure> {
    let mut problems = Vec::new();
    let machine = find_machine(conn, request, now, &mut problems).await?;
    let target = hosts::get(conn, &request.target).await?;
    let policy = policies::get(conn, &request.policy).await?;
    let policy_known = policy.is_some();
    if !policy_known {
        problems.push(no_policy(&request.policy));
    }
    let policy = policy.unwrap_or_else(|| stand_in(&request.policy));
    if !items::get(conn, std::slice::from_ref(&request.item)).await?.is_empty() {
        let message = "there is a protected item of that name";
        problems.push(Problem::new(
            "ITEM_EXISTS",
            request.item.to_resource(),
            message,
            "Choose another name.",
        ));
    }
    let Some(machine) = machine else {
        problems.extend(target_problems(request, target.as_ref(), now));
        return Ok(Checked {
            draft: None,
            policy,
            input: gather::of_items(conn, &[], &[], now).await?,
            problems,
        });
    };
    if let Some(item) = items::of_machine(conn, machine.uuid).await?.filter(|item| *item != request.item) {
        let message = format!("the machine is protected as {} already", item.to_resource());
        problems.push(Problem::new(
            "MACHINE_PROTECTED",
            request.machine.to_resource(),
            message,
            "Use that item, or unprotect it first.",
        ));
    }
    problems.extend(machine_problems(request, &machine));
    let at_target =
        target.as_ref().and_then(|host| host.heard.as_ref()).map(|heard| &heard.inventory.machines);
    if at_target.is_some_and(|machines| machines.iter().any(|m| m.uuid == machine.uuid)) {
        let message = format!("{} has a machine with the same UUID {}", request.target, machine.uuid);
        problems.push(Problem::new(
            "UUID_IN_USE",
            request.target.to_resource(),
            message,
            "Remove that machine first.",
        ));
    }
    let draft = ItemRecord {
        name: request.item.clone(),
        active_host: request.machine.host.clone(),
        standby_host: request.target.clone(),
        disks: machine
            .disks
            .iter()
            .map(|d| d.name.clone())
            .filter(|d| !request.excluded.contains(d))
            .collect(),
        excluded: request.excluded.iter().cloned().collect(),
        machine,
        policy: request.policy.clone(),
        state: ItemState::InitialReplication,
        generation: items::first_generation(conn, &request.item).await?,
        created: now,
        run: None,
        test: None,
        paused: None,
        probes: Vec::new(),
        addresses: Vec::new(),
        group: None,
        lease: None,
    };
    let input = gather::of_items(conn, &[(draft.clone(), policy.clone())], &[], now).await?;
    Ok(Checked { draft: policy_known.then_some(draft), policy, input, problems })
}

async fn find_machine(
    conn: &mut PgConnection,
    request: &ProtectMachine,
    now: UnixMicros,
    problems: &mut Vec<Problem>,
) -> Result<Option<Machine>, Failure> {
    let host = &request.machine.host;
    let Some(source) = hosts::get(conn, host).await? else {
        problems.push(Problem::new(
            "HOST_NOT_FOUND",
            host.to_resource(),
            "there is no such host",
            "Register the host first.",
        ));
        return Ok(None);
    };
    let inventory = source.heard.as_ref().map(|heard| &heard.inventory);
    let machine = inventory.and_then(|i| i.machine(&request.machine.machine)).cloned();
    if machine.is_none() {
        let (reason, message, remedy) = if is_connected(&source, now) {
            ("MACHINE_NOT_FOUND", "its host has no such machine", "List the host's machines.")
        } else {
            (
                "HOST_NOT_CONNECTED",
                "its host's agent cannot be heard",
                "Start the agent or repair its connection.",
            )
        };
        problems.push(Problem::new(reason, request.machine.to_resource(), message, remedy));
    }
    Ok(machine)
}

/// What can be said about the target while there is no machine to plan with.
fn target_problems(
    request: &ProtectMachine,
    target: Option<&hosts::HostRecord>,
    now: UnixMicros,
) -> Option<Problem> {
    let subject = request.target.to_resource();
    if request.target == request.machine.host {
        let message = "it would be both sides of the item";
        return Some(Problem::new("SAME_HOST", subject, message, "Choose another host as the target."));
    }
    match target {
        None => {
            Some(Problem::new("HOST_NOT_FOUND", subject, "there is no such host", "Register the host first."))
        }
        Some(host) if !is_connected(host, now) => {
            let message = "its agent cannot be heard";
            Some(Problem::new(
                "HOST_NOT_CONNECTED",
                subject,
                message,
                "Start the agent or repair its connection.",
            ))
        }
        Some(_) => None,
    }
}

fn machine_problems(request: &ProtectMachine, machine: &Machine) -> Vec<Problem> {
    let subject = request.machine.to_resource();
    let mut problems = Vec::new();
    if machine.test_run.is_some() {
        let message = "the machine was made by a test failover and goes away with it";
        problems.push(Problem::new("MACHINE_IS_A_TEST", &subject, message, "Name a machine of production."));
    }
    if !matches!(machine.power, Power::Running | Power::ShutOff) {
        let message = "the machine is neither running nor off";
        problems.push(Problem::new(
            "MACHINE_STATE_UNSUITABLE",
            &subject,
            message,
            "Resume or shut it down first.",
        ));
    }
    let has = |disk: &DiskName| machine.disks.iter().any(|d| d.name == *disk);
    for disk in request.excluded.iter().filter(|disk| !has(disk)) {
        let message = format!("disk {disk} is excluded, and the machine has no such disk");
        problems.push(Problem::new("DISK_NOT_FOUND", &subject, message, "List the machine's disks."));
    }
    problems
}

/// Stands for a policy that does not exist, so that everything else can be checked all the same. Never stored.
fn stand_in(name: &PolicyName) -> Policy {
    let second = std::time::Duration::from_secs(1);
    Policy {
        name: name.clone(),
        settings: PolicySettings {
            interval: second,
            rpo_objective: second,
            keep_count: 1,
            keep_age: second,
            keep_tiers: Vec::new(),
            shutdown_grace: second,
            activation_lease: None,
            power_off_after_grace: false,
            replication: Default::default(),
        },
        create_time: UnixMicros::new(0),
    }
}

/// Another request made the item, or protected the machine, between our check and our commit.
fn lost_race(failure: Failure, request: &ProtectMachine) -> Failure {
    let Failure::Database(error) = &failure else { return failure };
    if error.unique_violation("items_pkey") {
        let message = format!("{} was made by another request meanwhile", request.item.to_resource());
        return ApiError::already_exists("ITEM_EXISTS", message, "Choose another name, or use that item.")
            .into();
    }
    if error.unique_violation("items_machine_key") {
        let message = format!("{} was protected by another request meanwhile", request.machine.to_resource());
        return ApiError::already_exists("MACHINE_PROTECTED", message, "Use the item that protects it.")
            .into();
    }
    failure
}
