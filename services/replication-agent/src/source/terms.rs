//! The terms of a loop with what follows from them, taken over while it runs.
//!
//! ```text
//!   task ─▶ same stream, other terms ─▶ watch ─┬─ the limit of bandwidth: from the next piece on
//!                                              ├─ interval, objective, settings: from the next cycle on
//!                                              └─ a pause: breaks the cycle off
//! ```

use std::sync::Arc;

use understudy_ids::HostName;
use understudy_replication::Compression;
use understudy_replication_api::GroupFacts;

use super::{
    Source,
    meter::Meter,
    pace::{Pace, Paces},
};
use crate::ledger::Terms;

/// Terms that a loop follows.
pub struct Held {
    pub terms: Terms,
    /// Unless there is no limit.
    pub pace: Option<Pace>,
    /// How fast the stream has been.
    pub meter: Arc<Meter>,
}

impl Held {
    /// What was measured under the terms before stays true, as long as blocks travel in the same way.
    pub fn new(terms: Terms, peer: &HostName, paces: &Paces, before: Option<&Self>) -> Self {
        let compression = compression(&terms);
        let same = before.filter(|before| self::compression(&before.terms) == compression);
        let meter = same.map_or_else(|| Arc::new(Meter::new(compression)), |before| before.meter.clone());
        Self { pace: paces.of(peer, &terms), terms, meter }
    }
}

/// Ciphertext does not shrink.
fn compression(terms: &Terms) -> Compression {
    if terms.settings.encrypt_for.is_empty() { terms.settings.compression } else { Compression::Off }
}

impl Source {
    /// Follows other terms from now on. Whether they are others.
    pub(super) fn take_over(&self, terms: Terms, paces: &Paces) -> bool {
        let revision = terms.revision.clone();
        let changed = self.terms.send_if_modified(|held| {
            if held.terms == terms {
                return false;
            }
            *held = Arc::new(Held::new(terms, &self.stream.peer_host, paces, Some(held)));
            true
        });
        if changed {
            tracing::info!(item = %self.item, revision, "other terms are followed");
            let group = self.group();
            self.status.send_modify(|s| {
                s.revision = Some(revision);
                if s.group.as_ref().map(|facts| &facts.group) != group.as_ref() {
                    s.group = group.map(GroupFacts::new);
                }
            });
        }
        changed
    }

    pub(super) fn held(&self) -> Arc<Held> {
        self.terms.borrow().clone()
    }
}
