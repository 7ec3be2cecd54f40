//! A site that the control plane does not hear. With an activation lease its machine stops by itself, comes back when the site is heard, and a failover
//! rests on that instead of on somebody's word (R-FO-7, R-UF-1, invariant 1).
//!
//! ```text
//!   alpha ──╳── control    stopped within its lease, not to be started ─▶ healed ─▶ started again where it was
//!   alpha ──╳── all, its agent killed ─▶ failover, nobody states anything ─▶ alpha's stops, then bravo's starts ─▶ healed: fenced
//! ```

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use understudy_lab::{
    HostName, Stack,
    machine::Machine,
    probe::wait_until,
    story::evidence::{answers, is_silent, item, item_is, now_us, point_after},
    wan::Cut,
};
use understudy_lifecycle_tests::{
    Scene,
    evidence::{FIVE_SECONDS, RUN_LIMIT, comes_to_know_its_place, lease_guards, protect, run_is, start_run},
};

const ALPHA: HostName = HostName::AlphaH1;
const BRAVO: HostName = HostName::BravoH1;
const LEASE: Duration = Duration::from_secs(15);
/// What stopping may take then.
const STOP_WITHIN: Duration = Duration::from_secs(15);
/// A renewal may have been so long ago when the line breaks.
const RENEWED_EVERY: Duration = Duration::from_secs(8);

#[test]
fn a_site_that_is_not_heard_stops_its_machines_and_a_failover_rests_on_that() {
    let machines = [Machine::reserved("web1", 1).unwrap()];
    let scene = Scene::set("lease", &machines).unwrap();
    let (stack, web1) = (&scene.stack, &machines[0]);
    stack.cli().json(&["policy", "update", FIVE_SECONDS, "--activation-lease", "15s"]).unwrap();
    protect(stack, "web1", FIVE_SECONDS).unwrap();

    stops_and_comes_back(stack, web1).unwrap();
    let run = is_failed_over_on_nobodys_word(stack, web1).unwrap();
    stays_off_at_the_old_side(stack, web1).unwrap();
    stack.cli().json(&["run", "commit", &run]).unwrap();
    run_is(stack, &run, "succeeded").unwrap();
    lease_is_held(stack).unwrap();
}

fn lease_is_held(stack: &Stack) -> Result<()> {
    wait_until("the host to hold the lease", Duration::from_secs(60), || {
        Ok((item(stack, "web1")?["activation_lease"]["held"] == true).then_some(()))
    })
    .map(drop)
}

fn stops_and_comes_back(stack: &Stack, web1: &Machine) -> Result<()> {
    lease_is_held(stack)?;
    let alpha = stack.lab().host(ALPHA);
    let before = answers(stack, ALPHA, web1)?;
    stack.lab().wan().cut(Cut::Control)?;
    let cut = Instant::now();
    wait_until("the machine to be stopped", LEASE + STOP_WITHIN, || {
        Ok((alpha.machine_state("web1")? == "shut off").then_some(()))
    })?;
    println!("stopped {:.1} s after the line was cut", cut.elapsed().as_secs_f64());
    ensure!(cut.elapsed() > LEASE - RENEWED_EVERY, "stopped before its lease had ended");
    ensure!(is_silent(stack, ALPHA, web1)?, "it is off and answers");
    let Err(refusal) = alpha.start("web1") else { bail!("it was started without a lease") };
    ensure!(format!("{refusal:#}").contains("activation lease"), "refused for another reason: {refusal:#}");

    stack.lab().wan().heal()?;
    let (after, _) = wait_until("the machine to answer again", RUN_LIMIT, || {
        Ok((alpha.machine_state("web1")? == "running")
            .then(|| answers(stack, ALPHA, web1))
            .and_then(Result::ok))
    })?;
    ensure!(after.boot_id != before.boot_id && after.last >= before.last, "{before:?} {after:?}");
    item_is(stack, "web1", "protected", ALPHA)?;
    point_after(stack, "web1", now_us()).map(drop)
}

/// The agent is killed as well, so what stops the machine is the guard that it has left behind.
fn is_failed_over_on_nobodys_word(stack: &Stack, web1: &Machine) -> Result<String> {
    lease_is_held(stack)?;
    let (alpha, bravo) = (stack.lab().host(ALPHA), stack.lab().host(BRAVO));
    stack.lab().wan().cut(Cut::Both)?;
    let log = fs::read_to_string(&stack.agent(ALPHA)?.spec().log)?;
    ensure!(!log.contains("the guard of the activation leases has ended"), "a guard did not stand by");
    stack.agent(ALPHA)?.kill_9()?;
    ensure!(lease_guards(&alpha)? == 1, "nothing is left that could stop the machine");
    let began = Instant::now();
    let run = start_run(stack, "unplanned", "web1", &[])?;
    let (mut stopped, mut both) = (None, false);
    let (came_up, _) = wait_until("bravo's machine to run", RUN_LIMIT, || {
        // In this order: one that is seen off here is off when the other one is seen to run.
        let runs_here = alpha.machine_state("web1")? == "running";
        let runs_there = bravo.machine_state("web1").is_ok_and(|state| state == "running");
        both |= runs_here && runs_there;
        if !runs_here && stopped.is_none() {
            stopped = Some(began.elapsed());
        }
        Ok(Some(began.elapsed()).filter(|_| runs_there))
    })?;
    ensure!(!both, "two copies ran");
    let Some(stopped) = stopped else { bail!("alpha's machine was never seen to be off") };
    println!(
        "alpha's stopped after {:.1} s, bravo's ran after {:.1} s",
        stopped.as_secs_f64(),
        came_up.as_secs_f64()
    );
    ensure!(
        stopped < LEASE + STOP_WITHIN && stopped < came_up,
        "stopped after {stopped:?}, up after {came_up:?}"
    );
    run_is(stack, &run, "waiting")?;
    ensure!(answers(stack, BRAVO, web1)?.last > 0, "bravo's machine does not answer");
    Ok(run)
}

fn stays_off_at_the_old_side(stack: &Stack, web1: &Machine) -> Result<()> {
    let alpha = stack.lab().host(ALPHA);
    stack.restart_agent(ALPHA)?;
    let Err(refusal) = alpha.start("web1") else { bail!("the old copy was started") };
    ensure!(format!("{refusal:#}").contains("activation lease"), "refused for another reason: {refusal:#}");
    stack.lab().wan().heal()?;
    comes_to_know_its_place(&alpha, "web1")?;
    wait_until("the guard of the agent before to go", Duration::from_secs(20), || {
        Ok((lease_guards(&alpha)? == 1).then_some(()))
    })?;
    ensure!(is_silent(stack, ALPHA, web1)?, "alpha's copy answers");
    item_is(stack, "web1", "commit-pending", BRAVO).map(drop)
}
