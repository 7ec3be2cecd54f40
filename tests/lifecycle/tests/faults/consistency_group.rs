//! A consistency group of two guests whose journals depend on each other (R-REP-12).
//!
//! ```text
//!   web1 writes n ─▶ tells db1 ─▶ db1 writes n ─▶ tells web1 ─▶ web1 writes n + 1 …
//!   points of their own ─▶ do not fit together      a group ─▶ at every instant db1 has web1's last record, or the one before it
//!   held, and then: the agent is killed ─▶ both go on, with no agent there      its return ─▶ the group goes on
//!   alpha is lost ─▶ both come up at bravo from one instant
//! ```

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use understudy_lab::{
    HostName, Site, Stack,
    machine::{Machine, Talk},
    probe::wait_until,
    story::evidence::{array, number, outcome, point_files, time_us, whole_journal},
};
use understudy_lifecycle_tests::{
    Scene,
    evidence::{item_directory, protect, run_is, start_run},
};

const ALPHA: HostName = HostName::AlphaH1;
const BRAVO: HostName = HostName::BravoH1;
const POLICY: &str = "together";
const LIMIT: Duration = Duration::from_secs(120);
/// What guests may be held for, by the agent's own limit, and what a busy machine may add to it.
const HELD_LIMIT: Duration = Duration::from_secs(5);
const SLACK: Duration = Duration::from_secs(4);

#[test]
fn guests_that_talk_to_each_other_are_cut_at_one_instant() {
    let mut web1 = Machine { records_per_second: 200, ..Machine::reserved("web1", 1).unwrap() };
    let db1 = Machine { talk: Talk::Follows, ..Machine::reserved("db1", 2).unwrap() };
    web1.talk = Talk::Leads(db1.address().unwrap());
    let scene = Scene::set("together", &[db1.clone(), web1.clone()]).unwrap();
    let pair = Pair { stack: &scene.stack, web1, db1 };
    pair.protect().unwrap();
    pair.points_of_their_own_do_not_fit_together().unwrap();
    let json = pair.stack.cli().json(&["group", "create", "shop", "web1", "db1"]).unwrap();
    assert_eq!(array(&json["items"]).len(), 2, "{json}");
    pair.instants_fit_together(8).unwrap();
    pair.the_guests_go_on_when_the_agent_dies().unwrap();
    pair.instants_fit_together(2).unwrap();
    pair.both_come_up_from_one_instant().unwrap();
}

struct Pair<'a> {
    stack: &'a Stack,
    web1: Machine,
    db1: Machine,
}

impl Pair<'_> {
    fn protect(&self) -> Result<()> {
        let policy = ["policy", "create", POLICY, "--interval", "2s", "--keep", "500"];
        self.stack.cli().json(&policy)?;
        protect(self.stack, "web1", POLICY)?;
        protect(self.stack, "db1", POLICY)
    }

    fn points(&self, machine: &Machine) -> Result<Vec<Value>> {
        let listed = self.stack.cli().json(&["point", "list", &machine.name])?;
        Ok(array(&listed).iter().rev().cloned().collect())
    }

    /// The last record that a point of the machine holds, read from its files; its disks fit together in any case (R-REP-3).
    fn last(&self, machine: &Machine, point: &Value) -> Result<u64> {
        let files = point_files(&self.stack.lab().host(BRAVO), machine, number(point, "seq")?);
        Ok(whole_journal(&files)?.last)
    }

    /// R-REP-12, the other way round: what the next check holds the product to is not so by itself.
    fn points_of_their_own_do_not_fit_together(&self) -> Result<()> {
        let enough = |points: &Vec<Value>| points.len() >= 6;
        let ([web1, db1], _) = wait_until("points of both", LIMIT, || {
            let both = [self.points(&self.web1)?, self.points(&self.db1)?];
            Ok(Some(both).filter(|both| both.iter().all(enough)))
        })?;
        let mut fitting = 0;
        // The first points are of different lengths of copying.
        for point in &db1[1..] {
            let instant = time_us(&point["instant"])?;
            let distance =
                |other: &&Value| time_us(&other["instant"]).map_or(i64::MAX, |other| (other - instant).abs());
            let nearest = web1.iter().min_by_key(distance).context("web1 has points")?;
            let (leader, follower) = (self.last(&self.web1, nearest)?, self.last(&self.db1, point)?);
            println!("of their own: web1 {leader}, db1 {follower}");
            fitting += usize::from(fits(leader, follower));
        }
        ensure!(fitting * 2 < db1.len(), "{fitting} of {} points fit, which nobody has made so", db1.len());
        Ok(())
    }

    /// Points of the group's instants: web1's and db1's, oldest first.
    fn instants(&self) -> Result<Vec<(Value, Value)>> {
        let (web1, db1) = (self.points(&self.web1)?, self.points(&self.db1)?);
        let joint = |point: &&Value| point["joint"]["group"] == "shop";
        let with = |point: &Value| {
            let other = db1.iter().filter(joint).find(|other| other["joint"] == point["joint"])?;
            Some((point.clone(), other.clone()))
        };
        Ok(web1.iter().filter(joint).filter_map(with).collect())
    }

    fn instants_fit_together(&self, wanted: usize) -> Result<()> {
        let before = self.instants()?.len();
        let (instants, took) = wait_until("instants of the group", LIMIT, || {
            Ok(Some(self.instants()?).filter(|found| found.len() >= before + wanted))
        })?;
        let mut pauses = Vec::new();
        let mut last = 0;
        for (web1, db1) in &instants {
            let (leader, follower) = (self.last(&self.web1, web1)?, self.last(&self.db1, db1)?);
            let pause = web1["joint"]["pause"].as_f64().context("the pause is told")?;
            println!("together: web1 {leader}, db1 {follower}, guests stopped for {pause:.3} s");
            ensure!(fits(leader, follower), "at {}: web1 {leader}, db1 {follower}", web1["instant"]);
            ensure!(leader > last, "nothing was written between two instants");
            ensure!(pause > 0.0 && pause < HELD_LIMIT.as_secs_f64(), "stopped for {pause} s");
            ensure!(array(&web1["joint"]["members"]).len() == 2, "{web1}");
            last = leader;
            pauses.push(pause);
        }
        pauses.sort_by(f64::total_cmp);
        let (first, median, most) = (pauses[0], pauses[pauses.len() / 2], pauses[pauses.len() - 1]);
        println!(
            "{} instants, {wanted} of them in {took:?}: stopped for {first:.3} to {most:.3} s, median {median:.3} s",
            instants.len()
        );
        let told = self.stack.cli().json(&["group", "show", "shop"])?;
        ensure!(told["missed"].is_null() && number(&told, "complete")? > 0, "{told}");
        Ok(())
    }

    fn is_held(&self, machine: &str) -> Result<bool> {
        Ok(self.stack.lab().host(ALPHA).machine_state(machine)? == "paused")
    }

    /// Stops the agent's process while a guest is held by it.
    fn catch_it_holding(&self) -> Result<()> {
        let notes = self.stack.lab().host(ALPHA).agent_state().join("hypervisor/held");
        let agent = self.stack.agent(ALPHA)?;
        let begun = Instant::now();
        while begun.elapsed() < LIMIT {
            if notes.join("db1").exists() || notes.join("web1").exists() {
                agent.signal(Signal::SIGSTOP)?;
                if self.is_held("web1")? || self.is_held("db1")? {
                    return Ok(());
                }
                // Too late or too early: the next time, then.
                agent.signal(Signal::SIGCONT)?;
            }
            thread::sleep(Duration::from_millis(2));
        }
        bail!("the agent was never caught with its guests held")
    }

    fn both_go_on(&self, limit: Duration) -> Result<Duration> {
        let (_, took) = wait_until("both guests to go on", limit, || {
            Ok((!self.is_held("web1")? && !self.is_held("db1")?).then_some(()))
        })?;
        Ok(took)
    }

    fn the_guests_go_on_when_the_agent_dies(&self) -> Result<()> {
        self.catch_it_holding()?;
        self.stack.agent(ALPHA)?.kill_9()?;
        let took = self.both_go_on(HELD_LIMIT)?;
        println!("agent killed while guests were held: they went on after {took:?}, with no agent there");
        self.stack.restart_agent(ALPHA)?;
        self.catch_it_holding()?;
        let took = self.both_go_on(HELD_LIMIT + SLACK)?;
        println!("agent stopped while guests were held: they went on after {took:?}");
        self.stack.agent(ALPHA)?.signal(Signal::SIGCONT)
    }

    /// R-UF-3: the latest that is chosen by itself is the newest instant that both have.
    fn both_come_up_from_one_instant(&self) -> Result<()> {
        self.stack.lab().kill_site(Site::Alpha)?;
        let options = ["db1", "--assert-primary-down", "alpha has burnt down"];
        let alone = ["failover", "unplanned", "db1", "--assert-primary-down", "x", "--preview"];
        let preview = self.stack.cli().json(&alone)?;
        ensure!(preview["notices"].to_string().contains("web1"), "who is left out is not named: {preview}");
        let run = start_run(self.stack, "unplanned", "web1", &options)?;
        let waiting = run_is(self.stack, &run, "waiting")?;
        // The item's stand-by side is alpha by now, so that nothing but the store tells of the point.
        let mut used = Vec::new();
        for machine in [&self.web1, &self.db1] {
            let seq = number(outcome(&waiting, &machine.name)?, "point")?;
            let point = item_directory(&self.stack.lab().host(BRAVO), &machine.name).join("points");
            let manifest = fs::read(point.join(seq.to_string()).join("manifest.json"))?;
            used.push(serde_json::from_slice::<Value>(&manifest)?);
        }
        ensure!(used[0]["joint"] == used[1]["joint"] && !used[0]["joint"].is_null(), "{used:?}");
        let (leader, follower) = (self.last(&self.web1, &used[0])?, self.last(&self.db1, &used[1])?);
        println!("failed over to one instant: web1 {leader}, db1 {follower}");
        ensure!(fits(leader, follower), "web1 {leader}, db1 {follower}");
        Ok(())
    }
}

fn fits(leader: u64, follower: u64) -> bool {
    leader > 0 && (follower == leader || follower + 1 == leader)
}
