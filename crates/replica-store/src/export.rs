//! Writing a disk of a point out as one file that stands alone: without the store, without an agent, with every block compared
//! with its digest on the way.
//!
//! ```text
//!   chain of the point's files ─▶ block ─▶ digest equal? ─▶ <target>.part, sparse ─▶ fsync ─▶ renamed to <target>
//!                                             └ no: the export ends, or, by choice, goes on and counts
//! ```
//!
//! **Promise.** `<target>` is whole and durable or not there, and nothing that was there is overwritten.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use understudy_ids::{DiskName, ItemName, PointSeq};
use understudy_replication::{
    digest::{BlockDigest, DigestTree},
    extents::{BLOCK_SIZE, RangeSet, block_range},
};

use crate::{
    check::whole_block,
    error::{IoContext, Result, StoreError},
    model::{DiskFormat, DiskManifest},
    qcow2::{Chain, Source, Writer},
    reflink,
    store::StoreReader,
};

/// A writer that renames files while they are opened is not met so often in a row.
const TRIES: usize = 10;
/// Progress is told once per so many blocks.
const TELL_EVERY: u64 = 64;

/// One disk to be written out.
#[derive(Debug, Clone)]
pub struct Export<'a> {
    pub item: &'a ItemName,
    pub seq: PointSeq,
    pub disk: &'a DiskName,
    pub format: DiskFormat,
    /// Must not exist.
    pub target: &'a Path,
    /// Go on over damaged blocks, with whatever can be read of them.
    pub allow_damaged: bool,
}

/// What an export has written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes written, or shared with the store where the file system can.
    pub written: u64,
    /// Damaged bytes, in whole blocks.
    pub damaged: RangeSet,
}

impl StoreReader {
    /// Writes one disk of a point out. `told` hears at which byte of the disk it is.
    ///
    /// # Errors
    /// [`StoreError::NoPoint`], [`StoreError::NoDisk`], [`StoreError::TargetExists`]; [`StoreError::DamagedDisk`] when a block
    /// is not what its digest says, unless that is allowed; I/O errors.
    pub fn export(&self, export: &Export<'_>, told: &dyn Fn(u64)) -> Result<Exported> {
        if export.target.exists() {
            return Err(StoreError::TargetExists(export.target.to_owned()));
        }
        let content = self.content(export)?;
        let part = Part::create(export.target)?;
        let mut output = Output::begin(export.format, &part.path, content.size)?;
        let exported = content.write(export, &mut output, told)?;
        output.finish()?;
        part.publish(export.target)?;
        Ok(exported)
    }

    /// The disk's files and digests of one moment, though a merge may be under way.
    fn content(&self, export: &Export<'_>) -> Result<Content> {
        let mut last = None;
        for _ in 0..TRIES {
            match self.open_content(export) {
                Ok(content) if content.vouched => return Ok(content),
                other => last = Some(other),
            }
        }
        match last {
            Some(Ok(content)) if export.allow_damaged => Ok(content),
            Some(Err(error)) => Err(error),
            _ => Err(export.damaged(0)),
        }
    }

    fn open_content(&self, export: &Export<'_>) -> Result<Content> {
        let Export { item, seq, disk, .. } = *export;
        let manifest = self.point(item, seq)?.manifest;
        if manifest.seal.is_some() {
            // What the store could give is ciphertext, which means something only at its place in the point's own files.
            return Err(StoreError::SealedExport { path: self.disk_path(item, seq, disk)? });
        }
        let found = manifest.disk(disk).cloned();
        let DiskManifest { root, size, .. } =
            found.ok_or_else(|| StoreError::NoDisk { item: item.clone(), disk: disk.clone() })?;
        let tree = self.digests(item, seq, disk);
        let vouched = tree.as_ref().is_ok_and(|tree| tree.root() == root);
        let chain = self.open_disk(item, seq, disk)?;
        let tree = tree.unwrap_or_else(|_| DigestTree::new(size));
        Ok(Content { chain, tree, size, vouched })
    }
}

impl Export<'_> {
    fn damaged(&self, block: u64) -> StoreError {
        let Self { item, seq, disk, .. } = *self;
        StoreError::DamagedDisk { item: item.clone(), seq, disk: disk.clone(), block }
    }
}

struct Content {
    chain: Chain,
    tree: DigestTree,
    size: u64,
    /// The digests are those that the manifest names.
    vouched: bool,
}

impl Content {
    fn write(mut self, export: &Export<'_>, output: &mut Output, told: &dyn Fn(u64)) -> Result<Exported> {
        let mut buffer = vec![0; BLOCK_SIZE as usize];
        let (mut damaged, mut written) = (Vec::new(), 0);
        let mut next = 0;
        while let Some(block) = self.next(next) {
            next = block + 1;
            let range = block_range(block, self.size);
            let part = &mut buffer[..range.len() as usize];
            if self.is_zero(block) {
                continue;
            }
            if !self.read(block, part) {
                if !export.allow_damaged {
                    return Err(export.damaged(block));
                }
                damaged.push(whole_block(block));
            }
            if part.iter().any(|byte| *byte != 0) {
                let shared = self.chain.place(block).ok().flatten();
                output.put(block, part, shared)?;
                written += part.len() as u64;
            }
            if block % TELL_EVERY == 0 {
                told(range.start);
            }
        }
        Ok(Exported { size: self.size, written, damaged: damaged.into_iter().collect() })
    }

    /// Blocks that neither a file nor the digests know are zero on both sides.
    fn next(&self, from: u64) -> Option<u64> {
        let known = [self.chain.next_mapped(from), self.tree.next_nonzero_node(from)];
        known.into_iter().flatten().min().filter(|block| *block < self.tree.blocks())
    }

    fn is_zero(&mut self, block: u64) -> bool {
        let zero = matches!(self.chain.source(block), Ok(Source::Absent | Source::Zero { .. }));
        zero && self.tree.get(block).is_zero_block()
    }

    /// Reads a block; false when it is not what its digest says. What cannot be read at all is zeros.
    fn read(&mut self, block: u64, part: &mut [u8]) -> bool {
        if self.chain.read(block * BLOCK_SIZE, part).is_err() {
            part.fill(0);
            return false;
        }
        self.vouched && BlockDigest::of(part) == self.tree.get(block)
    }
}

/// Where the blocks go.
enum Output {
    Raw(RawFile),
    Qcow2(Writer),
}

impl Output {
    fn begin(format: DiskFormat, path: &Path, size: u64) -> Result<Self> {
        Ok(match format {
            DiskFormat::Raw => Self::Raw(RawFile::begin(path, size)?),
            DiskFormat::Qcow2 => Self::Qcow2(Writer::create(path, size, None)?),
        })
    }

    /// `shared` is where the very same bytes lie in a file of the store.
    fn put(&mut self, block: u64, content: &[u8], shared: Option<(&File, u64)>) -> Result<()> {
        match self {
            Self::Raw(file) => file.put(block * BLOCK_SIZE, content, shared),
            Self::Qcow2(writer) => writer.write(block, content),
        }
    }

    fn finish(self) -> Result<()> {
        match self {
            Self::Raw(raw) => raw.file.sync_all().during("sync", &raw.path),
            Self::Qcow2(writer) => writer.finish().map(|_| ()),
        }
    }
}

/// A sparse file. Where the file system shares blocks between files (XFS, Btrfs), they are shared with the store's.
struct RawFile {
    file: File,
    path: PathBuf,
    /// Until the file system has said that it does not.
    shares: bool,
}

impl RawFile {
    fn begin(path: &Path, size: u64) -> Result<Self> {
        let file = OpenOptions::new().write(true).open(path).during("open", path)?;
        file.set_len(size).during("resize", path)?;
        Ok(Self { file, path: path.to_owned(), shares: true })
    }

    fn put(&mut self, offset: u64, content: &[u8], shared: Option<(&File, u64)>) -> Result<()> {
        if let Some((from, place)) = shared.filter(|_| self.shares && content.len() as u64 == BLOCK_SIZE) {
            match reflink::share(from, place, &self.file, offset, BLOCK_SIZE) {
                Ok(()) => return Ok(()),
                // Another file system, one that does not share, or blocks that lie askew: copied, as all that follow.
                Err(_) => self.shares = false,
            }
        }
        self.file.write_all_at(content, offset).during("write", &self.path)
    }
}

/// The file while it is being written. Removed unless it was published.
struct Part {
    path: PathBuf,
    published: bool,
}

impl Part {
    fn create(target: &Path) -> Result<Self> {
        let mut path = target.as_os_str().to_owned();
        path.push(".part");
        let path = PathBuf::from(path);
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(StoreError::TargetExists(path)),
            other => other.during("create", &path).map(|_| Self { path, published: false }),
        }
    }

    /// Gives the file its name, unless another one has come to bear it.
    fn publish(mut self, target: &Path) -> Result<()> {
        use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
        match renameat2(AT_FDCWD, &self.path, AT_FDCWD, target, RenameFlags::RENAME_NOREPLACE) {
            Err(nix::Error::EEXIST) => return Err(StoreError::TargetExists(target.to_owned())),
            other => other.map_err(io::Error::from).during("rename", &self.path)?,
        }
        self.published = true;
        let dir = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir).and_then(|dir| dir.sync_all()).during("sync directory", dir)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.published {
            // What is left over is found, and named, by the next export to the same place.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
