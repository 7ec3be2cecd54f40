//! App-consistent points of a guest with a real agent and an application on a real file system (R-REP-3).
//!
//! ```text
//!   driver alone ─▶ frozen and thawed, each time
//! ```

use std::env;

use anyhow::{Context, Result};
use understudy_hypervisor::libvirt::{Config, LibvirtHypervisor};
use understudy_lab::{HostName, Stack, machine::Machine};
use understudy_lifecycle_tests::Scene;

use crate::at_rest::a_guest_is_brought_to_rest;

const ALPHA: HostName = HostName::AlphaH1;

fn machine() -> Machine {
    Machine { guest_agent: true, ..Machine::reserved("web1", 1).unwrap() }
}

#[test]
fn a_guest_with_an_agent_is_at_rest_for_its_points_and_never_stays_so() {
    let web1 = machine();
    let scene = Scene::bare("atrest", std::slice::from_ref(&web1)).unwrap();
    let stack = &scene.stack;
    stack.lab().host(ALPHA).wait_guest_agent(&web1.name).unwrap();
    the_driver_alone(stack).unwrap();
}

/// The check that the simulated driver passes as well.
fn the_driver_alone(stack: &Stack) -> Result<()> {
    let place = tempfile::tempdir()?;
    let mut config =
        Config::new(stack.lab().host(ALPHA).libvirt_uri(), place.path().join("state"), place.path());
    config.thaw_guard = Some(agent_program()?);
    let driver = LibvirtHypervisor::new(config);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(a_guest_is_brought_to_rest(&driver, "web1"));
    Ok(())
}

/// Beside the program of this test, one directory up.
fn agent_program() -> Result<std::path::PathBuf> {
    let this = env::current_exe()?;
    let directory = this.parent().and_then(|deps| deps.parent()).context("the test lies in target/…/deps")?;
    Ok(directory.join("understudy-replication-agent"))
}
