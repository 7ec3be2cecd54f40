//! The guest's HTTP page on port 80.
//!
//! ```text
//! GET /                              {"host":…,"boot_id":…,"address":…,"uptime_ms":…,"time_us":…,"last":…,"disks":…}
//! GET /reach?host=192.0.2.1&port=80  {"outcome":"connected"|"refused"|"unreachable"}
//! GET /power-button?obeyed=no        {"obeyed":"no"}
//! GET /application?rests=yes         {"rests":"yes","last":…}
//! GET /guest-agent?runs=no           {"runs":"no"}
//! ```
//!
//! `/power-button` makes a guest that does not shut down when asked, as a hung one, and heals it again. `/reach` tries a TCP connection from inside the guest, so that isolation is checked where it matters. It takes literal
//! IPv4 addresses only and is bounded to two seconds.

use std::{
    fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

use crate::{Shared, now_us};

const REQUEST_LIMIT_BYTES: usize = 4096;
const REACH_TIMEOUT: Duration = Duration::from_secs(2);
/// Written by `udhcpc.sh` with each lease.
const ADDRESS_FILE: &str = "/run/address";

/// Answers requests for as long as the guest runs.
pub fn serve(shared: &Arc<Shared>) {
    let listener = match TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80)) {
        Ok(listener) => listener,
        Err(error) => return println!("understudy-lab-guest: no HTTP page: {error}"),
    };
    for stream in listener.incoming().flatten() {
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            // The other end may go away at any time; that is its own affair.
            let _ = answer(stream, &shared);
        });
    }
}

fn answer(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_read_timeout(Some(REACH_TIMEOUT))?;
    stream.set_write_timeout(Some(REACH_TIMEOUT))?;
    let mut request = Vec::new();
    let mut part = [0; 512];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < REQUEST_LIMIT_BYTES {
        match stream.read(&mut part)? {
            0 => break,
            count => request.extend_from_slice(&part[..count]),
        }
    }
    let (status, body) = route(&String::from_utf8_lossy(&request), shared);
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

fn route(request: &str, shared: &Shared) -> (&'static str, String) {
    let target = request.strip_prefix("GET ").and_then(|rest| rest.split_whitespace().next());
    match target {
        Some("/") => ("200 OK", page(shared)),
        Some(target) if target.starts_with("/reach?") => match reach_target(&target["/reach?".len()..]) {
            Ok(address) => ("200 OK", format!("{{\"outcome\":\"{}\"}}\n", reach(address))),
            Err(problem) => ("400 Bad Request", format!("{{\"problem\":\"{problem}\"}}\n")),
        },
        Some(target @ ("/power-button?obeyed=yes" | "/power-button?obeyed=no")) => {
            let obeyed = target.ends_with("yes");
            shared.deaf.store(!obeyed, Ordering::SeqCst);
            ("200 OK", format!("{{\"obeyed\":\"{}\"}}\n", if obeyed { "yes" } else { "no" }))
        }
        Some(target @ ("/application?rests=yes" | "/application?rests=no")) => {
            let rests = target.ends_with("yes");
            let word = if rests { "yes" } else { "no" };
            done(
                shared
                    .application
                    .rest(rests)
                    .map(|last| format!("{{\"rests\":\"{word}\",\"last\":{last}}}\n")),
            )
        }
        Some(target @ ("/guest-agent?runs=yes" | "/guest-agent?runs=no")) => {
            let runs = target.ends_with("yes");
            let word = if runs { "yes" } else { "no" };
            done(shared.agent.set(runs).map(|()| format!("{{\"runs\":\"{word}\"}}\n")))
        }
        _ => {
            let known = "there is /, /reach?host=IPV4&port=N, /power-button?obeyed=, /application?rests= and /guest-agent?runs= yes or no";
            ("404 Not Found", format!("{{\"problem\":\"{known}\"}}\n"))
        }
    }
}

fn done(answer: io::Result<String>) -> (&'static str, String) {
    match answer {
        Ok(body) => ("200 OK", body),
        Err(error) => ("500 Internal Server Error", format!("{{\"problem\":\"{error}\"}}\n")),
    }
}

fn page(shared: &Shared) -> String {
    let address = fs::read_to_string(ADDRESS_FILE).unwrap_or_default();
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let uptime_ms = uptime.split('.').next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0) * 1000;
    format!(
        "{{\"host\":\"{}\",\"boot_id\":\"{}\",\"address\":\"{}\",\"uptime_ms\":{uptime_ms},\"time_us\":{},\"last\":{},\"disks\":{}}}\n",
        shared.host,
        shared.boot_id,
        address.trim(),
        now_us(),
        shared.last.load(Ordering::SeqCst),
        shared.disks,
    )
}

/// The address that `host=…&port=…` asks for; both exactly once, nothing else.
fn reach_target(query: &str) -> Result<SocketAddrV4, &'static str> {
    let (first, second) = query.split_once('&').ok_or("host and port are needed")?;
    let host = first.strip_prefix("host=").ok_or("host comes first")?;
    let port = second.strip_prefix("port=").ok_or("port comes second")?;
    let host: Ipv4Addr = host.parse().map_err(|_| "host is not an IPv4 address")?;
    let port: u16 = port.parse().map_err(|_| "port is not a number up to 65535")?;
    if port == 0 { Err("port 0 cannot be reached") } else { Ok(SocketAddrV4::new(host, port)) }
}

/// A refusal is an answer too: it proves that frames go there and come back.
fn reach(address: SocketAddrV4) -> &'static str {
    match TcpStream::connect_timeout(&SocketAddr::V4(address), REACH_TIMEOUT) {
        Ok(_) => "connected",
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => "refused",
        Err(_) => "unreachable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reach_takes_literal_addresses_only() {
        assert_eq!(
            reach_target("host=192.168.50.5&port=80"),
            Ok(SocketAddrV4::new([192, 168, 50, 5].into(), 80))
        );
        for hostile in [
            "",
            "host=localhost&port=80",
            "host=1.2.3.4;reboot&port=80",
            "host=1.2.3.4&port=80&x=1",
            "host=1.2.3.4&port=0",
        ] {
            assert!(reach_target(hostile).is_err(), "{hostile}");
        }
    }

    #[test]
    fn reach_tells_refused_from_connected() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let SocketAddr::V4(address) = listener.local_addr().expect("bound") else { panic!("bound to IPv4") };
        assert_eq!(reach(address), "connected");
        drop(listener);
        assert_eq!(reach(address), "refused");
    }
}
