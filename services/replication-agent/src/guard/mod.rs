//! Whether a machine may start, decided at the hypervisor's own door (R-FO-7).
//!
//! ```text
//!   virsh start, autostart, agent ──▶ libvirtd ──▶ /etc/libvirt/hooks/qemu <machine> prepare begin -   (description on stdin)
//!                                                        │
//!                                        guard: tag in the description, ledger, store, boot id
//!                                                        │
//!                                         exit 0: starts ┴ exit 1: libvirt refuses, the reason is in its log
//! ```
//!
//! Works without the agent, without the control plane and without libvirt, which waits for the answer and must not be
//! called. Promise: a host that comes back after a disaster starts none of its old guests, whoever asks, until it is told
//! again that it is the active side.

mod hook;
mod rule;

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use understudy_hypervisor::{MachineTag, libvirt};
use understudy_ids::ItemName;
use understudy_replica_store::GenerationRecord;

use crate::{activation::Notes, config::Config, ledger};
pub use hook::install;
pub use rule::{Facts, Verdict, decide};

/// A description of a machine with the most devices stays far below.
const MAX_DESCRIPTION: u64 = 4 << 20;

/// Answers one call of the hook. `Err` is the reason why the machine must not start. `config` is asked for only when the
/// machine is ours: a configuration that is broken must not keep strangers' machines from starting.
pub fn answer(
    config: impl FnOnce() -> Result<Config, String>,
    operation: &str,
    sub_operation: &str,
    description: impl io::Read,
) -> Result<(), String> {
    // Every other call of the hook is for something that has been decided, or is the machine's end.
    if (operation, sub_operation) != ("prepare", "begin") {
        return Ok(());
    }
    let mut text = String::new();
    description
        .take(MAX_DESCRIPTION)
        .read_to_string(&mut text)
        .map_err(|e| format!("its description cannot be read: {e}"))?;
    let tag = libvirt::tag_in_description(&text).map_err(|e| format!("its description: {e}"))?;
    match decide(tag.as_ref(), || gather(&config()?, tag.as_ref())) {
        Verdict::MayStart => Ok(()),
        Verdict::Refused(why) => Err(why),
    }
}

/// What the rule looks at, read from the files that the agent writes.
fn gather(config: &Config, tag: Option<&MachineTag>) -> Result<Facts, String> {
    let Some(tag) = tag else { return Err("the machine has no tag".to_owned()) };
    let record = ledger::read_record(&config.state_dir, &tag.item).map_err(|e| e.to_string())?;
    let store = store_record(&config.store_dir, &tag.item)?;
    let boot_id = config.boot_id().map_err(|e| format!("the host's boot id cannot be read: {e}"))?;
    let lease = Notes::below(&config.state_dir).forbids(&tag.item, tag.generation, &boot_id);
    let lease_ended =
        lease.map_err(|e| format!("the activation lease of {} cannot be read: {e}", tag.item))?;
    Ok(Facts { record, store, boot_id, lease_ended })
}

/// The store's own record, read as a file because the agent has the store open.
fn store_record(store_dir: &Path, item: &ItemName) -> Result<Option<GenerationRecord>, String> {
    let path: PathBuf = store_dir.join("items").join(item.as_str()).join("generation.json");
    let bytes = match fs::read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|e| format!("{} cannot be read: {e}", path.display()))?,
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| format!("{} cannot be read: {e}", path.display()))
}
