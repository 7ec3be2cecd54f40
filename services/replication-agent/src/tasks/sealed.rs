//! What an encrypted point needs before a machine can stand on it: the key that an operator has lent, and overlays that are encrypted
//! too (R-REP-10).

use std::{collections::BTreeMap, path::PathBuf};

use understudy_hypervisor::Machine;
use understudy_ids::DiskName;
use understudy_replica_store::{DiskFile, Manifest, qcow2::Chain};
use understudy_sealing::{DiskKey, LuksHeader, Passphrase};

use super::{Result, Scope, TaskError, Tasks};

impl Tasks {
    /// The key of a point; `None` when it is not encrypted.
    ///
    /// # Errors
    /// `KEY_MISSING`: nothing has been done yet.
    pub(super) fn key_of(&self, scope: &Scope, manifest: &Manifest) -> Result<Option<Passphrase>> {
        let Some(seal) = &manifest.seal else { return Ok(None) };
        match self.keyring.key(&scope.item, seal) {
            Some(key) => Ok(Some(key)),
            None => {
                Err(key_missing(scope, &format!("point {} of {} is encrypted", manifest.seq, scope.item)))
            }
        }
    }

    /// Gives the hypervisor the key of a machine with encrypted disks. Without one here, it may have it from before.
    pub(super) async fn unlock_machine(&self, scope: &Scope, machine: &Machine) -> Result<()> {
        if !is_encrypted(machine) {
            return Ok(());
        }
        match self.keyring.any(&scope.item) {
            Some(key) => Ok(self.hypervisor.unlock(&machine.name, &key).await?),
            None => Ok(()),
        }
    }

    /// Why a machine with encrypted disks does not start: as a rule because nobody has the key any more, for that is all that ends
    /// with a host's boot.
    pub(super) fn not_started(&self, scope: &Scope, machine: &Machine, error: TaskError) -> TaskError {
        if !is_encrypted(machine) || self.keyring.any(&scope.item).is_some() {
            return error;
        }
        let TaskError::Retry(problem) = error else { return error };
        key_missing(scope, &format!("machine {} has encrypted disks ({})", machine.name, problem.message))
    }
}

fn is_encrypted(machine: &Machine) -> bool {
    machine.hardware.disks.iter().any(|disk| disk.encrypted)
}

fn key_missing(scope: &Scope, what: &str) -> TaskError {
    let message = format!("{what}, and this host does not have its key");
    let remedy = format!(
        "Unlock it with a recipient's private key (understudy item unlock {}), then retry.",
        scope.item
    );
    TaskError::failed("KEY_MISSING", message, &remedy)
}

/// Headers for overlays of the point's disks. Their keys are new ones: what QEMU writes stands wherever QEMU puts it.
pub(super) fn overlay_headers(
    manifest: &Manifest,
    key: Option<&Passphrase>,
) -> Result<BTreeMap<DiskName, LuksHeader>> {
    let Some(key) = key else { return Ok(BTreeMap::new()) };
    let header = |disk: &DiskName| {
        let header = DiskKey::generate().and_then(|of_disk| LuksHeader::make(key, &of_disk));
        header.map(|header| (disk.clone(), header)).map_err(|error| {
            TaskError::retry("NO_RANDOMNESS", error.to_string(), "Look at the host's random number source.")
        })
    };
    manifest.disks.iter().map(|disk| header(&disk.name)).collect()
}

/// Of encrypted disks, the files that each is stacked on.
pub(super) fn chains(
    files: &[DiskFile],
    key: Option<&Passphrase>,
) -> Result<BTreeMap<DiskName, Vec<PathBuf>>> {
    if key.is_none() {
        return Ok(BTreeMap::new());
    }
    let below = |file: &DiskFile| {
        let chain = Chain::open(&file.path)?;
        let below =
            chain.files().skip(1).map(|path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
        Ok((file.disk.clone(), below.collect()))
    };
    files.iter().map(below).collect()
}
