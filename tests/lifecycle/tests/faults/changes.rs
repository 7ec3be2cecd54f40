//! What changes under protection, on a guest that runs and writes (R-REP-8, R-REP-7).
//!
//! ```text
//!   db1, two disks ─▶ vdb grown live ─▶ point with the new size, few bytes ─▶ vdb's bitmap lost ─▶ vdb alone is compared
//!   ─▶ paused: nothing arrives, its age counts on ─▶ resumed: a delta ─▶ its policy changed: it goes on by it
//! ```

use std::{fs, os::unix::fs::MetadataExt, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use understudy_lab::{
    HostName, Stack,
    host::Host,
    machine::Machine,
    probe::wait_until,
    story::evidence::{array, item, item_is, now_us, number, point_after, text, time_us},
};
use understudy_lifecycle_tests::{
    Scene,
    evidence::{newest_point_is_whole, protect},
};

const ALPHA: HostName = HostName::AlphaH1;
const BRAVO: HostName = HostName::BravoH1;
/// Long enough that what a cycle said of itself can be read before the next one.
const POLICY: &str = "slow";
const GROWTH: u64 = 64 << 20;
/// More than the guest writes within a few intervals, less than any disk holds, in bytes.
const A_FEW_WRITES: u64 = 8 << 20;
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_disk_grown_live_is_shipped_by_its_changes_and_a_lost_bitmap_costs_its_own_disk_only() {
    let machines = [Machine::reserved("db1", 2).unwrap()];
    let scene = Scene::set("changes", &machines).unwrap();
    let (stack, db1) = (&scene.stack, &machines[0]);
    stack.cli().json(&["policy", "create", POLICY, "--interval", "5s", "--keep", "12"]).unwrap();
    protect(stack, "db1", POLICY).unwrap();
    item_is(stack, "db1", "protected", ALPHA).unwrap();
    grown_live(stack, db1).unwrap();
    bitmap_lost(stack, db1).unwrap();
    paused_and_resumed(stack, db1).unwrap();
    policy_changed(stack, db1).unwrap();
}

/// What QEMU knows about one of the machine's disks: its node and its size.
fn block(host: &Host, machine: &Machine, index: usize) -> Result<(String, u64)> {
    let answer = qmp(host, machine, &json!({ "execute": "query-block" }))?;
    let image = host.disks(machine)[index].display().to_string();
    let found = array(&answer["return"]).iter().find(|b| b["inserted"]["file"] == image.as_str());
    let inserted = &found.with_context(|| format!("no {image} in {answer}"))?["inserted"];
    Ok((text(inserted, "node-name"), number(&inserted["image"], "virtual-size")?))
}

fn qmp(host: &Host, machine: &Machine, command: &Value) -> Result<Value> {
    let answer = host.virsh(["qemu-monitor-command", &machine.name, &command.to_string()])?;
    Ok(serde_json::from_str(&answer)?)
}

/// The health of a cycle that began after now.
fn next_cycle(stack: &Stack, kind: &str) -> Result<Value> {
    let (health, _) = wait_until(&format!("a cycle that is {kind}"), LIMIT, || {
        let health = item(stack, "db1")?["health"].clone();
        Ok(text(&health, "last_cycle_kind").contains(kind).then_some(health))
    })?;
    Ok(health)
}

fn grown_live(stack: &Stack, db1: &Machine) -> Result<()> {
    let host = stack.lab().host(ALPHA);
    let (_, before) = block(&host, db1, 1)?;
    let size = before + GROWTH;
    host.virsh(["blockresize", &db1.name, "vdb", &format!("{size}B")])?;
    let health = next_cycle(stack, &format!("from {before} to {size} bytes"))?;
    let (kind, sent) = (text(&health, "last_cycle_kind"), number(&health, "last_cycle_bytes")?);
    println!("grown by {GROWTH} bytes: {sent} were sent; {kind}");
    ensure!(kind.starts_with("incremental") && sent < A_FEW_WRITES, "{sent} bytes were sent; {kind}");
    point_after(stack, "db1", now_us())?;
    newest_point_is_whole(stack, BRAVO, db1)?;
    ensure!(text(&item(stack, "db1")?["health"], "level") == "ok", "the growth is no reason to worry");
    Ok(())
}

/// The bitmap of one disk is gone, as after a fault of that file alone.
fn bitmap_lost(stack: &Stack, db1: &Machine) -> Result<()> {
    let host = stack.lab().host(ALPHA);
    let (node, _) = block(&host, db1, 1)?;
    let (_, _) = wait_until("the bitmaps of vdb to be removed", LIMIT, || {
        let checkpoints = host.virsh(["checkpoint-list", &db1.name, "--name"])?;
        let mut removed = false;
        for name in checkpoints.split_whitespace() {
            let arguments = json!({ "node": node, "name": name });
            let answer =
                qmp(&host, db1, &json!({ "execute": "block-dirty-bitmap-remove", "arguments": arguments }))?;
            removed |= answer.get("return").is_some();
        }
        Ok(removed.then_some(()))
    })?;
    let health = next_cycle(stack, "digest-compare")?;
    let (kind, sent) = (text(&health, "last_cycle_kind"), number(&health, "last_cycle_bytes")?);
    let read = number(&health, "total_bytes")?;
    let whole = fs::metadata(&host.disks(db1)[0])?.blocks() * 512;
    println!("vdb's bitmap lost: {read} bytes were read, {sent} sent, vda alone has {whole}; {kind}");
    ensure!(kind.contains("vdb:") && !kind.contains("vda:"), "not vdb alone: {kind}");
    ensure!(read < whole, "{read} bytes were read, so vda with its {whole} was compared too");
    ensure!(sent < A_FEW_WRITES, "{sent} bytes were sent");
    point_after(stack, "db1", now_us())?;
    newest_point_is_whole(stack, BRAVO, db1)?;
    next_cycle(stack, "incremental")?;
    Ok(())
}

/// What the guest writes during a pause does not arrive, the age of the point counts on, and what arrives afterwards is a delta.
fn paused_and_resumed(stack: &Stack, db1: &Machine) -> Result<()> {
    stack.cli().json(&["item", "pause", "db1", "--reason", "the link is full"])?;
    wait_until("the pause", LIMIT, || {
        Ok((text(&item(stack, "db1")?["health"], "activity") == "paused").then_some(()))
    })?;
    let newest = |stack: &Stack| item(stack, "db1").and_then(|item| number(&item, "latest_point"));
    let (point, arrived) = (newest(stack)?, newest_point_is_whole(stack, BRAVO, db1)?);
    let (late, took) = wait_until("a point that is too old", LIMIT, || {
        let health = item(stack, "db1")?["health"].clone();
        let told = text(&health, "reason").contains("because replication is paused");
        Ok((told && health["backlog_bytes"].as_u64() > Some(0)).then_some(health))
    })?;
    ensure!(text(&late, "level") == "critical" && text(&late, "remedy").contains("item resume"), "{late}");
    ensure!(newest(stack)? == point, "a point arrived during the pause");
    let refused = stack.cli().json(&["failover", "planned", "db1", "--preview"]);
    ensure!(format!("{refused:?}").contains("item resume db1"), "{refused:?}");
    stack.cli().json(&["item", "resume", "db1"])?;
    point_after(stack, "db1", now_us())?;
    let health = item(stack, "db1")?["health"].clone();
    let (kind, sent) = (text(&health, "last_cycle_kind"), number(&health, "last_cycle_bytes")?);
    println!("paused until it was too old, {took:?}: {sent} bytes were sent afterwards; {kind}");
    ensure!(kind.starts_with("incremental") && sent < A_FEW_WRITES, "{sent} bytes were sent; {kind}");
    let after = newest_point_is_whole(stack, BRAVO, db1)?;
    ensure!(after.last > arrived.last, "nothing that was written during the pause has arrived");
    Ok(())
}

/// Source and target follow the changed policy, and no cycle is broken off for it.
fn policy_changed(stack: &Stack, db1: &Machine) -> Result<()> {
    stack.cli().json(&["policy", "update", POLICY, "--interval", "1s", "--rpo", "4s", "--keep", "3"])?;
    let (seen, took) = wait_until("points by the changed policy", LIMIT, || {
        let listed = stack.cli().json(&["point", "list", "db1"])?;
        let instants: Vec<i64> =
            array(&listed).iter().map(|point| time_us(&point["instant"])).collect::<Result<_>>()?;
        let dense = instants.windows(2).all(|pair| pair[0] - pair[1] < 3_000_000);
        Ok((instants.len() == 3 && dense).then_some(instants.len()))
    })?;
    println!("{seen} points are kept, made every second, {took:?} after the policy was changed");
    let health = item(stack, "db1")?["health"].clone();
    ensure!(number(&health, "failures")? == 0 && health["last_error"].is_null(), "{health}");
    newest_point_is_whole(stack, BRAVO, db1)?;
    Ok(())
}
