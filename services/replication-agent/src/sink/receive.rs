//! Writing one point: the stream on one side, a thread that may block on the other, a bounded queue between them.
//!
//! ```text
//!   parts ─▶ queue of 8 (back-pressure to the sender's window) ─▶ writer thread: decode, verify, write ─▶ sync behind it, each 64 MiB or 5 s ─▶ watermark
//!                                                                   │ Finish: finish ─▶ receipt
//!                                                                   └ queue ends without Finish: sync, keep the partial
//! ```

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::mpsc;
use understudy_ids::DiskName;
use understudy_replica_store::{self as store, DiskSpec, PointWriter, Seal, Store};
use understudy_replication::{BLOCK_SIZE, BlockDigest, CheckpointName, Encoding, extents::block_count};
use understudy_replication_api::{
    PartStream,
    sink::{Begin, DIGEST_BYTES, Part, Receipt, Watermark},
};
use understudy_rpc::ApiError;

use super::{now, store_error};
use crate::{codec, replica::Replica};

/// Parts between the connection and the writer.
const QUEUE: usize = 8;
/// Payload between two syncs, bytes.
const SYNC_EVERY: u64 = 64 << 20;
/// And no longer than this between them: on a slow line 64 MiB are minutes, which a power failure here would cost.
const SYNC_AFTER: Duration = Duration::from_secs(5);

/// Receives a point. When the peer goes away, what was received is made durable and kept.
pub async fn receive(
    replica: &Replica,
    begin: Begin,
    mut parts: PartStream,
    durable: mpsc::Sender<Watermark>,
) -> Result<Receipt, ApiError> {
    let (queue, queued) = mpsc::channel(QUEUE);
    let store = replica.store().clone();
    let writing = tokio::task::spawn_blocking(move || write(&store, begin, queued, &durable));
    let feed = async move {
        while let Some(part) = parts.next().await {
            let part = part?;
            let last = matches!(part, Part::Finish { .. });
            // A writer that is gone has failed; its own error says why.
            if queue.send(part).await.is_err() || last {
                break;
            }
        }
        Ok::<(), ApiError>(())
    };
    let fed = feed.await;
    let written = writing.await.map_err(ApiError::internal)?;
    match (written, fed) {
        (Err(Failure::Cut), Err(broken)) => Err(broken),
        (Err(Failure::Cut), Ok(())) => {
            Err(ApiError::aborted("NOT_FINISHED", "the stream ended before the point did", "send the rest"))
        }
        (Err(Failure::Refused(error)), _) => Err(error),
        (Ok(receipt), _) => Ok(receipt),
    }
}

enum Failure {
    /// The peer went away; the partial stays.
    Cut,
    Refused(ApiError),
}

impl From<store::StoreError> for Failure {
    fn from(error: store::StoreError) -> Self {
        Self::Refused(store_error(error))
    }
}

/// Runs on a thread that may block.
fn write(
    store: &Store,
    begin: Begin,
    mut queue: mpsc::Receiver<Part>,
    durable: &mpsc::Sender<Watermark>,
) -> Result<Receipt, Failure> {
    let disks: Vec<(DiskName, u64)> = begin.disks.iter().map(|d| (d.name.clone(), d.size)).collect();
    let (seq, item) = (begin.seq, begin.item.clone());
    let mut writer = open(store, begin)?;
    let mut received = Received::default();
    let mut news = News { durable, syncing: None, since: Instant::now() };
    while let Some(part) = queue.blocking_recv() {
        if let Part::Finish { sent_bytes } = part {
            if sent_bytes != received.payload {
                let message = format!("{} bytes of {item} arrived, {sent_bytes} were sent", received.payload);
                return Err(Failure::Refused(ApiError::aborted(
                    "BYTES_MISSING",
                    message,
                    "send the point again",
                )));
            }
            let roots = roots(&writer, &disks)?;
            let in_order = disks.iter().filter_map(|(name, _)| roots.get(name).copied()).collect();
            writer.finish(&roots, now())?;
            tracing::info!(%item, %seq, bytes = received.payload, "point received");
            metrics::counter!("understudy_replication_received_bytes_total", "item" => item.to_string())
                .increment(received.payload);
            return Ok(Receipt { seq, roots: in_order });
        }
        received.take(&mut writer, &disks, &part)?;
        news.after(&mut writer, &mut received)?;
    }
    if let Err(error) = writer.sync() {
        tracing::warn!(%item, %seq, %error, "what a cut transfer had brought could not be kept");
    }
    Err(Failure::Cut)
}

/// Makes what has come durable from time to time, and tells the peer how far that is.
struct News<'a> {
    durable: &'a mpsc::Sender<Watermark>,
    /// How far a sync that runs goes.
    syncing: Option<Watermark>,
    since: Instant,
}

impl News<'_> {
    fn after(&mut self, writer: &mut PointWriter, received: &mut Received) -> Result<(), Failure> {
        if writer.has_synced()? {
            self.tell();
        }
        let unsynced = received.unsynced;
        if unsynced >= SYNC_EVERY || (unsynced > 0 && self.since.elapsed() >= SYNC_AFTER) {
            writer.sync_behind()?;
            // One that still ran has been waited for.
            self.tell();
            self.syncing = Some(received.at);
            (received.unsynced, self.since) = (0, Instant::now());
        }
        Ok(())
    }

    fn tell(&mut self) {
        if let Some(at) = self.syncing.take() {
            // A peer that does not read its watermarks loses nothing but the news.
            let _ = self.durable.try_send(at);
        }
    }
}

fn open(store: &Store, begin: Begin) -> Result<PointWriter, Failure> {
    let machine = serde_json::from_str(&begin.machine_json).map_err(|e| {
        let message = format!("the machine's description is not JSON: {e}");
        Failure::Refused(ApiError::invalid_argument("BAD_MACHINE", message, "send what the contract says"))
    })?;
    let resume = begin.resume;
    let seal = begin.wrapped_key.map(|key| {
        let disks = begin.disks.iter().filter_map(|d| Some((d.name.clone(), d.luks.clone()?))).collect();
        Seal { key, disks }
    });
    let begin = store::Begin {
        item: begin.item,
        generation: begin.generation,
        seq: begin.seq,
        parent: begin.parent,
        disks: begin.disks.into_iter().map(|d| DiskSpec { name: d.name, size: d.size }).collect(),
        kind: store::PointKind::Recovery,
        checkpoint: CheckpointName::new(begin.checkpoint),
        instant: begin.instant,
        consistency: begin.consistency,
        frozen: begin.frozen,
        joint: begin.joint,
        machine,
        seal,
    };
    Ok(if resume { store.resume(begin)? } else { store.begin(begin)? })
}

/// The roots of what was received. Each block was compared with the source's digest as it came.
fn roots(
    writer: &PointWriter,
    disks: &[(DiskName, u64)],
) -> Result<BTreeMap<DiskName, BlockDigest>, Failure> {
    disks.iter().map(|(name, _)| Ok((name.clone(), writer.digests(name)?.root()))).collect()
}

/// Writes what the connection brought as it lies there: slices of whole blocks.
fn write_slices(
    writer: &mut PointWriter,
    disk: &DiskName,
    size: u64,
    mut first: u64,
    slices: &[Bytes],
    mut digests: &[BlockDigest],
) -> Result<(), Failure> {
    for slice in slices {
        let blocks = slice.len() as u64 / BLOCK_SIZE;
        let (these, rest) = digests.split_at(digests.len().min(blocks as usize));
        writer.write_blocks(disk, first, within(slice, first, size), these)?;
        (first, digests) = (first + blocks, rest);
    }
    Ok(())
}

/// The padding of a disk's last block is not the disk's.
fn within(content: &[u8], first: u64, size: u64) -> &[u8] {
    let left = size.saturating_sub(first * BLOCK_SIZE);
    &content[..content.len().min(usize::try_from(left).unwrap_or(usize::MAX))]
}

fn broken(disk: &DiskName, offset: u64, why: &str) -> Failure {
    let message = format!("the blocks of {disk} from byte {offset} on cannot be decoded: {why}");
    Failure::Refused(ApiError::aborted("BROKEN_PAYLOAD", message, "send the point again"))
}

#[derive(Default)]
struct Received {
    /// Payload as it travelled, bytes.
    payload: u64,
    /// Bytes of disks since the last sync.
    unsynced: u64,
    at: Watermark,
    /// What payloads are put together in, and what they are decoded into.
    joined: Vec<u8>,
    decoded: Vec<u8>,
}

impl Received {
    /// Parts come checked for order and bounds.
    fn take(
        &mut self,
        writer: &mut PointWriter,
        disks: &[(DiskName, u64)],
        part: &Part,
    ) -> Result<(), Failure> {
        match part {
            Part::Data { disk, offset, payload, digests, encoding } => {
                let (name, size) = &disks[*disk];
                let (digests, _) = digests.as_chunks::<DIGEST_BYTES>();
                let digests: Vec<BlockDigest> = digests.iter().map(|d| BlockDigest::new(*d)).collect();
                let length = digests.len() as u64 * BLOCK_SIZE;
                let first = offset / BLOCK_SIZE;
                match payload.in_units_of(BLOCK_SIZE as usize).filter(|_| *encoding == Encoding::Plain) {
                    Some(slices) => write_slices(writer, name, *size, first, slices, &digests)?,
                    None => {
                        let payload = payload.together(&mut self.joined);
                        let content = codec::decode(payload, *encoding, length as usize, &mut self.decoded);
                        let content = content.map_err(|why| broken(name, *offset, &why))?;
                        writer.write_blocks(name, first, within(content, first, *size), &digests)?;
                    }
                }
                self.payload += payload.len() as u64;
                self.unsynced += length;
                self.at = Watermark { disk: *disk, offset: (offset + length).min(*size) };
            }
            Part::Zero { disk, offset, length } => {
                let (name, size) = &disks[*disk];
                writer.write_zero(name, offset / BLOCK_SIZE, block_count(offset + length))?;
                self.at = Watermark { disk: *disk, offset: (offset + length).min(*size) };
            }
            Part::Finish { .. } => {}
        }
        Ok(())
    }
}
