//! Page tokens: the key after which a listing goes on, in a form that callers do not take for one.

use std::fmt::Write;

/// The longest key that a listing continues after, in bytes.
const MAX_KEY: usize = 512;

/// A token that no listing of ours gave out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is not a token that a listing returned; leave it empty to begin with the first page")]
pub struct InvalidCursor;

/// The token for going on after `key`; empty for no key.
pub fn encode(key: Option<&str>) -> String {
    let mut token = String::new();
    for byte in key.unwrap_or_default().bytes() {
        // Writing to a String does not fail.
        let _ = write!(token, "{byte:02x}");
    }
    token
}

/// # Errors
/// When the token is not one that [`encode`] makes.
pub fn decode(token: &str) -> Result<Option<String>, InvalidCursor> {
    if token.is_empty() {
        return Ok(None);
    }
    if !token.len().is_multiple_of(2)
        || token.len() > 2 * MAX_KEY
        || !token.bytes().all(|c| c.is_ascii_hexdigit())
    {
        return Err(InvalidCursor);
    }
    let bytes: Result<Vec<u8>, _> =
        (0..token.len()).step_by(2).map(|at| u8::from_str_radix(&token[at..at + 2], 16)).collect();
    String::from_utf8(bytes.map_err(|_| InvalidCursor)?).map(Some).map_err(|_| InvalidCursor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_as_keys_and_nothing_else_does() {
        for key in [None, Some("sites/alpha"), Some("é/1")] {
            assert_eq!(decode(&encode(key)), Ok(key.map(str::to_owned)));
        }
        for bad in ["x", "abc", "zz", "ff", &"61".repeat(MAX_KEY + 1)] {
            assert_eq!(decode(bad), Err(InvalidCursor), "{bad}");
        }
    }
}
