//! Whether the machines of a run may be connected where network-mapper would connect them (R-TF-2, R-NET-7).
//!
//! ```text
//!   what was chosen ─▶ possible at that kind of site? production only with a reason, and a reason only for production
//!   a subnet whose addresses are retained ─▶ does all of it go? refused, or by choice a notice
//!   each named network ─▶ does the host have it? told that it has not: refused; not told: a notice (invariant 16)
//! ```

use std::collections::BTreeSet;

use understudy_ids::{HostName, ItemName, NetworkName, Problem};

use super::{
    Operation, PlanInput, RunSpec,
    check::{host_subject, subject},
    draft::{ends, uses_connections},
};
use crate::test_network::{TestNetwork, choices};

const MAX_REASON_BYTES: usize = 4096;

pub(super) fn problems(spec: &RunSpec, input: &PlanInput) -> Vec<Problem> {
    let mut found: Vec<Problem> = reason(spec).into_iter().collect();
    found.extend(choice(spec, input));
    found.extend(production(spec, input));
    if !spec.allow_partial_subnet {
        found.extend(split(spec, input).map(|(subject, message)| {
            let remedy = "Take those along, or go on with allow_partial_subnet (--allow-partial-subnet) and see to it that both places are reached.";
            Problem::new("PARTIAL_SUBNET", subject, message, remedy)
        }));
    }
    let missing =
        named(spec, input).into_iter().filter(|(host, network)| has(input, host, network) == Some(false));
    found.extend(missing.map(|(host, network)| {
        let message = format!("it has no network {network}, which machines of the run would be connected to");
        let remedy = "Make the network on the host under that name, or correct the VM network's name for it.";
        Problem::new("NETWORK_NOT_ON_HOST", host_subject(&host), message, remedy)
    }));
    found
}

/// What is not known about the networks, and what was overridden.
pub(super) fn notices(spec: &RunSpec, input: &PlanInput) -> Vec<String> {
    let unknown =
        named(spec, input).into_iter().filter(|(host, network)| has(input, host, network).is_none());
    let unknown = unknown.map(|(host, network)| format!("whether {host} has network {network} is not known"));
    let split = split(spec, input).map(|(subject, message)| format!("{subject}: {message}"));
    let left = input.connections.records.iter().filter(|record| record.address.is_none());
    let left = left.map(|record| format!("{} is left as it is: {}", record.name, record.reason));
    let of_networks = spec.test_network.production_notice().into_iter().chain(unknown).chain(split);
    of_networks.chain(left.filter(|_| uses_connections(spec))).collect()
}

/// A subnet cannot be split between sites (R-NET-4): its network, and what would stay of it.
fn split(spec: &RunSpec, input: &PlanInput) -> impl Iterator<Item = (String, String)> {
    let split = input.connections.split_subnets.iter().filter(|_| uses_connections(spec));
    split.map(|split| {
        let staying: Vec<&str> = split.staying.iter().map(ItemName::as_str).collect();
        let message = format!(
            "its machines retain their addresses, and these of it stay behind: {}",
            staying.join(", ")
        );
        (split.network.to_string(), message)
    })
}

fn reason(spec: &RunSpec) -> Option<Problem> {
    let why = spec.test_network.production_reason()?;
    (why.trim().is_empty() || why.len() > MAX_REASON_BYTES).then(|| {
        let message = format!("the reason is empty or longer than {MAX_REASON_BYTES} bytes");
        let remedy = "Say in a sentence why the test may be connected to production.";
        Problem::new("INVALID_REASON", "spec.test_network.connect_to_production", message, remedy)
    })
}

fn choice(spec: &RunSpec, input: &PlanInput) -> Vec<Problem> {
    if spec.operation != Operation::TestFailover {
        return Vec::new();
    }
    let chosen = spec.test_network.choice();
    let impossible = input.items.iter().filter_map(|item| {
        let kind = input.hosts.get(ends(spec, item).1)?.site_kind;
        let possible = choices(kind);
        // To a kind that has no row nothing is failed over, which is refused as such.
        if possible.is_empty() || possible.contains(&chosen) {
            return None;
        }
        let message = format!("{} is not possible for a test at a {kind} site", chosen.as_str());
        let words: Vec<&str> = possible.iter().map(|choice| choice.as_str()).collect();
        let remedy = format!("Choose another network: {}.", words.join(", "));
        Some(Problem::new("NETWORK_CHOICE_NOT_SUPPORTED", subject(&item.name), message, remedy))
    });
    impossible.collect()
}

/// Production is connected to with a reason that somebody gives, and never by mistake.
fn production(spec: &RunSpec, input: &PlanInput) -> Option<Problem> {
    let TestNetwork::Existing { network, connect_to_production } = &spec.test_network else { return None };
    let existing = input.connections.existing.as_ref()?;
    match (existing.production, connect_to_production) {
        (true, None) => Some(Problem::new(
            "PRODUCTION_NETWORK",
            network.to_string(),
            "it is mapped, so production uses it or would after a failover",
            "Choose another network. If production is meant, say why with connect_to_production (--connect-to-production).",
        )),
        (false, Some(_)) => Some(Problem::new(
            "NOT_A_PRODUCTION_NETWORK",
            network.to_string(),
            "a reason for connecting to production is given, and production does not use it",
            "Leave the reason out.",
        )),
        (true, Some(_)) | (false, None) => None,
    }
}

/// The networks that hosts must have, in order and each once.
fn named(spec: &RunSpec, input: &PlanInput) -> BTreeSet<(HostName, NetworkName)> {
    if !uses_connections(spec) {
        return BTreeSet::new();
    }
    let of_nic = input.connections.nics.iter().filter_map(|nic| {
        let item = input.items.iter().find(|item| item.name == nic.item)?;
        Some((ends(spec, item).1.clone(), nic.hypervisor_network.clone()?))
    });
    of_nic.collect()
}

/// `None`: the host does not tell its networks.
fn has(input: &PlanInput, host: &HostName, network: &NetworkName) -> Option<bool> {
    Some(input.hosts.get(host)?.networks.as_ref()?.contains(network))
}
