//! What is kept of a run (R-JOB-4).

use std::{net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};
use understudy_ids::{ItemName, ProbeName, Problem, RunId, StepName, UnixMicros};

use super::{ItemOutcome, MadeChange, Run, RunState, StepState, outcome::machine_back, outcomes, view};
use crate::{
    action::{Action, AgentWork, StepResult},
    plan::{ChangeKind, Operation, Phase, PlannedItem, Step},
    seconds,
};

/// Everything that a reader of the run's record wants to know, with the evidence. Serialises to the job's report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub run: RunId,
    pub operation: Operation,
    pub state: RunState,
    pub created_by: String,
    /// Who completed the test or committed.
    pub approved_by: Option<String>,
    /// Unplanned: what the operator stated about the primary side.
    pub primary_down_assertion: Option<String>,
    /// Test: to which network of production its machines were connected, and why (R-TF-2).
    #[serde(default)]
    pub connected_to_production: Option<String>,
    #[serde(rename = "started_us")]
    pub started: UnixMicros,
    #[serde(rename = "ended_us")]
    pub ended: Option<UnixMicros>,
    /// From the start until the last machine was back at the target: answered, or ran where nobody asked it.
    #[serde(rename = "rto_seconds", with = "seconds")]
    pub rto: Option<Duration>,
    /// The largest loss of any item; zero where the run proves that nothing was lost.
    #[serde(rename = "rpo_seconds", with = "seconds")]
    pub rpo: Option<Duration>,
    pub items: Vec<ItemOutcome>,
    /// Where the machines were to go, with each address and why it is that one.
    #[serde(default)]
    pub planned: Vec<PlannedItem>,
    /// What was changed about the run before its commit.
    pub changes: Vec<MadeChange>,
    pub isolation: Vec<IsolationEvidence>,
    /// What the machines were asked after they had been started, and what they answered (R-TF-8).
    #[serde(default)]
    pub probes: Vec<ProbeEvidence>,
    pub steps: Vec<StepReport>,
    pub problems: Vec<Problem>,
}

/// What a probe tried from inside a test network and what answered (R-TF-9).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsolationEvidence {
    pub step: StepName,
    pub ports: Vec<String>,
    pub tried: Vec<IpAddr>,
    pub answered: Vec<IpAddr>,
    pub method: String,
}

/// One question to a machine and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeEvidence {
    pub step: StepName,
    pub item: ItemName,
    pub name: ProbeName,
    /// As people type it.
    pub asked: String,
    /// Unset: it was not asked.
    pub passed: Option<bool>,
    #[serde(rename = "after_seconds", with = "seconds")]
    pub after: Option<Duration>,
    pub seen: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepReport {
    pub step: StepName,
    pub item: Option<ItemName>,
    pub title: String,
    pub phase: Phase,
    pub state: StepState,
    pub tries: u32,
    #[serde(rename = "took_seconds", with = "seconds")]
    pub took: Option<Duration>,
    pub outcome: String,
    /// The end of what a script wrote; left out for other steps.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
}

/// The report as of now; final once the run has ended.
pub fn report(run: &Run) -> Report {
    let items = outcomes(run);
    Report {
        run: run.id,
        operation: run.plan.operation,
        state: view::state(run),
        created_by: run.created_by.clone(),
        approved_by: run.approved.as_ref().map(|approval| approval.by.clone()),
        primary_down_assertion: run.spec.primary_down_assertion.clone(),
        connected_to_production: run.spec.test_network.production_notice(),
        started: run.started,
        ended: run.ended.map(|ended| ended.at),
        rto: rto(run),
        rpo: rpo(run, &items),
        items,
        planned: run.plan.items.clone(),
        changes: run.changes.clone(),
        isolation: isolation(run),
        probes: run.plan.steps.iter().filter_map(|step| probe(run, step)).collect(),
        steps: run.plan.steps.iter().map(|step| step_report(run, step)).collect(),
        problems: view::problems(run),
    }
}

/// Until the last machine was back. None while one is not.
fn rto(run: &Run) -> Option<Duration> {
    let back = run.plan.items.iter().map(|item| machine_back(run, &item.item));
    let times: Option<Vec<UnixMicros>> = back.collect();
    // A failback may have waited for days before anybody asked for it.
    let completed = run.changes.iter().find(|made| made.kind == ChangeKind::CompleteFailover);
    let begun = completed.map_or(run.started, |made| made.at);
    times?.into_iter().max().map(|last| last.since(begun))
}

fn rpo(run: &Run, items: &[ItemOutcome]) -> Option<Duration> {
    match run.plan.operation {
        _ if run.is_rolling_back() => None,
        Operation::UnplannedFailover => items.iter().filter_map(|item| item.loss_span).max(),
        Operation::PlannedFailover | Operation::Failback => {
            let proven =
                |item: &ItemOutcome| !item.disks.is_empty() && item.disks.iter().all(|disk| disk.equal);
            items.iter().all(proven).then_some(Duration::ZERO)
        }
        _ => None,
    }
}

fn isolation(run: &Run) -> Vec<IsolationEvidence> {
    let evidence = run.plan.steps.iter().filter_map(|step| match run.steps[&step.id].result.as_ref()? {
        StepResult::Isolation { ports, tried, answered, method } => Some(IsolationEvidence {
            step: step.id.clone(),
            ports: ports.clone(),
            tried: tried.clone(),
            answered: answered.clone(),
            method: method.clone(),
        }),
        _ => None,
    });
    evidence.collect()
}

fn probe(run: &Run, step: &Step) -> Option<ProbeEvidence> {
    let Action::Agent { item, work: AgentWork::ProbeMachine { probe, .. }, .. } = &step.action else {
        return None;
    };
    let answer = match &run.steps[&step.id].result {
        Some(StepResult::Probe { reachable, after, seen }) => Some((*reachable, *after, seen.clone())),
        _ => None,
    };
    let (passed, after, seen) = match answer {
        Some((passed, after, seen)) => (Some(passed), Some(after), seen),
        None => (None, None, String::new()),
    };
    let (step, item, name) = (step.id.clone(), item.clone(), probe.name.clone());
    Some(ProbeEvidence { step, item, name, asked: probe.to_string(), passed, after, seen })
}

fn step_report(run: &Run, step: &Step) -> StepReport {
    let status = &run.steps[&step.id];
    StepReport {
        step: step.id.clone(),
        item: step.item.clone(),
        title: step.title.clone(),
        phase: step.phase,
        state: status.state,
        tries: status.tries,
        took: status.started.zip(status.ended).map(|(started, ended)| ended.since(started)),
        outcome: view::step_outcome(run, &step.id),
        output: view::step_output(run, &step.id),
    }
}
