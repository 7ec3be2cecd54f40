//! What a script writes, kept within bounds and made harmless for a terminal.

use std::collections::VecDeque;

use tokio::io::{AsyncRead, AsyncReadExt};
use understudy_replication_api::MAX_SCRIPT_OUTPUT;

/// Kept of the beginning, which says what a script set out to do.
const HEAD: usize = 16 << 10;
/// For the words about what is left out.
const MARK: usize = 128;
/// Kept of the end, which says what came of it.
const TAIL: usize = MAX_SCRIPT_OUTPUT - HEAD - MARK;

/// What is kept of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// At most [`MAX_SCRIPT_OUTPUT`] bytes.
    pub text: String,
    /// Whether there was more.
    pub truncated: bool,
}

#[derive(Default)]
struct Kept {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    left_out: u64,
}

/// Reads to the end, however much that is: a script is never held up by what it writes.
pub(super) async fn read(mut from: impl AsyncRead + Unpin) -> Output {
    let mut kept = Kept::default();
    let mut buffer = vec![0; 64 << 10];
    // What was read before an error is worth as much as before an end.
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        kept.take(&buffer[..n]);
    }
    kept.output()
}

impl Kept {
    fn take(&mut self, bytes: &[u8]) {
        let (head, rest) = bytes.split_at(bytes.len().min(HEAD - self.head.len()));
        self.head.extend_from_slice(head);
        self.tail.extend(rest);
        let over = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..over);
        self.left_out += over as u64;
    }

    fn output(self) -> Output {
        let Self { mut head, tail, left_out } = self;
        let tail: Vec<u8> = tail.into();
        if left_out == 0 {
            head.extend(tail);
            return Output { text: printable(&head), truncated: false };
        }
        // A character that the cut went through is left out with the rest.
        let cut = tail.iter().take(3).take_while(|byte| **byte & 0xc0 == 0x80).count();
        let text = format!(
            "{}\n[ {left_out} bytes are left out here ]\n{}",
            printable(whole(&head)),
            printable(&tail[cut..])
        );
        Output { text, truncated: true }
    }
}

/// Without the beginning of a character whose end is missing.
fn whole(bytes: &[u8]) -> &[u8] {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => &bytes[..error.valid_up_to()],
        _ => bytes,
    }
}

/// Never longer than the bytes. What could move a terminal's cursor, change its state or the order of its text is a question mark.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes).replace("\r\n", "\n").replace('\r', "\n");
    let harmless = |c: char| match c {
        '\n' | '\t' => c,
        char::REPLACEMENT_CHARACTER | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '?',
        c if c.is_control() => '?',
        c => c,
    };
    text.chars().map(harmless).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(pieces: &[&[u8]]) -> Output {
        let mut kept = Kept::default();
        for piece in pieces {
            kept.take(piece);
        }
        kept.output()
    }

    #[test]
    fn what_fits_is_kept_as_it_is() {
        let all = vec![b'x'; HEAD + TAIL];
        let output = kept(&[&all[..10], &all[10..HEAD + 5], &all[HEAD + 5..]]);
        assert_eq!((output.text.len(), output.truncated), (HEAD + TAIL, false));
    }

    #[test]
    fn of_more_the_beginning_and_the_end_are_kept() {
        let middle = "ä".repeat(1 << 20);
        let output = kept(&[b"first ", middle.as_bytes(), b" last"]);
        assert!(output.truncated && output.text.len() <= MAX_SCRIPT_OUTPUT);
        assert!(output.text.starts_with("first ä") && output.text.ends_with("ä last"));
        assert!(!output.text.contains('?'), "a character was cut through");
        assert!(output.text.contains("bytes are left out here"));
    }

    #[test]
    fn nothing_reaches_a_terminal_but_text() {
        let output = kept(&[b"\x1b[2Jred\x07 \xff\xfe ok\ttab\r\nnext\rover \xc2\x9b \xe2\x80\xae"]);
        assert_eq!(output.text, "?[2Jred? ?? ok\ttab\nnext\nover ? ?");
    }

    #[test]
    fn bytes_that_are_no_text_do_not_grow() {
        let output = kept(&[&vec![0xff; 10 << 20]]);
        assert!(output.text.len() <= MAX_SCRIPT_OUTPUT);
    }
}
