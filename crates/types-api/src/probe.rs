//! Probes on the wire.

use understudy_probe::{HttpProbe, Probe, ProbeKind};

use crate::{
    duration_from_wire, duration_to_wire,
    v1::{self, probe::Kind},
};

/// Whoever reads a probe checks the bounds of all of them together, with [`understudy_probe::problems`].
///
/// # Errors
/// With the field and the reason, for everything that is no probe at all.
pub fn probe_from_wire(wire: v1::Probe) -> Result<Probe, Vec<(&'static str, String)>> {
    let v1::Probe { name, time_out, kind } = wire;
    let mut bad = Vec::new();
    let name = name.parse().map_err(|e| bad.push(("name", format!("{e}")))).ok();
    let time_out = match time_out.map(duration_from_wire) {
        None => Some(Probe::TIME_OUT),
        Some(span) => span.map_err(|e| bad.push(("time_out", e.to_string()))).ok(),
    };
    let kind = match kind {
        Some(kind) => kind_from_wire(&mut bad, kind),
        None => {
            bad.push(("kind", "is not set, or is one that this version does not know".to_owned()));
            None
        }
    };
    match (name, time_out, kind) {
        (Some(name), Some(time_out), Some(kind)) => Ok(Probe { name, time_out, kind }),
        _ => Err(bad),
    }
}

fn kind_from_wire(bad: &mut Vec<(&'static str, String)>, kind: Kind) -> Option<ProbeKind> {
    let mut number = |field: &'static str, number: u32| {
        u16::try_from(number).map_err(|_| bad.push((field, format!("{number} is too large")))).ok()
    };
    match kind {
        Kind::GuestAgent(v1::GuestAgentProbe {}) => Some(ProbeKind::GuestAgent),
        Kind::Ping(v1::PingProbe {}) => Some(ProbeKind::Ping),
        Kind::Tcp(v1::TcpProbe { port }) => Some(ProbeKind::Tcp { port: number("tcp.port", port)? }),
        Kind::Http(v1::HttpProbe { port, path, first_status, last_status, contains }) => {
            let port = number("http.port", port);
            let status = match (first_status, last_status) {
                (0, 0) => Some(HttpProbe::STATUS),
                (first, last) => number("http.first_status", first).zip(number("http.last_status", last)),
            };
            let contains = (!contains.is_empty()).then_some(contains);
            Some(ProbeKind::Http(HttpProbe { port: port?, path, status: status?, contains }))
        }
    }
}

pub fn probe_to_wire(probe: &Probe) -> v1::Probe {
    let Probe { name, time_out, kind } = probe;
    let kind = match kind.clone() {
        ProbeKind::GuestAgent => Kind::GuestAgent(v1::GuestAgentProbe {}),
        ProbeKind::Ping => Kind::Ping(v1::PingProbe {}),
        ProbeKind::Tcp { port } => Kind::Tcp(v1::TcpProbe { port: port.into() }),
        ProbeKind::Http(HttpProbe { port, path, status: (first, last), contains }) => {
            Kind::Http(v1::HttpProbe {
                port: port.into(),
                path,
                first_status: first.into(),
                last_status: last.into(),
                contains: contains.unwrap_or_default(),
            })
        }
    };
    v1::Probe { name: name.to_string(), time_out: Some(duration_to_wire(*time_out)), kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R-TF-8: every kind arrives as it was sent.
    #[test]
    fn probes_come_back_as_they_went_out() {
        for text in [
            "ping",
            "guest-agent,name=agent,within=300s",
            "tcp:5432",
            "http:80/health?deep=1,status=200-204,contains=all good",
            "http:80/",
        ] {
            let probe: Probe = text.parse().unwrap();
            assert_eq!(probe_from_wire(probe_to_wire(&probe)), Ok(probe));
        }
    }

    #[test]
    fn what_is_no_probe_is_refused_with_every_field() {
        let kind = Kind::Http(v1::HttpProbe { port: 1 << 16, last_status: 1 << 20, ..Default::default() });
        let wire = v1::Probe { name: "A".to_owned(), time_out: None, kind: Some(kind) };
        let fields: Vec<&str> = probe_from_wire(wire).unwrap_err().iter().map(|(field, _)| *field).collect();
        assert_eq!(fields, ["name", "http.port", "http.last_status"]);
        let no_kind = v1::Probe { name: "a".to_owned(), ..Default::default() };
        assert_eq!(probe_from_wire(no_kind).unwrap_err()[0].0, "kind");
    }
}
