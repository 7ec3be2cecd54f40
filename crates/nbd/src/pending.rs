//! What is remembered about a request until its last chunk has come.

use std::collections::BTreeMap;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::error::Error;

/// What one meta context says about a range, from the beginning of the range asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextStatus {
    /// Index into the contexts given to [`crate::Client::connect`].
    pub context: usize,
    /// Without gaps. May end before the range asked for, never after it, and holds at least one entry.
    pub extents: Vec<StatusExtent>,
}

/// A run of bytes with the same state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusExtent {
    /// In bytes, never zero.
    pub length: u32,
    /// Flags of the context: [`crate::STATE_ZERO`], [`crate::STATE_DIRTY`], ….
    pub flags: u32,
}

/// A request that waits for its answer.
pub(crate) struct Pending {
    pub offset: u64,
    pub length: u32,
    pub answer: Answer,
    /// The first error that the server reported; the request goes on until its last chunk all the same.
    pub error: Option<Error>,
}

pub(crate) enum Answer {
    Read { buffer: Vec<u8>, covered: Coverage, reply: oneshot::Sender<Result<Bytes, Error>> },
    Status { contexts: Vec<ContextStatus>, reply: oneshot::Sender<Result<Vec<ContextStatus>, Error>> },
}

impl Pending {
    pub fn what(&self) -> &'static str {
        match self.answer {
            Answer::Read { .. } => "a read",
            Answer::Status { .. } => "a block status request",
        }
    }

    /// Where `[offset, offset + size)` of the export lies in the request's own range.
    pub fn place(&self, offset: u64, size: u32) -> Result<usize, Error> {
        let room = self.length.checked_sub(size).filter(|_| size > 0);
        let start = offset.checked_sub(self.offset);
        let start =
            start.filter(|start| room.is_some_and(|room| *start <= u64::from(room))).ok_or_else(|| {
                Error::protocol(format!(
                    "it sent {size} bytes at {offset} for a read of {} at {}",
                    self.length, self.offset
                ))
            })?;
        Ok(start as usize)
    }

    /// Hands over the answer after the last chunk. Returns what is wrong with it when the server left something out.
    pub fn finish(self) -> Result<(), Error> {
        let what = self.what();
        // A receiver that is gone means that the caller has lost interest, which is its right.
        match self.answer {
            Answer::Read { buffer, covered, reply } => {
                let result = match self.error {
                    Some(error) => Err(error),
                    None if covered.bytes == u64::from(self.length) => Ok(buffer.into()),
                    None => Err(missing(what)),
                };
                let violation = violation(&result);
                drop(reply.send(result));
                violation
            }
            Answer::Status { contexts, reply } => {
                let result = match self.error {
                    Some(error) => Err(error),
                    None if !contexts.is_empty() => Ok(contexts),
                    None => Err(missing(what)),
                };
                let violation = violation(&result);
                drop(reply.send(result));
                violation
            }
        }
    }

    pub fn fail(self, error: Error) {
        match self.answer {
            Answer::Read { reply, .. } => drop(reply.send(Err(error))),
            Answer::Status { reply, .. } => drop(reply.send(Err(error))),
        }
    }
}

fn missing(what: &str) -> Error {
    Error::protocol(format!("{what} was answered in part only"))
}

fn violation<T>(result: &Result<T, Error>) -> Result<(), Error> {
    match result {
        Err(error @ Error::Protocol(_)) => Err(error.clone()),
        _ => Ok(()),
    }
}

/// Which parts of a read's buffer have been filled. Parts never overlap, so their sum tells when all are there.
#[derive(Default)]
pub(crate) struct Coverage {
    /// Start → end.
    parts: BTreeMap<usize, usize>,
    bytes: u64,
}

impl Coverage {
    pub fn add(&mut self, start: usize, size: usize) -> Result<(), Error> {
        let end = start + size;
        let before = self.parts.range(..end).next_back();
        if before.is_some_and(|(_, &before_end)| before_end > start) {
            return Err(Error::protocol("it sent a part of a read twice"));
        }
        self.parts.insert(start, end);
        self.bytes += size as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_sent_twice_is_noticed_wherever_it_overlaps() {
        for (start, size) in [(10, 10), (5, 6), (19, 5), (0, 40), (12, 3)] {
            let mut covered = Coverage::default();
            covered.add(10, 10).unwrap();
            assert!(covered.add(start, size).is_err(), "{start}+{size} was accepted");
        }
        let mut covered = Coverage::default();
        for (start, size) in [(10, 10), (0, 10), (20, 1)] {
            covered.add(start, size).unwrap();
        }
        assert_eq!(covered.bytes, 21);
    }
}
