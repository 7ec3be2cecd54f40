//! What all state-changing calls share: who calls, what identifies the request, and the record of a refusal.

use prost::Message;
use sha2::{Digest, Sha256};
use tonic::{Request, Status};
use understudy_recovery_api::RequestId;
use understudy_rpc::{ApiError, peer};

use super::Api;
use crate::{
    runtime::call::{Call, Caller},
    store::requests::RequestKey,
};

/// A state-changing call before its request has been understood.
pub(super) struct Mutation {
    caller: Caller,
    body_hash: [u8; 32],
}

impl Mutation {
    /// `target` is what the caller says that it is about; it is only recorded.
    pub(super) fn new<M: Message>(
        request: &Request<M>,
        what: &'static str,
        target: impl FnOnce(&M) -> String,
    ) -> Result<Self, ApiError> {
        let message = request.get_ref();
        let caller =
            Caller { who: peer(request)?.to_string(), what, target: target(message), why: String::new() };
        // Maps are ordered in our generated types, so that equal requests are equal bytes.
        let body_hash = Sha256::digest(message.encode_to_vec()).into();
        Ok(Self { caller, body_hash })
    }

    /// With the reason that the caller gives; it is recorded as well.
    #[must_use]
    pub(super) fn because(mut self, why: &str) -> Self {
        why.clone_into(&mut self.caller.why);
        self
    }

    pub(super) fn call(&self, request_id: &RequestId) -> Call {
        let caller = self.caller.clone();
        let key = RequestKey {
            who: caller.who.clone(),
            request_id: request_id.clone(),
            method: caller.what,
            body_hash: self.body_hash,
        };
        Call { caller, key }
    }
}

impl Api {
    /// Passes the outcome on; a refusal is recorded first.
    pub(super) async fn recorded<T>(
        &self,
        mutation: &Mutation,
        outcome: Result<T, ApiError>,
    ) -> Result<T, Status> {
        if let Err(error) = &outcome {
            self.runtime.record_refusal(&mutation.caller, error).await;
        }
        outcome.map_err(Status::from)
    }
}
