//! Bringing the guest to rest for a point when that is due, and saying what stood in the way when it cannot be had (R-REP-3).
//!
//! ```text
//!   due? ─▶ the snapshot's request ─▶ how the guest stood ─┬─ at rest, and the point is at the target ─▶ due in an interval
//!                                                          └─ not, or the point was lost ─▶ due sooner, and the facts say why
//! ```
//! A point is made in any case.

use std::time::{Duration, Instant};

use understudy_hypervisor::{GuestState, NotQuiesced, Quiesce, QuiesceFailure};
use understudy_ids::Problem;
use understudy_replication::{
    AppConsistency,
    at_rest::{self, LastRest},
};

use super::{Source, State};

/// When the guest was asked to come to rest the last time, and whether a point of that instant is at the target.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    at: Instant,
    succeeded: bool,
}

impl Source {
    /// What the next snapshot asks of the guest.
    pub(super) fn quiesce(&self, state: &State) -> Option<Quiesce> {
        let asked = self.held().terms.settings.app_consistency?;
        due_in(asked, state).is_zero().then_some(Quiesce { limit: asked.freeze_limit })
    }

    /// For how long from now on the guest is left alone; nothing where nobody asks for app-consistent points, or where it is overdue, as
    /// with a machine that is off.
    pub(super) fn rests_in(&self, state: &State) -> Option<Duration> {
        let asked = self.held().terms.settings.app_consistency?;
        Some(due_in(asked, state)).filter(|due| !due.is_zero())
    }

    /// Notes how the guest stood when it was to be brought to rest. Until its point is at the target that counts as a failure.
    pub(super) fn asked_to_rest(&self, state: &mut State, guest: &GuestState) {
        let item = self.item.to_string();
        let problem = match guest {
            // It is off: nobody was asked, and nothing is wrong.
            GuestState::Clean | GuestState::Crash { not_quiesced: None } => {
                return self.status.send_modify(|s| s.not_at_rest = None);
            }
            GuestState::Application { frozen } => {
                metrics::histogram!("understudy_replication_frozen_seconds", "item" => item).record(*frozen);
                None
            }
            GuestState::Crash { not_quiesced: Some(why) } => {
                tracing::warn!(item = %self.item, %why, "the guest was not brought to rest; its point is crash-consistent");
                metrics::counter!("understudy_replication_not_at_rest_total", "item" => item).increment(1);
                Some(problem(why, &format!("protectedItems/{}", self.item)))
            }
        };
        state.asked = Some(Asked { at: Instant::now(), succeeded: false });
        self.status.send_modify(|s| s.not_at_rest = problem);
    }

    /// A point of this guest is at the target.
    pub(super) fn rested(&self, state: &mut State, guest: &GuestState) {
        if let (GuestState::Application { .. }, Some(asked)) = (guest, &mut state.asked) {
            asked.succeeded = true;
        }
    }
}

fn due_in(asked: AppConsistency, state: &State) -> Duration {
    let last = state.asked.map(|a| LastRest { ago: a.at.elapsed(), succeeded: a.succeeded });
    at_rest::due_in(asked.every, last)
}

fn problem(why: &NotQuiesced, subject: &str) -> Problem {
    let (reason, remedy) = match why.failure {
        QuiesceFailure::NoAgent => (
            "GUEST_AGENT_MISSING",
            "Give the machine a channel org.qemu.guest_agent.0 and its guest an agent (qemu-guest-agent).",
        ),
        QuiesceFailure::NoAnswer => (
            "GUEST_AGENT_SILENT",
            "Start the agent in the guest (qemu-guest-agent), or look at what keeps it busy.",
        ),
        QuiesceFailure::Refused => (
            "GUEST_FREEZE_REFUSED",
            "Look at the log of the guest's agent: one of its freeze scripts has failed, or a file system.",
        ),
        QuiesceFailure::NothingToFreeze => (
            "GUEST_NOTHING_TO_FREEZE",
            "Mount a file system in the guest, or drop app-consistent points from its policy.",
        ),
        QuiesceFailure::TooLong => (
            "GUEST_FREEZE_TOO_LONG",
            "Raise the policy's freeze limit, or look at what slows the guest's scripts or the hypervisor down.",
        ),
        QuiesceFailure::NoGuard => (
            "THAW_GUARD_MISSING",
            "Look at the agent's log on the machine's host: it could not start its own program.",
        ),
    };
    Problem::new(reason, subject, why.to_string(), remedy)
}
