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
    run_beside(&["understudy-job-tracker"], "jobs", arguments)
}

/// Failovers of many machines whose hosts are played, with `arguments` for the benchmark.
///
/// # Errors
/// When Postgres cannot be started, or a run does not come to the end that it should.
pub fn orchestration(arguments: &[String]) -> anyhow::Result<()> {
    run_beside(&["understudy-job-tracker", "understudy-orchestrator"], "orchestration", arguments)
}

/// Runs the benchmark beside the programs of these packages, which it starts as processes of their own. All are built at once, so that what they
/// share is built once.
fn run_beside(packages: &[&str], what: &str, arguments: &[String]) -> anyhow::Result<()> {
    let mut words = vec!["build", "--quiet", "--release", "--package", "understudy-bench"];
    words.extend(packages.iter().flat_map(|package| ["--package", package]));
    tool::run("cargo", &words)?;
    let program = tool::root().join("target/release/understudy-bench").display().to_string();
    let mut words = vec![what];
    words.extend(arguments.iter().map(String::as_str));
    tool::run(&program, &words)
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
