//! The orchestrator's process.

use understudy_orchestrator::{Config, Service};

fn main() -> std::process::ExitCode {
    understudy_service::run("orchestrator", env!("CARGO_PKG_VERSION"), async |config: Config, context| {
        let service = Service::start(config).await?;
        service.serve(context.shutdown.clone(), context.metrics_page()).await
    })
}
