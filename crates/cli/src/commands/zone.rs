use understudy_netplan::{DnsZone, ZonePurpose};
use understudy_network_api::{NetworkClient, StoredZone};
use uuid::Uuid;

use super::all_of_network;
use crate::{
    args::{PurposeArg, Zone},
    output::{self, Format},
};

pub async fn run(client: &NetworkClient, format: Format, verb: Zone) -> anyhow::Result<()> {
    let zones = match verb {
        Zone::Create { zone, server, purpose, ttl } => {
            let purpose = match purpose {
                PurposeArg::Production => ZonePurpose::Production,
                PurposeArg::Test => ZonePurpose::Test,
            };
            let zone = DnsZone { name: zone, server, ttl_seconds: ttl, purpose };
            vec![client.create_zone(zone, Uuid::new_v4()).await?]
        }
        Zone::List => all_of_network(|page| client.zones(page)).await?,
        Zone::Delete { zone } => {
            client.delete_zone(&zone, Uuid::new_v4()).await?;
            return output::deleted(format, &format!("dnsZones/{zone}"));
        }
    };
    output::print(format, &zones, || {
        output::rows(
            ["ZONE", "WRITTEN BY", "SERVER", "TTL"],
            &zones,
            |StoredZone { zone, .. }: &StoredZone| {
                let writers = match zone.purpose {
                    ZonePurpose::Production => "failovers",
                    ZonePurpose::Test => "tests",
                };
                [
                    zone.name.to_string(),
                    writers.to_owned(),
                    zone.server.to_string(),
                    format!("{} s", zone.ttl_seconds),
                ]
            },
        )
    })
}
