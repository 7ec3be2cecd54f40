//! What can be typed.

use std::{net::Ipv4Addr, path::PathBuf, time::Duration};

use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use ipnet::Ipv4Net;
use understudy_ids::{
    DiskName, DnsServerName, GroupName, HostName, ItemName, NetworkName, PointChoice, PolicyName,
    RecoveryPlanName, RunId, SeedName, SiteName, StepName, UnixMicros, Uuid,
};
use understudy_netplan::{DnsName, NetworkRef};
use understudy_pki::Identity;
use understudy_probe::Probe;
use understudy_recovery::test_network::TestNetwork;
use understudy_recovery_api::{MachineRef, SiteKind, Synchronise};
use understudy_replication::{
    Compression, Tier,
    bandwidth::{Rate, Window},
};

use crate::{commands::store::Store, connection::ConnectionArgs, output::Format};

#[derive(Parser)]
#[command(
    name = "understudy",
    version,
    about = "Disaster recovery for virtual machines and physical servers"
)]
pub struct Args {
    #[command(flatten)]
    pub connection: ConnectionArgs,
    /// How results are printed
    #[arg(long, short, global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    #[command(subcommand)]
    pub noun: Noun,
}

#[derive(Subcommand)]
pub enum Noun {
    /// The certificate authority and the certificates of services, agents and people
    #[command(subcommand)]
    Pki(Pki),
    /// Places with hosts, storage and networks
    #[command(subcommand)]
    Site(Site),
    /// Hosts and their agents
    #[command(subcommand)]
    Host(Host),
    /// Machines that agents have found
    #[command(subcommand)]
    Machine(Machine),
    /// Replication policies
    #[command(subcommand)]
    Policy(Policy),
    /// Protected items
    #[command(subcommand)]
    Item(Item),
    /// Recovery points
    #[command(subcommand)]
    Point(Point),
    /// Consistency groups: items whose points are of one instant
    #[command(subcommand)]
    Group(Group),
    /// VM networks
    #[command(subcommand)]
    Network(Network),
    /// Which network stands for which at the other site
    #[command(subcommand)]
    Mapping(Mapping),
    /// DNS zones that runs write machines' names to
    #[command(subcommand)]
    Zone(Zone),
    /// Names of machines in DNS, which runs give the addresses that the machines have
    #[command(subcommand)]
    Name(Name),
    /// Addresses that runs hold
    #[command(subcommand)]
    Lease(Lease),
    /// Recovery plans: which machines come up before which others, and what is done in between
    #[command(subcommand)]
    Plan(Plan),
    /// Test, planned and unplanned failover, failback, reverse replication
    Failover(Failover),
    /// Runs of failovers and of protection
    #[command(subcommand)]
    Run(Run),
    /// Jobs, their tasks and notes
    #[command(subcommand)]
    Job(Job),
    /// Who changed what
    #[command(subcommand)]
    Audit(Audit),
    /// A replica store on this machine, without agent or services
    #[command(subcommand)]
    Store(Store),
    /// Writes a completion script for a shell
    Completion { shell: Shell },
}

#[derive(Subcommand)]
pub enum Pki {
    /// Makes a certificate authority; never overwrites one
    Init {
        #[arg(long)]
        dir: PathBuf,
        /// How long it is valid
        #[arg(long, value_parser = span, default_value = "87600h")]
        valid: Duration,
    },
    /// Issues a certificate, or renews it: running services pick it up by themselves
    Issue {
        /// Where the authority is
        #[arg(long)]
        dir: PathBuf,
        /// For example spiffe://understudy/agent/alpha/alpha-h1 or spiffe://understudy/user/alice
        #[arg(long)]
        identity: Identity,
        /// Where <name>.pem, <name>.key and ca.pem go
        #[arg(long)]
        out: PathBuf,
        #[arg(long)]
        name: String,
        #[arg(long, value_parser = span, default_value = "8760h")]
        valid: Duration,
    },
}

#[derive(Subcommand)]
pub enum Site {
    Create {
        site: SiteName,
        /// private-cloud, hypervisor, vmware, physical or public-cloud
        #[arg(long)]
        kind: SiteKind,
        #[arg(long, default_value = "")]
        description: String,
    },
    List,
}

#[derive(Subcommand)]
pub enum Host {
    /// Makes a host known by the addresses of its agent
    Create {
        /// site/host
        host: HostName,
        /// https://address:port at which the orchestrator reads its facts
        #[arg(long)]
        facts: String,
        /// https://address:port at which its peers send recovery points
        #[arg(long)]
        sink: String,
    },
    List {
        #[arg(long)]
        site: Option<SiteName>,
    },
    Show {
        host: HostName,
    },
}

#[derive(Subcommand)]
pub enum Machine {
    List {
        #[arg(long, conflicts_with = "host")]
        site: Option<SiteName>,
        /// site/host
        #[arg(long)]
        host: Option<HostName>,
    },
}

#[derive(Subcommand)]
pub enum Policy {
    Create {
        policy: PolicyName,
        /// Between the starts of two cycles: 5s, 15m
        #[arg(long, value_parser = span)]
        interval: Duration,
        /// Recovery point objective, for health; default: three intervals
        #[arg(long, value_parser = span)]
        rpo: Option<Duration>,
        /// How many points are kept
        #[arg(long, default_value_t = 24)]
        keep: u32,
        /// How long points are kept
        #[arg(long, value_parser = span, default_value = "24h")]
        keep_age: Duration,
        /// Beyond that, one point in each period for a time: 1h:7d; may be repeated
        #[arg(long, value_name = "EVERY:AGE", value_parser = tier)]
        keep_tier: Vec<Tier>,
        /// How long a guest may take to shut down
        #[arg(long, value_parser = span, default_value = "2m")]
        shutdown_grace: Duration,
        /// After that, power it off (otherwise a planned failover stops)
        #[arg(long)]
        power_off: bool,
        /// Stop a machine whose host has not heard from the control plane for so long, so that a failover can rest on that: 60s
        #[arg(long, value_parser = span)]
        activation_lease: Option<Duration>,
        #[command(flatten)]
        replication: Box<ReplicationArgs>,
    },
    /// Changes what is named and leaves the rest; all items of the policy follow from their next cycle on
    Update {
        policy: PolicyName,
        #[command(flatten)]
        changes: Box<PolicyChanges>,
    },
    List,
    Show {
        policy: PolicyName,
    },
}

/// How points are made and sent.
#[derive(clap::Args)]
pub struct ReplicationArgs {
    /// On the wire: auto or off
    #[arg(long, default_value = "auto")]
    pub compression: Compression,
    /// Freeze the guest through its agent for a point this often, 1h; the agent runs the guest's own scripts before and after
    #[arg(long, value_parser = span)]
    pub app_consistent_every: Option<Duration>,
    /// Thaw the guest after this long, whatever has become of the point
    #[arg(long, value_parser = span, default_value = "10s", requires = "app_consistent_every")]
    pub freeze_limit: Duration,
    /// What the policy's items may send together from one host to another, a second: 20MiB, 100Mbit
    #[arg(long, default_value = "unlimited")]
    pub bandwidth: Rate,
    /// Another rate in a span of the week: "mon-fri 08:00-18:00 5MiB"; may be repeated, the first that fits counts
    #[arg(long, value_name = "WINDOW")]
    pub bandwidth_window: Vec<Window>,
    /// The clock of the windows: minutes ahead of UTC, without daylight saving time
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub bandwidth_utc_offset: i32,
    /// Certificate (PEM) of somebody for whom replicas are encrypted; again for each further one. Without: they are not encrypted
    #[arg(long, value_name = "FILE")]
    pub encrypt_for: Vec<PathBuf>,
}

/// What of a policy is to be otherwise.
#[derive(clap::Args)]
#[group(required = true, multiple = true)]
pub struct PolicyChanges {
    /// Between the starts of two cycles: 5s, 15m
    #[arg(long, value_parser = span)]
    pub interval: Option<Duration>,
    /// Recovery point objective, for health
    #[arg(long, value_parser = span)]
    pub rpo: Option<Duration>,
    /// How many points are kept
    #[arg(long)]
    pub keep: Option<u32>,
    /// How long points are kept
    #[arg(long, value_parser = span)]
    pub keep_age: Option<Duration>,
    /// Instead of the tiers there are: 1h:7d; may be repeated
    #[arg(long, value_name = "EVERY:AGE", value_parser = tier, conflicts_with = "no_keep_tier")]
    pub keep_tier: Vec<Tier>,
    #[arg(long)]
    pub no_keep_tier: bool,
    /// How long a guest may take to shut down
    #[arg(long, value_parser = span)]
    pub shutdown_grace: Option<Duration>,
    /// After that, power it off (true), or stop a planned failover (false)
    #[arg(long)]
    pub power_off: Option<bool>,
    /// Stop a machine whose host has not heard from the control plane for so long: 60s
    #[arg(long, value_parser = span, conflicts_with = "no_activation_lease")]
    pub activation_lease: Option<Duration>,
    #[arg(long)]
    pub no_activation_lease: bool,
    /// On the wire: auto or off
    #[arg(long)]
    pub compression: Option<Compression>,
    /// Freeze the guest through its agent for a point this often: 1h
    #[arg(long, value_parser = span, conflicts_with = "no_app_consistency")]
    pub app_consistent_every: Option<Duration>,
    #[arg(long)]
    pub no_app_consistency: bool,
    /// Thaw the guest after this long
    #[arg(long, value_parser = span, conflicts_with = "no_app_consistency")]
    pub freeze_limit: Option<Duration>,
    /// What the policy's items may send together from one host to another, a second: 20MiB, 100Mbit, unlimited
    #[arg(long)]
    pub bandwidth: Option<Rate>,
    /// Instead of the windows there are: "mon-fri 08:00-18:00 5MiB"; may be repeated
    #[arg(long, value_name = "WINDOW", conflicts_with = "no_bandwidth_window")]
    pub bandwidth_window: Vec<Window>,
    #[arg(long)]
    pub no_bandwidth_window: bool,
    /// The clock of the windows: minutes ahead of UTC
    #[arg(long, allow_negative_numbers = true)]
    pub bandwidth_utc_offset: Option<i32>,
    /// Instead of the certificates (PEM) there are. Whoever is left out cannot read what comes from now on, and everything is copied anew
    #[arg(long, value_name = "FILE", conflicts_with = "no_encryption")]
    pub encrypt_for: Vec<PathBuf>,
    /// Replicas are not encrypted any more, and everything is copied anew
    #[arg(long)]
    pub no_encryption: bool,
}

#[derive(Subcommand)]
pub enum Item {
    /// Turns on replication of a machine
    Protect {
        item: ItemName,
        /// site/host/machine
        #[arg(long, value_parser = machine)]
        machine: MachineRef,
        /// site/host that gets the replica
        #[arg(long)]
        to: HostName,
        #[arg(long)]
        policy: PolicyName,
        #[arg(long)]
        exclude_disk: Vec<DiskName>,
        /// The first copy is on a medium: a directory of this name below the seed_dir of the target's agent, with <disk>.qcow2 or
        /// <disk>.raw. Only what differs is sent
        #[arg(long)]
        seed: Option<SeedName>,
        /// The source's agent writes it below its own seed_dir; carry it over, then: run confirm
        #[arg(long, requires = "seed")]
        export_seed: bool,
        /// Only say what would stand against it
        #[arg(long)]
        check: bool,
        /// Follow the run to its end
        #[arg(long, short)]
        watch: bool,
    },
    /// Turns replication off
    Unprotect {
        item: ItemName,
        #[arg(long)]
        delete_replica: bool,
        #[arg(long, short)]
        watch: bool,
    },
    /// Lends the hosts of an encrypted item its key, so that it can be tested, failed over to, or started
    Unlock {
        item: ItemName,
        /// Private key (PEM) of one of the recipients. It stays here.
        #[arg(long)]
        decryption_key: PathBuf,
        /// The point to be unlocked, with all others of the same key; the newest if not given
        #[arg(long)]
        point: Option<u64>,
        /// For how many seconds
        #[arg(long, default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=86400))]
        ttl_s: u64,
    },
    /// Takes the key of an item back
    Lock {
        item: ItemName,
    },
    List,
    Show {
        item: ItemName,
    },
    /// Includes disks of the machine in protection, or leaves them out
    Disks {
        item: ItemName,
        /// From the next point on; the first time all of it is copied
        #[arg(long)]
        add: Vec<DiskName>,
        /// Points go on without it
        #[arg(long)]
        exclude: Vec<DiskName>,
    },
    /// The item follows another policy from its next cycle on
    SetPolicy {
        item: ItemName,
        policy: PolicyName,
    },
    /// What the machine is asked, in this order, when a test or a failover has started it: proof that it works
    Probes {
        item: ItemName,
        /// guest-agent, ping, tcp:5432, or http:80/health; then if wanted ,name=shop ,within=30s, of http also ,status=200-299 and last
        /// ,contains=TEXT
        #[arg(long, required_unless_present = "none", conflicts_with = "none")]
        probe: Vec<Probe>,
        /// Only whether its first address answers
        #[arg(long)]
        none: bool,
    },
    /// Chooses the address that a NIC gets at the site that the item is replicated to; without any, what was chosen is forgotten
    Address {
        item: ItemName,
        /// Position among the machine's NICs, from 0
        #[arg(long, default_value_t = 0)]
        nic: u32,
        /// In a failover, and in tests unless they have another one
        #[arg(long)]
        failover: Option<Ipv4Addr>,
        /// In a test
        #[arg(long)]
        test: Option<Ipv4Addr>,
    },
    /// Nothing is sent until it is resumed; what the guest writes goes on being tracked
    Pause {
        item: ItemName,
        /// Why, for whoever asks later
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Ends a pause; what was written meanwhile is shipped
    Resume {
        item: ItemName,
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Has the recovery points read again and compared with their digests, beside everything else
    Scrub {
        item: ItemName,
        /// Only what this point stands on
        #[arg(long)]
        point: Option<u64>,
    },
    /// How far behind the replica is and was, what is still to be shipped, what is wrong and what to do about it
    Health {
        item: ItemName,
        /// A line whenever something has changed, until interrupted
        #[arg(long, short)]
        watch: bool,
    },
}

#[derive(Subcommand)]
pub enum Point {
    /// Points that are whole and verified, newest first
    List { item: ItemName },
}

#[derive(Subcommand)]
pub enum Group {
    /// Makes a group of items that run on one host and are replicated to one site at one interval
    Create {
        group: GroupName,
        items: Vec<ItemName>,
    },
    List,
    Show {
        group: GroupName,
    },
    /// Takes items in; they have the group's instants from their next cycle on
    Add {
        group: GroupName,
        #[arg(required = true)]
        items: Vec<ItemName>,
    },
    /// Takes items out; they go on with points of their own
    Remove {
        group: GroupName,
        #[arg(required = true)]
        items: Vec<ItemName>,
    },
    /// Its items go on with points of their own
    Delete {
        group: GroupName,
    },
}

#[derive(Subcommand)]
pub enum Plan {
    List,
    /// With what stands against a run of it now
    Show {
        plan: RecoveryPlanName,
    },
    /// As YAML
    Export {
        plan: RecoveryPlanName,
    },
    /// Keeps the plan of a YAML file, in the place of what was kept under its name; - reads from standard input
    Import {
        file: PathBuf,
    },
    /// What importing the file would change; exit code 1 when there is something
    Diff {
        file: PathBuf,
    },
    /// Items and runs stay as they are
    Delete {
        plan: RecoveryPlanName,
    },
}

#[derive(Subcommand)]
pub enum Network {
    Create {
        /// sites/<site>/networks/<network>
        network: NetworkRef,
        /// none, vlan or virtualized
        #[arg(long, value_enum, default_value_t = IsolationArg::None)]
        isolation: IsolationArg,
        /// dhcp or static
        #[arg(long, value_enum, default_value_t = AddressingArg::Dhcp)]
        addressing: AddressingArg,
        #[arg(long)]
        subnet: Ipv4Net,
        #[arg(long)]
        gateway: Option<Ipv4Addr>,
        /// first-last
        #[arg(long, value_parser = pool)]
        pool: Option<(Ipv4Addr, Ipv4Addr)>,
        /// The name by which the hosts' hypervisors know it
        #[arg(long)]
        hypervisor_network: NetworkName,
        /// Addresses on it that must never answer to a test
        #[arg(long)]
        isolation_target: Vec<Ipv4Addr>,
        /// The site's cables and switches that it lies on, where networks with different VLANs share them
        #[arg(long)]
        logical_network: Option<NetworkName>,
        /// 1 to 4094; with isolation vlan, and only there
        #[arg(long)]
        vlan_id: Option<u16>,
    },
    List {
        #[arg(long)]
        site: Option<SiteName>,
    },
    Delete {
        network: NetworkRef,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub enum IsolationArg {
    None,
    Vlan,
    Virtualized,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum AddressingArg {
    Dhcp,
    Static,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum AddressesArg {
    KeepIfPossible,
    Retain,
    Change,
}

#[derive(Subcommand)]
pub enum Mapping {
    /// Two networks stand for each other, in both directions
    Create {
        a: NetworkRef,
        b: NetworkRef,
        /// Whether machines keep their addresses: keep-if-possible, retain (or the run is refused) or change
        #[arg(long, value_enum, default_value_t = AddressesArg::KeepIfPossible)]
        addresses: AddressesArg,
    },
    List,
    Delete {
        id: Uuid,
    },
}

#[derive(Subcommand)]
pub enum Zone {
    /// Makes a zone known; failovers write to those of production, tests to those for tests, and neither to the other's
    Create {
        /// shop.example
        zone: DnsName,
        /// Its primary server, as network-mapper's configuration calls it
        #[arg(long)]
        server: DnsServerName,
        #[arg(long, value_enum)]
        purpose: PurposeArg,
        /// For how long clients may keep an address, and so go to the old side
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        ttl: u32,
    },
    List,
    /// Refused while names lie in it
    Delete {
        zone: DnsName,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub enum PurposeArg {
    Production,
    Test,
}

#[derive(Subcommand)]
pub enum Name {
    /// The address of a machine's NIC has this name from the next run on; its zone is the closest one around it
    Create {
        /// web1.shop.example
        name: DnsName,
        #[arg(long)]
        item: ItemName,
        /// Position among the machine's NICs
        #[arg(long, default_value_t = 0)]
        nic: u32,
    },
    List {
        #[arg(long)]
        item: Option<ItemName>,
    },
    /// The server's record stays as it is
    Delete { name: DnsName },
}

#[derive(Subcommand)]
pub enum Lease {
    List {
        #[arg(long)]
        run: Option<RunId>,
    },
}

/// Shows what would happen, asks, and does it.
#[derive(clap::Args)]
pub struct Failover {
    #[arg(value_enum)]
    pub kind: FailoverKind,
    #[arg(required_unless_present_any = ["plan", "site"])]
    pub items: Vec<ItemName>,
    /// The items of this recovery plan, in its order
    #[arg(long, conflicts_with = "items")]
    pub plan: Option<RecoveryPlanName>,
    /// Everything that is active at this site: a run for each of its recovery plans, and one for the items that are in none
    #[arg(long, value_name = "SITE", conflicts_with_all = ["items", "plan", "watch"])]
    pub site: Option<SiteName>,
    /// From this site, where items of the plan are active at both of its sites
    #[arg(long, value_name = "SITE", requires = "plan")]
    pub from: Option<SiteName>,
    /// Point to use, otherwise the latest: item=number, item=latest-app-consistent, or that for all items without item=
    #[arg(long, value_parser = point)]
    pub point: Vec<PointWish>,
    /// Items without a point of their own get their newest one that is not newer: a time such as "2026-11-28 18:00:00" (local)
    /// or 2026-11-28T18:00:00Z
    #[arg(long, value_name = "TIME", value_parser = instant)]
    pub instant: Option<UnixMicros>,
    /// The same with the latest instant to which all items reach
    #[arg(long, conflicts_with = "instant")]
    pub consistent: bool,
    /// Unplanned: where the other side is heard, try for so long to shut down and to ship the last changes
    #[arg(long, value_name = "TIME", value_parser = span)]
    pub synchronise_within: Option<Duration>,
    /// Unplanned: state, on record, that the primary side is down and stays so
    #[arg(long, value_name = "REASON")]
    pub assert_primary_down: Option<String>,
    /// Test: none (machines stay unconnected), automatic (networks are made for it; the default), or an existing network of the target
    /// site, sites/<site>/networks/<network>, onto which all machines go
    #[arg(long, value_name = "CHOICE", value_parser = test_network)]
    pub network: Option<TestNetwork>,
    /// Test: the network is one that production uses; say, on record, why
    #[arg(long, value_name = "REASON", requires = "network")]
    pub connect_to_production: Option<String>,
    /// Planned and failback: do not reverse replicate on commit
    #[arg(long)]
    pub no_reverse_replication: bool,
    /// Unplanned: the machines of this test go on as production, with what they have written, instead of new ones from recovery points
    #[arg(long, value_name = "RUN")]
    pub promote_test: Option<RunId>,
    /// Reverse and failback: to this host (site/host), with a full copy, instead of the one that the items were failed over from
    #[arg(long, value_name = "HOST")]
    pub to: Option<HostName>,
    /// Failback: before (while the machines run; the run then waits for `run complete-failover`; the default), or during (when they are off, all of it)
    #[arg(long, value_name = "WHEN")]
    pub synchronise: Option<Synchronise>,
    /// Planned, unplanned and failback: go on although machines of a subnet whose addresses are retained stay behind
    #[arg(long)]
    pub allow_partial_subnet: bool,
    #[command(flatten)]
    pub deadline: DeadlineWish,
    /// Private key (PEM) of a recipient, for items that are encrypted. It stays here; the hosts get what it opens
    #[arg(long, value_name = "FILE")]
    pub decryption_key: Option<PathBuf>,
    #[command(flatten)]
    pub how: How,
}

/// The point to be used of one item, or of all that are named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointWish {
    pub item: Option<ItemName>,
    pub choice: PointChoice,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum FailoverKind {
    Test,
    Planned,
    Unplanned,
    Reverse,
    /// Reverse and planned in one run
    Failback,
}

#[derive(Subcommand)]
pub enum Run {
    List {
        #[arg(long)]
        item: Option<ItemName>,
    },
    Show {
        run: RunId,
    },
    /// Writes what a run that has ended did, with its evidence, as one file that needs nothing else to be read or printed
    Report {
        run: RunId,
        /// Where the HTML goes
        #[arg(long)]
        html: PathBuf,
    },
    /// What the console of an item's machine showed after the run had started and asked it
    Screenshot {
        run: RunId,
        item: ItemName,
        /// Where the PNG goes
        #[arg(long)]
        out: PathBuf,
    },
    /// Follows a run until it ends or waits for someone
    Watch {
        run: RunId,
    },
    /// Ends a test: removes its machines, networks and leases
    CompleteTest {
        run: RunId,
        /// Kept with the job
        #[arg(long)]
        notes: String,
        #[arg(long, short)]
        watch: bool,
    },
    /// Does the failover that a failback has prepared: shuts the machines down, ships the rest and starts them at the target
    CompleteFailover {
        run: RunId,
        /// Private key (PEM) of a recipient, for items that are encrypted
        #[arg(long, value_name = "FILE")]
        decryption_key: Option<PathBuf>,
        #[command(flatten)]
        how: How,
    },
    /// Makes a failover final
    Commit {
        run: RunId,
        #[arg(long, short)]
        watch: bool,
    },
    /// Says that what a run waits for has been done: a manual action, a medium that was carried over, a look at a gate
    Confirm {
        run: RunId,
        /// The step at which it waits, so that no other one is confirmed; without it, the one at which it waits now
        #[arg(long)]
        step: Option<StepName>,
        #[arg(long, short)]
        watch: bool,
    },
    /// Says that a manual action was not done, or that the run does not go on behind a gate
    Reject {
        run: RunId,
        /// As for confirm
        #[arg(long)]
        step: Option<StepName>,
        #[arg(long, short)]
        watch: bool,
    },
    /// Ends a run that has not passed its point of no return, and removes what it made
    Cancel {
        run: RunId,
        #[arg(long, short)]
        watch: bool,
    },
    /// Continues a failed run where it failed
    Retry {
        run: RunId,
        #[arg(long, short)]
        watch: bool,
    },
    /// Sets, changes or cancels what happens when a failover has waited for its commit for so long
    #[command(group = clap::ArgGroup::new("what").required(true).args(["commit_after", "roll_back_after", "none"]))]
    Deadline {
        run: RunId,
        #[command(flatten)]
        deadline: DeadlineWish,
        /// Nothing happens by itself any more
        #[arg(long)]
        none: bool,
    },
    /// Makes machines of an unplanned failover anew from other recovery points, before its commit
    ChangePoint {
        run: RunId,
        /// item=number, item=latest-app-consistent, or that for all items without item=
        #[arg(required = true, value_parser = point)]
        points: Vec<PointWish>,
        #[command(flatten)]
        how: How,
    },
    /// Takes the machines of a failover back to the side that they left, before its commit
    RollBack {
        run: RunId,
        /// What the machines have written at the target since the failover is given up
        #[arg(long)]
        give_up_writes: bool,
        #[command(flatten)]
        how: How,
    },
}

/// What happens when a failover has waited for its commit for so long.
#[derive(clap::Args)]
pub struct DeadlineWish {
    /// Commit by itself after so long a wait, for example 4h
    #[arg(long, value_name = "TIME", value_parser = span)]
    pub commit_after: Option<Duration>,
    /// Roll back by itself after so long a wait; what was written at the target by then is given up
    #[arg(long, value_name = "TIME", value_parser = span, conflicts_with = "commit_after")]
    pub roll_back_after: Option<Duration>,
}

/// What is done with a plan that is shown first.
#[derive(Clone, Copy, clap::Args)]
pub struct How {
    /// Show what would happen and stop there
    #[arg(long, conflicts_with_all = ["yes", "watch"])]
    pub preview: bool,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    /// Follow the run until it ends or waits for someone
    #[arg(long, short)]
    pub watch: bool,
}

#[derive(Subcommand)]
pub enum Job {
    List {
        /// Only jobs of this type
        #[arg(long = "type")]
        kind: Option<String>,
        /// Only jobs about this resource
        #[arg(long)]
        target: Option<String>,
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    Show {
        job: RunId,
    },
    /// The steps that workers do
    Tasks {
        job: RunId,
    },
    /// Adds a note that stays with the job
    Note {
        job: RunId,
        text: String,
    },
    Notes {
        job: RunId,
    },
    /// Every change of every job as it happens, or of one job
    Watch {
        job: Option<RunId>,
    },
}

#[derive(Subcommand)]
pub enum Audit {
    List {
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
}

/// `5s`, `15m`, `1h30m`, `24h`, `7d`; a day has 24 hours.
fn span(text: &str) -> Result<Duration, String> {
    let read: jiff::Span = text.parse().map_err(|e| format!("{e}; write 5s, 15m, 24h or 7d"))?;
    let day = jiff::SpanRelativeTo::days_are_24_hours();
    let read = read.to_duration(day).map_err(|e| format!("{e}; write 5s, 15m, 24h or 7d"))?;
    Duration::try_from(read).map_err(|_| "must not be negative".to_owned())
}

fn tier(text: &str) -> Result<Tier, String> {
    let (every, age) = text.split_once(':').ok_or("write every:age, such as 1h:7d")?;
    Ok(Tier { every: span(every)?, age: span(age)? })
}

fn machine(text: &str) -> Result<MachineRef, String> {
    let (host, machine) = text.rsplit_once('/').ok_or("write site/host/machine")?;
    let host = host.parse().map_err(|e| format!("{e}"))?;
    let machine = machine.parse().map_err(|e| format!("{e}"))?;
    Ok(MachineRef { host, machine })
}

fn pool(text: &str) -> Result<(Ipv4Addr, Ipv4Addr), String> {
    let (first, last) = text.split_once('-').ok_or("write first-last")?;
    let read = |t: &str| t.parse().map_err(|e| format!("{t}: {e}"));
    Ok((read(first)?, read(last)?))
}

fn test_network(text: &str) -> Result<TestNetwork, String> {
    match text {
        "none" => Ok(TestNetwork::None),
        "automatic" => Ok(TestNetwork::Automatic),
        network => {
            let network = network
                .parse()
                .map_err(|_| "write none, automatic or sites/<site>/networks/<network>".to_owned())?;
            Ok(TestNetwork::Existing { network, connect_to_production: None })
        }
    }
}

fn instant(text: &str) -> Result<UnixMicros, String> {
    let refused =
        |e: jiff::Error| format!("{e}: write 2026-11-28T18:00:00Z, or 2026-11-28 18:00:00 for local time");
    let at = match text.parse::<jiff::Timestamp>() {
        Ok(at) => at,
        Err(_) => {
            let local: jiff::civil::DateTime = text.parse().map_err(refused)?;
            local.to_zoned(jiff::tz::TimeZone::system()).map_err(refused)?.timestamp()
        }
    };
    Ok(UnixMicros::new(at.as_microsecond()))
}

fn point(text: &str) -> Result<PointWish, String> {
    let (item, choice) = match text.split_once('=') {
        Some((item, choice)) => (Some(item.parse().map_err(|e| format!("{e}"))?), choice),
        None => (None, text),
    };
    let choice = choice.parse().map_err(|e| format!("{e}"))?;
    if item.is_none() && matches!(choice, PointChoice::Seq(_)) {
        return Err("numbers belong to one item: write item=number".to_owned());
    }
    Ok(PointWish { item, choice })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn spans_points_and_machines_are_read_as_people_write_them() {
        assert_eq!(span("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(span("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(span("7d"), Ok(Duration::from_secs(7 * 86_400)));
        assert_eq!(tier("1h:7d").unwrap().age, Duration::from_secs(7 * 86_400));
        assert!(tier("1h").is_err() && span("1mo").is_err());
        assert!(span("-5s").is_err() && span("soon").is_err());
        assert_eq!(point("web1=7").unwrap().choice.to_string(), "7");
        let all = PointWish { item: None, choice: PointChoice::LatestAppConsistent };
        assert_eq!(point("latest-app-consistent"), Ok(all));
        assert_eq!(instant("1970-01-01T00:00:01Z"), Ok(UnixMicros::new(1_000_000)));
        assert!(instant("2026-11-28 18:00:00").is_ok() && instant("soon").is_err());
        assert_eq!(test_network("none"), Ok(TestNetwork::None));
        assert!(test_network("sites/bravo/networks/lab").is_ok() && test_network("lab").is_err());
        assert!(point("7").is_err() && point("web1=latest").is_err());
        assert_eq!(machine("alpha/alpha-h1/web1").unwrap().to_string(), "alpha/alpha-h1/web1");
        assert!(machine("web1").is_err() && point("web1").is_err());
    }
}
