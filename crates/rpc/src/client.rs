//! Calling another service.
//!
//! ```text
//!   typed client ─▶ Channel ─▶ tonic channel ─▶ connector: TCP ─▶ TLS, identity must match ─▶ HTTP/2
//!                   traceparent, default deadline      made on first use, remade when it breaks
//! ```

use std::{
    collections::HashSet,
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::{body::Body, transport::Endpoint};
use tower::Service;

use crate::{
    access, deadline,
    expected::ExpectedPeer,
    profile::{ANSWER_HEADER_BYTES, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT, Profile},
    tls::{Credentials, TlsError, TlsFiles},
    trace,
};

/// How to reach a peer, and who it must be.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// `https://address:port`.
    pub endpoint: String,
    pub tls: TlsFiles,
    pub expect: ExpectedPeer,
    pub profile: Profile,
    /// Bound on TCP and TLS together. Default 5 s.
    pub connect_timeout: Duration,
    /// Deadline of unary calls that set none. Default 30 s. Streams have none.
    pub deadline: Duration,
    /// Encoded `FileDescriptorSet` of what will be called: which methods are unary is read off it. A method that it does not
    /// know gets no default deadline.
    pub descriptors: &'static [u8],
}

impl ClientConfig {
    /// A control connection with the defaults above.
    pub fn new(
        endpoint: impl Into<String>,
        tls: TlsFiles,
        expect: ExpectedPeer,
        descriptors: &'static [u8],
    ) -> Self {
        Self {
            endpoint: endpoint.into(),
            tls,
            expect,
            profile: Profile::Control,
            connect_timeout: Duration::from_secs(5),
            deadline: Duration::from_secs(30),
            descriptors,
        }
    }

    #[must_use]
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profile = profile;
        self
    }
}

/// A configuration with which no connection could ever be made. That a peer is away is not one: it shows in the calls.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("{endpoint:?} is not an endpoint: write https://address:port")]
    Endpoint { endpoint: String },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Descriptors(#[from] access::BadDescriptors),
}

/// A connection to one peer, made when first used and made again after it broke. Cheap to clone; clones share the connection.
///
/// Generated clients take it: `JobServiceClient::new(channel)`.
#[derive(Clone)]
pub struct Channel {
    inner: tonic::transport::Channel,
    unary: Arc<HashSet<String>>,
    deadline: Duration,
}

/// Prepares a channel; nothing is dialled before the first call. Must run inside a tokio runtime.
pub fn connect(config: ClientConfig) -> Result<Channel, ConnectError> {
    let bad = || ConnectError::Endpoint { endpoint: config.endpoint.clone() };
    let uri: Uri = config.endpoint.parse().map_err(|_| bad())?;
    let (Some("https"), Some(host), Some(port)) = (uri.scheme_str(), uri.host(), uri.port_u16()) else {
        return Err(bad());
    };
    let connector = Connector {
        address: (host.trim_matches(['[', ']']).to_owned(), port),
        credentials: Arc::new(Credentials::load(config.tls.clone())?),
        expect: config.expect.clone(),
        timeout: config.connect_timeout,
    };
    let unary = access::methods(config.descriptors)?.into_iter().filter(|m| !m.streaming).map(|m| m.path);
    // tonic insists on doing TLS itself for https when its own TLS happens to be compiled in; the connector does it in any case.
    let dialled = format!("http://{host}:{port}");
    let endpoint = Endpoint::from_shared(dialled)
        .map_err(|_| bad())?
        .origin(uri.clone())
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(config.profile.stream_window())
        .initial_connection_window_size(config.profile.connection_window())
        .max_frame_size(config.profile.max_frame_size())
        .http2_max_header_list_size(ANSWER_HEADER_BYTES);
    Ok(Channel {
        inner: endpoint.connect_with_connector_lazy(connector),
        unary: Arc::new(unary.collect()),
        deadline: config.deadline,
    })
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = tonic::transport::Error;
    type Future = <tonic::transport::Channel as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        trace::inject(request.headers_mut());
        let wants_default =
            !request.headers().contains_key(deadline::HEADER) && self.unary.contains(request.uri().path());
        if wants_default {
            request.headers_mut().insert(deadline::HEADER, deadline::header(self.deadline));
        }
        self.inner.call(request)
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct Connector {
    address: (String, u16),
    credentials: Arc<Credentials>,
    expect: ExpectedPeer,
    timeout: Duration,
}

type TlsIo = TokioIo<tokio_rustls::client::TlsStream<TcpStream>>;

impl Connector {
    async fn dial(self) -> io::Result<TlsIo> {
        let (host, port) = (&self.address.0, self.address.1);
        let peer = format!("{} at {host}:{port}", self.expect);
        let attempt = async {
            let tcp = TcpStream::connect((host.as_str(), port)).await?;
            tcp.set_nodelay(true)?;
            let config = self.credentials.client(self.expect.clone()).map_err(io::Error::other)?;
            // The name is not verified; TLS merely wants one.
            let name = ServerName::try_from("understudy").map_err(io::Error::other)?;
            TlsConnector::from(config).connect(name, tcp).await
        };
        let tls = tokio::time::timeout(self.timeout, attempt)
            .await
            .map_err(|_| {
                io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {:?}", self.timeout))
            })
            .flatten()
            .map_err(|e| io::Error::new(e.kind(), format!("cannot connect to {peer}: {e}")))?;
        if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(io::Error::other(format!("{peer} does not speak HTTP/2")));
        }
        Ok(TokioIo::new(tls))
    }
}

impl Service<Uri> for Connector {
    type Response = TlsIo;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TlsIo>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        Box::pin(self.clone().dial())
    }
}
