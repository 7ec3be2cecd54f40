//! A domain: libvirt's word for a machine.

use std::{
    ptr::{self, NonNull},
    time::Duration,
};

use super::{CallError, Checkpoint, c_text, check, owned_array, owned_text, raw, stream::Stream, text};

pub struct Domain(NonNull<raw::VirDomain>);

// SAFETY: libvirt's objects may be used from any thread.
unsafe impl Send for Domain {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Running,
    Paused,
    ShutOff,
    Unknown,
}

#[derive(Debug, Clone, Copy)]
pub enum AddressSource {
    Leases,
    Arp,
}

/// An address that the host has seen a NIC use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedAddress {
    pub mac: String,
    pub address: String,
}

impl Domain {
    pub(super) fn own(pointer: *mut raw::VirDomain) -> Option<Self> {
        NonNull::new(pointer).map(Self)
    }

    fn pointer(&self) -> *mut raw::VirDomain {
        self.0.as_ptr()
    }

    pub fn name(&self) -> String {
        // SAFETY: the handle is alive, and so is the name that it owns.
        text(unsafe { raw::virDomainGetName(self.pointer()) }).unwrap_or_default()
    }

    /// The description as it is now, or as it will be at the next start.
    pub fn xml(&self, next_start: bool) -> Result<String, CallError> {
        let flags = if next_start { raw::XML_INACTIVE } else { 0 };
        // SAFETY: the handle is alive; the text is ours to free.
        owned_text(unsafe { raw::virDomainGetXMLDesc(self.pointer(), flags) })
    }

    pub fn state(&self) -> Result<State, CallError> {
        let (mut state, mut reason) = (0, 0);
        // SAFETY: the handle is alive, the results have room.
        check(unsafe { raw::virDomainGetState(self.pointer(), &mut state, &mut reason, 0) })?;
        Ok(match state {
            raw::STATE_RUNNING | raw::STATE_BLOCKED | raw::STATE_SHUTTING_DOWN => State::Running,
            raw::STATE_PAUSED | raw::STATE_SUSPENDED => State::Paused,
            raw::STATE_SHUT_OFF => State::ShutOff,
            // A crashed domain may have been kept in memory for a dump.
            raw::STATE_CRASHED if !self.is_active()? => State::ShutOff,
            _ => State::Unknown,
        })
    }

    /// Whether it is off because its guest has shut itself down, as far as libvirt remembers: not over its own restart.
    pub fn has_shut_itself_down(&self) -> Result<bool, CallError> {
        let (mut state, mut reason) = (0, 0);
        // SAFETY: the handle is alive, the results have room.
        check(unsafe { raw::virDomainGetState(self.pointer(), &mut state, &mut reason, 0) })?;
        Ok((state, reason) == (raw::STATE_SHUT_OFF, raw::SHUT_OFF_BY_GUEST))
    }

    /// Whether its processors stand still because somebody asked for that.
    pub fn is_suspended(&self) -> Result<bool, CallError> {
        let (mut state, mut reason) = (0, 0);
        // SAFETY: the handle is alive, the results have room.
        check(unsafe { raw::virDomainGetState(self.pointer(), &mut state, &mut reason, 0) })?;
        Ok((state, reason) == (raw::STATE_PAUSED, raw::PAUSED_BY_USER))
    }

    /// Whether there is a process for it, in whatever state.
    pub fn is_active(&self) -> Result<bool, CallError> {
        // SAFETY: the handle is alive.
        Ok(check(unsafe { raw::virDomainIsActive(self.pointer()) })? == 1)
    }

    pub fn autostart(&self) -> Result<bool, CallError> {
        let mut autostart = 0;
        // SAFETY: the handle is alive, the result has room.
        check(unsafe { raw::virDomainGetAutostart(self.pointer(), &mut autostart) })?;
        Ok(autostart != 0)
    }

    pub fn set_autostart(&self, autostart: bool) -> Result<(), CallError> {
        // SAFETY: the handle is alive.
        check(unsafe { raw::virDomainSetAutostart(self.pointer(), i32::from(autostart)) }).map(drop)
    }

    /// Virtual size of a disk in bytes.
    pub fn disk_size(&self, disk: &str) -> Result<u64, CallError> {
        let disk = c_text(disk)?;
        let mut info = raw::VirBlockInfo { capacity: 0, allocation: 0, physical: 0 };
        // SAFETY: the handle is alive, the structure has the layout of virDomainBlockInfo.
        check(unsafe { raw::virDomainGetBlockInfo(self.pointer(), disk.as_ptr(), &mut info, 0) })?;
        Ok(info.capacity)
    }

    pub fn addresses(&self, source: AddressSource) -> Result<Vec<ObservedAddress>, CallError> {
        let source = match source {
            AddressSource::Leases => raw::ADDRESSES_FROM_LEASES,
            AddressSource::Arp => raw::ADDRESSES_FROM_ARP,
        };
        let mut array = ptr::null_mut();
        // SAFETY: the handle is alive; libvirt stores a fresh array of interfaces in `array`, which we free below.
        let count =
            check(unsafe { raw::virDomainInterfaceAddresses(self.pointer(), &mut array, source, 0) })?;
        let mut observed = Vec::new();
        for interface in owned_array(array, count) {
            // SAFETY: each entry is a valid interface with `naddrs` addresses, ours until it is freed here.
            unsafe {
                let entry = &*interface;
                if let (Some(mac), false) = (text(entry.hwaddr), entry.addrs.is_null()) {
                    let addresses = std::slice::from_raw_parts(entry.addrs, entry.naddrs as usize);
                    let addresses = addresses.iter().filter_map(|address| text(address.address));
                    observed.extend(addresses.map(|address| ObservedAddress { mac: mac.clone(), address }));
                }
                raw::virDomainInterfaceFree(interface);
            }
        }
        Ok(observed)
    }

    /// Sets or, with `None`, removes our element in the domain's metadata, of the running machine and of the next start.
    pub fn set_metadata(&self, prefix: &str, uri: &str, xml: Option<&str>) -> Result<(), CallError> {
        let (prefix, uri) = (c_text(prefix)?, c_text(uri)?);
        let xml = xml.map(c_text).transpose()?;
        let xml = xml.as_ref().map_or(ptr::null(), |xml| xml.as_ptr());
        let live = if self.is_active()? { raw::AFFECT_LIVE } else { 0 };
        let flags = live | raw::AFFECT_CONFIG;
        // SAFETY: the handle is alive, all texts are C strings that live until the call returns, NULL means removal.
        let status = unsafe {
            raw::virDomainSetMetadata(
                self.pointer(),
                raw::METADATA_ELEMENT,
                xml,
                prefix.as_ptr(),
                uri.as_ptr(),
                flags,
            )
        };
        check(status).map(drop)
    }

    pub fn start(&self) -> Result<(), CallError> {
        // SAFETY: the handle is alive.
        check(unsafe { raw::virDomainCreate(self.pointer()) }).map(drop)
    }

    /// Its processors stand still, and QEMU has flushed its disks.
    pub fn suspend(&self) -> Result<(), CallError> {
        // SAFETY: the handle is alive.
        check(unsafe { raw::virDomainSuspend(self.pointer()) }).map(drop)
    }

    pub fn resume(&self) -> Result<(), CallError> {
        // SAFETY: the handle is alive.
        check(unsafe { raw::virDomainResume(self.pointer()) }).map(drop)
    }

    /// Presses the ACPI power button.
    pub fn press_power_button(&self) -> Result<(), CallError> {
        // SAFETY: the handle is alive.
        check(unsafe { raw::virDomainShutdownFlags(self.pointer(), raw::SHUTDOWN_ACPI) }).map(drop)
    }

    /// Ends the machine's process: with `gracefully` it is only asked to, so that it can write its caches and bitmaps.
    pub fn destroy(&self, gracefully: bool) -> Result<(), CallError> {
        let flags = if gracefully { raw::DESTROY_GRACEFUL } else { 0 };
        // SAFETY: the handle is alive.
        check(unsafe { raw::virDomainDestroyFlags(self.pointer(), flags) }).map(drop)
    }

    pub fn undefine(&self) -> Result<(), CallError> {
        // SAFETY: the handle is alive.
        check(unsafe { raw::virDomainUndefineFlags(self.pointer(), raw::UNDEFINE_EVERYTHING) }).map(drop)
    }

    /// The scratch files that the description names exist already, as empty qcow2 images of their disks' sizes.
    pub fn begin_backup(&self, backup_xml: &str, checkpoint_xml: Option<&str>) -> Result<(), CallError> {
        let backup = c_text(backup_xml)?;
        let checkpoint = checkpoint_xml.map(c_text).transpose()?;
        let checkpoint = checkpoint.as_ref().map_or(ptr::null(), |xml| xml.as_ptr());
        // SAFETY: the handle is alive, the texts are C strings that live until the call returns, NULL means none.
        check(unsafe {
            raw::virDomainBackupBegin(self.pointer(), backup.as_ptr(), checkpoint, raw::BACKUP_REUSES_FILES)
        })
        .map(drop)
    }

    /// Description of the backup that is running, if one is.
    pub fn backup_xml(&self) -> Result<Option<String>, CallError> {
        // SAFETY: the handle is alive; the text is ours to free.
        match owned_text(unsafe { raw::virDomainBackupGetXMLDesc(self.pointer(), 0) }) {
            Ok(xml) => Ok(Some(xml)),
            Err(error) if error.is_without_backup() => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn abort_job(&self) -> Result<(), CallError> {
        // SAFETY: the handle is alive.
        check(unsafe { raw::virDomainAbortJob(self.pointer()) }).map(drop)
    }

    /// Freezes all file systems of the guest through its agent. Returns how many.
    pub fn freeze(&self) -> Result<u32, CallError> {
        // SAFETY: the handle is alive; NULL stands for all mount points.
        let count = check(unsafe { raw::virDomainFSFreeze(self.pointer(), ptr::null(), 0, 0) })?;
        Ok(u32::try_from(count).unwrap_or(0))
    }

    /// Thaws all file systems of the guest through its agent. Returns how many were frozen.
    pub fn thaw(&self) -> Result<u32, CallError> {
        // SAFETY: the handle is alive; NULL stands for all mount points.
        let count = check(unsafe { raw::virDomainFSThaw(self.pointer(), ptr::null(), 0, 0) })?;
        Ok(u32::try_from(count).unwrap_or(0))
    }

    /// Has the guest's agent tell its clock: the least that it can be asked without marking the machine as tampered with.
    pub fn guest_time(&self) -> Result<(), CallError> {
        let (mut seconds, mut nanoseconds) = (0, 0);
        // SAFETY: the handle is alive, the results have room.
        check(unsafe { raw::virDomainGetTime(self.pointer(), &mut seconds, &mut nanoseconds, 0) }).map(drop)
    }

    /// An image of the first screen as the hypervisor makes it, PPM or PNG; of at most so many bytes.
    pub fn screenshot(&self, most: usize) -> Result<Vec<u8>, CallError> {
        // SAFETY: the handle is alive, and so is the connection that it belongs to.
        let stream = unsafe { raw::virStreamNew(raw::virDomainGetConnect(self.pointer()), 0) };
        let stream = Stream::own(stream).ok_or_else(CallError::last)?;
        // SAFETY: both handles are alive; the text, which names the format, is ours to free.
        owned_text(unsafe { raw::virDomainScreenshot(self.pointer(), stream.pointer(), 0, 0) })?;
        stream.read(most)
    }

    /// How long libvirt waits for the guest's agent, in whole seconds. Without it freezing would wait for ever.
    pub fn set_agent_patience(&self, patience: Duration) -> Result<(), CallError> {
        let seconds = i32::try_from(patience.as_secs()).unwrap_or(i32::MAX).max(1);
        // SAFETY: the handle is alive.
        check(unsafe { raw::virDomainAgentSetResponseTimeout(self.pointer(), seconds, 0) }).map(drop)
    }

    /// Oldest first.
    pub fn checkpoints(&self) -> Result<Vec<Checkpoint>, CallError> {
        let mut array = ptr::null_mut();
        let flags = raw::CHECKPOINT_LIST_TOPOLOGICAL;
        // SAFETY: the handle is alive; libvirt stores a fresh array of references in `array`, each taken over below.
        let count = check(unsafe { raw::virDomainListAllCheckpoints(self.pointer(), &mut array, flags) })?;
        Ok(owned_array(array, count).into_iter().filter_map(Checkpoint::own).collect())
    }

    /// Tells libvirt about a checkpoint whose bitmaps exist already.
    pub fn redefine_checkpoint(&self, xml: &str) -> Result<Checkpoint, CallError> {
        let xml = c_text(xml)?;
        let flags = raw::CHECKPOINT_REDEFINE;
        // SAFETY: the handle is alive, the description is a C string.
        let pointer = unsafe { raw::virDomainCheckpointCreateXML(self.pointer(), xml.as_ptr(), flags) };
        Checkpoint::own(pointer).ok_or_else(CallError::last)
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        // SAFETY: this handle owns one reference, and it is not used after this.
        unsafe { raw::virDomainFree(self.pointer()) };
    }
}
