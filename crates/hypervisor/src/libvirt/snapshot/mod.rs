//! Snapshots and the change tracking behind them.
//!
//! ```text
//!                       ┌ running ──▶ backup job in QEMU (running.rs) ─────────┐
//!   open_snapshot ──────┤                                                      ├─▶ NBD on a unix socket ─▶ reader.rs
//!                       └ shut off ─▶ checkpoint by qemu-img, then             │
//!                                     qemu-storage-daemon (shut_off.rs) ───────┘
//! ```
//!
//! A checkpoint is a bitmap in each qcow2 disk that records every write from the checkpoint on, until it is deleted. All
//! of them record at once, so the bitmap of a base holds whatever was written in cycles that were abandoned since, and
//! deleting one takes nothing from another.
//!
//! What a snapshot leaves on the host when its process dies – the job, a server process, scratch files – has names that
//! follow from the machine's, and is removed before the next one is opened and before the machine is started.

mod checkpoints;
mod image;
mod joint;
mod quiesce;
mod reader;
mod running;
mod shut_off;
mod standby;

use std::path::{Path, PathBuf};

use understudy_ids::{DiskName, MachineName, Uuid};

use super::{LibvirtHypervisor, describe, ffi::Domain, xml::Element};
use crate::{Error, PowerState, Snapshot, SnapshotRequest};
pub(crate) use reader::open as open_reader;
pub(crate) use shut_off::{end_server, serve};
pub use standby::start as start_guard;

/// Where a snapshot of one machine keeps its files.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// Scratch files and process id.
    dir: PathBuf,
    pub socket: PathBuf,
}

impl Place {
    /// The socket has a short name of its own, because the path of a unix socket ends at 107 bytes.
    pub fn new(state_dir: &Path, machine: &MachineName) -> Self {
        let short = Uuid::new_v5(&Uuid::NAMESPACE_OID, machine.as_str().as_bytes()).simple().to_string();
        Self {
            dir: state_dir.join("snapshots").join(machine.as_str()),
            socket: state_dir.join("nbd").join(format!("{}.sock", &short[..12])),
        }
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.join("server.pid")
    }

    fn scratch(&self, disk: &str) -> PathBuf {
        self.dir.join(format!("{disk}.scratch"))
    }

    pub async fn make(&self) -> Result<(), Error> {
        for dir in [Some(self.dir.as_path()), self.socket.parent()].into_iter().flatten() {
            let made = tokio::fs::create_dir_all(dir).await;
            made.map_err(|error| files(format!("making {}", dir.display()), &error))?;
        }
        Ok(())
    }

    pub async fn remove(&self) -> Result<(), Error> {
        for result in [tokio::fs::remove_dir_all(&self.dir).await, tokio::fs::remove_file(&self.socket).await]
        {
            match result {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(files(
                        format!("removing the snapshot files in {}", self.dir.display()),
                        &error,
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn files(what: String, error: &std::io::Error) -> Error {
    Error::Failed { what, why: error.to_string() }
}

/// A disk as its domain's description names it.
#[derive(Debug, Clone)]
pub(crate) struct TrackedDisk {
    name: DiskName,
    file: PathBuf,
    format: String,
    encrypted: bool,
}

impl TrackedDisk {
    pub fn new(name: DiskName, file: PathBuf, format: &str) -> Self {
        Self { name, file, format: format.to_owned(), encrypted: false }
    }

    /// Only qcow2 files can hold a bitmap.
    fn is_trackable(&self) -> bool {
        self.format == "qcow2"
    }
}

impl LibvirtHypervisor {
    pub(super) async fn make_snapshot(&self, request: &SnapshotRequest) -> Result<Box<dyn Snapshot>, Error> {
        match self.make_ready(request).await? {
            PowerState::ShutOff => self.open_shut_off(request).await,
            _ => self.open_running(request).await,
        }
    }

    /// Nothing is left of an earlier snapshot. Says how the machine stands, which is known.
    async fn make_ready(&self, request: &SnapshotRequest) -> Result<PowerState, Error> {
        check_name(&request.checkpoint.0)?;
        self.close_left_behind(&request.machine).await?;
        let machine = self.read_machine(&request.machine).await?;
        let machine =
            machine.ok_or_else(|| Error::NotFound { what: format!("machine {}", request.machine) })?;
        match machine.power {
            PowerState::Unknown => Err(Error::Unknown {
                what: format!("machine {}", request.machine),
                why: "libvirt reports neither running nor shut off".to_owned(),
            }),
            power => Ok(power),
        }
    }

    /// Removes what a snapshot left behind that was not closed. Does nothing when there is none.
    pub(super) async fn close_left_behind(&self, machine: &MachineName) -> Result<(), Error> {
        let place = Place::new(&self.config.state_dir, machine);
        self.end_backup_job(machine, &place).await?;
        shut_off::end_server(&place).await?;
        place.remove().await
    }
}

/// Names of checkpoints become names of bitmaps and parts of commands' arguments.
fn check_name(name: &str) -> Result<(), Error> {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_');
    if !name.is_empty() && name.len() <= 200 && name.bytes().all(allowed) && !name.starts_with('-') {
        return Ok(());
    }
    let name: String = name.chars().take(80).collect();
    Err(Error::Failed {
        what: format!("a checkpoint named {name:?}"),
        why: "use letters, digits, '-', '.' and '_'".to_owned(),
    })
}

/// The disks that are asked for, and the targets of all disks and drives that the domain has.
fn disks_of(domain: &Domain, wanted: &[DiskName]) -> Result<(Vec<TrackedDisk>, Vec<String>), Error> {
    let description = describe::description(domain, false)?;
    let what = || format!("the disks of machine {}", domain.name());
    let hardware =
        describe::hardware(&description, &[]).map_err(|why| Error::Failed { what: what(), why })?;
    let mut disks = Vec::new();
    for name in wanted {
        let disk = hardware.disks.iter().find(|disk| disk.name == *name);
        let disk = disk
            .ok_or_else(|| Error::NotFound { what: format!("disk {name} of machine {}", domain.name()) })?;
        let file = disk.file.clone().ok_or_else(|| Error::WrongState {
            what: format!("a snapshot of disk {name} of machine {}", domain.name()),
            why: "it is not a file; exclude it from protection".to_owned(),
        })?;
        disks.push(TrackedDisk {
            encrypted: disk.encrypted,
            ..TrackedDisk::new(name.clone(), file, &disk.format)
        });
    }
    let targets = description.find("devices").map(|devices| devices.all("disk").filter_map(target).collect());
    Ok((disks, targets.unwrap_or_default()))
}

fn target(disk: &Element) -> Option<String> {
    disk.attribute_at("target", "dev").map(str::to_owned)
}
