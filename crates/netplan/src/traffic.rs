//! Whoever leads clients to machines otherwise than by DNS, and is called when they are elsewhere (R-NET-12).

use std::{collections::BTreeSet, net::Ipv4Addr};

use serde::{Deserialize, Serialize};
use understudy_ids::{Generation, HostName, ItemName, StepName, TrafficHookName};

use crate::connect::{MachineConnections, Purpose};

/// Somebody to call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrafficHook {
    pub name: TrafficHookName,
    /// Empty: every item.
    pub items: BTreeSet<ItemName>,
}

/// A hook that is called for an item of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedHook {
    pub item: ItemName,
    pub hook: TrafficHookName,
}

/// What a hook is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficChange {
    pub hook: TrafficHookName,
    pub item: ItemName,
    /// The same for each attempt, so that the hook can tell that it was called before.
    pub step: StepName,
    /// The machine goes back, before the failover was committed.
    pub roll_back: bool,
    pub from: HostName,
    pub to: HostName,
    pub generation: Generation,
    /// That are known of the machine where it is now.
    pub addresses: Vec<Ipv4Addr>,
}

/// Nobody is called for a test.
pub fn plan(purpose: &Purpose, machines: &[MachineConnections], hooks: &[TrafficHook]) -> Vec<PlannedHook> {
    if *purpose != Purpose::Failover {
        return Vec::new();
    }
    let concerns = |hook: &TrafficHook, item: &ItemName| hook.items.is_empty() || hook.items.contains(item);
    let of_machine = |machine: &MachineConnections| {
        let item = machine.item.clone();
        let called = hooks.iter().filter(|hook| concerns(hook, &item));
        called.map(|hook| PlannedHook { item: item.clone(), hook: hook.name.clone() }).collect::<Vec<_>>()
    };
    machines.iter().flat_map(of_machine).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R-NET-12: those of the item and those of every item, and none in a test.
    #[test]
    fn hooks_are_called_for_failovers_of_their_items_and_never_for_a_test() {
        let machine = |item: &str| MachineConnections {
            item: item.parse().unwrap(),
            source_site: "alpha".parse().unwrap(),
            target_site: "bravo".parse().unwrap(),
            nics: vec![],
        };
        let hook = |name: &str, items: &[&str]| TrafficHook {
            name: name.parse().unwrap(),
            items: items.iter().map(|item| item.parse().unwrap()).collect(),
        };
        let (machines, hooks) =
            ([machine("db1"), machine("web1")], [hook("all", &[]), hook("shop", &["web1"])]);
        let planned = plan(&Purpose::Failover, &machines, &hooks);
        let names: Vec<String> = planned.iter().map(|p| format!("{} {}", p.item, p.hook)).collect();
        assert_eq!(names, ["db1 all", "web1 all", "web1 shop"]);
        assert_eq!(plan(&Purpose::Test, &machines, &hooks), []);
        let on = Purpose::TestOn { network: "sites/bravo/networks/lab".parse().unwrap(), hosts: [].into() };
        assert_eq!(plan(&on, &machines, &hooks), []);
    }
}
