//! Reading a peer's certificate: who it speaks for and until when.

use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::identity::{Identity, InvalidIdentity};

/// The two facts of a certificate that matter after its signature has been verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    pub identity: Identity,
    /// The last moment at which the certificate may be used. A TLS connection outlives its certificate, so this is compared
    /// with the clock at every request, not only when the connection is made.
    pub not_after: OffsetDateTime,
}

/// Why a certificate speaks for nobody.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    #[error("the certificate is not valid X.509: {0}")]
    Malformed(String),
    #[error(
        "the certificate carries {found} URI names; exactly one is needed: issue it with `understudy pki issue`"
    )]
    NotOneUri { found: usize },
    #[error("the certificate's URI is unknown: {0}")]
    Identity(#[from] InvalidIdentity),
}

impl Credential {
    /// Reads a DER certificate. It verifies nothing: the caller has checked the chain, or is about to.
    pub fn read(der: &[u8]) -> Result<Self, CredentialError> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|e| CredentialError::Malformed(e.to_string()))?;
        if !rest.is_empty() {
            return Err(CredentialError::Malformed("trailing bytes".into()));
        }
        let identity = the_only_uri(&certificate)?.parse()?;
        Ok(Self { identity, not_after: certificate.validity().not_after.to_datetime() })
    }
}

/// More than one URI would let a certificate speak for two, and which one wins would depend on the reader.
fn the_only_uri<'a>(certificate: &'a X509Certificate<'_>) -> Result<&'a str, CredentialError> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|e| CredentialError::Malformed(e.to_string()))?
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    let uris: Vec<&str> = names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    match uris.as_slice() {
        [uri] => Ok(uri),
        several => Err(CredentialError::NotOneUri { found: several.len() }),
    }
}
