use understudy_netplan::HostRecord;
use understudy_network_api::{NetworkClient, StoredRecord};
use uuid::Uuid;

use super::all_of_network;
use crate::{
    args::Name,
    output::{self, Format},
};

pub async fn run(client: &NetworkClient, format: Format, verb: Name) -> anyhow::Result<()> {
    let names = match verb {
        Name::Create { name, item, nic } => {
            vec![client.create_record(HostRecord { name, item, nic }, Uuid::new_v4()).await?]
        }
        Name::List { item } => all_of_network(|page| client.records(item.as_ref(), page)).await?,
        Name::Delete { name } => {
            client.delete_record(&name, Uuid::new_v4()).await?;
            return output::deleted(format, &format!("hostRecords/{name}"));
        }
    };
    output::print(format, &names, || {
        output::rows(["NAME", "ITEM", "NIC"], &names, |StoredRecord { record, .. }: &StoredRecord| {
            [record.name.to_string(), record.item.to_string(), record.nic.to_string()]
        })
    })
}
