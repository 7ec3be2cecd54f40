//! The database `network`: one file per table, SQL in view, row types private to their file.

pub mod address_lease;
pub mod api_request;
pub mod audit;
pub mod dns_zone;
pub mod host_record;
pub mod network_mapping;
pub mod record_change;
pub mod released_run;
pub mod test_network;
pub mod vm_network;

use understudy_ids::UnixMicros;
use understudy_pg::{Error, Migrator, WriteError};
use understudy_rpc::ApiError;

pub static MIGRATOR: Migrator = sqlx::migrate!();

/// Why a transaction did not happen: the database, or a rule.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    Database(#[from] Error),
    #[error(transparent)]
    Refused(#[from] ApiError),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Database(error) => error.into(),
            StoreError::Refused(error) => error,
        }
    }
}

impl WriteError for StoreError {
    fn database(&self) -> Option<&Error> {
        match self {
            Self::Database(error) => Some(error),
            Self::Refused(_) => None,
        }
    }
}

/// A row that the constraints should have made impossible.
fn corrupt(table: &str, cause: impl std::fmt::Display) -> StoreError {
    ApiError::internal(format!("table {table} holds a row that cannot be: {cause}")).into()
}

fn micros(at: time::OffsetDateTime) -> UnixMicros {
    // Postgres keeps microseconds; what is beyond i64 microseconds is beyond its calendar.
    UnixMicros::new(i64::try_from(at.unix_timestamp_nanos() / 1000).unwrap_or(i64::MAX))
}
