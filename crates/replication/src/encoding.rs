//! What blocks travel as, chosen by what has been measured on the very stream (R-REP-11).
//!
//! ```text
//!   nothing known ─┬─ much to send ──▶ zstd ── fills the line: nothing sends more ──────▶ zstd, checked rarely
//!                  │                     └─── does not: another limit ─▶ try plain, lz4 ─▶ the fastest ◀─┐
//!                  └─ little ──▶ plain ── slower than PAYS_BELOW, and it is the line ─▶ try zstd, lz4 ──────▶ ┘ checked every TRY_AGAIN
//! ```
//!
//! A rate is bytes of the disk per second, whatever they became on the wire. What is handed over goes to buffers first, as fast as
//! memory: only what comes after they are full says something about the line, or, where a cycle is too short for that, the time
//! until its receipt.

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

/// Bytes of the disk that a rate is measured over.
const WINDOW: u64 = 32 << 20;
/// Payload that a connection takes before it is the line that is measured: its window, and what is being read, encoded and queued.
const BUFFERED: u64 = 96 << 20;
/// With so many bytes of the disk to send, and nothing known, compression is what begins.
const MUCH: u64 = 256 << 20;
/// Bytes per second below which compression may pay: about what two processors compress.
const PAYS_BELOW: f64 = 700e6;
/// Windows between two looks at other encodings.
const TRY_AGAIN: u32 = 128;
/// And while the strongest one fills the line, where a look costs most and finds something only when it is not the line at all.
const TRY_RARELY: u32 = 512;
/// Another encoding has to be so much faster: a change costs something, and so does compressing.
const CLEARLY: f64 = 1.05;
/// Share of a new figure in the rate that is kept.
const FRESH: f64 = 0.5;

/// What went through a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Passed {
    /// Of the disk.
    pub bytes: u64,
    /// What they travelled as, bytes.
    pub payload: u64,
    pub elapsed: Duration,
    /// Of `elapsed`, how long the line took nothing.
    pub blocked: Duration,
}

impl Passed {
    fn add(&mut self, more: Self) {
        self.bytes += more.bytes;
        self.payload += more.payload;
        self.elapsed += more.elapsed;
        self.blocked += more.blocked;
    }

    /// Processors have time to spare, so that it is the line that everything waits for.
    fn fills_the_line(&self) -> bool {
        self.blocked * 4 > self.elapsed
    }

    fn shrinks(&self) -> bool {
        self.payload < self.bytes - self.bytes / 10
    }
}

/// What one stream has learnt, from cycle to cycle.
#[derive(Debug, Clone, PartialEq)]
pub struct Chooser {
    current: Encoding,
    /// Bytes of the disk per second; `None`: never measured since the line was last like this.
    rates: [Option<f64>; 3],
    /// To be measured, the last one first.
    trials: Vec<Encoding>,
    since_trial: u32,
    /// Payload to pass before the line is what is measured.
    unsettled: u64,
    window: Passed,
    /// This cycle, until something of it could be measured.
    short: Option<Passed>,
    /// Short cycles, together.
    shorts: Passed,
}

impl Default for Chooser {
    fn default() -> Self {
        Self {
            current: Encoding::Plain,
            rates: [None; 3],
            trials: Vec::new(),
            since_trial: 0,
            unsettled: BUFFERED,
            window: Passed::default(),
            short: None,
            shorts: Passed::default(),
        }
    }
}

impl Chooser {
    /// What the next blocks travel as.
    pub const fn current(&self) -> Encoding {
        self.current
    }

    /// A cycle begins that has so many bytes of the disk to send.
    pub fn begin(&mut self, bytes: u64) {
        if self.rates == [None; 3] && self.trials.is_empty() && bytes >= MUCH {
            self.use_from_now(Encoding::Zstd);
        }
        (self.unsettled, self.window, self.short) = (BUFFERED, Passed::default(), Some(Passed::default()));
    }

    /// Something has been handed over.
    pub fn passed(&mut self, passed: Passed) {
        if let Some(short) = &mut self.short {
            short.add(passed);
        }
        if self.unsettled > 0 {
            self.unsettled = self.unsettled.saturating_sub(passed.payload);
            return;
        }
        self.short = None;
        self.window.add(passed);
        if self.window.bytes >= WINDOW {
            let window = std::mem::take(&mut self.window);
            self.measured(window);
        }
    }

    /// The cycle has ended with a receipt, so long after its last piece was handed over.
    pub fn end(&mut self, receipt: Duration) {
        if let Some(short) = self.short.take().filter(|short| short.bytes > 0) {
            let waited = Passed { elapsed: receipt, blocked: receipt, ..Passed::default() };
            self.shorts.add(short);
            self.shorts.add(waited);
        }
        if self.shorts.bytes >= WINDOW {
            let shorts = std::mem::take(&mut self.shorts);
            self.measured(shorts);
        }
    }

    fn use_from_now(&mut self, encoding: Encoding) {
        if encoding != self.current {
            self.current = encoding;
            (self.unsettled, self.shorts) = (BUFFERED, Passed::default());
        }
    }

    fn measured(&mut self, window: Passed) {
        let rate = window.bytes as f64 / window.elapsed.as_secs_f64().max(1e-9);
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
        let next = self.next(rate, is_another_line, window);
        self.use_from_now(next);
    }

    fn next(&mut self, rate: f64, is_another_line: bool, window: Passed) -> Encoding {
        // The strongest encoding fills the line: nothing gets more through it, and rates of other data need not be compared.
        let plain = self.rates[Encoding::Plain.index()];
        let unbeaten = self.current == Encoding::Zstd
            && window.fills_the_line()
            && window.shrinks()
            && plain.is_none_or(|plain| rate > plain * CLEARLY);
        if unbeaten {
            self.trials.clear();
            if self.since_trial < TRY_RARELY {
                return Encoding::Zstd;
            }
        }
        if self.trials.is_empty() {
            if self.current == Encoding::Plain && (rate >= PAYS_BELOW || !window.fills_the_line()) {
                return Encoding::Plain;
            }
            let never = self.rates.iter().any(Option::is_none);
            if never || is_another_line || unbeaten || self.since_trial >= TRY_AGAIN {
                let others = Encoding::ALL.into_iter().rev();
                self.trials = others.filter(|encoding| *encoding != self.current).collect();
                self.since_trial = 0;
            }
        }
        self.trials.pop().unwrap_or_else(|| self.fastest())
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

    const MIB: u64 = 1 << 20;
    /// What the connection keeps before the line.
    const BUFFER: f64 = 70e6;

    /// A line and two processors, and what fits between them. Rates in bytes per second.
    struct Stream {
        line: f64,
        /// Of the disk, the slower of reading and writing.
        disk: f64,
        shrinks: bool,
        buffered: f64,
    }

    impl Stream {
        fn of(line: f64) -> Self {
            Self { line, disk: 3e9, shrinks: true, buffered: 0.0 }
        }

        /// Sends a cycle; returns what its pieces travelled as, and how long it took in seconds.
        fn cycle(&mut self, chooser: &mut Chooser, mib: u64) -> (Vec<Encoding>, f64) {
            let mut used = Vec::new();
            let mut took = 0.0;
            chooser.begin(mib * MIB);
            for _ in 0..mib {
                let encoding = chooser.current();
                used.push(encoding);
                let (ratio, speed): (f64, f64) = match encoding {
                    _ if !self.shrinks => (1.0, 900e6),
                    Encoding::Plain => (1.0, 3e9),
                    Encoding::Zstd => (1.0 / 2.95, 800e6),
                    Encoding::Lz4 => (1.0 / 2.3, 1_400e6),
                };
                let payload = MIB as f64 * ratio;
                let made = MIB as f64 / speed.min(self.disk);
                self.buffered = (self.buffered - made * self.line).max(0.0) + payload;
                let blocked = ((self.buffered - BUFFER) / self.line).max(0.0);
                self.buffered = self.buffered.min(BUFFER);
                took += made + blocked;
                let time = Duration::from_secs_f64;
                let (elapsed, blocked) = (time(made + blocked), time(blocked));
                chooser.passed(Passed { bytes: MIB, payload: payload as u64, elapsed, blocked });
            }
            let receipt = self.buffered / self.line + 0.002;
            self.buffered = 0.0;
            chooser.end(Duration::from_secs_f64(receipt));
            (used, took + receipt)
        }
    }

    fn share(used: &[Encoding], wanted: Encoding) -> f64 {
        used.iter().filter(|e| **e == wanted).count() as f64 / used.len() as f64
    }

    /// R-REP-11: chosen per line, and the fastest one is what almost all of a first copy goes as.
    #[test]
    fn each_line_gets_what_is_fastest_on_it() {
        for (line, best) in [
            (1e6, Encoding::Zstd),
            (100e6, Encoding::Zstd),
            (500e6, Encoding::Lz4),
            (1_500e6, Encoding::Plain),
            (3e9, Encoding::Plain),
        ] {
            let mut chooser = Chooser::default();
            let (used, _) = Stream::of(line).cycle(&mut chooser, 20_000);
            assert!(share(&used, best) >= 0.85, "{line}: {best:?} in {} of the copy", share(&used, best));
        }
    }

    /// On a slow line no byte more than compression makes of them, from the first one on.
    #[test]
    fn a_first_copy_over_a_slow_line_is_compressed_from_its_beginning() {
        let (used, _) = Stream::of(50e6).cycle(&mut Chooser::default(), 10_000);
        assert_eq!(share(&used, Encoding::Zstd), 1.0);
    }

    #[test]
    fn a_fast_line_is_slowed_down_once_and_briefly_by_trying() {
        let mut chooser = Chooser::default();
        let (used, _) = Stream::of(2e9).cycle(&mut chooser, 8_000);
        let first_plain = used.iter().position(|e| *e == Encoding::Plain).unwrap();
        assert!(first_plain < 400 && used[1_500..].iter().all(|e| *e == Encoding::Plain), "{first_plain}");
        for _ in 0..100 {
            let (used, _) = Stream::of(2e9).cycle(&mut chooser, 40);
            assert_eq!(share(&used, Encoding::Plain), 1.0);
        }
    }

    /// Deltas that fit into the buffers are judged by when their receipt comes.
    #[test]
    fn short_cycles_are_measured_together() {
        for (line, best) in [(10e6, Encoding::Zstd), (2e9, Encoding::Plain)] {
            let (mut chooser, mut stream) = (Chooser::default(), Stream::of(line));
            for _ in 0..40 {
                stream.cycle(&mut chooser, 10);
            }
            let used: Vec<Encoding> = (0..40).flat_map(|_| stream.cycle(&mut chooser, 10).0).collect();
            assert!(share(&used, best) > 0.9, "{line}: {used:?}");
        }
    }

    #[test]
    fn a_line_that_changes_is_measured_again() {
        let mut chooser = Chooser::default();
        for (line, best) in [(2e9, Encoding::Plain), (50e6, Encoding::Zstd), (2e9, Encoding::Plain)] {
            Stream::of(line).cycle(&mut chooser, 1_500);
            let (used, _) = Stream::of(line).cycle(&mut chooser, 1_000);
            assert!(share(&used, best) >= 0.9, "{line}: {}", share(&used, best));
        }
    }

    /// Data that does not shrink, or a disk that is slower than the line, make all rates alike: then nothing is compressed.
    #[test]
    fn what_does_not_pay_is_dropped() {
        let slow_disk = Stream { disk: 60e6, ..Stream::of(2e9) };
        let dense = Stream { shrinks: false, ..Stream::of(100e6) };
        for mut stream in [slow_disk, dense] {
            let mut chooser = Chooser::default();
            stream.cycle(&mut chooser, 20_000);
            let (used, _) = stream.cycle(&mut chooser, 20_000);
            assert!(
                share(&used, Encoding::Plain) > 0.9,
                "disk {}: {}",
                stream.disk,
                share(&used, Encoding::Plain)
            );
        }
    }
}
