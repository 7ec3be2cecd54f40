//! What a process tells about itself: logs, traces, metrics (R-OPS-3).
//!
//! ```text
//!   tracing ─┬─▶ stderr, one JSON object or one line of text per event
//!            └─▶ OTLP over gRPC, when an endpoint is set; sent in batches by a thread of its own
//!   metrics ───▶ Prometheus text, rendered on demand: Metrics::render
//! ```
//!
//! Telemetry never stands in the way: a collector that is away costs lost spans, not time, and shutting down waits a bounded time for
//! the last batch.

pub mod fields;

use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{Resource, propagation::TraceContextPropagator, trace::SdkTracerProvider};
use serde::{Deserialize, Serialize};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::ParseError,
    layer::SubscriberExt,
    util::{SubscriberInitExt, TryInitError},
};

/// Spans that cannot be sent in this time when the process ends are lost.
const FLUSH: Duration = Duration::from_secs(2);
/// How long one batch may take to reach the collector.
const EXPORT: Duration = Duration::from_secs(5);
/// The recorder moves samples into their buckets this often, so that memory stays bounded when nobody asks for the metrics.
const UPKEEP: Duration = Duration::from_secs(5);
/// Upper bounds in seconds for every metric that ends in `_seconds`: from a local call to a full copy.
const SECONDS: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0, 300.0, 3600.0];

/// How log events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Json,
    Text,
}

/// The `[telemetry]` section of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub log_format: LogFormat,
    /// Directives of tracing's `EnvFilter`, such as `info,understudy_rpc=debug`.
    pub log_filter: String,
    /// `http://collector:4317`; no traces leave the process without it.
    pub otlp_endpoint: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self { log_format: LogFormat::Json, log_filter: "info".into(), otlp_endpoint: None }
    }
}

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error(
        "the log filter {filter:?} is not valid: {cause}. Write directives such as info,understudy_rpc=debug"
    )]
    Filter { filter: String, cause: ParseError },
    #[error("traces cannot be sent to {endpoint:?}: {cause}. Write http://collector:4317")]
    Exporter { endpoint: String, cause: ExporterBuildError },
    #[error("metrics cannot be set up: {0}")]
    Metrics(#[from] BuildError),
    #[error("this process has set up its logging before: {0}")]
    Twice(#[from] TryInitError),
}

/// Renders the metrics of this process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// All metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        self.0.render()
    }
}

/// Keeps telemetry going. Shut it down last.
pub struct Guard {
    metrics: Metrics,
    provider: Option<SdkTracerProvider>,
    upkeep: tokio::task::JoinHandle<()>,
}

/// Sets up logs, traces and metrics for the whole process. Once per process, inside a tokio runtime.
pub fn init(service_name: &'static str, config: &Config) -> Result<Guard, TelemetryError> {
    // Whatever can be wrong with the configuration comes before what is set up once.
    let logs = log_layer(config)?;
    let provider =
        config.otlp_endpoint.as_deref().map(|url| tracer_provider(service_name, url)).transpose()?;
    let metrics = Metrics(
        PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
            .install_recorder()?,
    );
    let traces = provider.as_ref().map(|provider| {
        // Spans of the libraries that carry the traces would be traced in turn, for ever.
        let quiet = EnvFilter::new("info,h2=off,hyper=off,tonic=off,tower=off,opentelemetry=off");
        tracing_opentelemetry::layer().with_tracer(provider.tracer(service_name)).with_filter(quiet)
    });
    // Other libraries that talk over HTTP find the W3C format here; our own calls carry it in any case.
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    tracing_subscriber::registry().with(traces).with(logs).try_init()?;
    Ok(Guard { upkeep: tokio::spawn(keep_up(metrics.0.clone())), metrics, provider })
}

async fn keep_up(handle: PrometheusHandle) {
    let mut tick = tokio::time::interval(UPKEEP);
    loop {
        tick.tick().await;
        handle.run_upkeep();
    }
}

type LogLayer<S> = Box<dyn Layer<S> + Send + Sync>;

fn log_layer<S>(config: &Config) -> Result<LogLayer<S>, TelemetryError>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let filter = EnvFilter::try_new(&config.log_filter)
        .map_err(|cause| TelemetryError::Filter { filter: config.log_filter.clone(), cause })?;
    let base = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    Ok(match config.log_format {
        LogFormat::Json => base.json().flatten_event(true).with_filter(filter).boxed(),
        LogFormat::Text => base.with_ansi(false).with_filter(filter).boxed(),
    })
}

fn tracer_provider(service_name: &'static str, endpoint: &str) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(EXPORT)
        .build()
        .map_err(|cause| TelemetryError::Exporter { endpoint: endpoint.to_owned(), cause })?;
    let resource = Resource::builder().with_service_name(service_name).build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

impl Guard {
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// Sends what is left, for two seconds at most.
    pub async fn shutdown(self) {
        self.upkeep.abort();
        let Some(provider) = self.provider else { return };
        // The provider waits by blocking, and the exporter needs this runtime meanwhile.
        let flushed = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH)).await;
        if let Ok(Err(error)) = flushed {
            tracing::warn!(%error, "the last traces could not be sent");
        }
    }
}
