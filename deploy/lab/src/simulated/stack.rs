//! The processes of a simulation: made, killed, started again and ended.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::remains;
use crate::{
    HostName, ManagedProcess, ProcessSpec, Service,
    cli::{Cli, Product},
    command,
    machine::Machine,
    places::{AgentPlace, Places, Programs},
    postgres::{self, Postgres},
    process::mark,
    topology::{LabId, PROD_NETWORK, RESERVATIONS},
};

const START_LIMIT: Duration = Duration::from_secs(30);
/// Below the numbers that the kernel gives to outgoing connections, so that a service that was killed finds its port free.
const PORTS: std::ops::Range<u16> = 10_000..32_000;
/// Size of every disk of a simulated machine.
pub(super) const DISK_MIB: u64 = 32;

/// The product on simulated drivers. It outlives this value: [`SimulatedStack::end`] ends it.
#[derive(Debug)]
pub struct SimulatedStack {
    id: LabId,
    directory: PathBuf,
    places: Places,
    /// Whoever makes a process or a file holds it, so that nothing is made after the end. True: ended.
    ended: Mutex<bool>,
}

impl SimulatedStack {
    /// A place for a simulation, in a temporary directory of its own, with the programs beside the one that runs. Nothing
    /// is started.
    ///
    /// # Errors
    /// When Postgres or a program of the product is missing, or no directory can be made.
    pub fn new() -> Result<Self> {
        for program in ["initdb", "postgres", "psql"] {
            ensure!(
                postgres::program(program).is_ok(),
                "the simulation needs a Postgres of its own, and {program} was not found below /usr/lib/postgresql; \
                 on Debian: apt-get install postgresql"
            );
        }
        let programs = Programs::beside_this_one()?;
        let id: LabId = format!("sim{}", std::process::id()).parse()?;
        let mut ports = free_ports();
        let mut address = || {
            let port = ports.next().context("this machine has no free ports on 127.0.0.1")?;
            Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        };
        let addresses = (0..Service::ALL.len() + 2 * HostName::ALL.len())
            .map(|_| address())
            .collect::<Result<Vec<SocketAddr>>>()?;
        let directory = remains::new_directory(&id)?;
        let place = |host: HostName| {
            let (base, number) = (directory.join(host.name()), Service::ALL.len() + 2 * host as usize);
            AgentPlace {
                facts: addresses[number],
                sink: addresses[number + 1],
                pki: base.join("pki"),
                store: base.join("store"),
                state: base.join("agent"),
                media: base.join("media"),
                scripts: base.join("scripts"),
                script_work: base.join("script-work"),
                boot_id: base.join("boot-id"),
            }
        };
        let pki = directory.join("control/pki");
        let places = Places::new(programs, pki, |service| addresses[service as usize], place);
        Ok(Self { id, directory, places, ended: Mutex::new(false) })
    }

    /// All its files.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Starts everything with `machines` running at alpha, and describes the sites to the product.
    ///
    /// # Errors
    /// When a part does not start; the error shows the end of its log.
    pub fn up(&self, machines: &[Machine]) -> Result<()> {
        self.make(|| {
            for base in ["control"].into_iter().chain(HostName::ALL.map(HostName::name)) {
                fs::create_dir_all(self.directory.join(base))?;
            }
            self.postgres().create().context("cannot start Postgres")?;
            self.places.issue_certificates().context("cannot issue certificates")
        })?;
        for service in Service::ALL {
            self.start_service(service)?;
        }
        for host in HostName::FIRST {
            let present = if host == HostName::AlphaH1 { machines } else { &[] };
            let config = self.places.agent_config(host, &self.driver_config(host, present));
            self.make(|| {
                fs::write(self.agent_config_file(host), config)?;
                self.places.new_boot_id(host)
            })?;
            self.start_agent(host)?;
        }
        self.places.describe_sites(&self.cli(), super::story::POLICY)
    }

    /// Does what makes a process or a file, unless the simulation has ended.
    fn make<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let ended = self.lock();
        ensure!(!*ended, "the simulation was ended");
        work()
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends every process and removes every file. What is tried to be started afterwards fails.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn end(&self) -> Result<()> {
        self.end_and(|| ())
    }

    /// As [`SimulatedStack::end`], and does something before anybody hears of the end.
    ///
    /// # Errors
    /// As there.
    pub fn end_and(&self, last: impl FnOnce()) -> Result<()> {
        let mut ended = self.lock();
        // Under the lock, so that nobody waits who holds it.
        command::only_this_thread_goes_on();
        let removed = if *ended { Ok(()) } else { remains::remove(&self.directory) };
        *ended = true;
        last();
        removed
    }

    /// Its database server.
    pub(super) fn postgres(&self) -> Postgres {
        Postgres::new(&self.id, None, &self.directory.join("control"))
    }

    /// Kills Postgres without warning and starts it again.
    pub(super) fn restart_postgres(&self) -> Result<()> {
        self.postgres().kill_9()?;
        self.make(|| self.postgres().start())
    }

    fn service(&self, service: Service) -> Result<ManagedProcess> {
        ManagedProcess::attach(&self.directory.join("control/run"), service.name())
    }

    fn start_service(&self, service: Service) -> Result<()> {
        let directory = self.directory.join("control");
        let config = directory.join(format!("{}.toml", service.name()));
        let process = self.make(|| {
            let url = self.postgres().url(service.database());
            fs::write(&config, self.places.service_config(service, &url))?;
            ManagedProcess::start(ProcessSpec::new(
                &self.id,
                None,
                &directory,
                service.name(),
                self.places.programs.service(service),
                ["--config", &config.display().to_string()],
            ))
        })?;
        answers(&process, self.places.service(service))
    }

    /// Kills a service without warning and starts it again.
    pub(super) fn restart_service(&self, service: Service) -> Result<()> {
        let process = self.service(service)?;
        process.kill_9()?;
        self.make(|| process.start_again())?;
        answers(&process, self.places.service(service))
    }

    /// Keeps the services that agents hear from and speak to from doing anything, or lets them go on.
    pub(super) fn hold_control_plane(&self, hold: bool) -> Result<()> {
        let signal = if hold { Signal::SIGSTOP } else { Signal::SIGCONT };
        for service in [Service::Orchestrator, Service::JobTracker] {
            self.service(service)?.signal(signal)?;
        }
        Ok(())
    }

    fn agent(&self, host: HostName) -> Result<ManagedProcess> {
        ManagedProcess::attach(&self.directory.join(host.name()).join("run"), "agent")
    }

    fn start_agent(&self, host: HostName) -> Result<()> {
        let process = self.make(|| {
            ManagedProcess::start(ProcessSpec::new(
                &self.id,
                None,
                &self.directory.join(host.name()),
                "agent",
                self.places.programs.agent(),
                ["--config", &self.agent_config_file(host).display().to_string()],
            ))
        })?;
        answers(&process, self.places.agent(host).facts)
    }

    /// The host is gone from one moment to the next, with the machines on it.
    pub(super) fn kill_host(&self, host: HostName) -> Result<()> {
        self.agent(host)?.kill_9()
    }

    /// The host boots. None of its machines runs.
    pub(super) fn boot_host(&self, host: HostName) -> Result<()> {
        self.make(|| self.places.new_boot_id(host))?;
        self.start_killed_agent(host)
    }

    /// Kills an agent on whose host no machine runs, and starts it again in the same boot of the host.
    pub(super) fn restart_agent(&self, host: HostName) -> Result<()> {
        self.kill_host(host)?;
        self.start_killed_agent(host)
    }

    fn start_killed_agent(&self, host: HostName) -> Result<()> {
        let process = self.agent(host)?;
        self.make(|| process.start_again())?;
        answers(&process, self.places.agent(host).facts)
    }

    pub(super) fn agent_config_file(&self, host: HostName) -> PathBuf {
        self.directory.join(host.name()).join("agent.toml")
    }

    pub(super) fn agent_program(&self) -> PathBuf {
        self.places.programs.agent()
    }

    /// The replica store of a host.
    pub(super) fn store(&self, host: HostName) -> &Path {
        &self.places.agent(host).store
    }

    /// Where a host's driver keeps its machines.
    pub(super) fn driver_dir(&self, host: HostName) -> PathBuf {
        self.directory.join(host.name()).join("machines")
    }

    fn driver_config(&self, host: HostName, machines: &[Machine]) -> String {
        let mut config = format!(
            r#"driver = "simulated"
state_dir = "{state}"
networks = ["{PROD_NETWORK}"]
write_interval_ms = 100
shut_down_ms = 1000
"#,
            state = self.driver_dir(host).display()
        );
        for known in RESERVATIONS {
            config += &format!(
                "[[hypervisor.reservations]]\nmac = \"{}\"\naddress = \"{}\"\nhost_name = \"{}\"\n",
                known.mac, known.address, known.name
            );
        }
        for Machine { name, mac, disks, .. } in machines {
            config += &format!(
                "[[hypervisor.machines]]\nname = \"{name}\"\nmac = \"{mac}\"\nnetwork = \"{PROD_NETWORK}\"\n\
                 disks = {disks}\ndisk_mib = {DISK_MIB}\n"
            );
        }
        config
    }
}

impl Product for SimulatedStack {
    fn cli(&self) -> Cli {
        let mut cli = self.places.cli(None);
        cli.env.extend(mark(&self.id));
        cli
    }
}

fn answers(process: &ManagedProcess, at: SocketAddr) -> Result<()> {
    process
        .wait_for(&format!("an answer at {at}"), START_LIMIT, || {
            Ok(TcpStream::connect_timeout(&at, Duration::from_secs(1)).ok().map(drop))
        })
        .map(drop)
}

/// Ports on 127.0.0.1 that nobody listens on. Two simulations begin to look at different ones.
fn free_ports() -> impl Iterator<Item = u16> {
    let count = usize::from(PORTS.end - PORTS.start);
    let first = std::process::id() as usize * 16 % count;
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    PORTS.cycle().skip(first).take(count).filter(free)
}
