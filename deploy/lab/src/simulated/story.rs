//! The main job on simulated drivers: the chapters of [`crate::story`], with those of its claims that a simulation can be held to.
//!
//! What a real guest's page or console would tell is not claimed. That a machine runs is what its host's agent reports; what it
//! has written is read from the files of points, branches and machines.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use understudy_hypervisor::simulated::disk_files;

use super::{SimulatedStack, failover, journal::whole_journal, rehearse};
use crate::{
    HostName,
    cli::Product as _,
    machine::Machine,
    story::{
        evidence::{Point, at_least_points, files_in_store},
        narrator::Narrator,
        protect,
    },
};

/// Name and interval of the policy that all machines are protected by.
pub(super) const POLICY: (&str, &str) = ("two-seconds", "2s");
/// Enough for a first copy and two cycles after it.
const POINTS: usize = 4;
/// What must be said wherever somebody could take the simulation for more.
pub const NOTICE: &str = "SIMULATED: machines, disks and networks exist in the agents only. This shows the flow, not that machines come up.";

/// Everybody in it.
pub struct SimulatedStory<'a> {
    pub(super) stack: &'a SimulatedStack,
    pub(super) machines: Vec<Machine>,
    pub tell: Narrator,
}

impl<'a> SimulatedStory<'a> {
    /// Two machines at alpha, not yet protected.
    ///
    /// # Errors
    /// Never, as both machines are known to the lab.
    pub fn new(stack: &'a SimulatedStack) -> Result<Self> {
        Ok(Self { stack, machines: Machine::defaults()?, tell: Narrator::default() })
    }

    /// The machines in it.
    pub fn machines(&self) -> &[Machine] {
        &self.machines
    }

    /// Tells all of it. Claims that do not hold are counted; what makes going on impossible is an error.
    ///
    /// # Errors
    /// When a command fails that must succeed for the rest to make sense.
    pub fn tell_all(&mut self) -> Result<()> {
        let (alpha, bravo) = (HostName::AlphaH1, HostName::BravoH1);
        protect::find(&mut self.tell, self.stack, &self.machines, POLICY.0)?;
        self.replicate()?;
        rehearse::test_failover(self)?;
        failover::planned(self, "4. Planned failover of both to bravo", alpha, bravo)?;
        failover::planned(self, "5. Planned failback of both to alpha", bravo, alpha)?;
        failover::lose_alpha(self)?;
        failover::alpha_returns(self)?;
        failover::under_fire(self, bravo, alpha)
    }

    /// Ends the story and prints the summary; true when every claim held.
    pub fn conclude(&mut self) -> bool {
        let held = self.tell.conclude();
        println!("  {NOTICE}");
        held
    }

    fn replicate(&mut self) -> Result<()> {
        self.tell.chapter("2. A first copy while the guests write, then only what changed");
        let (stack, machines) = (self.stack, self.machines.clone());
        for machine in &machines {
            let name = &machine.name;
            let points = at_least_points(stack, name, POINTS)?;
            self.tell
                .check(&format!("after the first copy, {name}'s points hold changed blocks only"), || {
                    protect::changed_blocks_only(stack, name, &points)
                });
            self.tell.check(&format!("every point of {name} is a sound image, and a consistent one"), || {
                sound(stack, machine, &points)
            });
            self.tell
                .check(&format!("the health of {name} tells its recovery point objective is met"), || {
                    protect::objective_is_met(stack, name)
                });
        }
        stack.cli().show(&["item", "list"])?;
        stack.cli().show(&["point", "list", "db1"])
    }
}

/// Every point's journal is whole and ends later than the one before.
fn sound(stack: &SimulatedStack, machine: &Machine, points: &[Point]) -> Result<String> {
    let mut last = None;
    for point in points {
        let files = files_in_store(stack.store(HostName::BravoH1), machine, point.seq);
        let journal = whole_journal(&files).with_context(|| format!("point {}", point.seq))?;
        ensure!(last < Some(journal.last), "point {} holds nothing new", point.seq);
        ensure!(
            journal.last_time_us <= point.instant_us,
            "point {} holds what was written after its instant",
            point.seq
        );
        last = Some(journal.last);
    }
    let disks = if machine.disks > 1 { ", no cut between its disks" } else { "" };
    let last = last.context("there is no point")?;
    Ok(format!("{} points read, the newest ends with record {last}{disks}", points.len()))
}

/// The files of the machine that a host has, which hold all it has written once it is off.
pub(super) fn machine_files(
    stack: &SimulatedStack,
    host: HostName,
    machine: &Machine,
) -> Result<Vec<PathBuf>> {
    let files = disk_files(&stack.driver_dir(host), &machine.name.parse()?)?;
    ensure!(files.len() == machine.disks as usize, "{} has the disks {files:?}", machine.name);
    Ok(files)
}

/// The directory of an item's branches in a host's store.
pub(super) fn branches(stack: &SimulatedStack, host: HostName, item: &str) -> Vec<PathBuf> {
    let directory = stack.store(host).join("items").join(item).join("branches");
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}
