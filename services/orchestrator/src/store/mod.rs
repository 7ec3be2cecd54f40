//! The orchestrator's tables, one module each. SQL stays in here, and so do row types.
//!
//! Functions that write take the transaction of their caller, so that a decision, its record and its effects are one commit.

pub mod alerts;
pub mod audit;
pub mod awaited;
pub mod connections;
pub mod corrections;
pub mod cursor;
pub mod groups;
pub mod hosts;
pub mod items;
pub mod leases;
pub mod outbox;
pub mod policies;
pub mod recovery_plans;
pub mod requests;
pub mod runs;
pub mod screenshots;
pub mod sites;

use sqlx::migrate::Migrator;
use time::OffsetDateTime;
use understudy_ids::UnixMicros;
use understudy_pg as pg;
use understudy_rpc::ApiError;

/// The schema.
pub static MIGRATIONS: Migrator = sqlx::migrate!();

/// Why a transaction was not committed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The decision is no, with what the caller is told.
    #[error(transparent)]
    Refused(#[from] ApiError),
    #[error(transparent)]
    Database(#[from] pg::Error),
    /// A row that this program cannot have written.
    #[error(
        "table {table} holds a row that cannot be read: {cause}. Was it changed by hand, or written by a newer version?"
    )]
    Row { table: &'static str, cause: String },
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(error) => error,
            Failure::Database(error) => error.into(),
            row @ Failure::Row { .. } => ApiError::internal(row),
        }
    }
}

impl pg::WriteError for Failure {
    fn database(&self) -> Option<&pg::Error> {
        match self {
            Self::Database(error) => Some(error),
            Self::Refused(_) | Self::Row { .. } => None,
        }
    }
}

/// Reads one value of a row.
fn read<T, E: std::fmt::Display>(table: &'static str, value: Result<T, E>) -> Result<T, Failure> {
    value.map_err(|cause| Failure::Row { table, cause: cause.to_string() })
}

fn micros(time: OffsetDateTime) -> UnixMicros {
    // Postgres keeps microseconds of a few hundred thousand years, which fit.
    UnixMicros::new(i64::try_from(time.unix_timestamp_nanos() / 1000).unwrap_or(i64::MAX))
}

/// Times that no calendar has become the beginning of 1970; they are not made by this program.
fn stamp(time: UnixMicros) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(time.get()) * 1000)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// Bits are kept, so that a number comes out as it went in.
fn signed(number: u64) -> i64 {
    number.cast_signed()
}

fn unsigned(number: i64) -> u64 {
    number.cast_unsigned()
}
