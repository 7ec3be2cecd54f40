//! Zones and names of machines: wire messages to domain values and back.

use understudy_netplan::{DnsName, DnsZone, HostRecord, PlannedRecord, ZonePurpose};
use understudy_rpc::ApiError;
use understudy_types_api::time_to_wire;

use crate::{
    convert::created_from_wire,
    field::Fields,
    model::{StoredRecord, StoredZone},
    v1,
};

/// `dnsZones/<zone>`
pub(crate) fn zone_name(name: &DnsName) -> String {
    format!("dnsZones/{name}")
}

/// `hostRecords/<name>`
pub(crate) fn record_name(name: &DnsName) -> String {
    format!("hostRecords/{name}")
}

pub(crate) fn zone_name_from_wire(fields: &mut Fields, field: &str, name: &str) -> Option<DnsName> {
    resource(fields, field, "dnsZones/", name)
}

pub(crate) fn record_name_from_wire(fields: &mut Fields, field: &str, name: &str) -> Option<DnsName> {
    resource(fields, field, "hostRecords/", name)
}

fn resource(fields: &mut Fields, field: &str, prefix: &str, name: &str) -> Option<DnsName> {
    match name.strip_prefix(prefix) {
        Some(name) => fields.parse(field, name),
        None => {
            fields.refuse(
                field,
                format!("{:?} is not {prefix}<name>", name.chars().take(80).collect::<String>()),
            );
            None
        }
    }
}

pub(crate) fn purpose_to_wire(purpose: ZonePurpose) -> v1::ZonePurpose {
    match purpose {
        ZonePurpose::Production => v1::ZonePurpose::Production,
        ZonePurpose::Test => v1::ZonePurpose::Test,
    }
}

pub(crate) fn purpose_from_wire(fields: &mut Fields, field: &str, purpose: i32) -> Option<ZonePurpose> {
    match v1::ZonePurpose::try_from(purpose) {
        Ok(v1::ZonePurpose::Production) => Some(ZonePurpose::Production),
        Ok(v1::ZonePurpose::Test) => Some(ZonePurpose::Test),
        Ok(v1::ZonePurpose::Unspecified) | Err(_) => fields.require(field, None),
    }
}

pub(crate) fn new_zone_to_wire(zone: DnsZone) -> v1::DnsZone {
    let DnsZone { name, server, ttl_seconds, purpose } = zone;
    v1::DnsZone {
        name: zone_name(&name),
        server: server.into(),
        ttl_seconds,
        purpose: purpose_to_wire(purpose).into(),
        create_time: None,
    }
}

pub(crate) fn zone_to_wire(stored: StoredZone) -> v1::DnsZone {
    let StoredZone { zone, created } = stored;
    v1::DnsZone { create_time: Some(time_to_wire(created)), ..new_zone_to_wire(zone) }
}

pub(crate) fn zone_from_wire(wire: v1::DnsZone) -> Result<DnsZone, ApiError> {
    let v1::DnsZone { name, server, ttl_seconds, purpose, create_time: _ } = wire;
    let mut fields = Fields::default();
    let name = zone_name_from_wire(&mut fields, "zone.name", &name);
    let server = fields.parse("zone.server", &server);
    let purpose = purpose_from_wire(&mut fields, "zone.purpose", purpose);
    fields.finish((|| Some(DnsZone { name: name?, server: server?, ttl_seconds, purpose: purpose? }))())
}

pub(crate) fn stored_zone_from_wire(wire: v1::DnsZone) -> Result<StoredZone, ApiError> {
    let created = created_from_wire(wire.create_time)?;
    Ok(StoredZone { zone: zone_from_wire(wire)?, created })
}

pub(crate) fn new_record_to_wire(record: HostRecord) -> v1::HostRecord {
    let HostRecord { name, item, nic } = record;
    v1::HostRecord { name: record_name(&name), item: item.into(), nic, create_time: None }
}

pub(crate) fn record_to_wire(stored: StoredRecord) -> v1::HostRecord {
    let StoredRecord { record, created } = stored;
    v1::HostRecord { create_time: Some(time_to_wire(created)), ..new_record_to_wire(record) }
}

/// A machine has at most as many NICs.
const MAX_NIC: u32 = 63;

pub(crate) fn record_from_wire(wire: v1::HostRecord) -> Result<HostRecord, ApiError> {
    let v1::HostRecord { name, item, nic, create_time: _ } = wire;
    let mut fields = Fields::default();
    let name = record_name_from_wire(&mut fields, "record.name", &name);
    let item = fields.parse("record.item", &item);
    if nic > MAX_NIC {
        fields.refuse("record.nic", format!("{nic} is more than {MAX_NIC}"));
    }
    fields.finish((|| Some(HostRecord { name: name?, item: item?, nic }))())
}

pub(crate) fn stored_record_from_wire(wire: v1::HostRecord) -> Result<StoredRecord, ApiError> {
    let created = created_from_wire(wire.create_time)?;
    Ok(StoredRecord { record: record_from_wire(wire)?, created })
}

pub(crate) fn planned_to_wire(planned: PlannedRecord) -> v1::PlannedRecord {
    let PlannedRecord { name, item, zone, purpose, address, reason } = planned;
    v1::PlannedRecord {
        name: name.into(),
        item: item.into(),
        zone: zone.into(),
        purpose: purpose_to_wire(purpose).into(),
        address: address.map(|address| address.to_string()).unwrap_or_default(),
        reason,
    }
}

pub(crate) fn planned_from_wire(fields: &mut Fields, wire: v1::PlannedRecord) -> Option<PlannedRecord> {
    let v1::PlannedRecord { name, item, zone, purpose, address, reason } = wire;
    let name = fields.parse("records.name", &name);
    let item = fields.parse("records.item", &item);
    let zone = fields.parse("records.zone", &zone);
    let purpose = purpose_from_wire(fields, "records.purpose", purpose);
    let address = fields.parse_optional("records.address", &address);
    Some(PlannedRecord { name: name?, item: item?, zone: zone?, purpose: purpose?, address, reason })
}

#[cfg(test)]
mod tests {
    use understudy_ids::UnixMicros;

    use super::*;

    /// R-NET-12
    #[test]
    fn zones_and_names_travel_unchanged_and_what_is_wrong_is_named_at_once() {
        let created = UnixMicros::new(1_000_000);
        for purpose in [ZonePurpose::Production, ZonePurpose::Test] {
            let (name, server) = ("shop.example".parse().unwrap(), "ns1".parse().unwrap());
            let stored = StoredZone { zone: DnsZone { name, server, ttl_seconds: 60, purpose }, created };
            assert_eq!(stored_zone_from_wire(zone_to_wire(stored.clone())).unwrap(), stored);
        }
        let (name, item) = ("web1.shop.example".parse().unwrap(), "web1".parse().unwrap());
        let stored = StoredRecord { record: HostRecord { name, item, nic: 1 }, created };
        assert_eq!(stored_record_from_wire(record_to_wire(stored.clone())).unwrap(), stored);

        let refused = |error: ApiError| error.problems.into_iter().map(|p| p.subject).collect::<Vec<_>>();
        let zone = v1::DnsZone { name: "shop.example".into(), ..v1::DnsZone::default() };
        let wrong = refused(zone_from_wire(zone).unwrap_err());
        assert_eq!(wrong, ["zone.name", "zone.server", "zone.purpose"]);
        let record = v1::HostRecord { name: "hostRecords/web1".into(), nic: 64, ..v1::HostRecord::default() };
        let wrong = refused(record_from_wire(record).unwrap_err());
        assert_eq!(wrong, ["record.name", "record.item", "record.nic"]);
    }
}
