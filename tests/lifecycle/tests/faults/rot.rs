//! A block of a replica rots on the target's disk (R-REP-5).
//!
//! ```text
//!   web1 protected ─▶ paused, one byte of an old layer flipped ─▶ item scrub: told, job fails, such points are refused
//!                 ─▶ resumed: the block comes again ─▶ every point whole, the store verifies
//! ```

use std::{
    fs::OpenOptions,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use understudy_lab::{
    HostName, Stack,
    machine::Machine,
    probe::wait_until,
    story::evidence::{array, at_least_points, item, number, point_files, points, text},
};
use understudy_lifecycle_tests::{
    Scene,
    evidence::{FIVE_SECONDS, newest_point_is_whole, protect},
};

const BRAVO: HostName = HostName::BravoH1;
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn r_rep_5_a_rotten_block_is_found_refused_and_mended_from_the_source() {
    let machines = [Machine::reserved("web1", 1).unwrap()];
    let scene = Scene::set("rot", &machines).unwrap();
    let (stack, web1) = (&scene.stack, &machines[0]);
    protect(stack, "web1", FIVE_SECONDS).unwrap();
    at_least_points(stack, "web1", 3).unwrap();
    let (file, place) = rotten(stack, web1).unwrap();
    found_and_refused(stack).unwrap();
    mended(stack, web1, &file, place).unwrap();
}

/// Flips a byte of what the newest point shows of its lowest layer. Returns where, once replication rests.
fn rotten(stack: &Stack, web1: &Machine) -> Result<(PathBuf, u64)> {
    stack.cli().json(&["item", "pause", "web1", "--reason", "a look at the disk"])?;
    wait_until("replication to rest", LIMIT, || {
        Ok((item(stack, "web1")?["health"]["activity"] == "paused").then_some(()))
    })?;
    let newest = points(stack, "web1")?.pop().context("there is a point")?;
    let top = &point_files(&stack.lab().host(BRAVO), web1, newest.seq)[0];
    let map = qemu_img(&["map"], top)?;
    let data: Vec<&Value> = array(&map).iter().filter(|extent| extent["data"] == true).collect();
    let deepest = data.iter().filter_map(|extent| extent["depth"].as_u64()).max().context("no data")?;
    // The journal is at the beginning; what the guest never writes again is beyond.
    let last = data.iter().rfind(|extent| extent["depth"] == deepest).context("no data")?;
    let chain = qemu_img(&["info", "--backing-chain", "--force-share"], top)?;
    let layer = array(&chain).get(usize::try_from(deepest)?).context("the chain is shorter than that")?;
    let file = PathBuf::from(text(layer, "filename")).canonicalize()?;
    let place = number(last, "offset")? + 100;
    flip(&file, place)?;
    Ok((file, place))
}

fn qemu_img(words: &[&str], file: &Path) -> Result<Value> {
    let out = Command::new("qemu-img").args(words).arg("--output=json").arg(file).output()?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Ok(serde_json::from_slice(&out.stdout)?)
}

fn flip(file: &Path, place: u64) -> Result<()> {
    let disk = OpenOptions::new().read(true).write(true).open(file)?;
    let mut byte = [0];
    disk.read_exact_at(&mut byte, place)?;
    disk.write_all_at(&[byte[0] ^ 0x10], place)?;
    Ok(())
}

fn found_and_refused(stack: &Stack) -> Result<()> {
    let job = text(&stack.cli().json(&["item", "scrub", "web1"])?, "job");
    let (ended, _) = wait_until("the scrub to end", LIMIT, || {
        let job = stack.cli().json(&["job", "show", &job])?;
        Ok((!job["ended"].is_null()).then_some(job))
    })?;
    ensure!(ended["state"] == "Failed", "{ended}");
    ensure!(ended.to_string().contains("POINT_DAMAGED"), "{ended}");
    let (damaged, _) = wait_until("the damage to be told", LIMIT, || {
        let listed = stack.cli().json(&["point", "list", "web1"])?;
        let damaged = array(&listed).iter().filter(|point| point["damaged_blocks"] != 0);
        let damaged: Vec<u64> = damaged.map(|point| number(point, "seq")).collect::<Result<_>>()?;
        Ok((!damaged.is_empty()).then_some(damaged))
    })?;
    println!("one byte shows in points {damaged:?}");
    let health = item(stack, "web1")?["health"].clone();
    ensure!(health["level"] != "ok", "{health}");
    let newest = damaged.iter().max().context("there is one")?.to_string();
    let chosen = format!("web1={newest}");
    let refused = stack.cli().command(&["failover", "test", "web1", "--yes", "--point", &chosen]).output()?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && said.contains("damaged"), "{said}");
    Ok(())
}

fn mended(stack: &Stack, web1: &Machine, file: &Path, place: u64) -> Result<()> {
    stack.cli().json(&["item", "resume", "web1"])?;
    wait_until("all points to be whole again", LIMIT, || {
        let listed = stack.cli().json(&["point", "list", "web1"])?;
        let whole = array(&listed).iter().all(|point| point["damaged_blocks"] == 0);
        Ok((whole && !array(&listed).is_empty()).then_some(()))
    })?;
    newest_point_is_whole(stack, BRAVO, web1)?;
    let store = stack.lab().host(BRAVO).store();
    let store = store.display().to_string();
    let verified = stack.cli().command(&["store", "verify", "--dir", &store, "--item", "web1"]).output()?;
    ensure!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    // And a test would be seen to fail: what was flipped lies in this file, or the file has left with its point.
    ensure!(place > 0 && file.starts_with(&store));
    let job = text(&stack.cli().json(&["item", "scrub", "web1"])?, "job");
    wait_until("a scrub that finds nothing", LIMIT, || {
        let job = stack.cli().json(&["job", "show", &job])?;
        Ok((job["state"] == "Succeeded").then_some(()))
    })
    .map(drop)
}
