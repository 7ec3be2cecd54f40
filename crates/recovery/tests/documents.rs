//! Documents that are written from the tables of this crate.
//!
//! `UPDATE_DOCS=1 cargo test -p understudy-recovery --test documents` writes them anew.

use std::{env, fmt::Write, fs, path::Path};

use understudy_recovery::{direction::DIRECTIONS, item};

const BEGIN: &str = "<!-- generated: begin -->\n";
const END: &str = "<!-- generated: end -->";

/// Invariant 10: the diagram that people read is the table that decides.
#[test]
fn the_diagram_of_an_items_life_is_the_table() {
    check("item-lifecycle.md", &format!("```mermaid\n{}```\n", item::mermaid()));
}

/// R-DIR
#[test]
fn the_document_of_directions_is_the_table() {
    let mut table = String::from("| from | to | test | planned | unplanned |\n|---|---|---|---|---|\n");
    let word = |possible: bool| if possible { "yes" } else { "no" };
    for row in DIRECTIONS {
        let (test, planned, unplanned) = (word(row.test), word(row.planned), word(row.unplanned));
        let (source, target) = (row.source, row.target);
        writeln!(table, "| {source} | {target} | {test} | {planned} | {unplanned} |").unwrap();
    }
    check("directions.md", &table);
}

/// Compares what stands between the markers of a document with `expected`, or writes it there when asked to.
fn check(document: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(document);
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the document has a begin marker");
    let (written, after) = rest.split_once(END).expect("the document has an end marker");
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{expected}{END}{after}")).unwrap();
        return;
    }
    assert_eq!(written, expected, "{document} is out of date; write it anew with UPDATE_DOCS=1");
}
