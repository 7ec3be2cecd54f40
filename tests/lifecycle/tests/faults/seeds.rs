//! A first copy that is carried to the other site instead of being sent (R-REP-11).
//!
//! ```text
//!   protect --seed --export-seed ─▶ written at alpha, the guest goes on ─▶ waits ─▶ carried to bravo ─▶ run confirm ─▶ delta ─▶ protected
//! ```

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use understudy_lab::{
    HostName, Stack,
    machine::Machine,
    probe::wait_until,
    stack::resource,
    story::evidence::{answers, item_is, newest_run, number, points, qemu_img_check, text, whole_journal},
};
use understudy_lifecycle_tests::{
    Scene,
    evidence::{FIVE_SECONDS, newest_point_is_whole, run_is, store_is_tidy},
};

const ALPHA: HostName = HostName::AlphaH1;
const BRAVO: HostName = HostName::BravoH1;
const SEED: &str = "disk-3";
/// Of some 18 MB that a guest's disk uses, what it writes in a minute is far less.
const A_DELTA: u64 = 6 << 20;

#[test]
fn a_first_copy_on_a_medium_is_not_sent_again() {
    let machines = Machine::defaults().unwrap();
    let scene = Scene::set("seeds", &machines).unwrap();
    let stack = &scene.stack;
    let run = written(stack, &machines[0]).unwrap();
    carried_over(stack, &machines[0], &run).unwrap();
    given_up(stack, &machines[1]).unwrap();
}

fn protect_from_medium(stack: &Stack, item: &str) -> Result<String> {
    let (machine, target) = (format!("{}/{item}", resource(ALPHA)), resource(BRAVO));
    let wish = ["item", "protect", item, "--machine", &machine, "--to", &target, "--policy", FIVE_SECONDS];
    let wish = [&wish[..], &["--seed", SEED, "--export-seed"]].concat();
    wait_until("the machine to be known", Duration::from_secs(20), || stack.cli().json(&wish).map(Some))?;
    Ok(text(&newest_run(stack, item)?, "name"))
}

/// The medium shows one instant of the guest, which has not noticed.
fn written(stack: &Stack, web1: &Machine) -> Result<String> {
    let run = protect_from_medium(stack, "web1")?;
    let waiting = run_is(stack, &run, "waiting")?;
    let hint = text(&waiting, "waiting_for");
    ensure!(hint.starts_with("Carry the directory disk-3 from the seed_dir of alpha/alpha-h1"), "{hint}");
    let medium = stack.lab().host(ALPHA).media().join(SEED).join("web1");
    let disk = medium.join("vda.qcow2");
    qemu_img_check(&disk)?;
    let journal = whole_journal(&[disk]).context("the medium")?;
    wait_until("the guest to have written more", Duration::from_secs(30), || {
        Ok((answers(stack, ALPHA, web1)?.last > journal.last).then_some(()))
    })?;
    ensure!(points(stack, "web1")?.is_empty(), "something has been sent already");
    Ok(run)
}

fn carried_over(stack: &Stack, web1: &Machine, run: &str) -> Result<()> {
    // Before it is there, the run says what is missing and waits for a retry.
    stack.cli().json(&["run", "confirm", run])?;
    let failed = run_is(stack, run, "failed")?;
    ensure!(failed["problems"][0]["reason"] == "NO_SEED", "{}", failed["problems"]);
    let (from, to) = (stack.lab().host(ALPHA).media(), stack.lab().host(BRAVO).media());
    fs::create_dir_all(&to)?;
    fs::rename(from.join(SEED), to.join(SEED))?;
    stack.cli().json(&["run", "retry", run])?;
    run_is(stack, run, "succeeded")?;
    item_is(stack, "web1", "protected", ALPHA)?;
    let first = points(stack, "web1")?.into_iter().next().context("there is a point")?;
    let read = number(
        &fs::read(to.join(SEED).join("web1/seed.json")).map(|b| serde_json::from_slice(&b))??,
        "bytes",
    )?;
    println!("medium: {read} bytes; the first point has {} more", first.changed_bytes);
    ensure!(first.changed_bytes < A_DELTA.min(read / 2), "{} bytes were sent", first.changed_bytes);
    newest_point_is_whole(stack, BRAVO, web1)?;
    store_is_tidy(&stack.lab().host(BRAVO), "web1")
}

/// Cancelled while the medium is on its way: the item is gone, and so is what was written for it.
fn given_up(stack: &Stack, db1: &Machine) -> Result<()> {
    let run = protect_from_medium(stack, &db1.name)?;
    run_is(stack, &run, "waiting")?;
    let medium = stack.lab().host(ALPHA).media().join(SEED);
    ensure!(medium.join("db1/vdb.qcow2").exists(), "the second disk is not on the medium");
    stack.cli().json(&["run", "cancel", &run])?;
    run_is(stack, &run, "cancelled")?;
    ensure!(fs::read_dir(&medium)?.next().is_none(), "something is left on the medium");
    let checkpoints = stack.lab().host(ALPHA).virsh(["checkpoint-list", "db1", "--name"])?;
    ensure!(checkpoints.trim().is_empty(), "checkpoints are left: {checkpoints}");
    Ok(())
}
