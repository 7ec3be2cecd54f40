//! The way back before the commit (R-FO-4): the machine runs at its old side again, which is replicated as before.
//!
//! ```text
//!   per item: shut down @ target
//!   all stopped ══ from here on only forward ═▶ per item: raise generation ─▶ fence @ target ─▶ start @ source ─▶
//!                  ├▶ remove the machine and what it wrote @ target ─▶ prepare replica @ target ─▶ replicate @ source
//!                  └▶ restore names, call hooks
//! ```
//!
//! The old side must be known to be as the failover left it: heard now, fenced at the item's generation, with the machine off
//! and all of its disks. No answer is none of that (invariant 16). The target's points are still there, for nothing
//! removes them before a commit, so replication goes on with what differs.

use understudy_ids::{DiskName, Generation, HostName, Problem};
use understudy_netplan::TrafficChange;

use super::{AmendedItem, Amending, points::stop};
use crate::{
    action::{Action, AgentWork, Internal, MachineRef, NetworkWork},
    item::Verb,
    plan::{
        MachineView, Part, Phase, PlannedItem, Power, Step, check,
        draft::{Subject, ipv4},
        error_policy,
    },
};

pub(super) fn problems(amending: &Amending<'_>, give_up_writes: bool) -> Vec<Problem> {
    let mut found = Vec::new();
    for planned in &amending.run.plan.items {
        found.extend(amending.host_not_connected(planned));
        found.extend(old_side(amending, planned));
    }
    if !give_up_writes {
        found.extend(amending.run.plan.items.iter().map(|planned| not_given_up(amending, planned)));
    }
    found
}

fn not_given_up(amending: &Amending<'_>, planned: &PlannedItem) -> Problem {
    let since = match amending.gives_up(&planned.item) {
        Some(span) => format!("the last {:.0} s, since it was started there", span.as_secs_f64()),
        None => "the time since it was made there".to_owned(),
    };
    let message =
        format!("what {} wrote at {} in {since}, would be lost", planned.machine, planned.target_host);
    let remedy = "Say with the request that it is given up (--give-up-writes), or commit the failover.";
    Problem::new("WRITES_NOT_GIVEN_UP", check::subject(&planned.item), message, remedy)
}

/// Everything that speaks against the old side being as the failover left it.
fn old_side(amending: &Amending<'_>, planned: &PlannedItem) -> Vec<Problem> {
    let Some(view) = amending.view(&planned.item) else { return Vec::new() };
    let host = &planned.source_host;
    let problem = |reason: &str, message: String, remedy: &str| {
        Problem::new(reason, check::subject(&planned.item), message, remedy)
    };
    let Some(side) = view.sides.get(host) else {
        let message =
            format!("it is not known how {} stands at {host}: its agent tells nothing of it", planned.item);
        let remedy = "Repair the host, its agent or the line to it; or commit the failover.";
        return vec![problem("OLD_SIDE_NOT_HEARD", message, remedy)];
    };
    let mut found = Vec::new();
    if !side.fenced || side.generation != view.generation {
        let message = format!(
            "{host} is not fenced at generation {}: it has heard of {}",
            view.generation, side.generation
        );
        let remedy = "Wait a moment: a host that is heard again is fenced by itself.";
        found.push(problem("OLD_SIDE_NOT_FENCED", message, remedy));
    }
    match &side.machine {
        None => {
            let message = format!("{host} does not have {} any more", planned.machine);
            let remedy = "Commit the failover, and replicate in reverse.";
            found.push(problem("OLD_MACHINE_GONE", message, remedy));
        }
        Some(machine) => found.extend(old_machine(planned, view.disks.as_slice(), machine)),
    }
    found
}

fn old_machine(planned: &PlannedItem, disks: &[DiskName], machine: &MachineView) -> Vec<Problem> {
    let host = &planned.source_host;
    let mut found = Vec::new();
    if machine.power != Power::ShutOff {
        let message = format!("it is not known that {} is off at {host}", machine.name);
        let remedy = "Wait until its old copy is fenced, or look at the host's hypervisor.";
        found.push(Problem::new("OLD_MACHINE_NOT_OFF", check::subject(&planned.item), message, remedy));
    }
    let has = |name: &DiskName| machine.disks.iter().any(|disk| disk.name == *name && disk.replicable);
    let missing: Vec<&str> = disks.iter().filter(|name| !has(name)).map(|name| name.as_str()).collect();
    if !missing.is_empty() {
        let message = format!("{} at {host} has lost its disks {}", machine.name, missing.join(", "));
        let remedy = "Commit the failover, and replicate in reverse.";
        found.push(Problem::new("OLD_DISKS_MISSING", check::subject(&planned.item), message, remedy));
    }
    found
}

pub(super) fn draft(amending: &Amending<'_>) -> (Vec<AmendedItem>, Vec<Step>) {
    let planned = &amending.run.plan.items;
    let subjects: Vec<_> =
        planned.iter().filter_map(|planned| Some((planned, amending.subject(planned)?))).collect();
    let mut steps: Vec<Step> = subjects
        .iter()
        .filter(|(planned, _)| amending.is_defined(planned))
        .map(|(planned, subject)| {
            let work = stop(planned, subject);
            on(amending, subject, "stop", subject.target, planned.generation, work)
                .after(amending.switched(&planned.item))
        })
        .collect();
    let stopped: Vec<_> = steps.iter().map(|step| step.id.clone()).collect();
    for (planned, subject) in &subjects {
        let mut back = way_back(amending, planned, subject);
        if let Some(first) = back.first_mut() {
            first.after = [amending.switched(&planned.item), stopped.clone()].concat();
        }
        steps.extend(back);
        steps.extend(restore_records(amending, subject));
        steps.extend(call_hooks(amending, planned, subject));
    }
    let items = planned.iter().map(|planned| AmendedItem {
        item: planned.item.clone(),
        estimate: None,
        gives_up: amending.gives_up(&planned.item),
        connections: None,
    });
    (items.collect(), steps)
}

fn on(
    amending: &Amending<'_>,
    subject: &Subject<'_>,
    what: &str,
    host: &HostName,
    generation: Generation,
    work: AgentWork,
) -> Step {
    subject.agent(&amending.what(what), host, generation, Phase::RollBack, work)
}

/// From the switch on, each step after the one before. What happens at the target must not keep the machine off.
fn way_back(amending: &Amending<'_>, planned: &PlannedItem, subject: &Subject<'_>) -> Vec<Step> {
    let (source, target) = (subject.source, subject.target);
    let generation = planned.generation.next();
    let step = |what: &str, host, work| on(amending, subject, what, host, generation, work);
    let title = format!("Make {source} the active side of {} again at generation {generation}", planned.item);
    let raise = Internal::RaiseGeneration {
        item: planned.item.clone(),
        generation,
        active: source.clone(),
        standby: target.clone(),
    };
    let machine = MachineRef::Named(planned.machine.clone());
    let discard =
        AgentWork::DiscardPromotion { machine: planned.machine.clone(), generation: planned.generation };
    let steps = vec![
        subject.internal(&amending.what("raise-generation"), title, Phase::RollBack, raise),
        // Its machine is off. A target that dies now must not keep the old side from starting; what builds on it waits.
        step("fence", target, AgentWork::Fence { power_off: true })
            .on_error(error_policy(amending.run.plan.operation, Part::Fence)),
        step("start", source, AgentWork::StartMachine { machine }),
        step("discard", target, discard),
        step("prepare", target, subject.prepare_replica()),
        step("replicate", source, subject.start_replication(target, &subject.target_endpoint))
            .records([Verb::RolledBack]),
    ];
    in_order(steps)
}

/// Clients are led back as soon as there is somebody to answer them (R-NET-12).
fn restore_records(amending: &Amending<'_>, subject: &Subject<'_>) -> Option<Step> {
    let set = amending.run.plan.step(&subject.id("set-records"))?;
    let operation = amending.run.plan.operation;
    let restore = subject.restore_records(&amending.what("restore-records"), Phase::RollBack);
    let started = subject.id(&amending.what("start"));
    Some(restore.on_error(error_policy(operation, Part::Routing)).after([started, set.id.clone()]))
}

/// Those that were called, or may have been, are told where the machine is now. A way back that was withdrawn has told nobody.
fn call_hooks(amending: &Amending<'_>, planned: &PlannedItem, subject: &Subject<'_>) -> Vec<Step> {
    let operation = amending.run.plan.operation;
    let old = amending.view(&planned.item).and_then(|view| view.sides.get(subject.source)?.machine.as_ref());
    let addresses: Vec<_> =
        old.iter().flat_map(|machine| &machine.nics).flat_map(|nic| nic.addresses.clone()).collect();
    let called = amending.run.plan.steps.iter().filter_map(|step| match &step.action {
        Action::Network(NetworkWork::CallHook(change))
            if change.item == planned.item && !change.roll_back =>
        {
            Some((step, change))
        }
        _ => None,
    });
    called
        .map(|(step, change)| {
            let back = TrafficChange {
                step: subject.id(&amending.what(&format!("call-{}", change.hook))),
                roll_back: true,
                from: change.to.clone(),
                to: change.from.clone(),
                generation: planned.generation.next(),
                addresses: ipv4(&addresses),
                ..change.as_ref().clone()
            };
            let started = subject.id(&amending.what("start"));
            let call = subject.call_hook(back, Phase::RollBack).after([started, step.id.clone()]);
            call.on_error(error_policy(operation, Part::Routing))
        })
        .collect()
}

fn in_order(mut steps: Vec<Step>) -> Vec<Step> {
    for index in 1..steps.len() {
        steps[index].after = vec![steps[index - 1].id.clone()];
    }
    steps
}
