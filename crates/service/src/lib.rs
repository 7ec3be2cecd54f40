//! The common life of a service process, so that its `main.rs` holds the assembly and nothing else.
//!
//! ```text
//!   flags ─▶ configuration: file < environment < --set ─▶ all problems at once, or ─▶ telemetry ─▶ main(config, context)
//!                                                                                         SIGTERM, SIGINT ─▶ context.shutdown
//!                                                                            second signal ─▶ exit 130 at once
//! ```
//!
//! ```ignore
//! fn main() -> std::process::ExitCode {
//!     understudy_service::run("job-tracker", env!("CARGO_PKG_VERSION"), async |config: Config, context| {
//!         let pool = Pool::connect(&config.database).await?;
//!         let server = Server::bind(config.server).await?.metrics(context.metrics_page());
//!         server.serve(context.shutdown).await?;
//!         Ok(())
//!     })
//! }
//! ```

mod config;
mod signals;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use understudy_telemetry::{self as telemetry, Metrics};

pub use config::{ConfigError, Sources, load};

/// The configuration of a service. Derive `Deserialize` with `#[serde(deny_unknown_fields)]` on it and on every section.
pub trait ServiceConfig: DeserializeOwned {
    fn telemetry(&self) -> &telemetry::Config;

    /// What is wrong although it could be read, one sentence each, beginning with the key: `leases.seconds: must not be 0`.
    fn problems(&self) -> Vec<String> {
        Vec::new()
    }
}

/// What a service gets besides its configuration.
#[derive(Clone)]
pub struct Context {
    /// Cancelled when the process is asked to end. The service's future is expected to end soon afterwards.
    pub shutdown: CancellationToken,
    metrics: Metrics,
}

impl Context {
    /// The text of `/metrics`.
    pub fn metrics_page(&self) -> impl Fn() -> String + Send + Sync + 'static {
        let metrics = self.metrics.clone();
        move || metrics.render()
    }
}

/// Runs a service until it ends or the process is told to. The result is the process's exit code: 0 after an orderly end, 2 for a
/// configuration that cannot be used, 1 for any other error.
pub fn run<C, M>(name: &'static str, version: &'static str, main: M) -> ExitCode
where
    C: ServiceConfig,
    M: AsyncFnOnce(C, Context) -> anyhow::Result<()>,
{
    run_from(name, version, std::env::args_os().collect(), main)
}

/// The same with the command line handed in, the program's name first.
pub fn run_from<C, M>(
    name: &'static str,
    version: &'static str,
    arguments: Vec<OsString>,
    main: M,
) -> ExitCode
where
    C: ServiceConfig,
    M: AsyncFnOnce(C, Context) -> anyhow::Result<()>,
{
    let flags = command(name, version).get_matches_from(arguments);
    let config: C = match load(&sources(&flags)) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{name}: {error}");
            return ExitCode::from(2);
        }
    };
    if flags.get_flag("check") {
        println!("{name}: the configuration is valid");
        return ExitCode::SUCCESS;
    }
    match block_on(name, version, config, main) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn block_on<C, M>(name: &'static str, version: &'static str, config: C, main: M) -> anyhow::Result<()>
where
    C: ServiceConfig,
    M: AsyncFnOnce(C, Context) -> anyhow::Result<()>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let guard = telemetry::init(name, config.telemetry())?;
        let shutdown = CancellationToken::new();
        signals::watch(shutdown.clone())?;
        tracing::info!(service = name, version, pid = std::process::id(), "starting");
        let result = main(config, Context { shutdown, metrics: guard.metrics() }).await;
        match &result {
            Ok(()) => tracing::info!(service = name, "ended"),
            Err(error) => {
                tracing::error!(service = name, error = format!("{error:#}"), "ended with an error")
            }
        }
        guard.shutdown().await;
        result
    })
}

fn command(name: &'static str, version: &'static str) -> Command {
    Command::new(name)
        .version(version)
        .arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .env("UNDERSTUDY_CONFIG")
                .value_parser(value_parser!(PathBuf))
                .help("Configuration file in TOML"),
        )
        .arg(
            Arg::new("set")
                .long("set")
                .value_name("KEY=VALUE")
                .action(ArgAction::Append)
                .value_parser(assignment)
                .help("Sets one key, such as telemetry.log_format=text; stronger than file and environment"),
        )
        .arg(Arg::new("check").long("check").action(ArgAction::SetTrue).help("Checks the configuration and ends"))
        .after_help("Keys can also be set by the environment: UNDERSTUDY_<SECTION>__<KEY>, such as UNDERSTUDY_DATABASE__URL.")
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn sources(flags: &ArgMatches) -> Sources {
    Sources {
        file: flags.get_one::<PathBuf>("config").cloned(),
        set: flags.get_many("set").into_iter().flatten().cloned().collect(),
    }
}
