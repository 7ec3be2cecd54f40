//! R-REP-9: what the shipped alert rules and their documentation name exists.

use std::{collections::BTreeSet, fs, path::Path};

use understudy_replication::rpo;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All words of `text` that begin with `start`, without the endings that Prometheus adds to histograms.
fn words(text: &str, start: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with(start))
        .map(|word| {
            ["_bucket", "_sum", "_count"].iter().fold(word, |w, end| w.strip_suffix(end).unwrap_or(w))
        })
        .map(str::to_owned)
        .collect()
}

fn sources(dir: &Path, all: &mut String) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_none_or(|name| name != "target" && name != "tests") {
            sources(&path, all);
        } else if path.extension().is_some_and(|end| end == "rs") {
            all.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn metrics_of_rules_and_documentation_exist_in_the_source() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut source = String::new();
    for dir in ["crates", "services"] {
        sources(&root.join(dir), &mut source);
    }
    let (rules, documented) =
        (read("deploy/observability/alerts.yml"), read("deploy/observability/README.md"));
    let documented = words(&documented, "understudy_");
    let known = words(&source, "understudy_");
    let unknown: Vec<_> = documented.difference(&known).filter(|name| *name != "understudy_rpc").collect();
    assert!(unknown.is_empty(), "documented and not in the source: {unknown:?}");
    let used = words(&rules, "understudy_");
    assert!(used.len() >= 5, "{used:?}");
    let undocumented: Vec<_> = used.difference(&documented).collect();
    assert!(undocumented.is_empty(), "in the rules and not documented: {undocumented:?}");
}

#[test]
fn alerts_of_rules_and_documentation_exist_in_the_source() {
    let source = include_str!("../../../crates/replication/src/rpo.rs");
    let (rules, documented) =
        (read("deploy/observability/alerts.yml"), read("deploy/observability/README.md"));
    let named = rules.split("alert=\"").skip(1).chain(rules.split("alert!=\"").skip(1));
    let named: Vec<&str> = named.filter_map(|rest| rest.split('"').next()).collect();
    assert!(named.contains(&"NO_ANSWER"), "{named:?}");
    for code in named {
        assert!(source.contains(&format!("\"{code}\"")), "{code} is in the rules and not in the source");
    }
    let table = documented.lines().filter(|line| line.starts_with("| `") && line.contains(" | "));
    let codes: BTreeSet<&str> = table
        .flat_map(|line| line.split('|').nth(1).unwrap_or_default().split('`').skip(1).step_by(2))
        .filter(|code| code.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
        .collect();
    for code in &codes {
        assert!(source.contains(&format!("\"{code}\"")), "{code} is documented and not in the source");
    }
    for code in rpo::CHANGED {
        assert!(codes.contains(code), "{code} is not documented");
    }
    // The table of `Reason::code`.
    let own =
        source.split("pub fn code(").nth(1).and_then(|rest| rest.split("pub fn remedy(").next()).unwrap();
    for code in own.split('"').skip(1).step_by(2) {
        assert!(codes.contains(code), "{code} is not documented");
    }
}
