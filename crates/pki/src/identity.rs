//! Who a peer is, written as the URI in its certificate.
//!
//! ```text
//!   spiffe://understudy/service/orchestrator | job-tracker | network-mapper
//!   spiffe://understudy/agent/<site>/<host>
//!   spiffe://understudy/user/<name>
//! ```

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use understudy_ids::{HostName, ItemName};

/// Everything before the path. One installation is one trust domain.
const TRUST_DOMAIN: &str = "spiffe://understudy/";

/// The services of the control plane. Each may run several times under the same identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServiceKind {
    Orchestrator,
    JobTracker,
    NetworkMapper,
}

impl ServiceKind {
    pub const ALL: [Self; 3] = [Self::Orchestrator, Self::JobTracker, Self::NetworkMapper];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Orchestrator => "orchestrator",
            Self::JobTracker => "job-tracker",
            Self::NetworkMapper => "network-mapper",
        }
    }
}

impl fmt::Display for ServiceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A person or a piece of automation that calls the API. Same grammar as the other names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserName(ItemName);

impl UserName {
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl FromStr for UserName {
    type Err = InvalidIdentity;
    fn from_str(text: &str) -> Result<Self, InvalidIdentity> {
        // The grammar is checked by one of the names that has it; the text in the error is ours.
        text.parse().map(Self).map_err(|_| InvalidIdentity::new(text))
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an access rule can name: the class of a peer, without its site, host or name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PeerKind {
    Orchestrator,
    JobTracker,
    NetworkMapper,
    Agent,
    User,
}

impl PeerKind {
    pub const ALL: [Self; 5] =
        [Self::Orchestrator, Self::JobTracker, Self::NetworkMapper, Self::Agent, Self::User];
}

impl fmt::Display for PeerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Orchestrator => "orchestrator",
            Self::JobTracker => "job-tracker",
            Self::NetworkMapper => "network-mapper",
            Self::Agent => "agent",
            Self::User => "user",
        })
    }
}

/// Who a certificate speaks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Identity {
    Service(ServiceKind),
    Agent(HostName),
    User(UserName),
}

impl Identity {
    pub fn kind(&self) -> PeerKind {
        match self {
            Self::Service(ServiceKind::Orchestrator) => PeerKind::Orchestrator,
            Self::Service(ServiceKind::JobTracker) => PeerKind::JobTracker,
            Self::Service(ServiceKind::NetworkMapper) => PeerKind::NetworkMapper,
            Self::Agent(_) => PeerKind::Agent,
            Self::User(_) => PeerKind::User,
        }
    }

    /// The host that this identity acts for, when it is an agent's.
    pub fn agent_host(&self) -> Option<&HostName> {
        match self {
            Self::Agent(host) => Some(host),
            Self::Service(_) | Self::User(_) => None,
        }
    }

    /// The user's name, when a user calls.
    pub fn user(&self) -> Option<&UserName> {
        match self {
            Self::User(name) => Some(name),
            Self::Service(_) | Self::Agent(_) => None,
        }
    }

    /// Reads the part after the trust domain, such as `agent/alpha/alpha-h1`: the form that people type on a command line.
    pub fn from_path(path: &str) -> Result<Self, InvalidIdentity> {
        let invalid = || InvalidIdentity::new(path);
        let (class, name) = path.split_once('/').ok_or_else(invalid)?;
        match class {
            "service" => ServiceKind::ALL
                .into_iter()
                .find(|kind| kind.as_str() == name)
                .map(Self::Service)
                .ok_or_else(invalid),
            "agent" => name.parse().map(Self::Agent).map_err(|_| invalid()),
            "user" => name.parse().map(Self::User),
            _ => Err(invalid()),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(kind) => write!(f, "{TRUST_DOMAIN}service/{kind}"),
            Self::Agent(host) => write!(f, "{TRUST_DOMAIN}agent/{host}"),
            Self::User(name) => write!(f, "{TRUST_DOMAIN}user/{name}"),
        }
    }
}

impl FromStr for Identity {
    type Err = InvalidIdentity;
    fn from_str(text: &str) -> Result<Self, InvalidIdentity> {
        let path = text.strip_prefix(TRUST_DOMAIN).ok_or_else(|| InvalidIdentity::new(text))?;
        Self::from_path(path)
    }
}

impl TryFrom<String> for Identity {
    type Error = InvalidIdentity;
    fn try_from(text: String) -> Result<Self, InvalidIdentity> {
        text.parse()
    }
}

impl From<Identity> for String {
    fn from(identity: Identity) -> String {
        identity.to_string()
    }
}

/// A text that names nobody we know. It carries the text, cut to a length that is safe to log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not an identity: use service/orchestrator, service/job-tracker, service/network-mapper, \
     agent/<site>/<host> or user/<name>"
)]
pub struct InvalidIdentity {
    pub text: String,
}

impl InvalidIdentity {
    fn new(text: &str) -> Self {
        Self { text: text.chars().take(120).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_round_trip_through_their_uri() {
        for uri in [
            "spiffe://understudy/service/orchestrator",
            "spiffe://understudy/service/job-tracker",
            "spiffe://understudy/service/network-mapper",
            "spiffe://understudy/agent/alpha/alpha-h1",
            "spiffe://understudy/user/ops",
        ] {
            let identity: Identity = uri.parse().unwrap();
            assert_eq!(identity.to_string(), uri);
        }
    }

    #[test]
    fn anything_else_is_nobody() {
        for bad in [
            "",
            "spiffe://understudy/",
            "spiffe://understudy/service/root",
            "spiffe://understudy/service/orchestrator/",
            "spiffe://understudy/agent/alpha",
            "spiffe://understudy/agent/alpha/h1/x",
            "spiffe://understudy/user/",
            "spiffe://understudy/user/a/b",
            "spiffe://elsewhere/user/ops",
            "https://understudy/user/ops",
            "SPIFFE://understudy/user/ops",
        ] {
            assert!(bad.parse::<Identity>().is_err(), "{bad:?} was accepted");
        }
    }
}
