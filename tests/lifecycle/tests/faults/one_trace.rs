//! One trace covers a whole run, across all services (R-OPS-3).
//!
//! ```text
//!   StartRun ─▶ orchestrator ─▶ task row ─▶ agent, network-mapper ─▶ job-tracker     every span ─▶ collector, in the lab's control site
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status, transport::Server};
use understudy_lab::{
    HostName, ManagedProcess, Service, Stack,
    machine::Machine,
    probe::wait_until,
    story::evidence::{array, text},
};
use understudy_lifecycle_tests::{
    Scene,
    evidence::{FIVE_SECONDS, protect, run_is, start_run},
};

/// In the control plane's network, which the agents reach as well.
const COLLECTOR: &str = "10.77.2.10:4317";
/// Spans leave their process in batches, every five seconds.
const LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(15);

#[test]
fn one_trace_covers_a_test_failover_across_all_services() {
    let machines = [Machine::reserved("web1", 1).unwrap()];
    let scene = Scene::set("onetrace", &machines).unwrap();
    let stack = &scene.stack;
    let collector = Collector::start(stack).unwrap();
    send_traces(stack).unwrap();
    protect(stack, "web1", FIVE_SECONDS).unwrap();

    let run = start_run(stack, "test", "web1", &[]).unwrap();
    run_is(stack, &run, "waiting").unwrap();
    stack.cli().json(&["run", "complete-test", &run, "--notes", "traced"]).unwrap();
    run_is(stack, &run, "succeeded").unwrap();

    let tasks = stack.cli().json(&["job", "tasks", &run]).unwrap();
    let wanted: BTreeSet<String> = array(&tasks).iter().map(|task| text(task, "task")).collect();
    assert!(wanted.len() > 5, "the run had {} tasks", wanted.len());
    let (spans, _) =
        wait_until("a trace with every task of the run", LIMIT, || collector.trace_with(&wanted).map(Some))
            .unwrap();
    println!("{wanted} tasks in one trace of {} spans", spans.len(), wanted = wanted.len());
    let services: BTreeSet<&str> = spans.iter().map(|span| span.service.as_str()).collect();
    for service in ["orchestrator", "job-tracker", "network-mapper", "replication-agent"] {
        assert!(services.contains(service), "{service} is not in the run's trace, only {services:?}");
    }
    let began = spans.iter().any(|span| span.service == "orchestrator" && span.name.ends_with("/StartRun"));
    assert!(began, "the trace does not begin with the operator's call");
}

/// Starts everything again with the collector's address in its environment.
fn send_traces(stack: &Stack) -> Result<()> {
    let services = Service::ALL.into_iter().map(|service| stack.service(service));
    let agents = HostName::FIRST.into_iter().map(|host| stack.agent(host));
    for process in services.chain(agents) {
        let process = process?;
        process.stop(STOP_LIMIT)?;
        let mut spec = process.spec().clone();
        let endpoint = format!("http://{COLLECTOR}");
        spec.env.insert("UNDERSTUDY_TELEMETRY__OTLP_ENDPOINT".to_owned(), endpoint);
        ManagedProcess::start(spec)?;
    }
    wait_until("both agents to be heard again", LIMIT, || {
        let hosts = stack.cli().json(&["host", "list"])?;
        Ok(array(&hosts).iter().all(|host| host["connected"] == true).then_some(()))
    })
    .map(drop)
}

#[derive(Debug, Clone)]
struct Span {
    service: String,
    name: String,
    /// Of a span about a task, its id.
    task: Option<String>,
}

/// What has been received, by trace.
type Traces = Arc<Mutex<BTreeMap<Vec<u8>, Vec<Span>>>>;

/// Receives what the services send, until it is dropped.
struct Collector {
    traces: Traces,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    fn start(stack: &Stack) -> Result<Self> {
        let (traces, (stop, stopped)) = (Traces::default(), oneshot::channel::<()>());
        let (receiver, control) = (Receiver(traces.clone()), stack.lab().control());
        let address: SocketAddr = COLLECTOR.parse()?;
        let thread = thread::spawn(move || {
            let served = control.enter(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let ended = async { drop(stopped.await) };
                let server = Server::builder().add_service(TraceServiceServer::new(receiver));
                runtime.block_on(server.serve_with_shutdown(address, ended)).context("the collector")
            });
            if let Err(error) = served.flatten() {
                eprintln!("{error:#}");
            }
        });
        Ok(Self { traces, stop: Some(stop), thread: Some(thread) })
    }

    /// The spans of the one trace in which all these tasks were done.
    fn trace_with(&self, tasks: &BTreeSet<String>) -> Result<Vec<Span>> {
        let traces = lock(&self.traces);
        let done = |spans: &[Span]| -> usize {
            let seen: BTreeSet<&String> = spans.iter().filter_map(|span| span.task.as_ref()).collect();
            tasks.iter().filter(|task| seen.contains(task)).count()
        };
        let best = traces.values().max_by_key(|spans| done(spans)).context("no trace has come")?;
        ensure!(done(best) == tasks.len(), "{} of {} tasks are in one trace", done(best), tasks.len());
        Ok(best.clone())
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Receiver(Traces);

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut traces = lock(&self.0);
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.map(|r| r.attributes).unwrap_or_default();
            let service = attribute(&attributes, "service.name").unwrap_or_default();
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                let task = attribute(&span.attributes, "task");
                let task = task.and_then(|name| name.rsplit('/').next().map(str::to_owned));
                let known = Span { service: service.clone(), name: span.name, task };
                traces.entry(span.trace_id).or_default().push(known);
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn attribute(attributes: &[opentelemetry_proto::tonic::common::v1::KeyValue], name: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == name)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}
