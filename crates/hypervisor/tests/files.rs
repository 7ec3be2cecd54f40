//! The driver for files and block devices, on real files and with real QEMU programs (R-REP-3, R-REP-7: machines without
//! change tracking).

use std::{
    io::Write as _,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use understudy_hypervisor::{
    Bus, CheckpointName, Error, Hypervisor, Snapshot, SnapshotRequest,
    files::{Config, DiskFormat, FileDisk, FileMachine, FilesHypervisor},
};
use understudy_ids::{ByteRange, MachineName, Uuid};

const MIB: u64 = 1 << 20;

fn host(dir: &Path, path: PathBuf, format: DiskFormat) -> FilesHypervisor {
    let name = "vda".parse().unwrap();
    let disk = FileDisk { name, path, format, bus: Bus::Virtio, serial: None };
    let machine = FileMachine {
        name: machine(),
        uuid: Uuid::from_u128(7),
        vcpus: 1,
        memory_bytes: 1 << 30,
        machine_type: "pc".to_owned(),
        disks: vec![disk],
    };
    FilesHypervisor::new(Config { state_dir: dir.join("state"), machines: vec![machine] })
}

fn machine() -> MachineName {
    "appliance".parse().unwrap()
}

async fn open(host: &FilesHypervisor) -> Result<Box<dyn Snapshot>, Error> {
    let request = SnapshotRequest {
        machine: machine(),
        disks: vec!["vda".parse().unwrap()],
        checkpoint: CheckpointName("understudy-appliance-1-1".to_owned()),
        base: None,
        quiesce: None,
    };
    host.open_snapshot(&request).await
}

/// Four MiB with data in the second one only.
fn raw(dir: &Path) -> PathBuf {
    let path = dir.join("disk.img");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(4 * MIB).unwrap();
    file.write_all_at(&vec![5; MIB as usize], MIB).unwrap();
    file.sync_all().unwrap();
    path
}

async fn content(snapshot: &dyn Snapshot) -> Vec<u8> {
    let disk = &snapshot.disks()[0];
    let mut content = vec![0; disk.size as usize];
    let mut at = 0;
    while at < disk.size {
        for extent in disk.reader.extents(ByteRange::new(at, disk.size)).await.unwrap() {
            if !extent.zero {
                let (start, length) = (extent.range.start, extent.range.len());
                let bytes = disk.reader.read(start, length as u32).await.unwrap();
                content[start as usize..][..length as usize].copy_from_slice(&bytes);
            }
            at = extent.range.end;
        }
    }
    content
}

fn expected() -> Vec<u8> {
    let mut content = vec![0; 4 * MIB as usize];
    content[MIB as usize..2 * MIB as usize].fill(5);
    content
}

#[tokio::test]
async fn a_raw_file_is_read_without_its_holes_and_nothing_is_known_of_changes() {
    let dir = tempfile::tempdir().unwrap();
    let host = host(dir.path(), raw(dir.path()), DiskFormat::Raw);
    let found = host.machine(&machine()).await.unwrap().unwrap();
    assert_eq!(found.hardware.disks[0].size_bytes, 4 * MIB);
    let snapshot = open(&host).await.unwrap();
    assert_eq!(content(snapshot.as_ref()).await, expected());
    let disk = &snapshot.disks()[0];
    assert!(!disk.changes_known && !snapshot.checkpoint_made());
    let extents = disk.reader.extents(ByteRange::new(0, 4 * MIB)).await.unwrap();
    let data: u64 = extents.iter().filter(|e| !e.zero).map(|e| e.range.len()).sum();
    assert_eq!(data, MIB, "{extents:?}");
    snapshot.close().await.unwrap();
}

/// What was read must be one instant.
#[tokio::test]
async fn a_file_that_somebody_writes_to_is_not_copied() {
    let dir = tempfile::tempdir().unwrap();
    let path = raw(dir.path());
    let host = host(dir.path(), path.clone(), DiskFormat::Raw);
    let snapshot = open(&host).await.unwrap();
    let reader = &snapshot.disks()[0].reader;
    reader.read(0, 512).await.unwrap();
    let mut writer = std::fs::File::options().write(true).open(&path).unwrap();
    writer.write_all(&[1; 512]).unwrap();
    let refused = reader.read(512, 512).await.unwrap_err();
    assert!(matches!(&refused, Error::WrongState { why, .. } if why.contains("written to")), "{refused}");
}

/// QEMU and the driver keep each other away by the locks that QEMU itself uses.
#[tokio::test]
async fn a_file_that_qemu_has_open_is_refused_and_one_that_is_read_is_kept_from_qemu() {
    let dir = tempfile::tempdir().unwrap();
    let path = raw(dir.path());
    let host = host(dir.path(), path.clone(), DiskFormat::Raw);
    let snapshot = open(&host).await.unwrap();
    let tried = Command::new("qemu-io").args(["-f", "raw", "-c", "write 0 512"]).arg(&path).output().unwrap();
    assert!(!tried.status.success(), "QEMU wrote to a disk that was being read");
    snapshot.close().await.unwrap();

    let mut qemu = Command::new("qemu-io");
    let qemu = qemu.args(["-f", "raw"]).arg(&path).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut qemu = qemu.spawn().unwrap();
    let mut commands = qemu.stdin.take().unwrap();
    commands.write_all(b"read 0 512\n").unwrap();
    // Its answer says that it has the file open.
    let mut answer = [0; 1];
    std::io::Read::read_exact(qemu.stdout.as_mut().unwrap(), &mut answer).unwrap();
    let refused = open(&host).await.err().expect("a disk that QEMU writes to was opened");
    assert!(matches!(&refused, Error::WrongState { why, .. } if why.contains("QEMU")), "{refused}");
    drop(commands);
    qemu.wait().unwrap();
    open(&host).await.unwrap().close().await.unwrap();
}

#[tokio::test]
async fn a_qcow2_file_is_read_through_qemu_also_where_it_is_compressed() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (raw(dir.path()), dir.path().join("disk.qcow2"));
    let words = ["convert", "-q", "-c", "-f", "raw", "-O", "qcow2"];
    assert!(Command::new("qemu-img").args(words).arg(from).arg(&to).status().unwrap().success());
    let host = host(dir.path(), to, DiskFormat::Qcow2);
    assert_eq!(host.machine(&machine()).await.unwrap().unwrap().hardware.disks[0].size_bytes, 4 * MIB);
    let snapshot = open(&host).await.unwrap();
    assert_eq!(content(snapshot.as_ref()).await, expected());
    snapshot.close().await.unwrap();
    // Nothing serves it any more.
    open(&host).await.unwrap().close().await.unwrap();
}

/// A host that only has files is a source and nothing else.
#[tokio::test]
async fn nothing_is_started_or_removed_here() {
    let dir = tempfile::tempdir().unwrap();
    let host = host(dir.path(), raw(dir.path()), DiskFormat::Raw);
    assert!(matches!(host.start(&machine()).await, Err(Error::WrongState { .. })));
    assert!(matches!(host.undefine(&machine()).await, Err(Error::WrongState { .. })));
    let other: MachineName = "other".parse().unwrap();
    assert_eq!(host.machine(&other).await.unwrap(), None);
    assert!(matches!(host.power_off(&other).await, Err(Error::NotFound { .. })));
}
