//! `understudy`: everything the API does, from a terminal (R-OPS-4).
//!
//! ```text
//!   arguments ─▶ args ─▶ commands::<noun> ─▶ typed client ─▶ services
//!                             └─▶ output: a table, or JSON with --output json
//! ```
//!
//! Exit codes: 0 done, 1 refused or failed (the error says what to do), 2 wrong usage, 3 a run that was watched did not succeed,
//! 4 a replica store has damage.

mod args;
mod commands;
mod connection;
mod output;
mod report;
mod watch;

use std::process::ExitCode;

use clap::Parser;
use understudy_rpc::ApiError;

fn main() -> ExitCode {
    let args = args::Args::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(commands::run(args)) {
        Ok(code) => code,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

/// What happened, every problem, and what to do about each.
fn report(error: &anyhow::Error) {
    match error.downcast_ref::<ApiError>() {
        Some(refusal) => {
            eprintln!("error: {} [{}]", refusal.message, refusal.reason);
            for problem in &refusal.problems {
                eprintln!("  - {}: {} [{}]", problem.subject, problem.message, problem.reason);
                if !problem.remedy.is_empty() {
                    eprintln!("      → {}", problem.remedy);
                }
            }
            if !refusal.remedy.is_empty() {
                eprintln!("  → {}", refusal.remedy);
            }
        }
        None => eprintln!("error: {error:#}"),
    }
}
