//! Which failover is possible from which kind of site to which (R-DIR), as a table. What is not listed is refused.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::plan::Operation;

/// What a site is (R-SITE-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SiteKind {
    /// Hosts under a managed fabric.
    PrivateCloud,
    /// Stand-alone hosts.
    Hypervisor,
    Vmware,
    Physical,
    PublicCloud,
}

use SiteKind::*;

impl SiteKind {
    pub const ALL: [Self; 5] = [PrivateCloud, Hypervisor, Vmware, Physical, PublicCloud];

    pub const fn as_str(self) -> &'static str {
        match self {
            PrivateCloud => "private-cloud",
            Hypervisor => "hypervisor",
            Vmware => "vmware",
            Physical => "physical",
            PublicCloud => "public-cloud",
        }
    }
}

impl fmt::Display for SiteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One row: what is possible from `source` to `target`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Direction {
    pub source: SiteKind,
    pub target: SiteKind,
    pub test: bool,
    pub planned: bool,
    pub unplanned: bool,
}

const fn row(source: SiteKind, target: SiteKind, test: bool, planned: bool, unplanned: bool) -> Direction {
    Direction { source, target, test, planned, unplanned }
}

const YES: bool = true;
const NO: bool = false;

/// The table. Private cloud to private cloud includes two clouds inside one site (R-SITE-3).
#[rustfmt::skip]
pub const DIRECTIONS: &[Direction] = &[
    //  source        target        test planned unplanned
    row(PrivateCloud, PrivateCloud, YES, YES,    YES),
    row(PrivateCloud, PublicCloud,  YES, YES,    YES),
    row(PublicCloud,  PrivateCloud, NO,  YES,    NO),
    row(Hypervisor,   PublicCloud,  YES, YES,    YES),
    row(PublicCloud,  Hypervisor,   NO,  YES,    NO),
    row(Vmware,       PublicCloud,  YES, NO,     YES),
    row(Physical,     PublicCloud,  YES, NO,     YES),
    // The rows marked + in the requirements. Planned needs a provider that shuts the source down and takes the last
    // delta: those of hypervisors and private clouds do, those of VMware and physical machines do not.
    row(Hypervisor,   Hypervisor,   YES, YES,    YES),
    row(Hypervisor,   PrivateCloud, YES, YES,    YES),
    row(PrivateCloud, Hypervisor,   YES, YES,    YES),
    row(Vmware,       PrivateCloud, YES, NO,     YES),
    row(Vmware,       Hypervisor,   YES, NO,     YES),
    row(Physical,     PrivateCloud, YES, NO,     YES),
    row(Physical,     Hypervisor,   YES, NO,     YES),
];

/// Why a direction is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalReason {
    /// Nothing goes from this kind of site to that one.
    NoSuchDirection,
    /// The direction exists, this operation in it does not.
    OperationNotSupported,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{operation} from a {source_kind} site to a {target_kind} site is not possible")]
pub struct Refusal {
    pub operation: Operation,
    pub source_kind: SiteKind,
    pub target_kind: SiteKind,
    pub reason: RefusalReason,
}

/// Whether the operation is possible between sites of these kinds. `source` is where the machine runs now.
///
/// Protecting and replicating in reverse are possible where a failover to the target would be: the point of a replica is to
/// fail over to it. Unprotecting is always possible.
///
/// # Errors
/// When it is not, with the reason.
pub fn check(operation: Operation, source: SiteKind, target: SiteKind) -> Result<(), Refusal> {
    check_in(DIRECTIONS, operation, source, target)
}

fn check_in(
    table: &[Direction],
    operation: Operation,
    source: SiteKind,
    target: SiteKind,
) -> Result<(), Refusal> {
    if operation == Operation::Unprotect {
        return Ok(());
    }
    let refuse = |reason| Refusal { operation, source_kind: source, target_kind: target, reason };
    let row = table.iter().find(|row| row.source == source && row.target == target);
    let row = row.ok_or_else(|| refuse(RefusalReason::NoSuchDirection))?;
    let possible = match operation {
        Operation::TestFailover => row.test,
        // What it waits for is a planned failover.
        Operation::PlannedFailover | Operation::Failback => row.planned,
        Operation::UnplannedFailover => row.unplanned,
        Operation::Protect | Operation::ReverseReplicate | Operation::Unprotect => true,
    };
    if possible { Ok(()) } else { Err(refuse(RefusalReason::OperationNotSupported)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R-DIR, row by row and pair by pair, as the requirements have it: t(est), p(lanned), u(nplanned); "-" is no such direction.
    #[rustfmt::skip]
    const EXPECTED: [(SiteKind, [&str; 5]); 5] = [
        // to:          private  hyperv.  vmware  phys.  public
        (PrivateCloud, ["tpu",   "tpu",   "-",    "-",   "tpu"]),
        (Hypervisor,   ["tpu",   "tpu",   "-",    "-",   "tpu"]),
        (Vmware,       ["tu",    "tu",    "-",    "-",   "tu"]),
        (Physical,     ["tu",    "tu",    "-",    "-",   "tu"]),
        (PublicCloud,  ["p",     "p",     "-",    "-",   "-"]),
    ];

    /// The first answer of the table that is not what the requirements say.
    fn wrong(table: &[Direction]) -> Option<String> {
        for (source, row) in EXPECTED {
            for (target, expected) in SiteKind::ALL.into_iter().zip(row) {
                for operation in Operation::ALL {
                    let possible = match operation {
                        Operation::TestFailover => expected.contains('t'),
                        Operation::PlannedFailover | Operation::Failback => expected.contains('p'),
                        Operation::UnplannedFailover => expected.contains('u'),
                        Operation::Unprotect => true,
                        Operation::Protect | Operation::ReverseReplicate => expected != "-",
                    };
                    let reason = match (possible, expected) {
                        (true, _) => None,
                        (false, "-") => Some(RefusalReason::NoSuchDirection),
                        (false, _) => Some(RefusalReason::OperationNotSupported),
                    };
                    let found = check_in(table, operation, source, target).err().map(|r| r.reason);
                    if found != reason {
                        return Some(format!("{operation} from {source} to {target}: {found:?}"));
                    }
                }
            }
        }
        None
    }

    #[test]
    fn r_dir_every_pair_of_kinds_allows_exactly_what_the_table_says() {
        assert_eq!(wrong(DIRECTIONS), None);
    }

    /// R-DIR: every row that is missing, allows something else or is too many is noticed.
    #[test]
    fn no_row_can_be_removed_changed_or_added_unnoticed() {
        for (index, row) in DIRECTIONS.iter().enumerate() {
            let mut table = DIRECTIONS.to_vec();
            for change in [
                |row: &mut Direction| row.test = !row.test,
                |row: &mut Direction| row.planned = !row.planned,
                |row: &mut Direction| row.unplanned = !row.unplanned,
            ] {
                change(&mut table[index]);
                assert!(wrong(&table).is_some(), "{:?} is as good", table[index]);
                table[index] = *row;
            }
            table.remove(index);
            assert!(wrong(&table).is_some(), "nobody misses {row:?}");
        }
        let pairs = SiteKind::ALL.into_iter().flat_map(|s| SiteKind::ALL.map(|t| (s, t)));
        for (source, target) in pairs.filter(|pair| DIRECTIONS.iter().all(|r| (r.source, r.target) != *pair))
        {
            let table = [DIRECTIONS, &[row(source, target, NO, NO, NO)]].concat();
            assert!(wrong(&table).is_some(), "{source} to {target} may be listed");
        }
    }

    #[test]
    fn no_pair_is_listed_twice() {
        for row in DIRECTIONS {
            let same = DIRECTIONS.iter().filter(|r| (r.source, r.target) == (row.source, row.target));
            assert_eq!(same.count(), 1, "{} to {}", row.source, row.target);
        }
    }
}
