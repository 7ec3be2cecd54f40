//! The image that everybody copies, and its variant with 2 % of the blocks changed.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};
use nix::unistd::{Whence, lseek};
use understudy_ids::ByteRange;
use understudy_replication::{BLOCK_SIZE, RangeSet};

use crate::place::{self, run};

/// One block of so many is changed in the variant.
const ONE_OF: u64 = 50;
/// Share of the image that is filled with files, in percent.
const FILLED: u64 = 62;

#[derive(Clone)]
pub struct Images {
    pub base: PathBuf,
    pub variant: PathBuf,
    /// Bytes of the disk.
    pub size: u64,
    /// Where the base has data.
    pub data: RangeSet,
    /// Whole blocks in which the variant differs.
    pub changed: RangeSet,
}

impl Images {
    /// Makes both, or finds them from an earlier run.
    pub fn prepare(dir: &Path, size_mib: u64) -> anyhow::Result<Self> {
        fs::create_dir_all(dir)?;
        let (base, variant) =
            (dir.join(format!("base-{size_mib}.img")), dir.join(format!("variant-{size_mib}.img")));
        let size = size_mib << 20;
        if !base.exists() {
            build(dir, &base, size_mib)?;
        }
        let data = data_of(&base)?;
        let changed = every_nth(&data);
        if !variant.exists() {
            change(&base, &variant, &changed)?;
        }
        warm(&base)?;
        warm(&variant)?;
        ensure!(data.bytes() > size / 4, "the image has only {} bytes of data", data.bytes());
        Ok(Self { base, variant, size, data, changed })
    }
}

/// An ext4 file system filled from `/usr`.
fn build(dir: &Path, image: &Path, size_mib: u64) -> anyhow::Result<()> {
    let tree = dir.join("tree");
    place::remove(&tree)?;
    fs::create_dir_all(&tree)?;
    let mut left = (size_mib << 20) * FILLED / 100;
    let mut pending = vec![PathBuf::from("/usr")];
    while let Some(at) = pending.pop() {
        let mut entries: Vec<_> = fs::read_dir(&at)?.flatten().map(|entry| entry.path()).collect();
        entries.sort_unstable();
        for entry in entries {
            let Ok(about) = fs::symlink_metadata(&entry) else { continue };
            if about.is_dir() {
                pending.push(entry);
            } else if about.is_file() && about.len() > 0 && about.len().div_ceil(4096) * 4096 <= left {
                let to = tree.join(entry.strip_prefix("/usr")?);
                fs::create_dir_all(to.parent().context("a file without a directory")?)?;
                fs::copy(&entry, &to).with_context(|| format!("copying {}", entry.display()))?;
                left -= about.len().div_ceil(4096) * 4096;
            }
        }
    }
    let fresh = image.with_extension("new");
    place::remove(&fresh)?;
    let mut mkfs = Command::new("mke2fs");
    mkfs.args(["-q", "-t", "ext4", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-d"]);
    run(mkfs.arg(&tree).arg(&fresh).arg(format!("{size_mib}M")))?;
    place::remove(&tree)?;
    fs::rename(&fresh, image).context("the image cannot be put into its place")
}

/// Where a file has data, in whole blocks.
fn data_of(image: &Path) -> anyhow::Result<RangeSet> {
    let file = File::open(image)?;
    let size = file.metadata()?.len();
    let mut found = Vec::new();
    let mut at = 0;
    while let Ok(start) = lseek(&file, i64::try_from(at)?, Whence::SeekData) {
        let end = lseek(&file, start, Whence::SeekHole)?;
        found.push(ByteRange::new(u64::try_from(start)?, u64::try_from(end)?));
        at = u64::try_from(end)?;
    }
    Ok(found.into_iter().collect::<RangeSet>().to_blocks(size))
}

fn every_nth(data: &RangeSet) -> RangeSet {
    let chosen = data.blocks().filter(|block| block % ONE_OF == 7);
    chosen.map(|block| ByteRange::new(block * BLOCK_SIZE, (block + 1) * BLOCK_SIZE)).collect()
}

/// A copy in which the chosen blocks have other content that compresses about as well: the old bytes, each added to.
fn change(base: &Path, variant: &Path, blocks: &RangeSet) -> anyhow::Result<()> {
    let fresh = variant.with_extension("new");
    run(Command::new("cp").args(["--sparse=always", "--"]).arg(base).arg(&fresh))?;
    let file = OpenOptions::new().read(true).write(true).open(&fresh)?;
    let mut content = vec![0; BLOCK_SIZE as usize];
    for block in blocks.blocks() {
        file.read_exact_at(&mut content, block * BLOCK_SIZE)?;
        content.iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
        file.write_all_at(&content, block * BLOCK_SIZE)?;
    }
    file.sync_all()?;
    fs::rename(&fresh, variant).context("the variant cannot be put into its place")
}

/// A copy on a disk of another size, which takes no more space.
pub fn enlarged(image: &Path, large: &Path, size: u64) -> anyhow::Result<()> {
    place::remove(large)?;
    run(Command::new("cp").args(["--sparse=always", "--"]).arg(image).arg(large))?;
    OpenOptions::new().write(true).open(large)?.set_len(size).context("a larger file")
}

/// Reads a file once, so that it is in memory.
fn warm(image: &Path) -> anyhow::Result<()> {
    run(Command::new("dd").arg(format!("if={}", image.display())).args(["of=/dev/null", "bs=1M"]))
}

/// Whether two files hold the same bytes; the first difference if not.
pub fn same(one: &Path, other: &Path) -> anyhow::Result<()> {
    run(Command::new("cmp").arg("--").arg(one).arg(other))
}
