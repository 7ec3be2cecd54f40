//! Asks by ARP who has an address, on one interface, past the routing table.
//!
//! This is the one probe that can ask for any address, also for one that this end of the segment has itself: whoever
//! else answers for it is on the same segment.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read, Write},
    mem,
    net::Ipv4Addr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use understudy_ids::MacAddress;

const ETHERTYPE: u16 = 0x0806;
const REQUEST: u16 = 1;
const REPLY: u16 = 2;
const FRAME: usize = 42;
/// Each address is asked for this often, because a frame may be lost.
const ROUNDS: u32 = 3;

/// The addresses out of `targets` that somebody answered for within `limit`. Blocks.
pub fn probe(
    interface_index: i32,
    own: MacAddress,
    targets: &[Ipv4Addr],
    limit: Duration,
) -> io::Result<BTreeSet<Ipv4Addr>> {
    let mut socket = open(interface_index)?;
    let mut answered = BTreeSet::new();
    for _ in 0..ROUNDS {
        for target in targets {
            socket.write_all(&request(own, *target))?;
        }
        let deadline = Instant::now() + limit / ROUNDS;
        while Instant::now() < deadline {
            let mut frame = [0; 128];
            match socket.read(&mut frame) {
                Ok(size) => answered.extend(reply(&frame[..size]).filter(|sender| targets.contains(sender))),
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(answered)
}

/// A packet socket that receives the interface's ARP frames, and gives up reading after a tenth of a second.
fn open(interface_index: i32) -> io::Result<File> {
    let protocol = ETHERTYPE.to_be();
    // SAFETY: socket takes plain numbers.
    let number =
        unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(protocol)) };
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    // SAFETY: all-zero bytes are a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as libc::c_ushort;
    address.sll_protocol = protocol;
    address.sll_ifindex = interface_index;
    let size = mem::size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is a sockaddr_ll of the size that is given.
    if unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let patience = libc::timeval { tv_sec: 0, tv_usec: 100_000 };
    let size = mem::size_of_val(&patience) as libc::socklen_t;
    let (level, option) = (libc::SOL_SOCKET, libc::SO_RCVTIMEO);
    // SAFETY: the option takes a timeval of the size that is given.
    if unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const patience).cast(), size) } < 0
    {
        return Err(io::Error::last_os_error());
    }
    Ok(File::from(socket))
}

/// An ARP probe (RFC 5227): the sender's address is left empty, so that nobody learns anything from it.
fn request(own: MacAddress, target: Ipv4Addr) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&own.bytes());
    frame[12..14].copy_from_slice(&ETHERTYPE.to_be_bytes());
    // Ethernet, IPv4, and the lengths of their addresses.
    frame[14..20].copy_from_slice(&[0, 1, 8, 0, 6, 4]);
    frame[20..22].copy_from_slice(&REQUEST.to_be_bytes());
    frame[22..28].copy_from_slice(&own.bytes());
    frame[38..42].copy_from_slice(&target.octets());
    frame
}

/// The address that a frame answers for, when it is an answer.
fn reply(frame: &[u8]) -> Option<Ipv4Addr> {
    let is_reply = frame.len() >= FRAME
        && frame[12..14] == ETHERTYPE.to_be_bytes()
        && frame[20..22] == REPLY.to_be_bytes();
    is_reply.then(|| Ipv4Addr::new(frame[28], frame[29], frame[30], frame[31]))
}
