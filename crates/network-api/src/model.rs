//! What the API answers with, where `understudy-netplan` has no type for it.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use understudy_ids::{ItemName, MacAddress, Problem, RunId, UnixMicros, Uuid};
use understudy_netplan::{
    ConnectionPlan, DnsZone, HostRecord, MachineConnections, Mapping, Neighbour, NetworkRef, Purpose,
    VmNetwork,
};

/// A network with what the service knows beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredNetwork {
    pub network: VmNetwork,
    pub created: UnixMicros,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkMapping {
    pub id: Uuid,
    pub mapping: Mapping,
    pub created: UnixMicros,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredZone {
    pub zone: DnsZone,
    pub created: UnixMicros,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredRecord {
    pub record: HostRecord,
    pub created: UnixMicros,
}

/// An address that a run holds (R-NET-10).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AddressLease {
    pub network: NetworkRef,
    pub address: Ipv4Addr,
    pub mac: MacAddress,
    pub item: ItemName,
    pub run: RunId,
    pub created: UnixMicros,
    /// On a test network of that run, not on the network itself.
    pub test: bool,
}

/// Which part of a listing is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// 1 to 1000.
    pub size: u32,
    /// The key of the last entry of the page before; `None` for the first page.
    pub after: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    pub entries: Vec<T>,
    /// Key to go on after; `None` on the last page.
    pub next: Option<String>,
}

/// Asks where the NICs of some machines would go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionQuestion {
    pub purpose: Purpose,
    pub machines: Vec<MachineConnections>,
    /// Protected machines that a failover leaves where they are.
    pub neighbours: Vec<Neighbour>,
}

/// The plan, or everything that stands against it.
pub type ConnectionAnswer = Result<ConnectionPlan, Vec<Problem>>;
