//! Which disks of a protected machine are replicated, after an operator has said something about it (R-REP-8).
//!
//! ```text
//!   protected, excluded ── add, exclude ──▶ protected', excluded'   or all that stands against it
//! ```
//! A disk is protected, excluded, or not decided about; the last is a warning of the item's health.

use std::collections::BTreeSet;

use understudy_ids::{DiskName, ItemName, Problem};

use crate::{item::ItemState, plan::DiskView};

/// What there is to decide from.
#[derive(Debug, Clone, PartialEq)]
pub struct DiskChoice<'a> {
    pub item: &'a ItemName,
    pub state: ItemState,
    /// A run has the item in hand.
    pub held: bool,
    /// In the machine's order.
    pub protected: &'a [DiskName],
    pub excluded: &'a [DiskName],
    /// Of the machine as it is now.
    pub present: &'a [DiskView],
}

/// Protected and excluded disks after the change.
pub type Chosen = (Vec<DiskName>, Vec<DiskName>);

impl DiskChoice<'_> {
    /// # Errors
    /// Everything that stands against it.
    pub fn change(
        &self,
        add: &BTreeSet<DiskName>,
        exclude: &BTreeSet<DiskName>,
    ) -> Result<Chosen, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut stands = |reason: &str, message: String, remedy: &str| {
            problems.push(Problem::new(reason, format!("protectedItems/{}", self.item), message, remedy));
        };
        if self.held {
            stands(
                "ITEM_HELD",
                "a run has the item in hand".to_owned(),
                "Wait for the run's end, or end it.",
            );
        } else if self.state != ItemState::Protected {
            let message = format!("the item is {}", self.state);
            stands("WRONG_STATE", message, "Its disks can be changed while it is protected.");
        }
        if add.is_empty() && exclude.is_empty() {
            stands("NOTHING_TO_DO", "no disk is named".to_owned(), "Name disks to add or to exclude.");
        }
        for disk in add.intersection(exclude) {
            stands("CONTRADICTION", format!("disk {disk} is to be added and excluded"), "Decide for one.");
        }
        for disk in add {
            match self.present.iter().find(|view| view.name == *disk) {
                None => {
                    stands(
                        "DISK_NOT_FOUND",
                        format!("the machine has no disk {disk}"),
                        "List the machine's disks.",
                    );
                }
                Some(view) if !view.replicable => {
                    let remedy = "Move it to a file, or exclude it.";
                    stands("DISK_NOT_REPLICABLE", format!("disk {disk} is not a file"), remedy);
                }
                Some(_) => {}
            }
        }
        let known = |disk: &DiskName| {
            self.protected.contains(disk) || self.present.iter().any(|view| view.name == *disk)
        };
        for disk in exclude.iter().filter(|disk| !known(disk)) {
            let message = format!("the machine has no disk {disk}, and none is protected");
            stands("DISK_NOT_FOUND", message, "List the machine's disks.");
        }
        let mut protected: Vec<DiskName> =
            self.protected.iter().filter(|disk| !exclude.contains(disk)).cloned().collect();
        protected.extend(add.iter().filter(|disk| !self.protected.contains(disk)).cloned());
        if protected.is_empty() {
            stands("NO_DISK_LEFT", "no disk would be protected".to_owned(), "Unprotect the item instead.");
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut excluded: BTreeSet<DiskName> = self.excluded.iter().chain(exclude).cloned().collect();
        excluded.retain(|disk| !add.contains(disk));
        Ok((protected, excluded.into_iter().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disks(names: &[&str]) -> Vec<DiskName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn view(name: &str, replicable: bool) -> DiskView {
        DiskView { name: name.parse().unwrap(), size_bytes: 1, replicable }
    }

    #[test]
    fn r_rep_8_disks_are_included_and_excluded_or_all_that_stands_against_it_is_told() {
        let item = "web1".parse().unwrap();
        let (protected, excluded) = (disks(&["vda", "vdb"]), disks(&["vdx"]));
        // vdb is gone; vdc and vdx are there; vdy is a block device.
        let present = [view("vda", true), view("vdc", true), view("vdx", true), view("vdy", false)];
        let choice = DiskChoice {
            item: &item,
            state: ItemState::Protected,
            held: false,
            protected: &protected,
            excluded: &excluded,
            present: &present,
        };
        let change = |choice: &DiskChoice<'_>, add: &[&str], exclude: &[&str]| {
            choice.change(&disks(add).into_iter().collect(), &disks(exclude).into_iter().collect())
        };
        let reasons = |result: Result<Chosen, Vec<Problem>>| {
            result.unwrap_err().into_iter().map(|p| p.reason).collect::<Vec<_>>()
        };
        assert_eq!(change(&choice, &["vdc"], &[]), Ok((disks(&["vda", "vdb", "vdc"]), disks(&["vdx"]))));
        assert_eq!(change(&choice, &["vdx"], &["vdb"]), Ok((disks(&["vda", "vdx"]), disks(&["vdb"]))));
        assert_eq!(change(&choice, &["vda"], &["vdc"]), Ok((protected.clone(), disks(&["vdc", "vdx"]))));
        assert_eq!(reasons(change(&choice, &[], &[])), ["NOTHING_TO_DO"]);
        assert_eq!(reasons(change(&choice, &[], &["vda", "vdb"])), ["NO_DISK_LEFT"]);
        assert_eq!(
            reasons(change(&choice, &["vdq", "vdy", "vdc"], &["vdc", "vdr"])),
            ["CONTRADICTION", "DISK_NOT_FOUND", "DISK_NOT_REPLICABLE", "DISK_NOT_FOUND"]
        );
        let held = DiskChoice { held: true, ..choice.clone() };
        assert_eq!(reasons(change(&held, &["vdc"], &[])), ["ITEM_HELD"]);
        let moving = DiskChoice { state: ItemState::CommitPending, ..choice };
        assert_eq!(reasons(change(&moving, &["vdc"], &[])), ["WRONG_STATE"]);
    }
}
