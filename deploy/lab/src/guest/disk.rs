//! The guest's disks: durable, uncached record writes, and finding where the journal ended.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    thread,
    time::Duration,
};

use crate::record::{self, RECORD_BYTES, Record, SCRATCH_BYTES, SCRATCH_OFFSET, Slot};

const O_DIRECT: i32 = 0o40000;
const O_DSYNC: i32 = 0o10000;
const CHUNK_BYTES: usize = 1 << 20;

/// O_DIRECT wants memory aligned like the disk's blocks.
#[repr(align(4096))]
struct Aligned<const N: usize>([u8; N]);

/// The machine's disks in order, `/dev/vda` first.
pub struct Disks(Vec<File>);

impl Disks {
    pub fn open(count: u32) -> io::Result<Self> {
        (0..count).map(open).collect::<io::Result<_>>().map(Disks)
    }

    /// Number of the newest whole record on any disk, or 0.
    pub fn last_record(&self) -> io::Result<u64> {
        let mut last = 0;
        let mut chunk = Box::new(Aligned([0; CHUNK_BYTES]));
        for disk in &self.0 {
            for at in (0..record::JOURNAL_BYTES).step_by(CHUNK_BYTES) {
                disk.read_exact_at(&mut chunk.0, record::JOURNAL_OFFSET + at)?;
                for slot in chunk.0.chunks_exact(RECORD_BYTES) {
                    if let Slot::Valid(found) = record::decode(slot) {
                        last = last.max(found.number);
                    }
                }
            }
        }
        Ok(last)
    }

    /// Writes one record to its place; when this returns, it is durable.
    pub fn append(&self, record: &Record) -> io::Result<()> {
        let mut slot = Aligned([0; RECORD_BYTES]);
        record::encode(record, &mut slot.0);
        let (disk, offset) = record::place(record.number, record.disks);
        self.0[disk as usize].write_all_at(&slot.0, offset)
    }
}

fn open(index: u32) -> io::Result<File> {
    let letter = char::from(b'a' + index as u8);
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(O_DIRECT | O_DSYNC)
        .open(format!("/dev/vd{letter}"))
}

/// Rewrites scratch blocks at about `kib_per_second`, scattered, so that replication has more than the journal to carry.
pub fn dirty_scratch(kib_per_second: u64) {
    const PER_SECOND: u64 = 4;
    let Ok(disk) = open(0) else { return };
    let blocks = SCRATCH_BYTES / RECORD_BYTES as u64;
    let mut block = Box::new(Aligned([0; RECORD_BYTES]));
    let mut state = 1_u64;
    loop {
        for _ in 0..(kib_per_second * 1024 / RECORD_BYTES as u64).div_ceil(PER_SECOND) {
            // A multiplicative generator is random enough to scatter and to be incompressible in its upper half.
            for word in block.0.chunks_exact_mut(8) {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                word.copy_from_slice(&state.to_le_bytes());
            }
            let offset = SCRATCH_OFFSET + (state >> 33) % blocks * RECORD_BYTES as u64;
            if let Err(error) = disk.write_all_at(&block.0, offset) {
                println!("understudy-lab-guest: scratch not written: {error}");
            }
        }
        thread::sleep(Duration::from_millis(1000 / PER_SECOND));
    }
}
