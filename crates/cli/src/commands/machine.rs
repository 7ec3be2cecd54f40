use understudy_recovery_api::{
    RecoveryClient,
    request::MachineParent,
    view::{Machine as View, MachineNic},
};

use super::all;
use crate::{
    args::Machine,
    output::{self, Format},
};

pub async fn run(client: &RecoveryClient, format: Format, verb: Machine) -> anyhow::Result<()> {
    let Machine::List { site, host } = verb;
    let parent = match (site, host) {
        (_, Some(host)) => MachineParent::Host(host),
        (Some(site), None) => MachineParent::Site(site),
        (None, None) => MachineParent::All,
    };
    let machines = all(usize::MAX, |page| client.list_machines(&parent, page)).await?;
    output::print(format, &machines, || {
        output::rows(["MACHINE", "POWER", "DISKS", "NICS", "PROTECTED AS"], &machines, |m: &View| {
            let disks: Vec<String> =
                m.disks.iter().map(|d| format!("{} {}", d.name, output::bytes(d.size_bytes))).collect();
            let nics: Vec<String> = m.nics.iter().map(nic).collect();
            let role = match (&m.item, &m.test_run) {
                (Some(item), Some(run)) => format!("test of {item} in run {run}"),
                (item, _) => output::maybe(item),
            };
            [m.name.to_string(), m.power.to_string(), disks.join(", "), nics.join(", "), role]
        })
    })
}

fn nic(nic: &MachineNic) -> String {
    format!("{} {} {}", nic.mac, nic.network, nic.addresses.join(" "))
}
