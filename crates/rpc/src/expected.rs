//! Whom a client is willing to talk to.

use std::fmt;

use understudy_ids::{HostName, SiteName};
use understudy_pki::{Identity, PeerKind, ServiceKind};

/// The identity that a server must prove. Addresses and DNS names prove nothing here: whoever holds the certificate is the peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExpectedPeer {
    /// This one and no other.
    Exactly(Identity),
    /// Any instance of a control plane service.
    Service(ServiceKind),
    /// The agent of this host.
    Agent(HostName),
    /// Any agent of a site.
    AgentOfSite(SiteName),
    /// Any agent.
    AnyAgent,
}

impl ExpectedPeer {
    pub fn accepts(&self, identity: &Identity) -> bool {
        match self {
            Self::Exactly(expected) => expected == identity,
            Self::Service(kind) => *identity == Identity::Service(*kind),
            Self::Agent(host) => identity.agent_host() == Some(host),
            Self::AgentOfSite(site) => identity.agent_host().is_some_and(|host| host.site() == site),
            Self::AnyAgent => identity.kind() == PeerKind::Agent,
        }
    }
}

impl fmt::Display for ExpectedPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(identity) => identity.fmt(f),
            Self::Service(kind) => Identity::Service(*kind).fmt(f),
            Self::Agent(host) => Identity::Agent(host.clone()).fmt(f),
            Self::AgentOfSite(site) => write!(f, "an agent of site {site}"),
            Self::AnyAgent => f.write_str("an agent"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_accepts_what_it_names_and_nothing_else() {
        let id = |path: &str| Identity::from_path(path).unwrap();
        let site = |name: &str| ExpectedPeer::AgentOfSite(name.parse().unwrap());
        let agent = id("agent/alpha/h1");
        let cases = [
            (ExpectedPeer::Exactly(id("user/ops")), vec![id("user/ops")]),
            (ExpectedPeer::Service(ServiceKind::JobTracker), vec![id("service/job-tracker")]),
            (ExpectedPeer::Agent("alpha/h1".parse().unwrap()), vec![agent.clone()]),
            (site("alpha"), vec![agent.clone(), id("agent/alpha/h2")]),
            (ExpectedPeer::AnyAgent, vec![agent, id("agent/alpha/h2"), id("agent/bravo/h1")]),
        ];
        let everyone = [
            "user/ops",
            "user/dev",
            "service/job-tracker",
            "service/orchestrator",
            "service/network-mapper",
            "agent/alpha/h1",
            "agent/alpha/h2",
            "agent/bravo/h1",
        ];
        for (pattern, accepted) in cases {
            for peer in everyone.map(id) {
                assert_eq!(pattern.accepts(&peer), accepted.contains(&peer), "{pattern} and {peer}");
            }
        }
    }
}
