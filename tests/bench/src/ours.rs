//! Our side of the comparison: two agents as processes, each with its own directory, certificate and store.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Stdio},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, bail, ensure};
use understudy_ids::{HostName, ItemName};
use understudy_pki::{Authority, Identity, Validity};
use understudy_replica_store::qcow2::Chain;

use crate::{
    agent::{Ask, Told},
    fleet,
    measure::Sample,
    place,
};

const SOURCE: &str = "alpha/alpha-h1";
const TARGET: &str = "bravo/bravo-h1";

/// Certificates for everybody in the benchmark, below `dir`: `alpha/pki`, `bravo/pki` and `pki` for the floor.
pub fn certificates(dir: &Path) -> anyhow::Result<()> {
    let ca = dir.join("ca");
    place::remove(&ca)?;
    let now = SystemTime::now().into();
    let authority = Authority::create(&ca, Validity::starting(now, Validity::AUTHORITY))?;
    let validity = Validity::starting(now, Validity::DEFAULT);
    for (side, name) in [("alpha", SOURCE), ("bravo", TARGET)] {
        let identity = Identity::Agent(name.parse()?);
        authority.issue_to(&identity, validity, &dir.join(side).join("pki"), "agent")?;
    }
    // The floor looks at addresses in certificates, as such programs do.
    floor_certificates(&dir.join("pki"))
}

/// A self-made authority and one certificate for 127.0.0.1.
fn floor_certificates(dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir)?;
    let authority_key = rcgen::KeyPair::generate()?;
    let mut authority = rcgen::CertificateParams::new(Vec::<String>::new())?;
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = authority.self_signed(&authority_key)?;
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate()?;
    let leaf = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()])?.signed_by(&key, &issuer)?;
    std::fs::write(dir.join("ca.pem"), certificate.pem())?;
    std::fs::write(dir.join("bench.pem"), leaf.pem())?;
    std::fs::write(dir.join("bench.key"), key.serialize_pem())?;
    Ok(())
}

/// One agent's process.
pub struct Side {
    child: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
    pub endpoint: String,
    pub dir: PathBuf,
}

impl Side {
    fn start(dir: PathBuf, name: &str) -> anyhow::Result<Self> {
        for part in ["store", "state", "hypervisor"] {
            place::remove(&dir.join(part))?;
        }
        let text = dir.to_str().context("a path that is text")?;
        let mut child = place::part(&["agent", text, name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("the agent could not be started")?;
        let asks = child.stdin.take().context("standard input")?;
        let answers = BufReader::new(child.stdout.take().context("standard output")?);
        let mut side = Self { child, asks, answers, endpoint: String::new(), dir };
        side.endpoint = side.read()?.endpoint;
        Ok(side)
    }

    fn read(&mut self) -> anyhow::Result<Told> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        ensure!(!line.is_empty(), "the agent's process has ended: {:?}", self.child.try_wait());
        let told: Told = serde_json::from_str(&line)?;
        match &told.error {
            Some(error) => bail!("{error}"),
            None => Ok(told),
        }
    }

    pub fn ask(&mut self, asked: &Ask) -> anyhow::Result<Told> {
        writeln!(self.asks, "{}", serde_json::to_string(asked)?)?;
        self.asks.flush()?;
        self.read()
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Both.
pub struct Pair {
    pub source: Side,
    pub target: Side,
    size: u64,
    items: u32,
}

impl Pair {
    pub fn start(dir: &Path, size: u64) -> anyhow::Result<Self> {
        let target = Side::start(dir.join("bravo"), TARGET)?;
        let source = Side::start(dir.join("alpha"), SOURCE)?;
        Ok(Self { source, target, size, items: 0 })
    }

    /// A name that was not used before.
    pub fn fresh_item(&mut self) -> anyhow::Result<ItemName> {
        self.items += 1;
        Ok(format!("bench{}", self.items).parse()?)
    }

    /// The disk is `file` from now on.
    pub fn exchange(&mut self, file: &Path, changed: Option<&Path>) -> anyhow::Result<()> {
        let asked = Ask::Exchange { file: file.to_owned(), changed: changed.map(Path::to_owned) };
        self.source.ask(&asked).map(drop)
    }

    pub fn prepare(&mut self, item: &ItemName) -> anyhow::Result<()> {
        let size = self.size;
        self.target.ask(&Ask::Prepare { item: item.clone(), size }).map(drop)
    }

    /// A first copy, from the assignment to the receipt, through `endpoint` or straight to the target.
    pub fn first(&mut self, item: &ItemName, endpoint: Option<String>) -> anyhow::Result<(Sample, Told)> {
        let peer: HostName = TARGET.parse()?;
        // On a line of its own it is the line that is slow, so there it is compressed as the agent sees fit.
        let compress = endpoint.is_some();
        let endpoint = endpoint.unwrap_or_else(|| self.target.endpoint.clone());
        self.measured(&Ask::First { item: item.clone(), peer, endpoint, compress })
    }

    /// So many machines, numbered from 0, write so much in a second each, and are replicated at the interval.
    pub fn fleet(&mut self, count: u64, bytes_per_s: u64, interval: Duration) -> anyhow::Result<()> {
        for number in 0..count {
            let item: ItemName = fleet::name(number).parse()?;
            self.target.ask(&Ask::Prepare { item, size: fleet::DISK_SIZE })?;
        }
        let (peer, endpoint) = (TARGET.parse()?, self.target.endpoint.clone());
        let interval_ms = u64::try_from(interval.as_millis())?;
        self.source.ask(&Ask::Fleet { count, bytes_per_s, peer, endpoint, interval_ms }).map(drop)
    }

    /// One cycle.
    pub fn cycle(&mut self, item: &ItemName) -> anyhow::Result<(Sample, Told)> {
        self.measured(&Ask::Cycle { item: item.clone() })
    }

    fn measured(&mut self, asked: &Ask) -> anyhow::Result<(Sample, Told)> {
        let (wire, cpu) = (place::wire_bytes()?, self.cpu()?);
        let told = self.source.ask(asked)?;
        let wall = Duration::from_nanos(told.nanos);
        Ok((Sample { wall, cpu: self.cpu()? - cpu, wire: place::wire_bytes()? - wire }, told))
    }

    fn cpu(&mut self) -> anyhow::Result<Duration> {
        let nanos = self.source.ask(&Ask::Usage)?.cpu_nanos + self.target.ask(&Ask::Usage)?.cpu_nanos;
        Ok(Duration::from_nanos(nanos))
    }

    pub fn remove(&mut self, item: &ItemName) -> anyhow::Result<()> {
        self.source.ask(&Ask::Remove { item: item.clone() })?;
        self.target.ask(&Ask::Remove { item: item.clone() }).map(drop)
    }

    /// The file of a point's disk.
    pub fn disk(&self, item: &ItemName, seq: u64) -> PathBuf {
        self.target.dir.join(format!("store/items/{item}/points/{seq}/disk-vda.qcow2"))
    }

    /// Whether a point holds what `image` does, read through its files by our own reader.
    pub fn check(&self, item: &ItemName, seq: u64, image: &Path) -> anyhow::Result<()> {
        let mut chain = Chain::open(&self.disk(item, seq))?;
        let mut image = File::open(image)?;
        let (mut ours, mut theirs) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        ensure!(chain.size() == image.metadata()?.len(), "the point's disk has another size");
        for at in (0..chain.size()).step_by(1 << 20) {
            let length = usize::try_from((chain.size() - at).min(1 << 20))?;
            chain.read(at, &mut ours[..length])?;
            image.read_exact(&mut theirs[..length])?;
            ensure!(ours[..length] == theirs[..length], "point {seq} differs from its source near {at}");
        }
        Ok(())
    }
}
