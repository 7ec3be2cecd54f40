//! The life of a protected item as a table. What is not listed does not happen (invariant 10).
//!
//! ```text
//!   INITIAL ──▶ PROTECTED ──▶ PLANNED/UNPLANNED FAILOVER ──▶ COMMIT PENDING ──▶ NOT PROTECTED
//!                   ▲                                                                │
//!                   │                                                 │              │
//!                   ├───────────────────────── ROLLING BACK ◀─────────┘              │
//!                   └───────────────────────── REVERSE REPLICATION ◀─────────────────┘
//! ```
//!
//! A failback goes through reverse replication, waits while the item is protected in reverse, and goes on as a planned failover; where it copies
//! during the failover only, it is one from the beginning.
//!
//! A test failover runs beside this table: it changes nothing about the item (R-TF-1) and is recorded apart from its state.
//! A run that failed leaves its items in FAILED until it is retried or cancelled.

use std::{fmt, fmt::Write};

use serde::{Deserialize, Serialize};
use understudy_ids::{ItemName, Problem};

/// Where a protected item stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ItemState {
    /// Being set up; no complete point yet.
    InitialReplication,
    Protected,
    PlannedFailover,
    UnplannedFailover,
    /// Runs at the other side; the failover is not final yet (R-FO-4).
    CommitPending,
    /// On its way back to the side that it was failed over from (R-FO-4).
    RollingBack,
    /// Runs, and is not replicated anywhere (R-FO-5).
    NotProtected,
    ReverseReplication,
    Unprotecting,
    /// A run failed at it.
    Failed,
    /// The item is to be deleted. Never stored: the row goes away instead.
    Removed,
}

/// What moves an item: something that an operator asks for, or something that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    // Asked for by an operator.
    TestFailover,
    PlannedFailover,
    UnplannedFailover,
    /// Another recovery point, before the commit.
    ChangePoint,
    /// Back to the old side, before the commit.
    RollBack,
    Commit,
    ReverseReplicate,
    /// In the other direction in one run, which copies while the machine runs and then waits (R-FB).
    Failback,
    /// The same with the machine shut down first.
    FailbackDuring,
    Unprotect,
    /// Replication sends nothing until it is resumed.
    Pause,
    Resume,
    // Happened.
    /// The first whole point of the item's present direction is at the standby side.
    FirstPoint,
    /// The machine runs at the other side.
    FailedOver,
    /// The machine runs at its old side again, which is replicated as before.
    RolledBack,
    /// The run that holds the item stopped at an error.
    RunFailed,
    ReverseReplicationFailed,
    /// The replica was let go.
    Unprotected,
    /// The run that failed was retried.
    ProtectResumed,
    PlannedFailoverResumed,
    UnplannedFailoverResumed,
    RollBackResumed,
    UnprotectResumed,
    /// A roll-back was given up before it had done anything to the item.
    RollBackCancelled,
    /// The run was cancelled before its point of no return, and the item is as before.
    ProtectCancelled,
    ReturnedProtected,
    ReturnedNotProtected,
}

use ItemState::*;

/// The protocol.
#[rustfmt::skip]
pub const TRANSITIONS: &[(ItemState, Verb, ItemState)] = &[
    (InitialReplication, Verb::FirstPoint,               Protected),
    (InitialReplication, Verb::RunFailed,                Failed),
    (InitialReplication, Verb::ProtectCancelled,         Removed),

    (Protected,          Verb::TestFailover,             Protected),
    (Protected,          Verb::PlannedFailover,          PlannedFailover),
    (Protected,          Verb::UnplannedFailover,        UnplannedFailover),
    // It is protected in that direction already. Completing the failback is a planned failover.
    (Protected,          Verb::Failback,                 Protected),
    (Protected,          Verb::Unprotect,                Unprotecting),
    // Like a test, a pause is recorded apart from the state.
    (Protected,          Verb::Pause,                    Protected),
    (Protected,          Verb::Resume,                   Protected),

    (PlannedFailover,    Verb::FailedOver,               CommitPending),
    (PlannedFailover,    Verb::RunFailed,                Failed),
    (PlannedFailover,    Verb::ReturnedProtected,        Protected),
    (PlannedFailover,    Verb::ReturnedNotProtected,     NotProtected),

    (UnplannedFailover,  Verb::FailedOver,               CommitPending),
    (UnplannedFailover,  Verb::RunFailed,                Failed),
    (UnplannedFailover,  Verb::ReturnedProtected,        Protected),

    // Commit ends the failover. Reverse replication, where it follows by itself, is a step of its own (R-FO-5).
    (CommitPending,      Verb::Commit,                   NotProtected),
    // The machine is made anew from another point; the item is what it was while it was being failed over.
    (CommitPending,      Verb::ChangePoint,              UnplannedFailover),
    (CommitPending,      Verb::RollBack,                 RollingBack),

    (RollingBack,        Verb::RolledBack,               Protected),
    (RollingBack,        Verb::RunFailed,                Failed),
    (RollingBack,        Verb::RollBackCancelled,        CommitPending),

    (NotProtected,       Verb::ReverseReplicate,         ReverseReplication),
    (NotProtected,       Verb::Failback,                 ReverseReplication),
    (NotProtected,       Verb::FailbackDuring,           PlannedFailover),
    (NotProtected,       Verb::Unprotect,                Unprotecting),
    (ReverseReplication, Verb::FirstPoint,               Protected),
    (ReverseReplication, Verb::ReverseReplicationFailed, NotProtected),

    (Unprotecting,       Verb::Unprotected,              Removed),
    (Unprotecting,       Verb::RunFailed,                Failed),
    (Unprotecting,       Verb::ReturnedProtected,        Protected),
    (Unprotecting,       Verb::ReturnedNotProtected,     NotProtected),

    (Failed,             Verb::ProtectResumed,           InitialReplication),
    (Failed,             Verb::ProtectCancelled,         Removed),
    (Failed,             Verb::PlannedFailoverResumed,   PlannedFailover),
    (Failed,             Verb::UnplannedFailoverResumed, UnplannedFailover),
    (Failed,             Verb::UnprotectResumed,         Unprotecting),
    (Failed,             Verb::RollBackResumed,          RollingBack),
    (Failed,             Verb::ReturnedProtected,        Protected),
    (Failed,             Verb::ReturnedNotProtected,     NotProtected),
    // An unplanned failover ended with an error in this item (R-UF-4): a new one tries again.
    (Failed,             Verb::UnplannedFailover,        UnplannedFailover),
];

impl ItemState {
    pub const ALL: [Self; 11] = [
        InitialReplication,
        Protected,
        PlannedFailover,
        UnplannedFailover,
        CommitPending,
        RollingBack,
        NotProtected,
        ReverseReplication,
        Unprotecting,
        Failed,
        Removed,
    ];

    /// As people read it and as it is stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            InitialReplication => "initial-replication",
            Protected => "protected",
            PlannedFailover => "planned-failover",
            UnplannedFailover => "unplanned-failover",
            CommitPending => "commit-pending",
            RollingBack => "rolling-back",
            NotProtected => "not-protected",
            ReverseReplication => "reverse-replication",
            Unprotecting => "unprotecting",
            Failed => "failed",
            Removed => "removed",
        }
    }

    /// The state that [`ItemState::as_str`] writes so.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

impl fmt::Display for ItemState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Verb {
    /// Whether a person asks for it; the other verbs happen.
    pub const fn is_operators(self) -> bool {
        matches!(
            self,
            Self::TestFailover
                | Self::PlannedFailover
                | Self::UnplannedFailover
                | Self::ChangePoint
                | Self::RollBack
                | Self::Commit
                | Self::ReverseReplicate
                | Self::Failback
                | Self::FailbackDuring
                | Self::Unprotect
                | Self::Pause
                | Self::Resume
        )
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TestFailover => "test-failover",
            Self::PlannedFailover => "planned-failover",
            Self::UnplannedFailover => "unplanned-failover",
            Self::ChangePoint => "change-point",
            Self::RollBack => "roll-back",
            Self::Commit => "commit",
            Self::ReverseReplicate => "reverse-replicate",
            Self::Failback => "failback",
            Self::FailbackDuring => "failback-during",
            Self::Unprotect => "unprotect",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::FirstPoint => "first-point",
            Self::FailedOver => "failed-over",
            Self::RolledBack => "rolled-back",
            Self::RunFailed => "run-failed",
            Self::ReverseReplicationFailed => "reverse-replication-failed",
            Self::Unprotected => "unprotected",
            Self::ProtectResumed => "protect-resumed",
            Self::PlannedFailoverResumed => "planned-failover-resumed",
            Self::UnplannedFailoverResumed => "unplanned-failover-resumed",
            Self::RollBackResumed => "roll-back-resumed",
            Self::UnprotectResumed => "unprotect-resumed",
            Self::RollBackCancelled => "roll-back-cancelled",
            Self::ProtectCancelled => "protect-cancelled",
            Self::ReturnedProtected => "returned-protected",
            Self::ReturnedNotProtected => "returned-not-protected",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A verb that the table does not list for the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an item that is {state} does not take {verb}")]
pub struct NotListed {
    pub state: ItemState,
    pub verb: Verb,
}

/// # Errors
/// When the table does not list the pair.
pub fn next(state: ItemState, verb: Verb) -> Result<ItemState, NotListed> {
    TRANSITIONS
        .iter()
        .find(|(from, with, _)| *from == state && *with == verb)
        .map(|(_, _, to)| *to)
        .ok_or(NotListed { state, verb })
}

/// What an operator may ask of an item in this state, in the table's order. A run that holds the item may be in the way all
/// the same: see [`conflict`](crate::conflict).
pub fn allowed_actions(state: ItemState) -> Vec<Verb> {
    let of_state = TRANSITIONS.iter().filter(|(from, verb, _)| *from == state && verb.is_operators());
    of_state.map(|(_, verb, _)| *verb).collect()
}

/// What has an item in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldBy {
    Run,
    /// It runs beside replication (R-TF-7).
    Test,
}

/// Which of them make sense now: what a run holds is moved on by the run's own verbs, except that a test runs beside replication and gives way to a
/// real failover.
pub fn allowed_now(state: ItemState, hold: Option<HeldBy>, paused: bool) -> Vec<Verb> {
    let mut verbs = allowed_actions(state);
    match hold {
        None => {}
        Some(HeldBy::Test) => verbs.retain(|verb| {
            use Verb::{Pause, PlannedFailover, Resume, UnplannedFailover};
            matches!(verb, Pause | Resume | PlannedFailover | UnplannedFailover)
        }),
        Some(HeldBy::Run) => verbs.clear(),
    }
    verbs.retain(|verb| match verb {
        Verb::Pause => !paused,
        Verb::Resume => paused,
        // Its last delta would not come.
        Verb::PlannedFailover | Verb::Failback => !paused,
        _ => true,
    });
    verbs
}

/// Everything that stands against pausing or resuming replication of an item, or having it follow another policy (R-REP-8).
pub fn against_steering(
    item: &ItemName,
    state: ItemState,
    hold: Option<HeldBy>,
    verb: Option<Verb>,
) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut stands = |reason: &str, message: String, remedy: &str| {
        found.push(Problem::new(reason, format!("protectedItems/{item}"), message, remedy));
    };
    if hold == Some(HeldBy::Run) {
        let message = "a run has the item in hand".to_owned();
        stands("ITEM_HELD", message, "Wait for the run's end, or end it.");
    } else if let Some(Err(not_listed)) = verb.map(|verb| next(state, verb)) {
        stands("WRONG_STATE", not_listed.to_string(), "Do so while the item is protected.");
    }
    found
}

/// The table as a Mermaid state diagram, for the documentation.
pub fn mermaid() -> String {
    let mut text = String::from("stateDiagram-v2\n    [*] --> initial-replication\n");
    for (from, verb, to) in TRANSITIONS {
        let to = if *to == Removed { "[*]" } else { to.as_str() };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "    {from} --> {to}: {verb}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    type Table<'a> = &'a [(ItemState, Verb, ItemState)];
    type Life<'a> = &'a [(Verb, ItemState)];

    /// What an item lives through, told as the requirements tell it, without looking at the table.
    #[rustfmt::skip]
    const LIVES: &[(&str, ItemState, Life<'_>)] = &[
        ("R-REP-1: protecting", InitialReplication, &[(Verb::FirstPoint, Protected)]),
        ("protecting fails, is retried", InitialReplication, &[
            (Verb::RunFailed, Failed), (Verb::ProtectResumed, InitialReplication), (Verb::FirstPoint, Protected)]),
        ("protecting is cancelled", InitialReplication, &[(Verb::ProtectCancelled, Removed)]),
        ("protecting fails and is cancelled", InitialReplication, &[
            (Verb::RunFailed, Failed), (Verb::ProtectCancelled, Removed)]),
        ("R-TF-1: a test changes nothing", Protected, &[(Verb::TestFailover, Protected)]),
        ("R-REP-8: replication is paused and resumed", Protected, &[
            (Verb::Pause, Protected), (Verb::Resume, Protected)]),
        ("R-PF, R-FO-4, R-FO-5: planned failover, then protected in reverse", Protected, &[
            (Verb::PlannedFailover, PlannedFailover), (Verb::FailedOver, CommitPending), (Verb::Commit, NotProtected),
            (Verb::ReverseReplicate, ReverseReplication), (Verb::FirstPoint, Protected)]),
        ("R-PF-3: planned failover stops at an error and continues", Protected, &[
            (Verb::PlannedFailover, PlannedFailover), (Verb::RunFailed, Failed),
            (Verb::PlannedFailoverResumed, PlannedFailover), (Verb::FailedOver, CommitPending)]),
        ("planned failover is cancelled after an error", Protected, &[
            (Verb::PlannedFailover, PlannedFailover), (Verb::RunFailed, Failed), (Verb::ReturnedProtected, Protected)]),
        ("planned failover is cancelled", Protected, &[
            (Verb::PlannedFailover, PlannedFailover), (Verb::ReturnedProtected, Protected)]),
        ("R-UF, R-FO-5: unplanned failover ends unprotected", Protected, &[
            (Verb::UnplannedFailover, UnplannedFailover), (Verb::FailedOver, CommitPending), (Verb::Commit, NotProtected)]),
        ("R-UF-4: unplanned failover fails in an item and is retried", Protected, &[
            (Verb::UnplannedFailover, UnplannedFailover), (Verb::RunFailed, Failed),
            (Verb::UnplannedFailoverResumed, UnplannedFailover), (Verb::FailedOver, CommitPending)]),
        ("R-UF-4: unplanned failover fails in an item and is started anew", UnplannedFailover, &[
            (Verb::RunFailed, Failed), (Verb::UnplannedFailover, UnplannedFailover)]),
        ("R-FO-4: another recovery point before the commit", UnplannedFailover, &[
            (Verb::FailedOver, CommitPending), (Verb::ChangePoint, UnplannedFailover), (Verb::FailedOver, CommitPending),
            (Verb::Commit, NotProtected)]),
        ("R-FO-4: back to the old side before the commit", UnplannedFailover, &[
            (Verb::FailedOver, CommitPending), (Verb::RollBack, RollingBack), (Verb::RolledBack, Protected)]),
        ("R-FO-4: rolling back stops at an error and continues", CommitPending, &[
            (Verb::RollBack, RollingBack), (Verb::RunFailed, Failed), (Verb::RollBackResumed, RollingBack),
            (Verb::RolledBack, Protected)]),
        ("R-FO-4: rolling back is given up before it has begun with the item", CommitPending, &[
            (Verb::RollBack, RollingBack), (Verb::RollBackCancelled, CommitPending)]),
        ("R-FB-1: failback of what is not protected", NotProtected, &[
            (Verb::Failback, ReverseReplication), (Verb::FirstPoint, Protected), (Verb::PlannedFailover, PlannedFailover),
            (Verb::FailedOver, CommitPending)]),
        ("R-FB-1: failback of what is protected in reverse is given up", Protected, &[(Verb::Failback, Protected)]),
        ("R-FB-2, R-FB-4: failback with the copy made during it is cancelled", NotProtected, &[
            (Verb::FailbackDuring, PlannedFailover), (Verb::ReturnedNotProtected, NotProtected)]),
        ("unplanned failover is cancelled", UnplannedFailover, &[(Verb::ReturnedProtected, Protected)]),
        ("R-UF-5: reverse replication fails and is tried again", NotProtected, &[
            (Verb::ReverseReplicate, ReverseReplication), (Verb::ReverseReplicationFailed, NotProtected),
            (Verb::ReverseReplicate, ReverseReplication)]),
        ("R-REP-8: unprotecting", Protected, &[(Verb::Unprotect, Unprotecting), (Verb::Unprotected, Removed)]),
        ("unprotecting what is not replicated", NotProtected, &[
            (Verb::Unprotect, Unprotecting), (Verb::ReturnedNotProtected, NotProtected)]),
        ("unprotecting fails, is retried, fails, is cancelled", Unprotecting, &[
            (Verb::RunFailed, Failed), (Verb::UnprotectResumed, Unprotecting), (Verb::ReturnedProtected, Protected)]),
        ("unprotecting what is not replicated fails and is cancelled", Unprotecting, &[
            (Verb::RunFailed, Failed), (Verb::ReturnedNotProtected, NotProtected)]),
    ];

    fn next_in(table: Table<'_>, state: ItemState, verb: Verb) -> Option<ItemState> {
        table.iter().find(|(from, with, _)| (*from, *with) == (state, verb)).map(|(_, _, to)| *to)
    }

    fn lives_are_possible(table: Table<'_>) -> Result<(), &'static str> {
        for (name, first, life) in LIVES {
            let mut state = *first;
            for (verb, then) in *life {
                state = next_in(table, state, *verb).filter(|to| to == then).ok_or(*name)?;
            }
        }
        Ok(())
    }

    #[test]
    fn the_lives_that_the_requirements_tell_are_possible() {
        assert_eq!(lives_are_possible(TRANSITIONS), Ok(()));
    }

    /// Each row is there for a reason: without it, or leading elsewhere, some life is not possible (invariant 10).
    #[test]
    fn no_row_can_be_removed_or_changed_unnoticed() {
        for index in 0..TRANSITIONS.len() {
            let mut table = TRANSITIONS.to_vec();
            let row = table.remove(index);
            assert!(lives_are_possible(&table).is_err(), "nobody misses {row:?}");
            for other in ItemState::ALL.into_iter().filter(|state| *state != row.2) {
                table.insert(index, (row.0, row.1, other));
                assert!(lives_are_possible(&table).is_err(), "{row:?} may lead to {other}");
                table.remove(index);
            }
        }
    }

    #[test]
    fn no_pair_is_listed_twice_and_what_is_not_listed_is_refused() {
        for state in ItemState::ALL {
            for (_, verb, _) in TRANSITIONS {
                let rows =
                    TRANSITIONS.iter().filter(|(from, with, _)| (from, with) == (&state, verb)).count();
                assert!(rows <= 1, "{state} takes {verb} twice");
                assert_eq!(next(state, *verb).is_ok(), rows == 1);
            }
        }
        assert_eq!(
            next(Protected, Verb::Commit).unwrap_err().to_string(),
            "an item that is protected does not take commit"
        );
    }

    /// Invariant 10: nothing stays for ever where nobody can move it. In states without an operator's verb a run holds the item.
    #[test]
    fn operators_get_exactly_the_listed_verbs() {
        use Verb as V;
        let expected: [(ItemState, &[V]); 11] = [
            (InitialReplication, &[]),
            (
                Protected,
                &[
                    V::TestFailover,
                    V::PlannedFailover,
                    V::UnplannedFailover,
                    V::Failback,
                    V::Unprotect,
                    V::Pause,
                    V::Resume,
                ],
            ),
            (PlannedFailover, &[]),
            (UnplannedFailover, &[]),
            (CommitPending, &[V::Commit, V::ChangePoint, V::RollBack]),
            (RollingBack, &[]),
            (NotProtected, &[V::ReverseReplicate, V::Failback, V::FailbackDuring, V::Unprotect]),
            (ReverseReplication, &[]),
            (Unprotecting, &[]),
            (Failed, &[V::UnplannedFailover]),
            (Removed, &[]),
        ];
        for (state, verbs) in expected {
            assert_eq!(allowed_actions(state), verbs, "{state}");
        }
    }

    #[test]
    fn the_diagram_has_one_line_per_row() {
        let text = mermaid();
        assert_eq!(text.lines().count(), TRANSITIONS.len() + 2);
        assert!(text.contains("    protected --> planned-failover: planned-failover\n"));
        assert!(text.contains("    unprotecting --> [*]: unprotected\n"));
    }

    #[test]
    fn states_are_written_and_read_alike() {
        for state in ItemState::ALL {
            assert_eq!(ItemState::parse(state.as_str()), Some(state));
        }
    }
}
