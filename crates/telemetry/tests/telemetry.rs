//! What a process tells about itself (R-OPS-3). Only one of these tests gets as far as setting up the process.

use std::time::{Duration, Instant};

use understudy_telemetry::{Config, LogFormat, init};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_bad_filter_is_told_and_nothing_is_set_up() {
    let bad = Config { log_filter: "understudy=loud".into(), ..Config::default() };
    let error = init("test", &bad).err().expect("a bad filter is refused").to_string();
    assert!(error.contains("understudy=loud"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn metrics_render_as_text_and_a_silent_collector_does_not_hold_up_the_end() {
    // Accepts connections and never answers: the worst a collector can do.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = Config {
        log_format: LogFormat::Text,
        log_filter: "info".into(),
        otlp_endpoint: Some(format!("http://{}", silent.local_addr().unwrap())),
    };
    let guard = init("test", &config).unwrap();
    metrics::counter!("understudy_test_total", "kind" => "x").increment(3);
    metrics::histogram!("understudy_test_seconds").record(0.2);
    let page = guard.metrics().render();
    assert!(page.contains("understudy_test_total{kind=\"x\"} 3"), "{page}");
    assert!(page.contains("understudy_test_seconds_bucket{le=\"0.25\"} 1"), "{page}");
    for n in 0..100 {
        tracing::info_span!("work", n).in_scope(|| ());
    }
    let begin = Instant::now();
    guard.shutdown().await;
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
}
