//! Test failover (R-TF): a machine beside the replica that nothing but its own test network can reach.
//!
//! ```text
//!   reserve ─▶ test network @ host ─▶ prove isolation ─┐
//!   reserve ─▶ port on network @ host: prove isolation ┼─▶ per item: make machine ─▶ start ─▶ probes ─▶ screenshot ─▶ names ─▶ complete testing
//!                    (without network, on production) ─┘
//!   always: restore names, remove machines ─▶ remove networks and ports ─▶ release
//! ```
//!
//! The first error stops the test and leads to the clean-up of everything that was begun (R-TF-5). A machine that does not answer is no reason
//! to take it from the operator's hands: that is shown, and the test waits.

use std::{collections::BTreeMap, net::IpAddr};

use understudy_ids::{HostName, PointChoice, StepName};
use understudy_netplan::{ExistingNetwork, ProbePort};

use super::{
    Phase, PlanInput, PlannedTestNetwork, RunSpec, Stage, Step,
    draft::{self, Subject, step_name, uses_connections},
};
use crate::action::{
    AgentWork, DhcpReservation, ExistingNetworkProbe, MachineRef, NetworkRef, OperatorWait, PointRef,
    ReservedTestNetwork,
};

pub(super) fn steps(spec: &RunSpec, input: &PlanInput, items: &[Subject<'_>]) -> Vec<Step> {
    let connected = uses_connections(spec);
    let networks = if connected { networks(input, items) } else { Vec::new() };
    let ports = if connected { ports(input, items) } else { Vec::new() };
    let mut steps = Vec::new();
    // On a network that was there before, others hold addresses too.
    let on_own = input.connections.existing.is_none();
    let reserve = if connected { draft::reserve(input, on_own, reserved(input, &networks)) } else { None };
    let reserved: Vec<StepName> = reserve.iter().map(|step| step.id.clone()).collect();
    steps.extend(reserve);

    let mut isolated = reserved.clone();
    for network in &networks {
        let ensure = network.ensure().after(reserved.clone());
        let probe = network.probe().after([ensure.id.clone()]);
        isolated.push(probe.id.clone());
        steps.extend([ensure, probe]);
    }
    for port in &ports {
        let probe = port.probe().after(reserved.clone());
        isolated.push(probe.id.clone());
        steps.push(probe);
    }

    let mut ready = Vec::new();
    for item in items {
        let machine = machine_steps(spec, input, item, &isolated);
        ready.extend(machine.iter().map(|step| step.id.clone()));
        steps.extend(machine);
    }
    let title = "Wait until the test is completed";
    let wait = draft::wait_for(step_name("complete-test"), title, OperatorWait::CompleteTest);
    steps.push(wait.after(ready));
    let named: Vec<&Subject<'_>> =
        items.iter().filter(|item| steps.iter().any(|step| step.id == item.id("set-records"))).collect();
    steps.extend(clean_up(items, &named, &networks, &ports, reserved.first()));
    steps
}

fn machine_steps(spec: &RunSpec, input: &PlanInput, item: &Subject<'_>, isolated: &[StepName]) -> Vec<Step> {
    let generation = item.view.generation;
    let name = MachineRef::Test(item.view.machine.name.clone());
    let nics = if uses_connections(spec) {
        item.networks(input)
    } else {
        vec![NetworkRef::Unconnected; item.view.machine.nics.len()]
    };
    let point = match spec.points.get(item.name()) {
        None if item.view.common_point.is_none() => PointRef::Latest,
        Some(PointChoice::Seq(seq)) if spec.instant.is_none() => PointRef::Seq(*seq),
        // A newer one that comes between preview and start is no other plan.
        None | Some(_) => PointRef::Announced,
    };
    let create = AgentWork::CreateTestMachine { point, name: name.clone(), nics };
    let create = item
        .agent("create-machine", item.target, generation, Phase::Start, create)
        .after(isolated.iter().cloned());
    let start = AgentWork::StartMachine { machine: name.clone() };
    let start = item.agent("start", item.target, generation, Phase::Start, start).after([create.id.clone()]);
    let proof = item.proof(spec, input, generation, &name, &start);
    let routing = item.route(spec, input, &proof.last().unwrap_or(&start).id);
    [create, start].into_iter().chain(proof).chain(routing).collect()
}

fn clean_up(
    items: &[Subject<'_>],
    named: &[&Subject<'_>],
    networks: &[HostNetwork<'_>],
    ports: &[Port<'_>],
    reserve: Option<&StepName>,
) -> Vec<Step> {
    let mut steps: Vec<Step> = items
        .iter()
        .map(|item| {
            let machine = MachineRef::Test(item.view.machine.name.clone());
            let remove = AgentWork::RemoveTestMachine { machine };
            item.agent("remove-machine", item.target, item.view.generation, Phase::CleanUp, remove)
                .cleans_up(Stage::Cleanup, [item.id("create-machine")])
        })
        .collect();
    let machines: Vec<StepName> = steps.iter().map(|step| step.id.clone()).collect();
    let removes = networks.iter().map(HostNetwork::remove).chain(ports.iter().map(Port::remove));
    steps.extend(removes.map(|step| step.after(machines.clone())));
    steps.extend(named.iter().map(|item| {
        let restore = item.restore_records("restore-records", Phase::CleanUp);
        restore.cleans_up(Stage::Cleanup, [item.id("set-records")])
    }));
    let all: Vec<StepName> = steps.iter().map(|step| step.id.clone()).collect();
    steps.extend(reserve.map(|reserve| draft::release(reserve, all)));
    steps
}

/// A test network on one host that needs it. Its steps are sent in the name of the first item that uses it.
struct HostNetwork<'a> {
    index: u32,
    host: &'a HostName,
    /// Tells hosts apart in step names.
    host_index: usize,
    network: &'a PlannedTestNetwork,
    item: &'a Subject<'a>,
    reservations: Vec<DhcpReservation>,
}

fn networks<'a>(input: &'a PlanInput, items: &'a [Subject<'a>]) -> Vec<HostNetwork<'a>> {
    let mut found: BTreeMap<(u32, &HostName), HostNetwork<'a>> = BTreeMap::new();
    let mut hosts: Vec<&HostName> = items.iter().map(|item| item.target).collect();
    hosts.sort();
    hosts.dedup();
    for item in items {
        for nic in item.nics(input) {
            let Some(index) = nic.test_network else { continue };
            let network = usize::try_from(index).ok().and_then(|i| input.connections.test_networks.get(i));
            let Some(network) = network else { continue };
            let host_index = hosts.iter().position(|host| *host == item.target).unwrap_or_default();
            let on_host = found.entry((index, item.target)).or_insert_with(|| HostNetwork {
                index,
                host: item.target,
                host_index,
                network,
                item,
                reservations: Vec::new(),
            });
            if let Some(IpAddr::V4(address)) = nic.address {
                let host_name = item.view.machine.name.to_string();
                on_host.reservations.push(DhcpReservation { mac: nic.mac, address, host_name });
            }
        }
    }
    found.into_values().collect()
}

/// The test networks as they go on record: each once, with all hosts that will have it.
fn reserved(input: &PlanInput, networks: &[HostNetwork<'_>]) -> Vec<ReservedTestNetwork> {
    let all = input.connections.test_networks.iter().zip(0u32..);
    let reserved = all.map(|(network, index)| ReservedTestNetwork {
        name: NetworkRef::Test(index),
        stands_for: network.stands_for.clone(),
        hosts: networks.iter().filter(|n| n.index == index).map(|n| n.host.clone()).collect(),
    });
    reserved.filter(|network| !network.hosts.is_empty()).collect()
}

impl HostNetwork<'_> {
    fn step(&self, what: &str, phase: Phase, work: AgentWork) -> Step {
        let step = self.item.agent(what, self.host, self.item.view.generation, phase, work);
        let id = step_name(&format!("{what}-{}-{}", self.index, self.host_index));
        let title = format!("{} standing for {}", step.title, self.network.stands_for);
        Step { id, item: None, title, ..step }
    }

    fn ensure(&self) -> Step {
        let work = AgentWork::EnsureTestNetwork {
            name: NetworkRef::Test(self.index),
            gateway: self.network.gateway,
            prefix_len: self.network.prefix_len,
            reservations: self.reservations.clone(),
        };
        self.step("make-network", Phase::Prepare, work)
    }

    fn probe(&self) -> Step {
        let targets = self.network.isolation_targets.clone();
        let work = AgentWork::ProbeIsolation { network: NetworkRef::Test(self.index), targets };
        self.step("prove-isolation", Phase::Prepare, work)
    }

    fn remove(&self) -> Step {
        let work = AgentWork::RemoveTestNetwork { name: NetworkRef::Test(self.index) };
        let step = self.step("remove-network", Phase::CleanUp, work);
        let ensure = step_name(&format!("make-network-{}-{}", self.index, self.host_index));
        step.cleans_up(Stage::Cleanup, [ensure])
    }
}

/// What a host has on an existing network for as long as the test runs. Its steps are sent in the name of the first item there.
struct Port<'a> {
    network: &'a ExistingNetwork,
    port: &'a ProbePort,
    /// Tells hosts apart in step names.
    index: usize,
    item: &'a Subject<'a>,
    planned: Vec<IpAddr>,
}

fn ports<'a>(input: &'a PlanInput, items: &'a [Subject<'a>]) -> Vec<Port<'a>> {
    let Some(network) = &input.connections.existing else { return Vec::new() };
    // The machines may be started in any order, so each host looks for the addresses of all.
    let planned: Vec<IpAddr> = input.connections.nics.iter().filter_map(|nic| nic.address).collect();
    let ports = network.probe_ports.iter().enumerate().filter_map(|(index, port)| {
        let item = items.iter().find(|item| *item.target == port.host)?;
        Some(Port { network, port, index, item, planned: planned.clone() })
    });
    ports.collect()
}

impl Port<'_> {
    fn step(&self, what: &str, phase: Phase, work: AgentWork) -> Step {
        let step = self.item.agent(what, &self.port.host, self.item.view.generation, phase, work);
        Step { id: step_name(&format!("{what}-{}", self.index)), item: None, ..step }
    }

    fn probe(&self) -> Step {
        let ExistingNetwork { hypervisor_network, prefix_len, gateway, isolation_targets, .. } = self.network;
        let probe = ExistingNetworkProbe {
            network: hypervisor_network.clone(),
            mac: self.port.mac,
            address: self.port.address,
            prefix_len: *prefix_len,
            gateway: *gateway,
            targets: isolation_targets.iter().copied().map(IpAddr::V4).collect(),
            planned: self.planned.clone(),
        };
        self.step("prove-isolation", Phase::Prepare, AgentWork::ProbeExistingNetwork(Box::new(probe)))
    }

    fn remove(&self) -> Step {
        let work = AgentWork::RemoveProbePort { network: self.network.hypervisor_network.clone() };
        let step = self.step("remove-port", Phase::CleanUp, work);
        step.cleans_up(Stage::Cleanup, [step_name(&format!("prove-isolation-{}", self.index))])
    }
}
