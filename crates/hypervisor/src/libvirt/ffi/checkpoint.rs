//! A checkpoint of a domain.

use std::ptr::NonNull;

use super::{CallError, check, owned_text, raw, text};

pub struct Checkpoint(NonNull<raw::VirCheckpoint>);

// SAFETY: libvirt's objects may be used from any thread.
unsafe impl Send for Checkpoint {}

impl Checkpoint {
    pub(super) fn own(pointer: *mut raw::VirCheckpoint) -> Option<Self> {
        NonNull::new(pointer).map(Self)
    }

    pub fn name(&self) -> String {
        // SAFETY: the handle is alive, and so is the name that it owns.
        text(unsafe { raw::virDomainCheckpointGetName(self.0.as_ptr()) }).unwrap_or_default()
    }

    /// Its description with the bytes that each disk has changed since. Only for running domains.
    pub fn xml_with_sizes(&self) -> Result<String, CallError> {
        // SAFETY: the handle is alive; the text is ours to free.
        owned_text(unsafe {
            raw::virDomainCheckpointGetXMLDesc(self.0.as_ptr(), raw::CHECKPOINT_XML_SIZES_ONLY)
        })
    }

    /// Removes the checkpoint with its bitmaps. Only for running domains.
    pub fn delete(&self) -> Result<(), CallError> {
        // SAFETY: the handle is alive.
        check(unsafe { raw::virDomainCheckpointDelete(self.0.as_ptr(), 0) }).map(drop)
    }

    /// Makes libvirt forget the checkpoint; bitmaps stay where they are.
    pub fn delete_metadata(&self) -> Result<(), CallError> {
        // SAFETY: the handle is alive.
        let status =
            unsafe { raw::virDomainCheckpointDelete(self.0.as_ptr(), raw::CHECKPOINT_DELETE_METADATA_ONLY) };
        check(status).map(drop)
    }
}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        // SAFETY: this handle owns one reference, and it is not used after this.
        unsafe { raw::virDomainCheckpointFree(self.0.as_ptr()) };
    }
}
