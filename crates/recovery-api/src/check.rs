//! Collects everything that is wrong with a message, instead of stopping at the first.

use std::{fmt, str::FromStr, time::Duration};

use understudy_ids::{Problem, UnixMicros};
use understudy_types_api::{duration_from_wire, time_from_wire};

use crate::names::{RequestId, Resource};

/// A message that cannot be used, with every reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))]
pub struct Invalid(pub Vec<Problem>);

/// The reason of all problems that lie in the form of a message.
const INVALID_FIELD: &str = "INVALID_FIELD";
const FIX_FIELD: &str = "Correct the field and send the request again.";

/// The problems found so far. Each check returns the value when it is good, and otherwise writes down why not.
#[derive(Debug, Default)]
pub(crate) struct Checks(Vec<Problem>);

impl Checks {
    pub(crate) fn refuse(&mut self, field: impl fmt::Display, message: impl Into<String>) {
        self.0.push(Problem::new(INVALID_FIELD, field.to_string(), message, FIX_FIELD));
    }

    /// What the sentence under `Err` says is the problem.
    pub(crate) fn keep<T, E: fmt::Display>(
        &mut self,
        field: impl fmt::Display,
        value: Result<T, E>,
    ) -> Option<T> {
        value.map_err(|e| self.refuse(field, e.to_string())).ok()
    }

    pub(crate) fn parse<T>(&mut self, field: impl fmt::Display, text: &str) -> Option<T>
    where
        T: FromStr<Err: fmt::Display>,
    {
        self.keep(field, text.parse())
    }

    pub(crate) fn resource<T: Resource>(&mut self, field: impl fmt::Display, text: &str) -> Option<T> {
        self.keep(field, T::from_resource(text))
    }

    /// Like [`Checks::resource`], where empty means "none".
    pub(crate) fn optional_resource<T: Resource>(
        &mut self,
        field: impl fmt::Display,
        text: &str,
    ) -> Option<Option<T>> {
        if text.is_empty() { Some(None) } else { self.resource(field, text).map(Some) }
    }

    pub(crate) fn request_id(&mut self, text: &str) -> Option<RequestId> {
        self.parse("request_id", text)
    }

    /// A text of at most `max` bytes without control characters other than line ends and tabs.
    pub(crate) fn text(&mut self, field: impl fmt::Display, text: String, max: usize) -> Option<String> {
        if text.len() > max {
            self.refuse(field, format!("is {} bytes long, the most is {max}", text.len()));
            return None;
        }
        if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
            self.refuse(field, "contains control characters");
            return None;
        }
        Some(text)
    }

    pub(crate) fn at_most<T>(&mut self, field: impl fmt::Display, list: &[T], max: usize) {
        if list.len() > max {
            self.refuse(field, format!("has {} entries, the most is {max}", list.len()));
        }
    }

    pub(crate) fn word<T>(&mut self, field: impl fmt::Display, value: Option<T>) -> Option<T> {
        if value.is_none() {
            self.refuse(field, "is not set, or has a value that this version does not know");
        }
        value
    }

    pub(crate) fn time(&mut self, field: &str, time: Option<prost_types::Timestamp>) -> Option<UnixMicros> {
        match time {
            Some(time) => self.keep(field, time_from_wire(time)),
            None => {
                self.refuse(field, "is not set");
                None
            }
        }
    }

    pub(crate) fn optional_time(
        &mut self,
        field: &str,
        time: Option<prost_types::Timestamp>,
    ) -> Option<UnixMicros> {
        time.and_then(|time| self.keep(field, time_from_wire(time)))
    }

    pub(crate) fn optional_span(
        &mut self,
        field: &str,
        span: Option<prost_types::Duration>,
    ) -> Option<Duration> {
        span.and_then(|span| self.keep(field, duration_from_wire(span)))
    }

    pub(crate) fn span(
        &mut self,
        field: &str,
        span: Option<prost_types::Duration>,
        range: std::ops::RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let Some(span) = span else {
            self.refuse(field, "is not set");
            return None;
        };
        let span = self.keep(field, duration_from_wire(span))?;
        if !range.contains(&span) {
            self.refuse(
                field,
                format!(
                    "is {} s, it must lie between {} s and {} s",
                    span.as_secs_f64(),
                    range.start().as_secs_f64(),
                    range.end().as_secs_f64()
                ),
            );
            return None;
        }
        Some(span)
    }

    /// The value when nothing was wrong.
    ///
    /// A part that is missing without a problem having been written down is a mistake in this crate; it is refused all the same.
    pub(crate) fn finish<T>(mut self, value: Option<T>) -> Result<T, Invalid> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => {
                if self.0.is_empty() {
                    self.refuse("request", "is incomplete");
                }
                Err(Invalid(self.0))
            }
        }
    }
}

impl From<Invalid> for understudy_rpc::ApiError {
    fn from(Invalid(problems): Invalid) -> Self {
        Self::invalid(problems)
    }
}
