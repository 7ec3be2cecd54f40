//! A gRPC server of ours: what it serves, and its life from bind to the end of the last connection.
//!
//! ```text
//!   Server::bind ─ add_service… ─ serve(shutdown) ─▶ health SERVING ─▶ … ─▶ shutdown: health NOT_SERVING, no new
//!                                                     connections, GOAWAY ─▶ calls end by themselves, or are cut after the grace
//! ```

mod accept;
mod answer;
mod gate;

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::Request;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    server::NamedService,
    service::{Routes, RoutesBuilder},
};
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::Service;
use understudy_pki::{Credential, Identity};

use crate::{
    access::{self, ANYONE, AccessRule},
    error::ApiError,
    profile::Profile,
    tls::{Credentials, TlsError, TlsFiles},
};
use gate::{AnswerBy, Gate, Limits};

/// Most time that is kept back for an answer.
const ANSWER_RESERVE: Duration = Duration::from_secs(1);

/// What an operator sets about a server. In files, durations are whole seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// Address and port to listen on; port 0 takes any free one.
    pub listen: SocketAddr,
    pub tls: TlsFiles,
    #[serde(default)]
    pub profile: Profile,
    /// No unary call takes longer, whatever its caller allows.
    #[serde(default = "defaults::unary_deadline_s")]
    pub unary_deadline_s: u64,
    /// How long calls may go on after a shutdown was asked for.
    #[serde(default = "defaults::shutdown_grace_s")]
    pub shutdown_grace_s: u64,
    /// A connection is asked to end at this age, so that peers come back with a fresh certificate.
    #[serde(default = "defaults::connection_age_s")]
    pub connection_age_s: u64,
    #[serde(default = "defaults::max_connections")]
    pub max_connections: usize,
    /// Streams and calls that one connection may have open.
    #[serde(default = "defaults::max_streams_per_connection")]
    pub max_streams_per_connection: u32,
    /// Unary calls at work at once; more are told to come back.
    #[serde(default = "defaults::max_requests")]
    pub max_requests: usize,
    /// Streams open at once, over all connections.
    #[serde(default = "defaults::max_streams")]
    pub max_streams: usize,
}

mod defaults {
    pub const fn unary_deadline_s() -> u64 {
        30
    }
    pub const fn shutdown_grace_s() -> u64 {
        5
    }
    pub const fn connection_age_s() -> u64 {
        30 * 60
    }
    pub const fn max_connections() -> usize {
        1024
    }
    pub const fn max_streams_per_connection() -> u32 {
        256
    }
    pub const fn max_requests() -> usize {
        512
    }
    pub const fn max_streams() -> usize {
        2048
    }
}

impl ServerConfig {
    /// A control server with all defaults.
    pub fn new(listen: SocketAddr, tls: TlsFiles) -> Self {
        Self {
            listen,
            tls,
            profile: Profile::Control,
            unary_deadline_s: defaults::unary_deadline_s(),
            shutdown_grace_s: defaults::shutdown_grace_s(),
            connection_age_s: defaults::connection_age_s(),
            max_connections: defaults::max_connections(),
            max_streams_per_connection: defaults::max_streams_per_connection(),
            max_requests: defaults::max_requests(),
            max_streams: defaults::max_streams(),
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            unary_deadline: Duration::from_secs(self.unary_deadline_s),
            max_requests: self.max_requests,
            max_streams: self.max_streams,
        }
    }
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot listen on {address}: {cause}. Choose another address, or stop what uses this one")]
    Listen { address: SocketAddr, cause: io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Descriptors(#[from] access::BadDescriptors),
    #[error("the access tables of this program have gaps: {}", .0.join(", "))]
    Access(Vec<String>),
    #[error("the reflection service cannot be built: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Tells the health service how things are. `""` stands for the whole server.
#[derive(Debug, Clone)]
pub struct Health(HealthReporter);

impl Health {
    /// Sets the status of one gRPC service by its full name, such as `understudy.jobs.v1.JobService`, or of the server as a whole (`""`).
    pub async fn set(&self, service: &str, serving: bool) {
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.0.set_service_status(service, status).await;
    }
}

type Metrics = Arc<dyn Fn() -> String + Send + Sync>;

/// A server that has its port and is being put together.
pub struct Server {
    config: ServerConfig,
    listener: TcpListener,
    credentials: Arc<Credentials>,
    routes: RoutesBuilder,
    services: Vec<&'static str>,
    rules: Vec<AccessRule>,
    descriptors: Vec<&'static [u8]>,
    metrics: Option<Metrics>,
    health: Health,
}

impl Server {
    /// Takes the port and reads the certificates, so that mistakes in either show before anything runs.
    pub async fn bind(config: ServerConfig) -> Result<Self, ServeError> {
        let credentials = Arc::new(Credentials::load(config.tls.clone())?);
        let address = config.listen;
        let listener =
            TcpListener::bind(address).await.map_err(|cause| ServeError::Listen { address, cause })?;
        let (reporter, health_service) = tonic_health::server::health_reporter();
        let mut routes = Routes::builder();
        routes.add_service(health_service);
        Ok(Self {
            config,
            listener,
            credentials,
            routes,
            services: vec!["grpc.health.v1.Health"],
            rules: built_in_rules(),
            descriptors: vec![tonic_health::pb::FILE_DESCRIPTOR_SET],
            metrics: None,
            health: Health(reporter),
        })
    }

    /// Where the server listens; tells the port when the configuration said 0.
    pub fn local_addr(&self) -> SocketAddr {
        // A bound socket always has an address; the configured one differs from it at most in the port.
        self.listener.local_addr().unwrap_or(self.config.listen)
    }

    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Adds a generated service with the table of who may call its methods.
    #[must_use]
    pub fn add_service<S>(mut self, service: S, rules: &[AccessRule]) -> Self
    where
        S: Service<Request<Body>, Error = Infallible> + NamedService + Clone + Send + Sync + 'static,
        S::Response: axum::response::IntoResponse,
        S::Future: Send + 'static,
    {
        self.routes.add_service(service);
        self.services.push(S::NAME);
        self.rules.extend_from_slice(rules);
        self
    }

    /// Adds the encoded `FileDescriptorSet` of services, for reflection, access and deadlines.
    #[must_use]
    pub fn descriptors(mut self, encoded: &'static [u8]) -> Self {
        self.descriptors.push(encoded);
        self
    }

    /// Serves the text that `render` returns at `/metrics` of the same port, to anyone with a certificate.
    #[must_use]
    pub fn metrics(mut self, render: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.metrics = Some(Arc::new(render));
        self
    }

    /// Serves until `shutdown` is cancelled, then ends within the configured grace. Health says SERVING from here on, until the
    /// service says otherwise through [`Health`] or the shutdown begins.
    pub async fn serve(mut self, shutdown: CancellationToken) -> Result<(), ServeError> {
        self.add_reflection()?;
        let methods = self.methods()?;
        let gate = Gate::new(methods, self.routes.routes(), self.metrics, self.config.limits());
        for service in &self.services {
            self.health.set(service, true).await;
        }
        let stop_health = self.health.clone();
        let address = self.listener.local_addr().unwrap_or(self.config.listen);
        tracing::info!(%address, "serving");
        let services = self.services;
        let before_drain = async move {
            stop_health.set("", false).await;
            for service in services {
                stop_health.set(service, false).await;
            }
        };
        accept::run(self.listener, self.credentials, Arc::new(gate), &self.config, shutdown, before_drain)
            .await;
        tracing::info!(%address, "stopped serving");
        Ok(())
    }

    fn add_reflection(&mut self) -> Result<(), ServeError> {
        let builder =
            self.descriptors.iter().fold(tonic_reflection::server::Builder::configure(), |builder, set| {
                builder.register_encoded_file_descriptor_set(set)
            });
        self.routes.add_service(builder.build_v1()?);
        self.services.push("grpc.reflection.v1.ServerReflection");
        self.descriptors.push(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET);
        Ok(())
    }

    /// Joins descriptors and access tables; both must cover every service that was added.
    fn methods(&self) -> Result<Vec<gate::Method>, ServeError> {
        let mut methods: Vec<gate::Method> = Vec::new();
        let mut gaps = Vec::new();
        for set in &self.descriptors {
            for declared in access::methods(set)? {
                let served = self.services.contains(&declared.service.as_str());
                if !served || methods.iter().any(|m| m.path() == declared.path) {
                    continue;
                }
                match self.rules.iter().find(|rule| rule.method == declared.path) {
                    Some(rule) => methods.push(gate::Method::new(&declared, rule.allow)),
                    None => gaps.push(format!("{} has no access rule", declared.path)),
                }
            }
        }
        let undescribed = self.services.iter().filter(|name| !methods.iter().any(|m| m.service() == **name));
        gaps.extend(undescribed.map(|name| format!("{name} has no descriptor or no rule")));
        if gaps.is_empty() { Ok(methods) } else { Err(ServeError::Access(gaps)) }
    }
}

fn built_in_rules() -> Vec<AccessRule> {
    [
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ]
    .map(|method| AccessRule::new(method, ANYONE))
    .to_vec()
}

/// Who makes this call, by its certificate.
///
/// # Errors
/// `UNAUTHENTICATED` when the request did not come through [`Server`].
pub fn peer<T>(request: &tonic::Request<T>) -> Result<&Identity, ApiError> {
    request.extensions().get::<Arc<Credential>>().map(|credential| &credential.identity).ok_or_else(|| {
        ApiError::unauthenticated(
            "NO_IDENTITY",
            "the call carries no identity",
            "call through the service's port",
        )
    })
}

/// Until when a handler that waits for something can still answer: before the call's deadline, which is the caller's or the server's. None for a
/// stream without one.
pub fn answer_by<T>(request: &tonic::Request<T>) -> Option<Instant> {
    let AnswerBy(until) = request.extensions().get::<AnswerBy>()?;
    // The caller's clock began earlier, and the answer has a way to go.
    let reserve = (until.saturating_duration_since(Instant::now()) / 10).min(ANSWER_RESERVE);
    until.checked_sub(reserve)
}
