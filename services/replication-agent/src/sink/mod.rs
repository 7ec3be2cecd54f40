//! The receiving end: takes recovery points from the one agent that sends an item at its generation.
//!
//! ```text
//!   Negotiate ─▶ admitted? ─▶ an earlier transfer ends ─▶ what the store has
//!   PushPoint ─▶ admitted? ─▶ one at a time per item, the latest counts ─▶ writer thread ─▶ watermarks … ─▶ receipt ─▶ upkeep, later
//!                    │
//!                    └─ stale, fenced, active here, another sender: refused before a byte is written
//! ```
//! Promise: nothing is accepted at a generation lower than one seen, nor from a second sender at the same one (R-FO-7);
//! a cut transfer keeps what was durable, for the next one to go on from (R-REP-6).

mod receive;
mod turns;
mod upkeep;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::{mpsc, watch};
use understudy_ids::{DiskName, Generation, HostName, ItemName, UnixMicros};
use understudy_replica_store::{Seal, StoreError, TargetSeals};
use understudy_replication::{
    BlockDigest, DigestTree,
    cycle::{TargetFacts, TargetHas},
};
use understudy_replication_api::{
    GENERATION_KEY, PartStream, STALE_GENERATION, SinkHandler,
    sink::{
        Begin, DigestRun, Latest, MAX_DAMAGED_RANGES, Negotiate, Negotiated, Partial, PartialDisk,
        ReadDigests, Receipt, SinkDisk, Watermark,
    },
};
use understudy_rpc::ApiError;

use crate::{
    ledger::{ItemRecord, Ledger, LedgerError, Role, Sender, Verb},
    replica::Replica,
};
use turns::Turns;
use upkeep::Upkeep;

/// Digests per message: 2048 blocks are 64 KiB of digests and 128 MiB of disk.
const RUN: usize = 2048;

/// The sink of this agent.
#[derive(Clone)]
pub struct Sink {
    ledger: Ledger,
    replica: Replica,
    upkeep: Upkeep,
    turns: Turns,
    changes: Arc<watch::Sender<u64>>,
    receiving: Arc<AtomicUsize>,
}

impl Sink {
    pub fn new(ledger: Ledger, replica: Replica) -> Self {
        let changes = Arc::new(watch::Sender::new(0));
        let upkeep = Upkeep::new(replica.clone(), changes.clone());
        Self { ledger, replica, upkeep, turns: Turns::default(), changes, receiving: Arc::default() }
    }

    /// Mends what is damaged and merges away what the item's record does not keep, in the background.
    pub fn tidy(&self, record: ItemRecord) {
        self.upkeep.begin(record);
    }

    /// Whether a point is arriving right now.
    pub fn is_receiving(&self) -> bool {
        self.receiving.load(Ordering::Relaxed) > 0
    }

    /// Counts points that came or went.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Lets `peer` act on an item at `generation`, or says why not.
    async fn admit(
        &self,
        peer: &HostName,
        item: &ItemName,
        generation: Generation,
    ) -> Result<ItemRecord, ApiError> {
        let now = self.ledger.get(item).ok_or_else(|| not_prepared(item))?;
        if generation < now.generation {
            return Err(stale(item, now.generation));
        }
        match now.role {
            Role::Target => {}
            Role::Source => return Err(self.active_here(peer, &now, generation).await?),
            Role::Fenced => {
                return Err(ApiError::failed_precondition(
                    "FENCED",
                    format!("{item} is fenced here at generation {}", now.generation),
                    "prepare a replica on this host, or adopt its disks",
                ));
            }
        }
        // A generation is first heard of from the control plane, or from the side that has been sending all along; anybody
        // else could fence the true source by claiming one.
        if generation > now.generation && now.sender.as_ref().is_none_or(|s| s.host != *peer) {
            return Err(ApiError::failed_precondition(
                "UNKNOWN_GENERATION",
                format!(
                    "this host was not told of generation {generation} of {item}, it knows {}",
                    now.generation
                ),
                "prepare the replica at this generation first",
            ));
        }
        let record = self.ledger.admit(item, generation, Verb::Keep).await.map_err(refusal)?.unwrap_or(now);
        self.sender(peer, record).await
    }

    /// The first agent that sends at a generation is the one that may.
    async fn sender(&self, peer: &HostName, record: ItemRecord) -> Result<ItemRecord, ApiError> {
        let generation = record.generation;
        let record = match &record.sender {
            Some(sender) if sender.generation == generation => record,
            _ => {
                let host = peer.clone();
                let first = move |r: &mut ItemRecord| {
                    // Another one may have been faster.
                    if r.sender.as_ref().is_none_or(|s| s.generation < r.generation) {
                        r.sender = Some(Sender { generation: r.generation, host });
                    }
                };
                self.ledger.update(&record.item, first).await.map_err(refusal)?
            }
        };
        match &record.sender {
            Some(sender) if sender.generation == generation && sender.host == *peer => Ok(record),
            _ => Err(ApiError::permission_denied(
                "OTHER_SENDER",
                format!("{} is sent by another host at generation {generation}", record.item),
                "raise the generation when the active side has moved",
            )),
        }
    }

    /// The peer of an active side claims a higher generation: then this side was superseded, and writes it down.
    async fn active_here(
        &self,
        peer: &HostName,
        now: &ItemRecord,
        generation: Generation,
    ) -> Result<ApiError, ApiError> {
        let item = &now.item;
        let is_peer = now.assignment.as_ref().is_some_and(|a| a.stream.peer_host == *peer);
        if generation > now.generation && is_peer {
            tracing::warn!(%item, %generation, %peer, "superseded by the peer; this side is fenced");
            self.ledger.admit(item, generation, Verb::Fence).await.map_err(refusal)?;
        }
        Ok(ApiError::failed_precondition(
            "ACTIVE_HERE",
            format!("{item} is active on this host at generation {}", now.generation),
            "reverse replicate: adopt the disks of this host first",
        ))
    }
}

/// A transfer that is open, whatever becomes of it.
struct Receiving(Arc<AtomicUsize>);

impl Receiving {
    fn begin(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn not_prepared(item: &ItemName) -> ApiError {
    let remedy = "protect the item; its replica is prepared first";
    ApiError::failed_precondition("NOT_PREPARED", format!("this host is no target of {item}"), remedy)
}

/// The refusal that fences a source.
fn stale(item: &ItemName, seen: Generation) -> ApiError {
    let message = format!("{item} is at generation {seen} here");
    ApiError::failed_precondition(
        STALE_GENERATION,
        message,
        "the other side has taken over; reverse replicate",
    )
    .with_metadata(GENERATION_KEY, seen.to_string())
}

fn refusal(error: LedgerError) -> ApiError {
    match error {
        LedgerError::Stale { item, seen, .. } => stale(&item, seen),
        LedgerError::Unknown(item) => not_prepared(&item),
        error @ (LedgerError::ActiveHere { .. } | LedgerError::Fenced { .. }) => {
            ApiError::failed_precondition("WRONG_ROLE", error.to_string(), "look at the item's roles")
        }
        error => ApiError::internal(error),
    }
}

/// What the store refused, as the peer sees it.
fn store_error(error: StoreError) -> ApiError {
    let text = error.to_string();
    match &error {
        StoreError::StaleGeneration { item, seen, .. } => stale(item, *seen),
        StoreError::Busy(_) => ApiError::unavailable("BUSY", text, "it is tried again"),
        StoreError::DigestMismatch { .. } | StoreError::RootMismatch { .. } => {
            ApiError::aborted("DIGEST_MISMATCH", text, "it is sent again")
        }
        StoreError::PartialMismatch { .. } | StoreError::NoPartial(_) | StoreError::Untrusted(_) => {
            ApiError::aborted("NO_PARTIAL", text, "negotiate again")
        }
        StoreError::PointExists { .. } | StoreError::NoPoint { .. } | StoreError::Damaged { .. } => {
            ApiError::failed_precondition("NO_BASE", text, "negotiate again")
        }
        StoreError::NoDisk { .. } | StoreError::OutOfRange { .. } => {
            ApiError::invalid_argument("BAD_PART", text, "send what the begin announced")
        }
        StoreError::Full { .. } => {
            ApiError::resource_exhausted("NO_SPACE", text, "free or add space on the target's store")
        }
        _ => ApiError::internal(error),
    }
}

fn now() -> UnixMicros {
    std::time::SystemTime::now().into()
}

#[async_trait]
impl SinkHandler for Sink {
    async fn negotiate(&self, peer: &HostName, request: Negotiate) -> Result<Negotiated, ApiError> {
        let record = self.admit(peer, &request.item, request.generation).await?;
        // Who negotiates sends nothing any more. A transfer that is still open here has lost its line, and what it brought is
        // to be made durable before it is told.
        drop(self.turns.take(&request.item).await);
        let known = self
            .replica
            .call(move |store| Ok((store.target_facts(&record.item)?, store.target_seals(&record.item)?)));
        let (facts, seals) = known.await.map_err(store_error)?;
        Ok(negotiated(facts, &seals))
    }

    async fn push(
        &self,
        peer: &HostName,
        begin: Begin,
        parts: PartStream,
        durable: mpsc::Sender<Watermark>,
    ) -> Result<Receipt, ApiError> {
        let record = self.admit(peer, &begin.item, begin.generation).await?;
        let turn = self.turns.take(&begin.item).await;
        let parts = parts.take_until(turn.ended.clone().cancelled_owned()).boxed();
        let _receiving = Receiving::begin(&self.receiving);
        let receipt = receive::receive(&self.replica, begin, parts, durable).await?;
        drop(turn);
        self.changes.send_modify(|n| *n += 1);
        self.upkeep.begin(record);
        Ok(receipt)
    }

    async fn read_digests(
        &self,
        peer: &HostName,
        request: ReadDigests,
    ) -> Result<BoxStream<'static, Result<DigestRun, ApiError>>, ApiError> {
        self.admit(peer, &request.item, request.generation).await?;
        let ReadDigests { item, seq, disk, .. } = request;
        let tree =
            self.replica.call(move |store| store.digests(&item, seq, &disk)).await.map_err(store_error)?;
        Ok(runs(tree).map(Ok).boxed())
    }
}

/// The blocks that are not zero, in runs. The tree is held until the last run was taken; runs are made as they are taken.
fn runs(tree: DigestTree) -> impl futures::Stream<Item = DigestRun> + Send + 'static {
    let next_run = |(tree, from): (DigestTree, u64)| async move {
        let mut block = from;
        loop {
            block = tree.next_nonzero_node(block).filter(|b| *b < tree.blocks())?;
            if !tree.get(block).is_zero_block() {
                break;
            }
            block += 1;
        }
        let nonzero = |b: &u64| *b < tree.blocks() && !tree.get(*b).is_zero_block();
        let digests: Vec<BlockDigest> =
            (block..).take(RUN).take_while(nonzero).map(|b| tree.get(b)).collect();
        let end = block + digests.len() as u64;
        Some((DigestRun { first_block: block, digests }, (tree, end)))
    };
    stream::unfold((tree, 0), next_run)
}

fn negotiated(facts: TargetFacts, seals: &TargetSeals) -> Negotiated {
    let TargetFacts { has, partial, highest_seq, mut damaged } = facts;
    damaged.values_mut().for_each(|ranges| *ranges = ranges.coarsened(MAX_DAMAGED_RANGES));
    let header = |seal: &Option<Seal>, disk: &DiskName| seal.as_ref()?.disks.get(disk).cloned();
    let disks = |disks: std::collections::BTreeMap<_, u64>| {
        let disk = |(name, size)| SinkDisk { luks: header(&seals.latest, &name), name, size };
        disks.into_iter().map(disk).collect()
    };
    let latest = match has {
        TargetHas::Nothing => None,
        TargetHas::Base { seq, disks: all } => {
            Some(Latest { seq, checkpoint: None, is_base: true, disks: disks(all), damaged })
        }
        TargetHas::Point { seq, checkpoint, disks: all } => {
            let checkpoint = Some(checkpoint.as_str().to_owned());
            Some(Latest { seq, checkpoint, is_base: false, disks: disks(all), damaged })
        }
    };
    let partial = partial.map(|p| Partial {
        seq: p.seq,
        parent: p.parent,
        checkpoint: p.since.as_str().to_owned(),
        disks: p
            .disks
            .into_iter()
            .map(|(name, d)| PartialDisk {
                luks: header(&seals.partial, &name),
                name,
                size: d.size,
                durable: d.watermark,
            })
            .collect(),
    });
    Negotiated { latest, partial, highest_seq }
}

#[cfg(test)]
mod tests {
    use understudy_replication::BLOCK_SIZE;

    use super::*;

    #[tokio::test]
    async fn digests_come_in_runs_without_the_zeros() {
        let mut tree = DigestTree::new(10_000 * BLOCK_SIZE);
        let digest = BlockDigest::of(b"x");
        let set: Vec<u64> = [0, 1, 5].into_iter().chain(4000..7000).chain([9_999]).collect();
        set.iter().for_each(|b| tree.set(*b, digest));
        let runs: Vec<DigestRun> = runs(tree).collect().await;
        let told: Vec<u64> =
            runs.iter().flat_map(|r| r.first_block..r.first_block + r.digests.len() as u64).collect();
        assert_eq!(told, set);
        assert!(runs.iter().all(|r| r.digests.len() <= RUN && r.digests.iter().all(|d| *d == digest)));
    }
}
