//! The whole control plane is away for a while, database and all, and nobody does anything about it (invariant 13).

use std::time::Duration;

use anyhow::{Result, ensure};
use understudy_lab::{
    HostName, Service, Stack,
    machine::Machine,
    probe::wait_until,
    story::evidence::{answers, item, now_us, point_after, points},
};
use understudy_lifecycle_tests::{
    Scene,
    evidence::{FIVE_SECONDS, newest_point_is_whole, protect, stored_points},
};

const BRAVO: HostName = HostName::BravoH1;
/// Three intervals of five seconds fit, wherever in one the absence begins.
const POINTS_MEANWHILE: u64 = 3;
const LIMIT: Duration = Duration::from_secs(40);

#[test]
fn replication_goes_on_without_a_control_plane_and_all_is_well_when_it_is_back() {
    let machines = [Machine::reserved("web1", 1).unwrap()];
    let scene = Scene::set("ctlaway", &machines).unwrap();
    let stack = &scene.stack;
    protect(stack, "web1", FIVE_SECONDS).unwrap();
    point_after(stack, "web1", now_us()).unwrap();
    let boot = answers(stack, HostName::AlphaH1, &machines[0]).unwrap().boot_id;

    let meanwhile = nobody_is_there(stack).unwrap();
    everybody_is_back(stack, meanwhile).unwrap();
    newest_point_is_whole(stack, BRAVO, &machines[0]).unwrap();
    let page = answers(stack, HostName::AlphaH1, &machines[0]).unwrap();
    assert_eq!(page.boot_id, boot, "web1 was started anew");
}

/// Returns the newest point that came meanwhile.
fn nobody_is_there(stack: &Stack) -> Result<u64> {
    for service in Service::ALL {
        stack.service(service)?.kill_9()?;
    }
    stack.lab().postgres().stop()?;
    let bravo = stack.lab().host(BRAVO);
    let before = newest(stored_points(&bravo, "web1")?);
    wait_until("points without a control plane", LIMIT, || {
        let now = newest(stored_points(&bravo, "web1")?);
        Ok((now >= before + POINTS_MEANWHILE).then_some(now))
    })
    .map(|(now, _)| now)
}

fn newest(points: Vec<u64>) -> u64 {
    points.last().copied().unwrap_or(0)
}

fn everybody_is_back(stack: &Stack, meanwhile: u64) -> Result<()> {
    stack.lab().postgres().start()?;
    for service in Service::ALL {
        stack.restart_service(service)?;
    }
    let (_, took) = wait_until("the item to be in order again", LIMIT, || {
        let now = item(stack, "web1")?;
        let in_order = now["health"]["level"] == "ok" && now["state"] == "protected";
        Ok((in_order && now["latest_point"].as_u64() > Some(meanwhile)).then_some(()))
    })?;
    println!("in order {:.1} s after the services were back", took.as_secs_f64());
    let listed = points(stack, "web1")?;
    ensure!(listed.iter().any(|point| point.seq == meanwhile), "point {meanwhile} is not told: {listed:?}");
    Ok(())
}
