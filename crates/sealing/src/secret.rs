//! The secret of an item and what is derived from it.

use std::fmt;

use aws_lc_rs::{
    hkdf::{HKDF_SHA256, KeyType, Salt},
    rand,
};
use understudy_ids::DiskName;
use zeroize::Zeroizing;

use crate::CryptoFailed;

/// Two keys of AES-256, as XTS takes them.
const DISK_KEY_BYTES: usize = 64;
const SECRET_BYTES: usize = 32;

/// 256 random bits from which everything about an item's encryption follows.
#[derive(Clone)]
pub struct ItemSecret(Zeroizing<[u8; SECRET_BYTES]>);

/// What opens the LUKS headers of an item's disks: the secret in hexadecimal.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

/// The key of one disk. Disks of one item have different ones, so that equal blocks of two disks do not look equal.
#[derive(Clone)]
pub struct DiskKey(Zeroizing<[u8; DISK_KEY_BYTES]>);

struct DiskKeyLength;

impl KeyType for DiskKeyLength {
    fn len(&self) -> usize {
        DISK_KEY_BYTES
    }
}

impl ItemSecret {
    /// A new one.
    ///
    /// # Errors
    /// When the host has no randomness.
    pub fn generate() -> Result<Self, CryptoFailed> {
        let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
        rand::fill(&mut *bytes)?;
        Ok(Self(bytes))
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|bytes| Self(Zeroizing::new(bytes)))
    }

    pub(crate) fn bytes(&self) -> &[u8; SECRET_BYTES] {
        &self.0
    }

    pub fn passphrase(&self) -> Passphrase {
        Passphrase(Zeroizing::new(hex::encode(*self.0)))
    }

    /// The key of one of the item's disks: always the same for the same name.
    ///
    /// # Errors
    /// When the library fails.
    pub fn disk_key(&self, disk: &DiskName) -> Result<DiskKey, CryptoFailed> {
        let prk = Salt::new(HKDF_SHA256, b"understudy disk key 1").extract(&*self.0);
        let mut key = Zeroizing::new([0; DISK_KEY_BYTES]);
        prk.expand(&[disk.as_str().as_bytes()], DiskKeyLength)?.fill(&mut *key)?;
        Ok(DiskKey(key))
    }
}

impl Passphrase {
    /// Takes what [`Self::expose`] gave; `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
        hex::decode_to_slice(text, &mut *bytes).ok()?;
        Some(ItemSecret(bytes).passphrase())
    }

    /// The text itself, for who hands it on. Not to be logged or stored.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The secret that this is the text of.
    pub fn secret(&self) -> ItemSecret {
        let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
        // Made from a secret or parsed, so it is 64 hexadecimal digits; the error cannot come.
        let _ = hex::decode_to_slice(&*self.0, &mut *bytes);
        ItemSecret(bytes)
    }
}

impl DiskKey {
    /// A key that follows from nothing, for a disk that is written on this host only.
    ///
    /// # Errors
    /// When the host has no randomness.
    pub fn generate() -> Result<Self, CryptoFailed> {
        let mut key = Zeroizing::new([0; DISK_KEY_BYTES]);
        rand::fill(&mut *key)?;
        Ok(Self(key))
    }

    pub(crate) fn new(bytes: Zeroizing<[u8; DISK_KEY_BYTES]>) -> Self {
        Self(bytes)
    }

    pub(crate) fn bytes(&self) -> &[u8; DISK_KEY_BYTES] {
        &self.0
    }
}

macro_rules! silent {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(…)"))
            }
        }
    )*};
}
silent!(ItemSecret, Passphrase, DiskKey);
