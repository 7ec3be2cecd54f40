//! Faults of the kernel, not of a seam: a process that receives a point runs under strace, which makes its n-th system call fail, or
//! kills it there; and a file system that really runs full (R-REP-5, R-REP-6).
//!
//! Whatever happens, the store opens again, every point that it lists is whole and verified, and the transfer can be completed.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::support::*;
use understudy_ids::UnixMicros;
use understudy_replica_store::{Store, StoreError, StoreReader};

const RECEIVE: &str = "UNDERSTUDY_TEST_RECEIVE";
/// The receiver's own word that the point is there.
const RECEIVED: i32 = 17;
const REFUSED: i32 = 18;

/// What the receiver's store has before it begins, and what it is to have after it.
fn model() -> BTreeMap<u64, Disks> {
    let mut random = Random(7);
    let mut now: Disks = [(disk("vda"), vec![0; 24 << 16]), (disk("vdb"), vec![0; (9 << 16) + 1536])].into();
    let mut model = BTreeMap::new();
    for number in 1..=3 {
        mutate(&mut now, &mut random, 9);
        model.insert(number, now.clone());
    }
    model
}

fn prepare(root: &Path, model: &BTreeMap<u64, Disks>) {
    let store = Store::open(root).unwrap();
    receive(&store, 1, None, &NONE, &model[&1]).unwrap();
    receive(&store, 2, Some(1), &model[&1], &model[&2]).unwrap();
}

fn third(store: &Store, model: &BTreeMap<u64, Disks>) -> Result<(), StoreError> {
    let now = &model[&3];
    let mut writer = store.begin(begin(3, Some(2), now))?;
    let done = (|| {
        send(&mut writer, &model[&2], now, 0, 9)?;
        writer.sync()?;
        send(&mut writer, &model[&2], now, 9, u64::MAX)?;
        writer.sync()
    })();
    if let Err(error) = done {
        // The kernel may say now that all is well: it has dropped what it could not write.
        assert!(matches!(writer.sync(), Err(StoreError::Untrusted(_))), "a failed file is trusted again");
        return Err(error);
    }
    writer.finish(&roots(now), UnixMicros::new(9)).map(|_| ())
}

/// Not a test of its own: the process that the others put under strace.
#[test]
#[ignore = "run by another test"]
fn receiver() {
    let Ok(root) = std::env::var(RECEIVE) else { return };
    let model = model();
    let received = Store::open(Path::new(&root)).and_then(|store| third(&store, &model));
    // Past the harness, whose own writes are no matter here.
    std::process::exit(if received.is_ok() { RECEIVED } else { REFUSED });
}

/// Runs the receiver with one fault: `inject` is strace's expression, without the call's number.
fn run(root: &Path, calls: &str, fault: &str, when: u64) -> Output {
    Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={calls}")])
        .args(["-e", &format!("inject={calls}:{fault}:when={when}")])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "injected::receiver", "--ignored", "--nocapture", "--test-threads=1"])
        .env(RECEIVE, root)
        .env("RUST_BACKTRACE", "0")
        .output()
        .expect("strace is installed (deploy/lab/install.sh)")
}

/// How often the receiver makes these calls when nothing fails.
fn count(root: &Path, calls: &str) -> u64 {
    let log = root.with_extension("log");
    let status = Command::new("strace")
        .args(["-f", "-qq", "-e", &format!("trace={calls}"), "-o"])
        .arg(&log)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "injected::receiver", "--ignored", "--nocapture", "--test-threads=1"])
        .env(RECEIVE, root)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(RECEIVED));
    std::fs::read_to_string(log).unwrap().lines().filter(|l| l.contains('(')).count() as u64
}

fn fresh(origin: &Path, work: &Path) {
    let _ = std::fs::remove_dir_all(work);
    assert!(Command::new("cp").arg("-a").args([origin, work]).status().unwrap().success());
}

/// The store is as if the fault had never been, or the point had never been asked for.
fn judge(root: &Path, model: &BTreeMap<u64, Disks>, code: Option<i32>) {
    let case = format!("{}: {code:?}", root.display());
    let store = Store::open(root).unwrap_or_else(|e| panic!("{case}: {e}"));
    let mut listed = model.clone();
    assert_points(&store, &listed, false);
    let points: Vec<u64> = store.points(&item()).unwrap().iter().map(|p| p.manifest.seq.get()).collect();
    match code {
        Some(RECEIVED) => assert_eq!(points, [1, 2, 3], "{case}"),
        // A fault after the point's rename is reported though the point is there, whole.
        Some(REFUSED) | None => assert!(points == [1, 2] || points == [1, 2, 3], "{case}: {points:?}"),
        other => panic!("{case}: the receiver ended with {other:?}"),
    }
    for point in &points {
        assert_eq!(store.scrub(&item(), seq(*point)).unwrap().total(), 0, "{case}: point {point}");
    }
    if !points.contains(&3) {
        third(&store, model).unwrap_or_else(|e| panic!("{case}: not to be completed: {e}"));
        listed.retain(|n, _| *n <= 3);
        assert_points(&store, &listed, false);
    }
}

/// Every `n` when there are few, else about `most` of them, the first and the last included.
fn sampled(count: u64, most: u64) -> Vec<u64> {
    let step = count.div_ceil(most).max(1);
    let mut chosen: Vec<u64> = (1..=count).step_by(step as usize).collect();
    if chosen.last() != Some(&count) {
        chosen.push(count);
    }
    chosen
}

fn with_faults(calls: &str, faults: &[&str], most: u64) {
    let dir = tempfile::tempdir().unwrap();
    let (origin, work) = (dir.path().join("origin"), dir.path().join("work"));
    let model = model();
    prepare(&origin, &model);
    fresh(&origin, &work);
    let total = count(&work, calls);
    assert!(total > 3, "{total} calls of {calls}");
    let mut refused = 0;
    for fault in faults {
        for when in sampled(total, most) {
            fresh(&origin, &work);
            let out = run(&work, calls, fault, when);
            let code = out.status.code();
            refused += u64::from(code == Some(REFUSED) || code.is_none());
            judge(&work, &model, code);
        }
    }
    eprintln!("{calls}: {total} calls, {refused} faults that were noticed");
    assert!(refused > 2, "no fault had an effect");
}

#[test]
fn r_rep_5_the_kernel_refuses_any_write_and_no_half_point_is_seen() {
    with_faults("pwrite64", &["error=ENOSPC", "error=EIO", "signal=KILL"], 14);
}

#[test]
fn r_rep_5_any_fsync_fails_and_its_file_is_not_trusted_again() {
    with_faults("fsync", &["error=EIO", "error=ENOSPC", "signal=KILL"], 14);
}

#[test]
fn r_rep_5_any_change_of_a_directory_fails() {
    with_faults("rename,mkdir,unlink,unlinkat,rmdir", &["error=EIO", "signal=KILL"], 10);
}

/// The kernel says that everything was synced and has written nothing yet; then the process is killed. What it had written is in
/// the page cache, so this is no power cut (`faults` has that); it is that nothing depends on when a sync happens.
#[test]
fn r_rep_5_syncs_that_lie_leave_no_half_point_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let (origin, work) = (dir.path().join("origin"), dir.path().join("work"));
    let model = model();
    prepare(&origin, &model);
    fresh(&origin, &work);
    let total = count(&work, "pwrite64");
    for when in sampled(total, 8) {
        fresh(&origin, &work);
        let status = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=pwrite64,fsync"])
            .args(["-e", "inject=fsync:retval=0", "-e", &format!("inject=pwrite64:signal=KILL:when={when}")])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "injected::receiver", "--ignored", "--nocapture", "--test-threads=1"])
            .env(RECEIVE, &work)
            .status()
            .unwrap();
        judge(&work, &model, status.code());
    }
}

/// A file system of its own that is unmounted at the end.
struct Small {
    dir: PathBuf,
}

impl Small {
    fn mount(dir: &Path, kib: u64) -> Self {
        std::fs::create_dir(dir).unwrap();
        let size = format!("size={kib}k");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir).status().unwrap();
        assert!(mounted.success(), "mounting a tmpfs needs root");
        Self { dir: dir.to_owned() }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.dir).status();
    }
}

#[test]
fn r_rep_5_and_6_a_full_file_system_refuses_the_transfer_keeps_the_points_and_goes_on_when_there_is_space() {
    let dir = tempfile::tempdir().unwrap();
    let small = Small::mount(&dir.path().join("small"), 6 << 10);
    let root = small.dir.join("store");
    let mut random = Random(5);
    let mut now: Disks = [(disk("vda"), vec![0; 60 << 16])].into();
    mutate(&mut now, &mut random, 12);
    let first = now.clone();
    let store = Store::open(&root).unwrap();
    receive(&store, 1, None, &NONE, &first).unwrap();
    // Something else takes what is left but for a little.
    let hog = small.dir.join("hog");
    let free = store.space().unwrap().available;
    std::fs::write(&hog, vec![1; (free - (600 << 10)) as usize]).unwrap();

    mutate(&mut now, &mut random, 40);
    let refused = receive(&store, 2, Some(1), &first, &now).unwrap_err();
    let said = refused.to_string();
    assert!(matches!(refused, StoreError::Full { .. }), "{said}");
    assert!(said.contains("is full") && said.contains("free or add space"), "{said}");
    let model: BTreeMap<u64, Disks> = [(1, first.clone())].into();
    assert_points(&store, &model, false);
    // Nothing of the refused transfer takes up space, and nothing of it is taken for a partial.
    assert_eq!(store.partial(&item()).unwrap(), None);
    drop(store);
    let store = Store::open(&root).unwrap();
    assert_points(&store, &model, true);
    assert!(receive(&store, 2, Some(1), &first, &now).is_err());

    std::fs::remove_file(&hog).unwrap();
    receive(&store, 2, Some(1), &first, &now).unwrap();
    let model = [(1, first), (2, now)].into();
    assert_points(&store, &model, true);
    assert_eq!(StoreReader::open(&root).unwrap().points(&item()).unwrap().len(), 2);
}
