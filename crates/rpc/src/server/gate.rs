//! What every request passes before its handler, in this order:
//!
//! ```text
//!   certificate still valid?  no ─▶ UNAUTHENTICATED  CERTIFICATE_EXPIRED
//!   method known?             no ─▶ UNIMPLEMENTED    UNKNOWN_METHOD
//!   peer allowed?             no ─▶ PERMISSION_DENIED PEER_NOT_ALLOWED
//!   room left?                no ─▶ RESOURCE_EXHAUSTED TOO_MANY_CALLS
//!   handler, under a span, a deadline and a catch for panics ─▶ Answer, which watches the rest of the body
//! ```

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Router, routing::get};
use futures::FutureExt;
use http::{Request, Response, header};
use hyper::body::Incoming;
use time::OffsetDateTime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Status, body::Body, service::Routes};
use tower::ServiceExt;
use tracing::{Instrument, Span};
use understudy_pki::{Credential, PeerKind};

use super::{Metrics, answer::Answer, answer::Call};
use crate::{access, deadline, error::ApiError, trace};

/// Labels of a method in metrics and spans, and what applies to it.
pub struct Method {
    path: Arc<str>,
    service: Arc<str>,
    name: Arc<str>,
    streaming: bool,
    allow: &'static [PeerKind],
}

impl Method {
    pub fn new(declared: &access::Method, allow: &'static [PeerKind]) -> Self {
        let name = declared.path.rsplit('/').next().unwrap_or_default();
        Self {
            path: declared.path.as_str().into(),
            service: declared.service.as_str().into(),
            name: name.into(),
            streaming: declared.streaming,
            allow,
        }
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn service(&self) -> &str {
        &self.service
    }
}

/// When the handler's answer comes too late.
#[derive(Clone, Copy)]
pub struct AnswerBy(pub Instant);

pub struct Limits {
    pub unary_deadline: Duration,
    pub max_requests: usize,
    pub max_streams: usize,
}

pub struct Gate {
    methods: HashMap<Arc<str>, Method>,
    routes: Router,
    unary_deadline: Duration,
    requests: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

impl Gate {
    pub fn new(methods: Vec<Method>, routes: Routes, metrics: Option<Metrics>, limits: Limits) -> Self {
        let mut router = routes.prepare().into_axum_router();
        if let Some(render) = metrics {
            router = router.route("/metrics", get(move || std::future::ready(render())));
        }
        Self {
            methods: methods.into_iter().map(|method| (method.path.clone(), method)).collect(),
            routes: router,
            unary_deadline: limits.unary_deadline,
            requests: Arc::new(Semaphore::new(limits.max_requests)),
            streams: Arc::new(Semaphore::new(limits.max_streams)),
        }
    }

    /// Answers one request of the peer that `credential` names. Never fails: whatever goes wrong is an answer.
    pub async fn handle(&self, credential: Arc<Credential>, request: Request<Incoming>) -> Response<Answer> {
        let mut request = request.map(Body::new);
        let path = request.uri().path();
        let Some(method) = self.methods.get(path) else {
            return self.unlisted(&credential, request).await;
        };
        let span = span(method, &credential);
        trace::continue_from(&span, trace::extract(request.headers()));
        let call = Call::begin(method.service.clone(), method.name.clone(), span.clone());
        let place = match self.admit(method, &credential) {
            Ok(place) => place,
            Err(error) => return span.in_scope(|| call.refuse(error)),
        };
        request.extensions_mut().insert(credential);
        let limit = self.deadline(method, &request);
        let until = limit.and_then(|limit| Instant::now().checked_add(limit));
        if let Some(until) = until {
            request.extensions_mut().insert(AnswerBy(until));
        }
        self.answer(request, call, place, until).instrument(span).await
    }

    /// All that can refuse a call to a known method before its handler sees it.
    fn admit(&self, method: &Method, credential: &Credential) -> Result<OwnedSemaphorePermit, ApiError> {
        check_not_expired(credential)?;
        if !method.allow.contains(&credential.identity.kind()) {
            return Err(not_allowed(method, credential));
        }
        let room = if method.streaming { &self.streams } else { &self.requests };
        room.clone().try_acquire_owned().map_err(|_| {
            ApiError::resource_exhausted(
                "TOO_MANY_CALLS",
                "the service has as many calls at work as it is allowed to",
                "wait a moment and repeat the call",
            )
        })
    }

    /// A unary call ends at the server's deadline or the caller's, whichever comes first; a stream only at the caller's.
    fn deadline(&self, method: &Method, request: &Request<Body>) -> Option<Duration> {
        let asked = deadline::requested(request.headers());
        if method.streaming { asked } else { Some(asked.unwrap_or(Duration::MAX).min(self.unary_deadline)) }
    }

    async fn answer(
        &self,
        request: Request<Body>,
        call: Call,
        place: OwnedSemaphorePermit,
        until: Option<Instant>,
    ) -> Response<Answer> {
        let until = until.map(tokio::time::Instant::from_std);
        let handler = AssertUnwindSafe(self.routes.clone().oneshot(request)).catch_unwind();
        let outcome = match until {
            Some(until) => tokio::time::timeout_at(until, handler).await,
            None => Ok(handler.await),
        };
        match outcome {
            Ok(Ok(Ok(response))) => call.watch(response, place, until),
            Ok(Ok(Err(never))) => match never {},
            Ok(Err(panic)) => call.refuse(panicked(&*panic)),
            Err(_) => call.refuse(expired()),
        }
    }

    /// Paths that are in no table: the metrics page, and what we do not have.
    async fn unlisted(&self, credential: &Credential, request: Request<Body>) -> Response<Answer> {
        let grpc = request
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
        if let Err(error) = check_not_expired(credential) {
            return Answer::plain(Status::from(error).into_http());
        }
        if grpc {
            let error = ApiError::new(
                crate::Kind::Unimplemented,
                "UNKNOWN_METHOD",
                format!(
                    "{} is no method of this service",
                    request.uri().path().chars().take(200).collect::<String>()
                ),
                "check the address and the version of the service",
            );
            // One label for all of them: a caller must not be able to fill the metrics with names.
            return Call::begin("unknown".into(), "unknown".into(), Span::none()).refuse(error);
        }
        match self.routes.clone().oneshot(request).await {
            Ok(response) => Answer::plain(response.map(Body::new)),
            Err(never) => match never {},
        }
    }
}

fn span(method: &Method, credential: &Credential) -> Span {
    tracing::info_span!(
        "rpc",
        otel.name = %method.path,
        otel.kind = "server",
        rpc.service = %method.service,
        rpc.method = %method.name,
        peer = %credential.identity,
        rpc.code = tracing::field::Empty,
    )
}

/// A connection may be older than the last moment of its certificate.
fn check_not_expired(credential: &Credential) -> Result<(), ApiError> {
    if OffsetDateTime::now_utc() <= credential.not_after {
        return Ok(());
    }
    Err(ApiError::unauthenticated(
        "CERTIFICATE_EXPIRED",
        format!("the certificate of {} ended at {}", credential.identity, credential.not_after),
        "issue a new one with `understudy pki issue`; it is used for the next connection",
    ))
}

fn not_allowed(method: &Method, credential: &Credential) -> ApiError {
    let allowed: Vec<String> = method.allow.iter().map(PeerKind::to_string).collect();
    ApiError::permission_denied(
        "PEER_NOT_ALLOWED",
        format!("{} may not call {}", credential.identity, method.path),
        format!("call with a certificate of: {}", allowed.join(", ")),
    )
}

pub fn expired() -> ApiError {
    ApiError::deadline_exceeded(
        "DEADLINE_EXCEEDED",
        "the call took longer than its deadline; whether it took effect is not known",
        "ask for the state of the object, or repeat the call with the same request id",
    )
}

/// The payload of a panic is text nearly always; it goes to the log only.
pub fn panicked(payload: &(dyn std::any::Any + Send)) -> ApiError {
    let text = payload.downcast_ref::<&str>().map(|s| (*s).to_owned());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
    ApiError::internal(format!("the handler panicked: {}", text.unwrap_or_default()))
}
