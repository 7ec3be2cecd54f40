//! What a lab guest runs as process 1, after `init.sh` has loaded the drivers: the journal, the HTTP page and the
//! power button. std-only, because `build.rs` links it statically for the initramfs.
//!
//! ```text
//!   power button ──▶ stop ──┐
//!                           ▼
//!   find last record ──▶ write n+1, n+2, … (O_DIRECT|O_DSYNC, one at a time) ──▶ sync ──▶ power off
//!                           │ last number
//!                           ▼
//!   HTTP :80  /  and  /reach?host=…&port=…
//! ```
//!
//! The promise: record n is durable before record n+1 is begun, also when they lie on different disks; a number is never
//! skipped and never used twice; a clean shutdown ends after a whole record.

mod agent;
mod application;
mod disk;
mod http;
#[path = "../journal/record.rs"]
mod record;
mod talk;

use std::{
    fs,
    io::Read,
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use agent::GuestAgent;
use application::Application;
use disk::Disks;
use talk::{Line, Talk};

/// Between two attempts to reach the follower.
const RETRY: Duration = Duration::from_millis(100);

/// What the boot loader's command line says about this machine: `us.host=web1 us.disks=1 us.rate=10 us.dirty=0 us.agent=0
/// us.leads=192.168.50.12`.
struct Settings {
    host: String,
    disks: u32,
    /// Journal records per second.
    rate: u64,
    /// KiB per second of scratch writes besides the journal.
    dirty_kib: u64,
    /// It has a file system, an application on it, and an agent.
    agent: bool,
    talk: Talk,
}

/// What the threads tell each other.
struct Shared {
    host: String,
    boot_id: String,
    disks: u32,
    last: AtomicU64,
    stop: AtomicBool,
    /// The power button does nothing for now.
    deaf: AtomicBool,
    application: Arc<Application>,
    agent: GuestAgent,
}

fn main() {
    // Started by mistake on a real machine this program would write to its disks.
    if process::id() != 1 {
        eprintln!("understudy-lab-guest runs only as process 1 of a lab guest");
        process::exit(2);
    }
    let settings = settings(&fs::read_to_string("/proc/cmdline").unwrap_or_default());
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    let shared = Arc::new(Shared {
        host: settings.host.clone(),
        boot_id,
        disks: settings.disks,
        last: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        deaf: AtomicBool::new(false),
        application: Arc::default(),
        agent: GuestAgent::default(),
    });
    watch_power_button(&shared);
    let disks =
        Disks::open(settings.disks).unwrap_or_else(|error| halt(&format!("cannot open the disks: {error}")));
    let last = disks.last_record().unwrap_or_else(|error| halt(&format!("cannot read the journal: {error}")));
    shared.last.store(last, Ordering::SeqCst);
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let uptime = uptime.split(' ').next().unwrap_or_default();
    println!("understudy-lab-guest: {} goes on after record {last}, {uptime} s after boot", settings.host);
    let page = Arc::clone(&shared);
    thread::spawn(move || http::serve(&page));
    if settings.dirty_kib > 0 {
        thread::spawn(move || disk::dirty_scratch(settings.dirty_kib));
    }
    if settings.agent {
        with_agent(&shared).unwrap_or_else(|error| halt(&format!("no application or no agent: {error}")));
    }
    match settings.talk {
        Talk::Follows => follow(&shared, &disks)
            .unwrap_or_else(|error| halt(&format!("it cannot be told anything: {error}"))),
        Talk::Alone | Talk::Leads(_) => write_journal(&shared, &disks, settings.rate, settings.talk),
    }
    println!("understudy-lab-guest: powering off after record {}", shared.last.load(Ordering::SeqCst));
    power_off();
}

/// The application runs before its agent can be asked to bring it to rest.
fn with_agent(shared: &Shared) -> std::io::Result<()> {
    shared.application.run()?;
    shared.agent.set(true)
}

fn settings(cmdline: &str) -> Settings {
    let value =
        |name: &str| cmdline.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let number = |name: &str, default: u64| value(name).and_then(|text| text.parse().ok()).unwrap_or(default);
    Settings {
        host: value("us.host").unwrap_or("unnamed").to_owned(),
        disks: number("us.disks", 1).clamp(1, 8) as u32,
        rate: number("us.rate", 10).clamp(1, 1000),
        dirty_kib: number("us.dirty", 0),
        agent: number("us.agent", 0) == 1,
        talk: match value("us.leads").and_then(|follower| follower.parse().ok()) {
            Some(follower) => Talk::Leads(follower),
            None if number("us.follows", 0) == 1 => Talk::Follows,
            None => Talk::Alone,
        },
    }
}

/// Writes records at the given rate until told to stop. A failing write is tried again with the same number, so that
/// an error of the storage shows as a pause and not as a hole.
fn write_journal(shared: &Shared, disks: &Disks, rate: u64, talk: Talk) {
    let period = Duration::from_micros(1_000_000 / rate);
    let mut line = Line::default();
    let mut due = Instant::now();
    while !shared.stop.load(Ordering::SeqCst) {
        let number = shared.last.load(Ordering::SeqCst) + 1;
        match append(shared, disks, number) {
            Ok(()) => shared.last.store(number, Ordering::SeqCst),
            Err(error) => println!("understudy-lab-guest: record {number} not written: {error}"),
        }
        if let Talk::Leads(follower) = talk {
            tell(shared, &mut line, follower);
        }
        // A machine that was paused does not catch up in a burst.
        due = (due + period).max(Instant::now());
        thread::sleep(due - Instant::now().min(due));
    }
}

/// Makes one record durable.
fn append(shared: &Shared, disks: &Disks, number: u64) -> std::io::Result<()> {
    let (disk, _) = record::place(number, shared.disks);
    let boot = boot_bytes(&shared.boot_id);
    disks.append(&record::Record { number, time_us: now_us(), boot, disk, disks: shared.disks })
}

/// Returns when the follower has the last record, or the machine is to stop.
fn tell(shared: &Shared, line: &mut Line, follower: std::net::Ipv4Addr) {
    while !shared.stop.load(Ordering::SeqCst) {
        match line.tell(follower, shared.last.load(Ordering::SeqCst)) {
            Ok(()) => return,
            Err(error) => println!("understudy-lab-guest: the follower does not answer: {error}"),
        }
        thread::sleep(RETRY);
    }
}

fn follow(shared: &Shared, disks: &Disks) -> std::io::Result<()> {
    talk::follow(shared, |number| append(shared, disks, number))
}

fn now_us() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

fn boot_bytes(boot_id: &str) -> [u8; 16] {
    let digits: String = boot_id.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).unwrap_or(0).to_be_bytes()
}

/// Sets `stop` when any input device reports the power key, which is how ACPI asks a machine to shut down.
fn watch_power_button(shared: &Arc<Shared>) {
    const EVENT_BYTES: usize = 24;
    const EV_KEY: u16 = 1;
    const KEY_POWER: u16 = 116;
    let devices = fs::read_dir("/dev/input").into_iter().flatten().flatten();
    for device in devices.filter(|entry| entry.file_name().to_string_lossy().starts_with("event")) {
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            let Ok(mut events) = fs::File::open(device.path()) else { return };
            let mut event = [0; EVENT_BYTES];
            while events.read_exact(&mut event).is_ok() {
                let kind = u16::from_ne_bytes([event[16], event[17]]);
                let code = u16::from_ne_bytes([event[18], event[19]]);
                if kind == EV_KEY && code == KEY_POWER && !shared.deaf.load(Ordering::SeqCst) {
                    shared.stop.store(true, Ordering::SeqCst);
                }
            }
        });
    }
}

/// A guest without its journal proves nothing, so it stops where the serial log shows why.
fn halt(reason: &str) -> ! {
    println!("understudy-lab-guest: {reason}");
    power_off()
}

fn power_off() -> ! {
    const RB_POWER_OFF: i32 = 0x4321_fedc;
    unsafe extern "C" {
        safe fn sync();
        safe fn reboot(command: i32) -> i32;
    }
    sync();
    reboot(RB_POWER_OFF);
    loop {
        thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_names_the_machine() {
        let read =
            settings("BOOT_IMAGE=vmlinuz quiet us.host=db1 us.disks=2 us.rate=20 us.dirty=64 us.agent=1\n");
        assert_eq!((read.host.as_str(), read.disks, read.rate, read.dirty_kib), ("db1", 2, 20, 64));
        assert!(read.agent);
        let bare = settings("quiet us.hostile=x");
        assert_eq!((bare.host.as_str(), bare.disks, bare.rate, bare.dirty_kib), ("unnamed", 1, 10, 0));
        assert!(!bare.agent);
        assert_eq!((bare.talk, read.talk), (Talk::Alone, Talk::Alone));
        assert_eq!(settings("us.leads=10.0.0.2").talk, Talk::Leads([10, 0, 0, 2].into()));
        assert_eq!(settings("us.leads= us.follows=1").talk, Talk::Follows);
    }

    #[test]
    fn a_boot_id_keeps_its_digits() {
        let bytes = boot_bytes("00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(bytes[..3], [0x00, 0x11, 0x22]);
        assert_eq!(bytes[15], 0xff);
    }
}
