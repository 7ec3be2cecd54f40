//! A host that is lost for good: its site gets another one, and the machine comes back to that in one run (R-FB-1 to 3). What the old host has is not touched, and
//! does not start when it is found to live after all (invariant 1).
//!
//! ```text
//!   alpha-h1 dead ─▶ unplanned failover to bravo ─▶ alpha-h2 is new ─▶ failback: copied in full ─▶ waits ─▶ completed ─▶ runs there
//!                                                                                        alpha-h1 returns ─▶ is fenced
//! ```

use std::time::Duration;

use anyhow::{Result, ensure};
use understudy_lab::{
    HostName, Service, Stack,
    machine::Machine,
    probe::wait_until,
    stack::resource,
    story::evidence::{
        answers, array, is_silent, item, item_is, machine_files, now_us, outcome, point_after, whole_journal,
    },
    topology::Site,
};
use understudy_lifecycle_tests::{
    Scene,
    evidence::{
        FIVE_SECONDS, comes_to_know_its_place, newest_point_is_whole, protect, run_is, run_waits_at,
        start_run,
    },
};

const ALPHA: HostName = HostName::AlphaH1;
const ANOTHER: HostName = HostName::AlphaH2;
const BRAVO: HostName = HostName::BravoH1;

#[test]
fn a_machine_comes_back_to_another_host_than_the_one_that_was_lost() {
    let machines = [Machine::reserved("web1", 2).unwrap()];
    let scene = Scene::set("another", &machines).unwrap();
    let (stack, web1) = (&scene.stack, &machines[0]);
    protect(stack, "web1", FIVE_SECONDS).unwrap();
    point_after(stack, "web1", now_us()).unwrap();

    its_host_is_lost(stack, web1).unwrap();
    let run = it_is_copied_to_another_host(stack, web1).unwrap();
    it_comes_back_without_a_loss(stack, &run, web1).unwrap();
    the_lost_host_returns_and_starts_nothing(stack, web1).unwrap();
}

fn its_host_is_lost(stack: &Stack, web1: &Machine) -> Result<()> {
    stack.lab().kill_site(Site::Alpha)?;
    let run = start_run(stack, "unplanned", "web1", &["--assert-primary-down", "the host has burnt"])?;
    run_is(stack, &run, "waiting")?;
    answers(stack, BRAVO, web1)?;
    stack.cli().json(&["run", "commit", &run])?;
    run_is(stack, &run, "succeeded")?;
    item_is(stack, "web1", "not-protected", BRAVO).map(drop)
}

/// Returns the run, which waits with a whole copy at the other host, kept current while nobody has completed it and the orchestrator dies.
fn it_is_copied_to_another_host(stack: &Stack, web1: &Machine) -> Result<String> {
    stack.add_host(ANOTHER)?;
    wait_until("it to be noticed that the host is not there", Duration::from_secs(60), || {
        let hosts = stack.cli().json(&["host", "list"])?;
        Ok(array(&hosts).iter().any(|host| host["connected"] == false).then_some(()))
    })?;
    // The old one is what is meant where nothing is said.
    let refused = stack.cli().command(&["failover", "failback", "web1", "--yes"]).output()?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && said.contains("HOST_NOT_CONNECTED"), "{said}");
    let before = answers(stack, BRAVO, web1)?;
    let to = resource(ANOTHER);
    let run = start_run(stack, "failback", "web1", &["--to", &to])?;
    let waiting = run_waits_at(stack, &run, "complete-failover")?;
    let did =
        |what: &str| array(&waiting["steps"]).iter().any(|step| step["step"] == format!("web1.copy-{what}"));
    ensure!(did("set-standby") && !did("adopt-disks") && !did("fence-old-side"), "{:#}", waiting["steps"]);
    item_is(stack, "web1", "protected", BRAVO)?;
    let shown = item(stack, "web1")?;
    ensure!(shown["standby_host"] == to.as_str(), "{shown:#}");
    stack.service(Service::Orchestrator)?.kill_9()?;
    stack.restart_service(Service::Orchestrator)?;
    point_after(stack, "web1", now_us())?;
    newest_point_is_whole(stack, ANOTHER, web1)?;
    let now = answers(stack, BRAVO, web1)?;
    ensure!(now.boot_id == before.boot_id && now.last > before.last, "it was disturbed: {before:?} {now:?}");
    Ok(run)
}

/// The machine does not exist there and is made, on the network of the same name.
fn it_comes_back_without_a_loss(stack: &Stack, run: &str, web1: &Machine) -> Result<()> {
    let before = answers(stack, BRAVO, web1)?;
    stack.cli().json(&["run", "complete-failover", run, "--yes"])?;
    let waiting = run_waits_at(stack, run, "commit")?;
    let outcome = outcome(&waiting, "web1")?;
    ensure!(array(&outcome["disks"]).iter().all(|disk| disk["equal"] == true), "{outcome:#}");
    let after = answers(stack, ANOTHER, web1)?;
    ensure!(after.last > before.last && after.address == before.address, "{before:?} {after:?}");
    ensure!(is_silent(stack, BRAVO, web1)?, "two copies answer");
    stack.cli().json(&["run", "commit", run])?;
    run_is(stack, run, "succeeded")?;
    item_is(stack, "web1", "protected", ANOTHER)?;
    point_after(stack, "web1", now_us())?;
    newest_point_is_whole(stack, BRAVO, web1)?;
    let journal = whole_journal(&machine_files(&stack.lab().host(ANOTHER), web1)?)?;
    ensure!(journal.first == 1 && journal.last > before.last, "{journal:?}");
    Ok(())
}

fn the_lost_host_returns_and_starts_nothing(stack: &Stack, web1: &Machine) -> Result<()> {
    stack.revive_site(Site::Alpha)?;
    let old = stack.lab().host(ALPHA);
    comes_to_know_its_place(&old, "web1")?;
    ensure!(old.disks(web1).iter().all(|disk| disk.exists()), "the old host's disks are gone");
    item_is(stack, "web1", "protected", ANOTHER)?;
    ensure!(
        answers(stack, ANOTHER, web1)?.last > 0 && is_silent(stack, ALPHA, web1)?,
        "the wrong copy answers"
    );
    Ok(())
}
