//! What job-tracker is told, as it waits in the outbox.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use understudy_ids::Uuid;
use understudy_recovery::{action::Action, plan::Executor, run::JobView};

/// One message about one job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Message {
    CreateJob {
        kind: String,
        targets: Vec<String>,
        created_by: String,
        labels: BTreeMap<String, String>,
    },
    Enqueue {
        key: String,
        title: String,
        executor: Executor,
        action: Action,
        max_attempts: u32,
        traceparent: Option<String>,
    },
    CancelTasks {
        keys: Vec<String>,
    },
    Update(Box<JobView>),
    Note {
        id: Uuid,
        author: String,
        text: String,
    },
}
