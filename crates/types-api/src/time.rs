//! Times and spans on the wire.

use std::time::Duration;

use understudy_ids::UnixMicros;

/// Years 1 to 9999, the range that `google.protobuf.Timestamp` defines, in seconds since 1970.
const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
const MICROS_PER_SECOND: i64 = 1_000_000;
const NANOS_PER_MICRO: i32 = 1_000;
const NANOS_PER_SECOND: i32 = 1_000_000_000;
/// The longest span that `google.protobuf.Duration` defines: 10,000 years, in seconds.
const MAX_SPAN_SECONDS: u64 = 315_576_000_000;

/// Why a time or span from the wire is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTime {
    #[error("{seconds} seconds and {nanos} nanoseconds are not a time between the years 1 and 9999")]
    Time { seconds: i64, nanos: i32 },
    #[error("{seconds} seconds and {nanos} nanoseconds are not a span of zero or more")]
    Span { seconds: i64, nanos: i32 },
}

/// Nanoseconds below a whole microsecond are cut off: they cannot be stored.
///
/// # Errors
/// When the time lies outside the years 1 to 9999, or `nanos` outside one second.
pub fn time_from_wire(time: prost_types::Timestamp) -> Result<UnixMicros, InvalidTime> {
    let prost_types::Timestamp { seconds, nanos } = time;
    if !SECONDS.contains(&seconds) || !(0..NANOS_PER_SECOND).contains(&nanos) {
        return Err(InvalidTime::Time { seconds, nanos });
    }
    Ok(UnixMicros::new(seconds * MICROS_PER_SECOND + i64::from(nanos / NANOS_PER_MICRO)))
}

/// Times outside the wire's range are moved to its nearest end.
pub fn time_to_wire(time: UnixMicros) -> prost_types::Timestamp {
    let seconds = time.get().div_euclid(MICROS_PER_SECOND).clamp(*SECONDS.start(), *SECONDS.end());
    // The remainder is below one million, so its nanoseconds fit.
    let micros = i32::try_from(time.get().rem_euclid(MICROS_PER_SECOND)).unwrap_or(0);
    prost_types::Timestamp { seconds, nanos: micros * NANOS_PER_MICRO }
}

/// # Errors
/// When the span is negative, longer than 10,000 years, or its `nanos` lie outside one second.
pub fn duration_from_wire(span: prost_types::Duration) -> Result<Duration, InvalidTime> {
    let prost_types::Duration { seconds, nanos } = span;
    let bad = InvalidTime::Span { seconds, nanos };
    let whole = u64::try_from(seconds).ok().filter(|&s| s <= MAX_SPAN_SECONDS).ok_or(bad)?;
    let part = u32::try_from(nanos).ok().filter(|_| nanos < NANOS_PER_SECOND).ok_or(bad)?;
    Ok(Duration::new(whole, part))
}

/// Spans beyond the wire's range are cut to its end.
pub fn duration_to_wire(span: Duration) -> prost_types::Duration {
    let seconds = i64::try_from(span.as_secs().min(MAX_SPAN_SECONDS)).unwrap_or(0);
    // Always below one billion.
    let nanos = i32::try_from(span.subsec_nanos()).unwrap_or(0);
    prost_types::Duration { seconds, nanos }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_out_and_come_back() {
        for micros in [0, 1, -1, 1_700_000_000_123_456, -62_135_596_800_000_000, 253_402_300_799_999_999] {
            let time = UnixMicros::new(micros);
            assert_eq!(time_from_wire(time_to_wire(time)), Ok(time), "{micros}");
        }
        assert_eq!(
            time_to_wire(UnixMicros::new(-1)),
            prost_types::Timestamp { seconds: -1, nanos: 999_999_000 }
        );
    }

    #[test]
    fn times_that_no_calendar_has_are_refused() {
        for (seconds, nanos) in
            [(i64::MAX, 0), (i64::MIN, 0), (253_402_300_800, 0), (0, -1), (0, 1_000_000_000)]
        {
            assert_eq!(
                time_from_wire(prost_types::Timestamp { seconds, nanos }),
                Err(InvalidTime::Time { seconds, nanos })
            );
        }
    }

    #[test]
    fn the_farthest_times_still_have_a_wire_form() {
        for micros in [i64::MIN, i64::MAX] {
            assert!(time_from_wire(time_to_wire(UnixMicros::new(micros))).is_ok());
        }
    }

    #[test]
    fn spans_go_out_and_come_back_and_negative_ones_are_refused() {
        for span in [Duration::ZERO, Duration::from_nanos(1), Duration::from_millis(30_500)] {
            assert_eq!(duration_from_wire(duration_to_wire(span)), Ok(span));
        }
        assert!(duration_from_wire(duration_to_wire(Duration::MAX)).is_ok());
        for (seconds, nanos) in [(-1, 0), (0, -1), (0, 1_000_000_000), (i64::MAX, 0)] {
            assert!(duration_from_wire(prost_types::Duration { seconds, nanos }).is_err());
        }
    }
}
