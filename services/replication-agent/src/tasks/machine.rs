//! Machines: shut down, start, probe.

use std::{net::IpAddr, time::Duration};

use tokio::time::Instant;
use understudy_hypervisor::{Answer, Console, MachineTag, PowerState, Question, TagRole};
use understudy_ids::{MachineName, NetworkName};
use understudy_jobs_api::TaskContext;
use understudy_probe::Probe;
use understudy_replication_api::AgentTaskResult;

use super::{Result, Scope, TaskError, Tasks, no_machine, not_ours, now, stopped, unreadable};

/// One question to a machine takes at most this long, so that progress is told and a stop is heard.
const ONE_QUESTION: Duration = Duration::from_secs(5);
/// How much is told of why there is no picture, in bytes.
const MAX_WHY: usize = 512;
/// Between the starts of two questions that are answered at once by "no".
const PERIOD: Duration = Duration::from_secs(1);

impl Tasks {
    /// The machine is off.
    pub(super) async fn shut_down_machine(
        &self,
        scope: &Scope,
        name: &MachineName,
        grace: Duration,
        then_power_off: bool,
    ) -> Result {
        let machine = self.machine(name).await?.ok_or_else(|| no_machine(name))?;
        if machine.tag.as_ref().is_none_or(|t| t.item != scope.item) {
            return Err(not_ours(&machine, &scope.item));
        }
        if machine.power == PowerState::ShutOff {
            return Ok(AgentTaskResult::MachineStopped { by_guest: false, time: now() });
        }
        let by_guest = self.hypervisor.shut_down(name, grace).await?;
        if !by_guest && !then_power_off {
            let message = format!("the guest of {name} did not shut down within {grace:?} and runs on");
            let remedy = "Shut it down inside the guest, allow a longer grace, or allow powering it off.";
            return Err(TaskError::failed("GUEST_DID_NOT_SHUT_DOWN", message, remedy));
        }
        if !by_guest {
            self.hypervisor.power_off(name).await?;
        }
        Ok(AgentTaskResult::MachineStopped { by_guest, time: now() })
    }

    /// The machine runs. For the item's own machine the confirmation is written first: the guard asks for it (R-FO-7).
    pub(super) async fn start_machine(&self, scope: &Scope, name: &MachineName) -> Result {
        let machine = self.machine(name).await?.ok_or_else(|| no_machine(name))?;
        let tag = machine
            .tag
            .clone()
            .filter(|t| t.item == scope.item)
            .ok_or_else(|| not_ours(&machine, &scope.item))?;
        if tag.role == TagRole::Active {
            if tag.generation != scope.generation {
                let tag = MachineTag { generation: scope.generation, ..tag };
                self.hypervisor.set_tag(name, Some(&tag)).await?;
            }
            self.ledger.confirm(&scope.item, scope.generation).await?;
            if self.activation.forbids(&scope.item, scope.generation).map_err(unreadable)? {
                let message = format!("the activation lease of {} has ended and was not renewed", scope.item);
                return Err(TaskError::retry(
                    "LEASE_ENDED",
                    message,
                    "It is started when the lease is renewed.",
                ));
            }
        }
        self.unlock_machine(scope, &machine).await?;
        let started = self.hypervisor.start(name).await.map_err(TaskError::from);
        started.map_err(|error| self.not_started(scope, &machine, error))?;
        Ok(AgentTaskResult::MachineStarted { time: now() })
    }

    /// Asks until there is the answer that is wanted, the machine is known to be off or the time is up; all are results (R-TF-8).
    pub(super) async fn probe_machine(
        &self,
        machine: MachineName,
        at: Option<(NetworkName, IpAddr)>,
        probe: Probe,
        context: &TaskContext,
    ) -> Result {
        let Probe { name, time_out, kind } = probe;
        let question = Question { machine, at, kind };
        let began = Instant::now();
        loop {
            let left = time_out.saturating_sub(began.elapsed());
            let asked = Instant::now();
            let asking = self.hypervisor.ask(&question, ONE_QUESTION.min(left));
            let Answer { passed, seen } = asking.await.map_err(TaskError::of_question)?;
            let after = began.elapsed();
            // A question that gets no time would be answered by "too late", and hide what was seen before.
            let is_last = began.elapsed() + PERIOD > time_out;
            // Asked after the question was: a machine that is off now did not merely answer too late.
            if passed || is_last || self.is_off(&question.machine).await? {
                return Ok(AgentTaskResult::ProbeResult { reachable: passed, after, seen });
            }
            let percent = (after.as_secs_f64() / time_out.as_secs_f64().max(0.001) * 100.0) as u32;
            context.progress(percent, format!("{name}: {seen}, {} s", after.as_secs()));
            tokio::select! {
                () = tokio::time::sleep_until(asked + PERIOD) => {}
                () = context.stopped().cancelled() => return Err(stopped()),
            }
        }
    }

    /// A picture that cannot be had is told and no error: it would say nothing about the machine.
    pub(super) async fn take_screenshot(&self, machine: &MachineName) -> AgentTaskResult {
        match self.hypervisor.screenshot(machine).await {
            Ok(Console::Shown(png)) => AgentTaskResult::Screenshot(png),
            Ok(Console::Dark(why)) => AgentTaskResult::NoScreenshot(shortened(why)),
            Err(error) => AgentTaskResult::NoScreenshot(shortened(error.to_string())),
        }
    }

    /// A machine that nobody can say anything about is not off (invariant 16).
    async fn is_off(&self, name: &MachineName) -> Result<bool> {
        let machine = self.machine(name).await?;
        Ok(machine.is_some_and(|machine| machine.power == PowerState::ShutOff))
    }
}

fn shortened(mut why: String) -> String {
    why.truncate(why.floor_char_boundary(MAX_WHY));
    why
}
