//! Reading single fields of an inbound message: every one says which field it was and what is wrong with it.

use std::{str::FromStr, time::Duration};

use understudy_ids::{HostName, UnixMicros, Uuid};
use understudy_replication::{BlockDigest, Joint};
use understudy_rpc::{ApiError, Problem};
use understudy_types_api::{duration_from_wire, joint_from_wire, time_from_wire};

/// A message from the wire that breaks the contract of its `.proto` file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct Invalid {
    /// Path of the field, `prepare_replica.disks[1].name`.
    pub field: String,
    pub why: String,
}

impl Invalid {
    pub fn new(field: impl Into<String>, why: impl ToString) -> Self {
        Self { field: field.into(), why: why.to_string() }
    }

    /// The same problem, seen from the message around it.
    pub(crate) fn within(self, parent: &str) -> Self {
        Self { field: format!("{parent}.{}", self.field), why: self.why }
    }
}

impl From<Invalid> for ApiError {
    fn from(Invalid { field, why }: Invalid) -> Self {
        Self::invalid(vec![Problem::new("INVALID_FIELD", field, why, "")])
    }
}

/// A field that proto3 makes optional and the contract does not.
pub(crate) fn required<T>(field: &str, value: Option<T>) -> Result<T, Invalid> {
    value.ok_or_else(|| Invalid::new(field, "is missing"))
}

/// What a point shares with points of other items, if it does.
pub(crate) fn joint(wire: Option<understudy_types_api::v1::Joint>) -> Result<Option<Joint>, Invalid> {
    let bad = |field: &str| Invalid::new(format!("joint.{field}"), "is missing, malformed or too long");
    wire.map(|wire| joint_from_wire(wire).map_err(bad)).transpose()
}

pub(crate) fn parse<T>(field: &str, text: &str) -> Result<T, Invalid>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|e| Invalid::new(field, e))
}

/// As [`parse`]; the empty text is no value.
pub(crate) fn parse_optional<T>(field: &str, text: &str) -> Result<Option<T>, Invalid>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    if text.is_empty() { Ok(None) } else { parse(field, text).map(Some) }
}

pub(crate) fn text(field: &str, text: String, max: usize) -> Result<String, Invalid> {
    if text.len() > max {
        return Err(Invalid::new(field, format!("is {} bytes, the most is {max}", text.len())));
    }
    Ok(text)
}

/// A list of at most `max` entries, each converted; the entry's number is part of the field's path.
pub(crate) fn list<W, T>(
    field: &str,
    wire: Vec<W>,
    max: usize,
    convert: impl Fn(W) -> Result<T, Invalid>,
) -> Result<Vec<T>, Invalid> {
    if wire.len() > max {
        return Err(Invalid::new(field, format!("has {} entries, the most is {max}", wire.len())));
    }
    wire.into_iter()
        .enumerate()
        .map(|(n, entry)| convert(entry).map_err(|e| e.within(&format!("{field}[{n}]"))))
        .collect()
}

/// As [`list`] for entries that are one text each.
pub(crate) fn names<T>(field: &str, wire: &[String], max: usize) -> Result<Vec<T>, Invalid>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    if wire.len() > max {
        return Err(Invalid::new(field, format!("has {} entries, the most is {max}", wire.len())));
    }
    wire.iter().enumerate().map(|(n, text)| parse(&format!("{field}[{n}]"), text)).collect()
}

pub(crate) fn uuid(field: &str, text: &str) -> Result<Uuid, Invalid> {
    parse(field, text)
}

pub(crate) fn time(field: &str, time: Option<prost_types::Timestamp>) -> Result<UnixMicros, Invalid> {
    time_from_wire(required(field, time)?).map_err(|e| Invalid::new(field, e))
}

pub(crate) fn time_optional(
    field: &str,
    time: Option<prost_types::Timestamp>,
) -> Result<Option<UnixMicros>, Invalid> {
    time.map(|t| time_from_wire(t).map_err(|e| Invalid::new(field, e))).transpose()
}

pub(crate) fn span(field: &str, span: Option<prost_types::Duration>) -> Result<Duration, Invalid> {
    duration_from_wire(required(field, span)?).map_err(|e| Invalid::new(field, e))
}

pub(crate) fn span_optional(
    field: &str,
    span: Option<prost_types::Duration>,
) -> Result<Option<Duration>, Invalid> {
    span.map(|s| duration_from_wire(s).map_err(|e| Invalid::new(field, e))).transpose()
}

pub(crate) fn digest(field: &str, bytes: &[u8]) -> Result<BlockDigest, Invalid> {
    let bytes = <[u8; 32]>::try_from(bytes)
        .map_err(|_| Invalid::new(field, format!("is {} bytes, a digest has 32", bytes.len())))?;
    Ok(BlockDigest::new(bytes))
}

/// `sites/<site>/hosts/<host>`.
pub(crate) fn host(field: &str, text: &str) -> Result<HostName, Invalid> {
    let bad = || Invalid::new(field, "is not a host's resource name: use sites/<site>/hosts/<host>");
    let (site, host) =
        text.strip_prefix("sites/").and_then(|rest| rest.split_once("/hosts/")).ok_or_else(bad)?;
    HostName::new(parse(field, site)?, host).map_err(|e| Invalid::new(field, e))
}

pub(crate) fn host_to_wire(host: &HostName) -> String {
    format!("sites/{}/hosts/{}", host.site(), host.host())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_resource_names_and_nothing_else() {
        let name: HostName = "alpha/alpha-h1".parse().unwrap();
        assert_eq!(host("h", &host_to_wire(&name)), Ok(name));
        for bad in
            ["", "alpha/h1", "sites/alpha", "sites/alpha/hosts/", "sites/a/hosts/b/c", "sites//hosts/h"]
        {
            assert!(host("h", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_path_of_a_bad_entry_names_it() {
        let error = list("disks", vec!["a", "B"], 9, |d| parse::<understudy_ids::DiskName>("name", d));
        assert_eq!(error.unwrap_err().field, "disks[1].name");
    }
}
