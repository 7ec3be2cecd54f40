//! Letting two files share the blocks of a disk, where the file system can (XFS, Btrfs, bcachefs, ZFS).

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd},
};

mod ioctl {
    // include/uapi/linux/fs.h
    nix::ioctl_write_ptr!(clone_range, 0x94, 13, libc::file_clone_range);
}

/// Makes `len` bytes of `to` those of `from`, without copying them. Both offsets and the length are multiples of the file system's
/// block size.
///
/// # Errors
/// Whatever the file system says that cannot share: `EOPNOTSUPP`, `EXDEV` across file systems, `EINVAL` for offsets.
pub(crate) fn share(from: &File, offset: u64, to: &File, at: u64, len: u64) -> io::Result<()> {
    let range = libc::file_clone_range {
        src_fd: i64::from(from.as_fd().as_raw_fd()),
        src_offset: offset,
        src_length: len,
        dest_offset: at,
    };
    // SAFETY: both descriptors are open for the length of the call and the structure is what the request takes.
    unsafe { ioctl::clone_range(to.as_fd().as_raw_fd(), &raw const range) }?;
    Ok(())
}
