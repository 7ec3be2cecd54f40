//! `understudy-replication-agent`: the agent, and the two commands that libvirt and operators call beside it.

use std::process::ExitCode;

use understudy_replication_agent::{agent, command, config::Config, memory};
use understudy_service::Context;

fn main() -> ExitCode {
    if let Some(code) = command::run() {
        return code;
    }
    memory::keep_buffers();
    understudy_service::run(
        "replication-agent",
        env!("CARGO_PKG_VERSION"),
        async |config: Config, context: Context| {
            let hypervisor = agent::hypervisor(&config.hypervisor)?;
            let page = context.metrics_page();
            agent::Agent::open(config, hypervisor, context.shutdown).await?.metrics(page).run().await
        },
    )
}
