//! The gRPC service in domain terms: loads, decides with `understudy-netplan`, commits.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use futures::future::BoxFuture;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use understudy_ids::{ItemName, Problem, RunId, SiteName, Uuid};
use understudy_netplan::{
    ConnectionPlan, DnsName, DnsZone, HostRecord, Mapping, NetworkRef, VmNetwork, mapping, plan, records,
    split_subnets, traffic,
};
use understudy_network_api::{
    AddressLease, ConnectionAnswer, ConnectionQuestion, NetworkApi, NetworkMapping, Page, PageRequest,
    StoredNetwork, StoredRecord, StoredZone,
};
use understudy_pg::{PgConnection, Pool};
use understudy_rpc::{AccessRule, ApiError, Identity, PeerKind};

use crate::{
    dns::Servers,
    hooks::Hooks,
    store::{
        StoreError, address_lease,
        api_request::{self, Request},
        audit, dns_zone, host_record, network_mapping, vm_network,
    },
};

/// Who may call what. People configure; the orchestrator asks.
pub const RULES: &[AccessRule] = &[
    AccessRule::new("/understudy.network.v1.NetworkService/CreateVmNetwork", &[PeerKind::User]),
    AccessRule::new("/understudy.network.v1.NetworkService/GetVmNetwork", READERS),
    AccessRule::new("/understudy.network.v1.NetworkService/ListVmNetworks", READERS),
    AccessRule::new("/understudy.network.v1.NetworkService/DeleteVmNetwork", &[PeerKind::User]),
    AccessRule::new("/understudy.network.v1.NetworkService/CreateNetworkMapping", &[PeerKind::User]),
    AccessRule::new("/understudy.network.v1.NetworkService/ListNetworkMappings", READERS),
    AccessRule::new("/understudy.network.v1.NetworkService/DeleteNetworkMapping", &[PeerKind::User]),
    AccessRule::new("/understudy.network.v1.NetworkService/PlanConnections", READERS),
    AccessRule::new("/understudy.network.v1.NetworkService/ListAddressLeases", READERS),
    AccessRule::new("/understudy.network.v1.NetworkService/CreateDnsZone", &[PeerKind::User]),
    AccessRule::new("/understudy.network.v1.NetworkService/ListDnsZones", READERS),
    AccessRule::new("/understudy.network.v1.NetworkService/DeleteDnsZone", &[PeerKind::User]),
    AccessRule::new("/understudy.network.v1.NetworkService/CreateHostRecord", &[PeerKind::User]),
    AccessRule::new("/understudy.network.v1.NetworkService/ListHostRecords", READERS),
    AccessRule::new("/understudy.network.v1.NetworkService/DeleteHostRecord", &[PeerKind::User]),
];
const READERS: &[PeerKind] = &[PeerKind::User, PeerKind::Orchestrator];

/// More mappings than this and a listing's page could not show them; no installation comes near.
const ALL_MAPPINGS: i64 = 100_000;

pub struct Api {
    pool: Pool,
    servers: Servers,
    hooks: Hooks,
}

/// A transaction's part that is particular to one method: what it does and what it answers.
type Work<T> =
    Box<dyn for<'t> Fn(&'t mut PgConnection) -> BoxFuture<'t, Result<T, StoreError>> + Send + Sync>;

impl Api {
    /// `servers` are those that zones may name, `hooks` those that runs call.
    pub fn new(pool: Pool, servers: Servers, hooks: Hooks) -> Self {
        Self { pool, servers, hooks }
    }

    /// Does `work` once per request id, with the audit record in the same transaction. A refusal is put on record as well.
    async fn mutate<T>(&self, request: Request, target: String, work: Work<T>) -> Result<T, ApiError>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
    {
        let (who, method) = (request.who.clone(), request.method);
        let shared = Arc::new((request, target.clone(), work));
        let result = self
            .pool
            .write(move |tx| {
                let shared = Arc::clone(&shared);
                Box::pin(async move {
                    let (request, target, work) = &*shared;
                    if let Some(answer) = api_request::find(tx, request).await? {
                        return serde_json::from_value(answer)
                            .map_err(|e| StoreError::from(ApiError::internal(e)));
                    }
                    let done = work(tx).await?;
                    let answer =
                        serde_json::to_value(&done).map_err(|e| StoreError::from(ApiError::internal(e)))?;
                    api_request::insert(tx, request, &answer).await?;
                    audit::allowed(tx, &request.who, request.method, target).await?;
                    Ok(done)
                })
            })
            .await;
        match result {
            Ok(done) => Ok(done),
            Err(StoreError::Database(error)) => Err(error.into()),
            Err(StoreError::Refused(refusal)) => {
                self.record_refusal(who, method, target, &refusal).await;
                Err(refusal)
            }
        }
    }

    /// Best effort: the refusal reaches the caller whether or not it could be put on record.
    async fn record_refusal(&self, who: String, method: &'static str, target: String, refusal: &ApiError) {
        let reason = refusal.reason.to_string();
        let written = self
            .pool
            .write(move |tx| {
                let (who, target, reason) = (who.clone(), target.clone(), reason.clone());
                Box::pin(async move { audit::refused(tx, &who, method, &target, &reason).await })
            })
            .await;
        if let Err(error) = written {
            tracing::warn!(%error, method, "a refusal could not be put on record");
        }
    }
}

#[async_trait]
impl NetworkApi for Api {
    async fn create_network(
        &self,
        who: &Identity,
        network: VmNetwork,
        request_id: Uuid,
    ) -> Result<StoredNetwork, ApiError> {
        let request = request(request_id, who, "CreateVmNetwork", json!(network));
        let target = network.name.to_string();
        self.mutate(
            request,
            target,
            Box::new(move |tx| {
                let network = network.clone();
                Box::pin(async move { create_network(tx, &network).await })
            }),
        )
        .await
    }

    async fn network(&self, name: &NetworkRef) -> Result<StoredNetwork, ApiError> {
        vm_network::find(self.pool.reader(), name).await?.ok_or_else(|| not_found(name.to_string()))
    }

    async fn networks(
        &self,
        site: Option<SiteName>,
        page: PageRequest,
    ) -> Result<Page<StoredNetwork>, ApiError> {
        let after = page.after.as_deref().map(key).transpose()?;
        let found = vm_network::list(self.pool.reader(), site.as_ref(), after.as_ref(), limit(&page)).await?;
        Ok(paged(found, &page, |n| n.network.name.to_string()))
    }

    async fn delete_network(
        &self,
        who: &Identity,
        name: &NetworkRef,
        request_id: Uuid,
    ) -> Result<(), ApiError> {
        let name = name.clone();
        self.mutate(
            request(request_id, who, "DeleteVmNetwork", json!(name)),
            name.to_string(),
            Box::new(move |tx| {
                let name = name.clone();
                Box::pin(async move { delete_network(tx, &name).await })
            }),
        )
        .await
    }

    async fn create_mapping(
        &self,
        who: &Identity,
        mapping: Mapping,
        request_id: Uuid,
    ) -> Result<NetworkMapping, ApiError> {
        self.mutate(
            request(request_id, who, "CreateNetworkMapping", json!(mapping)),
            format!("{} <-> {}", mapping.a, mapping.b),
            Box::new(move |tx| {
                let mapping = mapping.clone();
                // The request's id is the mapping's: it is unique, and known to the caller.
                Box::pin(async move { create_mapping(tx, request_id, &mapping).await })
            }),
        )
        .await
    }

    async fn mappings(&self, page: PageRequest) -> Result<Page<NetworkMapping>, ApiError> {
        let after = page.after.as_deref().map(key).transpose()?;
        let found = network_mapping::list(self.pool.reader(), after, limit(&page)).await?;
        Ok(paged(found, &page, |m| m.id.to_string()))
    }

    async fn delete_mapping(&self, who: &Identity, id: Uuid, request_id: Uuid) -> Result<(), ApiError> {
        self.mutate(
            request(request_id, who, "DeleteNetworkMapping", json!(id)),
            format!("networkMappings/{id}"),
            Box::new(move |tx| {
                Box::pin(async move {
                    match network_mapping::delete(tx, id).await? {
                        true => Ok(()),
                        false => Err(not_found(format!("networkMappings/{id}")).into()),
                    }
                })
            }),
        )
        .await
    }

    async fn plan_connections(&self, question: ConnectionQuestion) -> Result<ConnectionAnswer, ApiError> {
        let sites: BTreeSet<String> = question
            .machines
            .iter()
            .flat_map(|m| [m.source_site.to_string(), m.target_site.to_string()])
            .collect();
        let sites: Vec<String> = sites.into_iter().collect();
        let db = self.pool.reader();
        let networks = vm_network::of_sites(db, &sites).await?;
        let mappings: Vec<Mapping> =
            network_mapping::of_sites(db, &sites).await?.into_iter().map(|m| m.mapping).collect();
        let held = address_lease::held(db, &sites).await?.into_iter().collect();
        let ConnectionQuestion { purpose, machines, neighbours } = question;
        let planned = plan(&purpose, &machines, &networks, &mappings, &held);
        let items: Vec<String> = machines.iter().map(|machine| machine.item.to_string()).collect();
        let (zones, named) = (dns_zone::all(db).await?, host_record::of_items(db, &items).await?);
        Ok(planned.map(|plan| ConnectionPlan {
            split_subnets: split_subnets(&machines, &neighbours, &networks, &mappings),
            records: records::plan(&purpose, &machines, &plan.nics, &zones, &named),
            hooks: traffic::plan(&purpose, &machines, &self.hooks.all()),
            ..plan
        }))
    }

    async fn leases(&self, run: Option<RunId>, page: PageRequest) -> Result<Page<AddressLease>, ApiError> {
        let after = page.after.as_deref().map(key).transpose()?;
        let found = address_lease::list(self.pool.reader(), run, after, limit(&page)).await?;
        let Page { entries, next } = paged(found, &page, |(id, _)| id.to_string());
        Ok(Page { entries: entries.into_iter().map(|(_, lease)| lease).collect(), next })
    }

    async fn create_zone(
        &self,
        who: &Identity,
        zone: DnsZone,
        request_id: Uuid,
    ) -> Result<StoredZone, ApiError> {
        let request = request(request_id, who, "CreateDnsZone", json!(zone));
        let target = format!("dnsZones/{}", zone.name);
        let asked = Arc::new((zone, self.servers.clone()));
        self.mutate(
            request,
            target,
            Box::new(move |tx| {
                let asked = Arc::clone(&asked);
                Box::pin(async move { create_zone(tx, &asked.0, &asked.1).await })
            }),
        )
        .await
    }

    async fn zones(&self, page: PageRequest) -> Result<Page<StoredZone>, ApiError> {
        let after = page.after.as_deref().map(key).transpose()?;
        let found = dns_zone::list(self.pool.reader(), after.as_ref(), limit(&page)).await?;
        Ok(paged(found, &page, |z| z.zone.name.to_string()))
    }

    async fn delete_zone(&self, who: &Identity, name: &DnsName, request_id: Uuid) -> Result<(), ApiError> {
        let name = name.clone();
        self.mutate(
            request(request_id, who, "DeleteDnsZone", json!(name)),
            format!("dnsZones/{name}"),
            Box::new(move |tx| {
                let name = name.clone();
                Box::pin(async move { delete_zone(tx, &name).await })
            }),
        )
        .await
    }

    async fn create_record(
        &self,
        who: &Identity,
        record: HostRecord,
        request_id: Uuid,
    ) -> Result<StoredRecord, ApiError> {
        self.mutate(
            request(request_id, who, "CreateHostRecord", json!(record)),
            format!("hostRecords/{}", record.name),
            Box::new(move |tx| {
                let record = record.clone();
                Box::pin(async move { create_record(tx, &record).await })
            }),
        )
        .await
    }

    async fn records(
        &self,
        item: Option<ItemName>,
        page: PageRequest,
    ) -> Result<Page<StoredRecord>, ApiError> {
        let after = page.after.as_deref().map(key).transpose()?;
        let found =
            host_record::list(self.pool.reader(), item.as_ref(), after.as_ref(), limit(&page)).await?;
        Ok(paged(found, &page, |r| r.record.name.to_string()))
    }

    async fn delete_record(&self, who: &Identity, name: &DnsName, request_id: Uuid) -> Result<(), ApiError> {
        let name = name.clone();
        self.mutate(
            request(request_id, who, "DeleteHostRecord", json!(name)),
            format!("hostRecords/{name}"),
            Box::new(move |tx| {
                let name = name.clone();
                Box::pin(async move {
                    match host_record::delete(tx, &name).await? {
                        true => Ok(()),
                        false => Err(not_found(format!("hostRecords/{name}")).into()),
                    }
                })
            }),
        )
        .await
    }
}

async fn create_network(tx: &mut PgConnection, network: &VmNetwork) -> Result<StoredNetwork, StoreError> {
    refuse_if_any(network.problems())?;
    let inserted = vm_network::insert(tx, network).await.map_err(|e| match e {
        StoreError::Database(e) if e.unique_violation("vm_network_site_hypervisor_network_key") => {
            ApiError::already_exists(
                "HYPERVISOR_NETWORK_TAKEN",
                format!(
                    "another network of site {} stands for the hypervisors' {}",
                    network.name.site, network.hypervisor_network
                ),
                "use that network, or delete it first",
            )
            .into()
        }
        other => other,
    })?;
    if !inserted {
        return Err(ApiError::already_exists(
            "NETWORK_EXISTS",
            format!("{} exists already", network.name),
            "choose another name, or delete it first",
        )
        .into());
    }
    vm_network::find(tx, &network.name).await?.ok_or_else(|| not_found(network.name.to_string()).into())
}

async fn delete_network(tx: &mut PgConnection, name: &NetworkRef) -> Result<(), StoreError> {
    let deleted = vm_network::delete(tx, name).await.map_err(|e| match e {
        StoreError::Database(understudy_pg::Error::Constraint { constraint, .. }) => {
            ApiError::failed_precondition(
                "NETWORK_IN_USE",
                format!("{name} is referred to by a mapping or held by a run ({constraint})"),
                "delete its mappings and let its runs end first",
            )
            .into()
        }
        other => other,
    })?;
    if deleted { Ok(()) } else { Err(not_found(name.to_string()).into()) }
}

async fn create_mapping(
    tx: &mut PgConnection,
    id: Uuid,
    new: &Mapping,
) -> Result<NetworkMapping, StoreError> {
    network_mapping::lock(tx).await?;
    let existing = network_mapping::list(&mut *tx, None, ALL_MAPPINGS).await?;
    let same = |m: &NetworkMapping| m.mapping.other(&new.a) == Some(&new.b);
    if let Some(there) = existing.iter().find(|m| same(m)) {
        return Err(ApiError::already_exists(
            "MAPPING_EXISTS",
            format!(
                "{} and {} are mapped to each other already by networkMappings/{}",
                new.a, new.b, there.id
            ),
            "nothing needs to be done",
        )
        .into());
    }
    let sites = [new.a.site.to_string(), new.b.site.to_string()];
    let networks = vm_network::of_sites(&mut *tx, &sites).await?;
    let existing: Vec<Mapping> = existing.into_iter().map(|m| m.mapping).collect();
    refuse_if_any(mapping::problems(new, &existing, &networks))?;
    network_mapping::insert(tx, id, new).await
}

async fn create_zone(
    tx: &mut PgConnection,
    zone: &DnsZone,
    servers: &Servers,
) -> Result<StoredZone, StoreError> {
    dns_zone::lock(tx).await?;
    let (zones, named) = (dns_zone::all(&mut *tx).await?, host_record::all(&mut *tx).await?);
    refuse_if_any(zone.problems(&zones, &named, &servers.names()))?;
    dns_zone::insert(tx, zone).await
}

async fn delete_zone(tx: &mut PgConnection, name: &DnsName) -> Result<(), StoreError> {
    let deleted = dns_zone::delete(tx, name).await.map_err(|e| match e {
        StoreError::Database(understudy_pg::Error::Constraint { constraint, .. }) => {
            ApiError::failed_precondition(
                "ZONE_IN_USE",
                format!("names lie in {name}, or a run may still have to restore one ({constraint})"),
                "delete its names and let those runs end first",
            )
            .into()
        }
        other => other,
    })?;
    if deleted { Ok(()) } else { Err(not_found(format!("dnsZones/{name}")).into()) }
}

async fn create_record(tx: &mut PgConnection, record: &HostRecord) -> Result<StoredRecord, StoreError> {
    dns_zone::lock(tx).await?;
    let (zones, named) = (dns_zone::all(&mut *tx).await?, host_record::all(&mut *tx).await?);
    refuse_if_any(record.problems(&zones, &named))?;
    let zone = records::zone_of(&record.name, &zones)
        .ok_or_else(|| not_found(format!("a zone around {}", record.name)))?;
    host_record::insert(tx, record, &zone.name).await
}

fn request(id: Uuid, who: &Identity, method: &'static str, body: serde_json::Value) -> Request {
    Request { id, who: who.to_string(), method, body }
}

fn refuse_if_any(problems: Vec<Problem>) -> Result<(), StoreError> {
    if problems.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(problems).into())
}

fn not_found(what: String) -> ApiError {
    ApiError::not_found("NOT_FOUND", format!("{what} does not exist"), "list what there is")
}

/// A page token that decodes to something that is no key of this listing.
fn key<T: std::str::FromStr>(after: &str) -> Result<T, ApiError> {
    after.parse().map_err(|_| {
        ApiError::invalid_argument(
            "INVALID_FIELD",
            "page_token is not of this listing",
            "leave it empty to begin again",
        )
    })
}

/// One more than the page, to know whether there is another page.
fn limit(page: &PageRequest) -> i64 {
    i64::from(page.size) + 1
}

fn paged<T>(mut entries: Vec<T>, page: &PageRequest, key: impl Fn(&T) -> String) -> Page<T> {
    let more = entries.len() > page.size as usize;
    entries.truncate(page.size as usize);
    let next = if more { entries.last().map(key) } else { None };
    Page { entries, next }
}
