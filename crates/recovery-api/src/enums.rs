//! The closed sets of values of the API, each with its wire form and the word that people read and type.

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};

use crate::v1;

/// A word that is none of a closed set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what}: use one of {allowed}")]
pub struct InvalidWord {
    pub what: &'static str,
    pub text: String,
    pub allowed: String,
}

macro_rules! wire_enum {
    ($(#[$doc:meta])* $name:ident, $what:literal, $wire:ident { $($(#[$vdoc:meta])* $variant:ident => $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$vdoc])* $variant,)*
        }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The word for it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }

            pub const fn to_wire(self) -> v1::$wire {
                match self {
                    $(Self::$variant => v1::$wire::$variant,)*
                }
            }

            /// Nothing for "unspecified" and for numbers that this version does not know.
            pub fn from_wire(number: i32) -> Option<Self> {
                match v1::$wire::try_from(number).ok()? {
                    v1::$wire::Unspecified => None,
                    $(v1::$wire::$variant => Some(Self::$variant),)*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // Through `pad`, so that tables can align it.
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = InvalidWord;
            fn from_str(text: &str) -> Result<Self, InvalidWord> {
                Self::ALL.iter().copied().find(|v| v.as_str() == text).ok_or_else(|| InvalidWord {
                    what: $what,
                    text: text.chars().take(80).collect(),
                    allowed: Self::ALL.iter().map(|v| v.as_str()).collect::<Vec<_>>().join(", "),
                })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    };
}

wire_enum!(
    /// What kind of place a site is; with it the direction table decides what is possible (R-DIR).
    SiteKind, "site kind", SiteKind {
        PrivateCloud => "private-cloud",
        Hypervisor => "hypervisor",
        Vmware => "vmware",
        Physical => "physical",
        PublicCloud => "public-cloud",
    }
);
wire_enum!(
    /// What a machine's hypervisor says of its power. *Unknown* is an answer of its own (invariant 16).
    Power, "power state", Power {
        Running => "running",
        Paused => "paused",
        ShutOff => "shut-off",
        Unknown => "unknown",
    }
);
wire_enum!(
    /// Where a protected item stands.
    ItemState, "item state", ItemState {
        InitialReplication => "initial-replication",
        Protected => "protected",
        PlannedFailover => "planned-failover",
        UnplannedFailover => "unplanned-failover",
        CommitPending => "commit-pending",
        NotProtected => "not-protected",
        ReverseReplication => "reverse-replication",
        Unprotecting => "unprotecting",
        Failed => "failed",
        RollingBack => "rolling-back",
    }
);
wire_enum!(
    /// Replication health (R-REP-9).
    HealthLevel, "health level", HealthLevel {
        Ok => "ok",
        Warning => "warning",
        Critical => "critical",
        Unknown => "unknown",
    }
);
wire_enum!(
    /// What a run does.
    Operation, "operation", Operation {
        Protect => "protect",
        Unprotect => "unprotect",
        TestFailover => "test-failover",
        PlannedFailover => "planned-failover",
        UnplannedFailover => "unplanned-failover",
        ReverseReplicate => "reverse-replicate",
        Failback => "failback",
    }
);
wire_enum!(
    /// When the data of a failback is copied (R-FB-2).
    Synchronise, "time of synchronisation", Synchronise {
        /// While the machines run; the run waits then.
        Before => "before",
        /// When they have been shut down, all of it.
        During => "during",
    }
);
wire_enum!(
    /// What happens to a failover that has waited for its commit for so long (R-FO-4).
    DeadlineAction, "deadline action", DeadlineAction {
        Commit => "commit",
        RollBack => "roll-back",
    }
);
wire_enum!(
    /// Where a run stands (R-JOB-1).
    RunState, "run state", RunState {
        Running => "running",
        /// For complete-test, complete-failover or commit.
        Waiting => "waiting",
        CleaningUp => "cleaning-up",
        Succeeded => "succeeded",
        CompletedWithErrors => "completed-with-errors",
        /// Stopped at an error; can be retried or cancelled as its allowed actions say.
        Failed => "failed",
        Cancelled => "cancelled",
        /// The machines run where they ran before the failover.
        RolledBack => "rolled-back",
    }
);
wire_enum!(
    /// Where a step of a run stands.
    StepState, "step state", StepState {
        Pending => "pending",
        Running => "running",
        Succeeded => "succeeded",
        Failed => "failed",
        Skipped => "skipped",
    }
);

impl RunState {
    /// Whether nothing will happen to the run any more.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::CompletedWithErrors | Self::Cancelled | Self::RolledBack)
    }
}

/// Whether a state-changing call was let through (invariant 12).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    Allowed,
    Refused,
}

impl Decision {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Refused => "refused",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Allowed, Self::Refused].into_iter().find(|d| d.as_str() == text)
    }
}

/// The planner's word for it, both ways.
macro_rules! planners_operation {
    ($($variant:ident,)*) => {
        impl From<Operation> for understudy_recovery::Operation {
            fn from(operation: Operation) -> Self {
                match operation { $(Operation::$variant => Self::$variant,)* }
            }
        }

        impl From<understudy_recovery::Operation> for Operation {
            fn from(operation: understudy_recovery::Operation) -> Self {
                match operation { $(understudy_recovery::Operation::$variant => Self::$variant,)* }
            }
        }
    };
}

planners_operation!(
    Protect,
    Unprotect,
    TestFailover,
    PlannedFailover,
    UnplannedFailover,
    ReverseReplicate,
    Failback,
);

impl From<Synchronise> for understudy_recovery::plan::Synchronise {
    fn from(synchronise: Synchronise) -> Self {
        match synchronise {
            Synchronise::Before => Self::Before,
            Synchronise::During => Self::During,
        }
    }
}

impl From<understudy_recovery::plan::Synchronise> for Synchronise {
    fn from(synchronise: understudy_recovery::plan::Synchronise) -> Self {
        use understudy_recovery::plan::Synchronise::{Before, During};
        match synchronise {
            Before => Self::Before,
            During => Self::During,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_wire_forms_lead_back_to_the_value() {
        for state in RunState::ALL {
            assert_eq!(state.as_str().parse(), Ok(*state));
            assert_eq!(RunState::from_wire(state.to_wire() as i32), Some(*state));
        }
        for operation in Operation::ALL {
            assert_eq!(Operation::from_wire(operation.to_wire() as i32), Some(*operation));
        }
    }

    #[test]
    fn unspecified_and_unknown_numbers_are_no_value() {
        for number in [0, -1, 99] {
            assert_eq!(SiteKind::from_wire(number), None);
        }
        let error = "test".parse::<Operation>().unwrap_err();
        assert!(error.to_string().contains("test-failover"), "{error}");
    }
}
