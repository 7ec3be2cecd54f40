//! The life of a protected item as a table. What is not listed does not happen (invariant 10).
//!
//! ```text
//!   INITIAL ──▶ PROTECTED ──▶ PLANNED/UNPLANNED FAILOVER ──▶ COMMIT PENDING ──▶ NOT PROTECTED
//!                   ▲                                                                │
//!                   └───────────────────────── REVERSE REPLICATION ◀─────────────────┘
//! ```
//!
//! A test failover runs beside this table: it changes nothing about the item (R-TF-1) and is recorded apart from its state.
//! A run that failed leaves its items in FAILED until it is retried or cancelled.

use std::{fmt, fmt::Write};

use serde::{Deserialize, Serialize};

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
    Commit,
    ReverseReplicate,
    Unprotect,
    // Happened.
    /// The first whole point of the item's present direction is at the standby side.
    FirstPoint,
    /// The machine runs at the other side.
    FailedOver,
    /// The run that holds the item stopped at an error.
    RunFailed,
    ReverseReplicationFailed,
    /// The replica was let go.
    Unprotected,
    /// The run that failed was retried.
    ProtectResumed,
    PlannedFailoverResumed,
    UnplannedFailoverResumed,
    UnprotectResumed,
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
    (Protected,          Verb::Unprotect,                Unprotecting),

    (PlannedFailover,    Verb::FailedOver,               CommitPending),
    (PlannedFailover,    Verb::RunFailed,                Failed),
    (PlannedFailover,    Verb::ReturnedProtected,        Protected),

    (UnplannedFailover,  Verb::FailedOver,               CommitPending),
    (UnplannedFailover,  Verb::RunFailed,                Failed),
    (UnplannedFailover,  Verb::ReturnedProtected,        Protected),

    // Commit ends the failover. Reverse replication, where it follows by itself, is a step of its own (R-FO-5).
    (CommitPending,      Verb::Commit,                   NotProtected),

    (NotProtected,       Verb::ReverseReplicate,         ReverseReplication),
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
    (Failed,             Verb::ReturnedProtected,        Protected),
    (Failed,             Verb::ReturnedNotProtected,     NotProtected),
    // An unplanned failover ended with an error in this item (R-UF-4): a new one tries again.
    (Failed,             Verb::UnplannedFailover,        UnplannedFailover),
];

impl ItemState {
    pub const ALL: [Self; 10] = [
        InitialReplication,
        Protected,
        PlannedFailover,
        UnplannedFailover,
        CommitPending,
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
                | Self::Commit
                | Self::ReverseReplicate
                | Self::Unprotect
        )
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TestFailover => "test-failover",
            Self::PlannedFailover => "planned-failover",
            Self::UnplannedFailover => "unplanned-failover",
            Self::Commit => "commit",
            Self::ReverseReplicate => "reverse-replicate",
            Self::Unprotect => "unprotect",
            Self::FirstPoint => "first-point",
            Self::FailedOver => "failed-over",
            Self::RunFailed => "run-failed",
            Self::ReverseReplicationFailed => "reverse-replication-failed",
            Self::Unprotected => "unprotected",
            Self::ProtectResumed => "protect-resumed",
            Self::PlannedFailoverResumed => "planned-failover-resumed",
            Self::UnplannedFailoverResumed => "unplanned-failover-resumed",
            Self::UnprotectResumed => "unprotect-resumed",
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
