//! Reads the fields of a request and collects everything that is wrong with them.

use std::{fmt::Display, str::FromStr};

use understudy_ids::HostName;
use understudy_rpc::{ApiError, Problem};
use understudy_types_api::cursor;

use crate::model::PageRequest;

/// The most entries that a listing returns at once.
const MAX_PAGE: u32 = 1000;
const DEFAULT_PAGE: u32 = 100;

/// The problems of one request so far.
#[derive(Default)]
pub(crate) struct Fields {
    problems: Vec<Problem>,
}

impl Fields {
    pub(crate) fn parse<T>(&mut self, field: &str, text: &str) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        match text.parse() {
            Ok(value) => Some(value),
            Err(e) => {
                self.refuse(field, format!("{e}"));
                None
            }
        }
    }

    /// An empty text is no value.
    pub(crate) fn parse_optional<T>(&mut self, field: &str, text: &str) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        if text.is_empty() { None } else { self.parse(field, text) }
    }

    /// `sites/<site>/hosts/<host>`
    pub(crate) fn host(&mut self, field: &str, name: &str) -> Option<HostName> {
        let parts: Vec<&str> = name.split('/').collect();
        let ["sites", site, "hosts", host] = parts[..] else {
            self.refuse(field, format!("{name:?} is not sites/<site>/hosts/<host>"));
            return None;
        };
        self.parse(field, &format!("{site}/{host}"))
    }

    pub(crate) fn require<T>(&mut self, field: &str, value: Option<T>) -> Option<T> {
        if value.is_none() {
            self.refuse(field, "is missing".to_owned());
        }
        value
    }

    pub(crate) fn at_most(&mut self, field: &str, count: usize, most: usize) {
        if count > most {
            self.refuse(field, format!("has {count} entries, the most is {most}"));
        }
    }

    pub(crate) fn page(&mut self, size: u32, token: &str) -> PageRequest {
        let size = match size {
            0 => DEFAULT_PAGE,
            n => n.min(MAX_PAGE),
        };
        let after = match cursor::decode(token) {
            Ok(after) => after,
            Err(e) => {
                self.refuse("page_token", e.to_string());
                None
            }
        };
        PageRequest { size, after }
    }

    pub(crate) fn refuse(&mut self, field: &str, message: String) {
        self.problems.push(Problem::new("INVALID_FIELD", field, message, ""));
    }

    /// # Errors
    /// When anything was wrong. `value` is there when nothing was.
    pub(crate) fn finish<T>(self, value: Option<T>) -> Result<T, ApiError> {
        match value {
            Some(value) if self.problems.is_empty() => Ok(value),
            _ => Err(ApiError::invalid(self.problems)),
        }
    }
}
