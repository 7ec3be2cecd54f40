//! Test networks of a simulated host: who is on them, and what they would answer.

use std::net::IpAddr;

use understudy_ids::{MachineName, NetworkName};
use understudy_probe::{HttpProbe, ProbeKind};

use super::{Config, Host, machine::SimulatedMachine, record};
use crate::{
    Answer, Console, Error, ExistingNetworkProbe, IsolationEvidence, Question, TagRole,
    TestNetworkDefinition, http, screenshot::Picture,
};

/// What every guest serves.
const PAGE: &str = "a simulated guest";

impl Host {
    pub(super) fn ensure_network(
        &mut self,
        definition: &TestNetworkDefinition,
        config: &Config,
    ) -> Result<(), Error> {
        let what = format!("network {}", definition.name);
        let other_run =
            self.test_networks.get(&definition.name).is_some_and(|known| known.run != definition.run);
        if other_run || config.networks.contains(&definition.name) {
            return Err(Error::Conflict {
                what,
                why: "a network of that name was not made for this run".to_owned(),
            });
        }
        self.test_networks.insert(definition.name.clone(), definition.clone());
        record::save_networks(&config.state_dir, &self.test_networks)
    }

    pub(super) fn remove_network(&mut self, name: &NetworkName, config: &Config) -> Result<(), Error> {
        if config.networks.contains(name) {
            let why = "it is not a test network".to_owned();
            return Err(Error::Conflict { what: format!("network {name}"), why });
        }
        if let Some(machine) = self.machines.values().find(|machine| is_on(machine, name)) {
            let why = format!("machine {} is connected to it", machine.record.name);
            return Err(Error::WrongState { what: format!("removing test network {name}"), why });
        }
        self.test_networks.remove(name);
        record::save_networks(&config.state_dir, &self.test_networks)
    }

    pub(super) fn prove_isolation(
        &self,
        name: &NetworkName,
        targets: &[IpAddr],
    ) -> Result<IsolationEvidence, Error> {
        let network = self.test_networks.get(name);
        let network = network.ok_or_else(|| Error::NotFound { what: format!("network {name}") })?;
        let mut ports = vec!["services".to_owned()];
        for machine in self.machines.values().filter(|machine| machine.is_running() && is_on(machine, name)) {
            let role = machine.record.tag.as_ref().map(|tag| &tag.role);
            if role != Some(&TagRole::Test { run: network.run }) {
                let why = format!("it is not isolated: machine {} is not of this run", machine.record.name);
                return Err(Error::WrongState { what: format!("test network {name}"), why });
            }
            ports.push(format!("machine {}", machine.record.name));
        }
        let answered = targets.iter().copied().filter(|target| self.machine_answers(name, *target)).collect();
        let method = "simulated: machines on the network that have the address".to_owned();
        Ok(IsolationEvidence { ports, tried: targets.to_vec(), answered, method })
    }

    pub(super) fn probe_existing(
        &self,
        probe: &ExistingNetworkProbe,
        config: &Config,
    ) -> Result<IsolationEvidence, Error> {
        let network = &probe.network;
        if !config.networks.contains(network) {
            return Err(Error::NotFound { what: format!("network {network}") });
        }
        let held = probe.planned.iter().copied().chain([probe.address.into()]);
        if let Some(address) = held.into_iter().find(|address| self.machine_answers(network, *address)) {
            return Err(Error::Conflict {
                what: format!("address {address} on network {network}"),
                why: "somebody there answers for it".to_owned(),
            });
        }
        let answered =
            probe.targets.iter().copied().filter(|target| self.machine_answers(network, *target)).collect();
        let ports = vec![format!("port of the run, {}/{}", probe.address, probe.prefix_len)];
        let method = "simulated: machines on the network that have the address".to_owned();
        Ok(IsolationEvidence { ports, tried: probe.targets.clone(), answered, method })
    }

    /// Guests answer everything that they can be reached for, with one page for every path.
    pub(super) fn answer(&self, question: &Question, config: &Config) -> Answer {
        let Question { machine, at, kind } = question;
        let reached = match at {
            Some((network, address)) => self.answers(network, *address),
            None => self.machines.get(machine).is_some_and(SimulatedMachine::is_running),
        };
        match kind {
            _ if !reached => Answer::no("no answer"),
            ProbeKind::GuestAgent | ProbeKind::Ping => Answer::yes(""),
            ProbeKind::Tcp { port } | ProbeKind::Http(HttpProbe { port, .. })
                if config.closed_ports.contains(port) =>
            {
                Answer::no("connection refused")
            }
            ProbeKind::Tcp { .. } => Answer::yes("connected"),
            ProbeKind::Http(http) => http::judge(200, PAGE.as_bytes(), http),
        }
    }

    /// Whether a running machine, or the network's own services, have the address.
    pub(super) fn answers(&self, name: &NetworkName, address: IpAddr) -> bool {
        let services =
            self.test_networks.get(name).is_some_and(|network| IpAddr::V4(network.gateway) == address);
        services || self.machine_answers(name, address)
    }

    /// Two colours, of a size that depends on nothing.
    pub(super) fn screenshot(&self, name: &MachineName) -> Result<Console, Error> {
        let what = || Error::NotFound { what: format!("machine {name}") };
        let machine = self.machines.get(name).ok_or_else(what)?;
        if !machine.is_running() {
            return Ok(Console::Dark("the machine does not run".to_owned()));
        }
        if machine.record.hardware.video.is_none() {
            return Ok(Console::Dark("the machine has no display".to_owned()));
        }
        let pixels =
            (0..64 * 48).flat_map(|n| if n % 64 < 32 { [0, 0, 0] } else { [255, 255, 255] }).collect();
        Ok(Console::of(Picture { width: 64, height: 48, pixels }))
    }

    fn machine_answers(&self, name: &NetworkName, address: IpAddr) -> bool {
        let running = self.machines.values().filter(|machine| machine.is_running());
        let mut nics = running.flat_map(|machine| self.describe(machine).hardware.nics);
        nics.any(|nic| nic.network.as_ref() == Some(name) && nic.addresses.contains(&address))
    }
}

fn is_on(machine: &SimulatedMachine, name: &NetworkName) -> bool {
    machine.record.hardware.nics.iter().any(|nic| nic.network.as_ref() == Some(name))
}
