//! Bringing a guest to rest for the moment at which a snapshot begins, and never leaving it so (R-REP-3).
//!
//! ```text
//!   guard ready ─▶ intent noted ─▶ freeze ─▶ [the snapshot begins] ─▶ thaw ─▶ intent removed, guard dismissed
//!      │                              └─ limit passes: this process thaws, and the guard does
//!      ├─ this process dies: the guard thaws at once, and once more at the limit
//!      └─ both die: the intent is found by the next process, or before the next snapshot
//! ```
//! Freezing goes through the guest's agent, which runs the guest's own scripts before it freezes and after it has thawed. A
//! freeze whose answer does not come may still take effect later, so every way out of here ends with a thaw; thawing what is
//! not frozen does nothing. Nothing is frozen before a guard is there that can thaw it.

use std::{
    path::PathBuf,
    pin::pin,
    time::{Duration, Instant},
};

use tokio::time::timeout;
use understudy_ids::MachineName;

use super::{
    super::{
        LibvirtHypervisor, describe,
        ffi::{CallError, Domain},
        guard,
        machines::{self, look_up},
    },
    standby::{self, Standby},
};
use crate::{Error, GuestState, NotQuiesced, PowerState, Quiesce, QuiesceFailure, SnapshotRequest};

/// A guest whose file systems are frozen. It thaws in whatever way this ends.
pub(super) struct Frozen {
    hypervisor: LibvirtHypervisor,
    machine: MachineName,
    guard: Standby,
    since: Instant,
}

impl LibvirtHypervisor {
    /// Does `begin` with the guest at rest if the request asks for that, and says how the guest stood.
    pub(super) async fn at_rest<T>(
        &self,
        request: &SnapshotRequest,
        begin: impl Future<Output = Result<T, Error>>,
    ) -> (Result<T, Error>, GuestState) {
        let Some(Quiesce { limit }) = request.quiesce else { return (begin.await, GuestState::CRASH) };
        let frozen = match self.freeze(&request.machine, limit).await {
            Ok(frozen) => frozen,
            Err(why) => return (begin.await, GuestState::Crash { not_quiesced: Some(why) }),
        };
        let mut begin = pin!(begin);
        let left = limit.saturating_sub(frozen.since.elapsed());
        let in_time = timeout(left, &mut begin).await;
        let thawed = frozen.thaw().await;
        let (begun, thawed) = match in_time {
            Ok(begun) => (begun, thawed),
            Err(_) => (begin.await, thawed.and_then(|span| Err(too_long(span)))),
        };
        let guest = match thawed {
            Ok(frozen) => GuestState::Application { frozen },
            Err(why) => GuestState::Crash { not_quiesced: Some(why) },
        };
        (begun, guest)
    }

    /// Freezes the machine's file systems. When this fails, they are thawed or about to be.
    async fn freeze(&self, machine: &MachineName, limit: Duration) -> Result<Frozen, NotQuiesced> {
        let no_answer = |error: Error| NotQuiesced::new(QuiesceFailure::NoAnswer, error.to_string());
        // One that may still be frozen has a guard already, which is busy with it.
        self.thaw_left_frozen_of(machine).await.map_err(no_answer)?;
        let what = format!("looking for the guest's agent of machine {machine}");
        let named = machine.clone();
        let heard = self.session.call(what, move |connection| can_be_asked(&look_up(connection, &named)?));
        heard.await.map_err(no_answer)??;
        let no_guard = |why: String| NotQuiesced::new(QuiesceFailure::NoGuard, why);
        let limit_ms = limit.as_millis().to_string();
        let note = self.intent(machine);
        let arguments = ["--limit-ms", limit_ms.as_str()];
        let guard = Standby::set(self, machine, "thaw-guard", &note, &arguments).await.map_err(no_guard)?;
        standby::note(&note).await.map_err(no_guard)?;
        let frozen =
            Frozen { hypervisor: self.clone(), machine: machine.clone(), guard, since: Instant::now() };
        let what = format!("freezing the file systems of machine {machine}");
        let named = machine.clone();
        // Its answer has to come before the one about the call.
        let patience = limit.min(self.session.timeout() / 2);
        let asked = self.session.call(what, move |connection| {
            let domain = look_up(connection, &named)?;
            Ok(freeze(&domain, patience))
        });
        let failure = match asked.await {
            Ok(Ok(())) => return Ok(frozen),
            Ok(Err(failure)) => failure,
            Err(error) => no_answer(error),
        };
        // Thaws at the guard's pace where it cannot be done now; the snapshot does not wait for that.
        if let Err(error) = frozen.end().await {
            tracing::warn!(%machine, %error, "whether the guest is thawed is not known yet; its guard goes on trying");
        }
        Err(failure)
    }

    /// Thaws what a process of ours left frozen that died. Does nothing when there is no note of it.
    pub(super) async fn thaw_left_frozen_of(&self, machine: &MachineName) -> Result<(), Error> {
        let note = self.intent(machine);
        if !tokio::fs::try_exists(&note).await.unwrap_or(true) {
            return Ok(());
        }
        let thawed = self.thaw(machine).await?;
        if thawed > 0 {
            tracing::warn!(%machine, file_systems = thawed, "a guest that was left frozen is thawed");
        }
        standby::forget(&note).await
    }

    /// As [`Self::thaw_left_frozen_of`] for every machine that is noted.
    pub(in crate::libvirt) async fn thaw_all_left_frozen(&self) -> Result<(), Error> {
        let mut result = Ok(());
        for machine in standby::noted(&self.config.state_dir.join(INTENTS)).await? {
            // One that cannot be thawed now is no reason to leave the others frozen.
            if let Err(error) = self.thaw_left_frozen_of(&machine).await {
                result = Err(error);
            }
        }
        result
    }

    /// How many file systems were thawed; none where the machine does not run, or is not there.
    async fn thaw(&self, machine: &MachineName) -> Result<u32, Error> {
        let machine = machine.clone();
        let what = format!("thawing the file systems of machine {machine}");
        let named = what.clone();
        let asked = self.session.call(what, move |connection| {
            let domain = match look_up(connection, &machine) {
                Err(Error::NotFound { .. }) => return Ok(0),
                found => found?,
            };
            guard::thaw(&domain).map_err(|error| Error::Failed { what: named, why: error.to_string() })
        });
        asked.await
    }

    fn intent(&self, machine: &MachineName) -> PathBuf {
        self.config.state_dir.join(INTENTS).join(machine.as_str())
    }
}

/// Directory of the notes, one file per machine, below the driver's own.
const INTENTS: &str = "frozen";

impl Frozen {
    /// Thaws the guest and says for how long it had been frozen, or that it was thawed before: then whatever was done meanwhile
    /// may have been done too late.
    pub(super) async fn thaw(self) -> Result<Duration, NotQuiesced> {
        let (machine, since) = (self.machine.clone(), self.since);
        match self.end().await {
            Ok(0) => Err(too_long(since.elapsed())),
            Ok(_) => Ok(since.elapsed()),
            Err(error) => {
                tracing::warn!(%machine, %error, "whether the guest is thawed is not known yet; its guard goes on trying");
                Err(NotQuiesced::new(QuiesceFailure::NoAnswer, error.to_string()))
            }
        }
    }

    /// The guard is dismissed only when the guest is known to be thawed, and so is the note.
    async fn end(self) -> Result<u32, Error> {
        let Self { hypervisor, machine, guard, .. } = self;
        let thawed = hypervisor.thaw(&machine).await?;
        guard.dismiss().await;
        standby::forget(&hypervisor.intent(&machine)).await?;
        Ok(thawed)
    }
}

fn too_long(span: Duration) -> NotQuiesced {
    let why = format!(
        "its limit had passed after {span:?}, and whether the snapshot had begun before that is not certain"
    );
    NotQuiesced::new(QuiesceFailure::TooLong, why)
}

/// Nothing is asked of a guest that would not hear it: what may have been asked has to be taken back.
fn can_be_asked(domain: &Domain) -> Result<Result<(), NotQuiesced>, Error> {
    if machines::power(domain)? != PowerState::Running {
        return Ok(Err(NotQuiesced::new(QuiesceFailure::NoAnswer, "the machine is paused")));
    }
    Ok(match describe::agent_listens(&describe::description(domain, false)?) {
        None => {
            let why = format!("its description has no channel {}", describe::AGENT_CHANNEL);
            Err(NotQuiesced::new(QuiesceFailure::NoAgent, why))
        }
        Some(false) => {
            Err(NotQuiesced::new(QuiesceFailure::NoAnswer, "nothing in the guest has opened its channel"))
        }
        Some(true) => Ok(()),
    })
}

fn freeze(domain: &Domain, limit: Duration) -> Result<(), NotQuiesced> {
    let refused = |error: CallError| NotQuiesced::new(failure_of(&error), error.to_string());
    // Without one, libvirt would wait for an answer for as long as the machine runs.
    domain.set_agent_patience(limit).map_err(refused)?;
    match domain.freeze().map_err(refused)? {
        0 => Err(NotQuiesced::new(QuiesceFailure::NothingToFreeze, "the guest's agent froze no file system")),
        _ => Ok(()),
    }
}

fn failure_of(error: &CallError) -> QuiesceFailure {
    if error.is_without_agent() {
        QuiesceFailure::NoAgent
    } else if error.is_agent_silent() {
        QuiesceFailure::NoAnswer
    } else {
        QuiesceFailure::Refused
    }
}
