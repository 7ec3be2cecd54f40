use understudy_netplan::{AddressPool, Addressing, Isolation, VmNetwork};
use understudy_network_api::{NetworkClient, StoredNetwork};
use uuid::Uuid;

use super::all_of_network;
use crate::{
    args::{AddressingArg, IsolationArg, Network},
    output::{self, Format},
};

pub async fn run(client: &NetworkClient, format: Format, verb: Network) -> anyhow::Result<()> {
    let networks = match verb {
        Network::Create {
            network,
            isolation,
            addressing,
            subnet,
            gateway,
            pool,
            hypervisor_network,
            isolation_target,
            logical_network,
            vlan_id,
        } => {
            let network = VmNetwork {
                name: network,
                isolation: match isolation {
                    IsolationArg::None => Isolation::None,
                    IsolationArg::Vlan => Isolation::Vlan,
                    IsolationArg::Virtualized => Isolation::Virtualized,
                },
                addressing: match addressing {
                    AddressingArg::Dhcp => Addressing::Dhcp,
                    AddressingArg::Static => Addressing::Static,
                },
                subnet,
                gateway,
                pool: pool.map(|(first, last)| AddressPool { first, last }),
                hypervisor_network,
                isolation_targets: isolation_target,
                logical_network,
                vlan_id,
            };
            vec![client.create_network(network, Uuid::new_v4()).await?]
        }
        Network::List { site } => {
            let parent = site.map(|s| format!("sites/{s}")).unwrap_or_default();
            all_of_network(|page| client.networks(&parent, page)).await?
        }
        Network::Delete { network } => {
            client.delete_network(&network, Uuid::new_v4()).await?;
            return output::deleted(format, &network.to_string());
        }
    };
    output::print(format, &networks, || {
        let headings =
            ["NETWORK", "ISOLATION", "VLAN", "ADDRESSING", "SUBNET", "GATEWAY", "POOL", "HYPERVISOR'S NAME"];
        output::rows(headings, &networks, |StoredNetwork { network: n, .. }| {
            [
                n.name.to_string(),
                format!("{:?}", n.isolation).to_lowercase(),
                vlan(n),
                format!("{:?}", n.addressing).to_lowercase(),
                n.subnet.to_string(),
                output::maybe(&n.gateway),
                n.pool.map(|p| format!("{}-{}", p.first, p.last)).unwrap_or_default(),
                n.hypervisor_network.to_string(),
            ]
        })
    })
}

fn vlan(network: &VmNetwork) -> String {
    match (network.vlan_id, &network.logical_network) {
        (Some(id), Some(logical)) => format!("{id} on {logical}"),
        (Some(id), None) => id.to_string(),
        (None, logical) => output::maybe(logical),
    }
}
