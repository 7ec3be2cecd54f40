//! The product in the lab: certificates, configuration, the four services, and the site descriptions that an operator would give.
//!
//! ```text
//!   control   job-tracker :7441   orchestrator :7442   network-mapper :7443        (10.77.2.10, Postgres on loopback)
//!   each host replication-agent   facts :7451   sink :7452                         (its management address)
//! ```

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    Host, HostName, Lab, ManagedProcess, Namespace, ProcessSpec, Site,
    cli::Cli,
    command,
    probe::{Reach, tcp, wait_until},
    topology::{CONTROL, PROD_GATEWAY, PROD_NETWORK, WITNESS},
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

    fn database(self) -> &'static str {
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

    fn endpoint(self) -> String {
        format!("https://{CONTROL}:{}", self.port())
    }
}

/// The product running in a lab.
#[derive(Debug, Clone)]
pub struct Stack {
    lab: Lab,
    binaries: PathBuf,
}

impl Stack {
    /// The product in `lab`, from the programs in the directory `binaries`.
    ///
    /// # Errors
    /// When a program is missing there.
    pub fn new(lab: Lab, binaries: impl Into<PathBuf>) -> Result<Self> {
        let binaries = binaries.into();
        let stack = Self { lab, binaries };
        let programs = Service::ALL.map(|s| stack.program(s.name()));
        for program in programs.into_iter().chain([stack.agent_program(), stack.binaries.join("understudy")])
        {
            ensure!(
                program.exists(),
                "{} is not built; build everything first: cargo build --workspace --bins",
                program.display()
            );
        }
        Ok(stack)
    }

    /// From the programs beside the one that runs, as cargo puts them.
    ///
    /// # Errors
    /// When a program is missing there.
    pub fn beside_this_program(lab: Lab) -> Result<Self> {
        let own = std::env::current_exe()?;
        let directory = own.parent().context("this program is in no directory")?;
        // Tests are one level further down.
        let directory =
            if directory.ends_with("deps") { directory.parent().unwrap_or(directory) } else { directory };
        Self::new(lab, directory)
    }

    /// The lab it runs in.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    fn program(&self, service: &str) -> PathBuf {
        self.binaries.join(format!("understudy-{service}"))
    }

    fn agent_program(&self) -> PathBuf {
        self.program("replication-agent")
    }

    /// Issues certificates, writes configuration, starts all services and agents, and waits until they answer.
    ///
    /// # Errors
    /// When one does not start; the error shows the end of its log.
    pub fn up(&self) -> Result<()> {
        self.issue_certificates().context("cannot issue certificates")?;
        for service in Service::ALL {
            self.start_service(service)?;
        }
        for host in HostName::ALL {
            self.install_hook(&self.lab.host(host))
                .with_context(|| format!("cannot install the hook on {host}"))?;
            self.start_agent(host)?;
        }
        Ok(())
    }

    fn issue_certificates(&self) -> Result<()> {
        let authority = self.lab.control_dir().join("pki/authority");
        let understudy = |arguments: &[&str]| {
            command::output(command::new(self.binaries.join("understudy")).arg("pki").args(arguments))
        };
        let dir = authority.display().to_string();
        understudy(&["init", "--dir", &dir])?;
        let issue = |identity: String, out: &Path, name: &str| {
            let out = out.display().to_string();
            let identity = format!("spiffe://understudy/{identity}");
            understudy(&["issue", "--dir", &dir, "--identity", &identity, "--out", &out, "--name", name])
        };
        let control = self.lab.control_dir().join("pki");
        for service in Service::ALL {
            issue(format!("service/{}", service.name()), &control, service.name())?;
        }
        issue("user/operator".to_owned(), &control, "operator")?;
        for host in HostName::ALL {
            issue(format!("agent/{}/{host}", host.site().name()), &self.lab.host(host).pki(), "agent")?;
        }
        Ok(())
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
            self.program(service.name()),
            ["--config", &config.display().to_string()],
        ))?;
        self.await_port(&process, &self.lab.control(), CONTROL, service.port())
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

    fn service_config(&self, service: Service) -> String {
        let pki = self.lab.control_dir().join("pki");
        let url = self.lab.postgres().url(service.database());
        let mut config = format!(
            r#"[server]
listen = "{CONTROL}:{port}"
[server.tls]
{tls}
[database]
url = "{url}"
[telemetry]
log_format = "text"
"#,
            port = service.port(),
            tls = tls_config(&pki, service.name()),
        );
        if service != Service::JobTracker {
            config += &format!("[job_tracker]\nendpoint = \"{}\"\n", Service::JobTracker.endpoint());
        } else {
            // A killed worker's tasks are handed out again after this time; the lab does not want to wait long.
            config += "[leases]\nlease_ms = 5000\n";
        }
        if service == Service::Orchestrator {
            config += &format!("[network_mapper]\nendpoint = \"{}\"\n", Service::NetworkMapper.endpoint());
        }
        config
    }

    fn start_agent(&self, name: HostName) -> Result<()> {
        let host = self.lab.host(name);
        let mut spec = ProcessSpec::new(
            self.lab.id(),
            &host.namespace(),
            &agent_directory(&host),
            "agent",
            self.agent_program(),
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
        new_boot_id(host)?;
        let config = agent_config_file(host);
        fs::write(&config, agent_config(host))?;
        let hooks = host.hooks().display().to_string();
        command::output(
            command::new(self.agent_program())
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
        new_boot_id(&self.lab.host(site.host()))?;
        self.lab.revive_site(site)?;
        self.restart_agent(site.host())
    }

    /// The command line, as the operator of the lab uses it.
    pub fn cli(&self) -> Cli {
        let pki = self.lab.control_dir().join("pki");
        let file = |name: &str| pki.join(name).display().to_string();
        let env = BTreeMap::from(
            [
                ("UNDERSTUDY_ORCHESTRATOR", Service::Orchestrator.endpoint()),
                ("UNDERSTUDY_JOB_TRACKER", Service::JobTracker.endpoint()),
                ("UNDERSTUDY_NETWORK_MAPPER", Service::NetworkMapper.endpoint()),
                ("UNDERSTUDY_CA", file("ca.pem")),
                ("UNDERSTUDY_CERTIFICATE", file("operator.pem")),
                ("UNDERSTUDY_KEY", file("operator.key")),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        );
        Cli { program: self.binaries.join("understudy"), namespace: Some(self.lab.control()), env }
    }

    /// Tells the product about the lab: sites, hosts, a policy, the production networks and that they stand for each other.
    ///
    /// # Errors
    /// When a command is refused, or the agents are not heard within half a minute.
    pub fn describe_sites(&self) -> Result<()> {
        let cli = self.cli();
        for site in Site::ALL {
            cli.json(&["site", "create", site.name(), "--kind", "hypervisor"])?;
            let host = site.host();
            let at = |port: u16| format!("https://{}:{port}", host.address());
            let name = resource(host);
            cli.json(&["host", "create", &name, "--facts", &at(FACTS_PORT), "--sink", &at(SINK_PORT)])?;
            let network = format!("sites/{}/networks/prod", site.name());
            cli.json(&[
                "network",
                "create",
                &network,
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
            "five-seconds",
            "--interval",
            "5s",
            "--keep",
            "12",
            "--shutdown-grace",
            "30s",
            "--power-off",
        ])?;
        wait_until("both agents to be heard", START_LIMIT, || {
            let hosts = cli.json(&["host", "list"])?;
            let all = hosts.as_array().is_some_and(|h| h.iter().all(|host| host["connected"] == true));
            Ok(all.then_some(()))
        })
        .map(drop)
    }

    /// Ends all services and agents in an orderly way.
    ///
    /// # Errors
    /// When one does not end within its time.
    pub fn stop(&self) -> Result<()> {
        for host in HostName::ALL {
            self.agent(host)?.stop(STOP_LIMIT)?;
        }
        for service in Service::ALL {
            self.service(service)?.stop(STOP_LIMIT)?;
        }
        Ok(())
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

fn boot_id_file(host: &Host) -> PathBuf {
    agent_directory(host).join("boot-id")
}

/// All hosts of a lab share one kernel, which boots once; so each has a file that stands for the kernel's boot id.
fn new_boot_id(host: &Host) -> Result<()> {
    let id = fs::read_to_string("/proc/sys/kernel/random/uuid").context("the kernel gives no random uuid")?;
    fs::write(boot_id_file(host), id).map_err(Into::into)
}

fn agent_config(host: &Host) -> String {
    let name = host.name();
    format!(
        r#"site = "{site}"
host = "{name}"
store_dir = "{store}"
state_dir = "{state}"
control_listen = "{address}:{FACTS_PORT}"
bulk_listen = "{address}:{SINK_PORT}"
job_tracker = "{job_tracker}"
boot_id_file = "{boot_id}"
[tls]
{tls}
[hypervisor]
driver = "libvirt"
uri = "{uri}"
state_dir = "{hypervisor}"
console_dir = "{consoles}"
emulation = "qemu"
cpu_model = "qemu64"
[telemetry]
log_format = "text"
"#,
        site = name.site().name(),
        store = host.store().display(),
        state = host.agent_state().display(),
        address = name.address(),
        job_tracker = Service::JobTracker.endpoint(),
        boot_id = boot_id_file(host).display(),
        tls = tls_config(&host.pki(), "agent"),
        uri = host.libvirt_uri(),
        hypervisor = host.agent_state().join("hypervisor").display(),
        consoles = host.logs().display(),
    )
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
