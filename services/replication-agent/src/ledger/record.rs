//! What is written down per item.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use understudy_ids::{DiskName, Generation, HostName, ItemName, MachineName, PolicyName, Uuid};
use understudy_replication::{ReplicationSettings, RetentionPolicy};

use super::Role;

/// Everything the agent must know of an item with nothing else alive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemRecord {
    pub item: ItemName,
    /// The highest seen.
    pub generation: Generation,
    pub role: Role,
    /// When this side was last told that it is the active one.
    #[serde(default)]
    pub confirmed: Option<Confirmation>,
    /// As source: what to replicate, and where to.
    #[serde(default)]
    pub assignment: Option<Assignment>,
    /// The disks that were replicated from here last. Kept after the assignment ends: they are what can be adopted.
    #[serde(default)]
    pub disks: Vec<DiskName>,
    /// As target: whose points are accepted.
    #[serde(default)]
    pub sender: Option<Sender>,
    /// As target: how many points are kept.
    #[serde(default)]
    pub retention: RetentionPolicy,
}

/// Proof that the item was active here at that generation since the host booted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation {
    pub generation: Generation,
    pub boot_id: String,
}

/// The replication of a machine, until told otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    pub machine: MachineName,
    /// Of the machine that was there when it was assigned: another one of the same name is not shipped as the same item.
    #[serde(default)]
    pub uuid: Option<Uuid>,
    pub disks: Vec<DiskName>,
    pub peer_host: HostName,
    pub peer_endpoint: String,
    pub interval: Duration,
    #[serde(default)]
    pub settings: ReplicationSettings,
    /// Which policy it follows; its items share what may be sent.
    #[serde(default)]
    pub policy: Option<PolicyName>,
}

/// The agent that sends at a generation: the first that did. Nobody else may at that generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sender {
    pub generation: Generation,
    pub host: HostName,
}

impl ItemRecord {
    pub(super) fn new(item: ItemName, generation: Generation, role: Role) -> Self {
        Self {
            item,
            generation,
            role,
            confirmed: None,
            assignment: None,
            disks: Vec::new(),
            sender: None,
            retention: RetentionPolicy::default(),
        }
    }

    /// Whether the item's machine may be started here, at `generation`, by anyone (R-FO-7).
    pub fn may_run(&self, generation: Generation, boot_id: &str) -> Result<(), String> {
        if self.role != Role::Source {
            return Err(format!(
                "this host is not the active side of {} at generation {}",
                self.item, self.generation
            ));
        }
        if generation != self.generation {
            return Err(format!(
                "the machine is of generation {generation}, {} is at {}",
                self.item, self.generation
            ));
        }
        match &self.confirmed {
            Some(c) if c.generation == generation && c.boot_id == boot_id => Ok(()),
            Some(c) if c.generation == generation => Err(format!(
                "the host has booted since {} was last confirmed to be active here at generation {generation}; \
                 the other side may have taken over meanwhile",
                self.item
            )),
            _ => {
                Err(format!("{} was never confirmed to be active here at generation {generation}", self.item))
            }
        }
    }
}
