//! Running other programs from the root of the workspace.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, ensure};

/// The root of the workspace.
pub fn root() -> PathBuf {
    // This crate is crates/xtask.
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// # Errors
/// When the program is not there or does not end with 0.
pub fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    run_in(root(), program, arguments)
}

/// As [`run`], in another directory.
///
/// # Errors
/// When the program is not there or does not end with 0.
pub fn run_in(directory: PathBuf, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let status = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .status()
        .with_context(|| format!("{program} could not be started"))?;
    ensure!(status.success(), "{program} {} failed: {status}", arguments.join(" "));
    Ok(())
}
