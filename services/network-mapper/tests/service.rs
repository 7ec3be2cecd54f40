//! The service against a real Postgres: what is configured, what runs hold, and what happens when two want the same.

use std::sync::Arc;

use understudy_ids::{RunId, SiteName, Uuid};
use understudy_jobs_api::{Handler, LeasedTask, Outcome, TaskContext};
use understudy_netplan::{
    AddressPool, AddressRule, Addressing, Isolation, MachineConnections, MachineNic, Mapping, Neighbour,
    NetworkRef, Purpose, SplitSubnet, VmNetwork,
};
use understudy_network_api::{
    ConnectionQuestion, NetworkAction, NetworkApi, NetworkTask, NetworkTaskResult, PageRequest, ReservedNic,
    ReservedTestNetwork,
};
use understudy_network_mapper::{Api, Hooks, MIGRATOR, RULES, Servers, Tasks};
use understudy_pg::TestDatabase;
use understudy_rpc::{ApiError, Identity, access::methods_without_rule};

const ALPHA: &str = "sites/alpha/networks/prod";
const BRAVO: &str = "sites/bravo/networks/prod";
const LAB: &str = "sites/bravo/networks/lab";

struct Bench {
    api: Api,
    tasks: Arc<Tasks>,
    database: TestDatabase,
}

impl Bench {
    async fn new() -> Self {
        let database = TestDatabase::new(&MIGRATOR).await;
        let pool = database.pool().clone();
        let servers = Servers::default();
        let tasks = Arc::new(Tasks::new(pool.clone(), servers.clone(), Hooks::default()));
        Self { api: Api::new(pool, servers, Hooks::default()), tasks, database }
    }

    async fn with_networks() -> Self {
        let bench = Self::new().await;
        for name in [ALPHA, BRAVO] {
            bench.api.create_network(&user(), network(name), Uuid::new_v4()).await.unwrap();
        }
        bench
    }

    async fn perform(&self, run: RunId, action: NetworkAction) -> Result<NetworkTaskResult, String> {
        perform(&self.tasks, run, action).await
    }

    async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(self.database.pool().reader()).await.unwrap()
    }
}

async fn perform(tasks: &Tasks, run: RunId, action: NetworkAction) -> Result<NetworkTaskResult, String> {
    let task = LeasedTask::detached(run, NetworkTask { run, action }.to_payload());
    let (context, _stop, _progress) = TaskContext::detached();
    match tasks.handle(task, context).await {
        Outcome::Succeeded(any) => Ok(NetworkTaskResult::from_payload(&any).unwrap()),
        Outcome::Failed(problem) | Outcome::Unknown(problem) | Outcome::Retry(problem) => Err(problem.reason),
    }
}

fn user() -> Identity {
    "spiffe://understudy/user/admin".parse().unwrap()
}

fn network(name: &str) -> VmNetwork {
    VmNetwork {
        name: name.parse().unwrap(),
        isolation: Isolation::None,
        addressing: Addressing::Dhcp,
        subnet: "192.168.50.0/24".parse().unwrap(),
        gateway: Some("192.168.50.1".parse().unwrap()),
        pool: None,
        hypervisor_network: "prod".parse().unwrap(),
        isolation_targets: vec!["192.168.50.5".parse().unwrap()],
        logical_network: None,
        vlan_id: None,
    }
}

fn mapping(a: &str, b: &str) -> Mapping {
    Mapping::new(a.parse().unwrap(), b.parse().unwrap())
}

fn reserve(item: &str, address: &str, test: bool) -> NetworkAction {
    NetworkAction::ReserveAddresses {
        test,
        nics: vec![ReservedNic {
            item: item.parse().unwrap(),
            mac: "52:54:00:00:50:11".parse().unwrap(),
            network: BRAVO.parse().unwrap(),
            address: address.parse().unwrap(),
        }],
        test_networks: vec![],
    }
}

fn page() -> PageRequest {
    PageRequest { size: 100, after: None }
}

fn reason<T: std::fmt::Debug>(result: Result<T, ApiError>) -> String {
    result.unwrap_err().reason.into_owned()
}

#[test]
fn every_method_has_an_access_rule() {
    let missing = methods_without_rule(
        understudy_network_api::FILE_DESCRIPTOR_SET,
        &[understudy_network_api::NETWORK_SERVICE],
        RULES,
    );
    assert_eq!(missing.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_gets_the_same_answer_and_its_id_serves_no_other() {
    let bench = Bench::new().await;
    let id = Uuid::new_v4();
    let first = bench.api.create_network(&user(), network(ALPHA), id).await.unwrap();
    let again = bench.api.create_network(&user(), network(ALPHA), id).await.unwrap();
    assert_eq!(first, again);
    assert_eq!(reason(bench.api.create_network(&user(), network(BRAVO), id).await), "REQUEST_ID_REUSED");
    assert_eq!(
        reason(bench.api.create_network(&user(), network(ALPHA), Uuid::new_v4()).await),
        "NETWORK_EXISTS"
    );
    assert_eq!(bench.api.networks(None, page()).await.unwrap().entries, [first]);
    // Invariant 12: one record for the call that took effect, one for each refusal, none for the repetition.
    assert_eq!(bench.count("SELECT count(*) FROM audit WHERE decision = 'allowed'").await, 1);
    assert_eq!(bench.count("SELECT count(*) FROM audit WHERE decision = 'refused'").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn r_net_2_mappings_are_checked_when_made_also_against_each_other_at_the_same_time() {
    let bench = Bench::with_networks().await;
    let other = VmNetwork {
        name: "sites/bravo/networks/lab".parse().unwrap(),
        hypervisor_network: "lab".parse().unwrap(),
        ..network(BRAVO)
    };
    bench.api.create_network(&user(), other, Uuid::new_v4()).await.unwrap();
    // Two mappings of one network to one site, one of them written the other way round: only one may be made.
    let (forward, backward) = (mapping(ALPHA, BRAVO), mapping("sites/bravo/networks/lab", ALPHA));
    let me = user();
    let (a, b) = tokio::join!(
        bench.api.create_mapping(&me, forward, Uuid::new_v4()),
        bench.api.create_mapping(&me, backward, Uuid::new_v4()),
    );
    assert_eq!([a.is_ok(), b.is_ok()].iter().filter(|ok| **ok).count(), 1, "{a:?} {b:?}");
    assert_eq!(bench.api.mappings(page()).await.unwrap().entries.len(), 1);
    let refused = bench.api.create_mapping(&me, mapping("sites/x/networks/y", ALPHA), Uuid::new_v4()).await;
    assert_eq!(refused.unwrap_err().problems[0].reason, "NETWORK_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_in_use_is_not_deleted() {
    let bench = Bench::with_networks().await;
    let made = bench.api.create_mapping(&user(), mapping(ALPHA, BRAVO), Uuid::new_v4()).await.unwrap();
    let name: NetworkRef = BRAVO.parse().unwrap();
    assert_eq!(reason(bench.api.delete_network(&user(), &name, Uuid::new_v4()).await), "NETWORK_IN_USE");
    bench.api.delete_mapping(&user(), made.id, Uuid::new_v4()).await.unwrap();
    bench.api.delete_network(&user(), &name, Uuid::new_v4()).await.unwrap();
    assert_eq!(reason(bench.api.network(&name).await), "NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn r_net_10_of_many_runs_that_want_one_address_exactly_one_gets_it() {
    let bench = Bench::with_networks().await;
    let runs: Vec<_> = (0..16)
        .map(|_| {
            let tasks = Arc::clone(&bench.tasks);
            tokio::spawn(async move {
                perform(&tasks, Uuid::new_v4(), reserve("web1", "192.168.50.11", false)).await
            })
        })
        .collect();
    let mut outcomes = Vec::new();
    for run in runs {
        outcomes.push(run.await.unwrap());
    }
    let won = outcomes.iter().filter(|o| **o == Ok(NetworkTaskResult::Reserved)).count();
    let lost = outcomes.iter().filter(|o| **o == Err("ADDRESS_TAKEN".to_owned())).count();
    assert_eq!((won, lost), (1, 15), "{outcomes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn r_net_10_reserving_twice_holds_once_and_releasing_frees() {
    let bench = Bench::with_networks().await;
    let (mine, other) = (Uuid::new_v4(), Uuid::new_v4());
    for _ in 0..2 {
        let done = bench.perform(mine, reserve("web1", "192.168.50.11", false)).await;
        assert_eq!(done, Ok(NetworkTaskResult::Reserved));
    }
    assert_eq!(bench.api.leases(Some(mine), page()).await.unwrap().entries.len(), 1);
    // A test holds its addresses on a network of its own (R-TF-4).
    let tested = bench.perform(other, reserve("web1", "192.168.50.11", true)).await;
    assert_eq!(tested, Ok(NetworkTaskResult::Reserved));

    let released = bench.perform(mine, NetworkAction::ReleaseRun).await;
    assert_eq!(released, Ok(NetworkTaskResult::Released { addresses: 1, test_networks: 0 }));
    let again = bench.perform(mine, NetworkAction::ReleaseRun).await;
    assert_eq!(again, Ok(NetworkTaskResult::Released { addresses: 0, test_networks: 0 }));
    // A worker that was thought dead comes back with the old task.
    assert_eq!(
        bench.perform(mine, reserve("web1", "192.168.50.11", false)).await,
        Err("RUN_RELEASED".to_owned())
    );
    assert_eq!(
        bench.perform(Uuid::new_v4(), reserve("web1", "192.168.50.11", false)).await,
        Ok(NetworkTaskResult::Reserved)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_is_whole_or_nothing() {
    let bench = Bench::with_networks().await;
    bench.perform(Uuid::new_v4(), reserve("db1", "192.168.50.12", false)).await.unwrap();
    let NetworkAction::ReserveAddresses { mut nics, .. } = reserve("web1", "192.168.50.11", false) else {
        unreachable!()
    };
    nics.push(ReservedNic { address: "192.168.50.12".parse().unwrap(), ..nics[0].clone() });
    let run = Uuid::new_v4();
    let test_networks = vec![ReservedTestNetwork {
        name: "ust-1-0".parse().unwrap(),
        stands_for: BRAVO.parse().unwrap(),
        hosts: vec!["bravo/bravo-h1".parse().unwrap()],
    }];
    let action = NetworkAction::ReserveAddresses { test: false, nics, test_networks };
    assert_eq!(bench.perform(run, action).await, Err("ADDRESS_TAKEN".to_owned()));
    assert_eq!(bench.api.leases(Some(run), page()).await.unwrap().entries, []);
    assert_eq!(bench.count("SELECT count(*) FROM test_network").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_go_on_where_the_page_before_ended() {
    let bench = Bench::with_networks().await;
    let first = bench.api.networks(None, PageRequest { size: 1, after: None }).await.unwrap();
    assert_eq!(first.entries[0].network.name.to_string(), ALPHA);
    let second = bench.api.networks(None, PageRequest { size: 1, after: first.next }).await.unwrap();
    assert_eq!(second.entries[0].network.name.to_string(), BRAVO);
    assert_eq!(second.next, None);
    let of_site = bench.api.networks(Some("bravo".parse().unwrap()), page()).await.unwrap();
    assert_eq!(of_site.entries.len(), 1);
}

/// R-NET-4: what a mapping says about addresses comes back, and a failover that would leave machines of the subnet behind is told of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_mapping_that_retains_addresses_tells_of_split_subnets() {
    let bench = Bench::with_networks().await;
    let retaining = Mapping { addresses: AddressRule::Retain, ..mapping(ALPHA, BRAVO) };
    let made = bench.api.create_mapping(&user(), retaining.clone(), Uuid::new_v4()).await.unwrap();
    assert_eq!(made.mapping, retaining);
    assert_eq!(bench.api.mappings(page()).await.unwrap().entries, [made]);
    let nic = |last: u8| MachineNic {
        mac: "52:54:00:00:50:11".parse().unwrap(),
        hypervisor_network: Some("prod".parse().unwrap()),
        addresses: vec![[192, 168, 50, last].into()],
        chosen: None,
    };
    let site: SiteName = "alpha".parse().unwrap();
    let question = ConnectionQuestion {
        purpose: Purpose::Failover,
        machines: vec![MachineConnections {
            item: "web1".parse().unwrap(),
            source_site: site.clone(),
            target_site: "bravo".parse().unwrap(),
            nics: vec![nic(11)],
        }],
        neighbours: vec![Neighbour { item: "db1".parse().unwrap(), site, nics: vec![nic(12)] }],
    };
    let answer = bench.api.plan_connections(question).await.unwrap().unwrap();
    let expected = SplitSubnet { network: ALPHA.parse().unwrap(), staying: ["db1".parse().unwrap()].into() };
    assert_eq!(answer.split_subnets, [expected]);
}

/// R-TF-2, R-TF-4, R-NET-7: what a network is comes back as it was written, and a test on it gets no address that a run holds there.
#[tokio::test(flavor = "multi_thread")]
async fn a_test_on_an_existing_network_gets_what_nobody_holds_there() {
    let bench = Bench::with_networks().await;
    bench.api.create_mapping(&user(), mapping(ALPHA, BRAVO), Uuid::new_v4()).await.unwrap();
    let lab = VmNetwork {
        name: LAB.parse().unwrap(),
        hypervisor_network: "lab".parse().unwrap(),
        isolation: Isolation::Vlan,
        vlan_id: Some(4094),
        logical_network: Some("tests".parse().unwrap()),
        addressing: Addressing::Static,
        pool: Some(AddressPool {
            first: "192.168.50.11".parse().unwrap(),
            last: "192.168.50.13".parse().unwrap(),
        }),
        isolation_targets: vec![],
        ..network(BRAVO)
    };
    let made = bench.api.create_network(&user(), lab.clone(), Uuid::new_v4()).await.unwrap();
    assert_eq!(
        (made.network, bench.api.network(&lab.name).await.unwrap().network),
        (lab.clone(), lab.clone())
    );
    let no_vlan = VmNetwork { vlan_id: None, name: "sites/bravo/networks/x".parse().unwrap(), ..lab.clone() };
    let refused = bench.api.create_network(&user(), no_vlan, Uuid::new_v4()).await;
    assert_eq!(refused.unwrap_err().problems[0].reason, "VLAN_ID_MISSING");

    let question = || ConnectionQuestion {
        purpose: Purpose::TestOn { network: lab.name.clone(), hosts: ["bravo/h1".parse().unwrap()].into() },
        machines: vec![MachineConnections {
            item: "web1".parse().unwrap(),
            source_site: "alpha".parse().unwrap(),
            target_site: "bravo".parse().unwrap(),
            nics: vec![MachineNic {
                mac: "52:54:00:00:50:11".parse().unwrap(),
                hypervisor_network: Some("prod".parse().unwrap()),
                addresses: vec!["192.168.50.11".parse().unwrap()],
                chosen: None,
            }],
        }],
        neighbours: vec![],
    };
    let first = bench.api.plan_connections(question()).await.unwrap().unwrap();
    assert_eq!(first.nics[0].address, Some("192.168.50.11".parse().unwrap()), "its own");
    assert_eq!(first.existing.unwrap().probe_ports[0].address.to_string(), "192.168.50.12");
    let NetworkAction::ReserveAddresses { mut nics, .. } = reserve("other", "192.168.50.11", false) else {
        unreachable!()
    };
    nics[0].network = lab.name.clone();
    let held = NetworkAction::ReserveAddresses { test: false, nics, test_networks: vec![] };
    bench.perform(Uuid::new_v4(), held.clone()).await.unwrap();
    let second = bench.api.plan_connections(question()).await.unwrap().unwrap();
    assert_eq!(second.nics[0].address, Some("192.168.50.12".parse().unwrap()), "another one of it");
    // Two runs that were planned before either reserved: the second is refused.
    assert_eq!(bench.perform(Uuid::new_v4(), held).await, Err("ADDRESS_TAKEN".to_owned()));
}
