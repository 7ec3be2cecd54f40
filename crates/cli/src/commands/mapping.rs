use understudy_netplan::Mapping as Ends;
use understudy_network_api::{NetworkClient, NetworkMapping};
use uuid::Uuid;

use super::all_of_network;
use crate::{
    args::Mapping,
    output::{self, Format},
};

pub async fn run(client: &NetworkClient, format: Format, verb: Mapping) -> anyhow::Result<()> {
    let mappings = match verb {
        Mapping::Create { a, b } => vec![client.create_mapping(Ends { a, b }, Uuid::new_v4()).await?],
        Mapping::List => all_of_network(|page| client.mappings(page)).await?,
        Mapping::Delete { id } => {
            client.delete_mapping(id, Uuid::new_v4()).await?;
            return output::deleted(format, &format!("networkMappings/{id}"));
        }
    };
    output::print(format, &mappings, || {
        output::rows(["NETWORK", "STANDS FOR", "ID"], &mappings, |m: &NetworkMapping| {
            [m.mapping.a.to_string(), m.mapping.b.to_string(), m.id.to_string()]
        })
    })
}
