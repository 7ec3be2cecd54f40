//! Virtual machines of the lab: what they are made of, and their libvirt domain.

use std::{net::Ipv4Addr, path::PathBuf};

use anyhow::{Context, Result};

use crate::topology::{PROD_NETWORK, RESERVATIONS};

/// A machine to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Name of the domain and host name of the guest.
    pub name: String,
    /// Its one network card on the production network.
    pub mac: String,
    /// How many disks it spreads its journal over.
    pub disks: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Journal records per second.
    pub records_per_second: u32,
    /// What it writes to its scratch area besides, in KiB per second.
    pub dirty_kib_per_second: u32,
    /// Whether an application writes through a file system there, and an agent can freeze it.
    pub guest_agent: bool,
    /// Whether its journal depends on another guest's.
    pub talk: Talk,
}

/// What a guest's journal is to another one's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Talk {
    #[default]
    Alone,
    /// It writes a record only when the follower at this address has the one before.
    Leads(Ipv4Addr),
    /// It writes what its leader tells it.
    Follows,
}

impl Machine {
    /// The machine with one of the reserved names, such as `web1` or `db1`.
    ///
    /// # Errors
    /// For any other name.
    pub fn reserved(name: &str, disks: u32) -> Result<Self> {
        let known = RESERVATIONS.iter().find(|known| known.name == name);
        let known = known.with_context(|| format!("the lab has no address for a machine {name}"))?;
        Ok(Self {
            name: known.name.to_owned(),
            mac: known.mac.to_owned(),
            disks,
            memory_mib: 96,
            records_per_second: 10,
            dirty_kib_per_second: 0,
            guest_agent: false,
            talk: Talk::Alone,
        })
    }

    /// The two machines that the lab starts with: `web1` with one disk, `db1` with two.
    ///
    /// # Errors
    /// Never, as both are reserved.
    pub fn defaults() -> Result<Vec<Self>> {
        Ok(vec![Self::reserved("web1", 1)?, Self::reserved("db1", 2)?])
    }

    /// The address that DHCP keeps for it, if it has a reserved card.
    pub fn address(&self) -> Option<Ipv4Addr> {
        RESERVATIONS.iter().find(|known| known.mac == self.mac).map(|known| known.address)
    }

    /// Its libvirt domain with the given disk images, and its serial console going to `console`.
    ///
    /// It is emulated, as `/dev/kvm` may be there and still hang; it never starts by itself, since whether a protected
    /// machine may run is not for a booting host to decide.
    pub(crate) fn domain(&self, disks: &[PathBuf], console: &std::path::Path) -> String {
        let disks: String =
            (b'a'..).zip(disks).map(|(letter, image)| disk(&self.name, char::from(letter), image)).collect();
        format!(
            r#"<domain type="qemu">
  <name>{name}</name>
  <memory unit="MiB">{memory}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch="x86_64" machine="pc">hvm</type>
    <boot dev="hd"/>
  </os>
  <features><acpi/></features>
  <cpu mode="custom" match="exact" check="none"><model fallback="forbid">qemu64</model></cpu>
  <clock offset="utc"/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
{disks}    <interface type="network">
      <mac address="{mac}"/>
      <source network="{PROD_NETWORK}"/>
      <model type="virtio"/>
      <rom enabled="no"/>
    </interface>
    <serial type="file">
      <source path="{console}" append="on"/>
      <target port="0"/>
    </serial>
{channel}    <video><model type="vga"/></video>
    <controller type="usb" model="none"/>
    <memballoon model="none"/>
  </devices>
</domain>
"#,
            name = self.name,
            memory = self.memory_mib,
            mac = self.mac,
            console = console.display(),
            channel = if self.guest_agent { AGENT_CHANNEL } else { "" },
        )
    }
}

const AGENT_CHANNEL: &str = r#"    <channel type="unix">
      <target type="virtio" name="org.qemu.guest_agent.0"/>
    </channel>
"#;

fn disk(machine: &str, letter: char, image: &std::path::Path) -> String {
    format!(
        r#"    <disk type="file" device="disk">
      <driver name="qemu" type="qcow2" discard="unmap"/>
      <source file="{}"/>
      <target dev="vd{letter}" bus="virtio"/>
      <serial>{machine}-vd{letter}</serial>
    </disk>
"#,
        image.display()
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_machine_has_its_reserved_card_and_all_its_disks() {
        let db1 = Machine::reserved("db1", 2).expect("reserved");
        let domain = db1.domain(&["/i/db1-0.qcow2".into(), "/i/db1-1.qcow2".into()], Path::new("/l/c.log"));
        for part in [
            "52:54:00:00:50:12",
            "/i/db1-0.qcow2",
            "<serial>db1-vdb</serial>",
            "<on_poweroff>destroy</on_poweroff>",
        ] {
            assert!(domain.contains(part), "{part} is not in {domain}");
        }
        assert_eq!(db1.address(), Some(Ipv4Addr::new(192, 168, 50, 12)));
        assert!(Machine::reserved("mail1", 1).is_err());
    }
}
