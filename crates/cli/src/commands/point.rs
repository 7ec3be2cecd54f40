use understudy_recovery_api::{RecoveryClient, view::RecoveryPoint};

use super::all;
use crate::{
    args::Point,
    output::{self, Format},
};

pub async fn run(client: &RecoveryClient, format: Format, verb: Point) -> anyhow::Result<()> {
    let Point::List { item } = verb;
    let points = all(usize::MAX, |page| client.list_points(&item, page)).await?;
    output::print(format, &points, || {
        output::rows(
            ["POINT", "INSTANT", "CONSISTENCY", "RECEIVED", "CHANGED", "IN USE", "DAMAGED BLOCKS", "GROUP"],
            &points,
            |p: &RecoveryPoint| {
                [
                    p.seq.to_string(),
                    output::time(p.instant),
                    consistency(p),
                    output::time(p.received),
                    output::bytes(p.changed_bytes),
                    if p.in_use { "yes" } else { "" }.to_owned(),
                    if p.damaged_blocks > 0 { p.damaged_blocks.to_string() } else { String::new() },
                    group(p),
                ]
            },
        )
    })
}

/// With the time that it cost the guest.
fn consistency(point: &RecoveryPoint) -> String {
    match point.frozen {
        Some(frozen) => format!("{}, frozen {} ms", point.consistency, frozen.as_millis()),
        None => point.consistency.to_string(),
    }
}

/// The group whose instant it is, with the time that it cost the guests.
fn group(point: &RecoveryPoint) -> String {
    let joint = point.joint.as_ref();
    joint.map_or_else(String::new, |joint| format!("{}, stopped {} ms", joint.group, joint.pause.as_millis()))
}
