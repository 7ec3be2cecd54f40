//! From libvirt's description of a domain to [`Machine`].

use std::{net::IpAddr, path::PathBuf};

use understudy_ids::{DiskName, MacAddress, MachineName, NetworkName};

use super::{
    ffi::{AddressSource, Domain, ObservedAddress, State},
    session::failed,
    tag,
    xml::Element,
};
use crate::{Bus, DiskHardware, Error, Firmware, Hardware, Machine, NicHardware, PowerState};

/// Everything about one domain. `None`: its name is not one that Understudy can use, so it cannot be protected either.
///
/// A machine that is held for the moment of a snapshot counts as running: `is_held` says whether it is.
pub fn machine(domain: &Domain, is_held: impl Fn(&MachineName) -> bool) -> Result<Option<Machine>, Error> {
    let Ok(name) = domain.name().parse() else { return Ok(None) };
    let held_before = is_held(&name);
    let what = || format!("machine {name}");
    let xml = description(domain, false)?;
    let bad = |why: String| Error::Failed { what: format!("reading the description of machine {name}"), why };
    let power = match domain.state().map_err(failed(what()))? {
        State::Running => PowerState::Running,
        // It may have come to be held, or have gone on, while it was asked.
        State::Paused if held_before || is_held(&name) => PowerState::Running,
        State::Paused => PowerState::Paused,
        State::ShutOff => PowerState::ShutOff,
        State::Unknown => PowerState::Unknown,
    };
    let uuid =
        xml.text_at("uuid").unwrap_or_default().parse().map_err(|_| bad("it has no UUID".to_owned()))?;
    let observed = if power == PowerState::Running { observed_addresses(domain) } else { Vec::new() };
    let mut hardware = hardware(&xml, &observed).map_err(bad)?;
    for disk in hardware.disks.iter_mut().filter(|disk| disk.file.is_some()) {
        // A file that cannot be opened has no size to tell; that is no reason to hide the machine.
        disk.size_bytes = domain.disk_size(disk.name.as_str()).unwrap_or(0);
    }
    let tag = tag::read_machine(&xml).map_err(bad)?;
    let autostart = domain.autostart().map_err(failed(what()))?;
    Ok(Some(Machine { name, uuid, power, hardware, tag, autostart }))
}

pub fn description(domain: &Domain, next_start: bool) -> Result<Element, Error> {
    let what = format!("the description of machine {}", domain.name());
    let xml = domain.xml(next_start).map_err(failed(what.clone()))?;
    Element::parse(&xml).map_err(|why| Error::Failed { what, why })
}

/// Leases are what a guest was given, ARP what it uses; a host may know either.
fn observed_addresses(domain: &Domain) -> Vec<ObservedAddress> {
    let sources = [AddressSource::Leases, AddressSource::Arp];
    sources.into_iter().flat_map(|source| domain.addresses(source).unwrap_or_default()).collect()
}

/// The guest's view of its hardware. Sizes of disks are left at zero: a description does not hold them.
pub fn hardware(domain: &Element, observed: &[ObservedAddress]) -> Result<Hardware, String> {
    let vcpus =
        domain.text_at("vcpu").unwrap_or_default().parse().map_err(|_| "it has no vcpu count".to_owned())?;
    let machine_type = domain.attribute_at("os/type", "machine").ok_or("it has no machine type")?.to_owned();
    let devices = domain.find("devices").ok_or("it has no devices")?;
    let disks = devices.all("disk").filter(|disk| disk.attribute("device").unwrap_or("disk") == "disk");
    let mut disks: Vec<(u32, DiskHardware)> = disks.map(disk).collect::<Result<_, _>>()?;
    // A stable sort: disks without a boot order keep the order of the devices, after those that have one.
    disks.sort_by_key(|(boot_order, _)| *boot_order);
    Ok(Hardware {
        vcpus,
        memory_bytes: memory(domain.find("memory").ok_or("it has no memory")?)?,
        machine_type,
        firmware: firmware(domain),
        disks: disks.into_iter().map(|(_, disk)| disk).collect(),
        nics: devices.all("interface").map(|nic| self::nic(nic, observed)).collect::<Result<_, _>>()?,
        guest_agent: agent_channel(devices).is_some(),
        video: video(devices),
    })
}

/// The first display adapter. What it is called goes into descriptions that we write, so nothing else than a word is taken over.
fn video(devices: &Element) -> Option<String> {
    let model = devices.find("video")?.attribute_at("model", "type")?;
    let is_word = model.len() <= 32 && model.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    (is_word && model != "none").then(|| model.to_owned())
}

/// The name under which a guest's agent and the host find each other.
pub const AGENT_CHANNEL: &str = "org.qemu.guest_agent.0";

fn agent_channel(devices: &Element) -> Option<&Element> {
    devices.all("channel").find(|channel| channel.attribute_at("target", "name") == Some(AGENT_CHANNEL))
}

/// Whether an agent in the guest has opened its end of the channel; `None` when there is no channel.
pub fn agent_listens(domain: &Element) -> Option<bool> {
    let channel = agent_channel(domain.find("devices")?)?;
    Some(channel.attribute_at("target", "state") == Some("connected"))
}

fn memory(element: &Element) -> Result<u64, String> {
    let value: u64 = element.text.trim().parse().map_err(|_| "its memory is not a number".to_owned())?;
    let factor = match element.attribute("unit").unwrap_or("KiB") {
        "b" | "bytes" => 1,
        "k" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        unit => return Err(format!("its memory has the unit {unit:?}")),
    };
    value.checked_mul(factor).ok_or_else(|| "its memory is too large".to_owned())
}

fn firmware(domain: &Element) -> Firmware {
    let automatic = domain.attribute_at("os", "firmware") == Some("efi");
    let explicit = domain.attribute_at("os/loader", "type") == Some("pflash");
    if automatic || explicit { Firmware::Uefi } else { Firmware::Bios }
}

fn disk(element: &Element) -> Result<(u32, DiskHardware), String> {
    let target = element.attribute_at("target", "dev").ok_or("a disk has no target")?;
    let name: DiskName = target.parse().map_err(|error| format!("{error}"))?;
    let bus = match element.attribute_at("target", "bus") {
        Some("virtio") => Bus::Virtio,
        Some("scsi") => Bus::Scsi,
        Some("sata") => Bus::Sata,
        Some("ide") | None => Bus::Ide,
        Some(other) => return Err(format!("disk {name} is on the bus {other:?}, which is not supported")),
    };
    let boot_order =
        element.attribute_at("boot", "order").and_then(|order| order.parse().ok()).unwrap_or(u32::MAX);
    let disk = DiskHardware {
        bus,
        serial: element.text_at("serial").map(str::to_owned),
        size_bytes: 0,
        file: element.attribute_at("source", "file").map(PathBuf::from),
        format: element.attribute_at("driver", "type").unwrap_or("raw").to_owned(),
        encrypted: element.find("source/encryption").or_else(|| element.find("encryption")).is_some(),
        name,
    };
    Ok((boot_order, disk))
}

fn nic(element: &Element, observed: &[ObservedAddress]) -> Result<NicHardware, String> {
    let mac: MacAddress = element
        .attribute_at("mac", "address")
        .unwrap_or_default()
        .parse()
        .map_err(|error| format!("{error}"))?;
    let network: Option<NetworkName> =
        element.attribute_at("source", "network").and_then(|name| name.parse().ok());
    let of_this = observed.iter().filter(|seen| seen.mac.parse() == Ok(mac));
    let mut addresses: Vec<IpAddr> = of_this.filter_map(|seen| seen.address.parse().ok()).collect();
    addresses.sort();
    addresses.dedup();
    let model = element.attribute_at("model", "type").unwrap_or("rtl8139").to_owned();
    Ok(NicHardware { mac, model, network, addresses })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: &str = r#"<domain type='qemu'><name>db1</name><memory unit='KiB'>131072</memory><vcpu>2</vcpu>
        <os><type machine='pc-q35-7.2'>hvm</type><loader type='pflash'>/x</loader></os>
        <metadata><understudy:machine xmlns:understudy='https://understudy.example/libvirt/1'
          item='db1' generation='7' role='test' run='6d9b1f9c-2f0b-4a53-9b34-1d9c83ae2f55'/></metadata>
        <devices>
          <disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>
          <disk type='file' device='disk'><driver type='qcow2'/><source file='/d/&amp;b'/><target dev='vdb' bus='virtio'/></disk>
          <disk type='block' device='disk'><source dev='/dev/x'/><target dev='vdc' bus='scsi'/></disk>
          <disk type='file' device='disk'><driver type='qcow2'/><source file='/d/a'/><target dev='vda' bus='virtio'/>
            <boot order='1'/><serial>S1</serial></disk>
          <interface type='network'><mac address='52:54:00:00:00:01'/><source network='prod'/><model type='virtio'/></interface>
          <interface type='ethernet'><mac address='52:54:00:00:00:02'/></interface>
          <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel>
        </devices></domain>"#;

    /// R-FO-6: identity and order are read as they are.
    #[test]
    fn a_description_is_read_as_the_guest_sees_it() {
        let xml = Element::parse(DOMAIN).unwrap();
        let seen =
            |mac: &str, address: &str| ObservedAddress { mac: mac.to_owned(), address: address.to_owned() };
        let observed = [
            seen("52:54:00:00:00:01", "10.0.0.5"),
            seen("52:54:00:00:00:01", "10.0.0.5"),
            seen("52:54:00:00:00:09", "10.0.0.9"),
        ];
        let hardware = hardware(&xml, &observed).unwrap();
        let names: Vec<_> = hardware.disks.iter().map(|disk| disk.name.as_str()).collect();
        assert_eq!(names, ["vda", "vdb", "vdc"]);
        assert_eq!((hardware.vcpus, hardware.memory_bytes), (2, 128 << 20));
        assert_eq!(hardware.firmware, Firmware::Uefi);
        assert_eq!(hardware.disks[0].serial.as_deref(), Some("S1"));
        assert_eq!(hardware.disks[1].file, Some(PathBuf::from("/d/&b")));
        assert_eq!(hardware.disks[2].file, None);
        assert_eq!(hardware.nics[0].network.as_ref().unwrap().as_str(), "prod");
        assert_eq!(hardware.nics[0].addresses, ["10.0.0.5".parse::<IpAddr>().unwrap()]);
        assert_eq!(hardware.nics[1].network, None);
        assert!(hardware.guest_agent);
        assert_eq!(agent_listens(&xml), Some(true));
        let silent = DOMAIN.replace("state='connected'", "state='disconnected'");
        assert_eq!(agent_listens(&Element::parse(&silent).unwrap()), Some(false));
        let none = DOMAIN.replace("org.qemu.guest_agent.0", "com.redhat.spice.0");
        assert_eq!(agent_listens(&Element::parse(&none).unwrap()), None);
        let tag = tag::read_machine(&xml).unwrap().unwrap();
        assert_eq!((tag.item.as_str(), tag.generation.get()), ("db1", 7));
    }

    #[test]
    fn a_tag_that_cannot_be_read_is_not_taken_for_none() {
        let broken = DOMAIN.replace("generation='7'", "generation='seven'");
        assert!(tag::read_machine(&Element::parse(&broken).unwrap()).is_err());
    }
}
