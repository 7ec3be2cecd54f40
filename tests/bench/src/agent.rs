//! One side of ours: the agent as it is in production, in a process of its own, told by lines of JSON what to do.
//!
//! ```text
//!   benchmark ── {"do": …} per line ──▶ this process ── Tasks, as job-tracker's worker would ──▶ Agent
//!             ◀── one answer per line ──
//! ```

use std::{
    io::{BufRead as _, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use understudy_ids::{ByteRange, Generation, HostName, ItemName, PointSeq, Uuid};
use understudy_jobs_api::TaskContext;
use understudy_replication::{Compression, ReplicationSettings, retention::RetentionPolicy};
use understudy_replication_agent::{
    agent::Agent,
    config::{Config, HypervisorConfig},
    tasks::Tasks,
};
use understudy_replication_api::{Action, AgentTask, AgentTaskResult, DiskSize, StartReplication};
use understudy_rpc::TlsFiles;

use crate::{
    fleet::{self, Fleet},
    floor, measure,
    tracked::{Tracked, machine},
};

/// What a side is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Ask {
    /// Be ready to receive the item.
    Prepare { item: ItemName, size: u64 },
    /// The disk is this file; what differs from the one before is in the file of ranges, or not known.
    Exchange { file: PathBuf, changed: Option<PathBuf> },
    /// Send the first copy and say when its receipt is there.
    First { item: ItemName, peer: HostName, endpoint: String, compress: bool },
    /// Ship what has changed.
    Cycle { item: ItemName },
    /// Forget the item, with its points.
    Remove { item: ItemName },
    /// Make a branch of the item's latest point, and drop it again.
    Branch { item: ItemName },
    /// So many machines write so much from now on, and each is replicated at the interval. Told when each has a point.
    Fleet { count: u64, bytes_per_s: u64, peer: HostName, endpoint: String, interval_ms: u64 },
    /// For how long, and how old their points become meanwhile.
    Ages { seconds: u64 },
    /// They are off, their last changes are shipped, and what is in the store of the target is what they wrote.
    Settle { store: PathBuf },
    /// What this process has used so far.
    Usage,
}

/// What it answers.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Told {
    pub error: Option<String>,
    /// How long it took, nanoseconds.
    pub nanos: u64,
    /// Number of the point that was made.
    pub seq: u64,
    pub sent_bytes: u64,
    /// CPU time of this process since it began, nanoseconds.
    pub cpu_nanos: u64,
    /// The most memory it has had resident, bytes, files that it maps not counted.
    pub peak_bytes: u64,
    pub endpoint: String,
    /// Ages of latest points in seconds: median, 99th percentile, highest.
    pub ages: [f64; 3],
}

struct Side {
    runtime: tokio::runtime::Runtime,
    tasks: Tasks,
    hypervisor: Arc<Tracked>,
    fleet: OnceLock<(Arc<Fleet>, u64)>,
}

/// Runs until its standard input ends.
pub fn run(dir: &Path, name: &str) -> anyhow::Result<()> {
    understudy_replication_agent::memory::keep_buffers();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let hypervisor = Arc::new(Tracked::new(&dir.join("hypervisor"), Path::new("/nowhere")));
    let shutdown = CancellationToken::new();
    let agent = runtime.block_on(Agent::open(config(dir, name)?, hypervisor.clone(), shutdown.clone()))?;
    let endpoint = agent.bulk_endpoint();
    let tasks = agent.tasks();
    let running = runtime.spawn(agent.run());
    answer(&Told { endpoint, ..Told::default() })?;
    let side = Side { runtime, tasks, hypervisor, fleet: OnceLock::new() };
    for line in std::io::stdin().lock().lines() {
        let asked: Ask = serde_json::from_str(&line?)?;
        let begun = Instant::now();
        let told = side
            .perform(asked)
            .unwrap_or_else(|error| Told { error: Some(format!("{error:#}")), ..Told::default() });
        let nanos = if told.nanos == 0 { nanos(begun.elapsed()) } else { told.nanos };
        answer(&Told { nanos, ..told })?;
    }
    shutdown.cancel();
    side.runtime.block_on(running)?
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

fn answer(told: &Told) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(told)?)?;
    out.flush().context("the benchmark is gone")
}

fn config(dir: &Path, name: &str) -> anyhow::Result<Config> {
    let host: HostName = name.parse()?;
    let file = |f: &str| dir.join(f);
    std::fs::write(file("boot"), "bench\n")?;
    let text = serde_json::json!({
        "site": host.site(),
        "host": host.host(),
        "store_dir": file("store"),
        "state_dir": file("state"),
        "tls": TlsFiles { ca: file("pki/ca.pem"), certificate: file("pki/agent.pem"), key: file("pki/agent.key") },
        "control_listen": "127.0.0.1:0",
        "bulk_listen": "127.0.0.1:0",
        // There is none: the benchmark performs the tasks itself.
        "job_tracker": "https://127.0.0.1:1",
        "hypervisor": { "driver": "files", "state_dir": file("hypervisor") },
        "boot_id_file": file("boot"),
    });
    let config: Config = serde_json::from_value(text)?;
    anyhow::ensure!(matches!(config.hypervisor, HypervisorConfig::Files(_)));
    Ok(config)
}

impl Side {
    fn perform(&self, asked: Ask) -> anyhow::Result<Told> {
        match asked {
            Ask::Prepare { item, size } => {
                let disks = vec![DiskSize { name: "vda".parse()?, size }];
                let action = Action::PrepareReplica { disks, retention: RetentionPolicy::default() };
                self.task(&item, action).map(drop)?;
                Ok(Told::default())
            }
            Ask::Exchange { file, changed } => {
                let changed = changed.map(|path| floor::read_ranges(&path)).transpose()?;
                let set = changed.map(|ranges: Vec<ByteRange>| ranges.into_iter().collect());
                self.hypervisor.exchange(&file, set);
                Ok(Told::default())
            }
            Ask::First { item, peer, endpoint, compress } => {
                let compression = if compress { Compression::Auto } else { Compression::Off };
                self.first(&item, peer, endpoint, compression)
            }
            Ask::Cycle { item } => match self.task(&item, Action::SyncFinal { machine: machine() })? {
                AgentTaskResult::FinalPoint { seq, sent_bytes, .. } => {
                    Ok(Told { seq: seq.get(), sent_bytes, ..Told::default() })
                }
                other => anyhow::bail!("{other:?} is no point"),
            },
            Ask::Remove { item } => {
                self.tasks.sources.get(&item).map_or(Ok(()), |_| {
                    self.task(&item, Action::StopReplication { forget: true }).map(drop)
                })?;
                self.task(&item, Action::RemoveReplica)?;
                Ok(Told::default())
            }
            Ask::Branch { item } => self.branch(&item),
            Ask::Fleet { count, bytes_per_s, peer, endpoint, interval_ms } => {
                let interval = Duration::from_millis(interval_ms);
                self.begin_fleet((count, bytes_per_s), &peer, &endpoint, interval)
            }
            Ask::Ages { seconds } => self.ages(Duration::from_secs(seconds)),
            Ask::Settle { store } => self.settle(&store),
            Ask::Usage => {
                Ok(Told { cpu_nanos: nanos(measure::own()), peak_bytes: peak_bytes()?, ..Told::default() })
            }
        }
    }

    fn task(&self, item: &ItemName, action: Action) -> anyhow::Result<AgentTaskResult> {
        let task =
            AgentTask { item: item.clone(), generation: Generation::new(1), run: Uuid::from_u128(1), action };
        let (context, ..) = TaskContext::detached();
        let done = self.runtime.block_on(self.tasks.perform(task, &context));
        done.map_err(|error| anyhow::anyhow!("{error:?}"))
    }

    fn first(
        &self,
        item: &ItemName,
        peer: HostName,
        endpoint: String,
        compression: Compression,
    ) -> anyhow::Result<Told> {
        let start = StartReplication {
            machine: machine(),
            disks: vec!["vda".parse()?],
            peer_host: peer,
            peer_endpoint: endpoint,
            // No second cycle by itself.
            interval: Duration::from_secs(24 * 60 * 60),
            settings: ReplicationSettings { compression, ..ReplicationSettings::default() },
            paused: false,
            rpo_objective: None,
            group: None,
            revision: String::new(),
            policy: None,
        };
        let begun = Instant::now();
        self.task(item, Action::StartReplication(start))?;
        let source = self.tasks.sources.get(item).context("the loop has ended")?;
        let mut status = source.watch();
        let done = self.runtime.block_on(async {
            let told = status.wait_for(|s| s.last_seq.is_some() || s.last_error.is_some()).await?;
            anyhow::Ok(told.clone())
        })?;
        if let Some(error) = done.last_error {
            anyhow::bail!("{}", error.message);
        }
        let seq = done.last_seq.map_or(0, PointSeq::get);
        Ok(Told { nanos: nanos(begun.elapsed()), seq, sent_bytes: done.last_cycle_bytes, ..Told::default() })
    }

    fn begin_fleet(
        &self,
        (count, bytes_per_s): (u64, u64),
        peer: &HostName,
        endpoint: &str,
        interval: Duration,
    ) -> anyhow::Result<Told> {
        let fleet = Arc::new(Fleet::new(count, bytes_per_s)?);
        self.hypervisor.join(fleet.clone())?;
        for number in 0..count {
            let start = StartReplication {
                machine: fleet::name(number).parse()?,
                disks: vec!["vda".parse()?],
                peer_host: peer.clone(),
                peer_endpoint: endpoint.to_owned(),
                interval,
                settings: ReplicationSettings {
                    compression: Compression::Off,
                    ..ReplicationSettings::default()
                },
                paused: false,
                rpo_objective: None,
                revision: String::new(),
                policy: None,
                group: None,
            };
            self.task(&fleet::name(number).parse()?, Action::StartReplication(start))?;
        }
        self.fleet.set((fleet, count)).map_err(|_| anyhow::anyhow!("there is a fleet already"))?;
        let (_, items) = self.items()?;
        for item in &items {
            let mut status = self.tasks.sources.get(item).context("a loop has ended")?.watch();
            self.runtime.block_on(status.wait_for(|status| status.last_seq.is_some()))?;
        }
        Ok(Told::default())
    }

    /// The fleet's items.
    fn items(&self) -> anyhow::Result<(Arc<Fleet>, Vec<ItemName>)> {
        let (fleet, count) = self.fleet.get().context("there is no fleet")?;
        let items = (0..*count).map(|number| Ok(fleet::name(number).parse()?));
        Ok((fleet.clone(), items.collect::<anyhow::Result<_>>()?))
    }

    fn ages(&self, span: Duration) -> anyhow::Result<Told> {
        const EVERY: Duration = Duration::from_millis(50);
        let (_, items) = self.items()?;
        let sources: Vec<_> = items.iter().filter_map(|item| self.tasks.sources.get(item)).collect();
        let mut ages = Vec::new();
        let end = Instant::now() + span;
        while Instant::now() < end {
            let now = understudy_ids::UnixMicros::from(std::time::SystemTime::now());
            for source in &sources {
                let status = source.watch();
                let instant = status.borrow().last_instant.context("an item has no point yet")?;
                ages.push(now.since(instant).as_secs_f64());
            }
            std::thread::sleep(EVERY);
        }
        ages.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| ages[((ages.len() - 1) as f64 * share) as usize];
        Ok(Told { ages: [at(0.5), at(0.99), at(1.0)], ..Told::default() })
    }

    fn settle(&self, store: &Path) -> anyhow::Result<Told> {
        let (fleet, items) = self.items()?;
        fleet.stop();
        for item in &items {
            let action = Action::SyncFinal { machine: item.as_str().parse()? };
            let AgentTaskResult::FinalPoint { seq, .. } = self.task(item, action)? else {
                anyhow::bail!("the last changes of {item} gave no point")
            };
            let file = store.join(format!("items/{item}/points/{seq}/disk-vda.qcow2"));
            fleet.check(&item.as_str().parse()?, &file)?;
        }
        Ok(Told::default())
    }

    fn branch(&self, item: &ItemName) -> anyhow::Result<Told> {
        let store = self.tasks.replica.store();
        let latest = store.latest(item)?.context("no point")?;
        let run = Uuid::from_u128(2);
        let begun = Instant::now();
        store.branch(item, latest.manifest.seq, run)?;
        let nanos = nanos(begun.elapsed());
        store.drop_branch(item, run)?;
        Ok(Told { nanos, ..Told::default() })
    }
}

/// Anonymous memory at its highest. The kernel has the mark for all resident memory only; ours maps nothing large.
fn peak_bytes() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let mark = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = mark.and_then(|value| value.split_whitespace().next()).context("no high-water mark")?;
    Ok(kib.parse::<u64>()? * 1024)
}
