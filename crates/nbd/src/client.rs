//! The client: hands out requests, counts those in flight, and ends them all when the connection ends.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::UnixStream,
    sync::{Semaphore, mpsc, oneshot},
    task::JoinHandle,
};

use crate::{
    error::Error,
    handshake,
    pending::{Answer, ContextStatus, Coverage, Pending},
    reply,
    wire::*,
};

/// What to open, and how long to wait for the server.
#[derive(Debug, Clone)]
pub struct Options {
    pub export: String,
    /// `base:allocation`, `qemu:dirty-bitmap:<name>`, …
    pub contexts: Vec<String>,
    pub handshake_timeout: Duration,
    /// For each request, from when it is sent.
    pub request_timeout: Duration,
}

impl Options {
    pub fn new(export: impl Into<String>) -> Self {
        Self {
            export: export.into(),
            contexts: Vec::new(),
            handshake_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(60),
        }
    }

    pub fn context(mut self, name: impl Into<String>) -> Self {
        self.contexts.push(name.into());
        self
    }
}

/// A connection to one export. Cheap to share behind an `Arc`; dropping it closes the connection.
pub struct Client {
    shared: Arc<Shared>,
    requests: mpsc::Sender<[u8; REQUEST_SIZE]>,
    slots: Arc<Semaphore>,
    next_cookie: AtomicU64,
    size: u64,
    context_ids: Vec<Option<u32>>,
    request_timeout: Duration,
    reader: JoinHandle<()>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

const REQUEST_SIZE: usize = 28;

impl Client {
    /// Connects to the server on a unix socket.
    pub async fn connect_unix(socket: &Path, options: &Options) -> Result<Self, Error> {
        let stream = UnixStream::connect(socket).await;
        let stream = stream.map_err(|error| Error::Connect(format!("{}: {error}", socket.display())))?;
        Self::connect(stream, options).await
    }

    /// Opens the export over a connection that exists.
    pub async fn connect<S>(mut stream: S, options: &Options) -> Result<Self, Error>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let agreed = handshake::negotiate(&mut stream, &options.export, &options.contexts);
        let agreed = tokio::time::timeout(options.handshake_timeout, agreed).await.map_err(|_| {
            Error::TimedOut { what: "the handshake", seconds: options.handshake_timeout.as_secs() }
        })??;

        let (read_half, write_half) = tokio::io::split(stream);
        let shared = Arc::new(Shared::default());
        let (requests, queue) = mpsc::channel(MAX_IN_FLIGHT);
        let reader = tokio::spawn({
            let shared = shared.clone();
            async move {
                let stream = BufReader::with_capacity(64 << 10, read_half);
                let why = reply::read_replies(stream, shared.clone()).await;
                shared.end(&why);
            }
        });
        let writer = tokio::spawn(write_requests(write_half, queue, shared.clone()));
        Ok(Self {
            shared,
            requests,
            slots: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
            next_cookie: AtomicU64::new(1),
            size: agreed.size,
            context_ids: agreed.context_ids,
            request_timeout: options.request_timeout,
            reader,
            writer: Mutex::new(Some(writer)),
        })
    }

    /// Size of the export in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether the server has the context of that index in [`Options::contexts`].
    pub fn has_context(&self, index: usize) -> bool {
        self.context_ids.get(index).is_some_and(Option::is_some)
    }

    /// The bytes at `[offset, offset + length)`; `length` is at most [`MAX_READ`].
    pub async fn read(&self, offset: u64, length: u32) -> Result<Bytes, Error> {
        if length > MAX_READ {
            return Err(Error::Invalid(format!("a read of {length} bytes is longer than {MAX_READ}")));
        }
        if length == 0 {
            return Ok(Bytes::new());
        }
        let (reply, answer) = oneshot::channel();
        let answer_to =
            Answer::Read { buffer: vec![0; length as usize], covered: Coverage::default(), reply };
        self.ask(CMD_READ, offset, length, answer_to, answer, "a read").await
    }

    /// What the server's contexts say about `[offset, offset + length)`. A context that the server does not have, or did
    /// not answer for, is missing from the result; an answer may end before the range does.
    pub async fn block_status(&self, offset: u64, length: u32) -> Result<Vec<ContextStatus>, Error> {
        if length == 0 {
            return Ok(Vec::new());
        }
        let (reply, answer) = oneshot::channel();
        let answer_to = Answer::Status { contexts: Vec::new(), reply };
        let what = "a block status request";
        let raw = self.ask(CMD_BLOCK_STATUS, offset, length, answer_to, answer, what).await?;
        raw.into_iter().map(|status| self.name_context(status)).collect()
    }

    /// From the server's number of a context to our index.
    fn name_context(&self, status: ContextStatus) -> Result<ContextStatus, Error> {
        let index = self.context_ids.iter().position(|id| id.is_some_and(|id| id as usize == status.context));
        let context =
            index.ok_or_else(|| Error::protocol("a block status of a meta context that was not selected"))?;
        Ok(ContextStatus { context, extents: status.extents })
    }

    /// Tells the server that we are done, and closes. Requests in flight fail.
    pub async fn disconnect(self) {
        if self.requests.send(request(CMD_DISCONNECT, 0, 0, 0)).await.is_ok() {
            let writer = lock(&self.writer).take();
            if let Some(writer) = writer {
                // The writer ends by itself after it has sent the farewell; a server that does not read is not waited for.
                drop(tokio::time::timeout(Duration::from_secs(1), writer).await);
            }
        }
        self.shared.end(&Error::Closed("we disconnected".to_owned()));
    }

    async fn ask<T>(
        &self,
        command: u16,
        offset: u64,
        length: u32,
        answer_to: Answer,
        answer: oneshot::Receiver<Result<T, Error>>,
        what: &'static str,
    ) -> Result<T, Error> {
        if offset.checked_add(u64::from(length)).is_none_or(|end| end > self.size) {
            return Err(Error::Invalid(format!(
                "{length} bytes at {offset} lie outside an export of {}",
                self.size
            )));
        }
        let permit = self.slots.clone().acquire_owned().await;
        let permit = permit.map_err(|_| Error::Closed("the client is closed".to_owned()))?;
        let cookie = self.next_cookie.fetch_add(1, Ordering::Relaxed);
        self.shared.register(cookie, Pending { offset, length, answer: answer_to, error: None })?;
        if self.requests.send(request(command, cookie, offset, length)).await.is_err() {
            // Without a writer nothing is ever sent again; whoever ended it has said why.
            self.shared.end(&Error::Closed("nothing more can be sent".to_owned()));
        }
        let result = tokio::time::timeout(self.request_timeout, answer).await;
        drop(permit);
        match result {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(self.shared.why_ended()),
            Err(_) => {
                // Its answer could come at any time, so nothing more can be said about this connection.
                let error = Error::TimedOut { what, seconds: self.request_timeout.as_secs() };
                self.shared.end(&error);
                self.reader.abort();
                Err(error)
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.reader.abort();
        if let Some(writer) = lock(&self.writer).take() {
            writer.abort();
        }
        self.shared.end(&Error::Closed("we closed it".to_owned()));
    }
}

async fn write_requests<W: AsyncWrite + Unpin>(
    mut stream: W,
    mut queue: mpsc::Receiver<[u8; REQUEST_SIZE]>,
    shared: Arc<Shared>,
) {
    while let Some(request) = queue.recv().await {
        if let Err(error) = stream.write_all(&request).await {
            shared.end(&Error::closed(&error));
            return;
        }
        if request[6..8] == CMD_DISCONNECT.to_be_bytes() {
            drop(stream.shutdown().await);
            return;
        }
    }
}

fn request(command: u16, cookie: u64, offset: u64, length: u32) -> [u8; REQUEST_SIZE] {
    let mut bytes = [0; REQUEST_SIZE];
    bytes[..4].copy_from_slice(&MAGIC_REQUEST.to_be_bytes());
    bytes[6..8].copy_from_slice(&command.to_be_bytes());
    bytes[8..16].copy_from_slice(&cookie.to_be_bytes());
    bytes[16..24].copy_from_slice(&offset.to_be_bytes());
    bytes[24..].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// What the reader, the writer and the callers share.
#[derive(Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pending: HashMap<u64, Pending>,
    ended: Option<Error>,
}

impl Shared {
    fn register(&self, cookie: u64, pending: Pending) -> Result<(), Error> {
        let mut state = lock(&self.state);
        if let Some(why) = &state.ended {
            return Err(why.clone());
        }
        state.pending.insert(cookie, pending);
        Ok(())
    }

    pub fn take(&self, cookie: u64) -> Option<Pending> {
        lock(&self.state).pending.remove(&cookie)
    }

    /// Keeps a request for its next chunk, unless the connection has ended in the meantime.
    pub fn put_back(&self, cookie: u64, pending: Pending) -> Result<(), Error> {
        let mut state = lock(&self.state);
        if let Some(why) = state.ended.clone() {
            drop(state);
            pending.fail(why.clone());
            return Err(why);
        }
        state.pending.insert(cookie, pending);
        Ok(())
    }

    /// The first reason stands; requests in flight fail with it.
    pub fn end(&self, why: &Error) {
        let (why, orphans) = {
            let mut state = lock(&self.state);
            let why = state.ended.get_or_insert_with(|| why.clone()).clone();
            (why, std::mem::take(&mut state.pending))
        };
        for (_, pending) in orphans {
            pending.fail(why.clone());
        }
    }

    fn why_ended(&self) -> Error {
        let ended = lock(&self.state).ended.clone();
        ended.unwrap_or_else(|| Error::Closed("without a reason".to_owned()))
    }
}

/// The data behind these locks is whole after every statement, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
