//! The filter of `ListOperations`: the part of the standard's grammar (AIP-160) that a listing of jobs can answer.
//!
//! ```text
//!   filter = factor { AND factor }      factor = term { OR term }, all about the state      term = field operator value
//!   done = true|false · state = running · type = "…" · target = "…" · create_time > "2026-01-31T12:00:00Z"
//! ```

use understudy_jobs::JobState;

use crate::{
    check::{Check, MAX_LINE, MAX_NAME, MAX_PARAGRAPH},
    model::JobFilter,
};

const FIELD: &str = "filter";
const REMEDY: &str = "Join terms by AND: done = true, state = running, type = \"…\", target = \"…\", \
                      create_time > \"2026-01-31T12:00:00Z\"; terms about the state also by OR.";

/// Reads a filter; notes everything that cannot be taken.
pub(super) fn read(check: &mut Check, text: &str) -> JobFilter {
    let mut filter = JobFilter::default();
    if text.len() > MAX_PARAGRAPH {
        check.note("TOO_LONG", FIELD, format!("is {} bytes", text.len()), "Shorten it.");
        return filter;
    }
    let Some(words) = words(text) else {
        check.note("INVALID", FIELD, "has a quotation mark without its other half", REMEDY);
        return filter;
    };
    let mut states: Option<Vec<JobState>> = None;
    if !words.is_empty() {
        for factor in words.split(|word| word.is("AND")) {
            match factor_of(factor, &mut filter) {
                Ok(None) => {}
                // All factors must hold.
                Ok(Some(of)) => match &mut states {
                    None => states = Some(of),
                    Some(both) => both.retain(|state| of.contains(state)),
                },
                Err(message) => check.note("INVALID", FIELD, message, REMEDY),
            }
        }
    }
    if states.as_ref().is_some_and(Vec::is_empty) {
        check.note("INVALID", FIELD, "asks for a state that no job can have", REMEDY);
    }
    filter.states = states.unwrap_or_default();
    filter
}

/// A word, or a text in quotation marks, which is never an operator.
#[derive(Debug, PartialEq)]
struct Word {
    text: String,
    quoted: bool,
}

impl Word {
    fn is(&self, text: &str) -> bool {
        !self.quoted && self.text == text
    }
}

/// Nothing when a quotation mark is not closed.
fn words(text: &str) -> Option<Vec<Word>> {
    let mut words = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(first) = rest.next() {
        let word = match first {
            ' ' | '\t' => continue,
            '=' | '>' => Word { text: first.to_string(), quoted: false },
            '"' => {
                let mut text = String::new();
                loop {
                    match rest.next()? {
                        '"' => break,
                        '\\' => text.push(rest.next()?),
                        other => text.push(other),
                    }
                }
                Word { text, quoted: true }
            }
            _ => {
                let mut text = first.to_string();
                while let Some(next) = rest.next_if(|c| !matches!(c, ' ' | '\t' | '=' | '>' | '"')) {
                    text.push(next);
                }
                Word { text, quoted: false }
            }
        };
        words.push(word);
    }
    Some(words)
}

/// Puts a factor into the filter, or tells the states that it allows.
fn factor_of(factor: &[Word], filter: &mut JobFilter) -> Result<Option<Vec<JobState>>, String> {
    let terms: Vec<&[Word]> = factor.split(|word| word.is("OR")).collect();
    if let [only] = terms.as_slice() {
        return term(only, filter);
    }
    let mut any = Vec::new();
    for term in terms {
        match states_of(term)? {
            Some(of) => any.extend(of),
            None => return Err(format!("joins {:?} by OR", shown(term))),
        }
    }
    Ok(Some(any))
}

fn term(words: &[Word], filter: &mut JobFilter) -> Result<Option<Vec<JobState>>, String> {
    if let Some(states) = states_of(words)? {
        return Ok(Some(states));
    }
    let [field, operator, value] = words else { return Err(format!("{:?} is no term", shown(words))) };
    let value = value.text.clone();
    match (field.text.as_str(), operator.text.as_str()) {
        ("type", "=") => once(&mut filter.kind, "type", bounded(value, MAX_NAME)?)?,
        ("target", "=") => once(&mut filter.target, "target", bounded(value, MAX_LINE)?)?,
        ("create_time", ">") => {
            let time = value.parse::<prost_types::Timestamp>().ok();
            let time = time.and_then(|time| understudy_types_api::time_from_wire(time).ok());
            let time = time.ok_or_else(|| format!("{value:?} is no time"))?;
            once(&mut filter.created_after, "create_time", time)?;
        }
        _ => return Err(format!("{:?} is no term", shown(words))),
    }
    Ok(None)
}

/// The states that a term about the state allows.
fn states_of(words: &[Word]) -> Result<Option<Vec<JobState>>, String> {
    let [field, operator, value] = words else { return Ok(None) };
    if !operator.is("=") {
        return Ok(None);
    }
    match field.text.as_str() {
        "done" => {
            let done = value.text.parse::<bool>().map_err(|_| "done is true or false".to_owned())?;
            Ok(Some(JobState::ALL.into_iter().filter(|state| state.is_final() == done).collect()))
        }
        "state" => {
            let state = JobState::parse(&value.text);
            Ok(Some(vec![state.ok_or_else(|| format!("{:?} is no state of a job", shown(words)))?]))
        }
        _ => Ok(None),
    }
}

fn once<T>(place: &mut Option<T>, field: &str, value: T) -> Result<(), String> {
    if place.replace(value).is_some() { Err(format!("names {field} twice")) } else { Ok(()) }
}

fn bounded(text: String, max: usize) -> Result<String, String> {
    let good = !text.is_empty() && text.len() <= max && !text.chars().any(char::is_control);
    if good { Ok(text) } else { Err(format!("a value is empty, longer than {max} bytes or not printable")) }
}

fn shown(words: &[Word]) -> String {
    let text: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
    text.join(" ").chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use understudy_ids::UnixMicros;

    use super::*;

    fn parse(text: &str) -> Result<JobFilter, Vec<String>> {
        let mut check = Check::default();
        let filter = read(&mut check, text);
        check.done(Some(filter)).map_err(|bad| bad.problems.into_iter().map(|p| p.message).collect())
    }

    #[test]
    fn filters_are_read() {
        assert_eq!(parse(""), Ok(JobFilter::default()));
        let all = r#"type = "test-failover" AND target="protectedItems/\"x\" AND y" AND state = running OR state=waiting
                     AND create_time > "1970-01-01T00:00:01Z""#;
        let all = all.replace('\n', " ");
        let expected = JobFilter {
            states: vec![JobState::Running, JobState::Waiting],
            kind: Some("test-failover".into()),
            target: Some("protectedItems/\"x\" AND y".into()),
            created_after: Some(UnixMicros::new(1_000_000)),
        };
        assert_eq!(parse(&all), Ok(expected));
        let done = parse("done=true AND state = failed").unwrap();
        assert_eq!(done.states, [JobState::Failed]);
        assert_eq!(parse("done = false").unwrap().states.len(), 4);
    }

    #[test]
    fn what_a_listing_cannot_answer_is_refused_with_everything_that_is_wrong() {
        let bad = [
            "AND",
            "type",
            "type = ",
            "type = \"x",
            "type > x",
            "state > running",
            "state = asleep",
            "done = perhaps",
            "create_time > yesterday",
            "type = a OR type = b",
            "type = a AND type = b",
            "done = true AND state = running",
            "NOT done = true",
            "type = \"\"",
            "(done = true)",
        ];
        for text in bad {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse("size = 3 AND done = perhaps AND state = x").unwrap_err().len(), 3);
        assert!(parse(&"x".repeat(5000)).is_err());
    }
}
