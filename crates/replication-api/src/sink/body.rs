//! The body of a push stream, made by hand so that a payload goes from where it was read to the connection without being copied.
//!
//! ```text
//!   Part::Data ─▶ frame 1: gRPC prefix · Data{disk, offset, digests, …} · tag and length of the payload
//!                 frame 2: the payload itself
//!   others     ─▶ one frame, encoded by prost
//! ```
//!
//! Fields of a message may come in any order, so a reader sees nothing but an ordinary `PushPointRequest`. The generated
//! client makes head, path and answers of the call; [`WithBody`] only puts this body in the place of the one that it made.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{Stream, StreamExt as _, stream::BoxStream};
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint},
};
use tonic::body::Body;
use tower::Service;

use super::{Begin, Part, Payload, wire};
use crate::v1;

/// Not compressed, and the length of the message.
const PREFIX: usize = 5;
/// Field of the payload in `Data`.
const PAYLOAD: u32 = 3;
/// Field of `Data` in `PushPointRequest`.
const DATA: u32 = 2;

/// The frames of one point: head, then parts as they come.
struct PushBody {
    begin: Option<Begin>,
    parts: BoxStream<'static, Part>,
    /// What follows the frame that has gone, last one first.
    payload: Vec<Bytes>,
}

impl http_body::Body for PushBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        let next = if let Some(payload) = self.payload.pop() {
            Some(payload)
        } else if let Some(begin) = self.begin.take() {
            Some(whole(&wire::begin_to_wire(begin)))
        } else {
            let Poll::Ready(part) = self.parts.poll_next_unpin(cx) else { return Poll::Pending };
            part.map(|part| {
                let (head, payload) = frames(part);
                self.payload = payload.into_slices();
                self.payload.reverse();
                head
            })
        };
        Poll::Ready(next.map(|bytes| Ok(http_body::Frame::data(bytes))))
    }
}

/// A whole message behind its prefix.
fn whole(message: &v1::PushPointRequest) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX + length);
    put_prefix(&mut out, length);
    message.encode_raw(&mut out);
    out.freeze()
}

fn put_prefix(out: &mut BytesMut, length: usize) {
    out.put_u8(0);
    // No part is near 4 GiB.
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
}

/// What goes before the payload, and the payload.
fn frames(part: Part) -> (Bytes, Payload) {
    let Part::Data { disk, offset, payload, digests, encoding } = part else {
        return (whole(&wire::part_to_wire(part)), Payload::default());
    };
    let data = wire::data_head(disk, offset, digests, encoding);
    let data_length = data.encoded_len() + 1 + encoded_len_varint(payload.len() as u64) + payload.len();
    let length = 1 + encoded_len_varint(data_length as u64) + data_length;
    let mut out = BytesMut::with_capacity(PREFIX + length - payload.len());
    put_prefix(&mut out, length);
    encode_key(DATA, WireType::LengthDelimited, &mut out);
    encode_varint(data_length as u64, &mut out);
    data.encode_raw(&mut out);
    encode_key(PAYLOAD, WireType::LengthDelimited, &mut out);
    encode_varint(payload.len() as u64, &mut out);
    (out.freeze(), payload)
}

/// A connection on which the next call gets a body of our own.
pub(crate) struct WithBody<C> {
    connection: C,
    body: Option<Body>,
}

impl<C> WithBody<C> {
    pub fn new(connection: C, begin: Begin, parts: impl Stream<Item = Part> + Send + 'static) -> Self {
        let body = PushBody { begin: Some(begin), parts: parts.boxed(), payload: Vec::new() };
        Self { connection, body: Some(Body::new(body)) }
    }
}

impl<C: Service<http::Request<Body>>> Service<http::Request<Body>> for WithBody<C> {
    type Response = C::Response;
    type Error = C::Error;
    type Future = C::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), C::Error>> {
        self.connection.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> C::Future {
        let body = self.body.take();
        self.connection.call(request.map(|made| body.unwrap_or(made)))
    }
}

#[cfg(test)]
mod tests {
    use understudy_replication::Encoding;

    use super::*;

    /// What prost reads is what was put in, whatever the lengths of lengths.
    #[test]
    fn a_part_in_two_frames_is_the_message_that_prost_would_have_made() {
        for length in [0usize, 1, 100, 127, 128, 65_536, 1 << 20] {
            for offset in [0u64, 65_536, u64::MAX] {
                let part = Part::Data {
                    disk: 3,
                    offset,
                    payload: Bytes::from(vec![7; length]).into(),
                    digests: vec![9; 64].into(),
                    encoding: Encoding::Lz4,
                };
                let (head, payload) = frames(part.clone());
                let all = [head.to_vec(), payload.into_slices().concat()].concat();
                assert_eq!(all[0], 0);
                let told = u32::from_be_bytes([all[1], all[2], all[3], all[4]]);
                assert_eq!(told as usize, all.len() - PREFIX);
                let message = v1::PushPointRequest::decode(&all[PREFIX..]).unwrap();
                assert_eq!(message, wire::part_to_wire(part));
            }
        }
        let (head, payload) = frames(Part::Finish { sent_bytes: 300 });
        assert!(payload.is_empty());
        let message = v1::PushPointRequest::decode(&head[PREFIX..]).unwrap();
        assert_eq!(message, wire::part_to_wire(Part::Finish { sent_bytes: 300 }));
    }
}
