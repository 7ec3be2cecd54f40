//! What an operator can set.

use std::collections::BTreeMap;

use serde::Deserialize;
use understudy_ids::TrafficHookName;
use understudy_rpc::{ServerConfig, TlsFiles};
use understudy_service::ServiceConfig;

use crate::{dns::DnsConfig, hooks::HookConfig};

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub server: ServerConfig,
    pub database: understudy_pg::Config,
    pub job_tracker: Peer,
    #[serde(default)]
    pub telemetry: understudy_telemetry::Config,
    /// Tasks done at once.
    #[serde(default = "default_slots")]
    pub slots: u32,
    /// Servers of the zones that runs write to.
    #[serde(default)]
    pub dns: DnsConfig,
    /// Who is called when a machine is elsewhere after a failover.
    #[serde(default)]
    pub traffic_hooks: BTreeMap<TrafficHookName, HookConfig>,
}

/// A service that we call.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// `https://address:port`
    pub endpoint: String,
}

const fn default_slots() -> u32 {
    8
}

impl Config {
    pub fn tls(&self) -> &TlsFiles {
        &self.server.tls
    }
}

impl ServiceConfig for Config {
    fn telemetry(&self) -> &understudy_telemetry::Config {
        &self.telemetry
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = self.dns.problems();
        for (name, hook) in &self.traffic_hooks {
            problems.extend(hook.problems().map(|problem| format!("traffic_hooks.{name}.{problem}")));
        }
        if !(1..=1024).contains(&self.slots) {
            problems.push("slots: must be 1 to 1024".to_owned());
        }
        problems
    }
}
