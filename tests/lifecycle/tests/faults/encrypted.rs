//! Encryption at rest (R-REP-10) on real guests: the target keeps what it cannot read, nothing happens without a key or with a wrong one,
//! and with the key the very same files boot, without being rewritten first.

use std::{
    collections::BTreeSet,
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use nix::unistd::{Whence, lseek};
use understudy_lab::{
    HostName, Stack,
    machine::Machine,
    story::evidence::{
        answers, array, at_least_points, is_silent, item_is, machine_files, newest_run, now_us, outcome,
        point_after, text,
    },
};
use understudy_lifecycle_tests::{
    Scene,
    evidence::{
        FIVE_SECONDS, item_directory, nothing_of_a_test_is_left, protect, run_is, start_run, stored_points,
    },
};

const ALPHA: HostName = HostName::AlphaH1;
const BRAVO: HostName = HostName::BravoH1;
/// With this each record of a guest's journal begins.
const MARKER: &[u8] = b"USJRNL01";

/// Somebody with a certificate, made by OpenSSL.
struct Holder {
    certificate: String,
    key: String,
}

impl Holder {
    fn new(dir: &Path, name: &str) -> Result<Self> {
        let path = |kind: &str| dir.join(format!("{name}.{kind}")).to_string_lossy().into_owned();
        let (certificate, key) = (path("pem"), path("key"));
        let subject = format!("/CN={name}");
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-nodes", "-newkey", "rsa:2048", "-days", "9", "-subj", &subject]);
        let made = openssl.args(["-keyout", &key, "-out", &certificate]).output()?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Ok(Self { certificate, key })
    }
}

#[test]
fn r_rep_10_an_encrypted_replica_boots_with_its_key_and_is_noise_without() {
    let machines = Machine::defaults().unwrap();
    let scene = Scene::set("sealed", &machines).unwrap();
    let stack = &scene.stack;
    let keys = tempfile::tempdir().unwrap();
    let holder = Holder::new(keys.path(), "holder").unwrap();
    let stranger = Holder::new(keys.path(), "stranger").unwrap();
    let policy = ["policy", "create", "sealed", "--interval", "5s", "--keep", "2", "--shutdown-grace", "60s"];
    let policy = [&policy[..], &["--power-off", "--encrypt-for", &holder.certificate]].concat();
    stack.cli().json(&policy).unwrap();
    protect(stack, "web1", "sealed").unwrap();
    protect(stack, "db1", FIVE_SECONDS).unwrap();
    at_least_points(stack, "web1", 2).unwrap();

    the_store_holds_nothing_of_the_guest(stack).unwrap();
    without_the_key_nothing_happens(stack, &stranger).unwrap();
    it_is_tested_with_the_key(stack, &holder).unwrap();
    it_fails_over_and_is_protected_again(stack, &machines[0], &holder).unwrap();
}

/// What is searched for is found where it was not encrypted.
fn the_store_holds_nothing_of_the_guest(stack: &Stack) -> Result<()> {
    let host = stack.lab().host(BRAVO);
    let web1 = holding(&item_directory(&host, "web1"), MARKER)?;
    ensure!(web1.is_empty(), "the guest's journal can be read in {web1:?}");
    ensure!(!holding(&item_directory(&host, "db1"), MARKER)?.is_empty(), "the search finds nothing at all");
    ensure!(holding(&host.agent_state(), b"passphrase")?.is_empty(), "the target has a key");
    Ok(())
}

fn without_the_key_nothing_happens(stack: &Stack, stranger: &Holder) -> Result<()> {
    let before = text(&newest_run(stack, "web1")?, "name");
    let (wrong, cert) = (["--decryption-key", &stranger.key], ["--decryption-key", &stranger.certificate]);
    let assertion = ["--assert-primary-down", "so it is said"];
    for kind in ["test", "planned", "unplanned"] {
        let options: &[&str] = if kind == "unplanned" { &assertion } else { &[] };
        let wish = [&["failover", kind, "web1", "--yes"], options].concat();
        for (key, reason) in [(&[][..], "KEY_MISSING"), (&wrong, "KEY_WRONG"), (&cert, "KEY_NOT_USABLE")] {
            let refusal = stack.cli().refused(&[&wish[..], key].concat())?;
            ensure!(refusal.said.contains(reason), "{kind} with {key:?}: {}", refusal.said);
        }
    }
    ensure!(text(&newest_run(stack, "web1")?, "name") == before, "a run was made");
    let host = stack.lab().host(BRAVO);
    nothing_of_a_test_is_left(stack, &host, "web1")?;
    ensure!(host.virsh(["secret-list"])?.lines().count() <= 3, "libvirt was given a key");
    item_is(stack, "web1", "protected", ALPHA).map(drop)
}

fn it_is_tested_with_the_key(stack: &Stack, holder: &Holder) -> Result<()> {
    let run = start_run(stack, "test", "web1", &["--decryption-key", &holder.key])?;
    let waiting = run_is(stack, &run, "waiting")?;
    let probe = array(&waiting["steps"]).iter().find(|s| text(s, "step").ends_with(".probe"));
    let probe = probe.context("nothing was probed")?;
    ensure!(probe["state"] == "succeeded", "the test machine does not answer: {probe}");
    let host = stack.lab().host(BRAVO);
    let found = holding(&item_directory(&host, "web1"), MARKER)?;
    ensure!(found.is_empty(), "what the test wrote can be read in {found:?}");
    stack.cli().json(&["run", "complete-test", &run, "--notes", "it boots"])?;
    run_is(stack, &run, "succeeded")?;
    nothing_of_a_test_is_left(stack, &host, "web1")?;
    // Retention merges what it cannot read: two are kept of all that have come.
    point_after(stack, "web1", now_us())?;
    let kept: BTreeSet<u64> = stored_points(&host, "web1")?.into_iter().collect();
    ensure!(!kept.contains(&1) && kept.len() <= 4, "kept: {kept:?}");
    ensure!(stack.cli().command(&["item", "lock", "web1"]).output()?.status.success(), "it is not locked");
    Ok(())
}

/// The digests of ciphertext are compared on both sides, no write is lost, and the way back is encrypted by the other side.
fn it_fails_over_and_is_protected_again(stack: &Stack, web1: &Machine, holder: &Holder) -> Result<()> {
    let last = answers(stack, ALPHA, web1)?.last;
    let run = start_run(stack, "planned", "web1", &["--decryption-key", &holder.key])?;
    let waiting = run_is(stack, &run, "waiting")?;
    let page = answers(stack, BRAVO, web1)?;
    ensure!(is_silent(stack, ALPHA, web1)?, "two copies are in production");
    ensure!(page.last >= last, "records are lost: {} after {last}", page.last);
    let disks = array(&outcome(&waiting, "web1")?["disks"]);
    ensure!(!disks.is_empty() && disks.iter().all(|d| d["equal"] == true), "{disks:?}");
    let (alpha, bravo) = (stack.lab().host(ALPHA), stack.lab().host(BRAVO));
    for file in machine_files(&bravo, web1)? {
        ensure!(!holds(&file, MARKER)?, "{} can be read", file.display());
    }
    stack.cli().json(&["run", "commit", &run])?;
    run_is(stack, &run, "succeeded")?;
    item_is(stack, "web1", "protected", BRAVO)?;
    point_after(stack, "web1", now_us())?;
    // The old disk of alpha is its own; what has come from bravo is encrypted.
    let newest = stored_points(&alpha, "web1")?.pop().context("no point at alpha")?;
    let found = holding(&item_directory(&alpha, "web1").join(format!("points/{newest}")), MARKER)?;
    ensure!(found.is_empty(), "what came back can be read in {found:?}");
    ensure!(answers(stack, BRAVO, web1)?.last > page.last, "web1 does not write any more");
    Ok(())
}

/// Files below `dir` that hold `needle`.
fn holding(dir: &Path, needle: &[u8]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(found) };
    for entry in entries.flatten() {
        let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
        if kind.is_dir() {
            found.extend(holding(&path, needle)?);
        } else if kind.is_file() && holds(&path, needle)? {
            found.push(path);
        }
    }
    Ok(found)
}

/// Only what is written of a file is read: encrypted ones are sparse. One that has gone meanwhile holds nothing.
fn holds(path: &Path, needle: &[u8]) -> Result<bool> {
    let Ok(file) = File::open(path) else { return Ok(false) };
    let mut at = 0;
    while let Ok(start) = lseek(&file, at, Whence::SeekData) {
        at = lseek(&file, start, Whence::SeekHole)?;
        let mut part = vec![0; usize::try_from(at - start)?];
        file.read_exact_at(&mut part, u64::try_from(start)?)?;
        // Records begin at sectors.
        if part.chunks(512).any(|sector| sector.windows(needle.len()).any(|w| w == needle)) {
            return Ok(true);
        }
    }
    Ok(false)
}
