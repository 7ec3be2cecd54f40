//! Guests in the groups of a recovery plan, with a script and a person in between (R-RP-1, R-RP-2, R-PF-3).
//!
//! ```text
//!   shut down: web ─▶ logic ─▶ data      asked before the first group      start: data ─▶ script @ bravo ─▶ logic, one by one ─▶ web
//!   the script is not the one that was pinned ─▶ the run stops there ─▶ put right, retried ─▶ goes on
//! ```
//! In which order guests came up is what they say themselves: since when each has been running.

use std::{
    env,
    fs::{self, Permissions},
    io::Write,
    os::unix::fs::PermissionsExt,
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use understudy_lab::{
    HostName, Stack,
    machine::Machine,
    story::evidence::{answers, array, is_silent, item_is, now_us, outcome, text},
};
use understudy_lifecycle_tests::{
    Scene,
    evidence::{FIVE_SECONDS, begin_protection, run_is, run_waits_at},
};

const ALPHA: HostName = HostName::AlphaH1;
const BRAVO: HostName = HostName::BravoH1;
const SCRIPT: &str = "move-dns.sh";
/// Says what it was told, and as whom it runs.
const RIGHT: &str = "#!/bin/sh\nset -e\necho \"user $(id -un)\"\ncat\necho\necho moved\n";
const WRONG: &str = "#!/bin/sh\necho not what was agreed\n";
/// All the lab's guests, as by hand: they boot for minutes on a small machine.
const ALL: &str = "UNDERSTUDY_LAB_ALL_GUESTS";

#[test]
fn guests_come_up_in_the_groups_of_their_plan() {
    let groups: [(&str, &[&str]); 3] = if env::var_os(ALL).is_some() {
        [("data", &["db1", "db2", "db3"]), ("logic", &["app1", "app2", "app3"]), ("web", &["web1", "web2"])]
    } else {
        [("data", &["db1"]), ("logic", &["app1", "app2"]), ("web", &["web1"])]
    };
    let names = groups.iter().flat_map(|(_, items)| items.iter());
    let machines: Vec<Machine> = names.map(|name| Machine::reserved(name, 1).unwrap()).collect();
    let scene = Scene::set("plan", &machines).unwrap();
    let shop = Shop { stack: &scene.stack, groups, machines };
    shop.protect().unwrap();
    shop.is_kept_as_a_file().unwrap();
    let run = shop.asks_before_anything_is_switched().unwrap();
    shop.stops_at_a_script_that_is_another(&run).unwrap();
    shop.goes_on_with_the_right_one(&run).unwrap();
    shop.came_up_in_order().unwrap();
    scene.stack.cli().json(&["run", "commit", &run]).unwrap();
    for machine in &shop.machines {
        item_is(&scene.stack, &machine.name, "protected", BRAVO).unwrap();
    }
}

struct Shop<'a> {
    stack: &'a Stack,
    groups: [(&'static str, &'static [&'static str]); 3],
    machines: Vec<Machine>,
}

impl Shop<'_> {
    fn protect(&self) -> Result<()> {
        for machine in &self.machines {
            begin_protection(self.stack, &machine.name, FIVE_SECONDS)?;
        }
        self.machines.iter().try_for_each(|m| item_is(self.stack, &m.name, "protected", ALPHA).map(drop))
    }

    fn file(&self, instructions: &str) -> Result<String> {
        let digest = sha256(RIGHT)?;
        let items = |index: usize| -> String {
            self.groups[index].1.iter().map(|item| format!("  - item: {item}\n")).collect()
        };
        let (data, logic, web) = (items(0), items(1), items(2));
        Ok(format!(
            "name: shop
source_site: alpha
target_site: bravo
groups:
- name: data
  items:
{data}  before:
  - name: tell-people
    do:
      manual:
        instructions: {instructions}
  after:
  - name: move-dns
    operations: [planned-failover]
    do:
      script:
        host: bravo/bravo-h1
        name: {SCRIPT}
        sha256: {digest}
- name: logic
  at_once: 1
  items:
{logic}- name: web
  items:
{web}"
        ))
    }

    /// R-RP-3: a plan is a file, and what has changed about it is shown.
    fn is_kept_as_a_file(&self) -> Result<()> {
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(self.file("Call the shop.")?.as_bytes())?;
        let path = file.path().to_str().context("a plain path")?.to_owned();
        let kept = self.stack.cli().json(&["plan", "import", &path])?;
        ensure!(array(&kept["groups"]).len() == 3 && array(&kept["problems"]).is_empty(), "{kept}");
        ensure!(self.diff(&path)? == (0, String::new()), "a plan differs from itself");
        let exported = self.stack.cli().command(&["plan", "export", "shop"]).output()?;
        fs::write(&path, &exported.stdout)?;
        ensure!(self.diff(&path)? == (0, String::new()), "an export differs from what it was made of");
        fs::write(&path, self.file("Call nobody.")?)?;
        let (code, shown) = self.diff(&path)?;
        let changed = shown.contains("-        instructions: Call the shop.")
            || shown.contains("instructions: Call nobody.") && shown.contains("\n-");
        ensure!(code == 1 && changed, "{code}: {shown}");
        Ok(())
    }

    fn diff(&self, path: &str) -> Result<(i32, String)> {
        let output = self.stack.cli().command(&["plan", "diff", path]).output()?;
        let code = output.status.code().context("the command was killed")?;
        Ok((code, String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    /// A person is asked while everything can still be taken back.
    fn asks_before_anything_is_switched(&self) -> Result<String> {
        self.put_script(WRONG)?;
        // All that runs at alpha is in the plan, so there is one run.
        let started = self.stack.cli().json(&["failover", "planned", "--site", "alpha", "--yes"])?;
        let [run] = array(&started) else { bail!("one run was to be started: {started}") };
        ensure!(run["spec"]["recovery_plan"] == "shop", "{run}");
        let run = text(run, "name");
        let asking = run_waits_at(self.stack, &run, "group-1.before-1")?;
        ensure!(text(&asking, "waiting_for").starts_with("tell-people: Call the shop."), "{asking}");
        ensure!(asking["allowed_actions"].to_string().contains("cancel"), "it is too late to cancel");
        let web = self.groups[2].1[0];
        let (first, last) = (step(&asking, &format!("{web}.shut-down"))?, step(&asking, "db1.shut-down")?);
        ensure!(
            text(first, "end_time") <= text(last, "start_time"),
            "data shut down before web: {first} {last}"
        );
        self.stack.cli().json(&["run", "confirm", &run, "--step", "group-1.before-1"])?;
        Ok(run)
    }

    /// R-PF-3: an error in a script is one of the run; nothing behind it has begun.
    fn stops_at_a_script_that_is_another(&self, run: &str) -> Result<()> {
        let stopped = run_is(self.stack, run, "failed")?;
        let problem = array(&stopped["problems"]).first().context("no problem is told")?;
        ensure!(problem["reason"] == "SCRIPT_CHANGED", "{problem}");
        ensure!(step(&stopped, "group-1.after-1")?["state"] == "failed", "{stopped}");
        for name in self.groups[1].1.iter().chain(self.groups[2].1) {
            ensure!(step(&stopped, &format!("{name}.start"))?["state"] == "pending", "{name} was started");
        }
        Ok(())
    }

    fn goes_on_with_the_right_one(&self, run: &str) -> Result<()> {
        self.put_script(RIGHT)?;
        self.stack.cli().json(&["run", "retry", run])?;
        let waiting = run_waits_at(self.stack, run, "commit")?;
        ensure!(array(&waiting["problems"]).is_empty(), "{}", waiting["problems"]);
        let script = step(&waiting, "group-1.after-1")?;
        ensure!(script["outcome"] == "exit code 0: moved", "{script}");
        let said = text(script, "output");
        ensure!(said.starts_with("user nobody\n"), "{said}");
        let told: Value = serde_json::from_str(said.lines().nth(1).context("what it was told")?)?;
        ensure!(told["plan"] == "shop" && told["to"] == "bravo" && told["attempt"] == 1, "{told}");
        let of_db1 =
            array(&told["machines"]).iter().find(|m| m["item"] == "db1").context("db1 is told of")?;
        ensure!(of_db1["addresses"][0] == "192.168.50.12", "{told}");
        for machine in &self.machines {
            let disks = array(&outcome(&waiting, &machine.name)?["disks"]);
            ensure!(!disks.is_empty() && disks.iter().all(|d| d["equal"] == true), "R-PF-2: {disks:?}");
        }
        Ok(())
    }

    /// Since when each runs, by its own word.
    fn came_up_in_order(&self) -> Result<()> {
        let mut groups = Vec::new();
        for (name, items) in self.groups {
            let mut since = Vec::new();
            for item in items {
                let machine =
                    self.machines.iter().find(|m| m.name == *item).context("a machine of the plan")?;
                let page = answers(self.stack, BRAVO, machine)?;
                ensure!(is_silent(self.stack, ALPHA, machine)?, "two copies of {item} are in production");
                since.push(now_us() - i64::try_from(page.uptime_ms * 1000)?);
            }
            println!("{name}: up since {since:?}");
            groups.push(since);
        }
        for pair in groups.windows(2) {
            ensure!(
                pair[0].iter().max() < pair[1].iter().min(),
                "a group came up before the one ahead of it"
            );
        }
        // One at a time: each has answered before the next one was switched on.
        ensure!(groups[1].is_sorted(), "{:?} came up side by side", groups[1]);
        Ok(())
    }

    fn put_script(&self, contents: &str) -> Result<()> {
        let path = self.stack.lab().host(BRAVO).scripts().join(SCRIPT);
        fs::write(&path, contents)?;
        fs::set_permissions(&path, Permissions::from_mode(0o755)).map_err(Into::into)
    }
}

fn step<'a>(run: &'a Value, name: &str) -> Result<&'a Value> {
    let found = array(&run["steps"]).iter().find(|step| step["step"] == name);
    found.with_context(|| format!("the run has no step {name}"))
}

/// As an operator finds it out.
fn sha256(contents: &str) -> Result<String> {
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), contents)?;
    let said = Command::new("sha256sum").arg(file.path()).output()?;
    let said = String::from_utf8(said.stdout)?;
    said.split_whitespace().next().map(str::to_owned).context("sha256sum said nothing")
}
