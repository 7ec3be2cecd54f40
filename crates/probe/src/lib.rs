//! What a machine is asked after it has started, so that "it runs" is more than that its hypervisor says so (R-TF-8).
//!
//! ```text
//!   protected item ─▶ plan: a step each ─▶ task ─▶ the host's agent asks once a second ─▶ passed, or what was seen instead
//! ```
//! One type travels the whole way, and [`problems`] is the only place that knows its bounds. [`Probe`] reads and writes the form that people
//! type: `ping`, `tcp:5432`, `http:80/health,status=200-204,within=30s,name=shop,contains=all good`.

mod text;

use std::{collections::BTreeSet, ops::RangeInclusive, time::Duration};

use serde::{Deserialize, Serialize};
use understudy_ids::ProbeName;

pub use text::InvalidProbe;

/// The most probes of one item.
pub const MAX_PROBES: usize = 16;
/// The longest path of an HTTP probe, in bytes.
pub const MAX_PATH: usize = 1024;
/// The longest text that a page may be asked for, in bytes.
pub const MAX_CONTAINS: usize = 256;
/// How much of a page is read to find it, in bytes.
pub const MAX_BODY: usize = 64 << 10;
/// The most that is kept of what a probe saw, in bytes.
pub const MAX_SEEN: usize = 256;

/// A question to a machine that has been started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Probe {
    /// Unique within an item.
    pub name: ProbeName,
    /// How long it may take until the answer is the one that is wanted. It is asked once a second.
    #[serde(rename = "time_out_s", with = "seconds")]
    pub time_out: Duration,
    pub kind: ProbeKind,
}

/// What is asked, and what answer is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProbeKind {
    /// The agent in the guest answers through the machine's channel; no network is needed for that.
    GuestAgent,
    /// The first address answers an echo request.
    Ping,
    /// The port accepts a connection.
    Tcp {
        port: u16,
    },
    Http(HttpProbe),
}

/// A GET over plain HTTP. Redirections are answers like any other, and are not followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HttpProbe {
    pub port: u16,
    /// With its leading `/` and, if there is one, its query.
    pub path: String,
    /// First and last status that pass.
    pub status: (u16, u16),
    /// What the first [`MAX_BODY`] bytes of the page must hold.
    pub contains: Option<String>,
}

impl HttpProbe {
    /// Every answer that is no error.
    pub const STATUS: (u16, u16) = (200, 399);
}

impl Probe {
    /// A machine that boots gets this long.
    pub const TIME_OUT: Duration = Duration::from_secs(90);
    const TIME_OUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
    const STATUSES: RangeInclusive<u16> = 100..=599;

    /// What is asked where nobody has said otherwise: its first address answers.
    pub fn ping() -> Self {
        let name = "ping".parse().unwrap_or_else(|error| unreachable!("{error}"));
        Self { name, time_out: Self::TIME_OUT, kind: ProbeKind::Ping }
    }

    fn check(&self, problem: &mut impl FnMut(&str, String)) {
        if !Self::TIME_OUTS.contains(&self.time_out) || self.time_out.subsec_nanos() != 0 {
            let (least, most) = (Self::TIME_OUTS.start().as_secs(), Self::TIME_OUTS.end().as_secs());
            let is = self.time_out.as_secs_f64();
            problem(
                "time_out",
                format!("is {is} s, it must be whole seconds between {least} s and {most} s"),
            );
        }
        match &self.kind {
            ProbeKind::GuestAgent | ProbeKind::Ping => {}
            ProbeKind::Tcp { port } => check_port(*port, "tcp.port", problem),
            ProbeKind::Http(HttpProbe { port, path, status: (first, last), contains }) => {
                check_port(*port, "http.port", problem);
                if !path.starts_with('/') {
                    problem("http.path", "does not begin with '/'".to_owned());
                }
                // What goes into a request line must not be able to end it.
                if !path.bytes().all(|byte| byte.is_ascii_graphic()) || path.contains('#') {
                    let why = "holds a space, a '#' or something that is not ASCII; write it percent-encoded";
                    problem("http.path", why.to_owned());
                }
                if path.len() > MAX_PATH {
                    let why = format!("is {} bytes long, the most is {MAX_PATH}", path.len());
                    problem("http.path", why);
                }
                if first > last || !Self::STATUSES.contains(first) || !Self::STATUSES.contains(last) {
                    let why =
                        format!("{first} to {last} is no range of statuses; they lie between 100 and 599");
                    problem("http.status", why);
                }
                if let Some(text) = contains {
                    let printable = !text.chars().any(char::is_control);
                    if text.is_empty() || text.len() > MAX_CONTAINS || !printable {
                        let why = format!("must have 1 to {MAX_CONTAINS} bytes and no control characters");
                        problem("http.contains", why);
                    }
                }
            }
        }
    }
}

fn check_port(port: u16, field: &str, problem: &mut impl FnMut(&str, String)) {
    if port == 0 {
        problem(field, "is 0, which is not a TCP port".to_owned());
    }
}

/// Everything that is wrong with the probes of an item: field and reason.
pub fn problems(probes: &[Probe]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    if probes.len() > MAX_PROBES {
        let why = format!("has {} entries, the most is {MAX_PROBES}", probes.len());
        found.push(("probes".to_owned(), why));
    }
    let mut names = BTreeSet::new();
    for (n, probe) in probes.iter().enumerate() {
        let mut problem = |field: &str, why: String| found.push((format!("probes[{n}].{field}"), why));
        if !names.insert(&probe.name) {
            problem("name", format!("{} is there twice", probe.name));
        }
        probe.check(&mut problem);
    }
    found
}

mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(span.as_secs_f64())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, kind: ProbeKind) -> Probe {
        Probe { name: name.parse().unwrap(), kind, ..Probe::ping() }
    }

    fn http(path: &str, status: (u16, u16), contains: Option<&str>) -> ProbeKind {
        let contains = contains.map(str::to_owned);
        ProbeKind::Http(HttpProbe { port: 80, path: path.to_owned(), status, contains })
    }

    /// R-TF-8: all problems at once, each with its field.
    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let good = [named("a", http("/health?deep=1", (200, 399), Some("all good"))), Probe::ping()];
        assert_eq!(problems(&good), []);

        let injected = http("/ HTTP/1.1\r\nHost: elsewhere", (600, 200), Some(""));
        let slow = Probe { time_out: Duration::from_secs(3601), ..named("c", ProbeKind::Ping) };
        let bad = [
            named("a", ProbeKind::Tcp { port: 0 }),
            named("a", injected),
            named("b", http("health#top", (99, 399), Some(&"x".repeat(257)))),
            slow,
        ];
        let found = problems(&bad);
        let fields: Vec<&str> = found.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "probes[0].tcp.port",
                "probes[1].name",
                "probes[1].http.path",
                "probes[1].http.status",
                "probes[1].http.contains",
                "probes[2].http.path",
                "probes[2].http.path",
                "probes[2].http.status",
                "probes[2].http.contains",
                "probes[3].time_out",
            ]
        );

        let long = format!("/{}", "x".repeat(MAX_PATH));
        let why = format!("is {} bytes long, the most is {MAX_PATH}", MAX_PATH + 1);
        let found = problems(&[named("a", http(&long, (200, 399), None))]);
        assert_eq!(found, [("probes[0].http.path".to_owned(), why)]);

        let many: Vec<Probe> = (0..17).map(|n| named(&format!("p{n}"), ProbeKind::Ping)).collect();
        assert_eq!(problems(&many), [("probes".to_owned(), "has 17 entries, the most is 16".to_owned())]);
    }

    #[test]
    fn a_probe_is_stored_as_it_is() {
        let probe = named("shop", http("/health", (200, 204), Some("ok")));
        let json = serde_json::to_string(&probe).unwrap();
        assert_eq!(serde_json::from_str::<Probe>(&json).unwrap(), probe, "{json}");
    }
}
