//! Safe handles on libvirt's objects. The only module of this crate that calls into libvirt.
//!
//! All calls block the thread. A handle frees its object when it is dropped; libvirt keeps a connection alive for as
//! long as an object of it exists, so handles may be dropped in any order. libvirt's objects may be used from any thread,
//! but its errors are kept per thread: each wrapper reads the error right after the call that failed.

mod checkpoint;
mod connection;
mod domain;
mod network;
mod raw;
mod secret;
mod stream;

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    ptr,
    sync::Once,
};

pub use checkpoint::Checkpoint;
pub use connection::Connection;
pub use domain::{AddressSource, Domain, ObservedAddress, State};
pub use network::Network;
pub use secret::Secret;

/// What libvirt said about a call that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (libvirt error {code})")]
pub struct CallError {
    pub code: i32,
    pub message: String,
}

impl CallError {
    pub fn is_missing(&self) -> bool {
        matches!(self.code, raw::ERR_NO_DOMAIN | raw::ERR_NO_NETWORK | raw::ERR_NO_SECRET)
    }

    pub fn is_wrong_state(&self) -> bool {
        matches!(self.code, raw::ERR_OPERATION_INVALID | raw::ERR_OPERATION_TIMEOUT)
    }

    pub fn is_without_backup(&self) -> bool {
        self.code == raw::ERR_NO_DOMAIN_BACKUP
    }

    pub fn is_without_metadata(&self) -> bool {
        self.code == raw::ERR_NO_DOMAIN_METADATA
    }

    pub fn is_checkpoint_inconsistent(&self) -> bool {
        self.code == raw::ERR_CHECKPOINT_INCONSISTENT
    }

    pub fn is_without_agent(&self) -> bool {
        self.code == raw::ERR_ARGUMENT_UNSUPPORTED
    }

    pub fn is_agent_silent(&self) -> bool {
        matches!(self.code, raw::ERR_AGENT_UNRESPONSIVE | raw::ERR_AGENT_UNSYNCED)
    }

    /// The error of the last call that this thread made.
    fn last() -> Self {
        // SAFETY: virGetLastError returns NULL or a structure that stays valid until this thread's next libvirt call.
        let error = unsafe { raw::virGetLastError().as_ref() };
        error.map_or_else(
            || Self { code: raw::ERR_OPERATION_FAILED, message: "libvirt gave no reason".to_owned() },
            |error| Self { code: error.code, message: text(error.message).unwrap_or_default() },
        )
    }
}

/// Brings libvirt up in this process, and keeps it from printing its errors to stderr: they are in our errors.
fn initialize() {
    static ONCE: Once = Once::new();
    unsafe extern "C" fn quiet(_: *mut c_void, _: *mut raw::VirError) {}
    ONCE.call_once(|| {
        // SAFETY: both may be called at any time; the handler ignores its arguments.
        unsafe {
            raw::virInitialize();
            raw::virSetErrorFunc(ptr::null_mut(), Some(quiet));
        }
    });
}

/// A copy of a text that libvirt keeps.
fn text(source: *const c_char) -> Option<String> {
    if source.is_null() {
        return None;
    }
    // SAFETY: libvirt's texts end with a zero byte, and the caller got this one from a call that just returned it.
    Some(unsafe { CStr::from_ptr(source) }.to_string_lossy().into_owned())
}

/// A copy of a text that libvirt has given to us, which is freed.
fn owned_text(source: *mut c_char) -> Result<String, CallError> {
    let copy = text(source).ok_or_else(CallError::last)?;
    // SAFETY: the text was allocated with malloc by libvirt for the caller to free, and is not used after this.
    unsafe { libc::free(source.cast()) };
    Ok(copy)
}

/// Takes over an array of pointers that libvirt allocated.
fn owned_array<T>(array: *mut *mut T, count: c_int) -> Vec<*mut T> {
    if array.is_null() {
        return Vec::new();
    }
    let count = usize::try_from(count).unwrap_or(0);
    // SAFETY: libvirt returned an array with `count` entries, allocated with malloc for the caller to free.
    unsafe {
        let entries = std::slice::from_raw_parts(array, count).to_vec();
        libc::free(array.cast());
        entries
    }
}

fn c_text(source: &str) -> Result<CString, CallError> {
    CString::new(source).map_err(|_| CallError {
        code: raw::ERR_OPERATION_FAILED,
        message: "a text for libvirt has a zero byte in it".to_owned(),
    })
}

/// libvirt returns a negative number for failure.
fn check(status: c_int) -> Result<c_int, CallError> {
    if status < 0 { Err(CallError::last()) } else { Ok(status) }
}
