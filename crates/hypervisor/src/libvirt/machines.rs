//! Machines: look, define, start, stop, forget.

use std::time::Duration;

use tokio::time::Instant;
use understudy_ids::MachineName;

use super::{
    LibvirtHypervisor, describe, disk_key, domain_xml,
    ffi::{Connection, Domain},
    session::failed,
    tag,
};
use crate::{Error, HostInventory, Machine, MachineDefinition, MachineTag, PowerState};

/// How often the state of a machine that is shutting down is looked at.
const POLL: Duration = Duration::from_millis(100);
/// A guest that was booting when the power button was pressed has not noticed: it is pressed again.
const PRESS_AGAIN: Duration = Duration::from_secs(5);

impl LibvirtHypervisor {
    pub(super) async fn read_inventory(&self) -> Result<HostInventory, Error> {
        let what = "the inventory of this host";
        let is_held = self.tells_held();
        self.session
            .call(what, move |connection| {
                let libvirt = connection.libvirt_version().map_err(failed(what))?;
                let qemu = connection.hypervisor_version().map_err(failed(what))?;
                let (cpus, memory_bytes) = connection.node().map_err(failed(what))?;
                let mut machines = Vec::new();
                for domain in connection.domains().map_err(failed(what))? {
                    match describe::machine(&domain, &is_held) {
                        Ok(machine) => machines.extend(machine),
                        // Undefined since it was listed.
                        Err(Error::NotFound { .. }) => {}
                        Err(error) => {
                            tracing::warn!(machine = domain.name(), %error, "a machine cannot be described")
                        }
                    }
                }
                machines.sort_by(|a, b| a.name.cmp(&b.name));
                let mut networks = Vec::new();
                for network in super::test_network::listed(connection)? {
                    networks.extend((!network.is_test).then_some(network.name));
                }
                let hypervisor = format!("libvirt {}, QEMU {}", version(libvirt), version(qemu));
                Ok(HostInventory { hypervisor, machines, networks, cpus, memory_bytes })
            })
            .await
    }

    pub(super) async fn read_machine(&self, name: &MachineName) -> Result<Option<Machine>, Error> {
        let (name, is_held) = (name.clone(), self.tells_held());
        self.session
            .call(format!("machine {name}"), move |connection| match look_up(connection, &name) {
                Ok(domain) => describe::machine(&domain, is_held),
                Err(Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            })
            .await
    }

    pub(super) async fn define_machine(&self, definition: &MachineDefinition) -> Result<(), Error> {
        for file in definition.disk_files.values() {
            if !tokio::fs::try_exists(file).await.unwrap_or(false) {
                return Err(Error::NotFound { what: format!("disk file {}", file.display()) });
            }
        }
        let console_dir = &self.config.console_dir;
        tokio::fs::create_dir_all(console_dir).await.map_err(|error| Error::Failed {
            what: format!("making {}", console_dir.display()),
            why: error.to_string(),
        })?;
        let xml = domain_xml::write(definition, &self.config)?;
        let definition = definition.clone();
        let what = format!("defining machine {}", definition.name);
        self.session
            .call(what.clone(), move |connection| {
                if let Some(existing) = existing(connection, &definition)? {
                    if same(&existing, &definition) {
                        return Ok(());
                    }
                    // Checkpoints of other disk files would be taken for checkpoints of these.
                    let domain = look_up(connection, &definition.name)?;
                    domain.undefine().map_err(failed(what.clone()))?;
                }
                let domain = connection.define_domain(&xml).map_err(failed(what.clone()))?;
                domain.set_autostart(false).map_err(failed(what))
            })
            .await
    }

    pub(super) async fn start_machine(&self, name: &MachineName) -> Result<(), Error> {
        let machine = self.read_machine(name).await?;
        let machine = machine.ok_or_else(|| Error::NotFound { what: format!("machine {name}") })?;
        if machine.power == PowerState::ShutOff {
            // A snapshot of the machine while it was off has its disks locked. One of a running machine is left alone.
            self.close_left_behind(name).await?;
        }
        let name = name.clone();
        let what = format!("starting machine {name}");
        self.session
            .call(what.clone(), move |connection| {
                let domain = look_up(connection, &name)?;
                match power(&domain)? {
                    PowerState::Running => Ok(()),
                    PowerState::ShutOff => domain.start().map_err(failed(what)),
                    PowerState::Paused => domain.resume().map_err(failed(what)),
                    PowerState::Unknown => Err(unclear(&name)),
                }
            })
            .await
    }

    pub(super) async fn shut_down_machine(&self, name: &MachineName, grace: Duration) -> Result<bool, Error> {
        let deadline = Instant::now() + grace;
        let mut press_at = Instant::now();
        loop {
            let press = Instant::now() >= press_at;
            if self.ask_to_shut_down(name, press).await? {
                return Ok(true);
            }
            if press {
                press_at = Instant::now() + PRESS_AGAIN;
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            tokio::time::sleep(POLL.min(deadline - Instant::now())).await;
        }
    }

    /// Whether the machine is off. When it is not, and `press`, its power button is pressed.
    async fn ask_to_shut_down(&self, name: &MachineName, press: bool) -> Result<bool, Error> {
        let name = name.clone();
        let what = format!("shutting down machine {name}");
        self.session
            .call(what.clone(), move |connection| {
                let domain = look_up(connection, &name)?;
                if power(&domain)? == PowerState::ShutOff {
                    return Ok(true);
                }
                if !press {
                    return Ok(false);
                }
                match domain.press_power_button() {
                    Ok(()) => Ok(false),
                    // It went off between the two calls.
                    Err(_) if power(&domain)? == PowerState::ShutOff => Ok(true),
                    Err(error) => Err(failed(what)(error)),
                }
            })
            .await
    }

    pub(super) async fn power_off_machine(&self, name: &MachineName) -> Result<(), Error> {
        let name = name.clone();
        let what = format!("powering off machine {name}");
        self.session
            .call(what.clone(), move |connection| {
                let domain = look_up(connection, &name)?;
                if !domain.is_active().map_err(failed(what.clone()))? {
                    return Ok(());
                }
                let Err(graceful) = domain.destroy(true) else { return Ok(()) };
                if !domain.is_active().map_err(failed(what.clone()))? {
                    return Ok(());
                }
                tracing::warn!(machine = %name, error = %graceful, "QEMU did not end by itself; its change tracking is lost");
                match domain.destroy(false) {
                    Err(error) if domain.is_active().map_err(failed(what.clone()))? => Err(failed(what)(error)),
                    _ => Ok(()),
                }
            })
            .await
    }

    pub(super) async fn undefine_machine(&self, name: &MachineName) -> Result<(), Error> {
        self.forget_key(name);
        let name = name.clone();
        let what = format!("undefining machine {name}");
        self.session
            .call(what.clone(), move |connection| {
                let domain = match look_up(connection, &name) {
                    Err(Error::NotFound { .. }) => return Ok(()),
                    found => found?,
                };
                if domain.is_active().map_err(failed(what.clone()))? {
                    return Err(Error::WrongState {
                        what,
                        why: "it is running; power it off first".to_owned(),
                    });
                }
                disk_key::remove(connection, &name)?;
                domain.undefine().map_err(failed(what))
            })
            .await
    }

    pub(super) async fn write_tag(&self, name: &MachineName, tag: Option<&MachineTag>) -> Result<(), Error> {
        let name = name.clone();
        let xml = tag.map(|tag| tag::machine_for_update(tag).write());
        let what = format!("tagging machine {name}");
        self.session
            .call(what.clone(), move |connection| {
                let domain = look_up(connection, &name)?;
                match domain.set_metadata(tag::PREFIX, tag::NAMESPACE, xml.as_deref()) {
                    Err(error) if xml.is_none() && error.is_without_metadata() => Ok(()),
                    result => result.map_err(failed(what)),
                }
            })
            .await
    }
}

pub fn look_up(connection: &Connection, name: &MachineName) -> Result<Domain, Error> {
    let what = format!("machine {name}");
    let domain = connection.domain(name.as_str()).map_err(failed(what.clone()))?;
    domain.ok_or(Error::NotFound { what })
}

pub fn power(domain: &Domain) -> Result<PowerState, Error> {
    use super::ffi::State;
    Ok(match domain.state().map_err(failed(format!("machine {}", domain.name())))? {
        State::Running => PowerState::Running,
        State::Paused => PowerState::Paused,
        State::ShutOff => PowerState::ShutOff,
        State::Unknown => PowerState::Unknown,
    })
}

fn unclear(name: &MachineName) -> Error {
    Error::Unknown {
        what: format!("machine {name}"),
        why: "libvirt reports neither running nor shut off; look at it with virsh domstate --reason"
            .to_owned(),
    }
}

/// The machine that `definition` would replace. An error when it must not be.
fn existing(connection: &Connection, definition: &MachineDefinition) -> Result<Option<Machine>, Error> {
    let what = format!("machine {}", definition.name);
    let conflict = |why: String| Error::Conflict { what: what.clone(), why };
    let by_uuid = connection.domain_by_uuid(&definition.uuid.to_string()).map_err(failed(what.clone()))?;
    if let Some(other) = by_uuid.map(|domain| domain.name()).filter(|name| name != definition.name.as_str()) {
        return Err(conflict(format!("machine {other} has its UUID {}", definition.uuid)));
    }
    let domain = connection.domain(definition.name.as_str()).map_err(failed(what.clone()))?;
    let Some(machine) = domain.map(|domain| describe::machine(&domain, |_| false)).transpose()?.flatten()
    else {
        return Ok(None);
    };
    let Some(tag) = &machine.tag else { return Err(conflict("it carries no Understudy tag".to_owned())) };
    if !definition.tag.may_replace(tag) {
        return Err(conflict(format!("it is tagged {tag:?}")));
    }
    if machine.power != PowerState::ShutOff {
        let why = "it is not shut off, so it cannot be defined anew; power it off first".to_owned();
        return Err(Error::WrongState { what, why });
    }
    Ok(Some(machine))
}

/// Whether a machine is what `definition` asks for, so that nothing has to be done.
fn same(machine: &Machine, definition: &MachineDefinition) -> bool {
    let mut wanted = definition.hardware.clone();
    for disk in &mut wanted.disks {
        disk.file = definition.disk_files.get(&disk.name).cloned();
        disk.format = "qcow2".to_owned();
        disk.encrypted = definition.encrypted.contains_key(&disk.name);
        disk.size_bytes = 0;
    }
    for (nic, network) in wanted.nics.iter_mut().zip(&definition.nic_networks) {
        nic.network = network.clone();
        nic.addresses.clear();
    }
    let mut present = machine.hardware.clone();
    present.disks.iter_mut().for_each(|disk| disk.size_bytes = 0);
    present.nics.iter_mut().for_each(|nic| nic.addresses.clear());
    present == wanted
        && machine.uuid == definition.uuid
        && machine.tag.as_ref() == Some(&definition.tag)
        && !machine.autostart
}

fn version(number: u64) -> String {
    format!("{}.{}.{}", number / 1_000_000, number / 1_000 % 1_000, number % 1_000)
}
