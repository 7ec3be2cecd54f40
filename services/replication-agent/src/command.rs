//! The commands beside the service: `guard`, `install-hook`, `thaw-guard`, `hold-guard`, `lease-guard` and `keep-script`.
//!
//! They are short-lived processes that must not fail for lack of anything but their own files, so they share nothing with
//! the service but its configuration.

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, Subcommand};
use understudy_hypervisor::libvirt;
use understudy_ids::MachineName;
use understudy_service::{Sources, load};

use crate::{activation, config::Config, guard, scripts};

#[derive(Parser)]
#[command(name = "understudy-replication-agent")]
struct Line {
    /// The agent's configuration.
    #[arg(
        long,
        global = true,
        env = "UNDERSTUDY_CONFIG",
        default_value = "/etc/understudy/replication-agent.toml"
    )]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answers libvirt's hook: whether a machine may start. The machine's description comes on standard input.
    Guard {
        machine: String,
        operation: String,
        sub_operation: String,
        /// More that libvirt may pass.
        rest: Vec<String>,
    },
    /// Stands by while the agent has a guest frozen, and thaws it when the agent cannot. The agent calls it.
    #[command(hide = true)]
    ThawGuard {
        /// libvirt's address.
        #[arg(long)]
        uri: String,
        #[arg(long)]
        machine: MachineName,
        /// The agent's note of it.
        #[arg(long)]
        note: PathBuf,
        #[arg(long)]
        limit_ms: u64,
    },
    /// Stands by while the agent has a guest held, and lets it go on when the agent cannot. The agent calls it.
    #[command(hide = true)]
    HoldGuard {
        /// libvirt's address.
        #[arg(long)]
        uri: String,
        #[arg(long)]
        machine: MachineName,
        /// The agent's note of it.
        #[arg(long)]
        note: PathBuf,
    },
    /// Stands by while machines run here by activation leases, and stops them when the agent cannot. The agent calls it.
    #[command(hide = true)]
    LeaseGuard {
        #[command(flatten)]
        charge: activation::guard::Charge,
    },
    /// Runs a script that comes on standard input, as another user. The agent calls it.
    #[command(hide = true)]
    KeepScript,
    /// Writes the script through which libvirt asks the guard.
    InstallHook {
        /// Where libvirt looks for hooks.
        #[arg(long, default_value = "/etc/libvirt/hooks")]
        dir: PathBuf,
    },
}

/// Runs the command that the process was called with; `None` when it was called as the service.
pub fn run() -> Option<ExitCode> {
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    if !names_a_command(&arguments) {
        return None;
    }
    let Line { config, command } = Line::parse();
    let done = match command {
        Command::Guard { machine, operation, sub_operation, rest: _ } => {
            answer(&config, &operation, &sub_operation)
                .map_err(|why| format!("machine {machine} must not start here: {why}"))
        }
        Command::InstallHook { dir } => install(&config, &dir),
        Command::KeepScript => scripts::keep(),
        Command::LeaseGuard { charge } => activation::guard::stand(charge),
        Command::HoldGuard { uri, machine, note } => libvirt::hold_guard(&uri, &machine, &note),
        Command::ThawGuard { uri, machine, note, limit_ms } => {
            libvirt::thaw_guard(&uri, &machine, &note, Duration::from_millis(limit_ms))
        }
    };
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("understudy: {why}");
            ExitCode::FAILURE
        }
    })
}

const COMMANDS: [&str; 6] =
    ["guard", "install-hook", "thaw-guard", "hold-guard", activation::guard::COMMAND, "keep-script"];

/// Whether the first argument that is neither `--config` nor its value is one of the commands.
fn names_a_command(arguments: &[String]) -> bool {
    let rest = match arguments {
        [flag, _, rest @ ..] if flag == "--config" => rest,
        [flag, rest @ ..] if flag.starts_with("--config=") => rest,
        all => all,
    };
    rest.first().is_some_and(|first| COMMANDS.contains(&first.as_str()))
}

fn answer(config: &Path, operation: &str, sub_operation: &str) -> Result<(), String> {
    guard::answer(|| read(config), operation, sub_operation, io::stdin().lock())
}

fn install(config: &Path, dir: &Path) -> Result<(), String> {
    // Mistakes show now and not when a machine is to start.
    read(config)?;
    let program = std::env::current_exe().map_err(|e| format!("this program's path is not known: {e}"))?;
    let config = config.canonicalize().map_err(|e| format!("{}: {e}", config.display()))?;
    let path =
        guard::install(dir, &program, &config).map_err(|e| format!("the hook was not installed: {e}"))?;
    println!("installed {}; restart libvirtd if there was no such file before", path.display());
    Ok(())
}

fn read(file: &Path) -> Result<Config, String> {
    load(&Sources { file: Some(file.to_owned()), set: Vec::new() }).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_the_service_wherever_the_configuration_is_named() {
        let is =
            |line: &str| names_a_command(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        assert!(
            is("guard web1 prepare begin -")
                && is("--config a.toml install-hook --dir /x")
                && is("--config=a guard m p b")
                && is("thaw-guard --uri u --machine m --note n --limit-ms 1")
                && is("hold-guard --uri u --machine m --note n")
                && is("keep-script")
        );
        assert!(!is("") && !is("--config a.toml") && !is("--config guard") && !is("--check --config a.toml"));
    }
}
