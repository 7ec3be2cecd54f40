//! Who gets in, and who does not.

use std::time::Duration;

use time::OffsetDateTime;
use understudy_rpc::{ExpectedPeer, Kind, ServiceKind};

use crate::lab::{CHECK, Ca, RESTRICTED, Running, call};

#[tokio::test]
async fn a_peer_is_known_by_its_certificate() {
    let ca = Ca::new();
    let server = Running::start(&ca, |_| {}).await;
    for who in ["user/ops", "agent/alpha/alpha-h1", "service/orchestrator"] {
        let error = call(&server.channel(ca.issue(who)), CHECK, "who").await.unwrap_err();
        assert_eq!(error.message, format!("spiffe://understudy/{who}"));
    }
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused_by_both_sides() {
    let (ours, theirs) = (Ca::new(), Ca::new());
    let server = Running::start(&ours, |_| {}).await;

    // The client does not trust the server's authority.
    let error = call(&server.channel(theirs.issue("user/ops")), CHECK, "").await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable, "{error}");
    assert!(error.message.contains("invalid peer certificate"), "{error}");

    // The client trusts it, but shows a certificate of its own authority: the server refuses.
    let mut tls = theirs.issue("user/ops");
    tls.ca = ours.issue("user/ops").ca;
    let error = call(&server.channel(tls), CHECK, "").await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable, "{error}");
}

#[tokio::test]
async fn without_a_certificate_there_is_no_answer() {
    let ca = Ca::new();
    let server = Running::start(&ca, |_| {}).await;
    let mut roots = rustls::RootCertStore::empty();
    use rustls::pki_types::pem::PemObject;
    for root in rustls::pki_types::CertificateDer::pem_file_iter(ca.path().join("ca.pem")).unwrap() {
        roots.add(root.unwrap()).unwrap();
    }
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let anonymous = |versions: &[&'static rustls::SupportedProtocolVersion]| {
        rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(crate::certificates::trusting())
            .with_no_client_auth()
    };
    let failure = |config: rustls::ClientConfig| async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let tcp = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("understudy").unwrap();
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
        // In TLS 1.3 the client believes itself connected before the server has looked at its certificate.
        let mut tls = connector.connect(name, tcp).await?;
        tls.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await?;
        let mut answer = Vec::new();
        tls.read_to_end(&mut answer).await.map(|_| answer)
    };
    let error = failure(anonymous(&[&rustls::version::TLS13])).await.unwrap_err();
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
    let error = failure(anonymous(&[&rustls::version::TLS12])).await.unwrap_err();
    assert!(error.to_string().contains("ProtocolVersion"), "{error}");
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let ca = Ca::new();
    let server = Running::start(&ca, |_| {}).await;
    let past = OffsetDateTime::now_utc() - Duration::from_secs(60);
    let error = call(&server.channel(ca.issue_until("user/ops", past)), CHECK, "").await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable, "{error}");
}

#[tokio::test]
async fn a_certificate_that_ends_while_the_connection_lives_is_refused_at_the_next_call() {
    let ca = Ca::new();
    let server = Running::start(&ca, |_| {}).await;
    let soon = OffsetDateTime::now_utc() + Duration::from_secs(3);
    let channel = server.channel(ca.issue_until("user/ops", soon));
    call(&channel, CHECK, "").await.unwrap();
    let error = loop {
        match call(&channel, CHECK, "").await {
            Ok(()) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(error) => break error,
        }
    };
    assert!(OffsetDateTime::now_utc() >= soon - Duration::from_secs(1), "refused too early: {error}");
    // Either the call was refused, or the connection was ended and the next handshake was.
    assert!(matches!(error.kind, Kind::Unauthenticated | Kind::Unavailable), "{error}");
}

#[tokio::test]
async fn a_client_talks_only_to_whom_it_expects() {
    let ca = Ca::new();
    let server = Running::start(&ca, |_| {}).await;
    let tls = ca.issue("user/ops");
    for wrong in [
        ExpectedPeer::Service(ServiceKind::Orchestrator),
        ExpectedPeer::AnyAgent,
        ExpectedPeer::Exactly("spiffe://understudy/user/ops".parse().unwrap()),
    ] {
        let error = call(&server.channel_to(tls.clone(), wrong), CHECK, "").await.unwrap_err();
        assert_eq!(error.kind, Kind::Unavailable);
        assert!(error.message.contains("spiffe://understudy/service/job-tracker"), "{error}");
    }
    call(&server.channel(tls), CHECK, "").await.unwrap();
}

#[tokio::test]
async fn a_method_is_open_to_those_its_rule_names() {
    let ca = Ca::new();
    let server = Running::start(&ca, |_| {}).await;
    call(&server.channel(ca.issue("service/orchestrator")), RESTRICTED, "").await.unwrap();
    for who in ["user/ops", "agent/alpha/alpha-h1", "service/network-mapper"] {
        let error = call(&server.channel(ca.issue(who)), RESTRICTED, "").await.unwrap_err();
        assert_eq!((error.kind, &*error.reason), (Kind::PermissionDenied, "PEER_NOT_ALLOWED"));
        assert!(error.message.contains(who) && error.remedy.contains("orchestrator"), "{error}");
    }
    let ops = server.channel(ca.issue("user/ops"));
    let error = call(&ops, "/understudy.test.v1.Probe/Missing", "").await.unwrap_err();
    assert_eq!(&*error.reason, "UNKNOWN_METHOD");
}

#[tokio::test]
async fn a_renewed_certificate_is_used_without_a_restart() {
    let ca = Ca::new();
    // The server starts with a certificate that speaks for somebody else; the renewal brings the right one.
    let tls = ca.issue("service/orchestrator");
    let server = Running::start_with(tls.clone(), |_| {}).await;
    let user = ca.issue("user/ops");
    assert!(call(&server.channel(user.clone()), CHECK, "").await.is_err());

    // A key alone does not fit the old certificate: the server goes on with what it has.
    let right = ca.issue("service/job-tracker");
    std::fs::copy(&right.key, &tls.key).unwrap();
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let old = server.channel_to(user.clone(), ExpectedPeer::Service(ServiceKind::Orchestrator));
    call(&old, CHECK, "").await.unwrap();

    std::fs::copy(&right.certificate, &tls.certificate).unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while let Err(error) = call(&server.channel(user.clone()), CHECK, "").await {
        assert!(tokio::time::Instant::now() < deadline, "not picked up: {error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Accepts every server: these clients are the attackers.
pub fn trusting() -> std::sync::Arc<dyn rustls::client::danger::ServerCertVerifier> {
    use rustls::{
        DigitallySignedStruct, Error, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        pki_types::{CertificateDer, ServerName, UnixTime},
    };
    #[derive(Debug)]
    struct Trusting;
    impl ServerCertVerifier for Trusting {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ED25519]
        }
    }
    std::sync::Arc::new(Trusting)
}
