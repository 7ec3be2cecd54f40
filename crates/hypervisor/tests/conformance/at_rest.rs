//! Snapshots for which the guest is brought to rest. Alone in its file, because it takes a guest with an agent to show the real driver
//! doing it, and those are found in the lab.

use std::time::Duration;

use understudy_hypervisor::{CheckpointName, GuestState, Hypervisor, Quiesce, SnapshotRequest};

async fn guest(host: &dyn Hypervisor, machine: &str, number: u64, quiesce: Option<Quiesce>) -> GuestState {
    let request = SnapshotRequest {
        machine: machine.parse().unwrap(),
        disks: vec!["vda".parse().unwrap()],
        checkpoint: CheckpointName(format!("understudy-rest-1-{number}")),
        base: None,
        quiesce,
    };
    let snapshot = host.open_snapshot(&request).await.unwrap();
    let guest = snapshot.guest().clone();
    snapshot.close().await.unwrap();
    host.delete_checkpoints(&request.machine, &[request.checkpoint].into()).await.unwrap();
    guest
}

/// How the guest stood at a snapshot for which it was to be brought to rest.
pub async fn guest_at_rest(host: &dyn Hypervisor, machine: &str, number: u64, limit: Duration) -> GuestState {
    guest(host, machine, number, Some(Quiesce { limit })).await
}

/// R-REP-3: the guest of a running machine is at rest for the instant, goes on, and it is known for how long it was. Where nobody asks
/// for that, it is left alone.
pub async fn a_guest_is_brought_to_rest(host: &dyn Hypervisor, machine: &str) {
    const LIMIT: Duration = Duration::from_secs(20);
    for number in 1..4 {
        let stood = guest_at_rest(host, machine, number, LIMIT).await;
        let GuestState::Application { frozen } = stood else { panic!("{stood:?}") };
        assert!(frozen > Duration::ZERO && frozen < LIMIT, "{frozen:?}");
        println!("frozen for {frozen:?}");
    }
    assert_eq!(guest(host, machine, 4, None).await, GuestState::CRASH);
}
