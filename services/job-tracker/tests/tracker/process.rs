//! The program itself: configuration, migrations, `kill -9`, and an orderly end.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use understudy_jobs_api::{NewJob, TaskState};

use crate::{support::*, worker};

/// A process that does not outlive its test.
struct Process(Child);

impl Process {
    fn start(config: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_understudy-job-tracker"));
        command.arg("--config").arg(config).stdin(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").arg(signal).arg(self.0.id().to_string()).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn config(tracker: &Tracker, address: SocketAddr) -> String {
    let tls = tracker.tls_files("service/job-tracker");
    format!(
        "[server]\nlisten = \"{address}\"\n[server.tls]\nca = {:?}\ncertificate = {:?}\nkey = {:?}\n\
         [database]\nurl = {:?}\n[leases]\nlease_ms = 1000\npoll_ms = 100\n",
        tls.ca,
        tls.certificate,
        tls.key,
        tracker.database.config().url
    )
}

async fn create(tracker: &Tracker, new: NewJob) -> understudy_ids::Uuid {
    eventually("an answer", async || tracker.jobs(ORCHESTRATOR).create_job(new.clone()).await.is_ok()).await;
    new.id
}

#[tokio::test]
async fn the_program_survives_kill_9_and_ends_in_order_on_sigterm() {
    let address = free_address();
    let tracker = Tracker::outside(address).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("job-tracker.toml");
    std::fs::write(&file, config(&tracker, address)).unwrap();

    let first = Process::start(&file);
    let id = create(&tracker, job((0..20).map(|n| task(&format!("t{n}"))).collect())).await;
    let worker = worker::run(&tracker, 2);
    drop(first);

    let mut second = Process::start(&file);
    let more = create(&tracker, job(vec![task("good")])).await;
    let jobs = tracker.jobs(USER);
    for job in [id, more] {
        eventually("the end of all tasks", async || {
            let page = jobs.list_tasks(job, 0, None).await;
            page.is_ok_and(|p| !p.items.is_empty() && p.items.iter().all(|t| t.state == TaskState::Succeeded))
        })
        .await;
    }
    let asked = Instant::now();
    second.signal("-TERM");
    let status = tokio::task::spawn_blocking(move || second.0.wait().unwrap()).await.unwrap();
    assert!(status.success(), "{status}");
    assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
    worker.shutdown.cancel();
}

#[test]
fn a_bad_configuration_is_refused_with_all_its_problems() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("job-tracker.toml");
    let text = "[server]\nlisten = \"127.0.0.1:0\"\ntls = {ca = \"a\", certificate = \"b\", key = \"c\"}\n\
                [database]\nurl = \"postgres:///jobs\"\n[leases]\nlease_ms = 0\npoll_ms = 0\n[history]\nretention_days = 0\n";
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_understudy-job-tracker"));
    let output = command.arg("--config").arg(&file).arg("--check").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8(output.stderr).unwrap();
    for key in ["leases.lease_ms", "leases.poll_ms", "history.retention_days"] {
        assert!(told.contains(key), "{told}");
    }
}
