//! Runs the tools that the lab is made with and turns their failures into sentences.

use std::{
    ffi::OsStr,
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, bail};

/// A command without input and in a plain language, so that what it prints can be parsed.
pub fn new(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).env("LC_ALL", "C");
    command
}

/// Runs the command to its end and returns what it printed on standard output.
///
/// # Errors
/// When it cannot be started or fails; the error holds the command line and what it printed on standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let output = collect(command)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed ({}): {}", line(command), output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs the command to its end and tells whether it succeeded.
///
/// # Errors
/// Only when it cannot be started.
pub fn succeeds(command: &mut Command) -> Result<bool> {
    Ok(collect(command)?.status.success())
}

fn collect(command: &mut Command) -> Result<Output> {
    command.output().with_context(|| {
        format!("cannot start `{}`; is it installed? (deploy/lab/install.sh)", line(command))
    })
}

fn line(command: &Command) -> String {
    let words: Vec<_> =
        [command.get_program()].into_iter().chain(command.get_args()).map(OsStr::to_string_lossy).collect();
    words.join(" ")
}
