//! Lending a host the key of an encrypted replica (R-REP-10).
//!
//! ```text
//!   agent of the host ── wrapped secret ─▶ private key, here ─▶ secret ─▶ agent of the host, which keeps it in memory for a while
//! ```
//!
//! The private key is read, used and forgotten here; neither it nor the secret passes through the orchestrator.

use std::{
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, bail};
use understudy_ids::{HostName, ItemName, PointSeq, Problem, UnixMicros};
use understudy_recovery_api::RecoveryClient;
use understudy_replication_api::{
    KeyClient,
    keys::{GetSeal, PointSeal, Unlock},
};
use understudy_rpc::ApiError;
use understudy_sealing::{PrivateKey, UnwrapError, WrappedFor, WrappedKey};

use crate::{connection::ConnectionArgs, output};

/// For how long a failover that is started now may need the key.
pub const DEFAULT_TTL: Duration = Duration::from_secs(3600);
/// Agents tell their facts at most once a second.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const FACTS_ARRIVE: Duration = Duration::from_secs(15);
/// The most bytes of a file that is said to hold a private key.
const MAX_KEY_FILE: u64 = 64 * 1024;

/// A private key and for how long its secrets are lent.
pub struct Lender<'a> {
    pub connection: &'a ConnectionArgs,
    pub recovery: &'a RecoveryClient,
    pub key: PrivateKey,
    pub ttl: Duration,
}

/// Reads a private key from a file.
///
/// # Errors
/// When the file holds none that can be used; its content is not repeated.
pub fn read_key(file: &Path) -> anyhow::Result<PrivateKey> {
    let shown = file.display();
    let length = std::fs::metadata(file).with_context(|| format!("the key {shown} cannot be read"))?.len();
    if length > MAX_KEY_FILE {
        bail!("{shown} has {length} bytes: it is no private key");
    }
    let text = std::fs::read_to_string(file).map(zeroize::Zeroizing::new);
    let text = text.with_context(|| format!("the key {shown} cannot be read"))?;
    PrivateKey::from_pem(&text).map_err(|error| {
        refusal("KEY_NOT_USABLE", format!("{shown}: {error}"), "give the private key of a recipient (PEM)")
    })
}

impl Lender<'_> {
    /// Unlocks items wherever they are encrypted, or only the named points of them. Says where and until when.
    ///
    /// # Errors
    /// When none is encrypted anywhere that can be reached, or the key does not open one. Nothing is unlocked then.
    pub async fn unlock(&self, items: &[(&ItemName, Option<PointSeq>)]) -> anyhow::Result<()> {
        let mut asked = Vec::new();
        for (item, seq) in items {
            for (host, client, PointSeal { seq, key }) in
                sealed_at(self.connection, self.recovery, item, *seq).await?
            {
                let Some(wrapped) = key else { continue };
                asked.push((host, client, self.request(item, seq, &wrapped)?));
            }
        }
        if asked.is_empty() {
            let message = "no host that can be reached has an encrypted point of what is named".to_owned();
            return Err(refusal("NOT_ENCRYPTED", message, "leave the key out, or look at the hosts"));
        }
        for (host, client, request) in asked {
            let item = request.item.clone();
            let until = client.unlock(request).await?;
            eprintln!("{item} is unlocked at {host} until {}", output::time(until));
        }
        Ok(())
    }

    fn request(&self, item: &ItemName, seq: PointSeq, wrapped: &WrappedKey) -> anyhow::Result<Unlock> {
        let secret = wrapped.unwrap(&self.key, UnixMicros::from(SystemTime::now())).map_err(|error| {
            let reason = match &error {
                UnwrapError::Expired { .. } => "KEY_EXPIRED",
                UnwrapError::NoRecipient(_) | UnwrapError::Damaged(_) => "KEY_WRONG",
            };
            let message = format!("the key does not open point {seq} of {item}: {error}");
            refusal(reason, message, "use the private key of another of its recipients")
        })?;
        let recipient = wrapped.holder(&self.key).map(|r: &WrappedFor| r.fingerprint.to_string());
        Ok(Unlock {
            item: item.clone(),
            seq,
            passphrase: secret.passphrase(),
            recipient: recipient.unwrap_or_default(),
            ttl: self.ttl,
        })
    }
}

/// Takes an item's key back from every host of it.
pub async fn lock(
    connection: &ConnectionArgs,
    recovery: &RecoveryClient,
    item: &ItemName,
) -> anyhow::Result<()> {
    for (host, client) in hosts(connection, recovery, item).await? {
        client.lock(item).await?;
        output::say(&format!("{item} is locked at {host}"));
    }
    Ok(())
}

/// Both sides of an item.
async fn hosts(
    connection: &ConnectionArgs,
    recovery: &RecoveryClient,
    item: &ItemName,
) -> anyhow::Result<Vec<(HostName, KeyClient)>> {
    let item = recovery.get_item(item).await?;
    let mut clients = Vec::new();
    for name in [item.standby_host, item.active_host] {
        let host = recovery.get_host(&name).await?;
        clients.push((name.clone(), KeyClient::new(&host.facts_endpoint, connection.tls()?, &name)?));
    }
    Ok(clients)
}

/// Hosts with encrypted points. After a disaster one of the two is gone, which is no reason to keep the other one locked.
async fn sealed_at(
    connection: &ConnectionArgs,
    recovery: &RecoveryClient,
    item: &ItemName,
    seq: Option<PointSeq>,
) -> anyhow::Result<Vec<(HostName, KeyClient, PointSeal)>> {
    let mut found = Vec::new();
    for (host, client) in hosts(connection, recovery, item).await? {
        match client.seal(GetSeal { item: item.clone(), seq }).await {
            Ok(seal) if seal.key.is_some() => found.push((host, client, seal)),
            Ok(_) => {}
            Err(error) if error.reason == "NO_POINT" => {}
            Err(error) => eprintln!("{host} cannot be asked about {item}: {}", error.message),
        }
    }
    Ok(found)
}

fn refusal(reason: &'static str, message: String, remedy: &'static str) -> anyhow::Error {
    ApiError::failed_precondition(reason, message, remedy).into()
}

/// A preview. The orchestrator hears of a key that was just lent with the host's next facts, which is waited for.
pub async fn heard<T>(
    unlocked: bool,
    ask: impl AsyncFn() -> Result<T, ApiError>,
    problems: impl Fn(&T) -> &Vec<Problem>,
) -> Result<T, ApiError> {
    let deadline = Instant::now() + FACTS_ARRIVE;
    let mut tick = tokio::time::interval(LOOK_EVERY);
    loop {
        tick.tick().await;
        let preview = ask().await?;
        let locked =
            problems(&preview).iter().any(|p| p.reason == "KEY_MISSING" || p.reason == "KEY_EXPIRED");
        if !unlocked || !locked || Instant::now() >= deadline {
            return Ok(preview);
        }
    }
}
