//! Runs the tools that the lab is made with and turns their failures into sentences.

use std::{
    ffi::OsStr,
    process::{Command, Output, Stdio},
    sync::OnceLock,
    thread::{self, ThreadId},
};

use anyhow::{Context, Result, bail};

/// The thread that alone may go on starting programs.
static LAST: OnceLock<ThreadId> = OnceLock::new();

/// From now on only the calling thread starts programs; others wait for the end of this process. Whoever then ends what has been started
/// leaves nothing behind that was started meanwhile.
pub fn only_this_thread_goes_on() {
    // When another thread said so first, this one is among those that wait.
    let _ = LAST.set(thread::current().id());
    wait_if_others_end();
}

/// To be called before a program is started.
pub fn wait_if_others_end() {
    while LAST.get().is_some_and(|last| *last != thread::current().id()) {
        thread::park();
    }
}

/// A command without input and in a plain language, so that what it prints can be parsed.
pub fn new(program: impl AsRef<OsStr>) -> Command {
    wait_if_others_end();
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
