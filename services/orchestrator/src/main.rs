//! The orchestrator's process.

use understudy_orchestrator::{Config, Service};

fn main() -> std::process::ExitCode {
    understudy_service::run("orchestrator", env!("CARGO_PKG_VERSION"), async |config: Config, context| {
        // It waits for Postgres for as long as that takes, and must still end when it is told to.
        let service = tokio::select! {
            service = Service::start(config) => service?,
            () = context.shutdown.cancelled() => return Ok(()),
        };
        service.serve(context.shutdown.clone(), context.metrics_page()).await
    })
}
