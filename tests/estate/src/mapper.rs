//! network-mapper as far as plans need it: it plans connections with the real rules, for one mapped network.

use std::{collections::BTreeSet, sync::Mutex};

use async_trait::async_trait;
use understudy_ids::{ItemName, Problem, RunId, SiteName, Uuid};
use understudy_netplan::{
    AddressRule, Addressing, ConnectionPlan, DnsName, DnsZone, HostRecord, Isolation, Mapping, NetworkRef,
    TrafficHook, VmNetwork, ZonePurpose, plan, records, split_subnets, traffic,
};
use understudy_network_api::{
    AddressLease, ConnectionAnswer, ConnectionQuestion, NetworkApi, NetworkMapping, Page, PageRequest,
    StoredNetwork, StoredRecord, StoredZone,
};
use understudy_rpc::{ApiError, Identity};

/// What it answers.
#[derive(Default)]
pub struct Mapper {
    /// Said in place of a plan.
    pub problems: Mutex<Vec<Problem>>,
    pub away: Mutex<bool>,
    /// Of the mapping.
    pub addresses: Mutex<AddressRule>,
    /// In a zone of production.
    pub names: Mutex<Vec<HostRecord>>,
    pub hooks: Mutex<Vec<TrafficHook>>,
}

fn network(site: &str) -> VmNetwork {
    VmNetwork {
        name: format!("sites/{site}/networks/prod").parse().unwrap(),
        isolation: Isolation::None,
        addressing: Addressing::Dhcp,
        // Room for the machines of any estate.
        subnet: "192.168.0.0/16".parse().unwrap(),
        gateway: Some("192.168.50.1".parse().unwrap()),
        pool: None,
        hypervisor_network: "prod".parse().unwrap(),
        isolation_targets: vec!["192.168.50.2".parse().unwrap()],
        logical_network: None,
        vlan_id: None,
    }
}

/// One of bravo's that nothing is mapped to.
fn lab() -> VmNetwork {
    VmNetwork {
        name: "sites/bravo/networks/lab".parse().unwrap(),
        subnet: "192.168.60.0/24".parse().unwrap(),
        gateway: None,
        hypervisor_network: "lab".parse().unwrap(),
        isolation_targets: vec![],
        ..network("bravo")
    }
}

fn zone() -> DnsZone {
    DnsZone {
        name: "shop.example".parse().unwrap(),
        server: "ns1".parse().unwrap(),
        ttl_seconds: 30,
        purpose: ZonePurpose::Production,
    }
}

fn unused() -> ApiError {
    ApiError::failed_precondition("NOT_PLAYED", "the tests do not use this", "")
}

#[async_trait]
impl NetworkApi for Mapper {
    async fn plan_connections(&self, question: ConnectionQuestion) -> Result<ConnectionAnswer, ApiError> {
        if *self.away.lock().unwrap() {
            return Err(ApiError::unavailable("AWAY", "network-mapper is away", "wait"));
        }
        let problems = self.problems.lock().unwrap().clone();
        if !problems.is_empty() {
            return Ok(Err(problems));
        }
        let networks = [network("alpha"), network("bravo"), lab()];
        let addresses = *self.addresses.lock().unwrap();
        let mappings =
            [Mapping { addresses, ..Mapping::new(networks[0].name.clone(), networks[1].name.clone()) }];
        let ConnectionQuestion { purpose, machines, neighbours } = question;
        let planned = plan(&purpose, &machines, &networks, &mappings, &BTreeSet::new());
        let split_subnets = split_subnets(&machines, &neighbours, &networks, &mappings);
        let names = self.names.lock().unwrap().clone();
        Ok(planned.map(|plan| {
            let records = records::plan(&purpose, &machines, &plan.nics, &[zone()], &names);
            let hooks = traffic::plan(&purpose, &machines, &self.hooks.lock().unwrap());
            ConnectionPlan { split_subnets, records, hooks, ..plan }
        }))
    }

    async fn create_network(&self, _: &Identity, _: VmNetwork, _: Uuid) -> Result<StoredNetwork, ApiError> {
        Err(unused())
    }
    async fn network(&self, _: &NetworkRef) -> Result<StoredNetwork, ApiError> {
        Err(unused())
    }
    async fn networks(&self, _: Option<SiteName>, _: PageRequest) -> Result<Page<StoredNetwork>, ApiError> {
        Err(unused())
    }
    async fn delete_network(&self, _: &Identity, _: &NetworkRef, _: Uuid) -> Result<(), ApiError> {
        Err(unused())
    }
    async fn create_mapping(&self, _: &Identity, _: Mapping, _: Uuid) -> Result<NetworkMapping, ApiError> {
        Err(unused())
    }
    async fn mappings(&self, _: PageRequest) -> Result<Page<NetworkMapping>, ApiError> {
        Err(unused())
    }
    async fn delete_mapping(&self, _: &Identity, _: Uuid, _: Uuid) -> Result<(), ApiError> {
        Err(unused())
    }
    async fn create_zone(&self, _: &Identity, _: DnsZone, _: Uuid) -> Result<StoredZone, ApiError> {
        Err(unused())
    }
    async fn zones(&self, _: PageRequest) -> Result<Page<StoredZone>, ApiError> {
        Err(unused())
    }
    async fn delete_zone(&self, _: &Identity, _: &DnsName, _: Uuid) -> Result<(), ApiError> {
        Err(unused())
    }
    async fn create_record(&self, _: &Identity, _: HostRecord, _: Uuid) -> Result<StoredRecord, ApiError> {
        Err(unused())
    }
    async fn records(&self, _: Option<ItemName>, _: PageRequest) -> Result<Page<StoredRecord>, ApiError> {
        Err(unused())
    }
    async fn delete_record(&self, _: &Identity, _: &DnsName, _: Uuid) -> Result<(), ApiError> {
        Err(unused())
    }
    async fn leases(&self, _: Option<RunId>, _: PageRequest) -> Result<Page<AddressLease>, ApiError> {
        Err(unused())
    }
}
