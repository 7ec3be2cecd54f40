use understudy_recovery_api::{RecoveryClient, request::CreateHost, view::Host as View};

use super::{all, request_id};
use crate::{
    args::Host,
    output::{self, Format},
};

pub async fn run(client: &RecoveryClient, format: Format, verb: Host) -> anyhow::Result<()> {
    let hosts = match verb {
        Host::Create { host, facts, sink } => {
            let request =
                CreateHost { host, facts_endpoint: facts, sink_endpoint: sink, request_id: request_id() };
            vec![client.create_host(request).await?]
        }
        Host::List { site } => all(usize::MAX, |page| client.list_hosts(site.as_ref(), page)).await?,
        Host::Show { host } => vec![client.get_host(&host).await?],
    };
    output::print(format, &hosts, || {
        let headings = ["HOST", "STATE", "HYPERVISOR", "CPUS", "MEMORY", "STORE FREE", "LAST HEARD"];
        output::rows(headings, &hosts, |h: &View| {
            [
                h.name.to_string(),
                if h.connected { "connected" } else { "not connected" }.to_owned(),
                h.hypervisor.clone(),
                h.cpus.to_string(),
                output::bytes(h.memory_bytes),
                output::bytes(h.store_free_bytes),
                output::maybe_time(h.last_heard),
            ]
        })
    })
}
