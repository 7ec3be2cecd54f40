//! The `grpc-timeout` header: how long the caller is going to wait.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};

pub const HEADER: &str = "grpc-timeout";

/// What the caller asked for. A header that cannot be read counts as none: the server's own deadline holds anyway.
pub fn requested(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(HEADER)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

/// The header for `deadline`, in milliseconds while they fit into the eight digits that the protocol allows.
pub fn header(deadline: Duration) -> HeaderValue {
    let millis = deadline.as_millis().max(1);
    let text = if millis < 100_000_000 {
        format!("{millis}m")
    } else {
        format!("{}S", deadline.as_secs().min(99_999_999))
    };
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("99999999S"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_round_trip_and_nonsense_is_no_deadline() {
        for millis in [1, 250, 30_000, 99_999_999, 200_000_000] {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, header(Duration::from_millis(millis)));
            assert_eq!(requested(&headers), Some(Duration::from_millis(millis)));
        }
        for bad in ["", "m", "10", "-1m", "1x", "123456789m", "é", "1é"] {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, HeaderValue::from_bytes(bad.as_bytes()).unwrap());
            assert_eq!(requested(&headers), None, "{bad:?}");
        }
    }
}
