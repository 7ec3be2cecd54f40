//! An application as databases are: it keeps what it has accepted in memory for a while, and can be asked to come to rest.
//!
//! ```text
//!   accept entry n ─▶ memory ── every so many ──▶ /data/ledger      never flushed: that is the file system's affair
//!   rest: everything ─▶ /data/ledger, then "closed <last>" ─▶ /data/state, both durable      accepting waits
//!   go on: "open <last>" ─▶ /data/state
//!   /data/pulse: the time, every few milliseconds, so that a pause of writing is seen from inside
//! ```
//! So the file system of a point tells by itself whether the guest was at rest: `closed n` and exactly n entries, or neither.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use crate::now_us;

/// Where `init.sh` mounts the file system.
pub const DATA: &str = "/data";
const ACCEPTS_EVERY: Duration = Duration::from_millis(20);
/// Entries are written out when so many are in memory.
const MEMORY_ENTRIES: usize = 64;
const PULSE_EVERY: Duration = Duration::from_millis(10);
/// The pulse begins anew at this length, and so does the ledger: the file system is small.
const LONGEST_FILE_BYTES: u64 = 4 << 20;

/// One application, shared by its threads.
#[derive(Default)]
pub struct Application(Mutex<Books>);

#[derive(Default)]
struct Books {
    /// Number of the last entry that was accepted.
    last: u64,
    /// Accepted and not written out.
    memory: Vec<u64>,
    resting: bool,
}

impl Application {
    /// Opens the books and accepts entries for as long as the guest runs.
    pub fn run(self: &Arc<Self>) -> io::Result<()> {
        // What an earlier boot has written is not gone on with.
        for file in ["ledger", "pulse"] {
            File::create(path(file))?;
        }
        state("open", 0)?;
        let accepting = Arc::clone(self);
        thread::spawn(move || {
            loop {
                thread::sleep(ACCEPTS_EVERY);
                report("an entry", accepting.accept());
            }
        });
        thread::spawn(|| {
            loop {
                report("the pulse", append("pulse", &[now_us()]));
                thread::sleep(PULSE_EVERY);
            }
        });
        Ok(())
    }

    fn accept(&self) -> io::Result<()> {
        let mut books = self.books();
        if books.resting {
            return Ok(());
        }
        books.last += 1;
        let last = books.last;
        books.memory.push(last);
        if books.memory.len() >= MEMORY_ENTRIES { books.write_out() } else { Ok(()) }
    }

    /// Comes to rest or goes on; returns the last entry.
    pub fn rest(&self, resting: bool) -> io::Result<u64> {
        let mut books = self.books();
        books.resting = resting;
        if resting {
            books.write_out()?;
            File::open(path("ledger"))?.sync_all()?;
        }
        state(if resting { "closed" } else { "open" }, books.last)?;
        Ok(books.last)
    }

    fn books(&self) -> std::sync::MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    fn write_out(&mut self) -> io::Result<()> {
        append("ledger", &self.memory)?;
        self.memory.clear();
        Ok(())
    }
}

fn path(file: &str) -> String {
    format!("{DATA}/{file}")
}

/// One number per line.
fn append(file: &str, numbers: &[u64]) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).open(path(file))?;
    if file.metadata()?.len() > LONGEST_FILE_BYTES {
        file.set_len(0)?;
    }
    let lines: String = numbers.iter().map(|number| format!("{number}\n")).collect();
    file.write_all(lines.as_bytes())
}

/// Whole or not at all, and durable.
fn state(word: &str, last: u64) -> io::Result<()> {
    let fresh = path("state.new");
    let mut file = File::create(&fresh)?;
    writeln!(file, "{word} {last}")?;
    file.sync_all()?;
    fs::rename(&fresh, path("state"))?;
    File::open(DATA)?.sync_all()
}

fn report(what: &str, done: io::Result<()>) {
    if let Err(error) = done {
        println!("understudy-lab-guest: {what} was not written: {error}");
    }
}
