//! The certificate authority of one installation: two files in a directory.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;

use crate::{
    files::{self, Existing, PUBLIC, SECRET},
    identity::Identity,
};

const CA_CERTIFICATE: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Certificates are valid from a little before now, because the clocks of two sites never agree exactly.
const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

/// From when to when a certificate may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
}

impl Validity {
    /// Lifetime of an authority that `understudy pki init` makes.
    pub const AUTHORITY: Duration = DAY.saturating_mul(3650);
    /// Lifetime of a certificate unless the operator says otherwise.
    pub const DEFAULT: Duration = DAY.saturating_mul(365);

    /// From five minutes before `now` until `span` after it.
    pub fn starting(now: OffsetDateTime, span: Duration) -> Self {
        Self { not_before: now - CLOCK_SKEW, not_after: now + span }
    }
}

/// Why the authority could not be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error(
        "{} already holds a certificate authority; every certificate in use depends on it, so it is not overwritten. \
         Choose another directory, or move the old one away first", .0.display()
    )]
    AlreadyExists(PathBuf),
    #[error("cannot {action} {}: {cause}", .path.display())]
    File { action: &'static str, path: PathBuf, cause: io::Error },
    #[error("cannot use the authority in {}: {cause}. Restore its files from a backup", .directory.display())]
    Damaged { directory: PathBuf, cause: rcgen::Error },
    #[error("cannot make a certificate for {subject}: {cause}")]
    Issue { subject: String, cause: rcgen::Error },
}

/// A certificate that was just issued and its private key, both PEM.
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

/// The authority, loaded into memory.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new authority in `directory`, which is created when missing. Refuses when one is there already.
    pub fn create(directory: &Path, validity: Validity) -> Result<Self, AuthorityError> {
        fs::create_dir_all(directory).map_err(file_error("create", directory))?;
        let key_file = directory.join(CA_KEY);
        let certificate_file = directory.join(CA_CERTIFICATE);
        if key_file.exists() || certificate_file.exists() {
            return Err(AuthorityError::AlreadyExists(directory.to_owned()));
        }
        let subject = |cause| AuthorityError::Issue { subject: "the certificate authority".into(), cause };
        let key = KeyPair::generate().map_err(subject)?;
        let key_pem = key.serialize_pem();
        let made = CertifiedIssuer::self_signed(authority_params(validity), key).map_err(subject)?;
        // The key goes first and must not exist: of two that run at once, one fails here and nothing is mixed.
        files::write(&key_file, &key_pem, SECRET, Existing::Refuse).map_err(|cause| match cause.kind() {
            io::ErrorKind::AlreadyExists => AuthorityError::AlreadyExists(directory.to_owned()),
            _ => file_error("write", &key_file)(cause),
        })?;
        files::write(&certificate_file, &made.pem(), PUBLIC, Existing::Refuse)
            .map_err(file_error("write", &certificate_file))?;
        Self::load(directory)
    }

    /// Reads the authority in `directory`.
    pub fn load(directory: &Path) -> Result<Self, AuthorityError> {
        let read = |name: &str| {
            let path = directory.join(name);
            fs::read_to_string(&path).map_err(file_error("read", &path))
        };
        let damaged = |cause| AuthorityError::Damaged { directory: directory.to_owned(), cause };
        let certificate = read(CA_CERTIFICATE)?;
        let key = KeyPair::from_pem(&read(CA_KEY)?).map_err(damaged)?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key).map_err(damaged)?;
        Ok(Self { certificate, issuer })
    }

    /// The authority's certificate in PEM: what every process needs in order to trust the others.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Issues a certificate that speaks for `identity`, usable on both ends of a connection.
    pub fn issue(&self, identity: &Identity, validity: Validity) -> Result<Issued, AuthorityError> {
        let failed = |cause| AuthorityError::Issue { subject: identity.to_string(), cause };
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = leaf_params(identity, validity)
            .and_then(|params| params.signed_by(&key, &self.issuer))
            .map_err(failed)?;
        Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// Issues a certificate and writes `<name>.pem`, `<name>.key` (mode 0600) and `ca.pem` into `directory`. Files of an earlier
    /// issue are replaced, which is how a certificate is renewed: running services pick the new one up by themselves.
    pub fn issue_to(
        &self,
        identity: &Identity,
        validity: Validity,
        directory: &Path,
        name: &str,
    ) -> Result<(), AuthorityError> {
        let issued = self.issue(identity, validity)?;
        fs::create_dir_all(directory).map_err(file_error("create", directory))?;
        let write = |name: String, text: &str, mode| {
            let path = directory.join(name);
            files::write(&path, text, mode, Existing::Replace).map_err(file_error("write", &path))
        };
        // A reader that comes between the two sees a key that does not fit, keeps what it had and looks again.
        write(format!("{name}.key"), &issued.key, SECRET)?;
        write(format!("{name}.pem"), &issued.certificate, PUBLIC)?;
        write(CA_CERTIFICATE.to_owned(), &self.certificate, PUBLIC)
    }
}

fn file_error(action: &'static str, path: &Path) -> impl Fn(io::Error) -> AuthorityError {
    let path = path.to_owned();
    move |cause| AuthorityError::File { action, path: path.clone(), cause }
}

fn authority_params(validity: Validity) -> CertificateParams {
    let mut params = base_params("understudy certificate authority", validity);
    // No intermediate authorities: what is signed by this one is an end of a connection.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf_params(identity: &Identity, validity: Validity) -> Result<CertificateParams, rcgen::Error> {
    let uri = identity.to_string();
    let common_name = uri.rsplit('/').next().unwrap_or("understudy").to_owned();
    let mut params = base_params(&common_name, validity);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn base_params(common_name: &str, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = validity.not_before;
    params.not_after = validity.not_after;
    params.distinguished_name = DistinguishedName::new();
    // The common name is for people who look at a certificate; X.509 limits it to 64 characters.
    params.distinguished_name.push(DnType::CommonName, common_name.chars().take(64).collect::<String>());
    params
}
