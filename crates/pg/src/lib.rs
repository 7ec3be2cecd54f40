//! What we know about talking to Postgres.
//!
//! ```text
//!   read  ─▶ Pool::reader() ─▶ one statement
//!   write ─▶ Pool::write(|tx| …) ─▶ spawned task: BEGIN ─▶ work ─▶ COMMIT ── 40001/40P01 ─▶ again, a bounded number of times
//!   wake  ─▶ Pool::listen(channel, every) ─▶ NOTIFY or the clock, whichever comes first
//! ```
//!
//! Promises:
//! * A caller that goes away never leaves a connection inside its transaction: the transaction runs to its end in a task of its own,
//!   and every connection that is borrowed is rolled back first.
//! * A failed commit is never taken for *not committed*: [`Error::CommitUnknown`] says that nobody knows.
//! * A service may start before Postgres does, and outlive it.
//!
//! Statements are `&'static str`; sqlx 0.9 accepts nothing else without an explicit assertion.

mod config;
mod error;
mod listen;
mod pool;
#[cfg(feature = "test")]
mod test_database;

pub use config::Config;
pub use error::Error;
pub use listen::Wakeups;
pub use pool::{Pool, WriteError};
pub use sqlx::{PgConnection, migrate::Migrator};
#[cfg(feature = "test")]
pub use test_database::TestDatabase;
