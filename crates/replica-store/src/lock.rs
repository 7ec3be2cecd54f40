//! One writer per store: a file that the writer keeps locked as long as it lives.
//!
//! The kernel lets go of the lock when the process ends, however it ends, so nothing has to be cleaned up after a kill. What is
//! written in the file is only for the message to whoever comes second. It is no part of what the store holds, and therefore
//! does not go through `fsio`.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Write},
    path::Path,
};

use crate::{
    error::{IoContext, Result, StoreError},
    layout::LOCK,
};

#[derive(Debug)]
pub(crate) struct WriterLock {
    held: File,
}

/// Not by closing alone: a child that is being spawned just now has the file open too, until it becomes the other program.
impl Drop for WriterLock {
    fn drop(&mut self) {
        // Closing does the same a moment later.
        let _ = self.held.unlock();
    }
}

impl WriterLock {
    /// # Errors
    /// [`StoreError::InUse`], with the holder's process id, when another writer has the store.
    pub fn take(root: &Path) -> Result<Self> {
        let path = root.join(LOCK);
        // Not truncated: until the lock is ours the content is the other writer's.
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.during("open", &path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::InUse { root: root.to_owned(), holder: holder(&mut file) });
            }
            Err(TryLockError::Error(error)) => return Err(error).during("lock", &path),
        }
        file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())).during("write", &path)?;
        Ok(Self { held: file })
    }
}

/// Whoever has just taken the lock may not have written its number yet.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let pid = file.read_to_string(&mut text).ok().and_then(|_| text.parse::<u32>().ok());
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}
