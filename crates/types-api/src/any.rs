//! Payloads whose type only their sender and receiver know.

use prost::{Message, Name};
use prost_types::Any;

/// The largest payload or result that is carried, in bytes (invariant 14).
pub const MAX_ANY_BYTES: usize = 1 << 20;
/// The longest type URL, in bytes.
const MAX_TYPE_URL: usize = 200;

/// Why an `Any` is not what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnyError {
    #[error("holds a {found:?}, expected {expected:?}: caller and worker are of different versions")]
    OtherType { expected: String, found: String },
    #[error("is not a readable {expected}: {cause}")]
    Malformed { expected: String, cause: String },
    #[error("is {bytes} bytes, the most is {MAX_ANY_BYTES}")]
    TooLarge { bytes: usize },
    #[error("has a type URL that is empty, longer than {MAX_TYPE_URL} bytes or without '/'")]
    BadTypeUrl,
}

/// Puts a message with its type URL into an `Any`.
pub fn pack<M: Message + Name>(message: &M) -> Any {
    Any { type_url: format!("type.googleapis.com/{}", M::full_name()), value: message.encode_to_vec() }
}

/// Takes the message out when it is an `M`. The part of the type URL before the last '/' is not compared: it says where
/// a schema could be fetched from, not what the type is.
///
/// # Errors
/// When it is of another type, too large or malformed.
pub fn unpack<M: Message + Name + Default>(any: &Any) -> Result<M, AnyError> {
    check_any(any)?;
    let expected = M::full_name();
    if any.type_url.rsplit('/').next() != Some(expected.as_str()) {
        return Err(AnyError::OtherType { expected, found: any.type_url.clone() });
    }
    M::decode(any.value.as_slice()).map_err(|e| AnyError::Malformed { expected, cause: e.to_string() })
}

/// Checks size and type URL of a payload that is only carried.
///
/// # Errors
/// `TooLarge` and `BadTypeUrl`.
pub fn check_any(any: &Any) -> Result<(), AnyError> {
    if any.value.len() > MAX_ANY_BYTES {
        return Err(AnyError::TooLarge { bytes: any.value.len() });
    }
    let url = &any.type_url;
    if url.is_empty() || url.len() > MAX_TYPE_URL || !url.contains('/') || url.ends_with('/') {
        return Err(AnyError::BadTypeUrl);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::Problem;

    fn message() -> Problem {
        Problem { reason: "X".into(), ..Problem::default() }
    }

    #[test]
    fn a_message_comes_out_as_it_went_in() {
        let any = pack(&message());
        assert_eq!(any.type_url, "type.googleapis.com/understudy.types.v1.Problem");
        assert_eq!(unpack::<Problem>(&any), Ok(message()));
    }

    #[test]
    fn another_type_is_refused_even_when_it_would_decode() {
        let any = pack(&prost_types::Duration { seconds: 1, nanos: 0 });
        assert!(matches!(unpack::<prost_types::Timestamp>(&any), Err(AnyError::OtherType { .. })));
    }

    #[test]
    fn malformed_and_oversized_values_are_refused() {
        let mut any = pack(&message());
        any.value = vec![0xff; 3];
        assert!(matches!(unpack::<Problem>(&any), Err(AnyError::Malformed { .. })));
        any.value = vec![0; MAX_ANY_BYTES + 1];
        assert_eq!(unpack::<Problem>(&any), Err(AnyError::TooLarge { bytes: MAX_ANY_BYTES + 1 }));
        for url in ["", "x", "x/", &format!("x/{}", "y".repeat(MAX_TYPE_URL))] {
            let any = Any { type_url: url.to_owned(), value: Vec::new() };
            assert_eq!(check_any(&any), Err(AnyError::BadTypeUrl), "{url}");
        }
    }
}
