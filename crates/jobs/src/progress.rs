//! How far a job is, told from its tasks.

use crate::TaskState;

/// The mean of the tasks' progress in percent (0 to 100), rounded down, so that 100 means that every task has ended.
/// A task that has ended counts as done however it ended: progress says how much is left, not how well it went.
pub fn job_progress(tasks: impl IntoIterator<Item = (TaskState, u32)>) -> u32 {
    let (mut count, mut sum) = (0u64, 0u64);
    for (state, percent) in tasks {
        count += 1;
        // A task at 100 % that has not ended still has its end to come.
        sum += if state.is_final() { 100 } else { u64::from(percent.min(99)) };
    }
    // The quotient is at most 100.
    sum.checked_div(count).and_then(|p| u32::try_from(p).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_done_when_every_task_has_ended_and_not_before() {
        assert_eq!(job_progress([]), 0);
        assert_eq!(job_progress([(TaskState::Succeeded, 100), (TaskState::Failed, 3)]), 100);
        assert_eq!(job_progress([(TaskState::Succeeded, 100), (TaskState::Leased, 100)]), 99);
        assert_eq!(job_progress([(TaskState::Leased, 50), (TaskState::Queued, 0)]), 25);
        assert_eq!(job_progress([(TaskState::Leased, u32::MAX)]), 99);
    }
}
