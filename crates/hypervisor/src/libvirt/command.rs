//! Programs that the driver runs: no shell, no terminal, a time limit, and their words in the error.

use std::{ffi::OsStr, process::Stdio, time::Duration};

use tokio::{io::AsyncWriteExt, process::Command};

use crate::Error;

pub const LIMIT: Duration = Duration::from_secs(30);

/// What a program that succeeded printed.
pub async fn run<A: AsRef<OsStr>>(program: &str, arguments: &[A]) -> Result<String, Error> {
    succeeded(program, arguments, attempt(program, arguments, LIMIT).await?)
}

/// As [`run`], of a program that is given `input`, which is not shown in any error.
pub async fn run_with_input<A: AsRef<OsStr>>(
    program: &str,
    arguments: &[A],
    input: &str,
) -> Result<String, Error> {
    succeeded(program, arguments, perform(program, arguments, LIMIT, Some(input)).await?)
}

fn succeeded<A: AsRef<OsStr>>(
    program: &str,
    arguments: &[A],
    (success, output): (bool, String),
) -> Result<String, Error> {
    if success { Ok(output) } else { Err(Error::Failed { what: shown(program, arguments), why: output }) }
}

/// Whether a program succeeded, and what it printed: on stdout when it did, on both when it did not.
pub async fn attempt<A: AsRef<OsStr>>(
    program: &str,
    arguments: &[A],
    limit: Duration,
) -> Result<(bool, String), Error> {
    perform(program, arguments, limit, None).await
}

async fn perform<A: AsRef<OsStr>>(
    program: &str,
    arguments: &[A],
    limit: Duration,
    input: Option<&str>,
) -> Result<(bool, String), Error> {
    let what = || shown(program, arguments);
    let mut command = Command::new(program);
    command.args(arguments).stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = async {
        let mut child = command.spawn()?;
        if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
            // A program that ends without reading says why itself.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(limit, output);
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
