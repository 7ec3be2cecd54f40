//! Fills in what a plan could only refer to: the run's names and the points that the run made.

use std::collections::BTreeMap;

use understudy_ids::{ItemName, MachineName, NetworkName, PointSeq, RunId, StepName};

use super::{Action, AgentWork, MachineRef, NetworkRef, NetworkWork, PointRef, ReservedTestNetwork};

/// Characters that a test adds to a machine's name.
pub const TEST_SUFFIX_CHARS: usize = "-test-".len() + 8;

/// A reference that cannot be filled in: a step is sent before the one that it builds on, or a name does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    #[error("no point is known for {0}: choose one that exists")]
    NoPoint(ItemName),
    #[error("step {0} has not reported the point that this step builds on")]
    NoFinalPoint(StepName),
    #[error("{0} is too long to be part of a test machine's name: give the machine a shorter one")]
    NameTooLong(MachineName),
}

/// The points that a run knows when a step is sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownPoints {
    /// What the plan announced.
    pub announced: BTreeMap<ItemName, PointSeq>,
    /// The highest number in use: what the plan saw, or what the run has made since.
    pub highest: BTreeMap<ItemName, PointSeq>,
    /// What steps of the run shipped.
    pub shipped: BTreeMap<StepName, PointSeq>,
}

fn short(run: RunId) -> String {
    run.simple().to_string().chars().take(8).collect()
}

/// `ust-<8 digits of the run>-<index>`. At most 15 characters up to index 99, because it becomes a bridge's name.
pub fn test_network_name(run: RunId, index: u32) -> NetworkName {
    let name = format!("ust-{}-{index}", short(run));
    // Letters, digits and single dashes between a letter and a digit always are a name.
    name.parse().unwrap_or_else(|_| unreachable!("{name:?} is a name"))
}

/// Whether a network is one that [`test_network_name`] names for this run.
pub fn is_test_network_of(run: RunId, network: &NetworkName) -> bool {
    network.as_str().starts_with(&format!("ust-{}-", short(run)))
}

/// `<machine>-test-<8 digits of the run>`.
///
/// # Errors
/// When that is longer than a machine's name may be.
pub fn test_machine_name(run: RunId, machine: &MachineName) -> Result<MachineName, Unresolved> {
    let name = format!("{machine}-test-{}", short(run));
    name.parse().map_err(|_| Unresolved::NameTooLong(machine.clone()))
}

/// The action as it is sent: it holds no reference to the run any more. [`PointRef::Latest`] stays, because only the agent knows.
///
/// # Errors
/// When a point that it needs is not known, or a test machine's name would be too long.
pub fn resolve(action: &Action, run: RunId, points: &KnownPoints) -> Result<Action, Unresolved> {
    Ok(match action {
        Action::Agent { item, generation, work } => {
            let of_item = Resolver { run, points, item };
            Action::Agent { item: item.clone(), generation: *generation, work: of_item.work(work)? }
        }
        Action::Network(NetworkWork::ReserveAddresses { test, nics, test_networks }) => {
            let test_networks = test_networks
                .iter()
                .map(|n| ReservedTestNetwork { name: network(run, &n.name), ..n.clone() })
                .collect();
            Action::Network(NetworkWork::ReserveAddresses { test: *test, nics: nics.clone(), test_networks })
        }
        Action::Network(
            NetworkWork::ReleaseRun
            | NetworkWork::SetRecords { .. }
            | NetworkWork::RestoreRecords { .. }
            | NetworkWork::CallHook(_),
        )
        | Action::Internal(_)
        | Action::Operator(_) => action.clone(),
    })
}

fn network(run: RunId, reference: &NetworkRef) -> NetworkRef {
    match reference {
        NetworkRef::Test(index) => NetworkRef::Named(test_network_name(run, *index)),
        NetworkRef::Named(_) | NetworkRef::Unconnected => reference.clone(),
    }
}

struct Resolver<'a> {
    run: RunId,
    points: &'a KnownPoints,
    item: &'a ItemName,
}

impl Resolver<'_> {
    fn work(&self, work: &AgentWork) -> Result<AgentWork, Unresolved> {
        let mut work = work.clone();
        match &mut work {
            AgentWork::VerifyPoint { point } | AgentWork::AdoptDisks { point, .. } => {
                *point = self.point(point)?
            }
            AgentWork::PromotePoint { point, nics } | AgentWork::PromoteTest { point, nics, .. } => {
                *point = self.point(point)?;
                self.networks(nics);
            }
            AgentWork::CreateTestMachine { point, name, nics } => {
                *point = self.point(point)?;
                *name = self.machine(name)?;
                self.networks(nics);
            }
            AgentWork::StartMachine { machine }
            | AgentWork::StartInBoot { machine, .. }
            | AgentWork::TakeScreenshot { machine }
            | AgentWork::RemoveTestMachine { machine } => {
                *machine = self.machine(machine)?;
            }
            AgentWork::ProbeMachine { machine, network: on, .. } => {
                *machine = self.machine(machine)?;
                *on = network(self.run, on);
            }
            AgentWork::EnsureTestNetwork { name, .. }
            | AgentWork::RemoveTestNetwork { name }
            | AgentWork::ProbeIsolation { network: name, .. } => *name = network(self.run, name),
            AgentWork::PrepareReplica { .. }
            | AgentWork::ExportSeed { .. }
            | AgentWork::ImportSeed { .. }
            | AgentWork::RemoveSeed { .. }
            | AgentWork::StartReplication(_)
            | AgentWork::StopReplication { .. }
            | AgentWork::RemoveReplica
            | AgentWork::Fence { .. }
            | AgentWork::ShutDownMachine { .. }
            | AgentWork::SyncFinal { .. }
            | AgentWork::DigestDisks { .. }
            | AgentWork::SetAside { .. }
            | AgentWork::DropAside
            | AgentWork::DiscardPromotion { .. }
            | AgentWork::CommitItem
            | AgentWork::ScrubItem { .. }
            | AgentWork::ProbeExistingNetwork(_)
            | AgentWork::RemoveProbePort { .. }
            | AgentWork::RunScript(_) => {}
        }
        Ok(work)
    }

    fn networks(&self, nics: &mut [NetworkRef]) {
        for nic in nics {
            *nic = network(self.run, nic);
        }
    }

    fn machine(&self, reference: &MachineRef) -> Result<MachineRef, Unresolved> {
        match reference {
            MachineRef::Test(machine) => Ok(MachineRef::Named(test_machine_name(self.run, machine)?)),
            MachineRef::Named(_) => Ok(reference.clone()),
        }
    }

    fn point(&self, reference: &PointRef) -> Result<PointRef, Unresolved> {
        let no_point = || Unresolved::NoPoint(self.item.clone());
        let seq = match reference {
            PointRef::Seq(seq) => *seq,
            PointRef::Latest => return Ok(PointRef::Latest),
            PointRef::Announced => *self.points.announced.get(self.item).ok_or_else(no_point)?,
            PointRef::FinalOf(step) => {
                *self.points.shipped.get(step).ok_or_else(|| Unresolved::NoFinalPoint(step.clone()))?
            }
            PointRef::FinalElseAnnounced(step) => match self.points.shipped.get(step) {
                Some(seq) => *seq,
                None => *self.points.announced.get(self.item).ok_or_else(no_point)?,
            },
            PointRef::NewBase => self.points.highest.get(self.item).ok_or_else(no_point)?.next(),
        };
        Ok(PointRef::Seq(seq))
    }
}

#[cfg(test)]
mod tests {
    use understudy_ids::Generation;

    use super::*;

    const RUN: RunId = RunId::from_u128(0x0a1b_2c3d_4e5f_4000_8000_0000_0000_0001);

    fn agent(work: AgentWork) -> Action {
        Action::Agent { item: "web1".parse().unwrap(), generation: Generation::FIRST, work }
    }

    #[test]
    fn names_carry_the_run_and_networks_fit_an_interface_name() {
        assert_eq!(test_network_name(RUN, 0).as_str(), "ust-0a1b2c3d-0");
        assert!(test_network_name(RUN, 99).as_str().len() <= 15);
        assert!(is_test_network_of(RUN, &test_network_name(RUN, 7)));
        assert!(!is_test_network_of(RunId::nil(), &test_network_name(RUN, 7)));
        let machine = test_machine_name(RUN, &"web1".parse().unwrap()).unwrap();
        assert_eq!(machine.as_str(), "web1-test-0a1b2c3d");
        let long: MachineName = "x".repeat(63 - TEST_SUFFIX_CHARS).parse().unwrap();
        assert!(test_machine_name(RUN, &long).is_ok());
        let too_long: MachineName = "x".repeat(64 - TEST_SUFFIX_CHARS).parse().unwrap();
        assert_eq!(test_machine_name(RUN, &too_long), Err(Unresolved::NameTooLong(too_long.clone())));
    }

    #[test]
    fn references_become_names_and_numbers() {
        let web1: ItemName = "web1".parse().unwrap();
        let sync: StepName = "web1.sync-final".parse().unwrap();
        let points = KnownPoints {
            announced: [(web1.clone(), PointSeq::new(4))].into(),
            highest: [(web1, PointSeq::new(9))].into(),
            shipped: [(sync.clone(), PointSeq::new(8))].into(),
        };
        let resolved = |point| match resolve(&agent(AgentWork::VerifyPoint { point }), RUN, &points) {
            Ok(Action::Agent { work: AgentWork::VerifyPoint { point }, .. }) => Ok(point),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error),
        };
        assert_eq!(resolved(PointRef::Announced), Ok(PointRef::Seq(PointSeq::new(4))));
        assert_eq!(resolved(PointRef::NewBase), Ok(PointRef::Seq(PointSeq::new(10))));
        assert_eq!(resolved(PointRef::FinalOf(sync)), Ok(PointRef::Seq(PointSeq::new(8))));
        let other: StepName = "db1.sync-final".parse().unwrap();
        assert_eq!(resolved(PointRef::FinalOf(other.clone())), Err(Unresolved::NoFinalPoint(other)));
        assert_eq!(resolved(PointRef::Latest), Ok(PointRef::Latest));

        let machine = "web1".parse().unwrap();
        let nics = vec![NetworkRef::Test(1), NetworkRef::Unconnected];
        let create =
            AgentWork::CreateTestMachine { point: PointRef::Latest, name: MachineRef::Test(machine), nics };
        let expected = AgentWork::CreateTestMachine {
            point: PointRef::Latest,
            name: MachineRef::Named("web1-test-0a1b2c3d".parse().unwrap()),
            nics: vec![NetworkRef::Named("ust-0a1b2c3d-1".parse().unwrap()), NetworkRef::Unconnected],
        };
        assert_eq!(resolve(&agent(create), RUN, &points), Ok(agent(expected)));
    }
}
