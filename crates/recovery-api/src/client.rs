//! The client's side of the orchestrator: for the command line, tests and automation in Rust.

use understudy_ids::{GroupName, HostName, ItemName, PolicyName, RecoveryPlanName, RunId};
use understudy_rpc::{ApiError, Channel};

use crate::{
    Resource,
    check::{Checks, Invalid},
    request::{
        self, AnswerRun, ChangeDisks, ChangeGroup, ChangeRun, CompleteTest, CreateGroup, CreateHost,
        CreatePlan, CreatePolicy, CreateSite, DeleteGroup, DeletePlan, MachineParent, Page, ProtectMachine,
        RunChange, RunSpec, RunVerb, ScrubItem, SetItemAddress, SetItemPolicy, SetItemProbes, SetRunDeadline,
        StartRun, Steer, Unprotect, UpdatePlan, UpdatePolicy,
    },
    v1::{
        self, audit_service_client::AuditServiceClient, failover_service_client::FailoverServiceClient,
        protection_service_client::ProtectionServiceClient,
        recovery_plan_service_client::RecoveryPlanServiceClient, site_service_client::SiteServiceClient,
    },
    view::{
        AuditRecord, ConsistencyGroup, Host, Listed, Machine, Policy, ProtectedItem, Protection,
        RecoveryPlan, RecoveryPoint, Run, RunChangePreview, RunPreview, Screenshot, Site,
    },
};

/// A typed client. Cheap to clone; clones share the connection.
///
/// Every call is made once and fails with what the orchestrator said, or with what became of the connection. Mutations carry a request
/// id and may be repeated unchanged: that gives the same answer and no second effect.
#[derive(Debug, Clone)]
pub struct RecoveryClient {
    sites: SiteServiceClient<Channel>,
    protection: ProtectionServiceClient<Channel>,
    failover: FailoverServiceClient<Channel>,
    plans: RecoveryPlanServiceClient<Channel>,
    audit: AuditServiceClient<Channel>,
}

/// An answer that this version cannot read.
fn not_understood(invalid: Invalid) -> ApiError {
    ApiError::internal(invalid)
}

impl RecoveryClient {
    pub fn new(channel: Channel) -> Self {
        Self {
            sites: SiteServiceClient::new(channel.clone()),
            protection: ProtectionServiceClient::new(channel.clone()),
            failover: FailoverServiceClient::new(channel.clone()),
            plans: RecoveryPlanServiceClient::new(channel.clone()),
            audit: AuditServiceClient::new(channel),
        }
    }

    pub async fn create_site(&self, request: CreateSite) -> Result<Site, ApiError> {
        let answer = self.sites.clone().create_site(request.into_wire()).await?;
        Site::from_wire(answer.into_inner()).map_err(not_understood)
    }

    pub async fn list_sites(&self, page: Page) -> Result<Listed<Site>, ApiError> {
        let request = v1::ListSitesRequest { page_size: page.size, page_token: page.token };
        let answer = self.sites.clone().list_sites(request).await?.into_inner();
        Listed::from_wire(answer.sites, answer.next_page_token, Site::from_wire).map_err(not_understood)
    }

    pub async fn create_host(&self, request: CreateHost) -> Result<Host, ApiError> {
        let answer = self.sites.clone().create_host(request.into_wire()).await?;
        Host::from_wire(answer.into_inner()).map_err(not_understood)
    }

    pub async fn get_host(&self, host: &HostName) -> Result<Host, ApiError> {
        let request = v1::GetHostRequest { name: host.to_resource() };
        let answer = self.sites.clone().get_host(request).await?;
        Host::from_wire(answer.into_inner()).map_err(not_understood)
    }

    /// Hosts of a site, or of all.
    pub async fn list_hosts(
        &self,
        site: Option<&understudy_ids::SiteName>,
        page: Page,
    ) -> Result<Listed<Host>, ApiError> {
        let parent = site.map(Resource::to_resource).unwrap_or_default();
        let request = v1::ListHostsRequest { parent, page_size: page.size, page_token: page.token };
        let answer = self.sites.clone().list_hosts(request).await?.into_inner();
        Listed::from_wire(answer.hosts, answer.next_page_token, Host::from_wire).map_err(not_understood)
    }

    pub async fn list_machines(
        &self,
        parent: &MachineParent,
        page: Page,
    ) -> Result<Listed<Machine>, ApiError> {
        let request = v1::ListMachinesRequest {
            parent: parent.to_wire(),
            page_size: page.size,
            page_token: page.token,
        };
        let answer = self.sites.clone().list_machines(request).await?.into_inner();
        Listed::from_wire(answer.machines, answer.next_page_token, Machine::from_wire).map_err(not_understood)
    }

    pub async fn create_policy(&self, request: CreatePolicy) -> Result<Policy, ApiError> {
        let answer = self.protection.clone().create_policy(request.into_wire()).await?;
        Policy::from_wire(answer.into_inner()).map_err(not_understood)
    }

    /// Its items follow from their next cycle on.
    pub async fn update_policy(&self, request: UpdatePolicy) -> Result<Policy, ApiError> {
        let answer = self.protection.clone().update_policy(request.into_wire()).await?;
        Policy::from_wire(answer.into_inner()).map_err(not_understood)
    }

    pub async fn get_policy(&self, policy: &PolicyName) -> Result<Policy, ApiError> {
        let request = v1::GetPolicyRequest { name: policy.to_resource() };
        let answer = self.protection.clone().get_policy(request).await?;
        Policy::from_wire(answer.into_inner()).map_err(not_understood)
    }

    pub async fn list_policies(&self, page: Page) -> Result<Listed<Policy>, ApiError> {
        let request = v1::ListPoliciesRequest { page_size: page.size, page_token: page.token };
        let answer = self.protection.clone().list_policies(request).await?.into_inner();
        Listed::from_wire(answer.policies, answer.next_page_token, Policy::from_wire).map_err(not_understood)
    }

    /// # Errors
    /// All problems at once, before any effect (R-REP-1).
    pub async fn protect_machine(&self, request: ProtectMachine) -> Result<Protection, ApiError> {
        let answer = self.protection.clone().protect_machine(request.into_wire()).await?;
        Protection::from_wire(answer.into_inner()).map_err(not_understood)
    }

    pub async fn get_item(&self, item: &ItemName) -> Result<ProtectedItem, ApiError> {
        let request = v1::GetProtectedItemRequest { name: item.to_resource() };
        let answer = self.protection.clone().get_protected_item(request).await?;
        ProtectedItem::from_wire(answer.into_inner()).map_err(not_understood)
    }

    pub async fn list_items(&self, page: Page) -> Result<Listed<ProtectedItem>, ApiError> {
        let request = v1::ListProtectedItemsRequest { page_size: page.size, page_token: page.token };
        let answer = self.protection.clone().list_protected_items(request).await?.into_inner();
        Listed::from_wire(answer.items, answer.next_page_token, ProtectedItem::from_wire)
            .map_err(not_understood)
    }

    /// Points that can be failed over to, newest first.
    pub async fn list_points(&self, item: &ItemName, page: Page) -> Result<Listed<RecoveryPoint>, ApiError> {
        let request = v1::ListRecoveryPointsRequest {
            parent: item.to_resource(),
            page_size: page.size,
            page_token: page.token,
        };
        let answer = self.protection.clone().list_recovery_points(request).await?.into_inner();
        Listed::from_wire(answer.points, answer.next_page_token, RecoveryPoint::from_wire)
            .map_err(not_understood)
    }

    /// # Errors
    /// All that stands against it, at once.
    pub async fn change_disks(&self, request: ChangeDisks) -> Result<ProtectedItem, ApiError> {
        let answer = self.protection.clone().change_item_disks(request.into_wire()).await?;
        ProtectedItem::from_wire(answer.into_inner()).map_err(not_understood)
    }

    pub async fn set_item_policy(&self, request: SetItemPolicy) -> Result<ProtectedItem, ApiError> {
        let answer = self.protection.clone().set_item_policy(request.into_wire()).await?;
        ProtectedItem::from_wire(answer.into_inner()).map_err(not_understood)
    }

    pub async fn set_item_probes(&self, request: SetItemProbes) -> Result<ProtectedItem, ApiError> {
        let answer = self.protection.clone().set_item_probes(request.into_wire()).await?;
        ProtectedItem::from_wire(answer.into_inner()).map_err(not_understood)
    }

    pub async fn set_item_address(&self, request: SetItemAddress) -> Result<ProtectedItem, ApiError> {
        let answer = self.protection.clone().set_item_address(request.into_wire()).await?;
        ProtectedItem::from_wire(answer.into_inner()).map_err(not_understood)
    }

    /// Nothing is sent until it is resumed.
    pub async fn pause_replication(&self, request: Steer) -> Result<ProtectedItem, ApiError> {
        let Steer { item, reason, request_id } = request;
        let (name, request_id) = (item.to_resource(), request_id.to_string());
        let request = v1::PauseReplicationRequest { name, reason, request_id };
        let answer = self.protection.clone().pause_replication(request).await?;
        ProtectedItem::from_wire(answer.into_inner()).map_err(not_understood)
    }

    pub async fn resume_replication(&self, request: Steer) -> Result<ProtectedItem, ApiError> {
        let Steer { item, reason, request_id } = request;
        let (name, request_id) = (item.to_resource(), request_id.to_string());
        let request = v1::ResumeReplicationRequest { name, reason, request_id };
        let answer = self.protection.clone().resume_replication(request).await?;
        ProtectedItem::from_wire(answer.into_inner()).map_err(not_understood)
    }

    pub async fn unprotect_item(&self, request: Unprotect) -> Result<Run, ApiError> {
        let answer = self.protection.clone().unprotect_item(request.into_wire()).await?;
        Run::from_wire(answer.into_inner()).map_err(not_understood)
    }

    /// # Errors
    /// All that stands against it, at once.
    pub async fn create_group(&self, request: CreateGroup) -> Result<ConsistencyGroup, ApiError> {
        let answer = self.protection.clone().create_consistency_group(request.into_wire()).await?;
        ConsistencyGroup::from_wire(answer.into_inner()).map_err(not_understood)
    }

    pub async fn get_group(&self, group: &GroupName) -> Result<ConsistencyGroup, ApiError> {
        let request = v1::GetConsistencyGroupRequest { name: group.to_resource() };
        let answer = self.protection.clone().get_consistency_group(request).await?;
        ConsistencyGroup::from_wire(answer.into_inner()).map_err(not_understood)
    }

    pub async fn list_groups(&self, page: Page) -> Result<Listed<ConsistencyGroup>, ApiError> {
        let request = v1::ListConsistencyGroupsRequest { page_size: page.size, page_token: page.token };
        let answer = self.protection.clone().list_consistency_groups(request).await?.into_inner();
        Listed::from_wire(answer.groups, answer.next_page_token, ConsistencyGroup::from_wire)
            .map_err(not_understood)
    }

    /// # Errors
    /// All that stands against it, at once.
    pub async fn change_group(&self, request: ChangeGroup) -> Result<ConsistencyGroup, ApiError> {
        let answer = self.protection.clone().change_consistency_group(request.into_wire()).await?;
        ConsistencyGroup::from_wire(answer.into_inner()).map_err(not_understood)
    }

    pub async fn delete_group(&self, request: DeleteGroup) -> Result<(), ApiError> {
        self.protection.clone().delete_consistency_group(request.into_wire()).await?;
        Ok(())
    }

    /// The job that reads an item's points again.
    pub async fn scrub_item(&self, request: ScrubItem) -> Result<RunId, ApiError> {
        let answer = self.protection.clone().scrub_item(request.into_wire()).await?;
        let job = answer.into_inner().job;
        let mut checks = Checks::default();
        let job = checks.resource("job", &job);
        checks.finish(job).map_err(not_understood)
    }

    /// Exactly what [`RecoveryClient::start_run`] would do now, and everything that stands against it (R-FO-2).
    pub async fn preview_run(&self, spec: RunSpec) -> Result<RunPreview, ApiError> {
        let request = v1::PreviewRunRequest { spec: Some(spec.into_wire()) };
        let answer = self.failover.clone().preview_run(request).await?;
        RunPreview::from_wire(answer.into_inner()).map_err(not_understood)
    }

    /// # Errors
    /// `PLAN_CHANGED` when the plan would be another one than the previewed one.
    pub async fn start_run(&self, request: StartRun) -> Result<Run, ApiError> {
        let answer = self.failover.clone().start_run(request.into_wire()).await?;
        Run::from_wire(answer.into_inner()).map_err(not_understood)
    }

    /// Exactly what [`RecoveryClient::change_run`] would do now, and everything that stands against it (R-FO-4).
    pub async fn preview_run_change(
        &self,
        run: RunId,
        change: RunChange,
    ) -> Result<RunChangePreview, ApiError> {
        let request = request::change_preview_to_wire(run, change);
        let answer = self.failover.clone().preview_run_change(request).await?;
        RunChangePreview::from_wire(answer.into_inner()).map_err(not_understood)
    }

    /// # Errors
    /// `PLAN_CHANGED` when it would be done otherwise than previewed.
    pub async fn change_run(&self, request: ChangeRun) -> Result<Run, ApiError> {
        let answer = self.failover.clone().change_run(request.into_wire()).await?;
        Run::from_wire(answer.into_inner()).map_err(not_understood)
    }

    pub async fn set_run_deadline(&self, request: SetRunDeadline) -> Result<Run, ApiError> {
        let answer = self.failover.clone().set_run_deadline(request.into_wire()).await?;
        Run::from_wire(answer.into_inner()).map_err(not_understood)
    }

    pub async fn get_run(&self, run: RunId) -> Result<Run, ApiError> {
        let request = v1::GetRunRequest { name: run.to_resource() };
        let answer = self.failover.clone().get_run(request).await?;
        Run::from_wire(answer.into_inner()).map_err(not_understood)
    }

    /// # Errors
    /// `NO_SCREENSHOT` where none was taken.
    pub async fn get_screenshot(&self, run: RunId, item: &ItemName) -> Result<Screenshot, ApiError> {
        let request = v1::GetScreenshotRequest { run: run.to_resource(), item: item.to_resource() };
        let answer = self.failover.clone().get_screenshot(request).await?;
        Screenshot::from_wire(answer.into_inner()).map_err(not_understood)
    }

    /// Newest first; of one item, or all. Runs in a list come without their steps.
    pub async fn list_runs(&self, item: Option<&ItemName>, page: Page) -> Result<Listed<Run>, ApiError> {
        let item = item.map(Resource::to_resource).unwrap_or_default();
        let request = v1::ListRunsRequest { item, page_size: page.size, page_token: page.token };
        let answer = self.failover.clone().list_runs(request).await?.into_inner();
        Listed::from_wire(answer.runs, answer.next_page_token, Run::from_wire).map_err(not_understood)
    }

    pub async fn complete_test(&self, request: CompleteTest) -> Result<Run, ApiError> {
        let answer = self.failover.clone().complete_test(request.into_wire()).await?;
        Run::from_wire(answer.into_inner()).map_err(not_understood)
    }

    pub async fn commit_run(&self, RunVerb { run, request_id }: RunVerb) -> Result<Run, ApiError> {
        let request = v1::CommitRunRequest { name: run.to_resource(), request_id: request_id.to_string() };
        let answer = self.failover.clone().commit_run(request).await?;
        Run::from_wire(answer.into_inner()).map_err(not_understood)
    }

    pub async fn confirm_run(&self, answer: AnswerRun) -> Result<Run, ApiError> {
        let AnswerRun { run, step, request_id } = answer;
        let (name, step, request_id) = (run.to_resource(), step.to_string(), request_id.to_string());
        let request = v1::ConfirmRunRequest { name, request_id, step };
        let answer = self.failover.clone().confirm_run(request).await?;
        Run::from_wire(answer.into_inner()).map_err(not_understood)
    }

    pub async fn reject_run(&self, answer: AnswerRun) -> Result<Run, ApiError> {
        let AnswerRun { run, step, request_id } = answer;
        let (name, step, request_id) = (run.to_resource(), step.to_string(), request_id.to_string());
        let request = v1::RejectRunRequest { name, request_id, step };
        let answer = self.failover.clone().reject_run(request).await?;
        Run::from_wire(answer.into_inner()).map_err(not_understood)
    }

    pub async fn create_plan(&self, request: CreatePlan) -> Result<RecoveryPlan, ApiError> {
        let answer = self.plans.clone().create_recovery_plan(request.into_wire()).await?;
        RecoveryPlan::from_wire(answer.into_inner()).map_err(not_understood)
    }

    pub async fn update_plan(&self, request: UpdatePlan) -> Result<RecoveryPlan, ApiError> {
        let answer = self.plans.clone().update_recovery_plan(request.into_wire()).await?;
        RecoveryPlan::from_wire(answer.into_inner()).map_err(not_understood)
    }

    pub async fn get_plan(&self, plan: &RecoveryPlanName) -> Result<RecoveryPlan, ApiError> {
        let request = v1::GetRecoveryPlanRequest { name: plan.to_resource() };
        let answer = self.plans.clone().get_recovery_plan(request).await?;
        RecoveryPlan::from_wire(answer.into_inner()).map_err(not_understood)
    }

    pub async fn list_plans(&self, page: Page) -> Result<Listed<RecoveryPlan>, ApiError> {
        let request = v1::ListRecoveryPlansRequest { page_size: page.size, page_token: page.token };
        let answer = self.plans.clone().list_recovery_plans(request).await?.into_inner();
        Listed::from_wire(answer.plans, answer.next_page_token, RecoveryPlan::from_wire)
            .map_err(not_understood)
    }

    pub async fn delete_plan(&self, request: DeletePlan) -> Result<(), ApiError> {
        self.plans.clone().delete_recovery_plan(request.into_wire()).await?;
        Ok(())
    }

    pub async fn cancel_run(&self, RunVerb { run, request_id }: RunVerb) -> Result<Run, ApiError> {
        let request = v1::CancelRunRequest { name: run.to_resource(), request_id: request_id.to_string() };
        let answer = self.failover.clone().cancel_run(request).await?;
        Run::from_wire(answer.into_inner()).map_err(not_understood)
    }

    pub async fn retry_run(&self, RunVerb { run, request_id }: RunVerb) -> Result<Run, ApiError> {
        let request = v1::RetryRunRequest { name: run.to_resource(), request_id: request_id.to_string() };
        let answer = self.failover.clone().retry_run(request).await?;
        Run::from_wire(answer.into_inner()).map_err(not_understood)
    }

    /// Newest first.
    pub async fn list_audit_records(&self, page: Page) -> Result<Listed<AuditRecord>, ApiError> {
        let request = v1::ListAuditRecordsRequest { page_size: page.size, page_token: page.token };
        let answer = self.audit.clone().list_audit_records(request).await?.into_inner();
        Listed::from_wire(answer.records, answer.next_page_token, AuditRecord::from_wire)
            .map_err(not_understood)
    }
}
