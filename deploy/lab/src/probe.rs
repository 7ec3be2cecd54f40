//! Looks at the lab from a place inside it: HTTP, TCP, ping; and waits for what is to become true.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::{command, namespace::Namespace};

/// For what is expected to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a guest says about itself on its HTTP page.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, serde::Serialize)]
pub struct GuestPage {
    /// Host name, from its own disk.
    pub host: String,
    /// The kernel's boot id: another one after each boot.
    pub boot_id: String,
    /// The address that DHCP gave it; empty before.
    pub address: String,
    /// Milliseconds since boot, in whole seconds.
    pub uptime_ms: u64,
    /// Its clock, in microseconds since 1970. It may be behind the host's by up to two seconds, as QEMU's clock starts at
    /// a whole second and the guest reads it in whole seconds; comparing it with the host's gives the difference.
    pub time_us: u64,
    /// Number of the last durable journal record.
    pub last: u64,
    /// Over how many disks it spreads its journal.
    pub disks: u32,
}

/// What came of an attempt to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// Somebody listens there.
    Connected,
    /// Nobody listens, but the refusal came: frames go there and come back.
    Refused,
    /// No answer.
    Unreachable,
}

#[derive(Deserialize)]
struct ReachAnswer {
    outcome: Reach,
}

/// Reads the page of the guest at `address` from within `from`.
///
/// # Errors
/// When there is no answer within `timeout`, or another one than a guest's.
pub fn guest_page(from: &Namespace, address: Ipv4Addr, timeout: Duration) -> Result<GuestPage> {
    let body = http_get(from, address, 80, "/", timeout)?;
    serde_json::from_str(&body).with_context(|| format!("{address} answered what no guest answers: {body}"))
}

/// Whether the guest at `guest`, itself reached from `from`, can connect to `target`.
///
/// # Errors
/// When the guest does not answer; that is not the same as its not reaching the target.
pub fn reach_from_guest(from: &Namespace, guest: Ipv4Addr, target: Ipv4Addr, port: u16) -> Result<Reach> {
    let body =
        http_get(from, guest, 80, &format!("/reach?host={target}&port={port}"), Duration::from_secs(5))?;
    let answer: ReachAnswer =
        serde_json::from_str(&body).with_context(|| format!("{guest} answered: {body}"))?;
    Ok(answer.outcome)
}

/// Waits until the guest can connect to `target`: the first attempt of a busy machine may take too long.
///
/// # Errors
/// When it could not for half a minute.
pub fn wait_reach_from_guest(from: &Namespace, guest: Ipv4Addr, target: Ipv4Addr, port: u16) -> Result<()> {
    wait_until(&format!("{guest} to reach {target}:{port}"), PATIENCE, || {
        Ok((reach_from_guest(from, guest, target, port)? == Reach::Connected).then_some(()))
    })
    .map(drop)
}

/// The body of the answer to `GET path`.
///
/// # Errors
/// When there is no answer within `timeout`, or its status is not 200.
pub fn http_get(
    from: &Namespace,
    address: Ipv4Addr,
    port: u16,
    path: &str,
    timeout: Duration,
) -> Result<String> {
    let answer = from
        .enter(|| exchange(SocketAddr::from((address, port)), path, timeout))?
        .with_context(|| format!("no HTTP answer from {address}:{port} in {}", from.name()))?;
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        bail!("{address}:{port} does not speak HTTP")
    };
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        bail!("{address}:{port}{path} answered {status}: {}", body.trim());
    }
    Ok(body.to_owned())
}

fn exchange(address: SocketAddr, path: &str, timeout: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(1 << 20).read_to_string(&mut answer)?;
    Ok(answer)
}

/// Tries a TCP connection.
///
/// # Errors
/// Only when the namespace cannot be entered.
pub fn tcp(from: &Namespace, address: Ipv4Addr, port: u16, timeout: Duration) -> Result<Reach> {
    let outcome = from.enter(|| TcpStream::connect_timeout(&SocketAddr::from((address, port)), timeout))?;
    Ok(match outcome {
        Ok(_) => Reach::Connected,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Reach::Refused,
        Err(_) => Reach::Unreachable,
    })
}

/// Whether `address` answers a ping within a second.
///
/// # Errors
/// Only when ping cannot be started.
pub fn ping(from: &Namespace, address: Ipv4Addr) -> Result<bool> {
    command::succeeds(from.command("ping").args(["-c", "1", "-W", "1", &address.to_string()]))
}

/// Waits until `address` answers a ping: the first one after a link has come up may be late on a busy machine.
///
/// # Errors
/// When it has not answered for half a minute.
pub fn wait_ping(from: &Namespace, address: Ipv4Addr) -> Result<()> {
    let what = format!("{address} to answer {}", from.name());
    wait_until(&what, PATIENCE, || Ok(ping(from, address)?.then_some(()))).map(drop)
}

/// Asks again and again until `condition` yields something, and returns that and the time it took.
///
/// A condition that fails is asked again as well, because what is waited for is often a thing that cannot be asked yet.
///
/// # Errors
/// When `limit` has passed; the error names `what` and the condition's last error.
pub fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<(T, Duration)> {
    const PAUSE: Duration = Duration::from_millis(25);
    let begun = Instant::now();
    loop {
        let answer = condition();
        if let Ok(Some(value)) = answer {
            return Ok((value, begun.elapsed()));
        }
        if begun.elapsed() >= limit {
            let waited = format!("waited {:.1} s in vain for: {what}", limit.as_secs_f64());
            return Err(match answer {
                Err(error) => error.context(waited),
                Ok(_) => anyhow::Error::msg(waited),
            });
        }
        thread::sleep(PAUSE);
    }
}
