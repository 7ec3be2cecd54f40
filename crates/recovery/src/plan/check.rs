//! Everything that can be wrong with a request, found before any effect and all at once (R-REP-1, R-FO-2).
//!
//! Rules about the request alone come first, then those about each item, its hosts, its points and its machine. Each
//! rule is one short function that returns what it found, so that the list reads as the answer to "when is it refused?".

use std::{collections::BTreeSet, time::Duration};

use understudy_ids::{HostName, ItemName, PointChoice, PointSeq, Problem};

use super::{
    HostView, ItemView, Operation, PlanInput, Power, RunSpec, Synchronise, connect,
    draft::{chosen_point, ends, usable_points, uses_connections},
    order,
    unplanned::{self, Certainty},
};
use crate::{
    action::TEST_SUFFIX_CHARS,
    conflict::conflicts,
    direction,
    item::{self, ItemState},
    test_network::TestNetwork,
};

/// A run is one document; so many items keep it and its job readable and bounded (invariant 14).
pub(crate) const MAX_ITEMS: usize = 200;
const MAX_ASSERTION_BYTES: usize = 4096;
/// A key that is lent for less than this may be gone before the machines are made.
const KEY_NEEDED: Duration = Duration::from_secs(60);
/// The longest name that a machine may have at its hypervisor.
const MAX_MACHINE_NAME: usize = 63;

pub(super) fn problems(spec: &RunSpec, input: &PlanInput) -> Vec<Problem> {
    let mut found = options(spec);
    found.extend(names(spec));
    found.extend(blocking_runs(spec, input));
    for (index, name) in spec.items.iter().enumerate() {
        match input.items.iter().find(|item| item.name == *name) {
            Some(item) => found.extend(ItemCheck::new(spec, input, item).problems()),
            None => found.push(unknown_item(index, name)),
        }
    }
    found.extend(one_direction(spec, input));
    found.extend(scripts(spec, input));
    if uses_connections(spec) {
        found.extend(input.connections.problems.iter().cloned());
    }
    found.extend(connect::problems(spec, input));
    found
}

/// Options that the operation would ignore.
fn options(spec: &RunSpec) -> Vec<Problem> {
    use Operation::*;
    let given: [(&str, bool, &[Operation]); 14] = [
        ("points", !spec.points.is_empty(), &[TestFailover, UnplannedFailover]),
        ("primary_down_assertion", spec.primary_down_assertion.is_some(), &[UnplannedFailover]),
        ("test_network", spec.test_network != TestNetwork::default(), &[TestFailover]),
        ("no_reverse_replication", spec.no_reverse_replication, &[PlannedFailover, Failback]),
        ("promote_test", spec.promote_test.is_some(), &[UnplannedFailover]),
        ("standby_host", spec.standby_host.is_some(), &[ReverseReplicate, Failback]),
        ("synchronise", spec.synchronise != Synchronise::default(), &[Failback]),
        ("allow_partial_subnet", spec.allow_partial_subnet, &[PlannedFailover, UnplannedFailover, Failback]),
        ("delete_replica", spec.delete_replica, &[Unprotect]),
        ("seed", spec.seed.is_some(), &[Protect]),
        ("instant", spec.instant.is_some(), &[TestFailover, UnplannedFailover]),
        ("synchronise_within", spec.synchronise_within.is_some(), &[UnplannedFailover]),
        ("deadline", spec.deadline.is_some(), &[PlannedFailover, UnplannedFailover, Failback]),
        (
            "recovery_plan",
            spec.recovery_plan.is_some(),
            &[TestFailover, PlannedFailover, UnplannedFailover, ReverseReplicate],
        ),
    ];
    let ignored = given.iter().filter(|(_, given, of)| *given && !of.contains(&spec.operation));
    let mut found: Vec<Problem> = ignored
        .map(|(option, ..)| {
            let message = format!("{} does not use this option", spec.operation);
            Problem::new("OPTION_NOT_APPLICABLE", format!("spec.{option}"), message, "Leave it out.")
        })
        .collect();
    let assertion = spec.primary_down_assertion.as_deref();
    if assertion.is_some_and(|text| text.trim().is_empty() || text.len() > MAX_ASSERTION_BYTES) {
        found.push(Problem::new(
            "INVALID_ASSERTION",
            "spec.primary_down_assertion",
            format!("the statement is empty or longer than {MAX_ASSERTION_BYTES} bytes"),
            "Say in a sentence how you know that the primary side is down.",
        ));
    }
    found
}

fn names(spec: &RunSpec) -> Vec<Problem> {
    let mut found = Vec::new();
    if spec.items.is_empty() || spec.items.len() > MAX_ITEMS {
        let message = format!("{} items are named; a run takes 1 to {MAX_ITEMS}", spec.items.len());
        found.push(Problem::new(
            "INVALID_ITEM_COUNT",
            "spec.items",
            message,
            "Name the items to be failed over.",
        ));
    }
    let mut seen = BTreeSet::new();
    let twice = spec.items.iter().filter(|name| !seen.insert(*name));
    found.extend(twice.map(|name| {
        let message = "the item is named more than once";
        Problem::new("DUPLICATE_ITEM", subject(name), message, "Name each item once.")
    }));
    let strangers = spec.points.keys().filter(|name| !spec.items.contains(name));
    found.extend(strangers.map(|name| {
        let message = "a recovery point is chosen for an item that is not part of the run";
        Problem::new(
            "POINT_WITHOUT_ITEM",
            subject(name),
            message,
            "Name the item as well, or drop the point.",
        )
    }));
    found
}

/// Who is to run a script of the plan is there, where its absence would stop the run.
fn scripts(spec: &RunSpec, input: &PlanInput) -> Vec<Problem> {
    let stops = matches!(spec.operation, Operation::TestFailover | Operation::PlannedFailover);
    let Some(plan) = spec.recovery_plan.as_ref().filter(|_| stops) else { return Vec::new() };
    let mut found = Vec::new();
    for (action, script) in order::scripts(spec, input).filter(|(action, _)| !action.may_fail) {
        let (reason, message, remedy) = match input.hosts.get(&script.host) {
            Some(host) if host.connected => continue,
            Some(_) => (
                "HOST_NOT_CONNECTED",
                format!("its agent cannot be heard, and {} of plan {} needs it", action.name, plan.name),
                "Start the agent or repair its connection to the control plane.",
            ),
            None => (
                "HOST_NOT_FOUND",
                format!("the host is not known, and {} of plan {} needs it", action.name, plan.name),
                "Register the host, or name another one in the plan.",
            ),
        };
        found.push(Problem::new(reason, host_subject(&script.host), message, remedy));
    }
    found
}

fn blocking_runs(spec: &RunSpec, input: &PlanInput) -> Vec<Problem> {
    let blocking = conflicts(spec.operation, &spec.items, &input.open_runs);
    blocking.iter().map(crate::conflict::Conflict::problem).collect()
}

fn unknown_item(index: usize, name: &ItemName) -> Problem {
    let message = format!("there is no protected item {name}");
    let remedy = "List the protected items and correct the name.";
    Problem::new("ITEM_NOT_FOUND", format!("spec.items[{index}]"), message, remedy)
}

/// A run goes one way: between the same two sites for all of its items (R-FO-3).
fn one_direction(spec: &RunSpec, input: &PlanInput) -> Option<Problem> {
    use Operation::*;
    if !matches!(spec.operation, TestFailover | PlannedFailover | UnplannedFailover | Failback) {
        return None;
    }
    let named = input.items.iter().filter(|item| spec.items.contains(&item.name));
    let ways: BTreeSet<_> = named
        .map(|item| {
            let (source, target) = ends(spec, item);
            (source.site().clone(), target.site().clone())
        })
        .collect();
    if ways.len() <= 1 {
        return None;
    }
    let ways: Vec<String> = ways.iter().map(|(from, to)| format!("{from} to {to}")).collect();
    let message = format!("the items go different ways: {}", ways.join(", "));
    Some(Problem::new("MIXED_DIRECTIONS", "spec.items", message, "Start one run for each direction."))
}

pub(crate) fn subject(name: &ItemName) -> String {
    format!("protectedItems/{name}")
}

/// What stands against making the machine from the point that `spec` chooses, at a host that has the item's points.
pub(super) fn of_point(
    spec: &RunSpec,
    input: &PlanInput,
    item: &ItemView,
    source: &HostName,
    target: &HostName,
) -> Vec<Problem> {
    let check = ItemCheck { spec, input, item, source, target };
    check.points().into_iter().chain(check.key()).collect()
}

pub(super) fn host_subject(host: &HostName) -> String {
    format!("sites/{}/hosts/{}", host.site(), host.host())
}

/// The rules about one item.
struct ItemCheck<'a> {
    spec: &'a RunSpec,
    input: &'a PlanInput,
    item: &'a ItemView,
    source: &'a HostName,
    target: &'a HostName,
}

impl<'a> ItemCheck<'a> {
    fn new(spec: &'a RunSpec, input: &'a PlanInput, item: &'a ItemView) -> Self {
        let (source, target) = ends(spec, item);
        Self { spec, input, item, source, target }
    }

    fn problems(&self) -> Vec<Problem> {
        let mut found: Vec<Problem> = self.state().into_iter().collect();
        found.extend(self.other_standby());
        found.extend(self.hosts());
        found.extend(self.direction());
        found.extend(self.points());
        found.extend(self.key());
        found.extend(self.pause());
        found.extend(self.primary_down());
        found.extend(self.machine_state());
        found.extend(self.disks());
        found.extend(self.seed());
        found.extend(self.encrypted_copy());
        found.extend(self.space());
        found.extend(self.machine_names());
        found
    }

    fn problem(&self, reason: &str, message: impl Into<String>, remedy: impl Into<String>) -> Problem {
        Problem::new(reason, subject(&self.item.name), message, remedy)
    }

    fn is(&self, operations: &[Operation]) -> bool {
        operations.contains(&self.spec.operation)
    }

    fn host(&self, name: &HostName) -> Option<&'a HostView> {
        self.input.hosts.get(name)
    }

    fn state(&self) -> Option<Problem> {
        let state = self.item.state;
        let fits = match self.spec.verb() {
            Some(verb) => item::next(state, verb).is_ok(),
            None => state == ItemState::InitialReplication,
        };
        if fits {
            return None;
        }
        let allowed: Vec<&str> = item::allowed_actions(state).into_iter().map(item::Verb::as_str).collect();
        let remedy = match allowed.as_slice() {
            [] => "Wait for its run to end, or retry or cancel that.".to_owned(),
            some => format!("Allowed now: {}.", some.join(", ")),
        };
        let asked = self.spec.verb().map_or(self.spec.operation.as_str(), item::Verb::as_str);
        let message = format!("the item is {state}, which does not allow {asked}");
        Some(self.problem("WRONG_ITEM_STATE", message, remedy))
    }

    /// An item that is protected has its standby side already (R-FB-3).
    fn other_standby(&self) -> Option<Problem> {
        let standby = &self.item.standby_host;
        let protected = self.is(&[Operation::Failback]) && self.item.state == ItemState::Protected;
        if !protected || self.target == standby {
            return None;
        }
        let message = format!("it is protected towards {standby}, not {}", self.target);
        let remedy = format!("Leave the host out, which goes to {standby}; or name that one.");
        Some(self.problem("OTHER_STANDBY_HOST", message, remedy))
    }

    /// Every side that the operation has to talk to is there.
    fn hosts(&self) -> Vec<Problem> {
        use Operation::*;
        let mut needed: Vec<&HostName> = match self.spec.operation {
            Protect | PlannedFailover | ReverseReplicate | Failback => vec![self.source, self.target],
            TestFailover | UnplannedFailover => vec![self.target],
            Unprotect if self.spec.delete_replica => vec![self.source, self.target],
            Unprotect => vec![self.source],
        };
        needed.dedup();
        let mut found = Vec::new();
        if self.source == self.target {
            let message = format!("{} would be both sides of the item", self.source);
            found.push(self.problem("SAME_HOST", message, "Choose another host as the target."));
        }
        for host in needed {
            match self.host(host) {
                None => found.push(Problem::new(
                    "HOST_NOT_FOUND",
                    host_subject(host),
                    format!(
                        "the host is not known, and {} of {} needs it",
                        self.spec.operation, self.item.name
                    ),
                    "Register the host first.",
                )),
                Some(view) if !view.connected => found.push(Problem::new(
                    "HOST_NOT_CONNECTED",
                    host_subject(host),
                    format!(
                        "its agent cannot be heard, and {} of {} needs it",
                        self.spec.operation, self.item.name
                    ),
                    "Start the agent or repair its connection to the control plane.",
                )),
                Some(_) => {}
            }
        }
        found
    }

    fn direction(&self) -> Option<Problem> {
        let (source, target) = (self.host(self.source)?, self.host(self.target)?);
        let refusal = direction::check(self.spec.operation, source.site_kind, target.site_kind).err()?;
        let remedy = "See the table of directions for what is possible between these kinds of site.";
        Some(self.problem("DIRECTION_NOT_SUPPORTED", refusal.to_string(), remedy))
    }

    /// A failback of what is not protected makes its points itself.
    fn uses_points(&self) -> bool {
        use Operation::*;
        self.is(&[TestFailover, PlannedFailover, UnplannedFailover])
            || self.is(&[Failback]) && self.item.state == ItemState::Protected
    }

    /// What is failed over to exists, whole (R-TF-1, R-UF-3), and initial replication is complete (R-PF-1).
    fn points(&self) -> Option<Problem> {
        if !self.uses_points() || chosen_point(self.spec, self.item, self.target).is_some() {
            return None;
        }
        let target = self.target;
        Some(match self.spec.points.get(&self.item.name) {
            None if self.damaged_points() > 0 => {
                let damaged = self.damaged_points();
                let message = format!("all {damaged} recovery points of it at {target} are damaged");
                let remedy =
                    "Leave replication on: its next cycle ships what is damaged and makes a whole point.";
                self.problem("POINT_DAMAGED", message, remedy)
            }
            None => {
                let message = format!("{target} has no whole recovery point of it yet");
                self.problem("NO_RECOVERY_POINT", message, "Wait until its first replication is complete.")
            }
            Some(PointChoice::Seq(seq)) => {
                if let Some(damaged) = self.damaged(*seq) {
                    return Some(damaged);
                }
                let message = format!("{target} has no recovery point {seq} that can be failed over to");
                let remedy =
                    "List the item's recovery points and choose one of them, or none for the latest.";
                self.problem("POINT_NOT_FOUND", message, remedy)
            }
            Some(PointChoice::LatestAppConsistent) => {
                let message = format!("{target} has no app-consistent recovery point of it");
                let remedy = "List the item's recovery points and choose one of them, or none for the latest; \
                              its health says why the guest was not brought to rest.";
                self.problem("NO_APP_CONSISTENT_POINT", message, remedy)
            }
        })
    }

    /// An encrypted point can be opened at the target, now and for as long as the run needs until its machine is defined (R-REP-10).
    fn key(&self) -> Option<Problem> {
        if !self.uses_points() {
            return None;
        }
        let point = chosen_point(self.spec, self.item, self.target)?;
        let needed = self.input.now.plus(KEY_NEEDED);
        let problem = |reason: &str, message: String| {
            let remedy = format!(
                "Unlock it with a recipient's private key: --decryption-key, or understudy item unlock {}.",
                self.item.name
            );
            Some(self.problem(reason, message, remedy))
        };
        match (point.encrypted, point.unlocked_until) {
            (false, _) => None,
            (true, Some(until)) if until >= needed => None,
            (true, Some(_)) => problem(
                "KEY_EXPIRED",
                format!("{} has the key of point {} for too short a time", self.target, point.seq),
            ),
            (true, None) => problem(
                "KEY_MISSING",
                format!("point {} is encrypted, and {} does not have its key", point.seq, self.target),
            ),
        }
    }

    fn damaged_points(&self) -> usize {
        self.item.points.iter().filter(|p| p.host == *self.target && p.damaged_blocks > 0).count()
    }

    /// A point that was chosen and that a scrub has found damaged, with the next older one that is whole (R-REP-5).
    fn damaged(&self, seq: PointSeq) -> Option<Problem> {
        let point = self.item.points.iter().find(|p| p.host == *self.target && p.seq == seq)?;
        if point.damaged_blocks == 0 {
            return None;
        }
        let message = format!(
            "recovery point {seq} at {} is damaged: {} blocks are not what their digests say",
            self.target, point.damaged_blocks
        );
        let older = usable_points(self.item, self.target).into_iter().rfind(|p| p.seq < seq);
        let remedy = match older {
            Some(older) => {
                format!("Choose point {}, the next older one, or none for the latest whole one.", older.seq)
            }
            None => "Choose no point for the latest whole one.".to_owned(),
        };
        Some(self.problem("POINT_DAMAGED", message, remedy))
    }

    /// The last delta of an item that sends nothing would not come. Whoever fails over without it says so with an unplanned failover.
    fn pause(&self) -> Option<Problem> {
        if !self.item.paused || !self.is(&[Operation::PlannedFailover, Operation::Failback]) {
            return None;
        }
        let remedy = format!("Resume it first: understudy item resume {}.", self.item.name);
        Some(self.problem("REPLICATION_PAUSED", "replication of the item is paused", remedy))
    }

    /// Nobody may take silence for *off* (invariant 16): either it is known, or a person says so on record, or its activation lease ends.
    fn primary_down(&self) -> Option<Problem> {
        if !self.is(&[Operation::UnplannedFailover])
            || unplanned::certainty(self.spec, self.input, self.item) != Certainty::None
        {
            return None;
        }
        let message = format!("it is not known that {} is off at {}", self.item.machine.name, self.source);
        let remedy = "Make sure that the primary side is down and stays so, and state that with the request. With an activation lease in its policy a machine that is cut off stops by itself.";
        Some(self.problem("PRIMARY_DOWN_ASSERTION_REQUIRED", message, remedy))
    }

    fn machine_state(&self) -> Option<Problem> {
        let power = self.item.machine.power;
        let known = matches!(power, Power::Running | Power::ShutOff);
        if !self.is(&[Operation::PlannedFailover, Operation::Failback]) || known {
            return None;
        }
        let message = match power {
            Power::Paused => "the machine is paused and cannot shut down".to_owned(),
            _ => "it is not known whether the machine runs".to_owned(),
        };
        Some(self.problem("MACHINE_STATE_UNSUITABLE", message, "Resume it, or repair its host's agent."))
    }

    fn disks(&self) -> Vec<Problem> {
        if !self.is(&[Operation::Protect]) {
            return Vec::new();
        }
        let mut found = Vec::new();
        if self.item.disks.is_empty() {
            let remedy = "Leave at least one disk in.";
            found.push(self.problem("NO_DISKS", "no disk of the machine would be replicated", remedy));
        }
        for name in &self.item.disks {
            match self.item.machine.disks.iter().find(|disk| disk.name == *name) {
                Some(disk) if disk.replicable => {}
                Some(_) => {
                    let message = format!("disk {name} is not a file and cannot be replicated");
                    found.push(self.problem(
                        "DISK_NOT_REPLICABLE",
                        message,
                        "Exclude the disk, or move it to a file.",
                    ));
                }
                None => {
                    let message = format!("the machine has no disk {name}");
                    found.push(self.problem("DISK_NOT_FOUND", message, "List the machine's disks."));
                }
            }
        }
        found
    }

    /// What is on a medium is in clear, and what an encrypted replica is made of is not (R-REP-10).
    fn seed(&self) -> Option<Problem> {
        self.spec.seed.as_ref()?;
        if self.item.policy.settings.encrypt_for.is_empty() {
            return None;
        }
        let message = format!(
            "policy {} encrypts replicas, and a first copy on a medium is not encrypted",
            self.item.policy.name
        );
        let remedy = "Leave the medium out, or choose a policy without encryption.";
        Some(self.problem("SEED_NOT_ENCRYPTED", message, remedy))
    }

    /// A machine that is made from an encrypted point needs its key, which nobody can lend before there is one (R-REP-10).
    fn encrypted_copy(&self) -> Option<Problem> {
        if !self.spec.copies_while_off() || self.item.policy.settings.encrypt_for.is_empty() {
            return None;
        }
        let message = format!(
            "policy {} encrypts replicas, and no key can be lent before the copy is there",
            self.item.policy.name
        );
        let remedy =
            "Synchronise before the failover; the run waits then, and the key is lent when it is completed.";
        Some(self.problem("COPY_ENCRYPTED", message, remedy))
    }

    /// The first copy fits, even when every block of it is used. A side that has disks of the item is sent what differs.
    fn space(&self) -> Option<Problem> {
        let copied = match self.spec.operation {
            Operation::Protect => true,
            Operation::Failback if self.spec.copies_while_off() => true,
            Operation::ReverseReplicate | Operation::Failback => {
                *self.target != self.item.standby_host && !self.item.sides.contains_key(self.target)
            }
            _ => false,
        };
        let target = self.host(self.target).filter(|host| host.connected)?;
        let replicated = self.item.machine.disks.iter().filter(|disk| self.item.disks.contains(&disk.name));
        let needed = replicated.fold(0u64, |sum, disk| sum.saturating_add(disk.size_bytes));
        if !copied || needed <= target.store_free_bytes {
            return None;
        }
        let message = format!(
            "{} has {} bytes free for replicas, the disks have {needed}",
            self.target, target.store_free_bytes
        );
        Some(self.problem(
            "NOT_ENOUGH_SPACE",
            message,
            "Free space there, exclude disks or choose another host.",
        ))
    }

    /// The names that machines will have at the target are free there, and fit.
    fn machine_names(&self) -> Option<Problem> {
        use Operation::*;
        let machine = &self.item.machine.name;
        if self.is(&[TestFailover]) && machine.as_str().len() + TEST_SUFFIX_CHARS > MAX_MACHINE_NAME {
            let message = format!("{machine} is too long to be part of a test machine's name");
            let remedy = format!(
                "Give the machine a name of at most {} characters.",
                MAX_MACHINE_NAME - TEST_SUFFIX_CHARS
            );
            return Some(self.problem("NAME_TOO_LONG", message, remedy));
        }
        if !self.is(&[Protect, PlannedFailover, UnplannedFailover, ReverseReplicate, Failback]) {
            return None;
        }
        let owner = self.host(self.target)?.machines.get(machine)?;
        if owner.as_ref() == Some(&self.item.name) {
            return None;
        }
        let message = format!("{} has another machine called {machine}", self.target);
        Some(self.problem("NAME_IN_USE", message, "Rename one of the two."))
    }
}
