//! Writing certificate files so that they appear whole, with the right mode, or not at all.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};

/// Mode of private keys: the owner alone.
pub const SECRET: u32 = 0o600;
/// Mode of certificates.
pub const PUBLIC: u32 = 0o644;

/// What to do when the file is already there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    Replace,
    Refuse,
}

/// Writes `text` to `path` through a temporary file in the same directory, fsynced before it gets its name and the directory
/// after. The mode is set before the first byte is written, so that a key is never readable by others, not even for a moment.
pub fn write(path: &Path, text: &str, mode: u32, existing: Existing) -> io::Result<()> {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".pki-")
        .permissions(fs::Permissions::from_mode(mode))
        .tempfile_in(directory)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    match existing {
        Existing::Replace => file.persist(path)?,
        Existing::Refuse => file.persist_noclobber(path)?,
    };
    // The umask may have taken bits away from a public file; the mode in the name of the file is the one that counts.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    fs::File::open(directory)?.sync_all()
}
