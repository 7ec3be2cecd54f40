//! What an agent is to an item, and how that changes: the table that fencing rests on (R-FO-7).
//!
//! ```text
//!   now \ asked   Receive            Activate           Fence     Keep
//!   ───────────   ─────────────────  ─────────────────  ───────   ──────────────────
//!   source        = refused          source             fenced    = source   > fenced
//!                 > target
//!   target        target             source             fenced    target
//!   fenced        target             = refused          fenced    fenced
//!                                    > source
//! ```
//! `=` at the generation that was seen before, `>` at a higher one. At a lower one everything is refused before this table
//! is asked. A source that hears of a higher generation in passing has been superseded, so it is fenced.

use serde::{Deserialize, Serialize};

/// The agent's place in the protection of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The machine that production uses is here, or is to be here.
    Source,
    /// Receives recovery points.
    Target,
    /// Was active at a lower generation: starts, sends and accepts nothing.
    Fenced,
}

/// What a task asks of the agent's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Be the target: prepare a replica, adopt disks.
    Receive,
    /// Be the active side: promote, start, replicate from here.
    Activate,
    Fence,
    /// Anything else.
    Keep,
}

/// Why a place does not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The active side cannot receive at its own generation.
    ActiveHere,
    /// A fenced side becomes active only at a higher generation.
    Fenced,
}

/// Whether the task's generation is the one that was seen before or a higher one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    Same,
    Higher,
}

/// The place after a task with this verb.
pub const fn next(now: Role, seen: Seen, verb: Verb) -> Result<Role, Refused> {
    match (now, verb, seen) {
        (Role::Source, Verb::Receive, Seen::Same) => Err(Refused::ActiveHere),
        (Role::Fenced, Verb::Activate, Seen::Same) => Err(Refused::Fenced),
        (_, Verb::Receive, _) => Ok(Role::Target),
        (_, Verb::Activate, _) => Ok(Role::Source),
        (_, Verb::Fence, _) | (Role::Source, Verb::Keep, Seen::Higher) => Ok(Role::Fenced),
        (now, Verb::Keep, _) => Ok(now),
    }
}

/// The place of an agent that has heard nothing of the item so far; `None`: still nothing.
pub const fn first(verb: Verb) -> Option<Role> {
    match verb {
        Verb::Receive => Some(Role::Target),
        Verb::Activate => Some(Role::Source),
        Verb::Fence => Some(Role::Fenced),
        Verb::Keep => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R-FO-7: every cell of the table.
    #[test]
    fn the_table_is_what_the_code_does() {
        use {Role::*, Seen::*, Verb::*};
        let table = [
            (Source, Receive, Same, Err(Refused::ActiveHere)),
            (Source, Receive, Higher, Ok(Target)),
            (Source, Activate, Same, Ok(Source)),
            (Source, Activate, Higher, Ok(Source)),
            (Source, Verb::Fence, Same, Ok(Fenced)),
            (Source, Verb::Fence, Higher, Ok(Fenced)),
            (Source, Keep, Same, Ok(Source)),
            (Source, Keep, Higher, Ok(Fenced)),
            (Target, Receive, Same, Ok(Target)),
            (Target, Receive, Higher, Ok(Target)),
            (Target, Activate, Same, Ok(Source)),
            (Target, Activate, Higher, Ok(Source)),
            (Target, Verb::Fence, Same, Ok(Fenced)),
            (Target, Verb::Fence, Higher, Ok(Fenced)),
            (Target, Keep, Same, Ok(Target)),
            (Target, Keep, Higher, Ok(Target)),
            (Fenced, Receive, Same, Ok(Target)),
            (Fenced, Receive, Higher, Ok(Target)),
            (Fenced, Activate, Same, Err(Refused::Fenced)),
            (Fenced, Activate, Higher, Ok(Source)),
            (Fenced, Verb::Fence, Same, Ok(Fenced)),
            (Fenced, Verb::Fence, Higher, Ok(Fenced)),
            (Fenced, Keep, Same, Ok(Fenced)),
            (Fenced, Keep, Higher, Ok(Fenced)),
        ];
        for (now, verb, seen, expected) in table {
            assert_eq!(next(now, seen, verb), expected, "{now:?} {verb:?} {seen:?}");
        }
    }
}
