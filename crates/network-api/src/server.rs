//! Serving the API: the generated server speaks wire types, [`NetworkApi`] speaks domain types, the adapter between them checks.

use std::sync::Arc;

use async_trait::async_trait;
use tonic::{Request, Response, Status};
use understudy_ids::{ItemName, RunId, SiteName, Uuid};
use understudy_netplan::{DnsName, DnsZone, HostRecord, Mapping, NetworkRef, VmNetwork};
use understudy_rpc::{ApiError, Identity, peer};
use understudy_types_api::cursor;

use crate::{
    convert,
    field::Fields,
    model::{
        AddressLease, ConnectionAnswer, ConnectionQuestion, NetworkMapping, Page, PageRequest, StoredNetwork,
        StoredRecord, StoredZone,
    },
    names,
    v1::{
        self,
        network_service_server::{NetworkService, NetworkServiceServer},
    },
};

/// What network-mapper does. `who` is the caller; `request_id` makes a mutation happen once.
#[async_trait]
pub trait NetworkApi: Send + Sync + 'static {
    async fn create_network(
        &self,
        who: &Identity,
        network: VmNetwork,
        request_id: Uuid,
    ) -> Result<StoredNetwork, ApiError>;
    async fn network(&self, name: &NetworkRef) -> Result<StoredNetwork, ApiError>;
    async fn networks(
        &self,
        site: Option<SiteName>,
        page: PageRequest,
    ) -> Result<Page<StoredNetwork>, ApiError>;
    async fn delete_network(
        &self,
        who: &Identity,
        name: &NetworkRef,
        request_id: Uuid,
    ) -> Result<(), ApiError>;
    async fn create_mapping(
        &self,
        who: &Identity,
        mapping: Mapping,
        request_id: Uuid,
    ) -> Result<NetworkMapping, ApiError>;
    async fn mappings(&self, page: PageRequest) -> Result<Page<NetworkMapping>, ApiError>;
    async fn delete_mapping(&self, who: &Identity, id: Uuid, request_id: Uuid) -> Result<(), ApiError>;
    async fn plan_connections(&self, question: ConnectionQuestion) -> Result<ConnectionAnswer, ApiError>;
    async fn leases(&self, run: Option<RunId>, page: PageRequest) -> Result<Page<AddressLease>, ApiError>;
    async fn create_zone(
        &self,
        who: &Identity,
        zone: DnsZone,
        request_id: Uuid,
    ) -> Result<StoredZone, ApiError>;
    async fn zones(&self, page: PageRequest) -> Result<Page<StoredZone>, ApiError>;
    async fn delete_zone(&self, who: &Identity, name: &DnsName, request_id: Uuid) -> Result<(), ApiError>;
    async fn create_record(
        &self,
        who: &Identity,
        record: HostRecord,
        request_id: Uuid,
    ) -> Result<StoredRecord, ApiError>;
    async fn records(
        &self,
        item: Option<ItemName>,
        page: PageRequest,
    ) -> Result<Page<StoredRecord>, ApiError>;
    async fn delete_record(&self, who: &Identity, name: &DnsName, request_id: Uuid) -> Result<(), ApiError>;
}

/// The tonic service for an implementation.
pub fn service<T: NetworkApi>(api: Arc<T>) -> NetworkServiceServer<Adapter<T>> {
    NetworkServiceServer::new(Adapter { api })
}

/// Turns messages into calls of [`NetworkApi`].
pub struct Adapter<T> {
    api: Arc<T>,
}

fn caller<R>(request: &Request<R>) -> Result<Identity, Status> {
    peer(request).cloned().map_err(Status::from)
}

fn parse<T>(field: &str, text: &str) -> Result<T, ApiError>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    let mut fields = Fields::default();
    let value = fields.parse(field, text);
    fields.finish(value)
}

fn page(size: u32, token: &str) -> Result<PageRequest, ApiError> {
    let mut fields = Fields::default();
    let page = fields.page(size, token);
    fields.finish(Some(page))
}

/// `sites/<site>`; empty for all sites.
fn site_parent(parent: &str) -> Result<Option<SiteName>, ApiError> {
    let mut fields = Fields::default();
    let site = match parent.strip_prefix("sites/") {
        Some(site) => fields.parse("parent", site),
        None => {
            if !parent.is_empty() {
                fields.refuse("parent", format!("{parent:?} is not sites/<site>"));
            }
            None
        }
    };
    fields.finish(Some(site))
}

#[async_trait]
impl<T: NetworkApi> NetworkService for Adapter<T> {
    async fn create_vm_network(
        &self,
        request: Request<v1::CreateVmNetworkRequest>,
    ) -> Result<Response<v1::VmNetwork>, Status> {
        let who = caller(&request)?;
        let v1::CreateVmNetworkRequest { network, request_id } = request.into_inner();
        let request_id = parse("request_id", &request_id)?;
        let network = convert::network_from_wire(network.unwrap_or_default())?;
        let stored = self.api.create_network(&who, network, request_id).await?;
        Ok(Response::new(convert::network_to_wire(stored)))
    }

    async fn get_vm_network(
        &self,
        request: Request<v1::GetVmNetworkRequest>,
    ) -> Result<Response<v1::VmNetwork>, Status> {
        let name = parse("name", &request.into_inner().name)?;
        Ok(Response::new(convert::network_to_wire(self.api.network(&name).await?)))
    }

    async fn list_vm_networks(
        &self,
        request: Request<v1::ListVmNetworksRequest>,
    ) -> Result<Response<v1::ListVmNetworksResponse>, Status> {
        let v1::ListVmNetworksRequest { parent, page_size, page_token } = request.into_inner();
        let site = site_parent(&parent)?;
        let Page { entries, next } = self.api.networks(site, page(page_size, &page_token)?).await?;
        Ok(Response::new(v1::ListVmNetworksResponse {
            networks: entries.into_iter().map(convert::network_to_wire).collect(),
            next_page_token: cursor::encode(next.as_deref()),
        }))
    }

    async fn delete_vm_network(
        &self,
        request: Request<v1::DeleteVmNetworkRequest>,
    ) -> Result<Response<v1::DeleteVmNetworkResponse>, Status> {
        let who = caller(&request)?;
        let v1::DeleteVmNetworkRequest { name, request_id } = request.into_inner();
        self.api.delete_network(&who, &parse("name", &name)?, parse("request_id", &request_id)?).await?;
        Ok(Response::new(v1::DeleteVmNetworkResponse {}))
    }

    async fn create_network_mapping(
        &self,
        request: Request<v1::CreateNetworkMappingRequest>,
    ) -> Result<Response<v1::NetworkMapping>, Status> {
        let who = caller(&request)?;
        let v1::CreateNetworkMappingRequest { network_a, network_b, request_id, addresses } =
            request.into_inner();
        let request_id = parse("request_id", &request_id)?;
        let mapping = convert::new_mapping_from_wire(&network_a, &network_b, addresses)?;
        let made = self.api.create_mapping(&who, mapping, request_id).await?;
        Ok(Response::new(convert::mapping_to_wire(made)))
    }

    async fn list_network_mappings(
        &self,
        request: Request<v1::ListNetworkMappingsRequest>,
    ) -> Result<Response<v1::ListNetworkMappingsResponse>, Status> {
        let v1::ListNetworkMappingsRequest { page_size, page_token } = request.into_inner();
        let Page { entries, next } = self.api.mappings(page(page_size, &page_token)?).await?;
        Ok(Response::new(v1::ListNetworkMappingsResponse {
            mappings: entries.into_iter().map(convert::mapping_to_wire).collect(),
            next_page_token: cursor::encode(next.as_deref()),
        }))
    }

    async fn delete_network_mapping(
        &self,
        request: Request<v1::DeleteNetworkMappingRequest>,
    ) -> Result<Response<v1::DeleteNetworkMappingResponse>, Status> {
        let who = caller(&request)?;
        let v1::DeleteNetworkMappingRequest { name, request_id } = request.into_inner();
        self.api.delete_mapping(&who, convert::mapping_id(&name)?, parse("request_id", &request_id)?).await?;
        Ok(Response::new(v1::DeleteNetworkMappingResponse {}))
    }

    async fn plan_connections(
        &self,
        request: Request<v1::PlanConnectionsRequest>,
    ) -> Result<Response<v1::PlanConnectionsResponse>, Status> {
        let question = convert::question_from_wire(request.into_inner())?;
        Ok(Response::new(convert::answer_to_wire(self.api.plan_connections(question).await?)))
    }

    async fn list_address_leases(
        &self,
        request: Request<v1::ListAddressLeasesRequest>,
    ) -> Result<Response<v1::ListAddressLeasesResponse>, Status> {
        let v1::ListAddressLeasesRequest { run, page_size, page_token } = request.into_inner();
        let run = if run.is_empty() { None } else { Some(parse("run", &run)?) };
        let Page { entries, next } = self.api.leases(run, page(page_size, &page_token)?).await?;
        Ok(Response::new(v1::ListAddressLeasesResponse {
            leases: entries.into_iter().map(convert::lease_to_wire).collect(),
            next_page_token: cursor::encode(next.as_deref()),
        }))
    }

    async fn create_dns_zone(
        &self,
        request: Request<v1::CreateDnsZoneRequest>,
    ) -> Result<Response<v1::DnsZone>, Status> {
        let who = caller(&request)?;
        let v1::CreateDnsZoneRequest { zone, request_id } = request.into_inner();
        let request_id = parse("request_id", &request_id)?;
        let zone = names::zone_from_wire(zone.unwrap_or_default())?;
        Ok(Response::new(names::zone_to_wire(self.api.create_zone(&who, zone, request_id).await?)))
    }

    async fn list_dns_zones(
        &self,
        request: Request<v1::ListDnsZonesRequest>,
    ) -> Result<Response<v1::ListDnsZonesResponse>, Status> {
        let v1::ListDnsZonesRequest { page_size, page_token } = request.into_inner();
        let Page { entries, next } = self.api.zones(page(page_size, &page_token)?).await?;
        Ok(Response::new(v1::ListDnsZonesResponse {
            zones: entries.into_iter().map(names::zone_to_wire).collect(),
            next_page_token: cursor::encode(next.as_deref()),
        }))
    }

    async fn delete_dns_zone(
        &self,
        request: Request<v1::DeleteDnsZoneRequest>,
    ) -> Result<Response<v1::DeleteDnsZoneResponse>, Status> {
        let who = caller(&request)?;
        let v1::DeleteDnsZoneRequest { name, request_id } = request.into_inner();
        let mut fields = Fields::default();
        let name = names::zone_name_from_wire(&mut fields, "name", &name);
        let name = fields.finish(name)?;
        self.api.delete_zone(&who, &name, parse("request_id", &request_id)?).await?;
        Ok(Response::new(v1::DeleteDnsZoneResponse {}))
    }

    async fn create_host_record(
        &self,
        request: Request<v1::CreateHostRecordRequest>,
    ) -> Result<Response<v1::HostRecord>, Status> {
        let who = caller(&request)?;
        let v1::CreateHostRecordRequest { record, request_id } = request.into_inner();
        let request_id = parse("request_id", &request_id)?;
        let record = names::record_from_wire(record.unwrap_or_default())?;
        Ok(Response::new(names::record_to_wire(self.api.create_record(&who, record, request_id).await?)))
    }

    async fn list_host_records(
        &self,
        request: Request<v1::ListHostRecordsRequest>,
    ) -> Result<Response<v1::ListHostRecordsResponse>, Status> {
        let v1::ListHostRecordsRequest { item, page_size, page_token } = request.into_inner();
        let item = if item.is_empty() { None } else { Some(parse("item", &item)?) };
        let Page { entries, next } = self.api.records(item, page(page_size, &page_token)?).await?;
        Ok(Response::new(v1::ListHostRecordsResponse {
            records: entries.into_iter().map(names::record_to_wire).collect(),
            next_page_token: cursor::encode(next.as_deref()),
        }))
    }

    async fn delete_host_record(
        &self,
        request: Request<v1::DeleteHostRecordRequest>,
    ) -> Result<Response<v1::DeleteHostRecordResponse>, Status> {
        let who = caller(&request)?;
        let v1::DeleteHostRecordRequest { name, request_id } = request.into_inner();
        let mut fields = Fields::default();
        let name = names::record_name_from_wire(&mut fields, "name", &name);
        let name = fields.finish(name)?;
        self.api.delete_record(&who, &name, parse("request_id", &request_id)?).await?;
        Ok(Response::new(v1::DeleteHostRecordResponse {}))
    }
}
