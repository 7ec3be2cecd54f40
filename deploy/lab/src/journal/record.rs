//! One record of a guest's journal, and where on a disk records lie. Shared by the guest, which writes it, and by the
//! reader, which judges a disk by it; so it knows nothing but `std`.
//!
//! ```text
//! disk      | 1 MiB.. boot FAT16 | 32 MiB.. journal, 8192 slots of 4 KiB | 64 MiB.. scratch ..96 MiB | ext4, with an agent |
//! record    | magic 8 | number 8 | time_us 8 | boot id 16 | disk 4 | disks 4 | fill | checksum 8 |      little-endian
//! record n  lies on disk  n mod disks, in slot  (n / disks) mod 8192
//! ```
//!
//! The promise: a slot decodes as `Valid` only if all its 4096 bytes are those written for that record. The fill
//! depends on the number, so a slot made of two halves of different records is seen as `Torn`.

/// Size of a record and of a slot in bytes: one page, so that a write can tear and the tear is seen.
pub const RECORD_BYTES: usize = 4096;
/// Where the journal begins, in bytes from the start of each of a machine's disks.
pub const JOURNAL_OFFSET: u64 = 32 << 20;
/// Length of the journal on each disk in bytes.
pub const JOURNAL_BYTES: u64 = 32 << 20;
/// How many records a disk holds before the oldest are overwritten.
pub const SLOTS: u64 = JOURNAL_BYTES / RECORD_BYTES as u64;
/// Where the scratch area begins that a guest can be told to dirty, in bytes from the start of the first disk.
pub const SCRATCH_OFFSET: u64 = 64 << 20;
/// Length of the scratch area in bytes.
pub const SCRATCH_BYTES: u64 = 32 << 20;
/// Length of the file system behind the scratch area, on the first disk of a machine whose guest has an agent, in bytes.
#[allow(dead_code, reason = "the guest mounts what it finds")]
pub const FILES_BYTES: u64 = 24 << 20;
/// Size of every disk of a lab machine without a file system in bytes.
#[allow(dead_code, reason = "the guest takes its disks as they are")]
pub const DISK_BYTES: u64 = SCRATCH_OFFSET + SCRATCH_BYTES;

const MAGIC: u64 = u64::from_le_bytes(*b"USJRNL01");
const CHECKSUM_AT: usize = RECORD_BYTES - 8;
const FILL_AT: usize = 48;

/// One entry of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Counts from 1 and goes on over reboots.
    pub number: u64,
    /// Microseconds since 1970 by the guest's clock.
    pub time_us: u64,
    /// The kernel's boot id of the boot that wrote this.
    pub boot: [u8; 16],
    /// On which of the machine's disks it was written, from 0.
    pub disk: u32,
    /// Over how many disks the machine spreads its journal.
    pub disks: u32,
}

/// What a slot holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slot {
    /// Never written: zeros only.
    Blank,
    /// A whole record.
    Valid(Record),
    /// Something else: a write that did not finish, or damage.
    Torn,
}

/// Which disk record `number` is on and its byte offset there.
pub fn place(number: u64, disks: u32) -> (u32, u64) {
    let disks_wide = u64::from(disks);
    let disk = (number % disks_wide) as u32;
    (disk, JOURNAL_OFFSET + (number / disks_wide % SLOTS) * RECORD_BYTES as u64)
}

/// The bytes of `record`, written into `slot`, which is [`RECORD_BYTES`] long.
pub fn encode(record: &Record, slot: &mut [u8]) {
    slot[0..8].copy_from_slice(&MAGIC.to_le_bytes());
    slot[8..16].copy_from_slice(&record.number.to_le_bytes());
    slot[16..24].copy_from_slice(&record.time_us.to_le_bytes());
    slot[24..40].copy_from_slice(&record.boot);
    slot[40..44].copy_from_slice(&record.disk.to_le_bytes());
    slot[44..48].copy_from_slice(&record.disks.to_le_bytes());
    for (index, word) in slot[FILL_AT..CHECKSUM_AT].chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&(record.number << 16 | index as u64).to_le_bytes());
    }
    let sum = checksum(&slot[..CHECKSUM_AT]);
    slot[CHECKSUM_AT..].copy_from_slice(&sum.to_le_bytes());
}

/// What the [`RECORD_BYTES`] bytes in `slot` are.
pub fn decode(slot: &[u8]) -> Slot {
    let word = |at: usize| word_at(slot, at);
    if word(0) != MAGIC {
        return if slot.iter().all(|byte| *byte == 0) { Slot::Blank } else { Slot::Torn };
    }
    if word(CHECKSUM_AT) != checksum(&slot[..CHECKSUM_AT]) {
        return Slot::Torn;
    }
    let mut boot = [0; 16];
    boot.copy_from_slice(&slot[24..40]);
    let (disk, disks) = (word(40) as u32, (word(40) >> 32) as u32);
    Slot::Valid(Record { number: word(8), time_us: word(16), boot, disk, disks })
}

fn word_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// FNV-1a taken over 64-bit words with a rotation, which is enough to see tears and cheap for an emulated processor.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.chunks_exact(8).fold(0xcbf2_9ce4_8422_2325, |sum: u64, chunk| {
        (sum ^ word_at(chunk, 0)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23)
    })
}
