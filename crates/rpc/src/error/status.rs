//! [`ApiError`] to and from a gRPC status with `google.rpc` details.
//!
//! | field | on the wire |
//! |---|---|
//! | kind | status code, by the table in [`Kind::code`] |
//! | reason, metadata | `ErrorInfo` with domain `understudy` |
//! | remedy | `LocalizedMessage`, locale `en` |
//! | problems of an invalid argument | `BadRequest.field_violations` |
//! | problems of anything else | `PreconditionFailure.violations`; their remedies in the metadata as `remedy_<n>` |
//!
//! Details travel in one header, and peers limit headers: texts and lists are cut, and `problems_omitted` in the metadata says how
//! many are missing.

use std::{collections::HashMap, error::Error as _};

use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{
    BadRequest, ErrorDetails, ErrorInfo, FieldViolation, LocalizedMessage, PreconditionViolation, StatusExt,
};

use super::{ApiError, Kind, Problem};

const DOMAIN: &str = "understudy";
const LOCALE: &str = "en";
const OMITTED: &str = "problems_omitted";
/// Longest text of one field, in characters.
const TEXT_CHARS: usize = 500;
/// Budget for all problems together. Base64 adds a third, and the smallest default limit of a client library is 8 KiB.
const PROBLEM_BYTES: usize = 4 * 1024;

impl Kind {
    /// The table. Read from left to right by servers, from right to left by clients.
    const TABLE: [(Kind, Code); 13] = [
        (Kind::InvalidArgument, Code::InvalidArgument),
        (Kind::NotFound, Code::NotFound),
        (Kind::AlreadyExists, Code::AlreadyExists),
        (Kind::FailedPrecondition, Code::FailedPrecondition),
        (Kind::Aborted, Code::Aborted),
        (Kind::PermissionDenied, Code::PermissionDenied),
        (Kind::Unauthenticated, Code::Unauthenticated),
        (Kind::ResourceExhausted, Code::ResourceExhausted),
        (Kind::Unavailable, Code::Unavailable),
        (Kind::DeadlineExceeded, Code::DeadlineExceeded),
        (Kind::Unimplemented, Code::Unimplemented),
        (Kind::Unknown, Code::Unknown),
        (Kind::Internal, Code::Internal),
    ];

    pub fn code(self) -> Code {
        Self::TABLE.iter().find(|(kind, _)| *kind == self).map_or(Code::Internal, |(_, code)| *code)
    }

    /// Codes that we never send are read as the nearest kind that we do.
    fn from_code(code: Code) -> Self {
        match code {
            Code::OutOfRange => Self::InvalidArgument,
            Code::DataLoss => Self::Internal,
            // A caller that gave up does not know what became of its call.
            Code::Cancelled | Code::Ok => Self::Unknown,
            code => Self::TABLE.iter().find(|(_, c)| *c == code).map_or(Self::Unknown, |(kind, _)| *kind),
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::Aborted => "ABORTED",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::Unavailable => "UNAVAILABLE",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::Unknown => "UNKNOWN",
            Self::Internal => "INTERNAL",
        }
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Status {
        log_cause(&error);
        let mut metadata: HashMap<String, String> =
            error.metadata.iter().map(|(key, value)| (key.clone(), cut(value))).collect();
        let problems = within_budget(&error.problems);
        if problems.len() < error.problems.len() {
            metadata.insert(OMITTED.into(), (error.problems.len() - problems.len()).to_string());
        }
        let mut details = ErrorDetails::new();
        if error.kind == Kind::InvalidArgument {
            if !problems.is_empty() {
                details.set_bad_request(problems.iter().map(field_violation).collect::<Vec<_>>());
            }
        } else {
            for (n, problem) in problems.iter().enumerate() {
                details.add_precondition_failure_violation(
                    &*problem.reason,
                    cut(&problem.subject),
                    cut(&problem.message),
                );
                if !problem.remedy.is_empty() {
                    metadata.insert(format!("remedy_{n}"), cut(&problem.remedy));
                }
            }
        }
        details.set_error_info(&*error.reason, DOMAIN, metadata);
        if !error.remedy.is_empty() {
            details.set_localized_message(LOCALE, cut(&error.remedy));
        }
        Status::with_error_details(error.kind.code(), cut(&error.message), details)
    }
}

fn log_cause(error: &ApiError) {
    if let Some(cause) = error.source() {
        let chain = std::iter::successors(Some(cause), |&e| e.source()).map(|e| e.to_string());
        let chain = chain.collect::<Vec<_>>().join(": ");
        if error.kind == Kind::Internal {
            tracing::error!(reason = %error.reason, cause = %chain, "call failed");
        } else {
            tracing::warn!(reason = %error.reason, cause = %chain, "call failed");
        }
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(TEXT_CHARS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

fn within_budget(problems: &[Problem]) -> &[Problem] {
    let mut used = 0;
    let fits = problems.iter().take_while(|p| {
        used += cut(&p.subject).len() + p.reason.len() + cut(&p.message).len() + cut(&p.remedy).len() + 32;
        used <= PROBLEM_BYTES
    });
    &problems[..fits.count()]
}

fn field_violation(problem: &Problem) -> FieldViolation {
    let mut violation = FieldViolation::new(cut(&problem.subject), cut(&problem.message));
    violation.reason = problem.reason.to_string();
    violation.localized_message =
        (!problem.remedy.is_empty()).then(|| LocalizedMessage::new(LOCALE, cut(&problem.remedy)));
    violation
}

impl ApiError {
    /// The error as a message, where it is part of an answer instead of one: an operation that failed.
    pub fn into_message(self) -> tonic_types::Status {
        let status = Status::from(self);
        // Details are such a message already; `Status::from` always sets them.
        tonic_types::Status::decode(status.details()).unwrap_or_else(|_| tonic_types::Status {
            code: status.code().into(),
            message: status.message().to_owned(),
            details: Vec::new(),
        })
    }

    /// The reverse of [`ApiError::into_message`].
    pub fn from_message(message: &tonic_types::Status) -> Self {
        let details = message.encode_to_vec().into();
        Self::from_status(&Status::with_details(message.code.into(), message.message.clone(), details))
    }

    /// What a status means, whoever made it: one of ours, a foreign server's, or tonic's own about a broken connection. It never fails.
    pub fn from_status(status: &Status) -> Self {
        let details = status.get_error_details();
        match details.error_info() {
            Some(info) if info.domain == DOMAIN => ours(status, &details, info.clone()),
            _ => foreign(status, &details),
        }
    }
}

impl From<Status> for ApiError {
    fn from(status: Status) -> Self {
        Self::from_status(&status)
    }
}

fn ours(status: &Status, details: &ErrorDetails, info: ErrorInfo) -> ApiError {
    let mut metadata = info.metadata;
    let problems = match details.bad_request() {
        Some(request) => fields(request),
        None => preconditions(details, &mut metadata),
    };
    let mut error = ApiError::new(Kind::from_code(status.code()), "", status.message(), remedy(details));
    error.reason = info.reason.into();
    error.problems = problems;
    error.metadata = Box::new(metadata.into_iter().collect());
    error
}

fn fields(request: &BadRequest) -> Vec<Problem> {
    let problem = |violation: &FieldViolation| Problem {
        subject: violation.field.clone(),
        reason: violation.reason.clone(),
        message: violation.description.clone(),
        remedy: violation.localized_message.as_ref().map(|m| m.message.clone()).unwrap_or_default(),
    };
    request.field_violations.iter().map(problem).collect()
}

fn preconditions(details: &ErrorDetails, metadata: &mut HashMap<String, String>) -> Vec<Problem> {
    let Some(failure) = details.precondition_failure() else { return Vec::new() };
    let mut problem = |(n, violation): (usize, &PreconditionViolation)| Problem {
        subject: violation.subject.clone(),
        reason: violation.r#type.clone(),
        message: violation.description.clone(),
        remedy: metadata.remove(&format!("remedy_{n}")).unwrap_or_default(),
    };
    failure.violations.iter().enumerate().map(&mut problem).collect()
}

fn remedy(details: &ErrorDetails) -> String {
    details.localized_message().map(|m| m.message.clone()).unwrap_or_default()
}

/// tonic reports an expired deadline as CANCELLED and a broken connection as UNKNOWN, INTERNAL or CANCELLED. What sets them apart from
/// a server's answer is the source: a status that came over the wire has none.
fn foreign(status: &Status, details: &ErrorDetails) -> ApiError {
    let sources: Vec<String> =
        std::iter::successors(status.source(), |&e| e.source()).map(|e| e.to_string()).collect();
    let expired =
        std::iter::successors(status.source(), |&e| e.source()).any(|e| e.is::<tonic::TimeoutExpired>());
    if expired || (status.code() == Code::Cancelled && status.message() == "Timeout expired") {
        return ApiError::deadline_exceeded(
            "DEADLINE_EXCEEDED",
            "no answer came in time; whether the call took effect is not known",
            "ask for the state of the object, or repeat the call with the same request id",
        );
    }
    let transport =
        matches!(status.code(), Code::Unknown | Code::Internal | Code::Cancelled | Code::Unavailable);
    if transport && !sources.is_empty() {
        let last = sources.last().map_or(status.message(), String::as_str);
        return ApiError::unavailable(
            "PEER_UNREACHABLE",
            format!("the connection failed: {last}"),
            "check that the service runs, that it can be reached, and that both sides' certificates are valid",
        );
    }
    if status.code() == Code::OutOfRange && status.message().contains("message length too large") {
        return ApiError::invalid_argument("MESSAGE_TOO_LARGE", status.message(), "send less in one message");
    }
    let kind = Kind::from_code(status.code());
    let message = if status.message().is_empty() { status.code().description() } else { status.message() };
    let mut error = ApiError::new(kind, kind.reason(), message, remedy(details));
    error.problems = details.bad_request().map(fields).unwrap_or_default();
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(kind: Kind) -> ApiError {
        ApiError::new(kind, "ITEM_BUSY", "web1 is busy", "wait for the job")
            .with_problems(vec![
                Problem::new("BUSY", "protectedItems/web1", "a failover runs", "wait for it"),
                Problem::new("NO_POINT", "protectedItems/db1", "there is no recovery point", ""),
            ])
            .with_metadata("job", "jobs/42")
    }

    #[test]
    fn every_kind_round_trips_with_all_problems_and_remedies() {
        for (kind, code) in Kind::TABLE {
            let status = Status::from(example(kind));
            assert_eq!(status.code(), code);
            assert_eq!(ApiError::from_status(&status), example(kind));
        }
    }

    #[test]
    fn causes_are_not_sent() {
        let status = Status::from(ApiError::internal("password is hunter2"));
        assert_eq!(status.code(), Code::Internal);
        let bytes = [status.message().as_bytes(), status.details()].concat();
        assert!(!String::from_utf8_lossy(&bytes).contains("hunter2"));
    }

    #[test]
    fn a_long_list_is_cut_to_what_a_header_can_carry_and_says_so() {
        let problems: Vec<_> = (0..1000)
            .map(|n| Problem::new("BAD", format!("items/{n}"), "é".repeat(2000), "fix it"))
            .collect();
        let status = Status::from(ApiError::invalid(problems));
        assert!(status.details().len() < 6 * 1024, "{} bytes", status.details().len());
        let read = ApiError::from_status(&status);
        let omitted: usize = read.metadata[OMITTED].parse().unwrap();
        assert_eq!(read.problems.len() + omitted, 1000);
        assert!(!read.problems.is_empty());
    }

    #[test]
    fn any_status_means_something() {
        for number in -1..20 {
            let error = ApiError::from_status(&Status::new(Code::from(number), ""));
            assert!(!error.message.is_empty() && !error.reason.is_empty(), "{number}");
        }
        let garbage = Status::with_details(Code::NotFound, "gone", vec![0xff, 1, 2, 3].into());
        assert_eq!(ApiError::from_status(&garbage).kind, Kind::NotFound);
    }

    #[test]
    fn tonics_own_reports_are_told_apart_from_answers() {
        let timeout = Status::from_error(Box::new(tonic::TimeoutExpired(())));
        assert_eq!(ApiError::from_status(&timeout).kind, Kind::DeadlineExceeded);
        let refused = std::io::Error::other("connection refused");
        let connect = Status::from_error(Box::new(tonic::ConnectError(Box::new(refused))));
        let error = ApiError::from_status(&connect);
        assert_eq!((error.kind, &*error.reason), (Kind::Unavailable, "PEER_UNREACHABLE"));
        assert!(error.message.contains("connection refused") && error.outcome_unknown());
        let broken = Status::from_error(Box::new(std::io::Error::other("broken pipe")));
        assert_eq!(ApiError::from_status(&broken).kind, Kind::Unavailable);
        let answered = Status::unknown("the server said so");
        assert_eq!(ApiError::from_status(&answered).kind, Kind::Unknown);
    }
}
