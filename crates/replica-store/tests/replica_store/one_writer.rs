//! One process writes to a store, others look at it (R-REP-5: what is looked at is not changed by it).

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::SystemTime,
};

use crate::support::*;
use understudy_replica_store::{Store, StoreError, StoreReader};

const HOLD: &str = "UNDERSTUDY_TEST_HOLD";

/// Not a test of its own: the other process of `r_rep_5_a_killed_writer_leaves_the_store_to_the_next`.
#[test]
#[ignore = "run by another test"]
fn holder() {
    let Ok(root) = std::env::var(HOLD) else { return };
    let _store = Store::open(Path::new(&root)).unwrap();
    println!("\nholding");
    loop {
        std::thread::park();
    }
}

#[test]
fn r_rep_5_a_second_writer_is_refused_with_the_first_ones_pid_and_a_killed_one_leaves_the_store_to_the_next()
{
    let dir = tempfile::tempdir().unwrap();
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "one_writer::holder", "--ignored", "--nocapture"])
        .env(HOLD, dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "holding"));
    let refused = Store::open(dir.path()).unwrap_err();
    assert!(matches!(refused, StoreError::InUse { .. }), "{refused}");
    assert!(refused.to_string().contains(&format!("process {}", holder.id())), "{refused}");
    StoreReader::open(dir.path()).unwrap();
    // SIGKILL.
    holder.kill().unwrap();
    holder.wait().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let refused = Store::open(dir.path()).unwrap_err().to_string();
    assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
    let clone = store.clone();
    drop(store);
    assert!(Store::open(dir.path()).is_err(), "a clone still writes");
    drop(clone);
    Store::open(dir.path()).unwrap();
}

/// Every file below a directory with its content and the time of its last change.
fn everything(dir: &Path, found: &mut BTreeMap<PathBuf, (SystemTime, Vec<u8>)>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let changed = path.metadata().unwrap().modified().unwrap();
        let content = if path.is_dir() { Vec::new() } else { std::fs::read(&path).unwrap() };
        found.insert(path.clone(), (changed, content));
        if path.is_dir() {
            everything(&path, found);
        }
    }
}

#[test]
fn r_rep_5_looking_at_a_store_changes_nothing_not_even_what_a_crash_left() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    assert!(StoreReader::open(&root).is_err());
    std::fs::create_dir(&root).unwrap();
    assert!(matches!(StoreReader::open(&root), Err(StoreError::NotAStore(_))));
    let store = Store::open(&root).unwrap();
    let (name, content) = (disk("vda"), vec![3; 5 << 16]);
    let now: Disks = [(name.clone(), content.clone())].into();
    receive(&store, 1, None, &NONE, &now).unwrap();
    for left in ["points/.trash-9", "points/8", "adopting/3"] {
        std::fs::create_dir_all(root.join("items/web1").join(left)).unwrap();
    }
    let mut before = BTreeMap::new();
    everything(&root, &mut before);
    let reader = StoreReader::open(&root).unwrap();
    assert_eq!(reader.items().unwrap(), [item()]);
    assert_eq!(reader.latest(&item()).unwrap().unwrap().manifest.seq, seq(1));
    assert_eq!(reader.digests(&item(), seq(1), &name).unwrap().root(), tree(&content).root());
    assert!(reader.usage(&item()).unwrap().points[&seq(1)] > 0);
    let mut after = BTreeMap::new();
    everything(&root, &mut after);
    assert!(before == after, "looking has changed something");
}
