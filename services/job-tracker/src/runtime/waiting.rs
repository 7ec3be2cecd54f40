//! Waits for the end of a job, woken by the log of events.

use std::time::Instant;

use tokio::time::sleep_until;
use understudy_ids::RunId;
use understudy_jobs_api::Job;

use super::{Error, Result, Runtime};

/// Most calls that wait at once: well below what a server takes on by default, so that waiting keeps nobody from working.
pub const MAX_WAITERS: usize = 256;

impl Runtime {
    /// The job as soon as it has ended, or as it is at `until` or when the process is to end.
    ///
    /// # Errors
    /// `NoJob`, `TooManyWaiters`.
    pub async fn wait_for_end(&self, id: RunId, until: Instant) -> Result<Job> {
        let _place = self.0.waiters.try_acquire().map_err(|_| Error::TooManyWaiters)?;
        let mut woken = self.0.events.subscribe();
        let over = sleep_until(until.into());
        tokio::pin!(over);
        loop {
            let job = self.get_job(id).await?;
            if job.state.is_final() || over.is_elapsed() {
                return Ok(job);
            }
            tokio::select! {
                // Every wake-up is followed by a look; the sender lives as long as this runtime.
                _ = woken.changed() => {}
                () = &mut over => {}
                () = self.0.shutdown.cancelled() => return Ok(job),
            }
        }
    }
}
