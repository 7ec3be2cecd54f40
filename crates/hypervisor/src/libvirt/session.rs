//! One connection to libvirtd, made again when it is lost, and calls on it that always come back.
//!
//! ```text
//!   call ─▶ slot ─▶ blocking thread ─▶ connection answers? ─no─▶ open a new one
//!    │                                      │ yes
//!    └─ time-out: Error::Unknown            └─▶ the work; when it fails and the connection is dead: Error::Unknown
//! ```
//!
//! A thread that libvirt does not let go of keeps its slot, so a hung daemon costs a bounded number of threads.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::Semaphore;

use super::ffi::{CallError, Connection};
use crate::Error;

const SLOTS: usize = 16;

pub struct Session {
    link: Arc<Link>,
    slots: Arc<Semaphore>,
    timeout: Duration,
}

struct Link {
    uri: String,
    current: Mutex<Option<Arc<Connection>>>,
}

impl Session {
    /// Does not connect yet: a daemon that is away must not keep an agent from starting.
    pub fn new(uri: String, timeout: Duration) -> Self {
        let link = Arc::new(Link { uri, current: Mutex::new(None) });
        Self { link, slots: Arc::new(Semaphore::new(SLOTS)), timeout }
    }

    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Runs `work` on a thread of its own with a connection that answered a moment ago. `what` names the work in errors.
    pub async fn call<T, F>(&self, what: impl Into<String>, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    {
        let what = what.into();
        let unknown = |why: String| Error::Unknown { what: what.clone(), why };
        let link = self.link.clone();
        let slots = self.slots.clone();
        let named = what.clone();
        let answer = async {
            let slot = slots.acquire_owned().await.map_err(|error| unknown(error.to_string()))?;
            let task = tokio::task::spawn_blocking(move || {
                let _slot = slot;
                link.run(&named, work)
            });
            task.await.map_err(|error| unknown(error.to_string()))?
        };
        match tokio::time::timeout(self.timeout, answer).await {
            Ok(answer) => answer,
            Err(_) => {
                self.link.forget();
                Err(unknown(format!(
                    "libvirtd at {} did not answer within {:?}",
                    self.link.uri, self.timeout
                )))
            }
        }
    }
}

impl Link {
    fn run<T>(&self, what: &str, work: impl FnOnce(&Connection) -> Result<T, Error>) -> Result<T, Error> {
        let connection = self.connection().map_err(|error| Error::Unknown {
            what: what.to_owned(),
            why: format!("libvirtd at {} cannot be reached: {error}", self.uri),
        })?;
        let error = match work(&connection) {
            Ok(result) => return Ok(result),
            Err(error) => error,
        };
        if connection.libvirt_version().is_ok() {
            return Err(error);
        }
        self.forget();
        Err(Error::Unknown {
            what: what.to_owned(),
            why: format!("the connection to libvirtd broke: {error}"),
        })
    }

    fn connection(&self) -> Result<Arc<Connection>, CallError> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(connection) = current.filter(|connection| connection.libvirt_version().is_ok()) {
            return Ok(connection);
        }
        let connection = Arc::new(Connection::open(&self.uri)?);
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection.clone());
        Ok(connection)
    }

    fn forget(&self) {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Turns libvirt's error about `what` into ours.
pub fn failed(what: impl Into<String>) -> impl FnOnce(CallError) -> Error {
    let what = what.into();
    move |error| {
        if error.is_missing() {
            return Error::NotFound { what };
        }
        if error.is_wrong_state() {
            return Error::WrongState { what, why: error.to_string() };
        }
        Error::Failed { what, why: error.to_string() }
    }
}
