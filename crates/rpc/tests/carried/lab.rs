//! A certificate authority in a temporary directory, a server, and a service that misbehaves on request.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Request;
use prost::Message;
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use time::OffsetDateTime;
use tokio::{sync::Notify, task::JoinHandle};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status, body::Body, server::NamedService};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_server::{Health as HealthService, HealthServer},
};
use tower::Service;
use understudy_pki::{Authority, Validity};
use understudy_rpc::{
    AccessRule, ApiError, Channel, ClientConfig, ExpectedPeer, Health, Identity, PeerKind, Problem, Server,
    ServerConfig, ServiceKind, TlsFiles, access, connect, peer,
};

pub const HOUR: Duration = Duration::from_secs(3600);
pub const CHECK: &str = "/understudy.test.v1.Probe/Check";
pub const WATCH: &str = "/understudy.test.v1.Probe/Watch";
/// Like `Check`, for the orchestrator alone.
pub const RESTRICTED: &str = "/understudy.test.v1.Probe/Restricted";
pub const RULES: &[AccessRule] = &[
    AccessRule::new(CHECK, access::ANYONE),
    AccessRule::new(WATCH, access::ANYONE),
    AccessRule::new(RESTRICTED, &[PeerKind::Orchestrator]),
];

/// An authority and the certificates it issued.
pub struct Ca {
    directory: tempfile::TempDir,
    authority: Authority,
}

impl Ca {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let validity = Validity::starting(OffsetDateTime::now_utc(), Validity::AUTHORITY);
        let authority = Authority::create(directory.path(), validity).unwrap();
        Self { directory, authority }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn issue(&self, identity: &str) -> TlsFiles {
        self.issue_until(identity, OffsetDateTime::now_utc() + HOUR)
    }

    pub fn issue_until(&self, identity: &str, not_after: OffsetDateTime) -> TlsFiles {
        let validity = Validity { not_before: not_after - 2 * HOUR, not_after };
        let name = identity.replace('/', "-");
        let identity = Identity::from_path(identity).unwrap();
        self.authority.issue_to(&identity, validity, self.path(), &name).unwrap();
        let file = |end: &str| -> PathBuf { self.path().join(format!("{name}.{end}")) };
        TlsFiles { ca: self.path().join("ca.pem"), certificate: file("pem"), key: file("key") }
    }
}

/// A running server.
pub struct Running {
    pub address: SocketAddr,
    pub health: Health,
    pub shutdown: CancellationToken,
    pub task: JoinHandle<()>,
    pub reached: Arc<Notify>,
}

impl Running {
    pub async fn start(ca: &Ca, change: impl FnOnce(&mut ServerConfig)) -> Self {
        Self::start_with(ca.issue("service/job-tracker"), change).await
    }

    pub async fn start_with(tls: TlsFiles, change: impl FnOnce(&mut ServerConfig)) -> Self {
        let mut config = ServerConfig::new("127.0.0.1:0".parse().unwrap(), tls);
        change(&mut config);
        let reached = Arc::new(Notify::new());
        let server = Server::bind(config)
            .await
            .unwrap()
            .add_service(Probe::new(reached.clone()), RULES)
            .descriptors(descriptors())
            .metrics(metrics_page());
        let (address, health, shutdown) = (server.local_addr(), server.health(), CancellationToken::new());
        let token = shutdown.clone();
        let task = tokio::spawn(async move { server.serve(token).await.unwrap() });
        Self { address, health, shutdown, task, reached }
    }

    pub fn channel(&self, tls: TlsFiles) -> Channel {
        self.channel_to(tls, ExpectedPeer::Service(ServiceKind::JobTracker))
    }

    pub fn channel_to(&self, tls: TlsFiles, expect: ExpectedPeer) -> Channel {
        connect(ClientConfig::new(format!("https://{}", self.address), tls, expect, descriptors())).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One recorder for the process, however the tests are run.
fn metrics_page() -> impl Fn() -> String + Send + Sync {
    use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
    static HANDLE: std::sync::OnceLock<PrometheusHandle> = std::sync::OnceLock::new();
    let handle = HANDLE.get_or_init(|| PrometheusBuilder::new().install_recorder().unwrap());
    || handle.render()
}

/// Calls a method whose messages are the health service's.
pub async fn call(channel: &Channel, path: &'static str, what: &str) -> Result<(), ApiError> {
    call_within(channel, path, what, None).await
}

pub async fn call_within(
    channel: &Channel,
    path: &'static str,
    what: &str,
    limit: Option<Duration>,
) -> Result<(), ApiError> {
    let mut request = tonic::Request::new(HealthCheckRequest { service: what.to_owned() });
    if let Some(limit) = limit {
        request.set_timeout(limit);
    }
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.map_err(|e| ApiError::from(Status::from_error(Box::new(e))))?;
    let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    grpc.unary(request, path.parse().unwrap(), codec).await?;
    Ok(())
}

/// Opens the probe's stream; it sends one message at once.
pub async fn watch(channel: &Channel, what: &str) -> Result<tonic::Streaming<HealthCheckResponse>, ApiError> {
    watch_within(channel, what, None).await
}

pub async fn watch_within(
    channel: &Channel,
    what: &str,
    limit: Option<Duration>,
) -> Result<tonic::Streaming<HealthCheckResponse>, ApiError> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.map_err(|e| ApiError::from(Status::from_error(Box::new(e))))?;
    let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let mut request = tonic::Request::new(HealthCheckRequest { service: what.to_owned() });
    if let Some(limit) = limit {
        request.set_timeout(limit);
    }
    let mut stream = grpc.server_streaming(request, WATCH.parse().unwrap(), codec).await?.into_inner();
    stream.message().await?.expect("the first message");
    Ok(stream)
}

/// The health service's messages under a name of our own.
pub fn descriptors() -> &'static [u8] {
    static ENCODED: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    ENCODED.get_or_init(|| {
        let mut set = FileDescriptorSet::decode(tonic_health::pb::FILE_DESCRIPTOR_SET).unwrap();
        let health = set.file.iter().find(|file| file.package() == "grpc.health.v1").unwrap();
        let mut service = health.service[0].clone();
        service.name = Some("Probe".into());
        let mut restricted = service.method.iter().find(|method| method.name() == "Check").unwrap().clone();
        restricted.name = Some("Restricted".into());
        service.method.push(restricted);
        set.file.push(FileDescriptorProto {
            name: Some("probe.proto".into()),
            package: Some("understudy.test.v1".into()),
            dependency: vec![health.name().to_owned()],
            service: vec![service],
            syntax: Some("proto3".into()),
            ..Default::default()
        });
        set.encode_to_vec()
    })
}

#[derive(Clone)]
pub struct Probe(HealthServer<Behaviour>);

impl Probe {
    pub fn new(reached: Arc<Notify>) -> Self {
        Self(HealthServer::new(Behaviour { reached }))
    }
}

impl NamedService for Probe {
    const NAME: &'static str = "understudy.test.v1.Probe";
}

impl Service<Request<Body>> for Probe {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = <HealthServer<Behaviour> as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let path = request.uri().path().replace("understudy.test.v1.Probe", "grpc.health.v1.Health");
        let path = path.replace("Restricted", "Check");
        *request.uri_mut() = path.parse().unwrap();
        self.0.call(request)
    }
}

pub struct Behaviour {
    reached: Arc<Notify>,
}

type Answers = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

#[tonic::async_trait]
impl HealthService for Behaviour {
    type WatchStream = Answers;

    async fn check(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let caller = peer(&request)?.to_string();
        self.reached.notify_one();
        match request.into_inner().service.as_str() {
            "hang" => std::future::pending().await,
            "panic" => panic!("the secret of the handler"),
            "refuse" => Err(refusal().into()),
            "who" => Err(ApiError::not_found("YOU_ARE", caller, "").into()),
            "trace" => {
                Err(ApiError::not_found("TRACE", understudy_rpc::trace::current().unwrap_or_default(), "")
                    .into())
            }
            _ => Ok(Response::new(HealthCheckResponse { status: 1 })),
        }
    }

    async fn watch(&self, request: tonic::Request<HealthCheckRequest>) -> Result<Response<Answers>, Status> {
        use tokio_stream::StreamExt;
        let first = tokio_stream::once(Ok(HealthCheckResponse { status: 1 }));
        let rest: Answers = match request.into_inner().service.as_str() {
            "panic" => Box::pin(futures::stream::once(async {
                // Later than the first message, or tonic keeps that back and both are lost.
                tokio::task::yield_now().await;
                panic!("the secret of the stream")
            })),
            _ => Box::pin(tokio_stream::pending()),
        };
        Ok(Response::new(Box::pin(first.chain(rest))))
    }
}

pub fn refusal() -> ApiError {
    ApiError::refused(
        "ITEMS_NOT_READY",
        "the plan cannot start",
        vec![
            Problem::new(
                "NO_RECOVERY_POINT",
                "protectedItems/web1",
                "it has no point",
                "wait for the first cycle",
            ),
            Problem::new("ITEM_BUSY", "protectedItems/db1", "a test runs", ""),
        ],
    )
    .with_metadata("job", "jobs/42")
}
