//! What was measured, beside whom, and whether that is enough.

use std::time::Duration;

use comfy_table::Table;

use crate::place;

/// What is wanted of a figure.
#[derive(Clone, Copy)]
enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    fn met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }
}

impl std::fmt::Display for Goal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "≥ {least}"),
            Self::AtMost(most) => write!(f, "≤ {most}"),
        }
    }
}

struct Row {
    measure: String,
    ours: String,
    peer: String,
    figure: f64,
    goal: Goal,
}

/// Collects rows and prints them.
#[derive(Default)]
pub struct Rows(Vec<Row>);

impl Rows {
    /// How many times as fast as a peer we are.
    pub fn speed(&mut self, measure: &str, ours: Duration, peer: &str, theirs: Duration, least: f64) {
        self.0.push(Row {
            measure: measure.to_owned(),
            ours: seconds(ours),
            peer: format!("{peer}: {}", seconds(theirs)),
            figure: theirs.as_secs_f64() / ours.as_secs_f64(),
            goal: Goal::AtLeast(least),
        });
    }

    /// How many times as much we use.
    pub fn cost(&mut self, measure: &str, ours: f64, unit: &str, peer: &str, theirs: f64, most: f64) {
        self.0.push(Row {
            measure: measure.to_owned(),
            ours: format!("{ours:.3} {unit}"),
            peer: format!("{peer}: {theirs:.3} {unit}"),
            figure: ours / theirs,
            goal: Goal::AtMost(most),
        });
    }

    /// How many times as many per second.
    pub fn rate(&mut self, measure: &str, ours: f64, peer: &str, theirs: f64, least: f64) {
        self.0.push(Row {
            measure: measure.to_owned(),
            ours: format!("{ours:.0}/s"),
            peer: format!("{peer}: {theirs:.0}/s"),
            figure: ours / theirs,
            goal: Goal::AtLeast(least),
        });
    }

    /// A figure by itself.
    pub fn absolute(&mut self, measure: &str, ours: f64, unit: &str, most: f64) {
        self.0.push(Row {
            measure: measure.to_owned(),
            ours: format!("{ours:.2} {unit}"),
            peer: String::new(),
            figure: ours,
            goal: Goal::AtMost(most),
        });
    }

    pub fn print(&self) {
        let mut table = Table::new();
        table.set_header(["measure", "ours", "peer", "ratio", "goal", ""]);
        for row in &self.0 {
            let met = if row.goal.met(row.figure) { "met" } else { "MISSED" };
            table.add_row([
                row.measure.clone(),
                row.ours.clone(),
                row.peer.clone(),
                format!("{:.2}", row.figure),
                row.goal.to_string(),
                met.to_owned(),
            ]);
        }
        println!("{table}");
        let met = self.0.iter().filter(|row| row.goal.met(row.figure)).count();
        println!("{met} of {} goals met. Load when it ended: {}.", self.0.len(), place::load());
    }

    pub fn all_met(&self) -> bool {
        self.0.iter().all(|row| row.goal.met(row.figure))
    }
}

fn seconds(span: Duration) -> String {
    match span.as_secs_f64() {
        s if s < 0.01 => format!("{:.2} ms", s * 1e3),
        s => format!("{s:.3} s"),
    }
}
