//! Who may call what. Nobody calls the orchestrator but clients.

use understudy_rpc::{AccessRule, PeerKind};

const USERS: &[PeerKind] = &[PeerKind::User];

macro_rules! users {
    ($service:literal: $($method:literal),* $(,)?) => {
        &[$(AccessRule::new(concat!("/understudy.recovery.v1.", $service, "/", $method), USERS),)*]
    };
}

pub const SITE: &[AccessRule] = users!("SiteService":
    "CreateSite", "ListSites", "CreateHost", "GetHost", "ListHosts", "ListMachines");

pub const PROTECTION: &[AccessRule] = users!("ProtectionService":
    "CreatePolicy", "GetPolicy", "ListPolicies", "ProtectMachine", "GetProtectedItem", "ListProtectedItems", "ListRecoveryPoints",
    "ChangeItemDisks", "UnprotectItem", "ScrubItem", "UpdatePolicy", "SetItemPolicy", "SetItemProbes", "SetItemAddress", "PauseReplication", "ResumeReplication",
    "CreateConsistencyGroup", "GetConsistencyGroup", "ListConsistencyGroups", "ChangeConsistencyGroup", "DeleteConsistencyGroup");

pub const FAILOVER: &[AccessRule] = users!("FailoverService":
    "PreviewRun", "StartRun", "GetRun", "ListRuns", "GetScreenshot", "CompleteTest", "CommitRun", "ConfirmRun", "RejectRun", "CancelRun", "RetryRun",
    "PreviewRunChange", "ChangeRun", "SetRunDeadline");

pub const RECOVERY_PLAN: &[AccessRule] = users!("RecoveryPlanService":
    "CreateRecoveryPlan", "UpdateRecoveryPlan", "GetRecoveryPlan", "ListRecoveryPlans", "DeleteRecoveryPlan");

pub const AUDIT: &[AccessRule] = users!("AuditService": "ListAuditRecords");

#[cfg(test)]
mod tests {
    use understudy_recovery_api::{FILE_DESCRIPTOR_SET, SERVICES};
    use understudy_rpc::access::methods_without_rule;

    use super::*;

    #[test]
    fn every_method_has_its_rule_and_every_rule_its_method() {
        let rules = [SITE, PROTECTION, FAILOVER, RECOVERY_PLAN, AUDIT].concat();
        let wrong = methods_without_rule(FILE_DESCRIPTOR_SET, &SERVICES, &rules).unwrap();
        assert_eq!(wrong, Vec::<String>::new());
        assert!(rules.iter().all(|rule| rule.allow == USERS));
    }
}
