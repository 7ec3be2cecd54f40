//! The functions of libvirt that we call, as its headers declare them. Its ABI has been stable since 2005.
//!
//! Declared here because the published bindings pin one exact version of `libc` for the whole program.

use std::ffi::{c_char, c_int, c_uint, c_ulong, c_void};

macro_rules! opaque {
    ($($name:ident),*) => { $(#[repr(C)] pub struct $name { _private: [u8; 0] })* };
}
opaque!(VirConnect, VirDomain, VirNetwork, VirCheckpoint, VirSecret, VirStream);

#[repr(C)]
pub struct VirError {
    pub code: c_int,
    pub domain: c_int,
    pub message: *const c_char,
    // More fields follow; libvirt owns the structure and we only read its beginning.
}

#[repr(C)]
pub struct VirNodeInfo {
    pub model: [c_char; 32],
    /// In KiB.
    pub memory: c_ulong,
    pub cpus: c_uint,
    pub mhz: c_uint,
    pub nodes: c_uint,
    pub sockets: c_uint,
    pub cores: c_uint,
    pub threads: c_uint,
}

#[repr(C)]
pub struct VirBlockInfo {
    pub capacity: u64,
    pub allocation: u64,
    pub physical: u64,
}

#[repr(C)]
pub struct VirIpAddress {
    pub kind: c_int,
    pub address: *mut c_char,
    pub prefix: c_uint,
}

#[repr(C)]
pub struct VirInterface {
    pub name: *mut c_char,
    pub hwaddr: *mut c_char,
    pub naddrs: c_uint,
    pub addrs: *mut VirIpAddress,
}

pub type ErrorHandler = Option<unsafe extern "C" fn(*mut c_void, *mut VirError)>;

#[link(name = "virt")]
unsafe extern "C" {
    pub fn virInitialize() -> c_int;
    pub fn virSetErrorFunc(data: *mut c_void, handler: ErrorHandler);
    pub fn virGetLastError() -> *const VirError;
    pub fn virResetLastError();

    pub fn virConnectOpen(uri: *const c_char) -> *mut VirConnect;
    pub fn virConnectClose(connection: *mut VirConnect) -> c_int;
    pub fn virConnectGetLibVersion(connection: *mut VirConnect, version: *mut c_ulong) -> c_int;
    pub fn virConnectGetVersion(connection: *mut VirConnect, version: *mut c_ulong) -> c_int;
    pub fn virNodeGetInfo(connection: *mut VirConnect, info: *mut VirNodeInfo) -> c_int;
    pub fn virConnectListAllDomains(
        connection: *mut VirConnect,
        domains: *mut *mut *mut VirDomain,
        flags: c_uint,
    ) -> c_int;
    pub fn virConnectListAllNetworks(
        connection: *mut VirConnect,
        networks: *mut *mut *mut VirNetwork,
        flags: c_uint,
    ) -> c_int;

    pub fn virDomainLookupByName(connection: *mut VirConnect, name: *const c_char) -> *mut VirDomain;
    pub fn virDomainLookupByUUIDString(connection: *mut VirConnect, uuid: *const c_char) -> *mut VirDomain;
    pub fn virDomainDefineXMLFlags(
        connection: *mut VirConnect,
        xml: *const c_char,
        flags: c_uint,
    ) -> *mut VirDomain;
    pub fn virDomainFree(domain: *mut VirDomain) -> c_int;
    pub fn virDomainGetName(domain: *mut VirDomain) -> *const c_char;
    pub fn virDomainGetXMLDesc(domain: *mut VirDomain, flags: c_uint) -> *mut c_char;
    pub fn virDomainGetState(
        domain: *mut VirDomain,
        state: *mut c_int,
        reason: *mut c_int,
        flags: c_uint,
    ) -> c_int;
    pub fn virDomainIsActive(domain: *mut VirDomain) -> c_int;
    pub fn virDomainGetAutostart(domain: *mut VirDomain, autostart: *mut c_int) -> c_int;
    pub fn virDomainSetAutostart(domain: *mut VirDomain, autostart: c_int) -> c_int;
    pub fn virDomainGetBlockInfo(
        domain: *mut VirDomain,
        disk: *const c_char,
        info: *mut VirBlockInfo,
        flags: c_uint,
    ) -> c_int;
    pub fn virDomainInterfaceAddresses(
        domain: *mut VirDomain,
        interfaces: *mut *mut *mut VirInterface,
        source: c_uint,
        flags: c_uint,
    ) -> c_int;
    pub fn virDomainInterfaceFree(interface: *mut VirInterface);
    pub fn virDomainSetMetadata(
        domain: *mut VirDomain,
        kind: c_int,
        metadata: *const c_char,
        key: *const c_char,
        uri: *const c_char,
        flags: c_uint,
    ) -> c_int;
    pub fn virDomainCreate(domain: *mut VirDomain) -> c_int;
    pub fn virDomainSuspend(domain: *mut VirDomain) -> c_int;
    pub fn virDomainResume(domain: *mut VirDomain) -> c_int;
    pub fn virDomainShutdownFlags(domain: *mut VirDomain, flags: c_uint) -> c_int;
    pub fn virDomainDestroyFlags(domain: *mut VirDomain, flags: c_uint) -> c_int;
    pub fn virDomainUndefineFlags(domain: *mut VirDomain, flags: c_uint) -> c_int;

    pub fn virDomainBackupBegin(
        domain: *mut VirDomain,
        backup_xml: *const c_char,
        checkpoint_xml: *const c_char,
        flags: c_uint,
    ) -> c_int;
    pub fn virDomainBackupGetXMLDesc(domain: *mut VirDomain, flags: c_uint) -> *mut c_char;
    pub fn virDomainAbortJob(domain: *mut VirDomain) -> c_int;

    pub fn virDomainFSFreeze(
        domain: *mut VirDomain,
        mount_points: *const *const c_char,
        count: c_uint,
        flags: c_uint,
    ) -> c_int;
    pub fn virDomainFSThaw(
        domain: *mut VirDomain,
        mount_points: *const *const c_char,
        count: c_uint,
        flags: c_uint,
    ) -> c_int;
    pub fn virDomainGetTime(
        domain: *mut VirDomain,
        seconds: *mut i64,
        nanoseconds: *mut c_uint,
        flags: c_uint,
    ) -> c_int;
    pub fn virDomainAgentSetResponseTimeout(domain: *mut VirDomain, seconds: c_int, flags: c_uint) -> c_int;

    pub fn virDomainGetConnect(domain: *mut VirDomain) -> *mut VirConnect;
    pub fn virDomainScreenshot(
        domain: *mut VirDomain,
        stream: *mut VirStream,
        screen: c_uint,
        flags: c_uint,
    ) -> *mut c_char;
    pub fn virStreamNew(connection: *mut VirConnect, flags: c_uint) -> *mut VirStream;
    pub fn virStreamRecv(stream: *mut VirStream, data: *mut c_char, size: usize) -> c_int;
    pub fn virStreamFinish(stream: *mut VirStream) -> c_int;
    pub fn virStreamAbort(stream: *mut VirStream) -> c_int;
    pub fn virStreamFree(stream: *mut VirStream) -> c_int;

    pub fn virDomainListAllCheckpoints(
        domain: *mut VirDomain,
        checkpoints: *mut *mut *mut VirCheckpoint,
        flags: c_uint,
    ) -> c_int;
    pub fn virDomainCheckpointCreateXML(
        domain: *mut VirDomain,
        xml: *const c_char,
        flags: c_uint,
    ) -> *mut VirCheckpoint;
    pub fn virDomainCheckpointGetName(checkpoint: *mut VirCheckpoint) -> *const c_char;
    pub fn virDomainCheckpointGetXMLDesc(checkpoint: *mut VirCheckpoint, flags: c_uint) -> *mut c_char;
    pub fn virDomainCheckpointDelete(checkpoint: *mut VirCheckpoint, flags: c_uint) -> c_int;
    pub fn virDomainCheckpointFree(checkpoint: *mut VirCheckpoint) -> c_int;

    pub fn virNetworkLookupByName(connection: *mut VirConnect, name: *const c_char) -> *mut VirNetwork;
    pub fn virNetworkDefineXML(connection: *mut VirConnect, xml: *const c_char) -> *mut VirNetwork;
    pub fn virNetworkFree(network: *mut VirNetwork) -> c_int;
    pub fn virNetworkGetXMLDesc(network: *mut VirNetwork, flags: c_uint) -> *mut c_char;
    pub fn virNetworkIsActive(network: *mut VirNetwork) -> c_int;
    pub fn virNetworkCreate(network: *mut VirNetwork) -> c_int;
    pub fn virNetworkDestroy(network: *mut VirNetwork) -> c_int;
    pub fn virNetworkUndefine(network: *mut VirNetwork) -> c_int;

    pub fn virSecretLookupByUUIDString(connection: *mut VirConnect, uuid: *const c_char) -> *mut VirSecret;
    pub fn virSecretDefineXML(
        connection: *mut VirConnect,
        xml: *const c_char,
        flags: c_uint,
    ) -> *mut VirSecret;
    pub fn virSecretSetValue(secret: *mut VirSecret, value: *const u8, size: usize, flags: c_uint) -> c_int;
    pub fn virSecretUndefine(secret: *mut VirSecret) -> c_int;
    pub fn virSecretFree(secret: *mut VirSecret) -> c_int;
}

pub const STATE_RUNNING: c_int = 1;
pub const STATE_BLOCKED: c_int = 2;
pub const STATE_PAUSED: c_int = 3;
/// `VIR_DOMAIN_PAUSED_USER`
pub const PAUSED_BY_USER: c_int = 1;
pub const STATE_SHUTTING_DOWN: c_int = 4;
pub const STATE_SHUT_OFF: c_int = 5;
/// `VIR_DOMAIN_SHUTOFF_SHUTDOWN`: by the guest itself.
pub const SHUT_OFF_BY_GUEST: c_int = 1;
pub const STATE_CRASHED: c_int = 6;
pub const STATE_SUSPENDED: c_int = 7;

pub const XML_INACTIVE: c_uint = 2;
pub const AFFECT_LIVE: c_uint = 1;
pub const AFFECT_CONFIG: c_uint = 2;
pub const METADATA_ELEMENT: c_int = 2;
pub const SHUTDOWN_ACPI: c_uint = 1;
pub const DESTROY_GRACEFUL: c_uint = 1;
/// Managed save image, snapshot metadata, NVRAM file, checkpoint metadata.
pub const UNDEFINE_EVERYTHING: c_uint = 1 | 2 | 4 | 16;
pub const CHECKPOINT_REDEFINE: c_uint = 1;
pub const CHECKPOINT_LIST_TOPOLOGICAL: c_uint = 2;
/// `VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN` and `VIR_DOMAIN_CHECKPOINT_XML_SIZE`
pub const CHECKPOINT_XML_SIZES_ONLY: c_uint = 2 | 4;
pub const CHECKPOINT_DELETE_METADATA_ONLY: c_uint = 2;
/// `VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL`
pub const BACKUP_REUSES_FILES: c_uint = 1;
pub const ADDRESSES_FROM_LEASES: c_uint = 0;
pub const ADDRESSES_FROM_ARP: c_uint = 2;

pub const ERR_OPERATION_FAILED: c_int = 9;
pub const ERR_NO_DOMAIN: c_int = 42;
pub const ERR_NO_NETWORK: c_int = 43;
pub const ERR_OPERATION_INVALID: c_int = 55;
pub const ERR_NO_SECRET: c_int = 66;
pub const ERR_OPERATION_TIMEOUT: c_int = 68;
/// `VIR_ERR_ARGUMENT_UNSUPPORTED`: of calls to a guest agent that is not configured.
pub const ERR_ARGUMENT_UNSUPPORTED: c_int = 74;
pub const ERR_AGENT_UNRESPONSIVE: c_int = 86;
pub const ERR_AGENT_UNSYNCED: c_int = 97;
pub const ERR_NO_DOMAIN_METADATA: c_int = 80;
pub const ERR_NO_DOMAIN_BACKUP: c_int = 104;
pub const ERR_CHECKPOINT_INCONSISTENT: c_int = 109;
