//! Who changed what (invariant 12).

use serde::Serialize;
use understudy_ids::UnixMicros;
use understudy_types_api::time_to_wire;

use crate::{
    Decision,
    check::{Checks, Invalid},
    encode, v1,
};

/// One state-changing call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditRecord {
    #[serde(serialize_with = "encode::when")]
    pub time: UnixMicros,
    /// The caller's identity.
    pub who: String,
    /// The method.
    pub what: String,
    pub target: String,
    pub decision: Decision,
    /// "ok", or the reason of the error.
    pub result: String,
    /// The reason that the caller gave, of calls that take one.
    pub why: String,
}

impl AuditRecord {
    pub fn into_wire(self) -> v1::AuditRecord {
        let Self { time, who, what, target, decision, result, why } = self;
        v1::AuditRecord {
            time: Some(time_to_wire(time)),
            who,
            what,
            target,
            decision: decision.as_str().to_owned(),
            result,
            why,
        }
    }

    /// # Errors
    /// When time or decision cannot be understood.
    pub fn from_wire(wire: v1::AuditRecord) -> Result<Self, Invalid> {
        let v1::AuditRecord { time, who, what, target, decision, result, why } = wire;
        let mut checks = Checks::default();
        let time = checks.time("time", time);
        let decision = checks.word("decision", Decision::parse(&decision));
        let whole = (|| Some(Self { time: time?, who, what, target, decision: decision?, result, why }))();
        checks.finish(whole)
    }
}
