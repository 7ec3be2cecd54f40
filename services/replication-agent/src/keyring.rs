//! Keys of encrypted replicas, while an operator lends them to this host (R-REP-10).
//!
//! ```text
//!   operator's client ── Unlock: passphrase ─▶ opens the point? ─▶ memory, until its time has passed ─▶ tests, promotions, starts
//!                                                    │ no: KEY_WRONG, KEY_EXPIRED, nothing is kept
//! ```
//!
//! **Promise.** A key is held only after it has opened what it is for, is never written down, and never told to anybody but the hypervisor.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Instant, SystemTime},
};

use async_trait::async_trait;
use tokio::sync::watch;
use understudy_hypervisor::{Hypervisor, Machine};
use understudy_ids::{ItemName, PointSeq, UnixMicros};
use understudy_replica_store::{Seal, StoreError};
use understudy_replication_api::{
    KeyHandler,
    keys::{GetSeal, PointSeal, Unlock},
};
use understudy_rpc::{ApiError, Identity};
use understudy_sealing::{LuksHeader, Passphrase};

use crate::replica::Replica;

/// The keys that are held.
#[derive(Clone)]
pub struct Keyring {
    replica: Replica,
    hypervisor: Arc<dyn Hypervisor>,
    held: Arc<Mutex<BTreeMap<ItemName, Held>>>,
    changes: Arc<watch::Sender<u64>>,
}

struct Held {
    passphrase: Passphrase,
    /// By a clock that nobody can set back.
    ends: Instant,
    /// The same, for people.
    until: UnixMicros,
    /// What it has been seen to open.
    opens: Vec<LuksHeader>,
}

impl Held {
    fn fits(&self, seal: &Seal) -> bool {
        seal.disks.values().all(|header| self.opens.contains(header))
    }
}

impl Keyring {
    pub fn new(replica: Replica, hypervisor: Arc<dyn Hypervisor>) -> Self {
        Self { replica, hypervisor, held: Arc::default(), changes: Arc::new(watch::Sender::new(0)) }
    }

    /// Counts changes, for whoever tells others about them.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The key of what is encrypted so, if it is held.
    pub fn key(&self, item: &ItemName, seal: &Seal) -> Option<Passphrase> {
        self.with(item, |held| held.fits(seal).then(|| held.passphrase.clone()))
    }

    /// The key that is held for an item, whatever it opens.
    pub fn any(&self, item: &ItemName) -> Option<Passphrase> {
        self.with(item, |held| Some(held.passphrase.clone()))
    }

    /// Until when what is encrypted so can be opened here.
    pub fn unlocked_until(&self, item: &ItemName, seal: &Seal) -> Option<UnixMicros> {
        self.with(item, |held| held.fits(seal).then_some(held.until))
    }

    /// Machines that stand on the item's encrypted disks already, such as one that failed over before its host booted.
    async fn give(&self, item: &ItemName, passphrase: &Passphrase) -> Result<(), ApiError> {
        let machines = self.hypervisor.inventory().await.map_err(ApiError::internal)?.machines;
        let ours = |m: &&Machine| {
            m.tag.as_ref().is_some_and(|tag| tag.item == *item)
                && m.hardware.disks.iter().any(|d| d.encrypted)
        };
        for machine in machines.iter().filter(ours) {
            self.hypervisor.unlock(&machine.name, passphrase).await.map_err(ApiError::internal)?;
        }
        Ok(())
    }

    fn with<T>(&self, item: &ItemName, look: impl FnOnce(&Held) -> Option<T>) -> Option<T> {
        let mut held = self.lock();
        held.retain(|_, held| held.ends > Instant::now());
        held.get(item).and_then(look)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<ItemName, Held>> {
        // The map is whole at every moment, so a panic elsewhere does not spoil it.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn seal(
        &self,
        item: &ItemName,
        seq: Option<PointSeq>,
    ) -> Result<(PointSeq, Option<Seal>), ApiError> {
        let asked = item.clone();
        let found = self.replica.call(move |store| match seq {
            Some(seq) => store.point(&asked, seq).map(Some),
            None => {
                let mut points = store.points(&asked)?;
                let sealed = points.iter().rposition(|point| point.manifest.seal.is_some());
                Ok(sealed.map(|index| points.swap_remove(index)).or_else(|| points.pop()))
            }
        });
        let no_point = |why: String| {
            ApiError::not_found(
                "NO_POINT",
                why,
                "list the item's recovery points and the hosts that keep them",
            )
        };
        match found.await {
            Ok(Some(point)) => Ok((point.manifest.seq, point.manifest.seal)),
            Ok(None) => Err(no_point(format!("{item} has no point on this host"))),
            Err(error @ StoreError::NoPoint { .. }) => Err(no_point(error.to_string())),
            Err(error) => Err(ApiError::internal(error)),
        }
    }
}

/// Headers of the point and of all others of the item that the passphrase opens; `None` when it does not open the point itself.
fn opened(passphrase: &Passphrase, point: &Seal, others: Vec<Seal>) -> Option<Vec<LuksHeader>> {
    let mut opens: Vec<LuksHeader> = Vec::new();
    for header in point.disks.values() {
        header.open(passphrase).ok()?;
        opens.push(header.clone());
    }
    for header in others.into_iter().flat_map(|seal| seal.disks.into_values()) {
        if !opens.contains(&header) && header.open(passphrase).is_ok() {
            opens.push(header);
        }
    }
    Some(opens)
}

#[async_trait]
impl KeyHandler for Keyring {
    async fn get_seal(&self, request: GetSeal) -> Result<PointSeal, ApiError> {
        let (seq, seal) = self.seal(&request.item, request.seq).await?;
        Ok(PointSeal { seq, key: seal.map(|seal| seal.key) })
    }

    async fn unlock(&self, peer: &Identity, request: Unlock) -> Result<UnixMicros, ApiError> {
        let Unlock { item, seq, passphrase, recipient, ttl } = request;
        let (_, seal) = self.seal(&item, Some(seq)).await?;
        let seal = seal.ok_or_else(|| {
            let message = format!("point {seq} of {item} is not encrypted");
            ApiError::failed_precondition("NOT_ENCRYPTED", message, "start the failover without a key")
        })?;
        let now = UnixMicros::from(SystemTime::now());
        allowed(&seal, &item, &recipient, now)?;
        let (asked, tried) = (item.clone(), passphrase.clone());
        let opens = self.replica.call(move |store| {
            let others = store.points(&asked)?.into_iter().filter_map(|p| p.manifest.seal).collect();
            Ok(opened(&tried, &seal, others))
        });
        let opens = opens.await.map_err(ApiError::internal)?.ok_or_else(|| {
            let message = format!("the key does not open point {seq} of {item}");
            ApiError::failed_precondition(
                "KEY_WRONG",
                message,
                "use the private key of one of its recipients",
            )
        })?;
        let until = now.plus(ttl);
        tracing::info!(%item, %seq, %peer, recipient, ?ttl, "unlocked");
        self.give(&item, &passphrase).await?;
        self.lock().insert(item, Held { passphrase, ends: Instant::now() + ttl, until, opens });
        self.changes.send_modify(|n| *n += 1);
        Ok(until)
    }

    async fn forget(&self, peer: &Identity, item: ItemName) -> Result<(), ApiError> {
        if self.lock().remove(&item).is_some() {
            tracing::info!(%item, %peer, "locked");
            self.changes.send_modify(|n| *n += 1);
        }
        Ok(())
    }
}

/// The certificate is a recipient's and has not ended.
fn allowed(seal: &Seal, item: &ItemName, recipient: &str, now: UnixMicros) -> Result<(), ApiError> {
    let known = seal.key.recipients.iter().find(|r| r.fingerprint.as_str() == recipient);
    match known {
        Some(known) if known.not_after >= now => Ok(()),
        Some(known) => Err(ApiError::failed_precondition(
            "KEY_EXPIRED",
            format!("the certificate of {known} has ended"),
            "use another recipient's key",
        )),
        None => Err(ApiError::failed_precondition(
            "KEY_WRONG",
            format!("no recipient of {item} has the certificate {recipient}"),
            "use the private key of one of its recipients",
        )),
    }
}
