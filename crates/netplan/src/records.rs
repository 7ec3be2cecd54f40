//! Names of machines in DNS, and what they are to say after a run (R-NET-11, R-NET-12).
//!
//! ```text
//!   name of a NIC ─▶ its zone ─▶ of the purpose that the run has? ─▶ the address that the NIC will have ─▶ what the record is to say
//!                                └ no: another run's                 └ not known: said, and left as it is
//! ```
//!
//! A real failover writes to zones of production and a test to zones for tests, and neither ever to the other's. A name lies in exactly one
//! zone, so whether a test may touch it does not depend on who asks.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use serde::{Deserialize, Serialize};
use understudy_ids::{DnsServerName, ItemName, Problem};

use crate::connect::{Connection, MachineConnections, Purpose};

/// The most that a name may have as text with its final dot, and what one of its labels may have (RFC 1035).
const MAX_NAME: usize = 254;
const MAX_LABEL: usize = 63;
/// A day: a record that is kept for longer by those who ask cannot be said to be switched.
pub const MAX_TTL_SECONDS: u32 = 86_400;

/// A domain name of letters, digits and dashes in lower case; always absolute, and written with its final dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DnsName(String);

/// Why a text is not a domain name of a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a host's domain name: use at least one dot between labels of 1 to 63 letters, digits and dashes, such as web1.shop.example."
)]
pub struct InvalidDnsName(String);

impl DnsName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name is `zone` itself or lies below it.
    pub fn is_in(&self, zone: &Self) -> bool {
        self.0.strip_suffix(&zone.0).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }
}

impl FromStr for DnsName {
    type Err = InvalidDnsName;

    /// With or without its final dot, in whatever case.
    fn from_str(text: &str) -> Result<Self, InvalidDnsName> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let label = |label: &str| {
            (1..=MAX_LABEL).contains(&label.len())
                && label.bytes().all(allowed)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if name.len() < MAX_NAME && name.contains('.') && name.split('.').all(label) {
            return Ok(Self(name + "."));
        }
        Err(InvalidDnsName(text.chars().take(80).collect()))
    }
}

impl TryFrom<String> for DnsName {
    type Error = InvalidDnsName;
    fn try_from(text: String) -> Result<Self, InvalidDnsName> {
        text.parse()
    }
}

impl From<DnsName> for String {
    fn from(name: DnsName) -> String {
        name.0
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Whose names a zone holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ZonePurpose {
    Production,
    Test,
}

impl ZonePurpose {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Production => "production",
            Self::Test => "test",
        }
    }

    /// The zones that a run may write to.
    pub const fn of_run(test: bool) -> Self {
        if test { Self::Test } else { Self::Production }
    }
}

impl fmt::Display for ZonePurpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A zone that is kept up to date.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsZone {
    pub name: DnsName,
    /// Its primary server, which takes the updates.
    pub server: DnsServerName,
    /// Of records that are written.
    pub ttl_seconds: u32,
    pub purpose: ZonePurpose,
}

/// The address of one NIC of an item has this name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    pub name: DnsName,
    pub item: ItemName,
    /// Position among the machine's NICs.
    pub nic: u32,
}

/// What a name is to say after a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedRecord {
    pub name: DnsName,
    pub item: ItemName,
    pub zone: DnsName,
    pub purpose: ZonePurpose,
    /// `None`: the record is left as it is, because of `reason`.
    pub address: Option<Ipv4Addr>,
    pub reason: String,
}

impl DnsZone {
    /// Everything that speaks against the zone beside those that there are, with the names that are written already.
    pub fn problems(
        &self,
        zones: &[DnsZone],
        records: &[HostRecord],
        servers: &[&DnsServerName],
    ) -> Vec<Problem> {
        let subject = format!("dnsZones/{}", self.name);
        let mut found = Vec::new();
        if self.ttl_seconds > MAX_TTL_SECONDS {
            let message = format!("a TTL of {} s is more than a day", self.ttl_seconds);
            let remedy = "Give a TTL of seconds or minutes: for so long clients may go to the old side.";
            found.push(Problem::new("TTL_TOO_LONG", &subject, message, remedy));
        }
        if !servers.contains(&&self.server) {
            let known: Vec<&str> = servers.iter().map(|server| server.as_str()).collect();
            let message =
                format!("network-mapper has no DNS server {}; it has: {}", self.server, known.join(", "));
            let remedy =
                "Add [dns.servers.NAME] to network-mapper's configuration, on each of its instances.";
            found.push(Problem::new("DNS_SERVER_NOT_CONFIGURED", &subject, message, remedy));
        }
        if zones.iter().any(|zone| zone.name == self.name) {
            let remedy = "Delete it first to change its server, TTL or purpose.";
            found.push(Problem::new("ZONE_EXISTS", &subject, "this zone exists already", remedy));
        }
        let inside: Vec<&str> =
            records.iter().filter(|r| r.name.is_in(&self.name)).map(|r| r.name.as_str()).collect();
        // A zone within one that has the name already would take it over, with another purpose perhaps.
        let taken: Vec<&str> = inside.into_iter().filter(|name| self.takes_over(name, zones)).collect();
        if !taken.is_empty() {
            let message = format!("it would take over names of another zone: {}", taken.join(", "));
            found.push(Problem::new(
                "ZONE_HAS_NAMES",
                &subject,
                message,
                "Delete these names and add them again afterwards.",
            ));
        }
        found
    }

    fn takes_over(&self, name: &str, zones: &[DnsZone]) -> bool {
        let Ok(name) = name.parse::<DnsName>() else { return false };
        zone_of(&name, zones).is_some_and(|zone| self.name != zone.name && self.name.is_in(&zone.name))
    }
}

impl HostRecord {
    /// Everything that speaks against the name beside those that there are.
    pub fn problems(&self, zones: &[DnsZone], records: &[HostRecord]) -> Vec<Problem> {
        let subject = format!("hostRecords/{}", self.name);
        let mut found = Vec::new();
        if zone_of(&self.name, zones).is_none() {
            let remedy = "Create the zone with its server first.";
            found.push(Problem::new("ZONE_NOT_FOUND", &subject, "it lies in no zone that is known", remedy));
        }
        if let Some(other) = records.iter().find(|record| record.name == self.name) {
            let message = format!("it is the name of NIC {} of {} already", other.nic, other.item);
            found.push(Problem::new(
                "NAME_TAKEN",
                &subject,
                message,
                "Delete it there first, or choose another name.",
            ));
        }
        found
    }
}

/// The zone that a name lies in: the closest one around it.
pub fn zone_of<'a>(name: &DnsName, zones: &'a [DnsZone]) -> Option<&'a DnsZone> {
    zones.iter().filter(|zone| name.is_in(&zone.name)).max_by_key(|zone| zone.name.as_str().len())
}

/// What the names of the run's machines are to say, in the order of the names.
pub fn plan(
    purpose: &Purpose,
    machines: &[MachineConnections],
    nics: &[Connection],
    zones: &[DnsZone],
    records: &[HostRecord],
) -> Vec<PlannedRecord> {
    let wanted = ZonePurpose::of_run(*purpose != Purpose::Failover);
    let mut planned: Vec<PlannedRecord> = records
        .iter()
        .filter_map(|record| {
            let machine = machines.iter().find(|machine| machine.item == record.item)?;
            let zone = zone_of(&record.name, zones).filter(|zone| zone.purpose == wanted)?;
            let nic = nics.iter().find(|nic| nic.item == record.item && nic.index == record.nic);
            let (address, reason) = becomes(record, machine, nic);
            Some(PlannedRecord {
                name: record.name.clone(),
                item: record.item.clone(),
                zone: zone.name.clone(),
                purpose: zone.purpose,
                address,
                reason,
            })
        })
        .collect();
    planned.sort_by(|a, b| a.name.cmp(&b.name));
    planned
}

fn becomes(
    record: &HostRecord,
    machine: &MachineConnections,
    nic: Option<&Connection>,
) -> (Option<Ipv4Addr>, String) {
    let of = format!("NIC {} of {}", record.nic, record.item);
    let before = usize::try_from(record.nic).ok().and_then(|index| machine.nics.get(index));
    match nic.map(|nic| (nic.network.is_some(), nic.address)) {
        None => (None, format!("there is no {of}")),
        Some((false, _)) => (None, format!("{of} is not connected")),
        Some((true, None)) => (None, format!("only the network's DHCP server knows which address {of} gets")),
        Some((true, Some(address))) => {
            let kept = before.is_some_and(|nic| nic.addresses.contains(&address.into()));
            let reason = if kept { "keeps its address" } else { "gets this address" };
            (Some(address), format!("{of} {reason}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use understudy_ids::MacAddress;

    use super::*;
    use crate::connect::MachineNic;

    fn name(text: &str) -> DnsName {
        text.parse().unwrap()
    }

    fn zone(text: &str, purpose: ZonePurpose) -> DnsZone {
        DnsZone { name: name(text), server: "ns1".parse().unwrap(), ttl_seconds: 60, purpose }
    }

    fn record(text: &str, nic: u32) -> HostRecord {
        HostRecord { name: name(text), item: "web1".parse().unwrap(), nic }
    }

    fn zones() -> Vec<DnsZone> {
        vec![zone("shop.example", ZonePurpose::Production), zone("test.shop.example", ZonePurpose::Test)]
    }

    fn reasons(problems: Vec<Problem>) -> Vec<String> {
        problems.into_iter().map(|problem| problem.reason.to_string()).collect()
    }

    #[test]
    fn names_are_absolute_and_in_one_case_and_nothing_else_is_one() {
        assert_eq!(name("Web1.Shop.Example").to_string(), "web1.shop.example.");
        assert_eq!(name("web1.shop.example."), name("web1.shop.example"));
        let long = format!("{}.example", "x".repeat(64));
        let longest = format!("{}.aa", vec!["x".repeat(49); 5].join("."));
        assert!(longest.parse::<DnsName>().is_ok());
        for bad in [
            "",
            ".",
            "web1",
            "web1.",
            "a..b",
            "-a.b",
            "a-.b",
            "a_b.c",
            "*.b",
            "a b.c",
            &long,
            &format!("aaaa.{longest}"),
        ] {
            assert!(bad.parse::<DnsName>().is_err(), "{bad:?}");
        }
        assert!(name("web1.shop.example").is_in(&name("shop.example")));
        assert!(name("shop.example").is_in(&name("shop.example")));
        assert!(!name("web1.workshop.example").is_in(&name("shop.example")));
    }

    /// R-NET-12: by what the run is, the zone's purpose, and what becomes of the NIC.
    #[test]
    fn a_failover_writes_to_production_and_a_test_to_its_own_zones_only() {
        let on = Purpose::TestOn {
            network: "sites/bravo/networks/lab".parse().unwrap(),
            hosts: Default::default(),
        };
        let records = [record("web1.shop.example", 0), record("web1.test.shop.example", 0)];
        let (production, test) = ("web1.shop.example.", "web1.test.shop.example.");
        for (purpose, expected) in [(Purpose::Failover, production), (Purpose::Test, test), (on, test)] {
            let planned =
                plan(&purpose, &machines(), &[connection(0, Some([10, 0, 0, 9]))], &zones(), &records);
            let names: Vec<&str> = planned.iter().map(|record| record.name.as_str()).collect();
            assert_eq!(names, [expected], "{purpose:?}");
            assert_eq!(planned[0].purpose, ZonePurpose::of_run(purpose != Purpose::Failover));
        }
    }

    fn machines() -> Vec<MachineConnections> {
        let nic = |last: u8| MachineNic {
            mac: MacAddress::new([2, 0, 0, 0, 0, last]),
            hypervisor_network: None,
            addresses: vec![[10, 0, 0, last].into()],
            chosen: None,
        };
        vec![MachineConnections {
            item: "web1".parse().unwrap(),
            source_site: "alpha".parse().unwrap(),
            target_site: "bravo".parse().unwrap(),
            nics: vec![nic(1), nic(2)],
        }]
    }

    fn connection(index: u32, address: Option<[u8; 4]>) -> Connection {
        Connection {
            item: "web1".parse().unwrap(),
            index,
            mac: MacAddress::new([2, 0, 0, 0, 0, 1]),
            network: Some("sites/bravo/networks/prod".parse().unwrap()),
            hypervisor_network: None,
            test_network: None,
            address: address.map(Ipv4Addr::from),
            reason: String::new(),
        }
    }

    #[test]
    fn what_cannot_be_known_is_said_and_left_alone() {
        let unconnected = Connection { network: None, ..connection(0, None) };
        let rows = [
            (
                vec![connection(0, Some([10, 0, 0, 1]))],
                Some([10, 0, 0, 1]),
                "NIC 0 of web1 keeps its address",
            ),
            (
                vec![connection(0, Some([10, 0, 0, 2]))],
                Some([10, 0, 0, 2]),
                "NIC 0 of web1 gets this address",
            ),
            (
                vec![connection(0, None)],
                None,
                "only the network's DHCP server knows which address NIC 0 of web1 gets",
            ),
            (vec![unconnected], None, "NIC 0 of web1 is not connected"),
            (vec![connection(1, Some([10, 0, 0, 2]))], None, "there is no NIC 0 of web1"),
        ];
        for (nics, address, reason) in rows {
            let records = [record("web1.shop.example", 0)];
            let planned = plan(&Purpose::Failover, &machines(), &nics, &zones(), &records);
            assert_eq!(
                (planned[0].address, planned[0].reason.as_str()),
                (address.map(Ipv4Addr::from), reason)
            );
        }
    }

    #[test]
    fn names_lie_in_one_zone_that_is_known_and_belong_to_one_nic() {
        assert_eq!(reasons(record("web1.shop.example", 0).problems(&zones(), &[])), [""; 0]);
        assert_eq!(reasons(record("web1.other.example", 0).problems(&zones(), &[])), ["ZONE_NOT_FOUND"]);
        let there = [record("web1.shop.example", 1)];
        assert_eq!(reasons(record("web1.shop.example", 0).problems(&zones(), &there)), ["NAME_TAKEN"]);
        assert_eq!(zone_of(&name("a.test.shop.example"), &zones()).unwrap().purpose, ZonePurpose::Test);
        assert_eq!(
            zone_of(&name("a.test2.shop.example"), &zones()).unwrap().purpose,
            ZonePurpose::Production
        );
    }

    /// R-NET-12: a zone that is made later cannot make a name of production one that tests write to.
    #[test]
    fn a_zone_takes_no_names_over_and_everything_against_it_is_said_at_once() {
        let (ns1, none): (DnsServerName, Vec<DnsZone>) = ("ns1".parse().unwrap(), vec![]);
        let written = [record("web1.eu.shop.example", 0)];
        let inner = zone("eu.shop.example", ZonePurpose::Test);
        assert_eq!(reasons(inner.problems(&zones(), &written, &[&ns1])), ["ZONE_HAS_NAMES"]);
        assert_eq!(reasons(inner.problems(&zones(), &[], &[&ns1])), [""; 0]);
        let around = zone("example.org", ZonePurpose::Production);
        assert_eq!(reasons(around.problems(&none, &[], &[&ns1])), [""; 0]);
        let wrong = DnsZone { ttl_seconds: MAX_TTL_SECONDS + 1, ..zone("shop.example", ZonePurpose::Test) };
        let expected = ["TTL_TOO_LONG", "DNS_SERVER_NOT_CONFIGURED", "ZONE_EXISTS"];
        assert_eq!(reasons(wrong.problems(&zones(), &[], &[])), expected);
    }
}
