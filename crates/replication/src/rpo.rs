//! How far behind the replica is, and whether that is all right (R-REP-9).

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use understudy_ids::UnixMicros;

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
    },
    NearObjective {
        current: Duration,
        objective: Duration,
    },
    /// The latest cycles have failed.
    Failing {
        failures: u32,
        error: String,
    },
    Paused,
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
            Self::NoPoint => {
                f.write_str("there is no verified recovery point; start or resynchronise replication")
            }
            Self::BeyondObjective { current, objective } => write!(
                f,
                "the latest point is {:.1} s old, beyond the objective of {:.1} s",
                current.as_secs_f64(),
                objective.as_secs_f64()
            ),
            Self::NearObjective { current, objective } => write!(
                f,
                "the latest point is {:.1} s old, close to the objective of {:.1} s",
                current.as_secs_f64(),
                objective.as_secs_f64()
            ),
            Self::Failing { failures, error } => {
                write!(f, "{failures} cycles in a row have failed, the last one with: {error}")
            }
            Self::Paused => f.write_str("replication is paused"),
            Self::Damaged { points } => {
                write!(f, "{points} recovery points are damaged and not offered; resynchronise the item")
            }
            Self::ClockAhead { by } => {
                write!(f, "the source's clock is {:.1} s ahead; correct the clocks", by.as_secs_f64())
            }
        }
    }
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
    pub paused: bool,
    pub failures: u32,
    pub last_error: Option<String>,
    pub damaged_points: u32,
}

/// Health with every reason for it, worst first, and the current RPO when there is a point at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assessment {
    pub health: Health,
    pub rpo: Option<Duration>,
    pub reasons: Vec<Reason>,
}

/// Clocks of two sites may differ by this much before it is worth a word.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(2);
/// Failures in a row that are more than a hiccup.
const FAILURES_THAT_MATTER: u32 = 3;

/// Current RPO = now − instant of the latest verified point; health is the worst of what the facts give reason for.
pub fn assess(facts: &RpoFacts) -> Assessment {
    let rpo = facts.latest.map(|latest| facts.now.since(latest));
    let mut found: Vec<(Health, Reason)> = Vec::new();
    found.extend(silence(facts));
    found.extend(lag(facts, rpo));
    if let Some(ahead) = facts.latest.map(|l| l.since(facts.now)).filter(|a| *a > CLOCK_TOLERANCE) {
        found.push((Health::Warning, Reason::ClockAhead { by: ahead }));
    }
    if facts.failures > 0 {
        let health = if facts.failures >= FAILURES_THAT_MATTER { Health::Critical } else { Health::Warning };
        let error = facts.last_error.clone().unwrap_or_else(|| "no message".to_owned());
        found.push((health, Reason::Failing { failures: facts.failures, error }));
    }
    if facts.paused {
        found.push((Health::Warning, Reason::Paused));
    }
    if facts.damaged_points > 0 {
        found.push((Health::Critical, Reason::Damaged { points: facts.damaged_points }));
    }
    found.sort_by_key(|(health, _)| std::cmp::Reverse(*health));
    // Silence outranks everything: what was last heard may be long untrue.
    let silent = found.iter().any(|(_, r)| matches!(r, Reason::NoAnswer { .. }));
    let health = if silent { Health::Unknown } else { found.first().map_or(Health::Ok, |(h, _)| *h) };
    Assessment { health, rpo, reasons: found.into_iter().map(|(_, r)| r).collect() }
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
            Some((Health::Critical, Reason::BeyondObjective { current, objective }))
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
            paused: false,
            failures: 0,
            last_error: None,
            damaged_points: 0,
        }
    }

    #[test]
    fn r_rep_9_health_follows_from_the_facts() {
        let base = facts();
        let at = |s: i64| Some(UnixMicros::new(s * 1_000_000));
        let table = [
            (base.clone(), Health::Ok),
            (RpoFacts { latest: at(987), ..base.clone() }, Health::Warning),
            (RpoFacts { latest: at(980), ..base.clone() }, Health::Critical),
            (RpoFacts { latest: at(1010), ..base.clone() }, Health::Warning),
            (RpoFacts { latest: None, ..base.clone() }, Health::Critical),
            (RpoFacts { latest: None, initial_copy: true, ..base.clone() }, Health::Warning),
            (RpoFacts { failures: 1, ..base.clone() }, Health::Warning),
            (RpoFacts { failures: 3, ..base.clone() }, Health::Critical),
            (RpoFacts { paused: true, ..base.clone() }, Health::Warning),
            (RpoFacts { damaged_points: 1, ..base.clone() }, Health::Critical),
            (RpoFacts { heard: at(900), ..base.clone() }, Health::Unknown),
            (RpoFacts { heard: None, latest: at(980), ..base.clone() }, Health::Unknown),
        ];
        for (facts, health) in table {
            let assessed = assess(&facts);
            assert_eq!(assessed.health, health, "{facts:?}");
            assert_eq!(assessed.reasons.is_empty(), health == Health::Ok);
            assert_eq!(assessed.rpo.is_some(), facts.latest.is_some());
        }
        assert_eq!(assess(&base).rpo, Some(Duration::from_secs(4)));
    }

    #[test]
    fn r_rep_9_reasons_say_what_to_do_and_the_worst_comes_first() {
        let facts = RpoFacts { paused: true, damaged_points: 2, ..facts() };
        let texts: Vec<_> = assess(&facts).reasons.iter().map(Reason::to_string).collect();
        assert_eq!(
            texts,
            [
                "2 recovery points are damaged and not offered; resynchronise the item",
                "replication is paused"
            ]
        );
    }
}
