//! The record of refused changes.

use tonic::Status;
use understudy_rpc::{ApiError, Identity};

use crate::{runtime::Runtime, store::audit};

/// Records a refused change (invariant 12). Changes that are done are recorded in their own transaction.
pub async fn recorded<T>(
    runtime: &Runtime,
    caller: &Identity,
    method: &'static str,
    subject: String,
    done: Result<T, ApiError>,
) -> Result<T, Status> {
    if let Err(error) = &done {
        let subject = subject.chars().take(200).filter(|c| !c.is_control()).collect();
        let entry = audit::Entry { caller: caller.to_string(), method, subject };
        runtime.record_refusal(entry, error.reason.to_string()).await;
    }
    done.map_err(Status::from)
}
