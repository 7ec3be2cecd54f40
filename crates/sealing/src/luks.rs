//! The LUKS1 header of a sealed disk, as QEMU reads it from the front of a qcow2 file.
//!
//! ```text
//!   ┌────────────────────┬──────────────────────────────────────────────────┬──────────────────┐
//!   │ 592 bytes: ciphers,│ at 4096: material of key slot 0, 4000 stripes of  │ slots 1 to 7, for│
//!   │ salts, key digest  │ 64 bytes; zeros up to the last, which has the key │ whoever adds one │
//!   └────────────────────┴──────────────────────────────────────────────────┴──────────────────┘
//! ```
//!
//! LUKS splits a key over 4000 stripes so that a worn-out disk cannot keep enough of a *revoked* slot. We revoke by making a new key,
//! so all stripes but the last are taken to be zeros *as they stand in the file*; then header and last stripe, 656 bytes, say all there is to
//! say, and travel with every point. What protects the key is the passphrase, from which the last stripe is encrypted; it has 256
//! random bits, hence so few iterations.

use std::num::NonZeroU32;

use aws_lc_rs::{constant_time::verify_slices_are_equal, digest, pbkdf2, rand};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    CryptoFailed,
    cipher::{DiskCipher, SECTOR},
    secret::{DiskKey, Passphrase},
};

/// Room for the header with all eight key slots, bytes.
pub const LUKS_AREA: u64 = 2 << 20;
/// Bytes from the header's start up to which QEMU reads when it opens slot 0.
pub const KEY_MATERIAL_AREA: u64 = MATERIAL_START + MATERIAL as u64;

const PREFIX: usize = 592;
const KEY: usize = 64;
const STRIPES: usize = 4000;
const MATERIAL: usize = KEY * STRIPES;
const MATERIAL_START: u64 = 4096;
/// Where the last stripe lies from the header's start.
const LAST_STRIPE: u64 = MATERIAL_START + (MATERIAL - KEY) as u64;
const ENCODED: usize = PREFIX + KEY;
/// Sectors between two slots' material: 500 and a few, so that each starts at a page.
const SLOT_SECTORS: u32 = 504;
const SLOTS: usize = 8;
const ENABLED: u32 = 0x00ac_71f3;
const DISABLED: u32 = 0x0000_dead;
/// The passphrase is as good as a key, so there is nothing for iterations to slow down.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(1000).expect("not zero");

const MK_DIGEST: std::ops::Range<usize> = 112..132;
const MK_SALT: std::ops::Range<usize> = 132..164;
const UUID: std::ops::Range<usize> = 168..208;
const SLOT_SALT: std::ops::Range<usize> = 216..248;

/// What a target stores of a disk's encryption: enough to open it with the passphrase, nothing without.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LuksHeader {
    prefix: [u8; PREFIX],
    last_stripe: [u8; KEY],
}

/// Bytes that are no header of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no LUKS header as sealed disks have it")]
pub struct InvalidHeader;

/// The passphrase does not open the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key does not open this disk")]
pub struct WrongPassphrase;

impl LuksHeader {
    /// The header through which `passphrase` opens a disk encrypted with `key`.
    ///
    /// # Errors
    /// When the host has no randomness.
    pub fn make(passphrase: &Passphrase, key: &DiskKey) -> Result<Self, CryptoFailed> {
        let mut prefix = template();
        rand::fill(&mut prefix[MK_SALT])?;
        rand::fill(&mut prefix[SLOT_SALT])?;
        let mut uuid = [0; 18];
        rand::fill(&mut uuid)?;
        prefix[UUID.start..UUID.start + 36].copy_from_slice(hex::encode(uuid).as_bytes());
        let digest = key_digest(key.bytes(), &prefix[MK_SALT]);
        prefix[MK_DIGEST].copy_from_slice(&digest);
        let mut header = Self { prefix, last_stripe: [0; KEY] };
        let slot = header.slot_cipher(passphrase);
        let state = diffused(&slot);
        let mut stripe = Zeroizing::new([0; KEY]);
        for (byte, (state, key)) in stripe.iter_mut().zip(state.iter().zip(key.bytes())) {
            *byte = state ^ key;
        }
        header.last_stripe = within_sector(&slot, *stripe, DiskCipher::encrypt);
        Ok(header)
    }

    /// The key of the disk.
    ///
    /// # Errors
    /// When the passphrase is that of another item, or the header is damaged.
    pub fn open(&self, passphrase: &Passphrase) -> Result<DiskKey, WrongPassphrase> {
        let slot = self.slot_cipher(passphrase);
        let stripe = Zeroizing::new(within_sector(&slot, self.last_stripe, DiskCipher::decrypt));
        let state = diffused(&slot);
        let mut key = Zeroizing::new([0; KEY]);
        for (byte, (state, stripe)) in key.iter_mut().zip(state.iter().zip(stripe.iter())) {
            *byte = state ^ stripe;
        }
        let digest = key_digest(&key, &self.prefix[MK_SALT]);
        verify_slices_are_equal(&digest, &self.prefix[MK_DIGEST]).map_err(|_| WrongPassphrase)?;
        Ok(DiskKey::new(key))
    }

    /// All there is to store; [`Self::decode`] takes it.
    pub fn encode(&self) -> Vec<u8> {
        [&self.prefix[..], &self.last_stripe[..]].concat()
    }

    /// # Errors
    /// When anything but salts, digest, UUID and key material is other than we write it: what a peer sends cannot make QEMU do
    /// anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidHeader> {
        let bytes: &[u8; ENCODED] = bytes.try_into().map_err(|_| InvalidHeader)?;
        let (prefix, last_stripe) = bytes.split_at(PREFIX);
        let header = Self {
            prefix: prefix.try_into().map_err(|_| InvalidHeader)?,
            last_stripe: last_stripe.try_into().map_err(|_| InvalidHeader)?,
        };
        let mut bare = header.prefix;
        for free in [MK_DIGEST, MK_SALT, SLOT_SALT] {
            bare[free].fill(0);
        }
        let uuid = &mut bare[UUID.start..UUID.start + 36];
        if !uuid.iter().all(u8::is_ascii_hexdigit) {
            return Err(InvalidHeader);
        }
        uuid.fill(0);
        if bare == template() { Ok(header) } else { Err(InvalidHeader) }
    }

    /// The pieces that differ from zeros, and where they lie from the header's start. The area is [`LUKS_AREA`] long.
    pub fn pieces(&self) -> [(u64, &[u8]); 2] {
        [(0, &self.prefix), (LAST_STRIPE, &self.last_stripe)]
    }

    /// Reads a header back from such an area: at its start, and the last stripe.
    ///
    /// # Errors
    /// Those of `read`, and `None` for bytes that are no header of ours.
    pub fn read<E>(mut read: impl FnMut(u64, &mut [u8]) -> Result<(), E>) -> Result<Option<Self>, E> {
        let mut bytes = vec![0; ENCODED];
        let (prefix, stripe) = bytes.split_at_mut(PREFIX);
        read(0, prefix)?;
        read(LAST_STRIPE, stripe)?;
        Ok(Self::decode(&bytes).ok())
    }

    fn slot_cipher(&self, passphrase: &Passphrase) -> DiskCipher {
        let mut key = Zeroizing::new([0; KEY]);
        let (salt, secret) = (&self.prefix[SLOT_SALT], passphrase.expose().as_bytes());
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ITERATIONS, salt, secret, &mut *key);
        DiskCipher::from_bytes(&key)
    }
}

/// Everything in the prefix that is the same for every disk.
fn template() -> [u8; PREFIX] {
    let mut prefix = [0; PREFIX];
    let mut put = |at: usize, bytes: &[u8]| prefix[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"LUKS\xba\xbe\x00\x01");
    put(8, b"aes");
    put(40, b"xts-plain64");
    put(72, b"sha256");
    let slot_start = |slot: u32| MATERIAL_START as u32 / SECTOR as u32 + slot * SLOT_SECTORS;
    put(104, &slot_start(SLOTS as u32).to_be_bytes());
    put(108, &(KEY as u32).to_be_bytes());
    put(164, &ITERATIONS.get().to_be_bytes());
    for slot in 0..SLOTS as u32 {
        let at = UUID.end + slot as usize * 48;
        let (state, iterations) = if slot == 0 { (ENABLED, ITERATIONS.get()) } else { (DISABLED, 0) };
        put(at, &state.to_be_bytes());
        put(at + 4, &iterations.to_be_bytes());
        put(at + 40, &slot_start(slot).to_be_bytes());
        put(at + 44, &(STRIPES as u32).to_be_bytes());
    }
    prefix
}

fn key_digest(key: &[u8; KEY], salt: &[u8]) -> [u8; 20] {
    let mut digest = [0; 20];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ITERATIONS, salt, key, &mut digest);
    digest
}

/// LUKS's anti-forensic merge over all stripes but the last, which are zeros in the file.
fn diffused(slot: &DiskCipher) -> Zeroizing<[u8; KEY]> {
    let mut stripes = Zeroizing::new(vec![0; MATERIAL]);
    slot.decrypt(0, &mut stripes);
    let (stripes, _) = stripes.as_chunks::<KEY>();
    let mut state = Zeroizing::new([0; KEY]);
    for stripe in &stripes[..STRIPES - 1] {
        for (byte, other) in state.iter_mut().zip(stripe) {
            *byte ^= other;
        }
        for (number, part) in (0u32..).zip(state.as_chunks_mut::<32>().0) {
            let mut hash = digest::Context::new(&digest::SHA256);
            hash.update(&number.to_be_bytes());
            hash.update(part);
            part.copy_from_slice(hash.finish().as_ref());
        }
    }
    state
}

/// The last stripe as it stands at the end of its sector; the cipher's blocks do not depend on each other.
fn within_sector(slot: &DiskCipher, stripe: [u8; KEY], turn: fn(&DiskCipher, u64, &mut [u8])) -> [u8; KEY] {
    let mut sector = Zeroizing::new([0; SECTOR]);
    sector[SECTOR - KEY..].copy_from_slice(&stripe);
    turn(slot, (MATERIAL - SECTOR) as u64, &mut *sector);
    let mut turned = [0; KEY];
    turned.copy_from_slice(&sector[SECTOR - KEY..]);
    turned
}

impl std::fmt::Debug for LuksHeader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LuksHeader({})", String::from_utf8_lossy(&self.prefix[UUID.start..UUID.start + 36]))
    }
}

impl From<LuksHeader> for String {
    fn from(header: LuksHeader) -> String {
        hex::encode(header.encode())
    }
}

impl TryFrom<String> for LuksHeader {
    type Error = InvalidHeader;
    fn try_from(text: String) -> Result<Self, InvalidHeader> {
        Self::decode(&hex::decode(text).map_err(|_| InvalidHeader)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::ItemSecret;

    #[test]
    fn a_header_gives_the_key_to_its_passphrase_and_to_no_other() {
        let secret = ItemSecret::generate().unwrap();
        let key = secret.disk_key(&"vda".parse().unwrap()).unwrap();
        let header = LuksHeader::make(&secret.passphrase(), &key).unwrap();
        let again = LuksHeader::decode(&header.encode()).unwrap();
        assert_eq!(again.open(&secret.passphrase()).unwrap().bytes(), key.bytes());
        let other = ItemSecret::generate().unwrap();
        assert_eq!(again.open(&other.passphrase()).unwrap_err(), WrongPassphrase);
    }

    /// What a peer sends is ours byte by byte, or refused.
    #[test]
    fn only_salts_and_key_material_may_differ() {
        let secret = ItemSecret::generate().unwrap();
        let key = secret.disk_key(&"vda".parse().unwrap()).unwrap();
        let good = LuksHeader::make(&secret.passphrase(), &key).unwrap().encode();
        let changed = |at: usize| {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            LuksHeader::decode(&bytes)
        };
        for at in [0, 8, 41, 104, 111, 166, 210, 250, 300, 591] {
            assert_eq!(changed(at).unwrap_err(), InvalidHeader, "byte {at}");
        }
        assert!(changed(MK_SALT.start).is_ok() && changed(ENCODED - 1).is_ok());
        assert!(LuksHeader::decode(&good[1..]).is_err());
    }
}
