//! The files of the library, which only root may write.

use std::{
    fmt::Write as _,
    fs::{File, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open, openat},
    sys::stat::Mode,
};
use sha2::{Digest, Sha256};
use understudy_ids::ScriptName;

use super::ScriptError;

/// The longest script, in bytes.
const MAX_SCRIPT: u64 = 1 << 20;
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The bytes of a script that are the pinned ones.
///
/// # Errors
/// Whatever is wrong with the directory, the file or its content.
pub(super) fn read(dir: &Path, script: &ScriptName, pinned: &str) -> Result<Vec<u8>, ScriptError> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let library = open(dir, flags | OFlag::O_DIRECTORY, Mode::empty())
        .map_err(|error| refused(dir, why_not_opened(error)))?;
    let library = File::from(library);
    only_roots(dir, &library)?;

    let path = dir.join(script.as_str());
    // Without waiting for whoever might write to a pipe of that name.
    let opened = openat(&library, script.as_str(), flags | OFlag::O_NONBLOCK, Mode::empty());
    let file = match opened {
        Ok(file) => File::from(file),
        Err(Errno::ENOENT) => return Err(ScriptError::NotFound(script.clone())),
        Err(error) => return Err(refused(&path, why_not_opened(error))),
    };
    let metadata = only_roots(&path, &file)?;
    if !metadata.is_file() {
        return Err(refused(&path, "it is no regular file"));
    }
    let mut bytes = Vec::new();
    // One byte more than may be there shows that there is more, whatever the length was said to be.
    file.take(MAX_SCRIPT + 1).read_to_end(&mut bytes).map_err(|error| refused(&path, error.to_string()))?;
    if bytes.len() as u64 > MAX_SCRIPT {
        return Err(refused(&path, format!("it is longer than {MAX_SCRIPT} bytes")));
    }
    let found = sha256(&bytes);
    if found != pinned {
        return Err(ScriptError::Changed { script: script.clone(), found, pinned: pinned.to_owned() });
    }
    // Anything else is handed to a shell by the C library, and no shell was asked for.
    if !bytes.starts_with(b"#!") && !bytes.starts_with(b"\x7fELF") {
        return Err(refused(&path, "it names no interpreter: begin it with a line such as #!/bin/sh"));
    }
    Ok(bytes)
}

/// The open file is judged and not its name, which may be another file's by then.
fn only_roots(path: &Path, file: &File) -> Result<Metadata, ScriptError> {
    let metadata = file.metadata().map_err(|error| refused(path, error.to_string()))?;
    if metadata.uid() != 0 {
        return Err(refused(path, format!("it belongs to user {} and not to root", metadata.uid())));
    }
    if metadata.mode() & WRITABLE_BY_OTHERS != 0 {
        let mode = metadata.mode() & 0o7777;
        return Err(refused(path, format!("others than root can write to it (mode {mode:04o})")));
    }
    Ok(metadata)
}

fn refused(path: &Path, why: impl Into<String>) -> ScriptError {
    ScriptError::Refused { path: path.to_owned(), why: why.into() }
}

fn why_not_opened(error: Errno) -> String {
    match error {
        Errno::ELOOP => "it is a symbolic link".to_owned(),
        Errno::ENOTDIR => "it is no directory, or a symbolic link".to_owned(),
        error => io::Error::from(error).to_string(),
    }
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    let mut digits = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        // Writing to a string cannot fail.
        let _ = write!(digits, "{byte:02x}");
    }
    digits
}
