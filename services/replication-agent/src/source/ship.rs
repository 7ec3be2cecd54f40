//! Sending one recovery point: reads in flight, digests beside them, a bounded queue, the target's answers.
//!
//! ```text
//!   pieces ─▶ read (16 in flight) ─▶ encrypt or encode, digest, compare (blocking threads) ─▶ queue of 8 parts ─▶ gRPC stream
//!                                                                          full: reading waits      │
//!   receipt ◀──────────────────────────────────────────────────────────────────────── answers ◀─────┘
//! ```
//! Memory in use is bounded by the reads in flight, the queue and the connection's window, whatever the disk's size.

use std::{pin::pin, sync::Arc, time::Instant};

use futures::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use understudy_hypervisor::DiskReader;
use understudy_replication::{DigestTree, RangeSet, cycle::Work, encoding::Passed};
use understudy_replication_api::{
    SinkClient,
    sink::{Answer, Begin, Part, Receipt},
};

use understudy_sealing::DiskCipher;

use super::{
    error::CycleError,
    meter::Meter,
    pace::Pacer,
    parts::{self, Outcome},
    progress::Step,
    seal,
    work::{Piece, pieces, to_read},
};

/// Pieces that are read or digested at the same time.
const IN_FLIGHT: usize = 16;
/// Parts between reading and sending.
const QUEUE: usize = 8;

/// One disk's share of a point.
pub struct DiskWork {
    pub reader: Arc<dyn DiskReader>,
    pub work: Work,
    /// Whole blocks that read as zeros.
    pub zero: RangeSet,
    /// What the target's parent has, where that is compared.
    pub target: Option<Arc<DigestTree>>,
    /// For a disk whose blocks leave encrypted.
    pub cipher: Option<Arc<DiskCipher>>,
}

/// Why production ended early.
enum Stop {
    /// The connection takes nothing more; its own error says why.
    Closed,
    Failed(CycleError),
}

/// Sends a point and waits for its receipt. Returns the payload sent in bytes.
pub async fn ship(
    client: &SinkClient,
    begin: Begin,
    disks: Vec<DiskWork>,
    pacer: Option<&Pacer>,
    meter: &Arc<Meter>,
    told: impl Fn(Step) + Send + Sync,
) -> Result<(Receipt, u64), CycleError> {
    meter.begin(disks.iter().map(|disk| to_read(&disk.work, &disk.zero).bytes()).sum());
    let (queue, parts) = mpsc::channel(QUEUE);
    let mut produce = pin!(produce(disks, queue, pacer, meter, &told));
    let mut answers = pin!(receive(client, begin, parts, &told));
    tokio::select! {
        produced = &mut produce => match produced {
            Ok(sent) => {
                let handed_over = Instant::now();
                let receipt = answers.await?;
                meter.end(handed_over.elapsed());
                Ok((receipt, sent))
            }
            Err(Stop::Failed(error)) => Err(error),
            Err(Stop::Closed) => {
                answers.await?;
                Err(CycleError::Protocol("a receipt came before the point was sent".to_owned()))
            }
        },
        answered = &mut answers => {
            answered?;
            Err(CycleError::Protocol("a receipt came before the point was sent".to_owned()))
        }
    }
}

async fn receive(
    client: &SinkClient,
    begin: Begin,
    parts: mpsc::Receiver<Part>,
    told: &(impl Fn(Step) + Sync),
) -> Result<Receipt, CycleError> {
    let mut answers = client.push(begin, ReceiverStream::new(parts)).await.map_err(CycleError::from_peer)?;
    while let Some(answer) = answers.next().await {
        match answer.map_err(CycleError::from_peer)? {
            Answer::Durable(mark) => told(Step::Durable((mark.disk, mark.offset))),
            Answer::Receipt(receipt) => return Ok(receipt),
        }
    }
    Err(CycleError::Protocol("the target ended the transfer without a receipt".to_owned()))
}

async fn produce(
    disks: Vec<DiskWork>,
    queue: mpsc::Sender<Part>,
    pacer: Option<&Pacer>,
    meter: &Arc<Meter>,
    told: &(impl Fn(Step) + Sync),
) -> Result<u64, Stop> {
    let mut sent = 0;
    let mut before = Instant::now();
    for (index, disk) in disks.into_iter().enumerate() {
        let DiskWork { reader, work, zero, target, cipher } = disk;
        let read = pieces(&work, &zero).map(move |piece| {
            let (reader, target) = (reader.clone(), target.clone().filter(|_| piece.compare));
            let (meter, cipher) = (meter.clone(), cipher.clone());
            let made = outcome(index, piece, reader, target, meter, cipher);
            async move { Ok::<_, CycleError>((piece, made.await?)) }
        });
        let mut outcomes = stream::iter(read).buffered(IN_FLIGHT);
        while let Some(next) = outcomes.next().await {
            let (piece, outcome) = next.map_err(Stop::Failed)?;
            let parts = !outcome.parts.is_empty();
            // What is held back waits for the line as well.
            let made = Instant::now();
            if let Some(pacer) = pacer.filter(|_| outcome.sent > 0) {
                pacer.admit(outcome.sent).await;
            }
            for part in outcome.parts {
                queue.send(part).await.map_err(|_| Stop::Closed)?;
            }
            sent += outcome.sent;
            if !piece.zero {
                let now = Instant::now();
                let (elapsed, blocked) = (now - before, now - made);
                meter.passed(Passed { bytes: piece.range.len(), payload: outcome.sent, elapsed, blocked });
                before = now;
            }
            told(Step::Passed { place: (index, piece.range.end), payload: outcome.sent, parts });
        }
    }
    queue.send(Part::Finish { sent_bytes: sent }).await.map_err(|_| Stop::Closed)?;
    Ok(sent)
}

async fn outcome(
    disk: usize,
    piece: Piece,
    reader: Arc<dyn DiskReader>,
    target: Option<Arc<DigestTree>>,
    meter: Arc<Meter>,
    cipher: Option<Arc<DiskCipher>>,
) -> Result<Outcome, CycleError> {
    if piece.zero {
        return Ok(parts::of_zeros(disk, piece.range, target.as_deref()));
    }
    // A piece has at most 1 MiB.
    let length = u32::try_from(piece.range.len()).unwrap_or(u32::MAX);
    let read = match reader.blocking() {
        Some(_) => None,
        None => Some(reader.read(piece.range.start, length).await?),
    };
    let digested = tokio::task::spawn_blocking(move || {
        let content = match (read, reader.blocking()) {
            (None, Some(reader)) => reader.read(piece.range.start, length)?,
            (read, _) => read.unwrap_or_default(),
        };
        if content.len() as u64 != piece.range.len() {
            let why = format!("{} bytes were read at {}", content.len(), piece.range);
            return Err(CycleError::Protocol(why));
        }
        let content = match cipher {
            Some(cipher) => seal::encrypted(&cipher, piece.range.start, content),
            None => content,
        };
        Ok(parts::of_content(disk, piece.range.start, content, target.as_deref(), meter.encoding()))
    });
    digested.await.map_err(|e| CycleError::Protocol(format!("digesting was cut off: {e}")))?
}
