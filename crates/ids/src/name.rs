//! Resource names: one grammar for all of them, one type for each.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Why a text is not a name. The text itself is included, cut to a length that is safe to log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} {text:?} is not valid: use 1 to {max} lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit"
)]
pub struct InvalidName {
    pub what: &'static str,
    pub text: String,
    pub max: usize,
}

/// The grammar shared by all names. It is the intersection of what a DNS label sequence, a path component, a libvirt
/// object name and a Postgres text key accept, so that a name never has to be escaped anywhere.
fn check(what: &'static str, text: &str, max: usize) -> Result<(), InvalidName> {
    let edge = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = text.as_bytes();
    let ok = !bytes.is_empty()
        && bytes.len() <= max
        && bytes.iter().all(|&c| edge(c) || c == b'-' || c == b'.')
        && edge(bytes[0])
        && edge(bytes[bytes.len() - 1])
        && !text.contains("..");
    if ok {
        return Ok(());
    }
    Err(InvalidName { what, text: text.chars().take(80).collect(), max })
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                check($what, &text, $max)?;
                Ok(Self(text))
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                check($what, text, $max)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A place with hosts, storage and networks (R-SITE-1).
    SiteName, "site name", 40
);
name!(
    /// A machine as its hypervisor calls it.
    MachineName, "machine name", 63
);
name!(
    /// A protected item. Unique over all sites, because it keeps its name whichever side is active.
    ItemName, "item name", 63
);
name!(
    /// A consistency group.
    GroupName, "consistency group name", 63
);
name!(
    /// A replication policy.
    PolicyName, "policy name", 63
);
name!(
    /// A VM network of one site.
    NetworkName, "network name", 63
);
name!(
    /// A DNS server, as network-mapper's configuration calls it.
    DnsServerName, "name of a DNS server", 63
);
name!(
    /// Something that is called when clients of a machine are to go elsewhere, as network-mapper's configuration calls it.
    TrafficHookName, "name of a traffic hook", 40
);
name!(
    /// A disk of a machine by its target device (`vda`), which is stable over failover (R-FO-6).
    DiskName, "disk name", 32
);
name!(
    /// A first copy on a medium, by the name of its directory (R-REP-11).
    SeedName, "seed name", 63
);
name!(
    /// A recovery plan.
    RecoveryPlanName, "recovery plan name", 63
);
name!(
    /// A group or an action of a recovery plan.
    PlanPartName, "name of a part of a recovery plan", 63
);
name!(
    /// A script in the library of a host, by the name of its file (R-RP-2).
    ScriptName, "script name", 63
);
name!(
    /// A probe of a protected item (R-TF-8).
    ProbeName, "probe name", 40
);
name!(
    /// A step of a run, unique within it, such as `web1.start`.
    StepName, "step name", 120
);

/// A host with the site it stands in, written `alpha/alpha-h1`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName {
    site: SiteName,
    host: String,
}

impl HostName {
    pub fn new(site: SiteName, host: &str) -> Result<Self, InvalidName> {
        check("host name", host, 63)?;
        Ok(Self { site, host: host.to_owned() })
    }

    pub fn site(&self) -> &SiteName {
        &self.site
    }

    /// The host's own name, without its site.
    pub fn host(&self) -> &str {
        &self.host
    }
}

impl FromStr for HostName {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let (site, host) = text.split_once('/').ok_or_else(|| InvalidName {
            what: "host (site/host)",
            text: text.chars().take(80).collect(),
            max: 104,
        })?;
        Self::new(site.parse()?, host)
    }
}

impl TryFrom<String> for HostName {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<HostName> for String {
    fn from(name: HostName) -> String {
        name.to_string()
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.site, self.host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_their_directory_or_their_shell_are_refused() {
        for bad in
            ["", "-a", "a-", ".", "..", "a..b", "a/b", "A", "a b", "a;b", "a\n", "é", "a_b", &"x".repeat(64)]
        {
            assert!(bad.parse::<ItemName>().is_err(), "{bad:?} was accepted");
        }
        for good in ["a", "web1", "web-1.shop", "0", &"x".repeat(63)] {
            assert!(good.parse::<ItemName>().is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn hosts_carry_their_site() {
        let host: HostName = "alpha/alpha-h1".parse().unwrap();
        assert_eq!((host.site().as_str(), host.host()), ("alpha", "alpha-h1"));
        assert_eq!(host.to_string(), "alpha/alpha-h1");
        assert!("alpha".parse::<HostName>().is_err());
        assert!("alpha/".parse::<HostName>().is_err());
        assert!("alpha/a/b".parse::<HostName>().is_err());
    }
}
