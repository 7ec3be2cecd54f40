//! Scripts for recovery plans (R-RP-2): what of them is a result, and what is an error.

use serde_json::{Map, Value};
use understudy_jobs_api::{Stop, TaskContext};
use understudy_replication_api::{AgentTaskResult, RunScript};

use super::{Result, Scope, TaskError, Tasks, stopped};
use crate::scripts::{Asked, Cause, ScriptError};

/// How much of what a script wrote is said with an error, in bytes.
const SHOWN_OF_OUTPUT: usize = 2048;

impl Tasks {
    /// The script has run to its end. Any exit code is a result: what it means is the run's to say.
    pub(super) async fn run_script(&self, scope: &Scope, asked: RunScript, context: &TaskContext) -> Result {
        let RunScript { script, sha256, time_out, context: told } = asked;
        let told = with_attempt(&told, context.attempt())?;
        let asked = Asked { run: scope.run, script: script.clone(), sha256, time_out, context: told };
        let ended = self.scripts.run(asked, context.stopped()).await?;
        let said = end_of(&ended.output.text);
        match ended.cause {
            Cause::Exited(exit_code) => Ok(AgentTaskResult::Script {
                exit_code,
                output: ended.output.text,
                truncated: ended.output.truncated,
            }),
            Cause::Killed(signal) => Err(TaskError::failed(
                "SCRIPT_KILLED",
                format!("the script {script} was ended by {signal}; {said}"),
                "Look at the host's log and at the limits of scripts in the agent's configuration, then retry.",
            )),
            Cause::TimedOut => Err(TaskError::failed(
                "SCRIPT_TIMED_OUT",
                format!("the script {script} had not ended after {time_out:?} and was killed; {said}"),
                "Look at what it waits for, or give it more time, then retry: it runs again from its beginning.",
            )),
            // Nobody has decided against it, so the next attempt runs it from its beginning.
            Cause::Stopped if matches!(context.stop_reason(), Some(Stop::ShuttingDown | Stop::LeaseLost)) => {
                Err(stopped())
            }
            Cause::Stopped => Err(TaskError::failed(
                "SCRIPT_CANCELLED",
                format!("the script {script} was killed because its task was cancelled; {said}"),
                "Look at what it had done by then.",
            )),
        }
    }
}

/// The context that the script reads: what it was given, and which attempt this is.
fn with_attempt(context: &str, attempt: u32) -> Result<String> {
    let mut members: Map<String, Value> = serde_json::from_str(context).map_err(|error| {
        let message = format!("the script's context is no JSON object: {error}");
        TaskError::failed("BAD_TASK", message, "Run the same version of orchestrator and agent.")
    })?;
    members.insert("attempt".to_owned(), attempt.into());
    Ok(Value::Object(members).to_string())
}

fn end_of(output: &str) -> String {
    let output = output.trim_end();
    let from = output.ceil_char_boundary(output.len().saturating_sub(SHOWN_OF_OUTPUT));
    match &output[from..] {
        "" => "it wrote nothing".to_owned(),
        said if from > 0 => format!("what it wrote ends with:\n{said}"),
        said => format!("it wrote:\n{said}"),
    }
}

impl From<ScriptError> for TaskError {
    fn from(error: ScriptError) -> Self {
        let text = error.to_string();
        match error {
            ScriptError::NotConfigured => Self::failed(
                "SCRIPTS_NOT_CONFIGURED",
                text,
                "Add the section [scripts] to the agent's configuration, or choose another host.",
            ),
            ScriptError::NotFound(_) => Self::failed(
                "SCRIPT_NOT_FOUND",
                text,
                "Put it into the directory that the agent's configuration names in scripts.dir.",
            ),
            ScriptError::Refused { .. } => Self::failed(
                "SCRIPT_REFUSED",
                text,
                "Make it root's, writable by nobody else, and no link; then retry.",
            ),
            ScriptError::Changed { .. } => Self::failed(
                "SCRIPT_CHANGED",
                text,
                "Look at what has changed in it. Put the pinned version back, or pin this one.",
            ),
            ScriptError::User { .. } => {
                Self::failed("SCRIPT_USER", text, "Name another user in the agent's configuration.")
            }
            ScriptError::NotStarted(_) => Self::failed(
                "SCRIPT_NOT_STARTED",
                text,
                "Look at the script's first line and at the limits of scripts in the agent's configuration.",
            ),
            ScriptError::Stopped => stopped(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_attempt_is_the_agents_to_say() {
        let told = with_attempt(r#"{"attempt":"first","items":["web1"]}"#, 3).unwrap();
        let told: Value = serde_json::from_str(&told).unwrap();
        assert_eq!(told, serde_json::json!({ "attempt": 3, "items": ["web1"] }));
        assert!(with_attempt("[]", 1).is_err());
    }

    #[test]
    fn errors_end_with_what_the_script_wrote_last() {
        assert_eq!(end_of("\n"), "it wrote nothing");
        assert_eq!(end_of("a\nb\n"), "it wrote:\na\nb");
        let long = end_of(&format!("{}end", "ä".repeat(4000)));
        assert!(
            long.len() < 2200 && long.starts_with("what it wrote ends with:\nä") && long.ends_with("end")
        );
    }
}
