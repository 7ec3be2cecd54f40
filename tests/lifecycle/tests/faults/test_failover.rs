//! Tests that do not go as they should: killed agents, a test machine that dies, a change of mind (R-TF-5, invariants 5 and 6).

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use understudy_lab::{
    HostName, Namespace, Stack, Visitor,
    machine::Machine,
    probe::{Reach, guest_page, reach_from_guest, wait_until},
    story::evidence::{answers, array, item_is, now_us, point_after, text},
    topology::{PROD_BRIDGE, WITNESS},
};
use understudy_lifecycle_tests::{
    Scene,
    evidence::{
        FIVE_SECONDS, RUN_LIMIT, a_test_network_is_there, nothing_of_a_test_is_left, protect, run_is,
        start_run, test_namespaces,
    },
};

const BRAVO: HostName = HostName::BravoH1;
/// A machine that is known to be off answers no probe; those that boot get a minute and a half.
const PROBED_WITHIN: Duration = Duration::from_secs(30);

#[test]
fn whatever_happens_to_a_test_failover_nothing_of_it_is_left() {
    let machines = [Machine { guest_agent: true, ..Machine::reserved("web1", 1).unwrap() }];
    let scene = Scene::set("tfkills", &machines).unwrap();
    let stack = &scene.stack;
    protect(stack, "web1", FIVE_SECONDS).unwrap();

    a_network_that_was_there_before(stack, &machines[0]).unwrap();
    what_was_asked_for_is_proven(stack).unwrap();
    the_agent_dies_when_the_machine_was_made(stack).unwrap();
    the_test_machine_dies(stack).unwrap();
    someone_cancels(stack).unwrap();
    production_is_as_before(stack, &machines[0]).unwrap();
}

/// R-TF-8, R-JOB-4: the machine is asked what its item says, from inside the test network; what fails says why and stops nothing; there is a
/// picture of its console; and all of it is in one file.
fn what_was_asked_for_is_proven(stack: &Stack) -> Result<()> {
    let [agent, tcp, http, wrong] = [
        "guest-agent",
        "tcp:80,within=30s",
        "http:80/,within=30s,contains=boot_id",
        "http:80/,name=wrong,within=3s,contains=no such text",
    ];
    let set = ["item", "probes", "web1", "--probe", agent, "--probe", tcp, "--probe", http, "--probe", wrong];
    stack.cli().json(&set)?;
    let run = start_run(stack, "test", "web1", &[])?;
    let waiting = run_is(stack, &run, "waiting")?;
    let steps = array(&waiting["steps"]);
    let step = |name: &str| steps.iter().find(|step| text(step, "step") == name).context(name.to_owned());
    for (name, said) in [
        ("web1.probe-1", "answered after"),
        ("web1.probe-2", ": connected"),
        ("web1.probe-3", ": HTTP status 200, with the text that is wanted"),
    ] {
        let step = step(name)?;
        ensure!(step["state"] == "succeeded" && text(step, "outcome").contains(said), "{name}: {step}");
    }
    let failed = step("web1.probe-4")?;
    ensure!(failed["state"] == "failed", "a text that is not there was found: {failed}");
    let why = text(&failed["error"], "message");
    ensure!(why.ends_with("HTTP status 200, without the text that is wanted"), "no reason: {failed}");
    ensure!(step("web1.screenshot")?["state"] == "succeeded", "no picture: {waiting}");

    let place = tempfile::tempdir()?;
    let [picture, report] =
        ["console.png", "report.html"].map(|file| place.path().join(file).display().to_string());
    stack.cli().json(&["run", "screenshot", &run, "web1", "--out", &picture])?;
    ensure!(colours(&picture)? > 1, "the console shows nothing");
    stack.cli().json(&["run", "complete-test", &run, "--notes", "looked at"])?;
    run_is(stack, &run, "completed-with-errors")?;
    wait_until("the report", RUN_LIMIT, || {
        let written = stack.cli().json(&["run", "report", &run, "--html", &report]);
        Ok(written.is_ok().then_some(()))
    })?;
    let page = std::fs::read_to_string(&report)?;
    for part in [
        "data:image/png;base64,",
        "without the text that is wanted",
        "guest-agent",
        "Isolation",
        "CompleteTest",
        "looked at",
        &run,
    ] {
        ensure!(page.contains(part), "{part} is not in the report");
    }
    stack.cli().json(&["item", "probes", "web1", "--none"])?;
    nothing_of_a_test_is_left(stack, &stack.lab().host(BRAVO), "web1")
}

/// How many colours a PNG has.
fn colours(file: &str) -> Result<usize> {
    let mut reader = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(file)?)).read_info()?;
    let mut pixels = vec![0; reader.output_buffer_size().context("it has no size")?];
    let frame = reader.next_frame(&mut pixels)?;
    Ok(pixels[..frame.buffer_size()].chunks_exact(3).collect::<std::collections::BTreeSet<_>>().len())
}

fn the_agent_dies_when_the_machine_was_made(stack: &Stack) -> Result<()> {
    let run = start_run(stack, "test", "web1", &[])?;
    test_machine(stack)?;
    stack.agent(BRAVO)?.kill_9()?;
    stack.restart_agent(BRAVO)?;
    run_is(stack, &run, "waiting")?;
    let host = stack.lab().host(BRAVO);
    ensure!(a_test_network_is_there(&host)?, "the test's network is not found where it should be");
    ensure!(host.virsh(["list", "--name"])?.trim().lines().count() == 1, "one test machine runs");
    let complete = ["run", "complete-test", &run, "--notes", "survived"];
    stack.cli().json(&complete)?;
    run_is(stack, &run, "succeeded")?;
    nothing_of_a_test_is_left(stack, &host, "web1")
}

/// The machine never answers. The run says so without waiting for its probe's whole limit, leaves the operator to look, and takes away
/// what it made all the same.
fn the_test_machine_dies(stack: &Stack) -> Result<()> {
    let run = start_run(stack, "test", "web1", &[])?;
    let host = stack.lab().host(BRAVO);
    let name = test_machine(stack)?;
    wait_until("the test machine to run", RUN_LIMIT, || {
        Ok((host.machine_state(&name)? == "running").then_some(()))
    })?;
    host.kill_9_machine(&name)?;
    let killed = Instant::now();
    let waiting = run_is(stack, &run, "waiting")?;
    ensure!(killed.elapsed() < PROBED_WITHIN, "a dead machine was probed for {:?}", killed.elapsed());
    let steps = array(&waiting["steps"]);
    let probe = steps.iter().find(|s| text(s, "step").ends_with(".probe")).context("nothing was probed")?;
    ensure!(probe["state"] == "failed", "a machine that is dead passed its probe: {probe}");
    ensure!(!text(&probe["error"], "remedy").is_empty(), "no remedy: {probe}");
    stack.cli().json(&["run", "complete-test", &run, "--notes", "it did not come up"])?;
    run_is(stack, &run, "completed-with-errors")?;
    nothing_of_a_test_is_left(stack, &host, "web1")
}

fn someone_cancels(stack: &Stack) -> Result<()> {
    let run = start_run(stack, "test", "web1", &[])?;
    test_machine(stack)?;
    stack.cli().json(&["run", "cancel", &run])?;
    run_is(stack, &run, "cancelled")?;
    nothing_of_a_test_is_left(stack, &stack.lab().host(BRAVO), "web1")
}

const LAB: &str = "sites/bravo/networks/lab";
const BRIDGE: &str = "br-lab";
/// Has production's addresses, as a test network would.
const LAB_XML: &str = "<network><name>lab</name><bridge name='br-lab' stp='off' delay='0'/></network>";

/// R-TF-2, R-TF-4, R-TF-9, R-NET-7: a test on a network of the site, with a DHCP server of its own. The machine answers there, production
/// does not; a cable to production is found before a machine is made; production itself is used only with a reason, which is on record.
fn a_network_that_was_there_before(stack: &Stack, web1: &Machine) -> Result<()> {
    let host = stack.lab().host(BRAVO);
    let create = ["network", "create", LAB, "--subnet", "192.168.50.0/24", "--hypervisor-network", "lab"];
    stack.cli().json(&[&create[..], &["--gateway", "192.168.50.1"]].concat())?;
    let on_lab = ["--network", LAB];
    let wish = ["failover", "test", "web1", "--yes", "--network", LAB];
    ensure!(stack.cli().refused(&wish)?.said.contains("[NETWORK_NOT_ON_HOST]"), "bravo has it already");
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), LAB_XML)?;
    host.virsh(["net-define".as_ref(), file.path().as_os_str()])?;
    host.virsh(["net-start", "lab"])?;
    wait_until("bravo to tell of its network", PROBED_WITHIN, || {
        let seen =
            stack.cli().command(&["failover", "test", "web1", "--preview", "--network", LAB]).output()?;
        Ok(seen.status.success().then_some(()))
    })?;
    let router = Visitor::enter(&host, BRIDGE, "router", Ipv4Addr::new(192, 168, 50, 1))?;
    let address = web1.address().context("no address")?;
    let _dhcp = DhcpServer::start(&router, web1, address)?;

    let run = start_run(stack, "test", "web1", &on_lab)?;
    let waiting = run_is(stack, &run, "waiting")?;
    let steps = array(&waiting["steps"]);
    for (name, said) in
        [("prove-isolation-0", "none of 1 addresses outside"), ("web1.probe", "answered after")]
    {
        let step = steps.iter().find(|step| text(step, "step") == name).context(name)?;
        ensure!(step["state"] == "succeeded" && text(step, "outcome").contains(said), "{name}: {step}");
    }
    let production = answers(stack, HostName::AlphaH1, web1)?;
    let (page, _) = wait_until("the test machine's page", BOOT_LIMIT, || {
        guest_page(router.namespace(), address, Duration::from_secs(1)).map(Some)
    })?;
    ensure!(page.host == "web1" && page.boot_id != production.boot_id, "another machine answers: {page:?}");
    let reach = reach_from_guest(router.namespace(), address, WITNESS, 80)?;
    ensure!(reach == Reach::Unreachable, "production is reached from the test: {reach:?}");
    ensure!(test_namespaces(&host)?.len() == 1, "the port is not found where it should be");
    let leases = stack.cli().json(&["lease", "list"])?;
    ensure!(array(&leases).iter().all(|lease| lease["test"] == false), "not held as in production: {leases}");
    stack.cli().json(&["run", "complete-test", &run, "--notes", "on the lab's network"])?;
    run_is(stack, &run, "succeeded")?;
    nothing_of_a_test_is_left(stack, &host, "web1")?;

    // Somebody has joined the two networks.
    let there = host.namespace();
    ip(&there, &["link", "add", "leak-a", "type", "veth", "peer", "name", "leak-b"])?;
    ip(&there, &["link", "set", "leak-a", "master", BRIDGE, "up"])?;
    ip(&there, &["link", "set", "leak-b", "master", PROD_BRIDGE, "up"])?;
    let run = start_run(stack, "test", "web1", &on_lab)?;
    let failed = run_is(stack, &run, "failed")?;
    ensure!(array(&failed["problems"])[0]["reason"] == "NOT_ISOLATED", "{}", failed["problems"]);
    nothing_of_a_test_is_left(stack, &host, "web1")?;
    ip(&there, &["link", "delete", "leak-a"])?;

    let prod = "sites/bravo/networks/prod";
    let wish = ["failover", "test", "web1", "--yes", "--network", prod];
    ensure!(stack.cli().refused(&wish)?.said.contains("[PRODUCTION_NETWORK]"), "production is tested upon");
    let options = ["--network", prod, "--connect-to-production", "bravo stands empty"];
    let run = start_run(stack, "test", "web1", &options)?;
    run_is(stack, &run, "waiting")?;
    let shown =
        String::from_utf8_lossy(&stack.cli().command(&["run", "show", &run]).output()?.stdout).into_owned();
    ensure!(shown.contains("which production uses: bravo stands empty"), "not marked: {shown}");
    stack.cli().json(&["run", "complete-test", &run, "--notes", "looked at"])?;
    run_is(stack, &run, "succeeded")?;
    nothing_of_a_test_is_left(stack, &host, "web1")?;
    host.virsh(["net-destroy", "lab"])?;
    host.virsh(["net-undefine", "lab"]).map(drop)
}

fn ip(namespace: &Namespace, arguments: &[&str]) -> Result<()> {
    let done = namespace.command("ip").args(arguments).output()?;
    ensure!(done.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// A machine that answers a ping may not serve its page yet.
const BOOT_LIMIT: Duration = Duration::from_secs(60);

/// Gives one machine its address, on a network that the test did not make.
struct DhcpServer(std::process::Child);

impl DhcpServer {
    fn start(seat: &Visitor, machine: &Machine, address: Ipv4Addr) -> Result<Self> {
        let reservation = format!("--dhcp-host={},{address}", machine.mac);
        let mut server = seat.namespace().command("dnsmasq");
        server.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--port=0",
            "--pid-file=",
            "--user=root",
        ]);
        server.args(["--interface=visit", "--bind-interfaces", "--dhcp-authoritative", "--leasefile-ro"]);
        server.args(["--dhcp-range=192.168.50.0,static,255.255.255.0,1h", &reservation]);
        Ok(Self(server.spawn()?))
    }
}

impl Drop for DhcpServer {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has noticed then.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until the hypervisor has a test machine, running or not.
fn test_machine(stack: &Stack) -> Result<String> {
    let host = stack.lab().host(BRAVO);
    wait_until("a test machine", RUN_LIMIT, || {
        let listed = host.virsh(["list", "--all", "--name"])?;
        Ok(listed.lines().map(str::trim).find(|name| !name.is_empty()).map(str::to_owned))
    })
    .map(|(name, _)| name)
}

fn production_is_as_before(stack: &Stack, web1: &Machine) -> Result<()> {
    let boot = answers(stack, HostName::AlphaH1, web1)?;
    ensure!(Duration::from_millis(boot.uptime_ms) > Duration::from_secs(10), "web1 was started anew");
    item_is(stack, "web1", "protected", HostName::AlphaH1)?;
    point_after(stack, "web1", now_us()).context("replication does not go on").map(drop)
}
