//! Failovers of many machines: orchestrator and job-tracker as processes, Postgres as durable as an installation's, hosts that are played.
//!
//! ```text
//!   runs of 200 machines each ─▶ orchestrator ─▶ job-tracker ─▶ 10 hosts × 10 slots, each task's effect noted with its run and key
//! ```
//! Machines fail over unplanned, by plans of three groups in which each tenth machine comes after another one, and back the same way for the
//! next round. Every round checks that each machine runs once, at the other side, and that no task was carried out twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio_util::sync::CancellationToken;
use understudy_estate::{Estate, Mapper, Players};
use understudy_ids::{HostName, ItemName, RecoveryPlanName, RunId, SiteName, Uuid};
use understudy_jobs_api::{JobState, JobsClient};
use understudy_recovery::recovery_plan::{Gate, GroupItem, PlanGroup, RecoveryPlan};
use understudy_recovery_api::{
    FILE_DESCRIPTOR_SET, ItemState, MachineRef, Operation, RecoveryClient, RequestId, SiteKind,
    request::{
        CreateHost, CreatePlan, CreatePolicy, CreateSite, Page, PolicySettings, ProtectMachine, RunSpec,
        RunVerb, StartRun,
    },
};
use understudy_replication::ReplicationSettings;
use understudy_replication_api::PowerState;
use understudy_rpc::{ClientConfig, ExpectedPeer, ServiceKind, connect};

use crate::{
    place,
    postgres::Postgres,
    table::Rows,
    tracker::{self, Process, Tracker},
};

/// What to measure.
#[derive(clap::Args, Clone)]
pub struct Options {
    /// Where the databases lie; about 2 GB
    #[arg(long, default_value = "/var/tmp/understudy-bench-orchestration")]
    dir: PathBuf,
    /// Machines that fail over, a multiple of 200
    #[arg(long, default_value_t = 1000)]
    machines: usize,
    /// Machines of the comparison with many more; 0 leaves it out
    #[arg(long, default_value_t = 5000)]
    many: usize,
    /// Counted rounds of each measurement; one more is not counted
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only groups of rows whose name contains this
    #[arg(long)]
    only: Option<String>,
}

const DATABASE: &str = "orchestrator";
/// Most that one run takes.
const PER_RUN: usize = 200;
const GROUPS: usize = 3;
const HOSTS: usize = 10;
const SLOTS: u32 = 10;
/// As an agent looks at its hypervisor.
const TELL_EVERY: Duration = Duration::from_secs(1);
const START: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(600);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Callers that set the scene.
const CALLERS: usize = 16;
const SITES: [&str; 2] = ["alpha", "bravo"];

pub fn run(options: &Options) -> anyhow::Result<()> {
    ensure!(
        options.machines > 0
            && options.machines.is_multiple_of(PER_RUN)
            && options.many.is_multiple_of(PER_RUN),
        "write multiples of {PER_RUN} machines"
    );
    println!("Load when it began: {}.", place::load());
    fs::create_dir_all(&options.dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut rows = Rows::default();
        let wanted = |name: &str| options.only.as_deref().is_none_or(|only| name.contains(only));
        let mut scene = Scene::set(&options.dir, options.machines).await?;
        let mut per_machine = Duration::ZERO;
        if wanted("speed") || wanted("many") {
            per_machine = speed(&mut scene, options, &mut rows).await?;
        }
        if wanted("makespan") {
            makespan(&mut scene, options, &mut rows).await?;
        }
        if wanted("resume") {
            resume(&mut scene, options, &mut rows).await?;
        }
        drop(scene);
        if wanted("many") && options.many > 0 {
            let mut scene = Scene::set(&options.dir, options.many).await?;
            let many = millis(scene.fail_over().await?) / options.many as f64;
            let measure = format!("per machine, {} machines", options.many);
            rows.cost(&measure, many, "ms", &format!("{}", options.machines), millis(per_machine), 1.1);
        }
        rows.print();
        Ok(())
    })
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

fn median(mut values: Vec<Duration>) -> Duration {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Hosts take no time. What is left is what orchestration costs.
async fn speed(scene: &mut Scene, options: &Options, rows: &mut Rows) -> anyhow::Result<Duration> {
    let mut taken = Vec::new();
    let mut tasks = 0;
    for round in 0..=options.rounds {
        let before = scene.estate.count();
        let span = scene.fail_over().await?;
        tasks = scene.estate.count() - before;
        eprintln!("  {} machines, {tasks} tasks, no delays: {span:.2?}", scene.machines);
        if round > 0 {
            taken.push(span);
        }
        scene.settle().await?;
    }
    let span = median(taken);
    let count = u32::try_from(scene.machines)?;
    rows.absolute("per machine, hosts without delays", millis(span / count), "ms", 1.5);
    // The same number of tasks, filled in before, claimed and completed by one worker that does nothing.
    let rate = scene.tracker.claim_and_complete(tasks, SLOTS * HOSTS as u32).await?;
    let least = tasks as f64 / rate;
    println!(
        "{tasks} tasks took {span:.2?}; job-tracker alone lets one worker claim and complete as many in {least:.2} s."
    );
    Ok(span / count)
}

/// Starting takes a second: how much longer than it has to a failover takes.
async fn makespan(scene: &mut Scene, options: &Options, rows: &mut Rows) -> anyhow::Result<()> {
    let ideal = shortest(scene.machines);
    let mut taken = Vec::new();
    scene.estate.last("start-machine", START);
    for _ in 0..options.rounds {
        let span = scene.fail_over().await?;
        eprintln!(
            "  {} machines that start within a second: {span:.2?}; at least {ideal:.2?}",
            scene.machines
        );
        taken.push(span);
        scene.settle().await?;
    }
    scene.estate.last("start-machine", Duration::ZERO);
    let measure = format!("{} machines, 100 slots, 1 s to start", scene.machines);
    let (ours, ideal) = (median(taken).as_secs_f64(), ideal.as_secs_f64());
    rows.cost(&measure, ours, "s", "list schedule", ideal, 1.03);
    Ok(())
}

/// From the start of another orchestrator, after the first was killed in the middle, to the next task at a host.
async fn resume(scene: &mut Scene, options: &Options, rows: &mut Rows) -> anyhow::Result<()> {
    let mut taken = Vec::new();
    for _ in 0..options.rounds {
        let (before, runs) = (scene.estate.count(), scene.start().await?);
        let third = before + scene.machines;
        until("a part is done", || scene.estate.count() >= third).await?;
        scene.orchestrator = None;
        scene.quiet().await;
        let (left_at, began) = (scene.estate.count(), Instant::now());
        scene.orchestrator = Some(scene.spawn()?);
        until("it goes on", || scene.estate.count() > left_at).await?;
        let span = began.elapsed();
        eprintln!("  goes on {span:.2?} after the start of another orchestrator");
        taken.push(span);
        scene.wait(&runs, &[JobState::Waiting]).await?;
        scene.check(&runs)?;
        scene.settle().await?;
    }
    rows.absolute("goes on after kill -9 within", median(taken).as_secs_f64(), "s", 2.0);
    Ok(())
}

/// The shortest time in which the slots of all hosts can start the machines, each in its host's slots, in the order of its plan.
fn shortest(machines: usize) -> Duration {
    let mut started: BTreeMap<usize, usize> = BTreeMap::new();
    let mut tick = 0;
    while started.len() < machines {
        let mut free = [SLOTS; HOSTS];
        let group_open = |n: usize, started: &BTreeMap<usize, usize>| {
            let run = n / PER_RUN * PER_RUN;
            (run..n)
                .filter(|m| group_of(*m) < group_of(n))
                .all(|m| started.get(&m).is_some_and(|t| *t < tick))
        };
        let due: Vec<usize> = (0..machines)
            .filter(|n| !started.contains_key(n) && group_open(*n, &started))
            .filter(|n| comes_after(*n).is_none_or(|m| started.get(&m).is_some_and(|t| *t < tick)))
            .collect();
        for n in due {
            if free[n % HOSTS] > 0 {
                free[n % HOSTS] -= 1;
                started.insert(n, tick);
            }
        }
        tick += 1;
    }
    START * u32::try_from(tick).unwrap_or(u32::MAX)
}

fn group_of(n: usize) -> usize {
    n % PER_RUN * GROUPS / PER_RUN
}

/// Each tenth machine comes after the one before it, where that is of its group.
fn comes_after(n: usize) -> Option<usize> {
    (n % 10 == 9 && group_of(n) == group_of(n - 1)).then(|| n - 1)
}

struct Scene {
    machines: usize,
    estate: Arc<Estate>,
    tracker: Tracker,
    orchestrator: Option<Process>,
    config: PathBuf,
    log: PathBuf,
    client: RecoveryClient,
    jobs: JobsClient,
    /// Failed over last, and not committed.
    runs: Vec<RunId>,
    /// Where the machines are: alpha, or bravo.
    at: usize,
    /// Ends the players.
    _until: tokio_util::sync::DropGuard,
    // Last, so that it outlives those that use it.
    _postgres: Postgres,
}

impl Scene {
    /// Machines that are protected at the other site.
    async fn set(dir: &Path, machines: usize) -> anyhow::Result<Self> {
        let postgres = Postgres::start(&dir.join("postgres"))?;
        for database in [tracker::DATABASE, DATABASE] {
            postgres.sql("postgres", &format!("CREATE DATABASE {database}"))?;
        }
        let tracker = Tracker::start(&dir.join("tracker"), &postgres).await?;
        let hosts: Vec<String> =
            SITES.iter().flat_map(|site| (0..HOSTS).map(move |n| format!("{site}/h{n}"))).collect();
        let names: Vec<&str> = hosts.iter().map(String::as_str).collect();
        let estate = Estate::telling_every(TELL_EVERY, &names);
        for n in 0..machines {
            estate.add_machine(&host(0, n), &name(n), &["vda"], u16::try_from(n)?);
        }
        let until = CancellationToken::new();
        let files = |identity: &str| tracker.pki.files(identity).unwrap_or_else(|error| panic!("{error:#}"));
        let players = Players {
            estate: &estate,
            files: &files,
            tracker: &tracker.endpoint,
            slots: SLOTS,
            until: &until,
        };
        let mapper = players.mapper(&Arc::<Mapper>::default()).await;
        let mut addresses = Vec::new();
        for host in &hosts {
            let host: HostName = host.parse()?;
            let address = players.agent(&host).await;
            addresses.push((host, address));
        }
        let port = tracker::free_port()?;
        let (config, log) = (dir.join("orchestrator.toml"), dir.join("orchestrator.log"));
        fs::write(
            &config,
            format!(
                "[server]\nlisten = \"127.0.0.1:{port}\"\ntls = {}\n[database]\nurl = {:?}\n\
                 [job_tracker]\nendpoint = {:?}\n[network_mapper]\nendpoint = \"https://{mapper}\"\n",
                tracker.pki.section("service/orchestrator")?,
                postgres.url(DATABASE),
                tracker.endpoint,
            ),
        )?;
        let expect = ExpectedPeer::Service(ServiceKind::Orchestrator);
        let ops = tracker.pki.files("user/ops")?;
        let endpoint = format!("https://127.0.0.1:{port}");
        let channel = connect(ClientConfig::new(endpoint, ops, expect, FILE_DESCRIPTOR_SET))?;
        let jobs = tracker.jobs(1)?.remove(0);
        let mut scene = Self {
            machines,
            estate,
            tracker,
            orchestrator: None,
            config,
            log,
            client: RecoveryClient::new(channel),
            jobs,
            runs: Vec::new(),
            at: 0,
            _until: until.drop_guard(),
            _postgres: postgres,
        };
        scene.orchestrator = Some(scene.spawn()?);
        let began = Instant::now();
        scene.introduce(&addresses).await?;
        scene.protect().await?;
        scene.plans().await?;
        eprintln!("  {machines} machines protected after {:.1?}", began.elapsed());
        Ok(scene)
    }

    fn spawn(&self) -> anyhow::Result<Process> {
        Process::start(&tracker::program("understudy-orchestrator")?, &self.config, &self.log)
    }

    async fn introduce(&self, hosts: &[(HostName, SocketAddr)]) -> anyhow::Result<()> {
        let began = Instant::now();
        while self.client.list_sites(Page::default()).await.is_err() {
            ensure!(began.elapsed() < PATIENCE, "no orchestrator; see {}", self.log.display());
            tokio::time::sleep(LOOK_EVERY).await;
        }
        for site in SITES {
            let site = site.parse()?;
            let kind = SiteKind::Hypervisor;
            let request = CreateSite { site, kind, description: String::new(), request_id: fresh() };
            self.client.create_site(request).await?;
        }
        for (host, address) in hosts {
            let request = CreateHost {
                host: host.clone(),
                facts_endpoint: format!("https://{address}"),
                sink_endpoint: format!("https://{address}"),
                request_id: fresh(),
            };
            self.client.create_host(request).await?;
        }
        for (host, _) in hosts {
            while !self.client.get_host(host).await?.connected {
                ensure!(began.elapsed() < PATIENCE, "{host} is not heard");
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        let settings = PolicySettings {
            interval: Duration::from_secs(60),
            rpo_objective: Duration::from_secs(300),
            keep_count: 8,
            keep_age: Duration::from_secs(3600),
            keep_tiers: Vec::new(),
            shutdown_grace: Duration::from_secs(30),
            activation_lease: None,
            power_off_after_grace: true,
            replication: ReplicationSettings::default(),
        };
        let policy = CreatePolicy { policy: "gold".parse()?, settings, request_id: fresh() };
        self.client.create_policy(policy).await?;
        Ok(())
    }

    async fn protect(&self) -> anyhow::Result<()> {
        let each = |n: usize| async move {
            let request = ProtectMachine {
                item: name(n).parse()?,
                machine: MachineRef { host: host(0, n).parse()?, machine: name(n).parse()? },
                target: host(1, n).parse()?,
                policy: "gold".parse()?,
                excluded: BTreeSet::new(),
                seed: None,
                request_id: fresh(),
                validate_only: false,
            };
            self.client.protect_machine(request).await?;
            anyhow::Ok(())
        };
        stream::iter((0..self.machines).map(each)).buffer_unordered(CALLERS).try_collect::<()>().await?;
        self.all_protected().await
    }

    async fn all_protected(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            let (mut page, mut protected) = (Page { size: 1000, token: String::new() }, 0);
            loop {
                let items = self.client.list_items(page).await?;
                let done = |item: &&_| {
                    matches!(
                        item,
                        understudy_recovery_api::view::ProtectedItem {
                            state: ItemState::Protected,
                            run: None,
                            ..
                        }
                    )
                };
                protected += items.entries.iter().filter(done).count();
                if items.next_page_token.is_empty() {
                    break;
                }
                page = Page { size: 1000, token: items.next_page_token };
            }
            if protected == self.machines {
                return Ok(());
            }
            ensure!(began.elapsed() < PATIENCE, "{protected} of {} machines are protected", self.machines);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn plans(&self) -> anyhow::Result<()> {
        for first in (0..self.machines).step_by(PER_RUN) {
            let group = |number: usize| -> anyhow::Result<PlanGroup> {
                let of_it = (first..first + PER_RUN).filter(|n| group_of(*n) == number);
                let item = |n: usize| -> anyhow::Result<GroupItem> {
                    let after = comes_after(n).map(|m| name(m).parse()).transpose()?;
                    Ok(GroupItem { item: name(n).parse()?, after: after.into_iter().collect() })
                };
                Ok(PlanGroup {
                    name: format!("group-{number}").parse()?,
                    items: of_it.map(item).collect::<anyhow::Result<_>>()?,
                    at_once: None,
                    before: Vec::new(),
                    after: Vec::new(),
                    gate: Gate::Open,
                    delay: None,
                })
            };
            let plan = RecoveryPlan {
                name: plan_name(first)?,
                source_site: SITES[0].parse()?,
                target_site: SITES[1].parse()?,
                groups: (0..GROUPS).map(group).collect::<anyhow::Result<_>>()?,
            };
            self.client.create_plan(CreatePlan { plan, request_id: fresh() }).await?;
        }
        Ok(())
    }

    /// All machines, to the other side; returns how long that took, to the runs' last durable step.
    async fn fail_over(&mut self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let runs = self.start().await?;
        self.wait(&runs, &[JobState::Waiting]).await?;
        let span = began.elapsed();
        self.check(&runs)?;
        Ok(span)
    }

    /// Starts the failovers of all plans.
    async fn start(&mut self) -> anyhow::Result<Vec<RunId>> {
        let scene: &Self = self;
        let each = |first: usize| async move {
            let spec = RunSpec {
                recovery_plan: Some(plan_name(first)?),
                from_site: Some(SITES[scene.at].parse::<SiteName>()?),
                primary_down_assertion: Some("it is part of a benchmark".to_owned()),
                ..RunSpec::new(Operation::UnplannedFailover, BTreeSet::new())
            };
            scene.run(spec).await
        };
        let firsts = (0..self.machines).step_by(PER_RUN);
        let runs: Vec<RunId> = stream::iter(firsts.map(each)).buffered(CALLERS).try_collect().await?;
        self.at = 1 - self.at;
        self.runs = runs.clone();
        Ok(runs)
    }

    async fn run(&self, spec: RunSpec) -> anyhow::Result<RunId> {
        let preview = self.client.preview_run(spec).await?;
        ensure!(preview.problems.is_empty(), "{:?}", preview.problems);
        let start = StartRun { spec: preview.spec, plan_digest: preview.digest, request_id: fresh() };
        Ok(self.client.start_run(start).await?.name)
    }

    async fn wait(&self, runs: &[RunId], states: &[JobState]) -> anyhow::Result<()> {
        let began = Instant::now();
        for run in runs {
            loop {
                // A job is made known a moment after its run has begun.
                match self.jobs.get_job(*run).await {
                    Ok(job) if states.contains(&job.state) => break,
                    Ok(job) if job.state.is_final() => {
                        bail!("{run} ended {:?}: {:?}", job.state, job.problems)
                    }
                    _ => ensure!(began.elapsed() < PATIENCE, "{run} does not come to its end"),
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    /// Each machine runs once, where it was to go, and no task was carried out twice.
    fn check(&self, runs: &[RunId]) -> anyhow::Result<()> {
        for run in runs {
            let done = self.estate.done(*run);
            let keys: BTreeSet<&str> = done.iter().map(|done| done.key.as_str()).collect();
            ensure!(keys.len() == done.len(), "{run} has done {} tasks in {} turns", keys.len(), done.len());
        }
        let mut running = 0;
        for n in 0..HOSTS {
            let machines = self.estate.facts(&format!("{}/h{n}", SITES[self.at])).machines;
            running += machines.iter().filter(|machine| machine.power == PowerState::Running).count();
        }
        ensure!(running == self.machines, "{running} of {} machines run", self.machines);
        Ok(())
    }

    /// Commits what failed over, and protects it in the other direction.
    async fn settle(&mut self) -> anyhow::Result<()> {
        let runs = std::mem::take(&mut self.runs);
        for run in &runs {
            self.client.commit_run(RunVerb { run: *run, request_id: fresh() }).await?;
        }
        self.wait(&runs, &[JobState::Succeeded]).await?;
        let mut reverse = Vec::new();
        for first in (0..self.machines).step_by(PER_RUN) {
            let items: Result<BTreeSet<ItemName>, _> =
                (first..first + PER_RUN).map(|n| name(n).parse()).collect();
            reverse.push(self.run(RunSpec::new(Operation::ReverseReplicate, items?)).await?);
        }
        self.wait(&reverse, &[JobState::Succeeded]).await?;
        self.all_protected().await
    }

    /// Nothing is done any more.
    async fn quiet(&self) {
        let mut count = self.estate.count();
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let now = self.estate.count();
            if now == count {
                return;
            }
            count = now;
        }
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) -> anyhow::Result<()> {
    let began = Instant::now();
    while !holds() {
        ensure!(began.elapsed() < PATIENCE, "{what}: not yet after {PATIENCE:?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

fn name(n: usize) -> String {
    format!("m{n:04}")
}

fn host(site: usize, n: usize) -> String {
    format!("{}/h{}", SITES[site], n % HOSTS)
}

fn plan_name(first: usize) -> anyhow::Result<RecoveryPlanName> {
    format!("part-{}", first / PER_RUN).parse().context("it is a plan's name")
}

fn fresh() -> RequestId {
    RequestId::new(Uuid::new_v4())
}
