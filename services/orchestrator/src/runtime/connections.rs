//! Where the NICs of a run will be connected: network-mapper's answer, or its last one while it is away.
//!
//! ```text
//!   ask ── answered ──▶ plan or problems; a failover's answer is remembered
//!     └─── away ──▶ unplanned failover: the remembered answer, which says that it is one (R-UF-1)
//!                   anything else: one problem
//! ```

use std::{collections::BTreeSet, net::IpAddr};

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use understudy_ids::{ItemName, MacAddress, NetworkName, Problem, SiteName, UnixMicros};
use understudy_netplan as netplan;
use understudy_network_api::{ConnectionQuestion, NetworkClient};
use understudy_recovery::{
    Operation, RunSpec,
    plan::{Connections, ItemView, PlanInput, PlannedNic, PlannedTestNetwork, ends},
    test_network::TestNetwork,
};
use understudy_recovery_api::Resource;

use super::inventory;
use crate::store::{Failure, connections as known, items};

/// One NIC's place as it is remembered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KnownNic {
    index: u32,
    mac: MacAddress,
    network: Option<String>,
    hypervisor_network: Option<NetworkName>,
    address: Option<IpAddr>,
    reason: String,
}

/// What came of asking.
#[derive(Debug, Clone)]
pub enum Answer {
    /// The operation connects nothing.
    NotNeeded,
    Told(Box<Connections>),
    /// network-mapper cannot be asked now, and why.
    Away(String),
}

fn purpose(spec: &RunSpec, items: &[ItemView]) -> Option<netplan::Purpose> {
    match spec.operation {
        Operation::TestFailover => match &spec.test_network {
            TestNetwork::None => None,
            TestNetwork::Automatic => Some(netplan::Purpose::Test),
            TestNetwork::Existing { network, connect_to_production: _ } => Some(netplan::Purpose::TestOn {
                network: network.clone(),
                hosts: items.iter().map(|item| item.standby_host.clone()).collect(),
            }),
        },
        // Protecting connects nothing yet; it asks so that a missing mapping shows before the day it is needed.
        Operation::Protect
        | Operation::PlannedFailover
        | Operation::UnplannedFailover
        | Operation::Failback => Some(netplan::Purpose::Failover),
        Operation::Unprotect | Operation::ReverseReplicate => None,
    }
}

/// Protected machines at the sites that those of a failover leave, and that it leaves there.
pub async fn neighbours(
    conn: &mut PgConnection,
    spec: &RunSpec,
    named: &[ItemView],
) -> Result<Vec<netplan::Neighbour>, Failure> {
    use Operation::{Failback, PlannedFailover, UnplannedFailover};
    if !matches!(spec.operation, PlannedFailover | UnplannedFailover | Failback) {
        return Ok(Vec::new());
    }
    let left: BTreeSet<&SiteName> = named.iter().map(|item| sites(spec, item).0).collect();
    let left: Vec<&SiteName> = left.into_iter().collect();
    let staying = items::active_at(conn, &left).await?;
    let staying = staying.into_iter().filter(|item| !spec.items.contains(&item.name));
    let neighbour = |item: items::ItemRecord| netplan::Neighbour {
        site: item.active_host.site().clone(),
        nics: item.machine.nics.iter().map(nic).collect(),
        item: item.name,
    };
    Ok(staying.map(neighbour).collect())
}

fn nic(nic: &inventory::Nic) -> netplan::MachineNic {
    netplan::MachineNic {
        mac: nic.mac,
        hypervisor_network: nic.network.clone(),
        addresses: nic.addresses.clone(),
        chosen: None,
    }
}

/// Asks network-mapper where the machines of the run would be connected. Its client bounds the time.
pub async fn ask(
    network: &NetworkClient,
    spec: &RunSpec,
    items: &[ItemView],
    neighbours: Vec<netplan::Neighbour>,
) -> Answer {
    let Some(purpose) = purpose(spec, items).filter(|_| !items.is_empty()) else { return Answer::NotNeeded };
    let machines = items.iter().map(|item| machine(spec, item, &purpose)).collect();
    let question = ConnectionQuestion { purpose, machines, neighbours };
    match network.plan_connections(&question).await {
        Ok(Ok(plan)) => Answer::Told(Box::new(told(plan))),
        Ok(Err(problems)) => Answer::Told(Box::new(Connections { problems, ..Connections::default() })),
        Err(error) => {
            tracing::warn!(%error, "network-mapper did not plan the connections");
            Answer::Away(error.message)
        }
    }
}

/// From which site to which a machine goes.
fn sites<'a>(spec: &'a RunSpec, item: &'a ItemView) -> (&'a SiteName, &'a SiteName) {
    let (source, target) = ends(spec, item);
    (source.site(), target.site())
}

fn machine(spec: &RunSpec, item: &ItemView, purpose: &netplan::Purpose) -> netplan::MachineConnections {
    let (source, target) = sites(spec, item);
    netplan::MachineConnections {
        item: item.name.clone(),
        source_site: source.clone(),
        target_site: target.clone(),
        nics: item
            .machine
            .nics
            .iter()
            .zip(0u32..)
            .map(|(nic, index)| netplan::MachineNic {
                mac: nic.mac,
                hypervisor_network: nic.network.clone(),
                addresses: nic.addresses.clone(),
                chosen: netplan::chosen(&item.addresses, purpose, index, target),
            })
            .collect(),
    }
}

fn told(plan: netplan::ConnectionPlan) -> Connections {
    let netplan::ConnectionPlan { nics, test_networks, existing, split_subnets, records, hooks } = plan;
    let nics = nics.into_iter().map(|nic| {
        let netplan::Connection {
            item,
            index,
            mac,
            network,
            hypervisor_network,
            test_network,
            address,
            reason,
        } = nic;
        PlannedNic {
            item,
            index,
            mac,
            network: network.map(|n| n.to_string()),
            hypervisor_network,
            test_network,
            address: address.map(IpAddr::V4),
            reason,
        }
    });
    let test_networks = test_networks.into_iter().map(|network| {
        let netplan::PlannedTestNetwork { stands_for, gateway, prefix_len, isolation_targets } = network;
        PlannedTestNetwork {
            stands_for: stands_for.to_string(),
            gateway,
            prefix_len,
            isolation_targets: isolation_targets.into_iter().map(IpAddr::V4).collect(),
        }
    });
    Connections {
        nics: nics.collect(),
        test_networks: test_networks.collect(),
        existing,
        split_subnets,
        records,
        hooks,
        problems: Vec::new(),
    }
}

/// The connections to plan with.
pub async fn settle(
    conn: &mut PgConnection,
    spec: &RunSpec,
    items: &[ItemView],
    answer: &Answer,
) -> Result<Connections, Failure> {
    match answer {
        Answer::NotNeeded => Ok(Connections::default()),
        Answer::Told(connections) => Ok(connections.as_ref().clone()),
        Answer::Away(why) if spec.operation == Operation::UnplannedFailover => {
            recall(conn, spec, items, why).await
        }
        Answer::Away(why) => Ok(Connections { problems: vec![away(why)], ..Connections::default() }),
    }
}

fn away(why: &str) -> Problem {
    Problem::new(
        "NETWORK_MAPPER_AWAY",
        "network-mapper",
        format!("network-mapper cannot be asked where the machines are to be connected: {why}"),
        "Start network-mapper and preview again.",
    )
}

async fn recall(
    conn: &mut PgConnection,
    spec: &RunSpec,
    items: &[ItemView],
    why: &str,
) -> Result<Connections, Failure> {
    let mut connections = Connections::default();
    for item in items {
        let (_, target) = sites(spec, item);
        match known::recall(conn, &item.name, target).await? {
            Some(known::Known { nics, records, hooks, learnt }) => {
                connections.nics.extend(nics.into_iter().map(|n| remembered(&item.name, n, learnt)));
                connections.records.extend(records);
                connections.hooks.extend(hooks);
            }
            None => connections.problems.push(Problem::new(
                "NETWORK_MAPPER_AWAY",
                item.name.to_resource(),
                format!(
                    "network-mapper cannot be asked ({why}), and no earlier answer is known for site {target}"
                ),
                "Start network-mapper and preview again.",
            )),
        }
    }
    Ok(connections)
}

fn remembered(item: &ItemName, nic: KnownNic, learnt: UnixMicros) -> PlannedNic {
    let KnownNic { index, mac, network, hypervisor_network, address, reason } = nic;
    PlannedNic {
        item: item.clone(),
        index,
        mac,
        network,
        hypervisor_network,
        test_network: None,
        address,
        reason: format!("{reason}; as network-mapper said at {learnt}, it cannot be asked now"),
    }
}

/// Remembers what network-mapper said about real failovers.
pub async fn remember(
    tx: &mut PgConnection,
    spec: &RunSpec,
    input: &PlanInput,
    answer: &Answer,
) -> Result<(), Failure> {
    let Answer::Told(connections) = answer else { return Ok(()) };
    if purpose(spec, &input.items) != Some(netplan::Purpose::Failover) || !connections.problems.is_empty() {
        return Ok(());
    }
    for item in &input.items {
        let of_item = connections.nics.iter().filter(|nic| nic.item == item.name).map(|nic| KnownNic {
            index: nic.index,
            mac: nic.mac,
            network: nic.network.clone(),
            hypervisor_network: nic.hypervisor_network.clone(),
            address: nic.address,
            reason: nic.reason.clone(),
        });
        let nics: Vec<KnownNic> = of_item.collect();
        let (_, target) = sites(spec, item);
        let records = connections.records.iter().filter(|record| record.item == item.name).cloned();
        let hooks = connections.hooks.iter().filter(|planned| planned.item == item.name).cloned();
        let (records, hooks) = (records.collect(), hooks.collect());
        let known = known::Known { nics, records, hooks, learnt: input.now };
        known::remember(tx, &item.name, target, &known).await?;
    }
    Ok(())
}
