//! What a database error means.
//!
//! | SQLSTATE or cause | variant | took effect? |
//! |---|---|---|
//! | connection lost, no free connection, 08*, 53*, 57P0* | `Unavailable` | no |
//! | the same while committing | `CommitUnknown` | nobody knows |
//! | 40001, 40P01 | `Conflict` | no; [`Pool::write`](crate::Pool::write) has repeated it already |
//! | 23505, 23503, 23514, 23502, 23P01 | `Constraint` with its name | no |
//! | 57014 | `Timeout` | no |

use sqlx::error::ErrorKind;
use understudy_rpc::ApiError;

/// A failed statement or transaction, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the database's URL is not valid: {0}. Write postgres://user@host/database")]
    Url(String),
    #[error("the database refuses us: {0}. Check user, password and database name in the configuration")]
    Refused(#[source] sqlx::Error),
    #[error("the database cannot be reached: {0}")]
    Unavailable(#[source] sqlx::Error),
    #[error("the connection broke while committing; whether the change was stored is not known: {0}")]
    CommitUnknown(String),
    #[error("the transaction collided with others too often: {0}")]
    Conflict(#[source] sqlx::Error),
    #[error("constraint {constraint} does not hold: {source}")]
    Constraint { kind: ConstraintKind, constraint: String, source: sqlx::Error },
    #[error("the statement took too long: {0}")]
    Timeout(#[source] sqlx::Error),
    #[error("the migrations do not fit the database: {0}")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    #[error("database error: {0}")]
    Other(#[source] sqlx::Error),
}

/// Which kind of constraint was violated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConstraintKind {
    Unique,
    ForeignKey,
    /// A `CHECK`, `NOT NULL` or exclusion constraint.
    Check,
}

impl Error {
    /// Whether a row with the same key is there already, according to the named index or constraint.
    pub fn unique_violation(&self, name: &str) -> bool {
        matches!(self, Self::Constraint { kind: ConstraintKind::Unique, constraint, .. } if constraint == name)
    }

    /// Whether the row that the named foreign key points to is missing.
    pub fn foreign_key_violation(&self, name: &str) -> bool {
        matches!(self, Self::Constraint { kind: ConstraintKind::ForeignKey, constraint, .. } if constraint == name)
    }

    /// Whether the named `CHECK` refused the row.
    pub fn check_violation(&self, name: &str) -> bool {
        matches!(self, Self::Constraint { kind: ConstraintKind::Check, constraint, .. } if constraint == name)
    }

    /// The same for another whose change was in the same transaction. None where the error may be about one change only.
    pub fn for_another(&self) -> Option<Self> {
        let told = |cause: &sqlx::Error| sqlx::Error::Protocol(cause.to_string());
        match self {
            Self::Unavailable(cause) => Some(Self::Unavailable(told(cause))),
            Self::CommitUnknown(cause) => Some(Self::CommitUnknown(cause.clone())),
            Self::Conflict(cause) => Some(Self::Conflict(told(cause))),
            Self::Timeout(cause) => Some(Self::Timeout(told(cause))),
            Self::Url(_) | Self::Refused(_) | Self::Constraint { .. } | Self::Migrate(_) | Self::Other(_) => {
                None
            }
        }
    }

    /// What a failure of COMMIT means: after a broken connection, nobody knows.
    pub(crate) fn from_commit(error: sqlx::Error) -> Self {
        match Self::from(error) {
            Self::Unavailable(cause) => Self::CommitUnknown(cause.to_string()),
            other => other,
        }
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(database) => match database.code().as_deref() {
                Some("40001" | "40P01") => Self::Conflict(error),
                Some("57014") => Self::Timeout(error),
                Some("3D000") => Self::Refused(error),
                Some(code) if code.starts_with("28") => Self::Refused(error),
                Some(code) if away(code) => Self::Unavailable(error),
                _ => constraint(error),
            },
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Unavailable(error),
            _ => Self::Other(error),
        }
    }
}

/// Connection exceptions, lack of resources, and a server that starts, stops or has just thrown us out.
fn away(code: &str) -> bool {
    code.starts_with("08") || code.starts_with("53") || code.starts_with("57P") || code == "25P03"
}

fn constraint(source: sqlx::Error) -> Error {
    let Some(database) = source.as_database_error() else { return Error::Other(source) };
    let kind = match database.kind() {
        ErrorKind::UniqueViolation => ConstraintKind::Unique,
        ErrorKind::ForeignKeyViolation => ConstraintKind::ForeignKey,
        ErrorKind::CheckViolation | ErrorKind::NotNullViolation | ErrorKind::ExclusionViolation => {
            ConstraintKind::Check
        }
        _ => return Error::Other(source),
    };
    let constraint = database.constraint().unwrap_or_default().to_owned();
    Error::Constraint { kind, constraint, source }
}

/// What a database failure means to a caller of our API. Violated constraints that a caller can cause are translated by the store that
/// knows them; those that arrive here are mistakes of ours.
impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        match error {
            Error::Unavailable(_) | Error::Refused(_) | Error::Url(_) => ApiError::unavailable(
                "DATABASE_UNAVAILABLE",
                "the service cannot reach its database; nothing was changed",
                "repeat the call; if it goes on, check the service's Postgres",
            )
            .caused_by(error),
            Error::CommitUnknown(_) => ApiError::unavailable(
                "COMMIT_UNKNOWN",
                "the database went away while the change was being stored; whether it was is not known",
                "repeat the call with the same request id: it is applied once",
            )
            .caused_by(error),
            Error::Conflict(_) => ApiError::aborted(
                "TOO_MUCH_CONTENTION",
                "others were changing the same objects; nothing was changed",
                "repeat the call",
            )
            .caused_by(error),
            Error::Timeout(_) => ApiError::unavailable(
                "DATABASE_SLOW",
                "the database took too long; nothing was changed",
                "repeat the call; if it goes on, check the load of the service's Postgres",
            )
            .caused_by(error),
            Error::Constraint { .. } | Error::Migrate(_) | Error::Other(_) => ApiError::internal(error),
        }
    }
}
