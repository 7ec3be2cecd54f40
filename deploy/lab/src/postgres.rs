//! A private Postgres, in the lab in the control namespace: started, stopped, killed without warning and started again.
//!
//! It writes durably (fsync stays on), because what the services survive includes its sudden death. It trusts everybody
//! who reaches it, which is whoever is in the control namespace or may open its socket; without a namespace it has only the socket.
//! It runs as the user `postgres` when it is started by root, which Postgres refuses to be.

use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid, User},
};

use crate::{
    command,
    namespace::Namespace,
    probe::wait_until,
    process::{ManagedProcess, ProcessSpec, is_alive},
    topology::LabId,
};

/// The databases, one per service that has one.
pub const DATABASES: [&str; 3] = ["jobs", "orchestrator", "network"];

const USER: &str = "postgres";
const PORT: u16 = 5432;
const LIMIT: Duration = Duration::from_secs(30);

/// The database server of one lab.
#[derive(Debug, Clone)]
pub struct Postgres {
    lab: LabId,
    namespace: Option<Namespace>,
    /// The control plane's directory.
    control: PathBuf,
}

impl Postgres {
    pub(crate) fn new(lab: &LabId, namespace: impl Into<Option<Namespace>>, control: &Path) -> Self {
        Self { lab: lab.clone(), namespace: namespace.into(), control: control.to_owned() }
    }

    /// Where to reach a database, from within the control namespace.
    pub fn url(&self, database: &str) -> String {
        match self.namespace {
            Some(_) => format!("postgres://{USER}@127.0.0.1:{PORT}/{database}"),
            None => format!("postgres://{USER}@localhost/{database}?host={}", self.socket_dir().display()),
        }
    }

    /// Directory of its socket, which can be used from any namespace.
    pub fn socket_dir(&self) -> PathBuf {
        self.control.join("pg/socket")
    }

    fn data(&self) -> PathBuf {
        self.control.join("pg/data")
    }

    /// Initialises the data directory, starts the server and creates the databases.
    pub(crate) fn create(&self) -> Result<()> {
        for directory in [self.data(), self.socket_dir()] {
            fs::create_dir_all(&directory)?;
            if Uid::effective().is_root() {
                let user = User::from_name(USER)?
                    .with_context(|| format!("there is no user {USER}; run deploy/lab/install.sh"))?;
                chown(&directory, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
            }
        }
        let (program, mut words) = as_postgres(&program("initdb")?);
        words.extend(["--username".to_owned(), USER.to_owned()]);
        let mut initdb = command::new(program);
        initdb.args(words);
        // Initialising need not survive a power failure; what the server writes later does.
        initdb
            .args(["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "-D"])
            .arg(self.data());
        command::output(initdb.current_dir("/"))?;
        let server = ManagedProcess::start(self.spec()?)?;
        self.wait_ready(&server)?;
        for database in DATABASES {
            self.sql("postgres", &format!("CREATE DATABASE {database}"))?;
        }
        Ok(())
    }

    fn spec(&self) -> Result<ProcessSpec> {
        let path = |path: PathBuf| path.display().to_string();
        let (program, mut args) = as_postgres(&program("postgres")?);
        args.extend(["-D".into(), path(self.data()), "-k".into(), path(self.socket_dir())]);
        let listen = if self.namespace.is_some() { "127.0.0.1" } else { "" };
        args.extend(["-h", listen, "-c", "max_connections=200"].map(str::to_owned));
        Ok(ProcessSpec::new(&self.lab, self.namespace.as_ref(), &self.control, USER, program, args))
    }

    /// The server's process.
    ///
    /// # Errors
    /// When it was never started.
    pub fn process(&self) -> Result<ManagedProcess> {
        ManagedProcess::attach(&self.control.join("run"), USER)
    }

    /// Starts it again after [`Postgres::stop`] or [`Postgres::kill_9`] and waits until it answers.
    ///
    /// # Errors
    /// When it runs already or does not recover in time.
    pub fn start(&self) -> Result<()> {
        let server = self.process()?;
        server.start_again()?;
        self.wait_ready(&server)
    }

    /// Ends it in an orderly way, disconnecting everybody.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop(&self) -> Result<()> {
        let server = self.process()?;
        // SIGINT is its "fast shutdown"; SIGTERM would wait for clients to leave.
        server.signal(Signal::SIGINT)?;
        wait_until("Postgres to stop", LIMIT, || Ok(server.pid().is_none().then_some(()))).map(drop)
    }

    /// Ends it without saving anything, but with the shared memory that it has of the kernel, which no `kill -9` gives back. One that was
    /// never started or has ended is left so.
    ///
    /// # Errors
    /// When it does not end in time.
    pub(crate) fn abandon(&self) -> Result<()> {
        let Ok(server) = self.process() else { return Ok(()) };
        server.signal(Signal::SIGQUIT)?;
        wait_until("Postgres to end", LIMIT, || Ok(server.pid().is_none().then_some(()))).map(drop)
    }

    /// Kills the server and all its backends without warning, as a power failure would.
    ///
    /// # Errors
    /// When one of them survives.
    pub fn kill_9(&self) -> Result<()> {
        let server = self.process()?;
        let Some(pid) = server.pid() else { return Ok(()) };
        // A backend left behind would keep the shared memory, and the next server would refuse to start.
        let backends = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        server.kill_9()?;
        for backend in backends.split_whitespace().filter_map(|number| number.parse().ok()) {
            let _ = kill(Pid::from_raw(backend), Signal::SIGKILL);
            wait_until("a backend of Postgres to die", LIMIT, || Ok((!is_alive(backend)).then_some(())))?;
        }
        Ok(())
    }

    /// Runs one statement and returns what `psql` prints, unaligned and without headings.
    ///
    /// # Errors
    /// When the server does not answer or refuses the statement.
    pub fn sql(&self, database: &str, statement: &str) -> Result<String> {
        let mut psql = command::new(program("psql")?);
        psql.args([
            "-X",
            "-A",
            "-t",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            USER,
            "-d",
            database,
            "-c",
            statement,
        ]);
        command::output(psql.arg("-h").arg(self.socket_dir()))
    }

    fn wait_ready(&self, server: &ManagedProcess) -> Result<()> {
        server.wait_for("Postgres to answer", LIMIT, || self.sql("postgres", "SELECT 1").map(Some)).map(drop)
    }
}

/// The program to start and its arguments, so that `server` runs as somebody whom Postgres accepts.
fn as_postgres(server: &Path) -> (PathBuf, Vec<String>) {
    if !Uid::effective().is_root() {
        return (server.to_owned(), vec![]);
    }
    let words = ["--reuid=postgres", "--regid=postgres", "--init-groups", &server.display().to_string()];
    ("setpriv".into(), words.map(str::to_owned).to_vec())
}

/// A program of the newest installed Postgres; Debian keeps the server's off the PATH.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    versions
        .filter_map(|entry| {
            Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin").join(name)))
        })
        .filter(|(_, path)| path.exists())
        .max()
        .map(|(_, path)| path)
        .with_context(|| format!("{name} was not found below /usr/lib/postgresql; run deploy/lab/install.sh"))
}
