//! The answer to a call while it is being sent: its status for metrics and span, its deadline, its place among the calls at work.
//!
//! gRPC puts the status into the trailers, so a call ends with its body and not with its handler. A body that is dropped before its
//! trailers counts as CANCELLED: the caller went away.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use metrics::SharedString;
use tokio::{sync::OwnedSemaphorePermit, time::Sleep};
use tonic::{Code, Status, body::Body};
use tracing::Span;

use super::gate;
use crate::error::ApiError;

/// A call from its first moment to its status. Counts itself when dropped, so that none is forgotten whatever ends it.
pub struct Call {
    service: Arc<str>,
    method: Arc<str>,
    span: Span,
    started: Instant,
    code: Code,
}

impl Call {
    pub fn begin(service: Arc<str>, method: Arc<str>, span: Span) -> Self {
        let call = Self { service, method, span, started: Instant::now(), code: Code::Cancelled };
        call.in_flight().increment(1.0);
        call
    }

    fn in_flight(&self) -> metrics::Gauge {
        let [service, method] = self.labels();
        metrics::gauge!("understudy_rpc_requests_in_flight", "service" => service, "method" => method)
    }

    fn labels(&self) -> [SharedString; 2] {
        [SharedString::from_shared(self.service.clone()), SharedString::from_shared(self.method.clone())]
    }

    /// Ends the call with an error before, or instead of, its handler.
    pub fn refuse(mut self, error: ApiError) -> Response<Answer> {
        let status = Status::from(error);
        self.code = status.code();
        Answer::plain(status.into_http())
    }

    /// Follows the handler's answer to its end.
    pub fn watch<B>(
        mut self,
        response: Response<B>,
        place: OwnedSemaphorePermit,
        until: Option<tokio::time::Instant>,
    ) -> Response<Answer>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        // An error without a message has its status among the headers and no trailers.
        if let Some(code) = status_code(response.headers()) {
            self.code = code;
        }
        let deadline = until.map(|until| Box::pin(tokio::time::sleep_until(until)));
        let watched = Watched { call: self, deadline, _place: place };
        response.map(|body| Answer { body: Body::new(body), watched: Some(watched) })
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let [service, method] = self.labels();
        let code = code_name(self.code);
        self.span.record("rpc.code", code);
        self.in_flight().decrement(1.0);
        metrics::histogram!("understudy_rpc_request_duration_seconds", "service" => service.clone(), "method" => method.clone())
            .record(self.started.elapsed());
        metrics::counter!("understudy_rpc_requests_total", "service" => service, "method" => method, "code" => code)
            .increment(1);
    }
}

struct Watched {
    call: Call,
    deadline: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

/// The body of an answer.
pub struct Answer {
    body: Body,
    /// Present until the call has its status.
    watched: Option<Watched>,
}

impl Answer {
    /// A body that nobody watches: a refusal, or a page that is no call.
    pub fn plain(response: Response<Body>) -> Response<Self> {
        response.map(|body| Self { body, watched: None })
    }

    /// Ends the body with `error` as its trailers.
    fn end_with(&mut self, error: ApiError) -> Option<Result<Frame<Bytes>, Status>> {
        let status = Status::from(error);
        if let Some(mut watched) = self.watched.take() {
            watched.call.code = status.code();
        }
        self.body = Body::empty();
        let mut trailers = HeaderMap::new();
        Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers)))
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Result<PolledFrame, Box<dyn Any + Send>> {
        let body = Pin::new(&mut self.body);
        catch_unwind(AssertUnwindSafe(|| body.poll_frame(cx)))
    }
}

type PolledFrame = Poll<Option<Result<Frame<Bytes>, Status>>>;

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame {
        let this = self.get_mut();
        let span = this.watched.as_ref().map_or_else(Span::none, |watched| watched.call.span.clone());
        let _entered = span.enter();
        let polled = match this.poll_body(cx) {
            Ok(polled) => polled,
            Err(panic) => return Poll::Ready(this.end_with(gate::panicked(&*panic))),
        };
        let Some(watched) = this.watched.as_mut() else { return polled };
        match &polled {
            Poll::Pending => {
                let deadline = watched.deadline.as_mut();
                if deadline.is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
                    return Poll::Ready(this.end_with(gate::expired()));
                }
            }
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    watched.call.code = status_code(trailers).unwrap_or(Code::Unknown);
                    this.watched = None;
                }
            }
            Poll::Ready(Some(Err(status))) => {
                watched.call.code = status.code();
                this.watched = None;
            }
            Poll::Ready(None) => this.watched = None,
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn status_code(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|value| Code::from_bytes(value.as_bytes()))
}

/// The name of a code as the gRPC documentation writes it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
