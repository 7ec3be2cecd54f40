//! DHCP and DNS of a test network: one dnsmasq in the services namespace.
//!
//! DHCP answers only the Ethernet addresses of the reservations, so that a machine has inside the test the address that
//! the plan says or none. DNS knows the reservations' names and forwards nothing.

use std::{
    collections::BTreeSet,
    fmt::Write,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use super::{
    super::{command, process},
    Namespace, SERVICES_INTERFACE,
};
use crate::{Error, TestNetworkDefinition};

const PROGRAM: &str = "dnsmasq";

/// An error listing everything that is wrong with a definition.
pub fn check(definition: &TestNetworkDefinition) -> Result<(), Error> {
    let mut wrong = Vec::new();
    if !(8..=30).contains(&definition.prefix_len) {
        wrong.push(format!("its prefix length {} is not between 8 and 30", definition.prefix_len));
    }
    let mut addresses = BTreeSet::from([definition.gateway]);
    let mut macs = BTreeSet::new();
    for reservation in &definition.reservations {
        let address = reservation.address;
        if network_of(address, definition.prefix_len) != network_of(definition.gateway, definition.prefix_len)
        {
            wrong.push(format!(
                "{address} is not in the subnet of {}/{}",
                definition.gateway, definition.prefix_len
            ));
        }
        if !addresses.insert(address) {
            wrong.push(format!("{address} is given twice"));
        }
        if !macs.insert(reservation.mac) {
            wrong.push(format!("{} has two addresses", reservation.mac));
        }
        if !is_host_name(&reservation.host_name) {
            wrong.push(format!(
                "{:?} is not a host name",
                reservation.host_name.chars().take(80).collect::<String>()
            ));
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Error::Failed { what: format!("making test network {}", definition.name), why: wrong.join("; ") })
}

fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

fn network_of(address: Ipv4Addr, prefix_len: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(address.to_bits() & mask(prefix_len).to_bits())
}

fn mask(prefix_len: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(prefix_len.min(32))).unwrap_or(0))
}

/// dnsmasq runs with exactly this definition.
pub async fn ensure(
    definition: &TestNetworkDefinition,
    namespace: &Namespace,
    dir: &Path,
) -> Result<(), Error> {
    let what = format!("the services of test network {}", definition.name);
    let failed = |error: std::io::Error| Error::Failed { what: what.clone(), why: error.to_string() };
    tokio::fs::create_dir_all(dir).await.map_err(failed)?;
    let wanted = configuration(definition, dir);
    let file = dir.join("dnsmasq.conf");
    let present = tokio::fs::read_to_string(&file).await.unwrap_or_default();
    let running = process::running(&pid_file(dir), PROGRAM).await.map_err(failed)?;
    if running.is_some() && present == wanted {
        return Ok(());
    }
    process::end(&pid_file(dir), PROGRAM).await.map_err(failed)?;
    tokio::fs::write(&file, &wanted).await.map_err(failed)?;
    let configuration = format!("--conf-file={}", file.display());
    // It goes into the background by itself when its sockets are open.
    command::run("ip", &["netns", "exec", namespace.name(), PROGRAM, &configuration]).await.map(drop)
}

/// dnsmasq does not run and its files are gone.
pub async fn remove(dir: &Path) -> Result<(), Error> {
    let what = format!("removing {}", dir.display());
    let failed = |error: std::io::Error| Error::Failed { what: what.clone(), why: error.to_string() };
    process::end(&pid_file(dir), PROGRAM).await.map_err(failed)?;
    match tokio::fs::remove_dir_all(dir).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(error)),
        _ => Ok(()),
    }
}

fn pid_file(dir: &Path) -> PathBuf {
    dir.join("dnsmasq.pid")
}

fn configuration(definition: &TestNetworkDefinition, dir: &Path) -> String {
    let subnet = network_of(definition.gateway, definition.prefix_len);
    let mut text = format!(
        "port=53\nno-resolv\nlocal=/#/\nno-poll\nno-hosts\nuser=root\ngroup=root\nbind-interfaces\ninterface={SERVICES_INTERFACE}\n\
         except-interface=lo\ndhcp-authoritative\ndhcp-range={subnet},static,{mask},1h\n\
         dhcp-option=option:router,{gateway}\ndhcp-option=option:dns-server,{gateway}\n\
         dhcp-leasefile={leases}\npid-file={pid}\n",
        mask = mask(definition.prefix_len),
        gateway = definition.gateway,
        leases = dir.join("dnsmasq.leases").display(),
        pid = pid_file(dir).display(),
    );
    for reservation in &definition.reservations {
        let (mac, address, name) = (reservation.mac, reservation.address, &reservation.host_name);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "dhcp-host={mac},{address},{name}\nhost-record={name},{address}");
    }
    text
}

#[cfg(test)]
mod tests {
    use understudy_ids::Uuid;

    use super::*;
    use crate::Reservation;

    fn definition(reservations: &[(&str, &str, &str)]) -> TestNetworkDefinition {
        let reservation = |&(mac, address, name): &(&str, &str, &str)| Reservation {
            mac: mac.parse().unwrap(),
            address: address.parse().unwrap(),
            host_name: name.to_owned(),
        };
        TestNetworkDefinition {
            name: "t".parse().unwrap(),
            run: Uuid::from_u128(1),
            gateway: "10.7.3.1".parse().unwrap(),
            prefix_len: 24,
            reservations: reservations.iter().map(reservation).collect(),
        }
    }

    /// R-NET-11, and nothing of a definition can add lines to the configuration.
    #[test]
    fn everything_wrong_with_a_definition_is_named_at_once() {
        let good = ("52:54:00:00:00:01", "10.7.3.9", "web1.shop");
        check(&definition(&[good])).unwrap();
        let bad = definition(&[
            good,
            ("52:54:00:00:00:01", "10.7.3.1", "a\ndhcp-script=/x"),
            ("52:54:00:00:00:02", "10.8.3.9", "-x"),
        ]);
        let error = check(&bad).unwrap_err().to_string();
        for part in
            ["10.7.3.1 is given twice", "has two addresses", "dhcp-script", "10.8.3.9 is not in", "\"-x\""]
        {
            assert!(error.contains(part), "{part:?} is not in {error}");
        }
    }

    #[test]
    fn the_configuration_gives_out_nothing_but_the_reservations() {
        let text = configuration(&definition(&[("52:54:00:00:00:01", "10.7.3.9", "web1")]), Path::new("/d"));
        assert!(text.contains("dhcp-range=10.7.3.0,static,255.255.255.0,1h\n"), "{text}");
        assert!(
            text.contains("dhcp-host=52:54:00:00:00:01,10.7.3.9,web1\nhost-record=web1,10.7.3.9\n"),
            "{text}"
        );
        assert!(text.contains("no-resolv\n"), "{text}");
    }
}
