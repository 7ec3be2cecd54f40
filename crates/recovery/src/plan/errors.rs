//! What an error in a step does to its run, as a table. What is not listed stops the run (R-PF-3), and what takes back is in no table: an
//! error in it is shown and stops nothing, whatever the run is.

use super::{ErrorPolicy, Operation};

/// What a step is to the run that it is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// Tests of the items end.
    Tests,
    /// Addresses for the machines.
    Addresses,
    /// The shut-down and the last changes of the side that is left.
    LastChanges,
    /// The side that is left is told its place.
    Fence,
    /// The same of a side that another host takes the place of.
    OldSide,
    /// A machine is made and started.
    Machine,
    /// A started machine is asked whether it works.
    Proof,
    /// Clients are led to where the machine is.
    Routing,
    /// What was committed is made final, and what is not wanted any more removed.
    Final,
    /// The copy that the run is there for, or that a failback rests on.
    Copy,
    /// Replication in the other direction, when the failover is final.
    Reverse,
    /// An action of a recovery plan.
    PlanAction,
}

impl Part {
    pub const ALL: [Self; 12] = [
        Self::Tests,
        Self::Addresses,
        Self::LastChanges,
        Self::Fence,
        Self::OldSide,
        Self::Machine,
        Self::Proof,
        Self::Routing,
        Self::Final,
        Self::Copy,
        Self::Reverse,
        Self::PlanAction,
    ];
}

use ErrorPolicy::{GoOn, SkipItem, StopRun};
use Operation::{Failback, PlannedFailover, ReverseReplicate, TestFailover, UnplannedFailover};

/// The table.
#[rustfmt::skip]
pub const ERROR_POLICIES: &[(Operation, Part, ErrorPolicy)] = &[
    (TestFailover,      Part::Proof,       GoOn),
    (TestFailover,      Part::Routing,     GoOn),

    // What a test leaves is its own clean-up's.
    (PlannedFailover,   Part::Tests,       GoOn),
    // The machine is off and replicated no more: a source that dies now must not keep the target from starting.
    (PlannedFailover,   Part::Fence,       GoOn),
    (PlannedFailover,   Part::Proof,       GoOn),
    // The machine runs. To stop here would keep others off, and the run from its commit, for as long as somebody's server is broken.
    (PlannedFailover,   Part::Routing,     GoOn),
    // The failover is over; other items go on with theirs.
    (PlannedFailover,   Part::Reverse,     SkipItem),

    (UnplannedFailover, Part::Tests,       GoOn),
    // An address that cannot be had is no reason to leave machines off, and what is tried at the lost side holds nothing up.
    (UnplannedFailover, Part::Addresses,   GoOn),
    (UnplannedFailover, Part::LastChanges, GoOn),
    (UnplannedFailover, Part::Fence,       GoOn),
    (UnplannedFailover, Part::Machine,     SkipItem),
    (UnplannedFailover, Part::Proof,       GoOn),
    (UnplannedFailover, Part::Routing,     GoOn),
    (UnplannedFailover, Part::Final,       GoOn),
    (UnplannedFailover, Part::PlanAction,  GoOn),

    // It cannot start anything, whether it hears of that or not.
    (ReverseReplicate,  Part::OldSide,     GoOn),

    // Reverse replication, and a planned failover behind it. A test is in its way.
    (Failback,          Part::OldSide,     GoOn),
    (Failback,          Part::Fence,       GoOn),
    (Failback,          Part::Proof,       GoOn),
    (Failback,          Part::Routing,     GoOn),
    (Failback,          Part::Reverse,     SkipItem),
];

/// What the table says of an error in this part of this operation.
pub fn error_policy(operation: Operation, part: Part) -> ErrorPolicy {
    policy_in(ERROR_POLICIES, operation, part)
}

fn policy_in(table: &[(Operation, Part, ErrorPolicy)], operation: Operation, part: Part) -> ErrorPolicy {
    let row = table.iter().find(|(of, at, _)| (*of, *at) == (operation, part));
    row.map_or(StopRun, |(_, _, policy)| *policy)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Table<'a> = &'a [(Operation, Part, ErrorPolicy)];
    type Rule = fn(Operation, Part, ErrorPolicy) -> bool;

    /// Nothing replicates in reverse within an unplanned failover.
    const NOT_IN_IT: [Part; 3] = [Part::Copy, Part::Reverse, Part::OldSide];
    /// Both shut down, ship and compare before they switch.
    const PLANNED: [Operation; 2] = [PlannedFailover, Failback];

    /// What the requirements and decisions say, without looking at the table.
    const RULES: &[(&str, Rule)] = &[
        (
            "R-PF-3: a planned failover stops at the first error in a machine or in a script, and a failback in its copy, too",
            |operation, part, policy| {
                use Part::{Addresses, Copy, Final, LastChanges, Machine, PlanAction};
                let stops = [Addresses, LastChanges, Machine, Final, PlanAction, Copy].contains(&part);
                !PLANNED.contains(&operation) || !stops || policy == StopRun
            },
        ),
        (
            "R-UF-4: errors do not stop an unplanned failover; an item is left out only where its machine cannot be had",
            {
                |operation, part, policy| {
                    let expected = if part == Part::Machine { SkipItem } else { GoOn };
                    operation != UnplannedFailover || NOT_IN_IT.contains(&part) || policy == expected
                }
            },
        ),
        ("ADR 0029: a probe that fails stops nothing", |operation, part, policy| {
            let failover = matches!(operation, TestFailover | PlannedFailover | UnplannedFailover | Failback);
            !failover || part != Part::Proof || policy == GoOn
        }),
        (
            "ADR 0033: a machine that runs is not left alone because its name could not be switched",
            |operation, part, policy| {
                let failover =
                    matches!(operation, TestFailover | PlannedFailover | UnplannedFailover | Failback);
                !failover || part != Part::Routing || policy == GoOn
            },
        ),
        (
            "R-FO-7: a source that is off and does not answer is fenced when it returns",
            |operation, part, policy| !PLANNED.contains(&operation) || part != Part::Fence || policy == GoOn,
        ),
        (
            "R-FO-5: after the commit, replication in reverse concerns its item only",
            |operation, part, policy| {
                !PLANNED.contains(&operation) || part != Part::Reverse || policy == SkipItem
            },
        ),
        (
            "R-TF-7: a real failover goes on whatever becomes of the tests that it ends",
            |operation, part, policy| {
                let real = matches!(operation, PlannedFailover | UnplannedFailover);
                !real || part != Part::Tests || policy == GoOn
            },
        ),
        ("R-FB-3: a host that is replaced may be gone for good", |operation, part, policy| {
            !matches!(operation, ReverseReplicate | Failback) || part != Part::OldSide || policy == GoOn
        }),
        ("R-FB-3: only reverse replication and failback replace a host", |operation, part, policy| {
            matches!(operation, ReverseReplicate | Failback) || part != Part::OldSide || policy == StopRun
        }),
        ("R-TF-9, R-REP-8: everything else stops at its first error", |operation, part, policy| {
            let failover = matches!(operation, PlannedFailover | UnplannedFailover);
            let listed = [
                (TestFailover, Part::Proof),
                (TestFailover, Part::Routing),
                (ReverseReplicate, Part::OldSide),
            ];
            let of_failback = operation == Failback && part != Part::Tests;
            failover || of_failback || listed.contains(&(operation, part)) || policy == StopRun
        }),
    ];

    fn broken(table: Table<'_>) -> Option<&'static str> {
        let pairs = || Operation::ALL.into_iter().flat_map(|o| Part::ALL.map(|part| (o, part)));
        let holds = |rule: &Rule| pairs().all(|(o, part)| rule(o, part, policy_in(table, o, part)));
        RULES.iter().find(|(_, rule)| !holds(rule)).map(|(name, _)| *name)
    }

    #[test]
    fn the_table_is_what_the_requirements_say() {
        assert_eq!(broken(ERROR_POLICIES), None);
    }

    /// R-PF-3, R-UF-4: every row that is missing, says something else or is too many breaks a rule.
    #[test]
    fn no_row_can_be_removed_changed_or_added_unnoticed() {
        for (index, row) in ERROR_POLICIES.iter().enumerate() {
            let mut table = ERROR_POLICIES.to_vec();
            for other in [StopRun, SkipItem, GoOn].into_iter().filter(|policy| *policy != row.2) {
                table[index].2 = other;
                assert!(broken(&table).is_some(), "{row:?} may be {other}");
            }
            table.remove(index);
            assert!(broken(&table).is_some(), "nobody misses {row:?}");
        }
        for (operation, part) in Operation::ALL.into_iter().flat_map(|o| Part::ALL.map(|part| (o, part))) {
            let listed = ERROR_POLICIES.iter().filter(|(of, at, _)| (*of, *at) == (operation, part)).count();
            assert!(listed <= 1, "{operation} {part:?} is listed twice");
            let not_in_it = operation == UnplannedFailover && matches!(part, Part::Reverse | Part::Copy);
            if listed == 1 || not_in_it {
                continue;
            }
            for policy in [SkipItem, GoOn] {
                let table = [ERROR_POLICIES, &[(operation, part, policy)]].concat();
                assert!(broken(&table).is_some(), "{operation} {part:?} may {policy}");
            }
        }
    }
}
