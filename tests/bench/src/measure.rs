//! One measurement, many in turn, and their medians.

use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

use crate::place;

/// What one copy took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    pub wall: Duration,
    /// User and system time of all processes that took part.
    pub cpu: Duration,
    /// Bytes that the loopback interface carried, both ways, headers included.
    pub wire: u64,
}

impl Sample {
    /// Measures `work`, whose processes are children that have ended when it returns.
    pub fn of(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Self> {
        let (wire, cpu, began) = (place::wire_bytes()?, children(), Instant::now());
        work()?;
        Ok(Self { wall: began.elapsed(), cpu: children() - cpu, wire: place::wire_bytes()? - wire })
    }
}

/// CPU time of children that have ended.
fn children() -> Duration {
    usage(UsageWho::RUSAGE_CHILDREN)
}

/// CPU time of this process.
pub fn own() -> Duration {
    usage(UsageWho::RUSAGE_SELF)
}

fn usage(who: UsageWho) -> Duration {
    let Ok(usage) = getrusage(who) else { return Duration::ZERO };
    let time = |t: nix::sys::time::TimeVal| {
        Duration::new(u64::try_from(t.tv_sec()).unwrap_or(0), u32::try_from(t.tv_usec()).unwrap_or(0) * 1000)
    };
    time(usage.user_time()) + time(usage.system_time())
}

/// The middle of each figure, each by itself.
pub fn median(samples: &[Sample]) -> Sample {
    each(samples, |values| values.get(values.len() / 2))
}

/// The least of each figure, each by itself: what a thing costs when nothing comes in between, such as memory that the machine has given
/// back and that is touched for the first time.
pub fn least(samples: &[Sample]) -> Sample {
    each(samples, |values| values.first())
}

/// `of` picks from the values of one figure, in ascending order.
fn each(samples: &[Sample], of: fn(&[u128]) -> Option<&u128>) -> Sample {
    let picked = |mut values: Vec<u128>| {
        values.sort_unstable();
        of(&values).copied().unwrap_or(0)
    };
    let nanos = |f: fn(&Sample) -> Duration| {
        let value = picked(samples.iter().map(|s| f(s).as_nanos()).collect());
        Duration::from_nanos(u64::try_from(value).unwrap_or(u64::MAX))
    };
    let wire = picked(samples.iter().map(|s| u128::from(s.wire)).collect());
    Sample { wall: nanos(|s| s.wall), cpu: nanos(|s| s.cpu), wire: u64::try_from(wire).unwrap_or(u64::MAX) }
}

/// One contender: prepares what is not measured, then measures.
pub type Contender<'a> = (&'static str, Box<dyn FnMut() -> anyhow::Result<Sample> + 'a>);

/// Lets the contenders run in turn, `rounds` times after one round that does not count, and returns their medians in order.
pub fn in_turn(contenders: &mut [Contender<'_>], rounds: usize) -> anyhow::Result<Vec<Sample>> {
    Ok(all_in_turn(contenders, rounds)?.iter().map(|samples| median(samples)).collect())
}

/// As [`in_turn`]; returns everything that was measured, per contender.
pub fn all_in_turn(contenders: &mut [Contender<'_>], rounds: usize) -> anyhow::Result<Vec<Vec<Sample>>> {
    let mut all: Vec<Vec<Sample>> = vec![Vec::new(); contenders.len()];
    for round in 0..=rounds {
        for (index, (name, contender)) in contenders.iter_mut().enumerate() {
            let sample = contender().map_err(|error| error.context((*name).to_owned()))?;
            eprintln!(
                "  {}{name}: {:.3} s, {:.2} CPU s, {:.1} MB on the wire",
                if round == 0 { "(warm-up) " } else { "" },
                sample.wall.as_secs_f64(),
                sample.cpu.as_secs_f64(),
                sample.wire as f64 / 1e6
            );
            if round > 0 {
                all[index].push(sample);
            }
        }
    }
    Ok(all)
}
