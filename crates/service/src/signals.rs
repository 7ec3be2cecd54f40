//! SIGTERM and SIGINT: the first asks for an orderly end, the second ends the process where it stands.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What a shell reports for a process that was interrupted.
const INTERRUPTED: i32 = 130;

pub fn watch(shutdown: CancellationToken) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        next(&mut terminate, &mut interrupt).await;
        tracing::info!("asked to end");
        shutdown.cancel();
        next(&mut terminate, &mut interrupt).await;
        tracing::warn!("asked again; ending at once");
        std::process::exit(INTERRUPTED);
    });
    Ok(())
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
