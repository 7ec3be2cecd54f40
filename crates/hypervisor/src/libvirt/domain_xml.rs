//! From [`MachineDefinition`] to libvirt's description of a domain.

use std::path::{Path, PathBuf};

use super::{config::Config, describe::AGENT_CHANNEL, disk_key, tag, xml::Element};
use crate::{Bus, DiskHardware, Error, Firmware, MachineDefinition, NicHardware};

/// The description of a machine that looks to its guest as `definition.hardware` says, with our disks and networks.
pub fn write(definition: &MachineDefinition, config: &Config) -> Result<String, Error> {
    let hardware = &definition.hardware;
    if definition.nic_networks.len() != hardware.nics.len() {
        return Err(unfit(definition, "it has as many networks as NICs"));
    }
    let mut disks = Vec::new();
    for (index, disk) in hardware.disks.iter().enumerate() {
        let file = definition.disk_files.get(&disk.name);
        let file =
            file.ok_or_else(|| unfit(definition, &format!("there is a file for disk {}", disk.name)))?;
        let below = definition.encrypted.get(&disk.name);
        let encryption = below.map(|below| (disk_key::encryption(&definition.name), below.as_slice()));
        disks.push(self::disk(disk, file, encryption, index));
    }
    let nics = hardware.nics.iter().zip(&definition.nic_networks);
    let nics = nics.map(|(nic, network)| self::nic(nic, network.as_ref().map(|name| name.as_str())));
    let devices = Element::new("devices")
        .children(
            config.emulator.as_deref().map(|path| Element::new("emulator").text(path.to_string_lossy())),
        )
        .children(disks)
        .children(controllers(definition))
        .children(nics)
        .child(console(definition, config))
        .children(hardware.guest_agent.then(agent_channel))
        .children(hardware.video.as_deref().map(video))
        .child(Element::new("memballoon").with("model", "none"));
    let domain = Element::new("domain")
        .with("type", config.emulation.domain_type())
        .child(Element::new("name").text(definition.name.as_str()))
        .child(Element::new("uuid").text(definition.uuid.to_string()))
        .child(Element::new("metadata").child(tag::machine(&definition.tag)))
        .child(Element::new("memory").with("unit", "b").text(hardware.memory_bytes.to_string()))
        .child(Element::new("vcpu").text(hardware.vcpus.to_string()))
        .child(os(definition))
        .child(Element::new("features").child(Element::new("acpi")).child(Element::new("apic")))
        .children(cpu(config))
        .child(Element::new("clock").with("offset", "utc"))
        .child(Element::new("on_poweroff").text("destroy"))
        .child(Element::new("on_reboot").text("restart"))
        .child(Element::new("on_crash").text("destroy"))
        .child(devices);
    Ok(domain.write())
}

/// Without a way to look at it but screenshots: who may see a console is nothing that a replica brings with it.
fn video(model: &str) -> Element {
    Element::new("video").child(Element::new("model").with("type", model))
}

fn unfit(definition: &MachineDefinition, wanted: &str) -> Error {
    Error::Failed {
        what: format!("defining machine {}", definition.name),
        why: format!("a machine can be defined only when {wanted}"),
    }
}

fn os(definition: &MachineDefinition) -> Element {
    let os = Element::new("os");
    let os = if definition.hardware.firmware == Firmware::Uefi { os.with("firmware", "efi") } else { os };
    let machine = definition.hardware.machine_type.as_str();
    os.child(Element::new("type").with("arch", "x86_64").with("machine", machine).text("hvm"))
}

fn cpu(config: &Config) -> Option<Element> {
    let model = Element::new("model").with("fallback", "allow").text(config.cpu_model.as_str());
    let cpu = Element::new("cpu").with("mode", "custom").with("match", "exact").with("check", "none");
    (!config.cpu_model.is_empty()).then(|| cpu.child(model))
}

/// What the file of an encrypted disk is stacked on has to be told: libvirt cannot look into it.
fn backing(encryption: &Element, below: &[PathBuf]) -> Element {
    let Some((file, below)) = below.split_first() else { return Element::new("backingStore") };
    let source = Element::new("source").with("file", file.to_string_lossy()).child(encryption.clone());
    Element::new("backingStore")
        .with("type", "file")
        .child(Element::new("format").with("type", "qcow2"))
        .child(source)
        .child(backing(encryption, below))
}

fn disk(
    disk: &DiskHardware,
    file: &Path,
    encryption: Option<(Element, &[PathBuf])>,
    index: usize,
) -> Element {
    let bus = match disk.bus {
        Bus::Virtio => "virtio",
        Bus::Scsi => "scsi",
        Bus::Sata => "sata",
        Bus::Ide => "ide",
    };
    // Discarded blocks stay sparse; the cache mode is the one under which a guest's flush reaches the disk.
    let driver = Element::new("driver").with("name", "qemu").with("type", "qcow2").with("discard", "unmap");
    let (key, backing) = match encryption {
        Some((key, below)) => (Some(key.clone()), Some(backing(&key, below))),
        None => (None, None),
    };
    Element::new("disk")
        .with("type", "file")
        .with("device", "disk")
        .child(driver)
        .child(Element::new("source").with("file", file.to_string_lossy()).children(key))
        .children(backing)
        .child(Element::new("target").with("dev", disk.name.as_str()).with("bus", bus))
        .children(disk.serial.as_ref().map(|serial| Element::new("serial").text(serial.as_str())))
        .child(Element::new("boot").with("order", (index + 1).to_string()))
}

/// SCSI disks sit on virtio-scsi: the only controller that every guest we support has a driver for.
fn controllers(definition: &MachineDefinition) -> Vec<Element> {
    let controller = |kind: &str, model: &str| {
        Element::new("controller").with("type", kind).with("index", "0").with("model", model)
    };
    let mut controllers = vec![controller("usb", "none")];
    if definition.hardware.disks.iter().any(|disk| disk.bus == Bus::Scsi) {
        controllers.push(controller("scsi", "virtio-scsi"));
    }
    controllers
}

/// Without a network the NIC is there, with its address, on a tap that is on no bridge, and its cable is pulled.
fn nic(nic: &NicHardware, network: Option<&str>) -> Element {
    let kind = if network.is_some() { "network" } else { "ethernet" };
    let link = network.is_none().then(|| Element::new("link").with("state", "down"));
    Element::new("interface")
        .with("type", kind)
        .child(Element::new("mac").with("address", nic.mac.to_string()))
        .children(network.map(|name| Element::new("source").with("network", name)))
        .child(Element::new("model").with("type", nic.model.as_str()))
        .children(link)
}

/// libvirt finds a place for the host's end.
fn agent_channel() -> Element {
    let target = Element::new("target").with("type", "virtio").with("name", AGENT_CHANNEL);
    Element::new("channel").with("type", "unix").child(target)
}

fn console(definition: &MachineDefinition, config: &Config) -> Element {
    let file = config.console_dir.join(format!("{}.console.log", definition.name));
    Element::new("serial")
        .with("type", "file")
        .child(Element::new("source").with("path", file.to_string_lossy()).with("append", "on"))
        .child(Element::new("target").with("port", "0"))
}

#[cfg(test)]
mod tests {
    use understudy_ids::{Generation, Uuid};

    use super::{super::describe, *};
    use crate::{Hardware, MachineTag, TagRole};

    fn definition() -> MachineDefinition {
        let disk = |name: &str, bus| DiskHardware {
            name: name.parse().unwrap(),
            bus,
            serial: Some("a<&>'\"b".to_owned()),
            size_bytes: 0,
            file: Some(format!("/replicas/{name} & 'co'.qcow2").into()),
            format: "qcow2".to_owned(),
            encrypted: name == "vda",
        };
        let nic = |mac: &str, network: Option<&str>| NicHardware {
            mac: mac.parse().unwrap(),
            model: "virtio".to_owned(),
            network: network.map(|name| name.parse().unwrap()),
            addresses: Vec::new(),
        };
        let hardware = Hardware {
            vcpus: 2,
            memory_bytes: 64 << 20,
            machine_type: "pc-i440fx-7.2".to_owned(),
            firmware: Firmware::Bios,
            disks: vec![disk("vda", Bus::Virtio), disk("sda", Bus::Scsi)],
            nics: vec![nic("52:54:00:00:00:01", Some("prod")), nic("52:54:00:00:00:02", None)],
            guest_agent: true,
            video: Some("vga".to_owned()),
        };
        MachineDefinition {
            name: "web1".parse().unwrap(),
            uuid: Uuid::from_u128(7),
            disk_files: hardware
                .disks
                .iter()
                .map(|disk| (disk.name.clone(), disk.file.clone().unwrap()))
                .collect(),
            encrypted: [("vda".parse().unwrap(), vec!["/a".into(), "/b".into()])].into(),
            nic_networks: hardware.nics.iter().map(|nic| nic.network.clone()).collect(),
            hardware,
            tag: MachineTag {
                item: "web1".parse().unwrap(),
                generation: Generation::new(3),
                role: TagRole::Test { run: Uuid::from_u128(9) },
            },
        }
    }

    /// R-FO-6: what was written down about a machine comes back, whatever characters are in it.
    #[test]
    fn a_written_description_reads_back_as_the_same_hardware() {
        let definition = definition();
        let xml = write(&definition, &Config::new("x", "/s", "/c")).unwrap();
        let domain = Element::parse(&xml).unwrap();
        assert_eq!(describe::hardware(&domain, &[]).unwrap(), definition.hardware);
        assert_eq!(tag::read_machine(&domain).unwrap(), Some(definition.tag));
    }

    #[test]
    fn a_disk_without_a_file_is_refused() {
        let mut definition = definition();
        definition.disk_files.pop_first();
        assert!(write(&definition, &Config::new("x", "/s", "/c")).is_err());
    }
}
