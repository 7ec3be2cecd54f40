//! Names in DNS against a real BIND and a real Postgres (R-NET-11, R-NET-12): set, restored, refused, cut off in the middle.

mod named;

use std::sync::Arc;

use named::{Named, SECRET, Trouble, Way};
use understudy_ids::{Problem, RunId, Uuid};
use understudy_jobs_api::{Handler, LeasedTask, Outcome, TaskContext};
use understudy_netplan::{
    Addressing, DnsZone, HostRecord, Isolation, MachineConnections, MachineNic, Mapping, Purpose, VmNetwork,
    ZonePurpose,
};
use understudy_network_api::{
    ConnectionQuestion, NetworkAction, NetworkApi, NetworkTask, NetworkTaskResult, PageRequest, RecordAddress,
};
use understudy_network_mapper::{Api, Hooks, MIGRATOR, Tasks};
use understudy_pg::TestDatabase;
use understudy_rpc::{ApiError, Identity};

const NEW: &str = "10.2.0.11";
const ZONE: &str = "shop.example.";

struct Bench {
    named: Arc<Named>,
    way: Way,
    api: Api,
    tasks: Tasks,
    _database: TestDatabase,
}

impl Bench {
    /// shop.example is production's and test.shop.example is for tests, both at `server`.
    async fn new(server: &str) -> Self {
        let named = Arc::new(Named::start());
        let way = Way::to(&named).await;
        let servers = named.servers(way.address);
        let database = TestDatabase::new(&MIGRATOR).await;
        let pool = database.pool().clone();
        let api = Api::new(pool.clone(), servers.clone(), Hooks::default());
        let bench =
            Self { named, way, api, tasks: Tasks::new(pool, servers, Hooks::default()), _database: database };
        bench.zone(ZONE, server, ZonePurpose::Production).await.unwrap();
        bench.zone("test.shop.example", server, ZonePurpose::Test).await.unwrap();
        bench
    }

    async fn zone(&self, name: &str, server: &str, purpose: ZonePurpose) -> Result<(), ApiError> {
        let (name, server) = (name.parse().unwrap(), server.parse().unwrap());
        let zone = DnsZone { name, server, ttl_seconds: 30, purpose };
        self.api.create_zone(&user(), zone, Uuid::new_v4()).await.map(drop)
    }

    async fn name(&self, name: &str) -> Result<(), ApiError> {
        let record = HostRecord { name: name.parse().unwrap(), item: "web1".parse().unwrap(), nic: 0 };
        self.api.create_record(&user(), record, Uuid::new_v4()).await.map(drop)
    }

    async fn perform(&self, run: RunId, action: NetworkAction) -> Outcome {
        let task = LeasedTask::detached(run, NetworkTask { run, action }.to_payload());
        let (context, _stop, _progress) = TaskContext::detached();
        self.tasks.handle(task, context).await
    }

    /// In words: `web1.shop.example. [10.1.0.11] -> [10.2.0.11]`, or the reason.
    async fn done(&self, run: RunId, action: NetworkAction) -> Result<Vec<String>, Problem> {
        match self.perform(run, action).await {
            Outcome::Succeeded(any) => match NetworkTaskResult::from_payload(&any).unwrap() {
                NetworkTaskResult::Records(done) => {
                    Ok(done.iter().map(|d| format!("{} {:?} -> {:?}", d.name, d.before, d.after)).collect())
                }
                other => panic!("{other:?}"),
            },
            Outcome::Failed(problem) | Outcome::Unknown(problem) | Outcome::Retry(problem) => Err(problem),
        }
    }
}

fn user() -> Identity {
    "spiffe://understudy/user/admin".parse().unwrap()
}

fn set(names: &[&str]) -> NetworkAction {
    set_in(ZONE, ZonePurpose::Production, false, names)
}

fn set_in(zone: &str, purpose: ZonePurpose, test: bool, names: &[&str]) -> NetworkAction {
    let record = |name: &&str| RecordAddress {
        name: name.parse().unwrap(),
        zone: zone.parse().unwrap(),
        purpose,
        address: NEW.parse().unwrap(),
    };
    NetworkAction::SetRecords {
        item: "web1".parse().unwrap(),
        test,
        records: names.iter().map(record).collect(),
    }
}

fn restore() -> NetworkAction {
    NetworkAction::RestoreRecords { item: "web1".parse().unwrap() }
}

const WEB1: &str = "web1.shop.example.";

/// R-NET-12: switched, found done the second time, restored as it was with all addresses and its TTL, and not set again by who comes late.
#[tokio::test(flavor = "multi_thread")]
async fn names_are_switched_and_on_roll_back_they_are_what_they_were() {
    let bench = Bench::new("ns1").await;
    let run = Uuid::new_v4();
    let names = [WEB1, "shared.shop.example", "new.shop.example"];
    let expected = [
        "web1.shop.example. [10.1.0.11] -> [10.2.0.11]",
        "shared.shop.example. [10.1.0.21, 10.1.0.22] -> [10.2.0.11]",
        "new.shop.example. [] -> [10.2.0.11]",
    ];
    assert_eq!(bench.done(run, set(&names)).await.unwrap(), expected);
    for name in names {
        assert_eq!(bench.named.says(name), ["30 10.2.0.11"]);
    }
    let serial = bench.named.serial();
    assert_eq!(bench.done(run, set(&names)).await.unwrap(), expected);
    assert_eq!(bench.named.serial(), serial, "nothing was to be done");

    let restored = bench.done(run, restore()).await.unwrap();
    assert_eq!(restored[2], "web1.shop.example. [10.2.0.11] -> [10.1.0.11]");
    let as_before = || {
        assert_eq!(bench.named.says(WEB1), ["90 10.1.0.11"]);
        assert_eq!(bench.named.says("shared.shop.example"), ["90 10.1.0.21", "90 10.1.0.22"]);
        assert_eq!(bench.named.says("new.shop.example"), [""; 0]);
    };
    as_before();
    assert_eq!(bench.done(run, restore()).await.unwrap().len(), 3, "once more");
    assert_eq!(bench.done(run, set(&names)).await.unwrap_err().reason, "RECORDS_RESTORED");
    as_before();
}

/// A run that has ended sets nothing any more, and its zone can be deleted.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_has_ended_holds_no_zone_and_sets_no_name() {
    let bench = Bench::new("ns1").await;
    let run = Uuid::new_v4();
    bench.done(run, set(&[WEB1])).await.unwrap();
    let zone = ZONE.parse().unwrap();
    let refused = bench.api.delete_zone(&user(), &zone, Uuid::new_v4()).await;
    assert_eq!(refused.unwrap_err().reason, "ZONE_IN_USE");
    assert!(matches!(bench.perform(run, NetworkAction::ReleaseRun).await, Outcome::Succeeded(_)));
    assert_eq!(bench.done(run, set(&[WEB1])).await.unwrap_err().reason, "RECORDS_RESTORED");
    bench.api.delete_zone(&user(), &zone, Uuid::new_v4()).await.unwrap();
}

/// "A test never touches production": by the zone as it is on record, whatever the task says of it.
#[tokio::test(flavor = "multi_thread")]
async fn r_net_12_a_test_writes_to_zones_for_tests_only_and_a_failover_never_does() {
    let bench = Bench::new("ns1").await;
    let serial = bench.named.serial();
    use ZonePurpose::{Production, Test};
    let tested = "web1.test.shop.example";
    let forbidden = [
        set_in(ZONE, Production, true, &[WEB1]),
        set_in(ZONE, Test, true, &[WEB1]),
        set_in("test.shop.example", Test, true, &[WEB1]),
        set_in("test.shop.example", Test, false, &[tested]),
        set_in("test.shop.example", Production, false, &[tested]),
    ];
    for action in forbidden {
        let refused = bench.done(Uuid::new_v4(), action.clone()).await.unwrap_err();
        assert_eq!(refused.reason, "ZONE_OF_OTHER_PURPOSE", "{action:?}");
    }
    assert_eq!(
        (bench.named.serial(), bench.named.says(tested)),
        (serial.clone(), vec!["90 10.1.0.11".to_owned()])
    );
    let run = Uuid::new_v4();
    bench.done(run, set_in("test.shop.example", Test, true, &[tested])).await.unwrap();
    assert_eq!(bench.named.says(tested), ["30 10.2.0.11"]);
    bench.done(run, restore()).await.unwrap();
    assert_eq!((bench.named.says(tested), bench.named.serial()), (vec!["90 10.1.0.11".to_owned()], serial));
}

/// Each refusal says what to do, changes nothing, and tells no key.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_refuses_is_told_with_what_to_do() {
    let rows = [
        ("wrong-key", "DNS_KEY_REFUSED"),
        ("unknown-key", "DNS_KEY_REFUSED"),
        ("no-key", "DNS_KEY_UNUSABLE"),
        ("bad-key", "DNS_KEY_UNUSABLE"),
    ];
    for (server, reason) in rows {
        let bench = Bench::new(server).await;
        let Outcome::Failed(problem) = bench.perform(Uuid::new_v4(), set(&[WEB1])).await else {
            panic!("{server}")
        };
        assert_eq!(problem.reason, reason, "{server}: {problem:?}");
        let told = format!("{problem:?}");
        assert!(
            !problem.remedy.is_empty() && !told.contains(SECRET) && !told.contains("not!base64"),
            "{told}"
        );
        assert_eq!(bench.named.says(WEB1), ["90 10.1.0.11"]);
    }
    let bench = Bench::new("ns1").await;
    for (zone, name, reason) in [
        ("frozen.example", "web1.frozen.example", "DNS_REFUSED"),
        ("elsewhere.example", "web1.elsewhere.example", "DNS_REFUSED"),
        (ZONE, "www.shop.example", "RECORD_IS_ALIAS"),
    ] {
        if zone != ZONE {
            bench.zone(zone, "ns1", ZonePurpose::Production).await.unwrap();
        }
        let action = set_in(zone, ZonePurpose::Production, false, &[name]);
        let Outcome::Failed(problem) = bench.perform(Uuid::new_v4(), action).await else { panic!("{zone}") };
        assert_eq!(problem.reason, reason, "{problem:?}");
    }
    // One that cannot be set keeps the others from nothing.
    let run = Uuid::new_v4();
    let refused = bench.done(run, set(&["www.shop.example", WEB1])).await.unwrap_err();
    assert_eq!(
        (refused.reason.as_str(), bench.named.says(WEB1)),
        ("RECORD_IS_ALIAS", vec!["30 10.2.0.11".to_owned()])
    );
}

/// A server that is down is asked again later; that nobody answers is no answer (invariant 16).
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_answer_is_asked_again() {
    let bench = Bench::new("ns1").await;
    bench.named.kill();
    let Outcome::Retry(problem) = bench.perform(Uuid::new_v4(), set(&[WEB1])).await else { panic!() };
    assert_eq!(problem.reason, "DNS_NO_ANSWER");
}

/// What an attempt that was cut off has done or not done, the next one finds out; what was before the run is what comes back.
#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_is_cut_off_before_or_behind_the_update_is_taken_up() {
    for trouble in [Trouble::Lost, Trouble::AnswerLost] {
        let bench = Bench::new("way").await;
        let run = Uuid::new_v4();
        bench.way.trouble(trouble.clone());
        let Outcome::Retry(problem) = bench.perform(run, set(&[WEB1])).await else { panic!("{trouble:?}") };
        assert_eq!(problem.reason, "DNS_NO_ANSWER");
        let was_done = matches!(trouble, Trouble::AnswerLost);
        assert_eq!(bench.named.says(WEB1), [if was_done { "30 10.2.0.11" } else { "90 10.1.0.11" }]);
        // Taken back at once, without another attempt, and from another one.
        let abandoned = Uuid::new_v4();
        if !was_done {
            bench.way.trouble(trouble.clone());
            assert!(bench.done(abandoned, set(&[WEB1])).await.is_err());
            bench.done(abandoned, restore()).await.unwrap();
            assert_eq!(bench.named.says(WEB1), ["90 10.1.0.11"]);
        }
        assert_eq!(
            bench.done(run, set(&[WEB1])).await.unwrap(),
            ["web1.shop.example. [10.1.0.11] -> [10.2.0.11]"],
            "{trouble:?}"
        );
        bench.way.trouble(trouble.clone());
        assert!(bench.done(run, restore()).await.is_err());
        bench.done(run, restore()).await.unwrap();
        assert_eq!(bench.named.says(WEB1), ["90 10.1.0.11"]);
    }
}

/// Whoever else writes to the zone is neither undone unseen, nor by a roll-back.
#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_writes_meanwhile_is_kept() {
    let bench = Bench::new("way").await;
    let run = Uuid::new_v4();
    bench.way.trouble(Trouble::Overtaken { name: WEB1, address: "10.9.9.9" });
    let done = bench.done(run, set(&[WEB1])).await.unwrap();
    assert_eq!(
        done,
        ["web1.shop.example. [10.9.9.9] -> [10.2.0.11]"],
        "what is on record is what was really before"
    );
    bench.named.somebody_sets(WEB1, "10.8.8.8");
    let refused = bench.done(run, restore()).await.unwrap_err();
    assert_eq!(refused.reason, "RECORD_CHANGED_BY_OTHERS");
    assert!(refused.remedy.contains("10.9.9.9"), "{}", refused.remedy);
    assert_eq!(bench.named.says(WEB1), ["90 10.8.8.8"]);
}

/// R-NET-12: what is planned is what is on record for the items of the run, and everything wrong with a zone or a name is told.
#[tokio::test(flavor = "multi_thread")]
async fn zones_and_names_are_listed_planned_with_and_deleted() {
    let bench = Bench::new("ns1").await;
    let page = || PageRequest { size: 100, after: None };
    for name in [WEB1, "web1.test.shop.example"] {
        bench.name(name).await.unwrap();
    }
    let reasons =
        |error: ApiError| error.problems.into_iter().map(|p| p.reason.to_string()).collect::<Vec<_>>();
    assert_eq!(reasons(bench.name(WEB1).await.unwrap_err()), ["NAME_TAKEN"]);
    assert_eq!(reasons(bench.name("web1.nowhere.example").await.unwrap_err()), ["ZONE_NOT_FOUND"]);
    let again = bench.zone(ZONE, "ns9", ZonePurpose::Test).await.unwrap_err();
    assert_eq!(reasons(again), ["DNS_SERVER_NOT_CONFIGURED", "ZONE_EXISTS"]);
    let first = bench.api.zones(PageRequest { size: 1, after: None }).await.unwrap();
    let second = bench.api.zones(PageRequest { size: 1, after: first.next.clone() }).await.unwrap();
    let zones = [&first, &second].map(|page| page.entries[0].zone.name.to_string());
    assert_eq!((zones, second.next), ([ZONE, "test.shop.example."].map(String::from), None));
    let of = |item: &str| Some(item.parse().unwrap());
    assert_eq!(bench.api.records(of("web1"), page()).await.unwrap().entries.len(), 2);
    assert_eq!(bench.api.records(of("db1"), page()).await.unwrap().entries, []);

    let planned = bench.planned(Purpose::Failover).await;
    assert_eq!(planned, ["web1.shop.example. 192.168.50.11 NIC 0 of web1 keeps its address"]);
    let planned = bench.planned(Purpose::Test).await;
    assert_eq!(planned, ["web1.test.shop.example. 192.168.50.11 NIC 0 of web1 keeps its address"]);

    let refused = bench.api.delete_zone(&user(), &ZONE.parse().unwrap(), Uuid::new_v4()).await;
    assert_eq!(refused.unwrap_err().reason, "ZONE_IN_USE");
    bench.api.delete_record(&user(), &WEB1.parse().unwrap(), Uuid::new_v4()).await.unwrap();
    let gone = bench.api.delete_record(&user(), &WEB1.parse().unwrap(), Uuid::new_v4()).await;
    assert_eq!(gone.unwrap_err().reason, "NOT_FOUND");
    bench.api.delete_zone(&user(), &ZONE.parse().unwrap(), Uuid::new_v4()).await.unwrap();
}

impl Bench {
    /// What names of web1 would say after going from alpha to bravo.
    async fn planned(&self, purpose: Purpose) -> Vec<String> {
        let ends = ["sites/alpha/networks/prod", "sites/bravo/networks/prod"];
        for name in ends {
            let network = VmNetwork {
                name: name.parse().unwrap(),
                isolation: Isolation::None,
                addressing: Addressing::Dhcp,
                subnet: "192.168.50.0/24".parse().unwrap(),
                gateway: Some("192.168.50.1".parse().unwrap()),
                pool: None,
                hypervisor_network: "prod".parse().unwrap(),
                isolation_targets: vec![],
                logical_network: None,
                vlan_id: None,
            };
            // Made once for both questions.
            let _ = self.api.create_network(&user(), network, Uuid::new_v4()).await;
        }
        let mapping = Mapping::new(ends[0].parse().unwrap(), ends[1].parse().unwrap());
        let _ = self.api.create_mapping(&user(), mapping, Uuid::new_v4()).await;
        let nic = MachineNic {
            mac: "52:54:00:00:50:11".parse().unwrap(),
            hypervisor_network: Some("prod".parse().unwrap()),
            addresses: vec!["192.168.50.11".parse().unwrap()],
            chosen: None,
        };
        let machine = MachineConnections {
            item: "web1".parse().unwrap(),
            source_site: "alpha".parse().unwrap(),
            target_site: "bravo".parse().unwrap(),
            nics: vec![nic],
        };
        let question = ConnectionQuestion { purpose, machines: vec![machine], neighbours: vec![] };
        let plan = self.api.plan_connections(question).await.unwrap().unwrap();
        let text = |r: understudy_netplan::PlannedRecord| {
            format!("{} {} {}", r.name, r.address.map(|a| a.to_string()).unwrap_or_default(), r.reason)
        };
        plan.records.into_iter().map(text).collect()
    }
}
