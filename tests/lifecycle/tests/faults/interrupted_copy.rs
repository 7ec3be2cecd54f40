//! The first copy is cut off: by the line, by the death of the receiving and of the sending agent (R-REP-5, R-REP-6).
//!
//! ```text
//!   web1:  slow line ─▶ copying ─▶ line cut both ways ─▶ error with remedy ─▶ line healed ─▶ goes on ─▶ first point
//!   db1:   slow line ─▶ copying ─▶ target killed ─▶ started ─▶ copying ─▶ source killed ─▶ started ─▶ first point
//! ```

use std::{fs, os::unix::fs::MetadataExt, time::Duration};

use anyhow::{Result, ensure};
use serde_json::Value;
use understudy_lab::{
    HostName, Stack,
    machine::Machine,
    probe::wait_until,
    story::evidence::{answers, item, item_is, now_us, number, point_after, points, text},
    wan::Cut,
};
use understudy_lifecycle_tests::{
    Scene,
    evidence::{begin_protection, item_directory, newest_point_is_whole, store_is_tidy, stored_points},
};

const ALPHA: HostName = HostName::AlphaH1;
const BRAVO: HostName = HostName::BravoH1;
/// So slow that the first copy of one disk takes some ten seconds.
const SLOW_KBIT: u32 = 16_000;
/// Long enough that what a cycle said of itself can be read before the next one.
const POLICY: &str = "slow";
/// Of some 18 MB that a disk uses, in bytes.
const A_GOOD_PART: u64 = 6 << 20;
/// What may have been in a buffer of the target when it was looked at, and what the guest wrote meanwhile, in bytes.
const IN_FLIGHT: u64 = 3 << 20;
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_first_copy_that_is_cut_off_goes_on_where_it_was_and_shows_no_half_point() {
    let machines = Machine::defaults().unwrap();
    let scene = Scene::set("cutcopy", &machines).unwrap();
    let stack = &scene.stack;
    let slow = ["policy", "create", POLICY, "--interval", "20s", "--keep", "12"];
    stack.cli().json(&slow).unwrap();

    the_line_is_cut(stack, &machines[0]).unwrap();
    both_agents_die(stack, &machines[1]).unwrap();
}

fn the_line_is_cut(stack: &Stack, web1: &Machine) -> Result<()> {
    let wan = stack.lab().wan();
    wan.rate(Some(SLOW_KBIT))?;
    begin_protection(stack, "web1", POLICY)?;
    let before = in_the_middle(stack, "web1")?;
    // The control plane is heard all along, so that what the source says of it is seen while it is so.
    wan.cut(Cut::Hosts)?;
    let written = answers(stack, ALPHA, web1)?.last;
    wait_until("the item to show its error and what to do", LIMIT, || {
        let health = item(stack, "web1")?["health"].clone();
        let error = &health["last_error"];
        let told = !text(error, "message").is_empty() && !text(error, "remedy").is_empty();
        Ok((health["activity"] == "error" && health["level"] != "ok" && told).then_some(()))
    })?;
    no_point_yet(stack, "web1")?;
    ensure!(answers(stack, ALPHA, web1)?.last > written, "the guest does not write any more");

    wan.heal()?;
    let (health, _) = wait_until("the first point", LIMIT, || {
        let health = item(stack, "web1")?["health"].clone();
        let complete = !points(stack, "web1")?.is_empty() && !text(&health, "last_cycle_kind").is_empty();
        Ok(complete.then_some(health))
    })?;
    resumed(&health, points(stack, "web1")?[0].changed_bytes, before)?;
    wan.rate(None)?;
    item_is(stack, "web1", "protected", ALPHA)?;
    converged(stack, web1)
}

fn both_agents_die(stack: &Stack, db1: &Machine) -> Result<()> {
    let wan = stack.lab().wan();
    wan.rate(Some(SLOW_KBIT))?;
    begin_protection(stack, "db1", POLICY)?;
    for victim in [BRAVO, ALPHA] {
        in_the_middle(stack, "db1")?;
        stack.agent(victim)?.kill_9()?;
        no_point_yet(stack, "db1")?;
        stack.restart_agent(victim)?;
        no_point_yet(stack, "db1")?;
    }
    wan.rate(None)?;
    item_is(stack, "db1", "protected", ALPHA)?;
    converged(stack, db1)?;
    // The newest point's, and that of a cycle that runs; what broken-off cycles made at the hypervisor is gone.
    let checkpoints = stack.lab().host(ALPHA).virsh(["checkpoint-list", "db1", "--name"])?;
    let left: Vec<&str> = checkpoints.split_whitespace().collect();
    ensure!((1..=2).contains(&left.len()), "checkpoints at the source: {left:?}");
    Ok(())
}

/// Waits until a good part of the first copy has arrived at the target, and returns how many bytes. What the source has handed to its
/// connection may still be on its way.
fn in_the_middle(stack: &Stack, name: &str) -> Result<u64> {
    let incoming = item_directory(&stack.lab().host(BRAVO), name).join("incoming/point");
    wait_until(&format!("the middle of the first copy of {name}"), LIMIT, || {
        let mut arrived = 0;
        for entry in fs::read_dir(&incoming)? {
            arrived += entry?.metadata()?.blocks() * 512;
        }
        Ok((arrived >= A_GOOD_PART).then_some(arrived))
    })
    .map(|(arrived, _)| arrived)
}

/// Neither told nor lying in the store (invariant 2).
fn no_point_yet(stack: &Stack, name: &str) -> Result<()> {
    let listed = points(stack, name)?;
    let stored = stored_points(&stack.lab().host(BRAVO), name)?;
    ensure!(listed.is_empty() && stored.is_empty(), "a half point shows: {listed:?}, {stored:?}");
    Ok(())
}

/// The cycle that made the first point sent only what had not arrived.
fn resumed(health: &Value, whole: u64, before: u64) -> Result<()> {
    let sent = number(health, "last_cycle_bytes")?;
    let kind = text(health, "last_cycle_kind");
    println!(
        "first point of {whole} bytes: {before} had arrived before the cut, {sent} were sent after it; {kind}"
    );
    ensure!(kind.starts_with("resumed full"), "the cycle after the cut was {kind}");
    ensure!(
        sent + before < whole + IN_FLIGHT,
        "{sent} of {whole} bytes were sent again, {before} had arrived"
    );
    Ok(())
}

fn converged(stack: &Stack, machine: &Machine) -> Result<()> {
    newest_point_is_whole(stack, BRAVO, machine)?;
    point_after(stack, &machine.name, now_us())?;
    newest_point_is_whole(stack, BRAVO, machine)?;
    store_is_tidy(&stack.lab().host(BRAVO), &machine.name)
}
