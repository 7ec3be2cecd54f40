//! Who may call what. Whose job and whose queue it is, is asked in `runtime`.

use understudy_rpc::{AccessRule, PeerKind};

/// Those who own jobs.
const OWNERS: &[PeerKind] = &[PeerKind::Orchestrator, PeerKind::NetworkMapper];
/// Those who look at jobs, add notes to them and ask for their end.
const READERS: &[PeerKind] = &[PeerKind::Orchestrator, PeerKind::NetworkMapper, PeerKind::User];
/// Those who do the work.
const WORKING: &[PeerKind] = &[PeerKind::Agent, PeerKind::NetworkMapper];

#[rustfmt::skip]
pub const JOBS: &[AccessRule] = &[
    AccessRule::new("/understudy.jobs.v1.JobService/CreateJob",    OWNERS),
    AccessRule::new("/understudy.jobs.v1.JobService/UpdateJob",    OWNERS),
    AccessRule::new("/understudy.jobs.v1.JobService/EnqueueTasks", OWNERS),
    AccessRule::new("/understudy.jobs.v1.JobService/CancelTasks",  OWNERS),
    AccessRule::new("/understudy.jobs.v1.JobService/GetJob",       READERS),
    AccessRule::new("/understudy.jobs.v1.JobService/ListJobs",     READERS),
    AccessRule::new("/understudy.jobs.v1.JobService/ListTasks",    READERS),
    AccessRule::new("/understudy.jobs.v1.JobService/AddNote",      READERS),
    AccessRule::new("/understudy.jobs.v1.JobService/ListNotes",    READERS),
    AccessRule::new("/understudy.jobs.v1.JobService/WatchEvents",  READERS),
];

#[rustfmt::skip]
pub const OPERATIONS: &[AccessRule] = &[
    AccessRule::new("/google.longrunning.Operations/GetOperation",    READERS),
    AccessRule::new("/google.longrunning.Operations/ListOperations",  READERS),
    AccessRule::new("/google.longrunning.Operations/WaitOperation",   READERS),
    AccessRule::new("/google.longrunning.Operations/CancelOperation", READERS),
    AccessRule::new("/google.longrunning.Operations/DeleteOperation", READERS),
];

#[rustfmt::skip]
pub const WORKERS: &[AccessRule] = &[
    AccessRule::new("/understudy.jobs.v1.WorkerService/LeaseTasks",   WORKING),
    AccessRule::new("/understudy.jobs.v1.WorkerService/Heartbeat",    WORKING),
    AccessRule::new("/understudy.jobs.v1.WorkerService/CompleteTask", WORKING),
];

#[cfg(test)]
mod tests {
    use understudy_jobs_api::FILE_DESCRIPTOR_SET;
    use understudy_rpc::access::methods_without_rule;

    use super::*;

    #[test]
    fn every_method_has_a_rule_and_every_rule_a_method() {
        for (service, rules) in [
            ("understudy.jobs.v1.JobService", JOBS),
            ("understudy.jobs.v1.WorkerService", WORKERS),
            ("google.longrunning.Operations", OPERATIONS),
        ] {
            let gaps = methods_without_rule(FILE_DESCRIPTOR_SET, &[service], rules).unwrap();
            assert_eq!(gaps, Vec::<String>::new());
        }
    }
}
