//! The rows of the table: who is measured against whom, and what is wanted.

use std::{cell::RefCell, fs, io::BufRead as _, path::Path, process::Stdio, time::Duration};

use anyhow::Context as _;
use understudy_ids::ItemName;
use understudy_replication::RangeSet;

use crate::{
    Options,
    agent::{Ask, Told},
    delay, fleet,
    image::{self, Images},
    measure::{Contender, Sample, all_in_turn, in_turn, least},
    ours::{self, Pair},
    peers::{self, Backup, QemuIncremental, Rsync},
    place::{self, Filler},
    table::Rows,
};

/// What all groups of rows share.
struct Bench<'a> {
    dir: &'a Path,
    images: Images,
    /// Not for a guard, whose figure is CPU time on a small image.
    filler: Option<RefCell<Filler>>,
    rounds: usize,
    rows: Rows,
}

type Group = fn(&mut Bench<'_>) -> anyhow::Result<()>;

const GROUPS: &[(&str, Group)] = &[
    ("stream", stream),
    ("full", full),
    ("compressed", compressed),
    ("delta", delta),
    ("resync", resync),
    ("points", points),
    ("branch", branch),
    ("large", large),
    ("age", age),
];

/// Programs of the peers, and the Debian packages that they are in.
const PEERS: &[(&str, &str)] = &[
    ("nbdcopy", "libnbd-bin"),
    ("nbdkit", "nbdkit"),
    ("qemu-nbd", "qemu-utils"),
    ("qemu-storage-daemon", "qemu-system-x86"),
    ("rsync", "rsync"),
    ("borg", "borgbackup"),
    ("restic", "restic"),
    ("zstd", "zstd"),
    ("nc", "netcat-openbsd"),
    ("mke2fs", "e2fsprogs"),
];

pub fn replication(options: &Options) -> anyhow::Result<()> {
    place::need(PEERS)?;
    println!("Load when it began: {}.", place::load());
    fs::create_dir_all(&options.dir)?;
    // Before the images are read, so that they are what is read last.
    let mut filler = Filler::new(&options.dir)?;
    filler.fill()?;
    let images = Images::prepare(&options.dir, options.size_mib)?;
    println!(
        "Image: {} MiB with {} MB of data; {} MB change.",
        images.size >> 20,
        images.data.bytes() / 1_000_000,
        images.changed.bytes() / 1_000_000
    );
    ours::certificates(&options.dir)?;
    let mut bench = Bench {
        dir: &options.dir,
        images,
        filler: Some(RefCell::new(filler)),
        rounds: options.rounds,
        rows: Rows::default(),
    };
    let wanted = |name: &str| options.only.as_deref().is_none_or(|only| name.contains(only));
    for (name, group) in GROUPS.iter().filter(|(name, _)| wanted(name)) {
        eprintln!("{name}");
        group(&mut bench).with_context(|| (*name).to_owned())?;
    }
    bench.rows.print();
    Ok(())
}

impl Bench<'_> {
    /// Before a copy: what it is written to is memory that the machine has at hand.
    fn fill_memory(&self) -> anyhow::Result<()> {
        self.filler.as_ref().map_or(Ok(()), |filler| filler.borrow_mut().fill())
    }

    fn pki(&self) -> std::path::PathBuf {
        self.dir.join("pki")
    }
}

/// One contender that copies to `copy.img`, compared afterwards, before a time counts.
fn copies<'a>(
    bench: &'a Bench<'_>,
    name: &'static str,
    mut copy: impl FnMut(&Path) -> anyhow::Result<Sample> + 'a,
) -> Contender<'a> {
    let target = bench.dir.join("copy.img");
    let run = move || {
        place::remove(&target)?;
        let target = peers::target(bench.dir, bench.images.size)?;
        bench.fill_memory()?;
        let sample = copy(&target)?;
        image::same(&bench.images.base, &target)?;
        Ok(sample)
    };
    (name, Box::new(run))
}

/// The first copy.
fn full(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let (dir, pki, base) = (bench.dir, bench.pki(), bench.images.base.clone());
    let rsync = Rsync::start(dir)?;
    let mut pair = Pair::start(dir, bench.images.size)?;
    pair.exchange(&base, None)?;
    let mut peak = 0;
    let medians = {
        let bench = &*bench;
        let mut first = || {
            let item = pair.fresh_item()?;
            pair.prepare(&item)?;
            bench.fill_memory()?;
            let (sample, told) = pair.first(&item, None)?;
            pair.check(&item, told.seq, &bench.images.base)?;
            pair.remove(&item)?;
            peak = pair.target.ask(&Ask::Usage)?.peak_bytes;
            Ok(sample)
        };
        let mut contenders: Vec<Contender<'_>> = vec![
            ("ours", Box::new(&mut first)),
            copies(bench, "floor, durable", |to| {
                peers::floor(&pki, &bench.images.base, to, &bench.images.data, true, false)
            }),
            copies(bench, "floor", |to| {
                peers::floor(&pki, &bench.images.base, to, &bench.images.data, false, false)
            }),
            copies(bench, "nbdcopy to qemu-nbd", |to| peers::nbdcopy_to_qemu_nbd(&bench.images.base, to)),
            copies(bench, "nbdcopy to nbdkit", |to| peers::nbdcopy_to_nbdkit(&bench.images.base, to)),
            copies(bench, "nbdcopy over TLS", |to| peers::nbdcopy_over_tls(&pki, &bench.images.base, to)),
            copies(bench, "rsync", |_| rsync.copy(&bench.images.base, false)),
        ];
        in_turn(&mut contenders, bench.rounds)?
    };
    let [ours, durable, _, qemu_nbd, nbdkit, tls, rsync] = medians[..] else {
        anyhow::bail!("a contender is missing")
    };
    let rows = &mut bench.rows;
    let what = "full copy: mTLS, digests, durable, verified";
    rows.speed(what, ours.wall, "floor, durable", durable.wall, 0.85);
    rows.speed(what, ours.wall, "nbdcopy → qemu-nbd", qemu_nbd.wall, 1.4);
    rows.speed(what, ours.wall, "nbdcopy → nbdkit", nbdkit.wall, 0.7);
    rows.speed(what, ours.wall, "nbdcopy over TLS", tls.wall, 5.0);
    rows.speed(what, ours.wall, "rsync daemon", rsync.wall, 2.0);
    let gb = bench.images.data.bytes() as f64 / 1e9;
    let per_gb = |sample: Sample| sample.cpu.as_secs_f64() / gb;
    rows.cost("full copy: CPU per GB", per_gb(ours), "s", "floor, durable", per_gb(durable), 1.15);
    rows.absolute(
        "memory of the receiving agent, at most",
        peak as f64 / 1048576.0,
        "MiB",
        64.0 + 4.0 * 64.0,
    );
    Ok(())
}

/// A line that is slower than what two processors compress.
const SLOW_LINE: f64 = 200e6;

/// The first copy over a slow line, where the agents see by themselves that compression pays.
fn compressed(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let dir = bench.dir;
    let mut pair = Pair::start(dir, bench.images.size)?;
    pair.exchange(&bench.images.base, None)?;
    let target = pair.target.endpoint.strip_prefix("https://").context("an endpoint")?.parse()?;
    let mut sent = 0;
    let medians = {
        let bench = &*bench;
        let mut ours = || {
            let item = pair.fresh_item()?;
            pair.prepare(&item)?;
            let near = delay::line(target, Duration::ZERO, Some(SLOW_LINE))?;
            let (sample, told) = pair.first(&item, Some(format!("https://{near}")))?;
            pair.check(&item, told.seq, &bench.images.base)?;
            pair.remove(&item)?;
            sent = told.sent_bytes;
            Ok(sample)
        };
        let mut contenders: Vec<Contender<'_>> = vec![
            ("ours, 200 MB/s", Box::new(&mut ours)),
            copies(bench, "zstd | nc, 200 MB/s", |to| {
                peers::zstd_through_nc(&bench.images.base, to, SLOW_LINE)
            }),
        ];
        in_turn(&mut contenders, bench.rounds.min(3))?
    };
    let [ours, nc] = medians[..] else { anyhow::bail!("a contender is missing") };
    let packed = peers::zstd_bytes(&bench.images.base, dir)?;
    let rows = &mut bench.rows;
    let what = "full copy, compressed, line of 200 MB/s";
    rows.speed(what, ours.wall, "zstd -1 | nc | zstd -d", nc.wall, 1.5);
    rows.cost("compressed: payload", sent as f64 / 1e6, "MB", "zstd -1", packed as f64 / 1e6, 1.03);
    Ok(())
}

/// Changes that are known.
fn delta(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let (dir, pki) = (bench.dir, bench.pki());
    let mut pair = Pair::start(dir, bench.images.size)?;
    let item = pair.fresh_item()?;
    let mut walk = Walk::begin(&mut pair, dir, &bench.images, item)?;
    let target = peers::target(dir, bench.images.size)?;
    peers::floor(&pki, &bench.images.base, &target, &bench.images.data, false, false)?;
    let mut qemu = QemuIncremental::start(dir, &bench.images, &target)?;
    let medians = {
        let bench = &*bench;
        let mut ours = || walk.step(bench);
        let mut contenders: Vec<Contender<'_>> = vec![
            ("ours", Box::new(&mut ours)),
            (
                "floor, durable",
                Box::new(|| {
                    let (from, what) = (&bench.images.variant, &bench.images.changed);
                    peers::floor(&pki, from, &target, what, true, false)
                }),
            ),
            ("QEMU's incremental backup", Box::new(|| qemu.cycle())),
        ];
        in_turn(&mut contenders, bench.rounds)?
    };
    let [ours, durable, qemu] = medians[..] else { anyhow::bail!("a contender is missing") };
    let empty = walk.empty(bench)?;
    let rows = &mut bench.rows;
    let what = "delta of 2 %, changes known";
    rows.cost(what, ours.wall.as_secs_f64(), "s", "floor, durable", durable.wall.as_secs_f64(), 1.25);
    rows.speed(what, ours.wall, "QEMU's incremental, plain, not durable", qemu.wall, 1.0);
    let changed = bench.images.changed.bytes() as f64;
    rows.cost("delta: bytes on the wire", ours.wire as f64 / 1e6, "MB", "changed", changed / 1e6, 1.01);
    rows.absolute("empty cycle", empty.wall.as_secs_f64() * 1e3, "ms", 5.0);
    Ok(())
}

/// An item whose disk goes to and fro between the two images.
struct Walk<'a> {
    pair: &'a mut Pair,
    item: ItemName,
    ranges: std::path::PathBuf,
    at_variant: bool,
}

impl<'a> Walk<'a> {
    fn begin(pair: &'a mut Pair, dir: &Path, images: &Images, item: ItemName) -> anyhow::Result<Self> {
        let ranges = dir.join("changed.ranges");
        crate::floor::write_ranges(&ranges, images.changed.iter())?;
        pair.exchange(&images.base, None)?;
        pair.prepare(&item)?;
        pair.first(&item, None)?;
        Ok(Self { pair, item, ranges, at_variant: false })
    }

    fn step(&mut self, bench: &Bench<'_>) -> anyhow::Result<Sample> {
        Ok(self.step_checked(bench)?.0)
    }

    /// A cycle whose point is compared with the image.
    fn step_checked(&mut self, bench: &Bench<'_>) -> anyhow::Result<(Sample, Told)> {
        let (sample, told) = self.change(&bench.images)?;
        let file = if self.at_variant { &bench.images.variant } else { &bench.images.base };
        self.pair.check(&self.item, told.seq, file)?;
        Ok((sample, told))
    }

    fn change(&mut self, images: &Images) -> anyhow::Result<(Sample, Told)> {
        self.at_variant = !self.at_variant;
        let file = if self.at_variant { &images.variant } else { &images.base };
        self.pair.exchange(file, Some(&self.ranges))?;
        self.pair.cycle(&self.item)
    }

    fn empty(&mut self, bench: &Bench<'_>) -> anyhow::Result<Sample> {
        let none = bench.dir.join("none.ranges");
        fs::write(&none, "")?;
        let file = if self.at_variant { &bench.images.variant } else { &bench.images.base };
        let (pair, item) = (&mut *self.pair, &self.item);
        let mut contenders: Vec<Contender<'_>> = vec![(
            "empty cycle",
            Box::new(|| {
                pair.exchange(file, Some(&none))?;
                Ok(pair.cycle(item)?.0)
            }),
        )];
        Ok(in_turn(&mut contenders, bench.rounds * 4)?[0])
    }
}

/// Changes that are not known.
fn resync(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let (dir, pki) = (bench.dir, bench.pki());
    let rsync = Rsync::start(dir)?;
    let mut pair = Pair::start(dir, bench.images.size)?;
    let item = pair.fresh_item()?;
    pair.exchange(&bench.images.base, None)?;
    pair.prepare(&item)?;
    pair.first(&item, None)?;
    let target = peers::target(dir, bench.images.size)?;
    let medians = {
        let bench = &*bench;
        let mut at_variant = false;
        let mut ours = || {
            at_variant = !at_variant;
            let file = if at_variant { &bench.images.variant } else { &bench.images.base };
            pair.exchange(file, None)?;
            let (sample, told) = pair.cycle(&item)?;
            pair.check(&item, told.seq, file)?;
            Ok(sample)
        };
        // What the copy holds before each peer's turn.
        let base = || peers::floor(&pki, &bench.images.base, &target, &bench.images.changed, false, false);
        peers::floor(&pki, &bench.images.base, &target, &bench.images.data, false, false)?;
        let mut contenders: Vec<Contender<'_>> = vec![
            ("ours", Box::new(&mut ours)),
            (
                "floor, comparing",
                Box::new(|| {
                    base()?;
                    let (from, what) = (&bench.images.variant, &bench.images.data);
                    let sample = peers::floor(&pki, from, &target, what, true, true)?;
                    image::same(from, &target)?;
                    Ok(sample)
                }),
            ),
            (
                "rsync",
                Box::new(|| {
                    base()?;
                    let sample = rsync.copy(&bench.images.variant, true)?;
                    image::same(&bench.images.variant, &target)?;
                    Ok(sample)
                }),
            ),
        ];
        in_turn(&mut contenders, bench.rounds)?
    };
    let [ours, floor, rsync] = medians[..] else { anyhow::bail!("a contender is missing") };
    let rows = &mut bench.rows;
    rows.speed("resync by digests", ours.wall, "floor, both ends read", floor.wall, 0.85);
    rows.speed("resync by digests", ours.wall, "rsync daemon", rsync.wall, 3.0);
    // The goals' figures, measured elsewhere on the same image: 3.25 s and 0.33 s beside a floor of 1.31 s for the full copy.
    Ok(())
}

/// Recovery points against backups.
fn points(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let dir = bench.dir;
    let mut pair = Pair::start(dir, bench.images.size)?;
    let item = pair.fresh_item()?;
    let mut walk = Walk::begin(&mut pair, dir, &bench.images, item.clone())?;
    let disk = dir.join("disk.img");
    let (borg, restic) = (Backup::borg(dir)?, Backup::restic(dir)?);
    let medians = {
        let bench = &*bench;
        let mut serial = 0;
        let mut backup = |of: &Backup| {
            serial += 1;
            let from = if serial % 4 < 2 { &bench.images.variant } else { &bench.images.base };
            place::remove(&disk)?;
            place::run(
                std::process::Command::new("cp").args(["--sparse=always", "--"]).arg(from).arg(&disk),
            )?;
            of.take(&disk, &format!("b{serial}"))
        };
        // The first ones take everything.
        backup(&borg)?;
        backup(&restic)?;
        let mut samples = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..bench.rounds.min(3) {
            samples.0.push(walk.step(bench)?);
            samples.1.push(backup(&borg)?);
            samples.2.push(backup(&restic)?);
        }
        [samples.0, samples.1, samples.2].map(|s| crate::measure::median(&s))
    };
    place::remove(&disk)?;
    let [ours, borg, restic] = medians;
    bench.rows.speed("second recovery point", ours.wall, "borg create", borg.wall, 15.0);
    bench.rows.speed("second recovery point", ours.wall, "restic backup", restic.wall, 40.0);
    Ok(())
}

/// A test from the latest of many points: how fast its disk is there, and how fast it is.
fn branch(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    const POINTS: usize = 48;
    let (dir, size) = (bench.dir, bench.images.size);
    let mut pair = Pair::start(dir, size)?;
    let item = pair.fresh_item()?;
    let mut walk = Walk::begin(&mut pair, dir, &bench.images, item.clone())?;
    for _ in 1..POINTS {
        walk.change(&bench.images)?;
    }
    let latest = walk.step_checked(bench)?.1.seq;
    let mut branches: Vec<u64> = Vec::new();
    for _ in 0..bench.rounds {
        branches.push(pair.target.ask(&Ask::Branch { item: item.clone() })?.nanos);
    }
    branches.sort_unstable();
    let median = branches.get(branches.len() / 2).copied().unwrap_or(0);
    bench.rows.absolute(&format!("branch of {POINTS} points"), median as f64 / 1e6, "ms", 100.0);

    let stacked = pair.disk(&item, latest);
    let flat = dir.join("flat.qcow2");
    place::remove(&flat)?;
    peers::flatten(&stacked, &flat)?;
    let mut contenders: Vec<Contender<'_>> = vec![
        ("stacked", Box::new(|| peers::read_by_qemu(&stacked))),
        ("flat", Box::new(|| peers::read_by_qemu(&flat))),
    ];
    let medians = in_turn(&mut contenders, bench.rounds)?;
    let [stacked, one] = medians[..] else { anyhow::bail!("a contender is missing") };
    bench.rows.speed(&format!("QEMU reads {POINTS} points"), stacked.wall, "one flat qcow2", one.wall, 0.8);
    place::remove(&flat)
}

/// What a disk's size costs: the same content and the same changes on a disk of 4 TiB that is otherwise empty.
fn large(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    const SIZE: u64 = 4 << 40;
    let (base, variant) = (bench.dir.join("large-base.img"), bench.dir.join("large-variant.img"));
    for (from, to) in [(&bench.images.base, &base), (&bench.images.variant, &variant)] {
        image::enlarged(from, to, SIZE)?;
    }
    let big = Images { base, variant, size: SIZE, ..bench.images.clone() };
    let (one_dir, other_dir) = (bench.dir.join("small"), bench.dir.join("large"));
    for dir in [&one_dir, &other_dir] {
        fs::create_dir_all(dir)?;
        ours::certificates(dir)?;
    }
    let mut one = Pair::start(&one_dir, bench.images.size)?;
    // Prepared for the image's size, as for a disk that has grown since: a whole 4 TiB of space would be asked for otherwise.
    let mut other = Pair::start(&other_dir, bench.images.size)?;
    let (item, large_item) = (one.fresh_item()?, other.fresh_item()?);
    let mut small = Walk::begin(&mut one, bench.dir, &bench.images, item)?;
    let mut walk = Walk::begin(&mut other, bench.dir, &big, large_item)?;
    let medians = {
        let bench = &*bench;
        let mut contenders: Vec<Contender<'_>> = vec![
            ("4 TiB", Box::new(|| Ok(walk.change(&big)?.0))),
            ("the image's size", Box::new(|| Ok(small.change(&bench.images)?.0))),
        ];
        in_turn(&mut contenders, bench.rounds)?
    };
    let [huge, usual] = medians[..] else { anyhow::bail!("a contender is missing") };
    let wall = |sample: Sample| sample.wall.as_secs_f64();
    let rows = &mut bench.rows;
    rows.cost("delta of a disk of 4 TiB", wall(huge), "s", "of 4 GiB", wall(usual), 1.05);
    for (side, name) in [(&mut other.source, "source"), (&mut other.target, "target")] {
        let peak = side.ask(&Ask::Usage)?.peak_bytes as f64 / 1048576.0;
        rows.absolute(&format!("memory with a disk of 4 TiB, {name}"), peak, "MiB", 256.0);
    }
    drop((one, other));
    for path in [&big.base, &big.variant, &one_dir, &other_dir] {
        place::remove(path)?;
    }
    Ok(())
}

/// How old the latest points of many machines become that write all the time.
fn age(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    const INTERVAL: Duration = Duration::from_secs(5);
    /// Time for all of them to have fallen into step.
    const SETTLED: Duration = Duration::from_secs(15);
    const WATCHED: u64 = 60;
    const MIB: u64 = 1 << 20;
    let observed = |count: u64, bytes_per_s: u64| -> anyhow::Result<[f64; 3]> {
        let mut pair = Pair::start(bench.dir, fleet::DISK_SIZE)?;
        bench.fill_memory()?;
        pair.fleet(count, bytes_per_s, INTERVAL)?;
        std::thread::sleep(SETTLED);
        let ages = pair.source.ask(&Ask::Ages { seconds: WATCHED })?.ages;
        let store = pair.target.dir.join("store");
        pair.source.ask(&Ask::Settle { store })?;
        eprintln!("  {count} disks: median {:.2} s, p99 {:.2} s, highest {:.2} s", ages[0], ages[1], ages[2]);
        Ok(ages)
    };
    let [_, ten, _] = observed(10, 2 * MIB)?;
    let [_, many, _] = observed(200, MIB)?;
    // What the floor takes for what all of them write in an interval.
    let bytes = 200 * INTERVAL.as_secs() * MIB;
    let mut left = bytes;
    let ranges = bench.images.data.iter().map_while(|range| {
        let end = range.end.min(range.start + left);
        left -= end - range.start;
        (range.start < end).then(|| understudy_ids::ByteRange::new(range.start, end))
    });
    let ranges: RangeSet = ranges.collect();
    anyhow::ensure!(ranges.bytes() == bytes, "the image has too little data; use a larger one");
    let (pki, target) = (bench.pki(), peers::target(bench.dir, bench.images.size)?);
    let mut contenders: Vec<Contender<'_>> = vec![(
        "floor, durable",
        Box::new(|| peers::floor(&pki, &bench.images.base, &target, &ranges, true, false)),
    )];
    let floor = in_turn(&mut contenders, bench.rounds.min(3))?[0].wall;
    let most = (INTERVAL + floor.mul_f64(1.2)).as_secs_f64();
    let rows = &mut bench.rows;
    rows.absolute("age of points, 10 disks × 2 MiB/s each 5 s, p99", ten, "s", 7.0);
    rows.cost("age of points, 200 disks × 1 MiB/s each 5 s, p99", many, "s", "5 s + 1.2 × floor", most, 1.0);
    Ok(())
}

/// The stream alone.
fn stream(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    const BYTES: u64 = 4 << 30;
    let (dir, rounds) = (bench.dir, bench.rounds);
    let mut contenders: Vec<Contender<'_>> = vec![
        ("ours", Box::new(|| streamed(dir, "ours", BYTES, &[], None))),
        ("TLS over TCP", Box::new(|| streamed(dir, "raw", BYTES, &[], None))),
    ];
    let medians = in_turn(&mut contenders, rounds)?;
    let [ours, raw] = medians[..] else { anyhow::bail!("a contender is missing") };
    bench.rows.speed("bulk stream over TLS", ours.wall, "rustls over TCP", raw.wall, 0.9);
    let far = Some(Duration::from_millis(20));
    let mut contenders: Vec<Contender<'_>> = vec![
        ("ours, 20 ms away", Box::new(|| streamed(dir, "ours", BYTES, &[], far))),
        ("defaults, 20 ms away", Box::new(|| streamed(dir, "ours", BYTES / 32, &["--defaults"], far))),
    ];
    let medians = in_turn(&mut contenders, rounds.min(3))?;
    let [ours, defaults] = medians[..] else { anyhow::bail!("a contender is missing") };
    let what = "bulk stream, 20 ms round trip";
    bench.rows.speed(what, ours.wall, "tonic's own windows (of the same bytes)", defaults.wall * 32, 25.0);
    Ok(())
}

fn streamed(
    dir: &Path,
    kind: &str,
    bytes: u64,
    flags: &[&str],
    round_trip: Option<Duration>,
) -> anyhow::Result<Sample> {
    let pki = |side: &str| match kind {
        "raw" => dir.join("pki"),
        _ => dir.join(side).join("pki"),
    };
    let (near, far) = (pki("alpha"), pki("bravo"));
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let count = bytes.to_string();
    let mut words = vec!["stream", "receive", kind, "127.0.0.1:0"];
    let far = text(&far);
    words.extend([far.as_str(), &count]);
    words.extend(flags);
    let mut receiver = place::part(&words).stdout(Stdio::piped()).spawn()?;
    let mut ready = String::new();
    let answers = receiver.stdout.take().context("stdout")?;
    std::io::BufReader::new(answers).read_line(&mut ready)?;
    let address = ready.trim().strip_prefix("ready ").context("the receiver did not start")?.parse()?;
    let address = match round_trip {
        Some(round_trip) => delay::line(address, round_trip, None)?,
        None => address,
    };
    let (address, near) = (address.to_string(), text(&near));
    let mut sender = place::part(&["stream", "send", kind, &address, &near, &count]);
    let output = sender.stderr(Stdio::inherit()).output()?;
    let _ = (receiver.kill(), receiver.wait());
    let nanos = String::from_utf8_lossy(&output.stdout);
    let nanos = nanos.trim().parse().context("the sender failed")?;
    Ok(Sample { wall: Duration::from_nanos(nanos), ..Sample::default() })
}

/// What CI guards: figures that hardly depend on how busy the machine is.
pub fn guard(dir: &Path) -> anyhow::Result<()> {
    let images = Images::prepare(dir, 512)?;
    ours::certificates(dir)?;
    let mut bench = Bench { dir, images, filler: None, rounds: 5, rows: Rows::default() };
    let (pki, target) = (bench.pki(), peers::target(dir, bench.images.size)?);
    let mut pair = Pair::start(dir, bench.images.size)?;
    let samples = {
        let bench = &bench;
        pair.exchange(&bench.images.base, None)?;
        let mut ours = || {
            let item = pair.fresh_item()?;
            pair.prepare(&item)?;
            let (sample, told) = pair.first(&item, None)?;
            pair.check(&item, told.seq, &bench.images.base)?;
            pair.remove(&item)?;
            Ok(sample)
        };
        let mut contenders: Vec<Contender<'_>> = vec![
            ("ours", Box::new(&mut ours)),
            (
                "floor, durable",
                Box::new(|| peers::floor(&pki, &bench.images.base, &target, &bench.images.data, true, false)),
            ),
        ];
        all_in_turn(&mut contenders, bench.rounds)?
    };
    let [ours, floor] = &samples[..] else { anyhow::bail!("a contender is missing") };
    let (ours, floor) = (least(ours), least(floor));
    let (data, cpu) = (bench.images.data.bytes() as f64, |s: Sample| s.cpu.as_secs_f64());
    bench.rows.cost("full copy: CPU seconds", cpu(ours), "s", "floor", cpu(floor), 2.0);
    bench.rows.cost("full copy: wire", ours.wire as f64 / 1e6, "MB", "data", data / 1e6, 1.03);
    bench.rows.print();
    drop(pair);
    place::remove(dir)?;
    anyhow::ensure!(bench.rows.all_met(), "replication has become more expensive");
    Ok(())
}
