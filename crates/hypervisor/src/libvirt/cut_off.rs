//! Stopping a machine whose time here is over, whatever state libvirtd, QEMU and the storage are in (R-FO-7).
//!
//! ```text
//!   process with the machine's UUID ─▶ its taps down ─▶ libvirt asked to end it, for a while ─▶ killed ─▶ gone
//! ```
//! The cable is pulled first: a QEMU that waits for its storage cannot be ended, but it cannot answer anybody either. Neither that nor the
//! end needs libvirtd, which is asked only because QEMU keeps its change tracking when it ends in order.

use std::{
    collections::BTreeSet,
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use understudy_ids::{MachineName, Uuid};

use super::{LibvirtHypervisor, command};
use crate::Error;

/// For an end in order.
const IN_ORDER: Duration = Duration::from_secs(4);
/// For the kernel to end a process that was killed.
const KILLED: Duration = Duration::from_secs(4);
const POLL: Duration = Duration::from_millis(20);

impl LibvirtHypervisor {
    pub(super) async fn cut_off_machine(&self, name: &MachineName, uuid: Uuid) -> Result<bool, Error> {
        let what = format!("cutting off machine {name}");
        let failed = |error: io::Error| Error::Failed { what: what.clone(), why: error.to_string() };
        let Some(process) = process_of(uuid).map_err(failed)? else { return Ok(false) };
        let mut cables = Ok(());
        for tap in taps(process).map_err(failed)? {
            if let Err(error) = command::run("ip", &["link", "set", "dev", &tap, "down"]).await {
                // The process may have taken the tap with it.
                cables = Err(error);
            }
        }
        let in_order = async {
            match self.read_machine(name).await? {
                Some(machine) if machine.uuid == uuid => self.power_off_machine(name).await,
                // Somebody gave the name to another one.
                _ => Ok(()),
            }
        };
        match tokio::time::timeout(IN_ORDER, in_order).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(machine = %name, %error, "libvirt does not end it; it is killed")
            }
            Err(_) => {
                tracing::warn!(machine = %name, "libvirt did not end it within {IN_ORDER:?}; it is killed")
            }
        }
        let begun = Instant::now();
        while process_of(uuid).map_err(failed)? == Some(process) {
            if begun.elapsed() > KILLED {
                cables?;
                let why =
                    format!("process {process} does not end, though it was killed; its cables are pulled");
                return Err(Error::Failed { what, why });
            }
            match kill(process, Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(failed(error.into())),
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(true)
    }
}

/// The QEMU that runs the machine on this host. Other hosts may share the kernel, as in a lab; they have networks of their own.
fn process_of(uuid: Uuid) -> io::Result<Option<Pid>> {
    let (uuid, host) = (uuid.to_string(), fs::read_link("/proc/thread-self/ns/net")?);
    for entry in fs::read_dir("/proc")? {
        let directory = entry?.path();
        let number = directory.file_name().and_then(|name| name.to_str()?.parse().ok());
        let Some(number) = number else { continue };
        // One that has ended meanwhile has nothing to read.
        let Ok(line) = fs::read(directory.join("cmdline")) else { continue };
        let is_here = || fs::read_link(directory.join("ns/net")).is_ok_and(|network| network == host);
        if runs(&line, &uuid) && is_here() {
            return Ok(Some(Pid::from_raw(number)));
        }
    }
    Ok(None)
}

/// Whether it is the command line of a QEMU with this machine. That of a zombie is empty.
fn runs(line: &[u8], uuid: &str) -> bool {
    let arguments: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let program = arguments.first().map(|first| String::from_utf8_lossy(first)).unwrap_or_default();
    let is_qemu = Path::new(program.as_ref())
        .file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with("qemu-system-"));
    is_qemu && arguments.windows(2).any(|pair| pair[0] == b"-uuid" && pair[1] == uuid.as_bytes())
}

/// The interfaces that the process has open, as the kernel tells.
fn taps(process: Pid) -> io::Result<BTreeSet<String>> {
    let mut taps = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{process}/fdinfo"))? {
        // Closed meanwhile.
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        let names = text.lines().filter_map(|line| line.strip_prefix("iff:"));
        taps.extend(names.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()));
    }
    Ok(taps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_known_by_its_uuid_and_its_program() {
        const UUID: &str = "6ba7b812-9dad-11d1-80b4-00c04fd430c8";
        let line = |words: &[&str]| words.join("\0").into_bytes();
        assert!(runs(&line(&["/usr/bin/qemu-system-x86_64", "-name", "guest=db1", "-uuid", UUID, ""]), UUID));
        assert!(!runs(&line(&["/usr/bin/qemu-system-x86_64", "-uuid", "other", "-x", UUID]), UUID));
        assert!(!runs(&line(&["vi", "-uuid", UUID]), UUID) && !runs(b"", UUID));
    }
}
