//! How times and spans look in JSON: RFC 3339 in UTC, and seconds.

use std::time::Duration;

use serde::Serializer;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use understudy_ids::UnixMicros;

/// `2026-01-31T12:00:00.123456Z`; the bare number for a time that no calendar has.
fn rfc3339(time: UnixMicros) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(time.get()) * 1000)
        .ok()
        .and_then(|t| t.format(&Rfc3339).ok())
        .unwrap_or_else(|| time.to_string())
}

pub(crate) fn when<S: Serializer>(time: &UnixMicros, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339(*time))
}

pub(crate) fn maybe_when<S: Serializer>(time: &Option<UnixMicros>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => when(time, serializer),
        None => serializer.serialize_none(),
    }
}

pub(crate) fn seconds<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(span.as_secs_f64())
}

pub(crate) fn maybe_seconds<S: Serializer>(
    span: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match span {
        Some(span) => seconds(span, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_for_people_and_programs_alike() {
        assert_eq!(rfc3339(UnixMicros::new(1_700_000_000_123_456)), "2023-11-14T22:13:20.123456Z");
        assert_eq!(rfc3339(UnixMicros::new(i64::MAX)), "9223372036854.775807");
    }
}
