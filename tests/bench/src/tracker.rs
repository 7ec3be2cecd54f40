//! Our side of the comparison of job queues: job-tracker as a process of its own, durable, over mutual TLS.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, ensure};
use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use understudy_ids::{TaskId, Uuid};
use understudy_jobs_api::{
    Any, FILE_DESCRIPTOR_SET, Handler, JobFilter, JobState, JobUpdate, JobsClient, LeasedTask, NewJob,
    NewTask, Outcome, TaskContext, Worker,
};
use understudy_pki::{Authority, Identity, Validity};
use understudy_rpc::{Channel, ClientConfig, ExpectedPeer, ServiceKind, TlsFiles, connect};

use crate::{place, postgres::Postgres};

pub const DATABASE: &str = "jobs";
const OWNER: &str = "service/orchestrator";
const WORKER: &str = "agent/alpha/alpha-h1";
pub const QUEUE: &str = "hosts/alpha/alpha-h1";
/// Connections that callers share, so that none is what is measured.
const CONNECTIONS: usize = 2;
const PATIENCE: Duration = Duration::from_secs(30);
/// Most tasks that a call may add.
const PER_CALL: usize = 1000;

/// A service's program, which `cargo xtask bench` has built beside this one.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    ensure!(path.is_file(), "{} is missing: start the benchmark by `cargo xtask bench`", path.display());
    Ok(path)
}

/// A port that nobody has at the moment.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A program that ends with the value.
pub struct Process(pub Child);

impl Process {
    pub fn start(program: &Path, config: &Path, log: &Path) -> anyhow::Result<Self> {
        let log = fs::File::create(log)?;
        let mut command = Command::new(program);
        command.arg("--config").arg(config).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Self(command.spawn().with_context(|| program.display().to_string())?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Certificates of one authority.
pub struct Pki {
    dir: PathBuf,
    authority: Authority,
}

impl Pki {
    pub fn new(dir: &Path) -> anyhow::Result<Self> {
        place::remove(dir)?;
        let authority = Authority::create(
            &dir.join("ca"),
            Validity::starting(SystemTime::now().into(), Validity::AUTHORITY),
        )?;
        Ok(Self { dir: dir.to_owned(), authority })
    }

    pub fn files(&self, identity: &str) -> anyhow::Result<TlsFiles> {
        let name = identity.replace('/', "-");
        let file = |ending: &str| self.dir.join(format!("{name}.{ending}"));
        if !file("pem").exists() {
            let validity = Validity::starting(SystemTime::now().into(), Validity::DEFAULT);
            self.authority.issue_to(&Identity::from_path(identity)?, validity, &self.dir, &name)?;
        }
        Ok(TlsFiles { ca: self.dir.join("ca.pem"), certificate: file("pem"), key: file("key") })
    }

    /// The `tls` of a service's configuration.
    pub fn section(&self, identity: &str) -> anyhow::Result<String> {
        let TlsFiles { ca, certificate, key } = self.files(identity)?;
        Ok(format!("{{ ca = {ca:?}, certificate = {certificate:?}, key = {key:?} }}"))
    }
}

pub struct Tracker {
    _process: Process,
    pub pki: Pki,
    pub endpoint: String,
}

/// How fast callers were served.
pub struct Served {
    pub per_second: f64,
    pub p99: Duration,
}

/// The value below which 99 % lie.
pub fn p99(mut values: Vec<Duration>) -> Duration {
    values.sort_unstable();
    values.get(values.len() * 99 / 100).copied().unwrap_or_default()
}

impl Tracker {
    /// With its configuration as it is by default.
    pub async fn start(dir: &Path, postgres: &Postgres) -> anyhow::Result<Self> {
        fs::create_dir_all(dir)?;
        let (pki, port) = (Pki::new(&dir.join("pki"))?, free_port()?);
        let (tls, url) = (pki.section("service/job-tracker")?, postgres.url(DATABASE));
        let config = dir.join("job-tracker.toml");
        fs::write(
            &config,
            format!(
                "[server]\nlisten = \"127.0.0.1:{port}\"\ntls = {tls}\n[database]\nurl = {url:?}\n\
                 [history]\nretention_days = 36500\n"
            ),
        )?;
        let log = dir.join("job-tracker.log");
        let process = Process::start(&program("understudy-job-tracker")?, &config, &log)?;
        let tracker = Self { _process: process, pki, endpoint: format!("https://127.0.0.1:{port}") };
        let (jobs, began) = (tracker.jobs(1)?.remove(0), Instant::now());
        while let Err(error) = jobs.list_jobs(JobFilter::default(), 1, None).await {
            ensure!(
                began.elapsed() < PATIENCE,
                "job-tracker does not answer: {error}; see {}",
                log.display()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(tracker)
    }

    fn channel(&self, identity: &str) -> anyhow::Result<Channel> {
        let expect = ExpectedPeer::Service(ServiceKind::JobTracker);
        let files = self.pki.files(identity)?;
        Ok(connect(ClientConfig::new(&self.endpoint, files, expect, FILE_DESCRIPTOR_SET))?)
    }

    /// Clients of an owner, each with a connection of its own.
    pub fn jobs(&self, count: usize) -> anyhow::Result<Vec<JobsClient>> {
        (0..count).map(|_| Ok(JobsClient::new(self.channel(OWNER)?))).collect()
    }

    /// `callers` that each move a job of their own along, one durable step after the other.
    pub async fn transitions(&self, callers: usize, seconds: u64) -> anyhow::Result<Served> {
        let clients = self.jobs(callers.min(CONNECTIONS))?;
        let mut ids = Vec::new();
        for n in 0..callers {
            ids.push(clients[n % clients.len()].create_job(job(Vec::new())).await?.id);
        }
        let began = Instant::now();
        let until = began + Duration::from_secs(seconds);
        let mut running = tokio::task::JoinSet::new();
        for (n, id) in ids.into_iter().enumerate() {
            let jobs = clients[n % clients.len()].clone();
            running.spawn(async move {
                let mut taken = Vec::new();
                while Instant::now() < until {
                    let asked = Instant::now();
                    let step = taken.len() as u64 + 1;
                    jobs.update_job(update(id, step)).await?;
                    taken.push(asked.elapsed());
                }
                anyhow::Ok(taken)
            });
        }
        let mut taken = Vec::new();
        while let Some(of_one) = running.join_next().await {
            taken.extend(of_one??);
        }
        let per_second = taken.len() as f64 / began.elapsed().as_secs_f64();
        Ok(Served { per_second, p99: p99(taken) })
    }

    /// Tasks per second that one worker claims and completes, out of a queue that was filled before.
    pub async fn claim_and_complete(&self, tasks: usize, slots: u32) -> anyhow::Result<f64> {
        let jobs = self.jobs(1)?.remove(0);
        let id = jobs.create_job(job(Vec::new())).await?.id;
        for first in (0..tasks).step_by(PER_CALL) {
            let some = (first..tasks.min(first + PER_CALL)).map(task).collect();
            jobs.enqueue_tasks(id, some).await?;
        }
        let done = CancellationToken::new();
        let handler = Arc::new(Counting { left: AtomicUsize::new(tasks), done: done.clone() });
        let began = Instant::now();
        // It returns when the last outcome was acknowledged.
        Worker::new(self.channel(WORKER)?).run(QUEUE.parse()?, slots, handler, done).await;
        let took = began.elapsed();
        jobs.update_job(JobUpdate { state: JobState::Succeeded, ..update(id, 1) }).await?;
        Ok(tasks as f64 / took.as_secs_f64())
    }

    /// From asking for a task to be added to its arrival at a worker that waits for it.
    pub async fn wake_ups(&self, count: usize) -> anyhow::Result<Vec<Duration>> {
        let jobs = self.jobs(1)?.remove(0);
        let id = jobs.create_job(job(Vec::new())).await?.id;
        let (arrived, mut arrivals) = mpsc::unbounded_channel();
        let (worker, stop) = (Worker::new(self.channel(WORKER)?), CancellationToken::new());
        let stopped = stop.clone();
        let queue = QUEUE.parse()?;
        let running =
            tokio::spawn(async move { worker.run(queue, 1, Arc::new(Telling(arrived)), stopped).await });
        let mut taken = Vec::new();
        for n in 0..=count {
            // So that the worker has completed the last one and waits again.
            tokio::time::sleep(Duration::from_millis(20)).await;
            let asked = Instant::now();
            jobs.enqueue_tasks(id, vec![task(n)]).await?;
            let at: Instant = arrivals.recv().await.context("the worker has ended")?;
            // The first one opens the session.
            if n > 0 {
                taken.push(at.saturating_duration_since(asked));
            }
        }
        stop.cancel();
        running.await?;
        Ok(taken)
    }

    /// How long the first page of what is open takes, at the median.
    pub async fn list_open(&self, calls: usize) -> anyhow::Result<Duration> {
        let jobs = self.jobs(1)?.remove(0);
        let open = JobState::ALL.into_iter().filter(|state| !state.is_final()).collect();
        let filter = JobFilter { states: open, ..JobFilter::default() };
        let mut taken = Vec::new();
        for _ in 0..calls {
            let asked = Instant::now();
            let page = jobs.list_jobs(filter.clone(), 100, None).await?;
            taken.push(asked.elapsed());
            ensure!(page.items.len() == 100, "{} jobs are open", page.items.len());
        }
        taken.sort_unstable();
        Ok(taken[calls / 2])
    }
}

fn job(tasks: Vec<NewTask>) -> NewJob {
    NewJob {
        id: Uuid::now_v7(),
        kind: "test-failover".to_owned(),
        targets: vec!["protectedItems/web1".to_owned()],
        created_by: "user/bench".to_owned(),
        labels: Default::default(),
        tasks,
    }
}

fn task(n: usize) -> NewTask {
    NewTask {
        id: TaskId::new_v4(),
        key: format!("step-{n}-{}", Uuid::now_v7()),
        title: format!("Step {n}"),
        // Always a queue's name.
        queue: QUEUE.parse().unwrap_or_else(|_| unreachable!("it is a queue")),
        payload: text(64),
        max_attempts: 3,
        not_before: None,
        traceparent: None,
    }
}

fn update(job: Uuid, step: u64) -> JobUpdate {
    JobUpdate {
        job,
        owner_sequence: Some(step),
        state: JobState::Running,
        phase: format!("step {step}"),
        waiting_for: String::new(),
        allowed_actions: vec!["cancel".to_owned()],
        problems: Vec::new(),
        progress_percent: u32::try_from(step % 100).unwrap_or(0),
        report_json: None,
    }
}

fn text(bytes: usize) -> Any {
    Any { type_url: "type.googleapis.com/understudy.bench.v1.Text".to_owned(), value: vec![b'x'; bytes] }
}

/// Does nothing, until it has done so often enough.
struct Counting {
    left: AtomicUsize,
    done: CancellationToken,
}

#[async_trait]
impl Handler for Counting {
    async fn handle(&self, _task: LeasedTask, _context: TaskContext) -> Outcome {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.done.cancel();
        }
        Outcome::Succeeded(text(16))
    }
}

/// Tells when tasks arrive.
struct Telling(mpsc::UnboundedSender<Instant>);

#[async_trait]
impl Handler for Telling {
    async fn handle(&self, _task: LeasedTask, _context: TaskContext) -> Outcome {
        // Who asked may have gone.
        let _ = self.0.send(Instant::now());
        Outcome::Succeeded(text(16))
    }
}
