//! A snapshot of a machine that is shut off: its disk files do not change, so they are served as they are.
//!
//! The new checkpoint is made by `qemu-img` in each file first, then libvirt is told about it. QEMU's lock on the files
//! keeps the machine from starting while they are read; [`super::super::LibvirtHypervisor`]'s own start ends the server.

use std::{collections::BTreeSet, path::Path, time::SystemTime};

use async_trait::async_trait;
use serde_json::json;
use understudy_ids::{MachineName, UnixMicros};
use understudy_sealing::Passphrase;

use super::{
    super::{
        LibvirtHypervisor, command, describe, disk_key,
        ffi::{Connection, Domain},
        machines::look_up,
        session::failed,
        xml::Element,
    },
    Place, TrackedDisk, disks_of, files,
    image::{self, Image},
    reader,
};
use crate::{CheckpointName, Error, GuestState, Snapshot, SnapshotDisk, SnapshotRequest};

const SERVER: &str = "qemu-storage-daemon";
/// Prefix of all bitmaps that are ours.
const OURS: &str = "understudy-";

pub struct ShutOffSnapshot {
    hypervisor: LibvirtHypervisor,
    machine: MachineName,
    instant: UnixMicros,
    guest: GuestState,
    checkpoint_made: bool,
    disks: Vec<SnapshotDisk>,
}

impl LibvirtHypervisor {
    pub(super) async fn open_shut_off(&self, request: &SnapshotRequest) -> Result<Box<dyn Snapshot>, Error> {
        let place = Place::new(&self.config.state_dir, &request.machine);
        place.make().await?;
        let instant = UnixMicros::from(SystemTime::now());
        let guest = self.how_it_went_off(&request.machine).await?;
        let disks = self.tracked_disks(&request.machine, Some(&request.disks)).await?;
        let checkpoint_made = self.checkpoint_shut_off(request, &disks).await?;
        let known = self.list_checkpoints(&request.machine).await?;
        let since = since_base(&known, request);
        let mut served = Vec::new();
        for disk in disks {
            let bitmaps = usable(&disk, since.as_deref()).await?;
            served.push((disk, bitmaps));
        }
        let key =
            served.iter().any(|(disk, _)| disk.encrypted).then(|| self.key(&request.machine)).transpose()?;
        serve(&request.machine, &served, key.as_ref(), &place).await?;

        let mut opened = Vec::new();
        for (disk, bitmaps) in &served {
            match reader::open(&request.machine, &disk.name, &place.socket, bitmaps.as_deref()).await {
                Ok(disk) => opened.push(disk),
                Err(error) => {
                    self.close_left_behind(&request.machine).await?;
                    return Err(error);
                }
            }
        }
        Ok(Box::new(ShutOffSnapshot {
            hypervisor: self.clone(),
            machine: request.machine.clone(),
            instant,
            guest,
            checkpoint_made,
            disks: opened,
        }))
    }

    async fn how_it_went_off(&self, machine: &MachineName) -> Result<GuestState, Error> {
        let machine = machine.clone();
        let what = format!("how machine {machine} went off");
        let asked = self.session.call(what.clone(), move |connection| {
            look_up(connection, &machine)?.has_shut_itself_down().map_err(failed(what))
        });
        Ok(if asked.await? { GuestState::Clean } else { GuestState::CRASH })
    }

    /// The machine's disks that are files, or those of them that are named; a named one that is no file is an error.
    pub(super) async fn tracked_disks(
        &self,
        machine: &MachineName,
        named: Option<&[understudy_ids::DiskName]>,
    ) -> Result<Vec<TrackedDisk>, Error> {
        let (machine, named) = (machine.clone(), named.map(<[_]>::to_vec));
        self.session
            .call(format!("the disks of machine {machine}"), move |connection| {
                let domain = look_up(connection, &machine)?;
                let named = match named {
                    Some(named) => named,
                    None => disks_with_files(&domain)?,
                };
                Ok(disks_of(&domain, &named)?.0)
            })
            .await
    }

    /// A disk's file as its bitmaps are changed.
    pub(super) fn image_of(&self, machine: &MachineName, disk: &TrackedDisk) -> Result<Image, Error> {
        let key = disk.encrypted.then(|| self.key(machine)).transpose()?;
        Ok(Image::new(&disk.file, key))
    }

    /// Whether the checkpoint could be made: some disk can hold a bitmap.
    async fn checkpoint_shut_off(
        &self,
        request: &SnapshotRequest,
        disks: &[TrackedDisk],
    ) -> Result<bool, Error> {
        let known = self.list_checkpoints(&request.machine).await?;
        if known.contains(&request.checkpoint) {
            // An attempt before this one got as far as that; nothing has been written since, the machine being off.
            return Ok(true);
        }
        let trackable: Vec<&TrackedDisk> = disks.iter().filter(|disk| disk.is_trackable()).collect();
        for disk in &trackable {
            let image = self.image_of(&request.machine, disk)?;
            for bitmap in image::bitmaps(&disk.file).await? {
                let wanted = known.iter().any(|checkpoint| checkpoint.0 == bitmap.name);
                if bitmap.name.starts_with(OURS) && !wanted || bitmap.name == request.checkpoint.0 {
                    image.remove(&bitmap.name).await?;
                }
            }
            image.add(&request.checkpoint.0).await?;
        }
        if trackable.is_empty() {
            return Ok(false);
        }
        let names: BTreeSet<String> = trackable.iter().map(|disk| disk.name.as_str().to_owned()).collect();
        let (machine, name) = (request.machine.clone(), request.checkpoint.0.clone());
        let parent = known.last().map(|checkpoint| checkpoint.0.clone());
        let what = format!("making checkpoint {name} of machine {machine}");
        self.session
            .call(what, move |connection| announce(connection, &machine, &name, parent.as_deref(), &names))
            .await?;
        Ok(true)
    }
}

fn disks_with_files(domain: &Domain) -> Result<Vec<understudy_ids::DiskName>, Error> {
    let what = format!("the disks of machine {}", domain.name());
    let hardware = describe::hardware(&describe::description(domain, false)?, &[]);
    let hardware = hardware.map_err(|why| Error::Failed { what, why })?;
    Ok(hardware.disks.into_iter().filter(|disk| disk.file.is_some()).map(|disk| disk.name).collect())
}

/// Tells libvirt about a checkpoint whose bitmaps are in the files already.
fn announce(
    connection: &Connection,
    machine: &MachineName,
    name: &str,
    parent: Option<&str>,
    trackable: &BTreeSet<String>,
) -> Result<(), Error> {
    let domain = look_up(connection, machine)?;
    let description = describe::description(&domain, true)?;
    let targets = description.find("devices").map(|devices| devices.all("disk").filter_map(super::target));
    let disks = targets.into_iter().flatten().map(|target| {
        let disk = Element::new("disk").with("name", target.as_str());
        match trackable.contains(&target) {
            true => disk.with("checkpoint", "bitmap").with("bitmap", name),
            false => disk.with("checkpoint", "no"),
        }
    });
    let now = UnixMicros::from(SystemTime::now()).get() / 1_000_000;
    let checkpoint = Element::new("domaincheckpoint")
        .child(Element::new("name").text(name))
        .children(parent.map(|parent| Element::new("parent").child(Element::new("name").text(parent))))
        .child(Element::new("creationTime").text(now.to_string()))
        .child(Element::new("disks").children(disks))
        .child(description);
    let what = format!("making checkpoint {name} of machine {machine}");
    domain.redefine_checkpoint(&checkpoint.write()).map(drop).map_err(failed(what))
}

/// Names of the bitmaps that together hold what was written since the base, or `None` when it is not known.
fn since_base(known: &[CheckpointName], request: &SnapshotRequest) -> Option<Vec<String>> {
    let base = request.base.as_ref()?;
    let from = known.iter().position(|checkpoint| checkpoint == base)?;
    let since = known[from..].iter().filter(|checkpoint| **checkpoint != request.checkpoint);
    Some(since.map(|checkpoint| checkpoint.0.clone()).collect())
}

/// `since`, when the disk's file holds each of these bitmaps and each can be trusted.
async fn usable(disk: &TrackedDisk, since: Option<&[String]>) -> Result<Option<Vec<String>>, Error> {
    let Some(since) = since.filter(|_| disk.is_trackable()) else { return Ok(None) };
    let bitmaps = image::bitmaps(&disk.file).await?;
    let trusted = |name: &String| bitmaps.iter().any(|bitmap| bitmap.name == *name && bitmap.is_consistent);
    Ok(since.iter().all(trusted).then(|| since.to_vec()))
}

/// Starts the process that serves the files. It returns when it is ready to be connected to.
pub(crate) async fn serve(
    machine: &MachineName,
    disks: &[(TrackedDisk, Option<Vec<String>>)],
    key: Option<&Passphrase>,
    place: &Place,
) -> Result<(), Error> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut arguments = vec!["--daemonize".to_owned(), "--pidfile".to_owned(), text(&place.pid_file())];
    let server = json!({ "addr": { "type": "unix", "path": text(&place.socket) }, "max-connections": 0 });
    arguments.extend(key.into_iter().flat_map(|_| disk_key::from_stdin()));
    arguments.extend(["--nbd-server".to_owned(), server.to_string()]);
    for (index, (disk, bitmaps)) in disks.iter().enumerate() {
        let node = format!("disk{index}");
        let file = json!({ "driver": "file", "filename": text(&disk.file) });
        let mut block = if disk.encrypted {
            disk_key::with_backing(&disk.file)?
        } else {
            json!({ "driver": disk.format, "file": file })
        };
        (block["node-name"], block["read-only"]) = (json!(node), json!(true));
        let bitmaps = bitmaps.clone().unwrap_or_default();
        let export = json!({ "type": "nbd", "id": node, "node-name": node, "name": disk.name.as_str(), "bitmaps": bitmaps });
        arguments.extend([
            "--blockdev".to_owned(),
            block.to_string(),
            "--export".to_owned(),
            export.to_string(),
        ]);
    }
    let started = match key {
        Some(key) => command::run_with_input(SERVER, &arguments, key.expose()).await,
        None => command::run(SERVER, &arguments).await,
    };
    started.map(drop).map_err(|error| Error::Failed {
        what: format!("serving the disks of machine {machine}"),
        why: error.to_string(),
    })
}

/// Ends the server that an earlier snapshot started, if it still runs.
pub(crate) async fn end_server(place: &Place) -> Result<(), Error> {
    super::super::process::end(&place.pid_file(), SERVER)
        .await
        .map_err(|error| files(format!("ending the server of {}", place.dir.display()), &error))
}

#[async_trait]
impl Snapshot for ShutOffSnapshot {
    fn instant(&self) -> UnixMicros {
        self.instant
    }

    fn disks(&self) -> &[SnapshotDisk] {
        &self.disks
    }

    fn checkpoint_made(&self) -> bool {
        self.checkpoint_made
    }

    fn guest(&self) -> &GuestState {
        &self.guest
    }

    async fn close(self: Box<Self>) -> Result<(), Error> {
        let Self { hypervisor, machine, disks, .. } = *self;
        drop(disks);
        hypervisor.close_left_behind(&machine).await
    }
}
