//! The first cluster: what the file is and where its tables are.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use super::{CLUSTER, CLUSTER_BITS, placed};
use crate::{
    error::{IoContext, Result, StoreError},
    model::DiskFormat,
};

const MAGIC: u32 = 0x5146_49fb;
const HEADER_LENGTH: u32 = 104;
const EXT_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXT_LUKS: u32 = 0x0537_be77;
const EXT_END: u32 = 0;
/// The only encryption method that we know.
const CRYPT_LUKS: u32 = 2;
/// As QEMU has it: 32 MiB.
const MAX_L1_ENTRIES: u32 = 4 << 20;
/// The longest backing file name that QEMU accepts.
const MAX_BACKING_NAME: usize = 1023;
/// Incompatible feature bit 0: refcounts may be stale after a crash. Readers need not care, and merging recounts them.
const INCOMPATIBLE_DIRTY: u64 = 1;

/// What a disk is stacked on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backing {
    /// Relative to the directory of the file that names it, or absolute.
    pub path: PathBuf,
    pub format: DiskFormat,
}

/// The fields of a header that we use. Everything else must be absent, or is checked to be harmless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub size: u64,
    pub backing: Option<Backing>,
    pub l1_offset: u64,
    pub l1_entries: u32,
    pub refcount_offset: u64,
    pub refcount_clusters: u32,
    /// Data clusters are encrypted, and a LUKS header stands behind this one.
    pub luks: bool,
}

fn put32(to: &mut [u8], at: usize, value: u32) {
    to[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

fn put64(to: &mut [u8], at: usize, value: u64) {
    to[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

fn get32(from: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([from[at], from[at + 1], from[at + 2], from[at + 3]])
}

fn get64(from: &[u8], at: usize) -> u64 {
    u64::from(get32(from, at)) << 32 | u64::from(get32(from, at + 4))
}

/// Size in bytes of the disk in a qcow2 file, of any version and with any features: only what all of them share is looked at.
///
/// # Errors
/// When the file cannot be read or is not qcow2.
pub fn virtual_size(path: &Path) -> Result<u64> {
    let mut first = [0; 32];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut first));
    read.during("read", path)?;
    if get32(&first, 0) != MAGIC {
        return Err(StoreError::Format { path: path.to_owned(), why: "it is not a qcow2 file".to_owned() });
    }
    Ok(get64(&first, 24))
}

impl Header {
    /// The whole first cluster.
    pub fn encode(&self, path: &Path) -> Result<Vec<u8>> {
        let mut out = vec![0; CLUSTER as usize];
        put32(&mut out, 0, MAGIC);
        put32(&mut out, 4, 3);
        put32(&mut out, 20, CLUSTER_BITS);
        put32(&mut out, 96, 4);
        put32(&mut out, 100, HEADER_LENGTH);
        self.patch(&mut out);
        let mut at = HEADER_LENGTH as usize;
        if self.luks {
            put32(&mut out, 32, CRYPT_LUKS);
            put32(&mut out, at, EXT_LUKS);
            put32(&mut out, at + 4, 16);
            put64(&mut out, at + 8, placed::LUKS * CLUSTER);
            put64(&mut out, at + 16, placed::LUKS_CLUSTERS * CLUSTER);
            at += 24;
        }
        if let Some(backing) = &self.backing {
            let name = backing.path.to_str().filter(|n| n.len() <= MAX_BACKING_NAME).ok_or_else(|| {
                let why = "the path of its backing file is not text or longer than 1023 bytes".to_owned();
                StoreError::Format { path: path.to_owned(), why }
            })?;
            let format = match backing.format {
                DiskFormat::Qcow2 => "qcow2",
                DiskFormat::Raw => "raw",
            };
            put32(&mut out, at, EXT_BACKING_FORMAT);
            put32(&mut out, at + 4, format.len() as u32);
            out[at + 8..at + 8 + format.len()].copy_from_slice(format.as_bytes());
            at += 16;
            put32(&mut out, at, EXT_END);
            at += 8;
            put64(&mut out, 8, at as u64);
            put32(&mut out, 16, name.len() as u32);
            out[at..at + name.len()].copy_from_slice(name.as_bytes());
        }
        Ok(out)
    }

    /// Puts size and table locations into the first sector of an existing header, and drops what QEMU may have noted about
    /// features that a changed file no longer honours (bitmaps, stale refcounts).
    pub fn patch(&self, first: &mut [u8]) {
        put64(first, 24, self.size);
        put32(first, 36, self.l1_entries);
        put64(first, 40, self.l1_offset);
        put64(first, 48, self.refcount_offset);
        put32(first, 56, self.refcount_clusters);
        put64(first, 72, 0);
        put64(first, 88, 0);
    }

    /// Reads the first cluster, or as much of it as the file has.
    pub fn decode(path: &Path, bytes: &[u8]) -> Result<Self> {
        let bad = |why: String| StoreError::Format { path: path.to_owned(), why };
        if bytes.len() < HEADER_LENGTH as usize || get32(bytes, 0) != MAGIC {
            return Err(bad("it is not a qcow2 file".to_owned()));
        }
        let expected = [("version", 4, 3), ("cluster bits", 20, CLUSTER_BITS)];
        for (what, at, value) in expected.into_iter().chain([("snapshots", 60, 0), ("refcount order", 96, 4)])
        {
            if get32(bytes, at) != value {
                return Err(bad(format!("{what} is {}, only {value} is supported", get32(bytes, at))));
            }
        }
        if get64(bytes, 72) & !INCOMPATIBLE_DIRTY != 0 {
            return Err(bad(format!("it uses incompatible features {:#x}", get64(bytes, 72))));
        }
        let luks = match (get32(bytes, 32), extension(bytes, EXT_LUKS)) {
            (0, None) => false,
            (CRYPT_LUKS, Some(area)) if is_our_area(area) => true,
            _ => return Err(bad("it is encrypted in a way that is not supported".to_owned())),
        };
        let header = Self {
            luks,
            size: get64(bytes, 24),
            backing: backing(bytes).map_err(|why| bad(why.to_owned()))?,
            l1_offset: get64(bytes, 40),
            l1_entries: get32(bytes, 36),
            refcount_offset: get64(bytes, 48),
            refcount_clusters: get32(bytes, 56),
        };
        let tables = [header.l1_offset, header.refcount_offset];
        if tables.iter().any(|o| *o % CLUSTER != 0 || *o == 0) || header.size > 1 << 56 {
            return Err(bad("its tables are not where tables can be".to_owned()));
        }
        if u64::from(header.l1_entries) < super::l1_entries(header.size) && header.size > 0 {
            return Err(bad("its L1 table is too short for its size".to_owned()));
        }
        // A sparse file is long enough for any, and a flipped bit may ask for gigabytes.
        if header.l1_entries > MAX_L1_ENTRIES {
            return Err(bad("its L1 table is longer than any can be".to_owned()));
        }
        Ok(header)
    }
}

fn backing(bytes: &[u8]) -> std::result::Result<Option<Backing>, &'static str> {
    let (at, len) = (get64(bytes, 8) as usize, get32(bytes, 16) as usize);
    if at == 0 {
        return Ok(None);
    }
    let name =
        at.checked_add(len).and_then(|end| bytes.get(at..end)).ok_or("its backing file name is cut off")?;
    let name = std::str::from_utf8(name).map_err(|_| "its backing file name is not text")?;
    let format = backing_format(bytes)?.ok_or("it does not say the format of its backing file")?;
    Ok(Some(Backing { path: PathBuf::from(name), format }))
}

fn backing_format(bytes: &[u8]) -> std::result::Result<Option<DiskFormat>, &'static str> {
    match extension(bytes, EXT_BACKING_FORMAT) {
        None => Ok(None),
        Some(b"qcow2") => Ok(Some(DiskFormat::Qcow2)),
        Some(b"raw") => Ok(Some(DiskFormat::Raw)),
        Some(_) => Err("its backing file is neither qcow2 nor raw"),
    }
}

/// Where we put LUKS headers is where they have to be.
fn is_our_area(area: &[u8]) -> bool {
    let wanted = (placed::LUKS * CLUSTER, placed::LUKS_CLUSTERS * CLUSTER);
    area.len() == 16 && (get64(area, 0), get64(area, 8)) == wanted
}

/// The data of a header extension; empty when it is cut off.
fn extension(bytes: &[u8], wanted: u32) -> Option<&[u8]> {
    let mut at = get32(bytes, 100) as usize;
    while at.checked_add(8).is_some_and(|end| end <= bytes.len()) {
        let (kind, len) = (get32(bytes, at), get32(bytes, at + 4) as usize);
        if kind == EXT_END {
            break;
        }
        if kind == wanted {
            return Some(bytes.get(at + 8..).and_then(|rest| rest.get(..len)).unwrap_or_default());
        }
        at = at.saturating_add(8).saturating_add(len.next_multiple_of(8));
    }
    None
}
