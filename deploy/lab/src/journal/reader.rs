//! Reads the journals off disk images and judges them.
//!
//! ```text
//!   image 0 ─┐ qemu-img dd, journal area only     ┌─▶ records first..=last
//!   image 1 ─┴──────────▶ slots ──▶ judge ────────┼─▶ missing ranges in between
//!                                                 └─▶ torn slots
//! ```
//!
//! The promise: `missing` is empty exactly if each number from `first` to `last` is whole on the disk where it belongs.
//! As the guest makes record n durable before it begins n+1, a set of images of one instant has no gap, and a gap between
//! two disks of one machine means that they were cut at different instants.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    path::Path,
};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use super::record::{self, JOURNAL_BYTES, JOURNAL_OFFSET, RECORD_BYTES, Record, SLOTS, Slot};
use crate::command;

/// What the disks of one machine tell about what it wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JournalReport {
    /// Lowest number still held; older ones may have been overwritten. 0 if there is none.
    pub first: u64,
    /// Highest number held. 0 if there is none.
    pub last: u64,
    /// How many whole records lie between `first` and `last`.
    pub records: u64,
    /// Numbers between `first` and `last` that no disk holds.
    pub missing: Vec<RangeInclusive<u64>>,
    /// Slots that hold something that is no whole record.
    pub torn: Vec<TornSlot>,
    /// When the last record was written, in microseconds since 1970 by the guest's clock; 0 if there is none.
    pub last_time_us: u64,
    /// The boots that wrote the records, oldest first, each with the numbers it wrote.
    pub boots: Vec<Boot>,
}

/// One run of the guest from boot to end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Boot {
    /// The kernel's boot id as it prints it.
    pub id: String,
    /// First and last record of this boot.
    pub first: u64,
    /// Last record of this boot.
    pub last: u64,
    /// Time of its first record, microseconds since 1970 by the guest's clock.
    pub first_time_us: u64,
    /// Time of its last record.
    pub last_time_us: u64,
}

/// A damaged slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TornSlot {
    /// Which disk, from 0.
    pub disk: u32,
    /// Which slot of that disk's journal, from 0.
    pub slot: u64,
    /// It is where the record after the last would be: a write that was under way when the image was cut, never
    /// acknowledged to the guest, and so not a loss.
    pub in_flight: bool,
}

impl JournalReport {
    /// Nothing is missing in the middle and nothing is damaged but, at most, the write under way at the cut.
    pub fn is_whole(&self) -> bool {
        self.last > 0 && self.missing.is_empty() && self.torn.iter().all(|torn| torn.in_flight)
    }
}

/// Reads the journals of one machine's disks, given in the order of the machine.
///
/// Images may be raw or qcow2 with any chain of backing files. No lock is taken, so it works on a point while others read
/// it; of an image that a running guest has open for writing the result is not meaningful.
///
/// # Errors
/// When an image cannot be read, or the images do not belong together in this order.
pub fn read_journal(disks: &[impl AsRef<Path>]) -> Result<JournalReport> {
    let areas = disks.iter().map(|disk| read_area(disk.as_ref())).collect::<Result<Vec<_>>>()?;
    judge(&areas)
}

fn read_area(image: &Path) -> Result<Vec<u8>> {
    const BLOCK: u64 = 1 << 20;
    let copy = tempfile::NamedTempFile::new().context("no room for a copy of the journal")?;
    let operand = |name: &str, path: &Path| {
        let mut operand = std::ffi::OsString::from(name);
        operand.push(path);
        operand
    };
    command::output(
        command::new("qemu-img")
            .args(["dd", "-U", "-O", "raw"])
            .args([format!("bs={BLOCK}"), format!("skip={}", JOURNAL_OFFSET / BLOCK)])
            .arg(format!("count={}", (JOURNAL_OFFSET + JOURNAL_BYTES) / BLOCK))
            .arg(operand("if=", image))
            .arg(operand("of=", copy.path())),
    )
    .with_context(|| format!("cannot read the journal from {}", image.display()))?;
    let area = std::fs::read(copy.path())?;
    ensure!(
        area.len() as u64 == JOURNAL_BYTES,
        "{} is too small to be a disk of a lab guest: its journal area has {} of {JOURNAL_BYTES} bytes",
        image.display(),
        area.len()
    );
    Ok(area)
}

/// Judges the journal areas of one machine's disks, each [`JOURNAL_BYTES`] long.
///
/// # Errors
/// When records say that they belong to another disk or to another number of disks.
pub fn judge(areas: &[Vec<u8>]) -> Result<JournalReport> {
    let disks = u32::try_from(areas.len()).context("too many disks")?;
    let mut records = BTreeMap::new();
    let mut torn = BTreeSet::new();
    for (disk, area) in (0..).zip(areas) {
        for (slot, bytes) in (0..).zip(area.chunks_exact(RECORD_BYTES)) {
            match record::decode(bytes) {
                Slot::Blank => {}
                Slot::Torn => drop(torn.insert((disk, slot))),
                Slot::Valid(record) => {
                    check_place(&record, disk, slot, disks)?;
                    records.insert(record.number, record);
                }
            }
        }
    }
    Ok(report(records, torn, disks))
}

fn check_place(record: &Record, disk: u32, slot: u64, disks: u32) -> Result<()> {
    if (record.disk, record.disks) != (disk, disks) {
        bail!(
            "record {} belongs to disk {} of {}, but was found on disk {disk} of {disks}: pass all disks of one machine in its order",
            record.number,
            record.disk,
            record.disks
        );
    }
    let belongs = record::place(record.number, disks);
    let found = (disk, JOURNAL_OFFSET + slot * RECORD_BYTES as u64);
    ensure!(
        belongs == found,
        "record {} lies in slot {slot} of disk {disk}, where it does not belong",
        record.number
    );
    Ok(())
}

fn report(mut records: BTreeMap<u64, Record>, torn: BTreeSet<(u32, u64)>, disks: u32) -> JournalReport {
    let last = records.last_key_value().map_or(0, |(number, _)| *number);
    // What the ring has no room for any more is no loss, also where one disk has not overwritten it yet.
    records = records.split_off(&(last + 1).saturating_sub(SLOTS * u64::from(disks)));
    let first = records.first_key_value().map_or(0, |(number, _)| *number);
    let next = record::place(last + 1, disks);
    JournalReport {
        first,
        last,
        records: records.len() as u64,
        missing: missing(records.keys().copied()),
        torn: torn
            .into_iter()
            .map(|(disk, slot)| TornSlot {
                disk,
                slot,
                in_flight: next == (disk, JOURNAL_OFFSET + slot * RECORD_BYTES as u64),
            })
            .collect(),
        last_time_us: records.get(&last).map_or(0, |record| record.time_us),
        boots: boots(records.values()),
    }
}

fn missing(numbers: impl Iterator<Item = u64>) -> Vec<RangeInclusive<u64>> {
    let mut gaps = Vec::new();
    let mut before: Option<u64> = None;
    for number in numbers {
        if let Some(before) = before.filter(|before| before + 1 < number) {
            gaps.push(before + 1..=number - 1);
        }
        before = Some(number);
    }
    gaps
}

fn boots<'a>(records: impl Iterator<Item = &'a Record>) -> Vec<Boot> {
    let mut boots: Vec<Boot> = Vec::new();
    for record in records {
        let id = boot_id(&record.boot);
        match boots.last_mut().filter(|boot| boot.id == id) {
            Some(boot) => (boot.last, boot.last_time_us) = (record.number, record.time_us),
            None => boots.push(Boot {
                id,
                first: record.number,
                last: record.number,
                first_time_us: record.time_us,
                last_time_us: record.time_us,
            }),
        }
    }
    boots
}

fn boot_id(bytes: &[u8; 16]) -> String {
    let hex = format!("{:032x}", u128::from_be_bytes(*bytes));
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The journal areas of a machine that has written records 1 to `last`.
    fn written(disks: u32, last: u64) -> Vec<Vec<u8>> {
        let mut areas = vec![vec![0; JOURNAL_BYTES as usize]; disks as usize];
        for number in last.saturating_sub(SLOTS * u64::from(disks)) + 1..=last {
            write(&mut areas, number, [u8::from(number > 50); 16]);
        }
        areas
    }

    fn write(areas: &mut [Vec<u8>], number: u64, boot: [u8; 16]) {
        let disks = areas.len() as u32;
        let disk = record::place(number, disks).0;
        let record = Record { number, time_us: number * 100_000, boot, disk, disks };
        record::encode(&record, slot(areas, number));
    }

    fn slot(areas: &mut [Vec<u8>], number: u64) -> &mut [u8] {
        let (disk, offset) = record::place(number, areas.len() as u32);
        let at = (offset - JOURNAL_OFFSET) as usize;
        &mut areas[disk as usize][at..at + RECORD_BYTES]
    }

    #[test]
    fn a_journal_of_two_disks_is_read_as_one() {
        let report = judge(&written(2, 101)).expect("readable");
        assert!(report.is_whole());
        assert_eq!(
            (report.first, report.last, report.records, report.last_time_us),
            (1, 101, 101, 10_100_000)
        );
        let spans: Vec<_> = report.boots.iter().map(|boot| (boot.first, boot.last)).collect();
        assert_eq!(spans, [(1, 50), (51, 101)]);
    }

    #[test]
    fn disks_cut_at_different_instants_show_as_a_gap() {
        let (early, late) = (written(2, 90), written(2, 101));
        let report = judge(&[early[0].clone(), late[1].clone()]).expect("readable");
        assert_eq!(report.missing, [92..=92, 94..=94, 96..=96, 98..=98, 100..=100]);
        assert!(!report.is_whole());
    }

    #[test]
    fn a_torn_record_in_the_middle_is_missing_and_torn() {
        let mut areas = written(1, 100);
        slot(&mut areas, 60)[2048..].fill(0);
        let report = judge(&areas).expect("readable");
        assert_eq!(report.missing, [60..=60]);
        assert_eq!(report.torn, [TornSlot { disk: 0, slot: 60, in_flight: false }]);
        assert!(!report.is_whole());
    }

    #[test]
    fn half_of_an_older_record_does_not_pass_for_a_whole_one() {
        let mut areas = written(1, 100);
        let newer = slot(&mut areas, 100)[..2048].to_vec();
        slot(&mut areas, 99)[..2048].copy_from_slice(&newer);
        assert_eq!(judge(&areas).expect("readable").missing, [99..=99]);
    }

    #[test]
    fn a_write_under_way_at_the_cut_is_no_loss() {
        let mut areas = written(2, 100);
        write(&mut areas, 101, [9; 16]);
        slot(&mut areas, 101)[4000..].fill(0);
        let report = judge(&areas).expect("readable");
        assert_eq!(report.last, 100);
        assert_eq!(report.torn.len(), 1);
        assert!(report.is_whole());
    }

    #[test]
    fn a_ring_that_went_round_has_no_gap() {
        let last = 2 * SLOTS + 77;
        let mut areas = written(2, last);
        // The next write is under way and has destroyed the oldest record.
        slot(&mut areas, last + 1)[..512].fill(1);
        let report = judge(&areas).expect("readable");
        assert!(report.is_whole(), "{:?} {:?}", report.missing, report.torn);
        assert_eq!((report.first, report.last), (last + 2 - 2 * SLOTS, last));
    }

    #[test]
    fn a_journal_is_read_through_a_chain_of_images() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        let mut disk = vec![0; JOURNAL_OFFSET as usize];
        disk.extend(written(1, 70).remove(0));
        std::fs::write(path("raw"), &disk).expect("written");
        let qemu_img = |args: &[&str]| {
            command::output(command::new("qemu-img").args(args).current_dir(directory.path()))
        };
        qemu_img(&["convert", "-f", "raw", "-O", "qcow2", "raw", "point.qcow2"]).expect("converted");
        qemu_img(&["create", "-q", "-f", "qcow2", "-b", "point.qcow2", "-F", "qcow2", "top.qcow2"])
            .expect("created");
        let report = read_journal(&[path("top.qcow2")]).expect("readable");
        assert!(report.is_whole());
        assert_eq!((report.first, report.last, report.boots.len()), (1, 70, 2));
        assert!(read_journal(&[path("absent.qcow2")]).is_err());
    }

    #[test]
    fn disks_in_the_wrong_order_are_refused() {
        let mut areas = written(2, 10);
        areas.swap(0, 1);
        assert!(judge(&areas).is_err());
        assert!(judge(&written(2, 10)[..1]).is_err());
    }

    #[test]
    fn an_empty_journal_is_not_whole() {
        let report = judge(&written(1, 0)).expect("readable");
        assert_eq!((report.first, report.last, report.records), (0, 0, 0));
        assert!(!report.is_whole());
    }
}
