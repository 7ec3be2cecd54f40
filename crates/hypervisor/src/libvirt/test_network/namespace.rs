//! A named network namespace, and work done inside it.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sched::{CloneFlags, setns};

use super::super::command;
use crate::Error;

#[derive(Debug, Clone)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    pub fn new(name: String) -> Self {
        Self { name }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// The namespace exists, without IPv6 and without forwarding. A name that is left of one that is gone – after a
    /// restart in another mount namespace the file is there and empty – is made anew.
    pub async fn ensure(&self) -> Result<(), Error> {
        if !self.is_usable().await? {
            self.remove().await?;
            command::run("ip", &["netns", "add", &self.name]).await?;
        }
        let written = self.run(|| {
            let settings = [
                ("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1"),
                ("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1"),
                ("/proc/sys/net/ipv4/ip_forward", "0"),
            ];
            for (file, value) in settings.into_iter().filter(|(file, _)| Path::new(file).exists()) {
                std::fs::write(file, value)?;
            }
            Ok(())
        });
        written.await
    }

    pub async fn remove(&self) -> Result<(), Error> {
        if !tokio::fs::try_exists(self.path()).await.unwrap_or(false) {
            return Ok(());
        }
        command::run("ip", &["netns", "delete", &self.name]).await.map(drop)
    }

    pub async fn has_link(&self, link: &str) -> Result<bool, Error> {
        let arguments = ["-n", &self.name, "link", "show", "dev", link];
        command::attempt("ip", &arguments, command::LIMIT).await.map(|(found, _)| found)
    }

    async fn is_usable(&self) -> Result<bool, Error> {
        self.has_link("lo").await
    }

    /// Whether `ping` gets an answer from `address` within `limit`.
    pub async fn ping(&self, address: std::net::IpAddr, limit: Duration) -> Result<bool, Error> {
        let mut arguments = vec!["netns".to_owned(), "exec".to_owned(), self.name.clone(), "ping".to_owned()];
        arguments.extend(ping_arguments(address, limit));
        command::attempt("ip", &arguments, limit + command::LIMIT).await.map(|(answered, _)| answered)
    }

    /// Runs `work` on a thread that is inside the namespace. The thread ends with it, because no other work may ever be
    /// done on a thread that has changed its namespace.
    pub async fn run<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce() -> io::Result<T> + Send + 'static,
    {
        let path = self.path();
        let what = format!("work in network namespace {}", self.name);
        let failed = |error: io::Error| Error::Failed { what: what.clone(), why: error.to_string() };
        let (sender, answer) = tokio::sync::oneshot::channel();
        let thread = move || {
            let result = File::open(&path)
                .and_then(|file| setns(file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from))
                .and_then(|()| work());
            // The receiver is gone when nobody wants to know any more.
            drop(sender.send(result));
        };
        std::thread::Builder::new().name("netns".to_owned()).spawn(thread).map_err(failed)?;
        let result =
            answer.await.map_err(|_| failed(io::Error::other("its thread ended without an answer")))?;
        result.map_err(failed)
    }
}

/// Asks once a second until there is an answer.
pub fn ping_arguments(address: std::net::IpAddr, limit: Duration) -> Vec<String> {
    let seconds = limit.as_secs().max(1).to_string();
    ["-n", "-q", "-c", "1", "-w", &seconds]
        .into_iter()
        .map(str::to_owned)
        .chain([address.to_string()])
        .collect()
}
