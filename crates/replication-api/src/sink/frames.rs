//! The messages of a push stream as the connection brought them: a payload is not copied on its way to whoever writes it.
//!
//! ```text
//!   HTTP/2 frames ─▶ Messages ─▶ head of a message: decoded     payload: slices of the very frames
//!                    bounded by BULK_MESSAGE_BYTES
//! ```
//!
//! The generated server reads a request's body into a buffer of its own and makes messages of that. [`RawBody`] takes the body
//! out of the request before it gets there; the rest of the call – path, deadline, answers, status – stays the generated
//! server's.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http_body_util::BodyExt as _;
use prost::{
    Message as _,
    encoding::{WireType, decode_key, decode_varint},
};
use tonic::{Request, body::Body, server::NamedService};
use tower::Service;
use understudy_rpc::{ApiError, BULK_MESSAGE_BYTES};

use super::{Begin, Part, Payload, wire};
use crate::{field::Invalid, method, v1};

/// Not compressed, and the length of the message.
const PREFIX: usize = 5;
/// What a `PushPointRequest` begins with that is a `Data`: field 2, with a length.
const DATA_KEY: u8 = 2 << 3 | 2;
/// Field of the payload in `Data`.
const PAYLOAD: u32 = 3;

/// The body of a call, out of reach of the generated server.
#[derive(Clone)]
pub(crate) struct RawBody(Arc<Mutex<Option<Body>>>);

impl RawBody {
    /// The messages of a call that came through [`RawBodies`].
    pub fn messages<T>(request: &mut Request<T>) -> Option<Messages> {
        let raw = request.extensions_mut().remove::<Self>()?;
        let body = raw.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(Messages { body, received: Rope::default() })
    }
}

/// A service of ours whose push streams keep their bodies.
#[derive(Clone)]
pub struct RawBodies<S>(pub(crate) S);

impl<S: NamedService> NamedService for RawBodies<S> {
    const NAME: &'static str = S::NAME;
}

impl<S: Service<http::Request<Body>, Error = Infallible>> Service<http::Request<Body>> for RawBodies<S> {
    type Response = S::Response;
    type Error = Infallible;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> S::Future {
        if request.uri().path() != method::PUSH_POINT {
            return self.0.call(request);
        }
        let (mut parts, body) = request.into_parts();
        parts.extensions.insert(RawBody(Arc::new(Mutex::new(Some(body)))));
        self.0.call(http::Request::from_parts(parts, Body::empty()))
    }
}

/// Messages one after another.
pub(crate) struct Messages {
    body: Body,
    received: Rope,
}

impl Messages {
    /// The first message of a stream.
    pub async fn begin(&mut self) -> Result<Begin, ApiError> {
        let mut first = self.next().await?.ok_or_else(|| Invalid::new("begin", "is missing"))?;
        let message = v1::PushPointRequest::decode(&mut first).map_err(broken)?;
        Ok(wire::begin(message)?)
    }

    /// The part that follows; `None` at the stream's end.
    pub async fn part(&mut self) -> Result<Option<Part>, ApiError> {
        Ok(self.next().await?.map(part).transpose()?)
    }

    async fn next(&mut self) -> Result<Option<Rope>, ApiError> {
        if !self.fill(PREFIX).await? {
            return Ok(None);
        }
        let compressed = self.received.get_u8();
        let length = self.received.get_u32() as usize;
        if compressed != 0 || length > BULK_MESSAGE_BYTES {
            let why = format!(
                "of {length} bytes begins with {compressed}: at most {BULK_MESSAGE_BYTES}, not compressed"
            );
            return Err(Invalid::new("message", why).into());
        }
        if !self.fill(length).await? {
            return Err(cut());
        }
        Ok(Some(self.received.split_to(length)))
    }

    /// Waits until so many bytes are there. False when the body has ended before the first of them.
    async fn fill(&mut self, wanted: usize) -> Result<bool, ApiError> {
        while self.received.remaining() < wanted {
            match self.body.frame().await.transpose().map_err(ApiError::from)? {
                // Trailers of a request say nothing to us.
                Some(frame) => self.received.push(frame.into_data().unwrap_or_default()),
                None if self.received.remaining() == 0 => return Ok(false),
                None => return Err(cut()),
            }
        }
        Ok(true)
    }
}

fn cut() -> ApiError {
    ApiError::aborted("NOT_FINISHED", "the stream ended in the middle of a message", "send the rest")
}

fn broken(error: prost::DecodeError) -> Invalid {
    Invalid::new("part", format!("cannot be decoded: {error}"))
}

/// A message of data is read field by field, every other one by prost.
fn part(message: Rope) -> Result<Part, Invalid> {
    if message.chunk().first() != Some(&DATA_KEY) {
        return wire::part(v1::PushPointRequest::decode(message).map_err(broken)?);
    }
    let (head, payload) = data(message)?;
    let head = v1::PushPointRequest { part: Some(v1::push_point_request::Part::Data(head)) };
    match wire::part(head)? {
        Part::Data { disk, offset, digests, encoding, .. } => {
            Ok(Part::Data { disk, offset, payload, digests, encoding })
        }
        other => Ok(other),
    }
}

/// A message that is one `Data` and nothing else, its payload apart.
fn data(mut message: Rope) -> Result<(v1::Data, Payload), Invalid> {
    let other_length = || Invalid::new("part", "is not as long as it says");
    message.advance(1);
    if decode_varint(&mut message).map_err(broken)? != message.remaining() as u64 {
        return Err(other_length());
    }
    let (mut head, mut payload) = (Vec::new(), Payload::default());
    while message.has_remaining() {
        let (field, kind) = decode_key(&mut message).map_err(broken)?;
        if (field, kind) == (PAYLOAD, WireType::LengthDelimited) {
            let length = usize::try_from(decode_varint(&mut message).map_err(broken)?);
            let length = length.ok().filter(|l| *l <= message.remaining()).ok_or_else(other_length)?;
            payload = Payload::of(message.split_to(length).slices.into());
        } else {
            take_field(&mut message, field, kind, &mut head).map_err(broken)?;
        }
    }
    Ok((v1::Data::decode(&head[..]).map_err(broken)?, payload))
}

/// Copies one field as it stands, for prost to read. Lengths are checked there.
fn take_field(
    from: &mut Rope,
    field: u32,
    kind: WireType,
    to: &mut Vec<u8>,
) -> Result<(), prost::DecodeError> {
    prost::encoding::encode_key(field, kind, to);
    match kind {
        WireType::Varint => prost::encoding::encode_varint(decode_varint(from)?, to),
        WireType::LengthDelimited => {
            let length = decode_varint(from)?;
            prost::encoding::encode_varint(length, to);
            let length = usize::try_from(length).unwrap_or(usize::MAX).min(from.remaining());
            to.extend_from_slice(&from.copy_to_bytes(length));
        }
        WireType::ThirtyTwoBit | WireType::SixtyFourBit => {
            let length = if kind == WireType::ThirtyTwoBit { 4 } else { 8 };
            to.extend_from_slice(&from.copy_to_bytes(length.min(from.remaining())));
        }
        // Groups are not ours; what follows is left for prost to refuse.
        WireType::StartGroup | WireType::EndGroup => {}
    }
    Ok(())
}

/// Bytes in slices that are not copied.
#[derive(Debug, Default)]
struct Rope {
    slices: VecDeque<Bytes>,
    length: usize,
}

impl Rope {
    fn push(&mut self, slice: Bytes) {
        if !slice.is_empty() {
            self.length += slice.len();
            self.slices.push_back(slice);
        }
    }

    /// The first `length` bytes; there are so many.
    fn split_to(&mut self, length: usize) -> Self {
        let mut first = Self::default();
        while first.length < length {
            let Some(mut slice) = self.slices.pop_front() else { break };
            let wanted = (length - first.length).min(slice.len());
            first.push(slice.split_to(wanted));
            if !slice.is_empty() {
                self.slices.push_front(slice);
            }
        }
        self.length -= first.length;
        first
    }
}

impl Buf for Rope {
    fn remaining(&self) -> usize {
        self.length
    }

    fn chunk(&self) -> &[u8] {
        self.slices.front().map_or(&[], |slice| slice)
    }

    fn advance(&mut self, count: usize) {
        assert!(count <= self.length, "{count} bytes of {}", self.length);
        drop(self.split_to(count));
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use understudy_replication::Encoding;

    use super::*;

    fn encoded(part: &Part) -> Vec<u8> {
        let message = wire::part_to_wire(part.clone()).encode_to_vec();
        let mut out = vec![0];
        out.extend_from_slice(&(message.len() as u32).to_be_bytes());
        out.extend_from_slice(&message);
        out
    }

    fn messages(bytes: &[u8], step: usize) -> Messages {
        let chunks: Vec<_> = bytes
            .chunks(step)
            .map(|c| Ok::<_, tonic::Status>(http_body::Frame::data(Bytes::copy_from_slice(c))))
            .collect();
        let body = http_body_util::StreamBody::new(futures::stream::iter(chunks).boxed());
        Messages { body: Body::new(body), received: Rope::default() }
    }

    fn parts() -> Vec<Part> {
        let data = |length: usize| Part::Data {
            disk: 2,
            offset: 65_536,
            payload: Bytes::from(vec![7; length]).into(),
            digests: vec![9; 64].into(),
            encoding: Encoding::Zstd,
        };
        vec![
            data(1),
            Part::Zero { disk: 0, offset: 0, length: 65_536 },
            data(300),
            data(0),
            Part::Finish { sent_bytes: 301 },
        ]
    }

    fn plain(part: Part) -> Part {
        match part {
            Part::Data { disk, offset, payload, digests, encoding } => {
                let mut room = Vec::new();
                let payload = Bytes::copy_from_slice(payload.together(&mut room)).into();
                Part::Data { disk, offset, payload, digests, encoding }
            }
            other => other,
        }
    }

    #[tokio::test]
    async fn parts_come_out_as_they_went_in_however_the_connection_cuts_them() {
        let bytes: Vec<u8> = parts().iter().flat_map(encoded).collect();
        for step in [1, 2, 3, 7, 64, 300, 10_000] {
            let mut messages = messages(&bytes, step);
            let mut found = Vec::new();
            while let Some(part) = messages.part().await.unwrap() {
                found.push(plain(part));
            }
            assert_eq!(found, parts(), "in steps of {step}");
        }
    }

    /// Invariant 14: whatever a peer sends, it is an error and nothing else.
    #[tokio::test]
    async fn broken_streams_are_refused() {
        let bytes = encoded(&parts()[2]);
        for end in 1..bytes.len() {
            assert!(messages(&bytes[..end], 64).part().await.is_err(), "cut at {end}");
        }
        for at in 0..bytes.len().min(40) {
            for flip in [1, 0x80, 0xff] {
                let mut broken = bytes.clone();
                broken[at] ^= flip;
                // It may still be a part, but nothing panics and nothing is read beyond the message.
                let _ = messages(&broken, 13).part().await;
            }
        }
        let huge = [0, 0xff, 0xff, 0xff, 0xff];
        assert!(messages(&huge, 5).part().await.is_err());
        assert!(messages(&[], 5).part().await.unwrap().is_none());
    }
}
