//! The main job as a story: the whole life of two protected machines, told through the command line and checked on the parts.
//!
//! ```text
//!   1 find and protect ─▶ 2 replicate ─▶ 3 rehearse ─▶ 4 fail over ─▶ 5 fail back ─▶ 6 lose a site ─▶ 7 it returns
//!                                                                              8 fail back while services are killed
//! ```
//!
//! The same code is the demonstration and the acceptance test: a claim that is printed has been checked.

pub(crate) mod disaster;
pub mod evidence;
pub mod narrator;
pub(crate) mod planned;
pub(crate) mod protect;
pub(crate) mod rehearse;

use anyhow::Result;

use crate::{HostName, Stack, machine::Machine};
use narrator::Narrator;

/// Everybody in it.
pub struct Story<'a> {
    pub stack: &'a Stack,
    pub machines: Vec<Machine>,
    pub tell: Narrator,
}

impl<'a> Story<'a> {
    /// The two machines of the lab, not yet protected.
    ///
    /// # Errors
    /// Never, as both machines are known to the lab.
    pub fn new(stack: &'a Stack) -> Result<Self> {
        Ok(Self { stack, machines: Machine::defaults()?, tell: Narrator::default() })
    }

    /// Tells all of it. Claims that do not hold are counted; what makes going on impossible is an error.
    ///
    /// # Errors
    /// When a command fails that must succeed for the rest to make sense.
    pub fn tell_all(&mut self) -> Result<()> {
        let (alpha, bravo) = (HostName::AlphaH1, HostName::BravoH1);
        protect::find(&mut self.tell, self.stack, &self.machines, "five-seconds")?;
        protect::replicate(self)?;
        rehearse::test_failover(self)?;
        planned::fail_over(self, "4. Planned failover of both to bravo", alpha, bravo)?;
        planned::fail_over(self, "5. Planned failback of both to alpha", bravo, alpha)?;
        disaster::lose_alpha(self)?;
        disaster::alpha_returns(self)?;
        planned::fail_over_under_fire(self, bravo, alpha)
    }

    fn names(&self) -> Vec<String> {
        self.machines.iter().map(|m| m.name.clone()).collect()
    }
}
