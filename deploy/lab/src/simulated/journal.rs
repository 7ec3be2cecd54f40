//! Reads the records of a simulated machine off its disks' files, without the driver that wrote them and without QEMU.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Context, Result, bail, ensure};
use understudy_hypervisor::simulated::journal::{Record, SECTOR};
use understudy_replica_store::qcow2::{CLUSTER, Chain};

/// The records on a machine's disks: each from number 0 to the last, whole and where it belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Journal {
    pub last: u64,
    /// When the last was written, in microseconds since 1970.
    pub last_time_us: i64,
}

/// The journal on these images, given in the order of the machine's disks, which must be whole.
///
/// # Errors
/// When a record is missing, torn or misplaced, or a file of the images' chains cannot be read.
pub(super) fn whole_journal(files: &[PathBuf]) -> Result<Journal> {
    let mut records = BTreeMap::new();
    for (disk, file) in (0..).zip(files) {
        let mut chain = Chain::open(file)?;
        let size = chain.size();
        let mut content = vec![0; CLUSTER as usize];
        for start in (size / 2..size).step_by(CLUSTER as usize) {
            let length = (size - start).min(CLUSTER) as usize;
            chain.read(start, &mut content[..length])?;
            for (sector, at) in content[..length].chunks_exact(SECTOR as usize).zip((start..).step_by(512)) {
                let Some(record) = decode(sector).with_context(|| format!("{} at {at}", file.display()))?
                else {
                    continue;
                };
                let disks = files.len() as u64;
                ensure!(
                    (record.number % disks, Record::offset(record.number, disks, size)) == (disk, at),
                    "record {} does not belong on disk {disk} at {at}",
                    record.number
                );
                records.insert(record.number, record.written_at.get());
            }
        }
    }
    let (&last, &last_time_us) = records.last_key_value().context("there is no record")?;
    // The simulation ends long before a ring of records has gone round.
    if let Some(missing) = (0..last).find(|number| !records.contains_key(number)) {
        bail!("record {missing} is missing, the last is {last}");
    }
    Ok(Journal { last, last_time_us })
}

/// `None` where nothing was ever written.
fn decode(sector: &[u8]) -> Result<Option<Record>> {
    if sector.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    Record::decode(sector).map(Some).context("torn record")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use understudy_ids::UnixMicros;
    use understudy_replica_store::qcow2::Writer;

    use super::*;

    const SIZE: u64 = 8 * CLUSTER;

    /// Two disks with these records.
    fn disks(directory: &Path, numbers: &[u64]) -> Vec<PathBuf> {
        (0..2)
            .map(|disk| {
                let mut content = vec![0; SIZE as usize];
                for number in numbers.iter().copied().filter(|number| number % 2 == disk) {
                    let record = Record { number, written_at: UnixMicros::new(number as i64 * 10) };
                    let at = Record::offset(number, 2, SIZE) as usize;
                    content[at..at + SECTOR as usize].copy_from_slice(&record.encode());
                }
                let file = directory.join(format!("{disk}.qcow2"));
                let mut writer = Writer::create(&file, SIZE, None).expect("created");
                for (cluster, part) in (0..).zip(content.chunks_exact(CLUSTER as usize)) {
                    writer.write(cluster, part).expect("written");
                }
                writer.finish().expect("finished");
                file
            })
            .collect()
    }

    #[test]
    fn a_gap_a_tear_and_disks_in_the_wrong_order_are_seen() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut files = disks(directory.path(), &[0, 1, 2, 3, 4]);
        assert_eq!(whole_journal(&files).expect("whole"), Journal { last: 4, last_time_us: 40 });
        files.reverse();
        assert!(whole_journal(&files).is_err(), "disks in the wrong order");
        let files = disks(directory.path(), &[0, 1, 2, 4, 5]);
        assert!(whole_journal(&files).is_err(), "record 3 is missing");
        assert!(whole_journal(&disks(directory.path(), &[])).is_err(), "no record");
    }

    #[test]
    fn a_torn_record_is_an_error() {
        let mut sector = Record { number: 7, written_at: UnixMicros::new(1) }.encode();
        sector[30] ^= 1;
        assert!(decode(&sector).is_err());
        assert_eq!(decode(&[0; 512]).expect("blank"), None);
    }
}
