//! The libvirt driver on a libvirtd of its own: the conformance suite, and what only the real thing can show.

#[allow(dead_code, reason = "a guest with an agent is found in the lab; tests/lifecycle has that check")]
#[path = "conformance/at_rest.rs"]
mod at_rest;
mod conformance;
mod encrypted;
mod private_libvirtd;

use std::{collections::BTreeSet, net::IpAddr, process::Command, time::Duration};

use conformance::{Bench, KIB, MIB, changed, definition, disk, filling, name, network, open, open_disks};
use private_libvirtd::{run, with_libvirtd};
use understudy_hypervisor::{CheckpointName, Error, ExistingNetworkProbe, Hypervisor, PowerState, Question};
use understudy_ids::Uuid;
use understudy_probe::Probe;

#[test]
fn machine_lifecycle() {
    with_libvirtd("life", |host| async move { conformance::machine_lifecycle(&host).await });
}

/// R-REP-3
#[test]
fn snapshots_of_a_running_machine() {
    with_libvirtd("run", |host| async move { conformance::snapshots_of_a_running_machine(&host).await });
}

/// R-REP-3
#[test]
fn snapshots_of_a_machine_that_is_shut_off() {
    with_libvirtd(
        "off",
        |host| async move { conformance::snapshots_of_a_machine_that_is_shut_off(&host).await },
    );
}

/// R-REP-3
#[test]
fn a_guest_that_cannot_be_brought_to_rest() {
    with_libvirtd(
        "rest",
        |host| async move { conformance::a_guest_that_cannot_be_brought_to_rest(&host).await },
    );
}

/// R-FO-7
#[test]
fn a_machine_is_cut_off() {
    with_libvirtd("cut", |host| async move { conformance::cut_off::a_machine_is_cut_off(&host).await });
}

/// R-FO-7: with a libvirtd that does not answer the machine loses its network, and then its process.
#[test]
fn a_hung_libvirtd_keeps_no_machine_running() {
    with_libvirtd("cuthung", |host| async move {
        let db1 = name("db1");
        host.driver.ensure_test_network(&network("test-lan", 5)).await.unwrap();
        let mut wanted = definition(&host, "db1").await;
        wanted.nic_networks = vec![Some("test-lan".parse().unwrap())];
        host.driver.define(&wanted).await.unwrap();
        host.driver.start(&db1).await.unwrap();
        let links = host.path("links");
        let mut monitor = std::process::Command::new("ip")
            .args(["monitor", "link"])
            .stdout(std::fs::File::create(&links).unwrap())
            .spawn()
            .unwrap();
        let pid = std::fs::read_to_string(host.path("libvirtd.pid")).unwrap();
        run("kill", &["-STOP", pid.trim()]);
        let begun = std::time::Instant::now();
        let cut = host.driver.cut_off(&db1, wanted.uuid).await;
        run("kill", &["-CONT", pid.trim()]);
        monitor.kill().unwrap();
        monitor.wait().unwrap();
        assert!(cut.unwrap(), "it ran");
        assert!(begun.elapsed() < Duration::from_secs(10), "took {:?}", begun.elapsed());
        // It goes on where it was stopped, and has to find out first.
        while host.driver.machine(&db1).await.unwrap().unwrap().power != PowerState::ShutOff {
            assert!(begun.elapsed() < Duration::from_secs(40), "libvirt takes it for running");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let seen = std::fs::read_to_string(&links).unwrap();
        let of_tap: Vec<&str> = seen.lines().filter(|line| line.contains("vnet")).collect();
        let down = of_tap.iter().position(|line| !line.contains("Deleted") && line.contains("state DOWN"));
        let gone = of_tap.iter().position(|line| line.contains("Deleted"));
        assert!(down.is_some() && down < gone, "the cable was not pulled first: {of_tap:#?}");
        host.driver.remove_test_network(&"test-lan".parse().unwrap()).await.unwrap_err();
        host.driver.undefine(&db1).await.unwrap();
        host.driver.remove_test_network(&"test-lan".parse().unwrap()).await.unwrap();
    });
}

/// R-REP-12
#[test]
fn machines_are_cut_at_one_instant() {
    with_libvirtd(
        "joint",
        |host| async move { conformance::joint::machines_are_cut_at_one_instant(&host).await },
    );
}

/// R-REP-12
#[test]
fn a_held_guest_goes_on_by_itself() {
    with_libvirtd(
        "held",
        |host| async move { conformance::joint::a_held_guest_goes_on_by_itself(&host).await },
    );
}

/// R-REP-12: a call that takes effect after its limit, when the snapshot has been given up, leaves no guest held.
#[test]
fn what_is_held_too_late_is_let_go_all_the_same() {
    with_libvirtd("late", |host| async move {
        let db1 = name("db1");
        host.driver.define(&definition(&host, "db1").await).await.unwrap();
        host.driver.start(&db1).await.unwrap();
        for number in 1..=3 {
            let request = understudy_hypervisor::SnapshotRequest {
                machine: db1.clone(),
                disks: vec![disk("vda")],
                checkpoint: understudy_hypervisor::CheckpointName(format!("understudy-db1-1-{number}")),
                base: None,
                quiesce: None,
            };
            let mut prepared = host.driver.prepare_snapshot(&request).await.unwrap();
            let pid = std::fs::read_to_string(host.path("libvirtd.pid")).unwrap().trim().to_owned();
            run("kill", &["-STOP", &pid]);
            let held = prepared.hold(Duration::from_millis(300)).await;
            let goes_on = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(500));
                run("kill", &["-CONT", &pid]);
            });
            assert!(held.is_err(), "libvirtd stood still");
            let _ = prepared.abandon().await;
            goes_on.join().unwrap();
            assert!(!host.is_held(&db1), "held when nobody is left to let it go");
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(!host.is_held(&db1), "held afterwards");
        }
        host.driver.power_off(&db1).await.unwrap();
    });
}

/// R-REP-12
#[test]
fn a_machine_that_is_off_takes_part() {
    with_libvirtd(
        "joff",
        |host| async move { conformance::joint::a_machine_that_is_off_takes_part(&host).await },
    );
}

/// R-REP-12: where agent and guard die together, the agent's next process lets the guest go on; a machine that its operator has suspended
/// stays so, whatever snapshots are made of it.
#[test]
fn who_dies_leaves_no_guest_held_and_an_operators_pause_stays() {
    with_libvirtd("both", |host| async move {
        let (db1, limit) = (name("db1"), Duration::from_secs(60));
        host.driver.define(&definition(&host, "db1").await).await.unwrap();
        host.driver.start(&db1).await.unwrap();
        let request = |number: u64| understudy_hypervisor::SnapshotRequest {
            machine: db1.clone(),
            disks: vec![disk("vda")],
            checkpoint: CheckpointName(format!("understudy-db1-1-{number}")),
            base: None,
            quiesce: None,
        };
        let mut prepared = host.driver.prepare_snapshot(&request(1)).await.unwrap();
        prepared.hold(limit).await.unwrap();
        let state = host.path("state");
        let guards = run("pgrep", &["-f", &format!("hold-guard .*--note {}", state.display())]);
        for pid in guards.split_whitespace() {
            run("kill", &["-9", pid]);
        }
        drop(prepared);
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(host.is_held(&db1), "somebody else let it go, so what follows shows nothing");
        host.another_driver().resume_left_held().await.unwrap();
        assert!(!host.is_held(&db1));

        assert!(host.virsh(&["suspend", "db1"]).0);
        assert_eq!(host.driver.machine(&db1).await.unwrap().unwrap().power, PowerState::Paused);
        let mut prepared = host.driver.prepare_snapshot(&request(2)).await.unwrap();
        prepared.hold(limit).await.unwrap();
        prepared.cut().await.unwrap();
        prepared.release().await.unwrap();
        prepared.open().await.unwrap().close().await.unwrap();
        host.driver.resume_left_held().await.unwrap();
        assert!(host.is_held(&db1), "an operator's pause was ended");
    });
}

/// R-NET-9, R-TF-9
#[test]
fn test_network_lifecycle() {
    with_libvirtd("net", |host| async move {
        conformance::test_network_lifecycle(&host).await;
        let links = run("ip", &["-o", "link"]);
        assert!(!links.contains("ut-") && !links.contains("us-"), "left behind: {links}");
        let jump = host.driver.jump_hint(&"test-shop-lan".parse().unwrap());
        let namespace = jump.rsplit(' ').next().unwrap();
        assert!(!run("ip", &["netns", "list"]).contains(namespace), "left behind: {namespace}");
        assert!(!host.path("state/test-networks/test-shop-lan").exists());
    });
}

/// R-NET-11: DHCP gives the reserved address to its owner and nothing to strangers, DNS knows the name, and a port that
/// is not of the run is noticed. R-TF-9: an outsider on the segment is found by the probe.
#[test]
fn a_test_network_serves_its_own_and_notices_others() {
    with_libvirtd("dhcp", |host| async move {
        let driver = &host.driver;
        let wanted = network("test-lan", 5);
        driver.ensure_test_network(&wanted).await.unwrap();
        let guest = format!("{}-guest", host.namespace);
        run("ip", &["netns", "add", &guest]);
        let cleanup = Namespaces(vec![guest.clone()]);
        run("ip", &["link", "add", "hvt-g", "type", "veth", "peer", "name", "eth0", "netns", &guest]);
        let bridge = run("ip", &["-o", "link", "show", "type", "bridge"]);
        let bridge = bridge.split_whitespace().nth(1).unwrap().trim_end_matches(':').to_owned();
        run("ip", &["link", "set", "hvt-g", "master", &bridge, "up"]);
        run("ip", &["-n", &guest, "link", "set", "eth0", "address", "52:54:00:00:07:01", "up"]);
        let lease = run(
            "ip",
            &[
                "netns",
                "exec",
                &guest,
                "busybox",
                "udhcpc",
                "-i",
                "eth0",
                "-n",
                "-q",
                "-f",
                "-s",
                "/bin/true",
                "-t",
                "5",
            ],
        );
        assert!(lease.contains("10.77.3.40"), "{lease}");
        run("ip", &["-n", &guest, "address", "add", "10.77.3.40/24", "dev", "eth0"]);
        let lookup = run("ip", &["netns", "exec", &guest, "busybox", "nslookup", "web1", "10.77.3.1"]);
        assert!(lookup.contains("10.77.3.40"), "{lookup}");
        let lan = "test-lan".parse().unwrap();
        let limit = Duration::from_secs(3);
        let ask = async |address: &str, probe: &str, limit: Duration| {
            let at = Some((network("test-lan", 5).name, address.parse().unwrap()));
            let kind = probe.parse::<Probe>().unwrap().kind;
            driver.ask(&Question { machine: name("web1"), at, kind }, limit).await.unwrap()
        };
        assert!(ask("10.77.3.40", "ping", limit).await.passed);
        assert!(!ask("10.77.3.41", "ping", Duration::from_secs(1)).await.passed);
        // R-TF-8: a listener that only the test network can reach.
        let closed = ask("10.77.3.40", "tcp:8080", limit).await;
        assert_eq!((closed.passed, closed.seen.as_str()), (false, "connection refused"));
        let _server = page_server(&guest, 8080);
        for (probe, expected) in [
            ("tcp:8080", (true, "connected")),
            ("http:8080/", (true, "HTTP status 200")),
            ("http:8080/,contains=all good", (true, "HTTP status 200, with the text that is wanted")),
            ("http:8080/,contains=all bad", (false, "HTTP status 200, without the text that is wanted")),
            ("http:8080/missing", (false, "HTTP status 404")),
        ] {
            let answer = ask("10.77.3.40", probe, limit).await;
            assert_eq!((answer.passed, answer.seen.as_str()), expected, "{probe}");
        }
        let stranger = driver.probe_isolation(&lan, &[]).await.unwrap_err();
        assert!(stranger.to_string().contains("hvt-g"), "{stranger}");

        // The services survive their process; a definition with another reservation takes effect.
        let again = host.another_driver();
        again.ensure_test_network(&wanted).await.unwrap();
        run("ip", &["-n", &guest, "link", "set", "eth0", "down"]);
        run("ip", &["-n", &guest, "link", "set", "eth0", "address", "52:54:00:00:07:99", "up"]);
        let refused = Command::new("ip")
            .args([
                "netns",
                "exec",
                &guest,
                "busybox",
                "udhcpc",
                "-i",
                "eth0",
                "-n",
                "-q",
                "-f",
                "-s",
                "/bin/true",
                "-t",
                "2",
                "-T",
                "1",
            ])
            .output()
            .unwrap();
        assert!(!refused.status.success(), "a stranger was given an address");
        again.remove_test_network(&lan).await.unwrap();
        drop(cleanup);
    });
}

/// Serves a page that says "all good" inside a namespace.
fn page_server(namespace: &str, port: u16) -> PageServer {
    let pages = tempfile::tempdir().unwrap();
    std::fs::write(pages.path().join("index.html"), "<p>all good</p>").unwrap();
    let (port, home) = (port.to_string(), pages.path().to_str().unwrap());
    let arguments = ["netns", "exec", namespace, "busybox", "httpd", "-f", "-p", &port, "-h", home];
    let server = PageServer { process: Command::new("ip").args(arguments).spawn().unwrap(), _pages: pages };
    let listens = || run("ip", &["netns", "exec", namespace, "ss", "-ltn"]).contains(&format!(":{port} "));
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !listens() {
        assert!(std::time::Instant::now() < deadline, "the page server does not listen");
        std::thread::sleep(Duration::from_millis(50));
    }
    server
}

struct PageServer {
    process: std::process::Child,
    _pages: tempfile::TempDir,
}

impl Drop for PageServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Namespaces(Vec<String>);

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.0 {
            let _ = Command::new("ip").args(["netns", "delete", name]).status();
        }
    }
}

/// An outsider that has an address of production's on the segment answers, also when it is the gateway's own.
#[test]
fn an_outsider_on_the_segment_is_found_by_the_probe() {
    with_libvirtd("leak", |host| async move {
        let driver = &host.driver;
        driver.ensure_test_network(&network("test-lan", 5)).await.unwrap();
        // The outsider hides behind the services' own port, as a wrongly bridged uplink would.
        let jump = driver.jump_hint(&"test-lan".parse().unwrap());
        let inside = jump.rsplit(' ').next().unwrap().to_owned();
        let guest = format!("{}-out", host.namespace);
        run("ip", &["netns", "add", &guest]);
        let _cleanup = Namespaces(vec![guest.clone()]);
        let ip = |words: &str| run("ip", &words.split(' ').collect::<Vec<_>>());
        ip(&format!("-n {inside} link set svc0 down"));
        ip(&format!("-n {inside} link set svc0 name under0"));
        ip(&format!("-n {inside} link add svc0 type bridge"));
        ip(&format!("-n {inside} link add leak0 type veth peer name eth0 netns {guest}"));
        for port in ["under0", "leak0"] {
            ip(&format!("-n {inside} link set {port} master svc0 up"));
        }
        ip(&format!("-n {inside} address flush dev under0"));
        ip(&format!("-n {inside} address add 10.77.3.1/24 dev svc0"));
        ip(&format!("-n {inside} link set svc0 up"));
        ip(&format!("-n {guest} address add 10.77.3.200/24 dev eth0"));
        ip(&format!("-n {guest} address add 10.77.3.1/24 dev eth0"));
        ip(&format!("-n {guest} link set eth0 up"));
        let targets: [IpAddr; 3] =
            ["10.77.3.200", "10.77.3.201", "10.77.3.1"].map(|address| address.parse().unwrap());
        let evidence = driver.probe_isolation(&"test-lan".parse().unwrap(), &targets).await.unwrap();
        assert_eq!(evidence.answered, [targets[0], targets[2]]);
        driver.remove_test_network(&"test-lan".parse().unwrap()).await.unwrap();
    });
}

/// After an unclean death of QEMU the bitmaps cannot be trusted: the disk says so instead of leaving changes out. R-TF-2, R-TF-9: from a
/// port on a network that was there before, production is found on the segment and behind the gateway, an address that somebody has is not
/// used, and nothing of the port stays.
#[test]
fn an_existing_network_is_looked_into_and_left_as_it_was() {
    with_libvirtd("port", |host| async move {
        let driver = &host.driver;
        let xml = "<network><name>lab</name><bridge name='hvt-lab' stp='on' delay='0'/></network>";
        std::fs::write(host.path("lab.xml"), xml).unwrap();
        assert!(host.virsh(&["net-define", host.path("lab.xml").to_str().unwrap()]).0);
        let probe = ExistingNetworkProbe {
            network: "lab".parse().unwrap(),
            run: Uuid::from_u128(5),
            mac: "02:75:c0:a8:3c:0c".parse().unwrap(),
            address: [192, 168, 60, 12].into(),
            prefix_len: 24,
            gateway: Some([192, 168, 60, 1].into()),
            targets: ["192.168.50.5", "192.168.50.6"].map(|target| target.parse().unwrap()).to_vec(),
            planned: vec![[192, 168, 60, 11].into()],
        };
        let inactive = driver.probe_existing_network(&probe).await;
        assert!(matches!(inactive, Err(Error::WrongState { .. })), "{inactive:?}");
        let unknown = ExistingNetworkProbe { network: "nowhere".parse().unwrap(), ..probe.clone() };
        let unknown = driver.probe_existing_network(&unknown).await;
        assert!(matches!(unknown, Err(Error::NotFound { .. })), "{unknown:?}");
        assert!(host.virsh(&["net-start", "lab"]).0);

        let answered = async || driver.probe_existing_network(&probe).await.unwrap().answered;
        assert_eq!(answered().await, [] as [IpAddr; 0]);
        assert_eq!(answered().await, [] as [IpAddr; 0], "it is found again");
        let ip = |words: &str| run("ip", &words.split(' ').collect::<Vec<_>>());
        let names = ["router", "prod"].map(|part| format!("{}-{part}", host.namespace));
        let [router, prod] = &names;
        let _cleanup = Namespaces(names.to_vec());
        for (namespace, port) in [(router, "hvt-r"), (prod, "hvt-p")] {
            ip(&format!("netns add {namespace}"));
            ip(&format!("link add {port} type veth peer name eth0 netns {namespace}"));
            ip(&format!("-n {namespace} link set eth0 up"));
        }
        ip("link set hvt-r master hvt-lab up");
        ip(&format!("-n {router} address add 192.168.60.1/24 dev eth0"));
        // Production behind the gateway.
        ip(&format!("link set hvt-p netns {router}"));
        ip(&format!("-n {router} address add 192.168.50.1/24 dev hvt-p"));
        ip(&format!("-n {router} link set hvt-p up"));
        ip(&format!("-n {prod} address add 192.168.50.5/24 dev eth0"));
        ip(&format!("-n {prod} route add default via 192.168.50.1"));
        run("ip", &["netns", "exec", router, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1"]);
        assert_eq!(answered().await, [probe.targets[0]], "production is reached through the gateway");
        run("ip", &["netns", "exec", router, "sysctl", "-q", "-w", "net.ipv4.ip_forward=0"]);
        assert_eq!(answered().await, [] as [IpAddr; 0], "a gateway that does not forward leads nowhere");
        ip(&format!("-n {router} address add 192.168.50.6/24 dev eth0"));
        assert_eq!(answered().await, [probe.targets[1]], "production is on the segment");
        ip(&format!("-n {router} address add 192.168.60.11/24 dev eth0"));
        let taken = driver.probe_existing_network(&probe).await.unwrap_err();
        assert!(
            matches!(taken, Error::Conflict { .. }) && taken.to_string().contains("192.168.60.11"),
            "{taken}"
        );

        // Another run's port on the same network is another one, and goes alone.
        let other = ExistingNetworkProbe {
            run: Uuid::from_u128(6),
            address: [192, 168, 60, 13].into(),
            mac: "02:75:c0:a8:3c:0d".parse().unwrap(),
            planned: vec![],
            ..probe.clone()
        };
        driver.probe_existing_network(&other).await.unwrap();
        let ports = || {
            run("ip", &["-o", "link", "show", "master", "hvt-lab"])
                .lines()
                .filter(|line| line.contains(": up-"))
                .count()
        };
        for (run, left) in [(probe.run, 1), (probe.run, 1), (other.run, 0)] {
            driver.remove_probe_port(&probe.network, run).await.unwrap();
            assert_eq!(ports(), left);
        }
        let namespaces = run("ip", &["netns", "list"]);
        let digest = Uuid::new_v5(&Uuid::NAMESPACE_OID, host.path("state").as_os_str().as_encoded_bytes());
        let ours = format!("-{}", &digest.simple().to_string()[..8]);
        let left: Vec<&str> = namespaces
            .lines()
            .filter(|line| line.starts_with("understudy-up-") && line.contains(&ours))
            .collect();
        assert_eq!(left, [""; 0]);
        assert!(host.virsh(&["net-info", "lab"]).0, "the network itself is as it was");
        host.virsh(&["net-destroy", "lab"]);
    });
}

#[test]
fn change_tracking_is_not_believed_after_qemu_was_killed() {
    with_libvirtd("kill", |host| async move {
        let db1 = name("db1");
        host.driver.define(&definition(&host, "db1").await).await.unwrap();
        host.driver.start(&db1).await.unwrap();
        open(&host.driver, "db1", 1, None).await.close().await.unwrap();
        host.driver.power_off(&db1).await.unwrap();
        host.driver.start(&db1).await.unwrap();
        host.guest_write(&db1, &disk("vda"), MIB, 1).await;
        let pid = std::fs::read_to_string(host.path("run/qemu/db1.pid")).unwrap();
        run("kill", &["-9", pid.trim()]);
        while host.driver.machine(&db1).await.unwrap().unwrap().power != PowerState::ShutOff {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let off = open(&host.driver, "db1", 2, Some(1)).await;
        assert!(off.disks().iter().all(|disk| !disk.changes_known));
        assert_eq!(filling(&off.disks()[0], MIB).await, 1);
        off.close().await.unwrap();

        host.driver.start(&db1).await.unwrap();
        host.guest_write(&db1, &disk("vda"), 2 * MIB, 2).await;
        let lost = open(&host.driver, "db1", 3, Some(1)).await;
        assert!(lost.disks().iter().all(|disk| !disk.changes_known));
        lost.close().await.unwrap();
        let found = open(&host.driver, "db1", 4, Some(2)).await;
        assert_eq!(changed(&found.disks()[0]).await, BTreeSet::from([2 * MIB]));
        found.close().await.unwrap();
        let all = host.driver.checkpoints(&db1).await.unwrap().into_iter().collect();
        host.driver.delete_checkpoints(&db1, &all).await.unwrap();
        assert_eq!(host.driver.checkpoints(&db1).await.unwrap(), [] as [CheckpointName; 0]);
    });
}

/// A disk whose bitmap is gone says so alone; the other one, an overlay as a failed-over machine has, is still read by its
/// changes, and what lies in its backing file is seen through it.
#[test]
fn one_disk_without_its_bitmap_does_not_spoil_the_other() {
    with_libvirtd("one", |host| async move {
        let db1 = name("db1");
        let definition = definition(&host, "db1").await;
        let overlay = host.path("disks/db1-vda.qcow2");
        let below = host.path("disks/point.qcow2");
        let (overlay, below) = (overlay.to_str().unwrap(), below.to_str().unwrap());
        run("qemu-img", &["create", "-q", "-f", "qcow2", below, "16M"]);
        run("qemu-io", &["-c", "write -P 5 5M 64k", below]);
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", below, overlay]);
        host.driver.define(&definition).await.unwrap();
        host.driver.start(&db1).await.unwrap();
        open(&host.driver, "db1", 1, None).await.close().await.unwrap();
        host.driver.power_off(&db1).await.unwrap();
        let second = host.path("disks/db1-vdb.qcow2");
        run("qemu-img", &["bitmap", "--remove", second.to_str().unwrap(), "understudy-db1-1-1"]);
        host.driver.start(&db1).await.unwrap();
        host.guest_write(&db1, &disk("vda"), MIB, 1).await;
        let snapshot = open(&host.driver, "db1", 2, Some(1)).await;
        assert_eq!(changed(&snapshot.disks()[0]).await, BTreeSet::from([MIB]));
        assert_eq!(filling(&snapshot.disks()[0], 5 * MIB).await, 5);
        assert!(!snapshot.disks()[1].changes_known);
        snapshot.close().await.unwrap();
        host.driver.power_off(&db1).await.unwrap();
        let off = open(&host.driver, "db1", 3, Some(1)).await;
        assert_eq!(changed(&off.disks()[0]).await, BTreeSet::from([MIB]));
        assert_eq!(filling(&off.disks()[0], 5 * MIB).await, 5);
        assert!(!off.disks()[1].changes_known);
        off.close().await.unwrap();
    });
}

/// A disk that cannot hold a bitmap is copied in full beside one that can.
#[test]
fn a_raw_disk_is_read_without_change_tracking() {
    with_libvirtd("raw", |host| async move {
        let db1 = name("db1");
        host.driver.define(&definition(&host, "db1").await).await.unwrap();
        let raw = host.path("disks/raw.img");
        run("qemu-img", &["create", "-q", "-f", "raw", raw.to_str().unwrap(), "16M"]);
        let (_, xml) = host.virsh(&["dumpxml", "db1"]);
        let second = xml.rfind("type='qcow2'").unwrap();
        let xml = format!("{}{}", &xml[..second], xml[second..].replacen("type='qcow2'", "type='raw'", 1));
        let xml = xml.replace(host.path("disks/db1-vdb.qcow2").to_str().unwrap(), raw.to_str().unwrap());
        std::fs::write(host.path("raw.xml"), xml).unwrap();
        let (ok, text) = host.virsh(&["define", host.path("raw.xml").to_str().unwrap()]);
        assert!(ok, "{text}");
        host.driver.start(&db1).await.unwrap();
        open(&host.driver, "db1", 1, None).await.close().await.unwrap();
        host.guest_write(&db1, &disk("vda"), MIB, 1).await;
        host.guest_write(&db1, &disk("vdb"), MIB, 2).await;
        let second = open(&host.driver, "db1", 2, Some(1)).await;
        assert_eq!(changed(&second.disks()[0]).await, BTreeSet::from([MIB]));
        assert!(!second.disks()[1].changes_known);
        assert_eq!(filling(&second.disks()[1], MIB).await, 2);
        second.close().await.unwrap();
    });
}

/// A snapshot whose agent died is ended by the next one; a backup that is not ours is left alone.
#[test]
fn what_a_dead_agent_left_is_cleaned_up_and_a_stranger_is_not_disturbed() {
    with_libvirtd("dead", |host| async move {
        let db1 = name("db1");
        host.driver.define(&definition(&host, "db1").await).await.unwrap();
        host.driver.start(&db1).await.unwrap();
        std::mem::forget(open(&host.driver, "db1", 1, None).await);
        let another = host.another_driver();
        let second = open(&another, "db1", 2, Some(1)).await;
        assert_eq!(changed(&second.disks()[0]).await, BTreeSet::new());
        second.close().await.unwrap();
        assert!(!host.path("state/snapshots/db1").exists(), "scratch files are left");
        assert_eq!(std::fs::read_dir(host.path("state/nbd")).unwrap().count(), 0, "a socket is left");

        let xml = "<domainbackup mode='pull'><server transport='unix' socket='/tmp/hvt-foreign.sock'/></domainbackup>";
        std::fs::write(host.path("foreign.xml"), xml).unwrap();
        let (ok, text) = host.virsh(&["backup-begin", "db1", host.path("foreign.xml").to_str().unwrap()]);
        assert!(ok, "{text}");
        let request = understudy_hypervisor::SnapshotRequest {
            machine: db1.clone(),
            disks: vec![disk("vda")],
            checkpoint: CheckpointName("understudy-x".to_owned()),
            base: None,
            quiesce: None,
        };
        assert!(matches!(another.open_snapshot(&request).await, Err(Error::WrongState { .. })));
        assert!(host.virsh(&["backup-dumpxml", "db1"]).0, "the stranger's backup was ended");
        host.virsh(&["domjobabort", "db1"]);
    });
}

/// R-PF: a guest that does not react – this one has no system – is reported as running, not taken for off; and what a
/// snapshot costs the cycle is known.
#[test]
fn a_guest_that_ignores_the_power_button_still_runs() {
    with_libvirtd("acpi", |host| async move {
        let db1 = name("db1");
        host.driver.define(&definition(&host, "db1").await).await.unwrap();
        host.driver.start(&db1).await.unwrap();
        assert!(!host.driver.shut_down(&db1, Duration::from_millis(300)).await.unwrap());
        assert_eq!(host.driver.machine(&db1).await.unwrap().unwrap().power, PowerState::Running);
        for number in 1..=3 {
            let begun = std::time::Instant::now();
            let snapshot = open(&host.driver, "db1", number, number.checked_sub(1)).await;
            let opened = begun.elapsed();
            snapshot.close().await.unwrap();
            println!("snapshot {number}: open {opened:?}, close {:?}", begun.elapsed() - opened);
        }
        host.driver.power_off(&db1).await.unwrap();
    });
}

/// libvirtd may be restarted at any time: machines run on, calls meanwhile say that they do not know, later ones work.
#[test]
fn a_restart_of_libvirtd_is_survived() {
    with_libvirtd("again", |mut host| async move {
        let db1 = name("db1");
        host.driver.define(&definition(&host, "db1").await).await.unwrap();
        host.driver.start(&db1).await.unwrap();
        host.driver.ensure_test_network(&network("test-lan", 5)).await.unwrap();
        open(&host.driver, "db1", 1, None).await.close().await.unwrap();
        host.kill_daemon();
        assert!(matches!(host.driver.machine(&db1).await, Err(Error::Unknown { .. })));
        host.start_daemon();
        assert_eq!(host.driver.machine(&db1).await.unwrap().unwrap().power, PowerState::Running);
        host.driver.ensure_test_network(&network("test-lan", 5)).await.unwrap();
        host.driver.remove_test_network(&"test-lan".parse().unwrap()).await.unwrap();
        host.guest_write(&db1, &disk("vdb"), 64 * KIB, 9).await;
        let after = open(&host.driver, "db1", 2, Some(1)).await;
        assert_eq!(changed(&after.disks()[1]).await, BTreeSet::from([64 * KIB]));
        after.close().await.unwrap();
    });
}

/// A daemon that does not answer costs the time limit, and the answer is that it is not known.
#[test]
fn a_hung_libvirtd_is_unknown_not_off() {
    with_libvirtd("hung", |host| async move {
        let mut config = understudy_hypervisor::libvirt::Config::new(
            format!("qemu:///system?socket={}", host.path("run/libvirt-sock").display()),
            host.path("state"),
            host.path("console"),
        );
        config.call_timeout = Duration::from_secs(1);
        let impatient = understudy_hypervisor::libvirt::LibvirtHypervisor::new(config);
        impatient.inventory().await.unwrap();
        let pid = std::fs::read_to_string(host.path("libvirtd.pid")).unwrap();
        run("kill", &["-STOP", pid.trim()]);
        let answer = impatient.inventory().await;
        run("kill", &["-CONT", pid.trim()]);
        assert!(matches!(answer, Err(Error::Unknown { .. })), "{answer:?}");
        impatient.inventory().await.unwrap();
    });
}

/// R-TF-1, R-REP-3: agents ask for the host's inventory all the time, also while a snapshot is being opened. Where QEMU itself made the
/// scratch files, such a question ended it with an assertion now and then, and the guest with it.
#[test]
fn asking_for_the_inventory_while_snapshots_are_opened_does_not_harm_the_machine() {
    with_libvirtd("ask", |host| async move {
        let db1 = name("db1");
        host.driver.define(&definition(&host, "db1").await).await.unwrap();
        host.driver.start(&db1).await.unwrap();
        let asking: Vec<_> = (0..3)
            .map(|_| {
                let driver = host.another_driver();
                tokio::spawn(async move {
                    loop {
                        driver.inventory().await.unwrap();
                    }
                })
            })
            .collect();
        for number in 1..=40 {
            let base = (number > 1).then(|| number - 1);
            open(&host.driver, "db1", number, base).await.close().await.unwrap();
        }
        for task in asking {
            assert!(!task.is_finished(), "an inventory failed");
            task.abort();
        }
        assert_eq!(host.driver.machine(&db1).await.unwrap().unwrap().power, PowerState::Running);
    });
}

/// R-REP-8: a disk that was grown under a running guest is tracked on, over the growth and over the machine's next start; what lies beyond
/// the old end reads as zeros until the guest writes there.
#[test]
fn a_disk_that_grows_while_its_guest_runs_is_tracked_on() {
    with_libvirtd("grow", |host| async move {
        let db1 = name("db1");
        let size = async || host.driver.machine(&db1).await.unwrap().unwrap().hardware.disks[0].size_bytes;
        host.driver.define(&definition(&host, "db1").await).await.unwrap();
        host.driver.start(&db1).await.unwrap();
        host.guest_write(&db1, &disk("vda"), 2 * MIB, 9).await;
        open(&host.driver, "db1", 1, None).await.close().await.unwrap();
        host.guest_write(&db1, &disk("vda"), MIB, 1).await;
        let (ok, text) = host.virsh(&["blockresize", "db1", "vda", "32M"]);
        assert!(ok, "{text}");
        assert_eq!(size().await, 32 * MIB);
        host.guest_write(&db1, &disk("vda"), 20 * MIB, 2).await;
        let grown = open(&host.driver, "db1", 2, Some(1)).await;
        assert_eq!((grown.disks()[0].size, grown.disks()[1].size), (32 * MIB, 16 * MIB));
        assert_eq!(changed(&grown.disks()[0]).await, BTreeSet::from([MIB, 20 * MIB]));
        assert_eq!(filling(&grown.disks()[0], 20 * MIB).await, 2);
        assert_eq!(filling(&grown.disks()[0], 31 * MIB).await, 0);
        grown.close().await.unwrap();
        host.driver.power_off(&db1).await.unwrap();
        assert_eq!(size().await, 32 * MIB);
        let off = open(&host.driver, "db1", 3, Some(1)).await;
        assert_eq!(changed(&off.disks()[0]).await, BTreeSet::from([MIB, 20 * MIB]));
        off.close().await.unwrap();
    });
}

/// R-REP-8: a disk that was plugged into a running guest is not known to older checkpoints, and a disk that was taken away is named by them.
/// Neither spoils the change tracking of the others, nor keeps checkpoints from being deleted.
#[test]
fn disks_that_come_and_go_do_not_spoil_the_others() {
    with_libvirtd("plug", |host| async move {
        let db1 = name("db1");
        host.driver.define(&definition(&host, "db1").await).await.unwrap();
        host.driver.start(&db1).await.unwrap();
        open(&host.driver, "db1", 1, None).await.close().await.unwrap();
        host.guest_write(&db1, &disk("vda"), MIB, 1).await;
        let third = host.disk_file("db1-vdc", 16 * MIB).await;
        let third = third.to_str().unwrap();
        let attach =
            ["attach-disk", "db1", third, "vdc", "--driver", "qemu", "--subdriver", "qcow2", "--persistent"];
        let (ok, text) = host.virsh(&attach);
        assert!(ok, "{text}");
        let machine = host.driver.machine(&db1).await.unwrap().unwrap();
        assert_eq!(machine.hardware.disks.len(), 3);

        // Not asked for, the new disk changes nothing for the others.
        let without = open(&host.driver, "db1", 2, Some(1)).await;
        assert_eq!(changed(&without.disks()[0]).await, BTreeSet::from([MIB]));
        without.close().await.unwrap();
        // Asked for, it alone is not tracked since then.
        let all = ["vda", "vdb", "vdc"];
        let with = open_disks(&host.driver, "db1", &all, 3, Some(1)).await;
        assert_eq!(changed(&with.disks()[0]).await, BTreeSet::from([MIB]));
        let known: Vec<bool> = with.disks().iter().map(|disk| disk.changes_known).collect();
        assert_eq!(known, [true, true, false]);
        with.close().await.unwrap();
        let next = open_disks(&host.driver, "db1", &all, 4, Some(3)).await;
        assert!(next.disks().iter().all(|disk| disk.changes_known), "the new disk is tracked from then on");
        next.close().await.unwrap();
        host.driver.power_off(&db1).await.unwrap();

        let (ok, text) = host.virsh(&["detach-disk", "db1", "vdb", "--config"]);
        assert!(ok, "{text}");
        let left = ["vda", "vdc"];
        let off = open_disks(&host.driver, "db1", &left, 5, Some(3)).await;
        assert!(off.disks().iter().all(|disk| disk.changes_known));
        off.close().await.unwrap();
        host.driver.start(&db1).await.unwrap();
        host.guest_write(&db1, &disk("vda"), 3 * MIB, 3).await;
        let since = CheckpointName("understudy-db1-1-5".to_owned());
        assert_eq!(host.driver.changed_bytes(&db1, &since).await.unwrap(), Some(64 * KIB));
        let running = open_disks(&host.driver, "db1", &left, 6, Some(5)).await;
        assert_eq!(changed(&running.disks()[0]).await, BTreeSet::from([3 * MIB]));
        running.close().await.unwrap();
        let old = [1, 2, 3, 4, 5].map(|n| CheckpointName(format!("understudy-db1-1-{n}"))).into();
        host.driver.delete_checkpoints(&db1, &old).await.unwrap();
        assert_eq!(host.driver.checkpoints(&db1).await.unwrap().len(), 1);
        host.guest_write(&db1, &disk("vda"), 4 * MIB, 4).await;
        let last = open_disks(&host.driver, "db1", &left, 7, Some(6)).await;
        assert_eq!(changed(&last.disks()[0]).await, BTreeSet::from([4 * MIB]));
        last.close().await.unwrap();
    });
}
