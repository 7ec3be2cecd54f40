//! What several lifecycle tests do and look at, beside what the story of the main job does.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use understudy_lab::{
    Host, HostName, Stack,
    journal::JournalReport,
    machine::Machine,
    probe::wait_until,
    stack::resource,
    story::evidence::{array, item_is, newest_run, point_files, points, qemu_img_check, text, whole_journal},
};
use uuid::Uuid;

/// A run on the lab takes seconds; with one lease of a killed worker to wait for, some more. A machine has its own time to answer
/// (90 s), which an emulated one beside others may come close to; a run takes that long at least before it hangs.
pub const RUN_LIMIT: Duration = Duration::from_secs(240);
/// The policy that the lab comes with.
pub const FIVE_SECONDS: &str = "five-seconds";

/// Asks for protection towards bravo and does not wait for it.
///
/// # Errors
/// When it is refused.
pub fn begin_protection(stack: &Stack, item: &str, policy: &str) -> Result<()> {
    let machine = format!("{}/{item}", resource(HostName::AlphaH1));
    let target = resource(HostName::BravoH1);
    let wish = ["item", "protect", item, "--machine", &machine, "--to", &target, "--policy", policy];
    wait_until("the machine to be known", Duration::from_secs(20), || stack.cli().json(&wish).map(Some))
        .map(drop)
}

/// Protects towards bravo and waits for the first point.
///
/// # Errors
/// When it is refused or does not come about.
pub fn protect(stack: &Stack, item: &str, policy: &str) -> Result<()> {
    begin_protection(stack, item, policy)?;
    item_is(stack, item, "protected", HostName::AlphaH1).map(drop)
}

/// Starts a run by `understudy failover …` without waiting for it, and returns its id.
///
/// # Errors
/// When it is refused.
pub fn start_run(stack: &Stack, kind: &str, item: &str, options: &[&str]) -> Result<String> {
    let arguments = [&["failover", kind, item, "--yes"], options].concat();
    let started = stack.cli().command(&arguments).output()?;
    ensure!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
    Ok(text(&newest_run(stack, item)?, "name"))
}

/// Waits until the run is in `state`, and returns it as it is then. A run that ends otherwise is not waited for.
///
/// # Errors
/// When the run does not get there; the error shows its problems.
pub fn run_is(stack: &Stack, run: &str, state: &str) -> Result<Value> {
    let (seen, _) = wait_until(&format!("run {run} to be {state}"), RUN_LIMIT, || {
        let now = stack.cli().json(&["run", "show", run])?;
        let ended = !now["end_time"].is_null();
        // What a run hangs at is known to nobody after the lab is gone.
        ensure!(now["state"] == state || ended, "the run is as yet: {now:#}");
        Ok(Some(now))
    })?;
    ensure!(seen["state"] == state, "the run is {}, not {state}: {}", seen["state"], seen["problems"]);
    Ok(seen)
}

/// Waits until the run waits for a person at `step`, and returns it as it is then.
///
/// # Errors
/// When the run does not get there.
pub fn run_waits_at(stack: &Stack, run: &str, step: &str) -> Result<Value> {
    let (seen, _) = wait_until(&format!("run {run} to wait at {step}"), RUN_LIMIT, || {
        let now = stack.cli().json(&["run", "show", run])?;
        let waits = array(&now["steps"]).iter().any(|s| s["step"] == step && s["state"] == "running");
        let stopped = !now["end_time"].is_null() || now["state"] == "failed";
        ensure!(waits || stopped, "the run is as yet: {now:#}");
        Ok(Some((now, waits)))
    })?;
    ensure!(seen.1, "the run is {}, and does not wait at {step}: {}", seen.0["state"], seen.0["problems"]);
    Ok(seen.0)
}

/// The item's directory in the store of `host`.
pub fn item_directory(host: &Host, item: &str) -> PathBuf {
    host.store().join("items").join(item)
}

/// The points that lie in the store of `host`, by their manifests, oldest first.
///
/// # Errors
/// When the store cannot be read.
pub fn stored_points(host: &Host, item: &str) -> Result<Vec<u64>> {
    let mut found: Vec<u64> = entries(&item_directory(host, item).join("points"))?
        .into_iter()
        .filter(|path| path.join("manifest.json").exists())
        .filter_map(|path| path.file_name()?.to_str()?.parse().ok())
        .collect();
    found.sort_unstable();
    Ok(found)
}

/// The newest point that is listed is sound at `standby`: qemu-img finds nothing wrong, and its journal has no hole (invariant 2).
///
/// # Errors
/// When it is not.
pub fn newest_point_is_whole(stack: &Stack, standby: HostName, machine: &Machine) -> Result<JournalReport> {
    let newest = points(stack, &machine.name)?.pop().context("no point is listed")?;
    let files = point_files(&stack.lab().host(standby), machine, newest.seq);
    for file in &files {
        qemu_img_check(file)?;
    }
    whole_journal(&files).with_context(|| format!("point {}", newest.seq))
}

/// Nothing lies in the item's directory that no point, branch or active copy needs (invariant 6).
///
/// # Errors
/// With what lies there.
pub fn store_is_tidy(host: &Host, item: &str) -> Result<()> {
    wait_until("nothing half made in the store", Duration::from_secs(20), || {
        let directory = item_directory(host, item);
        let mut left = Vec::new();
        for path in [entries(&directory)?, entries(&directory.join("points"))?].concat() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with('.') || name == "adopting" {
                left.push(path);
            }
        }
        // Between two cycles nothing is on its way.
        if directory.join("incoming").exists() {
            left.push(directory.join("incoming"));
        }
        ensure!(left.is_empty(), "{left:?}");
        Ok(Some(()))
    })
    .map(drop)
}

/// No machine, network, interface, name space, DHCP server, overlay or lease of a test is left at `host` (R-TF-5, invariant 6).
///
/// # Errors
/// With what is left.
pub fn nothing_of_a_test_is_left(stack: &Stack, host: &Host, item: &str) -> Result<()> {
    let machines = host.virsh(["list", "--all", "--name"])?;
    ensure!(machines.trim().is_empty(), "machines: {}", machines.trim());
    let networks = host.virsh(["net-list", "--all", "--name"])?;
    ensure!(!networks.contains("ust-"), "networks: {}", networks.trim());
    let links = host.namespace().command("ip").args(["-br", "link"]).output()?;
    let links = String::from_utf8_lossy(&links.stdout).into_owned();
    ensure!(["ut-", "us-", "up-"].iter().all(|ours| !links.contains(ours)), "interfaces: {links}");
    let spaces = test_namespaces(host)?;
    ensure!(spaces.is_empty(), "name spaces: {spaces:?}");
    let servers = processes_about(&host.agent_state())?;
    ensure!(servers.iter().all(|line| !line.contains("dnsmasq")), "processes: {servers:?}");
    let branches = entries(&item_directory(host, item).join("branches"))?;
    ensure!(branches.is_empty(), "overlays: {branches:?}");
    let leases = stack.cli().json(&["lease", "list"])?;
    ensure!(array(&leases).is_empty(), "leases: {leases}");
    Ok(())
}

/// Waits until the host refuses its old copy because it is not the active side. Never meanwhile does it start it (invariant 1).
///
/// # Errors
/// When it starts it, or does not come to know its place.
pub fn comes_to_know_its_place(host: &Host, machine: &str) -> Result<()> {
    let mut started = false;
    wait_until(&format!("{} to know its place", host.name()), Duration::from_secs(60), || {
        let refusal = host.start(machine).err().map(|refusal| format!("{refusal:#}"));
        started |= refusal.is_none();
        Ok(refusal.filter(|text| text.contains("not the active side")).map(drop))
    })?;
    ensure!(!started, "the old copy was started");
    Ok(())
}

/// How many processes stand by at the host to end activation leases.
///
/// # Errors
/// When processes cannot be listed.
pub fn lease_guards(host: &Host) -> Result<usize> {
    let lines = processes_about(&host.agent_state())?;
    Ok(lines.iter().filter(|line| line.contains("lease-guard")).count())
}

/// Name spaces of test networks, and of ports on networks that were there before, are in one directory for all hosts of all labs; their
/// names end with a digest of the host's own directory.
///
/// # Errors
/// When they cannot be listed.
pub fn test_namespaces(host: &Host) -> Result<Vec<String>> {
    let state = host.agent_state().join("hypervisor");
    let digest =
        Uuid::new_v5(&Uuid::NAMESPACE_OID, state.as_os_str().as_encoded_bytes()).simple().to_string();
    let spaces = entries(Path::new("/run/netns"))?;
    let names = spaces.iter().filter_map(|path| path.file_name()?.to_str());
    let of_a_test = |name: &str| name.starts_with("understudy-ut-") || name.starts_with("understudy-up-");
    let ours = names.filter(|name| of_a_test(name) && name.ends_with(&digest[..8]));
    Ok(ours.map(str::to_owned).collect())
}

/// Whether the test network of a running test would be found: the check above is worth nothing otherwise.
///
/// # Errors
/// When the host cannot be asked.
pub fn a_test_network_is_there(host: &Host) -> Result<bool> {
    let servers = processes_about(&host.agent_state())?;
    let served = servers.iter().any(|line| line.contains("dnsmasq"));
    let listed = host.virsh(["net-list", "--all", "--name"])?.contains("ust-");
    Ok(served && listed && !test_namespaces(host)?.is_empty())
}

/// Command lines of processes that name a path below `directory`.
fn processes_about(directory: &Path) -> Result<Vec<String>> {
    let wanted = directory.display().to_string();
    let numbered = entries(Path::new("/proc"))?.into_iter().filter(|path| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit))
    });
    // A process that has ended meanwhile is not one.
    let lines = numbered.filter_map(|path| fs::read(path.join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    Ok(lines.filter(|line| line.contains(&wanted)).collect())
}

/// What is in a directory; nothing when it is not there.
fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    match fs::read_dir(directory) {
        Ok(listed) => listed.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", directory.display())),
    }
}
