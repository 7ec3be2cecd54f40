//! What Understudy writes into libvirt's metadata: on machines whose they are, on networks what they were made for.

use understudy_ids::{Generation, Uuid};

use super::xml::Element;
use crate::{MachineTag, TagRole, TestNetworkDefinition};

pub const NAMESPACE: &str = "https://understudy.example/libvirt/1";
pub const PREFIX: &str = "understudy";
const MACHINE: &str = "understudy:machine";
const NETWORK: &str = "understudy:test-network";

/// The element as `virDomainSetMetadata` wants it: libvirt adds the prefix and the namespace itself.
pub fn machine_for_update(tag: &MachineTag) -> Element {
    fill(Element::new("machine"), tag)
}

/// The element as part of a whole description.
pub fn machine(tag: &MachineTag) -> Element {
    fill(Element::new(MACHINE).with("xmlns:understudy", NAMESPACE), tag)
}

fn fill(element: Element, tag: &MachineTag) -> Element {
    let element = element.with("item", tag.item.as_str()).with("generation", tag.generation.to_string());
    match &tag.role {
        TagRole::Active => element.with("role", "active"),
        TagRole::Test { run } => element.with("role", "test").with("run", run.to_string()),
    }
}

/// The tag in a domain's description. A tag that cannot be read is an error: taking it for none would make a machine of
/// ours look like a stranger's.
pub fn read_machine(domain: &Element) -> Result<Option<MachineTag>, String> {
    let Some(element) = domain.find("metadata").and_then(|metadata| metadata.find(MACHINE)) else {
        return Ok(None);
    };
    let wanted =
        |name: &str| element.attribute(name).ok_or_else(|| format!("its Understudy tag has no {name}"));
    let item = wanted("item")?.parse().map_err(|error| format!("its Understudy tag: {error}"))?;
    let generation =
        wanted("generation")?.parse().map_err(|error| format!("its tag's generation: {error}"))?;
    let role = match wanted("role")? {
        "active" => TagRole::Active,
        "test" => {
            TagRole::Test { run: wanted("run")?.parse().map_err(|error| format!("its tag's run: {error}"))? }
        }
        other => return Err(format!("its Understudy tag has the role {other:?}")),
    };
    Ok(Some(MachineTag { item, generation: Generation::new(generation), role }))
}

/// A test network's definition as part of the libvirt network's description.
pub fn network(definition: &TestNetworkDefinition) -> Element {
    Element::new(NETWORK).with("xmlns:understudy", NAMESPACE).with("run", definition.run.to_string())
}

/// The run that a libvirt network was made for, or `None` for a network that is no test network.
pub fn network_run(network: &Element) -> Option<Uuid> {
    network.find("metadata")?.find(NETWORK)?.attribute("run")?.parse().ok()
}

/// Whether a libvirt network is one that we made.
pub fn is_test_network(network: &Element) -> bool {
    network.find("metadata").and_then(|metadata| metadata.find(NETWORK)).is_some()
}
