//! Having a replica read again because somebody asked: a job of one task, beside replication and runs (R-REP-5).
//!
//! It holds nothing and changes no item, so it is no run: a failover that begins meanwhile does not wait for it. What it finds comes
//! up with the host's facts, as what a scheduled scrub finds does.

use std::{collections::BTreeMap, sync::Arc};

use understudy_ids::{Problem, Uuid};
use understudy_jobs_api::Task;
use understudy_recovery::{
    action::{Action, AgentWork},
    plan::Executor,
};
use understudy_recovery_api::{Resource, request::ScrubItem};
use understudy_rpc::{ApiError, trace};

use super::{Runtime, call::Call, gather::points_at, message::Message, runs::refused, sites::not_found};
use crate::store::{hosts, items, outbox};

/// The key of the job's only task, by which its end is recognised.
const KEY: &str = "scrub-item";
/// Leases that the task may lose, as with an agent that is restarted; each begins the reading anew.
const MAX_ATTEMPTS: u32 = 5;

impl Runtime {
    /// Returns the job's name.
    pub async fn scrub_item(&self, call: &Call, request: ScrubItem) -> Result<String, ApiError> {
        let (request, who) = (Arc::new(request), call.caller.who.clone());
        let traceparent = trace::current();
        let done = self.once(call, move |tx| {
            let (request, who, traceparent) = (request.clone(), who.clone(), traceparent.clone());
            Box::pin(async move {
                let ScrubItem { item, point, .. } = &*request;
                let record = items::get(&mut *tx, std::slice::from_ref(item)).await?.pop();
                let record = record.ok_or_else(|| not_found("ITEM_NOT_FOUND", &item.to_resource()))?;
                let standby = hosts::get(&mut *tx, &record.standby_host).await?;
                let inventory = standby.as_ref().and_then(|h| h.heard.as_ref()).map(|h| &h.inventory);
                let points = points_at(inventory, &record);
                if points.is_empty() || point.is_some_and(|seq| points.iter().all(|p| p.seq != seq)) {
                    let subject = item.to_resource();
                    let what = point
                        .map_or("no recovery point".to_owned(), |seq| format!("no recovery point {seq}"));
                    let message = format!("{} has {what} of it", record.standby_host);
                    let remedy = "List the item's recovery points and choose one of them, or none for all.";
                    let problem = Problem::new("POINT_NOT_FOUND", subject, message, remedy);
                    return Err(refused("scrub", vec![problem]).into());
                }
                let job = Uuid::now_v7();
                let create = Message::CreateJob {
                    kind: "scrub".to_owned(),
                    targets: vec![item.to_resource(), record.standby_host.to_resource()],
                    created_by: who,
                    labels: BTreeMap::new(),
                };
                let work = AgentWork::ScrubItem { point: *point };
                let task = Message::Enqueue {
                    key: KEY.to_owned(),
                    title: title(point.map(|seq| seq.get())),
                    executor: Executor::Host(record.standby_host),
                    action: Action::Agent { item: item.clone(), generation: record.generation, work },
                    max_attempts: MAX_ATTEMPTS,
                    traceparent,
                };
                outbox::insert(tx, job, &[create, task]).await?;
                Ok(job.to_resource())
            })
        });
        Ok(done.await?)
    }
}

fn title(point: Option<u64>) -> String {
    match point {
        Some(seq) => format!("Read recovery point {seq} again and compare it with its digests"),
        None => "Read all recovery points again and compare them with their digests".to_owned(),
    }
}

/// Whether a task that belongs to no run and no correction is ours.
pub(super) fn is_ours(task: &Task) -> bool {
    task.key == KEY
}
