//! The lab itself, of real parts: what every other test on it takes for granted. Needs root and what `install.sh` installs,
//! and says so when it is missing.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use understudy_ids::Uuid;
use understudy_lab::{
    Host, HostName, Lab, Site, Visitor,
    journal::read_journal,
    machine::Machine,
    preflight::preflight,
    probe::{
        Reach, guest_page, http_get, ping, reach_from_guest, tcp, wait_ping, wait_reach_from_guest,
        wait_until,
    },
    topology::{CONTROL, PROD_BRIDGE, PROD_GATEWAY, WITNESS},
    wan::Cut,
};

/// For what is expected to answer at the first attempt, on a busy machine as well.
const PATIENCE: Duration = Duration::from_secs(10);

fn lab(prefix: &str) -> Result<Lab> {
    let lab = Lab::from_env(format!("{prefix}{}", std::process::id()).parse()?)?;
    let missing = preflight(lab.cache());
    ensure!(missing.is_empty(), "this machine lacks what the lab needs:\n  {}", missing.join("\n  "));
    Ok(lab)
}

/// Networks, hosts and database: reachable where they should be, apart where they should be, and gone at the end.
#[test]
fn sites_are_apart_can_be_cut_and_leave_nothing() -> Result<()> {
    let lab = lab("net")?.up_scoped()?;
    let (alpha, bravo) = (lab.host(HostName::AlphaH1), lab.host(HostName::BravoH1));

    // Management is routed between the sites; production is not, and has its witness.
    wait_ping(&alpha.namespace(), CONTROL)?;
    wait_ping(&lab.control(), HostName::AlphaH1.address())?;
    ensure!(!ping(&lab.control(), WITNESS)?, "management sees production");
    // Not even one that knows the way gets through.
    let route = ["route", "add", "default", "via", &PROD_GATEWAY.to_string()];
    ensure!(alpha.witness().command("ip").args(route).status()?.success());
    wait_ping(&alpha.witness(), PROD_GATEWAY)?;
    ensure!(!ping(&alpha.witness(), HostName::AlphaH1.address())?, "production sees management");
    let forwards = alpha.namespace().command("sysctl").args(["-n", "net.ipv4.ip_forward"]).output()?.stdout;
    ensure!(forwards == b"0\n", "the host forwards: {forwards:?}");
    ensure!(http_get(&alpha.namespace(), WITNESS, 80, "/", PATIENCE)?.contains("alpha"));
    ensure!(http_get(&bravo.namespace(), WITNESS, 80, "/", PATIENCE)?.contains("bravo"));

    let wan = lab.wan();
    wan.cut(Cut::Control)?;
    ensure!(!ping(&alpha.namespace(), CONTROL)?);
    wait_ping(&alpha.namespace(), HostName::BravoH1.address()).context("only control was to be cut")?;
    wan.cut(Cut::AlphaToBravo)?;
    ensure!(!ping(&alpha.namespace(), HostName::BravoH1.address())?);
    wan.heal()?;
    wan.rate(Some(10_000))?;
    wait_ping(&alpha.namespace(), CONTROL)?;
    wan.rate(None)?;

    // What was committed survives the database's sudden death.
    let postgres = lab.postgres();
    postgres.sql("jobs", "CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)")?;
    postgres.kill_9()?;
    ensure!(postgres.sql("jobs", "SELECT 1").is_err(), "a killed database answered");
    postgres.start()?;
    ensure!(postgres.sql("jobs", "SELECT n FROM kept")?.trim() == "7");
    ensure!(tcp(&lab.control(), [127, 0, 0, 1].into(), 5432, PATIENCE)? == Reach::Connected);
    postgres.stop()?;

    // A hook counts from libvirtd's next start on.
    let witness = alpha.hooks().join("seen");
    let hook = alpha.hooks().join("network");
    fs::write(&hook, format!("#!/bin/sh\ntouch {}\n", witness.display()))?;
    fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    alpha.restart_libvirtd()?;
    alpha.virsh(["net-destroy", "prod"])?;
    ensure!(witness.exists(), "libvirtd did not run the hook");

    // What an agent has just made for a test network, and has not given a cable yet: this lab's goes with it, another one's stays.
    let another = lab.directory().with_file_name("another").join("alpha-h1/agent");
    let [ours, theirs] =
        [alpha.agent_state(), another].map(|state| test_namespace(&state.join("hypervisor")));
    fs::create_dir_all(alpha.agent_state())?;
    netns("add", &ours)?;
    netns("add", &theirs)?;

    let (id, directory) = (lab.id().clone(), lab.directory());
    drop(lab);
    ensure!(!directory.exists());
    ensure!(!Path::new("/run/netns").join(ours).exists(), "a test network's namespace is left");
    netns("delete", &theirs).context("another lab's test network lost its namespace")?;
    ensure!(!Path::new(&format!("/run/netns/uslab-{id}-alpha-h1")).exists());
    ensure!(!mentioned_by_processes(&directory)?, "a process of the lab is left");
    Ok(())
}

/// The name of a test network's namespace, as the driver that keeps its records in `state` makes it.
fn test_namespace(state: &Path) -> String {
    let host = Uuid::new_v5(&Uuid::NAMESPACE_OID, state.as_os_str().as_encoded_bytes()).simple().to_string();
    format!("understudy-ut-0123456789ab-{}", &host[..8])
}

fn netns(verb: &str, name: &str) -> Result<()> {
    ensure!(Command::new("ip").args(["netns", verb, name]).status()?.success(), "ip netns {verb} {name}");
    Ok(())
}

fn bytes_written(host: &Host, disk: &str) -> Result<u64> {
    let statistics = host.virsh(["domblkstat", "db1", disk])?;
    let written = statistics
        .lines()
        .find_map(|line| line.trim().strip_prefix(&format!("{disk} wr_bytes "))?.parse().ok());
    written.with_context(|| format!("no wr_bytes in {statistics}"))
}

fn mentioned_by_processes(directory: &Path) -> Result<bool> {
    let name = directory.display().to_string();
    let processes = fs::read_dir("/proc")?.flatten();
    Ok(processes
        .filter_map(|process| fs::read(process.path().join("cmdline")).ok())
        .any(|line| String::from_utf8_lossy(&line).contains(&name)))
}

/// A guest boots from its own disks, is where DHCP puts it, and its journal tells a clean end from a sudden one from the
/// loss of the site, without a gap over two disks.
#[test]
fn a_guest_keeps_its_journal_over_every_kind_of_end() -> Result<()> {
    let lab = lab("vm")?.up_scoped()?;
    let alpha = lab.host(HostName::AlphaH1);
    let db1 = Machine { dirty_kib_per_second: 1024, ..Machine::reserved("db1", 2)? };
    let address = db1.address().expect("db1 has a reservation");
    lab.start_machines(HostName::AlphaH1, std::slice::from_ref(&db1))?;

    wait_reach_from_guest(&alpha.namespace(), address, WITNESS, 80)?;
    ensure!(
        reach_from_guest(&alpha.namespace(), address, HostName::AlphaH1.address(), 22)? == Reach::Unreachable
    );

    let visitor = Visitor::enter(&alpha, PROD_BRIDGE, "one", [192, 168, 50, 250].into())?;
    ensure!(guest_page(visitor.namespace(), address, PATIENCE)?.host == "db1");
    drop(visitor);

    let limit = Duration::from_secs(60);
    // The journal is spread evenly; what the first disk is ahead by is the scratch area.
    wait_until("scratch writes", limit, || {
        Ok((bytes_written(&alpha, "vda")? > bytes_written(&alpha, "vdb")? + (1 << 20)).then_some(()))
    })?;
    let before = alpha.wait_answers(&db1, limit)?.0;
    wait_until("new records", limit, || {
        Ok((alpha.wait_answers(&db1, limit)?.0.last > before.last + 5).then_some(()))
    })?;
    alpha.shut_down("db1", Duration::from_secs(20))?;
    let clean = read_journal(&alpha.disks(&db1))?;
    ensure!(clean.is_whole() && clean.first == 1 && clean.last > before.last + 5, "{clean:?}");
    ensure!(clean.torn.is_empty(), "a clean shutdown leaves no half record: {clean:?}");

    alpha.start("db1")?;
    let again = alpha.wait_answers(&db1, limit)?.0;
    ensure!(again.boot_id != before.boot_id && again.last >= clean.last);
    wait_until("new records", limit, || {
        Ok((alpha.wait_answers(&db1, limit)?.0.last > clean.last + 5).then_some(()))
    })?;
    alpha.kill_9_machine("db1")?;
    let killed = read_journal(&alpha.disks(&db1))?;
    ensure!(killed.is_whole() && killed.last > clean.last + 5 && killed.boots.len() == 2, "{killed:?}");

    alpha.start("db1")?;
    let third = alpha.wait_answers(&db1, limit)?.0;
    lab.kill_site(Site::Alpha)?;
    ensure!(!ping(&lab.control(), HostName::AlphaH1.address())?, "a dead site answers");
    ensure!(alpha.virsh(["list"]).is_err(), "a dead libvirtd answers");
    lab.revive_site(Site::Alpha)?;
    wait_ping(&lab.control(), HostName::AlphaH1.address())?;
    ensure!(alpha.machine_state("db1")? == "shut off", "a machine started by itself");
    let lost = read_journal(&alpha.disks(&db1))?;
    ensure!(lost.is_whole() && lost.last >= third.last && lost.boots.len() >= 2, "{lost:?}");
    alpha.start("db1")?;
    alpha.wait_answers(&db1, limit)?;
    wait_reach_from_guest(&alpha.namespace(), address, WITNESS, 80).context("the witness did not come back")
}
