//! Wishes that cannot be granted (R-REP-1, R-FO-2, R-OPS-1, invariants 10, 11): each is refused with all that is wrong with it and what to do,
//! and nothing has happened.
//!
//! ```text
//!   wish ─▶ refused: reasons, remedies        jobs, runs, items, leases, machines: as before
//! ```

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;
use understudy_jobs_api::v1::{HeartbeatRequest, worker_service_client::WorkerServiceClient};
use understudy_lab::{
    HostName, Stack,
    machine::Machine,
    stack::resource,
    story::evidence::{array, item_is, newest_run, text},
};
use understudy_lifecycle_tests::{
    Scene,
    evidence::{FIVE_SECONDS, protect, run_is},
};
use understudy_recovery::test_network::TestNetwork;
use understudy_recovery_api::{
    Operation, RecoveryClient,
    request::{Page, RunSpec, StartRun},
    view::RunPreview,
};
use understudy_rpc::{ApiError, Channel, ClientConfig, ExpectedPeer, Kind, ServiceKind, TlsFiles, connect};

const ALPHA: HostName = HostName::AlphaH1;
const BRAVO: HostName = HostName::BravoH1;
const PROD: [&str; 2] = ["sites/alpha/networks/prod", "sites/bravo/networks/prod"];
const NOBODY: &str = "00000000-0000-7000-8000-000000000000";

#[test]
fn what_cannot_be_done_is_refused_with_every_reason_and_without_effect() {
    let machines = Machine::defaults().unwrap();
    let scene = Scene::set("refusals", &machines).unwrap();
    let stack = &scene.stack;
    protect(stack, "web1", FIVE_SECONDS).unwrap();
    let protection = text(&newest_run(stack, "web1").unwrap(), "name");
    run_is(stack, &protection, "succeeded").unwrap();

    wishes_about_what_is_not_there(stack, &protection).unwrap();
    wishes_without_a_mapping(stack).unwrap();
    a_plan_that_has_changed(stack).unwrap();
    strangers(stack).unwrap();
    the_same_request_twice(stack).unwrap();
}

fn wishes_about_what_is_not_there(stack: &Stack, protection: &str) -> Result<()> {
    let (alpha, bravo) = (resource(ALPHA), resource(BRAVO));
    let (web1, db1) = (format!("{alpha}/web1"), format!("{alpha}/db1"));
    let nosuch = format!("{alpha}/nosuch");
    let wishes: &[(&[&str], &[&str])] = &[
        // Everything that is wrong is told at once.
        (
            &["item", "protect", "web1", "--machine", &nosuch, "--to", "bravo/bravo-h9", "--policy", "gold"],
            &["POLICY_NOT_FOUND", "ITEM_EXISTS", "MACHINE_NOT_FOUND", "HOST_NOT_FOUND"],
        ),
        (
            &["item", "protect", "web2", "--machine", &web1, "--to", &bravo, "--policy", FIVE_SECONDS],
            &["MACHINE_PROTECTED"],
        ),
        (
            &[
                "item",
                "protect",
                "db1",
                "--machine",
                &db1,
                "--to",
                &bravo,
                "--policy",
                "gold",
                "--exclude-disk",
                "vdz",
            ],
            &["POLICY_NOT_FOUND", "DISK_NOT_FOUND"],
        ),
        (
            &["item", "protect", "db1", "--machine", &db1, "--to", &alpha, "--policy", FIVE_SECONDS],
            &["SAME_HOST"],
        ),
        (&["failover", "test", "db1", "--yes"], &["ITEM_NOT_FOUND"]),
        (&["failover", "test", "web1", "--point", "web1=999", "--yes"], &["POINT_NOT_FOUND"]),
        (&["failover", "reverse", "web1", "--yes"], &["WRONG_ITEM_STATE"]),
        (
            &["failover", "unplanned", "web1", "nosuch", "--yes"],
            &["PRIMARY_DOWN_ASSERTION_REQUIRED", "ITEM_NOT_FOUND"],
        ),
        // What is protected has a copy, which would not be used.
        (&["failover", "failback", "web1", "--synchronise", "during", "--yes"], &["WRONG_ITEM_STATE"]),
        (&["run", "complete-failover", protection, "--yes"], &["VERB_NOT_ALLOWED"]),
        (&["run", "commit", protection], &["VERB_NOT_ALLOWED"]),
        (&["run", "complete-test", protection, "--notes", "x"], &["VERB_NOT_ALLOWED"]),
        (&["run", "cancel", NOBODY], &["RUN_NOT_FOUND"]),
        (&["item", "unprotect", "nosuch"], &["ITEM_NOT_FOUND"]),
    ];
    for (wish, reasons) in wishes {
        refused(stack, wish, reasons)?;
    }
    Ok(())
}

fn wishes_without_a_mapping(stack: &Stack) -> Result<()> {
    let id = mapping(stack)?;
    ensure!(stack.cli().command(&["mapping", "delete", &id]).output()?.status.success(), "the mapping stays");
    let (machine, bravo) = (format!("{}/db1", resource(ALPHA)), resource(BRAVO));
    for wish in [
        &["failover", "test", "web1", "--yes"][..],
        &["failover", "planned", "web1", "--yes"],
        &["failover", "failback", "web1", "--yes"],
        &["item", "protect", "db1", "--machine", &machine, "--to", &bravo, "--policy", FIVE_SECONDS],
    ] {
        refused(stack, wish, &["NETWORK_NOT_MAPPED"])?;
    }
    stack.cli().json(&["mapping", "create", PROD[0], PROD[1]]).map(drop)
}

fn mapping(stack: &Stack) -> Result<String> {
    let known = stack.cli().json(&["mapping", "list"])?;
    array(&known).first().map(|m| text(m, "id")).context("there is no mapping")
}

/// Between the preview and the start, the network that the machine would be connected to has become another one.
fn a_plan_that_has_changed(stack: &Stack) -> Result<()> {
    let seen = as_operator(stack, async |client| client.preview_run(test_of_web1()).await)??;
    ensure!(seen.problems.is_empty(), "{:?}", seen.problems);
    let other = "sites/bravo/networks/other";
    let create = ["network", "create", other, "--subnet", "192.168.50.0/24", "--hypervisor-network", "other"];
    stack.cli().json(&create)?;
    let delete = ["mapping", "delete", &mapping(stack)?];
    ensure!(stack.cli().command(&delete).output()?.status.success(), "the mapping stays");
    stack.cli().json(&["mapping", "create", PROD[0], other])?;

    let before = effects(stack)?;
    let start = start(&seen, "changed");
    let error = as_operator(stack, async |client| client.start_run(start).await)?.err();
    expect(error, Kind::Aborted, "PLAN_CHANGED")?;
    unchanged(stack, &before)?;

    let delete = ["mapping", "delete", &mapping(stack)?];
    ensure!(stack.cli().command(&delete).output()?.status.success(), "the mapping stays");
    stack.cli().json(&["mapping", "create", PROD[0], PROD[1]]).map(drop)
}

/// A certificate opens the doors that belong to it, and no certificate of ours opens none.
fn strangers(stack: &Stack) -> Result<()> {
    let before = effects(stack)?;
    let control = stack.lab().control_dir().join("pki");
    let agents = stack.lab().host(ALPHA).pki();
    let list = async |channel| {
        RecoveryClient::new(channel).list_sites(Page { size: 10, token: String::new() }).await
    };

    let agent = call(stack, ServiceKind::Orchestrator, tls(&agents, "agent"), list)?.err();
    expect(agent, Kind::PermissionDenied, "")?;
    let user = call(stack, ServiceKind::JobTracker, tls(&control, "operator"), async |channel| {
        let beat = HeartbeatRequest { task: format!("jobs/{NOBODY}/tasks/{NOBODY}"), ..Default::default() };
        WorkerServiceClient::new(channel).heartbeat(beat).await.map_err(ApiError::from)
    })?;
    expect(user.err(), Kind::PermissionDenied, "")?;

    // Another authority's operator is nobody here, whatever the certificate says.
    let foreign = stack.lab().control_dir().join("foreign");
    let (dir, out) = (foreign.join("authority").display().to_string(), foreign.display().to_string());
    let identity = "spiffe://understudy/user/operator";
    for arguments in [
        &["pki", "init", "--dir", &dir][..],
        &["pki", "issue", "--dir", &dir, "--identity", identity, "--out", &out, "--name", "operator"],
    ] {
        ensure!(stack.cli().command(arguments).output()?.status.success(), "no foreign authority");
    }
    let foreigner = TlsFiles { ca: control.join("ca.pem"), ..tls(&foreign, "operator") };
    let error = call(stack, ServiceKind::Orchestrator, foreigner, list)?.err();
    let error = error.context("a foreign certificate was let in")?;
    ensure!(error.kind == Kind::Unavailable && !error.remedy.is_empty(), "{error:?}");
    unchanged(stack, &before)
}

/// The same request is the same run; the same id for another wish is a mistake; and the run that there is now is in the way of others.
fn the_same_request_twice(stack: &Stack) -> Result<()> {
    let seen = as_operator(stack, async |client| client.preview_run(test_of_web1()).await)??;
    let wish = start(&seen, "twice");
    let first = as_operator(stack, async |client| client.start_run(wish.clone()).await)??;
    let second = as_operator(stack, async |client| client.start_run(wish.clone()).await)??;
    ensure!(first.name == second.name, "two runs came of one request");
    let run = first.name.to_string();
    run_is(stack, &run, "waiting")?;

    let before = effects(stack)?;
    let mut other = wish;
    other.spec.test_network = TestNetwork::None;
    let reused = as_operator(stack, async |client| client.start_run(other).await)?.err();
    expect(reused, Kind::AlreadyExists, "REQUEST_ID_REUSED")?;
    unchanged(stack, &before)?;
    for wish in [&["failover", "test", "web1", "--yes"][..], &["item", "unprotect", "web1"]] {
        let said = refused(stack, wish, &["RUN_IN_THE_WAY"])?;
        ensure!(said.contains(&run), "the run in the way is not named: {said}");
    }
    refused(stack, &["run", "commit", &run], &["VERB_NOT_ALLOWED"])?;
    stack.cli().json(&["run", "complete-test", &run, "--notes", "seen"])?;
    run_is(stack, &run, "succeeded")?;
    item_is(stack, "web1", "protected", ALPHA).map(drop)
}

fn test_of_web1() -> RunSpec {
    RunSpec::new(Operation::TestFailover, "web1".parse().into_iter().collect())
}

fn start(seen: &RunPreview, request: &str) -> StartRun {
    StartRun {
        spec: seen.spec.clone(),
        plan_digest: seen.digest.clone(),
        request_id: request.parse().expect("letters are a request id"),
    }
}

fn expect(error: Option<ApiError>, kind: Kind, reason: &str) -> Result<()> {
    let error = error.with_context(|| format!("{kind:?} {reason} was expected, and nothing was refused"))?;
    ensure!(error.kind == kind && (reason.is_empty() || error.reason == reason), "{error:?}");
    ensure!(!error.remedy.is_empty(), "no remedy: {error:?}");
    Ok(())
}

/// Types the wish and reads why it is refused. Each reason comes with its remedy, and nothing has happened.
fn refused(stack: &Stack, wish: &[&str], reasons: &[&str]) -> Result<String> {
    let before = effects(stack)?;
    let refusal = stack.cli().refused(wish)?;
    let said = refusal.said;
    ensure!(refusal.code == Some(1), "{wish:?} ended with {:?}: {said}", refusal.code);
    let missing: Vec<&&str> =
        reasons.iter().filter(|reason| !said.contains(&format!("[{reason}]"))).collect();
    ensure!(missing.is_empty(), "{wish:?} does not say {missing:?}: {said}");
    let told = reasons.len();
    ensure!(said.matches("→").count() >= told, "{wish:?} has {told} reasons and less remedies: {said}");
    unchanged(stack, &before).with_context(|| format!("{wish:?} was refused"))?;
    Ok(said)
}

/// Whatever a wish may change, without what changes by itself.
fn effects(stack: &Stack) -> Result<BTreeMap<&'static str, Value>> {
    let cli = stack.cli();
    let mut seen = BTreeMap::new();
    for (what, list, fields) in [
        ("jobs", &["job", "list", "--limit", "500"][..], &["job", "state"][..]),
        ("runs", &["run", "list"], &["name", "state"]),
        ("leases", &["lease", "list"], &["id"]),
        ("items", &["item", "list"], &["name", "state", "generation", "run", "test_run"]),
    ] {
        let listed = cli.json(list)?;
        let kept = array(&listed).iter().map(|one| fields.iter().map(|f| one[*f].clone()).collect::<Value>());
        seen.insert(what, kept.collect());
    }
    for host in HostName::FIRST {
        let machines = stack.lab().host(host).virsh(["list", "--all", "--name"])?;
        seen.insert(host.name(), Value::from(machines));
    }
    Ok(seen)
}

fn unchanged(stack: &Stack, before: &BTreeMap<&'static str, Value>) -> Result<()> {
    let now = effects(stack)?;
    for (what, now) in &now {
        ensure!(before.get(what) == Some(now), "{what} changed from {:?} to {now}", before.get(what));
    }
    Ok(())
}

fn tls(pki: &Path, name: &str) -> TlsFiles {
    let file = |name: String| pki.join(name);
    TlsFiles {
        ca: file("ca.pem".to_owned()),
        certificate: file(format!("{name}.pem")),
        key: file(format!("{name}.key")),
    }
}

fn as_operator<T: Send>(
    stack: &Stack,
    action: impl AsyncFnOnce(RecoveryClient) -> Result<T, ApiError> + Send,
) -> Result<Result<T, ApiError>> {
    let operator = tls(&stack.lab().control_dir().join("pki"), "operator");
    call(stack, ServiceKind::Orchestrator, operator, async |channel| {
        action(RecoveryClient::new(channel)).await
    })
}

/// Calls a service from within the control plane's network.
fn call<T: Send>(
    stack: &Stack,
    service: ServiceKind,
    tls: TlsFiles,
    action: impl AsyncFnOnce(Channel) -> Result<T, ApiError> + Send,
) -> Result<Result<T, ApiError>> {
    let (endpoint, descriptors) = match service {
        ServiceKind::Orchestrator => {
            ("https://10.77.2.10:7442", understudy_recovery_api::FILE_DESCRIPTOR_SET)
        }
        ServiceKind::JobTracker => ("https://10.77.2.10:7441", understudy_jobs_api::FILE_DESCRIPTOR_SET),
        ServiceKind::NetworkMapper => bail!("nothing is asked of network-mapper here"),
    };
    let config = ClientConfig::new(endpoint, tls, ExpectedPeer::Service(service), descriptors);
    stack.lab().control().enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { Ok(action(connect(config).map_err(|e| anyhow!(e))?).await) })
    })?
}
