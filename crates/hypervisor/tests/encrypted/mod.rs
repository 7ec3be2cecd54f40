//! R-REP-10 on real parts: a machine whose disks are ciphertext, opened by QEMU itself with a key that libvirtd keeps in memory.

use std::path::{Path, PathBuf};

use nix::unistd::{Whence, lseek};
use understudy_hypervisor::{Error, Hypervisor, MachineDefinition, PowerState};
use understudy_replica_store::{
    DiskFormat,
    qcow2::{Backing, Writer, create_sealed_overlay},
};
use understudy_sealing::{DiskCipher, DiskKey, ItemSecret, LuksHeader, place};

use crate::{
    conformance::{KIB, MIB, changed, definition, disk, filling, name, open},
    private_libvirtd::{PrivateLibvirtd, run, with_libvirtd},
};

const SIZE: u64 = 16 * MIB;
const MARKER: &[u8] = b"PLAINTEXT-THAT-NOBODY-MAY-FIND";

/// A point's file with a block of `byte` at 1 MiB and the marker at 5 MiB, and an empty overlay on it, both encrypted.
fn files(dir: &Path, target: &str, secret: &ItemSecret, byte: u8) -> (PathBuf, PathBuf) {
    let (point, overlay) = (dir.join(format!("{target}-point")), dir.join(format!("{target}-overlay")));
    let key = secret.disk_key(&disk(target)).unwrap();
    let header = LuksHeader::make(&secret.passphrase(), &key).unwrap();
    let cipher = DiskCipher::new(&key);
    let mut writer = Writer::create_sealed(&point, SIZE, None, header).unwrap();
    let mut marked = MARKER.repeat(64 * KIB as usize / MARKER.len());
    marked.resize(64 * KIB as usize, 0);
    for (block, content) in [(MIB / (64 * KIB), vec![byte; 64 << 10]), (5 * MIB / (64 * KIB), marked)] {
        let mut content = content;
        cipher.encrypt(place(block), &mut content);
        writer.write(block, &content).unwrap();
    }
    writer.finish().unwrap();
    let header = LuksHeader::make(&secret.passphrase(), &DiskKey::generate().unwrap()).unwrap();
    let backing = Backing { path: point.clone(), format: DiskFormat::Qcow2 };
    create_sealed_overlay(&overlay, backing, SIZE, header).unwrap();
    (point, overlay)
}

async fn encrypted(host: &PrivateLibvirtd, secret: &ItemSecret) -> MachineDefinition {
    let mut definition = definition(host, "db1").await;
    for (target, byte) in [("vda", 7), ("vdb", 8)] {
        let (point, overlay) = files(&host.path("disks"), target, secret, byte);
        definition.disk_files.insert(disk(target), overlay);
        definition.encrypted.insert(disk(target), vec![point]);
    }
    definition
}

fn secrets(host: &PrivateLibvirtd) -> String {
    host.virsh(&["secret-list"]).1.trim().to_owned()
}

/// Files below `dir` that hold `needle`. Only what is written of a file is read: these are sparse.
fn holding(dir: &Path, needle: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            found.extend(holding(&path, needle));
        } else if kind.is_file() && written(&path).windows(needle.len()).any(|part| part == needle) {
            found.push(path);
        }
    }
    found
}

fn written(path: &Path) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::open(path).unwrap();
    let mut content = Vec::new();
    let mut at = 0;
    while let Ok(start) = lseek(&file, at, Whence::SeekData) {
        at = lseek(&file, start, Whence::SeekHole).unwrap();
        let mut part = vec![0; (at - start) as usize];
        file.read_exact_at(&mut part, start as u64).unwrap();
        content.extend(part);
    }
    content
}

#[test]
fn r_rep_10_an_encrypted_machine_starts_with_its_key_and_not_without() {
    with_libvirtd("luks", |host| async move {
        let driver = &host.driver;
        let db1 = name("db1");
        let secret = ItemSecret::generate().unwrap();
        let wanted = encrypted(&host, &secret).await;
        driver.define(&wanted).await.unwrap();
        driver.define(&wanted).await.unwrap();
        let machine = driver.machine(&db1).await.unwrap().unwrap();
        assert!(machine.hardware.disks.iter().all(|disk| disk.encrypted && disk.size_bytes == SIZE));

        let refused = driver.start(&db1).await.unwrap_err();
        assert!(!matches!(refused, Error::Unknown { .. }), "{refused}");
        driver.unlock(&db1, &ItemSecret::generate().unwrap().passphrase()).await.unwrap();
        assert!(driver.start(&db1).await.is_err(), "a wrong key opens it");
        assert_eq!(driver.machine(&db1).await.unwrap().unwrap().power, PowerState::ShutOff);

        driver.unlock(&db1, &secret.passphrase()).await.unwrap();
        driver.unlock(&db1, &secret.passphrase()).await.unwrap();
        driver.start(&db1).await.unwrap();
        let snapshot = open(driver, "db1", 1, None).await;
        assert_eq!(
            (filling(&snapshot.disks()[0], MIB).await, filling(&snapshot.disks()[1], MIB).await),
            (7, 8)
        );
        snapshot.close().await.unwrap();
        use crate::conformance::Bench as _;
        host.guest_write(&db1, &disk("vda"), 3 * MIB, 0x5a).await;

        // Running and off, only what was written since is told, and it is told in the clear.
        let snapshot = open(driver, "db1", 2, Some(1)).await;
        assert_eq!(changed(&snapshot.disks()[0]).await, [3 * MIB].into());
        assert_eq!(filling(&snapshot.disks()[0], 3 * MIB).await, 0x5a);
        snapshot.close().await.unwrap();
        driver.power_off(&db1).await.unwrap();
        let snapshot = open(driver, "db1", 3, Some(1)).await;
        assert_eq!(changed(&snapshot.disks()[0]).await, [3 * MIB].into());
        assert_eq!(
            (filling(&snapshot.disks()[0], 3 * MIB).await, filling(&snapshot.disks()[0], MIB).await),
            (0x5a, 7)
        );
        let servers = run("ps", &["-eo", "args"]);
        assert!(servers.contains("qemu-storage-daemon") && !servers.contains(secret.passphrase().expose()));
        snapshot.close().await.unwrap();
        let known = driver.checkpoints(&db1).await.unwrap();
        driver.delete_checkpoints(&db1, &known.into_iter().collect()).await.unwrap();

        // An agent that starts anew has no key, and says so.
        let again = host.another_driver();
        let request = understudy_hypervisor::SnapshotRequest {
            machine: db1.clone(),
            disks: vec![disk("vda")],
            checkpoint: understudy_hypervisor::CheckpointName("understudy-db1-1-9".to_owned()),
            base: None,
            quiesce: None,
        };
        let refused = again.open_snapshot(&request).await.err().expect("there is no key");
        assert!(refused.to_string().contains("unlock the item again"), "{refused}");

        // Nothing of it is on disk in the clear: neither data nor key.
        let written = [0x5a; 64];
        let passphrase = secret.passphrase();
        for needle in [MARKER, &written, passphrase.expose().as_bytes()] {
            for dir in ["disks", "etc", "lib", "run", "state", "console"] {
                assert_eq!(holding(&host.path(dir), needle), Vec::<PathBuf>::new());
            }
        }
        // The search finds what there is.
        std::fs::write(host.path("disks/control"), MARKER).unwrap();
        assert_eq!(holding(&host.path("disks"), MARKER), [host.path("disks/control")]);
        assert_ne!(secrets(&host), "");
        driver.undefine(&db1).await.unwrap();
        assert_eq!(secrets(&host), "");
    });
}
