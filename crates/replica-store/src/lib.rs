//! Recovery points on disk: receiving them, keeping them, lending them out, and merging them away.
//!
//! ```text
//!   begin/resume ─▶ PointWriter ─▶ finish ─▶ point ─┬─▶ branch (a test's overlay) ─▶ drop_branch
//!                       │ sync                      ├─▶ promote (a machine's overlay) ─▶ commit ─▶ adopt
//!   import (a medium) ──┴─▶ partial (resumable)     ├─▶ merge_away (retention)
//!                                                   ├─▶ verify, export (read-only, beside a writer)
//!                                                   └─▶ scrub ─▶ damaged: not offered ─▶ repair, with what later points bring
//! ```
//!
//! **Promises.** A point is whole and verified or no reader sees it; once seen it stays bootable and byte-identical until it
//! is merged away, removed, or found damaged (R-REP-4, R-REP-5). Nothing is done at a generation lower than one seen before
//! (R-FO-7). All of it holds after a crash between any two changes to the file system, provided that the file system keeps
//! what was synced.
//!
//! The API blocks; an asynchronous caller wraps it in `spawn_blocking`. Calls on one item exclude each other, calls on
//! different items do not; writing blocks of a transfer excludes nothing, and points begin and end beside a merge, however long that takes.

mod adopt;
mod behind;
mod catalog;
mod check;
mod digests;
mod error;
mod export;
mod fsio;
mod import;
mod incoming;
mod journal;
mod layout;
mod lock;
mod merge;
mod model;
mod overlays;
mod partial;
pub mod qcow2;
mod recover;
mod reflink;
mod repair;
mod scrub;
mod store;
mod verify;

pub use check::{Findings, Layer, LayerCheck, LayerName, Step};
pub use error::{Result, StoreError};
pub use export::{Export, Exported};
pub use fsio::{Change, Watch};
pub use incoming::PointWriter;
pub use model::{
    Adopt, AdoptDisk, Begin, Damage, DiskFile, DiskFormat, DiskManifest, DiskSpec, GenerationRecord, Import,
    ImportDisk, ItemUsage, Manifest, Pin, PointInfo, PointKind, Role, Seal, Space, TargetSeals,
};
pub use repair::Repaired;
pub use scrub::{Finished, Scrub, ScrubRecord, Scrubbed};
pub use store::{Store, StoreReader};
pub use verify::Verified;
