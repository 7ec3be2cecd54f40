//! What a handler can ask and say while it works.

use std::sync::{Arc, OnceLock};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::model::Progress;

/// Why a handler should stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The owner wants the task to end. The outcome still counts: `Retry` says that nothing happened.
    Cancelled,
    /// Another attempt has the task, or will have. The outcome is dropped.
    LeaseLost,
    /// The process ends. The outcome still counts if it comes within seconds.
    ShuttingDown,
}

/// Tells a handler to stop, once; the first reason stays, except that a lost lease overrides the others.
#[derive(Debug, Clone, Default)]
pub(super) struct Stopper {
    stopped: CancellationToken,
    reason: Arc<OnceLock<Stop>>,
    lost: CancellationToken,
}

impl Stopper {
    pub(super) fn stop(&self, reason: Stop) {
        if reason == Stop::LeaseLost {
            self.lost.cancel();
        }
        // A second reason changes nothing for the handler.
        let _ = self.reason.set(reason);
        self.stopped.cancel();
    }

    /// Done when the lease is lost, whatever the handler was told before.
    pub(super) async fn lost(&self) {
        self.lost.cancelled().await;
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }
}

/// Handed to each attempt. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TaskContext {
    attempt: u32,
    stopper: Stopper,
    progress: watch::Sender<Progress>,
}

impl TaskContext {
    pub(super) fn new(attempt: u32, stopper: Stopper) -> (Self, watch::Receiver<Progress>) {
        let (progress, reported) = watch::channel(Progress::default());
        (Self { attempt, stopper, progress }, reported)
    }

    /// A context outside any worker, of a first attempt, for tests of handlers: cancel the token to stop the handler, read what it reports.
    pub fn detached() -> (Self, CancellationToken, watch::Receiver<Progress>) {
        let stopper = Stopper::default();
        let stop = stopper.stopped.clone();
        let (context, progress) = Self::new(1, stopper);
        (context, stop, progress)
    }

    /// Which lease of the task this is, from 1. What cannot be done twice without a trace is told by it that it may have been done before.
    pub const fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Cancelled when the attempt should end; [`TaskContext::stop_reason`] says why.
    pub fn stopped(&self) -> &CancellationToken {
        &self.stopper.stopped
    }

    /// Why the attempt should end, or nothing while it should go on.
    pub fn stop_reason(&self) -> Option<Stop> {
        if self.stopper.is_lost() { Some(Stop::LeaseLost) } else { self.stopper.reason.get().copied() }
    }

    /// Reports how far the attempt is, in percent (above 100 is taken as 100) and in words. Sent within about a second; of reports
    /// that follow each other faster, the last is sent.
    pub fn progress(&self, percent: u32, text: impl Into<String>) {
        let mut text: String = text.into();
        text.retain(|c| !c.is_control());
        text.truncate(text.floor_char_boundary(crate::check::MAX_LINE));
        self.progress.send_replace(Progress { percent: percent.min(100), text });
    }
}
