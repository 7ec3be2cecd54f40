//! A virtual network.

use std::ptr::NonNull;

use super::{CallError, check, owned_text, raw};

pub struct Network(NonNull<raw::VirNetwork>);

// SAFETY: libvirt's objects may be used from any thread.
unsafe impl Send for Network {}

impl Network {
    pub(super) fn own(pointer: *mut raw::VirNetwork) -> Option<Self> {
        NonNull::new(pointer).map(Self)
    }

    pub fn xml(&self) -> Result<String, CallError> {
        // SAFETY: the handle is alive; the text is ours to free.
        owned_text(unsafe { raw::virNetworkGetXMLDesc(self.0.as_ptr(), 0) })
    }

    pub fn is_active(&self) -> Result<bool, CallError> {
        // SAFETY: the handle is alive.
        Ok(check(unsafe { raw::virNetworkIsActive(self.0.as_ptr()) })? == 1)
    }

    pub fn start(&self) -> Result<(), CallError> {
        // SAFETY: the handle is alive.
        check(unsafe { raw::virNetworkCreate(self.0.as_ptr()) }).map(drop)
    }

    pub fn stop(&self) -> Result<(), CallError> {
        // SAFETY: the handle is alive.
        check(unsafe { raw::virNetworkDestroy(self.0.as_ptr()) }).map(drop)
    }

    pub fn undefine(&self) -> Result<(), CallError> {
        // SAFETY: the handle is alive.
        check(unsafe { raw::virNetworkUndefine(self.0.as_ptr()) }).map(drop)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // SAFETY: this handle owns one reference, and it is not used after this.
        unsafe { raw::virNetworkFree(self.0.as_ptr()) };
    }
}
