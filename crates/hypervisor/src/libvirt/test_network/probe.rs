//! Proof of isolation (R-TF-9).

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use understudy_ids::{MacAddress, NetworkName, Uuid};

use super::{
    super::{LibvirtHypervisor, command, describe, session::failed, tag, xml::Element},
    Namespace, Parts, SERVICES_INTERFACE, arp,
};
use crate::{Error, IsolationEvidence, TagRole};

/// How long one target has to answer one kind of probe.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// Ports that a machine in production is likely to have open.
const PORTS: [u16; 3] = [22, 80, 443];
const MAX_TARGETS: usize = 256;

impl LibvirtHypervisor {
    pub(in super::super) async fn prove_isolation(
        &self,
        network: &NetworkName,
        targets: &[IpAddr],
    ) -> Result<IsolationEvidence, Error> {
        check_count(network, targets)?;
        let parts = self.parts(network);
        let ports = self.owned_ports(network, &parts).await?;
        let answered = answering(&parts.namespace, targets, None).await?;
        let method = format!(
            "every port of bridge {} is known; from namespace {}, with a route into the segment for each target: {}",
            parts.bridge,
            parts.namespace.name(),
            method(),
        );
        Ok(IsolationEvidence {
            ports,
            tried: targets.to_vec(),
            answered: targets.iter().copied().filter(|target| answered.contains(target)).collect(),
            method,
        })
    }

    /// The bridge's ports with their owners. A port of anybody but this run's machines and the services is an error.
    async fn owned_ports(&self, network: &NetworkName, parts: &Parts) -> Result<Vec<String>, Error> {
        let links = command::run("ip", &["-o", "link", "show", "master", &parts.bridge]).await?;
        let (network, services) = (network.clone(), parts.port.clone());
        let what = format!("the ports of test network {network}");
        self.session
            .call(what.clone(), move |connection| {
                let found = connection.network(network.as_str()).map_err(failed(what.clone()))?;
                let found = found.ok_or_else(|| Error::NotFound { what: format!("network {network}") })?;
                let xml = Element::parse(&found.xml().map_err(failed(what.clone()))?);
                let run = xml.ok().as_ref().and_then(tag::network_run);
                let run = run.ok_or_else(|| Error::Conflict {
                    what: format!("network {network}"),
                    why: "it is not a test network".to_owned(),
                })?;
                let mut owned = vec![(services, "services".to_owned())];
                for domain in connection.domains().map_err(failed(what.clone()))? {
                    owned.extend(taps(&describe::description(&domain, false)?, run));
                }
                let mut ports = Vec::new();
                for port in links.lines().filter_map(link_name) {
                    let owner = owned.iter().find(|(name, _)| *name == port).map(|(_, owner)| owner);
                    let owner = owner.ok_or_else(|| Error::WrongState {
                        what: format!("test network {network}"),
                        why: format!(
                            "it is not isolated: port {port} of its bridge belongs to nothing of this run"
                        ),
                    })?;
                    ports.push(format!("{port}: {owner}"));
                }
                Ok(ports)
            })
            .await
    }
}

/// The taps of a running machine that was made for `run`, with the machine's name.
fn taps(description: &Element, run: Uuid) -> Vec<(String, String)> {
    let of_run =
        tag::read_machine(description).ok().flatten().is_some_and(|tag| tag.role == TagRole::Test { run });
    let devices = description.find("devices").filter(|_| of_run);
    let taps = devices.into_iter().flat_map(|devices| devices.all("interface"));
    let taps = taps.filter_map(|nic| nic.attribute_at("target", "dev"));
    let owner = format!("machine {}", description.text_at("name").unwrap_or_default());
    taps.map(|tap| (tap.to_owned(), owner.clone())).collect()
}

/// `7: us-0123@if2: <BROADCAST,…` → `us-0123`.
fn link_name(line: &str) -> Option<&str> {
    let name = line.split_whitespace().nth(1)?;
    name.trim_end_matches(':').split('@').next()
}

pub(super) fn check_count(network: &NetworkName, targets: &[IpAddr]) -> Result<(), Error> {
    if targets.len() <= MAX_TARGETS {
        return Ok(());
    }
    let why = format!("{} targets are more than {MAX_TARGETS}", targets.len());
    Err(Error::Failed { what: format!("probing network {network}"), why })
}

/// What is tried, in words.
pub(super) fn method() -> String {
    format!("ARP (3 requests), ping, TCP {PORTS:?}, {} s each", PATIENCE.as_secs())
}

/// Those of `targets` that answer as if they were on the segment, or through the gateway where one is given.
pub(super) async fn answering(
    namespace: &Namespace,
    targets: &[IpAddr],
    gateway: Option<Ipv4Addr>,
) -> Result<BTreeSet<IpAddr>, Error> {
    let (index, own) = interface(namespace).await?;
    let local = local_addresses(namespace).await?;
    // An address that this end has itself would answer itself; only ARP can ask whether somebody else has it too.
    let routed: Vec<IpAddr> = targets.iter().copied().filter(|target| !local.contains(target)).collect();
    for target in routed.iter().filter(|target| target.is_ipv4()) {
        let via = gateway.map(|gateway| gateway.to_string());
        let way = via.as_ref().map_or(["scope", "link"], |via| ["via", via]);
        let route = ["route", "replace", &format!("{target}/32"), "dev", SERVICES_INTERFACE];
        command::run("ip", &[&["-n", namespace.name()][..], &route, &way].concat()).await?;
    }
    let answered = probe_all(namespace, index, own, targets, &routed).await;
    for target in routed.iter().filter(|target| target.is_ipv4()) {
        command::run("ip", &["-n", namespace.name(), "route", "delete", &format!("{target}/32")]).await?;
    }
    answered
}

async fn probe_all(
    namespace: &Namespace,
    index: i32,
    own: MacAddress,
    targets: &[IpAddr],
    routed: &[IpAddr],
) -> Result<BTreeSet<IpAddr>, Error> {
    let v4 = |target: &IpAddr| if let IpAddr::V4(address) = target { Some(*address) } else { None };
    let asked: Vec<Ipv4Addr> = targets.iter().filter_map(v4).collect();
    let arp = namespace.run(move || arp::probe(index, own, &asked, PATIENCE));
    let tcp = {
        let routed = routed.to_vec();
        namespace.run(move || Ok(any_port(&routed)))
    };
    let (arp, tcp) = tokio::try_join!(arp, tcp)?;
    let mut answered: BTreeSet<IpAddr> = arp.into_iter().map(IpAddr::V4).chain(tcp).collect();
    let mut pings = tokio::task::JoinSet::new();
    for target in routed.iter().copied() {
        let namespace = namespace.clone();
        pings.spawn(async move { Ok::<_, Error>((target, namespace.ping(target, PATIENCE).await?)) });
    }
    while let Some(ping) = pings.join_next().await {
        let what = || format!("pinging from {}", namespace.name());
        let (target, heard) =
            ping.map_err(|error| Error::Failed { what: what(), why: error.to_string() })??;
        answered.extend(heard.then_some(target));
    }
    Ok(answered)
}

/// Number and Ethernet address of the services' interface, out of `ip -o link`.
pub(super) async fn interface(namespace: &Namespace) -> Result<(i32, MacAddress), Error> {
    let text = command::run("ip", &["-n", namespace.name(), "-o", "link", "show", "dev", SERVICES_INTERFACE])
        .await?;
    let index = text.split(':').next().and_then(|index| index.trim().parse().ok());
    let mut words = text.split_whitespace();
    let mac = words.find(|word| *word == "link/ether").and(words.next()).and_then(|mac| mac.parse().ok());
    index.zip(mac).ok_or_else(|| Error::Failed {
        what: format!("looking at {SERVICES_INTERFACE} in {}", namespace.name()),
        why: format!("ip printed {text:?}"),
    })
}

async fn local_addresses(namespace: &Namespace) -> Result<BTreeSet<IpAddr>, Error> {
    let text = command::run("ip", &["-n", namespace.name(), "-o", "address", "show"]).await?;
    let addresses = text.split_whitespace().filter_map(|word| word.split_once('/'));
    Ok(addresses.filter_map(|(address, _)| address.parse().ok()).collect())
}

/// Those of `targets` that accept or refuse a connection: a refusal is an answer, too.
fn any_port(targets: &[IpAddr]) -> Vec<IpAddr> {
    let answers = |target: IpAddr, port: u16| match TcpStream::connect_timeout(
        &SocketAddr::new(target, port),
        PATIENCE,
    ) {
        Ok(_) => true,
        Err(error) => {
            matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset)
        }
    };
    std::thread::scope(|scope| {
        // Threads made here are inside the namespace as well.
        let probe = |target: IpAddr| scope.spawn(move || PORTS.iter().any(|port| answers(target, *port)));
        let probes: Vec<_> = targets.iter().map(|target| (*target, probe(*target))).collect();
        // A probe that panicked has not shown that nobody answers.
        let heard =
            probes.into_iter().filter_map(|(target, probe)| probe.join().unwrap_or(true).then_some(target));
        heard.collect()
    })
}
