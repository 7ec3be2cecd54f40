//! Resource names: `sites/alpha/hosts/alpha-h1/machines/web1` and the like, read and written in one place.

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};
use understudy_ids::{
    GroupName, HostName, InvalidName, ItemName, MachineName, PointSeq, PolicyName, RecoveryPlanName, RunId,
    SiteName, Uuid,
};

/// The longest resource name that is looked at, in bytes.
const MAX_RESOURCE_NAME: usize = 400;
/// The longest request id, in bytes.
const MAX_REQUEST_ID: usize = 64;

/// A machine as one host's hypervisor calls it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MachineRef {
    pub host: HostName,
    pub machine: MachineName,
}

/// A recovery point of an item.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct PointRef {
    pub item: ItemName,
    pub seq: PointSeq,
}

impl fmt::Display for MachineRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.machine)
    }
}

impl Serialize for MachineRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Chosen by the caller for one mutation: the same id again gets the same answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(String);

/// A text that is no request id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a request id has 1 to {MAX_REQUEST_ID} letters, digits, '-', '_', '.' or ':'; a fresh UUID will do")]
pub struct InvalidRequestId;

impl RequestId {
    pub fn new(id: Uuid) -> Self {
        Self(id.to_string())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RequestId {
    type Err = InvalidRequestId;
    fn from_str(text: &str) -> Result<Self, InvalidRequestId> {
        let fine = |c: u8| c.is_ascii_alphanumeric() || b"-_.:".contains(&c);
        let ok = (1..=MAX_REQUEST_ID).contains(&text.len()) && text.bytes().all(fine);
        if ok { Ok(Self(text.to_owned())) } else { Err(InvalidRequestId) }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Something that has a resource name.
pub trait Resource: Sized {
    /// How its names look, for errors.
    const PATTERN: &'static str;

    /// # Errors
    /// When `text` does not look like [`Resource::PATTERN`].
    fn from_resource(text: &str) -> Result<Self, String>;
    fn to_resource(&self) -> String;
}

/// The variable parts of `text`, where `fixed` are the words between them; nothing when it does not have that form.
fn parts<'a, const N: usize>(text: &'a str, fixed: [&str; N]) -> Option<[&'a str; N]> {
    if text.len() > MAX_RESOURCE_NAME {
        return None;
    }
    let mut words = text.split('/');
    let mut found = [""; N];
    for (word, slot) in fixed.iter().zip(&mut found) {
        words.next().filter(|w| w == word)?;
        *slot = words.next()?;
    }
    words.next().is_none().then_some(found)
}

fn mismatch<T: Resource>(text: &str) -> String {
    let shown: String = text.chars().take(120).collect();
    format!("{shown:?} is not of the form {}", T::PATTERN)
}

fn bad_name(error: InvalidName) -> String {
    error.to_string()
}

impl Resource for SiteName {
    const PATTERN: &'static str = "sites/<site>";
    fn from_resource(text: &str) -> Result<Self, String> {
        let [site] = parts(text, ["sites"]).ok_or_else(|| mismatch::<Self>(text))?;
        site.parse().map_err(bad_name)
    }
    fn to_resource(&self) -> String {
        format!("sites/{self}")
    }
}

impl Resource for HostName {
    const PATTERN: &'static str = "sites/<site>/hosts/<host>";
    fn from_resource(text: &str) -> Result<Self, String> {
        let [site, host] = parts(text, ["sites", "hosts"]).ok_or_else(|| mismatch::<Self>(text))?;
        Self::new(site.parse().map_err(bad_name)?, host).map_err(bad_name)
    }
    fn to_resource(&self) -> String {
        format!("sites/{}/hosts/{}", self.site(), self.host())
    }
}

impl Resource for MachineRef {
    const PATTERN: &'static str = "sites/<site>/hosts/<host>/machines/<machine>";
    fn from_resource(text: &str) -> Result<Self, String> {
        let [site, host, machine] =
            parts(text, ["sites", "hosts", "machines"]).ok_or_else(|| mismatch::<Self>(text))?;
        let host = HostName::new(site.parse().map_err(bad_name)?, host).map_err(bad_name)?;
        Ok(Self { host, machine: machine.parse().map_err(bad_name)? })
    }
    fn to_resource(&self) -> String {
        format!("{}/machines/{}", self.host.to_resource(), self.machine)
    }
}

impl Resource for ItemName {
    const PATTERN: &'static str = "protectedItems/<item>";
    fn from_resource(text: &str) -> Result<Self, String> {
        let [item] = parts(text, ["protectedItems"]).ok_or_else(|| mismatch::<Self>(text))?;
        item.parse().map_err(bad_name)
    }
    fn to_resource(&self) -> String {
        format!("protectedItems/{self}")
    }
}

impl Resource for PointRef {
    const PATTERN: &'static str = "protectedItems/<item>/recoveryPoints/<seq>";
    fn from_resource(text: &str) -> Result<Self, String> {
        let [item, seq] =
            parts(text, ["protectedItems", "recoveryPoints"]).ok_or_else(|| mismatch::<Self>(text))?;
        let seq = seq.parse().map_err(|_| mismatch::<Self>(text))?;
        Ok(Self { item: item.parse().map_err(bad_name)?, seq: PointSeq::new(seq) })
    }
    fn to_resource(&self) -> String {
        format!("protectedItems/{}/recoveryPoints/{}", self.item, self.seq)
    }
}

impl Resource for PolicyName {
    const PATTERN: &'static str = "policies/<policy>";
    fn from_resource(text: &str) -> Result<Self, String> {
        let [policy] = parts(text, ["policies"]).ok_or_else(|| mismatch::<Self>(text))?;
        policy.parse().map_err(bad_name)
    }
    fn to_resource(&self) -> String {
        format!("policies/{self}")
    }
}

impl Resource for GroupName {
    const PATTERN: &'static str = "consistencyGroups/<group>";
    fn from_resource(text: &str) -> Result<Self, String> {
        let [group] = parts(text, ["consistencyGroups"]).ok_or_else(|| mismatch::<Self>(text))?;
        group.parse().map_err(bad_name)
    }
    fn to_resource(&self) -> String {
        format!("consistencyGroups/{self}")
    }
}

impl Resource for RecoveryPlanName {
    const PATTERN: &'static str = "recoveryPlans/<plan>";
    fn from_resource(text: &str) -> Result<Self, String> {
        let [plan] = parts(text, ["recoveryPlans"]).ok_or_else(|| mismatch::<Self>(text))?;
        plan.parse().map_err(bad_name)
    }
    fn to_resource(&self) -> String {
        format!("recoveryPlans/{self}")
    }
}

impl Resource for RunId {
    const PATTERN: &'static str = "runs/<uuid>";
    fn from_resource(text: &str) -> Result<Self, String> {
        let [run] = parts(text, ["runs"]).ok_or_else(|| mismatch::<Self>(text))?;
        run.parse().map_err(|_| mismatch::<Self>(text))
    }
    fn to_resource(&self) -> String {
        format!("runs/{self}")
    }
}

/// `sites/<site>`
pub fn site(name: &SiteName) -> String {
    name.to_resource()
}

/// `sites/<site>/hosts/<host>`
pub fn host(name: &HostName) -> String {
    name.to_resource()
}

/// `sites/<site>/hosts/<host>/machines/<machine>`
pub fn machine(name: &MachineRef) -> String {
    name.to_resource()
}

/// `protectedItems/<item>`
pub fn item(name: &ItemName) -> String {
    name.to_resource()
}

/// `policies/<policy>`
pub fn policy(name: &PolicyName) -> String {
    name.to_resource()
}

/// `runs/<uuid>`
pub fn run(id: &RunId) -> String {
    id.to_resource()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip<T: Resource + PartialEq + fmt::Debug>(text: &str) {
        assert_eq!(T::from_resource(text).unwrap().to_resource(), text);
    }

    #[test]
    fn names_are_written_as_they_are_read() {
        round_trip::<SiteName>("sites/alpha");
        round_trip::<HostName>("sites/alpha/hosts/alpha-h1");
        round_trip::<MachineRef>("sites/alpha/hosts/alpha-h1/machines/web1");
        round_trip::<ItemName>("protectedItems/web1");
        round_trip::<PointRef>("protectedItems/web1/recoveryPoints/42");
        round_trip::<PolicyName>("policies/gold");
        round_trip::<GroupName>("consistencyGroups/shop");
        round_trip::<RecoveryPlanName>("recoveryPlans/shop");
        round_trip::<RunId>("runs/00000000-0000-0000-0000-00000000002a");
    }

    #[test]
    fn anything_else_is_refused_and_told_the_form() {
        for bad in
            ["", "/", "sites", "sites/", "sites/a/b", "Sites/a", "sites//a", "sites/A", "sites/a/", "hosts/a"]
        {
            assert!(SiteName::from_resource(bad).is_err(), "{bad:?}");
        }
        let long = format!("sites/{}", "a".repeat(10_000));
        let error = SiteName::from_resource(&long).unwrap_err();
        assert!(error.len() < 400 && error.contains("sites/<site>"), "{error}");
    }

    #[test]
    fn request_ids_are_short_and_plain() {
        for bad in ["", " ", "a b", "é", &"x".repeat(65)] {
            assert!(bad.parse::<RequestId>().is_err(), "{bad:?}");
        }
        assert!("7f9c-A_b.c:1".parse::<RequestId>().is_ok());
    }
}
