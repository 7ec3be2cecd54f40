//! Measures replication beside the programs that people would otherwise use, on the same image, in turn, and prints ratios.
//!
//! ```text
//!   image.rs   a file system filled from /usr, and the same with 2 % of its blocks changed
//!   floor.rs   the least that a correct program needs: TCP + TLS + BLAKE3 + files      ─┐
//!   ours.rs    two agents, as processes of their own (agent.rs, tracked.rs, fleet.rs)   ├─ measure.rs: A, B, A, B … medians
//!   peers.rs   nbdcopy, qemu-img, QEMU's backup, rsync, borg, restic, zstd | nc        ─┘         │
//!   rows.rs    measure · ours · peer · ratio · goal · met or missed  ◀──────────────────────────────┘
//! ```
//! Beside it, jobs.rs measures job-tracker (tracker.rs) beside Postgres itself (postgres.rs) and a job queue for Node, and orchestration.rs
//! failovers of many machines beside the shortest schedule that there is.
//!
//! Every copy is compared with its source, byte by byte, before its time counts. Figures of the machine differ from day to day,
//! so that only ratios of one run mean anything. It runs in a network namespace of its own, where the loopback
//! interface counts exactly what a copy sends.

mod agent;
mod delay;
mod fleet;
mod floor;
mod image;
mod jobs;
mod measure;
mod orchestration;
mod ours;
mod peers;
mod place;
mod postgres;
mod rows;
mod stream;
mod table;
mod tracked;
mod tracker;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Measures Understudy beside its peers")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Replication: full copies, deltas, resynchronisation, recovery points, memory
    Replication(Options),
    /// Jobs: transitions, claims, wake-ups, history
    Jobs(jobs::Options),
    /// Orchestration: failovers of many machines whose hosts are played
    Orchestration(orchestration::Options),
    /// Only what CI guards: CPU seconds per GB and bytes on the wire, on a small image
    Guard(Guard),
    /// A part of the benchmark, started by the benchmark itself
    #[command(hide = true, subcommand)]
    Part(Part),
}

/// What to measure.
#[derive(clap::Args, Clone)]
struct Options {
    /// Where images and copies lie; about five times the image's size
    #[arg(long, default_value = "/var/tmp/understudy-bench")]
    dir: PathBuf,
    /// Size of the image in MiB
    #[arg(long, default_value_t = 4096)]
    size_mib: u64,
    /// Counted rounds of each comparison; one more is not counted
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only groups of rows whose name contains this
    #[arg(long)]
    only: Option<String>,
}

#[derive(clap::Args, Clone)]
struct Guard {
    #[arg(long, default_value = "/var/tmp/understudy-bench-guard")]
    dir: PathBuf,
}

#[derive(Subcommand)]
enum Part {
    /// An agent that is told by lines of JSON what to do
    Agent {
        dir: PathBuf,
        name: String,
    },
    FloorSend(floor::Send),
    FloorReceive(floor::Receive),
    Stream(stream::Side),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Replication(options) => {
            place::own_network()?;
            rows::replication(&options)
        }
        Command::Jobs(options) => jobs::run(&options),
        Command::Orchestration(options) => orchestration::run(&options),
        Command::Guard(guard) => {
            place::own_network()?;
            rows::guard(&guard.dir)
        }
        Command::Part(part) => match part {
            Part::Agent { dir, name } => agent::run(&dir, &name),
            Part::FloorSend(send) => floor::send(&send),
            Part::FloorReceive(receive) => floor::receive(&receive),
            Part::Stream(side) => stream::run(&side),
        },
    }
}
