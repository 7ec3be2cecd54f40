//! Programs that the driver runs: no shell, no terminal, a time limit, and their words in the error.

use std::{ffi::OsStr, process::Stdio, time::Duration};

use tokio::process::Command;

use crate::Error;

pub const LIMIT: Duration = Duration::from_secs(30);

/// What a program that succeeded printed.
pub async fn run<A: AsRef<OsStr>>(program: &str, arguments: &[A]) -> Result<String, Error> {
    let (success, output) = attempt(program, arguments, LIMIT).await?;
    if success { Ok(output) } else { Err(Error::Failed { what: shown(program, arguments), why: output }) }
}

/// Whether a program succeeded, and what it printed: on stdout when it did, on both when it did not.
pub async fn attempt<A: AsRef<OsStr>>(
    program: &str,
    arguments: &[A],
    limit: Duration,
) -> Result<(bool, String), Error> {
    let what = || shown(program, arguments);
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(limit, command.output());
    let output = output
        .await
        .map_err(|_| Error::Unknown { what: what(), why: format!("it did not end within {limit:?}") })?;
    let output = output.map_err(|error| Error::Failed { what: what(), why: error.to_string() })?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        text = format!("{}: {}", output.status, text.trim());
    }
    Ok((output.status.success(), text))
}

fn shown<A: AsRef<OsStr>>(program: &str, arguments: &[A]) -> String {
    arguments.iter().fold(format!("the command {program}"), |shown, argument| {
        format!("{shown} {}", argument.as_ref().to_string_lossy())
    })
}
