//! The sink's messages on the wire.

use std::collections::BTreeMap;

use bytes::Bytes;
use understudy_ids::{ByteRange, DiskName, Generation, PointSeq};
use understudy_replication::{BlockDigest, Encoding, RangeSet};
use understudy_sealing::{LuksHeader, WrappedKey};
use understudy_types_api::{
    consistency_from_wire, consistency_to_wire, duration_to_wire, joint_to_wire, time_to_wire,
};

use super::{
    Answer, Begin, DIGEST_BYTES, DigestRun, Latest, MAX_DAMAGED_RANGES, Negotiate, Negotiated, Part, Partial,
    PartialDisk, ReadDigests, Receipt, SinkDisk, Watermark,
};
use crate::{
    MAX_DISKS,
    field::{Invalid, digest, joint, list, parse, required, span_optional, text, time},
    v1,
};

const MAX_CHECKPOINT: usize = 200;
/// The description of a machine with the most disks and NICs stays far below.
const MAX_MACHINE_JSON: usize = 256 * 1024;
/// Of the most recipients, each with an RSA key of 8192 bits.
const MAX_WRAPPED_KEY: usize = 64 * 1024;

fn generation(value: u64) -> Result<Generation, Invalid> {
    if value == 0 {
        return Err(Invalid::new("generation", "is 0; generations begin at 1"));
    }
    Ok(Generation::new(value))
}

fn disks(wire: Vec<v1::SinkDisk>) -> Result<Vec<SinkDisk>, Invalid> {
    let disks = list("disks", wire, MAX_DISKS, |v1::SinkDisk { name, size_bytes, luks_header }| {
        if size_bytes == 0 {
            return Err(Invalid::new("size_bytes", "is 0"));
        }
        Ok(SinkDisk { name: parse("name", &name)?, size: size_bytes, luks: luks(&luks_header)? })
    })?;
    if disks.is_empty() {
        return Err(Invalid::new("disks", "is empty"));
    }
    for (n, disk) in disks.iter().enumerate() {
        if disks[..n].iter().any(|d| d.name == disk.name) {
            return Err(Invalid::new(format!("disks[{n}].name"), format!("{} is there twice", disk.name)));
        }
    }
    Ok(disks)
}

fn disks_to_wire(disks: Vec<SinkDisk>) -> Vec<v1::SinkDisk> {
    disks
        .into_iter()
        .map(|SinkDisk { name, size, luks }| v1::SinkDisk {
            name: name.into(),
            size_bytes: size,
            luks_header: luks_to_wire(luks),
        })
        .collect()
}

fn luks(bytes: &[u8]) -> Result<Option<LuksHeader>, Invalid> {
    if bytes.is_empty() {
        return Ok(None);
    }
    LuksHeader::decode(bytes).map(Some).map_err(|e| Invalid::new("luks_header", e))
}

fn luks_to_wire(luks: Option<LuksHeader>) -> Bytes {
    luks.map(|header| header.encode().into()).unwrap_or_default()
}

/// The wrapped key of disks that come encrypted: all of them, or none and there is no key.
fn wrapped_key(json: String, disks: &[SinkDisk]) -> Result<Option<WrappedKey>, Invalid> {
    const FIELD: &str = "wrapped_key_json";
    let encrypted = disks.iter().filter(|disk| disk.luks.is_some()).count();
    if json.is_empty() && encrypted == 0 {
        return Ok(None);
    }
    if json.is_empty() || encrypted != disks.len() {
        return Err(Invalid::new(FIELD, "does not fit the disks: all are encrypted, with a key, or none is"));
    }
    let key: WrappedKey =
        serde_json::from_str(&text(FIELD, json, MAX_WRAPPED_KEY)?).map_err(|e| Invalid::new(FIELD, e))?;
    if key.is_sound() { Ok(Some(key)) } else { Err(Invalid::new(FIELD, "is no wrapped key")) }
}

fn wrapped_key_to_wire(key: Option<WrappedKey>) -> String {
    // A wrapped key is made of texts and numbers, which are always JSON.
    key.and_then(|key| serde_json::to_string(&key).ok()).unwrap_or_default()
}

/// A disk's index on the wire. There are at most [`MAX_DISKS`].
fn index(disk: usize) -> u32 {
    u32::try_from(disk).unwrap_or(u32::MAX)
}

fn watermark(v1::Watermark { disk, offset }: v1::Watermark) -> Watermark {
    Watermark { disk: disk as usize, offset }
}

fn watermark_to_wire(Watermark { disk, offset }: Watermark) -> v1::Watermark {
    v1::Watermark { disk: index(disk), offset }
}

impl TryFrom<v1::NegotiateRequest> for Negotiate {
    type Error = Invalid;
    fn try_from(wire: v1::NegotiateRequest) -> Result<Self, Invalid> {
        let v1::NegotiateRequest { item, generation: number, disks: list } = wire;
        Ok(Self { item: parse("item", &item)?, generation: generation(number)?, disks: disks(list)? })
    }
}

impl From<Negotiate> for v1::NegotiateRequest {
    fn from(Negotiate { item, generation, disks }: Negotiate) -> Self {
        Self { item: item.into(), generation: generation.get(), disks: disks_to_wire(disks) }
    }
}

impl TryFrom<v1::NegotiateResponse> for Negotiated {
    type Error = Invalid;
    fn try_from(wire: v1::NegotiateResponse) -> Result<Self, Invalid> {
        let v1::NegotiateResponse {
            latest_seq,
            latest_checkpoint,
            latest_is_base,
            partial,
            latest_disks,
            latest_damage,
            highest_seq,
        } = wire;
        let checkpoint = text("latest_checkpoint", latest_checkpoint, MAX_CHECKPOINT)?;
        let latest = match latest_seq {
            0 => None,
            seq => Some(Latest {
                seq: PointSeq::new(seq),
                checkpoint: Some(checkpoint).filter(|c| !c.is_empty()),
                is_base: latest_is_base,
                disks: disks(latest_disks).map_err(|e| e.within("latest"))?,
                damaged: damaged(latest_damage)?,
            }),
        };
        let partial = partial.map(|p| Partial::try_from(p).map_err(|e| e.within("partial"))).transpose()?;
        let highest_seq = (highest_seq != 0).then(|| PointSeq::new(highest_seq));
        Ok(Self { latest, partial, highest_seq })
    }
}

fn damaged(wire: Vec<v1::DamagedRange>) -> Result<BTreeMap<DiskName, RangeSet>, Invalid> {
    let most = MAX_DISKS * MAX_DAMAGED_RANGES;
    let ranges = list("latest_damage", wire, most, |v1::DamagedRange { disk, offset, length }| {
        let end = offset.checked_add(length).filter(|end| offset < *end);
        let end = end.ok_or_else(|| Invalid::new("length", "is 0, or ends beyond any disk"))?;
        Ok((parse::<DiskName>("disk", &disk)?, ByteRange::new(offset, end)))
    })?;
    let mut by_disk: BTreeMap<DiskName, Vec<ByteRange>> = BTreeMap::new();
    for (disk, range) in ranges {
        by_disk.entry(disk).or_default().push(range);
    }
    Ok(by_disk.into_iter().map(|(disk, ranges)| (disk, ranges.into_iter().collect())).collect())
}

fn damaged_to_wire(damaged: &BTreeMap<DiskName, RangeSet>) -> Vec<v1::DamagedRange> {
    let told = |(disk, ranges): (&DiskName, &RangeSet)| {
        let range =
            |r: ByteRange| v1::DamagedRange { disk: disk.to_string(), offset: r.start, length: r.len() };
        ranges.iter().map(range).collect::<Vec<_>>()
    };
    damaged.iter().flat_map(told).collect()
}

impl TryFrom<v1::Partial> for Partial {
    type Error = Invalid;
    fn try_from(wire: v1::Partial) -> Result<Self, Invalid> {
        let v1::Partial { seq, checkpoint, parent_seq, disks } = wire;
        let disk = |v1::PartialDisk { name, size_bytes, durable_bytes, luks_header }| {
            if durable_bytes > size_bytes {
                return Err(Invalid::new("durable_bytes", "is beyond the disk's end"));
            }
            let (name, luks) = (parse("name", &name)?, luks(&luks_header)?);
            Ok(PartialDisk { name, size: size_bytes, durable: durable_bytes, luks })
        };
        Ok(Self {
            seq: PointSeq::new(seq),
            parent: (parent_seq != 0).then(|| PointSeq::new(parent_seq)),
            checkpoint: text("checkpoint", checkpoint, MAX_CHECKPOINT)?,
            disks: list("disks", disks, MAX_DISKS, disk)?,
        })
    }
}

impl From<Negotiated> for v1::NegotiateResponse {
    fn from(Negotiated { latest, partial, highest_seq }: Negotiated) -> Self {
        let partial = partial.map(v1::Partial::from);
        let highest_seq = highest_seq.map_or(0, PointSeq::get);
        match latest {
            None => Self { partial, highest_seq, ..Self::default() },
            Some(Latest { seq, checkpoint, is_base, disks, damaged }) => Self {
                latest_seq: seq.get(),
                latest_checkpoint: checkpoint.unwrap_or_default(),
                latest_is_base: is_base,
                partial,
                latest_disks: disks_to_wire(disks),
                latest_damage: damaged_to_wire(&damaged),
                highest_seq,
            },
        }
    }
}

impl From<Partial> for v1::Partial {
    fn from(Partial { seq, parent, checkpoint, disks }: Partial) -> Self {
        Self {
            seq: seq.get(),
            checkpoint,
            parent_seq: parent.map_or(0, PointSeq::get),
            disks: disks
                .into_iter()
                .map(|PartialDisk { name, size, durable, luks }| v1::PartialDisk {
                    name: name.into(),
                    size_bytes: size,
                    durable_bytes: durable,
                    luks_header: luks_to_wire(luks),
                })
                .collect(),
        }
    }
}

impl TryFrom<v1::Begin> for Begin {
    type Error = Invalid;
    fn try_from(wire: v1::Begin) -> Result<Self, Invalid> {
        let v1::Begin {
            item,
            generation: number,
            seq,
            parent_seq,
            checkpoint,
            instant,
            disks: list,
            resume,
            machine_json,
            consistency,
            frozen,
            wrapped_key_json,
            joint: shared,
        } = wire;
        if seq == 0 || parent_seq >= seq {
            return Err(Invalid::new("seq", format!("{seq} does not follow its parent {parent_seq}")));
        }
        let disks = disks(list)?;
        Ok(Self {
            item: parse("item", &item)?,
            generation: generation(number)?,
            seq: PointSeq::new(seq),
            parent: (parent_seq != 0).then(|| PointSeq::new(parent_seq)),
            checkpoint: text("checkpoint", checkpoint, MAX_CHECKPOINT)?,
            instant: time("instant", instant)?,
            wrapped_key: wrapped_key(wrapped_key_json, &disks)?,
            disks,
            resume,
            machine_json: text("machine_json", machine_json, MAX_MACHINE_JSON)?,
            consistency: consistency_from_wire(consistency),
            frozen: span_optional("frozen", frozen)?,
            joint: joint(shared)?,
        })
    }
}

impl From<Begin> for v1::Begin {
    fn from(begin: Begin) -> Self {
        let Begin {
            item,
            generation,
            seq,
            parent,
            checkpoint,
            instant,
            disks,
            resume,
            machine_json,
            consistency,
            frozen,
            wrapped_key,
            joint,
        } = begin;
        Self {
            item: item.into(),
            generation: generation.get(),
            seq: seq.get(),
            parent_seq: parent.map_or(0, PointSeq::get),
            checkpoint,
            instant: Some(time_to_wire(instant)),
            disks: disks_to_wire(disks),
            resume,
            machine_json,
            consistency: consistency_to_wire(consistency),
            frozen: frozen.map(duration_to_wire),
            wrapped_key_json: wrapped_key_to_wire(wrapped_key),
            joint: joint.map(joint_to_wire),
        }
    }
}

fn encoding(code: i32) -> Result<Encoding, Invalid> {
    match v1::Encoding::try_from(code) {
        Ok(v1::Encoding::Unspecified) => Ok(Encoding::Plain),
        Ok(v1::Encoding::Zstd) => Ok(Encoding::Zstd),
        Ok(v1::Encoding::Lz4) => Ok(Encoding::Lz4),
        Err(_) => Err(Invalid::new("data.encoding", format!("{code} is not known here"))),
    }
}

fn encoding_to_wire(encoding: Encoding) -> v1::Encoding {
    match encoding {
        Encoding::Plain => v1::Encoding::Unspecified,
        Encoding::Zstd => v1::Encoding::Zstd,
        Encoding::Lz4 => v1::Encoding::Lz4,
    }
}

/// A message of the push stream after the first.
pub(crate) fn part(wire: v1::PushPointRequest) -> Result<Part, Invalid> {
    use v1::push_point_request::Part as Wire;
    Ok(match required("part", wire.part)? {
        Wire::Begin(_) => return Err(Invalid::new("part", "begins a second time")),
        Wire::Data(v1::Data { disk, offset, payload, digests, encoding: code }) => {
            let (disk, encoding) = (disk as usize, encoding(code)?);
            Part::Data { disk, offset, payload: payload.into(), digests, encoding }
        }
        Wire::Zero(v1::Zero { disk, offset, length }) => Part::Zero { disk: disk as usize, offset, length },
        Wire::Finish(v1::Finish { sent_bytes }) => Part::Finish { sent_bytes },
    })
}

/// The first message of the push stream.
pub(crate) fn begin(wire: v1::PushPointRequest) -> Result<Begin, Invalid> {
    use v1::push_point_request::Part as Wire;
    match required("part", wire.part)? {
        Wire::Begin(begin) => Begin::try_from(begin).map_err(|e| e.within("begin")),
        _ => Err(Invalid::new("part", "comes before the begin")),
    }
}

pub(crate) fn begin_to_wire(begin: Begin) -> v1::PushPointRequest {
    v1::PushPointRequest { part: Some(v1::push_point_request::Part::Begin(begin.into())) }
}

/// A message of data that has no payload yet.
pub(crate) fn data_head(disk: usize, offset: u64, digests: Bytes, encoding: Encoding) -> v1::Data {
    let (disk, encoding) = (index(disk), encoding_to_wire(encoding).into());
    v1::Data { disk, offset, payload: Bytes::new(), digests, encoding }
}

pub(crate) fn part_to_wire(part: Part) -> v1::PushPointRequest {
    use v1::push_point_request::Part as Wire;
    let part = match part {
        Part::Data { disk, offset, payload, digests, encoding } => {
            let payload = Bytes::copy_from_slice(payload.together(&mut Vec::new()));
            Wire::Data(v1::Data { payload, ..data_head(disk, offset, digests, encoding) })
        }
        Part::Zero { disk, offset, length } => Wire::Zero(v1::Zero { disk: index(disk), offset, length }),
        Part::Finish { sent_bytes } => Wire::Finish(v1::Finish { sent_bytes }),
    };
    v1::PushPointRequest { part: Some(part) }
}

impl TryFrom<v1::PushPointResponse> for Answer {
    type Error = Invalid;
    fn try_from(wire: v1::PushPointResponse) -> Result<Self, Invalid> {
        use v1::push_point_response::Part as Wire;
        Ok(match required("part", wire.part)? {
            Wire::Durable(durable) => Self::Durable(watermark(durable)),
            Wire::Receipt(v1::Receipt { seq, roots }) => Self::Receipt(Receipt {
                seq: PointSeq::new(seq),
                roots: list("receipt.roots", roots, MAX_DISKS, |root: Bytes| digest("root", &root))?,
            }),
        })
    }
}

impl From<Answer> for v1::PushPointResponse {
    fn from(answer: Answer) -> Self {
        use v1::push_point_response::Part as Wire;
        let part = match answer {
            Answer::Durable(durable) => Wire::Durable(watermark_to_wire(durable)),
            Answer::Receipt(Receipt { seq, roots }) => Wire::Receipt(v1::Receipt {
                seq: seq.get(),
                roots: roots.iter().map(|root| Bytes::copy_from_slice(root.bytes())).collect(),
            }),
        };
        Self { part: Some(part) }
    }
}

impl TryFrom<v1::ReadDigestsRequest> for ReadDigests {
    type Error = Invalid;
    fn try_from(wire: v1::ReadDigestsRequest) -> Result<Self, Invalid> {
        let v1::ReadDigestsRequest { item, generation: number, seq, disk } = wire;
        Ok(Self {
            item: parse("item", &item)?,
            generation: generation(number)?,
            seq: PointSeq::new(seq),
            disk: parse("disk", &disk)?,
        })
    }
}

impl From<ReadDigests> for v1::ReadDigestsRequest {
    fn from(ReadDigests { item, generation, seq, disk }: ReadDigests) -> Self {
        Self { item: item.into(), generation: generation.get(), seq: seq.get(), disk: disk.into() }
    }
}

impl TryFrom<v1::ReadDigestsResponse> for DigestRun {
    type Error = Invalid;
    fn try_from(wire: v1::ReadDigestsResponse) -> Result<Self, Invalid> {
        let v1::ReadDigestsResponse { first_block, digests } = wire;
        let (whole, rest) = digests.as_chunks::<DIGEST_BYTES>();
        if !rest.is_empty() {
            return Err(Invalid::new("digests", format!("is {} bytes, no multiple of 32", digests.len())));
        }
        Ok(Self { first_block, digests: whole.iter().map(|d| BlockDigest::new(*d)).collect() })
    }
}

impl From<DigestRun> for v1::ReadDigestsResponse {
    fn from(DigestRun { first_block, digests }: DigestRun) -> Self {
        let mut bytes = Vec::with_capacity(digests.len() * DIGEST_BYTES);
        for digest in &digests {
            bytes.extend_from_slice(digest.bytes());
        }
        Self { first_block, digests: bytes.into() }
    }
}
