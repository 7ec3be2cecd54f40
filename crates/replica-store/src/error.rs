//! What can go wrong in a store, in words an operator can act on.

use std::{io, path::PathBuf};

use understudy_ids::{DiskName, Generation, ItemName, PointSeq, Uuid};
use understudy_replication::digest::BlockDigest;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },

    #[error(
        "cannot {action} {path}: its file system is full ({source}); free or add space there, replication then goes on by itself", path = path.display()
    )]
    Full { action: &'static str, path: PathBuf, source: io::Error },

    #[error(
        "the store {root} is in use by {holder}; stop that first, or give this one a directory of its own \
         (`understudy store` only reads, and works beside it)", root = root.display()
    )]
    InUse { root: PathBuf, holder: String },

    #[error("{path} is not a replica store: it has no directory `items`; name the agent's store_dir", path = .0.display())]
    NotAStore(PathBuf),

    #[error(
        "{item} is at generation {seen} here and was asked to act at generation {offered}, which is older; \
         the other side has taken over since then"
    )]
    StaleGeneration { item: ItemName, seen: Generation, offered: Generation },

    #[error("this store holds nothing of {0}; replicate the item first")]
    NoItem(ItemName),

    #[error("{item} has no usable recovery point {seq} here; list its recovery points and choose another")]
    NoPoint { item: ItemName, seq: PointSeq },

    #[error("nothing of {item} was promoted here at generation {generation}, so there is nothing to commit")]
    NotPromoted { item: ItemName, generation: Generation },

    #[error("run {run} has no test of {item} here")]
    NoBranch { item: ItemName, run: Uuid },

    #[error(
        "recovery point {seq} of {item} is damaged ({blocks} blocks); choose another one, and leave replication on: its next cycle \
         ships what is damaged"
    )]
    Damaged { item: ItemName, seq: PointSeq, blocks: u64 },

    #[error(
        "recovery point {seq} of {item} is encrypted; unlock it with a recipient's private key \
         (understudy item unlock)"
    )]
    Sealed { item: ItemName, seq: PointSeq },

    #[error(
        "{path} is encrypted and cannot be exported by whoever has no key; copy its chain of files as they are (they are sparse), \
         or convert it with qemu-img and the secret",
        path = path.display()
    )]
    SealedExport { path: PathBuf },

    #[error("{item} has no disk {disk} in this point or transfer")]
    NoDisk { item: ItemName, disk: DiskName },

    #[error("{item}: disk {disk} cannot be replicated: {why}")]
    InvalidDisk { item: ItemName, disk: DiskName, why: String },

    #[error("a transfer of {0} is already being received; wait for it to end or abort it")]
    Busy(ItemName),

    #[error("point {seq} of {item} exists already; its number cannot be used again")]
    PointExists { item: ItemName, seq: PointSeq },

    #[error("the interrupted transfer of {item} does not fit: {why}; discard it and begin again")]
    PartialMismatch { item: ItemName, why: String },

    #[error("there is no interrupted transfer of {0} to resume; begin a new one")]
    NoPartial(ItemName),

    #[error("{item} {disk}: block {block} arrived with digest {found} instead of {expected}; send it again")]
    DigestMismatch { item: ItemName, disk: DiskName, block: u64, expected: BlockDigest, found: BlockDigest },

    #[error(
        "{item} {disk}: what was received has root {found} and the source says {expected}; \
         the point was not accepted, compare by digests"
    )]
    RootMismatch { item: ItemName, disk: DiskName, expected: BlockDigest, found: BlockDigest },

    #[error("{item} {disk}: blocks {first}..{end} do not lie on a disk of {size} bytes")]
    OutOfRange { item: ItemName, disk: DiskName, first: u64, end: u64, size: u64 },

    #[error("the transfer of {0} has failed to write before and is not trusted any more; begin a new one")]
    Untrusted(ItemName),

    #[error(
        "merging a point of {0} away made way for a failover; it is done when nobody uses the item's points"
    )]
    MadeWay(ItemName),

    #[error("point {seq} of {item} is in use by {by}; end that first")]
    Pinned { item: ItemName, seq: PointSeq, by: String },

    #[error(
        "run {run} of {item} already has a branch of point {existing}, not of {asked}; drop that branch first"
    )]
    OtherBranch { item: ItemName, run: Uuid, existing: PointSeq, asked: PointSeq },

    #[error(
        "{item} is already promoted at generation {generation} from point {existing}, not {asked}; \
         stop it and drop its disks before choosing another point"
    )]
    OtherPromotion { item: ItemName, generation: Generation, existing: PointSeq, asked: PointSeq },

    #[error("{path} exists already, and nothing is overwritten; remove it, or choose another place", path = .0.display())]
    TargetExists(PathBuf),

    #[error(
        "recovery point {seq} of {item} is damaged: block {block} of disk {disk} is not what its digest says; \
         export another point, or this one with --allow-damaged"
    )]
    DamagedDisk { item: ItemName, seq: PointSeq, disk: DiskName, block: u64 },

    #[error("{path} is not a disk this store can use: {why}", path = path.display())]
    Format { path: PathBuf, why: String },

    #[error("{path} is not readable as {what}: {why}", path = path.display())]
    Record { path: PathBuf, what: &'static str, why: String },
}

pub type Result<T> = std::result::Result<T, StoreError>;

/// Attaches what was being done, and to what, to an I/O error.
pub(crate) trait IoContext<T> {
    fn during(self, action: &'static str, path: &std::path::Path) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn during(self, action: &'static str, path: &std::path::Path) -> Result<T> {
        self.map_err(|source| {
            let path = path.to_owned();
            match source.kind() {
                // Nothing is broken, and there is something to be done about it.
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    StoreError::Full { action, path, source }
                }
                _ => StoreError::Io { action, path, source },
            }
        })
    }
}
