//! A replica store without its agent: no configuration, no certificates, no service (R-REP-5). Nothing in the store is changed.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    str::FromStr,
    time::{Duration, SystemTime},
};

use anyhow::{Context, bail};
use clap::{Subcommand, ValueEnum};
use comfy_table::Table;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use understudy_ids::{Consistency, DiskName, ItemName, PointSeq, UnixMicros};
use understudy_replica_store::{
    Damage, DiskFormat, DiskManifest, Export, Manifest, PointInfo, PointKind, StoreReader,
};
use understudy_replication::Joint;

use crate::output::{self, Format};

/// Damage was found.
const DAMAGED: u8 = 4;

#[derive(Subcommand)]
pub enum Store {
    /// Items, or the recovery points of one
    List {
        /// The agent's store_dir
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        item: Option<ItemName>,
    },
    /// All there is to know about a recovery point
    Show {
        /// The agent's store_dir
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        item: ItemName,
        /// Number of a point, or latest
        #[arg(long, default_value = "latest")]
        point: PointChoice,
    },
    /// Reads every block of recovery points and compares it with its digest; exit code 4 when something is damaged
    Verify {
        /// The agent's store_dir
        #[arg(long)]
        dir: PathBuf,
        /// Without it: all items
        #[arg(long)]
        item: Option<ItemName>,
        /// Number of a point, or latest; without it: all points
        #[arg(long, requires = "item")]
        point: Option<PointChoice>,
    },
    /// Writes the disks of a recovery point to files of their own, each block verified; never overwrites
    Export {
        /// The agent's store_dir
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        item: ItemName,
        /// Number of a point, or latest: the latest one without damage
        #[arg(long, default_value = "latest")]
        point: PointChoice,
        /// Only this disk; --to is then the file
        #[arg(long)]
        disk: Option<DiskName>,
        /// The directory that is made, with a file per disk and the machine's description
        #[arg(long)]
        to: PathBuf,
        #[arg(long, value_enum, default_value_t = ExportFormat::Qcow2)]
        format: ExportFormat,
        /// Write damaged blocks too, as they can be read, instead of stopping at the first; exit code 4 then
        #[arg(long)]
        allow_damaged: bool,
    },
}

#[derive(Clone, Copy)]
pub enum PointChoice {
    Latest,
    Number(u64),
}

impl FromStr for PointChoice {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "latest" => Ok(Self::Latest),
            number => number.parse().map(Self::Number).map_err(|_| "write a number or latest".to_owned()),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    Raw,
    Qcow2,
}

impl ExportFormat {
    const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

pub fn run(format: Format, verb: Store) -> anyhow::Result<ExitCode> {
    match verb {
        Store::List { dir, item: None } => list_items(&StoreReader::open(&dir)?, format)?,
        Store::List { dir, item: Some(item) } => list_points(&StoreReader::open(&dir)?, &item, format)?,
        Store::Show { dir, item, point } => show(&StoreReader::open(&dir)?, &item, point, format)?,
        Store::Verify { dir, item, point } => {
            return verify(&StoreReader::open(&dir)?, item, point, format);
        }
        Store::Export { dir, item, point, disk, to, format: as_format, allow_damaged } => {
            let store = StoreReader::open(&dir)?;
            let point = choose(&store, &item, point)?;
            let wish =
                Wish { store: &store, point: &point, format: as_format, allow_damaged, output: format };
            return match disk {
                Some(disk) => wish.one_disk(&disk, &to),
                None => wish.whole_point(&to),
            };
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The points of an item, or an error that says what there is instead.
fn points(store: &StoreReader, item: &ItemName) -> anyhow::Result<Vec<PointInfo>> {
    let items = store.items()?;
    if !items.contains(item) {
        let known: Vec<String> = items.iter().map(ToString::to_string).collect();
        bail!("{} has nothing of {item}; it has: {}", store.root().display(), known.join(", "));
    }
    Ok(store.points(item)?)
}

fn choose(store: &StoreReader, item: &ItemName, point: PointChoice) -> anyhow::Result<PointInfo> {
    let points = points(store, item)?;
    match point {
        PointChoice::Latest => points.into_iter().rfind(PointInfo::is_offered).with_context(|| {
            format!("{item} has no recovery point without damage here; list them, and name one by --point")
        }),
        PointChoice::Number(seq) => Ok(store.point(item, PointSeq::new(seq))?),
    }
}

#[derive(Serialize)]
struct ItemRow {
    item: ItemName,
    role: Option<understudy_replica_store::Role>,
    generation: Option<u64>,
    points: usize,
    latest_point: Option<PointSeq>,
    latest_instant: Option<UnixMicros>,
    stored_bytes: u64,
    incoming_bytes: u64,
    overlay_bytes: u64,
    damaged_points: usize,
    last_scrub: Option<UnixMicros>,
}

fn list_items(store: &StoreReader, format: Format) -> anyhow::Result<()> {
    let rows: Vec<ItemRow> =
        store.items()?.into_iter().map(|item| item_row(store, item)).collect::<anyhow::Result<_>>()?;
    let headings = ["ITEM", "ROLE", "GEN", "POINTS", "LATEST", "AGE", "SIZE", "DAMAGED", "LAST SCRUB"];
    output::print(format, &rows, || {
        output::rows(headings, &rows, |r| {
            [
                r.item.to_string(),
                r.role.map(|role| format!("{role:?}").to_lowercase()).unwrap_or_default(),
                output::maybe(&r.generation),
                r.points.to_string(),
                output::maybe(&r.latest_point),
                r.latest_instant.map(age).unwrap_or_default(),
                output::bytes(r.stored_bytes + r.incoming_bytes + r.overlay_bytes),
                some(r.damaged_points as u64),
                output::maybe_time(r.last_scrub),
            ]
        })
    })
}

fn item_row(store: &StoreReader, item: ItemName) -> anyhow::Result<ItemRow> {
    let points = store.points(&item)?;
    let usage = store.usage(&item)?;
    let generation = store.generation(&item)?;
    let latest = points.iter().rfind(|p| p.is_offered()).map(|p| &p.manifest);
    Ok(ItemRow {
        role: generation.map(|g| g.role),
        generation: generation.map(|g| g.highest.get()),
        points: points.iter().filter(|p| p.manifest.kind == PointKind::Recovery).count(),
        latest_point: latest.map(|m| m.seq),
        latest_instant: latest.map(|m| m.instant),
        stored_bytes: usage.points.values().sum(),
        incoming_bytes: usage.incoming,
        overlay_bytes: usage.overlays,
        damaged_points: points.iter().filter(|p| p.damaged_blocks > 0).count(),
        last_scrub: store.scrubs(&item).last.map(|s| s.ended),
        item,
    })
}

#[derive(Serialize)]
struct PointRow {
    point: PointSeq,
    instant: UnixMicros,
    received: UnixMicros,
    age_seconds: u64,
    stored_bytes: u64,
    consistency: Consistency,
    /// Whose instant it is, and with whose points: those of the same instant.
    joint: Option<Joint>,
    kind: PointKind,
    parent: Option<PointSeq>,
    in_use_by: Vec<String>,
    damaged_blocks: u64,
}

fn point_row(point: &PointInfo, stored_bytes: u64) -> PointRow {
    let PointInfo { manifest, pins, damaged_blocks } = point;
    PointRow {
        point: manifest.seq,
        instant: manifest.instant,
        received: manifest.received,
        age_seconds: since(manifest.instant).as_secs(),
        stored_bytes,
        consistency: manifest.consistency,
        joint: manifest.joint.clone(),
        kind: manifest.kind,
        parent: manifest.parent,
        in_use_by: pins.iter().map(ToString::to_string).collect(),
        damaged_blocks: *damaged_blocks,
    }
}

fn list_points(store: &StoreReader, item: &ItemName, format: Format) -> anyhow::Result<()> {
    let points = points(store, item)?;
    let usage = store.usage(item)?.points;
    let size = |p: &PointInfo| usage.get(&p.manifest.seq).copied().unwrap_or(0);
    let rows: Vec<PointRow> = points.iter().map(|p| point_row(p, size(p))).collect();
    let headings =
        ["POINT", "INSTANT", "AGE", "SIZE", "CONSISTENCY", "ON", "IN USE BY", "DAMAGED BLOCKS", "GROUP"];
    output::print(format, &rows, || {
        output::rows(headings, &rows, |r| {
            [
                r.point.to_string(),
                output::time(r.instant),
                age(r.instant),
                output::bytes(r.stored_bytes),
                consistency(r.kind, r.consistency),
                output::maybe(&r.parent),
                r.in_use_by.join(", "),
                some(r.damaged_blocks),
                group(r.joint.as_ref()),
            ]
        })
    })
}

/// Whose instant it is, and how many items have it.
fn group(joint: Option<&Joint>) -> String {
    joint.map_or_else(String::new, |joint| format!("{}, {} items", joint.group, joint.members.len()))
}

fn consistency(kind: PointKind, consistency: Consistency) -> String {
    match kind {
        PointKind::Base => "base, no recovery point".to_owned(),
        PointKind::Recovery => format!("{consistency:?}").to_lowercase(),
    }
}

#[derive(Serialize)]
struct PointDetails<'a> {
    manifest: &'a Manifest,
    in_use_by: Vec<String>,
    damage: Damage,
    files: BTreeMap<DiskName, PathBuf>,
}

fn show(store: &StoreReader, item: &ItemName, point: PointChoice, format: Format) -> anyhow::Result<()> {
    let point = choose(store, item, point)?;
    let manifest = &point.manifest;
    let file = |d: &DiskManifest| Ok((d.name.clone(), store.disk_path(item, manifest.seq, &d.name)?));
    let details = PointDetails {
        manifest,
        in_use_by: point.pins.iter().map(ToString::to_string).collect(),
        damage: store.damage(item, manifest.seq)?,
        files: manifest.disks.iter().map(file).collect::<anyhow::Result<_>>()?,
    };
    output::print(format, &details, || details_table(&details))
}

fn details_table(details: &PointDetails<'_>) -> Table {
    let m = details.manifest;
    let mut facts = vec![
        ("item", m.item.to_string()),
        ("point", m.seq.to_string()),
        ("instant", output::time(m.instant)),
        ("age", age(m.instant)),
        ("received", output::time(m.received)),
        ("generation", m.generation.to_string()),
        ("consistency", consistency(m.kind, m.consistency)),
        ("consistency group", group(m.joint.as_ref())),
        ("stands on", output::maybe(&m.parent)),
        ("in use by", details.in_use_by.join(", ")),
        ("damage", damage(&details.damage)),
    ];
    for disk in &m.disks {
        let file = details.files.get(&disk.name).map(|f| f.display().to_string()).unwrap_or_default();
        let (size, changed) = (output::bytes(disk.size), output::bytes(disk.changed_bytes));
        facts.push(("disk", format!("{}: {size}, {changed} changed, digest {}", disk.name, disk.root)));
        facts.push(("file", file));
    }
    output::facts(&facts)
}

/// The first few ranges, for people.
fn damage(damage: &Damage) -> String {
    const NAMED: usize = 8;
    let disks = damage.disks.iter().map(|(disk, ranges)| {
        let first: Vec<String> = ranges.iter().take(NAMED).map(|r| r.to_string()).collect();
        let more = if ranges.iter().count() > NAMED { " …" } else { "" };
        format!("{disk}: bytes {}{more}", first.join(" "))
    });
    disks.collect::<Vec<_>>().join("; ")
}

#[derive(Serialize)]
struct VerifyRow {
    item: ItemName,
    point: PointSeq,
    damaged_blocks: u64,
    damage: Damage,
}

fn verify(
    store: &StoreReader,
    item: Option<ItemName>,
    point: Option<PointChoice>,
    format: Format,
) -> anyhow::Result<ExitCode> {
    let (items, only) = match (item, point) {
        (Some(item), Some(point)) => {
            let seq = choose(store, &item, point)?.manifest.seq;
            (vec![item], Some(seq))
        }
        (Some(item), None) => {
            points(store, &item)?;
            (vec![item], None)
        }
        (None, _) => (store.items()?, None),
    };
    let total = items.iter().map(|i| store.verify_bytes(i, only)).sum::<Result<u64, _>>()?;
    let bar = bar(format, total);
    let mut rows = Vec::new();
    let mut checked = 0;
    for item in items {
        bar.set_message(item.to_string());
        let verified = store.verify(&item, only, &|bytes| bar.inc(bytes))?;
        checked += verified.checked_blocks;
        rows.extend(verified.points.into_iter().map(|(point, damage)| VerifyRow {
            item: item.clone(),
            point,
            damaged_blocks: damage.total(),
            damage,
        }));
    }
    bar.finish_and_clear();
    output::print(format, &rows, || {
        output::rows(["ITEM", "POINT", "DAMAGED BLOCKS", "WHERE"], &rows, |r| {
            let state = if r.damaged_blocks == 0 { "none".to_owned() } else { r.damaged_blocks.to_string() };
            [r.item.to_string(), r.point.to_string(), state, damage(&r.damage)]
        })
    })?;
    let damaged = rows.iter().filter(|r| r.damaged_blocks > 0).count();
    if format == Format::Table {
        output::say(&format!("{checked} stored blocks read, {damaged} of {} points damaged", rows.len()));
    }
    Ok(ending(damaged > 0))
}

fn ending(damaged: bool) -> ExitCode {
    if damaged { ExitCode::from(DAMAGED) } else { ExitCode::SUCCESS }
}

/// What is to be exported, and how.
struct Wish<'a> {
    store: &'a StoreReader,
    point: &'a PointInfo,
    format: ExportFormat,
    allow_damaged: bool,
    output: Format,
}

#[derive(Serialize)]
struct ExportRow {
    disk: DiskName,
    file: PathBuf,
    format: &'static str,
    size_bytes: u64,
    written_bytes: u64,
    damaged_blocks: u64,
}

/// Beside the disks of a point: what is needed to make the machine again.
#[derive(Serialize)]
struct Description<'a> {
    item: &'a ItemName,
    point: PointSeq,
    instant: UnixMicros,
    consistency: Consistency,
    machine: &'a serde_json::Value,
    disks: &'a [ExportRow],
}

impl Wish<'_> {
    fn one_disk(&self, disk: &DiskName, to: &Path) -> anyhow::Result<ExitCode> {
        let row = self.disk(disk, to)?;
        self.tell(&[row])
    }

    fn whole_point(&self, to: &Path) -> anyhow::Result<ExitCode> {
        fs::create_dir(to).with_context(|| {
            format!("{} cannot be made; name a directory that does not exist yet", to.display())
        })?;
        let manifest = &self.point.manifest;
        let mut rows = Vec::with_capacity(manifest.disks.len());
        for disk in &manifest.disks {
            rows.push(self.disk(&disk.name, &to.join(format!("{}.{}", disk.name, self.format.name())))?);
        }
        let description = Description {
            item: &manifest.item,
            point: manifest.seq,
            instant: manifest.instant,
            consistency: manifest.consistency,
            machine: &manifest.machine,
            disks: &rows,
        };
        let path = to.join("machine.json");
        let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        file.write_all(&serde_json::to_vec_pretty(&description)?)
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::File::open(to)?.sync_all())
            .with_context(|| format!("{} cannot be written", path.display()))?;
        self.tell(&rows)
    }

    fn disk(&self, disk: &DiskName, target: &Path) -> anyhow::Result<ExportRow> {
        let manifest = &self.point.manifest;
        let bar = bar(self.output, manifest.disk(disk).map_or(0, |d| d.size));
        bar.set_message(disk.to_string());
        let export = Export {
            item: &manifest.item,
            seq: manifest.seq,
            disk,
            format: match self.format {
                ExportFormat::Raw => DiskFormat::Raw,
                ExportFormat::Qcow2 => DiskFormat::Qcow2,
            },
            target,
            allow_damaged: self.allow_damaged,
        };
        let done = self.store.export(&export, &|at| bar.set_position(at))?;
        bar.finish_and_clear();
        Ok(ExportRow {
            disk: disk.clone(),
            file: target.to_owned(),
            format: self.format.name(),
            size_bytes: done.size,
            written_bytes: done.written,
            damaged_blocks: done.damaged.bytes() / understudy_replica_store::qcow2::CLUSTER,
        })
    }

    fn tell(&self, rows: &[ExportRow]) -> anyhow::Result<ExitCode> {
        output::print(self.output, &rows, || {
            output::rows(["DISK", "FILE", "FORMAT", "SIZE", "WRITTEN", "DAMAGED BLOCKS"], rows, |r| {
                [
                    r.disk.to_string(),
                    r.file.display().to_string(),
                    r.format.to_owned(),
                    output::bytes(r.size_bytes),
                    output::bytes(r.written_bytes),
                    some(r.damaged_blocks),
                ]
            })
        })?;
        Ok(ending(rows.iter().any(|r| r.damaged_blocks > 0)))
    }
}

fn bar(format: Format, total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total);
    if let Ok(style) =
        ProgressStyle::with_template("{msg} {bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left")
    {
        bar.set_style(style);
    }
    if format == Format::Json || !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    bar
}

fn since(at: UnixMicros) -> Duration {
    UnixMicros::from(SystemTime::now()).since(at)
}

fn age(at: UnixMicros) -> String {
    output::span(since(at))
}

/// Nothing where there is nothing.
fn some(count: u64) -> String {
    if count == 0 { String::new() } else { count.to_string() }
}
