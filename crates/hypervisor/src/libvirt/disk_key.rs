//! The key of a machine's encrypted disks, on its way to whoever opens them (R-REP-10).
//!
//! ```text
//!   unlock ─┬─▶ a secret of libvirtd: ephemeral (never on disk), private (never read back) ─▶ QEMU, when the machine starts
//!           └─▶ memory of this driver ─▶ standard input of qemu-img and qemu-storage-daemon, while the machine is off
//! ```
//!
//! It is never an argument of a program, which anybody on the host could read. With the end of libvirtd, or of this process, it is
//! forgotten, and has to be given again.

use std::{path::Path, sync::PoisonError};

use serde_json::{Value, json};
use understudy_ids::{MachineName, Uuid};
use understudy_replica_store::qcow2::Chain;
use understudy_sealing::Passphrase;

use super::{LibvirtHypervisor, ffi::Connection, session::failed, xml::Element};
use crate::Error;

/// What the programs that we start read the key as.
const KEY: &str = "key";

/// The secret of a machine has a UUID that follows from the machine's name.
pub fn secret_uuid(machine: &MachineName) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("understudy disks of {machine}").as_bytes())
}

/// How a domain's description says that a file is encrypted.
pub fn encryption(machine: &MachineName) -> Element {
    let secret =
        Element::new("secret").with("type", "passphrase").with("uuid", secret_uuid(machine).to_string());
    Element::new("encryption").with("format", "luks").child(secret)
}

impl LibvirtHypervisor {
    pub(super) async fn give_key(&self, machine: &MachineName, key: &Passphrase) -> Result<(), Error> {
        let what = format!("giving libvirt the key of machine {machine}'s disks");
        let (name, value) = (machine.clone(), key.clone());
        self.session
            .call(what.clone(), move |connection| {
                let secret = connection.define_secret(&description(&name)).map_err(failed(what.clone()))?;
                secret.set(value.expose().as_bytes()).map_err(failed(what))
            })
            .await?;
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.insert(machine.clone(), key.clone());
        Ok(())
    }

    /// The key of a machine whose disks are to be opened while it is off.
    pub(super) fn key(&self, machine: &MachineName) -> Result<Passphrase, Error> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.get(machine).cloned().ok_or_else(|| Error::WrongState {
            what: format!("opening the encrypted disks of machine {machine}"),
            why: "their key is not here, it is forgotten when the agent or the host starts anew; unlock the item again".to_owned(),
        })
    }

    pub(super) fn forget_key(&self, machine: &MachineName) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).remove(machine);
    }
}

/// Removes the machine's secret, if it has one.
pub fn remove(connection: &Connection, machine: &MachineName) -> Result<(), Error> {
    let what = format!("removing the key of machine {machine}'s disks");
    let secret = connection.secret(&secret_uuid(machine).to_string()).map_err(failed(what.clone()))?;
    secret.map_or(Ok(()), |secret| secret.undefine().map_err(failed(what)))
}

fn description(machine: &MachineName) -> String {
    Element::new("secret")
        .with("ephemeral", "yes")
        .with("private", "yes")
        .child(Element::new("uuid").text(secret_uuid(machine).to_string()))
        .child(Element::new("description").text(format!("disks of machine {machine}, by Understudy")))
        .write()
}

/// Arguments by which a program of QEMU's reads the key from its standard input.
pub fn from_stdin() -> [String; 2] {
    ["--object".to_owned(), format!("secret,id={KEY},file=/dev/stdin")]
}

/// Options with which a program of QEMU's opens an encrypted file alone, without what it is stacked on.
pub fn alone(file: &Path) -> Value {
    let mut options = layer(file);
    options["backing"] = Value::Null;
    options
}

/// Options with which it opens a file and everything that it is stacked on.
///
/// # Errors
/// When the chain of files cannot be read.
pub fn with_backing(file: &Path) -> Result<Value, Error> {
    let failed = |error: understudy_replica_store::StoreError| Error::Failed {
        what: format!("reading what {} is stacked on", file.display()),
        why: error.to_string(),
    };
    let chain = Chain::open(file).map_err(failed)?;
    let mut options = Value::Null;
    for file in chain.files().collect::<Vec<_>>().into_iter().rev() {
        let mut top = layer(file);
        top["backing"] = options;
        options = top;
    }
    Ok(options)
}

fn layer(file: &Path) -> Value {
    json!({
        "driver": "qcow2",
        "file": { "driver": "file", "filename": file.to_string_lossy() },
        "encrypt": { "format": "luks", "key-secret": KEY },
    })
}
