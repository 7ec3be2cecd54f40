//! What points of several items share, on the wire.

use std::collections::BTreeSet;

use understudy_ids::ItemName;
use understudy_replication::{Joint, joint::MAX_MEMBERS};

use crate::{duration_from_wire, duration_to_wire, time_from_wire, time_to_wire, v1};

/// # Errors
/// With the field that is missing, malformed or too long.
pub fn joint_from_wire(wire: v1::Joint) -> Result<Joint, &'static str> {
    let v1::Joint { group, instant, members, pause } = wire;
    Ok(Joint {
        group: group.parse().map_err(|_| "group")?,
        instant: instant.and_then(|instant| time_from_wire(instant).ok()).ok_or("instant")?,
        members: members_from_wire(&members).ok_or("members")?,
        pause: pause.and_then(|pause| duration_from_wire(pause).ok()).ok_or("pause")?,
    })
}

pub fn joint_to_wire(joint: Joint) -> v1::Joint {
    let Joint { group, instant, members, pause } = joint;
    v1::Joint {
        group: group.into(),
        instant: Some(time_to_wire(instant)),
        members: members.into_iter().map(String::from).collect(),
        pause: Some(duration_to_wire(pause)),
    }
}

/// Names of a group's items, or `None` when there are too many or one is no name.
pub fn members_from_wire(members: &[String]) -> Option<BTreeSet<ItemName>> {
    (members.len() <= MAX_MEMBERS).then(|| members.iter().map(|m| m.parse().ok()).collect())?
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use understudy_ids::UnixMicros;

    use super::*;

    #[test]
    fn a_joint_comes_back_as_it_was_and_a_bad_one_names_its_field() {
        let joint = Joint {
            group: "shop".parse().unwrap(),
            instant: UnixMicros::new(1_700_000_000_123_456),
            members: ["db1", "web1"].map(|name| name.parse().unwrap()).into(),
            pause: Duration::from_millis(210),
        };
        assert_eq!(joint_from_wire(joint_to_wire(joint.clone())), Ok(joint.clone()));
        let bad = |change: fn(&mut v1::Joint)| {
            let mut wire = joint_to_wire(joint.clone());
            change(&mut wire);
            joint_from_wire(wire).unwrap_err()
        };
        assert_eq!(bad(|wire| wire.group = "../x".to_owned()), "group");
        assert_eq!(bad(|wire| wire.instant = None), "instant");
        assert_eq!(bad(|wire| wire.members.push(String::new())), "members");
        assert_eq!(bad(|wire| wire.members = vec!["a".to_owned(); MAX_MEMBERS + 1]), "members");
        assert_eq!(bad(|wire| wire.pause = None), "pause");
    }
}
