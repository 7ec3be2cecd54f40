//! The one error of our API: what happened, to what, and what to do.
//!
//! ```text
//!   domain error ─▶ ApiError ── status.rs ──▶ gRPC status + google.rpc details ── status.rs ──▶ ApiError ─▶ person or retry
//! ```
//!
//! `reason` is stable and for programs, `message` says what happened, `remedy` what to do about it. A refused request carries *all*
//! its problems. Causes inside a service are logged where they happen and never sent.

mod status;

use std::{borrow::Cow, collections::BTreeMap, error::Error, fmt, sync::Arc};

pub use understudy_ids::Problem;

/// The classes of errors, each with its gRPC code. *Unknown* means that nobody knows whether the call took effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    InvalidArgument,
    NotFound,
    AlreadyExists,
    FailedPrecondition,
    Aborted,
    PermissionDenied,
    Unauthenticated,
    ResourceExhausted,
    Unavailable,
    DeadlineExceeded,
    Unimplemented,
    Unknown,
    Internal,
}

/// What is behind an error, for the log.
type Cause = Box<dyn Error + Send + Sync>;

/// An error as a caller of our API sees it.
#[derive(Debug, Clone)]
pub struct ApiError {
    pub kind: Kind,
    /// Stable, UPPER_SNAKE. Programs decide by it.
    pub reason: Cow<'static, str>,
    pub message: String,
    /// What the reader can do; empty when there is nothing.
    pub remedy: String,
    /// Everything that is wrong, not only the first.
    pub problems: Vec<Problem>,
    /// Small facts for programs, such as the job that is in the way.
    pub metadata: Box<BTreeMap<String, String>>,
    cause: Option<Arc<Cause>>,
}

macro_rules! constructors {
    ($($name:ident => $kind:ident),* $(,)?) => {
        $(
            #[doc = concat!("An error of kind [`Kind::", stringify!($kind), "`]: stable reason, what happened, what to do.")]
            pub fn $name(reason: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
                Self::new(Kind::$kind, reason, message, remedy)
            }
        )*
    };
}

impl ApiError {
    pub fn new(
        kind: Kind,
        reason: &'static str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            reason: reason.into(),
            message: message.into(),
            remedy: remedy.into(),
            problems: Vec::new(),
            metadata: Box::default(),
            cause: None,
        }
    }

    constructors! {
        invalid_argument => InvalidArgument,
        not_found => NotFound,
        already_exists => AlreadyExists,
        failed_precondition => FailedPrecondition,
        aborted => Aborted,
        permission_denied => PermissionDenied,
        unauthenticated => Unauthenticated,
        resource_exhausted => ResourceExhausted,
        unavailable => Unavailable,
        deadline_exceeded => DeadlineExceeded,
        unknown => Unknown,
    }

    /// A mistake of ours. The cause is logged when the error leaves the service; the caller learns that it happened, not what.
    pub fn internal(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let message = "the service met an error of its own";
        Self::new(
            Kind::Internal,
            "INTERNAL",
            message,
            "look into the service's log at this time, or try again",
        )
        .caused_by(cause)
    }

    /// A malformed or impossible request, with all that is wrong with it.
    pub fn invalid(problems: Vec<Problem>) -> Self {
        Self::invalid_argument("INVALID_REQUEST", summary("the request is not valid", &problems), "")
            .with_problems(problems)
    }

    /// A request that is well formed but not allowed in the present state, with everything that stands against it.
    pub fn refused(reason: &'static str, message: impl Into<String>, problems: Vec<Problem>) -> Self {
        Self::failed_precondition(reason, summary(&message.into(), &problems), "").with_problems(problems)
    }

    #[must_use]
    pub fn with_problems(mut self, problems: Vec<Problem>) -> Self {
        self.problems = problems;
        self
    }

    #[must_use]
    pub fn with_metadata(mut self, key: &str, value: impl Into<String>) -> Self {
        self.metadata.insert(key.to_owned(), value.into());
        self
    }

    /// Attaches what is behind the error, for the log only.
    #[must_use]
    pub fn caused_by(mut self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.cause = Some(Arc::new(cause.into()));
        self
    }

    /// Whether the call may have taken effect although it failed. Then the answer is to ask for the state, or to make the same
    /// call again with the same request id; never to assume that nothing happened.
    pub fn outcome_unknown(&self) -> bool {
        matches!(self.kind, Kind::Unavailable | Kind::DeadlineExceeded | Kind::Unknown | Kind::Internal)
    }
}

fn summary(message: &str, problems: &[Problem]) -> String {
    match problems {
        [] => message.to_owned(),
        [only] if only.subject.is_empty() => format!("{message}: {}", only.message),
        [only] => format!("{message}: {}: {}", only.subject, only.message),
        several => format!("{message}: {} problems", several.len()),
    }
}

/// Equal for the reader: causes are not compared.
impl PartialEq for ApiError {
    fn eq(&self, other: &Self) -> bool {
        let seen = |e: &Self| (e.kind, e.reason.clone(), e.message.clone(), e.remedy.clone());
        seen(self) == seen(other) && self.problems == other.problems && self.metadata == other.metadata
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.reason)?;
        for problem in &self.problems {
            write!(f, "; {}: {}", problem.subject, problem.message)?;
        }
        if !self.remedy.is_empty() {
            write!(f, ". {}", self.remedy)?;
        }
        Ok(())
    }
}

impl Error for ApiError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_deref().map(|cause| &**cause as &(dyn Error + 'static))
    }
}
