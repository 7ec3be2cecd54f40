//! A model of a replicated machine: its disks are byte vectors, and what the store must show is what they were.

use std::{collections::BTreeMap, path::Path, process::Command};

use understudy_ids::{Consistency, DiskName, Generation, ItemName, PointSeq, UnixMicros};
use understudy_replica_store::{
    Begin, DiskSpec, Manifest, PointKind, PointWriter, Result, Store, StoreReader,
};
use understudy_replication::{
    cycle::CheckpointName,
    digest::{BlockDigest, DigestTree},
    extents::{BLOCK_SIZE, block_count, block_range},
};

/// xorshift: the same disks in every run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

pub type Disks = BTreeMap<DiskName, Vec<u8>>;

pub fn item() -> ItemName {
    "web1".parse().unwrap()
}

pub fn disk(name: &str) -> DiskName {
    name.parse().unwrap()
}

pub fn seq(n: u64) -> PointSeq {
    PointSeq::new(n)
}

pub fn generation(n: u64) -> Generation {
    Generation::new(n)
}

/// A few random whole-block writes, zeros among them, to each disk.
pub fn mutate(disks: &mut Disks, random: &mut Random, writes: u64) {
    for content in disks.values_mut() {
        let size = content.len() as u64;
        for _ in 0..writes {
            let range = block_range(random.next(block_count(size)), size);
            let fill = if random.next(3) == 0 { 0 } else { random.next(255) as u8 + 1 };
            let part = &mut content[range.start as usize..range.end as usize];
            part.fill(fill);
            if fill != 0 {
                part[0] = random.next(256) as u8;
            }
        }
    }
}

pub fn tree(content: &[u8]) -> DigestTree {
    let mut tree = DigestTree::new(content.len() as u64);
    for (block, part) in (0..).zip(content.chunks(BLOCK_SIZE as usize)) {
        tree.set(block, BlockDigest::of(part));
    }
    tree
}

pub fn roots(disks: &Disks) -> BTreeMap<DiskName, BlockDigest> {
    disks.iter().map(|(name, content)| (name.clone(), tree(content).root())).collect()
}

pub fn begin(number: u64, parent: Option<u64>, disks: &Disks) -> Begin {
    Begin {
        item: item(),
        generation: generation(1),
        seq: seq(number),
        parent: parent.map(seq),
        disks: disks.iter().map(|(name, c)| DiskSpec { name: name.clone(), size: c.len() as u64 }).collect(),
        kind: PointKind::Recovery,
        checkpoint: CheckpointName::new(format!("cp{number}")),
        instant: UnixMicros::new(number as i64),
        consistency: Consistency::Crash,
        frozen: None,
        joint: None,
        machine: serde_json::json!({ "name": "web1" }),
        seal: None,
    }
}

/// Sends the blocks of `now` that differ from `before`, from block `from` of each disk on.
pub fn send(writer: &mut PointWriter, before: &Disks, now: &Disks, from: u64, to: u64) -> Result<()> {
    for (name, content) in now {
        let old = before.get(name);
        for (block, part) in (0..).zip(content.chunks(BLOCK_SIZE as usize)) {
            let start = block as usize * BLOCK_SIZE as usize;
            let same = match old {
                Some(old) => old.get(start..start + part.len()) == Some(part),
                None => part.iter().all(|b| *b == 0),
            };
            if block < from || block >= to || same {
                continue;
            }
            if part.iter().all(|b| *b == 0) {
                writer.write_zero(name, block, block + 1)?;
            } else {
                writer.write_blocks(name, block, part, &[BlockDigest::of(part)])?;
            }
        }
    }
    Ok(())
}

/// Receives one whole point.
pub fn receive(
    store: &Store,
    number: u64,
    parent: Option<u64>,
    before: &Disks,
    now: &Disks,
) -> Result<Manifest> {
    let mut writer = store.begin(begin(number, parent, now))?;
    send(&mut writer, if parent.is_some() { before } else { &NONE }, now, 0, u64::MAX)?;
    writer.finish(&roots(now), UnixMicros::new(number as i64 + 1))
}

pub static NONE: Disks = BTreeMap::new();

/// What a point shows of a disk, through our own reader.
pub fn read(store: &StoreReader, number: u64, name: &DiskName) -> Vec<u8> {
    let mut chain = store.open_disk(&item(), seq(number), name).unwrap();
    let mut content = vec![0; chain.size() as usize];
    chain.read(0, &mut content).unwrap();
    content
}

/// Every listed point shows exactly what the model says, its digests agree, and with `qemu` QEMU thinks so too.
pub fn assert_points(store: &Store, model: &BTreeMap<u64, Disks>, qemu: bool) {
    for point in store.points(&item()).unwrap() {
        let number = point.manifest.seq.get();
        let expected = model.get(&number).unwrap_or_else(|| panic!("point {number} is listed"));
        assert_eq!(point.damaged_blocks, 0);
        assert_eq!(point.manifest.disks.len(), expected.len());
        for (name, content) in expected {
            assert!(read(store, number, name) == *content, "point {number} {name} differs");
            let digests = store.digests(&item(), seq(number), name).unwrap();
            assert_eq!(digests.root(), tree(content).root(), "point {number} {name} digests");
            if qemu {
                let path = store.disk_path(&item(), seq(number), name).unwrap();
                check(&path);
                compare(&path, content);
            }
        }
    }
}

/// `qemu-img check` finds nothing, not even a leak.
pub fn check(path: &Path) {
    let out = Command::new("qemu-img").args(["check", "-f", "qcow2"]).arg(path).output().unwrap();
    assert!(
        out.status.success(),
        "{}: {}{}",
        path.display(),
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
}

/// `qemu-img compare` with the content says identical.
pub fn compare(path: &Path, content: &[u8]) {
    let reference = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(reference.path(), content).unwrap();
    let out = Command::new("qemu-img")
        .args(["compare", "-f", "qcow2", "-F", "raw"])
        .arg(path)
        .arg(reference.path())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&out.stdout));
}
