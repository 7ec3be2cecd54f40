//! What is written down per item.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use understudy_ids::{DiskName, Generation, HostName, ItemName, MachineName, PolicyName, Uuid};
use understudy_replication::{Membership, ReplicationSettings, RetentionPolicy};

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
    #[serde(flatten)]
    pub stream: Stream,
    #[serde(flatten)]
    pub terms: Terms,
}

/// What is replicated, and where to. Another one is another loop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    pub machine: MachineName,
    /// Of the machine that was there when it was assigned: another one of the same name is not shipped as the same item.
    #[serde(default)]
    pub uuid: Option<Uuid>,
    pub disks: Vec<DiskName>,
    pub peer_host: HostName,
    pub peer_endpoint: String,
}

/// How it is replicated. A loop takes other ones over while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    pub interval: Duration,
    #[serde(default)]
    pub settings: ReplicationSettings,
    /// Which policy it follows; its items share what may be sent.
    #[serde(default)]
    pub policy: Option<PolicyName>,
    /// Nothing is sent until this is taken back.
    #[serde(default)]
    pub paused: bool,
    /// How old the latest point may become.
    #[serde(default)]
    pub rpo_objective: Option<Duration>,
    /// With which other items it shares its instants.
    #[serde(default)]
    pub group: Option<Membership>,
    /// Names the assignment for whoever gave it; told back.
    #[serde(default)]
    pub revision: String,
}

impl Terms {
    /// The objective where none was given, in intervals.
    const OBJECTIVE_INTERVALS: u32 = 3;

    pub fn objective(&self) -> Duration {
        self.rpo_objective.unwrap_or_else(|| self.interval.saturating_mul(Self::OBJECTIVE_INTERVALS))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A record of the version before is taken up, and one that is read back is the one that was written: its loop goes on.
    #[test]
    fn assignments_come_back_from_a_file_as_they_were() {
        let old = r#"{"machine": "web1", "disks": ["vda"], "peer_host": "bravo/h1", "peer_endpoint": "https://b:1",
                      "interval": {"secs": 5, "nanos": 0}, "settings": {"compression": "off"}, "policy": "gold"}"#;
        let read: Assignment = serde_json::from_str(old).unwrap();
        assert_eq!((read.stream.machine.as_str(), read.terms.interval), ("web1", Duration::from_secs(5)));
        assert_eq!((read.terms.paused, read.terms.objective()), (false, Duration::from_secs(15)));
        assert_eq!(read.terms.group, None);
        let group = Membership { group: "shop".parse().unwrap(), members: ["web1".parse().unwrap()].into() };
        let terms = Terms {
            paused: true,
            rpo_objective: Some(Duration::from_millis(1500)),
            group: Some(group),
            ..read.terms
        };
        let changed = Assignment { terms, ..read };
        let text = serde_json::to_string(&changed).unwrap();
        assert_eq!(serde_json::from_str::<Assignment>(&text).unwrap(), changed);
    }
}
