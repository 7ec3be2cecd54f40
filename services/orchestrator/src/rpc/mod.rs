//! The API: converts, authorises by table, and hands over to the runtime.

mod access;
mod audit;
mod failover;
mod mutation;
mod paging;
mod protection;
mod recovery_plan;
mod site;

use understudy_recovery_api::v1::{
    audit_service_server::AuditServiceServer, failover_service_server::FailoverServiceServer,
    protection_service_server::ProtectionServiceServer,
    recovery_plan_service_server::RecoveryPlanServiceServer, site_service_server::SiteServiceServer,
};
use understudy_rpc::Server;

use crate::runtime::Runtime;

/// One implementation of all five services.
#[derive(Clone)]
pub(crate) struct Api {
    runtime: Runtime,
}

/// Adds the five services with their access rules.
pub fn add_services(server: Server, runtime: &Runtime) -> Server {
    let api = || Api { runtime: runtime.clone() };
    server
        .add_service(SiteServiceServer::new(api()), access::SITE)
        .add_service(ProtectionServiceServer::new(api()), access::PROTECTION)
        .add_service(FailoverServiceServer::new(api()), access::FAILOVER)
        .add_service(RecoveryPlanServiceServer::new(api()), access::RECOVERY_PLAN)
        .add_service(AuditServiceServer::new(api()), access::AUDIT)
}
