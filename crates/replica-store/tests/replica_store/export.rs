//! Exporting on file systems that share blocks between files, and on those that do not.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::*;
use understudy_replica_store::{DiskFormat, Export, Store, StoreReader};
use understudy_replication::extents::BLOCK_SIZE;

/// A file system in a file, mounted until it is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(dir: &Path, kind: &str, mib: u64) -> Self {
        let (image, at) = (dir.join(format!("{kind}.img")), dir.join(kind));
        std::fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
        let made = Command::new(format!("mkfs.{kind}")).arg("-q").arg(&image).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        std::fs::create_dir(&at).unwrap();
        let mounted = Command::new("mount").args(["-o", "loop"]).args([&image, &at]).output().unwrap();
        assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Returns how much of the file system's space the export has taken, of how much there was to write.
fn export_on(dir: &Path) -> (u64, u64) {
    let root = dir.join("store");
    let store = Store::open(&root).unwrap();
    let name = disk("vda");
    let mut now: Disks = [(name.clone(), vec![0; (400 << 16) + 512])].into();
    let mut random = Random(77);
    mutate(&mut now, &mut random, 600);
    receive(&store, 1, None, &NONE, &now).unwrap();
    let before = now.clone();
    mutate(&mut now, &mut random, 40);
    receive(&store, 2, Some(1), &before, &now).unwrap();
    drop(store);
    let store = StoreReader::open(&root).unwrap();
    nix::unistd::sync();
    let free = store.space().unwrap().available;
    let (item, target) = (item(), dir.join("vda.raw"));
    let export = Export {
        item: &item,
        seq: seq(2),
        disk: &name,
        format: DiskFormat::Raw,
        target: &target,
        allow_damaged: false,
    };
    let done = store.export(&export, &|_| {}).unwrap();
    nix::unistd::sync();
    let taken = free.saturating_sub(store.space().unwrap().available);
    assert!(std::fs::read(&target).unwrap() == now[&name], "the export is not the disk");
    assert!(done.written > 100 * BLOCK_SIZE && done.damaged.is_empty());
    // What is shared is not changed through one of its names.
    std::fs::write(&target, b"x").unwrap();
    assert!(read(&store, 2, &name) == now[&name]);
    (taken, done.written)
}

/// R-REP-5, and the reflinks. Needs root, for the loop mounts.
#[test]
fn an_export_shares_blocks_where_the_file_system_can_and_copies_where_it_cannot() {
    let dir = tempfile::tempdir().unwrap();
    if !nix::unistd::geteuid().is_root() {
        let (taken, written) = export_on(dir.path());
        eprintln!("not root, no file systems of our own: {taken} of {written} bytes were taken here");
        return;
    }
    for (kind, mib, shares) in [("xfs", 320, true), ("ext4", 128, false)] {
        let mounted = Mounted::new(dir.path(), kind, mib);
        let (taken, written) = export_on(&mounted.0);
        eprintln!("{kind}: {written} bytes exported, {taken} of space taken");
        assert_eq!(taken < written / 4, shares, "{kind}: {taken} of {written} bytes");
    }
}
