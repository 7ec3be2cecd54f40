//! The checks that CI runs before the tests: `cargo xtask ci`, or one of them by name; and the benchmarks.

mod bench;
mod layers;
mod proto;
mod tool;

use std::time::Instant;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Checks of the Understudy workspace")]
struct Cli {
    #[command(subcommand)]
    check: Check,
}

#[derive(Subcommand)]
enum Check {
    /// All of the checks below
    Ci,
    /// Formatting
    Fmt,
    /// Lints; a warning is an error
    Clippy,
    /// Which crate may depend on which
    Layers,
    /// Style of the protobuf contracts
    Proto,
    /// Measures Understudy beside its peers and prints ratios (as root, on a quiet machine)
    #[command(subcommand)]
    Bench(Bench),
}

#[derive(Subcommand)]
enum Bench {
    /// Full copies, deltas, resynchronisation, recovery points, memory
    Replication {
        /// For the benchmark: --rounds, --only, --size-mib, --dir
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// job-tracker beside Postgres itself and a job queue for Node
    Jobs {
        /// For the benchmark: --rounds, --only, --seconds, --finished, --dir
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Failovers of a thousand machines, beside the shortest schedule that there is
    Orchestration {
        /// For the benchmark: --machines, --rounds, --only, --dir
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// What CI guards: CPU time against the floor's, bytes on the wire
    Guard,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().check {
        Check::Ci => {
            // The quick ones first.
            timed("fmt", fmt)?;
            timed("layers", layers::check)?;
            timed("proto", proto::lint)?;
            timed("clippy", clippy)
        }
        Check::Fmt => fmt(),
        Check::Clippy => clippy(),
        Check::Layers => layers::check(),
        Check::Proto => proto::lint(),
        Check::Bench(Bench::Replication { arguments }) => bench::replication(&arguments),
        Check::Bench(Bench::Jobs { arguments }) => bench::jobs(&arguments),
        Check::Bench(Bench::Orchestration { arguments }) => bench::orchestration(&arguments),
        Check::Bench(Bench::Guard) => bench::guard(),
    }
}

fn timed(name: &str, check: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let begin = Instant::now();
    check()?;
    println!("xtask: {name} ok, {:.1} s", begin.elapsed().as_secs_f64());
    Ok(())
}

fn fmt() -> anyhow::Result<()> {
    tool::run("cargo", &["fmt", "--all", "--", "--check"])
}

fn clippy() -> anyhow::Result<()> {
    tool::run("cargo", &["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"])
}
