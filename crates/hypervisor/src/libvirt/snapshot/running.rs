//! A snapshot of a running machine: a pull-mode backup job, which QEMU freezes for all disks in one transaction together
//! with the new checkpoint's bitmaps.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
use understudy_ids::{DiskName, MachineName, UnixMicros};
use understudy_replica_store::qcow2::Writer;

use super::{
    super::{LibvirtHypervisor, ffi::Domain, machines::look_up, session::failed, xml::Element},
    Place, TrackedDisk, disks_of, files, reader,
};
use crate::{Error, GuestState, Snapshot, SnapshotDisk, SnapshotRequest};

/// The exports' name for the bitmap of what changed since the base.
const EXPORTED_BITMAP: &str = "changed";
const POLL: Duration = Duration::from_millis(20);
/// For the end of a job that was begun only to see whether it can be.
const TRIAL_LIMIT: Duration = Duration::from_secs(10);

pub struct RunningSnapshot {
    hypervisor: LibvirtHypervisor,
    machine: MachineName,
    instant: UnixMicros,
    guest: GuestState,
    checkpoint_made: bool,
    disks: Vec<SnapshotDisk>,
}

/// What was begun.
pub(super) struct Begun {
    instant: UnixMicros,
    guest: GuestState,
    checkpoint_made: bool,
    /// Disks whose export has a bitmap of what changed.
    tracked: BTreeSet<DiskName>,
}

/// Everything that can be found out and made beforehand, so that a guest that is brought to rest waits for nothing but the job.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    disks: Vec<TrackedDisk>,
    targets: Vec<String>,
    base: String,
    /// Disks whose changes since the base are asked for.
    tracked: BTreeSet<DiskName>,
    checkpoint: Option<String>,
    place: Place,
}

impl Begun {
    pub fn of(prepared: Prepared, instant: UnixMicros, guest: GuestState) -> Self {
        let Prepared { tracked, checkpoint, .. } = prepared;
        Self { instant, guest, checkpoint_made: checkpoint.is_some(), tracked }
    }
}

impl LibvirtHypervisor {
    pub(super) async fn open_running(&self, request: &SnapshotRequest) -> Result<Box<dyn Snapshot>, Error> {
        let place = Place::new(&self.config.state_dir, &request.machine);
        place.make().await?;
        // To its end, also when nobody waits for it any more: a guest that is at rest goes on only at the end.
        let beginning = {
            let (this, request, place) = (self.clone(), request.clone(), place.clone());
            tokio::spawn(async move { this.begin(&request, place).await })
        };
        let what = format!("beginning a snapshot of machine {}", request.machine);
        let begun = beginning.await.map_err(|e| Error::Unknown { what, why: e.to_string() })??;
        self.read_running(request, begun).await
    }

    /// Opens what a job that was begun serves.
    pub(super) async fn read_running(
        &self,
        request: &SnapshotRequest,
        begun: Begun,
    ) -> Result<Box<dyn Snapshot>, Error> {
        let place = Place::new(&self.config.state_dir, &request.machine);
        let mut disks = Vec::new();
        for disk in &request.disks {
            let bitmap = [EXPORTED_BITMAP.to_owned()];
            let bitmaps = begun.tracked.contains(disk).then_some(bitmap.as_slice());
            match reader::open(&request.machine, disk, &place.socket, bitmaps).await {
                Ok(disk) => disks.push(disk),
                Err(error) => {
                    self.close_left_behind(&request.machine).await?;
                    return Err(error);
                }
            }
        }
        Ok(Box::new(RunningSnapshot {
            hypervisor: self.clone(),
            machine: request.machine.clone(),
            instant: begun.instant,
            guest: begun.guest,
            checkpoint_made: begun.checkpoint_made,
            disks,
        }))
    }

    async fn begin(&self, request: &SnapshotRequest, place: Place) -> Result<Begun, Error> {
        let mut prepared = self.prepare_running(request, place).await?;
        let (mut attempt, mut guest) = self.at_rest(request, self.attempt(request, &prepared)).await;
        if attempt.as_ref().is_ok_and(Option::is_none) {
            let before = prepared.clone();
            prepared.tracked = self.on_domain(request, move |domain| usable(domain, &before)).await?;
            (attempt, guest) = self.at_rest(request, self.attempt(request, &prepared)).await;
        }
        let Some(instant) = attempt? else {
            let why = "the disks whose changes it knew a moment ago are not tracked any more".to_owned();
            return Err(Error::Tracking { machine: request.machine.clone(), why });
        };
        Ok(Begun::of(prepared, instant, guest))
    }

    pub(super) async fn prepare_running(
        &self,
        request: &SnapshotRequest,
        place: Place,
    ) -> Result<Prepared, Error> {
        let wanted = request.clone();
        self.on_domain(request, move |domain| prepare(domain, &wanted, place)).await
    }

    /// Begins the job and returns its instant, or nothing where the change tracking that it asks for cannot be believed.
    pub(super) async fn attempt(
        &self,
        request: &SnapshotRequest,
        prepared: &Prepared,
    ) -> Result<Option<UnixMicros>, Error> {
        let prepared = prepared.clone();
        let what = begin_what(request);
        let begin = move |domain: &Domain| {
            let backup = prepared.backup_xml(&prepared.disks, &prepared.tracked);
            let instant = UnixMicros::from(SystemTime::now());
            match domain.begin_backup(&backup, prepared.checkpoint.as_deref()) {
                Ok(()) => Ok(Some(instant)),
                Err(error) if error.is_checkpoint_inconsistent() => Ok(None),
                Err(error) => Err(failed(what)(error)),
            }
        };
        self.on_domain(request, begin).await
    }

    async fn on_domain<T: Send + 'static>(
        &self,
        request: &SnapshotRequest,
        work: impl FnOnce(&Domain) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let machine = request.machine.clone();
        self.session.call(begin_what(request), move |connection| work(&look_up(connection, &machine)?)).await
    }

    /// Ends the backup job that a snapshot of ours runs, if one does. Somebody else's is left alone.
    pub(super) async fn end_backup_job(&self, machine: &MachineName, place: &Place) -> Result<(), Error> {
        let (machine, socket) = (machine.clone(), place.socket.to_string_lossy().into_owned());
        let what = format!("ending the snapshot of machine {machine}");
        let give_up = self.session.timeout() / 2;
        self.session
            .call(what.clone(), move |connection| {
                let domain = match look_up(connection, &machine) {
                    Err(Error::NotFound { .. }) => return Ok(()),
                    found => found?,
                };
                let Some(job) = backup_job(&domain)? else { return Ok(()) };
                if job.attribute_at("server", "socket") != Some(&socket) {
                    let why = "a backup of another program is running; wait for it or end it with virsh domjobabort";
                    return Err(Error::WrongState { what, why: why.to_owned() });
                }
                end_job(&domain, give_up)
            })
            .await
    }
}

/// Aborts the backup job and waits until it is gone: libvirt ends it in the background and has no call to wait for that.
fn end_job(domain: &Domain, give_up: Duration) -> Result<(), Error> {
    let what = format!("ending the backup job of machine {}", domain.name());
    let aborted = domain.abort_job();
    let deadline = Instant::now() + give_up;
    while backup_job(domain)?.is_some() {
        if Instant::now() > deadline {
            aborted.map_err(failed(what.clone()))?;
            return Err(Error::Unknown { what, why: "the backup job does not end".to_owned() });
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

fn backup_job(domain: &Domain) -> Result<Option<Element>, Error> {
    let what = format!("the backup job of machine {}", domain.name());
    if !domain.is_active().map_err(failed(what.clone()))? {
        return Ok(None);
    }
    let xml = match domain.backup_xml() {
        // It went off between the two calls.
        Err(_) if !domain.is_active().map_err(failed(what.clone()))? => None,
        result => result.map_err(failed(what.clone()))?,
    };
    xml.map(|xml| Element::parse(&xml).map_err(|why| Error::Failed { what, why })).transpose()
}

fn begin_what(request: &SnapshotRequest) -> String {
    format!("beginning a snapshot of machine {}", request.machine)
}

fn prepare(domain: &Domain, request: &SnapshotRequest, place: Place) -> Result<Prepared, Error> {
    let what = begin_what(request);
    let (disks, targets) = disks_of(domain, &request.disks)?;
    let mut base = None;
    for checkpoint in domain.checkpoints().map_err(failed(what.clone()))? {
        let name = checkpoint.name();
        if name == request.checkpoint.0 {
            // Of an attempt whose answer was lost. Older checkpoints have recorded what it has.
            checkpoint.delete().map_err(failed(what.clone()))?;
        } else if request.base.as_ref().is_some_and(|wanted| wanted.0 == name) {
            base = Some(name);
        }
    }
    let trackable = disks.iter().filter(|disk| disk.is_trackable()).map(|disk| disk.name.clone());
    let trackable: BTreeSet<DiskName> = trackable.collect();
    let tracked = if base.is_some() { trackable.clone() } else { BTreeSet::new() };
    let checkpoint =
        (!trackable.is_empty()).then(|| checkpoint_xml(&request.checkpoint.0, &trackable, &targets));
    make_scratch_files(domain, &disks, &place)?;
    Ok(Prepared { disks, targets, base: base.unwrap_or_default(), tracked, checkpoint, place })
}

/// Makes the files that keep what the guest overwrites while the snapshot is open.
///
/// libvirt would have QEMU make them, as a job. When the machine's disks are asked for while that job runs – and the inventory
/// asks once a second – QEMU 7.2 ends with an assertion (`qcow2_get_specific_info`), and the guest with it.
fn make_scratch_files(domain: &Domain, disks: &[TrackedDisk], place: &Place) -> Result<(), Error> {
    for disk in disks {
        let file = place.scratch(disk.name.as_str());
        let what = || format!("making the scratch file {}", file.display());
        let size = domain.disk_size(disk.name.as_str()).map_err(failed(what()))?;
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(files(what(), &error)),
            _ => {}
        }
        let made = Writer::create(&file, size, None).and_then(Writer::finish);
        made.map_err(|error| Error::Failed { what: what(), why: error.to_string() })?;
    }
    Ok(())
}

/// Which disks' change tracking since the base libvirt accepts, found out by asking for each alone. Leaves everything prepared as
/// it was.
fn usable(domain: &Domain, prepared: &Prepared) -> Result<BTreeSet<DiskName>, Error> {
    let what = format!("looking for change tracking of machine {}", domain.name());
    let mut usable = BTreeSet::new();
    for disk in prepared.disks.iter().filter(|disk| prepared.tracked.contains(&disk.name)) {
        let alone = BTreeSet::from([disk.name.clone()]);
        match domain.begin_backup(&prepared.backup_xml(std::slice::from_ref(disk), &alone), None) {
            Ok(()) => {
                usable.insert(disk.name.clone());
                end_job(domain, TRIAL_LIMIT)?;
            }
            Err(error) if error.is_checkpoint_inconsistent() => {
                tracing::warn!(machine = domain.name(), disk = %disk.name, %error, "change tracking is not usable");
            }
            Err(error) => return Err(failed(what)(error)),
        }
    }
    make_scratch_files(domain, &prepared.disks, &prepared.place)?;
    Ok(usable)
}

fn checkpoint_xml(name: &str, trackable: &BTreeSet<DiskName>, targets: &[String]) -> String {
    let disks = targets.iter().map(|target| {
        let tracked = trackable.iter().any(|disk| disk.as_str() == target);
        Element::new("disk").with("name", target).with("checkpoint", if tracked { "bitmap" } else { "no" })
    });
    let checkpoint = Element::new("domaincheckpoint").child(Element::new("name").text(name));
    checkpoint.child(Element::new("disks").children(disks)).write()
}

impl Prepared {
    /// The job of `disks`, which knows the changes of `tracked` since the base.
    fn backup_xml(&self, disks: &[TrackedDisk], tracked: &BTreeSet<DiskName>) -> String {
        let entries = self.targets.iter().map(|target| {
            let entry = Element::new("disk").with("name", target);
            let Some(disk) = disks.iter().find(|disk| disk.name.as_str() == target) else {
                return entry.with("backup", "no");
            };
            let entry = entry.with("backup", "yes").with("type", "file").with("exportname", target);
            let entry = if tracked.contains(&disk.name) {
                entry
                    .with("backupmode", "incremental")
                    .with("incremental", self.base.as_str())
                    .with("exportbitmap", EXPORTED_BITMAP)
            } else {
                entry.with("backupmode", "full")
            };
            entry.child(Element::new("scratch").with("file", self.place.scratch(target).to_string_lossy()))
        });
        let socket = self.place.socket.to_string_lossy();
        Element::new("domainbackup")
            .with("mode", "pull")
            .child(Element::new("server").with("transport", "unix").with("socket", socket))
            .child(Element::new("disks").children(entries))
            .write()
    }
}

#[async_trait]
impl Snapshot for RunningSnapshot {
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
