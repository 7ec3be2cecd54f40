//! What is put right without a run: hosts that come back with an old idea of who is active, machines that a host's restart left
//! off, leftovers of tests, replication that its source has forgotten or goes on otherwise than its policy says.
//!
//! Takes facts, returns what to ask for; takes no decision that a person has to take. A correction has a stable key, so
//! that the same fact, told again, asks for nothing twice. An open run owns its items: nothing is corrected behind its back.

use std::collections::{BTreeMap, BTreeSet};

use understudy_ids::{
    DiskName, Generation, GroupName, HostName, ItemName, MachineName, NetworkName, PointSeq, RunId,
    UnixMicros, Uuid,
};
use understudy_replication::RetentionPolicy;

use crate::{
    action::{Action, AgentWork, DiskSize, MachineRef, NetworkRef, StartReplication, is_test_network_of},
    conflict::OpenRun,
    group,
    item::ItemState,
    plan::{Operation, PolicyView, Power},
};

/// A protected item as the orchestrator has it on record.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemRecord {
    pub name: ItemName,
    pub state: ItemState,
    pub generation: Generation,
    pub active_host: HostName,
    pub standby_host: HostName,
    pub machine: MachineName,
    /// The disks that are replicated.
    pub disks: Vec<DiskName>,
    /// Of those of them that the machine has.
    pub sizes: Vec<DiskSize>,
    pub policy: PolicyView,
    /// Replication is paused.
    pub paused: bool,
    /// Of the standby host's sink.
    pub peer_endpoint: String,
    /// The consistency group that it belongs to.
    pub group: Option<GroupName>,
}

/// What one host tells. Only hosts that are connected at this moment are to be passed: old facts correct nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct HostFacts {
    pub host: HostName,
    pub boot_id: String,
    /// The boot id under which this host was last found in order; `None` when it is heard for the first time.
    pub settled_boot_id: Option<String>,
    pub machines: Vec<MachineFact>,
    pub items: Vec<ItemFact>,
    pub test_networks: Vec<NetworkName>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct MachineFact {
    pub name: MachineName,
    pub power: Power,
    pub item: Option<ItemName>,
    pub generation: Option<Generation>,
    pub test_run: Option<RunId>,
}

/// What an agent knows of a protected item.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemFact {
    pub item: ItemName,
    pub generation: Generation,
    pub role: Role,
    /// As source: replication is assigned and not stopped.
    pub replicating: bool,
    /// The disks that are replicated; empty where the agent does not say.
    pub disks: Vec<DiskName>,
    /// As source: of the assignment that it follows; `None` where the agent does not say.
    pub revision: Option<String>,
    /// As target: how points are kept; `None` where the agent does not say.
    pub retention: Option<RetentionPolicy>,
    pub latest_point: Option<PointSeq>,
    /// As source: when the host stopped the machine because its activation lease had ended. Not before that is renewed may it run again.
    pub stopped_by_lease: Option<UnixMicros>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    Source,
    Target,
    Fenced,
}

/// One thing to ask of one host.
#[derive(Debug, Clone, PartialEq)]
pub struct Correction {
    /// The same as long as the fact that asks for it is the same.
    pub key: String,
    pub host: HostName,
    pub kind: CorrectionKind,
    /// As it is sent; refers to no run.
    pub action: Action,
    /// What was found and why this puts it right, for the job's title.
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CorrectionKind {
    Fence,
    StartMachine,
    RemoveOrphanTestMachine,
    RemoveOrphanTestNetwork,
    EnsureReplication,
    KeepPoints,
}

/// Everything that is to be put right now, in a stable order.
///
/// A key that was asked for is not to be sent again while it keeps being asked for; once it is not, it may come back.
pub fn corrections(
    items: &[ItemRecord],
    facts: &BTreeMap<HostName, HostFacts>,
    open: &[OpenRun],
) -> Vec<Correction> {
    let mut found = Vec::new();
    for host in facts.values() {
        for item in items {
            let fact = host.items.iter().find(|fact| fact.item == item.name);
            let at = AtHost { item, items, host, fact, open };
            found.extend(at.corrections());
        }
        found.extend(orphans(items, host, open));
    }
    found
}

/// One item at one host.
struct AtHost<'a> {
    item: &'a ItemRecord,
    items: &'a [ItemRecord],
    host: &'a HostFacts,
    fact: Option<&'a ItemFact>,
    open: &'a [OpenRun],
}

impl AtHost<'_> {
    fn corrections(&self) -> Vec<Correction> {
        // A host that knows a higher generation than the record knows better: the record may come from a backup (invariant 4).
        if self.fact.is_some_and(|fact| fact.generation > self.item.generation) {
            return Vec::new();
        }
        [self.fence(), self.start(), self.replicate(), self.keep()].into_iter().flatten().collect()
    }

    fn is_active(&self) -> bool {
        self.host.host == self.item.active_host
    }

    fn is_in_run_of(&self, operations: &[Operation]) -> bool {
        self.open.iter().any(|run| operations.contains(&run.operation) && run.items.contains(&self.item.name))
    }

    fn is_rolled_back(&self) -> bool {
        self.open.iter().any(|run| run.rolls_back && run.items.contains(&self.item.name))
    }

    /// A side that is not the active one and does not know it, or knows it and still runs its copy: a source that its target has told so
    /// ends replication by itself, and no more (R-FO-7). Also while an unplanned failover waits for its commit, whose steps
    /// never speak to the old side; runs that do speak to it fence it themselves, and must not be overtaken.
    fn fence(&self) -> Option<Correction> {
        use Operation::*;
        let fact = self.fact?;
        let ignorant = fact.generation < self.item.generation || fact.role == Role::Source;
        let outdated = ignorant || (fact.role == Role::Fenced && self.runs_here());
        // A failback may wait for days with items that are protected: then nothing of it speaks to anybody.
        let told_by_run = self.is_in_run_of(&[PlannedFailover, ReverseReplicate, Unprotect])
            || self.is_in_run_of(&[Failback]) && self.item.state != ItemState::Protected
            || self.is_rolled_back();
        if self.is_active() || !outdated || told_by_run {
            return None;
        }
        let detail = format!("g{}.seen-g{}", self.item.generation, fact.generation);
        let reason = format!("{} is active at {} by now", self.item.name, self.item.active_host);
        Some(self.correction(CorrectionKind::Fence, &detail, AgentWork::Fence { power_off: true }, reason))
    }

    /// The item's own machine, not one of a test, is known to have power at this host.
    fn runs_here(&self) -> bool {
        let own = |machine: &&MachineFact| {
            machine.item.as_ref() == Some(&self.item.name) && machine.test_run.is_none()
        };
        let mut powers = self.host.machines.iter().filter(own).map(|machine| machine.power);
        powers.any(|power| matches!(power, Power::Running | Power::Paused))
    }

    /// Protected machines never start by themselves after a boot of their host, because the host cannot know whether they may; nor after it
    /// has stopped them because it was not heard.
    fn start(&self) -> Option<Correction> {
        let fact = self.fact?;
        let restarted = self.host.settled_boot_id.as_ref().is_some_and(|boot| *boot != self.host.boot_id);
        let (why, detail) = match fact.stopped_by_lease {
            Some(at) => {
                ("had stopped it while it was cut off", format!("{}.{}", self.host.boot_id, at.get()))
            }
            None if restarted => ("was started anew", self.host.boot_id.clone()),
            None => return None,
        };
        let proven = fact.generation == self.item.generation && fact.role == Role::Source;
        if !self.is_active() || !proven || !runs_in(self.item.state) {
            return None;
        }
        let machine = self.host.machines.iter().find(|machine| machine.name == self.item.machine)?;
        if machine.power != Power::ShutOff {
            return None;
        }
        // Lying in a queue until the host has booted once more, it would start what may be active elsewhere by then.
        let boot_id = self.host.boot_id.clone();
        let work = AgentWork::StartInBoot { machine: MachineRef::Named(machine.name.clone()), boot_id };
        let reason = format!("{} {why}, and {} belongs to it", self.host.host, self.item.name);
        Some(self.correction(CorrectionKind::StartMachine, &detail, work, reason))
    }

    fn replicate(&self) -> Option<Correction> {
        if !self.is_active() || !self.rests_protected() {
            return None;
        }
        let ItemRecord { machine, disks, standby_host, peer_endpoint, policy, paused, .. } = self.item;
        let wanted = StartReplication {
            group: group::membership(self.item, self.items),
            ..policy.assignment(machine, disks, standby_host, peer_endpoint, *paused)
        };
        let revision = wanted.revision();
        let follows = |fact: &ItemFact| fact.revision.as_ref().is_none_or(|told| *told == revision);
        let assigned = |fact: &ItemFact| fact.replicating && self.has_the_disks(fact) && follows(fact);
        if self.fact.is_some_and(assigned) {
            return None;
        }
        let detail = format!("g{}.{}.{}", self.item.generation, self.host.boot_id, &revision[..12]);
        let reason =
            format!("{} is protected, and its host does not replicate it as it should", self.item.name);
        let work = AgentWork::StartReplication(Box::new(wanted));
        Some(self.correction(CorrectionKind::EnsureReplication, &detail, work, reason))
    }

    /// Points are kept by another policy than the item's, or by what that said before (R-REP-4).
    fn keep(&self) -> Option<Correction> {
        let fact = self.fact?;
        let told = fact.retention.as_ref()?;
        let receives = fact.role == Role::Target && fact.generation == self.item.generation;
        let wanted = &self.item.policy.retention;
        if self.is_active() || !receives || !self.rests_protected() || told == wanted {
            return None;
        }
        let work = AgentWork::PrepareReplica { disks: self.item.sizes.clone(), retention: wanted.clone() };
        // What is kept may be told in many words, and keys are short.
        let name = Uuid::new_v5(&Uuid::nil(), format!("{wanted:?}").as_bytes()).simple().to_string();
        let detail = format!("g{}.{}", self.item.generation, &name[..12]);
        let reason = format!("points of {} are kept otherwise than its policy says", self.item.name);
        Some(self.correction(CorrectionKind::KeepPoints, &detail, work, reason))
    }

    /// Replication is meant to go on, and no run has it in hand. That of a failback has not while it waits with items that are protected.
    fn rests_protected(&self) -> bool {
        use Operation::*;
        let held =
            self.is_in_run_of(&[Protect, Unprotect, PlannedFailover, UnplannedFailover, ReverseReplicate]);
        self.item.state == ItemState::Protected && !held
    }

    /// Disks were included or excluded since replication was assigned (R-REP-8).
    fn has_the_disks(&self, fact: &ItemFact) -> bool {
        let (told, wanted): (BTreeSet<_>, BTreeSet<_>) =
            (fact.disks.iter().collect(), self.item.disks.iter().collect());
        told.is_empty() || told == wanted
    }

    fn correction(&self, kind: CorrectionKind, detail: &str, work: AgentWork, reason: String) -> Correction {
        let subject = format!("{}.{detail}", self.item.name);
        correction(&self.host.host, kind, &subject, (&self.item.name, self.item.generation), work, reason)
    }
}

/// States in which the machine is meant to run at the active side and no step of a run has it in hand.
const fn runs_in(state: ItemState) -> bool {
    use ItemState::*;
    matches!(state, InitialReplication | Protected | NotProtected | CommitPending | ReverseReplication)
}

/// What tests left behind: their run has ended, or nobody knows it (R-TF-5).
fn orphans(items: &[ItemRecord], host: &HostFacts, open: &[OpenRun]) -> Vec<Correction> {
    let is_open = |run: &RunId| open.iter().any(|o| o.operation == Operation::TestFailover && o.id == *run);
    let mut found = Vec::new();
    for machine in &host.machines {
        let Some(run) = machine.test_run.filter(|run| !is_open(run)) else { continue };
        let Some(sender) = machine.item.as_ref().and_then(|item| in_name_of(items, host, Some(item))) else {
            continue;
        };
        let work = AgentWork::RemoveTestMachine { machine: MachineRef::Named(machine.name.clone()) };
        let reason = format!("test run {run} has ended and left {}", machine.name);
        let kind = CorrectionKind::RemoveOrphanTestMachine;
        found.push(correction(&host.host, kind, machine.name.as_str(), sender, work, reason));
    }
    for network in &host.test_networks {
        let mut of_open = open.iter().filter(|run| run.operation == Operation::TestFailover);
        let belongs = of_open.any(|run| is_test_network_of(run.id, network));
        // A network goes after the machines on it.
        let mut machines = host.machines.iter().filter_map(|machine| machine.test_run);
        let in_use = machines.any(|run| is_test_network_of(run, network));
        let Some(sender) = in_name_of(items, host, None).filter(|_| !belongs && !in_use) else { continue };
        let work = AgentWork::RemoveTestNetwork { name: NetworkRef::Named(network.clone()) };
        let reason = format!("no test runs that {network} belongs to");
        let kind = CorrectionKind::RemoveOrphanTestNetwork;
        found.push(correction(&host.host, kind, network.as_str(), sender, work, reason));
    }
    found
}

/// Tasks of agents are sent in the name of an item: the machine's own, or for a network any that the host knows, with the generation at which the
/// host takes it. A host that knows no item has had no test.
fn in_name_of<'a>(
    items: &'a [ItemRecord],
    host: &'a HostFacts,
    wanted: Option<&ItemName>,
) -> Option<(&'a ItemName, Generation)> {
    let fits = |name: &ItemName| wanted.is_none_or(|wanted| wanted == name);
    let fact = host.items.iter().find(|fact| fits(&fact.item)).map(|fact| (&fact.item, fact.generation));
    let here = |item: &&ItemRecord| item.active_host == host.host || item.standby_host == host.host;
    let record = items.iter().filter(here).find(|item| fits(&item.name));
    fact.or_else(|| record.map(|item| (&item.name, item.generation)))
}

fn correction(
    host: &HostName,
    kind: CorrectionKind,
    subject: &str,
    (item, generation): (&ItemName, Generation),
    work: AgentWork,
    reason: String,
) -> Correction {
    Correction {
        key: format!("{}.{host}.{subject}", kind.as_str()),
        host: host.clone(),
        kind,
        action: Action::Agent { item: item.clone(), generation, work },
        reason,
    }
}

impl CorrectionKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fence => "fence",
            Self::StartMachine => "start-machine",
            Self::RemoveOrphanTestMachine => "remove-orphan-test-machine",
            Self::RemoveOrphanTestNetwork => "remove-orphan-test-network",
            Self::EnsureReplication => "ensure-replication",
            Self::KeepPoints => "keep-points",
        }
    }
}
