//! Jobs as `google.longrunning.Operation`s. What a state means there is the table of `understudy_jobs::OPERATION_OUTCOMES`.

use understudy_ids::Uuid;
use understudy_jobs::{OperationOutcome, operation_outcome};
use understudy_rpc::ApiError;
use understudy_types_api::{duration_from_wire, pack};

use super::{
    filter, job_to_wire,
    request::{ListJobs, page},
};
use crate::{
    check::{Check, Invalid},
    longrunning::{self, operation},
    model::{Job, JobWait},
    name::JobName,
    v1,
};

/// The collection that operations are listed from.
const PARENT: &str = "jobs";

/// # Errors
/// When the text is not `jobs/<uuid>`.
pub fn operation_name(text: &str) -> Result<Uuid, Invalid> {
    super::job_name("name", text)
}

/// # Errors
/// All fields that cannot be taken.
pub fn list_operations(request: longrunning::ListOperationsRequest) -> Result<ListJobs, Invalid> {
    let longrunning::ListOperationsRequest { name, filter, page_size, page_token, return_partial_success: _ } =
        request;
    let mut check = Check::default();
    if !["", PARENT].contains(&name.as_str()) {
        check.note("INVALID", "name", "is not a collection of operations", "Send \"jobs\".");
    }
    let filter = filter::read(&mut check, &filter);
    // What is negative is beyond the bound as well.
    let (page_size, page_token) = page(&mut check, u32::try_from(page_size).unwrap_or(u32::MAX), page_token);
    check.done(Some(ListJobs { filter, page_size, page_token }))
}

/// # Errors
/// All fields that cannot be taken.
pub fn wait_operation(request: longrunning::WaitOperationRequest) -> Result<JobWait, Invalid> {
    let mut check = Check::default();
    let job: Option<JobName> = check.parse("name", &request.name);
    let time_out = request.timeout.map(duration_from_wire).transpose();
    if let Err(error) = &time_out {
        check.note("INVALID", "timeout", error.to_string(), "Send a span of zero or more.");
    }
    let time_out = time_out.ok().flatten();
    check.done(job.map(|job| JobWait { job: job.0, time_out }))
}

pub fn operation_from_job(mut job: Job) -> longrunning::Operation {
    let report_json = job.report_json.take().unwrap_or_default();
    let result = match operation_outcome(job.state) {
        OperationOutcome::Pending => None,
        OperationOutcome::Response => Some(operation::Result::Response(pack(&v1::JobResult { report_json }))),
        OperationOutcome::FailedPrecondition => Some(operation::Result::Error(error(&job).into_message())),
        OperationOutcome::Cancelled => {
            let mut message = error(&job).into_message();
            message.code = tonic::Code::Cancelled.into();
            Some(operation::Result::Error(message))
        }
    };
    longrunning::Operation {
        name: job.name().to_string(),
        done: result.is_some(),
        metadata: Some(pack(&job_to_wire(job))),
        result,
    }
}

/// The first problem is what programs decide by; all of them are details.
fn error(job: &Job) -> ApiError {
    let state = job.state.as_str();
    let message = format!("{} {} is {}", job.kind, job.name(), state.replace('_', " "));
    let mut error = ApiError::refused("JOB_ENDED", message, job.problems.clone());
    if let Some(first) = job.problems.first() {
        error.reason = first.reason.clone().into();
        error.remedy = first.remedy.clone();
    }
    error.with_metadata("job_state", state)
}

#[cfg(test)]
mod tests {
    use understudy_ids::{Problem, UnixMicros};
    use understudy_jobs::{JobState, OPERATION_OUTCOMES};
    use understudy_rpc::Kind;
    use understudy_types_api::unpack;

    use super::*;

    fn job(state: JobState, problems: Vec<Problem>) -> Job {
        Job {
            id: Uuid::from_u128(1),
            kind: "planned-failover".into(),
            targets: vec![],
            created_by: "u".into(),
            owner: "o".into(),
            state,
            phase: "p".into(),
            waiting_for: String::new(),
            allowed_actions: vec![],
            problems,
            progress_percent: 7,
            created: UnixMicros::new(1),
            started: None,
            ended: None,
            revision: 3,
            report_json: Some("{}".into()),
            labels: Default::default(),
        }
    }

    /// R-JOB-1, row by row: exactly one of nothing, a response and an error, and the job beside it.
    #[test]
    fn each_state_reads_as_its_row_says() {
        let problems = vec![Problem::new("NO_HOST", "hosts/a", "is away", "Start it."), Problem::default()];
        for &(state, outcome) in OPERATION_OUTCOMES {
            let operation = operation_from_job(job(state, problems.clone()));
            assert_eq!(operation.name, "jobs/00000000-0000-0000-0000-000000000001");
            assert_eq!(operation.done, outcome != OperationOutcome::Pending, "{state}");
            let metadata: v1::Job = unpack(&operation.metadata.unwrap()).unwrap();
            assert_eq!(metadata.state(), super::super::job_state_to_wire(state));
            assert_eq!(metadata.report_json, "");
            match (outcome, operation.result) {
                (OperationOutcome::Pending, None) => {}
                (OperationOutcome::Response, Some(operation::Result::Response(any))) => {
                    assert_eq!(unpack::<v1::JobResult>(&any).unwrap().report_json, "{}");
                }
                (outcome, Some(operation::Result::Error(status))) => {
                    let expected = match outcome {
                        OperationOutcome::Cancelled => tonic::Code::Cancelled,
                        _ => tonic::Code::FailedPrecondition,
                    };
                    assert_eq!(status.code, i32::from(expected), "{state}");
                    assert!(status.message.contains(&state.as_str().replace('_', " ")), "{}", status.message);
                    let error = ApiError::from_message(&status);
                    assert_eq!((&*error.reason, error.problems.len()), ("NO_HOST", 2));
                    assert_eq!(error.metadata["job_state"], state.as_str());
                }
                (outcome, result) => panic!("{state}: {outcome:?}, {result:?}"),
            }
        }
    }

    #[test]
    fn an_end_without_problems_has_a_reason_all_the_same() {
        let operation = operation_from_job(job(JobState::Failed, vec![]));
        let Some(operation::Result::Error(status)) = operation.result else { panic!("it failed") };
        let error = ApiError::from_message(&status);
        assert_eq!((error.kind, &*error.reason), (Kind::FailedPrecondition, "JOB_ENDED"));
    }
}
