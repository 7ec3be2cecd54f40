//! Isolated networks for test failovers (R-NET-9, R-NET-11).
//!
//! ```text
//!   host's network namespace                         │ services namespace (understudy-ut-…)
//!                                                    │
//!   machine ── tap ─┐                                │
//!                   ├─ bridge ut-… ── us-… ═══ veth ═══ svc0: the gateway's address, dnsmasq
//!   machine ── tap ─┘  (no address, no uplink)       │        (no other interface, no forwarding)
//! ```
//!
//! The bridge is a libvirt network without an address and without forwarding, so the host itself is not on the segment and
//! the addresses inside may be the very ones that production uses. Everything has a name that follows from the network's,
//! so each step is found done after a crash, and removal needs no record. The libvirt network carries the mark of what it
//! is; it is made first and removed last, so whatever exists can be listed.

mod arp;
mod namespace;
mod port;
mod probe;
mod services;

use std::path::PathBuf;

use understudy_ids::{MachineName, NetworkName, Uuid};

use super::{
    LibvirtHypervisor, command, describe, ffi::Connection, machines::look_up, session::failed, tag,
    xml::Element,
};
use crate::{Error, TagRole, TestNetworkDefinition};
pub(super) use namespace::{Namespace, ping_arguments};

/// Names of what a test network consists of.
#[derive(Debug, Clone)]
struct Parts {
    bridge: String,
    /// The end of the veth pair that is a port of the bridge.
    port: String,
    namespace: Namespace,
    /// Configuration, leases and pid file of dnsmasq.
    dir: PathBuf,
}

/// The end of the veth pair inside the services namespace.
const SERVICES_INTERFACE: &str = "svc0";

/// A network as libvirt lists it.
pub struct Listed {
    pub name: NetworkName,
    pub is_test: bool,
}

/// All networks of this host whose names Understudy can use.
pub fn listed(connection: &Connection) -> Result<Vec<Listed>, Error> {
    let what = "the networks of this host";
    let mut listed = Vec::new();
    for network in connection.networks().map_err(failed(what))? {
        let xml = match network.xml() {
            Err(error) if error.is_missing() => continue,
            xml => xml.map_err(failed(what))?,
        };
        let xml = Element::parse(&xml).map_err(|why| Error::Failed { what: what.to_owned(), why })?;
        if let Some(name) = xml.text_at("name").and_then(|name| name.parse().ok()) {
            listed.push(Listed { name, is_test: tag::is_test_network(&xml) });
        }
    }
    listed.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(listed)
}

/// Digits that stand for a text.
fn short(text: &[u8], digits: usize) -> String {
    let hash = Uuid::new_v5(&Uuid::NAMESPACE_OID, text).simple().to_string();
    hash[..digits].to_owned()
}

impl LibvirtHypervisor {
    /// The namespaces of all hosts of a lab are in one directory, so the state directory, which is one host's, is part
    /// of the name.
    fn parts(&self, name: &NetworkName) -> Parts {
        let id = short(name.as_str().as_bytes(), 12);
        let host = short(self.config.state_dir.as_os_str().as_encoded_bytes(), 8);
        Parts {
            bridge: format!("ut-{id}"),
            port: format!("us-{id}"),
            namespace: Namespace::new(format!("understudy-ut-{id}-{host}")),
            dir: self.config.state_dir.join("test-networks").join(name.as_str()),
        }
    }

    pub(super) async fn make_test_network(&self, definition: &TestNetworkDefinition) -> Result<(), Error> {
        services::check(definition)?;
        let parts = self.parts(&definition.name);
        self.make_bridge(definition, &parts).await?;
        parts.namespace.ensure().await?;
        connect_services(definition, &parts).await?;
        services::ensure(definition, &parts.namespace, &parts.dir).await
    }

    async fn make_bridge(&self, definition: &TestNetworkDefinition, parts: &Parts) -> Result<(), Error> {
        let (name, run) = (definition.name.clone(), definition.run);
        let xml = bridge_xml(definition, parts);
        let what = format!("making test network {name}");
        self.session
            .call(what.clone(), move |connection| {
                let network = match connection.network(name.as_str()).map_err(failed(what.clone()))? {
                    Some(network) => {
                        let present = Element::parse(&network.xml().map_err(failed(what.clone()))?);
                        let present = present.map_err(|why| Error::Failed { what: what.clone(), why })?;
                        if tag::network_run(&present) != Some(run) {
                            let why = "a network of that name was not made for this run".to_owned();
                            return Err(Error::Conflict { what: format!("network {name}"), why });
                        }
                        network
                    }
                    None => connection.define_network(&xml).map_err(failed(what.clone()))?,
                };
                if network.is_active().map_err(failed(what.clone()))? {
                    return Ok(());
                }
                network.start().map_err(failed(what))
            })
            .await
    }

    pub(super) async fn unmake_test_network(&self, name: &NetworkName) -> Result<(), Error> {
        let parts = self.parts(name);
        self.check_unused(name).await?;
        services::remove(&parts.dir).await?;
        if link_exists(&parts.port).await? {
            command::run("ip", &["link", "delete", &parts.port]).await?;
        }
        parts.namespace.remove().await?;
        let name = name.clone();
        let what = format!("removing test network {name}");
        self.session
            .call(what.clone(), move |connection| {
                let Some(network) = connection.network(name.as_str()).map_err(failed(what.clone()))? else {
                    return Ok(());
                };
                if network.is_active().map_err(failed(what.clone()))? {
                    network.stop().map_err(failed(what.clone()))?;
                }
                network.undefine().map_err(failed(what))
            })
            .await
    }

    /// An error when the network is none of ours, or when a machine, running or not, has a NIC on it.
    async fn check_unused(&self, name: &NetworkName) -> Result<(), Error> {
        let name = name.clone();
        let what = format!("removing test network {name}");
        self.session
            .call(what.clone(), move |connection| {
                if let Some(network) = connection.network(name.as_str()).map_err(failed(what.clone()))? {
                    let xml = Element::parse(&network.xml().map_err(failed(what.clone()))?);
                    if !xml.is_ok_and(|xml| tag::is_test_network(&xml)) {
                        let why = "it is not a test network".to_owned();
                        return Err(Error::Conflict { what: format!("network {name}"), why });
                    }
                }
                for domain in connection.domains().map_err(failed(what.clone()))? {
                    let description = describe::description(&domain, false)?;
                    let mut nics =
                        description.find("devices").into_iter().flat_map(|devices| devices.all("interface"));
                    if nics.any(|nic| nic.attribute_at("source", "network") == Some(name.as_str())) {
                        let why = format!("machine {} is connected to it", domain.name());
                        return Err(Error::WrongState { what, why });
                    }
                }
                Ok(())
            })
            .await
    }

    pub(super) async fn list_test_networks(&self) -> Result<Vec<NetworkName>, Error> {
        let listed = self.session.call("the networks of this host", listed).await?;
        Ok(listed.into_iter().filter(|network| network.is_test).map(|network| network.name).collect())
    }

    /// From where the machine is reached on the network; nothing where this host reaches it by itself.
    pub(super) async fn inside(
        &self,
        network: &NetworkName,
        machine: &MachineName,
    ) -> Result<Option<Namespace>, Error> {
        if self.list_test_networks().await?.contains(network) {
            return Ok(Some(self.parts(network).namespace));
        }
        match self.test_run_of(machine).await? {
            Some(run) => self.port_of(network, run).await,
            None => Ok(None),
        }
    }

    /// The run that the machine was made for, when it is one of a test.
    async fn test_run_of(&self, machine: &MachineName) -> Result<Option<Uuid>, Error> {
        let machine = machine.clone();
        let what = format!("machine {machine}");
        self.session
            .call(what.clone(), move |connection| {
                let description = describe::description(&look_up(connection, &machine)?, false)?;
                let tag = tag::read_machine(&description).map_err(|why| Error::Failed { what, why })?;
                Ok(tag.and_then(|tag| match tag.role {
                    TagRole::Test { run } => Some(run),
                    TagRole::Active => None,
                }))
            })
            .await
    }

    pub(super) fn jump_command(&self, name: &NetworkName) -> String {
        format!("ip netns exec {}", self.parts(name).namespace.name())
    }
}

/// No `forward` and no `ip` element: libvirt makes a bridge with neither an uplink nor an address, and runs nothing on it.
fn bridge_xml(definition: &TestNetworkDefinition, parts: &Parts) -> String {
    Element::new("network")
        .child(Element::new("name").text(definition.name.as_str()))
        .child(Element::new("metadata").child(tag::network(definition)))
        .child(
            Element::new("bridge").with("name", parts.bridge.as_str()).with("stp", "off").with("delay", "0"),
        )
        .child(Element::new("dns").with("enable", "no"))
        .write()
}

/// The services namespace is on the bridge, with the gateway's address.
async fn connect_services(definition: &TestNetworkDefinition, parts: &Parts) -> Result<(), Error> {
    plug(&parts.port, &parts.namespace, &parts.bridge).await?;
    let namespace = parts.namespace.name();
    let address = format!("{}/{}", definition.gateway, definition.prefix_len);
    command::run("ip", &["-n", namespace, "address", "replace", &address, "dev", SERVICES_INTERFACE]).await?;
    command::run("ip", &["-n", namespace, "link", "set", SERVICES_INTERFACE, "up"]).await?;
    command::run("ip", &["-n", namespace, "link", "set", "lo", "up"]).await.map(drop)
}

/// A veth pair exists: `port` on the bridge and up, the other end in the namespace.
async fn plug(port: &str, namespace: &Namespace, bridge: &str) -> Result<(), Error> {
    let inside = namespace.has_link(SERVICES_INTERFACE).await?;
    if !inside || !link_exists(port).await? {
        if link_exists(port).await? {
            command::run("ip", &["link", "delete", port]).await?;
        }
        let peer = ["peer", "name", SERVICES_INTERFACE, "netns", namespace.name()];
        command::run("ip", &[&["link", "add", port, "type", "veth"][..], &peer].concat()).await?;
    }
    // The host must not get an address on the segment, not even a link-local one.
    let switch = format!("/proc/sys/net/ipv6/conf/{port}/disable_ipv6");
    if tokio::fs::try_exists(&switch).await.unwrap_or(false) {
        let written = tokio::fs::write(&switch, "1").await;
        written
            .map_err(|error| Error::Failed { what: format!("writing {switch}"), why: error.to_string() })?;
    }
    // With checksums left to hardware that does not exist, guests on emulated cards drop what they are sent.
    command::run("ethtool", &["-K", port, "tx", "off"]).await?;
    let inside = ["netns", "exec", namespace.name(), "ethtool", "-K", SERVICES_INTERFACE, "tx", "off"];
    command::run("ip", &inside).await?;
    command::run("ip", &["link", "set", port, "master", bridge, "up"]).await.map(drop)
}

async fn link_exists(name: &str) -> Result<bool, Error> {
    let (found, _) = command::attempt("ip", &["link", "show", "dev", name], command::LIMIT).await?;
    Ok(found)
}
