//! What a simulated guest writes: numbered, checksummed, time-stamped records, so that what a copy of its disks holds can
//! be counted.
//!
//! Record *n* is one sector on disk *n* modulo the number of disks, in the second half of the disk, round and round. A copy
//! whose disks are not of one instant shows a later record on one disk while an earlier one is missing on another. A machine
//! that starts goes on after the last record that its disks hold.

use std::time::{Duration, SystemTime};

use understudy_ids::{MachineName, UnixMicros};

use super::SimulatedHypervisor;

pub const SECTOR: u64 = 512;
const MAGIC: &[u8; 8] = b"USJRNL01";
/// Magic, number and time; the checksum follows.
const SIGNED: usize = 24;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    pub number: u64,
    pub written_at: UnixMicros,
}

impl Record {
    pub fn encode(&self) -> [u8; SECTOR as usize] {
        let mut sector = [0; SECTOR as usize];
        sector[..8].copy_from_slice(MAGIC);
        sector[8..16].copy_from_slice(&self.number.to_be_bytes());
        sector[16..SIGNED].copy_from_slice(&self.written_at.get().to_be_bytes());
        let checksum = blake3::hash(&sector[..SIGNED]);
        sector[SIGNED..SIGNED + 32].copy_from_slice(checksum.as_bytes());
        sector
    }

    /// The record in a sector; `None` where there is none, or a torn one.
    pub fn decode(sector: &[u8]) -> Option<Self> {
        if !sector.starts_with(MAGIC) {
            return None;
        }
        let number = sector.get(8..16)?.try_into().ok()?;
        let written_at = sector.get(16..SIGNED)?.try_into().ok()?;
        let whole = sector.get(SIGNED..SIGNED + 32)? == blake3::hash(&sector[..SIGNED]).as_bytes();
        let record = Self {
            number: u64::from_be_bytes(number),
            written_at: UnixMicros::new(i64::from_be_bytes(written_at)),
        };
        whole.then_some(record)
    }

    /// Where record `number` lies on a disk of `size` bytes, of `disks` disks.
    pub fn offset(number: u64, disks: u64, size: u64) -> u64 {
        let sectors = (size / 2 / SECTOR).max(1);
        size / 2 + (number / disks.max(1) % sectors) * SECTOR
    }
}

/// Writes records from number `next` on to a running machine until it stops.
pub(super) async fn keep(
    hypervisor: SimulatedHypervisor,
    machine: MachineName,
    next: u64,
    interval: Duration,
) {
    let mut ticks = tokio::time::interval(interval);
    let mut number = next;
    loop {
        ticks.tick().await;
        let disks: Vec<_> = match hypervisor.host().machine(&machine) {
            // As it executes nothing, it misses the tick.
            Ok(found) if found.is_running() && found.is_held() => continue,
            Ok(found) if found.is_running() => {
                found.disks.iter().map(|(name, disk)| (name.clone(), disk.size())).collect()
            }
            _ => return,
        };
        let count = disks.len() as u64;
        let Some((disk, size)) = number.checked_rem(count).and_then(|index| disks.get(index as usize)) else {
            return;
        };
        let record = Record { number, written_at: UnixMicros::from(SystemTime::now()) };
        let offset = Record::offset(number, count, *size);
        if let Err(error) = hypervisor.guest_write(&machine, disk, offset, &record.encode()) {
            if hypervisor.is_held(&machine) {
                continue;
            }
            tracing::warn!(%machine, %error, "a simulated guest cannot write");
            return;
        }
        number += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_record_is_none() {
        let record = Record { number: 7, written_at: UnixMicros::new(99) };
        let mut sector = record.encode();
        assert_eq!(Record::decode(&sector), Some(record));
        sector[20] ^= 1;
        assert_eq!(Record::decode(&sector), None);
        assert_eq!(Record::decode(&sector[..30]), None);
        assert_eq!(Record::decode(&[0; SECTOR as usize]), None);
    }
}
