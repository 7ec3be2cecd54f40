//! Requests about consistency groups (R-REP-12).

use std::collections::BTreeSet;

use understudy_ids::{GroupName, ItemName};
use understudy_replication::joint::MAX_MEMBERS;

use crate::{
    Resource,
    check::{Checks, Invalid},
    names::RequestId,
    v1,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateGroup {
    pub group: GroupName,
    pub items: BTreeSet<ItemName>,
    pub request_id: RequestId,
}

impl CreateGroup {
    /// # Errors
    /// With every field that is missing or malformed.
    pub fn from_wire(wire: v1::CreateConsistencyGroupRequest) -> Result<Self, Invalid> {
        let v1::CreateConsistencyGroupRequest { group_id, items: named, request_id } = wire;
        let mut checks = Checks::default();
        let group = checks.parse("group_id", &group_id);
        let items = items(&mut checks, "items", &named);
        let request_id = checks.request_id(&request_id);
        let whole = (|| Some(Self { group: group?, items, request_id: request_id? }))();
        checks.finish(whole)
    }

    pub fn into_wire(self) -> v1::CreateConsistencyGroupRequest {
        let Self { group, items, request_id } = self;
        v1::CreateConsistencyGroupRequest {
            group_id: group.to_string(),
            items: items.iter().map(Resource::to_resource).collect(),
            request_id: request_id.to_string(),
        }
    }
}

/// Items come in, others go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeGroup {
    pub group: GroupName,
    pub add: BTreeSet<ItemName>,
    pub remove: BTreeSet<ItemName>,
    pub request_id: RequestId,
}

impl ChangeGroup {
    /// # Errors
    /// With every field that is missing or malformed.
    pub fn from_wire(wire: v1::ChangeConsistencyGroupRequest) -> Result<Self, Invalid> {
        let v1::ChangeConsistencyGroupRequest { name, add, remove, request_id } = wire;
        let mut checks = Checks::default();
        let group = checks.resource("name", &name);
        let (add, remove) = (items(&mut checks, "add", &add), items(&mut checks, "remove", &remove));
        let request_id = checks.request_id(&request_id);
        let whole = (|| Some(Self { group: group?, add, remove, request_id: request_id? }))();
        checks.finish(whole)
    }

    pub fn into_wire(self) -> v1::ChangeConsistencyGroupRequest {
        let Self { group, add, remove, request_id } = self;
        v1::ChangeConsistencyGroupRequest {
            name: group.to_resource(),
            add: add.iter().map(Resource::to_resource).collect(),
            remove: remove.iter().map(Resource::to_resource).collect(),
            request_id: request_id.to_string(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteGroup {
    pub group: GroupName,
    pub request_id: RequestId,
}

impl DeleteGroup {
    /// # Errors
    /// With every field that is missing or malformed.
    pub fn from_wire(wire: v1::DeleteConsistencyGroupRequest) -> Result<Self, Invalid> {
        let v1::DeleteConsistencyGroupRequest { name, request_id } = wire;
        let mut checks = Checks::default();
        let group = checks.resource("name", &name);
        let request_id = checks.request_id(&request_id);
        let whole = (|| Some(Self { group: group?, request_id: request_id? }))();
        checks.finish(whole)
    }

    pub fn into_wire(self) -> v1::DeleteConsistencyGroupRequest {
        let Self { group, request_id } = self;
        v1::DeleteConsistencyGroupRequest { name: group.to_resource(), request_id: request_id.to_string() }
    }
}

fn items(checks: &mut Checks, field: &str, names: &[String]) -> BTreeSet<ItemName> {
    checks.at_most(field, names, MAX_MEMBERS);
    let named = names.iter().take(MAX_MEMBERS).enumerate();
    named.filter_map(|(index, name)| checks.resource(format_args!("{field}[{index}]"), name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_come_back_as_they_went_out_and_bad_ones_name_every_field() {
        let change = ChangeGroup {
            group: "shop".parse().unwrap(),
            add: ["db1".parse().unwrap()].into(),
            remove: ["web1".parse().unwrap()].into(),
            request_id: "r1".parse().unwrap(),
        };
        assert_eq!(ChangeGroup::from_wire(change.clone().into_wire()).unwrap(), change);
        let create = CreateGroup {
            group: "shop".parse().unwrap(),
            items: ["db1".parse().unwrap()].into(),
            request_id: "r1".parse().unwrap(),
        };
        assert_eq!(CreateGroup::from_wire(create.clone().into_wire()).unwrap(), create);
        let bad = v1::ChangeConsistencyGroupRequest {
            name: "shop".to_owned(),
            add: vec!["db1".to_owned()],
            remove: vec!["protectedItems/x".to_owned(); MAX_MEMBERS + 1],
            request_id: String::new(),
        };
        let told = format!("{:?}", ChangeGroup::from_wire(bad).unwrap_err());
        for field in ["name", "add[0]", "remove", "request_id"] {
            assert!(told.contains(field), "{field} in {told}");
        }
    }
}
