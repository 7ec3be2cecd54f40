//! Says what the machine lacks for the lab, all at once and with what to do about it.

use std::{env, path::Path};

use nix::unistd::{Uid, User};

use crate::{
    command,
    guest_image::{BUSYBOX, GUEST_AGENT, ImageCache, MBR_CODE, MBR_CODE_OLD},
    postgres,
};

/// Tools the lab starts, and the Debian package of each.
const TOOLS: [(&str, &str); 28] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("qemu-img", "qemu-utils"),
    ("libvirtd", "libvirt-daemon-system"),
    ("virsh", "libvirt-clients"),
    ("dnsmasq", "dnsmasq-base"),
    ("named", "bind9"),
    ("tsig-keygen", "bind9-utils"),
    ("dig", "bind9-dnsutils"),
    ("tini", "tini"),
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("iptables", "iptables"),
    ("ping", "iputils-ping"),
    ("sysctl", "procps"),
    ("cpio", "cpio"),
    ("syslinux", "syslinux"),
    ("mcopy", "mtools"),
    ("mkfs.vfat", "dosfstools"),
    ("mkfs.ext4", "e2fsprogs"),
    ("ldd", "libc-bin"),
    ("sfdisk", "fdisk"),
    ("setpriv", "util-linux"),
    ("setsid", "util-linux"),
    ("mount", "mount"),
    ("bash", "bash"),
    ("awk", "mawk"),
    ("find", "findutils"),
    ("cp", "coreutils"),
];

/// Each thing that is missing, as a sentence; empty when a lab can be built here.
pub fn preflight(cache: &ImageCache) -> Vec<String> {
    let mut missing = Vec::new();
    let root = Uid::effective().is_root();
    if !root {
        missing.push("root: network namespaces and libvirtd need it; run as root".to_owned());
    }
    for (tool, package) in TOOLS.iter().filter(|(tool, _)| !on_path(tool)) {
        missing.push(format!("{tool}: not on the PATH (Debian package {package})"));
    }
    if root && !command::succeeds(command::new("unshare").args(["--net", "--mount", "true"])).unwrap_or(false)
    {
        missing.push(
            "namespaces: this kernel or container does not let root make network and mount namespaces"
                .to_owned(),
        );
    }
    if !Path::new(BUSYBOX).exists() {
        missing.push(format!("{BUSYBOX}: not there (Debian package busybox-static)"));
    }
    if !Path::new(GUEST_AGENT).exists() {
        missing.push(format!("{GUEST_AGENT}: not there (Debian package qemu-guest-agent)"));
    }
    if !Path::new(MBR_CODE).exists() && !Path::new(MBR_CODE_OLD).exists() {
        missing.push(format!("{MBR_CODE}: not there (Debian package syslinux-common)"));
    }
    if let Err(error) = postgres::program("postgres") {
        missing.push(format!("{error} (Debian package postgresql)"));
    }
    if !matches!(User::from_name("postgres"), Ok(Some(_))) {
        missing.push("user postgres: does not exist (Debian package postgresql)".to_owned());
    }
    if !cache.kernel().exists() {
        missing.push(format!(
            "guest kernel: {} is not there; run deploy/lab/install.sh",
            cache.kernel().display()
        ));
    } else if !cache.is_current() {
        missing.push(
            "guest kernel: modules that guests need by now are not there; run deploy/lab/install.sh"
                .to_owned(),
        );
    }
    missing
}

fn on_path(tool: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(tool).is_file())
}
