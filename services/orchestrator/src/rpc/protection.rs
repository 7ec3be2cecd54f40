//! `understudy.recovery.v1.ProtectionService`.

use tonic::{Request, Response, Status, async_trait};
use understudy_ids::{GroupName, ItemName, PointSeq, PolicyName};
use understudy_recovery::Verb;
use understudy_recovery_api::{
    request::{
        ChangeDisks, ChangeGroup, CreateGroup, CreatePolicy, DeleteGroup, Page, ProtectMachine, ScrubItem,
        SetItemAddress, SetItemPolicy, SetItemProbes, Steer, Unprotect, UpdatePolicy, name_from_wire,
    },
    v1::{self, protection_service_server::ProtectionService},
    view::{ConsistencyGroup, Policy, ProtectedItem, RecoveryPoint},
};
use understudy_rpc::ApiError;

use super::{
    Api,
    mutation::Mutation,
    paging::{after, after_key, cut, limit, sql_limit},
};

impl Api {
    /// Pausing and resuming differ only in the verb.
    async fn steer_replication(
        &self,
        mutation: Mutation,
        verb: Verb,
        name: &str,
        reason: String,
        request_id: &str,
    ) -> Result<Response<v1::ProtectedItem>, Status> {
        let outcome = async {
            let request = Steer::from_wire(name, reason, request_id)?;
            let call = mutation.call(&request.request_id);
            self.runtime.steer_replication(&call, verb, request).await
        };
        let item = self.recorded(&mutation, outcome.await).await?;
        Ok(Response::new(item.into_wire()))
    }
}

#[async_trait]
impl ProtectionService for Api {
    async fn create_policy(
        &self,
        request: Request<v1::CreatePolicyRequest>,
    ) -> Result<Response<v1::Policy>, Status> {
        let target = |r: &v1::CreatePolicyRequest| format!("policies/{}", r.policy_id);
        let mutation = Mutation::new(&request, "ProtectionService/CreatePolicy", target)?;
        let outcome = async {
            let request = CreatePolicy::from_wire(request.into_inner())?;
            let call = mutation.call(&request.request_id);
            self.runtime.create_policy(&call, request).await
        };
        let policy = self.recorded(&mutation, outcome.await).await?;
        Ok(Response::new(policy.into_wire()))
    }

    async fn update_policy(
        &self,
        request: Request<v1::UpdatePolicyRequest>,
    ) -> Result<Response<v1::Policy>, Status> {
        let target =
            |r: &v1::UpdatePolicyRequest| r.policy.as_ref().map(|p| p.name.clone()).unwrap_or_default();
        let mutation = Mutation::new(&request, "ProtectionService/UpdatePolicy", target)?;
        let outcome = async {
            let request = UpdatePolicy::from_wire(request.into_inner())?;
            let call = mutation.call(&request.request_id);
            self.runtime.update_policy(&call, request).await
        };
        let policy = self.recorded(&mutation, outcome.await).await?;
        Ok(Response::new(policy.into_wire()))
    }

    async fn get_policy(
        &self,
        request: Request<v1::GetPolicyRequest>,
    ) -> Result<Response<v1::Policy>, Status> {
        let name: PolicyName = name_from_wire("name", &request.into_inner().name).map_err(ApiError::from)?;
        Ok(Response::new(self.runtime.get_policy(&name).await?.into_wire()))
    }

    async fn list_policies(
        &self,
        request: Request<v1::ListPoliciesRequest>,
    ) -> Result<Response<v1::ListPoliciesResponse>, Status> {
        let v1::ListPoliciesRequest { page_size, page_token } = request.into_inner();
        let page = Page::from_wire(page_size, page_token).map_err(ApiError::from)?;
        let policies = self.runtime.list_policies(&after(&page)?, sql_limit(&page)).await?;
        let (policies, next_page_token) = cut(&page, policies, |policy| policy.name.to_string());
        let policies = policies.into_iter().map(Policy::into_wire).collect();
        Ok(Response::new(v1::ListPoliciesResponse { policies, next_page_token }))
    }

    async fn protect_machine(
        &self,
        request: Request<v1::ProtectMachineRequest>,
    ) -> Result<Response<v1::ProtectMachineResponse>, Status> {
        let target = |r: &v1::ProtectMachineRequest| format!("protectedItems/{}", r.item_id);
        let mutation = Mutation::new(&request, "ProtectionService/ProtectMachine", target)?;
        let outcome = async {
            let request = ProtectMachine::from_wire(request.into_inner())?;
            let call = mutation.call(&request.request_id);
            self.runtime.protect_machine(&call, request).await
        };
        let protection = self.recorded(&mutation, outcome.await).await?;
        Ok(Response::new(protection.into_wire()))
    }

    async fn get_protected_item(
        &self,
        request: Request<v1::GetProtectedItemRequest>,
    ) -> Result<Response<v1::ProtectedItem>, Status> {
        let name: ItemName = name_from_wire("name", &request.into_inner().name).map_err(ApiError::from)?;
        Ok(Response::new(self.runtime.get_item(&name).await?.into_wire()))
    }

    async fn list_protected_items(
        &self,
        request: Request<v1::ListProtectedItemsRequest>,
    ) -> Result<Response<v1::ListProtectedItemsResponse>, Status> {
        let v1::ListProtectedItemsRequest { page_size, page_token } = request.into_inner();
        let page = Page::from_wire(page_size, page_token).map_err(ApiError::from)?;
        let items = self.runtime.list_items(&after(&page)?, sql_limit(&page)).await?;
        let (items, next_page_token) = cut(&page, items, |item| item.name.to_string());
        let items = items.into_iter().map(ProtectedItem::into_wire).collect();
        Ok(Response::new(v1::ListProtectedItemsResponse { items, next_page_token }))
    }

    async fn list_recovery_points(
        &self,
        request: Request<v1::ListRecoveryPointsRequest>,
    ) -> Result<Response<v1::ListRecoveryPointsResponse>, Status> {
        let v1::ListRecoveryPointsRequest { parent, page_size, page_token } = request.into_inner();
        let item: ItemName = name_from_wire("parent", &parent).map_err(ApiError::from)?;
        let page = Page::from_wire(page_size, page_token).map_err(ApiError::from)?;
        let before = after_key::<u64>(&page)?.map(PointSeq::new);
        let points = self.runtime.list_points(&item, before, limit(&page)).await?;
        let (points, next_page_token) = cut(&page, points, |point| point.seq.to_string());
        let points = points.into_iter().map(RecoveryPoint::into_wire).collect();
        Ok(Response::new(v1::ListRecoveryPointsResponse { points, next_page_token }))
    }

    async fn change_item_disks(
        &self,
        request: Request<v1::ChangeItemDisksRequest>,
    ) -> Result<Response<v1::ProtectedItem>, Status> {
        let mutation = Mutation::new(&request, "ProtectionService/ChangeItemDisks", |r| r.name.clone())?;
        let outcome = async {
            let request = ChangeDisks::from_wire(request.into_inner())?;
            let call = mutation.call(&request.request_id);
            self.runtime.change_disks(&call, request).await
        };
        let item = self.recorded(&mutation, outcome.await).await?;
        Ok(Response::new(item.into_wire()))
    }

    async fn set_item_policy(
        &self,
        request: Request<v1::SetItemPolicyRequest>,
    ) -> Result<Response<v1::ProtectedItem>, Status> {
        let mutation = Mutation::new(&request, "ProtectionService/SetItemPolicy", |r| r.name.clone())?;
        let outcome = async {
            let request = SetItemPolicy::from_wire(request.into_inner())?;
            let call = mutation.call(&request.request_id);
            self.runtime.set_item_policy(&call, request).await
        };
        let item = self.recorded(&mutation, outcome.await).await?;
        Ok(Response::new(item.into_wire()))
    }

    async fn set_item_probes(
        &self,
        request: Request<v1::SetItemProbesRequest>,
    ) -> Result<Response<v1::ProtectedItem>, Status> {
        let mutation = Mutation::new(&request, "ProtectionService/SetItemProbes", |r| r.name.clone())?;
        let outcome = async {
            let request = SetItemProbes::from_wire(request.into_inner())?;
            let call = mutation.call(&request.request_id);
            self.runtime.set_item_probes(&call, request).await
        };
        let item = self.recorded(&mutation, outcome.await).await?;
        Ok(Response::new(item.into_wire()))
    }

    async fn set_item_address(
        &self,
        request: Request<v1::SetItemAddressRequest>,
    ) -> Result<Response<v1::ProtectedItem>, Status> {
        let mutation = Mutation::new(&request, "ProtectionService/SetItemAddress", |r| r.name.clone())?;
        let outcome = async {
            let request = SetItemAddress::from_wire(request.into_inner())?;
            let call = mutation.call(&request.request_id);
            self.runtime.set_item_address(&call, request).await
        };
        let item = self.recorded(&mutation, outcome.await).await?;
        Ok(Response::new(item.into_wire()))
    }

    async fn pause_replication(
        &self,
        request: Request<v1::PauseReplicationRequest>,
    ) -> Result<Response<v1::ProtectedItem>, Status> {
        let mutation = Mutation::new(&request, "ProtectionService/PauseReplication", |r| r.name.clone())?;
        let v1::PauseReplicationRequest { name, reason, request_id } = request.into_inner();
        self.steer_replication(mutation.because(&reason), Verb::Pause, &name, reason, &request_id).await
    }

    async fn resume_replication(
        &self,
        request: Request<v1::ResumeReplicationRequest>,
    ) -> Result<Response<v1::ProtectedItem>, Status> {
        let mutation = Mutation::new(&request, "ProtectionService/ResumeReplication", |r| r.name.clone())?;
        let v1::ResumeReplicationRequest { name, reason, request_id } = request.into_inner();
        self.steer_replication(mutation.because(&reason), Verb::Resume, &name, reason, &request_id).await
    }

    async fn unprotect_item(
        &self,
        request: Request<v1::UnprotectItemRequest>,
    ) -> Result<Response<v1::Run>, Status> {
        let mutation = Mutation::new(&request, "ProtectionService/UnprotectItem", |r| r.name.clone())?;
        let outcome = async {
            let request = Unprotect::from_wire(request.into_inner())?;
            let call = mutation.call(&request.request_id);
            self.runtime.unprotect_item(&call, request).await
        };
        let run = self.recorded(&mutation, outcome.await).await?;
        Ok(Response::new(run.into_wire()))
    }

    async fn create_consistency_group(
        &self,
        request: Request<v1::CreateConsistencyGroupRequest>,
    ) -> Result<Response<v1::ConsistencyGroup>, Status> {
        let target = |r: &v1::CreateConsistencyGroupRequest| format!("consistencyGroups/{}", r.group_id);
        let mutation = Mutation::new(&request, "ProtectionService/CreateConsistencyGroup", target)?;
        let outcome = async {
            let request = CreateGroup::from_wire(request.into_inner())?;
            let call = mutation.call(&request.request_id);
            self.runtime.create_group(&call, request).await
        };
        let group = self.recorded(&mutation, outcome.await).await?;
        Ok(Response::new(group.into_wire()))
    }

    async fn get_consistency_group(
        &self,
        request: Request<v1::GetConsistencyGroupRequest>,
    ) -> Result<Response<v1::ConsistencyGroup>, Status> {
        let name: GroupName = name_from_wire("name", &request.into_inner().name).map_err(ApiError::from)?;
        Ok(Response::new(self.runtime.get_group(&name).await?.into_wire()))
    }

    async fn list_consistency_groups(
        &self,
        request: Request<v1::ListConsistencyGroupsRequest>,
    ) -> Result<Response<v1::ListConsistencyGroupsResponse>, Status> {
        let v1::ListConsistencyGroupsRequest { page_size, page_token } = request.into_inner();
        let page = Page::from_wire(page_size, page_token).map_err(ApiError::from)?;
        let groups = self.runtime.list_groups(&after(&page)?, sql_limit(&page)).await?;
        let (groups, next_page_token) = cut(&page, groups, |group| group.name.to_string());
        let groups = groups.into_iter().map(ConsistencyGroup::into_wire).collect();
        Ok(Response::new(v1::ListConsistencyGroupsResponse { groups, next_page_token }))
    }

    async fn change_consistency_group(
        &self,
        request: Request<v1::ChangeConsistencyGroupRequest>,
    ) -> Result<Response<v1::ConsistencyGroup>, Status> {
        let mutation =
            Mutation::new(&request, "ProtectionService/ChangeConsistencyGroup", |r| r.name.clone())?;
        let outcome = async {
            let request = ChangeGroup::from_wire(request.into_inner())?;
            let call = mutation.call(&request.request_id);
            self.runtime.change_group(&call, request).await
        };
        let group = self.recorded(&mutation, outcome.await).await?;
        Ok(Response::new(group.into_wire()))
    }

    async fn delete_consistency_group(
        &self,
        request: Request<v1::DeleteConsistencyGroupRequest>,
    ) -> Result<Response<v1::DeleteConsistencyGroupResponse>, Status> {
        let mutation =
            Mutation::new(&request, "ProtectionService/DeleteConsistencyGroup", |r| r.name.clone())?;
        let outcome = async {
            let request = DeleteGroup::from_wire(request.into_inner())?;
            let call = mutation.call(&request.request_id);
            self.runtime.delete_group(&call, request).await
        };
        self.recorded(&mutation, outcome.await).await?;
        Ok(Response::new(v1::DeleteConsistencyGroupResponse {}))
    }

    async fn scrub_item(
        &self,
        request: Request<v1::ScrubItemRequest>,
    ) -> Result<Response<v1::ScrubItemResponse>, Status> {
        let mutation = Mutation::new(&request, "ProtectionService/ScrubItem", |r| r.name.clone())?;
        let outcome = async {
            let request = ScrubItem::from_wire(request.into_inner())?;
            let call = mutation.call(&request.request_id);
            self.runtime.scrub_item(&call, request).await
        };
        let job = self.recorded(&mutation, outcome.await).await?;
        Ok(Response::new(v1::ScrubItemResponse { job }))
    }
}
