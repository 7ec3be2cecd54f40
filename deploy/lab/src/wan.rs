//! The router between the sites: what can be cut, slowed and healed.
//!
//! | cut | what no longer passes |
//! |---|---|
//! | `alpha-to-bravo` | anything from alpha to bravo's management network, where the control plane is too |
//! | `bravo-to-alpha` | the other direction |
//! | `both` | anything |
//! | `hosts` | anything between the hosts of alpha and bravo; both still see the control plane |
//! | `control` | anything between alpha and the control plane; alpha and bravo-h1 still see each other |
//!
//! Packets are dropped silently, as a broken line drops them: nobody is told. Cuts add up; healing removes all of them.

use anyhow::Result;

use crate::{
    command,
    namespace::Namespace,
    topology::{CONTROL, HostName, Site},
};

/// What is to be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Cut {
    AlphaToBravo,
    BravoToAlpha,
    Both,
    Hosts,
    Control,
}

/// The WAN of one lab.
#[derive(Debug, Clone)]
pub struct Wan(Namespace);

impl Wan {
    pub(crate) fn new(namespace: Namespace) -> Self {
        Self(namespace)
    }

    /// The router's namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.0
    }

    /// Makes the router with one bridge per site.
    pub(crate) fn create(&self) -> Result<()> {
        self.0.create()?;
        self.0.sysctl("net.ipv4.ip_forward", "1")?;
        for site in Site::ALL {
            let bridge = site.wan_bridge();
            self.0.ip(&["link", "add", bridge, "type", "bridge"])?;
            self.0.ip(&["link", "set", bridge, "up"])?;
            self.0.ip(&["address", "add", &format!("{}/24", site.router()), "dev", bridge])?;
        }
        Ok(())
    }

    /// Cuts; what is cut already stays cut.
    ///
    /// # Errors
    /// When the lab is not up.
    pub fn cut(&self, cut: Cut) -> Result<()> {
        for rule in rules(cut) {
            if !command::succeeds(self.iptables("-C").args(&rule))? {
                command::output(self.iptables("-A").args(&rule))?;
            }
        }
        Ok(())
    }

    /// Ends all cuts.
    ///
    /// # Errors
    /// When the lab is not up.
    pub fn heal(&self) -> Result<()> {
        command::output(&mut self.iptables("-F")).map(drop)
    }

    /// Limits each direction to this many kilobits per second; `None` lifts the limit.
    ///
    /// # Errors
    /// When the lab is not up.
    pub fn rate(&self, kilobits: Option<u32>) -> Result<()> {
        for site in Site::ALL {
            let device = site.wan_bridge();
            match kilobits {
                Some(kilobits) => {
                    let rate = format!("{kilobits}kbit");
                    let limit = ["rate", &rate, "burst", "128kb", "latency", "200ms"];
                    command::output(self.tc("replace", device).arg("tbf").args(limit))?;
                }
                // There may be no limit to lift.
                None => drop(command::succeeds(&mut self.tc("delete", device))?),
            }
        }
        Ok(())
    }

    /// The cuts in force, as iptables rules, one a line.
    ///
    /// # Errors
    /// When the lab is not up.
    pub fn cuts(&self) -> Result<String> {
        let rules = command::output(&mut self.iptables("-S"))?;
        Ok(rules.lines().filter(|line| line.starts_with("-A")).collect::<Vec<_>>().join("\n"))
    }

    fn iptables(&self, action: &str) -> std::process::Command {
        let mut command = self.0.command("iptables");
        command.args(["-w", action, "FORWARD"]);
        command
    }

    fn tc(&self, action: &str, device: &str) -> std::process::Command {
        let mut command = self.0.command("tc");
        command.args(["qdisc", action, "dev", device, "root"]);
        command
    }
}

fn rules(cut: Cut) -> Vec<Vec<String>> {
    let words = |rule: String| rule.split(' ').map(str::to_owned).collect();
    let (alpha, bravo) = (Site::Alpha.wan_bridge(), Site::Bravo.wan_bridge());
    let one_way = |from: &str, to: &str| words(format!("-i {from} -o {to} -j DROP"));
    match cut {
        Cut::AlphaToBravo => vec![one_way(alpha, bravo)],
        Cut::BravoToAlpha => vec![one_way(bravo, alpha)],
        Cut::Both => vec![one_way(alpha, bravo), one_way(bravo, alpha)],
        Cut::Hosts => {
            let (here, there) = (HostName::AlphaH1.address(), HostName::BravoH1.address());
            vec![
                words(format!("-s {here} -d {there} -j DROP")),
                words(format!("-s {there} -d {here} -j DROP")),
            ]
        }
        Cut::Control => vec![
            words(format!("-i {alpha} -d {CONTROL} -j DROP")),
            words(format!("-o {alpha} -s {CONTROL} -j DROP")),
        ],
    }
}
