//! Watches the leases of this host and stops machines whose lease has ended, in the agent and in a process beside it that outlives it.
//!
//! ```text
//!   each note ─▶ of an item that is no longer protected ─▶ (the agent) forgotten
//!             ─▶ in force ─▶ machine runs again after it was stopped ─▶ (the agent) mark removed
//!             ─▶ ended ─▶ machine cut off, each time anew ─▶ marked as stopped
//! ```
//! Promise: whatever the agent, libvirtd and the storage do, a machine whose lease has ended has no network and then does not run, within
//! [`STOP_WITHIN`](understudy_replication::activation::STOP_WITHIN).

use std::{io, sync::Arc, time::Duration};

use understudy_hypervisor::{Hypervisor, PowerState};
use understudy_ids::ItemName;

use super::notes::{Note, Notes, since_boot};
use crate::ledger::{self, ItemRecord, Role};

/// How often the leases are looked at. Must be short beside what stopping may take.
const TICK: Duration = Duration::from_millis(500);

/// Who keeps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeper {
    Agent,
    /// A process that must not write what the agent writes.
    Guard,
}

pub struct Keeping {
    pub notes: Notes,
    pub state_dir: std::path::PathBuf,
    pub boot_id: String,
    pub hypervisor: Arc<dyn Hypervisor>,
    pub keeper: Keeper,
}

impl Keeping {
    /// Looks at all leases, again and again, for as long as `goes_on` says so. It is told whether any machine may still have to be stopped.
    pub async fn keep(&self, mut goes_on: impl FnMut(bool) -> bool) {
        loop {
            let open = match self.round().await {
                Ok(open) => open,
                Err(error) => {
                    tracing::error!(%error, "the activation leases of this host cannot be read");
                    true
                }
            };
            if !goes_on(open) {
                return;
            }
            tokio::time::sleep(TICK).await;
        }
    }

    async fn round(&self) -> io::Result<bool> {
        let notes = self.notes.all()?;
        // Side by side: one that hangs must not keep the others from their time.
        let each = futures::future::join_all(notes.iter().map(|note| self.look_at(note))).await;
        let mut open = false;
        for looked in each {
            open |= looked?;
        }
        Ok(open)
    }

    /// Whether its machine may still have to be stopped.
    async fn look_at(&self, note: &Note) -> io::Result<bool> {
        let item = &note.item;
        // A record that cannot be read is no reason to let a machine run.
        let record = ledger::read_record(&self.state_dir, item);
        if matches!(record, Ok(None)) {
            self.forget(item)?;
            return Ok(false);
        }
        if !note.has_ended(&self.boot_id, since_boot()?) {
            self.take_mark_back(note).await?;
            return Ok(true);
        }
        match self.hypervisor.cut_off(&note.machine, note.machine_uuid).await {
            Ok(true) => {
                tracing::error!(%item, machine = %note.machine, "its activation lease has ended: the machine was stopped");
                self.notes.mark(item, std::time::SystemTime::now().into())?;
                Ok(true)
            }
            Ok(false) => {
                // It is somebody else's by now, so nobody waits for it here.
                if let Ok(Some(record)) = record
                    && !is_active(&record, note)
                {
                    self.forget(item)?;
                }
                Ok(false)
            }
            Err(error) => {
                tracing::error!(%item, machine = %note.machine, %error, "its activation lease has ended, and it may still run");
                Ok(true)
            }
        }
    }

    /// Somebody has started it again, as he may.
    async fn take_mark_back(&self, note: &Note) -> io::Result<()> {
        if self.keeper == Keeper::Guard || self.notes.stopped(&note.item)?.is_none() {
            return Ok(());
        }
        let machine = self.hypervisor.machine(&note.machine).await;
        if machine
            .is_ok_and(|m| m.is_some_and(|m| m.uuid == note.machine_uuid && m.power == PowerState::Running))
        {
            self.notes.unmark(&note.item)?;
        }
        Ok(())
    }

    fn forget(&self, item: &ItemName) -> io::Result<()> {
        match self.keeper {
            Keeper::Agent => self.notes.remove(item),
            Keeper::Guard => Ok(()),
        }
    }
}

fn is_active(record: &ItemRecord, note: &Note) -> bool {
    record.role == Role::Source && record.generation == note.held.generation
}
