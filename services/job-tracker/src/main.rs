//! Assembly of the job-tracker process.

use std::process::ExitCode;

use understudy_job_tracker::{MIGRATIONS, config::Config, rpc, runtime::Runtime};
use understudy_jobs_api::FILE_DESCRIPTOR_SET;
use understudy_pg::Pool;
use understudy_rpc::Server;

fn main() -> ExitCode {
    understudy_service::run("job-tracker", env!("CARGO_PKG_VERSION"), async |config: Config, context| {
        let server = Server::bind(config.server.clone()).await?;
        let pool = tokio::select! {
            pool = Pool::connect(&config.database) => pool?,
            () = context.shutdown.cancelled() => return Ok(()),
        };
        pool.migrate(&MIGRATIONS).await?;
        let runtime = Runtime::start(pool.clone(), config.leases, config.history, context.shutdown.clone())?;
        rpc::add_services(server, runtime.clone())
            .descriptors(FILE_DESCRIPTOR_SET)
            .metrics(context.metrics_page())
            .serve(context.shutdown)
            .await?;
        runtime.stopped().await;
        pool.close().await;
        Ok(())
    })
}
