//! What the orchestrator asks of network-mapper through job-tracker.

use std::net::Ipv4Addr;

use understudy_ids::{Generation, HostName, ItemName, MacAddress, NetworkName, RunId};
use understudy_netplan::{DnsName, NetworkRef, TrafficChange, ZonePurpose};
use understudy_rpc::ApiError;
use understudy_types_api::{Any, AnyError, pack, unpack};

use crate::{convert::host_to_wire, field::Fields, names, v1};

/// Bounds of one task (invariant 14).
const MAX_NICS: usize = 10_000;
const MAX_TEST_NETWORKS: usize = 256;
const MAX_HOSTS: usize = 1000;
const MAX_RECORDS: usize = 1000;
const MAX_ADDRESSES: usize = 4096;

/// One piece of work for network-mapper, on behalf of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkTask {
    pub run: RunId,
    pub action: NetworkAction,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkAction {
    /// The run holds exactly these addresses and its test networks are on record; all or nothing. `test`: on networks of its own.
    ReserveAddresses { test: bool, nics: Vec<ReservedNic>, test_networks: Vec<ReservedTestNetwork> },
    /// The run holds nothing any more.
    ReleaseRun,
    /// The names have exactly these addresses. `test`: only zones for tests are written to, otherwise only zones of production.
    SetRecords { item: ItemName, test: bool, records: Vec<RecordAddress> },
    /// The names of the item that the run has set have again what they had before.
    RestoreRecords { item: ItemName },
    /// The hook has been told, once or more often.
    CallHook(Box<TrafficChange>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordAddress {
    pub name: DnsName,
    pub zone: DnsName,
    pub purpose: ZonePurpose,
    pub address: Ipv4Addr,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReservedNic {
    pub item: ItemName,
    pub mac: MacAddress,
    pub network: NetworkRef,
    pub address: Ipv4Addr,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReservedTestNetwork {
    /// As it will be called on the hosts.
    pub name: NetworkName,
    pub stands_for: NetworkRef,
    pub hosts: Vec<HostName>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkTaskResult {
    Reserved,
    Released {
        addresses: u32,
        test_networks: u32,
    },
    Records(Vec<RecordDone>),
    /// The hook's answer.
    HookCalled {
        status: u16,
    },
}

/// The addresses of a name before and after; the same where nothing was to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordDone {
    pub name: DnsName,
    pub before: Vec<Ipv4Addr>,
    pub after: Vec<Ipv4Addr>,
}

/// Why a payload is not a task or result of ours.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    #[error(transparent)]
    Payload(#[from] AnyError),
    #[error("{0}")]
    Invalid(#[from] ApiError),
}

impl NetworkTask {
    pub fn to_payload(&self) -> Any {
        let NetworkTask { run, action } = self;
        let action = match action {
            NetworkAction::ReserveAddresses { test, nics, test_networks } => {
                v1::network_task::Action::ReserveAddresses(v1::ReserveAddresses {
                    test: *test,
                    nics: nics.iter().map(nic_to_wire).collect(),
                    test_networks: test_networks.iter().map(test_network_to_wire).collect(),
                })
            }
            NetworkAction::ReleaseRun => v1::network_task::Action::ReleaseRun(v1::ReleaseRun {}),
            NetworkAction::SetRecords { item, test, records } => {
                v1::network_task::Action::SetRecords(v1::SetRecords {
                    item: item.to_string(),
                    test: *test,
                    records: records.iter().map(record_to_wire).collect(),
                })
            }
            NetworkAction::RestoreRecords { item } => {
                v1::network_task::Action::RestoreRecords(v1::RestoreRecords { item: item.to_string() })
            }
            NetworkAction::CallHook(change) => v1::network_task::Action::CallHook(change_to_wire(change)),
        };
        pack(&v1::NetworkTask { run: run.to_string(), action: Some(action) })
    }

    /// # Errors
    /// When it is another message, malformed, or out of bounds: every field that is wrong is named.
    pub fn from_payload(any: &Any) -> Result<Self, TaskError> {
        let v1::NetworkTask { run, action } = unpack(any)?;
        let mut fields = Fields::default();
        let run = fields.parse("run", &run);
        let action = match action {
            Some(v1::network_task::Action::ReserveAddresses(reserve)) => {
                Some(reserve_from_wire(&mut fields, reserve))
            }
            Some(v1::network_task::Action::ReleaseRun(v1::ReleaseRun {})) => Some(NetworkAction::ReleaseRun),
            Some(v1::network_task::Action::SetRecords(set)) => records_from_wire(&mut fields, set),
            Some(v1::network_task::Action::RestoreRecords(v1::RestoreRecords { item })) => {
                fields.parse("item", &item).map(|item| NetworkAction::RestoreRecords { item })
            }
            Some(v1::network_task::Action::CallHook(call)) => change_from_wire(&mut fields, call),
            None => fields.require("action", None),
        };
        Ok(fields.finish(run.zip(action).map(|(run, action)| Self { run, action }))?)
    }
}

fn nic_to_wire(nic: &ReservedNic) -> v1::ReservedNic {
    let ReservedNic { item, mac, network, address } = nic;
    v1::ReservedNic {
        item: item.to_string(),
        mac: mac.to_string(),
        network: network.to_string(),
        address: address.to_string(),
    }
}

fn test_network_to_wire(network: &ReservedTestNetwork) -> v1::ReservedTestNetwork {
    let ReservedTestNetwork { name, stands_for, hosts } = network;
    v1::ReservedTestNetwork {
        name: name.to_string(),
        stands_for: stands_for.to_string(),
        hosts: hosts.iter().map(host_to_wire).collect(),
    }
}

fn reserve_from_wire(fields: &mut Fields, wire: v1::ReserveAddresses) -> NetworkAction {
    let v1::ReserveAddresses { test, nics, test_networks } = wire;
    fields.at_most("nics", nics.len(), MAX_NICS);
    fields.at_most("test_networks", test_networks.len(), MAX_TEST_NETWORKS);
    NetworkAction::ReserveAddresses {
        test,
        nics: nics.into_iter().take(MAX_NICS).filter_map(|nic| nic_from_wire(fields, nic)).collect(),
        test_networks: test_networks
            .into_iter()
            .take(MAX_TEST_NETWORKS)
            .filter_map(|network| test_network_from_wire(fields, network))
            .collect(),
    }
}

fn nic_from_wire(fields: &mut Fields, wire: v1::ReservedNic) -> Option<ReservedNic> {
    let v1::ReservedNic { item, mac, network, address } = wire;
    let item = fields.parse("nics.item", &item);
    let mac = fields.parse("nics.mac", &mac);
    let network = fields.parse("nics.network", &network);
    let address = fields.parse("nics.address", &address);
    Some(ReservedNic { item: item?, mac: mac?, network: network?, address: address? })
}

fn test_network_from_wire(fields: &mut Fields, wire: v1::ReservedTestNetwork) -> Option<ReservedTestNetwork> {
    let v1::ReservedTestNetwork { name, stands_for, hosts } = wire;
    let name = fields.parse("test_networks.name", &name);
    let stands_for = fields.parse("test_networks.stands_for", &stands_for);
    fields.at_most("test_networks.hosts", hosts.len(), MAX_HOSTS);
    let hosts =
        hosts.iter().take(MAX_HOSTS).filter_map(|host| fields.host("test_networks.hosts", host)).collect();
    Some(ReservedTestNetwork { name: name?, stands_for: stands_for?, hosts })
}

fn record_to_wire(record: &RecordAddress) -> v1::RecordAddress {
    let RecordAddress { name, zone, purpose, address } = record;
    v1::RecordAddress {
        name: name.to_string(),
        zone: zone.to_string(),
        purpose: names::purpose_to_wire(*purpose).into(),
        address: address.to_string(),
    }
}

fn records_from_wire(fields: &mut Fields, wire: v1::SetRecords) -> Option<NetworkAction> {
    let v1::SetRecords { item, test, records } = wire;
    let item = fields.parse("item", &item);
    fields.at_most("records", records.len(), MAX_RECORDS);
    let records = records.into_iter().take(MAX_RECORDS).filter_map(|record| {
        let v1::RecordAddress { name, zone, purpose, address } = record;
        let name = fields.parse("records.name", &name);
        let zone = fields.parse("records.zone", &zone);
        let purpose = names::purpose_from_wire(fields, "records.purpose", purpose);
        let address = fields.parse("records.address", &address);
        Some(RecordAddress { name: name?, zone: zone?, purpose: purpose?, address: address? })
    });
    let records = records.collect();
    Some(NetworkAction::SetRecords { item: item?, test, records })
}

fn change_to_wire(change: &TrafficChange) -> v1::CallHook {
    let TrafficChange { hook, item, step, roll_back, from, to, generation, addresses } = change;
    v1::CallHook {
        hook: hook.to_string(),
        item: item.to_string(),
        step: step.to_string(),
        roll_back: *roll_back,
        from: from.to_string(),
        to: to.to_string(),
        generation: generation.get(),
        addresses: addresses.iter().map(ToString::to_string).collect(),
    }
}

fn change_from_wire(fields: &mut Fields, wire: v1::CallHook) -> Option<NetworkAction> {
    let v1::CallHook { hook, item, step, roll_back, from, to, generation, addresses } = wire;
    let hook = fields.parse("hook", &hook);
    let item = fields.parse("item", &item);
    let step = fields.parse("step", &step);
    let from = fields.parse("from", &from);
    let to = fields.parse("to", &to);
    fields.at_most("addresses", addresses.len(), MAX_ADDRESSES);
    let addresses = addresses.iter().take(MAX_ADDRESSES);
    let addresses = addresses.filter_map(|address| fields.parse("addresses", address)).collect();
    let generation = Generation::new(generation);
    let (hook, item, step, from, to) = (hook?, item?, step?, from?, to?);
    let change = TrafficChange { hook, item, step, roll_back, from, to, generation, addresses };
    Some(NetworkAction::CallHook(Box::new(change)))
}

fn done_to_wire(done: RecordDone) -> v1::RecordDone {
    let RecordDone { name, before, after } = done;
    let text = |addresses: Vec<Ipv4Addr>| addresses.iter().map(ToString::to_string).collect();
    v1::RecordDone { name: name.into(), before: text(before), after: text(after) }
}

fn done_from_wire(fields: &mut Fields, wire: v1::RecordDone) -> Option<RecordDone> {
    let v1::RecordDone { name, before, after } = wire;
    let mut read = |field: &str, addresses: Vec<String>| {
        addresses.iter().filter_map(|address| fields.parse(field, address)).collect()
    };
    let (before, after) = (read("records.before", before), read("records.after", after));
    Some(RecordDone { name: fields.parse("records.name", &name)?, before, after })
}

impl NetworkTaskResult {
    pub fn to_payload(self) -> Any {
        let result = match self {
            Self::Reserved => v1::network_task_result::Result::Reserved(v1::Reserved {}),
            Self::Released { addresses, test_networks } => {
                v1::network_task_result::Result::Released(v1::Released { addresses, test_networks })
            }
            Self::Records(done) => v1::network_task_result::Result::RecordsDone(v1::RecordsDone {
                records: done.into_iter().map(done_to_wire).collect(),
            }),
            Self::HookCalled { status } => {
                v1::network_task_result::Result::HookCalled(v1::HookCalled { status: status.into() })
            }
        };
        pack(&v1::NetworkTaskResult { result: Some(result) })
    }

    /// # Errors
    /// When it is another message or empty.
    pub fn from_payload(any: &Any) -> Result<Self, TaskError> {
        match unpack::<v1::NetworkTaskResult>(any)?.result {
            Some(v1::network_task_result::Result::Reserved(v1::Reserved {})) => Ok(Self::Reserved),
            Some(v1::network_task_result::Result::Released(v1::Released { addresses, test_networks })) => {
                Ok(Self::Released { addresses, test_networks })
            }
            Some(v1::network_task_result::Result::RecordsDone(v1::RecordsDone { records })) => {
                let mut fields = Fields::default();
                let done =
                    records.into_iter().filter_map(|record| done_from_wire(&mut fields, record)).collect();
                Ok(fields.finish(Some(Self::Records(done)))?)
            }
            Some(v1::network_task_result::Result::HookCalled(v1::HookCalled { status })) => {
                Ok(Self::HookCalled { status: u16::try_from(status).unwrap_or_default() })
            }
            None => {
                let mut fields = Fields::default();
                fields.refuse("result", "is missing".to_owned());
                Ok(fields.finish(None)?)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserve() -> NetworkTask {
        NetworkTask {
            run: RunId::from_u128(7),
            action: NetworkAction::ReserveAddresses {
                test: true,
                nics: vec![ReservedNic {
                    item: "web1".parse().unwrap(),
                    mac: "52:54:00:00:50:11".parse().unwrap(),
                    network: "sites/bravo/networks/prod".parse().unwrap(),
                    address: "192.168.50.11".parse().unwrap(),
                }],
                test_networks: vec![ReservedTestNetwork {
                    name: "ust-00000007-0".parse().unwrap(),
                    stands_for: "sites/bravo/networks/prod".parse().unwrap(),
                    hosts: vec!["bravo/bravo-h1".parse().unwrap()],
                }],
            },
        }
    }

    #[test]
    fn tasks_and_results_travel_through_a_payload_unchanged() {
        let item = || "web1".parse().unwrap();
        let record = RecordAddress {
            name: "web1.shop.example".parse().unwrap(),
            zone: "shop.example".parse().unwrap(),
            purpose: ZonePurpose::Test,
            address: [10, 0, 0, 9].into(),
        };
        let done = RecordDone { name: record.name.clone(), before: vec![], after: vec![record.address] };
        let change = TrafficChange {
            hook: "lb".parse().unwrap(),
            item: item(),
            step: "web1.call-lb".parse().unwrap(),
            roll_back: true,
            from: "alpha/alpha-h1".parse().unwrap(),
            to: "bravo/bravo-h1".parse().unwrap(),
            generation: Generation::new(2),
            addresses: vec![[10, 0, 0, 9].into()],
        };
        let of_run = |action| NetworkTask { run: RunId::from_u128(8), action };
        for task in [
            reserve(),
            of_run(NetworkAction::ReleaseRun),
            of_run(NetworkAction::SetRecords { item: item(), test: true, records: vec![record] }),
            of_run(NetworkAction::RestoreRecords { item: item() }),
            of_run(NetworkAction::CallHook(Box::new(change))),
        ] {
            assert_eq!(NetworkTask::from_payload(&task.to_payload()).unwrap(), task);
        }
        for result in [
            NetworkTaskResult::Reserved,
            NetworkTaskResult::Released { addresses: 2, test_networks: 1 },
            NetworkTaskResult::Records(vec![done]),
            NetworkTaskResult::HookCalled { status: 204 },
        ] {
            assert_eq!(NetworkTaskResult::from_payload(&result.clone().to_payload()).unwrap(), result);
        }
    }

    #[test]
    fn a_malformed_task_names_every_field_that_is_wrong() {
        let task = v1::NetworkTask {
            run: "x".into(),
            action: Some(v1::network_task::Action::ReserveAddresses(v1::ReserveAddresses {
                test: false,
                nics: vec![v1::ReservedNic { item: "web1".into(), ..v1::ReservedNic::default() }],
                test_networks: vec![],
            })),
        };
        let Err(TaskError::Invalid(error)) = NetworkTask::from_payload(&pack(&task)) else {
            panic!("accepted")
        };
        let fields: Vec<_> = error.problems.iter().map(|p| p.subject.as_str()).collect();
        assert_eq!(fields, ["run", "nics.mac", "nics.network", "nics.address"]);
    }
}
