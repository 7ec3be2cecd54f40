//! The reader task's work: takes one reply after another off the connection and puts it where it belongs.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::{
    client::Shared,
    error::Error,
    pending::{Answer, ContextStatus, Pending, StatusExtent},
    wire::*,
};

/// Reads replies until the connection ends, and returns why it did.
pub(crate) async fn read_replies<R: AsyncRead + Unpin>(mut stream: R, shared: Arc<Shared>) -> Error {
    loop {
        if let Err(error) = next(&mut stream, &shared).await {
            return error;
        }
    }
}

async fn next<R: AsyncRead + Unpin>(stream: &mut R, shared: &Shared) -> Result<(), Error> {
    match u32(stream).await? {
        MAGIC_SIMPLE_REPLY => simple(stream, shared).await,
        MAGIC_STRUCTURED_REPLY => structured(stream, shared).await,
        other => Err(Error::protocol(format!("a reply begins with {other:#010x}"))),
    }
}

/// After structured replies were agreed on, a simple reply can only be an error: it has no room for what we ask for.
async fn simple<R: AsyncRead + Unpin>(stream: &mut R, shared: &Shared) -> Result<(), Error> {
    let errno = u32(stream).await?;
    let cookie = u64(stream).await?;
    let pending = take(shared, cookie)?;
    if errno == 0 {
        let error = Error::protocol("a simple reply answers a request that needs a structured one");
        pending.fail(error.clone());
        return Err(error);
    }
    let what = pending.what();
    pending.fail(Error::Request { what, errno, text: String::new() });
    Ok(())
}

async fn structured<R: AsyncRead + Unpin>(stream: &mut R, shared: &Shared) -> Result<(), Error> {
    let flags = u16(stream).await?;
    let kind = u16(stream).await?;
    let cookie = u64(stream).await?;
    let size = u32(stream).await?;
    let mut pending = take(shared, cookie)?;
    if let Err(error) = chunk(stream, &mut pending, kind, size).await {
        pending.fail(error.clone());
        return Err(error);
    }
    if flags & CHUNK_FLAG_DONE != 0 {
        return pending.finish();
    }
    if kind == CHUNK_NONE {
        let error = Error::protocol("an empty chunk that is not the last one");
        pending.fail(error.clone());
        return Err(error);
    }
    shared.put_back(cookie, pending)
}

fn take(shared: &Shared, cookie: u64) -> Result<Pending, Error> {
    shared
        .take(cookie)
        .ok_or_else(|| Error::protocol(format!("a reply to a request {cookie} that was not made")))
}

async fn chunk<R: AsyncRead + Unpin>(
    stream: &mut R,
    pending: &mut Pending,
    kind: u16,
    size: u32,
) -> Result<(), Error> {
    match kind {
        CHUNK_NONE if size == 0 => Ok(()),
        CHUNK_OFFSET_DATA => data(stream, pending, size).await,
        CHUNK_OFFSET_HOLE => hole(stream, pending, size).await,
        CHUNK_BLOCK_STATUS => status(stream, pending, size).await,
        kind if kind & CHUNK_ERROR_BIT != 0 => error(stream, pending, size).await,
        kind => Err(Error::protocol(format!("a chunk of type {kind} and {size} bytes"))),
    }
}

async fn data<R: AsyncRead + Unpin>(stream: &mut R, pending: &mut Pending, size: u32) -> Result<(), Error> {
    let size = size.checked_sub(8).ok_or_else(|| Error::protocol("a data chunk without an offset"))?;
    let offset = u64(stream).await?;
    let start = pending.place(offset, size)?;
    let Answer::Read { buffer, covered, .. } = &mut pending.answer else {
        return Err(Error::protocol("data in answer to a block status request"));
    };
    let end = start + size as usize;
    covered.add(start, size as usize)?;
    stream.read_exact(&mut buffer[start..end]).await.map_err(|e| Error::closed(&e))?;
    Ok(())
}

/// The buffer was made of zeros, so a hole only has to be counted.
async fn hole<R: AsyncRead + Unpin>(stream: &mut R, pending: &mut Pending, size: u32) -> Result<(), Error> {
    if size != 12 {
        return Err(Error::protocol(format!("a hole chunk of {size} bytes")));
    }
    let offset = u64(stream).await?;
    let length = u32(stream).await?;
    let start = pending.place(offset, length)?;
    let Answer::Read { covered, .. } = &mut pending.answer else {
        return Err(Error::protocol("a hole in answer to a block status request"));
    };
    covered.add(start, length as usize)
}

async fn status<R: AsyncRead + Unpin>(stream: &mut R, pending: &mut Pending, size: u32) -> Result<(), Error> {
    let descriptors = size.checked_sub(4).filter(|rest| rest % 8 == 0 && *rest > 0).map(|rest| rest / 8);
    let descriptors = descriptors.filter(|count| *count <= MAX_DESCRIPTORS);
    let descriptors =
        descriptors.ok_or_else(|| Error::protocol(format!("a block status chunk of {size} bytes")))?;
    let context = u32(stream).await?;
    let asked = pending.length;
    let Answer::Status { contexts, .. } = &mut pending.answer else {
        return Err(Error::protocol("a block status in answer to a read"));
    };
    let mut left = asked;
    let mut extents = Vec::new();
    for _ in 0..descriptors {
        let length = u32(stream).await?;
        let flags = u32(stream).await?;
        if length == 0 {
            return Err(Error::protocol("a block status descriptor of no length"));
        }
        // The last descriptor may reach beyond the range; what lies there was not asked for.
        let length = length.min(left);
        left -= length;
        if length > 0 {
            extents.push(StatusExtent { length, flags });
        }
    }
    if contexts.iter().any(|known| known.context == context as usize) {
        return Err(Error::protocol("a meta context was answered twice"));
    }
    contexts.push(ContextStatus { context: context as usize, extents });
    Ok(())
}

async fn error<R: AsyncRead + Unpin>(stream: &mut R, pending: &mut Pending, size: u32) -> Result<(), Error> {
    if !(6..=MAX_ERROR_CHUNK).contains(&size) {
        return Err(Error::protocol(format!("an error chunk of {size} bytes")));
    }
    let mut body = vec![0; size as usize];
    stream.read_exact(&mut body).await.map_err(|e| Error::closed(&e))?;
    let errno = u32::from_be_bytes([body[0], body[1], body[2], body[3]]);
    let text_length = usize::from(u16::from_be_bytes([body[4], body[5]]));
    let text =
        body.get(6..6 + text_length).ok_or_else(|| Error::protocol("an error text longer than its chunk"))?;
    let text: String = String::from_utf8_lossy(text).chars().take(200).collect();
    let text = if text.is_empty() { text } else { format!(" ({text})") };
    let what = pending.what();
    pending.error.get_or_insert(Error::Request { what, errno, text });
    Ok(())
}

async fn u16<R: AsyncRead + Unpin>(stream: &mut R) -> Result<u16, Error> {
    stream.read_u16().await.map_err(|e| Error::closed(&e))
}

async fn u32<R: AsyncRead + Unpin>(stream: &mut R) -> Result<u32, Error> {
    stream.read_u32().await.map_err(|e| Error::closed(&e))
}

async fn u64<R: AsyncRead + Unpin>(stream: &mut R) -> Result<u64, Error> {
    stream.read_u64().await.map_err(|e| Error::closed(&e))
}
