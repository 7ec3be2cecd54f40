//! Connections: accepting, TLS, and their end.
//!
//! ```text
//!   accept ─▶ handshake (bounded time, bounded number) ─▶ who is it? ─▶ HTTP/2 or HTTP/1.1
//!                 │ error: logged, never the server's end         │
//!                 ▼                                               ├─ age reached or shutdown: GOAWAY, open calls go on
//!               closed                                            └─ grace over or certificate expired: cut
//! ```

use std::{convert::Infallible, future::Future, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use http::Request;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use time::OffsetDateTime;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use understudy_pki::Credential;

use super::{ServerConfig, gate::Gate};
use crate::{
    profile::{KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT, Profile, REQUEST_HEADER_BYTES},
    tls::Credentials,
};

/// A peer that does not finish its handshake by then is not one of ours.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes at once; further connections wait in the kernel's queue.
const HANDSHAKES: usize = 128;
/// Pause after `accept` failed, which it does at once and again while there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What every connection needs.
struct Shared {
    credentials: Arc<Credentials>,
    gate: Arc<Gate>,
    builder: auto::Builder<TokioExecutor>,
    age: Duration,
    age_grace: Duration,
    handshakes: Arc<Semaphore>,
    shutdown: CancellationToken,
}

pub async fn run(
    listener: TcpListener,
    credentials: Arc<Credentials>,
    gate: Arc<Gate>,
    config: &ServerConfig,
    shutdown: CancellationToken,
    before_drain: impl Future<Output = ()>,
) {
    let shared = Arc::new(Shared {
        credentials,
        gate,
        builder: http_builder(config.profile, config.max_streams_per_connection),
        age: Duration::from_secs(config.connection_age_s),
        age_grace: config.profile.connection_age_grace(),
        handshakes: Arc::new(Semaphore::new(HANDSHAKES)),
        shutdown: shutdown.clone(),
    });
    let room = Arc::new(Semaphore::new(config.max_connections));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &shared.handshakes) => match accepted {
                Ok((tcp, address, handshake)) => match room.clone().try_acquire_owned() {
                    Ok(place) => {
                        connections.spawn(connection(shared.clone(), tcp, address, handshake, place));
                    }
                    Err(_) => tracing::warn!(%address, limit = config.max_connections, "connection refused: too many"),
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection; trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    before_drain.await;
    drain(connections, Duration::from_secs(config.shutdown_grace_s)).await;
}

/// The place for the handshake is taken first: without one, the connection stays in the kernel's queue.
async fn accept(
    listener: &TcpListener,
    handshakes: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = handshakes.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (tcp, address) = listener.accept().await?;
    Ok((tcp, address, place))
}

async fn drain(mut connections: JoinSet<()>, grace: Duration) {
    let deadline = Instant::now() + grace;
    while let Ok(Some(_)) = timeout_at(deadline, connections.join_next()).await {}
    if !connections.is_empty() {
        tracing::warn!(
            connections = connections.len(),
            ?grace,
            "cutting connections that did not end in time"
        );
        connections.shutdown().await;
    }
}

fn http_builder(profile: Profile, max_streams: u32) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(profile.stream_window())
        .initial_connection_window_size(profile.connection_window())
        .max_frame_size(profile.max_frame_size())
        .max_concurrent_streams(max_streams)
        .max_header_list_size(REQUEST_HEADER_BYTES)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    builder.http1().timer(TokioTimer::new()).max_buf_size(REQUEST_HEADER_BYTES as usize);
    builder
}

async fn connection(
    shared: Arc<Shared>,
    tcp: TcpStream,
    address: SocketAddr,
    handshake: OwnedSemaphorePermit,
    _place: OwnedSemaphorePermit,
) {
    let greeted = greet(&shared, tcp).await;
    drop(handshake);
    match greeted {
        Ok((tls, credential)) => {
            tracing::debug!(%address, peer = %credential.identity, "connected");
            serve(&shared, tls, Arc::new(credential)).await;
        }
        // Scanners and load balancers' probes end up here too, so it is no warning.
        Err(error) => {
            metrics::counter!("understudy_rpc_handshake_failures_total").increment(1);
            tracing::info!(%address, %error, "connection refused");
        }
    }
}

/// TLS, and who the peer is.
async fn greet(shared: &Shared, tcp: TcpStream) -> io::Result<(TlsStream<TcpStream>, Credential)> {
    tcp.set_nodelay(true)?;
    let acceptor = TlsAcceptor::from(shared.credentials.server());
    let tls = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(tcp))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long"))??;
    let certificate = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let certificate = certificate.ok_or_else(|| io::Error::other("the peer showed no certificate"))?;
    let credential = Credential::read(certificate).map_err(io::Error::other)?;
    Ok((tls, credential))
}

async fn serve(shared: &Shared, tls: TlsStream<TcpStream>, credential: Arc<Credential>) {
    let opened = Instant::now();
    let expiry = opened + time_left(&credential);
    let old = (opened + shared.age).min(expiry);
    let end = (opened + shared.age + shared.age_grace).min(expiry);
    let gate = shared.gate.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (gate, credential) = (gate.clone(), credential.clone());
        async move { Ok::<_, Infallible>(gate.handle(credential, request).await) }
    });
    let mut connection = pin!(shared.builder.serve_connection(TokioIo::new(tls), service));
    let ask_to_end = async {
        tokio::select! {
            () = sleep_until(old) => {}
            () = shared.shutdown.cancelled() => {}
        }
    };
    tokio::select! {
        result = connection.as_mut() => return log_end(result),
        () = ask_to_end => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        result = connection.as_mut() => log_end(result),
        () = sleep_until(end) => tracing::info!("connection cut: it reached its age and its streams did not end"),
    }
}

/// How long the certificate can still be used. Bounded, because a timer cannot be set a century ahead.
fn time_left(credential: &Credential) -> Duration {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
    let left = credential.not_after - OffsetDateTime::now_utc();
    Duration::try_from(left).unwrap_or_default().min(YEAR)
}

fn log_end(result: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended");
    }
}
