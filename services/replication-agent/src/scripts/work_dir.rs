//! The directory that a script runs in: empty, its user's, and gone afterwards.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use nix::unistd::{Gid, Uid};

use super::ScriptError;

static NEXT: AtomicU64 = AtomicU64::new(0);

/// Removed when it is dropped.
pub(super) struct WorkDir {
    path: PathBuf,
}

impl WorkDir {
    /// `<base>/<this process>-<number>`. The base is made when it is not there; everybody may pass through it and only root may write to it.
    pub fn make(base: &Path, uid: Uid, gid: Gid) -> Result<Self, ScriptError> {
        let refused =
            |error: io::Error| ScriptError::Refused { path: base.to_owned(), why: error.to_string() };
        if !base.exists() {
            fs::create_dir_all(base)
                .and_then(|()| fs::set_permissions(base, Permissions::from_mode(0o711)))
                .map_err(refused)?;
        }
        let metadata = base.symlink_metadata().map_err(refused)?;
        if !metadata.is_dir() || metadata.uid() != 0 || metadata.mode() & 0o022 != 0 {
            let why = "it is no directory that belongs to root and that only root can write to";
            return Err(ScriptError::Refused { path: base.to_owned(), why: why.to_owned() });
        }
        let path = loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = base.join(format!("{}-{number}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => break path,
                // Of a process that had this one's number and was killed.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(refused(error)),
            }
        };
        let dir = Self { path };
        nix::unistd::chown(&dir.path, Some(uid), Some(gid)).map_err(|error| refused(error.into()))?;
        Ok(dir)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        // Nothing of the script runs any more, so nothing is exchanged below while it is removed.
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a script's directory is left");
        }
    }
}

/// Removes the directories of processes that are gone, or had this one's number before it.
pub(super) fn sweep(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.split_once('-')).map(|(process, _)| process);
        let Some(process) = process.and_then(|process| process.parse::<u32>().ok()) else { continue };
        let is_gone = !Path::new(&format!("/proc/{process}")).exists();
        if (is_gone || process == std::process::id())
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            tracing::warn!(path = %entry.path().display(), %error, "a script's directory is left");
        }
    }
}
