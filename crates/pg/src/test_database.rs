//! A database of its own for every test, in a Postgres that needs no set-up.
//!
//! ```text
//!   UNDERSTUDY_TEST_DATABASE_URL set ─▶ that Postgres (URL of a superuser)
//!                              unset ─▶ <temp dir>/understudy-test-postgres-<uid>/
//!                                         lock      held while the cluster is looked at, made or started
//!                                         data/     initdb, without fsync; appears by rename
//!                                         socket/   the only way in; no TCP
//!   TestDatabase::new ─▶ CREATE DATABASE test_<pid>_<n>_<micros> ─▶ migrations ─▶ dropped with the value
//! ```
//!
//! The private cluster is shared by all test processes of the user and stays up between runs, so that a test costs a `CREATE DATABASE`
//! and not an `initdb`. `crates/pg/stop-test-postgres.sh` stops and removes it. Databases of processes that were killed are dropped by
//! the next process that starts. Postgres refuses to run as root; for root it runs as the user `postgres`.

use std::{
    fs::{self, File},
    io,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::SystemTime,
};

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, migrate::Migrator};

use crate::{Config, Pool};

const URL_VARIABLE: &str = "UNDERSTUDY_TEST_DATABASE_URL";
const PREFIX: &str = "test_";
/// Safe for tests only: a crash of the machine loses the cluster.
const SETTINGS: &str = "listen_addresses = ''\nmax_connections = 400\nfsync = off\nsynchronous_commit = off\n\
                        full_page_writes = off\nshared_buffers = 64MB\n";

/// A fresh database with a schema. Panics where it cannot be had: a test without its database is a failed test.
pub struct TestDatabase {
    admin_url: String,
    name: String,
    config: Config,
    pool: Pool,
}

impl TestDatabase {
    /// Makes a database and runs `migrator` in it.
    pub async fn new(migrator: &Migrator) -> Self {
        let database = Self::empty().await;
        database.pool.migrate(migrator).await.expect("the migrations of the test database");
        database
    }

    /// Makes a database without a schema.
    pub async fn empty() -> Self {
        let admin_url = admin_url();
        let name = fresh_name();
        let create = format!("CREATE DATABASE {name} TEMPLATE template0");
        let mut admin = PgConnection::connect(admin_url).await.expect("connection to the test Postgres");
        admin.execute(AssertSqlSafe(create)).await.expect("CREATE DATABASE in the test Postgres");
        admin.close().await.expect("end of the administrative connection");
        let config = Config::new(with_database(admin_url, &name));
        let pool = Pool::connect(&config).await.expect("connection to the test database");
        Self { admin_url: admin_url.to_owned(), name, config, pool }
    }

    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// For a service that is started as a process of its own, or a second pool.
    pub fn config(&self) -> &Config {
        &self.config
    }
}

impl Drop for TestDatabase {
    /// A runtime of its own, because the test's may be the one that is going away.
    fn drop(&mut self) {
        let (url, name) = (self.admin_url.clone(), self.name.clone());
        let dropped = std::thread::spawn(move || block_on(drop_databases(&url, &[name]))).join();
        if !matches!(dropped, Ok(Ok(()))) {
            eprintln!("test database {} was left behind: {dropped:?}", self.name);
        }
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime for the test database").block_on(future)
}

async fn drop_databases(admin_url: &str, names: &[String]) -> Result<(), sqlx::Error> {
    let mut admin = PgConnection::connect(admin_url).await?;
    for name in names {
        admin.execute(AssertSqlSafe(format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))).await?;
    }
    admin.close().await
}

/// Unique over processes and time: the process that made it can be told from the name.
fn fresh_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let micros =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock after 1970").as_micros();
    format!("{PREFIX}{}_{count}_{micros}", std::process::id())
}

/// Replaces the database in a URL and keeps its parameters.
fn with_database(url: &str, name: &str) -> String {
    let (base, parameters) = url.split_once('?').map_or((url, String::new()), |(b, p)| (b, format!("?{p}")));
    let (scheme, rest) = base.split_once("://").expect("a URL in UNDERSTUDY_TEST_DATABASE_URL");
    let host = rest.split_once('/').map_or(rest, |(host, _)| host);
    format!("{scheme}://{host}/{name}{parameters}")
}

/// URL of a superuser's connection, with the private cluster started when that is what is used. Once per process.
fn admin_url() -> &'static str {
    static URL: OnceLock<String> = OnceLock::new();
    URL.get_or_init(|| match std::env::var(URL_VARIABLE) {
        Ok(url) if !url.is_empty() => url,
        _ => {
            let cluster = Cluster::at(std::env::temp_dir());
            cluster.ensure_running().unwrap_or_else(|e| {
                panic!(
                    "cannot start a private Postgres in {}: {e}. Install postgresql, or set {URL_VARIABLE} to a \
                     superuser's URL",
                    cluster.directory.display()
                )
            });
            cluster.url()
        }
    })
}

struct Cluster {
    directory: PathBuf,
}

impl Cluster {
    fn at(temp: PathBuf) -> Self {
        let uid = own_uid();
        Self { directory: temp.join(format!("understudy-test-postgres-{uid}")) }
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("socket")
    }

    fn url(&self) -> String {
        format!("postgres://postgres@localhost/postgres?host={}", self.socket().display())
    }

    /// Test processes start at the same moment; the file lock lets one do the work. It ends with the process that holds it, so that a
    /// killed one leaves nothing that blocks.
    fn ensure_running(&self) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        fs::set_permissions(&self.directory, fs::Permissions::from_mode(0o755))?;
        let lock = File::create(self.directory.join("lock"))?;
        lock.lock()?;
        if !self.answers() {
            self.make()?;
            self.start()?;
        }
        self.drop_orphans()
    }

    /// A connection is the only proof: a pid file may be older than the machine's last boot.
    fn answers(&self) -> bool {
        let url = self.url();
        std::thread::spawn(move || {
            block_on(async { PgConnection::connect(&url).await?.close().await }).is_ok()
        })
        .join()
        .unwrap_or(false)
    }

    fn make(&self) -> io::Result<()> {
        let socket = self.socket();
        fs::create_dir_all(&socket)?;
        give_to_postgres(&socket)?;
        if self.data().exists() {
            return Ok(());
        }
        // initdb that was killed half way must not be taken for a cluster.
        let fresh = self.directory.join("data.new");
        let _ = fs::remove_dir_all(&fresh);
        fs::create_dir(&fresh)?;
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o700))?;
        give_to_postgres(&fresh)?;
        run(postgres_command("initdb")?.arg("--pgdata").arg(&fresh).args([
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ]))?;
        let settings = format!("{SETTINGS}unix_socket_directories = '{}'\n", socket.display());
        let conf = fresh.join("postgresql.conf");
        fs::write(&conf, fs::read_to_string(&conf)? + &settings)?;
        fs::rename(&fresh, self.data())
    }

    fn start(&self) -> io::Result<()> {
        let log = self.socket().join("log");
        run(postgres_command("pg_ctl")?
            .arg("--pgdata")
            .arg(self.data())
            .arg("--log")
            .arg(log)
            .args(["--wait", "--timeout=60", "start"])
            // It outlives the test and must not die with the test's process group.
            .process_group(0))
    }

    /// Databases of test processes that no longer exist.
    fn drop_orphans(&self) -> io::Result<()> {
        let url = self.url();
        let swept = std::thread::spawn(move || {
            block_on(async {
                let mut admin = PgConnection::connect(&url).await?;
                let names: Vec<String> =
                    sqlx::query_scalar("SELECT datname::text FROM pg_database WHERE datname LIKE 'test\\_%'")
                        .fetch_all(&mut admin)
                        .await?;
                admin.close().await?;
                let orphans: Vec<String> = names.into_iter().filter(|name| is_orphan(name)).collect();
                drop_databases(&url, &orphans).await
            })
        })
        .join();
        match swept {
            Ok(result) => result.map_err(io::Error::other),
            Err(_) => Err(io::Error::other("the sweep of old test databases panicked")),
        }
    }
}

fn is_orphan(database: &str) -> bool {
    let pid = database.strip_prefix(PREFIX).and_then(|rest| rest.split('_').next());
    let pid = pid.and_then(|pid| pid.parse::<u32>().ok());
    pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}

/// The user that runs this process, read off what the kernel says about it.
fn own_uid() -> u32 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").map(|data| data.uid()).unwrap_or(0)
}

fn is_root() -> bool {
    own_uid() == 0
}

fn give_to_postgres(path: &Path) -> io::Result<()> {
    if is_root() {
        run(Command::new("chown").arg("postgres:postgres").arg(path))?;
    }
    Ok(())
}

/// A program of the newest Postgres that is installed, as a user that Postgres accepts.
fn postgres_command(program: &str) -> io::Result<Command> {
    let path = newest_postgres()?.join(program);
    if !is_root() {
        return Ok(Command::new(path));
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--"]).arg(path);
    Ok(command)
}

fn newest_postgres() -> io::Result<PathBuf> {
    let version = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    fs::read_dir("/usr/lib/postgresql")
        .map_err(|_| io::Error::new(io::ErrorKind::NotFound, "no Postgres in /usr/lib/postgresql"))?
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|path| path.join("bin/initdb").exists())
        .max_by_key(|path| version(path))
        .map(|path| path.join("bin"))
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no Postgres in /usr/lib/postgresql"))
}

fn run(command: &mut Command) -> io::Result<()> {
    // No inherited descriptors: a server that held the test's output open would keep the test runner waiting.
    let status =
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    if status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("{command:?} ended with {status}")))
}
