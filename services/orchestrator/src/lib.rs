//! orchestrator: the only place that decides. It owns sites, policies, protected items and failover runs.
//!
//! ```text
//!   clients ─▶ rpc/ converts ─▶ runtime/ loads, decides (crate `recovery`), commits ─▶ store/ holds the SQL
//!                                  │ after the commit
//!                                  ▼
//!                               job-tracker ─▶ workers ─▶ job-tracker ─▶ runtime/events
//! ```
//!
//! A library, so that tests and the simulated lab can run it in their own process; `main.rs` is the assembly of the service.

pub mod config;
pub mod rpc;
pub mod runtime;
pub mod service;
pub mod store;

pub use config::Config;
pub use runtime::{Runtime, Settings};
pub use service::Service;
pub use store::MIGRATIONS;
