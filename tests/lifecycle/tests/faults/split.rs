//! Two sites that do not hear each other, both alive (R-FO-7, R-UF, invariants 1 and 4).
//!
//! ```text
//!   alpha ──╳──▶ bravo     unplanned failover on the operator's word ─▶ healed ─▶ alpha's copy is powered off
//!         ◀─────           both run: the recorded override                     ─▶ and stays off ─▶ failback, copied during it
//! ```

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use understudy_lab::{
    HostName, Stack,
    journal::{JournalReport, read_journal},
    machine::Machine,
    probe::wait_until,
    story::evidence::{
        answers, array, is_silent, item_is, machine_files, now_us, point_after, text, whole_journal,
    },
    wan::Cut,
};
use understudy_lifecycle_tests::{
    Scene,
    evidence::{FIVE_SECONDS, newest_point_is_whole, protect, run_is, start_run},
};

const ALPHA: HostName = HostName::AlphaH1;
const BRAVO: HostName = HostName::BravoH1;
/// Keep-alive notices a dead line within fifteen seconds.
const SESSION_LOST_WITHIN: Duration = Duration::from_secs(40);
const FENCED_WITHIN: Duration = Duration::from_secs(60);

#[test]
fn the_old_copy_of_a_site_that_was_cut_off_is_fenced_as_soon_as_it_is_heard() {
    let machines = [Machine::reserved("web1", 1).unwrap()];
    let scene = Scene::set("split", &machines).unwrap();
    let stack = &scene.stack;
    protect(stack, "web1", FIVE_SECONDS).unwrap();
    point_after(stack, "web1", now_us()).unwrap();

    let run = both_are_alive(stack, &machines[0]).unwrap();
    the_old_copy_goes_silent(stack, &machines[0]).unwrap();
    it_does_not_come_back(stack, &machines[0]).unwrap();
    stack.cli().json(&["run", "commit", &run]).unwrap();
    run_is(stack, &run, "succeeded").unwrap();
    it_goes_home_with_nothing_of_the_old_copy(stack, &machines[0]).unwrap();
}

/// One direction is enough to be lost: nothing that needs an answer works. For as long as alpha's session lives, the order to fence
/// still goes the other way and is obeyed, so the split begins when it has ended.
fn both_are_alive(stack: &Stack, web1: &Machine) -> Result<String> {
    let before = sessions_lost(stack)?;
    stack.lab().wan().cut(Cut::AlphaToBravo)?;
    wait_until("alpha's agent to have lost its session", SESSION_LOST_WITHIN, || {
        Ok((sessions_lost(stack)? > before).then_some(()))
    })?;
    let word = ["--assert-primary-down", "alpha does not answer, somebody drives there"];
    let run = start_run(stack, "unplanned", "web1", &word)?;
    run_is(stack, &run, "waiting")?;
    let (old, new) = (answers(stack, ALPHA, web1)?, answers(stack, BRAVO, web1)?);
    ensure!(old.boot_id != new.boot_id, "the same machine answers at both sites");
    Ok(run)
}

fn sessions_lost(stack: &Stack) -> Result<usize> {
    let log = fs::read_to_string(&stack.agent(ALPHA)?.spec().log)?;
    Ok(log.matches("no session with job-tracker").count())
}

fn the_old_copy_goes_silent(stack: &Stack, web1: &Machine) -> Result<()> {
    let last = answers(stack, ALPHA, web1)?.last;
    stack.lab().wan().heal()?;
    let healed = Instant::now();
    let alpha = stack.lab().host(ALPHA);
    wait_until("alpha's old copy to be off", FENCED_WITHIN, || {
        Ok((alpha.machine_state("web1")? == "shut off").then_some(()))
    })?;
    println!("alpha's old copy was off {:.1} s after the line was whole", healed.elapsed().as_secs_f64());
    ensure!(is_silent(stack, ALPHA, web1)?, "it is off and answers, after record {last}");
    item_is(stack, "web1", "commit-pending", BRAVO).map(drop)
}

fn it_does_not_come_back(stack: &Stack, web1: &Machine) -> Result<()> {
    let alpha = stack.lab().host(ALPHA);
    // What the agent has written down holds without the agent.
    for agent_runs in [true, false] {
        if !agent_runs {
            stack.agent(ALPHA)?.kill_9()?;
        }
        let Err(refusal) = alpha.start("web1") else { bail!("the old copy was started") };
        let said = format!("{refusal:#}");
        ensure!(said.contains("understudy: "), "it failed for another reason: {said}");
        ensure!(alpha.machine_state("web1")? == "shut off", "it runs");
    }
    stack.restart_agent(ALPHA)?;
    ensure!(answers(stack, BRAVO, web1)?.last > 0, "bravo's copy does not answer");
    Ok(())
}

/// Without reading what the old copy has, which goes on from another history: the machine shuts down, is copied whole, and no record of its own is
/// missing at alpha, nor is there one of the old copy's (R-FB-2).
fn it_goes_home_with_nothing_of_the_old_copy(stack: &Stack, web1: &Machine) -> Result<()> {
    let before = answers(stack, BRAVO, web1)?;
    let run = start_run(stack, "failback", "web1", &["--synchronise", "during"])?;
    let waiting = run_is(stack, &run, "waiting")?;
    let adopts = |step: &serde_json::Value| text(step, "step").ends_with("adopt-disks");
    ensure!(!array(&waiting["steps"])[..commit_of(&waiting)?].iter().any(adopts), "old disks were read");
    let after = answers(stack, ALPHA, web1)?;
    ensure!(after.last > before.last && is_silent(stack, BRAVO, web1)?, "{before:?} {after:?}");
    let bravo = whole_journal(&machine_files(&stack.lab().host(BRAVO), web1)?)?;
    let alpha = read_journal(&machine_files(&stack.lab().host(ALPHA), web1)?)?;
    let boots =
        |journal: &JournalReport| journal.boots.iter().map(|b| (b.id.clone(), b.first)).collect::<Vec<_>>();
    let (last, went_on) = alpha.boots.split_last().context("nothing was written at alpha")?;
    ensure!(last.id == after.boot_id && last.first == bravo.last + 1, "{last:?} follows {}", bravo.last);
    let carried: Vec<_> = went_on.iter().map(|boot| (boot.id.clone(), boot.first)).collect();
    ensure!(carried == boots(&bravo), "alpha has {carried:?}, bravo wrote {:?}", boots(&bravo));
    stack.cli().json(&["run", "commit", &run])?;
    run_is(stack, &run, "succeeded")?;
    item_is(stack, "web1", "protected", ALPHA)?;
    point_after(stack, "web1", now_us())?;
    newest_point_is_whole(stack, BRAVO, web1).map(drop)
}

/// Where the wait for the commit stands among the run's steps.
fn commit_of(run: &serde_json::Value) -> Result<usize> {
    array(&run["steps"]).iter().position(|step| step["step"] == "commit").context("the run has no commit")
}
