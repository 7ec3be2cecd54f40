//! Activation leases of this host: its machines may run for as long as the control plane renews them (R-FO-7).
//!
//! ```text
//!   orchestrator ── RenewLeases ─▶ Activation ─▶ <state>/leases/<item>.json ◀── keeper, in the agent ──────┬─▶ machine cut off
//!                                                           ▲      ▲        ◀── keeper, in the guard process ┘
//!                        guard, at the start of any machine ┘      └ facts: held, ended, stopped when
//! ```
//! Only items whose policy says so have a lease. An agent that has nothing to stop its machines with takes none, so that nobody relies on it.

pub mod guard;
mod keeper;
mod notes;

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use keeper::{Keeper, Keeping};
use notes::since_boot;
pub use notes::{Note, Notes};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use understudy_hypervisor::Hypervisor;
use understudy_ids::{Generation, ItemName};
use understudy_replication::activation::Held;
use understudy_replication_api::{
    ActivationHandler, LeaseFacts,
    activation::{HeldLease, Lease, Pulse, Refused, Renewal, Renewed},
};
use understudy_rpc::ApiError;

use crate::{
    config::HypervisorConfig,
    ledger::{Ledger, Role},
};

/// The leases of this host. Clones share them.
#[derive(Clone)]
pub struct Activation {
    notes: Notes,
    ledger: Ledger,
    hypervisor: Arc<dyn Hypervisor>,
    /// Something stands by that outlives this process, where there is such a thing.
    guarded: Arc<watch::Sender<bool>>,
    changes: Arc<watch::Sender<u64>>,
    /// Several orchestrators may renew at once.
    writing: Arc<Mutex<()>>,
}

impl Activation {
    pub fn new(ledger: Ledger, hypervisor: Arc<dyn Hypervisor>) -> Self {
        let notes = Notes::below(ledger.state_dir());
        let (guarded, changes) = (Arc::new(watch::Sender::new(false)), Arc::new(watch::Sender::new(0)));
        Self { notes, ledger, hypervisor, guarded, changes, writing: Arc::default() }
    }

    /// Counts changes, for whoever tells others about them.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Keeps the leases until the agent shuts down. Machines of a driver that ends with this process need no guard beside it.
    pub async fn run(&self, driver: &HypervisorConfig, shutdown: CancellationToken) {
        let keeping = Keeping {
            notes: self.notes.clone(),
            state_dir: self.ledger.state_dir().to_owned(),
            boot_id: self.ledger.boot_id().to_owned(),
            hypervisor: self.hypervisor.clone(),
            keeper: Keeper::Agent,
        };
        let guarding = async {
            match driver {
                HypervisorConfig::Libvirt(libvirt) => {
                    let charge = guard::Charge {
                        uri: libvirt.uri.clone(),
                        state_dir: keeping.state_dir.clone(),
                        boot_id: keeping.boot_id.clone(),
                    };
                    guard::have_one(charge, &self.guarded, shutdown.clone()).await;
                }
                HypervisorConfig::Simulated(_) | HypervisorConfig::Files(_) => {
                    self.guarded.send_replace(true);
                }
            }
        };
        tokio::join!(guarding, keeping.keep(|_| !shutdown.is_cancelled()));
    }

    /// The item is bound by no lease on this host any more: it is not protected, or not from here.
    pub fn release(&self, item: &ItemName) -> io::Result<()> {
        self.notes.remove(item)?;
        self.changes.send_modify(|n| *n += 1);
        Ok(())
    }

    /// Whether the item's machine must not run here at that generation, for want of a lease.
    pub fn forbids(&self, item: &ItemName, generation: Generation) -> io::Result<bool> {
        self.notes.forbids(item, generation, self.ledger.boot_id())
    }

    /// What is told of an item's lease.
    pub fn facts(&self, item: &ItemName) -> Option<LeaseFacts> {
        let read = || {
            let Some(note) = self.notes.get(item)? else { return Ok(None) };
            let ended = note.has_ended(self.ledger.boot_id(), since_boot()?);
            Ok::<_, io::Error>(Some(LeaseFacts {
                length: note.held.length,
                ended,
                stopped: self.notes.stopped(item)?,
            }))
        };
        read().unwrap_or_else(|error| {
            tracing::warn!(%item, %error, "its activation lease cannot be read");
            None
        })
    }

    fn is_of_this_boot(&self, note: &Note) -> bool {
        note.boot_id == self.ledger.boot_id()
    }

    fn take(&self, renewal: Renewal) -> io::Result<Renewed> {
        let Renewal { answers, leases, released } = renewal;
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        for item in &released {
            self.release(item)?;
        }
        let mut refused = Vec::new();
        for lease in leases {
            let item = lease.item.clone();
            if let Err(why) = self.take_one(&answers, lease)? {
                refused.push(Refused { item, why });
            }
        }
        let held = self.notes.all()?.into_iter().filter(|note| self.is_of_this_boot(note));
        let held = held.map(|Note { item, held, .. }| HeldLease {
            item,
            generation: held.generation,
            length: held.length,
        });
        Ok(Renewed { held: held.collect(), refused })
    }

    fn take_one(&self, answers: &Pulse, lease: Lease) -> io::Result<Result<(), String>> {
        let Lease { item, generation, length, machine, machine_uuid } = lease;
        let is_active = |role: Role, seen: Generation| role == Role::Source && seen == generation;
        if !self.ledger.get(&item).is_some_and(|record| is_active(record.role, record.generation)) {
            return Ok(Err(format!("this host is not the active side of {item} at generation {generation}")));
        }
        // One that was spoilt by the host's end is put right by the next.
        let before = self.notes.get(&item).unwrap_or_else(|error| {
            tracing::error!(%item, %error, "the note of its activation lease cannot be read and is written anew");
            None
        });
        let held = before.as_ref().filter(|note| self.is_of_this_boot(note)).map(|note| note.held);
        let renewal = Held { generation, counted_from: answers.since_boot, length };
        match Held::renewed(held, renewal, since_boot()?) {
            Ok(held) => {
                let boot_id = self.ledger.boot_id().to_owned();
                let note = Note { item, machine, machine_uuid, boot_id, held };
                self.notes.write(&note, before.as_ref())?;
                if before.is_none_or(|before| before.held.length != length) {
                    self.changes.send_modify(|n| *n += 1);
                }
                Ok(Ok(()))
            }
            Err(why) => Ok(Err(why.to_string())),
        }
    }
}

#[async_trait]
impl ActivationHandler for Activation {
    async fn pulse(&self) -> Result<Pulse, ApiError> {
        let since_boot = since_boot().map_err(ApiError::internal)?;
        Ok(Pulse { boot_id: self.ledger.boot_id().to_owned(), since_boot })
    }

    async fn renew(&self, renewal: Renewal) -> Result<Renewed, ApiError> {
        if renewal.answers.boot_id != self.ledger.boot_id() {
            let message = "the renewal answers a pulse from before this host's last boot";
            return Err(ApiError::failed_precondition(
                "OTHER_BOOT",
                message,
                "Ask for a pulse, and answer that one.",
            ));
        }
        let stands_by = self.hypervisor.can_cut_off() && *self.guarded.borrow();
        if !renewal.leases.is_empty() && !stands_by {
            let message = "nothing stands by here that could stop a machine whose lease ends";
            let remedy = "See the agent's log. Machines that only show as disk files cannot have a lease.";
            return Err(ApiError::failed_precondition("NO_GUARD", message, remedy));
        }
        let this = self.clone();
        let taken = tokio::task::spawn_blocking(move || this.take(renewal)).await;
        taken.map_err(ApiError::internal)?.map_err(ApiError::internal)
    }
}
