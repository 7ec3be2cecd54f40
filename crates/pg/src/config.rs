//! Where the database is and how it is used.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnectOptions;

use crate::Error;

/// The `[database]` section of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `postgres://user:password@host:port/database?sslmode=…`; a socket directory goes into `?host=/run/postgresql`.
    pub url: String,
    #[serde(default = "Config::default_max_connections")]
    pub max_connections: u32,
    /// How long a call waits for a free connection before it is told to come back.
    #[serde(default = "Config::default_acquire_timeout_ms")]
    pub acquire_timeout_ms: u64,
    /// No statement runs longer; 0 means no limit. Migrations are exempt.
    #[serde(default = "Config::default_statement_timeout_ms")]
    pub statement_timeout_ms: u64,
}

impl Config {
    /// All defaults for the database at `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            max_connections: Self::default_max_connections(),
            acquire_timeout_ms: Self::default_acquire_timeout_ms(),
            statement_timeout_ms: Self::default_statement_timeout_ms(),
        }
    }

    const fn default_max_connections() -> u32 {
        16
    }

    const fn default_acquire_timeout_ms() -> u64 {
        5_000
    }

    const fn default_statement_timeout_ms() -> u64 {
        10_000
    }

    pub(crate) fn acquire_timeout(&self) -> Duration {
        Duration::from_millis(self.acquire_timeout_ms)
    }

    /// Connection options; `statement_timeout_ms` overrides the configured one.
    pub(crate) fn options(&self, statement_timeout_ms: u64) -> Result<PgConnectOptions, Error> {
        let options: PgConnectOptions =
            self.url.parse().map_err(|e: sqlx::Error| Error::Url(e.to_string()))?;
        Ok(options.options([
            ("statement_timeout", statement_timeout_ms.to_string().as_str()),
            // A transaction of ours does nothing but talk to the database. One that idles belongs to a process that hangs.
            ("idle_in_transaction_session_timeout", "30000"),
            // A ROLLBACK outside of a transaction, which every borrowed connection sees, warns otherwise.
            ("client_min_messages", "error"),
        ]))
    }
}
