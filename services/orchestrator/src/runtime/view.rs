//! How what is stored and decided looks to clients.

use understudy_ids::{HostName, PointSeq, UnixMicros};
use understudy_recovery::{
    ItemState, Run, RunPlan, RunSpec,
    instant::Instant,
    item, plan,
    run::{self, StepState},
};
use understudy_recovery_api::{self as api, MachineRef, request, view};
use understudy_replication::{alert::Alerts, rpo::Pause};

use super::{
    gather::{is_connected, points_at},
    health::{self, Observed},
    inventory::{Machine, Point},
};
use crate::store::{hosts::HostRecord, items::ItemRecord};

pub fn host(record: &HostRecord, now: UnixMicros) -> view::Host {
    let inventory = record.heard.as_ref().map(|heard| &heard.inventory);
    view::Host {
        name: record.name.clone(),
        facts_endpoint: record.facts_endpoint.clone(),
        sink_endpoint: record.sink_endpoint.clone(),
        create_time: record.created,
        last_heard: record.heard.as_ref().map(|heard| heard.at),
        connected: is_connected(record, now),
        hypervisor: inventory.map(|i| i.hypervisor.clone()).unwrap_or_default(),
        cpus: inventory.map_or(0, |i| i.cpus),
        memory_bytes: inventory.map_or(0, |i| i.memory_bytes),
        store_free_bytes: inventory.map_or(0, |i| i.store_free_bytes),
    }
}

pub fn machine(host: &HostName, machine: &Machine, heard_now: bool) -> view::Machine {
    let power = if heard_now { machine.power } else { plan::Power::Unknown };
    view::Machine {
        name: MachineRef { host: host.clone(), machine: machine.name.clone() },
        uuid: machine.uuid.to_string(),
        power: match power {
            plan::Power::Running => api::Power::Running,
            plan::Power::Paused => api::Power::Paused,
            plan::Power::ShutOff => api::Power::ShutOff,
            plan::Power::Unknown => api::Power::Unknown,
        },
        vcpus: machine.vcpus,
        memory_bytes: machine.memory_bytes,
        disks: machine
            .disks
            .iter()
            .map(|disk| view::MachineDisk {
                name: disk.name.clone(),
                size_bytes: disk.size_bytes,
                serial: disk.serial.clone().unwrap_or_default(),
                replicable: disk.replicable,
            })
            .collect(),
        nics: machine
            .nics
            .iter()
            .map(|nic| view::MachineNic {
                mac: nic.mac,
                network: nic.network.as_ref().map(ToString::to_string).unwrap_or_default(),
                addresses: nic.addresses.iter().map(ToString::to_string).collect(),
            })
            .collect(),
        item: machine.item.as_ref().map(|(item, _)| item.clone()),
        test_run: machine.test_run,
    }
}

pub fn item(observed: &Observed<'_>, alerts: &Alerts, now: UnixMicros) -> view::ProtectedItem {
    let Observed { record, standby, .. } = *observed;
    let at_standby = standby.and_then(|host| host.heard.as_ref()).map(|heard| &heard.inventory);
    let scrub = at_standby.and_then(|i| i.item(&record.name)).map(|facts| facts.scrub).unwrap_or_default();
    let latest = points_at(at_standby, record).iter().rfind(|p| p.is_offered()).map(|p| p.seq);
    let (run, test_run) = (record.run, record.test);
    let allowed = item::allowed_now(record.state, record.held_by(), record.paused.is_some());
    view::ProtectedItem {
        name: record.name.clone(),
        machine: MachineRef { host: record.active_host.clone(), machine: record.machine.name.clone() },
        active_host: record.active_host.clone(),
        standby_host: record.standby_host.clone(),
        policy: record.policy.clone(),
        disks: record.disks.clone(),
        excluded_disks: record.excluded.clone(),
        state: item_state(record.state),
        generation: record.generation,
        run,
        test_run,
        allowed_actions: allowed.into_iter().map(|verb| verb.as_str().to_owned()).collect(),
        health: view::ReplicationHealth {
            alerts: health::alerts(alerts, observed, now),
            ..health::health(observed, now)
        },
        latest_point: latest,
        scrub: view::Scrub {
            last_end: scrub.last_end,
            checked_blocks: scrub.checked_blocks,
            under_way_since: scrub.under_way_since,
        },
        create_time: record.created,
        group: record.group.clone(),
        probes: record.probes.clone(),
        addresses: record.addresses.clone(),
        activation_lease: record.lease.as_ref().map(|lease| view::ActivationLease {
            length: lease.granted.length(),
            held: record.binding_lease().is_some(),
            over_in: lease.granted.over_in(),
            stopped: health::stopped_by_lease(observed),
        }),
        pause: record.paused.clone().map(|Pause { since, by, why }| view::Pause { since, by, reason: why }),
    }
}

fn item_state(state: ItemState) -> api::ItemState {
    match state {
        ItemState::InitialReplication => api::ItemState::InitialReplication,
        ItemState::Protected => api::ItemState::Protected,
        ItemState::PlannedFailover => api::ItemState::PlannedFailover,
        ItemState::UnplannedFailover => api::ItemState::UnplannedFailover,
        ItemState::CommitPending => api::ItemState::CommitPending,
        ItemState::RollingBack => api::ItemState::RollingBack,
        ItemState::NotProtected => api::ItemState::NotProtected,
        ItemState::ReverseReplication => api::ItemState::ReverseReplication,
        // Never stored; an item that is going away is being unprotected.
        ItemState::Unprotecting | ItemState::Removed => api::ItemState::Unprotecting,
        ItemState::Failed => api::ItemState::Failed,
    }
}

pub fn point(record: &ItemRecord, point: &Point) -> view::RecoveryPoint {
    view::RecoveryPoint {
        item: record.name.clone(),
        seq: point.seq,
        instant: point.instant,
        received: point.received,
        changed_bytes: point.changed_bytes,
        in_use: point.pinned,
        consistency: point.consistency,
        frozen: point.frozen,
        damaged_blocks: point.damaged_blocks,
        joint: point.joint.clone(),
    }
}

fn spec(spec: &RunSpec) -> request::RunSpec {
    request::RunSpec {
        operation: spec.operation.into(),
        items: spec.items.iter().cloned().collect(),
        points: spec.points.clone(),
        primary_down_assertion: spec.primary_down_assertion.clone(),
        test_network: spec.test_network.clone(),
        no_reverse_replication: spec.no_reverse_replication,
        allow_partial_subnet: spec.allow_partial_subnet,
        deadline: spec.deadline.map(deadline),
        instant: spec.instant.map(|instant| match instant {
            Instant::AtOrBefore(time) => request::RunInstant::AtOrBefore(time),
            Instant::Latest => request::RunInstant::LatestOfAll,
        }),
        synchronise_within: spec.synchronise_within,
        recovery_plan: spec.recovery_plan.as_ref().map(|plan| plan.name.clone()),
        from_site: spec.from_site.clone(),
        standby_host: spec.standby_host.clone(),
        promote_test: spec.promote_test,
        synchronise: spec.synchronise.into(),
    }
}

fn deadline(deadline: run::Deadline) -> request::RunDeadline {
    let action = match deadline.action {
        run::DeadlineAction::Commit => api::DeadlineAction::Commit,
        run::DeadlineAction::RollBack => api::DeadlineAction::RollBack,
    };
    request::RunDeadline { action, after: deadline.after }
}

pub fn domain_deadline(deadline: request::RunDeadline) -> run::Deadline {
    let action = match deadline.action {
        api::DeadlineAction::Commit => run::DeadlineAction::Commit,
        api::DeadlineAction::RollBack => run::DeadlineAction::RollBack,
    };
    run::Deadline { action, after: deadline.after }
}

/// How the deadline of a run stands.
fn deadline_state(run: &Run) -> Option<view::RunDeadlineState> {
    let set = run.deadline.as_ref()?;
    // Of a deadline the limit of tests says nothing.
    let left = run::time_left(run, std::time::Duration::MAX).map(|(_, left)| left);
    Some(view::RunDeadlineState {
        deadline: deadline(set.deadline),
        set_by: set.by.clone(),
        waited: run.waited.map(|waited| waited.span),
        due_time: left.zip(run.waited).map(|(left, waited)| waited.seen.plus(left)),
        problems: set.failed.clone(),
    })
}

/// What the planner is asked for.
pub fn domain_spec(spec: request::RunSpec) -> RunSpec {
    let request::RunSpec {
        operation,
        items,
        points,
        primary_down_assertion,
        test_network,
        no_reverse_replication,
        allow_partial_subnet,
        deadline,
        instant,
        synchronise_within,
        // What a name stands for is looked up.
        recovery_plan: _,
        from_site: _,
        standby_host,
        promote_test,
        synchronise,
    } = spec;
    RunSpec {
        points,
        primary_down_assertion,
        test_network,
        no_reverse_replication,
        allow_partial_subnet,
        deadline: deadline.map(domain_deadline),
        instant: instant.map(|instant| match instant {
            request::RunInstant::AtOrBefore(time) => Instant::AtOrBefore(time),
            request::RunInstant::LatestOfAll => Instant::Latest,
        }),
        synchronise_within,
        standby_host,
        promote_test,
        synchronise: synchronise.into(),
        ..RunSpec::new(operation.into(), items.into_iter().collect())
    }
}

fn step(step: &plan::Step) -> view::PlannedStep {
    view::PlannedStep {
        step: step.id.clone(),
        item: step.item.clone(),
        title: step.title.clone(),
        executor: step.executor.to_string(),
        after: step.after.clone(),
        on_error: step.on_error.as_str().to_owned(),
        phase: step.phase.as_str().to_owned(),
        point_of_no_return: step.point_of_no_return,
    }
}

fn planned_item(plan: &RunPlan, item: &plan::PlannedItem) -> view::PlannedItem {
    let estimate = plan.estimates.get(&item.item).cloned().unwrap_or_default();
    view::PlannedItem {
        item: item.item.clone(),
        generation: item.generation,
        source_host: item.source_host.clone(),
        target_host: item.target_host.clone(),
        machine: item.machine.to_string(),
        point: estimate.point,
        point_instant: estimate.point_instant,
        point_consistency: estimate.point_consistency,
        expected_loss: estimate.expected_loss,
        lease_over_in: estimate.lease_over_in,
        connections: item.connections.iter().map(planned_connection).collect(),
    }
}

fn planned_connection(connection: &plan::PlannedConnection) -> view::PlannedConnection {
    let plan::PlannedConnection { mac, network, address, reason } = connection.clone();
    view::PlannedConnection { mac, network, address, reason }
}

/// A plan, or what stands against one.
pub fn preview(asked: &RunSpec, planned: Result<RunPlan, Vec<understudy_ids::Problem>>) -> view::RunPreview {
    match planned {
        Ok(plan) => view::RunPreview {
            spec: spec(asked),
            digest: plan.digest(),
            items: plan.items.iter().map(|item| planned_item(&plan, item)).collect(),
            steps: plan.steps.iter().map(step).collect(),
            problems: Vec::new(),
            notices: plan.notices,
        },
        Err(problems) => view::RunPreview {
            spec: spec(asked),
            digest: String::new(),
            items: Vec::new(),
            steps: Vec::new(),
            problems,
            notices: Vec::new(),
        },
    }
}

fn run_step(run: &Run, planned: &plan::Step) -> view::RunStep {
    let status = run.steps.get(&planned.id);
    view::RunStep {
        plan: step(planned),
        state: match status.map_or(StepState::Pending, |s| s.state) {
            StepState::Pending => api::StepState::Pending,
            StepState::Running => api::StepState::Running,
            StepState::Succeeded => api::StepState::Succeeded,
            StepState::Failed => api::StepState::Failed,
            StepState::Skipped => api::StepState::Skipped,
        },
        start_time: status.and_then(|s| s.started),
        end_time: status.and_then(|s| s.ended),
        error: status.and_then(|s| s.error.as_ref()).map(|e| e.problem.clone()),
        outcome: run::step_outcome(run, &planned.id),
        output: run::step_output(run, &planned.id),
    }
}

fn outcome(outcome: run::ItemOutcome) -> view::ItemOutcome {
    let run::ItemOutcome {
        item,
        generation,
        point,
        point_instant,
        downtime,
        loss_span,
        disks,
        machine,
        address,
        error,
    } = outcome;
    let disks = disks.into_iter().map(|disk| {
        let run::DiskComparison { disk, source_root, target_root, equal } = disk;
        view::DiskComparison { disk: disk.to_string(), source_root, target_root, equal }
    });
    view::ItemOutcome {
        item,
        generation,
        point,
        point_instant,
        downtime,
        loss_span,
        disks: disks.collect(),
        machine: machine.to_string(),
        address: address.unwrap_or_default(),
        error,
    }
}

/// A run with its steps.
pub fn run(run: &Run) -> view::Run {
    view::Run {
        steps: run.plan.steps.iter().map(|step| run_step(run, step)).collect(),
        outcomes: run::outcomes(run).into_iter().map(outcome).collect(),
        ..run_in_list(run)
    }
}

/// A run without its steps and outcomes, so that a page of a thousand runs stays a page.
pub fn run_in_list(run: &Run) -> view::Run {
    view::Run {
        name: run.id,
        spec: spec(&run.spec),
        operation: run.plan.operation.into(),
        state: match run::state(run) {
            run::RunState::Running => api::RunState::Running,
            run::RunState::Waiting => api::RunState::Waiting,
            run::RunState::CleaningUp => api::RunState::CleaningUp,
            run::RunState::Succeeded => api::RunState::Succeeded,
            run::RunState::CompletedWithErrors => api::RunState::CompletedWithErrors,
            run::RunState::Failed => api::RunState::Failed,
            run::RunState::Cancelled => api::RunState::Cancelled,
            run::RunState::RolledBack => api::RunState::RolledBack,
        },
        phase: run::phase(run),
        waiting_for: run::waiting_for(run),
        allowed_actions: run::allowed_actions(run).into_iter().map(|verb| verb.as_str().to_owned()).collect(),
        steps: Vec::new(),
        outcomes: Vec::new(),
        problems: run::problems(run),
        created_by: run.created_by.clone(),
        create_time: run.started,
        end_time: run.ended.map(|ended| ended.at),
        progress_percent: run::progress_percent(run),
        changes: run.changes.iter().map(made_change).collect(),
        deadline: deadline_state(run),
    }
}

fn made_change(made: &run::MadeChange) -> view::MadeRunChange {
    view::MadeRunChange { time: made.at, by: made.by.clone(), text: run::change_in_words(made) }
}

/// Further steps of a run, or what stands against them.
pub fn change_preview(
    planned: Result<plan::Amendment, Vec<understudy_ids::Problem>>,
) -> view::RunChangePreview {
    match planned {
        Ok(amendment) => view::RunChangePreview {
            digest: amendment.digest(),
            items: amendment.items.into_iter().map(amended_item).collect(),
            steps: amendment.steps.iter().map(step).collect(),
            problems: Vec::new(),
        },
        Err(problems) => {
            view::RunChangePreview { digest: String::new(), items: Vec::new(), steps: Vec::new(), problems }
        }
    }
}

fn amended_item(amended: plan::AmendedItem) -> view::ChangedItem {
    let plan::AmendedItem { item, estimate, gives_up, connections } = amended;
    let plan::Estimate { point, point_instant, point_consistency, expected_loss, .. } =
        estimate.unwrap_or_default();
    let connections = connections.iter().flatten().map(planned_connection).collect();
    view::ChangedItem { item, point, point_instant, point_consistency, expected_loss, gives_up, connections }
}

/// Points of an item, newest first, below `before`.
pub fn points_before(points: &[Point], before: Option<PointSeq>) -> Vec<&Point> {
    let mut usable: Vec<&Point> =
        points.iter().filter(|p| !p.is_base && before.is_none_or(|before| p.seq < before)).collect();
    usable.sort_by_key(|point| std::cmp::Reverse(point.seq));
    usable
}
