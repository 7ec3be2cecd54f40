//! How far behind the replica is, and whether that is all right (R-REP-9).

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use understudy_ids::{DiskName, Problem, UnixMicros};

/// Health of an item's replication. Ordered from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    Ok,
    Warning,
    /// No answer, or not enough of one. Not the same as bad, and never shown as good.
    Unknown,
    Critical,
}

/// Why an item is not simply healthy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// Nothing has been heard from the agent since `since`.
    NoAnswer {
        since: Option<UnixMicros>,
    },
    /// There is no verified point yet and the first copy is under way.
    InitialCopy,
    /// There is no verified point and nothing is being copied.
    NoPoint,
    BeyondObjective {
        current: Duration,
        objective: Duration,
        /// Because replication is paused.
        paused: bool,
    },
    NearObjective {
        current: Duration,
        objective: Duration,
    },
    /// The latest cycles have failed.
    Failing {
        failures: u32,
        error: Problem,
    },
    /// Something under protection is another than was protected, and only a person can say what is meant (R-REP-8). Trying
    /// again does not help.
    Changed {
        error: Problem,
    },
    /// The machine has disks that are neither protected nor excluded (R-REP-8).
    DiskNotProtected {
        disks: Vec<DiskName>,
    },
    /// The guest could not be brought to rest the last time, so the latest points are crash-consistent (R-REP-3).
    NotAtRest {
        error: Problem,
    },
    /// The last round of the item's consistency group came to nothing, so the latest points are of their own instants (R-REP-12).
    NotJoint {
        error: Problem,
    },
    Paused(Pause),
    /// Nobody replicates the item at this moment.
    Stopped,
    /// A scrub found damage in this many points.
    Damaged {
        points: u32,
    },
    /// The latest point lies in the future of the clock that looks at it.
    ClockAhead {
        by: Duration,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAnswer { since: Some(at) } => write!(f, "no answer from the agent since {at}"),
            Self::NoAnswer { since: None } => f.write_str("the agent has never answered"),
            Self::InitialCopy => {
                f.write_str("the first copy is not complete, so there is nothing to fail over to")
            }
            Self::NoPoint => f.write_str("there is no verified recovery point"),
            Self::BeyondObjective { current, objective, paused } => write!(
                f,
                "the latest point is {:.1} s old, beyond the objective of {:.1} s{}",
                current.as_secs_f64(),
                objective.as_secs_f64(),
                if *paused { ", because replication is paused" } else { "" }
            ),
            Self::NearObjective { current, objective } => write!(
                f,
                "the latest point is {:.1} s old, close to the objective of {:.1} s",
                current.as_secs_f64(),
                objective.as_secs_f64()
            ),
            Self::Failing { failures, error } => {
                write!(f, "{failures} cycles in a row have failed, the last one with: {}", error.message)
            }
            Self::Changed { error } => f.write_str(&error.message),
            Self::DiskNotProtected { disks } => {
                let disks: Vec<&str> = disks.iter().map(DiskName::as_str).collect();
                write!(f, "{} of the machine is not protected", disks.join(", "))
            }
            Self::NotAtRest { error } => write!(f, "points are crash-consistent only: {}", error.message),
            Self::NotJoint { error } => f.write_str(&error.message),
            Self::Paused(Pause { since: _, by, why }) => {
                write!(f, "replication is paused by {by}")?;
                if why.is_empty() { Ok(()) } else { write!(f, ": {why}") }
            }
            Self::Stopped => f.write_str("the item is not replicated at this moment"),
            Self::Damaged { points } => {
                write!(f, "{points} recovery points are damaged and not offered")
            }
            Self::ClockAhead { by } => {
                write!(f, "the source's clock is {:.1} s ahead", by.as_secs_f64())
            }
        }
    }
}

/// States of a machine that no repetition heals: reasons of [`Reason::Changed`].
pub const CHANGED: [&str; 5] =
    ["NO_MACHINE", "MACHINE_REPLACED", "NO_DISK", "DISK_SHRUNK", "DISK_NOT_REPLICABLE"];

impl Reason {
    /// Stable, for programs and alert rules.
    pub fn code(&self) -> &str {
        match self {
            Self::NoAnswer { .. } => "NO_ANSWER",
            Self::InitialCopy => "INITIAL_COPY",
            Self::NoPoint => "NO_POINT",
            Self::BeyondObjective { .. } => "RPO_EXCEEDED",
            Self::NearObjective { .. } => "RPO_NEAR",
            Self::Failing { .. } => "CYCLES_FAILING",
            Self::Changed { error } | Self::NotAtRest { error } | Self::NotJoint { error } => &error.reason,
            Self::DiskNotProtected { .. } => "DISK_NOT_PROTECTED",
            Self::Paused(_) => "PAUSED",
            Self::Stopped => "STOPPED",
            Self::Damaged { .. } => "POINTS_DAMAGED",
            Self::ClockAhead { .. } => "CLOCK_AHEAD",
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> &str {
        match self {
            Self::NoAnswer { .. } => {
                "Look at the host and its agent; if the site is lost, start an unplanned failover."
            }
            Self::InitialCopy => "Wait for the first copy; the item's progress shows how far it is.",
            Self::NoPoint => "Look at the last error of the item, then start or resynchronise replication.",
            Self::Paused(_) | Self::BeyondObjective { paused: true, .. } => {
                "Resume replication when the reason for the pause is gone: understudy item resume ITEM."
            }
            Self::Stopped => {
                "It is assigned again by itself; if it stays so, look at the agent of its active host."
            }
            Self::BeyondObjective { .. } | Self::NearObjective { .. } => {
                "Look at backlog and throughput: a longer interval, more bandwidth or less load on the link helps."
            }
            Self::Failing { error, .. }
            | Self::Changed { error }
            | Self::NotAtRest { error }
            | Self::NotJoint { error } => &error.remedy,
            Self::DiskNotProtected { .. } => {
                "Include it or leave it out: understudy item disks ITEM --add DISK or --exclude DISK."
            }
            Self::Damaged { .. } => {
                "Leave replication on: its next cycle repairs what the guest has not changed since; other damaged points \
                 leave with retention. Look at the disks of the target's host."
            }
            Self::ClockAhead { .. } => "Correct the clocks of the hosts.",
        }
    }
}

/// Who paused replication, when and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    pub since: UnixMicros,
    pub by: String,
    pub why: String,
}

/// One reason and how bad it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub health: Health,
    pub reason: Reason,
}

/// What is known about an item's replication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RpoFacts {
    pub now: UnixMicros,
    /// When the agent was last heard.
    pub heard: Option<UnixMicros>,
    /// Silence longer than this makes everything unknown.
    pub silence: Duration,
    /// Source instant of the latest verified point.
    pub latest: Option<UnixMicros>,
    pub objective: Duration,
    pub initial_copy: bool,
    /// An operator has paused replication. The age of the latest point goes on being judged.
    pub paused: Option<Pause>,
    /// Replication is not going on, though nobody has paused it.
    pub stopped: bool,
    /// The machine is off and everything that it wrote is at the target, so the latest point does not age.
    pub covered: bool,
    /// Cycles that have failed in a row, and what the last one failed with.
    pub failures: u32,
    pub last_error: Option<Problem>,
    /// Disks of the machine that are neither protected nor excluded.
    pub unprotected: Vec<DiskName>,
    /// Why the guest was not brought to rest the last time that it was asked to.
    pub not_at_rest: Option<Problem>,
    /// Why the last round of its consistency group came to nothing.
    pub not_joint: Option<Problem>,
    pub damaged_points: u32,
}

/// Health with every reason for it, worst first, and the current RPO when there is a point at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assessment {
    pub health: Health,
    pub rpo: Option<Duration>,
    pub findings: Vec<Finding>,
}

/// Clocks of two sites may differ by this much before it is worth a word.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(2);
/// Failures in a row that are more than a hiccup.
const FAILURES_THAT_MATTER: u32 = 3;

/// Current RPO = now − instant of the latest verified point; health is the worst of what the facts give reason for.
pub fn assess(facts: &RpoFacts) -> Assessment {
    let age = if facts.covered { Duration::ZERO } else { Duration::MAX };
    let rpo = facts.latest.map(|latest| facts.now.since(latest).min(age));
    let mut found: Vec<(Health, Reason)> = Vec::new();
    found.extend(silence(facts));
    found.extend(lag(facts, rpo));
    if let Some(ahead) = facts.latest.map(|l| l.since(facts.now)).filter(|a| *a > CLOCK_TOLERANCE) {
        found.push((Health::Warning, Reason::ClockAhead { by: ahead }));
    }
    found.extend(failure(facts));
    if !facts.unprotected.is_empty() {
        found.push((Health::Warning, Reason::DiskNotProtected { disks: facts.unprotected.clone() }));
    }
    if let Some(error) = facts.not_at_rest.clone() {
        found.push((Health::Warning, Reason::NotAtRest { error }));
    }
    if let Some(error) = facts.not_joint.clone() {
        found.push((Health::Warning, Reason::NotJoint { error }));
    }
    if let Some(pause) = facts.paused.clone() {
        found.push((Health::Warning, Reason::Paused(pause)));
    } else if facts.stopped {
        found.push((Health::Warning, Reason::Stopped));
    }
    if facts.damaged_points > 0 {
        found.push((Health::Critical, Reason::Damaged { points: facts.damaged_points }));
    }
    let mut findings: Vec<Finding> =
        found.into_iter().map(|(health, reason)| Finding { health, reason }).collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.health));
    // Silence outranks everything: what was last heard may be long untrue.
    let silent = findings.iter().any(|f| matches!(f.reason, Reason::NoAnswer { .. }));
    let health = if silent { Health::Unknown } else { findings.first().map_or(Health::Ok, |f| f.health) };
    Assessment { health, rpo, findings }
}

fn failure(facts: &RpoFacts) -> Option<(Health, Reason)> {
    let failures = facts.failures;
    let error = facts.last_error.clone().filter(|_| failures > 0)?;
    if CHANGED.contains(&error.reason.as_str()) {
        return Some((Health::Critical, Reason::Changed { error }));
    }
    let health = if failures >= FAILURES_THAT_MATTER { Health::Critical } else { Health::Warning };
    Some((health, Reason::Failing { failures, error }))
}

fn silence(facts: &RpoFacts) -> Option<(Health, Reason)> {
    let silent = facts.heard.is_none_or(|heard| facts.now.since(heard) > facts.silence);
    silent.then_some((Health::Unknown, Reason::NoAnswer { since: facts.heard }))
}

fn lag(facts: &RpoFacts, rpo: Option<Duration>) -> Option<(Health, Reason)> {
    let objective = facts.objective;
    match rpo {
        None if facts.initial_copy => Some((Health::Warning, Reason::InitialCopy)),
        None => Some((Health::Critical, Reason::NoPoint)),
        Some(current) if current > objective => {
            let paused = facts.paused.is_some();
            Some((Health::Critical, Reason::BeyondObjective { current, objective, paused }))
        }
        Some(current) if current > objective.mul_f64(0.8) => {
            Some((Health::Warning, Reason::NearObjective { current, objective }))
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> RpoFacts {
        let second = |s: i64| UnixMicros::new(s * 1_000_000);
        RpoFacts {
            now: second(1000),
            heard: Some(second(999)),
            silence: Duration::from_secs(30),
            latest: Some(second(996)),
            objective: Duration::from_secs(15),
            initial_copy: false,
            paused: None,
            stopped: false,
            covered: false,
            failures: 0,
            last_error: None,
            unprotected: Vec::new(),
            not_at_rest: None,
            not_joint: None,
            damaged_points: 0,
        }
    }

    fn pause() -> Pause {
        let since = UnixMicros::new(900_000_000);
        Pause { since, by: "user/ada".to_owned(), why: "the link is full".to_owned() }
    }

    #[test]
    fn r_rep_9_health_follows_from_the_facts() {
        let base = facts();
        let at = |s: i64| Some(UnixMicros::new(s * 1_000_000));
        let failed = |failures, reason: &str| {
            let error = Problem::new(reason, "protectedItems/web1", "it failed", "Look.");
            RpoFacts { failures, last_error: Some(error), ..base.clone() }
        };
        let table = [
            (base.clone(), Health::Ok),
            (RpoFacts { latest: at(987), ..base.clone() }, Health::Warning),
            (RpoFacts { latest: at(980), ..base.clone() }, Health::Critical),
            (RpoFacts { latest: at(1010), ..base.clone() }, Health::Warning),
            (RpoFacts { latest: None, ..base.clone() }, Health::Critical),
            (RpoFacts { latest: None, initial_copy: true, ..base.clone() }, Health::Warning),
            (RpoFacts { latest: at(980), covered: true, ..base.clone() }, Health::Ok),
            (failed(0, "SNAPSHOT_FAILED"), Health::Ok),
            (failed(1, "SNAPSHOT_FAILED"), Health::Warning),
            (failed(3, "SNAPSHOT_FAILED"), Health::Critical),
            (failed(1, "NO_MACHINE"), Health::Critical),
            (failed(1, "MACHINE_REPLACED"), Health::Critical),
            (
                RpoFacts { not_at_rest: Some(Problem::new("R", "s", "m", "r")), ..base.clone() },
                Health::Warning,
            ),
            (RpoFacts { not_joint: Some(Problem::new("R", "s", "m", "r")), ..base.clone() }, Health::Warning),
            (RpoFacts { unprotected: vec!["vdb".parse().unwrap()], ..base.clone() }, Health::Warning),
            (RpoFacts { paused: Some(pause()), ..base.clone() }, Health::Warning),
            (RpoFacts { paused: Some(pause()), latest: at(980), ..base.clone() }, Health::Critical),
            (RpoFacts { stopped: true, ..base.clone() }, Health::Warning),
            (RpoFacts { damaged_points: 1, ..base.clone() }, Health::Critical),
            (RpoFacts { heard: at(900), ..base.clone() }, Health::Unknown),
            (RpoFacts { heard: None, latest: at(980), ..base.clone() }, Health::Unknown),
        ];
        for (facts, health) in table {
            let assessed = assess(&facts);
            assert_eq!(assessed.health, health, "{facts:?}");
            assert_eq!(assessed.findings.is_empty(), health == Health::Ok);
            assert!(assessed.findings.iter().all(|f| !f.reason.remedy().is_empty()), "{facts:?}");
            assert_eq!(assessed.rpo.is_some(), facts.latest.is_some());
        }
        assert_eq!(assess(&base).rpo, Some(Duration::from_secs(4)));
    }

    #[test]
    fn r_rep_9_reasons_say_what_to_do_and_the_worst_comes_first() {
        let facts = RpoFacts { paused: Some(pause()), damaged_points: 2, ..facts() };
        let said = |f: &Finding| format!("{}. {}", f.reason, f.reason.remedy());
        let texts: Vec<_> = assess(&facts).findings.iter().map(said).collect();
        assert_eq!(
            texts,
            [
                "2 recovery points are damaged and not offered. Leave replication on: its next cycle repairs what the guest \
                 has not changed since; other damaged points leave with retention. Look at the disks of the target's host.",
                "replication is paused by user/ada: the link is full. \
                 Resume replication when the reason for the pause is gone: understudy item resume ITEM."
            ]
        );
        // The age goes on being judged, and says why it grows.
        let late = RpoFacts { latest: Some(UnixMicros::new(900_000_000)), ..facts };
        let worst = assess(&late).findings.remove(0).reason;
        assert_eq!(worst.code(), "RPO_EXCEEDED");
        assert!(worst.to_string().ends_with("because replication is paused"), "{worst}");
        assert!(worst.remedy().contains("item resume"));
    }
}
