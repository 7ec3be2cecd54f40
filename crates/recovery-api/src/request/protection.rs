//! Requests about policies and protected items.

use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

use prost::Message as _;
use serde::Serialize;
use understudy_ids::{DiskName, HostName, ItemName, PointSeq, PolicyName, SeedName};
use understudy_netplan::ChosenAddress;
use understudy_probe::{MAX_PROBES, Probe};
use understudy_replication::{
    BlockDigest, ReplicationSettings, RetentionPolicy, Tier, activation::LENGTHS, settings::BadSetting,
};
use understudy_types_api::{
    duration_to_wire, probe_from_wire, probe_to_wire, settings_from_wire, settings_to_wire, tiers_from_wire,
    tiers_to_wire,
};

use crate::{
    Resource,
    check::{Checks, Invalid},
    encode,
    names::{MachineRef, RequestId},
    v1,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const SECOND: Duration = Duration::from_secs(1);
/// The most disks that a request may exclude.
const MAX_DISKS: usize = 256;
const ETAG_CHARS: usize = 32;
/// The longest reason that a caller may give, in bytes.
const MAX_REASON: usize = 500;

/// How items are replicated and shut down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicySettings {
    /// Between the starts of two cycles, 1 s to 24 h.
    #[serde(serialize_with = "encode::seconds")]
    pub interval: Duration,
    /// Alert threshold of health, at least the interval.
    #[serde(serialize_with = "encode::seconds")]
    pub rpo_objective: Duration,
    /// 1 to 1000, with all that tiers keep.
    pub keep_count: u32,
    #[serde(serialize_with = "encode::seconds")]
    pub keep_age: Duration,
    /// What is kept beyond count and age.
    pub keep_tiers: Vec<Tier>,
    /// How long a guest may take to shut down in a planned failover.
    #[serde(serialize_with = "encode::seconds")]
    pub shutdown_grace: Duration,
    pub power_off_after_grace: bool,
    /// A machine that is not heard by the control plane for so long is stopped by its host, and may then be failed over without anybody's word;
    /// 15 s to 1 h.
    #[serde(serialize_with = "encode::maybe_seconds")]
    pub activation_lease: Option<Duration>,
    /// How points are made and sent.
    pub replication: ReplicationSettings,
}

/// Makes a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatePolicy {
    pub policy: PolicyName,
    pub settings: PolicySettings,
    pub request_id: RequestId,
}

impl CreatePolicy {
    /// # Errors
    /// With every field that is missing, malformed or out of its range.
    pub fn from_wire(wire: v1::CreatePolicyRequest) -> Result<Self, Invalid> {
        let v1::CreatePolicyRequest { policy_id, policy, request_id } = wire;
        let mut checks = Checks::default();
        let name = checks.parse("policy_id", &policy_id);
        let settings = match policy {
            Some(policy) => settings(&mut checks, policy),
            None => {
                checks.refuse("policy", "is not set");
                None
            }
        };
        let request_id = checks.request_id(&request_id);
        let whole = (|| Some(Self { policy: name?, settings: settings?, request_id: request_id? }))();
        checks.finish(whole)
    }

    pub fn into_wire(self) -> v1::CreatePolicyRequest {
        let Self { policy, settings, request_id } = self;
        v1::CreatePolicyRequest {
            policy_id: policy.to_string(),
            policy: Some(policy_to_wire(&settings)),
            request_id: request_id.to_string(),
        }
    }
}

impl PolicySettings {
    /// Names them: 32 hexadecimal digits.
    pub fn etag(&self) -> String {
        let digest = BlockDigest::of(&policy_to_wire(self).encode_to_vec());
        digest.to_string().chars().take(ETAG_CHARS).collect()
    }
}

/// Replaces the settings of a policy; its items follow (R-REP-8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdatePolicy {
    pub policy: PolicyName,
    pub settings: PolicySettings,
    /// Of the settings that these were made from; `None`: whatever they are by now.
    pub etag: Option<String>,
    pub request_id: RequestId,
}

impl UpdatePolicy {
    /// # Errors
    /// With every field that is missing, malformed or out of its range.
    pub fn from_wire(wire: v1::UpdatePolicyRequest) -> Result<Self, Invalid> {
        let v1::UpdatePolicyRequest { policy, request_id } = wire;
        let mut checks = Checks::default();
        let (name, settings, etag) = match policy {
            Some(mut policy) => {
                let etag = checks.text("policy.etag", std::mem::take(&mut policy.etag), ETAG_CHARS);
                (checks.resource("policy.name", &policy.name), settings(&mut checks, policy), etag)
            }
            None => {
                checks.refuse("policy", "is not set");
                (None, None, None)
            }
        };
        let request_id = checks.request_id(&request_id);
        let whole = (|| {
            let etag = Some(etag?).filter(|etag| !etag.is_empty());
            Some(Self { policy: name?, settings: settings?, etag, request_id: request_id? })
        })();
        checks.finish(whole)
    }

    pub fn into_wire(self) -> v1::UpdatePolicyRequest {
        let Self { policy, settings, etag, request_id } = self;
        let etag = etag.unwrap_or_default();
        let policy = v1::Policy { name: policy.to_resource(), etag, ..policy_to_wire(&settings) };
        v1::UpdatePolicyRequest { policy: Some(policy), request_id: request_id.to_string() }
    }
}

/// Without name, time of creation and etag, which only a policy that exists has.
pub(crate) fn policy_to_wire(settings: &PolicySettings) -> v1::Policy {
    let PolicySettings {
        interval,
        rpo_objective,
        keep_count,
        keep_age,
        keep_tiers,
        shutdown_grace,
        power_off_after_grace,
        activation_lease,
        replication,
    } = settings;
    v1::Policy {
        name: String::new(),
        interval: Some(duration_to_wire(*interval)),
        rpo_objective: Some(duration_to_wire(*rpo_objective)),
        keep_count: *keep_count,
        keep_age: Some(duration_to_wire(*keep_age)),
        shutdown_grace: Some(duration_to_wire(*shutdown_grace)),
        power_off_after_grace: *power_off_after_grace,
        create_time: None,
        replication: Some(settings_to_wire(replication)),
        keep_tiers: tiers_to_wire(keep_tiers),
        etag: String::new(),
        activation_lease: activation_lease.map(duration_to_wire),
    }
}

pub(crate) fn settings(checks: &mut Checks, policy: v1::Policy) -> Option<PolicySettings> {
    let interval = checks.span("policy.interval", policy.interval, SECOND..=DAY);
    let rpo_objective = checks.span("policy.rpo_objective", policy.rpo_objective, SECOND..=30 * DAY);
    if let (Some(interval), Some(objective)) = (interval, rpo_objective)
        && objective < interval
    {
        checks.refuse("policy.rpo_objective", "is shorter than the interval, so it could never be met");
    }
    let retention = retention(checks, &policy);
    let shutdown_grace = checks.span("policy.shutdown_grace", policy.shutdown_grace, Duration::ZERO..=DAY);
    let activation_lease = match policy.activation_lease {
        None => Some(None),
        some => checks.span("policy.activation_lease", some, LENGTHS).map(Some),
    };
    let replication = replication(checks, policy.replication, interval);
    Some(PolicySettings {
        interval: interval?,
        rpo_objective: rpo_objective?,
        keep_count: policy.keep_count,
        keep_age: retention.as_ref()?.keep_age?,
        keep_tiers: retention?.tiers,
        shutdown_grace: shutdown_grace?,
        power_off_after_grace: policy.power_off_after_grace,
        activation_lease: activation_lease?,
        replication: replication?,
    })
}

fn retention(checks: &mut Checks, policy: &v1::Policy) -> Option<RetentionPolicy> {
    let keep_age = checks.span("policy.keep_age", policy.keep_age, Duration::ZERO..=Duration::MAX);
    let tiers = tiers_from_wire(&policy.keep_tiers).map_err(|bad| refuse_all(checks, "policy", bad)).ok();
    let keep_count = Some(policy.keep_count);
    let retention = RetentionPolicy { keep_count, keep_age, tiers: tiers.unwrap_or_default() };
    refuse_all(checks, "policy", retention.problems());
    Some(retention)
}

fn refuse_all(checks: &mut Checks, within: &str, bad: Vec<BadSetting>) {
    bad.into_iter().for_each(|b| checks.refuse(format!("{within}.{}", b.field), b.why));
}

/// Where the interval is not known, for it is wrong itself, the shortest stands in.
fn replication(
    checks: &mut Checks,
    wire: Option<understudy_types_api::v1::ReplicationSettings>,
    interval: Option<Duration>,
) -> Option<ReplicationSettings> {
    let settings = settings_from_wire(wire, interval.unwrap_or(SECOND));
    settings.map_err(|bad| refuse_all(checks, "policy.replication", bad)).ok()
}

/// Turns replication of a machine on (R-REP-1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProtectMachine {
    pub item: ItemName,
    pub machine: MachineRef,
    pub target: HostName,
    pub policy: PolicyName,
    pub excluded: BTreeSet<DiskName>,
    /// The first copy comes on a medium (R-REP-11).
    pub seed: Option<Seed>,
    pub request_id: RequestId,
    pub validate_only: bool,
}

/// A first copy on a medium.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed {
    pub name: SeedName,
    /// The source's agent writes it; otherwise it is at the target already.
    pub export: bool,
}

impl ProtectMachine {
    /// # Errors
    /// With every field that is missing or malformed. Whether the things named exist is checked by the orchestrator.
    pub fn from_wire(wire: v1::ProtectMachineRequest) -> Result<Self, Invalid> {
        let v1::ProtectMachineRequest {
            item_id,
            machine,
            target_host,
            policy,
            excluded_disks,
            request_id,
            validate_only,
            seed,
        } = wire;
        let mut checks = Checks::default();
        let item = checks.parse("item_id", &item_id);
        let machine = checks.resource("machine", &machine);
        let target = checks.resource("target_host", &target_host);
        let policy = checks.resource("policy", &policy);
        let excluded = disks(&mut checks, "excluded_disks", &excluded_disks);
        let seed = seed.map(|v1::Seed { name, export }| {
            checks.parse("seed.name", &name).map(|name| Seed { name, export })
        });
        let request_id = checks.request_id(&request_id);
        let whole = (|| {
            Some(Self {
                item: item?,
                machine: machine?,
                target: target?,
                policy: policy?,
                excluded,
                // One that is not right is one too.
                seed: seed.map_or(Some(None), |seed| seed.map(Some))?,
                request_id: request_id?,
                validate_only,
            })
        })();
        checks.finish(whole)
    }

    pub fn into_wire(self) -> v1::ProtectMachineRequest {
        let Self { item, machine, target, policy, excluded, seed, request_id, validate_only } = self;
        v1::ProtectMachineRequest {
            item_id: item.to_string(),
            machine: machine.to_resource(),
            target_host: target.to_resource(),
            policy: policy.to_resource(),
            excluded_disks: excluded.iter().map(ToString::to_string).collect(),
            request_id: request_id.to_string(),
            validate_only,
            seed: seed.map(|Seed { name, export }| v1::Seed { name: name.into(), export }),
        }
    }
}

/// Which disks of a protected machine are replicated from now on (R-REP-8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeDisks {
    pub item: ItemName,
    pub add: BTreeSet<DiskName>,
    pub exclude: BTreeSet<DiskName>,
    pub request_id: RequestId,
}

impl ChangeDisks {
    /// # Errors
    /// With every field that is missing or malformed.
    pub fn from_wire(wire: v1::ChangeItemDisksRequest) -> Result<Self, Invalid> {
        let v1::ChangeItemDisksRequest { name, add, exclude, request_id } = wire;
        let mut checks = Checks::default();
        let item = checks.resource("name", &name);
        let (add, exclude) = (disks(&mut checks, "add", &add), disks(&mut checks, "exclude", &exclude));
        let request_id = checks.request_id(&request_id);
        let whole = (|| Some(Self { item: item?, add, exclude, request_id: request_id? }))();
        checks.finish(whole)
    }

    pub fn into_wire(self) -> v1::ChangeItemDisksRequest {
        let Self { item, add, exclude, request_id } = self;
        v1::ChangeItemDisksRequest {
            name: item.to_resource(),
            add: add.iter().map(ToString::to_string).collect(),
            exclude: exclude.iter().map(ToString::to_string).collect(),
            request_id: request_id.to_string(),
        }
    }
}

fn disks(checks: &mut Checks, field: &str, names: &[String]) -> BTreeSet<DiskName> {
    checks.at_most(field, names, MAX_DISKS);
    let named = names.iter().take(MAX_DISKS).enumerate();
    named.filter_map(|(index, name)| checks.parse(format_args!("{field}[{index}]"), name)).collect()
}

/// The item follows another policy from now on (R-REP-8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetItemPolicy {
    pub item: ItemName,
    pub policy: PolicyName,
    pub request_id: RequestId,
}

impl SetItemPolicy {
    /// # Errors
    /// With every field that is missing or malformed.
    pub fn from_wire(wire: v1::SetItemPolicyRequest) -> Result<Self, Invalid> {
        let v1::SetItemPolicyRequest { name, policy, request_id } = wire;
        let mut checks = Checks::default();
        let item = checks.resource("name", &name);
        let policy = checks.resource("policy", &policy);
        let request_id = checks.request_id(&request_id);
        let whole = (|| Some(Self { item: item?, policy: policy?, request_id: request_id? }))();
        checks.finish(whole)
    }

    pub fn into_wire(self) -> v1::SetItemPolicyRequest {
        let Self { item, policy, request_id } = self;
        v1::SetItemPolicyRequest {
            name: item.to_resource(),
            policy: policy.to_resource(),
            request_id: request_id.to_string(),
        }
    }
}

/// What the item's machine is asked from now on when a run has started it (R-TF-8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetItemProbes {
    pub item: ItemName,
    pub probes: Vec<Probe>,
    pub request_id: RequestId,
}

impl SetItemProbes {
    /// # Errors
    /// With every field that is missing or malformed, and everything that is wrong with the probes.
    pub fn from_wire(wire: v1::SetItemProbesRequest) -> Result<Self, Invalid> {
        let v1::SetItemProbesRequest { name, probes: asked, request_id } = wire;
        let mut checks = Checks::default();
        let item = checks.resource("name", &name);
        let probes = probes(&mut checks, asked);
        let request_id = checks.request_id(&request_id);
        let whole = (|| Some(Self { item: item?, probes, request_id: request_id? }))();
        checks.finish(whole)
    }

    pub fn into_wire(self) -> v1::SetItemProbesRequest {
        let Self { item, probes, request_id } = self;
        v1::SetItemProbesRequest {
            name: item.to_resource(),
            probes: probes.iter().map(probe_to_wire).collect(),
            request_id: request_id.to_string(),
        }
    }
}

/// Of all NICs of a machine, at all sites that it is replicated to.
const MAX_ADDRESSES: usize = 256;

/// The address that a NIC of the item's machine gets at the site that it is replicated to (R-NET-5). Neither: what was chosen is forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetItemAddress {
    pub item: ItemName,
    /// Position among the machine's NICs.
    pub nic: u32,
    pub failover: Option<Ipv4Addr>,
    pub test: Option<Ipv4Addr>,
    pub request_id: RequestId,
}

impl SetItemAddress {
    /// # Errors
    /// With every field that is missing or malformed.
    pub fn from_wire(wire: v1::SetItemAddressRequest) -> Result<Self, Invalid> {
        let v1::SetItemAddressRequest { name, nic, failover, test, request_id } = wire;
        let mut checks = Checks::default();
        let item = checks.resource("name", &name);
        let failover = maybe_address(&mut checks, "failover", &failover);
        let test = maybe_address(&mut checks, "test", &test);
        let request_id = checks.request_id(&request_id);
        let whole =
            (|| Some(Self { item: item?, nic, failover: failover?, test: test?, request_id: request_id? }))();
        checks.finish(whole)
    }

    pub fn into_wire(self) -> v1::SetItemAddressRequest {
        let Self { item, nic, failover, test, request_id } = self;
        v1::SetItemAddressRequest {
            name: item.to_resource(),
            nic,
            failover: address_to_wire(failover),
            test: address_to_wire(test),
            request_id: request_id.to_string(),
        }
    }
}

/// `Some(None)`: it is empty.
fn maybe_address(checks: &mut Checks, field: &str, text: &str) -> Option<Option<Ipv4Addr>> {
    if text.is_empty() { Some(None) } else { checks.parse(field, text).map(Some) }
}

fn address_to_wire(address: Option<Ipv4Addr>) -> String {
    address.map(|address| address.to_string()).unwrap_or_default()
}

pub(crate) fn chosen_to_wire(chosen: ChosenAddress) -> v1::ChosenAddress {
    let ChosenAddress { nic, site, failover, test } = chosen;
    v1::ChosenAddress {
        nic,
        site: site.to_resource(),
        failover: address_to_wire(failover),
        test: address_to_wire(test),
    }
}

pub(crate) fn chosen_addresses(checks: &mut Checks, wire: Vec<v1::ChosenAddress>) -> Vec<ChosenAddress> {
    checks.at_most("addresses", &wire, MAX_ADDRESSES);
    let read = wire.into_iter().take(MAX_ADDRESSES).filter_map(|wire| {
        let v1::ChosenAddress { nic, site, failover, test } = wire;
        let site = checks.resource("addresses.site", &site);
        let failover = maybe_address(checks, "addresses.failover", &failover);
        let test = maybe_address(checks, "addresses.test", &test);
        Some(ChosenAddress { nic, site: site?, failover: failover?, test: test? })
    });
    read.collect()
}

/// The probes of an item, with everything that is wrong with any of them.
pub(crate) fn probes(checks: &mut Checks, wire: Vec<understudy_types_api::v1::Probe>) -> Vec<Probe> {
    checks.at_most("probes", &wire, MAX_PROBES);
    let wire = wire.into_iter().take(MAX_PROBES);
    let (mut read, told) = (Vec::new(), wire.len());
    for (n, probe) in wire.enumerate() {
        match probe_from_wire(probe) {
            Ok(probe) => read.push(probe),
            Err(bad) => bad
                .into_iter()
                .for_each(|(field, why)| checks.refuse(format_args!("probes[{n}].{field}"), why)),
        }
    }
    // Only a whole list has the numbers that the caller knows.
    if read.len() == told {
        understudy_probe::problems(&read).into_iter().for_each(|(field, why)| checks.refuse(field, why));
    }
    read
}

/// Pauses or resumes replication of an item (R-REP-8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Steer {
    pub item: ItemName,
    /// In the caller's words; may be empty.
    pub reason: String,
    pub request_id: RequestId,
}

impl Steer {
    /// # Errors
    /// With every field that is missing or malformed.
    pub fn from_wire(name: &str, reason: String, request_id: &str) -> Result<Self, Invalid> {
        let mut checks = Checks::default();
        let item = checks.resource("name", name);
        let reason = checks.text("reason", reason, MAX_REASON);
        let request_id = checks.request_id(request_id);
        let whole = (|| Some(Self { item: item?, reason: reason?, request_id: request_id? }))();
        checks.finish(whole)
    }
}

/// Turns replication of an item off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unprotect {
    pub item: ItemName,
    pub delete_replica: bool,
    pub request_id: RequestId,
}

impl Unprotect {
    /// # Errors
    /// With every field that is missing or malformed.
    pub fn from_wire(wire: v1::UnprotectItemRequest) -> Result<Self, Invalid> {
        let v1::UnprotectItemRequest { name, delete_replica, request_id } = wire;
        let mut checks = Checks::default();
        let item = checks.resource("name", &name);
        let request_id = checks.request_id(&request_id);
        let whole = (|| Some(Self { item: item?, delete_replica, request_id: request_id? }))();
        checks.finish(whole)
    }

    pub fn into_wire(self) -> v1::UnprotectItemRequest {
        let Self { item, delete_replica, request_id } = self;
        v1::UnprotectItemRequest {
            name: item.to_resource(),
            delete_replica,
            request_id: request_id.to_string(),
        }
    }
}

/// Has the points of an item, or one, read again and compared with their digests (R-REP-5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrubItem {
    pub item: ItemName,
    pub point: Option<PointSeq>,
    pub request_id: RequestId,
}

impl ScrubItem {
    /// # Errors
    /// With every field that is missing or malformed.
    pub fn from_wire(wire: v1::ScrubItemRequest) -> Result<Self, Invalid> {
        let v1::ScrubItemRequest { name, point, request_id } = wire;
        let mut checks = Checks::default();
        let item = checks.resource("name", &name);
        let request_id = checks.request_id(&request_id);
        let point = (point != 0).then(|| PointSeq::new(point));
        let whole = (|| Some(Self { item: item?, point, request_id: request_id? }))();
        checks.finish(whole)
    }

    pub fn into_wire(self) -> v1::ScrubItemRequest {
        let Self { item, point, request_id } = self;
        v1::ScrubItemRequest {
            name: item.to_resource(),
            point: point.map_or(0, PointSeq::get),
            request_id: request_id.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use understudy_replication::{AppConsistency, Bandwidth, Compression};

    use super::*;

    /// R-NET-5
    #[test]
    fn chosen_addresses_travel_unchanged_and_all_that_is_wrong_is_named() {
        let request = |failover, test| SetItemAddress {
            item: "web1".parse().unwrap(),
            nic: 1,
            failover,
            test,
            request_id: "r1".parse().unwrap(),
        };
        let (one, other) = (Some([10, 0, 0, 9].into()), Some([10, 0, 0, 10].into()));
        for request in [request(one, other), request(one, None), request(None, other), request(None, None)] {
            assert_eq!(SetItemAddress::from_wire(request.clone().into_wire()), Ok(request));
        }
        let wrong = v1::SetItemAddressRequest {
            name: "web1".into(),
            failover: "10.0.0".into(),
            test: "::1".into(),
            ..v1::SetItemAddressRequest::default()
        };
        assert_eq!(SetItemAddress::from_wire(wrong).unwrap_err().0.len(), 4);
        let chosen = ChosenAddress { nic: 1, site: "bravo".parse().unwrap(), failover: one, test: None };
        let mut checks = Checks::default();
        let read = chosen_addresses(&mut checks, vec![chosen_to_wire(chosen.clone())]);
        assert_eq!(read, std::slice::from_ref(&chosen));
        assert_eq!(checks.finish(Some(())), Ok(()));
        let mut checks = Checks::default();
        chosen_addresses(&mut checks, vec![chosen_to_wire(chosen); MAX_ADDRESSES + 1]);
        assert_eq!(checks.finish(Some(())).unwrap_err().0.len(), 1);
    }

    fn policy() -> PolicySettings {
        PolicySettings {
            interval: Duration::from_secs(5),
            rpo_objective: Duration::from_secs(15),
            keep_count: 8,
            keep_age: DAY,
            keep_tiers: vec![Tier { every: Duration::from_secs(3600), age: 7 * DAY }],
            shutdown_grace: Duration::from_secs(60),
            power_off_after_grace: true,
            activation_lease: Some(Duration::from_secs(30)),
            replication: ReplicationSettings {
                compression: Compression::Off,
                app_consistency: Some(app_consistency(60)),
                bandwidth: Bandwidth { otherwise: "5MiB".parse().unwrap(), ..Bandwidth::default() },
                encrypt_for: Vec::new(),
            },
        }
    }

    fn app_consistency(every_s: u64) -> AppConsistency {
        AppConsistency { every: Duration::from_secs(every_s), freeze_limit: AppConsistency::FREEZE_LIMIT }
    }

    fn create(settings: PolicySettings) -> CreatePolicy {
        CreatePolicy { policy: "gold".parse().unwrap(), settings, request_id: "r".parse().unwrap() }
    }

    #[test]
    fn policies_go_out_and_come_in_alike() {
        let policy = create(policy());
        assert_eq!(CreatePolicy::from_wire(policy.clone().into_wire()), Ok(policy));
    }

    #[test]
    fn changed_policies_go_out_and_come_in_alike_and_are_checked_like_new_ones() {
        let update = |settings| UpdatePolicy {
            policy: "gold".parse().unwrap(),
            etag: Some("5f".repeat(16)),
            settings,
            request_id: "r".parse().unwrap(),
        };
        let policy = update(policy());
        assert_eq!(UpdatePolicy::from_wire(policy.clone().into_wire()), Ok(policy));
        let bad =
            update(PolicySettings { keep_count: 0, keep_age: Duration::ZERO, ..super::tests::policy() });
        let Invalid(problems) = UpdatePolicy::from_wire(bad.into_wire()).unwrap_err();
        let fields: Vec<_> = problems.iter().map(|p| p.subject.as_str()).collect();
        assert_eq!(fields, ["policy.keep_count", "policy.keep_age"]);
        let Invalid(problems) = UpdatePolicy::from_wire(Default::default()).unwrap_err();
        let fields: Vec<_> = problems.iter().map(|p| p.subject.as_str()).collect();
        assert_eq!(fields, ["policy", "request_id"]);
    }

    #[test]
    fn every_setting_has_its_range() {
        let replication = |app_consistency| ReplicationSettings {
            app_consistency: Some(app_consistency),
            ..ReplicationSettings::default()
        };
        let frozen_for_long =
            AppConsistency { freeze_limit: Duration::from_secs(600), ..app_consistency(60) };
        let bad = [
            PolicySettings { replication: replication(app_consistency(4)), ..policy() },
            PolicySettings { replication: replication(app_consistency(365 * 86_400)), ..policy() },
            PolicySettings { replication: replication(frozen_for_long), ..policy() },
            PolicySettings {
                replication: ReplicationSettings {
                    bandwidth: Bandwidth { utc_offset_minutes: 1000, ..Bandwidth::default() },
                    ..ReplicationSettings::default()
                },
                ..policy()
            },
            PolicySettings { interval: Duration::ZERO, ..policy() },
            PolicySettings { interval: 2 * DAY, rpo_objective: 3 * DAY, ..policy() },
            PolicySettings { rpo_objective: Duration::from_secs(4), ..policy() },
            PolicySettings { keep_count: 0, ..policy() },
            PolicySettings { keep_count: 1001, ..policy() },
            PolicySettings { keep_age: Duration::ZERO, ..policy() },
            PolicySettings { keep_tiers: vec![Tier { every: DAY, age: SECOND }], ..policy() },
            PolicySettings { keep_tiers: vec![Tier { every: SECOND, age: DAY }], ..policy() },
            PolicySettings { shutdown_grace: 2 * DAY, ..policy() },
            PolicySettings { activation_lease: Some(Duration::from_secs(14)), ..policy() },
        ];
        for settings in bad {
            let error = CreatePolicy::from_wire(create(settings.clone()).into_wire()).unwrap_err();
            assert_eq!(error.0.len(), 1, "{settings:?}: {error}");
        }
    }

    /// R-REP-1: all problems at once.
    #[test]
    fn a_request_to_protect_with_nothing_right_lists_everything() {
        let error = ProtectMachine::from_wire(v1::ProtectMachineRequest {
            item_id: "../etc".into(),
            machine: "web1".into(),
            target_host: "sites/bravo".into(),
            policy: "gold".into(),
            excluded_disks: vec!["VDA".into(), "vdb".into()],
            request_id: "".into(),
            validate_only: false,
            seed: Some(v1::Seed { name: "../media".into(), export: true }),
        })
        .unwrap_err();
        let fields: Vec<_> = error.0.iter().map(|p| p.subject.as_str()).collect();
        assert_eq!(
            fields,
            ["item_id", "machine", "target_host", "policy", "excluded_disks[0]", "seed.name", "request_id"]
        );
    }

    #[test]
    fn endless_lists_are_refused_without_endless_answers() {
        let wire = ProtectMachine {
            item: "web1".parse().unwrap(),
            machine: MachineRef::from_resource("sites/a/hosts/h/machines/web1").unwrap(),
            target: "b/h".parse().unwrap(),
            policy: "gold".parse().unwrap(),
            excluded: BTreeSet::new(),
            seed: Some(Seed { name: "disk-3".parse().unwrap(), export: true }),
            request_id: "r".parse().unwrap(),
            validate_only: false,
        };
        assert_eq!(ProtectMachine::from_wire(wire.clone().into_wire()), Ok(wire.clone()));
        let mut wire = wire.into_wire();
        wire.excluded_disks = vec!["vda".into(); 100_000];
        let error = ProtectMachine::from_wire(wire).unwrap_err();
        assert_eq!(error.0.len(), 1, "{error}");
    }
}
