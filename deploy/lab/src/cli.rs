//! The `understudy` command as an operator types it: with the operator's certificate, in the lab in the control namespace.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{Namespace, command};

/// Runs `understudy` with the lab's endpoints and certificate in its environment.
#[derive(Debug, Clone)]
pub struct Cli {
    pub(crate) program: PathBuf,
    pub(crate) namespace: Option<Namespace>,
    pub(crate) env: BTreeMap<String, String>,
}

/// A running product that can be asked through its command line.
pub trait Product {
    /// The command line, as the product's operator uses it.
    fn cli(&self) -> Cli;
}

/// What a command that was expected to be refused said.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The exit code.
    pub code: Option<i32>,
    /// What it printed on standard error.
    pub said: String,
}

impl Cli {
    /// Runs the command with its tables and progress going to the terminal.
    ///
    /// # Errors
    /// When it fails; its own words are on the terminal.
    pub fn show(&self, arguments: &[&str]) -> Result<()> {
        println!("$ understudy {}", arguments.join(" "));
        let status = self.command(arguments).status().context("understudy could not be started")?;
        if !status.success() {
            bail!("`understudy {}` failed: {status}", arguments.join(" "));
        }
        Ok(())
    }

    /// Runs the command with `--output json` and reads its answer.
    ///
    /// # Errors
    /// When it fails; the error holds what it said.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let output = self.command(arguments).args(["--output", "json"]).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("`understudy {}` failed ({}): {}", arguments.join(" "), output.status, said.trim());
        }
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("`understudy {}` printed no JSON", arguments.join(" ")))
    }

    /// Runs a command that must be refused.
    ///
    /// # Errors
    /// When it succeeds.
    pub fn refused(&self, arguments: &[&str]) -> Result<Refusal> {
        let output = self.command(arguments).output()?;
        if output.status.success() {
            bail!("`understudy {}` was not refused", arguments.join(" "));
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(Refusal { code: output.status.code(), said })
    }

    /// The command to run for oneself.
    pub fn command(&self, arguments: &[&str]) -> Command {
        command::wait_if_others_end();
        let mut command = match &self.namespace {
            Some(namespace) => namespace.command(&self.program),
            None => Command::new(&self.program),
        };
        command.args(arguments).envs(&self.env).stdin(Stdio::null());
        command
    }

    /// What to put before `understudy …` to type it oneself, for a shell.
    pub fn shell_prefix(&self) -> String {
        let env: Vec<String> = self.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let enter =
            self.namespace.as_ref().map(|n| format!("ip netns exec {} ", n.name())).unwrap_or_default();
        format!("{enter}env {} {}", env.join(" "), self.program.display())
    }
}
