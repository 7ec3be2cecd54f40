//! What comes back from a task that was done, as domain types and on the wire.

use std::{net::IpAddr, time::Duration};

use understudy_ids::{DiskName, MachineName, PointSeq, UnixMicros};
use understudy_probe::MAX_SEEN;
use understudy_replication::BlockDigest;
use understudy_types_api::{Any, duration_to_wire, pack, time_to_wire, unpack};

use crate::{
    MAX_DISKS, MAX_SCREENSHOT, MAX_SCRIPT_OUTPUT,
    field::{Invalid, digest, list, names, parse, required, span, text, time},
    v1::{self, agent_task_result::Result as WireResult},
};

const MAX_PORTS: usize = 4096;
const MAX_METHOD: usize = 1024;
const MAX_WHY_NOT: usize = 1024;
/// What every PNG begins with.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// The result of an action that succeeded. [`AgentTaskResult::Done`]: there is nothing to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentTaskResult {
    Done,
    MachineStopped {
        /// The guest shut itself down; false: it was powered off, or was off already.
        by_guest: bool,
        time: UnixMicros,
    },
    FinalPoint {
        seq: PointSeq,
        instant: UnixMicros,
        sent_bytes: u64,
    },
    DiskDigests(Vec<DiskRoot>),
    MachineCreated {
        machine: MachineName,
        seq: PointSeq,
        instant: UnixMicros,
    },
    MachineStarted {
        time: UnixMicros,
    },
    ProbeResult {
        reachable: bool,
        /// From the start of the probe.
        after: Duration,
        /// What was seen last, in words; at most [`MAX_SEEN`] bytes.
        seen: String,
    },
    /// A PNG of at most [`MAX_SCREENSHOT`] bytes.
    Screenshot(Vec<u8>),
    /// There was nothing to see, and why.
    NoScreenshot(String),
    IsolationResult(IsolationResult),
    Adopted {
        seq: PointSeq,
        bytes_read: u64,
    },
    /// A first copy was written to a medium, or read from one.
    Seeded {
        bytes: u64,
    },
    /// A script ran to its end.
    Script {
        exit_code: i32,
        /// Printable, at most [`MAX_SCRIPT_OUTPUT`] bytes.
        output: String,
        truncated: bool,
    },
}

/// Root of the digest tree over one whole disk (R-PF-2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskRoot {
    pub disk: DiskName,
    pub root: BlockDigest,
}

/// What an isolation probe did and saw (R-TF-9). Isolated means that `answered` is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IsolationResult {
    pub ports: Vec<String>,
    pub tried: Vec<IpAddr>,
    pub answered: Vec<IpAddr>,
    pub method: String,
}

impl AgentTaskResult {
    /// The result as job-tracker carries it.
    pub fn to_any(&self) -> Any {
        pack(&v1::AgentTaskResult::from(self.clone()))
    }

    /// # Errors
    /// When it is of another type, too large, malformed or breaks a bound.
    pub fn from_any(any: &Any) -> Result<Self, Invalid> {
        let wire: v1::AgentTaskResult = unpack(any).map_err(|e| Invalid::new("result", e))?;
        Self::try_from(wire)
    }
}

impl TryFrom<v1::AgentTaskResult> for AgentTaskResult {
    type Error = Invalid;
    fn try_from(wire: v1::AgentTaskResult) -> Result<Self, Invalid> {
        Ok(match required("result", wire.result)? {
            WireResult::Done(v1::Done {}) => Self::Done,
            WireResult::MachineStopped(v1::MachineStopped { by_guest, time: at }) => {
                Self::MachineStopped { by_guest, time: time("machine_stopped.time", at)? }
            }
            WireResult::FinalPoint(v1::FinalPoint { seq, instant, sent_bytes }) => Self::FinalPoint {
                seq: PointSeq::new(seq),
                instant: time("final_point.instant", instant)?,
                sent_bytes,
            },
            WireResult::DiskDigests(v1::DiskDigests { disks }) => Self::DiskDigests(list(
                "disk_digests.disks",
                disks,
                MAX_DISKS,
                |v1::DiskRoot { disk, root }| {
                    Ok(DiskRoot { disk: parse("disk", &disk)?, root: digest("root", &root)? })
                },
            )?),
            WireResult::MachineCreated(v1::MachineCreated { machine, seq, instant }) => {
                Self::MachineCreated {
                    machine: parse("machine_created.machine", &machine)?,
                    seq: PointSeq::new(seq),
                    instant: time("machine_created.instant", instant)?,
                }
            }
            WireResult::MachineStarted(v1::MachineStarted { time: at }) => {
                Self::MachineStarted { time: time("machine_started.time", at)? }
            }
            WireResult::ProbeResult(v1::ProbeResult { reachable, after, seen }) => Self::ProbeResult {
                reachable,
                after: span("probe_result.after", after)?,
                seen: text("probe_result.seen", seen, MAX_SEEN)?,
            },
            WireResult::ScreenshotResult(result) => {
                screenshot(result).map_err(|e| e.within("screenshot_result"))?
            }
            WireResult::IsolationResult(result) => {
                Self::IsolationResult(isolation(result).map_err(|e| e.within("isolation_result"))?)
            }
            WireResult::Adopted(v1::Adopted { seq, bytes_read }) => {
                Self::Adopted { seq: PointSeq::new(seq), bytes_read }
            }
            WireResult::Seeded(v1::Seeded { bytes }) => Self::Seeded { bytes },
            WireResult::ScriptResult(v1::ScriptResult { exit_code, output, truncated }) => Self::Script {
                exit_code,
                output: text("script_result.output", output, MAX_SCRIPT_OUTPUT)?,
                truncated,
            },
        })
    }
}

fn screenshot(
    v1::ScreenshotResult { png, why_not }: v1::ScreenshotResult,
) -> Result<AgentTaskResult, Invalid> {
    match (png.is_empty(), why_not.is_empty()) {
        (true, false) => Ok(AgentTaskResult::NoScreenshot(text("why_not", why_not, MAX_WHY_NOT)?)),
        (false, true) if png.len() > MAX_SCREENSHOT => {
            Err(Invalid::new("png", format!("is {} bytes, the most is {MAX_SCREENSHOT}", png.len())))
        }
        (false, true) if !png.starts_with(PNG) => Err(Invalid::new("png", "is no PNG")),
        (false, true) => Ok(AgentTaskResult::Screenshot(png.into())),
        (true, true) | (false, false) => {
            Err(Invalid::new("why_not", "is set where there is a picture, or not where there is none"))
        }
    }
}

fn isolation(wire: v1::IsolationResult) -> Result<IsolationResult, Invalid> {
    let v1::IsolationResult { ports, tried, answered, method } = wire;
    Ok(IsolationResult {
        ports: names("ports", &ports, MAX_PORTS)?,
        tried: names("tried", &tried, MAX_PORTS)?,
        answered: names("answered", &answered, MAX_PORTS)?,
        method: text("method", method, MAX_METHOD)?,
    })
}

impl From<AgentTaskResult> for v1::AgentTaskResult {
    fn from(result: AgentTaskResult) -> Self {
        let wire = match result {
            AgentTaskResult::Done => WireResult::Done(v1::Done {}),
            AgentTaskResult::MachineStopped { by_guest, time } => {
                WireResult::MachineStopped(v1::MachineStopped { by_guest, time: Some(time_to_wire(time)) })
            }
            AgentTaskResult::FinalPoint { seq, instant, sent_bytes } => {
                WireResult::FinalPoint(v1::FinalPoint {
                    seq: seq.get(),
                    instant: Some(time_to_wire(instant)),
                    sent_bytes,
                })
            }
            AgentTaskResult::DiskDigests(disks) => WireResult::DiskDigests(v1::DiskDigests {
                disks: disks
                    .into_iter()
                    .map(|DiskRoot { disk, root }| v1::DiskRoot {
                        disk: disk.into(),
                        root: root.bytes().to_vec().into(),
                    })
                    .collect(),
            }),
            AgentTaskResult::MachineCreated { machine, seq, instant } => {
                WireResult::MachineCreated(v1::MachineCreated {
                    machine: machine.into(),
                    seq: seq.get(),
                    instant: Some(time_to_wire(instant)),
                })
            }
            AgentTaskResult::MachineStarted { time } => {
                WireResult::MachineStarted(v1::MachineStarted { time: Some(time_to_wire(time)) })
            }
            AgentTaskResult::ProbeResult { reachable, after, seen } => {
                WireResult::ProbeResult(v1::ProbeResult {
                    reachable,
                    after: Some(duration_to_wire(after)),
                    seen,
                })
            }
            AgentTaskResult::IsolationResult(IsolationResult { ports, tried, answered, method }) => {
                WireResult::IsolationResult(v1::IsolationResult {
                    ports,
                    tried: tried.iter().map(IpAddr::to_string).collect(),
                    answered: answered.iter().map(IpAddr::to_string).collect(),
                    method,
                })
            }
            AgentTaskResult::Screenshot(png) => {
                WireResult::ScreenshotResult(v1::ScreenshotResult { png: png.into(), why_not: String::new() })
            }
            AgentTaskResult::NoScreenshot(why_not) => {
                WireResult::ScreenshotResult(v1::ScreenshotResult { png: Vec::new().into(), why_not })
            }
            AgentTaskResult::Adopted { seq, bytes_read } => {
                WireResult::Adopted(v1::Adopted { seq: seq.get(), bytes_read })
            }
            AgentTaskResult::Seeded { bytes } => WireResult::Seeded(v1::Seeded { bytes }),
            AgentTaskResult::Script { exit_code, output, truncated } => {
                WireResult::ScriptResult(v1::ScriptResult { exit_code, output, truncated })
            }
        };
        Self { result: Some(wire) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_result_comes_back_as_it_went_out() {
        let time = UnixMicros::new(1_700_000_000_123_456);
        let seq = PointSeq::new(4);
        let all = [
            AgentTaskResult::Done,
            AgentTaskResult::MachineStopped { by_guest: true, time },
            AgentTaskResult::FinalPoint { seq, instant: time, sent_bytes: 9 },
            AgentTaskResult::DiskDigests(vec![DiskRoot {
                disk: "vda".parse().unwrap(),
                root: BlockDigest::of(b"x"),
            }]),
            AgentTaskResult::MachineCreated { machine: "web1".parse().unwrap(), seq, instant: time },
            AgentTaskResult::MachineStarted { time },
            AgentTaskResult::Screenshot([PNG, &[7; 100]].concat()),
            AgentTaskResult::NoScreenshot("the machine has no display".to_owned()),
            AgentTaskResult::ProbeResult {
                reachable: false,
                after: Duration::from_millis(1500),
                seen: "503".to_owned(),
            },
            AgentTaskResult::IsolationResult(IsolationResult {
                ports: vec!["vnet1".to_owned()],
                tried: vec!["10.0.0.1".parse().unwrap()],
                answered: Vec::new(),
                method: "ping".to_owned(),
            }),
            AgentTaskResult::Adopted { seq, bytes_read: 1 },
            AgentTaskResult::Seeded { bytes: 1 << 40 },
            AgentTaskResult::Script {
                exit_code: 3,
                output: "ä".repeat(MAX_SCRIPT_OUTPUT / 2),
                truncated: true,
            },
        ];
        for result in all {
            assert_eq!(AgentTaskResult::from_any(&result.to_any()), Ok(result));
        }
    }

    #[test]
    fn more_output_than_is_kept_is_refused() {
        let output = "x".repeat(MAX_SCRIPT_OUTPUT + 1);
        let result = AgentTaskResult::Script { exit_code: 0, output, truncated: false };
        assert_eq!(AgentTaskResult::from_any(&result.to_any()).unwrap_err().field, "script_result.output");
    }
}
