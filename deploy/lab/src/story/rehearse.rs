//! Chapter 3: a test failover from an older point into a network of its own, while replication goes on (R-TF-1, 3 to 5, 9).

use std::{fs, net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    Story,
    evidence::{
        array, newest_run, now_us, outcome, point_after, point_files, points, qemu_img_check, text,
        whole_journal,
    },
};
use crate::{
    Host, HostName, Stack, Visitor,
    cli::Product,
    machine::Machine,
    probe::{Reach, guest_page, reach_from_guest, wait_reach_from_guest, wait_until},
    topology::WITNESS,
};

const BOOT_LIMIT: Duration = Duration::from_secs(60);
/// Where the operator's visitor sits in the test network; no machine has this address.
const VISITOR: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 250);
const INTERVAL_US: i64 = 5_000_000;
/// What the policy keeps, and the one that has just come.
const KEPT: usize = 7;
const RETENTION_LIMIT: Duration = Duration::from_secs(30);

pub(super) fn test_failover(story: &mut Story<'_>) -> Result<()> {
    story.tell.chapter("3. Test failover of web1 from an older point");
    let stack = story.stack;
    let bravo = stack.lab().host(HostName::BravoH1);
    let web1 = story.machines[0].clone();
    let known = points(stack, "web1")?;
    let older = known.iter().rev().nth(2).context("not enough points")?.clone();
    story.tell.say(&format!("from point {}, of {} points up to {}", older.seq, known.len(), known.len()));
    let begun = now_us();
    stack.cli().show(&[
        "failover",
        "test",
        "web1",
        "--point",
        &format!("web1={}", older.seq),
        "--yes",
        "--watch",
    ])?;
    let run = newest_run(stack, "web1")?;
    let id = text(&run, "name");

    story.tell.check("the run waits for someone to complete it", || {
        ensure!(run["state"] == "waiting", "it is {}", run["state"]);
        Ok(text(&run, "waiting_for"))
    });
    let production = story.machines[0].address().context("no address")?;
    story.tell.check("the test machine has the address that a failover would give it", || {
        let address = text(outcome(&run, "web1")?, "address");
        ensure!(address == production.to_string(), "it has {address}");
        Ok(address)
    });
    inside(story, &bravo, &web1, production, older.seq, &run)?;

    let newest = point_after(stack, "web1", now_us())?;
    story.tell.check("replication went on at its interval during the test", || {
        cadence(stack, INTERVAL_US, begun, newest.instant_us)
    });

    stack.cli().show(&[
        "run",
        "complete-test",
        &id,
        "--notes",
        "web1 came up; page and journal looked at",
        "--watch",
    ])?;
    story.tell.check("the notes stay with the job", || notes_kept(stack, &id, "journal looked at"));
    story.tell.check("nothing of the test is left", || nothing_left(stack, &bravo));
    story.tell.check("points beyond the policy's six are merged away, and the rest is sound", || {
        let (kept, _) = wait_until("retention", RETENTION_LIMIT, || {
            Ok(Some(points(stack, "web1")?).filter(|points| points.len() <= KEPT))
        })?;
        for point in &kept {
            let files = point_files(&bravo, &web1, point.seq);
            let sound = files.iter().try_for_each(|file| qemu_img_check(file));
            let sound = sound.and_then(|()| whole_journal(&files).map(drop));
            // Replication goes on: with the next point, the oldest of these is merged away while it is looked at. One that still has its
            // manifest is a point, and whole (invariant 2).
            if files.iter().any(|file| file.with_file_name("manifest.json").exists()) {
                sound.with_context(|| format!("point {}", point.seq))?;
            }
        }
        let first = kept.first().context("no point is left")?.seq;
        ensure!(first > 1, "the first point is still there");
        Ok(format!("{} points from number {first} on", kept.len()))
    });
    Ok(())
}

/// Looks at the test machine from a seat inside its network.
fn inside(
    story: &mut Story<'_>,
    bravo: &Host,
    web1: &Machine,
    address: Ipv4Addr,
    seq: u64,
    run: &Value,
) -> Result<()> {
    let stack = story.stack;
    let bridge = test_bridge(bravo)?;
    let visitor = Visitor::enter(bravo, &bridge, "look", VISITOR)?;
    let seat = visitor.namespace();
    story.tell.check("it boots from the point and answers inside its network", || {
        let (page, _) = wait_until("the test machine's page", BOOT_LIMIT, || {
            guest_page(seat, address, Duration::from_secs(1)).map(Some)
        })?;
        let of_point = whole_journal(&point_files(bravo, web1, seq))?;
        let production = super::evidence::answers(stack, HostName::AlphaH1, web1)?;
        ensure!(page.host == "web1", "it says it is {}", page.host);
        ensure!(page.boot_id != production.boot_id, "that is the production machine");
        ensure!(page.last >= of_point.last, "it lacks records of its point");
        Ok(format!("{} at {}, went on after record {}", page.host, page.address, of_point.last))
    });
    story.tell.check("a machine in production reaches the production witness", || {
        let host = stack.lab().host(HostName::AlphaH1).namespace();
        wait_reach_from_guest(&host, address, WITNESS, 80)?;
        Ok("web1 at alpha: connected".to_owned())
    });
    story.tell.check("the test machine does not", || {
        let reach = reach_from_guest(seat, address, WITNESS, 80)?;
        ensure!(reach == Reach::Unreachable, "{reach:?}");
        Ok("the same address from inside the test: unreachable".to_owned())
    });
    story.tell.check("isolation was proven before the machine started", || isolation_came_first(run));
    Ok(())
}

/// The job's notes hold these words.
pub(crate) fn notes_kept(product: &impl Product, job: &str, words: &str) -> Result<String> {
    let notes = product.cli().json(&["job", "notes", job])?;
    let kept = array(&notes).iter().any(|n| text(n, "text").contains(words));
    ensure!(kept, "the job's notes are {notes}");
    Ok(format!("{} note(s)", array(&notes).len()))
}

/// The step that proves isolation succeeded before the test machine was started.
pub(crate) fn isolation_came_first(run: &Value) -> Result<String> {
    let steps = array(&run["steps"]);
    let at = |part: &str| steps.iter().find(|s| text(s, "step").ends_with(part)).context("no such step");
    let (probe, start) = (at("prove-isolation-0-0")?, at(".start")?);
    ensure!(probe["state"] == "succeeded", "the probe is {}", probe["state"]);
    ensure!(text(probe, "end_time") <= text(start, "start_time"), "it came later");
    Ok(text(probe, "outcome"))
}

fn test_bridge(host: &Host) -> Result<String> {
    let networks = host.virsh(["net-list", "--all", "--name"])?;
    let name = networks
        .lines()
        .map(str::trim)
        .find(|n| n.starts_with("ust-"))
        .context("there is no test network")?;
    let info = host.virsh(["net-info", name])?;
    let bridge = info.lines().find_map(|line| line.strip_prefix("Bridge:")).context("it has no bridge")?;
    Ok(bridge.trim().to_owned())
}

/// No two neighbouring points since `from_us` are further apart than one and a half intervals.
pub(crate) fn cadence(stack: &impl Product, interval_us: i64, from_us: i64, to_us: i64) -> Result<String> {
    let points = points(stack, "web1")?;
    let during: Vec<i64> = points
        .iter()
        .map(|p| p.instant_us)
        .filter(|at| (from_us - interval_us..=to_us).contains(at))
        .collect();
    let gaps: Vec<i64> = during.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let widest = gaps.iter().copied().max().context("no two points during the test")?;
    ensure!(widest <= interval_us * 3 / 2, "a gap of {:.1} s", widest as f64 / 1e6);
    Ok(format!("{} points, widest gap {:.1} s", during.len(), widest as f64 / 1e6))
}

fn nothing_left(stack: &Stack, host: &Host) -> Result<String> {
    let machines = host.virsh(["list", "--all", "--name"])?;
    ensure!(machines.trim().is_empty(), "machines: {}", machines.trim());
    let networks = host.virsh(["net-list", "--all", "--name"])?;
    ensure!(!networks.contains("ust-"), "networks: {}", networks.trim());
    let branches = host.store().join("items/web1/branches");
    let left = fs::read_dir(&branches).map(Iterator::count).unwrap_or(0);
    ensure!(left == 0, "{left} branches in the store");
    let leases = stack.cli().json(&["lease", "list"])?;
    ensure!(array(&leases).is_empty(), "leases: {leases}");
    let bridges = host.namespace().command("ip").args(["-br", "link"]).output()?;
    let bridges = String::from_utf8_lossy(&bridges.stdout).into_owned();
    ensure!(!bridges.contains("ut-"), "interfaces: {bridges}");
    Ok("no machine, network, interface, overlay or lease".to_owned())
}
