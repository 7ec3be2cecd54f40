//! Many machines that write all the time, without guests: which block is written when, and with what, is arithmetic. So hundreds of them cost the
//! machine nothing but what replicating them costs, and what arrives can still be compared.
//!
//! ```text
//!   write k of machine m, at k / rate seconds:  block = mix(m, k) mod blocks,  content = pool[mix(m, block, k) …]
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Instant, SystemTime},
};

use anyhow::{Context as _, ensure};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use understudy_hypervisor::{
    Bus, CheckpointName, DiskHardware, DiskReader, Error, Extent, Firmware, GuestState, Hardware, Machine,
    PowerState, Snapshot, SnapshotDisk, SnapshotRequest,
};
use understudy_ids::{ByteRange, DiskName, MachineName, UnixMicros, Uuid};
use understudy_replica_store::qcow2::Chain;
use understudy_replication::BLOCK_SIZE;

/// Of each disk, in blocks: 64 MiB.
const BLOCKS: u64 = 1024;
pub const DISK_SIZE: u64 = BLOCKS * BLOCK_SIZE;
/// What contents are cut from: does not compress, and lies in no cache.
const POOL: usize = 32 << 20;

/// The machines of one host.
pub struct Fleet {
    began: Instant,
    /// Blocks that each machine writes in a second.
    rate: f64,
    machines: BTreeMap<MachineName, Mutex<Member>>,
    pool: Bytes,
    /// After so many writes they are off.
    stopped: Mutex<Option<u64>>,
}

struct Member {
    number: u64,
    /// Writes that have been noted.
    writes: u64,
    /// Of each block the write that wrote it last; 0 for none, which is zeros.
    last: Vec<u64>,
    /// Writes before each checkpoint.
    checkpoints: BTreeMap<CheckpointName, u64>,
}

/// The name of the machine and of its item.
pub fn name(number: u64) -> String {
    format!("fleet{number}")
}

fn vda() -> DiskName {
    "vda".parse().unwrap_or_else(|_| unreachable!("it is a name"))
}

/// splitmix64 over both.
fn mix(one: u64, other: u64) -> u64 {
    let mut z =
        one.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(other.wrapping_mul(0xd1b5_4a32_d192_ed03));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Fleet {
    /// `count` machines, each of which writes `bytes_per_s` from now on.
    pub fn new(count: u64, bytes_per_s: u64) -> anyhow::Result<Self> {
        let mut pool = BytesMut::with_capacity(POOL);
        for word in 0..(POOL / 8) as u64 {
            pool.extend_from_slice(&mix(word, 1).to_le_bytes());
        }
        let mut machines = BTreeMap::new();
        for number in 0..count {
            let member =
                Member { number, writes: 0, last: vec![0; BLOCKS as usize], checkpoints: BTreeMap::new() };
            machines.insert(name(number).parse()?, Mutex::new(member));
        }
        let rate = bytes_per_s as f64 / BLOCK_SIZE as f64;
        Ok(Self { began: Instant::now(), rate, machines, pool: pool.freeze(), stopped: Mutex::default() })
    }

    /// Nothing is written any more, and the machines are off.
    pub fn stop(&self) {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.due());
    }

    fn due(&self) -> u64 {
        (self.began.elapsed().as_secs_f64() * self.rate) as u64
    }

    fn stopped(&self) -> Option<u64> {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn member(&self, name: &MachineName) -> Result<std::sync::MutexGuard<'_, Member>, Error> {
        let found = self.machines.get(name).ok_or_else(|| Error::NotFound { what: name.to_string() })?;
        Ok(found.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn machine(&self, name: &MachineName) -> Option<Machine> {
        let number = self.member(name).ok()?.number;
        let disk = DiskHardware {
            name: vda(),
            bus: Bus::Virtio,
            serial: None,
            size_bytes: DISK_SIZE,
            file: Some("/nowhere".into()),
            format: "raw".to_owned(),
            encrypted: false,
        };
        Some(Machine {
            name: name.clone(),
            uuid: Uuid::from_u128(u128::from(number) + 1),
            power: if self.stopped().is_some() { PowerState::ShutOff } else { PowerState::Running },
            hardware: Hardware {
                vcpus: 1,
                memory_bytes: 1 << 30,
                machine_type: "pc".to_owned(),
                firmware: Firmware::Bios,
                disks: vec![disk],
                nics: Vec::new(),
                guest_agent: false,
                video: None,
            },
            tag: None,
            autostart: false,
        })
    }

    pub fn machines(&self) -> Vec<Machine> {
        self.machines.keys().filter_map(|name| self.machine(name)).collect()
    }

    pub fn open_snapshot(&self, request: &SnapshotRequest) -> Result<Box<dyn Snapshot>, Error> {
        let mut member = self.member(&request.machine)?;
        member.note(self.stopped().unwrap_or_else(|| self.due()));
        let instant = UnixMicros::from(SystemTime::now());
        let since = request.base.as_ref().and_then(|base| member.checkpoints.get(base).copied());
        let writes = member.writes;
        member.checkpoints.insert(request.checkpoint.clone(), writes);
        let (number, last) = (member.number, member.last.clone());
        let reader = Reader { number, last, since: since.unwrap_or(0), pool: self.pool.clone() };
        let disk = SnapshotDisk {
            name: vda(),
            size: DISK_SIZE,
            changes_known: since.is_some(),
            reader: Arc::new(reader),
        };
        Ok(Box::new(Frozen { instant, disks: vec![disk] }))
    }

    pub fn checkpoints(&self, machine: &MachineName) -> Result<Vec<CheckpointName>, Error> {
        Ok(self.member(machine)?.checkpoints.keys().cloned().collect())
    }

    pub fn delete_checkpoints(
        &self,
        machine: &MachineName,
        names: &BTreeSet<CheckpointName>,
    ) -> Result<(), Error> {
        self.member(machine)?.checkpoints.retain(|name, _| !names.contains(name));
        Ok(())
    }

    /// Whether the file, with all it stands on, is what the machine's disk is.
    pub fn check(&self, machine: &MachineName, file: &Path) -> anyhow::Result<()> {
        let member = self.member(machine)?;
        let reader =
            Reader { number: member.number, last: member.last.clone(), since: 0, pool: self.pool.clone() };
        let mut chain = Chain::open(file).with_context(|| file.display().to_string())?;
        ensure!(chain.size() == DISK_SIZE, "{machine} has another size");
        let mut content = vec![0; BLOCK_SIZE as usize];
        for block in 0..BLOCKS {
            chain.read(block * BLOCK_SIZE, &mut content)?;
            ensure!(content == reader.block(block), "{machine} differs in block {block}");
        }
        Ok(())
    }
}

impl Member {
    fn note(&mut self, due: u64) {
        for write in self.writes + 1..=due {
            let block = mix(self.number, write) % BLOCKS;
            self.last[block as usize] = write;
        }
        self.writes = self.writes.max(due);
    }
}

struct Frozen {
    instant: UnixMicros,
    disks: Vec<SnapshotDisk>,
}

#[async_trait]
impl Snapshot for Frozen {
    fn instant(&self) -> UnixMicros {
        self.instant
    }
    fn disks(&self) -> &[SnapshotDisk] {
        &self.disks
    }
    fn checkpoint_made(&self) -> bool {
        true
    }
    fn guest(&self) -> &GuestState {
        &GuestState::CRASH
    }
    async fn close(self: Box<Self>) -> Result<(), Error> {
        Ok(())
    }
}

struct Reader {
    number: u64,
    last: Vec<u64>,
    since: u64,
    pool: Bytes,
}

impl Reader {
    fn block(&self, block: u64) -> Bytes {
        match self.last[block as usize] {
            0 => Bytes::from_static(&[0; BLOCK_SIZE as usize]),
            write => {
                let places = (POOL - BLOCK_SIZE as usize) as u64 / 64;
                let at = (mix(mix(self.number, block), write) % places) as usize * 64;
                self.pool.slice(at..at + BLOCK_SIZE as usize)
            }
        }
    }
}

#[async_trait]
impl DiskReader for Reader {
    async fn extents(&self, range: ByteRange) -> Result<Vec<Extent>, Error> {
        let of = |block: u64| {
            let write = self.last[block as usize];
            (write > self.since, write == 0)
        };
        let blocks: Vec<u64> = (range.start / BLOCK_SIZE..range.end.div_ceil(BLOCK_SIZE)).collect();
        let runs = blocks.chunk_by(|one, other| of(*one) == of(*other));
        Ok(runs
            .map(|run| {
                let (start, end) = (run[0] * BLOCK_SIZE, (run[run.len() - 1] + 1) * BLOCK_SIZE);
                let (changed, zero) = of(run[0]);
                Extent { range: ByteRange::new(start.max(range.start), end.min(range.end)), changed, zero }
            })
            .collect())
    }

    async fn read(&self, offset: u64, length: u32) -> Result<Bytes, Error> {
        let (first, end) = (offset / BLOCK_SIZE, (offset + u64::from(length)).div_ceil(BLOCK_SIZE));
        if end == first + 1 {
            return Ok(self.block(first));
        }
        let mut content = BytesMut::with_capacity(length as usize);
        (first..end).for_each(|block| content.extend_from_slice(&self.block(block)));
        Ok(content.freeze())
    }
}
