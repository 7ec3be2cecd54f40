//! Where machines are connected and which addresses they get: tests on networks that were there before them (R-TF-2), subnets that are
//! split (R-NET-4).

use understudy_netplan::AddressRule;
use understudy_recovery::test_network::TestNetwork;
use understudy_recovery_api::{Operation, RunState, request::SetItemAddress};

use crate::support::*;

const PROD: &str = "sites/bravo/networks/prod";

fn on(network: &str, connect_to_production: Option<&str>) -> TestNetwork {
    TestNetwork::Existing {
        network: network.parse().unwrap(),
        connect_to_production: connect_to_production.map(str::to_owned),
    }
}

/// R-TF-2, R-TF-5, R-NET-7: the network is looked into, the machine is connected to it, production is refused without a reason, and with
/// one it is marked in preview, run, job and audit record.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_test_is_connected_to_the_network_that_was_chosen() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    stage.introduce(client).await;
    protected(client, "web1").await;

    let mut test = spec(Operation::TestFailover, &["web1"]);
    test.test_network = on("sites/bravo/networks/lab", None);
    let run = start(client, test.clone()).await.unwrap();
    let waiting = until(client, run.name, RunState::Waiting).await;
    assert_eq!(waiting.spec.test_network, test.test_network);
    let proof = waiting.steps.iter().find(|step| step.plan.step.as_str() == "prove-isolation-0").unwrap();
    assert_eq!(proof.outcome, "none of 1 addresses outside answered");
    client.complete_test(complete(run.name, "")).await.unwrap();
    let done = until(client, run.name, RunState::Succeeded).await;
    assert!(done.steps.iter().any(|step| step.plan.step.as_str() == "remove-port-0"));

    for (network, why, reason) in [
        (PROD, None, "PRODUCTION_NETWORK"),
        ("sites/bravo/networks/lab", Some("I may"), "NOT_A_PRODUCTION_NETWORK"),
        ("sites/bravo/networks/none", None, "NETWORK_NOT_FOUND"),
        ("sites/alpha/networks/prod", None, "NETWORK_AT_OTHER_SITE"),
    ] {
        test.test_network = on(network, why);
        let problems = client.preview_run(test.clone()).await.unwrap().problems;
        let reasons: Vec<&str> = problems.iter().map(|problem| problem.reason.as_str()).collect();
        assert_eq!(reasons, [reason]);
    }

    test.test_network = on(PROD, Some("the shop is closed"));
    let expected = format!("connected to {PROD}, which production uses: the shop is closed");
    assert_eq!(client.preview_run(test.clone()).await.unwrap().notices, [expected.as_str()]);
    let run = start(client, test.clone()).await.unwrap();
    let waiting = until(client, run.name, RunState::Waiting).await;
    assert_eq!(waiting.spec.test_network.production_notice().as_ref(), Some(&expected));
    eventually("the note is at the job", async || {
        let notes = stage.jobs().list_notes(run.name).await.unwrap();
        notes.iter().any(|note| note.text == expected && note.author.ends_with("user/ops"))
    })
    .await;
    let audit = client.list_audit_records(Default::default()).await.unwrap().entries;
    let record = audit.iter().find(|record| record.what == "FailoverService/StartRun").unwrap();
    assert_eq!(record.why, "the shop is closed");
    client.cancel_run(verb(run.name)).await.unwrap();
    until(client, run.name, RunState::Cancelled).await;
}

/// R-NET-4: where a mapping retains addresses, a failover of a part of the subnet is refused with the names of what stays, unless it is
/// asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_of_a_part_of_a_retained_subnet_is_noticed() {
    let stage = Stage::set().await;
    *stage.mapper.addresses.lock().unwrap() = AddressRule::Retain;
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    stage.introduce(client).await;
    protected(client, "web1").await;
    protected(client, "db1").await;

    let mut part = spec(Operation::PlannedFailover, &["web1"]);
    let problems = client.preview_run(part.clone()).await.unwrap().problems;
    assert_eq!((problems.len(), problems[0].reason.as_str()), (1, "PARTIAL_SUBNET"), "{problems:?}");
    assert!(problems[0].message.ends_with("these of it stay behind: db1"), "{}", problems[0]);
    part.allow_partial_subnet = true;
    let preview = client.preview_run(part).await.unwrap();
    assert!(preview.problems.is_empty() && preview.notices[0].ends_with("stay behind: db1"), "{preview:?}");
    let whole = client.preview_run(spec(Operation::PlannedFailover, &["web1", "db1"])).await.unwrap();
    assert!(whole.problems.is_empty() && whole.notices.is_empty(), "{whole:?}");
    let test = client.preview_run(spec(Operation::TestFailover, &["web1"])).await.unwrap();
    assert!(test.problems.is_empty() && test.notices.is_empty(), "a test takes nothing away: {test:?}");
}

fn address(nic: u32, failover: Option<[u8; 4]>, test: Option<[u8; 4]>) -> SetItemAddress {
    let (failover, test) = (failover.map(Into::into), test.map(Into::into));
    SetItemAddress { item: item("web1"), nic, failover, test, request_id: fresh() }
}

/// R-NET-5, invariant 12: kept, shown, used by the next plans for what they are for, forgotten; refused with everything that is wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_that_are_chosen_are_used_by_the_next_plans() {
    let stage = Stage::set().await;
    let instance = stage.orchestrator().await;
    let client = &instance.client;
    stage.introduce(client).await;
    assert_eq!(protected(client, "web1").await.addresses, []);
    let given = async |operation| {
        let mut wish = spec(operation, &["web1"]);
        if operation == Operation::UnplannedFailover {
            wish.primary_down_assertion = Some("alpha burnt down".into());
        }
        let preview = client.preview_run(wish).await.unwrap();
        match preview.items.first() {
            Some(item) => item.connections[0].address.clone(),
            None => preview.problems[0].reason.clone(),
        }
    };
    let request = address(0, Some([192, 168, 50, 99]), Some([192, 168, 50, 98]));
    let kept = client.set_item_address(request.clone()).await.unwrap().addresses;
    assert_eq!(client.set_item_address(request).await.unwrap().addresses, kept, "the same request again");
    assert_eq!((kept.len(), kept[0].site.as_str()), (1, "bravo"));
    for (operation, expected) in [
        (Operation::PlannedFailover, "192.168.50.99"),
        (Operation::UnplannedFailover, "192.168.50.99"),
        (Operation::TestFailover, "192.168.50.98"),
    ] {
        assert_eq!(given(operation).await, expected, "{operation}");
    }
    client.set_item_address(address(0, Some([10, 0, 0, 9]), None)).await.unwrap();
    for operation in [Operation::PlannedFailover, Operation::TestFailover] {
        assert_eq!(given(operation).await, "CHOSEN_ADDRESS_UNUSABLE", "{operation}");
    }
    assert_eq!(client.set_item_address(address(0, None, None)).await.unwrap().addresses, []);
    assert_ne!(given(Operation::PlannedFailover).await, "192.168.50.99");

    let wrong = client.set_item_address(address(7, Some([127, 0, 0, 1]), Some([224, 0, 0, 1]))).await;
    let reasons: Vec<String> = wrong.unwrap_err().problems.into_iter().map(|p| p.reason).collect();
    assert_eq!(reasons, ["ADDRESS_NOT_OF_A_MACHINE", "ADDRESS_NOT_OF_A_MACHINE", "NIC_NOT_FOUND"]);
    let audit = client.list_audit_records(Default::default()).await.unwrap().entries;
    let of_addresses = audit.iter().filter(|record| record.what == "ProtectionService/SetItemAddress");
    assert_eq!(of_addresses.count(), 4, "one for each call that took effect, one for the refusal");
}
