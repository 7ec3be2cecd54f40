//! Failback as one run (R-FB): copied while the machines run or when they are off, completed, cancelled at any moment.

use understudy_ids::{Problem, RunId};
use understudy_recovery::{
    Event, ItemState, Operation, PlanInput, RunSpec,
    conflict::OpenRun,
    plan::{Change, ChangeKind, Power, Synchronise, amend, plan},
    run::{self, RunState, RunVerb},
};

use crate::{
    runs::theatre_of,
    theatre::{Act, Theatre},
    world::{alpha, bravo, elsewhere, input, item, spec},
};

const FAILBACK: Operation = Operation::Failback;

fn way(synchronise: Synchronise) -> RunSpec {
    RunSpec { synchronise, ..spec(FAILBACK) }
}

/// With whole copies, waiting to be completed.
fn copied() -> Theatre {
    let mut theatre = theatre_of(way(Synchronise::Before));
    theatre.until_quiet();
    theatre
}

fn position(theatre: &Theatre, step: &str) -> usize {
    let found = theatre.done.iter().position(|done| done.as_str() == step);
    found.unwrap_or_else(|| panic!("{step} was not done: {:?}", theatre.done))
}

fn did(theatre: &Theatre, what: &str) -> bool {
    theatre.done.iter().any(|done| done.as_str() == what)
}

fn runs_at(theatre: &Theatre, host: &understudy_ids::HostName) -> bool {
    theatre.records.keys().all(|name| theatre.hosts[host].running.contains(&name.as_str().parse().unwrap()))
}

/// R-FB-1, R-FB-2, R-FB-5: copied while the machine runs, kept current while somebody makes up his mind, and a planned failover from then on.
#[test]
fn the_copy_is_made_while_the_machines_run_and_somebody_completes_it() {
    let mut theatre = copied();
    assert_eq!(run::state(&theatre.run), RunState::Waiting);
    assert_eq!(run::allowed_actions(&theatre.run), [RunVerb::CompleteFailover, RunVerb::Cancel]);
    assert!(
        run::waiting_for(&theatre.run).contains("complete the failover"),
        "{}",
        run::waiting_for(&theatre.run)
    );
    assert!(runs_at(&theatre, &bravo()) && !did(&theatre, "web1.shut-down"));
    assert!(
        did(&theatre, "web1.copy-adopt-disks"),
        "old disks are compared, and only what differs is shipped"
    );
    for record in theatre.records.values() {
        assert_eq!((record.state, &record.active, record.held), (ItemState::Protected, &bravo(), true));
    }
    theatre.tick(3 * 24 * 3600);
    theatre.ask(RunVerb::CompleteFailover);
    let state = |theatre: &Theatre| theatre.records.values().map(|record| record.state).collect::<Vec<_>>();
    assert_eq!(state(&theatre), [ItemState::PlannedFailover; 2]);
    theatre.until_quiet();
    assert_eq!(run::state(&theatre.run), RunState::Waiting);
    assert!(runs_at(&theatre, &alpha()));
    assert!(
        position(&theatre, "db1.verify") < position(&theatre, "web1.fence"),
        "nothing switches before all are equal"
    );
    let report = run::report(&theatre.run);
    assert_eq!(report.rpo, Some(std::time::Duration::ZERO));
    assert!(report.rto.unwrap().as_secs() < 3600, "nobody waited for it before: {:?}", report.rto);
    assert_eq!(run::change_in_words(&report.changes[0]), "completed: web1, db1");
    theatre.ask(RunVerb::Commit);
    theatre.until_quiet();
    assert_eq!(run::state(&theatre.run), RunState::Succeeded);
    for record in theatre.records.values() {
        assert_eq!(
            (record.state, &record.active, record.generation.get()),
            (ItemState::Protected, &alpha(), 3)
        );
    }
    theatre.assert_clean();
}

/// R-FB-2: for a long absence or a machine that was removed: all of it, when the machine is off, and nothing of the old side is touched before.
#[test]
fn the_copy_can_be_made_during_the_failover_only() {
    let mut theatre = theatre_of(way(Synchronise::During));
    theatre.until_quiet();
    assert_eq!(
        run::allowed_actions(&theatre.run),
        [RunVerb::Commit, RunVerb::RollBack, RunVerb::SetDeadline]
    );
    assert!(position(&theatre, "web1.copy-fence") < position(&theatre, "web1.shut-down"));
    assert!(position(&theatre, "web1.shut-down") < position(&theatre, "web1.copy-start-reverse"));
    assert!(position(&theatre, "web1.copy-start-reverse") < position(&theatre, "web1.sync-final"));
    assert!(!did(&theatre, "web1.copy-adopt-disks"));
    assert!(run::outcomes(&theatre.run).iter().all(|outcome| outcome.disks.iter().all(|disk| disk.equal)));
    theatre.ask(RunVerb::Commit);
    theatre.until_quiet();
    assert_eq!(run::state(&theatre.run), RunState::Succeeded);
    assert!(theatre.records.values().all(|r| r.state == ItemState::Protected && r.active == alpha()));
}

/// One thing of what would happen by itself and by a willing operator. `false`: there is none before the commit.
fn step_on(theatre: &mut Theatre) -> bool {
    if !theatre.queue.is_empty() {
        theatre.perform(Act::Succeed);
        return true;
    }
    if theatre.first_points_arrive() {
        return true;
    }
    let completes = run::allowed_actions(&theatre.run).contains(&RunVerb::CompleteFailover);
    if completes {
        theatre.ask(RunVerb::CompleteFailover);
    }
    completes
}

/// R-FB-4, invariant 7: until the sides switch, a cancel leaves the machines running where they are: as they were before, or protected in
/// reverse where the copy is whole. From the switch on it is refused.
#[test]
fn a_failback_may_be_cancelled_at_any_moment_before_its_switch() {
    for synchronise in [Synchronise::Before, Synchronise::During] {
        let (mut states, mut refused) = (Vec::new(), 0);
        for moment in 0.. {
            let mut theatre = theatre_of(way(synchronise));
            let reached = (0..moment).all(|_| step_on(&mut theatre));
            let context = format!("{synchronise:?} after {moment} steps");
            let switched = theatre.records.values().any(|record| record.active == alpha());
            let may = run::allowed_actions(&theatre.run).contains(&RunVerb::Cancel);
            assert_eq!(may, !switched, "{context}");
            if !reached {
                break;
            }
            if switched {
                refused += 1;
                continue;
            }
            let whole: Vec<bool> =
                theatre.records.values().map(|record| is_copied(&theatre, record.state)).collect();
            theatre.ask(RunVerb::Cancel);
            theatre.until_quiet();
            assert_eq!(run::state(&theatre.run), RunState::Cancelled, "{context}");
            assert!(runs_at(&theatre, &bravo()), "{context}: a machine is off");
            theatre.assert_clean();
            for ((name, record), whole) in theatre.records.iter().zip(whole) {
                let expected = if whole { ItemState::Protected } else { ItemState::NotProtected };
                assert_eq!(record.state, expected, "{context}: {name}");
                assert_eq!(theatre.hosts[&bravo()].replicating.contains(name), whole, "{context}: {name}");
                states.push(record.state);
            }
        }
        assert!(refused > 1, "the switch was not reached");
        let both = states.contains(&ItemState::Protected) && states.contains(&ItemState::NotProtected);
        assert_eq!(both, synchronise == Synchronise::Before, "{synchronise:?}");
    }
}

/// What is copied while the machine is off is no protection before the failover is final.
fn is_copied(theatre: &Theatre, state: ItemState) -> bool {
    theatre.run.spec.synchronise == Synchronise::Before
        && matches!(state, ItemState::Protected | ItemState::PlannedFailover)
}

/// R-FB-1: of what is protected in that direction already nothing is copied again, beside others of which everything is.
#[test]
fn what_is_protected_in_reverse_is_not_copied_again() {
    let spec = way(Synchronise::Before);
    for (protected, steps) in [(1, 6), (2, 0)] {
        let mut facts = input(FAILBACK);
        facts.items.iter_mut().take(protected).for_each(|item| item.state = ItemState::Protected);
        let planned = plan(&spec, &facts).unwrap();
        assert!(planned.notices[0].starts_with("web1") && planned.notices[0].contains("not copied again"));
        let copying = planned.steps.iter().filter(|step| step.id.as_str().contains(".copy-")).count();
        assert_eq!(copying, steps, "{:#?}", planned.steps);
        let mut theatre = Theatre::new(planned, spec.clone());
        theatre.play_to_the_end(RunVerb::Retry, |_, _| Act::Succeed);
        assert_eq!(run::state(&theatre.run), RunState::Succeeded);
        assert!(theatre.records.values().all(|record| record.active == alpha()));
    }
}

fn completing(theatre: &Theatre, change: impl FnOnce(&mut PlanInput)) -> Result<Vec<String>, Vec<Problem>> {
    let mut facts = theatre.facts();
    change(&mut facts);
    let amendment = amend(&theatre.run, &Change::CompleteFailover, &facts)?;
    assert_eq!(amendment.kind, ChangeKind::CompleteFailover);
    let mut told = vec![amendment.digest()];
    told.extend(amendment.steps.iter().map(|step| step.id.to_string()));
    Ok(told)
}

/// R-FB-2: what is done is planned from the facts of the moment at which it is completed, and refused for what stands against it then.
#[test]
fn it_is_completed_as_things_are_by_then() {
    let theatre = copied();
    let running = completing(&theatre, |_| {}).unwrap();
    assert!(running.contains(&"web1.restart".to_owned()));
    let off = completing(&theatre, |facts| facts.items[0].machine.power = Power::ShutOff).unwrap();
    assert!(!off.contains(&"web1.restart".to_owned()), "what was off is not started by a cancel");
    let moved =
        completing(&theatre, |facts| facts.connections.nics[0].address = Some([192, 168, 50, 99].into()));
    assert_ne!(moved.unwrap()[0], running[0], "the digest says nothing of the address");
    the_record_has_the_address_of_then();
    // The run itself is not in its way, and another is.
    let open = |id| OpenRun {
        id,
        operation: FAILBACK,
        items: vec![item("web1")],
        rolls_back: false,
        rehearsed: Default::default(),
    };
    assert!(completing(&theatre, |facts| facts.open_runs.push(open(theatre.run.id))).is_ok());
    type Set = fn(&mut PlanInput);
    let against: [(Set, &str); 5] = [
        (|facts| facts.hosts.get_mut(&bravo()).unwrap().connected = false, "HOST_NOT_CONNECTED"),
        (|facts| facts.items[0].machine.power = Power::Unknown, "MACHINE_STATE_UNSUITABLE"),
        (|facts| facts.items[0].points.iter_mut().for_each(|p| p.encrypted = true), "KEY_MISSING"),
        (|facts| facts.items[0].points.clear(), "NO_RECOVERY_POINT"),
        (|facts| facts.hosts.get_mut(&alpha()).unwrap().networks = Some([].into()), "NETWORK_NOT_ON_HOST"),
    ];
    for (set, reason) in against {
        let problems = completing(&theatre, set).unwrap_err();
        assert!(problems.iter().all(|problem| problem.reason == reason), "{reason}: {problems:#?}");
    }
    let other = completing(&theatre, |facts| facts.open_runs.push(open(RunId::from_u128(9)))).unwrap_err();
    assert_eq!(other[0].reason, "RUN_IN_THE_WAY");
    // A run that does not wait for it says so, and nothing else.
    let early = theatre_of(way(Synchronise::Before));
    let problems = completing(&early, |facts| facts.items[0].machine.power = Power::Unknown).unwrap_err();
    assert_eq!(problems.iter().map(|p| p.reason.as_str()).collect::<Vec<_>>(), ["VERB_NOT_ALLOWED"]);
}

/// A machine that has got another address while its copy was kept current is reported with that.
fn the_record_has_the_address_of_then() {
    let mut theatre = copied();
    let address = |theatre: &Theatre| run::outcomes(&theatre.run)[0].address.clone();
    let before = address(&theatre);
    let mut facts = theatre.facts();
    facts.connections.nics[0].address = Some([192, 168, 50, 99].into());
    let amendment = amend(&theatre.run, &Change::CompleteFailover, &facts).unwrap();
    assert_eq!(amendment.items[0].connections.as_ref().unwrap()[0].address, "192.168.50.99");
    let (amendment, by, at) = (Box::new(amendment), "ann".to_owned(), theatre.now);
    theatre.tell(&Event::Changed { amendment, by, at });
    assert_eq!(
        (before.as_deref(), address(&theatre).as_deref()),
        (Some("192.168.50.11"), Some("192.168.50.99"))
    );
}

/// R-FB-3, R-FO-2: what stands against it is told before anything is begun, all of it at once.
#[test]
fn what_stands_against_a_failback_is_told_beforehand() {
    let reasons = |change: &dyn Fn(&mut RunSpec, &mut PlanInput)| -> Vec<String> {
        let (mut spec, mut facts) = (spec(FAILBACK), input(FAILBACK));
        change(&mut spec, &mut facts);
        plan(&spec, &facts).err().unwrap_or_default().into_iter().map(|problem| problem.reason).collect()
    };
    assert_eq!(reasons(&|_, _| {}), [""; 0]);
    let host = |facts: &mut PlanInput| facts.hosts.get_mut(&elsewhere()).unwrap().clone();
    let found = reasons(&|spec, facts| {
        spec.standby_host = Some(elsewhere());
        let told = understudy_recovery::plan::HostView {
            networks: Some([].into()),
            store_free_bytes: 1,
            ..host(facts)
        };
        facts.hosts.insert(elsewhere(), told);
    });
    let expected = ["NOT_ENOUGH_SPACE", "NOT_ENOUGH_SPACE", "NETWORK_NOT_ON_HOST"];
    assert_eq!(found, expected, "all at once");
    let protected =
        |facts: &mut PlanInput| facts.items.iter_mut().for_each(|i| i.state = ItemState::Protected);
    let found = reasons(&|spec, facts| {
        protected(facts);
        spec.standby_host = Some(elsewhere());
        facts.items.iter_mut().for_each(|i| i.points.iter_mut().for_each(|p| p.host = elsewhere()));
    });
    assert_eq!(found, ["OTHER_STANDBY_HOST"; 2]);
    let found = reasons(&|spec, facts| {
        protected(facts);
        spec.synchronise = Synchronise::During;
    });
    assert_eq!(found, ["WRONG_ITEM_STATE"; 2], "there is a copy, which would not be used");
    let found = reasons(&|_, facts| {
        protected(facts);
        facts.items[0].paused = true;
    });
    assert_eq!(found, ["REPLICATION_PAUSED"]);
    let found = reasons(&|spec, facts| {
        spec.synchronise = Synchronise::During;
        facts.items[0].policy.settings.encrypt_for = vec!["a certificate".to_owned()];
        facts.hosts.get_mut(&alpha()).unwrap().store_free_bytes = 1;
    });
    assert_eq!(found, ["COPY_ENCRYPTED", "NOT_ENOUGH_SPACE", "NOT_ENOUGH_SPACE"]);
}

/// R-FO-4: before its commit it goes back like any other failover, to the side that it left.
#[test]
fn a_failback_is_rolled_back_to_the_side_that_it_left() {
    for synchronise in [Synchronise::Before, Synchronise::During] {
        let mut theatre = theatre_of(way(synchronise));
        while step_on(&mut theatre) {}
        theatre.ask(RunVerb::RollBack);
        theatre.until_quiet();
        assert_eq!(run::state(&theatre.run), RunState::RolledBack);
        assert!(runs_at(&theatre, &bravo()));
        assert!(theatre.records.values().all(|r| r.state == ItemState::Protected && r.active == bravo()));
        theatre.assert_clean();
    }
}
