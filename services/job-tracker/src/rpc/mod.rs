//! The gRPC face: who may call what, messages to domain types and back, errors to statuses.

mod access;
mod error;
mod jobs;
mod operations;
mod refusals;
mod workers;

use understudy_jobs_api::{
    longrunning::operations_server::OperationsServer,
    v1::{job_service_server::JobServiceServer, worker_service_server::WorkerServiceServer},
};
use understudy_rpc::Server;

use crate::runtime::Runtime;

/// Adds all services with their access rules.
pub fn add_services(server: Server, runtime: Runtime) -> Server {
    server
        .add_service(JobServiceServer::new(jobs::Jobs(runtime.clone())), access::JOBS)
        .add_service(OperationsServer::new(operations::Operations(runtime.clone())), access::OPERATIONS)
        .add_service(WorkerServiceServer::new(workers::Workers(runtime)), access::WORKERS)
}
