//! Wrapping an item's secret for the holders of X.509 certificates, and unwrapping it with a private key.
//!
//! | certificate's key | how |
//! |---|---|
//! | RSA, 2048 to 8192 bits | `RSA-OAEP` with SHA-256 and MGF1-SHA-256: `openssl pkeyutl -decrypt` undoes it without us |
//! | EC on P-256 | ECDH with a fresh key, HKDF-SHA-256 over both public keys, AES-256 key wrap (RFC 3394) |
//!
//! The certificate says who the recipient is and until when; who signed it does not matter, because whoever may name recipients may name any.

use aws_lc_rs::{
    agreement,
    encoding::{AsDer, PublicKeyX509Der},
    hkdf::{HKDF_SHA256, Salt},
    key_wrap::{AES_256, AesKek, KeyWrap},
    rand::SystemRandom,
    rsa::{
        OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, OaepPublicEncryptingKey, PrivateDecryptingKey,
        PublicEncryptingKey,
    },
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use understudy_ids::UnixMicros;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use crate::{CryptoFailed, secret::ItemSecret};

/// More recipients than this are refused; each costs a target up to 2 KiB per point.
pub const MAX_RECIPIENTS: usize = 16;
/// The length of a certificate that is accepted, in bytes.
const MAX_CERTIFICATE: usize = 16 << 10;
const MAX_SUBJECT: usize = 256;
const VERSION: u32 = 1;

/// SHA-256 of a certificate, as `openssl x509 -fingerprint -sha256` shows it, in lower case without colons.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(String);

impl Fingerprint {
    fn of(bytes: &[u8]) -> Self {
        Self(hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes)))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Somebody who will be able to read the item's replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    pub subject: String,
    pub fingerprint: Fingerprint,
    /// When the certificate ends.
    pub not_after: UnixMicros,
    key: RecipientKey,
    /// SHA-256 of the public key, by which a private key finds its entry.
    key_id: Fingerprint,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum RecipientKey {
    /// SubjectPublicKeyInfo, DER.
    Rsa(Vec<u8>),
    /// The uncompressed point.
    P256(Vec<u8>),
}

/// Why a certificate cannot be a recipient's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRecipient {
    #[error("it is not one certificate in PEM form")]
    NotACertificate,
    #[error("its key is {0}; RSA of 2048 to 8192 bits and EC on P-256 are supported")]
    Key(String),
}

impl Recipient {
    /// Reads one certificate in PEM form. Whether it has ended is for the caller to judge: [`Self::not_after`].
    ///
    /// # Errors
    /// When it is none, or its key cannot be used.
    pub fn from_pem(pem: &str) -> Result<Self, InvalidRecipient> {
        let one = || {
            let mut all = CertificateDer::pem_slice_iter(pem.as_bytes());
            let first = all.next()?.ok()?;
            (all.next().is_none() && first.len() <= MAX_CERTIFICATE).then_some(first)
        };
        let der = one().ok_or(InvalidRecipient::NotACertificate)?;
        let (_, certificate) =
            X509Certificate::from_der(&der).map_err(|_| InvalidRecipient::NotACertificate)?;
        let mut subject = certificate.subject().to_string();
        subject.truncate(subject.floor_char_boundary(MAX_SUBJECT));
        let ends = certificate.validity().not_after.timestamp().saturating_mul(1_000_000);
        let spki = certificate.public_key();
        Ok(Self {
            subject,
            fingerprint: Fingerprint::of(&der),
            not_after: UnixMicros::new(ends),
            key: key(spki)?,
            key_id: Fingerprint::of(spki.raw),
        })
    }

    fn wrap(&self, secret: &ItemSecret) -> Result<WrappedFor, CryptoFailed> {
        let (scheme, ephemeral, wrapped) = match &self.key {
            RecipientKey::Rsa(spki) => (Scheme::RsaOaepSha256, String::new(), wrap_rsa(spki, secret)?),
            RecipientKey::P256(point) => {
                let (ephemeral, wrapped) = wrap_p256(point, secret)?;
                (Scheme::EcdhP256HkdfSha256Aes256Kw, hex::encode(ephemeral), wrapped)
            }
        };
        Ok(WrappedFor {
            subject: self.subject.clone(),
            fingerprint: self.fingerprint.clone(),
            not_after: self.not_after,
            key_id: self.key_id.clone(),
            scheme,
            ephemeral,
            wrapped: hex::encode(wrapped),
        })
    }
}

fn key(spki: &x509_parser::x509::SubjectPublicKeyInfo<'_>) -> Result<RecipientKey, InvalidRecipient> {
    use x509_parser::public_key::PublicKey;
    match spki.parsed() {
        Ok(PublicKey::RSA(rsa)) => match PublicEncryptingKey::from_der(spki.raw) {
            Ok(_) => Ok(RecipientKey::Rsa(spki.raw.to_vec())),
            Err(_) => Err(InvalidRecipient::Key(format!("RSA of {} bits", rsa.key_size()))),
        },
        Ok(PublicKey::EC(point)) if point.data().len() == 65 && is_p256(spki) => {
            Ok(RecipientKey::P256(point.data().to_vec()))
        }
        Ok(PublicKey::EC(_)) => Err(InvalidRecipient::Key("EC on another curve".to_owned())),
        _ => Err(InvalidRecipient::Key("of another kind".to_owned())),
    }
}

fn is_p256(spki: &x509_parser::x509::SubjectPublicKeyInfo<'_>) -> bool {
    let curve = spki.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
    curve.is_some_and(|curve| curve == x509_parser::oid_registry::OID_EC_P256)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Scheme {
    #[serde(rename = "rsa-oaep-sha256")]
    RsaOaepSha256,
    #[serde(rename = "ecdh-p256-hkdf-sha256-aes256kw")]
    EcdhP256HkdfSha256Aes256Kw,
}

/// An item's secret, sealed for each of its recipients. Safe to store and to send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrappedKey {
    version: u32,
    pub recipients: Vec<WrappedFor>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrappedFor {
    pub subject: String,
    pub fingerprint: Fingerprint,
    pub not_after: UnixMicros,
    key_id: Fingerprint,
    scheme: Scheme,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    ephemeral: String,
    wrapped: String,
}

/// Why a private key does not give the secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnwrapError {
    #[error("it is not the key of any recipient; those are: {0}")]
    NoRecipient(String),
    #[error("the certificate of {subject} ended on {}", day(*not_after))]
    Expired { subject: String, not_after: UnixMicros },
    #[error("what was wrapped for {0} is damaged")]
    Damaged(String),
}

/// As X.509 tools print it.
fn day(time: UnixMicros) -> String {
    let time = x509_parser::time::ASN1Time::from_timestamp(time.get().div_euclid(1_000_000));
    time.map_or_else(|_| "an unknown day".to_owned(), |time| time.to_string())
}

impl WrappedKey {
    /// Seals a secret for each recipient.
    ///
    /// # Errors
    /// When the library fails.
    pub fn wrap(secret: &ItemSecret, recipients: &[Recipient]) -> Result<Self, CryptoFailed> {
        let wrapped = recipients.iter().map(|recipient| recipient.wrap(secret)).collect::<Result<_, _>>()?;
        Ok(Self { version: VERSION, recipients: wrapped })
    }

    /// Checks what a peer sent: bounds, version, forms. The content only a private key can judge.
    pub fn is_sound(&self) -> bool {
        let sound = |r: &WrappedFor| {
            let short =
                |text: &str, most: usize| text.len() <= most && text.bytes().all(|b| b.is_ascii_hexdigit());
            r.subject.len() <= MAX_SUBJECT
                && !r.subject.chars().any(char::is_control)
                && short(&r.fingerprint.0, 64)
                && short(&r.key_id.0, 64)
                && short(&r.ephemeral, 130)
                && short(&r.wrapped, 2048)
        };
        self.version == VERSION
            && (1..=MAX_RECIPIENTS).contains(&self.recipients.len())
            && self.recipients.iter().all(sound)
    }

    /// Whom `key` belongs to, if to any recipient. Two certificates may have the same key: the one that ends last counts.
    pub fn holder(&self, key: &PrivateKey) -> Option<&WrappedFor> {
        self.recipients.iter().filter(|r| r.key_id == key.key_id).max_by_key(|r| r.not_after)
    }

    /// The secret, for the holder of `key`, as long as the certificate that named him has not ended.
    ///
    /// # Errors
    /// See [`UnwrapError`].
    pub fn unwrap(&self, key: &PrivateKey, now: UnixMicros) -> Result<ItemSecret, UnwrapError> {
        let Some(entry) = self.holder(key) else {
            let known: Vec<String> = self.recipients.iter().map(WrappedFor::to_string).collect();
            return Err(UnwrapError::NoRecipient(known.join("; ")));
        };
        if entry.not_after < now {
            let (subject, not_after) = (entry.subject.clone(), entry.not_after);
            return Err(UnwrapError::Expired { subject, not_after });
        }
        let secret = hex::decode(&entry.wrapped).ok().and_then(|wrapped| match (&key.kind, entry.scheme) {
            (KeyKind::Rsa(key), Scheme::RsaOaepSha256) => unwrap_rsa(key, &wrapped),
            (KeyKind::P256(key), Scheme::EcdhP256HkdfSha256Aes256Kw) => {
                unwrap_p256(key, &hex::decode(&entry.ephemeral).ok()?, &wrapped)
            }
            _ => None,
        });
        secret.ok_or_else(|| UnwrapError::Damaged(entry.subject.clone()))
    }
}

impl std::fmt::Display for WrappedFor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (sha256 {})", self.subject, self.fingerprint)
    }
}

/// A recipient's private key, in memory for as long as it takes to unwrap.
pub struct PrivateKey {
    kind: KeyKind,
    key_id: Fingerprint,
}

enum KeyKind {
    Rsa(Box<OaepPrivateDecryptingKey>),
    P256(Box<agreement::PrivateKey>),
}

/// Why a file is no private key that can be used. Says nothing of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PrivateKeyError {
    #[error(
        "it holds no private key in PEM form; a key with a passphrase has to be decrypted first (openssl pkey)"
    )]
    NotAKey,
    #[error("it is in a form that is not supported; `openssl pkcs8 -topk8 -nocrypt` makes one that is")]
    Form,
    #[error("its key is of a kind that is not supported: neither RSA nor EC on P-256")]
    Kind,
}

impl PrivateKey {
    /// # Errors
    /// When the text holds none that can be used.
    pub fn from_pem(pem: &str) -> Result<Self, PrivateKeyError> {
        match PrivateKeyDer::from_pem_slice(pem.as_bytes()) {
            Ok(PrivateKeyDer::Pkcs8(der)) => Self::rsa(der.secret_pkcs8_der())
                .or_else(|| Self::p256(der.secret_pkcs8_der()))
                .ok_or(PrivateKeyError::Kind),
            Ok(PrivateKeyDer::Sec1(der)) => Self::p256(der.secret_sec1_der()).ok_or(PrivateKeyError::Kind),
            Ok(_) => Err(PrivateKeyError::Form),
            Err(_) => Err(PrivateKeyError::NotAKey),
        }
    }

    fn rsa(pkcs8: &[u8]) -> Option<Self> {
        let key = PrivateDecryptingKey::from_pkcs8(pkcs8).ok()?;
        let public: PublicKeyX509Der<'_> = key.public_key().as_der().ok()?;
        let key_id = Fingerprint::of(public.as_ref());
        Some(Self { kind: KeyKind::Rsa(Box::new(OaepPrivateDecryptingKey::new(key).ok()?)), key_id })
    }

    fn p256(der: &[u8]) -> Option<Self> {
        let key = agreement::PrivateKey::from_private_key_der(&agreement::ECDH_P256, der).ok()?;
        let public: PublicKeyX509Der<'_> = key.compute_public_key().ok()?.as_der().ok()?;
        let key_id = Fingerprint::of(public.as_ref());
        Some(Self { kind: KeyKind::P256(Box::new(key)), key_id })
    }
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}

fn wrap_rsa(spki: &[u8], secret: &ItemSecret) -> Result<Vec<u8>, CryptoFailed> {
    let key = PublicEncryptingKey::from_der(spki).map_err(|_| CryptoFailed)?;
    let key = OaepPublicEncryptingKey::new(key)?;
    let mut wrapped = vec![0; key.ciphertext_size()];
    let length = key.encrypt(&OAEP_SHA256_MGF1SHA256, secret.bytes(), &mut wrapped, None)?.len();
    wrapped.truncate(length);
    Ok(wrapped)
}

fn unwrap_rsa(key: &OaepPrivateDecryptingKey, wrapped: &[u8]) -> Option<ItemSecret> {
    let mut plain = Zeroizing::new(vec![0; key.min_output_size()]);
    let secret = key.decrypt(&OAEP_SHA256_MGF1SHA256, wrapped, &mut plain, None).ok()?;
    ItemSecret::from_bytes(secret)
}

fn wrap_p256(point: &[u8], secret: &ItemSecret) -> Result<(Vec<u8>, Vec<u8>), CryptoFailed> {
    let ephemeral = agreement::EphemeralPrivateKey::generate(&agreement::ECDH_P256, &SystemRandom::new())?;
    let public = ephemeral.compute_public_key()?.as_ref().to_vec();
    let peer = agreement::UnparsedPublicKey::new(&agreement::ECDH_P256, point);
    let kek =
        agreement::agree_ephemeral(ephemeral, peer, CryptoFailed, |shared| kek(shared, &public, point))?;
    let mut wrapped = vec![0; secret.bytes().len() + 8];
    let length = AesKek::new(&AES_256, &*kek)?.wrap(secret.bytes(), &mut wrapped)?.len();
    wrapped.truncate(length);
    Ok((public, wrapped))
}

fn unwrap_p256(key: &agreement::PrivateKey, ephemeral: &[u8], wrapped: &[u8]) -> Option<ItemSecret> {
    let own = key.compute_public_key().ok()?;
    let peer = agreement::UnparsedPublicKey::new(&agreement::ECDH_P256, ephemeral);
    let kek =
        agreement::agree(key, peer, CryptoFailed, |shared| kek(shared, ephemeral, own.as_ref())).ok()?;
    let mut plain = Zeroizing::new(vec![0; wrapped.len()]);
    let secret = AesKek::new(&AES_256, &*kek).ok()?.unwrap(wrapped, &mut plain).ok()?;
    ItemSecret::from_bytes(secret)
}

fn kek(shared: &[u8], ephemeral: &[u8], recipient: &[u8]) -> Result<Zeroizing<[u8; 32]>, CryptoFailed> {
    let prk = Salt::new(HKDF_SHA256, b"understudy key wrap 1").extract(shared);
    let mut kek = Zeroizing::new([0; 32]);
    prk.expand(&[ephemeral, recipient], HKDF_SHA256)?.fill(&mut *kek)?;
    Ok(kek)
}
