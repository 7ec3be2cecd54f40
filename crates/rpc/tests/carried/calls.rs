//! What ends a call, and what its caller learns.

use std::time::{Duration, Instant};

use understudy_rpc::Kind;

use crate::lab::{CHECK, Ca, Running, call, call_within, refusal, watch, watch_within};

#[tokio::test]
async fn a_refusal_arrives_with_all_problems_and_remedies() {
    let ca = Ca::new();
    let server = Running::start(&ca, |_| {}).await;
    let error = call(&server.channel(ca.issue("user/ops")), CHECK, "refuse").await.unwrap_err();
    assert_eq!(error, refusal());
}

#[tokio::test]
async fn a_unary_call_ends_at_the_servers_deadline_whatever_its_caller_allows() {
    let ca = Ca::new();
    let server = Running::start(&ca, |config| config.unary_deadline_s = 1).await;
    let channel = server.channel(ca.issue("user/ops"));
    let begin = Instant::now();
    let error = call_within(&channel, CHECK, "hang", Some(Duration::from_secs(60))).await.unwrap_err();
    assert_eq!(error.kind, Kind::DeadlineExceeded, "{error}");
    assert!(error.outcome_unknown());
    assert!((1..5).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_unary_call_ends_at_its_callers_deadline() {
    let ca = Ca::new();
    let server = Running::start(&ca, |_| {}).await;
    let channel = server.channel(ca.issue("user/ops"));
    let begin = Instant::now();
    let error = call_within(&channel, CHECK, "hang", Some(Duration::from_millis(200))).await.unwrap_err();
    assert_eq!(error.kind, Kind::DeadlineExceeded, "{error}");
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_stream_has_no_default_deadline() {
    let ca = Ca::new();
    let server = Running::start(&ca, |config| config.unary_deadline_s = 1).await;
    let mut stream = watch(&server.channel(ca.issue("user/ops")), "").await.unwrap();
    let next = tokio::time::timeout(Duration::from_secs(2), stream.message()).await;
    assert!(next.is_err(), "the stream ended: {next:?}");
}

#[tokio::test]
async fn a_deadline_that_a_caller_gives_a_stream_holds() {
    let ca = Ca::new();
    let server = Running::start(&ca, |_| {}).await;
    let channel = server.channel(ca.issue("user/ops"));
    let mut stream = watch_within(&channel, "", Some(Duration::from_millis(300))).await.unwrap();
    let next = tokio::time::timeout(Duration::from_secs(5), stream.message()).await.expect("the stream ends");
    let error = understudy_rpc::ApiError::from(next.unwrap_err());
    assert_eq!((error.kind, &*error.reason), (Kind::DeadlineExceeded, "DEADLINE_EXCEEDED"), "{error}");
}

#[tokio::test]
async fn a_panic_is_an_internal_error_that_tells_nothing_and_ends_nobody_else() {
    let ca = Ca::new();
    let server = Running::start(&ca, |_| {}).await;
    let channel = server.channel(ca.issue("user/ops"));
    let mut stream = watch(&channel, "panic").await.unwrap();
    for error in [
        call(&channel, CHECK, "panic").await.unwrap_err(),
        understudy_rpc::ApiError::from(stream.message().await.unwrap_err()),
    ] {
        assert_eq!((error.kind, &*error.reason), (Kind::Internal, "INTERNAL"), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    call(&channel, CHECK, "").await.unwrap();
}

#[tokio::test]
async fn more_calls_than_allowed_are_told_to_come_back() {
    let ca = Ca::new();
    let server = Running::start(&ca, |config| config.max_requests = 1).await;
    let channel = server.channel(ca.issue("user/ops"));
    let busy = tokio::spawn({
        let channel = channel.clone();
        async move { call(&channel, CHECK, "hang").await }
    });
    server.reached.notified().await;
    let error = call(&channel, CHECK, "").await.unwrap_err();
    assert_eq!((error.kind, &*error.reason), (Kind::ResourceExhausted, "TOO_MANY_CALLS"));
    assert!(understudy_rpc::retry::retryable(&error));
    // A caller that goes away gives its place back.
    busy.abort();
    let deadline = Instant::now() + Duration::from_secs(5);
    while call(&channel, CHECK, "").await.is_err() {
        assert!(Instant::now() < deadline, "the place was not given back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_peer_that_is_away_is_unavailable_and_used_again_when_it_is_back() {
    let ca = Ca::new();
    let server = Running::start(&ca, |_| {}).await;
    let channel = server.channel(ca.issue("user/ops"));
    call(&channel, CHECK, "").await.unwrap();
    let address = server.address;
    server.shutdown.cancel();
    drop(server);
    let error = loop {
        match call(&channel, CHECK, "").await {
            Ok(()) => tokio::time::sleep(Duration::from_millis(10)).await,
            Err(error) => break error,
        }
    };
    assert_eq!((error.kind, &*error.reason), (Kind::Unavailable, "PEER_UNREACHABLE"), "{error}");
    let _again = Running::start(&ca, |config| config.listen = address).await;
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(error) = call(&channel, CHECK, "").await {
        assert!(Instant::now() < deadline, "the channel did not recover: {error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn one_trace_covers_caller_and_handler() {
    use opentelemetry::trace::TracerProvider;
    use tracing::Instrument;
    use tracing_subscriber::{layer::SubscriberExt, util::SubscriberInitExt};
    let provider = opentelemetry_sdk::trace::SdkTracerProvider::builder().build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    // Another test of this process may have set it, with the same layer.
    let _ = tracing_subscriber::registry().with(layer).try_init();
    let ca = Ca::new();
    let server = Running::start(&ca, |_| {}).await;
    let channel = server.channel(ca.issue("user/ops"));
    let span = tracing::info_span!("caller");
    let mine = understudy_rpc::trace::of(&span).unwrap();
    let error = call(&channel, CHECK, "trace").instrument(span).await.unwrap_err();
    assert_eq!(error.message.len(), 55, "{error}");
    assert_eq!(error.message[3..35], mine[3..35], "another trace");
    assert_ne!(error.message[36..52], mine[36..52], "the handler has no span of its own");
}
