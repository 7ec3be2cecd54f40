//! Tells the story and keeps count: every claim is checked when it is made, and the summary is made of the checks.

use std::time::{Duration, Instant};

use anyhow::Result;

/// One checked claim.
#[derive(Debug, Clone)]
pub struct Check {
    /// The chapter it was made in.
    pub chapter: String,
    pub claim: String,
    pub held: bool,
    /// What was seen, or why it did not hold.
    pub evidence: String,
}

/// Prints as it goes.
#[derive(Debug)]
pub struct Narrator {
    begun: Instant,
    chapter: String,
    chapter_begun: Instant,
    checks: Vec<Check>,
    times: Vec<(String, Duration)>,
}

impl Default for Narrator {
    fn default() -> Self {
        let now = Instant::now();
        Self { begun: now, chapter: String::new(), chapter_begun: now, checks: vec![], times: vec![] }
    }
}

impl Narrator {
    /// Begins a chapter.
    pub fn chapter(&mut self, title: &str) {
        self.end_chapter();
        self.chapter = title.to_owned();
        self.chapter_begun = Instant::now();
        println!("\n━━━ {title}   [{}]", clock(self.begun.elapsed()));
    }

    fn end_chapter(&mut self) {
        if !self.chapter.is_empty() {
            self.times.push((self.chapter.clone(), self.chapter_begun.elapsed()));
        }
    }

    /// Says what is done.
    pub fn say(&self, sentence: &str) {
        println!("  {sentence}");
    }

    /// Makes a claim and checks it. `seen` returns what was seen when the claim holds, and fails with the reason when it does not.
    pub fn check(&mut self, claim: &str, seen: impl FnOnce() -> Result<String>) {
        let (held, evidence) = match seen() {
            Ok(evidence) => (true, evidence),
            Err(error) => (false, format!("{error:#}")),
        };
        println!("  {} {claim}: {evidence}", if held { "✓" } else { "✗ NOT TRUE:" });
        self.checks.push(Check { chapter: self.chapter.clone(), claim: claim.to_owned(), held, evidence });
    }

    /// Ends the story and prints the summary; true when every claim held.
    pub fn conclude(&mut self) -> bool {
        self.end_chapter();
        self.chapter.clear();
        println!("\n━━━ Summary   [{}]", clock(self.begun.elapsed()));
        for (chapter, took) in &self.times {
            let checks: Vec<&Check> = self.checks.iter().filter(|c| c.chapter == *chapter).collect();
            let held = checks.iter().filter(|c| c.held).count();
            println!("  {chapter:<72} {:>7}   {held} of {} claims held", clock(*took), checks.len());
        }
        for broken in self.broken() {
            println!("  ✗ {}: {}: {}", broken.chapter, broken.claim, broken.evidence);
        }
        self.checks.iter().all(|c| c.held)
    }

    /// Claims that did not hold.
    pub fn broken(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|c| !c.held)
    }

    /// How many claims were checked.
    pub fn count(&self) -> usize {
        self.checks.len()
    }
}

fn clock(span: Duration) -> String {
    format!("{}:{:04.1}", span.as_secs() / 60, span.as_secs_f64() % 60.0)
}
