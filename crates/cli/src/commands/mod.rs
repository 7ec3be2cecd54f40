//! One file per noun: calls the service, prints the answer.

mod audit;
mod change;
mod failover;
mod group;
mod host;
mod item;
mod job;
mod lease;
mod machine;
mod mapping;
mod name;
mod network;
mod pki;
mod plan;
mod point;
mod policy;
mod report;
mod run;
mod shown;
mod site;
pub mod store;
mod unlock;
mod wish;
mod zone;

use std::{future::Future, process::ExitCode};

use clap::CommandFactory;
use understudy_recovery_api::{RequestId, request::Page, view::Listed};
use understudy_rpc::ApiError;
use uuid::Uuid;

use crate::args::{Args, Noun};

/// # Errors
/// What the service or the file system said.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args { connection, output, noun } = args;
    match noun {
        Noun::Pki(verb) => pki::run(verb)?,
        Noun::Site(verb) => site::run(&connection.recovery()?, output, verb).await?,
        Noun::Host(verb) => host::run(&connection.recovery()?, output, verb).await?,
        Noun::Machine(verb) => machine::run(&connection.recovery()?, output, verb).await?,
        Noun::Policy(verb) => policy::run(&connection.recovery()?, output, verb).await?,
        Noun::Item(verb) => return item::run(&connection, output, verb).await,
        Noun::Group(verb) => group::run(&connection.recovery()?, output, verb).await?,
        Noun::Point(verb) => point::run(&connection.recovery()?, output, verb).await?,
        Noun::Network(verb) => network::run(&connection.networks()?, output, verb).await?,
        Noun::Mapping(verb) => mapping::run(&connection.networks()?, output, verb).await?,
        Noun::Zone(verb) => zone::run(&connection.networks()?, output, verb).await?,
        Noun::Name(verb) => name::run(&connection.networks()?, output, verb).await?,
        Noun::Lease(verb) => lease::run(&connection.networks()?, output, verb).await?,
        Noun::Plan(verb) => return plan::run(&connection.recovery()?, output, verb).await,
        Noun::Failover(wish) => return failover::run(&connection, output, wish).await,
        Noun::Run(verb) => return run::run(&connection, output, verb).await,
        Noun::Job(verb) => job::run(&connection.jobs()?, output, verb).await?,
        Noun::Audit(verb) => audit::run(&connection.recovery()?, output, verb).await?,
        Noun::Store(verb) => return store::run(output, verb),
        Noun::Completion { shell } => {
            clap_complete::generate(shell, &mut Args::command(), "understudy", &mut std::io::stdout());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A fresh id: every invocation is one request.
fn request_id() -> RequestId {
    RequestId::new(Uuid::new_v4())
}

/// All entries of a listing of the orchestrator, page by page, up to `limit`.
async fn all<T, F>(limit: usize, fetch: impl Fn(Page) -> F) -> Result<Vec<T>, ApiError>
where
    F: Future<Output = Result<Listed<T>, ApiError>>,
{
    let mut entries = Vec::new();
    let mut token = String::new();
    loop {
        let Listed { entries: page, next_page_token } = fetch(Page { size: 0, token }).await?;
        entries.extend(page);
        if next_page_token.is_empty() || entries.len() >= limit {
            entries.truncate(limit);
            return Ok(entries);
        }
        token = next_page_token;
    }
}

/// The same for network-mapper.
async fn all_of_network<T, F>(
    fetch: impl Fn(understudy_network_api::PageRequest) -> F,
) -> Result<Vec<T>, ApiError>
where
    F: Future<Output = Result<understudy_network_api::Page<T>, ApiError>>,
{
    let mut entries = Vec::new();
    let mut after = None;
    loop {
        let page = fetch(understudy_network_api::PageRequest { size: 1000, after }).await?;
        entries.extend(page.entries);
        after = page.next;
        if after.is_none() {
            return Ok(entries);
        }
    }
}
