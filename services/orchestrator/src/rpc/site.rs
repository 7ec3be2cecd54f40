//! `understudy.recovery.v1.SiteService`.

use tonic::{Request, Response, Status, async_trait};
use understudy_ids::HostName;
use understudy_recovery_api::{
    request::{CreateHost, CreateSite, MachineParent, Page, name_from_wire, optional_name_from_wire},
    v1::{self, site_service_server::SiteService},
    view::{Host, Machine, Site},
};
use understudy_rpc::ApiError;

use super::{
    Api,
    mutation::Mutation,
    paging::{after, cut, limit, sql_limit},
};

#[async_trait]
impl SiteService for Api {
    async fn create_site(
        &self,
        request: Request<v1::CreateSiteRequest>,
    ) -> Result<Response<v1::Site>, Status> {
        let mutation = Mutation::new(&request, "SiteService/CreateSite", |r| format!("sites/{}", r.site_id))?;
        let outcome = async {
            let request = CreateSite::from_wire(request.into_inner())?;
            let call = mutation.call(&request.request_id);
            self.runtime.create_site(&call, request).await
        };
        let site = self.recorded(&mutation, outcome.await).await?;
        Ok(Response::new(site.into_wire()))
    }

    async fn list_sites(
        &self,
        request: Request<v1::ListSitesRequest>,
    ) -> Result<Response<v1::ListSitesResponse>, Status> {
        let v1::ListSitesRequest { page_size, page_token } = request.into_inner();
        let page = Page::from_wire(page_size, page_token).map_err(ApiError::from)?;
        let sites = self.runtime.list_sites(&after(&page)?, sql_limit(&page)).await?;
        let (sites, next_page_token) = cut(&page, sites, |site| site.name.to_string());
        let sites = sites.into_iter().map(Site::into_wire).collect();
        Ok(Response::new(v1::ListSitesResponse { sites, next_page_token }))
    }

    async fn create_host(
        &self,
        request: Request<v1::CreateHostRequest>,
    ) -> Result<Response<v1::Host>, Status> {
        let target = |r: &v1::CreateHostRequest| format!("{}/hosts/{}", r.parent, r.host_id);
        let mutation = Mutation::new(&request, "SiteService/CreateHost", target)?;
        let outcome = async {
            let request = CreateHost::from_wire(request.into_inner())?;
            let call = mutation.call(&request.request_id);
            self.runtime.create_host(&call, request).await
        };
        let host = self.recorded(&mutation, outcome.await).await?;
        Ok(Response::new(host.into_wire()))
    }

    async fn get_host(&self, request: Request<v1::GetHostRequest>) -> Result<Response<v1::Host>, Status> {
        let name: HostName = name_from_wire("name", &request.into_inner().name).map_err(ApiError::from)?;
        Ok(Response::new(self.runtime.get_host(&name).await?.into_wire()))
    }

    async fn list_hosts(
        &self,
        request: Request<v1::ListHostsRequest>,
    ) -> Result<Response<v1::ListHostsResponse>, Status> {
        let v1::ListHostsRequest { parent, page_size, page_token } = request.into_inner();
        let site = optional_name_from_wire("parent", &parent).map_err(ApiError::from)?;
        let page = Page::from_wire(page_size, page_token).map_err(ApiError::from)?;
        let hosts = self.runtime.list_hosts(site.as_ref(), &after(&page)?, sql_limit(&page)).await?;
        let (hosts, next_page_token) = cut(&page, hosts, |host| host.name.to_string());
        let hosts = hosts.into_iter().map(Host::into_wire).collect();
        Ok(Response::new(v1::ListHostsResponse { hosts, next_page_token }))
    }

    async fn list_machines(
        &self,
        request: Request<v1::ListMachinesRequest>,
    ) -> Result<Response<v1::ListMachinesResponse>, Status> {
        let v1::ListMachinesRequest { parent, page_size, page_token } = request.into_inner();
        let parent = MachineParent::from_wire(&parent).map_err(ApiError::from)?;
        let page = Page::from_wire(page_size, page_token).map_err(ApiError::from)?;
        let machines = self.runtime.list_machines(&parent, &after(&page)?, limit(&page)).await?;
        let (machines, next_page_token) = cut(&page, machines, |machine| machine.name.to_string());
        let machines = machines.into_iter().map(Machine::into_wire).collect();
        Ok(Response::new(v1::ListMachinesResponse { machines, next_page_token }))
    }
}
