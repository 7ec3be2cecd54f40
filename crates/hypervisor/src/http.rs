//! One GET over a connection that may stand in any network namespace, with bounds on everything that comes back.
//!
//! ```text
//!   connect ─▶ request ─▶ head (16 KiB at most) ─▶ status wanted? ─▶ page as far as it is needed (64 KiB at most) ─▶ text in it?
//! ```
//! Blocks, because a thread inside a namespace is no place for a runtime. The machine that is asked is not trusted: what it says is never
//! repeated, only judged.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use understudy_probe::{HttpProbe, MAX_BODY};

use crate::Answer;

const MAX_HEAD: usize = 16 << 10;
const MAX_HEADERS: usize = 96;
/// Of a page with the lengths of its chunks.
const MAX_RAW: usize = 2 * MAX_BODY;
const READ_AT_ONCE: usize = 8 << 10;
/// A machine that does not accept a connection by then may not have been there when it was asked: better to ask anew.
pub const TO_CONNECT: Duration = Duration::from_secs(2);

/// Asks once, and judges the answer.
pub fn get(address: SocketAddr, asked: &HttpProbe, limit: Duration) -> Answer {
    exchange(address, asked, Instant::now() + limit).unwrap_or_else(|error| Answer::no(in_words(&error)))
}

/// What a machine that could not be talked to did, without the numbers of the operating system.
pub fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "no answer in time".to_owned(),
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        io::ErrorKind::UnexpectedEof => "the answer ended too early".to_owned(),
        _ => error.to_string(),
    }
}

/// What an answer with this status and page is worth.
pub fn judge(status: u16, page: &[u8], asked: &HttpProbe) -> Answer {
    let seen = format!("HTTP status {status}");
    let (first, last) = asked.status;
    if !(first..=last).contains(&status) {
        return Answer::no(seen);
    }
    match &asked.contains {
        Some(text) if !holds(page, text) => Answer::no(format!("{seen}, without the text that is wanted")),
        Some(_) => Answer::yes(format!("{seen}, with the text that is wanted")),
        None => Answer::yes(seen),
    }
}

fn holds(page: &[u8], text: &str) -> bool {
    page.windows(text.len()).any(|window| window == text.as_bytes())
}

fn exchange(address: SocketAddr, asked: &HttpProbe, deadline: Instant) -> io::Result<Answer> {
    let mut connection = Connection::open(address, deadline)?;
    let path = &asked.path;
    // Whoever asks wants one answer, as it is.
    connection.write(&format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: understudy\r\nAccept: */*\r\n\
         Accept-Encoding: identity\r\nConnection: close\r\n\r\n"
    ))?;
    let (head, mut raw) = connection.head()?;
    let (first, last) = asked.status;
    let Some(text) = asked.contains.as_ref().filter(|_| (first..=last).contains(&head.status)) else {
        return Ok(judge(head.status, &[], asked));
    };
    loop {
        let (page, whole) = head.page(&raw)?;
        let page = &page[..page.len().min(MAX_BODY)];
        if whole || page.len() == MAX_BODY || raw.len() >= MAX_RAW || holds(page, text) {
            return Ok(judge(head.status, page, asked));
        }
        if connection.read(&mut raw)? == 0 {
            return match head.length {
                Length::ToTheEnd => Ok(judge(head.status, page, asked)),
                Length::Bytes(_) | Length::Chunks => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
    }
}

struct Connection {
    stream: TcpStream,
    deadline: Instant,
}

impl Connection {
    fn open(address: SocketAddr, deadline: Instant) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, left(deadline)?.min(TO_CONNECT))?;
        Ok(Self { stream, deadline })
    }

    fn write(&mut self, request: &str) -> io::Result<()> {
        self.stream.set_write_timeout(Some(left(self.deadline)?))?;
        self.stream.write_all(request.as_bytes())
    }

    fn read(&mut self, into: &mut Vec<u8>) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(left(self.deadline)?))?;
        let before = into.len();
        into.resize(before + READ_AT_ONCE, 0);
        let read = self.stream.read(&mut into[before..]);
        into.truncate(before + *read.as_ref().unwrap_or(&0));
        read
    }

    /// The head, and what of the page came with it.
    fn head(&mut self) -> io::Result<(Head, Vec<u8>)> {
        let mut raw = Vec::new();
        loop {
            if self.read(&mut raw)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some((head, length)) = Head::parse(&raw)? {
                raw.drain(..length);
                return Ok((head, raw));
            }
            if raw.len() > MAX_HEAD {
                return Err(not_http());
            }
        }
    }
}

/// Time that is left, never zero: sockets take zero for no limit.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn not_http() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "what answers does not speak HTTP")
}

struct Head {
    status: u16,
    length: Length,
}

/// Where the page ends.
enum Length {
    Bytes(u64),
    Chunks,
    ToTheEnd,
}

impl Head {
    /// With the number of bytes that it takes; nothing while it is not whole.
    fn parse(raw: &[u8]) -> io::Result<Option<(Self, usize)>> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(length) = response.parse(raw).map_err(|_| not_http())? else {
            return Ok(None);
        };
        let status = response.code.ok_or_else(not_http)?;
        let header = |name: &str| {
            let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
            found.and_then(|header| std::str::from_utf8(header.value).ok()).map(str::trim)
        };
        let chunked = header("transfer-encoding").is_some_and(|how| how.eq_ignore_ascii_case("chunked"));
        let bytes = header("content-length").and_then(|length| length.parse().ok());
        let page = match bytes {
            _ if chunked => Length::Chunks,
            Some(bytes) => Length::Bytes(bytes),
            None => Length::ToTheEnd,
        };
        Ok(Some((Self { status, length: page }, length)))
    }

    /// What is there of the page, and whether that is all of it.
    fn page(&self, raw: &[u8]) -> io::Result<(Vec<u8>, bool)> {
        match self.length {
            Length::ToTheEnd => Ok((raw.to_vec(), false)),
            Length::Bytes(bytes) => {
                let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                Ok((raw[..raw.len().min(bytes)].to_vec(), raw.len() >= bytes))
            }
            Length::Chunks => unchunked(raw),
        }
    }
}

fn unchunked(mut raw: &[u8]) -> io::Result<(Vec<u8>, bool)> {
    let mut page = Vec::new();
    loop {
        let (start, size) = match httparse::parse_chunk_size(raw) {
            Ok(httparse::Status::Complete((_, 0))) => return Ok((page, true)),
            Ok(httparse::Status::Complete((start, size))) => {
                (start, usize::try_from(size).unwrap_or(usize::MAX))
            }
            Ok(httparse::Status::Partial) => return Ok((page, false)),
            Err(_) => return Err(not_http()),
        };
        raw = &raw[start..];
        page.extend_from_slice(&raw[..raw.len().min(size)]);
        // Behind each chunk is a line end.
        match size.checked_add(2).filter(|next| *next <= raw.len()) {
            Some(next) => raw = &raw[next..],
            None => return Ok((page, false)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    /// Serves one connection with these bytes, and asks it.
    fn ask(served: &'static [u8], status: (u16, u16), contains: Option<&str>) -> Answer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).unwrap();
            // It may be judged, and the connection closed, before all of it has gone out.
            let _ = stream.write_all(served);
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let asked = HttpProbe {
            port: address.port(),
            path: "/health?deep=1".into(),
            status,
            contains: contains.map(Into::into),
        };
        let answer = get(address, &asked, Duration::from_secs(2));
        let request = server.join().unwrap();
        assert!(request.starts_with("GET /health?deep=1 HTTP/1.1\r\nHost: 127.0.0.1:"), "{request}");
        answer
    }

    /// R-TF-8: status and text decide, however the page is framed.
    #[test]
    fn an_answer_is_judged_by_its_status_and_its_page() {
        let usual = HttpProbe::STATUS;
        let plain = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nall good";
        assert_eq!(ask(plain, usual, None), Answer::yes("HTTP status 200"));
        assert_eq!(
            ask(plain, usual, Some("good")),
            Answer::yes("HTTP status 200, with the text that is wanted")
        );
        let without = Answer::no("HTTP status 200, without the text that is wanted");
        assert_eq!(ask(plain, usual, Some("bad")), without);
        assert_eq!(ask(plain, (201, 299), None), Answer::no("HTTP status 200"));
        assert_eq!(ask(b"HTTP/1.0 503 No\r\n\r\n", usual, None), Answer::no("HTTP status 503"));
        let to_the_end = b"HTTP/1.0 200 OK\r\n\r\nall good";
        assert!(ask(to_the_end, usual, Some("all good")).passed);
        let chunks =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nall \r\n4;x=y\r\ngood\r\n0\r\n\r\n";
        assert!(ask(chunks, usual, Some("all good")).passed, "the text lies across two chunks");
        assert_eq!(ask(chunks, usual, Some("4;x")), without, "what frames a page is not part of it");
    }

    /// Invariant 14: whatever answers, it comes to an end and nothing of it is repeated.
    #[test]
    fn what_does_not_keep_to_the_rules_is_no_answer() {
        let usual = HttpProbe::STATUS;
        for (served, why) in [
            (&b"SSH-2.0-OpenSSH_9.2\r\n"[..], "what answers does not speak HTTP"),
            (b"", "the answer ended too early"),
            (b"HTTP/1.1 200 OK\r\nContent-", "the answer ended too early"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", "the answer ended too early"),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                "what answers does not speak HTTP",
            ),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx",
                "the answer ended too early",
            ),
        ] {
            assert_eq!(
                ask(served, usual, Some("text")),
                Answer::no(why),
                "{}",
                String::from_utf8_lossy(served)
            );
        }
        let endless: &'static [u8] =
            [&b"HTTP/1.1 200 OK\r\n"[..], &b"X: y\r\n".repeat(8 << 10)].concat().leak();
        assert_eq!(ask(endless, usual, None), Answer::no("what answers does not speak HTTP"));
        let large: &'static [u8] =
            [&b"HTTP/1.1 200 OK\r\n\r\n"[..], &b"x".repeat(1 << 20), b"text"].concat().leak();
        assert_eq!(
            ask(large, usual, Some("text")),
            Answer::no("HTTP status 200, without the text that is wanted")
        );
    }

    #[test]
    fn silence_is_no_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = HttpProbe { port: 1, path: "/".into(), status: HttpProbe::STATUS, contains: None };
        assert_eq!(get(address, &asked, Duration::from_millis(200)), Answer::no("no answer in time"));
        drop(listener);
        assert_eq!(get(address, &asked, Duration::from_millis(200)), Answer::no("connection refused"));
    }
}
