//! Network namespaces: making them, joining them, and doing something inside one.

use std::{fs::File, path::PathBuf, process::Command, thread};

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};

use crate::{command, topology::LabId};

/// One named network namespace of a lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace(String);

impl Namespace {
    /// The namespace of lab `id` with this short name, such as `alpha-h1`; it need not exist yet.
    pub fn of(id: &LabId, short: &str) -> Self {
        Self(format!("uslab-{id}-{short}"))
    }

    /// Its full name, as `ip netns` lists it.
    pub fn name(&self) -> &str {
        &self.0
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.0)
    }

    /// Whether it is there.
    pub fn exists(&self) -> bool {
        self.path().exists()
    }

    /// Makes it, without IPv6 and without forwarding.
    ///
    /// # Errors
    /// When it exists or the kernel refuses.
    pub fn create(&self) -> Result<()> {
        command::output(command::new("ip").args(["netns", "add", &self.0]))?;
        self.ip(&["link", "set", "lo", "up"])?;
        self.sysctl("net.ipv6.conf.all.disable_ipv6", "1")?;
        self.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        self.sysctl("net.ipv4.ip_forward", "0")
    }

    /// Sets a kernel parameter of this namespace; one that the kernel does not have is not missed.
    pub(crate) fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        command::output(self.command("sysctl").args(["-q", "-e", "-w", &format!("{name}={value}")])).map(drop)
    }

    /// Runs `ip` with `args` on this namespace and returns what it prints.
    pub(crate) fn ip(&self, args: &[&str]) -> Result<String> {
        command::output(command::new("ip").args(["-n", &self.0]).args(args))
    }

    /// A command that will run inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = command::new("ip");
        command.args(["netns", "exec", &self.0]).arg(program);
        command
    }

    /// Does `action` on a thread of its own whose sockets belong to this namespace.
    ///
    /// An asynchronous runtime that is built inside `action` on the current thread lives in the namespace as well; threads
    /// that existed before do not.
    ///
    /// # Errors
    /// When the namespace does not exist or the caller is not root.
    pub fn enter<T: Send>(&self, action: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(self.path()).with_context(|| format!("there is no namespace {}", self.0))?;
        thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot join {}", self.0))?;
                Ok(action())
            });
            thread.join().unwrap_or_else(|_| Err(anyhow!("what was to be done in {} panicked", self.0)))
        })
    }
}

/// Connects two namespaces by a cable; each end gets the given name in its namespace and is switched on.
pub(crate) fn cable((from, from_end): (&Namespace, &str), (to, to_end): (&Namespace, &str)) -> Result<()> {
    command::output(
        command::new("ip").args(["link", "add", from_end, "netns", from.name(), "type", "veth"]).args([
            "peer",
            "name",
            to_end,
            "netns",
            to.name(),
        ]),
    )?;
    from.ip(&["link", "set", from_end, "up"])?;
    to.ip(&["link", "set", to_end, "up"]).map(drop)
}
