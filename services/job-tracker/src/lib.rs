//! job-tracker: the only durable queue and the only record of work (R-JOB).
//!
//! ```text
//!   rpc/  converts, asks who calls ─▶ runtime/  decides with `understudy-jobs`, one transaction per change ─▶ store/  SQL
//! ```
//!
//! What a task asks for and what came of it are opaque here. Everything that must survive is in Postgres before it is
//! acknowledged; an instance keeps nothing that another one could not pick up, so any number of them may run.

pub mod config;
pub mod rpc;
pub mod runtime;
pub mod store;

/// The schema of the database `jobs`.
pub static MIGRATIONS: understudy_pg::Migrator = sqlx::migrate!();
