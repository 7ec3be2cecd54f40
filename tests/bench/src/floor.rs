//! The floor: the least that a correct program needs to copy a disk over a network. One thread on each side, TCP, TLS with
//! certificates on both ends, one BLAKE3 per 64 KiB made here and checked there, plain files, nothing else.
//!
//! ```text
//!   sender                                     receiver
//!   read 1 MiB, digest each block  ══ TLS ══▶  digest again, compare, write
//!   end                            ══════════▶ fdatasync (durable)
//!                                  ◀══════════ one byte: all is well
//! ```

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, ensure};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, Stream,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::WebPkiClientVerifier,
};
use understudy_ids::ByteRange;

const BLOCK: usize = 1 << 16;
const PIECE: u64 = 1 << 20;
/// Written after the last piece.
const END: u64 = u64::MAX;

#[derive(clap::Args)]
pub struct Send {
    address: SocketAddr,
    pki: PathBuf,
    source: PathBuf,
    /// File of `start end` lines: what is sent
    ranges: PathBuf,
    /// Read all, and send only what the receiver has other digests of
    #[arg(long)]
    compare: bool,
}

#[derive(clap::Args)]
pub struct Receive {
    address: SocketAddr,
    pki: PathBuf,
    target: PathBuf,
    size: u64,
    #[arg(long)]
    durable: bool,
    /// File of `start end` lines: what is read and told by digest first
    #[arg(long)]
    compare: Option<PathBuf>,
}

/// Writes ranges so that [`read_ranges`] finds them.
pub fn write_ranges(path: &Path, ranges: impl Iterator<Item = ByteRange>) -> anyhow::Result<()> {
    let text: String = ranges.map(|r| format!("{} {}\n", r.start, r.end)).collect();
    std::fs::write(path, text).context("ranges")
}

pub fn read_ranges(path: &Path) -> anyhow::Result<Vec<ByteRange>> {
    let text = std::fs::read_to_string(path)?;
    let range = |line: &str| {
        let (start, end) = line.split_once(' ').context("a range")?;
        Ok(ByteRange::new(start.parse()?, end.parse()?))
    };
    text.lines().map(range).collect()
}

struct Pki {
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Pki {
    fn read(dir: &Path) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(dir.join("ca.pem"))?)?;
        Ok(Self {
            roots: Arc::new(roots),
            chain: vec![CertificateDer::from_pem_file(dir.join("bench.pem"))?],
            key: PrivateKeyDer::from_pem_file(dir.join("bench.key"))?,
        })
    }

    pub fn client(self) -> anyhow::Result<ClientConfig> {
        Ok(ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(self.roots)
            .with_client_auth_cert(self.chain, self.key)?)
    }

    pub fn server(self) -> anyhow::Result<ServerConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots, provider.clone()).build()?;
        Ok(ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain, self.key)?)
    }
}

/// The two ends of a TLS connection over TCP, for whoever wants to send bytes and nothing else.
pub fn connect(address: SocketAddr, pki: &Path) -> anyhow::Result<(ClientConnection, TcpStream)> {
    let tcp = TcpStream::connect(address)?;
    tcp.set_nodelay(true)?;
    let name = ServerName::try_from("127.0.0.1")?;
    Ok((ClientConnection::new(Arc::new(Pki::read(pki)?.client()?), name)?, tcp))
}

pub fn accept(listener: &TcpListener, pki: &Path) -> anyhow::Result<(ServerConnection, TcpStream)> {
    let config = Arc::new(Pki::read(pki)?.server()?);
    let (tcp, _) = listener.accept()?;
    tcp.set_nodelay(true)?;
    Ok((ServerConnection::new(config)?, tcp))
}

/// The pieces of some ranges, each within 1 MiB.
fn pieces(ranges: Vec<ByteRange>) -> impl Iterator<Item = ByteRange> {
    ranges.into_iter().flat_map(|range| {
        (range.start..range.end)
            .step_by(PIECE as usize)
            .map(move |start| ByteRange::new(start, (start + PIECE).min(range.end)))
    })
}

pub fn send(asked: &Send) -> anyhow::Result<()> {
    let (mut tls, mut tcp) = connect(asked.address, &asked.pki)?;
    let mut stream = Stream::new(&mut tls, &mut tcp);
    let source = File::open(&asked.source)?;
    let mut piece = vec![0u8; PIECE as usize];
    let mut theirs = vec![0u8; PIECE as usize / BLOCK * 32];
    for range in pieces(read_ranges(&asked.ranges)?) {
        let content = &mut piece[..range.len() as usize];
        source.read_exact_at(content, range.start)?;
        let digests: Vec<u8> = content.chunks(BLOCK).flat_map(|b| *blake3::hash(b).as_bytes()).collect();
        if asked.compare {
            let theirs = &mut theirs[..digests.len()];
            stream.read_exact(theirs)?;
            for (index, block) in content.chunks(BLOCK).enumerate() {
                let ours = &digests[index * 32..][..32];
                if ours != &theirs[index * 32..][..32] {
                    put(&mut stream, range.start + (index * BLOCK) as u64, block, ours)?;
                }
            }
        } else {
            put(&mut stream, range.start, content, &digests)?;
        }
    }
    stream.write_all(&END.to_le_bytes())?;
    stream.flush()?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    ensure!(answer == [1], "the receiver did not like it");
    Ok(())
}

fn put(stream: &mut impl Write, at: u64, content: &[u8], digests: &[u8]) -> anyhow::Result<()> {
    stream.write_all(&at.to_le_bytes())?;
    stream.write_all(&(content.len() as u64).to_le_bytes())?;
    stream.write_all(digests)?;
    stream.write_all(content)?;
    Ok(())
}

pub fn receive(asked: &Receive) -> anyhow::Result<()> {
    let listener = TcpListener::bind(asked.address)?;
    println!("ready");
    let (mut tls, mut tcp) = accept(&listener, &asked.pki)?;
    let target =
        OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&asked.target)?;
    target.set_len(asked.size)?;
    if let Some(ranges) = &asked.compare {
        tell_digests(&mut tls, &mut tcp, &target, read_ranges(ranges)?)?;
    }
    let mut stream = Stream::new(&mut tls, &mut tcp);
    let mut piece = vec![0u8; PIECE as usize];
    let mut word = [0; 8];
    loop {
        stream.read_exact(&mut word)?;
        let at = u64::from_le_bytes(word);
        if at == END {
            break;
        }
        stream.read_exact(&mut word)?;
        let length = u64::from_le_bytes(word) as usize;
        ensure!(length <= PIECE as usize, "a piece of {length} bytes");
        let mut digests = vec![0; length.div_ceil(BLOCK) * 32];
        stream.read_exact(&mut digests)?;
        let content = &mut piece[..length];
        stream.read_exact(content)?;
        for (block, digest) in content.chunks(BLOCK).zip(digests.chunks(32)) {
            ensure!(blake3::hash(block).as_bytes() == digest, "a block is not what was sent");
        }
        target.write_all_at(content, at)?;
    }
    if asked.durable {
        target.sync_data()?;
    }
    stream.write_all(&[1])?;
    stream.flush()?;
    Ok(())
}

/// Tells what the target has. The sender reads them as it goes, while this side is still reading its disk.
fn tell_digests(
    tls: &mut ServerConnection,
    tcp: &mut TcpStream,
    target: &File,
    ranges: Vec<ByteRange>,
) -> anyhow::Result<()> {
    let mut stream = Stream::new(tls, tcp);
    let mut piece = vec![0u8; PIECE as usize];
    for range in pieces(ranges) {
        let content = &mut piece[..range.len() as usize];
        target.read_exact_at(content, range.start)?;
        let digests: Vec<u8> = content.chunks(BLOCK).flat_map(|b| *blake3::hash(b).as_bytes()).collect();
        stream.write_all(&digests)?;
        stream.flush()?;
    }
    Ok(())
}
