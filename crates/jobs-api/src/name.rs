//! Names of jobs, tasks and queues as they are written.
//!
//! ```text
//!   jobs/0198…           a job
//!   jobs/0198…/tasks/…   a task
//!   hosts/alpha/alpha-h1 the queue of an agent
//!   network-mapper       the queue of network-mapper
//! ```

use std::{fmt, str::FromStr};

use understudy_ids::{HostName, TaskId, Uuid};
use understudy_rpc::{Identity, ServiceKind};

/// Why a text is not a name of this kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}: write it as {form}")]
pub struct InvalidRef {
    pub what: &'static str,
    pub text: String,
    pub form: &'static str,
}

fn invalid(what: &'static str, text: &str, form: &'static str) -> InvalidRef {
    InvalidRef { what, text: text.chars().take(80).collect(), form }
}

/// A UUID in its one hyphenated lower-case form, so that equal names are equal texts.
fn uuid(text: &str) -> Option<Uuid> {
    text.parse::<Uuid>().ok().filter(|id| id.to_string() == text)
}

/// `jobs/<uuid>`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobName(pub Uuid);

impl fmt::Display for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "jobs/{}", self.0)
    }
}

impl FromStr for JobName {
    type Err = InvalidRef;
    fn from_str(text: &str) -> Result<Self, InvalidRef> {
        text.strip_prefix("jobs/")
            .and_then(uuid)
            .map(Self)
            .ok_or_else(|| invalid("job name", text, "jobs/<uuid>"))
    }
}

/// `jobs/<uuid>/tasks/<uuid>`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskName {
    pub job: Uuid,
    pub task: TaskId,
}

impl fmt::Display for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "jobs/{}/tasks/{}", self.job, self.task)
    }
}

impl FromStr for TaskName {
    type Err = InvalidRef;
    fn from_str(text: &str) -> Result<Self, InvalidRef> {
        text.strip_prefix("jobs/")
            .and_then(|rest| rest.split_once("/tasks/"))
            .and_then(|(job, task)| Some(Self { job: uuid(job)?, task: uuid(task)? }))
            .ok_or_else(|| invalid("task name", text, "jobs/<uuid>/tasks/<uuid>"))
    }
}

/// Where a task waits for its worker. Each queue belongs to one identity, which alone may lease from it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Queue {
    Host(HostName),
    NetworkMapper,
}

impl Queue {
    /// The identity whose queue this is.
    pub fn owner(&self) -> Identity {
        match self {
            Self::Host(host) => Identity::Agent(host.clone()),
            Self::NetworkMapper => Identity::Service(ServiceKind::NetworkMapper),
        }
    }
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => write!(f, "hosts/{host}"),
            Self::NetworkMapper => f.write_str("network-mapper"),
        }
    }
}

impl FromStr for Queue {
    type Err = InvalidRef;
    fn from_str(text: &str) -> Result<Self, InvalidRef> {
        if text == "network-mapper" {
            return Ok(Self::NetworkMapper);
        }
        text.strip_prefix("hosts/")
            .and_then(|host| host.parse().ok())
            .map(Self::Host)
            .ok_or_else(|| invalid("queue", text, "hosts/<site>/<host> or network-mapper"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0198f6d2-8a4e-7c1e-9d53-1f0d6a3c2b10";

    #[test]
    fn names_are_read_as_they_are_written() {
        let job = format!("jobs/{ID}");
        assert_eq!(job.parse::<JobName>().unwrap().to_string(), job);
        let task = format!("jobs/{ID}/tasks/{ID}");
        assert_eq!(task.parse::<TaskName>().unwrap().to_string(), task);
        for queue in ["hosts/alpha/alpha-h1", "network-mapper"] {
            assert_eq!(queue.parse::<Queue>().unwrap().to_string(), queue);
        }
    }

    #[test]
    fn other_texts_are_refused() {
        let upper = format!("jobs/{}", ID.to_uppercase());
        let simple = format!("jobs/{}", ID.replace('-', ""));
        for bad in ["", "jobs/", "jobs/x", ID, &upper, &simple, &format!("jobs/{ID}/tasks/{ID}")] {
            assert!(bad.parse::<JobName>().is_err(), "{bad:?}");
        }
        for bad in ["", &format!("jobs/{ID}"), &format!("jobs/{ID}/tasks/x")] {
            assert!(bad.parse::<TaskName>().is_err(), "{bad:?}");
        }
        for bad in ["", "hosts/", "hosts/alpha", "hosts/alpha/a/b", "hosts/../x", "orchestrator"] {
            assert!(bad.parse::<Queue>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_queue_belongs_to_one_identity() {
        let owner = |queue: &str| queue.parse::<Queue>().unwrap().owner().to_string();
        assert_eq!(owner("hosts/alpha/alpha-h1"), "spiffe://understudy/agent/alpha/alpha-h1");
        assert_eq!(owner("network-mapper"), "spiffe://understudy/service/network-mapper");
    }
}
