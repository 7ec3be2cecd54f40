//! Encoding payloads and decoding them, a part at a time, on threads that may block.

use std::cell::RefCell;

use bytes::Bytes;
use understudy_replication::Encoding;

/// Fast: its ratio is the one that lines are compared with.
const ZSTD_LEVEL: i32 = 1;
/// Of so many bytes at least one must be saved, or decoding is not worth its while.
const WORTH: usize = 10;

thread_local! {
    // Making a context costs as much as encoding a block.
    static PACK: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
    static UNPACK: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// The content in the encoding that is asked for, or `None` where that does not make it clearly smaller.
pub fn encode(content: &[u8], encoding: Encoding) -> Option<Bytes> {
    let most = content.len() - content.len() / WORTH;
    let room = match encoding {
        Encoding::Plain => return None,
        // It fails when the result has no room, which is what is wanted.
        Encoding::Zstd => most,
        // It does not begin without room for the worst.
        Encoding::Lz4 => lz4_flex::block::get_maximum_output_size(content.len()),
    };
    let mut out = vec![0; room];
    let length = match encoding {
        Encoding::Plain => None,
        Encoding::Zstd => PACK.with_borrow_mut(|pack| {
            if pack.is_none() {
                *pack = zstd::bulk::Compressor::new(ZSTD_LEVEL).ok();
            }
            pack.as_mut()?.compress_to_buffer(content, &mut out[..]).ok()
        }),
        Encoding::Lz4 => lz4_flex::block::compress_into(content, &mut out).ok(),
    }?;
    if length > most {
        return None;
    }
    out.truncate(length);
    Some(out.into())
}

/// The blocks that a payload was made of: `length` bytes. `room` is what they are decoded into, and is used again.
///
/// # Errors
/// When the payload is no such encoding, or of another length: in words.
pub fn decode<'a>(
    payload: &'a [u8],
    encoding: Encoding,
    length: usize,
    room: &'a mut Vec<u8>,
) -> Result<&'a [u8], String> {
    if encoding == Encoding::Plain {
        return Ok(payload);
    }
    room.resize(length, 0);
    let found = match encoding {
        Encoding::Plain => unreachable!("it was answered above"),
        Encoding::Zstd => UNPACK.with_borrow_mut(|unpack| {
            if unpack.is_none() {
                *unpack = Some(zstd::bulk::Decompressor::new().map_err(|e| e.to_string())?);
            }
            let unpack = unpack.as_mut().ok_or("no decoder")?;
            unpack.decompress_to_buffer(payload, &mut room[..]).map_err(|e| e.to_string())
        })?,
        Encoding::Lz4 => lz4_flex::block::decompress_into(payload, room).map_err(|e| e.to_string())?,
    };
    if found == length { Ok(room) } else { Err(format!("{found} bytes came out of it, not {length}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(length: usize) -> Vec<u8> {
        (0..length).map(|n| (n / 7 % 11) as u8).collect()
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let next = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        (0..length).map(next).collect()
    }

    #[test]
    fn what_was_encoded_is_decoded_and_what_does_not_shrink_is_left_alone() {
        let mut room = Vec::new();
        for encoding in [Encoding::Zstd, Encoding::Lz4] {
            for length in [65_536, 1 << 20] {
                let content = text(length);
                let payload = encode(&content, encoding).unwrap();
                assert!(payload.len() < length / 2);
                assert_eq!(decode(&payload, encoding, length, &mut room).unwrap(), content);
                assert_eq!(encode(&noise(length), encoding), None);
            }
        }
        assert_eq!(encode(&text(65_536), Encoding::Plain), None);
    }

    /// Invariant 14: a payload of a peer cannot make more of itself than it was announced with, nor less.
    #[test]
    fn a_payload_that_lies_about_its_length_or_is_broken_is_refused() {
        let mut room = Vec::new();
        for encoding in [Encoding::Zstd, Encoding::Lz4] {
            let payload = encode(&text(1 << 20), encoding).unwrap();
            for length in [65_536, (1 << 20) - 65_536, (1 << 20) + 65_536] {
                assert!(decode(&payload, encoding, length, &mut room).is_err(), "{encoding:?} {length}");
            }
            assert!(decode(&payload[..payload.len() / 2], encoding, 1 << 20, &mut room).is_err());
            assert!(decode(&noise(1000), encoding, 65_536, &mut room).is_err());
        }
    }
}
