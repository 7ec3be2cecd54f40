//! `understudy.recovery.v1.RecoveryPlanService`.

use tonic::{Request, Response, Status, async_trait};
use understudy_ids::RecoveryPlanName;
use understudy_recovery_api::{
    request::{CreatePlan, DeletePlan, Page, UpdatePlan, name_from_wire},
    v1::{self, recovery_plan_service_server::RecoveryPlanService},
    view::RecoveryPlan,
};
use understudy_rpc::ApiError;

use super::{
    Api,
    mutation::Mutation,
    paging::{after, cut, sql_limit},
};

#[async_trait]
impl RecoveryPlanService for Api {
    async fn create_recovery_plan(
        &self,
        request: Request<v1::CreateRecoveryPlanRequest>,
    ) -> Result<Response<v1::RecoveryPlan>, Status> {
        let target = |r: &v1::CreateRecoveryPlanRequest| name_of(r.plan.as_ref());
        let mutation = Mutation::new(&request, "RecoveryPlanService/CreateRecoveryPlan", target)?;
        let outcome = async {
            let request = CreatePlan::from_wire(request.into_inner())?;
            let call = mutation.call(&request.request_id);
            self.runtime.create_plan(&call, request).await
        };
        let plan = self.recorded(&mutation, outcome.await).await?;
        Ok(Response::new(plan.into_wire()))
    }

    async fn update_recovery_plan(
        &self,
        request: Request<v1::UpdateRecoveryPlanRequest>,
    ) -> Result<Response<v1::RecoveryPlan>, Status> {
        let target = |r: &v1::UpdateRecoveryPlanRequest| name_of(r.plan.as_ref());
        let mutation = Mutation::new(&request, "RecoveryPlanService/UpdateRecoveryPlan", target)?;
        let outcome = async {
            let request = UpdatePlan::from_wire(request.into_inner())?;
            let call = mutation.call(&request.request_id);
            self.runtime.update_plan(&call, request).await
        };
        let plan = self.recorded(&mutation, outcome.await).await?;
        Ok(Response::new(plan.into_wire()))
    }

    async fn get_recovery_plan(
        &self,
        request: Request<v1::GetRecoveryPlanRequest>,
    ) -> Result<Response<v1::RecoveryPlan>, Status> {
        let name = &request.into_inner().name;
        let name: RecoveryPlanName = name_from_wire("name", name).map_err(ApiError::from)?;
        Ok(Response::new(self.runtime.get_plan(&name).await?.into_wire()))
    }

    async fn list_recovery_plans(
        &self,
        request: Request<v1::ListRecoveryPlansRequest>,
    ) -> Result<Response<v1::ListRecoveryPlansResponse>, Status> {
        let v1::ListRecoveryPlansRequest { page_size, page_token } = request.into_inner();
        let page = Page::from_wire(page_size, page_token).map_err(ApiError::from)?;
        let plans = self.runtime.list_plans(&after(&page)?, sql_limit(&page)).await?;
        let (plans, next_page_token) = cut(&page, plans, |plan| plan.plan.name.to_string());
        let plans = plans.into_iter().map(RecoveryPlan::into_wire).collect();
        Ok(Response::new(v1::ListRecoveryPlansResponse { plans, next_page_token }))
    }

    async fn delete_recovery_plan(
        &self,
        request: Request<v1::DeleteRecoveryPlanRequest>,
    ) -> Result<Response<v1::DeleteRecoveryPlanResponse>, Status> {
        let mutation = Mutation::new(&request, "RecoveryPlanService/DeleteRecoveryPlan", |r| r.name.clone())?;
        let outcome = async {
            let request = DeletePlan::from_wire(request.into_inner())?;
            let call = mutation.call(&request.request_id);
            self.runtime.delete_plan(&call, request).await
        };
        self.recorded(&mutation, outcome.await).await?;
        Ok(Response::new(v1::DeleteRecoveryPlanResponse {}))
    }
}

fn name_of(plan: Option<&v1::RecoveryPlan>) -> String {
    plan.map(|plan| plan.name.clone()).unwrap_or_default()
}
