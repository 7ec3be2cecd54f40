//! Encryption at rest: what a target needs to keep disks that it cannot read, and what an operator needs to read them (R-REP-10).
//!
//! ```text
//!   source                                                   target                          operator
//!   ItemSecret ──HKDF──▶ DiskKey ──▶ DiskCipher ─ ciphertext ─▶ qcow2, block n at place(n)
//!       │                   └──────▶ LuksHeader ───────────────▶ the same file, in front    ◀── passphrase ──┐
//!       └── wrap for each Recipient (X.509) ──▶ WrappedKey ────▶ manifest ──────▶ unwrap with a private key ─┘
//! ```
//!
//! QEMU opens such a file through its own LUKS layer, which ties each sector's cipher to its place *in the file*. The store puts block
//! n of a disk at the same place in every file, so a block can be encrypted by whoever knows its number, compared by digest, and
//! moved from one file of the disk to another without being read.
//!
//! **Promise.** Nothing that leaves the source tells the content of a block that is not zero, short of a private key: the keys are in none of
//! the types that can be written down, and no type here prints one.

mod cipher;
mod luks;
mod place;
mod secret;
mod wrap;

pub use cipher::{DiskCipher, SECTOR};
pub use luks::{InvalidHeader, KEY_MATERIAL_AREA, LUKS_AREA, LuksHeader, WrongPassphrase};
pub use place::{BLOCK, DATA_START, place};
pub use secret::{DiskKey, ItemSecret, Passphrase};
pub use wrap::{
    Fingerprint, InvalidRecipient, MAX_RECIPIENTS, PrivateKey, PrivateKeyError, Recipient, UnwrapError,
    WrappedFor, WrappedKey,
};

/// The cryptographic library failed: it has no randomness, or was asked for what it does not have. Never a wrong key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cryptographic library failed; look at the host's random number source")]
pub struct CryptoFailed;

impl From<aws_lc_rs::error::Unspecified> for CryptoFailed {
    fn from(_: aws_lc_rs::error::Unspecified) -> Self {
        Self
    }
}
