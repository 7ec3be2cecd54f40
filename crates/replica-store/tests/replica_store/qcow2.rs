//! Our qcow2 against QEMU's (R-REP-5: points are files that plain `qemu-img` can check, boot and read).

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use crate::support::{Random, check, compare};
use understudy_replica_store::{
    DiskFormat,
    qcow2::{Backing, Chain, Source, Writer, create_overlay},
};

const BLOCK: usize = 65536;

fn qcow2(path: &str) -> Option<Backing> {
    Some(Backing { path: PathBuf::from(path), format: DiskFormat::Qcow2 })
}

fn qemu_io(path: &Path, command: &str) {
    let out = Command::new("qemu-io").args(["-f", "qcow2", "-c", command]).arg(path).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && !said.contains("failed"), "{command}: {said}");
}

fn read_all(path: &Path) -> Vec<u8> {
    let mut chain = Chain::open(path).unwrap();
    let mut content = vec![0; chain.size() as usize];
    chain.read(0, &mut content).unwrap();
    content
}

/// Writes random clusters in random order, some twice, some as zeros over data below; keeps `content` in step.
fn scribble(path: &Path, backing: Option<Backing>, content: &mut [u8], random: &mut Random) {
    let blocks = content.len().div_ceil(BLOCK);
    let mut writer = Writer::create(path, content.len() as u64, backing).unwrap();
    for _ in 0..blocks {
        let block = random.next(blocks as u64) as usize;
        let end = content.len().min((block + 1) * BLOCK);
        let part = &mut content[block * BLOCK..end];
        if random.next(4) == 0 {
            part.fill(0);
            writer.write_zero(block as u64);
        } else {
            part.fill(random.next(256) as u8);
            part[3] = random.next(256) as u8;
            writer.write(block as u64, part).unwrap();
        }
    }
    assert_eq!(writer.finish().unwrap(), std::fs::metadata(path).unwrap().len());
}

#[test]
fn r_rep_5_random_files_and_chains_pass_check_and_compare_equal() {
    for round in 1..=12u64 {
        let dir = tempfile::tempdir().unwrap();
        let mut random = Random(round * 7919);
        let size = (random.next(3 << 20) + 512) / 512 * 512;
        let mut content = vec![0; size as usize];
        scribble(&dir.path().join("a"), None, &mut content, &mut random);
        for (name, below) in [("b", "a"), ("c", "b")] {
            scribble(&dir.path().join(name), qcow2(below), &mut content, &mut random);
            let path = dir.path().join(name);
            check(&path);
            compare(&path, &content);
            assert!(read_all(&path) == content, "round {round} {name}");
        }
    }
}

#[test]
fn a_disk_of_four_tebibytes_costs_what_is_written_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("big.qcow2");
    let size = 4u64 << 40;
    let started = Instant::now();
    let mut writer = Writer::create(&path, size, None).unwrap();
    let places = [0, 1, size / 3 / 65536, size / 65536 - 1];
    for place in places {
        writer.write(place, &[place as u8 | 1; BLOCK]).unwrap();
    }
    let length = writer.finish().unwrap();
    let overlay = dir.path().join("over.qcow2");
    create_overlay(&overlay, qcow2("big.qcow2").unwrap(), size).unwrap();
    let took = started.elapsed();
    assert!(length < 16 * 65536, "{length} bytes");
    assert!(took.as_secs() < 2, "{took:?}");
    check(&path);
    check(&overlay);
    let mut chain = Chain::open(&overlay).unwrap();
    let mut buffer = vec![0; BLOCK];
    for place in places {
        chain.read(place * 65536, &mut buffer).unwrap();
        assert!(buffer.iter().all(|b| *b == place as u8 | 1), "{place}");
        assert_eq!(chain.source(place).unwrap(), Source::Data { depth: 1 });
    }
    assert_eq!(chain.source(77).unwrap(), Source::Absent);
    assert!(chain.read(size - 10, &mut buffer).is_err());
    qemu_io(&overlay, "read -P 1 0 64k");
}

#[test]
fn overlays_that_qemu_writes_to_are_read_and_raw_files_serve_as_backing() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("foreign.raw");
    let mut content: Vec<u8> = (0..5 * BLOCK + 1024).map(|i| (i / 700) as u8).collect();
    std::fs::write(&raw, &content).unwrap();
    let path = dir.path().join("top.qcow2");
    let backing = Backing { path: raw.clone(), format: DiskFormat::Raw };
    create_overlay(&path, backing, content.len() as u64).unwrap();
    compare(&path, &content);
    qemu_io(&path, "write -P 0x5a 70000 100000");
    qemu_io(&path, "write -z 262144 65536");
    content[70000..170000].fill(0x5a);
    content[262144..262144 + 65536].fill(0);
    assert!(read_all(&path) == content);
    check(&path);
    // The foreign disk has not been touched.
    assert!(std::fs::read(&raw).unwrap()[70000] != 0x5a);
}

#[test]
fn a_file_shorter_than_the_one_above_hides_what_lies_below_its_end_as_qemu_sees_it() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b, c) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("c"));
    let mut writer = Writer::create(&a, 4 << 16, None).unwrap();
    (0..4).for_each(|block| writer.write(block, &[9; BLOCK]).unwrap());
    writer.finish().unwrap();
    create_overlay(&b, qcow2("a").unwrap(), (1 << 16) + 4096).unwrap();
    create_overlay(&c, qcow2("b").unwrap(), 4 << 16).unwrap();
    let mut expected = vec![0; 4 << 16];
    expected[..(1 << 16) + 4096].fill(9);
    compare(&c, &expected);
    assert!(read_all(&c) == expected);
}

#[test]
fn hostile_files_are_refused_and_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let mut content = vec![0; 300_000 / 512 * 512];
    scribble(&path, None, &mut content, &mut Random(5));
    let good = std::fs::read(&path).unwrap();
    let mut random = Random(11);
    for _ in 0..600 {
        let mut bad = good.clone();
        let at = random.next(128) as usize;
        bad[at] = random.next(256) as u8;
        if random.next(4) == 0 {
            bad.truncate(random.next(bad.len() as u64) as usize);
        }
        std::fs::write(&path, &bad).unwrap();
        if let Ok(mut chain) = Chain::open(&path) {
            let mut buffer = vec![0; 1000];
            let _ = chain.read(0, &mut buffer);
            let _ = chain.source(3);
        }
    }
    for unsupported in [&["-o", "cluster_size=4096"][..], &["-o", "compat=0.10"], &["-o", "extended_l2=on"]] {
        let mut create = Command::new("qemu-img");
        create.args(["create", "-q", "-f", "qcow2"]).args(unsupported).arg(&path).arg("1M");
        assert!(create.status().unwrap().success());
        let error = Chain::open(&path).unwrap_err().to_string();
        assert!(error.contains("is not a disk this store can use"), "{error}");
    }
}
