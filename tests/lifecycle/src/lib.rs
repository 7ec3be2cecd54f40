//! A running lab with the product in it, for a test: up in seconds, gone with the test whatever way it ends.
//!
//! ```text
//!   Scene::set ─▶ wait for the turn ─▶ lab up ─▶ machines ─▶ services, agents ─▶ sites described ─▶ the test ─▶ dropped: lab down
//!                                                                                                  └ panic: logs kept
//! ```
//!
//! As many scenes stand at a time as tests run at a time, which is one for each core; a scene that was set alone stands alone on
//! the machine, whichever threads or processes the tests run in.

pub mod evidence;

use std::{
    env,
    fs::{self, File},
    io,
    path::PathBuf,
    thread,
};

use anyhow::{Context, Result};
use understudy_lab::{HostName, Lab, LabId, Stack, lab::ScopedLab, machine::Machine};

/// A lab with services, agents, site descriptions and these machines running at alpha.
pub struct Scene {
    pub stack: Stack,
    _lab: ScopedLab,
    _turn: File,
}

impl Scene {
    /// Builds it. `name` names its lab: 1 to 12 letters or digits.
    ///
    /// # Errors
    /// When the machine cannot run a lab (everything that is missing is listed) or a part does not start.
    pub fn set(name: &str, machines: &[Machine]) -> Result<Self> {
        Self::bare(name, machines)?.with_product()
    }

    /// The same when no other scene stands, for a test that judges times: others wait meanwhile.
    ///
    /// # Errors
    /// As [`Scene::set`].
    pub fn set_alone(name: &str, machines: &[Machine]) -> Result<Self> {
        Self::build(name, machines, File::lock)?.with_product()
    }

    /// With the machines running and nothing of the product started.
    ///
    /// # Errors
    /// As [`Scene::set`].
    pub fn bare(name: &str, machines: &[Machine]) -> Result<Self> {
        Self::build(name, machines, File::lock_shared)
    }

    fn with_product(self) -> Result<Self> {
        self.stack.up()?;
        self.stack.describe_sites()?;
        Ok(self)
    }

    fn build(name: &str, machines: &[Machine], wait: fn(&File) -> io::Result<()>) -> Result<Self> {
        let turn = my_turn(wait)?;
        let id: LabId = name.parse()?;
        let lab = Lab::from_env(id)?;
        // What a test of this name that was killed may have left behind.
        lab.down()?;
        let scoped = lab.clone().up_scoped()?;
        let stack = Stack::beside_this_program(lab)?;
        let scene = Self { stack, _lab: scoped, _turn: turn };
        scene.stack.lab().start_machines(HostName::AlphaH1, machines)?;
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
        for place in places.filter(|place| place.exists()) {
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

impl Drop for Scene {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        match self.keep_logs() {
            Ok(kept) => eprintln!("logs are kept in {}", kept.display()),
            Err(error) => eprintln!("logs could not be kept: {error:#}"),
        }
    }
}

/// Held until the file is closed, also by a process that is killed.
fn my_turn(wait: fn(&File) -> io::Result<()>) -> Result<File> {
    let path = env::temp_dir().join("understudy-lifecycle.turn");
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    wait(&file).with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}
