//! The gRPC face: who may call what, messages to domain types and back, errors to statuses.

mod access;
mod error;
mod jobs;
mod workers;

use understudy_jobs_api::v1::{
    job_service_server::JobServiceServer, worker_service_server::WorkerServiceServer,
};
use understudy_rpc::Server;

use crate::runtime::Runtime;

/// Adds both services with their access rules.
pub fn add_services(server: Server, runtime: Runtime) -> Server {
    server
        .add_service(JobServiceServer::new(jobs::Jobs(runtime.clone())), access::JOBS)
        .add_service(WorkerServiceServer::new(workers::Workers(runtime)), access::WORKERS)
}
