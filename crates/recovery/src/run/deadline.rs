//! What happens to a run that waits for a person for too long: a forgotten test is completed (R-TF-6), a failover is committed or rolled back
//! where that was asked for (R-FO-4).
//!
//! ```text
//!   a wait begins ─▶ waited 0 ── time passed, as somebody watched it pass ─▶ waited n ── limit reached ─▶ due
//! ```
//!
//! Counted is time that was watched, so that no jump of a clock and no second observer brings a deadline forward.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use understudy_ids::{Problem, UnixMicros};

use super::{Course, Refusal, Run, RunVerb, advance::Change, view};
use crate::plan::Operation;

/// What is done when the time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeadlineAction {
    Commit,
    /// Whoever asks for it gives up what will have been written at the target by then.
    RollBack,
}

impl DeadlineAction {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::RollBack => "roll-back",
        }
    }
}

/// What an operator wants to happen when the run has waited for its commit for so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadline {
    pub action: DeadlineAction,
    pub after: Duration,
}

/// The deadline of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetDeadline {
    pub deadline: Deadline,
    pub by: String,
    /// It was due, and could not be done for these reasons. It is not tried again by itself.
    pub failed: Vec<Problem>,
}

/// What is to be done now because the run has waited for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Whatever it waits for (R-TF-6); see [`ends_test`].
    EndTest,
    Deadline(DeadlineAction),
}

/// What the run is waited with, and how much of that time is left; `None` where it may wait for ever.
pub fn time_left(run: &Run, test_limit: Duration) -> Option<(Due, Duration)> {
    let waited = run.waited?.span;
    if run.plan.operation == Operation::TestFailover {
        return ends_test(run).map(|_| (Due::EndTest, test_limit.saturating_sub(waited)));
    }
    let set = run.deadline.as_ref().filter(|set| set.failed.is_empty())?;
    let verb = match set.deadline.action {
        DeadlineAction::Commit => RunVerb::Commit,
        DeadlineAction::RollBack => RunVerb::RollBack,
    };
    let left = set.deadline.after.saturating_sub(waited);
    view::allowed_actions(run).contains(&verb).then_some((Due::Deadline(set.deadline.action), left))
}

/// What ends a test at this moment: its completion where it waits for that, and otherwise a cancel. `None`: it is no test, or is being cleaned up.
pub fn ends_test(run: &Run) -> Option<RunVerb> {
    if run.plan.operation != Operation::TestFailover || matches!(run.course, Course::Ending(_)) {
        return None;
    }
    let allowed = view::allowed_actions(run);
    [RunVerb::CompleteTest, RunVerb::Cancel].into_iter().find(|verb| allowed.contains(verb))
}

/// In words, as part of what the run waits for.
pub(super) fn in_words(run: &Run) -> String {
    let Some(set) = &run.deadline else { return String::new() };
    let does = match set.deadline.action {
        DeadlineAction::Commit => "committed",
        DeadlineAction::RollBack => "rolled back",
    };
    match set.failed.first() {
        None => format!(" It is {does} by itself when it has waited for {}.", spelt(set.deadline.after)),
        Some(problem) => {
            format!(" It was to be {does} by itself, which could not be done: {}", problem.message)
        }
    }
}

fn spelt(span: Duration) -> String {
    let seconds = span.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, 0) => format!("{m} min"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, 0, _) => format!("{h} h"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

impl Change {
    /// Nobody is told: it is the same wait.
    pub(super) fn time_passed(&mut self, elapsed: Duration) {
        let now = self.now;
        self.run.waited = self.run.waited.map(|waited| waited.and(elapsed, now));
    }

    /// Where the deadline was taken away in the same moment, there is nothing to tell.
    pub(super) fn deadline_failed(&mut self, problems: &[Problem]) {
        if let Some(set) = self.run.deadline.as_mut() {
            set.failed = problems.to_vec();
            self.report_job();
        }
    }
}

/// The run with another deadline, or without one. What it has waited counts.
pub(super) fn set(
    run: &Run,
    deadline: Option<Deadline>,
    by: &str,
    at: UnixMicros,
) -> Result<Change, Refusal> {
    view::admitted(run, RunVerb::SetDeadline)?;
    let mut change = Change { run: run.clone(), effects: Vec::new(), now: at };
    change.run.deadline =
        deadline.map(|deadline| SetDeadline { deadline, by: by.to_owned(), failed: Vec::new() });
    change.report_job();
    Ok(change)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_spelt_for_people() {
        let all = [(5, "5 s"), (60, "1 min"), (90, "1 min 30 s"), (14_400, "4 h"), (5_400, "1 h 30 min")];
        for (seconds, text) in all {
            assert_eq!(spelt(Duration::from_secs(seconds)), text);
        }
    }
}
