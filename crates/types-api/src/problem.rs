//! Problems on the wire.

use understudy_ids::Problem;

use crate::v1;

/// The longest text of a problem, in bytes.
pub const MAX_PROBLEM_TEXT: usize = 4096;
/// The most problems that one message carries.
pub const MAX_PROBLEMS: usize = 1000;

/// # Errors
/// The name of the field whose text is longer than [`MAX_PROBLEM_TEXT`] bytes, or `"reason"` when there is no reason.
pub fn problem_from_wire(problem: v1::Problem) -> Result<Problem, &'static str> {
    let v1::Problem { reason, subject, message, remedy } = problem;
    if reason.is_empty() {
        return Err("reason");
    }
    for (field, text) in
        [("reason", &reason), ("subject", &subject), ("message", &message), ("remedy", &remedy)]
    {
        if text.len() > MAX_PROBLEM_TEXT {
            return Err(field);
        }
    }
    Ok(Problem { reason, subject, message, remedy })
}

/// Texts that are too long for the wire are cut: a problem must always reach the person who can act on it.
pub fn problem_to_wire(problem: Problem) -> v1::Problem {
    let Problem { reason, subject, message, remedy } = problem;
    v1::Problem { reason: cut(reason), subject: cut(subject), message: cut(message), remedy: cut(remedy) }
}

fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_PROBLEM_TEXT));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_out_can_come_in_however_long_it_was() {
        let long = Problem::new("R", "s", "é".repeat(MAX_PROBLEM_TEXT), "r");
        let back = problem_from_wire(problem_to_wire(long)).unwrap();
        assert_eq!(back.message.len(), MAX_PROBLEM_TEXT);
    }

    #[test]
    fn problems_without_a_reason_or_with_endless_texts_are_refused() {
        assert_eq!(problem_from_wire(v1::Problem::default()), Err("reason"));
        let long = v1::Problem {
            reason: "R".into(),
            remedy: "x".repeat(MAX_PROBLEM_TEXT + 1),
            ..v1::Problem::default()
        };
        assert_eq!(problem_from_wire(long), Err("remedy"));
    }
}
