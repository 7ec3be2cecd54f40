//! Following a run: a line for every step that ends, a bar while it goes on.
//!
//! job-tracker's event stream says *that* something changed, and resumes where it broke; the orchestrator says *what*. Once in a
//! while the orchestrator is asked without an event, so that a job-tracker that is away delays nothing but the display.

use std::{collections::BTreeSet, io::IsTerminal, time::Duration};

use futures::StreamExt;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use understudy_ids::StepName;
use understudy_jobs_api::{JobsClient, WatchFilter, WatchFrom};
use understudy_recovery_api::{
    RecoveryClient, RunState, StepState,
    view::{Run, RunStep},
};
use understudy_rpc::{ApiError, retry};

use crate::output::{self, Format};

const WITHOUT_EVENTS: Duration = Duration::from_secs(2);

/// Until the run ends or waits for a person; returns it as it is then.
///
/// `seen` is the run as its reader knows it; steps that had ended there are not told again.
pub async fn follow(
    recovery: &RecoveryClient,
    jobs: &JobsClient,
    seen: &Run,
    format: Format,
) -> anyhow::Result<Run> {
    let id = seen.name;
    let filter = WatchFilter { job: Some(id), owner: None };
    let mut events = Box::pin(jobs.watch_events(WatchFrom::Now, filter));
    let mut display = Display::new(format, seen);
    let run = loop {
        match recovery.get_run(id).await {
            Ok(run) => {
                display.show(&run);
                if run.state.is_final() || matches!(run.state, RunState::Waiting | RunState::Failed) {
                    break run;
                }
            }
            Err(error) if passes(&error) => {
                display.note(&format!("waiting for the orchestrator: {}", error.message))
            }
            Err(error) => return Err(error.into()),
        }
        // Whichever comes first; an error of the watch leaves the clock.
        let _ = tokio::time::timeout(WITHOUT_EVENTS, events.next()).await;
    };
    display.end();
    Ok(run)
}

fn passes(error: &ApiError) -> bool {
    retry::retryable(error)
}

struct Display {
    bar: ProgressBar,
    told: BTreeSet<StepName>,
    quiet: bool,
}

impl Display {
    fn new(format: Format, seen: &Run) -> Self {
        let bar = ProgressBar::new(100);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos:>3} %  {msg}") {
            bar.set_style(style);
        }
        if format == Format::Json || !std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let told = seen.steps.iter().filter(|s| ended(s.state)).map(|s| s.plan.step.clone()).collect();
        Self { bar, told, quiet: format == Format::Json }
    }

    fn show(&mut self, run: &Run) {
        for step in &run.steps {
            if ended(step.state) && self.told.insert(step.plan.step.clone()) {
                self.note(&line(step));
            }
        }
        self.bar.set_position(run.progress_percent.into());
        self.bar.set_message(if run.waiting_for.is_empty() {
            run.phase.clone()
        } else {
            run.waiting_for.clone()
        });
    }

    fn note(&self, text: &str) {
        if !self.quiet {
            self.bar.suspend(|| eprintln!("{text}"));
        }
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

fn ended(state: StepState) -> bool {
    matches!(state, StepState::Succeeded | StepState::Failed | StepState::Skipped)
}

fn line(step: &RunStep) -> String {
    let took = match (step.start_time, step.end_time) {
        (Some(start), Some(end)) => output::span(end.since(start)),
        _ => String::new(),
    };
    let mark = match step.state {
        StepState::Succeeded => "✓",
        StepState::Failed => "✗",
        _ => "–",
    };
    let what = step.error.as_ref().map_or_else(|| step.outcome.clone(), |problem| problem.message.clone());
    format!("  {mark} {:<46} {took:>9}  {what}", step.plan.title)
}
