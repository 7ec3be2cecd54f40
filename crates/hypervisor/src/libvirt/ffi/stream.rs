//! What libvirt sends in pieces.

use std::ptr::NonNull;

use super::{CallError, check, raw};

/// How much is asked for at once, which is also the most that libvirt sends in one piece.
const PIECE: usize = 256 << 10;

pub(super) struct Stream(NonNull<raw::VirStream>);

impl Stream {
    pub(super) fn own(pointer: *mut raw::VirStream) -> Option<Self> {
        NonNull::new(pointer).map(Self)
    }

    pub(super) fn pointer(&self) -> *mut raw::VirStream {
        self.0.as_ptr()
    }

    /// Everything to its end, if that is not more than `most` bytes.
    pub(super) fn read(self, most: usize) -> Result<Vec<u8>, CallError> {
        let mut read = Vec::new();
        let mut piece = vec![0u8; PIECE];
        loop {
            // SAFETY: the handle is alive, and the buffer has as many bytes as is said.
            let got = unsafe { raw::virStreamRecv(self.pointer(), piece.as_mut_ptr().cast(), piece.len()) };
            match usize::try_from(check(got)?).unwrap_or(0) {
                0 => break,
                got if read.len() + got > most => {
                    // SAFETY: the handle is alive. What it says is of no interest: the stream is given up.
                    unsafe { raw::virStreamAbort(self.pointer()) };
                    let message = format!("more than {most} bytes were sent");
                    return Err(CallError { code: raw::ERR_OPERATION_FAILED, message });
                }
                got => read.extend_from_slice(&piece[..got]),
            }
        }
        // SAFETY: the handle is alive.
        check(unsafe { raw::virStreamFinish(self.pointer()) })?;
        Ok(read)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: this handle owns one reference, and it is not used after this. One that was not finished is aborted by it.
        unsafe { raw::virStreamFree(self.pointer()) };
    }
}
