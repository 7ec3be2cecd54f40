//! Probes as people type them.
//!
//! ```text
//!   guest-agent │ ping │ tcp:PORT │ http:PORT/PATH   then, in any order:  ,name=NAME  ,within=30s
//!                                                    of http also:        ,status=200 or ,status=200-299   and last ,contains=TEXT
//! ```
//! A comma in a path is written `%2C`; everything behind `contains=` is the text.

use std::{fmt, str::FromStr, time::Duration};

use crate::{HttpProbe, Probe, ProbeKind, problems};

/// A text that is no probe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}; write guest-agent, ping, tcp:5432 or http:80/health, then for example ,within=30s,name=shop")]
pub struct InvalidProbe(String);

impl FromStr for Probe {
    type Err = InvalidProbe;
    fn from_str(text: &str) -> Result<Self, InvalidProbe> {
        let refuse = |why: String| InvalidProbe(why);
        let (settings, contains) = match text.split_once(",contains=") {
            Some((settings, contains)) => (settings, Some(contains.to_owned())),
            None => (text, None),
        };
        let mut parts = settings.split(',');
        let mut kind = parts.next().unwrap_or_default().parse::<ProbeKind>()?;
        let (mut name, mut time_out) = (None, Probe::TIME_OUT);
        for part in parts {
            match (part.split_once('='), &mut kind) {
                (Some(("name", value)), _) => {
                    name = Some(value.parse().map_err(|e| refuse(format!("{e}")))?);
                }
                (Some(("within", value)), _) => time_out = span(value)?,
                (Some(("status", value)), ProbeKind::Http(http)) => http.status = status(value)?,
                _ => return Err(refuse(format!("{part:?} is no setting of {settings:?}"))),
            }
        }
        match (&mut kind, contains) {
            (_, None) => {}
            (ProbeKind::Http(http), contains) => http.contains = contains,
            _ => return Err(refuse("only http has a text that it must contain".to_owned())),
        }
        let name = match name {
            Some(name) => name,
            None => kind.usual_name().parse().map_err(|e| refuse(format!("{e}")))?,
        };
        let probe = Self { name, time_out, kind };
        match problems(std::slice::from_ref(&probe)).first() {
            None => Ok(probe),
            Some((field, why)) => Err(refuse(format!("{} {why}", field.trim_start_matches("probes[0].")))),
        }
    }
}

impl FromStr for ProbeKind {
    type Err = InvalidProbe;
    fn from_str(text: &str) -> Result<Self, InvalidProbe> {
        let port = |port: &str| port.parse().map_err(|_| InvalidProbe(format!("{port:?} is not a TCP port")));
        match text.split_once(':') {
            None if text == "guest-agent" => Ok(Self::GuestAgent),
            None if text == "ping" => Ok(Self::Ping),
            Some(("tcp", number)) => Ok(Self::Tcp { port: port(number)? }),
            Some(("http", rest)) => {
                let (number, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
                let (port, path) = (port(number)?, path.to_owned());
                Ok(Self::Http(HttpProbe { port, path, status: HttpProbe::STATUS, contains: None }))
            }
            _ => Err(InvalidProbe(format!("{text:?} is no kind of probe"))),
        }
    }
}

fn span(text: &str) -> Result<Duration, InvalidProbe> {
    let seconds = match (text.strip_suffix('s'), text.strip_suffix('m')) {
        (Some(seconds), _) => seconds.parse().ok(),
        (_, Some(minutes)) => minutes.parse().ok().and_then(|minutes: u64| minutes.checked_mul(60)),
        _ => text.parse().ok(),
    };
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| InvalidProbe(format!("{text:?} is no time: use 30s or 5m")))
}

fn status(text: &str) -> Result<(u16, u16), InvalidProbe> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) => Ok((first, last)),
        _ => Err(InvalidProbe(format!("{text:?} is no status: use 200 or 200-299"))),
    }
}

impl ProbeKind {
    fn usual_name(&self) -> String {
        match self {
            Self::GuestAgent => "guest-agent".to_owned(),
            Self::Ping => "ping".to_owned(),
            Self::Tcp { port } => format!("tcp-{port}"),
            Self::Http(http) => format!("http-{}", http.port),
        }
    }
}

impl fmt::Display for ProbeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GuestAgent => f.write_str("guest-agent"),
            Self::Ping => f.write_str("ping"),
            Self::Tcp { port } => write!(f, "tcp:{port}"),
            Self::Http(http) => write!(f, "http:{}{}", http.port, http.path),
        }
    }
}

/// The form that reads as the same probe.
impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, time_out, kind } = self;
        f.write_str(&kind.to_string().replace(',', "%2C"))?;
        if name.as_str() != kind.usual_name() {
            write!(f, ",name={name}")?;
        }
        if *time_out != Self::TIME_OUT {
            write!(f, ",within={}s", time_out.as_secs())?;
        }
        match kind {
            ProbeKind::Http(HttpProbe { status, contains, .. }) => {
                match status {
                    usual if *usual == HttpProbe::STATUS => {}
                    (first, last) if first == last => write!(f, ",status={first}")?,
                    (first, last) => write!(f, ",status={first}-{last}")?,
                }
                contains.as_ref().map_or(Ok(()), |text| write!(f, ",contains={text}"))
            }
            ProbeKind::GuestAgent | ProbeKind::Ping | ProbeKind::Tcp { .. } => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R-TF-8: what is shown can be typed again.
    #[test]
    fn what_is_typed_is_what_is_shown() {
        for text in [
            "ping",
            "guest-agent,within=300s",
            "tcp:5432,name=db",
            "http:80/",
            "http:8080/health?deep=1,name=shop,within=30s,status=200-204,contains=all good, really",
            "http:80/a%2Cb,status=503",
        ] {
            assert_eq!(text.parse::<Probe>().unwrap().to_string(), text);
        }
        let short: Probe = "http:80".parse().unwrap();
        assert_eq!(short, "http:80/,name=http-80,within=90,status=200-399".parse().unwrap());
        assert_eq!("ping,within=2m".parse::<Probe>().unwrap().time_out, Duration::from_secs(120));
    }

    #[test]
    fn what_is_no_probe_is_refused_with_the_reason() {
        for (text, why) in [
            ("", "no kind"),
            ("udp:53", "no kind"),
            ("tcp:70000", "not a TCP port"),
            ("tcp:0", "not a TCP port"),
            ("ping,status=200", "no setting"),
            ("ping,contains=x", "only http"),
            ("ping,within=0s", "between 1 s and 3600 s"),
            ("ping,within=long", "no time"),
            ("http:80/a b", "percent-encoded"),
            ("http:80/,status=2xx", "no status"),
            ("http:80/,contains=", "1 to 256 bytes"),
            ("ping,name=Not A Name", "not valid"),
        ] {
            let error = text.parse::<Probe>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
