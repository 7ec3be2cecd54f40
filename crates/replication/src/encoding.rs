//! What blocks travel as, chosen by what has been measured on the very stream (R-REP-11).
//!
//! ```text
//!              plain, at first                     slower than PAYS_BELOW
//!   ┌───────────────────────────────────┐  ───────────────────────────────▶  try zstd ─▶ try lz4 ─▶ the fastest
//!   └───────────────────────────────────┘  ◀───────────────────────────────                          │   ▲
//!                                             every TRY_AGAIN windows, or when its rate has halved or │   │
//!                                             doubled: another one is tried for one window            └───┘
//! ```
//!
//! A rate is bytes of the disk per second, whatever they became on the wire: it falls when the line is slow, and when the
//! processors are. On a line that carries more than compression can make there is nothing to try.

use std::time::Duration;

/// A form of the blocks of one part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Encoding {
    /// As they are.
    Plain,
    Zstd,
    Lz4,
}

impl Encoding {
    /// In the order in which they are tried.
    pub const ALL: [Self; 3] = [Self::Plain, Self::Zstd, Self::Lz4];

    const fn index(self) -> usize {
        match self {
            Self::Plain => 0,
            Self::Zstd => 1,
            Self::Lz4 => 2,
        }
    }
}

/// Bytes of the disk that a rate is measured over. Several times what a connection has under way, so that it is the line that
/// is measured and not the buffers in front of it.
pub const WINDOW: u64 = 32 << 20;
/// Bytes per second below which compression may pay: about what two processors compress.
const PAYS_BELOW: f64 = 700e6;
/// Windows between two looks at another encoding.
const TRY_AGAIN: u32 = 64;
/// Another encoding has to be so much faster: a change costs something, and so does compressing.
const CLEARLY: f64 = 1.05;
/// Share of a new figure in the rate that is kept.
const FRESH: f64 = 0.5;

/// What one stream has learnt. Starts plain.
#[derive(Debug, Clone, PartialEq)]
pub struct Chooser {
    current: Encoding,
    /// Bytes of the disk per second; `None`: never measured since the line was last like this.
    rates: [Option<f64>; 3],
    /// To be measured, the last one first.
    trials: Vec<Encoding>,
    since_trial: u32,
}

impl Default for Chooser {
    fn default() -> Self {
        Self { current: Encoding::Plain, rates: [None; 3], trials: Vec::new(), since_trial: 0 }
    }
}

impl Chooser {
    /// What the next window travels as.
    pub const fn current(&self) -> Encoding {
        self.current
    }

    /// Takes in that `bytes` of the disk took `elapsed` in the current encoding.
    pub fn window(&mut self, bytes: u64, elapsed: Duration) {
        let rate = bytes as f64 / elapsed.as_secs_f64().max(1e-9);
        let kept = self.rates[self.current.index()];
        let is_another_line = kept.is_some_and(|kept| rate > kept * 2.0 || rate < kept / 2.0);
        let rate = match kept {
            Some(kept) if !is_another_line => kept + (rate - kept) * FRESH,
            _ => rate,
        };
        if is_another_line {
            self.rates = [None; 3];
        }
        self.rates[self.current.index()] = Some(rate);
        self.since_trial += 1;
        self.next(rate, is_another_line);
    }

    fn next(&mut self, rate: f64, is_another_line: bool) {
        if self.trials.is_empty() {
            if rate >= PAYS_BELOW && self.current == Encoding::Plain {
                return;
            }
            let never = self.rates.iter().any(Option::is_none);
            if never || is_another_line || self.since_trial >= TRY_AGAIN {
                let others = Encoding::ALL.into_iter().rev();
                self.trials = others.filter(|encoding| *encoding != self.current).collect();
                self.since_trial = 0;
            }
        }
        self.current = self.trials.pop().unwrap_or_else(|| self.fastest());
    }

    fn fastest(&self) -> Encoding {
        let rate = |encoding: Encoding| self.rates[encoding.index()].unwrap_or(0.0);
        Encoding::ALL.into_iter().fold(Encoding::Plain, |best, other| {
            if rate(other) > rate(best) * CLEARLY { other } else { best }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line and two processors: what each encoding reaches on it, bytes of the disk per second.
    fn rate(line: f64, encoding: Encoding) -> f64 {
        match encoding {
            Encoding::Plain => line,
            Encoding::Zstd => (line * 2.95).min(800e6),
            Encoding::Lz4 => (line * 2.3).min(1_400e6),
        }
    }

    fn run(chooser: &mut Chooser, line: f64, windows: usize) -> Vec<Encoding> {
        let mut used = Vec::new();
        for _ in 0..windows {
            let encoding = chooser.current();
            used.push(encoding);
            chooser.window(WINDOW, Duration::from_secs_f64(WINDOW as f64 / rate(line, encoding)));
        }
        used
    }

    /// R-REP-11: chosen per line, and the fastest one is what almost all of the time goes to.
    #[test]
    fn each_line_gets_what_is_fastest_on_it() {
        for (line, best) in [
            (1e6, Encoding::Zstd),
            (100e6, Encoding::Zstd),
            (500e6, Encoding::Lz4),
            (750e6, Encoding::Plain),
            (3e9, Encoding::Plain),
        ] {
            let used = run(&mut Chooser::default(), line, 300);
            let share = used.iter().filter(|e| **e == best).count();
            assert!(share >= 285, "{line}: {best:?} in {share} of 300 windows");
        }
    }

    #[test]
    fn a_fast_line_is_never_slowed_down_by_trying() {
        let used = run(&mut Chooser::default(), 2e9, 1000);
        assert!(used.iter().all(|e| *e == Encoding::Plain));
    }

    #[test]
    fn a_line_that_changes_is_measured_again_at_once() {
        let mut chooser = Chooser::default();
        for (line, best) in [(2e9, Encoding::Plain), (50e6, Encoding::Zstd), (2e9, Encoding::Plain)] {
            run(&mut chooser, line, 6);
            let used = run(&mut chooser, line, 20);
            assert!(used.iter().filter(|e| **e == best).count() >= 19, "{line}: {used:?}");
        }
    }

    /// Data that does not shrink, or a slow disk, make all rates alike: then nothing is compressed.
    #[test]
    fn what_does_not_pay_is_dropped() {
        let mut chooser = Chooser::default();
        for _ in 0..50 {
            chooser.window(WINDOW, Duration::from_millis(320));
        }
        assert_eq!(chooser.current(), Encoding::Plain);
    }
}
