//! A run's record as one HTML file: no scripts, nothing from elsewhere, readable on paper (R-JOB-4).
//!
//! ```text
//!   what it was ─▶ per item: times, loss, point, addresses ─▶ probes, screenshots ─▶ isolation ─▶ digests ─▶ steps ─▶ who did what
//! ```
//! Most of what is in it was written by others: names of machines, outputs of scripts, reasons. The template escapes all of it by itself;
//! nothing here may be marked as escaped already.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use maud::{DOCTYPE, Markup, html};
use understudy_ids::ItemName;
use understudy_jobs_api::Note;
use understudy_recovery::run::{IsolationEvidence, ProbeEvidence, Report, StepReport};
use understudy_recovery_api::view::{AuditRecord, Run, RunStep, Screenshot};

use crate::output::{maybe, maybe_span, span, utc};

/// What the file is made from.
pub struct Evidence {
    pub run: Run,
    pub report: Report,
    pub screenshots: Vec<(ItemName, Screenshot)>,
    /// What people wrote about it, oldest first.
    pub notes: Vec<Note>,
    /// Of the run, oldest first.
    pub audit: Vec<AuditRecord>,
}

const STYLE: &str = "
body { font: 15px/1.45 sans-serif; color: #1a1a1a; max-width: 62em; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; margin-bottom: .2em } h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #999 } h3 { font-size: 1em }
table { border-collapse: collapse; width: 100%; margin: .6em 0 } th, td { text-align: left; vertical-align: top; padding: .25em .6em .25em 0;
  border-bottom: 1px solid #ddd; overflow-wrap: break-word } th { font-weight: 600 } table.facts th { width: 14em }
pre { background: #f4f4f4; padding: .6em; white-space: pre-wrap; overflow-wrap: anywhere } code { overflow-wrap: anywhere }
img { max-width: 100%; border: 1px solid #999 } .good { color: #106010 } .bad { color: #a01010; font-weight: 600 } .aside { color: #555 }
@media print { body { margin: 0; max-width: none; font-size: 11px } tr, figure, pre { break-inside: avoid } h2, h3 { break-after: avoid } }
";
/// What the file may load: its own pictures and its own style.
const POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'";

pub fn page(evidence: &Evidence) -> String {
    let Evidence { run, report, screenshots, notes, audit } = evidence;
    let title = format!("{} of {}", report.operation, names(report.items.iter().map(|item| &item.item)));
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (maud::PreEscaped(STYLE)) }
            }
            body {
                h1 { (title) }
                p class="aside" { "Run " code { (report.run.to_string()) } }
                (summary(run, report))
                @if !report.problems.is_empty() {
                    h2 { "Problems" }
                    table { tr { th { "What" } th { "Problem" } th { "What to do" } }
                        @for problem in &report.problems {
                            tr { td { (problem.subject) } td { (problem.message) " [" (problem.reason) "]" } td { (problem.remedy) } }
                        }
                    }
                }
                h2 { "Items" }
                @for item in &report.items { (self::item(report, &item.item)) }
                (self::notes(notes))
                (probes(&report.probes))
                (pictures(screenshots))
                (isolation(&report.isolation))
                (digests(report))
                (steps(run, report))
                (people(run, report, audit))
            }
        }
    };
    page.into_string()
}

fn names<'a>(items: impl Iterator<Item = &'a ItemName>) -> String {
    items.map(ItemName::as_str).collect::<Vec<_>>().join(", ")
}

/// A row, when there is something to say.
fn fact(name: &str, value: String) -> Markup {
    html! { @if !value.is_empty() { tr { th { (name) } td { (value) } } } }
}

fn summary(run: &Run, report: &Report) -> Markup {
    let points = run.spec.points.iter().map(|(item, choice)| format!("{item}: {choice}"));
    let rpo = match report.rpo {
        Some(Duration::ZERO) => "nothing was lost".to_owned(),
        lost => maybe_span(lost),
    };
    html! {
        table class="facts" {
            (fact("Asked for", report.operation.to_string()))
            (fact("By", report.created_by.clone()))
            (fact("Started", utc(report.started)))
            (fact("Ended", report.ended.map(utc).unwrap_or_default()))
            tr { th { "Came to" } td { (verdict(report.state.as_str(), report.state.as_str() == "succeeded")) } }
            (fact("Recovery plan", maybe(&run.spec.recovery_plan)))
            (fact("From site", maybe(&run.spec.from_site)))
            (fact("Points asked for", points.collect::<Vec<_>>().join(", ")))
            (fact("Stated about the primary side", report.primary_down_assertion.clone().unwrap_or_default()))
            @if let Some(production) = &report.connected_to_production {
                tr { th { "Production" } td { (verdict(production, false)) } }
            }
            (fact("Completed or committed by", report.approved_by.clone().unwrap_or_default()))
            (fact("Recovery time (RTO)", maybe_span(report.rto)))
            (fact("At most lost (RPO)", rpo))
            @for change in &run.changes {
                (fact("Changed", format!("{} by {}: {}", utc(change.time), change.by, change.text)))
            }
        }
    }
}

fn verdict(words: &str, good: bool) -> Markup {
    html! { span class=(if good { "good" } else { "bad" }) { (words) } }
}

fn item(report: &Report, name: &ItemName) -> Markup {
    let outcome = report.items.iter().find(|item| item.item == *name);
    let planned = report.planned.iter().find(|item| item.item == *name);
    html! {
        h3 { (name.as_str()) }
        table class="facts" {
            @if let Some(planned) = planned {
                (fact("From", planned.source_host.to_string()))
                (fact("To", planned.target_host.to_string()))
            }
            @if let Some(outcome) = outcome {
                (fact("Machine", outcome.machine.to_string()))
                (fact("Generation", outcome.generation.to_string()))
                (fact("Recovery point", maybe(&outcome.point)))
                (fact("Instant of the point", outcome.point_instant.map(utc).unwrap_or_default()))
                (fact("Down for", maybe_span(outcome.downtime)))
                (fact("At most lost", maybe_span(outcome.loss_span)))
                @if let Some(error) = &outcome.error { tr { th { "Error" } td { (verdict(&error.message, false)) } } }
            }
        }
        @if let Some(planned) = planned.filter(|planned| !planned.connections.is_empty()) {
            table { tr { th { "NIC" } th { "Network" } th { "Address" } th { "Why" } }
                @for nic in &planned.connections {
                    tr { td { (nic.mac) } td { (nic.network) } td { (nic.address) } td { (nic.reason) } }
                }
            }
        }
    }
}

fn notes(notes: &[Note]) -> Markup {
    html! {
        @if !notes.is_empty() {
            h2 { "Notes" }
            table { tr { th { "When" } th { "Who" } th { "Note" } }
                @for note in notes { tr { td { (utc(note.created)) } td { (note.author) } td { (note.text) } } }
            }
        }
    }
}

fn probes(probes: &[ProbeEvidence]) -> Markup {
    let result = |probe: &ProbeEvidence| match probe.passed {
        Some(true) => verdict("passed", true),
        Some(false) => verdict("failed", false),
        None => html! { "not asked" },
    };
    html! {
        @if !probes.is_empty() {
            h2 { "Probes" }
            table { tr { th { "Item" } th { "Probe" } th { "Asked" } th { "Result" } th { "After" } th { "Seen" } }
                @for probe in probes {
                    tr { td { (probe.item.as_str()) } td { (probe.name.as_str()) } td { code { (probe.asked) } } td { (result(probe)) }
                         td { (maybe_span(probe.after)) } td { (probe.seen) } }
                }
            }
        }
    }
}

fn pictures(screenshots: &[(ItemName, Screenshot)]) -> Markup {
    html! {
        @if !screenshots.is_empty() {
            h2 { "Consoles" }
            @for (item, Screenshot { png, time }) in screenshots {
                figure {
                    figcaption { (item.as_str()) ", " (utc(*time)) }
                    img alt=(format!("Console of {item}")) src=(format!("data:image/png;base64,{}", STANDARD.encode(png)));
                }
            }
        }
    }
}

fn isolation(isolation: &[IsolationEvidence]) -> Markup {
    let addresses = |addresses: &[std::net::IpAddr]| {
        addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    html! {
        @if !isolation.is_empty() {
            h2 { "Isolation" }
            @for evidence in isolation {
                h3 { (evidence.step.as_str()) }
                table class="facts" {
                    (fact("Tried to reach", addresses(&evidence.tried)))
                    tr { th { "Answered" } td {
                        @if evidence.answered.is_empty() { (verdict("none", true)) } @else { (verdict(&addresses(&evidence.answered), false)) }
                    } }
                    (fact("Ports of the segment", evidence.ports.join(", ")))
                    (fact("How", evidence.method.clone()))
                }
            }
        }
    }
}

fn digests(report: &Report) -> Markup {
    let compared: Vec<_> = report.items.iter().filter(|item| !item.disks.is_empty()).collect();
    html! {
        @if !compared.is_empty() {
            h2 { "Digests of both sides" }
            table { tr { th { "Item" } th { "Disk" } th { "Source" } th { "Target" } th { "" } }
                @for item in compared { @for disk in &item.disks {
                    tr { td { (item.item.as_str()) } td { (disk.disk.as_str()) } td { code { (disk.source_root) } } td { code { (disk.target_root) } }
                         td { (verdict(if disk.equal { "equal" } else { "different" }, disk.equal)) } }
                } }
            }
        }
    }
}

fn steps(run: &Run, report: &Report) -> Markup {
    let shown = |step: &StepReport| run.steps.iter().find(|other| other.plan.step == step.step);
    let began = |step: &StepReport| shown(step).and_then(|step| step.start_time).map(utc).unwrap_or_default();
    let written: Vec<_> = report.steps.iter().filter(|step| !step.output.is_empty()).collect();
    html! {
        h2 { "Steps" }
        table { tr { th { "Step" } th { "State" } th { "Began" } th { "Took" } th { "Outcome" } }
            @for step in &report.steps {
                tr { td { (step.title) } td { (state(step)) } td { (began(step)) } td { (step.took.map(span).unwrap_or_default()) }
                     td { (step.outcome) } }
            }
        }
        @if !written.is_empty() {
            h2 { "Outputs of scripts" }
            @for step in written { h3 { (step.title) } pre { (step.output) } }
        }
    }
}

fn state(step: &StepReport) -> String {
    let state = serde_json::to_value(step.state).unwrap_or_default();
    let state = state.as_str().unwrap_or_default().to_owned();
    if step.tries > 1 { format!("{state}, try {}", step.tries) } else { state }
}

/// What people were waited for and said, and the audit records of the run.
fn people(run: &Run, report: &Report, audit: &[AuditRecord]) -> Markup {
    let confirmed: Vec<&RunStep> =
        run.steps.iter().filter(|step| step.plan.executor == "operator" && step.end_time.is_some()).collect();
    // Verbs of their own, which complete a test or commit, are kept with the run.
    let by = |step: &RunStep| match step.outcome.as_str() {
        "" => report.approved_by.clone().unwrap_or_default(),
        confirmed => confirmed.to_owned(),
    };
    html! {
        @if !confirmed.is_empty() {
            h2 { "Confirmed by people" }
            table { tr { th { "When" } th { "What" } th { "By whom" } }
                @for step in confirmed {
                    tr { td { (step.end_time.map(utc).unwrap_or_default()) } td { (step.plan.title) } td { (by(step)) } }
                }
            }
        }
        @if !audit.is_empty() {
            h2 { "Audit records" }
            table { tr { th { "When" } th { "Who" } th { "What" } th { "Decision" } th { "Result" } th { "Why" } }
                @for record in audit {
                    tr { td { (utc(record.time)) } td { (record.who) } td { (record.what) } td { (record.decision.as_str()) }
                         td { (record.result) } td { (record.why) } }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use understudy_ids::{Problem, UnixMicros};
    use understudy_recovery_api::{Decision, Operation, RunState, request::RunSpec};

    use super::*;

    /// What would do something in a browser if it were let through: as an element, in an attribute, as an entity.
    const HOSTILE: &str = r#"</pre><script>alert('x')</script><img src=x onerror=alert(1)>"onload="y&lt;"#;

    fn evidence() -> Evidence {
        let report = serde_json::json!({
            "run": "0a1b2c3d-4e5f-4000-8000-000000000001",
            "operation": "unplanned-failover", "state": "completed-with-errors",
            "created_by": HOSTILE, "approved_by": HOSTILE, "primary_down_assertion": HOSTILE, "connected_to_production": HOSTILE,
            "started_us": 1_796_019_644_000_000_i64, "ended_us": 1_796_019_704_000_000_i64,
            "rto_seconds": 61.5, "rpo_seconds": 0.0,
            "items": [{
                "item": "web1", "generation": 4, "point": 23, "point_instant_us": 1_796_019_640_000_000_i64,
                "downtime_seconds": null, "loss_span_seconds": 4.0, "machine": "web1", "address": HOSTILE,
                "disks": [{ "disk": "vda", "source_root": "ab", "target_root": HOSTILE, "equal": false }],
                "error": { "reason": "X", "subject": HOSTILE, "message": HOSTILE, "remedy": HOSTILE },
            }],
            "planned": [{
                "item": "web1", "state": "protected", "generation": 4, "source_host": "alpha/h1", "target_host": "bravo/h1",
                "machine": "web1",
                "connections": [{ "mac": HOSTILE, "network": HOSTILE, "address": HOSTILE, "reason": HOSTILE }],
            }],
            "changes": [],
            "isolation": [{
                "step": "prove-isolation-0-0", "ports": [HOSTILE], "tried": ["192.168.50.1"], "answered": ["10.0.0.1"],
                "method": HOSTILE,
            }],
            "probes": [{
                "step": "web1.probe-1", "item": "web1", "name": "shop", "asked": HOSTILE, "passed": false,
                "after_seconds": 30.0, "seen": HOSTILE,
            }],
            "steps": [{
                "step": "group-1.after-1", "item": null, "title": HOSTILE, "phase": "prepare", "state": "succeeded", "tries": 2,
                "took_seconds": 1.0, "outcome": HOSTILE, "output": HOSTILE,
            }],
            "problems": [{ "reason": "X", "subject": HOSTILE, "message": HOSTILE, "remedy": HOSTILE }],
        });
        let report: Report = serde_json::from_value(report).unwrap();
        let run = Run {
            name: report.run,
            spec: RunSpec {
                primary_down_assertion: Some(HOSTILE.to_owned()),
                ..RunSpec::new(Operation::UnplannedFailover, BTreeSet::new())
            },
            operation: Operation::UnplannedFailover,
            state: RunState::CompletedWithErrors,
            phase: HOSTILE.to_owned(),
            waiting_for: String::new(),
            allowed_actions: Vec::new(),
            steps: Vec::new(),
            outcomes: Vec::new(),
            problems: vec![Problem::new("X", HOSTILE, HOSTILE, HOSTILE)],
            created_by: HOSTILE.to_owned(),
            create_time: report.started,
            end_time: report.ended,
            progress_percent: 100,
            changes: Vec::new(),
            deadline: None,
        };
        let record = AuditRecord {
            time: report.started,
            who: HOSTILE.to_owned(),
            what: HOSTILE.to_owned(),
            target: String::new(),
            decision: Decision::Allowed,
            result: HOSTILE.to_owned(),
            why: HOSTILE.to_owned(),
        };
        let note = Note {
            job: report.run,
            id: report.run,
            author: HOSTILE.to_owned(),
            text: HOSTILE.to_owned(),
            created: report.started,
        };
        let picture = Screenshot { png: HOSTILE.as_bytes().to_vec(), time: UnixMicros::new(0) };
        Evidence {
            run,
            report,
            screenshots: vec![("web1".parse().unwrap(), picture)],
            notes: vec![note],
            audit: vec![record],
        }
    }

    /// R-JOB-4: what others wrote is read, and never done.
    #[test]
    fn nothing_that_others_wrote_gets_out_of_its_place() {
        let page = page(&evidence());
        assert!(
            page.matches("alert(&#39;x&#39;)").count() + page.matches("alert('x')").count() > 20,
            "{page}"
        );
        assert!(!page.contains("<script") && !page.contains("<img src=x"), "{page}");
        // Every tag is one of ours, and no attribute of one comes from outside.
        let tags = page.split('<').skip(1).map(|rest| rest.split('>').next().unwrap_or_default());
        for tag in tags {
            let name = tag.trim_start_matches('/').split([' ', '\n']).next().unwrap_or_default();
            let ours = [
                "!DOCTYPE",
                "html",
                "head",
                "meta",
                "title",
                "style",
                "body",
                "h1",
                "h2",
                "h3",
                "p",
                "code",
                "table",
                "tr",
                "th",
                "td",
                "span",
                "figure",
                "figcaption",
                "img",
                "pre",
            ];
            assert!(ours.contains(&name), "<{tag}>");
            assert!(!tag.contains("onerror") && !tag.contains("onload"), "<{tag}>");
        }
        assert!(page.contains("&amp;lt;"), "an entity is not taken for one");
    }

    /// It needs nothing but itself, and everything that was asked for is in it.
    #[test]
    fn the_file_is_whole() {
        let page = page(&evidence());
        for part in [
            "unplanned-failover of web1",
            "2026-11-30 06:20:44 UTC",
            "completed-with-errors",
            "1 min 1 s",
            "nothing was lost",
            "alpha/h1",
            "bravo/h1",
            "succeeded, try 2",
            "data:image/png;base64,PC9wcmU",
            "192.168.50.1",
            "different",
            "Audit records",
        ] {
            assert!(page.contains(part), "{part} is not in {page}");
        }
        for elsewhere in ["http://", "https://", "url(", "@import", "<link", "<iframe"] {
            assert!(!page.contains(elsewhere), "{elsewhere} is in {page}");
        }
    }
}
