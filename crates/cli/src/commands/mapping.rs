use understudy_netplan::{AddressRule, Mapping as Ends};
use understudy_network_api::{NetworkClient, NetworkMapping};
use uuid::Uuid;

use super::all_of_network;
use crate::{
    args::{AddressesArg, Mapping},
    output::{self, Format},
};

pub async fn run(client: &NetworkClient, format: Format, verb: Mapping) -> anyhow::Result<()> {
    let mappings = match verb {
        Mapping::Create { a, b, addresses } => {
            let addresses = match addresses {
                AddressesArg::KeepIfPossible => AddressRule::KeepIfPossible,
                AddressesArg::Retain => AddressRule::Retain,
                AddressesArg::Change => AddressRule::Change,
            };
            vec![client.create_mapping(Ends { a, b, addresses }, Uuid::new_v4()).await?]
        }
        Mapping::List => all_of_network(|page| client.mappings(page)).await?,
        Mapping::Delete { id } => {
            client.delete_mapping(id, Uuid::new_v4()).await?;
            return output::deleted(format, &format!("networkMappings/{id}"));
        }
    };
    output::print(format, &mappings, || {
        output::rows(["NETWORK", "STANDS FOR", "ADDRESSES", "ID"], &mappings, |m: &NetworkMapping| {
            let addresses = match m.mapping.addresses {
                AddressRule::KeepIfPossible => "kept if possible",
                AddressRule::Retain => "retained",
                AddressRule::Change => "changed",
            };
            [m.mapping.a.to_string(), m.mapping.b.to_string(), addresses.to_owned(), m.id.to_string()]
        })
    })
}
