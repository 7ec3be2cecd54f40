//! The stream alone: no disks, no digests, the same bytes over and over; ours, tonic as it comes, and TLS over TCP.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
    time::Instant,
};

use anyhow::{Context as _, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, stream::BoxStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use understudy_ids::{Consistency, Generation, HostName, PointSeq, UnixMicros};
use understudy_replication::Encoding;
use understudy_replication_api::{
    FILE_DESCRIPTOR_SET, PartStream, SinkClient, SinkHandler, method, sink,
    sink::{
        Answer, Begin, DigestRun, Negotiate, Negotiated, Part, Payload, ReadDigests, Receipt, SinkDisk,
        Watermark,
    },
    sink_service,
};
use understudy_rpc::{AccessRule, ApiError, PeerKind, Profile, Server, ServerConfig, TlsFiles};

use crate::floor;

/// Payload of one part, bytes.
const PIECE: u64 = sink::MAX_PAYLOAD as u64;

#[derive(clap::Args, Clone)]
pub struct Side {
    /// `receive`, `send`
    role: String,
    /// `ours`, `raw`
    kind: String,
    address: SocketAddr,
    /// Directory of agent's certificates, or of the floor's
    pki: PathBuf,
    #[arg(default_value_t = 0)]
    bytes: u64,
    /// As ours, with the settings that tonic has by itself
    #[arg(long)]
    defaults: bool,
}

pub fn run(side: &Side) -> anyhow::Result<()> {
    match (side.role.as_str(), side.kind.as_str()) {
        ("receive", "raw") => raw_receive(side),
        ("send", "raw") => raw_send(side),
        ("receive", "ours") => runtime()?.block_on(ours_receive(side)),
        ("send", "ours") => runtime()?.block_on(ours_send(side)),
        _ => anyhow::bail!("{} {}", side.role, side.kind),
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    understudy_replication_agent::memory::keep_buffers();
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

fn raw_receive(side: &Side) -> anyhow::Result<()> {
    let listener = TcpListener::bind(side.address)?;
    println!("ready {}", listener.local_addr()?);
    let (mut tls, mut tcp) = floor::accept(&listener, &side.pki)?;
    let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
    let mut piece = vec![0; PIECE as usize];
    let mut left = side.bytes;
    while left > 0 {
        let read = stream.read(&mut piece)?;
        ensure!(read > 0, "the stream ended early");
        left -= read as u64;
    }
    stream.write_all(&[1])?;
    stream.flush()?;
    Ok(())
}

fn raw_send(side: &Side) -> anyhow::Result<()> {
    let (mut tls, mut tcp) = floor::connect(side.address, &side.pki)?;
    let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
    let piece = vec![0x5a; PIECE as usize];
    let begun = Instant::now();
    for _ in 0..side.bytes / PIECE {
        stream.write_all(&piece)?;
    }
    stream.flush()?;
    stream.read_exact(&mut [0])?;
    println!("{}", begun.elapsed().as_nanos());
    Ok(())
}

/// Takes everything and looks at nothing.
struct Nothing;

#[async_trait]
impl SinkHandler for Nothing {
    async fn negotiate(&self, _: &HostName, _: Negotiate) -> Result<Negotiated, ApiError> {
        Ok(Negotiated::default())
    }

    async fn push(
        &self,
        _: &HostName,
        begin: Begin,
        mut parts: PartStream,
        _: mpsc::Sender<Watermark>,
    ) -> Result<Receipt, ApiError> {
        while let Some(part) = parts.next().await {
            part?;
        }
        Ok(Receipt { seq: begin.seq, roots: Vec::new() })
    }

    async fn read_digests(
        &self,
        _: &HostName,
        _: ReadDigests,
    ) -> Result<BoxStream<'static, Result<DigestRun, ApiError>>, ApiError> {
        Ok(futures::stream::empty().boxed())
    }
}

const RULES: &[AccessRule] = &[
    AccessRule::new(method::NEGOTIATE, &[PeerKind::Agent]),
    AccessRule::new(method::PUSH_POINT, &[PeerKind::Agent]),
    AccessRule::new(method::READ_DIGESTS, &[PeerKind::Agent]),
];

fn profile(side: &Side) -> Profile {
    if side.defaults { Profile::Control } else { Profile::Bulk }
}

fn tls(side: &Side) -> TlsFiles {
    let file = |name: &str| side.pki.join(name);
    TlsFiles { ca: file("ca.pem"), certificate: file("agent.pem"), key: file("agent.key") }
}

async fn ours_receive(side: &Side) -> anyhow::Result<()> {
    let config = ServerConfig { profile: profile(side), ..ServerConfig::new(side.address, tls(side)) };
    let server = Server::bind(config).await?;
    println!("ready {}", server.local_addr());
    let server = server.add_service(sink_service(Arc::new(Nothing)), RULES).descriptors(FILE_DESCRIPTOR_SET);
    Ok(server.serve(CancellationToken::new()).await?)
}

async fn ours_send(side: &Side) -> anyhow::Result<()> {
    let peer: HostName = "bravo/bravo-h1".parse()?;
    let client = SinkClient::new(&format!("https://{}", side.address), tls(side), &peer)?;
    let name = "vda".parse()?;
    let begin = Begin {
        item: "bench".parse()?,
        generation: Generation::new(1),
        seq: PointSeq::new(1),
        parent: None,
        checkpoint: "none".to_owned(),
        instant: UnixMicros::new(0),
        disks: vec![SinkDisk { name, size: side.bytes, luks: None }],
        resume: false,
        machine_json: "{}".to_owned(),
        consistency: Consistency::Crash,
        frozen: None,
        joint: None,
        wrapped_key: None,
    };
    let payload = Payload::from(Bytes::from(vec![0x5a; PIECE as usize]));
    let digests = Bytes::from(vec![0; PIECE as usize / 65536 * sink::DIGEST_BYTES]);
    let pieces = side.bytes / PIECE;
    let parts = futures::stream::iter(0..=pieces).map(move |n| match n {
        n if n == pieces => Part::Finish { sent_bytes: 0 },
        n => Part::Data {
            disk: 0,
            offset: n * PIECE,
            payload: payload.clone(),
            digests: digests.clone(),
            encoding: Encoding::Plain,
        },
    });
    let begun = Instant::now();
    let mut answers = client.push(begin, parts).await?;
    while let Some(answer) = answers.next().await {
        if let Answer::Receipt(_) = answer? {
            println!("{}", begun.elapsed().as_nanos());
            return Ok(());
        }
    }
    None.context("no receipt")
}
