//! What the story's claims are checked against: the product's own words as JSON, files in the stores, journals on the disks.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    Host, HostName, Stack,
    cli::Product,
    command,
    journal::{JournalReport, read_journal},
    machine::Machine,
    probe::{GuestPage, guest_page, wait_until},
};

/// A whole cycle and some: what a point is waited for.
const POINT_LIMIT: Duration = Duration::from_secs(60);

/// A recovery point as `understudy point list` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    pub seq: u64,
    /// Microseconds since 1970.
    pub instant_us: i64,
    pub changed_bytes: u64,
}

/// Points of an item, oldest first.
///
/// # Errors
/// When the orchestrator does not answer.
pub fn points(stack: &impl Product, item: &str) -> Result<Vec<Point>> {
    let listed = stack.cli().json(&["point", "list", item])?;
    let mut points: Vec<Point> = array(&listed)
        .iter()
        .map(|p| {
            Ok(Point {
                seq: number(p, "seq")?,
                instant_us: time_us(&p["instant"])?,
                changed_bytes: number(p, "changed_bytes")?,
            })
        })
        .collect::<Result<_>>()?;
    points.sort_by_key(|p| p.seq);
    Ok(points)
}

/// Waits until the item has a point that is newer than `after_us`, and returns the newest.
///
/// # Errors
/// When none comes.
pub fn point_after(stack: &impl Product, item: &str, after_us: i64) -> Result<Point> {
    let what = format!("a new recovery point of {item}");
    wait_until(&what, POINT_LIMIT, || {
        Ok(points(stack, item)?.pop().filter(|newest| newest.instant_us > after_us))
    })
    .map(|(point, _)| point)
}

/// Waits until the item has at least `count` points.
///
/// # Errors
/// When they do not come.
pub fn at_least_points(stack: &impl Product, item: &str, count: usize) -> Result<Vec<Point>> {
    let what = format!("{count} recovery points of {item}");
    wait_until(&what, POINT_LIMIT, || Ok(Some(points(stack, item)?).filter(|p| p.len() >= count)))
        .map(|(points, _)| points)
}

/// The files of a point on this host, in the order of the machine's disks.
pub fn point_files(host: &Host, machine: &Machine, seq: u64) -> Vec<PathBuf> {
    files_in_store(&host.store(), machine, seq)
}

/// The files of a point in this store, in the order of the machine's disks.
pub fn files_in_store(store: &Path, machine: &Machine, seq: u64) -> Vec<PathBuf> {
    let point = store.join("items").join(&machine.name).join("points").join(seq.to_string());
    (b'a'..)
        .take(machine.disks as usize)
        .map(|letter| point.join(format!("disk-vd{}.qcow2", char::from(letter))))
        .collect()
}

/// The files that the machine runs from on this host, as its hypervisor says.
///
/// # Errors
/// When the host does not have the machine.
pub fn machine_files(host: &Host, machine: &Machine) -> Result<Vec<PathBuf>> {
    let listed = host.virsh(["domblklist", &machine.name])?;
    let files: Vec<PathBuf> =
        listed.lines().filter_map(|line| line.split_whitespace().nth(1)).map(PathBuf::from).collect();
    ensure!(files.len() == machine.disks as usize, "{} has the disks {files:?}", machine.name);
    Ok(files)
}

/// The journal on these images, which must be whole.
///
/// # Errors
/// When a record is missing in the middle or torn.
pub fn whole_journal(files: &[PathBuf]) -> Result<JournalReport> {
    let report = read_journal(files)?;
    ensure!(
        report.is_whole(),
        "the journal is damaged: missing {:?}, torn {:?}",
        report.missing,
        report.torn
    );
    Ok(report)
}

/// `qemu-img check` finds nothing wrong.
///
/// # Errors
/// When it does.
pub fn qemu_img_check(file: &Path) -> Result<()> {
    command::output(command::new("qemu-img").args(["check", "-U", "-q"]).arg(file)).map(drop)
}

/// The newest run of an item.
///
/// # Errors
/// When there is none.
pub fn newest_run(stack: &impl Product, item: &str) -> Result<Value> {
    let runs = stack.cli().json(&["run", "list", "--item", item])?;
    let name = array(&runs).first().map(|run| text(run, "name")).context("the item has no run")?;
    stack.cli().json(&["run", "show", &name])
}

/// What a run says of one item.
///
/// # Errors
/// When it says nothing.
pub fn outcome<'a>(run: &'a Value, item: &str) -> Result<&'a Value> {
    array(&run["outcomes"])
        .iter()
        .find(|o| o["item"] == item)
        .with_context(|| format!("the run says nothing of {item}"))
}

/// The page that the machine shows on its host's production network, when it has written records in this boot.
///
/// # Errors
/// When it does not answer within a minute.
pub fn answers(stack: &Stack, host: HostName, machine: &Machine) -> Result<GuestPage> {
    stack.lab().host(host).wait_answers(machine, Duration::from_secs(60)).map(|(page, _)| page)
}

/// Whether anything answers at the machine's address on the host's production network right now.
///
/// # Errors
/// When the machine has no address of its own.
pub fn is_silent(stack: &Stack, host: HostName, machine: &Machine) -> Result<bool> {
    let address = machine.address().context("no reserved address")?;
    Ok(guest_page(&stack.lab().host(host).namespace(), address, Duration::from_secs(1)).is_err())
}

/// The item as `understudy item show` tells it.
///
/// # Errors
/// When the orchestrator does not answer.
pub fn item(stack: &impl Product, name: &str) -> Result<Value> {
    stack.cli().json(&["item", "show", name])
}

/// Waits until the item is in `state` and active at `host`.
///
/// # Errors
/// When that does not come about.
pub fn item_is(stack: &impl Product, name: &str, state: &str, host: HostName) -> Result<String> {
    let active = crate::stack::resource(host);
    let what = format!("{name} to be {state} and active at {active}");
    wait_until(&what, POINT_LIMIT, || {
        let now = item(stack, name)?;
        let there = now["state"] == state && now["active_host"] == active.as_str();
        Ok(there.then(|| format!("{state}, active at {active}, generation {}", now["generation"])))
    })
    .map(|(said, _)| said)
}

pub fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

pub fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}

/// # Errors
/// When the field is not a number.
pub fn number(value: &Value, field: &str) -> Result<u64> {
    value[field].as_u64().with_context(|| format!("{field} is {}", value[field]))
}

/// # Errors
/// When the value is no time.
pub fn time_us(value: &Value) -> Result<i64> {
    let text = value.as_str().with_context(|| format!("{value} is not a time"))?;
    let time: jiff::Timestamp = text.parse()?;
    Ok(time.as_microsecond())
}
