//! Which crate may depend on which.
//!
//! ```text
//!   ids ◀─ pure ◀─ planning ◀─ foundation ◀─ api ◀─ agents' crates ◀─ services ◀─ tools and tests
//! ```
//!
//! Dependencies point to the left only. Pure crates have no I/O, clock, randomness or logging, so that what they decide can be
//! proofread and tested without any of it. Services meet only through `*-api` crates.

use anyhow::{Context, bail};
use cargo_metadata::{DependencyKind, MetadataCommand, Package};

use crate::tool;

/// From left to right. A crate may depend on crates of layers to its left, and on those of its own where `within` says so.
const LAYERS: &[Layer] = &[
    Layer { name: "ids", within: false, crates: &["understudy-ids"] },
    Layer {
        name: "pure",
        within: false,
        crates: &["understudy-jobs", "understudy-netplan", "understudy-probe", "understudy-replication"],
    },
    // Pure as well. Its plans carry what other pure crates define, such as the settings of replication.
    Layer { name: "planning", within: false, crates: &["understudy-recovery"] },
    Layer {
        name: "foundation",
        within: true,
        crates: &[
            "understudy-nbd",
            "understudy-pg",
            "understudy-pki",
            "understudy-proto-build",
            "understudy-rpc",
            "understudy-sealing",
            "understudy-service",
            "understudy-telemetry",
        ],
    },
    Layer {
        name: "api",
        // types-api is shared by the others.
        within: true,
        crates: &[
            "understudy-jobs-api",
            "understudy-network-api",
            "understudy-recovery-api",
            "understudy-replication-api",
            "understudy-types-api",
        ],
    },
    Layer { name: "agents", within: true, crates: &["understudy-hypervisor", "understudy-replica-store"] },
    Layer {
        name: "services",
        within: false,
        crates: &[
            "understudy-cli",
            "understudy-job-tracker",
            "understudy-network-mapper",
            "understudy-orchestrator",
            "understudy-replication-agent",
        ],
    },
    Layer {
        name: "tools",
        within: true,
        crates: &[
            "understudy-bench",
            "understudy-estate",
            "understudy-lab",
            "understudy-lifecycle-tests",
            "xtask",
        ],
    },
];

/// Only these may use the crates of the layer "agents". The command line reads a store whose agent is gone (ADR 0014); it
/// drives no hypervisor.
const AGENTS_ONLY: &[(&str, &[&str])] = &[
    (
        "understudy-hypervisor",
        &["understudy-replication-agent", "understudy-bench", "understudy-lab", "understudy-lifecycle-tests"],
    ),
    (
        "understudy-replica-store",
        &[
            "understudy-cli",
            "understudy-replication-agent",
            "understudy-bench",
            "understudy-lab",
            "understudy-lifecycle-tests",
        ],
    ),
];

/// What a pure crate may use from outside: data structures, serialisation, hashing.
const PURE_MAY_USE: &[&str] = &["blake3", "ipnet", "serde", "serde_json", "thiserror", "uuid"];

struct Layer {
    name: &'static str,
    within: bool,
    crates: &'static [&'static str],
}

/// # Errors
/// Every dependency that points the wrong way, and every crate without a layer.
pub fn check() -> anyhow::Result<()> {
    let metadata =
        MetadataCommand::new().current_dir(tool::root()).no_deps().exec().context("cargo metadata")?;
    let broken: Vec<String> = metadata.workspace_packages().into_iter().flat_map(violations).collect();
    if broken.is_empty() {
        return Ok(());
    }
    bail!("dependencies against the layers of ARCHITECTURE.md:\n  {}", broken.join("\n  "))
}

fn violations(package: &Package) -> Vec<String> {
    let name = package.name.as_str();
    let Some(own) = layer_of(name) else {
        return vec![format!("{name} has no layer: add it to crates/xtask/src/layers.rs")];
    };
    package
        .dependencies
        .iter()
        // Tests may put parts together that must not know each other.
        .filter(|d| d.kind == DependencyKind::Normal)
        .filter_map(|d| refusal(name, own, &d.name))
        .map(|why| format!("{name}: {why}"))
        .collect()
}

fn refusal(name: &str, own: usize, dependency: &str) -> Option<String> {
    let Some(other) = layer_of(dependency) else {
        let pure = own <= 2;
        return (pure && !PURE_MAY_USE.contains(&dependency))
            .then(|| format!("a pure crate does not use {dependency}"));
    };
    if other > own || (other == own && !LAYERS[own].within) {
        return Some(format!(
            "{} does not depend on {} ({dependency})",
            LAYERS[own].name, LAYERS[other].name
        ));
    }
    let may_use = |(owned, users): &(&str, &[&str])| *owned == dependency && users.contains(&name);
    (LAYERS[other].name == "agents" && own != other && !AGENTS_ONLY.iter().any(may_use))
        .then(|| format!("{dependency} belongs to agents"))
}

fn layer_of(name: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.crates.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(name: &str, dependency: &str) -> Option<String> {
        refusal(name, layer_of(name).unwrap(), dependency)
    }

    #[test]
    fn dependencies_point_one_way() {
        assert_eq!(why("understudy-orchestrator", "understudy-recovery"), None);
        assert_eq!(why("understudy-orchestrator", "understudy-network-api"), None);
        assert!(why("understudy-recovery", "understudy-recovery-api").is_some(), "pure on api");
        assert_eq!(why("understudy-recovery", "understudy-replication"), None);
        assert!(why("understudy-replication", "understudy-recovery").is_some(), "pure on planning");
        assert!(why("understudy-netplan", "understudy-jobs").is_some(), "pure on pure");
        assert!(why("understudy-orchestrator", "understudy-job-tracker").is_some(), "service on service");
        assert!(
            why("understudy-orchestrator", "understudy-hypervisor").is_some(),
            "only agents drive hypervisors"
        );
        assert_eq!(why("understudy-cli", "understudy-replica-store"), None);
        assert!(why("understudy-cli", "understudy-hypervisor").is_some(), "the command line drives nothing");
        assert!(
            why("understudy-orchestrator", "understudy-replica-store").is_some(),
            "only agents and the command line open stores"
        );
        assert!(why("understudy-recovery", "tokio").is_some(), "I/O in a pure crate");
    }
}
