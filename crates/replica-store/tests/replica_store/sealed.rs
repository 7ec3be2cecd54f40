//! R-REP-10: encrypted points. The construction is judged by QEMU, which opens the files through its own LUKS layer; the store
//! is judged by what is in its files.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use understudy_ids::{DiskName, UnixMicros, Uuid};
use understudy_replica_store::{
    Adopt, AdoptDisk, Begin, DiskFormat, PointKind, PointWriter, Result, Seal, Store, StoreError,
    qcow2::{Backing, Chain, Writer, create_sealed_overlay},
};
use understudy_replication::{
    digest::BlockDigest,
    extents::{BLOCK_SIZE, block_range},
};
use understudy_sealing::{DiskCipher, DiskKey, ItemSecret, LuksHeader, WrappedKey, place};

use crate::support::*;

const BLOCK: usize = BLOCK_SIZE as usize;

/// An item's encryption as its source has it.
pub struct Sealing {
    pub secret: ItemSecret,
    pub seal: Seal,
}

impl Sealing {
    pub fn of(disks: &Disks) -> Self {
        let secret = ItemSecret::generate().unwrap();
        let header = |name: &DiskName| {
            let header = LuksHeader::make(&secret.passphrase(), &secret.disk_key(name).unwrap()).unwrap();
            (name.clone(), header)
        };
        let disks = disks.keys().map(header).collect();
        let key = WrappedKey::wrap(&secret, &[]).unwrap();
        Self { secret, seal: Seal { key, disks } }
    }

    /// The disks as they stand in the store: what is not a whole block of zeros is encrypted.
    pub fn encrypted(&self, plain: &Disks) -> Disks {
        let encrypt = |(name, content): (&DiskName, &Vec<u8>)| {
            let cipher = DiskCipher::new(&self.secret.disk_key(name).unwrap());
            (name.clone(), encrypted(&cipher, content))
        };
        plain.iter().map(encrypt).collect()
    }

    /// Undoes [`Self::encrypted`].
    pub fn decrypted(&self, stored: &Disks) -> Disks {
        let decrypt = |(name, content): (&DiskName, &Vec<u8>)| {
            let cipher = DiskCipher::new(&self.secret.disk_key(name).unwrap());
            let mut content = content.clone();
            for (block, part) in (0..).zip(content.chunks_mut(BLOCK)) {
                if part.iter().any(|byte| *byte != 0) {
                    cipher.decrypt(place(block), part);
                }
            }
            (name.clone(), content)
        };
        stored.iter().map(decrypt).collect()
    }

    pub fn begin(&self, number: u64, parent: Option<u64>, disks: &Disks) -> Begin {
        Begin { seal: Some(self.seal.clone()), ..begin(number, parent, disks) }
    }

    pub fn writer(
        &self,
        store: &Store,
        number: u64,
        parent: Option<u64>,
        disks: &Disks,
    ) -> Result<PointWriter> {
        store.begin(self.begin(number, parent, disks))
    }

    /// Receives one whole point; disks are given encrypted.
    pub fn receive(
        &self,
        store: &Store,
        number: u64,
        parent: Option<u64>,
        before: &Disks,
        now: &Disks,
    ) -> Result<()> {
        let mut writer = self.writer(store, number, parent, now)?;
        send(&mut writer, if parent.is_some() { before } else { &NONE }, now, 0, u64::MAX)?;
        writer.finish(&roots(now), UnixMicros::new(number as i64 + 1)).map(|_| ())
    }

    /// Headers of overlays.
    pub fn fresh(&self) -> BTreeMap<DiskName, LuksHeader> {
        let header = |name: &DiskName| {
            let header = LuksHeader::make(&self.secret.passphrase(), &DiskKey::generate().unwrap()).unwrap();
            (name.clone(), header)
        };
        self.seal.disks.keys().map(header).collect()
    }
}

fn encrypted(cipher: &DiskCipher, content: &[u8]) -> Vec<u8> {
    let mut out = content.to_vec();
    for (block, part) in (0..).zip(out.chunks_mut(BLOCK)) {
        if part.iter().any(|byte| *byte != 0) {
            cipher.encrypt(place(block), part);
        }
    }
    out
}

/// Options with which QEMU opens a chain of encrypted files, the top one first.
fn options(chain: &[PathBuf]) -> String {
    let mut options = String::new();
    for (depth, file) in chain.iter().enumerate() {
        let backing = "backing.".repeat(depth);
        let file = file.display();
        options += &format!("{backing}driver=qcow2,{backing}file.driver=file,{backing}file.filename={file},");
        options += &format!("{backing}encrypt.format=luks,{backing}encrypt.key-secret=key,");
    }
    options.trim_end_matches(',').to_owned()
}

fn files(path: &Path) -> Vec<PathBuf> {
    let absolute = |file: &Path| file.canonicalize().unwrap();
    Chain::open(path).unwrap().files().map(absolute).collect()
}

fn qemu(tool: &str, secret: &ItemSecret, before: &[&str], image: &str, after: &[&str]) -> (bool, String) {
    let object = format!("secret,id=key,data={}", secret.passphrase().expose());
    let mut arguments = before.to_vec();
    arguments.extend(["--object", &object, "--image-opts"]);
    arguments.extend(after);
    let out = Command::new(tool).args(arguments).arg(image).output().unwrap();
    let said = [out.stdout, out.stderr].concat();
    (out.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// What QEMU reads of a disk with the key is `plain`; its check finds nothing, not even a leak.
pub fn assert_opens(path: &Path, secret: &ItemSecret, plain: &[u8]) {
    check_sealed(path, secret);
    let image = options(&files(path));
    let out = tempfile::NamedTempFile::new().unwrap();
    let object = format!("secret,id=key,data={}", secret.passphrase().expose());
    let read = Command::new("qemu-img")
        .args(["convert", "--object", &object, "--image-opts", &image, "-O", "raw"])
        .arg(out.path())
        .output()
        .unwrap();
    assert!(read.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&read.stderr));
    assert!(std::fs::read(out.path()).unwrap() == plain, "{} reads otherwise", path.display());
}

/// `qemu-img check` finds nothing, not even a leak.
fn check_sealed(path: &Path, secret: &ItemSecret) {
    let (sound, said) = qemu("qemu-img", secret, &["check"], &options(&files(path)), &[]);
    assert!(sound, "{}: {said}", path.display());
}

fn qcow2(path: &str) -> Option<Backing> {
    Some(Backing { path: PathBuf::from(path), format: DiskFormat::Qcow2 })
}

/// Writes random blocks and zeros, keeping `plain` in step.
fn scribble(path: &Path, backing: Option<Backing>, sealing: &Sealing, plain: &mut [u8], random: &mut Random) {
    let name = disk("vda");
    let cipher = DiskCipher::new(&sealing.secret.disk_key(&name).unwrap());
    let size = plain.len() as u64;
    let mut writer = Writer::create_sealed(path, size, backing, sealing.seal.disks[&name].clone()).unwrap();
    for _ in 0..plain.len().div_ceil(BLOCK) {
        let block = random.next((plain.len().div_ceil(BLOCK)) as u64);
        let range = block_range(block, size);
        let part = &mut plain[range.start as usize..range.end as usize];
        if random.next(4) == 0 {
            part.fill(0);
            writer.write_zero(block);
        } else {
            part.fill(random.next(255) as u8 + 1);
            part[3] = random.next(256) as u8;
            let mut content = part.to_vec();
            cipher.encrypt(place(block), &mut content);
            writer.write(block, &content).unwrap();
        }
    }
    assert!(writer.finish().unwrap() < 2 * size + (2 << 20), "the file is sparse");
}

/// The construction: QEMU reads what we encrypted, through two of our files and an overlay that it writes itself.
#[test]
fn r_rep_10_qemu_opens_placed_files_and_chains_through_its_own_luks_layer() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b, c) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("c"));
    let mut plain = vec![0; (40 << 16) + 1536];
    let one: Disks = [(disk("vda"), plain.clone())].into();
    let sealing = Sealing::of(&one);
    let mut random = Random(11);
    scribble(&a, None, &sealing, &mut plain, &mut random);
    assert_opens(&a, &sealing.secret, &plain);
    scribble(&b, qcow2("a"), &sealing, &mut plain, &mut random);
    assert_opens(&b, &sealing.secret, &plain);

    let header = sealing.fresh().remove(&disk("vda")).unwrap();
    create_sealed_overlay(&c, qcow2("b").unwrap(), plain.len() as u64, header).unwrap();
    assert_opens(&c, &sealing.secret, &plain);
    let image = options(&files(&c));
    for (at, pattern) in [(0usize, 0xc1u8), (70_000 / 512 * 512, 0xc2), (40 << 16, 0xc3)] {
        let write = format!("write -P {pattern} {at} 1024");
        let (done, said) = qemu("qemu-io", &sealing.secret, &["-c", &write], &image, &[]);
        assert!(done && !said.contains("failed"), "{write}: {said}");
        plain[at..at + 1024].fill(pattern);
    }
    assert_opens(&c, &sealing.secret, &plain);

    let other = ItemSecret::generate().unwrap();
    let (opened, said) = qemu("qemu-io", &other, &["-c", "read 0 512"], &options(&files(&b)), &[]);
    assert!(!opened && said.contains("Invalid password"), "{said}");
}

#[test]
fn a_sealed_disk_of_four_tebibytes_costs_what_is_written_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("big");
    let one: Disks = [(disk("vda"), Vec::new())].into();
    let sealing = Sealing::of(&one);
    let size = 4u64 << 40;
    let header = sealing.seal.disks[&disk("vda")].clone();
    let mut writer = Writer::create_sealed(&path, size, None, header).unwrap();
    for block in [0, 1, size / 3 / BLOCK_SIZE, size / BLOCK_SIZE - 1] {
        writer.write(block, &[7; BLOCK]).unwrap();
    }
    assert!(writer.finish().unwrap() < 2 << 20);
    check_sealed(&path, &sealing.secret);
}

fn two_disks() -> Disks {
    [(disk("vda"), vec![0; 24 << 16]), (disk("vdb"), vec![0; (9 << 16) + 1536])].into()
}

/// A store with `count` encrypted points; the models are of plain and of encrypted disks.
struct Filled {
    sealing: Sealing,
    plain: BTreeMap<u64, Disks>,
    stored: BTreeMap<u64, Disks>,
}

fn fill(store: &Store, count: u64) -> Filled {
    let mut random = Random(7);
    let mut now = two_disks();
    let sealing = Sealing::of(&now);
    let (mut plain, mut stored) = (BTreeMap::new(), BTreeMap::new());
    let mut before = NONE.clone();
    for number in 1..=count {
        mutate(&mut now, &mut random, 6);
        let encrypted = sealing.encrypted(&now);
        sealing.receive(store, number, (number > 1).then(|| number - 1), &before, &encrypted).unwrap();
        plain.insert(number, now.clone());
        stored.insert(number, encrypted.clone());
        before = encrypted;
    }
    Filled { sealing, plain, stored }
}

impl Filled {
    fn assert(&self, store: &Store) {
        assert_points_without_qemu(store, &self.stored);
        for point in store.points(&item()).unwrap() {
            let number = point.manifest.seq.get();
            assert_eq!(point.manifest.seal.as_ref(), Some(&self.sealing.seal));
            assert_eq!(store.scrub(&item(), seq(number)).unwrap().total(), 0);
            for (name, content) in &self.plain[&number] {
                let path = store.disk_path(&item(), seq(number), name).unwrap();
                assert_opens(&path, &self.sealing.secret, content);
            }
        }
    }
}

fn assert_points_without_qemu(store: &Store, model: &BTreeMap<u64, Disks>) {
    assert_points(store, model, false);
}

/// Received, scrubbed, merged by retention, branched and promoted, all without the key; opened with it.
#[test]
fn r_rep_10_a_store_keeps_and_merges_what_it_cannot_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let filled = fill(&store, 4);
    filled.assert(&store);
    store.merge_away(&item(), seq(2)).unwrap();
    filled.assert(&store);
    assert_eq!(store.merge_oldest(&item()).unwrap(), Some(seq(1)));
    filled.assert(&store);

    let run = Uuid::from_u128(5);
    let refused = store.branch(&item(), seq(4), run).unwrap_err();
    assert!(matches!(refused, StoreError::Sealed { .. }), "{refused}");
    assert!(store.branches(&item()).unwrap().is_empty());
    for file in store.branch_sealed(&item(), seq(4), run, &filled.sealing.fresh()).unwrap() {
        assert_opens(&file.path, &filled.sealing.secret, &filled.plain[&4][&file.disk]);
    }
}

/// A flipped bit of ciphertext is found as any other.
#[test]
fn r_rep_5_a_scrub_finds_damage_in_an_encrypted_point() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let filled = fill(&store, 1);
    let content = &filled.stored[&1][&disk("vda")];
    let block = (0..).zip(content.chunks(BLOCK)).find(|(_, part)| part.iter().any(|b| *b != 0)).unwrap().0;
    let path = store.disk_path(&item(), seq(1), &disk("vda")).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&[content[block as usize * BLOCK] ^ 1], place(block)).unwrap();
    assert_eq!(store.scrub(&item(), seq(1)).unwrap().total(), 1);
}

/// A disk that has grown stays where it is, also when the point before is merged into the larger one.
#[test]
fn r_rep_8_a_sealed_disk_grows_without_moving() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut filled = fill(&store, 2);
    let mut now = filled.plain[&2].clone();
    let grown = now.get_mut(&disk("vda")).unwrap();
    grown.resize(40 << 16, 0);
    grown[39 << 16..].fill(9);
    let encrypted = filled.sealing.encrypted(&now);
    let mut before = filled.stored[&2].clone();
    before.get_mut(&disk("vda")).unwrap().resize(40 << 16, 0);
    filled.sealing.receive(&store, 3, Some(2), &before, &encrypted).unwrap();
    filled.plain.insert(3, now);
    filled.stored.insert(3, encrypted);
    filled.assert(&store);
    store.merge_away(&item(), seq(2)).unwrap();
    store.merge_away(&item(), seq(1)).unwrap();
    filled.assert(&store);
}

/// With another key a disk stands on nothing: ciphertexts of two keys are never mixed in one file. So does the first encrypted
/// point of an item that was not encrypted before.
#[test]
fn points_of_another_key_are_not_stacked_and_old_ones_leave() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut now = two_disks();
    mutate(&mut now, &mut Random(3), 8);
    receive(&store, 1, None, &NONE, &now).unwrap();
    let mut model: BTreeMap<u64, Disks> = [(1, now.clone())].into();
    for number in 2..=3 {
        let sealing = Sealing::of(&now);
        let stored = sealing.encrypted(&now);
        let mut writer = sealing.writer(&store, number, Some(number - 1), &now).unwrap();
        send(&mut writer, &NONE, &stored, 0, u64::MAX).unwrap();
        writer.finish(&roots(&stored), UnixMicros::new(9)).unwrap();
        model.insert(number, stored);
        let point = store.point(&item(), seq(number)).unwrap();
        assert!(point.manifest.disks.iter().all(|disk| !disk.stacked));
        for (name, content) in &now {
            let path = store.disk_path(&item(), seq(number), name).unwrap();
            assert_opens(&path, &sealing.secret, content);
        }
    }
    assert_points(&store, &model, false);
    for number in 1..=2 {
        store.merge_away(&item(), seq(number)).unwrap();
    }
    assert_points(&store, &model, false);
}

/// The machine's own encrypted disks become a base. Nothing is merged into them, and they go once a point stands beside them.
#[test]
fn r_rep_7_adopted_encrypted_disks_are_kept_apart() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let filled = fill(&store, 2);
    let files = store.promote_sealed(&item(), seq(2), generation(2), &filled.sealing.fresh()).unwrap();
    store.commit(&item(), generation(2)).unwrap();
    let adopt = Adopt {
        item: item(),
        generation: generation(3),
        seq: seq(3),
        disks: files
            .iter()
            .map(|f| AdoptDisk { name: f.disk.clone(), path: f.path.clone(), format: DiskFormat::Qcow2 })
            .collect(),
        machine: serde_json::json!({}),
        now: UnixMicros::new(5),
    };
    let base = store.adopt(&adopt).unwrap();
    assert_eq!(base.kind, PointKind::Base);
    assert_ne!(base.seal.as_ref().unwrap().disks, filled.sealing.seal.disks);
    let refused = store.merge_away(&item(), seq(2)).unwrap_err();
    assert!(matches!(refused, StoreError::Pinned { .. }), "{refused}");

    // The other side, active now, has a key of its own.
    let now = filled.plain[&2].clone();
    let sealing = Sealing::of(&now);
    let stored = sealing.encrypted(&now);
    let begin = Begin { generation: generation(3), ..sealing.begin(4, Some(3), &now) };
    let mut writer = store.begin(begin).unwrap();
    send(&mut writer, &NONE, &stored, 0, u64::MAX).unwrap();
    writer.finish(&roots(&stored), UnixMicros::new(9)).unwrap();
    let mut left = Vec::new();
    while let Some(gone) = store.merge_oldest(&item()).unwrap() {
        left.push(gone.get());
    }
    assert_eq!(left, [1, 3, 2]);
    for (name, content) in &now {
        let path = store.disk_path(&item(), seq(4), name).unwrap();
        assert_eq!(Chain::open(&path).unwrap().files().count(), 1);
        assert_opens(&path, &sealing.secret, content);
    }
}

/// A transfer is not gone on with under another key, and a block that is not what the source digested is refused as ever.
#[test]
fn r_rep_6_a_cut_transfer_goes_on_only_with_its_own_key() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut now = two_disks();
    mutate(&mut now, &mut Random(5), 12);
    let sealing = Sealing::of(&now);
    let stored = sealing.encrypted(&now);
    let mut writer = sealing.writer(&store, 1, None, &now).unwrap();
    send(&mut writer, &NONE, &stored, 0, 8).unwrap();
    writer.sync().unwrap();
    drop(writer);
    let other = Sealing::of(&now);
    let refused = store.resume(other.begin(1, None, &now)).unwrap_err();
    assert!(matches!(refused, StoreError::PartialMismatch { .. }), "{refused}");
    let mut writer = store.resume(sealing.begin(1, None, &now)).unwrap();
    let wrong = writer.write_blocks(&disk("vda"), 0, &[1; BLOCK], &[BlockDigest::zero_block()]).unwrap_err();
    assert!(matches!(wrong, StoreError::DigestMismatch { .. }), "{wrong}");
    send(&mut writer, &NONE, &stored, 8, u64::MAX).unwrap();
    writer.finish(&roots(&stored), UnixMicros::new(2)).unwrap();
    for (name, content) in &now {
        assert_opens(&store.disk_path(&item(), seq(1), name).unwrap(), &sealing.secret, content);
    }
}
