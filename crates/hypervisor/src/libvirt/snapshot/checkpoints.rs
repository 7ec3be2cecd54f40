//! The list of checkpoints, and forgetting some of them.

use std::collections::BTreeSet;

use understudy_ids::MachineName;

use super::{
    super::{LibvirtHypervisor, machines::look_up, session::failed, xml::Element},
    TrackedDisk,
    image::{self, Image},
};
use crate::{CheckpointName, Error};

impl LibvirtHypervisor {
    pub(in super::super) async fn list_checkpoints(
        &self,
        machine: &MachineName,
    ) -> Result<Vec<CheckpointName>, Error> {
        let machine = machine.clone();
        let what = format!("the checkpoints of machine {machine}");
        self.session
            .call(what.clone(), move |connection| {
                let checkpoints = look_up(connection, &machine)?.checkpoints().map_err(failed(what))?;
                Ok(checkpoints.iter().map(|checkpoint| CheckpointName(checkpoint.name())).collect())
            })
            .await
    }

    /// libvirt asks QEMU for the bitmaps' counts; no snapshot is opened and nothing is made that has a file (ADR 0013).
    pub(in super::super) async fn count_changes(
        &self,
        machine: &MachineName,
        since: &CheckpointName,
    ) -> Result<Option<u64>, Error> {
        let (machine, since) = (machine.clone(), since.clone());
        let what = format!("counting what machine {machine} has changed since {}", since.0);
        self.session
            .call(what.clone(), move |connection| {
                let domain = look_up(connection, &machine)?;
                if !domain.is_active().map_err(failed(what.clone()))? {
                    return Ok(None);
                }
                let checkpoints = domain.checkpoints().map_err(failed(what.clone()))?;
                let Some(checkpoint) = checkpoints.iter().find(|c| c.name() == since.0) else {
                    return Ok(None);
                };
                let xml = checkpoint.xml_with_sizes().map_err(failed(what.clone()))?;
                let description = Element::parse(&xml).map_err(|why| Error::Failed { what, why })?;
                Ok(sum_of_sizes(&description))
            })
            .await
    }

    pub(in super::super) async fn remove_checkpoints(
        &self,
        machine: &MachineName,
        names: &BTreeSet<CheckpointName>,
    ) -> Result<(), Error> {
        if self.remove_from_running(machine, names).await? {
            return Ok(());
        }
        let disks = self.tracked_disks(machine, None).await?;
        let mut known = self.list_checkpoints(machine).await?;
        while let Some(index) = known.iter().rposition(|name| names.contains(name)) {
            let name = known.remove(index);
            let older = index.checked_sub(1).and_then(|older| known.get(older));
            for disk in disks.iter().filter(|disk| disk.is_trackable()) {
                let image = self.image_of(machine, disk)?;
                remove_bitmap(disk, &image, &name, older).await?;
            }
            // Last, so that a removal that was interrupted is seen and done again.
            self.forget(machine, &name).await?;
        }
        Ok(())
    }

    /// `false`: the machine does not run, and libvirt cannot do it.
    async fn remove_from_running(
        &self,
        machine: &MachineName,
        names: &BTreeSet<CheckpointName>,
    ) -> Result<bool, Error> {
        let (machine, names) = (machine.clone(), names.clone());
        let what = format!("removing checkpoints of machine {machine}");
        self.session
            .call(what.clone(), move |connection| {
                let domain = look_up(connection, &machine)?;
                if !domain.is_active().map_err(failed(what.clone()))? {
                    return Ok(false);
                }
                let checkpoints = domain.checkpoints().map_err(failed(what.clone()))?;
                for checkpoint in checkpoints.iter().rev() {
                    if names.contains(&CheckpointName(checkpoint.name())) {
                        checkpoint.delete().map_err(failed(what.clone()))?;
                    }
                }
                Ok(true)
            })
            .await
    }

    async fn forget(&self, machine: &MachineName, name: &CheckpointName) -> Result<(), Error> {
        let (machine, name) = (machine.clone(), name.clone());
        let what = format!("removing checkpoint {} of machine {machine}", name.0);
        self.session
            .call(what.clone(), move |connection| {
                let checkpoints =
                    look_up(connection, &machine)?.checkpoints().map_err(failed(what.clone()))?;
                let found = checkpoints.iter().find(|checkpoint| checkpoint.name() == name.0);
                found.map_or(Ok(()), |checkpoint| checkpoint.delete_metadata().map_err(failed(what)))
            })
            .await
    }
}

fn sum_of_sizes(description: &Element) -> Option<u64> {
    let disks = description.find("disks")?;
    disks
        .all("disk")
        .filter(|disk| disk.attribute("checkpoint") == Some("bitmap"))
        .map(|disk| disk.attribute("size")?.parse::<u64>().ok())
        .sum()
}

/// Everything that the bitmap holds is in the older one first. That is so already with libvirt 6.7 and later, whose
/// checkpoints all record at once; merging costs little and makes it so whoever wrote the file.
async fn remove_bitmap(
    disk: &TrackedDisk,
    image: &Image,
    name: &CheckpointName,
    older: Option<&CheckpointName>,
) -> Result<(), Error> {
    let bitmaps = image::bitmaps(&disk.file).await?;
    let Some(bitmap) = bitmaps.iter().find(|bitmap| bitmap.name == name.0) else { return Ok(()) };
    let older =
        older.filter(|older| bitmaps.iter().any(|bitmap| bitmap.name == older.0 && bitmap.is_consistent));
    if let Some(older) = older {
        if bitmap.is_consistent {
            image.merge(&name.0, &older.0).await?;
        } else {
            // What it knew is lost. The older one must not be believed any more either.
            tracing::warn!(disk = %disk.name, checkpoint = name.0, "an inconsistent bitmap is removed together with the older one");
            image.remove(&older.0).await?;
        }
    }
    image.remove(&name.0).await
}
