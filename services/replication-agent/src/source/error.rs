//! Why a cycle did not complete.

use understudy_hypervisor as hypervisor;
use understudy_ids::{DiskName, Generation, MachineName, Problem};
use understudy_replication::change::Change;
use understudy_replication_api::{GENERATION_KEY, STALE_GENERATION};
use understudy_rpc::ApiError;

use super::seal::KeyError;

#[derive(Debug, thiserror::Error)]
pub enum CycleError {
    /// The target has seen a higher generation: this side is not the active one any more.
    #[error("the target has seen generation {0}, which is higher")]
    Superseded(Generation),
    #[error("the target: {0}")]
    Peer(#[from] ApiError),
    #[error("the source: {0}")]
    Hypervisor(#[from] hypervisor::Error),
    /// Something is not as it was protected, and a person has to say what is meant (R-REP-8). Never empty.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Changed(Vec<Change>),
    /// The instant that is open is of another shape than the machine is now; the next cycle opens another one.
    #[error("disk {0} has changed since the snapshot was opened")]
    Outdated(DiskName),
    /// A last delta of a machine that is not known to be off would not be the last.
    #[error("machine {0} is not known to be off")]
    NotOff(MachineName),
    /// The turn that the cycle has is for a delta, and it finds that a full copy is needed.
    #[error("a full copy is needed and has to wait for its own turn")]
    NeedsFullCopy,
    #[error("replication was stopped")]
    Stopped,
    #[error("the transfer broke its own rules: {0}")]
    Protocol(String),
    /// Nothing is sent in the clear because of it.
    #[error("the keys for encryption: {0}")]
    Keys(#[from] KeyError),
}

impl CycleError {
    /// Reads a refusal of the target for what it means.
    pub fn from_peer(error: ApiError) -> Self {
        let higher = error.metadata.get(GENERATION_KEY).and_then(|g| g.parse().ok()).map(Generation::new);
        match higher {
            Some(generation) if error.reason == STALE_GENERATION => Self::Superseded(generation),
            _ => Self::Peer(error),
        }
    }

    /// Whether the snapshot that was being read may be read on.
    pub fn is_of_the_link(&self) -> bool {
        matches!(self, Self::Peer(_) | Self::Protocol(_))
    }

    pub fn problem(&self, subject: &str) -> Problem {
        let (reason, remedy) = match self {
            Self::Superseded(_) => (
                "SUPERSEDED",
                "Nothing: this side is fenced. Reverse replicate when it is to be the stand-by.",
            ),
            Self::Peer(error) => (
                error.reason.as_ref(),
                "It is tried again; if it stays, look at the link and the peer agent.",
            ),
            Self::Hypervisor(_) => {
                ("SNAPSHOT_FAILED", "It is tried again; if it stays, look at the hypervisor's log.")
            }
            Self::Changed(changes) => {
                changes.first().map_or(("CHANGED", ""), |change| (change.code(), change.remedy()))
            }
            Self::Outdated(_) => {
                ("SNAPSHOT_OUTDATED", "Nothing: the next cycle takes the disk as it is now.")
            }
            Self::NotOff(_) => ("MACHINE_RUNS", "Shut the machine down first."),
            Self::Stopped => ("STOPPED", "Start replication again."),
            Self::NeedsFullCopy => ("NEEDS_FULL_COPY", "Nothing: it is copied when its turn comes."),
            Self::Keys(_) => (
                "KEYS_NOT_USABLE",
                "Look at the agent's state directory and at the certificates of the policy; it is tried again.",
            ),
            Self::Protocol(_) => {
                ("BROKEN_TRANSFER", "It is tried again; run the same version on both sides.")
            }
        };
        Problem::new(reason, subject, self.to_string(), remedy)
    }
}
