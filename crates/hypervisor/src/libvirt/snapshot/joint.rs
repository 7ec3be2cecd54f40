//! A snapshot at an instant that others share: the guest's processors stand still from before the first cut to after the last (R-REP-12).
//!
//! ```text
//!   prepared, guard ready ─▶ intent noted ─▶ suspend ─▶ backup job begins ─▶ resume ─▶ intent removed, guard dismissed
//!      │                                       └─ limit passes: the guard resumes, and `release` finds that it did
//!      ├─ this process dies: the guard resumes at once, and once more at the limit
//!      └─ both die: the intent is found by the next process, or before the next snapshot
//! ```
//! What makes a guest stand still is no question to the guest: QEMU stops its processors, drains and flushes its disks. A machine that
//! somebody else has suspended stays so.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio::task::JoinHandle;
use understudy_ids::{MachineName, UnixMicros};

use super::{
    super::{
        LibvirtHypervisor,
        ffi::Connection,
        guard::{self, HOLDING},
        machines::{self, look_up},
        session::failed,
    },
    Place,
    running::{Begun, Prepared},
    standby::{self, Standby},
};
use crate::{Error, GuestState, PowerState, PreparedSnapshot, Snapshot, SnapshotRequest};

/// Directory of the notes, one file per machine, below the driver's own.
const INTENTS: &str = "held";

/// The snapshot of a machine that has a process.
pub(super) struct RunningJoint {
    hypervisor: LibvirtHypervisor,
    request: SnapshotRequest,
    prepared: Prepared,
    guest: Guest,
    instant: Option<UnixMicros>,
}

enum Guest {
    /// It runs, and the guard stands by.
    Guarded(Standby),
    /// It was suspended when the snapshot was prepared, by somebody else.
    Suspended,
    Held {
        guard: Standby,
        since: Instant,
        asked: Asked,
    },
    /// Held and let go.
    Released(Duration),
}

/// What is known of the call that suspends the guest.
enum Asked {
    Answered,
    /// It took too long, and may take effect at any moment.
    OnItsWay(JoinHandle<Result<(), Error>>),
    /// Nobody will tell whether it took effect, or when.
    Lost,
}

/// The snapshot of a machine that is off, open already: it is of any instant until the machine starts.
struct OffJoint {
    hypervisor: LibvirtHypervisor,
    machine: MachineName,
    snapshot: Box<dyn Snapshot>,
}

impl LibvirtHypervisor {
    pub(in crate::libvirt) async fn prepare_joint(
        &self,
        request: &SnapshotRequest,
    ) -> Result<Box<dyn PreparedSnapshot>, Error> {
        // One that may still be held has a guard already, which is busy with it.
        self.resume_left_held_of(&request.machine).await?;
        match self.make_ready(request).await? {
            PowerState::ShutOff => Ok(Box::new(OffJoint {
                hypervisor: self.clone(),
                machine: request.machine.clone(),
                snapshot: self.open_shut_off(request).await?,
            })),
            power => {
                let place = Place::new(&self.config.state_dir, &request.machine);
                place.make().await?;
                let prepared = self.prepare_running(request, place).await?;
                let guest = match power {
                    PowerState::Running => Guest::Guarded(self.guard_of_held(&request.machine).await?),
                    _ => Guest::Suspended,
                };
                let (hypervisor, request) = (self.clone(), request.clone());
                Ok(Box::new(RunningJoint { hypervisor, request, prepared, guest, instant: None }))
            }
        }
    }

    async fn guard_of_held(&self, machine: &MachineName) -> Result<Standby, Error> {
        let note = self.note_of_held(machine);
        Standby::set(self, machine, "hold-guard", &note, &[]).await.map_err(|why| no_guard(machine, &why))
    }

    fn note_of_held(&self, machine: &MachineName) -> PathBuf {
        self.config.state_dir.join(INTENTS).join(machine.as_str())
    }

    /// Whether a machine is held by us, or about to be.
    pub(in crate::libvirt) fn tells_held(&self) -> impl Fn(&MachineName) -> bool + Send + 'static {
        let this = self.clone();
        move |machine| this.note_of_held(machine).exists()
    }

    /// Lets a guest go on that a process of ours left held which died. Does nothing when there is no note of it.
    pub(super) async fn resume_left_held_of(&self, machine: &MachineName) -> Result<(), Error> {
        let note = self.note_of_held(machine);
        if !tokio::fs::try_exists(&note).await.unwrap_or(true) {
            return Ok(());
        }
        if self.resume_held(machine).await? {
            tracing::warn!(%machine, "a guest that was left held goes on");
        }
        standby::forget(&note).await
    }

    /// As [`Self::resume_left_held_of`] for every machine that is noted.
    pub(in crate::libvirt) async fn resume_all_left_held(&self) -> Result<(), Error> {
        let mut result = Ok(());
        for machine in standby::noted(&self.config.state_dir.join(INTENTS)).await? {
            // One that cannot be let go now is no reason to hold the others.
            if let Err(error) = self.resume_left_held_of(&machine).await {
                result = Err(error);
            }
        }
        result
    }

    /// Whether it was held until now.
    async fn resume_held(&self, machine: &MachineName) -> Result<bool, Error> {
        let machine = machine.clone();
        let what = format!("letting machine {machine} go on");
        let asked = self.session.call(what.clone(), move |connection| {
            let domain = match look_up(connection, &machine) {
                Err(Error::NotFound { .. }) => return Ok(false),
                found => found?,
            };
            guard::resume(&domain).map_err(failed(what))
        });
        asked.await
    }

    async fn power_of(&self, machine: &MachineName) -> Result<PowerState, Error> {
        let machine = machine.clone();
        let what = format!("machine {machine}");
        self.session.call(what, move |connection| machines::power(&look_up(connection, &machine)?)).await
    }
}

#[async_trait]
impl PreparedSnapshot for RunningJoint {
    async fn hold(&mut self, limit: Duration) -> Result<(), Error> {
        let guard = match &mut self.guest {
            Guest::Suspended => return Ok(()),
            Guest::Guarded(guard) => guard,
            Guest::Held { .. } | Guest::Released(_) => return Err(self.out_of_turn("it was held before")),
        };
        let machine = self.request.machine.clone();
        standby::note(&self.hypervisor.note_of_held(&machine))
            .await
            .map_err(|why| no_guard(&machine, &why))?;
        // Its time begins before the guest is held, and so ends before the guest was held for the limit.
        let begins = format!("{HOLDING}{}\n", limit.as_millis());
        guard.say(&begins).await.map_err(|why| no_guard(&machine, &why))?;
        let since = Instant::now();
        // Held from here on, as far as is known: whatever comes of the call, it has to be let go.
        let Guest::Guarded(guard) = std::mem::replace(&mut self.guest, Guest::Suspended) else {
            return Err(self.out_of_turn("nothing stands by to let it go"));
        };
        self.guest = Guest::Held { guard, since, asked: Asked::Lost };
        let what = format!("holding machine {machine}");
        let session = self.hypervisor.session.clone();
        // On its own, so that it can be waited for before the guest is let go: what comes after that would hold it for good.
        let mut asked = tokio::spawn(async move {
            let suspend = |what: String| {
                move |connection: &Connection| look_up(connection, &machine)?.suspend().map_err(failed(what))
            };
            session.call(what.clone(), suspend(what)).await
        });
        let (asked, held) = match tokio::time::timeout(limit, &mut asked).await {
            Ok(Ok(Err(error @ Error::Unknown { .. }))) => (Asked::Lost, Err(error)),
            Ok(Ok(answer)) => (Asked::Answered, answer),
            Ok(Err(lost)) => (Asked::Lost, Err(self.out_of_turn(&format!("the call was lost: {lost}")))),
            Err(_) => {
                let why = format!("it did not stand still within {limit:?}");
                (Asked::OnItsWay(asked), Err(self.out_of_turn(&why)))
            }
        };
        if let Guest::Held { asked: known, .. } = &mut self.guest {
            *known = asked;
        }
        held
    }

    async fn cut(&mut self) -> Result<(), Error> {
        if !matches!(self.guest, Guest::Held { .. } | Guest::Suspended) {
            return Err(self.out_of_turn("it is not held"));
        }
        match self.hypervisor.attempt(&self.request, &self.prepared).await? {
            Some(instant) => {
                self.instant = Some(instant);
                Ok(())
            }
            None => {
                let why = "the disks whose changes it knew are not tracked any more".to_owned();
                Err(Error::Tracking { machine: self.request.machine.clone(), why })
            }
        }
    }

    async fn release(&mut self) -> Result<Duration, Error> {
        let (guard, since) = match std::mem::replace(&mut self.guest, Guest::Released(Duration::ZERO)) {
            Guest::Guarded(guard) => {
                guard.dismiss().await;
                return Ok(Duration::ZERO);
            }
            Guest::Suspended => return self.still_suspended().await,
            Guest::Released(held) => {
                self.guest = Guest::Released(held);
                return Ok(held);
            }
            Guest::Held { guard, since, asked } => {
                let known = match asked {
                    Asked::Answered => true,
                    Asked::OnItsWay(asked) => !matches!(asked.await, Ok(Err(Error::Unknown { .. })) | Err(_)),
                    Asked::Lost => false,
                };
                if !known {
                    // The guard is not dismissed and looks again at the limit; the note stays for the next snapshot.
                    self.hypervisor.resume_held(&self.request.machine).await?;
                    return Err(self.out_of_turn("it is not known whether it was held"));
                }
                (guard, since)
            }
        };
        let machine = self.request.machine.clone();
        // Where it fails the guard is not dismissed but dropped, and lets the guest go on.
        let was_held = self.hypervisor.resume_held(&machine).await?;
        let held = since.elapsed();
        guard.dismiss().await;
        standby::forget(&self.hypervisor.note_of_held(&machine)).await?;
        self.guest = Guest::Released(held);
        if was_held { Ok(held) } else { Err(self.out_of_turn("it had gone on before it was let go")) }
    }

    async fn open(self: Box<Self>) -> Result<Box<dyn Snapshot>, Error> {
        let Some(instant) = self.instant else { return Err(self.out_of_turn("it was not cut")) };
        self.hypervisor
            .read_running(&self.request, Begun::of(self.prepared, instant, GuestState::CRASH))
            .await
    }

    async fn abandon(mut self: Box<Self>) -> Result<(), Error> {
        let released = self.release().await;
        self.hypervisor.close_left_behind(&self.request.machine).await?;
        released.map(drop)
    }
}

impl RunningJoint {
    /// Whoever had suspended it has not let it go meanwhile.
    async fn still_suspended(&self) -> Result<Duration, Error> {
        match self.hypervisor.power_of(&self.request.machine).await? {
            PowerState::Paused => Ok(Duration::ZERO),
            _ => Err(self.out_of_turn("somebody let it go on meanwhile")),
        }
    }

    fn out_of_turn(&self, why: &str) -> Error {
        let what = format!("holding machine {}", self.request.machine);
        Error::WrongState { what, why: why.to_owned() }
    }
}

#[async_trait]
impl PreparedSnapshot for OffJoint {
    async fn hold(&mut self, _: Duration) -> Result<(), Error> {
        Ok(())
    }

    async fn cut(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// QEMU's lock on the disks keeps it from running while they are read; what it would take to run, ends the reading.
    async fn release(&mut self) -> Result<Duration, Error> {
        match self.hypervisor.power_of(&self.machine).await? {
            PowerState::ShutOff => Ok(Duration::ZERO),
            _ => Err(Error::WrongState {
                what: format!("a snapshot of machine {}", self.machine),
                why: "it was started meanwhile".to_owned(),
            }),
        }
    }

    async fn open(self: Box<Self>) -> Result<Box<dyn Snapshot>, Error> {
        Ok(self.snapshot)
    }

    async fn abandon(self: Box<Self>) -> Result<(), Error> {
        self.snapshot.close().await
    }
}

fn no_guard(machine: &MachineName, why: &str) -> Error {
    let what = format!("holding machine {machine}");
    Error::Failed { what, why: format!("nothing stands ready to let it go on: {why}") }
}
