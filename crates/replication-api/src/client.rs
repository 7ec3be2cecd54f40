//! Typed clients: domain types in, domain types out, every failure an [`ApiError`].

use futures::{Stream, StreamExt, stream::BoxStream};
use understudy_ids::{HostName, ItemName, UnixMicros};
use understudy_rpc::{
    ApiError, BULK_MESSAGE_BYTES, Channel, ClientConfig, ConnectError, ExpectedPeer, Profile, TlsFiles,
    connect,
};

use crate::{
    FILE_DESCRIPTOR_SET,
    activation::{Pulse, Renewal, Renewed},
    facts::Facts,
    field::Invalid,
    keys::{self, GetSeal, PointSeal, Unlock},
    sink::{Answer, Begin, DigestRun, Negotiate, Negotiated, Part, ReadDigests, body::WithBody},
    v1::{
        self, activation_service_client::ActivationServiceClient, facts_service_client::FactsServiceClient,
        key_service_client::KeyServiceClient, sink_service_client::SinkServiceClient,
    },
};

/// Largest facts of one host, in bytes: thousands of machines with their points.
const FACTS_BYTES: usize = 16 * 1024 * 1024;

/// An answer that breaks the contract: peer and caller are of different versions.
fn broken(peer: &str, invalid: &Invalid) -> ApiError {
    ApiError::unknown(
        "BROKEN_ANSWER",
        format!("{peer} answered something that breaks the contract: {invalid}"),
        "run the same version on both sides",
    )
}

/// Reads the facts of one host's agent.
#[derive(Debug, Clone)]
pub struct FactsClient {
    inner: FactsServiceClient<Channel>,
}

impl FactsClient {
    /// `endpoint` is `https://address:port`; the peer must show the certificate of `host`'s agent. Nothing is dialled yet.
    pub fn new(endpoint: &str, tls: TlsFiles, host: &HostName) -> Result<Self, ConnectError> {
        let expect = ExpectedPeer::Agent(host.clone());
        let channel = connect(ClientConfig::new(endpoint, tls, expect, FILE_DESCRIPTOR_SET))?;
        Ok(Self { inner: FactsServiceClient::new(channel).max_decoding_message_size(FACTS_BYTES) })
    }

    /// The facts as they are now.
    pub async fn get(&self) -> Result<Facts, ApiError> {
        let answer = self.inner.clone().get_facts(v1::GetFactsRequest {}).await?;
        Facts::try_from(answer.into_inner()).map_err(|e| broken("the agent", &e))
    }

    /// The facts now, then again after every change and at least every few seconds. The stream ends with the first error.
    pub async fn watch(&self) -> Result<BoxStream<'static, Result<Facts, ApiError>>, ApiError> {
        let stream = self.inner.clone().watch_facts(v1::WatchFactsRequest {}).await?.into_inner();
        Ok(stream.map(|facts| Facts::try_from(facts?).map_err(|e| broken("the agent", &e))).boxed())
    }
}

/// Renews the activation leases of one host.
#[derive(Debug, Clone)]
pub struct ActivationClient {
    inner: ActivationServiceClient<Channel>,
}

impl ActivationClient {
    /// As [`FactsClient::new`].
    pub fn new(endpoint: &str, tls: TlsFiles, host: &HostName) -> Result<Self, ConnectError> {
        let expect = ExpectedPeer::Agent(host.clone());
        let channel = connect(ClientConfig::new(endpoint, tls, expect, FILE_DESCRIPTOR_SET))?;
        Ok(Self { inner: ActivationServiceClient::new(channel) })
    }

    /// The host's clock now.
    pub async fn pulse(&self) -> Result<Pulse, ApiError> {
        let answer = self.inner.clone().get_pulse(v1::GetPulseRequest {}).await?;
        Pulse::try_from(answer.into_inner()).map_err(|e| broken("the agent", &e))
    }

    /// What the host is bound by then.
    pub async fn renew(&self, renewal: Renewal) -> Result<Renewed, ApiError> {
        let answer = self.inner.clone().renew_leases(v1::RenewLeasesRequest::from(renewal)).await?;
        Renewed::try_from(answer.into_inner()).map_err(|e| broken("the agent", &e))
    }
}

/// Unlocks encrypted replicas on one host.
#[derive(Debug, Clone)]
pub struct KeyClient {
    inner: KeyServiceClient<Channel>,
}

impl KeyClient {
    /// As [`FactsClient::new`].
    pub fn new(endpoint: &str, tls: TlsFiles, host: &HostName) -> Result<Self, ConnectError> {
        let expect = ExpectedPeer::Agent(host.clone());
        let channel = connect(ClientConfig::new(endpoint, tls, expect, FILE_DESCRIPTOR_SET))?;
        Ok(Self { inner: KeyServiceClient::new(channel) })
    }

    /// How a point is encrypted, and for whom.
    pub async fn seal(&self, request: GetSeal) -> Result<PointSeal, ApiError> {
        let answer = self.inner.clone().get_seal(v1::GetSealRequest::from(request)).await?;
        PointSeal::try_from(answer.into_inner()).map_err(|e| broken("the agent", &e))
    }

    /// Lends the host the item's key; returns until when it is held.
    pub async fn unlock(&self, request: Unlock) -> Result<UnixMicros, ApiError> {
        let answer = self.inner.clone().unlock(v1::UnlockRequest::from(request)).await?;
        keys::unlocked(answer.into_inner()).map_err(|e| broken("the agent", &e))
    }

    /// Takes the key back.
    pub async fn lock(&self, item: &ItemName) -> Result<(), ApiError> {
        self.inner.clone().lock(v1::LockRequest { item: item.to_string() }).await?;
        Ok(())
    }
}

/// Sends recovery points to the agent of one host.
#[derive(Debug, Clone)]
pub struct SinkClient {
    channel: Channel,
    inner: SinkServiceClient<Channel>,
}

impl SinkClient {
    /// `endpoint` is `https://address:port` of the peer's bulk listener. Nothing is dialled yet.
    pub fn new(endpoint: &str, tls: TlsFiles, host: &HostName) -> Result<Self, ConnectError> {
        let expect = ExpectedPeer::Agent(host.clone());
        let config = ClientConfig::new(endpoint, tls, expect, FILE_DESCRIPTOR_SET).profile(Profile::Bulk);
        let channel = connect(config)?;
        let inner = SinkServiceClient::new(channel.clone()).max_decoding_message_size(BULK_MESSAGE_BYTES);
        Ok(Self { channel, inner })
    }

    /// What the target has of an item.
    ///
    /// # Errors
    /// [`STALE_GENERATION`](crate::STALE_GENERATION) when the target has seen a higher one.
    pub async fn negotiate(&self, request: Negotiate) -> Result<Negotiated, ApiError> {
        let answer = self.inner.clone().negotiate(v1::NegotiateRequest::from(request)).await?;
        Negotiated::try_from(answer.into_inner()).map_err(|e| broken("the sink", &e))
    }

    /// Sends a recovery point. The parts are pulled as fast as the target takes them. The answers end with the receipt, and
    /// the point does not exist for certain before that; an error in the middle leaves it open whether it does.
    pub async fn push<P>(
        &self,
        begin: Begin,
        parts: P,
    ) -> Result<BoxStream<'static, Result<Answer, ApiError>>, ApiError>
    where
        P: Stream<Item = Part> + Send + 'static,
    {
        let connection = WithBody::new(self.channel.clone(), begin, parts);
        let mut client = SinkServiceClient::new(connection).max_decoding_message_size(BULK_MESSAGE_BYTES);
        // The body in its place has the point.
        let answers = client.push_point(futures::stream::empty()).await?.into_inner();
        Ok(answers.map(|answer| Answer::try_from(answer?).map_err(|e| broken("the sink", &e))).boxed())
    }

    /// Digests of a point's disk in ascending order; blocks that no run names are zero.
    pub async fn read_digests(
        &self,
        request: ReadDigests,
    ) -> Result<BoxStream<'static, Result<DigestRun, ApiError>>, ApiError> {
        let runs = self.inner.clone().read_digests(v1::ReadDigestsRequest::from(request)).await?.into_inner();
        Ok(runs.map(|run| DigestRun::try_from(run?).map_err(|e| broken("the sink", &e))).boxed())
    }
}
