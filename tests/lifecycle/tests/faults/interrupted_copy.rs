//! The first copy is cut off: by the line, by the death of the receiving and of the sending agent (R-REP-5, R-REP-6).
//!
//! ```text
//!   web1:  slow line ─▶ copying ─▶ line cut both ways ─▶ error with remedy ─▶ line healed ─▶ goes on ─▶ first point
//!   db1:   slow line ─▶ copying ─▶ target killed ─▶ started ─▶ copying ─▶ source killed ─▶ started ─▶ first point
//! ```

use std::{cell::Cell, time::Duration};

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
    evidence::{begin_protection, newest_point_is_whole, store_is_tidy, stored_points},
};

const ALPHA: HostName = HostName::AlphaH1;
const BRAVO: HostName = HostName::BravoH1;
/// So slow that the first copy of one disk takes some ten seconds.
const SLOW_KBIT: u32 = 16_000;
/// Long enough that what a cycle said of itself can be read before the next one.
const POLICY: &str = "slow";
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
    wan.cut(Cut::Both)?;
    let written = answers(stack, ALPHA, web1)?.last;

    // The control plane is on the other side of the line as well, so the source's own words come with the line.
    wait_until("replication to be known as not in order", LIMIT, || {
        let health = item(stack, "web1")?["health"].clone();
        Ok((health["level"] != "ok" && !text(&health, "reason").is_empty()).then_some(()))
    })?;
    no_point_yet(stack, "web1")?;
    ensure!(answers(stack, ALPHA, web1)?.last > written, "the guest does not write any more");
    wait_until("the source to give up the transfer", LIMIT, || {
        let log = std::fs::read_to_string(stack.agent(ALPHA)?.spec().log.clone())?;
        Ok(log.contains("cycle failed").then_some(()))
    })?;

    wan.heal()?;
    let seen = Cell::new(false);
    let (health, _) = wait_until("the first point", LIMIT, || {
        let health = item(stack, "web1")?["health"].clone();
        let error = &health["last_error"];
        if health["activity"] == "error" {
            ensure!(!text(error, "message").is_empty() && !text(error, "remedy").is_empty(), "{error}");
            seen.set(true);
        }
        let complete = !points(stack, "web1")?.is_empty() && !text(&health, "last_cycle_kind").is_empty();
        Ok(complete.then_some(health))
    })?;
    ensure!(seen.get(), "the error and what to do about it were never shown");
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
    converged(stack, db1)
}

/// Waits until a good part of the first copy has been sent, and returns how many bytes.
fn in_the_middle(stack: &Stack, name: &str) -> Result<u64> {
    wait_until(&format!("the middle of the first copy of {name}"), LIMIT, || {
        let health = item(stack, name)?["health"].clone();
        let (sent, total) = (number(&health, "sent_bytes")?, number(&health, "total_bytes")?);
        ensure!(points(stack, name)?.is_empty(), "the first copy is complete already");
        Ok((health["activity"] == "initial" && total > 0 && sent * 2 >= total).then_some(sent))
    })
    .map(|(sent, _)| sent)
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
    println!("first point of {whole} bytes: {before} sent before the cut, {sent} after it; {kind}");
    ensure!(kind.starts_with("resumed full"), "the cycle after the cut was {kind}");
    ensure!(sent * 4 < whole * 3, "{sent} of {whole} bytes were sent again, after {before} before the cut");
    Ok(())
}

fn converged(stack: &Stack, machine: &Machine) -> Result<()> {
    newest_point_is_whole(stack, BRAVO, machine)?;
    point_after(stack, &machine.name, now_us())?;
    newest_point_is_whole(stack, BRAVO, machine)?;
    store_is_tidy(&stack.lab().host(BRAVO), &machine.name)
}
