//! Consistency groups.

use understudy_recovery_api::{
    RecoveryClient,
    request::{ChangeGroup, CreateGroup, DeleteGroup},
    view::ConsistencyGroup,
};

use super::{all, request_id};
use crate::{
    args::Group,
    output::{self, Format},
};

pub async fn run(client: &RecoveryClient, format: Format, verb: Group) -> anyhow::Result<()> {
    let group = match verb {
        Group::List => {
            let groups = all(usize::MAX, |page| client.list_groups(page)).await?;
            return output::print(format, &groups, || table(&groups));
        }
        Group::Delete { group } => {
            client.delete_group(DeleteGroup { group, request_id: request_id() }).await?;
            output::say("its items go on with points of their own");
            return Ok(());
        }
        Group::Show { group } => client.get_group(&group).await?,
        Group::Create { group, items } => {
            let items = items.into_iter().collect();
            client.create_group(CreateGroup { group, items, request_id: request_id() }).await?
        }
        Group::Add { group, items } => {
            let (add, remove) = (items.into_iter().collect(), Default::default());
            client.change_group(ChangeGroup { group, add, remove, request_id: request_id() }).await?
        }
        Group::Remove { group, items } => {
            let (add, remove) = (Default::default(), items.into_iter().collect());
            client.change_group(ChangeGroup { group, add, remove, request_id: request_id() }).await?
        }
    };
    output::print(format, &group, || details(&group))
}

fn table(groups: &[ConsistencyGroup]) -> comfy_table::Table {
    output::rows(["GROUP", "ITEMS", "LAST INSTANT", "PAUSE", "INSTANTS", "LAST ROUND"], groups, |group| {
        [
            group.name.to_string(),
            items(group),
            last(group),
            pause(group),
            group.complete.to_string(),
            group.missed.as_ref().map_or_else(String::new, |missed| missed.reason.clone()),
        ]
    })
}

fn details(group: &ConsistencyGroup) -> comfy_table::Table {
    let mut facts = vec![
        ("group", group.name.to_string()),
        ("items", items(group)),
        ("created", output::time(group.create_time)),
        ("last instant of all", last(group)),
        ("guests were stopped for", pause(group)),
        ("instants that are complete", group.complete.to_string()),
    ];
    if let Some(missed) = &group.missed {
        facts.push(("the last round", missed.message.clone()));
        facts.push(("what to do", missed.remedy.clone()));
    }
    output::facts(&facts)
}

fn items(group: &ConsistencyGroup) -> String {
    group.items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn last(group: &ConsistencyGroup) -> String {
    group.last.as_ref().map_or_else(|| "none".to_owned(), |joint| output::time(joint.instant))
}

fn pause(group: &ConsistencyGroup) -> String {
    group.last.as_ref().map_or_else(String::new, |joint| format!("{} ms", joint.pause.as_millis()))
}
