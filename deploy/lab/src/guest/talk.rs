//! Two guests whose journals depend on each other, as an application and its database do.
//!
//! ```text
//!   leader: record n durable ─▶ n ─▶ follower: record n durable ─▶ n ─▶ leader: record n + 1
//! ```
//! So at any one instant the follower's last record is the leader's, or the one before it. Disks that were copied at two instants show
//! anything else.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    sync::atomic::Ordering,
    time::Duration,
};

use crate::Shared;

const PORT: u16 = 81;
const PATIENCE: Duration = Duration::from_secs(2);

/// What a guest is to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Talk {
    Alone,
    Leads(Ipv4Addr),
    Follows,
}

/// The leader's line to its follower, made again when it breaks.
#[derive(Default)]
pub struct Line(Option<TcpStream>);

impl Line {
    /// Returns when the follower has the record.
    pub fn tell(&mut self, follower: Ipv4Addr, number: u64) -> io::Result<()> {
        let told = self.try_to_tell(follower, number);
        if told.is_err() {
            self.0 = None;
        }
        told
    }

    fn try_to_tell(&mut self, follower: Ipv4Addr, number: u64) -> io::Result<()> {
        if self.0.is_none() {
            let address = SocketAddr::V4(SocketAddrV4::new(follower, PORT));
            let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            self.0 = Some(stream);
        }
        let stream = self.0.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        stream.write_all(&number.to_be_bytes())?;
        let mut answer = [0; 8];
        stream.read_exact(&mut answer)?;
        let same = u64::from_be_bytes(answer) == number;
        if same { Ok(()) } else { Err(io::Error::other("the follower has another record")) }
    }
}

/// Writes what it is told of until told to stop. `write` makes one record durable.
pub fn follow(shared: &Shared, mut write: impl FnMut(u64) -> io::Result<()>) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
    listener.set_nonblocking(true)?;
    while !shared.stop.load(Ordering::SeqCst) {
        let Ok((stream, _)) = listener.accept() else {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        if let Err(error) = listen(shared, stream, &mut write) {
            println!("understudy-lab-guest: the line to the leader is broken: {error}");
        }
    }
    Ok(())
}

fn listen(
    shared: &Shared,
    mut stream: TcpStream,
    write: &mut impl FnMut(u64) -> io::Result<()>,
) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    // Longer than any pause that does not mean an end, so that a leader that was started anew is heard.
    stream.set_read_timeout(Some(PATIENCE * 2))?;
    while !shared.stop.load(Ordering::SeqCst) {
        let mut told = [0; 8];
        stream.read_exact(&mut told)?;
        let number = u64::from_be_bytes(told);
        for next in shared.last.load(Ordering::SeqCst) + 1..=number {
            write(next)?;
            shared.last.store(next, Ordering::SeqCst);
        }
        stream.write_all(&told)?;
    }
    Ok(())
}
