//! Reads a raw file or block device, and notices when somebody writes to it.
//!
//! QEMU tells other QEMUs what it does with an image by locking single bytes of it; the same bytes are asked and locked here,
//! so that no machine is started from a disk while it is read. Programs that know nothing of this are noticed by the file's
//! time of modification, after each read: as long as it stands, everything that was read so far is of one instant.

use std::{
    fs::{File, Metadata},
    io,
    os::unix::fs::{FileExt, FileTypeExt, MetadataExt},
    path::Path,
    sync::Arc,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use nix::{
    fcntl::{FcntlArg, fcntl},
    unistd::{Whence, lseek},
};
use understudy_ids::ByteRange;

use crate::{BlockingReader, DiskReader, Error, Extent};

const LONGEST_READ: u32 = 32 << 20;
/// Extents told at once.
const MOST_EXTENTS: usize = 4096;
/// Byte that QEMU locks while it may write to the image.
const QEMU_WRITES: i64 = 101;
/// Byte that is locked by whoever does not want others to write.
const NOBODY_WRITES: i64 = 201;

/// A raw disk that is open for reading.
#[derive(Clone)]
pub struct RawReader {
    inner: Arc<Inner>,
}

struct Inner {
    what: String,
    file: File,
    size: u64,
    /// What tells that the file is as it was; block devices have no such thing.
    stamp: Option<Stamp>,
}

#[derive(PartialEq, Eq)]
struct Stamp {
    modified: (i64, i64),
    length: u64,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self { modified: (metadata.mtime(), metadata.mtime_nsec()), length: metadata.len() }
    }
}

/// Length of a raw file or block device in bytes.
pub fn size(path: &Path, what: &str) -> Result<u64, Error> {
    let failed = |error: io::Error| Error::Failed { what: what.to_owned(), why: error.to_string() };
    let file = File::open(path).map_err(failed)?;
    length(&file).map_err(failed)
}

fn length(file: &File) -> io::Result<u64> {
    let end = lseek(file, 0, Whence::SeekEnd)?;
    u64::try_from(end).map_err(io::Error::other)
}

impl RawReader {
    pub fn open(path: &Path, what: String) -> Result<Self, Error> {
        let failed = |error: io::Error| Error::Failed {
            what: what.clone(),
            why: format!("{}: {error}", path.display()),
        };
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let is_device = metadata.file_type().is_block_device();
        if !is_device && !metadata.is_file() {
            return Err(Error::WrongState {
                what,
                why: format!("{} is neither a file nor a block device", path.display()),
            });
        }
        if lock(&file).map_err(failed)? {
            return Err(Error::WrongState {
                what,
                why: format!("{} is open for writing in QEMU; shut that machine down first", path.display()),
            });
        }
        let size = length(&file).map_err(failed)?;
        if size == 0 || !size.is_multiple_of(512) {
            return Err(Error::WrongState {
                what,
                why: format!("{} has {size} bytes; a disk has a multiple of 512", path.display()),
            });
        }
        let stamp = (!is_device).then(|| Stamp::of(&metadata));
        Ok(Self { inner: Arc::new(Inner { what, file, size, stamp }) })
    }

    pub fn size(&self) -> u64 {
        self.inner.size
    }
}

/// Not by closing alone: a child that is being spawned just now has the file open too, until it becomes the other program.
impl Drop for Inner {
    fn drop(&mut self) {
        // Closing does the same a moment later.
        let _ = fcntl(&self.file, FcntlArg::F_OFD_SETLK(&byte(libc::F_UNLCK, NOBODY_WRITES)));
    }
}

/// What to do with one of the bytes of an image that QEMU locks.
fn byte(kind: i32, at: i64) -> libc::flock {
    libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: at, l_len: 1, l_pid: 0 }
}

/// Keeps QEMU from writing until it is unlocked. Whether it writes already.
fn lock(file: &File) -> io::Result<bool> {
    let wanted = byte(libc::F_RDLCK, NOBODY_WRITES);
    match fcntl(file, FcntlArg::F_OFD_SETLK(&wanted)) {
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => return Ok(true),
        result => result.map_err(io::Error::from)?,
    };
    let mut asked = byte(libc::F_WRLCK, QEMU_WRITES);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut asked)).map_err(io::Error::from)?;
    Ok(i32::from(asked.l_type) != libc::F_UNLCK)
}

impl BlockingReader for Inner {
    fn read(&self, offset: u64, length: u32) -> Result<Bytes, Error> {
        let inside = offset.checked_add(u64::from(length)).is_some_and(|end| end <= self.size);
        if !inside || length > LONGEST_READ {
            return Err(self.failed(format!("{length} bytes at {offset} were asked for")));
        }
        let mut content = BytesMut::zeroed(length as usize);
        self.file.read_exact_at(&mut content, offset).map_err(|error| self.failed(error))?;
        self.check_unchanged()?;
        Ok(content.freeze())
    }
}

impl Inner {
    fn failed(&self, why: impl std::fmt::Display) -> Error {
        Error::Failed { what: self.what.clone(), why: why.to_string() }
    }

    fn check_unchanged(&self) -> Result<(), Error> {
        let Some(stamp) = &self.stamp else { return Ok(()) };
        let now = self.file.metadata().map_err(|error| self.failed(error))?;
        if Stamp::of(&now) == *stamp {
            return Ok(());
        }
        Err(Error::WrongState {
            what: self.what.clone(),
            why: "the file is being written to; it is copied when nobody does".to_owned(),
        })
    }

    /// Runs of data and holes from `range.start` on.
    fn extents(&self, range: ByteRange) -> Result<Vec<Extent>, Error> {
        let mut extents = Vec::new();
        let mut at = range.start;
        while at < range.end.min(self.size) && extents.len() < MOST_EXTENTS {
            let data = self.seek(at, Whence::SeekData)?;
            if data > at {
                let end = data.min(range.end);
                extents.push(Extent { range: ByteRange::new(at, end), changed: true, zero: true });
                at = end;
                continue;
            }
            let end = self.seek(at, Whence::SeekHole)?.min(range.end);
            if end <= at {
                return Err(self.failed(format!("the file system tells nothing about byte {at}")));
            }
            extents.push(Extent { range: ByteRange::new(at, end), changed: true, zero: false });
            at = end;
        }
        Ok(extents)
    }

    /// Where data, or a hole, begins at or after `at`; the end of the disk when none does.
    fn seek(&self, at: u64, whence: Whence) -> Result<u64, Error> {
        let from = i64::try_from(at).map_err(|error| self.failed(error))?;
        match lseek(&self.file, from, whence) {
            Ok(found) => Ok(u64::try_from(found).unwrap_or(self.size).min(self.size)),
            Err(nix::errno::Errno::ENXIO) => Ok(self.size),
            // A file system or device that knows no holes: all is data.
            Err(nix::errno::Errno::EINVAL) => {
                Ok(if matches!(whence, Whence::SeekData) { at } else { self.size })
            }
            Err(error) => Err(self.failed(error)),
        }
    }
}

#[async_trait]
impl DiskReader for RawReader {
    async fn extents(&self, range: ByteRange) -> Result<Vec<Extent>, Error> {
        let inner = self.inner.clone();
        super::blocking(&self.inner.what, move || inner.extents(range)).await
    }

    async fn read(&self, offset: u64, length: u32) -> Result<Bytes, Error> {
        let inner = self.inner.clone();
        super::blocking(&self.inner.what, move || inner.read(offset, length)).await
    }

    fn blocking(&self) -> Option<&dyn BlockingReader> {
        Some(self.inner.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A descriptor that outlives the reader is what a child has between `fork` and `exec`, whoever spawns it.
    #[test]
    fn a_disk_that_is_read_no_more_is_free_also_while_a_child_is_being_spawned() {
        let disk = tempfile::NamedTempFile::new().unwrap();
        disk.as_file().set_len(4096).unwrap();
        let reader = RawReader::open(disk.path(), "a disk".to_owned()).unwrap();
        let inherited = reader.inner.file.try_clone().unwrap();
        let mut asked = byte(libc::F_WRLCK, NOBODY_WRITES);
        fcntl(disk.as_file(), FcntlArg::F_OFD_GETLK(&mut asked)).unwrap();
        assert_eq!(i32::from(asked.l_type), libc::F_RDLCK, "nothing keeps QEMU away while the disk is read");
        drop(reader);
        let mut asked = byte(libc::F_WRLCK, NOBODY_WRITES);
        fcntl(disk.as_file(), FcntlArg::F_OFD_GETLK(&mut asked)).unwrap();
        assert_eq!(i32::from(asked.l_type), libc::F_UNLCK, "closed, and still locked");
        drop(inherited);
    }
}
