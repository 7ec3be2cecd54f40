//! `understudy.recovery.v1.FailoverService`.

use tonic::{Request, Response, Status, async_trait};
use understudy_ids::{ItemName, RunId, UnixMicros};
use understudy_recovery::run::RunVerb as Verb;
use understudy_recovery_api::{
    Invalid,
    request::{
        AnswerRun, ChangeRun, CompleteTest, Page, RunSpec, RunVerb, SetRunDeadline, StartRun,
        change_preview_from_wire, name_from_wire, optional_name_from_wire,
    },
    v1::{self, failover_service_server::FailoverService},
    view::Run,
};
use understudy_rpc::ApiError;

use super::{
    Api,
    mutation::Mutation,
    paging::{after, bad_token, cut, sql_limit},
};
use crate::store::runs::Before;

impl Api {
    /// Commit, cancel and retry differ only in the verb.
    async fn steer(
        &self,
        mutation: Mutation,
        verb: Verb,
        name: &str,
        request_id: &str,
    ) -> Result<Response<v1::Run>, Status> {
        let outcome = async {
            let RunVerb { run, request_id } = RunVerb::from_wire(name, request_id)?;
            self.runtime.verb(&mutation.call(&request_id), run, verb).await
        };
        let run = self.recorded(&mutation, outcome.await).await?;
        Ok(Response::new(run.into_wire()))
    }

    /// Confirm and reject differ only in what was said.
    async fn answer(
        &self,
        mutation: Mutation,
        answer: Result<AnswerRun, Invalid>,
        confirmed: bool,
    ) -> Result<Response<v1::Run>, Status> {
        let outcome = async {
            let answer = answer?;
            let call = mutation.call(&answer.request_id);
            self.runtime.answer_run(&call, answer, confirmed).await
        };
        let run = self.recorded(&mutation, outcome.await).await?;
        Ok(Response::new(run.into_wire()))
    }
}

#[async_trait]
impl FailoverService for Api {
    async fn preview_run(
        &self,
        request: Request<v1::PreviewRunRequest>,
    ) -> Result<Response<v1::RunPreview>, Status> {
        let spec = RunSpec::from_wire(request.into_inner().spec).map_err(ApiError::from)?;
        Ok(Response::new(self.runtime.preview_run(spec).await?.into_wire()))
    }

    async fn start_run(&self, request: Request<v1::StartRunRequest>) -> Result<Response<v1::Run>, Status> {
        let target = |r: &v1::StartRunRequest| r.spec.as_ref().map(target_of).unwrap_or_default();
        let mutation = Mutation::new(&request, "FailoverService/StartRun", target)?;
        let to_production =
            |spec: &v1::RunSpec| Some(spec.test_network.as_ref()?.connect_to_production.clone());
        let why = request.get_ref().spec.as_ref().and_then(to_production).unwrap_or_default();
        let mutation = mutation.because(&why);
        let outcome = async {
            let request = StartRun::from_wire(request.into_inner())?;
            let call = mutation.call(&request.request_id);
            self.runtime.start_run(&call, request).await
        };
        let run = self.recorded(&mutation, outcome.await).await?;
        Ok(Response::new(run.into_wire()))
    }

    async fn get_run(&self, request: Request<v1::GetRunRequest>) -> Result<Response<v1::Run>, Status> {
        let run: RunId = name_from_wire("name", &request.into_inner().name).map_err(ApiError::from)?;
        Ok(Response::new(self.runtime.get_run(run).await?.into_wire()))
    }

    async fn get_screenshot(
        &self,
        request: Request<v1::GetScreenshotRequest>,
    ) -> Result<Response<v1::Screenshot>, Status> {
        let v1::GetScreenshotRequest { run, item } = request.into_inner();
        let run: RunId = name_from_wire("run", &run).map_err(ApiError::from)?;
        let item: ItemName = name_from_wire("item", &item).map_err(ApiError::from)?;
        Ok(Response::new(self.runtime.get_screenshot(run, &item).await?.into_wire()))
    }

    async fn list_runs(
        &self,
        request: Request<v1::ListRunsRequest>,
    ) -> Result<Response<v1::ListRunsResponse>, Status> {
        let v1::ListRunsRequest { item, page_size, page_token } = request.into_inner();
        let item: Option<ItemName> = optional_name_from_wire("item", &item).map_err(ApiError::from)?;
        let page = Page::from_wire(page_size, page_token).map_err(ApiError::from)?;
        let before = place(&after(&page)?)?;
        let item = item.as_ref().map_or("", ItemName::as_str);
        let runs = self.runtime.list_runs(item, before, sql_limit(&page)).await?;
        let key = |(place, _): &(Before, Run)| format!("{} {}", place.created.get(), place.id);
        let (runs, next_page_token) = cut(&page, runs, key);
        let runs = runs.into_iter().map(|(_, run)| run.into_wire()).collect();
        Ok(Response::new(v1::ListRunsResponse { runs, next_page_token }))
    }

    async fn complete_test(
        &self,
        request: Request<v1::CompleteTestRequest>,
    ) -> Result<Response<v1::Run>, Status> {
        let mutation = Mutation::new(&request, "FailoverService/CompleteTest", |r| r.name.clone())?;
        let outcome = async {
            let request = CompleteTest::from_wire(request.into_inner())?;
            let call = mutation.call(&request.request_id);
            self.runtime.complete_test(&call, request).await
        };
        let run = self.recorded(&mutation, outcome.await).await?;
        Ok(Response::new(run.into_wire()))
    }

    async fn preview_run_change(
        &self,
        request: Request<v1::PreviewRunChangeRequest>,
    ) -> Result<Response<v1::RunChangePreview>, Status> {
        let (run, change) = change_preview_from_wire(request.into_inner()).map_err(ApiError::from)?;
        Ok(Response::new(self.runtime.preview_run_change(run, change).await?.into_wire()))
    }

    async fn change_run(&self, request: Request<v1::ChangeRunRequest>) -> Result<Response<v1::Run>, Status> {
        let mutation = Mutation::new(&request, "FailoverService/ChangeRun", |r| r.name.clone())?;
        let outcome = async {
            let request = ChangeRun::from_wire(request.into_inner())?;
            let call = mutation.call(&request.request_id);
            self.runtime.change_run(&call, request).await
        };
        let run = self.recorded(&mutation, outcome.await).await?;
        Ok(Response::new(run.into_wire()))
    }

    async fn set_run_deadline(
        &self,
        request: Request<v1::SetRunDeadlineRequest>,
    ) -> Result<Response<v1::Run>, Status> {
        let mutation = Mutation::new(&request, "FailoverService/SetRunDeadline", |r| r.name.clone())?;
        let outcome = async {
            let request = SetRunDeadline::from_wire(request.into_inner())?;
            let call = mutation.call(&request.request_id);
            self.runtime.set_run_deadline(&call, request).await
        };
        let run = self.recorded(&mutation, outcome.await).await?;
        Ok(Response::new(run.into_wire()))
    }

    async fn commit_run(&self, request: Request<v1::CommitRunRequest>) -> Result<Response<v1::Run>, Status> {
        let mutation = Mutation::new(&request, "FailoverService/CommitRun", |r| r.name.clone())?;
        let v1::CommitRunRequest { name, request_id } = request.into_inner();
        self.steer(mutation, Verb::Commit, &name, &request_id).await
    }

    async fn confirm_run(
        &self,
        request: Request<v1::ConfirmRunRequest>,
    ) -> Result<Response<v1::Run>, Status> {
        let mutation = Mutation::new(&request, "FailoverService/ConfirmRun", |r| r.name.clone())?;
        let v1::ConfirmRunRequest { name, request_id, step } = request.into_inner();
        self.answer(mutation, AnswerRun::from_wire(&name, &step, &request_id), true).await
    }

    async fn reject_run(&self, request: Request<v1::RejectRunRequest>) -> Result<Response<v1::Run>, Status> {
        let mutation = Mutation::new(&request, "FailoverService/RejectRun", |r| r.name.clone())?;
        let v1::RejectRunRequest { name, request_id, step } = request.into_inner();
        self.answer(mutation, AnswerRun::from_wire(&name, &step, &request_id), false).await
    }

    async fn cancel_run(&self, request: Request<v1::CancelRunRequest>) -> Result<Response<v1::Run>, Status> {
        let mutation = Mutation::new(&request, "FailoverService/CancelRun", |r| r.name.clone())?;
        let v1::CancelRunRequest { name, request_id } = request.into_inner();
        self.steer(mutation, Verb::Cancel, &name, &request_id).await
    }

    async fn retry_run(&self, request: Request<v1::RetryRunRequest>) -> Result<Response<v1::Run>, Status> {
        let mutation = Mutation::new(&request, "FailoverService/RetryRun", |r| r.name.clone())?;
        let v1::RetryRunRequest { name, request_id } = request.into_inner();
        self.steer(mutation, Verb::Retry, &name, &request_id).await
    }
}

/// What a run is about, for the record of a request that may be refused.
fn target_of(spec: &v1::RunSpec) -> String {
    let plan = Some(spec.recovery_plan.clone()).filter(|plan| !plan.is_empty());
    plan.into_iter().chain(spec.items.iter().cloned()).collect::<Vec<_>>().join(" ")
}

/// Where a list of runs goes on: time and identifier of the last one shown.
fn place(key: &str) -> Result<Option<Before>, ApiError> {
    if key.is_empty() {
        return Ok(None);
    }
    let read = || {
        let (created, id) = key.split_once(' ')?;
        Some(Before { created: UnixMicros::new(created.parse().ok()?), id: id.parse().ok()? })
    };
    read().map(Some).ok_or_else(|| bad_token("is not a token that this list returned"))
}
