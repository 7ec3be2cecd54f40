//! Puts the order of a recovery plan into the steps of a failover (R-RP-1, R-RP-2).
//!
//! ```text
//!   switched sides ─▶ group 1: before-1 ─▶ before-2 ─▶ starts ─▶ probes ─▶ gate ─▶ after-1 ─▶ delay ─▶ group 2: …
//!                               a machine ─▶ answers ─▶ the one behind it in the window, and those that depend on it
//!   planned:  shut-down of the last group ─▶ … ─▶ shut-down of group 1
//! ```
//!
//! Only starting is ordered: machines are made, and sides switched, for all items at once, so that a late group costs no time that an early one
//! could have used. What is done before the first group comes before the switch, where everything can still be taken back.
//! Steps keep their names, actions and error policies; what changes is what they come after.

use std::collections::BTreeSet;

use serde_json::json;
use understudy_ids::{ItemName, SiteName, StepName};

use super::{
    ErrorPolicy, Executor, Operation, Part, Phase, PlanInput, RunSpec, Stage, Step,
    draft::{Subject, ends, step_name, wait_for},
    errors::error_policy,
};
use crate::{
    action::{Action, AgentWork, Internal, OperatorWait, RunScript},
    recovery_plan::{ActionKind, Gate, GroupItem, PlanAction, PlanGroup, RecoveryPlan, ScriptAction},
};

/// The steps in the order of the spec's recovery plan, if it has one.
pub(super) fn ordered(
    spec: &RunSpec,
    input: &PlanInput,
    items: &[Subject<'_>],
    steps: Vec<Step>,
) -> Vec<Step> {
    match (&spec.recovery_plan, items.first()) {
        (Some(plan), Some(first)) if spec.operation.is_failover() => {
            let towards = first.target.site();
            let mut ordering = Ordering { plan, operation: spec.operation, towards, input, items, steps };
            ordering.shut_downs();
            ordering.groups();
            listed(ordering.steps)
        }
        _ => steps,
    }
}

/// Scripts of the spec's recovery plan that apply to its run.
pub(super) fn scripts<'a>(
    spec: &'a RunSpec,
    input: &'a PlanInput,
) -> impl Iterator<Item = (&'a PlanAction, &'a ScriptAction)> {
    let towards = input.items.first().map(|item| ends(spec, item).1.site());
    let plan = spec.recovery_plan.as_ref().zip(towards);
    plan.into_iter().flat_map(|(plan, towards)| plan.scripts(spec.operation, towards))
}

/// Scripts that would hold up an unplanned failover, because nobody is there to run them.
pub(super) fn left_out(spec: &RunSpec, input: &PlanInput) -> Vec<String> {
    scripts(spec, input)
        .filter(|(_, script)| holds_up(spec.operation, input, script))
        .map(|(action, script)| {
            format!(
                "{} is not done: {}, which is to run its script, cannot be heard",
                action.name, script.host
            )
        })
        .collect()
}

fn holds_up(operation: Operation, input: &PlanInput, script: &ScriptAction) -> bool {
    operation == Operation::UnplannedFailover && !input.hears(&script.host)
}

struct Ordering<'a> {
    plan: &'a RecoveryPlan,
    operation: Operation,
    towards: &'a SiteName,
    input: &'a PlanInput,
    items: &'a [Subject<'a>],
    steps: Vec<Step>,
}

/// The steps with which a machine comes up.
struct ComingUp {
    start: StepName,
    /// One behind the other.
    probes: Vec<StepName>,
}

impl ComingUp {
    /// With its end the machine is up, or will not be: it was asked everything, or where it is asked nothing, it was started.
    fn ready(&self) -> &StepName {
        self.probes.last().unwrap_or(&self.start)
    }
}

impl<'a> Ordering<'a> {
    /// Those who depend on others go first. An unplanned failover gives shutting down a time for all items together, in
    /// which there is none for an order.
    fn shut_downs(&mut self) {
        if self.operation != Operation::PlannedFailover {
            return;
        }
        let mut later = Vec::new();
        for group in self.plan.groups.iter().rev() {
            let of_group: Vec<StepName> =
                group.items.iter().filter_map(|entry| self.shut_down(&entry.item)).collect();
            for id in &of_group {
                self.comes_after(id, &later);
            }
            if !of_group.is_empty() {
                later = of_group;
            }
        }
    }

    fn groups(&mut self) {
        let mut made = Vec::new();
        // What the next thing comes after. Empty: nothing of the plan was before it.
        let mut before = Vec::new();
        let mut is_first = true;
        for (group, number) in self.plan.groups.iter().zip(1..) {
            let starts = self.starts(group);
            // All of its items stay where they are (R-FO-3), so there is nothing to do around them.
            if starts.is_empty() && !group.items.is_empty() {
                continue;
            }
            let entry = if before.is_empty() { self.preconditions() } else { before.clone() };
            let actions = self.actions(group, number, "before", &group.before, &entry);
            if let Some(last) = actions.last() {
                before = vec![last.id.clone()];
            }
            made.extend(actions);
            if is_first && !starts.is_empty() {
                self.hold_back(&before);
                is_first = false;
            }
            self.start_in_order(group, &starts, &before);
            let ready: Vec<StepName> = starts.iter().map(|(_, machine)| machine.ready().clone()).collect();
            if !ready.is_empty() {
                before = ready;
            }
            let behind =
                self.behind(group, number, if before.is_empty() { &entry } else { &before }, &starts);
            if let Some(last) = behind.last() {
                before = vec![last.id.clone()];
            }
            made.extend(behind);
        }
        let ids: Vec<StepName> = made.iter().map(|step| step.id.clone()).collect();
        let waits = [OperatorWait::Commit, OperatorWait::CompleteTest].map(Action::Operator);
        for step in self.steps.iter_mut().filter(|step| waits.contains(&step.action)) {
            step.after.extend(ids.iter().cloned());
        }
        self.steps.extend(made);
    }

    /// What is left of the group behind its machines: gate, actions, delay.
    fn behind(
        &self,
        group: &PlanGroup,
        number: usize,
        ready: &[StepName],
        starts: &[(&GroupItem, ComingUp)],
    ) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut last = ready.to_vec();
        if group.gate == Gate::Ask && !starts.is_empty() {
            let watched =
                starts.iter().flat_map(|(_, machine)| machine.probes.iter().chain([&machine.start]));
            let watched: BTreeSet<StepName> = watched.cloned().collect();
            let wait = OperatorWait::Gate { group: group.name.clone(), watched };
            let title = format!("Go on behind group {} if its machines came up, or ask", group.name);
            let gate = wait_for(part(number, "gate"), title, wait).after(last);
            last = vec![gate.id.clone()];
            steps.push(self.with_policy(gate, false));
        }
        let actions = self.actions(group, number, "after", &group.after, &last);
        last = actions.last().map_or(last, |step| vec![step.id.clone()]);
        steps.extend(actions);
        if let Some(span) = group.delay.filter(|span| !span.is_zero()) {
            let title = format!("Wait for {} s behind group {}", span.as_secs_f64(), group.name);
            let delay = Action::Internal(Internal::Delay { span });
            let id = part(number, "delay");
            steps.push(Step::new(id, title, Executor::Orchestrator, delay, Phase::Wait).after(last));
        }
        steps
    }

    /// The actions that apply, one after another.
    fn actions(
        &self,
        group: &PlanGroup,
        number: usize,
        place: &str,
        actions: &[PlanAction],
        after: &[StepName],
    ) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        for (action, index) in actions.iter().zip(1..) {
            if !action.applies(self.operation, self.towards) {
                continue;
            }
            let after = steps.last().map_or(after.to_vec(), |step| vec![step.id.clone()]);
            let what = format!("{place}-{index}");
            let title = format!("{} ({place} group {})", action.name, group.name);
            let step = match &action.what {
                ActionKind::Manual { instructions } => {
                    let (name, instructions) = (action.name.clone(), instructions.trim().to_owned());
                    wait_for(part(number, &what), title, OperatorWait::Manual { name, instructions })
                }
                // See `left_out`.
                ActionKind::Script(script) if holds_up(self.operation, self.input, script) => continue,
                ActionKind::Script(script) => {
                    let context = self.context(group, place, action);
                    self.script(part(number, &what), title, script, context)
                }
            };
            steps.push(self.with_policy(step.after(after), action.may_fail));
        }
        steps
    }

    /// Sent in the name of the run's first item; it changes nothing about it.
    fn script(&self, id: StepName, title: String, script: &ScriptAction, context: String) -> Step {
        let first = &self.items[0];
        let ScriptAction { host, name, sha256, time_out } = script.clone();
        let asked = RunScript { script: name, sha256, time_out, context };
        let sent_with = (first.name(), first.view.generation);
        Step { title, ..Step::script(id, &host, sent_with, asked, Phase::Prepare) }
    }

    /// What a script is told (R-RP-2), as it is known before the run begins.
    fn context(&self, group: &PlanGroup, place: &str, action: &PlanAction) -> String {
        let machines = self.items.iter().map(|item| {
            let nics = item.nics(self.input);
            let addresses = nics.iter().filter_map(|nic| nic.address);
            json!({
                "item": item.name(),
                "machine": item.view.machine.name,
                "host": item.target,
                "group": self.plan.groups.iter().find(|g| g.items.iter().any(|e| e.item == *item.name())).map(|g| &g.name),
                "addresses": addresses.map(|address| address.to_string()).collect::<Vec<_>>(),
            })
        });
        json!({
            "plan": self.plan.name,
            "operation": self.operation,
            "from": self.items[0].source.site(),
            "to": self.towards,
            "group": group.name,
            "place": place,
            "action": action.name,
            "machines": machines.collect::<Vec<_>>(),
        })
        .to_string()
    }

    /// R-PF-3, R-UF-4: an error in an action is one like that of a machine.
    fn with_policy(&self, step: Step, may_fail: bool) -> Step {
        let on_error = error_policy(self.operation, Part::PlanAction);
        step.on_error(if may_fail { ErrorPolicy::GoOn } else { on_error })
    }

    /// The group's items that the run takes, in an order in which they can be started, with what starts each.
    fn starts(&self, group: &'a PlanGroup) -> Vec<(&'a GroupItem, ComingUp)> {
        let mut left: Vec<_> = group.items.iter().collect();
        let mut starts = Vec::new();
        while !left.is_empty() {
            let waits = |after: &BTreeSet<ItemName>| left.iter().any(|other| after.contains(&other.item));
            // A plan in which items wait for each other was refused.
            let next = left.iter().position(|entry| !waits(&entry.after)).unwrap_or(0);
            let entry = left.remove(next);
            starts.extend(self.coming_up(&entry.item).map(|machine| (entry, machine)));
        }
        starts
    }

    fn start_in_order(&mut self, group: &PlanGroup, starts: &[(&GroupItem, ComingUp)], before: &[StepName]) {
        let window = group.at_once.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
        for (index, (entry, machine)) in starts.iter().enumerate() {
            let mut after = before.to_vec();
            after.extend(index.checked_sub(window).map(|ahead| starts[ahead].1.ready().clone()));
            after.extend(
                entry.after.iter().filter_map(|item| self.coming_up(item)).map(|other| other.ready().clone()),
            );
            self.comes_after(&machine.start, &after);
        }
    }

    /// What a run's first effect behind its preparation comes after: switching sides, or starting a test machine.
    fn preconditions(&self) -> Vec<StepName> {
        let after: BTreeSet<&StepName> =
            self.steps.iter().filter(|step| self.is_held_back(step)).flat_map(|step| &step.after).collect();
        after.into_iter().cloned().collect()
    }

    /// Sides switch when all that comes before the first machine is done. Test machines may be made beside it: nothing switches.
    fn hold_back(&mut self, before: &[StepName]) {
        if self.operation == Operation::TestFailover {
            return;
        }
        let held: Vec<StepName> =
            self.steps.iter().filter(|step| self.is_held_back(step)).map(|step| step.id.clone()).collect();
        for id in held {
            self.comes_after(&id, before);
        }
    }

    fn is_held_back(&self, step: &Step) -> bool {
        match (&step.action, self.operation) {
            (Action::Agent { work, .. }, Operation::TestFailover) => {
                matches!(work, AgentWork::CreateTestMachine { .. })
            }
            (Action::Internal(internal), _) => matches!(internal, Internal::RaiseGeneration { .. }),
            _ => false,
        }
    }

    fn of_item(&self, item: &ItemName, is: impl Fn(&AgentWork) -> bool) -> impl Iterator<Item = StepName> {
        let of_item = self.steps.iter().filter(move |step| match &step.action {
            Action::Agent { work, .. } => {
                step.stage == Stage::Main && step.item.as_ref() == Some(item) && is(work)
            }
            _ => false,
        });
        of_item.map(|step| step.id.clone())
    }

    fn coming_up(&self, item: &ItemName) -> Option<ComingUp> {
        let start = self.of_item(item, |work| matches!(work, AgentWork::StartMachine { .. })).next()?;
        let probes = self.of_item(item, |work| matches!(work, AgentWork::ProbeMachine { .. }));
        Some(ComingUp { start, probes: probes.collect() })
    }

    fn shut_down(&self, item: &ItemName) -> Option<StepName> {
        self.of_item(item, |work| matches!(work, AgentWork::ShutDownMachine { .. })).next()
    }

    fn comes_after(&mut self, id: &StepName, after: &[StepName]) {
        if let Some(step) = self.steps.iter_mut().find(|step| step.id == *id) {
            let new: Vec<StepName> = after.iter().filter(|id| !step.after.contains(id)).cloned().collect();
            step.after.extend(new);
        }
    }
}

fn part(number: usize, what: &str) -> StepName {
    step_name(&format!("group-{number}.{what}"))
}

/// Every step behind those of the list that it refers to, and otherwise as they were.
pub(super) fn listed(steps: Vec<Step>) -> Vec<Step> {
    let own: BTreeSet<StepName> = steps.iter().map(|step| step.id.clone()).collect();
    let mut left = steps;
    let mut placed: BTreeSet<StepName> = BTreeSet::new();
    let mut listed = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let before = left.len();
        let mut waiting = Vec::new();
        for step in left {
            let mut refers = step.after.iter().chain(&step.undoes).filter(|id| own.contains(*id));
            if refers.all(|id| placed.contains(id)) {
                placed.insert(step.id.clone());
                listed.push(step);
            } else {
                waiting.push(step);
            }
        }
        left = waiting;
        if left.len() == before {
            // Steps in a round: lint refuses the plan and names them.
            listed.append(&mut left);
        }
    }
    listed
}
