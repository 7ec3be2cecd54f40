//! What may happen to a machine while it is protected, and what is done about it (R-REP-8).
//!
//! ```text
//!   as protected: machine, its UUID, disks ─┐
//!   as it is now, or gone ──────────────────┼─▶ changes ─▶ go on │ go on and warn │ stop until a person decides
//!   sizes of the target's latest point ─────┘
//! ```
//! The rule behind the table: what cannot lose or mix up data is handled and told; what can – another machine under the same name, a disk
//! that is gone or smaller – stops the item with its points kept, until somebody has said what is meant. A disk that nobody has decided about is
//! never silently left out.

use std::{collections::BTreeMap, fmt};

use understudy_ids::{DiskName, MachineName, Uuid};

/// A machine as it was protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protected {
    pub machine: MachineName,
    /// Not known to records of earlier versions.
    pub uuid: Option<Uuid>,
    pub disks: Vec<DiskName>,
}

/// A machine as its host has it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    pub uuid: Uuid,
    /// Sizes in bytes, `None` where it is nothing that can be replicated.
    pub disks: BTreeMap<DiskName, Option<u64>>,
}

/// One thing that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    MachineGone { machine: MachineName },
    MachineReplaced { machine: MachineName, protected: Uuid, found: Uuid },
    DiskGone { machine: MachineName, disk: DiskName },
    DiskNotReplicable { machine: MachineName, disk: DiskName },
    DiskShrunk { disk: DiskName, from: u64, to: u64 },
    DiskGrown { disk: DiskName, from: u64, to: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The next point has it as it is now.
    GoOn,
    /// No further point until a person has decided; those that are there stay and can be failed over to.
    Stop,
}

/// The table: a change, what is done, its state's stable name, and what to do about it.
const TABLE: [(&str, Effect, &str); 6] = [
    (
        "NO_MACHINE",
        Effect::Stop,
        "Define the machine again with the same UUID, or unprotect the item; its points are kept until then.",
    ),
    (
        "MACHINE_REPLACED",
        Effect::Stop,
        "Bring the original machine back, or unprotect the item, keeping the replica, and protect the new machine under the \
         same item: only what differs is shipped then.",
    ),
    (
        "NO_DISK",
        Effect::Stop,
        "Attach the disk again, or go on without it: understudy item disks ITEM --exclude DISK.",
    ),
    (
        "DISK_NOT_REPLICABLE",
        Effect::Stop,
        "Move the disk to a file, or go on without it: understudy item disks ITEM --exclude DISK.",
    ),
    (
        "DISK_SHRUNK",
        Effect::Stop,
        "Grow the disk again; or accept its new size: exclude it, wait for a point, and add it again, which copies it anew.",
    ),
    ("DISK_GROWN", Effect::GoOn, "Nothing: the next point has the new size."),
];

impl Change {
    fn row(&self) -> (&'static str, Effect, &'static str) {
        TABLE[match self {
            Self::MachineGone { .. } => 0,
            Self::MachineReplaced { .. } => 1,
            Self::DiskGone { .. } => 2,
            Self::DiskNotReplicable { .. } => 3,
            Self::DiskShrunk { .. } => 4,
            Self::DiskGrown { .. } => 5,
        }]
    }

    /// Stable, for programs.
    pub fn code(&self) -> &'static str {
        self.row().0
    }

    pub fn effect(&self) -> Effect {
        self.row().1
    }

    pub fn remedy(&self) -> &'static str {
        self.row().2
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MachineGone { machine } => write!(f, "machine {machine} does not exist on this host"),
            Self::MachineReplaced { machine, protected, found } => {
                write!(
                    f,
                    "machine {machine} is another one now: its UUID is {found}, protected is {protected}"
                )
            }
            Self::DiskGone { machine, disk } => write!(f, "machine {machine} has no disk {disk} any more"),
            Self::DiskNotReplicable { machine, disk } => {
                write!(f, "disk {disk} of machine {machine} is not a file any more")
            }
            Self::DiskShrunk { disk, from, to } => {
                write!(f, "disk {disk} has shrunk from {from} to {to} bytes")
            }
            Self::DiskGrown { disk, from, to } => {
                write!(f, "disk {disk} has grown from {from} to {to} bytes")
            }
        }
    }
}

/// Everything that has changed, what stops first. `replicated` are the sizes of the target's latest point, where it has one.
pub fn changes(
    protected: &Protected,
    present: Option<&Present>,
    replicated: &BTreeMap<DiskName, u64>,
) -> Vec<Change> {
    let machine = protected.machine.clone();
    let Some(present) = present else { return vec![Change::MachineGone { machine }] };
    if let Some(uuid) = protected.uuid.filter(|uuid| *uuid != present.uuid) {
        return vec![Change::MachineReplaced { machine, protected: uuid, found: present.uuid }];
    }
    let of_disk = |disk: &DiskName| {
        let (machine, name) = (machine.clone(), disk.clone());
        let size = match present.disks.get(disk) {
            None => return Some(Change::DiskGone { machine, disk: name }),
            Some(None) => return Some(Change::DiskNotReplicable { machine, disk: name }),
            Some(Some(size)) => *size,
        };
        let from = *replicated.get(disk)?;
        match size.cmp(&from) {
            std::cmp::Ordering::Less => Some(Change::DiskShrunk { disk: name, from, to: size }),
            std::cmp::Ordering::Equal => None,
            std::cmp::Ordering::Greater => Some(Change::DiskGrown { disk: name, from, to: size }),
        }
    };
    let mut changes: Vec<Change> = protected.disks.iter().filter_map(of_disk).collect();
    changes.sort_by_key(|change| change.effect() == Effect::GoOn);
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpo;

    fn disk(name: &str) -> DiskName {
        name.parse().unwrap()
    }

    fn found(uuid: u128, disks: &[(&str, Option<u64>)]) -> Present {
        let disks = disks.iter().map(|(name, size)| (disk(name), *size)).collect();
        Present { uuid: Uuid::from_u128(uuid), disks }
    }

    #[test]
    fn r_rep_8_every_change_is_handled_or_has_a_name_and_a_remedy() {
        let protected = Protected {
            machine: "web1".parse().unwrap(),
            uuid: Some(Uuid::from_u128(1)),
            disks: vec![disk("vda"), disk("vdb")],
        };
        let replicated = BTreeMap::from([(disk("vda"), 100), (disk("vdb"), 100)]);
        let same = found(1, &[("vda", Some(100)), ("vdb", Some(100)), ("vdz", Some(1))]);
        let table: [(Option<Present>, &[&str]); 8] = [
            (Some(same.clone()), &[]),
            (None, &["NO_MACHINE"]),
            (Some(found(2, &[])), &["MACHINE_REPLACED"]),
            (Some(found(1, &[("vda", Some(100))])), &["NO_DISK"]),
            (Some(found(1, &[("vda", None), ("vdb", Some(100))])), &["DISK_NOT_REPLICABLE"]),
            (Some(found(1, &[("vda", Some(200)), ("vdb", Some(100))])), &["DISK_GROWN"]),
            (Some(found(1, &[("vda", Some(99)), ("vdb", Some(100))])), &["DISK_SHRUNK"]),
            // All of them at once, what stops first.
            (Some(found(1, &[("vda", Some(101))])), &["NO_DISK", "DISK_GROWN"]),
        ];
        for (present, expected) in table {
            let changes = changes(&protected, present.as_ref(), &replicated);
            let codes: Vec<&str> = changes.iter().map(Change::code).collect();
            assert_eq!(codes, expected, "{present:?}");
            for change in changes {
                assert!(!change.remedy().is_empty() && !change.to_string().is_empty());
                let stops = change.effect() == Effect::Stop;
                assert_eq!(rpo::CHANGED.contains(&change.code()), stops, "{change}: health must say so");
            }
        }
        let nothing_there = changes(&protected, Some(&same), &BTreeMap::new());
        assert_eq!(nothing_there, [], "without a point there is no size to compare with");
        let of_old_version = Protected { uuid: None, ..protected };
        assert_eq!(changes(&of_old_version, Some(&same), &replicated), []);
    }

    /// The page for operators has every state.
    #[test]
    fn r_rep_8_every_state_is_documented() {
        let page = include_str!("../../../docs/changes-under-protection.md");
        for (code, ..) in TABLE {
            assert!(page.contains(&format!("`{code}`")), "{code} is not documented");
        }
    }
}
