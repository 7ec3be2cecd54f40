//! The guest's agent: the real `qemu-ga` of the distribution, started here so that a test can end it and start it again.
//!
//! It freezes the mounted file systems when the host asks for it, and calls `/freeze-hook` before and after.

use std::{
    fs, io,
    process::{Child, Command},
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

/// The channel's name, as every host calls it.
const CHANNEL: &str = "org.qemu.guest_agent.0";
const HOOK: &str = "/freeze-hook";

/// The agent's process, if it runs.
#[derive(Default)]
pub struct GuestAgent(Mutex<Option<Child>>);

impl GuestAgent {
    /// Runs from now on, or does not. Doing it twice is doing it once; one that has ended by itself is started anew, as a system's manager would.
    pub fn set(&self, runs: bool) -> io::Result<()> {
        let mut child = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = match child.as_mut() {
            Some(running) => running.try_wait()?.is_some(),
            None => false,
        };
        match (runs, child.take().filter(|_| !ended)) {
            (true, Some(running)) => *child = Some(running),
            (true, None) => *child = Some(start()?),
            (false, Some(mut running)) => {
                running.kill()?;
                running.wait()?;
            }
            (false, None) => {}
        }
        Ok(())
    }
}

fn start() -> io::Result<Child> {
    Command::new("/bin/qemu-ga")
        .args(["--method", "virtio-serial", "--path", &device()?, "--statedir", "/run"])
        .arg(format!("--fsfreeze-hook={HOOK}"))
        .spawn()
}

/// Without udev the ports have no names in `/dev`; the kernel tells them in `/sys`, as soon as the host has told it.
fn device() -> io::Result<String> {
    const PATIENCE: u32 = 100;
    for _ in 0..PATIENCE {
        for port in fs::read_dir("/sys/class/virtio-ports")?.flatten() {
            let name = fs::read_to_string(port.path().join("name")).unwrap_or_default();
            if name.trim() == CHANNEL {
                return Ok(format!("/dev/{}", port.file_name().to_string_lossy()));
            }
        }
        thread::sleep(Duration::from_millis(50));
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no channel {CHANNEL}")))
}
