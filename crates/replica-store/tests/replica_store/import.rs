//! R-REP-11: disks that came on a medium become the base of the first copy.

use std::{cell::Cell, fs, ops::ControlFlow, path::Path, process::Command};

use understudy_ids::UnixMicros;
use understudy_replica_store::{
    DiskFormat, Import, ImportDisk, Manifest, PointKind, Result, Store, StoreError,
};
use understudy_replication::cycle::{Partial, TargetHas};

use crate::support::*;

/// The medium's disks: one raw with holes and a short last block, one as `qemu-img` writes qcow2.
pub fn medium(dir: &Path, disks: &Disks) -> Import {
    let raw = dir.join("vda.raw");
    let file = fs::File::create(&raw).unwrap();
    file.set_len(disks[&disk("vda")].len() as u64).unwrap();
    for (block, part) in (0..).zip(disks[&disk("vda")].chunks(65536)) {
        if part.iter().any(|byte| *byte != 0) {
            std::os::unix::fs::FileExt::write_all_at(&file, part, block * 65536).unwrap();
        }
    }
    let (plain, qcow2) = (dir.join("vdb.plain"), dir.join("vdb.qcow2"));
    fs::write(&plain, &disks[&disk("vdb")]).unwrap();
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2"], &[&plain, &qcow2]);
    Import {
        item: item(),
        generation: generation(1),
        seq: seq(1),
        disks: vec![
            ImportDisk { name: disk("vda"), path: raw, format: DiskFormat::Raw },
            ImportDisk { name: disk("vdb"), path: qcow2, format: DiskFormat::Qcow2 },
        ],
        now: UnixMicros::new(5),
    }
}

pub fn content() -> Disks {
    let mut disks: Disks = [(disk("vda"), vec![0; (24 << 16) + 512]), (disk("vdb"), vec![0; 9 << 16])].into();
    mutate(&mut disks, &mut Random(41), 9);
    disks.get_mut(&disk("vda")).unwrap()[24 << 16..].fill(7);
    disks
}

/// To the end, or until it has been told `calls` times how far it is.
pub fn import(store: &Store, import: &Import, calls: u32) -> Result<Option<Manifest>> {
    let left = Cell::new(calls);
    store.import(import, &mut |_| {
        left.set(left.get().saturating_sub(1));
        if left.get() == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
}

fn qemu_img(words: &[&str], files: &[&Path]) {
    assert!(Command::new("qemu-img").args(words).args(files).output().unwrap().status.success());
}

#[test]
fn r_rep_11_a_medium_becomes_a_base_and_the_first_point_ships_only_what_differs() {
    let dir = tempfile::tempdir().unwrap();
    let before = content();
    let wanted = medium(dir.path(), &before);
    let store = Store::open(&dir.path().join("store")).unwrap();
    let base = import(&store, &wanted, u32::MAX).unwrap().unwrap();
    assert_eq!((base.kind, base.checkpoint.clone(), base.parent), (PointKind::Base, None, None));
    assert_points(&store, &[(1, before.clone())].into(), true);
    // Zeros were neither stored nor noted.
    let data = |disks: &Disks, name: &str| {
        disks[&disk(name)].chunks(65536).filter(|part| part.iter().any(|byte| *byte != 0)).count() as u64
    };
    for name in ["vda", "vdb"] {
        assert_eq!(base.disk(&disk(name)).unwrap().changed_bytes, data(&before, name) * 65536, "{name}");
    }
    // Done again, it reads nothing: the medium may be gone.
    fs::remove_file(&wanted.disks[0].path).unwrap();
    assert_eq!(import(&store, &wanted, 1).unwrap(), Some(base));
    // No recovery point, so nobody fails over to it; the source is told to compare.
    assert!(store.recovery_points(&item()).unwrap().is_empty());
    let facts = store.target_facts(&item()).unwrap();
    assert!(
        matches!(&facts.has, TargetHas::Base { seq: told, disks } if *told == seq(1) && disks.len() == 2)
    );

    let mut now = before.clone();
    mutate(&mut now, &mut Random(42), 2);
    let point = receive(&store, 2, Some(1), &before, &now).unwrap();
    assert!(point.disks.iter().all(|disk| disk.stacked && disk.changed_bytes <= 2 * 65536), "{point:?}");
    assert_points(&store, &[(1, before), (2, now.clone())].into(), true);
    // It leaves as any other point does.
    while store.merge_oldest(&item()).unwrap().is_some() {}
    assert_points(&store, &[(2, now)].into(), true);
}

#[test]
fn r_rep_11_an_import_that_was_broken_off_goes_on_and_no_source_builds_on_half_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let disks = content();
    let wanted = medium(dir.path(), &disks);
    let root = dir.path().join("store");
    let store = Store::open(&root).unwrap();
    assert_eq!(import(&store, &wanted, 3).unwrap(), None);
    drop(store);
    let store = Store::open(&root).unwrap();
    let facts = store.target_facts(&item()).unwrap();
    assert_eq!((facts.has, facts.partial), (TargetHas::Nothing, None::<Partial>));
    // What was durable is not read again: change it on the medium, and see that the change is not taken over.
    let first = disks[&disk("vda")].chunks(65536).position(|part| part.iter().any(|b| *b != 0)).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&wanted.disks[0].path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xee; 512], first as u64 * 65536).unwrap();
    import(&store, &wanted, u32::MAX).unwrap().unwrap();
    assert_points(&store, &[(1, disks)].into(), true);
}

#[test]
fn what_is_on_a_medium_names_no_other_file_and_has_to_be_readable() {
    let dir = tempfile::tempdir().unwrap();
    let disks = content();
    let good = medium(dir.path(), &disks);
    let store = Store::open(&dir.path().join("store")).unwrap();
    let refused = |name: &str, format| {
        let disk = ImportDisk { name: disk("vdb"), path: dir.path().join(name), format };
        let wanted = Import { disks: vec![good.disks[0].clone(), disk], ..good.clone() };
        let error = import(&store, &wanted, u32::MAX).unwrap_err();
        assert!(store.points(&item()).unwrap().is_empty(), "{error}");
        error.to_string()
    };
    let plain = dir.path().join("vdb.plain");
    qemu_img(
        &["create", "-f", "qcow2", "-F", "raw", "-b", plain.to_str().unwrap()],
        &[&dir.path().join("stacked.qcow2")],
    );
    assert!(refused("stacked.qcow2", DiskFormat::Qcow2).contains("stacked on another file; flatten it"));
    qemu_img(&["convert", "-c", "-f", "raw", "-O", "qcow2"], &[&plain, &dir.path().join("compressed.qcow2")]);
    let compressed = refused("compressed.qcow2", DiskFormat::Qcow2);
    assert!(compressed.contains("compressed") && compressed.contains("qemu-img convert"), "{compressed}");
    assert!(refused("vdb.plain", DiskFormat::Qcow2).contains("not a disk this store can use"));
    fs::write(dir.path().join("odd.raw"), [1; 1000]).unwrap();
    assert!(refused("odd.raw", DiskFormat::Raw).contains("multiple of 512"));
    // And after all that a good one.
    import(&store, &good, u32::MAX).unwrap().unwrap();
    let other = import(&store, &Import { generation: generation(0), seq: seq(2), ..good.clone() }, u32::MAX);
    assert!(matches!(other, Err(StoreError::StaleGeneration { .. })), "{other:?}");
}
