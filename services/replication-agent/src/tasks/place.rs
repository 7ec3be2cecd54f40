//! What this side is to an item: prepared, fenced, removed.

use understudy_hypervisor::{PowerState, TagRole};
use understudy_replication::RetentionPolicy;
use understudy_replication_api::{AgentTaskResult, DiskSize};

use super::{Result, Scope, TaskError, Tasks, unreadable};
use crate::ledger::Role;

impl Tasks {
    /// The agent is ready to receive points.
    pub(super) async fn prepare_replica(
        &self,
        scope: &Scope,
        disks: Vec<DiskSize>,
        retention: RetentionPolicy,
    ) -> Result {
        let item = scope.item.clone();
        let (held, space) =
            self.replica.call(move |store| Ok((store.points(&item)?.len(), store.space()?))).await?;
        // A replica can grow to the size of its disks. One that is there already has what it has.
        let needed: u64 = disks.iter().map(|d| d.size).sum();
        if held == 0 && space.available < needed {
            let message = format!(
                "the disks of {} have {needed} bytes, the replica store has {} left",
                scope.item, space.available
            );
            return Err(TaskError::failed(
                "NO_SPACE",
                message,
                "Add space to the replica store, or choose another host.",
            ));
        }
        let before = self.ledger.get(&scope.item).map(|r| r.retention);
        let is_other = before.is_some_and(|before| before != retention);
        self.ledger.update(&scope.item, move |r| r.retention = retention).await?;
        // A point may not come for long, or never while replication is paused.
        if let Some(record) = self.ledger.get(&scope.item).filter(|_| is_other && held > 0) {
            self.sink.tidy(record);
        }
        Ok(AgentTaskResult::Done)
    }

    /// Nothing of the item is in the store any more.
    pub(super) async fn remove_replica(&self, scope: &Scope) -> Result {
        if self.ledger.get(&scope.item).is_some_and(|r| r.role == Role::Source) {
            let message = format!("{} is active on this host; its disks may be in the store", scope.item);
            return Err(TaskError::failed("ACTIVE_HERE", message, "Remove the replica on the other side."));
        }
        let item = scope.item.clone();
        self.replica.call(move |store| store.remove_item(&item)).await?;
        self.activation.release(&scope.item).map_err(unreadable)?;
        self.ledger.remove(&scope.item).await?;
        Ok(AgentTaskResult::Done)
    }

    /// The admission has written down that this side is fenced and has ended its loop; what is left is the machine.
    pub(super) async fn fence(&self, scope: &Scope, power_off: bool) -> Result {
        let inventory = self.hypervisor.inventory().await.map_err(TaskError::of_question)?;
        let old = inventory.machines.into_iter().filter(|machine| {
            let ours = |t: &understudy_hypervisor::MachineTag| {
                t.item == scope.item && t.role == TagRole::Active && t.generation <= scope.generation
            };
            machine.tag.as_ref().is_some_and(ours)
        });
        for machine in old.filter(|m| m.power != PowerState::ShutOff) {
            if !power_off {
                let message = format!("machine {} of an older generation still runs", machine.name);
                return Err(TaskError::failed(
                    "MACHINE_RUNS",
                    message,
                    "Allow powering it off, or shut it down.",
                ));
            }
            tracing::warn!(item = %scope.item, machine = %machine.name, "fenced machine is powered off");
            self.hypervisor.power_off(&machine.name).await?;
        }
        Ok(AgentTaskResult::Done)
    }
}
