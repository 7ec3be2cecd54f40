//! Chapters 4, 5 and 8: planned failover and back, and a failback in whose second half services are killed (R-PF, R-FO-4 to 6, R-JOB-3).

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{
    Narrator, Story,
    evidence::{
        answers, array, is_silent, item_is, machine_files, newest_run, now_us, outcome, point_after,
        point_files, text, whole_journal,
    },
};
use crate::{
    HostName, Service, Stack, cli::Product, journal::JournalReport, machine::Machine, probe::wait_until,
};

/// An emulated guest boots in a few seconds; more than this is no planned failover any more.
const AWAY_LIMIT: Duration = Duration::from_secs(60);
const RUN_LIMIT: Duration = Duration::from_secs(180);

pub(super) fn fail_over(story: &mut Story<'_>, title: &str, from: HostName, to: HostName) -> Result<()> {
    story.tell.chapter(title);
    let stack = story.stack;
    for machine in &story.machines {
        point_after(stack, &machine.name, now_us())?;
    }
    let mut arguments = vec!["failover", "planned"];
    let names = story.names();
    arguments.extend(names.iter().map(String::as_str));
    arguments.extend(["--yes", "--watch"]);
    stack.cli().show(&arguments)?;
    let run = newest_run(stack, &names[0])?;
    came_over_whole(story, &run, from, to)?;
    finish(story, &run, from, to)
}

/// What must be true of every item when the run waits for commit.
fn came_over_whole(story: &mut Story<'_>, run: &Value, from: HostName, to: HostName) -> Result<()> {
    let stack = story.stack;
    story.tell.check("the run waits for commit", || {
        ensure!(run["state"] == "waiting", "it is {}", run["state"]);
        Ok(text(run, "waiting_for"))
    });
    for machine in story.machines.clone() {
        let name = machine.name.clone();
        story.tell.check(&format!("{name} answers at {to} with its own address and MAC"), || {
            let page = answers(stack, to, &machine)?;
            ensure!(page.host == name && page.address == machine.address().context("none")?.to_string());
            let interfaces = stack.lab().host(to).virsh(["domiflist", &name])?;
            ensure!(interfaces.contains(&machine.mac), "{interfaces}");
            Ok(format!("{}, {}", page.address, machine.mac))
        });
        story.tell.check(&format!("{name} does not answer at {from} any more"), || {
            ensure!(is_silent(stack, from, &machine)?, "two copies are in production");
            Ok("silent".to_owned())
        });
        story
            .tell
            .check(&format!("no record of {name} was lost"), || no_loss(stack, run, &machine, from, to));
        story.tell.check(&format!("both sides of {name} held the same bytes"), || digests(run, &name));
    }
    Ok(())
}

/// The old side's disks and the point that was made after shutting down end with the same record, and the machine went on after it.
fn no_loss(stack: &Stack, run: &Value, machine: &Machine, from: HostName, to: HostName) -> Result<String> {
    let outcome = outcome(run, &machine.name)?;
    let seq = outcome["point"].as_u64().context("the run names no point")?;
    let old = whole_journal(&machine_files(&stack.lab().host(from), machine)?)?;
    let point = whole_journal(&point_files(&stack.lab().host(to), machine, seq))?;
    ensure!(
        old.last == point.last,
        "the old side ends with record {}, the point with {}",
        old.last,
        point.last
    );
    let page = answers(stack, to, machine)?;
    ensure!(page.last > old.last, "the machine did not go on after record {}", old.last);
    let downtime = outcome["downtime"].as_f64().context("the run tells no downtime")?;
    Ok(format!("record {} at both sides, now at {}; down for {downtime:.1} s", describe(&old), page.last))
}

fn describe(journal: &JournalReport) -> String {
    format!("{} (of {} boots)", journal.last, journal.boots.len())
}

pub(crate) fn digests(run: &Value, name: &str) -> Result<String> {
    let disks = array(&outcome(run, name)?["disks"]);
    ensure!(!disks.is_empty(), "nothing was compared");
    for disk in disks {
        let (source, target) = (text(disk, "source_root"), text(disk, "target_root"));
        ensure!(disk["equal"] == true && source == target && source.len() == 64, "{disk}");
    }
    let roots: Vec<String> =
        disks.iter().map(|d| format!("{} {}…", text(d, "disk"), &text(d, "source_root")[..12])).collect();
    Ok(roots.join(", "))
}

/// Commits, and asks the guests how long they were away: the first point that comes back to the old side holds the journals of both boots.
fn finish(story: &mut Story<'_>, run: &Value, from: HostName, to: HostName) -> Result<()> {
    let stack = story.stack;
    commit(&mut story.tell, stack, &story.machines, run, to)?;
    for machine in story.machines.clone() {
        story.tell.check(&format!("by its own journal {} was away for seconds only", machine.name), || {
            let newest = point_after(stack, &machine.name, 0)?;
            let journal = whole_journal(&point_files(&stack.lab().host(from), &machine, newest.seq))?;
            let [.., before, after] = &journal.boots[..] else {
                bail!("it has booted {} times", journal.boots.len())
            };
            ensure!(after.first == before.last + 1, "records are missing between the boots");
            let away = Duration::from_micros(after.first_time_us.saturating_sub(before.last_time_us));
            ensure!(away < AWAY_LIMIT, "it was away for {} s", away.as_secs());
            Ok(format!(
                "{:.1} s between record {} and record {}",
                away.as_secs_f64(),
                before.last,
                after.first
            ))
        });
    }
    Ok(())
}

/// Commits the run; protection follows in the other direction.
pub(crate) fn commit(
    tell: &mut Narrator,
    product: &impl Product,
    machines: &[Machine],
    run: &Value,
    to: HostName,
) -> Result<()> {
    product.cli().show(&["run", "commit", &text(run, "name"), "--watch"])?;
    for Machine { name, .. } in machines {
        tell.check(&format!("{name} is protected in the other direction by itself"), || {
            let said = item_is(product, name, "protected", to)?;
            let point = point_after(product, name, now_us())?;
            Ok(format!("{said}; point {} has come", point.seq))
        });
    }
    product.cli().show(&["item", "list"])
}

/// The failback that waits is completed, and one part after the other is killed and started again meanwhile.
pub(super) fn fail_over_under_fire(story: &mut Story<'_>, from: HostName, to: HostName) -> Result<()> {
    story.tell.chapter(
        "8. The failback is completed while orchestrator, job-tracker, Postgres and an agent are killed",
    );
    let stack = story.stack;
    let names = story.names();
    for name in &names {
        point_after(stack, name, now_us())?;
    }
    let id = text(&newest_run(stack, &names[0])?, "name");
    stack.cli().show(&["run", "complete-failover", &id, "--yes"])?;
    for (what, kill) in victims(to) {
        await_progress(stack, &id)?;
        kill(stack).with_context(|| format!("killing {what}"))?;
        story.tell.say(&format!("kill -9 {what}; started again"));
    }
    let run = await_state(stack, &id, "waiting")?;
    came_over_whole(story, &run, from, to)?;
    story.tell.check("each step's effect happened once", || steps_once(stack, &id));
    finish(story, &run, from, to)
}

type Kill = Box<dyn Fn(&Stack) -> Result<()>>;

fn victims(to: HostName) -> Vec<(&'static str, Kill)> {
    let service = |service: Service| -> Kill {
        Box::new(move |stack| {
            stack.service(service)?.kill_9()?;
            stack.restart_service(service)
        })
    };
    vec![
        ("orchestrator", service(Service::Orchestrator)),
        ("job-tracker", service(Service::JobTracker)),
        (
            "Postgres",
            Box::new(|stack| {
                stack.lab().postgres().kill_9()?;
                stack.lab().postgres().start()
            }),
        ),
        (
            "the target's agent",
            Box::new(move |stack| {
                stack.agent(to)?.kill_9()?;
                stack.restart_agent(to)
            }),
        ),
    ]
}

/// Until one more step has ended than when asked first, so that the kills are spread over the run.
pub(crate) fn await_progress(stack: &impl Product, id: &str) -> Result<()> {
    let ended = |run: &Value| {
        array(&run["steps"]).iter().filter(|s| s["state"] != "pending" && s["state"] != "running").count()
    };
    let mut first = None;
    wait_until("the run to go on", RUN_LIMIT, || {
        let run = stack.cli().json(&["run", "show", id])?;
        ensure!(run["state"] == "running" || run["state"] == "waiting", "the run is {}", run["state"]);
        let now = ended(&run);
        let before = *first.get_or_insert(now);
        Ok((now > before || run["state"] == "waiting").then_some(()))
    })
    .map(drop)
}

pub(crate) fn await_state(stack: &impl Product, id: &str, state: &str) -> Result<Value> {
    let what = format!("the run to be {state}");
    wait_until(&what, RUN_LIMIT, || {
        let run = stack.cli().json(&["run", "show", id])?;
        if run["state"] == "failed" {
            // Waiting longer changes nothing; the caller's checks tell what is wrong.
            return Ok(Some(run));
        }
        thread::sleep(Duration::from_millis(250));
        Ok((run["state"] == state).then_some(run))
    })
    .map(|(run, _)| run)
}

/// One task per step at job-tracker, each done; and one domain, one generation step on the machines.
pub(crate) fn steps_once(stack: &impl Product, id: &str) -> Result<String> {
    let tasks = stack.cli().json(&["job", "tasks", id])?;
    let mut by_key: BTreeMap<String, u32> = BTreeMap::new();
    let mut repeated = 0;
    for task in array(&tasks) {
        *by_key.entry(text(task, "key")).or_default() += 1;
        ensure!(task["state"] == "Succeeded", "{} is {}", task["key"], task["state"]);
        repeated += u32::from(task["attempt"].as_u64() > Some(1));
    }
    let twice: Vec<&String> = by_key.iter().filter(|(_, count)| **count > 1).map(|(key, _)| key).collect();
    ensure!(twice.is_empty(), "tasks that exist twice: {twice:?}");
    ensure!(!by_key.is_empty(), "the job has no tasks");
    Ok(format!("{} tasks, each done once; {repeated} of them taken up again after a kill", by_key.len()))
}
