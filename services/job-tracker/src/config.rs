//! What an operator sets.

use std::time::Duration;

use serde::Deserialize;
use understudy_jobs::LeaseTerm;

/// The whole configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub server: understudy_rpc::ServerConfig,
    pub database: understudy_pg::Config,
    #[serde(default)]
    pub telemetry: understudy_telemetry::Config,
    #[serde(default)]
    pub leases: Leases,
    #[serde(default)]
    pub history: History,
}

/// How tasks are handed out.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Leases {
    /// How long a worker holds a task without a heartbeat.
    pub lease_ms: u64,
    /// How often leasers and watchers look for work without being woken.
    pub poll_ms: u64,
}

impl Default for Leases {
    fn default() -> Self {
        Self { lease_ms: 15_000, poll_ms: 1_000 }
    }
}

/// How long finished work is kept.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct History {
    /// Jobs that ended so long ago, events and audit records that are so old are deleted. At least 1.
    pub retention_days: u32,
}

impl Default for History {
    fn default() -> Self {
        Self { retention_days: 90 }
    }
}

impl understudy_service::ServiceConfig for Config {
    fn telemetry(&self) -> &understudy_telemetry::Config {
        &self.telemetry
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Err(error) = LeaseTerm::new(Duration::from_millis(self.leases.lease_ms)) {
            problems.push(format!("leases.lease_ms: {error}"));
        }
        if !(10..=60_000).contains(&self.leases.poll_ms) {
            problems.push("leases.poll_ms: must be between 10 and 60000".to_owned());
        }
        if !(1..=36_500).contains(&self.history.retention_days) {
            problems.push("history.retention_days: must be between 1 and 36500".to_owned());
        }
        problems
    }
}
