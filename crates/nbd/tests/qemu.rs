//! Against `qemu-nbd` on images that `qemu-img` and `qemu-io` made.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use understudy_nbd::{Client, Error, Options, STATE_DIRTY, STATE_HOLE, STATE_ZERO};

const MIB: u64 = 1 << 20;

struct Server {
    child: Child,
    socket: PathBuf,
    _dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).stdout(Stdio::null()).status();
    let status = status.unwrap_or_else(|error| panic!("these tests need {program}: {error}"));
    assert!(status.success(), "{program} {arguments:?}");
}

/// An image of 16 MiB: 0–1 MiB ones, 1–2 MiB explicit zeros, from 8 MiB on a block of twos written after bitmap `b`.
fn serve(format: &str, options: &[&str]) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk");
    let path = image.to_str().unwrap();
    let write = |command: &str| run("qemu-io", &["-f", format, "-c", command, path]);
    run("qemu-img", &["create", "-q", "-f", format, path, "16M"]);
    write("write -P 1 0 1M");
    write("write -z 1M 1M");
    if format == "qcow2" {
        run("qemu-img", &["bitmap", "--add", "-g", "64k", path, "b"]);
    }
    write("write -P 2 8M 64k");
    let socket = dir.path().join("nbd.sock");
    let child = Command::new("qemu-nbd")
        .args([
            "-r",
            "--persistent",
            "--shared=4",
            "-x",
            "disk",
            "-f",
            format,
            "-k",
            socket.to_str().unwrap(),
        ])
        .args(options)
        .arg(path)
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !socket.exists() {
        assert!(Instant::now() < deadline, "qemu-nbd does not come up");
        std::thread::sleep(Duration::from_millis(10));
    }
    Server { child, socket, _dir: dir }
}

async fn connect(socket: &Path, options: &Options) -> Client {
    Client::connect_unix(socket, options).await.unwrap()
}

fn expected(offset: u64) -> u8 {
    match offset {
        offset if offset < MIB => 1,
        offset if (8 * MIB..8 * MIB + (64 << 10)).contains(&offset) => 2,
        _ => 0,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_is_what_is_in_the_image_with_64_requests_in_flight() {
    for format in ["qcow2", "raw"] {
        let server = serve(format, &[]);
        let client = Arc::new(connect(&server.socket, &Options::new("disk")).await);
        assert_eq!(client.size(), 16 * MIB);
        let mut reads = tokio::task::JoinSet::new();
        for number in 0..256u64 {
            let client = client.clone();
            // Odd places and lengths, most of them across borders between data and holes.
            let (offset, length) = ((number * 65_521) % (15 * MIB), 1 + (number as u32 * 7919) % 200_000);
            reads.spawn(async move { (offset, client.read(offset, length).await.unwrap()) });
            while reads.len() >= 64 {
                check(reads.join_next().await.unwrap().unwrap());
            }
        }
        while let Some(read) = reads.join_next().await {
            check(read.unwrap());
        }
        let whole = client.read(0, 16 << 20).await.unwrap();
        check((0, whole));
    }
}

fn check((offset, bytes): (u64, bytes::Bytes)) {
    let wrong = bytes.iter().enumerate().find(|(index, byte)| **byte != expected(offset + *index as u64));
    assert!(wrong.is_none(), "read at {offset}: {wrong:?}");
}

#[tokio::test]
async fn contexts_tell_what_is_allocated_and_what_is_dirty() {
    let server = serve("qcow2", &["-B", "b"]);
    let options = Options::new("disk")
        .context("qemu:dirty-bitmap:nope")
        .context("base:allocation")
        .context("qemu:dirty-bitmap:b");
    let client = connect(&server.socket, &options).await;
    assert_eq!([0, 1, 2, 3].map(|index| client.has_context(index)), [false, true, true, false]);
    let status = client.block_status(0, 16 << 20).await.unwrap();
    let runs = |context: usize| {
        let answer = status.iter().find(|answer| answer.context == context).unwrap();
        answer.extents.iter().map(|extent| (u64::from(extent.length), extent.flags)).collect::<Vec<_>>()
    };
    let block = 64 << 10;
    let hole = STATE_HOLE | STATE_ZERO;
    let allocation = runs(1);
    assert_eq!(allocation[0], (MIB, 0));
    assert!(allocation[1].1 & STATE_ZERO != 0);
    assert_eq!(allocation.iter().map(|run| run.0).sum::<u64>(), 16 * MIB);
    assert!(allocation.contains(&(block, 0)) && allocation.last().unwrap().1 == hole, "{allocation:?}");
    assert_eq!(runs(2), [(8 * MIB, 0), (block, STATE_DIRTY), (8 * MIB - block, 0)]);
    client.disconnect().await;
}

#[tokio::test]
async fn what_lies_outside_is_refused_before_it_is_asked_for() {
    let server = serve("raw", &[]);
    let client = connect(&server.socket, &Options::new("disk")).await;
    assert!(matches!(client.read(16 * MIB - 1, 2).await, Err(Error::Invalid(_))));
    assert!(matches!(client.read(u64::MAX, 2).await, Err(Error::Invalid(_))));
    assert!(matches!(client.read(0, u32::MAX).await, Err(Error::Invalid(_))));
    assert_eq!(client.read(16 * MIB - 1, 1).await.unwrap()[..], [0]);
    assert!(matches!(
        Client::connect_unix(&server.socket, &Options::new("other")).await,
        Err(Error::Refused { .. })
    ));
}

#[tokio::test]
async fn a_server_that_dies_fails_every_request_in_flight() {
    let mut server = serve("raw", &[]);
    let client = Arc::new(connect(&server.socket, &Options::new("disk")).await);
    // Stopped first, so that the requests are surely in flight when it dies.
    run("kill", &["-STOP", &server.child.id().to_string()]);
    let reads: Vec<_> = (0..16)
        .map(|_| {
            tokio::spawn({
                let client = client.clone();
                async move { client.read(0, 4096).await }
            })
        })
        .collect();
    tokio::task::yield_now().await;
    server.child.kill().unwrap();
    for read in reads {
        let answer =
            tokio::time::timeout(Duration::from_secs(5), read).await.expect("a request hangs").unwrap();
        assert!(matches!(answer, Err(Error::Closed(_))), "{answer:?}");
    }
    assert!(matches!(client.read(0, 1).await, Err(Error::Closed(_))));
}
