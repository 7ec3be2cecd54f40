//! State-changing calls: done once for each request id, and recorded once whether allowed or refused.
//!
//! ```text
//!   request id known, same content ─▶ the thing as it is
//!   request id known, other content ─▶ REQUEST_ID_REUSED
//!   new ─▶ transaction: decide · change · audit "allowed" · take the request id      refused ─▶ audit "refused"
//! ```

use std::sync::Arc;

use futures::future::BoxFuture;
use sqlx::PgConnection;
use understudy_recovery_api::{Decision, view::AuditRecord};
use understudy_rpc::{ApiError, Kind};

use super::Runtime;
use crate::store::{Failure, audit, requests, requests::RequestKey};

/// Who calls what, for the record.
#[derive(Debug, Clone)]
pub struct Caller {
    pub who: String,
    /// The method, such as `FailoverService/StartRun`.
    pub what: &'static str,
    /// What it is about, as the caller says.
    pub target: String,
    /// The reason that the caller gives, of calls that take one.
    pub why: String,
}

/// A mutation that may be done.
#[derive(Debug, Clone)]
pub struct Call {
    pub caller: Caller,
    pub key: RequestKey,
}

impl Runtime {
    /// What this request made when it came before.
    pub(super) async fn seen(&self, call: &Call) -> Result<Option<String>, Failure> {
        requests::find(&mut *self.reader().await?, &call.key).await
    }

    /// Does `work` once for the call's request id, with its record. `work` returns the name of what it made or changed; so does this,
    /// also when an earlier call did it.
    pub(super) async fn once<F>(&self, call: &Call, work: F) -> Result<String, Failure>
    where
        F: for<'t> Fn(&'t mut PgConnection) -> BoxFuture<'t, Result<String, Failure>> + Send + Sync + 'static,
    {
        let work = Arc::new(work);
        let for_tx = call.clone();
        self.write(move |tx| {
            let (call, work) = (for_tx.clone(), work.clone());
            Box::pin(async move {
                if let Some(subject) = requests::find_alone(&mut *tx, &call.key).await? {
                    return Ok(subject);
                }
                let subject = work(&mut *tx).await?;
                requests::insert(&mut *tx, &call.key, &subject).await?;
                let entry = audit::Entry {
                    who: call.caller.who.clone(),
                    what: call.caller.what,
                    target: subject.clone(),
                    decision: Decision::Allowed,
                    result: "OK".to_owned(),
                    why: call.caller.why.clone(),
                };
                audit::insert(tx, &entry).await?;
                Ok(subject)
            })
        })
        .await
    }

    /// Records before the one numbered `before`, newest first, each with its number.
    pub async fn list_audit_records(
        &self,
        before: i64,
        limit: i64,
    ) -> Result<Vec<(i64, AuditRecord)>, ApiError> {
        Ok(audit::list(&mut *self.reader().await?, before, limit).await?)
    }

    /// Records a call that was not done.
    pub async fn record_refusal(&self, caller: &Caller, error: &ApiError) {
        let entry = audit::Entry {
            who: caller.who.clone(),
            what: caller.what,
            target: caller.target.clone(),
            decision: decision(error.kind),
            result: error.reason.to_string(),
            why: caller.why.clone(),
        };
        let entry = Arc::new(entry);
        let stored = self
            .write(move |tx| {
                let entry = entry.clone();
                Box::pin(async move { audit::insert(tx, &entry).await })
            })
            .await;
        if let Err(failure) = stored {
            // The database is what refused the call, or has gone since: the log is what is left.
            tracing::error!(%failure, who = caller.who, what = caller.what, target = caller.target, %error, "no audit record");
        }
    }
}

/// Errors of ours are not decisions: such a call was let through, and failed.
fn decision(kind: Kind) -> Decision {
    match kind {
        Kind::InvalidArgument
        | Kind::NotFound
        | Kind::AlreadyExists
        | Kind::FailedPrecondition
        | Kind::Aborted
        | Kind::PermissionDenied
        | Kind::Unauthenticated
        | Kind::Unimplemented => Decision::Refused,
        Kind::ResourceExhausted
        | Kind::Unavailable
        | Kind::DeadlineExceeded
        | Kind::Unknown
        | Kind::Internal => Decision::Allowed,
    }
}
