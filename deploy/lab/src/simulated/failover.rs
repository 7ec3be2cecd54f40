//! Chapters 4 to 8 on simulated drivers: planned failover and back, the loss of a site and its return, and a failback in whose second
//! half parts are killed (R-PF, R-UF, R-FO-4 to 7, R-REP-7, R-JOB-3).

use std::{
    io::Write as _,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use understudy_hypervisor::simulated;

use super::{SimulatedStack, SimulatedStory, journal::whole_journal, stack::DISK_MIB, story::machine_files};
use crate::{
    HostName, Service,
    cli::Product as _,
    machine::Machine,
    probe::wait_until,
    stack::resource,
    story::{
        disaster::{copied_back, refused_without_a_word},
        evidence::{
            array, files_in_store, item, item_is, newest_run, now_us, number, outcome, point_after, points,
            text, time_us,
        },
        planned::{await_progress, await_state, commit, digests, steps_once},
        protect::reported,
    },
};

const FACTS_LIMIT: Duration = Duration::from_secs(20);
/// Some cycles, with the pause after one that failed.
const FENCE_LIMIT: Duration = Duration::from_secs(30);
const ALPHA: HostName = HostName::AlphaH1;
const BRAVO: HostName = HostName::BravoH1;

pub(super) fn planned(
    story: &mut SimulatedStory<'_>,
    title: &str,
    from: HostName,
    to: HostName,
) -> Result<()> {
    story.tell.chapter(title);
    let stack = story.stack;
    stack.cli().show(&order(&story.machines, "planned", &["--yes", "--watch"]))?;
    let run = newest_run(stack, &story.machines[0].name)?;
    settle(story, &run, from, to)
}

/// What must be true of every item when the run waits for commit, and after it.
fn settle(story: &mut SimulatedStory<'_>, run: &Value, from: HostName, to: HostName) -> Result<()> {
    let (stack, machines) = (story.stack, story.machines.clone());
    story.tell.check("the run waits for commit", || {
        ensure!(run["state"] == "waiting", "it is {}", run["state"]);
        Ok(text(run, "waiting_for"))
    });
    let mut ends = Vec::new();
    for machine in &machines {
        let name = &machine.name;
        story.tell.check(&format!("{name} runs at {to} with its own address and MAC"), || {
            reported(stack, machine, to)
        });
        story.tell.check(&format!("{name} does not run at {from} any more"), || is_off(stack, machine, from));
        story.tell.check(&format!("no record of {name} was lost"), || {
            let (last, said) = no_loss(stack, run, machine, from, to)?;
            ends.push((machine.clone(), last));
            Ok(said)
        });
        story.tell.check(&format!("both sides of {name} held the same bytes"), || digests(run, name));
    }
    commit(&mut story.tell, stack, &machines, run, to)?;
    for (machine, last) in ends {
        story.tell.check(&format!("{} went on after record {last}", machine.name), || {
            went_on(stack, &machine, last, to)
        });
    }
    Ok(())
}

/// The old side's disks and the point that was made after shutting down end with the same record, whose number is returned.
fn no_loss(
    stack: &SimulatedStack,
    run: &Value,
    machine: &Machine,
    from: HostName,
    to: HostName,
) -> Result<(u64, String)> {
    let outcome = outcome(run, &machine.name)?;
    let seq = outcome["point"].as_u64().context("the run names no point")?;
    let old = whole_journal(&machine_files(stack, from, machine)?)?;
    let point = whole_journal(&files_in_store(stack.store(to), machine, seq))?;
    ensure!(old == point, "the old side ends with record {}, the point with {}", old.last, point.last);
    let downtime = outcome["downtime"].as_f64().context("the run tells no downtime")?;
    Ok((old.last, format!("record {} at both sides; down for {downtime:.1} s", old.last)))
}

/// The newest point that the other side has, made since, holds later records and all before them.
fn went_on(stack: &SimulatedStack, machine: &Machine, last: u64, active: HostName) -> Result<String> {
    let standby = if active == ALPHA { BRAVO } else { ALPHA };
    let point = points(stack, &machine.name)?.pop().context("there is no point")?;
    let journal = whole_journal(&files_in_store(stack.store(standby), machine, point.seq))?;
    ensure!(journal.last > last, "point {} ends with record {}", point.seq, journal.last);
    Ok(format!("point {} ends with record {}", point.seq, journal.last))
}

fn is_off(stack: &SimulatedStack, machine: &Machine, host: HostName) -> Result<String> {
    let name = format!("{}/{}", resource(host), machine.name);
    let off = wait_until(&format!("{name} to be reported off"), FACTS_LIMIT, || {
        let listed = stack.cli().json(&["machine", "list", "--host", &resource(host)])?;
        let power = array(&listed).iter().find(|m| m["name"] == name.as_str()).map(|m| text(m, "power"));
        Ok(power.filter(|power| power == "shut-off"))
    });
    off.map(|(power, _)| power)
}

pub(super) fn lose_alpha(story: &mut SimulatedStory<'_>) -> Result<()> {
    story.tell.chapter("6. Disaster: the whole of alpha dies at once");
    let (stack, machines) = (story.stack, story.machines.clone());
    let now = now_us();
    for machine in &machines {
        point_after(stack, &machine.name, now)?;
    }
    stack.kill_host(ALPHA)?;
    story.tell.say("kill -9 of alpha's agent; its machines died with it");
    story.tell.check("without a word about the primary side it is refused", || {
        refused_without_a_word(stack, &order(&machines, "unplanned", &[]))
    });
    let word = ["--assert-primary-down", "site alpha has burnt down", "--yes", "--watch"];
    stack.cli().show(&order(&machines, "unplanned", &word))?;
    let run = newest_run(stack, &machines[0].name)?;
    // What a machine had written when its process died is put into its disks when the driver is opened next.
    simulated::SimulatedHypervisor::open(simulated::Config::new(stack.driver_dir(ALPHA)))?;
    for machine in &machines {
        let name = &machine.name;
        story.tell.check(&format!("{name} runs at bravo"), || reported(stack, machine, BRAVO));
        story.tell.check(&format!("the loss stated for {name} agrees with the journals"), || {
            loss(stack, outcome(&run, name)?, machine)
        });
    }
    stack.cli().show(&["run", "commit", &text(&run, "name"), "--watch"])?;
    for machine in &machines {
        let name = &machine.name;
        story.tell.check(&format!("{name} is not protected now, and says so"), || {
            item_is(stack, name, "not-protected", BRAVO)
        });
    }
    Ok(())
}

/// The journal on alpha's disks ends where the machine was killed; the point's journal ends at the point. What lies between them
/// is lost, and must be within what the run stated.
fn loss(stack: &SimulatedStack, stated: &Value, machine: &Machine) -> Result<String> {
    let seq = stated["point"].as_u64().context("the run names no point")?;
    let instant = time_us(&stated["point_instant"])?;
    let span = stated["loss_span"].as_f64().context("the run states no span")?;
    let alive = whole_journal(&machine_files(stack, ALPHA, machine)?)?;
    let saved = whole_journal(&files_in_store(stack.store(BRAVO), machine, seq))?;
    ensure!(saved.last < alive.last, "nothing was lost in a disaster: the claim would prove nothing");
    ensure!(saved.last_time_us <= instant, "the point holds what was written after its instant");
    let lost = (alive.last_time_us - instant) as f64 / 1e6;
    ensure!(lost <= span, "{lost} s were lost, {span} s stated");
    Ok(format!(
        "records {} to {} lost, {lost:.1} s; stated: at most {span:.1} s, since {}",
        saved.last + 1,
        alive.last,
        text(stated, "point_instant")
    ))
}

pub(super) fn alpha_returns(story: &mut SimulatedStory<'_>) -> Result<()> {
    story.tell.chapter("7. Alpha returns, first without a link to the control plane");
    let (stack, machines) = (story.stack, story.machines.clone());
    stack.hold_control_plane(true)?;
    stack.boot_host(ALPHA)?;
    story.tell.say("orchestrator and job-tracker are stopped; alpha's agent runs in a new boot of its host");
    let refused: Vec<Result<String>> = machines.iter().map(|m| guard(stack, &m.name)).collect();
    let superseded: Vec<Result<String>> = machines.iter().map(|m| superseded(stack, &m.name)).collect();
    stack.hold_control_plane(false)?;
    story.tell.say("orchestrator and job-tracker go on");
    for (Machine { name, .. }, refusal) in machines.iter().zip(refused) {
        story.tell.check(&format!("alpha's guard refused to start its old {name}"), || refusal);
    }
    for (Machine { name, .. }, said) in machines.iter().zip(superseded) {
        story.tell.check(&format!("bravo alone told alpha that it has lost {name}"), || said);
    }
    await_facts(stack, ALPHA)?;
    copied_back(&mut story.tell, stack, &machines, DISK_MIB << 20)
}

/// Alpha's agent goes on sending points at the generation that it knows, is refused by bravo, and has fenced itself then.
fn superseded(stack: &SimulatedStack, name: &str) -> Result<String> {
    let fenced = wait_until(&format!("alpha to fence its {name}"), FENCE_LIMIT, || {
        Ok(Some(guard(stack, name)?).filter(|said| said.contains("not the active side")))
    });
    fenced.map(|(said, _)| said)
}

/// Waits until the host is heard again.
fn await_facts(stack: &SimulatedStack, host: HostName) -> Result<()> {
    let heard = wait_until(&format!("{host} to be heard"), FACTS_LIMIT, || {
        let hosts = stack.cli().json(&["host", "list"])?;
        let found = array(&hosts).iter().find(|h| text(h, "name") == resource(host));
        let found = found.context("it is not listed")?;
        Ok((found["connected"] == true).then_some(()))
    });
    heard.map(drop)
}

/// Asks alpha's guard as libvirt would ask it about the machine that was active there: a simulated host has nobody else who could
/// start one. Returns the reason why it refuses.
fn guard(stack: &SimulatedStack, name: &str) -> Result<String> {
    let generations = stack.store(ALPHA).join("items").join(name).join("active");
    let newest = std::fs::read_dir(&generations)
        .with_context(|| format!("{} cannot be read", generations.display()))?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u64>().ok())
        .max()
        .with_context(|| format!("alpha's store has no active copy of {name}"))?;
    let description = format!(
        r#"<domain type="kvm"><name>{name}</name><metadata><understudy:machine xmlns:understudy="https://understudy.example/libvirt/1" item="{name}" generation="{newest}" role="active"/></metadata></domain>"#
    );
    let mut asked = Command::new(stack.agent_program())
        .arg("--config")
        .arg(stack.agent_config_file(ALPHA))
        .args(["guard", name, "prepare", "begin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut input = asked.stdin.take().context("the guard has an input")?;
    input.write_all(description.as_bytes())?;
    drop(input);
    let answer = asked.wait_with_output()?;
    let said = String::from_utf8_lossy(&answer.stderr).trim().to_owned();
    ensure!(!answer.status.success(), "it may start");
    ensure!(said.contains("generation"), "it was refused for another reason: {said}");
    let reason = said.split("must not start here: ").nth(1).unwrap_or(&said);
    Ok(reason.split(". ").next().unwrap_or_default().to_owned())
}

/// The failback that waits is completed, and one part after the other is killed and started again meanwhile.
pub(super) fn under_fire(story: &mut SimulatedStory<'_>, from: HostName, to: HostName) -> Result<()> {
    story.tell.chapter(
        "8. The failback is completed while an agent, orchestrator, job-tracker and Postgres are killed",
    );
    let stack = story.stack;
    let before = number(&item(stack, &story.machines[0].name)?, "generation")?;
    let id = text(&newest_run(stack, &story.machines[0].name)?, "name");
    stack.cli().show(&["run", "complete-failover", &id, "--yes"])?;
    // The agent at once, while the machines are being shut down: later it has some, which would die with it.
    stack.restart_agent(to).context("killing the target's agent")?;
    story.tell.say("kill -9 the target's agent; started again");
    for victim in ["orchestrator", "job-tracker", "Postgres"] {
        await_progress(stack, &id)?;
        match victim {
            "orchestrator" => stack.restart_service(Service::Orchestrator),
            "job-tracker" => stack.restart_service(Service::JobTracker),
            _ => stack.restart_postgres(),
        }
        .with_context(|| format!("killing {victim}"))?;
        story.tell.say(&format!("kill -9 {victim}; started again"));
    }
    let run = await_state(stack, &id, "waiting")?;
    story.tell.check("each step's effect happened once", || steps_once(stack, &id));
    story.tell.check("the generation went up by one", || {
        let after = number(&item(stack, &story.machines[0].name)?, "generation")?;
        ensure!(after == before + 1, "from {before} to {after}");
        Ok(format!("from {before} to {after}"))
    });
    settle(story, &run, from, to)
}

fn order<'a>(machines: &'a [Machine], verb: &'a str, rest: &[&'a str]) -> Vec<&'a str> {
    let names = machines.iter().map(|machine| machine.name.as_str());
    ["failover", verb].into_iter().chain(names).chain(rest.iter().copied()).collect()
}
