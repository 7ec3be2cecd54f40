//! What can still be decided while a failover waits for its commit (R-FO-4): another recovery point, and the way back.
//!
//! ```text
//!   alpha dies ─▶ unplanned failover ─▶ an older point, while bravo's agent is killed ─▶ alpha returns ─▶ rolled back
//!   planned failover, clients find the machine by its name ─▶ rolled back, and the name with it ─▶ planned failover that is committed by itself
//!   unplanned failover of a side that can still be shut down, and of one that cannot be reached any more
//! ```
//!
//! What was kept, what is lost and where it goes on is read off the numbered records on the disks.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use understudy_lab::{
    HostName, Site, Stack,
    journal::read_journal,
    machine::Machine,
    name_server::{NameServer, SERVER, ZONE},
    probe::wait_until,
    stack::Service,
    story::evidence::{
        answers, array, at_least_points, is_silent, item, item_is, machine_files, now_us, outcome,
        point_after, point_files, points, text, time_us, whole_journal,
    },
    wan::Cut,
};
use understudy_lifecycle_tests::{
    Scene,
    evidence::{
        FIVE_SECONDS, RUN_LIMIT, item_directory, newest_point_is_whole, protect, run_is, start_run,
        store_is_tidy, stored_points,
    },
};

const ALPHA: HostName = HostName::AlphaH1;
const BRAVO: HostName = HostName::BravoH1;
const RETURN_LIMIT: Duration = Duration::from_secs(60);

#[test]
fn another_point_and_then_the_way_back_when_the_old_side_has_returned() {
    let machines = [Machine::reserved("web1", 1).unwrap()];
    let scene = Scene::set("otherpoint", &machines).unwrap();
    let (stack, web1) = (&scene.stack, &machines[0]);
    protect(stack, "web1", FIVE_SECONDS).unwrap();
    at_least_points(stack, "web1", 3).unwrap();
    stack.lab().kill_site(Site::Alpha).unwrap();
    let word = ["--assert-primary-down", "site alpha has burnt down"];
    let run = start_run(stack, "unplanned", "web1", &word).unwrap();
    run_is(stack, &run, "waiting").unwrap();

    an_older_point(stack, &run, web1).unwrap();
    refused(stack, &["run", "roll-back", &run, "--give-up-writes", "--yes"], "OLD_SIDE_NOT_HEARD").unwrap();
    stack.revive_site(Site::Alpha).unwrap();
    let last = last_record_of_the_old_side(stack, web1).unwrap();
    until_it_can_be_rolled_back(stack, &run).unwrap();
    rolled_back(stack, &run, web1, last).unwrap();
}

#[test]
fn a_planned_failover_is_rolled_back_to_the_disks_that_it_left() {
    let machines = [Machine::reserved("web1", 2).unwrap()];
    let scene = Scene::set("rollback", &machines).unwrap();
    let (stack, web1) = (&scene.stack, &machines[0]);
    let names = names_of_web1(stack).unwrap();
    protect(stack, "web1", FIVE_SECONDS).unwrap();
    point_after(stack, "web1", now_us()).unwrap();
    let run = start_run(stack, "planned", "web1", &[]).unwrap();
    let waiting = run_is(stack, &run, "waiting").unwrap();
    let address = web1.address().unwrap();
    assert_eq!(names.says(NAME).unwrap(), [address], "clients are led to the machine");
    let seq = outcome(&waiting, "web1").unwrap()["point"].as_u64().unwrap();
    let last = whole_journal(&point_files(&stack.lab().host(BRAVO), web1, seq)).unwrap().last;
    assert!(answers(stack, BRAVO, web1).unwrap().last > 0);

    let older = format!("web1={}", points(stack, "web1").unwrap()[0].seq);
    refused(stack, &["run", "change-point", &run, &older, "--yes"], "VERB_NOT_ALLOWED").unwrap();
    refused(stack, &["run", "roll-back", &run, "--yes"], "WRITES_NOT_GIVEN_UP").unwrap();
    rolled_back(stack, &run, web1, last).unwrap();
    assert_eq!(names.says(NAME).unwrap(), [BEFORE], "and back");
    assert_eq!(names.says(TEST_NAME).unwrap(), [BEFORE], "a failover does not write to zones for tests");
    // The item is as good as before: it can be failed over again, and this time nobody looks after it.
    let again = start_run(stack, "planned", "web1", &["--commit-after", "3s"]).unwrap();
    run_is(stack, &again, "succeeded").unwrap();
    item_is(stack, "web1", "protected", BRAVO).unwrap();
    assert_eq!(names.says(NAME).unwrap(), [address]);
}

const NAME: &str = "web1.shop.example";
const TEST_NAME: &str = "web1.test.shop.example";
/// What both names say before the first run.
const BEFORE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);

/// web1 has a name in production and one for tests, in a real DNS server (R-NET-12).
fn names_of_web1(stack: &Stack) -> Result<NameServer> {
    let server = stack.add_name_server(&[(NAME, BEFORE), (TEST_NAME, BEFORE)])?;
    let cli = stack.cli();
    cli.json(&["zone", "create", ZONE, "--server", SERVER, "--purpose", "production"])?;
    cli.json(&["zone", "create", "test.shop.example", "--server", SERVER, "--purpose", "test"])?;
    for name in [NAME, TEST_NAME] {
        cli.json(&["name", "create", name, "--item", "web1"])?;
    }
    cli.show(&["name", "list"])?;
    Ok(server)
}

/// R-UF-2, R-UF-3: what can still be shut down and shipped is, and nothing is lost; what cannot be reached is waited for no longer than was
/// said, and what was announced is lost.
#[test]
fn the_last_changes_are_shipped_if_they_can_be_and_not_waited_for_otherwise() {
    let machines = [Machine::reserved("web1", 1).unwrap(), Machine::reserved("db1", 1).unwrap()];
    let scene = Scene::set("synchronise", &machines).unwrap();
    let stack = &scene.stack;
    for machine in &machines {
        protect(stack, &machine.name, FIVE_SECONDS).unwrap();
    }
    point_after(stack, "db1", now_us()).unwrap();
    let options = ["--synchronise-within", "60s", "--assert-primary-down", "alpha is on fire"];
    let run = start_run(stack, "unplanned", "web1", &options).unwrap();
    let told = run_is(stack, &run, "waiting").unwrap();
    stack.cli().show(&["run", "show", &run]).unwrap();
    all_was_shipped(stack, &told, &machines[0]).unwrap();

    let announced = points(stack, "db1").unwrap().pop().unwrap();
    stack.lab().wan().cut(Cut::Both).unwrap();
    let options = ["--synchronise-within", "12s", "--consistent", "--assert-primary-down", "alpha is gone"];
    let run = start_run(stack, "unplanned", "db1", &options).unwrap();
    let told = run_is(stack, &run, "waiting").unwrap();
    stack.cli().show(&["run", "show", &run]).unwrap();
    assert!(outcome(&told, "db1").unwrap()["point"].as_u64() >= Some(announced.seq), "{told}");
    assert!(outcome(&told, "db1").unwrap()["loss_span"].as_f64() > Some(0.0), "{told}");
    assert!(answers(stack, BRAVO, &machines[1]).unwrap().last > 0);
}

fn all_was_shipped(stack: &Stack, told: &Value, web1: &Machine) -> Result<()> {
    let (alpha, bravo) = (stack.lab().host(ALPHA), stack.lab().host(BRAVO));
    let told = outcome(told, "web1")?;
    ensure!(told["loss_span"].as_f64() == Some(0.0), "{told}");
    let seq = told["point"].as_u64().context("a point was used")?;
    let left = whole_journal(&alpha.disks(web1))?.last;
    let shipped = whole_journal(&point_files(&bravo, web1, seq))?.last;
    ensure!(left == shipped, "the old side has record {left}, the point {shipped}");
    ensure!(alpha.machine_state("web1")? == "shut off", "the old copy runs");
    goes_on_after(&machine_files(&bravo, web1)?, &answers(stack, BRAVO, web1)?.boot_id, left)
}

/// The older point takes the place of the one that was used, whoever is killed meanwhile; the record says what is lost by then, and
/// the points stay.
fn an_older_point(stack: &Stack, run: &str, web1: &Machine) -> Result<()> {
    let bravo = stack.lab().host(BRAVO);
    let before = stack.cli().json(&["run", "show", run])?;
    let used = outcome(&before, "web1")?["point"].as_u64().context("a point was used")?;
    let kept = stored_points(&bravo, "web1")?;
    let older = points(stack, "web1")?
        .into_iter()
        .rfind(|point| point.seq < used)
        .context("there is an older point")?;
    let page = answers(stack, BRAVO, web1)?;
    let wish = format!("web1={}", older.seq);
    stack.cli().show(&["run", "change-point", run, &wish, "--preview"])?;
    stack.cli().json(&["run", "change-point", run, &wish, "--yes"])?;
    stack.agent(BRAVO)?.kill_9()?;
    stack.service(Service::Orchestrator)?.kill_9()?;
    stack.restart_service(Service::Orchestrator)?;
    stack.restart_agent(BRAVO)?;
    let after = run_is(stack, run, "waiting")?;
    stack.cli().show(&["run", "show", run])?;

    let told = outcome(&after, "web1")?;
    ensure!(told["point"].as_u64() == Some(older.seq), "{told}");
    let lost = told["loss_span"].as_f64().context("a loss is stated")?;
    let span = (time_us(&after["create_time"])? - older.instant_us) as f64 / 1e6;
    ensure!((lost - span).abs() < 1.0, "{lost} s are stated, {span} s lie between the point and the start");
    ensure!(lost > outcome(&before, "web1")?["loss_span"].as_f64().unwrap_or(0.0), "{told}");
    let now = answers(stack, BRAVO, web1)?;
    ensure!(now.boot_id != page.boot_id, "the same machine answers");
    let saved = whole_journal(&point_files(&bravo, web1, older.seq))?.last;
    goes_on_after(&machine_files(&bravo, web1)?, &now.boot_id, saved)?;
    ensure!(stored_points(&bravo, "web1")? == kept, "points are gone before the commit");
    nothing_lies_in(&item_directory(&bravo, "web1").join("aside"))?;
    generation_is(stack, 2)
}

/// The boot that answers wrote its first record right behind the last one that was kept. It goes on writing, so that the end of its journal
/// cannot be judged.
fn goes_on_after(disks: &[PathBuf], boot: &str, kept: u64) -> Result<()> {
    let journal = read_journal(disks)?;
    let last = journal.boots.last().context("nothing was written")?;
    ensure!(last.id == boot, "the last record is from boot {}, {boot} answers", last.id);
    ensure!(last.first == kept + 1, "record {} follows, {kept} was the last one kept", last.first);
    Ok(())
}

fn generation_is(stack: &Stack, expected: u64) -> Result<()> {
    wait_until(&format!("generation {expected}"), RETURN_LIMIT, || {
        Ok((item(stack, "web1")?["generation"] == expected).then_some(()))
    })
    .map(drop)
}

fn nothing_lies_in(directory: &Path) -> Result<()> {
    let left: Vec<_> = match fs::read_dir(directory) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
        Err(_) => Vec::new(),
    };
    ensure!(left.is_empty(), "left: {left:?}");
    Ok(())
}

fn refused(stack: &Stack, wish: &[&str], reason: &str) -> Result<()> {
    let refusal = stack.cli().refused(wish)?;
    ensure!(refusal.said.contains(&format!("[{reason}]")) && refusal.said.contains('→'), "{}", refusal.said);
    Ok(())
}

fn last_record_of_the_old_side(stack: &Stack, web1: &Machine) -> Result<u64> {
    let alpha = stack.lab().host(ALPHA);
    ensure!(alpha.machine_state("web1")? == "shut off", "the old copy runs");
    Ok(whole_journal(&alpha.disks(web1))?.last)
}

fn until_it_can_be_rolled_back(stack: &Stack, run: &str) -> Result<()> {
    wait_until("the old side to be fenced", RETURN_LIMIT, || {
        let preview =
            stack.cli().command(&["run", "roll-back", run, "--give-up-writes", "--preview"]).output()?;
        Ok(preview.status.success().then_some(()))
    })
    .map(drop)
}

/// Alpha's machine goes on behind its own last record, replication goes on with what differs, and of the failover nothing is left.
fn rolled_back(stack: &Stack, run: &str, web1: &Machine, last: u64) -> Result<()> {
    let (alpha, bravo) = (stack.lab().host(ALPHA), stack.lab().host(BRAVO));
    let before = points(stack, "web1")?.last().context("there is a point")?.seq;
    stack.cli().show(&["run", "roll-back", run, "--give-up-writes", "--yes", "--watch"])?;
    let ended: Value = stack.cli().json(&["run", "show", run])?;
    ensure!(text(&ended, "state") == "rolled-back", "{}", ended["problems"]);
    item_is(stack, "web1", "protected", ALPHA)?;
    generation_is(stack, 3)?;

    let page = answers(stack, ALPHA, web1)?;
    ensure!(is_silent(stack, BRAVO, web1)?, "bravo's machine answers");
    goes_on_after(&alpha.disks(web1), &page.boot_id, last)?;

    let machines = bravo.virsh(["list", "--all", "--name"])?;
    ensure!(machines.trim().is_empty(), "machines are left at bravo: {}", machines.trim());
    for overlays in ["active", "aside", "branches"] {
        nothing_lies_in(&item_directory(&bravo, "web1").join(overlays))?;
    }
    let (leases, _) = wait_until("the addresses to be released", RUN_LIMIT, || {
        let leases = stack.cli().json(&["lease", "list"])?;
        Ok(array(&leases).is_empty().then_some(leases))
    })?;
    ensure!(array(&leases).is_empty(), "{leases}");

    let newest = point_after(stack, "web1", now_us())?;
    newest_point_is_whole(stack, BRAVO, web1)?;
    let first = points(stack, "web1")?.into_iter().find(|p| p.seq > before).context("a new point")?;
    let whole: u64 = alpha.disks(web1).iter().filter_map(|disk| Some(fs::metadata(disk).ok()?.len())).sum();
    ensure!(first.changed_bytes < whole / 4, "{} of {whole} bytes were shipped", first.changed_bytes);
    ensure!(newest.seq >= first.seq, "points go on");
    store_is_tidy(&bravo, "web1")
}
