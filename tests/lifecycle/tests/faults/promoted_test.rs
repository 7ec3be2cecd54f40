//! Real failovers that begin while a test runs (R-TF-7): the test gives way, or its machine goes on as production.
//!
//! ```text
//!   test of web1 ─▶ planned failover to bravo: the test is ended first, nothing of it is left
//!   test of web1 at alpha ─▶ bravo dies ─▶ the test is promoted: web1 goes on at alpha with what the test has written ─▶ committed
//! ```

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use understudy_lab::{
    HostName, Stack,
    machine::Machine,
    probe::wait_until,
    story::evidence::{
        answers, array, is_silent, item_is, machine_files, now_us, outcome, point_after, text, whole_journal,
    },
    topology::Site,
};
use understudy_lifecycle_tests::{
    Scene,
    evidence::{FIVE_SECONDS, a_test_network_is_there, item_directory, protect, run_is, start_run},
};

const ALPHA: HostName = HostName::AlphaH1;
const BRAVO: HostName = HostName::BravoH1;

#[test]
fn tests_give_way_to_real_failovers_or_become_them() {
    let machines = [Machine::reserved("web1", 1).unwrap()];
    let scene = Scene::set("promote", &machines).unwrap();
    let (stack, web1) = (&scene.stack, &machines[0]);
    protect(stack, "web1", FIVE_SECONDS).unwrap();
    point_after(stack, "web1", now_us()).unwrap();

    a_planned_failover_ends_it(stack, web1).unwrap();
    its_machine_goes_on_as_production(stack, web1).unwrap();
}

fn a_planned_failover_ends_it(stack: &Stack, web1: &Machine) -> Result<()> {
    let test = start_run(stack, "test", "web1", &[])?;
    run_is(stack, &test, "waiting")?;
    let run = start_run(stack, "planned", "web1", &[])?;
    run_is(stack, &run, "waiting")?;
    run_is(stack, &test, "succeeded")?;
    answers(stack, BRAVO, web1)?;
    only_web1_is_left(stack, BRAVO)?;
    stack.cli().json(&["run", "commit", &run])?;
    run_is(stack, &run, "succeeded")?;
    item_is(stack, "web1", "protected", BRAVO)?;
    point_after(stack, "web1", now_us()).map(drop)
}

fn its_machine_goes_on_as_production(stack: &Stack, web1: &Machine) -> Result<()> {
    let alpha = stack.lab().host(ALPHA);
    let test = start_run(stack, "test", "web1", &[])?;
    let waiting = run_is(stack, &test, "waiting")?;
    let used = outcome(&waiting, "web1")?["point"].clone();
    let machine = text(outcome(&waiting, "web1")?, "machine");
    // Without a network of its own that anybody but the agent enters: what it writes is seen on its disk.
    let files = |name: &str| machine_files(&alpha, &Machine { name: name.to_owned(), ..web1.clone() });
    let rehearsed = wait_until("the test machine to have written", Duration::from_secs(60), || {
        let journal = whole_journal(&files(&machine)?)?;
        Ok((journal.boots.len() >= 3 && journal.boots.last().is_some_and(|boot| boot.last > boot.first + 5))
            .then_some(journal))
    })?
    .0;
    stack.lab().kill_site(Site::Bravo)?;
    let word = ["--assert-primary-down", "bravo has burnt", "--promote-test", &test];
    let run = start_run(stack, "unplanned", "web1", &word)?;
    let switched = run_is(stack, &run, "waiting")?;
    ensure!(outcome(&switched, "web1")?["point"] == used, "made from another point: {switched:#}");
    let steps = array(&switched["steps"]);
    let promoted =
        steps.iter().find(|step| step["step"] == "web1.promote").context("nothing was promoted")?;
    ensure!(text(promoted, "title").contains(&machine), "{promoted}");
    let page = answers(stack, ALPHA, web1)?;
    ensure!(page.last > rehearsed.last, "what the test wrote is not there: {page:?} after {rehearsed:?}");
    run_is(stack, &test, "succeeded")?;
    ensure!(is_silent(stack, BRAVO, web1)?, "two copies answer");
    stack.cli().json(&["run", "commit", &run])?;
    run_is(stack, &run, "succeeded")?;
    item_is(stack, "web1", "not-protected", ALPHA)?;
    let journal = whole_journal(&machine_files(&alpha, web1)?)?;
    ensure!(journal.boots.len() == rehearsed.boots.len() + 1 && journal.last > rehearsed.last, "{journal:?}");
    only_web1_is_left(stack, ALPHA)
}

/// Beside the machine itself.
fn only_web1_is_left(stack: &Stack, host: HostName) -> Result<()> {
    let host = stack.lab().host(host);
    let machines = host.virsh(["list", "--all", "--name"])?;
    ensure!(machines.trim() == "web1", "machines: {machines}");
    let networks = host.virsh(["net-list", "--all", "--name"])?;
    ensure!(!networks.contains("ust-") && !a_test_network_is_there(&host)?, "networks: {networks}");
    let branches = fs::read_dir(item_directory(&host, "web1").join("branches")).map_or(0, Iterator::count);
    ensure!(branches == 0, "a test's disks are there still");
    Ok(())
}
