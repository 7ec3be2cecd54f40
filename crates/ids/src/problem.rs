//! One reason why something cannot go on, said so that a person can act on it and a program can recognise it.
//!
//! The same type on all floors: pure code returns it, stores keep it with a job or task, the RPC layer carries it in errors.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What is wrong, with what, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Problem {
    /// Stable, for programs: UPPER_SNAKE_CASE.
    pub reason: String,
    /// What it is about: a resource name or a field path such as `tasks[3].queue`.
    pub subject: String,
    /// What is wrong, in a sentence.
    pub message: String,
    /// What to do about it, in a sentence; empty when the message says so already.
    pub remedy: String,
}

impl Problem {
    pub fn new(
        reason: impl Into<String>,
        subject: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            reason: reason.into(),
            subject: subject.into(),
            message: message.into(),
            remedy: remedy.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({}). {}", self.subject, self.message, self.reason, self.remedy)
    }
}

impl std::error::Error for Problem {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_reads_as_what_it_is_about_what_is_wrong_and_what_to_do() {
        let problem = Problem::new("LEASE_LOST", "jobs/1/tasks/2", "attempt 1 is over", "Drop its result.");
        assert_eq!(problem.to_string(), "jobs/1/tasks/2: attempt 1 is over (LEASE_LOST). Drop its result.");
    }
}
