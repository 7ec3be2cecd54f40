//! What an operator sees of a server, and how it ends.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use understudy_rpc::{
    AccessRule, ClientConfig, ExpectedPeer, Kind, Profile, ServeError, Server, ServerConfig, ServiceKind,
    TlsFiles, access, connect,
};

use crate::lab::{CHECK, Ca, Probe, RULES, Running, call, descriptors, watch};

/// `GET /metrics` over TLS with a client certificate, as Prometheus does it.
async fn metrics(server: &Running, tls: &TlsFiles) -> String {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&tls.ca).unwrap()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(crate::certificates::trusting())
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_file(&tls.certificate).unwrap()],
            PrivateKeyDer::from_pem_file(&tls.key).unwrap(),
        )
        .unwrap();
    let tcp = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let mut stream = connector.connect(ServerName::try_from("x").unwrap(), tcp).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn metrics_are_served_on_the_same_port_and_count_calls_by_their_code() {
    let ca = Ca::new();
    let server = Running::start(&ca, |_| {}).await;
    let tls = ca.issue("user/prometheus");
    let channel = server.channel(tls.clone());
    call(&channel, CHECK, "refuse").await.unwrap_err();
    call(&channel, "/understudy.test.v1.Probe/Nonsense", "").await.unwrap_err();
    let page = metrics(&server, &tls).await;
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    let has = |parts: &[&str]| page.lines().any(|line| parts.iter().all(|part| line.contains(part)));
    assert!(
        has(&[
            "understudy_rpc_requests_total",
            "service=\"understudy.test.v1.Probe\"",
            "method=\"Check\"",
            "code=\"FAILED_PRECONDITION\"",
        ]),
        "{page}"
    );
    assert!(has(&["understudy_rpc_requests_in_flight", "method=\"Check\""]), "{page}");
    assert!(has(&["understudy_rpc_request_duration_seconds", "method=\"Check\""]), "{page}");
    assert!(
        has(&["understudy_rpc_requests_total", "method=\"unknown\"", "code=\"UNIMPLEMENTED\""]),
        "{page}"
    );
    assert!(!page.contains("Nonsense"), "a caller can fill the metrics with names");
}

#[tokio::test]
async fn health_says_serving_and_what_the_service_tells_it() {
    let ca = Ca::new();
    let server = Running::start(&ca, |_| {}).await;
    let mut client = HealthClient::new(server.channel(ca.issue("user/ops")));
    let mut check = async |service: &str| {
        let request = HealthCheckRequest { service: service.to_owned() };
        client.check(request).await.unwrap().into_inner().status
    };
    assert_eq!(check("").await, 1);
    assert_eq!(check("understudy.test.v1.Probe").await, 1);
    server.health.set("understudy.test.v1.Probe", false).await;
    assert_eq!(check("understudy.test.v1.Probe").await, 2);
    assert_eq!(check("").await, 1);
}

#[tokio::test]
async fn reflection_lists_the_services() {
    let ca = Ca::new();
    let server = Running::start(&ca, |_| {}).await;
    let mut client = ServerReflectionClient::new(server.channel(ca.issue("user/ops")));
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers =
        client.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
    let answer = answers.next().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
    let names: Vec<String> = list.service.into_iter().map(|s| s.name).collect();
    for name in ["understudy.test.v1.Probe", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|n| n == name), "{name} in {names:?}");
    }
}

#[tokio::test]
async fn a_stream_that_does_not_end_does_not_hold_up_the_shutdown() {
    let ca = Ca::new();
    let mut server = Running::start(&ca, |config| config.shutdown_grace_s = 1).await;
    let mut stream = watch(&server.channel(ca.issue("user/ops")), "").await.unwrap();
    let begin = Instant::now();
    server.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(10), &mut server.task).await.expect("ends in time").unwrap();
    let took = begin.elapsed();
    assert!((Duration::from_millis(900)..Duration::from_secs(3)).contains(&took), "{took:?}");
    let error = understudy_rpc::ApiError::from(stream.message().await.unwrap_err());
    assert_eq!(error.kind, Kind::Unavailable, "{error}");
}

#[tokio::test]
async fn an_idle_server_ends_at_once_and_frees_its_port() {
    let ca = Ca::new();
    let mut server = Running::start(&ca, |_| {}).await;
    let channel = server.channel(ca.issue("user/ops"));
    call(&channel, CHECK, "").await.unwrap();
    let begin = Instant::now();
    server.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(10), &mut server.task).await.expect("ends in time").unwrap();
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    tokio::net::TcpListener::bind(server.address).await.expect("the port is free");
}

#[tokio::test]
async fn a_connection_ends_at_its_age_and_calls_go_on() {
    let ca = Ca::new();
    let server = Running::start(&ca, |config| config.connection_age_s = 1).await;
    let channel = server.channel(ca.issue("user/ops"));
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(2500) {
        call(&channel, CHECK, "").await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_bulk_connection_carries_calls_too() {
    let ca = Ca::new();
    let server = Running::start(&ca, |config| config.profile = Profile::Bulk).await;
    let expect = ExpectedPeer::Service(ServiceKind::JobTracker);
    let endpoint = format!("https://{}", server.address);
    let config = ClientConfig::new(endpoint, ca.issue("agent/alpha/alpha-h1"), expect, descriptors());
    call(&connect(config.profile(Profile::Bulk)).unwrap(), CHECK, "").await.unwrap();
}

#[tokio::test]
async fn peers_that_never_finish_their_handshake_do_not_keep_others_out() {
    let ca = Ca::new();
    let server = Running::start(&ca, |_| {}).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(tokio::net::TcpStream::connect(server.address).await.unwrap());
    }
    call(&server.channel(ca.issue("user/ops")), CHECK, "").await.unwrap();
}

#[tokio::test]
async fn a_server_with_a_gap_in_its_access_table_does_not_start() {
    let ca = Ca::new();
    let serve = async |rules: &[AccessRule], with_descriptors: bool| {
        let config = ServerConfig::new("127.0.0.1:0".parse().unwrap(), ca.issue("service/job-tracker"));
        let mut server =
            Server::bind(config).await.unwrap().add_service(Probe::new(Default::default()), rules);
        if with_descriptors {
            server = server.descriptors(descriptors());
        }
        let stop = CancellationToken::new();
        stop.cancel();
        server.serve(stop).await
    };
    serve(RULES, true).await.unwrap();
    let error = serve(&RULES[1..], true).await.unwrap_err();
    assert!(matches!(&error, ServeError::Access(gaps) if gaps.len() == 1), "{error}");
    assert!(error.to_string().contains(CHECK), "{error}");
    let error = serve(RULES, false).await.unwrap_err();
    assert!(matches!(error, ServeError::Access(_)), "{error}");
    let gaps = access::methods_without_rule(descriptors(), &["understudy.test.v1.Probe"], RULES).unwrap();
    assert_eq!(gaps, Vec::<String>::new());
}
