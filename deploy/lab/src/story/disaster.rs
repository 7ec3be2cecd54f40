//! Chapters 6 and 7: a site is lost at once, and returns (R-UF, R-FO-7, R-REP-7).

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::{
    Narrator, Story,
    evidence::{
        answers, array, item_is, newest_run, now_us, outcome, point_after, point_files, points, text,
        time_us, whole_journal,
    },
};
use crate::{
    HostName, Site, Stack, cli::Product, journal::record::DISK_BYTES, machine::Machine, probe::wait_until,
    wan::Cut,
};

/// The guest's clock is the emulator's: it may be behind by so much. Only comparisons of guest time with host time need it.
const CLOCK_SKEW_US: i64 = 2_500_000;
const RETURN_LIMIT: Duration = Duration::from_secs(60);
const ALPHA: HostName = HostName::AlphaH1;
const BRAVO: HostName = HostName::BravoH1;

pub(super) fn lose_alpha(story: &mut Story<'_>) -> Result<()> {
    story.tell.chapter("6. Disaster: the whole of alpha dies at once");
    let stack = story.stack;
    for machine in &story.machines {
        point_after(stack, &machine.name, now_us())?;
    }
    stack.lab().kill_site(Site::Alpha)?;
    story.tell.say("every process at alpha is killed, its links are down");
    let names = story.names();
    let mut arguments = vec!["failover", "unplanned"];
    arguments.extend(names.iter().map(String::as_str));

    story.tell.check("without a word about the primary side it is refused", || {
        refused_without_a_word(stack, &arguments)
    });
    arguments.extend(["--assert-primary-down", "site alpha has burnt down", "--yes", "--watch"]);
    stack.cli().show(&arguments)?;
    let run = newest_run(stack, &names[0])?;
    for machine in story.machines.clone() {
        let name = machine.name.clone();
        story.tell.check(&format!("{name} is up at bravo"), || {
            let page = answers(stack, BRAVO, &machine)?;
            Ok(format!("{} at {}, record {}", page.host, page.address, page.last))
        });
        story.tell.check(&format!("the loss stated for {name} agrees with the journals"), || {
            loss(stack, outcome(&run, &name)?, &machine)
        });
    }
    stack.cli().show(&["run", "commit", &text(&run, "name"), "--watch"])?;
    for name in names {
        story.tell.check(&format!("{name} is not protected now, and says so"), || {
            item_is(stack, &name, "not-protected", BRAVO)
        });
    }
    Ok(())
}

/// The failover is refused as long as nobody says what is known of the primary side, and the refusal says what to do.
pub(crate) fn refused_without_a_word(product: &impl Product, arguments: &[&str]) -> Result<String> {
    let refusal = product.cli().refused(&[arguments, &["--yes"]].concat())?;
    ensure!(refusal.said.contains("→"), "no remedy is given: {}", refusal.said);
    Ok(refusal.said.lines().nth(1).unwrap_or_default().trim().to_owned())
}

/// The journal on alpha's dead disks ends where the machine was killed; the point's journal ends at the point. What lies between them is
/// lost, and must be within what the run stated.
fn loss(stack: &Stack, stated: &serde_json::Value, machine: &Machine) -> Result<String> {
    let seq = stated["point"].as_u64().context("the run names no point")?;
    let instant = time_us(&stated["point_instant"])?;
    let span = stated["loss_span"].as_f64().context("the run states no span")?;
    let alive = whole_journal(&dead_disks(stack, machine)?)?;
    let saved = whole_journal(&point_files(&stack.lab().host(BRAVO), machine, seq))?;
    ensure!(saved.last <= alive.last, "the point holds records that were never written");
    let lost_us = alive.last_time_us.saturating_sub(saved.last_time_us);
    let stated_us = (span * 1e6) as u64;
    ensure!(lost_us <= stated_us, "{lost_us} µs were lost, {stated_us} stated");
    let off = i64::try_from(saved.last_time_us)? - instant;
    ensure!(off.abs() <= CLOCK_SKEW_US, "the last record is {off} µs away from the stated instant");
    Ok(format!(
        "records {} to {} lost, {:.1} s; stated: at most {span:.1} s, since {}",
        saved.last + 1,
        alive.last,
        lost_us as f64 / 1e6,
        text(stated, "point_instant")
    ))
}

/// libvirtd of a dead site cannot be asked; the product had put the machine's files below its store.
fn dead_disks(stack: &Stack, machine: &Machine) -> Result<Vec<std::path::PathBuf>> {
    let active = stack.lab().host(ALPHA).store().join("items").join(&machine.name).join("active");
    let mut generations: Vec<u64> = std::fs::read_dir(&active)
        .with_context(|| format!("{} cannot be read", active.display()))?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    generations.sort_unstable();
    let Some(latest) = generations.last() else {
        bail!("alpha's store has no active copy of {}", machine.name)
    };
    let directory = active.join(latest.to_string());
    Ok((b'a'..)
        .take(machine.disks as usize)
        .map(|letter| directory.join(format!("disk-vd{}.qcow2", char::from(letter))))
        .collect())
}

pub(super) fn alpha_returns(story: &mut Story<'_>) -> Result<()> {
    story.tell.chapter("7. Alpha returns, first without a link to the control plane");
    let stack = story.stack;
    let alpha = stack.lab().host(ALPHA);
    stack.lab().wan().cut(Cut::Both)?;
    stack.revive_site(Site::Alpha)?;
    for machine in story.machines.clone() {
        story.tell.check(&format!("alpha refuses to start its old {}", machine.name), || {
            let Err(refusal) = alpha.start(&machine.name) else { bail!("it was started") };
            ensure!(alpha.machine_state(&machine.name)? == "shut off", "it runs");
            let said = format!("{refusal:#}");
            let reason =
                said.split("understudy: ").nth(1).context("the guard was not asked")?.trim().to_owned();
            ensure!(reason.contains("generation"), "it failed for another reason: {said}");
            Ok(reason)
        });
    }
    stack.lab().wan().heal()?;
    story.tell.say("the links are whole again");
    for name in story.names() {
        story.tell.check(&format!("alpha is told its place for {name}"), || told_its_place(stack, &name));
    }
    copied_back(&mut story.tell, stack, &story.machines, DISK_BYTES)
}

/// A failback to alpha is begun and waits to be completed: all machines are protected towards alpha, by shipping what differs; each disk has `disk_bytes`.
pub(crate) fn copied_back(
    tell: &mut Narrator,
    product: &impl Product,
    machines: &[Machine],
    disk_bytes: u64,
) -> Result<()> {
    let before: Vec<u64> = machines.iter().map(|m| newest(product, &m.name)).collect::<Result<_>>()?;
    let mut arguments = vec!["failover", "failback"];
    arguments.extend(machines.iter().map(|m| m.name.as_str()));
    arguments.extend(["--yes", "--watch"]);
    product.cli().show(&arguments)?;
    tell.check("the failback waits to be completed", || {
        let run = newest_run(product, &machines[0].name)?;
        ensure!(array(&run["allowed_actions"]).iter().any(|verb| verb == "complete-failover"), "{run:#}");
        Ok(text(&run, "waiting_for"))
    });
    for (Machine { name, disks, .. }, before) in machines.iter().zip(before) {
        tell.check(&format!("{name} is protected towards alpha"), || {
            item_is(product, name, "protected", BRAVO)
        });
        tell.check(&format!("only what differs of {name} was shipped"), || {
            let first =
                points(product, name)?.into_iter().find(|p| p.seq > before).context("no new point")?;
            let whole = u64::from(*disks) * disk_bytes;
            ensure!(
                first.changed_bytes > 0 && first.changed_bytes < whole / 4,
                "{} bytes",
                first.changed_bytes
            );
            Ok(format!("{} KiB of {} MiB", first.changed_bytes >> 10, whole >> 20))
        });
    }
    Ok(())
}

/// The correction that the orchestrator makes by itself is a job like any other.
fn told_its_place(stack: &impl Product, name: &str) -> Result<String> {
    wait_until("the correction", RETURN_LIMIT, || {
        let jobs = stack.cli().json(&["job", "list", "--type", "reconcile"])?;
        let about = |job: &serde_json::Value| {
            array(&job["targets"]).iter().any(|t| t == &format!("protectedItems/{name}"))
        };
        let done = array(&jobs).iter().find(|job| about(job) && job["state"] == "Succeeded");
        Ok(done.map(|job| format!("job {}: {}", text(job, "job"), text(job, "phase"))))
    })
    .map(|(said, _)| said)
}

/// The number of the newest point that the item's stand-by side has; 0 for none.
fn newest(stack: &impl Product, name: &str) -> Result<u64> {
    Ok(points(stack, name)?.last().map_or(0, |p| p.seq))
}
