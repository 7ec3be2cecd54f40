//! Unlocking encrypted replicas: what an operator's client and the agent of a host say to each other.

use std::{fmt, ops::RangeInclusive, time::Duration};

use understudy_ids::{ItemName, PointSeq, UnixMicros};
use understudy_sealing::{Passphrase, WrappedKey};
use understudy_types_api::{duration_to_wire, time_to_wire};

use crate::{
    field::{Invalid, parse, span, text, time},
    v1,
};

/// For how long an item may be unlocked.
const TTL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
const MAX_WRAPPED_KEY: usize = 64 * 1024;

/// How a point is encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointSeal {
    pub seq: PointSeq,
    /// `None`: it is not.
    pub key: Option<WrappedKey>,
}

/// Which point's seal is asked for; without a number, the newest encrypted one's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GetSeal {
    pub item: ItemName,
    pub seq: Option<PointSeq>,
}

/// The item's key, from who could unwrap it.
#[derive(Clone)]
pub struct Unlock {
    pub item: ItemName,
    pub seq: PointSeq,
    pub passphrase: Passphrase,
    /// Fingerprint of the certificate whose key was used.
    pub recipient: String,
    pub ttl: Duration,
}

impl fmt::Debug for Unlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Unlock({} point {} by {} for {:?})", self.item, self.seq, self.recipient, self.ttl)
    }
}

impl TryFrom<v1::GetSealRequest> for GetSeal {
    type Error = Invalid;
    fn try_from(v1::GetSealRequest { item, seq }: v1::GetSealRequest) -> Result<Self, Invalid> {
        Ok(Self { item: parse("item", &item)?, seq: (seq != 0).then(|| PointSeq::new(seq)) })
    }
}

impl From<GetSeal> for v1::GetSealRequest {
    fn from(GetSeal { item, seq }: GetSeal) -> Self {
        Self { item: item.into(), seq: seq.map_or(0, PointSeq::get) }
    }
}

impl TryFrom<v1::Seal> for PointSeal {
    type Error = Invalid;
    fn try_from(v1::Seal { seq, wrapped_key_json }: v1::Seal) -> Result<Self, Invalid> {
        const FIELD: &str = "wrapped_key_json";
        let json = text(FIELD, wrapped_key_json, MAX_WRAPPED_KEY)?;
        let key = (!json.is_empty()).then(|| serde_json::from_str::<WrappedKey>(&json)).transpose();
        let key = key.map_err(|e| Invalid::new(FIELD, e))?;
        if key.as_ref().is_some_and(|key| !key.is_sound()) {
            return Err(Invalid::new(FIELD, "is no wrapped key"));
        }
        Ok(Self { seq: PointSeq::new(seq), key })
    }
}

impl From<PointSeal> for v1::Seal {
    fn from(PointSeal { seq, key }: PointSeal) -> Self {
        // A wrapped key is made of texts and numbers, which are always JSON.
        let json = key.and_then(|key| serde_json::to_string(&key).ok()).unwrap_or_default();
        Self { seq: seq.get(), wrapped_key_json: json }
    }
}

impl TryFrom<v1::UnlockRequest> for Unlock {
    type Error = Invalid;
    fn try_from(wire: v1::UnlockRequest) -> Result<Self, Invalid> {
        let v1::UnlockRequest { item, seq, passphrase, recipient, ttl } = wire;
        let passphrase = zeroize::Zeroizing::new(passphrase);
        let ttl = span("ttl", ttl)?;
        if !TTL.contains(&ttl) {
            return Err(Invalid::new("ttl", format!("{ttl:?} is outside 1 s to 24 h")));
        }
        if seq == 0 {
            return Err(Invalid::new("seq", "is 0"));
        }
        Ok(Self {
            item: parse("item", &item)?,
            seq: PointSeq::new(seq),
            // What was sent is not repeated.
            passphrase: Passphrase::parse(&passphrase)
                .ok_or_else(|| Invalid::new("passphrase", "is not one of ours"))?,
            recipient: text("recipient", recipient, 64)?,
            ttl,
        })
    }
}

impl From<Unlock> for v1::UnlockRequest {
    fn from(Unlock { item, seq, passphrase, recipient, ttl }: Unlock) -> Self {
        Self {
            item: item.into(),
            seq: seq.get(),
            passphrase: passphrase.expose().to_owned(),
            recipient,
            ttl: Some(duration_to_wire(ttl)),
        }
    }
}

pub(crate) fn unlocked(wire: v1::UnlockResponse) -> Result<UnixMicros, Invalid> {
    time("unlocked_until", wire.unlocked_until)
}

pub(crate) fn unlocked_to_wire(until: UnixMicros) -> v1::UnlockResponse {
    v1::UnlockResponse { unlocked_until: Some(time_to_wire(until)) }
}

pub(crate) fn lock(v1::LockRequest { item }: v1::LockRequest) -> Result<ItemName, Invalid> {
    parse("item", &item)
}

#[cfg(test)]
mod tests {
    use understudy_sealing::ItemSecret;

    use super::*;

    fn unlock() -> Unlock {
        Unlock {
            item: "web1".parse().unwrap(),
            seq: PointSeq::new(7),
            passphrase: ItemSecret::generate().unwrap().passphrase(),
            recipient: "ab".repeat(32),
            ttl: Duration::from_secs(60),
        }
    }

    /// R-REP-10: what carries a key prints none, and bounds hold.
    #[test]
    fn an_unlock_comes_back_as_it_went_out_and_prints_no_key() {
        let asked = unlock();
        let back = Unlock::try_from(v1::UnlockRequest::from(asked.clone())).unwrap();
        assert_eq!(back.passphrase.expose(), asked.passphrase.expose());
        assert_eq!((back.item, back.seq, back.ttl), (asked.item.clone(), asked.seq, asked.ttl));
        assert!(!format!("{asked:?}").contains(asked.passphrase.expose()));
        let refused = |change: fn(&mut v1::UnlockRequest)| {
            let mut wire = v1::UnlockRequest::from(unlock());
            change(&mut wire);
            Unlock::try_from(wire).unwrap_err()
        };
        assert_eq!(refused(|w| w.seq = 0).field, "seq");
        assert_eq!(refused(|w| w.ttl = Some(duration_to_wire(Duration::from_secs(90_000)))).field, "ttl");
        let wrong = refused(|w| w.passphrase = "S3CRET".to_owned());
        assert!(wrong.field == "passphrase" && !wrong.why.contains("S3CRET"));
    }
}
