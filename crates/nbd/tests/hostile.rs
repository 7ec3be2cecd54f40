//! Servers that lie. Whatever they send: an error in good time, no panic, no memory that was not asked for.

use std::{future::Future, time::Duration};

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use understudy_nbd::{Client, Error, Options};

const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const SIZE: u64 = 1 << 20;

/// The client may have hung up already.
async fn reply(stream: &mut DuplexStream, option: u32, kind: u32, claimed: u32, body: &[u8]) {
    let mut bytes = OPTION_REPLY.to_be_bytes().to_vec();
    for word in [option, kind, claimed] {
        bytes.extend_from_slice(&word.to_be_bytes());
    }
    bytes.extend_from_slice(body);
    let _ = stream.write_all(&bytes).await;
}

async fn option(stream: &mut DuplexStream) -> u32 {
    let mut header = [0; 16];
    stream.read_exact(&mut header).await.unwrap();
    let size = u32::from_be_bytes(header[12..].try_into().unwrap());
    let mut body = vec![0; size as usize];
    stream.read_exact(&mut body).await.unwrap();
    u32::from_be_bytes(header[8..12].try_into().unwrap())
}

async fn greet(stream: &mut DuplexStream) {
    stream.write_all(b"NBDMAGICIHAVEOPT\x00\x03").await.unwrap();
    stream.read_u32().await.unwrap();
}

/// An honest handshake with one context, whose number is 5.
async fn shake(stream: &mut DuplexStream) {
    greet(stream).await;
    assert_eq!(option(stream).await, 8);
    reply(stream, 8, 1, 0, &[]).await;
    assert_eq!(option(stream).await, 10);
    reply(stream, 10, 4, 19, b"\0\0\0\x05base:allocation").await;
    reply(stream, 10, 1, 0, &[]).await;
    assert_eq!(option(stream).await, 7);
    let mut export = vec![0, 0];
    export.extend_from_slice(&SIZE.to_be_bytes());
    export.extend_from_slice(&[0, 1]);
    reply(stream, 7, 3, 12, &export).await;
    reply(stream, 7, 1, 0, &[]).await;
}

fn options() -> Options {
    let mut options = Options::new("x").context("base:allocation");
    options.handshake_timeout = Duration::from_millis(500);
    options.request_timeout = Duration::from_millis(500);
    options
}

async fn handshake_with<F: Future<Output = ()> + Send>(
    server: impl FnOnce(DuplexStream) -> F,
) -> Result<Client, Error> {
    let (ours, theirs) = duplex(1 << 16);
    let options = options();
    let (client, ()) = tokio::join!(Client::connect(ours, &options), server(theirs));
    client
}

#[tokio::test]
async fn lies_in_the_handshake() {
    let garbage = handshake_with(|mut s| async move { s.write_all(&[7; 64]).await.unwrap() }).await;
    assert!(matches!(garbage, Err(Error::Protocol(_))));
    let oldstyle =
        handshake_with(|mut s| async move { s.write_all(b"NBDMAGICIHAVEOPT\x00\x00").await.unwrap() }).await;
    assert!(matches!(oldstyle, Err(Error::Protocol(_))));
    let cut = handshake_with(|mut s| async move { s.write_all(b"NBDMAGIC").await.unwrap() }).await;
    assert!(matches!(cut, Err(Error::Closed(_))));
    let silent = handshake_with(|s| async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(s);
    });
    assert!(matches!(silent.await, Err(Error::TimedOut { .. })));
    let huge = handshake_with(|mut s| async move {
        greet(&mut s).await;
        option(&mut s).await;
        reply(&mut s, 8, 1, u32::MAX, &[]).await;
    });
    assert!(matches!(huge.await, Err(Error::Protocol(_))));
    let endless = handshake_with(|mut s| async move {
        greet(&mut s).await;
        option(&mut s).await;
        reply(&mut s, 8, 1, 0, &[]).await;
        option(&mut s).await;
        reply(&mut s, 10, 1, 0, &[]).await;
        option(&mut s).await;
        for _ in 0..300 {
            reply(&mut s, 7, 3, 2, &[0, 9]).await;
        }
    });
    assert!(matches!(endless.await, Err(Error::Protocol(_))));
    let enormous = handshake_with(|mut s| async move {
        greet(&mut s).await;
        option(&mut s).await;
        reply(&mut s, 8, 1, 0, &[]).await;
        option(&mut s).await;
        reply(&mut s, 10, 1, 0, &[]).await;
        option(&mut s).await;
        reply(&mut s, 7, 3, 12, &[0, 0, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0]).await;
    });
    assert!(matches!(enormous.await, Err(Error::Protocol(_))));
}

/// A structured reply chunk that claims `claimed` bytes and brings `body`.
fn chunk(flags: u16, kind: u16, cookie: u64, claimed: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = 0x668e_33ef_u32.to_be_bytes().to_vec();
    bytes.extend_from_slice(&flags.to_be_bytes());
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&cookie.to_be_bytes());
    bytes.extend_from_slice(&claimed.to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn data(offset: u64, content: &[u8]) -> Vec<u8> {
    [offset.to_be_bytes().as_slice(), content].concat()
}

/// A client whose first request will be answered with `answer`.
async fn answered_with(answer: Vec<u8>) -> Client {
    let (ours, mut theirs) = duplex(1 << 16);
    tokio::spawn(async move {
        shake(&mut theirs).await;
        let mut request = [0; 28];
        theirs.read_exact(&mut request).await.unwrap();
        let _ = theirs.write_all(&answer).await;
        // Stays connected, so that an answer that is cut short is noticed by what it is and not by its end.
        tokio::time::sleep(Duration::from_secs(5)).await;
    });
    Client::connect(ours, &options()).await.unwrap()
}

#[tokio::test]
async fn an_honest_answer_is_accepted_so_the_lies_below_are_refused_for_what_they_are() {
    let parts = [
        chunk(0, 1, 1, 12, &data(4, b"wxyz")),
        chunk(0, 2, 1, 12, &data(0, &4u32.to_be_bytes())),
        chunk(1, 0, 1, 0, &[]),
    ];
    assert_eq!(answered_with(parts.concat()).await.read(0, 8).await.unwrap()[..], *b"\0\0\0\0wxyz");
    let status = [5u32, 4096, 3, u32::MAX, 0].map(u32::to_be_bytes).concat();
    let status = answered_with(chunk(1, 5, 1, 20, &status)).await.block_status(0, 8192).await.unwrap();
    let runs: Vec<_> = status[0].extents.iter().map(|extent| (extent.length, extent.flags)).collect();
    assert_eq!((status[0].context, runs), (0, vec![(4096, 3), (4096, 0)]));
    let failed = [5u32.to_be_bytes().as_slice(), &[0, 2], b"no"].concat();
    let failed = answered_with(chunk(1, (1 << 15) + 1, 1, 8, &failed)).await.read(0, 8).await;
    assert!(matches!(failed, Err(Error::Request { errno: 5, .. })), "{failed:?}");
}

#[tokio::test]
async fn lies_in_answer_to_a_read() {
    let half = data(0, b"abcd");
    let lies: Vec<(&str, Vec<u8>)> = vec![
        ("garbage", vec![0xaa; 64]),
        ("another cookie", chunk(1, 1, 99, 16, &data(0, b"abcdefgh"))),
        ("half an answer", chunk(1, 1, 1, 12, &half)),
        ("a part twice", [chunk(0, 1, 1, 12, &half), chunk(1, 1, 1, 12, &half)].concat()),
        ("4 GiB of data", chunk(1, 1, 1, u32::MAX, &[0; 64])),
        ("data before the range", chunk(1, 1, 1, 12, &data(u64::MAX, b"abcd"))),
        ("data after the range", chunk(1, 1, 1, 12, &data(6, b"abcd"))),
        ("no data", chunk(1, 1, 1, 8, &data(0, b""))),
        ("a chunk without an offset", chunk(1, 1, 1, 3, b"abc")),
        ("a hole of 4 GiB", chunk(1, 2, 1, 12, &data(0, &u32::MAX.to_be_bytes()))),
        ("an odd hole", chunk(1, 2, 1, 13, &data(0, b"abcde"))),
        ("a block status", chunk(1, 5, 1, 12, &[0; 12])),
        ("an error of 4 GiB", chunk(1, 1 << 15, 1, u32::MAX, &[0; 64])),
        ("an error text longer than the error", chunk(1, (1 << 15) + 1, 1, 6, &[0, 0, 0, 5, 255, 255])),
        ("an unknown chunk", chunk(1, 77, 1, 4, b"abcd")),
        ("a last chunk that is not", chunk(0, 0, 1, 0, &[])),
        ("a simple reply", [0x6744_6698_u32.to_be_bytes().as_slice(), &[0; 4], &1u64.to_be_bytes()].concat()),
    ];
    for (lie, answer) in lies {
        let client = answered_with(answer).await;
        let answer = client.read(0, 8).await;
        assert!(matches!(answer, Err(Error::Protocol(_))), "{lie}: {answer:?}");
        let next = client.read(0, 8).await;
        assert!(matches!(next, Err(Error::Protocol(_))), "{lie}: the connection went on: {next:?}");
    }
}

#[tokio::test]
async fn lies_in_answer_to_a_block_status_request() {
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>();
    let lies = [
        ("4 GiB of descriptors", chunk(1, 5, 1, u32::MAX, &[0; 64])),
        ("half a descriptor", chunk(1, 5, 1, 10, &[0; 10])),
        ("no descriptor", chunk(1, 5, 1, 4, &words(&[5]))),
        ("a descriptor of no length", chunk(1, 5, 1, 12, &words(&[5, 0, 0]))),
        ("a context that was not selected", chunk(1, 5, 1, 12, &words(&[6, 4096, 0]))),
        (
            "a context twice",
            [chunk(0, 5, 1, 12, &words(&[5, 1, 0])), chunk(1, 5, 1, 12, &words(&[5, 1, 0]))].concat(),
        ),
        ("data", chunk(1, 1, 1, 12, &data(0, b"abcd"))),
        ("nothing", chunk(1, 0, 1, 0, &[])),
    ];
    for (lie, answer) in lies {
        let answer = answered_with(answer).await.block_status(0, 8192).await;
        assert!(matches!(answer, Err(Error::Protocol(_))), "{lie}: {answer:?}");
    }
}

#[tokio::test]
async fn a_server_that_never_answers_costs_the_time_limit() {
    let client = answered_with(Vec::new()).await;
    assert!(matches!(client.read(0, 8).await, Err(Error::TimedOut { .. })));
    assert!(matches!(client.read(0, 8).await, Err(Error::TimedOut { .. })));
}
