//! The tables, one module each. SQL is in view, rows turn into domain types here and never leave.
//!
//! Functions take a connection and are composed into transactions by `runtime`. Whatever changes a job or task is followed, in the
//! same transaction and as its last statement, by [`event::append`].

pub mod audit;
pub mod event;
pub mod job;
pub mod note;
pub mod task;

use sqlx::types::time::OffsetDateTime;
use understudy_ids::UnixMicros;

/// A row that this version cannot read: written by a newer one, or damaged.
#[derive(Debug, thiserror::Error)]
#[error("{table} {id}: column {column} holds {value:?}, which this version does not know")]
pub struct BadRow {
    pub table: &'static str,
    pub id: String,
    pub column: &'static str,
    pub value: String,
}

impl From<BadRow> for understudy_pg::Error {
    fn from(bad: BadRow) -> Self {
        sqlx::Error::Decode(Box::new(bad)).into()
    }
}

pub(crate) type Result<T> = std::result::Result<T, understudy_pg::Error>;

fn micros(time: OffsetDateTime) -> UnixMicros {
    // Postgres keeps microseconds within a range that fits.
    UnixMicros::new(i64::try_from(time.unix_timestamp_nanos() / 1000).unwrap_or(i64::MAX))
}

/// Times beyond what the calendar type holds are moved to its end; both mean *never*.
fn date(time: UnixMicros) -> OffsetDateTime {
    let nanos = i128::from(time.get()) * 1000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(time::macros::datetime!(9999-12-31 0:00 UTC))
}

/// Counters of the domain fit into the integers of the database: limits are checked on the way in, and attempts are bounded by
/// `max_attempts`.
fn integer(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn counter(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}
