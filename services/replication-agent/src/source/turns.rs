//! Turns of all loops of this host: so many deltas and so many full copies at once, the others wait in the order of their need.
//!
//! ```text
//!   loop: ask ─▶ Waiting ─ Admission (pure) ─▶ Turn ─▶ item's lock, cycle ─▶ dropped: the next one goes
//!                   └─ dropped: nothing is taken
//! ```
//! A turn is taken before the item's lock, never under it: who wants the lock for another purpose (last delta, digests, a stop) does not wait
//! for the queue.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::Deserialize;
use tokio::sync::oneshot;
use understudy_ids::UnixMicros;
use understudy_replication::admission::{Admission, Asks, Class, Limits, Ticket};

use super::now;

/// How many items are replicated from this host at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CycleLimits {
    /// Cycles that ship changes.
    pub deltas: u32,
    /// Initial copies and comparisons of whole disks, beside the others.
    pub full_copies: u32,
}

impl Default for CycleLimits {
    /// Deltas are short, and cost the hypervisor a snapshot each; two copies fill most links, and a third only makes both slower.
    fn default() -> Self {
        Self { deltas: 8, full_copies: 2 }
    }
}

impl CycleLimits {
    /// Everything that cannot be used.
    pub fn problems(&self) -> Vec<String> {
        let fields = [("deltas", self.deltas), ("full_copies", self.full_copies)];
        let empty = fields.iter().filter(|(_, limit)| *limit == 0);
        empty.map(|(field, _)| format!("cycles.{field}: must not be 0")).collect()
    }
}

/// The turns of this agent. Clones share them.
#[derive(Clone)]
pub struct Turns {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    admission: Admission,
    /// Who is to be told that he may go.
    waiting: HashMap<Ticket, oneshot::Sender<()>>,
}

/// A place among those who wait or run. Dropped, it is free for the next one.
struct Place {
    turns: Turns,
    ticket: Ticket,
}

/// Waits for its turn.
pub struct Waiting {
    place: Option<Place>,
    admitted: oneshot::Receiver<()>,
}

/// A cycle may go on as long as this is held.
pub struct Turn {
    _place: Place,
}

impl Turns {
    pub fn new(CycleLimits { deltas, full_copies }: CycleLimits) -> Self {
        let admission = Admission::new(Limits { deltas, full_copies });
        Self { shared: Arc::new(Mutex::new(Shared { admission, waiting: HashMap::new() })) }
    }

    /// Begins to wait. `behind_since` is the instant of the latest point, or of a later attempt that failed.
    pub fn ask(&self, class: Class, behind_since: UnixMicros, objective: Duration) -> Waiting {
        let (tell, admitted) = oneshot::channel();
        let mut shared = self.lock();
        let ticket = shared.admission.ask(Asks { class, behind_since, objective });
        shared.waiting.insert(ticket, tell);
        shared.admit();
        let place = Place { turns: self.clone(), ticket };
        Waiting { place: Some(place), admitted }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        // Whole after every statement, so a panic elsewhere does not spoil it.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn admit(&mut self) {
        for ticket in self.admission.admit(now()) {
            if let Some(tell) = self.waiting.remove(&ticket) {
                // Who does not listen any more is about to leave, and then the next one goes.
                let _ = tell.send(());
            }
        }
        let (deltas, copies) =
            (self.admission.running_of(Class::Delta), self.admission.running_of(Class::FullCopy));
        metrics::gauge!("understudy_replication_cycles", "class" => "delta").set(deltas as f64);
        metrics::gauge!("understudy_replication_cycles", "class" => "full-copy").set(copies as f64);
        metrics::gauge!("understudy_replication_queued").set(self.admission.waiting() as f64);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut shared = self.turns.lock();
        shared.waiting.remove(&self.ticket);
        shared.admission.leave(self.ticket);
        shared.admit();
    }
}

impl Waiting {
    /// The turn, where it need not be waited for.
    pub fn at_once(&mut self) -> Option<Turn> {
        self.admitted.try_recv().ok()?;
        self.place.take().map(|place| Turn { _place: place })
    }

    /// The turn, when it comes. Dropped before, it takes none.
    pub async fn turn(mut self) -> Turn {
        // The sender goes only when it has told, or with our place, which is ours still.
        let _ = (&mut self.admitted).await;
        match self.place.take() {
            Some(place) => Turn { _place: place },
            // It was given at once already; whoever asks twice waits for ever.
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECTIVE: Duration = Duration::from_secs(5);

    fn ago(seconds: u64) -> UnixMicros {
        now().minus(Duration::from_secs(seconds))
    }

    fn turns() -> Turns {
        Turns::new(CycleLimits { deltas: 1, full_copies: 1 })
    }

    #[tokio::test]
    async fn the_oldest_goes_first_and_who_gives_up_takes_nothing() {
        let turns = turns();
        let running = turns.ask(Class::Delta, ago(1), OBJECTIVE).at_once().unwrap();
        let mut young = turns.ask(Class::Delta, ago(10), OBJECTIVE);
        let mut old = turns.ask(Class::Delta, ago(20), OBJECTIVE);
        let oldest = turns.ask(Class::Delta, ago(30), OBJECTIVE);
        assert!(young.at_once().is_none() && old.at_once().is_none());
        drop(oldest);
        drop(running);
        assert!(young.at_once().is_none(), "the younger one overtook");
        let turn = old.turn().await;
        drop(turn);
        young.turn().await;
    }

    /// The moment between being told and taking the turn.
    #[tokio::test]
    async fn who_is_told_and_gives_up_passes_the_turn_on() {
        let turns = turns();
        let running = turns.ask(Class::Delta, ago(1), OBJECTIVE).at_once().unwrap();
        let told = turns.ask(Class::Delta, ago(20), OBJECTIVE);
        let next = turns.ask(Class::Delta, ago(10), OBJECTIVE);
        drop(running);
        drop(told);
        next.turn().await;
        assert!(turns.ask(Class::FullCopy, ago(1), OBJECTIVE).at_once().is_some());
    }
}
