//! App-consistent points of a guest with a real agent and an application on a real file system (R-REP-3, R-UF-3).
//!
//! ```text
//!   driver alone ─▶ protected ─▶ points tell by their content how the guest stood ─▶ a test from the latest at rest
//!   frozen, and then: the agent is killed ─▶ the guard thaws         the agent hangs ─▶ the guard thaws at the limit
//!                     both are killed ─▶ stays frozen ─▶ the agent's next process thaws
//!   the guest's agent ends ─▶ crash-consistent points and the reason ─▶ it returns ─▶ at rest again
//! ```

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use understudy_hypervisor::libvirt::{Config, LibvirtHypervisor};
use understudy_lab::{
    HostName, Stack,
    journal::record::{DISK_BYTES, FILES_BYTES},
    machine::Machine,
    probe::{http_get, wait_until},
    story::evidence::{array, item, number, outcome, point_files, text, time_us},
};
use understudy_lifecycle_tests::{
    Scene,
    evidence::{protect, run_is, start_run},
};

use crate::at_rest::a_guest_is_brought_to_rest;

const ALPHA: HostName = HostName::AlphaH1;
const BRAVO: HostName = HostName::BravoH1;
const POLICY: &str = "at-rest";
/// What the policy says.
const EVERY: &str = "3s";
const FREEZE_LIMIT: Duration = Duration::from_secs(6);
/// What a busy machine may add to a time limit.
const SLACK: Duration = Duration::from_secs(4);
const LIMIT: Duration = Duration::from_secs(180);

#[test]
fn a_guest_with_an_agent_is_at_rest_for_its_points_and_never_stays_so() {
    let web1 = Machine { guest_agent: true, ..Machine::reserved("web1", 1).unwrap() };
    let scene = Scene::bare("atrest", std::slice::from_ref(&web1)).unwrap();
    let stack = &scene.stack;
    stack.lab().host(ALPHA).wait_guest_agent("web1").unwrap();
    the_driver_alone(stack).unwrap();

    stack.up().unwrap();
    stack.describe_sites().unwrap();
    let policy = ["policy", "create", POLICY, "--interval", "2s", "--keep", "500"];
    let limit = format!("{}s", FREEZE_LIMIT.as_secs());
    let at_rest = ["--app-consistent-every", EVERY, "--freeze-limit", &limit];
    stack.cli().json(&[&policy[..], &at_rest].concat()).unwrap();
    protect(stack, "web1", POLICY).unwrap();
    points_tell_by_their_content(stack, &web1).unwrap();
    a_test_can_choose_the_latest_at_rest(stack).unwrap();
    the_guard_thaws_when_the_agent_dies(stack).unwrap();
    the_guard_thaws_when_the_agent_hangs(stack).unwrap();
    the_next_process_thaws_when_both_die(stack).unwrap();
    no_pause_was_longer_than_the_limit(stack, &web1).unwrap();
    without_the_guests_agent(stack, &web1).unwrap();
}

/// The check that the simulated driver passes as well.
fn the_driver_alone(stack: &Stack) -> Result<()> {
    let place = tempfile::tempdir()?;
    let uri = stack.lab().host(ALPHA).libvirt_uri();
    let mut config = Config::new(uri, place.path().join("state"), place.path());
    config.thaw_guard = Some(agent_program()?);
    let driver = LibvirtHypervisor::new(config);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(a_guest_is_brought_to_rest(&driver, "web1"));
    Ok(())
}

/// Beside the program of this test, one directory up.
fn agent_program() -> Result<PathBuf> {
    let this = env::current_exe()?;
    let directory = this.parent().and_then(|deps| deps.parent()).context("the test lies in target/…/deps")?;
    Ok(directory.join("understudy-replication-agent"))
}

/// Points of the item with that consistency, newest first.
fn points(stack: &Stack, consistency: &str) -> Result<Vec<Value>> {
    let listed = stack.cli().json(&["point", "list", "web1"])?;
    Ok(array(&listed).iter().filter(|point| point["consistency"] == consistency).cloned().collect())
}

/// The newest point of that consistency whose instant is after `after_us`.
fn point_after(stack: &Stack, consistency: &str, after_us: i64) -> Result<Value> {
    let what = format!("a point with the consistency {consistency}");
    wait_until(&what, LIMIT, || newest_after(stack, consistency, after_us)).map(|(point, _)| point)
}

fn newest_after(stack: &Stack, consistency: &str, after_us: i64) -> Result<Option<Value>> {
    let newest = points(stack, consistency)?.into_iter().next();
    Ok(newest.filter(|point| time_us(&point["instant"]).is_ok_and(|instant| instant > after_us)))
}

fn now_us() -> i64 {
    understudy_lab::story::evidence::now_us()
}

/// R-REP-3: nothing but the disks is asked.
fn points_tell_by_their_content(stack: &Stack, web1: &Machine) -> Result<()> {
    for _ in 0..2 {
        let at_rest = point_after(stack, "application", now_us())?;
        let files = Files::of(stack, web1, &at_rest)?;
        ensure!(!files.needs_recovery()?, "the file system of an app-consistent point is to be recovered");
        files.check()?;
        let state = files.read("state")?;
        let last: u64 = match state.trim().split_once(' ') {
            Some(("closed", last)) => last.parse()?,
            _ => bail!("the application was not at rest: {state}"),
        };
        let ledger: Vec<u64> = files.read("ledger")?.lines().map(str::parse).collect::<Result<_, _>>()?;
        ensure!(
            last > 0 && ledger.iter().copied().eq(1..=last),
            "the ledger of {last} entries is {ledger:?}"
        );
        let frozen = at_rest["frozen"].as_f64().context("no time of freezing is told")?;
        ensure!(frozen > 0.0 && frozen < FREEZE_LIMIT.as_secs_f64(), "frozen for {frozen} s");
        println!("point {}: at rest after entry {last}, frozen for {frozen:.3} s", at_rest["seq"]);
    }
    let crash = point_after(stack, "crash", 0)?;
    let files = Files::of(stack, web1, &crash)?;
    ensure!(files.needs_recovery()?, "a running file system is said to be clean");
    files.recover()?;
    let state = files.read("state")?;
    ensure!(state.starts_with("open"), "nobody asked the application to rest: {state}");
    Ok(())
}

/// R-UF-3, for a test: shown beforehand, and used.
fn a_test_can_choose_the_latest_at_rest(stack: &Stack) -> Result<()> {
    // A crash-consistent one is newer, so that the latest is another.
    let at_rest = point_after(stack, "application", now_us())?;
    point_after(stack, "crash", time_us(&at_rest["instant"])?)?;
    let options = ["--network", "none", "--point", "web1=latest-app-consistent"];
    let preview = stack.cli().json(&[&["failover", "test", "web1", "--preview"], &options[..]].concat())?;
    let planned = &preview["items"][0];
    ensure!(planned["point_consistency"] == "application", "planned: {planned}");
    let run = start_run(stack, "test", "web1", &options)?;
    let waiting = run_is(stack, &run, "waiting")?;
    let used = number(outcome(&waiting, "web1")?, "point")?;
    ensure!(used >= number(planned, "point")?, "{used} was used, {planned} was shown");
    let known = points(stack, "application")?;
    ensure!(
        known.iter().any(|point| number(point, "seq").is_ok_and(|seq| seq == used)),
        "{used} is not at rest"
    );
    stack.cli().json(&["run", "complete-test", &run, "--notes", "at rest"])?;
    run_is(stack, &run, "succeeded").map(drop)
}

/// Whether the guest's file systems are frozen, as its own agent says.
fn is_frozen(stack: &Stack) -> Result<bool> {
    let ask = ["qemu-agent-command", "web1", r#"{"execute":"guest-fsfreeze-status"}"#];
    Ok(stack.lab().host(ALPHA).virsh(ask)?.contains("frozen"))
}

/// Stops the agent's process between freezing and thawing.
fn held_frozen(stack: &Stack) -> Result<()> {
    let note = stack.lab().host(ALPHA).agent_state().join("hypervisor/frozen/web1");
    let agent = stack.agent(ALPHA)?;
    let begun = Instant::now();
    while begun.elapsed() < LIMIT {
        // The question waits for its turn behind the freeze itself.
        if note.exists() && is_frozen(stack)? {
            agent.signal(Signal::SIGSTOP)?;
            if is_frozen(stack)? {
                return Ok(());
            }
            // Too late: the next time, then.
            agent.signal(Signal::SIGCONT)?;
        }
        thread::sleep(Duration::from_millis(2));
    }
    bail!("the agent was never caught with its guest frozen")
}

/// How long it takes until the guest is thawed.
fn thawed_within(stack: &Stack, limit: Duration) -> Result<Duration> {
    wait_until("the guest to be thawed", limit, || Ok((!is_frozen(stack)?).then_some(())))
        .map(|(_, took)| took)
}

fn the_guard_thaws_when_the_agent_dies(stack: &Stack) -> Result<()> {
    held_frozen(stack)?;
    stack.agent(ALPHA)?.kill_9()?;
    let took = thawed_within(stack, FREEZE_LIMIT)?;
    println!("agent killed while frozen: thawed after {took:?}, with no agent there");
    stack.restart_agent(ALPHA)?;
    point_after(stack, "application", now_us()).map(drop)
}

fn the_guard_thaws_when_the_agent_hangs(stack: &Stack) -> Result<()> {
    held_frozen(stack)?;
    let took = thawed_within(stack, FREEZE_LIMIT + SLACK)?;
    println!("agent stopped while frozen: thawed after {took:?}");
    stack.agent(ALPHA)?.signal(Signal::SIGCONT)?;
    // What it has then is not sold as more than it is.
    reason_is(stack, "GUEST_FREEZE_TOO_LONG")?;
    point_after(stack, "application", now_us()).map(drop)
}

/// Without a guard the guest stays frozen, which shows what the guard is worth; the note on disk is the last resort.
fn the_next_process_thaws_when_both_die(stack: &Stack) -> Result<()> {
    held_frozen(stack)?;
    for guard in guards()? {
        kill(guard, Signal::SIGKILL)?;
    }
    stack.agent(ALPHA)?.kill_9()?;
    thread::sleep(FREEZE_LIMIT);
    ensure!(is_frozen(stack)?, "somebody else thaws, so the two checks before this one show nothing");
    stack.restart_agent(ALPHA)?;
    let took = thawed_within(stack, SLACK)?;
    println!("agent and guard killed while frozen: thawed {took:?} after the agent's return");
    point_after(stack, "application", now_us()).map(drop)
}

/// Processes that guard this lab's machine.
fn guards() -> Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process that has ended meanwhile is not one.
        let line = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        if line.contains("thaw-guard") && line.contains("/atrest/") {
            found.push(Pid::from_raw(pid));
        }
    }
    ensure!(!found.is_empty(), "there is no guard");
    Ok(found)
}

/// The guest's own records of when it could write, up to the point that was made last. Frozen on purpose without a guard it waited
/// for longer once.
fn no_pause_was_longer_than_the_limit(stack: &Stack, web1: &Machine) -> Result<()> {
    let at_rest = point_after(stack, "application", now_us())?;
    let pulse = Files::of(stack, web1, &at_rest)?.read("pulse")?;
    let beats: Vec<u64> = pulse.lines().map(str::parse).collect::<Result<_, _>>()?;
    let mut pauses: Vec<Duration> =
        beats.windows(2).map(|pair| Duration::from_micros(pair[1].saturating_sub(pair[0]))).collect();
    pauses.sort();
    let longest: Vec<_> = pauses.iter().rev().take(8).collect();
    println!("{} beats; the guest's longest pauses of writing: {longest:?}", beats.len());
    let [unguarded, hung, ..] = longest.as_slice() else { bail!("the guest has hardly written") };
    ensure!(**unguarded > FREEZE_LIMIT, "frozen without a guard, it went on writing: {unguarded:?}");
    ensure!(**hung < FREEZE_LIMIT + SLACK, "with a guard it could not write for {hung:?}");
    Ok(())
}

fn reason_is(stack: &Stack, wanted: &str) -> Result<()> {
    wait_until(&format!("{wanted} to be told"), LIMIT, || {
        let health = item(stack, "web1")?["health"].clone();
        Ok(health.to_string().contains(wanted).then_some(()))
    })
    .map(drop)
}

fn without_the_guests_agent(stack: &Stack, web1: &Machine) -> Result<()> {
    let host = stack.lab().host(ALPHA);
    let address = web1.address().context("web1 has an address")?;
    let tell = |what: &str| http_get(&host.namespace(), address, 80, what, Duration::from_secs(5));
    tell("/guest-agent?runs=no")?;
    reason_is(stack, "GUEST_AGENT_SILENT")?;
    let health = item(stack, "web1")?["health"].clone();
    ensure!(health["level"] == "warning" && health["activity"] != "error", "{health}");
    ensure!(text(&health, "remedy").contains("qemu-guest-agent"), "{health}");
    point_after(stack, "crash", now_us())?;
    let since = now_us();
    wait_until("a point at rest", LIMIT, || {
        // It may have found its channel taken still, and have ended.
        tell("/guest-agent?runs=yes")?;
        newest_after(stack, "application", since)
    })?;
    wait_until("health to be well again", LIMIT, || {
        Ok((item(stack, "web1")?["health"]["level"] == "ok").then_some(()))
    })
    .map(drop)
}

/// The file system in a point's first disk, as a file of its own.
struct Files {
    image: tempfile::NamedTempFile,
}

impl Files {
    fn of(stack: &Stack, machine: &Machine, point: &Value) -> Result<Self> {
        const BLOCK: u64 = 1 << 20;
        let disk = point_files(&stack.lab().host(BRAVO), machine, number(point, "seq")?).remove(0);
        let image = tempfile::NamedTempFile::new()?;
        let area = [
            format!("bs={BLOCK}"),
            format!("skip={}", DISK_BYTES / BLOCK),
            format!("count={}", (DISK_BYTES + FILES_BYTES) / BLOCK),
        ];
        let operands = [format!("if={}", disk.display()), format!("of={}", image.path().display())];
        run(Command::new("qemu-img")
            .args(["dd", "-U", "-f", "qcow2", "-O", "raw"])
            .args(area)
            .args(operands))?;
        Ok(Self { image })
    }

    fn path(&self) -> &Path {
        self.image.path()
    }

    /// Whether the journal holds what is not in its place yet.
    fn needs_recovery(&self) -> Result<bool> {
        Ok(run(Command::new("dumpe2fs").arg("-h").arg(self.path()))?.contains("needs_recovery"))
    }

    /// As the kernel does when it mounts it.
    fn recover(&self) -> Result<()> {
        let done = Command::new("e2fsck").args(["-y", "-E", "journal_only"]).arg(self.path()).output()?;
        // 1: something was put right.
        ensure!(matches!(done.status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&done.stdout));
        Ok(())
    }

    /// Nothing is wrong, and nothing is put right.
    fn check(&self) -> Result<()> {
        run(Command::new("e2fsck").arg("-fn").arg(self.path())).map(drop)
    }

    /// What lies in it, without the journal.
    fn read(&self, file: &str) -> Result<String> {
        run(Command::new("debugfs").args(["-R", &format!("cat /{file}")]).arg(self.path()))
    }
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
