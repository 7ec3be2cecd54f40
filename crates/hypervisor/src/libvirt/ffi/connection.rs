//! A connection to a libvirt daemon.

use std::{
    ffi::{c_int, c_ulong},
    ptr::{self, NonNull},
};

use super::{CallError, Domain, Network, Secret, c_text, check, initialize, owned_array, raw};

pub struct Connection(NonNull<raw::VirConnect>);

// SAFETY: libvirt locks a connection itself; its documentation allows use from any thread.
unsafe impl Send for Connection {}
// SAFETY: as above.
unsafe impl Sync for Connection {}

impl Connection {
    pub fn open(uri: &str) -> Result<Self, CallError> {
        initialize();
        let uri = c_text(uri)?;
        // SAFETY: the URI is a valid C string for the length of the call.
        let pointer = unsafe { raw::virConnectOpen(uri.as_ptr()) };
        NonNull::new(pointer).map(Self).ok_or_else(CallError::last)
    }

    /// Version of the daemon's libvirt, `major * 1_000_000 + minor * 1_000 + release`. Doubles as the question whether
    /// the daemon still answers.
    pub fn libvirt_version(&self) -> Result<u64, CallError> {
        let mut version: c_ulong = 0;
        // SAFETY: the connection is open and the result has room.
        check(unsafe { raw::virConnectGetLibVersion(self.0.as_ptr(), &mut version) })?;
        Ok(version)
    }

    /// Version of QEMU in the same form.
    pub fn hypervisor_version(&self) -> Result<u64, CallError> {
        let mut version: c_ulong = 0;
        // SAFETY: as in `libvirt_version`.
        check(unsafe { raw::virConnectGetVersion(self.0.as_ptr(), &mut version) })?;
        Ok(version)
    }

    /// Number of CPUs, and memory in bytes.
    pub fn node(&self) -> Result<(u32, u64), CallError> {
        let mut info = raw::VirNodeInfo {
            model: [0; 32],
            memory: 0,
            cpus: 0,
            mhz: 0,
            nodes: 0,
            sockets: 0,
            cores: 0,
            threads: 0,
        };
        // SAFETY: the structure has the layout of virNodeInfo.
        check(unsafe { raw::virNodeGetInfo(self.0.as_ptr(), &mut info) })?;
        Ok((info.cpus, info.memory * 1024))
    }

    pub fn domains(&self) -> Result<Vec<Domain>, CallError> {
        let mut array = ptr::null_mut();
        // SAFETY: libvirt stores a fresh array of references in `array`; each is taken over by one handle.
        let count = check(unsafe { raw::virConnectListAllDomains(self.0.as_ptr(), &mut array, 0) })?;
        Ok(owned_array(array, count).into_iter().filter_map(Domain::own).collect())
    }

    pub fn networks(&self) -> Result<Vec<Network>, CallError> {
        let mut array = ptr::null_mut();
        // SAFETY: as in `domains`.
        let count: c_int = check(unsafe { raw::virConnectListAllNetworks(self.0.as_ptr(), &mut array, 0) })?;
        Ok(owned_array(array, count).into_iter().filter_map(Network::own).collect())
    }

    pub fn domain(&self, name: &str) -> Result<Option<Domain>, CallError> {
        let name = c_text(name)?;
        // SAFETY: the connection is open, the name is a C string.
        found(Domain::own(unsafe { raw::virDomainLookupByName(self.0.as_ptr(), name.as_ptr()) }))
    }

    pub fn domain_by_uuid(&self, uuid: &str) -> Result<Option<Domain>, CallError> {
        let uuid = c_text(uuid)?;
        // SAFETY: the connection is open, the UUID is a C string.
        found(Domain::own(unsafe { raw::virDomainLookupByUUIDString(self.0.as_ptr(), uuid.as_ptr()) }))
    }

    pub fn network(&self, name: &str) -> Result<Option<Network>, CallError> {
        let name = c_text(name)?;
        // SAFETY: the connection is open, the name is a C string.
        found(Network::own(unsafe { raw::virNetworkLookupByName(self.0.as_ptr(), name.as_ptr()) }))
    }

    pub fn define_domain(&self, xml: &str) -> Result<Domain, CallError> {
        let xml = c_text(xml)?;
        // SAFETY: the connection is open, the description is a C string.
        let pointer = unsafe { raw::virDomainDefineXMLFlags(self.0.as_ptr(), xml.as_ptr(), 0) };
        Domain::own(pointer).ok_or_else(CallError::last)
    }

    pub fn define_network(&self, xml: &str) -> Result<Network, CallError> {
        let xml = c_text(xml)?;
        // SAFETY: the connection is open, the description is a C string.
        let pointer = unsafe { raw::virNetworkDefineXML(self.0.as_ptr(), xml.as_ptr()) };
        Network::own(pointer).ok_or_else(CallError::last)
    }

    pub fn secret(&self, uuid: &str) -> Result<Option<Secret>, CallError> {
        let uuid = c_text(uuid)?;
        // SAFETY: the connection is open, the UUID is a C string.
        found(Secret::own(unsafe { raw::virSecretLookupByUUIDString(self.0.as_ptr(), uuid.as_ptr()) }))
    }

    /// Defines a secret, or finds the one that is alike.
    pub fn define_secret(&self, xml: &str) -> Result<Secret, CallError> {
        let xml = c_text(xml)?;
        // SAFETY: the connection is open, the description is a C string.
        let pointer = unsafe { raw::virSecretDefineXML(self.0.as_ptr(), xml.as_ptr(), 0) };
        Secret::own(pointer).ok_or_else(CallError::last)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: this handle owns one reference, and it is not used after this.
        unsafe {
            raw::virConnectClose(self.0.as_ptr());
            raw::virResetLastError();
        }
    }
}

/// A look-up that found nothing is an answer, not a failure.
fn found<T>(handle: Option<T>) -> Result<Option<T>, CallError> {
    match handle.ok_or_else(CallError::last) {
        Ok(handle) => Ok(Some(handle)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}
