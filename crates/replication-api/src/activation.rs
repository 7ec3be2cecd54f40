//! Activation leases: what the orchestrator and the agent of a host say to each other (R-FO-7).

use std::time::Duration;

use understudy_ids::{Generation, ItemName, MachineName, Uuid};
use understudy_replication::activation::LENGTHS;
use understudy_types_api::duration_to_wire;

use crate::{
    MAX_BOOT_ID,
    field::{Invalid, list, names, parse, required, span, text, uuid},
    v1,
};

/// The most leases of one host.
pub const MAX_LEASES: usize = 4096;
const MAX_WHY: usize = 1024;

/// A host's clock at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulse {
    pub boot_id: String,
    /// By a clock that counts sleep and cannot be set.
    pub since_boot: Duration,
}

/// The machine may run for the length, counted from the pulse that is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub item: ItemName,
    pub generation: Generation,
    pub length: Duration,
    pub machine: MachineName,
    pub machine_uuid: Uuid,
}

/// An item that is in neither list keeps the lease that it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    pub answers: Pulse,
    pub leases: Vec<Lease>,
    /// Bound by a lease no longer.
    pub released: Vec<ItemName>,
}

/// What a host is bound by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldLease {
    pub item: ItemName,
    pub generation: Generation,
    pub length: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub item: ItemName,
    pub why: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Renewed {
    pub held: Vec<HeldLease>,
    pub refused: Vec<Refused>,
}

impl TryFrom<v1::Pulse> for Pulse {
    type Error = Invalid;
    fn try_from(v1::Pulse { boot_id, since_boot }: v1::Pulse) -> Result<Self, Invalid> {
        let boot_id = text("boot_id", boot_id, MAX_BOOT_ID)?;
        Ok(Self { boot_id, since_boot: span("since_boot", since_boot)? })
    }
}

impl From<Pulse> for v1::Pulse {
    fn from(Pulse { boot_id, since_boot }: Pulse) -> Self {
        Self { boot_id, since_boot: Some(duration_to_wire(since_boot)) }
    }
}

impl TryFrom<v1::Lease> for Lease {
    type Error = Invalid;
    fn try_from(wire: v1::Lease) -> Result<Self, Invalid> {
        let v1::Lease { item, generation, length, machine, machine_uuid } = wire;
        let length = span("length", length)?;
        if !LENGTHS.contains(&length) {
            return Err(Invalid::new("length", format!("{length:?} is outside {LENGTHS:?}")));
        }
        Ok(Self {
            item: parse("item", &item)?,
            generation: Generation::new(generation),
            length,
            machine: parse("machine", &machine)?,
            machine_uuid: uuid("machine_uuid", &machine_uuid)?,
        })
    }
}

impl From<Lease> for v1::Lease {
    fn from(Lease { item, generation, length, machine, machine_uuid }: Lease) -> Self {
        Self {
            item: item.into(),
            generation: generation.get(),
            length: Some(duration_to_wire(length)),
            machine: machine.into(),
            machine_uuid: machine_uuid.to_string(),
        }
    }
}

impl TryFrom<v1::RenewLeasesRequest> for Renewal {
    type Error = Invalid;
    fn try_from(wire: v1::RenewLeasesRequest) -> Result<Self, Invalid> {
        let v1::RenewLeasesRequest { answers, leases, released } = wire;
        Ok(Self {
            answers: Pulse::try_from(required("answers", answers)?).map_err(|e| e.within("answers"))?,
            leases: list("leases", leases, MAX_LEASES, Lease::try_from)?,
            released: names("released", &released, MAX_LEASES)?,
        })
    }
}

impl From<Renewal> for v1::RenewLeasesRequest {
    fn from(Renewal { answers, leases, released }: Renewal) -> Self {
        Self {
            answers: Some(answers.into()),
            leases: leases.into_iter().map(Into::into).collect(),
            released: released.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::RenewLeasesResponse> for Renewed {
    type Error = Invalid;
    fn try_from(v1::RenewLeasesResponse { held, refused }: v1::RenewLeasesResponse) -> Result<Self, Invalid> {
        let held = list("held", held, MAX_LEASES, |v1::HeldLease { item, generation, length }| {
            Ok(HeldLease {
                item: parse("item", &item)?,
                generation: Generation::new(generation),
                length: span("length", length)?,
            })
        })?;
        let refused = list("refused", refused, MAX_LEASES, |v1::LeaseRefusal { item, why }| {
            Ok(Refused { item: parse("item", &item)?, why: text("why", why, MAX_WHY)? })
        })?;
        Ok(Self { held, refused })
    }
}

impl From<Renewed> for v1::RenewLeasesResponse {
    fn from(Renewed { held, refused }: Renewed) -> Self {
        let held = held.into_iter().map(|HeldLease { item, generation, length }| v1::HeldLease {
            item: item.into(),
            generation: generation.get(),
            length: Some(duration_to_wire(length)),
        });
        let refused = refused.into_iter().map(|Refused { item, mut why }| {
            why.truncate(why.floor_char_boundary(MAX_WHY));
            v1::LeaseRefusal { item: item.into(), why }
        });
        Self { held: held.collect(), refused: refused.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renewal() -> Renewal {
        Renewal {
            answers: Pulse { boot_id: "b".to_owned(), since_boot: Duration::from_millis(12_345) },
            leases: vec![Lease {
                item: "web1".parse().unwrap(),
                generation: Generation::new(3),
                length: Duration::from_secs(30),
                machine: "web1".parse().unwrap(),
                machine_uuid: Uuid::nil(),
            }],
            released: vec!["db1".parse().unwrap()],
        }
    }

    #[test]
    fn messages_come_back_as_they_went_out() {
        assert_eq!(Renewal::try_from(v1::RenewLeasesRequest::from(renewal())), Ok(renewal()));
        let renewed = Renewed {
            held: vec![HeldLease {
                item: "web1".parse().unwrap(),
                generation: Generation::new(3),
                length: Duration::from_secs(30),
            }],
            refused: vec![Refused { item: "db1".parse().unwrap(), why: "it is not here".to_owned() }],
        };
        assert_eq!(Renewed::try_from(v1::RenewLeasesResponse::from(renewed.clone())), Ok(renewed));
    }

    /// R-FO-7: bounds hold, and the field that breaks one is named.
    #[test]
    fn what_breaks_the_contract_is_refused() {
        let refused = |change: fn(&mut v1::RenewLeasesRequest)| {
            let mut wire = v1::RenewLeasesRequest::from(renewal());
            change(&mut wire);
            Renewal::try_from(wire).unwrap_err().field
        };
        assert_eq!(refused(|w| w.answers = None), "answers");
        assert_eq!(
            refused(|w| w.leases[0].length = Some(duration_to_wire(Duration::from_secs(14)))),
            "leases[0].length"
        );
        assert_eq!(
            refused(|w| w.leases[0].length = Some(duration_to_wire(Duration::from_secs(3601)))),
            "leases[0].length"
        );
        assert_eq!(refused(|w| w.leases[0].machine_uuid.clear()), "leases[0].machine_uuid");
        assert_eq!(refused(|w| w.leases = vec![w.leases[0].clone(); MAX_LEASES + 1]), "leases");
        assert_eq!(refused(|w| w.released.push("../x".to_owned())), "released[1]");
    }
}
