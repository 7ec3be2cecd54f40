//! What the driver has to be told about its host.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `qemu:///system`, `qemu:///system?socket=/run/alpha/libvirt-sock`.
    pub uri: String,
    /// Snapshots' scratch files and sockets, and the files of test networks. On a disk, not on tmpfs.
    pub state_dir: PathBuf,
    /// Serial consoles of the machines that we define, one file per machine.
    pub console_dir: PathBuf,
    #[serde(default)]
    pub emulation: Emulation,
    /// CPU model of the machines that we define; empty for the hypervisor's default.
    #[serde(default = "default_cpu_model")]
    pub cpu_model: String,
    /// QEMU's binary; libvirt's choice when not given.
    #[serde(default)]
    pub emulator: Option<PathBuf>,
    /// The program whose `thaw-guard` and `hold-guard` stand by while a guest is frozen or held; the one that runs when not given.
    #[serde(default)]
    pub thaw_guard: Option<PathBuf>,
    /// For every call to libvirt. After it the outcome is unknown.
    #[serde(default = "default_call_timeout", with = "seconds")]
    pub call_timeout: Duration,
}

/// How guests' instructions are run. `kvm` is never assumed: where `/dev/kvm` exists a guest may still hang under it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Emulation {
    #[default]
    Qemu,
    Kvm,
}

impl Emulation {
    /// The `type` of libvirt's domain element.
    pub fn domain_type(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Kvm => "kvm",
        }
    }
}

impl Config {
    pub fn new(
        uri: impl Into<String>,
        state_dir: impl Into<PathBuf>,
        console_dir: impl Into<PathBuf>,
    ) -> Self {
        Self {
            uri: uri.into(),
            state_dir: state_dir.into(),
            console_dir: console_dir.into(),
            emulation: Emulation::default(),
            cpu_model: default_cpu_model(),
            emulator: None,
            thaw_guard: None,
            call_timeout: default_call_timeout(),
        }
    }
}

/// Runs distribution kernels under both accelerators; the newest model that QEMU's emulator does not trip over.
fn default_cpu_model() -> String {
    "Haswell-noTSX".to_owned()
}

/// Longer than the 30 s for which libvirt itself waits for a machine that is busy, so that its own answer comes first.
fn default_call_timeout() -> Duration {
    Duration::from_secs(45)
}

/// A duration as a whole number of seconds.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(value.as_secs())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_secs)
    }
}
