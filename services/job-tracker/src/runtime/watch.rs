//! A watch: every event after a position, once and in order (invariant 15).
//!
//! Numbers become visible in order and without gaps (see the migration), so a position is one number: all up to it have been seen.

use std::collections::VecDeque;

use tokio::sync::watch;
use understudy_jobs_api::{Event, WatchFilter, WatchFrom};

use super::{Error, Result, Runtime, token};
use crate::store::{self, event::Clock};

/// What a watch has to tell.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    Event(Box<Event>),
    /// Nothing has happened that passes the filter up to this token.
    Bookmark(String),
}

/// An open watch.
pub struct Watch {
    runtime: Runtime,
    filter: WatchFilter,
    /// All events up to this one have been read.
    position: i64,
    ready: VecDeque<Seen>,
    woken: watch::Receiver<u64>,
}

impl Runtime {
    /// Opens a watch. Its first item comes at once: an event that is there, or a bookmark.
    ///
    /// # Errors
    /// `ResumeToken`, `TokenTooOld`, `TokenUnknown`.
    pub async fn watch(&self, from: &WatchFrom, filter: WatchFilter) -> Result<Watch> {
        let woken = self.0.events.subscribe();
        let clock = store::event::clock(self.pool().reader()).await?;
        let position = match from {
            WatchFrom::Now => clock.last_sequence,
            WatchFrom::Start => clock.purged_through,
            WatchFrom::After(text) => check(token::parse_resume(text)?, clock)?,
        };
        let ready = VecDeque::from([Seen::Bookmark(token::resume(position))]);
        Ok(Watch { runtime: self.clone(), filter, position, ready, woken })
    }
}

fn check(position: i64, clock: Clock) -> Result<i64> {
    let Clock { last_sequence, purged_through } = clock;
    if position < purged_through {
        return Err(Error::TokenTooOld { position, purged_through });
    }
    if position > last_sequence {
        return Err(Error::TokenUnknown { position, last_sequence });
    }
    Ok(position)
}

impl Watch {
    /// Waits for what comes next. Safe to drop and call again.
    pub async fn next(&mut self) -> Result<Seen> {
        loop {
            if let Some(seen) = self.ready.pop_front() {
                return Ok(seen);
            }
            if !self.read().await? {
                // Every wake-up is followed by a look; the sender lives as long as the runtime that this watch holds.
                let _ = self.woken.changed().await;
            }
        }
    }

    /// Reads one page; tells whether the position has moved.
    async fn read(&mut self) -> Result<bool> {
        let db = self.runtime.pool().reader();
        let clock = store::event::clock(db).await?;
        // A watcher that was slower than the retention has lost events, and is told so.
        check(self.position, clock)?;
        if clock.last_sequence == self.position {
            return Ok(false);
        }
        let page = store::event::page(db, self.position, clock.last_sequence, &self.filter).await?;
        // The log may have been purged between the two statements.
        check(self.position, store::event::clock(db).await?)?;
        let Some(last) = page.last().map(|e| e.sequence) else {
            self.position = clock.last_sequence;
            self.ready.push_back(Seen::Bookmark(token::resume(self.position)));
            return Ok(true);
        };
        self.ready.extend(page.into_iter().map(seen));
        self.position = last;
        Ok(true)
    }
}

fn seen(stored: store::event::Stored) -> Seen {
    let store::event::Stored { sequence, at, job, change } = stored;
    Seen::Event(Box::new(Event {
        // Numbers begin at one.
        sequence: u64::try_from(sequence).unwrap_or(0),
        resume_token: token::resume(sequence),
        time: at,
        job,
        change,
    }))
}
