//! A guest that does not shut down when it is asked, under a policy that does not allow to power it off (R-PF-3, invariant 7).

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use understudy_lab::{
    HostName, Stack,
    machine::Machine,
    probe::http_get,
    story::evidence::{answers, array, is_silent, item, item_is, now_us, outcome, point_after, text},
};
use understudy_lifecycle_tests::{
    Scene,
    evidence::{protect, run_is, start_run},
};

const ALPHA: HostName = HostName::AlphaH1;
const BRAVO: HostName = HostName::BravoH1;
const POLICY: &str = "patient";

#[test]
fn a_planned_failover_of_a_guest_that_does_not_shut_down_stops_before_anything_is_lost() {
    let web1 = Machine::reserved("web1", 1).unwrap();
    let scene = Scene::set("stubborn", std::slice::from_ref(&web1)).unwrap();
    let stack = &scene.stack;
    // No --power-off: the guest is asked, and that is all.
    let patient = ["policy", "create", POLICY, "--interval", "5s", "--shutdown-grace", "6s"];
    stack.cli().json(&patient).unwrap();
    protect(stack, "web1", POLICY).unwrap();
    let boot = answers(stack, ALPHA, &web1).unwrap().boot_id;

    press(stack, &web1, "no").unwrap();
    it_stops_and_says_why(stack).unwrap();
    let run = start_run_again_after_cancel(stack, &web1, &boot).unwrap();
    press(stack, &web1, "yes").unwrap();
    retried_it_succeeds(stack, &web1, &run).unwrap();
}

/// Makes the guest deaf to its power button, or heals it.
fn press(stack: &Stack, web1: &Machine, obeyed: &str) -> Result<()> {
    let host = stack.lab().host(ALPHA).namespace();
    let address = web1.address().context("no reserved address")?;
    let path = format!("/power-button?obeyed={obeyed}");
    http_get(&host, address, 80, &path, Duration::from_secs(5)).map(drop)
}

fn it_stops_and_says_why(stack: &Stack) -> Result<()> {
    let before = item(stack, "web1")?["generation"].clone();
    let run = start_run(stack, "planned", "web1", &[])?;
    let failed = run_is(stack, &run, "failed")?;
    ensure!(failed["end_time"].is_null(), "the run has ended, nobody can go on with it");
    before_the_point_of_no_return(&failed)?;
    let problem = array(&failed["problems"]).first().context("no problem is told")?;
    ensure!(problem["reason"] == "GUEST_DID_NOT_SHUT_DOWN", "{problem}");
    ensure!(!text(problem, "remedy").is_empty(), "{problem}");
    let allowed = failed["allowed_actions"].to_string();
    ensure!(allowed.contains("retry") && allowed.contains("cancel"), "allowed: {allowed}");
    ensure!(item(stack, "web1")?["generation"] == before, "the generation has changed");
    stack.cli().json(&["run", "cancel", &run])?;
    run_is(stack, &run, "cancelled").map(drop)
}

/// What was done is visible, and nothing behind the point of no return was begun.
fn before_the_point_of_no_return(run: &Value) -> Result<()> {
    let steps = array(&run["steps"]);
    let behind = steps.iter().find(|s| s["point_of_no_return"] == true).context("no such step")?;
    ensure!(behind["state"] == "pending", "the point of no return is {}", behind["state"]);
    let in_state = |state: &str| steps.iter().filter(|s| s["state"] == state).count();
    ensure!(in_state("succeeded") > 0 && in_state("failed") == 1, "{steps:?}");
    Ok(())
}

/// Cancelled, the item is as before; asked for again, the run stops again, and now waits to be retried.
fn start_run_again_after_cancel(stack: &Stack, web1: &Machine, boot: &str) -> Result<String> {
    item_is(stack, "web1", "protected", ALPHA)?;
    let page = answers(stack, ALPHA, web1)?;
    ensure!(page.boot_id == boot, "web1 was started anew");
    ensure!(is_silent(stack, BRAVO, web1)?, "something answers at bravo");
    point_after(stack, "web1", now_us()).context("replication does not go on")?;
    ensure!(answers(stack, ALPHA, web1)?.last > page.last, "web1 does not write any more");
    let run = start_run(stack, "planned", "web1", &[])?;
    run_is(stack, &run, "failed")?;
    Ok(run)
}

fn retried_it_succeeds(stack: &Stack, web1: &Machine, run: &str) -> Result<()> {
    stack.cli().json(&["run", "retry", run])?;
    let waiting = run_is(stack, run, "waiting")?;
    let page = answers(stack, BRAVO, web1)?;
    ensure!(is_silent(stack, ALPHA, web1)?, "two copies are in production");
    let disks = array(&outcome(&waiting, "web1")?["disks"]);
    ensure!(!disks.is_empty() && disks.iter().all(|d| d["equal"] == true), "{disks:?}");
    stack.cli().json(&["run", "commit", run])?;
    run_is(stack, run, "succeeded")?;
    item_is(stack, "web1", "protected", BRAVO)?;
    ensure!(answers(stack, BRAVO, web1)?.last >= page.last, "bravo's copy lost records");
    Ok(())
}
