//! Traffic hooks: whoever leads clients to machines is told over HTTP where a machine is now (R-NET-12).
//!
//! ```text
//!   POST url   Idempotency-Key: <run>/<step>   {"item", "from", "to", "addresses", "generation", …}
//!     2xx: understood · 429, 5xx, no answer: asked again, with the same key · anything else: it was refused
//! ```
//!
//! A hook is called at least once. Its answer counts by its status alone: what it says beside that is neither read nor kept. A token is read
//! when it is used, and is in no log.

use std::{collections::BTreeMap, collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use understudy_ids::{Generation, HostName, ItemName, RunId, TrafficHookName};
use understudy_netplan::{TrafficChange, TrafficHook};
use understudy_rpc::ApiError;

/// `[traffic_hooks.NAME]` of the configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookConfig {
    /// `https://lb.example/failover`, or `http://` where nobody else is on the way.
    pub url: HookUrl,
    /// PEM of the authorities that its certificate is from; `https` only, and needed there.
    pub ca_file: Option<PathBuf>,
    /// What it is told to know us by: a token, and nothing else.
    pub bearer_file: Option<PathBuf>,
    /// From the first byte until its answer.
    #[serde(default = "default_time_out_ms")]
    pub time_out_ms: u64,
    /// For which it is called; empty: for every item.
    #[serde(default)]
    pub items: BTreeSet<ItemName>,
}

const fn default_time_out_ms() -> u64 {
    10_000
}

/// An absolute URL with `http` or `https`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct HookUrl(Uri);

impl TryFrom<String> for HookUrl {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|e| format!("{text:?} is no URL: {e}"))?;
        let fits = matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
        if fits { Ok(Self(uri)) } else { Err(format!("{text:?} is not http:// or https:// with a host")) }
    }
}

impl HookUrl {
    fn is_tls(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    fn host(&self) -> &str {
        // An address of IPv6 has brackets in a URL only.
        self.0.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
    }

    fn port(&self) -> u16 {
        self.0.port_u16().unwrap_or(if self.is_tls() { 443 } else { 80 })
    }
}

impl HookConfig {
    pub(crate) fn problems(&self) -> impl Iterator<Item = String> {
        let rows = [
            (!(100..=60_000).contains(&self.time_out_ms), "time_out_ms: must be 100 to 60000"),
            (self.url.is_tls() && self.ca_file.is_none(), "ca_file: is needed for https"),
            (!self.url.is_tls() && self.ca_file.is_some(), "ca_file: has no meaning without https"),
        ];
        rows.into_iter().filter(|(is_wrong, _)| *is_wrong).map(|(_, problem)| problem.to_owned())
    }
}

/// Why a hook did not understand.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    #[error("no traffic hook {0} is configured")]
    NotConfigured(TrafficHookName),
    #[error("traffic hook {0}: {1} cannot be used: {2}")]
    File(TrafficHookName, String, String),
    #[error("traffic hook {0} does not answer: {1}")]
    NoAnswer(TrafficHookName, String),
    #[error("traffic hook {0} cannot do it now: it answered {1}")]
    NotNow(TrafficHookName, StatusCode),
    #[error("traffic hook {0} refuses: it answered {1}")]
    Refused(TrafficHookName, StatusCode),
}

impl From<HookError> for ApiError {
    /// What may be another way in a moment is *unavailable*, and tried again.
    fn from(error: HookError) -> Self {
        let message = error.to_string();
        match error {
            HookError::NotConfigured(_) => Self::failed_precondition(
                "HOOK_NOT_CONFIGURED",
                message,
                "add it to [traffic_hooks] of each network-mapper, or tell it by hand",
            ),
            HookError::File(..) => Self::failed_precondition(
                "HOOK_FILE_UNUSABLE",
                message,
                "make the file readable for network-mapper, with what belongs into it",
            ),
            HookError::NoAnswer(..) => Self::unavailable(
                "HOOK_NO_ANSWER",
                message,
                "start it, or repair the way to it from network-mapper; its certificate must be of ca_file",
            ),
            HookError::NotNow(..) => {
                Self::unavailable("HOOK_FAILING", message, "look into its log at this time")
            }
            HookError::Refused(..) => Self::failed_precondition(
                "HOOK_REFUSED",
                message,
                "look into its log at this time; compare url and bearer_file with what it expects",
            ),
        }
    }
}

/// The configured hooks.
#[derive(Debug, Clone, Default)]
pub struct Hooks {
    hooks: BTreeMap<TrafficHookName, HookConfig>,
}

/// What is sent.
#[derive(Serialize)]
struct Body<'a> {
    run: RunId,
    item: &'a ItemName,
    /// `failover` or `roll-back`.
    direction: &'static str,
    from: &'a HostName,
    to: &'a HostName,
    addresses: Vec<String>,
    generation: Generation,
}

impl Hooks {
    pub fn new(hooks: BTreeMap<TrafficHookName, HookConfig>) -> Self {
        Self { hooks }
    }

    pub(crate) fn all(&self) -> Vec<TrafficHook> {
        let hook = |(name, config): (&TrafficHookName, &HookConfig)| TrafficHook {
            name: name.clone(),
            items: config.items.clone(),
        };
        self.hooks.iter().map(hook).collect()
    }

    /// The status with which the hook says that it has understood.
    ///
    /// # Errors
    /// When it does not say so. Without an answer nobody knows whether it has.
    pub async fn call(&self, run: RunId, change: &TrafficChange) -> Result<u16, HookError> {
        let name = &change.hook;
        let config = self.hooks.get(name).ok_or_else(|| HookError::NotConfigured(name.clone()))?;
        let request = request(config, run, change)?;
        let limit = Duration::from_millis(config.time_out_ms);
        let no_answer = |cause: String| HookError::NoAnswer(name.clone(), cause);
        let tls = tls(name, config)?;
        let answered = tokio::time::timeout(limit, exchange(config, tls, request)).await;
        let status = answered
            .map_err(|_| no_answer(format!("nothing within {limit:?}")))?
            .map_err(|cause| no_answer(format!("{cause:#}")))?;
        match status {
            status if status.is_success() => Ok(status.as_u16()),
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(HookError::NotNow(name.clone(), status))
            }
            status => Err(HookError::Refused(name.clone(), status)),
        }
    }
}

fn request(
    config: &HookConfig,
    run: RunId,
    change: &TrafficChange,
) -> Result<Request<Full<Bytes>>, HookError> {
    let TrafficChange { hook, item, step, roll_back, from, to, generation, addresses } = change;
    let body = Body {
        run,
        item,
        direction: if *roll_back { "roll-back" } else { "failover" },
        from,
        to,
        addresses: addresses.iter().map(ToString::to_string).collect(),
        generation: *generation,
    };
    let unusable = |what: &str, cause: String| HookError::File(hook.clone(), what.to_owned(), cause);
    let json = serde_json::to_vec(&body).map_err(|e| unusable("the message", e.to_string()))?;
    let authority = config.url.0.authority().map(ToString::to_string).unwrap_or_default();
    let path = config.url.0.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::post(path)
        .header(header::HOST, authority)
        .header(header::CONTENT_TYPE, "application/json")
        .header("Idempotency-Key", format!("{run}/{step}"));
    if let Some(file) = &config.bearer_file {
        let path = file.display().to_string();
        let token = std::fs::read_to_string(file).map_err(|e| unusable(&path, e.to_string()))?;
        // What a parser says about it might quote it.
        let mut value = header::HeaderValue::from_str(&format!("Bearer {}", token.trim()))
            .map_err(|_| unusable(&path, "it is no token".to_owned()))?;
        value.set_sensitive(true);
        request = request.header(header::AUTHORIZATION, value);
    }
    request.body(Full::new(Bytes::from(json))).map_err(|e| unusable("the message", e.to_string()))
}

fn tls(name: &TrafficHookName, config: &HookConfig) -> Result<Option<TlsConnector>, HookError> {
    let Some(file) = &config.ca_file else { return Ok(None) };
    let unusable = |cause: String| HookError::File(name.clone(), file.display().to_string(), cause);
    let mut roots = RootCertStore::empty();
    let found = CertificateDer::pem_file_iter(file).map_err(|e| unusable(e.to_string()))?;
    for root in found {
        roots.add(root.map_err(|e| unusable(e.to_string()))?).map_err(|e| unusable(e.to_string()))?;
    }
    let client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| unusable(e.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Some(TlsConnector::from(Arc::new(client))))
}

async fn exchange(
    config: &HookConfig,
    tls: Option<TlsConnector>,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<StatusCode> {
    let stream = TcpStream::connect((config.url.host(), config.url.port())).await?;
    match tls {
        None => answered(stream, request).await,
        Some(connector) => {
            let host = ServerName::try_from(config.url.host().to_owned())?;
            answered(connector.connect(host, stream).await?, request).await
        }
    }
}

async fn answered(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<StatusCode> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::pin!(connection);
    let response = sender.send_request(request);
    tokio::pin!(response);
    // The connection carries the request and ends with this: nothing of it is left behind.
    tokio::select! {
        response = &mut response => Ok(response?.status()),
        // What comes behind an answer, or instead of one, the response knows.
        _ = &mut connection => Ok(response.await?.status()),
    }
}
