//! One worker for each host that is known, as hosts become known.

use std::{collections::BTreeMap, time::Duration};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use understudy_ids::HostName;

use super::Runtime;
use crate::store::{
    Failure,
    hosts::{self, HostRecord},
};

/// Without a notification, new hosts are looked for this often.
const POLL: Duration = Duration::from_secs(5);

/// Starts `work` for every host and waits, after `shutdown`, for all of them.
pub async fn run<W>(runtime: &Runtime, shutdown: &CancellationToken, work: impl Fn(HostRecord) -> W)
where
    W: Future<Output = ()> + Send + 'static,
{
    let mut wake = match runtime.pool().listen(hosts::CHANNEL, POLL) {
        Ok(wake) => wake,
        Err(error) => {
            tracing::error!(%error, "new hosts cannot be listened for");
            return;
        }
    };
    let mut workers: BTreeMap<HostName, JoinHandle<()>> = BTreeMap::new();
    while !shutdown.is_cancelled() {
        match known(runtime).await {
            Ok(known) => {
                metrics::gauge!("understudy_orchestrator_hosts").set(known.len() as f64);
                for host in known {
                    workers.entry(host.name.clone()).or_insert_with(|| tokio::spawn(work(host)));
                }
            }
            Err(failure) => tracing::warn!(%failure, "the hosts cannot be read; trying again"),
        }
        tokio::select! {
            () = wake.wait() => {}
            () = shutdown.cancelled() => {}
        }
    }
    futures::future::join_all(workers.into_values()).await;
}

async fn known(runtime: &Runtime) -> Result<Vec<HostRecord>, Failure> {
    hosts::list(&mut *runtime.reader().await?, "", "", i64::MAX).await
}
