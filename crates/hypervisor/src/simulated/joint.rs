//! Snapshots of simulated machines at an instant that others share: a held guest's writes are refused, and its journal waits.

use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::{SimulatedHypervisor, snapshot::SimulatedSnapshot};
use crate::{Error, PreparedSnapshot, Snapshot, SnapshotRequest};

struct SimulatedJoint {
    hypervisor: SimulatedHypervisor,
    request: SnapshotRequest,
    held: Option<Held>,
    snapshot: Option<SimulatedSnapshot>,
}

struct Held {
    since: Instant,
    /// What the machine was told, by which it is known whether somebody else has let it go since.
    until: Instant,
}

impl SimulatedHypervisor {
    pub(super) async fn prepare_joint(
        &self,
        request: &SnapshotRequest,
    ) -> Result<Box<dyn PreparedSnapshot>, Error> {
        let (name, wanted) = (request.machine.clone(), request.disks.clone());
        self.act(move |host, _| {
            let machine = host.machine(&name)?;
            match wanted.iter().find(|disk| !machine.disks.contains_key(disk)) {
                Some(disk) => Err(Error::NotFound { what: format!("disk {disk} of machine {name}") }),
                None => Ok(()),
            }
        })
        .await?;
        let (hypervisor, request) = (self.clone(), request.clone());
        Ok(Box::new(SimulatedJoint { hypervisor, request, held: None, snapshot: None }))
    }
}

impl SimulatedJoint {
    /// Whether it was held until now.
    fn let_go(&self, held: &Held) -> bool {
        let mut host = self.hypervisor.host();
        let Ok(machine) = host.machine_mut(&self.request.machine) else { return false };
        // A machine that is off is held whatever happens, until it is started, which forgets what held it.
        let was_held = machine.held_until == Some(held.until) && machine.is_held();
        if machine.held_until == Some(held.until) {
            machine.held_until = None;
        }
        was_held
    }

    fn out_of_turn(&self, why: &str) -> Error {
        let what = format!("holding machine {}", self.request.machine);
        Error::WrongState { what, why: why.to_owned() }
    }
}

#[async_trait]
impl PreparedSnapshot for SimulatedJoint {
    async fn hold(&mut self, limit: Duration) -> Result<(), Error> {
        let name = self.request.machine.clone();
        let since = Instant::now();
        let until = since + limit;
        self.held = Some(Held { since, until });
        self.hypervisor
            .act(move |host, _| {
                host.machine_mut(&name)?.held_until = Some(until);
                Ok(())
            })
            .await
    }

    async fn cut(&mut self) -> Result<(), Error> {
        if self.held.is_none() {
            return Err(self.out_of_turn("it is not held"));
        }
        let request = self.request.clone();
        let cut = self.hypervisor.act(move |host, _| host.machine_mut(&request.machine)?.snapshot(&request));
        self.snapshot = Some(cut.await?);
        Ok(())
    }

    async fn release(&mut self) -> Result<Duration, Error> {
        let Some(held) = self.held.take() else { return Ok(Duration::ZERO) };
        let was_held = self.let_go(&held);
        if was_held {
            Ok(held.since.elapsed())
        } else {
            Err(self.out_of_turn("it had gone on before it was let go"))
        }
    }

    async fn open(mut self: Box<Self>) -> Result<Box<dyn Snapshot>, Error> {
        match self.snapshot.take() {
            Some(snapshot) => Ok(Box::new(snapshot)),
            None => Err(self.out_of_turn("it was not cut")),
        }
    }

    async fn abandon(mut self: Box<Self>) -> Result<(), Error> {
        self.release().await.map(drop)
    }
}

/// As the guard of a real one would.
impl Drop for SimulatedJoint {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            self.let_go(&held);
        }
    }
}
