//! Where the services are and who we are.

use std::path::PathBuf;

use anyhow::Context;
use understudy_jobs_api::JobsClient;
use understudy_network_api::NetworkClient;
use understudy_recovery_api::RecoveryClient;
use understudy_rpc::{Channel, ClientConfig, ExpectedPeer, ServiceKind, TlsFiles, connect};

/// Flags and environment variables that every command shares.
#[derive(clap::Args, Clone)]
pub struct ConnectionArgs {
    /// https://address:port of the orchestrator
    #[arg(long, global = true, env = "UNDERSTUDY_ORCHESTRATOR", hide_env_values = true)]
    orchestrator: Option<String>,
    /// https://address:port of job-tracker
    #[arg(long, global = true, env = "UNDERSTUDY_JOB_TRACKER", hide_env_values = true)]
    job_tracker: Option<String>,
    /// https://address:port of network-mapper
    #[arg(long, global = true, env = "UNDERSTUDY_NETWORK_MAPPER", hide_env_values = true)]
    network_mapper: Option<String>,
    /// Certificate of the authority
    #[arg(long, global = true, env = "UNDERSTUDY_CA", hide_env_values = true)]
    ca: Option<PathBuf>,
    /// Your certificate
    #[arg(long, global = true, env = "UNDERSTUDY_CERTIFICATE", hide_env_values = true)]
    certificate: Option<PathBuf>,
    /// The key of your certificate
    #[arg(long, global = true, env = "UNDERSTUDY_KEY", hide_env_values = true)]
    key: Option<PathBuf>,
}

impl ConnectionArgs {
    pub fn recovery(&self) -> anyhow::Result<RecoveryClient> {
        let descriptors = understudy_recovery_api::FILE_DESCRIPTOR_SET;
        self.channel(&self.orchestrator, "orchestrator", ServiceKind::Orchestrator, descriptors)
            .map(RecoveryClient::new)
    }

    pub fn jobs(&self) -> anyhow::Result<JobsClient> {
        let descriptors = understudy_jobs_api::FILE_DESCRIPTOR_SET;
        self.channel(&self.job_tracker, "job-tracker", ServiceKind::JobTracker, descriptors)
            .map(JobsClient::new)
    }

    pub fn networks(&self) -> anyhow::Result<NetworkClient> {
        let descriptors = understudy_network_api::FILE_DESCRIPTOR_SET;
        self.channel(&self.network_mapper, "network-mapper", ServiceKind::NetworkMapper, descriptors)
            .map(NetworkClient::new)
    }

    fn channel(
        &self,
        endpoint: &Option<String>,
        flag: &str,
        service: ServiceKind,
        descriptors: &'static [u8],
    ) -> anyhow::Result<Channel> {
        let endpoint = given(endpoint, flag)?;
        let expect = ExpectedPeer::Service(service);
        Ok(connect(ClientConfig::new(endpoint, self.tls()?, expect, descriptors))?)
    }

    /// Who we are.
    pub fn tls(&self) -> anyhow::Result<TlsFiles> {
        Ok(TlsFiles {
            ca: given(&self.ca, "ca")?,
            certificate: given(&self.certificate, "certificate")?,
            key: given(&self.key, "key")?,
        })
    }
}

fn given<T: Clone>(value: &Option<T>, flag: &str) -> anyhow::Result<T> {
    value.clone().with_context(|| {
        let variable = flag.to_uppercase().replace('-', "_");
        format!("--{flag} is needed: give it, or set UNDERSTUDY_{variable}")
    })
}
