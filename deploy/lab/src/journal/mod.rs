//! The journal that every lab guest writes to its disks, and what can be read off a disk afterwards.
//!
//! Data loss, downtime and consistency in the lab are arithmetic on these records: which are there, which are
//! missing in the middle, when the last was written, over how many boots.

mod reader;
pub mod record;

pub use reader::{JournalReport, TornSlot, judge, read_journal};
