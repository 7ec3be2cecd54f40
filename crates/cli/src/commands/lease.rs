use understudy_network_api::{AddressLease, NetworkClient};

use super::all_of_network;
use crate::{
    args::Lease,
    output::{self, Format},
};

pub async fn run(client: &NetworkClient, format: Format, verb: Lease) -> anyhow::Result<()> {
    let Lease::List { run } = verb;
    let leases = all_of_network(|page| client.leases(run, page)).await?;
    output::print(format, &leases, || {
        let headings = ["ADDRESS", "NETWORK", "ITEM", "MAC", "RUN", "SINCE"];
        output::rows(headings, &leases, |l: &AddressLease| {
            let network = if l.test {
                format!("test network standing for {}", l.network)
            } else {
                l.network.to_string()
            };
            [
                l.address.to_string(),
                network,
                l.item.to_string(),
                l.mac.to_string(),
                l.run.to_string(),
                output::time(l.created),
            ]
        })
    })
}
