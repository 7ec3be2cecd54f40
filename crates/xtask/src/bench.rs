//! Benchmarks, in programs of their own.

use crate::tool;

/// Replication beside its peers, with `arguments` for the benchmark (`--help` lists them).
///
/// # Errors
/// When a peer is missing that no package brings, or a copy is not what it should be.
pub fn replication(arguments: &[String]) -> anyhow::Result<()> {
    run("release", "replication", arguments)
}

/// job-tracker beside Postgres and a job queue for Node, with `arguments` for the benchmark.
///
/// # Errors
/// When Postgres cannot be started, or job-tracker gives a wrong answer.
pub fn jobs(arguments: &[String]) -> anyhow::Result<()> {
    // A process of its own, found beside the benchmark's program.
    tool::run("cargo", &["build", "--quiet", "--release", "--package", "understudy-job-tracker"])?;
    run("release", "jobs", arguments)
}

/// What CI guards of it, as everything else in CI is built: what touches bytes is optimised in that profile too.
///
/// # Errors
/// When a figure is beyond its bound.
pub fn guard() -> anyhow::Result<()> {
    run("dev", "guard", &[])
}

fn run(profile: &str, what: &str, arguments: &[String]) -> anyhow::Result<()> {
    let mut words = vec!["run", "--quiet", "--profile", profile, "--package", "understudy-bench", "--", what];
    words.extend(arguments.iter().map(String::as_str));
    tool::run("cargo", &words)
}
