//! Reading a message so that everything wrong with it is found at once.
//!
//! A [`Check`] walks the fields of one message, notes a [`Problem`] for each that cannot be taken, and hands out a value in any
//! case; [`Check::done`] gives the whole only when nothing was noted. All limits of the area stand here (invariant 14).

use std::{collections::BTreeMap, fmt};

use understudy_ids::{Problem, UnixMicros, Uuid};
use understudy_rpc::{ApiError, Kind};
use understudy_types_api::{Any, MAX_PROBLEMS, check_any, problem_from_wire, time_from_wire, v1 as types};

/// Most tasks in one call.
pub const MAX_TASKS_PER_CALL: usize = 1000;
/// Most attempts that a task can be given.
pub const MAX_ATTEMPTS: u32 = 1000;
/// Longest note, in bytes.
pub const MAX_NOTE_BYTES: usize = 16 * 1024;
/// Longest report, in bytes.
pub const MAX_REPORT_BYTES: usize = 1 << 20;
/// Most bytes that all problems of a job take together, so that a job always fits into one message.
pub const MAX_PROBLEMS_BYTES: usize = 256 * 1024;
pub const MAX_TARGETS: usize = 1000;
pub const MAX_LABELS: usize = 64;
pub const MAX_ACTIONS: usize = 32;
/// Most tasks that a worker asks for at once.
pub const MAX_CREDITS: u32 = 1000;
/// Longest name of any kind, in bytes.
pub const MAX_NAME: usize = 300;
/// Longest line of text for people, in bytes.
pub const MAX_LINE: usize = 1000;
/// Longest instruction for people, in bytes.
pub const MAX_PARAGRAPH: usize = 4096;

/// Everything that is wrong with a message. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    pub problems: Vec<Problem>,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}

/// Collects what is wrong. Once [`Check::MAX`] problems are known, more are counted and no longer kept.
#[derive(Debug, Default)]
pub(crate) struct Check {
    problems: Vec<Problem>,
    prefix: String,
}

impl Check {
    const MAX: usize = 100;

    pub(crate) fn note(
        &mut self,
        reason: &'static str,
        field: &str,
        message: impl Into<String>,
        remedy: &str,
    ) {
        if self.problems.len() < Self::MAX {
            self.problems.push(Problem::new(reason, format!("{}{field}", self.prefix), message, remedy));
        }
    }

    /// Reads the elements of a list, each under its own path such as `tasks[3].`
    pub(crate) fn each<A, B>(
        &mut self,
        field: &str,
        max: usize,
        list: Vec<A>,
        mut read: impl FnMut(&mut Self, A) -> B,
    ) -> Vec<B> {
        if list.len() > max {
            self.note(
                "TOO_MANY",
                field,
                format!("has {} elements, the most is {max}", list.len()),
                "Split it.",
            );
            return Vec::new();
        }
        let outer = self.prefix.clone();
        let mut read_one = |(i, element)| {
            self.prefix = format!("{outer}{field}[{i}].");
            read(self, element)
        };
        let all = list.into_iter().enumerate().map(&mut read_one).collect();
        self.prefix = outer;
        all
    }

    pub(crate) fn done<T>(self, value: Option<T>) -> Result<T, Invalid> {
        match (value, self.problems.is_empty()) {
            (Some(value), true) => Ok(value),
            (None, true) => Err(Invalid {
                problems: vec![Problem::new("REQUIRED", "", "a required field is missing", "Set it.")],
            }),
            _ => Err(Invalid { problems: self.problems }),
        }
    }

    /// A text that may be empty. Control characters other than line breaks and tabs are refused: Postgres cannot keep some of
    /// them, and the others play tricks on terminals.
    pub(crate) fn text(&mut self, field: &str, text: String, max: usize) -> String {
        if text.len() > max {
            self.note(
                "TOO_LONG",
                field,
                format!("is {} bytes, the most is {max}", text.len()),
                "Shorten it.",
            );
        } else if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
            self.note("INVALID", field, "contains control characters", "Remove them.");
        }
        text
    }

    /// A text that must not be empty.
    pub(crate) fn required(&mut self, field: &str, text: String, max: usize) -> String {
        if text.is_empty() {
            self.note("REQUIRED", field, "is missing", "Set it.");
        }
        self.text(field, text, max)
    }

    pub(crate) fn parse<T: std::str::FromStr<Err: fmt::Display>>(
        &mut self,
        field: &str,
        text: &str,
    ) -> Option<T> {
        let parsed = text.parse::<T>();
        if let Err(error) = &parsed {
            self.note("INVALID", field, error.to_string(), "Correct it.");
        }
        parsed.ok()
    }

    pub(crate) fn uuid(&mut self, field: &str, text: &str) -> Option<Uuid> {
        let id = text.parse::<Uuid>().ok().filter(|id| !id.is_nil() && id.to_string() == text);
        if id.is_none() {
            let shown: String = text.chars().take(80).collect();
            self.note(
                "INVALID",
                field,
                format!("{shown:?} is not a UUID"),
                "Send a new UUID in lower case with hyphens, and the same one when the call is repeated.",
            );
        }
        id
    }

    pub(crate) fn percent(&mut self, field: &str, percent: u32) -> u32 {
        if percent > 100 {
            self.note("INVALID", field, format!("is {percent}"), "Send 0 to 100.");
        }
        percent
    }

    pub(crate) fn time(&mut self, field: &str, time: Option<prost_types::Timestamp>) -> Option<UnixMicros> {
        let read = time.map(time_from_wire).transpose();
        if let Err(error) = &read {
            self.note("INVALID", field, error.to_string(), "Send a time of the Gregorian calendar.");
        }
        read.ok().flatten()
    }

    pub(crate) fn any(&mut self, field: &str, any: Option<Any>) -> Option<Any> {
        match any.as_ref().map(check_any) {
            None => self.note("REQUIRED", field, "is missing", "Set it."),
            Some(Err(error)) => self.note("INVALID", field, error.to_string(), "Send a message in an Any."),
            Some(Ok(())) => {}
        }
        any
    }

    pub(crate) fn problem(&mut self, field: &str, problem: types::Problem) -> Option<Problem> {
        let read = problem_from_wire(problem);
        if let Err(part) = &read {
            self.note("INVALID", &format!("{field}.{part}"), "is missing or too long", "Correct it.");
        }
        let problem = read.ok()?;
        let texts = [&*problem.reason, &problem.subject, &problem.message, &problem.remedy];
        if texts.into_iter().any(|t| t.contains('\0')) {
            self.note("INVALID", field, "contains control characters", "Remove them.");
        }
        Some(problem)
    }

    pub(crate) fn problems(&mut self, field: &str, problems: Vec<types::Problem>) -> Vec<Problem> {
        let bytes: usize = problems
            .iter()
            .map(|p| p.reason.len() + p.subject.len() + p.message.len() + p.remedy.len())
            .sum();
        if bytes > MAX_PROBLEMS_BYTES {
            self.note(
                "TOO_LARGE",
                field,
                format!("takes {bytes} bytes, the most is {MAX_PROBLEMS_BYTES}"),
                "Keep the most important ones.",
            );
            return Vec::new();
        }
        let read = self.each(field, MAX_PROBLEMS, problems, |check, problem| check.problem("", problem));
        read.into_iter().flatten().collect()
    }

    pub(crate) fn labels(&mut self, labels: BTreeMap<String, String>) -> BTreeMap<String, String> {
        if labels.len() > MAX_LABELS {
            self.note(
                "TOO_MANY",
                "labels",
                format!("has {} entries, the most is {MAX_LABELS}", labels.len()),
                "Drop some.",
            );
            return BTreeMap::new();
        }
        let read = labels.into_iter().map(|(key, value)| {
            let field = format!("labels[{}]", key.chars().take(80).collect::<String>());
            (self.required(&field, key, MAX_NAME), self.text(&field, value, MAX_LINE))
        });
        read.collect()
    }

    /// JSON text, or nothing when it is empty.
    pub(crate) fn json(&mut self, field: &str, text: String) -> Option<String> {
        if text.is_empty() {
            return None;
        }
        if text.len() > MAX_REPORT_BYTES {
            let message = format!("is {} bytes, the most is {MAX_REPORT_BYTES}", text.len());
            self.note("TOO_LONG", field, message, "Shorten it.");
        } else if let Err(error) = serde_json::from_str::<serde_json::Value>(&text) {
            self.note("INVALID", field, format!("is not JSON: {error}"), "Send JSON text.");
        }
        Some(text)
    }
}

/// An answer that this version cannot read.
pub(crate) fn not_understood(invalid: Invalid) -> ApiError {
    ApiError::new(
        Kind::Internal,
        crate::reason::NOT_UNDERSTOOD,
        format!("job-tracker's answer is not understood: {invalid}"),
        "Bring job-tracker and its caller to the same version.",
    )
}
