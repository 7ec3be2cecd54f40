//! Chapters 1 and 2: the agents' facts, protection, the first copy and the changes after it (R-SITE, R-REP-1 to 6).

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{
    Narrator, Story,
    evidence::{
        Point, array, at_least_points, item, item_is, number, point_files, qemu_img_check, text,
        whole_journal,
    },
};
use crate::{HostName, cli::Product, machine::Machine, probe::wait_until, stack::resource};

const FACTS_LIMIT: Duration = Duration::from_secs(20);
/// Enough for a first copy and two cycles after it.
const POINTS: usize = 4;

/// Finds the machines at alpha and protects them with this policy.
pub(crate) fn find(
    tell: &mut Narrator,
    product: &impl Product,
    machines: &[Machine],
    policy: &str,
) -> Result<()> {
    tell.chapter("1. What the agents report, and protection");
    let cli = product.cli();
    cli.show(&["host", "list"])?;
    for machine in machines {
        tell.check(&format!("alpha's agent reports {} with its disks and address", machine.name), || {
            reported(product, machine, HostName::AlphaH1)
        });
    }
    cli.show(&["machine", "list"])?;
    for Machine { name, .. } in machines {
        let machine = format!("{}/{name}", resource(HostName::AlphaH1));
        let target = resource(HostName::BravoH1);
        cli.show(&[
            "item",
            "protect",
            name,
            "--machine",
            &machine,
            "--to",
            &target,
            "--policy",
            policy,
            "--watch",
        ])?;
    }
    for Machine { name, .. } in machines {
        tell.check(&format!("{name} is protected"), || {
            item_is(product, name, "protected", HostName::AlphaH1)
        });
    }
    cli.show(&["item", "list"])
}

/// Waits until the host's agent reports the machine running, complete, with its own MAC and address.
pub(crate) fn reported(product: &impl Product, machine: &Machine, host: HostName) -> Result<String> {
    let wanted = format!("{}/{}", resource(host), machine.name);
    let address = machine.address().context("no reserved address")?.to_string();
    wait_until(&format!("{wanted} running with its address"), FACTS_LIMIT, || {
        let listed = product.cli().json(&["machine", "list", "--host", &resource(host)])?;
        let found = array(&listed).iter().find(|m| m["name"] == wanted.as_str()).cloned();
        let found = found.context("not listed")?;
        let complete = found["power"] == "running"
            && array(&found["disks"]).len() == machine.disks as usize
            && found["nics"][0]["addresses"][0] == address.as_str()
            && found["nics"][0]["mac"] == machine.mac.as_str();
        Ok(complete.then(|| format!("running, {} disk(s), {} at {address}", machine.disks, machine.mac)))
    })
    .map(|(said, _)| said)
}

/// The points after the first hold what changed, which is much less than the whole.
pub(crate) fn changed_blocks_only(product: &impl Product, name: &str, points: &[Point]) -> Result<String> {
    let (first, later) = points.split_first().context("no points")?;
    let largest = later.iter().map(|p| p.changed_bytes).max().unwrap_or(0);
    ensure!(first.seq == 1, "the first point is {}", first.seq);
    ensure!(largest > 0, "the guest writes, and nothing was shipped");
    ensure!(largest * 5 < first.changed_bytes, "first {}, later up to {largest} bytes", first.changed_bytes);
    let kind = text(&item(product, name)?["health"], "last_cycle_kind");
    ensure!(kind.starts_with("incremental"), "the last cycle was {kind}");
    Ok(format!("first {} KiB, later at most {} KiB; {kind}", first.changed_bytes >> 10, largest >> 10))
}

/// The product itself says that the newest point is young enough.
pub(crate) fn objective_is_met(product: &impl Product, name: &str) -> Result<String> {
    let item = item(product, name)?;
    let health = &item["health"];
    ensure!(health["level"] == "ok", "health is {health}");
    number(&item, "latest_point")?;
    Ok(format!("point age {:.1} s", health["rpo"].as_f64().unwrap_or(f64::NAN)))
}

pub(super) fn replicate(story: &mut Story<'_>) -> Result<()> {
    story.tell.chapter("2. A first copy while the guests write, then only what changed");
    let stack = story.stack;
    let bravo = stack.lab().host(HostName::BravoH1);
    for machine in story.machines.clone() {
        let name = &machine.name;
        let points = at_least_points(stack, name, POINTS)?;
        story.tell.check(&format!("after the first copy, {name}'s points hold changed blocks only"), || {
            changed_blocks_only(stack, name, &points)
        });
        story.tell.check(&format!("every point of {name} is a sound image, and a consistent one"), || {
            let mut last = 0;
            for point in &points {
                let files = point_files(&bravo, &machine, point.seq);
                for file in &files {
                    qemu_img_check(file)?;
                }
                let journal = whole_journal(&files).with_context(|| format!("point {}", point.seq))?;
                ensure!(
                    journal.last > last,
                    "point {} holds nothing newer than the one before it",
                    point.seq
                );
                last = journal.last;
            }
            let disks = if machine.disks > 1 { ", no cut between its disks" } else { "" };
            Ok(format!("{} points checked, the newest ends with record {last}{disks}", points.len()))
        });
        story.tell.check(&format!("{name} kept running"), || {
            let page = super::evidence::answers(stack, HostName::AlphaH1, &machine)?;
            Ok(format!("same boot, record {} written", page.last))
        });
        story.tell.check(&format!("the health of {name} tells its recovery point objective is met"), || {
            objective_is_met(stack, name)
        });
    }
    stack.cli().show(&["item", "list"])?;
    stack.cli().show(&["point", "list", "db1"])
}
