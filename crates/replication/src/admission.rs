//! Whose cycle is next, where more items are due than may be replicated at once.
//!
//! ```text
//!   due ─▶ waiting ── a slot of its class is free, and nobody is further behind ─▶ running ─▶ gone
//!             └────────────────────────── left ──────────────────────────────────────────────▶ gone
//! ```
//! Deltas and full copies have slots of their own, so that copies that last for days hold back no delta. Among those who wait for the
//! same kind of slot the one goes first whose latest point is oldest, measured in objectives: 10 s are much where 5 s are promised,
//! and nothing where an hour is. **Promise.** Nobody starves: whoever waits gets further behind all the time, and whoever has had his
//! turn begins anew. A final delta does not ask (R-PF-2).

use std::{collections::BTreeMap, time::Duration};

use understudy_ids::UnixMicros;

/// What a turn is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    Delta,
    /// Everything is read: an initial copy, or a comparison of digests.
    FullCopy,
}

/// How many turns of each class there are at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub deltas: u32,
    pub full_copies: u32,
}

/// One who asked, from then until he leaves. Later ones are higher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

/// Who asks for a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asks {
    pub class: Class,
    /// Since when he has been falling behind: the instant of his latest point, or of a later attempt that failed.
    pub behind_since: UnixMicros,
    /// How far behind he may be.
    pub objective: Duration,
}

impl Asks {
    /// How far behind, in objectives.
    fn overdue(&self, now: UnixMicros) -> f64 {
        now.since(self.behind_since).as_secs_f64() / self.objective.as_secs_f64().max(0.001)
    }
}

/// Who has a turn, and who waits for one.
#[derive(Debug, Clone)]
pub struct Admission {
    limits: Limits,
    next: u64,
    waiting: BTreeMap<Ticket, Asks>,
    running: BTreeMap<Ticket, Class>,
}

impl Admission {
    pub const fn new(limits: Limits) -> Self {
        Self { limits, next: 0, waiting: BTreeMap::new(), running: BTreeMap::new() }
    }

    /// Begins to wait. [`Admission::admit`] says who goes.
    pub fn ask(&mut self, asks: Asks) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.waiting.insert(ticket, asks);
        ticket
    }

    /// Has had his turn, or does not want one any more.
    pub fn leave(&mut self, ticket: Ticket) {
        self.waiting.remove(&ticket);
        self.running.remove(&ticket);
    }

    /// Gives turns to those who may go now, the one who is furthest behind first.
    pub fn admit(&mut self, now: UnixMicros) -> Vec<Ticket> {
        let mut admitted = Vec::new();
        for class in [Class::Delta, Class::FullCopy] {
            while self.running_of(class) < self.limit(class) {
                let Some(ticket) = self.furthest_behind(class, now) else { break };
                self.waiting.remove(&ticket);
                self.running.insert(ticket, class);
                admitted.push(ticket);
            }
        }
        admitted
    }

    /// Turns of the class that have been given and not left.
    pub fn running_of(&self, class: Class) -> usize {
        self.running.values().filter(|running| **running == class).count()
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn limit(&self, class: Class) -> usize {
        let limit = match class {
            Class::Delta => self.limits.deltas,
            Class::FullCopy => self.limits.full_copies,
        };
        usize::try_from(limit).unwrap_or(usize::MAX)
    }

    /// Of two who are alike the one who asked first.
    fn furthest_behind(&self, class: Class, now: UnixMicros) -> Option<Ticket> {
        let of_class = self.waiting.iter().filter(|(_, asks)| asks.class == class);
        let overdue = |asks: &Asks| asks.overdue(now);
        of_class
            .min_by(|(t, a), (u, b)| overdue(b).total_cmp(&overdue(a)).then(t.cmp(u)))
            .map(|(ticket, _)| *ticket)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { deltas: 2, full_copies: 1 };

    fn at(second: u64) -> UnixMicros {
        UnixMicros::new(i64::try_from(second * 1_000_000).unwrap())
    }

    fn asks(class: Class, since: u64, objective: u64) -> Asks {
        Asks { class, behind_since: at(since), objective: Duration::from_secs(objective) }
    }

    #[test]
    fn the_one_who_is_furthest_beyond_his_objective_goes_first() {
        let mut admission = Admission::new(Limits { deltas: 1, ..LIMITS });
        let now = at(1000);
        let running = admission.ask(asks(Class::Delta, 999, 10));
        assert_eq!(admission.admit(now), [running]);
        let hour = admission.ask(asks(Class::Delta, 100, 3600));
        let late = admission.ask(asks(Class::Delta, 980, 5));
        let alike = admission.ask(asks(Class::Delta, 980, 5));
        let old = admission.ask(asks(Class::Delta, 900, 60));
        assert_eq!((admission.admit(now), admission.waiting()), (Vec::new(), 4));
        let mut order = Vec::new();
        let mut last = running;
        while admission.waiting() > 0 {
            admission.leave(last);
            let next = admission.admit(now);
            assert_eq!(next.len(), 1);
            last = next[0];
            order.push(last);
        }
        assert_eq!(order, [late, alike, old, hour]);
    }

    #[test]
    fn full_copies_hold_no_delta_back_and_deltas_no_copy() {
        let mut admission = Admission::new(LIMITS);
        let copies = [0, 1, 2].map(|_| admission.ask(asks(Class::FullCopy, 0, 5)));
        let deltas = [0, 1, 2].map(|_| admission.ask(asks(Class::Delta, 990, 60)));
        assert_eq!(admission.admit(at(1000)), [deltas[0], deltas[1], copies[0]]);
        admission.leave(copies[0]);
        assert_eq!(admission.admit(at(1000)), [copies[1]]);
    }

    #[test]
    fn whoever_leaves_while_he_waits_takes_no_slot() {
        let mut admission = Admission::new(Limits { deltas: 1, ..LIMITS });
        let (first, second, third) = (
            admission.ask(asks(Class::Delta, 0, 5)),
            admission.ask(asks(Class::Delta, 1, 5)),
            admission.ask(asks(Class::Delta, 2, 5)),
        );
        assert_eq!(admission.admit(at(9)), [first]);
        admission.leave(second);
        admission.leave(first);
        assert_eq!(admission.admit(at(9)), [third]);
        admission.leave(third);
        assert_eq!((admission.waiting(), admission.running_of(Class::Delta)), (0, 0));
    }

    proptest! {
        /// Items with objectives between a second and an hour, more of them than there are slots: all of them go on for ever, and none has more
        /// turns at once than there are.
        #[test]
        fn nobody_starves(
            objectives in prop::collection::vec(1u64..3600, 3..20),
            took in prop::collection::vec(1u64..20, 64),
        ) {
            let mut admission = Admission::new(LIMITS);
            let mut latest = vec![0u64; objectives.len()];
            let mut turns = vec![0u32; objectives.len()];
            let mut owners = BTreeMap::new();
            let mut ends: Vec<(u64, Ticket)> = Vec::new();
            for (item, objective) in objectives.iter().enumerate() {
                owners.insert(admission.ask(asks(Class::Delta, 0, *objective)), item);
            }
            let mut now = 1;
            let mut served = 0usize;
            while served < 40_000 && turns.iter().any(|t| *t < 3) {
                for ticket in admission.admit(at(now)) {
                    ends.push((now + took[served % took.len()], ticket));
                    latest[owners[&ticket]] = now;
                    served += 1;
                }
                prop_assert!(admission.running_of(Class::Delta) <= 2);
                ends.sort_unstable();
                let (end, ticket) = ends.remove(0);
                now = now.max(end);
                let item = owners.remove(&ticket).unwrap();
                turns[item] += 1;
                admission.leave(ticket);
                owners.insert(admission.ask(asks(Class::Delta, latest[item], objectives[item])), item);
            }
            prop_assert!(turns.iter().all(|t| *t >= 3), "{:?} of {:?}", turns, objectives);
        }
    }
}
