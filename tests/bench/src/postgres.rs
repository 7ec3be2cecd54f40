//! A Postgres of the benchmark's own, as durable as an installation's, and its pgbench.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::place;

/// Of what is measured, only what a small machine wants otherwise than by default.
const SETTINGS: &[&str] =
    &["listen_addresses=", "max_connections=200", "shared_buffers=512MB", "max_wal_size=4GB"];
const PATIENCE: Duration = Duration::from_secs(60);

/// Stops with the value.
pub struct Postgres {
    child: Child,
    socket: PathBuf,
    bin: PathBuf,
}

impl Postgres {
    /// A fresh cluster below `dir`. Postgres does not run as root, so it belongs to the user `postgres`.
    pub fn start(dir: &Path) -> anyhow::Result<Self> {
        let bin = newest()?;
        let (data, socket) = (dir.join("data"), dir.join("socket"));
        place::remove(dir)?;
        for part in [dir, &data, &socket] {
            fs::create_dir_all(part)?;
            place::run(Command::new("chown").arg("postgres:postgres").arg(part))?;
        }
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700))?;
        let initdb = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"];
        place::run(as_postgres(&bin.join("initdb")).arg("--pgdata").arg(&data).args(initdb))?;
        let mut server = as_postgres(&bin.join("postgres"));
        server.arg("-D").arg(&data).arg("-k").arg(&socket);
        SETTINGS.iter().for_each(|setting| {
            server.arg("-c").arg(setting);
        });
        let log = fs::File::create(dir.join("log"))?;
        let child = server.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let postgres = Self { child, socket, bin };
        let began = Instant::now();
        while postgres.sql("postgres", "SELECT 1").is_err() {
            if began.elapsed() > PATIENCE {
                bail!("Postgres does not answer; see {}", dir.join("log").display());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(postgres)
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@localhost/{database}?host={}", self.socket.display())
    }

    /// Runs statements and returns what the last one says, one row a line.
    pub fn sql(&self, database: &str, text: &str) -> anyhow::Result<String> {
        let mut psql = Command::new(self.bin.join("psql"));
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h"]);
        let output = psql.arg(&self.socket).args(["-d", database, "-c", text]).output()?;
        if !output.status.success() {
            bail!("psql: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Transactions per second of `clients` that each repeat the script.
    pub fn pgbench(
        &self,
        database: &str,
        script: &Path,
        clients: usize,
        seconds: u64,
    ) -> anyhow::Result<f64> {
        let mut pgbench = Command::new("pgbench");
        pgbench.args(["-n", "-M", "prepared", "-j", "2", "-U", "postgres", "-h"]).arg(&self.socket);
        pgbench.args(["-c", &clients.to_string(), "-T", &seconds.to_string(), "-f"]).arg(script);
        let output = pgbench.arg(database).output().context("pgbench")?;
        let text = String::from_utf8(output.stdout)?;
        let tps = text.lines().find_map(|line| line.strip_prefix("tps = ")?.split_whitespace().next());
        let tps = tps.with_context(|| format!("pgbench: {}", String::from_utf8_lossy(&output.stderr)))?;
        Ok(tps.parse()?)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // "Fast": sessions are ended. `setpriv` has become the server, so the child is it.
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
        }
        let _ = self.child.wait();
    }
}

fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--"])
        .arg(program)
        .current_dir("/");
    command
}

fn newest() -> anyhow::Result<PathBuf> {
    let version = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let found = fs::read_dir("/usr/lib/postgresql").context("no Postgres in /usr/lib/postgresql")?;
    let newest = found.filter_map(|entry| Some(entry.ok()?.path())).max_by_key(version);
    Ok(newest.context("no Postgres in /usr/lib/postgresql")?.join("bin"))
}
