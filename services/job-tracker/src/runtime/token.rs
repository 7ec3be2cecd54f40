//! Tokens that clients hand back: opaque to them, checked here.
//!
//! ```text
//!   resume token      e1.<sequence>
//!   page of jobs      j1.<digest of the filter>.<micros>.<job id>
//!   page of tasks     t1.<job id>.<ordinal>
//! ```

use understudy_ids::{RunId, UnixMicros};
use understudy_jobs_api::JobFilter;

use super::{Error, Result};

pub fn resume(sequence: i64) -> String {
    format!("e1.{sequence}")
}

/// # Errors
/// `ResumeToken` when the text is none of ours.
pub fn parse_resume(token: &str) -> Result<i64> {
    let number = token.strip_prefix("e1.").and_then(|n| n.parse::<i64>().ok());
    number.filter(|n| *n >= 0 && resume(*n) == token).ok_or(Error::ResumeToken)
}

pub fn jobs_page(filter: &JobFilter, created: UnixMicros, id: RunId) -> String {
    format!("j1.{}.{}.{id}", digest(filter), created.get())
}

/// # Errors
/// `PageToken` when the text is none of ours or was given out for another filter.
pub fn parse_jobs_page(filter: &JobFilter, token: &str) -> Result<(UnixMicros, RunId)> {
    let parse = || {
        let mut parts = token.strip_prefix("j1.")?.split('.');
        let same_filter = parts.next()? == digest(filter);
        let (micros, id) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        (same_filter && parts.next().is_none()).then_some((UnixMicros::new(micros), id))
    };
    parse().ok_or(Error::PageToken)
}

pub fn tasks_page(job: RunId, ordinal: i64) -> String {
    format!("t1.{job}.{ordinal}")
}

/// # Errors
/// `PageToken` when the text is none of ours or was given out for another job.
pub fn parse_tasks_page(job: RunId, token: &str) -> Result<i64> {
    let ordinal = token.strip_prefix(&format!("t1.{job}.")).and_then(|n| n.parse::<i64>().ok());
    ordinal.filter(|n| *n >= 0).ok_or(Error::PageToken)
}

/// A page token continues one listing; with another filter it would leave jobs out.
fn digest(filter: &JobFilter) -> String {
    let JobFilter { states, kind, target, created_after } = filter;
    let text = format!("{states:?}{kind:?}{target:?}{created_after:?}");
    blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_as_they_went_out() {
        let filter = JobFilter { kind: Some("test-failover".into()), ..JobFilter::default() };
        let (id, time) = (RunId::from_u128(7), UnixMicros::new(1_700_000_000_000_000));
        assert_eq!(parse_resume(&resume(42)).unwrap(), 42);
        assert_eq!(parse_jobs_page(&filter, &jobs_page(&filter, time, id)).unwrap(), (time, id));
        assert_eq!(parse_tasks_page(id, &tasks_page(id, 9)).unwrap(), 9);
    }

    #[test]
    fn other_texts_and_tokens_of_other_listings_are_refused() {
        for bad in ["", "e1.", "e1.-1", "e1.+1", "e1.01", "e2.1", "e1.9223372036854775808", "e1.1\0"] {
            assert!(parse_resume(bad).is_err(), "{bad:?}");
        }
        let filter = JobFilter::default();
        let other = JobFilter { target: Some("x".into()), ..JobFilter::default() };
        let token = jobs_page(&filter, UnixMicros::new(1), RunId::from_u128(1));
        assert!(parse_jobs_page(&other, &token).is_err());
        for bad in ["", "j1", "j1...", &format!("{token}.x")] {
            assert!(parse_jobs_page(&filter, bad).is_err(), "{bad:?}");
        }
        let token = tasks_page(RunId::from_u128(1), 1);
        assert!(parse_tasks_page(RunId::from_u128(2), &token).is_err());
    }
}
