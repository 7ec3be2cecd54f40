//! Certificates from files to rustls, kept up to date.
//!
//! ```text
//!   new connection ─▶ Credentials::current() ─▶ looked at the files in the last 2 s? ─ yes ─▶ what we have
//!                                                        │ no: size, mtime or inode changed?
//!                                                        └─▶ read all three again; on error keep what we have and say so
//! ```
//!
//! TLS 1.3 only, certificates on both sides, no session resumption: a resumed session would skip the check of a certificate that has
//! expired meanwhile.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier},
};
use serde::{Deserialize, Serialize};
use understudy_pki::Credential;

use crate::expected::ExpectedPeer;

/// Files are looked at no more often than this, however many connections are made.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Where a process finds its own certificate and the authority that it trusts. All PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {}: {cause}. Issue certificates with `understudy pki issue`", .path.display())]
    File { path: PathBuf, cause: io::Error },
    #[error("{} holds no usable {what}: {cause}", .path.display())]
    Content { what: &'static str, path: PathBuf, cause: String },
    #[error("the certificate {} cannot be used: {cause}", .path.display())]
    Unusable { path: PathBuf, cause: String },
}

/// What the three files held when they were last read without error.
struct Material {
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    server: Arc<ServerConfig>,
}

type Stamp = [(u64, u64, i64, i64); 3];

/// The certificates of this process.
pub struct Credentials {
    files: TlsFiles,
    provider: Arc<CryptoProvider>,
    material: ArcSwap<Material>,
    looked: Mutex<(Instant, Stamp)>,
}

impl Credentials {
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        // The stamp is taken before the files are read: a change in between is seen at the next look, not missed.
        let stamp = stamp(&files)?;
        let material = ArcSwap::from_pointee(Material::read(&files, &provider)?);
        Ok(Self { files, provider, material, looked: Mutex::new((Instant::now(), stamp)) })
    }

    pub fn server(&self) -> Arc<ServerConfig> {
        self.current().server.clone()
    }

    /// A client configuration that accepts only `expect`.
    pub fn client(&self, expect: ExpectedPeer) -> Result<Arc<ClientConfig>, TlsError> {
        let material = self.current();
        let verifier =
            PeerVerifier { roots: material.roots.clone(), provider: self.provider.clone(), expect };
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| unusable(&self.files, &e))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(material.chain.clone(), material.key.clone_key())
            .map_err(|e| unusable(&self.files, &e))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// Three small files are read in place, at most every two seconds: cheaper than handing them to another thread.
    fn current(&self) -> Arc<Material> {
        if let Err(error) = self.look() {
            tracing::warn!(%error, "keeping the certificates that were read before");
        }
        self.material.load_full()
    }

    fn look(&self) -> Result<(), TlsError> {
        // Somebody else is looking already: what there is will do.
        let Ok(mut looked) = self.looked.try_lock() else { return Ok(()) };
        if looked.0.elapsed() < LOOK_AGAIN {
            return Ok(());
        }
        looked.0 = Instant::now();
        let stamp = stamp(&self.files)?;
        if stamp != looked.1 {
            self.material.store(Arc::new(Material::read(&self.files, &self.provider)?));
            looked.1 = stamp;
            tracing::info!(certificate = %self.files.certificate.display(), "certificates read again");
        }
        Ok(())
    }
}

fn stamp(files: &TlsFiles) -> Result<Stamp, TlsError> {
    let of = |path: &Path| {
        let data = fs::metadata(path).map_err(|cause| TlsError::File { path: path.to_owned(), cause })?;
        Ok((data.ino(), data.size(), data.mtime(), data.mtime_nsec()))
    };
    Ok([of(&files.ca)?, of(&files.certificate)?, of(&files.key)?])
}

impl Material {
    fn read(files: &TlsFiles, provider: &Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for root in certificates(&files.ca)? {
            roots.add(root).map_err(|e| content("authority certificate", &files.ca, &e))?;
        }
        let roots = Arc::new(roots);
        let chain = certificates(&files.certificate)?;
        Credential::read(&chain[0]).map_err(|e| content("certificate", &files.certificate, &e))?;
        let key = PrivateKeyDer::from_pem_slice(&bytes(&files.key)?)
            .map_err(|e| content("private key", &files.key, &e))?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|e| content("authority certificate", &files.ca, &e))?;
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| unusable(files, &e))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(|e| unusable(files, &e))?;
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Self { roots, chain, key, server: Arc::new(server) })
    }
}

fn bytes(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|cause| TlsError::File { path: path.to_owned(), cause })
}

/// At least one certificate.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(&bytes(path)?)
        .collect::<Result<_, _>>()
        .map_err(|e| content("certificate", path, &e))?;
    if found.is_empty() {
        return Err(content("certificate", path, &"there is none in it"));
    }
    Ok(found)
}

fn content(what: &'static str, path: &Path, cause: &dyn std::fmt::Display) -> TlsError {
    TlsError::Content { what, path: path.to_owned(), cause: cause.to_string() }
}

fn unusable(files: &TlsFiles, cause: &dyn std::fmt::Display) -> TlsError {
    TlsError::Unusable { path: files.certificate.clone(), cause: cause.to_string() }
}

/// Verifies that a server's certificate was signed by our authority, is valid now, and speaks for whom we expect. The name that was
/// dialled is not looked at: addresses change, identities do not.
#[derive(Debug)]
struct PeerVerifier {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    expect: ExpectedPeer,
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        let credential = Credential::read(end_entity).map_err(|e| rustls::Error::General(e.to_string()))?;
        if self.expect.accepts(&credential.identity) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(CertificateError::Other(rustls::OtherError(Arc::new(WrongPeer {
            expected: self.expect.to_string(),
            found: credential.identity.to_string(),
        })))
        .into())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[derive(Debug, thiserror::Error)]
#[error(
    "the server is {found}, but {expected} was expected: check the address, or which certificate the server uses"
)]
struct WrongPeer {
    expected: String,
    found: String,
}
