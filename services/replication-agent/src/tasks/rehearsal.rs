//! Tests: machines that branch off a point, and the isolated networks that they stand in (R-TF).

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use understudy_hypervisor::{
    IsolationEvidence, MachineDefinition, MachineTag, PowerState, Reservation, TagRole, TestNetworkDefinition,
};
use understudy_ids::{MachineName, NetworkName, PointSeq, RunId, Uuid};
use understudy_replica_store::Store;
use understudy_replication_api::{AgentTaskResult, DhcpReservation, ExistingNetworkProbe, IsolationResult};

use super::{
    Result, Scope, TaskError, Tasks, not_ours,
    point::{by_disk, check_nics, descriptor},
    sealed::{chains, overlay_headers},
};

impl Tasks {
    /// The test machine is defined from a branch of the point. Its Ethernet addresses are the real machine's, its name and
    /// UUID are not (R-TF-3, R-TF-4).
    pub(super) async fn create_test_machine(
        &self,
        scope: &Scope,
        seq: Option<PointSeq>,
        name: MachineName,
        nics: Vec<Option<NetworkName>>,
    ) -> Result {
        // Asked again, "the latest" is the point that the run has a branch of already.
        let (item, run) = (scope.item.clone(), scope.run);
        let branches = self.replica.call(move |store| store.branches(&item)).await?;
        let branched = branches.into_iter().find(|(of, _)| *of == run).map(|(_, seq)| seq);
        let manifest = self.manifest(scope, seq.or(branched)).await?;
        let descriptor = descriptor(&manifest)?;
        check_nics(&descriptor, &nics)?;
        let tag = MachineTag {
            item: scope.item.clone(),
            generation: scope.generation,
            role: TagRole::Test { run: scope.run },
        };
        let (created, instant) = (manifest.seq, manifest.instant);
        let result = AgentTaskResult::MachineCreated { machine: name.clone(), seq: created, instant };
        let present = self.machine(&name).await?;
        // The step is done again after the machine was started.
        if present.as_ref().is_some_and(|m| m.power != PowerState::ShutOff && m.tag.as_ref() == Some(&tag)) {
            return Ok(result);
        }
        let key = self.key_of(scope, &manifest)?;
        let headers = overlay_headers(&manifest, key.as_ref())?;
        let (item, run) = (scope.item.clone(), scope.run);
        let branched = move |store: &Store| store.branch_sealed(&item, created, run, &headers);
        let files = self.replica.call(branched).await?;
        let encrypted = chains(&files, key.as_ref())?;
        self.hypervisor
            .define(&MachineDefinition {
                encrypted,
                uuid: Uuid::new_v5(&scope.run, scope.item.as_str().as_bytes()),
                name: name.clone(),
                hardware: descriptor.hardware,
                disk_files: by_disk(files),
                nic_networks: nics,
                tag,
            })
            .await?;
        if let Some(key) = key {
            self.hypervisor.unlock(&name, &key).await?;
        }
        Ok(result)
    }

    /// The machine of a test is off and gone, and what it has written is the promoted machine's (R-TF-7).
    pub(super) async fn take_over_test(
        &self,
        scope: &Scope,
        run: RunId,
        name: &MachineName,
        grace: Duration,
        seq: PointSeq,
    ) -> Result<()> {
        if let Some(machine) = self.machine(name).await? {
            if machine.tag.as_ref().is_none_or(|t| t.item != scope.item || t.role != TagRole::Test { run }) {
                return Err(not_ours(&machine, &scope.item));
            }
            // So that what its guest holds in memory is on its disks; one that does not listen is treated as after a power failure.
            self.shut_down_machine(scope, name, grace, true).await?;
            self.hypervisor.undefine(name).await?;
        }
        let (item, generation) = (scope.item.clone(), scope.generation);
        self.replica.call(move |store| store.promote_branch(&item, seq, run, generation)).await?;
        Ok(())
    }

    /// Nothing of the test machine is left (R-TF-5).
    pub(super) async fn remove_test_machine(&self, scope: &Scope, name: &MachineName) -> Result {
        if let Some(machine) = self.machine(name).await? {
            let role = TagRole::Test { run: scope.run };
            if machine.tag.as_ref().is_none_or(|t| t.item != scope.item || t.role != role) {
                return Err(not_ours(&machine, &scope.item));
            }
            if machine.power != PowerState::ShutOff {
                self.hypervisor.power_off(name).await?;
            }
            self.hypervisor.undefine(name).await?;
        }
        let (item, run) = (scope.item.clone(), scope.run);
        self.replica.call(move |store| store.drop_branch(&item, run)).await?;
        Ok(AgentTaskResult::Done)
    }

    pub(super) async fn ensure_test_network(
        &self,
        scope: &Scope,
        name: NetworkName,
        gateway: Ipv4Addr,
        prefix_len: u8,
        reservations: Vec<DhcpReservation>,
    ) -> Result {
        let reservations = reservations
            .into_iter()
            .map(|DhcpReservation { mac, address, host_name }| Reservation { mac, address, host_name })
            .collect();
        let definition = TestNetworkDefinition { name, run: scope.run, gateway, prefix_len, reservations };
        self.hypervisor.ensure_test_network(&definition).await?;
        Ok(AgentTaskResult::Done)
    }

    /// Whether anything outside answers is a result, not a failure; that it could not be tried is one (R-TF-9).
    pub(super) async fn probe_isolation(&self, network: &NetworkName, targets: &[IpAddr]) -> Result {
        let evidence = self.hypervisor.probe_isolation(network, targets).await;
        evidence.map(told).map_err(TaskError::of_question)
    }

    /// The same of a network that was there before the test (R-TF-2).
    pub(super) async fn probe_existing_network(&self, scope: &Scope, asked: ExistingNetworkProbe) -> Result {
        let ExistingNetworkProbe { network, mac, address, prefix_len, gateway, targets, planned } = asked;
        let probe = understudy_hypervisor::ExistingNetworkProbe {
            network,
            run: scope.run,
            mac,
            address,
            prefix_len,
            gateway,
            targets,
            planned,
        };
        // It is made anew when it is tried again, so that nothing is known of it does no harm.
        self.hypervisor.probe_existing_network(&probe).await.map(told).map_err(TaskError::of_question)
    }

    pub(super) async fn remove_probe_port(&self, scope: &Scope, network: &NetworkName) -> Result {
        self.hypervisor.remove_probe_port(network, scope.run).await?;
        Ok(AgentTaskResult::Done)
    }

    pub(super) async fn remove_test_network(&self, name: &NetworkName) -> Result {
        self.hypervisor.remove_test_network(name).await?;
        Ok(AgentTaskResult::Done)
    }
}

fn told(evidence: IsolationEvidence) -> AgentTaskResult {
    let IsolationEvidence { ports, tried, answered, method } = evidence;
    AgentTaskResult::IsolationResult(IsolationResult { ports, tried, answered, method })
}
