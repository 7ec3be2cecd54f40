//! R-REP-10: what leaves the source is encrypted, and everything about replication is as it is without.

use std::{
    process::Command,
    time::{Duration, SystemTime},
};

use understudy_ids::PointSeq;
use understudy_pki::Identity;
use understudy_replica_store::{Manifest, Seal};
use understudy_replication::ReplicationSettings;
use understudy_replication_agent::tasks::TaskError;
use understudy_replication_api::{
    Action, AgentTaskResult,
    keys::{GetSeal, Unlock},
};
use understudy_sealing::{DiskCipher, ItemSecret, PrivateKey, place};

use crate::harness::{BLOCK, World, disk, item, machine, wait};

const SHORT: Duration = Duration::from_millis(150);

/// Somebody with a certificate and its private key, made by OpenSSL.
pub struct Holder {
    pub certificate: String,
    pub key: String,
}

impl Holder {
    pub fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join("certificate"), dir.path().join("key"));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(["-subj", &format!("/CN={name}"), "-days", "9", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let read = |path| std::fs::read_to_string(path).unwrap();
        Self { certificate: read(certificate), key: read(key) }
    }
}

fn protect(world: &World, holders: &[&Holder]) {
    let prepare = Action::PrepareReplica { disks: world.sizes(), retention: Default::default() };
    world.bravo.twice(1, world.run, prepare);
    let certificates = holders.iter().map(|holder| holder.certificate.clone()).collect();
    world.alpha.twice(1, world.run, {
        let settings = ReplicationSettings { encrypt_for: certificates, ..ReplicationSettings::default() };
        world.replicate_with(settings, &world.bravo, SHORT, &["vda", "vdb"])
    });
}

fn seal(world: &World, seq: u64) -> Seal {
    let path = world.bravo.dir.join(format!("store/items/web1/points/{seq}/manifest.json"));
    let manifest: Manifest = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    manifest.seal.expect("the point is encrypted")
}

/// What the holder of a private key reads of a point.
fn opened(world: &World, seq: u64, name: &str, holder: &Holder) -> Vec<u8> {
    let seal = seal(world, seq);
    let key = PrivateKey::from_pem(&holder.key).unwrap();
    let secret = seal.key.unwrap(&key, std::time::SystemTime::now().into()).unwrap();
    let cipher = DiskCipher::new(&seal.disks[&disk(name)].open(&secret.passphrase()).unwrap());
    let mut content = world.bravo.content(seq, name);
    for (block, part) in (0..).zip(content.chunks_mut(BLOCK as usize)) {
        if part.iter().any(|byte| *byte != 0) {
            cipher.decrypt(place(block), part);
        }
    }
    content
}

fn assert_is_the_machine(world: &World, seq: u64, holder: &Holder) {
    for (name, content) in &world.model.disks {
        assert!(opened(world, seq, name, holder) == *content, "point {seq} {name} is not the machine");
    }
}

/// Full copy, changes only, a killed agent, the last delta and its comparison: as ever, and nothing of it can be read at the target.
#[test]
fn r_rep_10_points_are_the_machine_to_the_holder_of_a_key_and_noise_to_the_target() {
    let mut world = World::new(8);
    let (first, second) = (Holder::new("first"), Holder::new("second"));
    protect(&world, &[&first, &second]);
    wait("the first point", || Some(()).filter(|()| world.bravo.latest() >= 1));
    assert_is_the_machine(&world, 1, &first);
    assert_is_the_machine(&world, 1, &second);
    assert!(!world.model.is_at(&world.bravo, 1));
    let known = seal(&world, 1);
    for _ in 0..2 {
        let passed = world.bravo.link.passed();
        world.model.write(&world.alpha, 20);
        let seq = world.next_point();
        assert_is_the_machine(&world, seq, &second);
        assert!(world.bravo.link.passed() - passed < 8 << 20, "more than the changes was sent");
    }
    world.alpha.kill_agent();
    world.model.write(&world.alpha, 10);
    world.alpha.start_agent();
    let seq = world.next_point();
    assert_is_the_machine(&world, seq, &first);
    assert_eq!(seal(&world, seq), known, "the key outlives the agent");

    let grace = Duration::from_secs(5);
    let off = Action::ShutDownMachine { machine: machine(), grace, then_power_off: true };
    world.alpha.perform(1, world.run, off).unwrap();
    let AgentTaskResult::FinalPoint { seq, .. } =
        world.alpha.perform(1, world.run, Action::SyncFinal { machine: machine() }).unwrap()
    else {
        panic!("no final point")
    };
    let at_source = world.alpha.perform(1, world.run, Action::DigestDisks { machine: machine() }).unwrap();
    let at_target = world.bravo.perform(1, world.run, Action::VerifyPoint { seq }).unwrap();
    assert_eq!(at_source, at_target);
    assert_is_the_machine(&world, seq.get(), &first);
}

/// A recipient who is not wanted any more cannot read what comes after; the new key costs a copy, an added recipient none.
#[test]
fn r_rep_10_a_removed_recipient_gets_nothing_more() {
    let mut world = World::new(4);
    let (first, second) = (Holder::new("first"), Holder::new("second"));
    protect(&world, &[&first]);
    wait("the first point", || Some(()).filter(|()| world.bravo.latest() >= 1));
    protect(&world, &[&first, &second]);
    world.model.write(&world.alpha, 5);
    let seq = world.next_point();
    assert_eq!(seal(&world, seq).disks, seal(&world, 1).disks);
    assert_is_the_machine(&world, seq, &second);

    protect(&world, &[&second]);
    world.model.write(&world.alpha, 5);
    let seq = world.next_point();
    assert_is_the_machine(&world, seq, &second);
    let key = PrivateKey::from_pem(&first.key).unwrap();
    assert!(seal(&world, seq).key.unwrap(&key, std::time::SystemTime::now().into()).is_err());

    // And encryption that is switched off is off from the next point on.
    protect(&world, &[]);
    let seq = world.next_point();
    assert!(world.model.is_at(&world.bravo, seq));
    protect(&world, &[&first]);
    let seq = world.next_point();
    assert_is_the_machine(&world, seq, &first);
}

/// What an operator asks who has opened the newest point's secret.
fn request(world: &World, seq: u64, holder: &Holder) -> Unlock {
    let seal = seal(world, seq);
    let key = PrivateKey::from_pem(&holder.key).unwrap();
    let secret = seal.key.unwrap(&key, SystemTime::now().into()).unwrap();
    Unlock {
        item: item(),
        seq: PointSeq::new(seq),
        passphrase: secret.passphrase(),
        recipient: seal.key.holder(&key).unwrap().fingerprint.to_string(),
        ttl: Duration::from_secs(600),
    }
}

/// As the facts tell, which may not know of the point yet.
fn unlocked(world: &World, seq: u64) -> bool {
    let points = world.bravo.item_facts().map(|facts| facts.points).unwrap_or_default();
    let point = points.iter().find(|point| point.seq.get() == seq);
    point.is_some_and(|point| point.encrypted && point.unlocked_until.is_some())
}

/// R-REP-10, R-OPS-1: a key is taken from a person, when it opens the point and its certificate has not ended, and kept for its time only.
#[test]
fn keys_are_lent_by_people_and_only_those_that_open_something() {
    let world = World::new(2);
    let holder = Holder::new("holder");
    protect(&world, &[&holder]);
    wait("a point", || Some(()).filter(|()| world.bravo.latest() >= 1));
    let test = Action::CreateTestMachine {
        seq: Some(PointSeq::new(1)),
        name: "web1-test".parse().unwrap(),
        nics: vec![None],
    };
    let refused = world.bravo.perform(1, world.run, test.clone()).unwrap_err();
    assert!(matches!(&refused, TaskError::Failed(p) if p.reason == "KEY_MISSING"), "{refused:?}");
    assert!(!world.bravo.dir.join("store/items/web1/branches").exists(), "something was made");

    let authority = world.authority();
    let anna =
        world.bravo.key_client(&authority, &"spiffe://understudy/user/anna".parse::<Identity>().unwrap());
    let ask = |change: &dyn Fn(&mut Unlock)| {
        let mut asked = request(&world, 1, &holder);
        change(&mut asked);
        world.bravo.block_on(anna.unlock(asked))
    };
    let wrong = ask(&|asked| asked.passphrase = ItemSecret::generate().unwrap().passphrase()).unwrap_err();
    assert_eq!(wrong.reason, "KEY_WRONG");
    assert!(!wrong.message.contains(request(&world, 1, &holder).passphrase.expose()));
    assert_eq!(ask(&|asked| asked.recipient = "ab".repeat(32)).unwrap_err().reason, "KEY_WRONG");
    assert_eq!(ask(&|asked| asked.seq = PointSeq::new(999)).unwrap_err().reason, "NO_POINT");
    assert_eq!(ask(&|asked| asked.ttl = Duration::from_secs(90_000)).unwrap_err().reason, "INVALID_REQUEST");
    for caller in ["service/orchestrator", "service/job-tracker", "agent/alpha/alpha-h1"] {
        let identity: Identity = format!("spiffe://understudy/{caller}").parse().unwrap();
        let client = world.bravo.key_client(&authority, &identity);
        let refused = world.bravo.block_on(client.unlock(request(&world, 1, &holder))).unwrap_err();
        assert_eq!(refused.kind, understudy_rpc::Kind::PermissionDenied, "{caller}: {refused:?}");
    }
    assert!(!unlocked(&world, 1));

    let asked = GetSeal { item: item(), seq: Some(PointSeq::new(1)) };
    let told = world.bravo.block_on(anna.seal(asked)).unwrap();
    assert_eq!(told.key, Some(seal(&world, 1).key));
    ask(&|_| ()).unwrap();
    wait("facts", || Some(()).filter(|()| unlocked(&world, 1)));
    // The simulated driver has no encryption; the agent has come as far as asking it.
    let refused = world.bravo.perform(1, world.run, test).unwrap_err();
    assert!(matches!(&refused, TaskError::Retry(p) if p.message.contains("libvirt driver")), "{refused:?}");
    world
        .bravo
        .perform(1, world.run, Action::RemoveTestMachine { machine: "web1-test".parse().unwrap() })
        .unwrap();

    ask(&|asked| asked.ttl = Duration::from_secs(1)).unwrap();
    wait("the end of its time", || Some(()).filter(|()| !unlocked(&world, 1)));
    ask(&|_| ()).unwrap();
    wait("facts", || Some(()).filter(|()| unlocked(&world, 1)));
    world.bravo.block_on(anna.lock(&item())).unwrap();
    wait("facts", || Some(()).filter(|()| !unlocked(&world, 1)));
}

/// The clock is the agent's: a certificate that ended since the point was made opens nothing.
#[test]
fn the_key_of_a_certificate_that_has_ended_is_refused() {
    let world = World::new(1);
    let holder = Holder::new("holder");
    protect(&world, &[&holder]);
    wait("a point", || Some(()).filter(|()| world.bravo.latest() >= 1));
    let asked = request(&world, 1, &holder);
    let path = world.bravo.dir.join("store/items/web1/points/1/manifest.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    manifest["seal"]["key"]["recipients"][0]["not_after"] = 1.into();
    std::fs::write(&path, serde_json::to_vec(&manifest).unwrap()).unwrap();
    let anna: Identity = "spiffe://understudy/user/anna".parse().unwrap();
    let anna = world.bravo.key_client(&world.authority(), &anna);
    let refused = world.bravo.block_on(anna.unlock(asked)).unwrap_err();
    assert_eq!(refused.reason, "KEY_EXPIRED");
}
