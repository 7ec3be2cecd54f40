//! What reconciliation asks for, and what it leaves alone.

use std::collections::BTreeMap;

use crate::world::{NOW, RUN, alpha, bravo, input, item};
use understudy_ids::{Generation, RunId};
use understudy_recovery::{
    Operation,
    action::{Action, AgentWork, DiskSize, MachineRef, StartReplication, test_network_name},
    conflict::OpenRun,
    item::ItemState,
    plan::Power,
    reconcile::{
        Correction, CorrectionKind, HostFacts, ItemFact, ItemRecord, MachineFact, Role, corrections,
    },
};
use understudy_replication::Membership;

/// web1 after an unplanned failover to bravo, and both hosts in order.
struct Scene {
    record: ItemRecord,
    alpha: HostFacts,
    bravo: HostFacts,
    open: Vec<OpenRun>,
}

fn scene() -> Scene {
    let fact = |role, replicating| ItemFact {
        item: item("web1"),
        generation: Generation::new(2),
        role,
        replicating,
        disks: Vec::new(),
        revision: None,
        retention: None,
        latest_point: None,
        stopped_by_lease: None,
    };
    let facts = |host, machines, fact| HostFacts {
        host,
        boot_id: "boot-1".to_owned(),
        settled_boot_id: Some("boot-1".to_owned()),
        machines,
        items: vec![fact],
        test_networks: Vec::new(),
    };
    let machine = MachineFact {
        name: "web1".parse().unwrap(),
        power: Power::Running,
        item: Some(item("web1")),
        generation: Some(Generation::new(2)),
        test_run: None,
    };
    Scene {
        record: ItemRecord {
            name: item("web1"),
            state: ItemState::Protected,
            generation: Generation::new(2),
            active_host: bravo(),
            standby_host: alpha(),
            machine: "web1".parse().unwrap(),
            disks: vec!["vda".parse().unwrap()],
            sizes: vec![DiskSize { name: "vda".parse().unwrap(), size_bytes: 1 << 30 }],
            policy: input(Operation::Protect).items[0].policy.clone(),
            paused: false,
            peer_endpoint: "https://10.0.0.1:7443".to_owned(),
            group: None,
        },
        alpha: facts(alpha(), Vec::new(), fact(Role::Target, false)),
        bravo: facts(bravo(), vec![machine], fact(Role::Source, true)),
        open: Vec::new(),
    }
}

impl Scene {
    fn corrections(&self) -> Vec<Correction> {
        let facts = [self.alpha.clone(), self.bravo.clone()].map(|facts| (facts.host.clone(), facts));
        corrections(std::slice::from_ref(&self.record), &BTreeMap::from(facts), &self.open)
    }

    fn kinds(&self) -> Vec<CorrectionKind> {
        self.corrections().iter().map(|correction| correction.kind).collect()
    }

    fn open(&mut self, operation: Operation) {
        self.open = vec![OpenRun {
            id: RUN,
            operation,
            items: vec![item("web1")],
            rolls_back: false,
            rehearsed: BTreeMap::new(),
        }];
    }
}

#[test]
fn what_is_in_order_is_left_alone() {
    assert_eq!(scene().kinds(), []);
}

/// R-FO-7: the old side comes back with an old generation, or with the idea that it is the source.
#[test]
fn a_side_that_does_not_know_its_place_is_told_at_the_present_generation() {
    for (generation, role) in [(1, Role::Source), (1, Role::Target), (1, Role::Fenced), (2, Role::Source)] {
        let mut scene = scene();
        scene.record.state = ItemState::NotProtected;
        (scene.alpha.items[0].generation, scene.alpha.items[0].role) = (Generation::new(generation), role);
        let found = scene.corrections();
        assert_eq!(found.len(), 1, "{generation} {role:?}");
        assert_eq!((found[0].kind, &found[0].host), (CorrectionKind::Fence, &alpha()));
        let work = AgentWork::Fence { power_off: true };
        let expected = Action::Agent { item: item("web1"), generation: Generation::new(2), work };
        assert_eq!(found[0].action, expected);
        assert_eq!(scene.corrections()[0].key, found[0].key, "the same fact asks under the same key");
    }
}

/// R-FO-7, invariant 1: a source that its target told of a higher generation has fenced itself, and its machine runs on.
#[test]
fn a_side_that_is_fenced_and_still_runs_its_copy_is_told_to_power_it_off() {
    for (power, asks) in [
        (Power::Running, true),
        (Power::Paused, true),
        (Power::ShutOff, false),
        // Nobody knows, so nothing is done about it (invariant 16).
        (Power::Unknown, false),
    ] {
        let mut scene = scene();
        scene.record.state = ItemState::CommitPending;
        scene.open(Operation::UnplannedFailover);
        scene.alpha.items[0].role = Role::Fenced;
        scene.alpha.machines = vec![MachineFact { power, ..scene.bravo.machines[0].clone() }];
        let fences = if asks { vec![CorrectionKind::Fence] } else { Vec::new() };
        assert_eq!(scene.kinds(), fences, "{power:?}");
        // A test's machine is nobody's old copy.
        scene.alpha.machines[0].test_run = Some(RUN);
        assert!(!scene.kinds().contains(&CorrectionKind::Fence));
    }
}

/// Steps of these runs tell the old side its place themselves; only an unplanned failover never speaks to it.
#[test]
fn a_fence_overtakes_no_run_that_speaks_to_the_old_side() {
    for (operation, asks) in [
        (Operation::UnplannedFailover, true),
        (Operation::TestFailover, true),
        (Operation::PlannedFailover, false),
        (Operation::ReverseReplicate, false),
        (Operation::Failback, false),
        (Operation::Unprotect, false),
    ] {
        let mut scene = scene();
        scene.record.state = ItemState::CommitPending;
        scene.alpha.items[0].generation = Generation::FIRST;
        scene.open(operation);
        assert_eq!(!scene.kinds().is_empty(), asks, "{operation}");
    }
}

/// R-FB-2: a failback may wait for days. Meanwhile its items are looked after like any that are protected: their copies stay current, and a host that
/// returns is told its place.
#[test]
fn what_waits_to_be_completed_is_looked_after() {
    let mut scene = scene();
    scene.open(Operation::Failback);
    scene.alpha.items[0].generation = Generation::FIRST;
    scene.bravo.items[0].replicating = false;
    for (state, kinds) in [
        (ItemState::Protected, vec![CorrectionKind::Fence, CorrectionKind::EnsureReplication]),
        (ItemState::ReverseReplication, vec![]),
        (ItemState::PlannedFailover, vec![]),
    ] {
        scene.record.state = state;
        let mut found = scene.kinds();
        found.sort_unstable();
        assert_eq!(found, kinds, "{state}");
    }
}

/// Invariant 4: a record that is older than what a host knows (restored from a backup) corrects nothing.
#[test]
fn a_host_that_knows_a_higher_generation_is_left_alone() {
    let mut scene = scene();
    scene.alpha.items[0] =
        ItemFact { generation: Generation::new(3), role: Role::Source, ..scene.alpha.items[0].clone() };
    scene.bravo.items[0].generation = Generation::new(3);
    scene.bravo.items[0].replicating = false;
    assert_eq!(scene.kinds(), []);
}

#[test]
fn a_machine_that_its_hosts_restart_left_off_is_started_where_it_may_run() {
    let restarted = || {
        let mut scene = scene();
        scene.bravo.boot_id = "boot-2".to_owned();
        scene.bravo.machines[0].power = Power::ShutOff;
        scene
    };
    use ItemState::*;
    for state in ItemState::ALL {
        let mut scene = restarted();
        scene.record.state = state;
        let runs =
            [InitialReplication, Protected, NotProtected, CommitPending, ReverseReplication].contains(&state);
        assert_eq!(scene.kinds().contains(&CorrectionKind::StartMachine), runs, "{state}");
    }
    let found = restarted().corrections();
    assert_eq!(found[0].key, "start-machine.bravo/bravo-h1.web1.boot-2");

    let not = |change: &dyn Fn(&mut Scene)| {
        let mut scene = restarted();
        change(&mut scene);
        assert!(!scene.kinds().contains(&CorrectionKind::StartMachine));
    };
    not(&|scene| scene.bravo.boot_id = "boot-1".to_owned());
    not(&|scene| scene.bravo.settled_boot_id = None);
    not(&|scene| scene.bravo.machines[0].power = Power::Unknown);
    not(&|scene| scene.bravo.items[0].generation = Generation::FIRST);
    not(&|scene| scene.bravo.items[0].role = Role::Fenced);
    not(&|scene| (scene.record.active_host, scene.record.standby_host) = (alpha(), bravo()));
}

/// R-TF-5, invariant 6
#[test]
fn what_a_test_left_behind_is_removed_machines_first() {
    let network = test_network_name(RUN, 0);
    let mut scene = scene();
    scene.bravo.test_networks = vec![network.clone()];
    scene.bravo.machines.push(MachineFact {
        name: "web1-test-0a1b2c3d".parse().unwrap(),
        test_run: Some(RUN),
        ..scene.bravo.machines[0].clone()
    });
    scene.open(Operation::TestFailover);
    assert_eq!(scene.kinds(), [], "its test runs");

    scene.open = vec![OpenRun {
        id: RunId::from_u128(9),
        operation: Operation::TestFailover,
        items: vec![item("web1")],
        rolls_back: false,
        rehearsed: BTreeMap::new(),
    }];
    assert_eq!(scene.kinds(), [CorrectionKind::RemoveOrphanTestMachine], "another test is none of theirs");
    scene.bravo.machines.pop();
    let found = scene.corrections();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].kind, CorrectionKind::RemoveOrphanTestNetwork);
    assert_eq!(found[0].key, format!("remove-orphan-test-network.bravo/bravo-h1.{network}"));
}

/// Invariant 13: a source that forgot its replication is told again, unless a run has it in hand.
#[test]
fn replication_that_its_source_forgot_is_assigned_again() {
    let mut scene = scene();
    scene.bravo.items[0].replicating = false;
    let found = scene.corrections();
    assert_eq!(found.len(), 1);
    let Action::Agent { work: AgentWork::StartReplication(asked), .. } = &found[0].action else {
        panic!("{found:?}")
    };
    assert_eq!((&asked.peer_host, asked.peer_endpoint.as_str()), (&alpha(), "https://10.0.0.1:7443"));
    scene.bravo.items.clear();
    assert_eq!(scene.kinds(), [CorrectionKind::EnsureReplication], "nothing is known of it there");

    scene.open(Operation::TestFailover);
    assert_eq!(
        scene.kinds(),
        [CorrectionKind::EnsureReplication],
        "a test changes nothing about replication"
    );
    scene.open(Operation::Unprotect);
    assert_eq!(scene.kinds(), []);
    scene.open.clear();
    scene.record.state = ItemState::NotProtected;
    assert_eq!(scene.kinds(), []);
}

/// R-REP-8: what the source follows is compared by its revision; a changed policy or a pause is told to it, once for each change.
#[test]
fn a_source_that_follows_something_else_is_told_what_to_follow() {
    let asked = |scene: &Scene| -> Option<(String, StartReplication)> {
        let found = scene.corrections().pop()?;
        let Action::Agent { work: AgentWork::StartReplication(asked), .. } = found.action else {
            panic!("{:?}", found.kind)
        };
        Some((found.key, *asked))
    };
    let mut scene = scene();
    scene.bravo.items[0].revision = Some(String::new());
    let (_, first) = asked(&scene).unwrap();
    scene.bravo.items[0].revision = Some(first.revision());
    assert_eq!(asked(&scene), None);
    let mut keys = Vec::new();
    let mut told = |scene: &mut Scene, change: &dyn Fn(&mut ItemRecord)| {
        change(&mut scene.record);
        let (key, asked) = asked(scene).unwrap();
        scene.bravo.items[0].revision = Some(asked.revision());
        assert_eq!(scene.kinds(), []);
        keys.push(key);
        asked
    };
    let interval = told(&mut scene, &|record| record.policy.interval *= 2);
    assert_eq!(interval.interval, first.interval * 2);
    let objective = told(&mut scene, &|record| record.policy.rpo_objective *= 2);
    assert_eq!(objective.rpo_objective, first.rpo_objective.map(|o| o * 2));
    told(&mut scene, &|record| record.policy.settings = Default::default());
    told(&mut scene, &|record| record.policy.name = "silver".parse().unwrap());
    assert!(told(&mut scene, &|record| record.paused = true).paused);
    assert!(!told(&mut scene, &|record| record.paused = false).paused);
    keys.sort();
    // Back to what was before the pause.
    keys.dedup();
    assert_eq!(keys.len(), 5, "{keys:?}");
    // Only what the order of the disks is named in differs.
    scene.record.disks = vec!["vdb".parse().unwrap(), "vda".parse().unwrap()];
    let (_, two) = asked(&scene).unwrap();
    scene.record.disks.reverse();
    assert_eq!(asked(&scene).unwrap().1.revision(), two.revision());
}

/// R-REP-12: who shares an item's instants are the items of its group that are protected from the same host at that moment; all of them are told
/// when that changes.
#[test]
fn items_of_a_group_are_told_with_whom_they_share_their_instants() {
    let scene = scene();
    let facts = BTreeMap::from([(scene.bravo.host.clone(), scene.bravo.clone())]);
    let group = Some("shop".parse().unwrap());
    let record = |name: &str| ItemRecord { name: item(name), group: group.clone(), ..scene.record.clone() };
    let members = |items: &[ItemRecord]| -> BTreeMap<String, Option<String>> {
        let asked = corrections(items, &facts, &[]).into_iter().filter_map(|found| match found.action {
            Action::Agent { item, work: AgentWork::StartReplication(asked), .. } => Some((item, asked)),
            _ => None,
        });
        let names = |members: Membership| {
            members.members.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        asked.map(|(item, asked)| (item.to_string(), asked.group.map(names))).collect()
    };
    let told = |pairs: &[(&str, Option<&str>)]| -> BTreeMap<String, Option<String>> {
        pairs.iter().map(|(item, with)| ((*item).to_owned(), with.map(str::to_owned))).collect()
    };
    let mut items = [record("db1"), record("db2"), record("db3")];
    let all = Some("db1 db2 db3");
    assert_eq!(members(&items), told(&[("db1", all), ("db2", all), ("db3", all)]));
    items[0].state = ItemState::PlannedFailover;
    assert_eq!(members(&items), told(&[("db2", Some("db2 db3")), ("db3", Some("db2 db3"))]));
    items[0].state = ItemState::Protected;
    (items[0].active_host, items[0].standby_host) = (alpha(), bravo());
    assert_eq!(members(&items), told(&[("db2", Some("db2 db3")), ("db3", Some("db2 db3"))]));
    items[2].group = None;
    assert_eq!(members(&items), told(&[("db2", Some("db2")), ("db3", None)]));
}

/// R-REP-4: retention works at the target, and only there it is told.
#[test]
fn a_target_that_keeps_points_otherwise_is_told_how_to_keep_them() {
    let mut scene = scene();
    let old = scene.record.policy.retention.clone();
    scene.alpha.items[0].retention = Some(old.clone());
    assert_eq!(scene.kinds(), []);
    scene.record.policy.retention.keep_count = Some(2);
    let found = scene.corrections();
    assert_eq!((found[0].kind, &found[0].host), (CorrectionKind::KeepPoints, &alpha()));
    let Action::Agent { work: AgentWork::PrepareReplica { disks, retention }, .. } = &found[0].action else {
        panic!("{found:?}")
    };
    assert_eq!((disks, retention), (&scene.record.sizes, &scene.record.policy.retention));
    scene.open(Operation::ReverseReplicate);
    assert_eq!(scene.kinds(), [], "the run tells it");
    scene.open(Operation::TestFailover);
    assert_eq!(scene.kinds(), [CorrectionKind::KeepPoints]);
    scene.alpha.items[0].retention = None;
    assert_eq!(scene.kinds(), [], "an agent that does not say is left alone");
    scene.alpha.items[0].retention = Some(scene.record.policy.retention.clone());
    assert_eq!(scene.kinds(), []);
}

/// R-FO-7: a host that was cut off has stopped its machine; it runs again when the host may, which is when it has its lease, and once.
#[test]
fn a_machine_that_was_stopped_because_its_lease_had_ended_is_started_again() {
    let stopped = |at| {
        let mut scene = scene();
        scene.bravo.machines[0].power = Power::ShutOff;
        scene.bravo.items[0].stopped_by_lease = at;
        scene
    };
    let at = Some(NOW);
    assert_eq!(stopped(None).kinds(), [], "somebody has shut it down");
    let found = stopped(at).corrections();
    let machine = MachineRef::Named("web1".parse().unwrap());
    let start = AgentWork::StartInBoot { machine, boot_id: "boot-1".to_owned() };
    assert_eq!(found.len(), 1);
    assert_eq!(
        found[0].action,
        Action::Agent { item: item("web1"), generation: Generation::new(2), work: start }
    );
    assert_eq!(stopped(at).corrections()[0].key, found[0].key);
    let again = stopped(Some(NOW.plus(std::time::Duration::from_secs(1)))).corrections();
    assert_ne!(again[0].key, found[0].key, "another time is another correction");
    type Change = fn(&mut Scene);
    let cases: [(&str, Change); 5] = [
        ("it runs already", |scene| scene.bravo.machines[0].power = Power::Running),
        ("nobody knows whether it runs", |scene| scene.bravo.machines[0].power = Power::Unknown),
        ("it is active elsewhere", |scene| scene.record.active_host = alpha()),
        ("it is being failed over", |scene| scene.record.state = ItemState::UnplannedFailover),
        ("the host has seen another generation", |scene| {
            scene.bravo.items[0].generation = Generation::new(1)
        }),
    ];
    for (why, change) in cases {
        let mut scene = stopped(at);
        change(&mut scene);
        assert!(!scene.kinds().contains(&CorrectionKind::StartMachine), "{why}");
    }
}
