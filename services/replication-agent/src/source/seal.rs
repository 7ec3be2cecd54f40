//! Encrypting what leaves this host (R-REP-10).
//!
//! ```text
//!   assignment: encrypt for … ─▶ Keys ─▶ Sealing ──┬─ cipher of each disk ─▶ content of a piece, before it is digested
//!                                  │               └─ headers, wrapped key ─▶ the beginning of each point
//!                                  └─ <state_dir>/keys/<item>.json, 0600: the item's secret, while this side is the active one
//! ```
//!
//! **Promise.** The same content at the same place is the same ciphertext from cycle to cycle, so that changes, digests and cut transfers are
//! what they are without encryption. A recipient who is taken off the list gets a new secret kept from him; one who is added does not
//! cost a copy.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use understudy_ids::{DiskName, ItemName};
use understudy_replication::BLOCK_SIZE;
use understudy_sealing::{
    DiskCipher, Fingerprint, ItemSecret, LuksHeader, Passphrase, Recipient, WrappedKey, place,
};

/// Why the keys of an item cannot be had. None of them tells anything about a key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot {action} {path}: {cause}", path = path.display())]
    Io { action: &'static str, path: PathBuf, cause: io::Error },
    #[error("{path} is not readable as the keys of an item; remove it and the item is copied anew with a new key", path = path.display())]
    Record { path: PathBuf },
    #[error(transparent)]
    Recipient(#[from] understudy_sealing::InvalidRecipient),
    #[error(transparent)]
    Crypto(#[from] understudy_sealing::CryptoFailed),
    #[error("the keys cannot be handled: {0}")]
    Stopped(String),
}

/// The encryption of one item's points.
#[derive(Debug)]
pub struct Sealing {
    pub wrapped: WrappedKey,
    headers: BTreeMap<DiskName, LuksHeader>,
    ciphers: BTreeMap<DiskName, Arc<DiskCipher>>,
}

impl Sealing {
    pub fn header(&self, disk: &DiskName) -> Option<&LuksHeader> {
        self.headers.get(disk)
    }

    pub fn cipher(&self, disk: &DiskName) -> Option<Arc<DiskCipher>> {
        self.ciphers.get(disk).cloned()
    }
}

/// As it is written down.
#[derive(Serialize, Deserialize)]
struct Record {
    /// What opens the headers.
    passphrase: zeroize::Zeroizing<String>,
    wrapped: WrappedKey,
    headers: BTreeMap<DiskName, LuksHeader>,
}

/// The keys of the items that are replicated from here.
#[derive(Debug, Clone)]
pub struct Keys {
    dir: PathBuf,
}

impl Keys {
    pub fn new(state_dir: &Path) -> Self {
        Self { dir: state_dir.join("keys") }
    }

    /// The encryption of `disks` for the holders of `certificates`: the one that there is, or a new one. `None` without certificates.
    pub async fn sealing(
        &self,
        item: &ItemName,
        certificates: &[String],
        disks: Vec<DiskName>,
    ) -> Result<Option<Arc<Sealing>>, KeyError> {
        if certificates.is_empty() {
            return Ok(None);
        }
        let (this, item, certificates) = (self.clone(), item.clone(), certificates.to_vec());
        let done = tokio::task::spawn_blocking(move || this.seal(&item, &certificates, &disks)).await;
        done.unwrap_or_else(|e| Err(KeyError::Stopped(e.to_string()))).map(|sealing| Some(Arc::new(sealing)))
    }

    /// Forgets an item's secret. Points that exist stay readable for their recipients.
    pub async fn forget(&self, item: &ItemName) -> Result<(), KeyError> {
        let path = self.path(item);
        match tokio::fs::remove_file(&path).await {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &path)(cause)),
            _ => Ok(()),
        }
    }

    fn seal(
        &self,
        item: &ItemName,
        certificates: &[String],
        disks: &[DiskName],
    ) -> Result<Sealing, KeyError> {
        let recipients =
            certificates.iter().map(|pem| Recipient::from_pem(pem)).collect::<Result<Vec<_>, _>>()?;
        let known = self.read(item)?.filter(|known| keeps(&known.wrapped, &recipients));
        let (secret, wrapped, mut headers) = match known {
            Some(Record { passphrase, wrapped, headers }) => {
                let passphrase = Passphrase::parse(&passphrase)
                    .ok_or_else(|| KeyError::Record { path: self.path(item) })?;
                (passphrase.secret(), Some(wrapped), headers)
            }
            None => (ItemSecret::generate()?, None, BTreeMap::new()),
        };
        let wrapped_before = wrapped.clone();
        let wrapped = match wrapped.filter(|wrapped| wrapped.recipients.len() == recipients.len()) {
            Some(wrapped) => wrapped,
            None => WrappedKey::wrap(&secret, &recipients)?,
        };
        let count = headers.len();
        let mut ciphers = BTreeMap::new();
        for disk in disks {
            let key = secret.disk_key(disk)?;
            if !headers.contains_key(disk) {
                headers.insert(disk.clone(), LuksHeader::make(&secret.passphrase(), &key)?);
            }
            ciphers.insert(disk.clone(), Arc::new(DiskCipher::new(&key)));
        }
        if headers.len() != count || wrapped_before.as_ref() != Some(&wrapped) {
            let passphrase = zeroize::Zeroizing::new(secret.passphrase().expose().to_owned());
            self.write(item, &Record { passphrase, wrapped: wrapped.clone(), headers: headers.clone() })?;
        }
        Ok(Sealing { wrapped, headers, ciphers })
    }

    fn path(&self, item: &ItemName) -> PathBuf {
        self.dir.join(format!("{item}.json"))
    }

    fn read(&self, item: &ItemName) -> Result<Option<Record>, KeyError> {
        let path = self.path(item);
        match fs::read(&path).map(zeroize::Zeroizing::new) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(io_error("read", &path)(cause)),
            // What serde says may quote the text.
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|_| KeyError::Record { path }),
        }
    }

    /// Durable, and whole or not at all, before the first block is encrypted with it.
    fn write(&self, item: &ItemName, record: &Record) -> Result<(), KeyError> {
        let path = self.path(item);
        let text = serde_json::to_vec_pretty(record).map_err(|_| KeyError::Record { path: path.clone() })?;
        let text = zeroize::Zeroizing::new(text);
        // Names never begin with a dot, so this is no item's file.
        let temporary = self.dir.join(format!(".{item}.new"));
        let write = || {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
            let _ = fs::remove_file(&temporary);
            let mut file =
                fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            io::Write::write_all(&mut file, &text)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            fs::File::open(&self.dir)?.sync_all()
        };
        write().map_err(io_error("write", &path))
    }
}

/// Whether everybody who can unwrap the secret is still meant to.
fn keeps(wrapped: &WrappedKey, recipients: &[Recipient]) -> bool {
    let wanted = |print: &Fingerprint| recipients.iter().any(|r| r.fingerprint == *print);
    wrapped.recipients.iter().all(|known| wanted(&known.fingerprint))
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeyError {
    let path = path.to_owned();
    move |cause| KeyError::Io { action, path, cause }
}

/// Content that was read at `offset` of a disk, as it is to stand in the disk's file. Blocks of zeros stay zeros, which are told
/// and not sent.
pub fn encrypted(cipher: &DiskCipher, offset: u64, content: Bytes) -> Bytes {
    let mut content = content.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
    for (block, part) in (offset / BLOCK_SIZE..).zip(content.chunks_mut(BLOCK_SIZE as usize)) {
        if part.iter().any(|byte| *byte != 0) {
            cipher.encrypt(place(block), part);
        }
    }
    content.freeze()
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, process::Command};

    use super::*;

    fn certificate(name: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        let made = Command::new("openssl")
            .args(["req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(["-subj", &format!("/CN={name}"), "-days", "9", "-keyout"])
            .arg(&key)
            .output()
            .unwrap();
        assert!(made.status.success());
        String::from_utf8(made.stdout).unwrap()
    }

    fn disks(names: &[&str]) -> Vec<DiskName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    /// R-REP-10: a key lasts over restarts and new recipients, and ends with a recipient who is not wanted any more.
    #[tokio::test]
    async fn a_secret_is_kept_while_all_who_have_it_may() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::new(dir.path());
        let item: ItemName = "web1".parse().unwrap();
        let (first, second) = (certificate("first"), certificate("second"));
        let vda = disks(&["vda"]).remove(0);
        let header = async |for_: &[&String], names: &[&str]| {
            let certificates: Vec<String> = for_.iter().map(|pem| (*pem).clone()).collect();
            let sealing = keys.sealing(&item, &certificates, disks(names)).await.unwrap().unwrap();
            assert_eq!(sealing.wrapped.recipients.len(), for_.len());
            assert!(names.iter().all(|name| sealing.cipher(&name.parse().unwrap()).is_some()));
            sealing.header(&vda).unwrap().clone()
        };
        let one = header(&[&first], &["vda"]).await;
        assert_eq!(header(&[&first], &["vda"]).await, one);
        assert_eq!(header(&[&first, &second], &["vda", "vdb"]).await, one);
        assert_ne!(header(&[&second], &["vda"]).await, one);
        let file = dir.path().join("keys/web1.json");
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        keys.forget(&item).await.unwrap();
        assert!(!file.exists());
        assert!(keys.sealing(&item, &[], disks(&["vda"])).await.unwrap().is_none());
    }

    #[test]
    fn zeros_stay_zeros_and_equal_content_at_one_place_stays_equal() {
        let secret = ItemSecret::generate().unwrap();
        let cipher = DiskCipher::new(&secret.disk_key(&"vda".parse().unwrap()).unwrap());
        let block = BLOCK_SIZE as usize;
        let mut content = vec![5; 2 * block];
        content.extend(vec![0; block]);
        content.extend(vec![5; 1024]);
        let content = Bytes::from(content);
        let once = encrypted(&cipher, 4 * BLOCK_SIZE, content.clone());
        assert_eq!(once, encrypted(&cipher, 4 * BLOCK_SIZE, content.clone()));
        assert_eq!(once.len(), content.len());
        assert_ne!(once[..block], content[..block]);
        assert_ne!(once[..block], once[block..2 * block]);
        assert_eq!(once[2 * block..3 * block], content[2 * block..3 * block]);
        assert_ne!(once[3 * block..], content[3 * block..]);
    }
}
