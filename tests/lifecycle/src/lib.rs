//! A running lab with the product in it, for a test: up in seconds, gone with the test whatever way it ends.

use std::{env, fs, path::PathBuf};

use anyhow::{Context, Result};
use understudy_lab::{HostName, Lab, LabId, Stack, lab::ScopedLab, machine::Machine};

/// A lab with services, agents, site descriptions and these machines running at alpha.
pub struct Scene {
    pub stack: Stack,
    _lab: ScopedLab,
}

impl Scene {
    /// Builds it. `name` tells labs of tests that run at the same time apart: 1 to 12 letters or digits.
    ///
    /// # Errors
    /// When the machine cannot run a lab (everything that is missing is listed) or a part does not start. The logs of the services
    /// are copied to the system's temporary directory before the lab goes.
    pub fn set(name: &str, machines: &[Machine]) -> Result<Self> {
        let id: LabId = name.parse()?;
        let lab = Lab::from_env(id)?;
        // What a test of this name that was killed may have left behind.
        lab.down()?;
        let scoped = lab.clone().up_scoped()?;
        let stack = Stack::beside_this_program(lab)?;
        let scene = Self { stack, _lab: scoped };
        scene.stack.lab().start_machines(HostName::AlphaH1, machines)?;
        scene.stack.up()?;
        scene.stack.describe_sites()?;
        Ok(scene)
    }

    /// Copies all logs to a place that outlives the lab and returns it.
    ///
    /// # Errors
    /// When a file cannot be copied.
    pub fn keep_logs(&self) -> Result<PathBuf> {
        let kept = env::temp_dir().join(format!("understudy-logs-{}", self.stack.lab().id()));
        let lab = self.stack.lab();
        let places = [lab.control_dir().join("logs")]
            .into_iter()
            .chain(HostName::ALL.map(|host| lab.host(host).logs()));
        for place in places {
            let whose = place.parent().and_then(|p| p.file_name()).context("a log directory has a parent")?;
            let target = kept.join(whose);
            fs::create_dir_all(&target)?;
            for entry in fs::read_dir(&place)? {
                let entry = entry?;
                fs::copy(entry.path(), target.join(entry.file_name()))?;
            }
        }
        Ok(kept)
    }
}
