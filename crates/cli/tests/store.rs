//! `understudy store …` as it is called when everything else is lost: the real program, a store, nothing running (R-REP-5).

use std::{
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;
use understudy_ids::{Consistency, DiskName, Generation, ItemName, PointSeq, UnixMicros};
use understudy_replica_store::{Begin, DiskSpec, PointKind, Store};
use understudy_replication::{
    cycle::CheckpointName,
    digest::{BlockDigest, DigestTree},
    extents::BLOCK_SIZE,
};

const BLOCK: usize = BLOCK_SIZE as usize;

struct Scene {
    _dir: tempfile::TempDir,
    root: PathBuf,
    store: PathBuf,
    /// The disk as each point has it.
    disks: Vec<Vec<u8>>,
}

/// Three points of one disk that ends inside a block and is mostly zeros.
fn scene() -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_owned();
    let path = root.join("store");
    let store = Store::open(&path).unwrap();
    let (item, disk): (ItemName, DiskName) = ("web1".parse().unwrap(), "vda".parse().unwrap());
    let mut now = vec![0; 40 * BLOCK + 1536];
    let mut disks = Vec::new();
    for number in 1..=3u64 {
        let before = now.clone();
        // The first point has blocks 3 to 12 and the last, cut one; each later point changes one and zeroes one.
        if number == 1 {
            (3..=12).for_each(|b| now[b * BLOCK..][..BLOCK].fill(b as u8));
            now[40 * BLOCK..].fill(0x40);
        } else {
            now[(2 + number as usize) * BLOCK..][..99].fill(0xe0 + number as u8);
            now[(9 + number as usize) * BLOCK..][..BLOCK].fill(0);
        }
        let begin = Begin {
            item: item.clone(),
            generation: Generation::new(1),
            seq: PointSeq::new(number),
            parent: (number > 1).then(|| PointSeq::new(number - 1)),
            disks: vec![DiskSpec { name: disk.clone(), size: now.len() as u64 }],
            kind: PointKind::Recovery,
            checkpoint: CheckpointName::new(format!("cp{number}")),
            instant: UnixMicros::new(1_700_000_000_000_000 + number as i64),
            consistency: Consistency::Crash,
            machine: serde_json::json!({ "name": "web1", "memory": 512 }),
            seal: None,
            frozen: None,
            joint: None,
        };
        let mut writer = store.begin(begin).unwrap();
        let mut tree = DigestTree::new(now.len() as u64);
        for (block, (content, old)) in (0..).zip(now.chunks(BLOCK).zip(before.chunks(BLOCK))) {
            tree.set(block, BlockDigest::of(content));
            if content != old || (number == 1 && content.iter().any(|b| *b != 0)) {
                writer.write_blocks(&disk, block, content, &[BlockDigest::of(content)]).unwrap();
            }
        }
        writer.finish(&[(disk.clone(), tree.root())].into(), UnixMicros::new(0)).unwrap();
        disks.push(now.clone());
    }
    Scene { _dir: dir, root, store: path, disks }
}

impl Scene {
    fn understudy(&self, arguments: &[&str]) -> Output {
        // Without an environment, so without anything that names a service or a certificate.
        Command::new(env!("CARGO_BIN_EXE_understudy"))
            .arg("store")
            .args(arguments)
            .arg("--dir")
            .arg(&self.store)
            .env_clear()
            .output()
            .unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let out = self.understudy(&[arguments, &["--output", "json"]].concat());
        assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap()
    }

    fn point_file(&self, number: usize) -> PathBuf {
        self.store.join(format!("items/web1/points/{number}/disk-vda.qcow2"))
    }

    fn flip(&self, number: usize, at: u64) {
        let file = std::fs::OpenOptions::new().read(true).write(true).open(self.point_file(number)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[!byte[0]], at).unwrap();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn same(a: (&Path, &str), b: (&Path, &str)) {
    let out =
        Command::new("qemu-img").args(["compare", "-f", a.1, "-F", b.1]).args([a.0, b.0]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
}

#[test]
fn r_rep_5_a_store_is_listed_and_shown_with_nothing_else_running() {
    let scene = scene();
    let items = scene.json(&["list"]);
    assert_eq!(items[0]["item"], "web1");
    assert_eq!((&items[0]["points"], &items[0]["latest_point"]), (&3.into(), &3.into()));
    let points = scene.json(&["list", "--item", "web1"]);
    assert_eq!((&points[1]["parent"], &points[1]["consistency"]), (&1.into(), &"crash".into()));
    let shown = scene.json(&["show", "--item", "web1", "--point", "2"]);
    assert_eq!(shown["manifest"]["machine"]["memory"], 512);
    assert_eq!(shown["files"]["vda"], text(&scene.point_file(2)));
    let table = scene.understudy(&["list", "--item", "web1"]);
    assert!(String::from_utf8_lossy(&table.stdout).contains("CONSISTENCY"));

    let unknown = scene.understudy(&["list", "--item", "db1"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("it has: web1"), "{unknown:?}");
    let wrong = Command::new(env!("CARGO_BIN_EXE_understudy"))
        .args(["store", "list", "--dir", text(&scene.root)])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("not a replica store"), "{wrong:?}");
}

#[test]
fn r_rep_5_any_point_is_exported_whole_and_qemu_finds_it_equal() {
    let scene = scene();
    // A writer that has the store open is no hindrance.
    let writer = Store::open(&scene.store).unwrap();
    for format in ["raw", "qcow2"] {
        for (number, content) in (1..).zip(&scene.disks) {
            let point = number.to_string();
            let to = scene.root.join(format!("{format}-{number}"));
            let arguments =
                ["export", "--item", "web1", "--point", &point, "--format", format, "--to", text(&to)];
            let rows = scene.json(&arguments);
            let file = to.join(format!("vda.{format}"));
            assert_eq!(rows[0]["file"], text(&file));
            assert_eq!(rows[0]["size_bytes"], content.len() as u64);
            same((&scene.point_file(number), "qcow2"), (&file, format));
            let flat = scene.root.join("flat");
            std::fs::write(&flat, content).unwrap();
            same((&flat, "raw"), (&file, format));
            let info = Command::new("qemu-img").args(["info", "-U", text(&file)]).output().unwrap();
            assert!(!String::from_utf8_lossy(&info.stdout).contains("backing"), "it stands alone");
            let description: Value =
                serde_json::from_slice(&std::fs::read(to.join("machine.json")).unwrap()).unwrap();
            assert_eq!(
                (&description["machine"]["name"], &description["point"]),
                (&"web1".into(), &number.into())
            );
            // Nothing is overwritten, whether a directory or a file.
            assert_eq!(scene.understudy(&arguments).status.code(), Some(1));
        }
    }
    drop(writer);
    let file = scene.root.join("one.raw");
    let one = ["export", "--item", "web1", "--disk", "vda", "--format", "raw", "--to", text(&file)];
    assert!(scene.understudy(&one).status.success());
    same((&scene.point_file(3), "qcow2"), (&file, "raw"));
    let (length, allocated) = {
        use std::os::unix::fs::MetadataExt;
        let meta = std::fs::metadata(&file).unwrap();
        (meta.len(), meta.blocks() * 512)
    };
    assert_eq!(length, scene.disks[2].len() as u64);
    assert!(allocated < 12 * BLOCK_SIZE, "{allocated} bytes: not sparse");
    let again = scene.understudy(&one);
    assert!(String::from_utf8_lossy(&again.stderr).contains("exists"), "{again:?}");
    // What a killed export has left is not built upon either.
    std::fs::rename(&file, file.with_extension("raw.part")).unwrap();
    assert_eq!(scene.understudy(&one).status.code(), Some(1));
    assert!(!file.exists());
}

#[test]
fn r_rep_5_damage_is_found_offline_and_is_not_exported_by_mistake() {
    let scene = scene();
    let whole = scene.understudy(&["verify"]);
    assert_eq!(whole.status.code(), Some(0), "{whole:?}");
    // Block 5 of the first point, which the later ones show too; the second one hides block 4.
    scene.flip(1, 3 * BLOCK_SIZE + 9);
    let found = scene.understudy(&["verify", "--output", "json"]);
    assert_eq!(found.status.code(), Some(4));
    let rows: Value = serde_json::from_slice(&found.stdout).unwrap();
    let blocks: Vec<u64> =
        rows.as_array().unwrap().iter().map(|r| r["damaged_blocks"].as_u64().unwrap()).collect();
    assert_eq!(blocks, [1, 1, 0], "the third point has a block 5 of its own");
    let good = scene.understudy(&["verify", "--item", "web1", "--point", "3"]);
    assert_eq!(good.status.code(), Some(0));

    let file = scene.root.join("x.raw");
    let export = |more: &[&str]| {
        let always = ["export", "--item", "web1", "--point", "2", "--disk", "vda", "--format", "raw", "--to"];
        scene.understudy(&[&always[..], &[text(&file)], more].concat())
    };
    let refused = export(&[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--allow-damaged"), "{refused:?}");
    assert!(!file.exists() && !file.with_extension("raw.part").exists());
    let allowed = export(&["--allow-damaged", "--output", "json"]);
    assert_eq!(allowed.status.code(), Some(4), "{allowed:?}");
    let rows: Value = serde_json::from_slice(&allowed.stdout).unwrap();
    assert_eq!(rows[0]["damaged_blocks"], 1);
    let expected = &scene.disks[1];
    let written = std::fs::read(&file).unwrap();
    let differ: Vec<usize> = (0..expected.len()).filter(|at| written[*at] != expected[*at]).collect();
    assert_eq!(differ, [5 * BLOCK + 9], "all but the damaged byte is as it was");
}
