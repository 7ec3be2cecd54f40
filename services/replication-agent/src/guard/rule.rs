//! The rule itself: facts in, verdict and its reason out.
//!
//! | tag | ledger | store | may start |
//! |---|---|---|---|
//! | none | – | – | yes: not ours |
//! | test | – | – | yes: it has no production network |
//! | active | unreadable or missing | – | no |
//! | active | not source | – | no |
//! | active | source at another generation | – | no |
//! | active | source, not confirmed at it since the boot | – | no |
//! | active | source, confirmed, its activation lease has ended | – | no |
//! | active | source, confirmed | higher generation, or stand-by | no |
//! | active | source, confirmed | agrees, or nothing | yes |

use understudy_hypervisor::{MachineTag, TagRole};
use understudy_replica_store::{GenerationRecord, Role as StoreRole};

use crate::ledger::ItemRecord;

/// What is known of the tag's item on this host.
#[derive(Debug, Clone)]
pub struct Facts {
    pub record: Option<ItemRecord>,
    pub store: Option<GenerationRecord>,
    pub boot_id: String,
    /// The machine is bound by an activation lease at the tag's generation, and that has ended.
    pub lease_ended: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    MayStart,
    /// With the reason, for the operator who tried.
    Refused(String),
}

/// `facts` is asked for only when the tag alone does not decide; its error is a reason to refuse.
pub fn decide(tag: Option<&MachineTag>, facts: impl FnOnce() -> Result<Facts, String>) -> Verdict {
    let Some(tag) = tag.filter(|tag| tag.role == TagRole::Active) else { return Verdict::MayStart };
    match facts().and_then(|facts| active(tag, &facts)) {
        Ok(()) => Verdict::MayStart,
        Err(why) => Verdict::Refused(format!("{why}. Fail the item over, or start it through Understudy")),
    }
}

fn active(tag: &MachineTag, facts: &Facts) -> Result<(), String> {
    let record =
        facts.record.as_ref().ok_or_else(|| format!("this host's agent knows nothing of {}", tag.item))?;
    record.may_run(tag.generation, &facts.boot_id)?;
    if facts.lease_ended {
        return Err(format!(
            "the activation lease of {} has ended: the control plane has not been heard for too long, and the other side may have taken over",
            tag.item
        ));
    }
    match facts.store {
        Some(store) if store.highest > tag.generation => {
            Err(format!("the replica store has seen generation {} of {}", store.highest, tag.item))
        }
        Some(store) if store.highest == tag.generation && store.role != StoreRole::Active => Err(format!(
            "the replica store says that {} is a stand-by here at generation {}",
            tag.item, store.highest
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use understudy_ids::Generation;

    use super::*;
    use crate::ledger::{Confirmation, Role};

    fn tag(role: TagRole) -> MachineTag {
        MachineTag { item: "web1".parse().unwrap(), generation: Generation::new(3), role }
    }

    fn record(role: Role, generation: u64, confirmed: Option<(u64, &str)>) -> Option<ItemRecord> {
        let confirmed = confirmed
            .map(|(g, boot)| Confirmation { generation: Generation::new(g), boot_id: boot.to_owned() });
        Some(ItemRecord {
            item: "web1".parse().unwrap(),
            generation: Generation::new(generation),
            role,
            confirmed,
            assignment: None,
            disks: Vec::new(),
            sender: None,
            retention: Default::default(),
        })
    }

    const fn store(highest: u64, role: StoreRole) -> Option<GenerationRecord> {
        Some(GenerationRecord { highest: Generation::new(highest), role })
    }

    /// R-FO-7, row by row.
    #[test]
    fn the_table_is_what_the_rule_does() {
        let now = Some((3, "boot-2"));
        let ended = Facts {
            record: record(Role::Source, 3, now),
            store: None,
            boot_id: "boot-2".to_owned(),
            lease_ended: true,
        };
        assert!(
            matches!(decide(Some(&tag(TagRole::Active)), || Ok(ended)), Verdict::Refused(why) if why.contains("lease"))
        );
        let rows = [
            ("confirmed", record(Role::Source, 3, now), None, true),
            ("the store agrees", record(Role::Source, 3, now), store(3, StoreRole::Active), true),
            ("the store is behind", record(Role::Source, 3, now), store(2, StoreRole::Standby), true),
            ("nothing known", None, None, false),
            ("target", record(Role::Target, 3, now), None, false),
            ("fenced", record(Role::Fenced, 3, now), None, false),
            ("superseded", record(Role::Source, 4, Some((4, "boot-2"))), None, false),
            ("tag ahead of the ledger", record(Role::Source, 2, Some((2, "boot-2"))), None, false),
            ("never confirmed", record(Role::Source, 3, None), None, false),
            ("confirmed before the boot", record(Role::Source, 3, Some((3, "boot-1"))), None, false),
            ("confirmed at an older generation", record(Role::Source, 3, Some((2, "boot-2"))), None, false),
            ("the store has seen more", record(Role::Source, 3, now), store(4, StoreRole::Active), false),
            ("the store says stand-by", record(Role::Source, 3, now), store(3, StoreRole::Standby), false),
        ];
        for (name, record, store, may) in rows {
            let facts = Facts { record, store, boot_id: "boot-2".to_owned(), lease_ended: false };
            let verdict = decide(Some(&tag(TagRole::Active)), || Ok(facts));
            assert_eq!(verdict == Verdict::MayStart, may, "{name}: {verdict:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_refuses_and_what_is_not_ours_or_a_test_is_not_even_looked_up() {
        let unreadable = || Err("disk error".to_owned());
        assert!(matches!(decide(Some(&tag(TagRole::Active)), unreadable), Verdict::Refused(_)));
        let run = uuid::Uuid::nil();
        assert_eq!(decide(Some(&tag(TagRole::Test { run })), unreadable), Verdict::MayStart);
        assert_eq!(decide(None, unreadable), Verdict::MayStart);
    }
}
