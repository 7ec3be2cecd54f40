//! How a service process ends (R-OPS-1). The test program runs itself again as the service.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use serde::Deserialize;
use understudy_service::{ServiceConfig, run_from};

const AS_SERVICE: &str = "LIFE_TEST_AS_SERVICE";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    telemetry: understudy_telemetry::Config,
    /// Whether the service ends when it is asked to.
    obedient: bool,
}

impl ServiceConfig for Config {
    fn telemetry(&self) -> &understudy_telemetry::Config {
        &self.telemetry
    }
}

/// Not a test but the service; it does nothing unless one of the tests below starts it.
#[test]
fn service() {
    let Some(arguments) = std::env::var_os(AS_SERVICE) else { return };
    let arguments = arguments.into_string().unwrap();
    let arguments = ["life"].into_iter().chain(arguments.split_whitespace()).map(Into::into).collect();
    let code = run_from("life", "1.2.3", arguments, async |config: Config, context| {
        context.shutdown.cancelled().await;
        if !config.obedient {
            std::future::pending::<()>().await;
        }
        Ok(())
    });
    // The harness would turn any result of ours into its own.
    std::process::exit(if code == ExitCode::SUCCESS {
        0
    } else if code == ExitCode::from(2) {
        2
    } else {
        1
    });
}

fn start(arguments: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "service", "--nocapture"])
        .env(AS_SERVICE, arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn terminate(child: &Child) {
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
}

fn wait_for(log: &mut impl Iterator<Item = std::io::Result<String>>, text: &str) {
    let found = log.by_ref().map(Result::unwrap).any(|line| line.contains(text));
    assert!(found, "the service ended without {text:?} in its log");
}

fn end(mut child: Child) -> Option<i32> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("the service did not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn sigterm_ends_a_service_in_order() {
    let mut child = start("--set obedient=true");
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    wait_for(&mut log, "\"starting\"");
    terminate(&child);
    wait_for(&mut log, "\"ended\"");
    assert_eq!(end(child), Some(0));
}

#[test]
fn a_second_sigterm_ends_a_service_that_hangs() {
    let mut child = start("--set obedient=false");
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    wait_for(&mut log, "\"starting\"");
    terminate(&child);
    wait_for(&mut log, "asked to end");
    terminate(&child);
    assert_eq!(end(child), Some(130));
}

#[test]
fn a_configuration_that_cannot_be_used_is_exit_code_2() {
    let mut child = start("--set obedient=maybe --set colour=1");
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    wait_for(&mut log, "the configuration cannot be used");
    assert_eq!(log.map(Result::unwrap).filter(|l| l.contains("obedient") || l.contains("colour")).count(), 2);
    assert_eq!(end(child), Some(2));
}
