//! Requests about recovery plans (R-RP), and the form of a plan.

use std::{collections::BTreeSet, time::Duration};

use prost::Message;
use understudy_ids::{ItemName, RecoveryPlanName};
use understudy_recovery::recovery_plan::{
    ActionKind, Gate, GroupItem, PlanAction, PlanGroup, RecoveryPlan, SCRIPT_TIME_OUT, ScriptAction,
};
use understudy_replication::BlockDigest;
use understudy_types_api::duration_to_wire;

use super::run::MAX_ITEMS;
use crate::{
    Operation, Resource,
    check::{Checks, Invalid},
    names::RequestId,
    v1,
};

/// More than any plan may have; what it may have is the planner's business.
const MAX_PARTS: usize = 200;
const MAX_INSTRUCTIONS: usize = 8192;
const MAX_DELAY: Duration = Duration::from_secs(7 * 24 * 3600);
const SHA256_CHARS: usize = 64;
pub(crate) const ETAG_CHARS: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatePlan {
    pub plan: RecoveryPlan,
    pub request_id: RequestId,
}

impl CreatePlan {
    /// # Errors
    /// With every field that is missing or malformed, and every reason why the plan could not be followed.
    pub fn from_wire(wire: v1::CreateRecoveryPlanRequest) -> Result<Self, Invalid> {
        let v1::CreateRecoveryPlanRequest { plan, request_id } = wire;
        let mut checks = Checks::default();
        let plan = written(&mut checks, plan);
        let request_id = checks.request_id(&request_id);
        let whole = (|| Some(Self { plan: plan?.0, request_id: request_id? }))();
        checks.finish(whole)
    }

    pub fn into_wire(self) -> v1::CreateRecoveryPlanRequest {
        let Self { plan, request_id } = self;
        v1::CreateRecoveryPlanRequest { plan: Some(plan_to_wire(&plan)), request_id: request_id.to_string() }
    }
}

/// The plan says this from now on, if it still says what `etag` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdatePlan {
    pub plan: RecoveryPlan,
    pub etag: String,
    pub request_id: RequestId,
}

impl UpdatePlan {
    /// # Errors
    /// As [`CreatePlan::from_wire`].
    pub fn from_wire(wire: v1::UpdateRecoveryPlanRequest) -> Result<Self, Invalid> {
        let v1::UpdateRecoveryPlanRequest { plan, request_id } = wire;
        let mut checks = Checks::default();
        let plan = written(&mut checks, plan);
        if plan.as_ref().is_some_and(|(_, etag)| etag.is_empty()) {
            checks.refuse("plan.etag", "is not set: get the plan first, and pass the etag that it has");
        }
        let request_id = checks.request_id(&request_id);
        let whole = (|| {
            let (plan, etag) = plan?;
            Some(Self { plan, etag, request_id: request_id? })
        })();
        checks.finish(whole)
    }

    pub fn into_wire(self) -> v1::UpdateRecoveryPlanRequest {
        let Self { plan, etag, request_id } = self;
        let plan = v1::RecoveryPlan { etag, ..plan_to_wire(&plan) };
        v1::UpdateRecoveryPlanRequest { plan: Some(plan), request_id: request_id.to_string() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeletePlan {
    pub plan: RecoveryPlanName,
    pub request_id: RequestId,
}

impl DeletePlan {
    /// # Errors
    /// With every field that is missing or malformed.
    pub fn from_wire(wire: v1::DeleteRecoveryPlanRequest) -> Result<Self, Invalid> {
        let v1::DeleteRecoveryPlanRequest { name, request_id } = wire;
        let mut checks = Checks::default();
        let plan = checks.resource("name", &name);
        let request_id = checks.request_id(&request_id);
        let whole = (|| Some(Self { plan: plan?, request_id: request_id? }))();
        checks.finish(whole)
    }

    pub fn into_wire(self) -> v1::DeleteRecoveryPlanRequest {
        let Self { plan, request_id } = self;
        v1::DeleteRecoveryPlanRequest { name: plan.to_resource(), request_id: request_id.to_string() }
    }
}

/// Names what the plan says: 32 hexadecimal digits.
pub fn plan_etag(plan: &RecoveryPlan) -> String {
    let digest = BlockDigest::of(&plan_to_wire(plan).encode_to_vec());
    digest.to_string().chars().take(ETAG_CHARS).collect()
}

/// A plan that somebody wants to have, with the etag of what it was.
fn written(checks: &mut Checks, wire: Option<v1::RecoveryPlan>) -> Option<(RecoveryPlan, String)> {
    let Some(mut wire) = wire else {
        checks.refuse("plan", "is not set");
        return None;
    };
    let etag = checks.text("plan.etag", std::mem::take(&mut wire.etag), ETAG_CHARS);
    let plan = plan(checks, wire)?;
    for problem in plan.problems() {
        checks
            .refuse(format!("plan.{}", problem.subject), format!("{}. {}", problem.message, problem.remedy));
    }
    Some((plan, etag?))
}

/// What the plan says, whether it could be followed or not.
pub(crate) fn plan(checks: &mut Checks, wire: v1::RecoveryPlan) -> Option<RecoveryPlan> {
    // The others are the orchestrator's to say.
    let v1::RecoveryPlan { name, source_site, target_site, groups, .. } = wire;
    let name = checks.resource("plan.name", &name);
    let source_site = checks.resource("plan.source_site", &source_site);
    let target_site = checks.resource("plan.target_site", &target_site);
    checks.at_most("plan.groups", &groups, MAX_PARTS);
    let groups = groups.into_iter().take(MAX_PARTS).enumerate();
    let groups: Vec<Option<PlanGroup>> = groups
        .map(|(index, wire)| {
            let mut of_group = Group { checks: &mut *checks, at: format!("plan.groups[{index}]") };
            of_group.read(wire)
        })
        .collect();
    Some(RecoveryPlan {
        name: name?,
        source_site: source_site?,
        target_site: target_site?,
        groups: groups.into_iter().collect::<Option<_>>()?,
    })
}

struct Group<'a> {
    checks: &'a mut Checks,
    at: String,
}

impl Group<'_> {
    fn read(&mut self, wire: v1::PlanGroup) -> Option<PlanGroup> {
        let v1::PlanGroup { name, items, at_once, before, after, gate, delay } = wire;
        let at = self.at.clone();
        let name = self.checks.parse(format!("{at}.name"), &name);
        self.checks.at_most(format!("{at}.items"), &items, MAX_ITEMS);
        let items = items.into_iter().take(MAX_ITEMS).enumerate();
        let items: Vec<_> = items.map(|(index, item)| self.item(index, item)).collect();
        let before = self.actions("before", before);
        let after = self.actions("after", after);
        let gate = match v1::PlanGate::try_from(gate) {
            Ok(v1::PlanGate::Unspecified | v1::PlanGate::Open) => Some(Gate::Open),
            Ok(v1::PlanGate::Ask) => Some(Gate::Ask),
            Err(_) => self.checks.word(format!("{at}.gate"), None),
        };
        let field = format!("{at}.delay");
        let delay = match delay {
            None => Some(None),
            some => self.checks.span(&field, some, Duration::ZERO..=MAX_DELAY).map(Some),
        };
        Some(PlanGroup {
            name: name?,
            items: items.into_iter().collect::<Option<_>>()?,
            at_once: Some(at_once).filter(|n| *n > 0),
            before: before?,
            after: after?,
            gate: gate?,
            delay: delay?.filter(|delay| !delay.is_zero()),
        })
    }

    fn item(&mut self, index: usize, wire: v1::GroupItem) -> Option<GroupItem> {
        let v1::GroupItem { item, after } = wire;
        let field = format!("{}.items[{index}]", self.at);
        let item = self.checks.resource(format!("{field}.item"), &item);
        self.checks.at_most(format!("{field}.after"), &after, MAX_ITEMS);
        let after = after.iter().take(MAX_ITEMS);
        let after: Vec<Option<ItemName>> =
            after.map(|name| self.checks.resource(format!("{field}.after"), name)).collect();
        Some(GroupItem { item: item?, after: after.into_iter().collect::<Option<_>>()? })
    }

    fn actions(&mut self, place: &str, wire: Vec<v1::PlanAction>) -> Option<Vec<PlanAction>> {
        self.checks.at_most(format!("{}.{place}", self.at), &wire, MAX_PARTS);
        let actions = wire.into_iter().take(MAX_PARTS).enumerate();
        let actions: Vec<_> = actions
            .map(|(index, wire)| {
                let field = format!("{}.{place}[{index}]", self.at);
                self.action(&field, wire)
            })
            .collect();
        actions.into_iter().collect()
    }

    fn action(&mut self, field: &str, wire: v1::PlanAction) -> Option<PlanAction> {
        let v1::PlanAction { name, operations, towards, may_fail, what } = wire;
        let checks = &mut *self.checks;
        let name = checks.parse(format!("{field}.name"), &name);
        checks.at_most(format!("{field}.operations"), &operations, Operation::ALL.len());
        let operations: Vec<_> = operations
            .into_iter()
            .take(Operation::ALL.len())
            .map(|word| checks.word(format!("{field}.operations"), Operation::from_wire(word)))
            .collect();
        let operations: Option<BTreeSet<Operation>> = operations.into_iter().collect();
        let towards = checks.optional_resource(format!("{field}.towards"), &towards);
        let what = match what {
            Some(v1::plan_action::What::Manual(v1::ManualAction { instructions })) => {
                let field = format!("{field}.manual.instructions");
                let instructions = checks.text(field, instructions, MAX_INSTRUCTIONS);
                instructions.map(|instructions| ActionKind::Manual { instructions })
            }
            Some(v1::plan_action::What::Script(script)) => script_action(checks, field, script),
            None => checks.word(format!("{field}.what"), None),
        };
        Some(PlanAction {
            name: name?,
            operations: operations?.into_iter().map(Into::into).collect(),
            towards: towards?,
            may_fail,
            what: what?,
        })
    }
}

fn script_action(checks: &mut Checks, field: &str, wire: v1::ScriptAction) -> Option<ActionKind> {
    let v1::ScriptAction { host, script, sha256, time_out } = wire;
    let host = checks.resource(format!("{field}.script.host"), &host);
    let name = checks.parse(format!("{field}.script.script"), &script);
    let sha256 = checks.text(format!("{field}.script.sha256"), sha256, SHA256_CHARS);
    let time_out = match time_out {
        None => Some(SCRIPT_TIME_OUT),
        some => checks.span(&format!("{field}.script.time_out"), some, Duration::ZERO..=MAX_DELAY),
    };
    Some(ActionKind::Script(ScriptAction { host: host?, name: name?, sha256: sha256?, time_out: time_out? }))
}

/// Without what only a plan that is kept has.
pub(crate) fn plan_to_wire(plan: &RecoveryPlan) -> v1::RecoveryPlan {
    let RecoveryPlan { name, source_site, target_site, groups } = plan;
    v1::RecoveryPlan {
        name: name.to_resource(),
        source_site: source_site.to_resource(),
        target_site: target_site.to_resource(),
        groups: groups.iter().map(group_to_wire).collect(),
        create_time: None,
        update_time: None,
        etag: String::new(),
        problems: Vec::new(),
    }
}

fn group_to_wire(group: &PlanGroup) -> v1::PlanGroup {
    let PlanGroup { name, items, at_once, before, after, gate, delay } = group;
    let item = |GroupItem { item, after }: &GroupItem| v1::GroupItem {
        item: item.to_resource(),
        after: after.iter().map(Resource::to_resource).collect(),
    };
    let gate = match gate {
        Gate::Open => v1::PlanGate::Open,
        Gate::Ask => v1::PlanGate::Ask,
    };
    v1::PlanGroup {
        name: name.to_string(),
        items: items.iter().map(item).collect(),
        at_once: at_once.unwrap_or(0),
        before: before.iter().map(action_to_wire).collect(),
        after: after.iter().map(action_to_wire).collect(),
        gate: gate.into(),
        delay: delay.map(duration_to_wire),
    }
}

fn action_to_wire(action: &PlanAction) -> v1::PlanAction {
    let PlanAction { name, operations, towards, may_fail, what } = action;
    v1::PlanAction {
        name: name.to_string(),
        operations: operations.iter().map(|o| Operation::from(*o).to_wire().into()).collect(),
        towards: towards.as_ref().map(Resource::to_resource).unwrap_or_default(),
        may_fail: *may_fail,
        what: Some(match what {
            ActionKind::Manual { instructions } => {
                v1::plan_action::What::Manual(v1::ManualAction { instructions: instructions.clone() })
            }
            ActionKind::Script(ScriptAction { host, name, sha256, time_out }) => {
                v1::plan_action::What::Script(v1::ScriptAction {
                    host: host.to_resource(),
                    script: name.to_string(),
                    sha256: sha256.clone(),
                    time_out: Some(duration_to_wire(*time_out)),
                })
            }
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn shop() -> RecoveryPlan {
        let entry = |item: &str, after: &[&str]| GroupItem {
            item: item.parse().unwrap(),
            after: after.iter().map(|item| item.parse().unwrap()).collect(),
        };
        RecoveryPlan {
            name: "shop".parse().unwrap(),
            source_site: "alpha".parse().unwrap(),
            target_site: "bravo".parse().unwrap(),
            groups: vec![
                PlanGroup {
                    name: "data".parse().unwrap(),
                    items: vec![entry("db1", &[]), entry("db2", &["db1"])],
                    at_once: Some(2),
                    before: vec![PlanAction {
                        name: "tell-people".parse().unwrap(),
                        operations: [understudy_recovery::Operation::PlannedFailover].into(),
                        towards: Some("bravo".parse().unwrap()),
                        may_fail: true,
                        what: ActionKind::Manual { instructions: "Call them.".to_owned() },
                    }],
                    after: vec![PlanAction {
                        name: "move-dns".parse().unwrap(),
                        operations: [understudy_recovery::Operation::UnplannedFailover].into(),
                        towards: None,
                        may_fail: false,
                        what: ActionKind::Script(ScriptAction {
                            host: "bravo/bravo-h1".parse().unwrap(),
                            name: "move-dns.sh".parse().unwrap(),
                            sha256: "5f".repeat(32),
                            time_out: Duration::from_secs(90),
                        }),
                    }],
                    gate: Gate::Ask,
                    delay: Some(Duration::from_secs(30)),
                },
                PlanGroup {
                    name: "web".parse().unwrap(),
                    items: vec![entry("web1", &["db2"])],
                    at_once: None,
                    before: Vec::new(),
                    after: Vec::new(),
                    gate: Gate::Open,
                    delay: None,
                },
            ],
        }
    }

    #[test]
    fn plans_come_back_as_they_went_out() {
        let request_id: RequestId = "r1".parse().unwrap();
        let create = CreatePlan { plan: shop(), request_id: request_id.clone() };
        assert_eq!(CreatePlan::from_wire(create.clone().into_wire()).unwrap(), create);
        let update = UpdatePlan { plan: shop(), etag: plan_etag(&shop()), request_id };
        assert_eq!(UpdatePlan::from_wire(update.clone().into_wire()).unwrap(), update);
        let mut other = shop();
        other.groups[0].delay = None;
        assert_ne!(plan_etag(&other), plan_etag(&shop()));
    }

    #[test]
    fn a_bad_plan_is_told_of_every_field_and_every_rule() {
        let mut wire = plan_to_wire(&shop());
        wire.source_site = "alpha".to_owned();
        wire.groups[0].name = String::new();
        wire.groups[0].gate = 9;
        wire.groups[0].items[0].item = "db1".to_owned();
        wire.groups[0].items[1].after = vec!["db1".to_owned()];
        wire.groups[0].before[0].operations = vec![0];
        wire.groups[0].before[0].what = None;
        let request = v1::UpdateRecoveryPlanRequest { plan: Some(wire), request_id: String::new() };
        let told = format!("{:?}", UpdatePlan::from_wire(request).unwrap_err());
        for field in [
            "plan.source_site",
            "plan.groups[0].name",
            "plan.groups[0].gate",
            "plan.groups[0].items[0].item",
            "plan.groups[0].items[1].after",
            "plan.groups[0].before[0].operations",
            "plan.groups[0].before[0].what",
            "request_id",
        ] {
            assert!(told.contains(&format!("{field:?}")), "{field} in {told}");
        }
        let mut rules = shop();
        rules.target_site = rules.source_site.clone();
        rules.groups[1].items[0].after = ["web9".parse().unwrap()].into();
        let request =
            v1::UpdateRecoveryPlanRequest { plan: Some(plan_to_wire(&rules)), request_id: "r".to_owned() };
        let told = format!("{:?}", UpdatePlan::from_wire(request).unwrap_err());
        for field in ["plan.target_site", "plan.groups[1].items[0].after", "plan.etag"] {
            assert!(told.contains(field), "{field} in {told}");
        }
    }
}
