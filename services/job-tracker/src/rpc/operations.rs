//! `google.longrunning.Operations` over the same jobs, for programs that know no more than that.

use std::time::Instant;

use async_trait::async_trait;
use tonic::{Request, Response, Status};
use understudy_jobs_api::{
    convert,
    longrunning::{
        CancelOperationRequest, DeleteOperationRequest, GetOperationRequest, ListOperationsRequest,
        ListOperationsResponse, Operation, WaitOperationRequest, operations_server,
    },
};
use understudy_rpc::{ApiError, answer_by, peer};

use super::{error::invalid, refusals::recorded};
use crate::runtime::Runtime;

type Answer<T> = Result<Response<T>, Status>;

pub struct Operations(pub Runtime);

#[async_trait]
impl operations_server::Operations for Operations {
    async fn get_operation(&self, request: Request<GetOperationRequest>) -> Answer<Operation> {
        let id = convert::operation_name(&request.get_ref().name).map_err(invalid)?;
        let job = self.0.get_job(id).await.map_err(ApiError::from)?;
        Ok(Response::new(convert::operation_from_job(job)))
    }

    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Answer<ListOperationsResponse> {
        let list = convert::list_operations(request.into_inner()).map_err(invalid)?;
        let page = self
            .0
            .list_jobs(&list.filter, list.page_size, list.page_token.as_deref())
            .await
            .map_err(ApiError::from)?;
        Ok(Response::new(ListOperationsResponse {
            operations: page.items.into_iter().map(convert::operation_from_job).collect(),
            next_page_token: page.next.unwrap_or_default(),
            unreachable: Vec::new(),
        }))
    }

    async fn wait_operation(&self, request: Request<WaitOperationRequest>) -> Answer<Operation> {
        let longest = answer_by(&request);
        let wait = convert::wait_operation(request.into_inner()).map_err(invalid)?;
        let asked = wait.time_out.and_then(|time_out| Instant::now().checked_add(time_out));
        // The server has a deadline for every unary call.
        let until = [longest, asked].into_iter().flatten().min().unwrap_or_else(Instant::now);
        let job = self.0.wait_for_end(wait.job, until).await.map_err(ApiError::from)?;
        Ok(Response::new(convert::operation_from_job(job)))
    }

    async fn cancel_operation(&self, request: Request<CancelOperationRequest>) -> Answer<()> {
        let caller = peer(&request)?.clone();
        let name = request.into_inner().name;
        let done = match convert::operation_name(&name).map_err(invalid) {
            Ok(job) => self.0.request_cancel(&caller, job).await.map_err(ApiError::from),
            Err(error) => Err(error),
        };
        recorded(&self.0, &caller, "CancelOperation", name, done).await?;
        Ok(Response::new(()))
    }

    /// The record of work is nobody's to shorten.
    async fn delete_operation(&self, request: Request<DeleteOperationRequest>) -> Answer<()> {
        let caller = peer(&request)?.clone();
        let kept = ApiError::failed_precondition(
            "HISTORY_IS_KEPT",
            "jobs are not deleted on demand",
            "Let the retention of the history do it, days after the job has ended.",
        );
        let name = request.into_inner().name;
        let done: Result<(), ApiError> = convert::operation_name(&name).map_err(invalid).and(Err(kept));
        recorded(&self.0, &caller, "DeleteOperation", name, done).await?;
        Ok(Response::new(()))
    }
}
