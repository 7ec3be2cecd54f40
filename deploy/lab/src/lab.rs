//! A whole lab: up, down, and the loss of a site.
//!
//! ```text
//!   up:    preflight ─▶ router ─▶ control + Postgres ┐
//!                              ├▶ alpha-h1           ├─▶ [machines defined and started at alpha]
//!                              └▶ bravo-h1           ┘
//!   down:  down.sh — the one way, for this code and for a person
//! ```

use std::{
    collections::BTreeMap,
    fs,
    io::{Seek, Write},
    ops::Deref,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::{
    command,
    guest_image::ImageCache,
    host::Host,
    machine::Machine,
    namespace::{Namespace, cable},
    postgres::Postgres,
    preflight::preflight,
    process::mark,
    topology::{CONTROL, HostName, LabId, Site},
    wan::Wan,
};

/// Where labs live unless told otherwise. Not below `/run`: that is often memory, too small for disks and stores.
pub const DEFAULT_ROOT: &str = "/var/lib/understudy-lab";
/// Where `install.sh` puts the guest kernel unless told otherwise.
pub const DEFAULT_CACHE: &str = "/var/cache/understudy-lab";

const DOWN: &str = include_str!("../down.sh");
/// The kernel takes socket paths of at most 107 bytes; what hangs below a lab's root takes up to 60.
const ROOT_LIMIT_BYTES: usize = 47;
const BOOT_LIMIT: Duration = Duration::from_secs(60);

/// One lab, up or not.
#[derive(Debug, Clone)]
pub struct Lab {
    id: LabId,
    root: PathBuf,
    cache: ImageCache,
}

impl Lab {
    /// The lab `id` with its files in `root/id` and images cached in `cache`.
    ///
    /// # Errors
    /// When `root` is too long for the sockets below it, or not absolute.
    pub fn new(id: LabId, root: impl Into<PathBuf>, cache: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        ensure!(root.is_absolute(), "the lab's root {} must be an absolute path", root.display());
        ensure!(
            root.as_os_str().len() <= ROOT_LIMIT_BYTES,
            "the lab's root {} is too long for the sockets below it; at most {ROOT_LIMIT_BYTES} bytes",
            root.display()
        );
        Ok(Self { id, root, cache: ImageCache::new(cache) })
    }

    /// The lab `id` in the places that the environment (`UNDERSTUDY_LAB_ROOT`, `UNDERSTUDY_LAB_CACHE`) or else the defaults
    /// say, as the scripts do.
    ///
    /// # Errors
    /// As [`Lab::new`].
    pub fn from_env(id: LabId) -> Result<Self> {
        let place = |name: &str, default: &str| std::env::var_os(name).unwrap_or_else(|| default.into());
        Self::new(
            id,
            place("UNDERSTUDY_LAB_ROOT", DEFAULT_ROOT),
            place("UNDERSTUDY_LAB_CACHE", DEFAULT_CACHE),
        )
    }

    /// Its id.
    pub fn id(&self) -> &LabId {
        &self.id
    }

    /// All its files.
    pub fn directory(&self) -> PathBuf {
        self.root.join(self.id.to_string())
    }

    /// Where guest images come from.
    pub fn cache(&self) -> &ImageCache {
        &self.cache
    }

    /// One of its hosts.
    pub fn host(&self, name: HostName) -> Host {
        Host::new(&self.id, name, &self.directory())
    }

    /// The namespace of the control plane.
    pub fn control(&self) -> Namespace {
        Namespace::of(&self.id, "control")
    }

    /// The directory of the control plane, with `run`, `logs` and `pki`.
    pub fn control_dir(&self) -> PathBuf {
        self.directory().join("control")
    }

    /// Its database server.
    pub fn postgres(&self) -> Postgres {
        Postgres::new(&self.id, self.control(), &self.control_dir())
    }

    /// The line between the sites.
    pub fn wan(&self) -> Wan {
        Wan::new(Namespace::of(&self.id, "wan"))
    }

    /// The environment that marks a process as this lab's, for one that is not started as a [`ManagedProcess`].
    ///
    /// [`ManagedProcess`]: crate::ManagedProcess
    pub fn mark(&self) -> BTreeMap<String, String> {
        mark(&self.id)
    }

    /// Builds everything but machines, and takes it down when the result is dropped.
    ///
    /// # Errors
    /// As [`Lab::up`]; what was built until then is removed.
    pub fn up_scoped(self) -> Result<ScopedLab> {
        let scoped = ScopedLab(self);
        scoped.up()?;
        Ok(scoped)
    }

    /// Builds everything but machines.
    ///
    /// # Errors
    /// When the machine lacks something (all of it is listed), the lab is up already, or a part does not start. What was
    /// built until then stays for inspection; [`Lab::down`] removes it.
    pub fn up(&self) -> Result<()> {
        let missing = preflight(&self.cache);
        if !missing.is_empty() {
            bail!("this machine cannot run the lab:\n  {}", missing.join("\n  "));
        }
        let directory = self.directory();
        ensure!(
            !directory.exists(),
            "lab {} is there already; take it down first: deploy/lab/down.sh {}",
            self.id,
            self.id
        );
        for part in ["run", "logs", "pki"] {
            fs::create_dir_all(self.control_dir().join(part))?;
        }
        let wan = self.wan();
        wan.create().context("cannot build the WAN")?;
        self.create_control(wan.namespace()).context("cannot build the control site")?;
        let mut work: Vec<Work<'_>> =
            vec![Box::new(|| self.postgres().create().context("cannot start Postgres"))];
        for name in HostName::FIRST {
            let (host, wan) = (self.host(name), wan.clone());
            work.push(Box::new(move || {
                host.create(wan.namespace()).with_context(|| format!("cannot build {name}"))
            }));
        }
        side_by_side(work)
    }

    /// Builds a host that the lab does not have from the beginning.
    ///
    /// # Errors
    /// When a part does not start, or it is there already.
    pub fn add_host(&self, name: HostName) -> Result<()> {
        let host = self.host(name);
        ensure!(!host.namespace().exists(), "{name} is there already");
        host.create(self.wan().namespace()).with_context(|| format!("cannot build {name}"))
    }

    fn create_control(&self, wan: &Namespace) -> Result<()> {
        let control = self.control();
        control.create()?;
        cable((&control, "mgmt"), (wan, "control"))?;
        wan.ip(&["link", "set", "control", "master", Site::Bravo.wan_bridge()])?;
        control.ip(&["address", "add", &format!("{CONTROL}/24"), "dev", "mgmt"])?;
        control.ip(&["route", "add", "default", "via", &Site::Bravo.router().to_string()]).map(drop)
    }

    /// Builds, defines and starts these machines at `host`, and waits until all of them answer; returns how long each took
    /// from start to answer.
    ///
    /// # Errors
    /// When one cannot be built or does not answer.
    pub fn start_machines(&self, host: HostName, machines: &[Machine]) -> Result<Vec<Duration>> {
        let host = self.host(host);
        for machine in machines {
            host.define(machine, &self.cache)?;
        }
        let work = machines.iter().map(|machine| {
            let host = &host;
            move || {
                host.start(&machine.name)?;
                Ok(host.wait_answers(machine, BOOT_LIMIT)?.1)
            }
        });
        collect_side_by_side(work.collect())
    }

    /// The host that the site has in every lab dies at once: processes killed, links down.
    ///
    /// # Errors
    /// When something survives.
    pub fn kill_site(&self, site: Site) -> Result<()> {
        self.host(site.host()).crash()
    }

    /// The site returns with links, libvirtd and networks; nothing of the product is started, and no machine.
    ///
    /// # Errors
    /// When a part does not come back.
    pub fn revive_site(&self, site: Site) -> Result<()> {
        self.host(site.host()).boot()
    }

    /// Removes everything of this lab, also after a crash half way, also when there is nothing.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn down(&self) -> Result<()> {
        down(&self.root, &self.id)
    }
}

/// A lab that lasts as long as this value: for tests, which must leave nothing whatever way they end.
#[derive(Debug)]
pub struct ScopedLab(Lab);

impl Deref for ScopedLab {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.0
    }
}

impl Drop for ScopedLab {
    fn drop(&mut self) {
        if let Err(error) = self.0.down() {
            eprintln!("{error:#}");
        }
    }
}

fn down(root: &Path, id: &LabId) -> Result<()> {
    let mut script = tempfile::tempfile()?;
    script.write_all(DOWN.as_bytes())?;
    script.rewind()?;
    let mut bash = command::new("bash");
    bash.args(["-s", "--", &id.to_string()]).env("UNDERSTUDY_LAB_ROOT", root).stdin(script);
    command::output(&mut bash).with_context(|| format!("lab {id} could not be taken down")).map(drop)
}

type Work<'a> = Box<dyn FnOnce() -> Result<()> + Send + 'a>;

fn side_by_side(work: Vec<Work<'_>>) -> Result<()> {
    collect_side_by_side(work).map(drop)
}

/// Does all of it at the same time, each to its end, and returns the results in order or the first error.
fn collect_side_by_side<T: Send>(work: Vec<impl FnOnce() -> Result<T> + Send>) -> Result<Vec<T>> {
    thread::scope(|scope| {
        let threads: Vec<_> = work.into_iter().map(|part| scope.spawn(part)).collect();
        let results: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        results
            .into_iter()
            .map(|result| result.unwrap_or_else(|_| Err(anyhow!("a part of the lab panicked"))))
            .collect()
    })
}
