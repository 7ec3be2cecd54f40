//! Chapter 3 on simulated drivers: a test failover from an older point, while replication goes on (R-TF-1, 3 to 5, 9).

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    SimulatedStack, SimulatedStory,
    journal::whole_journal,
    story::{branches, machine_files},
};
use crate::{
    HostName,
    cli::Product as _,
    probe::wait_until,
    stack::resource,
    story::{
        evidence::{array, files_in_store, newest_run, now_us, outcome, point_after, points, text},
        protect::reported,
        rehearse::{cadence, isolation_came_first, notes_kept},
    },
    topology::PROD_NETWORK,
};

const FACTS_LIMIT: Duration = Duration::from_secs(20);
const INTERVAL_US: i64 = 2_000_000;
const BRAVO: HostName = HostName::BravoH1;

pub(super) fn test_failover(story: &mut SimulatedStory<'_>) -> Result<()> {
    story.tell.chapter("3. Test failover of web1 from an older point");
    let stack = story.stack;
    let web1 = story.machines[0].clone();
    let known = points(stack, "web1")?;
    let older = known.iter().rev().nth(2).context("not enough points")?.clone();
    let newest = known.last().map_or(0, |point| point.seq);
    story.tell.say(&format!("from point {}, the newest is {newest}", older.seq));
    let begun = now_us();
    let from = format!("web1={}", older.seq);
    stack.cli().show(&["failover", "test", "web1", "--point", &from, "--yes", "--watch"])?;
    let run = newest_run(stack, "web1")?;
    let id = text(&run, "name");

    story.tell.check("the run waits for someone to complete it", || {
        ensure!(run["state"] == "waiting", "it is {}", run["state"]);
        Ok(text(&run, "waiting_for"))
    });
    let production = web1.address().context("no address")?.to_string();
    story.tell.check("the test machine has the address that a failover would give it", || {
        let address = text(outcome(&run, "web1")?, "address");
        ensure!(address == production, "it has {address}");
        Ok(address)
    });
    story.tell.check("it runs in a network of its own, beside the one in production", || {
        let test = wait_until("the test machine to be reported", FACTS_LIMIT, || {
            Ok(test_machines(stack)?.into_iter().find(|machine| machine["power"] == "running"))
        });
        let (test, _) = test?;
        let nic = &test["nics"][0];
        ensure!(nic["network"] != PROD_NETWORK, "it is in production: {nic}");
        ensure!(nic["addresses"][0] == production.as_str(), "its address is {}", nic["addresses"]);
        reported(stack, &web1, HostName::AlphaH1)?;
        Ok(format!("{} in {}", text(&test, "name"), text(nic, "network")))
    });
    story.tell.check("its disk is a branch of the point", || {
        let [branch] = &branches(stack, BRAVO, "web1")[..] else { anyhow::bail!("there is not one branch") };
        let branch = whole_journal(&[branch.join("disk-vda.qcow2")])?;
        let point = whole_journal(&files_in_store(stack.store(BRAVO), &web1, older.seq))?;
        ensure!(
            branch == point,
            "the branch ends with record {}, the point with {}",
            branch.last,
            point.last
        );
        Ok(format!("it begins with what point {} ends with, record {}", older.seq, point.last))
    });
    story.tell.check("isolation was proven before the machine started", || isolation_came_first(&run));

    let newest = point_after(stack, "web1", now_us())?;
    story.tell.check("replication went on at its interval during the test", || {
        cadence(stack, INTERVAL_US, begun, newest.instant_us)
    });
    let notes = "flow looked at on simulated machines";
    stack.cli().show(&["run", "complete-test", &id, "--notes", notes, "--watch"])?;
    story.tell.check("the notes stay with the job", || notes_kept(stack, &id, notes));
    story.tell.check("nothing of the test is left", || nothing_left(stack));
    // Production's disks were never the test's.
    story.tell.check("the machine in production has its own disks still", || {
        let files = machine_files(stack, HostName::AlphaH1, &web1)?;
        let own: Vec<PathBuf> =
            files.into_iter().filter(|file| file.starts_with(stack.driver_dir(HostName::AlphaH1))).collect();
        ensure!(own.len() == 1, "its disks are {own:?}");
        Ok(own[0].file_name().unwrap_or_default().to_string_lossy().into_owned())
    });
    Ok(())
}

/// Machines at bravo that were made for a test.
fn test_machines(stack: &SimulatedStack) -> Result<Vec<Value>> {
    let listed = stack.cli().json(&["machine", "list", "--host", &resource(BRAVO)])?;
    Ok(array(&listed).iter().filter(|machine| !machine["test_run"].is_null()).cloned().collect())
}

fn nothing_left(stack: &SimulatedStack) -> Result<String> {
    let left = wait_until("the test machine to be gone", FACTS_LIMIT, || {
        Ok(test_machines(stack)?.is_empty().then_some(()))
    });
    left?;
    let networks: Value = serde_json::from_slice(&fs::read(stack.driver_dir(BRAVO).join("networks.json"))?)?;
    ensure!(array(&networks).is_empty(), "networks: {networks}");
    let branches = branches(stack, BRAVO, "web1");
    ensure!(branches.is_empty(), "branches: {branches:?}");
    let leases = stack.cli().json(&["lease", "list"])?;
    ensure!(array(&leases).is_empty(), "leases: {leases}");
    Ok("no machine, network, branch or lease".to_owned())
}
