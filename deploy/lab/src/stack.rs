//! The product in the lab: certificates, configuration, the four services, and the site descriptions that an operator would give.
//!
//! ```text
//!   control   job-tracker :7441   orchestrator :7442   network-mapper :7443        (10.77.2.10, Postgres on loopback)
//!   each host replication-agent   facts :7451   sink :7452                         (its management address)
//! ```

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    Host, HostName, Lab, ManagedProcess, Namespace, ProcessSpec, Site,
    cli::{Cli, Product},
    command,
    name_server::NameServer,
    places::{AgentPlace, Places, Programs, await_agents},
    probe::{Reach, tcp},
    topology::CONTROL,
};

const START_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(15);
/// The port at which an agent tells its facts.
const FACTS_PORT: u16 = 7451;
/// The port at which an agent receives recovery points.
const SINK_PORT: u16 = 7452;

/// A service of the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    JobTracker,
    Orchestrator,
    NetworkMapper,
}

impl Service {
    /// In the order in which they are started; any order would do.
    pub const ALL: [Self; 3] = [Self::JobTracker, Self::Orchestrator, Self::NetworkMapper];

    /// Its name as in its certificate.
    pub fn name(self) -> &'static str {
        match self {
            Self::JobTracker => "job-tracker",
            Self::Orchestrator => "orchestrator",
            Self::NetworkMapper => "network-mapper",
        }
    }

    pub(crate) fn database(self) -> &'static str {
        match self {
            Self::JobTracker => "jobs",
            Self::Orchestrator => "orchestrator",
            Self::NetworkMapper => "network",
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::JobTracker => 7441,
            Self::Orchestrator => 7442,
            Self::NetworkMapper => 7443,
        }
    }
}

/// The product running in a lab.
#[derive(Debug, Clone)]
pub struct Stack {
    lab: Lab,
    programs: Programs,
}

impl Stack {
    /// The product in `lab`, from the programs in the directory `binaries`.
    ///
    /// # Errors
    /// When a program is missing there.
    pub fn new(lab: Lab, binaries: impl Into<PathBuf>) -> Result<Self> {
        Ok(Self { lab, programs: Programs::of(binaries.into())? })
    }

    /// From the programs beside the one that runs, as cargo puts them.
    ///
    /// # Errors
    /// When a program is missing there.
    pub fn beside_this_program(lab: Lab) -> Result<Self> {
        Ok(Self { lab, programs: Programs::beside_this_one()? })
    }

    /// The lab it runs in.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    fn places(&self) -> Places {
        let service = |service: Service| SocketAddr::from((CONTROL, service.port()));
        let agent = |name: HostName| {
            let host = self.lab.host(name);
            AgentPlace {
                facts: (name.address(), FACTS_PORT).into(),
                sink: (name.address(), SINK_PORT).into(),
                pki: host.pki(),
                store: host.store(),
                state: host.agent_state(),
                media: host.media(),
                scripts: host.scripts(),
                script_work: host.run_dir().join("scripts"),
                boot_id: agent_directory(&host).join("boot-id"),
            }
        };
        Places::new(self.programs.clone(), self.lab.control_dir().join("pki"), service, agent)
    }

    /// Issues certificates, writes configuration, starts all services and agents, and waits until they answer.
    ///
    /// # Errors
    /// When one does not start; the error shows the end of its log.
    pub fn up(&self) -> Result<()> {
        self.places().issue_certificates().context("cannot issue certificates")?;
        for service in Service::ALL {
            self.start_service(service)?;
        }
        HostName::FIRST.into_iter().try_for_each(|host| self.bring_in(host))
    }

    fn bring_in(&self, host: HostName) -> Result<()> {
        self.install_hook(&self.lab.host(host))
            .with_context(|| format!("cannot install the hook on {host}"))?;
        self.start_agent(host)
    }

    /// Builds a further host, starts its agent and tells the product of it.
    ///
    /// # Errors
    /// When a part does not start, or the agent is not heard within half a minute.
    pub fn add_host(&self, host: HostName) -> Result<()> {
        self.lab.add_host(host)?;
        self.bring_in(host)?;
        let (places, cli) = (self.places(), self.cli());
        places.describe_host(&cli, host)?;
        await_agents(&cli, &[host])
    }

    /// A service's process, running or not.
    ///
    /// # Errors
    /// When it was never started.
    pub fn service(&self, service: Service) -> Result<ManagedProcess> {
        ManagedProcess::attach(&self.lab.control_dir().join("run"), service.name())
    }

    /// An agent's process, running or not.
    ///
    /// # Errors
    /// When it was never started.
    pub fn agent(&self, host: HostName) -> Result<ManagedProcess> {
        ManagedProcess::attach(&self.lab.host(host).run_dir(), "agent")
    }

    fn start_service(&self, service: Service) -> Result<()> {
        let directory = self.lab.control_dir();
        let config = directory.join(format!("{}.toml", service.name()));
        fs::write(&config, self.service_config(service))?;
        let process = ManagedProcess::start(ProcessSpec::new(
            self.lab.id(),
            &self.lab.control(),
            &directory,
            service.name(),
            self.programs.service(service),
            ["--config", &config.display().to_string()],
        ))?;
        self.await_port(&process, &self.lab.control(), CONTROL, service.port())
    }

    fn service_config(&self, service: Service) -> String {
        let url = self.lab.postgres().url(service.database());
        let config = self.places().service_config(service, &url);
        match service {
            Service::NetworkMapper => config + &self.name_server().mappers_config(),
            Service::JobTracker | Service::Orchestrator => config,
        }
    }

    /// The lab's DNS server, running or not.
    pub fn name_server(&self) -> NameServer {
        NameServer::of(&self.lab)
    }

    /// Starts a DNS server with these records, and network-mapper again with what it must know of that.
    ///
    /// # Errors
    /// When one of them does not start.
    pub fn add_name_server(&self, records: &[(&str, Ipv4Addr)]) -> Result<NameServer> {
        let server = self.name_server();
        server.start(records)?;
        let config = self.lab.control_dir().join(format!("{}.toml", Service::NetworkMapper.name()));
        fs::write(&config, self.service_config(Service::NetworkMapper))?;
        self.service(Service::NetworkMapper)?.stop(STOP_LIMIT)?;
        self.restart_service(Service::NetworkMapper)?;
        Ok(server)
    }

    /// Starts a service again after it was killed or stopped, and waits until it answers.
    ///
    /// # Errors
    /// When it runs already or does not answer.
    pub fn restart_service(&self, service: Service) -> Result<()> {
        let process = self.service(service)?;
        process.start_again()?;
        self.await_port(&process, &self.lab.control(), CONTROL, service.port())
    }

    fn await_port(
        &self,
        process: &ManagedProcess,
        from: &Namespace,
        address: Ipv4Addr,
        port: u16,
    ) -> Result<()> {
        let what = format!("an answer at {address}:{port}");
        process
            .wait_for(&what, START_LIMIT, || {
                let reached = tcp(from, address, port, Duration::from_secs(1))?;
                Ok((reached == Reach::Connected).then_some(()))
            })
            .map(drop)
    }

    fn start_agent(&self, name: HostName) -> Result<()> {
        let host = self.lab.host(name);
        let mut spec = ProcessSpec::new(
            self.lab.id(),
            &host.namespace(),
            &agent_directory(&host),
            "agent",
            self.programs.agent(),
            ["--config", &agent_config_file(&host).display().to_string()],
        );
        // An agent makes network namespaces for tests; they must outlive it and be there for the operator.
        spec.shares_mounts = true;
        let process = ManagedProcess::start(spec)?;
        self.await_port(&process, &host.namespace(), name.address(), FACTS_PORT)
    }

    /// Starts an agent again after it was killed or stopped, or after its host came back.
    ///
    /// # Errors
    /// When it runs already or does not answer.
    pub fn restart_agent(&self, name: HostName) -> Result<()> {
        let process = self.agent(name)?;
        process.start_again()?;
        self.await_port(&process, &self.lab.host(name).namespace(), name.address(), FACTS_PORT)
    }

    /// Writes the agent's configuration and the hook by which libvirt asks it before it starts a machine. libvirtd notices a
    /// hook when it starts, so it is started again.
    fn install_hook(&self, host: &Host) -> Result<()> {
        let (places, config) = (self.places(), agent_config_file(host));
        places.new_boot_id(host.name())?;
        fs::write(&config, places.agent_config(host.name(), &libvirt_config(host)))?;
        let hooks = host.hooks().display().to_string();
        command::output(
            command::new(self.programs.agent())
                .args(["install-hook", "--dir", &hooks, "--config"])
                .arg(&config),
        )?;
        host.restart_libvirtd()
    }

    /// A site that was lost returns: its host boots, with another boot id, and its agent starts. No machine does.
    ///
    /// # Errors
    /// When a part does not come back.
    pub fn revive_site(&self, site: Site) -> Result<()> {
        self.places().new_boot_id(site.host())?;
        self.lab.revive_site(site)?;
        self.restart_agent(site.host())
    }

    /// The command line, as the operator of the lab uses it.
    pub fn cli(&self) -> Cli {
        self.places().cli(Some(self.lab.control()))
    }

    /// Tells the product about the lab: sites, hosts, a policy, the production networks and that they stand for each other.
    ///
    /// # Errors
    /// When a command is refused, or the agents are not heard within half a minute.
    pub fn describe_sites(&self) -> Result<()> {
        self.places().describe_sites(&self.cli(), ("five-seconds", "5s"))
    }

    /// Ends all services and agents in an orderly way.
    ///
    /// # Errors
    /// When one does not end within its time.
    pub fn stop(&self) -> Result<()> {
        for host in HostName::ALL.into_iter().filter(|host| self.lab.host(*host).namespace().exists()) {
            self.agent(host)?.stop(STOP_LIMIT)?;
        }
        for service in Service::ALL {
            self.service(service)?.stop(STOP_LIMIT)?;
        }
        Ok(())
    }
}

impl Product for Stack {
    fn cli(&self) -> Cli {
        Self::cli(self)
    }
}

/// `alpha/alpha-h1`, as the command line wants a host.
pub fn resource(host: HostName) -> String {
    format!("{}/{host}", host.site().name())
}

fn agent_directory(host: &Host) -> PathBuf {
    // Beside run and logs of the host.
    host.run_dir().parent().map(Path::to_owned).unwrap_or_default()
}

fn agent_config_file(host: &Host) -> PathBuf {
    agent_directory(host).join("agent.toml")
}

fn libvirt_config(host: &Host) -> String {
    format!(
        r#"driver = "libvirt"
uri = "{uri}"
state_dir = "{state}"
console_dir = "{consoles}"
emulation = "qemu"
cpu_model = "qemu64"
"#,
        uri = host.libvirt_uri(),
        state = host.agent_state().join("hypervisor").display(),
        consoles = host.logs().display(),
    )
}
