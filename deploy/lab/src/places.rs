//! Where the parts of one running product are, and what follows from that alone: certificates, configurations, the operator's
//! command line, the descriptions of the sites.
//!
//! ```text
//!   control      job-tracker · orchestrator · network-mapper      one address each, one directory of keys
//!   each host    replication-agent: facts, sink                   its directories, its keys, its boot id
//! ```

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    HostName, Namespace, Service, Site,
    cli::Cli,
    command,
    probe::wait_until,
    stack::resource,
    topology::{PROD_GATEWAY, PROD_NETWORK, WITNESS},
};

const HEARD_LIMIT: Duration = Duration::from_secs(30);

/// The programs of the product.
#[derive(Debug, Clone)]
pub(crate) struct Programs(PathBuf);

impl Programs {
    /// Those in this directory.
    ///
    /// # Errors
    /// When one is missing there.
    pub fn of(directory: PathBuf) -> Result<Self> {
        let programs = Self(directory);
        let services = Service::ALL.map(|service| programs.service(service));
        for program in services.into_iter().chain([programs.agent(), programs.command_line()]) {
            ensure!(
                program.exists(),
                "{} is not built; build everything first: cargo build --workspace --bins",
                program.display()
            );
        }
        Ok(programs)
    }

    /// Those beside the program that runs, as cargo puts them.
    ///
    /// # Errors
    /// When one is missing there.
    pub fn beside_this_one() -> Result<Self> {
        let own = std::env::current_exe()?;
        let directory = own.parent().context("this program is in no directory")?;
        // Tests are one level further down.
        let directory =
            if directory.ends_with("deps") { directory.parent().unwrap_or(directory) } else { directory };
        Self::of(directory.to_owned())
    }

    pub fn service(&self, service: Service) -> PathBuf {
        self.0.join(format!("understudy-{}", service.name()))
    }

    pub fn agent(&self) -> PathBuf {
        self.0.join("understudy-replication-agent")
    }

    pub fn command_line(&self) -> PathBuf {
        self.0.join("understudy")
    }
}

/// Where everything is.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    pub programs: Programs,
    /// Keys and certificates of the services and of the operator.
    pub pki: PathBuf,
    services: BTreeMap<&'static str, SocketAddr>,
    agents: BTreeMap<&'static str, AgentPlace>,
}

/// Where an agent is.
#[derive(Debug, Clone)]
pub(crate) struct AgentPlace {
    /// Where it tells its facts.
    pub facts: SocketAddr,
    /// Where it receives recovery points.
    pub sink: SocketAddr,
    pub pki: PathBuf,
    pub store: PathBuf,
    pub state: PathBuf,
    /// Below it are media with first copies.
    pub media: PathBuf,
    /// Its library of scripts.
    pub scripts: PathBuf,
    /// Below it scripts have their directories.
    pub script_work: PathBuf,
    /// Stands for the kernel's boot id: all hosts of a lab share one kernel, which boots once.
    pub boot_id: PathBuf,
}

impl Places {
    pub fn new(
        programs: Programs,
        pki: PathBuf,
        service: impl Fn(Service) -> SocketAddr,
        agent: impl Fn(HostName) -> AgentPlace,
    ) -> Self {
        let services = Service::ALL.map(|of| (of.name(), service(of))).into();
        let agents = HostName::ALL.map(|of| (of.name(), agent(of))).into();
        Self { programs, pki, services, agents }
    }

    pub fn service(&self, service: Service) -> SocketAddr {
        self.services[service.name()]
    }

    pub fn agent(&self, host: HostName) -> &AgentPlace {
        &self.agents[host.name()]
    }

    fn endpoint(&self, service: Service) -> String {
        format!("https://{}", self.service(service))
    }

    /// Makes an authority and a certificate for every service, agent and the operator.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn issue_certificates(&self) -> Result<()> {
        let authority = self.pki.join("authority").display().to_string();
        let pki = |arguments: &[&str]| {
            command::output(command::new(self.programs.command_line()).arg("pki").args(arguments))
        };
        pki(&["init", "--dir", &authority])?;
        let issue = |identity: String, out: &Path, name: &str| {
            let out = out.display().to_string();
            let identity = format!("spiffe://understudy/{identity}");
            pki(&["issue", "--dir", &authority, "--identity", &identity, "--out", &out, "--name", name])
        };
        for service in Service::ALL {
            issue(format!("service/{}", service.name()), &self.pki, service.name())?;
        }
        issue("user/operator".to_owned(), &self.pki, "operator")?;
        for host in HostName::ALL {
            issue(format!("agent/{}/{host}", host.site().name()), &self.agent(host).pki, "agent")?;
        }
        Ok(())
    }

    /// The configuration of a service whose database is at `url`.
    pub fn service_config(&self, service: Service, url: &str) -> String {
        let tls = tls_config(&self.pki, service.name());
        let mut config = format!(
            r#"[server]
listen = "{listen}"
[server.tls]
{tls}
[database]
url = "{url}"
[telemetry]
log_format = "text"
"#,
            listen = self.service(service),
        );
        if service != Service::JobTracker {
            config += &format!("[job_tracker]\nendpoint = \"{}\"\n", self.endpoint(Service::JobTracker));
        } else {
            // A killed worker's tasks are handed out again after this time; the lab does not want to wait long.
            config += "[leases]\nlease_ms = 5000\n";
        }
        if service == Service::Orchestrator {
            config +=
                &format!("[network_mapper]\nendpoint = \"{}\"\n", self.endpoint(Service::NetworkMapper));
        }
        config
    }

    /// The configuration of a host's agent; `hypervisor` is what its driver is told.
    pub fn agent_config(&self, host: HostName, hypervisor: &str) -> String {
        let AgentPlace { facts, sink, pki, store, state, media, scripts, script_work, boot_id } =
            self.agent(host);
        format!(
            r#"site = "{site}"
host = "{host}"
store_dir = "{store}"
state_dir = "{state}"
seed_dir = "{media}"
control_listen = "{facts}"
bulk_listen = "{sink}"
job_tracker = "{job_tracker}"
boot_id_file = "{boot_id}"
[tls]
{tls}
[telemetry]
log_format = "text"
[scripts]
dir = "{scripts}"
work_dir = "{script_work}"
[hypervisor]
{hypervisor}"#,
            site = host.site().name(),
            store = store.display(),
            state = state.display(),
            media = media.display(),
            scripts = scripts.display(),
            script_work = script_work.display(),
            job_tracker = self.endpoint(Service::JobTracker),
            boot_id = boot_id.display(),
            tls = tls_config(pki, "agent"),
        )
    }

    /// The host boots: it gets another boot id.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn new_boot_id(&self, host: HostName) -> Result<()> {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid")
            .context("the kernel gives no random uuid")?;
        std::fs::write(&self.agent(host).boot_id, id).map_err(Into::into)
    }

    /// The command line with the operator's certificate, typed in `namespace`.
    pub fn cli(&self, namespace: Option<Namespace>) -> Cli {
        let file = |name: &str| self.pki.join(name).display().to_string();
        let env = [
            ("UNDERSTUDY_ORCHESTRATOR", self.endpoint(Service::Orchestrator)),
            ("UNDERSTUDY_JOB_TRACKER", self.endpoint(Service::JobTracker)),
            ("UNDERSTUDY_NETWORK_MAPPER", self.endpoint(Service::NetworkMapper)),
            ("UNDERSTUDY_CA", file("ca.pem")),
            ("UNDERSTUDY_CERTIFICATE", file("operator.pem")),
            ("UNDERSTUDY_KEY", file("operator.key")),
        ];
        let env = env.map(|(name, value)| (name.to_owned(), value)).into();
        Cli { program: self.programs.command_line(), namespace, env }
    }

    /// Tells the product about sites, hosts, a policy of this name and interval, the production networks and that they stand for
    /// each other, and waits until both agents are heard.
    ///
    /// # Errors
    /// When a command is refused, or the agents are not heard within half a minute.
    pub fn describe_sites(&self, cli: &Cli, (policy, interval): (&str, &str)) -> Result<()> {
        for site in Site::ALL {
            cli.json(&["site", "create", site.name(), "--kind", "hypervisor"])?;
            self.describe_host(cli, site.host())?;
            cli.json(&[
                "network",
                "create",
                &format!("sites/{}/networks/prod", site.name()),
                "--subnet",
                "192.168.50.0/24",
                "--gateway",
                &PROD_GATEWAY.to_string(),
                "--hypervisor-network",
                PROD_NETWORK,
                "--isolation-target",
                &WITNESS.to_string(),
            ])?;
        }
        cli.json(&["mapping", "create", "sites/alpha/networks/prod", "sites/bravo/networks/prod"])?;
        cli.json(&[
            "policy",
            "create",
            policy,
            "--interval",
            interval,
            "--keep",
            "6",
            "--shutdown-grace",
            "30s",
            "--power-off",
        ])?;
        await_agents(cli, &HostName::FIRST)
    }

    /// Tells the product about a host.
    ///
    /// # Errors
    /// When the command is refused.
    pub fn describe_host(&self, cli: &Cli, host: HostName) -> Result<()> {
        let agent = self.agent(host);
        let at = |address: SocketAddr| format!("https://{address}");
        let name = resource(host);
        cli.json(&["host", "create", &name, "--facts", &at(agent.facts), "--sink", &at(agent.sink)]).map(drop)
    }
}

/// Waits until the agents of these hosts are heard.
///
/// # Errors
/// When they are not within half a minute.
pub(crate) fn await_agents(cli: &Cli, of: &[HostName]) -> Result<()> {
    wait_until("the agents to be heard", HEARD_LIMIT, || {
        let hosts = cli.json(&["host", "list"])?;
        let is_heard = |name: &HostName| {
            let listed = hosts
                .as_array()
                .and_then(|all| all.iter().find(|host| host["name"] == resource(*name).as_str()));
            listed.is_some_and(|host| host["connected"] == true)
        };
        Ok(of.iter().all(is_heard).then_some(()))
    })
    .map(drop)
}

fn tls_config(pki: &Path, name: &str) -> String {
    let file = |name: String| pki.join(name).display().to_string();
    format!(
        "ca = \"{}\"\ncertificate = \"{}\"\nkey = \"{}\"",
        file("ca.pem".to_owned()),
        file(format!("{name}.pem")),
        file(format!("{name}.key"))
    )
}
