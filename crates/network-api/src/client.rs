//! Calling network-mapper in domain terms.

use understudy_ids::{ItemName, Uuid};
use understudy_netplan::{DnsName, DnsZone, HostRecord, Mapping, NetworkRef, VmNetwork};
use understudy_rpc::{ApiError, Channel};
use understudy_types_api::cursor;

use crate::{
    convert,
    field::Fields,
    model::{
        AddressLease, ConnectionAnswer, ConnectionQuestion, NetworkMapping, Page, PageRequest, StoredNetwork,
        StoredRecord, StoredZone,
    },
    names,
    v1::{self, network_service_client::NetworkServiceClient},
};

/// A connection to network-mapper. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NetworkClient {
    inner: NetworkServiceClient<Channel>,
}

/// Every call fails with what the server said, or with what became of the connection.
impl NetworkClient {
    pub fn new(channel: Channel) -> Self {
        Self { inner: NetworkServiceClient::new(channel) }
    }

    pub async fn create_network(
        &self,
        network: VmNetwork,
        request_id: Uuid,
    ) -> Result<StoredNetwork, ApiError> {
        let request = v1::CreateVmNetworkRequest {
            network: Some(convert::new_network_to_wire(network)),
            request_id: request_id.to_string(),
        };
        let answer = self.inner.clone().create_vm_network(request).await.map_err(ApiError::from)?;
        convert::stored_network_from_wire(answer.into_inner())
    }

    pub async fn network(&self, name: &NetworkRef) -> Result<StoredNetwork, ApiError> {
        let request = v1::GetVmNetworkRequest { name: name.to_string() };
        let answer = self.inner.clone().get_vm_network(request).await.map_err(ApiError::from)?;
        convert::stored_network_from_wire(answer.into_inner())
    }

    /// `parent` is `sites/<site>` or empty.
    pub async fn networks(&self, parent: &str, page: PageRequest) -> Result<Page<StoredNetwork>, ApiError> {
        let request = v1::ListVmNetworksRequest {
            parent: parent.to_owned(),
            page_size: page.size,
            page_token: cursor::encode(page.after.as_deref()),
        };
        let answer = self.inner.clone().list_vm_networks(request).await.map_err(ApiError::from)?.into_inner();
        page_from_wire(answer.networks, &answer.next_page_token, convert::stored_network_from_wire)
    }

    pub async fn delete_network(&self, name: &NetworkRef, request_id: Uuid) -> Result<(), ApiError> {
        let request =
            v1::DeleteVmNetworkRequest { name: name.to_string(), request_id: request_id.to_string() };
        self.inner.clone().delete_vm_network(request).await.map_err(ApiError::from)?;
        Ok(())
    }

    pub async fn create_mapping(
        &self,
        mapping: Mapping,
        request_id: Uuid,
    ) -> Result<NetworkMapping, ApiError> {
        let request = v1::CreateNetworkMappingRequest {
            network_a: mapping.a.to_string(),
            network_b: mapping.b.to_string(),
            request_id: request_id.to_string(),
            addresses: convert::rule_to_wire(mapping.addresses).into(),
        };
        let answer = self.inner.clone().create_network_mapping(request).await.map_err(ApiError::from)?;
        convert::mapping_from_wire(answer.into_inner())
    }

    pub async fn mappings(&self, page: PageRequest) -> Result<Page<NetworkMapping>, ApiError> {
        let request = v1::ListNetworkMappingsRequest {
            page_size: page.size,
            page_token: cursor::encode(page.after.as_deref()),
        };
        let answer =
            self.inner.clone().list_network_mappings(request).await.map_err(ApiError::from)?.into_inner();
        page_from_wire(answer.mappings, &answer.next_page_token, convert::mapping_from_wire)
    }

    pub async fn delete_mapping(&self, id: Uuid, request_id: Uuid) -> Result<(), ApiError> {
        let request = v1::DeleteNetworkMappingRequest {
            name: convert::mapping_name(id),
            request_id: request_id.to_string(),
        };
        self.inner.clone().delete_network_mapping(request).await.map_err(ApiError::from)?;
        Ok(())
    }

    /// Where the NICs would go, without any effect.
    pub async fn plan_connections(
        &self,
        question: &ConnectionQuestion,
    ) -> Result<ConnectionAnswer, ApiError> {
        let request = convert::question_to_wire(question);
        let answer = self.inner.clone().plan_connections(request).await.map_err(ApiError::from)?;
        convert::answer_from_wire(answer.into_inner())
    }

    /// Addresses held by `run`, or by all.
    pub async fn leases(&self, run: Option<Uuid>, page: PageRequest) -> Result<Page<AddressLease>, ApiError> {
        let request = v1::ListAddressLeasesRequest {
            run: run.map(|r| r.to_string()).unwrap_or_default(),
            page_size: page.size,
            page_token: cursor::encode(page.after.as_deref()),
        };
        let answer =
            self.inner.clone().list_address_leases(request).await.map_err(ApiError::from)?.into_inner();
        page_from_wire(answer.leases, &answer.next_page_token, convert::lease_from_wire)
    }

    pub async fn create_zone(&self, zone: DnsZone, request_id: Uuid) -> Result<StoredZone, ApiError> {
        let request = v1::CreateDnsZoneRequest {
            zone: Some(names::new_zone_to_wire(zone)),
            request_id: request_id.to_string(),
        };
        let answer = self.inner.clone().create_dns_zone(request).await.map_err(ApiError::from)?;
        names::stored_zone_from_wire(answer.into_inner())
    }

    pub async fn zones(&self, page: PageRequest) -> Result<Page<StoredZone>, ApiError> {
        let request = v1::ListDnsZonesRequest {
            page_size: page.size,
            page_token: cursor::encode(page.after.as_deref()),
        };
        let answer = self.inner.clone().list_dns_zones(request).await.map_err(ApiError::from)?.into_inner();
        page_from_wire(answer.zones, &answer.next_page_token, names::stored_zone_from_wire)
    }

    pub async fn delete_zone(&self, name: &DnsName, request_id: Uuid) -> Result<(), ApiError> {
        let request =
            v1::DeleteDnsZoneRequest { name: names::zone_name(name), request_id: request_id.to_string() };
        self.inner.clone().delete_dns_zone(request).await.map_err(ApiError::from)?;
        Ok(())
    }

    pub async fn create_record(
        &self,
        record: HostRecord,
        request_id: Uuid,
    ) -> Result<StoredRecord, ApiError> {
        let request = v1::CreateHostRecordRequest {
            record: Some(names::new_record_to_wire(record)),
            request_id: request_id.to_string(),
        };
        let answer = self.inner.clone().create_host_record(request).await.map_err(ApiError::from)?;
        names::stored_record_from_wire(answer.into_inner())
    }

    /// Names of `item`, or of all.
    pub async fn records(
        &self,
        item: Option<&ItemName>,
        page: PageRequest,
    ) -> Result<Page<StoredRecord>, ApiError> {
        let request = v1::ListHostRecordsRequest {
            item: item.map(ToString::to_string).unwrap_or_default(),
            page_size: page.size,
            page_token: cursor::encode(page.after.as_deref()),
        };
        let answer =
            self.inner.clone().list_host_records(request).await.map_err(ApiError::from)?.into_inner();
        page_from_wire(answer.records, &answer.next_page_token, names::stored_record_from_wire)
    }

    pub async fn delete_record(&self, name: &DnsName, request_id: Uuid) -> Result<(), ApiError> {
        let request = v1::DeleteHostRecordRequest {
            name: names::record_name(name),
            request_id: request_id.to_string(),
        };
        self.inner.clone().delete_host_record(request).await.map_err(ApiError::from)?;
        Ok(())
    }
}

fn page_from_wire<W, T>(
    entries: Vec<W>,
    token: &str,
    read: impl Fn(W) -> Result<T, ApiError>,
) -> Result<Page<T>, ApiError> {
    let mut fields = Fields::default();
    let next = fields.page(0, token).after;
    let entries = entries.into_iter().map(read).collect::<Result<_, _>>()?;
    fields.finish(Some(Page { entries, next }))
}
