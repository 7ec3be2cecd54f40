//! Builds the disks of lab machines: each boots by itself, from its own boot loader, kernel and initramfs.
//!
//! ```text
//!   kernel, modules (install.sh) ─┐
//!   busybox, init.sh, guest ──────┼▶ initramfs ─▶ FAT16 + syslinux ─▶ base disk     once, kept in the cache
//!   qemu-ga with its libraries ───┘             (+ ext4, with an agent) │
//!                                                                       │ + command line with the host name
//!                                                                       ▼
//!                                                                  web1-0.qcow2       per machine, a moment
//! ```
//!
//! No loop device and no mount is used. The promise: the base disk in the cache is whole or absent, and belongs to exactly
//! the kernel, programs and layout that went into its name.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    command,
    journal::record::{
        DISK_BYTES, FILES_BYTES, JOURNAL_BYTES, JOURNAL_OFFSET, SCRATCH_BYTES, SCRATCH_OFFSET,
    },
    machine::{Machine, Talk},
};

/// Static program that the guest runs; see `build.rs`.
const GUEST: &[u8] = include_bytes!(env!("UNDERSTUDY_LAB_GUEST"));
const INIT: &[u8] = include_bytes!("guest/init.sh");
const UDHCPC: &[u8] = include_bytes!("guest/udhcpc.sh");
const FREEZE_HOOK: &[u8] = include_bytes!("guest/freeze-hook.sh");

/// Where `syslinux-common` puts the boot code of the disk's first sector.
pub(crate) const MBR_CODE: &str = "/usr/lib/syslinux/mbr/mbr.bin";
/// Where older packages put it.
pub(crate) const MBR_CODE_OLD: &str = "/usr/lib/SYSLINUX/mbr.bin";
/// The statically linked busybox of `busybox-static`.
pub(crate) const BUSYBOX: &str = "/bin/busybox";
/// The guest's agent of `qemu-guest-agent`; it runs inside of guests only.
pub(crate) const GUEST_AGENT: &str = "/usr/sbin/qemu-ga";
/// What the guest's kernel loads to have a channel to its host.
const CHANNEL_MODULE: &str = "virtio_console.ko";

const SECTOR: u64 = 512;
const BOOT_OFFSET: u64 = 1 << 20;
const BOOT_BYTES: u64 = JOURNAL_OFFSET - BOOT_OFFSET;
/// Types that no guest or tool takes for a file system of its own.
const JOURNAL_TYPE: &str = "da";
const LINUX_TYPE: &str = "83";

/// The guest kernel and built images, kept between labs.
#[derive(Debug, Clone)]
pub struct ImageCache {
    directory: PathBuf,
}

impl ImageCache {
    /// The cache in `directory`, as `install.sh` made it.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// The guest kernel.
    pub fn kernel(&self) -> PathBuf {
        self.directory.join("kernel/vmlinuz")
    }

    /// Whether the kernel was unpacked with everything that guests need by now.
    pub fn is_current(&self) -> bool {
        self.directory.join("kernel/modules").join(CHANNEL_MODULE).exists()
    }

    /// Builds all disks of `machine` as qcow2 files at the given paths, in the machine's order.
    ///
    /// # Errors
    /// When a tool or the guest kernel is missing, or a disk cannot be written.
    pub fn build(&self, machine: &Machine, disks: &[PathBuf]) -> Result<()> {
        for (index, disk) in disks.iter().enumerate() {
            let raw = tempfile::Builder::new().prefix("disk").suffix(".raw").tempfile_in(parent(disk)?)?;
            if index == 0 {
                self.system_disk(machine, raw.path())?;
            } else {
                raw.as_file().set_len(DISK_BYTES)?;
                partition(raw.path(), false, false)?;
            }
            command::output(
                command::new("qemu-img")
                    .args(["convert", "-f", "raw", "-O", "qcow2"])
                    .arg(raw.path())
                    .arg(disk),
            )
            .with_context(|| format!("cannot build a disk of {}", machine.name))?;
        }
        Ok(())
    }

    fn system_disk(&self, machine: &Machine, raw: &Path) -> Result<()> {
        let base = self.base_disk(machine.guest_agent)?;
        command::output(command::new("cp").args(["--sparse=always"]).arg(&base).arg(raw))?;
        let settings = tempfile::NamedTempFile::new()?;
        fs::write(settings.path(), boot_settings(machine))?;
        let partition = format!("{}@@{BOOT_OFFSET}", raw.display());
        command::output(
            mtools("mcopy").args(["-o", "-i", &partition]).arg(settings.path()).arg("::/syslinux.cfg"),
        )
        .map(drop)
    }

    /// The disk that all system disks begin as.
    fn base_disk(&self, agent: bool) -> Result<PathBuf> {
        let kernel = self.kernel();
        let image = fs::read(&kernel).with_context(|| {
            format!("there is no guest kernel {}; run deploy/lab/install.sh", kernel.display())
        })?;
        let mut digest = blake3::Hasher::new();
        let order = fs::read(self.directory.join("kernel/modules/order"))?;
        let mut parts =
            vec![image, GUEST.to_vec(), INIT.to_vec(), UDHCPC.to_vec(), fs::read(BUSYBOX)?, order];
        parts.push(DISK_BYTES.to_le_bytes().to_vec());
        if agent {
            parts.extend([FREEZE_HOOK.to_vec(), fs::read(GUEST_AGENT)?, FILES_BYTES.to_le_bytes().to_vec()]);
        }
        for part in parts {
            digest.update(&(part.len() as u64).to_le_bytes()).update(&part);
        }
        let name = format!("base-{}.raw", &digest.finalize().to_hex()[..16]);
        let base = self.directory.join(name);
        if !base.exists() {
            let work = tempfile::tempdir_in(&self.directory)?;
            let disk = self.build_base(work.path(), agent).context("cannot build the guests' base disk")?;
            fs::rename(disk, &base)?;
        }
        Ok(base)
    }

    fn build_base(&self, work: &Path, agent: bool) -> Result<PathBuf> {
        let initramfs = self.initramfs(work, agent)?;
        let boot = work.join("boot.img");
        File::create(&boot)?.set_len(BOOT_BYTES)?;
        let hidden = (BOOT_OFFSET / SECTOR).to_string();
        command::output(
            command::new("mkfs.vfat").args(["-F", "16", "-n", "LABBOOT", "-h", &hidden]).arg(&boot),
        )?;
        command::output(mtools("mcopy").arg("-i").arg(&boot).arg(self.kernel()).arg("::/vmlinuz"))?;
        command::output(mtools("mcopy").arg("-i").arg(&boot).arg(&initramfs).arg("::/initrd"))?;
        command::output(mtools("syslinux").arg("--install").arg(&boot))?;
        let disk = work.join("disk.raw");
        File::create(&disk)?.set_len(if agent { DISK_BYTES + FILES_BYTES } else { DISK_BYTES })?;
        partition(&disk, true, agent)?;
        let mut file = OpenOptions::new().write(true).open(&disk)?;
        file.write_all(&mbr_code()?)?;
        file.seek(SeekFrom::Start(BOOT_OFFSET))?;
        file.write_all(&fs::read(&boot)?)?;
        if agent {
            file.seek(SeekFrom::Start(DISK_BYTES))?;
            file.write_all(&fs::read(file_system(work)?)?)?;
        }
        Ok(disk)
    }

    fn initramfs(&self, work: &Path, agent: bool) -> Result<PathBuf> {
        let tree = work.join("tree");
        for directory in ["bin", "proc", "sys", "dev", "run", "modules", "data"] {
            fs::create_dir_all(tree.join(directory))?;
        }
        fs::copy(BUSYBOX, tree.join("bin/busybox"))?;
        if agent {
            add_guest_agent(&tree)?;
        }
        for (name, content) in
            [("init", INIT), ("udhcpc.sh", UDHCPC), ("guest", GUEST), ("freeze-hook", FREEZE_HOOK)]
        {
            let mut file =
                OpenOptions::new().create_new(true).write(true).mode(0o755).open(tree.join(name))?;
            file.write_all(content)?;
            file.set_permissions(fs::Permissions::from_mode(0o755))?;
        }
        for module in fs::read_dir(self.directory.join("kernel/modules"))? {
            let module = module?;
            fs::copy(module.path(), tree.join("modules").join(module.file_name()))?;
        }
        let list = work.join("list");
        fs::write(&list, command::output(command::new("find").arg(".").current_dir(&tree))?)?;
        let archive = work.join("initrd");
        command::output(
            command::new("cpio")
                .args(["--quiet", "-o", "-H", "newc", "-O"])
                .arg(&archive)
                .current_dir(&tree)
                .stdin(File::open(&list)?),
        )?;
        Ok(archive)
    }
}

/// The agent with its libraries, where the dynamic loader looks for them.
fn add_guest_agent(tree: &Path) -> Result<()> {
    fs::copy(GUEST_AGENT, tree.join("bin/qemu-ga"))?;
    let listed = command::output(command::new("ldd").arg(GUEST_AGENT))?;
    // `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`, and the loader without an arrow.
    let paths = listed.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    for path in paths {
        let inside = tree.join(path.trim_start_matches('/'));
        fs::create_dir_all(parent(&inside)?)?;
        fs::copy(path, inside)?;
    }
    Ok(())
}

/// An empty file system for the guest's application.
fn file_system(work: &Path) -> Result<PathBuf> {
    let image = work.join("files.img");
    File::create(&image)?.set_len(FILES_BYTES)?;
    command::output(command::new("mkfs.ext4").args(["-q", "-F", "-L", "LABDATA"]).arg(&image))?;
    Ok(image)
}

fn parent(path: &Path) -> Result<&Path> {
    path.parent().with_context(|| format!("{} has no directory", path.display()))
}

/// The kernel's command line carries what is particular to a machine.
fn boot_settings(machine: &Machine) -> String {
    format!(
        "DEFAULT lab\nPROMPT 0\nLABEL lab\n LINUX vmlinuz\n INITRD initrd\n \
         APPEND console=ttyS0 quiet loglevel=4 ipv6.disable=1 panic=-1 us.host={} us.disks={} us.rate={} us.dirty={} us.agent={}{}\n",
        machine.name,
        machine.disks,
        machine.records_per_second,
        machine.dirty_kib_per_second,
        u8::from(machine.guest_agent),
        match machine.talk {
            Talk::Alone => String::new(),
            Talk::Leads(follower) => format!(" us.leads={follower}"),
            Talk::Follows => " us.follows=1".to_owned(),
        }
    )
}

/// mtools doubts images whose geometry no floppy ever had.
fn mtools(program: &str) -> Command {
    let mut command = command::new(program);
    command.env("MTOOLS_SKIP_CHECK", "1");
    command
}

/// Writes a partition table, so that the disk's areas can be seen with ordinary tools.
fn partition(disk: &Path, bootable: bool, files: bool) -> Result<()> {
    let area =
        |offset: u64, bytes: u64, rest: &str| format!("{},{},{rest}\n", offset / SECTOR, bytes / SECTOR);
    let mut table = String::from("label: dos\nunit: sectors\n");
    if bootable {
        table += &area(BOOT_OFFSET, BOOT_BYTES, "e,*");
    }
    table += &area(JOURNAL_OFFSET, JOURNAL_BYTES, JOURNAL_TYPE);
    table += &area(SCRATCH_OFFSET, SCRATCH_BYTES, JOURNAL_TYPE);
    if files {
        table += &area(DISK_BYTES, FILES_BYTES, LINUX_TYPE);
    }
    let mut script = tempfile::tempfile()?;
    script.write_all(table.as_bytes())?;
    script.rewind()?;
    command::output(
        command::new("sfdisk").args(["-q", "--no-reread", "--no-tell-kernel"]).arg(disk).stdin(script),
    )
    .map(drop)
}

fn mbr_code() -> Result<Vec<u8>> {
    /// The table begins behind the code and must not be overwritten.
    const CODE_BYTES: u64 = 440;
    let file = File::open(MBR_CODE)
        .or_else(|_| File::open(MBR_CODE_OLD))
        .context("syslinux's mbr.bin was not found")?;
    let mut code = Vec::new();
    file.take(CODE_BYTES).read_to_end(&mut code)?;
    Ok(code)
}
