//! job-tracker beside Postgres itself and beside a job queue for Node, on one Postgres that keeps what it acknowledges.
//!
//! ```text
//!   ours      caller ─ gRPC, mTLS ─▶ job-tracker ─▶ Postgres      an update of a job: rows, audit record, event
//!   pgbench   client ───────────────────────────▶ Postgres      one statement: the same row updated, an event inserted
//!   graphile-worker ────────────────────────────▶ Postgres      claim and complete; from npm, left out where that cannot be had
//! ```

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use sqlx::postgres::PgListener;

use crate::{
    place,
    postgres::Postgres,
    table::Rows,
    tracker::{DATABASE, Tracker, p99},
};

/// What to measure.
#[derive(clap::Args, Clone)]
pub struct Options {
    /// Where the database lies; about 8 GB, and less with fewer finished jobs
    #[arg(long, default_value = "/var/tmp/understudy-bench-jobs")]
    dir: PathBuf,
    /// Counted rounds of each comparison; one more is not counted
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each measurement of a rate
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Jobs that have ended before, for what must not depend on them
    #[arg(long, default_value_t = 1_000_000)]
    finished: u64,
    /// Only groups of rows whose name contains this
    #[arg(long)]
    only: Option<String>,
}

const OPEN_JOBS: u64 = 2500;
/// Tasks of one measurement of claim and complete, and how many are in hand at once.
const TASKS: usize = 6000;
const SLOTS: u32 = 64;
const MANY_CALLERS: usize = 256;
const WAKE_UPS: usize = 200;
const NODE_QUEUE: &str = "graphile-worker@0.16.6";
const PEER: &str = "peer";

struct Bench<'a> {
    options: &'a Options,
    postgres: Postgres,
    tracker: Tracker,
    script: PathBuf,
    rows: Rows,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    place::need(&[("pgbench", "postgresql-contrib"), ("psql", "postgresql-client")])?;
    println!("Load when it began: {}.", place::load());
    fs::create_dir_all(&options.dir)?;
    // Before the database is there, and outside of what is measured.
    let node = node_queue(&options.dir);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let postgres = Postgres::start(&options.dir.join("postgres"))?;
        for database in [DATABASE, PEER] {
            postgres.sql("postgres", &format!("CREATE DATABASE {database}"))?;
        }
        postgres.sql(PEER, PEER_TABLES)?;
        let script = options.dir.join("transition.sql");
        fs::write(&script, TRANSITION)?;
        let tracker = Tracker::start(&options.dir.join("tracker"), &postgres).await?;
        let mut bench = Bench { options, postgres, tracker, script, rows: Rows::default() };
        let wanted = |name: &str| options.only.as_deref().is_none_or(|only| name.contains(only));
        if wanted("transitions") {
            transitions(&mut bench).await?;
        }
        if wanted("claim") {
            claim(&mut bench, node).await?;
        }
        if wanted("wake") {
            wake(&mut bench).await?;
        }
        if wanted("history") {
            history(&mut bench).await?;
        }
        bench.rows.print();
        Ok(())
    })
}

/// What a transition is to Postgres: one row updated among those of as many jobs as are open, and one event inserted.
const PEER_TABLES: &str = "
    CREATE TABLE jobs (id integer PRIMARY KEY, state text NOT NULL, phase text NOT NULL, revision bigint NOT NULL);
    INSERT INTO jobs SELECT n, 'queued', '', 1 FROM generate_series(1, 2500) n;
    CREATE TABLE events (sequence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, job integer NOT NULL, change bytea NOT NULL);
    CREATE TABLE queue (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, state text NOT NULL DEFAULT 'queued', payload bytea);
    CREATE INDEX queue_due ON queue (id) WHERE state = 'queued';";
const TRANSITION: &str = "\\set id random(1, 2500)
WITH moved AS (UPDATE jobs SET state = 'running', phase = 'step', revision = revision + 1 WHERE id = :id RETURNING id)
INSERT INTO events (job, change) SELECT id, decode(repeat('ab', 200), 'hex') FROM moved;
";

/// The middle one of the values.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

async fn transitions(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let Options { rounds, seconds, .. } = *bench.options;
    let callers = [1, 8, 32, MANY_CALLERS];
    let (mut ours, mut peers) = ([const { Vec::new() }; 4], [const { Vec::new() }; 4]);
    let mut slowest = Vec::new();
    for round in 0..=rounds {
        for (n, callers) in callers.into_iter().enumerate() {
            // The peer of many callers is what Postgres does for 32 that commit row by row.
            let clients = callers.min(32);
            let peer = bench.postgres.pgbench(PEER, &bench.script, clients, seconds)?;
            let served = bench.tracker.transitions(callers, seconds).await?;
            eprintln!(
                "  {callers} callers: {:.0}/s, p99 {:.1?}; pgbench: {peer:.0}/s",
                served.per_second, served.p99
            );
            if round > 0 {
                ours[n].push(served.per_second);
                peers[n].push(peer);
                if callers == 32 {
                    slowest.push(served.p99.as_secs_f64() * 1e3);
                }
            }
        }
    }
    let medians = ours.into_iter().map(median).zip(peers.into_iter().map(median));
    for (callers, (ours, peer)) in callers.into_iter().zip(medians) {
        let (clients, goal) = if callers == MANY_CALLERS { (32, 2.0) } else { (callers, 0.6) };
        let measure = format!("transitions, {callers} callers");
        bench.rows.rate(&measure, ours, &format!("pgbench -c {clients}"), peer, goal);
    }
    bench.rows.absolute("99 % of transitions with 32 callers, below", median(slowest), "ms", 10.0);
    Ok(())
}

async fn claim(bench: &mut Bench<'_>, node: anyhow::Result<PathBuf>) -> anyhow::Result<()> {
    let (mut ours, mut peers) = (Vec::new(), Vec::new());
    for round in 0..=bench.options.rounds {
        let peer = match &node {
            Ok(script) => Some(node_rate(script, &bench.postgres)?),
            Err(_) => None,
        };
        let rate = bench.tracker.claim_and_complete(TASKS, SLOTS).await?;
        eprintln!("  claim and complete: {rate:.0}/s; {NODE_QUEUE}: {peer:.0?}/s");
        if round > 0 {
            ours.push(rate);
            peers.extend(peer);
        }
    }
    let measure = format!("claim and complete, {SLOTS} at once");
    match node {
        Ok(_) => bench.rows.rate(&measure, median(ours), NODE_QUEUE, median(peers), 3.0),
        Err(why) => {
            println!(
                "{NODE_QUEUE}: not run, {why:#}. A claim by SKIP LOCKED and a completion, in pgbench, stand in for it."
            );
            let script = bench.options.dir.join("claim.sql");
            fs::write(&script, CLAIM)?;
            let fill = "INSERT INTO queue (payload) SELECT '\\x00' FROM generate_series(1, 200000)";
            bench.postgres.sql(PEER, fill)?;
            let rate = bench.postgres.pgbench(PEER, &script, 32, bench.options.seconds)?;
            bench.rows.rate(&measure, median(ours), "pgbench -c 32, SKIP LOCKED", rate, 0.6);
        }
    }
    Ok(())
}

const CLAIM: &str = "UPDATE queue SET state = 'leased' WHERE id =
    (SELECT id FROM queue WHERE state = 'queued' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id \\gset
DELETE FROM queue WHERE id = :id;
";

/// Installs the queue for Node below `dir`; returns the program that measures it.
fn node_queue(dir: &Path) -> anyhow::Result<PathBuf> {
    let dir = dir.join("node");
    fs::create_dir_all(&dir)?;
    let script = dir.join("measure.mjs");
    fs::write(&script, NODE_SCRIPT)?;
    if !dir.join("node_modules/graphile-worker").is_dir() {
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]).arg(&dir).arg(NODE_QUEUE);
        place::run(&mut npm)?;
    }
    Ok(script)
}

/// Adds jobs that do nothing, lets them be done, and prints how many were done per second.
const NODE_SCRIPT: &str = r#"
import { makeWorkerUtils, runOnce, Logger } from "graphile-worker";
const [connectionString, count, concurrency] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
const logger = new Logger(() => () => {});
const utils = await makeWorkerUtils({ connectionString, logger });
await utils.migrate();
await utils.withPgClient((pg) => pg.query(
  "SELECT graphile_worker.add_job('noop', '{}'::json) FROM generate_series(1, $1::int)", [count]));
await utils.release();
const began = process.hrtime.bigint();
await runOnce({ connectionString, logger, concurrency, maxPoolSize: 10, taskList: { noop: async () => {} } });
console.log(count / (Number(process.hrtime.bigint() - began) / 1e9));
"#;

fn node_rate(script: &Path, postgres: &Postgres) -> anyhow::Result<f64> {
    let (count, concurrency) = (TASKS.to_string(), SLOTS.to_string());
    let output =
        Command::new("node").arg(script).args([&postgres.url(PEER), &count, &concurrency]).output()?;
    let text = String::from_utf8(output.stdout)?;
    let rate = text.trim().parse();
    rate.with_context(|| format!("{NODE_QUEUE}: {}", String::from_utf8_lossy(&output.stderr)))
}

async fn wake(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let (mut ours, mut raw) = (Vec::new(), Vec::new());
    for _ in 0..bench.options.rounds {
        raw.extend(raw_wake_ups(&bench.postgres.url(PEER)).await?);
        ours.extend(bench.tracker.wake_ups(WAKE_UPS).await?);
    }
    let millis = |span: Duration| span.as_secs_f64() * 1e3;
    let (ours, raw) = (millis(p99(ours)), millis(p99(raw)));
    bench.rows.absolute("99 % of tasks at a waiting worker within", ours, "ms", 50.0);
    bench.rows.cost("the same", ours, "ms", "a row and a NOTIFY to who listens", raw, 1.5);
    Ok(())
}

/// The least that waking takes: a row is committed with a notification, and a connection that listens hears it.
async fn raw_wake_ups(url: &str) -> anyhow::Result<Vec<Duration>> {
    let pool = sqlx::PgPool::connect(url).await?;
    let mut listener = PgListener::connect(url).await?;
    listener.listen("wake").await?;
    let mut taken = Vec::new();
    for _ in 0..WAKE_UPS {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let asked = Instant::now();
        let row = "WITH row AS (INSERT INTO queue (state) VALUES ('done') RETURNING 1) SELECT pg_notify('wake', '') FROM row";
        sqlx::query(row).execute(&pool).await?;
        listener.recv().await?;
        taken.push(asked.elapsed());
    }
    pool.close().await;
    Ok(taken)
}

/// What nobody looks at any more must cost nothing.
async fn history(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let finished = bench.options.finished;
    bench.postgres.sql(DATABASE, &open_jobs())?;
    bench.postgres.sql(DATABASE, "VACUUM ANALYZE")?;
    let (listing, leasing) = look(bench).await?;
    eprintln!("  adding {finished} finished jobs");
    bench.postgres.sql(DATABASE, &finished_jobs(finished))?;
    bench.postgres.sql(DATABASE, "VACUUM ANALYZE")?;
    let (listing_after, leasing_after) = look(bench).await?;
    let millis = |span: Duration| span.as_secs_f64() * 1e3;
    let measure = format!("100 of {OPEN_JOBS} open jobs listed, {finished} finished");
    bench.rows.cost(&measure, millis(listing_after), "ms", "none finished", millis(listing), 1.2);
    let measure = format!("claim and complete, {finished} finished");
    bench.rows.rate(&measure, leasing_after, "none finished", leasing, 0.85);
    Ok(())
}

async fn look(bench: &Bench<'_>) -> anyhow::Result<(Duration, f64)> {
    let mut rates = Vec::new();
    for _ in 0..bench.options.rounds {
        rates.push(bench.tracker.claim_and_complete(TASKS, SLOTS).await?);
    }
    let listing = bench.tracker.list_open(200).await?;
    eprintln!("  listing {listing:.2?}, claim and complete {rates:.0?}");
    Ok((listing, median(rates)))
}

/// Spread over all the time that the finished ones are from, each with a task that waits at another host.
fn open_jobs() -> String {
    format!(
        "WITH made AS (
             INSERT INTO jobs (id, kind, targets, created_by, owner, labels, content_digest, state, started_at, created_at)
             SELECT gen_random_uuid(), 'test-failover', ARRAY['protectedItems/m' || n], 'bench', 'bench', '{{}}',
                    sha256(''), 'running', t, t
             FROM (SELECT n, now() - n * interval '20 minutes' AS t FROM generate_series(1, {OPEN_JOBS}) n) AS times
             RETURNING id)
         INSERT INTO tasks (id, job_id, key, title, queue, payload_type, payload, max_attempts)
         SELECT gen_random_uuid(), id, 'step', 'Step', 'hosts/bravo/bravo-h1', 'x', '', 3 FROM made"
    )
}

fn finished_jobs(count: u64) -> String {
    format!(
        "WITH made AS (
             INSERT INTO jobs (id, kind, targets, created_by, owner, labels, content_digest, state, started_at, ended_at, created_at)
             SELECT gen_random_uuid(), 'test-failover', ARRAY['protectedItems/m' || n % 5000], 'bench', 'bench', '{{}}',
                    sha256(''), 'succeeded', t, t, t
             FROM (SELECT n, now() - n * interval '3 seconds' AS t FROM generate_series(1, {count}) n) AS times
             RETURNING id, created_at)
         INSERT INTO tasks (id, job_id, key, title, queue, payload_type, payload, max_attempts, state, attempt, worker,
                            result_type, result, started_at, ended_at, created_at)
         SELECT gen_random_uuid(), id, 'step', 'Step', 'hosts/alpha/alpha-h1', 'x', '', 3, 'succeeded', 1, 'bench',
                'x', '', created_at, created_at, created_at FROM made"
    )
}
