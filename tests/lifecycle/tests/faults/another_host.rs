//! A host that is lost for good: its site gets another one, and the machine comes back to that (R-FB-3). What the old host has is not touched, and
//! does not start when it is found to live after all (invariant 1).
//!
//! ```text
//!   alpha-h1 dead ─▶ unplanned failover to bravo ─▶ alpha-h2 is new ─▶ replicated there in full ─▶ planned failover to it
//!                                                                                        alpha-h1 returns ─▶ is fenced
//! ```

use std::time::Duration;

use anyhow::{Result, ensure};
use understudy_lab::{
    HostName, Stack,
    machine::Machine,
    probe::wait_until,
    stack::resource,
    story::evidence::{
        answers, array, is_silent, item, item_is, machine_files, now_us, point_after, whole_journal,
    },
    topology::Site,
};
use understudy_lifecycle_tests::{
    Scene,
    evidence::{FIVE_SECONDS, comes_to_know_its_place, newest_point_is_whole, protect, run_is, start_run},
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
    another_host_becomes_the_standby_side(stack, web1).unwrap();
    it_comes_back_without_a_loss(stack, web1).unwrap();
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

fn another_host_becomes_the_standby_side(stack: &Stack, web1: &Machine) -> Result<()> {
    stack.add_host(ANOTHER)?;
    wait_until("it to be noticed that the host is not there", Duration::from_secs(60), || {
        let hosts = stack.cli().json(&["host", "list"])?;
        Ok(array(&hosts).iter().any(|host| host["connected"] == false).then_some(()))
    })?;
    // The old one is what is meant where nothing is said.
    let refused = stack.cli().command(&["failover", "reverse", "web1", "--yes"]).output()?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && said.contains("HOST_NOT_CONNECTED"), "{said}");
    let to = resource(ANOTHER);
    let run = start_run(stack, "reverse", "web1", &["--to", &to])?;
    let ended = run_is(stack, &run, "succeeded")?;
    let did = |what: &str| array(&ended["steps"]).iter().any(|step| step["step"] == format!("web1.{what}"));
    ensure!(did("set-standby") && !did("adopt-disks") && !did("fence-old-side"), "{:#}", ended["steps"]);
    item_is(stack, "web1", "protected", BRAVO)?;
    let shown = item(stack, "web1")?;
    ensure!(shown["standby_host"] == to.as_str(), "{shown:#}");
    point_after(stack, "web1", now_us())?;
    newest_point_is_whole(stack, ANOTHER, web1).map(drop)
}

/// The machine does not exist there and is made, on the network of the same name.
fn it_comes_back_without_a_loss(stack: &Stack, web1: &Machine) -> Result<()> {
    let before = answers(stack, BRAVO, web1)?;
    let run = start_run(stack, "planned", "web1", &[])?;
    run_is(stack, &run, "waiting")?;
    let after = answers(stack, ANOTHER, web1)?;
    ensure!(after.last > before.last && after.address == before.address, "{before:?} {after:?}");
    ensure!(is_silent(stack, BRAVO, web1)?, "two copies answer");
    stack.cli().json(&["run", "commit", &run])?;
    run_is(stack, &run, "succeeded")?;
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
