//! A port of one run on a network that we did not make (R-TF-2): from there production is looked for before the test, and the test's
//! machines are asked.
//!
//! ```text
//!   host's network namespace                   │ the port's namespace (understudy-up-…)
//!                                              │
//!   network's own bridge ── up-… ═══ veth ═════╪═══ svc0: an address that the run holds
//!     (whatever else is on it)                 │      (no other interface, no forwarding)
//! ```
//!
//! Its names follow from the network's and the run's, so that it is found again after a crash, and removal needs no record. Nothing of the
//! network itself is changed.

use std::{net::IpAddr, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval};
use understudy_ids::{NetworkName, Uuid};

use super::{
    super::{LibvirtHypervisor, command, session::failed, tag, xml::Element},
    Namespace, SERVICES_INTERFACE, arp, link_exists, plug,
    probe::{self, PATIENCE},
    short,
};
use crate::{Error, ExistingNetworkProbe, IsolationEvidence};

/// A bridge with spanning tree listens and learns before it forwards, each for 30 s at most.
const FORWARDING_LIMIT: Duration = Duration::from_secs(65);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Names of what a port consists of.
struct PortParts {
    /// The end of the veth pair that is a port of the network's bridge.
    link: String,
    namespace: Namespace,
}

impl LibvirtHypervisor {
    fn port_parts(&self, network: &NetworkName, run: Uuid) -> PortParts {
        let id = short(format!("{network} {run}").as_bytes(), 12);
        let host = short(self.config.state_dir.as_os_str().as_encoded_bytes(), 8);
        PortParts {
            link: format!("up-{id}"),
            namespace: Namespace::new(format!("understudy-up-{id}-{host}")),
        }
    }

    pub(in super::super) async fn prove_existing(
        &self,
        asked: &ExistingNetworkProbe,
    ) -> Result<IsolationEvidence, Error> {
        let ExistingNetworkProbe { network, run, mac, address, prefix_len, gateway, targets, planned } =
            asked;
        probe::check_count(network, targets)?;
        let bridge = self.bridge_of(network).await?;
        let PortParts { link, namespace } = self.port_parts(network, *run);
        namespace.ensure().await?;
        plug(&link, &namespace, &bridge).await?;
        let place = ["link", "set", SERVICES_INTERFACE, "address", &mac.to_string(), "up"];
        command::run("ip", &[&["-n", namespace.name()][..], &place].concat()).await?;
        forwards(network, &link).await?;

        let own = IpAddr::V4(*address);
        let in_use = in_use(&namespace, planned.iter().copied().chain([own]).collect()).await?;
        if let Some(address) = in_use {
            return Err(Error::Conflict {
                what: format!("address {address} on network {network}"),
                why: "somebody there answers for it".to_owned(),
            });
        }
        let own = format!("{address}/{prefix_len}");
        let give = ["address", "replace", &own, "dev", SERVICES_INTERFACE];
        command::run("ip", &[&["-n", namespace.name()][..], &give].concat()).await?;
        let mut answered = probe::answering(&namespace, targets, None).await?;
        if gateway.is_some() {
            answered.extend(probe::answering(&namespace, targets, *gateway).await?);
        }
        let routed = gateway.map(|gateway| format!(", then through {gateway}")).unwrap_or_default();
        let method = format!(
            "from {own} on network {network} (port {link} of bridge {bridge}, namespace {}), with a route onto the segment for each \
             target{routed}: {}",
            namespace.name(),
            probe::method(),
        );
        Ok(IsolationEvidence {
            ports: vec![format!("{link}: port of the run, {own}")],
            tried: targets.clone(),
            answered: targets.iter().copied().filter(|target| answered.contains(target)).collect(),
            method,
        })
    }

    pub(in super::super) async fn remove_port(&self, network: &NetworkName, run: Uuid) -> Result<(), Error> {
        let PortParts { link, namespace } = self.port_parts(network, run);
        if link_exists(&link).await? {
            command::run("ip", &["link", "delete", &link]).await?;
        }
        namespace.remove().await
    }

    /// From where machines of the run on the network are reached, when it has a port there.
    pub(super) async fn port_of(&self, network: &NetworkName, run: Uuid) -> Result<Option<Namespace>, Error> {
        let PortParts { link, namespace } = self.port_parts(network, run);
        Ok(link_exists(&link).await?.then_some(namespace))
    }

    /// The Linux bridge that the network is. Of a network of another kind nothing can be proven from this host.
    async fn bridge_of(&self, network: &NetworkName) -> Result<String, Error> {
        let network = network.clone();
        let what = format!("looking for the bridge of network {network}");
        self.session
            .call(what.clone(), move |connection| {
                let found = connection.network(network.as_str()).map_err(failed(what.clone()))?;
                let found = found.ok_or_else(|| Error::NotFound { what: format!("network {network}") })?;
                if !found.is_active().map_err(failed(what.clone()))? {
                    return Err(Error::WrongState { what, why: "the network is not active".to_owned() });
                }
                let xml = Element::parse(&found.xml().map_err(failed(what.clone()))?);
                let xml = xml.map_err(|why| Error::Failed { what: what.clone(), why })?;
                if tag::is_test_network(&xml) {
                    let why = "it was made for a test".to_owned();
                    return Err(Error::Conflict { what: format!("network {network}"), why });
                }
                let bridge = xml.attribute_at("bridge", "name").filter(|_| xml.find("virtualport").is_none());
                bridge.map(str::to_owned).ok_or_else(|| Error::Conflict {
                    what: format!("network {network}"),
                    why: "it is no Linux bridge, so its isolation cannot be proven from here".to_owned(),
                })
            })
            .await
    }
}

/// Waits until the bridge passes on what comes in at the port: before that nothing would answer, and it would look like isolation.
async fn forwards(network: &NetworkName, link: &str) -> Result<(), Error> {
    let deadline = Instant::now() + FORWARDING_LIMIT;
    let mut tick = interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let shown = command::run("ip", &["-d", "-o", "link", "show", "dev", link]).await?;
        if shown.contains(" bridge_slave state forwarding ") {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let why = format!("port {link} does not forward after {} s", FORWARDING_LIMIT.as_secs());
            return Err(Error::Failed { what: format!("looking into network {network}"), why });
        }
    }
}

/// One of the addresses that somebody else has, if any is taken (RFC 5227).
async fn in_use(namespace: &Namespace, addresses: Vec<IpAddr>) -> Result<Option<IpAddr>, Error> {
    let (index, mac) = probe::interface(namespace).await?;
    let asked = addresses.into_iter().filter_map(|address| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    let asked: Vec<_> = asked.collect();
    let answered = namespace.run(move || arp::probe(index, mac, &asked, PATIENCE)).await?;
    Ok(answered.into_iter().next().map(IpAddr::V4))
}
