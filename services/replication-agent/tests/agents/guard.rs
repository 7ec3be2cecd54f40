//! The guard as libvirt calls it: the real program, a description on standard input, an exit code (R-FO-7).

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use understudy_replication_api::Action;

use crate::harness::{Host, World, machine, wait};

/// Writes the agent's configuration as an operator would.
fn config_file(host: &Host) -> PathBuf {
    let config = host.config();
    let text = format!(
        r#"
site = "{}"
host = "{}"
store_dir = "{}"
state_dir = "{}"
control_listen = "{}"
bulk_listen = "{}"
job_tracker = "{}"
boot_id_file = "{}"
[tls]
ca = "{}"
certificate = "{}"
key = "{}"
[hypervisor]
driver = "libvirt"
uri = "qemu:///system"
state_dir = "/var/lib/understudy/hypervisor"
console_dir = "/var/log/understudy"
emulation = "qemu"
"#,
        config.site,
        config.host,
        config.store_dir.display(),
        config.state_dir.display(),
        config.control_listen,
        config.bulk_listen,
        config.job_tracker,
        config.boot_id_file.display(),
        config.tls.ca.display(),
        config.tls.certificate.display(),
        config.tls.key.display(),
    );
    let path = host.dir.join("agent.toml");
    std::fs::write(&path, text).unwrap();
    path
}

fn description(tag: &str) -> String {
    format!(
        "<domain type='qemu'><name>web1</name><metadata>{tag}</metadata><memory>65536</memory><devices/></domain>"
    )
}

fn active(generation: u64) -> String {
    let space = "xmlns:understudy=\"https://understudy.example/libvirt/1\"";
    description(&format!("<understudy:machine {space} item='web1' generation='{generation}' role='active'/>"))
}

fn test_machine() -> String {
    let space = "xmlns:understudy=\"https://understudy.example/libvirt/1\"";
    let run = uuid::Uuid::nil();
    description(&format!("<understudy:machine {space} item='web1' generation='1' role='test' run='{run}'/>"))
}

/// `Ok` when the machine may start, else what the operator is told.
fn guard(config: &Path, description: &str) -> Result<(), String> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_understudy-replication-agent"))
        .arg("--config")
        .arg(config)
        .args(["guard", "web1", "prepare", "begin", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The guard may answer without reading, when the configuration is broken.
    let _ = child.stdin.take().unwrap().write_all(description.as_bytes());
    let done = child.wait_with_output().unwrap();
    if done.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&done.stderr).into_owned()) }
}

/// A host that comes back after a disaster starts none of its old guests, and one that took over starts its own until it
/// boots; strangers and tests are not its business.
#[test]
fn a_machine_starts_only_where_it_was_confirmed_to_be_active_since_the_boot() {
    let mut world = World::new(1);
    world.protect(Duration::from_millis(150));
    let seq = wait("a point", || Some(world.bravo.latest()).filter(|n| *n > 0));
    let (alpha, bravo) = (config_file(&world.alpha), config_file(&world.bravo));
    guard(&alpha, &active(1)).unwrap();
    assert!(guard(&bravo, &active(1)).unwrap_err().contains("not the active side"));

    // R-FO-7: cut off for longer than its lease.
    let lease = |length| world.alpha.renew(1, Duration::from_secs(length)).unwrap();
    lease(60);
    guard(&alpha, &active(1)).unwrap();
    lease(1);
    let refused = wait("the lease to end", || guard(&alpha, &active(1)).err());
    assert!(refused.contains("activation lease"), "{refused}");
    lease(60);
    guard(&alpha, &active(1)).unwrap();

    // Alpha's host dies and boots with its control link cut: nothing is told to its agent.
    world.alpha.kill_agent();
    std::fs::write(world.alpha.dir.join("boot"), "boot-2\n").unwrap();
    assert!(guard(&alpha, &active(1)).unwrap_err().contains("booted since"));
    // R-FO-7: confirmed or not, it is bound by a lease still, for whose end somebody may wait.
    world.alpha.start_agent();
    let start = |world: &World, boot: &str| {
        let action = Action::StartInBoot { machine: machine(), boot_id: boot.to_owned() };
        world.alpha.perform(1, world.run, action).map_err(|error| format!("{error:?}"))
    };
    assert!(start(&world, "boot-2").unwrap_err().contains("LEASE_ENDED"));
    assert!(guard(&alpha, &active(1)).unwrap_err().contains("activation lease"));
    world.alpha.renew(1, Duration::from_secs(60)).unwrap();
    start(&world, "boot-2").unwrap();
    guard(&alpha, &active(1)).unwrap();
    world.alpha.kill_agent();
    std::fs::write(world.alpha.dir.join("boot"), "boot-3\n").unwrap();
    // What was asked for before it booted once more confirms nothing and starts nothing: the other side may have taken over.
    world.alpha.start_agent();
    assert!(start(&world, "boot-2").unwrap_err().contains("OTHER_BOOT"));
    assert!(guard(&alpha, &active(1)).unwrap_err().contains("booted since"));
    world.alpha.kill_agent();

    world.bravo.twice(2, world.run, Action::PromotePoint { seq: World::seq(seq), nics: vec![None] });
    world.bravo.twice(2, world.run, Action::StartMachine { machine: machine() });
    guard(&bravo, &active(2)).unwrap();
    assert!(guard(&bravo, &active(1)).unwrap_err().contains("generation"));

    for host in [&alpha, &bravo] {
        guard(host, &description("")).unwrap();
        guard(host, &test_machine()).unwrap();
    }
    let nowhere = world.bravo.dir.join("nothing.toml");
    guard(&nowhere, &description("")).unwrap();
    assert!(guard(&nowhere, &active(2)).is_err(), "started without knowing its place");
}
