//! The agent's configuration.

use std::{fs, io, net::SocketAddr, path::PathBuf};

use serde::Deserialize;
use understudy_hypervisor::{files, libvirt, simulated};
use understudy_ids::{HostName, SiteName};
use understudy_rpc::TlsFiles;
use understudy_service::ServiceConfig;
use understudy_telemetry as telemetry;

use crate::{scripts::ScriptsConfig, scrub::ScrubConfig, source::CycleLimits};

/// 1 MiB in a second; a terabyte takes twelve days.
const SLOWEST_SCRUB: u64 = 1 << 20;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The site that the host stands in.
    pub site: SiteName,
    /// The host's own name, without its site.
    pub host: String,
    /// Recovery points. One agent has a store for itself.
    pub store_dir: PathBuf,
    /// What the agent is to each item. Must outlive the host's boot.
    pub state_dir: PathBuf,
    /// Below it are media with first copies, each under its name. Without it there are none.
    #[serde(default)]
    pub seed_dir: Option<PathBuf>,
    pub tls: TlsFiles,
    /// Facts, health, metrics: called by the orchestrator.
    pub control_listen: SocketAddr,
    /// Recovery points: called by peer agents.
    pub bulk_listen: SocketAddr,
    /// `https://address:port` of job-tracker.
    pub job_tracker: String,
    pub hypervisor: HypervisorConfig,
    /// Tasks at once.
    #[serde(default = "defaults::slots")]
    pub slots: u32,
    /// Names the host's present boot.
    #[serde(default = "defaults::boot_id_file")]
    pub boot_id_file: PathBuf,
    /// How long cycles and transfers may go on after a shutdown was asked for.
    #[serde(default = "defaults::shutdown_grace_s")]
    pub shutdown_grace_s: u64,
    /// How many items are replicated from here at once; the others wait for their turn.
    #[serde(default)]
    pub cycles: CycleLimits,
    /// How replicas are read again.
    #[serde(default)]
    pub scrub: ScrubConfig,
    /// Scripts for recovery plans. Without it there are none.
    #[serde(default)]
    pub scripts: Option<ScriptsConfig>,
    #[serde(default)]
    pub telemetry: telemetry::Config,
}

mod defaults {
    use std::path::PathBuf;

    pub const fn slots() -> u32 {
        8
    }
    pub fn boot_id_file() -> PathBuf {
        "/proc/sys/kernel/random/boot_id".into()
    }
    pub const fn shutdown_grace_s() -> u64 {
        8
    }
}

/// What drives the machines: `driver` says which, the other keys of the section are the driver's own.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "driver", rename_all = "lowercase")]
pub enum HypervisorConfig {
    Libvirt(libvirt::Config),
    Simulated(simulated::Config),
    Files(files::Config),
}

impl ServiceConfig for Config {
    fn telemetry(&self) -> &telemetry::Config {
        &self.telemetry
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Err(error) = HostName::new(self.site.clone(), &self.host) {
            problems.push(format!("host: {error}"));
        }
        if self.slots == 0 {
            problems.push("slots: must not be 0".to_owned());
        }
        if !self.job_tracker.starts_with("https://") {
            problems.push("job_tracker: write https://address:port".to_owned());
        }
        problems.extend(self.cycles.problems());
        problems.extend(self.scripts.iter().flat_map(ScriptsConfig::problems));
        if self.scrub.rate_bytes_per_s < SLOWEST_SCRUB {
            problems.push(format!("scrub.rate_bytes_per_s: must be {SLOWEST_SCRUB} or more"));
        }
        if let HypervisorConfig::Files(files) = &self.hypervisor {
            problems.extend(files.problems());
        }
        if self.store_dir == self.state_dir {
            problems.push("state_dir: must not be the store's directory".to_owned());
        }
        problems
    }
}

impl Config {
    /// # Errors
    /// When the host's name is not one; [`ServiceConfig::problems`] has told before.
    pub fn host_name(&self) -> Result<HostName, understudy_ids::InvalidName> {
        HostName::new(self.site.clone(), &self.host)
    }

    /// The name of the host's present boot.
    pub fn boot_id(&self) -> io::Result<String> {
        let id = fs::read_to_string(&self.boot_id_file)?.trim().to_owned();
        if id.is_empty() {
            let why = format!("{} is empty", self.boot_id_file.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Ok(id)
    }
}
