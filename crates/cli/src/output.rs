//! Tables for people, JSON for programs: the same facts in both.

use std::{io::Write, path::Path, time::Duration};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use serde::Serialize;
use understudy_ids::UnixMicros;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
}

/// Prints `value` as JSON, or `table()`.
pub fn print<T: Serialize>(format: Format, value: &T, table: impl FnOnce() -> Table) -> anyhow::Result<()> {
    match format {
        Format::Json => say(&serde_json::to_string_pretty(value)?),
        Format::Table => say(&table().to_string()),
    }
    Ok(())
}

/// Says that something is gone.
pub fn deleted(format: Format, name: &str) -> anyhow::Result<()> {
    print(format, &serde_json::json!({ "deleted": name }), || facts(&[("deleted", name.to_owned())]))
}

/// Says where a file is now.
pub fn written(format: Format, file: &Path) -> anyhow::Result<()> {
    let file = file.display().to_string();
    print(format, &serde_json::json!({ "written": file }), || facts(&[("written", file.clone())]))
}

/// Prints a line. A reader that went away (`| head`) ends the command quietly; there is nobody to tell anything.
pub fn say(text: &str) {
    if writeln!(std::io::stdout(), "{text}").is_err() {
        std::process::exit(0);
    }
}

/// A table with one row per entry.
pub fn rows<const N: usize, T>(headings: [&str; N], entries: &[T], row: impl Fn(&T) -> [String; N]) -> Table {
    let mut table = new_table();
    table.set_header(headings);
    for entry in entries {
        table.add_row(row(entry));
    }
    table
}

/// A table with one row per fact about one thing.
pub fn facts(facts: &[(&str, String)]) -> Table {
    let mut table = new_table();
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        table.add_row([(*name).to_owned(), value.clone()]);
    }
    table
}

fn new_table() -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table
}

/// Local time to the second.
pub fn time(at: UnixMicros) -> String {
    match jiff::Timestamp::from_microsecond(at.get()) {
        Ok(at) => at.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => at.to_string(),
    }
}

/// The same moment for readers anywhere.
pub fn utc(at: UnixMicros) -> String {
    match jiff::Timestamp::from_microsecond(at.get()) {
        Ok(at) => at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        Err(_) => at.to_string(),
    }
}

pub fn maybe_time(at: Option<UnixMicros>) -> String {
    at.map(time).unwrap_or_default()
}

pub fn span(span: Duration) -> String {
    match span.as_secs() {
        0..60 => format!("{:.1} s", span.as_secs_f64()),
        s @ 60..3600 => format!("{} min {} s", s / 60, s % 60),
        s => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}

pub fn maybe_span(value: Option<Duration>) -> String {
    value.map(span).unwrap_or_default()
}

pub fn bytes(count: u64) -> String {
    indicatif::HumanBytes(count).to_string()
}

pub fn maybe<T: ToString>(value: &Option<T>) -> String {
    value.as_ref().map(ToString::to_string).unwrap_or_default()
}
