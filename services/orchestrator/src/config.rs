//! What an operator sets.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use understudy_rpc::ServerConfig;
use understudy_service::ServiceConfig;
use understudy_telemetry as telemetry;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub server: ServerConfig,
    pub database: understudy_pg::Config,
    pub job_tracker: Peer,
    pub network_mapper: Peer,
    #[serde(default)]
    pub runs: Runs,
    #[serde(default)]
    pub telemetry: telemetry::Config,
}

/// Where another service is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// `https://address:port`
    pub endpoint: String,
    /// No call takes longer.
    #[serde(default = "Peer::default_deadline_s")]
    pub deadline_s: u64,
}

impl Peer {
    pub fn new(endpoint: impl Into<String>) -> Self {
        Self { endpoint: endpoint.into(), deadline_s: Self::default_deadline_s() }
    }

    const fn default_deadline_s() -> u64 {
        10
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Runs {
    /// A test that waits for longer is completed by force (R-TF-6). It cannot be switched off.
    pub test_limit_s: u64,
    /// Between two rounds of looking for what is overdue or to be corrected.
    pub tick_ms: u64,
}

impl Default for Runs {
    fn default() -> Self {
        Self { test_limit_s: 14 * 24 * 60 * 60, tick_ms: 1000 }
    }
}

impl Runs {
    pub fn test_limit(&self) -> Duration {
        Duration::from_secs(self.test_limit_s)
    }

    pub fn tick(&self) -> Duration {
        Duration::from_millis(self.tick_ms)
    }
}

impl ServiceConfig for Config {
    fn telemetry(&self) -> &telemetry::Config {
        &self.telemetry
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (key, peer) in [("job_tracker", &self.job_tracker), ("network_mapper", &self.network_mapper)] {
            if !peer.endpoint.starts_with("https://") {
                problems.push(format!("{key}.endpoint: write https://address:port"));
            }
            // A transaction waits for job-tracker's answer, and Postgres ends those that idle for 30 s.
            if !(1..=20).contains(&peer.deadline_s) {
                problems.push(format!("{key}.deadline_s: must lie between 1 and 20"));
            }
        }
        if self.runs.test_limit_s == 0 {
            problems.push("runs.test_limit_s: must not be 0: a forgotten test would never end".to_owned());
        }
        if !(10..=60_000).contains(&self.runs.tick_ms) {
            problems.push("runs.tick_ms: must lie between 10 and 60000".to_owned());
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use understudy_rpc::TlsFiles;

    use super::*;

    #[test]
    fn a_configuration_that_would_never_end_a_test_is_refused() {
        let tls = TlsFiles { ca: "ca.pem".into(), certificate: "cert.pem".into(), key: "key.pem".into() };
        let config = Config {
            server: ServerConfig::new(([127, 0, 0, 1], 0).into(), tls),
            database: understudy_pg::Config::new("postgres://localhost/orchestrator"),
            job_tracker: Peer::new("https://localhost:1"),
            network_mapper: Peer { endpoint: "http://localhost:2".into(), deadline_s: 0 },
            runs: Runs { test_limit_s: 0, tick_ms: 1 },
            telemetry: telemetry::Config::default(),
        };
        assert_eq!(config.problems().len(), 4, "{:?}", config.problems());
    }
}
