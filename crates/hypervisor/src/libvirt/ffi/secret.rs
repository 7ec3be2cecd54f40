//! A secret that libvirt keeps for machines' disks.

use std::ptr::NonNull;

use super::{CallError, check, raw};

pub struct Secret(NonNull<raw::VirSecret>);

impl Secret {
    pub(super) fn own(pointer: *mut raw::VirSecret) -> Option<Self> {
        NonNull::new(pointer).map(Self)
    }

    pub fn set(&self, value: &[u8]) -> Result<(), CallError> {
        // SAFETY: the handle is alive; libvirt copies the bytes.
        check(unsafe { raw::virSecretSetValue(self.0.as_ptr(), value.as_ptr(), value.len(), 0) }).map(drop)
    }

    pub fn undefine(&self) -> Result<(), CallError> {
        // SAFETY: the handle is alive.
        check(unsafe { raw::virSecretUndefine(self.0.as_ptr()) }).map(drop)
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        // SAFETY: this handle owns one reference, and it is not used after this.
        unsafe { raw::virSecretFree(self.0.as_ptr()) };
    }
}
