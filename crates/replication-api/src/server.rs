//! The services of an agent, in domain terms: implement a trait, get a tonic service.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{StreamExt, stream::BoxStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use understudy_ids::{HostName, ItemName, UnixMicros};
use understudy_rpc::{ApiError, Identity};

use crate::{
    activation::{Pulse, Renewal, Renewed},
    facts::Facts,
    keys::{self, GetSeal, PointSeal, Unlock},
    sink::{
        Answer, Begin, DigestRun, Negotiate, Negotiated, Part, PartOrder, RawBodies, ReadDigests, Receipt,
        Watermark,
        frames::{Messages, RawBody},
    },
    v1::{self, activation_service_server, facts_service_server, key_service_server, sink_service_server},
};

/// How long a push stream may stay without its head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Watermarks that wait for a slow peer.
const ANSWERS: usize = 16;

/// Where facts come from.
#[async_trait]
pub trait FactsSource: Send + Sync + 'static {
    async fn facts(&self) -> Result<Facts, ApiError>;
    /// The facts now, then after every change. Ends when the agent shuts down.
    fn watch(&self) -> BoxStream<'static, Facts>;
}

/// The tonic service over a [`FactsSource`].
pub fn facts_service<S: FactsSource>(
    source: Arc<S>,
) -> facts_service_server::FactsServiceServer<impl facts_service_server::FactsService> {
    facts_service_server::FactsServiceServer::new(FactsAdapter(source))
}

struct FactsAdapter<S>(Arc<S>);

#[async_trait]
impl<S: FactsSource> facts_service_server::FactsService for FactsAdapter<S> {
    async fn get_facts(&self, _: Request<v1::GetFactsRequest>) -> Result<Response<v1::Facts>, Status> {
        Ok(Response::new(self.0.facts().await?.into()))
    }

    type WatchFactsStream = BoxStream<'static, Result<v1::Facts, Status>>;

    async fn watch_facts(
        &self,
        _: Request<v1::WatchFactsRequest>,
    ) -> Result<Response<Self::WatchFactsStream>, Status> {
        Ok(Response::new(self.0.watch().map(|facts| Ok(facts.into())).boxed()))
    }
}

/// Bound by activation leases.
#[async_trait]
pub trait ActivationHandler: Send + Sync + 'static {
    async fn pulse(&self) -> Result<Pulse, ApiError>;
    async fn renew(&self, renewal: Renewal) -> Result<Renewed, ApiError>;
}

/// The tonic service over an [`ActivationHandler`].
pub fn activation_service<H: ActivationHandler>(
    handler: Arc<H>,
) -> activation_service_server::ActivationServiceServer<impl activation_service_server::ActivationService> {
    activation_service_server::ActivationServiceServer::new(ActivationAdapter(handler))
}

struct ActivationAdapter<H>(Arc<H>);

#[async_trait]
impl<H: ActivationHandler> activation_service_server::ActivationService for ActivationAdapter<H> {
    async fn get_pulse(&self, _: Request<v1::GetPulseRequest>) -> Result<Response<v1::Pulse>, Status> {
        Ok(Response::new(self.0.pulse().await?.into()))
    }

    async fn renew_leases(
        &self,
        request: Request<v1::RenewLeasesRequest>,
    ) -> Result<Response<v1::RenewLeasesResponse>, Status> {
        let renewal = Renewal::try_from(request.into_inner()).map_err(ApiError::from)?;
        Ok(Response::new(self.0.renew(renewal).await?.into()))
    }
}

/// Keeps the keys that operators lend to a host. `peer` is who calls.
#[async_trait]
pub trait KeyHandler: Send + Sync + 'static {
    async fn get_seal(&self, request: GetSeal) -> Result<PointSeal, ApiError>;
    async fn unlock(&self, peer: &Identity, request: Unlock) -> Result<UnixMicros, ApiError>;
    async fn forget(&self, peer: &Identity, item: ItemName) -> Result<(), ApiError>;
}

/// The tonic service over a [`KeyHandler`].
pub fn key_service<H: KeyHandler>(
    handler: Arc<H>,
) -> key_service_server::KeyServiceServer<impl key_service_server::KeyService> {
    key_service_server::KeyServiceServer::new(KeyAdapter(handler))
}

struct KeyAdapter<H>(Arc<H>);

#[async_trait]
impl<H: KeyHandler> key_service_server::KeyService for KeyAdapter<H> {
    async fn get_seal(&self, request: Request<v1::GetSealRequest>) -> Result<Response<v1::Seal>, Status> {
        let asked = GetSeal::try_from(request.into_inner()).map_err(ApiError::from)?;
        Ok(Response::new(self.0.get_seal(asked).await?.into()))
    }

    async fn unlock(
        &self,
        request: Request<v1::UnlockRequest>,
    ) -> Result<Response<v1::UnlockResponse>, Status> {
        let peer = understudy_rpc::peer(&request)?.clone();
        let asked = Unlock::try_from(request.into_inner()).map_err(ApiError::from)?;
        Ok(Response::new(keys::unlocked_to_wire(self.0.unlock(&peer, asked).await?)))
    }

    async fn lock(&self, request: Request<v1::LockRequest>) -> Result<Response<v1::LockResponse>, Status> {
        let peer = understudy_rpc::peer(&request)?.clone();
        let item = keys::lock(request.into_inner()).map_err(ApiError::from)?;
        self.0.forget(&peer, item).await?;
        Ok(Response::new(v1::LockResponse {}))
    }
}

/// The parts of one transfer after its head, each inside the contract. An error or an end without
/// [`Part::Finish`] means that the peer is gone.
pub type PartStream = BoxStream<'static, Result<Part, ApiError>>;

/// The receiving end. `peer` is the host whose agent calls.
#[async_trait]
pub trait SinkHandler: Send + Sync + 'static {
    async fn negotiate(&self, peer: &HostName, request: Negotiate) -> Result<Negotiated, ApiError>;

    /// Receives one point. Runs to its end also when the peer goes away: `parts` tells it. `durable` takes watermarks.
    async fn push(
        &self,
        peer: &HostName,
        begin: Begin,
        parts: PartStream,
        durable: mpsc::Sender<Watermark>,
    ) -> Result<Receipt, ApiError>;

    async fn read_digests(
        &self,
        peer: &HostName,
        request: ReadDigests,
    ) -> Result<BoxStream<'static, Result<DigestRun, ApiError>>, ApiError>;
}

/// The tonic service over a [`SinkHandler`].
pub fn sink_service<H: SinkHandler>(
    handler: Arc<H>,
) -> RawBodies<sink_service_server::SinkServiceServer<impl sink_service_server::SinkService>> {
    RawBodies(sink_service_server::SinkServiceServer::new(SinkAdapter(handler)))
}

struct SinkAdapter<H>(Arc<H>);

/// The access table lets only agents in; which agent is the handler's to judge.
fn agent<T>(request: &Request<T>) -> Result<HostName, ApiError> {
    let identity = understudy_rpc::peer(request)?;
    identity.agent_host().cloned().ok_or_else(|| {
        ApiError::permission_denied(
            "NOT_AN_AGENT",
            format!("{identity} is not an agent"),
            "call as a host's agent",
        )
    })
}

#[async_trait]
impl<H: SinkHandler> sink_service_server::SinkService for SinkAdapter<H> {
    async fn negotiate(
        &self,
        request: Request<v1::NegotiateRequest>,
    ) -> Result<Response<v1::NegotiateResponse>, Status> {
        let peer = agent(&request)?;
        let asked = Negotiate::try_from(request.into_inner()).map_err(ApiError::from)?;
        Ok(Response::new(self.0.negotiate(&peer, asked).await?.into()))
    }

    type PushPointStream = ReceiverStream<Result<v1::PushPointResponse, Status>>;

    async fn push_point(
        &self,
        mut request: Request<Streaming<v1::PushPointRequest>>,
    ) -> Result<Response<Self::PushPointStream>, Status> {
        let peer = agent(&request)?;
        let messages = RawBody::messages(&mut request);
        let mut messages = messages.ok_or_else(|| ApiError::internal("a push stream without its body"))?;
        let begin = head(&mut messages).await?;
        let parts = parts(messages, &begin);
        let (answers, receiver) = mpsc::channel(ANSWERS);
        let handler = self.0.clone();
        // Receiving must come to an orderly end whatever the peer does, so it does not run inside the call.
        let receive = async move {
            let (durable, watermarks) = mpsc::channel(ANSWERS);
            let forward = forward(watermarks, answers.clone());
            let (result, ()) = tokio::join!(handler.push(&peer, begin, parts, durable), forward);
            let last = result.map(|receipt| Answer::Receipt(receipt).into()).map_err(Status::from);
            // A peer that is gone asks again what became of the point.
            let _ = answers.send(last).await;
        };
        tokio::spawn(tracing_in_span(receive));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    type ReadDigestsStream = BoxStream<'static, Result<v1::ReadDigestsResponse, Status>>;

    async fn read_digests(
        &self,
        request: Request<v1::ReadDigestsRequest>,
    ) -> Result<Response<Self::ReadDigestsStream>, Status> {
        let peer = agent(&request)?;
        let asked = ReadDigests::try_from(request.into_inner()).map_err(ApiError::from)?;
        let runs = self.0.read_digests(&peer, asked).await?;
        Ok(Response::new(runs.map(|run| run.map(Into::into).map_err(Status::from)).boxed()))
    }
}

/// Work that leaves its call stays in the call's span.
fn tracing_in_span<F: Future>(work: F) -> tracing::instrument::Instrumented<F> {
    use tracing::Instrument as _;
    work.in_current_span()
}

async fn head(messages: &mut Messages) -> Result<Begin, ApiError> {
    tokio::time::timeout(HEAD_TIMEOUT, messages.begin()).await.map_err(|_| {
        ApiError::deadline_exceeded(
            "NO_HEAD",
            "the stream began without saying what it sends",
            "send Begin first",
        )
    })?
}

fn parts(messages: Messages, begin: &Begin) -> PartStream {
    let order = PartOrder::new(&begin.disks);
    let next = |(mut messages, mut order): (Messages, PartOrder)| async move {
        let Some(part) = messages.part().await? else { return Ok(None) };
        order.accept(&part).map_err(ApiError::from)?;
        Ok(Some((part, (messages, order))))
    };
    futures::stream::try_unfold((messages, order), next).boxed()
}

async fn forward(
    mut watermarks: mpsc::Receiver<Watermark>,
    answers: mpsc::Sender<Result<v1::PushPointResponse, Status>>,
) {
    while let Some(watermark) = watermarks.recv().await {
        if answers.send(Ok(Answer::Durable(watermark).into())).await.is_err() {
            return;
        }
    }
}
